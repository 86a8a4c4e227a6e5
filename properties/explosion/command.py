"""`mhc-properties explode` and `mhc-properties atlas`: the search from the command line.

Exit codes of explode: 0 found, or proved impossible; 1 the budget was spent before anything was found; 2 bad input; 130
stopped by Ctrl-C, with the best so far saved. Of atlas: 0 complete; 1 stopped before the end; 2 bad input.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mhc_ref import PRESETS, Dialect
from properties.explosion.atlas import DEEPEST, DEVIATIONS, atlas
from properties.explosion.atlas_picture import draw_atlas
from properties.explosion.files import save
from properties.explosion.picture import PictureError, draw
from properties.explosion.request import DIRECTIONS, DTYPES, GAINS
from properties.explosion.result import Explosion
from properties.explosion.search import find_minimal
from properties.target import TargetError
from properties.trust import replay_line

INTERRUPTED_FILE = "explosion.safetensors"
"""Where an interrupted search goes if no --save says otherwise."""


_FAMILIES = "residual, hc, hc:dynamic, mhc, block[:BRANCH[:NORM]], target:TARGET"


def register(app: typer.Typer) -> None:
    """Add the command `explode` to an application."""
    app.command("explode", help="Find the smallest network of a family that explodes, or prove that there is none.")(
        explode_command
    )
    app.command("atlas", help="Minimal depth against weight deviation, family by family: closed form beside search.")(
        atlas_command
    )


def explode_command(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help=_FAMILIES)],
    threshold: Annotated[str | None, typer.Option(help="the gain to be reached, an exact decimal")] = None,
    gain: Annotated[str | None, typer.Option(help=f"{', '.join(GAINS)}; forward, of a block activation")] = None,
    direction: Annotated[
        str, typer.Option(help=f"{DIRECTIONS[0]}: gain >= threshold; {DIRECTIONS[1]}: <=")
    ] = "explode",
    max_depth: Annotated[int, typer.Option(help="most sub-layers")] = 128,
    max_streams: Annotated[int, typer.Option(help="most streams")] = 4,
    max_width: Annotated[int, typer.Option(help="most channels a stream")] = 1,
    entry_bound: Annotated[str | None, typer.Option(help="hc: |A_ij| is at most this")] = None,
    identity_bound: Annotated[str | None, typer.Option(help="hc: |A_ij - I_ij| is at most this")] = None,
    branch_bound: Annotated[str, typer.Option(help="residual: |g| in x + g F(x) is at most this")] = "1",
    dialect: Annotated[str, typer.Option(help=", ".join(PRESETS))] = "PAPER",
    iterations: Annotated[int | None, typer.Option(help="Sinkhorn iterations, instead of the dialect's")] = None,
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "float64",
    seed: Annotated[int, typer.Option(help="equal seeds give equal answers")] = 0,
    budget: Annotated[float, typer.Option(help="seconds")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on one line, last on stdout")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it (needs the extra `report`)")] = None,
    save_to: Annotated[Path | None, typer.Option("--save", metavar="FILE", help="keep the configuration")] = None,
) -> None:
    progress = _Progress()
    try:
        found = find_minimal(
            family,
            _threshold(threshold, gain),
            gain=gain,
            direction=direction,
            max_depth=max_depth,
            max_streams=max_streams,
            max_width=max_width,
            entry_bound=entry_bound,
            identity_bound=identity_bound,
            branch_bound=branch_bound,
            dialect=_dialect(dialect),
            iterations=iterations,
            dtype=dtype,
            seed=seed,
            budget=budget,
            progress=progress,
        )
        progress.end()
        found = _kept(found, save_to)
        if plot is not None and found.found:
            draw(found, plot)
            typer.echo(f"drawn to {plot}", err=True)
    except (ValueError, OSError, PictureError, TargetError) as error:
        progress.end()
        typer.echo(f"explode: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(found.to_json(), allow_nan=False))
    else:
        typer.echo(found.to_text())
    if found.stopped == "interrupted":
        raise typer.Exit(130)
    raise typer.Exit(0 if found.found or found.impossible else 1)


def atlas_command(
    threshold: Annotated[str, typer.Option(help="the gain to be reached, an exact decimal above 1")] = "100",
    deviation: Annotated[
        list[str] | None, typer.Option(help="a deviation of the weights; may be repeated", metavar="D")
    ] = None,
    max_streams: Annotated[int, typer.Option(help="most streams", min=1)] = 4,
    max_depth: Annotated[int, typer.Option(help="most sub-layers", min=1)] = DEEPEST,
    seed: Annotated[int, typer.Option(help="of the searches")] = 0,
    budget: Annotated[float, typer.Option(help="seconds for all searches together")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on one line, last on stdout")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it (needs the extra `report`)")] = None,
) -> None:
    progress = _Progress()
    try:
        found = atlas(
            threshold,
            deviations=deviation or DEVIATIONS,
            max_streams=max_streams,
            max_depth=max_depth,
            seed=seed,
            budget=budget,
            progress=progress,
        )
        progress.end()
        if plot is not None:
            draw_atlas(found, plot)
            typer.echo(f"drawn to {plot}", err=True)
    except (ValueError, OSError, PictureError) as error:
        progress.end()
        typer.echo(f"atlas: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(found.to_json(), allow_nan=False) if as_json else found.to_text())
    raise typer.Exit(0 if found.complete else 1)


class _Progress:
    """One line on stderr that is written over on a terminal, and a line every five seconds elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()
        self._open = False

    def __call__(self, line: str) -> None:
        if self._terminal:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
            self._open = True
        elif time.monotonic() - self._last >= 5:
            self._last = time.monotonic()
            typer.echo(line, err=True)

    def end(self) -> None:
        if self._open:
            sys.stderr.write("\r\033[K")
            self._open = False


def _threshold(given: str | None, gain: str | None) -> str:
    if given is None and gain != "nonfinite":
        raise ValueError("no threshold was given; expected --threshold with the gain to be reached")
    return given or "1"


def _dialect(name: str) -> Dialect:
    if name not in PRESETS:
        raise ValueError(f"dialect is {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _kept(found: Explosion, path: Path | None) -> Explosion:
    """Saved where that was asked for, and always when the search was interrupted."""
    if found.stopped == "interrupted" and path is None:
        path = Path(INTERRUPTED_FILE)
    if path is None or not found.found:
        return found
    kept = save(found, path)
    typer.echo(f"saved to {path}; `{replay_line(path, found.request.target)}` runs it again", err=True)
    return kept
