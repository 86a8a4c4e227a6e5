"""What rounding can make of an implementation of ours: every operation of it disturbed by a few units of roundoff.

A slip has no derived bound: that of the declared dialect knows nothing of what the slip amplifies. So each operation
that rounds, forwards and backwards, is given operands and a result that are off by a random share of a few units of
roundoff of their own dtype. To first order, with z the operands and results and J the derivative of an output by them,

    d v = sum over z of J_z z e_z,    e_z independent, uniform within +- c u,

whose root mean square is c u / sqrt(3) times the root of sum (J_z z)^2. Roundings to nearest of another evaluation in
as many operations are within u each, so that its distance has a root mean square of at most u / sqrt(3) times the same.
The bound (`agreement`) is a multiple of the one that is observed. `tests/test_causes_agreement.py` tries that
it is sound, by correct implementations that compute otherwise with the same slip, and sharp, by slips next to one
another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FINE, COARSE = 8.0, 2.0
"""c in units of roundoff: of float32 and float64, in which one formula may take many more operations than another; and
of the shorter dtypes, in which less than one unit changes nothing. What is converted to one is disturbed by one unit of
it before, so that it is rounded to either side."""

_NAMES = """
view _unsafe_view reshape expand permute transpose t unsqueeze squeeze select slice split split_with_sizes unbind
detach alias clone copy_ cat stack index index_select index_put_ gather scatter where zeros_like ones_like
empty_like full_like rand_like randn_like masked_fill masked_fill_ flip abs neg sign max amax min amin maximum
minimum clamp clamp_min clamp_max constant_pad_nd as_strided fill_ zero_ new_zeros new_empty new_ones new_full zeros
ones empty full scalar_tensor arange lift_fresh select_backward slice_backward value_selecting_reduction_backward
diagonal diag tril triu sort topk relu threshold_backward roll repeat expand_copy lift_fresh_copy zero empty_strided
set_ resize_ random_ uniform_ normal_ _local_scalar_dense eq ne lt le gt ge isnan isinf isfinite isposinf isneginf
equal is_nonzero any all nonzero argmax argmin count_nonzero signbit
"""
_MOVES = frozenset(_NAMES.split())
"""Operations that give numbers that are there already, make new ones, or only compare: nothing is rounded in them."""

_PRODUCTS = frozenset(("mm", "bmm", "addmm", "baddbmm", "dot", "mv", "addmv"))


class Noise(TorchDispatchMode):
    """While it is on, every operation that rounds is disturbed.

    Arguments:
        seed: of the disturbance.
        product: the relative error of an operand of a matrix product, as declared
        (`properties.core.rounding.PRODUCTS`).
    """

    def __init__(self, seed: int, product: float = 0.0) -> None:
        super().__init__()
        self._product = product
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _MOVES:
            return func(*args, **kwargs)
        if name == "_to_copy":
            return self._converted(func, args, kwargs)
        if func._schema.is_mutable:
            written = self._written(func, args, kwargs)
            rest = tuple(one if one is written else self._disturbed(one) for one in args)
            out = func(*rest, **kwargs)
            if _rounds(written):
                written.copy_(self._disturbed(written))
            return out
        read = 2 * self._product if name in _PRODUCTS else 0.0
        out = func(*(self._disturbed(one, read) for one in args), **kwargs)
        return self._disturbed(out)

    def _written(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What an operation writes to; None where it is not among its arguments by place."""
        for place, one in enumerate(func._schema.arguments):
            if one.alias_info is not None and one.alias_info.is_write:
                return args[place] if place < len(args) else kwargs.get(one.name)
        return None

    def _converted(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """What is stored in a shorter dtype is rounded, and so disturbed before; what is only widened is not."""
        out, given = func(*args, **kwargs), args[0]
        if not (_rounds(out) and given.is_floating_point() and _unit(out) > _unit(given)):
            return out
        return func(self._disturbed(given, _unit(out)), *args[1:], **kwargs)

    def _disturbed(self, value: Any, least: float = 0.0) -> Any:
        """A value, or every one of several, off by a random share of some units of roundoff, or of `least`."""
        if isinstance(value, (tuple, list)):
            return type(value)(self._disturbed(one, least) for one in value)
        if not _rounds(value):
            return value
        size = (FINE if value.dtype in (torch.float32, torch.float64) else COARSE) * _unit(value)
        size = max(size, least)
        shares = torch.empty(value.shape, dtype=value.dtype).uniform_(-1, 1, generator=self._generator)
        return torch.addcmul(value, value, shares.to(value.device), value=size)


def _rounds(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _unit(value: Tensor) -> float:
    return torch.finfo(value.dtype).eps / 2
