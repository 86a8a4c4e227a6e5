"""An adversary who knows the strategies: random mutants of the reference, put before the laws, and what survives.

    mhc-properties adversary --seed 1 --mutants 1000 --label NAME                       (make adversary)
    mhc-properties adversary --seed 1 --mutants 1000 --label NAME --budget 30m          (a piece of it)

A mutant is the reference, wrong at one stage under a condition (`properties.catalogue.mutants`); `mutant:SEED:INDEX` is
a target like any other. Each is run through the laws of the default profile in float32, up to the first that fails.
What no law sees is put to mpmath at an input at which the condition holds: it is wrong, and the laws do not see it; or
it is equivalent to the reference.

It is a campaign (docs/campaigns.md): what is cut short goes on with the same command; `--engine` takes it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from properties.campaign.command import BudgetOption, UsualEngine, carry_out
from properties.campaign.folder import Record
from properties.campaign.kinds.adversary import asked, results_of, said
from properties.commands.adversary_rows import again
from properties.commands.refusals import refuse_lost, refuse_unknown


def main(
    seed: Annotated[int, typer.Option(min=0, help="the mutants are those of this seed")] = 1,
    mutants: Annotated[int, typer.Option(min=1, max=100_000, help="how many")] = 1000,
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder of its campaigns")] = Path("build/adversary"),
    label: Annotated[str, typer.Option(help="the name of this run in adversary.json")] = "last run",
    docs: Annotated[Path, typer.Option(help="where adversary.md and adversary.json go")] = Path("docs"),
    law: Annotated[str, typer.Option(help="put survivors before laws whose ids begin so again, as they are now")] = "",
    preset: Annotated[str, typer.Option(help="of them those that declare this one, such as PAPER")] = "",
    page: Annotated[bool, typer.Option(help="write the page and the rates, once all are tried")] = True,
    engine: UsualEngine = "",
    budget: BudgetOption = "0",
) -> None:
    """Try random mutants on the laws, and list those that no law sees.

    Exit 0: the laws accused no reference and the harness did not fail; 1: one of them did; 2: a mistake in what was
    given; 3: mutants are left; 130: stopped by Ctrl-C.
    """
    from properties.catalogue.mutants import drawn
    from properties.commands.adversary_page import publish, rates

    if law:
        refuse_unknown([], (), [law])
    specs = [drawn(seed, index) for index in range(mutants)]
    if preset and not any(one.preset == preset for one in specs):
        there = ", ".join(sorted({one.preset for one in specs}))
        raise typer.BadParameter(
            f"none of these mutants declares {preset!r}; they declare {there}", param_hint="--preset"
        )
    specs = [one for one in specs if preset in ("", one.preset)]
    questions = list(asked(specs))
    refuse_lost(out, "--out")
    if page:
        refuse_lost(docs, "--docs")

    def told(records: Sequence[Record], folder: Path) -> tuple[str, int]:
        results = results_of(records)
        if len(records) < len(questions):
            kept = "; the page is written when all are" if page else ""
            return f"{len(results.of('attempt'))} of {len(specs)} mutants are tried{kept}", 0
        if law:
            again(specs, seed, law, results)
        found = rates(specs, results) | ({"again": law} if law else {})
        found |= {"preset": preset, "drawn": mutants} if preset else {}
        if page:
            publish(docs, label, found)
        return "\n".join([said(found), *found["harness"]]), bool(found["harness"])

    carry_out("adversary", questions, out, engine, budget, told)
