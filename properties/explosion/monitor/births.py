"""Where what is not finite is born: the first module whose output is not, while all that came before it was.

In a pass that is recorded every innermost module is looked at, going in and coming out; in the others only what the
model returns. The numbers stay on the device until something is not finite.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from properties.explosion.monitor.emissions import is_plain
from properties.explosion.monitor.hooks import Hook
from properties.explosion.monitor.measures import extremes


class Event(NamedTuple):
    """Something that went into a module, or came out of it."""

    name: str
    kind: str
    module: Any  # a weak reference
    out: bool
    extremes: tuple[Tensor, Tensor]


class Course:
    """What was seen of one pass, in its order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._seen: dict[int, tuple[Any, int]] = {}

    def note(self, name: str, module: nn.Module, found: Any, out: bool) -> None:
        for tensor in tensors(found):
            # What one module returns the next one takes: it is looked at once.
            known = self._seen.get(id(tensor))
            version = 0 if tensor.is_inference() else tensor._version
            if known is not None and known[0]() is tensor and known[1] == version:
                continue
            self._seen[id(tensor)] = (weakref.ref(tensor), version)
            at = extremes(tensor.detach())
            self.events.append(Event(name, type(module).__name__, weakref.ref(module), out, at))

    def born(self) -> str | None:
        """Where, in words; None: everything that was seen was finite."""
        if not self.events:
            return None
        table = torch.stack([torch.stack(one.extremes).double().cpu() for one in self.events]).tolist()
        # A mask of -inf is no accident; an output of -inf is one where nothing else is wrong.
        for masks in (True, False):
            for place, (low, high) in enumerate(table):
                if math.isfinite(low) and math.isfinite(high):
                    continue
                if low == -math.inf and math.isfinite(high) and (masks or not self.events[place].out):
                    continue
                return self._said(place)
        return None

    def _said(self, place: int) -> str:
        one = self.events[place]
        if one.out:
            module, own = one.module(), ""
            if module is not None:
                wrong = [name for name, kept in module.named_parameters(recurse=False) if not _finite(kept)]
                own = f", whose {' and '.join(wrong)} is not finite itself" if wrong else ""
            return f"{one.name} ({one.kind}){own}"
        last = self.events[place - 1] if place else None
        after = "in what the model was given" if last is None else f"after {last.name} ({last.kind})"
        return f"{after}, before {one.name} ({one.kind})"


class Births:
    """Hooks on the innermost modules of a model, which hang there only while a pass is recorded."""

    def __init__(self, model: nn.Module) -> None:
        inner = ((name, one) for name, one in model.named_modules() if name and not any(True for _ in one.children()))
        self._modules = [(name, one) for name, one in inner if not isinstance(one, nn.Identity)]
        self._handles: list[Any] = []
        self._lock = threading.Lock()
        self._passes = 0

    def begin(self, note: Any) -> None:
        """`note` is called with (name, module, tensors, whether they came out)."""
        with self._lock:
            self._passes += 1
            if self._passes > 1:
                return
            for name, module in self._modules:
                enter, leave = _sides(name, note)
                self._handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def end(self) -> None:
        with self._lock:
            self._passes = max(0, self._passes - 1)
            if not self._passes:
                for handle in self._handles:
                    handle.remove()
                self._handles.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return Births, (nn.Identity(),)


def _sides(name: str, note: Any) -> tuple[Hook, Hook]:
    """The hooks of a module, going in and coming out."""

    def enter(module: nn.Module, given: Any) -> None:
        note(name, module, given, False)

    def leave(module: nn.Module, given: Any, output: Any) -> None:
        note(name, module, output, True)

    return Hook(enter), Hook(leave)


_DEEPEST = 5


def tensors(found: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors with real numbers in what a module takes or returns."""
    if depth > _DEEPEST:
        return
    if isinstance(found, Tensor):
        if found.numel() and found.is_floating_point() and not is_plain(found):
            yield found
    elif isinstance(found, dict):
        for one in found.values():
            yield from tensors(one, depth + 1)
    elif isinstance(found, list | tuple):
        for one in found:
            yield from tensors(one, depth + 1)


def finite_flag(output: Any) -> Tensor | None:
    """0-dim: whether what a model returns is finite. It is not read here, for that would wait for the device."""
    flags = [torch.stack(extremes(one.detach())).isfinite().all() for one in tensors(output)]
    return None if not flags else flags[0] if len(flags) == 1 else torch.stack([one.cpu() for one in flags]).all()


def _finite(tensor: Tensor) -> bool:
    return all(bool(torch.isfinite(one)) for one in extremes(tensor.detach())) if tensor.numel() else True
