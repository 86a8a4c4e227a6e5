"""Causes: a failure is explained once, and later failures are shown to be the same, or not."""

from properties.causes.causes import Causes

__all__ = ["Causes"]
