"""The picture of an atlas: closed-form frontiers as lines, searched minima as points, both axes logarithmic."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from properties.explosion.atlas import (
    BLOCK,
    CONSTRAINED,
    NEAR_AVERAGE,
    NEAR_IDENTITY,
    PRE_NORM,
    RESIDUAL,
    Atlas,
    asked_of,
)
from properties.explosion.composite import decimal
from properties.explosion.pictures.explosion import figure_of, is_page, saved
from properties.explosion.pictures.page import atlas_page
from properties.explosion.questions.constrained import ConstrainedMixing
from properties.guards.whole import write_whole

_STEPS = 120
_PANELS = (
    ((RESIDUAL, NEAR_IDENTITY, NEAR_AVERAGE), "the residual path alone"),
    ((BLOCK, PRE_NORM), "with a branch of norm d"),
)
_COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#949494", "#56b4e9")
_MARKS = {RESIDUAL: "x", NEAR_IDENTITY: "o", NEAR_AVERAGE: "+", BLOCK: "o", PRE_NORM: "s"}


def draw_atlas(one: Atlas, path: str | Path) -> None:
    """Draw an atlas to `path`, in the format that its ending names.

    Raises:
        properties.explosion.PictureError: matplotlib is not installed, or the format is unknown.
    """
    if is_page(path):
        write_whole(Path(path), atlas_page(one))
        return
    figure = figure_of((10.5, 5.2))
    axes: Any = figure.subplots(1, 2, sharey=True)
    for panel, (families, title) in zip(axes, _PANELS, strict=True):
        _panel(panel, one, families)
        panel.set_title(title, fontsize=10)
    axes[0].set_ylabel(f"smallest depth whose gain reaches {decimal(one.threshold, 8)}")
    capped = [point for point in one.points if point.family == CONSTRAINED and point.impossible]
    if capped:
        text = f"mHC, n ≤ {max(point.streams for point in capped)}, any logits:\nno depth at all (gain below n, proved)"
        box = {"boxstyle": "round", "facecolor": "#e8f3ec", "edgecolor": "#029e73"}
        axes[0].text(0.97, 0.96, text, transform=axes[0].transAxes, ha="right", va="top", fontsize=8.5, bbox=box)
    figure.suptitle("Minimal explosions: lines are proved, marks were searched")
    saved(figure, path)


def _panel(axes: Any, one: Atlas, families: tuple[str, ...]) -> None:
    deviations = sorted({float(point.deviation) for point in one.points if point.deviation is not None})
    low, high = deviations[0] / 1.15, deviations[-1] * 1.15
    ratio = (high / low) ** (1 / _STEPS)
    grid = [Fraction(low * ratio**step).limit_denominator(10**4) for step in range(_STEPS + 1)]
    for family, n in dict.fromkeys((point.family, point.streams) for point in one.points if point.family in families):
        colour = "black" if family == PRE_NORM else _COLOURS[(n - 1) % len(_COLOURS)]
        if family in (NEAR_IDENTITY, BLOCK, PRE_NORM):  # the other two have the same frontiers
            asked = [asked_of(family, n, deviation, one.threshold, max_depth=one.max_depth) for deviation in grid]
            depths = [each.frontier(n) for each in asked if not isinstance(each, ConstrainedMixing)]
            line = [float("nan") if depth is None else depth for depth in depths]
            axes.step(list(map(float, grid)), line, where="mid", color=colour, linewidth=1.1)
        found = [point for point in one.points if (point.family, point.streams) == (family, n) and point.searched]
        axes.plot(
            [float(point.deviation or 0) for point in found],
            [point.searched for point in found],
            linestyle="",
            marker=_MARKS[family],
            markersize=9 if family == NEAR_AVERAGE else 5,
            markerfacecolor="white" if family == NEAR_IDENTITY else colour,
            color=colour,
            label=_label(family, n),
            zorder=3 if family == NEAR_IDENTITY else 4,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(low, high)
    axes.set_xlabel("deviation d of a weight")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=7.5, loc="lower left")


def _label(family: str, n: int) -> str:
    rates = {
        RESIDUAL: "x + g F(x): 1 + d",
        NEAR_IDENTITY: f"HC, I + E, n = {n}: 1 + {'' if n == 1 else n}d",
        NEAR_AVERAGE: "HC, J/n + E, n streams: the same" if n == 1 else "_",  # one entry stands for all
        BLOCK: f"block, linear branch, n = {n}: 1 + {2 * n}d",
        PRE_NORM: "behind a pre-norm: 1 + 2dL in all",
    }
    return rates[family]
