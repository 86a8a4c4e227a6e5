"""A mutant by its name, as a target gives it."""

from __future__ import annotations

import re

from mhc_ref import Dialect
from properties.catalogue.mutants.drawing import drawn
from properties.catalogue.mutants.mutant import Mutant
from properties.core.reads import read_of


def build(name: str, dialect: Dialect | None = None) -> Mutant:
    """The mutant "SEED:INDEX", in the dialect that was drawn for it or in another.

    Raises:
        LookupError: the name is not of that form, or the dialect has no gate for each stream, which mutants change.
    """
    if not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,9}", name):
        raise LookupError(f"a mutant is named by a seed and an index, as in mutant:1:17; got {name!r}")
    if dialect is not None and not read_of(dialect).plain:
        raise LookupError(
            "a mutant is wrong at the gate of a stream or what is made of it, and here "
            f"{read_of(dialect).words}; expected another preset"
        )
    seed, index = map(int, name.split(":"))
    return Mutant(drawn(seed, index), dialect)
