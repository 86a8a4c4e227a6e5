"""Another process answers for a command: a target can end the process that it is called in, with any exit status."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from types import FrameType

from properties.guards.answer import HARNESS_ERROR, hand_to, refusal
from properties.guards.child import Forwarding, ended, program, say
from properties.guards.stopping import PARENT, SAME, end_with

ANSWER = "MHC_PROPERTIES_ANSWER"
"""The environment variable with the file descriptor on which a command says its exit status before it ends."""


_OURS = ("ref", "control", "deviation", "mutant", "published")


def calls_a_stranger(words: Sequence[str]) -> bool:
    """Whether a command calls a target that does not come with this package."""
    match words[:1]:
        case ["replay"]:
            return any(word == "--trust" or word.startswith("--impl") for word in words)
        case ["identify"]:
            return any(":" in word and word.partition(":")[0] not in _OURS for word in words[1:])
        case ["explode"]:
            return any(word.startswith(("target:", "model:", "--impl")) for word in words[1:])
        case _:
            return False


def answers_for(words: Sequence[str]) -> int | None:
    """Run a command in a process of its own; its exit status, or 3 where it ended without saying one.

    None in that process itself, and where there is no way to hear from one. With --json this process prints the object,
    so that nothing which the target prints stands before, within or behind it.
    """
    if os.name != "posix" or ANSWER in os.environ:
        return None
    as_json = "--json" in words
    hearing, saying = os.pipe()
    with open(hearing, "rb", buffering=0) as heard, Forwarding() as forwarding:
        environment = {
            **os.environ,
            ANSWER: str(saying),
            PARENT: str(os.getpid()),
        }
        command = program("properties.cli", words)
        out = _stderr() if as_json else None
        with subprocess.Popen(command, env=environment, pass_fds=(saying,), stdout=out) as process:
            os.close(saying)
            forwarding.to(process)
            said = _heard(heard.fileno(), process)
            status = process.wait()
    *objects, answer = said.decode(errors="replace").split("\n")
    sentence = "there is no answer; what stderr has says why" if status else ""
    if answer != str(status):
        sentence = f"the process {ended(status)} before it had an answer: its target may have ended it"
        if forwarding.asked:
            sentence = f"stopped by {forwarding.asked}"
        say(f"mhc-properties: {sentence}")
        status, objects = HARNESS_ERROR, []
    if as_json and (objects or sentence):
        with contextlib.suppress(OSError):  # whom nobody listens to still has an exit status
            print(objects[0] if objects else json.dumps(refusal(sentence, status)), flush=True)
    return status


def _stderr() -> int:
    """File descriptor 2; nowhere, where that is closed."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


_LOOK = 0.05


def _heard(pipe: int, process: subprocess.Popen[bytes]) -> bytes:
    """What a process says until it ends; what it has started, and who outlives it, may hold the pipe open."""
    os.set_blocking(pipe, False)
    said = b""
    while True:
        over = process.poll() is not None
        select.select([pipe], [], [], 0 if over else _LOOK)
        try:
            more = os.read(pipe, 1 << 16)
        except BlockingIOError:
            more = None
        if more == b"" or (more is None and over):
            return said
        said += more or b""


@contextlib.contextmanager
def answering() -> Generator[None]:
    """Around a command: where another process answers for this one, say the exit status to it, and end with it."""
    given = os.environ.pop(ANSWER, "")
    if not given.isdigit():
        yield
        return
    os.set_inheritable(int(given), False)
    if "--json" in sys.argv:
        hand_to(int(given))
    if (parent := os.environ.pop(PARENT, "")).isdigit():
        end_with(int(parent))
    once = _Once()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, once)
    status = 1
    try:
        yield
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            os.write(int(given), str(status).encode())


class _Once:
    """A KeyboardInterrupt for the first SIGINT of a second: Ctrl-C comes from the terminal and from the parent."""

    def __init__(self) -> None:
        self._when = -math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._when >= SAME:
            self._when = time.monotonic()
            raise KeyboardInterrupt
