"""What a worker does: answer one cell, and keep the answer where it is before it is sent anywhere."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import platform
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from properties.campaign.cells import Cell, versions
from properties.campaign.folder import SCHEMA, Folder, Record
from properties.campaign.kind import DeviceLostError, UnsavedError

SPOOL = "MHC_PROPERTIES_SPOOL"
"""The environment variable with the folder in which a worker on another machine keeps its answers."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OtherVersionsError(RuntimeError):
    """A worker has other versions than the manifest: what it would say answers another question."""


def spool() -> Path:
    """Where a worker that does not see the campaign's folder keeps what it found, until somebody asks again."""
    return Path(os.environ.get(SPOOL) or ".mhc-properties/spool")


def work(asked: dict[str, Any], shared: str | None) -> dict[str, Any]:
    """Answer a cell.

    Args:
        asked: `Cell.to_json`.
        shared: the campaign's folder where the worker sees it; None: the answer is kept in the worker's `spool` too.

    Returns:
        {record, files, trouble}: files by name where the campaign's folder does not have them yet; trouble where the
        worker could not keep its answer, which is no fault of the cell.

    Raises:
        OtherVersionsError: nothing was computed.
        UnsavedError: there is no room for its files anywhere here.
        DeviceLostError: nothing can be computed here any more.
    """
    cell = Cell.from_json(asked)
    folder = Folder(shared or spool())
    try:
        found = folder.record(cell.address)
    except ValueError:  # damaged: answered again, and the campaign's own folder refuses it by itself
        found = None
    if found is not None:
        root = folder.files(cell.address)
        files = {} if shared else {name: (root / name).read_bytes() for name in found["files"]}
        return {"record": found, "files": files, "trouble": ""}
    here = versions(set(cell.versions) - set(versions()))
    if other := {
        name: (cell.versions[name], here[name]) for name in cell.versions if here[name] != cell.versions[name]
    }:
        told = ", ".join(f"{name} {has} instead of {wanted}" for name, (wanted, has) in sorted(other.items()))
        raise OtherVersionsError(
            f"this worker has {told}; install the versions of the manifest, or begin another campaign"
        )
    return _answered(cell, folder, shared is not None)


def _answered(cell: Cell, folder: Folder, shared: bool) -> dict[str, Any]:
    began, began_cpu = time.monotonic(), time.process_time()
    troubles: list[str] = []
    for place in _places(cell, folder, troubles):
        try:
            status, answer = _said(cell, place)
            break
        except (OSError, UnsavedError) as error:  # a full disk is no answer: what was found there may be half of it
            troubles.append(_told(place, error))
            shutil.rmtree(place, ignore_errors=True)
    else:
        raise UnsavedError("; ".join(troubles))
    files = {path.relative_to(place).as_posix(): path.read_bytes() for path in _files(place)}
    record: Record = {
        "schema": SCHEMA,
        **{name: value for name, value in cell.to_json().items() if name != "cost"},
        "status": status,
        "answer": answer,
        "files": sorted(files),
        "run": {
            "seconds": round(time.monotonic() - began, 4),
            "cpu_seconds": round(time.process_time() - began_cpu, 4),
            "host": platform.node(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }
    kept = False
    try:
        folder.keep(record, files)
        kept = True
    except OSError as error:
        troubles.append(_told(folder.path, error))
    if kept or not files:
        shutil.rmtree(place, ignore_errors=True)
    return {"record": record, "files": {} if kept and shared else files, "trouble": next(iter(troubles), "")}


def _places(cell: Cell, folder: Folder, troubles: list[str]) -> Iterator[Path]:
    """Where the files of an answer may be while it is found: in the folder, then wherever else there may be room."""
    try:
        yield folder.begun(cell.address)
    except OSError as error:
        troubles.append(_told(folder.path, error))
    memory = Path("/dev/shm")  # of Linux: a disk in memory, of which only a new folder is used
    for where in (None, *([memory] if memory.is_dir() else [])):
        try:
            yield Path(tempfile.mkdtemp(prefix="mhc-campaign-", dir=where))
        except OSError as error:
            troubles.append(_told(where or Path(tempfile.gettempdir()), error))


def _said(cell: Cell, place: Path) -> tuple[str, dict[str, Any]]:
    from properties.campaign.kinds import kind_of

    try:
        found = kind_of(cell.kind).answer(dict(cell.question), place)
        return "answered", _anywhere(found, _written(place))
    except DeviceLostError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    except Exception as error:  # a fault of the harness is an answer too: the campaign goes on, and says so
        if isinstance(error, UnsavedError) or (isinstance(error, OSError) and error.errno in _FULL):
            raise
        return "error", {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-4000:]}


def _told(where: Path, error: Exception) -> str:
    why = error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]
    return f"{platform.node()}: {where}: {why}"


def _written(place: Path) -> list[str]:
    """The ways in which a message may have written the beginning of a path below a place, the longest first."""
    ways = {str(place), os.path.abspath(place)}
    with contextlib.suppress(ValueError, OSError):  # another drive, or the working folder is gone
        ways.add(os.path.relpath(place))
    return sorted((one + os.sep for one in ways), key=len, reverse=True)


def _anywhere(value: Any, places: list[str]) -> Any:
    """What an answer says, without the place where its files were: they are by its side in the end, wherever that is,
    and the same answer comes from any process."""
    if isinstance(value, str):
        for one in places:
            value = value.replace(one, "")
        return value
    if isinstance(value, dict):
        return {name: _anywhere(one, places) for name, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_anywhere(one, places) for one in cast("list[Any]", value)]
    return value


def _files(place: Path) -> list[Path]:
    return sorted(one for one in place.rglob("*") if one.is_file() and not one.name.endswith(".partial"))
