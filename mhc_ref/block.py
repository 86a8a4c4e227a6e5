"""One hyper-connection block: x' = A x + h_post^T F(h_pre x), mHC eq. (3), (7), (8), in every dialect.

Precision contract: every stage in float64 for a float64 state, otherwise in float32; the branch takes and gives,
and the block returns, the dtype of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.packing import logits_shape, params_shapes, residual_size
from mhc_ref.projection import compute_dtype, project
from mhc_ref.registry import formulas

Branch = Callable[[Tensor], Tensor]
"""The layer F: [..., C] -> [..., C], in the dtype of the state."""


class Params(NamedTuple):
    """The parameters of one block: float64 for float64 states, otherwise float32.

    Attributes:
        phi: [n*C, 2n + R], columns pre | post | res row-major; [C, 2 + R/n] where the projection is shared.
            R = n*n, or what the mix of the dialect says (`mhc_ref.packing`).
        bias: [2n + R].
        alpha: [3], the gates of pre, post and res; [2] where R = 0.
        norm_weight: [n*C] or None, multiplies the normalised state.
    """

    phi: Float[Tensor, "K M"]
    bias: Float[Tensor, " B"]
    alpha: Float[Tensor, " G"]
    norm_weight: Float[Tensor, " nC"] | None = None


class Mappings(NamedTuple):
    """pre [..., n], post [..., n], res [..., n, n]; res as emitted, before `transposed`."""

    pre: Float[Tensor, "*tokens n"]
    post: Float[Tensor, "*tokens n"]
    res: Float[Tensor, "*tokens n n"]


def normalise(x: Float[Tensor, "*tokens n C"], weight: Tensor | None, dialect: Dialect) -> Float[Tensor, "*tokens n C"]:
    """The normalised state, mHC eq. (7), (15), by the norm of the dialect."""
    normalised = formulas("norm", dialect.norm_over).normalise(x.to(compute_dtype(x.dtype)), dialect)
    return normalised if weight is None else normalised * weight.view(x.shape[-2:])


def gated_logits(x: Float[Tensor, "*tokens n C"], params: Params, dialect: Dialect) -> Float[Tensor, "*tokens B"]:
    """alpha * dynamic(x^ phi) + bias, the logits of pre | post | res row-major on the last axis."""
    n, channels = x.shape[-2:]
    check_params(params, n, channels, dialect)
    state = normalise(x, params.norm_weight, dialect)
    if dialect.shared_projection:
        by_stream = state @ params.phi
        projected = torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)
    else:
        projected = state.flatten(-2) @ params.phi
    projected = formulas("dynamic", dialect.dynamic).activate(projected, dialect)
    sizes = (n, n, residual_size(n, dialect))
    gates = torch.cat([gate.expand(size) for gate, size in zip(params.alpha, sizes, strict=False)])
    return gates * projected + params.bias


def squash(logits: Float[Tensor, "*tokens n"], kind: str, dialect: Dialect) -> Float[Tensor, "*tokens n"]:
    """n logits as n weights, by a gate."""
    return formulas("gate", kind).gates(logits, dialect)


def head_weights(x: Float[Tensor, "*tokens n C"], head: Params, dialect: Dialect) -> Float[Tensor, "*tokens n"]:
    """pre(alpha_0 * dynamic(x^ phi) + bias) + pre_eps: h_pre alone, of parameters that may have nothing else."""
    n = x.shape[-2]
    state = normalise(x, head.norm_weight, dialect)
    projected = state @ head.phi[:, 0] if dialect.shared_projection else state.flatten(-2) @ head.phi[:, :n]
    projected = formulas("dynamic", dialect.dynamic).activate(projected, dialect)
    return squash(head.alpha[0] * projected + head.bias[:n], dialect.pre, dialect) + dialect.pre_eps


def mappings(x: Float[Tensor, "*tokens n C"], params: Params, dialect: Dialect) -> Mappings:
    """The three mappings of every token, mHC eq. (8), in the compute dtype of x.

    Raises:
        ValueError: params that do not fit the state; the message names the field, its shape and the expected one.
    """
    n = x.shape[-2]
    pre, post, res = gated_logits(x, params, dialect).split([n, n, residual_size(n, dialect)], -1)
    return Mappings(
        squash(pre, dialect.pre, dialect) + dialect.pre_eps,
        dialect.post_scale * squash(post, dialect.post, dialect),
        project(res.unflatten(-1, logits_shape(n, dialect)), dialect),
    )


def pre(x: Float[Tensor, "*tokens n C"], h_pre: Float[Tensor, "*tokens n"]) -> Float[Tensor, "*tokens C"]:
    """The branch input h_pre x, in the dtype of the state."""
    return (h_pre.unsqueeze(-1) * x.to(compute_dtype(x.dtype))).sum(-2).to(x.dtype)


def post(
    x: Float[Tensor, "*tokens n C"],
    y: Float[Tensor, "*tokens C"],
    h_post: Float[Tensor, "*tokens n"],
    h_res: Float[Tensor, "*tokens n n"],
    dialect: Dialect,
) -> Float[Tensor, "*tokens n C"]:
    """A x + h_post^T y with A = h_res, or its transpose where the dialect says so, in the dtype of the state."""
    compute = compute_dtype(x.dtype)
    operator = h_res.transpose(-1, -2) if dialect.transposed else h_res
    mixed = operator.to(compute) @ x.to(compute)
    return (mixed + h_post.unsqueeze(-1) * y.to(compute).unsqueeze(-2)).to(x.dtype)


def block(
    x: Float[Tensor, "*tokens n C"], params: Params, branch: Branch, dialect: Dialect
) -> Float[Tensor, "*tokens n C"]:
    """x' = A x + h_post^T F(h_pre x), mHC eq. (3)."""
    h_pre, h_post, h_res = mappings(x, params, dialect)
    return post(x, branch(pre(x, h_pre)), h_post, h_res, dialect)


def check_params(params: Params, n: int, channels: int, dialect: Dialect) -> None:
    """Raise ValueError where a parameter does not have the shape that n, C and the dialect ask for."""
    expected = params_shapes(n, channels, dialect)._asdict()
    if params.norm_weight is None:
        del expected["norm_weight"]
    for name, shape in expected.items():
        given = tuple(getattr(params, name).shape)
        if given != shape:
            raise ValueError(
                f"Params.{name} has shape {given}; a state of {n} streams of {channels} channels needs {shape} "
                f"(residual={dialect.residual!r}, shared_projection={dialect.shared_projection})"
            )
