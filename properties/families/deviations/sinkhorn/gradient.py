"""Slips in the backward pass of Sinkhorn: the values are right."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.core.deviant import DIM, valued, with_gradient_of
from properties.core.slips import MUTATION, Slips
from properties.families.steps.sinkhorn import SinkhornSteps, iterates, projects

SLIPS = Slips()
gradient = SLIPS.step("gradient")


@gradient("straight-through", f"{MUTATION}: a projection taken as the identity in the backward pass", projects)
class StraightThrough(SinkhornSteps):
    """The projection passes its cotangent on unchanged."""

    def project(self, logits: Tensor) -> Tensor:
        return with_gradient_of(super().project(logits), self.widened(logits))


@gradient("potentials-detached", f"{MUTATION}: scalings found under torch.no_grad(), M = exp(Z + u + v)", iterates)
class PotentialsDetached(SinkhornSteps):
    """The scalings of rows and columns are constants for the backward pass."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        m = super().sinkhorn(logits)
        return with_gradient_of(m, m.detach() * logits)


@gradient("final-matrix-backward", "lucidrains triton_sinkhorn (bug 24)", iterates)
class FinalMatrixBackward(SinkhornSteps):
    """Every step of the backward pass uses the final matrix instead of the iterate of that step."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        m = super().sinkhorn(logits).detach()
        tangent = logits
        for axis in self.half_steps():
            tangent = tangent - (m * tangent).sum(DIM[axis], keepdim=True)
        return with_gradient_of(m, m * tangent)


@gradient("implicit-backward", "TileKernels #2; tilelang example_mhc_bwd.py (bug 23)", iterates)
class ImplicitBackward(SinkhornSteps):
    """The backward pass differentiates the limit, taking rows and columns to sum to one, instead of the iteration."""

    def marginals(self, m: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(m[..., 0]), torch.ones_like(m[..., 0])

    def sinkhorn(self, logits: Tensor) -> Tensor:
        m = super().sinkhorn(logits).detach()
        rows, columns = self.marginals(m)
        system = torch.cat([torch.cat([rows.diag_embed(), m], -1), torch.cat([m.mT, columns.diag_embed()], -1)], -2)
        moved = m * logits
        sums = torch.cat([moved.sum(-1), moved.sum(-2)], -1).unsqueeze(-1)
        a, b = (torch.linalg.pinv(system, hermitian=True, rtol=1e-10) @ sums).chunk(2, -2)
        return with_gradient_of(m, moved - m * a - m * b.mT)


@gradient("implicit-backward-marginals", "TileKernels #2, as corrected (bug 23)", iterates)
class ImplicitBackwardMarginals(ImplicitBackward):
    """The backward pass differentiates the limit with the actual sums, which is still not the finite iteration."""

    def marginals(self, m: Tensor) -> tuple[Tensor, Tensor]:
        return m.sum(-1), m.sum(-2)


@gradient(
    "starved-gradient-lost",
    "lucidrains sinkhorn_knopps, mhc: NaN from 91 below the maximum of a line, where values are still right",
    lambda d: iterates(d) and not d.entry_eps,
    hidden="until a line is subnormal",
)
class StarvedGradientLost(SinkhornSteps):
    """h_res is that of logarithms, and its gradient that of exp(Z - max), whose reciprocals overflow."""

    full_range = True

    def project(self, logits: Tensor) -> Tensor:
        return valued(super(SinkhornSteps, self).project(logits), super().project(logits))
