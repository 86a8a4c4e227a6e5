"""Training scripts after public reports, written anew: each ends in a warning that names a layer before the loss does.

hyper-connections #4: a vision transformer with dynamic hyper-connections whose loss becomes NaN; #7: one with
constrained mixing whose activations reach 1e11 while every gain is 1. hip-ep #168: a residual stream in float16 that
overflows at layer 35. And 24 layers that each keep 0.7 of what enters.
"""

import math

import pytest
import torch
from torch import nn

from properties.explosion import Monitor


class Vit(nn.Module):
    """Patches [B, T, 12] to three classes, through MLPs with whatever residual `init` makes."""

    def __init__(self, init, expand, reduce, depth, width=16):
        super().__init__()
        self.patches = nn.Linear(12, width)
        self.expand, self.reduce = expand, reduce
        self.layers = nn.ModuleList(
            init(dim=width, layer_index=place, branch=self.mlp(width)) for place in range(depth)
        )
        self.head = nn.Linear(width, 3)

    @staticmethod
    def mlp(width):
        return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, images):
        x = self.expand(self.patches(images))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.reduce(x).mean(1))


def trained(model, rate, steps, data, loss_of):
    """The monitor, and the step whose loss is not finite, if there is one."""
    optimiser = torch.optim.SGD(model.parameters(), rate)
    with Monitor(model) as monitor:
        for step in range(steps):
            loss = loss_of(model(data))
            if not math.isfinite(loss.detach()):
                return monitor, step
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return monitor, None


def classes(output):
    return nn.functional.cross_entropy(output, torch.arange(len(output)) % 3)


def test_dynamic_hyper_connections_whose_loss_becomes_nan(caplog):
    library = pytest.importorskip("hyper_connections.hyper_connections", reason="the extra `published`")
    torch.manual_seed(0)
    # float64, so that every machine takes the same steps.
    model = Vit(*library.get_init_and_expand_reduce_stream_functions(4), depth=6).double()
    monitor, lost = trained(model, 0.5, 20, torch.randn(8, 5, 12).double(), classes)
    assert lost is not None
    first = next(iter(monitor.departures.values()))
    assert first["step"] < lost
    assert first["name"].startswith("layers.")
    assert f"step {first['step']}: layer {first['layer']} ({first['name']})" in caplog.text
    assert monitor.troubles == 0


def test_constrained_mixing_whose_activations_explode_with_gains_of_one(caplog):
    library = pytest.importorskip(
        "hyper_connections.manifold_constrained_hyper_connections", reason="the extra `published`"
    )
    torch.manual_seed(0)
    model = Vit(*library.get_init_and_expand_reduce_stream_functions(4), depth=24)
    with torch.no_grad():
        for layer in model.layers:
            layer.branch[2].weight.mul_(4)  # pyright: ignore
    with Monitor(model) as monitor, torch.no_grad():
        loss = classes(model(torch.randn(8, 5, 12)))
    assert math.isfinite(loss)
    assert monitor.rows[-1]["activation_max"] > 1e11
    assert all(row["within"] and row["forward_gain"] == pytest.approx(1) for row in monitor.rows)
    grown = monitor.departures["grows"]
    assert 3 < grown["layer"] < 20
    assert f"layer {grown['layer']} ({grown['name']}): its activations have grown" in caplog.text


class Gated(nn.Module):
    """x + g x: a branch that has learned to repeat its input."""

    def __init__(self, gate):
        super().__init__()
        self.gate = nn.Parameter(torch.tensor(gate))

    def forward(self, x):
        return x + self.gate * x


class Stack(nn.Module):
    def __init__(self, depth, gate):
        super().__init__()
        self.blocks = nn.ModuleList(Gated(gate) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_a_stream_in_float16_that_comes_to_overflow_at_layer_35(caplog):
    """The gates grow from step to step; the warning comes when there are layers left."""
    torch.manual_seed(0)
    model = Stack(36, 0.2).half()
    monitor, lost = trained(model, 2e-2, 40, torch.randn(4, 5, 16).half(), lambda out: -out.float().abs().mean().log())
    assert lost is not None
    near = monitor.departures["near overflow"]
    assert near["step"] < lost
    assert near["layers_to_overflow"] < 8
    assert f"layer {near['layer']} (blocks.{near['layer']}): " in caplog.text
    assert "layers from overflow in float16" in caplog.text
    first = monitor.departures["not finite"]
    assert (first["step"], first["born"]) == (lost, f"blocks.{first['layer']} (Gated)")
    assert first["layer"] > 30


def test_twenty_four_layers_that_each_keep_seven_tenths(caplog):
    torch.manual_seed(0)
    model = Stack(24, -0.3)
    with Monitor(model) as monitor:
        loss = model(torch.randn(4, 5, 16)).detach().square().mean()
    assert math.isfinite(loss)
    faded = monitor.departures["shrinks"]
    assert faded["layer"] == 19  # 0.7^20 is below 1/1000
    assert faded["least_growth"] == pytest.approx(0.7**20, rel=1e-5)
    # A token larger than 1 starts behind the first layer, which brings it nearer to 1.
    assert 0.7**20 <= faded["typical_growth"] * (1 + 1e-5) < 0.7**19
    said = f"step 0: layer 19 (blocks.19): its activations have shrunk to {faded['typical_growth']:.3g} of what they"
    assert said in caplog.text
