"""Functions of NumPy, JAX, MLX or DLPack arrays as an implementation.

    # mine.py
    import numpy as np
    from mhc_ref import PAPER
    from properties.arrays import from_arrays

    def sinkhorn(logits): ...                     # [..., n, n] -> [..., n, n]

    target = from_arrays("numpy", project=sinkhorn, dialect=PAPER)

    $ mhc-properties check mine.py:target

JAX and MLX functions are differentiated by their own vjp; NumPy has none, so that gradient laws are counted as not
applicable. A library is imported when it is chosen, and neither JAX nor MLX is a dependency. The laws try many shapes:
a function under `jax.jit` is compiled for each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from properties.implementation import Implementation
from properties.tokens import Parts, with_token_axes

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
        ValueError: none of them.
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
    return chosen


def from_arrays(
    arrays: str | ModuleType | Library,
    *,
    dialect: Dialect,
    project: Function | None = None,
    mappings: Function | None = None,
    pre: Function | None = None,
    post: Function | None = None,
    tune: Callable[[Dialect], dict[str, Any]] | None = None,
    token_axes: int | None = None,
    **limits: Any,
) -> Implementation:
    """An implementation made of functions of arrays.

    Args:
        arrays: "numpy", "jax" or "mlx", or a module with `from_dlpack`.
        project: logits [..., n, n] -> h_res.
        mappings: x [..., n, C], phi, bias, alpha -> (pre, post, res); norm_weight as a fifth argument with
            `norm_weight=True`. What it does not emit is None.
        pre: x, h_pre -> the branch input [..., C].
        post: x, y, h_post, h_res -> the next state [..., n, C].
        tune: keyword arguments for every function, of the dialect that is asked for; with `tunable` among the limits.
        token_axes: how many token axes the functions take; None: any.
        limits: other attributes of `Implementation`, such as name, streams, dtypes, tunable, full_range.

    Raises:
        TypeError: no function at all, or a limit that is none.
    """
    functions = {
        name: function
        for name, function in (("project", project), ("mappings", mappings), ("pre", pre), ("post", post))
        if function is not None
    }
    if not functions:
        raise TypeError("from_arrays was given no function; expected some of project, mappings, pre, post")
    strange = sorted(set(limits) - set(Implementation.__annotations__))
    if strange:
        raise TypeError(f"from_arrays: {', '.join(strange)} is no attribute of Implementation")
    kind = library(arrays)
    declared = {
        "dtypes": kind.dtypes,
        "differentiable": kind.differentiable,
        "strided": kind.strided,
        "norm_weight": False,
        "zero_tokens": token_axes != 0,
        "name": getattr(next(iter(functions.values())), "__name__", ""),
        **limits,
    }
    own = {name: _METHODS[name] for name in functions}
    made: _Arrays = type("Arrays", (_Arrays,), own)(kind, functions, token_axes, tune)
    for attribute, value in {**declared, "dialect": dialect}.items():
        setattr(made, attribute, value)
    return made


class _Arrays(Implementation):
    """What `from_arrays` makes; a subclass of it has the methods for which there are functions."""

    def __init__(
        self,
        arrays: Library,
        functions: dict[str, Function],
        token_axes: int | None,
        tune: Callable[[Dialect], dict[str, Any]] | None,
    ) -> None:
        self._arrays, self._functions, self._token_axes, self._tune = arrays, functions, token_axes, tune

    def tuned(self, **fields: Any) -> Implementation:
        if self._tune is None or set(fields) - self.tunable:
            return super().tuned(**fields)
        tuned = copy.copy(self)
        tuned.dialect = self.dialect.with_(**fields)
        self._tune(tuned.dialect)  # so that a value that cannot be had is refused now
        return tuned

    def call(
        self, name: str, tensors: Sequence[Tensor], ranks: Sequence[int], constants: Sequence[Tensor] = ()
    ) -> Parts:
        """A function on tensors that have token axes, and constants that have none."""
        settings = {} if self._tune is None else self._tune(self.dialect)

        def run(*moving: Tensor) -> Parts:
            return called(self._arrays, lambda *all: self._functions[name](*all, **settings), *moving, *constants)

        return with_token_axes(self._token_axes, run, tensors, ranks)


def _project(self: _Arrays, logits: Tensor) -> Any:
    return self.call("project", (logits,), (1 if self.dialect.residual == "permutations" else 2,))[0]


def _mappings(self: _Arrays, x: Tensor, params: Params) -> Mappings:
    given = [one for one in params if one is not None]
    if params.norm_weight is not None and not self.norm_weight:
        raise ValueError("Params.norm_weight is given; this target declares norm_weight=False")
    return Mappings(*self.call("mappings", (x,), (2,), given))  # pyright: ignore[reportArgumentType]  # None where not emitted


def _pre(self: _Arrays, x: Tensor, h_pre: Tensor) -> Any:
    return self.call("pre", (x, h_pre), (2, 1))[0]


def _post(self: _Arrays, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Any:
    return self.call("post", (x, y, h_post, h_res), (2, 1, 1, 2))[0]


_METHODS: dict[str, Callable[..., Any]] = {"project": _project, "mappings": _mappings, "pre": _pre, "post": _post}


def called(arrays: Library, function: Function, *tensors: Tensor) -> Parts:
    """The results of a function of arrays for tensors, on their device; through autograd where there is a vjp."""
    if not (arrays.differentiable and torch.is_grad_enabled() and any(one.requires_grad for one in tensors)):
        results = _sequence(function(*(arrays.given(one) for one in tensors)))
        return tuple(None if one is None else arrays.taken(one).to(tensors[0].device) for one in results)
    emitted: list[bool] = []
    parts = iter(_Bridge.apply(arrays, function, emitted, *tensors))  # pyright: ignore[reportArgumentType]
    return tuple(next(parts) if there else None for there in emitted)


def _sequence(result: Any) -> Sequence[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


class _Bridge(torch.autograd.Function):
    """A function of arrays as a function of tensors; the gradient asks the library."""

    @staticmethod
    def forward(ctx: Any, arrays: Library, function: Function, emitted: list[bool], *tensors: Tensor) -> Any:
        results = _sequence(function(*(arrays.given(one) for one in tensors)))
        emitted += [one is not None for one in results]
        ctx.arrays, ctx.function = arrays, function
        ctx.save_for_backward(*tensors)
        return tuple(arrays.taken(one).to(tensors[0].device) for one in results if one is not None)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        arrays = ctx.arrays

        def listed(*given: Any) -> list[Any]:
            return [one for one in _sequence(ctx.function(*given)) if one is not None]

        saved: Sequence[Tensor] = ctx.saved_tensors
        pulled = arrays.pulled(listed, [arrays.given(one) for one in saved], [arrays.given(one) for one in cotangents])
        return (
            None,
            None,
            None,
            *(arrays.taken(one).to(tensor.device) for one, tensor in zip(pulled, saved, strict=True)),
        )
