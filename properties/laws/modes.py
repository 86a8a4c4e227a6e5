"""What torch is told for everything: modes as values, and the judge that a call and its gradients do not see one."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from properties.core.device import Device
from properties.core.implementation import Implementation
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.laws.calls import Place, kept
from properties.laws.premises import mixes_in_compute_dtype
from properties.laws.pulls import Pulled


def _here(call: Callable[[], Any]) -> Any:
    return call()


def in_another_thread(call: Callable[[], Any]) -> Any:
    """What a call gives in a thread that begins and ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, call).result()


@dataclass(frozen=True)
class Mode:
    """A mode of torch.

    Attributes:
        what: in words.
        on: the mode, on a device; off: without it, whatever was set before.
        backwards: whether backward passes are made in it, too.
        calling: makes the calls, and their backward passes.
    """

    what: str
    on: Callable[[Device], AbstractContextManager[Any]]
    off: Callable[[Device], AbstractContextManager[Any]]
    backwards: bool
    calling: Callable[[Callable[[], Any]], Any] = _here


AUTOCAST = Mode(
    "under autocast",
    lambda here: torch.autocast(here.name, dtype=torch.bfloat16),
    lambda here: torch.autocast(here.name, enabled=False),
    backwards=False,  # as torch recommends: its own formulas would multiply in bfloat16 there
)
DETERMINISTIC = Mode(
    "under deterministic algorithms",
    lambda here: here.deterministic(True),
    lambda here: here.deterministic(False),
    backwards=True,
)


OTHER_THREAD = Mode(
    "in another thread",
    lambda here: nullcontext(),
    lambda here: nullcontext(),
    backwards=True,
    calling=in_another_thread,
)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None]:
    """Let torch make tensors of that dtype where it is not told another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def by_default(dtype: torch.dtype) -> Mode:
    """With that dtype for every tensor that is made without one."""
    what = f"with {str(dtype).removeprefix('torch.')} as the default dtype"
    return Mode(what, lambda here: default_dtype(dtype), lambda here: nullcontext(), backwards=True)


DEFAULTS = by_default(torch.bfloat16), by_default(torch.float64)
"""What loaders of models set for as long as they build one, and some for as long as it runs."""


def does_not_see(trial: Trial, pulled: Pulled, mode: Mode) -> None:
    """Values, their dtypes, and gradients where mixing has a bound backwards, are in a mode what they are without."""
    implementation = trial.implementation
    part = pulled.method in ("project", "mappings")
    pulls = trial.differentiable and (part or mixes_in_compute_dtype(implementation, trial.dtype) is None)

    def run(target: Implementation, place: Place) -> Any:
        def once(within: AbstractContextManager[Any], backwards: AbstractContextManager[Any]) -> Any:
            given = [place(one).clone().requires_grad_(pulls) for one in pulled.inputs]
            with within:
                outputs = pulled.function(target, given)
            bars = [place(bar).clone() for bar in pulled.cotangents]
            with backwards:
                gradients = pulled_back(outputs, given, bars) if pulls else []
            return kept(outputs), tuple(gradients)

        on, off = (lambda: mode.on(trial.here)), (lambda: mode.off(trial.here))
        plain = once(off(), off())
        return plain, mode.calling(lambda: once(on(), on() if mode.backwards else off()))

    (outputs, gradients), (within, learnt) = trial.observe(pulled.method, run)
    for name, one, other, error in zip(pulled.call.gives, within, outputs, pulled.call.errors(), strict=True):
        trial.contract(f"the dtype of {name} {mode.what}", one.dtype == other.dtype, str(one.dtype), str(other.dtype))
        trial.near(f"{name} {mode.what}", one, wide(other), 2 * error)
    bounds: list[Tensor] = pulled.errors(pulled.cotangents) if pulls else []
    for name, one, other, error in zip(pulled.names, learnt, gradients, bounds, strict=False):
        trial.near(f"the gradient of {pulled.method} by {name} {mode.what}", one, wide(other), 2 * error)
