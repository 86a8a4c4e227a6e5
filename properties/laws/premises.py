"""When a law holds: the premises on a dialect, each None where it is met or the reason why it is not."""

from __future__ import annotations

import torch

from mhc_ref import Dialect
from mhc_ref.projection import compute_dtype
from properties.core.implementation import Implementation
from properties.core.premises import Applies, Premise

DIM = {"row": -1, "column": -2}
"""The dim that an axis of the emitted matrix normalises over."""


def all_of(*premises: Applies) -> Applies:
    """All premises; the first reason that one gives."""

    def check(dialect: Dialect) -> str | None:
        return next((reason for premise in premises if (reason := premise(dialect))), None)

    return check


def sinkhorn(dialect: Dialect) -> str | None:
    """h_res comes out of Sinkhorn iterations."""
    return None if dialect.residual == "sinkhorn" else f"h_res is {dialect.residual}, not projected by Sinkhorn"


def normalised(dialect: Dialect) -> str | None:
    """At least one division along the last axis comes last."""
    if sinkhorn(dialect):
        return sinkhorn(dialect)
    return None if dialect.iterations > 0 else "without an iteration nothing is normalised last"


def stochastic(dialect: Dialect) -> str | None:
    """h_res has non-negative entries whose sums are at most 1 along one axis at least."""
    if dialect.residual == "sinkhorn":
        return normalised(dialect)
    return "h_res is unconstrained" if dialect.residual == "unconstrained" else None


def without_eps(dialect: Dialect) -> str | None:
    """Neither entries nor denominators have an eps: the scalings of rows and columns are free."""
    if dialect.entry_eps or dialect.denominator_eps:
        return "an eps in the entries or the denominators breaks the exact identity"
    return None


def divided_before_any_eps(dialect: Dialect) -> str | None:
    """No eps is added to exp(Z), or the start is a softmax, which has divided by then."""
    if dialect.start == "exp" and dialect.entry_eps:
        return "entry_eps is added to exp(Z) before any division"
    return None


def without_entry_eps(dialect: Dialect) -> str | None:
    """Entries are not changed before they are scaled."""
    return "entry_eps breaks the exact identity" if dialect.entry_eps else None


def free_matrix(dialect: Dialect) -> str | None:
    """The logits are an n x n matrix that h_res depends on."""
    return f"h_res is {dialect.residual}" if dialect.residual in ("permutations", "identity") else None


def depends_on_logits(dialect: Dialect) -> str | None:
    """h_res depends on its logits."""
    return "h_res is the identity whatever the logits" if dialect.residual == "identity" else None


def settled_by_one_stream(dialect: Dialect) -> frozenset[str]:
    """The mappings that for n = 1 are a number, whatever their logit: the share of an only term is 1.

    An implementation need not compute them, so that a NaN among the logits need not show.
    """
    shares = dialect.start == "softmax" or dialect.iterations > 0
    alone = {
        "pre": dialect.pre == "softmax",
        "post": dialect.post == "softmax",
        "res": dialect.residual == "permutations" or (dialect.residual == "sinkhorn" and shares),
    }
    return frozenset(name for name, settled in alone.items() if settled)


def mixes(dialect: Dialect) -> str | None:
    """The residual path mixes the streams."""
    return "h_res is the identity: post need not read it" if dialect.residual == "identity" else None


def gated(dialect: Dialect) -> str | None:
    """h_pre and h_post are sigmoids."""
    return None if dialect.pre == dialect.post == "sigmoid" else "h_pre or h_post is no sigmoid"


def takes_streams(n: int) -> Premise:
    """The implementation accepts this very n."""

    def check(implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None) -> str | None:
        return None if n in implementation.streams else f"is about n = {n}, which is not accepted"

    return check


def tunes(*fields: str) -> Premise:
    """`tuned` can change these fields."""

    def check(implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None) -> str | None:
        fixed = [field for field in fields if field not in implementation.tunable]
        return f"{', '.join(fixed)} cannot be tuned" if fixed else None

    return check


def mixes_in_compute_dtype(
    implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
) -> str | None:
    """The residual path is summed in the compute dtype, which for states of that dtype it always is."""
    if implementation.mixing == "compute" or compute_dtype(dtype) == dtype:
        return None
    return "mixing in a state's dtype below float32 has no derived bound"


def exact_axis(dialect: Dialect) -> int:
    """The dim of the *applied* operator along which sums are exact: -1 rows, -2 columns."""
    emitted = DIM[dialect.last_axis]
    return (-3 - emitted) if dialect.transposed else emitted
