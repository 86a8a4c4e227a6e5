"""Slips of the delayed read: with whose h_pre a branch reads what, and by which of them the streams end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Params
from mhc_ref.stack import ends_with_last
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips

SLIPS = Slips()
collapse = SLIPS.step("collapse")
gradient = SLIPS.step("gradient")
order = SLIPS.step("order")
redialect = SLIPS.dialect("order")


def delayed(dialect: Dialect) -> bool:
    """Blocks read with the h_pre of the block before."""
    return dialect.read_from == "previous"


def begins_with_stream_0(dialect: Dialect) -> bool:
    """So they do, and the first reads stream 0."""
    return delayed(dialect) and dialect.first_read == "stream0"


redialect(
    "pre-delayed",
    "Each branch reads with the h_pre of the previous block, and the first one reads stream 0.",
    "DeepSeek-V4.1's single-pass mHC, where V4's is declared",
    lambda d: d.with_(read_from="previous", first_read="stream0"),
    lambda d: not delayed(d),
)
redialect(
    "own-gates-read",
    "Each branch reads with the h_pre of its own block.",
    "DeepSeek-V4's blocks, where V4.1's are declared",
    lambda d: d.with_(read_from="own"),
    delayed,
)
redialect(
    "first-block-reads-with-its-own-gates",
    "The first branch reads with the h_pre of its own block, where it should read stream 0.",
    f"{MUTATION}: a pre-mix of None taken for the one at hand",
    lambda d: d.with_(first_read="own"),
    begins_with_stream_0,
)


@order(
    "first-block-reads-the-mean", f"{MUTATION}: copies begin, so that their mean is any of them", begins_with_stream_0
)
class FirstBlockReadsTheMean(Deviant):
    """The first branch reads the mean of the streams, where it should read stream 0."""

    def _derived_block(self, x: Tensor, params: Params, branch: Branch, before: Tensor | None) -> tuple[Tensor, Tensor]:
        even = torch.full_like(self.widened(x[..., 0]), 1 / x.shape[-2])
        return super()._derived_block(x, params, branch, even if before is None else before)


@order(
    "first-gates-with-eps",
    f"{MUTATION}: hc_eps added to every pre-mix",
    lambda d: begins_with_stream_0(d) and d.pre_eps > 0,
)
class FirstGatesWithEps(Deviant):
    """The first branch reads stream 0 and pre_eps of every stream."""

    def _derived_block(self, x: Tensor, params: Params, branch: Branch, before: Tensor | None) -> tuple[Tensor, Tensor]:
        if before is None:
            before = torch.zeros_like(self.widened(x[..., 0])) + self.computed.pre_eps
            before[..., 0] += 1
        return super()._derived_block(x, params, branch, before)


@order("gates-of-two-blocks-before", f"{MUTATION}: a pipeline one stage too long", delayed)
class GatesOfTwoBlocksBefore(Deviant):
    """From the third block on each branch reads with the h_pre of two blocks before."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        made: list[Tensor] = []
        for one, branch in zip(params, branches, strict=True):
            x, own = self._derived_block(x, one, branch, made[max(0, len(made) - 2)] if made else None)
            made.append(own)
        return x, made[-1] if made else None


@order("state-before-read", f"{MUTATION}: pre-mix and streams handed on together", delayed)
class StateBeforeRead(Deviant):
    """Each branch but the first reads the streams of the block before with the h_pre of that block."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        last: tuple[Tensor, Tensor] | None = None
        for one, branch in zip(params, branches, strict=True):
            if last is None:
                after, own = self._derived_block(x, one, branch, None)
            else:
                own, h_post, h_res = self.mappings(x, one)
                after = self.post(x, branch(self.pre(*last)), h_post, h_res)
            x, last = after, (x, own)
        return x, last[1] if last else None


@gradient("gates-detached", f"{MUTATION}: a pre-mix kept for the next layer under torch.no_grad()", delayed)
class GatesDetached(Deviant):
    """No gradient passes through the h_pre that a block hands on."""

    def _derived_block(self, x: Tensor, params: Params, branch: Branch, before: Tensor | None) -> tuple[Tensor, Tensor]:
        return super()._derived_block(x, params, branch, None if before is None else before.detach())


@collapse("collapse-with-a-fresh-gate", f"{MUTATION}: the end taken for one more block", ends_with_last)
class CollapseWithAFreshGate(Deviant):
    """The streams end by the h_pre that the last block's parameters make of them, not by the one that it had made."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        after, _ = super()._derived_layers(x, params, branches)
        return after, self.mappings(after, params[-1]).pre if params else None


@collapse("collapse-with-the-gates-before", f"{MUTATION}: the pre-mix that the last block read with", ends_with_last)
class CollapseWithTheGatesBefore(Deviant):
    """The streams end by the h_pre of the last block but one, where there are several."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        if len(params) < 2:
            return super()._derived_layers(x, params, branches)
        x, gates = super()._derived_layers(x, params[:-1], branches[:-1])
        return self._derived_block(x, params[-1], branches[-1], gates)[0], gates


@collapse("last-gates-normalised", f"{MUTATION}: a read gate taken for an average", ends_with_last)
class LastGatesNormalised(Deviant):
    """The weights by which the streams end are divided by their sum."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        x, last = super()._derived_layers(x, params, branches)
        return x, None if last is None else last / last.sum(-1, keepdim=True)
