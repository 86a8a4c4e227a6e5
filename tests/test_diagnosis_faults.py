"""Whose fault it is that a diagnosis goes wrong: what the target does is its answer, the rest is ours."""

from __future__ import annotations

import asyncio
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, MHC_LITE, PAPER, PRESETS, Branch, Dialect, Params
from properties.bounds import Rounding
from properties.causes import Causes
from properties.core.case import BranchSpec, Case
from properties.core.estimate import Estimate
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.questions import questions
from properties.core.trial import LawBroken
from properties.diagnosis import identify, identify_command
from properties.diagnosis.answers import Predictions, alike, answer
from properties.diagnosis.circumstances import gradients
from properties.diagnosis.coefficients import Gates
from properties.diagnosis.exam import forward
from properties.diagnosis.judge import Judge, Unanswerable
from properties.diagnosis.reading import Reader, Reading
from properties.diagnosis.stages import Stages
from properties.diagnosis.usage import used
from properties.diagnosis.view import BadOutput, Frame, View
from properties.engine.runner import Profile, Subject, examine
from properties.engine.trying import try_case
from properties.families.fits.sinkhorn.seen import Seen, measured
from properties.guards.faults import HarnessError
from properties.report.cause import Cause


@pytest.fixture(autouse=True)
def one_thread(usual_signals: None) -> None:
    torch.set_num_threads(1)


class Projects(Implementation):
    """A projection alone, by a function."""

    name = "projects"
    streams = (3,)

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def project(self, logits: Tensor) -> Tensor:
        return self.function(logits)


def right(logits: Tensor) -> Tensor:
    return mhc_ref.project(logits, PAPER)


def view_of(implementation: Implementation) -> View:
    return View(implementation, Frame.of(implementation))


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


# -- the target's --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt("mine"), "raises KeyboardInterrupt: mine"),
        (GeneratorExit(), "raises GeneratorExit"),
        (asyncio.CancelledError(), "raises CancelledError"),
        (pytest.skip.Exception("not today"), "raises Skipped: not today"),
        (ValueError("\x1b[31mred"), r"raises ValueError: \x1b[31mred"),
        (ValueError("in\n::error::two lines"), "the projection raised ValueError: in ::error::two lines"),
    ],
)
def test_whatever_a_target_raises_is_its_answer(error: BaseException, told: str) -> None:
    found = identify(Projects(raising(error)), seconds=1)
    assert found.headline() == "it answers nothing"
    assert told in found.to_text()
    assert "our own code" not in found.to_text()


BAD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda z: None, "project is NoneType; expected a torch.Tensor of shape"),
    "another shape": (lambda z: right(z)[..., :-1], "expected ("),
    "another device": (lambda z: right(z).to("meta"), "project is on meta"),
    "a sparse tensor": (lambda z: right(z).to_sparse(), "layout torch.sparse_coo, which is not dense"),
    "complex numbers": (lambda z: right(z).to(torch.complex64), "project is torch.complex64; expected real numbers"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BAD)
def test_an_output_that_cannot_be_used_is_said_to_be_one(what: str) -> None:
    function, told = BAD[what]
    found = identify(Projects(function), seconds=1)
    assert found.headline() == "it answers nothing"
    assert "every call gives what cannot be used: project" in found.to_text()
    assert told in found.to_text()


def test_two_outputs_of_different_wrong_shapes_are_not_the_same_answer() -> None:
    one, two = (view_of(Projects(function)) for function in (lambda z: z[..., :1], lambda z: z[..., :2]))
    probe = forward(one.frame, 1)[0]
    assert alike(answer(probe, one), answer(probe, two), None, lambda _: []) == math.inf
    assert alike(answer(probe, one), answer(probe, one), None, lambda _: []) == 0


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> Any:
        raise RuntimeError("no backward kernel")


def test_a_backward_pass_that_raises_is_the_target_s_answer() -> None:
    view = view_of(Projects(lambda z: _Backwards.apply(right(z))))
    (probe,) = gradients(view.frame, 1)
    assert answer(probe, view).told == "raises RuntimeError: no backward kernel"


def test_a_branch_that_is_given_something_else_than_was_promised_is_the_target_s_answer() -> None:
    class Whole(Implementation):
        streams = (3,)

        def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
            return x + branch(x)

    view = view_of(Whole())
    (probe, *_) = forward(view.frame, 1)
    found = answer(probe, view)
    assert found.error == BadOutput.__name__
    assert "block: the branch input has shape" in found.message


# -- ours ------------------------------------------------------------------------------------------------------------


def test_a_branch_of_ours_that_fails_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(Reference(PAPER))
    probe = next(one for one in forward(view.frame, 1) if one.stage == "block")
    monkeypatch.setattr(BranchSpec, "__call__", raising(ZeroDivisionError("in the branch")))
    with pytest.raises(HarnessError, match="branch raised ZeroDivisionError: in the branch"):
        answer(probe, view)


OURS = {
    "the fields of the projection": "properties.diagnosis.matrices.stages",
    "the fields of the coefficients": "properties.diagnosis.inference.Gates",
    "the norm": "properties.diagnosis.inference.Norm.candidates",
    "the packing": "properties.diagnosis.reading.Reader.gates",
    "a prediction": "properties.diagnosis.answers.Judge.project",
    "a question": "properties.diagnosis.probe.View.project",
}


@pytest.mark.slow
@pytest.mark.parametrize("place", OURS)
def test_a_fault_of_ours_is_never_a_finding(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OURS[place], raising(RuntimeError("ours")))
    with pytest.raises(RuntimeError, match="ours"):
        identify(Reference(PAPER), seconds=1)


@pytest.mark.parametrize("stage", ["_norm", "_matmul", "_gates_alone"])
def test_a_fault_of_ours_among_the_stages_is_no_right_stage(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(Reference(PAPER))
    monkeypatch.setattr(f"properties.diagnosis.stages.Stages.{stage}", raising(RuntimeError("ours")))
    with pytest.raises(RuntimeError, match="ours"):
        list(Stages(view, PAPER).every())


def test_a_fault_of_ours_in_what_is_used_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("properties.diagnosis.usage._read", raising(RuntimeError("ours")))
    with pytest.raises(RuntimeError, match="ours"):
        used(view_of(Reference(PAPER)))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_dialect_that_takes_other_inputs_cannot_answer_and_every_other_one_does(name: str) -> None:
    view = view_of(Reference(PRESETS[name]))
    probes = [*forward(view.frame, 1), *gradients(view.frame, 1)]
    predictions = Predictions("compute")
    assert all(predictions.of(probe, PRESETS[name]) is not None for probe in probes)
    for other in (PAPER, MHC_LITE, LUCIDRAINS, DEEPSEEK_V4):
        for probe in probes:
            predictions.of(probe, other)  # an answer, or none; nothing is raised


def test_parameters_packed_for_another_dialect_are_said_to_be() -> None:
    probe = next(one for one in forward(view_of(Reference(LUCIDRAINS)).frame, 1) if one.stage == "block")
    with pytest.raises(Unanswerable, match=r"Params.phi has shape .*; a state of 3 streams"):
        probe.expect(Judge(PAPER, torch.float64), *probe.inputs)


LAW = all_laws()["manifold.odds-ratios"]
CASE = Case(logits=torch.tensor([[[1.0, 0, -1], [0, 3, 1], [2, -1, 0]]], dtype=torch.float64))


def explained(monkeypatch: pytest.MonkeyPatch, fit: Callable[..., Any]) -> Cause:
    subject = Subject("x", Projects(torch.cos), torch.float64, torch.device("cpu"))
    with pytest.raises(LawBroken) as caught:
        try_case(LAW, subject, CASE)
    monkeypatch.setattr("properties.diagnosis.matrices.stages", fit)
    (cause,) = Causes().found(LAW, subject, CASE, caught.value).causes
    return cause


def test_a_diagnosis_that_fails_in_our_code_says_so_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = explained(monkeypatch, raising(KeyError("start")))
    (told,) = cause.notes
    assert "failed in our own code: KeyError: 'start' (test_diagnosis_faults.py:" in told
    assert "That says nothing of the implementation" in told
    assert (cause.stage, cause.explanation) == ("projection", None)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this platform has no SIGALRM")
def test_a_timeout_during_a_diagnosis_leaves_the_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("properties.diagnosis.matrices.stages", lambda *_, **__: signal.raise_signal(signal.SIGALRM))
    subject = Subject("x", Projects(torch.cos), torch.float64, torch.device("cpu"))
    before = signal.signal(signal.SIGALRM, raising(pytest.fail.Exception("Timeout")))
    try:
        found = examine(LAW, subject, Profile(examples=4, derandomise=True), directory=tmp_path, attribution=Causes())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert found.status == "failed"
    assert "stopped from outside" in found.message
    assert found.counterexample is not None
    assert found.counterexample.exists()


def test_an_interrupt_during_a_diagnosis_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        explained(monkeypatch, lambda *_, **__: signal.raise_signal(signal.SIGINT))


def test_identify_that_fails_in_our_code_exits_with_2_and_accuses_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("properties.diagnosis.matrices.stages", raising(KeyError("start")))
    assert identify_command("ref:PAPER", as_json=True) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["exit"] == 2
    assert found["error"].startswith("failed in our own code, which says nothing of ref:PAPER: KeyError: 'start' (")
    assert "identify: failed in our own code, which says nothing of ref:PAPER: KeyError: 'start' (" in err


# -- candidates that are no dialects ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "estimate", "eps"),
    [
        (LUCIDRAINS, Estimate(0.97, 0.5, 1.5), 0.97),  # the shortest number within the bar is 1
        (LUCIDRAINS, Estimate(1.2, 0.5, 1.9), 0.5),
        (LUCIDRAINS, Estimate(1.2, 1.1, 1.3), None),
        (LUCIDRAINS, Estimate(math.nan, math.nan, math.nan), None),
        (PAPER, Estimate(0.97, 0.5, 1.5), 1.0),
    ],
)
def test_an_eps_is_the_shortest_with_which_there_is_a_dialect(
    dialect: Dialect, estimate: Estimate, eps: float | None
) -> None:
    found = measured(dialect, estimate)
    assert (None if found is None else found.denominator_eps) == eps


def test_a_scale_whose_bar_reaches_0_is_no_scale_of_0() -> None:
    gates = Gates(Reader(view_of(Reference(PAPER))), Rounding.of(torch.float64))
    read = gates.read["post"]
    gates.read["post"] = Reading(read.value, torch.full_like(read.error, 10.0))
    found = gates.formulas("post", PAPER)
    assert found
    for one in found:
        PAPER.with_(**one.fields)


WEIRD: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "ones": torch.ones_like,
    "a NaN": lambda z: z * math.nan,
    "infinity": lambda z: z.abs() + math.inf,
    "minus infinity": lambda z: z.abs() - math.inf,
    "negative": lambda z: -right(z),
    "huge": lambda z: 1e300 * right(z),
    "next to nothing": lambda z: 1e-320 * right(z),
    "an identity with dust": lambda z: torch.eye(3, dtype=z.dtype).expand_as(z) + 1e-320,
}


@pytest.mark.parametrize("what", WEIRD)
def test_matrices_that_no_projection_gives_are_measured_without_an_accident(what: str) -> None:
    asked = questions(3, 600.0, torch.float64, ladder=7)
    matrices = WEIRD[what](asked.logits)
    seen = Seen(asked, matrices, torch.zeros_like(matrices), Rounding.of(torch.float64))
    for dialect in (PAPER, DEEPSEEK_V4):
        assert not seen.completed(dialect.with_(rms_eps=0.0))


@pytest.mark.slow
def test_a_block_alone_in_bfloat16_is_identified() -> None:
    """Its bars are so wide that the shortest eps of a clamp is 1, with which there is no dialect."""

    class InShort(Implementation):
        name, dialect, dtypes, norm_weight = "in short", DEEPSEEK_V4, (torch.bfloat16,), False

        def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
            return mhc_ref.block(x, params, branch, DEEPSEEK_V4)

    found = identify(InShort(), seconds=60)
    assert found.explained
    assert found.headline() == "like DEEPSEEK_V4"
    assert not any("raised" in one.why for one in found.findings.values())
    for name in ("residual", "transposed", "pre", "post", "norm_over"):
        assert found.findings[name].certain
