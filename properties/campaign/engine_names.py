"""The names of engines: which there are, and whether what they need is installed. Nothing is started here."""

from __future__ import annotations

import os


class EngineLostError(RuntimeError):
    """The engine cannot be used, or no longer; its text says why and what to do."""


def check(name: str) -> tuple[str, int]:
    """Which engine a name means, and its workers where they are its to say; nothing is started.

    Raises:
        ValueError: no such engine, or a number of workers that is none.
        EngineLostError: its package is not installed.
    """
    kind, _, rest = name.partition(":")
    if name == "serial":
        return name, 1
    if name.startswith("dask://"):
        _needs("distributed", "dask")
        return kind, 0
    if kind not in _PACKAGES:
        raise ValueError(f"engine {name!r}: expected serial, processes[:N], dask://HOST:PORT or slurm[:N]")
    workers = int(rest) if rest.isdecimal() else 0 if rest else _cores()
    if not 1 <= workers <= 4096:
        raise ValueError(f"engine {name!r}: expected {kind}:N with N from 1 to 4096")
    _needs(*_PACKAGES[kind])
    return kind, workers


_PACKAGES = {
    "processes": ("loky", "processes"),
    "slurm": ("submitit", "slurm"),
    "slurm-local": ("submitit", "slurm"),
}


def usual() -> str:
    """The engine of a command that names none: processes, one for each core, or this process where loky is not
    installed."""
    from importlib.util import find_spec

    return "serial" if find_spec("loky") is None else "processes"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _needs(package: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise EngineLostError(
            f"{package} is not installed, which this engine needs: pip install 'mhc-properties[{extra}]'"
        )
