"""`--plot`: gain against depth with the bound that no network passes, and the matrices as heat maps.

matplotlib is imported when a picture is asked for, and not before.
"""

from __future__ import annotations

import importlib
import io
import itertools
from pathlib import Path
from typing import Any

from properties.explosion.composite import decimal
from properties.explosion.models.grown import Grown
from properties.explosion.pictures.page import explosion_page
from properties.explosion.result import Explosion
from properties.guards.printable import printable
from properties.guards.whole import write_whole

_MATRICES = 4
_NAMED = 40
"""Blocks of a model whose names are written."""


class PictureError(Exception):
    """A picture cannot be drawn."""


def draw(explosion: Explosion, path: str | Path) -> None:
    """Draw a found explosion to `path`, in the format that its ending names.

    Raises:
        PictureError: matplotlib is not installed, nothing was found, or the format is unknown.
    """
    if not explosion.found:
        raise PictureError(f"there is nothing to draw: {explosion.proof}")
    if is_page(path):
        write_whole(Path(path), explosion_page(explosion))
        return
    if isinstance(explosion.configuration, Grown):
        figure = figure_of((8, 4.6))
        _blocks(figure.add_subplot(), explosion.configuration)
        figure.suptitle(_title(explosion), fontsize=11)
        saved(figure, path)
        return
    groups = _groups(explosion)
    figure = figure_of((6.4 + 2.3 * min(2, len(groups)), 4.6))
    grid: Any = figure.add_gridspec(2, 2 + min(2, len(groups)), width_ratios=[2, 2] + [1.4] * min(2, len(groups)))
    _curve(figure.add_subplot(grid[:, :2]), explosion)
    _heat(figure, grid, groups)
    figure.suptitle(_title(explosion), fontsize=11)
    saved(figure, path)


def figure_of(size: tuple[float, float]) -> Any:
    """An empty figure of that many inches; PictureError without matplotlib."""
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise PictureError(f"drawing needs matplotlib ({error}): pip install 'mhc-properties[report]'") from error
    return figure_module.Figure(figsize=size, layout="constrained")


def is_page(path: str | Path) -> bool:
    """Whether a picture is to be a page of HTML."""
    return Path(path).suffix.lower() in (".html", ".htm")


def ready(path: str | Path) -> None:
    """PictureError where a picture cannot be drawn to `path`: no matplotlib, or a format that it does not know. A page
    needs none."""
    if is_page(path):
        return
    ending = Path(path).suffix.lower().removeprefix(".") or "png"
    try:
        known = figure_of((1, 1)).canvas.get_supported_filetypes()
    except PictureError as error:
        page = printable(str(Path(path).with_suffix(".html")))
        raise PictureError(f"{error}; or draw a page, which needs none: {page}") from error
    if ending not in known:
        raise PictureError(
            f"{printable(str(path))} ends in .{printable(ending)}, which is neither a page nor a picture that "
            f"matplotlib draws; expected .html, or one of {', '.join(f'.{one}' for one in sorted(known))}"
        )


def saved(figure: Any, path: str | Path) -> None:
    """Write a figure whole; PictureError for a format that matplotlib does not know, OSError where nothing is written.

    An SVG of equal numbers is an equal file: no date, no random ids. A name without an ending gets .png, as matplotlib
    has it.
    """
    mpl = importlib.import_module("matplotlib")
    place = Path(path) if Path(path).suffix else Path(f"{path}.png")
    ending = place.suffix.lower().removeprefix(".")
    drawn = io.BytesIO()
    try:
        with mpl.rc_context({"svg.hashsalt": "mhc-properties"}):
            figure.savefig(drawn, format=ending, dpi=150, metadata={"Date": None} if ending == "svg" else None)
    except ValueError as error:
        raise PictureError(f"{path}: {error}") from error
    write_whole(place, drawn.getvalue())


def _title(explosion: Explosion) -> str:
    asked = explosion.request
    size = f"depth {explosion.depth}, {explosion.streams} stream{'s' * (explosion.streams != 1)}"
    goal = f"{asked.name}: {asked.gain} gain {asked.sign} {decimal(asked.threshold, 8)}"
    return f"{goal} at {size} ({explosion.minimality})"


def _curve(axes: Any, explosion: Explosion) -> None:
    asked = explosion.request
    reached = [1.0, *asked.curve(explosion.configuration)]
    limits = asked.bounds(explosion.configuration)
    if limits:
        axes.plot(range(len(reached)), [1.0, *limits], color="0.75", linewidth=5, label="bound (proved)")
    marker = "o" if len(reached) <= 60 else None
    axes.plot(range(len(reached)), reached, marker=marker, markersize=3, label="this stack")
    axes.axhline(float(asked.threshold), color="tab:red", linewidth=1, label="threshold")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if low > 0 and high / low < 10:  # no power of ten to label, or one
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(asked.along)
    axes.set_ylabel(f"{asked.gain} gain of the composite")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()


def _blocks(axes: Any, found: Grown) -> None:
    """The largest activation behind each block of a model, with those that are kept marked."""
    for name, line in found.behind().items():
        axes.plot(*zip(*line, strict=True), marker="o", markersize=3, label=name)
    for kept in found.kept:
        axes.axvspan(kept - 0.4, kept + 0.4, color="tab:red", alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    places = range(len(found.names)) if len(found.names) <= _NAMED else [*found.kept][:_NAMED]
    axes.set_xticks([*places], [found.names[k] or "(the model)" for k in places], rotation=60, ha="right", fontsize=7)
    axes.set_xlabel("blocks; those that are kept on red")
    axes.set_ylabel("largest activation behind it")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()


def _groups(explosion: Explosion) -> list[tuple[str, list[list[float]]]]:
    """The first and last few of the different matrices, with the sub-layers that they stand for."""
    found: list[tuple[str, list[list[float]]]] = []
    for matrix, members in itertools.groupby(enumerate(explosion.operators, start=1), key=lambda pair: pair[1]):
        depths = [depth for depth, _ in members]
        name = f"sub-layer {depths[0]}" if len(depths) == 1 else f"sub-layers {depths[0]}–{depths[-1]}"
        found.append((name, [[float(entry) for entry in row] for row in matrix]))
    half = _MATRICES // 2
    return found if len(found) <= _MATRICES else [*found[:half], *found[-half:]]


def _heat(figure: Any, grid: Any, groups: list[tuple[str, list[list[float]]]]) -> None:
    size = max((abs(entry) for _, matrix in groups for row in matrix for entry in row), default=0.0) or 1.0
    for index, (name, matrix) in enumerate(groups):
        # Two of them side by side, four in a square.
        place = grid[:, 2 + index] if len(groups) <= 2 else grid[index // 2, 2 + index % 2]
        axes = figure.add_subplot(place)
        axes.imshow(matrix, cmap="RdBu_r", vmin=-size, vmax=size)
        for (i, row), j in itertools.product(enumerate(matrix), range(len(matrix))):
            dark = abs(row[j]) > 0.6 * size
            axes.text(j, i, _short(row[j]), ha="center", va="center", fontsize=7, color="white" if dark else "black")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(name, fontsize=9)


def _short(number: float) -> str:
    """Three decimals without their zeros, or three digits of what is larger than a cell has room for."""
    text = f"{number:.3f}".rstrip("0").rstrip(".") if abs(number) < 1000 else f"{number:.2e}"
    return "0" if text == "-0" else text
