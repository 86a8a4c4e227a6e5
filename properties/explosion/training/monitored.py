"""One training run of a decoder under the monitor, on any device, written as it goes.

    python -m properties.explosion.training.monitored hc --seed 0 --device cuda --time 90 --out hc-0.json

The decoder, its data and its schedule are those of `properties.explosion.training.reproduction`, as a module in float32
under `Monitor`, so that a run is what somebody who trains a model of theirs would have. Of every recorded pass the file
has the gains of the whole path and the loss. It is written whole every few seconds, and the run ends evenly when its
time is over: what was trained until then is what the file says.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from properties.core.device import device_of
from properties.explosion.monitor import Monitor
from properties.explosion.training.data import tokens
from properties.explosion.training.initialisations import shapes
from properties.explosion.training.module import Decoder, Mixing, SubLayer
from properties.explosion.training.optimisation import Optimiser
from properties.explosion.training.reproduction import setup_of
from properties.explosion.training.setup import Setup
from properties.guards.whole import write_whole

SCHEMA = 1
"""The number of the form of the file."""
GAINS = ("forward", "backward", "signed")
"""The three numbers of a point: A_L ... A_1 by rows, by columns, and by signed row sums, at the worst sampled token."""
WRITE = 2.0
"""Seconds between two writings."""


class WholePath:
    """The gains of the whole path at each recorded pass, from the rows of a monitor."""

    def __init__(self) -> None:
        self.gains: dict[int, list[float | None]] = {}
        self.growth = 0.0

    def __call__(self, step: int, row: Mapping[str, Any]) -> None:
        """A row of a layer: the last one has the forward gains of the path, the first one its backward gain."""
        point = self.gains.setdefault(step, [None, None, None])
        point[0], point[2] = row["forward_gain"], row["signed_forward_gain"]  # of P_l: the last layer's stay
        if point[1] is None:
            point[1] = row["backward_gain"]  # of S_l: the first layer's
        if row["growth"] is not None and math.isfinite(row["growth"]):
            self.growth = max(self.growth, row["growth"])


def run(
    setup: Setup, seed: int, device: str, rate: float, seconds: float, every: int, out: Path, dtype: torch.dtype
) -> dict[str, Any]:
    """Train one decoder and return what the file says at the end."""
    place, began = torch.device(device), time.monotonic()
    torch.manual_seed(seed)
    model = Decoder(setup, seed, dtype).to(place)
    data = tokens(setup, seed).to(place)
    parameters = list(model.parameters())
    weights = _in_a_row(parameters)
    optimiser = Optimiser(setup, torch.tensor([rate], dtype=dtype, device=place), weights)
    path, losses, done, ended = WholePath(), dict[int, float](), 0, "finished"
    dialect = setup.residual.dialect
    watched: dict[str, Any] = {"blocks": [SubLayer]} if dialect is None else {"modules": [Mixing], "dialect": dialect}
    written = time.monotonic()
    with Monitor(model, every=every, sinks=[path], **watched) as monitor:

        def told() -> dict[str, Any]:
            return {
                **{"schema": SCHEMA, "residual": setup.residual.name, "seed": seed, "device": device},
                **{"weights": sum(math.prod(shape) for shape in shapes(setup).values())},
                **{"setup": {name: getattr(setup, name) for name in SIZES}, "rate": rate, "dtype": str(dtype)[6:]},
                **{"asked": setup.steps, "steps": done, "ended": ended, "seconds": time.monotonic() - began},
                "losses": losses,
                "gains": path.gains,
                "growth": path.growth,
                "alarms": sorted(monitor.departures),
                "troubles": monitor.troubles,
            }

        try:
            for step in range(setup.steps):
                if seconds and time.monotonic() - began > seconds:
                    ended = f"after {seconds:.0f} s"
                    break
                loss = model(data[step])
                weights = optimiser.step(weights, _in_a_row(torch.autograd.grad(loss, parameters)))
                with torch.no_grad():
                    parts = weights.squeeze(0).split([one.numel() for one in parameters])
                    for one, part in zip(parameters, parts, strict=True):
                        one.copy_(part.view_as(one))
                done = step + 1
                if step % every == 0 or done == setup.steps:
                    losses[step] = loss.item()
                if time.monotonic() - written > WRITE:
                    write_whole(out, json.dumps({**told(), "ended": "running"}).encode())
                    written = time.monotonic()
        except KeyboardInterrupt:  # as is asked for shortly before the deadline of a part
            ended = "stopped"
        found = told()
    write_whole(out, json.dumps(found).encode())
    return found


def _in_a_row(tensors: Sequence[Tensor]) -> Tensor:
    """All of them in one vector, as one run of `Optimiser` [1, P]."""
    return torch.cat([one.detach().flatten() for one in tensors]).unsqueeze(0)


SIZES = ("depth", "streams", "width", "tokens", "sequences", "heads", "steps", "schedule", "weight_decay", "clip")
"""Fields of the setup that the file names."""


def main(given: Sequence[str] | None = None) -> int:
    """Train one run. 0, or 2 where the device is not here."""
    parser = argparse.ArgumentParser(prog="python -m properties.explosion.training.monitored", description=__doc__)
    parser.add_argument("residual", help="plain, hc, mhc, ...")
    counts = {"depth": 24, "width": 256, "length": 64, "sequences": 4, "steps": 300, "every": 10}
    for name, value in counts.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--time", type=float, default=0.0, help="seconds after which it ends; 0: when it is done")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    asked = parser.parse_args(given)
    for name in counts:
        if getattr(asked, name) < 1:
            parser.error(f"--{name} {getattr(asked, name)}: expected a number from 1 on")
    torch.set_num_threads(1)
    try:
        missing = device_of(asked.device).missing()
        setup = setup_of(asked.residual, asked.depth, asked.width, asked.length, asked.sequences, asked.steps)
    except (LookupError, ValueError) as error:
        parser.error(str(error))
    if missing is not None:
        parser.error(f"--device {asked.device}: there is {missing} here")
    logging.getLogger("properties.monitor").setLevel(logging.CRITICAL)  # what it warns of stands in the file
    dtype = getattr(torch, asked.dtype)
    found = run(setup, asked.seed, asked.device, asked.rate, asked.time, asked.every, asked.out, dtype)
    last = [point for _, point in sorted(found["gains"].items())][-1:]
    print(f"{asked.residual}, seed {asked.seed}: {found['steps']} steps, {found['weights']:,} weights, {last}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
