"""Whether torch records gradients: calls that are held to the truth take turns, and a failure says which it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, Mappings, Params
from properties.catalogue import deviations
from properties.core.case import Case
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.trial import LawBroken, Trial
from properties.core.ways import PLAIN, QUIET, RECORDED, SERVING, WAYS, way_of
from properties.engine.counterexample import Counterexample
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject, Verdict
from properties.engine.trying import only_so, try_case, try_stored
from properties.targets.isolation import isolated

ORACLE = "manifold.agrees-with-oracle"

SEEN_BY_WAYS = {"max-not-subtracted-without-gradients": ORACLE}
"""Hidden deviation of one mode of autograd -> a law that sees it."""


def mode_now() -> str:
    return SERVING if torch.is_inference_mode_enabled() else PLAIN if torch.is_grad_enabled() else QUIET


class Noting(Reference):
    """Notes how it is called."""

    def __init__(self) -> None:
        super().__init__(PAPER)
        self.seen: list[str] = []

    def project(self, logits: Tensor) -> Tensor:
        self.seen.append(RECORDED if logits.requires_grad else mode_now())
        return super().project(logits)


class QuietOverflow(Reference):
    """Under no_grad a logit above 88 is no number."""

    def project(self, logits: Tensor) -> Tensor:
        found = super().project(logits)
        return found if mode_now() != QUIET else torch.where((logits > 88).any(), torch.nan, found)


class RecordedOverflow(Reference):
    """Of logits that ask for gradients those above 60 are taken for 60."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits.clamp_max(60) if logits.requires_grad else logits)


class ServedGates(Reference):
    """In inference mode a sigmoid is e^z / (1 + e^z), which is no number above 88."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        h = super().mappings(x, params)
        opened = params.bias[: x.shape[-2]] > 88
        return h if mode_now() != SERVING else h._replace(pre=torch.where(opened, torch.nan, h.pre))


def verdict(implementation: Implementation, law: str, folder: Path, examples: int = 60) -> Verdict:
    subject = Subject("ref:PAPER", implementation, torch.float32, torch.device("cpu"))
    profile = Profile(examples, derandomise=True)
    return examine(all_laws()[law], subject, profile, directory=folder)


def test_a_way_hangs_on_the_argument_alone_and_every_way_comes() -> None:
    given = [torch.full((2, 2), float(k)) for k in range(60)]
    ways = [way_of(one, True) for one in given]
    assert ways == [way_of(one.clone(), True) for one in given]
    assert set(ways) == set(WAYS)
    assert [way_of(one.bfloat16(), True) for one in given[:40]] == ways[:40]  # their values are the same


def test_nothing_is_recorded_where_that_is_not_promised() -> None:
    given = [torch.full((2, 2), float(k)) for k in range(60)]
    assert {way_of(one, False) for one in given} == {PLAIN, QUIET, SERVING}


def test_who_has_chosen_a_mode_already_keeps_it() -> None:
    given = [torch.full((2, 2), float(k)) for k in range(60)]
    assert {way_of(one.requires_grad_(), True) for one in given} == {PLAIN}
    with torch.no_grad():
        assert {way_of(one.detach(), True) for one in given} == {PLAIN}
    assert way_of(torch.empty(0, 2, 2), True) == way_of(3, True) == PLAIN


@pytest.mark.slow
def test_calls_of_an_oracle_law_take_turns_and_those_of_other_laws_do_not(tmp_path: Path) -> None:
    noting = Noting()
    assert verdict(noting, ORACLE, tmp_path).status == "passed"
    assert set(noting.seen) == set(WAYS)
    noting.seen.clear()
    identity = next(
        law.id
        for law in all_laws().values()
        if law.kind == "identity" and law.needs == ("project",) and not law.declared
    )
    assert verdict(noting, identity, tmp_path).status == "passed"
    assert set(noting.seen) == {PLAIN}


@pytest.mark.slow
def test_what_is_forward_only_is_never_recorded(tmp_path: Path) -> None:
    noting = Noting()
    noting.differentiable = False
    assert verdict(noting, ORACLE, tmp_path).status == "passed"
    assert set(noting.seen) == {PLAIN, QUIET, SERVING}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "law", "way"),
    [
        (QuietOverflow, ORACLE, QUIET),
        (RecordedOverflow, ORACLE, RECORDED),
        (ServedGates, "coefficients.gates-stay-in-their-range", SERVING),
    ],
)
def test_a_kernel_of_one_mode_that_is_wrong_at_large_logits_is_seen_and_the_mode_is_said(
    wrong: type[Reference], law: str, way: str, tmp_path: Path
) -> None:
    found = verdict(wrong(PAPER), law, tmp_path, examples=200)
    assert found.status == "failed"
    assert f"it fails only {way}" in found.message


@pytest.mark.slow
def test_a_failure_of_one_mode_is_met_again_when_its_file_is_tried(tmp_path: Path) -> None:
    found = verdict(QuietOverflow(PAPER), ORACLE, tmp_path, examples=200)
    assert found.counterexample is not None
    stored = Counterexample.load(found.counterexample)
    subject = Subject("ref:PAPER", QuietOverflow(PAPER), torch.float32, torch.device("cpu"))
    for _ in range(2):
        with pytest.raises(LawBroken):
            try_stored(all_laws()[ORACLE], subject, stored.case)


@pytest.mark.slow
def test_what_is_wrong_in_every_mode_is_not_said_to_hang_on_one(tmp_path: Path) -> None:
    class Transposed(Reference):
        """Always wrong."""

        def project(self, logits: Tensor) -> Tensor:
            return super().project(logits).mT

    found = verdict(Transposed(DEEPSEEK_V4), ORACLE, tmp_path)
    assert found.status == "failed"
    assert "it fails only" not in found.message


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_BY_WAYS)
def test_a_deviation_of_one_mode_is_seen_by_its_law(name: str, tmp_path: Path) -> None:
    found = verdict(deviations.build(name, PAPER), SEEN_BY_WAYS[name], tmp_path, examples=200)
    assert found.status == "failed"
    assert any(f"it fails only {way}" in found.message for way in (QUIET, SERVING))


class WrongInTurn(Reference):
    """In every other call, whatever the mode, a matrix comes transposed."""

    calls = 0

    def project(self, logits: Tensor) -> Tensor:
        type(self).calls += 1
        found = super().project(logits)
        return found.mT if self.calls % 2 == 0 else found


class PlainOverflow(Reference):
    """As torch is by default logits above 60 are taken for 60; in no other mode are they."""

    def project(self, logits: Tensor) -> Tensor:
        plain = torch.is_grad_enabled() and not logits.requires_grad
        return super().project(logits.clamp_max(60) if plain else logits)


def turned(way: str, entry: float = 70.0) -> Case:
    """Logits of one large entry whose call is made in this way."""
    for k in range(100):
        logits = torch.tensor([[[entry + k / 8, 0.0], [1.0, 2.0]]])
        if way_of(logits, True) == way:
            return Case(logits=logits)
    raise AssertionError(way)


def broken_by(implementation: Implementation, case: Case) -> LawBroken:
    subject = Subject("ref:PAPER", implementation, torch.float32, torch.device("cpu"))
    with pytest.raises(LawBroken) as found:
        try_case(all_laws()[ORACLE], subject, case)
    return found.value


def test_what_is_wrong_in_every_other_call_is_not_said_to_hang_on_a_mode() -> None:
    implementation, case = WrongInTurn(PAPER), turned(QUIET)
    subject = Subject("ref:PAPER", implementation, torch.float32, torch.device("cpu"))
    WrongInTurn.calls = 1
    broken = broken_by(implementation, case)
    assert isinstance(broken.trial, Trial)
    assert broken.trial.ways == [QUIET]
    assert not only_so(all_laws()[ORACLE], subject, case, broken)


def test_of_two_modes_that_came_the_one_that_breaks_the_law_is_said() -> None:
    subject, case = Subject("ref:PAPER", QuietOverflow(PAPER), torch.float32, torch.device("cpu")), turned(QUIET, 90.0)
    broken = broken_by(subject.implementation, case)
    assert isinstance(broken.trial, Trial)
    broken.trial.ways.insert(0, RECORDED)
    assert only_so(all_laws()[ORACLE], subject, case, broken) == (QUIET,)


@pytest.mark.parametrize("way", WAYS)
def test_a_stored_failure_of_calls_as_torch_is_by_default_is_met_whatever_its_turn_is(way: str) -> None:
    subject = Subject("ref:PAPER", PlainOverflow(PAPER), torch.float32, torch.device("cpu"))
    with pytest.raises(LawBroken):
        try_stored(all_laws()[ORACLE], subject, turned(way))


@pytest.mark.slow
def test_a_failure_with_gradients_recorded_is_met_in_a_process_of_its_own_too(tmp_path: Path) -> None:
    file = tmp_path / "recorded.py"
    file.write_text(
        "from mhc_ref import PAPER\n"
        "from properties.core.implementation import Reference\n\n\n"
        "class Wrong(Reference):\n"
        "    def project(self, logits):\n"
        "        return super().project(logits.clamp_max(60) if logits.requires_grad else logits)\n\n\n"
        "target = Wrong(PAPER)\n"
    )
    found = isolated(f"{file}:target")
    subject = Subject("target", found, torch.float32, torch.device("cpu"))
    with pytest.raises(LawBroken):
        try_stored(all_laws()[ORACLE], subject, turned(RECORDED))
