"""How parameters are handed over: in the dtype in which an implementation declares that they are stored.

A case holds parameters in the compute dtype of its state, whatever is declared. Where they are stored in a shorter one,
`storable` gives them values that it has, when they are drawn, and `handing` hands these over in it: so one case, one
truth and one file serve both, and the gradient that comes back has been rounded to that dtype by autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.core.case import Case
from properties.core.declaration import TABLE, Declared
from properties.core.implementation import METHODS, Implementation, overrides, parameter_dtype
from properties.guards.faults import HarnessError

LOOSE = ("bias", "weight")
"""Parameters that some laws draw by themselves, by what a case calls them."""


def stored_dtype(declared: Declared, state: torch.dtype) -> torch.dtype:
    """The dtype in which the parameters of a block are stored beside a state of that dtype."""
    return state if declared.parameters == "state" else parameter_dtype(state)


def rounded(values: Tensor, stored: torch.dtype) -> Tensor:
    """The nearest numbers that a dtype has, in the dtype of the values; the largest in the place of an infinity."""
    if torch.finfo(values.dtype).bits <= torch.finfo(stored).bits:
        return values
    most = torch.finfo(stored).max
    return values.clamp(-most, most).to(stored).to(values.dtype)


def storable(value: Any, stored: torch.dtype) -> Any:
    """The same with parameters whose values the dtype has; in a case those of its other states, too."""
    if isinstance(value, Params):
        # Only the norm weight, whose field takes None, can be None.
        return Params(*(None if part is None else rounded(part, stored) for part in value))  # pyright: ignore[reportArgumentType]
    if isinstance(value, tuple):
        return tuple(storable(one, stored) for one in cast("tuple[Any, ...]", value))
    if isinstance(value, Case):
        parts = {name: storable(one, stored) for name, one in value.items()}
        loose = {name: rounded(one, stored) for name in LOOSE if isinstance(one := parts.get(name), Tensor)}
        return Case(**parts | loose)
    return value


def is_storable(params: Params, stored: torch.dtype) -> bool:
    """Whether a dtype has the values of some parameters."""
    return all(part is None or _same(part, stored) for part in params)


def _same(part: Tensor, stored: torch.dtype) -> bool:
    part = part.detach()
    again = part.to(stored).to(part.dtype)
    return bool(((again == part) | part.isnan()).all())


def handed(params: Params, stored: torch.dtype) -> Params:
    """Parameters in the dtype in which they are stored, through autograd.

    Raises:
        HarnessError: it does not have their values, which would be others than those that the truth is told of.
    """
    if params.phi.dtype == stored:
        return params
    # Compiled code and a CUDA graph cannot ask; what they are given has been asked about before.
    if params.phi.device.type == "cpu" and not torch.compiler.is_compiling() and not is_storable(params, stored):
        raise HarnessError(f"parameters have values that {stored} does not have; a law must draw them by `storable`")
    return Params(*(None if part is None else part.to(stored) for part in params))  # pyright: ignore[reportArgumentType]


class InFront(Implementation):
    """What stands in front of an implementation, declares what it declares, and has whatever else it has."""

    def __init__(self, given: Implementation) -> None:
        self.given = given
        for name in TABLE:
            setattr(self, name, getattr(given, name))

    def __getattr__(self, name: str) -> Any:
        if name == "given":  # while a copy is made
            raise AttributeError(name)
        return getattr(self.given, name)


class Handing(InFront):
    """An implementation that is handed its parameters in the dtype of the state; `handing` makes one.

    It offers the methods that the implementation itself offers, and derives what that derives, as it does.
    """

    @property
    def _composed(self) -> Dialect:
        return self.given._composed

    def _derived_block(self, x: Tensor, params: Params, branch: Branch, before: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.given._derived_block(x, handed(params, x.dtype), branch, before)

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        return self.given._derived_layers(x, _all(params, x.dtype), branches)

    def tuned(self, **fields: Any) -> Implementation:
        return handing(self.given.tuned(**fields))


def _all(params: Sequence[Params], stored: torch.dtype) -> list[Params]:
    return [handed(one, stored) for one in params]


def _mappings(self: Handing, x: Tensor, params: Params) -> Mappings:
    return self.given.mappings(x, handed(params, x.dtype))


def _block(self: Handing, x: Tensor, params: Params, branch: Branch) -> Tensor:
    return self.given.block(x, handed(params, x.dtype), branch)


def _layers(self: Handing, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
    return self.given.layers(x, _all(params, x.dtype), branches)


def _collapse(self: Handing, x: Tensor, params: Params | None = None) -> Tensor:
    return self.given.collapse(x, None if params is None else handed(params, x.dtype))


def _stack(self: Handing, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
    return self.given.stack(h, _all(params, h.dtype), branches)


def _plain(name: str) -> Any:
    def method(self: Handing, *arguments: Any) -> Any:
        return getattr(self.given, name)(*arguments)

    return method


_METHODS: dict[str, Any] = {
    **{name: _plain(name) for name in METHODS},
    **{"mappings": _mappings, "block": _block, "layers": _layers, "collapse": _collapse, "stack": _stack},
}


def handing(implementation: Implementation) -> Implementation:
    """The implementation itself, or in front of it what hands its parameters over as it declares."""
    if implementation.parameters == "compute" or isinstance(implementation, Handing):
        return implementation
    own = {name: method for name, method in _METHODS.items() if overrides(implementation, name)}
    made: Handing = type("Handing", (Handing,), own)(implementation)
    return made
