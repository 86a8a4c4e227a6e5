"""The table of causes over everything that is known to be wrong or right: `python -m properties.causes.table`.

Every deviation must end in exactly one cause, which names it or its stage; every control in none; two deviations that
do not hide one another in two causes, each of which names one of them or its stage.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mhc_ref import Dialect
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, HIDDEN, Deviant
from properties.causes.causes import Causes
from properties.causes.pairs import BESIDE, pairs
from properties.core.deviant import redialected
from properties.core.implementation import Implementation
from properties.core.law import Law, all_laws, scouts
from properties.diagnosis.acting import STEPS
from properties.diagnosis.parts import Part, made, of_deviation
from properties.diagnosis.table import EQUIVALENT, home, homes
from properties.diagnosis.ties import apart, wide_frame
from properties.diagnosis.view import Frame
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject
from properties.guards.whole import write_whole
from properties.report.cause import Cause

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
"""In this order, until a law sees something: most shows in float32."""


@dataclass(frozen=True)
class Row:
    """One target: what came of it, and whether that is right.

    Attributes:
        wanted: the deviations that it has.
        causes: in words.
        failed, shown, untold: failures; those that were shown to belong, the first of each among them; those that
            could not be told apart.
        seconds: of the processor.
    """

    target: str
    wanted: tuple[str, ...]
    right: bool
    dtype: str
    causes: tuple[str, ...]
    failed: int
    shown: int
    untold: int
    seconds: float

    @property
    def _verdict(self) -> str:
        return "right" if self.right else "wrong"

    def line(self) -> str:
        """For a terminal."""
        told = " | ".join(self.causes) or "no cause"
        counts = f"{self.failed:3d} {self.shown:3d} {self.untold:3d}"
        return f"{self.target:<58} {self._verdict} {self.dtype:<8} {counts} {self.seconds:6.1f}  {told}"

    def markdown(self) -> str:
        """For a page."""
        told = "; ".join(self.causes).replace("|", r"\|")
        counts = f"{self.failed} | {self.shown} | {self.untold}"
        return f"| {self.target} | {self._verdict} | {self.dtype} | {told} | {counts} | {self.seconds:.0f} |"


def row(
    target: str,
    implementation: Implementation,
    wanted: tuple[str, ...] = (),
    *,
    examples: int = 16,
    laws: Sequence[Law],
    workers: int = 1,
) -> Row:
    """Put one target, of which it is known what is wrong with it, to the laws.

    Arguments:
        laws: in the order of asking.
        workers: how many share the work and the account of the target, as those of a run do.
    """
    begun = time.process_time()
    accepted = [one for one in DTYPES if one in implementation.dtypes] or list(implementation.dtypes)
    dtype, causes, told = accepted[0], dict[str, Cause](), list[tuple[str, ...]]()
    for dtype in accepted:
        causes, told = _causes(target, implementation, dtype, laws, examples, workers)
        if told or not wanted:
            break
    hows = [how for failure in told for how in failure]
    return Row(
        target,
        wanted,
        _right(list(causes.values()), wanted, implementation),
        str(dtype).removeprefix("torch."),
        tuple(in_words(one) for one in causes.values()),
        len(told),
        sum(how in ("first", "shown") for how in hows),
        hows.count("not told apart"),
        time.process_time() - begun,
    )


def of_prefixes(prefixes: Sequence[str]) -> list[Law]:
    """The laws whose ids begin so, in the order of a run: those first that see the most."""
    chosen = [law for law in all_laws().values() if law.id.startswith(tuple(prefixes))]
    return sorted(chosen, key=lambda law: law.id not in scouts())


def _causes(
    target: str, implementation: Implementation, dtype: torch.dtype, laws: Sequence[Law], examples: int, workers: int
) -> tuple[dict[str, Cause], list[tuple[str, ...]]]:
    """Causes by key, and how every failure belongs."""
    profile = Profile(examples=examples, derandomise=True, shrink=False)  # what is shrunk belongs already
    subject = Subject(target, implementation, dtype, torch.device("cpu"))
    found: dict[str, Cause] = {}
    told: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="mhc-causes-") as folder:
        each = [Causes(Path(folder) if workers > 1 else None) for _ in range(workers)]
        for law, worker in zip(laws, itertools.cycle(each)):
            verdict = examine(law, subject, profile, directory=Path(folder), attribution=worker)
            if verdict.status == "failed":
                found |= {one.key: one for one in verdict.causes if one.key not in found}
                told.append(verdict.belongs)
    return found, told


def in_words(cause: Cause) -> str:
    """What a cause says, and where."""
    return cause.summary + (f" [{cause.kind} in {cause.stage}]" if cause.explanation is None else "")


def _right(causes: Sequence[Cause], wanted: tuple[str, ...], implementation: Implementation) -> bool:
    if len(causes) != len(wanted):
        return False
    return any(
        all(says(cause, name, implementation) for cause, name in zip(causes, order, strict=True))
        for order in itertools.permutations(wanted)
    )


def says(cause: Cause, name: str, implementation: Implementation) -> bool:
    """Whether a cause names a deviation, or what gives the same answers; without an explanation whether it has its
    stage."""
    if cause.explanation is None:
        return cause.kind in ("exception", "limit") or cause.stage in stages_of(name, implementation.dialect)
    if name == cause.explanation["deviation"] or f"deviation {name} " in " ".join((*cause.notes, "")):
        return True
    declared = implementation.dialect
    truth = (CATALOGUE | HIDDEN)[name].make(declared)
    fields = cause.explanation["fields"]
    if isinstance(truth, Deviant) and redialected(truth):
        changed = truth.computed.difference(declared)
        if fields and all(changed.get(field, (None,))[0] == value for field, value in fields.items()):
            return True
    if cause.explanation["measured"]:
        return cause.stage in stages_of(name, declared)
    explaining = made([Part(fields=fields, deviation=cause.explanation["deviation"])], declared)
    if explaining is None or not isinstance(truth, Deviant):
        return False
    same = apart(explaining, truth, wide_frame(Frame.of(truth)), declared, seed=6) is None
    return same or (bool(fields) and name in EQUIVALENT)


def stages_of(name: str, dialect: Dialect) -> set[str]:
    """The stages of a deviation: that of its kind, and those of the steps that it overrides."""
    made_of = (CATALOGUE | HIDDEN)[name].make(dialect)
    kinds = made_of.slip.__mro__ if isinstance(made_of, Deviant) else ()
    own = {step for kind in kinds if kind is not Deviant and issubclass(kind, Deviant) for step in vars(kind)}
    return {of_deviation(name).stage, *(stage for stage, steps in STEPS.items() if own.intersection(steps))}


def single(name: str) -> tuple[str, Implementation, tuple[str, ...]]:
    """A deviation where it applies first."""
    preset, dialect = home(name)
    return f"deviation:{name}@{preset}", (CATALOGUE | HIDDEN)[name].make(dialect), (name,)


def correct(name: str) -> tuple[str, Implementation, tuple[str, ...]]:
    """A control in the first preset that it can compute."""
    control = controls.CATALOGUE[name]
    preset, dialect = next(one for one in homes().items() if control.applies(one[1]))
    return f"control:{name}@{preset}", control.make(dialect), ()


PARTS = ("controls", "singles", *BESIDE)


def targets(part: str, count: int | None, seed: int) -> Iterator[tuple[str, Implementation, tuple[str, ...]]]:
    """What is put to the laws in one part of the table; `count`: so many of them, all or a third of 50 if None."""
    if part in BESIDE:
        yield from pairs(part, 17 if count is None else count, seed)
        return
    here = [name for name, one in HIDDEN.items() if one.kind != "device"]  # the others show on a device of their own
    names = list(controls.CATALOGUE) if part == "controls" else [*CATALOGUE, *here]
    if count is not None and count < len(names):
        names = [names[(seed + k * len(names) // count) % len(names)] for k in range(count)]
    yield from map(correct if part == "controls" else single, names)


def summary(made_rows: Sequence[Row]) -> str:
    """How many are right, how their failures belong, and what they cost."""
    if not made_rows:
        return "nothing"
    failed, shown, untold = (sum(getattr(one, name) for one in made_rows) for name in ("failed", "shown", "untold"))
    times = [one.seconds for one in made_rows]
    return (
        f"{sum(one.right for one in made_rows)} of {len(made_rows)} right; {failed} failures, {shown} times shown to "
        f"belong, {untold} times not told apart; median {statistics.median(times):.1f} s, slowest {max(times):.1f} s"
    )


def page(made_rows: dict[str, list[Row]]) -> str:
    """The table in Markdown."""
    lines = ["# In which causes everything ends that this package knows", ""]
    lines += [
        "Made by `python -m properties.causes.table --out docs`. A row is a target with all laws in one dtype.",
        "",
    ]
    for part, found in made_rows.items():
        lines += [f"## {f'{part} beside value' if part in BESIDE else part}", "", summary(found), ""]
        lines += ["| target | verdict | dtype | causes | failed | shown | not told apart | s |"]
        lines += ["|---|---|---|---|---|---|---|---|", *(one.markdown() for one in found), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and its summaries; 1 where a row is wrong."""
    parser = argparse.ArgumentParser(prog="python -m properties.causes.table", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--singles", type=int, metavar="N", help="only so many deviations")
    parser.add_argument("--controls", type=int, metavar="N", help="only so many controls")
    parser.add_argument("--pairs", type=int, metavar="N", help="so many pairs of each type (17)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which of them")
    parser.add_argument("--examples", type=int, default=16, metavar="N", help="examples of each law (16)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="how many share the work on a target (1)")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this deviation or control, or one+another"
    )
    parser.add_argument(
        "--law", action="append", metavar="PREFIX", help="only laws whose id begins so; may be repeated"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write causes-table.md into this folder as well")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    torch.set_num_threads(1)
    made_rows: dict[str, list[Row]] = {}
    for part in chosen.parts:
        made_rows[part] = []
        counts = {"singles": chosen.singles, "controls": chosen.controls}
        for target, implementation, wanted in targets(part, counts.get(part, chosen.pairs), chosen.seed):
            if (
                chosen.only
                and target.partition(":")[2].partition("@")[0] not in chosen.only
                and target not in chosen.only
            ):
                continue
            laws = of_prefixes(chosen.law or ("",))
            one = row(target, implementation, wanted, laws=laws, examples=chosen.examples, workers=chosen.workers)
            made_rows[part].append(one)
            print(one.line(), flush=True)
        print(f"{part}: {summary(made_rows[part])}", flush=True)
    if chosen.out:
        write_whole(chosen.out / "causes-table.md", page(made_rows).encode())
    return 0 if all(one.right for found in made_rows.values() for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
