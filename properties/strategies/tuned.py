"""Other dialects that an implementation says it can be tuned to: each field away from its default and from the others.

Values are large enough to show in a few tokens of order 1, and no two of them are equal: an eps that is read in the
place of another is told from it, however alike the two are by default.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref import PRESETS, Dialect, registry
from mhc_ref.packing import logits_shape
from properties.strategies.draws import among
from properties.strategies.setting import Setting

NUMBERS: dict[str, tuple[Any, ...]] = {
    "iterations": (3, 2),
    "entry_eps": (2**-4, 2**-5),
    "denominator_eps": (2**-6, 2**-7),
    "pre_eps": (2**-3, 3 * 2**-5),
    "post_scale": (1.5, 0.625),
    "post_eps": (5 * 2**-5, 3 * 2**-4),
    "rms_eps": (2**-2, 3 * 2**-4),
    "norm_offset": (1.0, 0.5),
}
"""What a number is tuned to: the first of the two that it is not already."""
CLAMPS = (0.75, 0.875)
"""And a denominator_eps below which sums are clamped."""
CHOICES: dict[str, tuple[Any, ...]] = {
    "last_axis": ("row", "column"),
    "start": ("exp", "softmax"),
    "start_axis": ("row", "column"),
    "denominator": ("add", "clamp"),
    "transposed": (False, True),
    "shared_projection": (False, True),
    "rms_eps_inside": (True, False),
    "rms_eps_by": ("add", "clamp"),
    "read_from": ("own", "previous"),
    "first_read": ("own", "stream0"),
}


@st.composite
def tuned_dialects(draw: DrawFn, setting: Setting, fields: Collection[str]) -> Dialect:
    """The dialect with all numbers tuned among these fields, with all choices beside them, with one field alone, with
    two choices, mostly at few iterations, where each shows, or with what a preset has in these fields."""
    own = [name for name, _ in setting.dialect.own]
    tunable = setting.tunable & {*fields, *own}
    if _tuned(setting.dialect, "read", 0) == setting.dialect:  # what reads by channels fits few dialects
        tunable = tunable - {"read"}
    offered = [name for name in (*NUMBERS, *CHOICES, *registry.SLOTS, *own) if name in tunable]
    numbers = [name for name in offered if name in NUMBERS or name in own]
    choices = [name for name in offered if name in CHOICES]
    few = tuple(name for name in numbers if name == "iterations")
    pairs = [pair for pair in itertools.combinations(choices, 2)]
    kinds: tuple[Sequence[Any], ...] = (
        [*dict.fromkeys(filter(None, (tuple(numbers), (*choices, *numbers)))), *((name,) for name in offered)],
        [*((*pair, *few) for pair in pairs), *((*pair, *few) for pair in pairs), *pairs],
        _presets(setting, {*offered}),
    )
    way = draw(st.one_of([among(*kind) for kind in kinds if kind]))
    if isinstance(way, Dialect):
        return way
    dialect = setting.dialect
    for name in way:
        dialect = _tuned(dialect, name, draw(st.integers(0, 7)))
    return dialect


def _presets(setting: Setting, fields: Collection[str]) -> list[Dialect]:
    """The dialect with what a preset has in these fields, for every preset that differs in nothing but what is tunable;
    each once."""
    found: dict[Dialect, None] = {}
    for preset in PRESETS.values():
        changed = preset.difference(setting.dialect)
        if changed.keys() <= setting.tunable and changed.keys() & fields:
            with contextlib.suppress(ValueError):  # what is not among these fields may be needed beside them
                found[setting.dialect.with_(**{name: changed[name][0] for name in changed if name in fields})] = None
    return [*found]


def _tuned(dialect: Dialect, name: str, turn: int) -> Dialect:
    """Another value in a field, by `turn` where there are several; the same dialect where none fits."""
    now = getattr(dialect, name)
    values = [one for one in _values(dialect, name) if one != now]
    for value in (*values[turn % len(values) :], *values) if values else ():
        try:
            return dialect.with_(**{name: value})
        except ValueError:  # it contradicts another field
            continue
    return dialect


def _values(dialect: Dialect, name: str) -> tuple[Any, ...]:
    if name in registry.SLOTS:
        return tuple(other for slot, other in registry.BUILT_IN if slot == registry.SLOTS[name])
    if name == "denominator_eps" and dialect.denominator == "clamp":
        return CLAMPS
    if name in NUMBERS:
        first, second = NUMBERS[name]
        return (second,) if getattr(dialect, name) == first else (first,)
    if name in CHOICES:
        return CHOICES[name]
    brought = dict(registry.own_fields({field: getattr(dialect, field) for field in registry.SLOTS}))
    return tuple(admitted(brought[name])) if name in brought else ()


def admitted(field: registry.Field) -> list[Any]:
    """Values of a field that a family brings, near its default."""
    default = field.default
    if not isinstance(default, (int, float)):
        return []
    near = (not default,) if isinstance(default, bool) else (default * 1.5, default + 1, default / 2, default - 1)
    found: list[Any] = []
    for value in near:
        with contextlib.suppress(ValueError):
            found.append(field.read(int(value) if isinstance(default, int) else value))
    return found


def tuned_setting(setting: Setting, dialect: Dialect) -> Setting | None:
    """The frame of the tuned dialect, with the numbers of streams that it has logits for; None where there are none."""
    streams = tuple(n for n in setting.streams if _takes(dialect, n))
    return setting.with_(dialect=dialect, streams=streams) if streams else None


def _takes(dialect: Dialect, n: int) -> bool:
    try:
        logits_shape(n, dialect)
    except ValueError:
        return False
    return True
