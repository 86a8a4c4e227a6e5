"""A correct implementation in the linear domain, cut into steps so small that a realistic slip changes one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect, Mappings, Params
from mhc_ref.block import check_params
from mhc_ref.dialect import FIELDS, Axis
from mhc_ref.families.permutations import permutation_matrices
from mhc_ref.projection import compute_dtype, residual_size, streams_of_logits
from properties.core.implementation import Implementation

DIM: dict[Axis, int] = {"row": -1, "column": -2}


class Deviant(Implementation):
    """Every dialect by the literal formulas, M = exp(Z - max) and divisions, one method a step.

    Unmodified it is correct (the control `linear`) wherever no line of exp(Z - max) underflows. A deviation overrides
    a step, or declares one dialect and computes another: `dialect` is what it claims, `computed` what it does.
    """

    tunable = frozenset(FIELDS)

    def __init__(self, dialect: Dialect, name: str = "", change: Callable[[Dialect], Dialect] | None = None) -> None:
        self.dialect = dialect
        self.name = name
        self.computed = change(dialect) if change else dialect
        self._change = change
        if dialect.residual == "permutations":
            self.streams = (1, 2, 3, 4, 5)
        self.prepare()

    def prepare(self) -> None:
        """What a stateful deviation remembers between calls begins here."""

    def tuned(self, **fields: Any) -> Implementation:
        return type(self)(self.dialect.with_(**fields), self.name, self._change)

    # Logits to h_res

    def project(self, logits: Tensor) -> Tensor:
        logits = self.widened(logits)
        if self.computed.residual == "permutations":
            return self.mixture(logits)
        if self.computed.residual == "identity":
            return torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device).expand(logits.shape)
        return logits if self.computed.residual == "unconstrained" else self.sinkhorn(logits)

    def widened(self, values: Tensor) -> Tensor:
        """To the compute dtype: float64 stays, the rest becomes float32."""
        return values.to(compute_dtype(values.dtype))

    def sinkhorn(self, logits: Tensor) -> Tensor:
        m = self.started(logits)
        for axis in self.half_steps():
            m = self.half_step(m, axis)
        return m

    def started(self, logits: Tensor) -> Tensor:
        if self.computed.start == "softmax":
            return self.softmax(logits) + self.computed.entry_eps
        return self.exp(logits - self.shift(logits)) + self.computed.entry_eps

    def softmax(self, logits: Tensor) -> Tensor:
        return logits.softmax(DIM[self.computed.start_axis])

    def exp(self, logits: Tensor) -> Tensor:
        return logits.exp()

    def shift(self, logits: Tensor) -> Tensor:
        """What is subtracted before exp: the maximum over the first axis, nothing where no iteration follows."""
        if not self.computed.iterations:
            return torch.zeros_like(logits)
        return logits.amax(DIM[self.computed.first_axis], keepdim=True)

    def half_steps(self) -> list[Axis]:
        """The axes by which the started matrix is divided, in order."""
        axes: list[Axis] = [self.computed.first_axis, self.computed.last_axis] * self.computed.iterations
        return axes[1:] if self.computed.softmax_is_first_half_step else axes

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return m / self.denominator(self.line_sum(m, axis))

    def line_sum(self, m: Tensor, axis: Axis) -> Tensor:
        return m.sum(DIM[axis], keepdim=True)

    def denominator(self, line_sum: Tensor) -> Tensor:
        eps = self.computed.denominator_eps
        return line_sum + eps if self.computed.denominator == "add" else line_sum.clamp_min(eps)

    def mixture(self, logits: Tensor) -> Tensor:
        return torch.einsum("...k,kij->...ij", logits.softmax(-1), self.matrices(logits.shape[-1]).to(logits))

    def matrices(self, count: int) -> Tensor:
        return permutation_matrices(streams_of_logits(torch.Size((count,)), self.computed))

    # State to mappings

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        check_params(params, x.shape[-2], x.shape[-1], self.dialect)
        pre, post, res = self.logits(self.widened(x), params)
        return Mappings(self.h_pre(pre), self.h_post(post), self.h_res(res, x.shape[-2]))

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        """The logits of pre [..., n], post [..., n] and res [..., R] of a widened state."""
        n = x.shape[-2]
        dynamic = self.split(self.dynamic(self.projected(x, params)), n)
        static = self.split(params.bias, n)
        return [self.gated(*parts) for parts in zip(dynamic, params.alpha, static, strict=True)]

    def projected(self, x: Tensor, params: Params) -> Tensor:
        return self.matmul(self.normalised(x, params.norm_weight), params.phi)

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        unit = x / self.rms(self.mean_square(x))
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().mean(self.norm_axes(), keepdim=True)

    def norm_axes(self) -> tuple[int, ...]:
        return (-2, -1) if self.computed.norm_over == "streams" else (-1,)

    def rms(self, mean_square: Tensor) -> Tensor:
        """The root with its eps; 1 in place of an exact 0, since a zero state is normalised to 0."""
        if self.computed.rms_eps and self.computed.rms_eps_inside:
            return (mean_square + self.computed.rms_eps).sqrt()
        zero = mean_square == 0
        root = torch.where(zero, 1.0, mean_square).sqrt()
        return torch.where(zero, self.computed.rms_eps or 1.0, root + self.computed.rms_eps)

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return unit * weight

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        """[..., n, C] times phi, columns pre | post | res row-major."""
        if not self.computed.shared_projection:
            return state.flatten(-2) @ phi
        by_stream = state @ phi
        return torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)

    def dynamic(self, projected: Tensor) -> Tensor:
        return projected.tanh() if self.computed.dynamic == "tanh" else projected

    def split(self, packed: Tensor, n: int) -> list[Tensor]:
        """pre | post | res of the last axis."""
        return list(packed.split([n, n, residual_size(n, self.computed)], -1))

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return gate * dynamic + static

    def h_pre(self, logits: Tensor) -> Tensor:
        return self.squash(logits, self.computed.pre) + self.computed.pre_eps

    def h_post(self, logits: Tensor) -> Tensor:
        return self.computed.post_scale * self.squash(logits, self.computed.post)

    def squash(self, logits: Tensor, kind: str) -> Tensor:
        if kind == "sigmoid":
            return logits.sigmoid()
        return logits.softmax(-1) if kind == "softmax" else logits

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return self.project(logits if self.computed.residual == "permutations" else logits.unflatten(-1, (n, n)))

    # Mappings to the next state; block, layers and stack are what Implementation derives from these

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self.gathered(self.widened(x), h_pre).to(x.dtype)

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return (h_pre.unsqueeze(-1) * x).sum(-2)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return (self.mixed(self.widened(x), h_res) + self.spread(self.widened(y), h_post)).to(x.dtype)

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return self.operator(h_res).to(x.dtype) @ x

    def operator(self, h_res: Tensor) -> Tensor:
        return h_res.mT if self.computed.transposed else h_res

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return h_post.unsqueeze(-1) * y.unsqueeze(-2)

    # Streams begin and end

    def expand(self, h: Tensor, n: int) -> Tensor:
        return mhc_ref.expand(h, n)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if self.computed.collapse == "sum":
            return self.widened(x).sum(-2).to(x.dtype)
        if self.computed.collapse == "mean":
            return self.widened(x).mean(-2).to(x.dtype)
        if params is None:
            raise ValueError("collapse='head' needs the parameters of the head; none were given")
        return self.pre(x, self.head(self.widened(x), params))

    def head(self, x: Tensor, params: Params) -> Tensor:
        """The weights of the streams in the final gated sum."""
        n = x.shape[-2]
        state = self.normalised(x, params.norm_weight)
        projected = (
            state @ params.phi[:, 0] if self.computed.shared_projection else state.flatten(-2) @ params.phi[:, :n]
        )
        return self.h_pre(self.gated(self.dynamic(projected), params.alpha[0], params.bias[:n]))


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Exactly `value`, differentiated as if it were `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())
