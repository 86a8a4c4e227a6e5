"""An adapter is tried once when it is made, before any law asks it.

What fails here in the adapter's own code, or because of what the adapter was told, is refused with the words that have
to be said instead. What a module or function raises inside its declared domain is left to the laws, which report it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from mhc_ref.packing import logits_shape, params_shapes
from properties.core.case import map_tensors
from properties.core.handing import stored_dtype
from properties.core.implementation import Implementation, dtype_names, next_multiple, overrides, parameter_dtype
from properties.core.reads import as_pre_takes
from properties.guards.faults import AdapterError, TargetFault, answered
from properties.guards.surroundings import told, usual

if TYPE_CHECKING:
    from properties.targets.arrays import ArrayAdapter
    from properties.targets.modules import ModuleAdapter


def _tokens(adapter: Implementation) -> tuple[tuple[int, ...], ...]:
    """Token axes of states, of no more tokens than a call takes, one axis first; the laws draw all of these."""
    few = min(2, adapter.max_tokens)
    return (few,), (), (2, 3) if adapter.max_tokens >= 6 else (1, few)


def tuned(tune: Callable[[Dialect], dict[str, Any]] | None, dialect: Dialect, adapter: str) -> dict[str, Any]:
    """The keyword arguments that `tune` gives for a dialect; none without it.

    Raises:
        AdapterError: `tune` raised something.
    """
    if tune is None:
        return {}
    try:
        return answered(lambda: tune(dialect))
    except TargetFault as fault:
        raise AdapterError(f"{adapter}: tune raised {fault} for {dialect}") from fault.error


def example(
    adapter: Implementation, n: int, channels: int, tokens: tuple[int, ...], dtype: torch.dtype, norm_weight: bool
) -> tuple[Tensor, Params]:
    """A state and the parameters of a block, of order one and the same in every run."""
    generator = torch.Generator().manual_seed(14)
    made = stored_dtype(adapter, dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shapes = params_shapes(n, channels, adapter.dialect)
    weight = (1 + normal(n * channels) / 4).to(made) if norm_weight else None
    params = Params(
        normal(*shapes.phi).to(made), normal(*shapes.bias).to(made), torch.full(shapes.alpha, 0.5, dtype=made), weight
    )
    return normal(*tokens, n, channels).to(dtype), params


def rehearse(adapter: ModuleAdapter) -> None:
    """Try a module in every size and dtype that is declared, with a norm weight and without.

    Raises:
        AdapterError: it cannot be made, named or called as was said; the message names what to declare.
    """
    place = _place(adapter)
    if place is None:
        return
    with usual(), told(), torch.random.fork_rng(devices=[]):
        _Rehearsal(adapter, place).hold()
    adapter.forget()


def _place(adapter: ModuleAdapter) -> torch.device | None:
    """A device that it computes on and that is here."""
    if "cpu" in adapter.devices:
        return torch.device("cpu")
    here = [kind for kind in adapter.devices if kind == "cuda" and torch.cuda.is_available()]
    return torch.device(here[0], 0) if here else None


class _Rehearsal:
    def __init__(self, adapter: ModuleAdapter, place: torch.device) -> None:
        self.adapter, self.place = adapter, place
        self.dtypes: list[torch.dtype] = [getattr(torch, name) for name in dtype_names(adapter)]
        # n = 1 only where it must be: there a bias has the size of the gates.
        self.n = min((one for one in adapter.streams if one > 1), default=1)
        self.channels = next_multiple(2, adapter.channel_multiple)

    def hold(self) -> None:
        self.sizes()
        for weight in (False, True) if self.adapter.norm_weight else (False,):
            self.calls(weight)
        if self.adapter.token_axes is None:
            self.token_axes()
        if self.adapter.deterministic:
            self.chance()
            self.reach()

    def sizes(self) -> None:
        """Every number of streams can be made, in two widths, and holds our parameters."""
        adapter, dtype = self.adapter, self.dtypes[0]
        for n in sorted(adapter.streams, key=lambda one: (one != self.n, one)):
            for channels in {next_multiple(least, adapter.channel_multiple): None for least in (2, 1, 3)}:
                try:
                    module = adapter.module(n, channels, self.place, stored_dtype(adapter, dtype))
                except AdapterError as error:
                    raise AdapterError(f"{error}{self.instead()}") from error
                adapter.naming.weights(self.given(dtype, (), True, n, channels)[1], module, channels)

    def instead(self) -> str:
        """The sizes that can be made, as they are declared, where some of those that are asked for cannot."""
        adapter, dtype = self.adapter, stored_dtype(self.adapter, self.dtypes[0])

        def makes(n: int, channels: int) -> bool:
            try:
                adapter.module(n, channels, self.place, dtype)
            except AdapterError:
                return False
            return True

        for multiple in (adapter.channel_multiple * 2**power for power in range(11)):
            streams = tuple(n for n in adapter.streams if all(makes(n, k * multiple) for k in (1, 2, 3)))
            if streams:
                words = [f"streams={streams}"] if streams != tuple(adapter.streams) else []
                words += [f"channel_multiple={multiple}"] if multiple != adapter.channel_multiple else []
                return f"; declare {', '.join(words)}" if words else ""
        return ""

    def calls(self, norm_weight: bool) -> None:
        """Every dtype can be called, and gives something that can be taken apart."""
        faults: dict[torch.dtype, TargetFault] = {}
        for dtype in self.dtypes:
            got = self.call(self.adapter, *self.given(dtype, _tokens(self.adapter)[0], norm_weight))
            if isinstance(got, TargetFault):
                faults[dtype] = got
            else:
                self.form(got)
        for dtype, fault in faults.items():
            if dtype != stored_dtype(self.adapter, dtype):
                self.parameters(dtype, norm_weight, fault, [one for one in self.dtypes if one not in faults])

    def parameters(
        self, dtype: torch.dtype, norm_weight: bool, fault: TargetFault, others: Sequence[torch.dtype]
    ) -> None:
        """A module that takes parameters of the state's dtype alone takes none of those that the laws draw."""
        x, params = self.given(dtype, _tokens(self.adapter)[0], norm_weight)
        if isinstance(self.call(self.adapter, x, map_tensors(params, lambda one: one.to(dtype))), TargetFault):
            return  # it raises whatever it is given: that is for the laws to say
        declare = f"dtypes=({', '.join(str(one) for one in others)},)" if others else "dtypes=(torch.float32,)"
        raise AdapterError(
            f"from_module: {self.adapter.kind} takes a {dtype} state with {dtype} parameters only, and the laws hand "
            f"{parameter_dtype(dtype)} ones to it, as the precision contract says: it raised {fault}. Declare "
            f"{declare} for what it takes, or parameters='state' where it stores them so and computes in "
            f"{parameter_dtype(dtype)}, or let its forward (or call=...) cast"
        ) from fault.error

    def token_axes(self) -> None:
        """A module that takes a fixed number of token axes has to say so."""
        asked = [self.given(self.dtypes[0], tokens, False) for tokens in _tokens(self.adapter)]
        got = [self.call(self.adapter, *one) for one in asked]
        fault = next((one for one in got if isinstance(one, TargetFault)), None)
        if fault is None:
            return
        for axes in (1, 2, 3) if overrides(self.adapter, "block") else (1, 2, 3, 0):
            changed = self.adapter.with_token_axes(axes)
            if not any(isinstance(self.call(changed, *one), TargetFault) for one in asked):
                shapes = ", ".join(str(list(x.shape)) for (x, _), one in zip(asked, got, strict=True) if one is fault)
                raise AdapterError(
                    f"from_module: {self.adapter.kind} raised {fault} for a state {shapes}; with {axes} token axes it "
                    f"takes every state: declare token_axes={axes}"
                ) from fault.error

    def chance(self) -> None:
        """What draws random numbers in training mode alone, such as dropout, is to be made in the other mode."""
        adapter, dtype = self.adapter, self.dtypes[0]
        module = adapter.module(self.n, self.channels, self.place, stored_dtype(adapter, dtype))
        if module.training and self.draws(dtype):
            module.eval()
            if not self.draws(dtype):
                raise AdapterError(
                    f"from_module: {adapter.kind} is in training mode and draws random numbers there, as dropout does; "
                    "let `make` give module.eval(), in which it draws none"
                )

    def draws(self, dtype: torch.dtype) -> bool:
        before = torch.get_rng_state()
        self.call(self.adapter, *self.given(dtype, _tokens(self.adapter)[0], False))
        return not torch.equal(before, torch.get_rng_state())

    def reach(self) -> None:
        """Every read of a parameter is of the value that stands for it, and not of what the module holds.

        What a parameter holds is changed, and the answer must stay; the same call before and after tells a module with
        a memory apart, which is for the laws to find.
        """
        adapter = self.adapter
        # As most modules are made: a copy in another dtype has lost what closures and views of the first one hold.
        dtype = next((one for one in self.dtypes if parameter_dtype(one) == torch.float32), self.dtypes[0])
        x, params = self.given(dtype, _tokens(self.adapter)[0], True)
        module = adapter.module(self.n, self.channels, self.place, stored_dtype(adapter, dtype))
        held = {**dict(module.named_buffers(remove_duplicate=False)), **dict(module.named_parameters())}

        def answer() -> list[Tensor] | None:
            return _tensors_of(self.call(adapter, x, params))

        def read(names: Sequence[str]) -> bool:
            before, again = answer(), answer()
            if before is None or not _same(before, again):
                return False
            kept = {name: held[name].detach().clone() for name in names}
            try:
                with torch.no_grad():
                    for name in names:
                        held[name].copy_(kept[name] + torch.linspace(0.5, 1.5, kept[name].numel()).view_as(kept[name]))
                other = answer()
            finally:
                with torch.no_grad():
                    for name in names:
                        held[name].copy_(kept[name])
            return not _same(before, other) and _same(before, answer())

        replaced = [name for name in adapter.naming.weights(params, module, x.shape[-1]) if name in held]
        try:
            found = [name for name in replaced if read([name])] if read(replaced) else []
        except RuntimeError:  # its parameters cannot be written to, as those that are expanded or of inference
            return
        if found:
            raise AdapterError(
                f"from_module: {adapter.kind} reads what {', '.join(found)} holds even where other values stand for "
                "it: it keeps the parameter in a second place (a list, a closure, a view of its data), where nothing "
                "can stand for it. Let its forward read the attribute, or write the values into the module in the "
                "methods of an Implementation"
            )

    def given(
        self, dtype: torch.dtype, tokens: tuple[int, ...], norm_weight: bool, n: int = 0, channels: int = 0
    ) -> tuple[Tensor, Params]:
        weighted = norm_weight and self.adapter.naming.norm_weight
        x, params = example(self.adapter, n or self.n, channels or self.channels, tokens, dtype, weighted)
        return x.to(self.place), map_tensors(params, lambda one: one.to(self.place))

    def call(self, adapter: ModuleAdapter, x: Tensor, params: Params) -> Any:
        """What it gives, or the fault of the module.

        Raises:
            AdapterError: the adapter is at fault.
        """
        try:
            if overrides(adapter, "block"):
                return answered(lambda: adapter.block(x, params, lambda u: u * 0.5))
            return answered(lambda: adapter.mappings(x, params))
        except TargetFault as fault:
            return fault

    def form(self, got: Any) -> None:
        """It is what was said that a call gives."""
        adapter = self.adapter
        gives = f"from_module: {adapter.signature.format(adapter.kind)} gives"
        if overrides(adapter, "block"):
            if not issubclass(type(got), Tensor):
                raise AdapterError(
                    f"{gives} {type(got).__name__}; expected the next state: take it out by call=lambda module, x, "
                    "branch: ..., or say computes='mappings'"
                )
            return
        if not isinstance(got, Mappings):
            raise AdapterError(
                f"{gives} {type(got).__name__}; expected (pre, post, res), or attributes or keys of these names: "
                "take them out by call=lambda module, x: ..., or say computes='block'"
            )
        there = [name for name in Mappings._fields if getattr(got, name) is not None]
        silent = [name for name in adapter.emits if name not in there]
        if silent:
            raise AdapterError(f"{gives} no {', '.join(silent)}; declare emits={tuple(there)!r}")


def _tensors_of(got: Any) -> list[Tensor] | None:
    """What a call gave, or None where that is something else than plain numbers."""
    parts = [one for one in got if one is not None] if isinstance(got, (tuple, list)) else [got]  # pyright: ignore[reportUnknownVariableType]
    if not all(type(one) is Tensor or type(one) is torch.nn.Parameter for one in parts):  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
        return None
    return [one.detach().clone() for one in parts]  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]


def _same(one: Sequence[Tensor], other: Sequence[Tensor] | None) -> bool:
    return (
        other is not None
        and len(one) == len(other)
        and all(torch.equal(mine.nan_to_num(), theirs.nan_to_num()) for mine, theirs in zip(one, other, strict=True))
    )


def rehearse_functions(adapter: ArrayAdapter, gradients: bool) -> None:
    """Try every function of arrays in every dtype that is declared; `gradients`: that it has some was not declared.

    A projection alone is tried where it has gradients; what else could be wrong with it shows in the first call.

    Raises:
        AdapterError: it cannot be called, or its results cannot be taken, as was said; the message names what to
            declare.
    """
    dtypes: list[torch.dtype] = [getattr(torch, name) for name in dtype_names(adapter)]
    gradients = gradients and adapter.differentiable
    with usual(), told(), torch.random.fork_rng(devices=[]):
        for name in adapter.functions:
            if name == "project" and not gradients:
                continue
            for dtype in dtypes:
                got = _called(adapter, name, _tokens(adapter)[0], dtype)
                if isinstance(got, TargetFault):
                    continue
                if name == "mappings":
                    _check_parts(adapter, got)
                if gradients:
                    _check_gradient(adapter, name, dtype)
            check_token_axes(adapter, name, dtypes[0])


def _arguments(adapter: ArrayAdapter, name: str, tokens: tuple[int, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    dialect = adapter.dialect
    n, channels = (
        min((one for one in adapter.streams if one > 1), default=1),
        next_multiple(2, adapter.channel_multiple),
    )
    x, params = example(adapter, n, channels, tokens, dtype, adapter.norm_weight)
    made = parameter_dtype(dtype)
    if name == "mappings":
        return x, params
    if name == "project":
        return (torch.zeros(*tokens, *logits_shape(n, dialect), dtype=made),)
    gates = torch.full((*tokens, n), 0.5, dtype=made)
    if name == "pre":
        return x, as_pre_takes(gates, x, dialect)
    return x, x[..., 0, :], gates, torch.full((*tokens, n, n), 1 / n, dtype=made)


def _called(adapter: ArrayAdapter, name: str, tokens: tuple[int, ...], dtype: torch.dtype) -> Any:
    arguments = _arguments(adapter, name, tokens, dtype)
    try:
        return answered(lambda: getattr(adapter, name)(*arguments))
    except TargetFault as fault:
        return fault


def _check_parts(adapter: ArrayAdapter, got: Any) -> None:
    if not isinstance(got, Mappings):
        raise AdapterError(f"from_arrays: mappings gives {len(got)} results; expected pre, post, res")
    there = [name for name in Mappings._fields if getattr(got, name) is not None]
    silent = [name for name in adapter.emits if name not in there]
    if silent:
        raise AdapterError(f"from_arrays: mappings gives no {', '.join(silent)}; declare emits={tuple(there)!r}")


def _check_gradient(adapter: ArrayAdapter, name: str, dtype: torch.dtype) -> None:
    """The library's vjp takes the function; that it would was the library's word, not its author's."""
    given = _arguments(adapter, name, _tokens(adapter)[0], dtype)
    arguments = map_tensors(given, lambda one: one.detach().clone().requires_grad_())

    def pull() -> None:
        given = getattr(adapter, name)(*arguments)
        outputs = [one for one in (given if isinstance(given, Mappings) else (given,)) if isinstance(one, Tensor)]
        torch.autograd.backward(outputs, [torch.ones_like(one) for one in outputs])

    try:
        answered(pull)
    except TargetFault as fault:
        raise AdapterError(
            f"from_arrays: {name} cannot be differentiated in {dtype}: {fault}; declare differentiable=False where it "
            "is forward only, or differentiable=True where this is for the laws to say"
        ) from fault.error


def check_token_axes(adapter: ArrayAdapter, name: str, dtype: torch.dtype) -> None:
    """A function of a fixed number of token axes has to say so.

    Raises:
        AdapterError: it takes some states, and with a number of token axes that was not said all of them.
    """
    if adapter.token_axes is not None:
        return
    found = [_called(adapter, name, tokens, dtype) for tokens in _tokens(adapter)]
    fault = next((one for one in found if isinstance(one, TargetFault)), None)
    if fault is None:
        return
    for axes in (1, 2, 3, 0):
        changed = adapter.with_token_axes(axes)
        if not any(isinstance(_called(changed, name, one, dtype), TargetFault) for one in _tokens(adapter)):
            raise AdapterError(
                f"from_arrays: {name} raised {fault} for some numbers of token axes; with {axes} it takes every state: "
                f"declare token_axes={axes}"
            ) from fault.error
