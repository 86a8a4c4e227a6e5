"""Stands between a run and a process that it started, so that the process and all that it started end with the run.

    python -I -S guardian.py LIFELINE REPORT COMMAND ...

LIFELINE is the end for reading of a pipe whose other end the run alone holds: it closes when the run ends, whatever
ended it, SIGKILL included. REPORT is the end for writing of a pipe on which the guardian says ``pid N``, or ``failed
ERRNO`` where there is no such program, and at last ``ended STATUS``, as `subprocess` counts: signals are negative.

On Linux orphans of the process become the guardian's children (PR_SET_CHILD_SUBREAPER), so that a descendant which made
a session of its own is found too, and the process dies with its guardian (PR_SET_PDEATHSIG). Elsewhere what left the
process group is out of reach. It runs as a file with the standard library alone: it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_SECONDS = 1.0
"""How often it looks whether its parent is still there: a forked copy of the run may hold the lifeline open."""
_END_SECONDS = 10.0


def main(words: list[str]) -> None:
    """Start the command, watch over it, and end it with its run."""
    run = os.getppid()
    lifeline, report, command = int(words[0]), int(words[1]), words[2:]
    for descriptor in (lifeline, report):
        os.set_inheritable(descriptor, False)
    woken = _wake_on_children()
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = _start(command, report)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what reads the process's output must see it end when the process ends
        os.dup2(nothing, standard)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while os.getppid() == run:
        ready = {descriptor for descriptor, _ in poll.poll(_LOOK_SECONDS * 1000)}
        if lifeline in ready:
            break
        if woken in ready:
            os.read(woken, 4096)
            status = _reaped(child)
            if status is not None:
                with contextlib.suppress(OSError):  # nobody may be left to read it
                    os.write(report, f"ended {status}\n".encode())
                break
    _end_all(child)
    os._exit(0)


def _wake_on_children() -> int:
    """The end for reading of a pipe into which the death of a child writes; a signal that asks to leave is ignored."""
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it leaves when the run does
        signal.signal(number, _awake)
    return woken


def _awake(number: int, frame: object) -> None:
    """Nothing is to be done: that a signal came has been written into the pipe."""


def _start(command: list[str], report: int) -> int:
    """The process, in a session of its own; leaves where there is no such program."""
    failed, failing = os.pipe()
    guardian = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            die_with(guardian)
            for number in (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)):  # Python ignores them
                if number is not None:
                    signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(failing, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(failing)
    with os.fdopen(failed, "rb") as reading:
        number = reading.read()
    if number:
        os.write(report, b"failed " + number + b"\n")
        os._exit(0)
    os.write(report, f"pid {child}\n".encode())
    return child


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, and leave at once where it has ended already."""
    if _LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _reaped(child: int) -> int | None:
    """Collect every child that has ended; the status of `child` where it is among them."""
    found: int | None = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = os.waitstatus_to_exitcode(status)
    return found


def _end_all(child: int) -> None:
    """Kill the process's group and every descendant until none is left, also those that are started meanwhile."""
    until = time.monotonic() + _END_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)
        for pid in _descendants():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _descendants() -> list[int]:
    """The numbers of all living descendants, from /proc; none where there is no such thing."""
    parents: dict[int, int] = {}
    try:
        entries = os.listdir("/proc")
    except OSError:
        return []
    for entry in entries:
        if entry.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat", "rb") as file:
                # The name, in parentheses, may hold anything; the state and the parent follow it.
                parents[int(entry)] = int(file.read().rpartition(b")")[2].split()[1])
    found: list[int] = []
    front = {os.getpid()}
    while front:
        front = {pid for pid, parent in parents.items() if parent in front}
        found += front
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
