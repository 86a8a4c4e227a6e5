"""The kinds of cells: each says which questions there are, answers one of them, and says what all answers come to.

A kind is a module of this folder with a `KIND` (`properties.campaign.kind`). It is imported when it is chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from properties.campaign.cells import Cell, Question, versions
from properties.campaign.folder import sorts_of
from properties.campaign.kind import Kind

KINDS = {
    "laws": "targets x laws x dtypes x seeds, each law searched and shrunk",
    "seeds": "every control in many presets and dtypes: no law may accuse one",
    "kill": "which law sees which wrong implementation",
    "adversary": "random mutants of the reference, and which of them no law sees",
    "conformance": "the laws on published implementations",
    "identify": "what identify says of everything that is known",
    "explosions": "the smallest network that explodes, for a list of questions",
    "atlas": "depths at which families explode, against the deviation of their weights",
    "training": "critical learning rates, a knob and a seed at a time",
    "demo": "numbers that are squared, to try an engine with",
    "fuzz": "laws on a target, round after round, most where new behaviour appears",
}
"""The kinds, in the order of `--help`."""


def kind_of(name: str) -> Kind:
    """The kind of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in KINDS:
        raise ValueError(f"there is no kind {name!r}; expected one of {', '.join(KINDS)}")
    return cast("Kind", importlib.import_module(f"{__name__}.{name}").KIND)


def cells(name: str, seconds: Mapping[str, float], options: Mapping[str, Any]) -> Iterator[Cell]:
    """The cells of a kind; `seconds` are what earlier cells took, see `Folder.seconds`.

    Raises:
        ValueError: an option that the kind does not take, or one out of its range.
    """
    kind = kind_of(name)
    if strange := sorted(set(options) - kind.options):
        takes = ", ".join(sorted(kind.options)) or "none"
        raise ValueError(f"campaigns of the kind {name} take no {strange[0]}; they take {takes}")
    for question in kind.questions(**options):
        yield cell_of(name, question, seconds)


def cell_of(name: str, question: Question, seconds: Mapping[str, float]) -> Cell:
    """The cell of a question, with what it is expected to cost."""
    kind = kind_of(name)
    known = next((seconds[sort] for sort in sorts_of(name, question) if sort in seconds), None)
    cost = kind.cost(question) if known is None else known
    return Cell(name, question, versions(kind.packages(question)), cost)
