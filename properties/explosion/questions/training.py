"""Training runs (family train): the minimal run on a stated lattice whose gain reaches a threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.explosion.answer import Answer
from properties.explosion.composite import context, decimal
from properties.explosion.options import (
    BUDGET,
    DEEPEST,
    DIRECTION,
    DTYPE,
    ITERATIONS,
    MAX_DEPTH,
    MAX_STREAMS,
    MAX_WIDTH,
    MOST_ITERATIONS,
    MOST_STREAMS,
    MOST_WIDTH,
    asked,
    kept,
)
from properties.explosion.options import GAIN as ANY_GAIN
from properties.explosion.proofs import caps
from properties.explosion.questions.constrained import ConstrainedMixing
from properties.explosion.questions.question import Question
from properties.explosion.searches.hunt import Hunt
from properties.explosion.stored import integer_of, list_of, object_of
from properties.explosion.training import options as said
from properties.explosion.training.data import tokens
from properties.explosion.training.initialisations import initial
from properties.explosion.training.measures import COMPOSITE
from properties.explosion.training.residuals import FORMS, Residual, residual_of
from properties.explosion.training.runs import Runs, train
from properties.explosion.training.scan import FRESH, Hit, Lattice, final, fresh_seeds, smallest
from properties.explosion.training.setup import VOCABULARY, Setup

CONTROLS = ("plain", "mhc")
_MOST_WORK = 10**12
"""Multiplications that the replay of a file may take, roughly."""


@dataclass(frozen=True)
class Run:
    """A run that crosses, for every seed, at a step.

    Attributes:
        step, rate: the first step at which all seeds have crossed, and the learning rate.
        data: the tokens of every seed up to that step, bytes.
        loss: the median final loss of all steps, if they were run.
        fresh: how many of `FRESH` other seeds cross within all steps, if they were tried.
        controls: what plain and mHC do at this very run, if they were tried: gains and the median final loss.
    """

    depth: int
    streams: int
    width: int
    tokens: int
    step: int
    rate: float
    seeds: tuple[int, ...]
    data: bytes = b""
    loss: float | None = None
    fresh: int | None = None
    controls: tuple[tuple[str, tuple[float, ...], float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Training(Question[Run]):
    """A small decoder, trained: the first size of a lattice that crosses for every seed at an admissible rate."""

    family = "train"
    FORM = "train:KIND"
    HOLDS = frozenset({"run"})
    EXACT = False

    gain: str = field(**asked(ANY_GAIN, read=said.GAIN.read, stored=said.GAIN.stored))
    direction: str = field(**asked(DIRECTION, **said.reading(DIRECTION, ("explode",))))
    dtype: str = field(**asked(DTYPE, **said.reading(DTYPE, ("float64",))))
    budget: float = field(**asked(BUDGET, default=600.0))
    max_depth: int = field(**asked(MAX_DEPTH, default=6))
    max_streams: int = field(**asked(MAX_STREAMS))
    max_width: int = field(**asked(MAX_WIDTH, default=16))
    max_tokens: int = field(**asked(said.MAX_TOKENS))
    steps: int = field(**asked(said.STEPS))
    seeds: int = field(**asked(said.SEEDS))
    residual: str = field(**asked(said.RESIDUAL))
    iterations: int | None = field(**asked(ITERATIONS, stored=kept((int, type(None)))))
    norm: str = field(**asked(said.NORM))
    qk_norm: bool = field(**asked(said.QK_NORM))
    mlp: str = field(**asked(said.MLP))
    heads: int = field(**asked(said.HEADS))
    init: str = field(**asked(said.INIT))
    init_scale: float = field(**asked(said.INIT_SCALE))
    data: str = field(**asked(said.DATA_OPTION))
    optimizer: str = field(**asked(said.OPTIMIZER))
    schedule: str = field(**asked(said.SCHEDULE))
    weight_decay: float = field(**asked(said.WEIGHT_DECAY))
    clip: float = field(**asked(said.CLIP))
    clip_activations: float = field(**asked(said.CLIP_ACTIVATIONS))

    @classmethod
    def parsed(cls, family: str) -> dict[str, Any] | None:
        kind, _, residual = family.partition(":")
        if kind != cls.family:
            return None
        if not residual:
            raise ValueError(f"family is {family!r}; expected train:KIND, KIND one of {FORMS}")
        return {"residual": said.RESIDUAL.read(residual, "KIND of train:KIND")}

    @property
    def name(self) -> str:
        return f"train:{self.residual}"

    @property
    def along(self) -> str:
        return "steps"

    def check(self) -> None:
        if self.iterations is not None and self.dialect is not None:
            if self.iterations > MOST_ITERATIONS:
                raise ValueError(f"iterations is {self.iterations}; expected at most {MOST_ITERATIONS}")
            ConstrainedMixing.iterates(self.dialect, claimed=True)
        if self.gain in COMPOSITE and self.threshold <= 1:
            raise ValueError(
                f"threshold is {decimal(self.threshold)}; expected more than 1: a composite that keeps what it is "
                "given has a gain of 1 before anything is trained"
            )
        self.lattice()

    @property
    def of(self) -> Residual:
        """The residual that is trained."""
        found = residual_of(self.residual)
        return found if self.iterations is None else found.iterating(self.iterations)

    @property
    def dialect(self) -> Dialect | None:
        return self.of.dialect

    def setup(self, **sizes: int) -> Setup:
        """The run that is asked about, of these sizes."""
        return Setup(
            self.of,
            norm=self.norm,
            qk_norm=self.qk_norm,
            mlp=self.mlp,
            init=self.init,
            scale=self.init_scale,
            data=self.data,
            optimizer=self.optimizer,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            clip=self.clip,
            clip_activations=self.clip_activations,
            steps=self.steps,
            streams=1 if self.dialect is None else 2,
            width=self.heads * 8,
            heads=self.heads,
        ).with_(**sizes)

    def lattice(self) -> Lattice:
        return Lattice.of(self.setup(), self.max_depth, self.max_streams, self.max_width, self.max_tokens)

    def largest(self) -> Setup:
        """The largest run of the lattice."""
        return [*self.lattice().sizes(self.setup())][-1]

    @property
    def tried(self) -> tuple[int, ...]:
        """The seeds that must all cross."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def within(self) -> str:
        return f"{self.steps} steps, {self.seeds} seeds, {self.optimizer}, {self.norm} norm, {self.init} weights"

    def solve(self, hunt: Hunt[Run]) -> Answer:
        proved = self.impossible()
        if proved is not None:
            return proved
        lattice = self.lattice()

        def tick(stage: str = "fresh seeds and controls") -> None:
            hunt.clock.stage = stage
            hunt.clock.tick()

        hit = smallest(self.setup(), self.gain, float(self.threshold), lattice, self.tried, tick)
        asked_for = f"for all of {self.seeds} seeds at a rate at which the plain decoder trains as well as at its best"
        everything = f"The lattice: {lattice.words()}"
        if hit is None:
            why = f"None on this lattice crosses {asked_for}, within {self.steps} steps. {everything}."
            return Answer(None, None, False, why)
        known = Answer(
            hit.setup.depth,
            hit.setup.streams,
            False,
            f"The first of its lattice, in the order sub-layers, streams, width, tokens, that crosses {asked_for}: "
            f"every smaller one was run at every such rate, and does not. {everything}. Of other sizes and seeds "
            "nothing is said.",
        )
        run = self._found(hit)
        hunt.clock.best = f"depth {run.depth}, {run.streams} streams, width {run.width}"
        hunt.keep(known, run)
        hunt.keep(known, self._compared(run, tick))
        return known

    def impossible(self) -> Answer | None:
        """The proof that no run reaches the threshold; None where there is none."""
        if self.gain not in COMPOSITE:
            return None
        if self.dialect is None:
            why = "the residual mapping of x + F(x) is the identity, whose gain is 1"
        else:
            proved = caps.answer(cast(Any, self))  # it asks for the dialect, the gain, and how many streams
            if proved is None or proved.depth is not None:
                return None
            why = proved.proof[:1].lower() + proved.proof[1:].removesuffix(".")
        return Answer(
            None,
            None,
            True,
            f"None on this lattice, and none at any rate, by any optimiser, after any number of steps: {why}. That "
            "holds for all finite logits, and training does nothing but to choose them.",
        )

    def _found(self, hit: Hit) -> Run:
        size = hit.setup
        kept = torch.stack([tokens(size, seed)[: hit.step] for seed in self.tried])
        data = bytes(kept.flatten().tolist())
        return Run(size.depth, size.streams, size.width, size.tokens, hit.step, hit.rate, self.tried, data)

    def _compared(self, run: Run, tick: Any) -> Run:
        """The run beside fresh seeds, and beside other residuals at the same rate and seeds."""
        size, seeds, others = self.size_of(run), [*run.seeds], fresh_seeds(run.seeds)

        def all_steps(setup: Setup, seeds: list[int]) -> Runs:
            return train(setup, self.gain, [run.rate] * len(seeds), seeds, tick=tick)

        fresh = int((all_steps(size, others).crossing(float(self.threshold)) > 0).sum())
        mine = final(all_steps(size, seeds)).median().item()
        controls: list[tuple[str, tuple[float, ...], float]] = []
        for name in CONTROLS:
            runs = all_steps(size.joined_by(name).with_(streams=1 if name == "plain" else max(size.streams, 2)), seeds)
            controls.append((name, tuple(runs.gains[-1].tolist()), final(runs).median().item()))
        return replace(run, loss=mine, fresh=fresh, controls=tuple(controls))

    def size_of(self, run: Run) -> Setup:
        """The setup that a run was trained by."""
        return self.setup(depth=run.depth, streams=run.streams, width=run.width, tokens=run.tokens)

    def again(self, run: Run) -> Runs:
        """The run, once more, from its seeds and its data up to its step."""
        return _again(self, run)

    def entries(self, found: Run) -> int:
        """The number of weights."""
        return len(initial(self.size_of(found), 0))

    def counted(self, found: Run) -> str:
        return f"{self.entries(found)} weights"

    def measured(self, found: Run) -> float:
        """The smallest gain of all seeds."""
        return self.again(found).gains[-1].min().item()

    def exact(self, found: Run) -> Any:
        return context().mpf(self.measured(found))

    def reached(self, found: Run) -> bool:
        return self.measured(found) >= float(self.threshold)

    def about(self, found: Run) -> list[str]:
        gains = ", ".join(f"{gain:.4g}" for gain in self.again(found).gains[-1].tolist())
        last = f"{min(found.seeds)} to {max(found.seeds)}" if len(found.seeds) > 1 else f"{min(found.seeds)}"
        lines = [
            f"sequences of {found.tokens} tokens, learning rate {found.rate:.4g}",
            f"at step {found.step} every seed ({last}) has crossed: {gains}",
        ]
        if found.fresh is not None:
            lines.append(f"of {FRESH} fresh seeds {found.fresh} cross within {self.steps} steps")
        if found.controls:
            lines.append(f"at this very run, after {self.steps} steps (here a final loss of {found.loss:.3g}):")
        for name, values, loss in found.controls:
            said_of = f"{self.gain} {min(values):.4g} to {max(values):.4g}"
            lines.append(f"  {name:<6}{said_of}, final loss {loss:.3g}")
        return lines

    def curve(self, found: Run) -> list[float]:
        """The smallest gain of all seeds after 1, 2, ... steps."""
        return self.again(found).gains.amin(1).tolist()

    def more(self, found: Run | None) -> dict[str, Any]:
        """The run in JSON; null where there is none, or where it was not come to."""
        if found is None:
            return dict.fromkeys(("tokens", "rate", "step", "seeds", "loss", "fresh", "controls"))
        controls = {
            name: {"gains": [_known(one) for one in values], "loss": _known(loss)}
            for name, values, loss in found.controls
        }
        return {
            "tokens": found.tokens,
            "rate": found.rate,
            "step": found.step,
            "seeds": list(found.seeds),
            "loss": found.loss,
            "fresh": None if found.fresh is None else {"seeds": FRESH, "crossed": found.fresh},
            "controls": controls or None,
        }

    def tensors(self, found: Run) -> dict[str, Tensor]:
        return {"data": _tokens(found)}

    def written(self, found: Run) -> dict[str, Any]:
        fields = asdict(found)
        del fields["data"]
        return {"run": fields}

    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Run:
        fields = object_of(header["run"], "run")
        limits = {"depth": DEEPEST, "streams": MOST_STREAMS, "width": MOST_WIDTH}
        limits |= {"tokens": said.MOST_TOKENS, "step": self.steps}
        sizes = {name: integer_of(fields[name], name, 1, most) for name, most in limits.items()}
        seeds = tuple(integer_of(one, "a seed", -(2**63), 2**64 - 1) for one in list_of(fields["seeds"], "seeds"))
        rate, data = fields["rate"], tensors["data"]
        if not isinstance(rate, float) or not 0 < rate < math.inf:
            raise ValueError(f"rate is {repr(rate)[:80]}; expected a number above 0")
        shape = (len(seeds), sizes["step"], 1, sizes["tokens"] + 1)
        if data.dtype != torch.uint8 or tuple(data.shape) != shape or not seeds or int(data.max()) >= VOCABULARY:
            raise ValueError(f"its data is no {shape} of bytes below {VOCABULARY}")
        work = math.prod(shape) * sizes["depth"] * sizes["width"] * sizes["streams"] * (12 * sizes["width"] + 512)
        if work > _MOST_WORK:
            raise ValueError("its run would take too long")
        compared = {name: _compared(name, fields.get(name)) for name in ("loss", "fresh", "controls")}
        found = Run(**sizes, rate=rate, seeds=seeds, data=bytes(data.flatten().tolist()), **compared)
        self.size_of(found)
        return found


def _compared(name: str, value: Any) -> Any:
    """What a file says of the comparison, which is shown and not used."""
    if name == "controls":
        rows = [list_of(row, "a control") for row in list_of(value or [], name)]
        return tuple((str(row[0])[:40], tuple(map(float, list_of(row[1], "gains"))), float(row[2])) for row in rows)
    return None if value is None else float(value) if name == "loss" else integer_of(value, name, 0, FRESH)


@lru_cache(maxsize=4)
def _again(question: Training, run: Run) -> Runs:
    rates = [run.rate] * len(run.seeds)
    return train(question.size_of(run), question.gain, rates, run.seeds, given=_tokens(run))


def _tokens(run: Run) -> Tensor:
    flat = torch.frombuffer(bytearray(run.data), dtype=torch.uint8)
    return flat.view(len(run.seeds), run.step, 1, run.tokens + 1)


def _known(value: float) -> float | None:
    """A number as JSON knows it."""
    return value if math.isfinite(value) else None
