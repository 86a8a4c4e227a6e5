"""Bottleneck: a branch reads the mean of the normalised streams, every channel times a gate of low rank."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.families import bottleneck as formulas
from properties.bounds.arithmetic import affine, contracted, times
from properties.bounds.rms import inverse_gradient, root_mean_square
from properties.bounds.stages import norm_weight, squash_gradient, squashed
from properties.core.norms import norm_of
from properties.core.reads import Read
from properties.core.rounding import Approx, Rounding, known


class Bottleneck(Read):
    """transformers 5.23.0: `Qwen4ExpTextGatedResidual`."""

    name = "bottleneck"
    words = "a branch reads the mean of the normalised streams, every channel by a gate of low rank"
    source = "transformers 5.23.0: models/qwen4_exp/modeling_qwen4_exp.py, Qwen4ExpTextGatedResidual"
    FIELDS = formulas.FIELDS

    def bound(self, logits: Approx, x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
        """g * factor / n: two products, each of numbers with errors, and a division, which may come at any place.

        Written as g * x^ the same numbers are rounded as often: x^ has the roundings of the factor and one more, which
        the product with the state has here (`properties.bounds.block.read`).
        """
        n, channels = x.value.shape[-2:]
        gates = _gates(_opened(_squeezed(logits, r), params, (n, channels), r), dialect, r)
        factor, _ = _factor(x, params.norm_weight, dialect, r)
        return affine(times(gates, factor, r), 1 / n, 0.0, r)

    def pullback(
        self, logits: Approx, x: Approx, params: Params, cotangent: Approx, dialect: Dialect, r: Rounding, kept: str
    ) -> tuple[Approx, Approx, Approx, Approx]:
        """The chain rule through g * factor / n, each link with the error of what it is given.

        The gradient by x is that of 1/rms alone (`inverse_gradient`): x^ is x times a number, and what passes through x
        itself is the gradient of h_pre x by x.
        """
        tokens, n, channels = x.value.shape
        narrow = _squeezed(logits, r)
        opened = _opened(narrow, params, (n, channels), r)
        gates = _gates(opened, dialect, r)
        factor, shared = _factor(x, params.norm_weight, dialect, r)
        part = affine(cotangent, 1 / n, 0.0, r)
        by_opened = squash_gradient(opened, times(part, factor, r), dialect.pre, dialect, r)
        up = Approx.exact(params.phi[:, -dialect.rank :])
        by_up = contracted(f"tk,tr->{kept}kr", _flat(by_opened), narrow, tokens, r)
        by_narrow = contracted("tk,kr->tr", _flat(by_opened), up, n * channels, r)
        by_logits = times(by_narrow, _slope(logits, r), r)
        # of the factor (offset + weight) / rms
        by_factor = times(part, gates, r)
        bare, _ = _factor(x, None, dialect, r)
        by_weight = contracted(f"tk,tk->{kept}k", _flat(by_factor), _flat(bare), tokens, r)
        ones = Approx.exact(torch.ones(n, channels))
        own = ones if params.norm_weight is None else norm_weight(params.norm_weight, (n, channels), dialect, r)
        terms = times(by_factor, own.expanded(by_factor), r)
        over = norm_of(dialect).OVER or (-2, -1)
        spread = (terms.value.abs() + terms.error).sum(over, keepdim=True)
        count = channels * (n if -2 in over else 1)
        off = terms.error.sum(over, keepdim=True) + r.dot(count + 2) * spread
        inner = Approx(terms.value.sum(over, keepdim=True), off)
        return by_logits, by_up, by_weight, inverse_gradient(x, inner, spread, shared, over, dialect, r)


def _squeezed(z: Approx, r: Rounding) -> Approx:
    """silu(z) = z sigma(z), |silu'| < 1.1; sigma is accurate absolutely to 6 units, and the product rounds once."""
    value = z.value * z.value.sigmoid()
    return Approx(value, known(1.1 * z.error) + 8 * r.unit * (z.value.abs() + z.error) + r.tiny)


def _slope(z: Approx, r: Rounding) -> Approx:
    """silu'(z) = s + z s (1 - s), |silu''| <= 1/2: s is accurate absolutely to 6 units, so is 1 - s, and their product
    to 9; formulas such as s (1 + z (1 - s)) have three roundings more."""
    s = z.value.sigmoid()
    value = s + z.value * s * (1 - s)
    return Approx(value, known(z.error / 2) + r.unit * (10 + 12 * (z.value.abs() + z.error)))


def _opened(narrow: Approx, params: Params, shape: tuple[int, int], r: Rounding) -> Approx:
    """U times what the bottleneck holds, [tokens, n, C]."""
    up = Approx.exact(params.phi[:, -narrow.value.shape[-1] :])
    found = contracted("tr,kr->tk", narrow, up, narrow.value.shape[-1], r)
    return Approx(found.value.unflatten(-1, shape), found.error.unflatten(-1, shape))


def _gates(opened: Approx, dialect: Dialect, r: Rounding) -> Approx:
    found = squashed(opened, dialect.pre, dialect, r)
    return found if not dialect.pre_eps else affine(found, 1.0, dialect.pre_eps, r)


def _factor(x: Approx, weight: Tensor | None, dialect: Dialect, r: Rounding) -> tuple[Approx, Tensor]:
    """(offset + weight) / rms, [tokens, n, C], and the relative error of 1/rms: two roundings beside that."""
    rms, shared = root_mean_square(x, norm_of(dialect).OVER or (-2, -1), dialect, r)
    inverse = (1 / torch.where(rms == 0, 1.0, rms)).expand_as(x.value)
    bare = Approx(inverse, known((shared + 2 * r.unit) * inverse))
    if weight is None:
        return bare, shared
    return times(bare, norm_weight(weight, x.value.shape[-2:], dialect, r).expanded(bare), r), shared


def _flat(one: Approx) -> Approx:
    return Approx(one.value.flatten(-2), one.error.flatten(-2))


READ = Bottleneck()
