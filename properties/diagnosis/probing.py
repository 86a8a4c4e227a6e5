"""What an implementation refuses: each circumstance of a call by itself.

A call in ordinary circumstances works; the same call in one other circumstance raises, or gives what has not the
promised form. That is a limit, and the attribute that declares it is named. Where no call of a method works there is no
limit: it fails, whatever the circumstances.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from properties.core.case import BranchSpec, map_tensors
from properties.core.declaration import Declaration
from properties.core.implementation import METHODS, Implementation
from properties.diagnosis.exam import Source
from properties.diagnosis.limits import Limit, Met, Refusal, limits_of, named
from properties.diagnosis.view import MAPPINGS, Frame, Unanswered, View
from properties.guards.faults import TargetFault, answered
from properties.targets.process.protocol import NoAnswer

MANY = 130
"""Tokens of the largest question of the exam."""
_ORDINARY = (8, 64, 256)
"""Numbers of channels, of which the first that works is an ordinary one."""
_FEW = (1, 2, 3, 4, 5, 7, 9)
_MULTIPLES = (2, 4, 8, 16, 32, 64, 128, 256)
_TINY = 1e-10
"""Against an ordinary state: the smallest ones of the exam."""
_DEATHS = 12
"""Calls that end a process before no more are made."""
_STRIDED = "inputs that are not contiguous"
_OF_PARAMETERS = ("mappings", "block", "layers", "stack")


@dataclass(frozen=True)
class Circumstances:
    """How a method is called: the arrangement of every tensor in memory is `layout`'s, contiguous without."""

    n: int
    channels: int
    tokens: int
    dtype: torch.dtype
    weight: bool = False
    layout: Callable[[Tensor], Tensor] | None = None
    gradient: bool = False
    scale: float = 1.0


def stepped(one: Tensor) -> Tensor:
    """Every second element of a storage."""
    return torch.stack([one, one + 1], -1)[..., 0]


def turned(one: Tensor) -> Tensor:
    """The axes of a storage in the other order, the first innermost."""
    axes = tuple(reversed(range(one.ndim)))
    return one.permute(axes).contiguous().permute(axes)


def sliced(one: Tensor) -> Tensor:
    """Every second of twice as many."""
    return one.repeat_interleave(2, 0)[::2] if one.ndim else one


class _Spaced(BranchSpec):
    """A branch whose output is a view."""

    def __call__(self, u: Tensor) -> Tensor:
        return stepped(super().__call__(u))


class Probing:
    """The calls that find out what is refused.

    Arguments:
        view: of the target; its frame has a packing that the target takes.
        frame: what the target declares.

    Attributes:
        calls: how many were made.
    """

    def __init__(self, view: View, frame: Frame) -> None:
        self.implementation, self.frame = view.implementation, frame.with_(packing=view.frame.packing)
        self.calls = 0
        self._deaths = 0
        self._asked: dict[tuple[str, Circumstances], Refusal | None] = {}
        self._forms: dict[tuple[str, torch.dtype], list[torch.dtype]] = {}

    def met(self, many: int = MANY) -> list[Met]:
        """Every refusal of every method of the target's own; `many`: tokens of the largest call."""
        found: list[Met] = []
        usual: Circumstances | None = None
        for method in (one for one in METHODS if one in self.frame.own):
            base = self._ordinary(method, usual)
            if base is None and method == "mappings":
                found += self._emits()
                base = self._ordinary(method, usual) if found else None
            if base is None:
                continue
            usual = usual or replace(base, channels=self.frame.width(_ORDINARY[0]))
            found += [*self._sizes(method, base), *self._counts(method, base, many), *self._ways(method, base)]
        return found

    # -- the circumstances ---------------------------------------------------------------------------------------------

    def _ordinary(self, method: str, usual: Circumstances | None) -> Circumstances | None:
        """Circumstances in which a method works; None where none are found."""
        frame = self.frame
        dtypes = (frame.dtype, *(one for one in frame.dtypes if one != frame.dtype))
        sizes = [frame.width(one) for one in _ORDINARY] if method != "project" else [1]
        weights = (False, True) if method in _OF_PARAMETERS and frame.norm_weight else (False,)
        tokens = min(4, frame.max_tokens)
        tries = (
            Circumstances(n, size, tokens, dtype, weight)
            for dtype, n, size, weight in itertools.product(dtypes, frame.streams, sizes, weights)
        )
        given = [] if usual is None else [usual]
        return next((one for one in itertools.chain(given, tries) if self._refusal(method, one) is None), None)

    def _sizes(self, method: str, base: Circumstances) -> Iterator[Met]:
        """Streams, dtypes, channels."""
        for n in sorted(self.frame.streams):
            if refusal := self._refusal(method, replace(base, n=n)):
                yield Met("streams", n, f"n = {n}", refusal)
        for dtype in self.frame.dtypes:
            if refusal := self._refusal(method, replace(base, dtype=dtype)):
                yield Met("dtypes", dtype, f"states in {named(dtype)}", refusal)
        if method == "project":
            return
        unit = self.frame.channel_multiple
        few = [unit * one for one in _FEW]
        refused = [one for one in few if self._refusal(method, replace(base, channels=one))]
        if not refused:
            return
        refusal = self._refusal(method, replace(base, channels=refused[-1]))
        assert refusal is not None
        for multiple in (unit * one for one in _MULTIPLES):
            tried = {*few, multiple, 3 * multiple, multiple + multiple // 2 // unit * unit}
            if all(
                (self._refusal(method, replace(base, channels=one)) is None) == (one % multiple == 0) for one in tried
            ):
                yield Met("channel_multiple", multiple, f"channels that are no multiple of {multiple}", refusal)
                return
        if refused[-1] >= 3 * unit:  # the questions of the exam would all be refused
            size = f"{refused[-1]} channels, and not for {base.channels}"
            yield Met("", base.channels, f"{size}, which no attribute declares", refusal)

    def _counts(self, method: str, base: Circumstances, many: int) -> Iterator[Met]:
        """Tokens: none, and many."""
        frame = self.frame
        if frame.zero_tokens:
            yield from self._flag("zero_tokens", "calls without a token", method, replace(base, tokens=0))
        most = min(many, frame.max_tokens)

        def refuses(count: int) -> Refusal | None:
            return self._refusal(method, replace(base, tokens=count))

        if not (refusal := refuses(most)):
            return
        low, high = base.tokens, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if refuses(middle) else (middle, high)
        fewer = {1, 2, 3, 5, 7, low // 2, low - 1}
        more = {low + 3, 2 * low, (low + most) // 2 + 1, most - 1}
        if not any(refuses(one) for one in fewer if 0 < one < low) and all(
            refuses(one) for one in more if low < one < most
        ):
            yield Met("max_tokens", low, f"more than {low} token{'s' * (low > 1)} a call", refuses(high) or refusal)

    def _ways(self, method: str, base: Circumstances) -> Iterator[Met]:
        """A norm weight, other strides, gradients, states next to zero."""
        frame = self.frame
        if method in _OF_PARAMETERS and frame.norm_weight and not base.weight:
            yield from self._flag("norm_weight", "parameters with a norm weight", method, replace(base, weight=True))
        for layout in (sliced, stepped, turned) if frame.strided else ():
            yield from self._flag("strided", _STRIDED, method, replace(base, layout=layout))
        if frame.differentiable:
            yield from self._flag("differentiable", "gradients", method, replace(base, gradient=True))
        if method not in ("mappings", "block") or frame.least_scale >= _TINY:
            return
        if refusal := self._refusal(method, replace(base, scale=_TINY)):
            scales = (10.0**-power for power in range(9, 0, -1))
            least = next((one for one in scales if not self._refusal(method, replace(base, scale=one))), None)
            if least is not None:
                yield Met("least_scale", least, f"states smaller than {least:g} times ordinary ones", refusal)

    def _flag(self, attribute: str, what: str, method: str, call: Circumstances) -> Iterator[Met]:
        """The refusal of a circumstance that a flag declares, if it is refused."""
        if refusal := self._refusal(method, call):
            yield Met(attribute, False, what, refusal)

    def _emits(self) -> list[Met]:
        """The mappings that are None, though the others are there."""
        frame = self.frame
        call = Circumstances(frame.n, frame.width(_ORDINARY[0]), min(4, frame.max_tokens), frame.dtype)
        arguments, _ = self._arguments("mappings", call)
        refusal = self._refusal("mappings", call)
        try:
            given = map_tensors(arguments, lambda one: one.to(frame.device))
            got: Any = answered(lambda: self.implementation.mappings(*given))
        except TargetFault:
            return []
        self.calls += 1
        if refusal is None or not isinstance(got, (tuple, list)) or len(got) != len(MAPPINGS):
            return []
        there = [name for name, part in zip(MAPPINGS, got, strict=True) if part is not None]
        emits = tuple(name for name in frame.emits if name in there)
        if not emits or emits == frame.emits:
            return []
        self.frame = frame.with_(emits=emits)
        self._asked.clear()
        missing = " and ".join(name for name in frame.emits if name not in there)
        return [Met("emits", emits, f"any call: it gives no {missing}", replace(refusal, message="None"))]

    # -- one call ------------------------------------------------------------------------------------------------------

    def _refusal(self, method: str, call: Circumstances) -> Refusal | None:
        """What a call meets; None where it works, and gives the dtypes that the first one gave."""
        key = method, call
        if key not in self._asked:
            self._asked[key] = self._made(method, call)
        return self._asked[key]

    def _made(self, method: str, call: Circumstances) -> Refusal | None:
        arguments, branches = self._arguments(method, call)
        leaves: list[Tensor] = []
        if call.gradient:
            arguments = map_tensors(arguments, lambda one: (leaves.append(one.clone().requires_grad_()), leaves[-1])[1])
        view = View(self.implementation, self.frame.with_(dtype=call.dtype))
        self.calls += 1
        try:
            got, _ = view.ask(method, arguments, branches)
            mapped = zip(MAPPINGS, got, strict=True) if method == "mappings" else [("", got)]
            outputs: list[Tensor] = [one for name, one in mapped if not name or name in self.frame.emits]
            if call.gradient:
                view.pulled(outputs, leaves, [torch.ones_like(one) for one in outputs])
        except TargetFault as fault:
            return Refusal.of(method, fault.error)
        except Unanswered as failure:
            self._deaths += 1
            if self._deaths > _DEATHS or hangs(failure):
                raise
            return Refusal.of(method, _error(failure))
        dtypes = [one.dtype for one in outputs]
        usual = self._forms.setdefault((method, call.dtype), dtypes)
        if dtypes != usual:
            odd, expected = next((a, b) for a, b in zip(dtypes, usual, strict=True) if a != b)
            return Refusal(method, "", f"{named(odd)}, and {named(expected)} otherwise", "")
        return None

    def _arguments(self, method: str, call: Circumstances) -> tuple[tuple[Any, ...], list[BranchSpec]]:
        """The arguments of a method, and its branches."""
        frame = self.frame.with_(dtype=call.dtype, channel_multiple=1, norm_weight=call.weight)
        source, n, tokens = Source(frame, 9, call.dtype), call.n, (call.tokens,)
        x = (call.scale * source.state(tokens, n, call.channels, tame=True)).to(call.dtype)
        gates = [source.normal(*tokens, n, seed=k).to(frame.parameter_dtype) for k in (1, 2)]
        h_res = source.normal(*tokens, n, n, seed=3).to(frame.parameter_dtype)
        h = source.outputs(*tokens, call.channels, seed=4)
        params = source.params(n, call.channels) if method in (*_OF_PARAMETERS, "collapse") else None
        head = (params,) if frame.head else ()
        branch = source.branch(call.channels)
        every: dict[str, tuple[Any, ...]] = {
            "project": (source.normal(*tokens, *frame.logits_shape(n), seed=5).to(frame.parameter_dtype),),
            "mappings": (x, params),
            "pre": (x, gates[0]),
            "post": (x, h, gates[1], h_res),
            "block": (x, params),
            "layers": (x, (params, params)),
            "expand": (h, n),
            "collapse": (x, *head),
            "stack": (h, (params, params, *head)),
        }
        count = {"block": 1, "layers": 2, "stack": 2}.get(method, 0)
        arguments: Any = every[method]
        if call.layout is not None:
            arguments = map_tensors(arguments, call.layout)
            branch = _Spaced(branch.kind, branch.weight)
        return arguments, [branch] * count


def hangs(failure: Unanswered) -> bool:
    """Whether a call took all its time, and did not end with its process."""
    return issubclass(type(_error(failure)), NoAnswer)


def _error(failure: Unanswered) -> BaseException:
    fault = failure.__cause__
    return fault.error if isinstance(fault, TargetFault) else failure


def probed(
    implementation: Implementation, *, dtype: torch.dtype | None = None, device: str = "cpu", many: int = MANY
) -> tuple[Limit, ...]:
    """Every limit of an implementation, whatever an exam asks; a hundred small calls, and some of `many` tokens.

    Raises:
        Unanswered: calls do not come back, whatever they are.
    """
    frame, declared = Frame.of(implementation, dtype, device), Declaration.of(implementation)
    met = [*Probing(View(implementation, frame), frame).met(many), *_tuned(implementation, declared)]
    return limits_of(met, declared)


def _tuned(implementation: Implementation, declared: Declaration) -> Iterator[Met]:
    """The fields of the dialect that cannot be changed after all."""
    for field in sorted(declared.tunable):
        value = getattr(declared.dialect, field)
        try:
            answered(partial(implementation.tuned, **{field: value + 1 if field == "iterations" else value}))
        except TargetFault as fault:
            yield Met("tunable", field, f"another `{field}`", Refusal.of("tuned", fault.error))
