"""Deviations towards a softmax over the streams."""

from __future__ import annotations

from properties.core.slips import Slips

SLIPS = Slips()
normalisation_dialect = SLIPS.dialect("normalisation")

normalisation_dialect(
    "pre-softmax",
    "h_pre is a softmax over the streams.",
    "tokenbender 088310e",
    lambda d: d.with_(pre="softmax"),
)
normalisation_dialect(
    "post-softmax",
    "h_post is a softmax over the streams.",
    "tokenbender 088310e",
    lambda d: d.with_(post="softmax"),
)
