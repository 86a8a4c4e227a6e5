"""The fields with few values: each is tried on the answers that depend on it."""

from __future__ import annotations

import math
from typing import Any

from mhc_ref import Dialect
from properties.diagnosis.answers import Answer
from properties.diagnosis.findings import Finding, Inference, choices, value_of


def structure(inference: Inference, base: Dialect) -> None:
    """The fields with few values, each tried on the answers that depend on it."""
    frame, n = inference.frame, inference.frame.n
    findings = inference.findings
    packed = "mappings" in frame.own or "block" in frame.offered
    why = inference.packing or ("" if packed else "`mappings` or `block` would have to be offered")
    findings["shared_projection"] = Finding(frame.shared, "undetermined" if why else "certain", why)
    _try(inference, base, "norm_over", ("mappings", "block"), gates=True)
    if "transposed" not in findings:
        _try(inference, base, "transposed", ("post", "block"))
    _try(inference, base, "expand", ("expand",))
    _try(inference, base, "collapse", ("collapse",))
    if n == 1:
        for name in ("transposed", "norm_over", "collapse"):
            findings[name] = Finding(getattr(base, name), "undetermined", "n = 1 cannot show it")
    found = inference.dialect(base).fields()
    findings |= {name: Finding(found[name], "undetermined") for name in found if name not in findings}


def _try(
    inference: Inference,
    base: Dialect,
    name: str,
    stages: tuple[str, ...],
    gates: bool = False,
) -> None:
    """Which values of a field reproduce the answers of the first of these stages that was examined."""
    dialect, values = inference.dialect(base), choices(base, name)
    asked = next(
        (found for stage in stages if (found := [a for a in inference.answers if a.probe.stage == stage])), None
    )
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


def _relevant(ratios: list[float], given: Answer, gates: bool) -> float:
    """The ratios that the field decides: for the span of the norm the gates alone, h_res has troubles of its own."""
    if not gates:
        return max(ratios)
    return min(ratios[: 2 if given.probe.stage == "mappings" and len(ratios) == 3 else 1])
