"""What a run says, and how it exits, where a target or somebody outside ends a law by other means than a result."""

from __future__ import annotations

import dataclasses
import json
import signal
from typing import Any

import pytest

from properties.core.law import all_laws
from properties.diagnosis.parts import Account
from properties.engine.runner import PROFILES

pytest_plugins = ["pytester"]

LAW = "manifold.last-axis-sums"
TARGETS = """
import asyncio, signal
import mhc_ref, pytest
from properties import Implementation

class Right(Implementation):
    dtypes, streams = ("float32",), (2,)
    def project(self, logits):
        self.act()
        return mhc_ref.project(logits, self.dialect)

def acting(name, act):
    return type(name, (Right,), {"act": lambda self: act()})

def cancel(): raise asyncio.CancelledError
def interrupt(): raise KeyboardInterrupt

Skips = acting("Skips", lambda: pytest.skip("not today"))
Xfails = acting("Xfails", lambda: pytest.xfail("known"))
Ends = acting("Ends", lambda: pytest.exit("enough"))
Cancels = acting("Cancels", cancel)
Interrupts = acting("Interrupts", interrupt)
Late = acting("Late", lambda: signal.raise_signal(signal.SIGALRM))
"""
TIMEOUT = """
import signal, pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    def late(*_):
        pytest.fail("Timeout (>60.0s) from somewhere")
    before = signal.signal(signal.SIGALRM, late)
    try:
        return (yield)
    finally:
        signal.signal(signal.SIGALRM, before)
"""


@pytest.fixture
def laws(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, usual_signals: None) -> pytest.Pytester:
    """A folder with the targets, and the laws loaded before pytester starts to unload modules."""
    assert all_laws()
    monkeypatch.setitem(PROFILES, "ci", dataclasses.replace(PROFILES["ci"], examples=3))
    monkeypatch.setattr("properties.causes.causes.account_of", lambda *_, **__: Account())
    pytester.makepyfile(targets=TARGETS)
    return pytester


def verify(laws: pytest.Pytester, target: str, *more: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    """The run of one law on one target, and what the report says of it."""
    result = laws.runpytest_inprocess(
        *("--pyargs", "properties", "-p", "no:cacheprovider", "--hypothesis-profile", "ci", "--law", LAW),
        *("--impl", f"targets.py:{target}", *more),
    )
    (run,) = json.loads((laws.path / ".mhc-properties" / "report.json").read_text())["runs"]
    return result, run["laws"][LAW]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("Skips", "Skipped: not today"),
        ("Xfails", "XFailed: known"),
        ("Ends", "Exit: enough"),
        ("Cancels", "CancelledError"),
        ("Interrupts", "KeyboardInterrupt"),
    ],
)
def test_a_target_cannot_leave_a_law_undecided(target: str, told: str, laws: pytest.Pytester) -> None:
    result, line = verify(laws, target)
    assert result.ret == 1
    assert line["status"] == "failed"
    assert f"project raised {told} for" in line["reason"]
    result.stdout.fnmatch_lines([f"*{target} breaks {LAW} in float32 on cpu"])


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this platform has no SIGALRM")
def test_a_timeout_from_outside_is_an_error_in_one_sentence(laws: pytest.Pytester) -> None:
    laws.makepyfile(limits=TIMEOUT)
    laws.syspathinsert()
    result, line = verify(laws, "Late", "-p", "limits")
    assert result.ret >= 2
    assert line["status"] == "error"
    told = "was stopped from outside after"
    assert told in line["reason"]
    assert "(SIGALRM: Failed: Timeout (>60.0s) from somewhere); nothing is said of the law" in line["reason"]
    shown = result.stdout.str()
    begin = shown.index("HARNESS ERROR (not a verdict on the implementation)")
    assert told in shown[begin:].splitlines()[1]
    assert "Traceback" not in shown
    assert "runner.py" not in shown
