"""Whose fault a failure is: the harness's, an adapter's, or the target's. Nobody is blamed for somebody else's."""

from __future__ import annotations


class HarnessError(Exception):
    """The suite itself is at fault, or cannot tell: never a verdict on the implementation."""


class AdapterError(HarnessError):
    """The code between the suite and an implementation (`properties.modules`, `properties.arrays`) cannot hand a call
    on: the message says what was given, what was expected, and what to declare."""
