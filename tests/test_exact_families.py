"""The oracle looks its families up: those of others have values and derivatives in both directions like our own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_exact import DIALECTS, PROJECTIONS, Params, along, distance, inner, normal
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Dialect, registry
from mhc_ref.exact import Exact
from mhc_ref.packing import logits_shape, params_shapes, streams_of_logits, streams_of_params
from mhc_ref.stack import has_head


class Rotation:
    """A = [[cos a, -sin a], [sin a, cos a]] of the Cayley transform: a logit for two streams, none for one."""

    slot, name = "mix", "rotation"
    MOST_STREAMS = 2

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        if n > self.MOST_STREAMS:
            raise ValueError(f"n is {n}; expected 1 or 2")
        return (n - 1,)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        if not logits.shape[-1]:
            return torch.ones_like(logits).new_ones(*logits.shape[:-1], 1, 1)
        s = logits[..., 0]
        rows = [[1 - s * s, -2 * s], [2 * s, 1 - s * s]]
        return torch.stack([torch.stack(row, -1) for row in rows], -2) / (1 + s * s)[..., None, None]

    def exact(self, z: list[Any], n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        if n == 1:
            return [[real.mp.one]]
        s = z[0]
        return [[(1 - s * s) / (1 + s**2), -2 * s / (1 + s**2)], [2 * s / (1 + s**2), 2 / (1 + s**2) - 1]]


class Halved:
    """No logits at all: every stream is halved."""

    slot, name, BY_STREAM = "mix", "halved", True

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return (n, 0)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return (torch.eye(logits.shape[-2]) / 2).to(logits).expand(*logits.shape[:-2], -1, -1)

    def exact(self, z: list[Any], n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        return [[real.mp.one / 2 if i == j else real.mp.zero for j in range(n)] for i in range(n)]


class Retention:
    """Two logits a stream: how much of itself it keeps, and how much of the mean of all it takes."""

    slot, name, BY_STREAM = "mix", "retention", True

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return (n, 2)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        keep, take = logits.unbind(-1)
        return keep.diag_embed() + (take / logits.shape[-2])[..., None].expand(*take.shape, logits.shape[-2])

    def exact(self, z: list[Any], n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        keep, take = z[::2], z[1::2]
        return [[take[i] / n + (keep[i] if i == j else 0) for j in range(n)] for i in range(n)]


def told(slot: str, name: str, formula: Any, exact: Any, **more: Any) -> Any:
    """A family from outside as the least object that will do."""
    return SimpleNamespace(slot=slot, name=name, exact=exact, **{registry.FORMULA[slot]: formula}, **more)


def largest(stream: list[Any], real: Any) -> Any:
    """max |x|, differentiated through the entry that it is."""
    top = max(stream, key=lambda a: abs(real.value(a)))
    return top if real.value(top) > 0 else -top


SOFTPLUS = told(
    "gate",
    "softplus",
    lambda z, dialect: torch.nn.functional.softplus(z),
    lambda z, dialect, real: [real.log(1 + real.exp(a)) for a in z],
)
SINE = told(
    "dynamic",
    "sine",
    lambda products, dialect: products.sin(),
    lambda z, dialect, real: [real.of(a, real.mp.sin, real.mp.cos) for a in z],
)
LARGEST = told(
    "norm",
    "largest",
    lambda x, dialect: x / x.abs().amax(-1, keepdim=True),
    lambda x, dialect, real: [[a / largest(stream, real) for a in stream] for stream in x],
)
SPIKE = told(
    "begin",
    "spike",
    lambda h, n, dialect: torch.cat([h.unsqueeze(-2), h.new_zeros(*h.shape[:-1], n - 1, h.shape[-1])], -2),
    lambda h, n, dialect, real: [list(h), *([a * 0 for a in h] for _ in range(n - 1))],
)
MIDDLE = told(
    "end",
    "middle",
    lambda x, dialect, h_pre: x[..., 0, :] * x[..., -1, :],
    lambda x, h_pre, dialect, real: [a * b for a, b in zip(x[0], x[-1], strict=True)],
)
SQUARED = told(
    "end",
    "squared",
    lambda x, dialect, h_pre: (h_pre.square().unsqueeze(-1) * x).sum(-2),
    lambda x, h_pre, dialect, real: [real.dot([g * g for g in h_pre], list(c)) for c in zip(*x, strict=True)],
    HEAD=True,
)

OUTSIDE = {
    "mix": {"residual": Rotation()},
    "mix without logits": {"residual": Halved()},
    "mix without logits, shared": {"residual": Halved(), "shared_projection": True},
    "mix with two logits a stream": {"residual": Retention()},
    "mix with two logits a stream, shared": {"residual": Retention(), "shared_projection": True},
    "gate": {"pre": SOFTPLUS, "post": SOFTPLUS},
    "dynamic": {"dynamic": SINE},
    "norm": {"norm_over": LARGEST},
    "begin": {"expand": SPIKE},
    "end": {"collapse": MIDDLE},
    "end with parameters": {"collapse": SQUARED},
}


@pytest.fixture
def dialect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Dialect:
    monkeypatch.setattr(registry, "_outside", dict(registry._outside))
    return PAPER.with_(iterations=2, **OUTSIDE[request.param])


def block_params(dialect: Dialect, seed: int) -> Params:
    """Parameters of two streams of three channels."""
    shapes = params_shapes(2, 3, dialect)
    drawn = (normal(seed + k, *shape, scale=0.5 if k else 1.0) for k, shape in enumerate(shapes))
    return Params(*drawn)


@pytest.mark.parametrize("dialect", OUTSIDE, indirect=True)
def test_a_family_from_outside_is_the_same_in_torch_and_mpmath(dialect: Dialect) -> None:
    exact = Exact(dialect)
    heads = int(has_head(dialect))
    params = [block_params(dialect, 10 * k) for k in range(1, 3 + heads)]
    tensors = [mhc_ref.Params(*(torch.tensor(part, dtype=torch.float64) for part in vars(p).values())) for p in params]
    h = normal(4, 3)
    given = mhc_ref.stack(torch.tensor(h, dtype=torch.float64), tensors, [lambda u: u * u] * 2, dialect)
    assert distance(exact.stack(h, params, [lambda u: [a * a for a in u]] * 2), given.tolist()) < 1e-13
    assert streams_of_params(tensors[0], dialect) == 2
    short = tensors[0]._replace(bias=tensors[0].bias[1:])
    with pytest.raises(ValueError, match=r"Params.bias has .* no number of streams has them"):
        mhc_ref.stack(torch.tensor(h, dtype=torch.float64), [short, *tensors[1:]], [torch.sin] * 2, dialect)


@pytest.mark.parametrize("dialect", OUTSIDE, indirect=True)
def test_a_family_from_outside_has_derivatives_in_both_directions(dialect: Dialect) -> None:
    """Along a direction the derivative is the slope of the values, and what the gradient says of it."""
    exact = Exact(dialect)
    blocks = 1 + has_head(dialect)
    h, dh, cotangent = normal(1, 3), normal(2, 3), normal(3, 3)
    params = [block_params(dialect, 10 * k) for k in range(1, 1 + blocks)]
    dparams = [block_params(dialect, 100 * k) for k in range(1, 1 + blocks)]

    def branch(u: list[Any]) -> list[Any]:
        return [a * a for a in u]

    def stepped(step: Any) -> list[Any]:
        moved = [along(exact, *pair, step) for pair in zip(params, dparams, strict=True)]
        return exact.stack(along(exact, h, dh, step), moved, [branch], 2)

    value, tangent = exact.stack_derivative(
        h, params, [branch], dh, dparams, [lambda u, du: [2 * a * d for a, d in zip(u, du, strict=True)]], 2
    )
    assert distance(value, stepped(0)) < 1e-45
    step = exact.mp.mpf(10) ** -18
    slopes = [(a - b) / (2 * step) for a, b in zip(stepped(step), stepped(-step), strict=True)]
    assert distance(tangent, slopes) < 1e-25
    assert max(map(abs, tangent)) > 1e-3
    gradients = exact.stack_vjp(h, params, [branch], cotangent, 2)
    pulled = sum(inner(*pair) for pair in zip(gradients, [dh, *(list(vars(d).values()) for d in dparams)], strict=True))
    assert abs(pulled - inner(cotangent, tangent)) < 1e-45


@pytest.mark.parametrize("dialect", ["mix"], indirect=True)
def test_a_mix_from_outside_is_asked_for_the_shape_of_its_logits(dialect: Dialect) -> None:
    exact = Exact(dialect)
    assert exact.project([]) == [[1]]
    assert distance(exact.project([0.5]), [[0.6, -0.8], [0.8, 0.6]]) < 1e-15
    assert len(exact.project_vjp([0.5], [[1, 2], [3, 4]])) == 1
    with pytest.raises(ValueError, match=r"logits has sizes \(2,\); residual='rotation' takes \(0,\), \(1,\), ..."):
        exact.project([1, 2])


@pytest.mark.parametrize("dialect", ["mix without logits"], indirect=True)
def test_a_mix_may_have_no_logits(dialect: Dialect) -> None:
    """Then their shape says n alone."""
    exact = Exact(dialect)
    assert exact.project([[], []]) == [[0.5, 0], [0, 0.5]]
    assert exact.project_vjp([[], []], [[1, 2], [3, 4]]) == [[], []]
    with pytest.raises(ValueError, match=r"logits\[0\] has 1 numbers; expected 0"):
        exact.project([[0.5]])


class Powers(Halved):
    """A mix of fewer numbers than streams, for powers of two alone."""

    name = "powers"

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        if n & (n - 1):
            raise ValueError(f"n is {n}; expected a power of two")
        return (n.bit_length() - 1,)


def test_n_is_read_off_logits_whatever_their_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", {})
    for mix, sizes in ((Powers(), (1, 2, 4, 32)), (Halved(), (1, 2, 5)), (Retention(), (1, 2, 5))):
        dialect = Dialect(residual=mix)
        for n in sizes:
            assert streams_of_logits((7, *logits_shape(n, dialect)), dialect) == n
    with pytest.raises(
        ValueError, match=r"residual='powers' takes \[..., \*s\] for s one of \(0,\), \(1,\), \(2,\), \(3,\)"
    ):
        streams_of_logits((7,), Dialect(residual="powers"))


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_gradient_by_hand_is_that_of_the_formula(name: str) -> None:
    """Reverse mode through the formula needs no hand, and is the same to the last of the digits."""
    exact, general = Exact(PROJECTIONS[name]), Exact(PROJECTIONS[name])
    general._mix = general._mix._replace(vjp=None)
    logits = normal(5, *logits_shape(3, PROJECTIONS[name]), scale=4.0)
    cotangent = normal(7, 3, 3)
    assert distance(exact.project_vjp(logits, cotangent), general.project_vjp(logits, cotangent)) < 1e-48


def test_some_gradients_are_written_by_hand() -> None:
    assert sum(Exact(dialect)._mix.vjp is not None for dialect in DIALECTS.values()) > 3


def test_a_family_without_a_formula_in_mpmath_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", dict(registry._outside))
    silent = SimpleNamespace(
        slot="mix", name="silent", project=lambda logits, dialect: logits, shape=lambda n, d: (n, n)
    )
    with pytest.raises(LookupError, match="the mix family 'silent' has no formula in mpmath"):
        Exact(Dialect(residual=silent))
