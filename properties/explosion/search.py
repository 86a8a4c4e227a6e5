"""`find_minimal`: the smallest configuration that explodes, or the proof that there is none."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.explosion.composite import Matrix, composite, context, exact_gain, reaches, shown
from properties.explosion.mixing import mixing_of
from properties.explosion.proofs import overflow
from properties.explosion.proofs.closed_form import Answer, answer, origin
from properties.explosion.request import Number, Request, request
from properties.explosion.result import Explosion, measured
from properties.explosion.searches import blocks, constrained, dynamic
from properties.explosion.searches.architecture import Architecture, smallest_architecture
from properties.explosion.searches.entries import complexity, simplest_entries
from properties.explosion.searches.hypothesise import BudgetSpent, Clock
from properties.guards.interruption import watched
from properties.targets.target import TargetError


def find_minimal(
    family: str,
    threshold: Number,
    *,
    gain: str | None = None,
    direction: str = "explode",
    max_depth: int = 128,
    max_streams: int | None = None,
    max_width: int = 1,
    entry_bound: Number | None = None,
    identity_bound: Number | None = None,
    branch_bound: Number | None = None,
    dialect: Dialect | str | None = None,
    iterations: int | None = None,
    dtype: str | None = None,
    seed: int = 0,
    budget: float = 60.0,
    progress: Callable[[str], None] | None = None,
) -> Explosion:
    """The smallest member of `family` whose gain reaches `threshold`.

    Smallest is lexicographic: depth, streams, width, number of non-trivial entries, simplest values. Depth and streams
    are proved where the answer says so; entries and values are what the search found.

    Args:
        family: "residual": x + g F(x), F linear of norm 1, |g| <= branch_bound, one stream.
            "hc": unconstrained n x n mixing, every entry within `entry_bound`, or within `identity_bound` of the
            identity's; exactly one of the two is given. "hc:dynamic": mixing that depends on the input, within
            `identity_bound` of the identity for every input; weights and input are searched.
            "mhc": constrained mixing of any dialect, with finite logits of any size.
            "block[:BRANCH[:NORM]]": the whole block with a linear, relu, gated or attention branch and none, pre or
            post normalisation, for the gains "activation", "gradient" and "nonfinite".
            "target:TARGET": the mixing of an implementation, by the grammar of --impl.
        threshold: compared exactly, as the decimal that it is written as.
        gain: of the composite A_L ... A_1; None is "forward", of a block "activation". "forward", "backward":
            largest absolute row or column sum; "signed": largest absolute value of a row sum (the mHC paper's figure);
            "spectral": spectral norm. "activation": largest activation from inputs within 1; "gradient": largest
            absolute row sum of the Jacobian (without a branch both are "forward"); "nonfinite": something leaves the
            range of `dtype` (threshold 1; families without a cap).
        direction: "explode": gain >= threshold; "vanish": gain <= threshold.
        max_depth, max_streams, max_width: limits of the search; at most 10 000, 64 and 4096. 4 streams by default.
        branch_bound: of residual and block; 1 by default.
        dialect, iterations: the projection of mhc and block, PAPER by default; what a plain function as a target claims
            to compute. A preset may be given by its name.
        dtype: where `value` is measured, float64 by default; of a target the first that it declares. The decision is
            exact.
        seed: equal seeds give equal answers, unless the budget runs out.
        budget: seconds.
        progress: called with a line now and then.

    Raises:
        ValueError: an option out of range, one that can have no effect, or options that contradict each other.
        properties.targets.target.TargetError: a target cannot be resolved, or raised.
    """
    asked = request(
        family,
        threshold,
        gain=gain,
        direction=direction,
        max_depth=max_depth,
        max_streams=max_streams,
        max_width=max_width,
        entry_bound=entry_bound,
        identity_bound=identity_bound,
        branch_bound=branch_bound,
        dialect=dialect,
        iterations=iterations,
        dtype=dtype,
        seed=seed,
        budget=budget,
    )
    return search(asked, progress)


def search(asked: Request, progress: Callable[[str], None] | None = None) -> Explosion:
    """`find_minimal` of a checked request."""
    clock = Clock(asked.budget, progress)
    with _one_thread():
        if asked.family in ("mhc", "target"):
            return _constrained(asked, clock)
        if asked.dynamic:
            return _dynamic(asked, clock)
        return _blocks(asked, clock) if asked.family == "block" else _bounded(asked, clock)


@contextmanager
def _one_thread() -> Generator[None, None, None]:
    """On matrices as small as these, threads cost more than they bring, and much more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _constrained(asked: Request, clock: Clock) -> Explosion:
    kept: list[tuple[Answer, Tensor, Callable[[], tuple[Matrix, ...]]]] = []
    known, stopped = Answer(None, None, False, "The search was stopped before it found anything."), ""
    try:
        with _deadline(asked.budget) if asked.family == "target" else nullcontext():
            mixing = mixing_of(asked)
            if mixing.dtypes is not None:
                asked = _declared(asked, mixing.dtypes)

            def keep(known: Answer, logits: Tensor) -> None:
                if asked.family == "target":  # which is called while it is watched
                    held = mixing.exact(logits)
                    kept.append((known, logits, lambda: held))
                else:
                    kept.append((known, logits, lambda: mixing.exact(logits)))

            known = constrained.solve(asked, mixing, clock, keep)
    except BudgetSpent:
        stopped = "budget"
    except KeyboardInterrupt:
        stopped = "interrupted"
    if not kept:
        return _nothing(asked, known.proof, clock, impossible=known.proved, stopped=stopped)
    known, found, operators = kept[-1]
    exact = operators()
    if asked.family == "target" and not reaches(composite(exact), asked.gain, asked.threshold, asked.direction):
        raise TargetError(
            f"{asked.target}: called again for the same logits it gave other matrices, whose gain is not {asked.sign} "
            f"{asked.threshold}; expected an implementation that is deterministic"
        )
    logits = tuple(tuple(tuple(map(Fraction, row)) for row in one) for one in found.tolist())
    return _explosion(asked, known, exact, clock, stopped, logits)


def _declared(asked: Request, dtypes: tuple[str, ...]) -> Request:
    """The question in a dtype that the target declares: the one that was asked for, or else the first."""
    if asked.dtype and asked.dtype not in dtypes:
        raise ValueError(
            f"dtype is {asked.dtype!r}; expected one that {asked.target} declares: {', '.join(dtypes) or 'none'}"
        )
    return replace(asked, dtype=dtypes[0] if dtypes else "float64")


@contextmanager
def _deadline(seconds: float) -> Generator[None]:
    """BudgetSpent a second after the budget, for a target may hang; where the alarm of this process is free."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer") or signal.getitimer(signal.ITIMER_REAL)[0]:
        with watched():
            yield
        return
    open_ = True

    def spent(*_: object) -> None:
        if open_:
            raise BudgetSpent

    before = signal.signal(signal.SIGALRM, spent)
    signal.setitimer(signal.ITIMER_REAL, min(seconds + 1, 1e6), 1)  # again each second, for a target may swallow it
    try:
        with watched():
            yield
    finally:
        open_ = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _blocks(asked: Request, clock: Clock) -> Explosion:
    kept: list[tuple[Answer, blocks.Block]] = []
    known, stopped = Answer(None, None, False, "The search was stopped before it found anything."), ""
    try:
        known = blocks.solve(asked, clock, lambda known, block: kept.append((known, block)))
    except BudgetSpent:
        stopped = "budget"
    except KeyboardInterrupt:
        stopped = "interrupted"
    if not kept:
        return _nothing(asked, known.proof, clock, impossible=known.proved, stopped=stopped)
    known, block = kept[-1]
    return Explosion(
        request=asked,
        found=True,
        depth=block.depth,
        streams=block.streams,
        width=block.width,
        operators=blocks.residual_operators(asked, block),
        logits=(),
        entries=block.entries,
        value=blocks.measured(asked, block),
        exact_value=shown(blocks.value(asked, block), context()),
        minimality="proved" if known.proved else "searched",
        proof=known.proof,
        impossible=False,
        seconds=round(clock.seconds, 3),
        stopped=stopped,  # pyright: ignore[reportArgumentType]
        block=block,
    )


def _dynamic(asked: Request, clock: Clock) -> Explosion:
    kept: list[tuple[Answer, dynamic.Dynamic]] = []
    known, stopped = Answer(None, None, False, "The search was stopped before it found anything."), ""
    try:
        known = dynamic.solve(asked, clock, lambda known, one: kept.append((known, one)))
    except BudgetSpent:
        stopped = "budget"
    except KeyboardInterrupt:
        stopped = "interrupted"
    if not kept:
        return _nothing(asked, known.proof, clock, impossible=known.proved, stopped=stopped)
    known, one = kept[-1]
    return Explosion(
        request=asked,
        found=True,
        depth=one.depth,
        streams=len(one.weights),
        width=1,
        operators=dynamic.operators(asked, one),
        logits=(),
        entries=one.entries,
        value=dynamic.measured(asked, one),
        exact_value=shown(dynamic.value(asked, one), context()),
        minimality="proved" if known.proved else "searched",
        proof=known.proof,
        impossible=False,
        seconds=round(clock.seconds, 3),
        stopped=stopped,  # pyright: ignore[reportArgumentType]
        dynamic=one,
    )


def _bounded(asked: Request, clock: Clock) -> Explosion:
    known = overflow.answer(asked) if asked.gain == "nonfinite" else answer(asked)
    if known.proved and known.depth is None:
        return _nothing(asked, known.proof, clock, impossible=True)
    if asked.gain == "nonfinite" and known.depth is not None and known.streams is not None:
        return _explosion(asked, known, Architecture(known.depth, known.streams).operators(asked), clock, "")
    best: Sequence[Matrix] = ()
    stopped = ""
    seen = _Smallest(known)
    try:
        smallest_architecture(asked, clock, seen)
        if seen.best is not None:
            clock.stage = "entries"
            start, sought = seen.best.operators(asked), (asked.gain, asked.threshold, asked.direction)
            for better in simplest_entries(start, origin(asked), *sought, seed=asked.seed, clock=clock):
                best = better
    except BudgetSpent:
        stopped = "budget"
    except KeyboardInterrupt:
        stopped = "interrupted"
    if seen.best is None:
        return _nothing(asked, known.proof, clock, impossible=False)
    return _explosion(asked, known, best or seen.best.operators(asked), clock, stopped)


class _Smallest:
    """The smallest architecture seen so far, beginning with the one of the closed form, if there is one.

    Raises:
        AssertionError: from a call with something smaller than a proof allows.
    """

    def __init__(self, known: Answer) -> None:
        self.best = None if known.depth is None or known.streams is None else Architecture(known.depth, known.streams)
        self._known = known

    def __call__(self, one: Architecture) -> None:
        if self.best is None or one.size < self.best.size:
            if self._known.proved:
                raise AssertionError(f"found {one}, although {self.best} is proved smallest: {self._known.proof}")
            self.best = one


def _explosion(
    asked: Request,
    known: Answer,
    best: Sequence[Matrix],
    clock: Clock,
    stopped: str,
    logits: tuple[Matrix, ...] = (),
) -> Explosion:
    product = composite(best)
    if asked.gain != "nonfinite" and not reaches(product, asked.gain, asked.threshold, asked.direction):
        raise AssertionError(f"the answer does not reach its threshold: {asked}")
    entries, _ = complexity(logits, 0) if logits else complexity(best, origin(asked))
    return Explosion(
        request=asked,
        found=True,
        depth=len(best),
        streams=len(best[0]),
        width=1,
        operators=tuple(best),
        logits=logits,
        entries=entries,
        value=math.inf if asked.gain == "nonfinite" else measured(best, asked.gain, asked.dtype),
        exact_value=shown(exact_gain(product, asked.gain), context()),
        minimality="proved" if known.proved else "searched",
        proof=known.proof,
        impossible=False,
        seconds=round(clock.seconds, 3),
        stopped=stopped,  # pyright: ignore[reportArgumentType]
    )


def _nothing(asked: Request, why: str, clock: Clock, *, impossible: bool, stopped: str = "") -> Explosion:
    nothing: dict[str, Any] = dict.fromkeys(("depth", "streams", "width", "entries", "value", "exact_value"))
    return Explosion(
        request=asked,
        found=False,
        operators=(),
        logits=(),
        minimality="proved" if impossible else "searched",
        proof=why,
        impossible=impossible,
        seconds=round(clock.seconds, 3),
        stopped=stopped,  # pyright: ignore[reportArgumentType]
        **nothing,
    )
