"""`--device cuda` on a machine without: exit 2 and one plain sentence, whichever command takes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from properties import cli
from properties.campaign.gpu import laws
from properties.core.device import DEVICES
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine
from properties.explosion.training import monitored
from properties.targets.target import resolve

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")

LAW = ("--law", "manifold.entries")
COMMANDS = {
    "check": ("ref", *LAW),
    "replay": ("FILE",),
    "identify": ("ref",),
    "kill": ("--only", "one-iteration"),
    "campaign": ("run", "laws", "--impl", "ref", *LAW, "--out", "c"),
    "batched": ("ref", *LAW),
    "gpu": ("--out", "g"),
    "bench": ("--law", "manifold.entries"),
}
"""Command -> its words beside --device."""


def takes_a_device(name: str) -> bool:
    """Whether a command has the option."""
    command = typer.main.get_command(cli.app)
    found = command.get_command(None, name)  # pyright: ignore[reportAttributeAccessIssue]
    return any("--device" in one.opts for one in found.params)


def test_every_command_that_takes_a_device_is_tried_here() -> None:
    assert {name for name in cli.COMMANDS if takes_a_device(name)} == set(COMMANDS)


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """A counterexample that was found on the CPU."""
    target = "deviation:one-iteration@PAPER"
    subject = Subject(target, resolve(target), torch.float64, torch.device("cpu"))
    examine(
        all_laws()["manifold.other-axis-sums"],
        subject,
        Profile(examples=16, derandomise=True),
        directory=tmp_path / "r",
    )
    return str(next((tmp_path / "r").rglob("*.safetensors")))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("check", "replay")])
def test_a_command_says_in_one_sentence_that_there_is_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, [name, *COMMANDS[name], "--device", "cuda"])
    assert_refused(result.exit_code, result.output)
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "g/run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check", "replay"])
def test_laws_and_stored_cases_say_so_too(name: str, tmp_path: Path, stored: str) -> None:
    words = [name, *COMMANDS[name], "--device", "cuda"]
    words = [stored if word == "FILE" else word for word in words]
    words = [*words, "--impl", "ref"] if name == "replay" else words
    command = [sys.executable, "-m", "properties.cli", *words]
    environment = {"cwd": tmp_path, "env": None}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, **environment)  # pyright: ignore
    assert_refused(ran.returncode, ran.stdout + ran.stderr)


def test_a_training_run_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        monitored.main(["hc", "--device", "cuda", "--out", str(tmp_path / "x.json")])
    assert_refused(ended.value.code, capsys.readouterr().err)


def test_a_step_of_a_run_accuses_nobody_where_the_device_has_gone(tmp_path: Path) -> None:
    """Nobody asks laws of a device that is not there: in a step that is a fault of the harness, never a verdict."""
    words = ["deviations", "--device", "cuda", "--out", str(tmp_path), "--seconds", "60", "--workers", "0"]
    assert laws.main(words) == 3
    assert not list(tmp_path.glob("results/*/*.json"))


def assert_refused(status: object, output: str) -> None:
    """Exit 2 and the sentence, once, without a traceback."""
    text = " ".join(output.replace("│", " ").split())
    assert status == 2, text
    assert "Traceback" not in text
    assert text.count("there is no CUDA device here") == 1, text


def test_there_is_none() -> None:
    assert DEVICES["cuda"].missing() == "no CUDA device"
