"""A projection in JAX, compiled by `jax.jit`; gradients are asked of `jax.vjp`.

mhc-properties check examples/jax_arrays.py:Mine
"""

import jax
import jax.numpy as jnp

from mhc_ref import PAPER
from properties.arrays import from_arrays

jax.config.update("jax_enable_x64", True)  # otherwise float64 is not declared


def sinkhorn(logits):
    """20 times columns, then rows; logits [..., n, n]."""

    def both(_, m):
        m = m / m.sum(-2, keepdims=True)
        return m / m.sum(-1, keepdims=True)

    return jax.lax.fori_loop(0, 20, both, jnp.exp(logits - logits.max(-2, keepdims=True)))


Mine = from_arrays("jax", dialect=PAPER, project=jax.jit(sinkhorn))
