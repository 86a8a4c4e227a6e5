"""Counterexamples on disk: sealed safetensors with a JSON header, written before anything else happens, replayed
anywhere. What a file names is data until somebody says otherwise, see `properties.targets.trust`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.registry import UnknownFamily
from properties.core.case import BRANCHES, BranchSpec, Case, Value
from properties.guards import sealed
from properties.guards.printable import message_of, printable

FORMAT = f"mhc-properties/counterexample/{sealed.SCHEMA}"
WITHOUT_CHECKSUM = "mhc-properties/counterexample/1"
"""What was written before files had a checksum; it is read."""

_DEEPEST = 8
"""Levels of tuples in a value of a case; the laws need two."""

T = TypeVar("T")


class CounterexampleError(Exception):
    """A file that is no counterexample of ours, or a damaged one."""


class StrangeFamily(CounterexampleError):
    """A counterexample whose dialect names a family that is not known here, or not yet.

    Attributes:
        target: what `--impl` was given when it was found, which may bring the family.
    """

    def __init__(self, path: Path, target: str, unknown: UnknownFamily) -> None:
        self.target = target
        super().__init__(
            f"{printable(str(path))} is about a dialect whose {unknown.field} is {printable(repr(unknown.name), 200)}, "
            f"a family that is not known here. It was found on {printable(repr(target), 200)}, which brings it: say so "
            "with --impl TARGET, or allow what the file names with --trust; or install the package that registers it"
        )


@dataclass(frozen=True)
class Counterexample:
    """A minimal failing case of one law on one implementation.

    Attributes:
        law: id of the law.
        target: what `--impl` was given.
        dialect: the declared dialect at that time.
        dtype, device: of the state.
        case: the inputs.
        failure: what, where, got, exact, error, bound, ratio (None where it is infinite), gap, against (see
            `properties.core.trial.LawBroken`; the last two are missing in older files).
        dialect_option: the preset of `--dialect`, for a plain function.
        versions: of Python and of the packages that had a part in it.
        checked: read from a file with a checksum that holds; files of format 1 have none.
    """

    law: str
    target: str
    implementation: str
    dialect: Dialect
    dtype: str
    device: str
    case: Case
    failure: dict[str, Any]
    dialect_option: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: {})
    checked: bool = True

    def save(self, path: Path) -> None:
        """Write the file whole, or not at all: a reader never sees half of it, and what stood there before stays.

        Raises:
            OSError: it cannot be written.
            TypeError: the case holds a value of a kind that no file can hold.
        """
        tensors: dict[str, Tensor] = {}
        header = {
            "format": FORMAT,
            "schema": sealed.SCHEMA,
            "law": self.law,
            "target": self.target,
            "implementation": self.implementation,
            "dialect": self.dialect.fields(),
            "dialect_option": self.dialect_option,
            "dtype": self.dtype,
            "device": self.device,
            "failure": self.failure,
            "versions": self.versions,
            "case": {name: _pack(value, name, tensors) for name, value in self.case.items()},
        }
        sealed.write(path, {"mhc_properties": json.dumps(header)}, tensors)

    @classmethod
    def load(cls, path: Path) -> Counterexample:
        """Read a file back, bit by bit what was saved.

        Raises:
            CounterexampleError: no such file, not safetensors, not ours, damaged, or of a version that is not read.
        """
        shown = printable(str(path))
        try:
            found = sealed.read(Path(path))
        except sealed.SealError as error:
            raise CounterexampleError(str(error)) from error
        if "mhc_properties" not in found.metadata:
            raise CounterexampleError(
                f"{shown} is a safetensors file, but no counterexample: its header has no 'mhc_properties'"
            )
        header: dict[str, Any] = {}
        try:
            parsed: object = sealed.parsed(found.metadata["mhc_properties"])
            if not isinstance(parsed, dict):
                raise TypeError(f"it is {type(parsed).__name__}, not an object")
            header = cast("dict[str, Any]", parsed)
            return _read(cls, header, found)
        except _OtherVersion as other:
            raise CounterexampleError(
                f"{shown} has format {printable(str(other))}; this version reads {FORMAT!r} and {WITHOUT_CHECKSUM!r}"
            ) from other
        except UnknownFamily as unknown:
            raise StrangeFamily(path, _field(header, "target", str), unknown) from unknown
        except (TypeError, ValueError, OverflowError) as error:
            # Of a header with values of any kind: what a dialect, a float or a tensor raises that is made of them.
            raise CounterexampleError(f"{shown}: its header is damaged: {message_of(error, 500)}") from error


class _OtherVersion(Exception):
    """Another format than those that are read."""


def _read(kind: type[Counterexample], header: dict[str, Any], found: sealed.Sealed) -> Counterexample:
    """The counterexample that a header describes."""
    given = header.get("format")
    if given not in (FORMAT, WITHOUT_CHECKSUM):
        raise _OtherVersion(repr(given))
    if given == FORMAT and not found.checked:
        raise ValueError("it has no checksum, which every file of its format has")
    dtype = _field(header, "dtype", str)
    state: object = getattr(torch, dtype, None)
    if not isinstance(state, torch.dtype) or not state.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; expected a floating dtype of torch")
    device = _field(header, "device", str)
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; expected cpu or cuda")
    option = None if header.get("dialect_option") is None else _field(header, "dialect_option", str)
    case = _field(header, "case", dict)
    return kind(
        law=_field(header, "law", str),
        target=_field(header, "target", str),
        implementation=_field(header, "implementation", str),
        dialect=_dialect(_field(header, "dialect", dict)),
        dtype=dtype,
        device=device,
        case=Case(**{name: _unpack(value, found.tensors, name) for name, value in case.items()}),
        failure=_field(header, "failure", dict),
        dialect_option=option,
        versions={name: str(value) for name, value in _field(header, "versions", dict).items()},
        checked=found.checked,
    )


def _field(header: dict[str, Any], name: str, kind: Callable[..., T]) -> T:
    if name not in header:
        raise ValueError(f"it has no {name!r}")
    return _of_kind(header[name], kind, name)


def _of_kind(value: Any, kind: Callable[..., T], name: str) -> T:
    if not isinstance(value, cast("type[Any]", kind)):
        expected = {str: "a string", dict: "an object", list: "a list"}[cast(Any, kind)]
        raise TypeError(f"{name} is {_short(value)}; expected {expected}")
    return cast(T, value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _dialect(fields: dict[str, Any]) -> Dialect:
    try:
        return Dialect(**fields)
    except TypeError as error:
        raise ValueError(f"{message_of(error, 300)}; was it written by a later version?") from error


def _pack(value: Value, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Params):
        return {"params": {k: _pack(v, f"{name}.{k}", tensors) for k, v in value._asdict().items()}}
    if isinstance(value, BranchSpec):
        return {"branch": {"kind": value.kind, "weight": _pack(value.weight, f"{name}.weight", tensors)}}
    if isinstance(value, Dialect):
        return {"dialect": value.fields()}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_pack(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]}  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    raise TypeError(f"a case holds tensors, parameters, branches and plain values; {name} is {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor], name: str, level: int = 0) -> Value:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if not isinstance(value, dict) or len(cast("dict[str, Any]", value)) != 1:
        raise ValueError(
            f"{name} is {_short(value)}; expected a plain value, or an object that names one kind of value"
        )
    if level > _DEEPEST:
        raise ValueError(f"{name} is nested deeper than {_DEEPEST} levels")
    ((kind, body),) = cast("dict[str, Any]", value).items()
    if kind == "tensor":
        place = _of_kind(body, str, name)
        if place not in tensors:
            raise ValueError(f"{name} is the tensor {_short(place)}, which is not in the file")
        return tensors[place]
    if kind == "params":
        return _params(_of_kind(body, dict, name), tensors, name)
    if kind == "branch":
        return _branch(_of_kind(body, dict, name), tensors, name)
    if kind == "dialect":
        return _dialect(_of_kind(body, dict, name))
    if kind == "tuple":
        parts: list[Any] = _of_kind(body, list, name)
        return tuple(_unpack(part, tensors, f"{name}.{i}", level + 1) for i, part in enumerate(parts))
    if kind == "float":
        return float.fromhex(_of_kind(body, str, name))
    raise ValueError(f"{name} is of an unknown kind of value {_short(kind)}")


def _params(body: dict[str, Any], tensors: dict[str, Tensor], name: str) -> Params:
    parts = {part: _unpack(value, tensors, f"{name}.{part}") for part, value in body.items()}
    wrong = sorted(set(parts) ^ set(Params._fields))
    if wrong:
        raise ValueError(f"{name} has or lacks {_short(wrong)}; expected parameters {', '.join(Params._fields)}")
    for part, value in parts.items():
        if not (isinstance(value, Tensor) or (value is None and part == "norm_weight")):
            raise TypeError(f"{name}.{part} is {_short(value)}; expected a tensor")
    return Params(**parts)


def _branch(body: dict[str, Any], tensors: dict[str, Tensor], name: str) -> BranchSpec:
    kind = _field(body, "kind", str)
    if kind not in BRANCHES:
        raise ValueError(f"{name} is a branch of kind {_short(kind)}; expected one of {', '.join(BRANCHES)}")
    weight = _unpack(body.get("weight"), tensors, f"{name}.weight")
    if not (isinstance(weight, Tensor) if BRANCHES[kind] else weight is None):
        expected = "a tensor" if BRANCHES[kind] else "none"
        raise TypeError(f"the weight of {name}, a branch of kind {kind!r}, is {_short(weight)}; expected {expected}")
    return BranchSpec(kind, weight)


def versions() -> dict[str, str]:
    """What a reader needs to know of the environment."""
    return dict(_versions())


@cache  # a search that shrinks saves a hundred files, and to look up packages takes longer than to write one
def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("mhc-properties", "hypothesis", "numpy", "mpmath", "pytest"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
