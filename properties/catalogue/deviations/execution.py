"""Slips of execution: the formula is right, and a shape, a batch, a buffer or an earlier call changes the answer."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.core.deviant import Deviant
from properties.core.family import dynamic_of
from properties.core.slips import MUTATION, Slips, by_rms, constrains, mixes, writes_by_logits

SLIPS = Slips()
execution = SLIPS.step("execution")


def flat_tokens(mapping: Tensor, axes: int) -> Tensor:
    """All token axes in one."""
    return mapping.reshape(-1, *mapping.shape[mapping.ndim - axes :])


def detached(mappings: Mappings) -> Mappings:
    """Values without a graph."""
    return Mappings(*(mapping.detach() for mapping in mappings))


# Inputs and buffers


@execution("state-overwritten", f"{MUTATION}: an output buffer that aliases the residual")
class StateOverwritten(Deviant):
    """The block writes the next state over the state that it was given."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        x.data.copy_(result.data)
        return result


@execution("logits-overwritten", f"{MUTATION}: an in-place Sinkhorn", constrains)
class LogitsOverwritten(Deviant):
    """The projection writes its result over the logits that it was given."""

    def project(self, logits: Tensor) -> Tensor:
        result = super().project(logits.clone())
        logits.data.copy_(result.data) if result.shape == logits.shape else logits.data.zero_()
        return result


@execution("output-buffer-reused", f"{MUTATION}: static outputs of a captured graph")
class OutputBufferReused(Deviant):
    """Results without a graph are returned in one buffer, which the next call overwrites."""

    def prepare(self) -> None:
        self._buffers: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        if result.requires_grad:
            return result
        return self._buffers.setdefault((result.shape, result.dtype), torch.empty_like(result)).copy_(result)


@execution(
    "projection-buffer-reused",
    f"{MUTATION}: a workspace that is handed out as the result",
    hidden="until the next call",
)
class ProjectionBufferReused(Deviant):
    """h_res without a graph is returned in one buffer for every shape, which the next call overwrites."""

    def prepare(self) -> None:
        self._buffers: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    def project(self, logits: Tensor) -> Tensor:
        found = super().project(logits)
        if found.requires_grad:
            return found
        return self._buffers.setdefault((found.shape, found.dtype), torch.empty(found.shape).to(found)).copy_(found)


# Shapes and tails


@execution("token-tail-unwritten", "TileOPs: batch // block floors the grid (bug 58)")
class TokenTailUnwritten(Deviant):
    """Of five and more tokens those after the last full group of four are left at zero."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        count = result[..., 0, 0].numel()
        written = torch.arange(count, device=x.device) < (count if count < 5 else count // 4 * 4)
        return torch.where(written.view(*result.shape[:-2], 1, 1), result, 0)


@execution("tokens-above-64-unwritten", "b12x #120, flashinfer #3285: sizes that no test had (bugs 40, 41)")
class TokensAbove64Unwritten(Deviant):
    """Tokens beyond the 64th keep the state they entered with."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        written = torch.arange(result[..., 0, 0].numel(), device=x.device) < 64
        return torch.where(written.view(*result.shape[:-2], 1, 1), result, x)


@execution("channel-tail-unwritten", "TileOPs: c_x // block_C (bug 58); flashinfer #3285 (bug 41)")
class ChannelTailUnwritten(Deviant):
    """Of nine and more channels those after the last full group of eight are left at zero."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        channels = x.shape[-1]
        written = torch.arange(channels, device=x.device) < (channels if channels < 9 else channels // 8 * 8)
        return torch.where(written, super().post(x, y, h_post, h_res), 0)


@execution("channel-tail-unread", "TileOPs: c_x // block_C (bug 58)")
class ChannelTailUnread(Deviant):
    """Of nine and more channels those after the last full group of eight do not enter the coefficients."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        channels = state.shape[-1]
        read = torch.arange(channels, device=state.device) < (channels if channels < 9 else channels // 8 * 8)
        return super().matmul(torch.where(read, state, 0), phi)


@execution("zero-tokens-crash", "sglang #38952: grid of 0 (bug 45)")
class ZeroTokensCrash(Deviant):
    """A batch without tokens raises."""

    def widened(self, values: Tensor) -> Tensor:
        if not values.numel():
            raise RuntimeError("invalid configuration argument: the grid has 0 blocks")
        return super().widened(values)


@execution("power-of-two-streams", "Liger: arange's range must be a power of 2 (bug 52)")
class PowerOfTwoStreams(Deviant):
    """Numbers of streams that are no power of two raise although they are declared."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if x.shape[-2].bit_count() != 1:
            raise RuntimeError("arange's range must be a power of 2")
        return super().mappings(x, params)


@execution("one-channel-squeezed", "rank assumptions, lucidrains 4178292 (bug 55)")
class OneChannelSqueezed(Deviant):
    """A state of one channel loses its last axis."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res).squeeze(-1)


@execution(
    "token-axes-transposed",
    f"{MUTATION}: [s, b] against [b, s], Megatron's layout and everybody else's",
    writes_by_logits,
)
class TokenAxesTransposed(Deviant):
    """With two token axes the gates are computed in one order and used in the other."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        pre, post, res = super().mappings(x, params)
        if post.ndim < 3:
            return Mappings(pre, post, res)
        return Mappings(pre, post.transpose(0, 1).reshape(post.shape), res)


@execution("token-index-wraps", "b12x #120: overflow of token * stride (bug 40)")
class TokenIndexWraps(Deviant):
    """The index of a token is kept in 7 bits: token 128 uses the coefficients of token 0."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        wrapped = torch.arange(found.pre[..., 0].numel(), device=x.device) % 128
        return Mappings(*(flat_tokens(m, a)[wrapped].view(m.shape) for m, a in zip(found, (1, 1, 2), strict=True)))


# Tokens that influence each other


@execution("token-0-for-all", "mHC.cu #7: a buffer without a batch dimension (bug 25)")
class Token0ForAll(Deviant):
    """The coefficients of the first token are used for every token."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        if not found.pre.numel():
            return found
        return Mappings(*(flat_tokens(m, a)[0].expand(m.shape) for m, a in zip(found, (1, 1, 2), strict=True)))


@execution("norm-over-tokens", MUTATION, by_rms)
class NormOverTokens(Deviant):
    """The root mean square is taken over all tokens of the batch."""

    def mean_square(self, x: Tensor) -> Tensor:
        square = super().mean_square(x)
        return square.mean(tuple(range(x.ndim - 2)), keepdim=True).expand(square.shape) if x.ndim > 2 else square


@execution("neighbour-gate", "TileOPs #1649, overlapping rows of a shared buffer (bug 32)", writes_by_logits)
class NeighbourGate(Deviant):
    """The last entry of h_post is that of the next token."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        flat = flat_tokens(found.post, 1)
        raced = torch.cat([flat[:, :-1], flat[:, -1:].roll(-1, 0)], -1)
        return found._replace(post=raced.view(found.post.shape))


# Calls that influence each other


@execution("cached-by-pointer", f"{MUTATION}: a cache keyed on data_ptr()")
class CachedByPointer(Deviant):
    """Coefficients are cached by the address and shape of the state, whatever it holds by now."""

    def prepare(self) -> None:
        self._last: tuple[object, Mappings] | None = None

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        key = (x.data_ptr(), x.shape, x.stride(), x.dtype, params.phi.data_ptr())
        if self._last and self._last[0] == key:
            return self._last[1]
        found = super().mappings(x, params)
        self._last = (key, detached(found))
        return found


@execution("weights-folded-once", f"{MUTATION}: norm_weight folded into phi and kept by address")
class WeightsFoldedOnce(Deviant):
    """The weights of the projection are those that the same storage held at the first call."""

    def prepare(self) -> None:
        self._folded: dict[tuple[object, ...], Tensor] = {}

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        key = (phi.data_ptr(), phi.shape, phi.stride(), phi.dtype)
        if phi.requires_grad:
            return super().matmul(state, phi)
        return super().matmul(state, self._folded.setdefault(key, phi.clone()))


@execution("cached-by-shape", f"{MUTATION}: a cache keyed on the shape alone", mixes)
class CachedByShape(Deviant):
    """The projection of the first logits of a shape is returned for all later ones of that shape."""

    def prepare(self) -> None:
        self._seen: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    def project(self, logits: Tensor) -> Tensor:
        key = (logits.shape, logits.dtype)
        if key in self._seen:
            return self._seen[key]
        found = super().project(logits)
        self._seen[key] = found.detach()
        return found


@execution("previous-coefficients", f"{MUTATION}: a side stream that is not waited for", mixes)
class PreviousCoefficients(Deviant):
    """h_res is that of the previous call where the shapes agree."""

    def prepare(self) -> None:
        self._previous: Tensor | None = None

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        stale, self._previous = self._previous, found.res.detach()
        agrees = stale is not None and stale.shape == found.res.shape and stale.dtype == found.res.dtype
        return found._replace(res=stale) if stale is not None and agrees else found


@execution("accumulator-not-cleared", "TileOPs: the fragment xsqr is never cleared (bug 58)", by_rms)
class AccumulatorNotCleared(Deviant):
    """The mean square of a call begins at what the previous call left."""

    def prepare(self) -> None:
        self._left = 0.0

    def mean_square(self, x: Tensor) -> Tensor:
        square = super().mean_square(x)
        left, self._left = self._left, float(square.detach().mean()) if square.numel() else 0.0
        return square + left


@execution("first-call-doubled", f"{MUTATION}: an autotuner that runs an accumulating kernel twice")
class FirstCallDoubled(Deviant):
    """The first call for a shape adds its result twice."""

    def prepare(self) -> None:
        self._tuned: set[torch.Size] = set()

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        first = x.shape not in self._tuned
        self._tuned.add(x.shape)
        return 2 * result if first else result


@execution("racing-reduction", "DeepGEMM #449, #448: wrong and different on every launch (bug 36)")
class RacingReduction(Deviant):
    """The projection differs by 1e-3 from call to call."""

    def prepare(self) -> None:
        self._race = torch.Generator().manual_seed(0)

    def projected(self, x: Tensor, params: Params) -> Tensor:
        exact = super().projected(x, params)
        return exact * (1 + 1e-3 * torch.rand(exact.shape, generator=self._race).to(exact))


@execution("no-grad-without-weight", "TileKernels #22, #23: the fused path ignores norm_weight (bug 15)")
class NoGradWithoutWeight(Deviant):
    """The norm weight is ignored when no gradient is asked for."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return super().weighted(unit, weight) if torch.is_grad_enabled() else unit


@execution("no-grad-in-bfloat16", "aiter #3536, #3651: a fused path worse than the unfused one (bug 39)", mixes)
class NoGradInBfloat16(Deviant):
    """Without gradients the emitted matrix is rounded to bfloat16."""

    def project(self, logits: Tensor) -> Tensor:
        m = super().project(logits)
        return m if torch.is_grad_enabled() else m.bfloat16().to(m.dtype)


# Sizes that few tests have


@execution(
    "channels-above-64-unwritten",
    "flashinfer #3285: a tail of wide states left unwritten (bug 41)",
    hidden="for up to 64 channels",
)
class ChannelsAbove64Unwritten(Deviant):
    """Channels beyond the 64th keep the state they entered with."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        written = torch.arange(x.shape[-1], device=x.device) < 64
        return torch.where(written, super().post(x, y, h_post, h_res), x)


@execution(
    "channels-above-64-unread",
    "TileOPs: c_x // block_C floors the loop (bug 58)",
    hidden="for up to 64 channels",
)
class ChannelsAbove64Unread(Deviant):
    """Channels beyond the 64th do not enter the coefficients."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        read = torch.arange(state.shape[-1], device=state.device) < 64
        return super().matmul(torch.where(read, state, 0), phi)


@execution(
    "phi-transposed-if-square",
    "PaddleFleet #1055: a weight stored the other way round is told by its shape (bug 54)",
    lambda d: dynamic_of(d).passes,
    hidden="unless phi is square",
)
class PhiTransposedIfSquare(Deviant):
    """A phi that has as many rows as columns is taken for its transpose."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(state, phi.mT if phi.shape[0] == phi.shape[1] else phi)
