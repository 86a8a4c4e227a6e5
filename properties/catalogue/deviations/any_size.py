"""Slips at states whose squares are beyond the range of the dtype, and the norm that is right there."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.core.deviant import Deviant, valued
from properties.core.slips import MUTATION, Slips, both, by_rms, reads_by_gates

SLIPS = Slips()
normalisation = SLIPS.step("normalisation")
gradient = SLIPS.step("gradient")

scales = both(both(by_rms, reads_by_gates), lambda d: d.rms_eps_by == "add")
"""Nothing but the norm, which divides by a root of a mean of squares with an eps added, depends on the size of a state.
"""


class ScaledNorm(Deviant):
    """A state is divided by its largest entry before it is squared, and an eps by the square of that entry.

    The normalised state does not depend on what it was divided by, so that nothing of the gradient goes there. Where
    every entry is below the eps, the state is divided by that.
    """

    full_scale = True

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        eps, inside = self.computed.rms_eps, self.computed.rms_eps_inside
        largest = x.detach().abs().amax(self.norm_axes(), keepdim=True).clamp_min(eps**0.5 if inside else eps)
        largest = torch.where(largest == 0, 1.0, largest)
        unit = x / largest
        mean, added = self.mean_square(unit), eps / largest
        if inside:
            mean, added = mean + added / largest, 0.0
        zero = mean == 0
        root = torch.where(zero, 1.0, mean).sqrt()
        unit = unit / (torch.where(zero, 1.0, root + added) if eps == 0 else root + added)
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


@normalisation(
    "squares-overflow",
    "transformers, hyper-connections, x-transformers: of states of 1e20 the squares overflow, promised otherwise here",
    scales,
    hidden="for states whose squares are numbers",
)
class SquaresOverflow(Deviant):
    """States of any size are promised (`full_scale`), and their squares overflow, so that what is dynamic is lost."""

    full_scale = True


@gradient(
    "squares-overflow-backwards",
    f"{MUTATION}: transformers' x rsqrt(mean(x^2) + eps) as what a scaled forward pass recomputes: finite outputs, NaN "
    "backwards",
    scales,
    hidden="for states whose squares are numbers",
)
class SquaresOverflowBackwards(ScaledNorm):
    """The state is divided by its largest entry forwards, and its squares overflow backwards."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        mean = self.mean_square(x) + self.computed.rms_eps
        literal = x * torch.where(mean == 0, 1.0, mean).rsqrt()
        if weight is not None:
            literal = self.weighted(literal, weight.view(x.shape[-2:]))
        return valued(super().normalised(x, None if weight is None else weight), literal)
