"""The table of a monitor: JSON lines that are appended to, each of them whole."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

_TAIL = 1 << 20
"""How far back the beginning of a last line is looked for; our rows have a thousandth of that."""
_BEGINNINGS = (b'{"schema": ', b'{"step": ')
"""How a row begins; before rows had a schema they began with the step."""


class GainsFile:
    """A file that rows are appended to.

    A row is one line and written in one write. What a full disk left of a row is taken away again, and so is what an
    earlier process left of one at the end of the file; another last line without an end is given one.

    A file has one run: where there are rows of another in it, or another monitor is writing to it, the rows go to a
    file beside it that has the run in its name; `path` says which.

    Raises:
        OSError: from opening and from `append`.
    """

    def __init__(self, path: Path, run: str | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._open(path)
        if run is not None and self._regular and not _alone(self._handle, run):
            os.close(self._handle)
            self.path = path.with_name(f"{path.stem}.{run}{path.suffix}")
            self._open(self.path)
            _alone(self._handle, run)

    def _open(self, path: Path) -> None:
        flags = os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        regular = not path.exists() or path.is_file()
        # What is no file is a terminal or a pipe: it is not read, and a pipe that is full must not stop a training.
        self._handle = os.open(path, flags | (os.O_RDWR if regular else os.O_WRONLY | os.O_NONBLOCK), 0o666)
        try:
            self._regular = stat.S_ISREG(os.fstat(self._handle).st_mode)
            if self._regular:
                _mend(self._handle)
        except BaseException:
            os.close(self._handle)
            raise

    @property
    def removed(self) -> bool:
        """Whether somebody has removed the file, so that what is written to it is lost."""
        return self._regular and os.fstat(self._handle).st_nlink == 0

    def append(self, row: Mapping[str, Any]) -> None:
        data = (json.dumps(row, allow_nan=False) + "\n").encode()
        before = os.fstat(self._handle).st_size
        written = 0
        try:
            written = os.write(self._handle, data)
            while written < len(data):  # a disk that filled up takes the beginning, and says why at the next write
                written += os.write(self._handle, data[written:])
        except OSError:
            if self._regular and written and os.fstat(self._handle).st_size == before + written:
                os.ftruncate(self._handle, before)
            raise

    def close(self) -> None:
        os.close(self._handle)


def _alone(handle: int, run: str) -> bool:
    """Whether the file is ours to write: the last row in it is of our run, and nobody else has it open for writing."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # there are no such locks here
        pass
    except OSError as error:
        # Where the system of files has no locks, the run alone decides.
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
    size = os.fstat(handle).st_size
    start = max(0, size - _TAIL)
    last = os.pread(handle, size - start, start).rstrip(b"\n").rpartition(b"\n")[2]
    try:
        row: Any = json.loads(last)
    except ValueError:
        return True  # no row of ours
    return not (isinstance(row, dict) and "step" in row) or cast("dict[str, Any]", row).get("run") == run


def _mend(handle: int) -> None:
    """Make the last line a line: cut off what is the beginning of a row of ours, end anything else."""
    size = os.fstat(handle).st_size
    if not size:
        return
    start = max(0, size - _TAIL)
    tail = os.pread(handle, size - start, start)
    if tail.endswith(b"\n"):
        return
    _, broken, last = tail.rpartition(b"\n")
    if not broken and start:
        last = b""  # longer than any row of ours
    ours = bool(last) and any(last.startswith(begin) or begin.startswith(last) for begin in _BEGINNINGS)
    if ours and not _whole(last):
        os.ftruncate(handle, size - len(last))
    else:
        os.write(handle, b"\n")


def _whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
