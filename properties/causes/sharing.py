"""The account of an implementation, asked once for all workers of a run: the first asks, the others wait and read."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator
from pathlib import Path

from properties.diagnosis.parts import Account
from properties.guards.whole import write_whole

try:
    import fcntl
except ImportError:  # where there are no such locks every worker asks for itself
    fcntl = None


def shared(folder: Path | None, name: str, ask: Callable[[], Account]) -> Account:
    """What an earlier worker has found under this name, or what `ask` gives.

    Arguments:
        folder: that of the run, in which workers meet; None where there is one process only.
    """
    if folder is None:
        return ask()
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
    with _locked(path.with_suffix(".lock")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # nobody was there, or did not end
            return Account.from_json(json.loads(path.read_bytes()))
        found = ask()
        with contextlib.suppress(OSError, TypeError, ValueError):  # then the others ask for themselves
            write_whole(path, json.dumps(found.to_json()).encode())
        return found


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    if fcntl is None:
        yield
        return
    try:
        handle = path.open("w")
    except OSError:
        yield
        return
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # given back when the file is closed, also by a process that dies
        yield
