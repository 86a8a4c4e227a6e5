"""Engines: executors that others wrote and keep, each behind the same few words. None is imported unless it is chosen.

    serial              this process; for looking into a cell
    processes[:N]       N processes of loky, each alone, so that a cell that ends its process takes no other along
    dask://HOST:PORT    the workers of a Dask scheduler
    slurm[:N]           N jobs at a time through submitit, several cells a job

An engine that falters is never a verdict: a cell whose process died is asked again, and where the engine itself is
gone the campaign ends with what it has, to be resumed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from pathlib import Path
from typing import Any, Protocol

from properties.campaign.cells import Cell
from properties.campaign.engine_names import EngineLostError as EngineLostError
from properties.campaign.engine_names import check
from properties.campaign.kind import DeviceLostError
from properties.campaign.work import work

Answers = list[dict[str, Any]]
"""What `properties.campaign.work.work` returns, for each cell of a batch."""


class Engine(Protocol):
    """What `running` needs of an executor."""

    batch: float
    """Seconds of expected work that are handed over at once; 0: one cell at a time."""

    @property
    def room(self) -> int:
        """How many batches it can take at the moment."""
        ...

    @property
    def workers(self) -> int:
        """How many cells are answered at the same time."""
        ...

    def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
        """Hand over a batch."""
        ...

    def deaths(self, error: BaseException) -> int:
        """How many processes ended before their time, if that is what an error says; else 0."""
        ...

    def stop(self, future: Future[Answers]) -> None:
        """End a batch that does not end, and whatever answers it."""
        ...

    def close(self) -> None:
        """End everything that still runs."""
        ...


def answered(asked: Sequence[dict[str, Any]], shared: str | None) -> Answers:
    """A batch, answered in a worker."""
    return [work(one, shared) for one in asked]


def _asked(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [one.to_json() for one in cells]


def prepare(parent: int | None) -> None:
    """Once in every worker process: one thread a cell, and none that outlives the campaign."""
    import torch

    from properties.guards.stopping import end_with

    if parent is not None:
        end_with(parent)
    torch.set_num_threads(1)


class Serial:
    """In this process, one after another."""

    batch, workers = 0.0, 1

    def __init__(self, folder: Path) -> None:
        self._shared, self._busy = str(folder), False

    @property
    def room(self) -> int:
        """One where nothing runs."""
        return 1

    def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
        """Answer them now."""
        done: Future[Answers] = Future()
        try:
            done.set_result(answered(_asked(cells), self._shared))
        except Exception as error:  # to be judged where the others' are
            done.set_exception(error)
        return done

    def deaths(self, error: BaseException) -> int:
        """None: with the process ends the campaign."""
        return 0

    def stop(self, future: Future[Answers]) -> None:
        """Nothing is left to end."""

    def close(self) -> None:
        """Nothing is left to end."""


class Processes:
    """Lanes of one loky process each; loky starts another where one has died."""

    batch = 0.0

    def __init__(self, folder: Path, workers: int) -> None:
        self._shared, self.workers = str(folder), workers
        self._free: list[Any] = [None] * workers
        self._taken: dict[Future[Answers], Any] = {}
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """Lanes in which nothing runs."""
        with self._lock:
            return len(self._free)

    def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
        """Into a free lane."""
        import loky

        with self._lock:
            lane = self._free.pop()
        if lane is None:
            lane = loky.ProcessPoolExecutor(1, timeout=None, initializer=prepare, initargs=(os.getpid(),))
        future: Future[Answers] = lane.submit(answered, _asked(cells), self._shared)
        with self._lock:
            self._taken[future] = lane
        future.add_done_callback(self._free_again)
        return future

    def deaths(self, error: BaseException) -> int:
        """One where the lane is broken, or its device."""
        from concurrent.futures import BrokenExecutor

        return int(isinstance(error, (BrokenExecutor, DeviceLostError)))

    def stop(self, future: Future[Answers]) -> None:
        """Kill the lane; the future ends with an exception."""
        with self._lock:
            lane = self._taken.get(future)
        if lane is not None:
            lane.shutdown(wait=False, kill_workers=True)

    def close(self) -> None:
        """Kill what runs."""
        with self._lock:
            lanes = [one for one in (*self._free, *self._taken.values()) if one is not None]
        for one in lanes:
            one.shutdown(wait=True, kill_workers=True)

    def _free_again(self, future: Future[Answers]) -> None:
        with self._lock:
            lane = self._taken.pop(future, None)
            usable = not future.cancelled() and future.exception() is None
            self._free.append(lane if usable else None)
        if lane is not None and not future.cancelled() and isinstance(future.exception(), DeviceLostError):
            # Its process lives, and holds memory of the device that nobody can use any more.
            threading.Thread(target=lane.shutdown, kwargs={"wait": False, "kill_workers": True}, daemon=True).start()


class Dask:
    """The workers of a scheduler that runs: `dask scheduler`, and `dask worker --nthreads 1` on each host."""

    batch = 0.0
    PATIENCE = 20.0
    """Seconds that the scheduler may take to answer."""
    RESTART = 120.0
    """Seconds that a worker may take to end and to start again."""

    def __init__(self, address: str, folder: Path) -> None:
        from distributed import Client

        self._address = address
        try:
            self._client: Any = Client(address, timeout=self.PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise EngineLostError(
                f"dask://{address}: no scheduler answers ({error}). Start one (dask scheduler), and workers "
                "(dask worker HOST:PORT --nthreads 1), or look at the address."
            ) from None
        self._open: dict[Future[Answers], Any] = {}

    @property
    def workers(self) -> int:
        """Threads of all workers that are there now."""
        self._alive()
        try:
            return sum(self._client.nthreads().values())
        except (OSError, TimeoutError) as error:  # distributed's own errors of connections are OSErrors
            raise EngineLostError(f"dask://{self._address}: the scheduler does not answer ({error})") from None

    @property
    def room(self) -> int:
        """One for each worker, and a quarter more on the way to them."""
        workers = self.workers
        return max(0, workers + max(1, workers // 4) - len(self._open)) if workers else 0

    def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
        """To whichever worker the scheduler thinks best.

        `Client.get_executor` would make the same future, and keep the name to itself under which the scheduler has it.
        """
        self._alive()
        task = self._client.submit(answered, _asked(cells), None, pure=False)
        future: Future[Answers] = Future()
        self._open[future] = task
        future.add_done_callback(self._ended)
        task.add_done_callback(functools.partial(_settle, future))
        return future

    def _ended(self, future: Future[Answers]) -> None:
        self._open.pop(future, None)

    def deaths(self, error: BaseException) -> int:
        """Two where the cell was on workers that died, of which their nannies start others.

        The scheduler has tried it `distributed.scheduler.allowed-failures` + 1 times by then (4 unless it was told
        otherwise), but other cells may have waited on the same workers: the next time it is alone.
        """
        from distributed.scheduler import KilledWorker

        return 2 * isinstance(error, KilledWorker)

    def stop(self, future: Future[Answers]) -> None:
        """Restart the worker that has it, by its nanny.

        Raises:
            EngineLostError: the worker has no nanny.
        """
        task = self._open.get(future)
        if task is None:
            return
        try:
            # What is cancelled is in no worker's list any more, and still runs: no thread of theirs can be ended.
            busy = [worker for worker, keys in self._client.processing().items() if task.key in keys]
            task.cancel()
            if busy:
                self._client.restart_workers(busy, timeout=self.RESTART)
        except (ValueError, OSError, TimeoutError, KeyError) as error:
            raise EngineLostError(
                f"dask://{self._address}: a worker that does not end could not be restarted ({error}). "
                "Start workers with a nanny, which is their default."
            ) from None

    def close(self) -> None:
        """Leave the scheduler; what it still holds of ours is forgotten there."""
        with contextlib.suppress(Exception):  # a scheduler that is gone cannot be told
            self._client.cancel(list(self._open.values()))
        with contextlib.suppress(Exception):
            self._client.close(timeout=self.PATIENCE)

    def _alive(self) -> None:
        if self._client.status != "running":
            raise EngineLostError(f"dask://{self._address}: the connection to the scheduler is {self._client.status}")


def _settle(future: Future[Answers], task: Any) -> None:
    """What became of a task of Dask, told to its future, in a thread of Dask's."""
    with contextlib.suppress(InvalidStateError):  # it was cancelled here
        if task.status == "finished":
            try:
                future.set_result(task.result())
            except Exception as error:  # its worker went, and the answer with it
                future.set_exception(error)
        else:
            future.set_exception((task.exception() if task.status == "error" else None) or CancelledError())


class Slurm:
    """Jobs of Slurm. One starts in seconds at best, so that it gets several cells. The folder is on a shared disk."""

    batch = 60.0
    EVERY = 1.0
    """Seconds between two looks at the jobs."""

    def __init__(self, folder: Path, workers: int, cluster: str = "slurm") -> None:
        import submitit

        self.workers, self._shared = workers, str(folder)
        try:
            self._executor: Any = submitit.AutoExecutor(folder / "jobs", cluster=cluster)
        except RuntimeError as error:
            raise EngineLostError(f"slurm: {error}; run this where sbatch is installed") from None
        self._executor.update_parameters(timeout_min=24 * 60, tasks_per_node=1, cpus_per_task=1)
        self._jobs: dict[Future[Answers], Any] = {}
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="mhc-campaign-slurm", daemon=True).start()

    @property
    def room(self) -> int:
        """Jobs that may be submitted beside those that wait or run."""
        return max(0, self.workers - len(self._jobs))

    def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
        """As one job. A job of submitit is no `Future`: one is made, and told when the job has ended."""
        future: Future[Answers] = Future()
        future.set_running_or_notify_cancel()
        self._jobs[future] = self._executor.submit(answered, _asked(cells), self._shared)
        return future

    def deaths(self, error: BaseException) -> int:
        """One where the job ended without a result."""
        from submitit.core.utils import UncompletedJobError

        return int(isinstance(error, UncompletedJobError))

    def stop(self, future: Future[Answers]) -> None:
        """Cancel the job."""
        job = self._jobs.get(future)
        if job is not None:
            job.cancel()

    def close(self) -> None:
        """Cancel every job."""
        self._over.set()
        for job in list(self._jobs.values()):
            with contextlib.suppress(Exception):  # it may have ended in between
                job.cancel()

    def _watch(self) -> None:
        while not self._over.wait(self.EVERY):
            for future, job in list(self._jobs.items()):
                if not job.done():
                    continue
                del self._jobs[future]
                try:
                    future.set_result(job.result())
                except Exception as error:  # judged by `deaths`
                    future.set_exception(error)


def engine(name: str, folder: Path) -> Engine:
    """The engine of a name, see the top of this module.

    Raises:
        ValueError: no such engine, or a number of workers that is none.
        EngineLostError: its package is not installed, or nobody answers.
    """
    kind, workers = check(name)
    if kind == "dask":
        return Dask(name.removeprefix("dask://"), folder)
    if kind == "serial":
        return Serial(folder.absolute())
    if kind == "processes":
        return Processes(folder.absolute(), workers)
    return Slurm(folder.absolute(), workers, "local" if kind == "slurm-local" else "slurm")
