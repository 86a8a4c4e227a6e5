"""What torch and NumPy are told for everything, which a call leaves as it was, whatever becomes of the call."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor, overrides
from torch.utils import _python_dispatch
from torch.utils._device import DeviceContext

from mhc_ref import Params
from properties.core.case import BranchSpec, map_tensors
from properties.core.implementation import Implementation
from properties.core.trial import Trial, same_numbers, wide
from properties.guards.faults import HarnessError, TargetFault, answered
from properties.laws.calls import Call, Place, every_mode, kept, of_a_model

OF_A_BRANCH = slice(3, -3)
"""The modes that hold within a branch as without a call: all but autograd's, which come first, and what sees saved
tensors or every function, which comes last: who computes a branch again backwards puts these up around it."""


@dataclass(frozen=True)
class _Setting:
    """Something that torch, or a library beside it, is told for everything; `write` puts a value back."""

    read: Callable[[], Any]
    write: Callable[[Any], object]

    def value(self) -> Any:
        """What holds now; None where this torch has no such setting, or will not say: those of the new names of
        precisions cannot be read by the old ones."""
        try:
            return self.read()
        except (RuntimeError, AttributeError):
            return None


def _attribute(owner: Callable[[], Any], name: str) -> _Setting:
    return _Setting(lambda: getattr(owner(), name), lambda value: setattr(owner(), name, value))


def _casts(device: str) -> tuple[_Setting, ...]:
    return (
        _Setting(lambda: torch.is_autocast_enabled(device), lambda value: torch.set_autocast_enabled(device, value)),
        _Setting(lambda: torch.get_autocast_dtype(device), lambda value: torch.set_autocast_dtype(device, value)),
    )


def _hooks() -> Any:
    """The hooks on saved tensors that were put up last."""
    return _C._autograd._top_saved_tensors_default_hooks(True)


def _without_hooks(before: Any) -> None:
    while _hooks() not in (None, before):
        _C._autograd._pop_saved_tensors_default_hooks()


def _as_many(count: Callable[[], int], pop: Callable[[], object]) -> Callable[[int], None]:
    def taken_down(before: int) -> None:
        while count() > before:
            pop()

    return taken_down


def _watching() -> int:
    """How many modes see every function of torch. A default device is one, which is at the bottom and is told apart."""
    return sum(not isinstance(one, DeviceContext) for one in _FUNCTIONS._get_current_function_mode_stack())


_C: Any = torch._C  # pyright: ignore[reportPrivateUsage]
_FUNCTIONS: Any = overrides
_DISPATCH: Any = _python_dispatch


def _products() -> Any:
    """How matrices are multiplied on a GPU of NVIDIA."""
    return torch.backends.cuda.matmul


def _cudnn() -> Any:
    return torch.backends.cudnn


_SETTINGS = (
    _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(torch.is_inference_mode_enabled, lambda _: None),  # left by whoever entered it
    # inference mode switches it off, too
    _Setting(lambda: _C._is_multithreading_enabled(), lambda value: _C._set_multithreading_enabled(value)),
    _Setting(torch.get_default_dtype, torch.set_default_dtype),
    _Setting(torch.get_default_device, lambda _: None),  # whoever calls a target looks after that
    _Setting(torch.get_num_threads, torch.set_num_threads),
    _Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    *_casts("cpu"),
    *_casts("cuda"),
    _Setting(torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    _Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    _Setting(lambda: flushes(), torch.set_flush_denormal),
    _Setting(lambda: tuple(np.geterr().items()), lambda value: np.seterr(**dict(value))),
    _attribute(lambda: mpmath.mp, "prec"),
    *(_attribute(_cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    _attribute(_products, "allow_tf32"),
    _attribute(_products, "fp32_precision"),
    _attribute(_products, "allow_fp16_reduced_precision_reduction"),
    _attribute(_products, "allow_bf16_reduced_precision_reduction"),
    _Setting(lambda: _C._get_mkldnn_enabled(), lambda value: _C._set_mkldnn_enabled(value)),
    _Setting(_hooks, _without_hooks),
    _Setting(
        lambda: _C._len_torch_dispatch_stack(),
        _as_many(lambda: _C._len_torch_dispatch_stack(), lambda: _DISPATCH._pop_mode()),
    ),
    _Setting(lambda: _watching(), _as_many(lambda: _watching(), lambda: _FUNCTIONS._pop_mode())),
)
"""Autograd's first."""


def modes() -> tuple[Any, ...]:
    """What holds now, autograd's first."""
    return tuple(one.value() for one in _SETTINGS)


def flushes() -> bool:
    """Whether subnormal numbers are taken for 0, as a library that is compiled for speed alone has it in all code."""
    subnormal = torch.full((1,), 2.0**-130, device=torch.device("cpu"), dtype=torch.float32)
    return bool(subnormal * 0.5 == 0)


@contextmanager
def restored() -> Generator[None]:
    """Afterwards modes and generators are as before, so that no later law has what a target left."""
    before, states = modes(), (torch.get_rng_state(), random.getstate(), np.random.get_state())
    try:
        yield
    finally:
        _restore(before)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def _restore(before: tuple[Any, ...]) -> None:
    """Those that are others now; what would not be said before, or will not be taken, stays as it is."""
    for one, value in zip(_SETTINGS, before, strict=True):
        if one.value() != value and (value is not None or one.read is _hooks):
            with suppress(RuntimeError, AttributeError):
                one.write(value)


def seeded(seed: int) -> None:
    """Seed the global generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def generators() -> tuple[Any, ...]:
    """The states of the global generators of `GENERATORS`."""
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # pyright: ignore[reportArgumentType]


GENERATORS = ("torch", "Python", "NumPy")


# -- calls that come to nothing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Misfit:
    """Arguments that a method may refuse.

    Attributes:
        what: in words.
        given: the arguments.
    """

    what: str
    given: tuple[Any, ...]


class _Refused(RuntimeError):
    """What a branch raises here."""


class Cancelled(BaseException):
    """What a branch raises here that is no Exception, as KeyboardInterrupt and the CancelledError of asyncio are none:
    whoever cleans up after Exceptions alone does not after these."""


class _Raises(torch.nn.Module):
    """A branch that raises. It is a module, as those of models are, and is left as it was."""

    def __init__(self, error: type[BaseException] = _Refused) -> None:
        super().__init__()
        self.error = error

    def forward(self, u: Tensor) -> Tensor:
        raise self.error("a branch that raises")

    def untouched(self) -> bool:
        """Whether nobody has changed its training mode, or hung anything on it."""
        hung = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        return self.training and not hung


def attempted(call: Callable[[], object]) -> None:
    """A call that may be refused by whatever is raised: an exit, or what an adapter says of it, too."""
    with suppress(TargetFault, HarnessError):
        answered(call)


def misfits(call: Call, given: Sequence[Any], shapes: bool) -> Iterator[Misfit]:
    """Branches that raise; with `shapes` what each gives or an argument is, in turn, larger than it should be, so that
    code which checks nothing reads no memory of others, and logits of another kind of number."""
    for k, (name, whole) in enumerate(zip(call.names, given, strict=True)):
        each: tuple[Any, ...] = whole if isinstance(whole, tuple) and not isinstance(whole, Params) else ()
        last: Any = each[-1] if each else whole

        def instead(other: Any, k: int = k, each: tuple[Any, ...] = each) -> tuple[Any, ...]:
            return (*given[:k], (*each[:-1], other) if each else other, *given[k + 1 :])

        if isinstance(last, BranchSpec):
            yield Misfit("a branch that raises", instead(_Raises()))
            if shapes:
                yield Misfit("a branch that is cancelled", instead(_Raises(Cancelled)))
                yield Misfit("a branch that gives a channel too many", instead(partial(_wider, last)))
        elif not shapes:
            continue
        elif isinstance(last, Params):
            more = torch.cat([last.phi, last.phi[:1]])
            yield Misfit("a phi of one row too many", instead(last._replace(phi=more)))
        elif name == "logits":
            yield Misfit("logits that are integers", instead(last.long()))
        elif name in ("the branch output", "h_pre", "h_post"):
            yield Misfit(f"{name} of one entry too many", instead(torch.cat([last, last[..., :1]], -1)))


def _wider(branch: BranchSpec, u: Tensor) -> Tensor:
    y = branch(u)
    return torch.cat([y, y[..., :1]], -1)


def are_left_by_refused_calls(trial: Trial, call: Call) -> None:
    """Modes, arguments and branches are as before a call that comes to nothing, no generator is set, and the next call
    gives what it gave.

    On another device than the CPU only branches come to nothing: a kernel that checks no shape may end the context of
    the device there, and with it every later law.
    """
    shapes = trial.device.type == "cpu"

    def run(target: Implementation, place: Place) -> Any:
        def after(misfit: Misfit) -> tuple[bool, ...]:
            """Whether modes, arguments and branches are as before, and of each generator whether its state depends on
            what it was."""
            states: list[tuple[Any, ...]] = []
            whole, same = True, True
            for seed in (1, 2):
                seeded(seed)
                tensors = [one for _, one in call.tensors(misfit.given)]
                before, asked = [one.clone() for one in tensors], [one.requires_grad for one in tensors]
                told = modes()
                attempted(lambda: call.on(target, misfit.given))
                same = same and modes() == told
                _restore(told)
                whole = whole and asked == [one.requires_grad for one in tensors]
                whole = whole and all(same_numbers(one, other) for one, other in zip(tensors, before, strict=True))
                states.append(generators())
            branches = _raising(misfit.given)
            own = [one != other for one, other in zip(*states, strict=True)]
            return same, whole, all(one.untouched() for one in branches), *own

        found: list[Any] = []
        for name, mode in every_mode(trial):
            with mode(), restored():
                given = of_a_model(map_tensors(call.given, place), name, trial)
                first = kept(call.on(target, given))
                others = (-given[0], *given[1:])  # what is left of these is seen in the next call
                left = tuple(after(misfit) for misfit in misfits(call, others, shapes))
                found.append((first, left, kept(call.on(target, given))))
        return tuple(found)

    called = [misfit.what for misfit in misfits(call, call.given, shapes)]
    for (mode, _), (first, left, again) in zip(every_mode(trial), trial.observe(call.method, run), strict=True):
        for what, (still, whole, untouched, *own) in zip(called, left, strict=True):
            of = f"after {call.method} was called with {what}{mode}"
            trial.holds(f"the modes of torch {of}", still, "others", "as before", kind="memory")
            trial.holds(f"the arguments {of}", whole, "written to, or asking for gradients", "as before", kind="memory")
            trial.holds(f"the branch {of}", untouched, "in another mode, or with hooks", "as before", kind="memory")
            for name, free in zip(GENERATORS, own, strict=True):
                said = "in one state, whatever it was in before"
                trial.holds(f"the global generator of {name} {of}", free, said, "left alone", kind="memory")
        for name, one, other, error in zip(call.gives, again, first, call.errors(), strict=True):
            what = f"{name} after calls with arguments that do not fit{mode}"
            trial.near(what, one, wide(other), 2 * error, kind="memory")


def _raising(given: Sequence[Any]) -> list[_Raises]:
    """The branches that raise among arguments."""
    each = [one for whole in given for one in (whole if isinstance(whole, tuple) else (whole,))]
    return [one for one in each if isinstance(one, _Raises)]
