"""The parts of a run on a GPU in the order of their worth, the time of each, and the commands that they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MINUTES = 9.0
"""What a run takes at most."""
RESERVE = 25.0
"""Seconds of it that no part gets: for looking at the device, starting processes and writing the page."""
LEAST = 5.0
"""A part that would have fewer seconds is not begun: its processes would not come further than their imports."""
KINDS = ("plain", "hc", "mhc")
"""The residuals of the reproduction."""
SEEDS = 3

Command = tuple[str, ...]
"""The words behind `python`; `{folder}` is the folder of the part, `{seconds}` what it has."""


@dataclass(frozen=True)
class Where:
    """On what the parts run.

    Attributes:
        device: the type of the device.
        cores: how many processes may work beside one another.
        stand_in: `FILE:NAME` of a context manager that is entered in the place of the device, of tests; or None.
        short: little of everything, to prove the script and not the kernels.
        root: the folder with `tests/`; None where only the package is installed.
    """

    device: str = "cuda"
    cores: int = 16
    stand_in: str | None = None
    short: bool = False
    root: Path | None = None


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: the name of its folder and of `--only`.
        title: what it shows.
        seconds: its time where nothing was saved by the parts before it and nothing lost.
        steps: commands by name, which run beside one another.
        fine: the exit statuses that are no crash: 1 is a verdict where a command gives one.
        environment: added to that of its processes.
        impossible: why it cannot run here; then it is not begun.
    """

    name: str
    title: str
    seconds: float
    steps: Mapping[str, Command]
    fine: frozenset[int] = frozenset({0})
    environment: Mapping[str, str] = field(default_factory=lambda: {})
    impossible: str = ""


def parts(where: Where) -> list[Part]:
    """All of them, in the order of their worth; the times add up to `MINUTES` less `RESERVE`."""
    return [
        _tests(where),
        _laws("kernels", "published Triton and TileLang kernels under all laws that apply", 155, where),
        _laws("sizes", "sweeps through sizes, where only tiles show", 60, where),
        _laws("deviations", "what is wrong in a way that only a device shows", 60, where),
        _reproduction(where),
        _throughput(where),
    ]


def shares(left: float, ahead: Sequence[Part]) -> list[float]:
    """What each of the parts that are still ahead gets of `left` seconds: in proportion to their times, and so more
    than their own where earlier parts saved some, and less where the run began late."""
    whole = sum(one.seconds for one in ahead)
    return [max(0.0, left) * one.seconds / whole for one in ahead]


def _tests(where: Where) -> Part:
    """`tests/test_cuda.py` whole; in short two tests of the fake device. Without conftest.py, which checks
    shapes and drives a browser: neither is of use there."""
    base: Command = ("-m", "pytest", "-v", "-rs", "--color=no", "--noconftest", "-p", "no:cacheprovider")
    base += ("-o", "addopts=")
    root = where.root
    impossible = "" if root is not None else "there is no checkout with tests/ around this package"
    chosen = () if root is None else (str(root / "tests" / "test_cuda.py"), "-n", str(min(4, where.cores)))
    if where.short and root is not None:
        fakes = str(root / "tests" / "test_device.py")
        chosen = (fakes, "-k", "fake", "-p", "no:xdist")
    title = "what the suite says of a device (tests/test_cuda.py)"
    return Part("tests", title, 70, {"pytest": (*base, *chosen)}, _VERDICTS, impossible=impossible)


_VERDICTS = frozenset({0, 1})


def _laws(name: str, title: str, seconds: float, where: Where) -> Part:
    """Cells of the campaign `laws` (`properties.campaign.gpu.asked`), one process a core; and those that need the whole
    memory of the device in one process beside them."""
    common = (name, "--device", where.device, "--seconds", "{seconds}", *(("--short",) if where.short else ()))
    common = (*_module("properties.campaign.gpu.laws", where), *common)
    many = "0" if where.stand_in else str(max(1, where.cores - 1))
    steps: dict[str, Command] = {"laws": (*common, "--out", "{folder}/laws", "--workers", many)}
    if not where.short and name != "sizes":
        steps["giants"] = (*common, "--out", "{folder}/giants", "--workers", "1", "--giants")
    # One compiler a process, where each core has a process.
    return Part(name, title, seconds, steps, environment={"TORCHINDUCTOR_COMPILE_THREADS": "1", "MAX_JOBS": "1"})


def _reproduction(where: Where) -> Part:
    """A decoder of ten million weights, three residuals, three seeds, under the monitor; each run on a core."""
    small = ("--depth", "2", "--width", "8", "--length", "8", "--steps", "3", "--every", "1") if where.short else ()
    steps: dict[str, Command] = {}
    for seed in range(1 if where.short else SEEDS):
        for kind in ("mhc",) if where.short else KINDS:
            run = _module("properties.explosion.training.monitored", where)
            options = ("--seed", str(seed), "--device", where.device, "--time", "{seconds}")
            steps[f"{kind}-{seed}"] = (*run, kind, *options, *small, "--out", f"{{folder}}/{kind}-{seed}.json")
    return Part("reproduction", "the reproduction at ten million weights, with the monitor", 95, steps)


def _module(name: str, where: Where) -> Command:
    """`-m NAME`, with the stand-in in the place of the device where there is one."""
    return ("-m", name) if where.stand_in is None else ("-m", "properties.campaign.gpu.standing", where.stand_in, name)


def _throughput(where: Where) -> Part:
    """On the device and on the CPU, many cases at once and one by one, one worker and many."""
    workers = "1" if where.short else f"1,{max(1, where.cores - 1)}"
    words = (*_module("properties.campaign.gpu.throughput", where), "--device", where.device, "--workers", workers)
    words += ("--seconds", "{seconds}", "--out", "{folder}/throughput.json")
    words += ("--short",) if where.short else ()
    return Part(
        "throughput", "tokens a second through the laws that ask the oracle, against the CPU", 75, {"throughput": words}
    )
