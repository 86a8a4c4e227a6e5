"""What there is: the device, its driver and the versions of what computes, as one line of JSON.

    python -m properties.campaign.gpu.probe cuda

In a process of its own, so that the run itself imports no torch and a driver that hangs hangs nobody else.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    *("torch", "triton", "tilelang", "liger-kernel", "tile-kernels", "fla-core", "hyper-connections"),
    *("numpy", "hypothesis", "mpmath", "pytest"),
)
"""Of these the versions are told, where they are installed."""


def described(device: str) -> dict[str, Any]:
    """{missing, name, driver, cores, versions}: `missing` says why nothing can be computed there, or is null.

    Raises:
        LookupError: no type of device that is known.
    """
    from properties.core.device import DEVICES

    if device not in DEVICES:
        raise LookupError(f"device {device!r} is none of {', '.join(DEVICES)}")
    here = DEVICES[device]
    found: dict[str, str] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    missing = here.missing()
    return {
        **{"missing": missing, "name": here.described(), "driver": _driver() if device == "cuda" else None},
        **{"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1},
        "versions": found,
    }


def _driver() -> str | None:
    try:
        asked = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] if told else None


def main(given: list[str]) -> int:
    """Print it. 0, or 2 where the name of the device is none."""
    try:
        print(json.dumps(described(given[0])))
    except LookupError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
