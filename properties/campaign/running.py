"""Runs a campaign: hands what is missing to an engine, and keeps what comes back.

What is urgent begins first, then what is long. Every wait has a deadline. A cell whose process died, or that did not
end in time, is asked again; from its second death on it is asked while nothing else runs, so that no other is blamed
for it, and after the third it is put aside (`Folder.quarantined`). Where the engine is gone, or somebody presses
Ctrl-C, the folder holds every answer that was given, and `resume` asks for the rest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field

from properties.campaign.cells import Cell, Question, versions
from properties.campaign.engines import Answers, Engine, EngineLostError
from properties.campaign.folder import DEATHS, Folder, Record
from properties.campaign.kinds import cell_of, kind_of
from properties.campaign.work import OtherVersionsError

DEADLINE = 3600.0
"""Seconds that a cell may take unless somebody says otherwise."""
START = 120.0
"""Seconds that are added to a deadline, since a worker may have to be started first."""
LOOK = 0.5
"""Seconds between two looks at the clock while nothing ends."""


@dataclass
class Outcome:
    """What a run of a campaign came to.

    Attributes:
        asked: cells of the manifest.
        answered: of these, those that have an answer now; `new` of them were given in this run.
        errors: answers that are faults of the harness.
        quarantined: cells that are asked no more.
        stale: cells that have no answer and were asked for other versions than are installed here.
        why: why it ended before all was answered, or "".
        troubles: what workers could not do beside their answers, each once.
    """

    asked: int = 0
    answered: int = 0
    new: int = 0
    errors: int = 0
    quarantined: int = 0
    stale: int = 0
    why: str = ""
    seconds: float = 0.0
    troubles: list[str] = field(default_factory=lambda: [])

    @property
    def complete(self) -> bool:
        """Whether every cell has an answer."""
        return self.answered == self.asked


@dataclass
class _Batch:
    cells: list[Cell]
    until: float


class Run:
    """One run. `say` is told where it stands, after every answer."""

    def __init__(
        self,
        folder: Folder,
        make: Callable[[], Engine],
        *,
        deadline: float = DEADLINE,
        start: float = START,
        budget: float = 0.0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self._make, self._budget, self._say = folder, make, budget, say
        self._deadline, self._start = deadline, start
        self.outcome = Outcome()
        self._open: dict[Future[Answers], _Batch] = {}
        self._queue: deque[Cell] = deque()
        self._alone: deque[Cell] = deque()
        self._left = 0.0
        self._asked: set[str] = set()
        self._questions: dict[str, list[Question]] = {}
        self._seconds: dict[str, float] = {}

    def go(self) -> Outcome:
        """Ask until nothing is missing, the budget is spent or the engine is gone.

        Raises:
            EngineLostError: the engine could not be had at all.
            FolderError: the folder cannot be read.
        """
        began = time.monotonic()
        self._gather()
        if self._queue or self._alone:
            engine = self._make()
            try:
                self._ask(engine, began)
            except EngineLostError as error:
                self.outcome.why = f"the engine is gone: {error}"
            except KeyboardInterrupt:
                self.outcome.why = "stopped"
            except OSError as error:  # a full disk: what stands there is whole, and the rest is asked again
                self.outcome.why = f"{self.folder.path} cannot be written: {error.strerror or error}"
            finally:
                engine.close()
        self._count()
        self.outcome.seconds = round(time.monotonic() - began, 3)
        return self.outcome

    def _gather(self) -> None:
        done, aside, here = self.folder.answered(), self.folder.quarantined(), versions()
        cells = self.folder.cells()
        self._asked = {one.address for one in cells}
        self._seconds = self.folder.seconds()
        # A run that was killed may have kept an answer, and not what follows from it.
        kinds = {one.kind for one in cells if one.address in done}
        for one in cells:
            self._questions.setdefault(one.kind, []).append(one.question)
        if any(kind_of(one).followed for one in kinds):
            new = [cell for record in self.folder.records() for cell in self._followers(record)]
            self.folder.ask(new)
            cells += new
        missing = [one for one in cells if one.address not in done and one.address not in aside]
        fresh = [one for one in missing if all(one.versions.get(name) == found for name, found in here.items())]
        self.outcome.stale = len(missing) - len(fresh)
        for one in sorted(fresh, key=lambda cell: (not _urgent(cell), -cell.cost)):
            (self._alone if len(self.folder.deaths(one.address)) > 1 else self._queue).append(one)
        self._left = sum(one.cost for one in fresh)

    def _ask(self, engine: Engine, began: float) -> None:
        while True:
            spent = self._budget and time.monotonic() - began >= self._budget
            if spent and (self._queue or self._alone):
                self.outcome.why = "the budget is spent"
            elif not spent:
                self._fill(engine)
            if not self._open:
                if spent or not (self._queue or self._alone):
                    return
                self._wait_for_workers(engine)
                continue
            done, _ = wait(self._open, timeout=LOOK, return_when=FIRST_COMPLETED)
            for future in done:
                self._take(engine, future)
            for future, batch in list(self._open.items()):
                if time.monotonic() > batch.until:
                    self._overdue(engine, future, batch)

    def _fill(self, engine: Engine) -> None:
        while self._queue and engine.room and not any(one.done() for one in self._open):
            cells, cost = [self._queue.popleft()], 0.0
            while self._queue and (cost := cost + cells[-1].cost) < engine.batch:
                cells.append(self._queue.popleft())
            self._hand_over(engine, cells)
        if self._alone and not self._queue and not self._open and engine.room:
            self._hand_over(engine, [self._alone.popleft()])

    def _hand_over(self, engine: Engine, cells: list[Cell]) -> None:
        try:
            future = engine.submit(cells)
        except Exception as error:  # whatever an engine says: its fault, and no verdict
            self._queue.extendleft(reversed(cells))
            if isinstance(error, EngineLostError):
                raise
            raise EngineLostError(f"{type(error).__name__}: {error}") from error
        self._open[future] = _Batch(cells, time.monotonic() + self._start + self._deadline * len(cells))

    def _wait_for_workers(self, engine: Engine) -> None:
        until = time.monotonic() + self._deadline
        while not engine.room:
            if time.monotonic() > until:
                raise EngineLostError(f"no worker came within {self._deadline:.0f} s")
            time.sleep(LOOK)

    def _take(self, engine: Engine, future: Future[Answers]) -> None:
        batch = self._open.pop(future)
        try:
            answers = future.result(timeout=0)
        except OtherVersionsError as error:
            raise EngineLostError(str(error)) from None
        except CancelledError:
            self._queue.extend(batch.cells)
            raise EngineLostError("it gave up a cell that nobody had cancelled; its scheduler may be gone") from None
        except Exception as error:  # a death, or the engine's own fault
            deaths = engine.deaths(error)
            if not deaths:
                self._queue.extend(batch.cells)
                raise EngineLostError(f"{type(error).__name__}: {error}") from error
            self._again(batch.cells, f"the process that answered it died: {type(error).__name__}", deaths)
            return
        followers: list[Cell] = []
        for one in answers:
            self.folder.keep(one["record"], one["files"])
            self.outcome.new += 1
            followers += self._followers(one["record"])
            if one["trouble"] and one["trouble"] not in self.outcome.troubles:
                self.outcome.troubles.append(one["trouble"])
                self._say(f"trouble: {one['trouble']}")
        self._left += sum(one.cost for one in followers) - sum(one.cost for one in batch.cells)
        if followers:
            self.folder.ask(followers)
            self._queue.extend(one for one in followers if not _urgent(one))
            self._queue.extendleft(one for one in followers if _urgent(one))
        self._progress(engine)

    def _followers(self, record: Record) -> list[Cell]:
        """What an answer gives reason to ask besides, and was not asked yet."""
        if record["status"] != "answered":
            return []
        kind = record["kind"]
        questions = kind_of(kind).follow(record["question"], record["answer"], self._questions.get(kind, []))
        found = [cell_of(kind, one, self._seconds) for one in questions]
        return [one for one in found if not self._known(one)]

    def _known(self, cell: Cell) -> bool:
        known = cell.address in self._asked
        self._asked.add(cell.address)
        return known

    def _overdue(self, engine: Engine, future: Future[Answers], batch: _Batch) -> None:
        del self._open[future]
        engine.stop(future)
        self._again(batch.cells, f"it did not end within {self._deadline * len(batch.cells):.4g} s")

    def _again(self, cells: Sequence[Cell], why: str, deaths: int = 1) -> None:
        """Ask those again that have no answer: of a batch some may have been answered before its process died."""
        done = self.folder.answered()
        for one in cells:
            if one.address in done:
                continue
            noted = self.folder.deaths(one.address)
            if len(cells) == 1:
                noted = [self.folder.died(one.address, why) for _ in range(deaths)][-1]
            if len(noted) >= DEATHS:
                self._say(f"put aside after {len(noted)} deaths: {one.kind} {one.question}")
            elif len(noted) > 1 or len(cells) > 1:
                self._alone.append(one)
            else:
                self._queue.append(one)

    def _progress(self, engine: Engine) -> None:
        done = self.outcome.new
        total = done + len(self._queue) + len(self._alone) + sum(len(one.cells) for one in self._open.values())
        self._say(f"{done} of {total} cells, about {_span(max(0.0, self._left) / max(1, engine.workers))} left")

    def _count(self) -> None:
        cells, done = self.folder.cells(), self.folder.answered()
        self.outcome.asked = len(cells)
        self.outcome.answered = sum(one.address in done for one in cells)
        self.outcome.quarantined = len(self.folder.quarantined())
        self.outcome.errors = sum(one["status"] == "error" for one in self.folder.records())


def _urgent(cell: Cell) -> bool:
    return kind_of(cell.kind).urgent(cell.question)


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
