"""The package mhc (0.5.5): `mhc.constraints.project_doubly_stochastic`.

The rest of it mixes the history of a network's outputs, which is no block of hyper-connections. `import mhc` needs
matplotlib, which the package declares for plotting only.
"""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.implementation import Absent, Implementation


class Mhc(Implementation):
    """`project_doubly_stochastic` with its defaults: 10 iterations, temperature 1."""

    # exp(Z - row max), then rows / (sum + 1e-9), columns / (sum + 1e-9): mhc/constraints/matrix.py
    dialect = Dialect(last_axis="column", iterations=10, denominator_eps=1e-9)
    dtypes = (torch.float64, torch.float32)
    tunable = frozenset({"iterations"})
    full_range = True  # no limit of the logits is documented

    def __init__(self) -> None:
        self._library: Any = import_module("mhc.constraints")

    def project(self, logits: Tensor) -> Tensor:
        return self._library.project_doubly_stochastic(logits, iterations=self.dialect.iterations)

    def tuned(self, **fields: Any) -> Implementation:
        if set(fields) - self.tunable:
            return super().tuned(**fields)
        dialect = self.dialect.with_(**fields)
        if dialect.iterations < 1:
            raise Absent(f"tuned: iterations={dialect.iterations}; the row maximum is subtracted and never divided out")
        tuned = copy.copy(self)
        tuned.dialect = dialect
        return tuned
