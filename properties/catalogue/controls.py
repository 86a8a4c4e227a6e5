"""The catalogue of correct implementations that compute otherwise: what no law may accuse.

Each differs from the reference in arithmetic alone: the order of a sum, the domain of the iteration, the formula of
a gate, the place of a division, the layout of a tensor or who writes the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from mhc_ref import PRESETS, Branch, Dialect, Mappings, Params, registry
from mhc_ref.block import by_channel, gates_read
from mhc_ref.dialect import Axis
from mhc_ref.packing import logits_shape, streams_of_logits
from mhc_ref.projection import compute_dtype
from properties.catalogue.controls_of_dtypes import CONTROLS as DTYPES
from properties.catalogue.controls_of_norms import CONTROLS as NORMS
from properties.catalogue.deviations.catalogue import find, title
from properties.catalogue.deviations.device import LeavesAutocast
from properties.core.deviant import DIM, Deviant, nearest_tf32, through_tf32
from properties.core.family import mix_of
from properties.core.implementation import Implementation
from properties.core.shelves import beside
from properties.core.slips import Control, Controls

CONTROLS = Controls()
control = CONTROLS.control


@control("linear")
class Linear(Deviant):
    """The literal formulas, in the linear domain."""

    compilable = True

    def prepare(self) -> None:
        self.graph_capturable = mix_of(self.computed).CAPTURABLE


# The order of sums


class Summed(Deviant):
    """Every sum runs through `total`."""

    def total(self, terms: Tensor, dim: int) -> Tensor:
        """The sum over one dimension, which it keeps."""
        raise NotImplementedError

    def line_sum(self, m: Tensor, axis: Axis) -> Tensor:
        return self.total(m, DIM[axis])

    def mean_square(self, x: Tensor) -> Tensor:
        if self.norm_axes() == (-1,):
            return self.total(x.square(), -1) / x.shape[-1]
        return self.total(x.square().flatten(-2), -1).unsqueeze(-1) / (x.shape[-1] * x.shape[-2])

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        return self.total(left.unsqueeze(-1) * right.unsqueeze(-3), -2).squeeze(-2)

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        if not self.computed.shared_projection:
            return self.product(state.flatten(-2).unsqueeze(-2), phi).squeeze(-2)
        by_stream = self.product(state, phi)
        return torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self.total(by_channel(h_pre, x) * x, -2).squeeze(-2)

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return self.product(self.operator(h_res).to(x.dtype), x)


@control("reversed")
class Reversed(Summed):
    """Every sum runs one term after the other, from the last to the first."""

    def total(self, terms: Tensor, dim: int) -> Tensor:
        return terms.flip(dim).cumsum(dim).narrow(dim, -1, 1)


@control("tiled")
class Tiled(Reversed):
    """Tokens are computed in tiles of 64, the last one filled up with zeros; sums run from the last term.

    The order of sums is not enough for bits that do not depend on the batch: a vectorised exp computes the elements
    that fill no vector by another formula. In tiles of one shape no token is among those.
    """

    batch_invariant = True

    def tiled(self, step: Callable[..., Tensor | tuple[Tensor, ...]], *values: tuple[Tensor, int]) -> list[Tensor]:
        """`step` tile by tile; a value comes with the number of its axes that are not tokens."""
        first, axes = values[0]
        tokens = first.shape[: first.ndim - axes]
        count = math.prod(tokens)
        padded = [
            pad(value.reshape(count, *value.shape[value.ndim - axes :]), (*(0, 0) * axes, 0, -count % 64))
            for value, axes in values
        ]
        tiles = zip(*(value.split(64) for value in padded), strict=True)
        results = [found if isinstance(found := step(*tile), tuple) else (found,) for tile in tiles]
        whole = [torch.cat(parts)[:count] for parts in zip(*results, strict=True)]
        return [value.reshape(*tokens, *value.shape[1:]) for value in whole]

    def project(self, logits: Tensor) -> Tensor:
        shape = logits_shape(streams_of_logits(logits.shape, self.computed), self.computed)
        return self.tiled(super().project, (logits, len(shape)))[0]

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Mappings(*self.tiled(partial(super().mappings, params=params), (x, 2)))

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self.tiled(super().pre, (x, 2), (h_pre, h_pre.ndim - x.ndim + 2))[0]

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self.tiled(super().post, (x, 2), (y, 1), (h_post, 1), (h_res, 2))[0]


@control("pairwise")
class Pairwise(Summed):
    """Every sum is a balanced tree."""

    def total(self, terms: Tensor, dim: int) -> Tensor:
        while terms.shape[dim] > 1:
            half = terms.shape[dim] // 2
            paired = terms.narrow(dim, 0, half) + terms.narrow(dim, half, half)
            terms = torch.cat([paired, terms.narrow(dim, 2 * half, terms.shape[dim] - 2 * half)], dim)
        return terms


@control("compensated")
class Compensated(Summed):
    """Every sum carries its rounding error along (Kahan)."""

    chains = 128
    """A sum of more terms runs in so many chains beside one another, which are then added up."""

    def total(self, terms: Tensor, dim: int) -> Tensor:
        if terms.shape[dim] > self.chains:
            shape = list(terms.shape)
            shape[dim] = -shape[dim] % self.chains
            whole = torch.cat([terms, terms.new_zeros(shape)], dim)
            terms = self.total(torch.stack(whole.split(self.chains, dim)), 0).squeeze(0)
        first, *rest = terms.split(1, dim)
        total, lost = first, torch.zeros_like(first)
        for term in rest:
            term = term - lost
            new = total + term
            lost = ((new - total) - term).detach()
            total = new
        return total


# The formula of a step


@control("einsum")
class Einsum(Deviant):
    """Projection, branch input and next state are one einsum each, the last over h_post beside h_res."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        if self.computed.shared_projection:
            return super().matmul(state, phi)
        return torch.einsum("...nc,ncm->...m", state, phi.view(*state.shape[-2:], -1))

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return torch.einsum("...nc,...nc->...c", by_channel(h_pre, x).expand(x.shape), x)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        wide = self.widened(x)
        fused = torch.cat([self.operator(h_res).to(wide.dtype), h_post.to(wide.dtype).unsqueeze(-1)], -1)
        inputs = torch.cat([wide, self.widened(y).unsqueeze(-2)], -2)
        return torch.einsum("...ij,...jc->...ic", fused, inputs).to(x.dtype)


@control("float64-inside")
class Float64Inside(Deviant):
    """Everything is computed in float64 and rounded once, at the end."""

    def widened(self, values: Tensor) -> Tensor:
        return values.double()

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits).to(compute_dtype(logits.dtype))

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Mappings(*(mapping.to(compute_dtype(x.dtype)) for mapping in self.exact_mappings(x, params)))

    def exact_mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(x.double(), self.exact(params))

    def exact(self, params: Params) -> Params:
        weight = None if params.norm_weight is None else params.norm_weight.double()
        return Params(params.phi.double(), params.bias.double(), params.alpha.double(), weight)

    def head(self, x: Tensor, params: Params) -> Tensor:
        return super().head(x, self.exact(params))

    def _derived_block(self, x: Tensor, params: Params, branch: Branch, before: Tensor | None) -> tuple[Tensor, Tensor]:
        h_pre, h_post, h_res = self.exact_mappings(x, params)
        y = branch(self.pre(x, gates_read(h_pre, before, self.computed)))
        return self.post(x, y, h_post, h_res), h_pre


# What matrix products read


class Tf32(Deviant):
    """Every matrix product reads its operands as `rounded` has them; on a GPU torch's own switch does that."""

    def rounded(self, values: Tensor) -> Tensor:
        """A float32 operand; float64 is left alone."""
        raise NotImplementedError

    def read(self, values: Tensor) -> Tensor:
        return self.rounded(values) if values.dtype == torch.float32 and not values.is_cuda else values

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(self.read(state), self.read(phi))

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().gathered(self.read(x), self.read(h_pre))

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return super().mixed(self.read(x), self.read(h_res))

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return super().spread(self.read(y), self.read(h_post))


@control("tf32")
class Tf32Rounded(Tf32):
    """Matrix products read their operands rounded to TensorFloat-32, as declared."""

    products = "tf32"

    def rounded(self, values: Tensor) -> Tensor:
        return nearest_tf32(values)


@control("tf32-truncated")
class Tf32Truncated(Tf32):
    """Matrix products read their operands cut to TensorFloat-32, as declared."""

    products = "tf32-truncated"

    def rounded(self, values: Tensor) -> Tensor:
        return through_tf32(values)


@control("autocast-left")
class AutocastLeft(LeavesAutocast):
    """What is computed is computed outside of torch.autocast, as declared."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().layers(x, params, branches)  # its own, which laws of fused layers are asked of


# The backward pass


@control("recomputed")
class Recomputed(Deviant):
    """The coefficients are not saved but computed again in the backward pass."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found: Any = checkpoint(super().mappings, x, params, use_reentrant=False)
        return found


@control("recomputed-within-the-pass")
class RecomputedWithinThePass(Deviant):
    """The coefficients are computed again in the backward pass, by checkpointing that calls a backward pass within it,
    which refuses `torch.autograd.grad`."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        def again(x: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            return tuple(super(RecomputedWithinThePass, self).mappings(x, Params(*parts)))

        plain = super().mappings(x, params)
        if not any(one.requires_grad for one in plain):  # which this checkpointing refuses
            return plain
        found: Any = checkpoint(again, x, *params, use_reentrant=True)
        return Mappings(*found)


@control("branch-recomputed")
class BranchRecomputed(Deviant):
    """Branches are called again in the backward pass, by torch's checkpointing, which puts hooks on saved tensors up
    around them, and ends them early."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        def of_a_copy(u: Tensor) -> Tensor:
            return branch(u.clone())  # it may write to what it reads, and is called again

        def recomputed(u: Tensor) -> Tensor:
            y: Any = checkpoint(of_a_copy, u, use_reentrant=False)
            return y

        return super().block(x, params, recomputed if torch.is_grad_enabled() else branch)


CATALOGUE: dict[str, Control] = {**CONTROLS, **DTYPES, **NORMS}
"""Every control by its name: those here, of dtypes and of norms, and those that our families list."""
for _name in dict.fromkeys(name for _, name in registry.BUILT_IN):
    if _found := beside("controls", _name):
        CATALOGUE.update(_found.CONTROLS)


def build(name: str, dialect: Dialect | None = None) -> Implementation:
    """The control of that name in a dialect, the first preset where none is given.

    Raises:
        LookupError: there is none of that name, or it computes what `linear` does in the dialect.
    """
    found, dialect = find(CATALOGUE, name, "control"), dialect or PRESETS.default
    if not found.applies(dialect):
        raise LookupError(f"{name} is no other arithmetic for {title(dialect)}. It is: {found.statement}")
    return found.make(dialect)
