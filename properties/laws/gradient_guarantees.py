"""Gradient: what a mix guarantees leaves directions in which h_res cannot move, and no gradient there."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.family import DIM, guarantees_of, mix_of
from properties.core.premises import deterministic, differentiable, several_streams, where
from properties.core.trial import Trial, magnitude, wide
from properties.laws import about, errors
from properties.laws.gradient import projection_pulls, pulled
from properties.strategies import TAME

ARITHMETIC = 2.0**-50
"""What float64 may do to a sum of a few products, relative to their magnitudes and for each of them."""


def formulaless(dialect: Dialect) -> str | None:
    """There is no formula of h_res whose gradient could be compared with."""
    return "h_res has a formula, whose gradient says more" if mix_of(dialect).known else None


def still_directions(dialect: Dialect) -> str | None:
    """There are directions in which h_res cannot move, and a bound of the gradient that is to be 0."""
    held = guarantees_of(dialect)
    if not mix_of(dialect).known:
        return "h_res has no formula, so that nothing bounds the error of a gradient"
    if mix_of(dialect).roundings is not None:
        return "the bound of the gradient is declared, by a formula that may cancel where another does not"
    moves = not held.constant and (held.sums - {held.last} or held.orthogonal)
    return None if moves else "h_res is not claimed to keep sums, or to be orthogonal"


@about.project(
    "gradient.what-is-promised-does-not-move",
    "identity",
    lambda s: projection_pulls(s, least_n=2),
    where(still_directions),
    differentiable,
    several_streams,
    blind=("h-res-detached",),
)
def what_is_promised_does_not_move(trial: Trial, case: Case) -> None:
    """A cotangent that sees only what h_res promises has gradient 0: one number along a line that sums to 1, or, for an
    orthogonal M, S M with a symmetric S.

    d (M 1) = 0, and dM = K M with a skew K, of which <S M, K M> = tr(M^T S K M) = tr(S K) = 0. The rounded cotangent is
    pulled back apart by its bound.
    """
    held, bar = guarantees_of(trial.dialect), wide(case.cotangent)
    for axis in sorted(held.sums - {held.last}):
        along = bar.select(DIM[axis], 0).unsqueeze(DIM[axis]).expand(bar.shape)
        _nothing(trial, case, along, torch.zeros_like(bar))
    if held.orthogonal:
        got = trial.project(case.logits)
        symmetric = bar + bar.mT
        met = symmetric.abs() @ errors.held(trial, got, case.logits).error
        exact = symmetric @ wide(got)
        _nothing(trial, case, exact, met + got.shape[-1] * ARITHMETIC * (symmetric.abs() @ magnitude(got)))


def _nothing(trial: Trial, case: Case, cotangent: Tensor, error: Tensor) -> None:
    """The gradient for that cotangent, known within an error, is 0."""
    bar = cotangent.to(case.cotangent.dtype)
    got = wide(pulled(trial, case.logits, bar))
    off = error + (wide(bar) - cotangent).abs()
    bound = bounds.projection_gradient(Approx.exact(case.logits), Approx(wide(bar), off), trial.dialect, trial.rounding)
    trial.within("the gradient", got, torch.zeros_like(got), bound.error)


@about.project(
    "gradient.pullback-is-homogeneous",
    "identity",
    lambda s: projection_pulls(s, patterns=TAME),
    where(formulaless),
    differentiable,
    deterministic,
)
def pullback_is_homogeneous(trial: Trial, case: Case) -> None:
    """The gradient for four times a cotangent is four times the gradient: nothing is clipped or normalised there.

    A vector-Jacobian product is linear in the cotangent, and a power of two rounds nothing; only what underflows may
    differ. Without a formula no more is known of a gradient: what cancels on the way is no part of the result.
    """
    one = wide(pulled(trial, case.logits, case.cotangent))
    four = pulled(trial, case.logits, 4 * case.cotangent)
    lost = case.logits[0].numel() ** 2 * 2**10 * trial.rounding.tiny
    trial.near("the gradient for four times the cotangent", four, 4 * one, torch.full_like(one, lost))
