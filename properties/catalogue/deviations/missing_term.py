"""Slips of omission: a term, a gate, a step or a function that is not there, or is another."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Params
from mhc_ref.dialect import Axis
from properties.catalogue.deviations.catalogue import MUTATION, iterates, mixes, projects, redialect, slip
from properties.catalogue.deviations.deviant import DIM, Deviant

missing = slip("missing-term")
missing_dialect = redialect("missing-term")

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


# In the coefficients


@missing("dynamic-dropped", "passes vLLM's test_mhc_pre_tilelang; tokenbender's static logits")
class DynamicDropped(Deviant):
    """The projection is ignored: the coefficients are the bias alone."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        return torch.zeros_like(super().projected(x, params))


@missing("bias-dropped", MUTATION)
class BiasDropped(Deviant):
    """The bias is not added."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return gate * dynamic


@missing("gates-ignored", "Liger, HF: gates of 1 by initialisation")
class GatesIgnored(Deviant):
    """The gates are taken to be 1."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return dynamic + static


missing_dialect(
    "tanh-missing",
    "The dynamic part is linear where tanh is declared.",
    "HC eq. (5) against mHC eq. (7)",
    lambda d: d.with_(dynamic="linear"),
)
missing_dialect(
    "tanh-added",
    "The dynamic part passes a tanh that belongs to hyper-connections, not to mHC.",
    "marin #2321 (bug 10); HC eq. (5) against mHC eq. (7)",
    lambda d: d.with_(dynamic="tanh"),
)
missing_dialect(
    "pre-unsquashed",
    "h_pre is its logits, without the sigmoid.",
    "HC eq. (10)-(13) against mHC eq. (8)",
    lambda d: d.with_(pre="linear"),
)
missing_dialect(
    "post-unsquashed",
    "h_post is its scaled logits, without the sigmoid.",
    "lucidrains 4b28146 (bug 7)",
    lambda d: d.with_(post="linear"),
)
missing_dialect(
    "pre-squashed",
    "h_pre passes a sigmoid where the dialect is linear.",
    "mHC eq. (8) in place of HC eq. (10)-(13)",
    lambda d: d.with_(pre="sigmoid"),
    lambda d: d.pre == "linear",
)

# In the projection

missing_dialect(
    "iterations-missing",
    "The started matrix is emitted without any iteration: a softmax, or exp.",
    "Subhadip Mitra's reproduction, its ablation with 0 Sinkhorn iterations",
    lambda d: d.with_(iterations=0),
    iterates,
)
missing_dialect(
    "manifold-missing",
    "The residual logits are applied without a projection: hyper-connections in place of mHC.",
    f"{MUTATION}: what the manifold constraint is for (mHC section 3.1)",
    lambda d: d.with_(residual="unconstrained"),
    projects,
)


@missing("sigmoid-for-exp", "HF before #45643: comb from a sigmoid (bug 4)", projects)
class SigmoidForExp(Deviant):
    """Sinkhorn starts from a sigmoid, whose odds ratios are not those of the logits."""

    def started(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() + self.computed.entry_eps


@missing("softplus-for-exp", MUTATION, projects)
class SoftplusForExp(Deviant):
    """Sinkhorn starts from softplus instead of exp."""

    def started(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.softplus(logits) + self.computed.entry_eps


@missing("last-axis-only", f"{MUTATION}: one softmax, which already bounds the forward gain", iterates)
class LastAxisOnly(Deviant):
    """Only the last axis is ever normalised."""

    def half_steps(self) -> list[Axis]:
        return [axis for axis in super().half_steps() if axis == self.computed.last_axis]

    def softmax(self, logits: Tensor) -> Tensor:
        return logits.softmax(DIM[self.computed.last_axis])


@missing("last-line-not-normalised", f"{MUTATION}: a grid floored over the lines", iterates)
class LastLineNotNormalised(Deviant):
    """The last line of the last axis is never normalised."""

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        divided = super().half_step(m, axis)
        if axis != self.computed.last_axis:
            return divided
        dim = DIM["column" if axis == "row" else "row"]
        return torch.cat([divided.narrow(dim, 0, m.shape[dim] - 1), m.narrow(dim, m.shape[dim] - 1, 1)], dim)


@missing("max-not-subtracted", "mHC.cu 3595c86, LLM-quest: exp without the maximum", iterates)
class MaxNotSubtracted(Deviant):
    """exp is taken of the logits themselves and overflows for large ones."""

    def shift(self, logits: Tensor) -> Tensor:
        return torch.zeros_like(logits)

    def softmax(self, logits: Tensor) -> Tensor:
        m = logits.exp()
        return m / m.sum(DIM[self.computed.start_axis], keepdim=True)


@missing(
    "sigmoid-overflows",
    f"{MUTATION}: exp(z) / (1 + exp(z)), the sigmoid without its stable half",
    lambda d: "sigmoid" in (d.pre, d.post),
)
class SigmoidOverflows(Deviant):
    """A gate far above 0 is inf / inf."""

    def squash(self, logits: Tensor, kind: str) -> Tensor:
        return logits.exp() / (1 + logits.exp()) if kind == "sigmoid" else super().squash(logits, kind)


@missing(
    "log-domain-declared",
    f"{MUTATION}: the range of logarithms is promised, and exp(Z - max) is computed",
    lambda d: iterates(d) and d.start == "exp" and not d.entry_eps,
    hidden="until a line underflows",
)
class LogDomainDeclared(Deviant):
    """A line of logits far below the others is promised (`full_range`), and lost to underflow."""

    full_range = True


@missing("global-max", f"{MUTATION}: exp(Z - max Z): one maximum where every line needs its own", iterates)
class GlobalMax(Deviant):
    """The maximum of the whole matrix is subtracted, and a line far below it underflows to 0 / 0."""

    def shift(self, logits: Tensor) -> Tensor:
        return logits.amax((-2, -1), keepdim=True)

    def softmax(self, logits: Tensor) -> Tensor:
        m = (logits - self.shift(logits)).exp()
        return m / m.sum(DIM[self.computed.start_axis], keepdim=True)
