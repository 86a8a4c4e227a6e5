"""Execution: what must not matter (storage, batching, call order, autograd modes), and what must (every output
written)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mhc_ref import Mappings, Params
from properties import bounds
from properties.bounds import Approx
from properties.case import BranchSpec, Case, map_tensors
from properties.implementation import Implementation, offers
from properties.law import law
from properties.laws.block import SIZES
from properties.laws.coefficients import agree, bound_of
from properties.laws.gradient import differentiable
from properties.laws.mixing import applied, combined, matrix_cases, possible
from properties.laws.premises import depends_on_logits, free_matrix
from properties.strategies import (
    MODERATE,
    Setting,
    block_cases,
    channel_count,
    coefficient_cases,
    logits_of,
    noise,
    params_of,
    projection_cases,
    seeds,
    streams,
)
from properties.trial import Trial, wide


def projection_error(trial: Trial, logits: Tensor) -> Tensor:
    """The bound of h_res of these logits."""
    flat = (
        logits.reshape(-1, *logits.shape[-1:])
        if trial.dialect.residual == "permutations"
        else logits.reshape(-1, *logits.shape[-2:])
    )
    error = bounds.projection(Approx.exact(flat), trial.dialect, trial.rounding).error
    batch = logits.shape[:-1] if trial.dialect.residual == "permutations" else logits.shape[:-2]
    return error.reshape(*batch, *error.shape[-2:])


def block_error(trial: Trial, x: Tensor, params: Params, y: Tensor) -> Tensor:
    """The bound of a block of [tokens, n, C] whose branch gave y."""
    h = bound_of(trial, x, params)
    operator = Approx(applied(h.res.value, trial.dialect), applied(h.res.error, trial.dialect))
    return combined(x, operator, trial, y, h.post).error


COUNTS = (1, 2, 3, 5, 7, 31, 65, 130)
"""Numbers of tokens around the sizes of tiles, none a multiple of one."""

FIXED = ("zero", "constant")
"""Branches whose output does not depend on roundings of their input."""

# -- purity ------------------------------------------------------------------------------------------------------------


@law(
    kind="contract", stage="logits", needs=("project",), cases=lambda s: projection_cases(s, patterns=MODERATE, most=3)
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


@law(kind="contract", stage="state", needs=("mappings",), cases=lambda s: coefficient_cases(s, most=2))
def mappings_leave_their_input_alone(trial: Trial, case: Case) -> None:
    """mappings writes neither to the state nor to the parameters.

    The same parameters serve every step, and the state is still needed for the residual path.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        x, params = place(case.x).clone(), map_tensors(place(case.params), torch.clone)
        target.mappings(x, params)
        return (x, *differentiable(params))

    after = trial.observe("mappings", run)
    for name, one, before in zip(("x", *Params._fields), after, (case.x, *differentiable(case.params)), strict=False):
        trial.holds(f"{name} after the call", torch.equal(one, before), "changed", "as before")


@law(kind="contract", stage="state", needs=("block",), cases=lambda s: block_cases(s, most=2, scales=SIZES))
def blocks_leave_their_input_alone(trial: Trial, case: Case) -> None:
    """A block writes neither to its state nor to its parameters.

    Whoever recomputes activations, or reads the state before the block, needs it unchanged.
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        x, params = place(case.x).clone(), map_tensors(place(case.params), torch.clone)
        target.block(x, params, map_tensors(case.branch, place))
        return (x, *differentiable(params))

    after = trial.observe("block", run)
    for name, one, before in zip(("x", *Params._fields), after, (case.x, *differentiable(case.params)), strict=False):
        trial.holds(f"{name} after the call", torch.equal(one, before), "changed", "as before")


def _mixtures(trial: Trial, case: Case) -> list[tuple[str, tuple[Tensor, ...]]]:
    """The calls that mix a case of `matrix_cases`: post, and pre where it is offered."""
    calls: list[tuple[str, tuple[Tensor, ...]]] = [("post", (case.x, case.y, case.h_post, case.h_res))]
    if "pre" in offers(trial.implementation):
        calls.append(("pre", (case.x, case.h_post)))
    return calls


def _mixture_bound(trial: Trial, case: Case, method: str) -> Approx:
    """What `post` or `pre` of a case of `matrix_cases` must give, with its bound."""
    if method == "pre":
        weights, state = Approx.exact(case.h_post), Approx.exact(case.x)
        return bounds.stored(bounds.weighted_sum(weights, state, trial.rounding), trial.rounding)
    operator = Approx.exact(applied(case.h_res, trial.dialect))
    return combined(case.x, operator, trial, case.y, Approx.exact(case.h_post))


@law(kind="contract", stage="state", needs=("post",), cases=matrix_cases, cost=2)
def pre_and_post_leave_their_inputs_alone(trial: Trial, case: Case) -> None:
    """Neither pre nor post writes to the state, to the branch output or to the mappings.

    The state is read by both, and the mappings are kept for the backward pass.
    """
    for method, given in _mixtures(trial, case):

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


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal, NaN included."""
    return torch.equal(one.nan_to_num(nan=12345.0), other.nan_to_num(nan=12345.0))


@law(
    kind="contract",
    stage="logits",
    needs=("project",),
    cases=lambda s: projection_cases(s, patterns=MODERATE, most=3),
    capability="deterministic",
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


@law(
    kind="contract",
    stage="state",
    needs=("block",),
    cases=lambda s: block_cases(s, most=3, scales=SIZES),
    capability="deterministic",
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


@law(
    kind="identity",
    stage="logits",
    needs=("project",),
    cases=two_projections,
    applies=depends_on_logits,
    blind=("h-res-transposed",),
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
    trial.within("h_res of new logits in old storage", second, wide(fresh), 2 * projection_error(trial, case.other))
    trial.within("h_res of the first logits again", again, wide(first), 2 * projection_error(trial, case.logits))
    expected = trial.truth.project(case.other)
    trial.within("h_res of new logits in old storage", second, expected, projection_error(trial, case.other))


@st.composite
def another(draw: DrawFn, case: Case) -> Case:
    """The case with another state and other parameters of the same shapes beside its own."""
    seed = draw(seeds)
    moved = [
        part + torch.tensor(noise(seed + k + 1, *part.shape)).to(part) / (4 * part.shape[0] ** (0.5 if k == 0 else 0))
        for k, part in enumerate(differentiable(case.params))
    ]
    other = torch.tensor(noise(seed, *case.x.shape)).to(case.x.dtype)
    return case.with_(other=other, other_params=Params(*moved))


@st.composite
def two_states(draw: DrawFn, setting: Setting) -> Case:
    """Two states of the same shape, each with parameters, for a block with a constant branch."""
    return draw(another(draw(block_cases(setting, most=2, scales=SIZES, kinds=FIXED))))


@law(kind="identity", stage="state", needs=("block",), cases=two_states, blind=("h-res-transposed", "one-iteration"))
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
        for old, new in zip(differentiable(params), differentiable(case.other_params), strict=True):
            old.copy_(place(new))
        second = target.block(storage, params, branch).detach().clone()
        others = map_tensors(place(case.other_params), torch.clone)
        fresh = target.block(place(case.other).clone(), others, branch).detach().clone()
        again = target.block(place(case.x).clone(), place(case.params), branch).detach().clone()
        return first, second, fresh, again

    first, second, fresh, again = trial.observe("block", run)
    y, z = case.branch(case.x[..., 0, :]), case.branch(case.other[..., 0, :])
    slack = 2 * block_error(trial, case.other, case.other_params, z)
    trial.within("a block on new values in old storage", second, wide(fresh), slack)
    trial.within(
        "a block on the first values again", again, wide(first), 2 * block_error(trial, case.x, case.params, y)
    )


@law(
    kind="contract",
    stage="state",
    needs=("mappings",),
    cases=lambda s: coefficient_cases(s, most=2, scales=SIZES).flatmap(another),
    blind=("h-res-transposed", "one-iteration"),
    cost=2,
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
        for storage, value in zip(differentiable(params), differentiable(case.other_params), strict=True):
            storage.copy_(place(value))
        second = kept(target.mappings(x, params))
        fresh = kept(target.mappings(place(case.other).clone(), map_tensors(place(case.other_params), torch.clone)))
        again = kept(target.mappings(place(case.x).clone(), map_tensors(place(case.params), torch.clone)))
        return first, twice, kept(returned), second, fresh, again

    first, twice, later, second, fresh, again = trial.observe("mappings", run)
    names = [name for name in Mappings._fields if name in trial.implementation.emits]
    one = bound_of(trial, case.x, case.params).parts()
    two = bound_of(trial, case.other, case.other_params).parts()
    for k, name in enumerate(names):
        if trial.implementation.deterministic:
            trial.holds(f"h_{name} of the same call", same_bits(first[k], twice[k]), "other bits", "the same bits")
        trial.holds(f"h_{name} after further calls", same_bits(first[k], later[k]), "changed", "as returned")
        trial.within(f"h_{name} of new values in old storage", second[k], wide(fresh[k]), 2 * two[name].error)
        trial.within(f"h_{name} of the first values again", again[k], wide(first[k]), 2 * one[name].error)


@law(kind="identity", stage="state", needs=("post",), cases=matrix_cases, cost=2)
def pre_and_post_have_no_memory(trial: Trial, case: Case) -> None:
    """New values in the same storage pass pre and post as if nothing had been called before, and outputs stay.

    As for blocks, for implementations that offer the parts alone. The same call twice has the same bits where that is
    declared.
    """
    for method, given in _mixtures(trial, case):

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
        slack = 2 * _mixture_bound(trial, case, method).error
        trial.within(f"{method} of new values in old storage", second, wide(fresh), slack)


@law(
    kind="contract",
    stage="state",
    needs=("block",),
    cases=two_states,
    blind=("h-res-transposed", "one-iteration"),
)
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


@law(
    kind="contract",
    stage="logits",
    needs=("project",),
    cases=two_projections,
    blind=("h-res-transposed", "one-iteration"),
)
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


# -- storage and shape -----------------------------------------------------------------------------------------------


@law(
    kind="identity",
    stage="logits",
    needs=("project",),
    cases=lambda s: projection_cases(s, patterns=MODERATE, most=4),
    applies=depends_on_logits,
    capability="strided",
    blind=("h-res-transposed", "one-iteration"),
)
def projection_does_not_see_strides(trial: Trial, case: Case) -> None:
    """Transposed, sliced and expanded views of logits are projected like contiguous copies.

    A tensor is its values; a kernel that reads its storage as if it were contiguous reads others.
    """
    logits: Tensor = case.logits

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        plain = place(logits)
        turned = plain.transpose(-1, -2).contiguous().transpose(-1, -2)
        wider = torch.cat([plain, plain + 1], -1)[..., : plain.shape[-1]]
        spaced = torch.stack([plain, plain - 1], 1)[:, 0]
        expanded = plain[:1].expand(plain.shape)
        return tuple(target.project(view) for view in (plain.clone(), turned, wider, spaced, expanded))

    plain, *views = trial.observe("project", run)
    error = projection_error(trial, logits)
    for name, got in zip(
        ("a transposed view", "a slice of a wider tensor", "every second matrix", "an expanded view"),
        views,
        strict=True,
    ):
        if name == "an expanded view":
            trial.within(f"h_res of {name}", got, wide(plain)[:1].expand(got.shape), 2 * error[:1].expand(got.shape))
        else:
            trial.within(f"h_res of {name}", got, wide(plain), 2 * error)


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=lambda s: block_cases(s, most=3, scales=SIZES, kinds=FIXED),
    capability="strided",
    blind=("h-res-transposed", "one-iteration"),
)
def blocks_do_not_see_strides(trial: Trial, case: Case) -> None:
    """Sliced, transposed and expanded views of a state pass a block like contiguous copies.

    States come as slices of batches and of wider tensors (aiter #5292, #4432).
    """
    x: Tensor = case.x

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, branch, plain = place(case.params), map_tensors(case.branch, place), place(x)
        swapped = plain.transpose(-1, -2).contiguous().transpose(-1, -2)
        wider = torch.cat([plain, plain + 1], -1)[..., : plain.shape[-1]]
        spaced = torch.stack([plain, plain - 1], 1)[:, 0]
        tokens_last = plain.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        return tuple(
            target.block(view, params, branch) for view in (plain.clone(), swapped, wider, spaced, tokens_last)
        )

    plain, *views = trial.observe("block", run)
    slack = 2 * block_error(trial, x, case.params, case.branch(x[..., 0, :]))
    for name, got in zip(
        ("a transposed view", "a slice of wider channels", "every second token", "tokens innermost"), views, strict=True
    ):
        trial.holds(f"the shape for {name}", got.shape == plain.shape, str(tuple(got.shape)), str(tuple(plain.shape)))
        trial.within(f"a block on {name}", got, wide(plain), slack)


@law(
    kind="identity",
    stage="state",
    needs=("mappings",),
    cases=lambda s: coefficient_cases(s, most=3, scales=SIZES),
    capability="strided",
    blind=("h-res-transposed", "one-iteration"),
)
def mappings_do_not_see_strides(trial: Trial, case: Case) -> None:
    """Sliced and transposed views of state and phi give the mappings of contiguous copies.

    phi is often a slice of a larger weight, or the transpose of a stored one.
    """
    x: Tensor = case.x

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        plain, params = place(x), place(case.params)
        turned = params._replace(phi=params.phi.t().contiguous().t())
        swapped = plain.transpose(-1, -2).contiguous().transpose(-1, -2)
        spaced = torch.stack([plain, plain - 1], 1)[:, 0]
        calls = ((plain.clone(), params), (swapped, params), (spaced, params), (plain, turned))
        emitted = [k for k, name in enumerate(Mappings._fields) if name in target.emits]
        return tuple(tuple(target.mappings(*call)[k] for k in emitted) for call in calls)

    plain, *views = trial.observe("mappings", run)
    bound = bound_of(trial, x, case.params)
    names = [name for name in Mappings._fields if name in trial.implementation.emits]
    for what, got in zip(("a transposed view", "every second token", "a transposed phi"), views, strict=True):
        for name, one, other in zip(names, got, plain, strict=True):
            trial.within(f"h_{name} of {what}", one, wide(other), 2 * bound.parts()[name].error)


@law(
    kind="identity",
    stage="state",
    needs=("post",),
    cases=matrix_cases,
    capability="strided",
    blind=("h-res-transposed", "one-iteration"),
)
def post_does_not_see_strides(trial: Trial, case: Case) -> None:
    """Transposed and sliced views of h_res, h_post, y and x are combined like contiguous copies.

    The coefficients of one kernel are views into its output (aiter #5292 ignored their strides).
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        x, y, h_post, h_res = (place(one) for one in (case.x, case.y, case.h_post, case.h_res))
        turned = h_res.transpose(-1, -2).contiguous().transpose(-1, -2)
        packed = torch.cat([h_post, h_post + 1, h_res.flatten(-2)], -1)
        n = x.shape[-2]
        sliced, matrix = packed[..., :n], packed[..., 2 * n :].unflatten(-1, (n, n))
        spaced = torch.stack([y, y - 1], -1)[..., 0]
        swapped = x.transpose(-1, -2).contiguous().transpose(-1, -2)
        calls = (
            (x, y, h_post, h_res),
            (x, y, h_post, turned),
            (x, y, sliced, matrix),
            (swapped, spaced, h_post, h_res),
        )
        return tuple(target.post(*call) for call in calls)

    plain, *views = trial.observe("post", run)
    operator = Approx.exact(applied(case.h_res, trial.dialect))
    slack = 2 * combined(case.x, operator, trial, case.y, Approx.exact(case.h_post)).error
    for what, got in zip(("a transposed h_res", "slices of one packed tensor", "views of x and y"), views, strict=True):
        trial.within(f"post of {what}", got, wide(plain), slack)


@st.composite
def batched_cases(draw: DrawFn, setting: Setting) -> Case:
    """Logits and state for six tokens, to be arranged in several batch shapes."""
    n = draw(streams(setting, 1, 5))
    channels = draw(channel_count(9))
    params = draw(params_of(setting, n, channels))
    x = torch.tensor(noise(draw(seeds), 6, n, channels)).to(setting.dtype)
    return Case(x=x, params=params)


@law(kind="identity", stage="state", needs=("block",), cases=batched_cases, blind=("h-res-transposed", "one-iteration"))
def batch_shape_is_free(trial: Trial, case: Case) -> None:
    """Any number of token axes, none included, gives every token the same result.

    Tokens are independent: [6, n, C], [2, 3, n, C], [1, 6, 1, n, C] and six single calls hold the same tokens.
    """
    x: Tensor = case.x
    branch = BranchSpec("constant", torch.ones(x.shape[-1], dtype=x.dtype))

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, one = place(case.params), map_tensors(branch, place)
        shapes = ((6,), (2, 3), (1, 6, 1))
        found = [target.block(place(x).reshape(*shape, *x.shape[1:]), params, one) for shape in shapes]
        return (*found, torch.stack([target.block(token, params, one) for token in place(x)[:2]]))

    plain, *others = trial.observe("block", run)
    slack = 2 * block_error(trial, x, case.params, branch(x[..., 0, :]))
    for got, shape in zip(others, ((2, 3), (1, 6, 1), (2,)), strict=True):
        expected = (*shape, *x.shape[1:])
        trial.holds(
            f"the shape of a block of {shape} tokens",
            tuple(got.shape) == expected,
            str(tuple(got.shape)),
            str(expected),
        )
        count = 2 if shape == (2,) else 6
        trial.within(f"a block of {shape} tokens", got.reshape(-1, *x.shape[1:]), wide(plain)[:count], slack[:count])


@law(
    kind="identity",
    stage="state",
    needs=("mappings",),
    cases=batched_cases,
    blind=("h-res-transposed", "one-iteration"),
)
def mappings_take_any_batch_shape(trial: Trial, case: Case) -> None:
    """The mappings of tokens on one, two or three axes are those of the same tokens on one.

    Tokens are independent, whatever their arrangement.
    """
    x: Tensor = case.x

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params = place(case.params)
        emitted = [k for k, name in enumerate(Mappings._fields) if name in target.emits]
        shapes = ((6,), (2, 3), (1, 3, 2))
        found = [target.mappings(place(x).reshape(*shape, *x.shape[1:]), params) for shape in shapes]
        return tuple(tuple(one[k] for k in emitted) for one in found)

    plain, *others = trial.observe("mappings", run)
    bound = bound_of(trial, x, case.params)
    names = [name for name in Mappings._fields if name in trial.implementation.emits]
    for got, shape in zip(others, ((2, 3), (1, 3, 2)), strict=True):
        for name, one, other in zip(names, got, plain, strict=True):
            expected = (*shape, *other.shape[1:])
            trial.holds(f"the shape of h_{name}", tuple(one.shape) == expected, str(tuple(one.shape)), str(expected))
            trial.within(
                f"h_{name} of {shape} tokens", one.reshape(other.shape), wide(other), 2 * bound.parts()[name].error
            )


@st.composite
def batched_logits(draw: DrawFn, setting: Setting) -> Case:
    """Six matrices, of which some are equal where a call takes fewer tokens."""
    n = draw(streams(setting, 1, 5))
    logits = draw(logits_of(setting, n, least=6, most=6, patterns=MODERATE))
    return Case(logits=logits.repeat(6, *(1,) * (logits.ndim - 1))[:6])


@law(
    kind="identity",
    stage="logits",
    needs=("project",),
    cases=batched_logits,
    blind=("h-res-transposed", "one-iteration"),
)
def projection_takes_any_batch_shape(trial: Trial, case: Case) -> None:
    """Matrices on one, two or three axes, and on axes in another order, are projected as on one.

    Matrices are independent, whatever their arrangement.
    """
    logits: Tensor = case.logits
    rest = logits.shape[1:]

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        plain = place(logits)
        turned = plain.reshape(2, 3, *rest).transpose(0, 1).contiguous()
        shaped = (plain, plain.reshape(2, 3, *rest), plain.reshape(1, 3, 2, *rest), turned)
        return (*(target.project(one) for one in shaped), target.project(plain[0]))

    plain, *others, alone = trial.observe("project", run)
    error = projection_error(trial, logits)
    matrix = plain.shape[1:]
    for got, shape in zip(others, ((2, 3), (1, 3, 2), (3, 2)), strict=True):
        trial.holds(
            f"the shape for a batch {shape}",
            tuple(got.shape) == (*shape, *matrix),
            str(tuple(got.shape)),
            str((*shape, *matrix)),
        )
    back = (
        others[0].reshape(plain.shape),
        others[1].reshape(plain.shape),
        others[2].transpose(0, 1).reshape(plain.shape),
    )
    for got, shape in zip(back, ("(2, 3)", "(1, 3, 2)", "(3, 2)"), strict=True):
        trial.within(f"h_res of a batch {shape}", got, wide(plain), 2 * error)
    trial.within("h_res of one matrix without a batch axis", alone, wide(plain)[0], 2 * error[0])


@st.composite
def counted_cases(draw: DrawFn, setting: Setting) -> Case:
    """Many tokens, in numbers that are no multiple of any tile."""
    n = draw(streams(setting, 1, 4))
    channels = draw(st.sampled_from((1, 3, 33)))
    tokens = min(draw(st.sampled_from(COUNTS)), setting.max_tokens, 130 if n <= 4 else 31)  # a bound is O(n^4) a token
    x = torch.tensor(noise(draw(seeds), tokens, n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)))


@law(kind="oracle", stage="state", needs=("block",), cases=counted_cases, cost=3)
def every_token_is_computed(trial: Trial, case: Case) -> None:
    """Every token of 1, 2, 7, 31, 65 or 130 is computed, the last ones included.

    Grids that floor the number of tiles leave a tail unwritten; the block is compared with the reference for every
    token.
    """
    branch = BranchSpec("constant", torch.ones(case.x.shape[-1], dtype=case.x.dtype))
    out, seen = trial.block(case.x, case.params, branch)
    h = bound_of(trial, case.x, case.params)
    operator = Approx(applied(h.res.value, trial.dialect), applied(h.res.error, trial.dialect))
    expected = combined(case.x, operator, trial, seen[0].y, h.post)
    trial.within("the block", out, expected.value, expected.error)


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=counted_cases,
    cost=3,
    blind=("h-res-transposed", "one-iteration"),
)
def parts_of_a_batch_agree_with_the_whole(trial: Trial, case: Case) -> None:
    """A block of many tokens is the same block of its halves, and of its last token alone.

    Tokens are independent; a tail, a tile or an index that wraps around belongs to the whole only. No reference is
    involved.
    """
    x: Tensor = case.x
    branch = BranchSpec("constant", torch.ones(x.shape[-1], dtype=x.dtype))
    middle = (x.shape[0] + 1) // 2

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, one, state = place(case.params), map_tensors(branch, place), place(x)
        whole = target.block(state.clone(), params, one)
        halves = [target.block(part.clone(), params, one) for part in (state[:middle], state[middle:]) if len(part)]
        return whole, torch.cat(halves), target.block(state[-1:].clone(), params, one)

    whole, halves, last = trial.observe("block", run)
    slack = 2 * block_error(trial, x, case.params, branch(x[..., 0, :]))
    trial.holds("the shape of the whole", whole.shape == x.shape, str(tuple(whole.shape)), str(tuple(x.shape)))
    trial.within("the whole batch, against its halves", whole, wide(halves), slack)
    trial.within("the last token of the whole batch, against itself alone", whole[-1:], wide(last), slack[-1:])


@law(kind="oracle", stage="state", needs=("mappings",), cases=counted_cases, cost=3)
def every_token_has_its_mappings(trial: Trial, case: Case) -> None:
    """The mappings of 1, 2, 7, 31, 65 or 130 tokens are all computed, and those of no token are empty.

    As for blocks, for implementations that offer the mappings alone.
    """
    expected = trial.truth.mappings(case.x, case.params)
    agree(trial, "", trial.mappings(case.x, case.params), expected, bound_of(trial, case.x, case.params))
    if trial.implementation.zero_tokens:
        trial.mappings(case.x[:0], case.params)


@st.composite
def counted_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output for many tokens."""
    n, channels = draw(streams(setting)), draw(channel_count())
    tokens = min(draw(st.sampled_from((6, *COUNTS))), setting.max_tokens)
    seed, dtype = draw(seeds), setting.parameter_dtype
    shapes = ((n, channels), (channels,), (n,), (n, n))
    x, y, h_post, h_res = (torch.tensor(noise(seed + k, tokens, *shape)) for k, shape in enumerate(shapes))
    h_res = possible(h_res.to(dtype), setting.dialect)
    return Case(x=x.to(setting.dtype), y=y.to(setting.dtype), h_post=h_post.to(dtype), h_res=h_res)


@law(kind="oracle", stage="state", needs=("post",), cases=counted_mixtures, cost=2)
def every_token_is_read_and_mixed(trial: Trial, case: Case) -> None:
    """pre and post compute every token of many, on one token axis, on two and on none, and of no token nothing.

    As for blocks, for implementations that offer the parts alone.
    """
    tokens = case.x.shape[0]
    for method, given in _mixtures(trial, case):
        exact = _mixture_bound(trial, case, method)
        got = getattr(trial, method)(*given)
        trial.within(method, got, exact.value, exact.error)
        shape = (2, tokens // 2) if tokens % 2 == 0 else (1, tokens)
        paired = getattr(trial, method)(*(one.reshape(*shape, *one.shape[1:]) for one in given))
        trial.within(f"{method} on two token axes", paired.reshape(got.shape), exact.value, exact.error)
        alone = getattr(trial, method)(*(one[-1] for one in given))
        trial.within(f"{method} of one token", alone, exact.value[-1], exact.error[-1])
        if trial.implementation.zero_tokens:
            getattr(trial, method)(*(one[:0] for one in given))


@st.composite
def counted_logits(draw: DrawFn, setting: Setting) -> Case:
    """Many matrices."""
    n = draw(streams(setting, 1, 4))
    tokens = min(draw(st.sampled_from(COUNTS)), setting.max_tokens, 130 if n <= 4 else 31)  # a bound is O(n^4) a token
    if setting.dialect.residual == "permutations":
        return Case(logits=draw(logits_of(setting, n, least=1, most=2)).repeat(tokens, 1)[:tokens])
    return Case(logits=torch.tensor(noise(draw(seeds), tokens, n, n) * 2, dtype=setting.parameter_dtype))


@law(kind="oracle", stage="logits", needs=("project",), cases=counted_logits, cost=3, applies=depends_on_logits)
def every_matrix_is_projected(trial: Trial, case: Case) -> None:
    """Every matrix of a batch of 1, 2, 7, 31, 65 or 130 is projected, and by itself.

    As for tokens: tails, tiles, and stopping rules that look at a whole batch.
    """
    trial.within(
        "h_res", trial.project(case.logits), trial.truth.project(case.logits), projection_error(trial, case.logits)
    )


@st.composite
def empty_cases(draw: DrawFn, setting: Setting) -> Case:
    """No token at all."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(9))
    return Case(x=torch.zeros(0, n, channels, dtype=setting.dtype), params=draw(params_of(setting, n, channels)))


@law(kind="contract", stage="state", needs=("block",), cases=empty_cases, cost=4, capability="zero_tokens")
def no_token_is_a_legal_batch(trial: Trial, case: Case) -> None:
    """A batch without tokens gives an output without tokens.

    Experts and ranks run out of tokens; a grid of size 0 must not crash (sglang #38952).
    """
    trial.block(case.x, case.params, BranchSpec("identity"))


@law(
    kind="contract",
    stage="logits",
    needs=("project",),
    cases=lambda s: empty_logits(s),
    cost=4,
    capability="zero_tokens",
)
def no_matrix_is_a_legal_batch(trial: Trial, case: Case) -> None:
    """A batch without matrices gives an output without matrices.

    As for tokens.
    """
    trial.project(case.logits)


@st.composite
def empty_logits(draw: DrawFn, setting: Setting) -> Case:
    """A batch of no matrices."""
    n = draw(streams(setting, 1, 4))
    return Case(logits=draw(logits_of(setting, n, least=1, most=1))[:0])


# -- autograd modes --------------------------------------------------------------------------------------------------


@law(
    kind="identity",
    stage="state",
    needs=("mappings",),
    cases=lambda s: coefficient_cases(s, most=2),
    gradient=True,
    blind=("h-res-transposed", "one-iteration"),
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
    slack = bound_of(trial, case.x, case.params)
    agree(trial, "under no_grad", quiet, recorded, slack, double=True)
    agree(trial, "in inference mode", fast, recorded, slack, double=True)


@law(
    kind="identity",
    stage="logits",
    needs=("project",),
    cases=lambda s: projection_cases(s, patterns=MODERATE, most=2),
    gradient=True,
    applies=depends_on_logits,
    blind=("h-res-transposed", "one-iteration"),
    cost=2,
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
    slack = 2 * projection_error(trial, case.logits)
    trial.within("h_res under no_grad", quiet, wide(recorded), slack)
    trial.within("h_res in inference mode", fast, wide(recorded), slack)


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=lambda s: block_cases(s, most=2, scales=SIZES, kinds=FIXED),
    gradient=True,
    blind=("h-res-transposed", "one-iteration"),
    cost=1.5,
)
def recomputation_does_not_matter(trial: Trial, case: Case) -> None:
    """A block under activation checkpointing has the output and the gradients that it has without, and that output
    without gradients too.

    Recomputing must repeat the same arithmetic; a dtype or a state that differs the second time breaks it
    (Megatron-LM-FL #73).
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, branch = place(case.params), map_tensors(case.branch, place)

        def forward(x: Tensor, *parts: Tensor) -> Tensor:
            return target.block(x, Params(*parts), branch)

        found: list[Tensor] = []
        for kept in (True, False):
            leaves = [one.clone().requires_grad_() for one in (place(case.x), *differentiable(params))]
            out: Any = forward(*leaves) if kept else checkpoint(forward, *leaves, use_reentrant=False)
            weights = torch.arange(1, out.numel() + 1, device=out.device, dtype=out.dtype).reshape(out.shape)
            grads = (
                torch.autograd.grad(out, leaves, weights, allow_unused=True)
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

    found = trial.observe("block", run)
    *found, quiet, fast = found
    half = len(found) // 2
    slack = 2 * block_error(trial, case.x, case.params, case.branch(case.x[..., 0, :]))
    trial.within("the output under recomputation", found[half], wide(found[0]), slack)
    trial.within("the output under no_grad", quiet, wide(found[0]), slack)
    trial.within("the output in inference mode", fast, wide(found[0]), slack)
    for name, kept, again in zip(("x", *Params._fields), found[1:half], found[half + 1 :], strict=False):
        # The same code on the same numbers: nothing but the order of a reduction may differ.
        count = case.x.numel() + 16
        size = wide(kept).abs().amax() if kept.numel() else torch.zeros(())
        unit = trial.rounding.unit + trial.rounding.state_unit
        trial.within(
            f"the gradient by {name} under recomputation", again, wide(kept), (count * unit * size).expand(kept.shape)
        )


# -- honesty ---------------------------------------------------------------------------------------------------------


@st.composite
def poisoned_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state of three tokens, one of which has a NaN or an infinity."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(7))
    x = torch.tensor(noise(draw(seeds), 3, n, channels)).to(setting.dtype)
    poisoned = draw(st.integers(0, 2))
    where = draw(st.tuples(st.integers(0, n - 1), st.integers(0, channels - 1)))
    x[poisoned, where[0], where[1]] = draw(st.sampled_from((float("nan"), float("inf"))))
    return Case(x=x, params=draw(params_of(setting, n, channels, gates=(1.0, 0.5), least_phi=2)), poisoned=poisoned)


@law(
    kind="contract",
    stage="state",
    needs=("block",),
    cases=poisoned_cases,
    cost=2,
    blind=("h-res-transposed", "one-iteration"),
)
def poison_is_neither_hidden_nor_spread(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in a token reaches that token's output, and no other token's.

    0 * NaN is NaN: the residual path sums over all streams of the token; nothing sums over tokens. Replacing it by a
    number hides a divergence from everybody downstream.
    """
    branch = BranchSpec("constant", torch.ones(case.x.shape[-1], dtype=case.x.dtype))
    out, _ = trial.block(case.x, case.params, branch)
    finite = torch.isfinite(out).flatten(1).all(1)
    trial.holds(
        f"token {case.poisoned} with a NaN or an infinity",
        not bool(finite[case.poisoned]),
        "finite everywhere",
        "not finite",
    )
    others = [k for k in range(3) if k != case.poisoned]
    trial.holds("the other tokens", bool(finite[others].all()), "not finite", "finite")


@law(kind="contract", stage="state", needs=("mappings",), cases=poisoned_cases, cost=2)
def poison_reaches_the_mappings(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in a token leaves none of its mappings finite throughout, and touches no other token's.

    Its rms is not finite, so neither is its projection. Where only some streams are normalised with it, only their
    share is lost.
    """
    got = trial.mappings(case.x, case.params)
    others = [k for k in range(3) if k != case.poisoned]
    for name in Mappings._fields:
        if name not in trial.implementation.emits or (name == "res" and depends_on_logits(trial.dialect)):
            continue
        finite = torch.isfinite(getattr(got, name)).flatten(1).all(1)
        trial.holds(
            f"h_{name} of token {case.poisoned} with a NaN or an infinity",
            not bool(finite[case.poisoned]),
            "finite everywhere",
            "not finite",
        )
        trial.holds(f"h_{name} of the other tokens", bool(finite[others].all()), "not finite", "finite")


@st.composite
def poisoned_logits(draw: DrawFn, setting: Setting) -> Case:
    """Three matrices of logits, one of which has a NaN."""
    n = draw(streams(setting, 1, 5))
    logits = draw(logits_of(setting, n, least=3, most=3, patterns=("normal",)))
    logits = logits.repeat(3, *(1,) * (logits.ndim - 1))[:3]  # where a call takes fewer tokens than three
    return Case(logits=logits, poisoned=draw(st.integers(0, 2)), entry=draw(seeds))


@law(kind="invariant", stage="logits", needs=("project",), cases=poisoned_logits, cost=2, applies=depends_on_logits)
def poison_reaches_h_res(trial: Trial, case: Case) -> None:
    """A NaN among the logits of a matrix leaves its h_res not finite, and touches no other matrix.

    Every scaling sums over it. Replacing it by a number hides a divergence from everybody downstream.
    """
    logits = case.logits.clone()
    flat = logits[case.poisoned].view(-1)
    flat[case.entry % flat.shape[0]] = float("nan")
    finite = torch.isfinite(trial.project(logits)).flatten(1).all(1)
    others = [k for k in range(3) if k != case.poisoned]
    trial.holds(f"h_res of matrix {case.poisoned} with a NaN", not bool(finite[case.poisoned]), "finite", "not finite")
    trial.holds("the other matrices", bool(finite[others].all()), "not finite", "finite")


@st.composite
def poisoned_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Three tokens, one of which has a NaN or an infinity in its state."""
    n, channels, seed, dtype = draw(streams(setting)), draw(channel_count(7)), draw(seeds), setting.parameter_dtype
    shapes = ((n, channels), (channels,), (n,), (n, n))
    x, y, h_post, h_res = (torch.tensor(noise(seed + k, 3, *shape)) for k, shape in enumerate(shapes))
    poisoned = draw(st.integers(0, 2))
    x[poisoned, seed % n, seed // 8 % channels] = draw(st.sampled_from((float("nan"), float("inf"))))
    h_res = possible(h_res.to(dtype), setting.dialect)
    mixture = Case(x=x.to(setting.dtype), y=y.to(setting.dtype), h_post=h_post.to(dtype), h_res=h_res)
    return mixture.with_(poisoned=poisoned)


@law(kind="contract", stage="state", needs=("post",), cases=poisoned_mixtures, cost=2)
def poison_passes_pre_and_post(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in a token's state reaches what pre and post make of it, and no other token.

    Every stream enters both sums with a weight that is not 0.
    """
    others = [k for k in range(3) if k != case.poisoned]
    for method, given in _mixtures(trial, case):
        finite = torch.isfinite(getattr(trial, method)(*given)).flatten(1).all(1)
        trial.holds(
            f"{method} of token {case.poisoned} with a NaN or an infinity",
            not bool(finite[case.poisoned]),
            "finite everywhere",
            "not finite",
        )
        trial.holds(f"{method} of the other tokens", bool(finite[others].all()), "not finite", "finite")


@st.composite
def unequal_cases(draw: DrawFn, setting: Setting) -> Case:
    """Two matrices that are projected far apart: opposite near-permutations."""
    n = draw(streams(setting, 2, 5))
    sharp = torch.eye(n, dtype=setting.parameter_dtype) * draw(st.sampled_from((3.0, 5.0)))
    return Case(logits=torch.stack([sharp, sharp.roll(1, -1)]))


@law(
    kind="invariant",
    stage="logits",
    needs=("project",),
    cases=unequal_cases,
    applies=free_matrix,
    least_streams=2,
    cost=4,
    blind=("h-res-transposed", "one-iteration"),
)
def different_logits_differ(trial: Trial, case: Case) -> None:
    """Opposite logits do not have the same h_res, and none is zero.

    A kernel that writes nothing, zeros or a constant passes every test whose tolerance exceeds its outputs
    (KernelBench #165).
    """
    got = wide(trial.project(case.logits))
    apart = bounds.projection(Approx.exact(case.logits), trial.dialect, trial.rounding)
    expected = (apart.value[0] - apart.value[1]).abs().amax() - 2 * apart.error.amax()
    trial.holds(
        "the difference of two projections",
        bool((got[0] - got[1]).abs().amax() >= expected),
        f"{(got[0] - got[1]).abs().amax().item():.3g}",
        f"at least {expected.item():.3g}",
    )
