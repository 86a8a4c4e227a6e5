"""Where the residual blocks of a model are: found by what is left of them without their weights, or said by name.

A block is a module that returns its input when its weights are 0: x + f(x), of which f(x) is gone. Behind a post-norm
it is the normalised input that is left. Streams that are mixed come back as they are where all of them are alike.
Matrices and biases are set to 0 and the weights of normalisations to 1, and the module is asked once more with the
arguments that it was called with; of modules one in the other the inner ones are the blocks.

Where the stream is carried by a pair of calls, `prepare` before a branch and `forward` behind it (x-transformers), the
block is what lies between them. A class that is called HyperConnections something, and that returns what it was given
in shape, is a block too: with weights of 0 it may mix by zeros.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from properties.explosion.monitor.emissions import first_argument
from properties.guards.faults import TargetFault, answered
from properties.guards.printable import printable

_TOLERANCE = 1e-2
"""Of what is left against the input, relative to its size: the weights are 0, so only rounding stands between them."""
_NAMES_SHOWN = 12


@dataclass(frozen=True)
class Block:
    """A residual block.

    paired: it begins where `module.prepare` is called, and ends where the module returns.
    where: which of its arguments is the stream, by place or by name; None for the first tensor.
    """

    name: str
    module: nn.Module
    paired: bool
    where: int | str | None = None

    @property
    def shown(self) -> str:
        return self.name or "(the model)"


Enter = Callable[[int, Tensor], Tensor]
Leave = Callable[[int, Tensor, Tensor], Tensor]


@contextmanager
def hung(blocks: list[Block], enter: Enter, leave: Leave) -> Generator[None]:
    """While it is open, each block i is given enter(i, x) for x, and returns leave(i, that, output) for its output."""
    given: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            if block.paired:
                stack.enter_context(_preparing(block.module, index, enter, given))
            else:
                before = _before(index, block.where, enter, given)
                handle = block.module.register_forward_pre_hook(before, with_kwargs=True)
                stack.callback(handle.remove)
            handle = block.module.register_forward_hook(_behind(index, leave, given))
            stack.callback(handle.remove)
        yield


def _before(index: int, where: int | str | None, enter: Enter, given: dict[int, Tensor]) -> Any:
    def hook(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        x = _inputs(arguments, options).get(where) if where is not None else None
        x = given_to(module, arguments, options) if x is None else x
        if x is None:
            return None
        changed = enter(index, x)
        given[index] = changed.clone()  # the module may write into it
        if changed is x:
            return None
        return tuple(changed if one is x else one for one in arguments), {
            name: changed if one is x else one for name, one in options.items()
        }

    return hook


def _behind(index: int, leave: Leave, given: dict[int, Tensor]) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
        x = given.pop(index, None)
        if x is None:
            return None
        place = _place(output, x)
        if place is None:
            return None
        if isinstance(output, Tensor):
            return leave(index, x, output)
        changed = leave(index, x, output[place])
        return type(output)(changed if k == place else one for k, one in enumerate(output))

    return hook


@contextmanager
def _preparing(module: nn.Module, index: int, enter: Enter, given: dict[int, Tensor]) -> Generator[None]:
    inner: Any = module.prepare

    def prepare(x: Tensor, *arguments: Any, **options: Any) -> Any:
        changed = enter(index, x)
        given[index] = changed.clone()
        return inner(changed, *arguments, **options)

    setattr(module, "prepare", prepare)  # noqa: B010  # a function in the place of a method
    try:
        yield
    finally:
        del module.prepare


def given_to(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor | None:
    """The first tensor that a module was called with."""
    name = next(iter(inspect.signature(module.forward).parameters), None) if options else None
    return first_argument(arguments, options, name)


def _inputs(arguments: tuple[Any, ...], options: dict[str, Any]) -> dict[int | str | None, Tensor]:
    """The tensors that may be a stream among what a module was called with, by place or by name."""
    every: list[tuple[int | str, Any]] = [*enumerate(arguments), *options.items()]
    return {key: one for key, one in every if isinstance(one, Tensor) and one.is_floating_point() and one.ndim}


def _place(output: Any, x: Tensor) -> int | None:
    """Which part of an output is a tensor like x; 0 for the output itself."""
    parts: Any = output if isinstance(output, tuple | list) and not hasattr(output, "_fields") else [output]
    for place, one in enumerate(parts):
        if isinstance(one, Tensor) and one.shape == x.shape and one.is_floating_point():
            return place
    return None


@dataclass
class _Call:
    """How a module was called first, and when.

    inputs: copies of what may be the stream, by place or by name. fitting: those of them that are like its output.
    """

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    inputs: dict[int | str | None, Tensor]
    order: int
    fitting: list[int | str | None] = field(default_factory=list)


def found(model: nn.Module, run: Callable[[], object], patterns: str = "") -> list[Block]:
    """The residual blocks of a model in the order in which `run`, which calls it, calls them.

    Args:
        patterns: names of the blocks, as globs with commas between them: a * stands for what has no dot in it.

    Raises:
        ValueError: none is found, or what is named is none.
    """
    named = dict(model.named_modules())
    calls, pairs = _called(named, run)
    if patterns:
        return _said(named, patterns, calls, pairs)
    kept: dict[str, int] = dict(pairs)
    streams: dict[str, int | str | None] = {}
    for name in sorted(() if pairs else calls, key=lambda one: -len(one.split(".")) if one else 1):  # the inner first
        inner = any(one != name and (not name or one.startswith(f"{name}.")) for one in kept)
        if not inner and (where := _residual(named[name], calls[name])) is not None:
            kept[name], streams[name] = calls[name].order, where
    if not kept:
        raise ValueError(
            f"no residual block was found in {type(model).__name__}: no module returns its input when its weights are "
            f"0. Say which are blocks: --blocks 'layers.*'; {_contents(calls)}"
        )
    return [Block(name, named[name], name in pairs, streams.get(name)) for name in sorted(kept, key=kept.__getitem__)]


def _called(named: dict[str, nn.Module], run: Callable[[], object]) -> tuple[dict[str, _Call], dict[str, int]]:
    """The first call of each module that returns something of its input's shape; and of each pair of calls."""
    calls: dict[str, _Call] = {}
    pairs: dict[str, int] = {}
    order = 0

    def watch(name: str, module: nn.Module) -> Any:
        def before(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            nonlocal order
            inputs = _inputs(arguments, options)
            if inputs and name not in calls:
                order += 1
                kept: dict[int | str | None, Tensor] = {key: one.detach().clone() for key, one in inputs.items()}
                calls[name] = _Call(arguments, options, kept, order)

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def check(name: str, module: nn.Module) -> Any:
        def behind(module: nn.Module, arguments: Any, output: Any) -> None:
            if name in calls and not calls[name].fitting:
                inputs = calls[name].inputs
                calls[name].fitting = [key for key, one in inputs.items() if _place(output, one) is not None]

        return module.register_forward_hook(behind)

    paired = [Block(name, one, True) for name, one in named.items() if name and callable(getattr(one, "prepare", None))]

    def leave(index: int, x: Tensor, output: Tensor) -> Tensor:
        nonlocal order
        order += 1
        pairs.setdefault(paired[index].name, order)
        return output

    handles = [hang(name, module) for name, module in named.items() for hang in (watch, check)]
    try:
        with hung(paired, lambda index, x: x, leave), torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    own = {name: one for name, one in calls.items() if one.fitting and name not in pairs}
    return own, pairs


def _said(named: dict[str, nn.Module], patterns: str, calls: dict[str, _Call], pairs: dict[str, int]) -> list[Block]:
    kept: dict[str, int] = {}
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        names = [name for name in named if _matches(name, pattern)]
        if not names:
            raise ValueError(f"blocks is {pattern!r}, which no module is called; {_contents(named)}")
        usable = {
            name: pairs[name] if name in pairs else calls[name].order for name in names if name in {*calls, *pairs}
        }
        if not usable:
            raise ValueError(
                f"blocks is {pattern!r}, which is {printable(', '.join(names[:3]), 200)}, and none of it was called "
                f"with a tensor and returned one of the same shape, as a residual block does; {_contents(calls)}"
            )
        kept |= usable
    if not kept:
        raise ValueError(f"blocks is {patterns!r}; expected names with commas between them, such as 'layers.*'")
    for name in kept:
        for other in kept:
            if other.startswith(f"{name}."):
                raise ValueError(f"blocks names {name} and {other}, which is in it; expected modules beside each other")
    found: list[Block] = []
    for name in sorted(kept, key=kept.__getitem__):
        where = None
        if name not in pairs:
            known = _residual(named[name], calls[name])
            where = calls[name].fitting[0] if known is None else known
        found.append(Block(name, named[name], name in pairs, where))
    return found


def _matches(name: str, pattern: str) -> bool:
    mine, wanted = name.split("."), pattern.split(".")
    return len(mine) == len(wanted) and all(map(fnmatch.fnmatchcase, mine, wanted))


def _contents(names: Any) -> str:
    shown = [one for one in names if one]
    more = f" and {len(shown) - _NAMES_SHOWN} more" if len(shown) > _NAMES_SHOWN else ""
    return f"modules that may be are {printable(', '.join(shown[:_NAMES_SHOWN]), 600) or 'not there'}{more}"


def _residual(module: nn.Module, call: _Call) -> int | str | None:
    """Which of its inputs a module returns, as it is or normalised, when its weights are 0; None for none."""
    return next((where for where in call.fitting if _returned(module, call, where)), None)


def _returned(module: nn.Module, call: _Call, where: int | str | None) -> bool:
    given = call.inputs[where]
    weights = dict(module.named_parameters())
    if not any(one.ndim >= 2 for one in weights.values()):
        return False
    if "HyperConnection" in type(module).__name__:
        return True
    left = {
        name: torch.zeros_like(one) if one.ndim >= 2 or name.endswith("bias") else torch.ones_like(one)
        for name, one in weights.items()
    }
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(given.shape[-1], generator=generator, dtype=torch.float64).to(given.dtype)

    def ask(line: Tensor) -> Tensor | None:
        """What is made of an input whose tokens and streams are all this line."""
        x = line.expand_as(given).clone()
        arguments = tuple(x if k == where else one for k, one in enumerate(call.arguments))
        options = {name: x if name == where else one for name, one in call.options.items()}
        try:
            with torch.no_grad():
                output: Any = answered(lambda: functional_call(module, left, arguments, options))
        except TargetFault:  # without its weights it cannot be called
            return None
        place = _place(output, x)
        if place is None:
            return None
        return output if isinstance(output, Tensor) else output[place]

    once, twice = ask(line), ask(2 * line)
    if once is None or twice is None:
        return False
    if _alike(once, line.expand_as(once)):
        return True
    centred = line - line.mean()
    return _alike(once, twice) and any(_along(once, one) for one in (line, centred))


def _alike(one: Tensor, other: Tensor) -> bool:
    size = other.abs().max()
    return bool(size > 0) and bool(((one - other).abs().max() <= _TOLERANCE * size).item())


def _along(one: Tensor, line: Tensor) -> bool:
    """Whether every token is a multiple above 0 of the line."""
    scale = (one * line).sum(-1, keepdim=True) / (line * line).sum()
    return bool((scale > 0).all()) and _alike(one, scale * line)


def within(blocks: list[Block], name: str) -> int | None:
    """The block that a module of that name is a part of."""
    places: Iterator[int] = (
        k for k, one in enumerate(blocks) if not one.name or name == one.name or name.startswith(f"{one.name}.")
    )
    return next(places, None)
