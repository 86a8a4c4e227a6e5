"""Many seeds on every control: no law may accuse a correct implementation, and none may be flaky.

    mhc-properties seeds --seeds 100                                         (make seeds)
    mhc-properties seeds --seeds 100 --missing --record docs --budget 2h     (a piece of it, kept in docs/seeds.json)

It is a campaign (docs/campaigns.md): what is cut short goes on with the same command; `--engine` takes it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from properties.campaign.command import BudgetOption, UsualEngine, carry_out
from properties.campaign.folder import Record
from properties.campaign.kinds.seeds import questions, told
from properties.commands.refusals import refuse_lost, refuse_unknown
from properties.commands.seeds_page import load, merged, page, rows_of, save
from properties.guards.printable import message_of
from properties.guards.whole import write_whole


def main(
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds")] = 100,
    examples: Annotated[int, typer.Option(min=1, help="examples a law and seed")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="only this control; may be repeated")] = None,
    law: Annotated[list[str] | None, typer.Option(help="only laws whose id begins so; may be repeated")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder of its campaigns")] = Path("build/seeds"),
    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="add what was tried to seeds.json and seeds.md there")
    ] = None,
    missing: Annotated[bool, typer.Option("--missing", help="only seeds that the record has of no release")] = False,
    engine: UsualEngine = "",
    budget: BudgetOption = "0",
) -> None:
    """Try the laws on every control with many seeds.

    Exit 0: no law accused a control; 1: one did, or nothing was exercised; 2: a mistake in what was given; 3: runs are
    left; 130: stopped by Ctrl-C.
    """
    from properties.catalogue import controls

    refuse_unknown(only or [], controls.CATALOGUE, law or [])
    refuse_lost(out, "--out")
    asked = list(questions(seeds, examples, only or [], law or []))
    if record is None:
        if missing:
            raise typer.BadParameter("it takes a record: --record DIR", param_hint="--missing")
        carry_out("seeds", asked, out, engine, budget)
    if law:
        raise typer.BadParameter("a record is of all laws; leave out --law", param_hint="--record")
    refuse_lost(record, "--record")
    try:
        known = load(record / "seeds.json")
    except ValueError as error:
        raise typer.BadParameter(message_of(error), param_hint="--record") from None
    if missing:
        held = {(row.control, int(seed)) for row in known for seed in row.seeds}
        asked = [one for one in asked if (one["name"], one["seed"]) not in held]
        if not asked:
            raise typer.BadParameter(
                f"nothing is left: {record / 'seeds.json'} has {seeds} seeds of each; ask for more with --seeds",
                param_hint="--missing",
            )

    def told_and_kept(records: Sequence[Record], folder: Path) -> tuple[str, int]:
        rows = merged(known, rows_of((one["question"], one["answer"]) for one in records))
        save(record / "seeds.json", rows)
        write_whole(record / "seeds.md", page(rows).encode())
        text, bad = told(records, folder)
        return f"{text}\nkept: {record / 'seeds.json'}", bad

    carry_out("seeds", asked, out, engine, budget, told_and_kept)
