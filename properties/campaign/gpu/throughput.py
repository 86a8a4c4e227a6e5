"""A step: examples a second of the laws that ask the oracle, on the device and on the CPU, one worker and many.

    python -m properties.campaign.gpu.throughput --device cuda --workers 1,15 --seconds 50 --out throughput.json

Every measurement goes on for the same time and counts what was done in it: examples, the numbers that were judged, and
the seconds for which the device was at work. Each worker searches the same laws on the reference in float32 with seeds
of its own, by `examine`, as `check` does. A worker measures once it has tried every law; what several did adds up.
Ways to judge that are not one example after another stand in `WAYS`.
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
from typing import cast

from properties.guards.stopping import end_with
from properties.guards.whole import write_whole

SCHEMA = 1
"""The number of the form of the file."""
START = 8.0
"""Seconds that a worker takes to start and to try every law once, about."""


@dataclass(frozen=True)
class Count:
    """What one worker did in so many seconds.

    Attributes:
        examples: tried.
        claims: numbers and facts that something was claimed of.
        seconds: of the wall.
        device: of these, the device was at work; None where nobody counts that.
    """

    examples: int
    claims: int
    seconds: float
    device: float | None = None


Way = Callable[[str, float, int], Count]
"""(type of the device, seconds, seed) -> what was done, at the earliest after that time."""

WAYS = {"one by one": "properties.campaign.gpu.throughput:one_by_one"}
"""Ways to judge -> module and function (`Way`) of each; one whose module is not there is left out."""


def one_by_one(device: str, seconds: float, seed: int) -> Count:
    """Example after example, each drawn, computed, judged and forgotten."""
    import torch

    from properties.commands.bench import Clock, watching
    from properties.core.device import device_of
    from properties.core.implementation import Reference
    from properties.core.law import all_laws
    from properties.engine.runner import examine
    from properties.engine.subject import Profile, Subject

    torch.set_num_threads(1)
    laws = [one for name, one in all_laws().items() if name.endswith(".agrees-with-oracle")]
    implementation = Reference()
    implementation.devices = ("cpu", device)
    subject = Subject("ref", implementation, torch.float32, torch.device(device))
    laws = [one for one in laws if not one.inapplicable(implementation, subject.dtype, subject.device)]
    laws, most = (laws, 20) if seconds >= 1 else (laws[:1], 2)
    few, many = (Profile(size, derandomise=True, shrink=False) for size in (1, most))
    examples = claims = 0
    with TemporaryDirectory() as folder:
        for law in laws:
            examine(law, subject, few, directory=Path(folder))
        clock, began = Clock(device_of(device)), time.monotonic()
        with watching(clock):
            for turn in count():
                for law in laws:
                    found = examine(law, subject, many, directory=Path(folder), randomness=1000 * seed + turn)
                    examples, claims = examples + found.examples, claims + found.claims
                    if time.monotonic() - began > seconds:
                        spent = time.monotonic() - began
                        return Count(examples, claims, spent, clock.timer.seconds if device == "cuda" else None)
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


def row(name: str, device: str, counts: Sequence[Count]) -> dict[str, object]:
    """A row of the file: rates of all workers together, and the share of the time for which the device was at work."""
    busy = [one.device for one in counts if one.device is not None]
    return {
        **{"way": name, "device": device, "workers": len(counts), "examples": sum(one.examples for one in counts)},
        "examples_per_second": sum(one.examples / one.seconds for one in counts),
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
    parser.add_argument("--short", action="store_true", help="as little as there is")
    words = parser.parse_args(given)
    crews = [int(one) for one in words.workers.split(",")]
    asked = [(way, place, crew) for way in WAYS for crew in crews for place in dict.fromkeys((words.device, "cpu"))]
    each = 0.01 if words.short else max(1.0, words.seconds / len(asked) - START)
    rows: list[dict[str, object]] = []
    for way, place, crew in asked:
        rows.append(row(way, place, measured(way, place, crew, each)))
        write_whole(words.out, json.dumps({"schema": SCHEMA, "asked": len(asked), "rows": rows}).encode())
        print(f"{way}, {place}, {crew} workers: {rows[-1]['examples_per_second']:.1f} examples a second", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
