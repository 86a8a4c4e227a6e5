"""The search over mixing of which no more is known than its guarantees: a way of searching (`searches.projected.Way`).

Caps and proofs are those of `proofs.caps`. Starting points are logits of 0, single ones of many sizes and random ones,
the best of them improved by gradient ascent; a stack grows by the one that helps most, before or after the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.explosion.answer import Answer
from properties.explosion.composite import composite_reaches, decimal
from properties.explosion.float_gain import float_gain
from properties.explosion.mixing import Mixing
from properties.explosion.proofs.caps import answer, applied, cap
from properties.explosion.searches.ascent import climbed
from properties.explosion.searches.hypothesise import Clock
from properties.explosion.searches.projected import explored

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import ConstrainedMixing, LogitsQuestion

__all__ = ["answer", "cap", "pool", "smallest", "start", "stores"]

_SIZES = (0.5, 1.0, 2.0, 4.0, 16.0, 50.0, 200.0)
_SCALES = (0.5, 2.0, 5.0, 10.0)
_RANDOM = 600
_CLIMBERS = 12
_STEPS = 60


def stores(dialect: Dialect) -> bool:
    """Nothing is known of what rounding to a short dtype does to such matrices."""
    return False


def start(question: ConstrainedMixing, mixing: Mixing, known: Answer) -> Tensor | None:
    """Zeros: every logit gives the same gain where the guarantees alone answer."""
    return None if known.depth is None or known.streams is None else mixing.zeros(known.depth, known.streams)


def smallest(question: ConstrainedMixing, mixing: Mixing, clock: Clock) -> tuple[Answer, Tensor | None]:
    """The first (depth, streams) in lexicographic order that is reached."""
    if applied(question.dialect).constant:
        return _constant(question, mixing, clock)
    return explored(question, mixing, clock, cap, lambda n: Ascent(question, mixing, n, clock), question.max_depth)


def _constant(question: ConstrainedMixing, mixing: Mixing, clock: Clock) -> tuple[Answer, Tensor | None]:
    """Of matrices that do not depend on the logits every stack is a power: all there are are tried."""
    why = "The mixing does not depend on the logits, so every stack is a power of one matrix"
    streams = mixing.accepted(question.max_streams)
    one = {n: mixing.exact(mixing.zeros(1, n)) for n in streams}
    for depth in range(1, question.max_depth + 1):
        for n in streams:
            clock.tick()
            if composite_reaches(one[n] * depth, question.gain, question.threshold, question.direction):
                proof = f"{why}, and no smaller one reaches {decimal(question.threshold)}."
                return Answer(depth, n, True, proof), mixing.zeros(depth, n)
    proof = f"{why}: none of up to {question.max_depth} sub-layers reaches {decimal(question.threshold)}."
    return Answer(None, None, True, proof), None


def pool(mixing: Mixing, n: int, seed: int, clock: Clock) -> Tensor:
    """Logits to begin with, [N, *shape]: zeros, single ones, and random ones of several scales."""
    shape = mixing.shape(n)
    count = int(torch.Size(shape).numel())
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor(_SCALES, dtype=torch.float64).repeat(_RANDOM // len(_SCALES))
    drawn = torch.randn(_RANDOM, count, dtype=torch.float64, generator=generator) * scales[:, None]
    single = torch.cat([sign * size * torch.eye(count, dtype=torch.float64) for size in _SIZES for sign in (1, -1)])
    return torch.cat([torch.zeros(1, count, dtype=torch.float64), single, drawn]).view(-1, *shape)


class Ascent:
    """A stack of n streams that grows by the logits which help most."""

    def __init__(self, question: LogitsQuestion, mixing: Mixing, n: int, clock: Clock) -> None:
        self._question, self._mixing, self._clock = question, mixing, clock
        self._sign = 1 if question.direction == "explode" else -1
        self._pool = pool(mixing, n, question.seed, clock)
        self._chosen: list[Tensor] = []
        self._product = torch.eye(n, dtype=torch.float64)

    @property
    def depth(self) -> int:
        return len(self._chosen)

    def extend(self) -> None:
        """Choose the logits of one more sub-layer, the last to be applied or the first."""
        after = self._best(lambda made: made @ self._product)
        before = self._best(lambda made: self._product @ made)
        height, logits, product = max(after, before, key=lambda one: one[0])
        self._product = product
        self._chosen.insert(len(self._chosen) if height == after[0] else 0, logits)

    def logits(self) -> Tensor:
        """The stack [L, *shape], the first sub-layer to be applied first."""
        return torch.stack(self._chosen)

    def _best(self, composed: Callable[[Tensor], Tensor]) -> tuple[float, Tensor, Tensor]:
        """How high the best logits come, these, and the product with them."""

        def height(logits: Tensor) -> Tensor:
            gains = self._sign * float_gain(composed(finite(self._mixing.operators(logits))), self._question.gain)
            return gains.nan_to_num(nan=-torch.inf)

        begin = self._pool[height(self._pool).topk(min(_CLIMBERS, len(self._pool))).indices]
        found = torch.cat([begin, self._climbed(height, begin)])
        self._pool = torch.cat([self._pool[:-_CLIMBERS], found[-_CLIMBERS:]])
        heights = height(found)
        best = int(heights.argmax())
        return heights[best].item(), found[best], composed(finite(self._mixing.operators(found[best : best + 1])))[0]

    def _climbed(self, height: Callable[[Tensor], Tensor], begin: Tensor) -> Tensor:
        """`begin` after gradient ascent, where the mixing has a gradient."""
        with torch.enable_grad():
            if not height(begin.clone().requires_grad_()).requires_grad:
                return begin
        return climbed(height, begin, _STEPS if self.depth < 3 else _STEPS // 3, self._clock).nan_to_num()


def finite(operators: Tensor) -> Tensor:
    """The operators [..., n, n], those that are not finite as zeros, so that a search looks elsewhere."""
    return torch.where(operators.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), operators, 0.0)
