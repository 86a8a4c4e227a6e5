"""Which laws can be judged for many cases in one pass, and why the others cannot.

A law can where all that it observes, expects and bounds of a token depends on that token alone, and on values of the
case that many tokens may share: the parameters of a block, its branch. Its cases are then joined along the tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_ref.packing import streams_of_logits
from properties.core.case import Case
from properties.core.law import Law
from properties.core.reads import as_pre_takes
from properties.laws.block import ANY_SIZE
from properties.laws.mixing import STATES, possible
from properties.strategies import Setting
from properties.strategies.in_bulk import bulk_logits, bulk_noise, bulk_states

More = Callable[[random.Random, Setting, Case, int], dict[str, Tensor]]
"""(dice, setting, a case that the law drew, count) -> as many further tokens of every value that has tokens, of the
shapes of that case."""


@dataclass(frozen=True)
class Together:
    """How cases of a law are joined.

    Attributes:
        tokens: the values whose first axis has the tokens.
        shared: the values that all tokens of a pass have in common; the others no law reads.
        more: further tokens.
    """

    tokens: tuple[str, ...]
    shared: tuple[str, ...]
    more: More


def _logits(dice: random.Random, setting: Setting, case: Case, count: int) -> dict[str, Tensor]:
    n = streams_of_logits(case.logits.shape, setting.dialect)
    return {"logits": bulk_logits(dice, setting, n, count)}


def _states(*scales: float) -> More:
    def more(dice: random.Random, setting: Setting, case: Case, count: int) -> dict[str, Tensor]:
        n, channels = case.x.shape[-2:]
        return {"x": bulk_states(dice, setting, n, channels, count, scales)}

    return more


def _read(dice: random.Random, setting: Setting, case: Case, count: int) -> dict[str, Tensor]:
    n, channels = case.x.shape[-2:]
    x = bulk_states(dice, setting, n, channels, count)
    gates = bulk_noise(dice, count, n, dtype=setting.parameter_dtype)
    gates[::2] = gates[::2].abs()
    return {"x": x, "h_pre": as_pre_takes(gates, x, setting.dialect)}


def _mixed(dice: random.Random, setting: Setting, case: Case, count: int) -> dict[str, Tensor]:
    n, channels = case.x.shape[-2:]
    dtype = setting.parameter_dtype
    h_res = bulk_noise(dice, count, n, n, dtype=dtype)
    for k in range(0, count, 2):
        h_res[k] = torch.eye(n, dtype=dtype).roll(dice.randrange(n), -1)
    return {
        "x": bulk_states(dice, setting, n, channels, count, STATES),
        "y": bulk_noise(dice, count, channels, dtype=setting.dtype, sizes=(1.0, 0.0, 4.0)),
        "h_post": bulk_noise(dice, count, n, dtype=dtype, sizes=(1.0, 0.0, 2.0)),
        "h_res": possible(h_res, setting.dialect).to(dtype),
    }


_PROJECTED = Together(("logits",), (), _logits)

TOGETHER: dict[str, Together] = {
    "manifold.entries-between-zero-and-one": _PROJECTED,
    "manifold.last-axis-sums": _PROJECTED,
    "manifold.other-axis-sums": _PROJECTED,
    "manifold.agrees-with-oracle": _PROJECTED,
    "mixing.post-is-the-declared-combination": Together(("x", "y", "h_post", "h_res"), (), _mixed),
    "mixing.pre-is-the-weighted-sum": Together(("x", "h_pre"), (), _read),
    "coefficients.agrees-with-oracle": Together(("x",), ("params",), _states()),
    "block.agrees-with-oracle": Together(("x",), ("params", "branch"), _states(*ANY_SIZE)),
}
"""The laws that can, by id."""

ORACLES = tuple(
    id for id in TOGETHER if id.rpartition(".")[2] not in ("entries-between-zero-and-one", "last-axis-sums")
)
"""Those of them that compare an output with the truth."""

_OF_FAMILIES = {
    "execution": "it is about how a call is made, and what is called before and after: many cases are another call",
    "device": "it is about how a call is made on a device: many cases are another call",
    "sizes": "it goes through numbers of tokens, channels and layers, and a pass over many cases has one of each",
    "gradient": "gradients by parameters add up the tokens of a call, and the bounds of the others depend on how many "
    "tokens there are",
    "precision": "its cases are made to show one stage each, with parameters of their own, which a pass would share",
    "depth": "a case has the parameters and the branches of several blocks, and nobody has joined its tokens yet",
}


def alone(law: Law) -> str | None:
    """Why the cases of a law are judged one by one; None where many can be judged in one pass."""
    if law.id in TOGETHER:
        return None
    if law.sweep is not None:
        return _OF_FAMILIES["sizes"]
    if reason := _OF_FAMILIES.get(law.family):
        return reason
    if law.tunes is not None:
        return "every case has a dialect of its own, and a pass has one"
    return "its cases are pairs, or have values that belong to the whole case; nobody has joined them yet"
