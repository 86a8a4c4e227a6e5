"""The worker of `--isolate`: it resolves a target and lets the run call its methods, until it is killed.

Where it can (Linux, one thread, no CUDA context yet) it forks a child that does the work, and another one when that
died: the target is imported once, and a crash costs milliseconds. Otherwise the run starts it anew.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from properties.core.device import hold
from properties.core.implementation import Absent, Implementation
from properties.guards.child import ended
from properties.guards.printable import message_of
from properties.targets.process.description import declared
from properties.targets.process.guardian import die_with
from properties.targets.process.peer import Message, Peer
from properties.targets.target import TargetError, resolve

_CLOSED = 213
"""Exit status of a child to which nobody speaks any more; a target may leave with it too."""


class _Wire:
    """stdin and stdout as they were at the start; the target gets others, so that its prints do no harm."""

    def __init__(self) -> None:
        self._source = os.fdopen(os.dup(0), "rb")
        self._sink = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)

    def read(self) -> Message | None:
        """The next message to this process: what was meant for one that died, whole or in part, is passed over."""
        while line := self._source.readline():
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if message.get("to") in (None, os.getpid()):
                return message
        return None

    @property
    def closed(self) -> bool:
        """Whether nobody holds the other end any more."""
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))

    def write(self, message: Message) -> None:
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        while data:
            data = data[os.write(self._sink, data) :]

    def fresh_line(self) -> None:
        os.write(self._sink, b"\n")


def main() -> None:
    """Answer on stdin and stdout."""
    wire = _Wire()
    start = wire.read()
    if start is None:
        return
    sys.path[:] = start["path"]
    torch.set_num_threads(start["threads"])
    torch.set_default_dtype(getattr(torch, start["default_dtype"]))
    try:
        implementation = resolve(start["target"], start["dialect"])
        description = declared(implementation)
        json.dumps(description)
    except (TargetError, TypeError, ValueError, RecursionError) as error:  # the last three: it declares what is no JSON
        wire.write({"refused": message_of(error)})
        return
    wire.write({"description": description})
    if not _can_fork():
        wire.write({"ready": os.getpid()})
        _serve(wire, implementation)
        return
    parent = os.getpid()
    while True:
        child = os.fork()
        if child == 0:
            die_with(parent)
            wire.write({"ready": os.getpid()})
            _serve(wire, implementation)
            os._exit(_CLOSED)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == _CLOSED and wire.closed:
            return
        wire.fresh_line()  # the child may have died in the middle of one
        wire.write({"died": ended(status)})


def _serve(wire: _Wire, implementation: Implementation) -> None:
    hold(implementation.products)
    tuned: dict[str, Implementation] = {"": implementation}

    def variant(fields: str) -> Implementation:
        if fields not in tuned:
            found = implementation.tuned(**json.loads(fields))
            if not isinstance(found, Implementation):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"tuned returned {type(found).__name__}; expected an Implementation")
            tuned[fields] = found
        return tuned[fields]

    def functions(name: str) -> Callable[..., Any]:
        method, _, fields = name.partition(":")
        if method == "description":
            return lambda: json.dumps(declared(variant(fields)))
        found = getattr(variant(fields), method, None)
        if found is None:
            raise Absent(f"{method}: not offered")
        return found

    def exchange(message: Message) -> Message:
        wire.write(message)
        while True:
            reply = wire.read()
            if reply is None:
                os._exit(_CLOSED)
            if "call" not in reply and "pull" not in reply:
                return reply
            answer(reply)

    def answer(message: Message) -> None:
        wire.write({**peer.handle(message), "answers": message["number"]})

    peer = Peer(exchange, functions, life=os.getpid())
    while (message := wire.read()) is not None:
        answer(message)


def _can_fork() -> bool:
    if not sys.platform.startswith("linux") or torch.cuda.is_initialized():
        return False
    return len(list(Path("/proc/self/task").iterdir())) == 1


if __name__ == "__main__":
    main()
