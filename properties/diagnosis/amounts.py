"""The number of a slip: the same for all n and C, or a formula of them; and what an implementation with one is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import Tensor

from mhc_ref import Dialect
from properties.catalogue.deviations import Deviant
from properties.core.implementation import Implementation
from properties.diagnosis.view import Frame

FORMS: dict[str, Callable[[int, int], float]] = {
    "1/sqrt(n)": lambda n, _: n**-0.5,
    "sqrt(n)": lambda n, _: n**0.5,
    "1/n": lambda n, _: 1 / n,
    "n": lambda n, _: float(n),
    "1/sqrt(C)": lambda _, c: c**-0.5,
    "sqrt(C)": lambda _, c: c**0.5,
    "1/C": lambda _, c: 1 / c,
    "C": lambda _, c: float(c),
    "1/sqrt(n*C)": lambda n, c: (n * c) ** -0.5,
    "sqrt(n*C)": lambda n, c: (n * c) ** 0.5,
    "1/(n*C)": lambda n, c: 1 / (n * c),
    "n*C": lambda n, c: float(n * c),
    "2/n": lambda n, _: 2 / n,
    "n/2": lambda n, _: n / 2,
    "log(n)": lambda n, _: math.log(n),
    "-log(n)": lambda n, _: -math.log(n),
}
"""Numbers that depend on n, or on C, and how they are written."""

ROOTS = {"1/sqrt(2)": 2**-0.5, "sqrt(2)": 2**0.5, "1/3": 1 / 3}
"""Numbers that a decimal number does not show for what they are."""

Shape = tuple[int, int | None]
"""n and C of a question; C is None where the number is met where C is not known."""


@dataclass(frozen=True)
class Amount:
    """A number, or a number times a formula of n and C."""

    value: float
    form: str = ""

    def of(self, n: int, channels: int | None = None) -> float:
        """The number for n streams of so many channels; no number where it depends on C and that is not known."""
        if "C" in self.form and not channels:
            return math.nan
        return self.value * FORMS[self.form](n, channels or 0) if self.form else self.value


class Numbered(Deviant):
    """A slip with a number.

    Attributes:
        numbers: kind -> its number; an implementation may have several kinds.
        neutral: the number with which nothing is wrong.
        stage: where it acts first.
        wide: whether C is known where the number is met, so that it may depend on it.
        search: how the number is looked for: an answer is "linear" in it, or it is tried from "factors", "offsets"
            or "eps" of every size on.
    """

    neutral: ClassVar[float] = 1.0
    stage: ClassVar[str] = "gates"
    wide: ClassVar[bool] = True
    search: ClassVar[Literal["linear", "factors", "offsets", "eps"]] = "linear"
    numbers: Mapping[type[Numbered], Amount] = MappingProxyType({})

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        """Whether it is something else than the other kinds for a dialect, in what a frame offers."""
        return True

    def amount(self, kind: type[Numbered], n: int, channels: int | None = None) -> float:
        """The number of one kind of slip."""
        given = self.numbers.get(kind)
        return kind.neutral if given is None else given.of(n, channels)

    def by_shape(self, kind: type[Numbered], x: Tensor) -> float:
        """The number of one kind of slip for a state [..., n, C]."""
        return self.amount(kind, x.shape[-2], x.shape[-1])

    def tuned(self, **fields: Any) -> Implementation:
        made = super().tuned(**fields)
        assert isinstance(made, Numbered)
        made.numbers = self.numbers
        return made
