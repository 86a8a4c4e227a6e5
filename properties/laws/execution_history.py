"""Execution: what was called before does not matter, be it nothing, or calls of every other kind."""

from __future__ import annotations

import math
from functools import partial

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref import Params
from mhc_ref.packing import logits_shape, params_shapes
from properties.core.case import Case
from properties.core.implementation import offers
from properties.core.law import Schedule, law
from properties.core.premises import HERE, where
from properties.core.reads import mapping_shapes
from properties.core.trial import Trial
from properties.laws import about, branches, calls, history, pulls
from properties.laws.execution_held import held_states
from properties.laws.gradient import projection_pulls
from properties.laws.gradient_block import mixing_pulls
from properties.laws.gradient_calls import many_blocks, many_states
from properties.laws.history import Turn
from properties.laws.premises import depends_on_logits
from properties.laws.pulls import Pulled
from properties.strategies import TAME, Setting, noise, params_of, seeds, streams, width_among

FEW = Schedule(cost=4, most=2)
ONCE = Schedule(cost=10, most=1)
"""An example decides: the values hardly matter."""

project, mappings, block, post = (
    partial(one, blind=about.ALIKE, schedule=FEW) for one in (about.project, about.mappings, about.block, about.post)
)

# -- the first call ----------------------------------------------------------------------------------------------------


@project(
    "execution.first-projections-are-like-later-ones",
    "identity",
    lambda s: projection_pulls(s, least_n=2, patterns=("normal", "integers", "near permutation")),
    where(depends_on_logits),
)
def first_projections_are_like_later_ones(trial: Trial, case: Case) -> None:
    """The first projections of a number of matrices are those of later calls, without gradients and backwards.

    A kernel that is tuned, compiled or captured at its first calls of a shape runs several times there, and may add up
    what it computes, or return what its last trial left.
    """
    history.first_calls_are_like_later_ones(trial, pulls.projection(trial, case))


@mappings("execution.first-mappings-are-like-later-ones", "identity", lambda s: many_states(s, (2, 1)))
def first_mappings_are_like_later_ones(trial: Trial, case: Case) -> None:
    """The mappings at the first calls of a number of tokens are those of later calls, without gradients and backwards.

    As for projections.
    """
    history.first_calls_are_like_later_ones(trial, pulls.mappings(trial, case))


@block("execution.first-blocks-are-like-later-ones", "identity", lambda s: many_blocks(s, (2, 1), calls.FIXED))
def first_blocks_are_like_later_ones(trial: Trial, case: Case) -> None:
    """A block at the first calls of a number of tokens is that of later calls, without gradients and backwards.

    As for projections.
    """
    history.first_calls_are_like_later_ones(trial, pulls.block(trial, case))


@post("execution.first-mixtures-are-like-later-ones", "identity", mixing_pulls)
def first_mixtures_are_like_later_ones(trial: Trial, case: Case) -> None:
    """pre and post at the first calls of a number of tokens give what later calls do, without gradients and backwards.

    As for projections.
    """
    for pulled in pulls.mixtures(trial, case):
        history.first_calls_are_like_later_ones(trial, pulled)


@st.composite
def wide_states(draw: DrawFn, setting: Setting) -> Case:
    """One or two tokens, with parameters and cotangents, wider than what other laws come to before, as far as phi stays
    small."""
    n, seed, dtype = draw(streams(setting, 1, 4)), draw(seeds), setting.parameter_dtype
    multiple, count = setting.channel_multiple, setting.count(2)
    beyond = multiple * history.spread(multiple)
    channels = next(c for c in (setting.width(260) + beyond, beyond) if _small(n, c, setting) or c == beyond)
    x, bar = (torch.tensor(noise(seed + k, count, n, channels)).to(setting.dtype) for k in range(2))
    params = draw(params_of(setting, n, channels, gates=(1.0, 0.5), patterns=TAME, least_phi=2))
    pulls = tuple(
        torch.tensor(noise(seed + 2 + k, *shape), dtype=dtype)
        for k, shape in enumerate(mapping_shapes((count, n, channels), setting.dialect))
    )
    return Case(x=x, params=params, cotangent=bar, cotangents=pulls)


def _small(n: int, channels: int, setting: Setting) -> bool:
    return math.prod(params_shapes(n, channels, setting.dialect).phi) <= 1 << 20


def narrowed(case: Case, channels: int) -> Case:
    """The same with so many channels."""
    wide = case.x.shape[-1]

    def by_stream(one: torch.Tensor) -> torch.Tensor:
        """What has an entry, or a row, for every channel of every stream, or of one."""
        return one.unflatten(0, (-1, wide))[:, :channels].flatten(0, 1)

    phi, bias, alpha, weight = case.params
    return case.with_(
        x=case.x[..., :channels],
        params=Params(by_stream(phi), bias, alpha, None if weight is None else by_stream(weight)),
        cotangent=case.cotangent[..., :channels],
        cotangents=tuple(bar[..., :channels] if bar.shape[-1] == wide else bar for bar in case.cotangents),
    )


@law(
    "execution.the-first-call-of-a-width-decides-nothing",
    "identity",
    wide_states,
    needs=(),
    blind=about.ALIKE,
    schedule=ONCE,
)
def the_first_call_of_a_width_decides_nothing(trial: Trial, case: Case) -> None:
    """A number of channels that is first met with many tokens is treated like one that is first met with few.

    A kernel that is tuned once for a width keeps what was best for the tokens of that call: the tiles of a prompt for
    every step of decoding, or the other way round.
    """
    offered = offers(trial.implementation)

    def at(channels: int) -> list[Pulled]:
        one = narrowed(case, channels)
        found = [pulls.mappings(trial, one)] if "mappings" in offered else []
        if "block" in offered:
            found.append(pulls.block(trial, one.with_(branch=calls.constant(one.x))))
        return found

    history.first_call_decides_nothing(trial, case.x.shape[-1], at)


@block("execution.blocks-leave-their-surroundings", "contract", held_states, on=HERE, schedule=ONCE)
def blocks_leave_their_surroundings(trial: Trial, case: Case) -> None:
    """A block leaves the modes of torch as they were, sets no global generator to a state of its own, and lets its
    branch draw anew in every call.

    A kernel that is timed at its first call on random inputs, and sets a seed for them, makes all later dropout repeat
    itself; gradients that are switched back on are on for a caller who had them off; and a library that is compiled for
    speed alone has subnormal numbers taken for 0 everywhere. And a branch that runs in a fork of the generator, as one
    that is computed again backwards, drops out the same in every call.
    """
    call = calls.block(trial, case.x, case.params, case.branch)
    history.leaves_surroundings(trial, call)
    branches.draw_anew(trial, call)


# -- other calls between -----------------------------------------------------------------------------------------------


@st.composite
def several_states(draw: DrawFn, setting: Setting) -> Case:
    """A state with parameters, another bias and norm weight for them, and states of another C and of another n."""
    n, seed = draw(streams(setting, 1, 4)), draw(seeds)
    channels, wider = draw(width_among(setting, 3, 5)), draw(width_among(setting, 7, 6))
    other = next((one for one in setting.streams if one != n and one <= 5), n)
    dtype = setting.parameter_dtype

    def parameters(n: int, channels: int) -> st.SearchStrategy[Params]:
        return params_of(setting, n, channels, gates=(1.0, 0.5, 2.0), patterns=TAME, least_phi=2)

    def state(n: int, channels: int, turn: int) -> torch.Tensor:
        return torch.tensor(noise(seed + turn, setting.count(2), n, channels)).to(setting.dtype)

    params = draw(parameters(n, channels))
    weight = torch.tensor(1 + 0.5 * noise(seed + 5, n * channels), dtype=dtype) if setting.norm_weight else None
    return Case(
        x=state(n, channels, 0),
        params=params,
        bias=params.bias + torch.tensor(noise(seed + 4, *params.bias.shape), dtype=dtype),
        weight=weight,
        wider=(state(n, wider, 1), draw(parameters(n, wider))),
        others=(state(other, channels, 2), draw(parameters(other, channels))),
    )


def pairs(case: Case) -> list[tuple[str, torch.Tensor, Params, bool]]:
    """The calls of a sequence: in words, state, parameters, and whether its tokens are not to be repeated."""
    x, params = case.x, case.params
    return [
        ("a state", x, params, False),
        ("the same state with another bias", x, params._replace(bias=case.bias), False),
        ("the same state with other gates", x, params._replace(alpha=-0.5 * params.alpha), False),
        ("the same state without a norm weight", x, params._replace(norm_weight=None), False),
        ("the same state with another norm weight", x, params._replace(norm_weight=case.weight), False),
        ("its first token", x[:1], params, True),
        ("a state of another width", *case.wider, False),
        ("a state of another number of streams", *case.others, False),
    ]


@about.mappings("execution.other-calls-do-not-change-mappings", "oracle", several_states, schedule=FEW)
def other_calls_do_not_change_mappings(trial: Trial, case: Case) -> None:
    """Mappings are their own among calls with another bias, other gates, another norm weight or none, another T, C, n
    and dtype.

    What is cached by the shape without the dtype, by n alone, or by the address of phi without the gates or the weight
    that were folded into it, is right for the first of two calls and wrong for the second.
    """
    turns: list[Turn] = []
    for what, x, params, alone in pairs(case):
        call, exact = calls.mappings(trial, x, params), trial.truth.mappings(x, params)
        turns.append(Turn(what, call, [exact[k] for k in call.parts], alone))
    history.is_itself_among_others(trial, turns)


@about.block("execution.other-calls-do-not-change-blocks", "oracle", several_states, schedule=FEW)
def other_calls_do_not_change_blocks(trial: Trial, case: Case) -> None:
    """A block is its own among calls with another bias, other gates, another norm weight or none, another T, C, n and
    dtype.

    As for mappings.
    """
    turns: list[Turn] = []
    for what, x, params, alone in pairs(case):
        branch = calls.constant(x)
        exact = trial.truth.block(x, params, branch(x[..., 0, :]))[1]
        turns.append(Turn(what, calls.block(trial, x, params, branch), [exact], alone))
    history.is_itself_among_others(trial, turns)


@block("execution.branches-may-pass-blocks-and-fail", "contract", several_states, on=HERE, schedule=ONCE)
def branches_may_pass_blocks_and_fail(trial: Trial, case: Case) -> None:
    """A block is the same when its branch passes another block of the same sizes, and after one whose branch raised.

    A branch has layers of its own, other threads call in between, and who runs out of memory tries again. What lies in
    a buffer of the implementation, or waits in its queue, while the branch runs is then another call's.
    """
    branch, others = calls.constant(case.x), case.params._replace(bias=case.bias)
    call, other = (calls.block(trial, case.x, params, branch) for params in (case.params, others))
    history.is_not_disturbed_by_its_branch(trial, call, other)


@st.composite
def several_logits(draw: DrawFn, setting: Setting) -> Case:
    """Logits of three kinds: some, others of their shape, and those of another n."""
    n, seed = draw(streams(setting, 2, 5)), draw(seeds)
    other = next((one for one in setting.streams if one != n and one <= 5), n)
    drawn = [
        torch.tensor(
            noise(seed + k, setting.count(2), *logits_shape(size, setting.dialect)) * 2,
            dtype=setting.parameter_dtype,
        )
        for k, size in enumerate((n, n, other))
    ]
    return Case(logits=drawn[0], other=drawn[1], others=drawn[2])


@about.project(
    "execution.other-calls-do-not-change-projections",
    "oracle",
    several_logits,
    where(depends_on_logits),
    schedule=FEW,
)
def other_calls_do_not_change_projections(trial: Trial, case: Case) -> None:
    """A projection is its own among calls with other logits, another number of matrices, another n and dtype.

    As for mappings.
    """
    given = [
        ("logits", case.logits, False),
        ("other logits of the same shape", case.other, False),
        ("the first matrix", case.logits[:1], True),
        ("logits of another number of streams", case.others, False),
    ]
    turns = [
        Turn(what, calls.projection(trial, logits), [trial.truth.project(logits)], alone)
        for what, logits, alone in given
    ]
    history.is_itself_among_others(trial, turns)
