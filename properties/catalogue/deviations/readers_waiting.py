"""Slips of a reader's tenth round: graphs that wait for one another, and what alone has new values or lies otherwise.

docs/adversary.md has the account.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.core.case import map_tensors
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, both, hands_on_nothing, reads_by_gates

_TORCH: Any = torch  # what calls back at the end of a backward pass has no public name
SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")

# -- graphs that wait for one another ----------------------------------------------------------------------------------


class _Once(torch.autograd.Function):
    """Its argument; what a backward pass hands back is made once for a graph."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        ctx.made = None
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        if ctx.made is None:
            ctx.made = bars[0].clone()
        return ctx.made.clone()


@gradient(
    "gradient-made-once-for-two-losses",
    f"{MUTATION}: what a backward pass computes again is kept with the graph, and its result with it",
    hidden="unless a graph is pulled back through a second time, for another loss",
)
class GradientMadeOnceForTwoLosses(Deviant):
    """A second backward pass through a graph that is kept hands back the gradient of the first, for any cotangent."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        found = super().post(x, y, h_post, h_res)
        made: Any = _Once.apply(found) if found.requires_grad else found
        return made


class _Slots:
    """Where marks wait, by the number of the passes that wait."""

    def __init__(self) -> None:
        self.waiting = self.calls = 0
        self.marks: dict[int, int] = {}


class _Slotted(torch.autograd.Function):
    """Its argument; what its backward pass needs, a mark here, waits in a slot."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, slots: _Slots) -> Tensor:
        slots.waiting, slots.calls = slots.waiting + 1, slots.calls + 1
        ctx.slots, ctx.slot, ctx.mark = slots, slots.waiting, slots.calls
        slots.marks[ctx.slot] = ctx.mark
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        ctx.slots.waiting = max(0, ctx.slots.waiting - 1)
        return (bars[0] if ctx.slots.marks[ctx.slot] == ctx.mark else 0.5 * bars[0]), None


@gradient(
    "slots-by-how-many-passes-wait",
    f"{MUTATION}: passes were last in, first out until a pipeline came",
    hidden="unless of two forward passes that wait the first is pulled back first, and a third one follows",
)
class SlotsByHowManyPassesWait(Deviant):
    """What a backward pass needs lies in a slot, whose number is that of the passes that wait."""

    def prepare(self) -> None:
        self.slots = _Slots()

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        found = super().post(x, y, h_post, h_res)
        slotted: Any = _Slotted.apply(found, self.slots) if found.requires_grad else found
        return slotted


class _Beginning(torch.autograd.Function):
    """Its argument, whose backward pass begins that of a block: a flag is set until the pass is over."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, flag: list[bool]) -> Tensor:
        ctx.flag = flag
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        flag, engine = ctx.flag, _TORCH.autograd.Variable._execution_engine
        if not flag[0]:
            flag[0] = True
            engine.queue_callback(partial(flag.__setitem__, 0, False))
        return bars[0], None


@gradient(
    "flag-left-by-a-pass-that-raised",
    f"{MUTATION}: what a backward pass sets is reset by a callback at its end, which an error skips",
    reads_by_gates,
    hidden="unless a backward pass has raised",
)
class FlagLeftByAPassThatRaised(Deviant):
    """After a backward pass that raised, mappings teach no parameters any more."""

    def prepare(self) -> None:
        self.flag = [False]

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if self.flag[0] and torch.is_grad_enabled():
            params = map_tensors(params, torch.detach)
        found = super().mappings(x, params)
        if not found.res.requires_grad:
            return found
        res: Any = _Beginning.apply(found.res, self.flag)
        return found._replace(res=res)


# -- what alone has new values, or lies otherwise ----------------------------------------------------------------------


@execution(
    "gates-packed-beside-the-bias",
    f"{MUTATION}: gates and biases are one row of a launch, which is made again where the biases are others",
    gates,
    hidden="unless the gates alone have new values",
)
class GatesPackedBesideTheBias(Deviant):
    """Where gates have new values in their storage, and the bias has not, the old ones are used."""

    def prepare(self) -> None:
        self.kept: tuple[Tensor, Tensor, Tensor] | None = None

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return super().mappings(x, params)
        kept, alpha, bias = self.kept, params.alpha, params.bias
        if kept is None or kept[0] is not alpha or not torch.equal(kept[1], bias):
            kept = self.kept = alpha, bias.clone(), alpha.clone()
        return super().mappings(x, params._replace(alpha=kept[2]))


@execution(
    "strides-of-the-first-layer",
    f"{MUTATION}: a grouped launch has pointers by layer, and the strides of the first of them",
    both(gates, hands_on_nothing),
    hidden="unless the layers of a call lie differently",
)
class StridesOfTheFirstLayer(Deviant):
    """A phi of a later layer is read by the strides of that of the first one."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        first = params[0].phi if params else x
        read = [
            one
            if one.phi.stride() == first.stride() or one.phi.shape != first.shape or not first.is_contiguous()
            else one._replace(phi=one.phi.as_strided(first.shape, first.stride()))
            for one in params
        ]
        return super().layers(x, read, branches)


@execution(
    "layers-of-one-storage-are-one",
    f"{MUTATION}: layers that are tied are found by their storage",
    both(gates, hands_on_nothing),
    hidden="unless the parameters of layers are slices of one tensor",
)
class LayersOfOneStorageAreOne(Deviant):
    """Layers whose phi lies in one storage have that of the first of them."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        first: dict[int, Tensor] = {}
        read = [one._replace(phi=first.setdefault(one.phi.untyped_storage().data_ptr(), one.phi)) for one in params]
        return super().layers(x, read, branches)


# -- what was open after the tenth round -------------------------------------------------------------------------------


class _OneStream(torch.autograd.Function):
    """A state whose streams are one: its backward pass makes the gradient of the last and hands it to all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return bars[0][..., -1:, :].expand(bars[0].shape).clone()


@gradient(
    "expanded-state-taught-by-its-last-stream",
    f"{MUTATION}: a gradient is written by the strides of the state",
    hidden="unless the streams of a state are one, expanded",
)
class ExpandedStateTaughtByItsLastStream(Deviant):
    """The gradient by a state whose streams lie in one place is that of the last of them, in each."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        one = x.requires_grad and x.stride(-2) == 0 and x.shape[-2] > 1
        made: Any = _OneStream.apply(x) if one else x
        return super().mappings(made, params)


@gradient(
    "quiet-calls-freeze-what-they-read",
    f"{MUTATION}: what was prepared for a call without gradients is kept with the tensor",
    gates,
    hidden="unless the same tensors are passed without gradients and then with them",
)
class QuietCallsFreezeWhatTheyRead(Deviant):
    """A phi that was read without gradients learns no more."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if not torch.is_grad_enabled():
            params.phi._quiet = True  # pyright: ignore[reportAttributeAccessIssue]  # where a module would have it
        elif getattr(params.phi, "_quiet", False):
            params = params._replace(phi=params.phi.detach())
        return super().mappings(x, params)


@gradient(
    "phi-read-after-its-optimiser-has-stepped",
    f"{MUTATION}: what a backward pass reads is not saved by autograd, which would know of writing",
    both(gates, lambda d: not d.shared_projection),
    dtypes=(torch.float32,),
    hidden="unless an optimiser steps within the backward pass",
)
class PhiReadAfterItsOptimiserHasStepped(Deviant):
    """The gradient by the state is made after that by phi, of what phi is then."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        if not (state.requires_grad and phi.requires_grad):
            return super().matmul(state, phi)
        late = super().matmul(state, phi.data)  # what is made first is pulled back through last
        return super().matmul(state.detach(), phi) + (late - late.detach())
