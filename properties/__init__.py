"""properties: the laws of hyper-connections, usable on anybody's implementation.

Names are loaded when they are first used (PEP 562): the pytest plugin is imported in every pytest run of an environment
and must not bring torch with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from properties import former

if TYPE_CHECKING:
    from properties.bounds import Approx, Rounding
    from properties.commands.replay import replay_file
    from properties.core.case import BranchSpec, Case
    from properties.core.implementation import Absent, Implementation, Projection, Reference
    from properties.core.law import Law, all_laws
    from properties.core.trial import LawBroken, Trial
    from properties.engine.counterexample import Counterexample
    from properties.engine.runner import examine
    from properties.engine.subject import PROFILES, Profile, Subject, Verdict
    from properties.guards.faults import HarnessError
    from properties.targets.target import TargetError, resolve

former.install()

_HOME = {
    "Absent": "core.implementation",
    "Approx": "bounds",
    "BranchSpec": "core.case",
    "Case": "core.case",
    "Counterexample": "engine.counterexample",
    "HarnessError": "guards.faults",
    "Implementation": "core.implementation",
    "Law": "core.law",
    "LawBroken": "core.trial",
    "PROFILES": "engine.subject",
    "Profile": "engine.subject",
    "Projection": "core.implementation",
    "Reference": "core.implementation",
    "Rounding": "bounds",
    "Subject": "engine.subject",
    "TargetError": "targets.target",
    "Trial": "core.trial",
    "Verdict": "engine.subject",
    "all_laws": "core.law",
    "examine": "engine.runner",
    "replay_file": "commands.replay",
    "resolve": "targets.target",
}


def __getattr__(name: str) -> Any:
    """The public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'properties' has no attribute {name!r}")
    return getattr(importlib.import_module(f"properties.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


__all__ = [
    "PROFILES",
    "Absent",
    "Approx",
    "BranchSpec",
    "Case",
    "Counterexample",
    "HarnessError",
    "Implementation",
    "Law",
    "LawBroken",
    "Profile",
    "Projection",
    "Reference",
    "Rounding",
    "Subject",
    "TargetError",
    "Trial",
    "Verdict",
    "all_laws",
    "examine",
    "replay_file",
    "resolve",
]
