"""The fields with few values: each is tried on the answers that depend on it."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

from mhc_ref import Dialect
from properties.diagnosis.answers import Answer
from properties.diagnosis.exam import STACK
from properties.diagnosis.findings import Finding, Inference, choices, joined, value_of


def structure(inference: Inference, base: Dialect) -> None:
    """The fields with few values, each tried on the answers that depend on it."""
    frame, n = inference.frame, inference.frame.n
    findings = inference.findings
    packed = "mappings" in frame.own or "block" in frame.offered
    why = inference.packing or ("" if packed else "`mappings` or `block` would have to be offered")
    findings["shared_projection"] = Finding(frame.shared, "undetermined" if why else "certain", why)
    _norm(inference, base)
    if "transposed" not in findings:
        _try(inference, base, "transposed", ("post", "block"))
    _try(inference, base, "expand", ("expand",))
    _try(inference, base, "collapse", ("collapse", "stack"))
    _delay(inference, base)
    if n == 1:
        for name in ("transposed", "norm_over", "collapse"):
            findings[name] = Finding(getattr(base, name), "undetermined", "n = 1 cannot show it")
    found = inference.dialect(base).fields()
    findings |= {name: Finding(found[name], "undetermined") for name in found if name not in findings}


def _norm(inference: Inference, base: Dialect) -> None:
    """Over which numbers the norm is taken, whether it subtracts their mean, and what is added to its weight: tried
    together, since none of them fits beside a wrong value of another."""
    stages = ("mappings", "block")
    names = [name for name in _NORM if name not in inference.findings]  # of some reads they are numbers with an error
    asked = next((found for stage in stages if (found := _asked(inference, stage))), [])
    if not asked or all(one.error for one in asked):
        for name in names:
            _try(inference, base, name, stages, gates=True)
        return
    dialect = inference.dialect(base)
    fitting: list[dict[str, Any]] = []
    for values in itertools.product(*(dict.fromkeys([value_of(base, k), *choices(base, k)]) for k in names)):
        tried: dict[str, Any] = dict(zip(names, values, strict=True))
        with contextlib.suppress(ValueError):  # which contradicts another field
            other = dialect.with_(**tried)
            if all(_relevant(inference.predictions.ratios(one, other), one, True) <= 1 for one in asked):
                fitting.append(tried)
    if not fitting:
        for name in names:
            _try(inference, base, name, stages, gates=True)
        return
    best = min(fitting, key=lambda one: sum(value != value_of(base, name) for name, value in one.items()))
    for name, value in best.items():
        others = dict.fromkeys(repr(one[name]) for one in fitting if one[name] != value)
        why = f"{' or '.join(others)} does as well" if others else ""
        inference.findings[name] = Finding(value, "undetermined" if others else "certain", why)


_NORM = ("norm_over", "centred", "norm_offset")
"""Fields that say of what a state is normalised, and with what weight."""


def _try(
    inference: Inference,
    base: Dialect,
    name: str,
    stages: tuple[str, ...],
    gates: bool = False,
) -> None:
    """Which values of a field reproduce the answers of the first of these stages that was examined."""
    dialect, values = inference.dialect(base), choices(base, name)
    asked = next((found for stage in stages if (found := _asked(inference, stage))), None)
    if asked is None:
        needed = " or ".join(f"`{stage}`" for stage in stages)
        inference.findings[name] = Finding(value_of(base, name), "undetermined", f"{needed} would have to be offered")
        return
    if all(one.error for one in asked):
        why = f"{asked[0].probe.stage} {asked[0].told}"
        inference.findings[name] = Finding(value_of(base, name), "undetermined", why)
        return

    def worst(value: Any) -> float:
        try:
            tried = dialect.with_(**{name: value})
        except ValueError:
            return math.inf
        return max(_relevant(inference.predictions.ratios(one, tried), one, gates) for one in asked)

    fitting = [value for value in values if worst(value) <= 1]
    preferred = value_of(base, name)
    if not fitting:
        stage = asked[0].probe.stage
        tried = " nor ".join(map(repr, values))
        why = f"neither {tried} reproduces {stage}" if len(values) > 1 else f"{tried} does not reproduce {stage}"
        inference.findings[name] = Finding(preferred, "contradictory", why)
        return
    value = preferred if preferred in fitting else fitting[0]
    others = [repr(other) for other in fitting if other != value]
    why = f"{' or '.join(others)} does as well" if others else ""
    inference.findings[name] = Finding(value, "undetermined" if others else "certain", why)


def _asked(inference: Inference, stage: str) -> list[Answer]:
    """The answers about a stage; about whole stacks where the target has one of its own."""
    if stage == "stack":
        own = "stack" in inference.frame.own
        return [one for one in inference.answers if own and one.probe.name == STACK]
    return [one for one in inference.answers if one.probe.stage == stage]


READS: tuple[dict[str, str], ...] = (
    {"read_from": "own"},
    {"read_from": "previous", "first_read": "own"},
    {"read_from": "previous", "first_read": "stream0"},
)
"""With whose h_pre the blocks of a stack read."""


def _delay(inference: Inference, base: Dialect) -> None:
    """With whose h_pre branches read, which only several blocks show that the target has put together itself."""
    findings, frame = inference.findings, inference.frame
    asked = [one for one in inference.answers if one.probe.stage == "depth" and not one.error]
    if not frame.own & {"layers", "stack"} or not asked:
        why = "`layers` or `stack` would have to be offered" if not asked else "the parts are put together as declared"
        for name in ("read_from", "first_read"):
            findings[name] = Finding(value_of(base, name), "undetermined", why)
        return
    dialect = inference.dialect(base)
    fitting = [
        reads
        for reads in READS
        if joined(dialect, reads).fields().items() >= reads.items()  # a family may take but one of them
        and all(inference.predictions.ratio(one, joined(dialect, reads)) <= 1 for one in asked)
    ]
    for name in ("read_from", "first_read"):
        values = list(dict.fromkeys(reads.get(name) for reads in fitting))
        declared = value_of(base, name)
        if not fitting:
            findings[name] = Finding(
                declared, "contradictory", "the branch inputs of several blocks are of no such read"
            )
        elif values == [None]:
            why = "nothing depends on it where read_from is 'own'"
            findings[name] = Finding(declared, "undetermined", why)
        elif len(values) == 1:
            findings[name] = Finding(values[0], "certain")
        else:
            others = " or ".join(repr(one) for one in values if one not in (None, declared))
            findings[name] = Finding(declared, "undetermined", f"{others} does as well")


def _relevant(ratios: list[float], given: Answer, gates: bool) -> float:
    """The ratios that the field decides: for the span of the norm the gates alone, h_res has troubles of its own."""
    if not gates:
        return max(ratios)
    return min(ratios[: 2 if given.probe.stage == "mappings" and len(ratios) == 3 else 1])
