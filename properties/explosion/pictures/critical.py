"""The pictures of critical rates: lines by depth, or a mark with its spread for each knob; rates are logarithmic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from properties.explosion.composite import decimal
from properties.explosion.critical import REMEDIES, CriticalRates, grid, median_line
from properties.explosion.pictures.explosion import figure_of, saved

_COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#949494", "#56b4e9", "black", "#ece133")


def draw_critical(one: CriticalRates, path: str | Path) -> None:
    """Draw a table of critical rates to `path`, in the format that its ending names.

    Raises:
        properties.explosion.PictureError: matplotlib is not installed, or the format is unknown.
    """
    if sum(row.knob == "base" for row in one.rows) > 1:
        figure = figure_of((7.5, 5.2))
        _by_depth(figure.subplots(), one)
    else:
        figure = figure_of((7.5, 1.2 + 0.24 * len(one.rows)))
        _by_knob(figure.subplots(), one)
    asked = one.request
    figure.suptitle(
        f"{asked.name}: rate at which the {asked.gain} gain reaches {decimal(asked.threshold, 8)}", fontsize=11
    )
    saved(figure, path)


def _by_depth(axes: Any, one: CriticalRates) -> None:
    capped: list[str] = []
    for index, (knob, value) in enumerate(dict.fromkeys((row.knob, row.value) for row in one.rows)):
        rows = [row for row in one.rows if (row.knob, row.value) == (knob, value)]
        if any(row.proof for row in rows):
            capped.append(value)
        points = median_line(rows)
        if not points:
            continue
        depths, low, mid, high = zip(*points, strict=True)
        colour, style = _COLOURS[index % len(_COLOURS)], "-" if knob in ("base", "residual") else "--"
        label = value if knob == "base" else f"{knob}: {value}"
        axes.plot(depths, mid, style, color=colour, marker="o", markersize=4, label=label)
        axes.fill_between(depths, low, high, color=colour, alpha=0.12, linewidth=0)
    if capped:
        text = f"{', '.join(capped)}: none at any rate (proved)"
        axes.text(0.98, 0.97, text, transform=axes.transAxes, fontsize=8.5, color="#029e73", ha="right", va="top")
    axes.set_yscale("log")
    axes.set_xscale("log", base=2)
    depths = sorted({row.depth for row in one.rows})
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("sub-layers")
    axes.set_ylabel("smallest learning rate that explodes")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=7.5)


def _by_knob(axes: Any, one: CriticalRates) -> None:
    rows = [*reversed(one.rows)]
    top = grid(one.request)[-1]
    for place, row in enumerate(rows):
        colour = "black" if row.knob == "base" else "#029e73" if row.knob in REMEDIES else "#d55e00"
        low, mid, high = (top if rate is None else rate for rate in row.spread)
        if row.proof:
            axes.text(top, place, "none at any rate (proved)", ha="right", va="center", fontsize=8, color=colour)
            continue
        axes.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot([mid], [place], marker=">" if row.spread[1] is None else "o", color=colour, markersize=5)
        if row.knob == "base":
            axes.axvline(mid, color="0.7", linewidth=1, zorder=0)
    names = [row.knob if row.knob == row.value else f"{row.knob}: {row.value}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_xscale("log")
    axes.set_xlim(grid(one.request)[0] / 1.3, top * 1.3)
    axes.set_xlabel("smallest learning rate that explodes: suspects orange, remedies green")
    axes.grid(visible=True, axis="x", which="both", alpha=0.2)
