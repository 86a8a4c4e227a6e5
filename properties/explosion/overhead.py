"""What `Monitor` adds to a training step, in per cent of the step without it.

    python -m properties.explosion.overhead [--layers 12 --width 256 --tokens 512 --batch 1 --streams 4] [--json]

A decoder of `layers` layers, two hyper-connections each (dynamic mHC around causal attention and around an MLP of four
times the width), trained with SGD on random numbers. In one run, steps with the monitor and steps without it take
turns, in pairs whose order is drawn, so that what a busy machine does to one step it does to its neighbour too; what
counts is the difference within a pair. Every other pair has a pass that is recorded, and the rest a pass that is only
looked at in the end: those are the two costs that there are, and of a monitor with `every=k` the passes of the first
kind are one in k. Quoted are medians of differences, over the median step without the monitor, and the interval in
which 95 % of 2000 resamplings of the pairs (bootstrap) have them. On a CPU it is processor time that is taken, on one
thread; on a GPU it is that of the wall. Entering and leaving the monitor is done once in a training, and not counted.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn

import mhc_ref
from mhc_ref import PRESETS, Mappings, Params
from properties.explosion.monitor import Monitor
from properties.explosion.searches.hunt import one_thread
from properties.guards.printable import message_of

_WARM_UP, _EVERY = 2, 10
_RESAMPLED, _OUTSIDE = 2000, 0.05


class HyperConnection(nn.Module):
    """The three mappings of a sub-layer: x [B, T, n, C] -> `Mappings`."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        size = 2 * n + n * n
        self.phi = nn.Parameter(0.02 * torch.randn(n * width, size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.alpha = nn.Parameter(torch.full((3,), 0.01))

    def forward(self, x: Tensor) -> Mappings:
        return mhc_ref.mappings(x, Params(self.phi, self.bias, self.alpha), PRESETS.default)


class Attention(nn.Module):
    """Causal attention with heads of 64 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, u: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.into(u).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class SubLayer(nn.Module):
    """x' = A x + h_post^T F(norm(h_pre x))."""

    def __init__(self, n: int, width: int, branch: nn.Module) -> None:
        super().__init__()
        self.connection = HyperConnection(n, width)
        self.branch = nn.Sequential(nn.LayerNorm(width), branch)

    def forward(self, x: Tensor) -> Tensor:
        h = self.connection(x)
        return mhc_ref.post(x, self.branch(mhc_ref.pre(x, h.pre)), h.post, h.res, PRESETS.default)


class Decoder(nn.Module):
    """[B, T, C] -> [B, T, C] through two sub-layers a layer."""

    def __init__(self, layers: int, n: int, width: int) -> None:
        super().__init__()
        self.n = n
        branches: list[nn.Module] = []
        for _ in range(layers):
            mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            branches += [Attention(width), mlp]
        self.sublayers = nn.Sequential(*(SubLayer(n, width, branch) for branch in branches))

    def forward(self, h: Tensor) -> Tensor:
        x: Tensor = self.sublayers(mhc_ref.expand(h, self.n))
        return x.mean(-2)


class Pairs(NamedTuple):
    """Seconds of neighbouring steps, without the monitor and with it."""

    without: list[float]
    watched: list[float]

    def differences(self, drawn: list[int]) -> list[float]:
        return [self.watched[at] - self.without[at] for at in drawn]


def added(recorded: Pairs, passed: Pairs, share: float, generator: random.Random) -> tuple[float, list[float]]:
    """What a monitor adds that records `share` of all passes, in per cent of a step, and its interval.

    Args:
        recorded, passed: of passes that are recorded, and of others; as many pairs.
        generator: draws the resamplings.
    """

    def of(drawn: list[int]) -> float:
        bare = statistics.median(pairs.without[at] for pairs in (recorded, passed) for at in drawn)
        costs = [statistics.median(pairs.differences(drawn)) for pairs in (recorded, passed)]
        return 100 * (share * costs[0] + (1 - share) * costs[1]) / bare

    rounds = range(len(recorded.without))
    drawn = sorted(of(generator.choices(rounds, k=len(rounds))) for _ in range(_RESAMPLED))
    tail = round(_RESAMPLED * _OUTSIDE / 2)
    return of(list(rounds)), [drawn[tail], drawn[-1 - tail]]


def measured(
    layers: int, n: int, width: int, tokens: int, batch: int, rounds: int, device: str, sampled: int
) -> dict[str, Any]:
    """Median seconds of a training step, and what the monitor adds in per cent; of `rounds` pairs of each kind."""
    torch.manual_seed(0)
    model = Decoder(layers, n, width).to(device)
    h = torch.randn(batch, tokens, width, device=device)
    goal = torch.randn_like(h)
    on_gpu = device.startswith("cuda")
    now = time.perf_counter if on_gpu else time.process_time

    def step() -> float:
        began = now()
        loss = (model(h) - goal).square().mean()
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():  # SGD; importing torch.optim takes seconds
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter -= 1e-3 * slope
        if on_gpu:
            torch.cuda.synchronize()
        return now() - began

    at = [0]  # the step, which the monitor asks for
    generator = random.Random(0)
    recorded, passed = Pairs([], []), Pairs([], [])
    with TemporaryDirectory() as folder, one_thread():
        path = Path(folder) / "gains.jsonl"
        monitor = Monitor(
            model,
            path,
            modules=[HyperConnection],
            dialect=PRESETS.default,
            tokens=sampled,
            every=_EVERY,
            clock=lambda: at[0],
        )

        def watched() -> float:
            with monitor:
                return step()

        for turn in range(-_WARM_UP, rounds):
            # the step of the first is one of those that are recorded, the next is not
            for pairs in generator.sample([recorded, passed], 2):
                at[0] += _EVERY
                at[0] += -at[0] % _EVERY + (pairs is passed)
                monitored_first = generator.random() < 0.5
                taken = [watched(), step()] if monitored_first else [step(), watched()]
                if turn >= 0:
                    pairs.watched.append(taken[not monitored_first])
                    pairs.without.append(taken[monitored_first])
        rows = len(path.read_text().splitlines())
    shares = {"every pass": 1.0, f"every {_EVERY}": 1 / _EVERY, "no pass recorded": 0.0}
    costs = {name: added(recorded, passed, share, generator) for name, share in shares.items()}
    return {
        "seconds": statistics.median(recorded.without + passed.without),
        "added_percent": {name: cost for name, (cost, _) in costs.items()},
        "interval_percent": {name: interval for name, (_, interval) in costs.items()},
        "pairs": rounds,
        "recorded": rows // (2 * layers),
        "left": monitor.left,
    }


def main(
    layers: Annotated[int, typer.Option(min=1, max=1000)] = 12,
    streams: Annotated[int, typer.Option(min=1, max=64)] = 4,
    width: Annotated[int, typer.Option(min=1, max=16384)] = 256,
    tokens: Annotated[int, typer.Option(min=1, max=2**20)] = 512,
    batch: Annotated[int, typer.Option(min=1, max=2**16)] = 1,
    pairs: Annotated[int, typer.Option("--pairs", "--rounds", min=1, max=100_000, help="of each kind")] = 40,
    sampled: Annotated[int, typer.Option(min=1, help="tokens that the monitor looks at")] = 64,
    device: str = "cpu",
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure the overhead of the monitor on a training step."""
    try:
        if torch.zeros((), device=device).is_meta:
            raise RuntimeError("there are no numbers on meta, and nothing takes time there")
        found = measured(layers, streams, width, tokens, batch, pairs, device, sampled)
    except (RuntimeError, MemoryError, AssertionError) as error:  # torch's words for a device or a size it cannot have
        sentence = f"{type(error).__name__}: {message_of(error, 300)}"
        typer.echo(f"overhead: on {device!r}, {layers} layers of width {width} cannot be run: {sentence}", err=True)
        if as_json:
            typer.echo(json.dumps({"error": sentence, "exit": 2}))
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
        return
    size = f"{2 * layers} sub-layers, n = {streams}, C = {width}, {batch} x {tokens} tokens, {device}"
    typer.echo(f"{size}; {pairs} pairs of training steps of each kind")
    typer.echo(f"  without the monitor {1000 * found['seconds']:.1f} ms a step")
    for name, cost in found["added_percent"].items():
        low, high = found["interval_percent"][name]
        typer.echo(f"  {name:17}{cost:+6.2f} %, 95 % of resamplings from {low:+.2f} to {high:+.2f} %")


if __name__ == "__main__":
    typer.run(main)
