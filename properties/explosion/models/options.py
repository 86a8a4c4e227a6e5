"""What may be said of a model: where its weights and its blocks are, and what it is given."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from properties.explosion.models.inputs import read_kind
from properties.explosion.options import BRANCH_BOUND, MOST_WIDTH, Option, kept, whole

_LACKS = "is no model"
_MOST_SEEDS = 1000


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{name} is {repr(value)[:80]}; expected a text")
    return value


def _stored_kind(value: Any, name: str) -> str:
    return value and read_kind(value, name)


_LIMIT = whole(MOST_WIDTH, "what is longer is not searched")
_COUNT = whole(_MOST_SEEDS, "each is a search")

BLOCKS = Option(
    _text,
    kept(str),
    default="",
    help="model: its residual blocks, such as 'layers.*', where they are not found",
    lacks=_LACKS,
)
INPUT = Option(
    read_kind,
    _stored_kind,
    default="",
    help="model: ids:VOCABULARY, states:WIDTH or states:AxBxC, where it is not read off the model",
    lacks=_LACKS,
)
INPUT_BOUND = Option(
    BRANCH_BOUND.read,
    BRANCH_BOUND.stored,
    BRANCH_BOUND.written,
    default=Fraction(1),
    help="model: the largest absolute entry of a state; 1 by default",
    lacks=_LACKS,
)
CHECKPOINT = Option(_text, kept(str), default="", help="model: a file of safetensors with its weights", lacks=_LACKS)
MAX_TOKENS = Option(_LIMIT, _LIMIT, default=4, help="model: most tokens; 4 by default", kind=int, lacks=_LACKS)
SEEDS = Option(_COUNT, _COUNT, default=1, help="model: so many initialisations; 1 by default", kind=int, lacks=_LACKS)
RELATIVE = Option(kept(bool), kept(bool), default=False)
"""Whether no threshold was given."""
