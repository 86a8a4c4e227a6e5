"""What a run makes of its failures: one cause for one thing, two for two, and the same in every process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Mappings, Params
from properties import Implementation
from properties.causes import Causes
from properties.causes.here import narrowed
from properties.causes.sharing import shared
from properties.causes.stages import shows, stage_of
from properties.causes.wording import part_cause
from properties.core.case import Case
from properties.core.law import Law, all_laws
from properties.core.trial import LawBroken
from properties.diagnosis.parts import Account, Part, of_deviation
from properties.engine.attribution import Belonging
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.engine.trying import try_case
from properties.report.cause import Cause, entries, joined
from properties.report.report import Line

PROFILE = Profile(examples=4, derandomise=True, shrink=False)
PROJECTION, MIXING = "manifold.agrees-with-oracle", "mixing.post-is-the-declared-combination"


class Right(Implementation):
    """The paper's block, method by method."""

    streams = (2, 3)

    def project(self, logits: Tensor) -> Tensor:
        return mhc_ref.project(logits, PAPER)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return mhc_ref.mappings(x, params, PAPER)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return mhc_ref.post(x, y, h_post, h_res, PAPER)


class Strange(Right):
    """Wrong in two stages, as nothing of the catalogue is."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits) + 0.01 * logits.sin()

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res) + 0.01 * x.cos()


class Raises(Right):
    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        raise ValueError(f"no kernel for {len(x)} tokens")


class RaisesTwice(Raises):
    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        raise ValueError("no kernel for 3 tokens")


@pytest.fixture
def nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account costs seconds, and these failures do not need one."""
    monkeypatch.setattr("properties.causes.causes.account_of", lambda *_, **__: Account())


def examined(target: Implementation, *laws: str, where: Path, causes: Causes | None = None) -> Iterator[Verdict]:
    subject, known = Subject("x", target, torch.float64, torch.device("cpu")), causes or Causes(seconds=1.0)
    for law in laws:
        yield examine(all_laws()[law], subject, PROFILE, directory=where, attribution=known)


@pytest.mark.usefixtures("nothing_is_asked")
def test_an_exception_from_one_line_is_one_cause_with_that_line(tmp_path: Path) -> None:
    laws = (MIXING, "mixing.post-is-the-sum-of-its-parts", "block.agrees-with-oracle")
    found = list(examined(Raises(), *laws, where=tmp_path))
    assert [one.status for one in found] == ["failed"] * 3
    (cause,) = {one.key: one for verdict in found for one in verdict.causes}.values()
    assert cause.kind == "exception"
    assert "ValueError: no kernel for" in cause.summary
    assert any('raise ValueError(f"no kernel' in note for note in cause.notes)
    assert [one.belongs for one in found] == [("first",), ("shown",), ("shown",)]


@pytest.mark.usefixtures("nothing_is_asked")
def test_exceptions_from_two_lines_are_two_causes_though_their_words_are_alike(tmp_path: Path) -> None:
    found = examined(RaisesTwice(), "mixing.pre-is-the-weighted-sum", MIXING, where=tmp_path)
    assert len({one.key for verdict in found for one in verdict.causes}) == 2


def test_a_correct_implementation_has_no_cause_and_is_not_asked_for_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("properties.causes.causes.account_of", lambda *_, **__: pytest.fail("asked"))
    for one in examined(Right(), PROJECTION, MIXING, where=tmp_path):
        assert (one.status, one.causes) == ("passed", ())


@pytest.mark.usefixtures("nothing_is_asked")
def test_what_fails_in_our_code_while_a_failure_is_put_to_known_causes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causes = Causes(seconds=1.0)
    first, second = "mixing.post-is-the-sum-of-its-parts", MIXING
    (before,) = examined(Raises(), first, where=tmp_path, causes=causes)
    monkeypatch.setattr("properties.causes.causes.limit_of", lambda *_: {}["gone"])
    (after,) = examined(Raises(), second, where=tmp_path, causes=causes)
    assert (before.status, after.status) == ("failed", "failed")
    assert not any("our own code" in note for one in before.causes for note in one.notes)
    assert any("failed in our own code: KeyError: 'gone'" in note for one in after.causes for note in one.notes)


@pytest.mark.slow
def test_two_faults_that_nothing_explains_are_two_causes_in_their_stages(tmp_path: Path) -> None:
    first, second, both = examined(Strange(), PROJECTION, MIXING, "block.agrees-with-oracle", where=tmp_path)
    assert [one.stage for one in first.causes] == ["projection"]
    assert [one.stage for one in second.causes] == ["post"]
    assert {one.key for one in both.causes} <= {one.key for one in (*first.causes, *second.causes)}
    assert both.belongs == ("not told apart",)


def test_an_account_is_asked_once_for_all_workers(tmp_path: Path) -> None:
    account = Account((Part({"iterations": 18}, stage="projection", words="Sinkhorn runs 18 iterations"),), ratio=0.5)
    assert shared(tmp_path, "mine", lambda: account) == account
    assert shared(tmp_path, "mine", lambda: pytest.fail("asked twice")) == account
    other = Account(none="it does not answer")
    assert shared(tmp_path, "another", lambda: other) == other


def test_an_account_that_was_cut_off_while_it_was_written_is_asked_again(tmp_path: Path) -> None:
    shared(tmp_path, "mine", lambda: Account(ratio=0.5))
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:-5])
    assert shared(tmp_path, "mine", lambda: Account(ratio=0.25)).ratio == 0.25


def test_a_stage_shows_in_the_laws_that_come_after_it() -> None:
    laws = all_laws()
    assert stage_of(laws[PROJECTION]) == "projection"
    assert stage_of(laws[MIXING]) == "post"
    assert shows("norm", laws["coefficients.agrees-with-oracle"])
    assert not shows("post", laws[PROJECTION])
    assert shows("post", laws["block.agrees-with-oracle"])


def test_a_failure_that_only_two_causes_give_counts_for_both() -> None:
    one, two = (Cause(key, "mine", key, {"fields": {}, "deviation": key, "measured": None}) for key in "ab")
    lines = [
        Line("mine", {}, "float64", "cpu", "block.x", "failed", causes=("a", "b"), belongs=("shown", "shown")),
        Line("mine", {}, "float64", "cpu", "block.y", "failed", causes=("a",), belongs=("not told apart",)),
    ]
    first, second = entries([one, two], lines)
    assert (first["laws"], first["shown"], first["untold"]) == (2, 1, 1)
    assert (second["laws"], second["shown"], second["untold"]) == (1, 1, 0)


class Overflows(Right):
    """exp of the logits themselves."""

    streams = (1, 2, 3)

    def project(self, logits: Tensor) -> Tensor:
        m = logits.exp()
        for _ in range(PAPER.iterations):
            m = m / m.sum(-2, keepdim=True)
            m = m / m.sum(-1, keepdim=True)
        return m


TIED = replace(of_deviation("global-max"), ties=("deviation max-not-subtracted", "something else"))


def failed(logits: Tensor) -> tuple[Law, Subject, Case, LawBroken]:
    """The failure of `Overflows` at some logits."""
    law, case = all_laws()[PROJECTION], Case(logits=logits)
    subject = Subject("x", Overflows(), torch.float32, torch.device("cpu"))
    with pytest.raises(LawBroken) as found:
        try_case(law, subject, case)
    return law, subject, case, found.value


def test_what_a_smaller_input_refutes_is_no_tie_any_more() -> None:
    small = narrowed(*failed(torch.full((1, 1, 1), 95.0)), [], TIED)
    assert small is not None
    assert (small.deviation, small.ties) == ("max-not-subtracted", ("something else",))
    beside = replace(TIED, deviation="max-not-subtracted", ties=("deviation global-max (told apart by other logits)",))
    kept = narrowed(*failed(torch.full((1, 1, 1), 95.0)), [], beside)
    assert kept is not None
    assert (kept.deviation, kept.ties) == ("max-not-subtracted", ())


def test_where_every_explanation_is_refuted_all_stay() -> None:
    tied = replace(of_deviation("global-max"), ties=("deviation axes-swapped",))
    assert narrowed(*failed(torch.full((1, 1, 1), 95.0)), [], tied) is None
    assert narrowed(*failed(torch.full((1, 1, 1), 95.0)), [], of_deviation("max-not-subtracted")) is None


def test_a_later_failure_decides_a_tie_under_the_key_that_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("properties.causes.causes.account_of", lambda *_, **__: Account(parts=(TIED,)))
    monkeypatch.setattr("properties.causes.here.plain", lambda _: False)  # nothing more is asked of the target
    said: list[Cause] = []
    causes = Causes(announce=said.append)
    law, subject, case, broken = failed(torch.tensor([[[0.0, -200.0], [-200.0, 200.0]]]))
    (first,) = causes.found(law, subject, case, broken).causes
    assert (first.explanation or {})["deviation"] == "global-max"
    assert not said  # a smaller input may decide it
    assert causes.settled(law, subject, case, broken, {first.key: first}) == {first.key: first}
    assert said == [first]
    found = causes.known(*failed(torch.full((1, 1, 1), 95.0)))
    assert found is not None
    (later,) = found.causes
    assert (found.how, later.key, (later.explanation or {})["deviation"]) == ("shown", first.key, "max-not-subtracted")
    assert joined(first, later).summary == joined(later, first).summary == later.summary


@pytest.mark.slow
def test_a_shrunk_failure_decides_a_tie_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("properties.causes.causes.account_of", lambda *_, **__: Account(parts=(TIED,)))
    monkeypatch.setattr(
        Causes, "_known", lambda self, law, subject, *_: Belonging((part_cause(subject, TIED, law),), "first")
    )
    monkeypatch.setattr("properties.engine.search.Search._of_a_known_cause", lambda *_: False)
    said: list[Cause] = []
    subject = Subject("x", Overflows(), torch.float32, torch.device("cpu"))
    profile = Profile(examples=8, derandomise=True)
    found = examine(
        all_laws()[PROJECTION], subject, profile, directory=tmp_path, attribution=Causes(announce=said.append)
    )
    assert [one.explanation and one.explanation["deviation"] for one in found.causes] == ["max-not-subtracted"]
    assert said == list(found.causes)


class TooFew(Right):
    """Takes no parameters: a call of it raises before a line of it runs."""

    # That it does not take what it is given is the fault.
    def mappings(self, x: Tensor) -> Mappings:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        raise AssertionError("not reached")

    project = Implementation.project


def test_a_call_that_a_method_does_not_take_is_one_cause_wherever_it_is_made(tmp_path: Path) -> None:
    found = list(examined(TooFew(), PROJECTION, "coefficients.agrees-with-oracle", where=tmp_path))
    assert len({cause.key for one in found for cause in one.causes}) == 1


class Numpy(Right):
    """Returns no tensor, which is the fault."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits).detach().numpy()  # type: ignore[return-value]


def test_the_cause_of_a_broken_contract_says_what_is_wrong(tmp_path: Path) -> None:
    (verdict,) = examined(Numpy(), PROJECTION, where=tmp_path)
    (cause,) = verdict.causes
    assert "it breaks its contract in the projection: project is ndarray; expected a torch.Tensor" in cause.summary
    assert "no dialect" not in cause.summary


class OverLogits(Right):
    def project(self, logits: Tensor) -> Tensor:
        return logits.copy_(super().project(logits))


def test_where_autograd_refuses_what_is_written_to_that_is_said_and_not_that_gradients_are_declared(
    tmp_path: Path,
) -> None:
    (verdict,) = examined(OverLogits(), "execution.gradient-mode-does-not-change-h-res", where=tmp_path)
    (cause,) = verdict.causes
    assert any("It writes to a tensor that it was given" in one and "in-place" in one for one in cause.notes)
    assert not any(one.startswith("If that is meant") for one in cause.notes)
