"""What `Monitor` hangs on somebody's model: callables that end where a model is copied, pickled or traced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from properties.explosion.monitor.compiled import compiling, not_alone, tell, uncompiled
from properties.explosion.monitor.troubles import Troubles

INERT: Callable[..., None] = (0).__init__
"""A hook that does nothing. A pickle of it names nothing of this package, so that a saved copy of a watched model can
be loaded where this package is not installed."""


def traced() -> bool:
    """Whether a compiler or an exporter is recording what is called: what it sees would become a part of the model."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


class Hook:
    """A hook of a module. A copy of the module has `INERT` instead: it is another model, and nobody watches that.

    With a key it is also called from compiled code, through an operator that stands in the graph; without one it is not
    there for a compiler.
    """

    def __init__(self, act: Callable[..., None], key: int = 0) -> None:
        self._act = act
        self._key = key

    def __call__(self, module: nn.Module, *given: Any) -> None:
        if not traced():
            uncompiled(self._act, module, *given)
        elif self._key and compiling():
            tell(self._key, given)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return INERT

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (0, "__init__")


for _function in (Hook.__call__, traced, compiling, uncompiled, tell):
    not_alone(_function)


class Watched:
    """A function whose result is shown to `seen`. A copy or a pickle calls the function, and shows it to nobody."""

    def __init__(self, function: Callable[..., Any], seen: Callable[..., None], key: int = 0) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.seen: Callable[..., None] | None = seen
        """Called with what is emitted, and the arguments. None: nobody looks any more."""
        self._key = key

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        emitted = self.function(*arguments, **options)
        if self.seen is not None:
            if not traced():
                uncompiled(self.seen, emitted, arguments, options)
            elif self._key and compiling():
                tell(self._key, (emitted, arguments, options))
        return emitted

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        import copy

        return copy.deepcopy(self.function, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (self.function,)  # which names nothing of this package either


class Attached:
    """What hangs on the modules of a model, and how it is taken off again. A copy hangs on nothing."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles
        self._undo: list[Callable[[], Any]] = []
        self._handles: list[Any] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def __reduce__(self) -> tuple[Any, ...]:
        return Attached, (self._troubles,)

    def undo(self, undone: Callable[[], Any]) -> None:
        """Call this too when everything is taken off."""
        self._undo.append(undone)

    def hook(self, handle: Any) -> None:
        """Keep what torch gave for a hook that was registered."""
        self._handles.append(handle)
        self._undo.append(handle.remove)

    def watch(self, module: nn.Module, name: str, seen: Callable[..., None], key: int = 0) -> None:
        """Show `seen` what a function takes and returns that the module keeps as an attribute."""
        own = name in vars(module)
        inner = getattr(module, name)
        watched = Watched(inner, seen, key)
        setattr(module, name, watched)

        def undo() -> None:
            watched.seen = None  # where somebody has wrapped it again, it stays and looks no more
            if vars(module).get(name) is watched:
                if own:
                    setattr(module, name, inner)
                else:
                    delattr(module, name)

        self._undo.append(undo)

    def missing(self) -> bool:
        """Whether somebody has removed a hook of ours, which is a trouble."""
        gone = 0
        with self._troubles.instead("hooks", "whether the hooks are in their places cannot be told"):
            gone = sum(handle.id not in (handle.hooks_dict_ref() or ()) for handle in self._handles)
        if gone:
            self._troubles.say("hooks", f"{gone} hooks were removed by somebody else, so that layers are not seen")
        return bool(gone)

    def detach(self) -> None:
        for undo in reversed(self._undo):
            with self._troubles.instead("hooks", "a hook cannot be removed"):
                undo()
        self._undo.clear()
        self._handles.clear()
