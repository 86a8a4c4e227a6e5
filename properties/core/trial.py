"""One example of one law: the calls to the implementation, the truth, and the verdict error / bound.

Every output of the implementation is kept on a tape. A failure found against the float64 reference is judged again
from that tape with mpmath as the truth: the implementation is not called a second time, and a law is written once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, Literal, cast

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from mhc_ref.packing import logits_shape, streams_of_logits
from properties.core.case import BranchSpec, map_tensors
from properties.core.device import Device, device_of, held_to
from properties.core.exact_truth import ExactTruth
from properties.core.implementation import Implementation, Reference
from properties.core.rounding import Rounding
from properties.core.truth import FloatTruth as FloatTruth
from properties.core.truth import Truth, pulled_back, wide
from properties.guards.faults import HarnessError, TargetFault, answered, raised_at
from properties.guards.interruption import checkpoint
from properties.guards.plain import oddity, plain
from properties.guards.surroundings import called

Against = Literal["exact", "other", "limit", "wanted"]
"""What an output is held to, see `LawBroken`."""


class LawBroken(AssertionError):
    """An observation outside its bound. `ratio` is error / bound; the rest is what a reader needs to see it.

    Attributes:
        got, exact: the number that the implementation gave, and the one that it is held to.
        against: what `exact` is: "exact" (the truth, or a closed form), "other" (another output of the implementation),
            "limit" (the most that it may be), or "wanted" (a fact).
        error, gap, bound: the distance of the two, how much of it is no rounding (0 but for a law about a limit), and
            the most that rounding can explain.
    """

    def __init__(
        self,
        what: str,
        *,
        ratio: float,
        got: str = "",
        exact: str = "",
        error: float = math.nan,
        bound: float = math.nan,
        where: str = "",
        gap: float = 0.0,
        against: Against = "exact",
    ) -> None:
        super().__init__(what)
        self.what, self.ratio, self.got, self.exact = what, ratio, got, exact
        self.error, self.bound, self.where = error, bound, where
        self.gap, self.against = gap, against


class ContractBroken(LawBroken):
    """The wrong shape, dtype, device, or no tensor at all: nothing that a bound or the truth could excuse."""

    def __init__(self, what: str, got: str = "", wanted: str = "") -> None:
        super().__init__(what, ratio=math.inf, got=got, exact=wanted, against="wanted")


class TargetRaised(ContractBroken):
    """The implementation raised inside its declared domain."""

    def __init__(self, method: str, fault: TargetFault, arguments: str) -> None:
        super().__init__(f"{method} raised {fault} for {arguments}, which its declaration accepts")
        self.raised = fault.error


class TapeEnds(HarnessError):
    """While a failure is confirmed, the law asks for more than it had when it failed."""


class NoRoom(Exception):
    """The device ran out of memory, which it shares with others: nothing about the implementation."""


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in shape and entry by entry; NaN is equal to NaN, and to nothing else."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def magnitude(got: Tensor) -> Tensor:
    """|got| in float64, for a bound that an output itself enters: 0 where that is no finite number, which is claimed of
    it and so breaks a law by itself."""
    return wide(got).abs().nan_to_num(nan=0.0, posinf=0.0)


def outputs_of(got: Any) -> list[Tensor]:
    """What a function gave, one tensor or several, as a list.

    Raises:
        ContractBroken: something else than plain tensors.
    """
    outputs = list(cast("Sequence[Any]", got)) if isinstance(got, (tuple, list)) else [got]
    return [_plain("an output", one) for one in outputs]


def _plain(what: str, got: Any, expected: str = "a plain torch.Tensor") -> Tensor:
    if (odd := oddity(got)) is not None:
        raise ContractBroken(f"{what} is {odd}; expected {expected}")
    return plain(got)


@dataclass(frozen=True)
class Answer:
    """What the implementation answered, and the question: the method with the dtypes and shapes of its arguments."""

    question: str
    value: Any


@dataclass(frozen=True)
class Seen:
    """What a branch was given and what it gave back, in the dtype of the state."""

    u: Tensor
    y: Tensor


@dataclass(frozen=True)
class _Law:
    """Code of a law that calls an implementation, and the file that it is written in."""

    run: Callable[[Implementation], Any]
    file: str


def _file_of(function: Callable[..., Any]) -> str:
    code: CodeType | None = getattr(function, "__code__", None)
    return code.co_filename if code else ""


_OWN = Path(__file__).parents[1]
"""Where our own code is."""


@dataclass
class Trial:
    """The bench on which one example is tried.

    Attributes:
        implementation: what is under test; never called while `tape` is being replayed.
        dtype: of the state; params and logits are float64 for float64, otherwise float32.
        device: where the implementation computes; verdicts are made on the CPU.
        truth: float64 reference, or mpmath while a failure is confirmed.
        tape: every answer so far; with `replaying` they are handed out again instead of calling.
        worst: the largest ratio so far.
        claims: how many numbers and facts something was claimed of so far.
        abstentions: of how many numbers nothing was, their bound being infinite.
    """

    implementation: Implementation
    dtype: torch.dtype
    device: torch.device
    truth: Truth
    tape: list[Answer] = field(default_factory=lambda: [])
    replaying: bool = False
    worst: float = 0.0
    claims: int = 0
    abstentions: int = 0
    _next: int = 0

    @property
    def dialect(self) -> Dialect:
        """The declared dialect."""
        return self.implementation.dialect

    @functools.cached_property
    def here(self) -> Device:
        """The device where the implementation computes."""
        return device_of(self.device)

    @functools.cached_property
    def rounding(self) -> Rounding:
        """The precision contract of the state's dtype."""
        return Rounding.of(self.dtype, self.implementation.products, self.implementation.mixing)

    def confirming(self) -> Trial:
        """The same observations before the exact judge."""
        return Trial(self.implementation, self.dtype, self.device, ExactTruth(self.dialect), self.tape, replaying=True)

    def judge_exactly(self) -> None:
        """Let mpmath be the truth from here on where the state is float64: float64 cannot judge itself."""
        if self.dtype == torch.float64 and not isinstance(self.truth, ExactTruth):
            self.truth = ExactTruth(self.dialect)

    # -- observations ------------------------------------------------------------------------------------------------

    def project(self, logits: Tensor) -> Tensor:
        """The implementation's h_res of logits [..., n, n], checked for shape, dtype and device; on the CPU."""
        n = streams_of_logits(logits.shape, self.dialect)
        batch = logits.shape[: -len(logits_shape(n, self.dialect))]
        return self._observe(
            "project", (logits,), lambda got: self._tensor("project", got, (*batch, n, n), self._coefficients)
        )

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        """The implementation's mappings; parts that it does not emit are empty tensors."""
        batch, n = x.shape[:-2], x.shape[-2]
        shapes = {"pre": (*batch, n), "post": (*batch, n), "res": (*batch, n, n)}

        def check(got: Any) -> Mappings:
            if not isinstance(got, (tuple, list)) or len(got) != 3:  # pyright: ignore[reportUnknownArgumentType]
                raise ContractBroken(f"mappings returned {type(got).__name__}; expected Mappings(pre, post, res)")
            parts: dict[str, Tensor] = {}
            for name, part in zip(shapes, got, strict=True):  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
                emitted = name in self.implementation.emits
                parts[name] = (
                    self._tensor(f"mappings.{name}", part, shapes[name], self._coefficients)
                    if emitted
                    else torch.empty(0)
                )
            return Mappings(**parts)

        return self._observe("mappings", (x, params), check)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        """The implementation's branch input, in the dtype of the state."""
        shape = (*x.shape[:-2], x.shape[-1])
        return self._observe("pre", (x, h_pre), lambda got: self._tensor("pre", got, shape, (self.dtype,)))

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        """The implementation's A x + h_post^T y, in the dtype of the state."""
        return self._observe(
            "post", (x, y, h_post, h_res), lambda got: self._tensor("post", got, tuple(x.shape), (self.dtype,))
        )

    def block(self, x: Tensor, params: Params, branch: BranchSpec) -> tuple[Tensor, list[Seen]]:
        """The implementation's block, and what its branch saw."""
        return self._with_branches("block", (x, params), [branch], tuple(x.shape), single=True)

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec]) -> tuple[Tensor, list[Seen]]:
        """The implementation's L blocks, and what the branches saw, in the order in which they were called."""
        return self._with_branches("layers", (x, tuple(params)), branches, tuple(x.shape))

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec]) -> tuple[Tensor, list[Seen]]:
        """The implementation's whole stack, and what the branches saw."""
        return self._with_branches("stack", (h, tuple(params)), branches, tuple(h.shape))

    def expand(self, h: Tensor, n: int) -> Tensor:
        """The implementation's n streams of h."""
        shape = (*h.shape[:-1], n, h.shape[-1])
        return self._observe("expand", (h, n), lambda got: self._tensor("expand", got, shape, (self.dtype,)))

    def collapse(self, x: Tensor, head: Params | None = None) -> Tensor:
        """The implementation's one stream of x."""
        shape = (*x.shape[:-2], x.shape[-1])
        return self._observe("collapse", (x, head), lambda got: self._tensor("collapse", got, shape, (self.dtype,)))

    def observe(self, what: str, function: Callable[[Implementation, Callable[[Any], Any]], Any]) -> Any:
        """Anything else: function(implementation, to_device) -> tensors, tuples of tensors or numbers, kept on the
        tape.

        Exceptions inside are the implementation's, unless the reference meets them at the same line of ours; what comes
        back is moved to the CPU.
        """
        law = _Law(lambda target: function(target, self._place), _file_of(function))
        return self._observe(what, (), lambda got: _plain_throughout(what, got), law=law)

    def pull(
        self, what: str, inputs: Sequence[Tensor], cotangents: Sequence[Tensor], function: Callable[..., Any]
    ) -> list[Tensor]:
        """The vector-Jacobian product of function(implementation, *inputs) -> tensor or tuple, by autograd.

        An output without a graph has gradient 0: that is what a detached implementation amounts to.
        """

        def run(target: Implementation) -> list[Tensor]:
            leaves = [self._place(one).detach().clone().requires_grad_() for one in inputs]
            outputs = outputs_of(function(target, *leaves))
            return pulled_back(outputs, leaves, [self._place(one) for one in cotangents])

        shapes = [tuple(one.shape) for one in inputs]

        def check(got: Any) -> list[Tensor]:
            return [
                self._tensor(f"gradient of {what}", one, shape, None) for one, shape in zip(got, shapes, strict=True)
            ]

        return self._observe(what, tuple(inputs), check, law=_Law(run, _file_of(function)))

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def within(self, what: str, got: Tensor, exact: Tensor, bound: Tensor, gap: Tensor | None = None) -> None:
        """|got - exact| <= bound, entry by entry; where the bound is infinite nothing is claimed.

        `exact` is the truth's, or a closed form. Where a law is about a limit that its inputs only come close to, `gap`
        is the distance of the exact value from that limit, at most: it is no rounding, so that the error is allowed for
        it first, and the ratio is (|got - exact| - gap) / bound.

        Raises:
            LawBroken: somewhere the ratio is above 1, a claimed entry is not finite, or the shapes do not fit.
            HarnessError: a bound is negative or not a number, or a claimed entry of `exact` is not finite.
        """
        got, exact, bound, gap = self._aligned(what, got, exact, bound, torch.zeros(()) if gap is None else gap)
        self._judge(what, got, exact, (got - exact).abs(), bound, gap, "exact")

    def near(self, what: str, got: Tensor, other: Tensor, bound: Tensor) -> None:
        """|got - other| <= bound, where `other` is made of further outputs of the implementation.

        Raises:
            LawBroken: as for `within`, and where the other one is not finite.
            HarnessError: a bound is negative or not a number.
        """
        got, other, bound = self._aligned(what, got, other, bound)
        self._judge(what, got, other, (got - other).abs(), bound, torch.zeros_like(bound), "other")

    def at_most(self, what: str, got: Tensor, limit: Tensor, slack: Tensor) -> None:
        """got <= limit, with `slack` for what rounding explains; ratio = excess / slack.

        Raises:
            LawBroken, HarnessError: as for `within`.
        """
        got, limit, slack = self._aligned(what, got, limit, slack)
        self._judge(what, got, limit, (got - limit).clamp_min(0), slack, torch.zeros_like(slack), "limit")

    def holds(self, what: str, condition: bool, got: str = "", expected: str = "") -> None:
        """A fact without a tolerance."""
        self.claims += 1
        if not condition:
            self.worst = math.inf
            raise LawBroken(what, ratio=math.inf, got=got, exact=expected, against="wanted")

    def contract(self, what: str, condition: bool, got: str = "", expected: str = "") -> None:
        """A fact that needs no truth: a shape, the number of calls.

        Raises:
            ContractBroken: it is not so.
        """
        self.claims += 1
        if not condition:
            self.worst = math.inf
            raise ContractBroken(what, got, expected)

    def _aligned(self, what: str, got: Tensor, exact: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """All of them in float64, on the CPU, in one shape, which is that of `got`."""
        try:
            *rest, shape = torch.broadcast_tensors(*(wide(one) for one in (exact, *others)), wide(got))
        except RuntimeError:  # of two outputs one may have the wrong shape
            rest, shape = [], wide(exact)
        if shape.shape != got.shape:
            raise ContractBroken(f"{what} has shape {tuple(got.shape)}; expected {tuple(shape.shape)}")
        return (wide(got), *rest)

    def _judge(
        self, what: str, got: Tensor, exact: Tensor, error: Tensor, bound: Tensor, gap: Tensor, against: Against
    ) -> None:
        checkpoint()
        if got.numel() == 0:
            return
        claimed = torch.isfinite(bound)
        _sound(f"the bound of {what}", bound, bound >= 0)  # which a NaN is not
        _sound(f"the gap of {what}", gap, (gap >= 0) | ~claimed)
        if against != "other":
            _sound(f"what {what} is held to", exact, torch.isfinite(exact) | ~claimed)
        self.claims += int(claimed.sum())
        self.abstentions += int((~claimed).sum())
        beyond = (error - gap).clamp_min(0)
        ratio = torch.where(beyond == 0, 0.0, beyond / bound)
        ratio = torch.where(torch.isfinite(got) & torch.isfinite(exact), ratio, math.inf)
        ratio = torch.where(claimed, ratio.nan_to_num(nan=math.inf, posinf=math.inf), 0.0)
        worst = ratio.max().item()
        self.worst = max(self.worst, worst)
        if worst > 1:
            flat = int(ratio.argmax())
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), ratio.shape))
            raise LawBroken(
                what,
                ratio=worst,
                got=f"{got[index].item():.12g}",
                exact=f"{exact[index].item():.12g}",
                error=error[index].item(),
                bound=bound[index].item(),
                where=f"[{', '.join(map(str, index))}]" if index else "",
                gap=gap[index].item(),
                against=against,
            )

    # -- plumbing ----------------------------------------------------------------------------------------------------

    @property
    def _coefficients(self) -> tuple[torch.dtype, ...]:
        # Wider than the contract asks is no fault; narrower would be.
        return (torch.float64,) if self.dtype == torch.float64 else (torch.float32, torch.float64)

    def _place(self, value: Any) -> Any:
        return map_tensors(value, lambda tensor: tensor.to(self.device))

    def _copied(self, value: Any) -> Any:
        # An implementation that writes to its arguments must not change the case, which the truth still reads.
        tensors: list[Tensor] = []
        map_tensors(value, lambda tensor: (tensors.append(tensor), tensor)[1])
        copies = iter(self.here.transfer(tensors, self.device))
        return map_tensors(value, lambda tensor: next(copies))

    def _observe(
        self,
        method: str,
        arguments: tuple[Any, ...],
        check: Callable[[Any], Any],
        call: Callable[[], Any] | None = None,
        ours: Sequence[Exception] = (),
        law: _Law | None = None,
    ) -> Any:
        """The checked answer of a call, which may have code of a law around it; `ours` is filled with what the harness
        raises while it is called back."""
        checkpoint()
        question = f"{method}({self._sketch(arguments)})"
        if self.replaying:
            return self._answered(question)
        if law is not None:
            call = lambda: law.run(self.implementation)  # noqa: E731
        try:
            got = self._call(method, arguments, call)
        except torch.OutOfMemoryError as error:  # while the arguments were copied there
            raise NoRoom(f"{method} ran out of the device's memory for {self._sketch(arguments)}: {error}") from error
        except TargetFault as fault:
            for one in ours:
                if one is fault.error or isinstance(one, HarnessError):  # which the target may have wrapped
                    raise one from None
            if self.device.type != "cpu" and issubclass(type(fault.error), torch.OutOfMemoryError):
                told = f"{method} ran out of the device's memory for {self._sketch(arguments)}: {fault.message}"
                raise NoRoom(told) from fault
            if law is not None and (place := self._fails_by_itself(fault, law)):
                raise HarnessError(
                    f"{fault} at {place}, in code of the suite around the calls of {method}. It happens with the "
                    "reference, too, so that it says nothing of the implementation"
                ) from fault
            raise TargetRaised(method, fault, self._sketch(arguments)) from fault
        for one in ours:
            if isinstance(one, HarnessError):  # swallowed on the way
                raise one
        result = _settled(check(got))
        self.tape.append(Answer(question, result))
        return result

    def _answered(self, question: str) -> Any:
        """The next answer on the tape, which must be one to this question."""
        self._next += 1
        if self._next > len(self.tape):
            raise TapeEnds(f"the law failed before it asked for {question}, and goes on to it while this is confirmed")
        answer = self.tape[self._next - 1]
        if answer.question != question:
            raise HarnessError(
                f"answer {self._next} on the tape is to {answer.question}; while the failure is confirmed the law asks "
                f"for {question} there. A law must ask for the same things in the same order, whatever the truth says"
            )
        return answer.value

    def _fails_by_itself(self, fault: TargetFault, law: _Law) -> str | None:
        """The line of ours at which the reference fails just as the target did; None where it does not."""
        place = raised_at(fault.error)
        if place is None or not (place[0] == law.file or Path(place[0]).is_relative_to(_OWN)):
            return None
        stand_in = Reference(self.dialect)
        stand_in.mixing, stand_in.products = self.implementation.mixing, self.implementation.products
        try:
            answered(lambda: law.run(stand_in))
        except TargetFault as other:
            same = type(other.error) is type(fault.error) and raised_at(other.error) == place
            return f"{Path(place[0]).name}:{place[1]}" if same else None
        return None

    def _call(self, method: str, arguments: tuple[Any, ...], call: Callable[[], Any] | None) -> Any:
        if call is None:
            copied = self._copied(arguments)
            call = lambda: getattr(self.implementation, method)(*copied)  # noqa: E731
        with held_to(self.implementation.products), called(self.device):
            return answered(call)

    def _with_branches(
        self,
        method: str,
        arguments: tuple[Any, ...],
        branches: Sequence[BranchSpec],
        shape: tuple[int, ...],
        single: bool = False,
    ) -> tuple[Tensor, list[Seen]]:
        seen: list[Seen] = []
        ours: list[Exception] = []
        inner = (*shape[:-2], shape[-1]) if method != "stack" else shape

        def watched(branch: BranchSpec) -> Callable[[Tensor], Tensor]:
            def call(u: Tensor) -> Tensor:
                try:
                    self._tensor(f"{method}: the branch input", u, inner, (self.dtype,))
                except ContractBroken as broken:
                    ours.append(broken)
                    raise
                try:
                    y = branch(u)
                except Exception as error:  # the branch is the harness's, wherever it is called
                    ours.append(HarnessError(f"a {branch.kind} branch raised {type(error).__name__}: {error}"))
                    raise ours[-1] from error
                seen.append(Seen(u.detach().cpu().clone(), y.detach().cpu().clone()))
                return y

            return call

        calls = [watched(branch) for branch in branches]

        def run() -> Any:
            placed = self._copied(arguments)
            return getattr(self.implementation, method)(*placed, calls[0] if single else calls)

        def check(got: Any) -> tuple[Tensor, list[Seen]]:
            out = self._tensor(method, got, shape, (self.dtype,))
            if out.numel() and len(seen) < len(branches):
                raise ContractBroken(f"{method} called {len(seen)} of {len(branches)} branches; each has a part in it")
            return out, seen

        return self._observe(method, arguments, check, run, ours)

    def _tensor(self, what: str, got: Any, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...] | None) -> Tensor:
        got = _plain(what, got, f"a torch.Tensor of shape {shape}")
        if tuple(got.shape) != shape:
            raise ContractBroken(f"{what} has shape {tuple(got.shape)}; expected {shape}")
        if dtypes is not None and got.dtype not in dtypes:
            names = " or ".join(str(one) for one in dtypes)
            raise ContractBroken(f"{what} is {got.dtype}; expected {names} for a {self.dtype} state")
        if got.device.type != self.device.type:
            raise ContractBroken(f"{what} is on {got.device}; expected {self.device}")
        return got

    def _sketch(self, arguments: tuple[Any, ...]) -> str:
        def shape(value: Any) -> str:
            if isinstance(value, Tensor):
                return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
            if isinstance(value, Params):
                return f"Params(phi {list(value.phi.shape)})"
            return f"{len(value)} x {shape(value[0])}" if isinstance(value, (tuple, list)) and value else str(value)  # pyright: ignore[reportUnknownArgumentType]

        return ", ".join(shape(value) for value in arguments) or f"a {self.dtype} state"


def _plain_throughout(what: str, value: Any) -> Any:
    """The same value with plain tensors in it.

    Raises:
        ContractBroken: a tensor in it is no plain one.
    """
    if isinstance(value, Mappings):
        return Mappings(*(_plain_throughout(what, part) for part in value))
    if isinstance(value, (tuple, list)):
        parts = [_plain_throughout(what, part) for part in cast("Sequence[Any]", value)]
        return parts if isinstance(value, list) else tuple(parts)
    return _plain(f"{what}: an output", value) if issubclass(type(value), Tensor) else value


def _settled(value: Any) -> Any:
    """Detached copies on the CPU: what an implementation returned may be a view of memory that it writes again."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mappings):
        return Mappings(*(_settled(part) for part in value))
    if isinstance(value, tuple):
        return tuple(_settled(part) for part in value)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    if isinstance(value, list):
        return [_settled(part) for part in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _sound(what: str, values: Tensor, right: Tensor) -> None:
    """Raise HarnessError for the first value that is not right: what outputs are held to is the harness's to get right.

    A bound that cannot be computed, 0 * inf among others, is infinite: nothing is claimed there.
    """
    if not bool(right.all()):
        index = tuple((~right).nonzero()[0].tolist())
        raise HarnessError(
            f"{what} is {values[index].item():.6g} at {list(index)}. A bound and a gap are not negative (infinite "
            "where nothing is claimed), and where the bound is finite so is the number that an output is held to. The "
            "law, its bound or the truth is at fault here, not the implementation"
        )
