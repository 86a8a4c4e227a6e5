"""What an implementation offers, and what can be derived from what it offers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Dialect, Mappings, Params
from mhc_ref.dialect import FIELDS
from mhc_ref.projection import compute_dtype, logits_shape, most_streams, residual_size, streams_of_logits
from mhc_ref.stack import streams_of
from properties.guards.printable import shown

Mixing = Literal["compute", "state"]
Products = Literal["compute", "tf32", "tf32-truncated"]

METHODS = ("project", "mappings", "pre", "post", "block", "layers", "expand", "collapse", "stack")
"""Everything an implementation can offer, in the order of the mathematics."""

# method -> the alternatives from which it can be derived, each a set of methods that must all be offered
_DERIVATIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "project": (("mappings",),),
    "block": (("mappings", "pre", "post"), ("layers",)),
    "layers": (("block",),),
    "stack": (("layers",),),
}


class Absent(NotImplementedError):
    """The implementation neither offers a method nor anything it can be derived from."""


class Implementation:
    """Somebody's hyper-connections. Override what you have; what is missing is derived, or absent and counted as such.

    States are [..., n, C] and may have any number of token axes, none included. `params` are `mhc_ref.Params`
    (packing: phi [n*C, 2n+R], columns pre | post | res row-major), float64 for float64 states and float32 otherwise,
    and so are logits. A branch is a callable [..., C] -> [..., C] in the dtype of the state.

    Attributes:
        name: stands in reports and test ids; the class name if left empty.
        dialect: the declared choices; what is computed is judged against them.
        streams: the n that are accepted.
        dtypes: the dtypes of the state that are accepted (torch dtypes or their names).
        tunable: names of the `Dialect` fields that `tuned` can change.
        emits: which of the three mappings `mappings` returns; the others are None in what it returns.
        differentiable: the outputs carry gradients through autograd.
        deterministic: the same call on the same storage gives the same bits.
        full_range: logits whose exponentials underflow are handled as exact arithmetic would (log domain). The literal
            formula exp(Z - max) loses a line of entries below the smallest float; without this flag nothing is
            asserted there.
        norm_weight: params may carry a norm weight.
        least_scale: no state is drawn smaller than an ordinary one by more than this factor: for a norm that clamps
            tiny states instead of adding an eps.
        zero_tokens: calls without a single token are accepted.
        strided: states and logits may be views that are not contiguous.
        mixing: ``compute``: h_post, h_res and every sum of the residual path stay in the compute dtype, as the default
            contract says; ``state``: they are rounded to the dtype of the state, as transformers' decoder layers do.
        products: ``compute``: matrix products (by phi, by h_pre, by h_res, of the permutation mixture, and backwards)
            read their operands in the compute dtype; ``tf32``: float32 operands are rounded to TensorFloat-32 first;
            ``tf32-truncated``: cut to it. Torch's own switch is set to what is declared while the implementation is
            called. Sinkhorn's sums are no matrix products.
        channel_multiple: the number of channels is a multiple of it, as kernels ask that read so many at once.
        max_tokens: tokens a call, by default any number; slow targets (a Triton interpreter) state a small one.
        devices: the types of device that it computes on.
        batch_invariant: a token's result has the same bits in whatever batch it is computed.
        graph_capturable: `block` under no_grad can be captured in a CUDA graph after a warm-up.
        compilable: `block` keeps its promises under torch.compile.
        autocast_safe: the precision contract holds under torch.autocast.
        in_process: it computes in this process, under its streams, its allocator and its modes.
    """

    name: str = ""
    dialect: Dialect = mhc_ref.PAPER
    streams: Sequence[int] = (1, 2, 3, 4, 5, 8)
    dtypes: Sequence[Any] = (torch.float64, torch.float32, torch.bfloat16)
    tunable: frozenset[str] = frozenset()
    emits: Sequence[str] = ("pre", "post", "res")
    differentiable: bool = True
    deterministic: bool = True
    full_range: bool = False
    norm_weight: bool = True
    least_scale: float = 0.0
    zero_tokens: bool = True
    strided: bool = True
    mixing: Mixing = "compute"
    products: Products = "compute"
    channel_multiple: int = 1
    max_tokens: int = 2**40
    devices: Sequence[str] = ("cpu", "cuda")
    batch_invariant: bool = False
    graph_capturable: bool = False
    compilable: bool = False
    autocast_safe: bool = False
    in_process: bool = True

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
        """[..., n, C], [..., n] -> the branch input [..., C]."""
        raise Absent("pre: not offered")

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        """[..., n, C], [..., C], [..., n], [..., n, n] -> A x + h_post^T y [..., n, C]."""
        raise Absent("post: not offered")

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        """One block: [..., n, C] -> [..., n, C]."""
        if all(overrides(self, part) for part in ("mappings", "pre", "post")):
            h_pre, h_post, h_res = self.mappings(x, params)
            return self.post(x, branch(self.pre(x, h_pre)), h_post, h_res)
        if overrides(self, "layers"):
            return self.layers(x, [params], [branch])
        raise Absent("block: neither block, nor mappings with pre and post, nor layers is offered")

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        """L blocks on persistent streams: [..., n, C] -> [..., n, C], no expand, no collapse."""
        for one, branch in zip(params, branches, strict=True):
            x = self.block(x, one, branch)
        return x

    def expand(self, h: Tensor, n: int) -> Tensor:
        """[..., C] -> [..., n, C]; as the dialect declares where it is not overridden."""
        return mhc_ref.expand(h, n)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        """[..., n, C] -> [..., C]; as the dialect declares where it is not overridden. `params` are a head's."""
        return mhc_ref.collapse(x, self.dialect, params)

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        """expand, layers, collapse: [..., C] -> [..., C]. With collapse='head' params has one entry more, the
        head's."""
        x = self.expand(h, streams_of(params[0], self.dialect))
        x = self.layers(x, params[: len(branches)], branches)
        return self.collapse(x, params[len(branches)] if len(params) > len(branches) else None)

    def tuned(self, **fields: Any) -> Implementation:
        """The same implementation with other values of the dialect fields named in `tunable`."""
        raise Absent(f"tuned: {sorted(fields)} cannot be changed; `tunable` is {sorted(self.tunable)}")


def overrides(implementation: Implementation, method: str) -> bool:
    """Whether a method is the implementation's own."""
    found = getattr(implementation, method, None)
    return callable(found) and getattr(found, "__func__", found) is not getattr(Implementation, method)


def offers(implementation: Implementation) -> dict[str, str]:
    """method -> "own", or "derived from ..."; methods that are absent are not in it."""
    found = {method: "own" for method in METHODS if overrides(implementation, method)}
    changed = True
    while changed:
        changed = False
        for method, alternatives in _DERIVATIONS.items():
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
    axes = len(logits_shape(n, dialect))
    batch = logits.shape[:-axes]
    flat = logits.reshape(math.prod(batch), *logits.shape[-axes:])
    channels = 2
    rows, columns = (
        (channels, 2 + n) if dialect.shared_projection else (n * channels, 2 * n + residual_size(n, dialect))
    )
    x = torch.ones(n, channels, dtype=_state_dtype(implementation, logits.dtype), device=logits.device)
    results: list[Tensor] = []
    for one in flat:
        bias = torch.cat([one.new_zeros(2 * n), one.flatten()])
        params = Params(one.new_zeros(rows, columns), bias, one.new_ones(3))
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

    def __init__(self, dialect: Dialect = mhc_ref.PAPER, name: str = "ref:PAPER") -> None:
        self.dialect = dialect
        self.name = name
        # The permutation matrices are made on the CPU.
        self.graph_capturable = dialect.residual != "permutations"
        if dialect.residual == "permutations":
            self.streams = (1, 2, 3, 4, 5)

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
        return mhc_ref.expand(h, n)

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
        if (most := most_streams(dialect)) is not None:
            self.streams = tuple(range(1, most + 1))

    def project(self, logits: Tensor) -> Tensor:
        return self._function(logits)


def next_multiple(channels: int, multiple: int) -> int:
    """So many channels, or the next number above that a `channel_multiple` accepts."""
    return -(-channels // multiple) * multiple


VERIFIED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The dtypes of a state for which there are bounds."""


def dtype_names(implementation: Implementation) -> tuple[str, ...]:
    """The declared dtypes by name ("float32"), whether they were given as torch dtypes, as names, or as the aliases
    that torch has for some ("float", "double", "half"); none of them twice.

    Raises:
        TypeError: an entry that is none of them.
    """
    names: list[str] = []
    for entry in implementation.dtypes:
        dtype = dtype_of(entry)
        if dtype is None or not dtype.is_floating_point:
            holder = implementation.name or type(implementation).__name__
            raise TypeError(f"{holder}.dtypes contains {shown(entry)}; expected floating torch dtypes or their names")
        if dtype not in VERIFIED:
            verified = ", ".join(str(one) for one in VERIFIED)
            raise TypeError(f".dtypes contains {shown(entry)}; states are verified in {verified}")
        names.append(str(dtype).removeprefix("torch."))
    return tuple(dict.fromkeys(names))


def dtype_of(entry: object) -> torch.dtype | None:
    """The dtype that a torch dtype, a NumPy one or a name means; None where it means none."""
    if isinstance(entry, torch.dtype):
        return entry
    named = isinstance(entry, str) or type(entry).__module__.partition(".")[0] == "numpy"
    found = getattr(torch, str(entry).removeprefix("torch."), None) if named else None
    return found if isinstance(found, torch.dtype) else None


def parameter_dtype(state: torch.dtype) -> torch.dtype:
    """The dtype of params and logits for a state: float64 for float64, otherwise float32."""
    return compute_dtype(state)
