"""Slips that hide in ordinary calls: what is computed is right, until the batch is large, the memory dirty, the pointer
odd, the stream another one, the graph replayed or the compiler at work."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from mhc_ref.stack import has_head
from properties.core.deviant import Deviant, through, with_gradient_of
from properties.core.device import device_of
from properties.core.implementation import without_autocast
from properties.core.norms import norm_of
from properties.core.slips import MUTATION, Slips, always, hands_on_nothing, mixes, takes_matrix

SLIPS = Slips()
device = SLIPS.step("device")


def takes_norm_weight(dialect: Dialect) -> bool:
    """The norm is over all streams, where a weight changes every logit."""
    return -2 in (norm_of(dialect).OVER or ())


def tokens_of(x: Tensor) -> int:
    """The number of tokens of a state."""
    return x[..., 0, 0].numel()


# Many tokens


@device("tokens-above-1024-unwritten", f"{MUTATION}: one block of 1024 threads", hidden="for up to 1024 tokens")
class TokensAbove1024Unwritten(Deviant):
    """Tokens beyond the 1024th keep the state they entered with."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        written = torch.arange(tokens_of(x), device=x.device) < 1024
        return torch.where(written.view(*result.shape[:-2], 1, 1), result, x)


def in_thirds(deviant: Deviant, state: Tensor, phi: Tensor, order: tuple[int, int, int]) -> Tensor:
    """The projection as three partial sums, added in that order."""
    third = -(-state.shape[-1] // 3)
    kept = torch.arange(state.shape[-1], device=state.device) // third
    parts = [Deviant.matmul(deviant, torch.where(kept == k, state, 0), phi) for k in order]
    return parts[0] + parts[1] + parts[2]


@device(
    "atomic-additions",
    f"{MUTATION}: split-K with atomicAdd; DeepGEMM #449 (bug 36) was also wrong",
    hidden="each result is within its bound",
    dtypes=(torch.float32,),
)
class AtomicAdditions(Deviant):
    """Launches of more than 200 tokens add partial sums in the order in which they finish."""

    def prepare(self) -> None:
        self._race = torch.Generator().manual_seed(0)

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        if tokens_of(state) <= 200:
            return super().matmul(state, phi)
        first, second, third = torch.randperm(3, generator=self._race).tolist()
        return in_thirds(self, state, phi, (first, second, third))


@device(
    "split-by-batch",
    f"{MUTATION}: split-K chosen by the number of tokens; see He et al. 2025, batch-invariant kernels",
    hidden="each result is within its bound",
    dtypes=(torch.float32,),
)
class SplitByBatch(Deviant):
    """Bits that do not depend on the batch are declared, and the order of a sum depends on the number of tokens."""

    batch_invariant = True

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return in_thirds(self, state, phi, (0, 1, 2) if tokens_of(state) <= 200 else (2, 1, 0))


# Memory


@device(
    "alignment-assumed", f"{MUTATION}: loads of four elements from the pointer", hidden="where storages are aligned"
)
class AlignmentAssumed(Deviant):
    """The state is read from the last address before it that is a multiple of four elements."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(self.aligned(x), params, branch)

    def aligned(self, x: Tensor) -> Tensor:
        """What a vectorised load sees."""
        offset = int(x.storage_offset())
        return x.as_strided(x.shape, x.stride(), offset // 4 * 4)


@device(
    "output-tail-unwritten", "TileOPs: batch // block floors the grid (bug 58)", hidden="where memory happens to be so"
)
class OutputTailUnwritten(Deviant):
    """The last token of an odd number of them is not written: it is whatever the memory held."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        count = tokens_of(x)
        written = torch.arange(count, device=x.device) < count // 2 * 2
        return torch.where(written.view(*result.shape[:-2], 1, 1), result, torch.empty_like(result))


@device(
    "accumulator-unset",
    "TileOPs: the fragment xsqr is never cleared (bug 58)",
    takes_matrix,
    hidden="where memory happens to be 0",
)
class AccumulatorUnset(Deviant):
    """The matrix is added to a buffer that was allocated and not cleared."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits) + torch.empty_like(logits)


@device(
    "offsets-in-32-bits",
    "b12x #120: overflow of token * stride (bug 40)",
    dtypes=(torch.float32,),  # float64 shows it too, in twice the memory
    hidden="within 2^31 elements",
    needs="giants",
)
class OffsetsIn32Bits(Deviant):
    """The offset of a token is computed in 32 bits: beyond 2^31 elements another address is read."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(self.wrapped(x), params, branch)

    def wrapped(self, x: Tensor) -> Tensor:
        """The tokens that are read; an address below the tensor's own is taken from its beginning."""
        if x.ndim != 3 or not x.shape[0]:
            return x
        limit = device_of(x.device).giant
        offsets = (torch.arange(x.shape[0]) * x.stride(0)).tolist()
        read = [offset if offset < limit else 0 for offset in offsets]
        return torch.stack([x.as_strided(x.shape[1:], x.stride()[1:], x.storage_offset() + start) for start in read])


@device(
    "outputs-in-32-bits",
    "b12x #120: overflow of token * stride (bug 40)",
    mixes,
    dtypes=(torch.float32,),  # as above
    hidden="within 2^31 elements",
    needs="giants",
)
class OutputsIn32Bits(Deviant):
    """The offset of a matrix is computed in 32 bits: beyond 2^31 elements nothing is written."""

    def project(self, logits: Tensor) -> Tensor:
        result = super().project(logits)
        limit = device_of(result.device).giant
        written = torch.arange(result[..., 0, 0].numel(), device=result.device) * result.shape[-1] ** 2 < limit
        return torch.where(written.view(*result.shape[:-2], 1, 1), result, 0)


# Queues, graphs, compilers


@device(
    "launched-on-the-default-stream",
    f"{MUTATION}: a launch with stream 0",
    hidden="on the default stream",
    needs="streams",
)
class LaunchedOnTheDefaultStream(Deviant):
    """The kernels are launched on the default stream, whichever is current."""

    def mappings(self, x: Tensor, params: Params) -> Any:
        here = device_of(x.device)
        if here.lacks("streams"):
            return super().mappings(x, params)
        with here.default_stream():
            return super().mappings(x, params)


@device("gates-kept-on-host", f"{MUTATION}: alpha.tolist() once", hidden="while Python runs", needs="graphs")
class GatesKeptOnHost(Deviant):
    """Graphs are declared, and the gates are Python numbers, read again only when Python sees that they changed."""

    graph_capturable = True

    def prepare(self) -> None:
        self._kept: tuple[Any, int, list[float]] | None = None

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        alpha = params.alpha
        if alpha.requires_grad or alpha.is_inference():
            return super().logits(x, params)
        version = alpha._version
        if self._kept is None or self._kept[0]() is not alpha or self._kept[1] != version:
            self._kept = (weakref.ref(alpha), version, [float(gate) for gate in alpha.unbind()])
        n = x.shape[-2]
        dynamic = self.split(self.dynamic(self.projected(x, params)), n)
        static = self.split(params.bias, n)
        return [gate * one + bias for gate, one, bias in zip(self._kept[2], dynamic, static, strict=True)]


@device("synchronises", f"{MUTATION}: a check for NaN on the host", hidden="outside of a capture", needs="graphs")
class Synchronises(Deviant):
    """Graphs are declared, and the host waits for a number of every call."""

    graph_capturable = True

    def mappings(self, x: Tensor, params: Params) -> Any:
        found = super().mappings(x, params)
        if found.pre.numel() and float(found.pre.detach().sum()) == float("inf"):
            raise FloatingPointError("h_pre is infinite")
        return found


@device(
    "compiled-without-weight",
    "TileKernels #22: the fast path ignores norm_weight (bug 15), chosen by is_compiling()",
    takes_norm_weight,
    hidden="where nothing is compiled",
)
class CompiledWithoutWeight(Deviant):
    """torch.compile is declared, and the path that it takes ignores the norm weight."""

    compilable = True

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return unit if torch.compiler.is_compiling() else super().weighted(unit, weight)


@device(
    "compiled-backward-halved",
    "unsloth-zoo #859: half the gradient when compiled",
    mixes,
    hidden="where nothing is compiled",
)
class CompiledBackwardHalved(Deviant):
    """torch.compile is declared, and the path that it takes has half the gradient of the projection."""

    compilable = True

    def project(self, logits: Tensor) -> Tensor:
        found = super().project(logits)
        return found.detach() + 0.5 * (found - found.detach()) if torch.compiler.is_compiling() else found


@device(
    "autocast-not-left",
    f"{MUTATION}: `.float()` without autocast(enabled=False)",
    always,
    dtypes=(torch.float32, torch.bfloat16),
    hidden="without autocast",
)
class AutocastNotLeft(Deviant):
    """Precision under autocast is declared, and the projection is multiplied as autocast has it."""

    autocast_safe = True


class LeavesAutocast(Deviant):
    """Mappings, mixing and ends are computed outside of torch.autocast, as declared."""

    autocast_safe = True

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        with without_autocast(x):
            return super().mappings(x, params)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        with without_autocast(x):
            return super().post(x, y, h_post, h_res)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        with without_autocast(x):
            return super().collapse(x, params)


under_autocast = partial(device, dtypes=(torch.float32, torch.bfloat16), hidden="without autocast")


@under_autocast("mixed-as-autocast-has-it", f"{MUTATION}: autocast is left for the mappings alone")
class MixedAsAutocastHasIt(LeavesAutocast):
    """Precision under autocast is declared, and the streams are mixed by a product in bfloat16."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return Deviant.post(self, x, y, h_post, h_res)


@under_autocast("head-as-autocast-has-it", f"{MUTATION}: autocast is left in blocks alone", has_head)
class HeadAsAutocastHasIt(LeavesAutocast):
    """Precision under autocast is declared, and the logits of the head are a product in bfloat16."""

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        return Deviant.collapse(self, x, params)


@under_autocast(
    "layers-compute-as-autocast-has-it",
    f"{MUTATION}: blocks leave autocast, and what was fused over several of them does not",
    hands_on_nothing,
    dtypes=(torch.float32,),
)
class LayersComputeAsAutocastHasIt(LeavesAutocast):
    """Precision under autocast is declared, and layers hand on their states in bfloat16."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            return super().layers(x, params, branches)
        for one, branch in zip(params, branches, strict=True):
            x = through(super().layers(x, [one], [branch]), torch.bfloat16)
        return x


@under_autocast("saved-as-autocast-has-it", f"{MUTATION}: activations are saved in the dtype of autocast", mixes)
class SavedAsAutocastHasIt(LeavesAutocast):
    """Precision under autocast is declared, and what the mixing keeps there for its backward pass is in bfloat16."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        self._saves = torch.is_autocast_enabled(x.device.type)
        return super().post(x, y, h_post, h_res)

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        found = super().mixed(x, h_res)
        if not self._saves:
            return found
        kept = super().mixed(through(x, torch.bfloat16), through(h_res, torch.bfloat16))
        return with_gradient_of(found, kept)
