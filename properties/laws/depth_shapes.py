"""Depth: on how many axes tokens lie, how many they are and how they lie in memory does not matter to a stack."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.trial import Trial, wide
from properties.laws import about
from properties.laws.depth import arrangements, quiet_error, quiet_stacks
from properties.laws.device import flooded
from properties.strategies import Setting, noise, seeds

DISTINCT = 3
"""Different tokens of a stack: what is computed of them is bounded once, however many copies there are."""


@st.composite
def crowded_stacks(draw: DrawFn, setting: Setting) -> Case:
    """A stack of a few different tokens, and how many tokens are made of them."""
    case = draw(quiet_stacks(setting))
    h = torch.tensor(noise(draw(seeds), min(DISTINCT, setting.max_tokens), case.h.shape[-1])).to(setting.dtype)
    return case.with_(h=h, count=min(draw(st.sampled_from(setting.flood[-1:])), setting.max_tokens))


def apart(branch: BranchSpec, u: Tensor) -> Tensor:
    """What a branch returns, as every second entry of a wider tensor."""
    y = branch(u)
    return torch.stack([y, y - 1], -1)[..., 0]


@about.stack(
    "depth.stacks-take-any-batch",
    "identity",
    crowded_stacks,
    blind=about.ALIKE,
    schedule=Schedule(cost=5, by_streams=False),
)
def stacks_take_any_batch(trial: Trial, case: Case) -> None:
    """Tokens on two axes, on three or on none, in a view or with views of branch outputs, among hundreds of others and
    none at all pass a stack as on one axis.

    Tokens are independent, whatever their arrangement: [batch, length, C] is the ordinary case, and an expand or a sum
    over the second axis is right without a batch only.
    """
    ways = [*arrangements(trial.implementation), (f"{case.count} tokens", partial(flooded, count=case.count))]

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, branches = place((*case.params, *case.head)), map_tensors(case.branches, place)
        h = place(case.h)
        found = [target.stack(given(h), params, branches) for given in (torch.clone, *(one for _, one in ways))]
        if trial.implementation.strided:
            found.append(target.stack(h, params, [partial(apart, branch) for branch in branches]))
        return tuple(found)

    plain, *others = trial.observe("stack", run)
    slack: Tensor = 2 * quiet_error(trial, case, case.h)
    trial.holds("the shape", plain.shape == case.h.shape, str(plain.shape), str(case.h.shape))
    ways += [("tokens whose branches return views", torch.clone)] if trial.implementation.strided else []
    for (what, given), got in zip(ways, others, strict=True):
        expected = given(wide(plain))
        trial.holds(f"the shape for {what}", got.shape == expected.shape, str(got.shape), str(expected.shape))
        trial.near(f"a stack of {what}", got, expected, given(slack))
