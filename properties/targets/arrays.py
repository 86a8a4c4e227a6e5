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
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from mhc_ref.packing import logits_shape, streams_of_logits
from properties.core.implementation import Implementation
from properties.core.reads import read_of
from properties.core.settling import declare
from properties.guards.faults import AdapterError, HarnessError, described
from properties.guards.interruption import Interrupted
from properties.guards.printable import shown
from properties.targets.array_libraries import Function, Library, library
from properties.targets.rehearsal import check_token_axes, rehearse_functions, tuned
from properties.targets.tokens import Parts, with_token_axes


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
    declare(made, "from_arrays", {**declared, "dialect": dialect})
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
    return _only(self.call("pre", (x, h_pre), (2, 1 if read_of(self.dialect).by_stream else 2)))


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
