"""A step of the parts that ask laws: `python -m properties.campaign.gpu.laws PART --device cuda --out DIR --workers N`.

A campaign of the kind `laws`: every answer is a file of its own, written whole, so that a cut costs the cells that
were open and no more. Asked again in the same folder it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from properties.campaign.engines import EngineLostError, engine
from properties.campaign.folder import Folder
from properties.campaign.gpu.asked import asked
from properties.campaign.running import Run
from properties.guards.answer import HARNESS_ERROR
from properties.guards.whole import write_whole

CELL = 60.0
"""Seconds that a law on a target may take: tens of shapes are compiled."""
LAST = 5.0
"""Seconds before the end in which no cell is begun."""


def main(given: Sequence[str]) -> int:
    """Ask what is missing. 0 where the engine lasted, whatever was answered; otherwise 3."""
    parser = argparse.ArgumentParser(prog="python -m properties.campaign.gpu.laws")
    parser.add_argument("part")
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--workers", type=int, required=True, help="processes; 0: this one")
    parser.add_argument("--giants", action="store_true")
    parser.add_argument("--short", action="store_true")
    words = parser.parse_args(given)
    folder = Folder(words.out)
    cells, absent = asked(words.part, words.device, short=words.short, giants=words.giants)
    write_whole(words.out / "absent.json", json.dumps(absent).encode())
    folder.ask(cells)
    name = f"processes:{words.workers}" if words.workers else "serial"
    run = Run(
        folder,
        lambda: engine(name, folder.path),
        deadline=min(CELL, words.seconds),
        start=CELL,
        budget=max(1.0, words.seconds - LAST),
        say=lambda line: print(line, flush=True),
    )
    try:
        outcome = run.go()
    except EngineLostError as error:
        print(error, file=sys.stderr)
        return HARNESS_ERROR
    print(f"{outcome.answered} of {outcome.asked} cells are answered. {outcome.why}", flush=True)
    return HARNESS_ERROR if outcome.why.startswith("the engine") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
