"""Slips of the norm: missing, over the wrong numbers, weighted wrongly, in the wrong place."""

from __future__ import annotations

import math

from torch import Tensor

from mhc_ref import Branch, Dialect, Params
from mhc_ref.registry import names
from properties.core.deviant import Deviant
from properties.core.family import family
from properties.core.norms import norm_of
from properties.core.slips import MUTATION, Slips, both, by_rms, centres, mixes, other_than, shares

SLIPS = Slips()
normalisation = SLIPS.step("normalisation")
normalisation_dialect = SLIPS.dialect("normalisation")


def _other_span(dialect: Dialect) -> Dialect:
    """Another family that divides by the root of a mean square, over other numbers; the same where there is none."""
    own = norm_of(dialect).OVER
    others = (name for name in names("norm") if family("norm", name).OVER not in (own, None))
    return dialect.with_(norm_over=next(others, dialect.norm_over)) if own else dialect


normalisation_dialect(
    "norm-span",
    "The norm is taken stream by stream instead of over all n*C numbers, or the other way round.",
    "lucidrains 74055fd, FFTYYY/mhc-lite: the two readings of mHC eq. (7)",
    _other_span,
    by_rms,
)


@normalisation("norm-missing", "vLLM #42810, #42893 (bug 16); passes TileKernels' forward test", by_rms)
class NormMissing(Deviant):
    """The state is projected without being normalised."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return mean_square.new_ones(())


@normalisation("layer-norm", MUTATION, lambda d: not d.centred)
class LayerNorm(Deviant):
    """The mean is subtracted before the state is normalised, LayerNorm in place of RMSNorm."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return super().normalised(x - x.mean(self.norm_axes(), keepdim=True), weight)


# Of a norm that subtracts a mean

normalisation_dialect(
    "centring-missing",
    "No mean is subtracted before the state is normalised, RMSNorm in place of LayerNorm.",
    f"{MUTATION}: the norm of Llama in the place of that of GPT-2",
    lambda d: d.with_(centred=False),
    centres,
)


@normalisation("variance-of-the-uncentred", f"{MUTATION}: a fused rms in the place of a standard deviation", centres)
class VarianceOfTheUncentred(Deviant):
    """The mean is subtracted, and what is left is divided by the root mean square of the whole state."""

    def normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        unit = self.centred(x) / self.divisor(x)
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


@normalisation(
    "norm-by-unbiased-deviation", "The Annotated Transformer: a_2 * (x - mean) / (x.std(-1) + eps) + b_2", centres
)
class NormByUnbiasedDeviation(Deviant):
    """The centred state is divided by the unbiased standard deviation plus the eps."""

    def divisor(self, x: Tensor) -> Tensor:
        count = max(1, math.prod(x.shape[k] for k in self.norm_axes()) - 1)
        return (x.square().sum(self.norm_axes(), keepdim=True) / count).sqrt() + self.computed.rms_eps


@normalisation("mean-span", f"{MUTATION}: one reduction over -1, the other over (-2, -1)", centres)
class MeanSpan(Deviant):
    """The mean is taken stream by stream where the variance is that of all n*C numbers, or the other way round."""

    def mean(self, x: Tensor) -> Tensor:
        return x.mean((-1,) if self.norm_axes() == (-2, -1) else (-2, -1), keepdim=True)


@normalisation(
    "mean-divides-by-channels",
    f"{MUTATION}: a kernel over C, launched on n*C",
    lambda d: centres(d) and _over_streams(d),
)
class MeanDividesByChannels(Deviant):
    """The sum of all n*C numbers is divided by C, so that n times the mean is subtracted."""

    def mean(self, x: Tensor) -> Tensor:
        return x.sum(self.norm_axes(), keepdim=True) / x.shape[-1]


@normalisation("centred-in-place", f"{MUTATION}: x -= x.mean(-1, keepdim=True) before the split", both(centres, mixes))
class CentredInPlace(Deviant):
    """The streams that are mixed have lost their mean to the norm."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return super().mixed(self.centred(x), h_res)


@normalisation("l2-norm", f"{MUTATION}: F.normalize without its sqrt(dim)", by_rms)
class L2Norm(Deviant):
    """The state is divided by its 2-norm instead of its root mean square."""

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().sum(self.norm_axes(), keepdim=True)


@normalisation("norm-unbiased", MUTATION, by_rms)
class NormUnbiased(Deviant):
    """The mean square divides by one number too few, as the unbiased variance does."""

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().sum(self.norm_axes(), keepdim=True) / max(
            1, math.prod(x.shape[k] for k in self.norm_axes()) - 1
        )


def _over_streams(dialect: Dialect) -> bool:
    """The mean of squares is over all n*C numbers of a token."""
    return norm_of(dialect).OVER == (-2, -1)


@normalisation("norm-divides-by-channels", "TensorRT-LLM #13587", _over_streams)
class NormDividesByChannels(Deviant):
    """The sum of all n*C squares is divided by C, so that the normalised state is 1/sqrt(n) of what it should be."""

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().sum(self.norm_axes(), keepdim=True) / x.shape[-1]


@normalisation("norm-divides-by-streams", f"{MUTATION}: the other half of n*C", by_rms)
class NormDividesByStreams(Deviant):
    """The sum of squares is divided by n, the channels not being counted."""

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().sum(self.norm_axes(), keepdim=True) / x.shape[-2]


@normalisation("norm-missing-root", MUTATION, by_rms)
class NormMissingRoot(Deviant):
    """The state is divided by its mean square, the root having been forgotten."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return super().rms(mean_square).square()


@normalisation("norm-weight-ignored", "TileKernels #22, #23; vLLM #42810 (bugs 15, 16)")
class NormWeightIgnored(Deviant):
    """The norm weight is ignored."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return unit


@normalisation("norm-weight-twice", f"{MUTATION}: TileKernels merges the weight in phi")
class NormWeightTwice(Deviant):
    """The norm weight is folded into phi and applied to the state as well."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return super().weighted(super().weighted(unit, weight), weight)


@normalisation(
    "norm-weight-plus-one",
    "lucidrains, FFTYYY/mhc-lite: gamma + 1",
    lambda d: not d.norm_offset,
)
class NormWeightPlusOne(Deviant):
    """The norm weight is taken as an offset from 1."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return unit * (weight + 1)


@normalisation(
    "norm-weight-without-offset",
    f"{MUTATION}: a norm of Llama's, x^ w, where Qwen's is x^ (1 + w)",
    lambda d: d.norm_offset != 0,
)
class NormWeightWithoutOffset(Deviant):
    """The norm weight multiplies the normalised state without the offset that is added to it."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return unit * weight


@normalisation("norm-weight-of-stream-0", f"{MUTATION}: a norm of size C in place of n*C")
class NormWeightOfStream0(Deviant):
    """The norm weight of stream 0 is used for every stream."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return super().weighted(unit, weight[:1])


@normalisation("norm-weight-before-norm", MUTATION)
class NormWeightBeforeNorm(Deviant):
    """The norm weight multiplies the state before the root mean square is taken."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return super().normalised(x if weight is None else self.weighted(x, weight.view(x.shape[-2:])), None)


@normalisation("norm-scales-bias", f"{MUTATION}: the deferred 1/r of mHC eq. (16), applied one term too late")
class NormScalesBias(Deviant):
    """The deferred division by the rms is applied to the gated product and the bias together."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        rms = self.rms(x.square().mean((-2, -1), keepdim=True)).squeeze(-1)
        n = x.shape[-2]
        static = self.split(params.bias, n)
        return [logits + (1 / rms - 1) * bias for logits, bias in zip(super().logits(x, params), static, strict=True)]


@normalisation("mixing-normalised-state", f"{MUTATION}: the norm placed before the block's split", mixes)
class MixingNormalisedState(Deviant):
    """The residual path mixes the normalised state instead of the state."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return super().mixed(self.normalised(x, None), h_res)


class _Block(Deviant):
    """A block that may read or mix something else than the state, its mappings, `pre` and `post` being right."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        h_pre, h_post, h_res = self.mappings(x, params)
        read, mixed = self.state_to_read(x, params), self.state_to_mix(x)
        return self.post(mixed, branch(self.pre(read, h_pre)), h_post, h_res)

    def state_to_read(self, x: Tensor, params: Params) -> Tensor:
        return x

    def state_to_mix(self, x: Tensor) -> Tensor:
        return x

    def unit(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """The normalised state in the dtype of the state."""
        return self.normalised(self.widened(x), weight).to(x.dtype)


@normalisation("block-mixes-normalised", f"{MUTATION}: the variable that held the state is reused for its norm", mixes)
class BlockMixesNormalised(_Block):
    """The block adds the branch output to the normalised state, mixed; `post` by itself is right."""

    def state_to_mix(self, x: Tensor) -> Tensor:
        return self.unit(x)


@normalisation("branch-reads-normalised", "Qwen4-Exp's gated residual, which reads the normalised state; mHC does not")
class BranchReadsNormalised(_Block):
    """The branch reads h_pre times the normalised state instead of the state; `pre` by itself is right."""

    def state_to_read(self, x: Tensor, params: Params) -> Tensor:
        return self.unit(x)


@normalisation("branch-reads-weighted", f"{MUTATION}: the output of one fused norm read twice")
class BranchReadsWeighted(_Block):
    """The branch reads h_pre times the normalised state with its norm weight instead of the state."""

    def state_to_read(self, x: Tensor, params: Params) -> Tensor:
        return self.unit(x, params.norm_weight)


@normalisation("block-of-normalised-state", f"{MUTATION}: a pre-norm placed before the whole hyper-connection")
class BlockOfNormalisedState(_Block):
    """The block reads and mixes the normalised state instead of the state."""

    def state_to_read(self, x: Tensor, params: Params) -> Tensor:
        return self.unit(x)

    def state_to_mix(self, x: Tensor) -> Tensor:
        return self.unit(x)


@normalisation("pre-normalises", f"{MUTATION}: the norm of the mappings left in the kernel that reads")
class PreNormalises(Deviant):
    """The state is normalised in `pre`, before h_pre weighs its streams."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().gathered(self.normalised(x, None), h_pre)


@normalisation("branch-input-normalised", "mHC.cu 3595c86: a norm built into the block")
class BranchInputNormalised(Deviant):
    """The branch input is rms-normalised inside the block."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        collapsed = super().gathered(x, h_pre)
        return collapsed / (collapsed.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@normalisation("pre-sums-to-one", f"{MUTATION}: summaries that take H_pre for an average", other_than(shares))
class PreSumsToOne(Deviant):
    """h_pre is divided by its sum over the streams."""

    def h_pre(self, logits: Tensor) -> Tensor:
        weights = super().h_pre(logits)
        return weights / weights.sum(-1, keepdim=True)
