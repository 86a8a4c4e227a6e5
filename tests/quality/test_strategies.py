"""The strategies reach every regime that the laws rely on, with at least the probability that is stated here."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, Dialect, project
from mhc_ref.block import gated_logits
from properties.core.case import Case, map_tensors
from properties.core.trial import wide
from properties.guards.surroundings import drawn_alike
from properties.laws.gradient import projection_pulls
from properties.laws.gradient_block import block_pulls
from properties.laws.gradient_depth import constant_stacks, layered_pulls
from properties.laws.gradient_mappings import coefficient_pulls
from properties.laws.mixing import mixing_cases, permuted_state
from properties.strategies import Setting, arrangeable, block_cases, coefficient_cases, projection_cases

QUIET: list[HealthCheck] = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
"""Examples are batches on purpose."""

RUNS, DRAWS = 5, 24
"""Examples of one run resemble each other (Hypothesis varies what it has), so many short ones are pooled, as long as a
law's in a default run."""

STREAMS = (1, 2, 3, 4, 5, 8)
FRAME = Setting(PAPER, STREAMS, torch.float32)

STRATEGIES: dict[str, Callable[[], SearchStrategy[Case]]] = {
    "projection": lambda: projection_cases(FRAME),
    "coefficients": lambda: coefficient_cases(FRAME),
    "tails": lambda: coefficient_cases(FRAME, tails=True),
    "block": lambda: block_cases(FRAME),
    "mixing": lambda: mixing_cases(FRAME),
    "permuted state": lambda: permuted_state(FRAME),
    "projection pull": lambda: projection_pulls(FRAME),
    "coefficient pull": lambda: coefficient_pulls(FRAME),
    "block pull": lambda: block_pulls(FRAME),
    "layered pull": lambda: layered_pulls(FRAME),
    "constant stack": lambda: constant_stacks(FRAME),
}
"""What the laws draw from, in the frame of an implementation that accepts everything."""


@functools.cache
def sample(name: str) -> tuple[Case, ...]:
    """The examples of all runs, the same every time."""
    found: list[Case] = []

    @settings(max_examples=DRAWS, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=QUIET)
    @given(STRATEGIES[name]())
    def draw(case: Case) -> None:
        found.append(case)

    with drawn_alike():
        for run in range(RUNS):
            seed(run)(draw)()
    return tuple(found)


def probability(name: str, event: Callable[[Case], Any]) -> float:
    """The share of examples in which the event happens."""
    cases = sample(name)
    return sum(bool(event(case)) for case in cases) / len(cases)


# Events


def spread(logits: Tensor) -> Tensor:
    """The range of each token's logits."""
    flat = wide(logits).flatten(1)
    return flat.amax(1) - flat.amin(1)


def starved(logits: Tensor, dim: int) -> bool:
    """A line, summing over `dim`, whose largest logit is 8 below the largest of another line."""
    tops = wide(logits).amax(dim)
    return bool((tops.amax(-1) - tops.amin(-1) > 8).any())


def asymmetric(case: Case) -> bool:
    """n >= 3 and h_res differs visibly from its transpose."""
    h_res = project(wide(case.logits), PAPER)
    return h_res.shape[-1] >= 3 and bool(((h_res - h_res.mT).abs().amax((-2, -1)) > 1e-2).any())


def near_permutation(case: Case) -> bool:
    """Every row of h_res lies on one column, all on different ones."""
    h_res = project(wide(case.logits), PAPER)
    return h_res.shape[-1] > 1 and bool(((h_res > 0.9).sum(-1) == 1).all(-1).any())


def unconverged(case: Case) -> bool:
    """Twenty iterations leave a sum that is off by more than 1e-3."""
    return bool(((project(wide(case.logits), PAPER).sum(-2) - 1).abs() > 1e-3).any())


def rms(case: Case) -> Tensor:
    """Of each token."""
    return wide(case.x).square().mean((-2, -1)).sqrt()


def distinct_tokens(tensor: Tensor) -> bool:
    """Two tokens that are not the same."""
    return len(tensor) >= 2 and bool((tensor != tensor[0]).any())


def distinct_streams(case: Case) -> bool:
    """Every two streams of some token differ."""
    x = wide(case.x)
    n = x.shape[-2]
    if n == 1:
        return False
    gaps = (x.unsqueeze(-2) - x.unsqueeze(-3)).abs().amax(-1) + torch.eye(n) * math.inf
    return bool((gaps.nan_to_num(nan=math.inf).amin((-2, -1)) > 0).any())


def cancelling(case: Case) -> bool:
    """A channel whose streams are 20 times larger than their sum."""
    x = wide(case.x)
    return bool((x.sum(-2).abs() * 20 < x.abs().sum(-2)).any()) and x.shape[-2] > 1


def dynamic(case: Case) -> float:
    """How far phi moves the logits, at most."""
    params = map_tensors(case.params, wide)
    bare = params._replace(phi=torch.zeros_like(params.phi))
    moved = gated_logits(wide(case.x), params, PAPER) - gated_logits(wide(case.x), bare, PAPER)
    return moved.abs().max().item()


def sensitive(case: Case) -> bool:
    """A perturbation of the dynamic logits by 1 % is far above rounding in h_pre, h_post or h_res."""
    return dynamic(case) > 0.1


def first_is_dynamic(case: Case) -> bool:
    """The first of several layers moves its logits with the state."""
    return len(case.params) > 1 and dynamic(case.with_(params=case.params[0])) > 0.1


def unsaturated(case: Case) -> bool:
    """Some gate of pre or post is neither nearly 0 nor nearly 1."""
    n = case.x.shape[-2]
    params = map_tensors(case.params, wide)
    return bool((gated_logits(wide(case.x), params, PAPER)[..., : 2 * n].abs() < 4).any())


def varied(cotangent: Tensor) -> bool:
    """Not constant on any token: the gradient of a constant is exactly 0."""
    flat = wide(cotangent).flatten(1)
    return bool((flat.amax(1) > flat.amin(1)).any())


def gate_logits(case: Case) -> Tensor:
    """Of pre and post, [tokens, 2n]."""
    return gated_logits(wide(case.x), map_tensors(case.params, wide), PAPER)[..., : 2 * case.x.shape[-2]]


def dense(cotangent: Tensor) -> bool:
    """Mostly not zero."""
    return bool((cotangent != 0).double().mean() > 0.9) and cotangent.numel() > 1


# (strategy, what must happen, how, in which share of examples at least)
REQUIRED: list[tuple[str, str, Callable[[Case], Any], float]] = [
    ("projection", "an asymmetric h_res", asymmetric, 0.30),
    ("projection", "n is 1", lambda c: c.logits.shape[-1] == 1, 0.03),
    ("projection", "n is 3 or 4", lambda c: c.logits.shape[-1] in (3, 4), 0.30),
    ("projection", "n is 8", lambda c: c.logits.shape[-1] == 8, 0.02),
    ("projection", "logits range over more than 20", lambda c: (spread(c.logits) > 20).any(), 0.30),
    ("projection", "logits range over 2 to 8", lambda c: ((spread(c.logits) > 2) & (spread(c.logits) < 8)).any(), 0.25),
    ("projection", "a starved row", lambda c: starved(c.logits, -1), 0.15),
    ("projection", "a starved column", lambda c: starved(c.logits, -2), 0.15),
    ("projection", "a near permutation", near_permutation, 0.15),
    ("projection", "no convergence", unconverged, 0.15),
    ("projection", "an offset beyond exp", lambda c: (wide(c.logits).flatten(1).mean(1).abs() > 88).any(), 0.08),
    ("projection", "two different tokens", lambda c: distinct_tokens(c.logits), 0.40),
    ("projection", "logits with full mantissas", lambda c: (wide(c.logits) * 8 % 1 != 0).any(), 0.40),
    ("coefficients", "two different tokens", lambda c: distinct_tokens(c.x), 0.35),
    ("coefficients", "distinct streams", distinct_streams, 0.50),
    ("coefficients", "rms below 1e-5", lambda c: ((rms(c) < 1e-5) & (rms(c) > 0)).any(), 0.15),
    ("coefficients", "rms above 1e5", lambda c: (rms(c) > 1e5).any(), 0.10),
    ("coefficients", "rms of order 1", lambda c: ((rms(c) > 0.1) & (rms(c) < 10)).any(), 0.20),
    ("coefficients", "phi moves the logits", sensitive, 0.40),
    ("coefficients", "a gate that is not saturated", unsaturated, 0.70),
    ("coefficients", "a bias of h_pre or h_post", lambda c: c.params.bias[: 2 * c.x.shape[-2]].any(), 0.50),
    ("coefficients", "a residual bias", lambda c: c.params.bias[2 * c.x.shape[-2] :].any(), 0.50),
    ("coefficients", "three different gates", lambda c: len(set(c.params.alpha.tolist())) == 3, 0.20),
    ("coefficients", "unequal gates", lambda c: len(set(c.params.alpha.tolist())) > 1, 0.60),
    ("coefficients", "a norm weight", lambda c: c.params.norm_weight is not None, 0.40),
    ("coefficients", "streams that cancel", cancelling, 0.08),
    ("tails", "a gate above 50", lambda c: (gate_logits(c) > 50).any(), 0.10),
    ("tails", "a gate below -50", lambda c: (gate_logits(c) < -50).any(), 0.10),
    ("tails", "a gate beyond 100 on either side", lambda c: (gate_logits(c).abs() > 100).any(), 0.10),
    ("tails", "a gate beyond the range of exp", lambda c: (gate_logits(c).abs() > 104).any(), 0.10),
    ("tails", "phi that saturates a gate", lambda c: (c.params.phi.abs() > 50).any(), 0.03),
    ("tails", "residual logits far apart", lambda c: spread(c.params.bias[2 * c.x.shape[-2] :][None]) > 50, 0.03),
    ("tails", "gates that are not saturated", lambda c: (gate_logits(c).abs() < 20).all(), 0.50),
    ("block", "distinct streams", distinct_streams, 0.50),
    ("block", "phi moves the logits", sensitive, 0.40),
    ("block", "a branch that is not zero", lambda c: c.branch(torch.ones_like(c.x[:, 0])).any(), 0.40),
    ("mixing", "distinct streams", distinct_streams, 0.50),
    ("mixing", "an asymmetric h_res", asymmetric, 0.25),
    ("permuted state", "a permutation that is not its inverse", lambda c: inverse(c.order) != c.order, 0.15),
    ("projection pull", "a cotangent that varies", lambda c: varied(c.cotangent), 0.50),
    ("projection pull", "a dense cotangent", lambda c: dense(c.cotangent), 0.20),
    ("projection pull", "an asymmetric h_res", asymmetric, 0.25),
    ("coefficient pull", "all outputs used", lambda c: all(bool(bar.any()) for bar in c.cotangents), 0.08),
    ("coefficient pull", "an output unused", lambda c: not all(bool(bar.any()) for bar in c.cotangents), 0.30),
    ("coefficient pull", "phi moves the logits", sensitive, 0.40),
    ("block pull", "a dense cotangent", lambda c: dense(c.cotangent), 0.20),
    ("block pull", "distinct streams", distinct_streams, 0.50),
    ("layered pull", "several layers on distinct streams", lambda c: len(c.params) > 1 and distinct_streams(c), 0.20),
    ("layered pull", "a first layer whose mappings depend on the state", first_is_dynamic, 0.20),
    ("layered pull", "a dense cotangent", lambda c: dense(c.cotangent), 0.20),
    ("constant stack", "several layers and streams", lambda c: len(c.params) > 1 and c.n > 1, 0.20),
    ("constant stack", "a branch that is not zero", lambda c: any(b.kind != "zero" for b in c.branches), 0.40),
]


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Of a permutation."""
    return tuple(order.index(i) for i in range(len(order)))


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "what", "event", "least"), REQUIRED, ids=[f"{s}: {w}" for s, w, _, _ in REQUIRED])
def test_regime_is_reached(strategy: str, what: str, event: Callable[[Case], Any], least: float) -> None:
    found = probability(strategy, event)
    assert found >= least, f"{what} in {found:.1%} of the examples of {strategy!r}, required {least:.0%}"


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4], ids=["PAPER", "DEEPSEEK_V4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_everything_drawn_is_finite_and_in_its_dtype(dialect: Dialect, dtype: torch.dtype) -> None:
    frame = Setting(dialect, STREAMS, dtype)

    @settings(max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
    @given(block_cases(frame))
    def check(case: Case) -> None:
        assert case.x.dtype == dtype
        assert torch.isfinite(case.x).all()
        for part in case.params:
            assert part is None or (part.dtype == frame.parameter_dtype and bool(torch.isfinite(part).all()))

    check()


@pytest.mark.parametrize(("most", "arranged"), [(2**40, 6), (6, 6), (5, 4), (3, 2), (2, 2), (1, 1)])
def test_tokens_are_arranged_on_several_axes_where_a_call_takes_them(most: int, arranged: int) -> None:
    assert arrangeable(Setting(PAPER, STREAMS, torch.float32, max_tokens=most)) == arranged


def report() -> str:
    """Every regime with its measured probability: python -m tests.quality.test_strategies."""
    rows = ((s, w, probability(s, event), least) for s, w, event, least in REQUIRED)
    return "\n".join(f"{s:18s} {w:45s} {found:6.1%}  (>= {least:.0%})" for s, w, found, least in rows)


if __name__ == "__main__":
    print(report())
