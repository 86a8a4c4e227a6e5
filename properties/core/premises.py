"""Whom a law speaks about: premises on what an implementation offers and declares, and on the place where it computes.

A premise is called with (implementation, dtype of the state, device or None where it is not asked about) and answers
None where it is met, otherwise the reason why the law says nothing there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mhc_ref import Dialect
from properties.core.declaration import Declared
from properties.core.device import Feature, device_of
from properties.core.family import mix_of
from properties.core.implementation import Implementation, dtype_names, offers, parameter_dtype

Premise = Callable[[Implementation, torch.dtype, torch.device | None], str | None]
"""None where it is met, otherwise the reason why it is not."""

Applies = Callable[[Dialect], str | None]
"""None where a law holds for the dialect, otherwise the reason why it does not."""


@dataclass(frozen=True)
class Where:
    """The declared dialect meets these premises; the first reason that one gives."""

    premises: tuple[Applies, ...]

    def __call__(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        return next((reason for one in self.premises if (reason := one(implementation.dialect))), None)


def where(*premises: Applies) -> Where:
    """Premises on the dialect."""
    return Where(premises)


def short_parameters(implementation: Implementation, dtype: torch.dtype) -> bool:
    """Whether parameters are stored in a dtype shorter than the one that is computed in."""
    return implementation.parameters == "state" and dtype != parameter_dtype(dtype)


def has_short_stages(implementation: Declared, dtype: torch.dtype) -> bool:
    """Whether some stages compute in a dtype shorter than float32."""
    return bool(implementation.short_stages) and dtype not in (torch.float64, torch.float32)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Offers:
    """These methods are there, be it derived from others."""

    methods: tuple[str, ...]

    def __call__(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        offered = offers(implementation)
        if (
            "project" in self.methods
            and offered.get("project", "own") != "own"
            and short_parameters(implementation, dtype)
        ):
            return f"project is derived from a bias, which is stored in {_named(dtype)}, and logits are not"
        missing = [method for method in self.methods if method not in offered]
        return f"does not offer {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Emits:
    """`mappings` returns this one."""

    part: str

    def __call__(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        return None if self.part in implementation.emits else f"mappings does not emit {self.part}"


@dataclass(frozen=True)
class Declares:
    """This attribute of the implementation is true; `otherwise` says that it is not."""

    attribute: str
    otherwise: str = ""

    def __call__(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        if self.attribute == "differentiable" and has_short_stages(implementation, dtype):
            return f"stages that compute in {_named(dtype)} have no derived bound backwards"
        return (
            None if getattr(implementation, self.attribute) else self.otherwise or f"{self.attribute} is not declared"
        )


@dataclass(frozen=True)
class TunesSome:
    """`tuned` can change one of these fields at least, or one that a family brings."""

    fields: tuple[str, ...]

    def changes(self, implementation: Implementation) -> frozenset[str]:
        """Those that it can."""
        return implementation.tunable & {*self.fields, *(name for name, _ in implementation.dialect.own)}

    def __call__(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        return None if self.changes(implementation) else "none of the fields that it is about can be tuned"


@dataclass(frozen=True)
class AtLeast:
    """So many streams are accepted; examples are drawn of no fewer."""

    streams: int

    def __call__(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        enough = max(implementation.streams) >= self.streams
        return None if enough else f"says nothing below n = {self.streams}"


def as_far_as_float32(
    implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
) -> str | None:
    """States are stored with an exponent of eight bits or more, so that their squares can leave the compute dtype."""
    enough = torch.finfo(dtype).max > 2.0 ** (2**7 - 1)
    return None if enough else f"{_named(dtype)} holds no state whose square leaves the range of float32"


def not_covered_by_float32(
    implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
) -> str | None:
    """Logits of a state below float32 are float32: a law that feeds logits alone is asked once."""
    name = _named(dtype)
    if name in ("float64", "float32") or "float32" not in dtype_names(implementation):
        return None
    return f"logits are float32 for {name} states: covered by float32"


def known_mix(implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None) -> str | None:
    """There is a formula of h_res."""
    if mix_of(implementation.dialect).known:
        return None
    return "claims guarantees only: there is no formula of h_res to compare with"


@dataclass(frozen=True)
class OnDevice:
    """The implementation computes on the device, which has what the law needs of it.

    Attributes:
        feature: what is needed of the device, see `properties.core.device.Feature`.
        in_process: something about this process is set up that a call in another one does not see.
        giants: tensors of 2^31 elements that are fed, for which there must be room.
        logits: they are logits, and not states.
    """

    feature: Feature | None = None
    in_process: bool = False
    giants: int = 0
    logits: bool = False

    def __call__(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        if place is None:
            return None
        if place.type not in implementation.devices:
            return f"does not compute on {place.type}: its devices are {', '.join(implementation.devices)}"
        if self.in_process and not implementation.in_process:
            return "computes in another process"
        device = device_of(place)
        if self.feature and (reason := device.lacks(self.feature)):
            return reason
        if self.feature == "accelerator" and "cpu" not in implementation.devices:
            return f"does not compute on cpu: its devices are {', '.join(implementation.devices)}"
        if self.giants:
            if self.logits and implementation.max_tokens < device.giant:
                return f"takes {implementation.max_tokens} tokens a call"
            size = (parameter_dtype(dtype) if self.logits else dtype).itemsize
            return device.short_of(self.giants * device.giant * size)
        return None


ANYWHERE = OnDevice()
HERE = OnDevice(in_process=True)

several_streams = AtLeast(2)
emits_res = Emits("res")

differentiable = Declares("differentiable", "declared as not differentiable")
deterministic = Declares("deterministic")
strided = Declares("strided")
zero_tokens = Declares("zero_tokens")
full_range = Declares("full_range")
full_scale = Declares("full_scale")
norm_weight = Declares("norm_weight")
batch_invariant = Declares("batch_invariant")
graph_capturable = Declares("graph_capturable")
compilable = Declares("compilable")
autocast_safe = Declares("autocast_safe")
