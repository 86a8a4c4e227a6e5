"""Deviations towards what is linear: a gate or a tanh is left out."""

from __future__ import annotations

from properties.core.slips import Slips

SLIPS = Slips()
missing_dialect = SLIPS.dialect("missing-term")

missing_dialect(
    "tanh-missing",
    "The dynamic part is linear where tanh is declared.",
    "HC eq. (5) against mHC eq. (7)",
    lambda d: d.with_(dynamic="linear"),
    lambda d: d.dynamic == "tanh",
)
missing_dialect(
    "pre-unsquashed",
    "h_pre is its logits, without the sigmoid.",
    "HC eq. (10)-(13) against mHC eq. (8)",
    lambda d: d.with_(pre="linear"),
)
missing_dialect(
    "post-unsquashed",
    "h_post is its scaled logits, without the sigmoid.",
    "lucidrains 4b28146 (bug 7)",
    lambda d: d.with_(post="linear"),
)
