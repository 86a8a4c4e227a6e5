"""Examples that one search has found and another begins with.

An example is what Hypothesis chose while it drew it, and the numbers of streams among which it was drawn: a text of a
few hundred characters, whatever the size of the tensors. Another implementation that accepts these streams is given the
same inputs. One that draws otherwise, as another dialect may, is given whatever the choices come to there.
"""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import currently_in_test_context
from hypothesis.control import current_build_context
from hypothesis.database import ExampleDatabase, choices_from_bytes, choices_to_bytes

LONGEST = 16_384
"""Characters of an example that is kept. A longer one hangs on more choices than another search would follow."""


@dataclass(frozen=True)
class Drawn:
    """One example: the numbers of streams among which it was drawn, and what was chosen then."""

    streams: tuple[int, ...]
    choices: str

    def to_json(self) -> dict[str, Any]:
        """{streams, choices}."""
        return {"streams": list(self.streams), "choices": self.choices}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Drawn:
        """What `to_json` has written."""
        return cls(tuple(data["streams"]), data["choices"])

    @property
    def chosen(self) -> bytes:
        """The choices as Hypothesis's database has them."""
        return zlib.decompress(base64.b85decode(self.choices))

    def neighbour(self, number: int) -> Drawn:
        """The beginning of this example, cut where `number` says: Hypothesis draws the rest anew."""
        choices = choices_from_bytes(self.chosen) or ()
        kept = random.Random(f"{self.choices} {number}").randrange(len(choices)) if choices else 0
        return Drawn(self.streams, _packed(choices[:kept]))


def drawn_now(streams: Sequence[int], skipped: int = 0) -> Drawn | None:
    """The example that Hypothesis has just drawn, without its first choices; None outside of it, and where it is too
    long."""
    if not currently_in_test_context():
        return None
    packed = _packed(current_build_context().data.choices[skipped:])
    return Drawn(tuple(streams), packed) if len(packed) <= LONGEST else None


def _packed(choices: Sequence[Any]) -> str:
    return base64.b85encode(zlib.compress(choices_to_bytes(choices), 9)).decode()


class Given(ExampleDatabase):
    """A database that has these examples of every test, and keeps nothing."""

    def __init__(self, examples: Iterable[Drawn]) -> None:
        super().__init__()
        self._examples = tuple(dict.fromkeys(one.chosen for one in examples))

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """Where Hypothesis keeps what may be worth a try: a failure among the others it would not shrink any more."""
        return self._examples if key.endswith(b".secondary") else ()

    def save(self, key: bytes, value: bytes) -> None:
        """Nothing is kept."""

    def delete(self, key: bytes, value: bytes) -> None:
        """Nothing is kept."""
