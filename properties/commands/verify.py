"""`mhc-properties verify`, the main job: the laws on the reference and on a release, and the smallest explosions."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from properties.commands.options import JsonOption
from properties.guards.answer import progress_on_stderr, tell
from properties.guards.progress import progress

if TYPE_CHECKING:
    from properties.explosion.result import Explosion
    from properties.guards.progress import Progress

TARGETS = ("ref:PAPER", "ref:DEEPSEEK_V4")
PUBLISHED = {"transformers": "published:transformers-deepseek-v4"}
"""Library -> the target that is verified with it, where it is installed."""

DTYPE = "float32"
"""In every dtype that they declare it would take a quarter of an hour; `mhc-properties check` does that."""

EXPLOSIONS = (
    ("residual", {"threshold": "100", "branch_bound": "0.1"}),
    ("hc", {"threshold": "100", "entry_bound": "1.25", "max_streams": 4}),
)
"""A plain residual chain whose branches add at most a tenth, and unconstrained mixing with entries within 1.25."""


def verify(as_json: JsonOption = False) -> None:
    """The main job: laws in float32 on the reference and on transformers' DeepSeek-V4, and the smallest explosions."""
    raise typer.Exit(main_job(as_json))


def main_job(as_json: bool = False, directory: Path = Path(".mhc-properties")) -> int:
    """Run it and print what came of each target, the denominator and the explosions; the exit status of the laws.

    A published implementation whose library is not installed is named, not passed over.
    """
    from mhc_ref import PRESETS
    from properties.explosion import find_minimal
    from properties.plugin.launch import LAWS_ALONE, launch
    from properties.report.across import across
    from properties.report.report import lines_of

    targets = [target for target in TARGETS if target.removeprefix("ref:") in PRESETS]
    for library, target in PUBLISHED.items():
        if importlib.util.find_spec(library):
            targets.append(target)
        else:
            missing = f"{library} is not installed (pip install 'mhc-properties[published]')"
            typer.echo(f"{target} is left out: {missing}", err=as_json)
    arguments = [*LAWS_ALONE, "-n", "auto", f"--report={directory}", f"--dtype={DTYPE}"]
    arguments += [f"--impl={target}" for target in targets]
    with progress_on_stderr(as_json):
        outcome = launch(arguments, directory.absolute())
    if outcome.report is not None:
        for text in ("", *across(lines_of(outcome.report))):
            typer.echo(text, err=as_json)
    with progress("verify", total=len(EXPLOSIONS)) as line:
        found: list[Explosion] = []
        for number, (family, options) in enumerate(EXPLOSIONS, 1):
            say = partial(_say, line, family, number)
            found.append(find_minimal(family, progress=say, **options))  # pyright: ignore[reportArgumentType]  # a table of keyword arguments
    for one in found:
        typer.echo(f"\n{one}", err=as_json)
    if as_json:
        totals = outcome.report["totals"] if outcome.report else None
        explosions = [one.to_json() for one in found]
        tell({"exit": outcome.status, "totals": totals, "explosions": explosions})
    return outcome.status or (0 if all(one.found for one in found) else 1)


def _say(line: Progress, family: str, number: int, text: str) -> None:
    line.say(f"explosion of {family}, {text}", done=number)
