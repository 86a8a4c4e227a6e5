"""How a folder of many answers behaves: `python -m properties.campaign.many --cells 100000`.

The answers are written as they stand in a folder, without being computed and without waiting for the disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from properties.campaign import summary
from properties.campaign.cells import Cell, versions
from properties.campaign.engines import Serial
from properties.campaign.folder import SCHEMA, Folder
from properties.campaign.running import Run


def filled(folder: Folder, count: int) -> None:
    """Ask that many cells and answer them."""
    here = versions()
    cells = [Cell("demo", {"number": k, "does": "square", "seconds": 0.0}, here, 0.01) for k in range(count)]
    folder.ask(cells)
    run = {"seconds": 0.01, "cpu_seconds": 0.01, "host": "here", "finished": "2026-01-01T00:00:00+00:00"}
    for one in cells:
        path = folder.path / "results" / one.address[:2] / f"{one.address}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {name: value for name, value in one.to_json().items() if name != "cost"}
        answer = {"square": one.question["number"] ** 2}
        path.write_text(
            json.dumps({"schema": SCHEMA, **told, "status": "answered", "answer": answer, "files": [], "run": run})
        )


def main() -> int:
    """Print what each question to the folder costs."""
    parser = argparse.ArgumentParser(prog="python -m properties.campaign.many", description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    count = parser.parse_args().cells
    with tempfile.TemporaryDirectory(prefix="mhc-many-") as place:
        folder = Folder(Path(place))
        filled(folder, count)
        asked: dict[str, Callable[[], object]] = {
            "status": lambda: summary.status(folder),
            "report": lambda: summary.report(folder),
            "resume": lambda: Run(folder, lambda: Serial(folder.path)).go(),
        }
        for name, question in asked.items():
            began = time.process_time()
            question()
            print(f"{name} of {count} cells: {time.process_time() - began:.1f} s of processor time")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
