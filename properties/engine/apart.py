"""A law during which a process died, examined once more in a process of its own: is that the implementation's doing?

What dies there too is a failed law, with the smallest input for which it does; what does not is an error, as nobody can
tell. A call of the target goes to a worker (`properties.targets.isolation`), so that each example may end one; a law
that has to share its process with the target goes to a process of its own altogether.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import torch

from properties.core.implementation import Implementation
from properties.core.law import Law, all_laws
from properties.engine.attribution import Attribution
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject, Verdict
from properties.guards.child import ended
from properties.guards.printable import message_of
from properties.guards.stopping import end_with
from properties.targets.isolation import isolated
from properties.targets.target import TargetError, resolve


def examine_apart(
    law: Law,
    subject: Subject,
    profile: Profile,
    *,
    directory: Path,
    randomness: int | None,
    death: str,
    made: Callable[[Subject], Subject],
    attribution: Attribution | None = None,
) -> Verdict:
    """The verdict of a law on a subject whose process died while it was examined.

    Args:
        death: how it ended, as in "was killed by SIGSEGV".
        made: the subject with its target in a process of its own, as `subject_apart` makes it.
        attribution: who explains what goes wrong there too, and remembers it for the laws that come.
    """
    before = f"the process {death} while {law.id} was examined on {subject.id}"
    if law.on.in_process:
        return _alone(law, subject, profile, directory, randomness, before)
    try:
        verdict = examine(
            law, made(subject), profile, directory=directory, randomness=randomness, attribution=attribution
        )
    except TargetError as error:
        return _unknown(law, subject, f"{before}, and no process of its own could be made: {message_of(error)}")
    if verdict.status in ("failed", "error"):
        return dataclasses.replace(verdict, subject=subject)
    return _unknown(law, subject, f"{before}; in a process of its own it did not happen again")


def subject_apart(subject: Subject) -> Subject:
    """The subject with its target at work in a process of its own.

    Raises:
        TargetError: the target cannot be used there.
    """
    implementation: Implementation = isolated(subject.target, subject.dialect_option)
    implementation.name = subject.implementation.name
    return dataclasses.replace(subject, implementation=implementation)


def _unknown(law: Law, subject: Subject, reason: str) -> Verdict:
    return Verdict(law.id, subject, "error", reason)


def _alone(
    law: Law, subject: Subject, profile: Profile, directory: Path, randomness: int | None, before: str
) -> Verdict:
    """The law in a new process. There is no smallest input where that dies: the process died with it."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    plain = (subject.target, subject.dialect_option, subject.dtype_name, str(subject.device))
    given = (os.getpid(), sending, law.id, plain, profile, directory, randomness)
    process = context.Process(target=_examined, args=given)
    process.start()
    sending.close()
    try:
        verdict: Verdict | None = receiving.recv()
    except (EOFError, OSError, pickle.UnpicklingError):  # it died, perhaps in the middle of its answer
        verdict = None
    finally:
        process.join(timeout=10)
        process.kill()
        process.join()
    if verdict is None:
        again = ended(process.exitcode or 0)
        what = f"{before}, and a process of its own {again}"
        message = (
            f"{subject.implementation.name} breaks {law.id} in {subject.dtype_name} on {subject.device.type}\n"
            f"  law    {law.statement}\n  found  {what}\n  no replay: the process died with its input"
        )
        return Verdict(law.id, subject, "failed", what, 1, float("inf"), None, message)
    if verdict.status in ("failed", "error"):
        return dataclasses.replace(verdict, subject=subject)
    return _unknown(law, subject, f"{before}; in a process of its own it did not happen again")


def _examined(
    parent: int,
    sending: multiprocessing.connection.Connection,
    law: str,
    plain: tuple[str, str | None, str, str],
    profile: Profile,
    directory: Path,
    randomness: int | None,
) -> None:
    """In the new process."""
    end_with(parent)
    target, dialect, dtype, device = plain
    torch.set_num_threads(1)
    subject = Subject(target, resolve(target, dialect), getattr(torch, dtype), torch.device(device), dialect)
    try:
        verdict = examine(all_laws()[law], subject, profile, directory=directory, randomness=randomness)
    except Exception as error:  # a fault of the harness there is one here
        verdict = Verdict(law, subject, "error", f"{type(error).__name__}: {message_of(error)}")
    sending.send(dataclasses.replace(verdict, subject=None, case=None))  # pyright: ignore[reportArgumentType]  # the caller has it
