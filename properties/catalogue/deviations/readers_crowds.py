"""Slips of a reader's eighth round: under a circumstance that laws made for few tokens and channels, and for many.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers_axes`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.core.declaration import accepted
from properties.core.deviant import Deviant, through, with_gradient_of
from properties.core.family import mix_of
from properties.core.slips import MUTATION, Slips, both, by_rms, mixes, reads_by_gates

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")

TILE = 16
"""So many tokens go the way that everything is tried on."""


def _many(one: Tensor, kept: int = 2) -> bool:
    """Whether what has so many axes beside those of its tokens has more of them than a tile."""
    return one.shape[: one.ndim - kept].numel() > TILE


def _folds(dialect: Dialect) -> bool:
    """A norm weight can be folded into phi."""
    return by_rms(dialect) and gates(dialect) and not dialect.shared_projection


@execution(
    "weight-folded-for-many-tokens",
    f"{MUTATION}: folding pays from a tile of tokens on, and parameters are told apart by what tensors they are",
    _folds,
    hidden="while gradients are recorded, for up to 16 tokens, and unless parameters change",
)
class WeightFoldedForManyTokens(Deviant):
    """Without gradients, more than 16 tokens have phi and the norm weight as they were when these came first."""

    def prepare(self) -> None:
        self._folded: list[Tensor] = []

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        phi, weight = params.phi, params.norm_weight
        if weight is None or torch.is_grad_enabled() or not _many(x):
            return super().mappings(x, params)
        if not self._folded or self._folded[0] is not phi or self._folded[1] is not weight:
            wide = self.widened(phi) * (self.computed.norm_offset + self.widened(weight)).unsqueeze(-1)
            self._folded[:] = [phi, weight, wide]
        return super().mappings(x, params._replace(phi=self._folded[2], norm_weight=None))


@execution(
    "mappings-of-wide-states-in-a-workspace",
    f"{MUTATION}: products that are split over channels add up in a workspace, which is handed out",
    gates,
    hidden="for up to 128 channels, and while mappings are used before the next call",
)
class MappingsOfWideStatesInAWorkspace(Deviant):
    """Without gradients the mappings of more than 128 channels lie in a buffer of their shape, as do those after
    them."""

    width = 128

    def prepare(self) -> None:
        self._space: dict[Any, Tensor] = {}

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        if x.shape[-1] <= self.width or any(one.requires_grad for one in found):
            return found
        return Mappings(*(self._kept(name, one) for name, one in found._asdict().items()))

    def _kept(self, name: str, one: Tensor) -> Tensor:
        key = name, tuple(one.shape), one.dtype, one.device, torch.is_inference_mode_enabled()
        return self._space.setdefault(key, torch.empty_like(one)).copy_(one)


@gradient(
    "adapters-learn-from-one-tile",
    f"{MUTATION}: a backward launch for the branch output alone has the grid of one tile",
    hidden="unless nothing but what a branch gives asks for a gradient, and for up to 16 tokens",
)
class AdaptersLearnFromOneTile(Deviant):
    """Where the branch output alone asks for a gradient, tokens beyond the 16th hand none back."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        others = any(one.requires_grad for one in (x, h_post, h_res))
        if y.requires_grad and not others and _many(y, 1):
            flat = y.flatten(0, -2)
            y = torch.cat([flat[:TILE], flat[TILE:].detach()]).view(y.shape)
        return super().post(x, y, h_post, h_res)


BUILT_IN = 20
"""The iterations of the paper."""


def _built_in(dialect: Dialect) -> bool:
    """h_res is made in as many iterations as the paper has."""
    return mix_of(dialect).guarantees(dialect).alternating and dialect.iterations == BUILT_IN


@execution(
    "tuned-iterations-of-one-tile",
    f"{MUTATION}: a kernel that is compiled for its number of iterations is one for a tile, and the other has 20",
    _built_in,
    hidden="unless the number of iterations is tuned, and for up to 16 tokens",
)
class TunedIterationsOfOneTile(Deviant):
    """Tuned to another number of iterations, more than 16 matrices get the 20 that are built in."""

    def project(self, logits: Tensor) -> Tensor:
        if not _many(logits) or self.computed.iterations == BUILT_IN:
            return super().project(logits)
        return Deviant(self.computed.with_(iterations=BUILT_IN)).project(logits)


@gradient(
    "deterministic-sum-of-one-tile",
    f"{MUTATION}: in the place of atomic additions the first program writes its own part",
    gates,
    hidden="unless torch is asked for deterministic algorithms, and for up to 16 tokens",
)
class DeterministicSumOfOneTile(Deviant):
    """Where torch is asked for deterministic algorithms the gradient by phi is that of the first 16 tokens."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        out = super().matmul(state, phi)
        if not torch.are_deterministic_algorithms_enabled() or not phi.requires_grad or not _many(state):
            return out
        flat = state.flatten(0, -3)
        parts = torch.cat([super().matmul(flat[:TILE], phi), super().matmul(flat[TILE:], phi.detach())])
        return with_gradient_of(out, parts.view(out.shape))


@execution(
    "branch-output-of-many-tokens-spent",
    f"{MUTATION}: from a tile of tokens on, what the branch gave is the workspace of what is written",
    hidden="unless what a branch returned is used again, and for up to 16 tokens",
)
class BranchOutputOfManyTokensSpent(Deviant):
    """Without gradients, what the branch returned for more than 16 tokens is half of it after a block."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        given: list[Tensor] = []

        def kept(u: Tensor) -> Tensor:
            given.append(branch(u))
            return given[-1]

        out = super().block(x, params, kept)
        for y in given:
            if _many(x) and not out.requires_grad and _writable(y, x):
                y.mul_(0.5)
        return out


def _writable(y: Tensor, x: Tensor) -> bool:
    """Whether a tensor can be written to, and is not the state."""
    apart = y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    frozen = y.is_inference() and not torch.is_inference_mode_enabled()
    return apart and y.is_contiguous() and not y.requires_grad and not frozen


class _Moved(torch.autograd.Function):
    """The identity, whose cotangent is halved where what was saved lies elsewhere by then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.address = x.data_ptr()
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 0.5 * bars[0] if x.data_ptr() != ctx.address and _many(x) else bars[0]


@gradient(
    "many-tokens-saved-are-found-by-address",
    f"{MUTATION}: partial sums of many tokens are kept beside a saved state, by its address",
    hidden="unless what is saved is kept elsewhere, as by offloading, and for up to 16 tokens",
)
class ManyTokensSavedAreFoundByAddress(Deviant):
    """Of more than 16 tokens, the gradient by the state is half of it where autograd hands back copies of what was
    saved."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        if not x.requires_grad:
            return super().mixed(x, h_res)
        handed: Any = _Moved.apply(x)
        return super().mixed(handed, h_res)


def _padded(n: int) -> bool:
    """Whether so many streams are padded to a power of two, beyond four of them."""
    return n > 4 and bool(n & (n - 1))


def _pads(dialect: Dialect) -> bool:
    """Numbers of streams that are padded are accepted."""
    return any(map(_padded, accepted(dialect)))


@gradient(
    "padded-streams-of-128-channels-learn",
    f"{MUTATION}: where streams are padded to a power of two, the room is for one tile of channels",
    both(mixes, _pads),
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to four streams and for powers of two, and for up to 128 channels",
)
class PaddedStreamsOf128ChannelsLearn(Deviant):
    """Of more than four streams that are no power of two, the gradient by h_res is a sum over the first 128
    channels."""

    width = 128

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        out = super().mixed(x, h_res)
        if not _padded(x.shape[-2]) or x.shape[-1] <= self.width or not h_res.requires_grad:
            return out
        first, rest = x[..., : self.width], x[..., self.width :]
        return with_gradient_of(out, torch.cat([super().mixed(first, h_res), super().mixed(rest, h_res.detach())], -1))


@execution(
    "gates-of-many-tokens-in-the-default-dtype",
    f"{MUTATION}: a buffer without a dtype; loaders set the default one to that of the weights",
    reads_by_gates,
    dtypes=(torch.float64, torch.float32),  # of a state in bfloat16 it is no coarser than what is written
    hidden="unless the default dtype is coarser than what is computed in, and for up to 16 tokens",
)
class GatesOfManyTokensInTheDefaultDtype(Deviant):
    """What more than 16 tokens are read with is rounded to torch's default dtype, where that is bfloat16."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        default = torch.get_default_dtype()
        return super().gathered(x, through(h_pre, default) if default == torch.bfloat16 and _many(x) else h_pre)
