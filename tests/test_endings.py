"""Runs that are ended at random moments, and runs on disks that fill up: what is announced is there, what is there is
whole, and nobody is left behind."""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from properties.engine.counterexample import Counterexample
from properties.report.report import ReportError, lines_of, read

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(os.name != "posix", reason="signals and disks of POSIX")]

TARGETS = """
import os
import mhc_ref
from properties import Implementation

PIPE = os.open("calls", os.O_WRONLY | os.O_NONBLOCK) if os.path.exists("calls") else -1

class Counted(Implementation):
    dtypes = ("float32",)
    def project(self, logits):
        if PIPE >= 0:
            try:
                os.write(PIPE, b"x")
            except BlockingIOError:
                pass
        return mhc_ref.project(logits, self.dialect)

class Wrong(Counted):
    def project(self, logits):
        return 1.5 * super().project(logits)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "targets.py").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


def command(workers: int, report: str) -> list[str]:
    laws = ("--law", "manifold", "--hypothesis-profile", "ci", "--verbose")
    targets = ("targets.py:Wrong", "targets.py:Counted")
    return [sys.executable, "-m", "properties.cli", "check", *targets, *laws, "-n", str(workers), "--report", report]


def examined(place: Path, said: str) -> bool:
    """Look at all that a run has left; whether there is a whole report."""
    for path in place.rglob("*.safetensors"):
        if not path.name.startswith("."):
            Counterexample.load(path)
    try:
        found = read(place / "report.json")
    except ReportError:
        assert not (place / "report.json").exists()
        return False
    lines = lines_of(found)
    for line in lines:
        assert line.counterexample is None or Path(line.counterexample).is_file()
    failed = {(line.implementation, line.law) for line in lines if line.status == "failed"}
    announced = set(re.findall(r"^(\S+) breaks (\S+) in ", said, re.MULTILINE))
    if found["complete"]:
        assert announced == failed
    for path in re.findall(r"^  replay: mhc-properties replay (\S+)", said, re.MULTILINE):
        assert Path(path).is_file()
    return found["complete"]


@pytest.fixture
def calls(folder: Path) -> Iterator[int]:
    os.mkfifo(folder / "calls")
    reader = os.open(folder / "calls", os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    os.close(reader)


@pytest.mark.parametrize("number", range(20))
def test_a_run_that_ends_at_any_moment(folder: Path, calls: int, number: int) -> None:
    chance = random.Random(number)
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[number % 3]
    moment = int(10 ** chance.uniform(0, 3.2))
    poll = select.poll()
    poll.register(calls, select.POLLIN)
    output = folder / "output"
    with (
        output.open("wb") as file,
        subprocess.Popen(command(2 * (number % 2), "out"), stdout=file, stderr=subprocess.STDOUT) as process,
    ):
        heard = 0
        while heard < moment:
            assert poll.poll(300_000), "nothing was heard"
            if not (data := os.read(calls, min(4096, moment - heard))):
                break
            heard += len(data)
        process.send_signal(ending)
        status = process.wait(timeout=120)
    while poll.poll(60_000) and os.read(calls, 4096):
        pass
    assert os.read(calls, 1) == b"", "a process is left"
    whole = examined(folder / "out", output.read_text(errors="replace"))
    assert status == -ending if ending == signal.SIGKILL else status >= 2 or whole


@pytest.mark.parametrize("kilobytes", [8, 12, 16, 20, 24, 28, 32, 40, 52, 64])
def test_a_disk_that_fills_up(folder: Path, kilobytes: int) -> None:
    disk = folder / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if mount is None or subprocess.run([mount, *options], check=False, capture_output=True).returncode:
        pytest.skip("a small disk can be made by root alone")
    try:
        done = subprocess.run(command(0, "disk"), capture_output=True, text=True, check=False, timeout=500)
        whole = examined(disk, done.stdout)
        assert len(re.findall(r"^Wrong breaks ", done.stdout, re.MULTILINE)) >= 5
        assert done.returncode == 1 if whole else done.returncode >= 2
        assert whole or "the report is lost" in done.stdout
        assert not [path for path in disk.rglob("*") if path.name.endswith(".partial")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
