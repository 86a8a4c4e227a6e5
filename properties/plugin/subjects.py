"""What a run verifies: every target in every dtype, and what of it is known to fail."""

from __future__ import annotations

import copy
import itertools
import re
from typing import TYPE_CHECKING

import pytest

from properties.guards.printable import message_of, printable
from properties.plugin.options import option, profile_name

if TYPE_CHECKING:
    from properties.core.implementation import Implementation
    from properties.core.law import Law
    from properties.engine.known_file import Known
    from properties.engine.subject import Subject


DEFAULT_TARGETS = {
    "ref:PAPER": ("float32", "float64", "bfloat16"),
    "ref:DEEPSEEK_V4": ("bfloat16", "float32"),
    "ref:LIGER": ("float64",),
}
"""What a run without --impl verifies, and in which dtypes: the first of each, and all in the profile thorough. One
arithmetic computes all dialects, so that each dialect in one dtype and each dtype in one of them show what there is to
see. With --impl every declared dtype is verified."""


_SUBJECTS: pytest.StashKey[list[Subject]] = pytest.StashKey()


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

    from mhc_ref import PRESETS
    from properties.core.device import device_of
    from properties.core.implementation import dtype_names
    from properties.engine.subject import Subject
    from properties.targets.isolation import isolated
    from properties.targets.target import TargetError, preset, resolve

    torch.set_num_threads(1)  # workers are the parallelism; more threads only fight over the cores
    device = torch.device(option(config, "device") or "cpu")
    worker = getattr(config, "workerinput", None)
    if worker is not None:  # several processes on one device: none may take what the others need
        device_of(device).share(int(worker["workerid"].removeprefix("gw")), int(worker["workercount"]))
    dialect = option(config, "dialect")
    if dialect is not None:
        try:
            preset(dialect)
        except TargetError as error:
            raise pytest.UsageError(f"--dialect: {error}") from None
    wanted: list[str] = option(config, "dtype") or []
    declared: list[str] = []
    found: list[Subject] = []
    names: set[str] = set()
    for target in option(config, "impl") or [one for one in DEFAULT_TARGETS if one.removeprefix("ref:") in PRESETS]:
        try:
            implementation = (isolated if option(config, "isolate") else resolve)(target, dialect)
        except TargetError as error:
            raise pytest.UsageError(f"--impl {message_of(error)}") from None
        implementation = _distinct(implementation, target, names)
        names.add(implementation.name)
        dtypes = dtype_names(implementation)
        if not option(config, "impl"):
            chosen = DEFAULT_TARGETS[target][: None if profile_name(config) == "thorough" else 1]
            dtypes = [name for name in dtypes if name in chosen]
        declared += dtypes
        dtypes = [name for name in dtypes if not wanted or name in wanted]
        found += [Subject(target, implementation, getattr(torch, name), device, dialect) for name in dtypes]
    for name in wanted:
        if name not in declared:
            raise pytest.UsageError(
                f"--dtype {printable(name, 60)}: no implementation here declares it; expected one of "
                f"{', '.join(dict.fromkeys(declared))}"
            )
    unheard = sorted({one.implementation.name for one in found if not one.implementation.dialect_given})
    if dialect is not None and len(unheard) == len(names):
        raise pytest.UsageError(
            f"--dialect {dialect} has no effect: {', '.join(unheard)} declare{'s' if len(unheard) == 1 else ''}, be "
            "it by the default of `dialect`, what is computed; the option is for plain functions, which cannot"
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


_KNOWN: pytest.StashKey[list[Known]] = pytest.StashKey()


def known_failures(config: pytest.Config) -> list[Known]:
    """The entries of --known.

    Raises:
        pytest.UsageError: the file cannot be read.
    """
    if _KNOWN not in config.stash:
        from properties.engine.known_file import KnownError, load, located

        path = option(config, "known")
        try:
            config.stash[_KNOWN] = load(located(path)) if path is not None else []
        except KnownError as error:
            raise pytest.UsageError(f"--known {message_of(error)}") from None
    return config.stash[_KNOWN]


LAW_ID = re.compile(r"(?:(?:^|/)laws/[a-z]+(?:_\w+)?\.py|^)::([a-z]+\.[a-z0-9-]+\[.*\])$", re.DOTALL)
"""A node id of a law, also of a file that is named outside of the folder of its project: that one has no path."""


def subject_of(config: pytest.Config, nodeid: str) -> tuple[Law, Subject] | None:
    """The law and the subject of a node id; None where it is not one of a law."""
    from properties.core.law import all_laws

    if not (match := LAW_ID.search(nodeid)):
        return None
    name, _, rest = match[1].partition("[")
    found = (one for one in subjects(config) if f"{one.id}]" == rest)
    subject, law = next(found, None), all_laws().get(name)
    return None if subject is None or law is None else (law, subject)
