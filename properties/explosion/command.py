"""`mhc-properties explode` and `mhc-properties atlas`: the search from the command line.

Exit codes of explode: 0 found, or proved impossible; 1 the budget was spent before anything was found; 2 bad input, or
a file that could not be written; 130 stopped by Ctrl-C, with the best so far saved. Of atlas: 0 complete; 1 stopped
before the end; 2 as for explode. With --json one object on one line is printed in every case: where there is no answer
it is {"error": SENTENCE, "exit": CODE}.

Where files are to go is checked before the search, and its result is printed whatever happens to them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from properties.explosion.atlas import DEEPEST, DEVIATIONS, WIDEST, atlas
from properties.explosion.critical import KNOBS, MINIMISED, critical_rates
from properties.explosion.files import save
from properties.explosion.pictures.atlas import draw_atlas
from properties.explosion.pictures.critical import draw_critical
from properties.explosion.pictures.explosion import PictureError, draw, ready
from properties.explosion.questions.families import FORMS, OPTIONS
from properties.explosion.search import find_minimal
from properties.guards.answer import HARNESS_ERROR, refusal, tell
from properties.guards.faults import HarnessError
from properties.guards.printable import message_of, printable
from properties.guards.progress import progress
from properties.guards.whole import unwritable
from properties.targets.target import TargetError
from properties.targets.trust import replay_line

INTERRUPTED_FILE = "explosion.safetensors"
"""Where an interrupted search goes if no --save says otherwise."""


def explode_command(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help=FORMS)],
    threshold: Annotated[str | None, typer.Option(help="the gain to be reached, an exact decimal")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on one line, last on stdout")] = False,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="draw it: .html, or a picture (extra `report`)")
    ] = None,
    save_to: Annotated[str | None, typer.Option("--save", metavar="FILE", help="keep the configuration")] = None,
    minimise: Annotated[str | None, typer.Option(metavar="rate", help="train: critical rates by depth instead")] = None,
    vary: Annotated[
        str | None, typer.Option(metavar="KNOB", help=f"train: critical rates by knob instead: all, {', '.join(KNOBS)}")
    ] = None,
    **options: Any,
) -> None:
    """Find the smallest network of a family that explodes, or prove that there is none."""
    if minimise is not None or vary is not None:
        return _critical(family, threshold, minimise, vary, as_json, plot, save_to, options)
    with _refusing("explode", as_json), progress("explode") as line:
        _ready("--save", save_to)
        _ready("--plot", plot)
        if plot is not None:
            ready(plot)
        found = find_minimal(family, threshold, progress=line.say, **options)
    if not as_json:
        typer.echo(found.to_text())
    lost = False
    if found.stopped == "interrupted" and save_to is None:
        save_to = INTERRUPTED_FILE
    if found.found and save_to is not None:
        kept = _written("explode", lambda: save(found, save_to))
        lost, found = kept is None, kept or found
        if kept is not None:
            line = printable(replay_line(Path(save_to), found.request.asked_of))
            typer.echo(f"saved to {printable(save_to)}; `{line}` runs it again", err=True)
            typer.echo(f"in a test: {test_line(save_to, found.request.asked_of)}", err=True)
    if found.found and plot is not None:
        drawn = _written("explode", lambda: draw(found, plot) or plot)
        lost = lost or drawn is None
        if drawn is not None:
            typer.echo(f"drawn to {printable(plot)}", err=True)
    if as_json:
        tell(found.to_json())
    if found.stopped == "interrupted":
        raise typer.Exit(130)
    raise typer.Exit(2 if lost else 0 if found.found or found.impossible else 1)


def test_line(path: str, target: str) -> str:
    """What holds in a test when what was saved explodes no more."""
    on = f", target={target!r}" if target else ""
    return printable(f'from properties.explosion import replay; assert replay({path!r}{on}).verdict == "FIXED"', 10_000)


def _critical(
    family: str,
    threshold: str | None,
    minimise: str | None,
    vary: str | None,
    as_json: bool,
    plot: str | None,
    save_to: str | None,
    options: dict[str, Any],
) -> None:
    """The table of critical rates, instead of one run."""
    with _refusing("explode", as_json), progress("explode") as line:
        if minimise not in (None, *MINIMISED) or (minimise is not None and vary is not None):
            raise ValueError(f"minimise is {minimise!r}; expected {' or '.join(MINIMISED)}, without vary")
        if save_to is not None:
            raise ValueError("--save has no effect: it keeps a run, and what is asked for is a table; see --json")
        _ready("--plot", plot)
        if plot is not None:
            ready(plot)
        found = critical_rates(family, threshold, vary=vary, progress=line.say, **options)
    _shown("explode", found, found.complete, as_json, plot, draw_critical)


def _shown(
    command: str, found: Any, complete: bool, as_json: bool, plot: str | None, draw_it: Callable[[Any, str], None]
) -> NoReturn:
    """Print a table, draw it, and end: 0 where it is complete, 1 where it is not, 2 where a file was not written."""
    if not as_json:
        typer.echo(found.to_text())
    lost = False
    if plot is not None:
        lost = _written(command, lambda: draw_it(found, plot) or plot) is None
        if not lost:
            typer.echo(f"drawn to {printable(plot)}", err=True)
    if as_json:
        tell(found.to_json())
    raise typer.Exit(2 if lost else 0 if complete else 1)


def _take_options(command: Callable[..., None]) -> None:
    """Let a command take the options of all families, as the questions have them."""
    first, *rest = inspect.signature(command, eval_str=True).parameters.values()
    own = [one for one in (first, *rest) if one.kind is not one.VAR_KEYWORD]
    asked = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[option.kind | None, typer.Option(help=option.help)],
        )
        for name, option in OPTIONS.items()
    ]
    taken = [one.replace(kind=one.KEYWORD_ONLY) for one in (*own[:2], *asked, *own[2:])]
    command.__signature__ = inspect.Signature(taken)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {one.name: one.annotation for one in taken}


_take_options(explode_command)


def atlas_command(
    threshold: Annotated[str, typer.Option(help="the gain to be reached, an exact decimal above 1")] = "100",
    deviation: Annotated[
        list[str] | None, typer.Option(help="a deviation of the weights; may be repeated", metavar="D")
    ] = None,
    max_streams: Annotated[int, typer.Option(help=f"most streams, up to {WIDEST}")] = 4,
    max_depth: Annotated[int, typer.Option(help="most sub-layers")] = DEEPEST,
    seed: Annotated[int, typer.Option(help="of the searches")] = 0,
    budget: Annotated[float, typer.Option(help="seconds for all searches together")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on one line, last on stdout")] = False,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="draw it: .html, or a picture (extra `report`)")
    ] = None,
) -> None:
    """Minimal depth against weight deviation, family by family: closed form beside search."""
    with _refusing("atlas", as_json), progress("atlas") as line:
        _ready("--plot", plot)
        if plot is not None:
            ready(plot)
        found = atlas(
            threshold,
            deviations=deviation or DEVIATIONS,
            max_streams=max_streams,
            max_depth=max_depth,
            seed=seed,
            budget=budget,
            progress=line.say,
        )
    _shown("atlas", found, found.complete, as_json, plot, draw_atlas)


@contextlib.contextmanager
def _refusing(command: str, as_json: bool) -> Generator[None]:
    """What cannot be asked ends in one sentence; a bug of ours in its traceback, behind an object with --json."""
    try:
        yield
    except (ValueError, OSError, PictureError, TargetError, HarnessError) as error:
        _refuse(command, message_of(error), as_json)
    except Exception as error:
        if as_json:
            tell(refusal(f"{type(error).__name__}: {message_of(error)}", HARNESS_ERROR))
        raise


def _refuse(command: str, sentence: str, as_json: bool) -> NoReturn:
    typer.echo(f"{command}: {sentence}", err=True)
    if as_json:
        tell(refusal(sentence))
    raise typer.Exit(2) from None


def _ready(option: str, path: str | None) -> None:
    """ValueError where a file cannot be written there, before a search that would be lost."""
    if path is None:
        return
    why = "it is empty" if not path else "it has a NUL" if "\0" in path else ""
    if not why:
        place = Path(path)
        try:
            why = "it is a folder" if place.is_dir() else unwritable(place.parent) or ""
        except OSError as error:  # a name that is too long, a loop of links
            why = error.strerror or str(error)
    if why:
        raise ValueError(f"{option} is {path!r}, where no file can be written: {why}")


def _written(command: str, write: Callable[[], Any]) -> Any:
    """What `write` returns; None where the file could not be written, which is said."""
    try:
        return write()
    except (OSError, PictureError, ValueError) as error:
        typer.echo(f"{command}: a file could not be written: {message_of(error)}", err=True)
        return None
