"""How an implementation is found: the grammar of `--impl TARGET`."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from torch import nn

from mhc_ref import PRESETS, Dialect
from properties.core.declaration import DeclarationError
from properties.core.implementation import METHODS, Implementation, Projection, Reference
from properties.core.settling import settle
from properties.core.titles import WITH, changed
from properties.families import claims
from properties.guards.faults import HarnessError, TargetFault, answered, described
from properties.guards.interruption import watched
from properties.guards.printable import message_of, printable
from properties.guards.surroundings import told
from properties.guards.traces import excerpt

T = TypeVar("T")

FORMS = (
    "ref, ref:PRESET, published:NAME, deviation:NAME[@PRESET], control:NAME[@PRESET], mutant:SEED:INDEX, proc:COMMAND, "
    "path/to/file.py:attr, package.module:attr"
)
KINDS = ("ref", "published", "deviation", "control", "mutant", "proc")
"""What may stand before the colon of a target that is no place of Python code."""


class TargetError(Exception):
    """A target that cannot be used: what was given, what was expected, and the likely cause.

    The text of strangers in it (names, messages of exceptions) is as a terminal may show it.

    Attributes:
        message: the sentence by itself.
        code: the lines of the target's own code that led there, which stand below the sentence; "" where there are
            none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        self.message, self.code = printable(message, 6000), code
        super().__init__("\n    ".join((self.message, *code.splitlines())))


CLAIMS = "claims:"
"""Where a dialect is asked for: what follows is claimed of h_res, see `properties.families.claimed`."""


def preset(name: str) -> Dialect:
    """The dialect of that name, such as ``PAPER`` or ``PAPER with rms_eps=1e-6``, or of the claims after `CLAIMS`;
    TargetError where there is none."""
    if name.startswith(CLAIMS):
        try:
            return claims(*name.removeprefix(CLAIMS).split(","))
        except ValueError as error:
            raise TargetError(f"{name!r}: {error}") from error
    base, more, changes = name.partition(WITH)
    if base not in PRESETS:
        raise TargetError(f"there is no preset {base!r}; the presets are {', '.join(PRESETS)}{_nearest(base, PRESETS)}")
    try:
        return changed(PRESETS[base], changes) if more else PRESETS[base]
    except ValueError as error:
        raise TargetError(f"{name!r}: {error}") from error


def _preset_of(target: str, name: str) -> Dialect:
    """The preset that a target names; the message says which target that is, as there may be several."""
    try:
        return preset(name)
    except TargetError as error:
        raise TargetError(f"{target.removesuffix(':')}: {error}") from error


@told()
def resolve(target: str, dialect: str | None = None) -> Implementation:
    """The implementation that `target` names. `dialect` is the preset that plain functions are judged against.

    Raises:
        TargetError: nothing usable is there, or `dialect` names no preset; the message says what was found and what was
            expected.
    """
    if dialect is not None:
        preset(dialect)
    kind, _, rest = target.partition(":")
    if target == "ref":
        found: Any = Reference(PRESETS.default, f"ref:{PRESETS.first}")
    elif kind == "ref":
        found = Reference(_preset_of(target, rest), target)
    elif kind == "published":
        found = _catalogued("properties.targets.published", rest, "published")
    elif kind in ("deviation", "control", "mutant"):
        name, _, of = rest.partition("@")
        found = _catalogued(f"properties.catalogue.{kind}s", name, kind, _preset_of(target, of) if of else None)
    elif kind == "proc":
        found = _catalogued("properties.targets.process", rest, "proc")
    else:
        found = attribute_of(target)
    implementation = _implementation(found, target, dialect)
    check(implementation, target)
    if not implementation.name:
        named = target if kind in KINDS[:-1] else _short(target, implementation)
        plain = printable(named, 200).replace("\n", "\\n").replace("\t", "\\t")
        asked(f"{target}: setting .name", lambda: setattr(implementation, "name", plain))
    return implementation


def check(implementation: Implementation, target: str) -> None:
    """Check what an implementation declares, and write it down as `settling.settle` does.

    Raises:
        TargetError: a declaration that cannot be used.
    """
    try:
        settle(implementation)
    except DeclarationError as error:
        joint = " " if str(error).startswith("overrides") else ": "
        raise TargetError(f"{target}{joint}{error}") from error


def _nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean ...?", where one of the names is near."""
    folded = {one.casefold(): one for one in names}
    found = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[found[0]]}?" if found else ""


def asked(doing: str, ask: Callable[[], T], hint: str = "") -> T:
    """What code of a target gives; whatever it raises, exits too, is a TargetError, which ends with the `hint`.

    The working folder stays the one it was: reports and other targets are found from where the user is.
    """
    folder = _folder()
    try:
        with watched():
            return answered(ask)
    except TargetFault as fault:
        if isinstance(fault.error, TargetError):
            raise fault.error from fault.error.__cause__
        raise TargetError(f"{doing} raised {fault}{hint}", excerpt(fault.error)) from fault.error
    except HarnessError as error:  # an adapter that the module makes, and that cannot work
        raise TargetError(f"{doing} raised {described(error)}{hint}", excerpt(error)) from error
    finally:
        if folder is not None and folder != _folder():
            with contextlib.suppress(OSError):
                os.chdir(folder)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _catalogued(module: str, name: str, kind: str, *arguments: object) -> Any:
    if importlib.util.find_spec(module) is None:
        raise TargetError(f"{kind}:{name}: this version has no {kind} targets ({module} is not installed)")
    catalogue = importlib.import_module(module)

    def build() -> Any:
        try:
            return catalogue.build(name, *arguments)
        except LookupError as error:
            if kind == "published" and name in catalogue.ADAPTERS:  # the library's own
                raise
            near = _nearest(name, catalogue.ADAPTERS) if kind == "published" else ""
            raise TargetError(f"{kind}:{name}: {error.args[0] if error.args else error}{near}") from error
        except ImportError as error:
            raise TargetError(
                f"{kind}:{name}: importing its library failed: {message_of(error)}. In the version that is verified it "
                f"comes with pip install 'mhc-properties[{catalogue.extra_of(name)}]'"
            ) from error

    return asked(f"{kind}:{name}: making it", build) if kind == "published" else build()


def attribute_of(target: str) -> Any:
    """What a target of the last two forms names, as it is there: path/to/file.py:attr, package.module:attr.

    Raises:
        TargetError: nothing is there, or reading it raised something.
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        if os.path.isdir(target):
            raise TargetError(f"{target!r} is a folder, which `mhc-properties check` takes; expected {FORMS}")
        raise TargetError(f"{target!r} names no implementation; the forms are {FORMS}{_meant(target)}")
    module = file_module(Path(place), target) if place.endswith(".py") else _module(place, target)

    def read() -> Any:
        try:
            return getattr(module, attribute)
        except AttributeError as error:
            names = sorted(name for name in vars(module) if not name.startswith("_"))
            raise TargetError(
                f"{target}: {place} has no attribute {attribute!r}; it has {', '.join(names) or 'none'}"
                f"{_nearest(attribute, names)}"
            ) from error

    return asked(f"{target}: reading {attribute!r} of {place}", read)  # a module may have a __getattr__


def _meant(target: str) -> str:
    """What was probably meant by a target that begins like one of a catalogue."""
    kind, _, rest = target.partition(":")
    near = difflib.get_close_matches(kind.casefold(), KINDS, n=1)
    return f"; did you mean {near[0]}{':' + rest if rest else ''}?" if near else ""


def file_module(path: Path, target: str) -> ModuleType:
    """The module of a Python file, imported once.

    Raises:
        TargetError: there is no such file, or importing it raised something; it names `target`.
    """
    try:
        there, resolved = path.is_file(), path.resolve()
    except (OSError, ValueError) as error:  # a name that is too long, a loop of links
        raise TargetError(f"{target}: {path} cannot be looked up: {message_of(error)}") from error
    if not there:
        raise TargetError(f"{target}: there is no file {path} (looked from {_folder()})")
    name = module_name(resolved)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise TargetError(f"{target}: {path} is not a Python file that can be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    execute = spec.loader.exec_module
    try:
        with _first_on_path(str(resolved.parent)):  # the file can import its neighbours
            asked(f"{target}: importing {path}", lambda: execute(module))
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def module_name(path: Path) -> str:
    """What the module of a file is called, the same in every process: workers know its classes by it."""
    return f"_mhc_target_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


def _module(name: str, target: str) -> ModuleType:
    try:
        with _first_on_path(_folder() or "."):
            return asked(f"{target}: importing {name}", lambda: importlib.import_module(name))
    except TargetError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and name.split(".")[0] in str(missing):
            raise TargetError(f"{error.message}; the forms are {FORMS}{_meant(target)}", error.code) from missing
        raise


@contextlib.contextmanager
def _first_on_path(folder: str) -> Generator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a target may have set another path
            sys.path.remove(folder)


def _implementation(found: Any, target: str, dialect: str | None) -> Implementation:
    def look() -> tuple[bool, bool, bool]:  # a __class__ or __getattr__ of a stranger may raise anything
        usable = callable(found)
        makes = usable and (isinstance(found, type) or not _required_arguments(found))
        return isinstance(found, Implementation), usable, makes

    ready, usable, makes = asked(f"{target}: looking at it", look)
    if ready:
        return found
    if not usable:
        inside = ""
        if issubclass(type(found), ModuleType):
            inside = f"; in it are {', '.join(name for name in vars(found) if not name.startswith('_')) or 'no names'}"
        raise TargetError(
            f"{target} is {type(found).__name__}; expected an Implementation, a class or function that makes one, "
            f"or a function logits -> h_res{inside}"
        )
    if makes:

        def make() -> tuple[Any, bool, bool]:
            made = found()
            return made, isinstance(made, Implementation), callable(made) and not isinstance(found, type)

        layer = f"; {_LAYER}" if _is_module(found) else ""
        made, ready, again = asked(f"{target}: calling it without arguments", make, layer)
        if ready:
            return made
        if again:
            found = made
        else:
            raise TargetError(
                f"{target}: calling it gave {type(made).__name__}, which is no properties.Implementation "
                f"(subclass it and override some of {', '.join(METHODS)}){f'; {_LAYER}' if _is_module(made) else ''}"
            )
    if dialect is None:
        module = _is_module(found)
        raise TargetError(
            f"{target} is a {'torch.nn.Module' if module else 'plain function'}, taken as logits -> h_res; say which "
            f"mathematics it claims with --dialect ({', '.join(PRESETS)}, or '{CLAIMS} rows sum to 1' and the like)"
            f"{f'. If it takes states instead: {_LAYER}' if module else ''}"
        )
    return Projection(found, preset(dialect), _short(target, found))


_LAYER = "properties.modules.from_module makes an implementation of a torch.nn.Module (docs/your-implementation.md)"


def _is_module(found: object) -> bool:
    """Whether it is a torch.nn.Module or a class of one, whatever it says of its class."""
    kind = cast("type", found) if issubclass(type(found), type) else type(found)
    return issubclass(kind, nn.Module)


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
