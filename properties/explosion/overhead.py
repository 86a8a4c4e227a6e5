"""What `Monitor` costs while a model trains: seconds a step without it, with it, and with one pass in ten recorded.

    python -m properties.explosion.overhead [--layers 12 --width 256 --tokens 512 --batch 1 --streams 4] [--json]

A decoder of `layers` layers, two hyper-connections each (dynamic mHC around causal attention and around an MLP of four
times the width), trained with SGD on random numbers. In every round the three take turns, each first as often as the
others, and are compared with one another; what is quoted is the median of these ratios, and the middle half of them. On
a CPU it is processor time that is taken, which a busy machine disturbs less; on a GPU it is that of the wall.
"""

from __future__ import annotations

import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import mhc_ref
from mhc_ref import PRESETS, Mappings, Params
from properties.explosion.monitor import Monitor
from properties.guards.printable import message_of

_WARM_UP = 2


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


def measured(
    layers: int, n: int, width: int, tokens: int, batch: int, rounds: int, device: str, sampled: int
) -> dict[str, Any]:
    """Median seconds of a training step, and what the monitor adds in per cent."""
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

    folder = TemporaryDirectory()
    place = Path(folder.name)
    seconds: dict[str, list[float]] = {"without": [], "with": [], "every 10": []}
    watched = Monitor(model, place / "all.jsonl", modules=[HyperConnection], dialect=PRESETS.default, tokens=sampled)
    tenth = Monitor(
        model, place / "tenth.jsonl", modules=[HyperConnection], dialect=PRESETS.default, tokens=sampled, every=10
    )
    for turn in range(_WARM_UP + rounds):
        turns = [("without", None), ("with", watched), ("every 10", tenth)]
        for name, monitor in turns[turn % 3 :] + turns[: turn % 3]:
            with monitor or nullcontext():
                # ten passes each, of which the last monitor records one
                taken = [step() for _ in range(10 if turn >= _WARM_UP else 1)]
            if turn >= _WARM_UP:
                seconds[name].append(statistics.fmean(taken))
    folder.cleanup()
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {
        name: sorted(100 * (one / bare - 1) for one, bare in zip(seconds[name], seconds["without"], strict=True))
        for name in ("with", "every 10")
    }
    quarter = len(seconds["without"]) // 4
    return {
        "seconds": middle,
        "added_percent": {name: statistics.median(found) for name, found in ratios.items()},
        "middle_half_percent": {name: [found[quarter], found[-1 - quarter]] for name, found in ratios.items()},
        "rows": len(watched.rows),
        "left": watched.left,
    }


def main(
    layers: Annotated[int, typer.Option(min=1, max=1000)] = 12,
    streams: Annotated[int, typer.Option(min=1, max=64)] = 4,
    width: Annotated[int, typer.Option(min=1, max=16384)] = 256,
    tokens: Annotated[int, typer.Option(min=1, max=2**20)] = 512,
    batch: Annotated[int, typer.Option(min=1, max=2**16)] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="of ten steps each")] = 5,
    sampled: Annotated[int, typer.Option(min=1, help="tokens that the monitor looks at")] = 64,
    device: str = "cpu",
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure the overhead of the monitor on a training step."""
    try:
        if torch.zeros((), device=device).is_meta:
            raise RuntimeError("there are no numbers on meta, and nothing takes time there")
        found = measured(layers, streams, width, tokens, batch, rounds, device, sampled)
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
    typer.echo(f"{size}; {rounds} rounds of ten training steps each")
    for name, taken in found["seconds"].items():
        extra = ""
        if name in found["added_percent"]:
            low, high = found["middle_half_percent"][name]
            extra = f"  {found['added_percent'][name]:+.1f} %, half of the rounds within {low:+.1f} % and {high:+.1f} %"
        typer.echo(f"  {name:10}{1000 * taken:10.1f} ms{extra}")


if __name__ == "__main__":
    typer.run(main)
