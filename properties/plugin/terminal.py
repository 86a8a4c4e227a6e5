"""What a run says on the terminal: where it runs, its denominator, and what was not tried."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from properties.guards.printable import printable
from properties.plugin.gathering import GATHERING
from properties.plugin.item import LINE
from properties.plugin.options import option, workers
from properties.plugin.session import untried
from properties.plugin.subjects import subjects

if TYPE_CHECKING:
    from properties.report.report import Line


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Where the laws run, and how workers share it; nothing of a run on the CPU."""
    if hasattr(config, "workerinput"):  # where the option may be another project's
        return []
    place = option(config, "device") or "cpu"
    return [] if place == "cpu" else [f"laws on {line}" for line in whereabouts(place, workers(config))]


def whereabouts(place: str, workers: int) -> list[str]:
    """The device, and what each of that many workers may take of its memory."""
    from properties.core.device import device_of

    device = device_of(place)
    shared = device.shared(workers)
    return [f"{place}: {device.described()}", *([f"{place}: {shared}"] if shared else [])]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The denominator, at the end of the run."""
    gathering = config.stash.get(GATHERING, None)
    if gathering is None or not gathering.collected:
        return
    from properties.report.report import declared, nothing_exercised, sentence, table, totals, why_not

    lines = list(gathering.lines.values())
    total = totals(lines, len(gathering.collected))
    terminalreporter.section("laws of hyper-connections")
    for text in (*table(lines), *declared(lines)):
        terminalreporter.write_line(text)
    for text in why_not(lines):
        terminalreporter.write_line(text)
    for text in _unheard(config, lines):
        terminalreporter.write_line(text)
    for orphan in untried(config, lines):
        terminalreporter.write_line(f"known failures: {'ERROR: ' if orphan.error else ''}{printable(orphan.message)}")
    if (place := option(config, "device") or "cpu") != "cpu":
        for text in whereabouts(place, workers(config)):
            terminalreporter.write_line(text)
    terminalreporter.write_line(sentence(total))
    if not total["laws_exercised"] and not total["error"]:
        terminalreporter.write_line(nothing_exercised(total))
    if gathering.trouble:
        terminalreporter.write_line(f"HARNESS ERROR: the report is lost: {gathering.trouble}")
    elif gathering.whole:
        terminalreporter.write_line(f"report: {printable(str(gathering.path))}")
    else:
        terminalreporter.write_line(f"report, incomplete: {printable(str(gathering.path))}")


def _unheard(config: pytest.Config, lines: list[Line]) -> list[str]:
    """Of which targets --dialect does not speak, where it speaks of others."""
    dialect = option(config, "dialect")
    if dialect is None:
        return []
    run = {line.implementation for line in lines}
    declare = sorted({one.implementation.name for one in subjects(config) if not one.implementation.dialect_given})
    return [f"--dialect {dialect} has no effect on {name}, which declares its own" for name in declare if name in run]


@pytest.hookimpl(wrapper=True)
def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> Generator[None, Any, Any]:
    """A law that does not apply is counted as such, not as a skip that nobody reads."""
    result = yield
    if (
        isinstance(report, pytest.TestReport)
        and report.skipped
        and any(name == LINE for name, _ in report.user_properties)
    ):
        return "not applicable", "-", "NOT APPLICABLE"
    return result
