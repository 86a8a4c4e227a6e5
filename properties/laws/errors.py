"""What rounding may do to the calls that a law makes: `properties.bounds` for the dialect and rounding of a trial.

States are [tokens, n, C]; what a call is given is exact, unless it comes as an `Approx`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import logits_shape, streams_of_logits
from properties import bounds
from properties.bounds import INF, Approx, Pullback
from properties.bounds.block import Coefficients
from properties.core.case import BranchSpec, Case
from properties.core.reads import as_pre_takes
from properties.core.trial import Trial
from properties.laws.premises import mixes


def projection(trial: Trial, logits: Tensor) -> bounds.Projection:
    """Of h_res of logits [tokens, n, n] ([tokens, n!] for the permutation mixture)."""
    return bounds.projection(Approx.exact(logits), trial.dialect, trial.rounding)


def held(trial: Trial, got: Tensor, logits: Tensor) -> bounds.Projection:
    """Of an emitted h_res [tokens, n, n] that is held to what its mix guarantees, whether or not there is a formula."""
    return bounds.held(got, Approx.exact(logits), trial.dialect, trial.rounding)


def projected(trial: Trial, logits: Tensor) -> Tensor:
    """The error of h_res of logits on any number of axes."""
    kept = len(logits_shape(streams_of_logits(logits.shape, trial.dialect), trial.dialect))
    error = projection(trial, logits.reshape(math.prod(logits.shape[:-kept]), *logits.shape[-kept:])).error
    return error.reshape(*logits.shape[:-kept], *error.shape[-2:])


def projection_gradient(trial: Trial, logits: Tensor, cotangent: Tensor | Approx) -> Approx:
    """Of d <cotangent, h_res> / d logits."""
    bar = cotangent if isinstance(cotangent, Approx) else Approx.exact(cotangent)
    return bounds.projection_gradient(Approx.exact(logits), bar, trial.dialect, trial.rounding)


def mappings(trial: Trial, x: Tensor | Approx, params: Params) -> Coefficients:
    """Of h_pre, h_post and h_res."""
    state = x if isinstance(x, Approx) else Approx.exact(x)
    return bounds.block.coefficients(state, params, trial.dialect, trial.rounding)


def h_pre(case: Case, dialect: Dialect) -> Tensor:
    """h_post of a case, in the shape that h_pre has in the dialect."""
    return as_pre_takes(case.h_post, case.x, dialect)


def pre(trial: Trial, x: Tensor, h_pre: Tensor) -> Approx:
    """Of h_pre x."""
    return bounds.block.read(x, Approx.exact(h_pre), trial.rounding)


def post(trial: Trial, x: Tensor, h_res: Tensor, y: Tensor | None = None, h_post: Tensor | None = None) -> Approx:
    """Of A x + h_post^T y, or of A x."""
    weight = None if h_post is None else Approx.exact(h_post)
    return bounds.block.combined(x, operator(trial, h_res), trial.rounding, y, weight)


def operator(trial: Trial, h_res: Tensor) -> Approx:
    """The operator A that is applied when h_res is given."""
    return bounds.block.operator_of(Approx.exact(h_res), trial.dialect)


def step(
    trial: Trial, x: Tensor | Approx, params: Params, y: Tensor, before: Approx | None = None
) -> bounds.block.Step:
    """Of what the branch of a block reads, and of the state after it, for the y that was returned; `before` is the
    h_pre of the block before it, if there is one."""
    state = x if isinstance(x, Approx) else Approx.exact(x)
    return bounds.block.step(state, params, y, trial.dialect, trial.rounding, before)


def block(trial: Trial, x: Tensor, params: Params, y: Tensor) -> Tensor:
    """The error of a block whose branch gave y."""
    return step(trial, x, params, y).after.error


def stack(trial: Trial, h: Tensor, n: int, params: tuple[Params, ...], head: tuple[Params, ...], *y: Tensor) -> Tensor:
    """The error of a stack whose branches gave these outputs."""
    start = bounds.stack.begun(h, n, trial.dialect, trial.rounding)
    state, last = bounds.stack.after(start, params, y, trial.dialect, trial.rounding)
    return collapse(trial, state, *head, last=last).error


def collapse(trial: Trial, x: Tensor | Approx, head: Params | None = None, *, last: Approx | None = None) -> Approx:
    """Of the one stream of x; `last` is the h_pre of the last block, where there are blocks."""
    state = x if isinstance(x, Approx) else Approx.exact(x)
    return bounds.stack.collapsed(state, trial.dialect, trial.rounding, head, last)


def mappings_gradient(trial: Trial, x: Tensor, params: Params, cotangents: Sequence[Tensor]) -> Pullback:
    """Of the gradients of the mappings by x and the parameters, for cotangents of h_pre, h_post and h_res."""
    pre, post, res = (Approx.exact(bar) for bar in cotangents)
    found = bounds.coefficients_gradient(Approx.exact(x), params, pre, post, res, trial.dialect, trial.rounding)
    return found._replace(x=bounds.stored(found.x, trial.rounding))


def block_gradient(trial: Trial, x: Tensor, params: Params, branch: BranchSpec, cotangent: Tensor) -> Pullback:
    """Of the gradients of a block by x and the parameters; the branch is one whose derivative is known."""
    state, g = Approx.exact(x), Approx.exact(cotangent)
    return bounds.pullback.block(state, params, branch, g, trial.dialect, trial.rounding)


def by_parameters(found: Pullback, x: Tensor, params: Params) -> list[Tensor]:
    """The errors of the gradients by x and by every parameter that there is, in its shape."""
    inputs = (x, *(part for part in params if part is not None))
    return [part.error.reshape(one.shape) for part, one in zip(found, inputs, strict=False)]


def mixture_gradient(trial: Trial, case: Case, method: str, cotangent: Tensor) -> dict[str, Approx]:
    """The gradient of post or of pre by each factor, in its shape, for a cotangent [tokens, n, C] or [tokens, C].

    `case` has x [tokens, n, C], y [tokens, C], h_post [tokens, n], which serves as h_pre too, and h_res [tokens, n, n].
    """
    if method == "pre":
        return bounds.pullback.pre(case.x, h_pre(case, trial.dialect), cotangent, trial.rounding)
    given = (case.x, case.y, case.h_post, case.h_res)
    found = bounds.pullback.post(*given, cotangent, trial.dialect, trial.rounding)
    if mixes(trial.dialect):  # the identity need not be read
        found["h_res"] = Approx(found["h_res"].value, torch.full_like(found["h_res"].error, INF))
    return found
