"""Device: what is declared to be safe under torch.autocast keeps its precision there, stage by stage."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref import Mappings
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.premises import OnDevice, autocast_safe, differentiable, several_streams
from properties.core.trial import Trial
from properties.laws import about, errors, modes, pulls
from properties.laws.block import SIZES
from properties.laws.calls import FIXED, Place
from properties.laws.coefficients import agree
from properties.laws.execution_layers import FUSED
from properties.laws.gradient_calls import many_blocks
from properties.laws.gradient_ends import end_pulls
from properties.laws.gradient_layers import FEW, stacks_to_pull
from properties.laws.mixing import possible
from properties.laws.premises import fused, mixes_in_compute_dtype
from properties.strategies import Setting, coefficient_cases, noise, seeds, streams, width_among

AUTOCAST = OnDevice("autocast", in_process=True)


@about.mappings(
    "device.mappings-keep-their-precision-under-autocast",
    "oracle",
    lambda s: coefficient_cases(s, most=2, scales=SIZES),
    autocast_safe,
    on=AUTOCAST,
    schedule=about.HALF,
)
def mappings_keep_their_precision_under_autocast(trial: Trial, case: Case) -> None:
    """Under torch.autocast to bfloat16 the mappings keep the declared precision.

    Declared by `autocast_safe`. Training runs under autocast, which reads the operands of every matrix product in
    bfloat16; logits of 2^-9 of their size are what mHC computes its mappings in float32 to avoid.
    """

    def run(target: Implementation, place: Place) -> Any:
        with torch.autocast(trial.device.type, dtype=torch.bfloat16):
            found = target.mappings(place(case.x), place(case.params))
        return tuple(torch.empty(0) if part is None else part.detach() for part in found)  # pyright: ignore[reportUnnecessaryComparison]  # what is not emitted

    got = Mappings(*trial.observe("mappings", run))
    agree(
        trial,
        "under autocast",
        got,
        trial.truth.mappings(case.x, case.params),
        errors.mappings(trial, case.x, case.params),
    )


@st.composite
def cancelling_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """A state whose streams nearly cancel where positive weights mix them, such weights, and cotangents of post and of
    pre that nearly cancel likewise: a coarser product shows in a sum that is stored in a state's dtype."""
    n, channels, seed = draw(streams(setting, 2)), draw(width_among(setting, 3, 9, 2)), draw(seeds)
    count, dtype = setting.count(2), setting.parameter_dtype
    signs = ((-1.0) ** torch.arange(n, dtype=torch.float64)).unsqueeze(-1)
    x, bar = (signs * (1 + 0.01 * torch.tensor(noise(seed + k, count, n, channels))) for k in range(2))
    weights = torch.tensor(noise(seed + 2, count, n, n)).abs() + 0.1
    h_post = torch.tensor(noise(seed + 3, count, n)).abs() + 0.1
    y, by_pre = (torch.tensor(noise(seed + k, count, channels)).to(setting.dtype) for k in (4, 5))
    return Case(
        x=x.to(setting.dtype),
        y=0.01 * y,
        h_post=h_post.to(dtype),
        h_res=possible((weights / weights.sum(-1, keepdim=True)).to(dtype), setting.dialect),
        cotangents=(bar.to(setting.dtype), by_pre),
    )


@about.post(
    "device.mixing-keeps-its-precision-under-autocast",
    "identity",
    cancelling_mixtures,
    several_streams,
    autocast_safe,
    on=AUTOCAST,
    schedule=about.SELDOM,
)
def mixing_keeps_its_precision_under_autocast(trial: Trial, case: Case) -> None:
    """Under torch.autocast to bfloat16 streams are read and mixed, and gradients of it pulled back, as without.

    Declared by `autocast_safe`. A x is a matrix product, which autocast reads in bfloat16: 2^-9 of the residual stream
    in every layer, and nothing raises.
    """
    for pulled in pulls.mixtures(trial, case):
        modes.does_not_see(trial, pulled, modes.AUTOCAST)


@about.block(
    "device.blocks-keep-their-precision-under-autocast",
    "identity",
    lambda s: many_blocks(s, (2, 1), FIXED),
    autocast_safe,
    on=AUTOCAST,
    schedule=about.SELDOM,
)
def blocks_keep_their_precision_under_autocast(trial: Trial, case: Case) -> None:
    """Under torch.autocast to bfloat16 a block gives what it gives without, and so do its gradients, pulled back
    outside of it.

    Declared by `autocast_safe`. What a backward pass of one's own saves is easily saved as autocast had it.
    """
    modes.does_not_see(trial, pulls.block(trial, case), modes.AUTOCAST)


@about.collapse(
    "device.collapsing-keeps-its-precision-under-autocast",
    "identity",
    end_pulls,
    differentiable,
    autocast_safe,
    on=AUTOCAST,
    schedule=about.SELDOM,
)
def collapsing_keeps_its_precision_under_autocast(trial: Trial, case: Case) -> None:
    """Under torch.autocast to bfloat16 streams are collapsed as without, with a head or without one.

    Declared by `autocast_safe`. A head is a projection like that of a block, at the end of a model and in another
    function.
    """
    modes.does_not_see(trial, pulls.collapse(trial, case), modes.AUTOCAST)


@about.stack(
    "device.stacks-keep-their-precision-under-autocast",
    "identity",
    stacks_to_pull,
    fused(*FUSED),
    differentiable,
    mixes_in_compute_dtype,
    autocast_safe,
    on=AUTOCAST,
    schedule=FEW,
)
def stacks_keep_their_precision_under_autocast(trial: Trial, case: Case) -> None:
    """Under torch.autocast to bfloat16 a stack gives what it gives without, and so do its gradients.

    Declared by `autocast_safe`. What is fused over layers leaves autocast by itself, or in each of its blocks.
    """
    modes.does_not_see(trial, pulls.stack(trial, case), modes.AUTOCAST)
