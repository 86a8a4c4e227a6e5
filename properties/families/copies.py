"""Copies: every stream begins as the same h."""

from __future__ import annotations

from properties.core.family import Begin


class Copies(Begin):
    """As in every published implementation."""

    name = "copies"
    words = "the streams begin as copies"
    source = "arXiv 2409.19606"


BEGIN = Copies()
