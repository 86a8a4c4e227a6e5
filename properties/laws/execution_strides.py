"""Execution: how tensors lie in memory does not matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import Case, map_tensors
from properties.core.premises import strided, where
from properties.core.trial import Trial
from properties.laws import about, calls
from properties.laws.block import SIZES
from properties.laws.calls import Call, Way, by_token
from properties.laws.layouts import (
    alone,
    among_nan,
    branch_outputs_alone,
    copied_streams,
    every_sequence,
    everywhere,
    rows_of,
    swapped,
    wider,
)
from properties.laws.mixing import matrix_cases
from properties.laws.premises import depends_on_logits
from properties.strategies import (
    MODERATE,
    block_cases,
    coefficient_cases,
    projection_cases,
)

BESIDE_NAN = "parameters that are parts of something that is NaN beside them"


def in_turn(values: Tensor, most: int) -> Tensor:
    """[tokens, 2, ...] with the given values first, whose token axes lie in memory in the other order.

    No single stride leads from token to token. Where a call takes `most` tokens, it is given no more.
    """
    few = values[: max(1, most // 2)]
    return torch.stack([few, few - 1][:most]).transpose(0, 1)


def turned(most: int, arrange: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None) -> Way:
    """Token axes in the other order, of which the first column is held to the tokens that it is made of."""

    def all_turned(given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(in_turn(one, most) if isinstance(one, Tensor) else one for one in given)

    def few(one: Tensor) -> Tensor:
        return one[: max(1, most // 2)]

    return Way("token axes in the other order", arrange or all_turned, few, lambda one: one[:, 0])


def sliced(one: Tensor) -> Tensor:
    """The first entries of a tensor that is twice as wide."""
    return torch.cat([one, one + 1], -1)[..., : one.shape[-1]]


def spaced(one: Tensor) -> Tensor:
    """Every second token of twice as many."""
    return torch.stack([one, one - 1], 1)[:, 0]


def does_not_see_copies(trial: Trial, call: Call) -> None:
    """A state whose streams are one expanded stream gives what its copy, which the call has, gives."""
    way = Way("streams that are one, expanded", lambda given: (copied_streams(given[0]), *given[1:]))
    calls.does_not_see(trial, call, [way])


def even(params: Params) -> Params:
    """Parameters whose gates are all one, and their biases and the weights of the norm likewise."""
    return Params(
        params.phi,
        *(None if one is None else one[:1].expand(one.shape).contiguous() for one in params[1:]),  # pyright: ignore[reportArgumentType]  # in the order of its fields
    )


def expanded(params: Params) -> Params:
    """The same `even` parameters without a copy: an entry of a longer table each, expanded."""

    def out_of_a_table(one: Tensor | None) -> Tensor | None:
        if one is None:
            return None
        table = one[:1] + torch.arange(-1, len(one) + 1).to(one)
        return table[1:2].expand(one.shape)

    return Params(params.phi, *map(out_of_a_table, params[1:]))  # pyright: ignore[reportArgumentType]  # as above


def scattered(params: Params) -> Params:
    """The same parameters as views: columns of a wider phi, and every second entry of wider vectors."""
    phi = torch.cat([params.phi, params.phi + 1], 1)[:, : params.phi.shape[1]]
    bias = torch.stack([params.bias, params.bias - 1], 1)[:, 0]
    alpha = torch.stack([params.alpha, params.alpha - 1], 1)[:, 0]
    weight = params.norm_weight
    return Params(phi, bias, alpha, None if weight is None else torch.stack([weight, weight - 1], 1)[:, 0])


def in_one_storage(params: Params) -> Params:
    """The same parameters one after the other in one storage, as optimisers and sharded models keep them: each is in
    the order of its entries, and none but by chance begins where a load of several entries may."""
    parts: list[Tensor] = [one for one in params if one is not None]  # pyright: ignore[reportUnnecessaryComparison]
    storage = torch.cat([parts[0].new_ones(1), *(one.flatten() for one in parts)])
    left = iter(storage[1:].split([one.numel() for one in parts]))
    return Params(*(None if one is None else next(left).view(one.shape) for one in params))  # pyright: ignore[reportArgumentType, reportUnnecessaryComparison]


@about.project(
    "execution.projection-does-not-see-strides",
    "identity",
    lambda s: projection_cases(s, patterns=MODERATE, most=4),
    where(depends_on_logits),
    strided,
    blind=about.SYMMETRIC,
)
def projection_does_not_see_strides(trial: Trial, case: Case) -> None:
    """Transposed, sliced and expanded views of logits are projected like contiguous copies.

    A tensor is its values; a kernel that reads its storage as if it were contiguous reads others.
    """
    ways = (
        by_token("a transposed view", swapped),
        by_token("a slice of a wider tensor", sliced),
        by_token("every second matrix", spaced),
        by_token("a part of something that is NaN beside it", among_nan),
        by_token("an expanded view", everywhere),
        by_token("one batch of matrices, expanded over several", every_sequence),
        turned(trial.implementation.max_tokens),
    )
    calls.does_not_see(trial, calls.projection(trial, case.logits), ways)


@about.block(
    "execution.blocks-do-not-see-strides",
    "identity",
    lambda s: block_cases(s, most=3, scales=SIZES, kinds=calls.FIXED),
    strided,
    blind=about.ALIKE,
)
def blocks_do_not_see_strides(trial: Trial, case: Case) -> None:
    """Sliced and transposed views of a state, of the parameters and of a branch's output pass a block like contiguous
    copies.

    States come as slices of batches and of wider tensors (aiter #5292, #4432), parameters as slices of packed weights,
    and what a branch returns as a transposed view, or as [S, B, C] beside a state [B, S, n, C]. Each lies otherwise by
    itself, too: a kernel that looks at the strides of one argument takes them for those of all.
    """

    def apart(given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, params, branch = given
        return x, params, lambda u: wider(branch(u))  # pyright: ignore[reportUnknownLambdaType]

    ways = (
        by_token("a transposed view", swapped),
        by_token("a slice of wider channels", sliced),
        by_token("every second token", spaced),
        by_token("a part of something that is NaN beside it", among_nan),
        by_token("one token, expanded", everywhere),
        by_token("one sequence, expanded over a batch", every_sequence),
        by_token("tokens innermost", lambda one: one.permute(1, 2, 0).contiguous().permute(2, 0, 1)),
        turned(trial.implementation.max_tokens),
        Way("parameters that are views", lambda given: (given[0], scattered(given[1]), given[2])),
        Way("parameters in one storage", lambda given: (given[0], in_one_storage(given[1]), given[2])),
        Way(BESIDE_NAN, lambda given: (given[0], map_tensors(given[1], among_nan), given[2])),
        Way("a branch output that is a view", apart),
    )
    call = calls.block(trial, case.x, case.params, case.branch)
    calls.does_not_see(trial, call, [*ways, *alone(call, trial.implementation)])
    call = calls.block(trial, case.x, case.params, rows_of(case.x))
    calls.does_not_see(trial, call, branch_outputs_alone(trial.implementation))
    same = copied_streams(case.x).contiguous()
    does_not_see_copies(trial, calls.block(trial, same, case.params, case.branch))
    one_value = Way("parameters of one value, expanded", lambda given: (given[0], expanded(given[1]), given[2]))
    calls.does_not_see(trial, calls.block(trial, case.x, even(case.params), case.branch), [one_value])


# Not blind to one iteration, nor to a transpose: an entry is bounded relative to what is declared, which another matrix
# may exceed, and libraries multiply by a transposed phi in another order on some machines.
@about.mappings(
    "execution.mappings-do-not-see-strides",
    "identity",
    lambda s: coefficient_cases(s, most=3, scales=SIZES),
    strided,
    blind=("post-scale-one",),
)
def mappings_do_not_see_strides(trial: Trial, case: Case) -> None:
    """Sliced and transposed views of state and parameters give the mappings of contiguous copies.

    phi is often a slice of a larger weight, or the transpose of a stored one, and biases and gates are slices of packed
    vectors, or one value that is expanded. Each lies otherwise by itself, too.
    """

    def transposed(given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, params = given
        return x, params._replace(phi=params.phi.t().contiguous().t())

    ways = (
        by_token("a transposed view", swapped),
        by_token("every second token", spaced),
        by_token("a part of something that is NaN beside it", among_nan),
        by_token("one token, expanded", everywhere),
        by_token("one sequence, expanded over a batch", every_sequence),
        Way("a transposed phi", transposed),
        Way("parameters that are views", lambda given: (given[0], scattered(given[1]))),
        Way("parameters in one storage", lambda given: (given[0], in_one_storage(given[1]))),
        Way(BESIDE_NAN, lambda given: (given[0], map_tensors(given[1], among_nan))),
        turned(trial.implementation.max_tokens),
    )
    call = calls.mappings(trial, case.x, case.params)
    calls.does_not_see(trial, call, [*ways, *alone(call, trial.implementation)])
    same = copied_streams(case.x).contiguous()
    does_not_see_copies(trial, calls.mappings(trial, same, case.params))
    one_value = Way("parameters of one value, expanded", lambda given: (given[0], expanded(given[1])))
    calls.does_not_see(trial, calls.mappings(trial, case.x, even(case.params)), [one_value])


# Not blind to a transpose: the bound is of the operator that is declared, which another one may exceed.
@about.post("execution.post-does-not-see-strides", "identity", matrix_cases, strided, blind=("one-iteration",))
def post_does_not_see_strides(trial: Trial, case: Case) -> None:
    """Transposed and sliced views of h_res, h_post, h_pre, y and x are combined like contiguous copies.

    The coefficients of one kernel are views into its output (aiter #5292 ignored their strides). Each lies otherwise by
    itself, too.
    """
    n, most = case.x.shape[-2], trial.implementation.max_tokens

    def packed(given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, y, h_post, h_res = given
        together = torch.cat([h_post, h_post + 1, h_res.flatten(-2)], -1)
        return x, y, together[..., :n], together[..., 2 * n :].unflatten(-1, (n, n))

    def with_one_h_res(given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, y, h_post = (in_turn(one, most) for one in given[:3])
        return x, y, h_post, given[3][: x.shape[0]].unsqueeze(1).expand(-1, x.shape[1], -1, -1)

    posts = (
        Way("a transposed h_res", lambda given: (*given[:3], swapped(given[3]))),
        Way("slices of one packed tensor", packed),
        Way("views of x and y", lambda given: (swapped(given[0]), wider(given[1]), *given[2:])),
        turned(most, with_one_h_res),
        by_token("a part of something that is NaN beside it", among_nan),
        by_token("one token, expanded", everywhere),
        by_token("one sequence, expanded over a batch", every_sequence),
    )
    pres = (
        Way("slices of one packed tensor", lambda given: (swapped(given[0]), sliced(given[1]))),
        turned(most),
        by_token("a part of something that is NaN beside it", among_nan),
    )
    for call in calls.mixtures(trial, case):
        ways = posts if call.method == "post" else pres
        calls.does_not_see(trial, call, [*ways, *alone(call, trial.implementation)])
    for call in calls.mixtures(trial, case.with_(x=copied_streams(case.x).contiguous())):
        does_not_see_copies(trial, call)
