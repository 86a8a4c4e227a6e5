"""What a law costs: examples per second, and the shares of implementation, reference, bounds and everything else.

    mhc-properties bench [--law manifold] [--impl ref] [--device cuda]        (make bench)

Then, of a sample of the deviations, the time until the first law fails; of a sample of random mutants, how many the
laws see (docs/adversary.md has the rates of more, by `mhc-properties adversary`); and, of the laws on one worker and on
two, the time that the second one saves and the memory that each takes.

Shares are of the same run, so they hold on a noisy machine; seconds are of this machine at this moment. "other" is
Hypothesis with our strategies and bookkeeping. On another device than the CPU the implementation's share includes the
wait for the device, a column says for how much of the time the device was at work, and another compares the examples
per second with those of the same laws on the CPU.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from properties.guards.printable import message_of, printable

if TYPE_CHECKING:
    from properties.core.device import Device, Timer
    from properties.core.law import Law
    from properties.engine.subject import Profile, Subject

STAGES = ("implementation", "reference", "bounds")


class Clock:
    """Seconds by stage, of the clock or of `now`; a stage that runs inside another one counts for the outer."""

    def __init__(self, device: Device, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.device = device
        self.timer: Timer = device.timer()
        self._busy = False

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to a stage; the implementation's until the device has finished."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if self._busy:
                return function(*arguments, **options)
            self._busy = True
            began = self.now()
            try:
                if stage != "implementation":
                    return function(*arguments, **options)
                result = self.timer.around(lambda: function(*arguments, **options))
                self.device.synchronise()
                return result
            finally:
                self.seconds[stage] += self.now() - began
                self._busy = False

        return call


@contextmanager
def watching(clock: Clock) -> Generator[None]:
    """Time the calls of every trial to the implementation, the truth and the bounds."""
    from properties import bounds
    from properties.core import exact_truth, observer, truth

    places: list[tuple[Any, str, str]] = [(observer.Observer, "held", "implementation")]
    for kind in (truth.FloatTruth, exact_truth.ExactTruth):
        questions = [name for name in vars(truth.Truth) if callable(vars(truth.Truth)[name]) and name[0] != "_"]
        places += [(kind, name, "reference") for name in questions]
    for owner in (bounds, bounds.block, bounds.stack, bounds.pullback):
        places += [(owner, name, "bounds") for name, made in vars(owner).items() if inspect.isfunction(made)]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for (owner, name, stage), (_, _, original) in zip(places, kept, strict=True):
        setattr(owner, name, clock.timed(stage, original))
    try:
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


@dataclass(frozen=True)
class Cost:
    """One law on one device: seconds by stage and altogether, of the device itself (None on the CPU), and examples."""

    examples: int
    total: float
    seconds: dict[str, float]
    device: float | None

    @property
    def rate(self) -> float:
        """Examples per second."""
        return self.examples / self.total

    @property
    def other(self) -> float:
        """Seconds outside of every stage."""
        return self.total - sum(self.seconds.values())


def cost(law: Law, subject: Subject, profile: Profile) -> Cost:
    """Examine a law and time it."""
    from properties.core.device import device_of
    from properties.engine.runner import examine

    clock = Clock(device_of(subject.device))
    began = time.perf_counter()
    with watching(clock), TemporaryDirectory(prefix="mhc-bench-") as where:
        verdict = examine(law, subject, profile, directory=Path(where))
    total = time.perf_counter() - began
    return Cost(verdict.examples, total, clock.seconds, clock.timer.seconds)


def until_caught(count: int) -> dict[str, float]:
    """For every so many-th deviation of the catalogue the CPU seconds until a law fails, without shrinking; inf: none.

    The laws come in the order of a run, scouts first, in the profile dev, on one worker, in the first preset and dtype
    that show it.
    """
    from properties.catalogue.deviations import CATALOGUE
    from properties.commands.kill_rows import Bench, Task, home
    from properties.core.law import all_laws, scouts
    from properties.engine.subject import PROFILES

    laws = sorted(all_laws().values(), key=lambda law: (law.id not in scouts(), law.family))  # files by name
    names = list(CATALOGUE)
    found: dict[str, float] = {}
    for name in names[:: max(1, len(names) // count)]:
        task = Task("deviation", name, *home(name), PROFILES["dev"].examples, ())
        bench = Bench(task)
        found[name] = math.inf
        began = time.process_time()
        for law in laws:
            if bench.examine(law, task.dtype).status == "failed":
                found[name] = time.process_time() - began
                break
    return found


def wall_time(workers: int, impl: str, law: str) -> tuple[float, float]:
    """Seconds of `pytest --pyargs properties -n WORKERS`, and the MiB of the largest of its processes."""
    from properties.plugin.launch import LAWS_ALONE

    command = [sys.executable, "-m", "pytest", *LAWS_ALONE]
    command += ["-n", str(workers), "--impl", impl, "--law", law, "--hypothesis-profile", "ci"]
    began = time.perf_counter()
    with (
        TemporaryDirectory(prefix="mhc-bench-") as where,
        subprocess.Popen(command, cwd=where, stdout=subprocess.DEVNULL) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main(
    impl: Annotated[str, typer.Option(help="TARGET")] = "ref",
    law: Annotated[str, typer.Option(help="only laws whose id begins so")] = "",
    dtype: Annotated[str, typer.Option(help="of the state")] = "float32",
    examples: Annotated[int, typer.Option(min=1, help="examples a law")] = 100,
    device: Annotated[str, typer.Option(help="where the implementation computes")] = "cpu",
    deviations: Annotated[int, typer.Option(min=0, help="how many deviations to catch; 0: none")] = 50,
    mutants: Annotated[int, typer.Option(min=0, help="how many random mutants to put before the laws; 0: none")] = 30,
    workers: Annotated[bool, typer.Option(help="compare one worker with two")] = True,
) -> None:
    """Measure what laws cost: examples per second, where the time goes, and how soon a wrong implementation is seen."""
    import torch

    from properties.commands.adversary_rows import sampled
    from properties.commands.refusals import refuse_absent, refuse_unknown
    from properties.core.device import device_of
    from properties.core.implementation import dtype_names
    from properties.core.law import all_laws
    from properties.engine.subject import Profile, Subject
    from properties.targets.target import TargetError, resolve

    torch.set_num_threads(1)
    refuse_absent(device)
    refuse_unknown([], (), [law])
    try:
        implementation = resolve(impl)
    except TargetError as error:
        raise typer.BadParameter(message_of(error), param_hint="--impl") from None
    if dtype not in dtype_names(implementation):
        raise typer.BadParameter(
            f"{printable(repr(dtype), 60)}: {impl} takes {', '.join(dtype_names(implementation))}", param_hint="--dtype"
        )
    here, there = (Subject(impl, implementation, getattr(torch, dtype), torch.device(name)) for name in (device, "cpu"))
    profile = Profile(examples, derandomise=True, shrink=False)
    abroad = device != "cpu"
    columns = [*(f"{stage} %" for stage in STAGES), "other %", *(("device %", "CPU examples/s") if abroad else ())]
    rows = [["law", "examples/s", *columns]]
    spent: dict[str, float] = dict.fromkeys((*STAGES, "other"), 0.0)
    at_work, rates, faster = 0.0, list[float](), list[float]()
    for one in all_laws().values():
        if not one.id.startswith(law) or one.inapplicable(implementation, here.dtype, here.device):
            continue
        found = cost(one, here, profile)
        if not found.examples:
            continue
        for stage, seconds in (*found.seconds.items(), ("other", found.other)):
            spent[stage] += seconds
        rates.append(found.rate)
        cells = [f"{found.rate:.0f}"]
        cells += [f"{100 * part / found.total:.0f}" for part in (*found.seconds.values(), found.other)]
        if abroad:
            at_work += found.device or 0.0
            cells.append(f"{100 * (found.device or 0.0) / found.total:.0f}")
            on_cpu = None if one.inapplicable(implementation, there.dtype, there.device) else cost(one, there, profile)
            cells.append(f"{on_cpu.rate:.0f}" if on_cpu and on_cpu.examples else "-")
            faster += [found.rate / on_cpu.rate] if on_cpu and on_cpu.examples else []
        rows.append([one.id, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        typer.echo("  ".join([name.ljust(widths[0]), *numbers]))
    if not rates:
        typer.echo(f"no law whose id begins with {law!r} applies")
        raise typer.Exit(2)
    whole = sum(spent.values())
    typer.echo("all laws: " + ", ".join(f"{stage} {100 * seconds / whole:.0f} %" for stage, seconds in spent.items()))
    if abroad:
        typer.echo(f"{device_of(device).described()}: at work for {100 * at_work / whole:.0f} % of the time")
        if faster:
            typer.echo(f"median of examples/s against the CPU: {statistics.median(faster):.2f}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    typer.echo(f"median {statistics.median(rates):.0f} examples/s; {memory:.0f} MiB at most in this process")
    if deviations:
        caught = until_caught(deviations)
        slowest = max(caught, key=lambda name: caught[name])
        typer.echo(
            f"{len(caught)} deviations: a law fails after {statistics.median(caught.values()):.2f} CPU s (median), "
            f"{caught[slowest]:.1f} at most ({slowest})"
        )
    if mutants:
        mutant = sampled(mutants)
        wrong = mutant["killed"] + mutant["survived"]
        typer.echo(
            f"{mutant['mutants']} random mutants: {mutant['killed']} of the {wrong} wrong ones are seen, "
            f"{100 * mutant['rate']:.1f} %, in {mutant['seconds']} CPU s"
        )
    if workers:
        (one, _), (two, most) = wall_time(1, impl, law), wall_time(2, impl, law)
        typer.echo(
            f"-n 1: {one:.0f} s, -n 2: {two:.0f} s, {one / two:.2f} times as fast; {most:.0f} MiB a worker at most"
        )
