"""The package mlx-mhc (0.4.1): `mlx_mhc.sinkhorn.sinkhorn_knopp`, on a CPU or an Apple GPU.

The rest of it is not comparable: `ManifoldHyperConnection` cuts one hidden state into pieces and computes
H_post * (F(H_pre x) + H_res H_pre x) of them, with mappings that do not see the state.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mhc_ref import Dialect
from properties.core.implementation import Absent, Implementation
from properties.targets.arrays import from_arrays

ROWS_FIRST = Dialect(last_axis="column")
"""In the log domain: rows, then columns, 20 times (the default of the module; the function's own is 100), no eps."""


def projection() -> Implementation:
    """`sinkhorn_knopp`, which takes one matrix at a time.

    It stops early once all sums are within 1e-6 of 1, its default; what that leaves out is within a float32's rounding.

    Raises:
        ImportError: mlx-mhc or mlx is not installed.
    """
    library: Any = import_module("mlx_mhc.sinkhorn")

    def project(matrix: Any, max_iterations: int) -> Any:
        return library.sinkhorn_knopp(matrix, max_iterations=max_iterations)

    return from_arrays(
        "mlx",
        dialect=ROWS_FIRST,
        project=project,
        token_axes=0,
        tune=asked,
        tunable=frozenset({"iterations"}),
        dtypes=("float32",),
        full_range=True,
        max_tokens=16,
    )


def asked(dialect: Dialect) -> dict[str, Any]:
    """The library's argument for a dialect."""
    if dialect.iterations < 1:
        raise Absent(f"tuned: iterations={dialect.iterations}; without one it returns exp(logits), unshifted")
    return {"max_iterations": dialect.iterations}
