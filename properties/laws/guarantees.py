"""Manifold and mixing: what a mix guarantees of its matrices, whatever its formula is.

Each law is asked of every mix that claims the guarantee, and where no law about its formula says the same already. With
M the exact matrix, got = M + E and |E| at most the error that rounding explains, entry by entry, what holds of M holds
of `got` within what E makes of it; the sums in which that is read are taken in float64, n roundings each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect
from properties.bounds import Projection
from properties.core.case import Case
from properties.core.family import DIM, Guarantees, guarantees_of
from properties.core.implementation import parameter_dtype
from properties.core.premises import Applies, several_streams, where
from properties.core.rounding import known
from properties.core.trial import Trial, wide
from properties.laws import about, errors
from properties.laws.mixing import carried, mixing_cases, still
from properties.strategies import MODERATE, Setting, logits_of, permutations_of, projection_cases, streams


def claims(what: str, held: Callable[[Guarantees], object]) -> Applies:
    """The mix guarantees it; of the identity one law says everything."""

    def check(dialect: Dialect) -> str | None:
        claimed = guarantees_of(dialect)
        return None if held(claimed) and not claimed.identity else f"h_res is not claimed to {what}"

    return check


def emitted(trial: Trial, logits: Tensor) -> tuple[Tensor, Projection]:
    """h_res in float64, and what rounding explains of it; an entry that is no number is one that no claim holds of."""
    got = trial.project(logits)
    return wide(got), errors.held(trial, got, logits)


def finite(got: Tensor) -> Tensor:
    """The same with 0 for what is no number: a bound that is read off an output must not become infinite by it."""
    return got.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def unsaid(claimed: Guarantees) -> frozenset[str]:
    """The axes of exact sums that no law about the last division speaks of."""
    return claimed.sums - {claimed.last}


def below(claimed: Guarantees) -> frozenset[str]:
    """The axes along which absolute sums are at most 1, and that follows from no other guarantee."""
    return claimed.capped - {claimed.last} - (claimed.sums if claimed.nonnegative else frozenset())


def evaluated(matrix: Tensor, axis: int) -> Tensor:
    """What float64 may do to a sum over lines."""
    return matrix.shape[axis] * 2.0**-52 * finite(matrix).abs().sum(axis)


@about.project(
    "manifold.no-entry-is-negative",
    "invariant",
    projection_cases,
    where(claims("be non-negative", lambda held: held.nonnegative and not held.last)),
)
def no_entry_is_negative(trial: Trial, case: Case) -> None:
    """No entry of h_res is below 0, where the mix guarantees it.

    An entry errs by what rounding explains of it.
    """
    got, bound = emitted(trial, case.logits)
    trial.at_most("an entry of h_res is negative", -got, torch.zeros_like(got), bound.error)


@about.project(
    "manifold.claimed-sums-are-one",
    "invariant",
    projection_cases,
    where(claims("have exact sums besides those of a last division", unsaid)),
)
def claimed_sums_are_one(trial: Trial, case: Case) -> None:
    """The lines of h_res sum to 1 along every axis of which the mix guarantees it.

    The errors of the entries of a line add up at most.
    """
    got, bound = emitted(trial, case.logits)
    for name in sorted(unsaid(guarantees_of(trial.dialect))):
        sums = got.sum(DIM[name])
        slack = bound.error.sum(DIM[name]) + evaluated(got, DIM[name])
        trial.within(f"a sum of h_res over a {name}", sums, torch.ones_like(sums), slack)


@about.project(
    "manifold.claimed-sums-stay-below-one",
    "invariant",
    projection_cases,
    where(claims("have absolute sums of at most 1 that follow from nothing else", below)),
)
def claimed_sums_stay_below_one(trial: Trial, case: Case) -> None:
    """The absolute entries of a line of h_res sum to at most 1 along every axis of which the mix guarantees it.

    The errors of the entries of a line add up at most.
    """
    got, bound = emitted(trial, case.logits)
    for name in sorted(below(guarantees_of(trial.dialect))):
        sums = got.abs().sum(DIM[name])
        slack = bound.error.sum(DIM[name]) + evaluated(got, DIM[name])
        trial.at_most(f"an absolute sum of h_res over a {name}", sums, torch.ones_like(sums), slack)


@about.project(
    "manifold.orthogonal-matrices-preserve-norms",
    "invariant",
    projection_cases,
    where(claims("be orthogonal", lambda held: held.orthogonal)),
)
def orthogonal_matrices_preserve_norms(trial: Trial, case: Case) -> None:
    """h_res h_res^T = I, where the mix guarantees it: no vector becomes longer or shorter.

    (M + E)(M + E)^T - I = M E^T + E M^T + E E^T, entry by entry at most |M| |E|^T + |E| |M|^T + |E| |E|^T.
    """
    got, bound = emitted(trial, case.logits)
    size = finite(got).abs() + bound.error  # at least |M|
    slack = size @ bound.error.mT + bound.error @ size.mT + got.shape[-1] * 2.0**-52 * size @ size.mT
    eye = torch.eye(got.shape[-1], dtype=got.dtype).expand_as(got)
    trial.within("h_res times its transpose", got @ got.mT, eye, known(slack))


def norms(got: Tensor) -> Tensor:
    """The spectral norm of each matrix; NaN for one that is not finite."""
    finite = torch.isfinite(got).all(-1).all(-1)
    found = torch.linalg.matrix_norm(torch.where(finite[..., None, None], got, 0.0), 2)
    return torch.where(finite, found, torch.nan)


def _only_nonexpansive(held: Guarantees) -> bool:
    return held.nonexpansive and not held.orthogonal and not (held.nonnegative and held.last)


@about.project(
    "manifold.matrices-do-not-expand",
    "invariant",
    projection_cases,
    where(claims("be non-expansive, but by being orthogonal", _only_nonexpansive)),
)
def matrices_do_not_expand(trial: Trial, case: Case) -> None:
    """No vector becomes longer by h_res, where the mix guarantees it: its spectral norm is at most 1.

    |M + E|_2 <= |M|_2 + |E|_F; a spectral norm in float64 errs by n^2 units.
    """
    got, bound = emitted(trial, case.logits)
    slack = bound.error.flatten(-2).norm(dim=-1) + got.shape[-1] ** 2 * 2.0**-50
    trial.at_most("the spectral norm", norms(got), torch.ones(len(got), dtype=got.dtype), slack)


@st.composite
def two_projections(draw: DrawFn, setting: Setting) -> Case:
    """Two batches of logits of one shape."""
    n = draw(streams(setting))
    first = draw(logits_of(setting, n, most=3))
    return Case(logits=first, other=draw(logits_of(setting, n, least=len(first), most=len(first))))


def _constant(dialect: Dialect) -> str | None:
    return None if guarantees_of(dialect).constant else "h_res depends on the logits"


@about.project("manifold.constant-matrices-ignore-their-logits", "invariant", two_projections, where(_constant))
def constant_matrices_ignore_their_logits(trial: Trial, case: Case) -> None:
    """h_res is the same for all logits, where the mix guarantees it, and where it is the identity it is I, exactly.

    Nothing is computed from the logits: 1 and 0 are exact, and two matrices differ by the errors of both at most.
    """
    (got, bound), (other, beside) = emitted(trial, case.logits), emitted(trial, case.other)
    if guarantees_of(trial.dialect).identity:
        eye = torch.eye(got.shape[-1], dtype=got.dtype).expand_as(got)
        trial.within("h_res", got, eye, torch.zeros_like(got))
    trial.near("h_res of other logits", other, got, bound.error + beside.error)


@st.composite
def renamed_cases(draw: DrawFn, setting: Setting) -> Case:
    """Logits, and an order of the streams."""
    case = draw(projection_cases(setting, least_n=2, most=3))
    return case.with_(order=draw(permutations_of(case.logits.shape[-1])))


def _conjugate(held: Guarantees) -> bool:
    return held.conjugate and not held.equivariant and not held.constant


@about.project(
    "manifold.streams-have-no-names",
    "identity",
    renamed_cases,
    where(claims("follow its streams when they are renamed, but by following lines", _conjugate)),
    several_streams,
)
def streams_have_no_names(trial: Trial, case: Case) -> None:
    """h_res of the logits P Z P^T is P h_res P^T, where the mix guarantees it: no stream is special.

    Both come of the same exact matrix, and each errs by what rounding explains.
    """
    order = list(case.order)
    (plain, bound), (moved, beside) = (
        emitted(trial, z) for z in (case.logits, case.logits[..., order, :][..., order].contiguous())
    )
    expected = plain[..., order, :][..., order]
    slack = bound.error[..., order, :][..., order] + beside.error
    trial.near("h_res of renamed streams", moved, expected, slack)


@about.mixing(
    "mixing.claimed-sums-are-conserved",
    "identity",
    lambda s: mixing_cases(s, least_n=2),
    where(claims("have exact sums besides those of a last division", unsaid)),
    several_streams,
)
def claimed_sums_are_conserved(trial: Trial, case: Case) -> None:
    """Identical streams stay what they are where rows of A sum to 1; the sum over streams stays where columns do.

    A 1 = 1 and 1^T A = 1^T, A being h_res or its transpose; the errors of a line add up, times the state.
    """
    dialect, axes = trial.dialect, unsaid(guarantees_of(trial.dialect))
    got = trial.project(case.logits)
    error = errors.held(trial, got, case.logits).error
    h_res = got.to(parameter_dtype(trial.dtype))
    for name in sorted(axes):
        rows = (name == "row") != dialect.transposed  # of what is applied
        x = case.x[..., :1, :].expand(case.x.shape).contiguous() if rows else case.x
        y, h_post = still(x, trial)
        out, lost = wide(trial.post(x, y, h_post, h_res)), carried(error.sum(DIM[name]), x)
        rounding = errors.post(trial, x, finite(h_res)).error
        if rows:
            trial.within("a stream of identical ones", out, wide(x), rounding + lost)
        else:
            slack = rounding.sum(-2) + lost.sum(-2) + evaluated(out, -2)
            trial.within("the sum over streams", out.sum(-2), wide(x).sum(-2), slack + evaluated(wide(x), -2))


@st.composite
def deep_cases(draw: DrawFn, setting: Setting) -> Case:
    """Logits, repeated to a depth of up to 128 layers."""
    n = draw(streams(setting, 2))
    logits = draw(logits_of(setting, n, least=1, most=4, patterns=MODERATE))
    return Case(logits=logits, depth=draw(st.sampled_from((1, 2, 3, 8, 32, 128))))


@about.project(
    "mixing.composites-do-not-expand",
    "invariant",
    deep_cases,
    where(claims("be non-expansive", lambda held: held.nonexpansive and not (held.nonnegative and held.last))),
)
def composites_do_not_expand(trial: Trial, case: Case) -> None:
    """At every depth the composite of matrices that do not expand does not expand; of orthogonal ones it keeps norms.

    |A B|_2 <= |A|_2 |B|_2, each at most 1 + |E|_F, and the least singular value of a product of orthogonal matrices is
    at least the product of 1 - |E|_F: nothing explodes or vanishes at any depth.
    """
    got, bound = emitted(trial, case.logits)
    n, each = got.shape[-1], bound.error.flatten(-2).norm(dim=-1) + got.shape[-1] ** 2 * 2.0**-50
    composite, growth, decay = torch.eye(n, dtype=got.dtype), 1.0, 1.0
    for layer in range(case.depth):
        token = layer % len(got)
        composite = got[token] @ composite
        growth, decay = growth * (1 + float(each[token])), decay * max(0.0, 1 - float(each[token]))
    one = torch.ones(1, dtype=got.dtype)
    trial.at_most("the spectral norm of the composite", norms(composite[None]), one, (growth - 1) * one)
    if guarantees_of(trial.dialect).orthogonal:
        kept = composite.T @ composite
        least = torch.linalg.eigvalsh(kept.nan_to_num())[:1].clamp(min=0).sqrt()
        trial.at_most(
            "1 less the least singular value of the composite", one - least, 0 * one, (1 - decay) * one, size=1.0
        )
