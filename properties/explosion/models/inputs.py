"""What a model is given: token ids or states within a bound, of a kind and width that are read off the model or said.

Inputs are kept as [N, T, ...]: N of them, T tokens each, int64 ids or float64 states whose largest entry is the bound.
How a model takes them is found by trying: with the batch first, with the tokens first, or without an axis of tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_FORM = re.compile(r"(ids|states):([0-9]{1,9}(?:x[0-9]{1,9})*)")
LARGEST = 2**24
"""Numbers in an input."""


@dataclass(frozen=True)
class Kind:
    """The kind of a model's input.

    Attributes:
        vocabulary: how many token ids there are; 0 for states.
        shape: of a state: (width,) of a token; of more axes it is the whole input without its batch.
        bound: the largest absolute entry of a state.
    """

    vocabulary: int
    shape: tuple[int, ...]
    bound: float

    @property
    def ids(self) -> bool:
        return self.vocabulary > 0

    @property
    def tokens(self) -> bool:
        """Whether there may be several tokens."""
        return self.ids or len(self.shape) == 1

    @property
    def shown(self) -> str:
        return f"ids:{self.vocabulary}" if self.ids else f"states:{'x'.join(map(str, self.shape))}"

    def random(self, count: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random inputs [count, tokens, ...]: ids that are equally likely, or normal states scaled to the bound."""
        if self.ids:
            return torch.randint(self.vocabulary, (count, tokens), generator=generator)
        return self.scaled(torch.randn(count, tokens, *self.shape, generator=generator, dtype=torch.float64))

    def scaled(self, states: Tensor) -> Tensor:
        """States [N, ...] whose largest entries are the bound; differentiable."""
        size = states.abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float64).tiny)
        return states * (self.bound / size).view(-1, *[1] * (states.ndim - 1))


def read_kind(given: Any, name: str = "input") -> str:
    """An option as it was given; ValueError where it says no kind of input."""
    if not isinstance(given, str) or not (match := _FORM.fullmatch(given)):
        raise ValueError(
            f"{name} is {repr(given)[:80]}; expected ids:VOCABULARY, states:WIDTH, or states:AxBxC for an input of one "
            "shape without its batch, such as states:3x32x32"
        )
    sizes = list(map(int, match[2].split("x")))
    if (match[1] == "ids" and len(sizes) != 1) or not 1 <= math.prod(sizes) <= LARGEST:
        raise ValueError(f"{name} is {given!r}; expected one vocabulary, or a shape of 1 to {LARGEST} numbers")
    return given


def kind_of(model: nn.Module, given: str, bound: float) -> Kind:
    """The kind that was given, or that of the model's first Embedding or Linear.

    Raises:
        ValueError: nothing was given, and the model has neither.
    """
    if given:
        match = _FORM.fullmatch(given)
        assert match is not None, given
        sizes = tuple(map(int, match[2].split("x")))
        return Kind(sizes[0], (), bound) if match[1] == "ids" else Kind(0, sizes, bound)
    for one in model.modules():
        if isinstance(one, nn.Embedding) and one.num_embeddings:
            return Kind(one.num_embeddings, (), bound)
        if isinstance(one, nn.Linear) and one.in_features:
            return Kind(0, (one.in_features,), bound)
    raise ValueError(
        f"{type(model).__name__} has no Embedding and no Linear off which the kind of its input could be read; say it: "
        "--input ids:VOCABULARY, states:WIDTH or states:AxBxC"
    )


@dataclass(frozen=True)
class Layout:
    """How a model takes inputs [N, T, ...].

    Attributes:
        arranged: an input as the model takes it.
        axis: that of the batch in the states of its blocks; None where inputs are given one by one.
        single: that it takes one token only.
        words: what `arranged` does.
    """

    arranged: Callable[[Tensor], Tensor]
    axis: int | None
    single: bool
    words: str


def layouts(kind: Kind) -> list[Layout]:
    """The ways in which a model may take its inputs, the likeliest first."""
    first = Layout(lambda one: one, 0, False, "[batch, tokens, width]" if not kind.ids else "[batch, tokens]")
    swapped = Layout(lambda one: one.transpose(0, 1), 1, False, first.words.replace("batch, tokens", "tokens, batch"))
    bare = Layout(lambda one: one.squeeze(1), 0, True, f"[batch, {', '.join(map(str, kind.shape))}]")
    if not kind.tokens:
        return [bare]
    return [first, swapped] if kind.ids else [first, swapped, bare]
