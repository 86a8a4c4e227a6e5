"""What `Monitor` hangs on somebody's model: callables that end where a model is copied, pickled or traced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

INERT: Callable[..., None] = (0).__init__
"""A hook that does nothing. A pickle of it names nothing of this package, so that a saved copy of a watched model can
be loaded where this package is not installed."""


def traced() -> bool:
    """Whether a compiler or an exporter is recording what is called: what it sees would become a part of the model."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


class Hook:
    """A hook of a module. A copy of the module has `INERT` instead: it is another model, and nobody watches that."""

    def __init__(self, act: Callable[..., None]) -> None:
        self._act = act

    def __call__(self, *arguments: Any, **options: Any) -> None:
        if not traced():
            self._act(*arguments, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return INERT

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (0, "__init__")


class Watched:
    """A function whose result is shown to `seen`. A copy or a pickle calls the function, and shows it to nobody."""

    def __init__(self, function: Callable[..., Any], seen: Callable[[Any], None]) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.seen: Callable[[Any], None] | None = seen
        """None: nobody looks any more, and the function is handed on as it is."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        emitted = self.function(*arguments, **options)
        if self.seen is not None and not traced():
            self.seen(emitted)
        return emitted

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        import copy

        return copy.deepcopy(self.function, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (self.function,)  # which names nothing of this package either
