"""One call of one method of an implementation, as everybody here makes it: laws on trial, diagnosis on its questions.

Arguments are handed over where the implementation computes, with the precision held that it declares; branches are
recorded, and whose fault an exception is, is told; what comes back is plain, of the promised shape, and in its place.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings
from mhc_ref.packing import logits_shape, streams_of_logits
from properties.core.arranged import arranged
from properties.core.case import BranchSpec, map_tensors
from properties.core.device import device_of, held_to
from properties.core.handing import handing
from properties.core.implementation import Implementation
from properties.core.judging import same_numbers
from properties.core.reads import mapping_shapes
from properties.core.ways import PLAIN, QUIET, RECORDED, SERVING
from properties.guards.faults import HarnessError, TargetFault, answered
from properties.guards.plain import oddity, plain
from properties.guards.printable import printable
from properties.guards.surroundings import called

T = TypeVar("T")

_TORCH: Any = torch  # hooks that are put up have no public name

BRANCHED = ("block", "layers", "stack")
"""The methods whose last argument is a branch, or one for each layer."""


def _of_a_graph(one: Tensor) -> Tensor:
    """The same, of a graph as the state of a training step is, which may be written to as a leaf may not."""
    return one.requires_grad_().clone() if one.is_floating_point() else one


def _mode(way: str) -> AbstractContextManager[Any]:
    """The mode of torch of a way (`properties.core.ways`)."""
    return torch.no_grad() if way == QUIET else torch.inference_mode() if way == SERVING else nullcontext()


@dataclass(frozen=True)
class Seen:
    """What a branch was given and what it gave back, in the dtype of the state; `held`: the very tensor that it was
    given, where `u` is a copy."""

    u: Tensor
    y: Tensor
    held: Tensor | None = None

    def stays(self) -> bool:
        """Whether what the branch was given is still what it was then."""
        return self.held is None or same_numbers(self.held.to(self.u.device), self.u)


@dataclass(frozen=True)
class Observer:
    """How an implementation is called.

    Attributes:
        implementation: what is called.
        device: where it computes.
        packing: a dialect whose logits are shaped as its own.
        emits: the mappings that it returns.
        dtype: of the state, of which answers have to be, coefficients in float32 or wider; None: whatever they are of.
        refused: makes the exception for an answer that has not the promised form, of what it is and what was expected.
        copies: whether arguments are fresh copies, and what branches saw is kept as copies; otherwise they are the very
            tensors, with their graphs.
        stays: whether those copies of what branches saw stay on the device.
        axes: how tokens are arranged that come on one axis, see `properties.core.arranged`; "" for as they come.
    """

    implementation: Implementation
    device: torch.device
    packing: Dialect
    emits: Sequence[str]
    dtype: torch.dtype | None
    refused: Callable[[str], Exception]
    copies: bool
    stays: bool = False
    axes: str = ""

    @cached_property
    def asked(self) -> Implementation:
        """The implementation, handed its parameters in the dtype in which it stores them, and tokens on its axes."""
        return arranged(handing(self.implementation), self.axes)

    def call(
        self, method: str, arguments: tuple[Any, ...], branches: Sequence[BranchSpec] = (), way: str = PLAIN
    ) -> tuple[Any, list[Seen]]:
        """What a method answers, and what its branches saw, in the order in which they were called.

        Arguments:
            way: whether torch records gradients, see `properties.core.ways`.

        Raises:
            TargetFault: the implementation raised something.
            HarnessError: a branch did, wherever that went.
            torch.OutOfMemoryError: there is no room for the arguments on the device.
            what `refused` makes: the answer, or what a branch was given, has not the promised form.
        """
        seen: list[Seen] = []
        ours: list[Exception] = []
        calls = [self._watched(method, branch, arguments[0], seen, ours) for branch in branches]
        handed = self.handed(arguments)
        if way == RECORDED:
            handed = map_tensors(handed, _of_a_graph)
        if method in BRANCHED:
            handed = (*handed, calls[0] if method == "block" else calls)
        try:
            with _mode(way):
                got = self.held(lambda: getattr(self.asked, method)(*handed))
        except TargetFault as fault:
            for one in ours:
                # A harness error may have been wrapped by the target.
                if one is fault or one is fault.error or isinstance(one, HarnessError):
                    raise one from None
            raise
        for one in ours:
            if isinstance(one, HarnessError):  # swallowed on the way
                raise one
        if way == SERVING:  # where copies are tensors that autograd refuses ever after
            seen = [Seen(one.u.clone(), one.y.clone()) for one in seen]
        return self.formed(method, arguments, got), seen

    def held(self, call: Callable[[], T]) -> T:
        """What some code of the implementation gives, in the precision that is declared.

        Raises:
            TargetFault: it raised something.
        """
        with held_to(self.implementation.products), called(self.device):
            return answered(call)

    def placed(self, value: Any) -> Any:
        """Copies on the device: an implementation that writes to its arguments must not change the case, which the
        truth still reads, and which other implementations may be given after it."""
        return map_tensors(value, lambda tensor: tensor.to(self.device, copy=True))

    def handed(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments on the device."""
        if not self.copies:
            return arguments if self.device.type == "cpu" else self.placed(arguments)
        # An implementation that writes to its arguments must not change the case, which the truth still reads.
        tensors: list[Tensor] = []
        map_tensors(arguments, lambda tensor: (tensors.append(tensor), tensor)[1])
        copies = iter(device_of(self.device).transfer(tensors, self.device))
        return map_tensors(arguments, lambda tensor: next(copies))

    def formed(self, method: str, arguments: tuple[Any, ...], got: Any) -> Any:
        """What a method answered, where it has the promised form; mappings that are not emitted are empty tensors."""
        state = self._dtypes()
        # Wider than the contract asks is no fault; narrower would be.
        wider = state if state in (None, (torch.float64,)) else (torch.float32, torch.float64)
        first: Tensor = arguments[0]
        if method == "mappings":
            return self._mappings(got, first, wider)
        wider = self._short("res", wider)
        if method == "project":
            n = streams_of_logits(first.shape, self.packing)
            batch = first.shape[: -len(logits_shape(n, self.packing))]
            return self.tensor(method, got, (*batch, n, n), wider)
        shape = tuple(first.shape)
        if method in ("pre", "collapse"):
            shape = (*shape[:-2], shape[-1])
        elif method == "expand":
            shape = (*shape[:-1], arguments[1], shape[-1])
        return self.tensor(method, got, shape, state)

    def _short(self, part: str, dtypes: tuple[torch.dtype, ...] | None) -> tuple[torch.dtype, ...] | None:
        """The dtypes that a mapping may be of, of which the stage may compute in the dtype of the state."""
        stage = "projection" if part == "res" else "gates"
        if dtypes is None or self.dtype is None or stage not in self.implementation.short_stages:
            return dtypes
        return (self.dtype, *dtypes)

    def _dtypes(self) -> tuple[torch.dtype, ...] | None:
        """What a state may be of."""
        return None if self.dtype is None else (self.dtype,)

    def _mappings(self, got: Any, x: Tensor, dtypes: tuple[torch.dtype, ...] | None) -> Mappings:
        if not issubclass(type(got), (tuple, list)) or len(got) != len(Mappings._fields):
            found = printable(type(got).__name__)
            raise self.refused(f"mappings returned {found}; expected Mappings(pre, post, res)")
        shapes = mapping_shapes(tuple(x.shape), self.packing)
        return Mappings(
            *(
                self.tensor(f"mappings.{name}", part, shape, self._short(name, dtypes))
                if name in self.emits
                else torch.empty(0)
                for name, part, shape in zip(Mappings._fields, got, shapes, strict=True)
            )
        )

    def tensor(self, what: str, got: Any, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...] | None) -> Tensor:
        """A plain tensor of that shape, of one of those dtypes, on the device."""
        if (odd := oddity(got)) is not None:
            raise self.refused(f"{what} is {printable(odd)}; expected a torch.Tensor of shape {shape}")
        found = plain(got)
        if tuple(found.shape) != shape:
            raise self.refused(f"{what} has shape {tuple(found.shape)}; expected {shape}")
        if dtypes is not None and found.dtype not in dtypes:
            names = " or ".join(str(one) for one in dtypes)
            raise self.refused(f"{what} is {found.dtype}; expected {names} for a {self.dtype} state")
        if found.is_complex():  # of whatever dtype it may be, it is read as real numbers
            raise self.refused(f"{what} is {found.dtype}; expected real numbers")
        if found.device.type != self.device.type:
            raise self.refused(f"{what} is on {found.device}; expected {self.device}")
        return found

    def _watched(
        self, method: str, branch: BranchSpec, state: Tensor, seen: list[Seen], ours: list[Exception]
    ) -> Callable[[Any], Tensor]:
        """The branch, which notes what it saw in `seen`, and what the harness raises in it in `ours`."""
        shape = tuple(state.shape) if method == "stack" else (*state.shape[:-2], state.shape[-1])

        def call(u: Any) -> Tensor:
            try:
                given = self.tensor(f"{method}: the branch input", u, shape, self._dtypes())
            except Exception as broken:
                ours.append(broken)
                raise
            try:
                y = branch(given)
            except Exception as error:  # the branch is the harness's, wherever it is called, but was promised a dtype
                if given.dtype != state.dtype or not _raised_in_a_branch(error):
                    raise
                ours.append(HarnessError(f"a {branch.kind} branch raised {type(error).__name__}: {error}"))
                raise ours[-1] from error
            kept = (given, y)
            if self.copies:
                there = [one.detach() for one in kept]
                kept = [one.clone() for one in (there if self.stays else (one.cpu() for one in there))]
            seen.append(Seen(kept[0], kept[1], given.detach() if self.copies else None))
            return y

        return call


def _raised_in_a_branch(error: Exception) -> bool:
    """Whether code of a branch raised it, or what that called, and no hook on saved tensors that was put up around it.

    Recomputed activations end their second pass by raising from such a hook, as soon as all that is saved is there.
    """
    hooks = _TORCH._C._autograd._top_saved_tensors_default_hooks(True)
    put_up = {getattr(one, "__code__", None) for one in hooks or ()}
    return all(frame.f_code not in put_up for frame, _ in traceback.walk_tb(error.__traceback__))
