"""`mhc-properties gpu`: everything that a GPU can show, in nine minutes (`make gpu`).

mhc-properties gpu --out build/gpu                     run all parts
mhc-properties gpu --out build/gpu --resume            what was cut off, in another nine minutes
mhc-properties gpu --out build/gpu --renew docs        run nothing; write docs/gpu.json and the section of docs/gpu.md
mhc-properties gpu --plan                              the time plan
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

import typer

from properties.campaign.cells import sources
from properties.campaign.gpu.gathering import SCHEMA, GatheringError, gathered
from properties.campaign.gpu.page import plan_table, renewed, section
from properties.campaign.gpu.plan import LEAST, MINUTES, RESERVE, Part, Where, parts
from properties.campaign.gpu.running import run
from properties.campaign.gpu.standing import stand_in as checked
from properties.commands.options import refuse
from properties.guards.answer import HARNESS_ERROR, INTERRUPTED, tell
from properties.guards.child import program
from properties.guards.printable import message_of, printable
from properties.guards.whole import unwritable, write_whole

LOOKING = 60.0
"""Seconds within which a driver has to answer."""


def gpu(
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder of the run")] = Path("build/gpu"),
    device: Annotated[str, typer.Option(help="where implementations compute")] = "cuda",
    minutes: Annotated[float, typer.Option(help=f"for all parts, up to {MINUTES:g}")] = MINUTES,
    since: Annotated[
        float | None, typer.Option(metavar="TIME", help="when the minutes began, in seconds since 1970; default: now")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="PART", help="only this part; may be repeated")] = None,
    short: Annotated[bool, typer.Option("--short", help="little of everything, to prove the script")] = False,
    stand_in: Annotated[
        str | None, typer.Option(metavar="FILE:NAME", help="a context manager in the place of the device")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="run the parts that have not ended")] = False,
    renew: Annotated[
        Path | None, typer.Option(metavar="DIR", help="run nothing; write gpu.json and the section of gpu.md there")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="print the time plan, and run nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on the last line of stdout")] = False,
) -> None:
    """Run everything that a GPU can show, ordered by worth, in at most nine minutes.

    Results are written as it goes, so that a cut costs only what was open: gpu.json and gpu.md hold what was found.

    Exit 0: all parts ended and nothing is wrong; 1: something is wrong, which was not known; 2: a mistake in what was
    given, or no such device; 3: a part was cut off, crashed or not begun; 130: stopped by Ctrl-C.
    """
    if os.name != "posix":
        refuse("its parts are process groups, which this system has not", as_json)
    if plan:
        rows = [{"name": one.name, "title": one.title, "seconds": one.seconds} for one in parts(Where())]
        tell({"plan": rows, "reserve": RESERVE}) if as_json else typer.echo("\n".join(plan_table()))
        raise typer.Exit
    if renew is not None:
        _renew(out, renew, as_json)
        return
    began = time.time() if since is None else since
    left = began + 60 * minutes - time.time()
    if not 0 < minutes <= MINUTES:
        refuse(f"--minutes {minutes:g}: expected a number above 0, up to {MINUTES:g}", as_json)
    if not (began <= time.time() + 1 and left >= RESERVE + LEAST):
        refuse(f"--since and --minutes leave {left:.0f} s; expected {RESERVE + LEAST:.0f} at least", as_json)
    end = time.monotonic() + left
    if stand_in is not None:
        try:
            checked(stand_in)
        except (ValueError, ImportError) as error:
            refuse(f"--stand-in {message_of(error)}", as_json)
    here = _described(device, stand_in, as_json)
    where = Where(device, here["cores"], stand_in, short, _checkout())
    chosen = parts(where)
    if strange := [one for one in only or [] if one not in [part.name for part in chosen]]:
        names = ", ".join(part.name for part in chosen)
        refuse(f"--only {printable(strange[0], 60)!r}: there is no such part; expected {names}", as_json)
    chosen = [one for one in chosen if not only or one.name in only]
    if resume and not (out / "run.json").exists():
        refuse(f"--resume: there is no run in {printable(str(out), 200)}", as_json)
    if (why := unwritable(out)) is not None:
        refuse(f"--out {printable(str(out), 200)}: expected a folder that can be written: {why}", as_json)
    done = _begin(out, where, here, chosen, resume, as_json)
    status = _run(chosen, out, end, done)
    _told(out, status, as_json)


def _described(device: str, stand_in: str | None, as_json: bool) -> dict[str, Any]:
    """What `properties.campaign.gpu.probe` says; a device that is not here is refused."""
    module = "properties.campaign.gpu.probe"
    words = [module, device] if stand_in is None else ["properties.campaign.gpu.standing", stand_in, module, device]
    try:
        asked = subprocess.run(
            program(words[0], words[1:]), capture_output=True, text=True, timeout=LOOKING, check=False
        )
    except subprocess.TimeoutExpired:
        refuse(f"--device {device}: its driver does not answer within {LOOKING:.0f} s", as_json)
    lines = asked.stdout.strip().splitlines()
    if asked.returncode or not lines:
        said = asked.stderr.strip().splitlines() or [f"looking at it ended with status {asked.returncode}"]
        refuse(f"--device {printable(device, 60)}: {printable(said[-1], 200)}", as_json)
    found = json.loads(lines[-1])
    if found["missing"] is not None:
        refuse(f"--device {device}: there is {found['missing']} here", as_json)
    return found


def _checkout() -> Path | None:
    root = Path(__file__).parents[3]
    return root if (root / "tests" / "test_cuda.py").is_file() else None


def _begin(out: Path, where: Where, here: dict[str, Any], chosen: list[Part], resume: bool, as_json: bool) -> list[str]:
    """Write run.json; of a run that goes on, the parts that have ended."""
    path, source = out / "run.json", sources()
    asked: dict[str, Any] = {
        **{"schema": SCHEMA, "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")},
        **{"source": source, "short": where.short, "versions": here["versions"]},
        "device": {"type": where.device, **{name: here[name] for name in ("name", "driver", "cores")}},
        "plan": [{"name": one.name, "title": one.title, "seconds": one.seconds} for one in chosen],
    }
    shown = printable(str(out), 200)
    if not path.exists():
        if any(out.iterdir()):
            refuse(f"--out {shown}: there is something in it which is no run; name a folder of its own", as_json)
        write_whole(path, (json.dumps(asked, indent=1) + "\n").encode())
        return []
    try:
        before = gathered(out)
    except GatheringError as error:
        refuse(message_of(error, 300), as_json)
    if not resume:
        refuse(
            f"--out {shown}: it has a run of {before['when']}; go on with it (--resume) or name another folder", as_json
        )
    same = ("source", "short", "versions", "device")
    if other := [name for name in same if before[name] != asked[name]]:
        refuse(f"--resume: the run in {shown} had another {other[0]}; begin a new one in another folder", as_json)
    named = {one["name"] for one in before["plan"]}
    if new := [one.name for one in chosen if one.name not in named]:
        asked["plan"] = [*before["plan"], *(one for one in asked["plan"] if one["name"] in new)]
        write_whole(path, (json.dumps({**asked, "when": before["when"]}, indent=1) + "\n").encode())
    return [one["name"] for one in before["parts"] if one["status"] == "finished"]


@contextlib.contextmanager
def _stoppable() -> Generator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: with what it has found."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(chosen: list[Part], out: Path, end: float, done: list[str]) -> int:
    """0, or 130 where somebody stopped it."""
    try:
        with _stoppable():
            run(chosen, out, end, lambda line: print(line, file=sys.stderr, flush=True), done=done)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _told(out: Path, status: int, as_json: bool) -> None:
    data = gathered(out)
    _write(out, data)
    write_whole(out / "gpu.md", section(data).encode())
    text = [*data["findings"], *data["cut"], f"What was found is in {out / 'gpu.json'} and {out / 'gpu.md'}."]
    for line in text:
        typer.echo(printable(line, 400), err=as_json)
    if as_json:
        tell({"complete": data["complete"], "findings": data["findings"], "cut": data["cut"], "folder": str(out)})
    raise typer.Exit(status or (1 if data["findings"] else 0 if data["complete"] else HARNESS_ERROR))


def _write(folder: Path, data: dict[str, Any]) -> None:
    write_whole(folder / "gpu.json", (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def _renew(out: Path, docs: Path, as_json: bool) -> None:
    page = docs / "gpu.md"
    try:
        data = gathered(out)
        text = renewed(page.read_text(encoding="utf-8"), data)
        if data["short"]:
            raise ValueError(f"{out} has a short run, which says nothing of a device")
        if data["device"]["type"] == "cpu":
            raise ValueError(f"{out} has a run on a CPU, which says nothing of a GPU")
        _write(docs, data)
        write_whole(page, text.encode())
    except (ValueError, OSError) as error:
        refuse(f"--renew {printable(str(docs), 200)}: {message_of(error, 300)}", as_json)
    typer.echo(f"{docs / 'gpu.json'} and {page} are written", err=as_json)
    if as_json:
        tell({"written": [str(docs / "gpu.json"), str(page)]})
