"""The protocol of `proc:COMMAND`: JSON lines over stdin and stdout, arrays as dtype, shape and base64.

One request, one response, one line each, UTF-8. A request is ``{"id", "method", "params"}``, with ``"tuned": {field:
value}`` where another dialect is asked of an implementation that said it can change those fields. A response is
``{"id", "result"}`` or ``{"id", "error": {"kind", "message"}}``, which may also say "place" and "excerpt" of the code
that raised it; with ``"changed": {argument: array}`` where the call wrote to its arguments. stdout belongs to the
protocol: whatever else a server wants to say goes to stderr.
`schema.json` has every message in full, with the limits of each part.

A branch cannot cross the process: a server offers project, mappings, pre and post, and block, layers and stack are
derived from them on this side.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from properties.core.several import VERIFIED
from properties.guards.faults import Lost
from properties.guards.printable import message_of, name_of, printable
from properties.guards.traces import Elsewhere, excerpt, place_of

VERSION = 2
"""Of the protocol. Since 2 `describe` is told what an answer may take, and an answer with fields that are not in the
schema is refused."""
OLDEST = 1
"""The oldest version that is still understood."""
SCHEMA = Path(__file__).parent / "schema.json"

SIGNATURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "project": (("logits",), ("h_res",)),
    "mappings": (("x", "params"), ("pre", "post", "res")),
    "pre": (("x", "h_pre"), ("u",)),
    "post": (("x", "y", "h_post", "h_res"), ("x",)),
}
"""method -> the names of its arguments and of its results."""

DTYPES = tuple(VERIFIED)
"""The dtypes of arrays."""

# Sizes that a peer may not exceed; `schema.json` says the same. Those of a declaration are in `properties.core.fields`.
LONGEST_KIND = 100
LONGEST_MESSAGE = 2000
LONGEST_PLACE = 120
LONGEST_EXCERPT = 1000
MOST_AXES = 16
MOST_ELEMENTS = 1 << 34
MOST_DEPTH = 16
MOST_DIGITS = 19
MOST_MEMBERS = 1_000_000

REFUSALS = ("bad-request", "unknown-method")
"""Kinds of error that say that the two sides do not understand each other; every other kind is the implementation's."""


def _physical() -> int:
    """Bytes of memory of this machine; 16 GiB where that cannot be found out."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # no sysconf (Windows), or it does not know
        return 16 << 30


@dataclass(frozen=True)
class Limits:
    """What a call may take.

    Attributes:
        call_seconds: until an answer, whatever arrives meanwhile; after a call that never came back later ones get less
            (`Supervised.patience`).
        start_seconds: until a process has started, its imports included.
        memory: bytes of memory on top of what the process and its descendants held when it was ready. Address space is
            not limited: torch and CUDA reserve far more of it than they use.
        start_memory: bytes of memory until then: half of the machine's, so that an import which takes all there is ends
            alone, while one that loads a model has room.
        line: bytes of one line, that is of one answer with its arrays.
        blank: bytes of empty lines and of spaces around an answer.
        calls_back: calls of branches and of their gradients within one call (`--isolate`).
    """

    call_seconds: float = 20.0
    start_seconds: float = 180.0
    memory: int = 4 << 30
    start_memory: int = field(default_factory=lambda: _physical() // 2)
    line: int = 64 << 20
    blank: int = 1 << 16
    calls_back: int = 10_000


class ProcessFailure(Lost):
    """The process did not answer a call as the protocol says; the message says what happened instead."""


class ProcessDied(ProcessFailure):
    """It was killed, or it left."""


class NoAnswer(ProcessFailure):
    """It was still busy when its time was over."""


class TooMuchMemory(ProcessFailure):
    """It took more memory than it may."""

    sign = "memory"


class BadAnswer(ProcessFailure):
    """It said something that is not in the protocol."""

    sign = "contract"


class ServerError(Elsewhere):
    """An error raised on the other side. `refused`: because it did not understand the call."""

    refused = False


def server_error(error: Any) -> Exception:
    """The exception that `error` describes; its class carries the kind's name, so that messages read as in process.

    Raises:
        BadAnswer: it is no object of a kind and a message, two strings.
    """
    if not isinstance(error, dict):
        raise BadAnswer(f"error is {shortened(error)}; expected {{kind, message}}")
    described = cast("dict[str, Any]", error)
    kind, message = described.get("kind", "error"), described.get("message", "")
    if not isinstance(kind, str) or not isinstance(message, str):
        raise BadAnswer(f"error is {shortened(described)}; expected a kind and a message, both of them strings")
    plain = kind if len(kind) <= LONGEST_KIND and kind.isprintable() else printable(kind, LONGEST_KIND)
    made = _error_class(plain.replace("\n", " ") or "error")(printable(message, LONGEST_MESSAGE))
    place, code = described.get("place"), described.get("excerpt")  # of any other type: they are not read
    made.place = printable(place, LONGEST_PLACE).replace("\n", " ") if isinstance(place, str) else ""
    made.excerpt = printable(code, LONGEST_EXCERPT) if isinstance(code, str) else ""
    return made


def told(error: BaseException) -> dict[str, str]:
    """`error` as the other side reads it: its kind and its message, and where in its own code it was raised."""
    where = {"place": place_of(error), "excerpt": excerpt(error)}
    given = {name: text for name, text in where.items() if text}
    return {"kind": name_of(error)[:LONGEST_KIND], "message": message_of(error, LONGEST_MESSAGE), **given}


@functools.lru_cache(maxsize=256)  # Hypothesis takes exceptions of two classes for two bugs
def _error_class(kind: str) -> type[ServerError]:
    return type(kind, (ServerError,), {"refused": kind in REFUSALS})


def encode(tensor: Tensor) -> dict[str, Any]:
    """{dtype, shape, data}: base64 of the elements in row-major order, little-endian."""
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "data": base64.b64encode(raw(tensor)).decode("ascii"),
    }


def decode(array: Any, what: str = "array") -> Tensor:
    """The tensor of `encode`, on the CPU.

    Raises:
        BadAnswer: no such object, an unknown dtype, a shape that is none, or another number of bytes than it needs.
    """
    if not isinstance(array, dict) or not {"dtype", "shape", "data"} <= array.keys():
        raise BadAnswer(f"{what} is {shortened(array)}; expected {{dtype, shape, data}}")
    given = cast("dict[str, Any]", array)
    if given["dtype"] not in DTYPES:
        raise BadAnswer(f"{what} has dtype {shortened(given['dtype'])}; expected one of {', '.join(DTYPES)}")
    shape = shape_of(given["shape"], what)
    dtype: torch.dtype = getattr(torch, given["dtype"])
    if not isinstance(given["data"], str):
        raise BadAnswer(f"the data of {what} is {shortened(given['data'])}; expected a string of base64")
    try:
        data = base64.b64decode(given["data"], validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: characters beyond ASCII
        raise BadAnswer(f"the data of {what} is not base64: {error}") from error
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise BadAnswer(f"{what} has {len(data)} bytes; {given['dtype']}{shape} needs {needed}")
    return from_raw(data, dtype).reshape(shape)


def shape_of(shape: Any, what: str) -> list[int]:
    """The shape, where it is one: a list of at most `MOST_AXES` sizes whose product is at most `MOST_ELEMENTS`.

    Raises:
        BadAnswer: it is none; sizes of 0 count as 1, since what is left of an empty array has strides too.
    """
    sizes = cast("list[int]", shape) if isinstance(shape, list) else [-1]
    if any(type(size) is not int or size < 0 for size in sizes):
        raise BadAnswer(f"{what} has shape {shortened(shape)}; expected a list of sizes")
    if len(sizes) > MOST_AXES or math.prod(max(size, 1) for size in sizes) > MOST_ELEMENTS:
        raise BadAnswer(
            f"{what} has shape {shortened(shape)}; expected at most {MOST_AXES} axes and {MOST_ELEMENTS} elements"
        )
    return sizes


def raw(tensor: Tensor) -> bytes:
    """The elements in row-major order, little-endian."""
    flat = tensor.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
    data = flat.view(torch.uint8) if flat.numel() else flat.to(torch.uint8)
    if sys.byteorder == "big":
        data = data.reshape(-1, flat.element_size()).flip(1).reshape(-1)
    return data.numpy().tobytes()


def from_raw(data: bytes, dtype: torch.dtype) -> Tensor:
    """The elements again, in one dimension."""
    if not data:
        return torch.empty(0, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if sys.byteorder == "big":
        flat = flat.reshape(-1, dtype.itemsize).flip(1).reshape(-1)
    return flat.view(dtype)


def shortened(value: Any, most: int = 120) -> str:
    """repr, cut."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
