"""Bounds of a family from outside that declares its roundings: sound for what is right, sharp for what is nearly so."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Dialect, registry
from properties import bounds
from properties.bounds import Approx, Rounding, declared
from properties.bounds.stages import activated
from properties.core.family import declared_bounds, mix_of
from properties.families import Begin, Dynamic, End, Gate, Guarantees, Mix, Norm
from properties.guards.faults import HarnessError
from properties.report.report import lines_of, read

pytest_plugins = ["pytester"]

F32 = Rounding.of(torch.float32)


class Kronecker(Mix):
    """M = kron of 2 x 2 matrices [p, 1 - p; 1 - p, p], p the first of a softmax over two logits."""

    name = "test_kronecker"
    words = "a Kronecker product"
    roundings = 8
    MOST_STREAMS = 8

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        if n not in (2, 4, 8):
            raise ValueError(f"n is {n}; a product of 2 x 2 matrices takes 2, 4 or 8 streams")
        return (n.bit_length() - 1, 2)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return product(logits.softmax(-1)[..., 0], lambda p: 1 - p)

    def exact(self, z, n, dialect, real):
        found = [[real.mp.one]]
        for k in range(n.bit_length() - 1):
            p = real.softmax(z[2 * k : 2 * k + 2])[0]
            factor = [[p, 1 - p], [1 - p, p]]
            found = [[a * b for a in row for b in line] for row in found for line in factor]
        return found

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(nonnegative=True, sums=frozenset({"row", "column"}))


def product(p: Tensor, other: Callable[[Tensor], Tensor]) -> Tensor:
    found = p.new_ones(*p.shape[:-1], 1, 1)
    for k in range(p.shape[-1]):
        one, two = p[..., k], other(p[..., k])
        factor = torch.stack([torch.stack([one, two], -1), torch.stack([two, one], -1)], -2)
        found = (found[..., :, None, :, None] * factor[..., None, :, None, :]).flatten(-2).flatten(-3, -2)
    return found


class Cayley(Mix):
    """M = (I - S)^-1 (I + S), S = Z - Z^T."""

    def exact(self, z, n, dialect, real):
        """By elimination without pivots, which a positive definite I - S does not need."""
        skew = [[z[i * n + j] - z[j * n + i] for j in range(n)] for i in range(n)]
        left = [[(i == j) - skew[i][j] for j in range(n)] for i in range(n)]
        right = [[(i == j) + skew[i][j] for j in range(n)] for i in range(n)]
        for k in range(n):
            for i in range(n):
                if i != k:
                    ratio = left[i][k] / left[k][k]
                    left[i] = [a - ratio * b for a, b in zip(left[i], left[k], strict=True)]
                    right[i] = [a - ratio * b for a, b in zip(right[i], right[k], strict=True)]
        return [[a / left[k][k] for a in right[k]] for k in range(n)]

    name = "test_cayley"
    words = "a Cayley transform"
    roundings = 8

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        skew, one = logits - logits.mT, torch.eye(logits.shape[-1], dtype=logits.dtype)
        return torch.linalg.solve(one - skew, one + skew)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(orthogonal=True, conjugate=True)


KRONECKER, CAYLEY = Kronecker(), Cayley()


def near_one(n: int) -> Tensor:
    """Logits whose p is 1 - 1e-9, beside others."""
    factors = n.bit_length() - 1
    z = torch.randn(6, factors, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * 3
    z[0] = torch.tensor([math.log(1e9 - 1), 0.0])
    z[1, 0] = torch.tensor([0.0, -math.log(1e9 - 1)])
    return z.float().double()


def ratio(got: Tensor, bound: Approx) -> float:
    return float(((got.double() - bound.value).abs() / bound.error).max())


WRITTEN = {
    "as it stands": lambda z: KRONECKER.project(z, PAPER),
    "by a sigmoid": lambda z: product((z[..., 0] - z[..., 1]).sigmoid(), lambda p: 1 - p),
    "both shares of the softmax": lambda z: product_of_shares(z.softmax(-1)),
    "by exp2": lambda z: product(by_exp2(z), lambda p: 1 - p),
    "by the log of the sum": lambda z: product((z[..., 0] - z.logsumexp(-1)).exp(), lambda p: 1 - p),
}


def by_exp2(z: Tensor) -> Tensor:
    powers = torch.exp2((z - z.amax(-1, keepdim=True)) * math.log2(math.e))
    return powers[..., 0] * (1 / powers.sum(-1))


def product_of_shares(shares: Tensor) -> Tensor:
    """1 - p as the other share: better than the formula."""
    rest = iter(shares[..., 1].unbind(-1))
    return product(shares[..., 0], lambda p: next(rest))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("way", WRITTEN)
def test_a_correct_one_minus_p_is_never_accused(way: str, n: int) -> None:
    z = near_one(n)
    bound = declared.value(KRONECKER, "project", Approx.exact(z), PAPER, F32)
    smallest = KRONECKER.project(z, PAPER)[0].min()
    assert 0.5e-9 ** (n.bit_length() - 1) < smallest < 2e-9
    assert ratio(WRITTEN[way](z.float()), bound) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4, 8])
def test_one_that_is_nearly_right_is_caught(n: int) -> None:
    z = near_one(n)
    bound = declared.value(KRONECKER, "project", Approx.exact(z), PAPER, F32)
    assert ratio(KRONECKER.project(z.float(), PAPER) * (1 + 1e-4), bound) > 5
    assert ratio(KRONECKER.project(z.float() * (1 + 1e-3), PAPER), bound) > 1


def gradient(z: Tensor, bar: Tensor, mix: Mix) -> Tensor:
    z = z.clone().requires_grad_()
    return torch.autograd.grad(mix.project(z, PAPER), z, bar)[0]


@pytest.mark.parametrize("mix", [KRONECKER, CAYLEY], ids=["kronecker", "cayley"])
@pytest.mark.parametrize("n", [2, 4])
def test_gradients_are_held_to_their_reverse_pass(mix: Mix, n: int) -> None:
    generator = torch.Generator().manual_seed(3)
    z = near_one(n) if mix is KRONECKER else torch.randn(6, n, n, generator=generator).double() * 2
    bar = torch.randn(6, n, n, generator=generator)
    bound = declared.pulled(mix, "project", Approx.exact(z), Approx.exact(bar), PAPER, F32)
    assert torch.allclose(bound.value, gradient(z, bar.double(), mix), rtol=1e-12, atol=1e-13)
    assert ratio(gradient(z.float(), bar, mix), bound) <= 1
    assert ratio(gradient(z.float(), bar, mix) * (1 + 1e-3), bound) > 1


def test_a_solver_is_held_to_a_system_nearby() -> None:
    z = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    bound = declared.value(CAYLEY, "project", Approx.exact(z), PAPER, F32)
    z = z.float()
    skew, one = z - z.mT, torch.eye(4)
    assert ratio(torch.linalg.inv(one - skew) @ (one + skew), bound) <= 1
    assert ratio((one + skew) @ torch.linalg.inv(one - skew), bound) <= 1  # they commute
    assert ratio(torch.linalg.solve(one - skew, one + 0.9999 * skew), bound) > 1


def test_errors_of_the_logits_pass_into_the_bound() -> None:
    z, generator = near_one(4), torch.Generator().manual_seed(5)
    error = 1e-3 * torch.rand(z.shape, generator=generator, dtype=torch.float64)
    bound = declared.value(KRONECKER, "project", Approx(z, error), PAPER, F32)
    for _ in range(20):
        sign = torch.randint(0, 2, z.shape, generator=generator).double() * 2 - 1
        moved = KRONECKER.project(z + sign * error, PAPER)
        assert ((moved - bound.value).abs() <= bound.error).all()
    assert ratio(KRONECKER.project(z * 1.01, PAPER), bound) > 1


def test_nothing_is_claimed_where_an_input_may_be_anywhere() -> None:
    z = near_one(2)
    error = torch.zeros_like(z)
    error[2, 0, 1] = math.inf
    bound = declared.value(KRONECKER, "project", Approx(z, error), PAPER, F32)
    assert torch.isinf(bound.error[2]).all()
    assert torch.isfinite(bound.error[[0, 1, 3, 4, 5]]).all()


def test_no_token_has_no_bound() -> None:
    assert declared.value(CAYLEY, "project", Approx.exact(torch.zeros(0, 3, 3)), PAPER, F32).error.shape == (0, 3, 3)


class Deciding(Cayley):
    name = "test_deciding"

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        """Other operations where the logits are large."""
        return logits * 3.0 if bool(logits.abs().max() > 100) else logits + 1.0


class Lossy(Cayley):
    name = "test_lossy"

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        """Tokens end on the last axis but one, where nobody finds them."""
        return logits.movedim(0, -1).exp().movedim(-1, 0)


@pytest.mark.parametrize(("mix", "why"), [(Lossy(), ".* has lost them"), (Deciding(), ".*data-dependent")])
def test_a_formula_that_cannot_be_taken_apart_is_the_familys_fault(mix: Mix, why: str) -> None:
    with pytest.raises(HarnessError, match=rf"mix family '{mix.name}' .* cannot be taken apart: {why}"):
        declared.value(mix, "project", Approx.exact(torch.zeros(3, 2, 2)), PAPER, F32)


class Retention(Gate):
    """1 - sigmoid(z): a gate that keeps what it does not write."""

    name = "test_retention"
    roundings = 4

    def gates(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return 1 - logits.sigmoid()

    def exact(self, logits, dialect, real):
        return [1 / (1 + real.exp(z)) for z in logits]


class Softsign(Dynamic):
    name = "test_softsign"
    roundings = 4

    def activate(self, products: Tensor, dialect: Dialect) -> Tensor:
        return products / (1 + products.abs())

    def exact(self, products, dialect, real):
        return [p / (1 + (p if real.value(p) >= 0 else -p)) for p in products]


class Centred(Norm):
    """LayerNorm over the channels of each stream."""

    name = "test_centred"
    roundings = 8

    def normalise(self, x: Tensor, dialect: Dialect) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def exact(self, x, dialect, real):
        found = []
        for stream in x:
            mean = real.sum(stream) / len(stream)
            rest = [a - mean for a in stream]
            root = real.sqrt(real.sum([a * a for a in rest]) / len(rest) + real.mp.mpf(1e-6))
            found.append([a / root for a in rest])
        return found


class Damped(Begin):
    """Streams that begin as tanh(h) / 2^i."""

    name = "test_damped"
    roundings = 4

    def expand(self, h: Tensor, n: int, dialect: Dialect) -> Tensor:
        return torch.stack([h.tanh() / 2**i for i in range(n)], -2)

    def exact(self, h, n, dialect, real):
        return [[real.tanh(a) / 2**i for a in h] for i in range(n)]


class Length(End):
    """The root of the mean square over the streams."""

    name = "test_length"
    roundings = 4

    def collapse(self, x: Tensor, dialect: Dialect, h_pre: Tensor | None) -> Tensor:
        return (x.square().mean(-2) + 1e-6).sqrt()

    def exact(self, x, h_pre, dialect, real):
        columns = zip(*x, strict=True)
        return [real.sqrt(real.sum([a * a for a in column]) / len(x) + real.mp.mpf(1e-6)) for column in columns]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], type]:
    """Registers families for the time of a test."""
    monkeypatch.setattr(registry, "_outside", dict(registry._outside))
    return registry.register


@pytest.mark.slow
def test_every_slot_is_held_to_its_declared_roundings(registered) -> None:
    dialect = PAPER.with_(
        pre=registered(Retention).name, dynamic=registered(Softsign).name, norm_over=registered(Centred).name
    )
    generator = torch.Generator().manual_seed(4)
    n, channels = 3, 5
    x = torch.randn(4, n, channels, generator=generator)
    x[1] *= 1e4
    x[2] *= 1e-4
    params = mhc_ref.Params(
        torch.randn(n * channels, 2 * n + n * n, generator=generator),
        torch.randn(2 * n + n * n, generator=generator),
        torch.tensor([1.0, 0.5, 2.0]),
        torch.rand(n * channels, generator=generator) + 0.5,
    )
    bound = bounds.block.coefficients(Approx.exact(x), params, dialect, F32)
    got, exact = mhc_ref.mappings(x, params, dialect), mhc_ref.mappings(x.double(), wide(params), dialect)
    for name, one in bound.parts().items():
        assert torch.allclose(one.value, getattr(exact, name), rtol=1e-12, atol=1e-12)
        assert ratio(getattr(got, name), one) <= 1
        assert ratio(getattr(got, name) * (1 + 1e-3), one) > 1

    bars = [torch.randn(part.shape, generator=generator) for part in got]
    pre, post, res = map(Approx.exact, bars)
    back = bounds.coefficients_gradient(Approx.exact(x), params, pre, post, res, dialect, F32)
    found, true = (gradients(x.to(dtype), params, bars, dialect) for dtype in (torch.float32, torch.float64))
    for one, mine, wanted in zip(back, found, true, strict=True):
        assert torch.allclose(one.value.reshape(wanted.shape), wanted, rtol=1e-9, atol=1e-9)
        assert ratio(mine.reshape(one.value.shape), one) <= 1


def test_the_ends_of_a_stack_are_held_to_their_declared_roundings(registered) -> None:
    dialect = PAPER.with_(expand=registered(Damped).name, collapse=registered(Length).name)
    generator = torch.Generator().manual_seed(4)
    h, bar = torch.randn(3, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    begun = bounds.stack.begun(h, 4, dialect, F32)
    assert ratio(mhc_ref.expand(h, 4, dialect), begun) <= 1
    assert ratio(mhc_ref.expand(h, 4, dialect) * (1 + 1e-4), begun) > 1
    back = bounds.pullback.expand(h, 4, Approx.exact(bar), dialect, F32)
    assert ratio(pulled(lambda h: mhc_ref.expand(h, 4, dialect), h, bar), back) <= 1
    assert ratio(pulled(lambda h: mhc_ref.expand(h, 3, dialect), h, bar[:, :3]), back) > 1

    x, bar = torch.randn(3, 4, 5, generator=generator), bar[:, 0]
    ended = bounds.stack.collapsed(Approx.exact(x), dialect, F32)
    assert ratio(mhc_ref.collapse(x, dialect), ended) <= 1
    assert ratio(mhc_ref.collapse(x, dialect) * (1 + 1e-4), ended) > 1
    back = bounds.pullback.collapse(Approx.exact(x), bar, dialect, F32)
    assert isinstance(back, Approx)
    assert ratio(pulled(lambda x: mhc_ref.collapse(x, dialect), x, bar), back) <= 1
    assert ratio(pulled(lambda x: mhc_ref.collapse(x, dialect), x, bar * (1 + 1e-4)), back) > 1


def pulled(function: Callable[[Tensor], Tensor], x: Tensor, bar: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x, bar)[0]


def wide(params: mhc_ref.Params) -> mhc_ref.Params:
    return mhc_ref.Params(*(part.double() for part in params if part is not None))


def gradients(x: Tensor, params: mhc_ref.Params, bars: list[Tensor], dialect: Dialect) -> list[Tensor]:
    leaves = [one.to(x).requires_grad_() for one in (x, *params) if one is not None]
    out = mhc_ref.mappings(leaves[0], mhc_ref.Params(*leaves[1:]), dialect)
    return list(torch.autograd.grad(list(out), leaves, [bar.to(x) for bar in bars]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [Kronecker, Cayley, Retention, Softsign, Centred, Damped, Length], ids=lambda one: one.name
)
def test_formulas_that_disagree_are_the_familys_fault(family: type, registered) -> None:
    field = next(field for field, slot in registry.SLOTS.items() if slot == family.slot)
    wrong = type("Wrong", (family,), {"name": "test_wrong", "exact": off(family.exact)})
    for one, fault in ((family, False), (wrong, True)):
        dialect = PAPER.with_(**{field: registered(one).name})
        if not fault:
            _use(dialect, field)
            continue
        with pytest.raises(HarnessError, match=rf"the formulas of the {family.slot} family 'test_wrong' disagree: at"):
            _use(dialect, field)


def off(formula):
    """The same formula, a millionth too large."""

    def scaled(found, real):
        return [scaled(one, real) for one in found] if isinstance(found, list) else found * (1 + real.mp.mpf(1e-6))

    return lambda self, *given: scaled(formula(self, *given), given[-1])


def _use(dialect: Dialect, field: str) -> None:
    generator = torch.Generator().manual_seed(6)
    if field == "residual":
        shape = mix_of(dialect).shape(2, dialect)
        bounds.projection(Approx.exact(torch.randn(2, *shape, generator=generator)), dialect, F32)
    elif field == "expand":
        bounds.stack.begun(torch.randn(2, 3, generator=generator), 2, dialect, F32)
    elif field == "collapse":
        bounds.stack.collapsed(Approx.exact(torch.randn(2, 2, 3, generator=generator)), dialect, F32)
    elif field == "pre":
        bounds.squashed(Approx.exact(torch.randn(2, 3, generator=generator)), dialect.pre, dialect, F32)
    elif field == "dynamic":
        activated(Approx.exact(torch.randn(2, 3, generator=generator)), dialect, F32)
    else:
        bounds.normalised(Approx.exact(torch.randn(2, 2, 3, generator=generator)), None, dialect, F32)


def test_a_family_without_bound_and_without_roundings_is_asked_for_either(registered) -> None:
    bare = registered(type("Bare", (Kronecker,), {"name": "test_bare", "roundings": None}))
    dialect = PAPER.with_(residual=bare.name)
    with pytest.raises(HarnessError, match=r"mix family 'test_bare' says nothing about the error of its value"):
        bounds.projection(Approx.exact(torch.zeros(1, 1, 2)), dialect, F32)


KRONECKER_TARGET = """
from test_declared_bounds import Kronecker, product
from mhc_ref import Dialect
from properties import Implementation


class Mine(Implementation):
    name, streams, dialect = "mine", (2, 4), Dialect(residual=Kronecker())

    def project(self, logits):
        return 1.01 * product(logits.softmax(-1)[..., 0], lambda p: 1 - p)
"""


@pytest.mark.slow
def test_a_report_calls_declared_bounds_declared(pytester, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    pytester.makepyfile(targets=KRONECKER_TARGET)
    ran = pytester.runpytest_inprocess(
        *("--pyargs", "properties", "--impl", "targets.py:Mine", "--law", "manifold.agrees-with-oracle"),
        *("--report", "out", "--hypothesis-profile", "dev", "-v"),
    )
    ran.stdout.fnmatch_lines(["*(the part of mix test_kronecker in it is declared by the family, not derived)"])
    ran.stdout.fnmatch_lines(["mine: the bound of mix test_kronecker is declared, not derived"])
    ran.stdout.fnmatch_lines(["*dialect: the defaults with residual='test_kronecker'"])
    found = read(pytester.path / "out" / "report.json")
    assert {tuple(run["declared_bounds"]) for run in found["runs"]} == {("mix test_kronecker",)}
    assert {line.declared_bounds for line in lines_of(found)} == {("mix test_kronecker",)}


def test_our_own_bounds_are_derived():
    assert [name for name, dialect in mhc_ref.PRESETS.items() if declared_bounds(dialect)] == []
