"""How near healthy models come to the thresholds of `Monitor`, and what it says of them.

    python -m properties.explosion.healthy [--steps 40] [--only WORDS] [--seed 0] [--json]

Every model of `properties.explosion.healthy.models` is trained with AdamW from its initialisation under a monitor with
the default thresholds. Of each threshold the nearest that any of them came is printed, and of each model what it was
warned of. Models whose library is not installed are named and left out. Exit status 1: a healthy model was warned of.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from typing import Annotated, Any, NamedTuple

import torch
import typer

from properties.explosion.healthy.models import HEALTHY
from properties.explosion.healthy.subject import Healthy
from properties.explosion.monitor import Monitor, Thresholds
from properties.explosion.monitor.thresholds import Nearest

_SCALE = 2.0**32
"""Where the search for the scale of a loss in float16 begins, as in Megatron-LM."""


class Shown(NamedTuple):
    """What a monitor made of a model in training."""

    losses: tuple[float, float]
    nearest: dict[str, Nearest]
    alarms: list[str]
    troubles: int


def watched(healthy: Healthy, steps: int, seed: int) -> Shown:
    """Train a model for so many steps under a monitor with the default thresholds, which looks at every pass."""
    torch.manual_seed(seed)
    subject, source = healthy.build(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(subject.model.parameters(), subject.rate)
    scaler = torch.amp.GradScaler("cpu", init_scale=_SCALE, enabled=subject.half)  # pyright: ignore
    losses: list[float] = []
    with Monitor(subject.model, gradients=True, **subject.options) as monitor:
        for _ in range(steps):
            with torch.autocast("cpu", torch.float16, enabled=subject.half):
                loss = subject.step(source)
            losses.append(loss.item())
            optimiser.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
    alarms = [f"{kind} (step {row['step']}, layer {row['layer']})" for kind, row in monitor.departures.items()]
    return Shown((losses[0], losses[-1]), dict(monitor.nearest), alarms, monitor.troubles)


def main(
    steps: Annotated[int, typer.Option(min=1, max=10000, help="of training")] = 40,
    only: Annotated[str, typer.Option(help="models whose name has these words")] = "",
    seed: int = 0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Train healthy models under the monitor."""
    chosen = {name: one for name, one in HEALTHY.items() if only in name}
    if not chosen:
        typer.echo(f"--only is {only!r}, which no model has; expected a part of {'; '.join(HEALTHY)}", err=True)
        raise typer.Exit(2)
    torch.set_num_threads(1)
    logging.getLogger("properties.monitor").setLevel(logging.CRITICAL)
    found: dict[str, Shown] = {}
    missing: list[str] = []
    for name, one in chosen.items():
        if one.needs is not None and importlib.util.find_spec(one.needs) is None:
            missing.append(f"{name}: {one.needs} is not installed")
            continue
        found[name] = shown = watched(one, steps, seed)
        said = ", ".join(shown.alarms) or "no warning"
        typer.echo(f"{name}: loss {shown.losses[0]:.3f} to {shown.losses[1]:.3f}; {said}", err=as_json)
    for line in missing:
        typer.echo(f"left out: {line}", err=as_json)
    rows = [_row(name, found) for name in vars(Thresholds())]
    if as_json:
        models = {name: {"losses": one.losses, "alarms": one.alarms} for name, one in found.items()}
        typer.echo(json.dumps({"steps": steps, "models": models, "thresholds": rows, "missing": missing}))
    else:
        typer.echo(f"\n| threshold | default | nearest of {len(found)} models | which, where |\n|---|---|---|---|")
        for row in rows:
            value = "none is known" if row["value"] is None else f"{row['value']:.3g}"
            at = "" if row["value"] is None else f"{row['model']}; step {row['step']}, layer {row['layer']}"
            typer.echo(f"| `{row['threshold']}` | {row['default']:g} | {value} | {at} |")
    if any(one.alarms for one in found.values()):
        raise typer.Exit(1)


def _row(name: str, found: dict[str, Shown]) -> dict[str, Any]:
    """Of a threshold: the nearest that a model came, and which."""
    default = getattr(Thresholds(), name)
    empty = {"threshold": name, "default": default, "value": None, "model": None, "step": None, "layer": None}
    known = [(shown.nearest[name], model) for model, shown in found.items() if name in shown.nearest]
    if not known:
        return empty
    least = name in ("overflow", "shrink", "collapse")
    nearest, model = (min if least else max)(known, key=lambda one: one[0].value)
    return empty | {"value": nearest.value, "model": model, "step": nearest.step, "layer": nearest.layer}


if __name__ == "__main__":
    typer.run(main)
