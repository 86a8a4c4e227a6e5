"""A projection in NumPy. What takes arrays of NumPy, JAX or MLX is verified through `properties.arrays.from_arrays`.

mhc-properties check examples/arrays.py:Mine
"""

import numpy as np

from mhc_ref import PAPER
from properties.arrays import from_arrays


def sinkhorn(logits):
    """20 times columns, then rows; logits [..., n, n]."""
    m = np.exp(logits - logits.max(-2, keepdims=True))
    for _ in range(20):
        m = m / m.sum(-2, keepdims=True)
        m = m / m.sum(-1, keepdims=True)
    return m


Mine = from_arrays("numpy", dialect=PAPER, project=sinkhorn)
