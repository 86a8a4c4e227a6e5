"""Rules of sizes: conjunctions of intervals, residues and modes, in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from properties.core.size import Size

NUMBERS: Mapping[str, Callable[[Size], int]] = {
    "T": lambda size: size.tokens,
    "C": lambda size: size.channels,
    "n": lambda size: size.streams,
    "L": lambda size: size.layers,
    "K": lambda size: size.inner,
}
"""What a kernel may branch on, by its name in a rule; K = n C."""

MODES: Mapping[str, tuple[Callable[[Size], bool], str, str]] = {
    "gradients": (lambda size: size.gradients, "with gradients", "without gradients"),
    "contiguous": (lambda size: size.contiguous, "for contiguous states", "for strided states"),
}
"""How a call is made, and the words for yes and no."""


@dataclass(frozen=True)
class Between:
    """`low` <= a number <= `high`; None where there is no such end."""

    axis: str
    low: int | None = None
    high: int | None = None

    def holds(self, size: Size) -> bool:
        """Whether it holds at a size."""
        value = NUMBERS[self.axis](size)
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def cost(self) -> float:
        """How much it takes to say it."""
        ends = 1.4 if self.low == self.high else (self.low is not None) + (self.high is not None)
        return ends + 0.2 * (self.axis == "K")

    @property
    def words(self) -> str:
        """As in a report."""
        if self.low == self.high:
            return f"{self.axis} == {self.low}"
        low = "" if self.low is None else f"{self.low} <= "
        high = "" if self.high is None else f" <= {self.high}"
        return f"{low}{self.axis}{high}" if high or not low else f"{self.axis} >= {self.low}"


@dataclass(frozen=True)
class Residue:
    """A number modulo `modulus` is `residue`, or is not."""

    axis: str
    modulus: int
    residue: int
    equal: bool = True

    def holds(self, size: Size) -> bool:
        """Whether it holds at a size."""
        return (NUMBERS[self.axis](size) % self.modulus == self.residue) == self.equal

    @property
    def cost(self) -> float:
        """How much it takes to say it: powers of two and the residue 0 come first."""
        odd = self.modulus >> (self.modulus & -self.modulus).bit_length() - 1
        cost = 1.2 + 0.2 * (self.axis == "K") + 0.3 * (not self.equal) + 0.3 * (self.residue != 0)
        return cost + 0.02 * math.log2(self.modulus) + (0.1 + 0.05 * math.log2(odd) if odd > 1 else 0.0)

    @property
    def words(self) -> str:
        """As in a report."""
        return f"{self.axis} % {self.modulus} {'==' if self.equal else '!='} {self.residue}"


@dataclass(frozen=True)
class Power:
    """A number is a power of two, or is none."""

    axis: str
    equal: bool = True

    def holds(self, size: Size) -> bool:
        """Whether it holds at a size."""
        value = NUMBERS[self.axis](size)
        return (value & (value - 1) == 0) == self.equal

    @property
    def cost(self) -> float:
        """How much it takes to say it."""
        return 1.7 + 0.2 * (self.axis == "K") + 0.3 * (not self.equal)

    @property
    def words(self) -> str:
        """As in a report."""
        return f"{self.axis} {'is a' if self.equal else 'is no'} power of two"


@dataclass(frozen=True)
class Mode:
    """A call is made in one of two ways."""

    axis: str
    value: bool
    cost = 0.9

    def holds(self, size: Size) -> bool:
        """Whether it holds at a size."""
        return MODES[self.axis][0](size) == self.value

    @property
    def words(self) -> str:
        """As in a report."""
        _, yes, no = MODES[self.axis]
        return yes if self.value else no


Atom = Between | Residue | Power | Mode


@dataclass(frozen=True)
class Rule:
    """Where an implementation is wrong: where every condition holds, or those of another rule do.

    Attributes:
        atoms: the conditions, of which each is needed.
        other: what else there is, as in "T <= 16 or T >= 4096".
        tried: how far the sizes that failed went, of each number for which the rule has no upper end.
    """

    atoms: tuple[Atom, ...]
    other: Rule | None = None
    tried: tuple[tuple[str, int], ...] = ()

    def holds(self, size: Size) -> bool:
        """Whether the rule says that an implementation is wrong at a size."""
        return all(atom.holds(size) for atom in self.atoms) or (self.other is not None and self.other.holds(size))

    @property
    def parts(self) -> tuple[Rule, ...]:
        """The conjunctions."""
        return (dataclasses.replace(self, other=None), *(self.other.parts if self.other else ()))

    @property
    def cost(self) -> float:
        """How much it takes to say it; the simplest rule is the cheapest."""
        axes = {atom.axis for atom in self.atoms}
        residues = [atom.axis for atom in self.atoms if isinstance(atom, Residue)]
        own = sum(atom.cost for atom in self.atoms) + 0.3 * (len(axes) - 1) + len(residues) - len(set(residues))
        return own + (1.0 + self.other.cost if self.other else 0.0)

    @property
    def text(self) -> str:
        """As in "36 <= T <= 64", "C % 8 == 0 and n >= 3", "T >= 257 and T % 256 != 0 without gradients"."""
        numbers = [atom.words for atom in self.atoms if not isinstance(atom, Mode)]
        modes = [atom.words for atom in self.atoms if isinstance(atom, Mode)]
        own = " ".join([*([" and ".join(numbers)] if numbers else []), *modes])
        return f"{own} or {self.other.text}" if self.other else own

    @property
    def reach(self) -> str:
        """How far it was tried, as in "tried to T = 8192"; empty where the rule ends before."""
        found = {axis: value for one in self.parts for axis, value in one.tried}
        return f"tried to {', '.join(f'{axis} = {value}' for axis, value in found.items())}" if found else ""
