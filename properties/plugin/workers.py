"""The worker processes of a run: what they are told, and what becomes of a law in which one dies."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import Any

import pytest

from properties.plugin.apart import DEADLY, apart, deadly
from properties.plugin.ending import UNREACHED, ending_of
from properties.plugin.explaining import causes, meeting
from properties.plugin.item import line_of, properties_of, shown, with_cause
from properties.plugin.options import counterexamples, profile, seed
from properties.plugin.subjects import subject_of

PROCESSES: pytest.StashKey[list[subprocess.Popen[bytes]]] = pytest.StashKey()


class Workers:
    """Hooks of xdist, in the process that gathers."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Workers end with this process, and one that takes the place of a dead one is told of what."""
        local = getattr(getattr(getattr(node, "gateway", None), "spec", None), "popen", False)
        deadly = sorted(self.config.stash.get(DEADLY, ()))
        ending = ending_of(self.config)
        node.workerinput["mhc_properties"] = {
            "parent": os.getpid() if local else None,
            "deadly": deadly,
            "seconds": ending.left,
            "halt": str(ending.halt),
            "causes": meeting(self.config) if local else None,  # workers of another machine do not meet there
        }

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """Which processes the workers are, where they are of this machine."""
        if (process := _process_of(node)) is not None:
            self.config.stash.setdefault(PROCESSES, []).append(process)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """A worker has died in a law: it is tried again, with the target in a process of its own."""
        from properties.engine.apart import examine_apart

        if (found := subject_of(self.config, crashitem)) is None:
            return
        law, subject = found
        if why := ending_of(self.config).why():  # it was ended as its law did not come back in time, or soon after
            report.when, report.outcome = "call", "skipped"
            report.longrepr = (crashitem.partition("::")[0], 0, f"not reached {why}")
            report.user_properties.append((UNREACHED, why))
            return
        deadly(self.config).add(subject.target)
        verdict = examine_apart(
            law,
            subject,
            profile(self.config),
            directory=counterexamples(self.config),
            randomness=seed(self.config),
            death=_ending_of(report),
            made=lambda one: apart(self.config, one),
            attribution=causes(self.config),
        )
        verdict = with_cause(verdict)
        report.when = "call"
        report.location = (crashitem.partition("::")[0], None, f"law {crashitem.rpartition('::')[2]}")
        prefix = "HARNESS ERROR (not a verdict on the implementation)\n" if verdict.status == "error" else ""
        report.longrepr = prefix + shown(verdict)
        report.user_properties += properties_of(verdict.causes, line_of(verdict))


def _process_of(node: Any) -> subprocess.Popen[bytes] | None:
    """The process of a worker; None for another kind of gateway, or of another execnet."""
    found = getattr(getattr(getattr(node, "gateway", None), "_io", None), "popen", None)
    return found if isinstance(found, subprocess.Popen) else None


def _ending_of(report: pytest.TestReport) -> str:
    """How the worker of a report ended, in words."""
    from properties.guards.child import ended

    process = _process_of(getattr(report, "node", None))
    if process is None:
        return "died"
    try:
        return ended(process.wait(timeout=5))
    except subprocess.TimeoutExpired:
        return "closed its connection"


def end_workers(config: pytest.Config) -> None:
    """End the workers at once: one that is in a call would be waited for, and what they find now is not reported."""
    for worker in config.stash.get(PROCESSES, ()):
        with contextlib.suppress(OSError):
            worker.kill()
