"""The options of a question, each once: how a user writes it, how a file holds it, and what it says of itself."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from mhc_ref import PRESETS, Dialect
from properties.explosion.stored import fraction_of, integer_of, object_of

Number: TypeAlias = int | float | str | Decimal | Fraction
"""A number as a user writes it. A float stands for the shortest decimal that names it: 0.1 is one tenth."""

GAINS = ("forward", "backward", "signed", "spectral", "activation", "gradient", "nonfinite")
DIRECTIONS = ("explode", "vanish")
DTYPES = ("float64", "float32", "bfloat16", "float16")
BRANCHES = ("linear", "relu", "gated", "attention", "gelu", "tanh", "sigmoid")
NORMS = ("none", "pre", "post", "output", "sandwich")
DEEPEST = 10_000
MOST_STREAMS, MOST_WIDTH, MOST_ITERATIONS = 64, 4096, 1000
"""Composites are exact, and projections have 50 digits: beyond these one step of a search takes minutes."""
SEEDS = range(-(2**63), 2**64)
"""What a generator of torch takes."""
LARGEST = 300
"""Numbers are asked for between 1e-300 and 1e300, so that float64 can hold what comes out."""


@dataclass(frozen=True)
class Option:
    """One thing that may be said in a question, or a part of its family's name (without `help`).

    Attributes:
        read: (what a user gives, the option's name) -> its value; ValueError in a sentence where it is none.
        stored: (what a file holds, the option's name) -> its value; ValueError or TypeError.
        written: its value -> what a file holds.
        default: its value where nothing is said.
        help: on the command line.
        kind: of what is written on the command line.
        lacks: what a family does not have that does not have this option, such as "has no branch".
        neutral: the one thing that may be given to every family, for it says what holds of those without the option.
    """

    read: Callable[[Any, str], Any]
    stored: Callable[[Any, str], Any]
    written: Callable[[Any], Any] = lambda value: value
    default: Any = None
    help: str = ""
    kind: type = str
    lacks: str = "has no such option"
    neutral: Any = None


def asked(option: Option, **changed: Any) -> dict[str, Any]:
    """What a field of a question is made of that holds this option; `changed` is what this family has otherwise."""
    option = dataclasses.replace(option, **changed)
    return {"default": option.default, "metadata": {"option": option}}


def exact(number: Number, name: str) -> Fraction:
    """The number that was written, as a fraction; ValueError where it is none or not finite."""
    try:
        exponent = re.search(r"[eE]([+-]?\d+)\s*$", str(number))
        far = exponent is not None and abs(int(exponent[1])) > 2 * LARGEST  # 1e999999999 has a billion digits
        if isinstance(number, bool):
            raise ValueError
        value = Fraction(0 if far else float.__repr__(number) if isinstance(number, float) else number)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise ValueError(f"{name} is {number!r}; expected a finite decimal number such as 100, 0.05 or 1e3") from None
    if far or (value and not Fraction(1, 10**LARGEST) <= abs(value) <= 10**LARGEST):
        raise ValueError(f"{name} is {number}; expected a size between 1e-{LARGEST} and 1e{LARGEST}")
    return value


def _bound(number: Number, name: str) -> Fraction:
    bound = exact(number, name)
    if bound <= 0:
        raise ValueError(f"{name} is {number}; expected more than 0: nothing can change within a bound of 0")
    return bound


def _quantity(value: Any, name: str) -> Fraction | None:
    """A threshold or a bound of a file, of a size that may be asked for; None where it was not given."""
    if value is None:
        return None
    number = fraction_of(object_of(value, name)["exact"])
    if number < 0 or (number and not Fraction(1, 10**LARGEST) <= number <= 10**LARGEST):
        raise ValueError(f"{name} is {str(number)[:80]}; expected a size between 1e-{LARGEST} and 1e{LARGEST}")
    return number


def _threshold(value: Any, name: str) -> Fraction:
    found = _quantity(value, name)
    if found is None:
        raise ValueError("there is no threshold")
    return found


def one_of(*allowed: str, called: str = "") -> Callable[[Any, str], str]:
    def read(value: Any, name: str) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{called or name} is {repr(value)[:80]}; expected one of {', '.join(allowed)}")
        return value

    return read


def whole(most: int, why: str) -> Callable[[Any, str], int]:
    def read(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected an integer of 1 or more")
        if value > most:
            raise ValueError(f"{name} is {value}; expected at most {most}: {why}")
        return value

    return read


def one_stream(value: Any, name: str) -> int:
    """1, which is all that a family of one stream takes; ValueError otherwise."""
    if MAX_STREAMS.read(value, name) != 1:
        raise ValueError(f"{name} is {value}, and has no effect: residual has one stream")
    return 1


def stored_one_stream(value: Any, name: str) -> int:
    """1, whatever a file says: the first releases stored how many streams other families might have had."""
    _stored_limit(value, name)
    return 1


def whole_depth(value: Any, name: str = "max_depth") -> int:
    """A largest depth; ValueError where it is none."""
    return whole(DEEPEST, "composites are computed exactly")(value, name)


def a_seed(value: Any, name: str = "seed") -> int:
    """What a generator of torch takes; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}; expected an integer")
    if value not in SEEDS:
        raise ValueError(f"{name} is {value}; expected one from -2^63 to 2^64 - 1")
    return value


def seconds(budget: Any, name: str = "budget") -> float:
    """A budget; ValueError where it is none."""
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not number or not (0 < budget < math.inf):
        raise ValueError(f"{name} is {budget!r}; expected a finite number of seconds above 0")
    return float(budget)


def _iterations(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}; expected an integer of 0 or more")
    return value


def _dialect(given: Any, name: str) -> Dialect:
    if isinstance(given, Dialect):
        return given
    if not isinstance(given, str) or given not in PRESETS:
        raise ValueError(f"{name} is {given!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[given]


def _target(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}; expected a target, such as ref:PAPER or mine.py:Mine")
    return value


def kept(kind: type | tuple[type, ...]) -> Callable[[Any, str], Any]:
    def stored(value: Any, name: str) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {repr(value)[:80]}, which is not of its kind")
        return value

    return stored


def _stored_limit(value: Any, name: str) -> int:
    return integer_of(value, name, 1, 2**63)


def _stored_dialect(value: Any, name: str) -> Dialect:
    return Dialect(**object_of(object_of(value, name)["dialect"], name))


def _fraction_written(value: Fraction | None) -> Any:
    return None if value is None else {"exact": str(value)}


THRESHOLD = Option(exact, _threshold, _fraction_written)
GAIN = Option(
    one_of(*GAINS),
    one_of(*GAINS),
    default="forward",
    help=f"{', '.join(GAINS)}, of train logit too; forward, of block and hc:dynamic activation",
)
DIRECTION = Option(
    one_of(*DIRECTIONS),
    one_of(*DIRECTIONS),
    default="explode",
    help=f"{DIRECTIONS[0]}: gain >= threshold; {DIRECTIONS[1]}: <=; explode by default",
)
MAX_DEPTH = Option(
    whole_depth, _stored_limit, default=128, help="most sub-layers; 128, of train 6 by default", kind=int
)
MAX_STREAMS = Option(
    whole(MOST_STREAMS, "what is larger is not searched"),
    _stored_limit,
    default=4,
    help=f"most streams, up to {MOST_STREAMS}; 4 by default",
    kind=int,
)
MAX_WIDTH = Option(
    whole(MOST_WIDTH, "what is larger is not searched"),
    _stored_limit,
    default=1,
    help=f"block, train: most channels a stream, up to {MOST_WIDTH}; 1, of train 16 by default",
    kind=int,
    lacks="has no channels",
    neutral=1,
)
ENTRY_BOUND = Option(
    _bound,
    _quantity,
    _fraction_written,
    help="hc, an unconstrained target: |A_ij| is at most this",
    lacks="bounds no entries of its mixing",
)
IDENTITY_BOUND = Option(
    _bound,
    _quantity,
    _fraction_written,
    help="hc: |A_ij - I_ij| is at most this",
    lacks="bounds no distance of its mixing from the identity",
)
BRANCH_BOUND = Option(
    _bound,
    _threshold,
    _fraction_written,
    default=Fraction(1),
    help="residual, block: |g| in x + g F(x) is at most this; 1 by default",
    lacks="has no branch here",
)
SCORE_BOUND = Option(
    _bound,
    _threshold,
    _fraction_written,
    default=Fraction(1),
    help="block:attention of several tokens: a logit of u and w is at most this times |u| |w|; 1 by default",
    lacks="has no attention here",
)
DIALECT = Option(
    _dialect,
    _stored_dialect,
    lambda value: {"dialect": value.fields()},
    default=PRESETS.default,
    help=f"mhc, block, and what a plain function claims: {', '.join(PRESETS)}; {PRESETS.first} by default",
    lacks="has no projection",
)
ITERATIONS = Option(
    _iterations,
    kept(int),
    help=f"iterations of the projection, instead of the dialect's, up to {MOST_ITERATIONS}",
    kind=int,
    lacks="has no projection",
)
IMPL = Option(
    _target,
    kept(str),
    default="",
    help="mhc, block: the mixing that this TARGET declares, its family from outside included, instead of a dialect",
    lacks="has no projection",
)
DTYPE = Option(
    one_of(*DTYPES),
    one_of(*DTYPES),
    default="float64",
    help=f"{', '.join(DTYPES)}; float64, of a target the first that it declares",
)
SEED = Option(a_seed, kept(int), default=0, help="equal seeds give equal answers; 0 by default", kind=int)
BUDGET = Option(seconds, kept((float, int)), default=60.0, help="seconds; 60, of train 600 by default", kind=float)

# Parts of the name of a family.
BRANCH = Option(one_of(*BRANCHES, called="the branch of block"), one_of(*BRANCHES), default="linear")
NORM = Option(one_of(*NORMS, called="the norm of block"), one_of(*NORMS), default="none")
TARGET = Option(kept(str), kept(str), default="")
CLAIMED = Option(kept(bool), kept(bool), default=False)
DYNAMIC = Option(kept(bool), kept(bool), default=False)
