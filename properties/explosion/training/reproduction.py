"""A larger run, for comparison with published ones: `python -m properties.explosion.training.reproduction`.

Plain, hyper-connections and constrained mixing at one size, with equal seeds and data: gains and losses as they go.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from properties.explosion.training.data import tokens
from properties.explosion.training.decoder import forward
from properties.explosion.training.initialisations import initial
from properties.explosion.training.measures import COMPOSITE, composite, gain_of
from properties.explosion.training.residuals import residual_of
from properties.explosion.training.runs import Runs, train
from properties.explosion.training.scan import final
from properties.explosion.training.setup import Setup

KINDS = ("plain", "hc", "mhc", "mhc-lite")


def setup_of(kind: str, depth: int, width: int, length: int, sequences: int, steps: int) -> Setup:
    """As published runs are set up, where that is known: cosine rate, weight decay 0.1, gradients clipped at 1."""
    residual = residual_of(kind)
    return Setup(
        residual,
        depth=depth,
        streams=1 if residual.dialect is None else 4,
        width=width,
        tokens=length,
        sequences=sequences,
        heads=4,
        schedule="cosine",
        weight_decay=0.1,
        clip=1.0,
        steps=steps,
    )


def row(setup: Setup, runs: Runs, seeds: Sequence[int]) -> str:
    """A line of the table: the largest forward gain so far by seed, and the gains of the last weights."""
    peaks = ", ".join(f"{one:.4g}" for one in runs.gains[-1].tolist())
    ends = [
        composite(forward(setup, weights, tokens(setup, seed)[-1]).operators)
        for weights, seed in zip(runs.weights, seeds, strict=True)
    ]
    last = " / ".join(f"{max(gain_of(end, gain).item() for end in ends):.4g}" for gain in COMPOSITE)
    loss = ", ".join(f"{one:.3f}" for one in final(runs).tolist())
    return f"| {setup.residual.name} | {len(initial(setup, 0)):,} | {peaks} | {last} | {loss} |"


def main(given: Sequence[str] | None = None) -> None:
    """Train each kind, print a table row when it is done, and how it went at a few steps before."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("depth", 24), ("width", 80), ("length", 64), ("sequences", 4), ("steps", 300), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="KIND")
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    seeds = range(asked.seeds)
    print(
        "| residual | weights | largest forward gain, by seed | forward / backward / signed at the end | final loss |"
    )
    print("|---|---|---|---|---|")
    for kind in asked.kinds:
        setup = setup_of(kind, asked.depth, asked.width, asked.length, asked.sequences, asked.steps)
        begun = time.process_time()
        runs = train(setup, "forward", [asked.rate] * len(seeds), list(seeds))
        print(row(setup, runs, seeds), flush=True)
        shown = sorted({0, *range(0, asked.steps, max(asked.steps // 6, 1)), asked.steps - 1})
        path = "; ".join(f"step {step + 1}: {runs.gains[step].median():.3g}" for step in shown)
        print(f"<!-- {kind}: {path}; {time.process_time() - begun:.0f} s of one core -->", flush=True)


if __name__ == "__main__":
    main()
