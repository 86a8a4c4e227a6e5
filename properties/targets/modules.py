"""A `torch.nn.Module` as an implementation, its parameters named in a short mapping.

    # mine.py
    from mhc_ref import DEEPSEEK_V4
    from properties.modules import from_module

    target = from_module(
        lambda n, C: MyHyperConnection(streams=n, dim=C),
        {"phi": "fn.T", "bias": "base", "alpha": "scale"},
        dialect=DEEPSEEK_V4,
    )

    $ mhc-properties check mine.py:target

On the left stand ours (`mhc_ref.Params`), on the right the names of `module.named_parameters()` or of buffers. "name.T"
is a parameter that holds the transpose, as `nn.Linear(in, out).weight` [out, in] does. A module that keeps the three
mappings apart names them apart: "phi.pre", "phi.post", "phi.res", and so for bias and alpha. One that has another
number of axes than ours is reshaped: a bias.res [n, n], an alpha.pre [] or [1].

A module is made once for each size and called many times, as in a model: what a call leaves behind in it is there in
the next. It stays in the mode that `make` leaves it in. Its parameters are replaced by what the laws draw, float64 for
float64 states and float32 otherwise; buffers of the dtype of its parameters come along, as with `module.double()`.
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.core.implementation import Implementation
from properties.core.settling import declare
from properties.guards.faults import AdapterError, HarnessError, TargetFault, answered, described
from properties.guards.interruption import Interrupted
from properties.guards.printable import shown
from properties.targets.naming import Naming
from properties.targets.rehearsal import rehearse, tuned
from properties.targets.tokens import with_token_axes

Make = Callable[..., nn.Module]

_KEPT = 24
"""How many modules, each of another size, are kept from call to call."""


def from_module(
    make: Make,
    names: Mapping[str, str],
    *,
    dialect: Dialect,
    computes: Literal["mappings", "block"] = "mappings",
    call: Callable[..., Any] | None = None,
    tune: Callable[[Dialect], dict[str, Any]] | None = None,
    token_axes: int | None = None,
    constants: Iterable[str] = (),
    **limits: Any,
) -> Implementation:
    """An implementation made of a module. It is tried once: what cannot work is refused here, before any law.

    Args:
        make: make(n, C) is a module of n streams of C channels; its parameters are replaced.
        names: our parameters -> the module's, see above. Where norm_weight is named, a block without one has ones.
        computes: what calling the module gives. "mappings": module(x) is (pre, post, res), or has attributes or keys of
            these names; None for what it does not emit. "block": module(x, branch) is the next state.
        call: call(module, x) or call(module, x, branch) where the module is called otherwise than that.
        tune: keyword arguments for `make`, of the dialect that is asked for; with `tunable` among the limits.
        token_axes: how many token axes the module takes; None: any.
        constants: names of parameters that none of ours stands for, and that stay as `make` gives them.
        limits: other attributes of `Implementation`, such as name, streams, dtypes, tunable, mixing.

    Raises:
        TypeError: an argument of the wrong kind, a limit or a name of ours that is none.
        ValueError: one of our parameters reaches nothing, one of the module's is not named, or their sizes differ; or a
            limit that cannot be used.
        AdapterError: the module cannot be made, or cannot be called as is said here; the message names what to declare.
    """
    _check_arguments(make, dialect, computes, token_axes)
    naming = Naming(names, constants, dialect)
    if limits.get("norm_weight") and not naming.norm_weight:
        raise ValueError("from_module: norm_weight=True is declared, and no parameter is named for norm_weight")
    kind = {"mappings": _Mapping, "block": _Block}[computes]
    made = kind(make, naming, call, tune, token_axes)
    declared = {"norm_weight": naming.norm_weight, "zero_tokens": token_axes != 0, **limits, "dialect": dialect}
    declare(made, "from_module", declared)
    rehearse(made)
    made.name = made.name or made.kind
    return made


def _check_arguments(make: object, dialect: object, computes: object, token_axes: object) -> None:
    if isinstance(make, nn.Module) or not callable(make):
        raise TypeError(
            f"from_module: make is {type(make).__name__}; expected a function of n and C that makes a module of that "
            "size, such as lambda n, C: MyHyperConnection(streams=n, dim=C)"
        )
    if not isinstance(dialect, Dialect):
        raise TypeError(f"from_module: dialect is {shown(dialect)}; expected a mhc_ref.Dialect, such as mhc_ref.PAPER")
    if computes not in ("mappings", "block"):
        raise TypeError(f"from_module: computes is {shown(computes)}; expected 'mappings' or 'block'")
    if token_axes is not None and (isinstance(token_axes, bool) or not isinstance(token_axes, int) or token_axes < 0):
        raise TypeError(f"from_module: token_axes is {shown(token_axes)}; expected a number of axes, or None for any")
    if computes == "block" and token_axes == 0:
        raise TypeError(
            "from_module: a block takes all tokens at once, or its branch is called for each; token_axes is 0"
        )


class ModuleAdapter(Implementation):
    """What `from_module` makes."""

    kind: str = "the module"
    """The class of the module."""
    signature: str
    """How the module is called, for messages."""

    def __init__(
        self,
        make: Make,
        naming: Naming,
        call: Callable[..., Any] | None,
        tune: Callable[[Dialect], dict[str, Any]] | None,
        token_axes: int | None,
    ) -> None:
        self._make, self.naming, self._call, self._tune, self.token_axes = make, naming, call, tune, token_axes
        self.forget()

    def forget(self) -> None:
        """Make every module anew from here on."""
        self._modules: OrderedDict[tuple[int, int, torch.device, torch.dtype], _Called] = OrderedDict()

    def tuned(self, **fields: Any) -> Implementation:
        if self._tune is None or set(fields) - self.tunable:
            return super().tuned(**fields)
        tuned = copy.copy(self)
        tuned.dialect = self.dialect.with_(**fields)
        tuned.forget()
        self._tune(tuned.dialect)  # so that a value that cannot be had is refused now
        return tuned

    def with_token_axes(self, axes: int) -> ModuleAdapter:
        """The same with another number of token axes, and modules of its own."""
        changed = copy.copy(self)
        changed.token_axes = axes
        changed.forget()
        return changed

    def module(self, n: int, channels: int, place: torch.device, dtype: torch.dtype) -> nn.Module:
        """The module of that size, as the dialect asks for it, on that device and for parameters of that dtype.

        Raises:
            AdapterError: `make` gives none, or it cannot be had there.
        """
        return self._called(n, channels, place, dtype).module

    def _called(self, n: int, channels: int, place: torch.device, dtype: torch.dtype) -> _Called:
        key = (n, channels, place, dtype)
        if key not in self._modules:
            # Whatever mode a law is in, a module is made as its author makes it.
            with torch.inference_mode(False), torch.enable_grad():
                self._modules[key] = _Called(self._placed(self._made(n, channels), place, dtype), self._call)
            while len(self._modules) > _KEPT:
                self._modules.popitem(last=False)
        self._modules.move_to_end(key)
        return self._modules[key]

    def _made(self, n: int, channels: int) -> nn.Module:
        settings = tuned(self._tune, self.dialect, "from_module")
        try:
            module: Any = answered(lambda: self._make(n, channels, **settings))
        except TargetFault as fault:
            raise AdapterError(
                f"from_module: make({n}, {channels}) raised {fault}; it is asked for {n} streams of {channels} "
                f"channels, as streams={tuple(self.streams)} and channel_multiple={self.channel_multiple} say"
            ) from fault.error
        if not isinstance(module, nn.Module):
            raise AdapterError(
                f"from_module: make({n}, {channels}) gave {type(module).__name__}; expected a torch.nn.Module"
            )
        self.kind = type(module).__name__
        if any(is_lazy(one) for one in (*module.parameters(), *module.buffers())):
            self._shape(module, n, channels)
        return module

    def _shape(self, module: nn.Module, n: int, channels: int) -> None:
        """Call a lazy module once: its parameters get their shapes in the first call."""
        axes = 1 if self.token_axes is None else self.token_axes
        branch = () if isinstance(self, _Mapping) else (torch.zeros_like,)
        try:
            with torch.no_grad():
                answered(lambda: _Called(module, self._call)(torch.zeros(*(1,) * axes, n, channels), *branch))
        except TargetFault as fault:
            raise AdapterError(
                f"from_module: {self.kind} has lazy parameters, and its first call, on {n} streams of {channels} "
                f"zeros, raised {fault}; let `make` give a module whose parameters have shapes"
            ) from fault.error

    def _placed(self, module: nn.Module, place: torch.device, dtype: torch.dtype) -> nn.Module:
        """The module there, its parameters and the buffers of their dtype in that dtype; a copy if that changes it."""
        kept = self.naming.constants
        own = {one.dtype for name, one in module.named_parameters() if name not in kept and one.is_floating_point()}

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(place, dtype if tensor.dtype in own else tensor.dtype)

        held = [*module.parameters(), *module.buffers()]
        if all(one.device == place and (one.dtype == dtype or one.dtype not in own) for one in held):
            return module
        if any(one.is_meta for one in held):
            raise AdapterError(
                f"from_module: {self.kind} has parameters or buffers on meta, which hold no values; let `make` give a "
                "module that has them"
            )
        # A copy, as `make` may give the same one again; what cannot be copied (it holds a lock) is mostly fresh.
        with contextlib.suppress(Exception):
            module = copy.deepcopy(module)
        try:
            return module._apply(moved)  # pyright: ignore[reportPrivateUsage]  # as `to` does, by tensor
        except Exception as error:
            raise AdapterError(
                f"from_module: {self.kind} cannot be moved to {place} in {dtype}: {described(error)}; declare what it "
                "can by devices=(...) and dtypes=(...)"
            ) from error

    def run(self, x: Tensor, params: Params, *rest: Any) -> Any:
        """What the module gives with its parameters replaced.

        Raises:
            AdapterError: what fails is not the module's own code.
        """
        if params.norm_weight is not None and not self.naming.norm_weight:
            raise AdapterError("Params.norm_weight is given; no parameter of the module is named for it")
        called = self._called(x.shape[-2], x.shape[-1], x.device, params.phi.dtype)
        module = called.module
        weights = {f"module.{name}": value for name, value in self.naming.weights(params, module, x.shape[-1]).items()}
        try:
            # Untied: what is one parameter under two names is two attributes, each with its own value.
            return functional_call(called, weights, (x, *rest), tie_weights=False)
        except (HarnessError, Interrupted):
            raise
        except BaseException as error:  # strangers raise anything
            if _is_of(error, module):
                raise
            raise AdapterError(
                f"from_module: calling {self.signature.format(self.kind)} raised {described(error)}, and not in "
                "its own code; say how it is called by call=lambda module, x: ..., or what it gives by "
                "computes='mappings' or 'block'"
            ) from error


_CALLING = ("_call_impl", "_wrapped_call_impl", "_forward_unimplemented")
"""Functions of nn.Module in which a call ends that its forward does not take."""


def _is_of(error: BaseException, module: nn.Module) -> bool:
    """Whether an exception comes out of the code of a module or one of its parts, and not from how it was called."""
    parts = {id(one) for one in module.modules()}
    inside, trace = False, error.__traceback__
    last: TracebackType | None = None
    while trace is not None:
        code = trace.tb_frame.f_code
        first = trace.tb_frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if id(first) in parts and hasattr(type(first), code.co_name):  # a method, and no function of a module
            inside, last = True, trace
        trace = trace.tb_next
    ended = last is not None and last.tb_next is None and last.tb_frame.f_code.co_name in _CALLING
    return inside and not (ended and isinstance(error, (TypeError, NotImplementedError)))


class _Called(nn.Module):
    """A module together with the way in which it is called, so that its parameters can be replaced meanwhile."""

    def __init__(self, module: nn.Module, call: Callable[..., Any] | None) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments) if self.call is None else self.call(self.module, *arguments)


class _Odd(Exception):
    """What a module gave cannot be taken apart; it is handed on as it is, to be judged."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = given


class _Mapping(ModuleAdapter):
    signature = "{}(x)"

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        def run(states: Tensor) -> tuple[Tensor | None, ...]:
            given = self.run(states, params)
            parts = three(given)
            if parts is None:
                raise _Odd(given)
            return parts

        try:
            return Mappings(*with_token_axes(self.token_axes, run, (x,), (2,)))  # pyright: ignore[reportArgumentType]
        except _Odd as odd:
            return odd.given


def three(given: Any) -> tuple[Any, ...] | None:
    """pre, post and res of what a module gave, in that order or by those names; None where they are not there."""
    if isinstance(given, Mapping):
        return tuple(given[name] for name in Mappings._fields) if set(given) >= set(Mappings._fields) else None  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(given, (tuple, list)):
        return tuple(given) if len(given) == 3 else None  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(given, Tensor) and all(hasattr(given, name) for name in Mappings._fields):
        return tuple(getattr(given, name) for name in Mappings._fields)
    return None


class _Block(ModuleAdapter):
    signature = "{}(x, branch)"

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        tokens, channels = x.shape[:-2], x.shape[-1]

        def once(u: Tensor) -> Tensor:
            return branch(u.reshape(*tokens, channels)).reshape(u.shape) if self.token_axes else branch(u)

        def run(states: Tensor) -> tuple[Any]:
            return (self.run(states, params, once),)

        found: Any = with_token_axes(self.token_axes, run, (x,), (2,))
        return found[0]
