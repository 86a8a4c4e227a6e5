"""Deviations of the sigmoid, and towards it."""

from __future__ import annotations

from torch import Tensor

from properties.core.deviant import Deviant, with_gradient_of
from properties.core.family import gate_of
from properties.core.slips import MUTATION, Slips, affine

SLIPS = Slips()
gradient = SLIPS.step("gradient")
missing = SLIPS.step("missing-term")
missing_dialect = SLIPS.dialect("missing-term")


@gradient(
    "post-backward-sigma",
    f"{MUTATION}: h (1 - h) applied to h = 2 sigma",
    lambda d: d.post == "sigmoid" and d.post_scale != 1,
)
class PostBackwardSigma(Deviant):
    """The derivative of h_post is taken as h (1 - h) of the doubled value."""

    def h_post(self, logits: Tensor) -> Tensor:
        h = super().h_post(logits)
        return with_gradient_of(h, (h * (1 - h)).detach() * logits)


missing_dialect(
    "pre-squashed",
    "h_pre passes a sigmoid where the dialect is linear.",
    "mHC eq. (8) in place of HC eq. (10)-(13)",
    lambda d: d.with_(pre="sigmoid"),
    lambda d: not gate_of(d.pre).unit_range,
)


@missing(
    "sigmoid-overflows",
    f"{MUTATION}: exp(z) / (1 + exp(z)), the sigmoid without its stable half",
    lambda d: "sigmoid" in (d.pre, d.post) and affine(d),
)
class SigmoidOverflows(Deviant):
    """A gate far above 0 is inf / inf."""

    def squash(self, logits: Tensor, kind: str) -> Tensor:
        return logits.exp() / (1 + logits.exp()) if kind == "sigmoid" else super().squash(logits, kind)


@gradient(
    "gate-gradient-overflows",
    f"{MUTATION}: 1 / (1 + exp(-z)) by autograd",
    lambda d: "sigmoid" in (d.pre, d.post),
    hidden="for gates that are open",
)
class GateGradientOverflows(Deviant):
    """The gradient of a saturated gate is 0 times infinity: the sigmoid is computed as 1 / (1 + exp(-z))."""

    def squash(self, logits: Tensor, kind: str) -> Tensor:
        if kind != "sigmoid":
            return super().squash(logits, kind)
        return with_gradient_of(super().squash(logits, kind), 1 / (1 + (-logits).exp()))
