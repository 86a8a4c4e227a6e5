"""What is known of a field of the dialect, and what follows for it from values that reproduce what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mhc_ref import PRESETS, Dialect, registry
from properties.core.estimate import Candidate, Estimate
from properties.core.family import family
from properties.core.slips import some_streams
from properties.diagnosis.answers import Answer, Predictions
from properties.diagnosis.mixes import mixes_for
from properties.diagnosis.own_fields import in_question
from properties.diagnosis.view import Frame, View

Status = Literal["certain", "undetermined", "contradictory"]
Findings = dict[str, "Finding"]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "last_axis": ("row", "column"),
    "start": ("exp", "softmax"),
    "start_axis": ("row", "column"),
    "denominator": ("add", "clamp"),
    "transposed": (False, True),
    "rms_eps_inside": (True, False),
    "rms_eps_by": ("add", "clamp"),
    "centred": (False, True),
    "norm_offset": (0.0, 1.0),
    "rms_eps_from": ("value", "compute", "state"),
    "read_from": ("own", "previous"),
    "first_read": ("own", "stream0"),
}


def choices(dialect: Dialect, name: str) -> tuple[Any, ...]:
    """The values of a field that has few; none where it has many. A mix is one that takes the same logits."""
    if name == "residual":
        return tuple(mixes_for(dialect, some_streams(dialect)))
    slot = registry.SLOTS.get(name)
    return registry.names(slot) if slot else _CHOICES.get(name, ())


@dataclass(frozen=True)
class Finding:
    """One field of the dialect.

    Attributes:
        value: what was found; where several values would do, the declared one or the plainest of them.
        status: undetermined: other values behave alike, or nothing that was seen depends on it; contradictory: no value
            reproduces what was seen.
        why: for a field that is not certain, what would do as well or which method the target would have to offer.
        estimate: of a number that was measured.
    """

    value: Any
    status: Status
    why: str = ""
    estimate: Estimate | None = None

    @property
    def certain(self) -> bool:
        """Whether no other value would do."""
        return self.status == "certain"


def value_of(dialect: Dialect, name: str) -> Any:
    """The value of a field; None where a family brings it that the dialect does not choose."""
    return dialect.fields().get(name)


@dataclass
class Inference:
    """The findings, and what was asked on the way to them."""

    frame: Frame
    view: View
    findings: Findings
    answers: list[Answer]
    predictions: Predictions
    packing: str = ""
    begin: int = 0
    """How much had been asked before the exam began."""

    def dialect(self, base: Dialect) -> Dialect:
        """`base` with every value that was found, as far as they go together."""
        found = {name: one.value for name, one in self.findings.items() if one.status != "contradictory"}
        return joined(base, found)

    def sure(self, base: Dialect) -> Dialect:
        """`base` with what is certain, if that reproduces everything; its values are then taken for the rest too."""
        certain = joined(base, {name: one.value for name, one in self.findings.items() if one.certain})
        if any(self.predictions.ratio(one, certain) > 1 for one in self.answers):
            return self.dialect(base)
        for name, one in self.findings.items():
            if not one.certain:
                self.findings[name] = replace(one, value=value_of(certain, name))
        return certain


def joined(base: Dialect, values: dict[str, Any]) -> Dialect:
    """`base` with other values; those that contradict the rest are left as they are."""
    try:
        return base.with_(**values)
    except (ValueError, TypeError):  # or a field of a family that is not chosen
        for name, value in values.items():
            try:
                base = base.with_(**{name: value})
            except (ValueError, TypeError):
                continue
        return base


TOGETHER = (
    ("start", "start_axis", "last_axis"),
    ("denominator", "denominator_eps"),
    ("rms_eps", "rms_eps_inside", "rms_eps_by", "rms_eps_from"),
    ("norm_over", "shared_projection"),
    ("read_from", "first_read"),
)
"""Fields that are one choice of whoever writes a kernel: where several of a group differ, that is one slip."""


def grouped(there: Dialect, found: Dialect) -> list[dict[str, Any]]:
    """The fields that differ with the values found, those of one choice together; what a family brings goes with it."""
    left = {name: value for name, (value, _) in found.difference(there).items()}
    families = {name for name in left if name in registry.SLOTS}
    groups: list[dict[str, Any]] = []
    while left:
        name = next(iter(left))
        group = next((one for one in TOGETHER if name in one), (name,))
        groups.append({one: left.pop(one) for one in group if one in left})
    if families:  # the other fields exist, or not, because of it
        own = [one for one in groups if not _belongs(one, there, found)]
        gone = {name: value for one in groups if one not in own for name, value in one.items()}
        first = next((one for one in own if families & one.keys()), None)
        if first is not None:
            first |= gone
        groups = own
    return groups


def _belongs(group: dict[str, Any], there: Dialect, found: Dialect) -> bool:
    """Whether fields are of a family that only one of two dialects has chosen."""
    return all(name not in there.fields() or name not in found.fields() for name in group)


def settle(findings: Findings, names: Sequence[str], found: list[Candidate] | None, base: Dialect, why: str) -> None:
    """Findings for a group of fields from the candidates that reproduce what was seen; None: nothing was seen."""
    if not found:
        status: Status = "undetermined" if found is None else "contradictory"
        for name in names:
            findings[name] = Finding(value_of(base, name), status, why)
        return

    def distance(one: Candidate) -> tuple[int, int, float]:
        far = [name for name in one.fields if not _same(one, name, value_of(base, name))]
        plain = [name for name in one.fields if one.fields[name] != value_of(PRESETS.default, name)]
        return len(far), len(plain), one.ratio

    best = min(found, key=distance)
    for name in (*names, *(name for name in best.fields if name not in names)):
        if name not in best.fields:
            idle = f"nothing depends on it where residual is {best.fields.get('residual', base.residual)!r}"
            findings[name] = Finding(value_of(base, name), "undetermined", idle)
            continue
        value, estimate = best.fields[name], best.estimates.get(name)
        # what was declared is as good as any other number within the bar
        if estimate is not None and estimate.admits(value_of(base, name)):
            value = value_of(base, name)
        others = sorted({repr(one.fields[name]) for one in found if name in one.fields and not _same(one, name, value)})
        if others:
            findings[name] = Finding(value, "undetermined", f"{' or '.join(others)} does as well", estimate)
        elif blunt := [e for one in found if (e := one.estimates.get(name)) is not None and not _sharp(e)]:
            why = f"anything in {blunt[0]} does as well"
            findings[name] = Finding(value, "undetermined", why, estimate)
        elif _left_untried(best, name):
            findings[name] = Finding(
                value, "undetermined", "it reproduces everything, and not every other value was tried"
            )
        else:
            findings[name] = Finding(value, "certain", "", estimate)


def _left_untried(one: Candidate, name: str) -> bool:
    """Whether a field that a family brings may have other values than those that were tried."""
    fields: Mapping[str, registry.Field] = {}
    for field, slot in registry.SLOTS.items():
        if field in one.fields:
            fields = {**fields, **family(slot, one.fields[field]).FIELDS}
    return name in fields and in_question(fields, name)


def _same(one: Candidate, name: str, value: Any) -> bool:
    estimate = one.estimates.get(name)
    return one.fields[name] == value or (estimate is not None and estimate.admits(value))


def _sharp(estimate: Estimate) -> bool:
    if estimate.low <= 0 <= estimate.high:
        return estimate.high < 1e-6
    return estimate.high - estimate.low <= abs(estimate.value)
