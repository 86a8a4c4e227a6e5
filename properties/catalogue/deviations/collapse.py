"""Slips of the stack: how the streams begin, persist from block to block, and end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Params
from mhc_ref.stack import ends_with_last, has_head
from properties.core.deviant import Deviant
from properties.core.family import begin_of
from properties.core.slips import MUTATION, Slips, shares

SLIPS = Slips()
collapse = SLIPS.step("collapse")


def begins_alike(dialect: Dialect) -> bool:
    """The streams begin as one multiple of h, all the same."""
    return begin_of(dialect).weights(2, dialect).unique().numel() == 1


def copied(stream: Tensor, x: Tensor) -> Tensor:
    """[..., C] -> [..., n, C], n and the dtype those of x: every stream the same."""
    return stream.to(x.dtype).unsqueeze(-2).repeat_interleave(x.shape[-2], -2)


@collapse("collapse-stream-0", MUTATION, lambda d: not ends_with_last(d))
class CollapseStream0(Deviant):
    """The streams end as stream 0."""

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        return x[..., 0, :].clone()


@collapse("expand-stream-0-only", MUTATION, begins_alike)
class ExpandStream0Only(Deviant):
    """Stream 0 begins as the embedding and the others as zeros."""

    def expand(self, h: Tensor, n: int) -> Tensor:
        first = torch.arange(n, device=h.device) == 0
        return torch.where(first.unsqueeze(-1), h.unsqueeze(-2), torch.zeros_like(h).unsqueeze(-2))


@collapse("expand-over-n", f"{MUTATION}: the sum of the copies kept equal to the embedding", begins_alike)
class ExpandOverN(Deviant):
    """Every stream begins as the embedding divided by n."""

    def expand(self, h: Tensor, n: int) -> Tensor:
        return super().expand(h, n) / n


@collapse("expand-scaled-copies", MUTATION, begins_alike)
class ExpandScaledCopies(Deviant):
    """The copies are scaled by 1, 1/2, 1/3 and so on, to break their symmetry."""

    def expand(self, h: Tensor, n: int) -> Tensor:
        return super().expand(h, n) / torch.arange(1, n + 1).to(h).unsqueeze(-1)


@collapse("expand-tiled", "streams packed into the batch, (b s) in lucidrains v1, tokenbender, mhc-lite", begins_alike)
class ExpandTiled(Deviant):
    """The copies are tiled over the tokens where each token should be repeated, so that tokens share streams."""

    def expand(self, h: Tensor, n: int) -> Tensor:
        tokens = h.reshape(-1, h.shape[-1])
        return tokens.repeat(n, 1).view(*h.shape[:-1], n, h.shape[-1])


@collapse("collapse-every-block", "Kolasinski's reproduction of mHC, found after three audits")
class CollapseEveryBlock(Deviant):
    """Between two blocks the streams are averaged and copied again, so that every block sees identical ones."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            start = self.expand(self.widened(x).mean(-2).to(x.dtype), x.shape[-2]) if k else x
            x = self.block(start, one, branch)
        return x


@collapse("block-begins-collapsed", "Kolasinski's reproduction of mHC, with the collapse inside the block")
class BlockBeginsCollapsed(Deviant):
    """Every block begins by replacing each stream by the mean of all of them."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(copied(self.widened(x).mean(-2), x), params, branch)


@collapse("block-ends-collapsed", "Kolasinski's reproduction of mHC, with the collapse inside the block")
class BlockEndsCollapsed(Deviant):
    """Every block ends by replacing each stream by the mean of all of them."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        after = super().block(x, params, branch)
        return copied(self.widened(after).mean(-2), after)


@collapse("block-ends-summed", f"{MUTATION}: the sum that ends a stack, taken in every block")
class BlockEndsSummed(Deviant):
    """Every block ends by replacing each stream by the sum of all of them."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        after = super().block(x, params, branch)
        return copied(self.widened(after).sum(-2), after)


@collapse("post-collapses", f"{MUTATION}: a mean over the streams in the kernel that mixes them")
class PostCollapses(Deviant):
    """Every stream that `post` gives is the mean of all of them."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        after = super().post(x, y, h_post, h_res)
        return copied(self.widened(after).mean(-2), after)


@collapse("streams-reset", MUTATION)
class StreamsReset(Deviant):
    """After every block all streams but the first are those that entered the stack."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        entered = x
        for one, branch in zip(params, branches, strict=True):
            x = torch.cat([self.block(x, one, branch)[..., :1, :], entered[..., 1:, :]], -2)
        return x


@collapse("last-block-skipped", f"{MUTATION}: a range over L - 1 layers")
class LastBlockSkipped(Deviant):
    """The last of several blocks is not run."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        count = max(1, len(branches) - 1)
        return super()._derived_layers(x, params[:count], branches[:count])


@collapse("params-of-first-block", f"{MUTATION}: one module instance reused for every layer")
class ParamsOfFirstBlock(Deviant):
    """Every block uses the parameters of the first."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        return super()._derived_layers(x, [params[0]] * len(branches) if params else params, branches)


@collapse(
    "collapsed-twice",
    "MaxText #4736, GDzhu01 #132: collapse exactly once (bug 56)",
    lambda d: not ends_with_last(d) and not (has_head(d) and shares(d)),
)
class CollapsedTwice(Deviant):
    """The collapsed state is expanded and collapsed once more."""

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        once = super().collapse(x, params)
        return super().collapse(self.expand(once, x.shape[-2]), params)


@collapse("stack-writes-into-its-input", f"{MUTATION}: a result that is returned in the storage of the embedding")
class StackWritesIntoItsInput(Deviant):
    """What the streams end as is written over h, which is then returned."""

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        found = super().stack(h, params, branches)
        return found if h.requires_grad or found.requires_grad else h.copy_(found)


@collapse(
    "expanded-on-the-second-axis",
    f"{MUTATION}: unsqueeze(1), right for [tokens, C]",
    hidden="for tokens on one axis",
)
class ExpandedOnTheSecondAxis(Deviant):
    """The copies of h lie on its second axis, which is that of the streams for one token axis only."""

    def expand(self, h: Tensor, n: int) -> Tensor:
        copies = super().expand(h, n)
        return copies.movedim(-2, 1).reshape(copies.shape) if h.ndim > 2 else copies


@collapse(
    "layers-in-a-table-of-four",
    f"{MUTATION}: parameters staged in a ring of four",
    hidden="for up to four layers",
)
class LayersInATableOfFour(Deviant):
    """Every fifth layer has the parameters of the first."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        return super()._derived_layers(x, [params[k % 4] for k in range(len(params))], branches)
