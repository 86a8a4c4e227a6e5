"""What torch and NumPy are told for everything, which a call leaves as it was, whatever becomes of the call."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import BranchSpec, map_tensors
from properties.core.implementation import Implementation
from properties.core.trial import Trial, wide
from properties.laws.calls import QUIET, Call, Place, kept

AUTOGRAD = 2
"""How many of the modes are autograd's."""


def modes() -> tuple[Any, ...]:
    """What holds now, autograd's first."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_anomaly_enabled(),
        flushes(),
        tuple(np.geterr().items()),
    )


def flushes() -> bool:
    """Whether subnormal numbers are taken for 0, as a library that is compiled for speed alone has it in all code."""
    subnormal = torch.full((1,), 2.0**-130, device=torch.device("cpu"), dtype=torch.float32)
    return bool(subnormal * 0.5 == 0)


@contextmanager
def restored() -> Generator[None]:
    """Afterwards modes and the generator of torch are as before, so that no later law has what a target left."""
    before, generator = modes(), torch.get_rng_state()
    try:
        yield
    finally:
        _restore(before)
        torch.set_rng_state(generator)


def _restore(before: tuple[Any, ...]) -> None:
    """Those that are others now; where tensors are made by default, whoever calls a target looks after."""
    now = modes()
    if now == before:
        return
    recorded, _, dtype, _, threads, deterministic, precision, warn, cast, cast_to, anomaly, flushed, errors = before
    torch.set_grad_enabled(recorded)
    torch.set_default_dtype(dtype)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn)
    torch.set_float32_matmul_precision(precision)
    torch.set_autocast_enabled("cpu", cast)
    torch.set_autocast_dtype("cpu", cast_to)
    torch.autograd.set_detect_anomaly(anomaly)
    torch.set_flush_denormal(flushed)
    np.seterr(**dict(errors))


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


def misfits(call: Call, given: Sequence[Any], shapes: bool) -> Iterator[Misfit]:
    """Branches that raise; with `shapes` what each gives or an argument is, in turn, larger than it should be, so that
    code which checks nothing reads no memory of others, and logits of another kind of number."""
    for k, (name, whole) in enumerate(zip(call.names, given, strict=True)):
        each: tuple[Any, ...] = whole if isinstance(whole, tuple) and not isinstance(whole, Params) else ()
        last: Any = each[-1] if each else whole

        def instead(other: Any, k: int = k, each: tuple[Any, ...] = each) -> tuple[Any, ...]:
            return (*given[:k], (*each[:-1], other) if each else other, *given[k + 1 :])

        if isinstance(last, BranchSpec):
            yield Misfit("a branch that raises", instead(_raise))
            if shapes:
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


def _raise(u: Tensor) -> Tensor:
    raise _Refused("a branch that raises")


def _wider(branch: BranchSpec, u: Tensor) -> Tensor:
    y = branch(u)
    return torch.cat([y, y[..., :1]], -1)


def are_left_by_refused_calls(trial: Trial, call: Call) -> None:
    """Modes are as before a call that comes to nothing, no generator is set, and the next call gives what it gave.

    On another device than the CPU only branches come to nothing: a kernel that checks no shape may end the context of
    the device there, and with it every later law.
    """
    shapes = trial.device.type == "cpu"

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)

        def after(misfit: Misfit) -> tuple[bool, bool]:
            """Whether modes are as before, and whether the generator of torch depends on what it was."""
            states: list[list[int]] = []
            for seed in (1, 2):
                torch.manual_seed(seed)
                before = modes()
                with suppress(Exception):  # whatever it says: nobody asks that it is refused
                    call.on(target, misfit.given)
                if modes() != before:
                    _restore(before)
                    return False, True
                states.append(torch.get_rng_state().tolist())
            return True, states[0] != states[1]

        found: list[Any] = []
        for _, mode in QUIET:
            with mode(), restored():
                first = kept(call.on(target, given))
                left = tuple(after(misfit) for misfit in misfits(call, given, shapes))
                found.append((first, left, kept(call.on(target, given))))
        return tuple(found)

    called = [misfit.what for misfit in misfits(call, call.given, shapes)]
    for (mode, _), (first, left, again) in zip(QUIET, trial.observe(call.method, run), strict=True):
        for what, (still, free) in zip(called, left, strict=True):
            of = f"after {call.method} was called with {what}{mode}"
            trial.holds(f"the modes of torch {of}", still, "others", "as before", kind="memory")
            said = "in one state, whatever it was in before"
            trial.holds(f"the global generator of torch {of}", free, said, "left alone", kind="memory")
        for name, one, other, error in zip(call.gives, again, first, call.errors(), strict=True):
            what = f"{name} after calls with arguments that do not fit{mode}"
            trial.near(what, one, wide(other), 2 * error, kind="memory")
