"""`mhc-properties campaign`: what runs for hours, on any number of machines, and goes on where it stopped.

mhc-properties campaign run seeds --seeds 6 --out c
mhc-properties campaign run laws --impl mine.py:Mine --seeds 100 --out c --engine dask://10.0.0.1:8786
mhc-properties campaign status --out c
mhc-properties campaign resume --out c --budget 2h
mhc-properties campaign merge OTHER... --out c
mhc-properties campaign report --out c
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from properties.campaign import summary
from properties.campaign.cells import Question, digest
from properties.campaign.engine_names import EngineLostError, check, usual
from properties.campaign.engines import engine
from properties.campaign.folder import Folder, Record
from properties.campaign.kinds import KINDS, cell_of, cells
from properties.campaign.running import DEADLINE, Outcome, Run
from properties.commands.options import Device, JsonOption, refuse
from properties.guards.answer import HARNESS_ERROR, INTERRUPTED, tell
from properties.guards.printable import message_of


class Do(StrEnum):
    """What is done."""

    RUN = "run"
    RESUME = "resume"
    STATUS = "status"
    MERGE = "merge"
    REPORT = "report"
    SIMULATE = "simulate"


EngineOption = Annotated[str, typer.Option("--engine", help="serial, processes[:N], dask://HOST:PORT or slurm[:N]")]
UsualEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="serial, processes[:N], dask://HOST:PORT or slurm[:N]; processes, or serial where loky is not installed",
        show_default=False,
    ),
]
"""Of a command that works without an extra."""
BudgetOption = Annotated[str, typer.Option(metavar="TIME", help="begin no cell after it: 90, 30m, 2h; 0: no limit")]


Told = Callable[[Sequence[Record], Path], tuple[str, int]]
"""The answers, and the folder of their campaign -> what they come to, and the status to end with if not 0."""


def carry_out(
    kind: str,
    questions: Iterable[Question],
    home: Path,
    engine_name: str,
    budget: str,
    told: Told | None = None,
) -> NoReturn:
    """Ask the questions of one kind, for a command that is a campaign.

    The campaign has a folder in `home` that is named by what is asked: the same command goes on where it stopped, and
    what it has answered already is not asked again.

    Arguments:
        told: what the answers come to; by default what the kind says.

    Raises:
        typer.Exit: with the status of `campaign run`.
    """
    try:
        _checked(engine_name or usual(), budget)
        asked = [cell_of(kind, one, {}) for one in questions]
        folder = Folder(home / digest([one.address for one in asked])[:12])
        new = folder.ask(asked)
        typer.echo(f"{len(asked)} cells, {new} of them new: {folder.path}", err=True)
        _run(folder, engine_name or usual(), _span(budget), DEADLINE, again=False, as_json=False, told=told)
    except (EngineLostError, ValueError) as error:
        _mistake(message_of(error, 500), as_json=False)
    except OSError as error:
        _mistake(f"{home}: {message_of(error, 300)}", as_json=False)


def campaign(
    do: Annotated[Do, typer.Argument(help="run KIND, resume, status, merge OTHER..., report, simulate", metavar="DO")],
    what: Annotated[
        list[str] | None,
        typer.Argument(help=f"of run a kind: {', '.join(KINDS)}; of merge folders", metavar="[WHAT]..."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder of the campaign")] = Path("campaign"),
    engine_name: EngineOption = "processes",
    budget: BudgetOption = "0",
    deadline: Annotated[str, typer.Option(metavar="TIME", help="of one cell")] = f"{DEADLINE / 60:.0f}m",
    again: Annotated[bool, typer.Option("--again", help="of resume: cells that were put aside or failed, too")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="how many seeds")] = None,
    impl: Annotated[list[str] | None, typer.Option(metavar="TARGET", help="laws, fuzz: what is examined")] = None,
    law: Annotated[list[str] | None, typer.Option(help="only laws whose id begins so; may be repeated")] = None,
    only: Annotated[list[str] | None, typer.Option(help="only this name; may be repeated")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="laws, fuzz: only this one; may be repeated")] = None,
    dialect: Annotated[str | None, typer.Option(metavar="PRESET", help="laws, fuzz: of plain functions")] = None,
    device: Annotated[Device | None, typer.Option(help="laws, fuzz: where the targets compute")] = None,
    profile: Annotated[str | None, typer.Option("--hypothesis-profile", help="how long to search")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="kill, seeds, fuzz: examples a law")] = None,
    mutants: Annotated[int | None, typer.Option(min=1, help="adversary: how many of each seed")] = None,
    pairs: Annotated[int | None, typer.Option(min=0, help="identify: how many pairs of deviations")] = None,
    family: Annotated[list[str] | None, typer.Option(help="explosions, training; may be repeated")] = None,
    threshold: Annotated[str | None, typer.Option(help="explosions, atlas, training")] = None,
    gain: Annotated[str | None, typer.Option(help="explosions, training")] = None,
    max_streams: Annotated[int | None, typer.Option(min=1, max=16, help="atlas")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run what takes hours, in pieces, on an engine that exists; nothing is asked twice and nothing is lost.

    Exit 0: every cell has an answer and none of them accuses; 1: a law failed, or what that kind looks for was found;
    2: a mistake in what was given; 3: cells are left, put aside, or faults of the harness; 130: stopped by Ctrl-C.
    """
    folder, named = Folder(out), what or []
    given = {
        **{"seeds": seeds, "impl": impl, "law": law, "only": only, "dtype": dtype, "dialect": dialect},
        **{"profile": profile, "examples": examples, "mutants": mutants, "pairs": pairs, "family": family},
        **{"threshold": threshold, "gain": gain, "max_streams": max_streams},
        **{"device": device.value if device else None},
    }
    options = {name: value for name, value in given.items() if value is not None and value != []}
    try:
        if do is Do.RUN:
            if len(named) != 1:
                _mistake(f"run takes one kind, one of {', '.join(KINDS)}; given were {named or 'none'}", as_json)
            if device is Device.CUDA and (absent := _absent(device)) is not None:
                _mistake(f"--device {device}: there is {absent} here", as_json)
            _checked(engine_name, budget, deadline)
            new = folder.ask(cells(named[0], folder.seconds(), options))
            kinds = Counter(one.kind for one in folder.cells())
            others = ", ".join(f"{count} of {kind}" for kind, count in kinds.items() if kind != named[0])
            beside = f" (it has {others}, too)" if others else ""
            typer.echo(f"{sum(kinds.values())} cells, {new} of them new: {out}{beside}", err=True)
        elif options:
            _mistake(f"{do} takes no {next(iter(options))}: what is asked stands in the manifest", as_json)
        elif named and do is not Do.MERGE:
            _mistake(f"{do} takes nothing but --out DIR; given were {named}", as_json)
        elif not (do is Do.MERGE or folder.cells() or folder.answered()):
            _mistake(f"{out}: there is no campaign; campaign run KIND --out {out} makes one", as_json)
        if do in (Do.RUN, Do.RESUME):
            _run(folder, engine_name, _span(budget), _span(deadline), again, as_json)
        if do is Do.MERGE:
            for one in named or _mistake("merge takes the folders of other campaigns", as_json):
                asked, new = folder.merge(Folder(one))
                typer.echo(f"{one}: {asked} cells and {new} answers are new")
        elif do is Do.REPORT:
            text, bad = summary.report(folder)
            tell({"text": text.splitlines(), "wrong": bad}) if as_json else typer.echo(text)
            raise typer.Exit(1 if bad else 0)
        elif do is Do.SIMULATE:
            found = summary.simulated(folder)
            tell({"makespans": found}) if as_json else typer.echo(summary.simulation_text(found))
        else:
            said = summary.status(folder)
            tell(said) if as_json else typer.echo(summary.status_text(said))
    except (EngineLostError, ValueError) as error:
        _mistake(message_of(error, 500), as_json)
    except OSError as error:
        _mistake(f"{out}: {error.strerror or message_of(error, 300)}", as_json)


def _checked(name: str, *spans: str) -> None:
    """A mistake in what is given leaves no manifest behind."""
    check(name)
    for one in spans:
        _span(one)


def _absent(device: Device) -> str | None:
    from properties.core.device import device_of

    return device_of(device.value).missing()


def _run(
    folder: Folder,
    name: str,
    budget: float,
    deadline: float,
    again: bool,
    as_json: bool,
    told: Told | None = None,
) -> NoReturn:
    if again:
        folder.forgive()
    run = Run(folder, lambda: engine(name, folder.path), deadline=deadline, budget=budget, say=_say)
    outcome = run.go()
    try:
        folder.estimate()
        if told:
            text, bad = told([one for one in folder.records() if one["status"] != "error"], folder.path)
        else:
            text, bad = summary.report(folder)
    except OSError as error:  # of a full disk: the answers are there
        text, bad = f"no report, {error.filename or folder.path} cannot be written: {error.strerror or error}", 0
        outcome.why = outcome.why or "its report cannot be written"
    if as_json:
        tell({**vars(outcome), "text": text.splitlines(), "wrong": bool(bad)})
    else:
        typer.echo(text)
        for line in _ended(outcome, folder):
            typer.echo(line)
    if outcome.why == "stopped":
        raise typer.Exit(INTERRUPTED)
    whole = outcome.complete and not outcome.errors and not outcome.why
    raise typer.Exit(int(bad) if bad else 0 if whole else HARNESS_ERROR)


def _ended(outcome: Outcome, folder: Folder) -> list[str]:
    lines = [
        f"{outcome.answered} of {outcome.asked} cells are answered, {outcome.new} of them now, {outcome.seconds:.0f} s"
    ]
    if outcome.why:
        lines.append(f"It ended early: {outcome.why}.")
    if not outcome.complete:
        lines.append(f"The rest: mhc-properties campaign resume --out {folder.path}")
    if outcome.quarantined:
        lines.append(f"{outcome.quarantined} cells ended their process three times and are put aside: deaths/ has why.")
    if outcome.errors:
        lines.append(f"{outcome.errors} answers are faults of the harness; campaign report names them.")
    if outcome.stale:
        lines.append(f"{outcome.stale} cells were asked for other versions than are installed here; they are left.")
    return lines


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _span(text: str) -> float:
    """Seconds of 90, 30m, 2h, 1d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise ValueError(f"{text!r} is no time; expected such as 90, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _mistake(text: str, as_json: bool) -> NoReturn:
    refuse(text, as_json)
