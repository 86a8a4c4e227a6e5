"""Runs the parts one after another, each until its deadline, and writes what became of it before the next one begins.

    run.json             what was asked: where, the plan, the versions, and when it began
    parts/NAME/          what the steps of a part write, with STEP.log
    parts/NAME.json      how the part ended, written whole when it has

A deadline is hard: the process group of every step is killed. The time that a part leaves goes to those behind it, and
where it is short all of them have less (`plan.shares`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from properties.campaign.gpu.plan import LEAST, RESERVE, Command, Part, shares
from properties.guards.child import program
from properties.guards.whole import write_whole

LOOK = 0.05
"""Seconds between two looks at the steps."""
EVEN = 4.0
"""Seconds before its deadline at which a step is asked to end by itself, an eighth of what it has at most."""
STOPPED = "stopped"
"""How a part ended during which somebody stopped the run."""


@dataclass(frozen=True)
class Ended:
    """How a step ended.

    Attributes:
        status: its exit status; None where it was killed.
        seconds: after so many.
        asked: whether it had been asked to end, shortly before the deadline.
    """

    status: int | None
    seconds: float
    asked: bool


class _Step:
    def __init__(self, name: str, command: Command, folder: Path, seconds: float, environment: dict[str, str]) -> None:
        self._even = min(EVEN, seconds / 8)
        given = {"{folder}": str(folder), "{seconds}": f"{seconds - self._even:.1f}"}
        words = [_filled(word, given) for word in command]
        self.name, self._began, self._asked = name, time.monotonic(), False
        self.ended: Ended | None = None
        with (folder / f"{name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                program("properties.campaign.gpu.watch", _command(words)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def look(self, now: float, deadline: float) -> None:
        """Note whether it has ended; kill it after its deadline."""
        status = self._process.poll()
        if status is not None:
            self._end(status)
        elif now >= deadline:
            self.kill()
        elif now >= deadline - self._even and not self._asked:
            self._asked = True
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                os.write(self._process.stdin.fileno(), b"end\n")

    def kill(self) -> None:
        """End it with everything that it has started."""
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._end(None)

    def _end(self, status: int | None) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what the step has left behind
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self.ended = Ended(status, round(time.monotonic() - self._began, 2), self._asked)


def _command(words: list[str]) -> list[str]:
    """A module with the path of this process, whatever stands in the current folder; anything else as it is."""
    return program(words[1], words[2:]) if words[0] == "-m" else [sys.executable, *words]


def _filled(word: str, given: dict[str, str]) -> str:
    for name, value in given.items():
        word = word.replace(name, value)
    return word


def run(
    parts: Sequence[Part], out: Path, end: float, say: Callable[[str], None], *, done: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Run the parts that are not `done` before `end`, a time of `time.monotonic`, and return how each of them ended.

    A part is {name, status, why, limit, seconds, steps: {name: {status, seconds}}}; its status is finished, cut off,
    crashed, not begun or stopped. Crashed outranks cut off. None of these is a verdict on any implementation.

    Raises:
        KeyboardInterrupt: after the part in hand was ended and written.
        OSError: the folder cannot be written.
    """
    finished = set(done)
    ahead = [one for one in parts if one.name not in finished]
    found: list[dict[str, Any]] = []
    while ahead:
        part = ahead[0]
        limit = shares(end - RESERVE / 2 - time.monotonic(), ahead)[0]
        ahead = ahead[1:]
        if part.impossible or limit < min(LEAST, part.seconds / 2):
            why = part.impossible or f"{limit:.0f} s were left of the {part.seconds:.0f} that it has in the plan"
            found.append(_written(out, part, "not begun", why, limit, 0.0, {}))
            say(f"{part.name}: not begun, {why}")
            continue
        say(f"{part.name}: {part.title}, {limit:.0f} s at most")
        found.append(_one(part, out, limit))
        say(f"{part.name}: {found[-1]['status']} after {found[-1]['seconds']:.0f} s. {found[-1]['why']}")
    return found


def _one(part: Part, out: Path, limit: float) -> dict[str, Any]:
    folder = out / "parts" / part.name
    folder.mkdir(parents=True, exist_ok=True)
    (out / "parts" / f"{part.name}.json").unlink(missing_ok=True)  # how it ended before
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **part.environment}
    began = time.monotonic()
    steps: list[_Step] = []
    stopped = False
    try:
        for name, command in part.steps.items():
            steps.append(_Step(name, command, folder, limit, environment))
        while any(one.ended is None for one in steps):
            for one in steps:
                if one.ended is None:
                    one.look(time.monotonic(), began + limit)
            time.sleep(LOOK)
    except KeyboardInterrupt:
        stopped = True
    finally:
        for one in steps:
            one.kill()
    ended = {one.name: one.ended for one in steps if one.ended is not None}
    status, why = _judged(part, ended)
    if stopped:
        status, why = STOPPED, "somebody stopped the run"
    record = _written(out, part, status, why, limit, time.monotonic() - began, ended)
    if stopped:
        raise KeyboardInterrupt
    return record


def _judged(part: Part, ended: dict[str, Ended]) -> tuple[str, str]:
    odd = {name: one for name, one in ended.items() if one.status not in part.fine}
    if crashed := {name: one.status for name, one in odd.items() if one.status is not None and not one.asked}:
        said = ", ".join(f"{name} ended with status {status}" for name, status in crashed.items())
        return "crashed", f"{said}; its log has why"
    if odd:
        return "cut off", f"{', '.join(sorted(odd))} had not ended on the deadline"
    return "finished", ""


def _written(
    out: Path, part: Part, status: str, why: str, limit: float, seconds: float, ended: dict[str, Ended]
) -> dict[str, Any]:
    record: dict[str, Any] = {
        **{"name": part.name, "title": part.title, "status": status, "why": why, "planned": part.seconds},
        **{"limit": round(limit, 1), "seconds": round(seconds, 1)},
        "steps": {name: dataclasses.asdict(one) for name, one in ended.items()},
    }
    write_whole(out / "parts" / f"{part.name}.json", (json.dumps(record, indent=1) + "\n").encode())
    return record
