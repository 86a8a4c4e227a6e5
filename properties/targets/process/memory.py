"""How much memory a process and all that it started hold."""

from __future__ import annotations

import functools
import os
import sys
import warnings

_COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")
_warned: list[bool] = []


def memory_of(pid: int) -> int | None:
    """Bytes that a process and its descendants hold, 0 for one that has ended; None where that cannot be found out.

    On Linux pages of files do not count: the kernel takes them back when it needs them, and a process that was forked
    maps them one by one as it reads them, libraries included, without having taken any memory.
    """
    return _linux(pid) if _told_by_proc() else _elsewhere(pid)


def watched(limit: int) -> None:
    """Say once that the limit, in bytes, is not kept, where memory cannot be found out: this process holds some."""
    if not memory_of(os.getpid()) and not _warned:
        _warned.append(True)
        warnings.warn(
            f"the memory of processes cannot be found out here (neither /proc nor psutil tells), so their "
            f"limit of {limit >> 20} MiB is not kept: one that takes all memory is not stopped",
            RuntimeWarning,
            stacklevel=2,
        )


@functools.cache
def _told_by_proc() -> bool:
    """Whether /proc tells what is needed: some containers have none, or one without children or kinds of memory."""
    own = os.getpid()
    return sys.platform == "linux" and _linux(own) > 0 and os.path.exists(f"/proc/{own}/task/{own}/children")


def children_of(pid: int) -> list[int]:
    """The numbers of its children, where Linux tells."""
    try:
        return _linux_children(pid)
    except OSError:  # it has ended, or the kernel does not list them
        return []


def _linux_children(pid: int) -> list[int]:
    """Those of all its threads."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
            found += map(int, file.read().split())
    return found


def _linux(pid: int) -> int:
    """By /proc, where a look costs microseconds."""
    held, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        try:
            with open(f"/proc/{process}/status", "rb") as file:
                lines = file.read().decode(errors="replace").splitlines()
            held += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_COUNTED))
            waiting += _linux_children(process)
        except (OSError, ValueError, IndexError):  # it ended meanwhile, or the kernel does not list children
            continue
    return held


def _elsewhere(pid: int) -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    except psutil.Error:
        return None
    held = 0
    for one in family:
        try:
            held += one.memory_info().rss
        except psutil.Error:  # it ended meanwhile
            continue
    return held
