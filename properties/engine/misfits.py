"""Whether the values of a stored case fit one another, a dialect and a dtype: shapes, kinds, and what is finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import logits_shape, params_shapes, residual_size, streams_of_logits
from properties.core.arranged import AXES
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.device import DEVICES
from properties.core.implementation import parameter_dtype
from properties.core.reads import read_of
from properties.laws.premises import shift_dim
from properties.strategies.layouts import AND, APART, parts_of


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
    "h_pre": ("T n", PARAMETERS),  # or T n C where a branch reads by channel
    "h_post": ("T n", PARAMETERS),
    "h_res": ("T n n", PARAMETERS),
    "matrix": ("T n n", WIDE),
}
"""What the laws call a tensor, its shape and its dtype; `logits`, `shift` and those that follow others are below."""

FOLLOWING = ("x", "h", "logits")
"""What `other` and `cotangent` have the shape of: the first of these that is there."""

COTANGENTS = {2: ("T n C", "T C"), 3: ("T n", "T n", "T n n")}
"""The cotangents of post and pre, and of the three mappings; a single one is of what `_single` says."""

MOST = {
    "n": 64,
    "count": max(max(device.flood) for device in DEVICES.values()),
    "depth": 4096,
    **dict.fromkeys(("first", "then"), 1000),
    "offset": 4096,
    **dict.fromkeys(("seed", "entry", "turn"), 2**64),
    **{"spoilt": 2**10, "sequences": 2, "times": 128},
}
"""Integers of a case, and the largest that a law may draw: a larger one would only cost time and memory."""

MOST_TOKENS = MOST["count"]
MOST_NUMBERS = 2**28

LEAST = {"n": 1, "count": 1, "depth": 1, "sequences": 1, "times": 1}
NUMBERS = ("factor", "spread", "corner")
ORDERS = ("order", "rows", "columns")
CHOICES: dict[str, tuple[str | bool, ...]] = {
    "third": ("pre", "post", "res"),
    "axes": ("", *AXES),
    "gradients": (False, True),
    "which": ("x", "y", "h_post", "h_res"),
}
POISONED = ("x", "y", "h", "h_post", "h_res", "cotangent", "cotangents")
"""What may hold a NaN or an infinity, of the token that is `poisoned`."""
PARTS = {
    "of_mappings": ("x", "params", "cotangents"),
    "of_block": ("x", "params", "branch", "cotangent"),
    "of_h_res": ("logits", "cotangent"),
    "of_stack": ("h", "n", "params", "branches", "head", "cotangent"),
}
"""What one method alone is given, of sizes of its own, and cotangents of what it gives."""
PAIRS = ("wider", "others", *PARTS)
"""A state of another size, with its parameters."""


class _Misfit(Exception):
    pass


def misfit(case: Case, dialect: Dialect, dtype: torch.dtype) -> str | None:
    """Why the values of a case do not fit one another, a dialect or a dtype of the state; None where they do.

    A value of a name that the laws do not use is not looked at: a law of somebody else may read it.
    """
    values = dict(case.items())
    if isinstance(tuned := values.get("dialect"), Dialect):  # what the implementation is tuned to
        dialect = tuned
    try:
        sizes = sizes_of(values, dialect)
        for name, value in values.items():
            _check(name, value, values, sizes, dialect, dtype)
        for name, value in values.items():
            _finite(name, _healthy(value, values) if name in POISONED else value)
    except _Misfit as found:
        return str(found)
    return None


def sizes_of(values: dict[str, Any], dialect: Dialect) -> Sizes:
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
        _tensor(name, value, sizes.shape(_gates(dialect) if name == "h_pre" else letters), kind, dtype)
    elif name == "logits":
        _tensor(name, value, _logits(sizes, dialect), PARAMETERS, dtype)
    elif name == "shift":
        _tensor(name, value, (_lines(values.get("logits"), dialect),), WIDE, dtype)
    elif name in ("other", "cotangent"):
        _following(name, value, values, sizes, dialect, dtype)
    elif name in ("cotangents", "bars"):
        _cotangents(name, value, values, sizes, dialect, dtype)
    elif name == "live":
        _tokens(name, value, sizes)
    elif name == "place":
        _places(name, value, values)
    elif name in ("bias", "weight") and sizes.n and sizes.C:
        shapes = params_shapes(sizes.n, sizes.C, dialect)
        if name == "bias" or value is not None:
            _tensor(name, value, shapes.bias if name == "bias" else shapes.norm_weight, PARAMETERS, dtype)
    elif name == "dialect" and not isinstance(value, Dialect):
        raise _Misfit(f"{name} is {_short(value)}; expected a dialect")
    elif name in PAIRS:
        _pair(name, value, dialect, dtype)
    elif name in ("params", "other_params", "head"):
        for place, one in each(name, value):
            _params(place, one, sizes, dialect, dtype)
    elif name in ("branch", "branches", "weights"):
        for place, one in each(name, value):
            if name == "weights":
                _tensor(place, one, (sizes.C,), STATE, dtype)
            else:
                _branch(place, one, sizes, dtype)
        layers, calls = len(each("params", values.get("params"))), len(each(name, value))
        if layers != calls:
            raise _Misfit(f"{name} are {calls}; expected one for each of {layers} parameters")
    elif name in ORDERS:
        _order(name, value, sizes.n)
    elif name == "orders":
        for place, one in each(name, value):
            _order(place, one, sizes.n)
    else:
        _plain(name, value, sizes)


def _tokens(name: str, value: Any, sizes: Sizes) -> None:
    """The numbers of some tokens, or channels, in order: those whose cotangents are not 0."""
    most = max(sizes.T or 0, sizes.C or 0)
    fits = isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 1 and value.numel() > 0
    if not fits or not bool((value.diff() > 0).all()) or int(value[0]) < 0 or int(value[-1]) >= most:
        raise _Misfit(f"{name} is {_short(value)}; expected some of the numbers from 0 to {most - 1}, in order")


def _places(name: str, value: Any, values: dict[str, Any]) -> None:
    """An index into a token of the state."""
    given = list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else [value]
    shape = tuple(values["x"].shape[1:]) if "x" in values else ()
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in given)
    if not whole or len(given) != len(shape) or not all(0 <= k < size for k, size in zip(given, shape, strict=True)):
        raise _Misfit(f"{name} is {_short(value)}; expected an index into a token of {' x '.join(map(str, shape))}")


def _pair(name: str, value: Any, dialect: Dialect, dtype: torch.dtype) -> None:
    """A state with its parameters, or logits, of another size than the rest of the case; or what a method is given."""
    if name in PARTS:
        given = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else ()
        if len(given) != len(PARTS[name]):
            raise _Misfit(f"{name} is {_short(value)}; expected a tuple of {', '.join(PARTS[name])}")
        if reason := misfit(Case(**dict(zip(PARTS[name], given, strict=True))), dialect, dtype):
            raise _Misfit(f"in {name}, {reason}")
        return
    parts = (
        cast("tuple[Any, ...]", value) if isinstance(value, tuple) and len(cast("tuple[Any, ...]", value)) == 2 else ()
    )
    within = Case(x=parts[0], params=parts[1]) if parts else Case(logits=value)
    if reason := misfit(within, dialect, dtype):
        raise _Misfit(f"in {name}, {reason}")


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
    elif name == "layout" and not (isinstance(value, str) and set(parts_of(value)) <= {"slice", *APART}):
        expected = ", ".join(("slice", *APART))
        raise _Misfit(f"{name} is {_short(value)}; expected nothing, or some of {expected}, with {AND} between them")
    elif name in CHOICES and value not in CHOICES[name]:
        raise _Misfit(f"{name} is {_short(value)}; expected one of {', '.join(map(str, CHOICES[name]))}")


def each(name: str, value: Any) -> list[tuple[str, Any]]:
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
        raise _Misfit(f"{name} is in {named(value.dtype)}; expected {named(expected)} for a state in {named(dtype)}")


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
        _tensor(name, value, (_pulled(values, sizes), *shape[1:]), ANY, dtype)


def _pulled(values: dict[str, Any], sizes: Sizes) -> int | None:
    """Of how many tokens there are cotangents: of all, or of those that are named."""
    live = values.get("live")
    return len(live) if "bars" in values and isinstance(live, Tensor) and live.ndim else sizes.T


def _gates(dialect: Dialect) -> str:
    """The shape of h_pre."""
    return "T n" if read_of(dialect).by_stream else "T n C"


def _lines(logits: Any, dialect: Dialect) -> int | None:
    """How many lines of a token's logits a constant can be added to."""
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        return None
    token = torch.Size(logits.shape[1:])
    return 1 if len(token) == 1 else token.numel() // max(token[shift_dim(dialect)], 1)


def _cotangents(
    name: str, value: Any, values: dict[str, Any], sizes: Sizes, dialect: Dialect, dtype: torch.dtype
) -> None:
    parts = each(name, value) if isinstance(value, tuple) else []
    if len(parts) not in (1, *COTANGENTS):
        raise _Misfit(f"{name} is {_short(value)}; expected one, two or three cotangents")
    of = (_single(values, parts[0][1]),) if len(parts) == 1 else COTANGENTS[len(parts)]
    of = (_gates(dialect), *of[1:]) if len(parts) == 3 else of
    for (place, one), letters in zip(parts, of, strict=True):
        _tensor(place, one, (_pulled(values, sizes), *sizes.shape(letters)[1:]), ANY, dtype)


def _single(values: dict[str, Any], one: Any) -> str:
    """The shape of a single cotangent: of mixing; of the end of streams, or a stack; or of a block or a beginning."""
    if "logits" in values:
        return "T n n"
    ended = "x" in values and "branch" not in values and isinstance(one, Tensor) and one.ndim == 2
    return "T C" if ended or {"h", "params"} <= values.keys() else "T n C"


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


def _healthy(value: Any, values: dict[str, Any]) -> Any:
    """The tokens of a state, or of cotangents, that are no poison."""
    poisoned = values.get("poisoned")
    if poisoned is None:
        return value
    return map_tensors(value, lambda one: torch.cat([one[:poisoned], one[poisoned + 1 :]]))


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
        for place, one in each(name, value):
            _finite(place, one)


def named(dtype: torch.dtype | None) -> str:
    return "a floating dtype" if dtype is None else str(dtype).removeprefix("torch.")


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of the shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
