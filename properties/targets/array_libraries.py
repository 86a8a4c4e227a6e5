"""The libraries of arrays: NumPy, JAX, MLX, or any module that speaks DLPack; tensors as their arrays, and back.

A library is imported when it is chosen, and neither JAX nor MLX is a dependency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from properties.guards.printable import shown

Function = Callable[..., Any]


class Library(Protocol):
    """How tensors become arrays of a library, and back.

    Attributes:
        dtypes: the dtypes of the state that it has.
        differentiable: it has a vjp.
        strided: its arrays can be views that are not contiguous.
    """

    dtypes: tuple[torch.dtype, ...]
    differentiable: bool
    strided: bool

    def given(self, tensor: Tensor) -> Any:
        """The same numbers as an array."""
        ...

    def taken(self, array: Any) -> Tensor:
        """The same numbers as a tensor.

        Raises:
            TypeError: no array of this library.
        """
        ...

    def pulled(self, function: Function, arrays: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
        """The gradient by each of `arrays` of a function of arrays that returns a list of arrays."""
        ...


class NumPy:
    """Arrays that share memory with the tensors, strides included: a function that writes to its input is seen."""

    dtypes = (torch.float64, torch.float32)  # no bfloat16
    differentiable = False
    strided = True

    def __init__(self) -> None:
        self._np: Any = import_module("numpy")

    def given(self, tensor: Tensor) -> Any:
        return tensor.detach().cpu().numpy()

    def taken(self, array: Any) -> Tensor:
        if not isinstance(array, (self._np.ndarray, self._np.generic)):
            raise TypeError(f"the function returned {type(array).__name__}; expected a NumPy array")
        plain = self._np.asarray(array)
        # Shared where torch can share it: a buffer that the function writes again is seen, too.
        shared = plain.flags.writeable and all(stride >= 0 for stride in plain.strides)
        return torch.from_numpy(plain if shared else plain.copy())

    def pulled(self, function: Function, arrays: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
        raise TypeError("NumPy functions have no vjp")


class Jax:
    """Arrays by DLPack, gradients by `jax.vjp`. float64 is declared where jax_enable_x64 is on."""

    differentiable = True
    strided = False  # arrays are handed over in row-major order

    def __init__(self) -> None:
        self._jax: Any = import_module("jax")
        self._dlpack: Any = import_module("jax.dlpack")
        wide = (torch.float64,) if self._jax.config.jax_enable_x64 else ()
        self.dtypes = (*wide, torch.float32, torch.bfloat16)

    def given(self, tensor: Tensor) -> Any:
        # A copy: jax takes its arrays to be immutable, and the tensor is not.
        return self._dlpack.from_dlpack(tensor.detach().clone(memory_format=torch.contiguous_format))

    def taken(self, array: Any) -> Tensor:
        if not isinstance(array, self._jax.Array):
            raise TypeError(f"the function returned {type(array).__name__}; expected a jax.Array")
        return torch.from_dlpack(array).clone()

    def pulled(self, function: Function, arrays: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
        return self._jax.vjp(function, *arrays)[1](list(cotangents))


class Mlx:
    """Arrays by copies through NumPy, bfloat16 as its bits, gradients by `mx.vjp`. float64 is not declared."""

    dtypes = (torch.float32, torch.bfloat16)
    differentiable = True
    strided = False

    def __init__(self) -> None:
        self._mx: Any = import_module("mlx.core")
        self._np: Any = import_module("numpy")

    def given(self, tensor: Tensor) -> Any:
        plain = tensor.detach().cpu().contiguous()
        if plain.dtype == torch.bfloat16:
            return self._mx.array(plain.view(torch.uint16).numpy()).view(self._mx.bfloat16)
        return self._mx.array(plain.numpy())

    def taken(self, array: Any) -> Tensor:
        if not isinstance(array, self._mx.array):
            raise TypeError(f"the function returned {type(array).__name__}; expected an mlx.core.array")
        if array.dtype == self._mx.bfloat16:
            return torch.from_numpy(self._np.array(array.view(self._mx.uint16))).view(torch.bfloat16)
        return torch.from_numpy(self._np.array(array))

    def pulled(self, function: Function, arrays: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
        return self._mx.vjp(function, list(arrays), list(cotangents))[1]


class DLPack:
    """Any module with `from_dlpack` whose arrays have `__dlpack__`; on whatever device the tensor is."""

    dtypes = (torch.float64, torch.float32)
    differentiable = False
    strided = True

    def __init__(self, module: ModuleType) -> None:
        self._module: Any = module

    def given(self, tensor: Tensor) -> Any:
        return self._module.from_dlpack(tensor.detach())

    def taken(self, array: Any) -> Tensor:
        if not hasattr(array, "__dlpack__"):
            raise TypeError(f"the function returned {type(array).__name__}; expected an array with __dlpack__")
        return torch.from_dlpack(array).clone()

    def pulled(self, function: Function, arrays: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
        raise TypeError(f"functions of {self._module.__name__} have no vjp here")


LIBRARIES: dict[str, Callable[[], Library]] = {"numpy": NumPy, "jax": Jax, "mlx": Mlx}
"""What `from_arrays` knows by name."""


def library(chosen: str | ModuleType | Library) -> Library:
    """A library by its name, a module with `from_dlpack`, or one's own.

    Raises:
        ValueError: a name or a module that is none.
        TypeError: something else that is none.
        ImportError: it is not installed.
    """
    if isinstance(chosen, str):
        if chosen not in LIBRARIES:
            raise ValueError(
                f"there is no array library {chosen!r}; expected {', '.join(LIBRARIES)}, or a module with from_dlpack"
            )
        return LIBRARIES[chosen]()
    if isinstance(chosen, ModuleType):
        known = chosen.__name__.removesuffix(".numpy").removesuffix(".core")
        if known in LIBRARIES:
            return LIBRARIES[known]()
        if not hasattr(chosen, "from_dlpack"):
            raise ValueError(f"{chosen.__name__} has no from_dlpack, through which tensors could become its arrays")
        return DLPack(chosen)
    if not all(hasattr(chosen, name) for name in ("dtypes", "differentiable", "strided", "given", "taken", "pulled")):
        raise TypeError(
            f"arrays is {shown(chosen)}; expected {', '.join(LIBRARIES)}, a module with from_dlpack, or a Library: see "
            "properties.arrays.Library"
        )
    return chosen
