"""What an implementation offers, and what can be derived from what it offers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, cast

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Dialect, Mappings, Params
from mhc_ref.block import gates_read
from mhc_ref.dialect import FIELDS
from mhc_ref.packing import logits_shape, params_shapes, residual_size, streams_of_logits, streams_of_params
from mhc_ref.projection import compute_dtype
from mhc_ref.stack import ends_with_last
from properties.core.declaration import TABLE, Declared, accepted, attributes
from properties.core.declaration import Mixing as Mixing
from properties.core.declaration import Products as Products
from properties.core.declaration import Storage as Storage
from properties.core.declaration import next_multiple as next_multiple
from properties.core.family import mix_of
from properties.core.fields import Unfit
from properties.core.several import Dtypes
from properties.core.several import dtype_of as dtype_of

METHODS = ("project", "mappings", "pre", "post", "block", "layers", "expand", "collapse", "stack")
"""Everything an implementation can offer, in the order of the mathematics."""

_PARTS = ("mappings", "pre", "post")
"""What a block is made of."""


def _derivations(dialect: Dialect) -> dict[str, tuple[tuple[str, ...], ...]]:
    """method -> the alternatives from which it can be derived, each a set of methods that must all be offered.

    A block shows its h_pre to nobody, so that where the next one reads with it layers are made of the parts of blocks;
    and so is a stack that ends with the last one.
    """
    return {
        "project": (("mappings",),),
        "block": (_PARTS, ("layers",)),
        "layers": (_PARTS if dialect.read_from == "previous" else ("block",),),
        "stack": (_PARTS if ends_with_last(dialect) else ("layers",),),
    }


class Absent(NotImplementedError):
    """The implementation neither offers a method nor anything it can be derived from."""


class Implementation(Declared):
    """Somebody's hyper-connections. Override what you have; what is missing is derived, or absent and counted as such.

    States are [..., n, C] and may have any number of token axes, none included. `params` are `mhc_ref.Params`
    (packing: phi [n*C, 2n+R], columns pre | post | res row-major), float64 for float64 states and float32 otherwise,
    and so are logits. A branch is a callable [..., C] -> [..., C] in the dtype of the state.
    """

    __doc__ = f"{__doc__}\n    {attributes()}"  # help(Implementation) shows the table, too

    dialect_given = False
    """Whether the dialect was said by who asks (`--dialect`), and not by the implementation: nothing to declare."""

    def project(self, logits: Tensor) -> Tensor:
        """h_res as emitted: [..., n, n] -> [..., n, n] ([..., n!] -> [..., n, n] for the permutation mixture)."""
        if not overrides(self, "mappings"):
            raise Absent("project: neither project nor mappings is offered")
        return project_from_mappings(self, logits)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        """x [..., n, C] -> pre [..., n], post [..., n], res [..., n, n]."""
        raise Absent("mappings: not offered")

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        """[..., n, C], [..., n] -> the branch input [..., C]; h_pre is [..., n, C] where the dialect says so."""
        raise Absent("pre: not offered")

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        """[..., n, C], [..., C], [..., n], [..., n, n] -> A x + h_post^T y [..., n, C]."""
        raise Absent("post: not offered")

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        """One block: [..., n, C] -> [..., n, C]; the first of several with read_from="previous"."""
        if all(overrides(self, part) for part in _PARTS):
            return self._derived_block(x, params, branch, None)[0]
        if overrides(self, "layers"):
            return self.layers(x, [params], [branch])
        raise Absent("block: neither block, nor mappings with pre and post, nor layers is offered")

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        """L blocks on persistent streams: [..., n, C] -> [..., n, C], no expand, no collapse."""
        return self._derived_layers(x, params, branches)[0]

    @property
    def _composed(self) -> Dialect:
        """The dialect by which parts and blocks are put together here."""
        return self.dialect

    def _derived_block(self, x: Tensor, params: Params, branch: Branch, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The state after a block of the parts that are offered, and its own h_pre; `before` is that of the block
        before it."""
        h_pre, h_post, h_res = self.mappings(x, params)
        y = branch(self.pre(x, gates_read(h_pre, before, self._composed)))
        return self.post(x, y, h_post, h_res), h_pre

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        """The streams after L blocks, and the h_pre of the last where something reads with it."""
        last = None
        handed_on = self._composed.read_from == "previous" or ends_with_last(self._composed)
        for one, branch in zip(params, branches, strict=True):
            if handed_on:
                x, last = self._derived_block(x, one, branch, last)
            else:
                x = self.block(x, one, branch)
        return x, last

    def expand(self, h: Tensor, n: int) -> Tensor:
        """[..., C] -> [..., n, C]; as the dialect declares where it is not overridden."""
        return mhc_ref.expand(h, n, self.dialect)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        """[..., n, C] -> [..., C]; as the dialect declares where it is not overridden. `params` are a head's.

        Where the streams end by the h_pre of the last block (collapse='last-pre'), only a stack has it: it reads with
        `pre`, and this is not asked.
        """
        return mhc_ref.collapse(x, self.dialect, params)

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        """expand, layers, collapse: [..., C] -> [..., C]. With collapse='head' params has one entry more, the
        head's."""
        x = self.expand(h, streams_of_params(params[0], self.dialect, h.shape[-1]))
        if ends_with_last(self._composed):
            x, last = self._derived_layers(x, params[: len(branches)], branches)
            return self.pre(x, cast(Tensor, last))
        x = self.layers(x, params[: len(branches)], branches)
        return self.collapse(x, params[len(branches)] if len(params) > len(branches) else None)

    def _for_states(self, dtype: torch.dtype) -> Self:
        """See `for_states`."""
        dialect = self.dialect.at(dtype)
        if dialect is self.dialect:
            return self
        made = copy.copy(self)
        made.dialect = dialect
        return made

    def tuned(self, **fields: Any) -> Implementation:
        """The same implementation with other values of the dialect fields named in `tunable`."""
        raise Absent(f"tuned: {sorted(fields)} cannot be changed; `tunable` is {sorted(self.tunable)}")


def for_states(implementation: Implementation, dtype: torch.dtype) -> Implementation:
    """What an implementation is for states of a dtype: itself, but where the eps of its norm is that of a dtype.

    Then it is a copy that shares everything with it, and declares that eps as a number.
    """
    return implementation._for_states(dtype)  # pyright: ignore[reportPrivateUsage]  # a hook of ours, not of adapters


def overrides(implementation: Implementation, method: str) -> bool:
    """Whether a method is the implementation's own."""
    found = getattr(implementation, method, None)
    return callable(found) and getattr(found, "__func__", found) is not getattr(Implementation, method)


def offers(implementation: Implementation) -> dict[str, str]:
    """method -> "own", or "derived from ..."; methods that are absent are not in it."""
    found = {method: "own" for method in METHODS if overrides(implementation, method)}
    if ends_with_last(implementation.dialect):  # a collapse by itself has no h_pre to read with
        found.pop("collapse", None)
    derivations = _derivations(implementation.dialect)
    changed = True
    while changed:
        changed = False
        for method, alternatives in derivations.items():
            for needed in alternatives:
                if (
                    method not in found
                    and all(part in found for part in needed)
                    and not _silent(implementation, method, needed)
                ):
                    found[method] = "derived from " + ", ".join(needed)
                    changed = True
    return found


def _silent(implementation: Implementation, method: str, needed: tuple[str, ...]) -> bool:
    """Whether the derivation reads mappings that are declared as not emitted."""
    read = ("res",) if method == "project" else ("pre", "post", "res")
    return "mappings" in needed and any(part not in implementation.emits for part in read)


def project_from_mappings(implementation: Implementation, logits: Tensor) -> Tensor:
    """h_res of logits through `mappings` with phi = 0, where logits = bias: one call for each matrix."""
    dialect = implementation.dialect
    n = streams_of_logits(logits.shape, dialect)
    batch = logits.shape[: -len(logits_shape(n, dialect))]
    channels = next_multiple(2, implementation.channel_multiple)
    shapes = params_shapes(n, channels, dialect)
    x = torch.ones(n, channels, dtype=_state_dtype(implementation, logits.dtype), device=logits.device)
    x[..., 0] = 2  # a norm that subtracts a mean is left with something
    results: list[Tensor] = []
    for one in logits.reshape(math.prod(batch), residual_size(n, dialect)):
        bias = torch.cat([one.new_zeros(shapes.bias[0] - len(one)), one])
        params = Params(one.new_zeros(shapes.phi), bias, one.new_ones(shapes.alpha))
        _, _, res = implementation.mappings(x, params)  # a plain tuple will do
        results.append(res)
    return torch.stack(results).reshape(*batch, n, n) if results else logits.new_zeros(*batch, n, n)


def _state_dtype(implementation: Implementation, logits: torch.dtype) -> torch.dtype:
    """The dtype of a state whose logits have that dtype: itself where it is declared, else one that is (bfloat16)."""
    declared = [getattr(torch, name) for name in dtype_names(implementation)]
    return next((one for one in (logits, *declared) if one in declared and compute_dtype(one) == logits), logits)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Leave torch.autocast, which would read the operands of matrix products in a coarser dtype, on the device of x."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class Reference(Implementation):
    """`mhc_ref` itself, in any dialect."""

    tunable = frozenset(FIELDS)
    full_range = True
    compilable = True
    autocast_safe = True

    def __init__(self, dialect: Dialect = mhc_ref.PRESETS.default, name: str = f"ref:{mhc_ref.PRESETS.first}") -> None:
        self.dialect = dialect
        self.name = name
        self.graph_capturable = mix_of(dialect).CAPTURABLE
        if (streams := accepted(dialect)) != Declared.streams:
            self.streams = streams

    def project(self, logits: Tensor) -> Tensor:
        with without_autocast(logits):
            return mhc_ref.project(logits, self.dialect)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        with without_autocast(x):
            return mhc_ref.mappings(x, params, self.dialect)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        with without_autocast(x):
            return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        with without_autocast(x):
            return mhc_ref.post(x, y, h_post, h_res, self.dialect)

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        with without_autocast(x):
            return mhc_ref.block(x, params, branch, self.dialect)

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        with without_autocast(x):
            return mhc_ref.layers(x, params, branches, self.dialect)

    def expand(self, h: Tensor, n: int) -> Tensor:
        return mhc_ref.expand(h, n, self.dialect)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        with without_autocast(x):
            return mhc_ref.collapse(x, self.dialect, params)

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        with without_autocast(h):
            return mhc_ref.stack(h, params, branches, self.dialect)

    def tuned(self, **fields: Any) -> Reference:
        return Reference(self.dialect.with_(**fields), self.name)


class Projection(Implementation):
    """A plain function logits [..., n, n] -> h_res [..., n, n] with the dialect it claims to compute."""

    dialect_given = True

    def __init__(self, function: Callable[[Tensor], Tensor], dialect: Dialect, name: str) -> None:
        self._function = function
        self.dialect = dialect
        self.name = name
        self.streams = accepted(dialect)

    def project(self, logits: Tensor) -> Tensor:
        return self._function(logits)


def dtype_names(implementation: Implementation) -> tuple[str, ...]:
    """The declared dtypes by name ("float32"), whether they were given as torch dtypes, as names, or as the aliases
    that torch has for some ("float", "double", "half"); none of them twice.

    Raises:
        TypeError: an entry that is none of them.
    """
    kind = cast(Dtypes, TABLE["dtypes"])
    try:
        return tuple(kind.told(kind.verified(implementation.dtypes)))
    except Unfit as error:
        raise TypeError(f"{implementation.name or type(implementation).__name__}.dtypes{error}") from error


def parameter_dtype(state: torch.dtype) -> torch.dtype:
    """The dtype of params and logits for a state: float64 for float64, otherwise float32."""
    return compute_dtype(state)
