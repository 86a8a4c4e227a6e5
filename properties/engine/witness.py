"""Whether a mutant is wrong at all: an input at which its conditions hold, and mpmath's word on what it gives there.

The input is made from the conditions, not searched for: sizes that fit, values changed as each asks, the mode, calls
before. Where the condition cannot be brought about, or what comes out stays within the bound, the mutant is equivalent
to the reference as far as anybody can tell, and no law can be asked to see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx
from properties.catalogue.mutants import Mutant, Spec
from properties.catalogue.mutants.moments import Wish
from properties.core.case import BranchSpec
from properties.core.exact_truth import ExactTruth
from properties.core.pulling import pulled_back
from properties.core.trial import FloatTruth, Trial, wide
from properties.engine.witness_calls import Call, Sizes, call_of, sizes_of
from properties.laws import errors

Status = Literal["wrong", "within the bound", "not reached"]

_CALLS = 330
"""Calls of a witness at most: as many as the latest of the conditions on history asks for."""
_MUCH = 3000
"""Numbers in the states of all layers from which gradients are those of float64: mpmath takes a minute for more."""


@dataclass(frozen=True)
class Confirmation:
    """What a witness shows.

    Attributes:
        ratio: the largest error / bound that was seen; infinite where a contract is broken.
        where: the input in words, or why there is none.
    """

    status: Status
    ratio: float
    where: str


# Judging


class Judged:
    """The exact values of a call and their bounds, in the order of its outputs or of its gradients."""

    def __init__(self, spec: Spec, mutant: Mutant, many: bool) -> None:
        truth = FloatTruth(spec.dialect) if many else ExactTruth(spec.dialect)
        self.trial = Trial(mutant, spec.dtype, torch.device("cpu"), truth)

    def values(self, call: Call, s: Sizes) -> list[tuple[Tensor, Tensor]]:
        """(exact, bound) of each output."""
        trial, truth = self.trial, self.trial.truth
        x, more, params = self._flat(call, s)
        if call.method == "project":
            return [(truth.project(x), errors.projection(trial, x).error)]
        if call.method == "mappings":
            bound = errors.mappings(trial, x, params[0])
            exact = truth.mappings(x, params[0])
            return [(one, part.error) for one, part in zip(exact, (bound.pre, bound.post, bound.res), strict=True)]
        if call.method == "pre":
            return [(truth.pre(x, more[0]), errors.pre(trial, x, more[0]).error)]
        if call.method == "post":
            y, h_post, h_res = more
            return [(truth.post(x, y, h_post, h_res), errors.post(trial, x, h_res, y, h_post).error)]
        if call.method == "collapse":
            head = params[0] if params else None
            return [(truth.collapse(x, head), errors.collapse(trial, x, head).error)]
        states = bounds.stack.states(Approx.exact(x), params, call.branches, trial.dialect, trial.rounding)
        exact = FloatTruth(trial.dialect)
        after = exact.layers(x, params, self._branched(call, x, params))[1]
        last = states[-1]
        return [(after, last.error if last.error.shape == after.shape else torch.full_like(after, math.inf))]

    def _branched(self, call: Call, x: Tensor, params: Sequence[Params]) -> list[Tensor]:
        """What the branches give in float64."""
        import mhc_ref

        given: list[Tensor] = []

        def noted(branch: BranchSpec) -> Callable[[Tensor], Tensor]:
            def run(u: Tensor) -> Tensor:
                given.append(branch(u))
                return given[-1]

            return run

        double = [Params(*(None if part is None else wide(part) for part in one)) for one in params]  # pyright: ignore[reportArgumentType]
        mhc_ref.layers(wide(x), double, [noted(one) for one in call.branches], self.trial.dialect)
        return given

    def gradients(self, call: Call, s: Sizes, bars: Sequence[Tensor]) -> list[Tensor]:
        """The exact gradient by each tensor."""
        truth = self.trial.truth
        x, more, params = self._flat(call, s)
        flat = [wide(bar) for bar in _flat_bars(call, bars)]
        if call.method == "project":
            return [truth.project_vjp(x, flat[0])]
        if call.method == "mappings":
            return truth.mappings_vjp(x, params[0], flat)
        if call.method == "pre":
            return truth.pre_vjp(x, more[0], flat[0])
        if call.method == "post":
            y, h_post, h_res = more
            return truth.post_vjp(x, y, h_post, h_res, flat[0])
        if call.method == "collapse":
            return truth.collapse_vjp(x, params[0] if params else None, flat[0])
        return truth.layers_vjp(x, params, call.branches, flat[0])

    def gradient_bounds(self, call: Call, s: Sizes, bars: Sequence[Tensor], exact: Sequence[Tensor]) -> list[Tensor]:
        """The bound of each of them; infinite through layers and ends."""
        trial = self.trial
        x, more, params = self._flat(call, s)
        flat = _flat_bars(call, bars)
        found: Iterable[Tensor]
        if call.method == "project":
            found = [errors.projection_gradient(trial, x, flat[0]).error]
        elif call.method == "mappings":
            found = errors.by_parameters(errors.mappings_gradient(trial, x, params[0], flat), x, params[0])
        elif call.method == "pre":
            found = [one.error for one in bounds.pullback.pre(x, more[0], flat[0], trial.rounding).values()]
        elif call.method == "post":
            y, h_post, h_res = more
            pulled = bounds.pullback.post(x, y, h_post, h_res, flat[0], trial.dialect, trial.rounding)
            found = [one.error for one in pulled.values()]
        else:
            found = [torch.full_like(one, math.inf) for one in exact]
        return [part.reshape(one.shape) for part, one in zip(found, exact, strict=True)]

    def _flat(self, call: Call, s: Sizes) -> tuple[Tensor, list[Tensor], tuple[Params, ...]]:
        """All token axes in one."""
        kept = {"pre": (1,), "post": (1, 1, 2)}.get(call.method, ())
        more = [one.reshape(-1, *one.shape[one.ndim - k :]) for one, k in zip(call.more, kept, strict=True)]
        return call.x.reshape(-1, *call.x.shape[-2:]), more, call.params


def _kept(call: Call) -> tuple[int, ...]:
    """The axes of each output that are no token axes."""
    return {"mappings": (1, 1, 2), "pre": (1,), "collapse": (1,)}.get(call.method, (2,))


def _flat_bars(call: Call, bars: Sequence[Tensor]) -> list[Tensor]:
    return [bar.reshape(-1, *bar.shape[bar.ndim - k :]) for bar, k in zip(bars, _kept(call), strict=True)]


def _ratio(got: Tensor, exact: Tensor, bound: Tensor, plain: Tensor) -> float:
    """error / bound at most; where nothing is bounded, the error against a hundred of the reference's own."""
    got, plain = wide(got).reshape(exact.shape), wide(plain).reshape(exact.shape)
    error = (got - exact).abs()
    known = torch.isfinite(bound) & torch.isfinite(exact)
    ratio = torch.where(error == 0, 0.0, error / bound)
    ratio = torch.where(known, torch.where(torch.isfinite(got), ratio, math.inf), 0.0)
    own = (plain - exact).abs()
    if bool(torch.isfinite(own).all()) and bool(torch.isfinite(exact).all()):
        unit = 2.0**-22 * exact.abs().amax() if exact.numel() else 0.0
        slack = 100 * (own.amax() if own.numel() else 0.0) + unit
        beyond = torch.where(torch.isfinite(got), error / slack, math.inf).nan_to_num(nan=0.0, posinf=math.inf)
        ratio = torch.where(known, ratio, beyond)
    return float(ratio.max()) if ratio.numel() else 0.0


# The witness


@contextmanager
def _in_mode(wish: Wish) -> Generator[None]:
    with ExitStack() as stack:
        if wish.inference:
            stack.enter_context(torch.inference_mode())
        elif wish.grad is False:
            stack.enter_context(torch.no_grad())
        if wish.compiled:  # which path would be taken, without a compiler
            kept = torch.compiler.is_compiling
            torch.compiler.is_compiling = lambda: True
            stack.callback(setattr, torch.compiler, "is_compiling", kept)
        yield


def confirm(spec: Spec) -> Confirmation:
    """Run a mutant at an input at which its conditions hold, and hold it to the exact values."""
    wish = Wish()
    for one in spec.conditions:
        one.wish(wish)
    s = sizes_of(spec, wish.axes)
    if s is None:
        return Confirmation("not reached", 0.0, "no accepted sizes meet its conditions")
    if spec.slip.effect == "gradient" and (wish.grad is False or wish.inference):
        return Confirmation("not reached", 0.0, "there are no gradients where its conditions hold")
    worst, fired = 0.0, False
    for scale in (1.0, 30.0) if not wish.values else (1.0,):
        witness = _Witness(spec, wish, s, scale)
        ratio = witness.worst()
        fired |= witness.fired
        worst = max(worst, ratio)
        if worst > 1:
            break
    where = f"T = {s.T}, C = {s.C}, n = {s.n}" + (f", L = {s.L}" if s.L > 1 else "")
    if not fired:
        return Confirmation("not reached", 0.0, f"its conditions did not hold at {where}")
    return Confirmation("wrong" if worst > 1 else "within the bound", worst, where)


class _Witness:
    """A mutant that is called again and again, as long as its conditions ask for earlier calls."""

    def __init__(self, spec: Spec, wish: Wish, s: Sizes, scale: float) -> None:
        self.spec, self.wish, self.s, self.scale = spec, wish, s, scale
        self.mutant, self.plain = Mutant(spec), Mutant(None, spec.dialect, streams=spec.streams, dtype=spec.dtype)
        self.fired = False
        self.chancy = any(not one.certain for one in spec.conditions)
        self.earlier = (
            wish.earlier or self.chancy or spec.slip.sort in ("that of an earlier call", "an output buffer reused")
        )

    def worst(self) -> float:
        """The largest ratio: of the first call that is wrong, or of a few in which the slip was made."""
        found, judged = 0.0, 0
        for number in range(_CALLS if self.earlier else 4):
            if self.earlier and number % 3 == 2 and not self.wish.compiled:
                self._between(number)
            before = self.mutant.fired
            ratio = self._one(number, before)
            if self.mutant.fired > before or (self.wish.compiled and ratio is not None):
                self.fired = True
                judged += 1
                found = max(found, ratio or 0.0)
            if found > 1 or judged >= (20 if self.spec.slip.sort == "an output buffer reused" else 4):
                break
        return found

    def _between(self, number: int) -> None:
        """A call of another shape, or in the other mode."""
        other = Sizes(self.s.T + 1 + number % 2, self.s.C, self.s.n, self.s.L)
        call = call_of(self.spec, self.wish, other, number, self.scale)
        with torch.set_grad_enabled(number % 2 == 0):
            try:
                outputs = call.run(self.mutant, [one.clone().requires_grad_() for one in call.tensors])
                if number % 2 == 0:
                    pulled_back(outputs, [call.x], [torch.ones_like(one) for one in outputs])
            except RuntimeError:  # the slip itself, or a graph without what is asked
                pass

    def _one(self, number: int, before: int) -> float | None:
        """A call, judged where the slip was made in it."""
        call = call_of(self.spec, self.wish, self.s, number, self.scale)
        gradient = self.spec.slip.effect == "gradient"
        # A copy keeps strides and where it begins in memory.
        leaves = [one.detach() for one in call.tensors]
        asks = self.wish.grad is not False and not self.wish.inference and (gradient or self.wish.grad is True)
        if asks:
            frozen = len(call.more) + 1 if self.wish.frozen else len(leaves)
            leaves = [one.requires_grad_() if k < frozen else one for k, one in enumerate(leaves)]
        kept = [one.clone() for one in leaves]
        with _in_mode(self.wish):
            try:
                outputs = call.run(self.mutant, leaves)
            except RuntimeError:
                return math.inf
        if not (self.mutant.fired > before or self.wish.compiled):
            if asks and outputs[0].requires_grad:
                self._back(outputs, leaves, 1.0)
            return None
        if any(not torch.equal(one, other) for one, other in zip(leaves, kept, strict=True)):
            return math.inf
        if self.spec.slip.sort == "an output buffer reused":
            return self._held(outputs)
        many = gradient and self.s.T * self.s.n * self.s.C * self.s.L > _MUCH
        judge = Judged(self.spec, self.mutant, many)
        if not gradient:
            plain = self._plainly(call)
            pairs = judge.values(call, self.s)
            return max(_ratio(*three) for three in _zipped(outputs, pairs, plain))
        return self._by_gradients(judge, call, outputs, leaves)

    def _plainly(self, call: Call) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return call.run(self.plain, [one.detach() for one in call.tensors])

    def _held(self, outputs: Sequence[Tensor]) -> float:
        """Whether later calls change an output."""
        before = [one.detach().clone() for one in outputs]
        with _in_mode(self.wish), torch.no_grad():
            for later in range(20):
                again = call_of(self.spec, self.wish, self.s, 7 + later, self.scale)
                again.run(self.mutant, [one.detach() for one in again.tensors])
        changed = any(not torch.equal(one, other) for one, other in zip(outputs, before, strict=True))
        return math.inf if changed else 0.0

    def _by_gradients(self, judge: Judged, call: Call, outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> float:
        found = 0.0
        unit = judge.gradients(call, self.s, self._bars(outputs, 1.0))
        for size in (1.0, 64.0, 2.0**17, 2.0**-30, 2.0**110, 2.0**-100):
            bars = self._bars(outputs, size)
            exact = [size * one for one in unit]  # a power of 2 is exact
            got = pulled_back(outputs, [one for one in leaves if one.requires_grad], bars, keep=True)
            fresh = [one.detach().clone().requires_grad_() for one in leaves]
            plain = pulled_back(call.run(self.plain, fresh), fresh, bars)
            limits = judge.gradient_bounds(call, self.s, bars, exact)
            pairs = list(zip(exact, limits, strict=True))
            found = max(found, *(_ratio(*four) for four in _zipped(got, pairs, plain, strict=False)))
            if found > 1:
                break
        return found

    def _bars(self, outputs: Sequence[Tensor], size: float) -> list[Tensor]:
        made = torch.Generator().manual_seed(5)
        return [(size * torch.randn(one.shape, generator=made)).to(one.dtype) for one in outputs]

    def _back(self, outputs: Sequence[Tensor], leaves: Sequence[Tensor], size: float) -> None:
        asked = [one for one in leaves if one.requires_grad]
        pulled_back(outputs, asked, self._bars(outputs, size))


def _zipped(
    got: Sequence[Tensor], pairs: Sequence[tuple[Tensor, Tensor]], plain: Sequence[Tensor], strict: bool = True
) -> Generator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    for one, (exact, bound), other in zip(got, pairs, plain, strict=strict):
        yield one, exact, bound.reshape(exact.shape), other
