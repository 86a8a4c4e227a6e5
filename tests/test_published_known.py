"""The known failures of the published libraries: each entry's case can still be tried, and still fails."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch

from properties.core.device import device_of
from properties.core.implementation import Implementation
from properties.engine.known import PUBLISHED, Known, load, verdict_for
from properties.engine.runner import Subject
from properties.targets.target import TargetError, resolve

ENTRIES = load(PUBLISHED)


@functools.cache
def target(name: str) -> Implementation:
    """The adapter, which imports its library; what that warns of is its own business."""
    with warnings.catch_warnings(record=True):
        return resolve(name)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.law}-{entry.implementation}-{entry.dtype}")
def test_a_known_failure_of_a_published_library_still_fails(entry: Known) -> None:
    """A law that reads more than it did, or a library that was mended, shows here."""
    try:
        implementation = target(entry.implementation)
    except TargetError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        pytest.skip(str(error))  # its extra is not installed: Triton and MLX are chosen one by one
    assert entry.dtype is not None
    place = torch.device(entry.device or "cpu")
    if place.type not in implementation.devices or device_of(place).missing() is not None:
        # What was found on a GPU needs one, and where there is one Triton's kernels are compiled for it alone.
        pytest.skip(f"not applicable: {entry.implementation} does not compute on {place.type} here")
    subject = Subject(entry.implementation, implementation, getattr(torch, entry.dtype), place)
    verdict = verdict_for(entry, subject)
    assert verdict.status == "known", verdict.reason
