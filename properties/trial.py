"""One example of one law: the calls to the implementation, the truth, and the verdict error / bound.

Every output of the implementation is kept on a tape. A failure found against the float64 reference is judged again
from that tape with mpmath as the truth: the implementation is not called a second time, and a law is written once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect, Mappings, Params
from mhc_ref.exact import Exact
from mhc_ref.projection import streams_of_permutations
from properties.bounds import Rounding
from properties.case import BranchSpec, map_tensors
from properties.device import Device, device_of, held_to
from properties.faults import HarnessError, TargetFault, answered
from properties.implementation import Implementation
from properties.interruption import checkpoint
from properties.plain import oddity, plain
from properties.surroundings import called


class LawBroken(AssertionError):
    """An observation outside its bound. `ratio` is error / bound; the rest is what a reader needs to see it."""

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
    ) -> None:
        super().__init__(what)
        self.what, self.ratio, self.got, self.exact = what, ratio, got, exact
        self.error, self.bound, self.where = error, bound, where


class ContractBroken(LawBroken):
    """The wrong shape, dtype, device, or no tensor at all: nothing that a bound or the truth could excuse."""

    def __init__(self, what: str) -> None:
        super().__init__(what, ratio=math.inf)


class TargetRaised(ContractBroken):
    """The implementation raised inside its declared domain."""

    def __init__(self, method: str, fault: TargetFault, arguments: str) -> None:
        super().__init__(f"{method} raised {fault} for {arguments}, which its declaration accepts")
        self.raised = fault.error


class NoRoom(Exception):
    """The device ran out of memory, which it shares with others: nothing about the implementation."""


class Truth(Protocol):
    """Values of the declared dialect in float64, for the laws that compare with them."""

    def project(self, logits: Tensor) -> Tensor: ...
    def mappings(self, x: Tensor, params: Params) -> Mappings: ...
    def collapse(self, x: Tensor, head: Params | None) -> Tensor: ...
    def project_vjp(self, logits: Tensor, cotangent: Tensor) -> Tensor: ...


class FloatTruth:
    """`mhc_ref` in float64: the workhorse."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def project(self, logits: Tensor) -> Tensor:
        """h_res as emitted, float64."""
        return mhc_ref.project(wide(logits), self.dialect)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        """pre, post, res of every token, float64."""
        return mhc_ref.mappings(wide(x), map_tensors(params, wide), self.dialect)

    def collapse(self, x: Tensor, head: Params | None) -> Tensor:
        """[..., n, C] -> [..., C], float64."""
        return mhc_ref.collapse(wide(x), self.dialect, None if head is None else map_tensors(head, wide))

    def project_vjp(self, logits: Tensor, cotangent: Tensor) -> Tensor:
        """d <cotangent, h_res> / d logits, float64."""
        leaf = wide(logits).requires_grad_()
        return torch.autograd.grad(mhc_ref.project(leaf, self.dialect), leaf, wide(cotangent))[0]


class ExactTruth:
    """mpmath at 50 digits, token by token: the judge."""

    def __init__(self, dialect: Dialect) -> None:
        self._exact = Exact(dialect)
        self._matrix_axes = 1 if dialect.residual == "permutations" else 2

    def project(self, logits: Tensor) -> Tensor:
        """h_res as emitted, rounded to float64."""
        n = streams_of_permutations(logits.shape[-1]) if self._matrix_axes == 1 else logits.shape[-1]
        batch = logits.shape[: -self._matrix_axes]
        flat = wide(logits).reshape(-1, *logits.shape[-self._matrix_axes :])
        return _tensor([self._exact.project(one.tolist()) for one in flat], (*batch, n, n))

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        """pre, post, res of every token, rounded to float64."""
        n = x.shape[-2]
        plain = listed(params)
        found = [self._exact.mappings(one.tolist(), plain) for one in wide(x).reshape(-1, *x.shape[-2:])]
        batch = x.shape[:-2]
        shapes = ((*batch, n), (*batch, n), (*batch, n, n))
        return Mappings(*(_tensor([one[part] for one in found], shape) for part, shape in enumerate(shapes)))

    def collapse(self, x: Tensor, head: Params | None) -> Tensor:
        """[..., n, C] -> [..., C], rounded to float64."""
        plain = None if head is None else listed(head)
        flat = wide(x).reshape(-1, *x.shape[-2:])
        return _tensor([self._exact.collapse(one.tolist(), plain) for one in flat], (*x.shape[:-2], x.shape[-1]))

    def project_vjp(self, logits: Tensor, cotangent: Tensor) -> Tensor:
        """d <cotangent, h_res> / d logits of the unrolled iteration, rounded to float64."""
        flat = wide(logits).reshape(-1, *logits.shape[-self._matrix_axes :])
        bars = wide(cotangent).reshape(-1, *cotangent.shape[-2:])
        found = [self._exact.project_vjp(z.tolist(), bar.tolist()) for z, bar in zip(flat, bars, strict=True)]
        return _tensor(found, tuple(logits.shape))


def wide(value: Tensor) -> Tensor:
    """On the CPU, in float64, without a graph."""
    return value.detach().to("cpu", torch.float64)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in shape and entry by entry; NaN is equal to NaN, and to nothing else."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


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


def pulled_back(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None], keep: bool = False
) -> list[Tensor]:
    """The gradients by those of the inputs that ask for one, each of the shape of its input.

    They are 0 by what no output depends on. A cotangent is taken to the dtype and device of its output; one that is
    None is not handed on. `keep`: the graph, for another pass.
    """
    pairs = [
        (one, bar.to(one))
        for one, bar in zip(outputs, cotangents, strict=True)
        if bar is not None and one.requires_grad
    ]
    asked = [one for one in inputs if one.requires_grad]
    if not pairs or not asked:
        return [torch.zeros_like(one) for one in asked]
    roots, bars = zip(*pairs, strict=True)
    return list(torch.autograd.grad(roots, asked, bars, allow_unused=True, materialize_grads=True, retain_graph=keep))


def listed(params: Params) -> Any:
    """The parameters as nested lists of floats, for mpmath."""
    return Params(*(None if part is None else wide(part).tolist() for part in params))  # pyright: ignore[reportArgumentType]


def _tensor(values: Sequence[Any], shape: tuple[int, ...]) -> Tensor:
    def plain(value: Any) -> Any:
        return [plain(part) for part in value] if isinstance(value, (list, tuple)) else float(value)

    return torch.tensor(plain(values), dtype=torch.float64).reshape(shape)


@dataclass(frozen=True)
class Seen:
    """What a branch was given and what it gave back, in the dtype of the state."""

    u: Tensor
    y: Tensor


@dataclass
class Trial:
    """The bench on which one example is tried.

    Attributes:
        implementation: what is under test; never called while `tape` is being replayed.
        dtype: of the state; params and logits are float64 for float64, otherwise float32.
        device: where the implementation computes; verdicts are made on the CPU.
        truth: float64 reference, or mpmath while a failure is confirmed.
        tape: every output so far; with `replaying` they are handed out again instead of calling.
        worst: the largest ratio so far.
        claims: how many numbers and facts something was claimed of so far.
    """

    implementation: Implementation
    dtype: torch.dtype
    device: torch.device
    truth: Truth
    tape: list[Any] = field(default_factory=lambda: [])
    replaying: bool = False
    worst: float = 0.0
    claims: int = 0
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
        return Rounding.of(self.dtype, self.implementation.products)

    def confirming(self) -> Trial:
        """The same observations before the exact judge."""
        return Trial(self.implementation, self.dtype, self.device, ExactTruth(self.dialect), self.tape, replaying=True)

    def judge_exactly(self) -> None:
        """Let mpmath be the truth from here on where the state is float64: float64 cannot judge itself."""
        if self.dtype == torch.float64:
            self.truth = ExactTruth(self.dialect)

    # -- observations ------------------------------------------------------------------------------------------------

    def project(self, logits: Tensor) -> Tensor:
        """The implementation's h_res of logits [..., n, n], checked for shape, dtype and device; on the CPU."""
        n = streams_of_permutations(logits.shape[-1]) if self.dialect.residual == "permutations" else logits.shape[-1]
        batch = logits.shape[:-1] if self.dialect.residual == "permutations" else logits.shape[:-2]
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

        Exceptions inside are the implementation's; what comes back is moved to the CPU.
        """
        return self._observe(
            what, (), lambda got: _plain_throughout(what, got), lambda: function(self.implementation, self._place)
        )

    def pull(
        self, what: str, inputs: Sequence[Tensor], cotangents: Sequence[Tensor], function: Callable[..., Any]
    ) -> list[Tensor]:
        """The vector-Jacobian product of function(implementation, *inputs) -> tensor or tuple, by autograd.

        An output without a graph has gradient 0: that is what a detached implementation amounts to.
        """

        def run() -> list[Tensor]:
            leaves = [self._place(one).detach().clone().requires_grad_() for one in inputs]
            outputs = outputs_of(function(self.implementation, *leaves))
            return pulled_back(outputs, leaves, [self._place(one) for one in cotangents])

        shapes = [tuple(one.shape) for one in inputs]

        def check(got: Any) -> list[Tensor]:
            return [
                self._tensor(f"gradient of {what}", one, shape, None) for one, shape in zip(got, shapes, strict=True)
            ]

        return self._observe(what, tuple(inputs), check, run)

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def within(self, what: str, got: Tensor, exact: Tensor, bound: Tensor) -> None:
        """|got - exact| <= bound, entry by entry; where the bound is infinite nothing is claimed.

        Raises:
            LawBroken: somewhere the ratio error / bound is above 1, a claimed entry is not finite, or the shapes do not
                fit.
        """
        checkpoint()
        try:
            got, exact, bound = torch.broadcast_tensors(wide(got), wide(exact), wide(bound))
        except RuntimeError:  # of two outputs one may have the wrong shape
            raise ContractBroken(f"{what} has shape {tuple(got.shape)}; expected {tuple(exact.shape)}") from None
        if got.numel() == 0:
            return
        claimed = torch.isfinite(bound)
        self.claims += int(claimed.sum())
        error = (got - exact).abs()
        ratio = torch.where(error == 0, 0.0, error / bound)
        ratio = torch.where(torch.isfinite(got), ratio, math.inf).nan_to_num(nan=math.inf, posinf=math.inf)
        ratio = torch.where(claimed, ratio, 0.0)
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
            )

    def at_most(self, what: str, got: Tensor, limit: Tensor, slack: Tensor) -> None:
        """got <= limit, with `slack` for what rounding explains; ratio = excess / slack."""
        excess = (wide(got) - wide(limit)).clamp_min(0)
        excess = torch.where(torch.isfinite(wide(got)), excess, math.inf)
        limit, excess = torch.broadcast_tensors(wide(limit), excess)
        self.within(what, limit + excess, limit, slack)

    def holds(self, what: str, condition: bool, got: str = "", expected: str = "") -> None:
        """A fact without a tolerance."""
        self.claims += 1
        if not condition:
            self.worst = math.inf
            raise LawBroken(what, ratio=math.inf, got=got, exact=expected)

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
    ) -> Any:
        """The checked answer of a call; `ours` is filled with what the harness raises while it is called back."""
        checkpoint()
        if self.replaying:
            self._next += 1
            return self.tape[self._next - 1]
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
            raise TargetRaised(method, fault, self._sketch(arguments)) from fault
        for one in ours:
            if isinstance(one, HarnessError):  # swallowed on the way
                raise one
        result = _settled(check(got))
        self.tape.append(result)
        return result

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
