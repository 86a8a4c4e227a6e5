"""Which law sees which deviation, as a matrix for people (kill.md) and as data (kill.json).

    mhc-properties kill --out docs                 (make kill)
    mhc-properties kill --only gradient-clipped --only log-domain
    mhc-properties kill --law depth. --law mixing.post-is-the-declared-combination
    mhc-properties kill --missing --budget 2h      (rows that kill.json lacks, or has in part)
    mhc-properties kill --device cuda --no-controls

It is a campaign (docs/campaigns.md): what is cut short goes on with the same command; `--engine` takes it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from properties.campaign.command import BudgetOption, UsualEngine, carry_out
from properties.campaign.folder import Record
from properties.campaign.kinds.kill import question_of
from properties.commands.kill_page import load, page, save
from properties.commands.kill_rows import Row, still_missing, tasks
from properties.commands.refusals import refuse_absent, refuse_ambiguous, refuse_lost, refuse_unknown
from properties.guards.printable import message_of
from properties.guards.whole import write_whole


def main(
    out: Annotated[
        Path | None,
        typer.Option(help="where kill.md and kill.json go; default: docs, or kill-DEVICE of another device"),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="examples a cell")] = 16,
    only: Annotated[
        list[str] | None,
        typer.Option(help="only this deviation or control, [deviation:|control:]NAME; may be repeated"),
    ] = None,
    law: Annotated[list[str] | None, typer.Option(help="only laws whose id begins so; may be repeated")] = None,
    missing: Annotated[
        bool,
        typer.Option("--missing", help="only rows that kill.json lacks, or that end at their second kill there"),
    ] = False,
    device: Annotated[str, typer.Option(help="where the implementations compute")] = "cpu",
    controls: Annotated[bool, typer.Option(help="try the controls too")] = True,
    campaigns: Annotated[Path, typer.Option(metavar="DIR", help="the folder of its campaigns")] = Path("build/kill"),
    engine: UsualEngine = "",
    budget: BudgetOption = "0",
) -> None:
    """Try every law on every wrong implementation and every control, and write the matrix.

    Exit 0: every deviation was seen and no control flagged; 1: a deviation survived, a control was flagged or a law
    failed itself; 2: a mistake in what was given; 3: rows are left; 130: stopped by Ctrl-C. Rows that are answered
    stand in the matrix in any case; a run that asks for all of it writes it once all are.
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
    work = [task for task in tasks(examples, only or [], prefixes, device) if controls or task.catalogue != "control"]
    partial = bool(only or law or missing)
    try:
        known = {row.key: row for row in load(out / "kill.json")} if partial else {}
    except ValueError as error:
        raise typer.BadParameter(message_of(error)) from None
    if missing:
        work = still_missing(work, known.values())
    if not work:
        raise typer.BadParameter("nothing is left to be tried", param_hint="--missing" if missing else "--only")
    refuse_lost(out, "--out")
    refuse_lost(campaigns, "--campaigns")
    renewed = {one for one in all_laws() if not prefixes or one.startswith(prefixes)}

    def told(records: Sequence[Record], folder: Path) -> tuple[str, int]:
        if not partial and len(records) < len(work):
            return f"{len(records)} of {len(work)} rows are answered; {out / 'kill.json'} is written when all are", 0
        rows = dict(known)
        for row in (Row.from_json(one["answer"]) for one in records):
            # A row about all laws takes the place of the old one, in which laws may stand that are no more.
            rows[row.key] = row.renewed(rows[row.key], renewed) if prefixes and row.key in rows else row
        found = list(rows.values())
        save(out / "kill.json", found)
        write_whole(out / "kill.md", page(found, device).encode())
        bad = [row.name for row in found if bool(row.killed) == (row.kind == "control") or row.errors]
        return f"{len(found)} rows; to look at: {', '.join(bad) or 'none'}", bool(bad)

    carry_out("kill", map(question_of, work), campaigns, engine, budget, told)
