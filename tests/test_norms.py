"""Norms that clamp, that subtract a mean, or whose eps is that of a dtype: values, bounds, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import LUCIDRAINS, PAPER, QWEN4_EXP, Dialect
from mhc_ref.block import normalise
from mhc_ref.exact import Exact
from properties.bounds import Approx, Rounding
from properties.bounds.stages import norm_gradient, normalised
from properties.catalogue import controls, deviations
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.diagnosis import identify
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject

SMALL = LUCIDRAINS
"""Its norm is `torch.nn.functional.normalize` with the eps that it has by default, 1e-12."""


def pulled(x: Tensor, g: Tensor, dialect: Dialect) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(normalise(x, None, dialect), x, g)[0]


def bound(x: Tensor, g: Tensor, dialect: Dialect, dtype: torch.dtype = torch.float32) -> Approx:
    state, r = Approx.exact(x.double()), Rounding.of(dtype)
    _, shared = normalised(state, None, dialect, r)
    return norm_gradient(state, Approx.exact(g.double()), g.double().abs(), shared, dialect, r)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_clamped_norm_is_that_of_normalize(dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = x * torch.tensor([1.0, 1e-6, 1e-13, 1e-20, 0.0], dtype=dtype).view(-1, 1, 1)
    expected = torch.nn.functional.normalize(x, dim=-1) * math.sqrt(8)
    torch.testing.assert_close(normalise(x, None, SMALL), expected, rtol=1e-6, atol=0.0)


def test_a_stream_of_zeros_beside_others_has_the_gradient_of_the_clamp() -> None:
    generator = torch.Generator().manual_seed(2)
    x, g = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    x[0, 1] = 0
    found = pulled(x, g, SMALL)
    torch.testing.assert_close(found[0, 1], g[0, 1] * math.sqrt(8) * 1e12, rtol=1e-6, atol=0.0)
    claimed = bound(x, g, SMALL)
    assert bool(((found.double() - claimed.value).abs() <= claimed.error).all())
    sharp = claimed.error[0, 1] / claimed.value[0, 1].abs()
    assert float(sharp.max()) < 60 * 2.0**-24, "a claim so wide would let another gradient pass"


@pytest.mark.parametrize("wrong", ["stopped", "through the root"])
def test_the_bound_refuses_another_gradient_of_a_small_stream(wrong: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x, g = 1e-14 * torch.randn(1, 2, 8, generator=generator), torch.randn(1, 2, 8, generator=generator)
    claimed, right = bound(x, g, SMALL), pulled(x, g, SMALL)
    rho = 1e-12 / math.sqrt(8)
    other = torch.zeros_like(g) if wrong == "stopped" else right - x * (g * x).mean(-1, keepdim=True) / rho**2 / 1e-14
    assert bool(((right.double() - claimed.value).abs() <= claimed.error).all())
    assert bool(((other.double() - claimed.value).abs() > claimed.error).any())


def test_either_side_of_the_kink_is_admitted_where_rounding_decides() -> None:
    dialect = PAPER.with_(rms_eps=1.0, rms_eps_by="clamp")
    x = torch.tensor([[[0.6, 0.0], [0.8, 0.0]]])
    g = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    claimed = bound(x, g, dialect)
    below, above = 2.0 * g, 2.0 * (g - x * (g * x).sum())  # sqrt(K) = 2
    for side in (below, above):
        assert bool(((side.double() - claimed.value).abs() <= claimed.error).all())
    apart = bound(1.001 * x, g, dialect)
    assert bool(((below.double() - apart.value).abs() > apart.error).any())


@pytest.mark.parametrize("name", ["norm-by-normalize", "norm-by-clamped-rsqrt"])
def test_other_forms_of_a_clamped_norm_give_the_same(name: str) -> None:
    dialect = PAPER.with_(rms_eps=1e-3, rms_eps_by="clamp")
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64)
    x = x * torch.tensor([1.0, 1e-5, 0.0], dtype=torch.float64).view(-1, 1, 1)
    shapes = mhc_ref.packing.params_shapes(3, 4, dialect)
    params = mhc_ref.Params(*(torch.randn(one, generator=generator, dtype=torch.float64) for one in shapes))
    for one, other in zip(
        controls.build(name, dialect).mappings(x, params), mhc_ref.mappings(x, params, dialect), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_identify_measures_a_norm_that_clamps() -> None:
    found = identify(Reference(PAPER.with_(rms_eps=3e-4, rms_eps_by="clamp"), "mine"))
    assert (found.findings["rms_eps_by"].value, found.findings["rms_eps_by"].status) == ("clamp", "certain")
    assert found.findings["rms_eps"].value == 3e-4


def test_a_read_that_divides_by_a_root_itself_refuses_a_clamp() -> None:
    with pytest.raises(ValueError, match="conflicts with rms_eps_by='clamp'"):
        QWEN4_EXP.with_(rms_eps_by="clamp")


# An eps that is that of a dtype


def test_an_eps_from_the_dtype_is_a_number_for_states_of_one() -> None:
    compute, state = (PAPER.with_(rms_eps_from=way) for way in ("compute", "state"))
    assert [compute.at(name).rms_eps for name in ("float64", "float32", "bfloat16")] == [2.0**-52, 2.0**-23, 2.0**-23]
    assert [state.at(name).rms_eps for name in ("float64", "float32", "bfloat16")] == [2.0**-52, 2.0**-23, 2.0**-7]
    for name in ("float64", "float32", "bfloat16", "float16"):
        assert state.at(getattr(torch, name)).rms_eps == torch.finfo(getattr(torch, name)).eps
    assert compute.at("float32") == PAPER.with_(rms_eps=2.0**-23)
    assert PAPER.at(torch.int8) is PAPER
    with pytest.raises(LookupError, match="no eps is known of the dtype 'int8'"):
        compute.at("int8")


def test_who_gives_an_eps_says_where_it_is_from() -> None:
    taken = PAPER.with_(rms_eps_from="state")
    assert (taken.rms_eps, taken.has_rms_eps) == (0.0, True)
    assert taken.with_(rms_eps=1e-6) == PAPER.with_(rms_eps=1e-6)
    with pytest.raises(ValueError, match="rms_eps_from='state' conflicts with rms_eps=1e-06"):
        Dialect(rms_eps=1e-6, rms_eps_from="state")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_eps_of_the_computation_is_that_of_rms_norm(dtype: torch.dtype) -> None:
    dialect = PAPER.with_(norm_over="stream", rms_eps_from="compute")
    sizes = 2.0 ** torch.tensor([-26.0, -12, -4, 0, 4])
    x = (torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1)) * sizes.view(-1, 1, 1)).to(dtype)
    expected = torch.nn.functional.rms_norm(x.to(mhc_ref.projection.compute_dtype(dtype)), (8,))
    torch.testing.assert_close(normalise(x, None, dialect), expected, rtol=1e-6, atol=0.0)


def test_the_eps_of_the_state_is_that_of_its_dtype_where_more_is_computed_in_float32() -> None:
    dialect = PAPER.with_(norm_over="stream", rms_eps_from="state")
    x = torch.full((1, 1, 4), 2.0**-4, dtype=torch.bfloat16)
    torch.testing.assert_close(normalise(x, None, dialect), x.float() / math.sqrt(2.0**-8 + 2.0**-7))


def test_an_oracle_asks_for_the_dtype() -> None:
    with pytest.raises(ValueError, match=r"give dialect\.at\('float32'\)"):
        Exact(PAPER.with_(rms_eps_from="compute"))


@pytest.mark.parametrize("made", [Reference, deviations.Deviant])
def test_what_is_examined_declares_the_eps_of_its_dtype(made: Callable[[Dialect, str], Implementation]) -> None:
    mine = made(PAPER.with_(rms_eps_from="state"), "mine")
    for dtype, eps in ((torch.float32, 2.0**-23), (torch.bfloat16, 2.0**-7)):
        subject = Subject("mine", mine, dtype, torch.device("cpu"))
        assert subject.implementation.dialect == PAPER.with_(rms_eps=eps)
        assert subject.implementation.tuned(iterations=2).dialect == PAPER.with_(rms_eps=eps, iterations=2)
    assert mine.dialect.rms_eps_from == "state"


DTYPE_EPS = {
    ("rms-eps-of-float32", "compute"): torch.float64,
    ("rms-eps-of-the-state", "compute"): torch.bfloat16,
    ("rms-eps-of-the-computation", "state"): torch.bfloat16,
    ("rms-eps-of-the-smallest-number", "compute"): torch.float32,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), DTYPE_EPS)
def test_an_eps_of_another_dtype_is_seen(name: str, way: str, tmp_path: Path) -> None:
    dialect = PAPER.with_(rms_eps_from=way)
    assert judged(ORACLE, deviations.build(name, dialect), DTYPE_EPS[name, way], tmp_path) == "failed"
    assert judged(ORACLE, Reference(dialect), DTYPE_EPS[name, way], tmp_path) == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compute", "state"])
def test_identify_tells_an_eps_of_a_dtype(way: str) -> None:
    found = identify(Reference(PAPER.with_(rms_eps_from=way), "mine"), declared=False, hidden=0)
    assert (found.findings["rms_eps_from"].value, found.findings["rms_eps_from"].status) == (way, "certain")
    assert found.findings["rms_eps"].value == 0
    where = {"compute": "it is computed in", "state": "of the state"}[way]
    assert found.headline() == f"like PAPER, but the eps of the norm is that of the dtype {where}"


@pytest.mark.slow
def test_one_dtype_cannot_tell_where_an_eps_is_from() -> None:
    found = identify(Reference(PAPER.with_(rms_eps=2.0**-23), "mine"), dtype=torch.float32, hidden=0, brief=False)
    finding = found.findings["rms_eps_from"]
    assert (finding.value, finding.status, finding.why) == (
        "value",
        "undetermined",
        "'compute' or 'state' does as well",
    )


# A norm that subtracts a mean


ALL, EACH = (PAPER.with_(rms_eps=1e-5, centred=True, norm_over=over) for over in ("streams", "stream"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dialect", [ALL, EACH], ids=["all streams", "each stream"])
def test_a_centred_norm_is_layer_norm(dialect: Dialect, dtype: torch.dtype) -> None:
    x = offset_state(3.0).to(dtype)
    numbers = x.flatten(1) if dialect is ALL else x
    expected = torch.nn.functional.layer_norm(numbers, numbers.shape[-1:], eps=1e-5).view(x.shape)
    torch.testing.assert_close(normalise(x, None, dialect), expected, rtol=1e-5, atol=1e-5)


def offset_state(offset: float, seed: int = 1) -> Tensor:
    return torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset


def by_moments(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * ((x.square().mean(-1, keepdim=True) - mean.square()).clamp_min(0) + 1e-5).rsqrt()


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "the reference": lambda x: normalise(x, None, EACH),
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5),
    "multiplied out": lambda x: (
        x * (r := (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()) - x.mean(-1, keepdim=True) * r
    ),
}


@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("name", FORMS)
def test_the_bound_of_a_centred_norm_holds_however_large_the_mean(name: str, offset: float) -> None:
    x, g = offset_state(offset).float(), offset_state(0.0, 2).float()
    (value, by_value), (gradient, by_gradient) = off(FORMS[name], x, g)
    assert value.max() <= 1
    assert gradient.max() <= 1
    assert by_value.isfinite().all(), "a state of which nothing is claimed"
    assert by_gradient.isfinite().all()


def off(form: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> list[tuple[Tensor, Tensor]]:
    """error / bound and the bound, of the value of a norm of each stream and of its gradient."""
    given, state, r = x.clone().requires_grad_(), Approx.exact(x.double()), Rounding.of(torch.float32)
    out = form(given)
    (back,) = torch.autograd.grad(out, given, g)
    found, shared = normalised(state, None, EACH, r)
    bounds = found.error + shared * found.value.abs(), bound(x, g, EACH).error
    exact = normalise(x.double(), None, EACH), pulled(x.double(), g.double(), EACH)
    return [
        ((got.detach().double() - one).abs() / most, most)
        for got, one, most in zip((out, back), exact, bounds, strict=True)
    ]


def test_the_bound_of_a_centred_norm_is_that_of_exact_arithmetic() -> None:
    x = offset_state(1e3)[:1].float()
    exact = Exact(EACH, digits=40)
    rows = [[exact.mp.mpf(v) for v in row] for row in x[0].tolist()]
    centred = [[v - sum(row) / len(row) for v in row] for row in rows]
    sizes = [exact.mp.sqrt(sum(v**2 for v in row) / len(row) + exact.mp.mpf(1e-5)) for row in centred]
    unit = torch.tensor(
        [[float(v / s) for v in row] for row, s in zip(centred, sizes, strict=True)], dtype=torch.float64
    )
    found, shared = normalised(Approx.exact(x.double()), None, EACH, Rounding.of(torch.float32))
    torch.testing.assert_close(found.value[0], unit, rtol=0.0, atol=1e-6)
    apart = (normalise(x, None, EACH)[0].double() - unit).abs()
    assert bool((apart <= (found.error + shared * found.value.abs())[0]).all())


def test_the_bound_refuses_a_variance_of_moments_and_another_gradient() -> None:
    x, g = offset_state(100.0).float(), offset_state(0.0, 2).float()
    (value, _), _ = off(by_moments, x, g)
    assert value.max() > 3
    _, (gradient, _) = off(lambda x: normalise(x - x.mean(-1, keepdim=True).detach(), None, MEAN_OF_0), x, g)
    assert gradient.max() > 1e3


MEAN_OF_0 = EACH.with_(centred=False)


def test_the_bound_of_a_centred_norm_is_sharp_without_an_offset() -> None:
    x, g = offset_state(0.0).float(), offset_state(0.0, 2).float()
    plain, _ = normalised(Approx.exact(x.double()), None, MEAN_OF_0, Rounding.of(torch.float32))
    centred, _ = normalised(Approx.exact(x.double()), None, EACH, Rounding.of(torch.float32))
    assert float(centred.error.mean() / plain.error.mean()) < 16
    assert float(bound(x, g, EACH).error.mean() / bound(x, g, MEAN_OF_0).error.mean()) < 16


ORACLE = "coefficients.agrees-with-oracle"
OFFSET = "coefficients.coefficients-do-not-see-an-offset"
CENTRED = {
    "centring-missing": OFFSET,
    "variance-of-the-uncentred": OFFSET,
    "norm-by-unbiased-deviation": ORACLE,
    "norm-unbiased": ORACLE,
    "mean-span": ORACLE,
    "mean-divides-by-channels": OFFSET,
    "mean-detached": "gradient.block-pulls-back-to-state-and-parameters",
    "mean-in-bfloat16": OFFSET,
    "variance-of-moments": OFFSET,
    "centred-in-place": "block.agrees-with-oracle",
}


def judged(law: str, implementation: Implementation, dtype: torch.dtype, where: Path) -> str:
    implementation.streams = (2, 3)
    subject = Subject("target", implementation, dtype, torch.device("cpu"))
    return examine(all_laws()[law], subject, Profile(20, derandomise=True, shrink=False), directory=where).status


@pytest.mark.slow
@pytest.mark.parametrize("name", CENTRED)
def test_a_wrong_layer_norm_is_seen(name: str, tmp_path: Path) -> None:
    assert judged(CENTRED[name], deviations.build(name, ALL), torch.float32, tmp_path) == "failed"


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["", "norm-by-layer-norm", "norm-of-merged-chunks"])
def test_a_right_layer_norm_is_not_accused(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    for dialect in (ALL, EACH):
        made = controls.build(name, dialect) if name else Reference(dialect, "mine")
        for law in (OFFSET, ORACLE, "gradient.block-pulls-back-to-state-and-parameters"):
            assert judged(law, made, dtype, tmp_path) == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("over", ["streams", "stream"])
def test_identify_tells_a_layer_norm(over: str) -> None:
    dialect = PAPER.with_(centred=True, norm_over=over)
    found = identify(Reference(dialect, "mine"), against=PAPER, hidden=0)
    assert found.explained
    assert {name: value for name, (_, value) in found.differs.items()} == {
        name: mine for name, (mine, _) in dialect.difference(PAPER).items()
    }
    assert found.findings["centred"].certain


def test_what_cannot_be_centred_is_refused() -> None:
    with pytest.raises(ValueError, match="conflicts with centred=True"):
        QWEN4_EXP.with_(centred=True)
    with pytest.raises(ValueError, match=r"Dialect\.centred is 1; expected True or False"):
        PAPER.with_(centred=1)


def test_nothing_is_claimed_where_layer_norm_squares_what_is_too_large() -> None:
    x = (offset_state(1e3) * 1e18).float()
    assert torch.nn.functional.layer_norm(x, x.shape[-1:]).isnan().any()
    assert normalise(x, None, EACH).isfinite().all()
    found, _ = normalised(Approx.exact(x.double()), None, EACH, Rounding.of(torch.float32))
    assert found.error.isinf().all()
