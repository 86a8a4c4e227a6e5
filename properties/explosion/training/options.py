"""What may be said of a training run: one option for each choice of its setup, and the limits of the lattice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from properties.explosion.options import DEEPEST, Option, kept, one_of, whole
from properties.explosion.training.initialisations import INITS
from properties.explosion.training.measures import GAINS
from properties.explosion.training.residuals import residual_of
from properties.explosion.training.setup import DATA, MLPS, NORMS, OPTIMIZERS, SCHEDULES

MOST_TOKENS, MOST_SEEDS = 4096, 64
_LACKS = "trains nothing"


def _count(name_help: str, default: int, most: int) -> Option:
    read = whole(most, "more is not run")
    return Option(read, read, default=default, help=f"train: {name_help}; {default} by default", kind=int, lacks=_LACKS)


def _choice(what: str, allowed: tuple[str, ...]) -> Option:
    help = f"train: {what}: {', '.join(allowed)}; {allowed[0]} by default"
    return Option(one_of(*allowed), one_of(*allowed), default=allowed[0], help=help, lacks=_LACKS)


def _quantity(what: str, default: float) -> Option:
    return Option(_number, _number, default=default, help=f"train: {what}", kind=float, lacks=_LACKS)


def _number(value: Any, name: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; expected a finite number of 0 or more")
    return float(value)


def _scale(value: Any, name: str) -> float:
    if _number(value, name) == 0:
        raise ValueError(f"{name} is {value!r}; expected more than 0: a decoder of zeros learns nothing")
    return float(value)


def _name(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; expected the name of a residual")
    return residual_of(value).name


def reading(option: Option, allowed: tuple[str, ...]) -> dict[str, Callable[[Any, str], Any]]:
    """What an option is changed by so that it takes only these."""
    return {"read": one_of(*allowed), "stored": one_of(*allowed)}


RESIDUAL = Option(_name, _name, default="plain")
GAIN = Option(one_of(*GAINS), one_of(*GAINS), default=GAINS[0])
STEPS = _count("steps of a run", 50, DEEPEST)
SEEDS = _count(
    "how many seeds must all cross, counted from --seed; of model how many initialisations are tried, 1", 5, MOST_SEEDS
)
MAX_TOKENS = replace(
    _count("most tokens of a sequence; of model 4, of block 1", 64, MOST_TOKENS), lacks="has no tokens"
)
HEADS = _count("heads of attention", 1, 64)
NORM = _choice("where a norm stands", NORMS)
QK_NORM = Option(
    kept(bool), kept(bool), default=False, help="train: queries and keys are normalised", kind=bool, lacks=_LACKS
)
MLP = _choice("the MLP", MLPS)
INIT = _choice("initial weights", tuple(INITS))
INIT_SCALE = Option(
    _scale, _scale, default=1.0, help="train: a factor of the branches' initial matrices", kind=float, lacks=_LACKS
)
DATA_OPTION = _choice("what is learned", DATA)
OPTIMIZER = _choice("the optimiser", OPTIMIZERS)
SCHEDULE = _choice("the schedule of the rate", SCHEDULES)
WEIGHT_DECAY = _quantity("decay of every weight, times the rate, a step; 0 by default", 0.0)
CLIP = _quantity("the largest norm of a gradient; 0, which is none, by default", 0.0)
CLIP_ACTIVATIONS = _quantity("the largest size of an activation; 0, which is none, by default", 0.0)
