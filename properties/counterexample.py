"""Counterexamples on disk: safetensors with a JSON header, written before anything else happens, replayed anywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mhc_ref import Dialect, Params
from properties.case import BranchSpec, Case, Value

FORMAT = "mhc-properties/counterexample/1"


class CounterexampleError(Exception):
    """A file that is no counterexample of ours, or a damaged one."""


@dataclass(frozen=True)
class Counterexample:
    """A minimal failing case of one law on one implementation.

    Attributes:
        law: id of the law.
        target: what `--impl` was given.
        dialect: the declared dialect at that time.
        dtype, device: of the state.
        case: the inputs.
        failure: what, where, got, exact, error, bound, ratio (None where it is infinite).
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

    def save(self, path: Path) -> None:
        """Write the file in one step: a reader never sees half of it."""
        tensors: dict[str, Tensor] = {}
        header = {
            "format": FORMAT,
            "law": self.law,
            "target": self.target,
            "implementation": self.implementation,
            "dialect": dataclasses.asdict(self.dialect),
            "dialect_option": self.dialect_option,
            "dtype": self.dtype,
            "device": self.device,
            "failure": self.failure,
            "versions": self.versions,
            "case": {name: _pack(value, name, tensors) for name, value in self.case.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}")
        os.close(handle)
        try:
            save_file(tensors, partial, metadata={"mhc_properties": json.dumps(header)})
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> Counterexample:
        """Read a file back, bit by bit what was saved.

        Raises:
            CounterexampleError: no such file, not safetensors, not ours, or another version of the format.
        """
        path = Path(path)
        if not path.is_file():
            raise CounterexampleError(f"there is no file {path}")
        try:
            with safe_open(str(path), framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]  # untyped library
                metadata: dict[str, str] = file.metadata() or {}
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        except (SafetensorError, OSError, ValueError) as error:
            raise CounterexampleError(f"{path} is not a safetensors file, or it is damaged: {error}") from error
        if "mhc_properties" not in metadata:
            raise CounterexampleError(
                f"{path} is a safetensors file, but no counterexample: its header has no 'mhc_properties'"
            )
        try:
            header = json.loads(metadata["mhc_properties"])
            if not isinstance(header, dict):
                raise TypeError(f"it is {type(header).__name__}, not an object")
            if header.get("format") != FORMAT:
                raise CounterexampleError(f"{path} has format {header.get('format')!r}; this version reads {FORMAT!r}")
            if not isinstance(getattr(torch, str(header["dtype"]), None), torch.dtype):
                raise ValueError(f"dtype is {header['dtype']!r}")
            if header["device"] not in ("cpu", "cuda"):
                raise ValueError(f"device is {header['device']!r}")
            return cls(
                law=header["law"],
                target=header["target"],
                implementation=header["implementation"],
                dialect=Dialect(**header["dialect"]),
                dtype=header["dtype"],
                device=header["device"],
                case=Case(**{name: _unpack(value, tensors) for name, value in header["case"].items()}),
                failure=header["failure"],
                dialect_option=header["dialect_option"],
                versions=header["versions"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CounterexampleError(f"{path}: its header is damaged: {type(error).__name__}: {error}") from error


def _pack(value: Value, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Params):
        return {"params": {k: _pack(v, f"{name}.{k}", tensors) for k, v in value._asdict().items()}}
    if isinstance(value, BranchSpec):
        return {"branch": {"kind": value.kind, "weight": _pack(value.weight, f"{name}.weight", tensors)}}
    if isinstance(value, Dialect):
        return {"dialect": dataclasses.asdict(value)}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_pack(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]}  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    raise TypeError(f"a case holds tensors, parameters, branches and plain values; {name} is {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Value:
    if not isinstance(value, dict):
        return value
    ((kind, body),) = value.items()  # pyright: ignore[reportUnknownVariableType]
    if kind == "tensor":
        return tensors[body]
    if kind == "params":
        return Params(**{k: _unpack(v, tensors) for k, v in body.items()})  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    if kind == "branch":
        return BranchSpec(body["kind"], _unpack(body["weight"], tensors))
    if kind == "dialect":
        return Dialect(**body)
    if kind == "tuple":
        return tuple(_unpack(part, tensors) for part in body)
    if kind == "float":
        return float.fromhex(body)
    raise ValueError(f"unknown kind of value {kind!r}")


def versions() -> dict[str, str]:
    """What a reader needs to know of the environment."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("mhc-properties", "hypothesis", "numpy", "mpmath", "pytest"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
