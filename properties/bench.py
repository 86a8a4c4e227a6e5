"""What a law costs: examples per second, and the shares of implementation, reference, bounds and everything else.

    python -m properties.bench [--law manifold] [--impl ref:PAPER]        (make bench)

Shares are of the same run, so they hold on a noisy machine; seconds are of this machine at this moment. "other" is
Hypothesis with our strategies and bookkeeping.
"""

from __future__ import annotations

import functools
import resource
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

STAGES = ("implementation", "reference", "bounds")


class Clock:
    """Seconds by stage; a stage that runs inside another one counts for the outer."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._busy = False

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to a stage."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if self._busy:
                return function(*arguments, **options)
            self._busy = True
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[stage] += time.perf_counter() - began
                self._busy = False

        return call


@contextmanager
def watching(clock: Clock) -> Generator[None]:
    """Time the calls of every trial to the implementation, the truth and the bounds."""
    from properties import bounds, trial

    places: list[tuple[Any, str, str]] = [(trial.Trial, "_call", "implementation")]
    for truth in (trial.FloatTruth, trial.ExactTruth):
        places += [(truth, name, "reference") for name in ("project", "mappings", "collapse", "project_vjp")]
    names = (
        "projection",
        "gated_logits",
        "projected",
        "squashed",
        "weighted_sum",
        "contracted",
        "times",
        "plus",
        "stored",
    )
    places += [(bounds, name, "bounds") for name in (*names, "coefficients_gradient", "projection_gradient", "affine")]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for (owner, name, stage), (_, _, original) in zip(places, kept, strict=True):
        setattr(owner, name, clock.timed(stage, original))
    try:
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


def main(
    impl: Annotated[str, typer.Option(help="TARGET")] = "ref:PAPER",
    law: Annotated[str, typer.Option(help="only laws whose id begins so")] = "",
    dtype: Annotated[str, typer.Option(help="of the state")] = "float32",
    examples: Annotated[int, typer.Option(help="examples a law")] = 100,
) -> None:
    """Print the table and the totals."""
    import torch

    from properties.law import all_laws
    from properties.runner import Profile, Subject, examine
    from properties.target import resolve

    torch.set_num_threads(1)
    subject = Subject(impl, resolve(impl), getattr(torch, dtype), torch.device("cpu"))
    profile = Profile(examples, derandomise=True, shrink=False)
    table = Table("law", "examples/s", *(f"{stage} %" for stage in STAGES), "other %")
    spent = dict.fromkeys((*STAGES, "other"), 0.0)
    rates: list[float] = []
    for one in all_laws().values():
        if not one.id.startswith(law) or one.inapplicable(subject.implementation, subject.dtype):
            continue
        clock = Clock()
        began = time.perf_counter()
        with watching(clock):
            verdict = examine(one, subject, profile, directory=Path(mkdtemp(prefix="mhc-bench-")))
        total = time.perf_counter() - began
        shares = [clock.seconds[stage] for stage in STAGES]
        shares.append(total - sum(shares))
        for stage, seconds in zip(spent, shares, strict=True):
            spent[stage] += seconds
        rates.append(verdict.examples / total)
        table.add_row(one.id, f"{rates[-1]:.0f}", *(f"{100 * seconds / total:.0f}" for seconds in shares))
    console = Console(width=120)
    console.print(table)
    whole = sum(spent.values())
    console.print(
        "all laws: " + ", ".join(f"{stage} {100 * seconds / whole:.0f} %" for stage, seconds in spent.items())
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"median {statistics.median(rates):.0f} examples/s; {memory:.0f} MiB at most in this process")


if __name__ == "__main__":
    typer.run(main)
