"""The gradient of a declared family at a kink of its formula is that of either side, or between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.bounds import Approx, Rounding, declared
from properties.families import Gate


class Rectified(Gate):
    """relu: no derivative at 0."""

    name = "test_rectified"
    roundings = 4

    def gates(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return logits.relu()

    def exact(self, z: Any, dialect: Dialect, real: Any) -> Any:
        return [a if real.value(a) > 0 else 0 * a for a in z]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "error", "excused"),
    [(0.0, 0.0, True), (1e-9, 0.0, True), (1e-3, 2e-3, True), (1e-3, 1e-6, False), (-1.0, 0.0, False)],
)
def test_a_gradient_is_excused_at_a_kink_and_nowhere_else(at: float, error: float, excused: bool) -> None:
    logits = Approx(torch.full((1, 1), at, dtype=torch.float64), torch.full((1, 1), error, dtype=torch.float64))
    bar = Approx.exact(torch.ones(1, 1))
    found = declared.pulled(Rectified(), "gates", logits, bar, Dialect(), Rounding.of(torch.float32))
    for computed in (0.5, 1.0 - found.value.item()):
        off = abs(computed - found.value.item())
        assert (off <= found.error.item()) == (excused)
