"""Whether a gradient or a circumstance is wrong by itself: a target against itself, where its values are unexplained.

A gradient has to be the slope of the target's own values. A call in any circumstance has to give what the target gives
token by token, each in storage of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from properties.core.implementation import Implementation
from properties.diagnosis.answers import Answer, answer, roughly
from properties.diagnosis.explanation import Search
from properties.diagnosis.units import LEVELS, Unit
from properties.diagnosis.view import View
from properties.guards.faults import TargetFault

CLEARLY = 10.0
"""Units of what rounding explains; what the target amplifies is not known."""

_STEPS = {torch.float64: (1e-5, 3e-5, 1e-4), torch.float32: (3e-3, 1e-2, 5e-2)}
"""For a dtype two steps, relative to the size of what is moved, and the error of a slope that they leave room for."""


class _Plain(Implementation):
    """A target that is asked one token at a time."""

    def __init__(self, target: Implementation) -> None:
        self.name, self.dialect, self.target = target.name, target.dialect, target

    def project(self, logits: Tensor) -> Tensor:
        axes = logits.ndim - 1 if logits.ndim < 3 else 2
        tokens = logits.shape[: logits.ndim - axes]
        stacked = logits.reshape(math.prod(tokens), *logits.shape[-axes:])
        each = [self.target.project(one.clone().unsqueeze(0)) for one in stacked]
        return torch.cat(each).reshape(*tokens, *each[0].shape[1:]) if each else self.target.project(logits)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        each = [self.target.mappings(one.clone().unsqueeze(0), params) for one in x.reshape(-1, *x.shape[-2:])]
        if not each:
            return self.target.mappings(x, params)
        parts = [torch.cat(part).reshape(*x.shape[:-2], *part[0].shape[1:]) for part in zip(*each, strict=True)]
        return Mappings(*parts)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        given = [one.reshape(-1, *one.shape[x.ndim - 2 :]) for one in (x, y, h_post, h_res)]
        each = [self.target.post(*(part.clone().unsqueeze(0) for part in one)) for one in zip(*given, strict=True)]
        return torch.cat(each).reshape(x.shape) if each else x

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        """What every token's branch reads first, the branch of all of it, and every token again with what it gave."""
        tokens = list(x.reshape(-1, *x.shape[-2:]))
        if not tokens:
            return self.target.block(x, params, branch)
        read: list[Tensor] = []

        def reads(u: Tensor) -> Tensor:
            read.append(u.detach().clone())
            return u

        with torch.enable_grad():
            for one in tokens:
                self.target.block(one.clone().unsqueeze(0), params, reads)
            y = branch(torch.cat(read[: len(tokens)]).reshape(*x.shape[:-2], -1)).reshape(len(tokens), 1, -1)
            each = [
                self.target.block(one.clone().unsqueeze(0), params, lambda _, given=given: given.clone())
                .detach()
                .clone()
                for one, given in zip(tokens, y, strict=True)
            ]
        return torch.cat(each).reshape(x.shape)


def alone(unit: Unit, view: View, search: Search) -> str:
    """The kind of failure of a gradient or a circumstance that is wrong by itself; "" where it is not, or not seen."""
    if unit.level == LEVELS.index("gradient"):
        return "value" if unit.kind == "value" and _no_slope(unit.given, view) else ""
    if unit.level == LEVELS.index("execution"):
        return _unlike_itself(unit.given, view, search)
    return ""


def _unlike_itself(given: Answer, view: View, search: Search) -> str:
    once = answer(given.probe, View(view.implementation, view.frame))
    if not once.error and not search.sheet.alike(once, given):
        return "randomness"
    plain = answer(given.probe, View(_Plain(view.implementation), view.frame))
    if given.error or plain.error or not given.values or not plain.values:
        return ""
    if len(plain.values) != len(given.values):
        return ""
    expected = search.predictions.of(given.probe, search.sheet.base)
    bounds = [one.error for one in expected or ()]
    for k, (a, b) in enumerate(zip(given.values, plain.values, strict=True)):
        error = roughly(a) + (
            bounds[k].nan_to_num(0, 0, 0) if bounds and k < len(bounds) and bounds[k].shape == a.shape else 0
        )
        if a.shape != b.shape or bool(((a.double() - b.double()).abs() > CLEARLY * error).any()):
            return "value"
    return ""


def _no_slope(given: Answer, view: View) -> bool:
    """Whether a gradient is not the slope of the target's own values, along a random direction for each input."""
    probe = given.probe
    *inputs, cotangent = probe.inputs
    if probe.of not in ("project", "block") or probe.dtype not in _STEPS:
        return False
    x, *rest = inputs
    parts: list[Any] = list(rest[0]) if rest else []
    leaves = [x, *(part for part in parts if part is not None)]
    if len(leaves) != len(given.values):
        return False

    def value(k: int, moved: Tensor) -> float:
        found = [moved if j == k else one.clone() for j, one in enumerate(leaves)]
        asked = View(view.implementation, view.frame)
        out = asked.block(found[0], Params(*found[1:]), rest[1])[-1] if rest else asked.project(found[0])
        return float((out.detach().double() * cotangent.double()).sum())

    generator = torch.Generator().manual_seed(5)
    try:
        return any(
            _differs(leaf, given.values[k], lambda moved, k=k: value(k, moved), generator, probe.dtype)
            for k, leaf in enumerate(leaves)
        )
    except TargetFault:  # it has raised in the exam too, which says so
        return False


def _differs(
    leaf: Tensor, gradient: Tensor, value: Callable[[Tensor], float], generator: torch.Generator, dtype: torch.dtype
) -> bool:
    if not bool(torch.isfinite(gradient).all()):
        return False  # of another kind, which an unexplained value may have for a reason
    direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
    first, second, room = _STEPS[dtype]
    size = float(leaf.double().square().mean().sqrt())
    told = float((gradient.double() * direction).sum())
    scale = float(gradient.double().norm() * direction.norm())

    def slope(step: float) -> float:
        ends = [(leaf.double() + sign * step * size * direction).to(leaf.dtype) for sign in (1, -1)]
        return (value(ends[0]) - value(ends[1])) / (2 * step * size)

    slopes = slope(first), slope(second)
    near = room * (max(map(abs, slopes)) + scale)
    if abs(slopes[0] - slopes[1]) > near:  # a kink, or noise: nothing is told
        return False
    return not all(abs(told - one) <= CLEARLY * near for one in slopes)
