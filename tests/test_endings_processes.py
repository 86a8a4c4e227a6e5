"""Runs with workers, isolated targets and servers that are ended at any moment, or whose disk fills up.

Nothing that was announced is missing, nothing on the disk is torn, and no process is left.

The moment is a number of bytes that the run has printed, drawn by a seed. Three of these runs are made in continuous
integration, all of them by `pytest -m thorough tests/test_endings_processes.py`.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from properties.engine.counterexample import Counterexample
from properties.report.report import read

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their environment in /proc")

SEED = 14
LONG = 240.0
"""Seconds after which a run is said to hang."""
MARK = "MHC_PROPERTIES_TEST_RUN"

WRONG = """
import mhc_ref
from properties import Implementation

class Mine(Implementation):
    \"\"\"Transposed, and its rows sum to 2.\"\"\"
    streams = (2, 3)
    dtypes = ("float32", "float64")

    def project(self, logits):
        return 2 * mhc_ref.project(logits, self.dialect)

    def mappings(self, x, params):
        return mhc_ref.mappings(x, params, self.dialect)

    def pre(self, x, h_pre):
        return mhc_ref.pre(x, h_pre)

    def post(self, x, y, h_post, h_res):
        return mhc_ref.post(x, y, h_post, h_res.mT, self.dialect)
"""
SERVER = """
import sys
from properties.targets.process.server import serve
sys.path.insert(0, ".")
from mine import Mine
serve(Mine())
"""

WAYS: dict[str, list[str]] = {
    "in process": ["mine.py:Mine"],
    "two workers": ["mine.py:Mine", "-n", "2"],
    "isolated": ["mine.py:Mine", "--isolate"],
    "a server": [f"proc:{shlex.quote(sys.executable)} server.py"],
    "isolated, two workers": ["mine.py:Mine", "--isolate", "-n", "2"],
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
LAWS = (
    "--law",
    "manifold.last",
    "--law",
    "mixing",
    "--law",
    "block.permutation",
    "--law",
    "manifold.odds",
    "--hypothesis-profile",
    "ci",
    "--verbose",
)

# Ignored, as Python does anyway: a write beyond the limit then fails with an error, as on a full disk.
FULL = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = ["mhc-properties", *sys.argv[2:]]
runpy.run_module("properties.cli", run_name="__main__")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(WRONG)
    (tmp_path / "server.py").write_text(SERVER)
    return tmp_path


class Run:
    """A run of `check` whose processes, all of them, can be found."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.printed = bytearray()
        environment = {**os.environ, MARK: self.mark, "PYTEST_ADDOPTS": "", "PYTHONUNBUFFERED": "1"}
        # Python 3.11 leaves half of a compiled module where the disk is full, and later processes stumble over it.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def read(self, count: int) -> None:
        """Read until so many bytes have been printed, or the run has ended."""
        assert self.process.stdout is not None
        while len(self.printed) < count and (chunk := os.read(self.process.stdout.fileno(), 1)):
            self.printed += chunk

    def rest(self) -> str:
        """Everything that it printed, once it has ended; what it left holding the pipe does not count."""
        self.process.wait(LONG)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        while True:
            try:
                chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                break
            self.printed += chunk
        self.process.stdout.close()
        return self.printed.decode(errors="replace")

    def left(self) -> list[str]:
        """The command lines of its processes that live on."""
        return list(self._living())

    def _living(self) -> Iterator[str]:
        for place in Path("/proc").iterdir():
            try:
                if not place.name.isdigit() or f"{MARK}={self.mark}".encode() not in (place / "environ").read_bytes():
                    continue
                if "\nState:\tZ" not in (place / "status").read_text():
                    yield f"{place.name}: {(place / 'cmdline').read_bytes().decode(errors='replace')}"
            except OSError:  # it has just ended, or is somebody else's
                continue


def assert_nothing_is_lost(run: Run, text: str, *, killed: bool) -> None:
    """What was announced is there, what is there is whole, and no process is left."""
    until = time.monotonic() + LONG
    while (left := run.left()) and time.monotonic() < until:
        time.sleep(0.05)  # those that end with their parent have to notice
    assert left == []
    for file in re.findall(r"replay: mhc-properties replay (\S+\.safetensors)", text):
        assert Counterexample.load(run.folder / file).checked, file
    for path in run.folder.rglob("*"):
        if path.suffix == ".safetensors":
            assert Counterexample.load(path).checked, path
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        # Of a writer that was killed its unfinished file stays, under a name that nothing reads.
        assert killed or path.suffix != ".partial", path
    assert "Traceback" not in text.replace(EXECNET, ""), text  # a worker whose controller has gone says so


EXECNET = """Traceback (most recent call last):
  File "<string>", line 1, in <module>
  File "<string>", line 5, in <module>
BrokenPipeError: [Errno 32] Broken pipe"""


def announced(report: Path) -> int:
    """How many files a report names; each of them is there, and whole."""
    found = 0
    for one in read(report)["runs"]:
        for entry in one["laws"].values():
            if entry["counterexample"] is not None:
                assert Counterexample.load(report.parent.parent / entry["counterexample"]).checked
                found += 1
    return found


@linux
@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.slow if n == 1 else pytest.mark.thorough) for n in range(20)]
)
def test_a_run_that_is_ended_at_any_moment_loses_nothing(number: int, folder: Path) -> None:
    draw = random.Random(f"{SEED} {number}")
    way, how = list(WAYS)[number % len(WAYS)], SIGNALS[number % len(SIGNALS)]
    command = [sys.executable, "-m", "properties.cli", "check", *WAYS[way], *LAWS, "--report", "out"]
    run = Run(folder, command)
    run.read(1 + draw.choice([0, draw.randrange(40), draw.randrange(4000)]))  # before, it is Python that is ended
    run.process.send_signal(how)
    text = run.rest()
    assert_nothing_is_lost(run, text, killed=how == signal.SIGKILL)
    report = folder / "out" / "report.json"
    if how == signal.SIGKILL:
        assert run.process.returncode == -signal.SIGKILL or "laws exercised" in text
        if report.exists():
            announced(report)
        return
    # Stopped before it had begun, it has nothing to report; Python itself ends so then.
    early = run.process.returncode in (-how, 130) and not report.exists()
    assert early or run.process.returncode >= 1, text
    if not early and report.exists():
        found = read(report)
        assert announced(report) <= found["totals"]["failed"]
        assert (run.process.returncode == 1) == bool(found["complete"] and found["totals"]["failed"]) or not found[
            "complete"
        ]


@linux
@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.slow if n == 3 else pytest.mark.thorough) for n in range(10)]
)
def test_a_run_on_a_disk_that_fills_up_says_what_it_found(number: int, folder: Path) -> None:
    """No file may grow beyond a limit: first the counterexamples have no room, and last the report."""
    draw = random.Random(f"{SEED} full {number}")
    limit = [0, 100, 1000, 2000, 3000, 5000, 8000, 12000, 20000, 40000][number] + draw.randrange(100)
    way = list(WAYS)[number % len(WAYS)]
    command = [sys.executable, "-c", FULL, str(limit), "check", *WAYS[way], *LAWS, "--report", "out"]
    run = Run(folder, command)
    run.read(1 << 30)
    text = run.rest()
    assert_nothing_is_lost(run, text, killed=False)
    assert "breaks manifold.last-axis-sums in float32 on cpu" in text  # which every input shows
    assert run.process.returncode >= 1, text
    report = folder / "out" / "report.json"
    if report.exists():
        announced(report)
        assert run.process.returncode == 1 or not read(report)["complete"]
    else:
        assert run.process.returncode >= 2, text
        assert "report.json" in text
