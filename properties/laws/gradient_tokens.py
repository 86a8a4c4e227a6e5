"""Gradient: through branches that mix tokens, as attention does, of a block, of layers and of a stack.

What such a branch returns, and what it hands back, lies [C, tokens] in memory, and tokens whose own cotangent is zero
have a gradient through those that have read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Branch, Params
from properties import bounds
from properties.bounds import Approx, Pullback
from properties.bounds.token_mix import TokenMix
from properties.core.case import Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import HERE, differentiable
from properties.core.pulling import pulled_back
from properties.core.trial import Trial
from properties.core.truth import present
from properties.laws import about
from properties.laws.calls import Place
from properties.laws.gradient_branches import Calling
from properties.laws.gradient_depth import judge_layers, quiet_pulls
from properties.laws.gradient_losses import is_read_first
from properties.laws.premises import fused, mixes_in_compute_dtype
from properties.strategies import TAME, Setting, noise, params_of_layers, quietened, seeds
from properties.strategies.sweeps import main_streams

ONCE = Schedule(cost=5, by_streams=False, most=2, crowds=False)
TOKENS, MASKED = 132, 64
"""Two sequences of more than a tile of tokens, or one of more than two; a tile of them has no cotangent."""

Bound = Callable[[list[TokenMix]], tuple[Approx, Sequence[Pullback]]]


def mixing(tokens: int, sequences: int) -> Tensor:
    """S, where each token has half of itself and half of the one as far from the other end of its sequence."""
    each = tokens // sequences
    half = 0.5 * (torch.eye(each, dtype=torch.float64) + torch.eye(each, dtype=torch.float64).flip(0))
    return torch.block_diag(*[half] * sequences)


def _branch(weight: Tensor, matrix: Tensor, strided: bool = True) -> Branch:
    """Such a branch; what it returns is a view only where views are taken, its gradient lies as that of a view does
    either way."""

    def called(u: Tensor) -> Tensor:
        tokens = u.shape[-2]
        own = matrix[:tokens, :tokens].to(u)  # of one sequence
        mixed = ((u.mT.contiguous() @ own.mT) * weight.unsqueeze(-1)).mT  # its gradient is no longer laid out as u is
        return mixed if strided else mixed.contiguous()

    return called


@st.composite
def many_tokens(draw: DrawFn, setting: Setting, depth: int) -> Case:
    """A state of many tokens in one sequence or two, quiet layers, the weights of their branches, and a cotangent that
    is zero for a tile of tokens."""
    tokens = max(1, min(TOKENS, setting.max_tokens) // 2 * 2)
    frame = setting.with_(streams=(main_streams(setting),))  # of one stream the second example would be, too
    case, seed = draw(quiet_pulls(frame, depth, tokens)), draw(seeds)
    bar = torch.tensor(noise(seed + 50, *case.x.shape)).to(setting.dtype)
    bar[: min(MASKED, tokens // 2)] = 0.0
    width = case.x.shape[-1]
    weights = tuple((0.5 + 0.25 * torch.tensor(noise(seed + k, width))).to(setting.dtype) for k in range(depth))
    sequences = 1 + (tokens > 1 and draw(st.booleans()))
    return Case(x=case.x, params=case.params, weights=weights, cotangent=bar, sequences=sequences)


@st.composite
def many_tokens_of_a_stack(draw: DrawFn, setting: Setting) -> Case:
    """The same of one stream, with a head where there is one."""
    case = draw(many_tokens(setting, 3))
    n, channels = case.x.shape[-2:]
    heads = int(end_of(setting.dialect).HEAD)
    head = tuple(map(quietened, draw(params_of_layers(setting, n, channels, heads, gates=(1.0, 0.5), patterns=TAME))))
    h, bar = (one[:, 0].clone() for one in (case.x, case.cotangent))
    return Case(h=h, n=n, params=case.params, weights=case.weights, head=head, cotangent=bar, sequences=case.sequences)


def pass_through(
    trial: Trial, case: Case, method: str, given: Tensor, every: tuple[Params, ...], call: Calling, bound: Bound
) -> None:
    """Hold the gradients by `given` and by all parameters to the chain rule through such branches."""
    tokens = given.shape[0]
    sequences = case.sequences if tokens % case.sequences == 0 else 1
    matrix = mixing(tokens, sequences)

    def run(target: Implementation, place: Place) -> Any:
        def on_axes(one: Tensor) -> Tensor:
            return one.unflatten(0, (sequences, tokens // sequences)) if sequences > 1 else one

        state = place(given).clone().requires_grad_()
        parts = map_tensors(map_tensors(place(every), torch.clone), Tensor.requires_grad_)
        read: list[Tensor] = []

        def noting(branch: Branch) -> Branch:
            def called(u: Tensor) -> Tensor:
                read.append(u.detach().clone())
                return branch(u)

            return called

        strided = trial.implementation.strided
        first, *others = [_branch(place(weight), place(matrix), strided) for weight in case.weights]
        out = call(target, on_axes(state), parts, [noting(first), *others])
        leaves = [state, *(part for one in parts for part in present(one))]
        found = pulled_back([out], leaves, [on_axes(place(case.cotangent).clone())])
        return tuple(one.reshape(tokens, -1) for one in read[:1]), tuple(found)

    read, got = trial.observe(method, run)
    n, depth = case.n if "n" in case else 0, len(case.weights)
    is_read_first(trial, method, given, n, every[0], read)
    found = bound([TokenMix(matrix, weight) for weight in case.weights])
    whole = case.with_(params=every[:depth], head=every[depth:])
    judge_layers(trial, whole, got, None, "h" if n else "x", *found)


@about.block(
    "gradient.a-branch-may-mix-tokens",
    "oracle",
    lambda s: many_tokens(s, 1),
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=ONCE,
)
def a_branch_may_mix_tokens(trial: Trial, case: Case) -> None:
    """The gradients of a block whose branch mixes tokens are those of the chain rule, for a cotangent that is zero for
    a tile of tokens, too.

    F(u) = S (w u) hands back w S^T of what it is given, which lies as a product of [C, tokens] does. A token without a
    cotangent of its own is no padding: others have read it.
    """
    every = tuple(case.params)

    def bound(branches: list[TokenMix]) -> tuple[Approx, Sequence[Pullback]]:
        given = (Approx.exact(case.x), every, branches, Approx.exact(case.cotangent))
        found = bounds.pullback.layers(*given, trial.dialect, trial.rounding)
        return found[0].x, found

    def call(target: Implementation, x: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.block(x, params[0], branches[0])

    pass_through(trial, case, "block", case.x, every, call, bound)


@about.layers(
    "gradient.branches-of-layers-may-mix-tokens",
    "oracle",
    lambda s: many_tokens(s, 3),
    fused("layers"),
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=ONCE,
)
def branches_of_layers_may_mix_tokens(trial: Trial, case: Case) -> None:
    """The gradients of several layers whose branches mix tokens are those of the chain rule.

    As for a block; a tile of tokens that is passed over in one layer is read by others in the next.
    """

    def bound(branches: list[TokenMix]) -> tuple[Approx, Sequence[Pullback]]:
        given = (Approx.exact(case.x), case.params, branches, Approx.exact(case.cotangent))
        found = bounds.pullback.layers(*given, trial.dialect, trial.rounding)
        return found[0].x, found

    def call(target: Implementation, x: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.layers(x, params, branches)

    pass_through(trial, case, "layers", case.x, case.params, call, bound)


@about.stack(
    "gradient.branches-of-stacks-may-mix-tokens",
    "oracle",
    many_tokens_of_a_stack,
    fused("stack"),
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=ONCE,
)
def branches_of_stacks_may_mix_tokens(trial: Trial, case: Case) -> None:
    """The gradients of a whole stack whose branches mix tokens are those of the chain rule.

    As for layers.
    """

    def bound(branches: list[TokenMix]) -> tuple[Approx, Sequence[Pullback]]:
        given = (case.h, case.n, case.params, branches, case.head, case.cotangent)
        return bounds.pullback.stack(*given, trial.dialect, trial.rounding)

    def call(target: Implementation, h: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.stack(h, params, branches)

    pass_through(trial, case, "stack", case.h, (*case.params, *case.head), call, bound)
