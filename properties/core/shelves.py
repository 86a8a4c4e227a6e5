"""What lies with our families, each file called like its family: steps, deviations, controls, fits."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

from mhc_ref import Dialect, registry


def beside(shelf: str, name: str) -> Any:
    """What lies with a family of ours on a shelf: the module `properties.families.SHELF.NAME`; None where nothing does.

    Shelves: "steps" (STEPS: slot -> class), "deviations" (SLIPS), "controls" (CONTROLS), "fits" (FITS).
    """
    place = f"properties.families.{shelf}.{registry.module_of(name)}"
    return importlib.import_module(place) if _lies(place) else None


@cache
def _lies(place: str) -> bool:
    return importlib.util.find_spec(place) is not None


def steps_of(dialect: Dialect) -> tuple[type[Any], ...]:
    """The steps of the families of a dialect, of those that have any."""
    found: dict[type[Any], None] = {}
    for field, slot in registry.SLOTS.items():
        name: str = getattr(dialect, field)
        theirs = registry.outside(slot, name)
        ours = beside("steps", name) if theirs is None else None
        steps: type[Any] | None = ours.STEPS.get(slot) if ours else getattr(theirs, "steps", None)
        if steps is not None:
            found[steps] = None
    return tuple(found)
