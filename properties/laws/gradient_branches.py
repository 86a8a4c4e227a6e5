"""Gradient: by the weights of branches, however a branch learns, through a block, through layers and through a stack.

A branch need not depend on what it reads, nor give anything but zeros, to learn. Here F(u) = w u and its like, of
weights that every token has a copy of, so that no sum over tokens is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from mhc_ref import Branch, Params
from mhc_ref.block import gates_read
from properties import bounds
from properties.bounds import Approx
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import HERE, differentiable, where
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, magnitude, wide
from properties.laws import about
from properties.laws.calls import Place
from properties.laws.gradient_calls import many_states
from properties.laws.gradient_depth import quiet_pulls
from properties.laws.premises import ends_by_itself, fused, mixes_in_compute_dtype, reads_its_own_gates
from properties.strategies import TAME, Setting, noise, params_of_layers, quietened, seeds

FEW = Schedule(cost=5, by_streams=False, most=1)

STILL = 0.5
"""A weight that is frozen: exact in every dtype."""

SCALE, ZERO, DETACHED, ALONE, ADDED, FIRST, LAST = LESSONS = (
    *("scale", "zero", "detached", "alone", "added", "first", "last"),
)
"""How a branch learns: w u; w u with w = 0, as an adapter begins; w u without a path back to u; w, as a table of
embeddings gives; u + w, of which both have one gradient, the very tensor; and w u times a weight that is frozen, which
comes first among its parameters, or last."""
OFTEN = 5
"""The first so many come with every layer; of the last two one."""
TOLD = {
    SCALE: "",
    ZERO: " that are 0",
    DETACHED: " which detaches what it reads",
    ALONE: " which gives its weights",
    ADDED: " which adds its weights to what it reads",
    FIRST: " whose first weight is frozen",
    LAST: " whose last weight is frozen",
}


class Partly(nn.Module):
    """w u times a weight that is frozen, a module with parameters as those of a model are."""

    def __init__(self, leaf: Tensor, first: bool) -> None:
        super().__init__()
        pair = (nn.Parameter(torch.full_like(leaf.detach(), STILL), requires_grad=False), leaf)
        self.weights = nn.ParameterList(pair if first else pair[::-1])  # by which alone their order is that of a model

    def forward(self, u: Tensor) -> Tensor:
        one, other = self.weights
        return one * u * other


def branch_that_learns(lesson: str, leaf: Tensor) -> Branch:
    """A branch with these weights, a leaf of the shape of what it reads."""
    if lesson in (FIRST, LAST):
        return Partly(leaf, lesson == FIRST)
    if lesson == DETACHED:
        return lambda u: leaf * u.detach()
    if lesson == ADDED:
        return lambda u: u + leaf
    return (lambda u: leaf.clone()) if lesson == ALONE else (lambda u: leaf * u)


def as_data(lesson: str, weight: Tensor) -> BranchSpec:
    """What it gives, and its derivative by what it reads."""
    if lesson in (DETACHED, ALONE):
        return BranchSpec("detached" if lesson == DETACHED else "constant", weight)
    if lesson == ADDED:
        return BranchSpec("added", weight)
    return BranchSpec("scale", weight * {ZERO: 0.0, FIRST: STILL, LAST: STILL}.get(lesson, 1.0))


@dataclass(frozen=True)
class Taught:
    """Several layers whose branches learn.

    Attributes:
        start: the state before the first of them, with its bound.
        params, branches: of the layers, branches as data.
        end: the cotangent of the state after the last, with its bound, of that state with its own.
    """

    start: Approx
    params: tuple[Params, ...]
    branches: tuple[BranchSpec, ...]
    end: Callable[[Approx], Approx]

    def by_outputs(self, trial: Trial) -> list[tuple[Tensor, Tensor, Approx, Approx]]:
        """Of each layer what its branch reads, and the cotangent of what it gives: of the truth, and bounds of both."""
        truth, dialect, r = trial.truth, trial.dialect, trial.rounding
        x, passed = self.start.value, list[tuple[Tensor, Tensor]]()
        for params, branch in zip(self.params, self.branches, strict=True):
            h = truth.mappings(x, params)
            u = wide(truth.pre(x, gates_read(h.pre, None, dialect)))
            x = wide(truth.post(x, branch(u), h.post, h.res))
            passed.append((u, wide(h.post)))
        ways = bounds.stack.passages(self.start, self.params, self.branches, dialect, r)
        last = self.end(ways[-1].after)
        backs = bounds.pullback.layers(self.start, self.params, self.branches, last, dialect, r, ways)
        handed = [*(one.x for one in backs[1:]), last]
        n, found = x.shape[-2], list[tuple[Tensor, Tensor, Approx, Approx]]()
        for (u, h_post), way, g in zip(passed, ways, handed, strict=True):
            bound = bounds.stored(bounds.pullback.summed_in_the_state("ti,tic->tc", way.h.post, g, n, n, r), r)
            # mpmath would take a minute for what several layers hand back, which other laws ask it.
            found.append((u, torch.einsum("ti,tic->tc", h_post, g.value), way.u, bound))
        return found


def by_weights(lesson: str, one: tuple[Tensor, Tensor, Approx, Approx], trial: Trial) -> tuple[Tensor, Tensor]:
    """The gradient by the weights of a branch, and its bound, of what `Taught.by_outputs` says of its layer."""
    u, by_y, u_bound, bound = one
    if lesson in (ALONE, ADDED):
        return by_y, bound.error
    factor = STILL if lesson in (FIRST, LAST) else 1.0
    product = bounds.stored(bounds.times(bound, u_bound, trial.rounding), trial.rounding)
    return factor * u * by_y, factor * product.error + trial.rounding.state_tiny


def groups(depth: int, turn: int) -> list[tuple[str, ...]]:
    """Which layers learn how: every lesson in one layer or another, and every other time one in all layers."""
    taught = LESSONS if depth == 1 else (*LESSONS[:OFTEN], LESSONS[OFTEN + turn // 5 % 2])
    first = turn if depth > 1 else 0
    turned = [taught[(first + k) % len(taught)] for k in range(-(-len(taught) // depth) * depth)]
    mixed = [tuple(turned[k : k + depth]) for k in range(0, len(turned), depth)]
    alike = [(LESSONS[1:4][turn // 2 % 3],) * depth] if depth > 1 and turn % 2 else []
    return [*mixed, *alike]


Calling = Callable[[Implementation, Tensor, tuple[Params, ...], Sequence[Branch]], Tensor]


def teaches(
    trial: Trial, case: Case, method: str, given: Tensor, every: tuple[Params, ...], call: Calling, taught: Any
) -> None:
    """Hold the gradients by the weights of branches to the truth's.

    `call` makes the call of `given`, of parameters and of branches; `taught` says of branches as data what the layers
    are.
    """
    depth, turn = len(case.params), case.turn if "turn" in case else 0
    weights = case.weights if "weights" in case else (torch.ones(given.shape[-1], dtype=given.dtype),) * depth
    lessons = groups(depth, turn)
    middle = depth // 2
    several = 0 if depth == 1 or turn % 2 else 1 + (depth > 2)  # one branch for all layers, or two in turn

    def run(target: Implementation, place: Place) -> Any:
        def gradients(leaves: Sequence[Tensor], branches: Sequence[Branch], asked: bool) -> tuple[Tensor, ...]:
            x, params = place(given).clone().requires_grad_(asked), map_tensors(place(every), torch.clone)
            if asked and not turn % 2:
                params = map_tensors(params, Tensor.requires_grad_)
            out = call(target, x, params, branches)
            found = pulled_back([out], [*leaves, x], [place(case.cotangent).clone()])  # which goes on past the branch
            return tuple(found[:-1] if asked else found)

        def fresh(lesson: str, weight: Tensor) -> Tensor:
            each = place(weight).expand(given.shape[0], given.shape[-1]) * (lesson != ZERO)
            return nn.Parameter(each.contiguous())

        found: list[tuple[Tensor, ...]] = []
        for group in lessons:
            for asked in (True, False):
                leaves = [fresh(*one) for one in zip(group, weights, strict=True)]
                if depth > 1 and not asked:
                    leaves[middle].requires_grad_(False)
                branches = [branch_that_learns(*one) for one in zip(group, leaves, strict=True)]
                found.append(gradients(leaves, branches, asked))
        if depth > 1:  # an adapter in the last of them alone, and nothing before it asks for a gradient
            leaves = [fresh(SCALE, weight).requires_grad_(k == depth - 1) for k, weight in enumerate(weights)]
            found.append(gradients(leaves, [branch_that_learns(SCALE, leaf) for leaf in leaves], False))
        if several:
            leaves = [fresh(SCALE, weight) for weight in weights[:several]]
            branches = [branch_that_learns(SCALE, leaf) for leaf in leaves]
            found.append(gradients(leaves, [branches[k % several] for k in range(depth)], True))
        return tuple(found)

    got = iter(trial.observe(method, run))
    for group in lessons:
        branches = tuple(as_data(*one) for one in zip(group, weights, strict=True))
        bound = taught(branches).by_outputs(trial)
        of = [f"a branch{TOLD[one]}" if one != ZERO else "a branch, all 0," for one in group]
        where = [f" of layer {k}" if depth > 1 else "" for k in range(depth)]
        for when in ("", " of a state that asks for no gradient"):
            left = iter(next(got))
            for k, lesson in enumerate(group):
                if depth > 1 and when and k == middle:
                    continue
                exact, error = by_weights(lesson, bound[k], trial)
                trial.within(f"the gradient by the weights of {of[k]}{where[k]}{when}", next(left), exact, error)
    if depth > 1:
        bound = taught(tuple(BranchSpec("scale", one) for one in weights)).by_outputs(trial)
        exact, error = by_weights(SCALE, bound[-1], trial)
        what = f"the gradient by the weights of a branch of layer {depth - 1}, where nothing else asks for one"
        trial.within(what, next(got)[0], exact, error)
    if several:
        spread = tuple(weights[k % several] for k in range(depth))
        bound = taught(tuple(BranchSpec("scale", one) for one in spread)).by_outputs(trial)
        each = [by_weights(SCALE, one, trial) for one in bound]
        for k, one in enumerate(next(got)):
            exact = torch.stack([value for value, _ in each[k::several]])
            error = torch.stack([error for _, error in each[k::several]]).sum(0)
            added = depth * trial.rounding.state_unit * (magnitude(exact).sum(0) + error)
            what = f"the gradient by the weights of branch {k}, which several layers have"
            trial.within(what, one, exact.sum(0), error + added)


def _turned(case: Case, setting: Setting, seed: int) -> Case:
    """A case with weights for the branches of its layers, and how they learn."""
    width = case.x.shape[-1]
    weights = (0.5 + 0.25 * torch.tensor(noise(seed + k, width)) for k in range(len(case.params)))
    return case.with_(weights=tuple(one.to(setting.dtype) for one in weights), turn=seed)


@st.composite
def unbranched(draw: DrawFn, setting: Setting) -> Case:
    """x of a few tokens, dense parameters, weights of a branch, and a cotangent of what a block makes of them."""
    case, seed = draw(many_states(setting, (2, 5))), draw(seeds)
    bar = torch.tensor(noise(draw(seeds), *case.x.shape)).to(setting.dtype)
    taught = _turned(Case(x=case.x, params=(case.params,)), setting, seed)
    return taught.with_(params=case.params, cotangent=bar)


@about.block(
    "gradient.branches-learn",
    "oracle",
    unbranched,
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    blind=about.ALIKE,
    schedule=about.SELDOM,
)
def branches_learn(trial: Trial, case: Case) -> None:
    """The weights of a branch receive their gradient through the block, whether or not the state asks for one, what
    the branch gives is 0, or depends on what it reads.

    F(u) = w u has the gradient u (sum_i h_post_i bar_i) by w, for w = 0 as well, and without a path back to u. A block
    that calls its branch inside a function of its own, and returns gradients by its own inputs only, trains no branch.
    """
    every, bar = (case.params,), case.cotangent

    def taught(branches: tuple[BranchSpec, ...]) -> Taught:
        return Taught(Approx.exact(case.x), every, branches, lambda _: Approx.exact(bar))

    def call(target: Implementation, x: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.block(x, params[0], branches[0])

    teaches(trial, case.with_(params=every), "block", case.x, every, call, taught)


@st.composite
def layers_to_teach(draw: DrawFn, setting: Setting) -> Case:
    """A state, three layers or more with gates that are nearly closed, weights of their branches, and a cotangent."""
    case, seed = draw(quiet_pulls(setting, setting.depth(3), setting.count(2))), draw(seeds)
    bar = torch.tensor(noise(seed + 100, *case.x.shape)).to(setting.dtype)  # the simplest of those drawn is zero
    return _turned(Case(x=case.x, params=case.params, cotangent=bar), setting, seed)


@about.layers(
    "gradient.branches-of-layers-learn",
    "oracle",
    layers_to_teach,
    where(reads_its_own_gates),
    fused("layers"),
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=FEW,
)
def branches_of_layers_learn(trial: Trial, case: Case) -> None:
    """The weights of the branch of every layer receive their gradient through several of them, whether or not the state
    asks for one, what a branch gives is 0, or depends on what it reads; and those that layers share, of each.

    As for a block. Layers that are computed again backwards call their branches in a function of their own, and may ask
    there for the gradient by what a branch has read alone.
    """

    def taught(branches: tuple[BranchSpec, ...]) -> Taught:
        bar = case.cotangent
        return Taught(Approx.exact(case.x), case.params, branches, lambda _: Approx.exact(bar))

    def call(target: Implementation, x: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.layers(x, params, branches)

    teaches(trial, case, "layers", case.x, case.params, call, taught)


@st.composite
def stacks_to_teach(draw: DrawFn, setting: Setting) -> Case:
    """One stream, three layers or more and a head where there is one, weights of their branches, and a cotangent."""
    case = draw(layers_to_teach(setting))
    heads, (n, channels) = int(end_of(setting.dialect).HEAD), case.x.shape[-2:]
    head = tuple(map(quietened, draw(params_of_layers(setting, n, channels, heads, gates=(1.0, 0.5), patterns=TAME))))
    h, bar = (one[:, 0].clone() for one in (case.x, case.cotangent))
    kept = {"params": case.params, "weights": case.weights, "turn": case.turn}
    return Case(h=h, n=n, head=head, cotangent=bar, **kept)


@about.stack(
    "gradient.branches-of-stacks-learn",
    "oracle",
    stacks_to_teach,
    where(reads_its_own_gates, ends_by_itself),
    fused("stack"),
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=FEW,
)
def branches_of_stacks_learn(trial: Trial, case: Case) -> None:
    """The weights of the branch of every layer receive their gradient through a whole stack, whether or not its input
    asks for one, what a branch gives is 0, or depends on what it reads; and those that layers share, of each.

    As for layers. Where the embeddings of a model are frozen, and its adapters alone are trained, nothing that a stack
    is given asks for a gradient.
    """
    dialect, r = trial.dialect, trial.rounding

    def ended(after: Approx) -> Approx:
        found = bounds.pullback.collapse(after, case.cotangent, dialect, r, *case.head)
        return found if isinstance(found, Approx) else bounds.stored(found.x, r)

    def taught(branches: tuple[BranchSpec, ...]) -> Taught:
        return Taught(bounds.stack.begun(case.h, case.n, dialect, r), case.params, branches, ended)

    def call(target: Implementation, h: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.stack(h, params, branches)

    teaches(trial, case, "stack", case.h, (*case.params, *case.head), call, taught)
