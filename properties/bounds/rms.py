"""The root of the mean square, which norms divide a state by, and the gradient through it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.packing import logit_sizes
from properties.bounds.arithmetic import addends, holding
from properties.core.rounding import INF, Approx, Rounding, Uses
from properties.core.rows import Count, beside
from properties.core.truth import wide

GUARD = 1e-12
"""The norm |x|_2 up to which a normalisation without eps may be guarded against 0 / 0."""

SHARES = 4
"""How often the mappings may widen a state of less than float32, each time with a gradient of its own."""


def over_rms(
    x: Approx, weight: Tensor | None, over: tuple[int, ...], dialect: Dialect, r: Rounding
) -> tuple[Approx, Tensor]:
    """x^ = x / rms * weight, the rms over some dims of x [tokens, n, C], and the relative error of 1/rms, which all
    its entries share.

    mean(x^2) over K numbers, k of them not 0 (`addends`): one rounding a square, k - 1 in the sum, two for the
    division, one for eps, and at most tiny for each square that underflows, so its relative error is e = gamma_{k+4} +
    2 tiny / (mean + eps), plus what an error dx of x makes of it, (2 |x| dx + dx^2) / sum. The root halves it, exactly:
    |sqrt(1+e) - 1| <= e / (2 (1 - e)) for e < 1; root, reciprocal (rsqrt instructions err by 2 ulp) and the
    sqrt(K) of a norm-based formula add 8 units. An entry then has two roundings more (times 1/rms, times weight).

    A norm without eps must guard its division by 0 somehow, and which way is not declared: the nearer a state is to 0
    the more the usual guards differ, max(|x|_2, 1e-12) of `torch.nn.functional.normalize` being the widest. The error
    of a state within it is infinite.

    A norm that clamps divides by max(|x|_2, eps) / sqrt(K), and one that centres has x less its mean for x (`centred`):
    their derivations are in docs/mathematics.md.
    """
    x = centred(x, over, dialect, r)
    rms, shared = root_mean_square(x, over, dialect, r)
    zero = (rms == 0).expand_as(x.value)
    scale = (torch.ones_like(x.value) if weight is None else wide(weight).view(x.value.shape[-2:])) / torch.where(
        rms == 0, 1.0, rms
    )
    value = torch.where(zero, 0.0, x.value * scale)
    error = x.error * scale.abs() + 3 * r.unit * value.abs() + r.tiny * scale.abs()
    return Approx(value, torch.where(zero, 0.0, error)), shared


def centred(x: Approx, over: tuple[int, ...], dialect: Dialect, r: Rounding) -> Approx:
    """c = x - m where the dialect centres, m the mean of the K numbers of x along some dims; else x.

    The mean is a sum of k numbers other than 0 and a division, gamma_{k+2} of mean|x|, whatever the order; one that is
    carried along, m_j = m_{j-1} + (x_j - m_{j-1}) / j, rounds m_j once a step, j / K of which is left in the end, and
    its increments three times: gamma_{k+2} and 3 (1 + log K) units. The difference rounds once. Who multiplies out,
    x / rms - m / rms, has two roundings of |x| and two of |m| besides, of one number less itself, too.

    Moments that are merged one after the other begin with the square of a number from which no mean is subtracted yet,
    times 0: nothing is claimed where a square of the state itself is no finite number, though that of c may be.
    """
    if not dialect.centred:
        return x
    value, of_mean = _less_mean(x.value, x.value.abs(), x.error, over, addends(x, over=over), r)
    beyond = r.beyond(x.value.square().sum(over, keepdim=True))
    return Approx(value, torch.where(beyond, INF, x.error + of_mean))


def _less_mean(
    value: Tensor, size: Tensor, error: Tensor, over: tuple[int, ...], terms: Count, r: Rounding
) -> tuple[Tensor, Tensor]:
    """value less its mean, and the error of that, but for the own error of each number; `size` is what each was made
    of at most."""
    count = math.prod(value.shape[d] for d in over)
    mean = value.mean(over, keepdim=True)
    sizes = size.mean(over, keepdim=True)
    relative = r.gamma(beside(terms, value.ndim) + 2) + 3 * (1 + math.log(count)) * r.unit
    off = relative * (sizes + error.mean(over, keepdim=True)) + error.mean(over, keepdim=True)
    return value - mean, off + 3 * r.unit * (size + error + sizes) + 2 * r.tiny


class Clamped(NamedTuple):
    """Where |x|_2 is raised to the eps of the norm whatever rounding does, and where it is not, whatever it does."""

    surely: Tensor
    never: Tensor


def clamped(x: Approx, over: tuple[int, ...], dialect: Dialect, r: Rounding) -> Clamped:
    """Of a norm max(|x|_2, eps): |x|_2 as it is computed lies between root(s (1 - e) - d) and root(s (1 + e) + d), s
    the sum of squares, e its roundings and those of the root and the eps, d what an error of x and what squares lose
    that underflow; a square of an exact 0 loses nothing."""
    total = x.value.square().sum(over, keepdim=True)
    if dialect.rms_eps_by == "add":
        return Clamped(torch.zeros_like(total, dtype=torch.bool), torch.ones_like(total, dtype=torch.bool))
    terms = beside(addends(x, over=over), x.value.ndim)
    lost = (2 * x.value.abs() * x.error + x.error.square()).sum(over, keepdim=True) + 2 * terms * r.tiny
    off = r.gamma(terms + 4) + 20 * r.unit
    floor = total.new_full((), dialect.rms_eps).square()
    return Clamped(total * (1 + off) + lost < floor, total * (1 - off) - lost > floor)


def divisor(x: Tensor, over: tuple[int, ...], dialect: Dialect) -> tuple[Tensor, Tensor]:
    """s, the root of the mean square with what is added to it there, and rho, which x is divided by."""
    s = (x.square().mean(over, keepdim=True) + _inside(dialect)).sqrt()
    if dialect.rms_eps_by == "clamp":
        return s, s.clamp_min(dialect.rms_eps / math.sqrt(math.prod(x.shape[d] for d in over)))
    return s, s + (0.0 if dialect.rms_eps_inside else dialect.rms_eps)


def _inside(dialect: Dialect) -> float:
    """What is added to the mean square."""
    return dialect.rms_eps if dialect.rms_eps_inside and dialect.rms_eps_by == "add" else 0.0


def root_mean_square(x: Approx, over: tuple[int, ...], dialect: Dialect, r: Rounding) -> tuple[Tensor, Tensor]:
    """rms, and the relative error of 1/rms, both with size 1 in the dims it is taken over; see `over_rms`."""
    count = math.prod(x.value.shape[d] for d in over)
    squares = x.value.square()
    mean = squares.mean(over, keepdim=True)
    inside = _inside(dialect)
    total = mean + inside
    safe = torch.where(total > 0, total, 1.0)
    moved = (2 * x.value.abs() * x.error + x.error.square()).mean(over, keepdim=True)
    relative = r.gamma(beside(addends(x, over=over), x.value.ndim) + 4) + (2 * r.tiny + moved) / safe
    root = torch.where(relative < 0.5, relative / (2 * (1 - relative.clamp(max=0.5))), INF)
    _, rms = divisor(x.value, over, dialect)
    added = bool(dialect.rms_eps) and dialect.rms_eps_by == "add"
    shared = torch.where(total > 0, root, 0.0 if added else INF)
    # max does not expand: where |x|_2 is below the eps, only that is left, and elsewhere the error is that of |x|_2
    shared = torch.where(clamped(x, over, dialect, r).surely, 0.0, shared) + 8 * r.unit
    shared = torch.where(r.beyond(mean * count), INF, shared)  # the sum of squares may be no finite number
    shared = torch.where(rms < 4 * r.tiny, INF, shared)  # and what is divided by no normal one: an eps may be 0 in it
    if not dialect.rms_eps:  # within the guard against 0 / 0, whatever comes out, nothing is claimed
        shared = torch.where((mean * count).sqrt() <= GUARD, INF, shared)
    return rms, shared


def inverse_gradient(
    x: Approx, inner: Approx, spread: Tensor, shared: Tensor, over: tuple[int, ...], dialect: Dialect, r: Rounding
) -> Uses:
    """d <inner, 1/rms> / dx = -x inner / (K s rho^2), as the second term of `over_rms_gradient`.

    `inner` and `spread`, the cotangent of 1/rms and the sum of magnitudes that it was added up from, have size 1 in the
    dims that the mean is taken over.
    """
    count = math.prod(x.value.shape[d] for d in over)
    mean = x.value.square().mean(over, keepdim=True)
    s = (mean + (dialect.rms_eps if dialect.rms_eps_inside else 0.0)).sqrt()
    rho = s + (0.0 if dialect.rms_eps_inside else dialect.rms_eps)
    live = (s > 0).expand_as(x.value)
    s, rho = torch.where(s > 0, s, 1.0), torch.where(rho > 0, rho, 1.0)
    relative = shared + 12 * r.unit
    cubed = 1 / (s * rho.square())
    scale = cubed / count
    error = (x.value.abs() * inner.error + x.error * (inner.value.abs() + inner.error)) * scale
    error = error + 3 * relative * (x.value.abs() + x.error) * spread * scale
    error = error * (1 + 4 * relative) + r.tiny * (1 + x.value.abs() * spread / count)
    size = x.value.abs() * spread * scale
    error = error + torch.where(x.value == 0, 0.0, r.tiny * scale)  # of x inner, where that comes first
    error = error + SHARES * (r.state_unit * size + r.state_tiny)
    beyond = r.beyond(torch.maximum(cubed, cubed * spread))
    value = torch.where(live, -x.value * inner.value * scale, 0.0)
    return _used(value, torch.where(live & ~beyond, error, INF), size, r)


def _used(value: Tensor, error: Tensor, size: Tensor, r: Rounding) -> Uses:
    """A gradient of uses of a state, none of which may be beyond the dtype of that."""
    return Uses(value, holding(value, error, size, r).error, size)


def over_rms_gradient(
    x: Approx, g: Approx, through: Tensor, shared: Tensor, over: tuple[int, ...], dialect: Dialect, r: Rounding
) -> Uses:
    """The gradient of the normalised state: that of x over its rms, less its own mean where x was centred.

    With P = I - 1 1^T / K the matrix that centres, which is symmetric, c = P x has the gradient d below, and x has P d.
    """
    c = centred(x, over, dialect, r)
    d, parts = _over_rms_gradient(c, g, through, shared, over, dialect, r)
    if not dialect.centred:
        return _used(d.value, d.error, parts, r)
    count = math.prod(x.value.shape[k] for k in over)
    value, of_mean = _less_mean(d.value, torch.maximum(parts, d.value.abs()), d.error, over, count, r)
    return _used(value, d.error + of_mean, parts + parts.mean(over, keepdim=True), r)


def _over_rms_gradient(
    x: Approx, g: Approx, through: Tensor, shared: Tensor, over: tuple[int, ...], dialect: Dialect, r: Rounding
) -> tuple[Approx, Tensor]:
    """g / rho - x (sum g x) / (K s rho^2), rho the divisor and s the root inside it (rho = s when the eps is inside).

    Relative errors: that of 1/rms once in the first term, three times in the second, with 12 roundings; the inner
    product has gamma_{k+12} (`Rounding.dot`), k of the K numbers not 0, of sum |g| |x| as it is really accumulated.

    A state below float32 is widened where it is used, in the norm and in up to three products (pre, post, res), and
    autograd rounds the gradient of each use to the dtype of the state before it adds them up there: k uses whose sizes
    sum to S err by at most k u S, one rounding of each and k - 1 of their sum; where S is beyond that dtype one of them
    may be an infinity, and nothing is claimed.

    The sizes of both terms come second.
    """
    count = math.prod(x.value.shape[d] for d in over)
    s, rho = divisor(x.value, over, dialect)
    floor = clamped(x, over, dialect, r)
    live = ((s > 0) | floor.surely).expand_as(x.value)
    s, rho = torch.where(s > 0, s, 1.0), torch.where(rho > 0, rho, 1.0)
    relative = shared + 12 * r.unit
    inner = (g.value * x.value).sum(over, keepdim=True)
    spread = ((g.value.abs() + g.error + through) * (x.value.abs() + x.error)).sum(over, keepdim=True)
    inner_error = (g.error * x.value.abs() + (g.value.abs() + g.error) * x.error).sum(over, keepdim=True) + r.dot(
        beside(addends(x, over=over), x.value.ndim) + 12
    ) * spread
    scale = 1 / (count * s * rho.square())
    through_root = x.value * inner * scale  # which is 0 where the root is not what x is divided by
    value = (
        g.value / rho - torch.where(s < rho, 0.0, through_root)
        if dialect.rms_eps_by == "clamp"
        else (g.value / rho - through_root)
    )
    first = g.error / rho + relative * (g.value.abs() + g.error) / rho
    second = (x.value.abs() * inner_error + x.error * (inner.abs() + inner_error)) * scale
    second = second + 3 * relative * (x.value.abs() + x.error) * spread * scale
    # Products of the inner one may be flushed, K with g or one for each logit, and so may x inner before it is scaled.
    products = count + sum(logit_sizes(x.value.shape[-2], dialect))
    lost = r.tiny * (products * x.value.abs() + torch.where(x.value == 0, 0.0, 1.0)) * scale
    second = second + lost
    second = torch.where(floor.never, second, second + through_root.abs())  # either side of the kink
    second = torch.where(floor.surely, 0.0, second)
    error = (first + second) * (1 + 4 * relative) + r.tiny / rho + r.tiny  # of g before, and of the result itself
    parts = (through + g.error) / rho + torch.where(floor.surely, 0.0, x.value.abs() * spread * scale)
    error = error + SHARES * (r.state_unit * parts + r.state_tiny)
    # The derivative of 1/rms, 1 / (s rho^2), is a number on the way: it may be beyond the compute dtype, or below it.
    # Below a clamp it is left out, and what stands for it is the derivative by the divisor, 1 / rho^2.
    cubed = torch.where(floor.surely, 1 / rho.square(), 1 / (s * rho.square()))
    error = error + r.tiny * x.value.abs() * spread / count
    beyond = r.beyond(torch.maximum(cubed, cubed * spread)) | r.beyond(parts)
    return Approx(torch.where(live, value, 0.0), torch.where(live & ~beyond, error, INF)), parts
