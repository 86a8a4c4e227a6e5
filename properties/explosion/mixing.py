"""What turns logits into applied operators: a dialect of the reference, or somebody's implementation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PRESETS, Dialect
from mhc_ref.exact import Exact
from mhc_ref.packing import logits_shape, streams_of_logits, streams_up_to
from mhc_ref.registry import outside
from properties.core.family import mix_of
from properties.core.implementation import Implementation, dtype_names, offers, parameter_dtype
from properties.core.slips import some_streams
from properties.explosion import whole
from properties.explosion.composite import DIGITS, Matrix, fraction
from properties.explosion.configurations import exactly, tensor
from properties.explosion.options import DTYPES
from properties.guards.faults import TargetFault, answered
from properties.targets.target import TargetError, resolve


@dataclass(frozen=True)
class Mixing:
    """Logits [..., *shape] in float64 to operators [..., n, n] in float64, and stacks [L, *shape] to exact ones.

    The shape of the logits of n streams is what the mix of `dialect` says. `exact` is what decides: of a dialect 50
    digits from mpmath, of an implementation the numbers that it returned. `streams` are the n that are accepted, None
    for all. `irrational`: what is exact was rounded to those 50 digits.
    """

    dialect: Dialect
    operators: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], tuple[Matrix, ...]]
    streams: Sequence[int] | None = None
    irrational: bool = False
    dtypes: tuple[str, ...] | None = None
    """The dtypes that an implementation declares, and that a search can be asked in; the one that is used first."""
    bound: float | None = None
    """What logits are within; operators of larger ones are zeros, so that a search looks elsewhere."""
    words: str = ""
    """How the matrices of an implementation are seen, where it shows none by itself."""

    def accepted(self, most: int) -> list[int]:
        """The numbers of streams up to `most` that are accepted, and that the mix is for."""
        return [n for n in streams_up_to(most, self.dialect) if self.streams is None or n in self.streams]

    def shape(self, n: int) -> tuple[int, ...]:
        """Of the logits of n streams."""
        return tuple(mix_of(self.dialect).shape(n, self.dialect))

    def zeros(self, depth: int, n: int) -> Tensor:
        """Logits of 0, [depth, *shape]."""
        return torch.zeros(depth, *self.shape(n), dtype=torch.float64)


def stored_in(dtype: str, mixing: Mixing) -> Mixing:
    """The mixing whose matrices are stored in a dtype: rounded to float64 first, then to that."""
    storage: torch.dtype = getattr(torch, dtype)

    def exact(logits: Tensor) -> tuple[Matrix, ...]:
        return exactly(tensor(mixing.exact(logits)).to(storage))

    def operators(logits: Tensor) -> Tensor:
        return mixing.operators(logits).to(storage).double()

    return replace(mixing, operators=operators, exact=exact, irrational=False)


def of_dialect(dialect: Dialect) -> Mixing:
    """The mixing that a dialect describes, by the formulas of its mix.

    Of both, operators and exact ones, properties.targets.target.TargetError: a mix from outside raised, or what it
    returned are no matrices.
    """
    asked = _asked_outside if outside("mix", dialect.residual) else _asked_own

    def operators(logits: Tensor) -> Tensor:
        emitted = asked(dialect, lambda: mhc_ref.project(logits, dialect))
        return emitted.mT if dialect.transposed else emitted

    def exact(logits: Tensor) -> tuple[Matrix, ...]:
        return asked(dialect, lambda: _exactly(logits, dialect))

    return Mixing(dialect, operators, exact, irrational=True)


def _asked_own(dialect: Dialect, call: Callable[[], Any]) -> Any:
    return call()


def _asked_outside(dialect: Dialect, call: Callable[[], Any]) -> Any:
    """What formulas of somebody else give."""
    try:
        return answered(call)
    except TargetFault as fault:
        raise TargetError(f"the mix {dialect.residual!r}: its formula raised {fault}") from fault.error


def of_target(
    target: str,
    dtype: str,
    find: Callable[..., Implementation] | None = None,
    claimed: Dialect | None = None,
    bound: Fraction | None = None,
) -> Mixing:
    """The mixing of an implementation, for states of `dtype` ("": the first that it declares, float64 if it does).

    A matrix that is not finite counts as zeros, so that the search looks elsewhere: gains are asked for, and whether
    finite logits may give such a matrix is a law's question.

    Args:
        target: as for --impl.
        dtype: of the states; logits are float64 for float64, otherwise float32.
        find: resolves a target, `properties.targets.target.resolve` by default.
        claimed: what a plain function claims to compute.
        bound: of logits that are the mixing itself.

    Raises:
        ValueError: the implementation offers neither a projection nor blocks, or those of a kind that is not searched;
            or `claimed` has no effect, as it declares a dialect itself; or `bound` is missing, or has no effect.
        properties.targets.target.TargetError: the target cannot be resolved, or raised when it was called, or what it
            returned are no matrices.
    """
    implementation = (find or resolve)(target, None if claimed is None else _preset_like(claimed))
    dialect = implementation.dialect
    if claimed is not None and implementation.dialect_given:
        dialect = claimed
    elif claimed is not None and find is None:
        raise ValueError(
            f"dialect is given, and has no effect: {target} declares what it computes; it is for plain functions"
        )
    mix = mix_of(dialect)
    free = mix.asked_as != "mhc"
    if free and bound is None:
        raise ValueError(
            f"{target} declares residual={dialect.residual!r}: its logits are its mixing, so that one sub-layer "
            f"reaches every threshold; expected entry_bound, within which they are searched (family {mix.asked_as} "
            "says what the best of them do)"
        )
    if not free and bound is not None:
        raise ValueError(
            f"entry_bound is given, and has no effect: {target} declares residual={dialect.residual!r}, whose logits "
            "are of any size"
        )
    if not math.prod(mix.shape(some_streams(dialect), dialect)):
        raise ValueError(
            f"{target} declares a mixing without logits: {mix.words}. There is nothing to search; family mhc says what "
            "such stacks do"
        )
    offered = offers(implementation)
    if "project" not in offered and "block" not in offered:
        raise ValueError(
            f"{target} offers no projection of logits, no block and no layers, one of which the search needs"
        )
    declared = tuple(one for one in DTYPES if one in dtype_names(implementation))
    used = dtype or next(iter(declared), "float64")
    parameters = parameter_dtype(getattr(torch, used))
    most = None if bound is None else _below(bound, parameters)

    def operators(logits: Tensor) -> Tensor:
        if "project" in offered:
            emitted = _emitted(implementation, target, logits.to(parameters), "project", implementation.project)
            applied = emitted.mT if dialect.transposed else emitted
        else:
            blocks = functools.partial(whole.applied, implementation, dtype=getattr(torch, used))
            applied = _emitted(implementation, target, logits.to(parameters), "block", blocks)
        usable = applied.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        if most is not None:
            usable &= (logits.abs() <= most).all(-1, keepdim=True).all(-2, keepdim=True)
        return torch.where(usable, applied, 0.0)

    def exact(logits: Tensor) -> tuple[Matrix, ...]:
        return exactly(operators(logits))

    first = (used, *(one for one in declared if one != used)) if used in declared else declared
    words = "" if "project" in offered else whole.WORDS
    return Mixing(dialect, operators, exact, tuple(implementation.streams), dtypes=first, bound=most, words=words)


def _below(bound: Fraction, dtype: torch.dtype) -> float:
    """The largest number of a dtype that is not above the bound."""
    nearest = torch.tensor(float(bound), dtype=dtype)
    if Fraction(nearest.item()) > bound:
        nearest = nearest.nextafter(torch.zeros((), dtype=dtype))
    return nearest.item()


def _emitted(
    implementation: Implementation, target: str, logits: Tensor, method: str, call: Callable[[Tensor], Tensor]
) -> Tensor:
    """What an implementation makes of logits [..., n, n] by a call of `method`, in float64."""

    def project() -> Tensor:
        with torch.no_grad():
            return call(logits.clone())

    shown = f"logits {tuple(logits.shape)} in {str(logits.dtype).removeprefix('torch.')}"
    try:
        emitted = answered(project)
    except TargetFault as fault:
        raise TargetError(f"{target}: {method} raised {fault} for {shown}") from fault.error
    if not isinstance(emitted, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TargetError(f"{target}: {method} returned {type(emitted).__name__} for {shown}; expected a tensor")
    n = streams_of_logits(logits.shape, implementation.dialect)
    expected = (*logits.shape[: logits.ndim - len(logits_shape(n, implementation.dialect))], n, n)
    if emitted.shape != expected or emitted.is_complex() or emitted.layout != torch.strided or emitted.is_meta:
        what = f"{emitted.dtype} {tuple(emitted.shape)} on {emitted.device}, {emitted.layout}"
        raise TargetError(f"{target}: {method} returned {what} for {shown}; expected real numbers of shape {expected}")
    return emitted.detach().to("cpu", torch.float64)


def _preset_like(dialect: Dialect) -> str:
    """The preset of a dialect, or one of the same orientation: only that is read of it before `claimed` takes over."""
    exactly = [name for name, one in PRESETS.items() if one == dialect]
    like = (dialect.residual, dialect.transposed)
    alike = [name for name, one in PRESETS.items() if (one.residual, one.transposed) == like]
    return (exactly + alike + [PRESETS.first])[0]


def _exactly(logits: Tensor, dialect: Dialect) -> tuple[Matrix, ...]:
    oracle = Exact(dialect, digits=DIGITS)
    found: dict[str, Matrix] = {}
    for one in logits.tolist():
        if str(one) not in found:
            emitted = oracle.project(one)
            rows = zip(*emitted, strict=True) if dialect.transposed else emitted
            found[str(one)] = tuple(tuple(fraction(oracle.mp.mpf(entry)) for entry in row) for row in rows)
    return tuple(found[str(one)] for one in logits.tolist())
