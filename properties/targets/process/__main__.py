"""python -m properties.targets.process COMMAND: try a server out, step by step. Exit 0: usable; 2: not."""

from __future__ import annotations

import shlex
import sys

from properties.targets.process import Limits, Session, smoke
from properties.targets.target import TargetError


def main(words: list[str]) -> int:
    """The exit status."""
    if not words:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        session = Session(words[0] if len(words) == 1 else shlex.join(words), Limits())
    except TargetError as error:
        print(error, file=sys.stderr)
        return 2
    client, steps = smoke(session)
    for step in steps:
        print(f"{'BROKEN' if step.broken else 'ok':<7}{step.what}: {step.found}")
    session.process.stop()
    return 2 if client is None or any(step.broken for step in steps) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
