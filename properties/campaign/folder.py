"""The folder of a campaign: its manifest, and one file for every answer, each written whole or not at all.

    manifest.json            what is asked: the cells, with what each is expected to cost
    results/AB/ADDRESS.json  the answer to a cell
    files/AB/ADDRESS/        what an answer brought along: counterexamples, reports
    begun/ADDRESS.PID/       files of a cell that is being answered; they stay if its process dies
    deaths/ADDRESS.json      how often a cell ended its process
    seconds.json             what cells of each sort took, for the next estimate

What is missing is what the manifest names and `results` lacks. Two folders merge into their union.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from properties.campaign.cells import Cell
from properties.guards.whole import write_whole

SCHEMA = 1
DEATHS = 3
"""A cell that has ended so many processes, the last of them while nothing else ran there, is asked no more."""

Record = dict[str, Any]
"""{schema, address, kind, question, versions, status, answer, files, run}: `run` is what another run may have
otherwise (seconds, host, time), all else is the same wherever the cell is answered."""


class FolderError(ValueError):
    """A folder or a file in it cannot be used; its text says which, why, and what to do."""


class Folder:
    """What stands in a folder of a campaign. It is made when the first thing is written."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    # The manifest

    def cells(self) -> list[Cell]:
        """The cells of the manifest, none where there is none.

        Raises:
            FolderError: the manifest cannot be read.
        """
        path = self.path / "manifest.json"
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise FolderError(f"{self.path} is a file; expected the folder of a campaign, or one to be made") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise FolderError(f"{path} cannot be read as a manifest: {why}") from None
        if not isinstance(data, dict) or data.get("schema") not in range(1, SCHEMA + 1):
            raise FolderError(
                f"{path}: expected a manifest with a schema up to {SCHEMA}; "
                "another file has that name, or a newer release wrote it"
            )
        try:
            return [Cell.from_json(one) for one in data["cells"]]
        except (KeyError, TypeError, ValueError) as error:
            raise FolderError(f"{path}: a cell cannot be read: {error}") from None

    def ask(self, cells: Iterable[Cell]) -> int:
        """Add cells to the manifest; those that it has stay as they are. Returns how many are new."""
        known = {one.address: one for one in self.cells()}
        before = len(known)
        for one in cells:
            known.setdefault(one.address, one)
        if len(known) > before or not (self.path / "manifest.json").exists():
            text = {"schema": SCHEMA, "cells": [one.to_json() for one in known.values()]}
            write_whole(self.path / "manifest.json", json.dumps(text).encode())
        return len(known) - before

    # Answers

    def answered(self) -> set[str]:
        """The addresses of which there is an answer; nothing is opened."""
        root = self.path / "results"
        found: set[str] = set()
        if root.is_dir():
            for part in os.scandir(root):
                if part.is_dir():
                    found |= {one.name[:-5] for one in os.scandir(part.path) if one.name.endswith(".json")}
        return {one for one in found if not one.startswith(".")}

    def record(self, address: str) -> Record | None:
        """The answer to a cell; None where there is none.

        Raises:
            FolderError: the file cannot be read; it was not written by this package, or damaged afterwards.
        """
        path = self._result(address)
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FolderError(f"{path} cannot be read as an answer: {error}. Remove it to ask again.") from None
        if not isinstance(data, dict) or data.get("address") != address or data.get("schema") not in (1, SCHEMA):
            raise FolderError(f"{path} is no answer to the cell that its name says. Remove it to ask again.")
        return data

    def records(self) -> Iterator[Record]:
        """Every answer, in the order of addresses."""
        for address in sorted(self.answered()):
            found = self.record(address)
            if found is not None:
                yield found

    def files(self, address: str) -> Path:
        """Where the files of an answer are."""
        return self.path / "files" / address[:2] / address

    def keep(self, record: Record, files: dict[str, bytes]) -> bool:
        """Write an answer, its files first; False where there is one already, which stays.

        Raises:
            OSError: the disk is full, or the folder cannot be written; the answer is not there then.
        """
        address = record["address"]
        if self._result(address).exists():
            return False
        for name, data in files.items():
            write_whole(self.files(address) / _inside(name), data)
        write_whole(self._result(address), json.dumps(record, sort_keys=True, indent=1).encode())
        return True

    def _result(self, address: str) -> Path:
        return self.path / "results" / address[:2] / f"{address}.json"

    # What went on while it ran

    def begun(self, address: str) -> Path:
        """A new place for the files of a cell that this process answers now."""
        place = self.path / "begun" / f"{address}.{os.getpid()}"
        place.mkdir(parents=True, exist_ok=True)
        return place

    def left_over(self) -> list[Path]:
        """Files of cells whose process died while it answered: a counterexample may be among them."""
        return sorted(one for one in self.path.glob("begun/*/**/*") if one.is_file() and one.stat().st_size)

    def deaths(self, address: str) -> list[str]:
        """Why and when a cell ended its process, oldest first."""
        try:
            return list(json.loads((self.path / "deaths" / f"{address}.json").read_bytes()))
        except (OSError, ValueError):
            return []

    def died(self, address: str, why: str) -> list[str]:
        """Note that a cell ended its process. Returns all that is noted."""
        found = [*self.deaths(address), why]
        write_whole(self.path / "deaths" / f"{address}.json", json.dumps(found).encode())
        return found

    def quarantined(self) -> set[str]:
        """The cells that are asked no more, see `DEATHS`; `forgive` asks them again."""
        root = self.path / "deaths"
        names = [one.stem for one in root.glob("*.json")] if root.is_dir() else []
        return {one for one in names if len(self.deaths(one)) >= DEATHS} - self.answered()

    def forgive(self) -> None:
        """Forget every death, and every answer that is a fault of the harness: ask those cells again."""
        shutil.rmtree(self.path / "deaths", ignore_errors=True)
        for one in [one for one in self.records() if one["status"] == "error"]:
            self._result(one["address"]).unlink()

    # What cells take

    def seconds(self) -> dict[str, float]:
        """Seconds by sort of cell (`sort_of`): the median of the answers that stand here."""
        try:
            return dict(json.loads((self.path / "seconds.json").read_bytes()))
        except (OSError, ValueError):
            return {}

    def estimate(self) -> dict[str, float]:
        """`seconds`, of the answers that stand here now; written, so that the next manifest knows what is long."""
        import statistics

        taken: dict[str, list[float]] = {}
        for one in self.records():
            for sort in sorts_of(one["kind"], one["question"]):
                taken.setdefault(sort, []).append(one["run"]["seconds"])
        found = {sort: round(statistics.median(all_of_it), 4) for sort, all_of_it in sorted(taken.items())}
        write_whole(self.path / "seconds.json", json.dumps(found).encode())
        return found

    def merge(self, other: Folder) -> tuple[int, int]:
        """Take over what another folder has and this one lacks.

        Returns:
            How many cells and how many answers are new.

        Raises:
            FolderError: the other folder has neither manifest nor answers, or something in it cannot be read.
        """
        cells = other.cells()
        theirs = other.answered()
        if not cells and not theirs:
            raise FolderError(f"{other.path}: expected a folder of a campaign; it has no manifest and no answers")
        asked = self.ask(cells)
        new = 0
        for address in sorted(theirs - self.answered()):
            record = other.record(address)
            if record is not None:
                root = other.files(address)
                files = {name: (root / _inside(name)).read_bytes() for name in record["files"]}
                new += self.keep(record, files)
        for path in (other.path / "deaths").glob("*.json"):
            noted = self.deaths(path.stem)
            for why in other.deaths(path.stem):
                if why not in noted:
                    noted = self.died(path.stem, why)
        for path in other.left_over():
            there = self.path / path.relative_to(other.path)
            if not there.exists():
                write_whole(there, path.read_bytes())
        return asked, new


def sorts_of(kind: str, question: dict[str, Any]) -> list[str]:
    """The sorts by which the cost of a cell is estimated, the narrowest first: what it is about, and its kind."""
    about = next((str(question[key]) for key in ("target", "name", "law", "family") if key in question), "")
    return [f"{kind} {about}", kind] if about else [kind]


def _inside(name: str) -> str:
    """A name of a file below a folder, and nowhere else.

    Raises:
        FolderError: it is absolute, or goes up.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise FolderError(f"{name!r}: expected the name of a file below the folder of its answer")
    return name
