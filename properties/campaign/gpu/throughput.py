"""A step: tokens a second through the laws that ask the oracle, on the device and on the CPU, one worker and many.

    python -m properties.campaign.gpu.throughput --device cuda --workers 1,15 --seconds 50 --out throughput.json

Every measurement goes on for the same time and counts what was done in it: examples, their tokens, the numbers that
were judged, and the seconds for which the device was at work. Each worker has the same laws on the reference in float32
and seeds of its own. It measures once it has tried every law; what several workers did adds up. A way to judge is a
line of `WAYS`: one example after another, by `examine` as `check` has it, and hundreds in one pass, by `examine_many`
as `batched` has it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from properties.guards.stopping import end_with
from properties.guards.whole import write_whole

if TYPE_CHECKING:
    from properties.core.law import Law
    from properties.engine.subject import Subject

SCHEMA = 1
"""The number of the form of the file."""
START = 8.0
"""Seconds that several workers take to start and to try every law once, about."""
WARM = 2.0
"""Seconds that this takes in a process that has started."""


@dataclass(frozen=True)
class Count:
    """What one worker did in so many seconds.

    Attributes:
        examples, tokens: tried.
        claims: numbers and facts that something was claimed of.
        seconds: of the wall.
        device: of these, the device was at work; None where nobody counts that.
    """

    examples: int
    tokens: int
    claims: int
    seconds: float
    device: float | None = None


Way = Callable[[str, float, int], Count]
"""(type of the device, seconds, seed) -> what was done, at the earliest after that time."""

WAYS = {
    "many at once": "properties.campaign.gpu.throughput:many_at_once",
    "one by one": "properties.campaign.gpu.throughput:one_by_one",
}
"""Ways to judge -> module and function (`Way`) of each."""


def one_by_one(device: str, seconds: float, seed: int) -> Count:
    """Example after example, each drawn, computed, judged and forgotten."""
    from properties.core.case import Case
    from properties.core.trial import Trial
    from properties.engine.runner import examine
    from properties.engine.subject import Profile
    from properties.laws.batches import TOGETHER

    laws, subject = _asked(device, seconds)
    few, many = (Profile(size, derandomise=True, shrink=False) for size in (1, 20 if seconds >= 1 else 2))
    tokens = 0

    def counting(law: Law) -> Law:
        def judge(trial: Trial, case: Case) -> None:
            nonlocal tokens
            tokens += len(getattr(case, TOGETHER[law.id].tokens[0]))
            law.judge(trial, case)

        return dataclasses.replace(law, judge=judge)

    def once(law: Law, folder: Path, turn: int) -> tuple[int, int, int]:
        before = tokens
        found = examine(counting(law), subject, many, directory=folder, randomness=1000 * seed + turn)
        return found.examples, tokens - before, found.claims

    def warm(law: Law, folder: Path) -> None:
        examine(law, subject, few, directory=folder)

    return _counting(laws, device, seconds, warm, once)


def many_at_once(device: str, seconds: float, seed: int) -> Count:
    """Hundreds of cases in one pass, judged where they are computed."""
    from properties.engine.batching import PER_LAUNCH, examine_many

    laws, subject = _asked(device, seconds)
    size, width = (20 * PER_LAUNCH, PER_LAUNCH) if seconds >= 1 else (16, 8)

    def once(law: Law, folder: Path, turn: int) -> tuple[int, int, int]:
        number = 1000 * seed + turn
        found = examine_many(law, subject, tokens=size, at_once=width, randomness=number, directory=folder)
        return found.cases, found.tokens, found.claims

    def warm(law: Law, folder: Path) -> None:
        examine_many(law, subject, tokens=width, at_once=width, directory=folder)

    return _counting(laws, device, seconds, warm, once)


def _asked(device: str, seconds: float) -> tuple[list[Law], Subject]:
    """The laws that ask the oracle and can be judged in both ways, of a short measurement one; and the reference."""
    import torch

    from properties.core.implementation import Reference
    from properties.core.law import all_laws
    from properties.engine.batching import not_here
    from properties.engine.subject import Subject
    from properties.laws.batches import ORACLES

    torch.set_num_threads(1)
    implementation = Reference()
    implementation.devices = ("cpu", device)
    subject = Subject("ref", implementation, torch.float32, torch.device(device))
    laws = [one for one in map(all_laws().__getitem__, ORACLES) if not_here(one, subject) is None]
    return laws if seconds >= 1 else laws[:1], subject


def _counting(
    laws: Sequence[Law],
    device: str,
    seconds: float,
    warm: Callable[[Law, Path], None],
    once: Callable[[Law, Path, int], tuple[int, int, int]],
) -> Count:
    """Every law once, uncounted; then one after another until the time is over."""
    from properties.commands.bench import Clock, watching
    from properties.core.device import device_of

    total = [0, 0, 0]
    with TemporaryDirectory() as folder:
        for law in laws:
            warm(law, Path(folder))
        clock, began = Clock(device_of(device)), time.monotonic()
        with watching(clock):
            for turn in count():
                for law in laws:
                    total = [one + more for one, more in zip(total, once(law, Path(folder), turn), strict=True)]
                    if (spent := time.monotonic() - began) > seconds:
                        examples, tokens, claims = total
                        return Count(examples, tokens, claims, spent, clock.timer.seconds if device == "cuda" else None)
    raise AssertionError("count() does not end")


def measured(name: str, device: str, workers: int, seconds: float) -> list[Count]:
    """What each worker did; one works in this process."""
    if workers == 1:
        return [_way(name)(device, seconds, 0)]
    work = [(name, device, seconds, seed) for seed in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers, end_with, (os.getpid(),)) as pool:
        return pool.starmap(_counted, work, 1)


def _counted(name: str, device: str, seconds: float, seed: int) -> Count:
    return _way(name)(device, seconds, seed)


def _way(name: str) -> Way:
    module, _, function = WAYS[name].partition(":")
    return cast("Way", getattr(import_module(module), function))


def plan(device: str, crews: Sequence[int]) -> list[tuple[str, str, int]]:
    """The measurements (way, device, workers), those first that are compared."""
    many, single = WAYS
    pairs = [(many, device), (single, "cpu"), (single, device), (many, "cpu")]
    return [(*pair, crew) for crew in dict.fromkeys(crews) for pair in dict.fromkeys(pairs)]


def row(name: str, device: str, counts: Sequence[Count]) -> dict[str, object]:
    """A row of the file: rates of all workers together, and the share of the time for which the device was at work."""
    busy = [one.device for one in counts if one.device is not None]
    return {
        **{"way": name, "device": device, "workers": len(counts), "examples": sum(one.examples for one in counts)},
        "examples_per_second": sum(one.examples / one.seconds for one in counts),
        "tokens_per_second": sum(one.tokens / one.seconds for one in counts),
        "claims_per_second": sum(one.claims / one.seconds for one in counts),
        "device_share": sum(busy) / sum(one.seconds for one in counts) if busy else None,
        "counts": [dataclasses.asdict(one) for one in counts],
    }


def main(given: Sequence[str]) -> int:
    """Measure, and write the file after every measurement. 0."""
    parser = argparse.ArgumentParser(prog="python -m properties.campaign.gpu.throughput")
    parser.add_argument("--device", required=True)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short", action="store_true", help="as little as there is of the first two")
    words = parser.parse_args(given)
    crews = [int(one) for one in words.workers.split(",")]
    asked = plan(words.device, crews)[: 2 if words.short else None]
    rows: list[dict[str, object]] = []
    end = time.monotonic() + words.seconds
    for done, (way, place, crew) in enumerate(asked):
        lost = sum(WARM if one == 1 else START for _, _, one in asked[done:])
        left = end - time.monotonic() - lost
        each = 0.01 if words.short else max(1.0, left / (len(asked) - done))
        rows.append(row(way, place, measured(way, place, crew, each)))
        write_whole(words.out, json.dumps({"schema": SCHEMA, "asked": len(asked), "rows": rows}).encode())
        print(f"{way}, {place}, {crew} workers: {rows[-1]['tokens_per_second']:.1f} tokens a second", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
