"""The sums of a target whose order can be read off: logits over channels, streams that are read, gradients over tokens.

The order is free and nothing is held against it. It tells kernels apart, and explains why two of them differ in bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import dynamic_of, gate_of
from properties.core.implementation import Implementation
from properties.core.norms import norm_of
from properties.core.reads import mapping_shapes, read_of
from properties.core.trial import wide
from properties.diagnosis.budget import Budget
from properties.diagnosis.summation import Summed, Unreadable, chains, one, read
from properties.diagnosis.view import Frame, Silent, Unanswered, View
from properties.guards.faults import TargetFault
from properties.guards.surroundings import told, usual
from properties.targets.process.client import Client

TERMS = 128
"""Channels, and tokens, that are summed over."""

SQUARES = 4096
"""Channels whose squares are summed: so many are seen in the last bits of the root."""

SECONDS = 2.0
"""Of computing, for one sum."""

LARGE = 2.0**20
"""The entries of a state in whose mean square any eps is lost: normalised it is 1, exactly."""

BLUR = 8
"""Terms by which a number of survivors may be off, for the roundings after the sum."""

WIDE = 64
"""Channels of a state whose streams are read: as many as fill any vector."""


@told()
@usual()
def sums_of(implementation: Implementation, dialect: Dialect | None = None, device: str = "cpu") -> tuple[Summed, ...]:
    """How an implementation sums, as far as its methods show it; nothing of one whose parts cannot be called.

    Arguments:
        dialect: whose gates it has; what it declares if not given.
    """
    if (dtype := _dtype(implementation)) is None:
        return (Summed("any sum", 0, why="numbers that absorb one another are beyond the range of its states"),)
    frame = Frame.of(implementation, dtype, device)
    if not {"mappings", "pre"} & frame.own:
        return ()
    try:
        reader = _Reader(View(implementation, frame), dialect or implementation.dialect)
        return tuple(found for one in (reader.logits, reader.squares, reader.read, reader.tokens) for found in one())
    except Unanswered:
        return ()


def _dtype(implementation: Implementation) -> torch.dtype | None:
    """The dtype of the states: one with the exponents of float32, that of the contract first."""
    order = (torch.float32, torch.bfloat16, torch.float64)
    return next((dtype for dtype in order if dtype in tuple(implementation.dtypes)), None)


class _Reader:
    """Questions that have sums of given numbers as answers."""

    def __init__(self, view: View, dialect: Dialect) -> None:
        self.view, self.frame, self.dialect = view, view.frame, dialect
        favour = [n for n in self.frame.streams if n == 4]
        self.n = favour[0] if favour else self.frame.n
        shown = "mappings" in self.frame.own and "pre" in self.frame.emits
        self.emits = shown and read_of(dialect).plain  # else h_pre shows no logits

    def logits(self) -> list[Summed]:
        """The products with phi, of one token, by columns of phi."""
        of = "the logits' sum over channels"
        if not self.emits:
            return [Summed(of, 0, why="`mappings` does not return h_pre")]
        n, shared = self.n, self.frame.shared
        channels = self.frame.width(TERMS if shared else max(1, TERMS // n))
        count = channels if shared else n * channels
        used = 1 if shared or gate_of(self.dialect.pre).relative else n
        x = torch.full((1, n, channels), LARGE, dtype=self.frame.dtype)
        still = self.view.static(n, channels)
        strength = 4 / (count * one(count))  # logits from 0 to 4
        still = still._replace(alpha=strength * torch.ones_like(still.alpha))

        def ask(masks: Tensor) -> Tensor:
            phi = torch.zeros_like(still.phi)
            phi[:, : len(masks)] = (masks.T * one(count)).to(phi)
            return self._logits(self.view.mappings(x, still._replace(phi=phi))[0])[0, : len(masks)]

        return [self._read(of, count, used, ask)]

    def squares(self) -> list[Summed]:
        """The mean of squares of one token. None is negative: they only show how many are lost one by one beside a
        large one, in the last bits of a logit."""
        over = norm_of(self.dialect).OVER
        if not self.emits or over is None or not dynamic_of(self.dialect).passes:
            return []
        n, alone = self.n, over == (-1,)
        channels = self.frame.width(SQUARES if alone else SQUARES // n)
        count = channels if alone else n * channels
        still = self.view.static(n, channels)

        def survivors(place: int) -> int:
            x = torch.full((n * channels,), LARGE * 2.0**-12)  # squares are half an ulp of that of the large one
            x[place] = LARGE
            phi = torch.zeros_like(still.phi)
            phi[place] = -4 / count**0.5
            h_pre = self.view.mappings(x.view(1, n, channels).to(self.frame.dtype), still._replace(phi=phi))[0]
            logit = float(self._logits(h_pre)[0, 0])
            return round(((4 / logit) ** 2 - 1) * 2**24) if logit else -count

        of = "the sum of squares"
        try:
            found = [survivors(place) for place in (0, count - 1)]
            if not all(-BLUR <= one < count + BLUR for one in found):
                raise Unreadable("what survives beside a large term is no number of terms")
            return [Summed(of, count, chains(count, found, BLUR))]
        except (TargetFault, Silent, Unreadable, OverflowError, ValueError) as reason:
            return [Summed(of, count, why=str(reason))]

    def read(self) -> list[Summed]:
        """The streams, weighed by ones; in every channel the same, of which those at an end may be summed otherwise."""
        if "pre" not in self.frame.own or (n := max(self.frame.streams)) < 3:
            return []
        shape = mapping_shapes((1, n, self.frame.width(WIDE)), self.dialect)[0]
        weights = torch.ones(shape, dtype=self.frame.parameter_dtype)

        def ask(masks: Tensor) -> Tensor:
            x = (masks[0] * one(n)).to(self.frame.dtype).view(1, n, 1).expand(1, n, self.frame.width(WIDE)).contiguous()
            return wide(self.view.call("pre", x, weights))[0, :1]

        return [self._read("the read's sum over streams", n, 1, ask)]

    def tokens(self) -> list[Summed]:
        """The gradients of bias and phi, for cotangents of h_pre: sums over tokens."""
        count = min(TERMS, self.frame.max_tokens)
        of = "the sum over tokens for the gradient of"
        if not self.emits or not self.frame.differentiable or count < 3:
            return []
        n = self.n
        used = 1 if self.frame.shared or gate_of(self.dialect.pre).relative else n
        x = torch.full((count, n, self.frame.width(2)), LARGE, dtype=self.frame.dtype)
        still = self.view.static(n)

        def ask(masks: Tensor, name: str) -> Tensor:
            given = still._replace(**{name: getattr(still, name).clone().requires_grad_()})
            bar = torch.zeros(count, n, dtype=torch.float64)
            bar[:, : len(masks)] = masks.T * one(count)
            outputs = self.view.mappings(x, given)[:1]
            gradient = wide(self.view.pulled(outputs, [getattr(given, name)], [bar])[0])
            return (gradient if name == "bias" else gradient[0])[: len(masks)]

        return [self._read(f"{of} {name}", count, used, lambda m, k=name: ask(m, k)) for name in ("bias", "phi")]

    def _logits(self, h_pre: Tensor) -> Tensor:
        gate = gate_of(self.dialect.pre)
        found = gate.inverse(wide(h_pre) - self.dialect.pre_eps, self.dialect)
        if found is None:
            raise Unreadable(f"the gates are {gate.words}, of which the logits cannot be told")
        return found - found[..., -1:] if gate.relative else found

    def _read(self, of: str, count: int, at_once: int, ask: Callable[[Tensor], Tensor]) -> Summed:
        """One sum, of which so many can be asked for in one call, in units of what a term gives.

        A product may sum its columns in several orders: where they do not fit together, one is asked for at a time.
        """
        budget, scale = Budget(SECONDS, isinstance(self.view.implementation, Client)), 0.0

        def sums(masks: Tensor) -> Tensor:
            nonlocal scale
            if not scale:
                whole = float(ask(torch.ones(1, count, dtype=torch.float64))[0])
                scale = whole / count
                if not scale or scale != scale:
                    raise Unreadable("a sum of equal numbers is 0, or no number")
            found: list[Tensor] = []
            for some in masks.split(at_once):
                if budget.spent:
                    raise Unreadable(f"it takes more than {SECONDS:g} seconds")
                found.append(ask(some) / scale)
            return torch.cat(found)

        try:
            found = read(of, count, sums)
            return self._read(of, count, 1, ask) if not found.order and at_once > 1 and not budget.spent else found
        except (TargetFault, Silent) as fault:
            return Summed(of, count, why=str(fault))
