"""Execution: floods of tokens for implementations that offer parts of a block alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Mappings
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import where
from properties.core.trial import Trial
from properties.laws import about, errors
from properties.laws.device import DISTINCT, flooded, floods
from properties.laws.execution import mixture_bound, mixtures
from properties.laws.mixing import possible
from properties.laws.premises import depends_on_logits
from properties.strategies import Setting, noise, seeds, streams, width_among

Place = Callable[[Any], Any]


@st.composite
def flooding_logits(draw: DrawFn, setting: Setting) -> Case:
    """A few different matrices of logits, and how many are made of them on the device."""
    n = draw(streams(setting, 1, 4))
    count = min(draw(st.sampled_from(setting.flood)), setting.max_tokens)
    shape = (min(draw(st.sampled_from(DISTINCT)), count), n, n)
    if setting.dialect.residual == "permutations":
        shape = (shape[0], math.factorial(n))
    return Case(logits=torch.tensor(noise(draw(seeds), *shape) * 2, dtype=setting.parameter_dtype), count=count)


@about.project(
    "execution.every-matrix-of-a-flood-is-projected",
    "oracle",
    flooding_logits,
    where(depends_on_logits),
    blind=("tokens-above-64-unwritten",),
    schedule=Schedule(cost=7, by_streams=False),
)
def every_matrix_of_a_flood_is_projected(trial: Trial, case: Case) -> None:
    """Every one of thousands of matrices (on a GPU up to 131101) is projected as the reference has it.

    As for blocks (`device.every-token-of-a-flood-is-computed`).
    """

    def run(target: Implementation, place: Place) -> Any:
        return target.project(flooded(place(case.logits), case.count))

    out: Tensor = trial.observe("project", run)
    exact, error = trial.truth.project(case.logits), errors.projected(trial, case.logits)
    shape = (case.count, *exact.shape[1:])
    trial.contract("the shape of h_res", tuple(out.shape) == shape, str(tuple(out.shape)), str(shape))
    trial.within("h_res", out, flooded(exact, case.count), flooded(error, case.count))


@about.mappings(
    "execution.every-token-of-a-flood-has-its-mappings",
    "oracle",
    floods,
    blind=("tokens-above-64-unwritten",),
    schedule=Schedule(cost=7, by_streams=False),
)
def every_token_of_a_flood_has_its_mappings(trial: Trial, case: Case) -> None:
    """Every one of thousands of tokens (on a GPU up to 131101) has the mappings that the reference has.

    As for blocks (`device.every-token-of-a-flood-is-computed`).
    """
    emitted = [k for k, name in enumerate(Mappings._fields) if name in trial.implementation.emits]

    def run(target: Implementation, place: Place) -> Any:
        found = target.mappings(flooded(place(case.x), case.count), place(case.params))
        return tuple(found[k] for k in emitted)

    found = trial.observe("mappings", run)
    exact, bound = trial.truth.mappings(case.x, case.params), errors.mappings(trial, case.x, case.params)
    for k, got in zip(emitted, found, strict=True):
        name = Mappings._fields[k]
        error = bound.parts()[name].error
        shape = (case.count, *error.shape[1:])
        trial.contract(f"the shape of h_{name}", tuple(got.shape) == shape, str(tuple(got.shape)), str(shape))
        trial.within(f"h_{name}", got, flooded(exact[k], case.count), flooded(error, case.count))


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


@about.post(
    "execution.every-token-of-a-flood-is-read-and-mixed",
    "oracle",
    flooding_mixtures,
    schedule=Schedule(cost=7, by_streams=False),
)
def every_token_of_a_flood_is_read_and_mixed(trial: Trial, case: Case) -> None:
    """Every one of thousands of tokens (on a GPU up to 131101) is read and mixed as the formula says.

    As for blocks (`device.every-token-of-a-flood-is-computed`).
    """
    for method, given in mixtures(trial, case):

        def run(target: Implementation, place: Place, method: str = method, given: tuple[Tensor, ...] = given) -> Any:
            return getattr(target, method)(*(flooded(place(one), case.count) for one in given))

        out: Tensor = trial.observe(method, run)
        exact, bound = getattr(trial.truth, method)(*given), mixture_bound(trial, case, method).error
        shape = (case.count, *exact.shape[1:])
        trial.contract(f"the shape of {method}", tuple(out.shape) == shape, str(tuple(out.shape)), str(shape))
        trial.within(method, out, flooded(exact, case.count), flooded(bound, case.count))
