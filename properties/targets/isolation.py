"""`--isolate`: run an in-process target in a worker process, so that a crash, a hang or a flood is a finding and not
the end.

    implementation = isolated("path/to/file.py:attr")

has the methods, limits and dialect of the target. Every call goes to the worker; a segfault, an `os._exit`, a call that
does not come back, or one that takes all memory, is an exception that says so, and the next call finds a fresh worker.
Branches are called back from there, gradients are asked for there, and views, storages and written arguments arrive as
they are (`properties.targets.process.peer`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, cast

import torch

from mhc_ref.registry import unknown
from properties.core.implementation import Implementation
from properties.guards.printable import printable
from properties.targets.process import memory
from properties.targets.process.description import declare
from properties.targets.process.peer import Message, Peer
from properties.targets.process.protocol import BadAnswer, Limits, NoAnswer, ProcessDied, ProcessFailure, shortened
from properties.targets.process.supervised import Supervised
from properties.targets.target import TargetError, resolve


def isolated(target: str, dialect: str | None = None, limits: Limits | None = None) -> Implementation:
    """The implementation that `target` names, at work in a process of its own; `proc:` targets are so already.

    Raises:
        TargetError: as `resolve` does, and where the worker dies while it imports the target.
    """
    if target.startswith("proc:"):
        return resolve(target, dialect)
    worker = _Worker(target, dialect, limits or Limits())
    if unknown(worker.description["dialect"]):  # a family of the target's own: the laws ask it for its formulas here
        resolve(target, dialect)
    return _proxy(worker, worker.description, "")


class _Worker:
    """The worker of one target, started again after every failure."""

    def __init__(self, target: str, dialect: str | None, limits: Limits) -> None:
        self._start = {"target": target, "dialect": dialect}
        self._target = target
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            # One thread, as in process; idle thread pools would also keep the worker from forking.
            **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")},
        }
        command = [sys.executable, "-P", "-m", "properties.targets.process.worker"]
        self._process = Supervised(command, limits, what="the worker", environment=environment, constants=True)
        self._ready = False
        self._numbers = itertools.count(1)
        self.peer = Peer(self._exchange)
        self.description = self._launch()

    def _launch(self) -> dict[str, Any]:
        """Start the process; what the target declares."""
        process = self._process
        threads, dtype = torch.get_num_threads(), str(torch.get_default_dtype()).removeprefix("torch.")
        process.start()
        process.send({**self._start, "path": sys.path, "threads": threads, "default_dtype": dtype})
        try:
            message, _ = process.receive(process.limits.start_seconds)
        except ProcessFailure as failure:
            process.stop()
            raise TargetError(f"{self._target}: while the worker imported it: {failure}") from failure
        refused, description = message.get("refused"), message.get("description")
        if isinstance(description, dict):
            return cast("dict[str, Any]", description)
        process.stop()
        raise TargetError(
            printable(refused)
            if isinstance(refused, str)
            else f"{self._target}: while the worker imported it, something else than the worker answered for it: "
            f"{shortened(message)}"
        )

    def _prepare(self) -> None:
        """Have a worker that waits for calls."""
        process = self._process
        if not process.running:
            try:
                self._launch()
            except TargetError as error:  # it could be imported before
                raise ProcessDied(f"the worker could not be started again: {error}") from error
            self._ready = False
        while not self._ready:
            try:
                message, _ = process.receive(process.limits.start_seconds)
            except BadAnswer:
                continue  # the rest of what a dead worker was saying
            except ProcessFailure as failure:
                process.stop()
                raise ProcessDied(f"no worker for {self._target} could be started: {failure}") from failure
            if "ready" in message:
                self._watch(message["ready"])
                process.ready()
                self._ready = True

    def _watch(self, number: Any) -> None:
        """Take a process for the one that works, if it is the worker or a child of it: it will be killed by number."""
        process = self._process
        if type(number) is not int or (number != process.pid and number not in memory.children_of(process.pid)):
            process.stop()
            raise BadAnswer(f"the worker says that process {shortened(number)} works for it, which is none of its own")
        process.watched = number

    def _exchange(self, message: Message) -> Message:
        self._prepare()
        process = self._process
        number, most = next(self._numbers), process.limits.calls_back
        spent, alive = 0.0, True
        try:
            process.send({**message, "to": process.watched, "number": number})
            for _ in range(most + 1):
                reply, spent = process.wait_for_reply(spent)
                if "died" in reply:
                    alive = False
                    raise ProcessDied(f"the worker {printable(str(reply['died']), 200)}")
                if "call" not in reply and "pull" not in reply:
                    if reply.get("answers") != number:
                        raise BadAnswer(f"the worker answered {shortened(reply.get('answers'))}; {number} was asked")
                    return reply
                process.send({**self.peer.handle(reply), "to": process.watched})
            raise NoAnswer(f"no answer within {most} calls of branches; the worker was stopped")
        except BaseException as error:  # an interrupt, too, leaves a worker that would answer the wrong question
            self._ready = False
            half_written = process.unread > 0  # the next child would read the rest of it
            if process.watched == process.pid or half_written or (alive and isinstance(error, ProcessDied)):
                process.stop()
            elif alive:  # the one that forked it reports its death, and forks another
                with contextlib.suppress(OSError):
                    os.kill(process.watched, signal.SIGKILL)
            raise


def _proxy(worker: _Worker, description: dict[str, Any], fields: str) -> Implementation:
    """An implementation whose own methods are the worker's; `fields` are the tuned ones, as JSON."""

    def forwarded(method: str) -> Callable[..., Any]:
        def call(self: Implementation, *arguments: Any) -> Any:
            return worker.peer.call(f"{method}:{fields}", *arguments)

        call.__name__ = call.__qualname__ = method
        return call

    def tuned(self: Implementation, **more: Any) -> Implementation:
        joined = json.dumps({**(json.loads(fields) if fields else {}), **more}, sort_keys=True)
        return _proxy(worker, json.loads(worker.peer.call(f"description:{joined}")), joined)

    methods = {method: forwarded(method) for method in description["methods"]}
    made: Implementation = type("Isolated", (Implementation,), {**methods, "tuned": tuned})()
    declare(made, description)
    made.in_process, made.dialect_given = False, description["dialect_given"]
    vars(made)["_doubts"] = tuple(description["doubts"])
    return made
