"""Known failures: a TOML file of what is known to fail, each entry with the counterexample that proves it.

    [[known]]
    law = "manifold.last-axis-sums"
    implementation = "somebody-elses-kernel"
    dtype = "float32"                               # left out: every dtype, with the file tried in the dtype it holds
    device = "cpu"                                  # left out: every device
    reason = "stops when the largest sum is within 1e-3 of 1"
    link = "https://example.org/issues/12"
    counterexample = "known/last-axis-sums.safetensors"   # relative to the TOML file

A known failure replays that file instead of searching: the same on every run, in one call, and strict. When the law
holds for the stored case the entry must go. What cannot be tried, because the law was renamed or the file is lost or
no longer fits the law, is an error of the harness and never a silent pass.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from properties.case import MissingValue
from properties.counterexample import Counterexample, CounterexampleError
from properties.law import all_laws
from properties.report import Line
from properties.runner import HarnessError, Status, Subject, Verdict, explain, try_case
from properties.trial import LawBroken
from properties.trust import replay_line

PUBLISHED = Path(__file__).parent / "published" / "known.toml"
"""The known failures of published implementations, explained in docs/findings.md; `--known published` names them."""

_REQUIRED = ("law", "implementation", "reason", "counterexample")
_OPTIONAL = ("link", "dtype", "device")


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
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise KnownError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KnownError(f"{path} is not TOML: {error}") from error
    strange = sorted(set(found) - {"known"})
    listed: Any = found.get("known", [])
    if strange or not isinstance(listed, list):
        raise KnownError(
            f"{path} has {', '.join(strange) or 'known = ...'}; expected [[known]] entries and nothing else"
        )
    entries = [_entry(fields, path, number) for number, fields in enumerate(listed, 1)]
    for number, entry in enumerate(entries):
        for other in entries[:number]:
            if _overlap(entry, other):
                raise KnownError(f"{entry.origin} is about the same runs of {entry.law} as {other.origin}")
    return entries


def _entry(fields: Any, path: Path, number: int) -> Known:
    origin = f"{path.name}, entry {number}"
    if not isinstance(fields, dict):
        raise KnownError(f"{origin} is {fields!r}; expected a table")
    missing = [name for name in _REQUIRED if name not in fields]
    strange = [str(name) for name in fields if name not in _REQUIRED + _OPTIONAL]
    wrong = [str(name) for name, value in fields.items() if not isinstance(value, str)]
    if missing or strange or wrong:
        parts = [("lacks", missing), ("has the unknown field", strange), ("has something else than a string as", wrong)]
        raise KnownError(f"{origin} " + " and ".join(f"{what} {', '.join(names)}" for what, names in parts if names))
    plain: dict[str, str] = {str(name): str(value) for name, value in fields.items()}
    counterexample = (path.parent / plain.pop("counterexample")).absolute()
    return Known(**plain, counterexample=counterexample, origin=origin)


def _overlap(one: Known, other: Known) -> bool:
    return (
        (one.law, one.implementation) == (other.law, other.implementation)
        and (one.dtype == other.dtype or None in (one.dtype, other.dtype))
        and (one.device == other.device or None in (one.device, other.device))
    )


def entry_for(entries: Iterable[Known], law: str, subject: Subject) -> Known | None:
    """The entry about this law on this subject, if there is one."""
    name, dtype, device = subject.implementation.name, subject.dtype_name, subject.device.type
    return next((entry for entry in entries if entry.covers(law, name, dtype, device)), None)


def verdict_for(known: Known, subject: Subject) -> Verdict:
    """Replay the stored case, and nothing else.

    status ``known``: it still fails, with the entry's reason; ``failed``: it does not, and the entry must go;
    ``error``: that could not be found out.
    """

    def verdict(status: Status, reason: str, ratio: float = 0.0, message: str = "") -> Verdict:
        path = known.counterexample if status == "known" else None
        return Verdict(known.law, subject, status, reason, int(status != "error"), ratio, path, message)

    law = all_laws().get(known.law)
    if law is None:
        return verdict("error", _renamed(known))
    try:
        stored = Counterexample.load(known.counterexample)
    except CounterexampleError as error:
        return verdict("error", f"{known.origin}: {error}")
    if stored.law != known.law:
        return verdict("error", f"{known.origin} is about {known.law}, its counterexample about {stored.law}")
    # The case was drawn for one dtype; an entry without one vouches with it for the others.
    tried = Subject(
        subject.target, subject.implementation, getattr(torch, stored.dtype), subject.device, subject.dialect_option
    )
    inapplicable = law.inapplicable(subject.implementation, tried.dtype, tried.device)
    if inapplicable:
        reason = f"fixed: remove this entry ({known.origin}): {known.law} does not apply any more: {inapplicable}"
        return verdict("failed", reason, message=reason)
    case = stored.case
    try:
        ratio = try_case(law, tried, case).worst
    except LawBroken as broken:
        because = known.reason + (f" ({known.link})" if known.link else "")
        return verdict("known", because, broken.ratio, explain(law, tried, case, broken, known.counterexample))
    except MissingValue as error:
        return verdict("error", _outgrown(known, error))
    except HarnessError as error:
        return verdict("error", f"{known.origin}: {error}")
    except Exception as error:  # a case that the law cannot digest is a harness error, not a verdict
        return verdict("error", f"{known.origin}: {known.law} could not be tried: {type(error).__name__}: {error}")
    reason = f"fixed: remove this entry ({known.origin})"
    return verdict(
        "failed",
        reason,
        ratio,
        f"{subject.implementation.name} satisfies {known.law} for the case of a known failure (ratio {ratio:.3g})\n"
        f"  {reason}\n  it said: {known.reason}\n  replay: {replay_line(known.counterexample, subject.target)}",
    )


def _outgrown(known: Known, missing: MissingValue) -> str:
    return (
        f"{known.origin}: {known.law} now reads {missing.value}, which its counterexample does not have: "
        "find it again with --write-known"
    )


def _renamed(known: Known) -> str:
    import difflib

    near = difflib.get_close_matches(known.law, all_laws(), 1)
    return f"{known.origin}: there is no law {known.law!r}" + (f"; was it renamed to {near[0]!r}?" if near else "")


@dataclass(frozen=True)
class Orphan:
    """An entry that no run has tried. `error`: the harness's, so the run may not exit 0."""

    known: Known
    message: str
    error: bool


def orphans(entries: Iterable[Known], lines: Iterable[Line]) -> list[Orphan]:
    """The entries that nothing in a report answers: there is no such law, or no such implementation in the run."""
    seen = list(lines)
    found: list[Orphan] = []
    for entry in entries:
        if entry.law not in all_laws():
            found.append(Orphan(entry, _renamed(entry), error=True))
        elif not any(line.implementation == entry.implementation for line in seen):
            message = f"{entry.origin}: {entry.implementation} was not in this run, so {entry.law} was not tried"
            found.append(Orphan(entry, message, error=False))
        elif not any(entry.covers(line.law, line.implementation, line.dtype, line.device) for line in seen):
            where = " ".join(part for part in (entry.dtype, entry.device) if part)
            message = f"{entry.origin}: {entry.law} of {entry.implementation} {where} was not in this run".replace(
                "  ", " "
            )
            found.append(Orphan(entry, message, error=False))
    return found


# -- writing ----------------------------------------------------------------------------------------------------------


def lines_of(report: dict[str, Any]) -> list[Line]:
    """The lines of a report.json."""
    return [
        Line(run["implementation"], run["dialect"], run["dtype"], run["device"], law, **entry)
        for run in report["runs"]
        for law, entry in run["laws"].items()
    ]


def write(path: Path, verdicts: Iterable[Verdict | Line], keep: Sequence[Known] = ()) -> list[Known]:
    """Write the failures of a run as known, with their counterexamples in a folder of the same name beside the file.

    `keep` are the entries so far: the reason and link of one that fails again are kept, one that the run found fixed
    is dropped, and one that was not in the run stays. Returns what was written. A failure without a counterexample,
    such as a known one that was fixed, is not written.
    """
    lines = [one if isinstance(one, Line) else _line(one) for one in verdicts]
    folder = path.with_suffix("")
    found: list[Known] = []
    for line in lines:
        if line.status not in ("failed", "known") or line.counterexample is None:
            continue
        old = next((k for k in keep if k.covers(line.law, line.implementation, line.dtype, line.device)), None)
        if old is not None and line.status == "known":
            if old not in found:
                found.append(old)
            continue
        source = Path(line.counterexample)
        target = folder / source.name
        if source.resolve() != target.resolve():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        reason, link = (old.reason, old.link) if old is not None else (line.reason, "")
        found.append(Known(line.law, line.implementation, reason, target.absolute(), link, line.dtype, line.device))
    tried = [(line.law, line.implementation, line.dtype, line.device) for line in lines if line.status != "error"]
    found += [entry for entry in keep if entry not in found and not any(entry.covers(*run) for run in tried)]
    found.sort(key=lambda entry: (entry.implementation, entry.law, entry.dtype or "", entry.device or ""))
    _replace(path, "\n".join(_toml(entry, path.parent) for entry in found))
    return found


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


def _toml(entry: Known, base: Path) -> str:
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
    return "[[known]]\n" + "".join(f"{name} = {_quoted(value)}\n" for name, value in fields.items() if value)


def _quoted(text: str) -> str:
    # A JSON string is a basic string of TOML, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(partial).replace(path)
