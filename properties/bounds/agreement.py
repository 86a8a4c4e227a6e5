"""Whether the two formulas of a family from outside are one function: torch's in float64, and mpmath's.

Nobody can be judged by a family whose formulas disagree, so they are compared before its first bound is used: the value
and a derivative along a random direction, at a few sampled inputs. What rounding explains is what the bounds of the
family say; a disagreement beyond it is the family's fault, never an implementation's. So is a formula that fails, and
one that does not keep what the family guarantees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mpmath import MPContext
from torch import Tensor

from mhc_ref import Dialect, registry
from mhc_ref.exact.numbers import Reals, lift, split
from properties.bounds.promises import broken
from properties.core.family import Family
from properties.core.guarantees import Guarantees
from properties.core.rounding import Approx, Rounding
from properties.guards.faults import HarnessError, located

SIZES = (0.0, 1.0, 4.0)
"""The sizes of the sampled inputs, normal numbers each."""

IN_FLOAT64 = Rounding.of(torch.float64)
"""The arithmetic of the formula in torch."""

BITS = 200
"""The working precision of mpmath, in binary digits: more than three times that of a float64."""

Bound = Callable[[Approx], Approx]
Pull = Callable[[Approx, Approx], Approx]


_NOBODY = "No implementation can be judged by it"

_faults: dict[Any, str] = {}


def must_hold(
    family: Family,
    dialect: Dialect,
    shape: tuple[int, ...],
    told: tuple[Any, ...],
    value: Bound,
    pull: Pull,
    guaranteed: Guarantees | None = None,
) -> None:
    """Compare the formulas of a family, once for a dialect and a shape; those of our own are compared by tests.

    Arguments:
        shape: of the input of one token.
        told: what its formula in mpmath is told before the dialect: the number of streams, where it needs that.
        value, pull: its bound and that of its gradient, in float64.
        guaranteed: what a mix guarantees; its matrices are then held to that, and to their shape.

    Raises:
        HarnessError: they disagree, do not keep what is guaranteed, or one of them fails or is not there.
    """
    key = (family, dialect, shape, told)
    if key not in _faults:
        _faults[key] = ""  # while it is looked for, the bounds are used
        whose = f"the {family.slot} family {family.name!r}"
        try:
            _faults[key] = _disagreement(whose, family, dialect, shape, told, value, pull, guaranteed)
        except HarnessError as error:
            _faults[key] = str(error)
        except Exception as error:  # of somebody else's formula
            _faults[key] = f"{whose} cannot be used for an input of shape {shape}: {located(error)}. {_NOBODY}"
    if _faults[key]:
        raise HarnessError(_faults[key])


def _disagreement(
    whose: str,
    family: Family,
    dialect: Dialect,
    shape: tuple[int, ...],
    told: tuple[Any, ...],
    value: Bound,
    pull: Pull,
    guaranteed: Guarantees | None,
) -> str:
    try:
        formula = registry.oracle(family.slot, family.name).formula
    except LookupError as error:
        return str(error)
    generator = torch.Generator().manual_seed(11)
    inputs = torch.stack([size * torch.randn(shape, generator=generator, dtype=torch.float64) for size in SIZES])
    along = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    mp: Any = MPContext()
    mp.prec = BITS
    known = (*told, dialect, Reals(mp))
    nested = inputs.shape[1:] if family.slot in ("norm", "end") else (math.prod(shape),)
    exact: list[Any] = []
    for one, step in zip(inputs, along, strict=True):
        given = [mp_of(mp, t.reshape(nested).tolist()) for t in (one, step)]
        exact.append(split(formula(lift(*given), *known)))
    bound = value(Approx.exact(inputs))
    if guaranteed is not None and tuple(bound.value.shape[1:]) != 2 * told[:1]:
        return f"{whose} gives M of shape {tuple(bound.value.shape[1:])} in torch; expected {2 * told[:1]}. {_NOBODY}"
    values = [numbers(one) for one, _ in exact]
    if any(len(one) != bound.value[0].numel() for one in values):
        count = f"{len(values[0])} numbers in mpmath and {bound.value[0].numel()} in torch"
        return f"{whose} gives {count}, at {shape}. {_NOBODY}"
    if words := _first_apart(whose, "value", inputs, bound, values):
        return words
    cotangent = torch.randn(bound.value.shape, generator=generator, dtype=torch.float64)
    gradient = pull(Approx.exact(inputs), Approx.exact(cotangent))
    slopes = [[mp.fdot(zip(numbers(d), mp_of(mp, c.flatten().tolist()), strict=True))]
              for (_, d), c in zip(exact, cotangent, strict=True)]  # fmt: skip
    by_hand = Approx(
        (gradient.value * along).flatten(1).sum(1, keepdim=True),
        ((gradient.error + 2**-50 * gradient.value.abs()) * along.abs()).flatten(1).sum(1, keepdim=True),
    )
    if words := _first_apart(whose, "derivative", inputs, by_hand, slopes):
        return words
    words = broken(guaranteed, inputs, value) if guaranteed is not None else ""
    return f"{whose} does not keep what it guarantees: {words}. {_NOBODY}" if words else ""


def _first_apart(whose: str, what: str, inputs: Tensor, got: Approx, exact: Sequence[Sequence[Any]]) -> str:
    for one, value, error, wanted in zip(inputs, got.value, got.error, exact, strict=True):
        for number, most, true in zip(value.flatten().tolist(), error.flatten().tolist(), wanted, strict=True):
            if not abs(number - true) <= most:
                return (
                    f"the formulas of {whose} disagree: at the input {one.tolist()} a {what} is {number!r} in torch "
                    f"and {float(true)!r} in mpmath, and rounding explains {most:.3g}. {_NOBODY}: one of "
                    "the two formulas is wrong, or its bound is"
                )
    return ""


def mp_of(mp: Any, given: Any) -> Any:
    """Nested lists of floats as numbers of mpmath."""
    return [mp_of(mp, one) for one in given] if isinstance(given, list) else mp.mpf(given)  # pyright: ignore[reportUnknownVariableType]


def numbers(given: Any) -> list[Any]:
    """All numbers of nested lists, in order."""
    return [one for part in given for one in numbers(part)] if isinstance(given, list) else [given]  # pyright: ignore[reportUnknownVariableType]
