"""The kill matrix: which law sees which wrong implementation, and that no law accuses a correct one.

    mhc-properties kill --out DIR        (make kill)

A row is a deviation in the first preset and dtype in which it shows; a cell is one search without shrinking. The page
says which deviations only the oracle sees, which laws see nothing, and in which other dtypes a deviation hides below
its bound. The file is written after every row, and `--law` or `--only` renew a part of it and keep the rest.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from properties.commands.kill_page import load, page, save
from properties.commands.kill_rows import Task, first_killed, row_of, still_missing, tasks
from properties.commands.refusals import refuse_absent, refuse_ambiguous, refuse_lost, refuse_unknown
from properties.guards.printable import message_of
from properties.guards.stopping import end_with
from properties.guards.whole import write_whole


def main(
    out: Annotated[
        Path | None,
        typer.Option(help="where kill.md and kill.json go; default: docs, or kill-DEVICE of another device"),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="examples a cell")] = 16,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="worker processes")] = 2,
    stop: Annotated[bool, typer.Option(help="leave a deviation at its second kill, of another kind")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="only this deviation or control, [deviation:|control:]NAME; may be repeated"),
    ] = None,
    law: Annotated[list[str] | None, typer.Option(help="only laws whose id begins so; may be repeated")] = None,
    missing: Annotated[bool, typer.Option(help="only rows that kill.json lacks")] = False,
    device: Annotated[str, typer.Option(help="where the implementations compute")] = "cpu",
    like: Annotated[
        Path | None, typer.Option(help="a kill.json: its cheapest laws come first, and --stop asks no more")
    ] = None,
    controls: Annotated[bool, typer.Option(help="try the controls too")] = True,
) -> None:
    """Try every law on every wrong implementation and every control, and write the matrix.

    Exit 0: every deviation was seen and no control flagged; 1: a deviation survived, a control was flagged or the
    harness failed.
    """
    from properties.catalogue import deviations
    from properties.catalogue.controls import CATALOGUE as CONTROLS
    from properties.core.law import all_laws

    prefixes = tuple(law or ())
    wrong = [*deviations.CATALOGUE, *deviations.HIDDEN]
    named = [*wrong, *CONTROLS, *(f"deviation:{one}" for one in wrong), *(f"control:{one}" for one in CONTROLS)]
    refuse_unknown(only or [], named, prefixes)
    refuse_ambiguous(only or [], wrong, CONTROLS)
    refuse_absent(device)
    out = out or Path("docs" if device == "cpu" else f"kill-{device}")
    work = [
        task for task in tasks(examples, only or [], stop, prefixes, device) if controls or task.catalogue != "control"
    ]
    if like is not None and not like.is_file():
        raise typer.BadParameter(f"there is no file {like}", param_hint="--like")
    if not work:
        raise typer.BadParameter("nothing is left to be tried", param_hint="--only")
    partial = bool(only or law or missing)
    try:
        before = load(like) if like else []
        known = {row.key: row for row in load(out / "kill.json")} if partial else {}
    except ValueError as error:
        raise typer.BadParameter(message_of(error)) from None
    earlier = {row.name: row for row in before if row.kind != "control"}
    soonest = {name: tuple(row.cheapest()) for name, row in earlier.items()}
    work = [replace(task, soonest=soonest.get(task.name, ()) if task.catalogue == "deviation" else ()) for task in work]
    if missing:
        work = still_missing(work, known.values())
    renewed = {one for one in all_laws() if not prefixes or one.startswith(prefixes)}
    refuse_lost(out, "--out")
    rows = dict(known)
    with multiprocessing.get_context("spawn").Pool(jobs, end_with, (os.getpid(),)) as pool:
        for done, row in enumerate(pool.imap(row_of, work), 1):
            rows[row.key] = row.renewed(rows[row.key], renewed) if row.key in rows else row
            save(out / "kill.json", list(rows.values()))
            typer.echo(f"{done}/{len(work)} {row.name} {row.preset} {row.dtype}: {len(row.killed)}", err=True)
        if stop:
            idle = renewed - {one for row in rows.values() for one in row.killed}
            possible = [task for task in work if task.catalogue == "deviation"]

            def likely(law: str) -> tuple[str, list[Task]]:
                killed = {name for name, row in earlier.items() if law in row.killed}
                return law, sorted(possible, key=lambda task: task.name not in killed)

            for row in pool.imap(first_killed, map(likely, sorted(idle))):
                if row is not None:
                    rows[row.key] = row.renewed(rows[row.key], set(row.killed))
    found = list(rows.values())
    save(out / "kill.json", found)
    write_whole(out / "kill.md", page(found, device).encode())
    bad = [row.name for row in found if bool(row.killed) == (row.kind == "control") or row.errors]
    typer.echo(f"{len(found)} rows; to look at: {', '.join(bad) or 'none'}")
    raise typer.Exit(1 if bad else 0)
