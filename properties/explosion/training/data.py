"""What is learned: bytes of the standard library's own sources, or to repeat what came before."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from properties.explosion.training.setup import VOCABULARY, Setup

_SOURCES = ("abc", "argparse", "ast", "bisect", "calendar", "dataclasses", "difflib", "fractions", "functools", "heapq")
_SYMBOLS = 16
"""Of the copy task."""


@cache
def text() -> bytes:
    """Sources of the standard library, one after the other, in bytes of seven bits.

    Raises:
        OSError: this Python comes without its sources.
    """
    folder = Path(os.__file__).parent
    whole = b"".join((folder / f"{name}.py").read_bytes() for name in _SOURCES)
    return bytes(byte % VOCABULARY for byte in whole)


def tokens(setup: Setup, seed: int) -> Tensor:
    """The sequences of every step of one run [steps, sequences, T + 1], bytes; equal seeds give equal ones."""
    random, length = Random(f"{seed} {setup.data}"), setup.tokens + 1
    rows = [_row(setup, random, length) for _ in range(setup.steps * setup.sequences)]
    flat = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8)
    return flat.view(setup.steps, setup.sequences, length)


def _row(setup: Setup, random: Random, length: int) -> bytes:
    if setup.data == "copy":  # the second half repeats the first
        half = bytes(random.randrange(_SYMBOLS) for _ in range((length + 1) // 2))
        return (half + half)[:length]
    start = random.randrange(len(text()) - length)
    return text()[start : start + length]
