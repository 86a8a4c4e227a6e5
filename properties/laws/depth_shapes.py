"""Depth: on how many axes tokens lie, how many they are and how they lie in memory does not matter to a stack."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.reads import read_of
from properties.core.trial import Trial, wide
from properties.laws import about, calls
from properties.laws.branches import are_handed_the_axes_of_tokens
from properties.laws.calls import Place, Way, by_token, flooded
from properties.laws.depth import arrangements, quiet_stacks
from properties.laws.execution_strides import BESIDE_NAN, in_one_storage, scattered
from properties.laws.layouts import among_nan, branch_outputs_alone, parameters_alone, rows_of
from properties.laws.surroundings import attempted
from properties.strategies import TAME, Setting, noise, params_of, seeds

DISTINCT = 3
"""Different tokens of a stack: what is computed of them is bounded once, however many copies there are."""


@st.composite
def crowded_stacks(draw: DrawFn, setting: Setting) -> Case:
    """A stack of a few different tokens, and how many tokens are made of them."""
    case = draw(quiet_stacks(setting))
    channels = case.h.shape[-1]
    h = torch.tensor(noise(draw(seeds), min(DISTINCT, setting.max_tokens), channels)).to(setting.dtype)
    open_heads = params_of(setting, case.n, channels, gates=(1.0, 0.5), patterns=TAME, least_phi=2)
    return case.with_(
        h=h,
        head=tuple(draw(open_heads) for _ in case.head),
        count=min(draw(st.sampled_from(setting.flood[-1:])), setting.max_tokens),
    )


def with_views(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a stack with branches whose outputs are views."""
    h, params, branches = given
    return h, params, [partial(apart, branch) for branch in branches]


def apart(branch: BranchSpec, u: Tensor) -> Tensor:
    """What a branch returns, as every second entry of a wider tensor."""
    y = branch(u)
    return torch.stack([y, y - 1], -1)[..., 0]


def views_of_parameters() -> list[Way]:
    """The parameters of several layers, and of a head, as columns of wider ones, one after the other in one storage,
    and with a phi that lies transposed."""

    def changed(what: str, change: Callable[[Params], Params]) -> Way:
        return Way(what, lambda given: (given[0], tuple(map(change, given[1])), *given[2:]))

    return [
        changed("parameters that are views", scattered),
        changed("parameters in one storage", in_one_storage),
        changed(BESIDE_NAN, lambda one: map_tensors(one, among_nan)),
        changed("a transposed phi", lambda one: one._replace(phi=one.phi.t().contiguous().t())),
    ]


def reads_a_head_of_its_own_columns(trial: Trial, case: Case) -> None:
    """A head whose phi has its n columns alone, as models ship it, is the one that is packed as a layer is, of which
    these are read. Who refuses it is asked nothing."""
    call, n, depth = calls.stack(trial, case, case.h), case.n, len(case.params)
    (head,) = case.head
    own = head._replace(phi=head.phi[:, :n].contiguous(), bias=head.bias[:n].clone(), alpha=head.alpha[:1].clone())

    def run(target: Implementation, place: Place) -> Any:
        h, params, branches = map_tensors(call.given, place)
        (plain,) = call.on(target, (h, params, branches))
        cut: list[Tensor] = []
        attempted(lambda: cut.extend(call.on(target, (h, (*params[:depth], place(own)), branches))))
        return plain, *cut

    plain, *cut = trial.observe("stack", run)
    for one in cut:
        trial.near("a stack with a head of n columns", one, wide(plain), 2 * call.errors()[0])


@about.stack("depth.stacks-take-any-batch", "identity", crowded_stacks, blind=about.ALIKE, schedule=about.SELDOM)
def stacks_take_any_batch(trial: Trial, case: Case) -> None:
    """Tokens on two axes, on three or on none, in a view, with views of parameters or of branch outputs, among hundreds
    of others and none at all pass a stack as on one axis; and so with a head of its own columns alone.

    Tokens are independent, whatever their arrangement: [batch, length, C] is the ordinary case, and an expand or a sum
    over the second axis is right without a batch only.
    """
    are_handed_the_axes_of_tokens(trial, calls.stack(trial, case, case.h))
    plain = read_of(trial.dialect).plain and not trial.dialect.shared_projection  # others have columns of their own
    if case.head and plain:
        reads_a_head_of_its_own_columns(trial, case)
    ways = [by_token(what, arrange) for what, arrange in arrangements(trial.implementation)]
    ways.append(by_token(f"{case.count} tokens", partial(flooded, count=case.count)))
    if trial.implementation.strided:
        ways += views_of_parameters()
        ways.append(Way("tokens whose branches return views", with_views))
        ways += parameters_alone(1, case.params)
        own = case.with_(branches=tuple(rows_of(case.h) for _ in case.branches))
        calls.does_not_see(trial, calls.stack(trial, own, case.h), branch_outputs_alone(trial.implementation))
    calls.does_not_see(trial, calls.stack(trial, case, case.h), ways)
