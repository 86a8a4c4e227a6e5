"""Where whole kernels branch: what is declared together, branches that mix tokens, and what is shared and held."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, PRESETS, QWEN4_EXP, Branch, Dialect, Mappings, Params
from properties.bounds import Approx
from properties.bounds.token_mix import TokenMix
from properties.catalogue import controls
from properties.core.case import BranchSpec, Case
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.core.rounding import Rounding
from properties.core.sweep import Reach
from properties.core.trial import LawBroken, wide
from properties.core.truth import present
from properties.engine.runner import PROFILES, Profile, Subject, Verdict, examine
from properties.laws import pulls, shared
from properties.laws.gradient_tokens import _branch, mixing
from properties.laws.gradient_waiting import SIZE, TOKENS, widened
from properties.strategies import Setting, noise
from properties.strategies.layouts import REWRITTEN
from properties.strategies.sweep_inputs import PROMPT, distinct, idle, inputs
from properties.strategies.sweeps import Run

CPU = torch.device("cpu")
PROFILE = replace(PROFILES["ci"], shrink=False)


def judged(law: str, target: Reference, where: Path, dtype: torch.dtype = torch.float32) -> Verdict:
    return examine(all_laws()[law], Subject("target", target, dtype, CPU), PROFILE, directory=where)


def declaring(dialect: Dialect, **declared: Any) -> Reference:
    """The reference, which declares so."""
    target = Reference(dialect)
    for name, value in declared.items():
        setattr(target, name, value)
    return target


# -- what is declared --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("law", ["depths-pass", "stacks-pass", "depths-pull-back", "stacks-pull-back"])
def test_several_depths_and_numbers_of_tokens_may_be_declared_together(law: str, tmp_path: Path) -> None:
    """Backwards of several tokens no depth is a part of a larger one."""
    target = declaring(PAPER, depths=(2, 5), token_counts=(1, 7), channels=(96,), streams=(2, 4))
    found = judged(f"sizes.{law}", target, tmp_path)
    assert found.status == "passed", found.message


@pytest.mark.parametrize("law", ["depths-pass", "stacks-pass", "depths-pull-back"])
def test_prompts_and_wide_steps_of_all_declared_layers_are_visited(law: str) -> None:
    sweep = all_laws()[f"sizes.{law}"].sweep
    assert sweep is not None
    declared: dict[str, Any] = {"depths": (61,), "token_counts": (1, 200), "channels": (7168,)}
    setting = Setting(DEEPSEEK_V4, (4,), torch.float32, **declared)
    points = sweep.points(setting, Reach(2, 550, 550, 24), 0)
    found = {(one.size.tokens, one.size.channels, one.size.layers) for one in points}
    assert {(200, 4, 61), (1, 7168, 61)} <= found


# -- branches that mix tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_bound_of_a_branch_that_mixes_tokens_holds_and_is_near(dtype: torch.dtype) -> None:
    tokens, r = 132, Rounding.of(dtype)
    matrix, weight = mixing(tokens, 2), (0.5 + torch.tensor(noise(3, 5)).abs()).to(dtype)
    u, g = (torch.tensor(noise(seed, tokens, 5)).to(dtype) for seed in (1, 2))
    leaf = u.unflatten(0, (2, tokens // 2)).requires_grad_()
    y = _branch(weight, matrix)(leaf)
    (back,) = torch.autograd.grad(y, leaf, g.unflatten(0, (2, tokens // 2)))
    mix = TokenMix(matrix, weight)
    for got, expected in ((y, mix.returned(Approx.exact(u), r)), (back, mix.pulled(Approx.exact(g), r))):
        off = (wide(got.detach().flatten(0, 1)) - expected.value).abs() - 2.0**-50 * expected.value.abs()
        assert (off <= expected.error).all()
        assert (off > 0.05 * expected.error).any() or dtype == torch.float64
        other = wide(got.detach().flatten(0, 1)) + 16 * max(r.unit, r.state_unit) * expected.value.abs()
        assert ((other - expected.value).abs() > expected.error).any()


def test_what_such_a_branch_gives_and_hands_back_does_not_lie_as_what_it_read() -> None:
    u = torch.tensor(noise(1, 132, 5)).requires_grad_()
    lie: list[tuple[int, ...]] = []
    u.register_hook(lambda bar: lie.append(bar.stride()))  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
    y = _branch(torch.ones(5, dtype=torch.float64), mixing(132, 1))(u)
    torch.autograd.grad(y, u, torch.ones(132, 5, dtype=torch.float64))
    assert y.stride() == (1, 132)
    assert lie == [(1, 132)]


class SkipsMaskedTiles(Reference):
    """Backwards a tile of 64 tokens whose cotangent is zero is passed over, what comes through its branch as well."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        out, flat = super().block(x, params, branch), x.flatten(0, -3)
        if not (out.requires_grad and len(flat) > 64):
            return out
        empty: list[Tensor] = []
        out.register_hook(lambda bar: empty.append((bar.flatten(0, -3)[:64] == 0).all()))  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
        if x.requires_grad:
            first = (torch.arange(len(flat)) < 64).view(*x.shape[:-2], 1, 1)
            x.register_hook(lambda bar: torch.where(first & empty[-1], 0.0, bar))  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
        return out


@pytest.mark.slow
def test_a_tile_without_a_cotangent_is_no_padding_where_others_have_read_it(tmp_path: Path) -> None:
    law = "gradient.a-branch-may-mix-tokens"
    assert judged(law, SkipsMaskedTiles(PAPER), tmp_path).status == "failed"
    assert judged(law, Reference(PAPER), tmp_path).status == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("law", [one for one in all_laws() if "mix-tokens" in one or "losses-of" in one])
def test_no_reference_is_accused_through_such_branches(law: str, dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    found = judged(law, Reference(PRESETS[name]), tmp_path, dtype)
    assert found.status in ("passed", "not-applicable"), found.message


# -- layers that share -------------------------------------------------------------------------------------------------


def of_layers(weights: Sequence[bool]) -> Case:
    """A stack of as many layers, each with a weight of its norm or without."""
    made = inputs(Setting(QWEN4_EXP, (1,), torch.float64), "stack backwards", 1, 3, 2, len(weights), 1.0, "", 0)
    params = tuple(
        one._replace(norm_weight=torch.tensor(noise(k, 3)).abs() + 0.5 if has else None)
        for k, (one, has) in enumerate(zip(made.params, weights, strict=True))
    )
    return made.with_(params=params, cotangent=made.cotangents[0])


@pytest.mark.parametrize("weights", [(False, True, True), (True, False, True), (True, True, True)])
def test_weights_that_the_first_layer_has_not_are_taken_for_no_one_tensor(weights: tuple[bool, ...]) -> None:
    """Accused the reference once: those of the others were summed as if all of them were the second layer's."""
    subject = Subject("target", Reference(QWEN4_EXP), torch.float64, CPU)
    trial = subject.trial(all_laws()["gradient.stacks-pull-back-however-they-are-called"])
    shared.adds_up_over_layers(trial, of_layers(weights), lambda own: pulls.stack(trial, own))
    assert trial.claims


def test_every_second_layer_may_share_its_parameters() -> None:
    case = of_layers((True, True, True))
    one, two, three = shared.tied(case.params, shared.IN_TURN)
    assert three.phi is one.phi
    assert two.phi is not one.phi


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_prompts_of_many_tokens_are_whole_tiles_of_zeros() -> None:
    setting = Setting(PAPER, (4,), torch.float32)
    case = inputs(setting, "mappings backwards", 4, 8, 300, 1, 1.0, PROMPT, 0)
    empty = torch.stack([(bar.flatten(1) == 0).all(-1) for bar in case.cotangents]).all(0)
    assert empty[:64].all()
    assert not empty[64:128].any()
    assert distinct("mappings backwards", 4, 8, 300, 1) < 300


def test_idle_parameters_have_zeros_in_each_of_them() -> None:
    case = inputs(Setting(PAPER, (4,), torch.float32), "mappings", 4, 8, 3, 1, 1.0, "", 0)
    for one in present(idle(case.params)):
        assert 0 < int((one == 0).sum()) < one.numel()


def test_passes_that_wait_are_of_a_mebibyte_and_so_are_their_gradients() -> None:
    setting = Setting(PAPER, (4,), torch.float32)
    small = inputs(setting, "block backwards", 4, 64, TOKENS, 1, 1.0, "", 0)
    case = widened(Case(**dict(small.items()) | {"cotangent": small.cotangents[0], "times": 64}))
    assert case.x.numel() * 4 == SIZE
    assert case.params.phi.numel() * 4 > SIZE
    target = Reference(PAPER)
    few, many = (target.mappings(one.x, one.params) for one in (small, case))
    for one, other in zip(few, many, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_an_added_branch_is_u_plus_w() -> None:
    branch = BranchSpec("added", torch.tensor([1.0, 2.0]))
    assert torch.equal(branch(torch.zeros(3, 2)), torch.tensor([[1.0, 2.0]] * 3))


class Reads(Reference):
    """Notes the parameters that it is called with, by their values then."""

    def __init__(self, refuses: bool) -> None:
        super().__init__(PAPER)
        self.refuses, self.seen = refuses, list[Tensor]()

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.seen.append(params.phi.clone())
        if self.refuses:
            raise ValueError
        return super().mappings(x, params)


@pytest.mark.parametrize("refuses", [False, True])
def test_other_values_in_the_tensors_of_parameters_are_never_those_of_the_case(refuses: bool) -> None:
    target, law = Reads(refuses), all_laws()["sizes.tokens-and-channels-are-mapped"]
    setting = Setting(PAPER, (4,), torch.float32)
    (point, *_) = Run(8, 4, (3,), layout=REWRITTEN).points(setting, "mappings", 0)
    case = point.case()
    before = case.params.phi.clone()
    with suppress(LawBroken):
        law.judge(Subject("target", target, torch.float32, CPU).trial(law), case)
    assert torch.equal(case.params.phi, before)
    assert torch.equal(target.seen[0], 0.75 * before)
    assert refuses or torch.equal(target.seen[1], before)


class IgnoresItsBranch(Reference):
    """A block without a branch."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(x, params, torch.zeros_like)


@pytest.mark.parametrize("law", ["gradient.losses-of-a-branch-teach", "gradient.a-branch-may-mix-tokens"])
def test_a_branch_that_is_never_called_is_told_as_that(law: str, tmp_path: Path) -> None:
    found = judged(law, IgnoresItsBranch(PAPER), tmp_path)
    assert found.status == "failed"
    assert "the number of calls of the first branch" in found.message


@pytest.mark.parametrize("n", [3, 5])
def test_passes_that_wait_have_parameters_that_their_dtype_can_store(n: int, tmp_path: Path) -> None:
    """Channels that come again three times had a third of phi, which bfloat16 does not have."""
    target = controls.build("short-parameters", PRESETS["PAPER"])
    target.streams = (n,)
    subject = Subject("short", target, torch.bfloat16, torch.device("cpu"))
    verdict = examine(
        all_laws()["gradient.many-passes-may-wait"], subject, Profile(1, derandomise=True), directory=tmp_path
    )
    assert verdict.status == "passed"
