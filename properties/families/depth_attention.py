"""Depth attention: a branch reads what came before it by a softmax of products with one query."""

from __future__ import annotations

import math

import torch

from mhc_ref import Dialect, Params
from mhc_ref.families import depth_attention as formulas
from properties.bounds.arithmetic import affine, softmax, softmax_gradient, times
from properties.bounds.rms import inverse_gradient, root_mean_square
from properties.core.reads import Read
from properties.core.rounding import Approx, Rounding, known
from properties.core.truth import wide


class DepthAttention(Read):
    """Attention residuals, arXiv 2603.15031; transformers 5.24.0: `Inkling2BlockAttentionResidual`."""

    name = "depth-attention"
    words = "a branch reads the streams by a softmax of their products with one query"
    source = "Attention Residuals, arXiv 2603.15031; transformers 5.24.0: models/inkling2/modeling_inkling2.py"
    by_stream = True
    FIELDS = formulas.FIELDS

    def bound(self, logits: Approx, x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
        """A softmax of the scores, whose exponentials may come from a running maximum: each source that raises it
        multiplies what is summed so far by one exponential more, two roundings and those of its own."""
        n = logits.value.shape[-1]
        shares = softmax(_scores(logits, x, params, dialect, r), r)
        rescaled = Approx(shares.value, known(shares.error + 4 * n * r.unit * shares.value))
        found = affine(rescaled, 1.0, dialect.pre_eps, r) if dialect.pre_eps else rescaled
        return times(found, _inverse(x, dialect, r), r) if dialect.reads_normalised else found

    def pullback(
        self, logits: Approx, x: Approx, params: Params, cotangent: Approx, dialect: Dialect, r: Rounding, kept: str
    ) -> tuple[Approx, None, None, Approx | None]:
        """The chain rule through softmax(scores) / rms, for a cotangent c_i that is a product <g, x_i> of C channels.

        A kernel may have sum_i p_i c_i as <g, u>, u what it read: n + 1 roundings more, relative to the magnitudes that
        c was added up from; and where keys are what is read, it adds both gradients up before it sums over channels,
        three more. They are that part of the error that C + 2 roundings have made of the same magnitudes.
        """
        n, channels = x.value.shape[-2:]
        wider = Approx(cotangent.value, cotangent.error * (1 + (n + 4) / (channels + 2)))
        scores = _scores(logits, x, params, dialect, r)
        part, by_state = wider, None
        if dialect.reads_normalised:
            inverse, shares = _inverse(x, dialect, r), softmax(scores, r)
            part = times(wider, inverse, r)
            inner = times(wider, affine(shares, 1.0, dialect.pre_eps, r), r)
            inner = Approx(inner.value.unsqueeze(-1), inner.error.unsqueeze(-1))
            _, shared = root_mean_square(x, (-1,), dialect, r)
            spread = inner.value.abs() + inner.error
            by_state = inverse_gradient(x, inner, spread, shared, (-1,), dialect, r)
        by_scores = softmax_gradient(scores, part, r)
        by_logits = affine(by_scores, 1 / math.sqrt(channels), 0.0, r) if dialect.scaled else by_scores
        return by_logits, None, None, by_state


def _scores(logits: Approx, x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """Logits over sqrt(C). The query may be divided in their place, or both factors by the root of it, each of which is
    rounded and rounds once more: eight roundings of the sum of magnitudes."""
    if not dialect.scaled:
        return logits
    channels = x.value.shape[-1]
    rms, _ = root_mean_square(x, (-1,), dialect, r)
    unit = (x.value.abs() + x.error) / torch.where(rms == 0, 1.0, rms)
    if params.norm_weight is not None:
        own = wide(params.norm_weight).view(x.value.shape[-2:])
        unit = unit * (abs(dialect.norm_offset) + own.abs())
    sizes = unit @ wide(params.phi[:, 0]).abs()
    moved = Approx(logits.value, known(logits.error + 8 * r.unit * sizes))
    return affine(moved, 1 / math.sqrt(channels), 0.0, r)


def _inverse(x: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """1/rms of each source, [tokens, n], with two roundings beside its relative error; 1 where it is 0."""
    rms, shared = root_mean_square(x, (-1,), dialect, r)
    value = (1 / torch.where(rms == 0, 1.0, rms)).squeeze(-1)
    return Approx(value, known((shared.squeeze(-1) + 2 * r.unit) * value))


READ = DepthAttention()
