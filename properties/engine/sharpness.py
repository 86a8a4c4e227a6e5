"""How sharp the bounds are: of every stage, dtype and size how large the bound is beside what it bounds, the worst
error / bound over all controls, the worst of samples that are rounded at random, and how much is not claimed.

A bound that nothing comes near is sound and says little: a wrong answer passes below it. The judge of float64 is
mpmath, which takes a second for a thousand products, so that float64 is looked at in small sizes alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from mhc_ref import PRESETS, Dialect, Mappings, Params
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.catalogue.controls import CATALOGUE
from properties.core.exact_truth import ExactTruth
from properties.core.implementation import Implementation, Reference, parameter_dtype
from properties.core.judging import Judge, LawBroken
from properties.core.noise import RandomRounding
from properties.core.truth import FloatTruth, Truth
from properties.strategies import STEADY, agreeing_params, agreeing_state, noise

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
WIDTHS = {torch.float32: (64, 1024, 8192), torch.bfloat16: (64, 8192), torch.float64: (64,)}
DEPTHS = {torch.float32: (8, 64), torch.bfloat16: (8, 64), torch.float64: (8,)}
TITLES = ("DEEPSEEK_V4", "LUCIDRAINS", "MHC_LITE")
STREAMS, TOKENS = 4, 2
FEW = 6
"""How many controls are taken through the deepest stacks."""
SERIAL = 64
"""The widest state whose sums are rounded term by term, a step for each of n C terms."""

OF_THE_NORM = ("pow", "square", "mean", "sqrt")
WAYS: dict[str, tuple[float, Sequence[str]]] = {
    "at random": (0.5, ()),
    "up": (1.0, ()),
    "down": (0.0, ()),
    "against the norm": (1.0, OF_THE_NORM),
}
"""How samples are rounded (`properties.core.noise.RandomRounding`)."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the bounds are looked at.

    Attributes:
        cancelling: with phi ~ N(0, 1/K), whose sums cancel, in place of terms of one sign
            (`properties.strategies.agreeing`).
        layers: so many blocks are judged as one; without any, every stage by itself.
    """

    title: str
    dtype: torch.dtype
    channels: int
    layers: int = 0
    cancelling: bool = False

    @property
    def dialect(self) -> Dialect:
        """The dialect of that name."""
        return PRESETS[self.title]

    def inputs(self, seed: int) -> tuple[Tensor, list[Params]]:
        """x and the parameters of the layers, or of one."""
        x = agreeing_state(seed, TOKENS, STREAMS, self.channels, self.dtype)
        reach = STEADY if self.layers else 1.0
        dtype = parameter_dtype(self.dtype)
        params = [
            agreeing_params(seed + k, STREAMS, self.channels, self.dialect, dtype, reach=reach)
            for k in range(max(1, self.layers))
        ]
        if self.cancelling:
            x = torch.from_numpy(noise(seed, *x.shape)).to(self.dtype)
            params = [
                one._replace(phi=torch.from_numpy(noise(seed + k, *one.phi.shape)).to(dtype) / math.sqrt(len(one.phi)))
                for k, one in enumerate(params)
            ]
        return x, params


@dataclasses.dataclass(frozen=True)
class Found:
    """What one evaluation showed of one stage.

    Attributes:
        ratio: its worst error / bound.
        relative: the largest bound beside the largest number of the stage.
        claims, abstentions: of how many numbers something is claimed, and of how many nothing.
    """

    stage: str
    ratio: float
    relative: float
    claims: int
    abstentions: int


def controls(place: Place) -> Iterator[Implementation]:
    """The reference, and every control that is another arithmetic for the dialect and takes the dtype."""
    yield Reference(place.dialect)
    for one in CATALOGUE.values():
        if one.applies(place.dialect) and place.dtype in (made := one.make(place.dialect)).dtypes:
            yield made


def evaluated(place: Place, target: Implementation, seed: int = 0, way: str = "") -> list[Found]:
    """Every stage of `target`, or the layers: judged as the laws do; `way`: rounded so (`WAYS`), within the bound for
    twice the unit roundoff."""
    r = Rounding.of_declared(target, place.dtype)
    if way:
        r = dataclasses.replace(r, unit=2 * r.unit, state_unit=2 * r.state_unit)
    given = _handed(place, seed)
    with RandomRounding(seed, *WAYS[way]) if way else nullcontext():
        outputs = list(_layers(target, given) if place.layers else _stages(target, given))
    known = _bounds(place, seed, r)
    return [_judged(stage, got, *known[stage]) for stage, got in outputs if got.numel()]


@dataclasses.dataclass(frozen=True)
class _Handed:
    """What every implementation is given: the state, the parameters, the exact mappings, rounded, and what the branches
    give, which has the signs of the state so that nothing cancels."""

    x: Tensor
    params: list[Params]
    h: Mappings
    y: Tensor
    truth: Truth
    exact: Mappings


@functools.lru_cache(maxsize=2)
def _handed(place: Place, seed: int) -> _Handed:
    x, params = place.inputs(seed)
    truth = ExactTruth(place.dialect) if place.dtype == torch.float64 else FloatTruth(place.dialect)
    exact = truth.mappings(x, params[0])
    h = Mappings(*(part.to(parameter_dtype(place.dtype)) for part in exact))
    return _Handed(x, params, h, x[:, 0].sign(), truth, exact)


def _stages(target: Implementation, given: _Handed) -> Iterator[tuple[str, Tensor]]:
    x, h = given.x, target.mappings(given.x, given.params[0])
    yield from (("h_pre", h.pre), ("h_post", h.post), ("h_res", h.res))
    yield "pre", target.pre(x, given.h.pre)
    yield "post", target.post(x, given.y, given.h.post, given.h.res)
    yield "block", target.block(x, given.params[0], given.y.to)


def _layers(target: Implementation, given: _Handed) -> Iterator[tuple[str, Tensor]]:
    yield "layers", target.layers(given.x, given.params, [given.y.to] * len(given.params))


@functools.lru_cache(maxsize=8)
def _bounds(place: Place, seed: int, r: Rounding) -> dict[str, tuple[Tensor, Tensor]]:
    """By stage the exact numbers and the bound."""
    given, dialect = _handed(place, seed), place.dialect
    x, y, truth, state = given.x, given.y, given.truth, Approx.exact(given.x)
    if place.layers:
        outputs = [y.double()] * place.layers
        after, _ = bounds.stack.after(state, given.params, outputs, dialect, r)
        return {"layers": (truth.layers(x, given.params, outputs)[1], after.error)}
    params = given.params[0]
    h = bounds.block.coefficients(state, params, dialect, r)
    operator = bounds.block.operator_of(Approx.exact(given.h.res), dialect)
    mixed = bounds.block.combined(x, operator, r, y.double(), Approx.exact(given.h.post))
    after = bounds.block.step(state, params, y.double(), dialect, r).after
    return {
        "h_pre": (given.exact.pre, h.pre.error),
        "h_post": (given.exact.post, h.post.error),
        "h_res": (given.exact.res, h.res.error),
        "pre": (truth.pre(x, given.h.pre), bounds.block.read(x, Approx.exact(given.h.pre), r).error),
        "post": (truth.post(x, y, given.h.post, given.h.res), mixed.error),
        "block": (truth.block(x, params, y)[1], after.error),
    }


def _judged(stage: str, got: Tensor, exact: Tensor, bound: Tensor) -> Found:
    judge = Judge()
    try:
        judge.within(stage, got, exact, bound, size=1.0 if stage.startswith("h_") else 0.0)
    except LawBroken as broken:
        return Found(stage, broken.ratio, math.inf, judge.claims, judge.abstentions)
    largest = max(1.0 if stage.startswith("h_") else 0.0, float(exact.abs().max()))
    return Found(stage, judge.worst, float(bound.max()) / largest, judge.claims, judge.abstentions)


@dataclasses.dataclass
class Row:
    """A line of the table: a stage in a dtype and size, the worst over the dialects."""

    stage: str
    dtype: str
    size: str
    cancelling: bool
    relative: float = 0.0
    ratio: float = 0.0
    by: str = ""
    sampled: float = math.nan
    worst: float = math.nan
    claims: int = 0
    abstentions: int = 0


def places() -> Iterator[Place]:
    """Where the page looks."""
    for title in TITLES:
        for dtype in DTYPES:
            for channels in WIDTHS[dtype]:
                yield Place(title, dtype, channels)
                yield Place(title, dtype, channels, cancelling=True)
            for layers in DEPTHS[dtype]:
                yield Place(title, dtype, 16, layers)
                yield Place(title, dtype, 16, layers, cancelling=True)


def _titled(target: Implementation) -> str:
    return "the reference" if isinstance(target, Reference) else target.name.removeprefix("control:")


def measured(told: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Every row of the table; `told` hears how far it is."""
    rows: dict[tuple[str, ...], Row] = {}
    for place in places():
        size = f"{place.layers} layers, C = {place.channels}" if place.layers else f"C = {place.channels}"
        dtype = str(place.dtype).removeprefix("torch.")
        told(f"{place.title} {dtype} {size}{' cancelling' * place.cancelling}")

        def row(stage: str, place: Place = place, dtype: str = dtype, size: str = size) -> Row:
            key = (stage, dtype, size, str(place.cancelling))
            return rows.setdefault(key, Row(stage, dtype, size, place.cancelling))

        for number, target in enumerate(controls(place)):
            for found in evaluated(place, target):
                line = row(found.stage)
                if not number:  # bounds of controls with products of their own are others
                    line.relative = max(line.relative, found.relative)
                    line.claims, line.abstentions = line.claims + found.claims, line.abstentions + found.abstentions
                if found.ratio >= line.ratio:
                    line.ratio, line.by = found.ratio, f"{_titled(target)} in {place.title}"
            if place.cancelling or (place.layers > 8 and number >= FEW):
                break  # what is not claimed is the same for all
        if not place.cancelling and place.dtype != torch.float64 and place.channels <= SERIAL and place.layers <= 8:
            for way in WAYS:
                for found in evaluated(place, Reference(place.dialect), way=way):
                    line = row(found.stage)
                    line.worst = max(0.0 if math.isnan(line.worst) else line.worst, found.ratio)
                    if way == "at random":
                        line.sampled = max(0.0 if math.isnan(line.sampled) else line.sampled, found.ratio)
    return sorted(rows.values(), key=lambda line: line.cancelling)
