"""The options of the laws in a pytest run: which there are, what is refused, and what they mean."""

from __future__ import annotations

import argparse
import copy
import os
import re
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from properties.guards.printable import message_of, printable
from properties.guards.stopping import PARENT, end_with
from properties.guards.whole import unwritable
from properties.plugin.ending import ENDING, Ending

if TYPE_CHECKING:
    from properties.engine.subject import Profile

_PACKAGES = Path(__file__).parents[2]


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
    checkout = early_config.rootpath == _PACKAGES
    ours = checkout or any(arg in _OURS or arg.startswith(("--impl", "properties.")) for arg in args)
    if ours:
        _add_options(parser)
        early_config.stash[ADDED] = True
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


ADDED: pytest.StashKey[bool] = pytest.StashKey()


LEFT = "MHC_PROPERTIES_SECONDS"
"""The environment variable with the seconds that are left of --time, where an earlier process has used some."""

ALONE: pytest.StashKey[bool] = pytest.StashKey()
"""Whether this process was started for this run, by `properties.plugin.launch`."""


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
    group.addoption(
        "--dtype", action="append", default=[], metavar="NAME", help="only in this declared dtype; may be repeated"
    )
    group.addoption(
        "--max-causes", type=int, default=None, metavar="N", help="begin no law once N causes of failures are known"
    )
    group.addoption(
        "--time", type=float, default=None, metavar="SECONDS", help="end after so long; what was not reached is counted"
    )
    group.addoption("--junit", default=None, metavar="FILE", help="as --junitxml: a test case for every law")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register Hypothesis profiles of the names that `--hypothesis-profile` may ask for."""
    pytest.register_assert_rewrite("properties.laws")
    wanted = config.getoption("hypothesis_profile", default=None)
    if wanted in ("dev", "ci", "thorough"):
        _know_profile(wanted)
    if hasattr(config, "workerinput"):
        parent = from_controller(config).get("parent")
        if parent:
            end_with(parent)
    elif config.stash.get(ADDED, False):
        if (parent := os.environ.pop(PARENT, "")).isdigit():
            end_with(int(parent))
            config.stash[ALONE] = True
        _refuse_options(config)
        if option(config, "junit") is not None:
            config.option.xmlpath = option(config, "junit")
    if config.stash.get(ADDED, False) or hasattr(config, "workerinput"):
        config.stash[ENDING] = _ending(config)


def _ending(config: pytest.Config) -> Ending:
    """When the run ends before its laws do."""
    told = from_controller(config)
    given = option(config, "time")
    if hasattr(config, "workerinput"):
        return Ending(told.get("seconds"), given, Path(told["halt"]) if "halt" in told else None)
    seconds = os.environ.pop(LEFT, "")
    return Ending(float(seconds) if seconds else given, given, None)


def from_controller(config: pytest.Config) -> dict[str, Any]:
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
    seconds = option(config, "time")
    if seconds is not None and not 0 < seconds < 1e9:
        raise pytest.UsageError(f"--time {seconds:g}: expected a number of seconds above 0 and below 1e9")
    most = option(config, "max_causes")
    if most is not None and most < 1:
        raise pytest.UsageError(f"--max-causes {most}: expected a number of causes from 1 on")
    if option(config, "junit") is not None:
        if config.option.xmlpath is not None:
            raise pytest.UsageError("--junit and --junitxml name one file: expected one of the two")
        _refuse_file(option(config, "junit"), "--junit")
    if workers and config.option.maxworkerrestart is None:
        # Each worker may die once in each target before it knows that this one has to be held apart.
        config.option.maxworkerrestart = str(4 * workers + 4 * workers * len(option(config, "impl") or ()))


def most_workers() -> int:
    """How many workers a run may ask for."""
    return max(32, 4 * (os.cpu_count() or 1))


def _know_profile(name: str) -> None:
    """Make the name acceptable to Hypothesis; `runner.PROFILES` says what it means. One that exists is left alone."""
    from hypothesis import settings
    from hypothesis.errors import InvalidArgument

    try:
        settings.get_profile(name)
    except InvalidArgument:
        settings.register_profile(name, deadline=None)


def option(config: pytest.Config, name: str) -> Any:
    """An option of ours; None in a run that did not ask for laws, where the name may be somebody else's."""
    ours = config.stash.get(ADDED, False) or hasattr(config, "workerinput")
    return config.getoption(name, default=None) if ours else None


def workers(config: pytest.Config) -> int:
    """How many processes xdist starts; 1 without it."""
    return len(config.getoption("tx", default=None) or ()) or 1


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


def _refuse_file(given: str, option: str) -> None:
    """Try to write where the file that an option names is to stand once the run is over, and its findings at stake.

    Raises:
        pytest.UsageError: it cannot be a file, or nothing can be written there.
    """
    if not given or "\0" in given:
        raise pytest.UsageError(f"{option} {printable(repr(given), 200)}: expected the name of a file")
    file = Path(given).absolute()
    why = "it is a folder" if file.is_dir() else unwritable(file.parent)
    if why is not None:
        raise pytest.UsageError(f"{option} {printable(given, 200)}: expected a file that can be written: {why}")


def seed(config: pytest.Config) -> int | None:
    """Hypothesis's own --hypothesis-seed."""
    given = config.getoption("hypothesis_seed", default=None)
    return int(given) if given is not None else None


def profile_name(config: pytest.Config) -> str:
    """The profile asked for; `ci` where the environment says so, otherwise `dev`."""
    from properties.engine.subject import PROFILES

    wanted = config.getoption("hypothesis_profile", default=None)
    if wanted in PROFILES:
        return wanted
    return "ci" if os.environ.get("CI") else "dev"


def profile(config: pytest.Config) -> Profile:
    """How long to search. A run without --impl is of the references of this package: in the profile dev a law that goes
    through sizes has 0.3 seconds there and visits S(3), and of the others every second one has a crowd, and each two
    numbers of streams by themselves, as the other profiles go through more of them."""
    from properties.engine.subject import PROFILES

    name = profile_name(config)
    if name == "dev" and not option(config, "impl"):
        return replace(PROFILES[name], sizes=3, seconds=0.3, crowds=0.5, alone=2)
    return PROFILES[name]


def directory(config: pytest.Config) -> Path:
    """Where report and counterexamples go."""
    return Path(option(config, "report") or ".mhc-properties").absolute()


def counterexamples(config: pytest.Config) -> Path:
    """Where counterexamples go: beside the current folder, or under --report."""
    return directory(config) / "counterexamples"
