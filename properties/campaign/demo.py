"""`make campaign-demo`: 200 cells, a process killed, the campaign stopped, resumed and reported."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import psutil

from properties.campaign import summary
from properties.campaign.engines import engine
from properties.campaign.folder import Folder
from properties.campaign.kinds import cells
from properties.campaign.running import Run

CELLS, KILL, STOP = 200, 40, 100


def main() -> int:
    """Show it. 0 where every cell that does not end its process has one answer."""
    folder = Folder(Path(tempfile.mkdtemp(prefix="mhc-campaign-")) / "demo")
    folder.ask(cells("demo", {}, {"seeds": CELLS, "only": ["segfault", "find"]}))
    print(
        f"{CELLS} cells are asked for; the first one ends the process that answers it, three times: what Python prints"
    )
    print(f'of a "Segmentation fault" below is meant. Folder: {folder.path}')
    answers = 0

    def say(line: str) -> None:
        nonlocal answers
        answers += " of " in line
        if answers == KILL:
            killed = next(
                one for one in psutil.Process().children(recursive=True) if "popen_loky" in " ".join(one.cmdline())
            )
            killed.kill()
            print(f"after {KILL} answers the process {killed.pid} of the engine is killed")
            answers += 1
        if answers == STOP:
            print(f"after {STOP} answers the campaign is stopped")
            raise KeyboardInterrupt

    first = Run(folder, lambda: engine("processes:2", folder.path), say=say).go()
    print(f"stopped: {first.answered} of {first.asked} cells are answered")
    second = Run(folder, lambda: engine("processes:2", folder.path)).go()
    print(f"resumed: {second.answered} of {second.asked} cells are answered, {second.new} of them now")
    print(summary.status_text(summary.status(folder)))
    print(summary.report(folder)[0])
    print(summary.simulation_text(summary.simulated(folder)))
    return 0 if (second.answered, second.quarantined) == (CELLS - 1, 1) else 1


if __name__ == "__main__":
    sys.exit(main())
