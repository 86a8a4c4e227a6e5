"""`python -m properties.campaign.gpu.standing FILE:NAME MODULE WORDS...`: a module with a stand-in for the device.

NAME is a context manager of FILE, such as the fake device of the tests, inside of which `MODULE.main(WORDS)` runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any


def stand_in(given: str) -> Callable[[], AbstractContextManager[Any]]:
    """The context manager of `FILE:NAME`.

    Raises:
        ValueError: there is no such file, or nothing of that name in it that can be called.
    """
    file, _, name = given.rpartition(":")
    path = Path(file)
    if not file.endswith(".py") or not path.is_file():
        raise ValueError(f"{given!r} is no stand-in for a device; expected FILE.py:NAME with a file that exists")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"{given!r}: there is no {name} in that file which can be called")
    return found  # pyright: ignore[reportReturnType]  # what it gives is seen when it is entered


def main(words: Sequence[str]) -> int:
    """Run the module's `main` inside the stand-in."""
    given, module, *rest = words
    run: Callable[[Sequence[str]], int] = importlib.import_module(module).main
    with stand_in(given)():
        return run(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
