"""Depth attention: a branch reads what came before it by a softmax of products with one query (arXiv 2603.15031).

The streams are the sources: the states at which earlier groups of layers ended, and the sum under way. With q [C] the
query, the first column of phi, the weight of source i is h_pre,i = softmax_i(<q, x^_i>), x^_i the source over its rms,
and the branch reads sum_i h_pre,i x_i. Some divide the products by sqrt(C), and some read x_i / rms_i in place of x_i.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from mhc_ref.block import Params, squash
from mhc_ref.dialect import Dialect
from mhc_ref.registry import Field
from mhc_ref.rms import rms

FIELDS = {
    "scaled": Field(False, lambda a: isinstance(a, bool), "True or False", "products with the query are over sqrt(C)"),
    "reads_normalised": Field(
        False, lambda a: isinstance(a, bool), "True or False", "what is read is each source over its rms"
    ),
}


def conflict(dialect: Dialect) -> str | None:
    """One query for all sources, each of which has an rms of its own, and weights that sum to 1; logits have no static
    part, so that nothing is mixed by them."""
    asked = {
        "residual": dialect.residual == "identity",
        "read_from": dialect.read_from == "own",
        "rms_eps_by": dialect.rms_eps_by == "add",
        "centred": not dialect.centred,
        "norm_over": dialect.norm_over == "stream",
        "pre": dialect.pre == "softmax",
        "shared_projection": dialect.shared_projection,
    }
    wrong = [name for name, fits in asked.items() if not fits]
    if not wrong:
        return None
    value = getattr(dialect, wrong[0])
    return (
        f"Dialect.read='depth-attention' conflicts with {wrong[0]}={value!r}: it reads by a softmax of the products of "
        "one query with each stream over its own rms, and its streams are not mixed"
    )


def width(n: int, dialect: Dialect) -> int:
    """One score a source."""
    return n


def beyond(dialect: Dialect) -> int:
    """Every column of phi gives logits."""
    return 0


def affine(dialect: Dialect) -> bool:
    """Scores are products alone; alpha and bias are there and not read."""
    return False


def share(n: int, dialect: Dialect) -> float:
    """The products with phi are as they are; only those with the query may be scaled, in `weights`."""
    return 1.0


def completed(
    logits: Float[Tensor, "*tokens B"], n: int, params: Params, dialect: Dialect
) -> Float[Tensor, "*tokens B"]:
    """Logits are as they are."""
    return logits


def weights(
    logits: Float[Tensor, "*tokens n"], x: Float[Tensor, "*tokens n C"], params: Params, dialect: Dialect
) -> Float[Tensor, "*tokens n"]:
    """softmax(logits), or that of logits / sqrt(C), and over the rms where that is read."""
    scores = logits / math.sqrt(x.shape[-1]) if dialect.scaled else logits
    found = squash(scores, dialect.pre, dialect) + dialect.pre_eps
    return (
        found / rms(x.to(logits.dtype), (-1,), dialect.at(x.dtype)).squeeze(-1) if dialect.reads_normalised else found
    )
