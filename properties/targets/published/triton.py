"""Where Triton kernels run: compiled on a GPU where there is one, otherwise in Triton's interpreter on the CPU.

The interpreter is asked for by TRITON_INTERPRET=1, which Triton reads when it is imported first; who sets it on a
machine with a GPU gets it there too.
"""

from __future__ import annotations

import os

import torch

NATIVE = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET", "0") != "1"
"""Whether kernels are compiled."""

DEVICES = ("cuda",) if NATIVE else ("cpu",)
"""Where their tensors must be: a compiled kernel cannot read the CPU's."""

ANY = 2**40
"""Any number of tokens."""


def prepare() -> None:
    """Before a library imports Triton: ask for the interpreter where nothing can be compiled."""
    if not NATIVE:
        os.environ.setdefault("TRITON_INTERPRET", "1")


def most_tokens(interpreted: int) -> int:
    """Tokens a call: as many as the interpreter bears, or any number."""
    return ANY if NATIVE else interpreted
