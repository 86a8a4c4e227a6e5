"""The file of known failures (`properties.engine.known`): read, checked and written, without running anything.

What stands in it is data of somebody who may be a stranger: sizes are limited, and every mistake is said in a sentence.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from properties.engine.known_text import identity, renewed
from properties.guards.printable import message_of, printable
from properties.guards.whole import unwritable, write_whole
from properties.report.report import Line

if TYPE_CHECKING:
    from properties.engine.subject import Verdict

PUBLISHED = Path(__file__).parents[1] / "targets" / "published" / "known.toml"
"""The known failures of published implementations, explained in docs/findings.md; `--known published` names them."""

_REQUIRED = ("law", "implementation", "reason", "counterexample")
_OPTIONAL = ("link", "dtype", "device")


SCHEMA = 1
"""The number of the form of the file; one without a number is read as this one."""
_MOST = 16 << 20
"""Bytes of a file that is read: some fifty thousand entries."""


class KnownError(Exception):
    """A file of known failures that cannot be read; the message names the entry and what is wrong with it."""


@dataclass(frozen=True)
class Known:
    """One entry.

    Attributes:
        law, implementation: what fails; the implementation by the name that it has in reports.
        reason: why, in a sentence; link: where that was reported.
        counterexample: the stored case, an absolute path.
        dtype, device: which runs it is about; None for all.
        origin: the file and the number of the entry in it.
    """

    law: str
    implementation: str
    reason: str
    counterexample: Path
    link: str = ""
    dtype: str | None = None
    device: str | None = None
    origin: str = ""

    def covers(self, law: str, implementation: str, dtype: str, device: str) -> bool:
        """Whether the entry is about this law in this run."""
        return (
            (self.law, self.implementation) == (law, implementation)
            and self.dtype in (None, dtype)
            and self.device in (None, device)
        )


def located(named: str) -> Path:
    """The file that `--known` names: "published" stands for the one that comes with this package."""
    return PUBLISHED if named == "published" and not Path(named).exists() else Path(named)


def load(path: Path) -> list[Known]:
    """The entries of a file, in its order. Counterexamples are looked at when they are needed, see `verdict_for`.

    Raises:
        KnownError: no such file, no TOML, an entry with a field that is missing or unknown, or one that is there twice.
    """
    shown = printable(str(path), 200)
    try:
        if path.exists() and not path.is_file():
            raise KnownError(f"{shown} is no file; expected one in TOML")
        size = path.stat().st_size
        if size > _MOST:
            raise KnownError(f"{shown} has {size} bytes; a file of known failures has at most {_MOST}")
        found = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        raise KnownError(f"there is no file {shown}") from error
    except OSError as error:
        raise KnownError(f"{shown} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, numbers or nesting beyond what Python reads
        raise KnownError(f"{shown} is not TOML: {message_of(error, 300)}") from error
    schema = found.pop("schema", SCHEMA)
    if isinstance(schema, bool) or not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        given = printable(repr(schema), 60)
        raise KnownError(f"{shown} has the schema {given}; this version reads {SCHEMA}, or a file without a number")
    strange = [printable(name, 60) for name in sorted(set(found) - {"known"})][:10]
    listed: Any = found.get("known", [])
    if strange or not isinstance(listed, list):
        raise KnownError(
            f"{shown} has {', '.join(strange) or 'known = ...'}; expected [[known]] entries and nothing else"
        )
    entries = [_entry(fields, path, number) for number, fields in enumerate(listed, 1)]
    seen: dict[tuple[str, str], list[Known]] = {}
    for entry in entries:
        others = seen.setdefault((entry.law, entry.implementation), [])
        for other in others:
            if _overlap(entry, other):
                law = printable(entry.law, 200)
                raise KnownError(f"{entry.origin} is about the same runs of {law} as {other.origin}")
        others.append(entry)
    return entries


def load_to_write(given: str) -> list[Known]:
    """The entries so far of a file that is to be written; none where there is no such file yet.

    Raises:
        KnownError: it cannot be read, or it or the folder of its counterexamples could not be written.
    """
    if not given or "\0" in given:
        raise KnownError(f"{printable(repr(given), 60)}: expected the name of a file")
    path, shown = Path(given), printable(given, 200)
    if not path.suffix:
        raise KnownError(
            f"{shown}: expected a name with an ending, such as {shown}.toml: beside it goes a folder {shown}"
        )
    try:
        there = path.exists()
    except OSError as error:
        raise KnownError(f"{shown} cannot be written: {error.strerror or error}") from None
    entries = load(path) if there else []
    if (why := unwritable(path.absolute().parent)) is not None:
        raise KnownError(f"{shown} cannot be written: {why}")
    folder = path.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise KnownError(f"{shown} cannot be written: counterexamples go to the folder {folder.name}, which is a file")
    return entries


def _entry(fields: Any, path: Path, number: int) -> Known:
    origin = f"{printable(path.name, 200)}, entry {number}"
    if not isinstance(fields, dict):
        raise KnownError(f"{origin} is {printable(repr(fields), 200)}; expected a table")
    missing = [name for name in _REQUIRED if name not in fields]
    strange = [printable(str(name), 60) for name in fields if name not in _REQUIRED + _OPTIONAL][:10]
    wrong = [str(name) for name, value in fields.items() if not isinstance(value, str)]
    if missing or strange or wrong:
        parts = [("lacks", missing), ("has the unknown field", strange), ("has something else than a string as", wrong)]
        raise KnownError(f"{origin} " + " and ".join(f"{what} {', '.join(names)}" for what, names in parts if names))
    empty = [str(name) for name in _REQUIRED if not fields[name]]
    if empty or "\0" in fields["counterexample"]:
        raise KnownError(f"{origin} has nothing usable as {', '.join(empty) or 'counterexample'}")
    plain: dict[str, str] = {str(name): str(value) for name, value in fields.items()}
    counterexample = (path.parent / plain.pop("counterexample")).absolute()
    return Known(**plain, counterexample=counterexample, origin=origin)


def _overlap(one: Known, other: Known) -> bool:
    return (
        (one.law, one.implementation) == (other.law, other.implementation)
        and (one.dtype == other.dtype or None in (one.dtype, other.dtype))
        and (one.device == other.device or None in (one.device, other.device))
    )


# -- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, verdicts: Iterable[Verdict | Line], keep: Sequence[Known] = ()) -> list[Known]:
    """Write the failures of a run as known, with their counterexamples in a folder of the same name beside the file.

    `keep` are the entries so far: the reason and link of one that fails again are kept, one that the run found fixed
    is dropped, and one that was not in the run stays. Their order and the comments in the file stay; a new entry comes
    before the first that is greater. Returns what was written. A failure without a counterexample, such as a known one
    that was fixed, is not written.

    Raises:
        OSError: something could not be written; the file itself is then as it was.
    """
    lines = [one if isinstance(one, Line) else _line(one) for one in verdicts]
    folder = path.with_suffix("")
    found: list[tuple[Known, Known | None]] = []  # each with the entry that it takes the place of
    for line in lines:
        if line.status not in ("failed", "known") or line.counterexample is None:
            continue
        old = next((k for k in keep if k.covers(line.law, line.implementation, line.dtype, line.device)), None)
        if old is not None and line.status == "known":
            if (old, old) not in found:
                found.append((old, old))
            continue
        source = Path(line.counterexample)
        target = folder / source.name
        if source.resolve() != target.resolve():
            write_whole(target, source.read_bytes())
        reason, link = (old.reason, old.link) if old is not None else (line.reason, "")
        new = Known(line.law, line.implementation, reason, target.absolute(), link, line.dtype, line.device)
        found.append((new, None if any(old == before for _, before in found) else old))
    tried = [(line.law, line.implementation, line.dtype, line.device) for line in lines if line.status != "error"]
    found += [(one, one) for one in keep if (one, one) not in found and not any(one.covers(*run) for run in tried)]
    ordered = sorted((pair for pair in found if pair[1] is not None), key=lambda pair: keep.index(pair[1]))
    for new in sorted((pair for pair in found if pair[1] is None), key=_order):
        place = next((k for k, pair in enumerate(ordered) if _order(pair) > _order(new)), len(ordered))
        ordered.insert(place, new)
    before = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    entries = [(_fields(new, path.parent), old and identity(vars(old))) for new, old in ordered]
    write_whole(path, renewed(before, SCHEMA, entries).encode())
    return [new for new, _ in ordered]


def _order(pair: tuple[Known, Known | None]) -> tuple[str, str, str, str]:
    entry = pair[0]
    return entry.implementation, entry.law, entry.dtype or "", entry.device or ""


def _line(verdict: Verdict) -> Line:
    subject, path = verdict.subject, verdict.counterexample
    return Line(
        subject.implementation.name,
        {},
        subject.dtype_name,
        subject.device.type,
        verdict.law,
        verdict.status,
        verdict.reason,
        counterexample=str(path) if path else None,
    )


def _fields(entry: Known, base: Path) -> dict[str, str]:
    """What stands in the file, in this order; what is left out does not."""
    relative = os.path.relpath(entry.counterexample, base.absolute()).replace(os.sep, "/")
    fields = {
        "law": entry.law,
        "implementation": entry.implementation,
        "dtype": entry.dtype,
        "device": entry.device,
        "reason": entry.reason,
        "link": entry.link,
        "counterexample": relative,
    }
    return {name: value for name, value in fields.items() if value}
