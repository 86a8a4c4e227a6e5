"""The families that can be asked about, each once, and the question that a user or a file asks of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from properties.explosion.options import THRESHOLD, Number, Option
from properties.explosion.questions.blocks import Blocks
from properties.explosion.questions.constrained import ConstrainedMixing, OfTarget
from properties.explosion.questions.dynamic import DynamicMixing
from properties.explosion.questions.linear import BoundedMixing, ResidualChain
from properties.explosion.questions.models import OfModel
from properties.explosion.questions.question import Question
from properties.explosion.questions.training import Training

FAMILIES: tuple[type[Question[Any]], ...] = (
    ResidualChain,
    BoundedMixing,
    DynamicMixing,
    ConstrainedMixing,
    Blocks,
    OfTarget,
    Training,
    OfModel,
)
FORMS = ", ".join(family.FORM for family in FAMILIES)
"""How the families are written."""


def _options(*, spoken: bool) -> dict[str, Option]:
    """The options of all families by name, those of several families as the first has them."""
    found: dict[str, Option] = {}
    for family in FAMILIES:
        for name, option in family.options().items():
            if not spoken or option.help:
                found.setdefault(name, option)
    return found


OPTIONS = _options(spoken=True)
"""What can be asked besides family and threshold, for `find_minimal` and the command line."""
_STORED = _options(spoken=False)
"""What a file may say of a question besides its family."""


def ask(family: str, threshold: Number | None, **options: Any) -> Any:
    """A checked `Question`, of the class of the family; an option that is None is not given.

    Raises:
        ValueError: a value out of its range, an option that can have no effect, or options that contradict each other;
            the message names what was given and what was expected.
        TypeError: an option that no family has.
    """
    if not isinstance(family, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"family is {family!r}; expected a string")
    if strange := sorted(set(options) - set(OPTIONS)):
        raise TypeError(f"there is no option {strange[0]!r}; expected some of {', '.join(OPTIONS)}")
    found = next(((one, said) for one in FAMILIES if (said := one.parsed(family)) is not None), None)
    if found is None:
        raise ValueError(f"family is {family!r}; expected one of {FORMS}")
    kind, said = found
    mine = {name: option for name, option in kind.options().items() if _spoken(kind, name)}
    given = {name: value for name, value in options.items() if value is not None}
    read = {name: mine.get(name, OPTIONS[name]).read(value, name) for name, value in given.items()}
    for name, value in read.items():
        if name not in mine and value != OPTIONS[name].neutral:
            raise ValueError(_idle(kind, name))
    goal = kind.goal(read) if threshold is None else {"threshold": THRESHOLD.read(threshold, "threshold")}
    return kind(**goal, **said, **kind.folded({name: read[name] for name in read if name in mine}))


def _idle(kind: type[Question[Any]], name: str) -> str:
    lacks = kind.LACKS.get(name, OPTIONS[name].lacks)
    having = [_short(one) for one in FAMILIES if _spoken(one, name)]
    others = f"{', '.join(having[:-1])} and {having[-1]}" if len(having) > 1 else having[0]
    said = _short(kind)
    return f"{name} is given, and has no effect: {said} {lacks}; it is an option of {others}"


def _short(kind: type[Question[Any]]) -> str:
    """The name of a family without what is said in it."""
    return kind.FORM.partition("[")[0].removesuffix(":TARGET").removesuffix(":KIND")


def _spoken(kind: type[Question[Any]], name: str) -> bool:
    """Whether an option of a family is said as one, and not in the family's name."""
    return name in (mine := kind.options()) and bool(mine[name].help)


def stored(fields: Mapping[str, Any]) -> Question[Any]:
    """The question that a file holds, checked as it was when it was asked. What is not there has its default.

    Files of this package's first releases hold the options of all families in every question.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    family, dynamic = fields["family"], fields.get("dynamic", False)
    kind = next((one for one in FAMILIES if (family, dynamic) == (one.family, one.DYNAMIC)), None)
    if kind is None:
        known = ", ".join(dict.fromkeys(one.family for one in FAMILIES))
        raise ValueError(f"family is {repr(family)[:80]}; expected one of {known}")
    mine = {field.name: field.metadata["option"] for field in dataclasses.fields(kind)}
    read: dict[str, Any] = {}
    for name, value in fields.items():
        if name in ("family", "dynamic"):
            continue
        if name not in _STORED:
            raise ValueError(f"request has {name[:80]!r}, which no request of this version has")
        read[name] = mine.get(name, _STORED[name]).stored(value, name)
        if name not in mine and name.endswith("_bound") and read[name] != _STORED[name].default:
            raise ValueError(_idle(kind, name))
    return kind(**{name: value for name, value in read.items() if name in mine})


def written(question: Question[Any]) -> dict[str, Any]:
    """What a file holds of a question."""
    fields = {
        field.name: field.metadata["option"].written(getattr(question, field.name))
        for field in dataclasses.fields(question)
        if field.name in question.options()
    }
    return {"family": question.family, **({"dynamic": True} if question.DYNAMIC else {}), **fields}
