"""What is found of a model: the blocks that are left, the input, and how it grows; and how that stands in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from properties.explosion.options import MOST_STREAMS
from properties.explosion.stored import integer_of, list_of, object_of

_MOST_BLOCKS = 10_000
_SHOWN = 256
"""Entries of an input that are told; more are in the file."""
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Grown:
    """A model of whose blocks some are left, and an input that grows in it.

    Attributes:
        names: of all its blocks, in order; `kept`: which are left.
        input: [T, ...] token ids (int64) or a state (float64).
        streams, width: of what enters the first block.
        gain: what was measured of it.
        whole: the gain of this input with all blocks.
        typical, largest: the median and the largest gain of random inputs of as many tokens, with all blocks.
        floor: the smallest denominator of a growth of activations.
        curve: the gain with the first of the kept blocks, with the first two, ...
        states: the largest activation behind each of all blocks, for this input; `usual`: for random ones, the median.
        tried, exploding: initialisations, where several were asked for; 0 otherwise.
    """

    names: tuple[str, ...]
    kept: tuple[int, ...]
    input: Tensor
    streams: int
    width: int
    gain: float
    whole: float
    typical: float
    largest: float
    floor: float
    curve: tuple[float, ...]
    states: tuple[float, ...]
    usual: tuple[float, ...]
    tried: int = 0
    exploding: int = 0

    @property
    def depth(self) -> int:
        return len(self.kept)

    @property
    def ids(self) -> bool:
        return self.input.dtype == torch.int64

    @property
    def entries(self) -> int:
        """Entries of a state that are not 0, or tokens."""
        return self.input.numel() if self.ids else int((self.input != 0).sum())

    @property
    def blocks(self) -> list[int | str]:
        """What the kept blocks are called: by their number where that is all in which the names differ."""
        apart = [name.split(".") for name in self.names]
        places = [{part[k] for part in apart} for k in range(len(apart[0]))] if len({*map(len, apart)}) == 1 else []
        differing = [k for k, some in enumerate(places) if len(some) > 1]
        if len(differing) == 1 and all(part[differing[0]].isdecimal() for part in apart):
            return [int(apart[k][differing[0]]) for k in self.kept]
        return [self.names[k] or "(the model)" for k in self.kept]

    def behind(self) -> dict[str, list[tuple[int, float]]]:
        """The largest activation behind each block, of this input and of random ones, where it is finite."""
        lines = {"this input": self.states, "random inputs (median)": self.usual}
        found = {name: [(k, one) for k, one in enumerate(line) if math.isfinite(one)] for name, line in lines.items()}
        return {name: line for name, line in found.items() if line}

    def told(self) -> dict[str, Any]:
        """The input as JSON has it."""
        if self.ids:
            return {"kind": "ids", "tokens": self.input.tolist()}
        places = self.input.nonzero()
        entries = (
            [[*place.tolist(), self.input[tuple(place)].item()] for place in places] if len(places) <= _SHOWN else None
        )
        return {"kind": "states", "shape": list(self.input.shape), "entries": entries}

    def sentence(self, growing: str) -> str:
        """ "blocks 3 and 7 of 10, one token, two entries: activations grow 1.4e3 times", the end being `growing`."""
        parts = [self._named(), *([counted(len(self.input), "token")] if self.ids or self.input.ndim == 2 else [])]
        if not self.ids:
            parts.append(counted(self.entries, "entry", "entries"))
        return f"{', '.join(parts)}: {growing}"

    def _named(self) -> str:
        kept = list(map(str, self.blocks))
        if not kept:
            return "none of its blocks, but what lies between them"
        if len(kept) == len(self.names):
            return f"all {len(kept)} blocks" if len(kept) > 1 else "its one block"
        if len(kept) > 12:
            return f"{len(kept)} of {len(self.names)} blocks"
        listed = " and ".join(filter(None, (", ".join(kept[:-1]), kept[-1])))
        return f"block{'s' * (len(kept) > 1)} {listed} of {len(self.names)}"

    def written(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "kept": list(self.kept),
            "streams": self.streams,
            "width": self.width,
            "tried": self.tried,
            "exploding": self.exploding,
            **{name: _number(getattr(self, name)) for name in _NUMBERS},
            **{name: list(map(_number, getattr(self, name))) for name in _LISTS},
        }

    @classmethod
    def read(cls, value: Any, tensors: Mapping[str, Tensor]) -> Grown:
        fields = object_of(value, "model")
        names = list_of(fields["names"], "names")
        if not 1 <= len(names) <= _MOST_BLOCKS or not all(isinstance(one, str) for one in names):
            raise ValueError(f"names are not 1 to {_MOST_BLOCKS} texts")
        kept = [integer_of(one, "a block", 0, len(names) - 1) for one in list_of(fields["kept"], "kept")]
        if kept != sorted(set(kept)):
            raise ValueError("kept are not blocks in order, each once")
        given = tensors.get("input")
        if given is None or given.dtype not in (torch.int64, torch.float64) or not given.numel() or not given.ndim:
            raise ValueError("its tensor `input` holds neither token ids nor a state in float64")
        if given.dtype == torch.float64 and not bool(given.isfinite().all()):
            raise ValueError("its tensor `input` is not finite")
        lists: dict[str, Any] = {name: tuple(map(_read, list_of(fields[name], name))) for name in _LISTS}
        if {len(lists["states"]), len(lists["usual"])} != {len(names)} or len(lists["curve"]) != len(kept):
            raise ValueError("its curves are not as long as its blocks are many")
        limits = {"streams": (1, MOST_STREAMS**2), "width": (1, 2**31), "tried": (0, 1000), "exploding": (0, 1000)}
        whole: dict[str, Any] = {name: integer_of(fields[name], name, *limit) for name, limit in limits.items()}
        numbers: dict[str, Any] = {name: _read(fields[name]) for name in _NUMBERS}
        return cls(names=tuple(names), kept=tuple(kept), input=given, **whole, **numbers, **lists)


_NUMBERS = ("gain", "whole", "typical", "largest", "floor")
_LISTS = ("curve", "states", "usual")


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _read(value: Any) -> float:
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("inf", "nan")):
        raise TypeError(f"{repr(value)[:80]} is no number")
    return float(value)


def counted(count: int, one: str, several: str = "") -> str:
    """ "two tokens"."""
    word = _WORDS[count] if count < len(_WORDS) else str(count)
    return f"{word} {one if count == 1 else several or one + 's'}"
