"""The protocol of `proc:COMMAND`: JSON lines over stdin and stdout, arrays as dtype, shape and base64.

One request, one response, one line each, UTF-8. A request is ``{"id", "method", "params"}``, with ``"tuned": {field:
value}`` where another dialect is asked of an implementation that said it can change those fields. A response is
``{"id", "result"}`` or ``{"id", "error": {"kind", "message"}}``, with ``"changed": {argument: array}`` where the call
wrote to its arguments. stdout belongs to the protocol: whatever else a server wants to say goes to stderr.
`schema.json` has every message in full.

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
from typing import Any

import torch
from torch import Tensor

VERSION = 1
SCHEMA = Path(__file__).parent / "schema.json"

SIGNATURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "project": (("logits",), ("h_res",)),
    "mappings": (("x", "params"), ("pre", "post", "res")),
    "pre": (("x", "h_pre"), ("u",)),
    "post": (("x", "y", "h_post", "h_res"), ("x",)),
}
"""method -> the names of its arguments and of its results."""

DTYPES = ("float64", "float32", "bfloat16", "float16")
"""The dtypes of arrays."""

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
        call_seconds: until an answer; after a call that never came back later ones get less (`Supervised.patience`).
        start_seconds: until a process has started, its imports included.
        memory: bytes of resident memory on top of what the process held when it was ready. Address space is not
            limited: torch and CUDA reserve far more of it than they use.
        start_memory: bytes of resident memory until then: half of the machine's, so that an import which takes all
            there is ends alone, while one that loads a model has room.
    """

    call_seconds: float = 20.0
    start_seconds: float = 180.0
    memory: int = 4 << 30
    start_memory: int = field(default_factory=lambda: _physical() // 2)


class ProcessFailure(Exception):
    """The process did not answer a call as the protocol says; the message says what happened instead."""


class ProcessDied(ProcessFailure):
    """It was killed, or it left."""


class NoAnswer(ProcessFailure):
    """It was still busy when its time was over."""


class TooMuchMemory(ProcessFailure):
    """It took more memory than it may."""


class BadAnswer(ProcessFailure):
    """It said something that is not in the protocol."""


class ServerError(Exception):
    """An error raised on the other side. `refused`: because it did not understand the call."""

    refused = False


def server_error(error: Any) -> Exception:
    """The exception that `error` describes; its class carries the kind's name, so that messages read as in process."""
    kind = str(error.get("kind", "error")) if isinstance(error, dict) else "error"
    message = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    return _error_class(kind)(message)


@functools.cache  # Hypothesis takes exceptions of two classes for two bugs
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
    if array["dtype"] not in DTYPES:
        raise BadAnswer(f"{what} has dtype {shortened(array['dtype'])}; expected one of {', '.join(DTYPES)}")
    shape = array["shape"]
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise BadAnswer(f"{what} has shape {shortened(shape)}; expected a list of sizes")
    dtype: torch.dtype = getattr(torch, array["dtype"])
    try:
        data = base64.b64decode(array["data"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadAnswer(f"the data of {what} is not base64: {error}") from error
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise BadAnswer(f"{what} has {len(data)} bytes; {array['dtype']}{shape} needs {needed}")
    return from_raw(data, dtype).reshape(shape)


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
