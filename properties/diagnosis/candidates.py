"""Which rules of sizes are consistent with what was seen: the smallest sets of conditions, the simplest first."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from properties.core.size import Size
from properties.diagnosis.rules import MODES, NUMBERS, Atom, Between, Mode, Power, Residue, Rule

MODULI = tuple(sorted({*range(2, 65), *range(80, 513, 16), *range(1024, 8193, 1024), 96, 100, 1000}))
"""Moduli of the residues that are tried."""
_MANY = 24
"""Rules that are kept beside the simplest, to choose the next call by."""
_DEEPEST = 5
"""Conditions of a rule, at most; the two ends of an interval are two."""
_NODES = 800
"""Steps of the search for the smallest sets."""
_GAPS = 4
"""Gaps of a number, the widest first, at which failures may fall into two rules."""
_ENOUGH = 4
"""Failures from which it may be said which residue is not among them."""
_WORSE = 2.5
"""How much more than the simplest rule another may cost to be kept beside it."""


def consistent(seen: Mapping[Size, bool]) -> list[Rule]:
    """The simplest rules that hold where something failed and nowhere else, the simplest first."""
    failing = [one for one, failed in seen.items() if failed]
    passing = [one for one, failed in seen.items() if not failed]
    if not failing or not passing:
        return []
    table = _table(passing)
    atoms = _dropped(_candidates(failing, table), table)
    if not atoms:
        return []
    covers = np.stack([~_holds((one,), table) for one in atoms])
    if not covers.any(0).all():
        return []
    packed = np.packbits(covers, axis=0, bitorder="little").T  # what passes, by the atoms that say so
    needs = sorted({int.from_bytes(row.tobytes(), "little") for row in packed}, key=int.bit_count)
    least: list[int] = []
    for one in needs:  # what a smaller need implies is no need of its own
        if not any(kept & one == kept for kept in least):
            least.append(one)
    return _hitting(least, atoms)


def either(seen: Mapping[Size, bool]) -> list[Rule]:
    """The simplest two conjunctions, of which one holds where something failed and none elsewhere: below and above a
    gap of one of the numbers."""
    found: list[Rule] = []
    for of in NUMBERS.values():
        failing = sorted({of(one) for one, failed in seen.items() if failed})
        gaps = sorted(itertools.pairwise(failing), key=lambda pair: pair[0] / pair[1])[:_GAPS]
        for low, _ in gaps:
            halves = [{s: f for s, f in seen.items() if not f or (of(s) <= low) == below} for below in (True, False)]
            one, other = (consistent(half) for half in halves)
            if one and other:
                found.append(dataclasses.replace(one[0], other=other[0]))
    return sorted(found, key=lambda one: (one.cost, one.text))[:_MANY]


def _hitting(needs: Sequence[int], atoms: Sequence[Atom]) -> list[Rule]:
    """The cheapest sets of atoms of which each need has one."""
    found: dict[frozenset[int], Rule] = {}
    bound, nodes = [math.inf], [0]

    def descend(chosen: tuple[int, ...], barred: int, cost: float) -> None:
        nodes[0] += 1
        mask = sum(1 << k for k in chosen)
        if cost > bound[0] + _WORSE or nodes[0] > _NODES:
            return
        left = [need & ~barred for need in needs if not need & mask]
        if not left:
            key = frozenset(chosen)
            if key not in found:
                rule = _merged([atoms[k] for k in chosen])
                found[key] = rule
                bound[0] = min(bound[0], rule.cost)
            return
        if len(chosen) == _DEEPEST:
            return
        least = min(left, key=int.bit_count)
        options = [k for k in range(len(atoms)) if least >> k & 1]
        for k in sorted(options, key=lambda k: atoms[k].cost)[:_MANY]:
            descend((*chosen, k), barred, cost + atoms[k].cost)
            barred |= 1 << k

    descend((), 0, 0.0)
    rules = sorted(found.values(), key=lambda one: (one.cost, one.text))
    return [one for one in rules if one.cost <= rules[0].cost + _WORSE][:_MANY]


def _merged(atoms: Iterable[Atom]) -> Rule:
    """A rule in which the two ends of an interval are one atom."""
    kept: list[Atom] = []
    ends: dict[str, Between] = {}
    for one in atoms:
        if isinstance(one, Between):
            other = ends.get(one.axis, Between(one.axis))
            low = one.low if other.low is None else other.low
            high = one.high if other.high is None else other.high
            ends[one.axis] = Between(one.axis, low, high)
        else:
            kept.append(one)
    return Rule((*ends.values(), *kept))


Table = Mapping[str, np.ndarray]


def _table(sizes: Sequence[Size]) -> Table:
    numbers = {axis: np.array([of(one) for one in sizes]) for axis, of in NUMBERS.items()}
    return numbers | {axis: np.array([of(one) for one in sizes]) for axis, (of, _, _) in MODES.items()}


def _holds(atoms: Iterable[Atom], table: Table) -> np.ndarray:
    """Where all atoms hold, of a table of sizes."""
    found = np.ones(len(table["T"]), bool)
    for atom in atoms:
        values = table[atom.axis]
        if isinstance(atom, Mode):
            found &= values == atom.value
        elif isinstance(atom, Power):
            found &= (values & (values - 1) == 0) == atom.equal
        elif isinstance(atom, Residue):
            found &= (values % atom.modulus == atom.residue) == atom.equal
        else:
            found &= values >= (-1 if atom.low is None else atom.low)
            found &= values <= (np.inf if atom.high is None else atom.high)
    return found


def _candidates(failing: Sequence[Size], passing: Table) -> Iterator[Atom]:
    """Every atom that holds wherever something failed."""
    table = _table(failing)
    for axis in NUMBERS:
        values = np.unique(table[axis])
        low, high = int(values[0]), int(values[-1])
        yield Between(axis, low)
        yield Between(axis, None, high)
        if low == high:
            yield Between(axis, low, high)
        powers = values & (values - 1) == 0
        if powers.all() or (not powers.any() and len(failing) >= _ENOUGH):
            yield Power(axis, bool(powers.all()))
        most = max(high, int(passing[axis].max()))
        for modulus in itertools.takewhile(lambda one: one <= most, MODULI):  # noqa: B023
            rest = values % modulus
            if (rest == rest[0]).all():
                yield Residue(axis, modulus, int(rest[0]))
            elif len(failing) >= _ENOUGH:
                some = range(modulus) if modulus <= 16 else (0, 1, modulus - 1)
                met = np.bincount(rest, minlength=modulus)
                yield from (Residue(axis, modulus, residue, False) for residue in some if not met[residue])
    for axis in MODES:
        if len(values := np.unique(table[axis])) == 1:
            yield Mode(axis, bool(values[0]))


def _dropped(atoms: Iterable[Atom], table: Table) -> list[Atom]:
    """The atoms that explain why something passes; of those of an axis that explain the same, the three cheapest."""
    alike: dict[tuple[str, bytes], list[Atom]] = {}
    for one in atoms:
        holds = _holds((one,), table)
        if not holds.all():
            alike.setdefault((one.axis, holds.tobytes()), []).append(one)
    return [one for those in alike.values() for one in sorted(those, key=lambda one: one.cost)[:3]]
