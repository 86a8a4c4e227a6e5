"""Laws of training: constrained mixing keeps its caps at every step of every run, both ways, at the worst token.

Whatever the depth, n, rate, optimiser, initialisation, norm, data and number of steps, the residual logits of a token
are finite numbers (where they are not, training is over), and for every finite logit two things are proved of the
composites A_l ... A_1 and A_L ... A_l:

* the caps that follow from what the mix guarantees (`proofs.caps`): of Sinkhorn in the paper's order 1 and n;
* sums that are exactly 1 in every A_l are exactly 1 in the composite, so that it does not fade either;
* of alternating divisions without an eps also what their iterations leave of the other axis for logits of this spread
  (`laws.manifold.half_step_certificate`). No sum of a layer is above 1 + c_l, so none of a product is above the product
  of the 1 + c_l. That is what a run with too few iterations breaks.

Rounding. A computed A_l is within E_l of the exact one, entry by entry (`bounds.projection`), and a product of n x n
matrices within n units of the product of their magnitudes. With e_l the largest sum of E_l on either axis all sums
grow by a factor of (1 + e_l) (1 + 2 n u) a layer at most; orthogonal A_l alike, since |E|_2 <= e_l.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.gain import prefixes, suffixes
from properties.bounds.agreement import IN_FLOAT64
from properties.bounds.projection import projection
from properties.core.family import DIM, guarantees_of
from properties.core.rounding import Approx
from properties.explosion.proofs.caps import applied, largest
from properties.explosion.training.data import tokens
from properties.explosion.training.decoder import Passed, forward
from properties.explosion.training.initialisations import INITS, initial
from properties.explosion.training.optimisation import Optimiser
from properties.explosion.training.residuals import residual_of
from properties.explosion.training.setup import DATA, MLPS, NORMS, OPTIMIZERS, SCHEDULES, Setup
from properties.laws.manifold import half_step_certificate

FAULTS = {
    "unprojected": "the projection is missing in the last layer: its mixing is its logits",
    "iterations-one": "every projection iterates once, whatever is declared",
    "bypass": "a gate carries a copy of the state past the projected mixing",
    "direct": "what is projected is the initial matrix, and the optimiser changes that matrix itself",
}
"""Deviations of a decoder (`Setup.fault`), each with what it does."""
RESIDUALS = ("mhc", "mhc:DEEPSEEK_V4", "mhc:LIGER", "mhc:LUCIDRAINS", "mhc-lite", "kromhc", "cayley")


@dataclass(frozen=True)
class Case:
    """One run: a decoder, a learning rate and a seed."""

    setup: Setup
    rate: float
    seed: int


@dataclass(frozen=True)
class Broken:
    """A law that a run broke: at which step, from 1, in the composite of which sub-layers, and by how much.

    `fades`: the value is a sum that is below its limit, and not above it.
    """

    step: int
    layers: str
    gain: str
    value: float
    limit: float
    fades: bool = False

    def __str__(self) -> str:
        how = "smallest sum of" if self.fades else "gain of"
        relation = "below" if self.fades else "above"
        return f"step {self.step}: the {self.gain} {how} {self.layers} is {self.value:.6g}, {relation} {self.limit:.6g}"


def broken(case: Case) -> Broken | None:
    """Train, and hold every pass to its laws; the first that is broken, None where they all hold.

    Raises:
        ValueError: the residual promises nothing.
    """
    setup = case.setup
    if setup.residual.dialect is None or not largest(applied(setup.residual.dialect), setup.streams):
        raise ValueError(f"{setup.residual.name} has no caps that training could break")
    weights, data = initial(setup, case.seed), tokens(setup, case.seed)
    optimiser = Optimiser(setup, torch.tensor([case.rate], dtype=torch.float64), weights.unsqueeze(0))
    for step in range(setup.steps):
        free = weights.detach().requires_grad_()
        passed = forward(setup, free, data[step], watched=True)
        assert passed.logits is not None
        if not bool(passed.logits.isfinite().all()):
            return None  # the end of what the laws are about
        for found in _found(setup, setup.residual.dialect, passed, step + 1):
            return found
        (slopes,) = torch.autograd.grad(passed.loss, free)
        weights = optimiser.step(weights.unsqueeze(0), slopes.unsqueeze(0)).squeeze(0)
    return None


def _found(setup: Setup, dialect: Dialect, passed: Passed, step: int) -> Iterator[Broken]:
    """Every law that a pass breaks, composite by composite."""
    assert passed.logits is not None
    n, depth = setup.streams, setup.depth
    operators = passed.operators.flatten(1, 2)  # [L, tokens, n, n]
    logits = passed.logits.flatten(1, 2)
    growth = torch.stack([1 + _rounding(one, dialect, n) for one in logits])  # [L, tokens]
    caps = {gain: cap.value for gain, cap in largest(applied(dialect), n).items() if gain != "spectral"}
    other, left = _left_by_iterations(logits, dialect)
    ways = (("forwards", prefixes(operators), growth.cumprod(0), left.cumprod(0)),)
    ways += (("backwards", suffixes(operators), _from_the_end(growth), _from_the_end(left)),)
    held = applied(dialect)
    exact = {axis for axis in held.sums if held.nonnegative}
    for way, composites, rounded, product in ways:
        for gain, axis, dim in (("forward", "row", -1), ("backward", "column", -2)):
            sums = composites.abs().sum(dim)
            limit = torch.full_like(rounded, caps[gain])
            if gain == other:
                limit = limit.minimum(product)
            over = sums.amax(-1) - limit * rounded
            under = 2 - rounded - sums.amin(-1) if axis in exact else torch.full_like(over, -math.inf)
            for off, fades in ((over, False), (under, True)):
                off = torch.where(off.isnan(), math.inf, off)
                if bool((off > 0).any()):
                    layer, token = divmod(int(off.argmax()), off.shape[1])
                    layers = f"A_{layer + 1} ... A_1" if way == "forwards" else f"A_{depth} ... A_{layer + 1}"
                    at = sums[layer, token]
                    value = (at.amin() if fades else at.amax()).item()
                    limits = 2 - rounded if fades else limit * rounded
                    yield Broken(step, layers, gain, value, limits[layer, token].item(), fades)


def _rounding(logits: Tensor, dialect: Dialect, n: int) -> Tensor:
    """(1 + e_l) (1 + 2 n u) - 1 of every token [tokens], of logits [tokens, *shape]."""
    error = projection(Approx.exact(logits), dialect, IN_FLOAT64).error
    largest_sum = torch.maximum(error.sum(-1).amax(-1), error.sum(-2).amax(-1))
    return (1 + largest_sum) * (1 + 2 * n * IN_FLOAT64.unit) - 1


def _left_by_iterations(logits: Tensor, dialect: Dialect) -> tuple[str, Tensor]:
    """The gain of A that finite iterations leave free, and 1 + c_l of every layer and token [L, tokens]; "" for none.

    What is left is that of the iterations that are declared.
    """
    held = guarantees_of(dialect)
    none = torch.full(logits.shape[:2], math.inf, dtype=torch.float64)
    plain = not dialect.entry_eps and not dialect.denominator_eps
    if not held.alternating or not plain or not dialect.iterations:
        return "", none
    first = DIM[dialect.first_axis]
    started = logits / held.temperature
    if dialect.start == "softmax":
        started = started.log_softmax(DIM[dialect.start_axis])
    left = torch.stack([1 + half_step_certificate(one, first, dialect.iterations) for one in started])
    columns_of_a = (first == -2) != dialect.transposed
    return "backward" if columns_of_a else "forward", left


def _from_the_end(factors: Tensor) -> Tensor:
    return factors.flip(0).cumprod(0).flip(0)


@st.composite
def cases(draw: st.DrawFn, fault: str = "", residuals: tuple[str, ...] = RESIDUALS, most: int = 4) -> Case:
    """Runs of every kind, the simplest first: few sub-layers, streams, tokens and steps, up to `most` of each."""
    residual = residual_of(draw(st.sampled_from(residuals)))
    dialect = residual.dialect
    if dialect is not None and guarantees_of(dialect).alternating and draw(st.booleans()):
        residual = residual.iterating(draw(st.integers(1, 20)))
    setup = Setup(
        residual,
        depth=draw(st.integers(1, most)),
        streams=draw(st.integers(2, max(most, 2))),
        width=8,
        tokens=draw(st.integers(1, most)),
        steps=draw(st.integers(1, most)),
        norm=draw(st.sampled_from(NORMS)),
        qk_norm=draw(st.booleans()),
        mlp=draw(st.sampled_from(MLPS)),
        init=draw(st.sampled_from([*INITS])),
        data=draw(st.sampled_from(DATA)),
        optimizer=draw(st.sampled_from(OPTIMIZERS)),
        schedule=draw(st.sampled_from(SCHEDULES)),
        weight_decay=draw(st.sampled_from((0.0, 1.0))),
        clip=draw(st.sampled_from((0.0, 1.0))),
        fault=fault,
    )
    return Case(setup, 10 ** (draw(st.integers(0, 8)) / 2 - 3), draw(st.integers(0, 3)))
