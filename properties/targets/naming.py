"""Our parameters under the names that a `torch.nn.Module` has for them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from mhc_ref import Dialect, Params
from mhc_ref.packing import streams_of_params
from properties.core.reads import read_of
from properties.guards.faults import AdapterError
from properties.guards.printable import shown

PARTS = ("pre", "post", "res")
WHOLE = ("phi", "bias", "alpha")


class Misnamed(AdapterError, ValueError):
    """A name that reaches nothing, a parameter that nothing is named for, or two that cannot be the same thing."""


def check_names(names: object) -> dict[str, str]:
    """The mapping, ours -> theirs.

    Raises:
        TypeError: no mapping of strings, or a name of ours that is none.
        Misnamed: one of ours has no name, or one of theirs has two.
    """
    if not isinstance(names, Mapping) or not all(isinstance(one, str) for pair in names.items() for one in pair):  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
        raise TypeError(
            f"from_module: names is {shown(names)}; expected a mapping such as {{'phi': 'fn.T', 'bias': 'base', ...}}"
        )
    given: dict[str, str] = dict(names)  # pyright: ignore[reportUnknownArgumentType]
    allowed = [*WHOLE, *(f"{one}.{mapping}" for one in WHOLE for mapping in PARTS), "norm_weight"]
    strange = [name for name in given if name not in allowed]
    if strange:
        raise TypeError(
            f"from_module: {', '.join(map(repr, strange))} is no parameter of ours; expected {', '.join(allowed)}"
        )
    for one in WHOLE:
        apart = [f"{one}.{mapping}" for mapping in PARTS]
        missing = [name for name in apart if name not in given]
        if one in given and len(missing) < len(apart):
            raise Misnamed(f"from_module: {one} is named as a whole and in parts; expected one of the two")
        if one not in given and missing:
            raise Misnamed(
                f"from_module: nothing is named for {one if len(missing) == 3 else ', '.join(missing)}{_LACKS}"
            )
    _tied(given)
    return given


_LACKS = (
    "; the laws draw phi, bias and alpha of every block, and a module that lacks one of them (a static one has no phi) "
    "computes what no dialect declares. What it has in common with one is verified apart: its projection as a plain "
    "function with --dialect, its pre and post as methods of a properties.Implementation"
)
_TIED = (
    "; the laws draw what they name apart, and one parameter cannot hold two values. Where the module is meant to tie "
    "them, let `make` give one in which each has a parameter of its own (or one parameter under two names)"
)


def _tied(names: Mapping[str, str]) -> None:
    by_theirs: dict[str, list[str]] = {}
    for ours, theirs in names.items():
        by_theirs.setdefault(theirs.removesuffix(".T"), []).append(ours)
    for theirs, ours in by_theirs.items():
        if len(ours) > 1:
            raise Misnamed(f"from_module: {theirs} is named more than once, for {' and '.join(ours)}{_TIED}")


def part(params: Params, name: str, dialect: Dialect, channels: int | None = None) -> Tensor:
    """One of our parameters, or its columns, entries or gate for one mapping: "phi", "phi.res", "alpha.pre", ...;
    `channels` as for `streams_of_params`."""
    whole, _, mapping = name.partition(".")
    value: Any = getattr(params, whole)
    if not mapping:
        return value
    index = PARTS.index(mapping)
    if whole == "alpha":
        return value[index]
    if whole == "phi" and dialect.shared_projection:
        return value.split([1, 1, value.shape[-1] - 2], -1)[index]
    n = streams_of_params(params, dialect, channels)
    return value.split([n, n, value.shape[-1] - 2 * n], -1)[index]


class Naming:
    """Which of a module's parameters stand for ours, and which stay as they are."""

    def __init__(self, names: object, constants: Iterable[str], dialect: Dialect) -> None:
        """Raises what `check_names` does, and Misnamed where the dialect has parameters that no name is for."""
        if not read_of(dialect).plain:
            raise Misnamed(
                f"from_module: in the dialect {read_of(dialect).words}; names are for the parameters of gates, one for "
                "each stream. Write a properties.Implementation that packs the parameters (docs/families.md)"
            )
        self.names, self.constants, self.dialect = check_names(names), tuple(constants), dialect

    @property
    def norm_weight(self) -> bool:
        """Whether the module has a norm weight."""
        return "norm_weight" in self.names

    def weights(self, params: Params, module: nn.Module, channels: int | None = None) -> dict[str, Tensor]:
        """Params under the names of the module, in its shapes; parameters that it holds under two names under both;
        `channels` as for `streams_of_params`.

        Without a norm weight the module's is 1, which is the same mathematics.

        Raises:
            Misnamed: one of the module's parameters is not named, there is no such parameter, or the sizes differ.
        """
        kind = type(module).__name__
        # Of one tensor under two names both are named: each is an attribute of its own, and can hold its own value.
        parameters = dict(module.named_parameters(remove_duplicate=False))
        theirs: dict[str, Tensor] = {**dict(module.named_buffers(remove_duplicate=False)), **parameters}
        found: dict[str, Tensor] = {}
        for ours, name in self.names.items():
            transposed = name not in theirs and name.endswith(".T")
            name = name.removesuffix(".T") if transposed else name
            if name not in theirs:
                raise Misnamed(_unknown(module, name, parameters))
            holder, found_there, stored = f".{name}".rpartition(".parametrizations.")
            if found_there:  # what is stored there is not the weight that the module uses
                raise Misnamed(_computed(kind, holder[1:], stored.partition(".")[0], name))
            if (hook := _recomputed(module, name)) is not None:
                raise Misnamed(_hooked(kind, name, *hook))
            value = self._value(params, ours, theirs[name], channels)
            if transposed and value.dim() != 2:
                raise Misnamed(f"{ours} is {list(value.shape)}; '{name}.T' stands for the transpose of a matrix")
            found[name] = _fitted(value.mT if transposed else value, ours, name, theirs[name], kind)
        by_tensor: dict[int, list[str]] = {}
        for name, one in theirs.items():
            by_tensor.setdefault(id(one), []).append(name)
        for group in by_tensor.values():
            named = [name for name in group if name in found]
            if len(named) > 1 and len(named) < len(group):
                raise Misnamed(
                    f"{', '.join(group)} of {kind} are one parameter, and {' and '.join(named)} are named{_TIED}"
                )
            found.update({name: found[named[0]] for name in group if named and name not in found})
        self._check_left(parameters, found, kind)
        return found

    def _value(self, params: Params, ours: str, theirs: Tensor, channels: int | None) -> Tensor:
        if ours == "norm_weight" and params.norm_weight is None:
            return params.phi.new_ones(theirs.numel())
        return part(params, ours, self.dialect, channels)

    def _check_left(self, parameters: Mapping[str, Tensor], found: Mapping[str, Tensor], kind: str) -> None:
        unknown = [name for name in self.constants if name not in parameters]
        if unknown:
            raise Misnamed(
                f"constants names {', '.join(unknown)}, which {kind} does not have; it has "
                f"{', '.join(parameters) or 'none'}"
            )
        left = {name: one for name, one in parameters.items() if name not in found and name not in self.constants}
        if left:
            told = ", ".join(f"{name} {list(one.shape)}" for name, one in left.items())
            raise Misnamed(
                f"nothing is named for {told} of {kind}; name it, or say constants={tuple(left)!r} for what stays as "
                "`make` gives it"
            )


def _unknown(module: nn.Module, name: str, parameters: Mapping[str, Tensor]) -> str:
    kind = type(module).__name__
    holder, _, attribute = name.rpartition(".")
    try:
        computed = parametrize.is_parametrized(_part(module, holder), attribute)
    except AttributeError:  # no such submodule
        computed = False
    if computed:
        return _computed(kind, holder, attribute)
    return f"{kind} has no parameter {name!r}; it has {', '.join(parameters) or 'none'}"


def _computed(kind: str, holder: str, attribute: str, stored: str = "") -> str:
    """What to do about a weight that a parametrization computes; `stored`: of what, where that was named instead."""
    name, place = (f"{holder}.{attribute}", f"module.{holder}") if holder else (attribute, "module")
    of = f", of {stored}" if stored else ""
    return (
        f"{name} of {kind} is computed by a parametrization{of}, so that it cannot take the values that the laws draw; "
        f"let `make` remove it: torch.nn.utils.parametrize.remove_parametrizations({place}, {attribute!r})"
    )


_HOOKS = {
    "torch.nn.utils.weight_norm": "torch.nn.utils.remove_weight_norm",
    "torch.nn.utils.spectral_norm": "torch.nn.utils.remove_spectral_norm",
}
"""Modules of torch whose hooks compute a weight before each call, as was done before there were parametrizations, and
the function that takes them away."""


def _part(module: nn.Module, place: str) -> nn.Module:
    """The submodule at a place, the module itself at an empty one, of a scripted module too, which is not asked so."""
    return functools.reduce(getattr, filter(None, place.split(".")), module)


def _recomputed(module: nn.Module, name: str) -> tuple[str, str] | None:
    """The weight that a hook computes of the parameter of that name, and what removes it; None where there is none."""
    holder, _, leaf = name.rpartition(".")
    for hook in getattr(_part(module, holder), "_forward_pre_hooks", {}).values():
        remover, weight = _HOOKS.get(type(hook).__module__), getattr(hook, "name", None)
        if remover is not None and isinstance(weight, str) and leaf.startswith(f"{weight}_"):
            return weight, remover
    return None


def _hooked(kind: str, name: str, weight: str, remover: str) -> str:
    holder = name.rpartition(".")[0]
    place = f"module.{holder}" if holder else "module"
    return (
        f"{weight} of {kind} is computed of {name} by a hook before each call, so that it cannot take the values that "
        f"the laws draw; let `make` remove it: {remover}({place}, {weight!r})"
    )


def _fitted(value: Tensor, ours: str, name: str, theirs: Tensor, kind: str) -> Tensor:
    """The value in the shape of their parameter."""
    if is_lazy(theirs):
        raise Misnamed(f"{name} of {kind} has no shape yet; let `make` give a module that was called once")
    if not theirs.is_floating_point():
        raise Misnamed(f"{name} of {kind} is {theirs.dtype}; {ours} is real, and is given in float32 or float64")
    shape = theirs.shape
    if value.numel() != shape.numel() or (value.dim() == len(shape) and value.shape != shape):
        transposed = value.dim() == 2 and value.mT.shape == shape
        raise Misnamed(
            f"{ours} is {list(value.shape)}, and {name} of {kind} is {list(shape)}"
            + (f": its transpose, which is named {name + '.T'!r}" if transposed else ": not the same thing")
        )
    return value.reshape(shape)
