"""Slips of a reader's fourth round: in a mode of autograd, beside weights, between tiles of two axes, and in layers.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from mhc_ref.stack import ends_with_last, has_head
from properties.catalogue.deviations.readers import gates
from properties.catalogue.deviations.readers_gradients import scales_post
from properties.catalogue.deviations.strides import as_if_contiguous
from properties.core.deviant import Deviant, valued, with_gradient_of
from properties.core.slips import MUTATION, Slips, by_rms, hands_on_nothing

SLIPS = Slips()
gradient, execution, gamed = SLIPS.step("gradient"), SLIPS.step("execution"), SLIPS.step("gamed")


def _quiet() -> bool:
    """Gradients are off, and what is made may be written to later."""
    return not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@execution(
    "layers-in-two-buffers",
    f"{MUTATION}: a state goes to and fro between two buffers of an engine",
    hands_on_nothing,
    hidden="unless what layers return is held",
)
class LayersInTwoBuffers(Deviant):
    """Without gradients layers write to two buffers in turn, of which one is handed out."""

    def prepare(self) -> None:
        self._pairs: dict[Any, tuple[Tensor, Tensor]] = {}

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if not _quiet():
            return super().layers(x, params, branches)
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            out = self.block(x, one, branch)
            pair = self._pairs.setdefault((out.shape, out.dtype, out.device), (out.clone(), out.clone()))
            x = pair[k % 2].copy_(out)
        return x


@execution(
    "weight-folded-without-gradients",
    f"{MUTATION}: weights are made ready for inference where gradients are off, at the first call",
    lambda d: by_rms(d) and gates(d) and not d.shared_projection,
    hidden="unless weights change between two calls without gradients",
)
class WeightFoldedWithoutGradients(Deviant):
    """Without gradients phi has the norm weight folded in as it was at the first call with that phi."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        if torch.is_grad_enabled() or params.norm_weight is None:
            return super().projected(x, params)
        folded: Tensor | None = getattr(params.phi, "_folded", None)
        if folded is None:
            folded = params.phi * (self.computed.norm_offset + params.norm_weight).unsqueeze(-1)
            params.phi._folded = folded  # pyright: ignore[reportAttributeAccessIssue]  # where a module would have it
        return super().projected(x, params._replace(phi=folded, norm_weight=None))


@gradient(
    "post-scale-built-in-backwards",
    f"{MUTATION}: a backward kernel has the scale of h_post as a number, and the forward one is told it",
    scales_post,
    hidden="unless the scale of h_post is tuned",
)
class PostScaleBuiltInBackwards(Deviant):
    """The gradient of h_post is that of the scale that an implementation was made with, not of what it is tuned to."""

    built_in = 0.0

    def tuned(self, **fields: Any) -> Any:
        found: Any = super().tuned(**fields)
        found.built_in = self.built_in or self.computed.post_scale
        return found

    def h_post(self, logits: Tensor) -> Tensor:
        found = super().h_post(logits)
        factor = (self.built_in or self.computed.post_scale) / self.computed.post_scale
        return found if factor == 1 or not found.requires_grad else valued(found.detach(), factor * found)


@execution(
    "branch-reads-the-state-itself",
    f"{MUTATION}: the first block of DeepSeek-V4.1 reads stream 0 as it lies",
    lambda d: d.read_from == "previous" and d.first_read == "stream0",
    hidden="unless a branch writes to what it reads",
)
class BranchReadsTheStateItself(Deviant):
    """What the branch of the first block is handed is stream 0 itself, not a copy."""

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        first = torch.arange(x.shape[-2], device=x.device) == 0
        alone = h_pre.ndim < x.ndim and not h_pre.requires_grad and bool((h_pre == first).all())
        return x[..., 0, :] if alone else super().pre(x, h_pre)


@execution(
    "output-in-the-buffer-of-a-module",
    f"{MUTATION}: a graph of a module's block is replayed, whose output is always the same tensor",
    hidden="unless a module is called again while its output is held",
)
class OutputInTheBufferOfAModule(Deviant):
    """Without gradients the output of a block lies in a buffer that is kept beside its phi, one for each shape."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        out = super().block(x, params, branch)
        if not _quiet():
            return out
        kept: dict[Any, Tensor] = vars(params.phi).setdefault("_buffers", {})
        return kept.setdefault((out.shape, out.dtype), out.clone()).copy_(out)


class _Alone(torch.autograd.Function):
    """A branch as a number: the gradient by what it has read, and by nothing else."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, leaf: Tensor, y: Tensor) -> Tensor:
        ctx.pair = leaf, y
        return y.detach().clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        leaf, y = ctx.pair
        found = torch.autograd.grad(y, leaf, bars[0], allow_unused=True, retain_graph=True)[0]
        return torch.zeros_like(leaf) if found is None else found, None, None


@gradient(
    "branches-of-layers-do-not-learn",
    f"{MUTATION}: checkpointing by hand asks for the gradient by what a branch has read alone",
    hands_on_nothing,
    hidden="unless branches have weights",
)
class BranchesOfLayersDoNotLearn(Deviant):
    """The weights of branches get no gradient through several layers."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if not torch.is_grad_enabled() or len(params) < 2:
            return super().layers(x, params, branches)

        def alone(branch: Branch) -> Branch:
            def run(u: Tensor) -> Tensor:
                leaf = u.detach().requires_grad_()
                y = branch(leaf)
                if not y.requires_grad or not u.requires_grad:
                    return y.detach()
                found: Any = _Alone.apply(u, leaf, y)
                return found

            return run

        return super().layers(x, params, [alone(branch) for branch in branches])


@execution(
    "tiles-between-layers-stay",
    f"{MUTATION}: post of a layer is fused with the norm of the next, in tiles of 16 tokens and of 64 channels",
    hands_on_nothing,
    dtypes=(torch.float32, torch.bfloat16),
    hidden="for one layer, for up to 16 tokens, and for up to 64 channels",
)
class TilesBetweenLayersStay(Deviant):
    """Without gradients what layers but the last leave beyond the first tile of both axes is what they were given."""

    tokens, width = 16, 64

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        beyond = x.ndim == 3 and len(x) > self.tokens and x.shape[-1] > self.width
        if torch.is_grad_enabled() or not beyond or len(params) < 2:
            return super().layers(x, params, branches)
        stay = torch.zeros_like(x, dtype=torch.bool)
        stay[self.tokens :, :, self.width :] = True
        for one, branch in zip(params[:-1], branches[:-1], strict=True):
            x = torch.where(stay, x, self.block(x, one, branch))
        return self.block(x, params[-1], branches[-1])


@gradient(
    "sums-over-512-channels-backwards",
    f"{MUTATION}: a row of partial sums for each tile of 4 tokens, and the second tile of channels starts at the first",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to 4 tokens, and for up to 512 channels",
)
class SumsOver512ChannelsBackwards(Deviant):
    """Of tokens beyond the 4th, the gradient by h_res is a sum over the first 512 channels."""

    tokens, width = 4, 512

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        out = super().mixed(x, h_res)
        if x.ndim != 3 or len(x) <= self.tokens or x.shape[-1] <= self.width or not h_res.requires_grad:
            return out
        late = (torch.arange(len(x), device=x.device) >= self.tokens).view(-1, 1, 1)
        by_matrix = super().mixed(x.detach(), h_res)
        lost = torch.where(late, by_matrix, 0.0)
        lost = torch.cat([0 * lost[..., : self.width], lost[..., self.width :]], -1)
        return with_gradient_of(out, out - lost)


@gamed(
    "nan-hidden-without-gradients",
    f"{MUTATION}: a server makes states finite, so that one request does not stop the others",
    hidden="while states are finite",
)
class NanHiddenWithoutGradients(Deviant):
    """Without gradients what is not finite in a state is replaced by 0 behind a block."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        out = super().block(x, params, branch)
        return out if torch.is_grad_enabled() else out.nan_to_num(0.0, 0.0, 0.0)


@execution(
    "head-phi-strides-ignored",
    f"{MUTATION}: the phi of a head is the weight of a linear layer, transposed",
    has_head,
    hidden="for a phi that is contiguous",
)
class HeadPhiStridesIgnored(Deviant):
    """The phi of a head is read as if it were contiguous."""

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is not None and not params.phi.is_contiguous():
            params = params._replace(phi=as_if_contiguous(params.phi))
        return super().collapse(x, params)


@execution(
    "two-streams-in-the-other-order",
    f"{MUTATION}: a kernel for each n, and that for two streams is wrong beyond its first tile of both axes",
    gates,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="but for two streams, more than 16 tokens and more than 512 channels",
)
class TwoStreamsInTheOtherOrder(Deviant):
    """Of two streams, each gets the other's h_post beyond the 16th token and the 512th channel."""

    tokens, width = 16, 512

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        found = super().spread(y, h_post)
        if found.ndim != 3 or found.shape[-2] != 2 or len(found) <= self.tokens or found.shape[-1] <= self.width:
            return found
        swapped = torch.zeros_like(found, dtype=torch.bool)
        swapped[self.tokens :, :, self.width :] = True
        return torch.where(swapped, found.flip(-2), found)


@execution(
    "full-tiles-of-a-matrix-unit",
    f"{MUTATION}: multiples of 128 tokens and of 64 channels have a launch of their own",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="but for multiples of 128 tokens from 256 on, and of 64 channels",
)
class FullTilesOfAMatrixUnit(Deviant):
    """Full tiles of 128 tokens and of 64 channels, from two of tokens on, get half of the branch."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        count, channels = x.shape[:-2].numel(), x.shape[-1]
        full = count >= 256 and count % 128 == 0 and channels % 64 == 0
        return super().post(x, y, h_post / 2 if full else h_post, h_res)


@execution(
    "shut-mappings-handed-out",
    f"{MUTATION}: mappings that are static are computed once, and handed out as they are kept",
    lambda d: gates(d) and by_rms(d),
    hidden="unless every gate is 0, and biases change or a caller writes to what it got",
)
class ShutMappingsHandedOut(Deviant):
    """Without gradients the mappings of shut gates are kept beside the bias, and the same tensors are returned."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if torch.is_grad_enabled() or bool(params.alpha.any()):
            return super().mappings(x, params)
        kept: dict[Any, Mappings] = vars(params.bias).setdefault("_kept", {})
        key = (x.shape, x.dtype, x.is_inference())
        if key not in kept:
            kept[key] = super().mappings(x, params)
        return kept[key]


@execution(
    "layers-read-as-they-lie",
    f"{MUTATION}: aiter #5292 in a kernel of several layers",
    hands_on_nothing,
    hidden="for a state that is contiguous",
)
class LayersReadAsTheyLie(Deviant):
    """Several layers read the state as if it were contiguous."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().layers(x if x.is_contiguous() else as_if_contiguous(x), params, branches)


@execution(
    "layers-in-place",
    f"{MUTATION}: a state is kept in place from layer to layer, the caller's among them",
    hands_on_nothing,
    hidden="where the state is not needed any more",
)
class LayersInPlace(Deviant):
    """Without gradients layers write their result to the state that they were given."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        out = super().layers(x, params, branches)
        return out if torch.is_grad_enabled() else x.copy_(out)


@execution(
    "states-of-layers-collected",
    f"{MUTATION}: a probe of hidden states that nobody took out",
    hands_on_nothing,
    hidden="but for memory",
)
class StatesOfLayersCollected(Deviant):
    """Every state that leaves layers is kept in a list."""

    def prepare(self) -> None:
        self._collected: list[Tensor] = []

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        self._collected.append(super().layers(x, params, branches))
        return self._collected[-1]


@execution(
    "end-in-a-buffer",
    f"{MUTATION}: the last hidden state of a step lies in a buffer of the engine",
    lambda d: not ends_with_last(d),
    hidden="unless what a stack returned is held",
)
class EndInABuffer(Deviant):
    """Without gradients what streams end in lies in one buffer for each shape."""

    def prepare(self) -> None:
        self._ends: dict[Any, Tensor] = {}

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        out = super().collapse(x, params)
        return self._ends.setdefault((out.shape, out.dtype), out.clone()).copy_(out) if _quiet() else out


@execution(
    "end-added-up-while-tuned",
    f"{MUTATION}: a kernel that adds to its output is timed by three runs at the first call of a number of tokens",
    lambda d: not ends_with_last(d),
    hidden="but for the first call of a number of tokens",
)
class EndAddedUpWhileTuned(Deviant):
    """What more than ten tokens end in is three times what it should be at the first call of their number."""

    def prepare(self) -> None:
        self._met: set[int] = set()

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        out, count = super().collapse(x, params), x.shape[:-2].numel()
        if count <= 10 or count in self._met:
            return out
        self._met.add(count)
        return 3 * out
