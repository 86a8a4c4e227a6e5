"""Cells of a moment, to try an engine with; some of them misbehave on purpose."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind


def questions(seeds: int = 200, only: Sequence[str] = ()) -> Iterator[Question]:
    """Numbers to square; `only` names what the first ones do instead: `segfault`, `hang`, `raise` or `find`."""
    if strange := [one for one in only if one not in _DOES]:
        raise ValueError(f"a cell of the demo does not {strange[0]!r}; expected some of {', '.join(_DOES)}")
    for number in range(seeds):
        yield {"number": number, "does": only[number] if number < len(only) else "square", "seconds": 0.05}


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """{square}."""
    time.sleep(question["seconds"])
    (_DOES[question["does"]])(folder)
    return {"square": question["number"] ** 2}


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """Their sum."""
    return f"demo: {len(records)} squares, their sum is {sum(one['answer']['square'] for one in records)}", False


def cost(question: Question) -> float:
    """What it sleeps."""
    return question["seconds"]


def _square(folder: Path) -> None:
    """Nothing besides."""


def _segfault(folder: Path) -> None:
    (folder / "before-the-end.txt").write_text("a counterexample that was found before the process died")
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang(folder: Path) -> None:
    time.sleep(3600)


def _raise(folder: Path) -> None:
    raise RuntimeError("a fault of the harness")


def _find(folder: Path) -> None:
    (folder / "found.txt").write_text("a counterexample")


_DOES = {"square": _square, "segfault": _segfault, "hang": _hang, "raise": _raise, "find": _find}

KIND = Kind(frozenset({"seeds", "only"}), questions, answer, told, cost)
