"""Dialects by their titles: presets, those of deviations, and either with some of its fields changed.

    PAPER but rms_eps=0.0, post='tanh'

An implementer declares what they compute, and that is a preset with a field of theirs as often as not.
"""

from __future__ import annotations

import ast
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

    from mhc_ref import Dialect

PRESET_ORDER = (
    *("PAPER", "DEEPSEEK_V4", "MHC_LITE", "HYPER_CONNECTIONS", "LIGER", "RESIDUAL"),
    *("IHC", "DEEPSEEK_V4_1", "KROMHC", "CAYLEY", "QWEN4_EXP", "MUSE_SPARK", "ATTN_RES"),
)

LAST = ("LUCIDRAINS",)
"""Presets for what shows in nothing else: a norm that clamps at 1e-12 shows less of a slip than one at 1e-3."""


BUT = " but "
"""Between the name of a dialect and what is changed of it."""

FURTHER: dict[str, tuple[Any, ...]] = {
    "iterations": (60,),
    "entry_eps": (0.1, 1e-30),
    "denominator_eps": (0.1,),
    "pre_eps": (0.1,),
    "post_eps": (0.1,),
    "post_scale": (100.0, 1e-4, 1.1),
    "rms_eps": (1e-3, 1.0, 1e-30, 1e-50),
    "rms_eps_from": ("value", "compute", "state"),
    "norm_offset": (-1.0, 0.1),
    "centred": (False, True),
}
"""Beside the values that somebody's own tests draw: large ones, what float32 cannot hold exactly, and what it cannot
hold at all."""
FURTHER_OWN: dict[str, tuple[Any, ...]] = {"temperature": (0.05, 0.2, 5.0)}
"""The same of fields that a family brings, which others do not have."""


def dialects() -> dict[str, Dialect]:
    """The presets in the order in which they are tried, then the dialects of deviations that none of these shows."""
    from mhc_ref import PRESETS
    from properties.catalogue.deviations import ELSEWHERE

    first, last = ({title: PRESETS[title] for title in part if title in PRESETS} for part in (PRESET_ORDER, LAST))
    return {**first, **ELSEWHERE, **last}


def titled(name: str) -> Dialect:
    """The dialect of a title: of the presets, of deviations, or one of these with fields changed.

    Raises:
        LookupError: no dialect has that name.
        ValueError: what is changed cannot be read, or contradicts the rest.
    """
    base, but, changes = name.partition(BUT)
    named = dialects()
    if base not in named:
        raise LookupError(f"there is no dialect {base!r}; known are {', '.join(named)}")
    if not but:
        return named[base]
    try:
        return named[base].with_(**_keywords(changes))
    except (SyntaxError, TypeError) as error:
        why = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(f"{changes!r} are no changes of {base}, such as rms_eps=0.0: {why}") from None


def _keywords(changes: str) -> dict[str, Any]:
    """What is written as keywords of a call, each once and with a value of its own.

    Raises:
        SyntaxError: it is none of these.
    """
    try:
        call = ast.parse(f"changed({changes})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args or not call.keywords:
            raise SyntaxError("each is a name, = and a value")
        found = {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}
        if len(found) < len(call.keywords):
            raise SyntaxError("each is named, and once")
    except (TypeError, ValueError, MemoryError, RecursionError):
        raise SyntaxError("a value is a number, a text, True or False") from None
    return found


def changed(name: str, chance: random.Random, most: int = 4) -> str:
    """The title of a dialect in which up to so many fields of the named one have other values; of those that are drawn
    the ones that contradict the rest stay as they are."""
    dialect, fields, wanted = titled(name), dict[str, Any](), chance.randint(1, most)
    for _ in range(8 * wanted):
        if len(fields) == wanted:
            break
        values = {field: others for field, others in _values(dialect).items() if field not in fields}
        field = chance.choice(list(values))
        tried = {**fields, field: chance.choice(values[field])}
        with contextlib.suppress(ValueError):
            dialect = titled(_title(name, tried))
            fields = tried
    return _title(name, fields)


def _title(name: str, fields: dict[str, Any]) -> str:
    return f"{name}{BUT}{', '.join(f'{field}={value!r}' for field, value in fields.items())}" if fields else name


def _values(dialect: Dialect) -> dict[str, tuple[Any, ...]]:
    """What each field may be changed to; those of its families' own are among them."""
    from mhc_ref import registry
    from properties.strategies.own_tests import VALUES
    from properties.strategies.tuned import admitted

    chosen = {field: getattr(dialect, field) for field in registry.SLOTS}
    names: dict[str, tuple[Any, ...]] = {
        field: tuple(name for slot, name in registry.BUILT_IN if slot == registry.SLOTS[field]) for field in chosen
    }
    own = {name: (*admitted(field), *FURTHER_OWN.get(name, ())) for name, field in registry.own_fields(chosen)}
    closed = {field: VALUES.get(field, ()) + FURTHER.get(field, ()) for field in FURTHER | VALUES}
    found = closed | names | own
    return {field: kept for field, values in found.items() if (kept := _others(values, getattr(dialect, field)))}


def _others(values: tuple[Any, ...], now: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(one for one in values if one != now))
