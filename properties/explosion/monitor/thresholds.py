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
from typing import Any

import torch

_STEADY = 3
"""So many layers in a row must have grown before anything is extrapolated."""
_REMEMBERED = 16
_APART = 0.1


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Where a monitor begins to warn; None: never of that.

    growth, shrink: the norm of a token where it leaves a layer, against its norm where it entered the first: the worst
        token is above `growth`, or below `shrink`.
    jump: the norm at a layer against the median of those before it in the step.
    drift: the norm at a layer against its median in the last 16 recorded passes, both ways.
    overflow: so many layers from the dtype's largest number, at the smallest growth of the last three layers.
    collapse: the dispersion of streams that were more than 0.1 apart before.
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


_SENTENCE = {
    "grows": "its activations have grown {growth:.3g} times since they entered the first layer (token {token}); most "
    "of it at layer {where}",
    "shrinks": "its activations have shrunk to {shrink:.3g} of what entered the first layer; the median layer keeps "
    "{rate:.3g}",
    "jumps": "its activations are {jump:.3g} times the median of the layers before it",
    "drifts": "its activations are {drift:.3g} times what they were in the passes before",
    "near overflow": "{overflow:.2g} layers from overflow in {dtype}: its activations reach {largest:.4g} of "
    "{finite:.4g}, and grow {rate:.3g} times a layer",
    "collapses": "its streams have collapsed into one: dispersion {dispersion:.2g}",
    "gates saturated": "{gates:.0%} of its write gates are at an end of their range",
    "softmax saturated": "{softmax:.0%} of the rows before its projection are one entry and nothing else",
    "attention": "its attention logits may reach {attention:.3g}",
}


class Watch:
    """Judges one pass after another; it remembers what the layers were like in the passes before."""

    def __init__(self, to: Thresholds) -> None:
        self.to = to
        self._norms: dict[str, deque[float]] = {}
        self._apart: dict[str, float] = {}

    def judge(self, rows: list[dict[str, Any]], dtypes: list[torch.dtype | None]) -> list[dict[str, str]]:
        """Put into each row of a pass what can be told from all of them, and the kinds of its alarms.

        Returns, for each row, what there is to say of each kind.
        """
        said: list[dict[str, str]] = []
        before: list[float] = []
        rates: list[float] = []
        apart = 0.0
        for row, dtype in zip(rows, dtypes, strict=True):
            rms, last = row["activation_rms"], before[-1] if before else None
            rates.append(rms / last if last and rms is not None else math.nan)
            row["jump"] = _ratio(rms, statistics.median(before) if before else None)
            passed = self._norms.setdefault(row["name"], deque(maxlen=_REMEMBERED))
            row["drift"] = _ratio(rms, statistics.median(passed) if len(passed) >= 3 else None)
            largest = max((row[key] for key in ("activation_max", "output_max") if row[key] is not None), default=None)
            finite = torch.finfo(dtype).max if dtype is not None and dtype.is_floating_point else None
            row["headroom"] = _ratio(finite, largest)
            recent = rates[-_STEADY:]
            steady = min(recent) if len(rates) > _STEADY and all(map(math.isfinite, recent)) else 1.0
            row["layers_to_overflow"] = None
            if steady > 1 and row["headroom"] is not None:
                row["layers_to_overflow"] = math.log(row["headroom"]) / math.log(steady)
            facts = {
                "growth": row["growth"],
                "shrink": row["least_growth"],
                "token": row["worst_token"],
                "overflow": row["layers_to_overflow"],
                "dtype": str(dtype).removeprefix("torch."),
                "largest": largest,
                "finite": finite,
                "where": _steepest(rates, rows),
                "rate": steady if steady > 1 else _middle(rates),
                **{name: row[name] for name in ("jump", "drift", "dispersion", "attention")},
                "gates": row["gate_saturation"],
                "softmax": row["softmax_saturation"],
            }
            apart = max(apart, row["dispersion"] or 0.0, self._apart.get(row["name"], 0.0))
            shown = {key: math.nan if one is None else one for key, one in facts.items()}
            said.append({kind: _SENTENCE[kind].format(**shown) for kind in self._kinds(facts, apart)})
            row["alarms"] = list(said[-1])
            if rms is not None:
                before.append(rms)
                passed.append(rms)
            self._apart[row["name"]] = max(self._apart.get(row["name"], 0.0), row["dispersion"] or 0.0)
        return said

    def _kinds(self, facts: Mapping[str, Any], apart: float) -> list[str]:
        to = self.to
        drift = facts["drift"]
        found = {
            "near overflow": _below(facts["overflow"], to.overflow),
            "grows": _above(facts["growth"], to.growth),
            "shrinks": _below(facts["shrink"], to.shrink),
            "jumps": _above(facts["jump"], to.jump),
            "drifts": _above(drift, to.drift) or _below(drift, 1 / to.drift if to.drift else None),
            "collapses": apart > _APART and _below(facts["dispersion"], to.collapse),
            "gates saturated": _above(facts["gates"], to.gates),
            "softmax saturated": _above(facts["softmax"], to.softmax),
            "attention": _above(facts["attention"], to.attention),
        }
        return [kind for kind, yes in found.items() if yes]


def gradient_alarms(rows: list[dict[str, Any]], norms: list[float | None], to: Thresholds) -> list[dict[str, str]]:
    """Put the norms of gradients into the rows of a pass, with the alarms that they are; what there is to say."""
    last = next((one for one in reversed(norms) if one is not None and math.isfinite(one)), None)
    said: list[dict[str, str]] = []
    for row, norm in zip(rows, norms, strict=True):
        found: dict[str, str] = {}
        ratio = _ratio(norm, last)
        if norm is not None and not math.isfinite(norm):
            found["gradient not finite"] = "the gradient that comes to it is not finite"
        if _above(ratio, to.gradient):
            found["gradient grows"] = f"its gradient is {ratio:.3g} times the one at the last layer"
        if _below(ratio, 1 / to.gradient if to.gradient else None):
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


def _above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


def _below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value < limit


def _middle(rates: list[float]) -> float:
    known = [one for one in rates if math.isfinite(one)]
    return statistics.median(known) if known else math.nan


def _steepest(rates: list[float], rows: list[dict[str, Any]]) -> str:
    """Where activations grew most so far, and how much."""
    known = [(rate, place) for place, rate in enumerate(rates) if math.isfinite(rate)]
    if not known:
        return "?"
    rate, place = max(known)
    return f"{place} ({rows[place]['name']}), {rate:.3g} times"
