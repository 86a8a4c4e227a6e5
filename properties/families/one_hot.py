"""One-hot: stream 0 begins as h and the others as zeros."""

from __future__ import annotations

from properties.core.family import Begin


class OneHot(Begin):
    """A start that is told apart by its streams, as first reads of stream 0 are."""

    name = "one-hot"
    words = "stream 0 begins as h and the others as zeros"
    source = "a choice of some reproductions; no released model is known to make it"


BEGIN = OneHot()
