"""What the laws make of a family's own wrong forms: which law sees which of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mhc_ref import Dialect
from properties.catalogue.deviations import deviations_of
from properties.core.law import Law, all_laws
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject


def kills(
    family: Any,
    dialect: Dialect,
    laws: Iterable[str] = (),
    *,
    dtype: torch.dtype = torch.float32,
    examples: int = 24,
    enough: int | None = None,
) -> dict[str, tuple[str, ...]]:
    """Every deviation that a family from outside lists -> the laws that see it, by id; empty where none does.

    Arguments:
        family: the object that was registered; its `deviations()` are tried.
        dialect: one that chooses the family.
        laws: ids, or what they begin with, in the order in which to try them; all laws if none is named.
        dtype: of the states.
        examples: how many of each law.
        enough: stop with a deviation when so many laws have seen it.

    Raises:
        ValueError: the family lists no deviations, or none of them makes a difference in the dialect.
    """
    listed = {name: one for name, one in deviations_of(family).items() if one.applies(dialect)}
    if not listed:
        raise ValueError(
            f"the {family.slot} family {family.name!r} lists no deviation for {dialect}; its `deviations()` gives name "
            "-> (source, wrong formula or overridden step)"
        )
    found: dict[str, tuple[str, ...]] = {}
    profile = Profile(examples=examples, derandomise=True, shrink=False)
    with TemporaryDirectory(prefix="mhc-kills-") as where:
        for name, deviation in listed.items():
            seen: list[str] = []
            for law in _chosen(tuple(laws)):
                if len(seen) == enough:
                    break
                # anew for every law: what one of them left in its memory must not help the next
                subject = Subject(f"deviation:{name}", deviation.make(dialect), dtype, torch.device("cpu"))
                seen += [law.id] * (examine(law, subject, profile, directory=Path(where)).status == "failed")
            found[name] = tuple(seen)
    return found


def _chosen(prefixes: tuple[str, ...]) -> Iterator[Law]:
    every = all_laws()
    yield from (
        every.values()
        if not prefixes
        else (law for prefix in prefixes for law in every.values() if law.id.startswith(prefix))
    )
