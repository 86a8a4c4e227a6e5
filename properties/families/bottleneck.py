"""Bottleneck: a branch reads the mean of the normalised streams, every channel times a gate of low rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from mhc_ref import Dialect, Params
from mhc_ref.families import bottleneck as formulas
from properties.bounds.arithmetic import affine, contracted, plus, times
from properties.bounds.rms import inverse_gradient, root_mean_square
from properties.bounds.stages import norm_weight, squash_gradient, squashed
from properties.core.norms import norm_of
from properties.core.reads import Completed, Read
from properties.core.rounding import Approx, Rounding, known
from properties.core.sums import added_up
from properties.core.truth import wide


class Bottleneck(Read):
    """transformers 5.24.0: `Qwen4ExpTextGatedResidual`; with `one_bottleneck` x-transformers 2.31.10:
    `GatedMultiResidual`."""

    name = "bottleneck"
    words = "a branch reads the mean of the normalised streams, every channel by a gate of low rank"
    source = "transformers 5.24.0: models/qwen4_exp/modeling_qwen4_exp.py, Qwen4ExpTextGatedResidual"
    FIELDS = formulas.FIELDS

    def joins(self, dialect: Dialect) -> bool:
        return dialect.one_bottleneck

    def completed(self, logits: Tensor, n: int, params: Params, dialect: Dialect) -> Tensor:
        return formulas.completed(logits, n, params, dialect)

    def completed_bound(self, products: Approx, n: int, params: Params, dialect: Dialect, r: Rounding) -> Approx:
        """b = alpha silu(z), and W b + bias, whose bias may be added before or after the products: one product more."""
        if not dialect.one_bottleneck:
            return products
        rank = dialect.rank
        narrow = affine(_squeezed(_columns(products, 0, rank), r), _gate(params), 0.0, r)
        bias = wide(params.bias)[rank : rank + n]
        written = _with_static(narrow, formulas.to_write(params.phi, n, dialect), bias, r)
        return _joined(narrow, written, _columns(products, rank + n, None))

    def completed_pullback(
        self, products: Approx, n: int, params: Params, cotangent: Approx, dialect: Dialect, r: Rounding, kept: str
    ) -> Completed | None:
        """The chain rule through b = alpha silu(z) and W b + bias. What reaches b by both gates is added up there, or
        each part is multiplied further by itself, with as many roundings of the same magnitudes."""
        if not dialect.one_bottleneck:
            return None
        rank, gate = dialect.rank, _gate(params)
        (tokens, size), (rows, columns) = products.value.shape, params.phi.shape
        terms = added_up(tokens)
        z, by_b, by_post = (
            _columns(products, 0, rank),
            _columns(cotangent, 0, rank),
            _columns(cotangent, rank, rank + n),
        )
        squeezed, written = _squeezed(z, r), Approx.exact(formulas.to_write(params.phi, n, dialect))
        through = plus(by_b, contracted("tn,nr->tr", by_post, written, n, r), r=r)
        by_z = times(affine(through, gate, 0.0, r), _slope(z, r), r)
        by_alpha = contracted(f"tr,tr->{kept}", through, squeezed, terms * rank, r)
        by_bias = contracted(f"tn,t->{kept}n", by_post, Approx.exact(torch.ones(tokens)), terms, r)
        by_written = contracted(f"tn,tr->{kept}nr", by_post, affine(squeezed, gate, 0.0, r), terms, r)

        def placed(t: Tensor) -> Tensor:
            """[n, r] in the rows of the middle channels of phi, and nothing in the columns behind."""
            whole = t.new_zeros(*t.shape[:-2], n, rows // n, columns - size)
            whole[..., rows // n // 2, :rank] = t
            return whole.flatten(-3, -2)

        return Completed(
            _moved(lambda t: pad(t, (0, size - rank)), by_z),
            _moved(placed, by_written),
            _moved(lambda t: pad(t, (rank, size - rank - n)), by_bias),
            _moved(lambda t: pad(t.unsqueeze(-1), (0, len(params.alpha) - 1)), by_alpha),
        )

    def bound(self, logits: Approx, x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
        """g * factor / n: two products, each of numbers with errors, and a division, which may come at any place.

        Written as g * x^ the same numbers are rounded as often: x^ has the roundings of the factor and one more, which
        the product with the state has here (`properties.bounds.block.read`).
        """
        n, channels = x.value.shape[-2:]
        gates = _gates(_opened(_narrow(logits, dialect, r), params, (n, channels), dialect, r), dialect, r)
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
        terms = added_up(tokens)
        narrow = _narrow(logits, dialect, r)
        opened = _opened(narrow, params, (n, channels), dialect, r)
        gates = _gates(opened, dialect, r)
        factor, shared = _factor(x, params.norm_weight, dialect, r)
        part = affine(cotangent, 1 / n, 0.0, r)
        by_opened = squash_gradient(opened, times(part, factor, r), dialect.pre, dialect, r)
        up = Approx.exact(params.phi[:, -dialect.rank :])
        by_up = contracted(f"tk,tr->{kept}kr", _flat(by_opened), narrow, terms, r)
        by_narrow = contracted("tk,kr->tr", _flat(by_opened), up, n * channels, r)
        by_logits = by_narrow if dialect.one_bottleneck else times(by_narrow, _slope(logits, r), r)
        if dialect.one_bottleneck:  # a and U, behind the columns of W
            by_static = contracted(f"tk,t->{kept}k", _flat(by_opened), Approx.exact(torch.ones(tokens)), terms, r)
            rank = dialect.rank
            by_up = _joined(_moved(lambda t: pad(t.unsqueeze(-1), (rank, 0)), by_static), by_up)
        # of the factor (offset + weight) / rms
        by_factor = times(part, gates, r)
        bare, _ = _factor(x, None, dialect, r)
        by_weight = contracted(f"tk,tk->{kept}k", _flat(by_factor), _flat(bare), terms, r)
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


def _narrow(logits: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """What the bottleneck holds: logits are that already where it is one for both gates."""
    return logits if dialect.one_bottleneck else _squeezed(logits, r)


def _opened(narrow: Approx, params: Params, shape: tuple[int, int], dialect: Dialect, r: Rounding) -> Approx:
    """U times what the bottleneck holds, and the static logits where there are some, [tokens, n, C]."""
    phi, rank = wide(params.phi), dialect.rank
    if dialect.one_bottleneck:
        found = _with_static(narrow, phi[:, -rank:], phi[:, -rank - 1], r)
    else:
        found = contracted("tr,kr->tk", narrow, Approx.exact(phi[:, -rank:]), rank, r)
    return Approx(found.value.unflatten(-1, shape), found.error.unflatten(-1, shape))


def _with_static(narrow: Approx, matrix: Tensor, static: Tensor, r: Rounding) -> Approx:
    """matrix b + static, a sum whose terms may be added in any order: the static ones are products with 1."""
    held = _moved(lambda t: pad(t, (0, 1)), narrow)
    held = Approx(held.value + pad(torch.zeros_like(narrow.value), (0, 1), value=1.0), held.error)
    whole = Approx.exact(torch.cat([wide(matrix), static.double().unsqueeze(-1)], -1))
    return contracted("tr,kr->tk", held, whole, narrow.value.shape[-1] + 1, r)


def _gate(params: Params) -> float:
    """alpha_pre, the factor of what leaves one bottleneck."""
    return float(params.alpha[0].detach())


def _moved(change: Callable[[Tensor], Tensor], one: Approx) -> Approx:
    """Numbers put elsewhere, and their errors with them."""
    return Approx(change(one.value), change(one.error))


def _columns(one: Approx, first: int, end: int | None) -> Approx:
    return _moved(lambda t: t[:, first:end], one)


def _joined(*parts: Approx) -> Approx:
    return Approx(torch.cat([one.value for one in parts], -1), torch.cat([one.error for one in parts], -1))


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
    return _moved(lambda t: t.flatten(-2), one)


READ = Bottleneck()
