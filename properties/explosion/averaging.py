"""What is seen of a model whose matrices are averaged over tokens, beside what `Monitor` reports of the same pass.

    python -m properties.explosion.averaging [--layers 86 --streams 4 --tokens 64 --scale 2 --seed 0] [--json]

A stack of DeepSeek-V4's mixing with random logits for each layer and token, of one iteration and of twenty, and one of
unconstrained mixing in which half of the tokens have I + D where the others have I - D. The average that some monitors
take is of the matrices, over tokens, before they are multiplied; what they report are the sums on one axis of the
product: the one that is normalised last, whose sums are 1 whatever happens to the other.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import mhc_ref
from mhc_ref import PRESETS, Dialect
from properties.explosion.monitor import Monitor


class Mixing(nn.Module):
    """x [T, n, C] to its h_res [T, n, n], which do not depend on it."""

    def __init__(self, matrices: Tensor) -> None:
        super().__init__()
        self.matrices = nn.Buffer(matrices)

    def forward(self, x: Tensor) -> Tensor:
        return self.matrices


class Stack(nn.Module):
    """x' = A x, layer after layer; the transpose of what is emitted is applied, as both dialects have it."""

    def __init__(self, matrices: Tensor) -> None:
        super().__init__()
        self.mixing = nn.ModuleList(Mixing(one) for one in matrices)

    def forward(self, x: Tensor) -> Tensor:
        for mixing in self.mixing:
            x = mixing(x).mT @ x
        return x


def compared(layers: int, n: int, tokens: int, scale: float, seed: int) -> list[dict[str, Any]]:
    """For each of three models what averages say, on one axis and on both, and the row of the monitor's last layer."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(layers, tokens, n, n, generator=generator, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(tokens)[:tokens, None, None]
    apart = 0.05 * torch.randn(layers, 1, n, n, generator=generator, dtype=torch.float64).abs()
    opposed = torch.eye(n, dtype=torch.float64) + signs * apart
    once, often = (PRESETS["DEEPSEEK_V4"].with_(iterations=iterations) for iterations in (1, 20))
    models: list[tuple[str, Dialect, Tensor]] = [
        ("DeepSeek-V4, 1 iteration", once, mhc_ref.project(logits, once)),
        ("DeepSeek-V4, 20 iterations", often, mhc_ref.project(logits, often)),
        ("unconstrained, opposite tokens", PRESETS["HYPER_CONNECTIONS"], opposed),
    ]
    found: list[dict[str, Any]] = []
    for name, dialect, matrices in models:
        model, x = Stack(matrices), torch.ones(tokens, n, 1, dtype=torch.float64)
        with Monitor(model, modules=[Mixing], dialect=dialect, tokens=tokens, thresholds=False) as monitor:
            model(x)
        product = torch.eye(n, dtype=torch.float64)
        for one in matrices.mean(1).mT:
            product = one @ product
        rows, columns = product.sum(-1), product.sum(-2)
        sums: dict[str, list[float]] = {}
        for axis in ("row", "column"):
            least, most = ([row[f"{end}_{axis}_sum"] for row in monitor.rows] for end in ("min", "max"))
            sums[axis] = [min(least), max(most)]
        found.append(
            {
                "model": name,
                "averaged_row_sums": [rows.min().item(), rows.max().item()],
                "averaged_column_sums": [columns.min().item(), columns.max().item()],
                "row_sums": sums["row"],
                "column_sums": sums["column"],
            }
        )
    return found


def main(
    layers: Annotated[int, typer.Option(min=1, max=10000)] = 86,
    streams: Annotated[int, typer.Option(min=2, max=64)] = 4,
    tokens: Annotated[int, typer.Option(min=2, max=100000)] = 64,
    scale: Annotated[float, typer.Option(min=0, help="standard deviation of the logits")] = 2.0,
    seed: int = 0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compare averages over tokens, on one axis, with what the monitor reports."""
    if not math.isfinite(scale):
        raise typer.BadParameter(f"--scale is {scale}; expected a finite number")
    found = compared(layers, streams, tokens, scale, seed)
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
        return
    typer.echo(f"{layers} layers, n = {streams}, {tokens} tokens, logits of standard deviation {scale:g}, seed {seed}")
    typer.echo(" " * 34 + f"{'averaged over tokens':^40}{'the worst token, monitor':^40}")
    typer.echo(" " * 34 + 2 * f"{'row sums':>20}{'column sums':>20}")
    for one in found:
        pairs = [" .. ".join(f"{value:.4g}" for value in one[key]) for key in _PAIRS]
        typer.echo(f"  {one['model']:32}" + "".join(f"{pair:>20}" for pair in pairs))


_PAIRS = ("averaged_row_sums", "averaged_column_sums", "row_sums", "column_sums")


if __name__ == "__main__":
    typer.run(main)
