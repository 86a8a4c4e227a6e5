"""Execution: calls are pure, alike and forgetful, and autograd's modes do not matter.

What shapes must not change is in `execution_shapes`, what a poisoned input must show in `execution_poison`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from properties.core.case import Case, map_tensors
from properties.core.family import mix_of
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import deterministic, differentiable, where
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.core.truth import present
from properties.laws import about, calls, errors, memory
from properties.laws.block import SIZES
from properties.laws.gradient_mappings import NAMES
from properties.laws.mixing import matrix_cases
from properties.laws.premises import depends_on_logits, mixes_in_compute_dtype
from properties.strategies import (
    MODERATE,
    Setting,
    block_cases,
    coefficient_cases,
    logits_of,
    noise,
    projection_cases,
    seeds,
    streams,
)

# -- purity ------------------------------------------------------------------------------------------------------------


@about.project(
    "execution.projection-leaves-its-input-alone", "contract", lambda s: projection_cases(s, patterns=MODERATE, most=3)
)
def projection_leaves_its_input_alone(trial: Trial, case: Case) -> None:
    """project does not write to its logits.

    A kernel that works in place corrupts a bias that is used again in the next step.
    """
    memory.leaves_arguments_alone(trial, calls.projection(trial, case.logits))


@about.mappings("execution.mappings-leave-their-input-alone", "contract", lambda s: coefficient_cases(s, most=2))
def mappings_leave_their_input_alone(trial: Trial, case: Case) -> None:
    """mappings writes neither to the state nor to the parameters.

    The same parameters serve every step, and the state is still needed for the residual path.
    """
    memory.leaves_arguments_alone(trial, calls.mappings(trial, case.x, case.params))


@about.block("execution.blocks-leave-their-input-alone", "contract", lambda s: block_cases(s, most=2, scales=SIZES))
def blocks_leave_their_input_alone(trial: Trial, case: Case) -> None:
    """A block writes neither to its state nor to its parameters, also where its state is what it returned last.

    Whoever recomputes activations, or reads the state before the block, needs it unchanged.
    """
    memory.leaves_arguments_alone(trial, calls.block(trial, case.x, case.params, case.branch))


@about.post("execution.pre-and-post-leave-their-inputs-alone", "contract", matrix_cases, schedule=about.HALF)
def pre_and_post_leave_their_inputs_alone(trial: Trial, case: Case) -> None:
    """Neither pre nor post writes to the state, to the branch output or to the mappings.

    The state is read by both, and the mappings are kept for the backward pass.
    """
    for call in calls.mixtures(trial, case):
        memory.leaves_arguments_alone(trial, call)


# -- determinism and memory ------------------------------------------------------------------------------------------


@about.project(
    "execution.projection-is-deterministic",
    "contract",
    lambda s: projection_cases(s, patterns=MODERATE, most=3),
    deterministic,
)
def projection_is_deterministic(trial: Trial, case: Case) -> None:
    """The same call on the same storage gives the same bits.

    Declared by `deterministic`; races and atomic sums break it. Numbers are compared: -0 is 0.
    """
    memory.repeats_bits(trial, calls.projection(trial, case.logits))


@about.block(
    "execution.blocks-are-deterministic", "contract", lambda s: block_cases(s, most=3, scales=SIZES), deterministic
)
def blocks_are_deterministic(trial: Trial, case: Case) -> None:
    """The same block on the same storage gives the same bits.

    Declared by `deterministic`. Numbers are compared: -0 is 0.
    """
    memory.repeats_bits(trial, calls.block(trial, case.x, case.params, case.branch))


@st.composite
def two_projections(draw: DrawFn, setting: Setting) -> Case:
    """Two batches of logits of the same shape."""
    n = draw(streams(setting, 1, 5))
    first = draw(logits_of(setting, n, least=1, most=3, patterns=MODERATE))
    second = draw(logits_of(setting, n, least=first.shape[0], most=first.shape[0], patterns=MODERATE))
    return Case(logits=first, other=second)


@about.project(
    "execution.projection-has-no-memory", "identity", two_projections, where(depends_on_logits), blind=about.SYMMETRIC
)
def projection_has_no_memory(trial: Trial, case: Case) -> None:
    """New logits in the same storage, and the first ones again, are projected as if nothing had been called before.

    A result cached by address or shape, or a state kept between calls, shows here.
    """
    call, other = calls.projection(trial, case.logits), calls.projection(trial, case.other)
    (second,) = memory.has_no_memory(trial, call, other)
    # Without a formula, a call in another storage says what was to be expected.
    known = mix_of(trial.dialect).known
    expected = trial.truth.project(case.other) if known else wide(trial.project(case.other))
    trial.within("h_res of new logits in old storage", second, expected, errors.projected(trial, case.other))


@st.composite
def another(draw: DrawFn, setting: Setting, cases: st.SearchStrategy[Case]) -> Case:
    """A case with another state and other parameters of the same shapes beside its own; every gate of both may be
    shut, though not in a crowd, of which there is one example."""
    case = draw(cases)
    seed = draw(seeds)
    moved = [
        part + torch.tensor(noise(seed + k + 1, *part.shape)).to(part) / (4 * part.shape[0] ** (0.5 if k == 0 else 0))
        for k, part in enumerate(present(case.params))
    ]
    other = torch.tensor(noise(seed, *case.x.shape)).to(case.x.dtype)
    others = Params(*moved)
    if setting.crowd is None and draw(st.booleans()):  # static mappings, which need no state, are computed once perhaps
        shut = torch.zeros_like(case.params.alpha)
        case, others = case.with_(params=case.params._replace(alpha=shut)), others._replace(alpha=shut)
    return case.with_(other=other, other_params=others)


@st.composite
def two_states(draw: DrawFn, setting: Setting) -> Case:
    """Two states of the same shape, each with parameters, for a block with a constant branch."""
    return draw(another(setting, block_cases(setting, most=2, scales=SIZES, kinds=calls.FIXED)))


def two_blocks(trial: Trial, case: Case) -> tuple[calls.Call, calls.Call]:
    """The blocks of both states."""
    first = calls.block(trial, case.x, case.params, case.branch)
    others = case.other_params if "other_params" in case else case.params  # a file of an earlier release has one pair
    return first, calls.block(trial, case.other, others, case.branch)


@about.block("execution.blocks-have-no-memory", "identity", two_states, blind=about.ALIKE)
def blocks_have_no_memory(trial: Trial, case: Case) -> None:
    """New states and parameters in the same storage, and the first ones again, pass a block as if never called before.

    Calls are independent; a buffer that survives one is a bug in the next, and weights that were folded or cast once
    and kept by address go stale at the first step of an optimiser.
    """
    memory.has_no_memory(trial, *two_blocks(trial, case))


@about.mappings(
    "execution.mappings-have-no-memory",
    "contract",
    lambda s: another(s, coefficient_cases(s, most=2, scales=SIZES)),
    blind=about.ALIKE,
    schedule=about.HALF,
)
def mappings_have_no_memory(trial: Trial, case: Case) -> None:
    """New states and parameters in the same storage, and the first ones again, are mapped as if never called before.

    Weights that were folded or cast once and kept by address go stale at the first step of an optimiser; what was
    returned is not changed by the next call; and the same call has the same bits where that is declared.
    """
    call = calls.mappings(trial, case.x, case.params)
    memory.has_no_memory(trial, call, calls.mappings(trial, case.other, case.other_params), outputs=True)
    memory.each_parameter_is_read_anew(trial, case.x, case.params, case.other_params)


@about.post("execution.pre-and-post-have-no-memory", "identity", matrix_cases, schedule=about.HALF)
def pre_and_post_have_no_memory(trial: Trial, case: Case) -> None:
    """New values in the same storage pass pre and post as if nothing had been called before, and outputs stay.

    As for blocks, for implementations that offer the parts alone. The same call twice has the same bits where that is
    declared.
    """
    for call in calls.mixtures(trial, case):
        # h_res, which may have to be the identity, stays; products shrink, so the first bound covers these values.
        halved = tuple(-0.5 * one for one in call.given[:-1])
        memory.has_no_memory(trial, call, replace(call, given=(*halved, call.given[-1])), outputs=True)


# -- autograd modes --------------------------------------------------------------------------------------------------


@about.mappings(
    "execution.gradient-mode-does-not-matter",
    "identity",
    lambda s: coefficient_cases(s, most=2),
    differentiable,
    blind=about.ALIKE,
)
def gradient_mode_does_not_matter(trial: Trial, case: Case) -> None:
    """Mappings are the same with gradients recorded, under no_grad, and in inference mode.

    A fused path that is taken without gradients only must compute the same (TileKernels #22 dropped the norm weight
    there).
    """
    calls.does_not_see_autograd(trial, calls.mappings(trial, case.x, case.params))


@about.project(
    "execution.gradient-mode-does-not-change-h-res",
    "identity",
    lambda s: projection_cases(s, patterns=MODERATE, most=2),
    where(depends_on_logits),
    differentiable,
    blind=about.ALIKE,
    schedule=about.HALF,
)
def gradient_mode_does_not_change_h_res(trial: Trial, case: Case) -> None:
    """h_res is the same with gradients recorded, under no_grad, and in inference mode.

    As for mappings: two paths through one function.
    """
    calls.does_not_see_autograd(trial, calls.projection(trial, case.logits))


@about.block(
    "execution.recomputation-does-not-matter",
    "identity",
    lambda s: block_cases(s, most=2, scales=SIZES, kinds=calls.FIXED),
    differentiable,
    blind=about.ALIKE,
    schedule=Schedule(cost=1.5),
)
def recomputation_does_not_matter(trial: Trial, case: Case) -> None:
    """A block under activation checkpointing has the output and the gradients that it has without, and that output
    without gradients too.

    Recomputing evaluates the same function; a dtype or a state that differs the second time breaks it (Megatron-LM-FL
    #73). It need not repeat the same roundings, whose size depends on where a tensor lies and on the order of a race:
    the two agree within what their bounds allow together. Where mixing has no derived bound backwards, outputs are
    compared alone.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, branch = place(case.params), map_tensors(case.branch, place)

        def forward(x: Tensor, *parts: Tensor) -> Tensor:
            return target.block(x, Params(*parts), branch)

        found: list[Tensor] = []
        for kept in (True, False):
            leaves = [one.clone().requires_grad_() for one in (place(case.x), *present(params))]
            out: Any = forward(*leaves) if kept else _Checkpointed.apply(forward, *leaves)
            found += [out.detach(), *pulled_back([out], leaves, [ramp(out)])]
        with torch.no_grad():
            asking = calls.asking(map_tensors(params, torch.clone), calls.QUIET[1][0], trial)
            quiet = target.block(place(case.x), asking, branch)
        with torch.inference_mode():
            fast = target.block(place(case.x).clone(), params, branch).clone()
        return (*found, quiet, fast)

    *found, quiet, fast = trial.observe("block", run)
    half = len(found) // 2
    slack = 2 * errors.block(trial, case.x, case.params, case.branch(case.x[..., 0, :]))
    trial.near("the output under recomputation", found[half], wide(found[0]), slack)
    trial.near("the output under no_grad", quiet, wide(found[0]), slack)
    trial.near("the output in inference mode", fast, wide(found[0]), slack)
    if mixes_in_compute_dtype(trial.implementation, trial.dtype):
        return
    bounded = errors.block_gradient(trial, case.x, case.params, case.branch, ramp(case.x))
    for name, kept, again, bound in zip(NAMES, found[1:half], found[half + 1 :], bounded, strict=False):
        trial.near(
            f"the gradient by {name} under recomputation", again, wide(kept), 2 * bound.error.reshape(kept.shape)
        )


class _Checkpointed(torch.autograd.Function):
    """A function of tensors under activation checkpointing: run without gradients, and again in its backward pass.

    The one of `torch.utils.checkpoint` imports torch's compiler, which takes longer than most laws. By its name the
    gradients are taken so that checkpointing within it may be reentrant (`properties.core.pulling.gradients`).
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *leaves: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*leaves)
        return function(*leaves)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        leaves = [one.detach().requires_grad_() for one in ctx.saved_tensors]
        with torch.enable_grad():
            out = ctx.function(*leaves)
        return None, *pulled_back([out], leaves, grad_outputs)


def ramp(like: Tensor) -> Tensor:
    """1, 2, 3, ... of that shape, dtype and device."""
    return torch.arange(1, like.numel() + 1, device=like.device, dtype=like.dtype).reshape(like.shape)
