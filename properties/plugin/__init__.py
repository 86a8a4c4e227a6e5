"""The pytest door: options, collection of the laws for every target, and the report.

This module is a `pytest11` entry point: it is loaded in every pytest run of an environment, so it imports neither torch
nor Hypothesis before a law is collected.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from properties.guards.printable import message_of, printable
from properties.guards.stopping import PARENT, Stopping, end_with
from properties.guards.whole import unwritable
from properties.plugin.launch import QUIET as QUIET
from properties.plugin.launch import most_workers

if TYPE_CHECKING:
    from properties.core.implementation import Implementation
    from properties.core.law import Law
    from properties.engine.known import Known, Orphan
    from properties.engine.runner import Subject, Verdict
    from properties.plugin.gathering import Gathering
    from properties.report.report import Line

DEFAULT_TARGETS = {
    "ref:PAPER": ("float32", "float64", "bfloat16"),
    "ref:DEEPSEEK_V4": ("bfloat16", "float32"),
    "ref:LIGER": ("float64",),
}
"""What a run without --impl verifies, and in which dtypes: the profile dev takes the first of each. One arithmetic
computes all dialects, so that each dialect in one dtype and each dtype in one of them show what there is to see. With
--impl every declared dtype is verified."""

LAWS = Path(__file__).parents[1] / "laws"
_LINE = "mhc_properties_line"
_LAW_ID = re.compile(r"(?:(?:^|/)laws/[a-z]+(?:_\w+)?\.py|^)::([a-z]+\.[a-z0-9-]+\[.*\])$", re.DOTALL)
"""A node id of a law, also of a file that is named outside of the folder of its project: that one has no path."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, Any, Any]:
    """Take our options where laws are asked for, and only there.

    `pytest_addoption` runs in every pytest run of an environment, and a conftest's own `--device` would then be refused
    as already taken.

    Raises:
        pytest.UsageError: a conftest has an option of the same name. As a traceback that would exit 1, as a law does.
    """
    checkout = early_config.rootpath == LAWS.parent.parent
    ours = checkout or any(arg in _OURS or arg.startswith(("--impl", "properties.")) for arg in args)
    if ours:
        _add_options(parser)
        early_config.stash[_ADDED] = True
        early_config.known_args_namespace = parser.parse_known_args(args, copy.copy(early_config.option))
    try:
        return (yield)
    except (ValueError, argparse.ArgumentError) as error:  # pytest's words for an option that is there already
        if not ours:
            raise
        raise pytest.UsageError(
            f"a conftest or a plugin of this project clashes with the options of the laws: {message_of(error, 300)}. "
            "Run the laws with --noconftest, or with `mhc-properties check`"
        ) from error


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
    if hasattr(config, "workerinput"):
        parent = _from_controller(config).get("parent")
        if parent:
            end_with(parent)
    elif config.stash.get(_ADDED, False):
        if (parent := os.environ.pop(PARENT, "")).isdigit():
            end_with(int(parent))
            config.stash[_ALONE] = True
        _refuse_options(config)


def _from_controller(config: pytest.Config) -> dict[str, Any]:
    """What the process that gathers tells a worker: with whom it ends, and which targets have ended workers."""
    return getattr(config, "workerinput", {}).get("mhc_properties", {})


def _refuse_options(config: pytest.Config) -> None:
    """Options of pytest's other plugins that could not have the effect that they promise for laws.

    Raises:
        pytest.UsageError: a number of workers or a seed that is none.
    """
    workers = getattr(config.option, "numprocesses", None)
    most = most_workers()
    if isinstance(workers, int) and not 0 <= workers <= most:
        raise pytest.UsageError(f"-n {workers}: expected a number of workers from 0 to {most}, or auto")
    given = config.getoption("hypothesis_seed", default=None)
    if given is not None and not re.fullmatch(r"[+-]?\d{1,40}", str(given)):
        raise pytest.UsageError(f"--hypothesis-seed {str(given)!r}: expected an integer")
    if workers and config.option.maxworkerrestart is None:
        # Each worker may die once in each target before it knows that this one has to be held apart.
        config.option.maxworkerrestart = str(4 * workers + 4 * workers * len(_option(config, "impl") or ()))


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
    """One family of laws, or the file of a part of them."""

    def _laws(self) -> Iterable[Law]:
        """All laws of the family in the file that has its name. Another file of it has its own laws, where it was named
        and the family was not: in a whole run each law comes once, under the name of its family."""
        from properties.core.law import FAMILIES, all_laws, family_laws

        name, named = self.path.stem, self.session.isinitpath
        if name in FAMILIES:
            return family_laws(name)
        if not named(self.path) or any(map(named, self.path.parents)):
            return ()
        own = (law for law in all_laws().values() if law.module == f"properties.laws.{name}")
        return [law for law in own if not named(self.path.with_name(f"{law.family}.py"))]

    def collect(self) -> Iterable[pytest.Item]:
        """A test for every law and subject: `law-id[implementation-dtype-device]`."""
        prefixes: list[str] = _option(self.config, "law") or []
        for law in self._laws():
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
    from properties.core.device import device_of

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
        pytest.UsageError: a device that is not here, a target that cannot be used, a --law that no law answers to, a
            --known that cannot be read, a --report that
            cannot be written, or a Python without docstrings.
    """
    config = session.config
    if hasattr(config, "workerinput") or not config.stash.get(_ADDED, False):
        return
    if sys.flags.optimize:  # asked before torch is imported for the answer
        from properties.core.law import stripped

        if (reason := stripped()) is not None:
            raise pytest.UsageError(reason)
    _listen(session)
    if (place := _option(config, "device") or "cpu") != "cpu":
        from properties.core.device import device_of

        if (missing := device_of(place).missing()) is not None:
            raise pytest.UsageError(f"--device {place}: there is {missing} here, so that no law can be exercised")
    known_failures(config)
    if _option(config, "impl") or _option(config, "dialect"):
        subjects(config)
    for prefix in _option(config, "law") or []:
        from properties.core.law import all_laws

        if not any(one.startswith(prefix) for one in all_laws()):
            raise pytest.UsageError(
                f"--law {printable(prefix, 200)}: no law's id begins so; `mhc-properties laws` lists them"
            )
    given = _option(config, "report")
    if given is not None and not config.option.collectonly:
        refuse_unwritable(given, "--report")


_STOPPING = pytest.StashKey[Stopping]()
_ALONE = pytest.StashKey[bool]()
"""Whether this process was started for this run, by `properties.plugin.launch`."""


def _listen(session: pytest.Session) -> None:
    """Signals end the run with a report."""

    def ask(name: str) -> None:
        session.shouldstop = f"stopped by {name}"

    def last() -> None:
        if _GATHERING in session.config.stash:
            session.config.stash[_GATHERING].write(complete=False)

    stopping = session.config.stash[_STOPPING] = Stopping(ask, last, alone=session.config.stash.get(_ALONE, False))
    stopping.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Signals do what they did before, and who started this process hears that it has ended by itself."""
    if _GATHERING in config.stash:
        config.stash[_GATHERING].end()
    if _STOPPING in config.stash:
        config.stash[_STOPPING].remove()


def refuse_unwritable(given: str, option: str) -> None:
    """Make the folder that an option names and try to write in it.

    A disk that is full is not refused: what is found on it is said on the terminal all the same.

    Raises:
        pytest.UsageError: it cannot be a folder, or nothing can be written there.
    """
    if not given or "\0" in given:
        raise pytest.UsageError(f"{option} {printable(repr(given), 200)}: expected the name of a folder")
    folder = Path(given).absolute()
    why = unwritable(folder)
    if why is None and (folder / "report.json").is_dir():
        why = "report.json there is a folder"
    if why is not None:
        raise pytest.UsageError(f"{option} {printable(given, 200)}: expected a folder that can be written: {why}")


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

    from properties.core.device import device_of
    from properties.core.implementation import dtype_names
    from properties.engine.runner import Subject
    from properties.targets.isolation import isolated
    from properties.targets.target import TargetError, preset, resolve

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
            raise pytest.UsageError(f"--impl {message_of(error)}") from None
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
    """The implementation under a name that no other has and a terminal can show: its own, its target, or that with a
    number."""
    own, target = printable(str(implementation.name), 200), printable(target, 200)
    if own not in names:
        if own == implementation.name:
            return implementation
        renamed = copy.copy(implementation)
        renamed.name = own
        return renamed
    renamed = copy.copy(implementation)  # two targets may be one object, and one's own name is left to its owner
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
        from properties.engine.known_file import KnownError, load, located

        path = _option(config, "known")
        try:
            config.stash[_KNOWN] = load(located(path)) if path is not None else []
        except KnownError as error:
            raise pytest.UsageError(f"--known {message_of(error)}") from None
    return config.stash[_KNOWN]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those laws first in which most mistakes show, in the places that laws have among the tests."""
    places = [place for place, item in enumerate(items) if isinstance(item, LawItem)]
    if not places:
        return
    from properties.core.law import scouts

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
        line, message = self._kept() or self._examined()
        if line.status == "failed":
            raise LawFailure(message)
        if line.status == "error":
            raise LawUndecided(message)
        if line.status == "not-applicable":
            pytest.skip(f"not applicable: {line.reason}")

    def _kept(self) -> tuple[Line, str] | None:
        """What an earlier process of this run has found."""
        gathering = self.config.stash.get(_GATHERING, None)
        if gathering is None or self.nodeid not in gathering.earlier.lines:
            return None
        line = gathering.earlier.lines[self.nodeid]
        self._leave(line)
        return line, gathering.earlier.messages[self.nodeid]

    def _examined(self) -> tuple[Line, str]:
        """The line of the report, and the message of a failure.

        The line is in the report before the failure is diagnosed, which calls the implementation again.
        """
        from properties.engine.runner import Verdict, verdict_before

        gathering = self.config.stash.get(_GATHERING, None)
        if gathering is not None:
            gathering.began(self.nodeid)

        def found(line: Line, message: str) -> tuple[Line, str]:
            if gathering is not None:
                gathering.add(self.nodeid, line)
                gathering.ended(self.nodeid, line, message)
            return line, message

        try:
            verdict = self._verdict()
        except Exception as error:
            reason = f"{type(error).__name__}: {message_of(error)}"
            line, _ = found(line_of(Verdict(self.law.id, self.subject, "error", reason)), reason)
            self._leave(line)
            raise
        except BaseException as stop:  # the run is asked to end, once it has said what had failed until then
            if (verdict := verdict_before(stop)) is None:
                raise
            self._end_after_this(stop)
            line, message = found(line_of(verdict), shown(verdict))
            self._leave(line)
            return line, message
        line, message = found(line_of(verdict), shown(verdict))
        self._leave(line)
        if verdict.status == "failed" and (diagnosis := self._diagnosis(verdict)):
            message = f"{message}\n{diagnosis}"
            if gathering is not None:
                gathering.ended(self.nodeid, line, message)
        return line, message

    def _verdict(self) -> Verdict:
        from properties.engine.apart import examine_apart
        from properties.engine.known import entry_for, verdict_for
        from properties.engine.runner import PROFILES, examine

        subject = self.subject
        known = entry_for(known_failures(self.config), self.law.id, subject)
        profile = PROFILES[profile_name(self.config)]
        where, randomness = counterexamples(self.config), _seed(self.config)
        if deaths := _deaths(self.config, self.nodeid):
            return examine_apart(
                self.law,
                subject,
                profile,
                directory=where,
                randomness=randomness,
                death=deaths[0],
                made=lambda one: _apart(self.config, one),
            )
        if subject.target in _deadly(self.config) and not self.law.on.in_process:
            subject = _apart(self.config, subject)
        if known is not None:
            return dataclasses.replace(verdict_for(known, subject), subject=self.subject)
        verdict = examine(self.law, subject, profile, directory=where, randomness=randomness)
        return dataclasses.replace(verdict, subject=self.subject)

    def _diagnosis(self, verdict: Verdict) -> str | None:
        """Which dialect field or known slip explains the failure; an implementation is asked once in a process."""
        from properties.diagnosis import explain_failure

        subject = self.subject
        if verdict.case is None or verdict.executed_law:
            return None
        try:
            if subject.target in _deadly(self.config) or _deaths(self.config, self.nodeid):
                subject = _apart(self.config, subject)
            return printable(explain_failure(self.law, subject, verdict.case) or "", 4000) or None
        except KeyboardInterrupt as stop:
            self._end_after_this(stop)
            return None
        except BaseException as error:  # whatever the target raises now, the law has failed and its message stands
            return f"diagnosis: none could be made: {type(error).__name__}: {message_of(error, 300)}"

    def _end_after_this(self, stop: BaseException) -> None:
        """No other law is begun, and the message of this one is printed: of an interrupted one pytest would not."""
        self.session.shouldstop = self.session.shouldstop or f"stopped by {type(stop).__name__}"

    def _leave(self, line: Line) -> None:
        self.user_properties.append((_LINE, json.dumps(line.to_json())))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message alone for a law that failed, and for an error that is a sentence of ours; else a traceback."""
        if isinstance(excinfo.value, LawFailure):
            return str(excinfo.value)
        if isinstance(excinfo.value, LawUndecided):
            return f"HARNESS ERROR (not a verdict on the implementation)\n{excinfo.value}"
        from properties.guards.faults import HarnessError, described, placed

        if isinstance(excinfo.value, HarnessError):
            why = excinfo.value.__cause__
            because = f"\n  because of {described(why)}{placed(why)}" if why is not None else ""
            return f"HARNESS ERROR (not a verdict on the implementation)\n{message_of(excinfo.value)}{because}"
        return "HARNESS ERROR (not a verdict on the implementation)\n" + str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where and what, for pytest's headings; not the name alone, whose dots pytest would show as colons."""
        return self.path, None, f"law {self.name}"


class LawFailure(Exception):
    """Carries the message of a failed law to the terminal."""


class LawUndecided(Exception):
    """Carries to the terminal why there is no verdict on a law."""


def shown(verdict: Verdict) -> str:
    """The message of a failed law, or the reason for anything else, as a terminal may show it."""
    return printable(verdict.message if verdict.status == "failed" else verdict.reason, 20000)


_APART = pytest.StashKey["dict[tuple[str, str | None], Implementation]"]()
_DEADLY = pytest.StashKey["set[str]"]()


def _deaths(config: pytest.Config, nodeid: str) -> list[str]:
    """How earlier processes of this run ended that had begun with a law, in words."""
    gathering = config.stash.get(_GATHERING, None)
    return gathering.earlier.deaths.get(nodeid, []) if gathering is not None else []


def _deadly(config: pytest.Config) -> set[str]:
    """The targets in whose laws a process has died: they are held in processes of their own from there on."""
    if _DEADLY not in config.stash:
        config.stash[_DEADLY] = set(_from_controller(config).get("deadly", ()))
        gathering = config.stash.get(_GATHERING, None)
        for nodeid in gathering.earlier.deaths if gathering is not None else ():
            found = _subject_of(config, nodeid)
            config.stash[_DEADLY].update([found[1].target] if found else [])
    return config.stash[_DEADLY]


def _apart(config: pytest.Config, subject: Subject) -> Subject:
    """The subject with its target in a process of its own, which all its dtypes share."""
    from properties.engine.apart import subject_apart

    held = config.stash.setdefault(_APART, {})
    key = subject.target, subject.dialect_option
    if key not in held:
        held[key] = subject_apart(subject).implementation
    return dataclasses.replace(subject, implementation=held[key])


def _subject_of(config: pytest.Config, nodeid: str) -> tuple[Law, Subject] | None:
    """The law and the subject of a node id; None where it is not one of a law."""
    from properties.core.law import all_laws

    if not (match := _LAW_ID.search(nodeid)):
        return None
    name, _, rest = match[1].partition("[")
    found = (one for one in subjects(config) if f"{one.id}]" == rest)
    subject, law = next(found, None), all_laws().get(name)
    return None if subject is None or law is None else (law, subject)


def _seed(config: pytest.Config) -> int | None:
    """Hypothesis's own --hypothesis-seed."""
    given = config.getoption("hypothesis_seed", default=None)
    return int(given) if given is not None else None


def profile_name(config: pytest.Config) -> str:
    """The profile asked for; `ci` where the environment says so, otherwise `dev`."""
    from properties.engine.runner import PROFILES

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
    import math

    from properties.report.report import Line

    subject = verdict.subject
    return Line(
        implementation=subject.implementation.name,
        dialect=subject.implementation.dialect.fields(),
        dtype=subject.dtype_name,
        device=subject.device.type,
        law=verdict.law,
        status=verdict.status,
        reason=printable(verdict.reason),
        examples=verdict.examples,
        worst_ratio=verdict.worst_ratio if math.isfinite(verdict.worst_ratio) else None,
        counterexample=str(verdict.counterexample) if verdict.counterexample else None,
        claims=verdict.claims,
        abstentions=verdict.abstentions,
    )


# -- the report, in the process that gathers --------------------------------------------------------------------------

_GATHERING = pytest.StashKey["Gathering"]()
_WORKERS = pytest.StashKey["list[subprocess.Popen[bytes]]"]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Gather what the laws leave, in the process that reports."""
    config = session.config
    if config.stash.get(_ADDED, False) and not hasattr(config, "workerinput"):
        from properties.plugin.gathering import Gathering

        config.stash[_GATHERING] = Gathering(directory(config))
        config.pluginmanager.register(_Listener(config, config.stash[_GATHERING]), "mhc-properties-listener")


class _Listener:
    def __init__(self, config: pytest.Config, gathering: Gathering) -> None:
        self.config, self.gathering = config, gathering

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What must be in the report in the end (without xdist), after -k and the like."""
        laws = [one.nodeid for one in session.items if isinstance(one, LawItem)]
        if laws and not self.config.option.collectonly:
            self.gathering.collected.update(laws)
            self.gathering.begin()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """What must be in the report in the end (with xdist, as a worker reports it)."""
        first = not self.gathering.collected
        self.gathering.collected.update(one for one in ids if _LAW_ID.search(one))
        if first and self.gathering.collected:
            self.gathering.begin()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Workers end with this process, and one that takes the place of a dead one is told of what."""
        local = getattr(getattr(getattr(node, "gateway", None), "spec", None), "popen", False)
        deadly = sorted(self.config.stash.get(_DEADLY, ()))
        node.workerinput["mhc_properties"] = {"parent": os.getpid() if local else None, "deadly": deadly}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """Which processes the workers are, where they are of this machine."""
        if (process := _process_of(node)) is not None:
            self.config.stash.setdefault(_WORKERS, []).append(process)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """A worker has died in a law: it is tried again, with the target in a process of its own."""
        from properties.engine.apart import examine_apart
        from properties.engine.runner import PROFILES

        if (found := _subject_of(self.config, crashitem)) is None:
            return
        law, subject = found
        _deadly(self.config).add(subject.target)
        verdict = examine_apart(
            law,
            subject,
            PROFILES[profile_name(self.config)],
            directory=counterexamples(self.config),
            randomness=_seed(self.config),
            death=_ending_of(report),
            made=lambda one: _apart(self.config, one),
        )
        report.when = "call"
        report.location = (crashitem.partition("::")[0], None, f"law {crashitem.rpartition('::')[2]}")
        prefix = "HARNESS ERROR (not a verdict on the implementation)\n" if verdict.status == "error" else ""
        report.longrepr = prefix + shown(verdict)
        report.user_properties.append((_LINE, json.dumps(line_of(verdict).to_json())))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the lines that items left on their reports."""
        from properties.report.report import Line

        for name, value in report.user_properties:
            if name == _LINE and report.when == "call":
                self.gathering.add(report.nodeid, Line.from_json(json.loads(str(value))))


def _process_of(node: Any) -> subprocess.Popen[bytes] | None:
    """The process of a worker; None for another kind of gateway, or of another execnet."""
    found = getattr(getattr(getattr(node, "gateway", None), "_io", None), "popen", None)
    return found if isinstance(found, subprocess.Popen) else None


def _ending_of(report: pytest.TestReport) -> str:
    """How the worker of a report ended, in words."""
    from properties.targets.process.supervised import ended

    process = _process_of(getattr(report, "node", None))
    if process is None:
        return "died"
    try:
        return ended(process.wait(timeout=5))
    except subprocess.TimeoutExpired:
        return "closed its connection"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write report.json; a run whose only failures are harness errors does not exit 1."""
    config = session.config
    gathering = config.stash.get(_GATHERING, None)
    stopping = config.stash.get(_STOPPING, None)
    if gathering is None or not gathering.collected:
        return
    from properties.report.report import ERROR_ONLY, NOTHING_EXERCISED, exit_code

    if stopping is not None:
        stopping.held = True
    whole = len(gathering.lines) >= len(gathering.collected)
    total = gathering.write(complete=whole)["totals"]
    if stopping is not None:
        stopping.finish()
        if stopping.asked:
            _end_workers(config)
    if exitstatus not in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.OK):
        return
    lines = list(gathering.lines.values())
    others = session.testsfailed - sum(line.status in ("failed", "error") for line in lines)
    status = exit_code(total)
    if status in (0, NOTHING_EXERCISED) and any(orphan.error for orphan in _orphans(config, lines)):
        status = ERROR_ONLY
    if gathering.trouble:  # whatever was found, nobody can read it
        status = ERROR_ONLY
    if status == 0 or (status != 1 and not gathering.trouble and others > 0):
        return
    session.exitstatus = status


def _end_workers(config: pytest.Config) -> None:
    """End the workers at once: one that is in a call would be waited for, and what they find now is not reported."""
    for worker in config.stash.get(_WORKERS, ()):
        with contextlib.suppress(OSError):
            worker.kill()


def _orphans(config: pytest.Config, lines: list[Line]) -> list[Orphan]:
    """The known failures that nothing in this run has tried."""
    if not _option(config, "known"):
        return []
    from properties.engine.known import orphans

    return orphans(known_failures(config), lines)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The denominator, at the end of the run."""
    gathering = config.stash.get(_GATHERING, None)
    if gathering is None or not gathering.collected:
        return
    from properties.report.report import nothing_exercised, sentence, table, totals, why_not

    lines = list(gathering.lines.values())
    total = totals(lines, len(gathering.collected))
    terminalreporter.section("laws of hyper-connections")
    for text in table(lines):
        terminalreporter.write_line(text)
    for text in why_not(lines):
        terminalreporter.write_line(text)
    for text in _unheard(config, lines):
        terminalreporter.write_line(text)
    for orphan in _orphans(config, lines):
        terminalreporter.write_line(f"known failures: {'ERROR: ' if orphan.error else ''}{printable(orphan.message)}")
    if (place := _option(config, "device") or "cpu") != "cpu":
        for text in whereabouts(place, _workers(config)):
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a target has printed is shown with its failed law, without what could steer a terminal."""
    report = yield
    if isinstance(item, LawItem):
        report.sections = [(title, printable(text, 4000)) for title, text in report.sections]
    return report


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
