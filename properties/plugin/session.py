"""A run from its start to its report: what laws leave is gathered, signals end it, and the report has the last word."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from properties.guards.stopping import Stopping
from properties.plugin.ending import ENDING, UNREACHED, Ending, ending_of
from properties.plugin.explaining import part
from properties.plugin.gathering import GATHERING, Gathering
from properties.plugin.item import CAUSE, LINE, LawItem
from properties.plugin.options import ADDED, ALONE, directory, option
from properties.plugin.screen import SCREEN, Screen
from properties.plugin.subjects import LAW_ID, known_failures
from properties.plugin.workers import Workers, end_workers

if TYPE_CHECKING:
    from properties.engine.known import Orphan
    from properties.report.cause import Cause
    from properties.report.report import Line


STOPPING: pytest.StashKey[Stopping] = pytest.StashKey()


def listen(session: pytest.Session) -> None:
    """Signals end the run with a report."""

    ending = ending_of(session.config)
    ending.last = lambda: _cut_off(session.config, ending)

    def ask(name: str) -> None:
        session.shouldstop = f"stopped by {name}"

    def last() -> None:
        if GATHERING in session.config.stash:
            session.config.stash[GATHERING].write(complete=False)

    stopping = session.config.stash[STOPPING] = Stopping(ask, last, alone=session.config.stash.get(ALONE, False))
    stopping.install()


def _cut_off(config: pytest.Config, ending: Ending) -> None:
    """The time is up and a call does not come back: the report as it will stay."""
    if (gathering := config.stash.get(GATHERING, None)) is not None and gathering.collected:
        gathering.leave_out(gathering.missing, ending.why())
        gathering.write(complete=True)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Gather what the laws leave, in the process that reports."""
    config = session.config
    if config.stash.get(ADDED, False) and not hasattr(config, "workerinput"):
        config.stash[GATHERING] = Gathering(directory(config))
        config.pluginmanager.register(Listener(config, config.stash[GATHERING]), "mhc-properties-listener")
        config.stash[GATHERING].announce = lambda cause: _announce(config, cause)
        config.pluginmanager.register(Workers(config), "mhc-properties-workers")


def _announce(config: pytest.Config, cause: Cause) -> None:
    """A cause is known: it is printed, and the run ends where no more were asked for."""
    from properties.report.cause import numbered

    causes = config.stash[GATHERING].causes
    if (screen := config.stash.get(SCREEN, None)) is not None:
        screen.cause(cause, numbered(causes.values())[cause.key])
    most = option(config, "max_causes")
    if most is not None and len(causes) >= most:
        ending_of(config).stop(f"once {most} cause{'s were' if most > 1 else ' was'} known")


class Listener:
    """Hears what must be in the report, and what is found."""

    def __init__(self, config: pytest.Config, gathering: Gathering) -> None:
        self.config, self.gathering = config, gathering

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What must be in the report in the end (without xdist), after -k and the like."""
        laws = [one.nodeid for one in session.items if isinstance(one, LawItem)]
        if laws and not self.config.option.collectonly:
            self.gathering.collected.update(laws)
            self._begin(len(laws) == len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """What must be in the report in the end (with xdist, as a worker reports it)."""
        first = not self.gathering.collected
        self.gathering.collected.update(one for one in ids if LAW_ID.search(one))
        if first and self.gathering.collected:
            self._begin(len(self.gathering.collected) == len(ids))

    def _begin(self, alone: bool) -> None:
        """All laws are known; `alone`: and nothing else is to run, so that what is said of it is ours to say."""
        self.gathering.begin()
        if alone and self.config.option.verbose <= 0:
            self.config.stash[SCREEN] = Screen(self.config, self.gathering)
            self.config.pluginmanager.register(self.config.stash[SCREEN], "mhc-properties-screen")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the lines that items left on their reports."""
        from properties.report.cause import Cause
        from properties.report.report import Line

        for name, value in report.user_properties if report.when == "call" else ():
            if name == CAUSE:
                self.gathering.cause(Cause.from_json(json.loads(str(value))))
            elif name == LINE:
                self.gathering.add(report.nodeid, Line.from_json(json.loads(str(value))))
            elif name == UNREACHED:
                self.gathering.leave_out([report.nodeid], str(value))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write report.json; a run whose only failures are harness errors does not exit 1."""
    config = session.config
    gathering = config.stash.get(GATHERING, None)
    stopping = config.stash.get(STOPPING, None)
    if gathering is None or not gathering.collected:
        return
    from properties.report.report import ERROR_ONLY, NOTHING_EXERCISED, exit_code

    if stopping is not None:
        stopping.held = True
    most = config.option.maxfail  # pytest's own -x, which with workers ends as Ctrl-C does
    enough = bool(most) and session.testsfailed >= most
    if enough and not (stopping is not None and stopping.asked):
        gathering.leave_out(gathering.missing, f"once {most} had failed")
        exitstatus = pytest.ExitCode.TESTS_FAILED
    whole = not gathering.missing
    report = gathering.write(complete=whole)
    gathering.draw(report)
    total = report["totals"]
    if stopping is not None:
        stopping.finish()
        if stopping.asked:
            end_workers(config)
    if exitstatus not in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.OK):
        return
    lines = list(gathering.lines.values())
    others = session.testsfailed - sum(line.status in ("failed", "error") for line in lines)
    status = exit_code(total)
    if status in (0, NOTHING_EXERCISED) and any(orphan.error for orphan in untried(config, lines)):
        status = ERROR_ONLY
    if gathering.trouble:  # whatever was found, nobody can read it
        status = ERROR_ONLY
    if status == 0 or (status != 1 and not gathering.trouble and others > 0):
        return
    session.exitstatus = status


def pytest_unconfigure(config: pytest.Config) -> None:
    """Signals do what they did before, and who started this process hears that it has ended by itself."""
    part(config)
    if GATHERING in config.stash:
        config.stash[GATHERING].end()
    if ENDING in config.stash:
        config.stash[ENDING].remove()
    if STOPPING in config.stash:
        config.stash[STOPPING].remove()


def untried(config: pytest.Config, lines: list[Line]) -> list[Orphan]:
    """The known failures that nothing in this run has tried."""
    if not option(config, "known"):
        return []
    from properties.engine.known import orphans

    return orphans(known_failures(config), lines)
