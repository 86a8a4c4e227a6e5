"""Carry: what a gate leaves of each stream, what rounding explains of it, and Muse Spark's own module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import MUSE_SPARK, Dialect
from mhc_ref.exact import Exact
from mhc_ref.packing import logits_shape, streams_of_logits
from properties.catalogue import controls
from properties.core.family import mix_of
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.rounding import Approx, Rounding
from properties.diagnosis.diagnose import identify
from properties.engine.runner import Profile, Subject, examine
from properties.explosion import find_minimal
from properties.families.deviations.carry import SLIPS
from properties.targets import published

F32, F64 = torch.float32, torch.float64
HIGH = MUSE_SPARK.with_(floor=0.3, temperature=1e-3)
LOW = MUSE_SPARK.with_(floor=1e-20, temperature=7.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def over(dialect: Dialect, *shape: int, seed: int = 0) -> Tensor:
    """Logits [..., 1] that are as many temperatures as these sizes say: nothing, a little, the floor, far below it."""
    at = torch.logit(torch.tensor(1 - dialect.floor, dtype=F64).sqrt().clamp(max=1 - 1e-15))
    w = normal(*shape, 1, seed=seed) * torch.tensor([0.1, 1, 4, 8, 30, 1e4], dtype=F64)[
        torch.arange(shape[0]) % 6
    ].view(-1, *[1] * len(shape))
    w[::7] = at + w[::7] * 1e-6
    return w * dialect.temperature


def test_a_stream_has_one_logit() -> None:
    for n in (1, 2, 5):
        assert logits_shape(n, MUSE_SPARK) == (n, 1)
        assert streams_of_logits((3, n, 1), MUSE_SPARK) == n


@pytest.mark.parametrize("floor", [1.0, 0.0, 2, True, "1e-3"])
def test_a_floor_that_is_none_is_refused(floor: Any) -> None:
    with pytest.raises(ValueError, match=r"Dialect.floor is .*; expected a number from 1e-30 to 1"):
        MUSE_SPARK.with_(floor=floor)


@pytest.mark.parametrize("dialect", [MUSE_SPARK, HIGH, LOW])
def test_the_squares_of_both_weights_sum_to_one_except_at_the_floor(dialect: Dialect) -> None:
    z = over(dialect, 60, 3)
    m, beta = mhc_ref.project(z, dialect), (z.squeeze(-1) / dialect.temperature).sigmoid()
    alpha = m.diagonal(dim1=-2, dim2=-1)
    assert (m == alpha.diag_embed()).all()
    assert ((alpha > 0) & (alpha <= 1)).all()
    total, free = alpha.square() + beta.square(), alpha.square() > dialect.floor * 1.001
    assert free.any()
    assert (~free).any()
    assert torch.allclose(total[free], torch.ones(1, dtype=F64), rtol=0, atol=1e-14)
    assert (total <= 1 + dialect.floor + 1e-14).all()


@pytest.mark.parametrize("dialect", [MUSE_SPARK, HIGH, LOW])
def test_both_formulas_agree_to_the_last_digits(dialect: Dialect) -> None:
    z = (torch.tensor([[-9.0], [0.4], [2.5], [40.0]], dtype=F64) * dialect.temperature).requires_grad_()
    bar, exact = normal(4, 4), Exact(dialect)
    m = mhc_ref.project(z, dialect)
    (gradient,) = torch.autograd.grad(m, z, bar)
    wanted: Any = exact.project(z.tolist())
    told: Any = exact.project_vjp(z.tolist(), bar.tolist())
    assert torch.allclose(m.detach(), torch.tensor([[float(e) for e in row] for row in wanted], dtype=F64), atol=1e-15)
    back = torch.tensor([[float(e) for e in row] for row in told], dtype=F64) * dialect.temperature
    assert torch.allclose(gradient * dialect.temperature, back, rtol=1e-10, atol=1e-14)


# Bounds


def ratios(made: Implementation, dialect: Dialect, dtype: torch.dtype) -> tuple[float, float]:
    """error / bound of value and gradient, the largest; away from the floor for the gradient's."""
    mix, r = mix_of(dialect), Rounding.of(dtype)
    z = over(dialect, 4000, 3).to(dtype)
    bar = normal(len(z), 3, 3, seed=1).to(dtype)
    leaf = z.clone().requires_grad_()
    got = made.project(leaf)
    (back,) = torch.autograd.grad(got, leaf, bar)
    value = mix.bound(Approx.exact(z), dialect, r)
    pulled = mix.pullback(Approx.exact(z), Approx.exact(bar), dialect, r)
    off = [((found.double() - one.value).abs(), one.error) for found, one in ((got.detach(), value), (back, pulled))]
    worst = [torch.where(error == 0, 0.0, error / bound).nan_to_num(nan=0.0) for error, bound in off]
    assert float(worst[1].max()) <= 1
    away = (torch.arange(len(z)) % 7 != 0).view(-1, 1, 1)
    return float(worst[0].max()), float((worst[1] * away).max())


@pytest.mark.parametrize("dialect", [MUSE_SPARK, HIGH, LOW])
def test_correct_arithmetic_comes_near_its_bound_and_does_not_exceed_it(dialect: Dialect) -> None:
    """A tenth of the value's bound, a 40th of the gradient's: a sigmoid is held to six units, and mostly has one."""
    made = [Reference(dialect), *(one.make(dialect) for name, one in controls.CATALOGUE.items() if "carry" in name)]
    assert len(made) == 4
    found = [ratios(one, dialect, F32) for one in made]
    assert 1 / 10 <= max(value for value, _ in found) <= 1
    assert 1 / 40 <= max(back for _, back in found) <= 1


def test_the_gradient_moves_no_more_than_is_said() -> None:
    z = over(MUSE_SPARK, 500, 3).requires_grad_()
    alpha = mhc_ref.project(z, MUSE_SPARK).diagonal(dim1=-2, dim2=-1)
    (slope,) = torch.autograd.grad(alpha.sum(), z)
    most = mix_of(MUSE_SPARK).pullback_norm(z.detach(), MUSE_SPARK)
    assert (slope.abs().amax((-2, -1)) <= most + 1e-14).all()


# Slips


def status(law: str, made: Implementation, directory: Path, dtype: torch.dtype = F64) -> str:
    profile = Profile(examples=16, derandomise=True, shrink=False)
    return examine(
        all_laws()[law], Subject("made", made, dtype, torch.device("cpu")), profile, directory=directory
    ).status


@pytest.mark.slow
@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_seen_in_the_matrix_or_in_its_gradient(name: str, tmp_path: Path) -> None:
    made = SLIPS[name].make(MUSE_SPARK)
    detached = name == "carry-gate-detached"
    assert status("manifold.agrees-with-oracle", made, tmp_path) == ("passed" if detached else "failed")
    if detached:
        assert status("gradient.projection-pulls-back-the-unrolled-iteration", made, tmp_path) == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["carry-floor-missing", "carry-temperature-forgotten"])
def test_a_slip_is_named(name: str) -> None:
    assert identify(SLIPS[name].make(MUSE_SPARK)).deviations == (name,)


def test_without_a_temperature_none_can_be_forgotten() -> None:
    assert not SLIPS["carry-temperature-forgotten"].applies(MUSE_SPARK.with_(temperature=1.0))


def test_a_gradient_that_a_floor_or_a_zero_stops_is_no_fault(tmp_path: Path) -> None:
    """A cotangent that is no number beside the diagonal, or below the floor, leaves a gradient of 0."""
    z = torch.full((2, 1), 40.0, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mhc_ref.project(z, MUSE_SPARK), z, torch.full((2, 2), torch.nan, dtype=F64))
    assert (gradient == 0).all()
    assert status("gradient.poison-reaches-the-logits", Reference(MUSE_SPARK), tmp_path) == "not-applicable"
    assert status("gradient.poison-passes-the-mappings", Reference(MUSE_SPARK), tmp_path) == "passed"


# Caps, and the published module


def test_streams_that_keep_a_share_of_themselves_do_not_grow() -> None:
    assert find_minimal("mhc", 1.01, dialect=MUSE_SPARK, gain="spectral", max_streams=4).impossible


@pytest.mark.slow
def test_the_published_gate_keeps_what_ours_does_and_lets_in_beta() -> None:
    pytest.importorskip("transformers.models.muse_spark")
    made = published.build("transformers-muse-spark")
    from properties.targets.published.transformers_muse_spark import gate_of

    z = over(MUSE_SPARK, 12, 5)
    assert torch.allclose(made.project(z), mhc_ref.project(z, MUSE_SPARK), rtol=1e-14, atol=0)
    x, y = normal(7, 5, seed=2), normal(7, 5, seed=3)
    gate = gate_of(5, 0.3, 1e-3)
    for w in z:
        state = {"gate": w.squeeze(-1)}
        out = torch.func.functional_call(gate, state, (x, y))
        expected = x @ mhc_ref.project(w, MUSE_SPARK) + (w.squeeze(-1) / 0.3).sigmoid() * y
        assert torch.allclose(out, expected, rtol=1e-13, atol=1e-14)
    assert torch.allclose(
        made.tuned(floor=0.25, temperature=2.0).project(z),
        mhc_ref.project(z, MUSE_SPARK.with_(floor=0.25, temperature=2.0)),
        rtol=1e-14,
        atol=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "law", ["manifold.agrees-with-oracle", "gradient.projection-pulls-back-the-unrolled-iteration"]
)
def test_the_published_gate_keeps_the_laws(law: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers.models.muse_spark")
    assert status(law, published.build("transformers-muse-spark"), tmp_path, F32) == "passed"
