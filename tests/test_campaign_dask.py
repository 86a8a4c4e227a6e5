"""A campaign on a Dask scheduler and two workers, each with a folder of its own, and what ends while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

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
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="the engine's own package")
    where = tmp_path / "cluster"
    env = {**os.environ, **QUIET}

    def start(command: Sequence[str], cwd: Path) -> subprocess.Popen[bytes]:
        cwd.mkdir(parents=True, exist_ok=True)
        log = (cwd / "log").open("wb")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
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
    made = Cluster(where, one, [start([*each, f"127.0.0.{k + 1}"], where / str(k)) for k in range(2)])
    try:
        until(lambda: (where / "scheduler.json").exists())
        yield made
    finally:
        for process in (*made.workers, one):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


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
    other.ask(one for one in folder.cells() if one.question["does"] != "segfault")
    Run(other, lambda: Serial(other.path)).go()
    return other


def same_anywhere(folder: Folder) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.items() if name != "run"} for one in folder.records()]


def test_a_worker_that_is_killed_and_a_cell_that_kills_lose_nothing(cluster: Cluster, tmp_path: Path) -> None:
    folder = campaign(tmp_path, segfault=100)
    killed: list[int] = []

    def say(line: str) -> None:
        if line.startswith("30 of") and not killed:
            (child,) = cluster.children(0)[:1]
            child.kill()
            killed.append(child.pid)

    outcome = Run(folder, lambda: Dask(cluster.address, folder.path), deadline=PATIENCE, say=say).go()
    assert killed
    assert (outcome.answered, outcome.quarantined, outcome.why) == (199, 1, "")
    assert same_anywhere(folder) == same_anywhere(alone(folder, tmp_path))
    for one in folder.records():
        assert all((folder.files(one["address"]) / name).is_file() for name in one["files"])
    assert any(cluster.spool(k).left_over() for k in range(2)), "what was found before the process died is kept"


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
    assert same_anywhere(folder) == same_anywhere(alone(folder, tmp_path))
