"""A training run under the monitor, on any device: what its file says is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_device import fake_device
from torch import Tensor

from properties.explosion.training import monitored
from properties.explosion.training.data import tokens
from properties.explosion.training.decoder import forward
from properties.explosion.training.initialisations import initial
from properties.explosion.training.measures import COMPOSITE, composite, gain_of
from properties.explosion.training.optimisation import Optimiser
from properties.explosion.training.reproduction import setup_of
from properties.explosion.training.runs import train

SIZES = {"depth": 4, "width": 8, "length": 8, "sequences": 2, "steps": 6}
"""16 tokens a pass, of which the monitor looks at every one."""


def ran(folder: Path, kind: str, *words: str) -> dict[str, Any]:
    sizes = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    given = [kind, *sizes, "--every", "1", "--out", str(folder / "run.json"), *words]
    assert monitored.main(given) == 0
    return json.loads((folder / "run.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hc", "mhc"])
def test_losses_and_gains_are_those_of_the_reproduction(kind: str, tmp_path: Path) -> None:
    """The same run by the functions of the decoder, batched and in float64, without a monitor."""
    found = ran(tmp_path, kind, "--dtype", "float64", "--seed", "1")
    setup = setup_of(kind, *SIZES.values())
    runs = train(setup, "forward", [3e-3], [1])
    assert list(found["losses"].values()) == pytest.approx(runs.losses[:, 0].tolist(), rel=1e-9)
    largest = max(point[0] for point in found["gains"].values())
    assert largest == pytest.approx(runs.gains[-1, 0].item(), rel=1e-9)
    first = composite(forward(setup, initial(setup, 1), tokens(setup, 1)[0]).operators)
    assert found["gains"]["0"] == pytest.approx([gain_of(first, gain).item() for gain in COMPOSITE], rel=1e-9)
    assert (found["steps"], found["ended"], found["troubles"]) == (6, "finished", 0)
    assert found["weights"] == len(initial(setup, 0))


def test_a_plain_residual_has_losses_and_no_gains(tmp_path: Path) -> None:
    found = ran(tmp_path, "plain")
    assert len(found["losses"]) == 6
    assert {value for point in found["gains"].values() for value in point} <= {None}
    assert found["growth"] > 0


def test_a_run_ends_evenly_when_its_time_is_over(tmp_path: Path) -> None:
    found = ran(tmp_path, "hc", "--time", "1e-9")
    assert (found["steps"], found["asked"], found["losses"]) == (0, 6, {})
    assert found["ended"] == "after 0 s"


def test_a_run_that_is_stopped_says_how_far_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, done = Optimiser.step, list[int]()

    def stopped(self: Optimiser, weights: Tensor, slopes: Tensor) -> Tensor:
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return step(self, weights, slopes)

    monkeypatch.setattr(Optimiser, "step", stopped)
    found = ran(tmp_path, "hc")
    assert (found["steps"], found["ended"], len(found["losses"])) == (3, "stopped", 3)


@pytest.mark.slow
def test_a_run_on_a_device_trains_as_on_the_cpu(tmp_path: Path) -> None:
    """Nothing is left on the CPU that meets what is on the device."""
    expected = ran(tmp_path, "mhc")
    with fake_device():
        found = ran(tmp_path, "mhc", "--device", "meta")
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["device"] == "meta"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hcx"], "the residual is 'hcx'; expected plain"),
        (["hc", "--width", "6"], "heads is 4; expected a number that divides the width, 6"),
        (["hc", "--device", "gpu"], "device 'gpu' is none of cpu, cuda"),
        (["hc", "--every", "0"], "expected a number from 1 on"),
        (["hc", "--steps", "-3"], "expected a number from 1 on"),
    ],
)
def test_mistakes_are_refused(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        monitored.main([*words, "--out", str(tmp_path / "x.json")])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_the_run_of_the_plan_has_ten_million_weights() -> None:
    setup = setup_of("mhc", 24, 256, 64, 4, 300)
    assert 9.9e6 < sum(map(lambda shape: torch.Size(shape).numel(), monitored.shapes(setup).values())) < 10.5e6
