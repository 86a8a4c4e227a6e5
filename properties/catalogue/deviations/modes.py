"""Slips of modes and of history: a call by itself is right, and another mode or an earlier call makes it wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.core.deviant import Deviant
from properties.core.family import mix_of
from properties.core.implementation import Implementation
from properties.core.slips import MUTATION, Slips, adds_eps, mixes

SLIPS = Slips()
execution = SLIPS.step("execution")
gradient = SLIPS.step("gradient")

SLOTS = 4


class Ring:
    """Buffers of one shape and dtype, handed out in turn."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    def filled(self, value: Tensor) -> Tensor:
        """The next buffer with these values in it."""
        ring = self._buffers.setdefault((value.shape, value.dtype), [])
        buffer = ring.pop(0) if len(ring) == SLOTS else torch.empty_like(value)
        ring.append(buffer.copy_(value))
        return buffer


@execution(
    "output-ring-of-four", "TensorRT-LLM #16175: four buffers in turn", hidden="for three further calls of a shape"
)
class OutputRingOfFour(Deviant):
    """Without gradients, h_pre and results are returned in four buffers in turn, which the fifth call overwrites."""

    def prepare(self) -> None:
        self._ring = Ring()

    def h_pre(self, logits: Tensor) -> Tensor:
        found = super().h_pre(logits)
        return found if torch.is_grad_enabled() else self._ring.filled(found)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        return result if torch.is_grad_enabled() else self._ring.filled(result)


@execution("outputs-collected", f"{MUTATION}: states kept for a plot", hidden="in every value")
class OutputsCollected(Deviant):
    """Every h_res and every result is kept in a list, without its graph."""

    def prepare(self) -> None:
        self._kept: list[Tensor] = []

    def project(self, logits: Tensor) -> Tensor:
        found = super().project(logits)
        self._kept.append(found.detach())
        return found

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        self._kept.append(result.detach())
        return result


@execution("statistics-keep-graphs", f"{MUTATION}: a running mean that is not detached", hidden="in every value")
class StatisticsKeepGraphs(Deviant):
    """A running mean of h_pre keeps the graph of every call alive."""

    def prepare(self) -> None:
        self._mean: Any = 0.0

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        self._mean = 0.9 * self._mean + 0.1 * found.pre.mean()
        return found


@execution(
    "graph-recorded-under-no-grad",
    f"{MUTATION}: gradients are switched on for a recomputation, and not off again before the result is returned",
    hidden="in every value",
)
class GraphRecordedUnderNoGrad(Deviant):
    """What is computed of parameters that learn is recorded under no_grad, and what autograd keeps for it lives as long
    as the mappings and the next state."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        with torch.enable_grad():
            return super().mappings(x, params)

    def project(self, logits: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().project(logits)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().post(x, y, h_post, h_res)


class _SavedOutside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_post: Tensor, y: Tensor, ring: Ring) -> Tensor:
        ctx.kept = ring.filled(h_post.detach()), ring.filled(y.detach())
        return h_post.unsqueeze(-1) * y.unsqueeze(-2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        h_post, y = ctx.kept
        (bar,) = grad_outputs
        return (bar * y.unsqueeze(-2)).sum(-1), (bar * h_post.unsqueeze(-1)).sum(-2), None


@gradient(
    "saved-in-a-ring-of-four",
    f"{MUTATION}: TensorRT-LLM #16175 in a backward pass",
    hidden="for three forward passes before the backward one",
)
class SavedInARingOfFour(Deviant):
    """What the backward pass of h_post^T y needs lies in four buffers in turn, which later forward passes overwrite."""

    def prepare(self) -> None:
        self._ring = Ring()

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        spread: Any = _SavedOutside.apply
        return spread(h_post, y, self._ring)


# Fields that are equal by default, and what is tuned


@execution(
    "norm-reads-entry-eps",
    "vmlx-swift #374: the norm takes the eps of Sinkhorn; both are 1e-6",
    lambda d: adds_eps(d) and 0 < d.rms_eps == d.entry_eps,
    hidden="while the two are equal",
)
class NormReadsEntryEps(Deviant):
    """The norm reads the eps of the entries in the place of its own, which is as large by default."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return (mean_square + self.computed.entry_eps).sqrt()


@execution("tuned-in-place", f"{MUTATION}: a configuration that is shared", hidden="until it is tuned")
class TunedInPlace(Deviant):
    """Tuning changes the implementation itself, which is handed out as the tuned one."""

    def tuned(self, **fields: Any) -> Implementation:
        self.dialect = self.computed = self.dialect.with_(**fields)
        return self


# Deterministic algorithms


@execution(
    "deterministic-path-without-bias",
    f"{MUTATION}: a slower path for deterministic algorithms, which nobody compares",
    hidden="unless they are asked for",
)
class DeterministicPathWithoutBias(Deviant):
    """Where torch is asked for deterministic algorithms the bias is not added."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        slower = torch.are_deterministic_algorithms_enabled()
        return super().mappings(x, params._replace(bias=0 * params.bias) if slower else params)


@gradient(
    "deterministic-algorithms-refused",
    f"{MUTATION}: a scatter in a backward pass has no deterministic form",
    hidden="unless deterministic algorithms are asked for",
)
class DeterministicAlgorithmsRefused(Deviant):
    """A deterministic result is declared, and deterministic algorithms are refused backwards."""

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        found = super().spread(y, h_post)
        if found.requires_grad:
            found.register_hook(_refuses)
        return found


def _refuses(bar: Tensor) -> None:
    if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError("scatter_add_ does not have a deterministic implementation")


# The first call, and other calls between


@gradient("first-backward-halved", f"{MUTATION}: a kernel that is tuned at its first call", mixes, hidden="in values")
class FirstBackwardHalved(Deviant):
    """The first projection of a shape that is differentiated has half the gradient."""

    def prepare(self) -> None:
        self._tuned: set[torch.Size] = set()

    def project(self, logits: Tensor) -> Tensor:
        found = super().project(logits)
        if not found.requires_grad or found.shape in self._tuned:
            return found
        self._tuned.add(found.shape)
        return found.detach() + 0.5 * (found - found.detach())


@execution(
    "kernel-of-the-first-call",
    f"{MUTATION}: a kernel that is tuned once for a width, by the tokens of its first call",
    hidden="unless a width is first met with many tokens",
)
class KernelOfTheFirstCall(Deviant):
    """A width that was first met with a thousand tokens or more forgets the bias where there are fewer than eight."""

    def prepare(self) -> None:
        self._long: dict[int, bool] = {}

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        tokens = x[..., 0, 0].numel()
        wrong = self._long.setdefault(x.shape[-1], tokens >= 1024) and tokens < 8
        return super().mappings(x, params._replace(bias=0 * params.bias) if wrong else params)


@execution(
    "folded-weight-kept",
    f"{MUTATION}: norm_weight folded into phi, and kept for as long as phi is the same",
    lambda d: not d.shared_projection,
    hidden="while phi has one norm weight",
)
class FoldedWeightKept(Deviant):
    """A phi that was met before is multiplied by the norm weight that it had then."""

    def prepare(self) -> None:
        self._phi, self._weight = torch.empty(0), None

    def projected(self, x: Tensor, params: Params) -> Tensor:
        if self._phi is not params.phi:
            self._phi, self._weight = params.phi, params.norm_weight
        return super().projected(x, params._replace(norm_weight=self._weight))


@execution("workspace-without-dtype", f"{MUTATION}: a workspace that is kept by its shape", hidden="in one dtype")
class WorkspaceWithoutDtype(Deviant):
    """Results go through a workspace of their shape, which has the dtype of the first call."""

    def prepare(self) -> None:
        self._spaces: dict[torch.Size, torch.dtype] = {}

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        return result.to(self._spaces.setdefault(result.shape, result.dtype)).to(result.dtype)


# Sizes


@execution("square-state-transposed", "PaddleFleet #1055: a layout that is told by its shape", hidden="unless C = n")
class SquareStateTransposed(Deviant):
    """A state with as many channels as streams is mixed as if channels came first."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        if x.shape[-1] != x.shape[-2]:
            return super().mixed(x, h_res)
        return super().mixed(x.mT, h_res).mT


@execution(
    "fewer-iterations-for-five-streams",
    f"{MUTATION}: a kernel for powers of two, and a shorter loop for the rest",
    lambda d: mix_of(d).guarantees(d).alternating and d.iterations > 3,
    hidden="unless n = 5",
)
class FewerIterationsForFiveStreams(Deviant):
    """Five streams get three iterations less."""

    def project(self, logits: Tensor) -> Tensor:
        if logits.shape[-1] != 5:
            return super().project(logits)
        fewer = self.computed.with_(iterations=self.computed.iterations - 3)
        return Deviant(fewer).project(logits)
