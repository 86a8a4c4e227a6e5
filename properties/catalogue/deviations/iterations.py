"""Slips of the iteration count: one off, another default, a stop of its own."""

from __future__ import annotations

from torch import Tensor

from mhc_ref.dialect import Axis
from properties.catalogue.deviations.catalogue import MUTATION, iterates, projects, redialect, slip
from properties.catalogue.deviations.deviant import Deviant

iterations = slip("iterations")
iterations_dialect = redialect("iterations")

iterations_dialect(
    "one-iteration-fewer",
    "Sinkhorn runs one iteration fewer than declared.",
    f"{MUTATION}: off by one: `range(iters - 1)` after a start that is no half-step",
    lambda d: d.with_(iterations=d.iterations - 1),
    iterates,
)
iterations_dialect(
    "one-iteration-more",
    "Sinkhorn runs one iteration more than declared.",
    f"{MUTATION}: off by one: `range(iters)` after a first iteration outside of the loop",
    lambda d: d.with_(iterations=d.iterations + 1),
    projects,
)
iterations_dialect(
    "one-iteration",
    "Sinkhorn stops after one iteration.",
    "passes vLLM's test_mhc_pre_tilelang at its published tolerance",
    lambda d: d.with_(iterations=1),
    iterates,
)
iterations_dialect(
    "three-iterations",
    "Sinkhorn stops after three iterations.",
    "passes vLLM's test_mhc_pre_tilelang at its published tolerance",
    lambda d: d.with_(iterations=3),
    lambda d: iterates(d) and d.iterations > 3,
)
iterations_dialect(
    "ten-iterations",
    "Sinkhorn runs the 10 iterations of another library's default.",
    "TileKernels default repeat=10; tokenbender",
    lambda d: d.with_(iterations=10),
    iterates,
)
iterations_dialect(
    "twice-the-iterations",
    "Sinkhorn runs twice as many iterations, half-steps having been counted as iterations.",
    MUTATION,
    lambda d: d.with_(iterations=2 * d.iterations),
    projects,
)
iterations_dialect(
    "limit",
    "Sinkhorn runs to its limit, 200 iterations, instead of the declared number.",
    "tilelang deepseek_mhc example, 100 iterations (bug 23)",
    lambda d: d.with_(iterations=200),
    lambda d: iterates(d) and d.iterations < 100,
)


@iterations("ends-on-first-axis", MUTATION, iterates)
class EndsOnFirstAxis(Deviant):
    """The last half-step is missing, so that the other axis is the exact one."""

    def half_steps(self) -> list[Axis]:
        return super().half_steps()[:-1]


@iterations("first-axis-once-more", MUTATION, projects)
class FirstAxisOnceMore(Deviant):
    """A half-step over the first axis follows the last one."""

    def half_steps(self) -> list[Axis]:
        return [*super().half_steps(), self.computed.first_axis]


@iterations("batch-early-stop", "LLM-quest: stops when .all() have converged, checked every third (bug 60)", iterates)
class BatchEarlyStop(Deviant):
    """The iteration stops early once every matrix of the batch has converged to 1e-5."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        m = self.started(logits)
        for k, axis in enumerate(self.half_steps(), start=1):
            m = self.half_step(m, axis)
            first, last = self.line_sum(m, self.computed.first_axis), self.line_sum(m, self.computed.last_axis)
            if k % 6 == 0 and m.numel() and max((first - 1).abs().max(), (last - 1).abs().max()) < 1e-5:
                break
        return m
