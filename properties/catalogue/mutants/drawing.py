"""A mutant by a seed and an index: a stage, one or two conditions, a slip, and the part of the output that it is in."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_ref import PRESETS, Dialect
from properties.catalogue.deviations import CATALOGUE
from properties.catalogue.mutants import conditions, slips
from properties.catalogue.mutants.borrowed import BORROWED
from properties.catalogue.mutants.moments import Condition, Moment, Variable
from properties.catalogue.mutants.slips import Position, Slip

FEW, MANY = (2, 4), (1, 2, 3, 4, 5, 8)
"""Numbers of streams that a mutant declares; many where one of them is part of its condition."""
_PRESETS = ("DEEPSEEK_V4",) * 6 + ("PAPER", "LIGER", "HYPER_CONNECTIONS", "PAPER")
_STAGES = (*slips.STAGES, "h_res", "write", "write", "products")


@dataclass(frozen=True)
class Spec:
    """A mutant before it is made: what it declares, and what is wrong with it where.

    Attributes:
        deviation: the entry of the catalogue that takes the place of a method, where the slip is one of those.
    """

    seed: int
    index: int
    preset: str
    streams: tuple[int, ...]
    dtype: torch.dtype
    compilable: bool
    stage: str
    conditions: tuple[Condition, ...]
    slip: Slip
    position: Position | None = None
    deviation: str = ""

    @property
    def dialect(self) -> Dialect:
        """What it declares."""
        return PRESETS[self.preset]

    @property
    def target(self) -> str:
        """What makes it again."""
        return f"mutant:{self.seed}:{self.index}"

    @property
    def text(self) -> str:
        """What is wrong with it, in one line."""
        where = " and ".join(one.text for one in self.conditions)
        part = "" if self.position is None else f" ({self.position.text})"
        return f"{self.stage} {self.slip.text}{part}, {where}"

    def meets(self, moment: Moment, certainly: bool = False) -> bool:
        """Whether it is wrong there; `certainly`: apart from what is left to chance."""
        place = self.position
        there = place is None or place.fits(moment.T if place.variable == "T" else moment.C)
        return there and all(one.holds(moment) for one in self.conditions if one.certain or not certainly)

    @property
    def sorts(self) -> tuple[str, ...]:
        """The sorts of its conditions."""
        return tuple(one.sort for one in self.conditions)

    @property
    def group(self) -> tuple[str, tuple[int, ...], torch.dtype, bool]:
        """Everything that it declares: what is drawn for it depends on nothing else."""
        return self.preset, self.streams, self.dtype, self.compilable


def drawn(seed: int, index: int) -> Spec:
    """The mutant of that seed and index, the same everywhere."""
    chance = random.Random(f"{seed}:{index}")
    preset = chance.choice(_PRESETS)
    by_catalogue = chance.random() < 0.25
    if by_catalogue:
        name, stage = chance.choice(borrowed(preset))
        where = _conditions(chance, stage)
        slip, place = Slip(f"deviation {CATALOGUE[name].kind}", f"as deviation:{name}", _same, whole=True), None
    else:
        stage = chance.choice(_STAGES)
        where = _conditions(chance, stage)
        asks = not any(one.sort in ("no gradients", "inference mode") for one in where)
        name, slip = "", slips.drawn(chance, stage, asks)
        place = None if slip.whole else slips.position(chance, stage)
    compilable = any(one.sort == "compiled" for one in where)
    dtype = torch.bfloat16 if any(one.sort == "bfloat16" for one in where) else torch.float32
    many = any(one.variable == "n" for one in where)
    if many or compilable or dtype != torch.float32:  # one group of each, as a group costs a check
        preset = "DEEPSEEK_V4" if not name or CATALOGUE[name].applies(PRESETS["DEEPSEEK_V4"]) else preset
    return Spec(seed, index, preset, MANY if many else FEW, dtype, compilable, stage, where, slip, place, name)


def _same(value: Tensor, m: object, s: object) -> Tensor:
    return value


_KINDS = ("sizes",) * 6 + ("values",) * 3 + ("modes",) * 3 + ("history",) * 3 + ("position", "chance")


def _conditions(chance: random.Random, stage: str) -> tuple[Condition, ...]:
    """One condition, or two of different kinds or on different sizes."""
    found: list[Condition] = []
    used: set[Variable] = set()
    for _ in range(1 if chance.random() < 0.6 else 2):
        kind = chance.choice(_KINDS)
        if kind != "sizes" and any(one.kind == kind for one in found):
            kind = "sizes"
        one = _condition(chance, stage, kind, used)
        if one.sort == "compiled":  # what holds under a compiler besides is not asked there
            return (one,)
        found.append(one)
        if one.variable is not None:
            used |= {"K", "C", "n"} if one.variable == "K" else {one.variable}
        elif one.kind == "sizes":
            used |= {"T", "C", "n", "K"}
    return tuple(found)


def _condition(chance: random.Random, stage: str, kind: str, used: set[Variable]) -> Condition:
    logits = stage in ("h_pre", "h_post", "h_res", "project")
    if kind == "values":
        return conditions.of_logits(chance) if logits else conditions.of_state(chance)
    if kind == "modes":
        possible = conditions.modes()
        if stage not in ("norm", "products", "logits", "mappings", "h_pre", "h_post"):
            for sort in ("frozen parameters", "no norm weight", "a norm weight"):
                del possible[sort]
        if stage in ("h_pre", "h_post", "products", "logits", "norm"):  # what they are given is our own
            for sort in ("strides", "alignment") if logits else ():
                del possible[sort]
        return chance.choice(list(possible.values()))
    if kind == "history":
        return conditions.history(chance)
    if kind == "position" and stage not in ("layers", "collapse"):
        return conditions.depth(chance)
    if kind == "chance":
        return conditions.by_chance(chance)
    every: tuple[Variable, ...] = ("T", "T", "C", "C", "K", "n", "L")
    if stage in ("h_res", "project"):
        every = ("T", "n")
    elif stage in ("layers", "collapse"):  # a layer is at hand in neither
        every = ("T", "T", "C", "C", "K", "n")
    free: tuple[Variable, ...] = tuple(one for one in every if one not in used) or ("n",)
    return conditions.size(chance, free)


@functools.cache  # to ask every deviation whether it applies takes longer than all the rest of a draw
def borrowed(preset: str) -> tuple[tuple[str, str], ...]:
    """(deviation, method) wherever the method alone can be borrowed in that dialect."""
    pairs = [(name, method) for method, names in BORROWED.items() for name in names if name in CATALOGUE]
    return tuple((name, method) for name, method in pairs if CATALOGUE[name].applies(PRESETS[preset]))
