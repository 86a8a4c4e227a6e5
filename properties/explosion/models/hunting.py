"""The hunt on a model: the input that grows most, the fewest blocks, the fewest tokens, the simplest values."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties.explosion.answer import Answer
from properties.explosion.models.fewest import affordable, fewest, proves, smaller
from properties.explosion.models.gains import Meter, grown, short
from properties.explosion.models.grown import Grown, counted
from properties.explosion.models.inputs import kind_of
from properties.explosion.models.running import Runner, runner_of
from properties.explosion.models.searching import Pool, random_pool, searched
from properties.explosion.models.simplest import simplest
from properties.explosion.monitor.limits import limits_of
from properties.explosion.searches.hunt import Hunt
from properties.targets.target import TargetError

if TYPE_CHECKING:
    from properties.explosion.questions.models import OfModel

LEAST = 10
"""What an explosion is where no threshold was given: at least tenfold growth."""
_SAME = 1e-6
"""The largest relative difference between two runs of one input."""
_MARGIN, _MARGIN_SHORT = 1e-9, 1e-4
"""What the gain of a search is above the threshold, in float64 and else, so that an input reaches it alone too."""


class ModelHunt:
    """One hunt; `run` leads it."""

    def __init__(self, question: OfModel, hunt: Hunt[Grown], tried: int = 0, exploding: int = 0) -> None:
        self.question = question
        self.hunt = hunt
        self.clock = hunt.clock
        self.tried, self.exploding = tried, exploding
        self.clock.stage = "model"
        self.clock.tick()
        self.runner, dtype = _runner(question)
        if question.gain == "forward" and not self.runner.mixes:
            raise ValueError(
                f"gain is 'forward', and {question.target} has no hyper-connection that is known here: the residual "
                "path of its blocks is the identity, whose gain is 1; expected activation, gradient or nonfinite"
            )
        self.question = replace(question, dtype=dtype)
        hunt.settle(self.question)
        self.meter = Meter(self.runner, question.gain, dtype)
        self.climbs = self.meter
        if question.gain == "nonfinite":
            wide, held = _runner(replace(question, dtype=""), float64=True)
            self.climbs = Meter(wide, "nonfinite", held)

    def run(self) -> Answer:
        """What is known in the end."""
        asked, every = self.question, self.runner.every
        counts = [1] if self.runner.single else list(range(1, asked.max_tokens + 1))
        self.clock.stage = "input"
        pools: dict[int, Pool] = {}
        typical = 0.0
        for tokens in dict.fromkeys((counts[-1], counts[0])):
            pool = self._start(tokens)
            if pool is not None:
                typical = pool.gains.median().item() if tokens == counts[-1] else typical
                self._offer(pool, every)
                pools[tokens] = self._searched(pool, every)
                self._offer(pools[tokens], every)
        best = max(pool.best for pool in pools.values())
        if asked.relative and best >= LEAST and math.isfinite(best):
            self.question = asked = replace(asked, threshold=_two_digits(best / 2))
            self.hunt.settle(asked)
        if not any(bool(self._enough(pool.gains).any()) for pool in pools.values()):
            return self._nothing(best, typical)
        self.clock.stage = "blocks"
        merged = list(pools.values())

        def reached(some: frozenset[int]) -> bool:
            self.clock.tick()
            return any(bool(self._enough(self.meter(pool.inputs, some)).any()) for pool in merged)

        self._promise(self._pick(merged, every), every)
        kept = fewest(len(self.runner.blocks), reached)
        start = self._pick(merged, kept)
        self._promise(start, kept)
        start = self._fewer_tokens(start, kept, counts)
        self.clock.stage = "values"
        found = simplest(start, self.runner.kind, lambda one: self.meter(one, kept), self._enough, self.clock)
        self._promise(found, kept)
        self.clock.stage = "blocks"

        def enough(some: frozenset[int]) -> bool:
            self.clock.tick()
            return bool(self._enough(self.meter(found[None], some)).item())

        while (less := smaller(len(self.runner.blocks), kept, enough)) is not None:
            kept = less
        return self._promise(found, kept, proved=proves(len(self.runner.blocks), kept))

    def _offer(self, pool: Pool, kept: frozenset[int]) -> None:
        """Keep the best of a pool where it reaches the threshold: a search may be stopped before there is better."""
        if bool(self._enough(pool.gains[:1]).item()):
            self._promise(pool.inputs[0], kept)

    def _promise(self, found: Tensor, kept: frozenset[int], *, proved: bool = False) -> Answer:
        """Keep an input; it is measured when the search is over."""
        known = self._known(kept, proved)
        self.hunt.promise(known, lambda: self._grown(found, kept))
        return known

    def explodes(self) -> bool:
        """Whether the search finds an input that reaches the threshold with all blocks."""
        pool = self._start(1 if self.runner.single else self.question.max_tokens)
        assert pool is not None, "a pool of the most tokens raises where there is none"
        return bool(self._enough(self._searched(pool, self.runner.every).gains).any())

    def _start(self, tokens: int) -> Pool | None:
        """Random inputs of so many tokens; None where the model does not take so few."""
        try:
            if not self.meter.floor:
                random = self.runner.kind.random(64, tokens, torch.Generator().manual_seed(self.question.seed))
                floor = self.meter.entering(random)
                self.meter.floor = self.climbs.floor = floor if math.isfinite(floor) else 0.0
            pool = random_pool(self.meter, tokens, self.question.seed, self.runner.every)
            self._steady(pool)
            return pool
        except TargetError:
            if tokens == self.question.max_tokens or self.runner.single:
                raise
            return None

    def _steady(self, pool: Pool) -> None:
        """TargetError where an input does not grow as it did."""
        again = self.meter(pool.inputs[:1], self.runner.every).item()
        if again != pool.best and not abs(again - pool.best) <= _SAME * pool.best:
            raise self._unsteady()

    def _unsteady(self) -> TargetError:
        return TargetError(
            f"{self.question.target}: called again for the same input it grew by another factor; expected a model that "
            "is deterministic in evaluation"
        )

    def _searched(self, pool: Pool, kept: frozenset[int]) -> Pool:
        self.clock.best = short(pool.best)
        return searched(self.climbs, self.meter, pool, kept, self.clock, self.question.seed)

    def _enough(self, gains: Tensor) -> Tensor:
        if self.question.gain == "nonfinite":
            return gains.isinf()
        margin = _MARGIN if self.question.dtype == "float64" else _MARGIN_SHORT
        return gains >= float(self.question.threshold) * (1 + margin)

    def _pick(self, pools: list[Pool], kept: frozenset[int]) -> Tensor:
        """Of the shortest inputs that reach the threshold with these blocks the one that grows most."""
        for pool in sorted(pools, key=lambda one: one.inputs.shape[1]):
            gains = self.meter(pool.inputs, kept)
            if bool(self._enough(gains).any()):
                return pool.inputs[int(gains.argmax())]
        raise self._unsteady()

    def _fewer_tokens(self, start: Tensor, kept: frozenset[int], counts: list[int]) -> Tensor:
        """An input of fewer tokens that reaches the threshold, where a search finds one."""
        self.clock.stage = "tokens"
        for tokens in counts:
            if tokens >= len(start):
                break
            pool = self._start(tokens)
            if pool is None:
                continue
            shorter = start[torch.combinations(torch.arange(len(start)), tokens)[:64]]
            inputs = torch.cat([shorter, pool.inputs])
            gains = self.meter(inputs, kept)
            order = gains.argsort(descending=True, stable=True)
            pool = self._searched(Pool(inputs[order], gains[order]), kept)
            if bool(self._enough(pool.gains).any()):
                return pool.inputs[0]
        return start

    def _grown(self, found: Tensor, kept: frozenset[int]) -> Grown:
        """What is told of an input, measured with it alone."""
        runner, one = self.runner, found[None]
        order = sorted(kept)
        random = runner.kind.random(64, len(found), torch.Generator().manual_seed(self.question.seed))
        gains = self.meter(random, runner.every)
        with torch.no_grad():
            passed = runner.passed(one, runner.every)
        streams = passed.mixed[0].shape[-1] if passed.mixed else runner.streams
        return Grown(
            names=tuple(block.name for block in runner.blocks),
            kept=tuple(order),
            input=found.detach().clone(),
            streams=streams,
            width=passed.entered.shape[-1],
            gain=self.meter(one, kept).item(),
            whole=self.meter(one, runner.every).item(),
            typical=gains.median().item(),
            largest=gains.max().item(),
            floor=self.meter.floor,
            curve=tuple(self.meter(one, frozenset(order[: k + 1])).item() for k in range(len(order))),
            states=tuple(self.meter.sizes(one, runner.every)),
            usual=tuple(self.meter.sizes(random, runner.every)),
            tried=self.tried,
            exploding=self.exploding,
        )

    def _known(self, kept: frozenset[int], proved: bool) -> Answer:
        count = len(self.runner.blocks)
        tried = sum(math.comb(count, size) for size in range(len(kept)))
        if not proved:
            proof = (
                "With this input no single one of these blocks can be left out; all sets of up to "
                f"{counted(affordable(count), 'block')} were tried."
            )
        elif not kept:
            proof = "No block is needed: what lies between them does it."
        elif tried == 1:
            proof = "With this input it is not reached without a block."
        else:
            proof = f"With this input none of the {tried} smaller sets of blocks reaches it."
        return Answer(len(kept), self.runner.streams, proved, proof)

    def _nothing(self, best: float, typical: float) -> Answer:
        proof = f"Not found, which is no proof: {grown(self.question.gain, self.question.dtype, best, typical)}."
        if self.question.gain == "forward":
            n = self.runner.streams
            mixed = [one for one in self.runner.mixes if one is not None]
            caps = [cap for one in mixed if (cap := limits_of(one, n).get("forward")) is not None]
            if len(caps) == len(self.runner.mixes):
                proof += f" What its hyper-connections declare keeps it at {max(caps):g} at most, at every depth."
        return Answer(None, None, False, proof)


def hunted(question: OfModel, hunt: Hunt[Grown]) -> Answer:
    """What is known of a model in the end; of several initialisations of the first that explodes.

    Raises:
        TargetError, ValueError: it cannot be built or run, or what is asked does not fit it.
    """
    if question.seeds == 1:
        return ModelHunt(question, hunt).run()
    exploding: list[int] = []
    for seed in range(question.seed, question.seed + question.seeds):
        one = ModelHunt(replace(question, seed=seed), Hunt(question, hunt.clock))
        hunt.clock.stage = "initialisations"
        if one.explodes():
            exploding.append(seed)
    first = replace(question, seed=exploding[0] if exploding else question.seed)
    known = ModelHunt(first, hunt, question.seeds, len(exploding)).run()
    if not exploding:
        known = replace(known, proof=f"{known.proof} None of {question.seeds} initialisations explodes.")
    return known


def _runner(question: OfModel, *, float64: bool = False) -> tuple[Runner, str]:
    """The model of a question, and the dtype in which it runs: float64 where nothing was said and it can."""
    kinds = (
        (question.dtype,) if question.dtype else ("float64", "") if float64 or question.gain != "nonfinite" else ("",)
    )
    for last, dtype in enumerate(kinds, start=1):
        model = question.recipe.build(dtype)
        kind = kind_of(model, question.input, float(question.input_bound))
        try:
            runner = runner_of(model, question.target, kind, question.max_tokens, question.blocks)
        except TargetError:
            if last == len(kinds):
                raise
            continue
        return runner, dtype or runner.dtype
    raise AssertionError("there is a dtype to try")


def again(question: OfModel, found: Grown) -> Grown:
    """The same blocks and input on the model as it is now.

    Raises:
        ValueError: it has other blocks, or another kind of input.
        TargetError: it cannot be built, or raised.
    """
    runner, dtype = _runner(question)
    names = tuple(block.name for block in runner.blocks)
    if names != found.names:
        raise ValueError(
            f"the file is about a model with the blocks {_listed(found.names)}; {question.target} has {_listed(names)}"
        )
    if runner.kind.ids != found.ids or (not found.ids and found.input.shape[1:] != runner.kind.shape):
        raise ValueError(f"the file has an input of another kind than {question.target} takes, {runner.kind.shown}")
    meter = Meter(runner, question.gain, dtype, found.floor)
    if found.ids and not 0 <= int(found.input.min()) <= int(found.input.max()) < runner.kind.vocabulary:
        raise ValueError(f"the file has token ids that are not below {runner.kind.vocabulary}")
    return replace(found, gain=meter(found.input[None], frozenset(found.kept)).item())


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _two_digits(value: float) -> Fraction:
    """The number rounded down to two significant digits."""
    places = math.floor(math.log10(value)) - 1 if value > 0 else 0
    return math.floor(Fraction(value) / Fraction(10) ** places) * Fraction(10) ** places
