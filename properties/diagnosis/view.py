"""An implementation as a diagnosis sees it: through the methods that it offers itself, every call counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import logit_sizes, logits_shape, params_shapes, residual_size, streams_of_logits
from mhc_ref.stack import has_head
from properties.core.case import BranchSpec
from properties.core.declaration import Declaration
from properties.core.handing import is_storable, rounded, stored_dtype
from properties.core.implementation import METHODS, Implementation, offers, parameter_dtype
from properties.core.observer import Observer
from properties.core.premises import has_short_stages
from properties.core.pulling import pulled_back
from properties.guards.faults import TargetFault, answered
from properties.targets.process.protocol import ProcessFailure

MAPPINGS = ("pre", "post", "res")


class Silent(Exception):  # nothing is wrong with a target that offers little
    """What was asked for cannot be observed through the methods that the target offers."""


class Unanswered(Exception):  # neither the harness's error nor an answer
    """A call that did not come back: the process died or hung, or the target tried to leave. No answer, no verdict."""


class BadOutput(Exception):  # what a target gave, in the place of what it raised
    """What came back has not the form that was asked for: no tensor, another shape, another device."""


class Frame(Declaration):
    """What may be asked of a target, and in which shapes: what it declares, and more.

    Attributes:
        dtype: the finest state dtype that it accepts.
        coarse: the coarser state dtypes, float16 apart.
        streams: the accepted n, the most telling one (3, or what is next to it) first.
        offered: the methods that it offers, own or derived from own ones.
        own: the methods that it overrides.
        packing: a dialect whose parameters are packed as the target takes them, its own unless shown otherwise.
    """

    dtype: torch.dtype
    coarse: tuple[torch.dtype, ...]
    offered: frozenset[str]
    own: frozenset[str]
    packing: Dialect
    device: torch.device

    @classmethod
    def of(  # pyright: ignore[reportIncompatibleMethodOverride]  # it asks for methods, too
        cls, implementation: Implementation, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> Frame:
        """The frame of an implementation, in a given state dtype or in its finest."""
        order = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
        declared = Declaration.of(implementation)
        ranked = sorted(declared.dtypes, key=order.index)
        found = offers(implementation)
        favour = sorted(declared.streams, key=lambda n: (n < 3, abs(n - 3), n))
        main = dtype or ranked[0]
        beside = {
            "streams": tuple(n for n in favour if n <= 8) or tuple(favour[:1]),
            "dtype": main,
            "coarse": () if dtype else tuple(one for one in ranked if one not in (main, torch.float16)),
            "offered": frozenset(found),
            "own": frozenset(method for method, how in found.items() if how == "own"),
            "packing": declared.dialect,
            "device": torch.device(device),
            # Stages that compute in a short dtype have no derived bound backwards: the laws ask for no gradient, too.
            "differentiable": declared.differentiable and not has_short_stages(implementation, main),
        }
        return cls(**declared.values() | beside)

    @property
    def shared(self) -> bool:
        """phi is packed for a projection shared by all streams."""
        return self.packing.shared_projection

    @property
    def head(self) -> bool:
        """The streams are collapsed with parameters of a head."""
        return has_head(self.dialect)

    @property
    def n(self) -> int:
        """The most telling number of streams."""
        return self.streams[0]

    @property
    def parameter_dtype(self) -> torch.dtype:
        """Of params and logits."""
        return parameter_dtype(self.dtype)

    def kept(self, values: Tensor) -> Tensor:
        """Values that a parameter can have, next to these."""
        return rounded(values.to(self.parameter_dtype), stored_dtype(self, self.dtype))

    @property
    def depth(self) -> float:
        """A logit whose exponential is next to nothing, and not yet nothing, where coefficients are computed."""
        return 600.0 if self.dtype == torch.float64 else 72.0

    def residual_size(self, n: int) -> int:
        """R."""
        return residual_size(n, self.packing)

    def phi_shape(self, n: int, channels: int) -> tuple[int, int]:
        """As the target packs it."""
        return params_shapes(n, channels, self.packing).phi

    def logits_shape(self, n: int) -> tuple[int, ...]:
        """Of the residual logits of one token."""
        return tuple(logits_shape(n, self.packing))


class View:
    """The methods of an implementation, their calls counted and kept, on the device that it computes on.

    What was asked is kept alive with its storage, so that no two questions share an address, and can be asked again
    of somebody who remembers earlier calls. `progress` hears what is asked, and whom the answers are compared with.
    """

    def __init__(
        self, implementation: Implementation, frame: Frame, progress: Callable[[str], None] = lambda _: None
    ) -> None:
        self.implementation = implementation
        self.frame = frame
        self.progress = progress
        self.calls = 0
        self.log: list[tuple[str, tuple[Any, ...], tuple[BranchSpec, ...]]] = []

    def call(self, method: str, *arguments: Any) -> Any:
        """One call of a method without branches; its output has the form that the method promises.

        Raises:
            TargetFault: what the target raised, or `BadOutput`.
            Unanswered: the call did not come back.
        """
        return self.ask(method, arguments)[0]

    def ask(
        self, method: str, arguments: tuple[Any, ...], branches: Sequence[BranchSpec] = ()
    ) -> tuple[Any, list[Tensor]]:
        """One call of any method, as `call`, and what its branches were given."""
        if method not in METHODS:
            raise ValueError(f"{method!r} is no method of an implementation; those are {', '.join(METHODS)}")
        self._stored(arguments)
        self.calls += 1
        self.log.append((method, arguments, tuple(branches)))
        frame = self.frame
        observer = Observer(self.implementation, frame.device, frame.packing, frame.emits, None, _bad, copies=False)
        try:
            got, seen = observer.call(method, arguments, branches)
        except TargetFault as fault:
            if not issubclass(type(fault.error), (ProcessFailure, SystemExit)):
                raise
            shapes = ", ".join(map(_shape, (*arguments, *branches)))
            raise Unanswered(f"`{method}` of {shapes} did not come back ({fault})") from fault
        return got, [one.u for one in seen]

    def _stored(self, arguments: tuple[Any, ...]) -> None:
        """Refuse parameters whose values the target cannot store: what it computes of others says nothing of them."""
        if self.implementation.parameters == "compute":
            return
        dtype = stored_dtype(self.implementation, arguments[0].dtype)
        for one in arguments[1:]:
            several = [one] if isinstance(one, Params) else one if isinstance(one, (tuple, list)) else []
            if not all(is_storable(params, dtype) for params in several if isinstance(params, Params)):  # pyright: ignore[reportUnknownVariableType]
                short = str(dtype).removeprefix("torch.")
                told = f"parameters are stored in {short}, which does not have the values that are asked with"
                raise TargetFault(Silent(told))

    def pulled(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """The gradients of outputs by inputs, see `pulled_back`: the backward pass is the target's as well."""
        return answered(lambda: pulled_back(outputs, inputs, cotangents))

    def project(self, logits: Tensor) -> Tensor:
        """h_res of logits; where there is no projection by itself, through one call of `mappings` for each matrix."""
        if "project" in self.frame.own:
            return self.call("project", logits)
        if "mappings" not in self.frame.own or "res" not in self.frame.emits:
            raise Silent("h_res is not returned")
        n = streams_of_logits(logits.shape, self.frame.packing)
        axes = len(logits_shape(n, self.frame.packing))
        flat = logits.reshape(math.prod(logits.shape[:-axes]), self.frame.residual_size(n))
        found = [self.mappings(self.ones(n), self.static(n, res=one))[2] for one in flat]
        return torch.stack(found).reshape(*logits.shape[:-axes], n, n)

    def mappings(self, x: Tensor, params: Params) -> list[Tensor]:
        """pre, post, res; those that the target does not emit are empty."""
        return list(self.call("mappings", x, params))

    def block(self, x: Tensor, params: Params, branch: BranchSpec) -> list[Tensor]:
        """What the branch was given, and the next state."""
        return self._recorded("block", (x, params), [branch])

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec]) -> list[Tensor]:
        """What every branch was given, and the state in the end."""
        return self._recorded("layers", (x, tuple(params)), branches)

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec]) -> list[Tensor]:
        """What every branch was given, and the stream in the end."""
        return self._recorded("stack", (h, tuple(params)), branches)

    def ones(self, n: int, channels: int = 2) -> Tensor:
        """A state of ones."""
        return torch.ones(n, self.frame.width(channels), dtype=self.frame.dtype)

    def static(
        self,
        n: int,
        channels: int = 2,
        pre: Tensor | None = None,
        post: Tensor | None = None,
        res: Tensor | None = None,
    ) -> Params:
        """Parameters whose logits are the given biases, whatever the state."""
        channels = self.frame.width(channels)
        dtype = self.frame.parameter_dtype
        shapes = params_shapes(n, channels, self.frame.packing)
        sizes = logit_sizes(n, self.frame.packing)
        parts = [
            torch.zeros(size) if part is None else part for part, size in zip((pre, post, res), sizes, strict=True)
        ]
        bias = torch.cat([part.to(dtype).flatten() for part in parts])
        return Params(torch.zeros(shapes.phi, dtype=dtype), bias, torch.ones(shapes.alpha, dtype=dtype))

    def _recorded(self, method: str, arguments: tuple[Any, ...], branches: Sequence[BranchSpec]) -> list[Tensor]:
        got, read = self.ask(method, arguments, branches)
        return [*read, got]


def _bad(what: str) -> TargetFault:
    return TargetFault(BadOutput(what))


def _shape(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return f"{list(argument.shape)} {str(argument.dtype).removeprefix('torch.')}"
    if isinstance(argument, Params):
        return "params"
    return "a list" if isinstance(argument, list | tuple) else "a branch"
