"""Slips of two readers whose every fault had to have a precedent, a bug that was reported of some kernel or engine.

docs/adversary.md has the account of these rounds, the eleventh and the twelfth.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from mhc_ref.stack import has_head
from properties.catalogue.deviations.readers import gates
from properties.core.deviant import Deviant
from properties.core.slips import Slips, both, by_rms, hands_on_nothing
from properties.core.truth import present

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")

# -- whose storage, and for how long -----------------------------------------------------------------------------------


@execution(
    "storage-of-a-parameter-moved",
    "vLLM #48312, ipex-llm #149, LBANN #1602: pointers that were taken once, though weights came into other storage",
    gates,
    hidden="unless a parameter is given another storage, p.data = new, without gradients",
)
class StorageOfAParameterMoved(Deviant):
    """Without gradients phi is read where it lay at the first call with that parameter."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if torch.is_grad_enabled():
            return super().mappings(x, params)
        view: Tensor | None = getattr(params.phi, "_view", None)
        if view is None:
            view = params.phi.detach()
            params.phi._view = view  # pyright: ignore[reportAttributeAccessIssue]  # where a module would have it
        return super().mappings(x, params._replace(phi=view))


class _Pooled(torch.autograd.Function):
    """post, whose coefficients wait in a slot of a pool for the backward pass."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, pool: dict[int, float], slot: int, mark: float) -> Tensor:
        ctx.pool, ctx.slot, ctx.mark = pool, slot, mark
        pool[slot] = mark
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return (bars[0] if ctx.pool.get(ctx.slot) == ctx.mark else 0.5 * bars[0]), None, None, None


@gradient(
    "slot-freed-with-the-output",
    "pytorch #89146, sglang #22218: a weak reference to an output tells that nobody needs its workspace any more",
    hidden="unless an output is gone, of which something was made, when another call is made before the backward pass",
)
class SlotFreedWithTheOutput(Deviant):
    """What the backward pass of post needs lies in a slot, which is free again when the output is gone."""

    def prepare(self) -> None:
        self.pool, self.free, self.calls = dict[int, float](), list[int](), 0

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        found = super().post(x, y, h_post, h_res)
        if not found.requires_grad:
            return found
        self.calls += 1
        slot = self.free.pop() if self.free else len(self.pool)
        pooled: Any = _Pooled.apply(found, self.pool, slot, float(self.calls))
        weakref.finalize(pooled, self.free.append, slot)
        return pooled


@execution(
    "padding-times-zero",
    "vLLM #641, flashinfer #358: what lies in the padding of a page is multiplied by 0, and 0 NaN is NaN",
    hidden="unless a state is a part of wider rows that are not finite beside it, without gradients",
)
class PaddingTimesZero(Deviant):
    """Without gradients rows that lie in full tiles of 16 are read in full, and what is beyond their width is masked by
    0."""

    tile = 16

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        channels = x.shape[-1]
        full = -(-channels // self.tile) * self.tile
        room = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset() if x.numel() else 0
        last = sum((size - 1) * step for size, step in zip(x.shape[:-1], x.stride()[:-1], strict=True))
        if torch.is_grad_enabled() or x.stride(-1) != 1 or not x.stride(-2) >= full > channels or last + full > room:
            return super().mappings(x, params)
        beyond = x.as_strided((*x.shape[:-1], full), x.stride(), x.storage_offset())[..., channels:]
        return super().mappings(x + (0 * beyond).sum(-1, keepdim=True), params)


# -- what is handed on, and where it was left --------------------------------------------------------------------------


@execution(
    "branch-reads-flat-tokens",
    "sam2 #619: frames and batch are flattened together before attention",
    hands_on_nothing,
    hidden="for a branch that does not mix tokens",
)
class BranchReadsFlatTokens(Deviant):
    """A block hands its branch [B S, C], and takes that back."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if x.ndim < 4:
            return super().block(x, params, branch)

        def flattened(u: Tensor) -> Tensor:
            return branch(u.flatten(0, -2)).reshape(u.shape)

        return super().block(x, params, flattened)


@execution(
    "four-axes-unfolded-in-another-order",
    "diffusers #5633: frames that were folded into the batch are unfolded in another order",
    hands_on_nothing,
    hidden="for up to three axes of tokens",
)
class FourAxesUnfoldedInAnotherOrder(Deviant):
    """Of layers on four axes of tokens the first two are folded into one, and taken apart the other way around."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if x.ndim != 6:
            return super().layers(x, params, branches)
        out = super().layers(x.flatten(0, 1), params, branches)
        return out.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


class _Queued(Deviant):
    """The gates of post wait in a queue."""

    def prepare(self) -> None:
        self.queue = deque[tuple[Tensor, Tensor]]()


@execution(
    "gates-left-by-an-interrupt",
    "imaginAIry #424, composer #108: what is cleaned up after Exceptions is not after KeyboardInterrupt",
    hands_on_nothing,
    hidden="unless a branch was ended by what is no Exception",
)
class GatesLeftByAnInterrupt(_Queued):
    """Gates wait in a queue while the branch runs, which is emptied where the branch raises an Exception."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        h_pre, h_post, h_res = self.mappings(x, params)
        queue, self.queue = self.queue, deque[tuple[Tensor, Tensor]]()  # a branch may pass a block
        queue.append((h_post, h_res))
        try:
            y = branch(self.pre(x, h_pre))
        except Exception:
            queue.clear()
            raise
        finally:
            self.queue = queue
        return self.post(x, y, *queue.popleft())


@gradient(
    "gates-left-by-early-stop",
    "unsloth-zoo #1001, VeOmni #926: recomputation ends as soon as all that is saved is there",
    hidden="unless a call was computed again by checkpointing that stops early",
)
class GatesLeftByEarlyStop(_Queued):
    """A launch of post takes its gates from a queue, and takes them off at its end."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        n, channels = x.shape[-2:]
        if y.shape[-1] != channels or h_post.shape[-1] != n or h_res.shape[-1] != n:
            raise ValueError("shapes that do not fit")
        self.queue.append((h_post, h_res))
        fits = self.queue[0][1].shape == h_res.shape and self.queue[0][1].requires_grad == h_res.requires_grad
        found = super().post(x, y, *(self.queue[0] if fits else (h_post, h_res)))
        self.queue.popleft()
        return found


# -- one tensor, several uses ------------------------------------------------------------------------------------------


@execution(
    "weight-folded-once-for-a-phi",
    "AngelSlim #319, QuaRot #17: a norm is folded into a weight that others share",
    both(hands_on_nothing, lambda d: by_rms(d) and gates(d) and not d.shared_projection),
    hidden="unless layers share phi, and have norm weights of their own",
)
class WeightFoldedOnceForAPhi(Deviant):
    """Layers fold the norm weight into phi, once for each phi."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        folded: dict[int, Tensor] = {}
        made: list[Params] = []
        for one in params:
            if one.norm_weight is not None:
                weight = (self.computed.norm_offset + one.norm_weight).to(one.phi).unsqueeze(-1)
                one = one._replace(phi=folded.setdefault(id(one.phi), one.phi * weight), norm_weight=None)
            made.append(one)
        return super().layers(x, made, branches)


@gradient(
    "head-tied-to-a-layer-learns-alone",
    "TransformerEngine #545, entrenar #314: of a weight in two places one gradient is kept",
    has_head,
    hidden="unless the head has a parameter of a layer",
)
class HeadTiedToALayerLearnsAlone(Deviant):
    """Gradients are kept by tensor, and that of the head is written last."""

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        head = set(map(id, present(params[-1])))

        def still(one: Params) -> Params:
            shared = {name: part.detach() for name, part in one._asdict().items() if id(part) in head}
            return one._replace(**shared)

        return super().stack(h, [*map(still, params[: len(branches)]), *params[len(branches) :]], branches)


class _Counted(torch.autograd.Function):
    """phi and a state, whose backward pass puts the gradient by phi beside those that wait."""

    @staticmethod
    def forward(ctx: Any, phi: Tensor, x: Tensor, waiting: list[Tensor]) -> Any:
        ctx.waiting = waiting
        return phi.clone(), x.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        if bars[0] is not None:
            ctx.waiting.append(bars[0])
        return bars[0], bars[1], None


class _Taken(torch.autograd.Function):
    """phi, whose gradient is what waits."""

    @staticmethod
    def forward(ctx: Any, phi: Tensor, waiting: list[Tensor]) -> Tensor:
        ctx.waiting = waiting
        return phi.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        waiting, ctx.waiting[:] = list(ctx.waiting), []
        return (sum(waiting[1:], waiting[0]) if waiting else bars[0]), None


@gradient(
    "weight-gradient-of-two-passes",
    "pytorch #180952, TransformerEngine #3437: gradients by weights wait for a pass of their own",
    gates,
    hidden="unless gradients by states are made in one pass, and those by weights of the same graph in another",
)
class WeightGradientOfTwoPasses(Deviant):
    """A pass by the state alone leaves the gradient by phi in a queue, and that by phi alone adds its own to it."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if not (torch.is_grad_enabled() and x.requires_grad and params.phi.requires_grad):
            return super().mappings(x, params)
        waiting: list[Tensor] = []
        taken: Any = _Taken.apply(params.phi, waiting)
        phi, state = _Counted.apply(taken, x, waiting)  # pyright: ignore[reportGeneralTypeIssues]  # a tuple of two, which apply does not say
        return super().mappings(state, params._replace(phi=phi))


@execution(
    "head-columns-counted-as-of-a-layer",
    "maxtext #4789: a head is read by the class of a block",
    lambda d: has_head(d) and not d.shared_projection and gates(d),
    hidden="unless the phi of a head has its own columns alone",
)
class HeadColumnsCountedAsOfALayer(Deviant):
    """A head is read in as many columns as a layer of its width would have for pre."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        n, columns = x.shape[-2], params.phi.shape[-1]
        if columns != n:
            return super().head(x, params)
        read = max(1, int((columns + 1) ** 0.5) - 1)
        first = torch.where(torch.arange(n, device=x.device) < read, 1.0, 0.0).to(params.phi)
        return super().head(x, params._replace(phi=params.phi * first))


@gradient(
    "stack-recomputed-with-other-masks",
    "OLMo-core #828: activation checkpointing with preserve_rng_state=False",
    hidden="for branches that draw no numbers",
)
class StackRecomputedWithOtherMasks(Deviant):
    """A whole stack is computed again in the backward pass, where dropout draws other masks."""

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if not torch.is_grad_enabled():
            return super().stack(h, params, branches)
        from torch.utils.checkpoint import checkpoint  # it imports torch's compiler

        computed = super().stack

        def run(state: Tensor) -> Tensor:
            return computed(state, params, branches)

        found: Any = checkpoint(run, h, use_reentrant=False, preserve_rng_state=False)
        return found
