"""What a test run has set for its own purposes, and no law speaks of.

A conftest, an option or the module of a target may turn warnings into errors, switch autograd off, or make tensors on
another device by default. An implementation is judged by what it computes, and the harness computes as ever.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from properties.guards.printable import message_of

_told: set[tuple[str, type[Warning], str, int]] = set()
"""Text, category, file and line of every warning that was shown in this process; no file where it is ours: which of
our calls a warning points to says nothing."""
_OURS = Path(__file__).parents[1]
_moved: list[bool] = []
"""For each `usual` that is open, whether it found another default device than the CPU."""


@contextmanager
def told() -> Generator[None]:
    """Where a filter would raise a warning, show it instead, once for each place and text; elsewhere change nothing."""
    if not any(action == "error" for action, *_ in warnings.filters):
        yield
        return
    found: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("default")
            yield
    finally:
        for one in found:
            text = message_of(one.message) if isinstance(one.message, Warning) else one.message
            ours = Path(one.filename).is_relative_to(_OURS)
            key = (text, one.category, *(("", 0) if ours else (one.filename, one.lineno)))
            if key not in _told:
                _told.add(key)
                warnings.showwarning(one.message, one.category, one.filename, one.lineno)


@contextmanager
def usual() -> Generator[None]:
    """Autograd records, and tensors are made on the CPU unless something else is said."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        moved = torch.get_default_device().type != "cpu"
        if moved:
            stack.enter_context(torch.device("cpu"))
        _moved.append(moved)
        stack.callback(_moved.pop)
        yield


@contextmanager
def called(device: torch.device) -> Generator[None]:
    """Around a call of a target: warnings are told, and a default device that somebody set is the one asked for.

    Whether autograd records and where tensors are made is afterwards as it was: a target that leaves autograd off, or
    an inference mode open, would switch off the gradients of the reference, too, and agree with it in having none.
    """
    recorded, place = torch.is_grad_enabled(), torch.get_default_device()
    with ExitStack() as stack:
        stack.callback(_made_on, place)
        stack.callback(torch.set_grad_enabled, recorded)
        stack.enter_context(torch.inference_mode(torch.is_inference_mode_enabled()))
        torch.set_grad_enabled(recorded)  # which a context that is no inference mode switches on
        stack.enter_context(told())
        if any(_moved) and device.type != "cpu":
            stack.enter_context(torch.device(device))
        yield


def _made_on(place: torch.device) -> None:
    """Tensors are made there again, if a target has changed that."""
    if torch.get_default_device() != place:
        torch.set_default_device(None if place.type == "cpu" else place)


class Chance:
    """The global generators of `random` and `numpy.random` as a target finds them in life: every example finds others.

    Hypothesis seeds both anew for every example, and a fault that comes by chance from one of them would then come
    always or never. That of torch is left alone by Hypothesis, and nothing of ours draws from any of the three.
    """

    def __init__(self) -> None:
        """As they are now, so this has to be made outside of Hypothesis."""
        self._state = random.getstate()
        # the state of numpy is slow to read and to write; its seeds come from it, and it has moved on by that
        self._seeds = random.Random(int(np.random.randint(2**31)))

    @contextmanager
    def lived(self) -> Generator[None]:
        """Around one example: the generator of Python goes on where the last example left it, that of numpy begins
        anywhere. Afterwards Hypothesis puts its own states back."""
        outside = random.getstate()
        random.setstate(self._state)
        np.random.seed(self._seeds.getrandbits(32))
        try:
            yield
        finally:
            self._state = random.getstate()
            random.setstate(outside)

    def keep(self) -> None:
        """Leave them moved on, so that the next law does not see the same chances again."""
        random.setstate(self._state)


@contextmanager
def drawn_alike() -> Generator[None]:
    """What Hypothesis draws for a seed does not depend on the modules that have been imported.

    It draws one number in twenty from the constants that stand in the source of local modules. So the examples of a
    seed would be others beside another target, after other laws, in a checkout, and in an installed package. Hypothesis
    has no setting for it; a version in which the function has another name is left as it is.
    """
    from hypothesis.internal.conjecture import providers

    found = getattr(providers, "_get_local_constants", None)
    if found is None:
        yield
        return
    nothing = type(found())()
    cache = providers.CONSTANTS_CACHE.cache
    cache.clear()  # it holds what was drawn with them
    setattr(providers, "_get_local_constants", lambda: nothing)  # noqa: B010  # pyright takes an assignment for a mistake
    try:
        yield
    finally:
        setattr(providers, "_get_local_constants", found)  # noqa: B010
        cache.clear()
