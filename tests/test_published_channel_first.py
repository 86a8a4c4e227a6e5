"""Channels first of hyper-connections: one slip explains every failure but those that channels last have as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mended import assert_explained
from torch import Tensor

from properties.engine.known import PUBLISHED, Known, load

ENTRIES = [entry for entry in load(PUBLISHED) if entry.implementation.endswith("-channel-first")]
KINDS = (
    ("hyper_connections.hyper_connections", "HyperConnections"),
    ("hyper_connections.manifold_constrained_hyper_connections", "ManifoldConstrainedHyperConnections"),
)


def entries() -> Iterator[Any]:
    """A law that fails in several dtypes fails in the same line: one of them shows that it is mended."""
    seen = set[tuple[str, str]]()
    for entry in ENTRIES:
        again = (entry.implementation, entry.law) in seen
        seen.add((entry.implementation, entry.law))
        named = f"{entry.law}-{entry.implementation}-{entry.dtype}"
        yield pytest.param(entry, id=named, marks=[pytest.mark.thorough] if again else [])


def channels_last_first(self: Any, branch_output: Tensor, residuals: Tensor, *, beta: Tensor) -> Tensor:
    """`depth_connection` with channels last from its first line to its last, as docs/findings.md has it: the branch
    output is turned before its fractions are split, and where the residual was left with channels last it is turned,
    too. `branch_output` is [b, C, ...], and so is what is returned, [(b s), C, ...]."""
    constrained = type(self).__name__ == KINDS[1][1]
    wide = torch.float32 if constrained else residuals.dtype
    split = self.split_fracs(branch_output.movedim(1, -1)).to(wide)
    written = torch.einsum("b...fd,b...fsg->bs...gd", split, beta.to(wide)).flatten(0, 1)
    output = self.merge_fracs(written).movedim(-1, 1).to(residuals.dtype)
    return self.dropout(self.depth_residual_fn(output, residuals.movedim(-1, 1) if constrained else residuals))


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("entry", list(entries()))
def test_a_stored_failure_of_channels_first_is_no_more_where_the_slip_is_mended(
    entry: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left then is the projection's, and its entry says so."""
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    for module, kind in KINDS:
        monkeypatch.setattr(f"{module}.{kind}.depth_connection", channels_last_first)
    assert_explained(entry, "channel_first", "a-row-far-below-the-others-is-lost")
