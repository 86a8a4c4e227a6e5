"""Device: what the place of computation must not change: how many tokens share a launch, and which device it is."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from properties.core.case import Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.premises import OnDevice, batch_invariant, deterministic
from properties.core.trial import Trial, same_numbers
from properties.laws import about, calls
from properties.laws.block import SIZES
from properties.laws.calls import FIXED, Place, constant, flooded
from properties.strategies import (
    Setting,
    block_cases,
    coefficient_cases,
    noise,
    params_of,
    seeds,
    streams,
    width_among,
)

DISTINCT = (7, 13, 31)
"""Numbers of different tokens in a flood: primes, so that a repeated token meets every position in a tile."""


@st.composite
def floods(draw: DrawFn, setting: Setting, *widths: int) -> Case:
    """A few different tokens, their parameters, and how many tokens are made of them on the device.

    A bound costs O(n^4) a token and a transfer its bytes; both are paid for the different tokens alone.
    """
    n = draw(streams(setting, 1, 4))
    channels = draw(width_among(setting, *(widths or (1, 3, 9))))
    count = min(draw(st.sampled_from(setting.flood)), setting.max_tokens)
    distinct = min(draw(st.sampled_from(DISTINCT)), count)
    x = torch.tensor(noise(draw(seeds), distinct, n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)), count=count)


@st.composite
def summed_floods(draw: DrawFn, setting: Setting) -> Case:
    """Floods in which the order of every sum shows: phi is dense with full mantissas, and no gate is closed."""
    case = draw(floods(setting, 9, 33))
    rows, columns = case.params.phi.shape
    phi = torch.tensor(noise(draw(seeds), rows, columns)).to(case.params.phi.dtype) / math.sqrt(rows)
    return case.with_(params=case.params._replace(phi=phi, alpha=torch.ones_like(case.params.alpha)))


@about.block("device.every-token-of-a-flood-is-computed", "oracle", floods, schedule=about.FLOODS)
def every_token_of_a_flood_is_computed(trial: Trial, case: Case) -> None:
    """Every one of thousands of tokens (on a GPU up to 131101) passes the block as the reference has it.

    Grids end, indices wrap and tails are floored at sizes that small tests never reach: 1024 threads, 65535 blocks.
    """
    branch = constant(case.x)
    exact = trial.truth.block(case.x, case.params, branch(case.x[..., 0, :]))[1]
    calls.is_computed_in_a_flood(trial, calls.block(trial, case.x, case.params, branch), (exact,), case.count)


@about.block(
    "device.launches-repeat-bit-for-bit",
    "contract",
    summed_floods,
    deterministic,
    blind=about.ALIKE,
    schedule=about.FLOODS,
)
def launches_repeat_bit_for_bit(trial: Trial, case: Case) -> None:
    """Five launches on the same many tokens, one right after the other, give the same bits.

    Declared by `deterministic`. What races, or adds atomically, does so once there is more work than one multiprocessor
    has room for. Numbers are compared: -0 is 0.
    """
    branch = constant(case.x)

    def run(target: Implementation, place: Place) -> Any:
        x, params, one = flooded(place(case.x), case.count), place(case.params), map_tensors(branch, place)
        outs = [target.block(x, params, one).detach() for _ in range(5)]
        first = outs[0]
        # Judged there: five results of a hundred thousand tokens are not worth moving.
        return tuple(same_numbers(first, other) for other in outs[1:])

    same = trial.observe("block", run)
    trial.holds("the same launch again", all(same), "other bits", "the same bits")


@about.block("device.batches-do-not-change-bits", "identity", summed_floods, batch_invariant, schedule=about.FLOODS)
def batches_do_not_change_bits(trial: Trial, case: Case) -> None:
    """A token has the same bits alone, among a few, and anywhere in a large batch.

    Declared by `batch_invariant`: the order of every sum is fixed for a token, whatever is computed beside it.
    Numbers are compared: -0 is 0.
    """
    branch = constant(case.x)

    def run(target: Implementation, place: Place) -> Any:
        x, params, one = place(case.x), place(case.params), map_tensors(branch, place)
        few = target.block(x.clone(), params, one).detach()
        alone = target.block(x[:1].clone(), params, one).detach()
        many = target.block(flooded(x, case.count), params, one).detach()
        return alone, few, many

    alone, few, many = trial.observe("block", run)
    trial.holds("the first token among others", same_numbers(few[:1], alone), "other bits than alone", "the same bits")
    trial.holds(
        "the tokens of a large batch", same_numbers(many, flooded(few, case.count)), "other bits than in a small one",
        "the same bits",
    )  # fmt: skip


# -- the other device -------------------------------------------------------------------------------------------------


@about.mappings(
    "device.mappings-agree-with-those-of-the-cpu",
    "identity",
    lambda s: coefficient_cases(s, most=4),
    on=OnDevice("accelerator"),
)
def mappings_agree_with_those_of_the_cpu(trial: Trial, case: Case) -> None:
    """The mappings on the device and on the CPU differ by what the bounds of the two allow together.

    Both are roundings of the same exact mappings; nobody promises the same bits.
    """
    calls.is_the_same_on_the_cpu(trial, calls.mappings(trial, case.x, case.params))


@about.block(
    "device.blocks-agree-with-those-of-the-cpu",
    "identity",
    lambda s: block_cases(s, most=4, scales=SIZES, kinds=FIXED),
    on=OnDevice("accelerator"),
)
def blocks_agree_with_those_of_the_cpu(trial: Trial, case: Case) -> None:
    """A block on the device and on the CPU differ by what the bounds of the two allow together.

    As for mappings.
    """
    calls.is_the_same_on_the_cpu(trial, calls.block(trial, case.x, case.params, case.branch))
