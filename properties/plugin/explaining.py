"""Who explains the failures of a run in this process, and where its workers meet."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from properties.plugin.gathering import GATHERING
from properties.plugin.options import from_controller

if TYPE_CHECKING:
    from properties.causes import Causes
    from properties.report.cause import Cause

_CAUSES: pytest.StashKey[Causes] = pytest.StashKey()
_MEETING: pytest.StashKey[tempfile.TemporaryDirectory[str]] = pytest.StashKey()


def causes(config: pytest.Config) -> Causes:
    """The causes that this process knows."""
    if _CAUSES not in config.stash:
        from properties.causes import Causes

        gathering = config.stash.get(GATHERING, None)

        def announce(cause: Cause) -> None:
            if gathering is not None:
                gathering.cause(cause)

        folder = from_controller(config).get("causes")
        config.stash[_CAUSES] = Causes(Path(folder) if folder else None, announce)
    return config.stash[_CAUSES]


def meeting(config: pytest.Config) -> str:
    """A folder for the workers of a run, which is gone after it."""
    if _MEETING not in config.stash:
        config.stash[_MEETING] = tempfile.TemporaryDirectory(prefix="mhc-properties-", ignore_cleanup_errors=True)
    return config.stash[_MEETING].name


def part(config: pytest.Config) -> None:
    """The run is over."""
    if (folder := config.stash.get(_MEETING, None)) is not None:
        folder.cleanup()
