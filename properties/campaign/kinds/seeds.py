"""Every control with many seeds: no law may accuse a correct implementation, and none may be flaky.

A seed tries all laws on every control in one combination of preset, dtype and number of streams, the next seed but one
in another; there are about a hundred. Every second seed is tried in a dialect that no preset has: the preset with up to
four fields changed, as who implements one may change them. Seeds are the outer loop, so that a campaign that is cut
short has covered every control evenly. Laws that go through sizes visit the coarsest set, and those of the profile
`thorough` are left out: the sizes are the same for every seed, and `kill` and the tests go through more of them. Of the
crowds of each other law the seed says one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind
from properties.commands.kill_rows import Bench, Task, chosen_laws, dtypes_of
from properties.commands.titled_dialects import dialects, elsewhere, titled

PRESETS = (
    *("PAPER", "DEEPSEEK_V4", "LIGER", "LUCIDRAINS", "MHC_LITE", "HYPER_CONNECTIONS"),
    *("RESIDUAL", "IHC", "DEEPSEEK_V4_1", "KROMHC", "CAYLEY", "QWEN4_EXP", "MUSE_SPARK", "ATTN_RES"),
)
"""Those among which the seeds of a control change."""

Run = tuple[Task, int, int]
"""A control in a preset and dtype, the number of streams, and the seed."""


def frames(name: str) -> list[tuple[str, str, int]]:
    """Where a control can be tried: presets, dtypes and numbers of streams, in an order that is drawn once.

    A control that is a computation of its own in none of the presets is tried in the dialects in which it is.
    """
    from properties.catalogue import controls

    control, every = controls.CATALOGUE[name], dialects()
    speaks = [one for one in every if control.applies(every[one])]
    found = [
        (preset, dtype, n)
        for preset in [one for one in speaks if one in PRESETS] or speaks
        for built in [controls.build(name, every[preset])]
        for dtype in dtypes_of(built)
        for n in built.streams
    ]
    random.Random(name).shuffle(found)
    return found


def runs(seeds: int, examples: int, only: Sequence[str] = (), laws: tuple[str, ...] = ()) -> Iterator[Run]:
    """Every control for every seed, in the next preset, dtype and n that it can compute; odd seeds change a preset."""
    from properties.catalogue import controls

    possible = {name: frames(name) for name in controls.CATALOGUE if not only or name in only}
    for number, (name, places) in itertools.product(range(seeds), possible.items()):
        preset, dtype, n = places[number // 2 % len(places)]
        if number % 2:
            preset = _of_no_preset(name, preset, dtype, n, random.Random(f"{name} {number}"))
        yield Task("control", name, preset, dtype, examples, laws), n, number


ATTEMPTS = 20
"""How many changed dialects are drawn until a control is a computation of its own in one."""


def _of_no_preset(name: str, preset: str, dtype: str, n: int, chance: random.Random) -> str:
    """The title of a changed dialect in which the control computes such states; the preset where none is found."""
    from properties.catalogue import controls

    for _ in range(ATTEMPTS):
        title = elsewhere(preset, chance)
        dialect = titled(title)
        if title == preset or not controls.CATALOGUE[name].applies(dialect):
            continue
        built = controls.build(name, dialect)
        if dtype in dtypes_of(built) and n in built.streams:
            return title
    return preset


def outcome_of(work: Run, where: Path | None = None) -> dict[str, Any]:
    """The laws on one control with one seed; counterexamples go to `where`.

    Returns:
        {title, exercised, examples, wrong}: which run, laws exercised, examples tried, and what was said of a law that
        accused the control, or that failed itself.
    """
    task, n, number = work
    bench = Bench(task, where)
    bench.implementation.streams = (n,)
    exercised, examples = 0, 0
    wrong: list[str] = []
    title = f"{task.name}@{task.preset} {task.dtype}, n = {n}, seed {number}"
    for law in chosen_laws(task.laws):
        try:
            verdict = bench.examine(law, task.dtype, number, seed=True)
        except Exception as error:  # a harness error is what this run is looking for, and the next law is still due
            wrong.append(f"{title}: {law.id}: {type(error).__name__}: {error}")
            continue
        exercised += verdict.status != "not-applicable"
        examples += verdict.examples
        if verdict.status == "failed":
            wrong.append(f"{title}: {verdict.message}")
    return {"title": title, "exercised": exercised, "examples": examples, "wrong": wrong}


def questions(
    seeds: int = 100, examples: int = 3, only: Sequence[str] = (), law: Sequence[str] = ()
) -> Iterator[Question]:
    """One for every control and seed."""
    from properties.catalogue.controls import CATALOGUE

    if strange := [one for one in only if one not in CATALOGUE]:
        raise ValueError(f"there is no control {strange[0]!r}; mhc-properties list controls lists them")
    for task, n, seed in runs(seeds, examples, only, tuple(law)):
        yield {
            **{"name": task.name, "preset": task.preset, "dtype": task.dtype},
            **{"streams": n, "seed": seed, "examples": examples, "laws": list(law)},
        }


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """See `outcome_of`."""
    task = Task(
        *("control", question["name"], question["preset"], question["dtype"]),
        *(question["examples"], tuple(question["laws"])),
    )
    return outcome_of((task, question["streams"], question["seed"]), folder)


def cost(question: Question) -> float:
    """All laws take about a minute."""
    return 1.0 if question["laws"] else 60.0


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """What was tried, and every accusation."""
    answers = [one["answer"] for one in records]
    wrong = [line for one in answers for line in one["wrong"]]
    names = {one["question"]["name"] for one in records}
    numbers = {one["question"]["seed"] for one in records}
    laws, tried = sum(one["exercised"] for one in answers), sum(one["examples"] for one in answers)
    head = (
        f"seeds: {len(records)} runs of {len(names)} controls, {len(numbers)} seeds, {laws} laws exercised, "
        f"{tried} examples, {len(wrong)} accusations or errors"
    )
    if records and not laws and not wrong:
        return f"{head}\nnothing was exercised: the chosen laws apply to none of the chosen controls", True
    return "\n".join(itertools.chain([head], wrong)), bool(wrong)


KIND = Kind(frozenset({"seeds", "examples", "only", "law"}), questions, answer, told, cost)
