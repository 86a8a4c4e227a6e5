"""Slips of omission: a term, a gate, a step or a function that is not there, or is another."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, both, gated, mixes, reads_the_state

SLIPS = Slips()
missing = SLIPS.step("missing-term")

# In the block


@missing("h-res-never-applied", "lucidrains #8, fixed in 215116f; tokenbender #3 (bug 6)", mixes)
class HResNeverApplied(Deviant):
    """The mixed residual is computed and discarded: the streams pass unchanged."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return x


@missing("residual-dropped", MUTATION)
class ResidualDropped(Deviant):
    """The block returns the branch output alone."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return torch.zeros_like(x)


@missing("residual-twice", "a plain residual left beside the hyper-connection; tokenbender #5 (bug 8)")
class ResidualTwice(Deviant):
    """The state is added once more beside the mixed streams."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return x + super().mixed(x, h_res)


@missing("branch-residual", f"{MUTATION}: a transformer block that keeps its own skip connection")
class BranchResidual(Deviant):
    """The branch's own input is added to its output, a second residual path."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y + self.widened(x).mean(-2).to(y.dtype), h_post, h_res)


@missing("branch-dropped", MUTATION)
class BranchDropped(Deviant):
    """The branch output does not reach the streams."""

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return torch.zeros_like(super().spread(y, h_post))


@missing("last-stream-not-mixed", "aiter #2963, a missing k_offset (bug 39)", mixes)
class LastStreamNotMixed(Deviant):
    """The last stream is left out of the sum over streams."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return self.operator(h_res).to(x.dtype)[..., :-1] @ x[..., :-1, :]


@missing("diagonal-only", f"{MUTATION}: streams kept apart by an elementwise product", mixes)
class DiagonalOnly(Deviant):
    """Only the diagonal of h_res is applied."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return h_res.diagonal(dim1=-2, dim2=-1).unsqueeze(-1).to(x.dtype) * x


@missing("branch-reads-mean", "Automodel's first port, mean-pool collapse (bug 5); marin #2321 (bug 10)")
class BranchReadsMean(Deviant):
    """The branch reads the mean of the streams, not their gated sum."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return x.mean(-2)


@missing("branch-reads-stream-0", "the initial state of V4.1's single-pass mHC, kept")
class BranchReadsStream0(Deviant):
    """The branch reads stream 0."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return x[..., 0, :]


@missing("post-gate-dropped", "TileOPs drops H_post")
class PostGateDropped(Deviant):
    """The branch output is added to every stream without its gate."""

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return super().spread(y, torch.ones_like(h_post))


@missing("post-summed", f"{MUTATION}: the streams summed over by one einsum letter too few")
class PostSummed(Deviant):
    """Every stream gets the sum of h_post times the branch output, not its own share."""

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return super().spread(y, h_post.sum(-1, keepdim=True).expand_as(h_post))


@missing("post-averaged", f"{MUTATION}: one gate for all streams")
class PostAveraged(Deviant):
    """Every stream gets the mean of h_post times the branch output, not its own share."""

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return super().spread(y, h_post.mean(-1, keepdim=True).expand_as(h_post))


@missing("post-into-stream-0", f"{MUTATION}: the branch output written to its home stream alone")
class PostIntoStream0(Deviant):
    """The branch output is added to stream 0 alone."""

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        first = torch.arange(h_post.shape[-1], device=h_post.device) == 0
        return super().spread(y, torch.where(first, h_post, torch.zeros_like(h_post)))


# In the coefficients


@missing("bias-dropped", MUTATION)
class BiasDropped(Deviant):
    """The bias is not added."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return gate * dynamic


@missing("gates-ignored", "Liger, HF: gates of 1 by initialisation", reads_the_state)
class GatesIgnored(Deviant):
    """The gates are taken to be 1."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return dynamic + static


def _without_gate(params: Params, place: int) -> Params:
    alpha = params.alpha.clone()
    alpha[place] = 1
    return params._replace(alpha=alpha)


@missing("pre-gate-ignored", f"{MUTATION}: one of three gates, 1 by initialisation, not passed on", gated)
class PreGateIgnored(Deviant):
    """The gate of h_pre is taken to be 1."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, _without_gate(params, 0))


@missing("post-gate-ignored", f"{MUTATION}: one of three gates, 1 by initialisation, not passed on", gated)
class PostGateIgnored(Deviant):
    """The gate of h_post is taken to be 1."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, _without_gate(params, 1))


@missing(
    "res-gate-ignored",
    f"{MUTATION}: one of three gates, 1 by initialisation, not passed on",
    both(mixes, reads_the_state),
)
class ResGateIgnored(Deviant):
    """The gate of the residual logits is taken to be 1."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, _without_gate(params, 2))


# In the projection
