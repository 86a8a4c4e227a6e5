"""A stored failure of a published library, tried where a slip of the library is mended."""

from __future__ import annotations

import torch

from properties.engine.known import Known, verdict_for
from properties.engine.subject import Subject
from properties.targets.target import resolve


def assert_explained(entry: Known, slip: str, other: str) -> None:
    """An entry whose reason names the slip is no more; any other stands, and its link has `other` in it."""
    assert entry.dtype is not None
    dtype, target = getattr(torch, entry.dtype), resolve(entry.implementation)
    found = verdict_for(entry, Subject(entry.implementation, target, dtype, torch.device("cpu")))
    if slip in entry.reason:
        assert found.status == "failed", found.message or found.reason
        assert found.reason.startswith("fixed: remove this entry")
        assert "does not apply" not in found.reason
    else:
        assert found.status == "known"
        assert other in entry.link
