"""What a run says on the terminal in the end: its causes, the laws that fail for each, its denominator, and what was
not tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from properties.guards.printable import printable
from properties.plugin.annotations import remarks, wanted
from properties.plugin.ending import UNREACHED
from properties.plugin.gathering import GATHERING, Gathering
from properties.plugin.item import LINE
from properties.plugin.options import option, workers
from properties.plugin.screen import SCREEN
from properties.plugin.session import untried
from properties.plugin.subjects import subjects
from properties.targets.trust import from_here

if TYPE_CHECKING:
    from properties.engine.known import Orphan
    from properties.report.report import Line

_FEW = {"error": 1, "failed": 3}
"""How many messages of faults of the harness, and of failures without a cause, are printed in full."""


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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Generator[None]:
    """Everything else first. Then the causes of failed laws in place of a message for each, and the denominator.

    pytest goes on counting the failures; with -v it prints every message, too.
    """
    gathering = config.stash.get(GATHERING, None)
    if gathering is None or not gathering.collected:
        return (yield)
    if (screen := config.stash.get(SCREEN, None)) is not None:
        screen.over = True
    stats: dict[str, list[Any]] = terminalreporter.stats
    counted = stats.get("failed", [])
    if config.option.verbose <= 0:
        stats["failed"] = _told_by_pytest(counted, gathering)
        if not stats["failed"]:
            del stats["failed"]
    try:
        yield
    finally:
        if counted:
            stats["failed"] = counted
    for text in _said(config, gathering):
        terminalreporter.write_line(text)


def _told_by_pytest(reports: list[Any], gathering: Gathering) -> list[Any]:
    """Failed tests that are no laws, and the messages that are nowhere else: of failures without a file. Of faults of
    the harness, and of failures without a cause, the first few; and of a law that is the only one to fail."""
    if gathering.trouble:
        return reports
    single = sum(line.status == "failed" for line in gathering.lines.values()) == 1
    kinds: Counter[str] = Counter()

    def told(line: Line | None) -> bool:
        if line is None or (line.status == "failed" and (single or not line.counterexample)):
            return True
        kinds[line.status] += not line.causes
        return not line.causes and kinds[line.status] <= _FEW[line.status]

    return [report for report in reports if told(gathering.lines.get(report.nodeid))]


def _said(config: pytest.Config, gathering: Gathering) -> list[str]:
    from properties.report.empty import mostly_empty
    from properties.report.report import nothing_exercised, table, totals, wrapped
    from properties.report.summary import declared, ending

    lines = list(gathering.lines.values())
    total = totals(lines, len(gathering.collected), gathering.left_out())
    extra = [*declared(lines), *_unheard(config, lines)]
    extra += [line for text in mostly_empty(lines) for line in wrapped(printable(text))]
    if number := total["known"]:
        extra.append(f"known failures: {number} failed as {'it is' if number == 1 else 'they are'} known to")
    extra += not_tried(untried(config, lines))
    if (place := option(config, "device") or "cpu") != "cpu":
        extra += whereabouts(place, workers(config))
    if config.option.verbose > 0:
        extra += table(lines)
    if not total["laws_exercised"] and not total["error"]:
        extra.append(nothing_exercised(total))
    if gathering.trouble:
        where = f"HARNESS ERROR: the report is lost: {gathering.trouble}"
    else:
        # From where the run began: what it called may have gone elsewhere.
        shown = from_here(gathering.path, config.invocation_params.dir)
        path = f"{printable(shown)} (to look at: {gathering.page.name})"
        where = f"report{'' if gathering.whole else ', incomplete'}: {path}"
    causes = list(gathering.causes.values())
    if wanted():
        targets = {one.implementation.name: one.target for one in subjects(config)} if causes else {}
        extra += remarks(causes, lines, targets)
    screen = config.stash.get(SCREEN, None)
    before = (screen.written if screen is not None else 0) + 4  # with what pytest says, and the place of the report
    return [*ending(causes, lines, total, before, extra), where]


_NAMED = 3
"""Known failures that nothing tried, at most, for each of them to have its line."""


def not_tried(orphans: Sequence[Orphan]) -> list[str]:
    """A line for every known failure that nothing in the run tried, or their number where they are many: a file may be
    about implementations and laws that were not asked for. What is an error always has its line."""
    wrong, others = ([one for one in orphans if one.error is error] for error in (True, False))
    lines = [f"known failures: ERROR: {printable(one.message)}" for one in wrong]
    if len(others) <= _NAMED:
        return lines + [f"known failures: {printable(one.message)}" for one in others]
    return [*lines, f"known failures: {len(others)} were not tried, about what was not in this run"]


_CLASS = "which is no plain function"


def _unheard(config: pytest.Config, lines: list[Line]) -> list[str]:
    """Of which targets --dialect or --dtype does not speak, where it speaks of others."""
    from properties.core.doubts import silent

    run = {line.implementation for line in lines}
    said: list[str] = []
    dialect, dtypes = option(config, "dialect"), option(config, "dtype")
    if dialect is not None:
        of = {one.implementation.name: one.implementation for one in subjects(config)}
        said += [
            f"--dialect {dialect} has no effect on {name}, {_CLASS if silent(of[name]) else 'which declares its own'}"
            for name in sorted(of)
            if name in run and not of[name].dialect_given
        ]
    if dtypes:
        found = {one.target for one in subjects(config)}
        idle = [target for target in option(config, "impl") or () if target not in found]
        said += [
            f"{printable(target, 200)} declares none of {', '.join(dtypes)}: no law was tried on it" for target in idle
        ]
    return said


@pytest.hookimpl(wrapper=True)
def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport, config: pytest.Config
) -> Generator[None, Any, Any]:
    """A law that does not apply, or was not reached, is counted as such, not as a skip that nobody reads; and where
    nothing but laws runs there is no letter for each."""
    result = yield
    if not isinstance(report, pytest.TestReport) or report.when != "call":
        return result
    ours = {name for name, _ in report.user_properties} & {LINE, UNREACHED}
    if report.skipped and ours:
        result = ("not reached", "/", "NOT REACHED") if UNREACHED in ours else ("not applicable", "-", "NOT APPLICABLE")
    if SCREEN in config.stash and not config.stash[SCREEN].over:
        return result[0], "", ""
    return result
