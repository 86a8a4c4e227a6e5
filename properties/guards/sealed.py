"""Files of tensors with a header, sealed by a checksum: safetensors, so that nothing in a file is executed.

The metadata of the safetensors header holds strings, one of them ``sha256``: the SHA-256 of the whole file, counted
with 64 zeros in the place of the digest. A file in which any bit has changed since it was written is refused. That
says nothing about who wrote it: whoever changes a file can seal it again (`properties.targets.trust`).

    8 bytes      length of the header, little endian
    header       JSON: name -> dtype, shape, place; "__metadata__" -> the strings
    the rest     the numbers of the tensors
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from properties.guards.printable import message_of, printable
from properties.guards.whole import write_whole

SCHEMA = 2
"""Of the files that are written now. Those of schema 1 have no checksum; they are read."""

LARGEST = 2**29
"""Bytes: no larger file is read. The largest counterexample that the laws can draw has a few million."""

LONGEST = 2**26
"""Bytes of a header: JSON takes many times its length in memory."""

DEEPEST = 60
"""Levels of nesting that a header may have."""

_DIGEST = "sha256"
_NO_DIGEST = "0" * 64
_PLACE = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class SealError(Exception):
    """A file that is none of ours, or was damaged. The message names the file, and says what is wrong with it."""


@dataclass(frozen=True)
class Sealed:
    """What a file holds. `checked`: it has a checksum, and it holds; otherwise it has none."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]
    checked: bool


def write(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Write a sealed file, whole or not at all.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; what stood at `path` before is untouched.
    """
    whole = bytearray(safetensors.torch.save(tensors, metadata={**metadata, _DIGEST: _NO_DIGEST}))
    at = whole.index(f'"{_DIGEST}":"{_NO_DIGEST}"'.encode()) + len(_DIGEST) + 4
    whole[at : at + 64] = hashlib.sha256(whole).hexdigest().encode()
    write_whole(path, bytes(whole))


def read(path: Path) -> Sealed:
    """Read a file back, and compare its checksum where it has one.

    Raises:
        SealError: there is no such file, it is no regular one or too large, it is not safetensors, or its checksum does
            not hold.
    """
    shown = printable(str(path))
    whole = _bytes(path, shown)
    try:
        length = int.from_bytes(whole[:8], "little")
        if len(whole) < 8 or length > len(whole) - 8:
            raise ValueError(f"it has {len(whole)} bytes, its header should have {length}")
        if length > LONGEST:
            raise ValueError(f"its header has more than {LONGEST >> 20} MiB")
        header = parsed(whole[8 : 8 + length].decode("utf-8"))
        metadata: object = cast("dict[str, Any]", header).get("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(metadata, dict) or any(not isinstance(one, str) for one in metadata.values()):  # pyright: ignore[reportUnknownVariableType]
            raise ValueError("its header does not hold names and strings")
        strings = cast("dict[str, str]", metadata)
        checked = _sealed(whole, 8 + length, strings, shown)
        tensors = safetensors.torch.load(whole)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        # What safetensors and torch raise of a header that lies differs from version to version.
        raise SealError(f"{shown} is not a safetensors file, or it is damaged: {message_of(error)}") from error
    return Sealed(strings, tensors, checked)


def parsed(text: str) -> Any:
    """The JSON in a text.

    Raises:
        ValueError: it is none, or nested deeper than `DEEPEST` levels.
    """
    try:
        found: Any = json.loads(text)
        _shallow(found)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    return found


def _shallow(value: Any, level: int = 0) -> None:
    if not isinstance(value, (dict, list)):
        return
    if level >= DEEPEST:
        raise RecursionError
    parts = cast("list[Any]", list(value.values()) if isinstance(value, dict) else value)  # pyright: ignore[reportUnknownArgumentType,reportUnknownMemberType]
    for part in parts:
        _shallow(part, level + 1)


def _bytes(path: Path, shown: str) -> bytes:
    try:
        # A pipe without a writer, and some devices, would keep whoever opens or reads them waiting.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise SealError(f"there is no file {shown}") from None
    except (OSError, ValueError) as error:
        raise SealError(f"{shown} cannot be read: {message_of(error)}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
            raise SealError(f"{shown} is {kind}; expected a file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            whole = file.read(LARGEST + 1) if status.st_size <= LARGEST else None
    except OSError as error:
        raise SealError(f"{shown} cannot be read: {message_of(error)}") from error
    finally:
        os.close(handle)
    if whole is None or len(whole) > LARGEST:
        raise SealError(f"{shown} has more than {LARGEST >> 20} MiB; no file of ours is so large")
    return whole


def _sealed(whole: bytes, end: int, metadata: dict[str, str], shown: str) -> bool:
    """Whether there is a checksum; SealError where it does not hold."""
    if _DIGEST not in metadata:
        return False
    places = list(_PLACE.finditer(whole, 8, end))
    if len(places) == 1:
        first, last = places[0].span(1)
        counted = hashlib.sha256(whole[:first])
        counted.update(_NO_DIGEST.encode())
        counted.update(whole[last:])
        if counted.hexdigest() == metadata[_DIGEST] == whole[first:last].decode():
            return True
    raise SealError(f"{shown} is damaged: its checksum does not hold, so something in it changed since it was written")
