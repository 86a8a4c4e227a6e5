"""Device: what memory held before, how it is laid out, and where the last element lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties.core.case import Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import HERE, OnDevice, strided, where
from properties.core.trial import Trial, wide
from properties.laws import about, calls, errors
from properties.laws.calls import Place, Way, constant, flooded
from properties.laws.premises import depends_on_logits
from properties.strategies import (
    MODERATE,
    Setting,
    arrangeable,
    channel_count,
    logits_of,
    noise,
    on_two_axes,
    params_of,
    projection_cases,
    seeds,
    streams,
    width_among,
)


@st.composite
def arranged_cases(draw: DrawFn, setting: Setting) -> Case:
    """Six tokens, or as many as a call takes, on two or three axes, and by how many elements their storage is off its
    alignment."""
    n = draw(streams(setting, 1, 5))
    channels = draw(channel_count(setting, 9))
    x = torch.tensor(noise(draw(seeds), arrangeable(setting), n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)), offset=draw(st.sampled_from((1, 3, 7))))


@about.block(
    "device.memory-formats-do-not-matter", "identity", arranged_cases, strided, blind=about.ALIKE, schedule=about.FLOODS
)
def memory_formats_do_not_matter(trial: Trial, case: Case) -> None:
    """channels_last, channels_last_3d and storages off their alignment hold the same state.

    A tensor is its values. With two token axes a state has four dims and with three five, so that torch's own formats
    apply; a vectorised load from an address that is no multiple of 16 bytes faults, or reads the neighbours.
    """
    x: Tensor = case.x
    axes = on_two_axes(x.shape[0])

    def unaligned(plain: Tensor) -> Tensor:
        storage = plain.new_full((case.offset + plain.numel(),), 7.0)
        return storage[case.offset :].view(plain.shape).copy_(plain)

    def way(what: str, arrange: Callable[[Tensor], Tensor]) -> Way:
        return Way(what, lambda given: (arrange(given[0]), *given[1:]), read=lambda one: one.reshape(x.shape))

    four, five = (*axes, *x.shape[1:]), (1, *axes, *x.shape[1:])
    ways = (
        way("channels_last", lambda one: one.reshape(four).contiguous(memory_format=torch.channels_last)),
        way("channels_last_3d", lambda one: one.reshape(five).contiguous(memory_format=torch.channels_last_3d)),
        way("an unaligned storage", unaligned),
    )
    calls.does_not_see(trial, calls.block(trial, x, case.params, constant(x)), ways)


@st.composite
def written_cases(draw: DrawFn, setting: Setting) -> Case:
    """Tokens in numbers that are no multiple of a tile, channels likewise."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(setting, 17))
    tokens = min(draw(st.sampled_from((1, 3, 5, 7, 31))), setting.max_tokens)
    x = torch.tensor(noise(draw(seeds), tokens, n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)))


@about.block(
    "device.every-output-is-written", "identity", written_cases, on=HERE, blind=about.ALIKE, schedule=about.FLOODS
)
def every_output_is_written(trial: Trial, case: Case) -> None:
    """With all free memory full of NaN a block is what it was before.

    An element that no thread writes, or a scratch buffer that is read before it is written, holds what was there: the
    right answer of the previous call, in a test that calls twice.
    """
    call = calls.block(trial, case.x, case.params, constant(case.x))
    calls.is_written_throughout(trial, call, case.params.phi.nbytes, 4 * case.x.shape[0] * case.x.shape[-2] ** 2)


@about.project(
    "device.every-entry-is-written",
    "identity",
    lambda s: projection_cases(s, patterns=MODERATE, most=5),
    on=HERE,
    blind=about.ALIKE,
    schedule=about.HALF,
)
def every_entry_is_written(trial: Trial, case: Case) -> None:
    """With all free memory full of NaN a projection is what it was before.

    As for blocks.
    """
    calls.is_written_throughout(trial, calls.projection(trial, case.logits))


@st.composite
def far_cases(draw: DrawFn, setting: Setting) -> Case:
    """Three tokens, to be laid so far apart that the last one lies beyond the reach of 32 bits."""
    n = draw(streams(setting, 1, 4))
    channels = draw(width_among(setting, 3, 9))
    x = torch.tensor(noise(draw(seeds), min(3, setting.max_tokens), n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)))


@about.block(
    "device.distant-tokens-are-read-where-they-lie",
    "identity",
    far_cases,
    strided,
    on=OnDevice("giants", in_process=True, giants=2),
    schedule=Schedule(most=2),
)
def distant_tokens_are_read_where_they_lie(trial: Trial, case: Case) -> None:
    """Tokens whose elements lie beyond 2^31 in their storage pass a block like contiguous copies.

    An offset is token * stride, and the product must not be computed in 32 bits (b12x #120).
    """
    x: Tensor = case.x
    branch = constant(x)
    apart = trial.here.giant // max(1, x.shape[0] - 1) + 1

    def run(target: Implementation, place: Place) -> Any:
        params, one, plain = place(case.params), map_tensors(branch, place), place(x)
        storage = plain.new_empty(apart * (x.shape[0] - 1) + plain[0].numel())
        far = storage.as_strided(plain.shape, (apart, plain.shape[-1], 1))
        storage[: plain[0].numel() * 4] = 7.0  # where an offset that wraps would read
        far.copy_(plain)
        return target.block(plain.clone(), params, one).detach(), target.block(far, params, one).detach()

    plain, far = trial.observe("block", run)
    slack = 2 * errors.block(trial, x, case.params, branch(x[..., 0, :]))
    trial.near("a block on distant tokens", far, wide(plain), slack)


@st.composite
def giant_projections(draw: DrawFn, setting: Setting) -> Case:
    """Some different matrices, of which more than 2^31 entries are made on the device."""
    n = draw(streams(setting, 2, 4))
    return Case(logits=draw(logits_of(setting, n, least=5, most=5, patterns=MODERATE)))


@about.project(
    "device.distant-matrices-are-written-where-they-lie",
    "identity",
    giant_projections,
    where(depends_on_logits),
    on=OnDevice("giants", in_process=True, giants=8),
    schedule=Schedule(most=1),
)
def distant_matrices_are_written_where_they_lie(trial: Trial, case: Case) -> None:
    """Of a batch whose entries number more than 2^31, the last matrices are projected like the first.

    The offset of an output is token * n * n, and the product must not be computed in 32 bits.
    """
    logits: Tensor = case.logits
    smallest = min(logits.shape[1:].numel(), case.logits.shape[-1] ** 2)
    count = trial.here.giant // smallest + 2 * logits.shape[0]

    def run(target: Implementation, place: Place) -> Any:
        few = place(logits)
        plain = target.project(few.clone()).detach()
        with torch.no_grad():
            many = target.project(flooded(few, count))
        last = torch.arange(count - 2 * few.shape[0], count, device=few.device)
        return plain, many[last].clone(), last % few.shape[0]

    plain, last, which = trial.observe("project", run)
    slack = 2 * errors.projected(trial, logits)
    trial.near("h_res of the last matrices", last, wide(plain)[which], slack[which])
