"""What whole models that libraries ship do to a signal at initialisation, by depth, as a table in Markdown.

    python -m properties.explosion.models.published [--only WORDS] [--depth 1 --depth 2 ...] [--inputs 4] [--tokens 8]
        [--seed 0] [--json]

Each model of `properties.explosion.models.shipped` is built with so many layers and given random inputs. Then

    mixing        the largest absolute row sum of A_L ... A_1 of any token, where hyper-connections mix the streams
    activations   the norm of what leaves the last residual block over that of what enters the first
    gradients     the norm of the gradient at what enters the first over that of a random one at what leaves the last

and of the last two the median over inputs. "not finite" is a number that float32 does not hold, in a model of float32.
A model whose library is not installed is named and left out.
"""

from __future__ import annotations

import importlib.util
import json
import math
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from properties.explosion.models.gains import Meter, short
from properties.explosion.models.inputs import Kind
from properties.explosion.models.running import runner_of
from properties.explosion.models.shipped import SHIPPED, WIDTH, WORDS, Shipped

DEPTHS = (1, 2, 4, 8, 16, 32)


class Gains(NamedTuple):
    """Of a model at initialisation; `mixing` is None where nothing is mixed, infinite is what is not finite."""

    mixing: float | None
    activations: float
    gradients: float


def gains(shipped: Shipped, depth: int, inputs: int = 4, tokens: int = 8, seed: int = 0) -> Gains:
    """The gains of a model of so many layers on so many random inputs."""
    torch.manual_seed(seed)
    model = shipped.build(depth).eval()
    kind = Kind(WORDS, (), 1.0) if shipped.ids else Kind(0, (WIDTH,), 1.0)
    runner = runner_of(model, type(model).__name__, kind, tokens, shipped.blocks)
    source = torch.Generator().manual_seed(seed)
    given = kind.random(inputs, tokens, source)
    with torch.no_grad():
        entered = runner.passed(given, runner.every).entered
    nudge = torch.zeros_like(entered, requires_grad=True)
    left = runner.passed(given, runner.every, nudge).left
    bar = torch.randn(left.shape, generator=source).to(left)
    slope = runner.slope((left * bar).sum(), nudge)
    mixing = Meter(runner, "forward", "float32")(given, runner.every).max().item() if runner.mixes else None
    return Gains(mixing, _ratio(left, entered), _ratio(slope, bar))


def _ratio(one: Tensor, other: Tensor) -> float:
    """The median over inputs of how much longer one is than the other; infinite where it is no number."""
    lengths = [part.detach().double().flatten(1).norm(dim=1) for part in (one, other)]
    found = (lengths[0] / lengths[1]).median().item()
    return found if math.isfinite(found) else math.inf


def rows(found: dict[str, dict[int, Gains]]) -> list[str]:
    """The table, a line for each model and measure."""
    depths = sorted({depth for of_model in found.values() for depth in of_model})
    lines = ["| model | depth | " + " | ".join(map(str, depths)) + " |", "|---" * (len(depths) + 2) + "|"]
    for name, of_model in found.items():
        for measure in Gains._fields:
            values = [getattr(of_model[depth], measure) for depth in depths]
            if None not in values:
                lines.append(f"| {name} | {measure} | " + " | ".join(map(_shown, values)) + " |")
                name = ""
    return lines


def _shown(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else short(value)


def main(
    only: Annotated[str, typer.Option(help="models whose name has these words")] = "",
    depth: Annotated[list[int] | None, typer.Option(min=1, max=256, help="layers; may be repeated")] = None,
    inputs: Annotated[int, typer.Option(min=1, max=1024, help="random inputs")] = 4,
    tokens: Annotated[int, typer.Option(min=1, max=1024, help="tokens of an input")] = 8,
    seed: Annotated[int, typer.Option(help="of the initialisation and of the inputs")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """What whole models that libraries ship do to a signal at initialisation, by depth."""
    found: dict[str, dict[int, Gains]] = {}
    chosen = {name: one for name, one in SHIPPED.items() if only in name}
    if not chosen:
        raise typer.BadParameter(f"no model has {only!r} in its name; expected a part of one of {', '.join(SHIPPED)}")
    for name, shipped in chosen.items():
        if importlib.util.find_spec(shipped.needs) is None:
            typer.echo(f"{name}: left out, since {shipped.needs} is not installed", err=True)
            continue
        found[name] = {one: gains(shipped, one, inputs, tokens, seed) for one in sorted(set(depth or DEPTHS))}
    if as_json:
        told: dict[str, Any] = {
            name: {layers: {key: _stored(value) for key, value in one._asdict().items()} for layers, one in by.items()}
            for name, by in found.items()
        }
        typer.echo(json.dumps({"schema": 1, "models": told}))
        return
    for line in rows(found):
        typer.echo(line)


def _stored(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    return "not finite" if value is not None and math.isinf(value) else value


if __name__ == "__main__":
    typer.run(main)
