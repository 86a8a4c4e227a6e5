"""properties: the laws of hyper-connections, usable on anybody's implementation.

Names are loaded when they are first used (PEP 562): the pytest plugin is imported in every pytest run of an environment
and must not bring torch with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from properties.bounds import Approx, Rounding
    from properties.case import BranchSpec, Case
    from properties.counterexample import Counterexample
    from properties.implementation import Absent, Implementation, Projection, Reference
    from properties.law import Law, all_laws
    from properties.replay import replay_file
    from properties.runner import PROFILES, HarnessError, Profile, Subject, Verdict, examine
    from properties.target import TargetError, resolve
    from properties.trial import LawBroken, Trial

_HOME = {
    "Absent": "implementation",
    "Approx": "bounds",
    "BranchSpec": "case",
    "Case": "case",
    "Counterexample": "counterexample",
    "HarnessError": "runner",
    "Implementation": "implementation",
    "Law": "law",
    "LawBroken": "trial",
    "PROFILES": "runner",
    "Profile": "runner",
    "Projection": "implementation",
    "Reference": "implementation",
    "Rounding": "bounds",
    "Subject": "runner",
    "TargetError": "target",
    "Trial": "trial",
    "Verdict": "runner",
    "all_laws": "law",
    "examine": "runner",
    "replay_file": "replay",
    "resolve": "target",
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
