"""Many seeds on every control: no law may accuse a correct implementation, and none may be flaky.

    mhc-properties seeds --seeds 100        (make seeds)

It is a campaign (docs/campaigns.md): what is cut short goes on with the same command; `--engine` takes it elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from properties.campaign.command import BudgetOption, UsualEngine, carry_out
from properties.campaign.kinds.seeds import questions
from properties.commands.refusals import refuse_lost, refuse_unknown


def main(
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds")] = 100,
    examples: Annotated[int, typer.Option(min=1, help="examples a law and seed")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="only this control; may be repeated")] = None,
    law: Annotated[list[str] | None, typer.Option(help="only laws whose id begins so; may be repeated")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder of its campaigns")] = Path("build/seeds"),
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
    carry_out("seeds", questions(seeds, examples, only or [], law or []), out, engine, budget)
