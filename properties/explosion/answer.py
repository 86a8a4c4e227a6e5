"""What is known of a question: the size of the smallest, and why it is that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What is known, from a proof or from a search.

    Attributes:
        depth, streams: the smallest, or None where there is none.
        proved: that they are the smallest, or that there are none.
        proof: the argument in a sentence or two.
    """

    depth: int | None
    streams: int | None
    proved: bool
    proof: str
