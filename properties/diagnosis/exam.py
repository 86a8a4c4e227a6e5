"""The exam: the questions that are put to a target, each with the answer that a dialect predicts.

One question is one `Probe`: inputs, a few calls, and the tensors that came back. The same probe is put to the target
and to every implementation that might explain it. Inputs are those at which mistakes show: logits far from 0, starved
lines, distinct streams of unequal norms, some of them tiny, gates and biases of order 1, random cotangents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_ref import Params
from mhc_ref.packing import logit_sizes
from properties.core.case import BranchSpec, map_tensors
from properties.core.handing import storable, stored_dtype
from properties.core.implementation import parameter_dtype
from properties.core.reads import as_pre_takes
from properties.diagnosis import probe
from properties.diagnosis.probe import Probe
from properties.diagnosis.view import Frame

STACK = "a stack of 2 layers"
"""The question about expand, layers and collapse together."""


@dataclass(frozen=True)
class Source:
    """Random numbers for the inputs of one exam, in the dtypes of a frame."""

    frame: Frame
    seed: int
    dtype: torch.dtype

    def few(self, count: int) -> int:
        """That many tokens, or as many as the target takes in one call."""
        return max(1, min(count, self.frame.max_tokens))

    def normal(self, *shape: int, seed: int = 0) -> Tensor:
        """Standard normal numbers, representable in every dtype that they are used in."""
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def state(self, tokens: Sequence[int], n: int, channels: int, seed: int = 10, tame: bool = False) -> Tensor:
        """Distinct streams of unequal norms; among the tokens some of rms 1e-3, 1e-10 and 30.

        Here and below of that many channels, or of the next number above that the target takes.
        """
        channels = self.frame.width(channels)
        count = math.prod(tokens)
        x = self.normal(count, n, channels, seed=seed) * torch.linspace(0.5, 2, n, dtype=torch.float64).unsqueeze(-1)
        x = x + self.normal(count, n, 1, seed=seed + 1)
        scale = torch.tensor([1, 1e-3, 1e-10, 30, 1e-4, 0.1, 1], dtype=torch.float64)
        if not tame:
            x = x * scale.repeat(count // 7 + 1)[:count].view(-1, 1, 1)
        return x.to(self.dtype).reshape(*tokens, n, channels)

    def params(self, n: int, channels: int, seed: int = 0, scale: float = 1.0, weight: bool = True) -> Params:
        """Parameters of order 1: distinct gates, biases and norm weights."""
        channels = self.frame.width(channels)
        rows, columns = self.frame.phi_shape(n, channels)
        size = sum(logit_sizes(n, self.frame.packing))
        spread = torch.full((columns,), 1 / math.sqrt(rows), dtype=torch.float64)
        spread[size:] = 1  # these multiply no state
        parts = Params(
            self.normal(rows, columns, seed=seed + 1) * scale * spread,
            self.normal(size, seed=seed + 2) * scale,
            (0.5 + self.normal(3, seed=seed + 4).abs())[: 3 if self.frame.residual_size(n) else 2],
            0.5 + self.normal(n * channels, seed=seed + 3).square() if weight and self.frame.norm_weight else None,
        )
        made: Params = map_tensors(parts, lambda t: t.to(parameter_dtype(self.dtype)))
        return storable(made, stored_dtype(self.frame, self.dtype))

    def branch(self, channels: int, seed: int = 0) -> BranchSpec:
        """A branch that scales every channel by a number of its own."""
        return BranchSpec("scale", (1 + self.normal(self.frame.width(channels), seed=seed + 5).abs()).to(self.dtype))

    def outputs(self, *shape: int, seed: int) -> Tensor:
        """[..., C] standard normal numbers in the dtype of the state: what a branch gives, a single stream, a
        cotangent."""
        return self.normal(*shape[:-1], self.frame.width(shape[-1]), seed=seed).to(self.dtype)

    def logits(self, tokens: int, n: int, scale: float, seed: int = 0) -> Tensor:
        """What `project` takes."""
        return (scale * self.normal(tokens, *self.frame.logits_shape(n), seed=seed)).to(parameter_dtype(self.dtype))


def edges(source: Source, n: int) -> Tensor:
    """Logits at which an implementation leaves the easy ground: starved lines, huge offsets, no total support."""
    frame = source.frame
    if frame.logits_shape(n) != (n, n):
        return torch.cat([source.logits(2, n, 40.0, seed=31), source.logits(1, n, 1.0, seed=32) + 1000])
    z = source.logits(9, n, 1.0, seed=33)
    if n == 1:
        return z * 100
    depths = (8.0, 20.0, 40.0, 0.92 * frame.depth)
    for k, depth in enumerate(depths):
        (z[2 * k, 0] if k % 2 else z[2 * k, :, 0]).sub_(depth)
        (z[2 * k + 1, :, 1] if k % 2 else z[2 * k + 1, 1]).sub_(depth)
    z[8] -= 30 * torch.ones(n, n, dtype=z.dtype).triu(1)
    huge = source.logits(4, n, 2.0, seed=34) + torch.tensor([1000.0, 1000, -800, 0], dtype=z.dtype).view(-1, 1, 1)
    huge[0, 0] -= 2000
    huge[1, :, 0] -= 2000
    huge[3] += 120 * torch.eye(n, dtype=z.dtype)
    return torch.cat([z, huge])


def forward(frame: Frame, seed: int) -> list[Probe]:
    """Questions about values, in the finest dtype, the cheapest first."""
    source = Source(frame, seed, frame.dtype)
    usable = [n for n in frame.streams if n <= 5 and frame.residual_size(n) <= 25] or list(frame.streams[:1])
    first, second = usable[0], usable[1] if len(usable) > 1 else usable[0]
    found = [*_parts(source, first, second)]
    if "mappings" in frame.own:
        cases = [(first, 9, 1.0), (second, 3, 3.0)] + [(n, 4, 1.0) for n in usable[2:3]]
        for n, channels, scale in cases:
            x = source.state((source.few(7),), n, channels, seed=50 + n)
            params = source.params(n, channels, seed=60 + n, scale=scale)
            found.append(probe.mappings(f"mappings of {n} streams of {channels} channels", x, params, frame.emits))
        if frame.dialect.has_rms_eps:  # without an eps it is 0 / 0
            x, params = source.state((source.few(2),), first, 3, seed=65, tame=True), source.params(first, 3, seed=66)
            x[-1] = 0
            found.append(probe.mappings("mappings of a zero state", x, params, frame.emits))
        if frame.dialect.centred:  # what loses digits with the mean shows where that is large
            x = 1000 + source.state((source.few(3),), first, 9, seed=67, tame=True)
            name = "mappings of a state with a large mean"
            found.append(probe.mappings(name, x, source.params(first, 9, seed=68), frame.emits))
    if "block" in frame.offered:
        for n, channels in ((first, 9), (second, 4)):
            x, params = (
                source.state((source.few(5),), n, channels, seed=70 + n),
                source.params(n, channels, seed=80 + n),
            )
            branch = source.branch(channels, seed=90 + n)
            found.append(probe.block(f"a block of {n} streams of {channels} channels", x, params, branch))
        if frame.dialect.has_rms_eps and "mappings" not in frame.own:
            x, params = source.state((source.few(2),), first, 3, seed=95, tame=True), source.params(first, 3, seed=96)
            x[-1] = 0
            found.append(probe.block("a block of a zero state", x, params, source.branch(3, seed=97)))
    return [*found, *_deep(source, first)]


def _parts(source: Source, first: int, second: int) -> Iterator[Probe]:
    """The projection, and what is done with given mappings."""
    frame, dtype, four = source.frame, source.frame.parameter_dtype, source.few(4)
    if "project" in frame.own or ("mappings" in frame.own and "res" in frame.emits):
        few = source.few(5) if "project" in frame.own else 2  # without a projection by itself every matrix costs a call
        for n, scale in ((first, 1.0), (second, 3.0), (first, 8.0)):
            z = source.logits(few, n, scale, seed=int(scale))
            yield probe.project(f"h_res of logits of size {scale:g}, n = {n}", frame.dtype, z)
        hard = edges(source, first)
        if "project" not in frame.own and len(hard) > 8:
            hard = hard[[1, 2, 6, 8]]
        hard = hard[: source.few(len(hard))]
        yield probe.project(f"h_res of starved, huge and triangular logits, n = {first}", frame.dtype, hard)
    if "pre" in frame.offered:
        x = source.state((four,), first, 9, tame=True)
        gates = source.normal(four, first, seed=41).to(dtype)
        yield probe.pre("h_pre x", x, as_pre_takes(gates, x, frame.packing))
    if "post" in frame.offered:
        for size, seed in ((1.0, 43), (1e3, 44)):
            x, y = size * source.state((four,), first, 9, tame=True), source.outputs(four, 9, seed=seed)
            h_post = source.normal(four, first, seed=seed + 1).to(dtype)
            h_res = source.normal(four, first, first, seed=seed + 2).to(dtype)
            yield probe.post(f"A x + h_post y for x of size {size:g}", (x, y, h_post, h_res))


def _deep(source: Source, n: int) -> Iterator[Probe]:
    """Layers, and how the streams begin and end."""
    frame = source.frame

    def head(seed: int) -> tuple[Params, ...]:
        return (source.params(n, 4, seed=seed),) if frame.head else ()

    if "layers" in frame.offered:
        many = tuple(source.params(n, 4, seed=100 + 10 * k) for k in range(3))
        branches = tuple(source.branch(4, seed=140 + k) for k in range(3))
        yield probe.layers("3 layers", source.state((source.few(4),), n, 4, seed=150, tame=True), many, branches)
    if "expand" in frame.own:
        yield probe.expand("expand", source.outputs(source.few(5), 4, seed=160), n)
    if "collapse" in frame.own:
        yield probe.collapse("collapse", source.state((source.few(5),), n, 4, seed=170, tame=True), *head(175))
    if ends_as_declared(frame):
        params = tuple(source.params(n, 4, seed=180 + 10 * k) for k in range(2))
        branches = tuple(source.branch(4, seed=200 + k) for k in range(2))
        h = source.outputs(source.few(4), 4, seed=210)
        yield probe.stack(STACK, h, n, (*params, *head(200)), branches)


def ends_as_declared(frame: Frame) -> bool:
    """Whether the end of a stack says something about the target: what is derived collapses as it was declared."""
    return "stack" in frame.own or ("stack" in frame.offered and "collapse" in frame.own)
