"""`mhc-properties identify TARGET`: which hyper-connections is this, and what is wrong with it?

Exit codes: 0 a dialect, with or without named slips, explains it; 1 nothing does; 2 the target could not be used.
"""

from __future__ import annotations

import json
import sys

from properties.device import device_of
from properties.diagnosis.identification import identify
from properties.implementation import Projection
from properties.target import TargetError, preset, resolve


def identify_command(
    target: str, dialect: str | None = None, as_json: bool = False, *, device: str = "cpu", seconds: float = 20.0
) -> int:
    """Identify a target and print what was found: text, or one JSON object on one line after the text on stderr.

    `dialect` is the preset to compare with, instead of the declared one; a plain function declares none, and is
    compared with the nearest preset if none is given.
    """
    try:
        implementation = resolve(target, dialect or "PAPER")
        if (missing := device_of(device).missing()) is not None:
            raise TargetError(f"--device {device}: there is {missing} here")
        declared = dialect is not None or not isinstance(implementation, Projection)
        against = preset(dialect) if dialect is not None else None
        found = identify(implementation, declared=declared, against=against, device=device, seconds=seconds)
    except TargetError as error:
        print(f"identify: {error}", file=sys.stderr)
        return 2
    print(found.to_text(), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(found.to_json(), allow_nan=False))
    return 0 if found.explained else 1
