"""How fast many cases in one pass would be on a GPU, predicted from what a pass asks of it.

A pass in eager torch is a sequence of operations, each of which costs the host a few microseconds; some of them the
host waits for; and all read and write memory. Counted on the CPU, where the same operations run in torch, with what an
operation, a wait and a byte cost taken for granted (`COSTS`), they give the seconds of a pass. What the host does
besides, drawing above all, is measured. The sum is an estimate and is called predicted wherever it stands.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

# There is no public way to see every operation.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

if TYPE_CHECKING:
    from properties.core.law import Law
    from properties.engine.subject import Subject


@dataclass(frozen=True)
class Costs:
    """What is taken for granted of a GPU and its host.

    Attributes:
        operation: seconds in which the host queues one; an eager operation from Python takes 4 to 10 microseconds.
        wait: seconds until the host has a number from the device.
        bandwidth: bytes a second that an elementwise operation moves: a fifth of what the memory of an H200 can.
    """

    operation: float = 10e-6
    wait: float = 40e-6
    bandwidth: float = 1e12


COSTS = Costs()
_COUNTED = 256
_WAITED = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")


class Counting(TorchDispatchMode):
    """Counts the operations that are more than a view, those that the host waits for, and the bytes that they move."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.waits, self.moved = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns):
            return found
        self.operations += 1
        self.waits += func.name().partition(".")[0] in _WAITED
        tensors = [one for one in tree_flatten((args, kwargs, found))[0] if isinstance(one, Tensor)]
        self.moved += sum(one.numel() * one.element_size() for one in tensors)
        return found


@dataclass(frozen=True)
class Prediction:
    """Of the mean pass of a law: tokens, operations, waits, bytes moved, and the seconds in which it is drawn, of this
    processor."""

    law: str
    tokens: float
    operations: float
    waits: float
    moved: float
    drawing: float

    def seconds(self, costs: Costs = COSTS) -> float:
        """Of a pass, predicted, with drawing."""
        device = max(self.operations * costs.operation, self.moved / costs.bandwidth)
        return device + self.waits * costs.wait + self.drawing

    def rate(self, costs: Costs = COSTS) -> float:
        """Tokens a second, predicted."""
        return self.tokens / self.seconds(costs)


def predicted(law: Law, subject: Subject, *, at_once: int, randomness: int, passes: int = 6) -> Prediction:
    """Count a few passes of a law on the CPU, all in torch, of `_COUNTED` tokens at most.

    Bytes and drawing are those of `at_once` tokens; of operations there are as many, unless numbers have to be worked
    off in parts.

    Raises:
        LawBroken: the call as a whole broke.
    """
    from properties.engine.batches import drawn, judged, widened
    from properties.families.sinkhorn.arrays import as_on_a_device

    dice, setting = random.Random(randomness), subject.setting(law)
    widened(law, setting, drawn(law, subject, 1, randomness)[0], 2, dice)  # what is loaded and built counts for nobody
    begun = time.process_time()
    cases = drawn(law, subject, passes, randomness)
    between = time.process_time()
    batches = [widened(law, setting, case, min(at_once, _COUNTED), dice) for case in cases]
    by_law, further = (between - begun) / len(cases), time.process_time() - between
    counts = Counting()
    for batch in batches:
        with as_on_a_device(), counts:
            judged(law, subject, batch).suspects()
    each, most = len(batches), min(at_once, setting.max_tokens)
    share = most / sum(batch.tokens for batch in batches)
    asked = (counts.operations / each, counts.waits / each, counts.moved * share)
    return Prediction(law.id, most, *asked, by_law + further * share)


def told(found: Prediction, alone: float | None) -> str:
    """In one line; `alone`: tokens a second of the ordinary run."""
    line = (
        f"  predicted for a GPU, not measured: {found.operations:.0f} operations, {found.waits:.0f} waits and "
        f"{found.moved / 1e6:.0f} MB in a pass of {found.tokens:.0f} tokens, drawn in {1e3 * found.drawing:.0f} ms; "
        f"{found.rate():.0f} tokens/s"
    )
    return line + (f", {found.rate() / alone:.0f} times the CPU's" if alone else "")
