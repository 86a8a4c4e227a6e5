"""The laws on every published implementation, and the page of what came of it.

The page is written after every implementation and says while it is unfinished; what a run that was stopped has found,
`--reuse` does not run again.

Exit 0: every law held or failed as known; 1: a law failed that is not known, or a known failure is fixed; 3: an adapter
could not be run, or the harness failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from properties.commands.conformance_table import NOT_YET, Run, explanation, page, read, run, today, versions
from properties.engine.known import PUBLISHED, Known, KnownError, load, write
from properties.guards.printable import message_of, printable
from properties.guards.whole import unwritable, write_whole
from properties.report.report import Line
from properties.targets.published import ADAPTERS


def unexplained(line: Line, entries: Sequence[Known]) -> bool:
    """Whether something went wrong that is not known."""
    return line.status in ("failed", "error", "known") and explanation(line, entries) is None


def main(words: list[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m properties.commands.conformance_run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones; all: {', '.join(ADAPTERS)}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page; stdout if left out")
    parser.add_argument("--report", type=Path, metavar="DIR", default=Path(".mhc-properties/published"))
    parser.add_argument("--known", type=Path, metavar="FILE", default=PUBLISHED, help="known failures (default: ours)")
    parser.add_argument("--search", action="store_true", help="search where a failure is known, too")
    parser.add_argument("--reuse", action="store_true", help="run nothing of which there is a report in DIR")
    parser.add_argument("--write-known", action="store_true", help="store what fails (with --search: found again)")
    parser.add_argument("--hypothesis-profile", dest="profile", default="ci", choices=("dev", "ci", "thorough"))
    parser.add_argument("--hypothesis-seed", dest="seed", type=int, metavar="N")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="implementations at a time (default: 1)")
    given = parser.parse_args(words)
    strange = [name for name in given.names if name not in ADAPTERS]
    if strange:
        parser.error(f"there is no published implementation {strange[0]!r}; the names are {', '.join(ADAPTERS)}")
    if given.jobs < 1:
        parser.error(f"--jobs {given.jobs}: expected 1 or more")
    names = given.names or list(ADAPTERS)
    # What could not be written in the end is refused before an hour of work, not after it.
    places = {"--report": given.report, **({"--out": given.out.absolute().parent} if given.out else {})}
    if given.write_known:
        places["--known"] = given.known.absolute().parent
    for option, place in places.items():
        if (why := unwritable(place)) is not None:
            parser.error(f"{option} {printable(str(place), 200)}: expected a folder that can be written: {why}")
    if given.out and given.out.is_dir():
        parser.error(f"--out {printable(str(given.out), 200)}: expected the name of a file; this is a folder")
    try:
        entries = load(given.known) if given.known.exists() or not given.write_known else []
    except KnownError as error:
        parser.error(f"--known {message_of(error)}")
    known = given.known if entries and not given.search else None
    packages = versions([ADAPTERS[name][0] for name in names])
    runs = {name: Run(name, (), NOT_YET) for name in names}

    def examined(name: str) -> tuple[Run, float]:
        started = time.monotonic()
        report = (given.report / name).absolute()
        found = read(name, report) if given.reuse else Run(name, ())
        if found.trouble or not found.lines:
            found = run(name, report, known=known, profile=given.profile, seed=given.seed)
        return found, time.monotonic() - started

    def show() -> None:
        text = page(list(runs.values()), entries, packages, today(), given.profile)
        if given.out:
            write_whole(given.out, text.encode())
        elif all(one.trouble != NOT_YET for one in runs.values()):
            print(text)

    pool = ThreadPoolExecutor(given.jobs)
    try:
        for done in as_completed([pool.submit(examined, name) for name in names]):
            found, seconds = done.result()
            runs[found.name] = found
            bad = sum(unexplained(line, entries) for line in found.lines)
            said = found.trouble or f"{len(found.lines)} verdicts, {bad} not as known"
            print(f"{found.name}: {said} ({seconds:.0f} s)", file=sys.stderr, flush=True)
            show()
    finally:
        pool.shutdown(cancel_futures=True)  # who interrupts this does not want the rest begun
    lines = [line for one in runs.values() for line in one.lines]
    if given.write_known:
        entries = write(given.known, lines, keep=entries)
        print(f"{len(entries)} known failures: {given.known}", file=sys.stderr)
        show()
    if any(line.status != "error" and unexplained(line, entries) for line in lines):
        return 1
    return 3 if any(one.trouble for one in runs.values()) or any(line.status == "error" for line in lines) else 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except Exception:  # Python's own exit status of a traceback is 1, which is a verdict here
        traceback.print_exc()
        status = 3
    sys.exit(status)
