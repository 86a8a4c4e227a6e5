"""`mhc-properties identify TARGET`: which hyper-connections is this, and what is wrong with it?

Exit codes: 0 a dialect, with or without named slips, explains it; 1 nothing does, or
it raises where nothing here does; 2 there is no verdict: the target
could not be used, or it crashed, hung or left while it was asked, or the search failed in our own code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from mhc_ref import PRESETS
from properties.core.device import device_of
from properties.core.implementation import Implementation
from properties.diagnosis.diagnose import NoVerdict, identify
from properties.diagnosis.sums import sums_of
from properties.guards.answer import refusal, tell
from properties.guards.faults import described, placed
from properties.guards.progress import progress
from properties.targets.isolation import isolated
from properties.targets.target import TargetError, preset, resolve


def identify_command(
    target: str,
    dialect: str | None = None,
    as_json: bool = False,
    *,
    device: str = "cpu",
    seconds: float = 20.0,
    isolate: bool = False,
) -> int:
    """Identify a target and print what was found: text, or one JSON object on one line after the text on stderr.

    `dialect` is the preset to compare with, instead of the declared one; a plain function declares none, and is
    compared with the nearest preset if none is given.
    """
    try:
        against = preset(dialect) if dialect is not None else None
        implementation, declared = _found(target, dialect, isolated if isolate else resolve)
        if (missing := device_of(device).missing()) is not None:
            raise TargetError(f"--device {device}: there is {missing} here")
        with progress("identify") as line:
            found = identify(
                implementation, declared=declared, against=against, device=device, seconds=seconds, progress=line.say
            )
            found = replace(found, sums=sums_of(implementation, found.gated, device))
    except (TargetError, NoVerdict) as error:
        return _none(str(error), as_json)
    except Exception as error:  # whatever the target raises is an answer, so this is ours
        told = f"{described(error)}{placed(error)}"
        return _none(f"failed in our own code, which says nothing of {target}: {told}", as_json)
    print(found.to_text(), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        tell(found.to_json())
    return 0 if found.explained and not found.raised else 1


def _none(sentence: str, as_json: bool) -> int:
    """The exit status where there is no verdict, and why."""
    print(f"identify: {sentence}", file=sys.stderr)
    if as_json:
        tell(refusal(sentence))
    return 2


def _found(
    target: str, dialect: str | None, make: Callable[[str, str | None], Implementation]
) -> tuple[Implementation, bool]:
    """The implementation, and whether a dialect is declared for it: a plain function declares none."""
    if dialect is not None:
        return make(target, dialect), True
    try:
        return make(target, None), True
    except TargetError:  # a plain function, or nothing that can be used: then this says so again
        return make(target, PRESETS.first), False
