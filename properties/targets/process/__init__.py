"""`proc:COMMAND`: an implementation in another process, in any language, that answers JSON lines.

The protocol is in `properties.targets.process.protocol`, its schema in `schema.json` beside it;
`mhc-properties process COMMAND` tries a server out, and
`python -m properties.targets.process.server TARGET` serves what Python can import.
"""

from __future__ import annotations

import shlex

from properties.core.implementation import Implementation
from properties.guards.printable import printable
from properties.targets.process.client import Session
from properties.targets.process.protocol import Limits
from properties.targets.process.smoke import smoke
from properties.targets.target import TargetError

__all__ = ["Limits", "Session", "build", "smoke"]


def build(command: str, limits: Limits | None = None) -> Implementation:
    """The implementation that `command` serves.

    Raises:
        TargetError: it does not start, ends at once, or answers a trivial input with something that is not in the
            protocol. A wrong value, an error or a crash of the implementation is no such thing: the laws report it.
    """
    session = Session(command, limits or Limits())
    client, steps = smoke(session)
    broken = [step for step in steps if step.broken]
    if client is None or broken:
        session.process.stop()
        found = "; ".join(f"{step.what}: {step.found}" for step in broken)
        raise TargetError(
            f"proc:{printable(command)}: the server is broken, which says nothing about what it computes: {found} "
            f"(try it with: mhc-properties process {printable(shlex.quote(command))})"
        )
    return client
