"""What a search answers: the configuration, its gain, and why nothing smaller will do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.gain import Gains, gains, prefixes
from mhc_ref.projection import compute_dtype
from properties.explosion.composite import Matrix, decimal, measure
from properties.explosion.request import Request
from properties.explosion.searches.blocks import Block
from properties.explosion.searches.blocks import activations as block_activations
from properties.explosion.searches.dynamic import Dynamic

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
        request: what was asked.
        found: a configuration reaches the threshold; `operators` is it. Otherwise depth, streams, value are None.
        depth, streams, width: of the configuration. Depth counts applications of the residual map.
        operators: the n x n matrices that are applied, the first to be applied first, exact.
        logits: of constrained mixing, the logits of the operators; exact doubles.
        entries: the number of non-trivial entries, or of logits that are not 0.
        value: the gain as the reference computes it in the dtype that was asked for.
        exact_value: the gain in mpmath, decimal; all digits where they are few.
        minimality: "proved" where depth and streams (or that there are none) follow from `proof`, else "searched".
        proof: the argument in a sentence or two.
        impossible: proved that no configuration within the limits reaches the threshold.
        seconds: the time that the search took.
        stopped: what ended the search before it was done; the configuration is then the best so far.
        block: of family block, its gates and weight; `operators` are then the residual mappings alone.
        dynamic: of hc:dynamic, its weights and input; `operators` are then what this input meets.
        file: where it is saved, if it is.
        checked: not from a file of format 1, which has no checksum.
    """

    request: Request
    found: bool
    depth: int | None
    streams: int | None
    width: int | None
    operators: tuple[Matrix, ...]
    logits: tuple[Matrix, ...]
    entries: int | None
    value: float | None
    exact_value: str | None
    minimality: Minimality
    proof: str
    impossible: bool
    seconds: float
    stopped: Literal["", "interrupted", "budget"] = ""
    block: Block | None = None
    dynamic: Dynamic | None = None
    file: str | None = None
    checked: bool = True

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
        """The keys of `JSON_KEYS`, in that order; a number that JSON does not know (inf, nan) is null."""
        found = {key: getattr(self, key) for key in JSON_KEYS}
        if self.value is not None and not math.isfinite(self.value):
            found["value"] = None
        return found

    def to_text(self) -> str:
        """Configuration, weights, a table layer by layer, the exact value, and why it is the smallest."""
        return "\n".join(_lines(self))

    def __str__(self) -> str:
        return self.to_text()


def tensor(operators: Sequence[Matrix]) -> Tensor:
    """The operators rounded to float64, [L, n, n]."""
    return torch.tensor([[[float(entry) for entry in row] for row in one] for one in operators], dtype=torch.float64)


def measured(operators: Sequence[Matrix], gain: str, dtype: str) -> float:
    """The gain of the composite as it comes out in a dtype: operators and every partial product are stored in it."""
    storage: torch.dtype = getattr(torch, dtype)
    stored = tensor(operators).to(storage)
    product = stored[0]
    for one in stored[1:]:
        product = (one.to(compute_dtype(storage)) @ product.to(compute_dtype(storage))).to(storage)
    return _named(gains(product.double()), gain).item()


def _named(found: Gains, gain: str) -> Tensor:
    return found.forward_signed if gain == "signed" else getattr(found, measure(gain))


def worst_input(composite: Tensor, gain: str) -> Tensor:
    """The input [n] within 1 whose output shows the gain: the signs of a row, one stream, ones, a direction."""
    n = composite.shape[-1]
    if gain == "signed":
        return torch.ones(n, dtype=composite.dtype)
    if gain == "backward":
        return torch.eye(n, dtype=composite.dtype)[int(composite.abs().sum(0).argmax())]
    if gain == "spectral":
        direction = torch.linalg.svd(composite).Vh[0]
        return direction / direction.abs().max() * direction.sum().sign().add(0.5).sign()
    signs = composite[int(composite.abs().sum(1).argmax())].sign()
    return torch.where(signs == 0, 1.0, signs)


def _lines(one: Explosion) -> list[str]:
    asked = one.request
    goal = f"{asked.name}: {asked.gain} gain {asked.sign} {decimal(asked.threshold)}"
    if asked.gain == "nonfinite":
        goal = f"{asked.name}: something that {asked.dtype} cannot hold"
    if not one.found:
        verdict = "impossible" if one.impossible else "not found within the budget"
        return [f"{goal}: {verdict}", "", one.proof]
    size = f"depth {one.depth}, {one.streams} stream{'s' * (one.streams != 1)}, width {one.width}"
    lines = [f"{goal} at {size} ({one.minimality})", f"{_limits(asked)}; {one.entries} non-trivial entries", ""]
    if one.stopped:
        cause = "Ctrl-C" if one.stopped == "interrupted" else "its budget"
        lines.insert(1, f"the search was stopped by {cause}: this is the best so far")
    if one.block is not None:
        gates = f"gate logits {one.block.pre} (pre) and {one.block.post} (post) in every stream"
        lines += [f"{gates}; weight {decimal(one.block.weight)} on channel 0; residual logits 0", ""]
    if one.dynamic is not None:
        weights = ", ".join(map(str, one.dynamic.weights))
        lines += [f"weights w = [{weights}] in every sub-layer; the input stands below the table", ""]
    if one.logits:
        lines += [*_matrices("logits", one.logits), ""]
    lines += [*_matrices("operators", one.operators), "", *_table(one), ""]
    lines += [f"gain in {asked.dtype}: {one.value!r}", f"exact: {one.exact_value}", "", f"Why: {one.proof}"]
    return lines


def _limits(asked: Request) -> str:
    if asked.family == "block":
        held = {"none": "no normalisation", "pre": "pre-norm", "post": "post-norm"}[asked.norm]
        return f"blocks with a {asked.branch} branch of norm at most {decimal(asked.branch_bound)} and {held}"
    if asked.family == "target":
        return f"any finite logits, projected by {asked.target}"
    if asked.family == "mhc":
        changed = ", ".join(f"{name}={mine!r}" for name, (mine, _) in asked.dialect.difference(Dialect()).items())
        return f"any finite logits, projected as the dialect says ({changed or 'the defaults'})"
    if asked.dynamic and asked.identity_bound is not None:
        return f"A(x) = I + {decimal(asked.identity_bound)} tanh(sign(x_s) w), transposed, and any input within 1"
    if asked.entry_bound is not None:
        return f"mixing matrices with every entry within {decimal(asked.entry_bound)}"
    if asked.identity_bound is not None:
        return f"mixing matrices with every entry within {decimal(asked.identity_bound)} of the identity's"
    return f"x + g F(x) with F of norm 1 and |g| <= {decimal(asked.branch_bound)}"


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
    x = worst_input(composites[-1], one.gain)
    activations = (composites @ x).abs().amax(-1)
    if one.block is not None:
        x = torch.ones(one.block.streams, dtype=torch.float64)
        run = [state.double().abs().max() for state in block_activations(one.request, one.block, one.request.dtype)]
        activations = torch.stack(run)
    if one.dynamic is not None:
        x = torch.tensor([float(entry) for entry in one.dynamic.input], dtype=torch.float64)
        activations = (composites @ x).abs().amax(-1)
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
