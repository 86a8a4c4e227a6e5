"""A model that is run on inputs with some of its blocks left out, and what its blocks returned on the way.

A block that is left out returns its input. Inputs go through in batches where each has the same states in company as
alone, which is tried; otherwise one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mhc_ref import Dialect
from properties.core.pulling import gradients
from properties.explosion.models.finding import Block, found, given_to, hung, within
from properties.explosion.models.inputs import Kind, Layout, layouts
from properties.explosion.monitor.emissions import square
from properties.explosion.monitor.known import Emission, emitted_by
from properties.guards.faults import TargetFault, answered
from properties.targets.target import TargetError

_BATCH_NUMBERS = 2**22
"""Numbers in the states of a batch, over all blocks: what goes through at once."""
_COMPANY = 1e-3
"""The largest relative difference between the states of an input alone and in company that rounding may explain."""


@dataclass(frozen=True)
class Passed:
    """What happened to N inputs.

    Attributes:
        entered: what entered the first block, [N, ...].
        states: what each block returned, in order, [N, ...] each; of one that runs several times all that it returned,
            [N, numbers].
        left: what the last call of a block returned, [N, ...].
        mixed: of each hyper-connection that is known the operator that it applied, [N, ..., n, n], in order.
    """

    entered: Tensor
    states: list[Tensor]
    left: Tensor
    mixed: list[Tensor]


class Runner:
    """A model with its blocks, its input and the way in which it takes that."""

    def __init__(self, model: nn.Module, name: str, kind: Kind, layout: Layout, blocks: list[Block]) -> None:
        self.model = model
        self.kind = kind
        self.blocks = blocks
        self._name = name
        self._layout = layout
        self._dtype = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
        self._row = 1
        self._hyper: list[tuple[int, nn.Module, Emission, Dialect | None]] = []
        for path, module in model.named_modules():
            known, declared = emitted_by(module)
            place = within(blocks, path)
            if known is not None and place is not None:
                self._hyper.append((place, module, known, declared))

    @property
    def every(self) -> frozenset[int]:
        """All blocks."""
        return frozenset(range(len(self.blocks)))

    @property
    def single(self) -> bool:
        """Whether the model takes one token only."""
        return self._layout.single or not self.kind.tokens

    @property
    def mixes(self) -> list[Dialect | None]:
        """What the hyper-connections declare that are known, of which `Passed.mixed` tells."""
        return [declared for *_, declared in self._hyper]

    @property
    def dtype(self) -> str:
        """That of the weights."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def streams(self) -> int:
        """How many there are, as hyper-connections say it; 1 where none does."""
        said = (getattr(one, "num_residual_streams", getattr(one, "hc_mult", None)) for one in self.model.modules())
        return next((one for one in said if isinstance(one, int) and one > 0), 1)

    @property
    def words(self) -> str:
        """How inputs are given."""
        return self._layout.words

    def batches(self, inputs: Tensor) -> Iterator[Tensor]:
        """Inputs as many at once as there is room for."""
        rows = 1 if self._layout.axis is None else max(1, min(64, _BATCH_NUMBERS // self._row))
        yield from inputs.split(rows)

    def passed(self, inputs: Tensor, kept: frozenset[int], nudge: Tensor | None = None) -> Passed:
        """The states of inputs [N, T, ...] of one batch, of the blocks `kept` alone.

        `nudge` [N, ...] is added to what enters the first block.

        Raises:
            TargetError: the model raised.
            ValueError: its blocks did not run.
        """
        entered: list[Tensor] = []
        states: dict[int, list[Tensor]] = {}
        left = torch.empty(0)

        def enter(index: int, x: Tensor) -> Tensor:
            if not entered:
                if nudge is not None:
                    x = x + self._unsplit(nudge, x)
                entered.append(x.clone())  # a block may write into what it is given
            return x

        def leave(index: int, x: Tensor, output: Tensor) -> Tensor:
            nonlocal left
            result = output if index in kept else x
            left = result.clone()
            states.setdefault(index, []).append(left)
            return result

        with hung(self.blocks, enter, leave), self._mixing(kept) as mixed:
            self.run(inputs)
        if not entered or len(states) != len(self.blocks):
            raise ValueError(f"{self._name}: {len(self.blocks) - len(states)} of its blocks did not run")
        rows = functools.partial(self._split, count=len(inputs))
        several = [list(map(rows, states[k])) for k in range(len(self.blocks))]
        returned = [
            every[0] if len(every) == 1 else torch.cat([one.flatten(1) for one in every], 1) for every in several
        ]
        return Passed(rows(entered[0]), returned, rows(left), [*map(rows, mixed)])

    def slope(self, height: Tensor, at: Tensor) -> Tensor:
        """The gradient of a number by a tensor.

        Raises:
            TargetError: the model cannot be differentiated.
        """

        def taken() -> Tensor:
            (found,) = gradients(height, [at])
            if found is None:
                raise RuntimeError("the output does not depend on the input")
            return found

        try:
            return answered(taken)
        except TargetFault as fault:
            raise TargetError(
                f"{self._name}: the gradient by its input could not be taken: {fault}; expected a model that can be "
                "differentiated, without no_grad, detach or writing into what its gradient needs"
            ) from fault.error

    def run(self, inputs: Tensor) -> None:
        """Call the model once, for inputs [N, T, ...] of one batch.

        Raises:
            TargetError: the model raised.
        """
        given = self._layout.arranged(inputs if self.kind.ids else inputs.to(self._dtype))
        try:
            answered(lambda: self.model(given.clone()))  # it may write into its input
        except TargetFault as fault:
            kind = str(given.dtype).removeprefix("torch.")
            raise TargetError(
                f"{self._name}: the model raised {fault} for an input {kind} {tuple(given.shape)}"
            ) from fault.error

    def one_by_one(self) -> Runner:
        """The same model, which is given one input at a time."""
        return Runner(self.model, self._name, self.kind, replace(self._layout, axis=None), self.blocks)

    @contextmanager
    def _mixing(self, kept: frozenset[int]) -> Generator[list[Tensor]]:
        mixed: list[Tensor] = []

        with ExitStack() as stack:
            for place, module, known, declared in self._hyper:
                if place in kept:
                    stack.enter_context(_emitting(module, known, declared, mixed))
            yield mixed

    def _split(self, state: Tensor, count: int) -> Tensor:
        """A state as [N, ...]: where the streams are a part of the batch, those of an input are beside each other."""
        if self._layout.axis is None:
            return state[None]
        moved = state.movedim(self._layout.axis, 0)
        if len(moved) % count:
            raise ValueError(f"{self._name}: a state of shape {tuple(state.shape)} has no batch of {count} in it")
        return moved if len(moved) == count else moved.unflatten(0, (count, -1))

    def _unsplit(self, rows: Tensor, x: Tensor) -> Tensor:
        """[N, ...] as the model has its states."""
        if self._layout.axis is None:
            return rows[0]
        flat = rows if rows.ndim == x.ndim else rows.flatten(0, 1)
        return flat.movedim(0, self._layout.axis)

    def apart(self, inputs: Tensor) -> bool:
        """Whether each input of a batch has the states that it has alone."""
        with torch.no_grad():
            together = self.passed(inputs, self.every)
            self._row = sum(one[0].numel() for one in (together.entered, *together.states))
            for k in range(len(inputs)):
                alone = self.passed(inputs[k : k + 1], self.every)
                for mine, theirs in zip(alone.states, together.states, strict=True):
                    if mine[0].shape != theirs[k].shape:
                        return False
                    size = mine.abs().max()
                    if bool(((mine[0] - theirs[k]).abs().max() > _COMPANY * size).item()):
                        return False
        return True


@contextmanager
def _emitting(module: nn.Module, known: Emission, declared: Dialect | None, mixed: list[Tensor]) -> Generator[None]:
    """While it is open, what a hyper-connection applies goes into `mixed`."""

    def seen(x: Tensor | None, emitted: Any) -> None:
        if known.computed is not None:
            if x is None:
                return
            streams = known.streams(module, x)
            flat = known.computed(module, streams.reshape(-1, *streams.shape[-2:]))
            emitted = flat.unflatten(0, streams.shape[:-2])
        elif known.function is None:
            emitted = (known.operator or square)(emitted)
        mixed.append(emitted.mT if declared is not None and declared.transposed else emitted)

    if known.function is None:

        def behind(module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
            seen(given_to(module, arguments, options), output)

        handle = module.register_forward_hook(behind, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        return
    name, own, inner = known.function, known.function in vars(module), getattr(module, known.function)

    def heard(*arguments: Any, **options: Any) -> Any:
        emitted = inner(*arguments, **options)
        seen(next((one for one in (*arguments, *options.values()) if isinstance(one, Tensor)), None), emitted)
        return emitted

    setattr(module, name, heard)
    try:
        yield
    finally:
        if own:
            setattr(module, name, inner)
        else:
            delattr(module, name)


def runner_of(model: nn.Module, name: str, kind: Kind, tokens: int, patterns: str) -> Runner:
    """A model that can be run: how it takes its input and where its blocks are is found.

    Raises:
        TargetError: it raised for every layout of the input that was tried.
        ValueError: no block was found.
    """
    generator = torch.Generator().manual_seed(0)
    raised: list[TargetError] = []
    works: list[Runner] = []
    alone: list[Runner] = []  # that take a batch of one only
    for layout in layouts(kind):
        count = 1 if layout.single else tokens
        inputs = kind.random(2, count, generator)
        try:
            runner = _looked(model, name, kind, layout, inputs, patterns)
        except TargetError as error:
            raised.append(error)
            with suppress(ValueError, TargetError):
                alone.append(_looked(model, name, kind, layout, inputs[:1], patterns))
            continue
        try:
            if runner.apart(inputs):
                return runner
        except (ValueError, TargetError):  # states in which the batch cannot be seen, or a batch of one is refused
            pass
        works.append(runner)
    if not works and not alone:
        raise TargetError(
            f"{raised[0]}; expected a model that takes {kind.shown}: say with --input what it takes, or give a "
            "function that wraps it"
        ) from raised[0]
    return [*works, *alone][0].one_by_one()


def _looked(model: nn.Module, name: str, kind: Kind, layout: Layout, inputs: Tensor, patterns: str) -> Runner:
    """A runner whose blocks are those that are called for these inputs."""
    runner = Runner(model, name, kind, layout, [])
    with torch.no_grad():
        runner.run(inputs)
        blocks = found(model, lambda: runner.run(inputs), patterns)
    return Runner(model, name, kind, layout, blocks)
