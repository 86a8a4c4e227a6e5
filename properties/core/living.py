"""Which tensors that came into being during a call are alive afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode


class Living(TorchFunctionMode):
    """Notes the memory of every tensor that a function of torch gives while this is open, and keeps none of it alive.

    It sees what is called from Python, also inside of a function with a backward pass of its own. It does not see what
    an extension allocates for itself, nor what compiled code keeps to itself.

    Arguments:
        known: tensors that are held by whoever asks, and are not counted.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._noted: set[StorageWeakRef] = set()
        self._groups: list[list[StorageWeakRef]] = []
        self._group: list[StorageWeakRef] = []
        self.note(list(known))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        got = func(*args, **(kwargs or {}))
        if not torch.compiler.is_compiling():
            self.note(got)
        return got

    def begin(self) -> None:
        """What is new from here on is counted together."""
        self._group = []
        self._groups.append(self._group)

    def note(self, got: Any) -> None:
        """The memory of tensors; a weak reference keeps its number from being given to another."""
        if isinstance(got, Tensor):
            with contextlib.suppress(RuntimeError, NotImplementedError):  # a tensor without memory of its own
                reference = StorageWeakRef(got.untyped_storage())
                if reference not in self._noted:
                    self._noted.add(reference)
                    self._group.append(reference)
        elif isinstance(got, (tuple, list)):
            for one in got:  # pyright: ignore[reportUnknownVariableType]
                self.note(one)

    def left(self, beside: Iterable[Sequence[Tensor]] = ()) -> int:
        """How many of the groups have left memory that is still alive, other than that of tensors `beside` it."""
        held = {StorageWeakRef(one.untyped_storage()) for several in beside for one in several}
        return sum(any(not one.expired() and one not in held for one in group) for group in self._groups)
