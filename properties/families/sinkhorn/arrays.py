"""The few functions of arrays that the divisions need: numpy's on the CPU, torch's on a device.

A matrix is so small that numpy, whose calls are cheaper, is several times quicker than torch for one case; thousands of
tokens on a GPU are torch's. Both are written in one form, and a test compares them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float64]]
"""Numbers in float64: numpy's, or a tensor on a device that has the operators of one."""
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class _Torch:
    """The functions by numpy's names, of tensors in float64; what numpy takes as a number may be one here too."""

    concatenate = staticmethod(torch.cat)
    stack = staticmethod(torch.stack)
    abs = staticmethod(torch.abs)
    exp = staticmethod(torch.exp)
    expm1 = staticmethod(torch.expm1)
    log = staticmethod(torch.log)
    log1p = staticmethod(torch.log1p)
    where = staticmethod(torch.where)
    isinf = staticmethod(torch.isinf)
    isfinite = staticmethod(torch.isfinite)
    isnan = staticmethod(torch.isnan)
    logical_or = staticmethod(torch.logical_or)
    add = staticmethod(torch.add)
    subtract = staticmethod(torch.subtract)
    multiply = staticmethod(torch.multiply)
    zeros_like = staticmethod(torch.zeros_like)
    ones_like = staticmethod(torch.ones_like)
    empty_like = staticmethod(torch.empty_like)
    einsum = staticmethod(torch.einsum)
    swapaxes = staticmethod(torch.swapaxes)
    numbers = 2**27
    """How many numbers one pass may hold: a GiB."""

    @staticmethod
    def _of(x: Tensor, other: Any) -> Tensor:
        return other if isinstance(other, Tensor) else x.new_full((), other)

    @classmethod
    def fmin(cls, x: Tensor, other: Any, out: Tensor | None = None) -> Tensor:
        return torch.fmin(x, cls._of(x, other), out=out)

    @classmethod
    def maximum(cls, x: Tensor, other: Any, out: Tensor | None = None) -> Tensor:
        return torch.maximum(x, cls._of(x, other), out=out)

    @classmethod
    def minimum(cls, x: Tensor, other: Any, out: Tensor | None = None) -> Tensor:
        return torch.minimum(x, cls._of(x, other), out=out)

    @classmethod
    def logaddexp(cls, x: Tensor, other: Any, out: Tensor | None = None) -> Tensor:
        return torch.logaddexp(x, cls._of(x, other), out=out)

    @staticmethod
    def total(x: Tensor, axes: Any, keepdims: bool = False) -> Tensor:
        return x.sum(axes, keepdim=keepdims)

    @staticmethod
    def most(x: Tensor, axes: Any, keepdims: bool = False) -> Tensor:
        return x.amax(axes, keepdim=keepdims)

    @staticmethod
    def least(x: Tensor, axes: Any, keepdims: bool = False) -> Tensor:
        return x.amin(axes, keepdim=keepdims)

    @staticmethod
    def any(x: Tensor, axes: Any) -> Tensor:
        return x.any(axes)

    @staticmethod
    def accumulated(x: Tensor) -> Tensor:
        """The sums from the first on, along the first axis."""
        return x.cumsum(0)

    @staticmethod
    def lowest(x: Tensor) -> Tensor:
        """The smallest from the first on, along the first axis."""
        return x.cummin(0).values

    @staticmethod
    def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_empty(shape)

    @staticmethod
    def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_zeros(shape)

    @staticmethod
    def ones(shape: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_ones(shape)

    @staticmethod
    def eye(n: int, like: Tensor) -> Tensor:
        return torch.eye(n, dtype=like.dtype, device=like.device)

    @staticmethod
    def floats(x: Tensor) -> Tensor:
        return x.double()


class _Numpy:
    """The same of numpy's arrays."""

    concatenate = staticmethod(np.concatenate)
    stack = staticmethod(np.stack)
    abs = np.abs
    exp = np.exp
    expm1 = np.expm1
    log = np.log
    log1p = np.log1p
    where = staticmethod(np.where)
    isinf = np.isinf
    isfinite = np.isfinite
    isnan = np.isnan
    logical_or = np.logical_or
    add = np.add
    subtract = np.subtract
    multiply = np.multiply
    fmin = np.fmin
    maximum = np.maximum
    minimum = np.minimum
    logaddexp = np.logaddexp
    zeros_like = staticmethod(np.zeros_like)
    ones_like = staticmethod(np.ones_like)
    empty_like = staticmethod(np.empty_like)
    einsum = staticmethod(np.einsum)
    swapaxes = staticmethod(np.swapaxes)
    numbers = 2**20
    """A few MB, which the caches hold."""

    @staticmethod
    def total(x: Array, axes: Any, keepdims: bool = False) -> Any:
        return np.add.reduce(x, axes, keepdims=keepdims)

    @staticmethod
    def most(x: Array, axes: Any, keepdims: bool = False) -> Any:
        return np.maximum.reduce(x, axes, keepdims=keepdims)

    @staticmethod
    def least(x: Array, axes: Any, keepdims: bool = False) -> Any:
        return np.minimum.reduce(x, axes, keepdims=keepdims)

    @staticmethod
    def any(x: Flags, axes: Any) -> Any:
        return np.logical_or.reduce(x, axes)

    @staticmethod
    def accumulated(x: Array) -> Array:
        return np.add.accumulate(x, 0)

    @staticmethod
    def lowest(x: Array) -> Array:
        return np.minimum.accumulate(x, 0)

    @staticmethod
    def empty(shape: tuple[int, ...], like: Array) -> Array:
        return np.empty(shape)

    @staticmethod
    def zeros(shape: tuple[int, ...], like: Array) -> Array:
        return np.zeros(shape)

    @staticmethod
    def ones(shape: tuple[int, ...], like: Array) -> Array:
        return np.ones(shape)

    @staticmethod
    def eye(n: int, like: Array) -> Array:
        return np.eye(n)

    @staticmethod
    def floats(x: Flags) -> Array:
        return x.astype(np.float64)


class _How(threading.local):
    in_torch: bool = False


_how = _How()


@contextlib.contextmanager
def as_on_a_device() -> Generator[None]:
    """Everything in torch, on the CPU too: what a device would be asked to do can be counted, and compared."""
    before, _how.in_torch = _how.in_torch, True
    try:
        yield
    finally:
        _how.in_torch = before


def functions_of(x: Any) -> Any:
    """The functions for arrays of this kind."""
    return _Torch if isinstance(x, Tensor) else _Numpy


def as_arrays(*tensors: Tensor) -> tuple[Any, ...]:
    """The numbers of some tensors: numpy's on the CPU, themselves on a device."""
    if tensors[0].device.type != "cpu" or _how.in_torch:
        return tensors
    return tuple(one.numpy() for one in tensors)


def as_tensor(x: Any) -> Tensor:
    """The tensor of some numbers, see `as_arrays`."""
    return x if isinstance(x, Tensor) else torch.from_numpy(x)
