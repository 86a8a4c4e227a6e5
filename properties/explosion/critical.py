"""Critical learning rates: the smallest at which training explodes, by size and by every choice around it.

The base run is the largest of the lattice that is asked about. A seed's critical rate is the first of an ascending
grid, eight rates a decade, at which it reaches the threshold within its steps. Every rate below it was run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from properties.explosion.composite import decimal
from properties.explosion.questions.families import ask
from properties.explosion.questions.training import Training
from properties.explosion.searches.hypothesise import BudgetSpent, Clock
from properties.explosion.training.runs import train

MINIMISED = ("rate",)
_STEPS, _AT_ONCE = 8, 5
"""Rates a decade, and rates that are run in one batch."""

Change = tuple[str, dict[str, Any]]

SUSPECTS: dict[str, tuple[Change, ...]] = {
    "depth": (("2", {"max_depth": 2}), ("8", {"max_depth": 8})),
    "streams": (("2", {"max_streams": 2}), ("8", {"max_streams": 8})),
    "width": (("8", {"max_width": 8}), ("16", {"max_width": 16}), ("32", {"max_width": 32})),
    "tokens": (("32", {"max_tokens": 32}), ("64", {"max_tokens": 64}), ("128", {"max_tokens": 128})),
    "steps": (("20", {"steps": 20}), ("100", {"steps": 100})),
    "init": tuple((one, {"init": one}) for one in ("paper", "deepseek", "identity", "open-gates")),
    "init-scale": (("0.5", {"init_scale": 0.5}), ("2", {"init_scale": 2.0})),
    "norm": tuple((one, {"norm": one}) for one in ("post", "sandwich", "none")),
    "attention": (("4 heads", {"heads": 4}), ("QK norm", {"qk_norm": True})),
    "mlp": tuple((one, {"mlp": one}) for one in ("relu", "gated")),
    "data": (("copy", {"data": "copy"}),),
    "optimizer": (("sgd", {"optimizer": "sgd"}),),
    "schedule": tuple((one, {"schedule": one}) for one in ("warmup", "cosine")),
}
"""Knob -> what it is turned to, as fields of a question."""
REMEDIES: dict[str, tuple[Change, ...]] = {
    "static": (("no dynamic part", {"residual": "hc-static"}),),
    "constrained": tuple((one, {"residual": one}) for one in ("mhc", "mhc-lite", "cayley")),
    "rezero": (("rezero", {"init": "rezero"}),),
    "depth-scaled": (("depth-scaled", {"init": "depth-scaled"}),),
    "weight-decay": (("0.1", {"weight_decay": 0.1}), ("1", {"weight_decay": 1.0})),
    "clip": (("1", {"clip": 1.0}), ("0.1", {"clip": 0.1})),
    "clip-activations": (("3", {"clip_activations": 3.0}),),
}
KNOBS = {**SUSPECTS, **REMEDIES}
_RESIDUALS = ("hc", "hc-static", "mhc", "mhc-lite")
_NORMS = ("post", "sandwich", "none")
_INITS = ("deepseek", "depth-scaled", "open-gates")


@dataclass(frozen=True)
class Row:
    """The critical rates of one run.

    Attributes:
        knob, value: what was turned, and to what; "base" where nothing was.
        depth: sub-layers.
        rates: of each seed; None where no rate of the grid crosses.
        proof: why none does, at any rate; "" where it was run.
    """

    knob: str
    value: str
    depth: int
    rates: tuple[float | None, ...]
    proof: str = ""

    @property
    def spread(self) -> tuple[float | None, float | None, float | None]:
        """The smallest, the median and the largest rate; None where it is above the grid."""
        ordered = sorted(self.rates, key=lambda rate: float("inf") if rate is None else rate)
        if not ordered:
            return None, None, None
        return ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]


@dataclass(frozen=True)
class CriticalRates:
    """A table of critical rates; `complete` is False where the budget was spent or Ctrl-C came first."""

    request: Training
    rows: tuple[Row, ...]
    complete: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """{family, gain, threshold, steps, seeds, complete, seconds, rows: [{knob, value, depth, rates, proof}]}."""
        asked = self.request
        return {
            "family": asked.name,
            "gain": asked.gain,
            "threshold": float(asked.threshold),
            "steps": asked.steps,
            "seeds": list(asked.tried),
            "complete": self.complete,
            "seconds": self.seconds,
            "rows": [
                {
                    "knob": row.knob,
                    "value": row.value,
                    "depth": row.depth,
                    "rates": list(row.rates),
                    "median": row.spread[1],
                    "proof": row.proof or None,
                }
                for row in self.rows
            ],
        }

    def to_text(self) -> str:
        """A line for each run: the median of its seeds, and from the smallest to the largest."""
        return "\n".join(_lines(self))

    def __str__(self) -> str:
        return self.to_text()


def critical_rates(
    family: str,
    threshold: Any,
    *,
    vary: str | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> CriticalRates:
    """The critical rates around the largest run of a lattice.

    Args:
        family, threshold, options: as `find_minimal` has them; a family train:KIND.
        vary: a knob that is turned, everything else staying as it is; "all" for each of them in turn. None: by depth,
            for the residual that is asked about and others, and with other norms and initialisations.

    Raises:
        ValueError: a bad question, or no such knob.
    """
    asked = ask(family, threshold, **options)
    if not isinstance(asked, Training):
        raise ValueError(f"critical rates are of training runs; {family} has none, expected train:KIND")
    places = [*(_around(asked) if vary is None else _turned(asked, vary))]
    clock, rows, complete = Clock(asked.budget, progress), list[Row](), True
    for knob, value, one in places:
        clock.stage = f"{knob} {value}, {one.max_depth} sub-layers"
        clock.best = f"{len(rows)} of {len(places)} runs"
        try:
            rows.append(_row(knob, value, one, clock.tick))
        except (BudgetSpent, KeyboardInterrupt):
            complete = False
            break
    return CriticalRates(asked, tuple(rows), complete, round(clock.seconds, 3))


def turned(family: str, threshold: Any, **options: Any) -> Iterator[tuple[str, str]]:
    """Every knob and value that `critical_rates(..., vary="all")` runs, the base first."""
    for knob, value, _ in _turned(ask(family, threshold, **options), "all"):
        yield knob, value


def critical_row(family: str, threshold: Any, knob: str, value: str, **options: Any) -> Row:
    """One row of the table alone.

    Raises:
        ValueError: a bad question, or no such knob and value.
    """
    asked = ask(family, threshold, **options)
    for name, turn, one in _turned(asked, "all"):
        if (name, turn) == (knob, value):
            return _row(name, turn, one, lambda: None)
    raise ValueError(f"no knob {knob} is turned to {value}; expected one of {', '.join(KNOBS)} with its values")


def _turned(asked: Training, vary: str) -> Iterator[tuple[str, str, Training]]:
    """The base, and the base with each knob turned."""
    if vary != "all" and vary not in KNOBS:
        raise ValueError(f"vary is {vary!r}; expected all or one of {', '.join(KNOBS)}")
    yield "base", _short(asked), asked
    for knob, changes in KNOBS.items():
        for value, fields in changes if vary in ("all", knob) else ():
            turned = dataclasses.replace(asked, **fields)
            if turned != asked:
                yield knob, value, turned


def _around(asked: Training) -> Iterator[tuple[str, str, Training]]:
    """Lines by depth: of the residual that is asked about, of others, and with other norms and initial weights."""
    others = [("residual", one, {"residual": one}) for one in _RESIDUALS if one != asked.residual]
    others += [("norm", one, {"norm": one}) for one in _NORMS if one != asked.norm]
    others += [("init", one, {"init": one}) for one in _INITS if one != asked.init]
    for depth in (depth for depth in asked.lattice().depths if depth in (1, 2, 3) or depth % 2 == 0):
        yield "base", asked.residual, dataclasses.replace(asked, max_depth=depth)
        for knob, value, fields in others:
            yield knob, value, dataclasses.replace(asked, max_depth=depth, **fields)


def grid(asked: Training) -> list[float]:
    """Rates over three decades, ascending."""
    top = 0 if asked.optimizer == "adamw" else 2
    return [10 ** (top - 3 + step / _STEPS) for step in range(3 * _STEPS + 1)]


def _row(knob: str, value: str, asked: Training, tick: Callable[[], None]) -> Row:
    proved = asked.impossible()
    if proved is not None:
        return Row(knob, value, asked.max_depth, (None,) * asked.seeds, proved.proof)
    return Row(knob, value, asked.max_depth, _critical(asked, tick))


def _critical(asked: Training, tick: Callable[[], None]) -> tuple[float | None, ...]:
    """Of each seed the first rate of the grid that crosses; batches ascend until every seed has one."""
    size, goal = asked.largest(), float(asked.threshold)
    found: dict[int, float] = {}
    rates = grid(asked)
    for start in range(0, len(rates), _AT_ONCE):
        left = [seed for seed in asked.tried if seed not in found]
        if not left:
            break
        pairs = [(rate, seed) for rate in rates[start : start + _AT_ONCE] for seed in left]
        runs = train(size, asked.gain, [rate for rate, _ in pairs], [seed for _, seed in pairs], tick=tick)
        for (rate, seed), step in zip(pairs, runs.crossing(goal).tolist(), strict=True):
            if step:
                found.setdefault(seed, rate)
    return tuple(found.get(seed) for seed in asked.tried)


def _short(asked: Training) -> str:
    size = asked.largest()
    return f"{asked.residual}, {size.depth} x {size.streams} x {size.width} x {size.tokens}"


def _lines(one: CriticalRates) -> Iterator[str]:
    asked = one.request
    goal = f"{asked.gain} gain {asked.sign} {decimal(Fraction(asked.threshold))}"
    yield f"{asked.name}: the smallest learning rate at which the {goal} within {asked.steps} steps"
    yield f"(median of {asked.seeds} seeds, [smallest, largest]; a ratio is that to the base of as many sub-layers)"
    yield ""
    yield f"  {'knob':<17}{'value':<24}{'sub-layers':>10}  {'rate':<26}ratio"
    bases = {row.depth: row.spread[1] for row in one.rows if row.knob == "base"}
    for row in one.rows:
        base = bases.get(row.depth, next(iter(bases.values()), None))
        yield f"  {row.knob:<17}{row.value:<24}{row.depth:>10}  {cell(row, grid(asked)[-1]):<26}{_ratio(row, base)}"
    yield ""
    for proof in dict.fromkeys(row.proof for row in one.rows if row.proof):
        yield f"none: {proof}"
    if not one.complete:
        yield "Stopped before the end: the rest was not run."


def cell(row: Row, top: float) -> str:
    """The median and the spread of a row in words."""
    if row.proof:
        return "none (proved)"
    least, median, most = (f"> {top:.3g}" if rate is None else f"{rate:.3g}" for rate in row.spread)
    return f"{median} [{least}, {most}]"


def _ratio(row: Row, base: float | None) -> str:
    median = row.spread[1]
    return f"{median / base:.2g}" if median and base and row.knob != "base" else ""


def median_line(rows: Sequence[Row]) -> list[tuple[int, float, float, float]]:
    """(depth, smallest, median, largest) of the rows that have all three, in the order of depths."""
    found = [(row.depth, *row.spread) for row in rows if None not in row.spread]
    return sorted((depth, low, mid, high) for depth, low, mid, high in found if low and mid and high)
