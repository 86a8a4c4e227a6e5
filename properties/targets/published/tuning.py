"""What adapters share whose calls read their dialect each time: the same library, told otherwise."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

from properties.core.implementation import Absent, Implementation


class Tunable(Implementation):
    """An adapter that gives the fields in `tunable` to its library from `self.dialect`, in every call.

    Attributes:
        below_one: what the library does with less than one iteration, which no dialect says; empty where it does what
            is asked. It is refused then.
    """

    below_one: ClassVar[str] = ""

    def tuned(self, **fields: Any) -> Self:
        if set(fields) - self.tunable:
            super().tuned(**fields)  # which refuses them
        dialect = self.dialect.with_(**fields)
        if self.below_one and dialect.iterations < 1:
            raise Absent(f"tuned: iterations={dialect.iterations}; {self.below_one}")
        tuned = copy.copy(self)
        tuned.dialect = dialect
        return tuned
