"""Arithmetic that is disturbed operation by operation: by noise, and by rounding at random.

*Noise.* What rounding can make of an implementation of ours with a slip. A slip has no derived bound: that of the
declared dialect knows nothing of what the slip amplifies. So each operation that rounds, forwards and backwards, is
given operands and a result that are off by a random share of a few units of roundoff of their own dtype. To first
order, with z the operands and results and J the derivative of an output by them,

    d v = sum over z of J_z z e_z,    e_z independent, uniform within +- c u,

whose root mean square is c u / sqrt(3) times the root of sum (J_z z)^2. Roundings to nearest of another evaluation in
as many operations are within u each, so that its distance has a root mean square of at most u / sqrt(3) times the same.
The bound (`properties.causes.agreement`) is a multiple of the one that is observed. `tests/test_causes_agreement.py`
tries that it is sound, by correct implementations that compute otherwise with the same slip, and sharp, by slips next
to one another.

*Rounding at random.* Every operation is computed in float64 and its result rounded up or down, sums and products of
matrices term by term: a sample of what an evaluation with errors of 2 u may give, or the worst of them where all
roundings go one way. A derived bound with 2 u for u must hold for each (Connolly, Higham and Mary, Stochastic rounding
and its probabilistic backward error analysis, SISC 2021: |delta| < 2 u).
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


class Disturbance(TorchDispatchMode):
    """While it is on, every operation that rounds is computed by `disturbed`, and every conversion by `converted`.

    Arguments:
        seed: of what is drawn.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _MOVES:
            return func(*args, **kwargs)
        if name == "_to_copy":
            return self.converted(func, args, kwargs)
        return self.disturbed(func, name, args, kwargs)

    def disturbed(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What the operation of that name gives."""
        raise NotImplementedError

    def converted(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """What a conversion to another dtype or device gives."""
        raise NotImplementedError

    def written(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What an operation writes to; None where it is not among its arguments by place."""
        for place, one in enumerate(func._schema.arguments):
            if one.alias_info is not None and one.alias_info.is_write:
                return args[place] if place < len(args) else kwargs.get(one.name)
        return None


class Noise(Disturbance):
    """Operands and results off by a random share of a few units of roundoff.

    Arguments:
        seed: of the disturbance.
        product: the relative error of an operand of a matrix product, as declared
        (`properties.core.rounding.PRODUCTS`).
    """

    def __init__(self, seed: int, product: float = 0.0) -> None:
        super().__init__(seed)
        self._product = product

    def disturbed(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Operands and result."""
        if func._schema.is_mutable:
            written = self.written(func, args, kwargs)
            rest = tuple(one if one is written else self._disturbed(one) for one in args)
            out = func(*rest, **kwargs)
            if _rounds(written):
                written.copy_(self._disturbed(written))
            return out
        read = 2 * self._product if name in _PRODUCTS else 0.0
        out = func(*(self._disturbed(one, read) for one in args), **kwargs)
        return self._disturbed(out)

    def converted(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
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


class RandomRounding(Disturbance):
    """Float32, and what is shorter, with every result rounded up or down at random; float64 stays as it is.

    Arguments:
        seed: of the roundings.
        up: how often a result is rounded away from 0: 1/2 at random, 1 and 0 always one way, which is the worst that
            a sum of terms of one sign meets.
        opposed: names of operations that are rounded the other way: a mean of squares that is too small makes what is
            divided by its root too large, as products do that are rounded up.
    """

    def __init__(self, seed: int, up: float = 0.5, opposed: Sequence[str] = ()) -> None:
        super().__init__(seed)
        self._up, self._opposed = up, opposed
        self._now = up

    def disturbed(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The operation in float64, then rounded; term by term where it is a sum."""
        dtype = _narrow(args)
        if dtype is None:
            return func(*args, **kwargs)
        self._now = 1 - self._up if name in self._opposed else self._up
        if func._schema.is_mutable:
            written = self.written(func, args, kwargs)
            wide = [_wide(one) for one in args]
            func(*wide, **kwargs)
            place = next(k for k, one in enumerate(args) if one is written)
            return written.copy_(self.rounded(wide[place], written.dtype))
        given = [_wide(one) for one in args]
        if name in ("mm", "bmm"):
            return self._summed(given[0].unsqueeze(-1) * given[1].unsqueeze(-3), -2, dtype)
        if name in ("sum", "mean") and len(args) > 1 and isinstance(args[1], (list, tuple)) and len(args[1]) == 1:
            keep = bool(args[2]) if len(args) > 2 else bool(kwargs.get("keepdim", False))
            total = self._summed(given[0], args[1][0], dtype)
            total = self.rounded(total.double() / given[0].shape[args[1][0]], dtype) if name == "mean" else total
            return total.unsqueeze(args[1][0]) if keep else total
        if kwargs.get("dtype") in (torch.float32, torch.bfloat16, torch.float16):
            kwargs = {**kwargs, "dtype": torch.float64}
        out = func(*given, **kwargs)
        return self._narrowed(out, dtype)

    def converted(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """What is stored in a shorter dtype is rounded to either side."""
        out, given = func(*args, **kwargs), args[0]
        if _rounds(out) and given.is_floating_point() and _unit(out) > _unit(given):
            return self.rounded(given.double(), out.dtype)
        return out

    def rounded(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """Float64 numbers in `dtype`, each one of its two neighbours there, or itself."""
        nearest = value.to(dtype)
        back = nearest.double()
        below = back.abs() < value.abs()
        other = _neighbour(nearest, away=below)  # on the other side of the value
        up = torch.empty(value.shape).uniform_(generator=self._generator) < self._now
        taken = torch.where(up == below, other, nearest)
        return torch.where((back == value) | ~torch.isfinite(back) | (nearest == 0), nearest, taken)

    def _summed(self, terms: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
        """A sum, one term after the other, each of them and each partial sum rounded."""
        each = self.rounded(terms, dtype).movedim(dim, 0)
        total = each[0]
        for one in each[1:]:
            total = self.rounded(total.double() + one.double(), dtype)
        return total

    def _narrowed(self, out: Any, dtype: torch.dtype) -> Any:
        if isinstance(out, (tuple, list)):
            return type(out)(self._narrowed(one, dtype) for one in out)
        return self.rounded(out, dtype) if _rounds(out) and out.dtype == torch.float64 else out


def _neighbour(value: Tensor, away: Tensor) -> Tensor:
    """The next number of that dtype, away from 0 or towards it: by their bits numbers of one sign are ordered."""
    bits = value.view(torch.int32 if value.element_size() == 4 else torch.int16)
    return torch.where(away, bits + 1, bits - 1).to(bits.dtype).view(value.dtype)


def _narrow(args: Sequence[Any]) -> torch.dtype | None:
    """The dtype that an operation computes in where that is not float64; None where it does not round."""
    found = [one for one in args if isinstance(one, Tensor) and one.is_floating_point()]
    found += [one for arg in args if isinstance(arg, (list, tuple)) for one in arg if isinstance(one, Tensor)]
    dtypes = {one.dtype for one in found if one.is_floating_point() and one.ndim} or {one.dtype for one in found}
    if not dtypes or torch.float64 in dtypes or not any(one.numel() for one in found):
        return None
    return torch.float32 if torch.float32 in dtypes or len(dtypes) > 1 else dtypes.pop()


def _wide(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_wide(one) for one in value)
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _rounds(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _unit(value: Tensor) -> float:
    return torch.finfo(value.dtype).eps / 2
