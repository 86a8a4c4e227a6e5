"""A `torch.nn.Module` as an implementation, its parameters named in a short mapping.

    # mine.py
    from mhc_ref import DEEPSEEK_V4
    from properties.modules import from_module

    target = from_module(
        lambda n, C: MyHyperConnection(streams=n, dim=C),
        {"phi": "fn.T", "bias": "base", "alpha": "scale"},
        dialect=DEEPSEEK_V4,
    )

    $ mhc-properties check mine.py:target

On the left stand ours (`mhc_ref.Params`), on the right the names of `module.named_parameters()`. "name.T" is a
parameter that holds the transpose, as `nn.Linear(in, out).weight` [out, in] does. A module that keeps the three
mappings apart names them apart: "phi.pre", "phi.post", "phi.res", and so for bias and alpha. One that has another
number of axes than ours is reshaped: a bias.res [n, n], an alpha.pre [] or [1].
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mhc_ref import Branch, Dialect, Mappings, Params
from mhc_ref.block import residual_size
from properties.implementation import Implementation
from properties.tokens import with_token_axes

Make = Callable[..., nn.Module]

PARTS = ("pre", "post", "res")
_WHOLE = ("phi", "bias", "alpha")


def from_module(
    make: Make,
    names: Mapping[str, str],
    *,
    dialect: Dialect,
    computes: Literal["mappings", "block"] = "mappings",
    call: Callable[..., Any] | None = None,
    tune: Callable[[Dialect], dict[str, Any]] | None = None,
    token_axes: int | None = None,
    **limits: Any,
) -> Implementation:
    """An implementation made of a module.

    Args:
        make: make(n, C) is a module of n streams of C channels; its parameters are replaced.
        names: our parameters -> the module's, see above.
        computes: what calling the module gives. "mappings": module(x) is (pre, post, res), None for what it does not
            emit. "block": module(x, branch) is the next state.
        call: call(module, x) or call(module, x, branch) where the module is called otherwise than that.
        tune: keyword arguments for `make`, of the dialect that is asked for; with `tunable` among the limits.
        token_axes: how many token axes the module takes; None: any.
        limits: other attributes of `Implementation`, such as name, streams, dtypes, tunable, mixing.

    Raises:
        TypeError: a limit, or a name of ours, that is none.
        ValueError: one of our parameters reaches nothing, one of the module's is not named, or their sizes differ.
    """
    strange = sorted(set(limits) - set(Implementation.__annotations__))
    if strange:
        raise TypeError(f"from_module: {', '.join(strange)} is no attribute of Implementation")
    if computes not in ("mappings", "block"):
        raise TypeError(f"from_module: computes is {computes!r}; expected 'mappings' or 'block'")
    if computes == "block" and token_axes == 0:
        raise TypeError(
            "from_module: a block takes all tokens at once, or its branch is called for each; token_axes is 0"
        )
    _check_names(names)
    kind = {"mappings": _Mapping, "block": _Block}[computes]
    made = kind(make, dict(names), call, tune, token_axes)
    declared = {"norm_weight": "norm_weight" in names, "zero_tokens": token_axes != 0, **limits, "dialect": dialect}
    for attribute, value in declared.items():
        setattr(made, attribute, value)
    # n = 1 only where it must be: there a bias has the size of the gates.
    n, channels = min((one for one in made.streams if one > 1), default=1), 2
    module = made.module(n, channels)
    made.name = made.name or type(module).__name__
    made.weights(_trial_params(n, channels, dialect, "norm_weight" in names), module)  # says at once what does not fit
    return made


class _Module(Implementation):
    """What `from_module` makes."""

    def __init__(
        self,
        make: Make,
        names: dict[str, str],
        call: Callable[..., Any] | None,
        tune: Callable[[Dialect], dict[str, Any]] | None,
        token_axes: int | None,
    ) -> None:
        self._make, self._names, self._call, self._tune, self._token_axes = make, names, call, tune, token_axes

    def tuned(self, **fields: Any) -> Implementation:
        if self._tune is None or set(fields) - self.tunable:
            return super().tuned(**fields)
        tuned = copy.copy(self)
        tuned.dialect = self.dialect.with_(**fields)
        self._tune(tuned.dialect)  # so that a value that cannot be had is refused now
        return tuned

    def module(self, n: int, channels: int) -> nn.Module:
        """A module of that size, as the dialect asks for it."""
        return self._make(n, channels, **({} if self._tune is None else self._tune(self.dialect)))

    def weights(self, params: Params, module: nn.Module) -> dict[str, Tensor]:
        """Params under the names of the module, in its shapes.

        Raises:
            ValueError: one of the module's parameters is not named, there is no such parameter, or the sizes differ.
        """
        theirs = dict(module.named_parameters())
        found: dict[str, Tensor] = {}
        for ours, name in self._names.items():
            value = part(params, ours, self.dialect)
            if name not in theirs and name.endswith(".T"):
                name, value = name.removesuffix(".T"), value.mT
            if name not in theirs:
                raise ValueError(
                    f"{type(module).__name__} has no parameter {name!r}; it has {', '.join(theirs) or 'none'}"
                )
            shape = theirs[name].shape
            if value.numel() != shape.numel() or (value.dim() == len(shape) and value.shape != shape):
                transposed = value.dim() == 2 and value.mT.shape == shape
                raise ValueError(
                    f"{ours} is {list(value.shape)}, and {name} of {type(module).__name__} is {list(shape)}"
                    + (f": its transpose, which is named {name + '.T'!r}" if transposed else ": not the same thing")
                )
            found[name] = value.reshape(shape)
        left = [f"{name} {list(one.shape)}" for name, one in theirs.items() if name not in found]
        if left:
            raise ValueError(f"nothing is named for {', '.join(left)} of {type(module).__name__}")
        return found

    def run(self, x: Tensor, params: Params, *rest: Any) -> Any:
        """Call the module with its parameters replaced."""
        if params.norm_weight is not None and "norm_weight" not in self._names:
            raise ValueError("Params.norm_weight is given; no parameter of the module is named for it")
        module = self.module(*x.shape[-2:]).to(x.device)
        weights = {f"module.{name}": value for name, value in self.weights(params, module).items()}
        return functional_call(_Called(module, self._call), weights, (x, *rest), strict=True)


class _Called(nn.Module):
    """A module together with the way in which it is called, so that its parameters can be replaced meanwhile."""

    def __init__(self, module: nn.Module, call: Callable[..., Any] | None) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments) if self.call is None else self.call(self.module, *arguments)


class _Mapping(_Module):
    def mappings(self, x: Tensor, params: Params) -> Mappings:
        def run(states: Tensor) -> tuple[Tensor | None, ...]:
            return tuple(self.run(states, params))

        return Mappings(*with_token_axes(self._token_axes, run, (x,), (2,)))  # pyright: ignore[reportArgumentType]


class _Block(_Module):
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        tokens, channels = x.shape[:-2], x.shape[-1]

        def once(u: Tensor) -> Tensor:
            return branch(u.reshape(*tokens, channels)).reshape(u.shape) if self._token_axes else branch(u)

        def run(states: Tensor) -> tuple[Any]:
            return (self.run(states, params, once),)

        found: Any = with_token_axes(self._token_axes, run, (x,), (2,))
        return found[0]


def part(params: Params, name: str, dialect: Dialect) -> Tensor:
    """One of our parameters, or its columns, entries or gate for one mapping: "phi", "phi.res", "alpha.pre", ..."""
    whole, _, mapping = name.partition(".")
    value: Any = getattr(params, whole)
    if not mapping:
        return value
    index = PARTS.index(mapping)
    if whole == "alpha":
        return value[index]
    if whole == "phi" and dialect.shared_projection:
        n = value.shape[-1] - 2
        return value.split([1, 1, n], -1)[index]
    size = value.shape[-1]
    n = next(n for n in range(1, size + 1) if 2 * n + residual_size(n, dialect) == size)
    return value.split([n, n, size - 2 * n], -1)[index]


def _check_names(names: Mapping[str, str]) -> None:
    allowed = [*_WHOLE, *(f"{one}.{mapping}" for one in _WHOLE for mapping in PARTS), "norm_weight"]
    strange = [name for name in names if name not in allowed]
    if strange:
        raise TypeError(
            f"from_module: {', '.join(map(repr, strange))} is no parameter of ours; expected {', '.join(allowed)}"
        )
    for one in _WHOLE:
        apart = [f"{one}.{mapping}" for mapping in PARTS]
        missing = [name for name in apart if name not in names]
        if one in names and len(missing) < len(apart):
            raise ValueError(f"from_module: {one} is named as a whole and in parts; expected one of the two")
        if one not in names and missing:
            raise ValueError(f"from_module: nothing is named for {one if len(missing) == 3 else ', '.join(missing)}")
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise ValueError(f"from_module: {twice[0]} is named more than once")


def _trial_params(n: int, channels: int, dialect: Dialect, norm_weight: bool) -> Params:
    size = 2 * n + residual_size(n, dialect)
    rows, columns = (channels, 2 + n) if dialect.shared_projection else (n * channels, size)
    phi, bias = torch.zeros(rows, columns), torch.zeros(size)
    return Params(phi, bias, torch.ones(3), torch.ones(n * channels) if norm_weight else None)
