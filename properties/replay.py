"""Try a stored counterexample again: FIXED, FAILED or ERROR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from properties.case import streams_of
from properties.counterexample import Counterexample, CounterexampleError
from properties.device import device_of
from properties.implementation import Implementation, dtype_names
from properties.isolation import isolated
from properties.law import all_laws
from properties.runner import Subject, explain, try_case
from properties.target import TargetError, resolve
from properties.trial import LawBroken


@dataclass(frozen=True)
class Outcome:
    """FIXED: the law holds for the stored case; FAILED: it does not; ERROR: that could not be found out."""

    status: Literal["FIXED", "FAILED", "ERROR"]
    law: str
    message: str
    ratio: float | None = None


def replay_file(path: Path, target: str | None = None, device: str | None = None, isolate: bool = False) -> Outcome:
    """Load a counterexample and try its case on its own target, or on another one.

    Any trouble that is not the implementation's (no such file, a damaged header, a target that cannot be found, a law
    that this version does not have) is an ERROR with its cause.
    """
    try:
        stored = Counterexample.load(path)
        law = all_laws().get(stored.law)
        if law is None:
            return Outcome("ERROR", stored.law, f"{path} is about law {stored.law!r}, which this version does not have")
        implementation = (isolated if isolate else resolve)(target or stored.target, stored.dialect_option)
    except CounterexampleError as error:
        return _explosion(path) or Outcome("ERROR", "", str(error))
    except TargetError as error:
        return Outcome("ERROR", "", str(error))
    problem = _outside(stored, implementation)
    if problem:
        return Outcome("ERROR", stored.law, f"{path}: {problem}")
    place = torch.device(device or stored.device)
    if (missing := device_of(place).missing()) is not None:
        return Outcome(
            "ERROR",
            stored.law,
            f"{path} was found on {stored.device}; there is {missing} here (--device cpu tries it without)",
        )
    subject = Subject(
        target or stored.target, implementation, getattr(torch, stored.dtype), place, stored.dialect_option
    )
    changed = stored.dialect.difference(implementation.dialect)
    note = f"\n  note: the dialect declared now differs from the stored one in {', '.join(changed)}" if changed else ""
    inapplicable = law.inapplicable(implementation, subject.dtype, place)
    if inapplicable:
        return Outcome("ERROR", law.id, f"{law.id} does not apply to {implementation.name}: {inapplicable}{note}")
    try:
        ratio = try_case(law, subject, stored.case).worst
    except LawBroken as broken:
        return Outcome("FAILED", law.id, explain(law, subject, stored.case, broken, path) + note, _finite(broken.ratio))
    except Exception as error:  # a case that the law cannot digest is a harness error, not a verdict
        return Outcome("ERROR", law.id, f"the law could not be tried: {type(error).__name__}: {error}{note}")
    return Outcome(
        "FIXED", law.id, f"{implementation.name} satisfies {law.id} for this case (ratio {ratio:.3g}){note}", ratio
    )


def _outside(stored: Counterexample, implementation: Implementation) -> str | None:
    """Why the stored case lies outside what the implementation declares; None where it lies inside."""
    if stored.dtype not in dtype_names(implementation):
        return f"the case is in {stored.dtype}; {implementation.name} takes {', '.join(dtype_names(implementation))}"
    n = streams_of(stored.case, stored.dialect)
    if n is not None and n not in implementation.streams:
        return f"the case has n = {n}; {implementation.name} takes n = {', '.join(map(str, implementation.streams))}"
    return None


def _explosion(path: Path) -> Outcome | None:
    """The outcome for a file that `explode` saved; None for any other file."""
    from properties.explosion import ExplosionFileError, replay

    try:
        found = replay(path)
    except ExplosionFileError:
        return None
    return Outcome(found.verdict, "explosion", str(found))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
