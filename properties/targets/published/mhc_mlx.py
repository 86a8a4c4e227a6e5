"""The package mhc-mlx (0.6.3): `mhc_mlx.reference.mixing_matrix_from_logits`, "the source of truth" of its kernels.

The kernels need Metal. The rest of the reference has one static set of mappings for all tokens, and a norm in place of
the branch, which no dialect has.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from mhc_ref import Dialect
from properties.core.implementation import Absent, Implementation
from properties.targets.arrays import from_arrays

ROWS_FIRST = Dialect(last_axis="column")
"""exp(Z - row max), then rows and columns, 20 times. A row sum of at most 1e-5 is left as it is, and a column whose sum
is at most 1e-5 becomes 0: no dialect has that, and the docstring of `sinkhorn_knopp` says so."""


def projection() -> Implementation:
    """`mixing_matrix_from_logits`, which takes one matrix at a time.

    Raises:
        ImportError: mhc-mlx or mlx is not installed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "mhc-mlx is optimized for", UserWarning)
        library: Any = import_module("mhc_mlx.reference")

    def project(matrix: Any, iters: int) -> Any:
        return library.mixing_matrix_from_logits(matrix, iters=iters)

    return from_arrays(
        "mlx",
        dialect=ROWS_FIRST,
        project=project,
        token_axes=0,
        tune=asked,
        tunable=frozenset({"iterations"}),
        dtypes=("float32",),
        max_tokens=16,
    )


def asked(dialect: Dialect) -> dict[str, Any]:
    """The library's argument for a dialect."""
    if dialect.iterations < 1:
        raise Absent(f"tuned: iterations={dialect.iterations}; the row maximum is subtracted and never divided out")
    return {"iters": dialect.iterations}
