"""Depth: many blocks on streams that persist, between one expand and one collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect, Params
from properties import bounds
from properties.bounds import Approx
from properties.core.case import BranchSpec, Case
from properties.core.family import end_of
from properties.core.implementation import Implementation, parameter_dtype
from properties.core.law import Schedule
from properties.core.premises import several_streams, where
from properties.core.trial import Seen, Trial, wide
from properties.laws import about, calls, errors, memory
from properties.laws.block import SIZES, destination, one_call, permutation_params
from properties.laws.layouts import among_nan, every_sequence, everywhere, second_cut
from properties.laws.premises import carries_permutations, exact_axis, gated, normalised
from properties.strategies import (
    Setting,
    as_deep_as,
    branch_of,
    channel_count,
    coarse,
    extreme_params,
    layers_among,
    params_of_layers,
    permutations_of,
    seeds,
    states_of,
    streams,
)

DEEP_GATES = (1.0, 0.5, 0.0)

BEYOND_HALF = (1e6, 1e-9, 0.0)
"""Sizes of states that float16 does not hold: what leaves a layer may be stored in one, or clamped for one."""


@st.composite
def layered_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state of any size, zero among them, and one to three blocks; the logits of a single one lie anywhere."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(setting, 9))
    depth = draw(layers_among(setting, 1, 3))
    x = draw(states_of(setting, n, channels, most=2, scales=(*SIZES, *BEYOND_HALF)))
    several = params_of_layers(setting, n, channels, depth, gates=DEEP_GATES)
    params = draw(several) if depth > 1 else (draw(extreme_params(setting, n, channels)),)
    branches = tuple(draw(branch_of(setting, channels)) for _ in range(depth))
    return Case(x=x, params=params, branches=branches)


def follow(
    trial: Trial, state: Approx, params: Sequence[Params], seen: list[Seen], inputs: list[Tensor]
) -> tuple[Approx, Approx | None]:
    """The bound of the state after all blocks, and of the h_pre of the last; what each branch read is held to the
    truth's inputs on the way."""
    last = None
    for layer, (one, was, exact) in enumerate(zip(params, seen, inputs, strict=True)):
        u, state, last = errors.step(trial, state, one, was.y, last)
        trial.within(f"the branch input of layer {layer}", was.u, exact, u.error)
    return state, last


def judge_stack(trial: Trial, case: Case, out: Tensor, seen: list[Seen]) -> None:
    """Hold a stack, and what its branches read, to the truth; `case` has h, n, params and the head's."""
    one_call(trial, seen, len(case.params))
    inputs, exact = trial.truth.stack(case.h, case.n, (*case.params, *case.head), [one.y for one in seen])
    start = bounds.stack.begun(case.h, case.n, trial.dialect, trial.rounding)
    state, last = follow(trial, start, case.params, seen, inputs)
    trial.within("the stack", out, exact, errors.collapse(trial, state, *case.head, last=last).error)


@about.layers("depth.layers-are-blocks-in-order", "oracle", layered_cases, schedule=about.HALF)
def layers_are_blocks_in_order(trial: Trial, case: Case) -> None:
    """L layers are L blocks, each on the streams that the one before left.

    mHC eq. (4) unrolled; every layer's bound grows out of the bound of its state.
    """
    trial.judge_exactly()
    out, seen = trial.layers(case.x, case.params, case.branches)
    one_call(trial, seen, len(case.branches))
    inputs, exact = trial.truth.layers(case.x, case.params, [one.y for one in seen])
    state, _ = follow(trial, Approx.exact(case.x), case.params, seen, inputs)
    trial.within("the streams after the last layer", out, exact, state.error)


def orders_of(setting: Setting, n: int, most: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    """A permutation of n streams for each of a few layers, or of many: tables of layers end somewhere."""
    depths = layers_among(setting, most, most) if setting.depth(0) else as_deep_as(most)
    return depths.flatmap(lambda depth: st.lists(permutations_of(n), min_size=depth, max_size=depth))


@st.composite
def routed_stacks(draw: DrawFn, setting: Setting) -> Case:
    """Distinct streams and a permutation for each of one to seven layers."""
    n = draw(streams(setting, 2))
    x = draw(states_of(setting, n, draw(channel_count(setting, 9)), most=2, scales=(*SIZES, *BEYOND_HALF)))
    orders = draw(orders_of(setting, n, 7))
    return Case(x=x, orders=tuple(orders))


@about.layers(
    "depth.streams-persist-through-layers",
    "identity",
    routed_stacks,
    where(carries_permutations),
    several_streams,
    blind=("post-scale-one",),
)
def streams_persist_through_layers(trial: Trial, case: Case) -> None:
    """With F = 0 and permutations as h_res, distinct streams come out permuted by the product, none lost and none
    averaged.

    Collapsing and expanding in every block, the mistake that three audits of the reproduction missed, makes them equal.
    """
    channels, dtype = case.x.shape[-1], parameter_dtype(trial.dtype)
    params = trial.stored(tuple(permutation_params(order, channels, trial.dialect, dtype) for order in case.orders))
    out, seen = trial.layers(case.x, params, tuple(BranchSpec("zero") for _ in params))
    carried = wide(case.x)
    for order in case.orders:
        carried = carried[..., destination(order, trial.dialect), :]
    outputs = [one.y for one in seen]
    state, _ = bounds.stack.after(Approx.exact(case.x), params, outputs, trial.dialect, trial.rounding)
    exact = trial.truth.layers(case.x, params, outputs)[1]
    gap = (exact - carried).abs()  # what an eps, and e^-60, leave beside the permutations
    trial.within("a carried stream", out, carried, state.error, gap)


@st.composite
def long_routes(draw: DrawFn, setting: Setting) -> Case:
    """Distinct streams, and one of a few permutations for each of up to 64 layers."""
    n = draw(streams(setting, 2, 4))
    depth = draw(as_deep_as(64))
    x = draw(states_of(setting, n, draw(channel_count(setting, 3)), most=1, scales=(1.0,)))
    some = draw(st.lists(permutations_of(n), min_size=1, max_size=3))
    return Case(x=x, orders=tuple(some[layer % len(some)] for layer in range(depth)))


@about.layers(
    "depth.streams-persist-through-many-layers",
    "identity",
    long_routes,
    where(carries_permutations),
    several_streams,
    blind=("post-scale-one",),
    schedule=Schedule(most=4, crowds=False),
)
def streams_persist_through_many_layers(trial: Trial, case: Case) -> None:
    """What permutations carry through a few layers they carry through 64, none lost and none averaged.

    As for few layers. Models have as many, and what recurs every eight layers, or ends after sixteen, is in no shorter
    stack.
    """
    streams_persist_through_layers.judge(trial, case)


@st.composite
def separated_stacks(draw: DrawFn, setting: Setting) -> Case:
    """A first layer that separates the streams by h_post, permuting layers, and a last branch that sees one of them."""
    n = draw(streams(setting, 2, 5))
    channels = draw(channel_count(setting, 7))
    h = torch.tensor(coarse(draw(seeds), setting.count(1), channels) + 0.5).to(setting.dtype)
    orders = draw(orders_of(setting, n, 6))
    return Case(h=h, n=n, orders=tuple(orders), spread=draw(st.sampled_from((1.0, 2.0, 0.5))))


def separating(case: Case, trial: Trial) -> tuple[Params, ...]:
    """Parameters of the layers: h_post grows from stream to stream in the first, and h_pre picks unequally
    everywhere."""
    dtype = parameter_dtype(trial.dtype)
    made: list[Params] = []
    for order in ((*range(case.n),), *case.orders):
        params = permutation_params(order, case.h.shape[-1], trial.dialect, dtype)
        bias = params.bias.clone()
        ramp = torch.arange(case.n, dtype=dtype) - (case.n - 1) / 2
        bias[: case.n] = ramp
        bias[case.n : 2 * case.n] = ramp * case.spread
        made.append(params._replace(bias=bias))
    return trial.stored(tuple(made))


@about.stack(
    "depth.streams-persist-through-the-stack",
    "identity",
    separated_stacks,
    where(carries_permutations),
    several_streams,
    blind=("one-iteration",),
)
def streams_persist_through_the_stack(trial: Trial, case: Case) -> None:
    """Through the stack alone: once a layer has separated the streams, later branches see them separate.

    Unequal h_post makes the copies differ after the first layer; permutations carry them; unequal h_pre then shows the
    next branches a combination that an averaged state cannot give.
    """
    params = separating(case, trial)
    head = params[:1] if end_of(trial.dialect).HEAD else ()
    weight = torch.full((case.h.shape[-1],), 1.5, dtype=torch.float64).to(trial.dtype)
    branches = (BranchSpec("constant", weight), *(BranchSpec("scale", weight) for _ in case.orders))
    out, seen = trial.stack(case.h, (*params, *head), branches)
    judge_stack(trial, case.with_(params=params, head=head), out, seen)


@st.composite
def stacked_cases(draw: DrawFn, setting: Setting) -> Case:
    """One stream h of a few tokens or of more than a tile, and one to three blocks."""
    case = draw(layered_cases(setting))
    n, channels = case.x.shape[-2:]
    head = draw(params_of_layers(setting, n, channels, int(end_of(setting.dialect).HEAD), gates=DEEP_GATES))
    most = 130 if n <= 3 else 33  # a bound is O(n^4) a token and block
    count = setting.count(draw(st.sampled_from((case.x.shape[0], 1, 3, 2 * n, 33, most))))
    h = case.x[:, 0].repeat(130, 1)[:count]
    return Case(h=h, n=n, params=case.params, branches=case.branches, head=head)


@about.stack("depth.stack-expands-and-collapses-once", "oracle", stacked_cases, schedule=about.HALF)
def stack_expands_and_collapses_once(trial: Trial, case: Case) -> None:
    """The stack is expand, layers, collapse, each once, as the dialect declares.

    n copies of h begin; the sum or the mean of the streams ends, or a head whose parameters follow those of the layers.
    """
    trial.judge_exactly()
    out, seen = trial.stack(case.h, (*case.params, *case.head), case.branches)
    judge_stack(trial, case, out, seen)


@st.composite
def quiet_stacks(draw: DrawFn, setting: Setting) -> Case:
    """A stack whose branches do not depend on the roundings of their input, and another h of its shape."""
    case = draw(stacked_cases(setting))
    channels = case.h.shape[-1]
    branches = tuple(draw(branch_of(setting, channels, ("zero", "constant"))) for _ in case.branches)
    other = torch.tensor(coarse(draw(seeds), *case.h.shape) + 0.5).to(setting.dtype)
    return case.with_(branches=branches, other=other)


@about.stack("depth.stacks-leave-their-input-alone", "contract", quiet_stacks, schedule=Schedule(cost=4))
def stacks_leave_their_input_alone(trial: Trial, case: Case) -> None:
    """A stack writes neither to its input nor to its parameters.

    Whoever recomputes activations, or ties the input to something else, needs it unchanged.
    """
    memory.leaves_arguments_alone(trial, calls.stack(trial, case, case.h))


@about.stack("depth.stacks-have-no-memory", "identity", quiet_stacks, schedule=Schedule(cost=4, by_streams=False))
def stacks_have_no_memory(trial: Trial, case: Case) -> None:
    """A new h in the same storage, and the first one again, pass a stack as if it had never been called before.

    Calls are independent; a buffer, or a coefficient, that survives one is a bug in the next.
    """
    memory.has_no_memory(trial, calls.stack(trial, case, case.h), calls.stack(trial, case, case.other))


@about.expand("depth.expand-copies", "identity", lambda s: stacked_cases(s), schedule=about.HALF)
def expand_copies(trial: Trial, case: Case) -> None:
    """expand(h, n) begins the streams as the dialect says, copies of h bit for bit, on however many token axes.

    Copying rounds nothing.
    """
    h: Tensor = case.h
    begun = bounds.stack.begun(h, case.n, trial.dialect, trial.rounding)
    streams, error = begun.value, begun.error
    trial.within("an expanded stream", trial.expand(h, case.n), streams, error)
    for what, given in arrangements(trial.implementation):
        got: Tensor = trial.observe("expand", lambda target, place, given=given: target.expand(given(place(h)), case.n))
        shape = given(streams).shape
        trial.contract(f"the shape of {what}", got.shape == shape, str(got.shape), str(shape))
        trial.within(f"an expanded stream of {what}", got, given(streams), given(error))


Arrange = Callable[[Tensor], Tensor]


_TURNS = (0, 1, 2, 2, 2, 1, 0, 2)
"""How far two tokens or more are turned in groups on three axes of 2, or on two of them: wherever two of these are
taken for one another, some token is another."""


def arrangements(implementation: Implementation) -> list[tuple[str, Arrange]]:
    """Ways to arrange [tokens, ...], and every tensor that follows its tokens, on other axes or apart in memory; where
    a call takes few tokens, of no more."""
    most = implementation.max_tokens

    def twice(one: Tensor) -> Tensor:
        few = one[: max(1, most // 2)]
        return torch.stack([few, few.flip(0)][:most])

    def on_axes(count: int, one: Tensor) -> Tensor:
        """[2, .., 2, tokens, ...] where as many may be given, else with axes of one."""
        groups = 1 << (count - 1)
        if groups > most:
            return one[(None,) * (count - 1)]
        few = one[: most // groups]
        return torch.stack([few.roll(turn, 0) for turn in _TURNS[:groups]]).unflatten(0, (2,) * (count - 1))

    def alone(one: Tensor) -> Tensor:
        return one[0]

    def narrowed(one: Tensor) -> Tensor:
        return torch.cat([one, one + 1], -1)[..., : one.shape[-1]]

    def turned(one: Tensor) -> Tensor:
        return twice(one).transpose(0, 1)

    def none(one: Tensor) -> Tensor:
        return one[:0]

    found: list[tuple[str, Arrange]] = [
        ("tokens on two axes", twice),
        ("tokens on three axes", partial(on_axes, 3)),
        ("tokens on four axes", partial(on_axes, 4)),
        ("one token without an axis", alone),
    ]
    if implementation.strided:
        found += [("a slice of a wider tensor", narrowed), ("token axes in the other order", turned)]
        found.append(("a part of something that is NaN beside it", among_nan))
        found.append(("three axes of tokens, of which the second was cut", lambda one: second_cut(on_axes(3, one))))
        found += [("one token, expanded", everywhere), ("one sequence, expanded over a batch", every_sequence)]
    if implementation.zero_tokens:
        found.append(("no token", none))
    return found


@about.collapse("depth.collapse-is-as-declared", "oracle", lambda s: layered_cases(s), schedule=about.HALF)
def collapse_is_as_declared(trial: Trial, case: Case) -> None:
    """collapse(x) is the sum, the mean, or the gated sum of a head, as the dialect says, on however many token axes.

    Its definition; the head's weights are pre(alpha_0 (x^ phi) + bias) + pre_eps of the head's own parameters.
    """
    x: Tensor = case.x
    head: Params | None = case.params[0] if end_of(trial.dialect).HEAD else None
    trial.judge_exactly()
    expected, bound = trial.truth.collapse(x, head), errors.collapse(trial, x, head).error
    got = trial.collapse(x, head) if head else trial.collapse(x)
    trial.within("the collapsed state", got, expected, bound)
    for what, given in arrangements(trial.implementation):

        def run(target: Implementation, place: Callable[[Any], Any], given: Arrange = given) -> Any:
            return target.collapse(given(place(x)), place(head)) if head else target.collapse(given(place(x)))

        one, value, error = trial.observe("collapse", run), given(expected), given(bound)
        trial.contract(f"the shape of {what}", one.shape == value.shape, str(one.shape), str(value.shape))
        trial.within(f"the collapsed state of {what}", one, value, error)


@st.composite
def bounded_cases(draw: DrawFn, setting: Setting) -> Case:
    """Layers with tanh branches."""
    case = draw(layered_cases(setting))
    branches = tuple(draw(branch_of(setting, case.x.shape[-1], ("tanh",))) for _ in case.branches)
    return case.with_(branches=branches)


def _rows_exact(dialect: Dialect) -> str | None:

    reason = gated(dialect) or normalised(dialect)
    if reason is None and exact_axis(dialect) != -1:
        return "rows of the applied operator are not exact: its inf-norm is bounded by n only"
    return reason


@about.layers(
    "depth.bounded-branches-grow-at-most-linearly",
    "invariant",
    bounded_cases,
    where(_rows_exact),
    blind=about.ALIKE,
    schedule=about.HALF,
)
def bounded_branches_grow_at_most_linearly(trial: Trial, case: Case) -> None:
    """With |F| <= B a stack of L layers grows by at most L s B: max |x_L| <= max |x_0| + s sum B_l, s = post_scale +
    post_eps.

    Rows of A are averages, so the residual path adds nothing, and 0 <= h_post <= s (docs/mathematics.md, The block).
    """
    out, seen = trial.layers(case.x, case.params, case.branches)
    outputs = [one.y for one in seen]
    if not all(bool(y.isfinite().all()) for y in outputs):  # then what the branches read says whose doing that is
        one_call(trial, seen, len(case.branches))
        inputs, _ = trial.truth.layers(case.x, case.params, outputs)
        follow(trial, Approx.exact(case.x), case.params, seen, inputs)
    state, _ = bounds.stack.after(Approx.exact(case.x), case.params, outputs, trial.dialect, trial.rounding)
    limit = wide(case.x).abs().amax((-1, -2))
    most = trial.dialect.post_scale + trial.dialect.post_eps
    for one in seen:
        limit = limit + most * wide(one.y).abs().amax(-1)
    slack = torch.where(limit.isfinite(), state.error.amax((-1, -2)) + 2.0**-50 * limit, bounds.INF)
    trial.at_most("the largest activation", wide(out).abs().amax((-1, -2)), limit, slack)
