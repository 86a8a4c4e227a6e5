"""Kronecker products and the Cayley transform: what they are, what they keep, and what rounding explains of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import CAYLEY, KROMHC, MHC_LITE, Dialect, Params
from mhc_ref.exact import Exact
from mhc_ref.packing import logits_shape, params_shapes, streams_of_logits, streams_of_params
from properties.catalogue import controls
from properties.core.deviant import Deviant
from properties.core.family import mix_of
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.rounding import Approx, Rounding
from properties.engine.runner import Profile, Subject, examine
from properties.explosion import find_minimal
from properties.families.deviations import cayley as cayley_slips
from properties.families.deviations import kronecker as kronecker_slips

F32, F64 = torch.float32, torch.float64
CPU = torch.device("cpu")
THREES = KROMHC.with_(factors=(3, 2))
LOST = ("kronecker-complement-detached", "cayley-inverse-detached")
QUICK = ("kronecker-reversed", "kronecker-p-clamped", "cayley-inverted", "cayley-ridge")
SLIPS = {**dict.fromkeys(kronecker_slips.SLIPS, KROMHC), **dict.fromkeys(cayley_slips.SLIPS, CAYLEY)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# What they are


@pytest.mark.parametrize(
    ("n", "dialect", "shape"),
    [
        (1, KROMHC, (1, 1)),
        (2, KROMHC, (1, 2)),
        (8, KROMHC, (3, 2)),
        (3, KROMHC, (1, 6)),
        (6, KROMHC, (8,)),
        (6, THREES, (8,)),
        (9, KROMHC.with_(factors=(3, 3)), (2, 6)),
        (8, KROMHC.with_(factors=(4, 2)), (26,)),
    ],
)
def test_a_factor_has_a_logit_for_each_of_its_permutations(n: int, dialect: Dialect, shape: tuple[int, ...]) -> None:
    assert logits_shape(n, dialect) == shape
    assert streams_of_logits((5, *shape), dialect) == n


def test_factors_that_make_no_n_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n is 4; the factors \(3, 2\) make 6 streams"):
        logits_shape(4, THREES)
    with pytest.raises(ValueError, match="n is 14; its factors are 2s and 7"):
        logits_shape(14, KROMHC)
    with pytest.raises(ValueError, match=r"Dialect.factors is \(6,\); expected a tuple of whole numbers from 2 to 5"):
        KROMHC.with_(factors=(6,))
    assert Reference(THREES).streams == Deviant(THREES).streams == (6,)
    assert Reference(KROMHC).streams == (1, 2, 3, 4, 5, 8)


def test_the_width_tells_three_streams_from_four() -> None:
    """Both have twelve columns: 6 + 3! and 8 + 2 + 2."""
    for n, channels in ((3, 4), (4, 3)):
        params = Params(*(torch.zeros(shape) for shape in params_shapes(n, channels, KROMHC)))
        assert streams_of_params(params, KROMHC, channels) == n
        h = normal(2, channels)
        assert mhc_ref.stack(
            h, [Params(*(part.double() for part in params if part is not None))], [torch.zeros_like], KROMHC
        ).shape == (
            2,
            channels,
        )


def test_a_pair_is_a_share_and_what_is_left_of_one() -> None:
    z = normal(4, 1, 2)
    p = (z[:, 0, 0] - z[:, 0, 1]).sigmoid()
    expected = torch.stack([p, 1 - p, 1 - p, p], -1).view(4, 2, 2)
    assert torch.allclose(mhc_ref.project(z, KROMHC), expected, rtol=0, atol=1e-15)
    assert torch.allclose(mhc_ref.project(z, KROMHC), mhc_ref.project(z[:, 0], MHC_LITE), rtol=0, atol=1e-15)


def test_a_product_of_factors_is_that_of_torch() -> None:
    z = normal(8)
    first, second = z[:6].softmax(-1), z[6:].softmax(-1)
    three = mhc_ref.project(z[:6].view(1, 6), KROMHC)
    two = mhc_ref.project(z[6:].view(1, 2), KROMHC)
    assert float(first.sum() + second.sum()) == pytest.approx(2)
    assert torch.allclose(mhc_ref.project(z, THREES), torch.kron(three, two), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "dialect", [KROMHC, THREES, CAYLEY, CAYLEY.with_(reach=-1.3)], ids=["2", "3 2", "cayley", "turned"]
)
def test_both_formulas_agree_to_the_last_digits(dialect: Dialect) -> None:
    n = 6 if dialect == THREES else 4
    z, bar = normal(*logits_shape(n, dialect)).requires_grad_(), normal(n, n, seed=1)
    m, exact = mhc_ref.project(z, dialect), Exact(dialect)
    (gradient,) = torch.autograd.grad(m, z, bar)
    wanted = torch.tensor([[float(e) for e in row] for row in exact.project(z.tolist())], dtype=F64)
    assert torch.allclose(m.detach(), wanted, rtol=0, atol=1e-14)
    back: object = exact.project_vjp(z.tolist(), bar.tolist())
    told = torch.tensor(mapped(back), dtype=F64)
    assert torch.allclose(gradient, told, rtol=0, atol=1e-13)


def mapped(nested: object) -> object:
    """Floats in the same lists."""
    return [mapped(one) for one in nested] if isinstance(nested, list) else float(nested)  # type: ignore[arg-type]


def test_the_transform_keeps_every_digit_it_is_asked_for_at_huge_logits() -> None:
    """A turn of almost half round: what stands beside -1 is 2 / s."""
    s = 10**12
    exact = Exact(CAYLEY, digits=30)
    m = exact.project([[0, s], [-s, 0]])
    with exact.mp.workdps(60):
        wanted = 2 * exact.mp.mpf(s) / (1 + exact.mp.mpf(s) ** 2)
        assert abs(m[0][1] / wanted - 1) < 1e-25


def test_the_published_transform_is_that_of_a_negative_reach() -> None:
    """sparse-hyper-connections 0.1.2: (I + A)^-1 (I - A), A the parameters above the diagonal less their transpose."""
    a = normal(4, 4).triu(1)
    skew, one = a - a.T, torch.eye(4, dtype=F64)
    published = torch.linalg.solve(one + skew, one - skew)
    assert torch.allclose(mhc_ref.project(a, CAYLEY.with_(reach=-1.0)), published, rtol=0, atol=1e-14)


class HalfRead(Implementation):
    """The transform of the logits above the diagonal and below it, read as a module does that has only these."""

    dialect = CAYLEY
    streams = (3,)
    dtypes = (F32,)

    def project(self, logits: Tensor) -> Tensor:
        off = ~torch.eye(3, dtype=torch.bool)
        return mhc_ref.project(torch.where(off, logits, 0.0), CAYLEY)


class NumbersOnly(HalfRead):
    """It takes what is no number for 0."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits.nan_to_num(nan=0.0))


@pytest.mark.parametrize(("made", "status"), [(HalfRead, "passed"), (NumbersOnly, "failed")])
def test_a_logit_that_nothing_depends_on_need_not_be_read(
    made: type[Implementation], status: str, tmp_path: Path
) -> None:
    """A NaN on the diagonal stays there; one beside it must reach h_res."""
    subject = Subject("mine", made(), F32, CPU)
    profile = Profile(examples=20, derandomise=True, shrink=False)
    found = examine(all_laws()["execution.poison-reaches-h-res"], subject, profile, directory=tmp_path)
    assert found.status == status, found.reason


# Bounds


def hard(dialect: Dialect, n: int, seed: int) -> Tensor:
    """Logits of every size: p of 1/2, of 1 less a bit, of 1; and turns by a little and by almost a half."""
    generator = torch.Generator().manual_seed(seed)
    shape = logits_shape(n, dialect)
    size = torch.tensor([0.0, 0.1, 1, 4, 9, 17, 40, 100], dtype=F64)[torch.arange(64) % 8].view(-1, *[1] * len(shape))
    z = torch.randn(64, *shape, generator=generator, dtype=F64) * size
    keep = torch.rand(64, *shape, generator=generator, dtype=F64) < torch.where(size > 9, 0.5, 1.0)
    return z * keep


def ratios(made: Implementation, dialect: Dialect, dtype: torch.dtype, n: int, seed: int) -> tuple[float, float]:
    """error / bound of value and gradient, the largest."""
    mix, r = mix_of(dialect), Rounding.of(dtype)
    z = hard(dialect, n, seed).to(dtype)
    bar = normal(64, n, n, seed=seed + 1).to(dtype)
    leaf = z.clone().requires_grad_()
    got = made.project(leaf)
    (back,) = torch.autograd.grad(got, leaf, bar)
    value = mix.bound(Approx.exact(z), dialect, r)
    pulled = mix.pullback(Approx.exact(z), Approx.exact(bar), dialect, r)
    off = [((found.double() - one.value).abs(), one.error) for found, one in ((got.detach(), value), (back, pulled))]
    worst = [torch.where(error == 0, 0.0, error / bound).nan_to_num(nan=0.0).max() for error, bound in off]
    return float(worst[0]), float(worst[1])


@pytest.mark.parametrize("dialect", [KROMHC, THREES, CAYLEY], ids=["kronecker", "3 x 2", "cayley"])
def test_no_correct_arithmetic_exceeds_its_bound(dialect: Dialect) -> None:
    made = [
        Reference(dialect),
        *(one.make(dialect) for name, one in controls.CATALOGUE.items() if dialect.residual in name),
    ]
    assert len(made) >= 4
    for seed, n in enumerate([n for n in Reference(dialect).streams if n != 5]):
        for one in made:
            assert max(ratios(one, dialect, F32, n, seed)) <= 1, (one.name, n)


@pytest.mark.parametrize("dialect", [KROMHC, CAYLEY], ids=["kronecker", "cayley"])
def test_correct_arithmetic_comes_near_its_bound(dialect: Dialect) -> None:
    """Worst case beside rounding errors that partly cancel: a 15th of the value's bound, a 30th of the gradient's."""
    names = [name for name in controls.CATALOGUE if dialect.residual in name]
    found = [ratios(controls.build(name, dialect), dialect, F32, n, 3) for name in names for n in (2, 4)]
    assert max(value for value, _ in found) >= 1 / 15
    assert max(back for _, back in found) >= 1 / 30


class LessThanOne(Implementation):
    """KromHC's factor of two: p from a softmax, and what `left` makes of it beside."""

    dialect, streams, dtypes = KROMHC, (2,), (F32,)

    def __init__(self, left: object = None) -> None:
        self.left = left or (lambda p: 1 - p)

    def project(self, logits: Tensor) -> Tensor:
        p = logits.softmax(-1)[..., 0, 0]
        q = self.left(p)  # type: ignore[operator]
        return torch.stack([p, q, q, p], -1).unflatten(-1, (2, 2))


OF_ONE_LESS = ("manifold.agrees-with-oracle", "manifold.claimed-sums-are-one", "manifold.exact-shift-invariance")


def test_one_less_a_share_is_judged_by_what_rounding_explains(tmp_path: object) -> None:
    """At p = 1 - 1e-9 float32 has 1, and 0 is left of it: every digit of q is lost, and nobody is accused of it."""
    lost = LessThanOne().project(torch.tensor([[[math.log(1e9), 0.0]]]))
    assert lost[0, 0, 1] == 0
    bound = mix_of(KROMHC).bound(Approx.exact(torch.tensor([[[math.log(1e9), 0.0]]])), KROMHC, Rounding.of(F32))
    assert 1e-9 < float(bound.error[0, 0, 1]) < 2e-5
    for law in OF_ONE_LESS:
        assert status(law, LessThanOne(), tmp_path) == "passed"


@pytest.mark.parametrize(
    "left",
    [
        lambda p: 1 - p.half().float(),
        lambda p: (1 - p).clamp_min(1e-4),
        lambda p: 1 - p + 1e-4,
        lambda p: 1 - p.clamp(max=0.999),
    ],
    ids=["half", "clamped", "eps", "p clamped"],
)
def test_what_is_wrongly_left_of_one_is_seen(left: object, tmp_path: object) -> None:
    assert status("manifold.agrees-with-oracle", LessThanOne(left), tmp_path) == "failed"


def status(law: str, made: Implementation, directory: object, examples: int = 12) -> str:
    profile = Profile(examples=examples, derandomise=True, shrink=False)
    dtype = made.dtypes[0] if F64 not in made.dtypes else F64
    return examine(all_laws()[law], Subject("made", made, dtype, CPU), profile, directory=directory).status  # type: ignore[arg-type]


# Slips


@pytest.mark.parametrize(
    "name",
    [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in SLIPS if one not in LOST],
)
def test_a_slip_is_seen_in_the_matrix(name: str, tmp_path: object) -> None:
    listed = kronecker_slips.SLIPS | cayley_slips.SLIPS
    assert status("manifold.agrees-with-oracle", listed[name].make(SLIPS[name]), tmp_path, 24) == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("name", LOST)
def test_a_lost_gradient_is_seen_in_the_gradient_alone(name: str, tmp_path: object) -> None:
    made = (kronecker_slips.SLIPS | cayley_slips.SLIPS)[name].make(SLIPS[name])
    assert status("manifold.agrees-with-oracle", made, tmp_path) == "passed"
    assert status("gradient.projection-pulls-back-the-unrolled-iteration", made, tmp_path) == "failed"


# Caps


def test_no_kronecker_product_grows() -> None:
    found = find_minimal("mhc", 2, dialect=KROMHC, gain="forward")
    assert found.impossible
    assert "sums to 1" in found.proof


@pytest.mark.parametrize(("gain", "cap"), [("forward", 2), ("backward", 2), ("spectral", 1)])
def test_an_orthogonal_mixing_grows_by_the_root_of_n_at_most(gain: str, cap: int) -> None:
    """Four streams: absolute sums of a line are at most 2, and no state becomes longer."""
    found = find_minimal("mhc", cap + 0.01, dialect=CAYLEY, gain=gain, max_streams=4)
    assert found.impossible
    assert "is orthogonal" in found.proof
