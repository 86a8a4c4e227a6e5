"""What a monitor warns of besides gains that leave their bounds: activations, headroom, saturation, gradients.

Nothing is proved of these numbers, so that they have thresholds and not bounds. The defaults are far from what healthy
models show, and each can be set, or set to None.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from properties.guards.printable import printable

_STEADY = 3
"""So many layers in a row must have grown before anything is extrapolated."""
_REMEMBERED = 16
_APART = 0.1
_ALONE = 100.0
"""One token alone may grow so many times more than the others. In trained language models the first token and a few
others hold single activations up to 1e5 times the median one (arXiv 2402.17762), and all is well."""
_HALVINGS = 33
"""In float16 a loss is multiplied, by 2^32 at most (Megatron-LM's first scale), and that is halved in each step whose
gradients are not finite, once with a step of grace: so many such steps in a row are the search for a scale."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Where a monitor begins to warn; None: never of that.

    growth, shrink: the norm of the median token where it leaves a layer, against its norm where it started: above
        `growth`, or below `shrink`. It started where it entered the first layer, or nearer to numbers of order 1 where
        the first layer brings it nearer: what a norm makes of an embedding of 1e-5 is no explosion. One token alone
        may grow a hundred times more than the median one: an attention sink does.
    jump: the size of the median token at a layer against the median of the layers before it in the step.
    drift: its size at a layer against its median in the last 16 recorded passes, both ways.
    overflow: so many layers from the dtype's largest number, at the smallest growth of the last three layers.
    collapse: the dispersion of streams that were more than 0.1 apart before, while their difference itself has fallen
        as far: not what is left of it beside a state that has grown.
    gates, softmax: the share of write gates at an end of their range; of rows of logits that their softmax turns into
        one entry.
    attention: a cap of the attention logits.
    gradient: the norm of the gradient at a layer against the one at the last layer, both ways.
    """

    growth: float | None = 1e4
    shrink: float | None = 1e-3
    jump: float | None = 1e3
    drift: float | None = 1e2
    overflow: float | None = 8.0
    collapse: float | None = 1e-2
    gates: float | None = 0.99
    softmax: float | None = 0.99
    attention: float | None = 1e4
    gradient: float | None = 1e6

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number = isinstance(value, float | int) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and value > 0):
                raise ValueError(f"thresholds: {name} is {value!r}; expected a number above 0, or None for no warning")


def thresholds_of(given: Any) -> Thresholds:
    """Thresholds, the defaults changed by a mapping, or none at all for False.

    Raises:
        TypeError, ValueError: it is something else, or names what is no threshold.
    """
    names = [field.name for field in dataclasses.fields(Thresholds)]
    if given is None or given is True:
        return Thresholds()
    if given is False:
        return Thresholds(**dict.fromkeys(names))
    if isinstance(given, Thresholds):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"thresholds is {given!r}; expected Thresholds, or a mapping such as {{'growth': 1e3}}")
    if strange := sorted(str(name) for name in given if name not in names):
        raise ValueError(f"thresholds has {', '.join(strange)}; expected some of {', '.join(names)}")
    return Thresholds(**given)


class Nearest(NamedTuple):
    """How near a run has come to a threshold so far, and where. Of what is compared both ways it is the larger way."""

    value: float
    threshold: float | None
    step: int
    layer: int
    name: str


_SENTENCE = {
    "grows": "its activations have grown {typical:.3g} times since the first layer; most of it at layer {where}",
    "grows alone": "its activations of token {token} have grown {worst:.3g} times since the first layer",
    "shrinks": "its activations have shrunk to {typical:.3g} of what they were at the first layer; the median layer "
    "keeps {rate:.3g}",
    "jumps": "its activations are {jump:.3g} times the median of the layers before it",
    "drifts": "its activations are {drift:.3g} times what they were in the passes before",
    "near overflow": "{overflow:.2g} layers from overflow in {dtype}: its activations reach {largest:.4g} of "
    "{finite:.4g}, and grow {rate:.3g} times a layer",
    "collapses": "its streams have collapsed into one: dispersion {dispersion:.2g}",
    "gates saturated": "{gates:.0%} of its write gates are at an end of their range",
    "softmax saturated": "{softmax:.0%} of the rows before its projection are one entry and nothing else",
    "attention": "its attention logits may reach {attention:.3g}",
}

_KINDS = {
    "near overflow": "overflow",
    "grows": "growth",
    "shrinks": "shrink",
    "jumps": "jump",
    "drifts": "drift",
    "collapses": "collapse",
    "gates saturated": "gates",
    "softmax saturated": "softmax",
    "attention": "attention",
}
"""Of which threshold an alarm is."""
_FROM_BELOW = frozenset(("overflow", "shrink", "collapse"))


class Watch:
    """Judges one pass after another; it remembers what the layers were like in the passes before."""

    def __init__(self, to: Thresholds) -> None:
        self.to = to
        self.nearest: dict[str, Nearest] = {}
        self._norms: dict[str, deque[float]] = {}
        self._apart: dict[str, tuple[float, float]] = {}
        self._lost = 0  # passes in a row whose gradients were not finite

    def judge(self, rows: list[dict[str, Any]], dtypes: list[torch.dtype | None]) -> list[dict[str, str]]:
        """Put into each row of a pass what can be told from all of them, and the kinds of its alarms.

        Returns, for each row, what there is to say of each kind.
        """
        said: list[dict[str, str]] = []
        rates: list[float] = []
        levels: list[float] = []
        apart = spread = 0.0
        last: float | None = None
        for place, (row, dtype) in enumerate(zip(rows, dtypes, strict=True)):
            rms, size, kept = row["activation_rms"], row["typical_rms"], row["dispersion"]
            rates.append(rms / last if last and rms is not None else math.nan)
            row["jump"] = _ratio(size, statistics.median(levels) if levels else None)
            passed = self._norms.setdefault(row["name"], deque(maxlen=_REMEMBERED))
            row["drift"] = _ratio(size, statistics.median(passed) if len(passed) >= 3 else None)
            largest = max((row[key] for key in ("activation_max", "output_max") if row[key] is not None), default=None)
            finite = torch.finfo(dtype).max if dtype is not None and dtype.is_floating_point else None
            row["headroom"] = _ratio(finite, largest)
            recent = rates[-_STEADY:]
            steady = min(recent) if len(rates) > _STEADY and all(map(math.isfinite, recent)) else 1.0
            row["layers_to_overflow"] = None
            if steady > 1 and row["headroom"] is not None:
                row["layers_to_overflow"] = math.log(row["headroom"]) / math.log(steady)
            own = self._apart.get(row["name"], (0.0, 0.0))
            apart, spread = max(apart, kept or 0.0, own[0]), max(spread, (kept or 0.0) * (rms or 0.0), own[1])
            facts = self._facts(row)
            if kept is not None and rms is not None and apart > _APART:
                facts["collapse"] = max(kept, _ratio(kept * rms, spread) or 0.0)
            words = {
                "typical": row["typical_growth"],
                "worst": row["worst_growth"],
                "token": row["worst_token"],
                "dtype": str(dtype).removeprefix("torch."),
                "largest": largest,
                "finite": finite,
                "where": _steepest(rates, rows),
                "rate": steady if steady > 1 else _middle(rates),
                "dispersion": kept,
                **facts,
                "drift": row["drift"],
            }
            self._approach(row, facts)
            shown = {key: math.nan if one is None else one for key, one in words.items()}
            said.append({kind: self._sentence(kind, row).format(**shown) for kind in self._alarms(facts)})
            row["alarms"] = list(said[-1])
            last = rms if rms is not None else last
            if size:
                passed.append(size)
                # What enters the first layer is an embedding: of any size, and no layer has made it.
                if place or row["output_max"] is not None:
                    levels.append(size)
            if kept is not None and rms is not None:
                self._apart[row["name"]] = (max(own[0], kept), max(own[1], kept * rms))
        return said

    @staticmethod
    def _facts(row: Mapping[str, Any]) -> dict[str, float | None]:
        """What of a row is held against each threshold, but for the streams' collapse."""
        typical, worst, drift = row["typical_growth"], row["worst_growth"], row["drift"]
        alone = None if worst is None else worst / _ALONE
        grown = max((one for one in (typical, alone) if one is not None), default=None)
        return {
            "growth": grown,
            "shrink": typical,
            "jump": row["jump"],
            "drift": _both_ways(drift),
            "overflow": row["layers_to_overflow"],
            "collapse": None,
            "gates": row["gate_saturation"],
            "softmax": row["softmax_saturation"],
            "attention": row["attention"],
        }

    def _alarms(self, facts: Mapping[str, float | None]) -> list[str]:
        return [kind for kind, name in _KINDS.items() if _crossed(name, facts[name], getattr(self.to, name))]

    def _sentence(self, kind: str, row: Mapping[str, Any]) -> str:
        alone = kind == "grows" and not _crossed("growth", row["typical_growth"], self.to.growth)
        return _SENTENCE["grows alone" if alone else kind]

    def _approach(self, row: Mapping[str, Any], facts: Mapping[str, float | None]) -> None:
        for name, value in facts.items():
            known = self.nearest.get(name)
            if value is None or not math.isfinite(value):
                continue
            nearer = known is None or (value < known.value if name in _FROM_BELOW else value > known.value)
            if nearer:
                limit = getattr(self.to, name)
                self.nearest[name] = Nearest(value, limit, row["step"], row["layer"], row["name"])

    def gradients(self, rows: list[dict[str, Any]], norms: list[float | None], scaled: bool) -> list[dict[str, str]]:
        """Put the norms of gradients into the rows of a pass, with the alarms that they are; what there is to say.

        scaled: float16 is in use, so that the loss may be multiplied by a factor for which gradients overflow.
        """
        last = next((one for one in reversed(norms) if one is not None and math.isfinite(one)), None)
        self._lost = self._lost + 1 if any(one is not None and not math.isfinite(one) for one in norms) else 0
        searching = scaled and self._lost <= _HALVINGS
        said: list[dict[str, str]] = []
        for row, norm in zip(rows, norms, strict=True):
            found: dict[str, str] = {}
            ratio = _ratio(norm, last)
            if norm is not None and not math.isfinite(norm) and not searching:
                found["gradient not finite"] = "the gradient that comes to it is not finite"
            if not self._lost:
                self._approach(row, {"gradient": _both_ways(ratio)})
                if _crossed("gradient", ratio, self.to.gradient):
                    found["gradient grows"] = f"its gradient is {ratio:.3g} times the one at the last layer"
                elif _crossed("gradient", _both_ways(ratio), self.to.gradient):
                    found["gradient vanishes"] = f"its gradient is {ratio:.3g} of the one at the last layer"
            row["gradient_norm"] = norm if norm is not None and math.isfinite(norm) else None
            row["alarms"] = [*row["alarms"], *found]
            said.append(found)
        return said


def _ratio(one: float | None, other: float | None) -> float | None:
    if one is None or not other:
        return None
    found = one / other
    return found if math.isfinite(found) else None


def _both_ways(ratio: float | None) -> float | None:
    """A ratio or its reciprocal, whichever is larger."""
    return max(ratio, 1 / ratio) if ratio else math.inf if ratio == 0 else None


def _crossed(name: str, value: float | None, limit: float | None) -> bool:
    if value is None or limit is None:
        return False
    return value < limit if name in _FROM_BELOW else value > limit


def _middle(rates: list[float]) -> float:
    known = [one for one in rates if math.isfinite(one)]
    return statistics.median(known) if known else math.nan


def _steepest(rates: list[float], rows: list[dict[str, Any]]) -> str:
    """Where activations grew most so far, and how much; what the first layer does is told by its own growth."""
    first = rows[0]["typical_growth"]
    grown = [math.nan if first is None else first, *rates[1:]]
    known = [(rate, place) for place, rate in enumerate(grown) if math.isfinite(rate)]
    if not known:
        return "?"
    rate, place = max(known)
    return f"{place} ({printable(str(rows[place]['name']))}), {rate:.3g} times"
