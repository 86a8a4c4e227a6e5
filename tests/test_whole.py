"""Files are written whole or not at all: what a reader finds is what was there before, or all of what is there now."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from properties.guards.whole import unwritable, write_whole

BEFORE, AFTER = b"what was there", b"what is there now" * 1000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(BEFORE)
    return path


def assert_untouched(file: Path) -> None:
    """What was there is there, and nothing beside it."""
    assert file.read_bytes() == BEFORE
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "file", AFTER)
    assert (tmp_path / "a" / "b" / "file").read_bytes() == AFTER
    assert [one.name for one in (tmp_path / "a" / "b").iterdir()] == ["file"]


@pytest.mark.parametrize("data", [b"", AFTER])
def test_what_was_there_is_replaced(file: Path, data: bytes) -> None:
    write_whole(file, data)
    assert file.read_bytes() == data
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_a_reader_of_the_old_file_goes_on_reading_it(file: Path) -> None:
    with file.open("rb") as reading:
        write_whole(file, AFTER)
        assert reading.read() == BEFORE


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_whatever_ends_the_writer_leaves_what_was_there(
    file: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)) as caught:
        write_whole(file, AFTER)
    assert caught.value is error
    assert_untouched(file)


def test_a_file_takes_its_place_only_when_it_is_synced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a loss of power a file that was renamed before it was synced may be empty."""
    done: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def noted(*arguments: object, name: str = name, original: object = original) -> object:
            done.append(name)
            return original(*arguments)  # pyright: ignore[reportCallIssue]

        monkeypatch.setattr(os, name, noted)
    write_whole(file, AFTER)
    assert done == ["fsync", "replace"]


FULL = """
import resource, signal, sys
sys.dont_write_bytecode = True
from pathlib import Path
from properties.guards.whole import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), b"x" * 5000)
except OSError as error:
    print(error.errno)
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from properties.guards.whole import write_whole
original = os.fsync
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
write_whole(Path(sys.argv[1]), b"x" * 5000)
"""


def test_a_disk_that_is_full_leaves_what_was_there(file: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{errno.EFBIG}\n"
    assert_untouched(file)


def test_a_writer_that_is_killed_leaves_what_was_there(file: Path) -> None:
    """And its half of a file under a hidden name that no reader looks for."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert done.returncode < 0
    assert file.read_bytes() == BEFORE
    (left,) = (one.name for one in file.parent.iterdir() if one != file)
    assert left.startswith(".file.")
    assert left.endswith(".partial")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o000, 0o666)])
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "file", AFTER)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["x" * 250, "模" * 80, "-rf", "a b\n\x1b"])
def test_any_name_that_a_folder_takes_will_do(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, AFTER)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_folder_that_cannot_be_written_is_an_error_that_leaves_it(file: Path) -> None:
    with pytest.raises(FileExistsError):
        write_whole(file / "inside", AFTER)
    with pytest.raises(NotADirectoryError):
        write_whole(file / "far" / "inside", AFTER)
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        write_whole(file.parent, AFTER)
    assert_untouched(file)
    why = unwritable(file / "inside")
    assert why is not None
    assert "irectory" in why or "exists" in why


def test_a_folder_without_permission_is_an_error(file: Path) -> None:
    if os.geteuid() == 0:  # root may write everywhere, but not into /proc
        with pytest.raises(OSError, match="/proc"):
            write_whole(Path("/proc/file"), AFTER)
        assert unwritable(Path("/proc")) is not None
        return
    file.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write_whole(file, AFTER)
        assert unwritable(file.parent) == "Permission denied"
    finally:
        file.parent.chmod(0o700)
    assert_untouched(file)


def test_why_a_folder_takes_nothing_is_said_and_a_full_disk_is_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unwritable(tmp_path / "new") is None
    assert list((tmp_path / "new").iterdir()) == []
    assert unwritable(Path("a\0b")) is not None

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    assert unwritable(tmp_path) is None
