"""Sizes that coincide, at which a wrong axis fits, and every number of streams at logits where iterations show."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref.packing import logits_shape
from properties.core.case import Case
from properties.core.law import Schedule
from properties.core.premises import where
from properties.core.reads import mapping_shapes
from properties.core.trial import Trial
from properties.laws import about, block, calls, coefficients, gradient, gradient_block, gradient_mappings, manifold
from properties.laws.mixing import possible
from properties.laws.premises import alternating, depends_on_logits, mixes_in_compute_dtype
from properties.strategies import PATTERNS, TAME, Setting, at_temperature, branch_of, noise, params_of, seeds, streams

FEW = Schedule(cost=4, by_streams=False)

projected, mapped, blocked, mixed = (
    partial(one, schedule=FEW) for one in (about.project, about.mappings, about.block, about.post)
)

ALL, WIDE, MANY, BATCH = "T = C = n", "C = n", "T = n", "T = C"


@st.composite
def coinciding(draw: DrawFn, setting: Setting) -> tuple[int, int, int]:
    """T, n and C, of which all coincide more often than two."""
    n = draw(streams(setting, 3, 4))  # doubly stochastic matrices of two streams are symmetric
    kind = draw(st.sampled_from((ALL, ALL, WIDE, MANY, BATCH)))
    channels = setting.width(n if kind in (ALL, WIDE) else n + 3)
    tokens = {ALL: n, WIDE: n + 1, MANY: n, BATCH: channels if channels <= 8 else n}[kind]
    return min(tokens, setting.max_tokens), n, channels


@st.composite
def coinciding_states(draw: DrawFn, setting: Setting) -> Case:
    """A state, dense parameters, a branch, and cotangents of a block and of the mappings."""
    tokens, n, channels = draw(coinciding(setting))
    seed, dtype = draw(seeds), setting.parameter_dtype
    bars = mapping_shapes((tokens, n, channels), setting.dialect)
    return Case(
        x=torch.tensor(noise(seed, tokens, n, channels)).to(setting.dtype),
        params=draw(params_of(setting, n, channels, gates=(1.0, 0.5), patterns=TAME, least_phi=2)),
        branch=draw(branch_of(setting, channels, ("scale", "constant", "identity"))),
        cotangent=torch.tensor(noise(seed + 1, tokens, n, channels)).to(setting.dtype),
        cotangents=tuple(torch.tensor(noise(seed + 2 + k, *shape), dtype=dtype) for k, shape in enumerate(bars)),
    )


@blocked("block.sizes-may-coincide", "oracle", coinciding_states)
def blocks_of_coinciding_sizes(trial: Trial, case: Case) -> None:
    """A block and its gradients are right where T, C and n are equal, all of them or two.

    There a transpose and a broadcast along the wrong axis fit, and a layout that is told by its shape is told wrongly.
    """
    block.agrees_with_oracle.judge(trial, case)
    implementation = trial.implementation
    if trial.differentiable and mixes_in_compute_dtype(implementation, trial.dtype) is None:
        gradient_block.block_pulls_back_to_state_and_parameters.judge(trial, case)


@mapped("coefficients.sizes-may-coincide", "oracle", coinciding_states)
def mappings_of_coinciding_sizes(trial: Trial, case: Case) -> None:
    """The mappings and their gradients are right where T, C and n are equal, all of them or two.

    As for blocks.
    """
    coefficients.agrees_with_oracle.judge(trial, case)
    if trial.differentiable:
        gradient_mappings.mappings_pull_back_to_state_and_parameters.judge(trial, case)


@st.composite
def coinciding_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output, and cotangents of post and of pre."""
    tokens, n, channels = draw(coinciding(setting))
    seed, dtype = draw(seeds), setting.parameter_dtype
    shapes = ((n, channels), (channels,), (n,), (n, n), (n, channels), (channels,))
    x, y, h_post, h_res, *bars = (torch.tensor(noise(seed + k, tokens, *shape)) for k, shape in enumerate(shapes))
    x, y, *bars = (one.to(setting.dtype) for one in (x, y, *bars))
    h_res = possible(h_res.to(dtype), setting.dialect)
    return Case(x=x, y=y, h_post=h_post.to(dtype), h_res=h_res, cotangents=tuple(bars))


@mixed("mixing.sizes-may-coincide", "oracle", coinciding_mixtures)
def mixtures_of_coinciding_sizes(trial: Trial, case: Case) -> None:
    """pre, post and their gradients are right where T, C and n are equal, all of them or two.

    As for blocks.
    """
    for call in calls.mixtures(trial, case):
        exact = getattr(trial.truth, call.method)(*call.given)
        trial.within(call.method, getattr(trial, call.method)(*call.given), exact, call.errors()[0])
    implementation = trial.implementation
    if trial.differentiable and mixes_in_compute_dtype(implementation, trial.dtype) is None:
        gradient_block.pre_and_post_pull_back_to_every_factor.judge(trial, case)


@st.composite
def coinciding_logits(draw: DrawFn, setting: Setting) -> Case:
    """n matrices of n streams, and a cotangent of their h_res."""
    n, seed, dtype = draw(streams(setting, 3, 5)), draw(seeds), setting.parameter_dtype
    tokens = min(n, setting.max_tokens)
    drawn = noise(seed, tokens, *logits_shape(n, setting.dialect)) * 2
    logits = torch.tensor(at_temperature(drawn, setting.dialect), dtype=dtype)
    return Case(logits=logits, cotangent=torch.tensor(noise(seed + 1, tokens, n, n), dtype=dtype))


@projected("manifold.sizes-may-coincide", "oracle", coinciding_logits, where(depends_on_logits))
def projections_of_coinciding_sizes(trial: Trial, case: Case) -> None:
    """The projection of n matrices of n streams, and its gradient, are right.

    As for blocks.
    """
    manifold.agrees_with_oracle.judge(trial, case)
    if trial.differentiable:
        gradient.projection_pulls_back_the_unrolled_iteration.judge(trial, case)


@st.composite
def slow_logits(draw: DrawFn, setting: Setting) -> Case:
    """Matrices with support and without total support, at which Sinkhorn converges like 1 / t."""
    n = draw(streams(setting, 2))
    drawn = draw(st.lists(st.tuples(seeds, st.integers(1, 3)), min_size=1, max_size=min(2, setting.max_tokens)))
    matrices = [PATTERNS["triangular"](n, seed, level, 0.5) for seed, level in drawn]
    drawn = at_temperature(setting.crowded(np.array(matrices)), setting.dialect)
    return Case(logits=torch.tensor(drawn, dtype=setting.parameter_dtype))


@about.project(
    "manifold.every-n-takes-its-iterations", "oracle", slow_logits, where(alternating), schedule=Schedule(cost=2.5)
)
def every_n_takes_its_iterations(trial: Trial, case: Case) -> None:
    """For every accepted n, h_res is right where each further iteration moves it by more than rounding does.

    Kernels are written for one n, and loops of others end earlier; at logits near 0 all of them have converged by then.
    """
    manifold.agrees_with_oracle.judge(trial, case)
