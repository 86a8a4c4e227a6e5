"""Try a stored counterexample again: FIXED, FAILED or ERROR."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from properties.core.case import MissingValue
from properties.core.device import device_of
from properties.core.implementation import Implementation
from properties.core.law import Law, all_laws
from properties.core.trial import LawBroken
from properties.engine.counterexample import Counterexample, CounterexampleError, StrangeFamily
from properties.engine.fitting import unfit
from properties.engine.message import explain
from properties.engine.subject import Subject
from properties.engine.trying import try_stored
from properties.guards import sealed
from properties.guards.printable import message_of, printable
from properties.targets.isolation import isolated
from properties.targets.target import TargetError, resolve
from properties.targets.trust import built_in, refusal


@dataclass(frozen=True)
class Outcome:
    """FIXED: the law holds for the stored case; FAILED: it does not; ERROR: that could not be found out."""

    status: Literal["FIXED", "FAILED", "ERROR"]
    law: str
    message: str
    ratio: float | None = None


def replay_counterexample(
    path: Path, target: str | None, device: str | None, isolate: bool, trust: bool, dialect: str | None
) -> Outcome:
    """The outcome for the counterexample of a law; the arguments are those of `properties.replay_file`."""
    shown = printable(str(path))
    try:
        find = isolated if isolate else resolve
        try:
            stored = Counterexample.load(path)
        except StrangeFamily as strange:
            if target is None and not trust:
                raise
            find(strange.target if target is None else target, dialect)  # a target brings its families
            stored = Counterexample.load(path)
        law = all_laws().get(stored.law)
        if law is None:
            named = printable(repr(stored.law), 200)
            return Outcome("ERROR", "", f"{shown} is about law {named}, which this version does not have")
        if target is None and not trust and not built_in(stored.target):
            return Outcome("ERROR", stored.law, refusal(path, stored.target))
        chosen = stored.target if target is None else target  # an empty --impl is no leave to run what the file names
        if isolate and chosen.startswith("proc:"):
            return Outcome("ERROR", stored.law, ISOLATED)
        implementation = find(chosen, dialect or stored.dialect_option)
        if dialect and not implementation.dialect_given:
            said = f"--dialect {dialect} has no effect: {printable(implementation.name)} declares what it computes"
            return Outcome("ERROR", stored.law, said)
    except (CounterexampleError, sealed.SealError, TargetError) as error:
        return Outcome("ERROR", "", message_of(error))
    outcome = _tried(path, stored, law, implementation, chosen, device, dialect or stored.dialect_option)
    return outcome if stored.checked else replace(outcome, message=outcome.message + UNSEALED)


ISOLATED = "--isolate has no effect: what proc: starts is a process of its own"
UNSEALED = "\n  note: this file was written before files had a checksum, so damage to it cannot be told"


def _tried(
    path: Path,
    stored: Counterexample,
    law: Law,
    implementation: Implementation,
    target: str,
    device: str | None,
    option: str | None,
) -> Outcome:
    """The verdict on a stored case."""
    shown = printable(str(path))
    place = torch.device(device or stored.device)
    if (missing := device_of(place).missing()) is not None:
        return Outcome(
            "ERROR",
            stored.law,
            f"{shown} was found on {stored.device}; there is {missing} here (--device cpu tries it without)",
        )
    subject = Subject(target, implementation, getattr(torch, stored.dtype), place, option)
    changed = stored.dialect.difference(subject.implementation.dialect)
    note = f"\n  note: the dialect declared now differs from the stored one in {', '.join(changed)}" if changed else ""
    inapplicable = law.inapplicable(implementation, subject.dtype, place)
    if inapplicable:
        return Outcome("ERROR", law.id, f"{law.id} does not apply to {implementation.name}: {inapplicable}{note}")
    try:
        if (reason := unfit(law, subject, stored.case)) is not None:
            return Outcome("ERROR", law.id, f"{shown}: {reason}{note}")
        trial = try_stored(law, subject, stored.case)
    except LawBroken as broken:
        return Outcome("FAILED", law.id, explain(law, subject, stored.case, broken, path) + note, _finite(broken.ratio))
    except MissingValue as missing:
        return Outcome("ERROR", law.id, f"{shown}: {law.id} now reads {missing.value}: {missing}{note}")
    except Exception as error:  # a case that the law cannot digest is a harness error, not a verdict
        return Outcome(
            "ERROR", law.id, f"the law could not be tried: {type(error).__name__}: {message_of(error)}{note}"
        )
    if not trial.claims and law.kind != "contract":
        return Outcome("ERROR", law.id, f"{law.id} claims nothing at this case: every bound is infinite there{note}")
    said = f"{implementation.name} satisfies {law.id} for this case (ratio {trial.worst:.3g}){note}"
    return Outcome("FIXED", law.id, said, trial.worst)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
