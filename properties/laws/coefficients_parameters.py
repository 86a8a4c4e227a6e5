"""Coefficients: what other parameters that come to the same, or differ in one part, must do to the mappings."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from mhc_ref.packing import logit_sizes
from properties.bounds import Approx, Coefficients
from properties.core.case import Case
from properties.core.family import dynamic_of, gate_of, guarantees_of
from properties.core.handing import stored_dtype
from properties.core.premises import norm_weight, several_streams, where
from properties.core.reads import read_of
from properties.core.trial import Trial
from properties.laws import about, errors
from properties.laws.coefficients import agree, between
from properties.laws.premises import reads_by_gates
from properties.strategies import Setting, coarse, coefficient_cases, permutations_of, seeds


@st.composite
def isolated_cases(draw: DrawFn, setting: Setting) -> Case:
    """Parameters, and other values for one third of bias, gates and projection."""
    case = draw(coefficient_cases(setting, most=2))
    parts = ("pre", "post", "res")[: len(case.params.alpha)]  # h_res may have no logits
    return case.with_(third=draw(st.sampled_from(parts)), seed=draw(seeds))


@about.mappings("coefficients.thirds-are-isolated", "identity", isolated_cases, blind=about.ALIKE)
def thirds_are_isolated(trial: Trial, case: Case) -> None:
    """Other values in one third of bias, gates and projection move that mapping only.

    Columns and biases are packed pre | post | res with one gate each; a wrong packing order mixes them. Where one
    bottleneck makes h_pre and h_post, the first third moves both.
    """
    n = case.x.shape[-2]
    params: Params = case.params
    third = ("pre", "post", "res").index(case.third)
    of_pre, _, size = logit_sizes(n, trial.dialect)
    ends = (slice(0, of_pre), slice(of_pre, of_pre + n), slice(of_pre + n, of_pre + n + size))[third]
    columns = (slice(0, 1), slice(1, 2), slice(2, None))[third] if trial.dialect.shared_projection else ends
    phi, bias, alpha = params.phi.clone(), params.bias.clone(), params.alpha.clone()
    phi[:, columns] = torch.tensor(coarse(case.seed, *phi[:, columns].shape)).to(phi)
    bias[ends] = torch.tensor(coarse(case.seed + 1, bias[ends].shape[0])).to(bias) * 2 + 0.5
    alpha[third] = 1.5
    changed = params._replace(phi=phi, bias=bias, alpha=alpha)
    before, after = trial.mappings(case.x, params), trial.mappings(case.x, changed)
    bound = errors.mappings(trial, case.x, params)
    for name in ("pre", "post", "res"):
        follows = name == "post" and case.third == "pre" and read_of(trial.dialect).joins(trial.dialect)
        if name != case.third and not follows:
            agree(trial, f"after a change of the {case.third} third", after, before, bound, double=True, only=name)


@st.composite
def reordered_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state with parameters, and an order of the streams."""
    case = draw(coefficient_cases(setting, least_n=2, most=2))
    return case.with_(order=draw(permutations_of(case.x.shape[-2])))


def streams_in_order(params: Params, order: list[int], n: int, dialect: Dialect) -> Params:
    """The parameters for streams renamed by `order`: rows of phi, columns and biases of all three thirds, the norm
    weight."""
    index = torch.tensor(order)
    bias = params.bias

    def conjugated(parts: Tensor) -> Tensor:
        """[..., n * n], or [..., 0] where there are no residual logits."""
        if not parts.shape[-1]:
            return parts
        return parts.unflatten(-1, (n, n))[..., index, :][..., index].flatten(-2)

    weight = None if params.norm_weight is None else params.norm_weight.view(n, -1)[index].flatten()
    if dialect.shared_projection:
        phi = torch.cat([params.phi[:, :2], params.phi[:, 2:][:, index[: params.phi.shape[1] - 2]]], 1)
    else:
        rows = params.phi.view(n, -1, params.phi.shape[1])[index].flatten(0, 1)
        phi = torch.cat([rows[:, index], rows[:, n : 2 * n][:, index], conjugated(rows[:, 2 * n :])], 1)
    bias = torch.cat([bias[:n][index], bias[n : 2 * n][index], conjugated(bias[2 * n :])])
    return Params(phi, bias, params.alpha, weight)


def _matrix_logits(dialect: Dialect) -> str | None:
    return None if guarantees_of(dialect).conjugate else "a permutation of streams permutes n! coefficients"


@about.mappings(
    "coefficients.streams-have-no-names",
    "identity",
    reordered_cases,
    where(reads_by_gates, _matrix_logits),
    several_streams,
    blind=about.ALIKE,
)
def streams_have_no_names(trial: Trial, case: Case) -> None:
    """Renaming the streams in state and parameters renames them in the mappings.

    No stream is special; h_res is conjugated by the permutation. Gates that depend on no logit, as those of the newest
    stream alone, are of places and not of streams: they stay as they were.
    """
    order, dialect = list(case.order), trial.dialect
    n = case.x.shape[-2]
    plain = trial.mappings(case.x, case.params)
    renamed = trial.mappings(case.x[..., order, :].contiguous(), streams_in_order(case.params, order, n, dialect))
    bound = errors.mappings(trial, case.x, case.params)

    def reorder(pre: Tensor, post: Tensor, res: Tensor) -> Mappings:
        return Mappings(
            pre[..., order] if pre.numel() and not gate_of(dialect.pre).constant else pre,
            post[..., order] if post.numel() and not gate_of(dialect.post).constant else post,
            res[..., order, :][..., order] if res.numel() else res,
        )

    error = reorder(bound.pre.error, bound.post.error, bound.res.error)
    slack = Coefficients(*(Approx(torch.zeros_like(part), part) for part in error))
    agree(trial, "of renamed streams", renamed, reorder(*plain), slack, double=True)


COARSEST = 3
"""The largest of the integers of `coarse`."""


def of_few_bits(phi: Tensor, setting: Setting) -> Tensor:
    """The nearest eighths that are stored as they are, and times any integer of the weight and its offset, too."""
    integers = 2 / torch.finfo(stored_dtype(setting, setting.dtype)).eps  # all of them are stored as they are
    most = integers // (abs(setting.dialect.norm_offset) + COARSEST)
    return (phi * 8).round().clamp(-most, most) / 8


@st.composite
def weighted_cases(draw: DrawFn, setting: Setting) -> Case:
    """A norm weight of small integers and a phi of few bits, so that their product is exact where it is stored."""
    case = draw(coefficient_cases(setting, most=2, least_phi=1, gates=(1.0, 2.0)))
    params: Params = case.params
    phi = of_few_bits(params.phi, setting)
    weight = torch.tensor(coarse(draw(seeds), case.x.shape[-2] * case.x.shape[-1])).to(phi)
    return case.with_(params=params._replace(phi=phi, norm_weight=weight))


def _own_phi(dialect: Dialect) -> str | None:
    if dialect.norm_offset % 1:
        return f"{dialect.norm_offset:g} + w has more bits than the products with phi keep"
    return "one phi for all streams cannot absorb a weight for each" if dialect.shared_projection else None


@about.mappings(
    "coefficients.norm-weight-is-absorbed-by-phi",
    "identity",
    weighted_cases,
    where(reads_by_gates, _own_phi),
    norm_weight,
    blind=about.SYMMETRIC,
)
def norm_weight_is_absorbed_by_phi(trial: Trial, case: Case) -> None:
    """A norm weight w acts like phi with its rows multiplied by w, or by offset + w where the dialect has an offset.

    (x^ w) phi = x^ (diag(w) phi); the paper absorbs the weight in phi (section 4.3).
    """
    params: Params = case.params
    assert params.norm_weight is not None
    factor = trial.dialect.norm_offset + params.norm_weight
    absorbed = params._replace(phi=factor.unsqueeze(-1) * params.phi, norm_weight=None)
    plain, folded = trial.mappings(case.x, params), trial.mappings(case.x, absorbed)
    slack = between(*(errors.mappings(trial, case.x, one) for one in (params, absorbed)))
    agree(trial, "with the weight absorbed in phi", folded, plain, slack, double=True)


def _linear(dialect: Dialect) -> str | None:
    return None if dynamic_of(dialect).passes else f"{dialect.dynamic} stands between gate and projection"


@about.mappings(
    "coefficients.gate-and-projection-multiply",
    "identity",
    lambda s: coefficient_cases(s, most=2, least_phi=1, gates=(1.0, 2.0, 0.5)),
    where(reads_by_gates, _linear),
    blind=("h-res-transposed", "bias-dropped"),
)
def gate_and_projection_multiply(trial: Trial, case: Case) -> None:
    """Doubling a gate is doubling its columns of phi.

    logit = alpha (x^ phi) + bias is linear in both; a power of two is exact.
    """
    params: Params = case.params
    gated_twice = params._replace(alpha=2 * params.alpha)
    projected_twice = params._replace(phi=2 * params.phi)
    one, other = trial.mappings(case.x, gated_twice), trial.mappings(case.x, projected_twice)
    agree(
        trial,
        "with doubled gates against doubled phi",
        one,
        other,
        errors.mappings(trial, case.x, gated_twice),
        double=True,
    )
