"""Execution: floods of tokens for implementations that offer parts of a block alone."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref.packing import logits_shape
from properties.core.case import Case
from properties.core.premises import where
from properties.core.trial import Trial
from properties.laws import about, calls
from properties.laws.device import DISTINCT, floods
from properties.laws.mixing import possible
from properties.laws.premises import depends_on_logits
from properties.strategies import Setting, at_temperature, noise, seeds, streams, width_among


@st.composite
def flooding_logits(draw: DrawFn, setting: Setting) -> Case:
    """A few different matrices of logits, and how many are made of them on the device."""
    n = draw(streams(setting, 1, 4))
    count = min(draw(st.sampled_from(setting.flood)), setting.max_tokens)
    shape = (min(draw(st.sampled_from(DISTINCT)), count), *logits_shape(n, setting.dialect))
    drawn = at_temperature(noise(draw(seeds), *shape) * 2, setting.dialect)
    return Case(logits=torch.tensor(drawn, dtype=setting.parameter_dtype), count=count)


@about.project(
    "execution.every-matrix-of-a-flood-is-projected",
    "oracle",
    flooding_logits,
    where(depends_on_logits),
    blind=("tokens-above-64-unwritten",),
    schedule=about.FLOODS,
)
def every_matrix_of_a_flood_is_projected(trial: Trial, case: Case) -> None:
    """Every one of thousands of matrices (on a GPU up to 131101) is projected as the reference has it.

    As for blocks (`device.every-token-of-a-flood-is-computed`).
    """
    exact = trial.truth.project(case.logits)
    calls.is_computed_in_a_flood(trial, calls.projection(trial, case.logits), (exact,), case.count)


@about.mappings(
    "execution.every-token-of-a-flood-has-its-mappings",
    "oracle",
    floods,
    blind=("tokens-above-64-unwritten",),
    schedule=about.FLOODS,
)
def every_token_of_a_flood_has_its_mappings(trial: Trial, case: Case) -> None:
    """Every one of thousands of tokens (on a GPU up to 131101) has the mappings that the reference has.

    As for blocks (`device.every-token-of-a-flood-is-computed`).
    """
    call, exact = calls.mappings(trial, case.x, case.params), trial.truth.mappings(case.x, case.params)
    calls.is_computed_in_a_flood(trial, call, [exact[k] for k in call.parts], case.count)


@st.composite
def flooding_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output of a few different tokens, and how many are made of them."""
    n, channels = draw(streams(setting)), draw(width_among(setting, 1, 3, 9))
    count = min(draw(st.sampled_from(setting.flood)), setting.max_tokens)
    tokens = min(draw(st.sampled_from(DISTINCT)), count)
    seed, dtype = draw(seeds), setting.parameter_dtype
    shapes = ((n, channels), (channels,), (n,), (n, n))
    x, y, h_post, h_res = (torch.tensor(noise(seed + k, tokens, *shape)) for k, shape in enumerate(shapes))
    h_res = possible(h_res.to(dtype), setting.dialect)
    case = Case(x=x.to(setting.dtype), y=y.to(setting.dtype), h_post=h_post.to(dtype), h_res=h_res)
    return case.with_(count=count)


@about.post("execution.every-token-of-a-flood-is-read-and-mixed", "oracle", flooding_mixtures, schedule=about.FLOODS)
def every_token_of_a_flood_is_read_and_mixed(trial: Trial, case: Case) -> None:
    """Every one of thousands of tokens (on a GPU up to 131101) is read and mixed as the formula says.

    As for blocks (`device.every-token-of-a-flood-is-computed`).
    """
    for call in calls.mixtures(trial, case):
        exact = getattr(trial.truth, call.method)(*call.given)
        calls.is_computed_in_a_flood(trial, call, (exact,), case.count)
