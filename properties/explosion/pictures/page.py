"""`--plot FILE.html`: an explosion or an atlas as a page that opens from disk, without matplotlib."""

from __future__ import annotations

import itertools
import math

from mhc_ref.gain import prefixes
from properties.explosion.atlas import CONSTRAINED, NEAR_AVERAGE, Atlas
from properties.explosion.composite import Matrix, decimal
from properties.explosion.configurations import tensor
from properties.explosion.models.grown import Grown
from properties.explosion.result import Explosion
from properties.report.page.figures import Chart, Code, Heat, Heats, Part, Section, Table, Words, figures

_LAYERS = 24
"""Sub-layers that are drawn; of more, the first and the last."""
_WIDEST = 16


def explosion_page(explosion: Explosion) -> bytes:
    """What was found: the gain as it grows, the matrices layer by layer, and what they make of an input."""
    return figures(*explosion_sections(explosion))


def explosion_sections(explosion: Explosion) -> tuple[str, list[Section]]:
    """The title and the parts of the page of an explosion."""
    asked, found = explosion.request, explosion.configuration
    gain = explosion.value if explosion.value is not None else math.nan
    size = f"depth {explosion.depth}, {explosion.streams} streams, width {explosion.width}"
    title = f"{asked.name}: {asked.gain} gain {decimal(asked.threshold, 8)} at {size}"
    first: list[Part] = [
        Words(f"The {asked.gain} gain is {gain:.6g}. The size is {explosion.minimality}: {explosion.proof}"),
        Words(f"{asked.within()}; {asked.counted(found)}."),
    ]
    reached = [1.0, *asked.curve(found)]
    limits = asked.bounds(found)
    lines = {"this stack": list(enumerate(reached))}
    if limits:
        lines["bound (proved)"] = list(enumerate([1.0, *limits]))
    along = "sub-layers, counted from the output" if asked.gain == "backward" else "sub-layers"
    chart = Chart("How the gain grows", along, "gain", lines, level=float(asked.threshold))
    sections = [Section("What was found", first), Section("Growth", [chart])]
    if isinstance(found, Grown):
        lines = {name: [(float(k), size) for k, size in line] for name, line in found.behind().items()}
        behind = Chart("The largest activation behind each block of the whole model", "blocks", "activation", lines)
        sections.append(Section("Block by block", [behind]))
    if explosion.operators and len(explosion.operators[0]) <= _WIDEST:
        sections.append(Section("Layer by layer", _layers(explosion)))
    sections.append(Section("In words", [Code(explosion.to_text(), "The answer as the terminal has it")]))
    return title, sections


def _layers(explosion: Explosion) -> list[Part]:
    """Each matrix, the product up to it, and the streams that the worst input becomes."""
    stack = tensor(explosion.operators)
    composites = prefixes(stack)
    x, activations = explosion.request.path(explosion.configuration)
    parts: list[Part] = [
        Words(
            "A is the matrix of a sub-layer, and the product is of all up to it. The product's colours have one scale."
        )
    ]
    largest = float(composites.abs().max())
    entries = float(stack.abs().max())
    groups = [
        list(members) for _, members in itertools.groupby(range(len(stack)), key=lambda k: explosion.operators[k])
    ]
    ends = [group[-1] for group in groups]
    half = _LAYERS // 2
    shown = ends if len(ends) <= _LAYERS else [*ends[:half], *ends[-half:]]
    names = {group[-1]: _name(group) for group in groups}
    for number, layer in enumerate(shown):
        if number == half and len(ends) > _LAYERS:
            parts.append(Words(f"{len(ends) - _LAYERS} different matrices between are in the file only."))
        heats = [
            Heat(f"{names[layer]}: A", _rows(explosion.operators[layer]), entries),
            Heat("the product so far", composites[layer].tolist(), largest),
        ]
        if x.ndim == 1 and len(x) == composites.shape[-1]:
            heats.append(Heat("the streams", (composites[layer] @ x.to(composites)).unsqueeze(-1).tolist(), largest))
        parts.append(Heats(heats))
    rows = [(str(layer + 1), f"{activations[layer].item():.6g}") for layer in shown]
    parts.append(Table("Activations", ("sub-layer", "largest activation"), rows))
    return parts


def _name(group: list[int]) -> str:
    first, last = group[0] + 1, group[-1] + 1
    return f"sub-layer {first}" if first == last else f"sub-layers {first} to {last}"


def _rows(matrix: Matrix) -> list[list[float]]:
    return [[float(entry) for entry in row] for row in matrix]


def atlas_page(one: Atlas) -> bytes:
    """Depths against deviations: closed forms as lines, what the search found as points, and every number below."""
    lines: dict[str, list[tuple[float, float]]] = {}
    points: dict[str, list[tuple[float, float]]] = {}
    rows: list[tuple[str, ...]] = []
    for point in one.points:
        rows.append(
            (
                f"{point.family}, n = {point.streams}",
                "any logits" if point.deviation is None else decimal(point.deviation, 8),
                "none" if point.frontier is None else str(point.frontier),
                "none" if point.searched is None else str(point.searched),
                point.impossible,
            )
        )
        if point.deviation is None or point.family == CONSTRAINED:
            continue
        name = f"{point.family}, n = {point.streams}"
        if point.frontier is not None and point.family != NEAR_AVERAGE:  # which has the frontier of the other
            lines.setdefault(f"{name}: closed form", []).append((float(point.deviation), float(point.frontier)))
        if point.searched is not None:
            points.setdefault(f"{name}: searched", []).append((float(point.deviation), float(point.searched)))
    lines = {name: sorted(series) for name, series in lines.items()}
    goal = decimal(one.threshold, 8)
    chart = Chart(f"Smallest depth whose gain reaches {goal}", "deviation d", "depth", lines, points, log_x=True)
    head = ("family", "deviation", "depth by the closed form", "depth that was found", "why none")
    verdict = (
        "Every search found the depth of the closed form." if one.agree else "A search differs from a closed form."
    )
    cut = "" if one.complete else " The atlas was stopped before its end."
    sections = [
        Section("Depth against deviation", [Words(verdict + cut), chart]),
        Section("Every point", [Table("Every point of the atlas", head, rows)]),
    ]
    return figures(f"Minimal explosions of gain {goal}", sections)
