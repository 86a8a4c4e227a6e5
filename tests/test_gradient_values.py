"""Gradients at values and depths where tests by hand do not go, and counterexamples of the fewest layers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, find, settings
from torch import Tensor

from mhc_ref import PAPER, PRESETS, Dialect, Params, project
from mhc_ref.packing import params_shapes
from properties import bounds
from properties.bounds import INF, Approx, Rounding
from properties.catalogue import deviations
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.laws.manifold import unbounded_range
from properties.strategies import Setting, as_deep_as, cotangent_for, far_beside

SHORT = PAPER.with_(iterations=3)
CPU = torch.device("cpu")

SEEN_BY_VALUES = {
    "cotangent-overflows": "gradient.projection-pulls-back-the-unrolled-iteration",
    "cotangent-flushed": "gradient.projection-pulls-back-the-unrolled-iteration",
    "cotangent-clamped": "gradient.projection-pulls-back-the-unrolled-iteration",
    "cotangents-share-an-exponent": "gradient.every-matrix-pulls-back",
    "recomputed-from-clamped-logits": "gradient.projection-pulls-back-the-unrolled-iteration",
    "streams-in-the-range-of-float16": "depth.streams-persist-through-layers",
    "cotangent-nan-hidden": "gradient.poison-reaches-the-logits",
    "update-hides-nan-backwards": "gradient.poison-passes-a-block",
    "gate-gradient-overflows": "gradient.saturated-mappings-pull-back",
    "four-layers-learn": "gradient.every-layer-learns",
    "every-eighth-boundary-dropped": "depth.streams-persist-through-many-layers",
}
"""Hidden deviation -> the law that sees it."""


def verdict(law: str, name: str, where: Path, *, shrink: bool = False, dtype: torch.dtype = torch.float32) -> Verdict:
    """The law on a deviation of three streams, or on the reference where the name is empty."""
    target = deviations.build(name, SHORT) if name else Reference(SHORT)
    target.streams = (3,)
    profile = Profile(10, derandomise=True, shrink=shrink)
    return examine(all_laws()[law], Subject("target", target, dtype, CPU), profile, directory=where)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_BY_VALUES)
def test_a_slip_at_values_that_no_ordinary_call_reaches_is_seen(name: str, tmp_path: Path) -> None:
    found = verdict(SEEN_BY_VALUES[name], name, tmp_path)
    assert found.status == "failed", found.reason


@pytest.mark.slow
@pytest.mark.parametrize("law", sorted({*SEEN_BY_VALUES.values(), "gradient.saturated-blocks-pull-back"}))
def test_the_reference_holds_there_and_something_is_claimed(law: str, tmp_path: Path) -> None:
    found = verdict(law, "", tmp_path)
    assert found.status == "passed", found.message
    assert found.claims > found.abstentions


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "name", "fewest"),
    [
        ("gradient.every-layer-learns", "four-layers-learn", 5),
        ("depth.streams-persist-through-many-layers", "every-eighth-boundary-dropped", 9),
    ],
)
def test_a_counterexample_has_the_fewest_layers_that_fail(law: str, name: str, fewest: int, tmp_path: Path) -> None:
    found = verdict(law, name, tmp_path, shrink=True)
    assert found.case is not None
    assert len(found.case.params if "params" in found.case else found.case.orders) == fewest


@pytest.mark.parametrize("least", [1, 5, 64])
def test_a_number_of_layers_shrinks_to_the_least_that_will_do(least: int) -> None:
    assert find(as_deep_as(64), lambda depth: depth >= least, settings=settings(database=None)) == least


def test_cotangents_are_drawn_beyond_float16_on_both_sides_and_shrink_to_order_one() -> None:
    drawn = cotangent_for((2, 2), torch.float32, far_beside(torch.float32))
    for wanted in (lambda size: size > 65504, lambda size: 0 < size < 1e-8, lambda size: size > 2.0**70):
        find(drawn, lambda bar, wanted=wanted: wanted(bar.abs().max().item()), settings=settings(database=None))
    assert find(drawn, lambda bar: bool(bar.any()), settings=settings(database=None)).abs().max() == 1


def test_a_state_far_from_one_leaves_no_room_for_cotangents_that_are() -> None:
    assert far_beside(torch.float32, torch.tensor([[1.0], [1e-12]])) == 0
    assert far_beside(torch.float32, torch.tensor([[1.0], [0.0]])) > 16
    assert far_beside(torch.float16) < 16


def test_nothing_is_claimed_where_a_number_on_the_way_overflows() -> None:
    r = Rounding.of(torch.float32)
    x = Approx.exact(torch.full((1, 2, 2), 1e30))
    found = bounds.contracted("tic,tjc->tij", x, x, 2, r)
    assert bool((found.error == INF).all())
    small = Approx.exact(torch.full((1, 2, 2), 1e12))
    assert bool(torch.isfinite(bounds.contracted("tic,tjc->tij", small, small, 2, r).error).all())


@pytest.mark.parametrize("preset", ["PAPER", "DEEPSEEK_V4"])
@pytest.mark.parametrize("gap", [80.0, 104.0, 120.0])
def test_gradients_of_starved_lines_are_claimed_of_who_promises_their_range(preset: str, gap: float) -> None:
    logits = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    logits[:, 1] -= gap
    bar = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1))
    r = unbounded_range(Rounding.of(torch.float32))
    found = bounds.projection_gradient(Approx.exact(logits), Approx.exact(bar), PRESETS[preset], r)
    assert bool((found.error < found.value.abs().amax()).all())


# Logits with errors: to first order exactly

FOLLOWED = {
    "PAPER": PAPER,
    "DEEPSEEK_V4": PRESETS["DEEPSEEK_V4"],
    "three iterations": SHORT,
    "one iteration": PAPER.with_(iterations=1),
    "large eps": PAPER.with_(entry_eps=1e-3, denominator_eps=1e-2),
    "softmax along the last axis": PAPER.with_(
        start="softmax", start_axis="row", last_axis="row", iterations=5, denominator_eps=1e-3
    ),
}


def moved_most(dialect: Dialect, error: float, seed: int) -> float:
    """How near the gradient by logits that are moved the worst way, by that error, comes to its bound, at most."""
    g = torch.Generator().manual_seed(seed)
    n = 2 + seed % 3
    logits = torch.randn(1, n, n, generator=g, dtype=torch.float64) * (0.5, 1.5, 3.0)[seed % 3]
    bar = torch.randn(1, n, n, generator=g, dtype=torch.float64)
    given = Approx(logits, torch.full_like(logits, error))
    bound = bounds.projection_gradient(given, Approx.exact(bar), dialect, Rounding.of(torch.float32))

    def gradient(z: Tensor) -> Tensor:
        return torch.autograd.grad((project(z, dialect) * bar).sum(), z, create_graph=True)[0]

    leaf = logits.clone().requires_grad_()
    worst = 0.0
    for entry in gradient(leaf).flatten()[:: n + 1]:
        along = torch.autograd.grad(entry, leaf, retain_graph=True)[0].sign()
        for way in (along, -along):
            off = (gradient((logits + error * way).requires_grad_()) - bound.value).detach().abs()
            worst = max(worst, torch.where(torch.isfinite(bound.error), off / bound.error, 0.0).max().item())
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("title", FOLLOWED)
def test_logits_that_are_moved_the_worst_way_keep_the_gradient_within_its_bound(title: str) -> None:
    worst = [moved_most(FOLLOWED[title], error, seed) for error in (1e-3, 1e-2) for seed in range(3)]
    assert max(worst) <= 1


@pytest.mark.parametrize("title", ["PAPER", "three iterations", "one iteration", "softmax along the last axis"])
def test_the_gradient_by_moved_logits_comes_near_its_bound(title: str) -> None:
    assert max(moved_most(FOLLOWED[title], 1e-3, seed) for seed in range(3)) > 0.5


@pytest.mark.parametrize("preset", ["PAPER", "DEEPSEEK_V4"])
@pytest.mark.parametrize("seed", range(3))
def test_a_cotangent_in_bfloat16_is_beyond_the_bound_of_a_projection(preset: str, seed: int) -> None:
    """And the gradient in float32 is far within it."""
    g = torch.Generator().manual_seed(seed)
    logits, bar = torch.randn(1, 4, 4, generator=g), torch.randn(1, 4, 4, generator=g)
    bound = bounds.projection_gradient(
        Approx.exact(logits), Approx.exact(bar), PRESETS[preset], Rounding.of(torch.float32)
    )

    def off(cotangent: Tensor) -> float:
        leaf = logits.clone().requires_grad_()
        got = torch.autograd.grad(project(leaf, PRESETS[preset]), leaf, cotangent)[0]
        return ((got.double() - bound.value).abs() / bound.error).max().item()

    assert off(bar.bfloat16().float()) > 1 > 20 * off(bar)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["block.agrees-with-oracle", "coefficients.gates-stay-in-their-range"])
def test_gates_of_a_token_are_all_shut_or_all_open_at_times(law: str) -> None:
    drawn = all_laws()[law].draw(Setting(PAPER, (3,), torch.float32))
    for sign in (-1, 1):
        find(
            drawn,
            lambda case, sign=sign: bool((sign * case.params.bias[:6] > 50).all()),
            settings=settings(database=None, derandomize=True, max_examples=2000, phases=[Phase.generate]),
        )


@pytest.mark.parametrize("preset", ["PAPER", "DEEPSEEK_V4"])
def test_gradients_are_claimed_at_a_width_of_1024_in_float32(preset: str) -> None:
    """Half of a gradient, which is nearly correct code, is out of bounds."""
    dialect, n, width = PRESETS[preset], 4, 1024
    g = torch.Generator().manual_seed(0)
    shapes = params_shapes(n, width, dialect)
    phi = torch.randn(shapes.phi, generator=g) / math.sqrt(shapes.phi[0])
    params = Params(phi, torch.randn(shapes.bias, generator=g), torch.ones(shapes.alpha))
    x = Approx.exact(torch.randn(1, n, width, generator=g))
    pre, post, res = (Approx.exact(torch.randn(shape, generator=g)) for shape in ((1, n), (1, n), (1, n, n)))
    found = bounds.coefficients_gradient(x, params, pre, post, res, dialect, Rounding.of(torch.float32))
    value, error = found.bias.value.abs(), found.bias.error
    assert (error < value).double().mean() > 0.75
    assert (error < value / 2)[2 * n :].any()


class Ends(Reference):
    """The reference, whose head is by hand: with another sigmoid, or another norm backwards."""

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        assert params is not None
        n, flat = x.shape[-2], x.flatten(-2)
        weighted = flat if params.norm_weight is None else flat * params.norm_weight
        mean = flat.square().mean(-1, keepdim=True)
        z = (weighted @ params.phi[:, :n]) * self.inverse(mean) * params.alpha[0] + params.bias[:n]
        return ((self.gate(z) + self.dialect.pre_eps).unsqueeze(-1) * x).sum(-2)

    def gate(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def inverse(self, mean: Tensor) -> Tensor:
        return (mean + self.dialect.rms_eps).rsqrt()


class Overflows(Ends):
    def gate(self, z: Tensor) -> Tensor:
        return 1 / (1 + (-z).exp())


class ForgetsTheEps(Ends):
    def inverse(self, mean: Tensor) -> Tensor:
        forgetful = (mean + 1e-20).rsqrt()
        return super().inverse(mean).detach() + forgetful - forgetful.detach()


@pytest.mark.parametrize(("kind", "status"), [(Ends, "passed"), (Overflows, "failed"), (ForgetsTheEps, "failed")])
def test_heads_are_pulled_back_at_saturated_gates_and_at_small_states(
    kind: type[Ends], status: str, tmp_path: Path
) -> None:
    target = kind(PRESETS["DEEPSEEK_V4"].with_(iterations=3))
    target.streams = (3,)
    law = all_laws()["gradient.collapse-pulls-back-to-every-stream"]
    profile = Profile(10, derandomise=True, shrink=False)
    found = examine(law, Subject("target", target, torch.float32, CPU), profile, directory=tmp_path)
    assert found.status == status, found.message
