"""Where the hyper-connections of a model are, and which tensor of theirs is h_res."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from properties.explosion.monitor.known import KNOWN, Emission, known

__all__ = ["KNOWN", "Chooser", "Emission", "chosen", "first_argument", "is_plain", "square"]

Chooser = Iterable[str | type[nn.Module]] | Callable[[str, nn.Module], bool]


def square(output: Any) -> Tensor:
    """The one tensor [..., n, n] with a token axis in what a module returned.

    Looked at are the tensor itself, and the members of a tuple, a list, a mapping or a dataclass.

    Raises:
        ValueError: there is none, or more than one.
    """
    if isinstance(getattr(output, "res", None), Tensor):  # mhc_ref.Mappings
        return output.res
    if isinstance(output, Mapping):
        parts: Sequence[Any] = list(cast("Mapping[Any, Any]", output).values())
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        parts = [getattr(output, field.name, None) for field in dataclasses.fields(output)]
    else:
        parts = cast("Sequence[Any]", output) if isinstance(output, list | tuple) else [output]
    tensors = [one for one in parts if isinstance(one, Tensor)]
    found = [one for one in tensors if one.ndim >= 3 and one.shape[-1] == one.shape[-2] > 1]
    if len(found) != 1:
        shapes = [tuple(one.shape) for one in tensors]
        raise ValueError(
            f"a hyper-connection returned {type(output).__name__} with tensors of shapes {shapes}; expected exactly "
            "one [..., n, n]. Say which is h_res: Monitor(..., operator=lambda output: ...)"
        )
    return found[0]


def first_argument(arguments: Sequence[Any], options: Mapping[str, Any], name: str | None) -> Tensor | None:
    """The first tensor that a module was called with, by position, or by `name`, that of its first parameter."""
    for one in arguments:
        if isinstance(one, Tensor):
            return one
    one = options.get(name) if name is not None else None
    return one if isinstance(one, Tensor) else None


def chosen(
    model: nn.Module, modules: Chooser | None, what: str = "hyper-connections", said: str = "modules"
) -> list[tuple[str, nn.Module]]:
    """The hyper-connections (or `what` else is looked for) of a model, each once, by the first name that it has.

    `said` is what the argument is called that names them.

    Raises:
        TypeError: `modules` is of another kind than the signature says.
        ValueError: nothing is named, or something that is named is not in the model.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    if modules is None:
        accepts: Callable[[str, nn.Module], bool] = lambda name, one: known(one) is not None  # noqa: E731
        expected = f"by default the classes {', '.join(KNOWN)}"
    elif isinstance(modules, str | bytes | type | nn.Module):
        shown = repr(modules) if isinstance(modules, str | bytes) else f"the {_kind(modules)}"
        raise TypeError(
            f"{said} is {shown}; expected a list of names or classes, such as "
            f"[{modules.__name__ if isinstance(modules, type) else repr('layers.0')}], or a predicate of (name, module)"
        )
    elif callable(modules):
        accepts = _guarded(modules, what, said)
        expected = "modules that the predicate accepts"
    else:
        names, classes = _listed(modules, what, said)
        for given in (*names, *classes):
            if not any(
                name == given or (isinstance(given, type) and isinstance(one, given)) for name, one in named.items()
            ):
                shown = given if isinstance(given, str) else given.__name__
                raise ValueError(f"{said} names {shown}, which is not there: {_contents(model, named, said, shown)}")
        accepts = lambda name, one: name in names or isinstance(one, classes)  # noqa: E731
        expected = f"modules among {[*names, *(one.__name__ for one in classes)]}"
    found: dict[nn.Module, str] = {}
    for name, one in named.items():
        if one not in found and accepts(name, one):
            found[one] = name
    if not found:
        raise ValueError(f"{type(model).__name__} has no {what} ({expected}); {_contents(model, named, said)}")
    return [(name, one) for one, name in found.items()]


def _listed(modules: Any, what: str, said: str) -> tuple[tuple[str, ...], tuple[type[nn.Module], ...]]:
    try:
        given = list(modules)
    except TypeError:
        raise TypeError(
            f"{said} is {modules!r}; expected a list of names or classes, or a predicate of (name, module)"
        ) from None
    for one in given:
        if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            raise TypeError(f"{said} has the entry {_kind(one)}; expected names and classes of modules only")
    if not given:
        raise ValueError(f"{said} is empty; expected at least one name or class of {what}")
    return tuple(one for one in given if isinstance(one, str)), tuple(one for one in given if isinstance(one, type))


def _guarded(predicate: Callable[[str, nn.Module], bool], what: str, said: str) -> Callable[[str, nn.Module], bool]:
    def accepts(name: str, module: nn.Module) -> bool:
        try:
            return bool(predicate(name, module))
        except Exception as error:  # the user's own function, called once for each module before anything runs
            raise ValueError(
                f"the predicate `{said}` raised {type(error).__name__} for {name!r}: {error}; expected a function of "
                f"(name, module) that returns whether the module is one of the {what}"
            ) from error

    return accepts


def _kind(one: Any) -> str:
    if isinstance(one, type):
        return f"class {one.__name__}"
    return f"module {type(one).__name__}" if isinstance(one, nn.Module) else repr(one)


def _contents(model: nn.Module, named: Mapping[str, nn.Module], said: str, missing: str | None = None) -> str:
    kinds = sorted({type(one).__name__ for one in named.values()})
    near = [name for name in named if missing and name and (name.endswith(missing) or missing.endswith(name))]
    similar = f" (is it {near[0]!r}?)" if near else ""
    return f"{type(model).__name__} has the classes {', '.join(kinds[:12])}{similar}. " + (
        "Name them: Monitor(model, modules=[MyHyperConnection]); or record by hand: monitor.record(h_res, x)"
        if said == "modules"
        else "Name them: Monitor(model, blocks=[MyBlock])"
    )


def is_plain(tensor: Tensor) -> str:
    """Why numbers cannot be read from a tensor, or "": it has no storage, or no rows."""
    if tensor.is_meta:
        return "is on the device meta, which holds no numbers"
    if tensor.layout != torch.strided:
        return f"has the layout {tensor.layout}; expected a strided tensor"
    if tensor.is_nested:
        return "is nested; expected a tensor of one shape"
    return ""
