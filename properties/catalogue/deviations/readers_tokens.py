"""Slips about branches that are more than functions of a token: they have losses, and mix tokens (round thirteen)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Params
from properties.catalogue.deviations.readers_kernels_backwards import KERNEL, Handed, as_it_lies, handed
from properties.core.deviant import Deviant
from properties.core.slips import Slips, hands_on_nothing

SLIPS = Slips()
gradient = SLIPS.step("gradient")


def _by_output(branch: Branch, u: Tensor) -> Tensor:
    """What a branch returns of a copy of u, whose gradient is asked for by that alone."""
    if not (u.requires_grad and torch.is_grad_enabled()):
        return branch(u)
    leaf = u.detach().requires_grad_()
    y = branch(leaf.clone())

    def read(_: Tensor, bar: Tensor) -> tuple[Tensor | None, Tensor]:
        again: dict[str, Any] = {"retain_graph": True, "create_graph": torch.is_grad_enabled()}
        return torch.autograd.grad(y, leaf, bar, allow_unused=True, **again)[0], bar

    made: Any = Handed.apply(read, u, y) if y.requires_grad else (u, y)
    return made[1]


def _read_as_it_lies(branch: Branch, u: Tensor) -> Tensor:
    """The same branch, behind which the gradient by u is read as if it were contiguous."""
    return branch(handed(u, as_it_lies))


@gradient(
    "losses-within-branches-lost",
    f"{KERNEL}: a branch is handed a copy, whose gradient is asked for by what the branch returns",
    hands_on_nothing,
    hidden="unless a loss is made within a branch, of what that reads, or a gradient is differentiated",
)
class LossesWithinBranchesLost(Deviant):
    """What a branch reads has a gradient through what the branch returns alone."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(x, params, partial(_by_output, branch))


@gradient(
    "losses-within-branches-of-layers-lost",
    f"{KERNEL}: the same of layers that are computed again backwards",
    hands_on_nothing,
    hidden="unless a loss is made within a branch of layers, of what that reads, or a gradient is differentiated",
)
class LossesWithinBranchesOfLayersLost(Deviant):
    """What branches of layers read has a gradient through what they return alone."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().layers(x, params, [partial(_by_output, one) for one in branches])


@gradient(
    "losses-within-branches-of-a-stack-lost",
    f"{KERNEL}: the same of a stack that is computed again backwards",
    hands_on_nothing,
    hidden="unless a loss is made within a branch of a stack, of what that reads, or a gradient is differentiated",
)
class LossesWithinBranchesOfAStackLost(Deviant):
    """What branches of a stack read has a gradient through what they return alone."""

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().stack(h, params, [partial(_by_output, one) for one in branches])


@gradient(
    "branch-input-cotangents-of-a-stack-read-as-they-lie",
    f"{KERNEL}: what comes back from a branch of a stack is read flat by its pointer",
    hands_on_nothing,
    hidden="unless a branch of a stack permutes the axes of what it reads",
)
class BranchInputCotangentsOfAStackReadAsTheyLie(Deviant):
    """The gradients that come back by what branches of a stack have read are read as if they were contiguous."""

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().stack(h, params, [partial(_read_as_it_lies, one) for one in branches])
