"""Execution: calls are pure, alike and forgetful, and autograd's modes do not matter.

What storage and shape must not change is in `execution_shapes`, what a poisoned input must show in `execution_poison`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mhc_ref import Mappings, Params
from properties.bounds import Approx
from properties.core.case import Case, map_tensors
from properties.core.implementation import Implementation, offers
from properties.core.law import Schedule
from properties.core.premises import deterministic, differentiable, where
from properties.core.trial import Trial, same_bits, wide
from properties.core.truth import present
from properties.laws import about, errors
from properties.laws.block import SIZES
from properties.laws.coefficients import agree
from properties.laws.gradient_block import block_gradient
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

COUNTS = (1, 2, 3, 5, 7, 31, 65, 130)
"""Numbers of tokens around the sizes of tiles, none a multiple of one."""

FIXED = ("zero", "constant")
"""Branches whose output does not depend on roundings of their input."""

# -- purity ------------------------------------------------------------------------------------------------------------


@about.project(
    "execution.projection-leaves-its-input-alone", "contract", lambda s: projection_cases(s, patterns=MODERATE, most=3)
)
def projection_leaves_its_input_alone(trial: Trial, case: Case) -> None:
    """project does not write to its logits.

    A kernel that works in place corrupts a bias that is used again in the next step.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        logits = place(case.logits).clone()
        target.project(logits)
        return logits

    after = trial.observe("project", run)
    trial.holds("logits after the call", torch.equal(after, case.logits), "changed", "as before")


@about.mappings("execution.mappings-leave-their-input-alone", "contract", lambda s: coefficient_cases(s, most=2))
def mappings_leave_their_input_alone(trial: Trial, case: Case) -> None:
    """mappings writes neither to the state nor to the parameters.

    The same parameters serve every step, and the state is still needed for the residual path.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        x, params = place(case.x).clone(), map_tensors(place(case.params), torch.clone)
        target.mappings(x, params)
        return (x, *present(params))

    after = trial.observe("mappings", run)
    for name, one, before in zip(("x", *Params._fields), after, (case.x, *present(case.params)), strict=False):
        trial.holds(f"{name} after the call", torch.equal(one, before), "changed", "as before")


@about.block("execution.blocks-leave-their-input-alone", "contract", lambda s: block_cases(s, most=2, scales=SIZES))
def blocks_leave_their_input_alone(trial: Trial, case: Case) -> None:
    """A block writes neither to its state nor to its parameters.

    Whoever recomputes activations, or reads the state before the block, needs it unchanged.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        x, params = place(case.x).clone(), map_tensors(place(case.params), torch.clone)
        target.block(x, params, map_tensors(case.branch, place))
        return (x, *present(params))

    after = trial.observe("block", run)
    for name, one, before in zip(("x", *Params._fields), after, (case.x, *present(case.params)), strict=False):
        trial.holds(f"{name} after the call", torch.equal(one, before), "changed", "as before")


def mixtures(trial: Trial, case: Case) -> list[tuple[str, tuple[Tensor, ...]]]:
    """The calls that mix a case of `matrix_cases`: post, and pre where it is offered."""
    calls: list[tuple[str, tuple[Tensor, ...]]] = [("post", (case.x, case.y, case.h_post, case.h_res))]
    if "pre" in offers(trial.implementation):
        calls.append(("pre", (case.x, case.h_post)))
    return calls


def mixture_bound(trial: Trial, case: Case, method: str) -> Approx:
    """What `post` or `pre` of a case of `matrix_cases` must give, with its bound."""
    if method == "pre":
        return errors.pre(trial, case.x, case.h_post)
    return errors.post(trial, case.x, case.h_res, case.y, case.h_post)


@about.post("execution.pre-and-post-leave-their-inputs-alone", "contract", matrix_cases, schedule=Schedule(cost=2))
def pre_and_post_leave_their_inputs_alone(trial: Trial, case: Case) -> None:
    """Neither pre nor post writes to the state, to the branch output or to the mappings.

    The state is read by both, and the mappings are kept for the backward pass.
    """
    for method, given in mixtures(trial, case):

        def run(
            target: Implementation,
            place: Callable[[Any], Any],
            method: str = method,
            given: tuple[Tensor, ...] = given,
        ) -> Any:
            placed = tuple(place(one).clone() for one in given)
            getattr(target, method)(*placed)
            return placed

        names = ("the state", "the branch output", "h_post", "h_res") if method == "post" else ("the state", "h_pre")
        for name, after, before in zip(names, trial.observe(method, run), given, strict=True):
            trial.holds(f"{name} after {method}", torch.equal(after, before), "changed", "as before")


# -- determinism and memory ------------------------------------------------------------------------------------------


@about.project(
    "execution.projection-is-deterministic",
    "contract",
    lambda s: projection_cases(s, patterns=MODERATE, most=3),
    deterministic,
)
def projection_is_deterministic(trial: Trial, case: Case) -> None:
    """The same call on the same storage gives the same bits.

    Declared by `deterministic`; races and atomic sums break it.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        logits = place(case.logits)
        return tuple(target.project(logits).detach().clone() for _ in range(3))

    first, *others = trial.observe("project", run)
    trial.holds("the same call again", all(same_bits(first, other) for other in others), "other bits", "the same bits")


@about.block(
    "execution.blocks-are-deterministic", "contract", lambda s: block_cases(s, most=3, scales=SIZES), deterministic
)
def blocks_are_deterministic(trial: Trial, case: Case) -> None:
    """The same block on the same storage gives the same bits.

    Declared by `deterministic`.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        x, params, branch = place(case.x), place(case.params), map_tensors(case.branch, place)
        return tuple(target.block(x, params, branch).detach().clone() for _ in range(3))

    first, *others = trial.observe("block", run)
    trial.holds("the same call again", all(same_bits(first, other) for other in others), "other bits", "the same bits")


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

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        storage = place(case.logits).clone()
        first = target.project(storage).detach().clone()
        storage.copy_(place(case.other))
        second = target.project(storage).detach().clone()
        fresh = target.project(place(case.other).clone()).detach().clone()
        again = target.project(place(case.logits).clone()).detach().clone()
        return first, second, fresh, again

    first, second, fresh, again = trial.observe("project", run)
    trial.near("h_res of new logits in old storage", second, wide(fresh), 2 * errors.projected(trial, case.other))
    trial.near("h_res of the first logits again", again, wide(first), 2 * errors.projected(trial, case.logits))
    expected = trial.truth.project(case.other)
    trial.within("h_res of new logits in old storage", second, expected, errors.projected(trial, case.other))


@st.composite
def another(draw: DrawFn, case: Case) -> Case:
    """The case with another state and other parameters of the same shapes beside its own."""
    seed = draw(seeds)
    moved = [
        part + torch.tensor(noise(seed + k + 1, *part.shape)).to(part) / (4 * part.shape[0] ** (0.5 if k == 0 else 0))
        for k, part in enumerate(present(case.params))
    ]
    other = torch.tensor(noise(seed, *case.x.shape)).to(case.x.dtype)
    return case.with_(other=other, other_params=Params(*moved))


@st.composite
def two_states(draw: DrawFn, setting: Setting) -> Case:
    """Two states of the same shape, each with parameters, for a block with a constant branch."""
    return draw(another(draw(block_cases(setting, most=2, scales=SIZES, kinds=FIXED))))


@about.block("execution.blocks-have-no-memory", "identity", two_states, blind=about.ALIKE)
def blocks_have_no_memory(trial: Trial, case: Case) -> None:
    """New states and parameters in the same storage, and the first ones again, pass a block as if never called before.

    Calls are independent; a buffer that survives one is a bug in the next, and weights that were folded or cast once
    and kept by address go stale at the first step of an optimiser.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, branch = map_tensors(place(case.params), torch.clone), map_tensors(case.branch, place)
        storage = place(case.x).clone()
        first = target.block(storage, params, branch).detach().clone()
        storage.copy_(place(case.other))
        for old, new in zip(present(params), present(case.other_params), strict=True):
            old.copy_(place(new))
        second = target.block(storage, params, branch).detach().clone()
        others = map_tensors(place(case.other_params), torch.clone)
        fresh = target.block(place(case.other).clone(), others, branch).detach().clone()
        again = target.block(place(case.x).clone(), place(case.params), branch).detach().clone()
        return first, second, fresh, again

    first, second, fresh, again = trial.observe("block", run)
    y, z = case.branch(case.x[..., 0, :]), case.branch(case.other[..., 0, :])
    slack = 2 * errors.block(trial, case.other, case.other_params, z)
    trial.near("a block on new values in old storage", second, wide(fresh), slack)
    trial.near("a block on the first values again", again, wide(first), 2 * errors.block(trial, case.x, case.params, y))


@about.mappings(
    "execution.mappings-have-no-memory",
    "contract",
    lambda s: coefficient_cases(s, most=2, scales=SIZES).flatmap(another),
    blind=about.ALIKE,
    schedule=Schedule(cost=2),
)
def mappings_have_no_memory(trial: Trial, case: Case) -> None:
    """New states and parameters in the same storage, and the first ones again, are mapped as if never called before.

    Weights that were folded or cast once and kept by address go stale at the first step of an optimiser; what was
    returned is not changed by the next call; and the same call has the same bits where that is declared.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        emitted = [k for k, name in enumerate(Mappings._fields) if name in target.emits]

        def kept(found: Any) -> tuple[Tensor, ...]:
            return tuple(found[k].detach().clone() for k in emitted)

        x, params = place(case.x).clone(), map_tensors(place(case.params), torch.clone)
        returned = target.mappings(x, params)
        first, twice = kept(returned), kept(target.mappings(x, params))
        x.copy_(place(case.other))
        for storage, value in zip(present(params), present(case.other_params), strict=True):
            storage.copy_(place(value))
        second = kept(target.mappings(x, params))
        fresh = kept(target.mappings(place(case.other).clone(), map_tensors(place(case.other_params), torch.clone)))
        again = kept(target.mappings(place(case.x).clone(), map_tensors(place(case.params), torch.clone)))
        return first, twice, kept(returned), second, fresh, again

    first, twice, later, second, fresh, again = trial.observe("mappings", run)
    names = [name for name in Mappings._fields if name in trial.implementation.emits]
    one = errors.mappings(trial, case.x, case.params).parts()
    two = errors.mappings(trial, case.other, case.other_params).parts()
    for k, name in enumerate(names):
        if trial.implementation.deterministic:
            trial.holds(f"h_{name} of the same call", same_bits(first[k], twice[k]), "other bits", "the same bits")
        trial.holds(f"h_{name} after further calls", same_bits(first[k], later[k]), "changed", "as returned")
        trial.near(f"h_{name} of new values in old storage", second[k], wide(fresh[k]), 2 * two[name].error)
        trial.near(f"h_{name} of the first values again", again[k], wide(first[k]), 2 * one[name].error)


@about.post("execution.pre-and-post-have-no-memory", "identity", matrix_cases, schedule=Schedule(cost=2))
def pre_and_post_have_no_memory(trial: Trial, case: Case) -> None:
    """New values in the same storage pass pre and post as if nothing had been called before, and outputs stay.

    As for blocks, for implementations that offer the parts alone. The same call twice has the same bits where that is
    declared.
    """
    for method, given in mixtures(trial, case):

        def run(
            target: Implementation,
            place: Callable[[Any], Any],
            method: str = method,
            given: tuple[Tensor, ...] = given,
        ) -> Any:
            storage = tuple(place(one).clone() for one in given)
            returned = getattr(target, method)(*storage)
            first = returned.detach().clone()
            twice = getattr(target, method)(*storage).detach().clone()
            for one in storage[:-1]:  # h_res, which may have to be the identity, stays
                one.mul_(-0.5)
            second = getattr(target, method)(*storage).detach().clone()
            fresh = getattr(target, method)(*(one.clone() for one in storage)).detach().clone()
            return first, returned.detach().clone(), twice, second, fresh

        first, later, twice, second, fresh = trial.observe(method, run)
        trial.holds(f"the first output of {method} later on", same_bits(first, later), "changed", "as returned")
        if trial.implementation.deterministic:
            trial.holds(f"the same {method} again", same_bits(first, twice), "other bits", "the same bits")
        # No product has grown, so the bound of the first values covers these.
        slack = 2 * mixture_bound(trial, case, method).error
        trial.near(f"{method} of new values in old storage", second, wide(fresh), slack)


@about.block("execution.outputs-outlive-the-next-call", "contract", two_states, blind=about.ALIKE)
def outputs_outlive_the_next_call(trial: Trial, case: Case) -> None:
    """What a block returned is not changed by the next call.

    An output buffer that is used again is still being read by whoever got it first.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, branch = place(case.params), map_tensors(case.branch, place)
        first = target.block(place(case.x).clone(), params, branch)
        copy = first.detach().clone()
        target.block(place(case.other).clone(), params, branch)
        return first.detach().clone(), copy

    after, before = trial.observe("block", run)
    trial.holds("the first output after a second call", same_bits(after, before), "changed", "as returned")


@about.project("execution.projections-outlive-the-next-call", "contract", two_projections, blind=about.ALIKE)
def projections_outlive_the_next_call(trial: Trial, case: Case) -> None:
    """What project returned is not changed by the next call.

    As for blocks.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        first = target.project(place(case.logits).clone())
        copy = first.detach().clone()
        target.project(place(case.other).clone())
        return first.detach().clone(), copy

    after, before = trial.observe("project", run)
    trial.holds("the first h_res after a second call", same_bits(after, before), "changed", "as returned")


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

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        x, params = place(case.x), place(case.params)
        leaves = map_tensors(params, lambda t: t.clone().requires_grad_())
        recorded = target.mappings(x.clone().requires_grad_(), leaves)
        with torch.no_grad():
            quiet = target.mappings(x, params)
        with torch.inference_mode():
            fast = target.mappings(x.clone(), params)
        return tuple(
            tuple(torch.empty(0) if part is None else part.detach().clone() for part in found)  # pyright: ignore[reportUnnecessaryComparison]  # what is not emitted
            for found in (recorded, quiet, fast)
        )

    recorded, quiet, fast = (Mappings(*found) for found in trial.observe("mappings", run))
    slack = errors.mappings(trial, case.x, case.params)
    agree(trial, "under no_grad", quiet, recorded, slack, double=True)
    agree(trial, "in inference mode", fast, recorded, slack, double=True)


@about.project(
    "execution.gradient-mode-does-not-change-h-res",
    "identity",
    lambda s: projection_cases(s, patterns=MODERATE, most=2),
    where(depends_on_logits),
    differentiable,
    blind=about.ALIKE,
    schedule=Schedule(cost=2),
)
def gradient_mode_does_not_change_h_res(trial: Trial, case: Case) -> None:
    """h_res is the same with gradients recorded, under no_grad, and in inference mode.

    As for mappings: two paths through one function.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        logits = place(case.logits)
        recorded = target.project(logits.clone().requires_grad_())
        with torch.no_grad():
            quiet = target.project(logits)
        with torch.inference_mode():
            fast = target.project(logits.clone()).clone()
        return recorded, quiet, fast

    recorded, quiet, fast = trial.observe("project", run)
    slack = 2 * errors.projected(trial, case.logits)
    trial.near("h_res under no_grad", quiet, wide(recorded), slack)
    trial.near("h_res in inference mode", fast, wide(recorded), slack)


@about.block(
    "execution.recomputation-does-not-matter",
    "identity",
    lambda s: block_cases(s, most=2, scales=SIZES, kinds=FIXED),
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
            out: Any = forward(*leaves) if kept else checkpoint(forward, *leaves, use_reentrant=False)
            grads = (
                torch.autograd.grad(out, leaves, ramp(out), allow_unused=True)
                if out.requires_grad
                else [None] * len(leaves)
            )
            found += [
                out.detach(),
                *(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, grads, strict=True)),
            ]
        with torch.no_grad():
            quiet = target.block(place(case.x), params, branch)
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
    bounded = block_gradient(case.with_(cotangent=ramp(case.x)), trial)
    for name, kept, again, bound in zip(NAMES, found[1:half], found[half + 1 :], bounded, strict=False):
        trial.near(
            f"the gradient by {name} under recomputation", again, wide(kept), 2 * bound.error.reshape(kept.shape)
        )


def ramp(like: Tensor) -> Tensor:
    """1, 2, 3, ... of that shape, dtype and device."""
    return torch.arange(1, like.numel() + 1, device=like.device, dtype=like.dtype).reshape(like.shape)
