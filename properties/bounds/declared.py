"""Bounds of formulas that come without a derivation: from the operations that the formula is made of.

A family from outside may declare a number of roundings in place of a bound. What it computes is then held to

    u (roundings |value| + sum over every intermediate z of |d value / d z| s_z),

z what every operation of its formula in torch gives, s_z = |z| for one that rounds once, and what the operation is
known to do otherwise (`_made`): the sum of magnitudes times the number of terms for a sum, a few units for exp or log.
Sensitivities are exact, by reverse mode in float64. Summing over the inputs only would not do: of 1 - p at
p = 1 - 1e-9 a correct float32 evaluation loses every digit, since p itself was rounded, and |d (1 - p) / d p| |p| = 1
says so. For the gradient the formula is its reverse pass, operation by operation, so that what cancels there is seen;
and each product of a derivative and the cotangent may be rounded as often as a value, since another formula need not
cancel where this one does: p' - p' for the gradient of p + (1 - p).

Errors of the inputs pass likewise; where one is above 1/4, nothing is claimed. This is declared, not derived: what is
of higher order is only estimated (`_added`), and every report says so.

The formula is taken apart by `torch.fx`: no value may decide what is computed, and tokens stay on its first axis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.fx.experimental.proxy_tensor import make_fx

from mhc_ref import Dialect
from properties.bounds.arithmetic import times
from properties.bounds.rms import SHARES
from properties.core.family import DIM, Begin, End, Family, Mix
from properties.core.norms import Norm
from properties.core.rounding import INF, Approx, Projection, Rounding
from properties.guards.faults import HarnessError

FAR = 0.25
"""The error of an input beyond which its effect is not estimated."""

_TOGETHER = 4
"""Tokens are taken in multiples of this, so that few shapes are traced."""

_MOST = 2**20
"""Numbers in one batch."""

_NAMES = """
    _conj _neg_view _reshape_alias _to_copy _unsafe_view abs alias amax amin arange argmax argmin as_strided
    broadcast_to cat chunk clamp clamp_max clamp_min clone contiguous constant_pad_nd copy detach diag_embed diagonal
    empty empty_like eq expand eye fill flip full full_like gather ge gt index index_select le lift_fresh
    lift_fresh_copy logical_and logical_not logical_or lt masked_fill max maximum min minimum movedim ne neg new_empty
    new_full new_ones new_zeros ones ones_like permute relu repeat reshape roll round scalar_tensor scatter select
    select_backward select_scatter sign slice slice_backward slice_scatter split split_with_sizes sort squeeze stack t
    threshold_backward transpose tril triu unbind unfold unsqueeze view where zeros zeros_like
"""
_EXACT = frozenset(_NAMES.split())
"""Operations that round nothing."""

_ONCE = frozenset({"add", "sub", "rsub", "mul", "div", "sqrt", "reciprocal", "square", "addcmul", "addcdiv"})
"""Operations that round once; what is in no table is taken for a function accurate to `_UNITS`."""

_UNITS = 4
_ABSOLUTE = {"sigmoid": 6, "tanh": 4}
"""Functions that some formulas of are accurate absolutely alone, in units."""

_PRODUCTS = frozenset({"mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm"})
_SUMS = frozenset({"sum", "cumsum", "mean"})


@dataclass(frozen=True)
class Formula:
    """A formula of a family as a function of tensors [tokens, ...], or its reverse pass.

    Attributes:
        family: whose it is.
        method: of the family: "project", "gates", "activate" and so on.
        extra: what the method takes after the tensors.
        reverse: the gradient by the first tensor, for the cotangent that is then the last.
    """

    family: Family
    method: str
    extra: tuple[Any, ...]
    reverse: bool = False

    @property
    def of_logits(self) -> bool:
        """Whether its first input is a logit, or a product, whose size means something; not so that of a state."""
        return self.method in ("project", "gates", "activate")

    def __call__(self, *given: Tensor) -> Tensor:
        method = getattr(self.family, self.method)

        def forwards(*tensors: Tensor) -> Tensor:
            return method(*tensors, *self.extra)

        if not self.reverse:
            return forwards(*given)
        *inputs, cotangent = given
        gradients: tuple[Tensor, ...] = torch.func.vjp(forwards, *inputs)[1](cotangent)
        return gradients[0]


def bounded(formula: Formula, inputs: Sequence[Approx], r: Rounding) -> Approx:
    """The value of the formula, and its declared bound; inputs and value are [tokens, ...].

    Raises:
        HarnessError: the formula cannot be taken apart.
    """
    once, which = _distinct([part for a in inputs for part in (a.value, a.error)])
    bits = tuple((part.numpy().tobytes(), tuple(part.shape)) for part in once)
    found = _remembered(formula, bits, r)
    return Approx(found.value[which], found.error[which])


def _distinct(parts: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Each token once, and which of these each one is: a large batch repeats a few."""
    together = torch.cat([part.flatten(1) for part in parts], 1).contiguous()
    seen: dict[bytes, int] = {}
    which = [seen.setdefault(one.tobytes(), len(seen)) for one in together.numpy()]
    at = torch.tensor([which.index(k) for k in range(len(seen))], dtype=torch.long)
    return [part[at].contiguous() for part in parts], torch.tensor(which, dtype=torch.long)


def projection(mix: Mix, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
    """M of a mix, see `Mix.bound`; the error of an odds ratio and of a sum is that of its entries."""
    found = bounded(Formula(mix, "project", (dialect,)), [logits], r)
    relative = (found.error / found.value.abs()).nan_to_num(nan=0.0, posinf=INF)
    axis = DIM[mix.guarantees(dialect).last or "row"]
    return Projection(found.value, found.error, relative, found.error.sum(axis))


def pulled(family: Family, method: str, given: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """d <cotangent, family.method(given, dialect)> / d given."""
    return bounded(Formula(family, method, (dialect,), reverse=True), [given, cotangent], r)


def value(family: Family, method: str, given: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """family.method(given, dialect)."""
    return bounded(Formula(family, method, (dialect,)), [given], r)


def normalised(norm: Norm, x: Approx, weight: Tensor | None, dialect: Dialect, r: Rounding) -> tuple[Approx, Tensor]:
    """x^ of a norm, see `Norm.bound`; what its entries share stands in the error of each."""
    bare = value(norm, "normalise", x, dialect, r)
    shared = torch.zeros(len(x.value), 1, 1, dtype=torch.float64)
    if weight is None:
        return bare, shared
    return times(bare, Approx.exact(weight.view(x.value.shape[-2:])).expanded(bare), r), shared


def norm_gradient(norm: Norm, x: Approx, g: Approx, through: Tensor, dialect: Dialect, r: Rounding) -> Approx:
    """d <g, x^> / dx, see `Norm.pullback`. A state below float32 rounds what `SHARES` uses of it give back."""
    met = g.error + (12 * r.unit + SHARES * r.state_unit) * through
    found = pulled(norm, "normalise", x, Approx(g.value, met), dialect, r)
    return Approx(found.value, found.error + SHARES * (r.state_unit * found.value.abs() + r.state_tiny))


def begun(begin: Begin, h: Approx, n: int, dialect: Dialect, r: Rounding) -> Approx:
    """The streams [tokens, n, C] of h [tokens, C]."""
    return bounded(Formula(begin, "expand", (n, dialect)), [h], r)


def begin_gradient(begin: Begin, h: Approx, n: int, g: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """d <g, streams> / dh. A state below float32 may add up what n streams send back in its own dtype."""
    met = Approx(g.value, g.error + n * (r.state_unit * g.value.abs() + r.state_tiny))
    return bounded(Formula(begin, "expand", (n, dialect), reverse=True), [h, met], r)


def ended(end: End, x: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The one stream [tokens, C] of x [tokens, n, C], for an end without parameters."""
    return bounded(Formula(end, "collapse", (dialect, None)), [x], r)


def end_gradient(end: End, x: Approx, g: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """d <g, collapse> / dx, for an end without parameters."""
    return bounded(Formula(end, "collapse", (dialect, None), reverse=True), [x, g], r)


@functools.lru_cache(maxsize=256)
def _remembered(formula: Formula, bits: tuple[tuple[bytes, tuple[int, ...]], ...], r: Rounding) -> Approx:
    def read(numbers: bytes, shape: tuple[int, ...]) -> Tensor:
        if not math.prod(shape):
            return torch.zeros(shape, dtype=torch.float64)
        return torch.frombuffer(bytearray(numbers), dtype=torch.float64).reshape(shape)

    values, errors = [read(*one) for one in bits[::2]], [read(*one) for one in bits[1::2]]
    if formula.reverse:  # a sum of products with the cotangent, each of which may be rounded as often as a value
        errors[-1] = errors[-1] + (formula.family.roundings or 0) * r.unit * values[-1].abs()
    found = formula(*values).detach()
    if not found.numel():
        return Approx(found, torch.zeros_like(found))
    known = [_near(formula, k, v, e) for k, (v, e) in enumerate(zip(values, errors, strict=True))]
    moved = [torch.where(near, e, 0.0) for near, e in zip(known, errors, strict=True)]
    error = _added(formula, values, moved, found, r) + (formula.family.roundings or 0) * r.unit * found.abs() + r.tiny
    if formula.reverse and formula.of_logits:
        error = torch.maximum(error, _jump(formula, values, moved, found, r))
    # Where nothing is claimed of an input, nothing is of what its token becomes.
    claimed = torch.stack([near.flatten(1).all(1) for near in known]).all(0)
    return Approx(found, torch.where(claimed.reshape(-1, *[1] * (found.ndim - 1)), error, INF))


def _jump(formula: Formula, values: Sequence[Tensor], errors: Sequence[Tensor], found: Tensor, r: Rounding) -> Tensor:
    """How far the gradient is from those a rounding away: at a kink, as of relu at 0, any of them is one."""
    *inputs, cotangent = values
    steps = [e + r.unit * v.abs().clamp(min=1) for v, e in zip(inputs, errors, strict=False)]
    off = [
        (formula(*(v + sign * step for v, step in zip(inputs, steps, strict=True)), cotangent).detach() - found).abs()
        for sign in (1, -1)
    ]
    return torch.maximum(*off).nan_to_num(nan=0.0, posinf=0.0)


def _near(formula: Formula, index: int, value: Tensor, error: Tensor) -> Tensor:
    """Where the error of an input is so small that its effect is estimated.

    A gradient is linear in its cotangent, the last input; states have no size of their own, but that of their token.
    """
    if formula.reverse and index:
        return torch.isfinite(error)
    size = torch.ones(()) if formula.of_logits else value.abs().flatten(1).amax(1).reshape(-1, *[1] * (value.ndim - 1))
    return error <= FAR * size


def _added(formula: Formula, values: Sequence[Tensor], errors: Sequence[Tensor], value: Tensor, r: Rounding) -> Tensor:
    """What inputs and intermediates with errors make of each number of the value, in its shape.

    Tokens do not depend on each other: one backward pass of as many copies of the tokens as a token has numbers, each
    copy asked for one of them, gives all. Sensitivities are the largest of three: with everything as it is, and with
    everything moved to either end of its error, since what is near 0 may be as large as its error.
    """
    tokens, numbers = value.shape[0], value[0].numel()
    padded = -(-tokens // _TOGETHER) * _TOGETHER
    at_once = max(1, min(numbers, _MOST // (padded * max(numbers, *(v[0].numel() for v in values)))))

    def copies(each: Tensor) -> Tensor:
        tall = torch.cat([each, each[:1].expand(padded - tokens, *each.shape[1:])])
        return tall.repeat(at_once, *[1] * (each.ndim - 1))

    def by_token(each: Tensor) -> Tensor:
        return each.unflatten(0, (padded * at_once, -1)).flatten(1).sum(1) if each.numel() else torch.zeros(())

    inputs = [(copies(v), copies(e)) for v, e in zip(values, errors, strict=True)]
    taken = _taken_apart(formula, tuple(tuple(v.shape) for v, _ in inputs))
    found: list[Tensor] = []
    for first in range(0, numbers, at_once):
        which = torch.arange(first, first + at_once).clamp(max=numbers - 1).repeat_interleave(padded)
        ways = [_pass(formula, taken, inputs, which, sign, r) for sign in (0, 1, -1)]
        total = torch.zeros(len(which), dtype=torch.float64)
        for each in zip(*ways, strict=True):
            slope, error = (functools.reduce(torch.maximum, parts) for parts in zip(*each, strict=True))
            total = total + by_token(slope * error)
        found.append(total.reshape(at_once, padded)[:, :tokens])
    return torch.cat(found)[:numbers].T.reshape(value.shape)


def _pass(
    formula: Formula, taken: GraphModule, inputs: Sequence[tuple[Tensor, Tensor]], which: Tensor, sign: int, r: Rounding
) -> list[tuple[Tensor, Tensor]]:
    """The absolute derivative of the numbers asked for by every input and intermediate, and the error of that, in its
    shape; all of them moved by `sign` times their errors."""
    leaves = [(v + sign * e).requires_grad_() for v, e in inputs]
    watch = _Watch(taken, sign, r)
    out: Tensor = watch.run(*leaves).flatten(1)
    asked = out.gather(1, which.unsqueeze(1)).sum()
    rounded = [(leaf, e + r.unit * leaf.detach().abs()) for leaf, (_, e) in zip(leaves, inputs, strict=True)]
    sources = [*rounded, *watch.seen]
    if not asked.requires_grad:
        return [(torch.zeros_like(e), e) for _, e in sources]
    bars: Any = torch.autograd.grad(asked, [z for z, _ in sources], allow_unused=True)
    made: list[tuple[Tensor, Tensor]] = []
    for bar, (z, error) in zip(bars, sources, strict=True):
        if not z.ndim or len(z) % len(which):
            raise _at_fault(formula, f"an intermediate of shape {tuple(z.shape)} for {len(which)} tokens has lost them")
        slope = torch.zeros_like(error) if bar is None else bar.abs()
        if sign:  # what is moved may leave the domain of what follows: nothing moved then decides
            slope, error = slope.nan_to_num(nan=0.0, posinf=0.0), error.nan_to_num(nan=0.0, posinf=0.0)
        made.append((slope, error))
    return made


def _at_fault(formula: Formula, reason: str) -> HarnessError:
    family = formula.family
    return HarnessError(
        f"the {family.slot} family {family.name!r} declares its roundings, but its formula `{formula.method}` cannot "
        f"be taken apart: {reason}. Tokens must stay on the first axis, and no value may decide what is computed; or "
        "give the family a bound of its own"
    )


@functools.lru_cache(maxsize=64)
def _taken_apart(formula: Formula, shapes: tuple[tuple[int, ...], ...]) -> GraphModule:
    """The operations of the formula for inputs of these shapes."""
    from torch._decomp import get_decompositions  # as every compiler backend takes them

    composite = ["sigmoid_backward", "tanh_backward", "_softmax_backward_data", "_log_softmax_backward_data"]
    composite += ["silu_backward", "softplus_backward"]
    table: Any = get_decompositions([getattr(torch.ops.aten, name) for name in composite])
    noise = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=noise, dtype=torch.float64) for shape in shapes]
    try:
        return make_fx(torch.func.functionalize(formula.__call__), decomposition_table=table)(*given)
    except Exception as error:  # of somebody else's formula, whatever it does
        raise _at_fault(formula, f"{type(error).__name__}: {error}") from error


class _Watch(Interpreter):
    """Runs the operations one by one with a graph, moves what each gave by `sign` times its error, and keeps both.

    Attributes:
        seen: an intermediate, and the error of each of its numbers.
    """

    def __init__(self, module: GraphModule, sign: int, r: Rounding) -> None:
        super().__init__(module)
        self.sign, self.r = sign, r
        self.seen: list[tuple[Tensor, Tensor]] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operation."""
        name = getattr(target, "_schema", None) and target._schema.name.partition("::")[2]
        if name in ("detach", "alias", "lift_fresh"):
            return args[0]
        out = super().call_function(target, args, kwargs)
        matrices = bool(name) and "linalg" in name
        if not name or name in _EXACT:
            return out
        if isinstance(out, Tensor):
            return self._noted(name, args, out, lambda: _made(name, target, args, kwargs, out, self.r))
        if matrices and isinstance(out, (tuple, list)):
            made = [self._noted(name, args, each, functools.partial(_of_matrices, each, self.r)) for each in out]
            return type(out)(made) if type(out) in (tuple, list) else made
        return out

    def _noted(self, name: str, args: Any, out: Any, error: Callable[[], Tensor]) -> Any:
        """What came out, moved by its error where everything is."""
        if not _moves(out):
            return out
        with torch.no_grad():
            off = error()
            self.seen.extend(_read(name, args, self.r))
        if self.sign:
            out = out + self.sign * torch.where(torch.isfinite(off), off, 0.0)
        self.seen.append((out, off))
        return out


def _moves(given: Any) -> bool:
    return isinstance(given, Tensor) and given.requires_grad


def _made(name: str, target: Callable[..., Any], args: Any, kwargs: Any, out: Tensor, r: Rounding) -> Tensor:
    """What an operation may add to each number that it gives."""
    u = r.unit
    if name in _SUMS or name in _PRODUCTS:
        sizes = target(*(a.abs() if isinstance(a, Tensor) else a for a in args), **kwargs).abs()
        if name in _PRODUCTS:
            return r.dot(args[-1].shape[-2 if args[-1].ndim > 1 else -1] + 2) * sizes + r.tiny
        terms = args[0].shape[args[1]] if name == "cumsum" else max(1, args[0].numel() // max(1, out.numel()))
        return r.gamma(terms + (name == "mean")) * sizes + r.tiny
    if name in ("_softmax", "_log_softmax"):  # as `properties.bounds.softmax`
        relative = u * (args[0].shape[args[1]] + 8 + 4 * args[0].abs().amax(args[1], keepdim=True))
        return relative * (out if name == "_softmax" else torch.ones_like(out)) + r.tiny
    if name == "logsumexp":
        top = args[0].abs().amax(args[1], keepdim=len(args) > 2 and args[2])
        return u * (args[0].numel() // max(1, out.numel()) + 8 + 2 * top + out.abs())
    if "linalg" in name:
        return _of_matrices(out, r)
    if name in _ABSOLUTE:
        return torch.full_like(out, _ABSOLUTE[name] * u)
    if name == "silu":
        return _ABSOLUTE["sigmoid"] * u * args[0].abs()
    return (1 if name in _ONCE else _UNITS) * u * out.abs() + r.tiny


def _read(name: str, args: Any, r: Rounding) -> list[tuple[Tensor, Tensor]]:
    """What an operation may do to what it reads: exp2(z log2 e) rounds its argument twice, and a solver solves a system
    that is near the given one."""
    if name == "exp" and _moves(args[0]):
        return [(args[0], 2 * r.unit * args[0].abs())]
    if "linalg" in name:
        return [(a, _of_matrices(a, r)) for a in args if _moves(a)]
    return []


def _of_matrices(a: Tensor, r: Rounding) -> Tensor:
    """n units of the largest entry of each matrix: Gaussian elimination with pivoting, without growth of its pivots."""
    return a.shape[-1] * r.unit * a.abs().amax((-1, -2), keepdim=True).expand_as(a)
