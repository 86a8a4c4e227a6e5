"""A page of figures in the style of a report: words, heat maps, charts and fields of numbers, without a script."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from properties.core.picture import Drawn, drawn
from properties.report.page.render import rendered

_COLOURS = ("#0b6bb5", "#b3501a", "#2f7d4f", "#8a3b9e", "#8a6d00", "#5a6570", "#b3265e", "#1b8a8a")
_MARGIN = 56
_MOST_COLUMNS = 240
"""Columns of a field; of more, each is the largest of its neighbours."""


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class Code:
    """Lines as a terminal has them; `label` says what they are to somebody who does not see them."""

    text: str
    label: str = "Text"
    kind: ClassVar[str] = "code"


class Cell(NamedTuple):
    """An entry of a heat map: the number, the number as it is printed, and two colours."""

    value: Drawn
    short: str
    back: str
    front: str


@dataclass(frozen=True)
class Heat:
    """A matrix, [rows][columns]; `largest`: the size that has the full colour, by default its own largest."""

    caption: str
    rows: Sequence[Sequence[float]]
    largest: float | None = None

    @property
    def wide(self) -> bool:
        """Too wide for its numbers to be printed."""
        return bool(self.rows) and len(self.rows[0]) > 8

    def cells(self) -> list[list[Cell]]:
        """The entries with their colours."""
        sizes = [abs(one) for row in self.rows for one in row if math.isfinite(one)]
        most = self.largest if self.largest is not None else max(sizes, default=0.0)
        return [[Cell(drawn(one), short(one), *colours(one, most)) for one in row] for row in self.rows]


@dataclass(frozen=True)
class Heats:
    """Heat maps side by side."""

    heats: Sequence[Heat]
    kind: ClassVar[str] = "heats"


@dataclass(frozen=True)
class Table:
    """Words and numbers in rows, of which the first column names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    kind: ClassVar[str] = "table"


Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Lines and points over a plane, on logarithmic axes where that is said.

    Attributes:
        lines, points: by name, (x, y); what is not finite, or not positive on a logarithmic axis, is left out.
        level: a height that is drawn as a rule.
    """

    caption: str
    x: str
    y: str
    lines: Mapping[str, Points] = field(default_factory=lambda: {})
    points: Mapping[str, Points] = field(default_factory=lambda: {})
    level: float | None = None
    log_x: bool = False
    log_y: bool = True
    kind: ClassVar[str] = "chart"
    width: ClassVar[int] = 720
    height: ClassVar[int] = 320

    def _all(self) -> list[tuple[float, float]]:
        every = [one for series in (*self.lines.values(), *self.points.values()) for one in self._sound(series)]
        return every + ([(every[0][0], self.level)] if every and self.level and self.level > 0 else [])

    def _sound(self, series: Points) -> list[tuple[float, float]]:
        return [
            (x, y)
            for x, y in series
            if math.isfinite(x) and math.isfinite(y) and (x > 0 or not self.log_x) and (y > 0 or not self.log_y)
        ]

    def _range(self, axis: int) -> tuple[float, float]:
        values = [one[axis] for one in self._all()] or [1.0]
        low, high = min(values), max(values)
        if (self.log_x, self.log_y)[axis]:
            low, high = math.log10(low), math.log10(high)
        return (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        (left, right), (low, high) = self._range(0), self._range(1)
        x, y = math.log10(x) if self.log_x else x, math.log10(y) if self.log_y else y
        across = _MARGIN + (x - left) / (right - left) * (self.width - 1.5 * _MARGIN)
        down = self.height - 40 - (y - low) / (high - low) * (self.height - 60)
        return round(across, 1), round(down, 1)

    def drawn(self) -> Iterator[tuple[str, list[tuple[float, float]], str, bool]]:
        """(name, places, colour, whether they are points) of every series."""
        every = [(name, series, False) for name, series in self.lines.items()]
        every += [(name, series, True) for name, series in self.points.items()]
        groups = list(
            dict.fromkeys(name.partition(": ")[0] for name, *_ in every)
        )  # one colour for what belongs together
        for name, series, marks in every:
            colour = _COLOURS[groups.index(name.partition(": ")[0]) % len(_COLOURS)]
            yield name, [self._at(*one) for one in self._sound(series)], colour, marks

    def rules(self) -> list[tuple[float, float, float, float]]:
        """The axes and the level, as lines."""
        bottom, left, right = self.height - 40, _MARGIN, self.width - _MARGIN / 2
        found: list[tuple[float, float, float, float]] = [(left, bottom, right, bottom), (left, 12, left, bottom)]
        if self.level is not None and self._all() and (self.level > 0 or not self.log_y):
            height = self._at(self._all()[0][0], self.level)[1]
            found.append((left, height, right, height))
        return found

    def ticks(self) -> list[tuple[float, float, str]]:
        """Numbers along the axes, and what they are of."""
        (left, right), (low, high) = self._range(0), self._range(1)
        found: list[tuple[float, float, str]] = []
        parts = (0.0, 0.25, 0.5, 0.75, 1.0)
        along = [left + part * (right - left) for part in parts]
        if not self.log_x and float(left).is_integer() and float(right).is_integer() and right - left <= 12:
            along = [left + step for step in range(int(right - left) + 1)]
        bottom, far = (10**one if log else one for one, log in ((low, self.log_y), (left, self.log_x)))
        for x in along:
            value = 10**x if self.log_x else x
            found.append((self._at(value, bottom)[0] - 10, self.height - 22, short(value)))
        for part in parts:
            y = low + part * (high - low)
            value = 10**y if self.log_y else y
            found.append((2, self._at(far, value)[1] + 4, short(value)))
        if len(self.rules()) > 2:
            found.append((self.width - _MARGIN / 2 - 62, self.rules()[-1][1] - 4, "threshold"))
        return [*found, (self.width / 2, self.height - 4, self.x), (2, 10, self.y)]

    def summary(self) -> str:
        """The picture in a sentence."""
        names = ", ".join((*self.lines, *self.points))
        return f"{self.caption}: {names}, {self.y} against {self.x}"


@dataclass(frozen=True)
class Field:
    """Numbers over two axes, [rows][columns], as colours: what grows where, and when. None where nothing is known."""

    caption: str
    rows: Sequence[Sequence[float | None]]
    row_names: Sequence[str]
    column_names: Sequence[str]
    kind: ClassVar[str] = "field"
    width: ClassVar[int] = 720

    @property
    def _cell(self) -> float:
        return max(6.0, min(18.0, 360 / max(1, len(self.rows))))

    @property
    def height(self) -> float:
        """Of the picture."""
        return round(self._cell * len(self.rows) + 24, 1)

    def _columns(self) -> list[tuple[int, int]]:
        count = len(self.column_names)
        step = max(1, math.ceil(count / _MOST_COLUMNS))
        return [(first, min(count, first + step)) for first in range(0, count, step)]

    def drawn(self) -> Iterator[tuple[float, float, float, float, str, str]]:
        """(x, y, width, height, colour, words) of every cell; the colour follows the logarithm of the number."""
        every = [abs(one) for row in self.rows for one in row if one and math.isfinite(one)]
        low, high = (math.log10(min(every)), math.log10(max(every))) if every else (0.0, 1.0)
        columns = self._columns()
        wide = (self.width - 2 * _MARGIN) / max(1, len(columns))
        for i, row in enumerate(self.rows):
            for j, (first, last) in enumerate(columns):
                known = [one for one in row[first:last] if one is not None]
                if not known:
                    continue
                value = next((one for one in known if not math.isfinite(one)), max(known, key=abs))
                part = (math.log10(abs(value)) - low) / max(high - low, 1e-9) if value and math.isfinite(value) else 0.0
                colour = colours(part + 0.02, 1.02)[0] if math.isfinite(value) else "#7a1fa2"
                words = f"{self.row_names[i]}, {self.column_names[first]}: {short(value)}"
                place = round(_MARGIN + 40 + j * wide, 2), round(i * self._cell, 2)
                yield *place, round(wide + 0.3, 2), round(self._cell - 1, 2), colour, words

    def ticks(self) -> list[tuple[float, float, str]]:
        """Some names of rows and columns."""
        step = max(1, math.ceil(14 / self._cell))
        found = [
            (0.0, round((i + 0.8) * self._cell, 1), name[-14:])
            for i, name in enumerate(self.row_names)
            if i % step == 0
        ]
        wide = (self.width - 2 * _MARGIN) / max(1, len(self.column_names))
        some = range(0, len(self.column_names), max(1, len(self.column_names) // 6))
        return [
            *found,
            *((round(_MARGIN + 40 + j * wide, 1), self.height - 6, self.column_names[j]) for j in some),
        ]

    def summary(self) -> str:
        """The picture in a sentence."""
        return f"{self.caption}: {len(self.rows)} rows, {len(self.column_names)} columns"


Part = Words | Code | Heats | Table | Chart | Field


@dataclass(frozen=True)
class Section:
    """A heading, and what is under it."""

    heading: str
    parts: Sequence[Part]


def figures(title: str, sections: Sequence[Section]) -> bytes:
    """The page, in UTF-8."""
    return rendered("figures.html.j2", title=title, sections=sections)


def short(value: Drawn) -> str:
    """A number in three digits."""
    if isinstance(value, str) or not math.isfinite(value):
        return str(value)
    size = abs(value)
    text = (
        f"{value:.3g}" if size == 0 or 1e-3 <= size < 1e5 else f"{value:.2e}".replace("e+0", "e").replace("e-0", "e-")
    )
    return text.replace("e+", "e")


def colours(value: float, largest: float) -> tuple[str, str]:
    """Back and front of a cell: blue above 0, brown below, the stronger the larger; violet for no finite number."""
    if not math.isfinite(value):
        return "#7a1fa2", "#ffffff"
    part = min(1.0, abs(value) / largest) if largest else 0.0
    strength = 0.0 if part == 0 else 0.12 + 0.88 * part
    full = (178, 69, 24) if value < 0 else (21, 94, 160)
    red, green, blue = (round(255 + (one - 255) * strength) for one in full)
    light = 0.2126 * (red / 255) ** 2.2 + 0.7152 * (green / 255) ** 2.2 + 0.0722 * (blue / 255) ** 2.2
    return f"#{red:02x}{green:02x}{blue:02x}", "#000000" if light > 0.18 else "#ffffff"
