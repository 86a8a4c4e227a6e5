"""Slips with a number in them: a factor of one step of a block, an offset, an eps in another place, a temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Params
from mhc_ref.packing import streams_of_logits
from properties.catalogue.deviations import Deviant
from properties.core.family import dynamic_of
from properties.core.norms import norm_of
from properties.core.slips import mixes
from properties.diagnosis.amounts import Numbered
from properties.diagnosis.view import Frame

# Of the norm and the logits


class UnitScale(Numbered):
    """The normalised state is multiplied by `size`."""

    stage, search = "norm", "factors"

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return self.by_shape(UnitScale, x) * super().normalised(x, weight)


class _Parts(Numbered):
    """Slips of the gates and biases of some of pre, post and res."""

    search = "factors"

    def scaled(self, kind: type[Numbered], x: Tensor, parts: str, values: Tensor) -> Tensor:
        """Those of the packed values that belong to some parts, times a number."""
        n = x.shape[-2]
        sizes = [1, 1, 1] if len(values) <= 3 else [n, n, len(values) - 2 * n]
        number = self.by_shape(kind, x)
        factors = [number if name in parts.split() else 1.0 for name in ("pre", "post", "res")]
        each = [factor for factor, size in zip(factors, sizes, strict=True) for _ in range(size)]
        return values * values.new_tensor(each[: len(values)])


class PreGate(_Parts):
    """The gate of h_pre is multiplied by `size`."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(alpha=self.scaled(PreGate, x, "pre", params.alpha)))


class PostGate(_Parts):
    """The gate of h_post is multiplied by `size`."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(alpha=self.scaled(PostGate, x, "post", params.alpha)))


class ResGate(_Parts):
    """The gate of the residual logits is multiplied by `size`."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(alpha=self.scaled(ResGate, x, "res", params.alpha)))

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return mixes(dialect)


class EveryGate(_Parts):
    """Every gate is multiplied by `size`."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(alpha=self.scaled(EveryGate, x, "pre post res", params.alpha)))

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return not dynamic_of(dialect).passes  # else it is the scale of the normalised state


class PreBias(_Parts):
    """The bias of h_pre is multiplied by `size`."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(bias=self.scaled(PreBias, x, "pre", params.bias)))


class PostBias(_Parts):
    """The bias of h_post is multiplied by `size`."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(bias=self.scaled(PostBias, x, "post", params.bias)))


class ResBias(_Parts):
    """The bias of the residual logits is multiplied by `size`."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(bias=self.scaled(ResBias, x, "res", params.bias)))

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return mixes(dialect)


class EveryBias(_Parts):
    """The bias is multiplied by `size`."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(bias=self.scaled(EveryBias, x, "pre post res", params.bias)))


class PreLogits(Numbered):
    """The logits of h_pre are multiplied by `size`."""

    wide, search = False, "factors"

    def h_pre(self, logits: Tensor) -> Tensor:
        return super().h_pre(self.amount(PreLogits, logits.shape[-1]) * logits)


class PostLogits(Numbered):
    """The logits of h_post are multiplied by `size`."""

    wide, search = False, "factors"

    def h_post(self, logits: Tensor) -> Tensor:
        return super().h_post(self.amount(PostLogits, logits.shape[-1]) * logits)


class PreOffset(Numbered):
    """The number `size` is added to the logits of h_pre."""

    neutral, wide, search = 0.0, False, "offsets"

    def h_pre(self, logits: Tensor) -> Tensor:
        return super().h_pre(logits + self.amount(PreOffset, logits.shape[-1]))


class PostOffset(Numbered):
    """The number `size` is added to the logits of h_post."""

    neutral, wide, search = 0.0, False, "offsets"

    def h_post(self, logits: Tensor) -> Tensor:
        return super().h_post(logits + self.amount(PostOffset, logits.shape[-1]))


class Tempered(Numbered):
    """The residual logits are divided by `size`."""

    stage, wide, search = "projection", False, "factors"

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits / self.amount(Tempered, _streams(logits, self.computed)))

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return mixes(dialect)


# Of the mappings


class PreGain(Numbered):
    """h_pre is multiplied by `size`."""

    wide, stage = False, "sigmoid"

    def h_pre(self, logits: Tensor) -> Tensor:
        return self.amount(PreGain, logits.shape[-1]) * super().h_pre(logits)

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return "mappings" in frame.own  # else it is the read gain


class PreFactor(Numbered):
    """h_pre is multiplied by `size` before its eps is added."""

    wide, stage = False, "sigmoid"

    def h_pre(self, logits: Tensor) -> Tensor:
        factor = self.amount(PreFactor, logits.shape[-1])
        return factor * self.squash(logits, self.computed.pre) + self.computed.pre_eps

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return dialect.pre_eps > 0


class PostGain(Numbered):
    """h_post is multiplied by `size`."""

    wide, stage = False, "sigmoid"

    def h_post(self, logits: Tensor) -> Tensor:
        return self.amount(PostGain, logits.shape[-1]) * super().h_post(logits)

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return "mappings" in frame.own  # else it is the branch gain


class PostEps(Numbered):
    """The number `size` is added to h_post."""

    neutral, wide, stage = 0.0, False, "sigmoid"

    def h_post(self, logits: Tensor) -> Tensor:
        return super().h_post(logits) + self.amount(PostEps, logits.shape[-1])


class ResGain(Numbered):
    """h_res is multiplied by `size`."""

    wide, stage = False, "projection"

    def project(self, logits: Tensor) -> Tensor:
        return self.amount(ResGain, _streams(logits, self.computed)) * super().project(logits)

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return bool({"project", "mappings"} & frame.own)  # else it is the mixing gain


class ResEps(Numbered):
    """The number `size` is added to every entry of h_res."""

    neutral, wide, stage = 0.0, False, "projection"

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits) + self.amount(ResEps, _streams(logits, self.computed))


# Of an eps in another place than where a field has it


class _Rooted(Numbered):
    """Another root than that of the mean square with the eps of the dialect."""

    neutral, search, stage = 0.0, "eps", "norm"

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return norm_of(dialect).OVER is not None


class EpsOnSum(_Rooted):
    """The eps of the norm is `size`, added to the sum of squares."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        count = math.prod(x.shape[k] for k in self.norm_axes())
        root = (self.mean_square(x) + self.by_shape(EpsOnSum, x) / count).sqrt()
        return _weighted(self, x / torch.where(root == 0, 1.0, root), weight)


class SquareClamped(_Rooted):
    """The mean square is raised to at least `size`, and no eps is added."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        root = self.mean_square(x).clamp_min(self.by_shape(SquareClamped, x)).sqrt()
        return _weighted(self, x / torch.where(root == 0, 1.0, root), weight)


def _weighted(made: Deviant, unit: Tensor, weight: Tensor | None) -> Tensor:
    return unit if weight is None else made.weighted(unit, weight.view(unit.shape[-2:]))


# Of what is done with the mappings


class ReadGain(Numbered):
    """The branch input is multiplied by `size`."""

    stage = "pre"

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self.by_shape(ReadGain, x) * super().gathered(x, h_pre)


class MixedGain(Numbered):
    """The mixed streams are multiplied by `size`."""

    stage = "post"

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return self.by_shape(MixedGain, x) * super().mixed(x, h_res)


class BranchGain(Numbered):
    """The branch output is multiplied by `size`."""

    stage = "post"

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return self.amount(BranchGain, h_post.shape[-1], y.shape[-1]) * super().spread(y, h_post)


class _InABlock(Numbered):
    """Slips of a block of which `pre` and `post` are right by themselves."""

    @classmethod
    def shows(cls, dialect: Dialect, frame: Frame) -> bool:
        return "block" in frame.offered and {"pre", "post"} <= frame.own


class BlockReadGain(_InABlock):
    """What the branch reads inside a block is multiplied by `size`."""

    stage = "branch"

    def _derived_block(self, x: Tensor, params: Params, branch: Branch, before: Tensor | None) -> tuple[Tensor, Tensor]:
        return super()._derived_block(x, params, lambda u: branch(self._times(BlockReadGain, x, u)), before)

    def _times(self, kind: type[Numbered], x: Tensor, value: Tensor) -> Tensor:
        return (self.by_shape(kind, x) * self.widened(value)).to(value.dtype)


class BlockBranchGain(_InABlock):
    """What the branch gives inside a block is multiplied by `size`."""

    stage = "branch"

    def _derived_block(self, x: Tensor, params: Params, branch: Branch, before: Tensor | None) -> tuple[Tensor, Tensor]:
        def scaled(u: Tensor) -> Tensor:
            y = branch(u)
            return (self.by_shape(BlockBranchGain, x) * self.widened(y)).to(y.dtype)

        return super()._derived_block(x, params, scaled, before)


class ExpandGain(Numbered):
    """Every stream begins as the embedding times `size`."""

    stage = "expand"

    def expand(self, h: Tensor, n: int) -> Tensor:
        return (self.amount(ExpandGain, n, h.shape[-1]) * self.widened(super().expand(h, n))).to(h.dtype)


class CollapseGain(Numbered):
    """What the streams end as is multiplied by `size`."""

    stage = "collapse"

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        return (self.by_shape(CollapseGain, x) * self.widened(super().collapse(x, params))).to(x.dtype)


def _streams(logits: Tensor, dialect: Dialect) -> int:
    return streams_of_logits(logits.shape, dialect)
