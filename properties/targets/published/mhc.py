"""The package mhc (0.5.5): `mhc.constraints.project_doubly_stochastic`.

The rest of it mixes the history of a network's outputs, which is no block of hyper-connections. `import mhc` needs
matplotlib, which the package declares for plotting only.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.targets.published.tuning import Tunable


class Mhc(Tunable):
    """`project_doubly_stochastic` with its defaults: 10 iterations, temperature 1."""

    # exp(Z - row max), then rows / (sum + 1e-9), columns / (sum + 1e-9): mhc/constraints/matrix.py
    dialect = Dialect(last_axis="column", iterations=10, denominator_eps=1e-9)
    dtypes = (torch.float64, torch.float32)
    tunable = frozenset({"iterations"})
    below_one = "the row maximum is subtracted and never divided out"
    full_range = True  # no limit of the logits is documented

    def __init__(self) -> None:
        self._library: Any = import_module("mhc.constraints")

    def project(self, logits: Tensor) -> Tensor:
        return self._library.project_doubly_stochastic(logits, iterations=self.dialect.iterations)
