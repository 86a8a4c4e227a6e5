"""One example: the inputs of a law, as data that can be printed, saved and replayed anywhere."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import streams_of_logits
from properties.guards.faults import HarnessError

Value = Any  # Tensor | Params | BranchSpec | Dialect | int | float | bool | str | None, or a tuple of those

BRANCHES = {
    **{"zero": False, "identity": False, "scale": True, "constant": True},
    **{"tanh": True, "detached": True, "added": True},
}
"""The kinds of branch, and whether one has a weight."""


@dataclass(frozen=True)
class BranchSpec:
    """A branch F as data: [..., C] -> [..., C], elementwise in C, the same for every token.

    kind ``zero``: 0; ``identity``: u; ``scale``: weight * u, weight [C] or a scalar; ``constant``: weight for every
    token;
    ``tanh``: weight * tanh(u) (bounded by |weight|); ``detached``: weight * u, through which no gradient passes;
    ``added``: u + weight. Each is evaluated in the dtype of u.
    """

    kind: str
    weight: Tensor | None = None

    def __call__(self, u: Tensor) -> Tensor:
        """F(u) in the dtype and on the device of u."""
        if self.kind == "identity":
            return u.clone()
        if self.kind == "zero" or self.weight is None:
            return torch.zeros_like(u)
        weight = self.weight.to(u)
        if self.kind == "constant":
            return weight.expand(u.shape).clone()
        if self.kind == "detached":
            return weight * u.detach()
        if self.kind == "added":
            return u + weight
        return weight * (u.tanh() if self.kind == "tanh" else u)

    def __repr__(self) -> str:
        return f"branch {self.kind}" + ("" if self.weight is None else f" {self.weight.tolist()}")


class MissingValue(HarnessError, AttributeError):
    """A law reads a value that its case does not have: the case, or the file that it came from, does not fit the law.

    Whoever was being called at that moment has no part in it.
    """

    def __init__(self, value: str, there: Iterable[str]) -> None:
        super().__init__(f"this case has no {value!r}; it has {', '.join(there)}")
        self.value = value


class Case:
    """Named values; attribute access raises `MissingValue` for a value that the strategy did not draw."""

    def __init__(self, **values: Value) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError as error:
            raise MissingValue(name, self._values) from error

    def __contains__(self, name: str) -> bool:
        """Whether the strategy drew a value of that name."""
        return name in self._values

    def items(self) -> Iterator[tuple[str, Value]]:
        """The values by name, in the order in which they were drawn."""
        yield from self._values.items()

    def with_(self, **values: Value) -> Case:
        """A copy with other or more values."""
        return Case(**{**self._values, **values})

    def __repr__(self) -> str:
        return f"Case({', '.join(f'{name}={describe(value)}' for name, value in self.items())})"


def streams_of(case: Case, dialect: Dialect) -> int | None:
    """The n of a case that holds a state or logits; None where it holds neither."""
    values = dict(case.items())
    if isinstance(state := values.get("x"), Tensor) and state.ndim > 1:
        return state.shape[-2]
    if isinstance(logits := values.get("logits"), Tensor) and logits.ndim:
        with contextlib.suppress(ValueError):  # a case of somebody's own making
            return streams_of_logits(logits.shape, dialect)
    return None


def map_tensors(value: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """The same value with every tensor in it replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Params):
        return Params(*(None if part is None else function(part) for part in value))  # pyright: ignore[reportArgumentType]
    if isinstance(value, BranchSpec):
        return BranchSpec(value.kind, None if value.weight is None else function(value.weight))
    if isinstance(value, (tuple, list)):
        return tuple(map_tensors(part, function) for part in value)
    return value


def describe(value: Value, limit: int = 400) -> str:
    """A value as a reader wants it: small tensors in full, sparse ones by their entries, large ones by shape and
    range."""
    if isinstance(value, Tensor):
        return _describe_tensor(value, limit)
    if isinstance(value, Params):
        parts = {name: part for name, part in value._asdict().items() if part is not None}
        return "Params(" + ", ".join(f"{name}={describe(part, limit)}" for name, part in parts.items()) + ")"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(describe(part, limit) for part in value) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, Dialect):
        return repr(value)
    return repr(value)


def _describe_tensor(value: Tensor, limit: int) -> str:
    shape = f"[{', '.join(map(str, value.shape))}]"
    kind = str(value.dtype).removeprefix("torch.")
    if value.numel() == 0:
        return f"{kind}{shape} (empty)"
    value = value.detach().cpu()
    if not value.dtype.is_floating_point:
        return f"{value.tolist()}"
    full = repr(_rounded(value.tolist()))
    nonzero = value.nonzero()
    if len(full) <= limit and (value.numel() <= 12 or len(nonzero) > 3):
        return full
    if len(nonzero) <= 12:
        entries = ", ".join(f"[{', '.join(map(str, i.tolist()))}]={value[tuple(i)].item():.9g}" for i in nonzero)
        return f"zeros{shape}" + (f" but {entries}" if entries else "")
    return f"{kind}{shape} from {value.double().min().item():.4g} to {value.double().max().item():.4g}"


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]  # pyright: ignore[reportUnknownVariableType]
    if not math.isfinite(value):
        return value
    number = float(f"{value:.9g}")
    return int(number) if number == int(number) and abs(number) < 1e6 else number
