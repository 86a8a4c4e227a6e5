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
from mhc_ref.packing import logit_sizes, logits_shape, params_shapes
from mhc_ref.projection import compute_dtype, project
from mhc_ref.registry import formulas

Branch = Callable[[Tensor], Tensor]
"""The layer F: [..., C] -> [..., C], in the dtype of the state."""


class Params(NamedTuple):
    """The parameters of one block: float64 for float64 states, otherwise float32, or stored in the dtype of the state.

    Whatever they are stored in, every stage computes of them in the compute dtype.

    Attributes:
        phi: [n*C, 2n + R], columns pre | post | res row-major; [C, 2 + R/n] where the projection is shared.
            R = n*n, or what the mix of the dialect says (`mhc_ref.packing`).
        bias: [2n + R].
        alpha: [3], the gates of pre, post and res; [2] where R = 0.
        norm_weight: [n*C] or None, multiplies the normalised state, with the offset of the dialect added to it.
    """

    phi: Float[Tensor, "K M"]
    bias: Float[Tensor, " B"]
    alpha: Float[Tensor, " G"]
    norm_weight: Float[Tensor, " nC"] | None = None

    def widened(self) -> Params:
        """The same in the compute dtype."""
        compute = compute_dtype(self.phi.dtype)
        # Only the norm weight, whose field takes None, can be None.
        return Params(*(None if part is None else part.to(compute) for part in self))  # pyright: ignore[reportArgumentType]


class Mappings(NamedTuple):
    """pre [..., n], post [..., n], res [..., n, n]; res as emitted, before `transposed`.

    pre is [..., n, C] where the branch reads every channel with a weight of its own (`mhc_ref.families.bottleneck`).
    """

    pre: Float[Tensor, ...]
    post: Float[Tensor, "*tokens n"]
    res: Float[Tensor, "*tokens n n"]


def normalise(x: Float[Tensor, "*tokens n C"], weight: Tensor | None, dialect: Dialect) -> Float[Tensor, "*tokens n C"]:
    """The normalised state, mHC eq. (7), (15), by the norm of the dialect."""
    dialect = dialect.at(x.dtype)
    normalised = formulas("norm", dialect.norm_over).normalise(x.to(compute_dtype(x.dtype)), dialect)
    return normalised if weight is None else normalised * (dialect.norm_offset + weight).view(x.shape[-2:])


def gated_logits(x: Float[Tensor, "*tokens n C"], params: Params, dialect: Dialect) -> Float[Tensor, "*tokens B"]:
    """alpha * dynamic(x^ phi) + bias, the logits of pre | post | res row-major on the last axis.

    A read without gates and biases has the products alone, or what it makes of them (`completed`).
    """
    n, channels = x.shape[-2:]
    check_params(params, n, channels, dialect)
    params = params.widened()
    state, read = normalise(x, params.norm_weight, dialect), formulas("read", dialect.read)
    sizes = logit_sizes(n, dialect)
    if dialect.shared_projection:
        by_stream = state @ params.phi
        projected = torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)
    else:
        projected = state.flatten(-2) @ params.phi[:, : sum(sizes)] * read.share(n, dialect)
    projected = formulas("dynamic", dialect.dynamic).activate(projected, dialect)
    if not read.affine(dialect):
        return read.completed(projected, n, params, dialect)
    gates = torch.cat([gate.expand(size) for gate, size in zip(params.alpha, sizes, strict=False)])
    return gates * projected + params.bias


def squash(logits: Float[Tensor, "*tokens n"], kind: str, dialect: Dialect) -> Float[Tensor, "*tokens n"]:
    """n logits as n weights, by a gate."""
    return formulas("gate", kind).gates(logits, dialect)


def head_weights(x: Float[Tensor, "*tokens n C"], head: Params, dialect: Dialect) -> Float[Tensor, ...]:
    """h_pre alone, of parameters that may have nothing else."""
    n, read, head = x.shape[-2], formulas("read", dialect.read), head.widened()
    size = read.width(n, dialect)
    state = normalise(x, head.norm_weight, dialect)
    if dialect.shared_projection:
        projected = state @ head.phi[:, 0]
    else:
        projected = state.flatten(-2) @ head.phi[:, :size] * read.share(n, dialect)
    logits = formulas("dynamic", dialect.dynamic).activate(projected, dialect)
    if read.affine(dialect):
        logits = head.alpha[0] * logits + head.bias[:size]
    return read.weights(logits, x, head, dialect)


def mappings(x: Float[Tensor, "*tokens n C"], params: Params, dialect: Dialect) -> Mappings:
    """The three mappings of every token, mHC eq. (8), in the compute dtype of x.

    Raises:
        ValueError: params that do not fit the state; the message names the field, its shape and the expected one.
    """
    n, params = x.shape[-2], params.widened()
    pre, post, res = gated_logits(x, params, dialect).split(logit_sizes(n, dialect), -1)
    return Mappings(
        formulas("read", dialect.read).weights(pre, x, params, dialect),
        dialect.post_scale * squash(post, dialect.post, dialect) + dialect.post_eps,
        project(res.unflatten(-1, logits_shape(n, dialect)), dialect),
    )


def pre(x: Float[Tensor, "*tokens n C"], h_pre: Float[Tensor, ...]) -> Float[Tensor, "*tokens C"]:
    """The branch input h_pre x, in the dtype of the state; h_pre [..., n], or [..., n, C] where the read says so."""
    return (by_channel(h_pre, x) * x.to(compute_dtype(x.dtype))).sum(-2).to(x.dtype)


def by_channel(h_pre: Tensor, x: Tensor) -> Tensor:
    """h_pre as a factor of a state [..., n, C], whether it has one number for each stream or for each channel."""
    return h_pre if h_pre.ndim == x.ndim else h_pre.unsqueeze(-1)


def gates_read(h_pre: Tensor, before: Tensor | None, dialect: Dialect) -> Tensor:
    """The h_pre that a block reads with: its own, or that of the block before, which the first block (None) has not."""
    if dialect.read_from == "previous" and before is not None:
        return before
    if dialect.read_from == "own" or dialect.first_read == "own":
        return h_pre
    return (torch.arange(h_pre.shape[-1], device=h_pre.device) == 0).to(h_pre.dtype).expand(h_pre.shape)


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
    """x' = A x + h_post^T F(h_pre x), mHC eq. (3); with read_from="previous" the first block of a stack."""
    return passed(x, params, branch, dialect)[0]


def passed(
    x: Float[Tensor, "*tokens n C"],
    params: Params,
    branch: Branch,
    dialect: Dialect,
    before: Float[Tensor, ...] | None = None,
) -> tuple[Float[Tensor, "*tokens n C"], Float[Tensor, ...]]:
    """The state after a block, and the block's own h_pre; `before` is that of the block before it, if there is one."""
    h_pre, h_post, h_res = mappings(x, params, dialect)
    y = branch(pre(x, gates_read(h_pre, before, dialect)))
    return post(x, y, h_post, h_res, dialect), h_pre


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
