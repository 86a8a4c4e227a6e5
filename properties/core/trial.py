"""One example of one law: the calls to the implementation, the truth, and the verdict error / bound.

Every output of the implementation is kept on a tape. A failure found against the float64 reference is judged again
from that tape with mpmath as the truth: the implementation is not called a second time, and a law is written once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from properties.core.case import BranchSpec
from properties.core.device import Device, device_of
from properties.core.exact_truth import ExactTruth
from properties.core.handing import storable, stored_dtype
from properties.core.implementation import Implementation, Reference
from properties.core.judging import ContractBroken, Judge
from properties.core.judging import LawBroken as LawBroken
from properties.core.judging import magnitude as magnitude
from properties.core.judging import same_numbers as same_numbers
from properties.core.observer import BRANCHED, Observer
from properties.core.observer import Seen as Seen
from properties.core.premises import has_short_stages
from properties.core.pulling import pulled_back
from properties.core.rounding import Rounding
from properties.core.truth import FloatTruth as FloatTruth
from properties.core.truth import Truth
from properties.core.truth import wide as wide
from properties.core.ways import PLAIN, WAYS, way_of
from properties.guards.faults import HarnessError, Lost, TargetFault, answered, raised_at
from properties.guards.interruption import checkpoint
from properties.guards.plain import oddity, plain


class TargetRaised(ContractBroken):
    """The implementation raised inside its declared domain."""

    def __init__(self, method: str, fault: TargetFault, arguments: str) -> None:
        super().__init__(f"{method} raised {fault} for {arguments}, which its declaration accepts")
        self.raised = fault.error
        lost = issubclass(type(fault.error), Lost)  # what an exception says of its class is not asked
        self.kind = cast("Lost", fault.error).sign if lost else "exception"


class TapeEnds(HarnessError):
    """While a failure is confirmed, the law asks for more than it had when it failed."""


class NoRoom(Exception):
    """The device ran out of memory, which it shares with others: nothing about the implementation."""


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
class Trial(Judge):
    """The bench on which one example is tried.

    Attributes:
        implementation: what is under test; never called while `tape` is being replayed.
        dtype: of the state; params and logits are float64 for float64, otherwise float32.
        device: where the implementation computes; verdicts are made on the CPU.
        truth: float64 reference, or mpmath while a failure is confirmed.
        tape: every answer so far; with `replaying` they are handed out again instead of calling.
        unanswered: the question whose answer was none, as the implementation raised or gave what cannot be used.
        varied: whether calls take turns in whether torch records gradients, see `properties.core.ways`.
        allowed: the ways in which calls take turns.
        ways: in which ways calls were made, where that is not how torch is by default.
        axes: how tokens are arranged that a law gives on one axis, see `properties.core.arranged`.
    """

    implementation: Implementation
    dtype: torch.dtype
    device: torch.device
    truth: Truth
    tape: list[Answer] = field(default_factory=lambda: [])
    replaying: bool = False
    unanswered: str = ""
    varied: bool = False
    allowed: tuple[str, ...] = WAYS
    ways: list[str] = field(default_factory=lambda: [])
    axes: str = ""
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
    def observer(self) -> Observer:
        """How it is called."""
        emits = tuple(self.implementation.emits)
        return Observer(
            self.implementation,
            self.device,
            self.dialect,
            emits,
            self.dtype,
            refused=ContractBroken,
            copies=True,
            stays=self._stays,
            axes=self.axes,
        )

    @property
    def _stays(self) -> bool:
        """Whether answers stay where the implementation computes."""
        return False

    @functools.cached_property
    def rounding(self) -> Rounding:
        """The precision contract of the state's dtype."""
        return Rounding.of_declared(self.implementation, self.dtype)

    @property
    def differentiable(self) -> bool:
        """Whether gradients are asked for, in the dtype of the state."""
        return self.implementation.differentiable and not has_short_stages(self.implementation, self.dtype)

    def confirming(self) -> Trial:
        """The same observations before the exact judge."""
        return Trial(self.implementation, self.dtype, self.device, ExactTruth(self.dialect), self.tape, replaying=True)

    def judge_exactly(self) -> None:
        """Let mpmath be the truth from here on where the state is float64: float64 cannot judge itself."""
        if self.dtype == torch.float64 and not isinstance(self.truth, ExactTruth):
            self.truth = ExactTruth(self.dialect)

    def beside(self, dialect: Dialect) -> Trial:
        """A bench of another dialect: its truth and its rounding say what is expected there, and nobody is asked."""
        stand_in = Reference(dialect)
        for name in ("mixing", "products", "parameters", "short_stages", "emits"):
            setattr(stand_in, name, getattr(self.implementation, name))
        truth = ExactTruth(dialect) if isinstance(self.truth, ExactTruth) else FloatTruth(dialect)
        return Trial(stand_in, self.dtype, self.device, truth)

    def stored(self, value: Any) -> Any:
        """Parameters with values of the dtype in which the implementation stores them."""
        return storable(value, stored_dtype(self.implementation, self.dtype))

    # -- observations ------------------------------------------------------------------------------------------------

    def project(self, logits: Tensor) -> Tensor:
        """The implementation's h_res of logits [..., n, n], checked for shape, dtype and device; on the CPU."""
        return self._ask("project", logits)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        """The implementation's mappings; parts that it does not emit are empty tensors."""
        return self._ask("mappings", x, params)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        """The implementation's branch input, in the dtype of the state."""
        return self._ask("pre", x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        """The implementation's A x + h_post^T y, in the dtype of the state."""
        return self._ask("post", x, y, h_post, h_res)

    def block(self, x: Tensor, params: Params, branch: BranchSpec) -> tuple[Tensor, list[Seen]]:
        """The implementation's block, and what its branch saw."""
        return self._ask("block", x, params, branches=[branch])

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec]) -> tuple[Tensor, list[Seen]]:
        """The implementation's L blocks, and what the branches saw, in the order in which they were called."""
        return self._ask("layers", x, tuple(params), branches=branches)

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec]) -> tuple[Tensor, list[Seen]]:
        """The implementation's whole stack, and what the branches saw."""
        return self._ask("stack", h, tuple(params), branches=branches)

    def expand(self, h: Tensor, n: int) -> Tensor:
        """The implementation's n streams of h."""
        return self._ask("expand", h, n)

    def collapse(self, x: Tensor, head: Params | None = None) -> Tensor:
        """The implementation's one stream of x."""
        return self._ask("collapse", x, head)

    def observe(self, what: str, function: Callable[[Implementation, Callable[[Any], Any]], Any]) -> Any:
        """Anything else: function(implementation, to_device) -> tensors, tuples of tensors or numbers, kept on the
        tape.

        Exceptions inside are the implementation's, unless the reference meets them at the same line of ours; what comes
        back is moved to the CPU.
        """
        law = _Law(lambda target: function(target, self.observer.placed), _file_of(function))
        return self._observe(what, (), lambda: _plain_throughout(what, self._held(law)), law)

    def pull(
        self,
        what: str,
        inputs: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        function: Callable[..., Any],
        outputs: bool = False,
    ) -> list[Tensor]:
        """The vector-Jacobian product of function(implementation, *inputs) -> tensor or tuple, by autograd.

        An output without a graph has gradient 0: that is what a detached implementation amounts to. With `outputs`
        these come after the gradients, as they are once the backward pass is over.
        """

        def run(target: Implementation) -> list[Tensor]:
            leaves = [self.observer.placed(one).detach().requires_grad_() for one in inputs]
            gave = outputs_of(function(target, *leaves))
            found = pulled_back(gave, leaves, [self.observer.placed(one) for one in cotangents])
            return [*found, *(one.detach() for one in gave)] if outputs else found

        kinds = [(f"gradient of {what}", tuple(one.shape)) for one in inputs]
        kinds += [(f"output of {what}", tuple(one.shape)) for one in cotangents] if outputs else []

        law = _Law(run, _file_of(function))

        def ask() -> list[Tensor]:
            pairs = zip(self._held(law), kinds, strict=True)
            return [self.observer.tensor(kind, one, shape, None) for one, (kind, shape) in pairs]

        return self._observe(what, tuple(inputs), ask, law)

    # -- plumbing ----------------------------------------------------------------------------------------------------

    def _ask(self, method: str, *arguments: Any, branches: Sequence[BranchSpec] = ()) -> Any:
        """The answer of a method, and what its branches saw where it has some."""

        def ask() -> Any:
            way = way_of(arguments[0], self.differentiable, self.allowed) if self.varied else PLAIN
            if way and way not in self.ways:
                self.ways.append(way)
            got, seen = self.observer.call(method, arguments, branches, way)
            if method not in BRANCHED:
                return got
            if got.numel() and len(seen) < len(branches):
                raise ContractBroken(f"{method} called {len(seen)} of {len(branches)} branches; each has a part in it")
            return got, seen

        return self._observe(method, arguments, ask)

    def _held(self, law: _Law) -> Any:
        return self.observer.held(lambda: law.run(self.observer.asked))

    def _observe(self, method: str, arguments: tuple[Any, ...], ask: Callable[[], Any], law: _Law | None = None) -> Any:
        """The answer to a question, which may have code of a law around the calls; kept on the tape."""
        checkpoint()
        question = f"{method}({self._sketch(arguments)})"
        if self.replaying:
            return self._answered(question)
        self.unanswered = question
        try:
            result = _settled(ask(), self._stays)
        except torch.OutOfMemoryError as error:  # while the arguments were copied there
            raise NoRoom(f"{method} ran out of the device's memory for {self._sketch(arguments)}: {error}") from error
        except TargetFault as fault:
            if self.device.type != "cpu" and issubclass(type(fault.error), torch.OutOfMemoryError):
                told = f"{method} ran out of the device's memory for {self._sketch(arguments)}: {fault.message}"
                raise NoRoom(told) from fault
            if law is not None and (place := self._fails_by_itself(fault, law)):
                raise HarnessError(
                    f"{fault} at {place}, in code of the suite around the calls of {method}. It happens with the "
                    "reference, too, so that it says nothing of the implementation"
                ) from fault
            raise TargetRaised(method, fault, self._sketch(arguments)) from fault
        self.unanswered = ""
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


def _settled(value: Any, stays: bool) -> Any:
    """Detached copies, on the CPU unless they stay: what an implementation returned may be a view of memory that it
    writes again."""
    if isinstance(value, Tensor):
        return (value.detach() if stays else value.detach().cpu()).clone()
    if isinstance(value, Mappings):
        return Mappings(*(_settled(part, stays) for part in value))
    if isinstance(value, tuple):
        return tuple(_settled(part, stays) for part in value)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]  # of anything
    if isinstance(value, list):
        return [_settled(part, stays) for part in value]  # pyright: ignore[reportUnknownVariableType]  # of anything
    return value
