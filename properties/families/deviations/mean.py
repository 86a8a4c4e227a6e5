"""Deviations towards the mean of the streams."""

from __future__ import annotations

from properties.core.slips import Slips

SLIPS = Slips()
collapse_dialect = SLIPS.dialect("collapse")

collapse_dialect(
    "collapse-mean",
    "The streams end as their mean.",
    "Automodel's first port (bug 5); marin #2321 (bug 10)",
    lambda d: d.with_(collapse="mean"),
)
