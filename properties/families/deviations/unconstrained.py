"""Deviations towards no projection: it is left out where one is declared."""

from __future__ import annotations

from mhc_ref import Dialect
from properties.core.slips import MUTATION, Slips, constrains, takes_matrix

SLIPS = Slips()
missing_dialect = SLIPS.dialect("missing-term")


def projects_a_matrix(dialect: Dialect) -> bool:
    """An n x n matrix of logits is taken to a manifold."""
    return takes_matrix(dialect) and constrains(dialect)


missing_dialect(
    "manifold-missing",
    "The residual logits are applied without a projection: hyper-connections in place of mHC.",
    f"{MUTATION}: what the manifold constraint is for (mHC section 3.1)",
    lambda d: d.with_(residual="unconstrained"),
    projects_a_matrix,
)
