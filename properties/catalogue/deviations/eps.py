"""Slips of an eps: missing, borrowed from another dialect, of another size, in another place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.dialect import Axis
from properties.catalogue.deviations.catalogue import MUTATION, iterates, projects, redialect, slip
from properties.catalogue.deviations.deviant import Deviant

eps = slip("eps")
eps_dialect = redialect("eps")

# Of the projection

eps_dialect(
    "entry-eps-missing",
    "No eps is added to the entries.",
    "torchtitan 19ef0f5; Megatron before #4624; PaddleFleet #1318 (bug 12)",
    lambda d: d.with_(entry_eps=0.0),
    projects,
)
eps_dialect(
    "entry-eps-added",
    "DeepSeek's eps of 1e-6 is added to the entries of a dialect that has none.",
    "Megatron #5106: which eps goes where (bug 11)",
    lambda d: d.with_(entry_eps=d.entry_eps or 1e-6),
    projects,
)
eps_dialect(
    "entry-eps-in-denominators",
    "The eps of the entries is added to the denominators instead.",
    "Megatron #5106 (bug 11); torchtitan 19ef0f5",
    lambda d: d.with_(entry_eps=0.0, denominator_eps=d.denominator_eps + d.entry_eps),
    iterates,
)
eps_dialect(
    "denominator-eps-missing",
    "No eps is added to the denominators, or nothing clamps them.",
    "Megatron #5106 (bug 11); MaxText before #4337 (bug 13)",
    lambda d: d.with_(denominator_eps=0.0),
    iterates,
)
eps_dialect(
    "denominator-eps-added",
    "An eps of 1e-6 is added to the denominators of a dialect that has none.",
    "torchtitan 19ef0f5, mHC.cu 3595c86",
    lambda d: d.with_(denominator_eps=d.denominator_eps or 1e-6),
    iterates,
)
eps_dialect(
    "denominator-eps-coarse",
    "The denominators have an eps of 0.02, which cures the symptom and loses 2 % of the mass a block.",
    "TileOPs #172, still the forward default (bug 34)",
    lambda d: d.with_(denominator_eps=0.02, denominator="add"),
    iterates,
)
eps_dialect(
    "sinkhorn-eps-1e-5",
    "Every eps of the projection is 1e-5.",
    "MaxText #4337, 1e-5 in the text and 1e-6 in the code (bug 13)",
    lambda d: d.with_(
        entry_eps=1e-5 if d.entry_eps else 0.0,
        denominator_eps=1e-5 if d.denominator_eps else 0.0,
    ),
    iterates,
)
eps_dialect(
    "denominator-clamped",
    "The denominator is max(s, eps) where s + eps is declared.",
    "Megatron #5106, clamp(min=eps) (bug 11)",
    lambda d: d.with_(denominator="clamp"),
    lambda d: iterates(d) and 0 < d.denominator_eps < 1,
)
eps_dialect(
    "denominator-added",
    "The denominator is s + eps where max(s, eps) is declared.",
    "Megatron #5106 (bug 11)",
    lambda d: d.with_(denominator="add"),
    lambda d: iterates(d) and d.denominator_eps > 0,
)


@eps("entry-eps-clamped", "Megatron #5106, clamp(min=eps) (bug 11)", lambda d: projects(d) and d.entry_eps > 0)
class EntryEpsClamped(Deviant):
    """Entries are raised to at least the eps instead of by the eps."""

    def started(self, logits: Tensor) -> Tensor:
        return (super().started(logits) - self.computed.entry_eps).clamp_min(self.computed.entry_eps)


@eps("entry-eps-every-iteration", MUTATION, lambda d: iterates(d) and d.entry_eps > 0)
class EntryEpsEveryIteration(Deviant):
    """The eps of the entries is added again before every division."""

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return super().half_step(m + self.computed.entry_eps, axis)


@eps("entry-eps-after-projection", MUTATION, lambda d: iterates(d) and d.entry_eps > 0)
class EntryEpsAfterProjection(Deviant):
    """The eps of the entries is added to the projected matrix instead of the started one."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        return super().sinkhorn(logits) + self.computed.entry_eps

    def started(self, logits: Tensor) -> Tensor:
        return super().started(logits) - self.computed.entry_eps


@eps("small-line-zeroed", "mHC.cu 3595c86: if (sum > eps), factor 0 otherwise", iterates)
class SmallLineZeroed(Deviant):
    """A line whose sum is at most 1e-5 is set to zero instead of being normalised."""

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        sums = self.line_sum(m, axis)
        return torch.where(sums > 1e-5, m / self.denominator(sums), 0.0)


# Of the norm

eps_dialect(
    "rms-eps-missing",
    "The root mean square has no eps.",
    "mHC eq. (15) as printed; TileOPs #715 (bug 33)",
    lambda d: d.with_(rms_eps=0.0),
)
eps_dialect(
    "rms-eps-1e-5",
    "The eps of the norm is 1e-5, the library's default.",
    "MaxText, Pallas kernel of mHC-lite, default 1e-5",
    lambda d: d.with_(rms_eps=1e-5),
)
eps_dialect(
    "rms-eps-outside",
    "The eps of the norm is added outside the root.",
    "Megatron-LM 023f5cf; TileOPs",
    lambda d: d.with_(rms_eps_inside=False),
    lambda d: d.rms_eps > 0,
)
eps_dialect(
    "rms-eps-inside",
    "The eps of the norm is added inside the root, where outside is declared.",
    "Megatron-LM, single-pass against the other path",
    lambda d: d.with_(rms_eps_inside=True),
    lambda d: d.rms_eps > 0,
)


@eps("rms-eps-on-sum", MUTATION, lambda d: d.rms_eps > 0 and d.rms_eps_inside)
class RmsEpsOnSum(Deviant):
    """The eps of the norm is added to the sum of squares before it is divided by their number."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        count = math.prod(x.shape[k] for k in self.norm_axes())
        unit = x / (self.mean_square(x) + self.computed.rms_eps / count).sqrt()
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


@eps("rms-eps-clamped", MUTATION, lambda d: d.rms_eps > 0 and d.rms_eps_inside)
class RmsEpsClamped(Deviant):
    """The mean square is raised to at least the eps instead of by the eps."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return mean_square.clamp_min(self.computed.rms_eps).sqrt()


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


@eps("post-eps-added", "Megatron #5106: does H_post also need eps? (bug 11)")
class PostEpsAdded(Deviant):
    """An eps of 1e-6 is added to h_post too."""

    def h_post(self, logits: Tensor) -> Tensor:
        return super().h_post(logits) + 1e-6


# Conflated


def _swapped(dialect: Dialect) -> Dialect:
    return dialect.with_(rms_eps=dialect.entry_eps, entry_eps=dialect.rms_eps)


eps_dialect(
    "eps-arguments-swapped",
    "The eps of the norm and that of the entries are passed in each other's place.",
    "vLLM's CPU operator takes (hc_eps, norm_eps), its wrapper the opposite (bug 59)",
    _swapped,
    projects,
)
eps_dialect(
    "sinkhorn-eps-for-norm",
    "The norm uses the eps of the entries.",
    f"{MUTATION}: one eps argument for both, as in kernels with a single `eps`",
    lambda d: d.with_(rms_eps=d.entry_eps),
    projects,
)
eps_dialect(
    "norm-eps-for-sinkhorn",
    "The projection and h_pre use the eps of the norm.",
    f"{MUTATION}: one eps argument for both, as in kernels with a single `eps`",
    lambda d: d.with_(entry_eps=d.rms_eps, denominator_eps=d.rms_eps, pre_eps=d.rms_eps),
    lambda d: projects(d) and d.rms_eps < 1,
)
