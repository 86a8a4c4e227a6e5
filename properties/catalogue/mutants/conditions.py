"""Where a mutant is wrong: conditions on sizes, values, modes, history, position and chance, each drawn by seed.

A condition is asked at a stage, of what is known there (`Moment`). It says itself in words, and knows what a witness
needs for it to hold: sizes that fit, a change of the values, a mode, a call before.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from properties.catalogue.mutants.moments import Condition, Moment, Variable, Wish

# Sizes

_TOKENS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
_CHANNELS = (16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 5120, 7168)
_PRODUCTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 20480, 28672)
_DEPTHS = (1, 2, 3, 4, 6, 8, 9, 12, 16, 23, 32, 48)
_STREAMS = (2, 3, 4, 5, 8)


def _steps(variable: Variable) -> tuple[int, ...]:
    return {"T": _TOKENS, "C": _CHANNELS, "K": _PRODUCTS, "L": _DEPTHS, "n": _STREAMS}[variable]


def _one_size(variable: Variable, sort: str, text: str, fits: Callable[[int], bool]) -> Condition:
    def holds(m: Moment) -> bool:
        value = getattr(m, variable)
        return value > 0 and fits(value)

    return Condition("sizes", f"{sort} of {variable}", text, holds, variable=variable, fits=fits)


def _window(chance: random.Random, variable: Variable) -> Condition:
    steps = _steps(variable)
    place = chance.randrange(len(steps) - 1)
    low, high = steps[place] + chance.choice((0, 1)), steps[place + 1] - chance.choice((0, 1))
    low, high = min(low, high), max(low, high)
    return _one_size(variable, "a window", f"{low} <= {variable} <= {high}", lambda v: low <= v <= high)


def _above(chance: random.Random, variable: Variable) -> Condition:
    least = chance.choice(_steps(variable)) + chance.choice((0, 1))
    return _one_size(variable, "a threshold", f"{variable} >= {least}", lambda v: v >= least)


def _congruence(chance: random.Random, variable: Variable) -> Condition:
    modulus = chance.choice((2, 3, 4) if variable in "nL" else (2, 4, 8, 16, 32, 64, 128, 3, 5, 6, 7, 12))
    rest = chance.choice((0, 0, 0, 1, modulus - 1))
    return _one_size(
        variable, "a congruence", f"{variable} % {modulus} == {rest}", lambda v: v % modulus == rest and v >= 2
    )


def _tail(chance: random.Random, variable: Variable) -> Condition:
    """There is at least one full group, and a tail behind it."""
    group = chance.choice((4, 8, 16, 32, 64, 128, 256, 512))
    text = f"{variable} > {group} and {variable} % {group} != 0"
    return _one_size(variable, "a tail", text, lambda v: v > group and v % group != 0)


def _equal_sizes(chance: random.Random, variable: Variable) -> Condition:
    one, other = chance.choice((("C", "n"), ("T", "n"), ("T", "C")))

    def holds(m: Moment) -> bool:
        return getattr(m, one) == getattr(m, other) > 1

    return Condition("sizes", "equal sizes", f"{one} == {other}", holds)


def _large_product(chance: random.Random, variable: Variable) -> Condition:
    most = chance.choice((1024, 4096, 16384, 65536))
    return Condition("sizes", "a threshold of T C", f"T * C > {most}", lambda m: most < m.T * m.C)


def size(chance: random.Random, variables: tuple[Variable, ...]) -> Condition:
    """A condition on one of these sizes, or on a relation of two."""
    variable = chance.choice(variables)
    kinds = [_window, _window, _above, _congruence, _tail] if variable in ("T", "C", "K") else [_above, _congruence]
    if {"T", "C", "n"} <= set(variables):
        kinds += [_equal_sizes, _large_product]
    return chance.choice(kinds)(chance, variable)


# Values


def _where(kind: str, text: str, holds: Callable[[Tensor], bool], change: Callable[[Tensor], Tensor]) -> Condition:
    def wish(wish: Wish) -> None:
        wish.values.append(change)

    return Condition("values", kind, text, lambda m: m.given.numel() > 0 and holds(m.given.detach()), wish)


def _largest(value: Tensor) -> float:
    return float(value.abs().max())


def _scaled_to(value: Tensor, largest: float) -> Tensor:
    return value * (largest / max(_largest(value), 1e-30))


def of_state(chance: random.Random) -> Condition:
    """A condition on the state that a stage is given."""
    kind = chance.choice(("above", "below", "zero", "equal", "sign", "spread"))
    if kind == "above":
        most = chance.choice((10.0, 100.0, 1e3, 1e4, 65504.0, 1e6, 1e10))
        return _where(
            "a large state", f"max |x| > {most:g}", lambda x: _largest(x) > most, lambda x: _scaled_to(x, 4 * most)
        )
    if kind == "below":
        least = chance.choice((1e-1, 1e-3, 1e-5, 1e-8, 1e-11))
        return _where(
            "a small state", f"max |x| < {least:g}", lambda x: _largest(x) < least, lambda x: _scaled_to(x, least / 4)
        )
    if kind == "zero":

        def silenced(x: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(x[..., :1, :]), x[..., 1:, :]], -2)

        def some_zero(x: Tensor) -> bool:
            rows = (x == 0).all(-1)
            return bool((rows.any(-1) & ~rows.all(-1)).any())

        return _where("a zero stream", "a stream is 0 beside one that is not", some_zero, silenced)
    if kind == "equal":

        def doubled(x: Tensor) -> Tensor:
            return torch.cat([x[..., 1:2, :], x[..., 1:, :]], -2)

        def some_equal(x: Tensor) -> bool:
            alike = (x[..., 1:, :] == x[..., :-1, :]).all(-1)
            return bool((alike.any(-1) & ~alike.all(-1)).any())

        return _where("equal streams", "two neighbouring streams are equal and not all", some_equal, doubled)
    if kind == "sign":
        return _where(
            "a negative state", "every entry of x is negative", lambda x: bool((x < 0).all()), lambda x: -x.abs() - 1e-3
        )
    ratio = chance.choice((1e3, 1e5, 1e8))

    def uneven(x: Tensor) -> bool:
        sizes = x.abs().amax(-1)
        return bool((sizes.amax(-1) > ratio * sizes.amin(-1)).any()) and bool((sizes > 0).all())

    def stretched(x: Tensor) -> Tensor:
        return torch.cat([x[..., :1, :] / (8 * ratio), x[..., 1:, :]], -2)

    return _where("streams of two scales", f"two streams differ by a factor above {ratio:g}", uneven, stretched)


def of_logits(chance: random.Random) -> Condition:
    """A condition on the logits that a stage is given."""
    kind = chance.choice(("above", "above", "below", "low", "equal"))
    if kind in ("above", "low"):
        far = chance.choice((5.0, 10.0, 17.0, 30.0, 50.0, 80.0, 88.0, 104.0, 200.0))
        sign = 1 if kind == "above" else -1

        def moved(z: Tensor) -> Tensor:
            changed = z.clone()
            changed[..., -1] += sign * 1.25 * far - changed[..., -1]
            return changed

        text = f"a logit above {far:g}" if sign > 0 else f"a logit below {-far:g}"
        return _where(
            "a large logit" if sign > 0 else "a low logit", text, lambda z: bool((sign * z > far).any()), moved
        )
    if kind == "below":
        least = chance.choice((0.5, 0.1, 1e-2))
        return _where(
            "small logits",
            f"every |logit| < {least:g}",
            lambda z: _largest(z) < least,
            lambda z: _scaled_to(z, least / 2),
        )

    def tied(z: Tensor) -> Tensor:
        return torch.cat([z[..., 1:2], z[..., 1:]], -1)

    def some_tie(z: Tensor) -> bool:
        alike = z[..., 1:] == z[..., :-1]
        return bool((alike.any(-1) & ~alike.all(-1)).any())

    return _where("tied logits", "two neighbouring logits are equal and not all", some_tie, tied)


# Modes


def _mode(sort: str, text: str, holds: Callable[[Moment], bool], **wanted: object) -> Condition:
    def wish(wish: Wish) -> None:
        for name, value in wanted.items():
            setattr(wish, name, value)

    return Condition("modes", sort, text, holds, wish)


def _offset(m: Moment) -> bool:
    given = m.given
    return given.data_ptr() % 16 != 0 if given.numel() else False


def modes() -> dict[str, Condition]:
    """Every condition on a mode, by its sort."""
    found = [
        _mode("no gradients", "under no_grad", lambda m: not torch.is_grad_enabled(), grad=False),
        _mode("gradients", "with gradients enabled", lambda m: torch.is_grad_enabled(), grad=True),
        _mode("inference mode", "in inference mode", lambda m: torch.is_inference_mode_enabled(), inference=True),
        _mode("compiled", "compiled", lambda m: torch.compiler.is_compiling(), compiled=True),
        _mode("strides", "the input is not contiguous", lambda m: not m.given.is_contiguous(), strided=1),
        _mode("alignment", "the input is not aligned to 16 bytes", _offset, strided=2),
        _mode("one token axis", "without a token axis", lambda m: m.given.ndim == _axes(m), axes=0),
        _mode("two token axes", "with two token axes", lambda m: m.given.ndim == _axes(m) + 2, axes=2),
        _mode("three token axes", "with three token axes", lambda m: m.given.ndim == _axes(m) + 3, axes=3),
        _mode(
            "frozen parameters",
            "the input asks for gradients and phi does not",
            lambda m: m.given.requires_grad and m.phi is not None and not m.phi.requires_grad,
            grad=True,
            frozen=True,
        ),
        _mode(
            "no norm weight", "without a norm weight", lambda m: m.phi is not None and not m.weighted, weighted=False
        ),
        _mode("a norm weight", "with a norm weight", lambda m: m.weighted, weighted=True),
        _mode("bfloat16", "the state is bfloat16", lambda m: _stored(m) == torch.bfloat16, dtype=torch.bfloat16),
    ]
    return {one.sort: one for one in found}


def _axes(m: Moment) -> int:
    """How many axes of what is given are no token axes."""
    return 1 if m.stage in ("h_pre", "h_post") else 2


def _stored(m: Moment) -> torch.dtype:
    return m.given.dtype if m.state is None else m.state.dtype


# History


def _past(sort: str, text: str, holds: Callable[[Moment], bool], grad: bool | None = None) -> Condition:
    def wish(wish: Wish) -> None:
        wish.earlier = True
        wish.grad = grad if wish.grad is None else wish.grad

    return Condition("history", sort, text, holds, wish)


def history(chance: random.Random) -> Condition:
    """A condition on the calls before."""
    kind = chance.choice(("first", "every", "other shape", "first of shape", "later", "backward", "mode", "long"))
    if kind == "first":
        return _past("the first call", "in the first call", lambda m: not m.history.calls[m.stage])
    if kind == "every":
        k = chance.choice((2, 3, 4, 5, 7, 8, 16))
        return _past("every k-th call", f"in every call number {k}", lambda m: m.history.calls[m.stage] % k == k - 1)
    if kind == "other shape":

        def other(m: Moment) -> bool:
            before = m.history.last.get(m.stage)
            return before is not None and before[0] != m.given.shape and bool(m.history.shapes[m.stage, m.given.shape])

        return _past("after another shape", "after another shape, for one that was met", other)
    if kind == "first of shape":
        return _past(
            "the first of a shape",
            "in the first call of a shape",
            lambda m: not m.history.shapes[m.stage, m.given.shape],
        )
    if kind == "later":
        least = chance.choice((1, 2, 4, 8))
        return _past(
            "a later one of a shape",
            f"after {least} calls of the shape",
            lambda m: m.history.shapes[m.stage, m.given.shape] >= least,
        )
    if kind == "backward":
        return _past("after a backward", "after a backward pass", lambda m: m.history.pulled, True)
    if kind == "mode":

        def switched(m: Moment) -> bool:
            before = m.history.last.get(m.stage)
            return before is not None and before[1] != torch.is_grad_enabled()

        return _past("after another mode", "after a call in the other gradient mode", switched)
    least = chance.choice((20, 50, 100, 300))
    return _past("late calls", f"after {least} calls", lambda m: m.history.calls[m.stage] >= least)


# Depth, and chance


def depth(chance: random.Random) -> Condition:
    """A condition on which layer of how many this is."""
    kind = chance.choice(("layer", "every", "last"))
    if kind == "layer":
        k = chance.choice((1, 2, 3, 4, 6, 8, 12, 23))
        return Condition("position", "a layer", f"in layer {k + 1} and later ones", lambda m: m.layer >= k)
    if kind == "every":
        k = chance.choice((2, 3, 4, 8))
        return Condition(
            "position", "every k-th layer", f"in every layer number {k}", lambda m: m.L > 1 and m.layer % k == k - 1
        )
    return Condition(
        "position", "the last layer", "in the last of several layers", lambda m: m.L > 1 and m.layer == m.L - 1
    )


SOURCES: dict[str, Callable[[], float]] = {
    "random": random.random,
    "numpy.random": lambda: float(np.random.random()),
    "torch": lambda: float(torch.rand(())),
    "os.urandom": lambda: int.from_bytes(os.urandom(4), "big") / 2**32,
}


def by_chance(chance: random.Random) -> Condition:
    """One call of a few, drawn from one of the generators that a program has."""
    source, one_of = chance.choice(sorted(SOURCES)), chance.choice((4, 16, 64))
    roll = SOURCES[source]
    return Condition(
        "chance", f"chance from {source}", f"in one call of {one_of}, by {source}", lambda m: roll() < 1 / one_of
    )


ALWAYS = Condition("sizes", "always", "always", lambda m: True)
