"""Rows of the kill matrix: one deviation or control, put before one law after another, in a process of its own."""

from __future__ import annotations

import functools
import math
import shutil
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from properties.commands.titled_dialects import dialects, resolvable, titled

if TYPE_CHECKING:
    import torch

    from properties.core.implementation import Implementation
    from properties.core.law import Law
    from properties.engine.subject import Verdict

DTYPE_ORDER = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Kill:
    """A law that saw a deviation: its kind, after how many examples, the seconds that took, and error / bound."""

    kind: str
    examples: int
    seconds: float
    ratio: float | None = None
    """None where there is no finite one: a contract is broken, or a NaN came out."""

    @property
    def plain(self) -> bool:
        """Whether it does not hang on the last bits of this machine's arithmetic."""
        return self.ratio is None or self.ratio > 2


@dataclass(frozen=True)
class Row:
    """What became of one deviation or control.

    Attributes:
        killed: by law.
        errors: a harness error by law.
        exercised: the laws that applied.
        elsewhere: for each other dtype the law that sees it there, or the largest ratio of the laws above if none does.
        stopped: whether `killed` is a part of the laws that see it, as an earlier release ended it at its second kill,
            or it was put to some laws alone.
    """

    name: str
    kind: str
    preset: str
    dtype: str
    killed: dict[str, Kill]
    errors: dict[str, str]
    exercised: list[str]
    elsewhere: dict[str, str | float] = field(default_factory=lambda: {})
    stopped: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes two rows the same one."""
        return self.kind, self.name, self.preset, self.dtype

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        """A row of kill.json."""
        killed: Any = {law: Kill(**kill) for law, kill in data["killed"].items()}
        return cls(**(data | {"killed": killed}))

    def renewed(self, old: Row, laws: set[str]) -> Row:
        """This row about `laws`, and the old one about all others."""
        others = set(old.exercised) - laws
        keep = {law: kill for law, kill in old.killed.items() if law not in laws}
        errors = {law: error for law, error in old.errors.items() if law not in laws}
        exercised = [law for law in old.exercised if law not in laws]
        before = {dtype: seen for dtype, seen in old.elsewhere.items() if seen not in laws}
        return replace(
            self,
            killed={**keep, **self.killed},
            errors={**errors, **self.errors},
            exercised=[*exercised, *self.exercised],
            elsewhere={
                **before,
                **{dtype: _plainer(seen, before.get(dtype)) for dtype, seen in self.elsewhere.items()},
            },
            stopped=self.stopped or (old.stopped and bool(others)),
        )

    def cheapest(self) -> list[str]:
        """The two laws that see it plainly and soonest, of two kinds where there are two; the plainest if none is."""
        plain = [law for law, kill in self.killed.items() if kill.plain]
        if not plain:
            return sorted(self.killed, key=lambda law: -(self.killed[law].ratio or 0))[:1]
        laws = sorted(plain, key=lambda law: (self.killed[law].examples, self.killed[law].seconds))
        other = [law for law in laws if self.killed[law].kind != self.killed[laws[0]].kind]
        return [laws[0], *(other or laws[1:])[:1]]


def _plainer(new: str | float, old: str | float | None) -> str | float:
    """Of what two rows say of another dtype a law that sees the deviation there, else the larger ratio."""
    if isinstance(new, str) or old is None:
        return new
    return old if isinstance(old, str) else max(new, old)


@dataclass(frozen=True)
class Task:
    """One row to be made: with only the laws whose ids begin with one of `laws`, on the device of that type."""

    catalogue: str
    name: str
    preset: str
    dtype: str
    examples: int
    laws: tuple[str, ...]
    device: str = "cpu"


class Bench:
    """One implementation, put before one law after another; counterexamples go to `where`, or go with it."""

    def __init__(self, task: Task, where: Path | None = None) -> None:
        import torch

        from properties.catalogue import controls, deviations

        torch.set_num_threads(1)
        self.task = task
        self.device = torch.device(task.device)
        build = deviations.build if task.catalogue == "deviation" else controls.build
        self._build = functools.partial(build, task.name, titled(task.preset))
        self.implementation: Implementation = self._build()
        self._where = where or Path(mkdtemp(prefix="mhc-kill-"))
        if where is None:
            weakref.finalize(self, shutil.rmtree, self._where, ignore_errors=True)

    def forget(self) -> None:
        """Begin again with a new implementation: what one law has left in its memory must not help the next."""
        self.implementation = self._build()

    def examine(
        self, law: Law, dtype: str | torch.dtype, randomness: int | None = None, *, seed: bool = False
    ) -> Verdict:
        """The verdict of one search; examples are the same in every run, or for every `randomness`.

        `seed`: it is one of many, and goes through the coarsest sizes, one crowd and one number of streams by itself.
        """
        import torch

        from properties.engine.runner import examine
        from properties.engine.subject import Profile, Subject

        task = self.task
        which = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        target = f"{task.catalogue}:{task.name}@{resolvable(task.preset)}"
        subject = Subject(target, self.implementation, which, self.device)
        profile = Profile(examples=task.examples, derandomise=True, shrink=False, thorough=True, sizes=3)
        if seed:
            profile = replace(profile, thorough=False, sizes=1, crowds=1, alone=1)
        return examine(law, subject, profile, directory=self._where, randomness=randomness)


def chosen_laws(prefixes: tuple[str, ...]) -> list[Law]:
    """The laws whose ids begin so, in their order."""
    from properties.core.law import all_laws

    return [law for law in all_laws().values() if not prefixes or law.id.startswith(prefixes)]


def row_of(task: Task, where: Path | None = None) -> Row:
    """One row; counterexamples go to `where`."""
    from properties.catalogue import deviations

    bench = Bench(task, where)
    wrong = deviations.CATALOGUE | deviations.HIDDEN
    kind = wrong[task.name].kind if task.catalogue == "deviation" else "control"
    killed: dict[str, Kill] = {}
    errors: dict[str, str] = {}
    exercised: list[str] = []
    for law in chosen_laws(task.laws):
        began = time.process_time()
        bench.forget()
        try:
            verdict = bench.examine(law, task.dtype)
        except Exception as error:  # a harness error is a finding about us, and the row goes on
            errors[law.id] = f"{type(error).__name__}: {error}"
            continue
        if verdict.status != "not-applicable":
            exercised.append(law.id)
        if verdict.status == "failed":
            seconds = round(time.process_time() - began, 3)
            ratio = round(verdict.worst_ratio, 3) if math.isfinite(verdict.worst_ratio) else None
            killed[law.id] = Kill(law.kind, verdict.examples, seconds, ratio)
    row = Row(task.name, kind, task.preset, task.dtype, killed, errors, exercised)
    return replace(row, elsewhere=elsewhere(bench, row)) if killed and kind != "control" else row


def elsewhere(bench: Bench, row: Row) -> dict[str, str | float]:
    """In each other dtype the cheapest law that sees the deviation, or the largest ratio of those that saw it here."""
    from properties.core.implementation import dtype_names
    from properties.core.law import all_laws

    found: dict[str, str | float] = {}
    for dtype in dtype_names(bench.implementation):
        if dtype == row.dtype:
            continue
        worst = 0.0
        for law in sorted(row.killed, key=lambda law: row.killed[law].seconds):
            bench.forget()
            verdict = bench.examine(all_laws()[law], dtype)
            if verdict.status == "failed":
                found[dtype] = law
                break
            worst = max(worst, verdict.worst_ratio)
        else:
            found[dtype] = worst
    return found


def home(name: str) -> tuple[str, str]:
    """The first dialect and the first dtype in which a deviation shows."""
    from properties.catalogue.deviations import CATALOGUE, HIDDEN

    deviation = (CATALOGUE | HIDDEN)[name]
    preset = next(title for title, dialect in dialects().items() if deviation.applies(dialect))
    shown = [str(one).removeprefix("torch.") for one in deviation.dtypes]
    return preset, next(one for one in DTYPE_ORDER if one in shown)


def tasks(examples: int, only: list[str], laws: tuple[str, ...] = (), place: str = "cpu") -> list[Task]:
    """Every deviation where it first shows, and every control in the two main presets and every dtype it declares."""
    from mhc_ref import PRESETS
    from properties.catalogue import controls, deviations
    from properties.core.device import device_of

    found: list[Task] = []
    for name, deviation in (deviations.CATALOGUE | deviations.HIDDEN).items():
        if not wanted("deviation", name, only) or (deviation.needs and device_of(place).lacks(deviation.needs)):
            continue
        if not any(deviation.applies(dialect) for dialect in dialects().values()):
            continue  # of a family from outside, which no preset has: `properties.engine.kills` tries those
        found.append(Task("deviation", name, *home(name), examples, laws, place))
    for preset in [name for name in ("PAPER", "DEEPSEEK_V4") if name in PRESETS]:
        for name in controls.CATALOGUE:
            if not wanted("control", name, only):
                continue
            if controls.CATALOGUE[name].applies(PRESETS[preset]):
                found += [
                    Task("control", name, preset, dtype, examples, laws, place)
                    for dtype in dtypes_of(controls.build(name, PRESETS[preset]))
                ]
    return found


def wanted(catalogue: str, name: str, only: Iterable[str]) -> bool:
    """Whether --only asks for it: by its name, or by "deviation:NAME" or "control:NAME", as two may share a name."""
    chosen = set(only)
    return not chosen or name in chosen or f"{catalogue}:{name}" in chosen


def dtypes_of(implementation: Implementation) -> list[str]:
    """The dtypes that it declares, in the order in which they are tried."""
    from properties.core.implementation import dtype_names

    return [dtype for dtype in DTYPE_ORDER if dtype in dtype_names(implementation)]


def still_missing(work: Iterable[Task], rows: Iterable[Row]) -> list[Task]:
    """The tasks of which there is no row, or one that an earlier release ended at its second kill: of all laws a task
    would ask it anew, of some of them it would leave it as short as it is. A deviation and a control may share a
    name."""
    held = {(row.kind == "control", row.name, row.preset, row.dtype): row.stopped for row in rows}
    found: list[Task] = []
    for task in work:
        stopped = held.get((task.catalogue == "control", task.name, task.preset, task.dtype))
        if stopped is None or (stopped and not task.laws):
            found.append(task)
    return found
