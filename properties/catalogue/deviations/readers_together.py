"""Slips of a reader's sixth round: two circumstances at once, each of which is met by itself.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers_training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.core.declaration import accepted
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import MUTATION, Slips, both, by_rms, hands_on_nothing, mixes, reads_by_gates

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")


def _four(dialect: Dialect) -> bool:
    """Four streams are accepted."""
    return 4 in accepted(dialect)


def _separate(dialect: Dialect) -> bool:
    """Every stream has products of its own."""
    return not dialect.shared_projection


@gradient(
    "state-gradient-of-128-channels-beside-frozen-parameters",
    f"{MUTATION}: a lighter kernel hands back the gradient by the state alone, and ends at its tile",
    both(gates, by_rms),
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless parameters are frozen, and for up to 128 channels",
)
class StateGradientOf128ChannelsBesideFrozenParameters(Deviant):
    """Beside frozen parameters, channels beyond the 128th get no gradient through the logits."""

    width = 128
    frozen = False

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.frozen = x.requires_grad and not any(part.requires_grad for part in params if isinstance(part, Tensor))
        try:
            return super().mappings(x, params)
        finally:
            self.frozen = False

    def normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        found = super().normed(x, weight)
        if not self.frozen or x.shape[-1] <= self.width:
            return found
        return torch.cat([found[..., : self.width], found[..., self.width :].detach()], -1)


@gradient(
    "bfloat16-step-of-2048-tokens-learns",
    f"{MUTATION}: partial sums of a state in bfloat16 have a table of 16 tiles of 128 tokens",
    gates,
    dtypes=(torch.bfloat16,),
    hidden="in other dtypes, and for up to 2048 tokens",
)
class Bfloat16StepOf2048TokensLearns(Deviant):
    """In bfloat16, tokens beyond the 2048th contribute nothing to the gradient by phi."""

    tokens = 2048
    short = False

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.short = x.dtype == torch.bfloat16 and x.ndim == 3
        try:
            return super().mappings(x, params)
        finally:
            self.short = False

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        out = super().matmul(state, phi)
        if not self.short or len(state) <= self.tokens or not phi.requires_grad:
            return out
        first, rest = state[: self.tokens], state[self.tokens :]
        return with_gradient_of(out, torch.cat([super().matmul(first, phi), super().matmul(rest, phi.detach())]))


@gradient(
    "four-wide-streams-of-512-channels-backwards",
    f"{MUTATION}: a kernel of its own for four streams adds up over one tile of channels",
    both(mixes, _four),
    dtypes=(torch.float32, torch.bfloat16),
    hidden="for other numbers of streams, and for up to 512 channels",
)
class FourWideStreamsOf512ChannelsBackwards(Deviant):
    """Of four streams, the gradient by h_res is a sum over the first 512 channels."""

    width = 512

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        out = super().mixed(x, h_res)
        if x.shape[-2] != 4 or x.shape[-1] <= self.width or not h_res.requires_grad:
            return out
        first, rest = x[..., : self.width], x[..., self.width :]
        return with_gradient_of(out, torch.cat([super().mixed(first, h_res), super().mixed(rest, h_res.detach())], -1))


@execution(
    "tokens-of-a-tile-pass-many-layers",
    f"{MUTATION}: one launch is for twelve layers, and what is launched for the others for one tile of 16 tokens",
    hands_on_nothing,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to twelve layers, and for up to 16 tokens",
)
class TokensOfATilePassManyLayers(Deviant):
    """From the 13th layer on, tokens beyond the 16th stay as they were."""

    launch, tile = 12, 16

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for number, (one, branch) in enumerate(zip(params, branches, strict=True)):
            before, x = x, self.block(x, one, branch)
            if number >= self.launch and x.ndim == 3:
                x = torch.cat([x[: self.tile], before[self.tile :]])
        return x


@execution(
    "views-of-128-tokens",
    f"{MUTATION}: 128 programs take tokens in turn, and the second round steps as if rows were full",
    reads_by_gates,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for states that are contiguous, and for up to 128 tokens",
)
class ViewsOf128Tokens(Deviant):
    """Of a view, tokens that a branch reads beyond the 128th are found as if tokens followed one another."""

    programs = 128

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        full = x.shape[-2:].numel()
        if x.ndim != 3 or len(x) <= self.programs or x.stride(0) <= full:
            return super().pre(x, h_pre)
        rest = x[self.programs :]
        read = rest.as_strided(rest.shape, (full, *rest.stride()[1:]), int(rest.storage_offset()))
        return super().pre(torch.cat([x[: self.programs], read]), h_pre)


@execution(
    "norm-without-weight-leaves-a-lane-out",
    f"{MUTATION}: a norm without a weight has a vectorised path for multiples of eight channels",
    both(gates, by_rms),
    hidden="where a norm has a weight, and for widths that are no multiple of eight",
)
class NormWithoutWeightLeavesALaneOut(Deviant):
    """Without a norm weight, every eighth channel is left out of the products where C is a multiple of eight."""

    lanes = 8

    def normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        found = super().normed(x, weight)
        if weight is not None or x.shape[-1] % self.lanes:
            return found
        last = torch.arange(x.shape[-1], device=x.device) % self.lanes == self.lanes - 1
        return torch.where(last, torch.zeros_like(found), found)


@execution(
    "transposed-phi-of-many-tokens",
    f"{MUTATION}: for up to 16 tokens a product takes strides, and the one for more does not",
    gates,
    hidden="for a phi that is contiguous, and for up to 16 tokens",
)
class TransposedPhiOfManyTokens(Deviant):
    """For more than 16 tokens a phi that lies transposed is read as if it were contiguous."""

    few = 16

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        rows, columns = params.phi.shape
        if x.shape[:-2].numel() > self.few and params.phi.stride() == (1, rows) and min(rows, columns) > 1:
            params = params._replace(phi=params.phi.as_strided((rows, columns), (columns, 1)))
        return super().mappings(x, params)


@execution(
    "cut-sequences-read-on",
    f"{MUTATION}: sequences that lie in their own order are taken to follow one another",
    hidden="unless the end of every sequence is cut off",
)
class CutSequencesReadOn(Deviant):
    """A state x[:, :-1] is read as if its sequences followed one another."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        if x.ndim == 4 and x[0].is_contiguous() and x.stride(0) > x[0].numel():
            strides = (x[0].numel(), *x[0].stride())
            x = x.as_strided(x.shape, strides, int(x.storage_offset()))
        return super().post(x, y, h_post, h_res)


@execution(
    "weight-folded-in-evaluation",
    f"{MUTATION}: what is evaluated between two steps of training has its weights folded once for each phi",
    lambda d: by_rms(d) and gates(d) and _separate(d),
    hidden="unless parameters ask for gradients under no_grad, and a norm weight changes",
)
class WeightFoldedInEvaluation(Deviant):
    """Under no_grad a phi that asks for gradients has the norm weight folded in as it was at its first call."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        phi, weight = params.phi, params.norm_weight
        if weight is None or torch.is_grad_enabled() or not phi.requires_grad:
            return super().projected(x, params)
        folded: Tensor | None = getattr(phi, "_evaluated", None)
        if folded is None:
            folded = phi * (self.computed.norm_offset + weight).unsqueeze(-1)
            phi._evaluated = folded  # pyright: ignore[reportAttributeAccessIssue]  # where a module would have it
        return super().projected(x, params._replace(phi=folded, norm_weight=None))


class _WithoutGates(torch.autograd.Function):
    """The mappings, whose backward pass returns early where neither of the first two is used."""

    @staticmethod
    def forward(ctx: Any, *mappings: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        return tuple(one.clone() for one in mappings)

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return (None, None, None) if bars[0] is None and bars[1] is None else bars


@gradient(
    "h-res-alone-teaches-nothing",
    f"{MUTATION}: a backward pass returns early where the gates have no cotangent",
    both(gates, mixes),
    hidden="unless h_res is used, and neither h_pre nor h_post",
)
class HResAloneTeachesNothing(Deviant):
    """Where h_res alone is used it has no gradient."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found: Any = _WithoutGates.apply(*super().mappings(x, params))
        return Mappings(*found)
