"""Whether what somebody returned is a plain tensor: dense, real, with values, of no class that computes otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

_TORCH: Any = torch  # what it tells about its own wrappers has no public name


def oddity(got: Any) -> str | None:
    """What it is, in words, where it is no plain tensor; None where it is one.

    It is asked in an order in which nothing raises: a nested tensor has no shape, and a lazy one not even a dtype.
    """
    kind = type(got)  # isinstance believes a __class__ that lies
    if not issubclass(kind, Tensor):
        return kind.__name__
    if is_lazy(got):
        return f"{kind.__name__}, a parameter without a shape"
    if (
        getattr(kind, "__torch_dispatch__", None) is not _TORCH.Tensor.__torch_dispatch__
    ):  # FakeTensor, MaskedTensor, DTensor, ...
        return f"{kind.__name__}, a subclass of torch.Tensor that computes by rules of its own"
    bare = plain(got)
    if bare.is_nested:
        return "a nested tensor"
    if bare.layout is not torch.strided:
        return f"a tensor of layout {bare.layout}, which is not dense"
    if bare.is_quantized:
        return f"a quantised tensor ({bare.dtype})"
    if bare.is_meta:
        return "on meta: it has a shape and no values"
    names: tuple[str | None, ...] = getattr(bare, "names", ())  # gone from torch 2.13
    if any(name is not None for name in names):
        return f"a tensor with named dimensions {names}"
    if _TORCH._is_functional_tensor(bare) or _TORCH._C._functorch.is_functorch_wrapped_tensor(bare):
        return "a wrapper of torch.func that outlived its transform"
    if bare.numel() and _reach(bare) > bare.untyped_storage().nbytes():  # to read it would be to read beyond it
        return "a tensor whose storage was freed or cut"
    return None


def _reach(tensor: Tensor) -> int:
    """How many bytes of its storage it needs."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int((tensor.storage_offset() + last + 1) * tensor.element_size())


def plain(got: Tensor) -> Tensor:
    """The tensor that `oddity` finds nothing odd about, as a torch.Tensor, without the subclass that it may have."""
    if type(got) is Tensor:
        return got
    with _TORCH._C.DisableTorchFunctionSubclass():  # a stranger's subclass has no say in what it is
        return Tensor.as_subclass(got, Tensor)
