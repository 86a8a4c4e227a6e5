"""Targets in whose laws a process has died: they are held in processes of their own from there on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from properties.plugin.gathering import GATHERING
from properties.plugin.options import from_controller
from properties.plugin.subjects import subject_of

if TYPE_CHECKING:
    from properties.core.implementation import Implementation
    from properties.engine.subject import Subject

_APART: pytest.StashKey[dict[tuple[str, str | None], Implementation]] = pytest.StashKey()
DEADLY: pytest.StashKey[set[str]] = pytest.StashKey()


def deaths(config: pytest.Config, nodeid: str) -> list[str]:
    """How earlier processes of this run ended that had begun with a law, in words."""
    gathering = config.stash.get(GATHERING, None)
    return gathering.earlier.deaths.get(nodeid, []) if gathering is not None else []


def deadly(config: pytest.Config) -> set[str]:
    """The targets in whose laws a process has died: they are held in processes of their own from there on."""
    if DEADLY not in config.stash:
        config.stash[DEADLY] = set(from_controller(config).get("deadly", ()))
        gathering = config.stash.get(GATHERING, None)
        for nodeid in gathering.earlier.deaths if gathering is not None else ():
            found = subject_of(config, nodeid)
            config.stash[DEADLY].update([found[1].target] if found else [])
    return config.stash[DEADLY]


def apart(config: pytest.Config, subject: Subject) -> Subject:
    """The subject with its target in a process of its own, which all its dtypes share."""
    from properties.engine.apart import subject_apart

    held = config.stash.setdefault(_APART, {})
    key = subject.target, subject.dialect_option
    if key not in held:
        held[key] = subject_apart(subject).implementation
    return dataclasses.replace(subject, implementation=held[key])
