"""At which sizes a cause shows: one rule for several sweeps, and none that a failure contradicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mhc_ref import PAPER, Params
from properties.causes import Causes
from properties.causes.places import Places, size_of
from properties.core.case import BranchSpec, Case
from properties.core.deviant import Deviant
from properties.core.judging import Judge
from properties.core.law import all_laws
from properties.core.rounding import Approx
from properties.core.size import Size
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject
from properties.plugin.gathering import Gathering
from properties.report.cause import Cause, entries, joined, wrong
from properties.report.summary import paragraph
from properties.strategies.covering import covering

FORWARDS, BACKWARDS = ("sizes.blocks-pass", "Mine float32"), ("sizes.blocks-pull-back", "Mine float32")
TOKENS = tuple(Size(tokens, 8, 4) for tokens in covering(1100, 3))
CAUSE = Cause("Mine: h-res-transposed", "Mine", "h_res is applied transposed", stage="post")


def swept(
    places: Places, of: tuple[str, str], truth: Callable[[Size], bool], also: tuple[Size, ...] = ()
) -> list[Size]:
    """Sweep over tokens for a truth; the calls that were asked for beside."""
    asked: list[Size] = []

    def fails(size: Size) -> bool:
        asked.append(size)
        return truth(size)

    places.swept(of, {size: truth(size) for size in (*TOKENS, *also)}, fails)
    return asked


def between(size: Size) -> bool:
    return 36 <= size.tokens <= 64


def test_two_sweeps_of_one_cause_have_one_rule_and_the_second_asks_nothing() -> None:
    places = Places()
    assert swept(places, FORWARDS, between)
    assert places.where(CAUSE.key) is None, "whose failures they are is not known yet"
    places.belongs(FORWARDS, [CAUSE.key])
    assert places.where(CAUSE.key) == "36 <= T <= 64"
    assert not swept(places, BACKWARDS, between)
    places.belongs(BACKWARDS, [CAUSE.key])
    assert places.where(CAUSE.key) == "36 <= T <= 64"


def test_a_failure_outside_a_rule_takes_it_back() -> None:
    places = Places()
    swept(places, FORWARDS, between)
    places.belongs(FORWARDS, [CAUSE.key])
    places.failed(CAUSE.key, Case(x=torch.zeros(40, 4, 8)))
    assert places.where(CAUSE.key) == "36 <= T <= 64"
    places.failed(CAUSE.key, Case(x=torch.zeros(5, 4, 8)))
    assert places.where(CAUSE.key) == ""


def test_what_fails_at_every_size_of_a_sweep_has_no_rule() -> None:
    places = Places()
    swept(places, FORWARDS, between)
    swept(places, BACKWARDS, lambda _: True)
    for of in (FORWARDS, BACKWARDS):
        places.belongs(of, [CAUSE.key])
    assert places.where(CAUSE.key) == ""


def test_of_two_rules_the_one_of_who_has_seen_more_is_told() -> None:
    """Where every token is wide, their number seems to be all that matters."""
    places = Places()
    wrong_for = lambda size: size.tokens <= 16 and size.inner >= 256  # noqa: E731
    places.swept(FORWARDS, {Size(one.tokens, 64, 4): one.tokens <= 16 for one in TOKENS}, lambda size: None)
    places.belongs(FORWARDS, [CAUSE.key])
    assert places.where(CAUSE.key) == "T <= 16"
    channels = [Size(tokens, one, 4) for tokens in (2, 40) for one in covering(260, 3)]
    swept(places, BACKWARDS, wrong_for, tuple(channels))
    places.belongs(BACKWARDS, [CAUSE.key])
    assert places.where(CAUSE.key) == "T <= 16 and C >= 64 (tried to C = 260)"


def test_a_sweep_in_which_two_causes_show_says_nothing_of_either() -> None:
    places = Places()
    swept(places, FORWARDS, between)
    places.belongs(FORWARDS, [CAUSE.key])
    places.belongs(FORWARDS, ["Mine: another"])
    assert places.where(CAUSE.key) == ""


def test_the_size_of_a_case_is_that_of_its_state() -> None:
    params = Params(torch.zeros(32, 24), torch.zeros(24), torch.ones(3))
    assert size_of(Case(x=torch.zeros(2, 3, 4, 8), params=params)) == Size(6, 8, 4)
    assert size_of(Case(x=torch.zeros(4, 8), branches=(BranchSpec("zero"),) * 3)) == Size(1, 8, 4, 3)
    assert size_of(Case(logits=torch.zeros(3, 4, 4))) is None


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("36 <= T <= 64", "wrong for 36 <= T <= 64"),
        ("C % 8 == 0", "wrong where C % 8 == 0"),
        ("for strided states", "wrong for strided states"),
        ("with gradients", "wrong with gradients"),
    ],
)
def test_a_rule_stands_in_the_paragraph_of_its_cause_and_in_the_report(where: str, said: str) -> None:
    known = joined(CAUSE, joined(None, Cause(CAUSE.key, "Mine", "met later", where=where)))
    assert known.summary == CAUSE.summary
    assert f"    {said}, acts first in post" in paragraph(known, "c1", [])
    assert entries([known], [])[0]["where"] == where
    assert entries([joined(known, Cause(CAUSE.key, "Mine", "", where=""))], [])[0]["where"] is None
    assert wrong(where) == said


def test_a_cause_that_was_met_without_its_sizes_has_them_in_the_end(tmp_path: Path) -> None:
    gathering, told = Gathering(tmp_path), list[Cause]()
    gathering.announce = told.append
    for where in (None, "T >= 257", None):
        gathering.cause(Cause(CAUSE.key, "Mine", CAUSE.summary, where=where))
    assert [one.where for one in gathering.causes.values()] == ["T >= 257"]
    assert len(told) == 1


def test_a_bound_as_large_as_what_it_bounds_says_little_of_what_passes() -> None:
    judge, exact = Judge(), torch.ones(3, dtype=torch.float64)
    for bound in (1e-6, 0.5):
        judge.clearly_within(exact, Approx(exact, bound * exact))
        judge.within("it", exact, exact, bound * exact)
    assert (judge.claims, judge.loose) == (12, 6)


class Between(Deviant):
    """Another launch for 36 to 64 tokens."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res.mT if 36 <= x[..., 0, 0].numel() <= 64 else h_res)


@pytest.mark.slow
def test_a_fault_of_one_launch_is_one_cause_with_its_rule_and_its_name(tmp_path: Path) -> None:
    subject, causes = Subject("x", Between(PAPER), torch.float32, torch.device("cpu")), Causes(seconds=1.0)
    profile = Profile(examples=4, derandomise=True, sizes=2, seconds=4.0)
    law = all_laws()["sizes.streams-are-mixed"]
    verdict = examine(law, subject, profile, directory=tmp_path, attribution=causes)
    (cause,) = verdict.causes
    assert cause.where == "36 <= T <= 64 and n >= 2"  # a transpose of one stream is no other matrix
    assert "transposed" in str((cause.explanation or {})["deviation"])
    assert size_of(verdict.case or Case()) == Size(36, 1, 2)
