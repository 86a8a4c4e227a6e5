"""Slips of an eps: missing, borrowed from another dialect, of another size, in another place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import MUTATION, Slips, adds_eps, by_rms, clamps_norm

SLIPS = Slips()
eps = SLIPS.step("eps")
eps_dialect = SLIPS.dialect("eps")
gradient = SLIPS.step("gradient")

# Of the projection


# Of the norm

eps_dialect(
    "rms-eps-missing",
    "The root mean square has no eps.",
    "mHC eq. (15) as printed; TileOPs #715 (bug 33)",
    lambda d: d.with_(rms_eps=0.0),
    by_rms,
)
eps_dialect(
    "rms-eps-1e-5",
    "The eps of the norm is 1e-5, the library's default.",
    "MaxText, Pallas kernel of mHC-lite, default 1e-5",
    lambda d: d.with_(rms_eps=1e-5),
    by_rms,
)
eps_dialect(
    "rms-eps-outside",
    "The eps of the norm is added outside the root.",
    "Megatron-LM 023f5cf; TileOPs",
    lambda d: d.with_(rms_eps_inside=False),
    adds_eps,
)
eps_dialect(
    "rms-eps-inside",
    "The eps of the norm is added inside the root, where outside is declared.",
    "Megatron-LM, single-pass against the other path",
    lambda d: d.with_(rms_eps_inside=True),
    adds_eps,
)


@eps("rms-eps-on-sum", MUTATION, lambda d: adds_eps(d) and d.rms_eps_inside)
class RmsEpsOnSum(Deviant):
    """The eps of the norm is added to the sum of squares before it is divided by their number."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        count = math.prod(x.shape[k] for k in self.norm_axes())
        unit = x / (self.mean_square(x) + self.computed.rms_eps / count).sqrt()
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


@eps("rms-eps-clamped", MUTATION, lambda d: adds_eps(d) and d.rms_eps_inside)
class RmsEpsClamped(Deviant):
    """The mean square is raised to at least the eps instead of by the eps."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return mean_square.clamp_min(self.computed.rms_eps).sqrt()


@eps(
    "rms-eps-clamps-root", f"{MUTATION}: a clamp of the rms, and not of the norm", lambda d: by_rms(d) and d.rms_eps > 0
)
class RmsEpsClampsRoot(Deviant):
    """The root mean square is raised to at least the eps, which is added nowhere."""

    def divisor(self, x: Tensor) -> Tensor:
        mean_square = self.mean_square(x)
        zero = mean_square == 0
        return torch.where(zero, 0.0, torch.where(zero, 1.0, mean_square).sqrt()).clamp_min(self.computed.rms_eps)


@eps("norm-without-eps", f"{MUTATION}: x * rsqrt(mean(x^2))", adds_eps)
class NormWithoutEps(Deviant):
    """The norm has no eps, and a zero state is 0 / 0."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return mean_square.sqrt()


# Of a norm that is clamped

eps_dialect(
    "norm-clamp-added",
    "The eps of the norm is added to the rms, where the norm is declared to be clamped at it.",
    f"{MUTATION}: an RMSNorm in the place of F.normalize",
    lambda d: d.with_(rms_eps_by="add", rms_eps_inside=False),
    clamps_norm,
)
eps_dialect(
    "norm-clamped",
    "The norm is raised to at least the eps, where that is declared to be added.",
    "lucidrains' RMSNorm, F.normalize times sqrt(dim)",
    lambda d: d.with_(rms_eps_by="clamp"),
    adds_eps,
)


@eps("norm-clamp-of-squares", f"{MUTATION}: clamp(min=eps) before the root", clamps_norm)
class NormClampOfSquares(Deviant):
    """The sum of squares is raised to at least the eps, and not its root."""

    def clamped_norm(self, root: Tensor, count: int) -> Tensor:
        return root.clamp_min(math.sqrt(self.computed.rms_eps / count))


@eps("norm-clamp-of-all-streams", f"{MUTATION}: the size of the whole state under the root", clamps_norm)
class NormClampOfOne(Deviant):
    """The floor of the norm is divided by the root of one number too many."""

    def clamped_norm(self, root: Tensor, count: int) -> Tensor:
        return super().clamped_norm(root, count + 1)


@gradient("norm-clamp-lets-through", f"{MUTATION}: rstd * (g - x^ mean(g x^)) with a clamped rstd", clamps_norm)
class NormClampLetsThrough(Deviant):
    """Below the floor of the norm the gradient has the share of a root that is not divided by there."""

    def clamped_norm(self, root: Tensor, count: int) -> Tensor:
        return with_gradient_of(super().clamped_norm(root, count), root)


@gradient("norm-clamp-stops", f"{MUTATION}: torch.where(norm < eps, 0, x / norm) backwards", clamps_norm)
class NormClampStops(Deviant):
    """Below the floor of the norm the state receives no gradient."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        divisor = self.divisor(x)
        unit = torch.where(self.rms(self.mean_square(x)) < divisor, x.detach(), x) / divisor
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


@gradient("norm-clamp-detached", f"{MUTATION}: a stream of zeros taken for one without a gradient", clamps_norm)
class NormClampAtZero(Deviant):
    """Where a whole norm is 0, the state receives no gradient."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        zero = self.mean_square(x) == 0
        return super().normalised(torch.where(zero, x.detach(), x), weight)


# Of a norm whose eps is that of a dtype


def _from_dtype(dialect: Dialect) -> bool:
    """The eps of the norm is that of a dtype."""
    return by_rms(dialect) and dialect.rms_eps_from != "value"


eps_dialect(
    "rms-eps-of-float32",
    "The eps of the norm is that of float32 in every dtype, where it is declared to be that of the dtype.",
    f"{MUTATION}: finfo(float32).eps, or 1.19e-7, written down once",
    lambda d: d.with_(rms_eps=2.0**-23),
    _from_dtype,
)
eps_dialect(
    "rms-eps-of-the-state",
    "The eps of the norm is that of the dtype of the state, where the norm is computed in a longer one.",
    "torch.finfo(x.dtype).eps, as the page of torch.nn.RMSNorm has it; torch 2.13 takes that of float32 for bfloat16",
    lambda d: d.with_(rms_eps_from="state"),
    lambda d: _from_dtype(d) and d.rms_eps_from == "compute",
    (torch.bfloat16,),
)
eps_dialect(
    "rms-eps-of-the-computation",
    "The eps of the norm is that of the dtype it is computed in, where that of the state's dtype is declared.",
    f"{MUTATION}: torch.finfo(x.dtype).eps behind x = x.float()",
    lambda d: d.with_(rms_eps_from="compute"),
    lambda d: _from_dtype(d) and d.rms_eps_from == "state",
    (torch.bfloat16,),
)
eps_dialect(
    "rms-eps-of-the-smallest-number",
    "The eps of the norm is the smallest normal number of float32, where it is declared to be the eps of the dtype.",
    f"{MUTATION}: finfo.tiny for finfo.eps",
    lambda d: d.with_(rms_eps=2.0**-126),
    _from_dtype,
)

# Of the gates

eps_dialect(
    "pre-eps-missing",
    "h_pre has no eps.",
    "PaddleFleet #1318, #1319 (bug 12); MaxText before #4337 (bug 13); nvfp4-megamoe-kernel notes (bug 14)",
    lambda d: d.with_(pre_eps=0.0),
)
eps_dialect(
    "pre-eps-added",
    "DeepSeek's eps of 1e-6 is added to the h_pre of a dialect that has none.",
    "Liger's pre_eps, 0 by default",
    lambda d: d.with_(pre_eps=d.pre_eps or 1e-6),
)


@eps("pre-eps-inside", MUTATION, lambda d: d.pre_eps > 0)
class PreEpsInside(Deviant):
    """The eps of h_pre is added to its logits."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return self.squash(logits + self.computed.pre_eps, self.computed.pre)


@eps("pre-eps-clamped", f"{MUTATION}: clamp(min=eps)", lambda d: d.pre_eps > 0)
class PreEpsClamped(Deviant):
    """h_pre is raised to at least its eps instead of by it."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return self.squash(logits, self.computed.pre).clamp_min(self.computed.pre_eps)


eps_dialect(
    "post-eps-added",
    "An eps of 1e-6 is added to the h_post of a dialect that has none.",
    "Megatron #5106: does H_post also need eps? (bug 11)",
    lambda d: d.with_(post_eps=d.post_eps or 1e-6),
)
eps_dialect(
    "post-eps-missing",
    "h_post has no eps.",
    f"{MUTATION}: a block of mHC, whose h_post has none, with the mixing taken out",
    lambda d: d.with_(post_eps=0.0),
)
eps_dialect(
    "post-eps-scaled",
    "The eps of h_post is added before the scale, and multiplied by it.",
    f"{MUTATION}: mu (sigma + eps), the formula of h_pre times the magnitude",
    lambda d: d.with_(post_eps=d.post_scale * d.post_eps),
)
eps_dialect(
    "gate-eps-swapped",
    "h_pre has the eps of h_post, and h_post that of h_pre.",
    f"{MUTATION}: (pre, post) unpacked as (post, pre) where an eps is added",
    lambda d: d.with_(pre_eps=d.post_eps, post_eps=d.pre_eps),
)


@eps("post-eps-inside", MUTATION, lambda d: d.post_eps > 0)
class PostEpsInside(Deviant):
    """The eps of h_post is added to its logits."""

    def h_post(self, logits: Tensor) -> Tensor:
        return super().h_post(logits + self.computed.post_eps) - self.computed.post_eps


@eps("post-eps-clamped", f"{MUTATION}: clamp(min=eps)", lambda d: d.post_eps > 0)
class PostEpsClamped(Deviant):
    """h_post is raised to at least its eps instead of by it."""

    def h_post(self, logits: Tensor) -> Tensor:
        return (super().h_post(logits) - self.computed.post_eps).clamp_min(self.computed.post_eps)
