"""The input of a witness, made of what a mutant's conditions ask: sizes that fit, changed values, strides, modes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from mhc_ref.packing import params_shapes
from properties.catalogue.mutants import Spec
from properties.catalogue.mutants.moments import Wish
from properties.core.case import BranchSpec
from properties.core.family import end_of
from properties.core.truth import present


@dataclass(frozen=True)
class Sizes:
    """Tokens, channels, streams and layers of a witness."""

    T: int
    C: int
    n: int
    L: int


@dataclass
class Call:
    """One call of a method: its tensors, in the order in which they are differentiated, and the rest."""

    method: str
    x: Tensor
    params: tuple[Params, ...] = ()
    more: tuple[Tensor, ...] = ()
    branches: tuple[BranchSpec, ...] = ()

    @property
    def tensors(self) -> list[Tensor]:
        """Everything that is given."""
        return [self.x, *self.more, *(part for one in self.params for part in present(one))]

    def run(self, target: Any, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs of a target, for these tensors in the place of its own."""
        rest = iter(tensors)
        x, more = next(rest), [next(rest) for _ in self.more]
        params = [Params(*(None if part is None else next(rest) for part in one)) for one in self.params]  # pyright: ignore[reportArgumentType]
        if self.method == "layers":
            return (target.layers(x, params, self.branches),)
        if self.method == "collapse":
            return (target.collapse(x, *params),)
        found = getattr(target, self.method)(x, *more, *params)
        return (found,) if isinstance(found, Tensor) else tuple(found)


# Sizes


def _first(fits: Callable[[int], bool], preferred: Iterable[int], most: int) -> list[int]:
    """A few numbers that fit: preferred ones, the smallest of all, and a larger one."""
    order = dict.fromkeys((*preferred, *range(1, most)))
    found = list(itertools.islice((v for v in order if fits(v)), 4))
    for least in (70, 300, 5000):
        found += list(itertools.islice((v for v in range(least, most) if fits(v)), 1))
    return list(dict.fromkeys(found))


def sizes_of(spec: Spec, axes: int = 1) -> Sizes | None:
    """The smallest sizes at which all that is asked of them holds; None where there are none."""

    def every(variable: str) -> Callable[[int], bool]:
        asked = [one.fits for one in spec.conditions if one.variable == variable and one.fits is not None]
        if spec.position is not None and spec.position.variable == variable:
            asked.append(spec.position.fits)
        return lambda v: all(fits(v) for fits in asked)

    tokens = [1] if axes == 0 else _first(every("T"), (3, 5), 9000)
    depths = [v for v in range(1, 70) if every("L")(v)]
    streams = sorted((n for n in spec.streams if every("n")(n)), key=lambda n: (n != 4, n < 2, n))
    relations = [one for one in spec.conditions if one.kind in ("sizes", "position") and one.fits is None]
    ks = every("K")
    found: list[tuple[int, Sizes]] = []
    for n in streams:
        for C in _first(lambda v, n=n: every("C")(v) and ks(n * v), (5, 9), 9000):
            for T in dict.fromkeys((*tokens, *(v for v in (n, C) if every("T")(v) and axes))):
                if axes == 0 and not every("T")(T):
                    continue
                for L in depths:
                    layers = [SimpleNamespace(T=T, C=C, n=n, K=n * C, L=L, layer=layer) for layer in range(L)]
                    if any(all(one.holds(m) for one in relations) for m in layers):  # pyright: ignore[reportArgumentType]
                        small = (n < 3) + (C < 3) + (T < 3)  # where few things differ, much is hidden
                        found.append((T * n * C * L + 2000 * small, Sizes(T, C, n, L)))
                        break
    return min(found, key=lambda one: one[0])[1] if found else None


# Inputs


def _noise(made: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=made, dtype=torch.float64)


def _of_few(made: torch.Generator, tokens: int, *shape: int) -> Tensor:
    """Tokens of three kinds, in any order: mpmath computes each once."""
    kinds = _noise(made, 3, *shape)
    return kinds[(torch.randint(0, 3, (tokens,), generator=made) if tokens > 3 else torch.arange(tokens))]


def call_of(spec: Spec, wish: Wish, s: Sizes, number: int, scale: float) -> Call:
    """The inputs of a call, other ones for every number."""
    made = torch.Generator().manual_seed(1000 * number + 17)
    state = spec.dtype
    parameter = torch.float64 if state == torch.float64 else torch.float32
    of_logits = spec.stage in ("h_pre", "h_post", "h_res", "project")
    method = _method(spec)

    def changed(value: Tensor) -> Tensor:
        for change in wish.values:
            value = change(value)
        return value

    def placed(value: Tensor, kept: int) -> Tensor:
        tokens = value.shape[: value.ndim - kept]
        shape = {0: (), 2: (1, *tokens), 3: (1, 1, *tokens)}.get(wish.axes, tokens)
        if wish.axes == 2 and s.T % 2 == 0:
            shape = (2, s.T // 2)
        return value.reshape(*shape, *value.shape[value.ndim - kept :])

    def strided(value: Tensor) -> Tensor:
        if wish.strided == 1:
            return value.mT.contiguous().mT if min(value.shape[-2:]) > 1 else value.repeat_interleave(2, 0)[::2]
        if wish.strided == 2:
            return torch.cat([value.new_zeros(1), value.flatten()])[1:].view(value.shape)
        return value

    if method == "project":
        logits = changed(scale * 2 * _of_few(made, s.T, s.n, s.n)).to(parameter)
        return Call("project", strided(placed(logits, 2)))
    x = scale * _of_few(made, s.T, s.n, s.C)
    x = strided(placed((x if of_logits else changed(x)).to(state), 2))
    if method == "pre":
        return Call("pre", x, more=(placed(_of_few(made, s.T, s.n).to(parameter), 1),))
    if method == "post":
        y, h = _of_few(made, s.T, s.C).to(state), _of_few(made, s.T, s.n).to(parameter)
        return Call("post", x, more=(placed(y, 1), placed(h, 1), placed(_of_few(made, s.T, s.n, s.n).to(parameter), 2)))

    def params() -> Params:
        shapes = params_shapes(s.n, s.C, spec.dialect)
        small = 1e-3 if s.L > 2 else 1.0
        phi = _noise(made, *shapes.phi) / math.sqrt(shapes.phi[0])
        bias = _noise(made, *shapes.bias) * (1.0 if scale == 1 else 4.0)
        alpha = small * (0.6 + 0.4 * torch.rand(*shapes.alpha, generator=made, dtype=torch.float64))
        if of_logits and wish.values:
            phi = phi * (0.0 if number % 2 else 1e-3)
            parts = list(bias.split([s.n, s.n, bias.shape[0] - 2 * s.n]))
            which = {"h_pre": 0, "h_post": 1}.get(spec.stage, 2)
            logits = parts[which].view(s.n, s.n) if which == 2 else parts[which]
            parts[which] = changed(logits).flatten()
            bias = torch.cat(parts)
        plain = wish.weighted is False or (wish.weighted is None and number % 2 == 0)
        weight = None if plain else (1 + 0.5 * _noise(made, s.n * s.C)).to(parameter)
        return Params(phi.to(parameter), bias.to(parameter), alpha.to(parameter), weight)

    if method == "layers":
        branches = tuple(BranchSpec("scale", torch.tensor(0.5, dtype=state)) for _ in range(s.L))
        return Call("layers", x, tuple(params() for _ in range(s.L)), branches=branches)
    if method == "collapse":
        return Call("collapse", x, (params(),) if end_of(spec.dialect).HEAD else ())
    return Call("mappings", x, (params(),))


def _method(spec: Spec) -> str:
    deep = any(one.kind == "position" or one.variable == "L" for one in spec.conditions)
    wide_ones = any(
        one.variable in ("C", "K") or one.sort.startswith(("equal sizes", "a threshold of T C"))
        for one in spec.conditions
    )
    if spec.stage == "layers" or (deep and spec.stage != "collapse"):
        return "layers"
    if spec.stage in ("h_res", "project"):
        through = wide_ones or any(
            one.sort in ("frozen parameters", "no norm weight", "a norm weight") for one in spec.conditions
        )
        return "mappings" if through or spec.dtype != torch.float32 else "project"
    return {"read": "pre", "write": "post", "pre": "pre", "post": "post", "collapse": "collapse"}.get(
        spec.stage, "mappings"
    )
