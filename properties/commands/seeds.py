"""Many seeds on every control: no law may accuse a correct implementation, and none may be flaky.

    mhc-properties seeds --seeds 100        (make seeds)

A seed tries all laws on every control in one combination of preset, dtype and number of streams, the next seed in
another one; there are about a hundred. Seeds are the outer loop, so a run that `--seconds` cuts short has covered every
control evenly; it says how far it got, and `--first` goes on there.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from properties.commands.kill_rows import Bench, Task, chosen_laws, dtypes_of
from properties.commands.refusals import refuse_unknown
from properties.guards.stopping import end_with

PRESETS = (
    *("PAPER", "DEEPSEEK_V4", "LIGER", "LUCIDRAINS", "MHC_LITE", "HYPER_CONNECTIONS"),
    *("RESIDUAL", "IHC", "DEEPSEEK_V4_1", "KROMHC", "CAYLEY", "QWEN4_EXP", "MUSE_SPARK", "ATTN_RES"),
)
"""Those among which the seeds of a control change."""

Run = tuple[Task, int, int]
"""A control in a preset and dtype, the number of streams, and the seed."""

Outcome = tuple[str, int, int, list[str]]
"""Which run, laws exercised, examples tried, and what went wrong: accusations and harness errors."""


def runs(seeds: int, examples: int, only: list[str], laws: tuple[str, ...] = (), first: int = 0) -> Iterator[Run]:
    """Every control for every seed from `first` on, in the next preset, dtype and n that it can compute."""
    from mhc_ref import PRESETS as DIALECTS
    from properties.catalogue import controls

    frames: dict[str, list[tuple[str, str, int]]] = {}
    for name, control in controls.CATALOGUE.items():
        frames[name] = [
            (preset, dtype, n)
            for preset in PRESETS
            if preset in DIALECTS and control.applies(DIALECTS[preset])
            for built in [controls.build(name, DIALECTS[preset])]
            for dtype in dtypes_of(built)
            for n in built.streams
        ]
        random.Random(name).shuffle(frames[name])
    for number, (name, possible) in itertools.product(range(first, seeds), frames.items()):
        if not only or name in only:
            preset, dtype, n = possible[number % len(possible)]
            yield Task("control", name, preset, dtype, examples, False, laws), n, number


def outcome_of(work: Run, where: Path | None = None) -> Outcome:
    """The laws on one control with one seed, run in a worker process; counterexamples go to `where`."""
    task, n, number = work
    bench = Bench(task, where)
    bench.implementation.streams = (n,)
    exercised, examples = 0, 0
    wrong: list[str] = []
    title = f"{task.name}@{task.preset} {task.dtype}, n = {n}, seed {number}"
    for law in chosen_laws(task.laws, stop=False):
        try:
            verdict = bench.examine(law, task.dtype, number)
        except Exception as error:  # a harness error is what this run is looking for, and the next law is still due
            wrong.append(f"{title}: {law.id}: {type(error).__name__}: {error}")
            continue
        exercised += verdict.status != "not-applicable"
        examples += verdict.examples
        if verdict.status == "failed":
            wrong.append(f"{title}: {verdict.message}")
    return title, exercised, examples, wrong


def main(
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds")] = 100,
    first: Annotated[int, typer.Option(min=0, help="the seed to begin with, where another run ended")] = 0,
    examples: Annotated[int, typer.Option(min=1, help="examples a law and seed")] = 3,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="worker processes")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="begin no run after this time; 0: no limit")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="only this control; may be repeated")] = None,
    law: Annotated[list[str] | None, typer.Option(help="only laws whose id begins so; may be repeated")] = None,
) -> None:
    """Try the laws on every control with many seeds.

    Exit 0: no law accused a control; 1: one did, or the harness failed; 2: the time did not suffice.
    """
    from properties.catalogue import controls

    prefixes = tuple(law or ())
    refuse_unknown(only or [], controls.CATALOGUE, prefixes)
    if first >= seeds:
        raise typer.BadParameter(f"{first} leaves no seed below --seeds {seeds}", param_hint="--first")
    began = time.monotonic()
    work = list(runs(seeds, examples, only or [], prefixes, first))
    done = laws = tried = failures = 0

    def until_late() -> Iterator[Run]:
        for one in work:
            if seconds and time.monotonic() - began > seconds:
                return
            yield one

    with multiprocessing.get_context("spawn").Pool(jobs, _quietly, (os.getpid(),)) as pool:
        pending = until_late()
        # A few at a time: `imap` would take all the work at once, and the limit would never be seen.
        while batch := list(itertools.islice(pending, 4 * jobs)):
            for title, exercised, examples_tried, wrong in pool.imap_unordered(outcome_of, batch):
                done, laws, tried, failures = (
                    done + 1,
                    laws + exercised,
                    tried + examples_tried,
                    failures + len(wrong),
                )
                for message in wrong:
                    typer.echo(message)
                typer.echo(f"{done}/{len(work)} {title}", err=True)
    minutes = (time.monotonic() - began) / 60
    typer.echo(
        f"{done} of {len(work)} runs, {laws} laws exercised, {tried} examples, {failures} accusations or errors, "
        f"{minutes:.0f} minutes with {jobs} workers"
    )
    if done and not laws and not failures:
        typer.echo("nothing was exercised: the chosen laws apply to none of the chosen controls")
        raise typer.Exit(2)
    raise typer.Exit(1 if failures else 2 if done < len(work) else 0)


def _quietly(parent: int) -> None:
    import torch

    end_with(parent)
    torch.set_num_threads(1)
