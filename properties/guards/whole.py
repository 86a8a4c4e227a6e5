"""Files that are written whole or not at all: a reader never sees half of one, whatever ends the writer."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step, through a file beside it that takes its place when it is complete and synced.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; what stood at `path` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, which is made where it is missing; None where something can.

    A disk that is full is no reason: it need not stay so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mhc-properties-"):
            return None
    except FileExistsError:
        return "a file is where the folder should be"
    except OSError as error:
        return None if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    except ValueError as error:  # NUL in a name
        return str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
