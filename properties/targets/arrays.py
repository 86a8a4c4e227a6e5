"""Functions of NumPy, JAX, MLX or DLPack arrays as an implementation.

    # mine.py
    import numpy as np
    from mhc_ref import PAPER
    from properties.targets.arrays import from_arrays

    def sinkhorn(logits): ...                     # [..., n, n] -> [..., n, n]

    target = from_arrays("numpy", project=sinkhorn, dialect=PAPER)

    $ mhc-properties check mine.py:target

JAX and MLX functions are differentiated by their own vjp; NumPy has none, so that gradient laws are counted as not
applicable. A library is imported when it is chosen, and neither JAX nor MLX is a dependency. The laws try many shapes:
a function under `jax.jit` is compiled for each.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from mhc_ref.packing import logits_shape, streams_of_logits
from properties.core.declaration import TABLE, DeclarationError
from properties.core.implementation import Implementation
from properties.core.settling import settle
from properties.guards.faults import AdapterError, HarnessError, described
from properties.guards.interruption import Interrupted
from properties.guards.printable import shown
from properties.targets.rehearsal import check_token_axes, rehearse_functions, tuned
from properties.targets.tokens import Parts, with_token_axes

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
    """An implementation made of functions of arrays. Each is tried once: what cannot work is refused here.

    Args:
        arrays: "numpy", "jax" or "mlx", or a module with `from_dlpack`.
        project: logits [..., n, n] -> h_res.
        mappings: x [..., n, C], phi, bias, alpha -> (pre, post, res); norm_weight as a fifth argument with
            `norm_weight=True`, ones for a block without one. What it does not emit is None.
        pre: x, h_pre -> the branch input [..., C].
        post: x, y, h_post, h_res -> the next state [..., n, C].
        tune: keyword arguments for every function, of the dialect that is asked for; with `tunable` among the limits.
        token_axes: how many token axes the functions take; None: any.
        limits: other attributes of `Implementation`, such as name, streams, dtypes, tunable, full_range.

    Raises:
        TypeError: no function at all, an argument of the wrong kind, or a limit that is none.
        ValueError: a limit that cannot be used.
        AdapterError: a function cannot be called as is said here; the message names what to declare.
    """
    functions = {
        name: function
        for name, function in (("project", project), ("mappings", mappings), ("pre", pre), ("post", post))
        if function is not None
    }
    if not functions:
        raise TypeError("from_arrays was given no function; expected some of project, mappings, pre, post")
    strange = sorted(set(limits) - set(TABLE))
    if strange:
        raise TypeError(f"from_arrays: {', '.join(strange)} is no attribute of Implementation")
    _check_arguments(functions, dialect, token_axes)
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
    made: ArrayAdapter = type("Arrays", (ArrayAdapter,), own)(kind, functions, token_axes, tune)
    for attribute, value in {**declared, "dialect": dialect}.items():
        setattr(made, attribute, value)
    try:
        settle(made)
    except DeclarationError as error:
        raise ValueError(f"from_arrays: {error}") from error
    rehearse_functions(made, gradients="differentiable" not in limits)
    return made


def _check_arguments(functions: dict[str, Function], dialect: object, token_axes: object) -> None:
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"from_arrays: {name} is {shown(function)}; expected a function of arrays")
    if not isinstance(dialect, Dialect):
        raise TypeError(f"from_arrays: dialect is {shown(dialect)}; expected a mhc_ref.Dialect, such as mhc_ref.PAPER")
    if token_axes is not None and (isinstance(token_axes, bool) or not isinstance(token_axes, int) or token_axes < 0):
        raise TypeError(f"from_arrays: token_axes is {shown(token_axes)}; expected a number of axes, or None for any")


class ArrayAdapter(Implementation):
    """What `from_arrays` makes; a subclass of it has the methods for which there are functions."""

    def __init__(
        self,
        arrays: Library,
        functions: dict[str, Function],
        token_axes: int | None,
        tune: Callable[[Dialect], dict[str, Any]] | None,
    ) -> None:
        self.arrays, self.functions, self.token_axes, self._tune = arrays, functions, token_axes, tune
        self._wanted: dict[str, str] = {}
        """Functions that raised -> what they want instead, if anything helps."""

    def tuned(self, **fields: Any) -> Implementation:
        if self._tune is None or set(fields) - self.tunable:
            return super().tuned(**fields)
        tuned = copy.copy(self)
        tuned.dialect = self.dialect.with_(**fields)
        self._tune(tuned.dialect)  # so that a value that cannot be had is refused now
        return tuned

    def with_token_axes(self, axes: int) -> ArrayAdapter:
        """The same with another number of token axes."""
        changed = copy.copy(self)
        changed.token_axes, changed._wanted = axes, {}
        return changed

    def call(
        self, name: str, tensors: Sequence[Tensor], ranks: Sequence[int], constants: Sequence[Tensor] = ()
    ) -> Parts:
        """A function on tensors that have token axes, and constants that have none.

        Raises:
            AdapterError: what fails is not the function.
        """
        settings = tuned(self._tune, self.dialect, "from_arrays")
        function = self.functions[name]

        def run(*moving: Tensor) -> Parts:
            def called_so(*all: Any) -> Any:
                try:
                    return function(*all, **settings)
                except TypeError as error:
                    if _takes(function, all, settings):
                        raise
                    raise AdapterError(
                        f"from_arrays: {name} was called with {len(all)} arrays{' and ' if settings else ''}"
                        f"{', '.join(settings)}, and raised {described(error)}; expected a function of "
                        f"{ARGUMENTS[name]}{'; norm_weight comes last with norm_weight=True' * (name == 'mappings')}"
                    ) from error

            return called(self.arrays, called_so, *moving, *constants)

        try:
            return with_token_axes(self.token_axes, run, tensors, ranks)
        except (HarnessError, Interrupted):
            raise
        except BaseException:  # a function raises anything; once it is asked whether it wants other token axes
            if name not in self._wanted:
                self._wanted[name] = ""
                try:
                    check_token_axes(self, name, tensors[0].dtype)
                except AdapterError as error:
                    self._wanted[name] = str(error)
            if self._wanted[name]:
                raise AdapterError(self._wanted[name]) from None
            raise


ARGUMENTS = {"project": "logits", "mappings": "x, phi, bias, alpha", "pre": "x, h_pre", "post": "x, y, h_post, h_res"}
"""What each function is called with, in this order."""


def _takes(function: Function, arguments: Sequence[Any], settings: dict[str, Any]) -> bool:
    """Whether a function can be called with so many arguments, as far as one can know without calling it."""
    try:
        inspect.signature(function).bind(*arguments, **settings)
    except TypeError:
        return False
    except ValueError:  # it does not tell
        return True
    return True


def _project(self: ArrayAdapter, logits: Tensor) -> Any:
    rank = len(logits_shape(streams_of_logits(logits.shape, self.dialect), self.dialect))
    return _only(self.call("project", (logits,), (rank,)))


def _mappings(self: ArrayAdapter, x: Tensor, params: Params) -> Any:
    given = [params.phi, params.bias, params.alpha]
    if self.norm_weight:
        ones = params.phi.new_ones(x.shape[-2] * x.shape[-1])  # no weight is the same mathematics as a weight of 1
        given.append(ones if params.norm_weight is None else params.norm_weight)
    elif params.norm_weight is not None:
        raise AdapterError("Params.norm_weight is given; this target declares norm_weight=False")
    parts = self.call("mappings", (x,), (2,), given)
    return Mappings(*parts) if len(parts) == len(Mappings._fields) else parts  # pyright: ignore[reportArgumentType]  # None where not emitted


def _pre(self: ArrayAdapter, x: Tensor, h_pre: Tensor) -> Any:
    return _only(self.call("pre", (x, h_pre), (2, 1)))


def _post(self: ArrayAdapter, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Any:
    return _only(self.call("post", (x, y, h_post, h_res), (2, 1, 1, 2)))


def _only(parts: Parts) -> Any:
    return parts[0] if parts else parts


_METHODS: dict[str, Callable[..., Any]] = {"project": _project, "mappings": _mappings, "pre": _pre, "post": _post}


def called(arrays: Library, function: Function, *tensors: Tensor) -> Parts:
    """The results of a function of arrays for tensors, on their device; through autograd where there is a vjp.

    Raises:
        AdapterError: tensors cannot become arrays of the library, or its results cannot become tensors.
        TypeError: the function returned no array.
    """
    if not (arrays.differentiable and torch.is_grad_enabled() and any(one.requires_grad for one in tensors)):
        results = _sequence(function(*_given(arrays, tensors)))
        return tuple(None if one is None else _taken(arrays, one, tensors[0]) for one in results)
    emitted: list[bool] = []
    parts = iter(_Bridge.apply(arrays, function, emitted, *tensors))  # pyright: ignore[reportArgumentType]
    return tuple(next(parts) if there else None for there in emitted)


def _sequence(result: Any) -> Sequence[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]


def _given(arrays: Library, tensors: Sequence[Tensor]) -> list[Any]:
    found: list[Any] = []
    for one in tensors:
        try:
            found.append(arrays.given(one))
        except Exception as error:  # of a library, or of one's own adapter of it
            takes = ", ".join(str(dtype) for dtype in arrays.dtypes)
            raise AdapterError(
                f"from_arrays: a {one.dtype} tensor {list(one.shape)} cannot become an array: {described(error)}; the "
                f"library takes states in {takes}: declare dtypes=({takes},) or some of them"
            ) from error
    return found


def _taken(arrays: Library, array: Any, like: Tensor) -> Tensor:
    try:
        return arrays.taken(array).to(like.device)
    except TypeError:  # what the function returned is no array of this library
        raise
    except Exception as error:  # of a library, or of one's own adapter of it
        raise AdapterError(
            f"from_arrays: what a function returned ({type(array).__name__}) cannot become a tensor: "
            f"{described(error)}; let it return arrays of a dtype that torch has"
        ) from error


class _Bridge(torch.autograd.Function):
    """A function of arrays as a function of tensors; the gradient asks the library."""

    @staticmethod
    def forward(ctx: Any, arrays: Library, function: Function, emitted: list[bool], *tensors: Tensor) -> Any:
        results = _sequence(function(*_given(arrays, tensors)))
        emitted += [one is not None for one in results]
        ctx.arrays, ctx.function = arrays, function
        ctx.save_for_backward(*tensors)
        return tuple(_taken(arrays, one, tensors[0]) for one in results if one is not None)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        arrays = ctx.arrays

        def listed(*given: Any) -> list[Any]:
            return [one for one in _sequence(ctx.function(*given)) if one is not None]

        saved: Sequence[Tensor] = ctx.saved_tensors
        pulled = list(arrays.pulled(listed, _given(arrays, saved), _given(arrays, cotangents)))
        if len(pulled) != len(saved):
            raise AdapterError(
                f"from_arrays: the library's pulled gave {len(pulled)} gradients of {len(saved)} arrays; expected "
                "one each"
            )
        return (None, None, None, *(_taken(arrays, one, tensor) for one, tensor in zip(pulled, saved, strict=True)))
