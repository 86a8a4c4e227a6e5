"""Precision: each stage by itself keeps the precision of the declared contract, so a failure names the stage.

Every law here feeds inputs that silence all stages but one: what is left of the bound is a few units of that stage, and
a single rounding through a coarser dtype stands out by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor
from torch.nn.functional import pad

from mhc_ref import Mappings, Params
from mhc_ref.packing import params_shapes
from properties import bounds
from properties.bounds import Approx
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.handing import storable, stored_dtype
from properties.core.implementation import Implementation, dtype_names
from properties.core.law import Schedule
from properties.core.premises import emits_res, several_streams, where
from properties.core.trial import Trial, wide
from properties.laws import about, errors
from properties.laws.coefficients import agree
from properties.laws.mixing import possible
from properties.laws.premises import depends_on_logits
from properties.strategies import TAME, Setting, channel_count, coefficient_cases, noise, seeds, streams


def _bare(case: Case) -> Params:
    return case.params._replace(phi=torch.zeros_like(case.params.phi), alpha=torch.ones_like(case.params.alpha))


@about.mappings(
    "precision.gates-keep-the-compute-precision",
    "oracle",
    lambda s: coefficient_cases(s, most=1, patterns=TAME),
    blind=about.SYMMETRIC,
)
def gates_keep_the_compute_precision(trial: Trial, case: Case) -> None:
    """Stage sigmoid: with phi = 0, h_pre and h_post are the squashed bias to a few units of the compute dtype.

    Nothing is left of norm and projection; parameters, sigmoid, scale and eps are float32 (float64 for float64) by
    contract.
    """
    params = _bare(case)
    got, expected = trial.mappings(case.x, params), trial.truth.mappings(case.x, params)
    bound = errors.mappings(trial, case.x, params)
    agree(trial, "(stage: sigmoid)", got, expected, bound, only="pre")
    agree(trial, "(stage: sigmoid)", got, expected, bound, only="post")


@about.mappings(
    "precision.residual-mapping-keeps-the-compute-precision",
    "oracle",
    lambda s: coefficient_cases(s, most=1, patterns=TAME),
    emits_res,
    where(depends_on_logits),
)
def residual_mapping_keeps_the_compute_precision(trial: Trial, case: Case) -> None:
    """Stage projection: with phi = 0, h_res is the projected bias in the compute dtype, not in that of the state.

    h_res stored in bfloat16 misses its sums by 3e-3 a layer, and 86 layers drift visibly.
    """
    params = _bare(case)
    got, expected = trial.mappings(case.x, params), trial.truth.mappings(case.x, params)
    agree(trial, "(stage: projection)", got, expected, errors.mappings(trial, case.x, params), only="res")


@st.composite
def cancelling_projections(draw: DrawFn, setting: Setting) -> Case:
    """Two channels that nearly cancel in the projection, others are 0: what is left sits in the last bits of the state,
    and for another token in bits that a float32 has and TensorFloat-32 has not."""
    n = draw(streams(setting, 1, 4))
    dialect = setting.dialect
    last = torch.finfo(setting.dtype).eps
    units = torch.tensor(draw(st.permutations((last, max(last, 2.0**-13))))[: setting.max_tokens], dtype=torch.float64)
    base = torch.tensor(noise(draw(seeds), len(units), n, 1)).abs() + 0.5
    steps = draw(st.sampled_from((1, 2, 3, 5)))
    silent = setting.width(2) - 2
    x = pad(torch.cat([base, base * (1 + steps * units.view(-1, 1, 1))], -1), (0, silent)).to(setting.dtype)
    shapes = params_shapes(n, x.shape[-1], dialect)
    pair = pad(torch.tensor([1.0, -1.0]), (0, silent)).repeat(1 if dialect.shared_projection else n)
    strength = draw(st.sampled_from((1.0, 4.0)))
    phi = (pair.unsqueeze(-1) * strength * torch.linspace(0.5, 1.5, shapes.phi[1])).to(setting.parameter_dtype)
    dtype = setting.parameter_dtype
    return Case(x=x, params=Params(phi, torch.zeros(shapes.bias, dtype=dtype), torch.ones(shapes.alpha, dtype=dtype)))


@about.mappings(
    "precision.norm-and-projection-keep-the-compute-precision", "oracle", cancelling_projections, blind=about.SYMMETRIC
)
def norm_and_projection_keep_the_compute_precision(trial: Trial, case: Case) -> None:
    """Stage norm and matmul: channels that nearly cancel leave what the last bits of the state say.

    Of K <= 8 products of order one, a few units of the compute dtype remain; rounding the normalised state, phi or the
    sum to a coarser dtype (TF32 included) leaves a thousand times more (llama.cpp #28696).
    """
    got, expected = trial.mappings(case.x, case.params), trial.truth.mappings(case.x, case.params)
    agree(trial, "(stage: norm and matmul)", got, expected, errors.mappings(trial, case.x, case.params))


@st.composite
def cancelling_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """h_res and a state whose mixture nearly cancels."""
    n = draw(streams(setting, 2))
    channels, count = draw(channel_count(setting, 9)), setting.count(1)
    seed = draw(seeds)
    signs = (-1.0) ** torch.arange(n, dtype=torch.float64)
    x = (signs[:, None] * (1 + 0.01 * torch.tensor(noise(seed, count, n, channels)))).to(setting.dtype)
    weights = torch.tensor(noise(seed + 1, count, n, n)).abs() + 0.1
    h_res = possible((weights / weights.sum(-1, keepdim=True)).to(setting.parameter_dtype), setting.dialect)
    h_post = torch.tensor(noise(seed + 2, count, n), dtype=setting.parameter_dtype) * draw(st.sampled_from((0.0, 1.0)))
    y = torch.tensor(noise(seed + 3, count, channels)).to(setting.dtype)
    return Case(x=x, y=y, h_post=h_post, h_res=h_res)


@about.post("precision.mixing-keeps-the-compute-precision", "oracle", cancelling_mixtures, several_streams)
def mixing_keeps_the_compute_precision(trial: Trial, case: Case) -> None:
    """Stage mixing: streams that nearly cancel are summed in the compute dtype, with h_res and h_post as they are.

    Only the sum is rounded to the dtype of the state; a rounded factor or partial sum errs relative to the terms, not
    the sum.
    """
    bound = errors.post(trial, case.x, case.h_res, case.y, case.h_post)
    given = (case.x, case.y, case.h_post, case.h_res)
    trial.within("post (stage: mixing)", trial.post(*given), trial.truth.post(*given), bound.error)


@st.composite
def cancelling_reads(draw: DrawFn, setting: Setting) -> Case:
    """A state whose weighted sum nearly cancels, with the parameters that weigh it."""
    case = draw(coefficient_cases(setting, least_n=2, most=1, scales=(1.0,), patterns=TAME))
    n, channels = case.x.shape[-2:]
    signs = (-1.0) ** torch.arange(n, dtype=torch.float64)
    tokens = torch.tensor(noise(draw(seeds), setting.count(1), n, channels))
    x = (signs[:, None] * (1 + 0.01 * tokens)).to(setting.dtype)
    return case.with_(x=x, params=_bare(case))


@about.block(
    "precision.reading-and-mixing-keep-the-compute-precision-in-a-block", "oracle", cancelling_reads, several_streams
)
def reading_and_mixing_keep_the_compute_precision_in_a_block(trial: Trial, case: Case) -> None:
    """Stages pre and mixing inside a block: nearly cancelling streams are weighed and mixed in the compute dtype.

    As `mixing-keeps-the-compute-precision`, for blocks whose parts cannot be called by themselves; phi is 0, so that
    the coefficients are those of the bias to a few units.
    """
    branch = BranchSpec("constant", torch.ones(case.x.shape[-1], dtype=case.x.dtype))
    out, seen = trial.block(case.x, case.params, branch)
    u, after = trial.truth.block(case.x, case.params, seen[0].y)
    read, mixed, _ = errors.step(trial, case.x, case.params, seen[0].y)
    trial.within("the branch input (stage: pre)", seen[0].u, u, read.error)
    trial.within("the block (stage: mixing)", out, after, mixed.error)


@about.mappings(
    "precision.every-declared-dtype-keeps-its-own-bound",
    "invariant",
    lambda s: coefficient_cases(s, most=2, scales=(1.0, 0.03), patterns=TAME),
    schedule=Schedule(cost=1.5),
)
def every_declared_dtype_keeps_its_own_bound(trial: Trial, case: Case) -> None:
    """The same state in every declared dtype gives the mappings of that dtype's own contract, the finer the closer.

    float64 in must be float64 inside: a cast to float32 on the way is within float32's bound and outside float64's.
    States and parameters are exact in all of them, so the exact mappings are the same.
    """
    names = [
        name for name in dtype_names(trial.implementation) if name in ("float64", "float32", "bfloat16", "float16")
    ]
    # Few enough bits for bfloat16, and within the range of float16.
    x = case.x.to(torch.bfloat16).to(torch.float16)
    params: Params = map_tensors(case.params, lambda part: part.to(torch.float32))
    for name in names:
        params = storable(params, stored_dtype(trial.implementation, getattr(torch, name)))
    expected = trial.truth.mappings(x, params)
    for name in names:
        dtype: torch.dtype = getattr(torch, name)
        wider = torch.float64 if dtype == torch.float64 else torch.float32
        mine: Params = map_tensors(params, partial(torch.Tensor.to, dtype=wider))

        got = trial.observe("mappings", partial(_parts, x.to(dtype), mine))
        slack = bounds.block.coefficients(
            Approx.exact(x), params, trial.dialect, bounds.Rounding.of_declared(trial.implementation, dtype)
        )
        for part, one in zip(("pre", "post", "res"), got, strict=True):
            if part in trial.implementation.emits:
                trial.within(f"h_{part} in {name}", one, wide(getattr(expected, part)), slack.parts()[part].error)


def _parts(x: Tensor, params: Params, target: Implementation, place: Callable[[Any], Any]) -> tuple[Tensor, ...]:
    found = target.mappings(place(x), place(params))
    return tuple(found[k] if name in target.emits else torch.empty(0) for k, name in enumerate(Mappings._fields))
