"""What turns logits into applied operators: a dialect of the reference, or somebody's implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect
from mhc_ref.exact import Exact
from properties.explosion.composite import DIGITS, Matrix
from properties.explosion.request import Request
from properties.implementation import Implementation, parameter_dtype


@dataclass(frozen=True)
class Mixing:
    """Logits [..., n, n] in float64 to operators [..., n, n] in float64, and stacks [L, n, n] to exact ones.

    `exact` is what decides: of a dialect 50 digits from mpmath, of an implementation the numbers that it returned.
    `streams` are the n that are accepted, None for all. `irrational`: what is exact was rounded to those 50 digits.
    """

    dialect: Dialect
    operators: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], tuple[Matrix, ...]]
    streams: tuple[int, ...] | None = None
    irrational: bool = False


def mixing_of(request: Request, find: Callable[[str], Implementation] | None = None) -> Mixing:
    """The mixing that a request of family mhc or target is about; `find` makes an implementation of a target."""
    if request.family == "target":
        return of_target(request.target, request.dtype, find)
    return stored_in(request.dtype, of_dialect(request.dialect)) if request.stored else of_dialect(request.dialect)


def stored_in(dtype: str, mixing: Mixing) -> Mixing:
    """The mixing whose matrices are stored in a dtype: rounded to float64 first, then to that."""
    storage: torch.dtype = getattr(torch, dtype)

    def exact(logits: Tensor) -> tuple[Matrix, ...]:
        rounded = torch.tensor(
            [[[float(entry) for entry in row] for row in one] for one in mixing.exact(logits)], dtype=torch.float64
        )
        return tuple(tuple(tuple(map(Fraction, row)) for row in one) for one in rounded.to(storage).tolist())

    return Mixing(mixing.dialect, lambda logits: mixing.operators(logits).to(storage).double(), exact)


def of_dialect(dialect: Dialect) -> Mixing:
    def operators(logits: Tensor) -> Tensor:
        if dialect.residual == "permutations":  # which comes here with n = 1 only, where it has one logit
            return torch.ones_like(logits)
        emitted = mhc_ref.project(logits, dialect)
        return emitted.mT if dialect.transposed else emitted

    return Mixing(dialect, operators, lambda logits: _exactly(logits, dialect), irrational=True)


def of_target(target: str, dtype: str, find: Callable[[str], Implementation] | None = None) -> Mixing:
    """The mixing of an implementation, for states of `dtype`.

    A matrix that is not finite counts as zeros, so that the search looks elsewhere: gains are asked for, and whether
    finite logits may give such a matrix is a law's question.

    Raises:
        ValueError: the implementation offers no projection, or one of a kind that is not searched.
        properties.target.TargetError: the target cannot be resolved.
    """
    from properties.implementation import offers
    from properties.target import resolve

    implementation = (find or resolve)(target)
    dialect = implementation.dialect
    if "project" not in offers(implementation):
        raise ValueError(f"{target} offers no projection of logits, which the search needs")
    if dialect.residual != "sinkhorn":
        raise ValueError(f"{target} declares residual={dialect.residual!r}; expected 'sinkhorn'")
    parameters = parameter_dtype(getattr(torch, dtype))

    def operators(logits: Tensor) -> Tensor:
        with torch.no_grad():
            emitted = implementation.project(logits.to(parameters)).to(torch.float64)
        applied = emitted.mT if dialect.transposed else emitted
        return torch.where(applied.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), applied, 0.0)

    def exact(logits: Tensor) -> tuple[Matrix, ...]:
        return tuple(tuple(tuple(map(Fraction, row)) for row in one) for one in operators(logits).tolist())

    return Mixing(dialect, operators, exact, tuple(implementation.streams))


def _exactly(logits: Tensor, dialect: Dialect) -> tuple[Matrix, ...]:
    oracle = Exact(dialect, digits=DIGITS)
    found: dict[str, Matrix] = {}
    for one in logits.tolist():
        if str(one) not in found:
            emitted = oracle.project([one[0][0]] if dialect.residual == "permutations" else one)
            rows = zip(*emitted, strict=True) if dialect.transposed else emitted
            found[str(one)] = tuple(tuple(fraction(entry) for entry in row) for row in rows)
    return tuple(found[str(one)] for one in logits.tolist())


def fraction(number: Any) -> Fraction:
    """The value of an mpf, exactly."""
    sign, mantissa, exponent, _ = number._mpf_
    return (-1) ** int(sign) * Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
