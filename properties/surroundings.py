"""What a test run has set for its own purposes, and no law speaks of.

A conftest, an option or the module of a target may turn warnings into errors, switch autograd off, or make tensors on
another device by default. An implementation is judged by what it computes, and the harness computes as ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch

_told: set[tuple[str, type[Warning], str, int]] = set()
"""Text, category, file and line of every warning that was shown in this process."""
_moved: list[bool] = []
"""For each `usual` that is open, whether it found another default device than the CPU."""


@contextmanager
def told() -> Generator[None]:
    """Where a filter would raise a warning, show it instead, once for each place and text; elsewhere change nothing."""
    if not any(action == "error" for action, *_ in warnings.filters):
        yield
        return
    found: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("default")
            yield
    finally:
        for one in found:
            key = (str(one.message), one.category, one.filename, one.lineno)
            if key not in _told:
                _told.add(key)
                warnings.showwarning(one.message, one.category, one.filename, one.lineno)


@contextmanager
def usual() -> Generator[None]:
    """Autograd records, and tensors are made on the CPU unless something else is said."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        moved = torch.get_default_device().type != "cpu"
        if moved:
            stack.enter_context(torch.device("cpu"))
        _moved.append(moved)
        stack.callback(_moved.pop)
        yield


@contextmanager
def called(device: torch.device) -> Generator[None]:
    """Around a call of a target: warnings are told, and a default device that somebody set is the one asked for."""
    with ExitStack() as stack:
        stack.enter_context(told())
        if any(_moved) and device.type != "cpu":
            stack.enter_context(torch.device(device))
        yield
