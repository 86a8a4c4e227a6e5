"""A campaign on a Dask scheduler and two workers, each with a folder of its own, and what ends while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from properties.campaign import running
from properties.campaign.engines import Dask, EngineLostError, Serial
from properties.campaign.folder import Folder
from properties.campaign.kinds import cell_of
from properties.campaign.running import Run

pytestmark = pytest.mark.slow

PATIENCE = 120.0
QUIET = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",
    "PYTHONWARNINGS": "ignore",
}


@dataclass
class Cluster:
    """Processes of a scheduler and of workers on two addresses of the loopback."""

    where: Path
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]

    @property
    def address(self) -> str:
        import json

        return json.loads((self.where / "scheduler.json").read_text())["address"].removeprefix("tcp://")

    def children(self, worker: int) -> list[psutil.Process]:
        """The processes that answer cells, below the nanny."""
        return [
            one
            for one in psutil.Process(self.workers[worker].pid).children(recursive=True)
            if "resource_tracker" not in " ".join(one.cmdline())
        ]

    def spool(self, worker: int) -> Folder:
        return Folder(self.where / str(worker) / ".mhc-properties" / "spool")


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A scheduler and two workers; the command of the first one begins with what the parameter gives."""
    pytest.importorskip("distributed", reason="the engine's own package")
    where = tmp_path / "cluster"
    env = {**os.environ, **QUIET}

    def start(command: Sequence[str], cwd: Path, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        cwd.mkdir(parents=True, exist_ok=True)
        # Through a pipe that nobody reads until the end, a worker would stop; its folder may be full.
        with (where / f"{cwd.name}.log").open("wb") as log:
            return subprocess.Popen(
                [*before, sys.executable, "-m", *command],
                cwd=cwd,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    file = str(where / "scheduler.json")
    one = start(
        ["dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file], where
    )
    each = ["dask", "worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard", "--host"]
    before = [request.param() if hasattr(request, "param") else [], []]
    made = Cluster(where, one, [start([*each, f"127.0.0.{k + 1}"], where / str(k), before[k]) for k in range(2)])
    try:
        until(lambda: (where / "scheduler.json").exists())
        yield made
    finally:
        for process in (*made.workers, one):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def small_disk() -> list[str]:
    """A command whose spool is on a disk of 64 KiB, mounted for it alone; where that is not allowed, one that may write
    no file of more than 100 bytes."""
    mounted = "mkdir -p .mhc-properties/spool && mount -t tmpfs -o size=64k none .mhc-properties/spool"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    with tempfile.TemporaryDirectory() as where:
        allowed = subprocess.run([*command, mounted], cwd=where, capture_output=True, check=False)
    if allowed.returncode == 0:
        return [*command, f'{mounted} && exec "$@"', "sh"]
    # Python 3.11 would leave 100 bytes of every module that it compiles, for all others to stumble over.
    return ["env", "PYTHONDONTWRITEBYTECODE=1", "prlimit", "--fsize=100", "--"]


def until(true: Any) -> None:
    """Wait for something, and fail where it does not come."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def campaign(tmp_path: Path, count: int = 200, **does: int) -> Folder:
    folder = Folder(tmp_path / "campaign")
    what = {number: name for name, number in does.items()}
    folder.ask(
        cell_of("demo", {"number": k, "does": what.get(k, "find" if k % 10 == 0 else "square"), "seconds": 0.02}, {})
        for k in range(count)
    )
    return folder


def alone(folder: Folder, tmp_path: Path) -> Folder:
    """The same cells, those that end a process left out, answered by one process."""
    other = Folder(tmp_path / "alone")
    other.ask(one for one in folder.cells() if one.question["does"] not in ("segfault", "hang"))
    Run(other, lambda: Serial(other.path)).go()
    return other


def same_anywhere(folder: Folder) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.items() if name != "run"} for one in folder.records()]


def all_are_there(folder: Folder, tmp_path: Path) -> None:
    """Every cell once, with the answer that one process gives, and every file that any answer names."""
    expected = alone(folder, tmp_path)
    assert same_anywhere(folder) == same_anywhere(expected)
    assert folder.answered() == expected.answered()
    for one in folder.records():
        here, there = folder.files(one["address"]), expected.files(one["address"])
        assert {name: (here / name).read_bytes() for name in one["files"]} == {
            name: (there / name).read_bytes() for name in one["files"]
        }


def test_a_worker_that_is_killed_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    folder = campaign(tmp_path)
    killed: list[int] = []

    def say(line: str) -> None:
        if line.startswith("30 of") and not killed:
            (child,) = cluster.children(0)[:1]
            child.kill()
            killed.append(child.pid)

    # With no failure allowed (QUIET) Dask blames the cell that was there; it is asked again.
    outcome = Run(folder, lambda: Dask(cluster.address, folder.path), deadline=PATIENCE, say=say).go()
    assert killed
    assert (outcome.complete, outcome.errors, outcome.quarantined, outcome.why) == (True, 0, 0, "")
    all_are_there(folder, tmp_path)


def test_a_cell_that_kills_its_worker_is_put_aside_and_takes_no_other_along(cluster: Cluster, tmp_path: Path) -> None:
    folder = campaign(tmp_path, segfault=100)
    outcome = Run(folder, lambda: Dask(cluster.address, folder.path), deadline=PATIENCE).go()
    assert (outcome.answered, outcome.quarantined, outcome.why) == (199, 1, "")
    all_are_there(folder, tmp_path)
    assert any(cluster.spool(k).left_over() for k in range(2)), "what was found before the process died is kept"


def test_a_hog_is_ended_and_put_aside(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = campaign(tmp_path, 40)
    hog = cell_of("demo", {"number": 40, "does": "hang", "seconds": 0.0}, {})
    folder.ask([hog])
    begun: set[str] = set()

    class Clock:
        """Goes two hours on whenever a worker has begun the hog."""

        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic() -> float:
            for k in range(2):
                begun.update(one.name for one in cluster.spool(k).path.glob(f"begun/{hog.address}.*"))
            return time.monotonic() + 7200 * len(begun)

    monkeypatch.setattr(running, "time", Clock)
    outcome = Run(folder, lambda: Dask(cluster.address, folder.path)).go()
    assert (outcome.answered, outcome.quarantined, outcome.errors, outcome.why) == (40, 1, 0, "")
    assert folder.deaths(hog.address) == ["it did not end within 3600 s"] * 3
    all_are_there(folder, tmp_path)


@pytest.mark.parametrize("cluster", [small_disk], indirect=True)
def test_a_disk_that_fills_on_one_worker_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    folder = campaign(tmp_path)
    outcome = Run(folder, lambda: Dask(cluster.address, folder.path), deadline=PATIENCE).go()
    assert (outcome.complete, outcome.errors, outcome.quarantined, outcome.why) == (True, 0, 0, "")
    assert any("No space left" in line or "File too large" in line for line in outcome.troubles), outcome.troubles
    all_are_there(folder, tmp_path)


SCRIPT = """
import sys
from properties.campaign.engines import Dask
from properties.campaign.folder import Folder
from properties.campaign.running import Run

if __name__ == "__main__":
    folder = Folder(sys.argv[2])
    Run(folder, lambda: Dask(sys.argv[1], folder.path), say=lambda line: print(line, flush=True)).go()
"""


def test_with_the_client_killed_the_campaign_is_resumed(cluster: Cluster, tmp_path: Path) -> None:
    folder = campaign(tmp_path)
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), cluster.address, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("30 of"):
                break
        process.kill()
        process.stdout.read()
    before = {one["address"]: one for one in folder.records()}
    assert 30 <= len(before) < 200
    outcome = Run(folder, lambda: Dask(cluster.address, folder.path), deadline=PATIENCE).go()
    assert (outcome.complete, outcome.errors, outcome.quarantined, outcome.why) == (True, 0, 0, "")
    assert outcome.new == 200 - len(before)
    all_are_there(folder, tmp_path)
    after = {one["address"]: one for one in folder.records()}
    assert all(after[address] == one for address, one in before.items()), "what was answered is asked no more"


def test_with_the_scheduler_gone_the_campaign_ends_and_is_resumed(cluster: Cluster, tmp_path: Path) -> None:
    folder = campaign(tmp_path, 60)

    def say(line: str) -> None:
        if line.startswith("20 of"):
            os.killpg(cluster.scheduler.pid, signal.SIGKILL)

    outcome = Run(folder, lambda: Dask(cluster.address, folder.path), deadline=PATIENCE, say=say).go()
    assert "the engine is gone" in outcome.why
    assert (outcome.errors, outcome.quarantined) == (0, 0)
    assert 20 <= outcome.answered < 60
    with pytest.raises(EngineLostError, match="no scheduler answers"):
        Dask(cluster.address, folder.path)
    assert Run(folder, lambda: Serial(folder.path)).go().complete
    all_are_there(folder, tmp_path)
