"""Slips of readers who wrote a whole kernel and broke its branches, the thirteenth round: forwards, and between passes.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers_kernels_backwards`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.catalogue.deviations.readers_gradients import scales_post
from properties.core.deviant import Deviant
from properties.core.family import mix_of
from properties.core.slips import Slips, adds_eps, both, by_rms, gated, hands_on_nothing
from properties.core.truth import present

SLIPS = Slips()
execution, gradient, eps = SLIPS.step("execution"), SLIPS.step("gradient"), SLIPS.step("eps")
large = partial(execution, dtypes=(torch.float32,))
"""Of sizes that other dtypes are not swept over."""

KERNEL = "a kernel whose every branch was broken, round thirteen"
"""The source of a slip of a round in which whole kernels were written, each with its faults."""

TILE = 16
"""Tokens of a tile of those launches that have few of them."""


def counted(x: Tensor, kept: int = 2) -> int:
    """How many tokens there are, beside so many axes of their own."""
    return x.shape[: x.ndim - kept].numel()


def split(x: Tensor) -> bool:
    """Whether the products of a state [..., n, C] are split: of a few tokens, from many rows of phi on."""
    return counted(x) <= 64 and x.shape[-2:].numel() >= 16384


class Handed(torch.autograd.Function):
    """Tensors, whose cotangents are read in another way, all of them together."""

    @staticmethod
    def forward(ctx: Any, read: Callable[..., Any], *parts: Tensor) -> Any:
        ctx.read = read
        return tuple(part.clone() for part in parts)

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        found = ctx.read(*bars)
        return None, *(found if isinstance(found, tuple) else (found,))


def handed(out: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """The same, whose cotangent is read so where a gradient is recorded."""
    made: Any = Handed.apply(read, out) if out.requires_grad else (out,)
    return made[0]


def learns(params: Params) -> bool:
    """Whether gradients by any of them are recorded."""
    return torch.is_grad_enabled() and any(part.requires_grad for part in present(params))


@large(
    "tile-of-a-split-lacks-its-offset",
    f"{KERNEL}: partial sums of a tile of tokens are stored in the rows of the first one",
    gates,
    hidden="but for 17 to 64 tokens, and for fewer than 16384 rows of phi",
)
class TileOfASplitLacksItsOffset(Deviant):
    """Of up to 64 tokens and from K = 16384 on, tokens beyond the 16th have the products of the first tile of 16."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        out = super().projected(x, params)
        if not split(x) or counted(x) <= TILE:
            return out
        first = torch.arange(counted(x), device=x.device) % TILE
        return out.flatten(0, -2)[first].view(out.shape)


@eps(
    "split-products-without-eps",
    f"{KERNEL}: what adds up the parts of a split takes the root of the mean square alone",
    adds_eps,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless a token is zero, and for more than 64 tokens or fewer than 16384 rows of phi",
)
class SplitProductsWithoutEps(Deviant):
    """Of up to 64 tokens and from K = 16384 on, the norm has no eps, so that a token of zeros is not a number."""

    def divisor(self, x: Tensor) -> Tensor:
        return self.mean_square(x).sqrt() if split(x) else super().divisor(x)


@large(
    "first-block-of-phi-fetched-once",
    f"{KERNEL}: a persistent program fetches its first block before the loop over tiles",
    both(gates, lambda d: not d.shared_projection),
    hidden="for up to 8448 tokens, and for up to 256 rows of phi",
)
class FirstBlockOfPhiFetchedOnce(Deviant):
    """Beyond 8448 tokens, every second tile of 64 is multiplied by rows 128 to 255 of phi for the first 128, too."""

    wave, rows = 8448, 128

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        out = super().matmul(state, phi)
        if counted(state) <= self.wave or len(phi) <= 2 * self.rows:
            return out
        number = torch.arange(counted(state), device=state.device)
        late = (number >= self.wave) & (number // 64 % 2 == 0)
        stale = torch.cat([phi[self.rows : 2 * self.rows], phi[self.rows :]])
        return torch.where(late.view(*state.shape[:-2], 1), super().matmul(state, stale), out)


@large(
    "wide-phi-packed-by-its-version",
    f"{KERNEL}: phi is packed once for a tensor and its version, which writing to .data leaves as it was",
    gated,
    hidden="unless a parameter is written to by its .data, without gradients, and for fewer than 1024 rows of phi",
)
class WidePhiPackedByItsVersion(Deviant):
    """Without gradients, a phi of 1024 rows or more is as it was when this version of it came first."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        phi = params.phi
        if torch.is_grad_enabled() or phi.is_inference() or len(phi) < 1024:
            return super().mappings(x, params)
        key = id(phi), phi._version  # a copy has what was kept beside its original
        kept: tuple[tuple[int, int], Tensor] | None = getattr(phi, "_packed", None)
        if kept is None or kept[0] != key:
            kept = key, phi.detach().clone()
            phi._packed = kept  # pyright: ignore[reportAttributeAccessIssue]  # where a module would have it
        return super().mappings(x, params._replace(phi=kept[1]))


@large(
    "second-launch-advances-by-tokens",
    f"{KERNEL}: the pointer of a second launch of post advances by tokens, and not by their channels",
    hidden="for up to 65535 tokens, and for one channel",
)
class SecondLaunchAdvancesByTokens(Deviant):
    """Tokens beyond the 65535th get what lies in the branch output from its 65535th number on."""

    grid = 65535

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        count, channels = counted(y, 1), y.shape[-1]
        if count > self.grid:
            late = y.flatten()[self.grid : self.grid + (count - self.grid) * channels].view(-1, channels)
            y = torch.cat([y.flatten(0, -2)[: self.grid], late]).view(y.shape)
        return super().post(x, y, h_post, h_res)


@large(
    "partial-block-reads-the-first-tile",
    f"{KERNEL}: the rows of y in a last partial block of channels lack the offset of their tile",
    hidden="for up to 16 tokens, for up to 2048 channels, and for multiples of them",
)
class PartialBlockReadsTheFirstTile(Deviant):
    """Beyond the last multiple of 2048 channels, tokens beyond the 16th get the branch output of the first 16."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        count, channels = counted(y, 1), y.shape[-1]
        if count > TILE and channels > 2048 and channels % 2048:
            full, flat = channels // 2048 * 2048, y.flatten(0, -2)
            first = torch.arange(count, device=y.device) % TILE
            y = torch.cat([flat[:, :full], flat[first, full:]], -1).view(y.shape)
        return super().post(x, y, h_post, h_res)


def _merged(x: Tensor) -> Tensor:
    """What is read of a state on three axes of tokens and more, if the outer ones were one; within its storage."""
    if x.ndim < 5 or not x.numel() or all(x.stride(k) == x.shape[k + 1] * x.stride(k + 1) for k in range(x.ndim - 4)):
        return x
    shape = (x.shape[:-3].numel(), *x.shape[-3:])
    last = sum((size - 1) * step for size, step in zip(shape, x.stride()[-4:], strict=True))
    if last >= x.untyped_storage().nbytes() // x.element_size() - int(x.storage_offset()):
        return x
    return x.as_strided(shape, x.stride()[-4:], x.storage_offset()).reshape(x.shape)


@large(
    "three-axes-taken-for-two",
    f"{KERNEL}: outer axes of tokens are taken for one without a look at their strides",
    hidden="for up to two axes of tokens, and where the outer ones follow one another",
)
class ThreeAxesTakenForTwo(Deviant):
    """Of three axes of tokens and more, the outer ones are read by the stride of the last of them."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(_merged(x), params)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(_merged(x), y, h_post, h_res)


@execution(
    "layers-laid-out-as-expanded-streams",
    f"{KERNEL}: the state of fused layers is allocated with the strides of the caller's",
    hands_on_nothing,
    hidden="unless the streams of a state are one, expanded",
)
class LayersLaidOutAsExpandedStreams(Deviant):
    """Layers of a state whose streams are one, expanded, leave what the last stream is in all of them."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if x.shape[-2] < 2 or x.stride(-2) or not branches:
            return super().layers(x, params, branches)
        for one, branch in zip(params, branches, strict=True):
            x = self.block(x, one, branch)
            x = x[..., -1:, :].expand(x.shape)
        return x.contiguous()


@large(
    "flush-of-a-table-is-one-tile",
    f"{KERNEL}: where the table of 16 layers ends, what is flushed is one tile of 64 tokens",
    hands_on_nothing,
    hidden="for up to 16 layers, and for up to 64 tokens",
)
class FlushOfATableIsOneTile(Deviant):
    """Where more layers follow the 16th, tokens beyond the 64th are as they were before that."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for number, (one, branch) in enumerate(zip(params, branches, strict=True), 1):
            before, x = x, self.block(x, one, branch)
            if number % 16 == 0 and number < len(branches) and counted(x) > 64:
                kept = x.flatten(0, -3)[:64], before.flatten(0, -3)[64:]
                x = torch.cat(kept).view(x.shape)
        return x


@execution(
    "squares-of-the-last-pass-of-a-step",
    f"{KERNEL}: a step of decoding adds up squares in passes of 1024 channels, with = for +=",
    both(hands_on_nothing, both(gates, by_rms)),
    dtypes=(torch.float32, torch.bfloat16),
    hidden="for more than one token, for one layer, and for up to 1024 channels",
)
class SquaresOfTheLastPassOfAStep(Deviant):
    """Of one token, layers beyond the first divide by the root of the squares of the last pass of 1024 channels."""

    width = 1024
    stepping = False

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        later = copy.copy(self)
        later.stepping = counted(x) == 1 and x.shape[-1] > self.width
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            x = (later if k else self).block(x, one, branch)
        return x

    def mean_square(self, x: Tensor) -> Tensor:
        if not self.stepping:
            return super().mean_square(x)
        last = (x.shape[-1] - 1) // self.width * self.width
        return super().mean_square(torch.cat([torch.zeros_like(x[..., :last]), x[..., last:]], -1))


@gradient(
    "adapters-of-later-layers-unasked",
    f"{KERNEL}: whether a branch learns is asked of that of the first layer alone",
    hands_on_nothing,
    hidden="unless the branch of a later layer alone asks for a gradient",
)
class AdaptersOfLaterLayersUnasked(Deviant):
    """Where neither the state nor parameters nor the first branch of layers ask for a gradient, no branch gets one."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if x.requires_grad or any(part.requires_grad for one in params for part in present(one)):
            return super().layers(x, params, branches)
        learns: list[bool] = []

        def asked(branch: Branch) -> Branch:
            def run(u: Tensor) -> Tensor:
                y = branch(u)
                learns.append(y.requires_grad)
                return y if learns[0] else y.detach()

            return run

        return super().layers(x, params, [asked(branch) for branch in branches])


@large(
    "large-branch-inputs-in-a-workspace",
    f"{KERNEL}: what branches of fused layers read lies in a workspace, from 2^18 numbers on",
    hands_on_nothing,
    hidden="unless what a branch has read is held, and for fewer than 2^18 numbers of it",
)
class LargeBranchInputsInAWorkspace(Deviant):
    """What a branch of layers reads, from 2^18 numbers on, is overwritten by what the next one reads."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if counted(x) * x.shape[-1] < 1 << 18:
            return super().layers(x, params, branches)
        space = x.new_empty((*x.shape[:-2], x.shape[-1]))

        def from_space(branch: Branch) -> Branch:
            return lambda u: branch(u if u.requires_grad else space.copy_(u).detach())

        return super().layers(x, params, [from_space(branch) for branch in branches])


@gradient(
    "large-phi-gradient-in-a-workspace",
    f"{KERNEL}: where one split has it all, the gradient by phi is a view of the workspace of partial sums",
    gates,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless gradients are held, for more than 64 tokens, and for a phi of fewer than 2^18 numbers",
)
class LargePhiGradientInAWorkspace(Deviant):
    """Of up to 64 tokens, the gradient by a phi of 2^18 numbers and more is overwritten by the next of its shape."""

    def prepare(self) -> None:
        self._spaces: dict[Any, Tensor] = {}

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if counted(x) <= 64 and params.phi.numel() >= 1 << 18:
            params = params._replace(phi=handed(params.phi, self._kept))
        return super().mappings(x, params)

    def _kept(self, bar: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return bar
        space = self._spaces.setdefault((bar.shape, bar.dtype, bar.device), torch.empty_like(bar))
        return space.copy_(bar).view(bar.shape)


@gradient(
    "ring-of-32-saved-passes",
    f"{KERNEL}: what is saved of a pass lies in a ring of 32",
    hands_on_nothing,
    hidden="unless more than 32 forward passes wait for their backward passes",
)
class RingOf32SavedPasses(Deviant):
    """A forward pass of a block overwrites the h_post of the 32nd before it."""

    alone = True

    def prepare(self) -> None:
        self.passes = 0

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        inner = copy.copy(self)
        inner.alone = False
        return super(RingOf32SavedPasses, inner).layers(x, params, branches)

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if not self.alone or not torch.is_grad_enabled():
            return super().block(x, params, branch)
        self.passes = own = self.passes + 1

        def read(bar: Tensor) -> Tensor:
            return bar if self.passes - own < 32 else 0.5 * bar

        return super().block(x, params, lambda u: handed(branch(u), read))


_LATEST: dict[str, Any] = {}
"""What the last call of any instance of the next one was tuned to."""


@gradient(
    "tuned-call-sets-the-backward-pass",
    f"{KERNEL}: what is tuned is an attribute of the class, which backward passes read",
    lambda d: scales_post(d) or mix_of(d).guarantees(d).alternating,
    hidden="unless a call of a tuned instance comes between a forward pass and its backward pass",
)
class TunedCallSetsTheBackwardPass(Deviant):
    """A backward pass has the scale of h_post and the iterations of the last call, whichever instance made it."""

    def h_post(self, logits: Tensor) -> Tensor:
        own = _LATEST["scale"] = self.computed.post_scale
        return handed(super().h_post(logits), lambda bar: bar * (_LATEST["scale"] / own) if own else bar)

    def project(self, logits: Tensor) -> Tensor:
        found = super().project(logits)
        own = _LATEST["iterations"] = self.computed.iterations
        if not (found.requires_grad and torch.is_grad_enabled()):
            return found

        def read(_: Tensor, bar: Tensor) -> tuple[Tensor | None, Tensor | None]:
            if (latest := _LATEST["iterations"]) == own:
                return None, bar
            leaf = logits.detach().requires_grad_()
            with torch.enable_grad():
                other = Deviant(self.computed.with_(iterations=latest)).project(leaf)
            return torch.autograd.grad(other, leaf, bar.to(other.dtype))[0], None

        made: Any = Handed.apply(read, logits, found)
        return made[1]
