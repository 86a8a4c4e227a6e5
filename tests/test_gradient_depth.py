"""The gradient laws of many blocks: sound on correct arithmetic, sharp, confirmed by mpmath, and met by what they are
meant for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LIGER, PAPER, PRESETS, Branch, Dialect, Params
from mhc_ref.packing import params_shapes, streams_of_params
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.catalogue import controls
from properties.core.case import BranchSpec, Case
from properties.core.exact_truth import ExactTruth
from properties.core.implementation import Implementation, Reference, dtype_names
from properties.core.law import all_laws
from properties.core.trial import FloatTruth, Trial
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.laws.gradient_depth import stack_pullback

LAYERS = "gradient.layers-pull-back-to-the-state-and-every-layer"
STACK = "gradient.stack-pulls-back-to-its-input-and-every-layer"
CONSTANT = "gradient.constant-stacks-pull-back-as-they-push-forward"
LAWS = (LAYERS, STACK, CONSTANT)
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def verdict(
    law: str, target: Implementation, directory: Path, dtype: torch.dtype = torch.float32, examples: int = 12
) -> Verdict:
    profile = Profile(examples=examples, derandomise=True, shrink=False)
    return examine(all_laws()[law], Subject("target", target, dtype, torch.device("cpu")), profile, directory=directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "title"), [("float64", "LUCIDRAINS"), ("float32", "MHC_LITE"), ("bfloat16", "DEEPSEEK_V4")]
)
@pytest.mark.parametrize("law", LAWS)
def test_correct_arithmetic_stays_within_the_bound(law: str, dtype: str, title: str, tmp_path: Path) -> None:
    control = controls.build("norm-after-matmul", PRESETS[title])
    found = verdict(law, control, tmp_path, DTYPES[dtype])
    assert found.status == "passed", found.message
    assert found.worst_ratio > 0


@pytest.mark.slow
@pytest.mark.parametrize("law", [LAYERS, STACK])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bound_is_not_merely_large(law: str, dtype: str, tmp_path: Path) -> None:
    assert verdict(law, Reference(PAPER), tmp_path, DTYPES[dtype], 80).worst_ratio > 0.02


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("title", PRESETS)
@pytest.mark.parametrize("law", LAWS)
def test_no_control_leaves_the_bound_on_many_examples(law: str, title: str, dtype: str, tmp_path: Path) -> None:
    built = {
        name: controls.build(name, PRESETS[title])
        for name, control in controls.CATALOGUE.items()
        if control.applies(PRESETS[title])
    }
    judged = {name: one for name, one in built.items() if dtype in dtype_names(one)}
    assert judged
    for name, one in judged.items():
        said = all_laws()[law].inapplicable(one, DTYPES[dtype], torch.device("cpu"))
        found = verdict(law, one, tmp_path, DTYPES[dtype], 240)
        assert found.status == ("not-applicable" if said else "passed"), f"{name}: {found.message or found.reason}"


def generic(dialect: Dialect, n: int, channels: int, depth: int) -> Case:
    """A case of order one in float64: an input, layers with branches, and a head where there is one."""
    g = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def params() -> Params:
        phi, bias, alpha, _ = params_shapes(n, channels, dialect)
        return Params(normal(*phi), normal(*bias), normal(*alpha))

    head = (params(),) if dialect.collapse == "head" else ()
    branches = tuple(BranchSpec("scale", normal(channels)) for _ in range(depth))
    every = tuple(params() for _ in range(depth))
    return Case(h=normal(2, channels), n=n, params=every, branches=branches, head=head, cotangent=normal(2, channels))


@pytest.mark.slow
@pytest.mark.parametrize("title", PRESETS)
def test_the_gradients_that_a_bound_is_drawn_around_are_those_of_autograd_and_of_mpmath(title: str) -> None:
    dialect = PRESETS[title]
    case = generic(dialect, 2, 3, 2)
    trial = Trial(Reference(dialect), torch.float64, torch.device("cpu"), FloatTruth(dialect))
    by_h, found = stack_pullback(trial, case)
    every = (*case.params, *case.head)
    wanted = [by_h, *(getattr(back, name) for back in found for name in ("phi", "bias", "alpha"))]
    for truth in (trial.truth, ExactTruth(dialect)):
        got = truth.stack_vjp(case.h, 2, every, case.branches, case.cotangent)
        for one, expected in zip(got, wanted, strict=True):
            assert ((one - expected.value.reshape(one.shape)).abs() <= expected.error.reshape(one.shape)).all()


def test_mpmath_knows_the_layers_alone_too() -> None:
    whole = generic(PAPER, 2, 3, 2)
    x = torch.stack([whole.h, 2 * whole.h.roll(1, -1)], -2)
    case = Case(x=x, params=whole.params, branches=whole.branches, cotangent=x.flip(-1))
    r = Rounding.of(torch.float64)
    exact = Approx.exact(case.cotangent)
    found = bounds.pullback.layers(Approx.exact(x), case.params, case.branches, exact, PAPER, r)
    got = ExactTruth(PAPER).layers_vjp(x, case.params, case.branches, case.cotangent)
    wanted = [found[0].x, *(getattr(back, name) for back in found for name in ("phi", "bias", "alpha"))]
    for one, expected in zip(got, wanted, strict=True):
        assert ((one - expected.value.reshape(one.shape)).abs() <= expected.error.reshape(one.shape)).all()


class StackAlone(Implementation):
    """Offers a whole stack and nothing else, as a package does that ships an encoder."""

    def __init__(self, dialect: Dialect, change: Callable[[Tensor, int], Tensor] = lambda x, layer: x) -> None:
        self.dialect, self.change = dialect, change
        self.name = "stack"

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        x = mhc_ref.expand(h, streams_of_params(params[0], self.dialect))
        for layer, (one, branch) in enumerate(zip(params, branches, strict=False)):
            x = mhc_ref.block(self.change(x, layer), one, branch, self.dialect)
        head = params[-1] if self.dialect.collapse == "head" else None
        return mhc_ref.collapse(self.change(x, len(branches)), self.dialect, head)


def half_gradient(x: Tensor) -> Tensor:
    return (x + x.detach()) / 2


SLIPS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "no layer hands a gradient back": lambda x, layer: x.detach() if layer else x,
    "the second layer halves it": lambda x, layer: half_gradient(x) if layer == 1 else x,
    "the copies but the first send none": lambda x, layer: (
        x if layer else torch.cat([x[..., :1, :], x[..., 1:, :].detach()], -2)
    ),
    "the collapse reads a copy of stream 0": lambda x, layer: (
        torch.cat([x[..., :1, :].detach(), x[..., 1:, :]], -2) if layer > 1 else x
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", [STACK, CONSTANT])
@pytest.mark.parametrize("slip", SLIPS)
def test_a_cut_on_the_way_back_through_a_stack_alone_is_seen(slip: str, law: str, tmp_path: Path) -> None:
    # Twelve examples saw three of the four with every seed, and the third with three seeds of five.
    assert verdict(law, StackAlone(LIGER, SLIPS[slip]), tmp_path, examples=32).status == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4], ids=["sum", "head"])
def test_a_correct_stack_alone_passes(dialect: Dialect, tmp_path: Path) -> None:
    assert verdict(STACK, StackAlone(dialect), tmp_path).status == "passed"
    assert verdict(LAYERS, StackAlone(dialect), tmp_path).status == "not-applicable"
