"""Deviations towards the sum of the streams."""

from __future__ import annotations

from properties.core.slips import Slips

SLIPS = Slips()
collapse_dialect = SLIPS.dialect("collapse")

collapse_dialect(
    "collapse-sum",
    "The streams end as their sum.",
    "MaxText before #4337: HyperHead missing, streams summed (bug 13)",
    lambda d: d.with_(collapse="sum"),
)
