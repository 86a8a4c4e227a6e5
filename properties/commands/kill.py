"""The kill matrix: which law sees which wrong implementation, and that no law accuses a correct one.

    mhc-properties kill --out DIR        (make kill)

A row is a deviation in the first preset and dtype in which it shows; a cell is one search without shrinking. The page
says which deviations only the oracle sees, which laws see nothing, and in which other dtypes a deviation hides below
its bound. The file is written after every row, and `--law` or `--only` renew a part of it and keep the rest.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated, Any

import typer

from properties.guards.printable import message_of, printable
from properties.guards.stopping import end_with
from properties.guards.whole import unwritable, write_whole

if TYPE_CHECKING:
    import torch

    from mhc_ref import Dialect
    from properties.core.implementation import Implementation
    from properties.core.law import Law
    from properties.engine.subject import Verdict

PRESET_ORDER = ("PAPER", "DEEPSEEK_V4", "LUCIDRAINS", "MHC_LITE", "HYPER_CONNECTIONS", "LIGER", "RESIDUAL")
SCHEMA = 2
"""The number of the form of kill.json: {schema, rows}. Form 1, the plain list of rows, is read too."""
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
        stopped: whether it ends at its second kill, so that `killed` is a part of the laws that see it.
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
    """One row to be made: `stop` at two kills of different kinds, only the laws whose ids begin with one of `laws`,
    those named by `soonest` before the others, on the device of that type."""

    catalogue: str
    name: str
    preset: str
    dtype: str
    examples: int
    stop: bool
    laws: tuple[str, ...]
    device: str = "cpu"
    soonest: tuple[str, ...] = ()


class Bench:
    """One implementation, put before one law after another."""

    def __init__(self, task: Task) -> None:
        import torch

        from properties.catalogue import controls, deviations

        torch.set_num_threads(1)
        self.task = task
        self.device = torch.device(task.device)
        build = deviations.build if task.catalogue == "deviation" else controls.build
        self._build = functools.partial(build, task.name, dialects()[task.preset])
        self.implementation: Implementation = self._build()
        self._where = Path(mkdtemp(prefix="mhc-kill-"))

    def forget(self) -> None:
        """Begin again with a new implementation: what one law has left in its memory must not help the next."""
        self.implementation = self._build()

    def examine(self, law: Law, dtype: str | torch.dtype, randomness: int | None = None) -> Verdict:
        """The verdict of one search; examples are the same in every run, or for every `randomness`."""
        import torch

        from properties.engine.runner import examine
        from properties.engine.subject import Profile, Subject

        task = self.task
        which = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        target = f"{task.catalogue}:{task.name}@{task.preset}"
        subject = Subject(target, self.implementation, which, self.device)
        profile = Profile(examples=task.examples, derandomise=True, shrink=False, thorough=True)
        return examine(law, subject, profile, directory=self._where, randomness=randomness)


NEAREST = {
    "gradient": ("gradient",),
    "execution": ("execution", "device"),
    "gamed": ("execution", "manifold"),
    "dtype": ("precision", "coefficients", "block"),
    "collapse": ("depth",),
    "orientation": ("mixing", "block"),
    "packing": ("coefficients",),
    "normalisation": ("coefficients",),
    "scaling": ("coefficients", "mixing"),
    "initialisation": ("coefficients", "gradient"),
}
"""For a kind of slip the families that are likely to see it; for the kinds that are left the order of the families."""


def chosen_laws(prefixes: tuple[str, ...], stop: bool, kind: str = "") -> list[Law]:
    """The laws of a row in the order in which they are tried."""
    from properties.core.law import FAMILIES, all_laws, family_laws

    laws = [law for law in all_laws().values() if not prefixes or law.id.startswith(prefixes)]
    if stop:  # one of each family in turn, oracles first: most slips show within a few
        rank = {
            law.id: k for family in FAMILIES for k, law in enumerate(sorted(family_laws(family), key=_oracle_first))
        }
        nearest = NEAREST.get(kind, ())
        laws.sort(key=lambda law: (law.family not in nearest, rank[law.id]))
    return laws


def row_of(task: Task) -> Row:
    """One row, run in a worker process."""
    from properties.catalogue import deviations

    bench = Bench(task)
    wrong = deviations.CATALOGUE | deviations.HIDDEN
    kind = wrong[task.name].kind if task.catalogue == "deviation" else "control"
    killed: dict[str, Kill] = {}
    errors: dict[str, str] = {}
    exercised: list[str] = []
    laws = chosen_laws(task.laws, task.stop, kind)
    for law in sorted(laws, key=lambda one: one.id not in task.soonest):
        if task.stop and (
            len({kill.kind for kill in killed.values()}) > 1 or set(killed) >= set(task.soonest) != set()
        ):
            break
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
    row = Row(task.name, kind, task.preset, task.dtype, killed, errors, exercised, stopped=task.stop)
    return replace(row, elsewhere=elsewhere(bench, row)) if killed and kind != "control" else row


def first_killed(work: tuple[str, list[Task]]) -> Row | None:
    """The row of the first task whose deviation a law sees, with that law alone; None where it sees none."""
    law, possible = work
    for task in possible:
        row = row_of(replace(task, laws=(law,), stop=False))
        if row.killed:
            return row
    return None


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


def _oracle_first(law: Law) -> bool:
    return law.kind != "oracle"


def home(name: str) -> tuple[str, str]:
    """The first dialect and the first dtype in which a deviation shows."""
    from properties.catalogue.deviations import CATALOGUE, HIDDEN

    deviation = (CATALOGUE | HIDDEN)[name]
    preset = next(title for title, dialect in dialects().items() if deviation.applies(dialect))
    shown = [str(one).removeprefix("torch.") for one in deviation.dtypes]
    return preset, next(one for one in DTYPE_ORDER if one in shown)


def dialects() -> dict[str, Dialect]:
    """The presets in the order in which they are tried, and last the dialects of deviations that no preset shows."""
    from mhc_ref import PRESETS
    from properties.catalogue.deviations import ELSEWHERE

    return {**{title: PRESETS[title] for title in PRESET_ORDER}, **ELSEWHERE}


def tasks(examples: int, only: list[str], stop: bool, laws: tuple[str, ...] = (), place: str = "cpu") -> list[Task]:
    """Every deviation where it first shows, and every control in the two main presets and every dtype it declares."""
    from mhc_ref import PRESETS
    from properties.catalogue import controls, deviations
    from properties.core.device import device_of

    found: list[Task] = []
    for name, deviation in (deviations.CATALOGUE | deviations.HIDDEN).items():
        if not wanted("deviation", name, only) or (deviation.needs and device_of(place).lacks(deviation.needs)):
            continue
        found.append(Task("deviation", name, *home(name), examples, stop, laws, place))
    for preset in ("PAPER", "DEEPSEEK_V4"):
        for name in controls.CATALOGUE:
            if not wanted("control", name, only):
                continue
            if controls.CATALOGUE[name].applies(PRESETS[preset]):
                found += [
                    Task("control", name, preset, dtype, examples, False, laws, place)
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


def refuse_unknown(only: list[str], names: Iterable[str], laws: Iterable[str]) -> None:
    """What would choose nothing is a usage error: a run of nothing finds nothing."""
    from properties.core.law import all_laws

    known = list(names)
    for one in only:
        if one not in known:
            given = printable(repr(one), 200)
            raise typer.BadParameter(f"there is no {given}{_closest(one, known)}", param_hint="--only")
    for one in laws:
        if not any(law.startswith(one) for law in all_laws()):
            given = printable(repr(one), 200)
            raise typer.BadParameter(f"no law's id begins with {given}{_closest(one, all_laws())}", param_hint="--law")


def refuse_ambiguous(only: Iterable[str], *catalogues: Iterable[str]) -> None:
    """A name that stands for more than one thing is a usage error."""
    for one in only:
        if sum(one in catalogue for catalogue in catalogues) > 1:
            raise typer.BadParameter(
                f"{one!r} is a deviation and a control: say deviation:{one} or control:{one}", param_hint="--only"
            )


def refuse_lost(folder: Path, option: str) -> None:
    """A folder in which nothing could be written is a usage error before the work, not after it."""
    if (why := unwritable(folder)) is not None:
        shown = printable(str(folder), 200)
        raise typer.BadParameter(f"{shown}: expected a folder that can be written: {why}", param_hint=option)


def refuse_absent(device: str) -> None:
    """A device that is not known, or not here, is a usage error."""
    from properties.core.device import device_of

    try:
        absent = device_of(device).missing()
    except LookupError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None
    if absent is not None:
        raise typer.BadParameter(f"there is {absent} here", param_hint="--device")


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 3)
    return f"; the closest are {', '.join(close)}" if close else ""


def page(rows: list[Row], place: str = "cpu") -> str:
    """The matrix of a type of device as Markdown."""
    from properties.catalogue.deviations import HIDDEN
    from properties.core.device import device_of
    from properties.core.law import all_laws

    laws = all_laws()
    elsewhere = [name for name, one in HIDDEN.items() if one.needs and device_of(place).lacks(one.needs)]
    deviations = [row for row in rows if row.kind != "control"]
    controls = [row for row in rows if row.kind == "control"]
    kinds = {row.name: {kill.kind for kill in row.killed.values()} for row in deviations}
    survivors = [row.name for row in deviations if not row.killed]
    oracle_only = [name for name, found in kinds.items() if found == {"oracle"}]
    single = [row.name for row in deviations if len(row.killed) == 1]
    flagged = [f"{row.name}@{row.preset} {row.dtype}: {', '.join(row.killed)}" for row in controls if row.killed]
    by_law = Counter(law for row in deviations for law in row.killed)
    idle = [law for law in laws if law not in by_law]
    hidden = [
        f"{row.name} in {dtype} ({ratio:.2g})"
        for row in deviations
        for dtype, ratio in row.elsewhere.items()
        if not isinstance(ratio, str)
    ]
    stopped = sum(row.stopped for row in rows)
    short = stopped == len(deviations) > 0
    which = "A row" if short else f"Of the rows {stopped} are from a run with `--stop`: such a row"
    command = "mhc-properties kill --out docs --stop" if short else "make kill"
    if place != "cpu":
        command = f"mhc-properties kill --device {place}{' --stop' if short else ''}"
    stopped_words = [
        f"{which} ends at its second kill, of another kind, and a law that killed nothing by then is tried on one",
        "deviation after another until it does: counts are lower bounds. `make kill` tries all laws on all of them.",
    ]
    text = [
        "# Kill matrix",
        "",
        f"Made by `{command}`: every deviation in the first preset and dtype in which it shows, every control in",
        "PAPER and DEEPSEEK_V4 in every dtype that it declares, without shrinking. `properties/catalogue/deviations/`",
        "says what each deviation does wrong and where that happened; the cells of the matrix are in `kill.json`.",
        *(stopped_words if stopped else []),
        "",
        f"* deviations killed: {len(deviations) - len(survivors)} of {len(deviations)}",
        f"* killed by the oracle laws alone: {', '.join(oracle_only) or 'none'}",
        f"* killed by a single law: {', '.join(single) or 'none'}",
        f"* surviving: {', '.join(survivors) or 'none'}",
        f"* controls flagged: {'; '.join(flagged) or 'none'} (of {len(controls)} control runs)",
        f"* laws that kill nothing: {', '.join(idle) or 'none'}",
        f"* harness errors: {sum(len(row.errors) for row in rows)}",
        f"* not run, what they need the {'CPU' if place == 'cpu' else place} lacks: {', '.join(elsewhere) or 'none'}",
        "",
        "In another dtype than its own a deviation may lie below the bound: rounding there explains more than the slip",
        f"does. Those, with the largest ratio reached: {', '.join(hidden) or 'none'}.",
        "",
        "| deviation | kind | preset | dtype | killed by | identity | invariant | contract | oracle |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in deviations:
        counts = Counter(kill.kind for kill in row.killed.values())
        cells = " | ".join(str(counts[kind]) for kind in ("identity", "invariant", "contract", "oracle"))
        of = f"{len(row.killed)} of {len(row.exercised)}"
        text.append(f"| {row.name} | {row.kind} | {row.preset} | {row.dtype} | {of} | {cells} |")
    text += ["", "| law | kind | deviations killed |", "|---|---|---|"]
    text += [f"| {law} | {one.kind} | {by_law[law]} |" for law, one in laws.items()]
    return "\n".join(text) + "\n"


def load(path: Path) -> list[Row]:
    """The rows of a kill.json; none where there is no such file.

    Raises:
        ValueError: it is none; the message says why.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            if found["schema"] != SCHEMA:
                raise ValueError(f"its schema is {found['schema']!r}; this version reads 1, a plain list, and {SCHEMA}")
            found = found["rows"]
        if not isinstance(found, list):
            raise TypeError(f"it holds {type(found).__name__}, not rows")
        return [Row.from_json(data) for data in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = printable(str(path), 200)
        raise ValueError(f"{shown} is no kill.json: {type(error).__name__}: {message_of(error, 300)}") from None


def save(path: Path, rows: list[Row]) -> None:
    """One row a line."""
    text = ",\n".join(json.dumps(asdict(row)) for row in rows)
    write_whole(path, f'{{"schema": {SCHEMA}, "rows": [\n{text}\n]}}\n'.encode())


def still_missing(work: Iterable[Task], rows: Iterable[Row]) -> list[Task]:
    """The tasks of which there is no row: a deviation and a control may share a name."""
    held = {(row.kind == "control", row.name, row.preset, row.dtype) for row in rows}
    return [task for task in work if (task.catalogue == "control", task.name, task.preset, task.dtype) not in held]


def main(
    out: Annotated[
        Path | None,
        typer.Option(help="where kill.md and kill.json go; default: docs, or kill-DEVICE of another device"),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="examples a cell")] = 16,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="worker processes")] = 2,
    stop: Annotated[bool, typer.Option(help="leave a deviation at its second kill, of another kind")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="only this deviation or control, [deviation:|control:]NAME; may be repeated"),
    ] = None,
    law: Annotated[list[str] | None, typer.Option(help="only laws whose id begins so; may be repeated")] = None,
    missing: Annotated[bool, typer.Option(help="only rows that kill.json lacks")] = False,
    device: Annotated[str, typer.Option(help="where the implementations compute")] = "cpu",
    like: Annotated[
        Path | None, typer.Option(help="a kill.json: its cheapest laws come first, and --stop asks no more")
    ] = None,
    controls: Annotated[bool, typer.Option(help="try the controls too")] = True,
) -> None:
    """Make the matrix; exit 1 where a deviation survives, a control is flagged or the harness failed."""
    from properties.catalogue import deviations
    from properties.catalogue.controls import CATALOGUE as CONTROLS
    from properties.core.law import all_laws

    prefixes = tuple(law or ())
    wrong = [*deviations.CATALOGUE, *deviations.HIDDEN]
    named = [*wrong, *CONTROLS, *(f"deviation:{one}" for one in wrong), *(f"control:{one}" for one in CONTROLS)]
    refuse_unknown(only or [], named, prefixes)
    refuse_ambiguous(only or [], wrong, CONTROLS)
    refuse_absent(device)
    out = out or Path("docs" if device == "cpu" else f"kill-{device}")
    work = [
        task for task in tasks(examples, only or [], stop, prefixes, device) if controls or task.catalogue != "control"
    ]
    if like is not None and not like.is_file():
        raise typer.BadParameter(f"there is no file {like}", param_hint="--like")
    if not work:
        raise typer.BadParameter("nothing is left to be tried", param_hint="--only")
    partial = bool(only or law or missing)
    try:
        before = load(like) if like else []
        known = {row.key: row for row in load(out / "kill.json")} if partial else {}
    except ValueError as error:
        raise typer.BadParameter(message_of(error)) from None
    earlier = {row.name: row for row in before if row.kind != "control"}
    soonest = {name: tuple(row.cheapest()) for name, row in earlier.items()}
    work = [replace(task, soonest=soonest.get(task.name, ()) if task.catalogue == "deviation" else ()) for task in work]
    if missing:
        work = still_missing(work, known.values())
    renewed = {one for one in all_laws() if not prefixes or one.startswith(prefixes)}
    refuse_lost(out, "--out")
    rows = dict(known)
    with multiprocessing.get_context("spawn").Pool(jobs, end_with, (os.getpid(),)) as pool:
        for done, row in enumerate(pool.imap(row_of, work), 1):
            rows[row.key] = row.renewed(rows[row.key], renewed) if row.key in rows else row
            save(out / "kill.json", list(rows.values()))
            typer.echo(f"{done}/{len(work)} {row.name} {row.preset} {row.dtype}: {len(row.killed)}", err=True)
        if stop:
            idle = renewed - {one for row in rows.values() for one in row.killed}
            possible = [task for task in work if task.catalogue == "deviation"]

            def likely(law: str) -> tuple[str, list[Task]]:
                killed = {name for name, row in earlier.items() if law in row.killed}
                return law, sorted(possible, key=lambda task: task.name not in killed)

            for row in pool.imap(first_killed, map(likely, sorted(idle))):
                if row is not None:
                    rows[row.key] = row.renewed(rows[row.key], set(row.killed))
    found = list(rows.values())
    save(out / "kill.json", found)
    write_whole(out / "kill.md", page(found, device).encode())
    bad = [row.name for row in found if bool(row.killed) == (row.kind == "control") or row.errors]
    typer.echo(f"{len(found)} rows; to look at: {', '.join(bad) or 'none'}")
    raise typer.Exit(1 if bad else 0)
