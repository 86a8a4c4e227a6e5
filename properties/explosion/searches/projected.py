"""The search over projected mixing (family mhc): any mix, finite logits of any size.

What is the same for every mix stands here: depths and streams in turn, each excluded by a cap or tried, and then simple
logits. A mix may name a *way* of its own (`Mix.explosions`), a module with sharper caps and better starting points;
without one its guarantees are all that is used (`searches.guaranteed`).
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import mix_of
from properties.core.slips import some_streams
from properties.explosion.answer import Answer
from properties.explosion.float_gain import float_gain
from properties.explosion.mixing import Mixing
from properties.explosion.proofs.caps import Cap
from properties.explosion.searches.hypothesise import Clock
from properties.explosion.searches.logits import confirmed, may_reach, product, simplest_logits

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import ConstrainedMixing, LogitsQuestion

Keep = Callable[[Answer, Tensor], None]
Capping = Callable[[Any, int, int | None], Cap | None]


class Growing(Protocol):
    """Logits of a stack of n streams, one sub-layer longer at each `extend`."""

    @property
    def depth(self) -> int: ...
    def extend(self) -> None: ...
    def logits(self) -> Tensor: ...


class Way(Protocol):
    """How one kind of mixing is searched: a module with these functions."""

    def answer(self, question: ConstrainedMixing) -> Answer | None:
        """What follows without a search; None where one is needed."""
        ...

    def start(self, question: ConstrainedMixing, mixing: Mixing, known: Answer) -> Tensor | None:
        """Logits that reach the threshold, where `answer` knows depth and streams."""
        ...

    def smallest(self, question: ConstrainedMixing, mixing: Mixing, clock: Clock) -> tuple[Answer, Tensor | None]:
        """The smallest depth and streams that a search finds, with logits."""
        ...

    def cap(self, question: ConstrainedMixing, n: int, depth: int | None) -> Cap | None:
        """What the gain of n streams and `depth` sub-layers (of any depth) cannot pass; None where nothing is known."""
        ...

    def pool(self, mixing: Mixing, n: int, seed: int, clock: Clock) -> Tensor:
        """Logits [N, *shape] that are tried on an implementation which declares such mixing."""
        ...

    def stores(self, dialect: Dialect) -> bool:
        """Whether matrices are searched that are stored in a short dtype."""
        ...


def way_of(dialect: Dialect) -> Way:
    """How the mixing of a dialect is searched."""
    found: Any = importlib.import_module(mix_of(dialect).explosions or "properties.explosion.searches.guaranteed")
    return found


def solve(question: ConstrainedMixing, mixing: Mixing, clock: Clock, keep: Keep) -> Answer:
    """What is known in the end. It is given to `keep` together with logits [L, *shape] that reach the threshold, as
    soon as there are any, and again with ever simpler ones.

    Raises:
        ValueError: the mix has no formula or no logits, and its guarantees alone do not answer.
    """
    way, mix = way_of(question.dialect), mix_of(question.dialect)
    known = way.answer(question)
    logits = math.prod(mixing.shape(some_streams(question.dialect)))
    lacks = "formula" if not mix.known else "logits" if not logits else ""
    if lacks and (known is None or known.depth is not None):
        raise ValueError(
            f"the mix {mix.name!r} has no {lacks} to be searched, and its guarantees do not exclude the threshold; "
            "expected a threshold beyond its caps, or target:TARGET, which asks an implementation"
        )
    if known is None:
        clock.stage = "depth"
        known, start = way.smallest(question, mixing, clock)
    else:
        start = way.start(question, mixing, known)
    return simplified(question, mixing, clock, keep, known, start)


def simplified(
    question: LogitsQuestion, mixing: Mixing, clock: Clock, keep: Keep, known: Answer, start: Tensor | None
) -> Answer:
    """What is known, given to `keep` with `start` and with ever simpler logits that reach the threshold too."""
    if start is None:
        return known
    keep(known, start)
    clock.stage = "logits"
    for better in simplest_logits(start, question, mixing, clock):
        if confirmed(better, question, mixing):
            keep(known, better)
    return known


def explored(
    question: ConstrainedMixing,
    mixing: Mixing,
    clock: Clock,
    cap: Capping,
    growing: Callable[[int], Growing],
    deepest: int,
) -> tuple[Answer, Tensor | None]:
    """The first (depth, streams) in lexicographic order that is reached.

    `growing` makes the stacks of n streams that are tried. Beyond `deepest` no stack is better than a shallower one.
    """
    stacks: dict[int, Growing] = {}
    open_questions: list[str] = []
    excluded: dict[int, str] = {}
    for depth, n in itertools.product(range(1, question.max_depth + 1), mixing.accepted(question.max_streams)):
        clock.tick()
        limit = cap(question, n, depth)
        if limit is not None and limit.excludes(question):
            excluded[n] = (
                f"with {depth} sub-layer{'s' * (depth > 1)} of {n} stream{'s' * (n > 1)} {limit.sentence(question)}"
            )
            continue
        if depth > deepest:
            open_questions = open_questions or [f"depth {depth} with {n} streams"]
            break
        while n not in stacks or stacks[n].depth < depth:
            if n not in stacks:
                stacks[n] = growing(n)
            stacks[n].extend()
        for start in (mixing.zeros(depth, n), stacks[n].logits()):
            if may_reach(start, question, mixing) and confirmed(start, question, mixing):
                return _answer(question, depth, n, excluded, open_questions), start
        value = float_gain(product(mixing.operators(stacks[n].logits())), question.gain).item()
        if len(open_questions) < 1:
            open_questions.append(f"depth {depth} with {n} streams (the search reached {value:.6g} there)")
        clock.best = f"{value:.6g} at depth {depth}, {n} streams"
    if not open_questions:
        sublayers = f"{question.max_depth} sub-layer{'s' * (question.max_depth > 1)}"
        return Answer(None, None, True, f"{_because(excluded)} More than {sublayers} were not asked for."), None
    return Answer(None, None, False, f"Neither found nor proved impossible, first at {open_questions[0]}. "), None


def _answer(
    question: ConstrainedMixing, depth: int, n: int, excluded: dict[int, str], open_questions: list[str]
) -> Answer:
    why = _because(excluded) if excluded else "It is the smallest architecture there is."
    if open_questions:
        return Answer(depth, n, False, f"{why} Not proved impossible: {open_questions[0]}.")
    return Answer(depth, n, True, why)


def _because(excluded: dict[int, str]) -> str:
    reasons = [excluded[n] for n in sorted(excluded) if n > 1] or list(excluded.values())
    text = "; ".join(reasons)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
