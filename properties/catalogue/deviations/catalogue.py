"""Every deviation by its name: those of a topic, those that our families list, those of families from outside."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from mhc_ref import PRESETS, Dialect, registry
from properties.catalogue.deviations import (
    any_size,
    backward,
    callers,
    collapse,
    delayed,
    device,
    dtype,
    eps,
    execution,
    gamed,
    gradient,
    initialisation,
    missing_term,
    modes,
    normalisation,
    order,
    orientation,
    packing,
    readers,
    readers_axes,
    readers_backwards,
    readers_branches,
    readers_calls,
    readers_cited,
    readers_crowds,
    readers_forwards,
    readers_gradients,
    readers_kernels,
    readers_kernels_backwards,
    readers_layers,
    readers_many,
    readers_together,
    readers_tokens,
    readers_training,
    readers_used,
    readers_waiting,
    saturation,
    scaling,
    sizes,
    strides,
)
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation
from properties.core.shelves import beside
from properties.core.slips import KINDS, Deviation, sentence_of

TOPICS = (
    any_size,
    backward,
    callers,
    collapse,
    delayed,
    device,
    dtype,
    eps,
    execution,
    gamed,
    gradient,
    initialisation,
    missing_term,
    modes,
    normalisation,
    order,
    orientation,
    packing,
    readers,
    readers_axes,
    readers_backwards,
    readers_branches,
    readers_gradients,
    readers_kernels,
    readers_kernels_backwards,
    readers_layers,
    readers_many,
    readers_calls,
    readers_cited,
    readers_crowds,
    readers_forwards,
    readers_together,
    readers_tokens,
    readers_training,
    readers_used,
    readers_waiting,
    saturation,
    scaling,
    sizes,
    strides,
)


def _where_it_can_be(name: str, **fields: Any) -> dict[str, Dialect]:
    """The first preset with other fields; none where what its slots hold by default refuses them."""
    try:
        return {f"{PRESETS.first} with {name}": PRESETS.default.with_(**fields)}
    except ValueError:
        return {}


ELSEWHERE: dict[str, Dialect] = {
    **_where_it_can_be("rms eps 1e-3 outside", rms_eps=1e-3, rms_eps_inside=False),
    **_where_it_can_be("a norm of at least 1e-3", rms_eps=1e-3, rms_eps_by="clamp"),
    **_where_it_can_be("the eps of the dtype of its norm", rms_eps_from="compute"),
    **_where_it_can_be("the eps of the dtype of its state", rms_eps_from="state"),
    **_where_it_can_be("a LayerNorm of all streams", rms_eps=1e-5, centred=True),
    **_where_it_can_be("3 iterations", iterations=3),
}
if "temperature" in PRESETS.default.fields():
    ELSEWHERE.update(_where_it_can_be("a temperature of 0.2", temperature=0.2))
for _, _name in registry.BUILT_IN:
    ELSEWHERE.update(getattr(beside("deviations", _name), "ELSEWHERE", {}))
"""Dialects, by a title, in which those deviations show that no preset shows; a family names its own beside them."""


class Catalogue(Mapping[str, Deviation]):
    """Deviations by name, in the order of the kinds and then of the names; families registered later join in."""

    def __init__(self, hidden: bool) -> None:
        self.hidden = hidden

    def _listed(self) -> Mapping[str, Deviation]:
        slots = dict.fromkeys(registry.SLOTS.values())
        outside = [registry.outside(slot, name) for slot in slots for name in registry.names(slot)]
        return _gathered(self.hidden, tuple(one for one in outside if one is not None))

    def __getitem__(self, name: str) -> Deviation:
        return self._listed()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed())

    def __len__(self) -> int:
        return len(self._listed())

    # All of them at once: to ask the registry for every one again takes longer than to try it.
    def items(self) -> ItemsView[str, Deviation]:
        return self._listed().items()

    def values(self) -> ValuesView[Deviation]:
        return self._listed().values()

    def __or__(self, other: Mapping[str, Deviation]) -> dict[str, Deviation]:
        return dict(self.items()) | dict(other.items())


CATALOGUE = Catalogue(hidden=False)
"""Every deviation whose values are wrong."""

HIDDEN = Catalogue(hidden=True)
"""Those whose values are right in an ordinary call: laws see them, values of a few calls cannot explain a failure by
them."""


@cache
def _gathered(hidden: bool, outside: tuple[Any, ...]) -> dict[str, Deviation]:
    lists: list[Mapping[str, Deviation]] = [topic.SLIPS for topic in TOPICS]
    ours = dict.fromkeys(name for _, name in registry.BUILT_IN)
    lists += [found.SLIPS for name in ours if (found := beside("deviations", name))]
    lists += [deviations_of(family) for family in outside]
    every: dict[str, Deviation] = {}
    for one in (deviation for listed in lists for deviation in listed.values()):
        if one.name in every:
            raise ValueError(f"two deviations are called {one.name!r}; call yours otherwise")
        every[one.name] = one
    chosen = [one for one in every.values() if bool(one.hidden) == hidden]
    return {one.name: one for one in sorted(chosen, key=lambda one: (KINDS.index(one.kind), one.name))}


def deviations_of(family: Any) -> dict[str, Deviation]:
    """What a family from outside lists as its wrong forms (`properties.core.family.Family.deviations`), each for the
    dialects that choose the family."""
    given: Mapping[str, Any] = getattr(family, "deviations", dict)()
    return {name: _of_family(family, name, one) for name, one in given.items()}


def _of_family(family: Any, name: str, given: Any) -> Deviation:
    fields = [field for field, slot in registry.SLOTS.items() if slot == family.slot]

    def chosen(dialect: Dialect) -> bool:
        return any(getattr(dialect, field) == family.name for field in fields)

    if isinstance(given, Deviation):

        def applies(dialect: Dialect) -> bool:
            return chosen(dialect) and given.applies(dialect)

        return replace(given, name=name, applies=applies)
    source, step = given
    kind = step if isinstance(step, type) else _formula(family, step)

    def make(dialect: Dialect) -> Implementation:
        return kind(dialect, f"deviation:{name}")

    return Deviation(name, sentence_of(kind), source, "missing-term", chosen, make)


def _formula(family: Any, wrong: Callable[..., Any]) -> type[Deviant]:
    """A deviant with another formula in the place of a mix's."""
    if family.slot != "mix":
        raise ValueError(
            f"the {family.slot} family {family.name!r} lists a function as a deviation; expected a subclass of Deviant "
            "that overrides a step: only a mix is one formula"
        )

    def project(self: Deviant, logits: Any) -> Any:
        return wrong(self.widened(logits), self.computed)

    return type(wrong.__name__, (Deviant,), {"project": project, "__doc__": inspect.getdoc(wrong)})


def build(name: str, dialect: Dialect | None = None) -> Implementation:
    """The wrong implementation of that name, declaring `dialect`: by default the first preset, or where it is no
    deviation of that the plainest dialect of the family from outside that lists it.

    Raises:
        LookupError: there is none of that name, or it makes no difference for the dialect.
    """
    found = find(CATALOGUE | HIDDEN, name, "deviation")
    if dialect is None:
        dialect = next((one for one in (PRESETS.default, *plainest()) if found.applies(one)), PRESETS.default)
    if not found.applies(dialect):
        raise LookupError(f"{name} makes no difference for {title(dialect)}. It is: {found.slip}")
    return found.make(dialect)


def plainest() -> Iterator[Dialect]:
    """The first preset with each family from outside."""
    for field, slot in registry.SLOTS.items():
        for name in registry.names(slot):
            theirs = registry.outside(slot, name)
            if theirs is not None and getattr(theirs, "known", True):
                yield PRESETS.default.with_(**{field: name})


def elsewhere() -> dict[str, Dialect]:
    """Dialects, by a title, for deviations that show in no preset: `ELSEWHERE`, and one with each family from
    outside."""
    return {**ELSEWHERE, **{title(one): one for one in plainest()}}


Entry = TypeVar("Entry")


def find(catalogue: Mapping[str, Entry], name: str, noun: str) -> Entry:
    """The entry of that name; LookupError with the closest names where there is none."""
    if name in catalogue:
        return catalogue[name]
    close = difflib.get_close_matches(name, catalogue, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(catalogue))}"
    raise LookupError(f"there is no {noun} {name!r}; {hint}")


def title(dialect: Dialect) -> str:
    """The preset's name, or what distinguishes the dialect from the first of them."""
    for name, preset in PRESETS.items():
        if preset == dialect:
            return name
    fields = dialect.difference(PRESETS.default)
    return f"{PRESETS.first} with " + ", ".join(f"{field}={mine!r}" for field, (mine, _) in fields.items())
