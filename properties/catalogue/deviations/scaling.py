"""Slips of a factor: on a gate, on the logits, on the residual path."""

from __future__ import annotations

import math

from torch import Tensor

from mhc_ref import Dialect
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation
from properties.core.slips import MUTATION, Deviation, Slips, both, constrains, felt, mixes, reads_the_state

SLIPS = Slips()
scaling = SLIPS.step("scaling")
scaling_dialect = SLIPS.dialect("scaling")

scaling_dialect(
    "post-scale-one",
    "h_post is sigma instead of 2 sigma.",
    "transformers #45616, #45643 (bug 4); TileKernels default post_mult_value=1.0",
    lambda d: d.with_(post_scale=1.0),
)
scaling_dialect(
    "post-scale-four",
    "The factor 2 of h_post is applied twice, by the mapping and by its caller.",
    MUTATION,
    lambda d: d.with_(post_scale=2 * d.post_scale),
    lambda d: d.post_scale != 1,
)


@scaling("post-scale-on-pre", MUTATION)
class PostScaleOnPre(Deviant):
    """h_pre is doubled as well as h_post."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return 2 * super().h_pre(logits)


TEMPERATURE = 0.05


class Tempered(Deviant):
    """The residual logits of a mix that knows no temperature are divided by 0.05."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits / TEMPERATURE)


def tempered(name: str, slip: str, source: str, temperature: float) -> None:
    """List a temperature of the residual logits: by the field, where a mix has it."""

    def make(dialect: Dialect) -> Implementation:
        if "temperature" not in dialect.fields():
            return Tempered(dialect, f"deviation:{name}")
        return Deviant(dialect, f"deviation:{name}", lambda d: d.with_(temperature=temperature * d.temperature))

    SLIPS.add(Deviation(name, slip, source, "scaling", mixes, make))


tempered(
    "temperature",
    "The residual logits are divided by a temperature of 0.05.",
    "tokenbender #2 (bug 9)",
    TEMPERATURE,
)


@scaling(
    "logits-clipped",
    f"{MUTATION}: the clipping that stabilises Sinkhorn, left in",
    both(constrains, felt(lambda z: z.clamp(-5, 5))),
)
class LogitsClipped(Deviant):
    """The residual logits are clipped to [-5, 5] before the projection."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits.clamp(-5, 5))


@scaling("h-res-over-n", MUTATION, mixes)
class HResOverN(Deviant):
    """The mixed streams are divided by n, a mean where the sum is meant."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return super().mixed(x, h_res) / x.shape[-2]


@scaling("residual-gain", f"{MUTATION}: the seed of explosions: (1 + d) on the residual path")
class ResidualGain(Deviant):
    """The residual path is amplified by 1.01 in every block."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return 1.01 * super().mixed(x, h_res)


@scaling("branch-over-root-depth", f"{MUTATION}: GPT-2's residual scaling, applied to the activations")
class BranchOverRootDepth(Deviant):
    """The branch output is scaled by 1/sqrt(2)."""

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return super().spread(y, h_post) / math.sqrt(2)


@scaling("pre-mean", "Automodel's first port, mean-pooled streams (bug 5)")
class PreMean(Deviant):
    """The branch input is the mean of the gated streams instead of their sum."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().gathered(x, h_pre) / x.shape[-2]


@scaling("alpha-squared", MUTATION, reads_the_state)
class AlphaSquared(Deviant):
    """The gate is applied twice, folded into phi and again to the product."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return gate * gate * dynamic + static


@scaling("projection-scaled", f"{MUTATION}: the 1/sqrt(d) of attention")
class ProjectionScaled(Deviant):
    """The projection is divided by the root of its length, as attention scores are."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(state, phi) / math.sqrt(phi.shape[0])
