"""How an implementation is found: the grammar of `--impl TARGET`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch

from mhc_ref import PRESETS, Dialect
from mhc_ref.dialect import MAX_PERMUTATION_STREAMS
from properties.bounds import PRODUCTS
from properties.implementation import (
    METHODS,
    Implementation,
    Projection,
    Reference,
    dtype_names,
    offers,
    overrides,
)
from properties.surroundings import told

FORMS = (
    "ref, ref:PRESET, published:NAME, deviation:NAME[@PRESET], control:NAME[@PRESET], proc:COMMAND, "
    "path/to/file.py:attr, package.module:attr"
)


class TargetError(Exception):
    """A target that cannot be used: what was given, what was expected, and the likely cause."""


def preset(name: str) -> Dialect:
    """The dialect of that name; TargetError where there is none."""
    if name not in PRESETS:
        raise TargetError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


@told()
def resolve(target: str, dialect: str | None = None) -> Implementation:
    """The implementation that `target` names. `dialect` is the preset that plain functions are judged against.

    Raises:
        TargetError: nothing usable is there; the message says what was found and what was expected.
    """
    kind, _, rest = target.partition(":")
    if target == "ref":
        found: Any = Reference(PRESETS["PAPER"], "ref:PAPER")
    elif kind == "ref":
        found = Reference(preset(rest), target)
    elif kind == "published":
        found = _catalogued("properties.published", rest, "published")
    elif kind in ("deviation", "control"):
        name, _, of = rest.partition("@")
        found = _catalogued(f"properties.{kind}s", name, kind, preset(of or "PAPER"))
    elif kind == "proc":
        found = _catalogued("properties.process", rest, "proc")
    else:
        found = _attribute(target)
    implementation = _implementation(found, target, dialect)
    if not implementation.name:
        implementation.name = (
            target if kind in ("ref", "published", "deviation", "control") else _short(target, implementation)
        )
    _check(implementation, target)
    return implementation


def _catalogued(module: str, name: str, kind: str, *arguments: object) -> Any:
    if importlib.util.find_spec(module) is None:
        raise TargetError(f"{kind}:{name}: this version has no {kind} targets ({module} is not installed)")
    catalogue = importlib.import_module(module)
    try:
        return catalogue.build(name, *arguments)
    except LookupError as error:
        raise TargetError(f"{kind}:{name}: {error.args[0] if error.args else error}") from error
    except ImportError as error:
        raise TargetError(f"{kind}:{name}: importing its library failed: {error}. Is the extra installed?") from error


def _attribute(target: str) -> Any:
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise TargetError(f"{target!r} names no implementation; the forms are {FORMS}")
    module = _file_module(Path(place), target) if place.endswith(".py") else _module(place, target)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        names = sorted(name for name in vars(module) if not name.startswith("_"))
        raise TargetError(
            f"{target}: {place} has no attribute {attribute!r}; it has {', '.join(names) or 'none'}"
        ) from error
    except (Exception, SystemExit) as error:  # a module's own __getattr__ may raise anything
        raise TargetError(
            f"{target}: reading {attribute!r} of {place} raised {type(error).__name__}: {error}"
        ) from error


def _file_module(path: Path, target: str) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"{target}: there is no file {path} (looked from {Path.cwd()})")
    resolved = path.resolve()
    name = f"_mhc_target_{resolved.stem}_{abs(hash(str(resolved))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise TargetError(f"{target}: {path} is not a Python file that can be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(resolved.parent))  # so that the file can import its neighbours
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TargetError(f"{target}: importing {path} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(resolved.parent))
    return module


def _module(name: str, target: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except (
        Exception,
        SystemExit,
    ) as error:  # whatever a foreign module raises while it is imported is a harness error, never a verdict
        hint = (
            f"; the forms are {FORMS}"
            if isinstance(error, ModuleNotFoundError) and name.split(".")[0] in str(error)
            else ""
        )
        raise TargetError(f"{target}: importing {name} raised {type(error).__name__}: {error}{hint}") from error
    finally:
        sys.path.remove(str(Path.cwd()))


def _implementation(found: Any, target: str, dialect: str | None) -> Implementation:
    if isinstance(found, Implementation):
        return found
    if not callable(found):
        raise TargetError(
            f"{target} is {type(found).__name__}; expected an Implementation, a class or function that makes one, "
            "or a function logits -> h_res"
        )
    if isinstance(found, type) or not _required_arguments(found):
        try:
            made: object = found()
        except (Exception, SystemExit) as error:
            raise TargetError(
                f"{target}: calling it without arguments raised {type(error).__name__}: {error}"
            ) from error
        if isinstance(made, Implementation):
            return made
        if callable(made) and not isinstance(found, type):
            found = made
        else:
            raise TargetError(
                f"{target}: calling it gave {type(made).__name__}, which is no properties.Implementation "
                f"(subclass it and override some of {', '.join(METHODS)})"
            )
    if dialect is None:
        raise TargetError(
            f"{target} is a plain function, taken as logits -> h_res; say which mathematics it claims with --dialect "
            f"({', '.join(PRESETS)})"
        )
    return Projection(cast(Any, found), preset(dialect), _short(target, found))


def _required_arguments(function: Any) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1  # built-in callables without a signature: taken as a projection
    # One that takes anything takes logits too: torch modules and compiled functions are all (*args, **kwargs).
    optional = (inspect.Parameter.VAR_KEYWORD,)
    return sum(p.default is inspect.Parameter.empty and p.kind not in optional for p in parameters)


def _short(target: str, found: object) -> str:
    attribute = target.rpartition(":")[2]
    return attribute or type(found).__name__


_SEQUENCES = {
    "streams": "the accepted numbers of streams, such as (2, 4)",
    "dtypes": "the accepted dtypes of the state, such as (torch.float32,)",
    "tunable": "a set of names of Dialect fields",
    "emits": "some of pre, post, res",
    "devices": "the types of device that it computes on, such as ('cuda',)",
}


def _is_device_type(name: object) -> bool:
    try:
        return isinstance(name, str) and torch.device(name).type == name
    except RuntimeError:
        return False


def _check(implementation: Implementation, target: str) -> None:
    if not isinstance(implementation.dialect, Dialect):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TargetError(
            f"{target}: .dialect is {implementation.dialect!r}; expected a mhc_ref.Dialect, such as mhc_ref.PAPER"
        )
    if not offers(implementation):
        raise TargetError(f"{target} overrides none of {', '.join(METHODS)}: there is nothing to verify")
    for field, expected in _SEQUENCES.items():
        given: object = getattr(implementation, field)
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TargetError(f"{target}: .{field} is {given!r}; expected {expected}")
    streams = implementation.streams
    if not streams or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in streams):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TargetError(
            f"{target}: .streams is {streams!r}; expected the accepted numbers of streams, such as (2, 4)"
        )
    if implementation.dialect.residual == "permutations" and max(streams) > MAX_PERMUTATION_STREAMS:
        raise TargetError(
            f"{target}: .streams is {streams!r}; the permutation mixture has n! logits, so it is verified up to "
            f"n = {MAX_PERMUTATION_STREAMS}"
        )
    silent = set(implementation.emits) - {"pre", "post", "res"}
    if silent:
        raise TargetError(f"{target}: .emits names {sorted(silent)}; expected some of pre, post, res")
    if not implementation.emits:
        raise TargetError(f"{target}: .emits is empty; expected some of pre, post, res: what mappings returns")
    if implementation.mixing not in ("compute", "state"):
        raise TargetError(f"{target}: .mixing is {implementation.mixing!r}; expected 'compute' or 'state'")
    if implementation.products not in PRODUCTS:
        raise TargetError(f"{target}: .products is {implementation.products!r}; expected one of {', '.join(PRODUCTS)}")
    for device in implementation.devices:
        if not _is_device_type(device):
            raise TargetError(
                f"{target}: .devices names {device!r}; expected types of device that torch knows, without a number, "
                "such as 'cpu' and 'cuda' (an NVIDIA or AMD GPU)"
            )
    most, least = implementation.max_tokens, implementation.least_scale
    if not _is_count(most):
        raise TargetError(
            f"{target}: .max_tokens is {most!r}; expected an integer of 1 or more; left out, it is any number"
        )
    multiple = implementation.channel_multiple
    if not _is_count(multiple):
        raise TargetError(
            f"{target}: .channel_multiple is {multiple!r}; expected an integer of 1 or more, of which the number of "
            "channels is a multiple"
        )
    if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 <= least <= 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TargetError(f"{target}: .least_scale is {least!r}; expected a number from 0 to 1, such as 1e-6")
    unknown = set(implementation.tunable) - set(Dialect.__dataclass_fields__)
    if unknown:
        raise TargetError(f"{target}: .tunable names {sorted(unknown)}, which are no fields of Dialect")
    if implementation.tunable and not overrides(implementation, "tuned"):
        raise TargetError(
            f"{target}: .tunable names {sorted(implementation.tunable)}, but tuned(**fields) is not overridden; "
            "expected it to return the same implementation with those fields of the dialect changed"
        )
    try:
        names = dtype_names(implementation)
    except TypeError as error:
        raise TargetError(f"{target}: {error}") from error
    if not names:
        raise TargetError(f"{target}: .dtypes is empty; expected at least one floating dtype")


def _is_count(value: object) -> bool:
    """Whether what somebody declared is an integer of 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
