"""The pytest door: options, collection of the laws for every target, and the report.

This module is a `pytest11` entry point: it is loaded in every pytest run of an environment, so it imports neither torch
nor Hypothesis before a law is collected.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from properties.implementation import Implementation
    from properties.known import Known, Orphan
    from properties.law import Law
    from properties.report import Line
    from properties.runner import Subject, Verdict

DEFAULT_TARGETS = {
    "ref:PAPER": ("float32", "float64", "bfloat16"),
    "ref:DEEPSEEK_V4": ("bfloat16", "float32"),
    "ref:LIGER": ("float64",),
}
"""What a run without --impl verifies, and in which dtypes: the profile dev takes the first of each. One arithmetic
computes all dialects, so that each dialect in one dtype and each dtype in one of them show what there is to see. With
--impl every declared dtype is verified."""

LAWS = Path(__file__).parent / "laws"
QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
"""For a pytest that is started from Python: it finds modules imported that it would like to rewrite, to no harm."""

_LINE = "mhc_properties_line"
_LAW_ID = re.compile(r"(?:^|/)laws/(\w+)\.py::\1\.[a-z0-9-]+\[")
_ERROR_ONLY = 3
"""Exit status of a run in which no law failed but the harness did."""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Take our options where laws are asked for, and only there.

    `pytest_addoption` runs in every pytest run of an environment, and a conftest's own `--device` would then be refused
    as already taken.
    """
    checkout = early_config.rootpath == LAWS.parent.parent
    if checkout or any(argument in _OURS or argument.startswith(("--impl", "properties.")) for argument in args):
        _add_options(parser)
        early_config.stash[_ADDED] = True
        early_config.known_args_namespace = parser.parse_known_args(args, copy.copy(early_config.option))


_OURS = ("properties", "-h", "--help")
_ADDED = pytest.StashKey[bool]()


def _add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup(
        "mhc-properties", "laws of manifold-constrained hyper-connections (pytest --pyargs properties)"
    )
    group.addoption(
        "--impl",
        action="append",
        default=[],
        metavar="TARGET",
        help="implementation to verify; may be repeated (default: the reference)",
    )
    group.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where the implementation computes")
    group.addoption(
        "--report",
        default=None,
        metavar="DIR",
        help="write report.json and counterexamples into DIR (default: .mhc-properties)",
    )
    group.addoption(
        "--dialect", default=None, metavar="PRESET", help="the preset that plain functions claim to compute"
    )
    group.addoption("--known", default=None, metavar="FILE", help="known failures (TOML): replayed instead of searched")
    group.addoption("--isolate", action="store_true", help="run each target in a worker process of its own")
    group.addoption(
        "--law", action="append", default=[], metavar="ID", help="only the laws whose id begins so; may be repeated"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register Hypothesis profiles of the names that `--hypothesis-profile` may ask for."""
    pytest.register_assert_rewrite("properties.laws")
    wanted = config.getoption("hypothesis_profile", default=None)
    if wanted in ("dev", "ci", "thorough"):
        _know_profile(wanted)


def _know_profile(name: str) -> None:
    """Make the name acceptable to Hypothesis; `runner.PROFILES` says what it means. One that exists is left alone."""
    from hypothesis import settings
    from hypothesis.errors import InvalidArgument

    try:
        settings.get_profile(name)
    except InvalidArgument:
        settings.register_profile(name, deadline=None)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The files of laws, whatever `python_files` says."""
    if file_path.parent == LAWS and file_path.suffix == ".py" and not file_path.name.startswith("_"):
        return LawFile.from_parent(parent, path=file_path)
    return None


class LawFile(pytest.File):
    """One family of laws."""

    def collect(self) -> Iterable[pytest.Item]:
        """A test for every law and subject: `law-id[implementation-dtype-device]`."""
        from properties.law import FAMILIES, family_laws

        if self.path.stem not in FAMILIES:
            return
        known_failures(self.config)  # a file that cannot be read stops the run here, not in every law
        prefixes: list[str] = _option(self.config, "law") or []
        for law in family_laws(self.path.stem):
            if prefixes and not any(law.id.startswith(prefix) for prefix in prefixes):
                continue
            for subject in subjects(self.config):
                yield LawItem.from_parent(self, name=f"{law.id}[{subject.id}]", law=law, subject=subject)


def _option(config: pytest.Config, name: str) -> Any:
    """An option of ours; None in a run that did not ask for laws, where the name may be somebody else's."""
    ours = config.stash.get(_ADDED, False) or hasattr(config, "workerinput")
    return config.getoption(name, default=None) if ours else None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Where the laws run, and how workers share it; nothing of a run on the CPU."""
    if hasattr(config, "workerinput"):  # where the option may be another project's
        return []
    place = _option(config, "device") or "cpu"
    return [] if place == "cpu" else [f"laws on {line}" for line in whereabouts(place, _workers(config))]


def whereabouts(place: str, workers: int) -> list[str]:
    """The device, and what each of that many workers may take of its memory."""
    from properties.device import device_of

    device = device_of(place)
    shared = device.shared(workers)
    return [f"{place}: {device.described()}", *([f"{place}: {shared}"] if shared else [])]


def _workers(config: pytest.Config) -> int:
    """How many processes xdist starts; 1 without it."""
    return len(config.getoption("tx", default=None) or ()) or 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Refuse what cannot be verified once and in one sentence, before anything is collected.

    Raises:
        pytest.UsageError: a target that cannot be used, a --law that no law answers to, or a Python without docstrings.
    """
    config = session.config
    if hasattr(config, "workerinput"):
        return
    if config.stash.get(_ADDED, False):
        from properties.law import stripped

        if (reason := stripped()) is not None:
            raise pytest.UsageError(reason)
    if _option(config, "impl") or _option(config, "dialect"):
        subjects(config)
    for prefix in _option(config, "law") or []:
        from properties.law import all_laws

        if not any(one.startswith(prefix) for one in all_laws()):
            raise pytest.UsageError(f"--law {prefix}: no law's id begins so; `mhc-properties laws` lists them")


_SUBJECTS = pytest.StashKey["list[Subject]"]()


def subjects(config: pytest.Config) -> list[Subject]:
    """Every implementation named by --impl in every dtype it declares.

    Raises:
        pytest.UsageError: a target that cannot be used, or a --dialect that no target uses.
    """
    if _SUBJECTS not in config.stash:
        config.stash[_SUBJECTS] = _find_subjects(config)
    return config.stash[_SUBJECTS]


def _find_subjects(config: pytest.Config) -> list[Subject]:
    import torch

    from properties.device import device_of
    from properties.implementation import dtype_names
    from properties.isolation import isolated
    from properties.runner import Subject
    from properties.target import TargetError, preset, resolve

    torch.set_num_threads(1)  # workers are the parallelism; more threads only fight over the cores
    device = torch.device(_option(config, "device") or "cpu")
    worker = getattr(config, "workerinput", None)
    if worker is not None:  # several processes on one device: none may take what the others need
        device_of(device).share(int(worker["workerid"].removeprefix("gw")), int(worker["workercount"]))
    dialect = _option(config, "dialect")
    if dialect is not None:
        try:
            preset(dialect)
        except TargetError as error:
            raise pytest.UsageError(f"--dialect: {error}") from None
    found: list[Subject] = []
    names: set[str] = set()
    for target in _option(config, "impl") or DEFAULT_TARGETS:
        try:
            implementation = (isolated if _option(config, "isolate") else resolve)(target, dialect)
        except TargetError as error:
            raise pytest.UsageError(f"--impl {error}") from None
        implementation = _distinct(implementation, target, names)
        names.add(implementation.name)
        dtypes = dtype_names(implementation)
        if not _option(config, "impl"):
            chosen = DEFAULT_TARGETS[target][: 1 if profile_name(config) == "dev" else None]
            dtypes = [name for name in dtypes if name in chosen]
        found += [Subject(target, implementation, getattr(torch, name), device, dialect) for name in dtypes]
    unheard = sorted({one.implementation.name for one in found if not one.implementation.dialect_given})
    if dialect is not None and len(unheard) == len(names):
        raise pytest.UsageError(
            f"--dialect {dialect} has no effect: {', '.join(unheard)} declare{'s' if len(unheard) == 1 else ''} what "
            "is computed; the option is for plain functions, which cannot"
        )
    return found


def _distinct(implementation: Implementation, target: str, names: set[str]) -> Implementation:
    """The implementation under a name that no other has: its own, its target, or that with a number."""
    if implementation.name not in names:
        return implementation
    renamed = copy.copy(implementation)  # two targets may be one object
    numbered = (f"{target}#{number}" for number in itertools.count(2))
    renamed.name = next(name for name in itertools.chain((target,), numbered) if name not in names)
    return renamed


_KNOWN = pytest.StashKey["list[Known]"]()


def known_failures(config: pytest.Config) -> list[Known]:
    """The entries of --known.

    Raises:
        pytest.UsageError: the file cannot be read.
    """
    if _KNOWN not in config.stash:
        from properties.known import KnownError, load, located

        path = _option(config, "known")
        try:
            config.stash[_KNOWN] = load(located(path)) if path else []
        except KnownError as error:
            raise pytest.UsageError(f"--known {error}") from error
    return config.stash[_KNOWN]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those laws first in which most mistakes show, in the places that laws have among the tests."""
    places = [place for place, item in enumerate(items) if isinstance(item, LawItem)]
    if not places:
        return
    from properties.law import scouts

    found = [item for item in items if isinstance(item, LawItem)]
    for place, item in zip(places, sorted(found, key=lambda item: item.law.id not in scouts()), strict=True):
        items[place] = item


class LawItem(pytest.Item):
    """One law on one subject."""

    def __init__(self, *, law: Law, subject: Subject, **rest: Any) -> None:
        super().__init__(**rest)
        self.law = law
        self.subject = subject

    def runtest(self) -> None:
        """Search for a counterexample; a law that does not apply is skipped with its reason, which is counted."""
        from properties.runner import HarnessError, Verdict

        try:
            verdict = self._verdict()
        except Exception as error:
            self._record(Verdict(self.law.id, self.subject, "error", f"{type(error).__name__}: {error}"))
            raise
        self._record(verdict)
        if verdict.status == "failed":
            raise LawFailure("\n".join(filter(None, (verdict.message, self._diagnosis(verdict)))))
        if verdict.status == "error":
            raise HarnessError(verdict.reason)
        if verdict.status == "not-applicable":
            pytest.skip(f"not applicable: {verdict.reason}")

    def _verdict(self) -> Verdict:
        from properties.known import entry_for, verdict_for
        from properties.runner import PROFILES, Verdict, examine

        unavailable = _unavailable(self.subject)
        if unavailable:
            return Verdict(self.law.id, self.subject, "not-applicable", unavailable)
        known = entry_for(known_failures(self.config), self.law.id, self.subject)
        if known is not None:
            return verdict_for(known, self.subject)
        profile = PROFILES[profile_name(self.config)]
        where = counterexamples(self.config)
        return examine(self.law, self.subject, profile, directory=where, randomness=_seed(self.config))

    def _diagnosis(self, verdict: Verdict) -> str | None:
        """Which dialect field or known slip explains the failure; an implementation is asked once in a process."""
        from properties.diagnosis import explain_failure

        if verdict.case is None or verdict.executed_law:
            return None
        return explain_failure(self.law, self.subject, verdict.case)

    def _record(self, verdict: Verdict) -> None:
        self.user_properties.append((_LINE, json.dumps(line_of(verdict).to_json())))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message alone for a law that failed; a traceback for a harness that did."""
        if isinstance(excinfo.value, LawFailure):
            return str(excinfo.value)
        return "HARNESS ERROR (not a verdict on the implementation)\n" + str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where and what, for pytest's headings; not the name alone, whose dots pytest would show as colons."""
        return self.path, None, f"law {self.name}"


class LawFailure(Exception):
    """Carries the message of a failed law to the terminal."""


def _seed(config: pytest.Config) -> int | None:
    """Hypothesis's own --hypothesis-seed."""
    given = config.getoption("hypothesis_seed", default=None)
    return int(given) if given is not None and str(given).isdigit() else None


def _unavailable(subject: Subject) -> str | None:
    from properties.device import device_of

    return device_of(subject.device).missing()


def profile_name(config: pytest.Config) -> str:
    """The profile asked for; `ci` where the environment says so, otherwise `dev`."""
    from properties.runner import PROFILES

    wanted = config.getoption("hypothesis_profile", default=None)
    if wanted in PROFILES:
        return wanted
    return "ci" if os.environ.get("CI") else "dev"


def directory(config: pytest.Config) -> Path:
    """Where report and counterexamples go."""
    return Path(_option(config, "report") or ".mhc-properties").absolute()


def counterexamples(config: pytest.Config) -> Path:
    """Where counterexamples go: beside the current folder, or under --report."""
    return directory(config) / "counterexamples"


def line_of(verdict: Verdict) -> Line:
    """A verdict as a line of the report."""
    import dataclasses
    import math

    from properties.report import Line

    subject = verdict.subject
    return Line(
        implementation=subject.implementation.name,
        dialect=dataclasses.asdict(subject.implementation.dialect),
        dtype=subject.dtype_name,
        device=subject.device.type,
        law=verdict.law,
        status=verdict.status,
        reason=verdict.reason,
        examples=verdict.examples,
        worst_ratio=verdict.worst_ratio if math.isfinite(verdict.worst_ratio) else None,
        counterexample=str(verdict.counterexample) if verdict.counterexample else None,
        claims=verdict.claims,
        abstentions=verdict.abstentions,
    )


# -- the report, in the process that gathers --------------------------------------------------------------------------

_GATHERED = pytest.StashKey["_Gathered"]()


class _Gathered:
    def __init__(self) -> None:
        self.lines: dict[str, dict[str, Any]] = {}
        self.collected: set[str] = set()


def _gathered(config: pytest.Config) -> _Gathered:
    return config.stash.setdefault(_GATHERED, _Gathered())


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember the gathering place for the hooks that get no config."""
    session.config.pluginmanager.register(_Listener(session.config), "mhc-properties-listener")


class _Listener:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What must be in the report in the end (without xdist), after -k and the like."""
        if not self.config.option.collectonly:
            _gathered(self.config).collected.update(one.nodeid for one in session.items if isinstance(one, LawItem))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """What must be in the report in the end (with xdist, as a worker reports it)."""
        _gathered(self.config).collected.update(one for one in ids if _LAW_ID.search(one))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the lines that items left on their reports."""
        for name, value in report.user_properties:
            if name == _LINE:
                _gathered(self.config).lines[report.nodeid] = json.loads(str(value))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write report.json; a run whose only failures are harness errors does not exit 1."""
    config = session.config
    if hasattr(config, "workerinput"):
        return
    gathered = _gathered(config)
    if not gathered.collected:
        return
    from properties.counterexample import versions
    from properties.report import Line, write

    lines = [Line.from_json(data) for data in gathered.lines.values()]
    write(directory(config) / "report.json", lines, len(gathered.collected), versions())
    failed = any(line.status == "failed" for line in lines)
    errors = any(line.status == "error" for line in lines) or len(lines) < len(gathered.collected)
    errors = errors or any(orphan.error for orphan in _orphans(config, lines))
    others = session.testsfailed - sum(line.status in ("failed", "error") for line in lines)
    if exitstatus == pytest.ExitCode.TESTS_FAILED and not failed and errors and others <= 0:
        session.exitstatus = _ERROR_ONLY
    if exitstatus == pytest.ExitCode.OK and errors:  # something that should have been exercised left no trace
        session.exitstatus = _ERROR_ONLY


def _orphans(config: pytest.Config, lines: list[Line]) -> list[Orphan]:
    """The known failures that nothing in this run has tried."""
    if not _option(config, "known"):
        return []
    from properties.known import orphans

    return orphans(known_failures(config), lines)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The denominator, at the end of the run."""
    gathered = _gathered(config)
    if not gathered.collected:
        return
    from properties.report import Line, sentence, table, totals, why_not

    lines = [Line.from_json(data) for data in gathered.lines.values()]
    total = totals(lines, len(gathered.collected))
    terminalreporter.section("laws of hyper-connections")
    for text in table(lines):
        terminalreporter.write_line(text)
    for text in why_not(lines):
        terminalreporter.write_line(text)
    for text in _unheard(config, lines):
        terminalreporter.write_line(text)
    for orphan in _orphans(config, lines):
        terminalreporter.write_line(f"known failures: {'ERROR: ' if orphan.error else ''}{orphan.message}")
    if (place := _option(config, "device") or "cpu") != "cpu":
        for text in whereabouts(place, _workers(config)):
            terminalreporter.write_line(text)
    terminalreporter.write_line(sentence(total))
    terminalreporter.write_line(f"report: {directory(config) / 'report.json'}")


def _unheard(config: pytest.Config, lines: list[Line]) -> list[str]:
    """Of which targets --dialect does not speak, where it speaks of others."""
    dialect = _option(config, "dialect")
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
        and any(name == _LINE for name, _ in report.user_properties)
    ):
        return "not applicable", "-", "NOT APPLICABLE"
    return result
