"""A law and a diagnosis observe a target in the same way: one call of one method."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import LIGER, Branch, Dialect, Mappings, Params
from properties.commands.bench import STAGES, cost
from properties.core.case import BranchSpec
from properties.core.implementation import METHODS, Implementation, Reference
from properties.core.judging import ContractBroken
from properties.core.law import all_laws
from properties.core.trial import Trial
from properties.core.truth import FloatTruth
from properties.diagnosis.view import BadOutput, Frame, View
from properties.engine.subject import Profile, Subject
from properties.guards.faults import HarnessError, TargetFault

F64, CPU = torch.float64, torch.device("cpu")


def trial_of(implementation: Implementation) -> Trial:
    return Trial(implementation, F64, CPU, FloatTruth(implementation.dialect))


def view_of(implementation: Implementation) -> View:
    return View(implementation, Frame.of(implementation, F64))


def questions(dialect: Dialect, n: int = 3, channels: int = 2) -> dict[str, tuple[Any, ...]]:
    """A method -> arguments without branches."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    x, h, size = drawn(2, n, channels), drawn(2, channels), 2 * n + n * n
    params = Params(drawn(n * channels, size), drawn(size), drawn(3))
    return {
        "project": (drawn(2, n, n),),
        "mappings": (x, params),
        "pre": (x, drawn(2, n)),
        "post": (x, h, drawn(2, n), drawn(2, n, n)),
        "block": (x, params),
        "layers": (x, (params, params)),
        "expand": (h, n),
        "collapse": (x, None),
        "stack": (h, (params, params)),
    }


def branches_of(method: str) -> list[BranchSpec]:
    one = BranchSpec("scale", torch.tensor(0.5, dtype=F64))
    return [one] * {"block": 1, "layers": 2, "stack": 2}.get(method, 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_law_and_a_diagnosis_see_the_same(method: str) -> None:
    reference, given, branches = Reference(LIGER), questions(LIGER)[method], branches_of(method)
    got, seen = trial_of(reference).observer.call(method, given, branches)
    other, read = view_of(reference).ask(method, given, branches)
    assert len(seen) == len(branches)
    pairs = zip([*got] if method == "mappings" else [got], [*other] if method == "mappings" else [other], strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert all(torch.equal(one.u, two) for one, two in zip(seen, read, strict=True))


class Writes(Reference):
    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().pre(x.mul_(2), h_pre)


def test_a_law_hands_over_copies_and_a_diagnosis_the_very_tensors() -> None:
    x, h_pre = questions(LIGER)["pre"]
    kept = x.clone()
    trial_of(Writes(LIGER)).pre(x, h_pre)
    assert torch.equal(x, kept)
    view_of(Writes(LIGER)).call("pre", x, h_pre)
    assert torch.equal(x, 2 * kept)


class Refuses(BranchSpec):
    def __call__(self, u: Tensor) -> Tensor:
        raise OverflowError("too much for it")


class Swallows(Reference):
    """Calls the branch, and answers whatever became of that."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        with contextlib.suppress(Exception):
            branch(mhc_ref.pre(x, x.new_ones(x.shape[:-1])))
        return x


class Wraps(Reference):
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        try:
            return super().block(x, params, branch)
        except Exception as error:
            raise RuntimeError("my branch failed") from error


@pytest.mark.parametrize("kind", [Reference, Swallows, Wraps])
def test_what_a_branch_of_ours_raises_is_nobody_elses_fault(kind: type[Reference]) -> None:
    x, params = questions(LIGER)["block"]
    with pytest.raises(HarnessError, match="a scale branch raised OverflowError: too much for it"):
        trial_of(kind(LIGER)).block(x, params, Refuses("scale"))
    with pytest.raises(HarnessError, match="a scale branch raised OverflowError: too much for it"):
        view_of(kind(LIGER)).block(x, params, Refuses("scale"))


class Flat(Reference):
    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits).flatten()

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(x, params)[:2]  # pyright: ignore[reportReturnType]

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return branch(x)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("project", r"project has shape \(18,\); expected \(2, 3, 3\)"),
        ("mappings", r"mappings returned tuple; expected Mappings\(pre, post, res\)"),
        ("block", r"block: the branch input has shape \(2, 3, 2\); expected \(2, 2\)"),
    ],
)
def test_what_has_not_the_promised_form_is_said_in_the_same_words(method: str, message: str) -> None:
    given, branches = questions(LIGER)[method], branches_of(method)
    with pytest.raises(ContractBroken, match=message):
        trial_of(Flat(LIGER)).observer.call(method, given, branches)
    with pytest.raises(TargetFault, match=f"BadOutput: {message}") as caught:
        view_of(Flat(LIGER)).ask(method, given, branches)
    assert isinstance(caught.value.error, BadOutput)


def test_dtypes_are_a_matter_of_laws() -> None:
    class Narrow(Reference):
        def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
            return super().pre(x, h_pre).float()

    x, h_pre = questions(LIGER)["pre"]
    with pytest.raises(ContractBroken, match=r"pre is torch.float32; expected torch.float64 for a torch.float64 state"):
        trial_of(Narrow(LIGER)).pre(x, h_pre)
    assert view_of(Narrow(LIGER)).call("pre", x, h_pre).dtype == torch.float32


def test_the_bench_sees_every_stage_of_a_law() -> None:
    """It watches what everybody calls through: the observer, the truths, and the bounds by the names of their room."""
    subject = Subject("ref:LIGER", Reference(LIGER), torch.float32, CPU)
    found = cost(all_laws()["block.agrees-with-oracle"], subject, Profile(examples=2, derandomise=True))
    assert {stage: seconds > 0 for stage, seconds in found.seconds.items()} == dict.fromkeys(STAGES, True)
