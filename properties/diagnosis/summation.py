"""The order in which a sum is accumulated, read off sums of numbers that absorb one another; and its words.

With M at i, -M at j and ones elsewhere, a one that is added before the two have met is lost in M, and those after it
survive: how many do is the number of terms outside of the smallest partial sum that holds both (Xie et al.,
"Revealing floating-point accumulation orders in software/hardware implementations", arXiv 2411.00442).
Those sizes are the tree. Any tree is a correct sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BIG = 2.0**40
"""M: ones of `one(count)` are lost in it in every accumulator of up to 53 bits, and it overflows none with the exponent
of float32."""

FINEST = 60
"""The most bits of an accumulator that are looked for."""

Sums = Callable[[Tensor], Tensor]
"""Rows of K numbers -> what the target makes of the sum of each, in ones: [m, K] -> [m], float64."""


class Unreadable(Exception):  # of a target that is right all the same
    """The order cannot be read off, and why."""


@dataclass(frozen=True)
class Summed:
    """How a target sums.

    Attributes:
        of: which sum.
        count: how many terms it has here.
        order: in words; empty where it could not be read.
        bits: what the accumulator keeps of a number next to another, and of a partial sum that meets another.
        why: it could not be read.
    """

    of: str
    count: int
    order: str = ""
    bits: tuple[int, int] | None = None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"of": self.of, "terms": self.count, "order": self.order or None, "bits": self.bits, "why": self.why}

    def __str__(self) -> str:
        if not self.order:
            return f"{self.of}: could not be read: {self.why}"
        return f"{self.of} of {self.count} terms: {self.order}{self._kept()}"

    def _kept(self) -> str:
        if self.bits is None:
            return ""
        near, far = (f"more than {FINEST} bits" if one > FINEST else f"{one} bits" for one in self.bits)
        return f", with {near}" + (f", and {far} where partial sums meet" if near != far else "")


def one(count: int) -> float:
    """The unit of sums of so many terms: all of them together are less than half an ulp of `BIG` in 53 bits."""
    return 2.0 ** (-15 - math.ceil(math.log2(max(2, count))))


def read(of: str, count: int, sums: Sums) -> Summed:
    """How a sum of `count` terms is accumulated."""
    try:
        tree = Tree(count, sums)
        return Summed(of, count, describe(tree.sizes), _bits(tree))
    except Unreadable as reason:
        return Summed(of, count, why=str(reason))


def chains(count: int, survivors: Sequence[int], blur: int) -> str:
    """The order of a sum of which no term is negative, from how many terms of half an ulp survive a large one.

    Arguments:
        survivors: of `count` - 1, with the large one first, and with it last; each is off by `blur` at most. Those are
            lost that are added to it one by one.

    Raises:
        Unreadable: they are lost wherever the large one is.
    """
    first, last = (count - 1 - one for one in survivors)
    most = max(first, last)
    if most <= blur:
        return f"in chains of fewer than {2 * blur} terms, or with more than 24 bits"
    if min(first, last) >= count - 1 - blur:
        raise Unreadable("it keeps fewer than 24 bits")
    if most >= count - 1 - blur:
        return "in one chain" if first > last else "in one chain from the last"
    return f"in chains of about {most + 1} terms"


class Tree:
    """The tree of a sum: `sizes[i][j]` is how many terms the smallest partial sum with both i and j has, 1 on the
    diagonal.

    Raises:
        Unreadable: what comes back is the sum of no tree.
    """

    def __init__(self, count: int, sums: Sums) -> None:
        self.count, self.sums = count, sums
        ones = torch.ones(3, count, dtype=torch.float64)
        ones[1, count // 2 :] = 0
        ones[2] = 0
        if self._counts(ones).tolist() != [count, count // 2, 0]:
            raise Unreadable("a sum of equal numbers is not their number")
        self.sizes = torch.eye(count, dtype=torch.int64)
        self._grow(list(range(count)))

    def _grow(self, terms: list[int], whole: int = 0) -> list[int]:
        """Fill in the sizes of the tree of these terms, its first at its root; those that have a size of `whole` with
        the first are no part of that tree, and are returned."""
        first, others = terms[0], terms[1:]
        at = dict(zip(others, self._met(first, others), strict=True))
        left = [j for j in others if at[j] == whole]
        inside = [first]
        for size in sorted({size for size in at.values() if size != whole}):
            group = [j for j in others if at[j] == size]
            if size != len(inside) + len(group):
                raise Unreadable("the sizes of its partial sums are those of no tree")
            rest = group
            while rest:  # several where more than two are added at once
                again = self._grow(rest, size)
                child = [j for j in rest if j not in set(again)]
                for i in inside:
                    self.sizes[i, child] = size
                    self.sizes[child, i] = size
                inside += child
                rest = again
        return left

    def _met(self, first: int, others: Sequence[int]) -> list[int]:
        if not others:
            return []
        masks = torch.ones(len(others), self.count, dtype=torch.float64)
        masks[:, first] = BIG / one(self.count)
        masks[range(len(others)), list(others)] = -BIG / one(self.count)
        return [self.count - int(survived) for survived in self._counts(masks)]

    def _counts(self, masks: Tensor) -> Tensor:
        found = self.sums(masks)
        if not bool(found.isfinite().all()):
            raise Unreadable("large numbers that cancel leave an infinity or a NaN")
        whole = found.round()
        if bool(((found - whole).abs() > 0.25).any()) or bool((whole < 0).any()) or bool((whole > self.count).any()):
            raise Unreadable("what survives is no number of terms")
        return whole

    def keeps(self, i: int, j: int, k: int) -> int:
        """How many bits are kept of a number at i to which one at j is added, before the number at k takes it back."""
        masks = torch.zeros(FINEST, self.count, dtype=torch.float64)
        masks[:, i] = 2.0 ** torch.arange(1, FINEST + 1)
        masks[:, k] = -masks[:, i]
        masks[:, j] = 1
        lost = (self.sums(masks) < 0.5).nonzero()
        return int(lost[0]) + 1 if len(lost) else FINEST + 1


def _bits(tree: Tree) -> tuple[int, int] | None:
    """Of numbers next to each other, and of those that are added up last."""
    if tree.count < 3:
        return None
    sizes = tree.sizes + tree.count * torch.eye(tree.count, dtype=torch.int64)
    i = int(sizes.amin(1).argmin())
    j = int(sizes[i].argmin())
    others = [k for k in range(tree.count) if k not in (i, j)]
    near = min(others, key=lambda k: int(sizes[i, k]))
    far = max(others, key=lambda k: int(sizes[i, k]))
    return tree.keeps(i, j, near), tree.keeps(i, j, far)


def describe(sizes: Tensor) -> str:
    """The order of a tree in words."""
    words = _plain(sizes) or _parts(sizes, deep=False) or _parts(sizes, deep=True)
    return words or f"in an order of its own, a tree {_height(sizes)} additions high"


def _plain(sizes: Tensor) -> str:
    """One chain, or a balanced tree; empty where it is neither."""
    count = len(sizes)
    place = torch.arange(count)
    later = torch.maximum(place[:, None], place)
    apart = place[:, None] != place
    if bool((sizes == later + 1)[apart].all()):
        return "in one chain"
    if bool((sizes == count - torch.minimum(place[:, None], place))[apart].all()):
        return "in one chain from the last"
    for at_once in (at_once for at_once in range(2, 65) if at_once < count):
        if bool((sizes == ((later // at_once + 1) * at_once).clamp(max=count))[apart].all()):
            return f"in one chain, {at_once} terms at once"
    if bool((sizes == count)[apart].all()):
        return "all at once"
    height = _height(sizes)
    if height <= math.ceil(math.log2(count)):
        return "pairwise"
    return "in one chain, in another order" if height == count - 1 else ""


def _height(sizes: Tensor) -> int:
    """How many additions the deepest term goes through."""
    return max(len(set(row)) for row in sizes.tolist()) - 1


def _parts(sizes: Tensor, deep: bool) -> str:
    """Equal parts, contiguous or strided, each summed by itself, and then their sums."""
    count = len(sizes)
    place = torch.arange(count)
    for number in (number for number in range(2, count // 2 + 1) if count % number == 0):
        for kind, owner in (("strided chain", place % number), ("chunk", place // (count // number))):
            same = owner[:, None] == owner
            each = count // number
            if bool((sizes[same] > each).any()) or bool((sizes[~same] % each != 0).any()):
                continue
            inside = [sizes[owner == k][:, owner == k] for k in range(number)]
            if not all(torch.equal(inside[0], other) for other in inside):
                continue
            first = torch.stack([(owner == k).nonzero()[0, 0] for k in range(number)])
            outside = sizes[first][:, first] // each
            outside.fill_diagonal_(1)
            within, then = _plain(inside[0]), "added" if number == 2 else _plain(outside)
            if not within and deep:
                within = _parts(inside[0], deep=False)
            if not then and deep:
                then = _parts(outside, deep=False)
            if within and then:
                return f"{_named(number, kind, each, within)}, then {then}"
    return ""


def _named(number: int, kind: str, each: int, within: str) -> str:
    if kind == "strided chain":
        return f"{number} strided chains" if within == "in one chain" else f"{number} strided parts, each {within}"
    return f"{number} chunks of {each}, each {within}"
