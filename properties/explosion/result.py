"""What a search answers: the configuration, its gain, and why nothing smaller will do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from mhc_ref.gain import gains, prefixes
from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, decimal
from properties.explosion.configurations import tensor
from properties.explosion.searches.hunt import Stopped

Minimality = Literal["proved", "searched"]

JSON_KEYS = (
    "family",
    "gain",
    "threshold",
    "found",
    "depth",
    "streams",
    "width",
    "value",
    "exact_value",
    "minimality",
    "proof",
    "impossible",
    "seconds",
    "file",
)

_ROWS_SHOWN = 8
_MATRICES_SHOWN = 6


@dataclass(frozen=True)
class Explosion:
    """The smallest configuration whose gain reaches the threshold, or why there is none.

    Attributes:
        request: the question, of the class of its family (`questions.families`).
        known: what is known of the smallest, and why; its `proof` is the argument in a sentence or two.
        configuration: what reaches the threshold; None where nothing was found.
        value: the gain as the reference computes it in the dtype that was asked for.
        exact_value: the gain in mpmath, decimal; all digits where they are few.
        seconds: the time that the search took.
        stopped: what ended the search before it was done; the configuration is then the best so far.
        file: where it is saved, if it is.
        checked: not from a file of format 1, which has no checksum.
    """

    request: Any
    known: Answer
    configuration: Any
    value: float | None
    exact_value: str | None
    seconds: float
    stopped: Stopped = ""
    file: str | None = None
    checked: bool = True

    @property
    def found(self) -> bool:
        """Whether a configuration reaches the threshold; otherwise depth, streams, value are None."""
        return self.configuration is not None

    @property
    def depth(self) -> int | None:
        """How often the residual map is applied."""
        return self.configuration.depth if self.found else None

    @property
    def streams(self) -> int | None:
        return self.configuration.streams if self.found else None

    @property
    def width(self) -> int | None:
        """Channels a stream."""
        return self.configuration.width if self.found else None

    @cached_property
    def operators(self) -> tuple[Matrix, ...]:
        """The n x n residual mappings that are applied, the first to be applied first, exact."""
        return self.request.operators(self.configuration) if self.found else ()

    @property
    def logits(self) -> tuple[Matrix, ...]:
        """Of constrained mixing, the logits of the operators; exact doubles."""
        return getattr(self.configuration, "logits", ())

    @property
    def entries(self) -> int | None:
        """The number of non-trivial entries, or of logits that are not 0."""
        return self.request.entries(self.configuration) if self.found else None

    @property
    def minimality(self) -> Minimality:
        """'proved' where depth and streams (or that there are none) follow from `proof`, else 'searched'."""
        return "proved" if self.known.proved else "searched"

    @property
    def proof(self) -> str:
        return self.known.proof

    @property
    def impossible(self) -> bool:
        """Proved that no configuration within the limits reaches the threshold."""
        return self.known.proved and not self.found

    @property
    def family(self) -> str:
        return self.request.name

    @property
    def gain(self) -> str:
        return self.request.gain

    @property
    def threshold(self) -> int | float:
        exact = self.request.threshold
        return int(exact) if exact.denominator == 1 else float(exact)

    def to_json(self) -> dict[str, Any]:
        """The keys of `JSON_KEYS`, in that order, and the family's own; a number that JSON does not know is null."""
        found = {key: getattr(self, key) for key in JSON_KEYS} | self.request.more(self.configuration)
        if self.value is not None and not math.isfinite(self.value):
            found["value"] = None
        return found

    def to_text(self) -> str:
        """Configuration, weights, a table layer by layer, the exact value, and why it is the smallest."""
        return "\n".join(_lines(self))

    def __str__(self) -> str:
        return self.to_text()


def _lines(one: Explosion) -> list[str]:
    asked = one.request
    goal = f"{asked.name}: {asked.gain} gain {asked.sign} {decimal(asked.threshold)}"
    if asked.gain == "nonfinite":
        goal = f"{asked.name}: something that {asked.dtype} cannot hold"
    if not one.found:
        verdict = "impossible" if one.impossible else f"not found{' within the budget' * bool(one.stopped)}"
        return [f"{goal}: {verdict}", "", one.proof]
    size = f"depth {one.depth}, {one.streams} stream{'s' * (one.streams != 1)}, width {one.width}"
    lines = [f"{goal} at {size} ({one.minimality})", f"{asked.within()}; {asked.counted(one.configuration)}", ""]
    if one.stopped:
        cause = "Ctrl-C" if one.stopped == "interrupted" else "its budget"
        lines.insert(1, f"the search was stopped by {cause}: this is the best so far")
    if about := asked.about(one.configuration):
        lines += [*about, ""]
    if one.logits:
        lines += [*_matrices("logits", one.logits), ""]
    if one.operators:
        lines += [*_matrices("operators", one.operators), "", *_table(one), ""]
    lines.append(f"gain in {asked.dtype}: {one.value!r}")
    if one.exact_value is not None:
        lines.append(f"exact: {one.exact_value}")
    return [*lines, "", f"Why: {one.proof}"]


def _matrices(title: str, matrices: Sequence[Matrix]) -> list[str]:
    """Matrices by sub-layer, equal neighbours together; the middle of a long list is in the file only."""
    groups: list[tuple[int, int, Matrix]] = []
    for matrix, members in itertools.groupby(enumerate(matrices, start=1), key=lambda pair: pair[1]):
        depths = [depth for depth, _ in members]
        groups.append((depths[0], depths[-1], matrix))
    lines = [f"{title}, the first to be applied first"]
    half = _MATRICES_SHOWN // 2
    for index, (first, last, matrix) in enumerate(groups):
        if half <= index < len(groups) - half:
            if index == half:
                lines.append(f"  ... {len(groups) - 2 * half} more")
            continue
        name = f"sub-layer {first}" if first == last else f"sub-layers {first} to {last}"
        cells = [[decimal(entry, 6) for entry in row] for row in matrix]
        width = max(len(cell) for row in cells for cell in row)
        lines.append(f"  {name}:")
        lines += ["    " + "  ".join(cell.rjust(width) for cell in row) for row in cells]
    return lines


def _table(one: Explosion) -> list[str]:
    stack = tensor(one.operators)
    composites = prefixes(stack)
    found = gains(composites)
    x, activations = one.request.path(one.configuration)
    rows_off = (stack.sum(-1) - 1).abs().amax(-1)
    columns_off = (stack.sum(-2) - 1).abs().amax(-1)
    depth = len(stack)
    header = ("sub-layer", "activation max", "forward", "backward", "signed", "spectral", "row defect", "column defect")
    lines = [
        "composite up to each sub-layer, the last first; the defects are of the sub-layer's own matrix",
        _cells(header),
    ]
    kept = [*range(depth - 1, max(depth - 1 - _ROWS_SHOWN, -1), -1)]
    tail = [layer for layer in (1, 0) if layer < kept[-1]]
    for layer in [*kept, *tail]:
        if tail and layer == tail[0] and kept[-1] - tail[0] > 1:
            lines.append("  ...")
        series = (
            activations,
            found.forward,
            found.backward,
            found.forward_signed,
            found.spectral,
            rows_off,
            columns_off,
        )
        lines.append(_cells((str(layer + 1), *(f"{numbers[layer].item():.6g}" for numbers in series))))
    lines.append("input: [" + ", ".join(f"{entry:.6g}" for entry in x.tolist()) + "]")
    return lines


def _cells(cells: Sequence[str]) -> str:
    widths = (9, 14, 11, 11, 11, 11, 10, 13)
    return "  " + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
