"""Whole models of libraries at initialisation: their gains by depth, and the table that says them."""

from __future__ import annotations

import json
import math

import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

from properties.explosion.models import published
from properties.explosion.models.gains import Meter
from properties.explosion.models.published import Gains, gains, rows
from properties.explosion.models.running import Passed
from properties.explosion.models.shipped import SHIPPED, WIDTH, Shipped


class Grows(nn.Module):
    """x + 2 x, by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(WIDTH, WIDTH, bias=False)
        with torch.no_grad():
            self.twice.weight.copy_(2 * torch.eye(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.twice(x)


OWN = {"grows": Shipped("torch", lambda depth: nn.Sequential(*[Grows() for _ in range(depth)]), False, "")}
ABSENT = {"absent": Shipped("no_such_package", lambda depth: nn.Identity(), False, "")}


def invoked(*arguments: str):
    app = typer.Typer()
    app.command()(published.main)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("depth", [1, 3])
def test_both_ratios_are_those_of_a_model_whose_growth_is_known(depth: int) -> None:
    found = gains(OWN["grows"], depth)
    assert found.mixing is None
    assert found.activations == pytest.approx(3**depth)
    assert found.gradients == pytest.approx(3**depth)


@pytest.mark.slow
def test_what_float32_does_not_hold_is_infinite_and_said() -> None:
    assert gains(OWN["grows"], 90).activations == math.inf
    assert rows({"one": {1: Gains(16, 2.5, math.inf)}}) == [
        "| model | depth | 1 |",
        "|---|---|---|",
        "| one | mixing | 16 |",
        "|  | activations | 2.50 |",
        "|  | gradients | not finite |",
    ]


def test_mixing_that_is_not_finite_has_an_infinite_gain() -> None:
    matrices = torch.eye(2).expand(3, 1, 2, 2).clone()
    matrices[1, 0, 0, 1] = math.nan
    passed = Passed(torch.zeros(3, 1, 2, 4), [], torch.zeros(3, 1, 2, 4), [matrices, 2 * matrices])
    runner = type(
        "Only", (), {"passed": lambda *_: passed, "batches": lambda _, given: [given], "every": frozenset()}
    )()
    found = Meter(runner, "forward", "float32")(torch.zeros(3, 1), frozenset())  # pyright: ignore[reportArgumentType]
    assert found.tolist() == [2, math.inf, 2]


def test_the_table_names_what_is_not_installed_and_takes_other_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "SHIPPED", {**OWN, **ABSENT})
    done = invoked("--depth", "2", "--depth", "1")
    assert done.exit_code == 0, done.output
    assert "absent: left out, since no_such_package is not installed" in done.stderr
    assert done.stdout.splitlines() == [
        "| model | depth | 1 | 2 |",
        "|---|---|---|---|",
        "| grows | activations | 3.00 | 9.00 |",
        "|  | gradients | 3.00 | 9.00 |",
    ]
    told = json.loads(invoked("--depth", "1", "--json").stdout)
    assert told["models"]["grows"]["1"]["mixing"] is None
    assert told["models"]["grows"]["1"]["activations"] == pytest.approx(3)


def test_words_that_no_model_has_are_refused() -> None:
    done = invoked("--only", "nothing like it")
    assert done.exit_code == 2
    assert "no model has" in done.output


@pytest.mark.slow  # imports much
@pytest.mark.parametrize("depth", [1, 2])
def test_an_encoder_whose_mixing_is_a_matrix_of_ones_grows_by_sixteen_a_layer(depth: int) -> None:
    pytest.importorskip("x_transformers", reason="the extra `x-transformers` is not installed")
    found = gains(SHIPPED["x-transformers, HyperConnection"], depth)
    assert found.mixing == pytest.approx(16**depth)
    assert found.activations == pytest.approx(16**depth, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x-transformers, one stream", "x-transformers, GatedMultiResidual"])
def test_other_encoders_hardly_grow(name: str) -> None:
    pytest.importorskip("x_transformers", reason="the extra `x-transformers` is not installed")
    found = gains(SHIPPED[name], 2)
    assert found.mixing in (None, 1)
    assert found.activations < 5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("transformers")])
def test_released_models_keep_a_signal_at_initialisation(name: str) -> None:
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    one, two = (gains(SHIPPED[name], depth) for depth in (1, 2))
    assert one.mixing == pytest.approx(1, abs=1e-4)
    assert two.mixing == pytest.approx(1, abs=1e-4)
    assert 0.9 < one.activations < 1.2
    assert 0.9 < two.activations < 1.3
