"""Whether a stored case fits its law and an implementation, before anybody is accused by it.

A file may be old, edited, or of another implementation. What is wrong with it must not be said of the implementation
that it is tried on, so three questions come first: do the values fit one another (`misfit`); do they lie inside what
the implementation declares (`outside`); and does the reference keep the law for them (`doubt`)?
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import logits_shape, params_shapes, residual_size, streams_of_logits
from properties.core.case import BranchSpec, Case, MissingValue
from properties.core.device import DEVICES
from properties.core.implementation import Implementation, Reference, dtype_names, parameter_dtype
from properties.core.law import Law
from properties.core.trial import LawBroken
from properties.engine.subject import Subject
from properties.engine.trying import try_stored
from properties.guards.printable import message_of


@dataclass(frozen=True)
class Sizes:
    """Of the state of a case, as far as it has one: T tokens, n streams, C channels, R residual logits."""

    T: int | None
    n: int | None
    C: int | None
    R: int | None

    def shape(self, letters: str) -> tuple[int | None, ...]:
        """The sizes that letters stand for; None for a size that nothing determines."""
        return tuple(cast("int | None", getattr(self, letter)) for letter in letters.split())


STATE, PARAMETERS, WIDE, ANY = "state", "parameters", "float64", "any"
"""Of which dtype a tensor is: the state's, that of parameters and logits, float64, or any."""

TENSORS = {
    "x": ("T n C", STATE),
    "y": ("T C", STATE),
    "h": ("T C", STATE),
    "h_pre": ("T n", PARAMETERS),
    "h_post": ("T n", PARAMETERS),
    "h_res": ("T n n", PARAMETERS),
    "matrix": ("T n n", WIDE),
}
"""What the laws call a tensor, its shape and its dtype; `logits`, `shift` and those that follow others are below."""

FOLLOWING = ("x", "h", "logits")
"""What `other` and `cotangent` have the shape of: the first of these that is there."""

COTANGENTS = {2: ("T n C", "T C"), 3: ("T n", "T n", "T n n")}
"""The cotangents of post and pre, and of the three mappings."""

MOST = {
    "n": 64,
    "count": max(max(device.flood) for device in DEVICES.values()),
    "depth": 4096,
    "first": 1000,
    "then": 1000,
    "offset": 4096,
    "seed": 2**64,
    "entry": 2**64,
}
"""Integers of a case, and the largest that a law may draw: a larger one would only cost time and memory."""

MOST_TOKENS = MOST["count"]
MOST_NUMBERS = 2**28

LEAST = {"n": 1, "count": 1, "depth": 1}
NUMBERS = ("factor", "spread", "corner")
ORDERS = ("order", "rows", "columns")
CHOICES = {"third": ("pre", "post", "res")}


class _Misfit(Exception):
    pass


def misfit(case: Case, dialect: Dialect, dtype: torch.dtype) -> str | None:
    """Why the values of a case do not fit one another, a dialect or a dtype of the state; None where they do.

    A value of a name that the laws do not use is not looked at: a law of somebody else may read it.
    """
    values = dict(case.items())
    try:
        sizes = _sizes(values, dialect)
        for name, value in values.items():
            _check(name, value, values, sizes, dialect, dtype)
        for name, value in values.items():
            _finite(name, _healthy(value, values) if name == "x" else value)
    except _Misfit as found:
        return str(found)
    return None


def _sizes(values: dict[str, Any], dialect: Dialect) -> Sizes:
    """Of x, or of h and n, or of the logits."""
    n = values.get("n")
    if "x" in values:
        tokens, n, channels = _axes("x", values["x"], 3)
        _small(max(tokens, _count(values)), n, channels)
        return Sizes(tokens, n, channels, _coefficients(n, dialect))
    if "h" in values:
        tokens, channels = _axes("h", values["h"], 2)
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST["n"]:
            raise _Misfit(f"n is {_short(n)}; expected a number of streams from 1 to {MOST['n']}")
        _small(max(tokens, _count(values)), n, channels)
        return Sizes(tokens, n, channels, _coefficients(n, dialect))
    if "logits" in values:
        tokens, *shape = _axes("logits", values["logits"])
        try:
            n = streams_of_logits(shape, dialect)
        except ValueError as error:
            raise _Misfit(str(error)) from error
        _small(max(tokens, _count(values)), n, n)
        return Sizes(tokens, n, None, _coefficients(n, dialect))
    if "matrix" in values:
        tokens, n, _ = _axes("matrix", values["matrix"], 3)
        _small(max(tokens, _count(values)), n, n)
        return Sizes(tokens, n, None, _coefficients(n, dialect))
    return Sizes(None, None, None, None)


def _count(values: dict[str, Any]) -> int:
    count = values.get("count", 0)
    return count if isinstance(count, int) else 0


def _small(tokens: int, n: int, channels: int) -> None:
    """What is far larger than any case would only take time and memory, most of all in 50 digits."""
    if tokens > MOST_TOKENS or tokens * n * channels > MOST_NUMBERS:
        raise _Misfit(f"{tokens} tokens of {n} x {channels} numbers are far more than any law draws")


def _axes(name: str, value: Any, axes: int = 0) -> tuple[int, ...]:
    """The sizes of a tensor of so many axes, or of at least two."""
    if not isinstance(value, Tensor) or (value.ndim != axes if axes else value.ndim < 2):
        raise _Misfit(f"{name} is {_short(value)}; expected a tensor of {axes or 'two or more'} axes")
    return tuple(value.shape)


def _coefficients(n: int, dialect: Dialect) -> int:
    try:
        return residual_size(n, dialect)
    except ValueError as error:  # the mix is not for so many streams
        raise _Misfit(str(error)) from error


def _check(name: str, value: Any, values: dict[str, Any], sizes: Sizes, dialect: Dialect, dtype: torch.dtype) -> None:
    if name in TENSORS:
        letters, kind = TENSORS[name]
        _tensor(name, value, sizes.shape(letters), kind, dtype)
    elif name == "logits":
        _tensor(name, value, _logits(sizes, dialect), PARAMETERS, dtype)
    elif name == "shift":
        _tensor(name, value, (sizes.n,), WIDE, dtype)
    elif name in ("other", "cotangent"):
        _following(name, value, values, sizes, dialect, dtype)
    elif name == "cotangents":
        _cotangents(name, value, sizes, dtype)
    elif name in ("params", "other_params", "head"):
        for place, one in _each(name, value):
            _params(place, one, sizes, dialect, dtype)
    elif name in ("branch", "branches"):
        for place, one in _each(name, value):
            _branch(place, one, sizes, dtype)
        if isinstance(params := values.get("params"), tuple) and not isinstance(params, Params):
            layers, calls = len(cast("tuple[Any, ...]", params)), len(_each(name, value))
            if layers != calls:
                raise _Misfit(f"{name} are {calls}; expected one for each of {layers} parameters")
    elif name in ORDERS:
        _order(name, value, sizes.n)
    elif name == "orders":
        for place, one in _each(name, value):
            _order(place, one, sizes.n)
    else:
        _plain(name, value, sizes)


def _logits(sizes: Sizes, dialect: Dialect) -> tuple[int | None, ...]:
    """The shape of the logits of a case."""
    return (sizes.T, *logits_shape(sizes.n or 1, dialect))


def _plain(name: str, value: Any, sizes: Sizes) -> None:
    if name in MOST or name == "poisoned":
        least, most = LEAST.get(name, 0), (sizes.T or 1) - 1 if name == "poisoned" else MOST[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _Misfit(f"{name} is {_short(value)}; expected an integer from {least} to {most}")
    elif name in NUMBERS and not (isinstance(value, float) and math.isfinite(value)):
        raise _Misfit(f"{name} is {_short(value)}; expected a finite number")
    elif name in CHOICES and value not in CHOICES[name]:
        raise _Misfit(f"{name} is {_short(value)}; expected one of {', '.join(CHOICES[name])}")


def _each(name: str, value: Any) -> list[tuple[str, Any]]:
    """A value, or the parts of a tuple, each with the name of its place."""
    if isinstance(value, tuple) and not isinstance(value, Params):
        return [(f"{name}[{index}]", one) for index, one in enumerate(cast("tuple[Any, ...]", value))]
    return [(name, value)]


def _tensor(name: str, value: Any, shape: tuple[int | None, ...], kind: str, dtype: torch.dtype) -> None:
    expected = {STATE: dtype, PARAMETERS: parameter_dtype(dtype), WIDE: torch.float64}.get(kind)
    words = " x ".join("any" if size is None else str(size) for size in shape) or "no axes"
    if not isinstance(value, Tensor):
        raise _Misfit(f"{name} is {_short(value)}; expected a tensor of {words}")
    fits = len(shape) == value.ndim and all(size in (None, axis) for size, axis in zip(shape, value.shape, strict=True))
    if not fits:
        raise _Misfit(f"{name} has the shape {tuple(value.shape)}; expected {words}, as the rest of the case has it")
    if value.dtype != expected if expected else not value.dtype.is_floating_point:
        raise _Misfit(f"{name} is in {_dtype(value.dtype)}; expected {_dtype(expected)} for a state in {_dtype(dtype)}")


def _following(
    name: str, value: Any, values: dict[str, Any], sizes: Sizes, dialect: Dialect, dtype: torch.dtype
) -> None:
    """`other` is a second input of the same kind, with a number of tokens of its own; a cotangent is of an output."""
    first = next((one for one in FOLLOWING if one in values), None)
    if first is None:
        raise _Misfit(f"there is {name}, and none of {', '.join(FOLLOWING)} that it belongs to")
    if first == "logits":
        shape = _logits(sizes, dialect) if name == "other" else sizes.shape("T n n")
    else:
        shape = sizes.shape(TENSORS[first][0])
    if name == "other":
        kind = PARAMETERS if first == "logits" else STATE
        _tensor(name, value, (None, *shape[1:]), kind, dtype)
    else:
        _tensor(name, value, shape, ANY, dtype)


def _cotangents(name: str, value: Any, sizes: Sizes, dtype: torch.dtype) -> None:
    parts = _each(name, value) if isinstance(value, tuple) else []
    if len(parts) not in COTANGENTS:
        raise _Misfit(f"{name} is {_short(value)}; expected two or three cotangents")
    for (place, one), letters in zip(parts, COTANGENTS[len(parts)], strict=True):
        _tensor(place, one, sizes.shape(letters), ANY, dtype)


def _params(name: str, value: Any, sizes: Sizes, dialect: Dialect, dtype: torch.dtype) -> None:
    if not isinstance(value, Params):
        raise _Misfit(f"{name} is {_short(value)}; expected parameters of a block")
    if sizes.n is None or sizes.C is None or sizes.R is None:
        raise _Misfit(f"there are {name}, and no state that they belong to")
    for part, shape in params_shapes(sizes.n, sizes.C, dialect)._asdict().items():
        if part != "norm_weight" or value.norm_weight is not None:
            _tensor(f"{name}.{part}", getattr(value, part), shape, PARAMETERS, dtype)


def _branch(name: str, value: Any, sizes: Sizes, dtype: torch.dtype) -> None:
    if not isinstance(value, BranchSpec):
        raise _Misfit(f"{name} is {_short(value)}; expected a branch")
    if value.weight is not None and value.weight.ndim:
        _tensor(f"the weight of {name}", value.weight, (sizes.C,), STATE, dtype)


def _order(name: str, value: Any, n: int | None) -> None:
    given = list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else [value]
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in given)
    if not whole or sorted(given) != list(range(len(given))) or n not in (None, len(given)):
        of = f"{n} streams" if n is not None else "streams"
        raise _Misfit(f"{name} is {_short(value)}; expected a permutation of {of}")


def _healthy(x: Tensor, values: dict[str, Any]) -> Tensor:
    """The tokens of a state that are no poison."""
    poisoned = values.get("poisoned")
    return x if poisoned is None else torch.cat([x[:poisoned], x[poisoned + 1 :]])


def _finite(name: str, value: Any) -> None:
    """Beside poison, nothing that is not finite is drawn for any law."""
    if isinstance(value, Tensor):
        if value.dtype.is_floating_point and not value.isfinite().all():
            raise _Misfit(f"{name} holds {int((~value.isfinite()).sum())} numbers that are not finite")
    elif isinstance(value, Params):
        for part, one in value._asdict().items():
            _finite(f"{name}.{part}", one)
    elif isinstance(value, BranchSpec):
        _finite(f"the weight of {name}", value.weight)
    elif isinstance(value, tuple):
        for place, one in _each(name, value):
            _finite(place, one)


def _dtype(dtype: torch.dtype | None) -> str:
    return "a floating dtype" if dtype is None else str(dtype).removeprefix("torch.")


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of the shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


# -- the implementation -----------------------------------------------------------------------------------------------


def outside(case: Case, implementation: Implementation, dtype: torch.dtype) -> str | None:
    """Why a case that fits lies outside what an implementation declares; None where it lies inside."""
    name, values = implementation.name, dict(case.items())
    declared = dtype_names(implementation)
    if dtype not in [getattr(torch, one) for one in declared]:
        return f"the case is in {_dtype(dtype)}; {name} takes {', '.join(declared)}"
    sizes = _sizes(values, implementation.dialect)
    if sizes.n is not None and sizes.n not in implementation.streams:
        return f"the case has n = {sizes.n}; {name} takes n = {', '.join(map(str, implementation.streams))}"
    tokens = max([sizes.T or 0, values.get("count", 0), *_tokens_of(values.get("other"))])
    if tokens > implementation.max_tokens:
        return f"the case has {tokens} tokens a call; {name} takes {implementation.max_tokens}"
    if sizes.C is not None and sizes.C % implementation.channel_multiple:
        return f"the case has C = {sizes.C}; {name} takes multiples of {implementation.channel_multiple}"
    params = [one for part in ("params", "other_params", "head") for _, one in _each(part, values.get(part, ()))]
    if not implementation.norm_weight and any(one.norm_weight is not None for one in params):
        return f"the parameters of the case have a norm weight; {name} takes none"
    return _too_small(values, implementation)


def _tokens_of(value: Any) -> list[int]:
    return [value.shape[0]] if isinstance(value, Tensor) and value.ndim else []


_FAR_BELOW = 1e-4
"""An ordinary state is of order one; by chance the largest of a few normal numbers is smaller, never so much."""


def _too_small(values: dict[str, Any], implementation: Implementation) -> str | None:
    least = implementation.least_scale
    for name in ("x", "h", "other"):
        value = values.get(name)
        if not least or not isinstance(value, Tensor) or not value.numel() or "logits" in values:
            continue
        largest = value.double().abs().flatten(1).amax(-1)
        small = (largest > 0) & (largest < least * _FAR_BELOW)
        if small.any():
            return (
                f"{name} has a token of size {largest[small].max().item():.3g}; {implementation.name} declares "
                f"least_scale = {least}"
            )
    return None


# -- the law ----------------------------------------------------------------------------------------------------------


def doubt(law: Law, subject: Subject, case: Case) -> str | None:
    """Why a verdict on this case would say nothing about an implementation: the reference breaks the law there too.

    None where it keeps the law, and where the law says nothing about the reference, which does not promise everything
    that an implementation may declare.

    Raises:
        MissingValue: the law reads a value that the case does not have.
    """
    reference = Reference(subject.implementation.dialect, "the reference")
    reference.dtypes = dtype_names(subject.implementation)  # logits of bfloat16 alone are tried in bfloat16
    if law.inapplicable(reference, subject.dtype, subject.device):
        return None
    try:
        try_stored(law, Subject("ref", reference, subject.dtype, subject.device), case)
    except MissingValue:  # says it best itself
        raise
    except LawBroken as broken:
        what = f"the reference breaks {law.id} for this case too ({broken.what})"
    except Exception as error:  # whatever a case that does not fit makes of our own code
        what = f"{law.id} cannot be tried with this case on the reference ({type(error).__name__}: {message_of(error)})"
    else:
        return None
    return f"{what}: the case does not fit the law of this version, or it was changed"


def unfit(law: Law, subject: Subject, case: Case) -> str | None:
    """The first reason not to judge a subject by a case: of `misfit`, `outside` and `doubt`; None without one."""
    implementation, dtype = subject.implementation, subject.dtype
    return (
        misfit(case, implementation.dialect, dtype) or outside(case, implementation, dtype) or doubt(law, subject, case)
    )
