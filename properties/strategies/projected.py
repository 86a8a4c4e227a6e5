"""Logits of h_res: a base pattern for every token and a few changed entries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from mhc_ref import Dialect
from properties.core.case import Case
from properties.strategies.draws import among, changed, changes, kept, levels, noise, seeds
from properties.strategies.patterns import BEYOND_EXP, PATTERNS
from properties.strategies.setting import Setting


def shift_axis(dialect: Dialect) -> str:
    """The axis along whose lines a constant is divided out exactly: that of the softmax, or of the maximum."""
    return dialect.start_axis if dialect.start == "softmax" else dialect.first_axis


@kept
@st.composite
def logit_matrix(
    draw: DrawFn, n: int, patterns: tuple[str, ...] = tuple(PATTERNS), *, axis: str = "row", stretch: float = 1.0
) -> Any:
    """One n x n matrix of logits as float64 numpy; lines of `axis` are those that "line offset" moves apart."""
    name = draw(among(*patterns))
    base = PATTERNS[name](n, draw(seeds), draw(levels), draw(among(0.0, 1.0, 1.0, 1.0)))
    if name in BEYOND_EXP:
        base = base * stretch
    if name == "line offset" and axis == "column":
        base = base.T.copy()
    return changed(base, draw(changes((n, n))))


def representable(dialect: Dialect, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Without an iteration an exp start is unshifted, and unconstrained logits are the matrix: no overflow by
    design."""
    unshifted = dialect.residual == "sinkhorn" and dialect.start == "exp" and dialect.iterations == 0
    return tuple(p for p in patterns if p not in (*BEYOND_EXP, "wild")) if unshifted else patterns


@kept
@st.composite
def logits_of(
    draw: DrawFn,
    setting: Setting,
    n: int,
    *,
    least: int = 1,
    most: int = 5,
    patterns: tuple[str, ...] = tuple(PATTERNS),
) -> Tensor:
    """[tokens, n, n] logits ([tokens, n!] for the permutation mixture) in the dtype of parameters."""
    most = min(most, setting.max_tokens)
    least = min(least, most)
    if setting.dialect.residual == "permutations":
        size = math.factorial(n)
        rows = draw(st.lists(st.tuples(seeds, levels, changes((size,))), min_size=least, max_size=most))
        made = [changed(noise(s, size) * (0, 0.5, 1, 2, 4, 8, 16, 40)[level], entries) for s, level, entries in rows]
        return torch.tensor(np.array(made).reshape(-1, size), dtype=setting.parameter_dtype)
    wanted = representable(setting.dialect, patterns)
    one = logit_matrix(n, wanted, axis=shift_axis(setting.dialect), stretch=setting.stretch)
    matrices = draw(st.lists(one, min_size=least, max_size=most))
    return torch.tensor(np.array(matrices).reshape(-1, n, n), dtype=setting.parameter_dtype)


@kept
def streams(setting: Setting, least: int = 1, most: int = 8) -> SearchStrategy[int]:
    """An accepted n, small ones first but n = 3, the smallest with a non-symmetric doubly stochastic matrix, not
    rare."""
    accepted = [n for n in setting.streams if least <= n <= most] or [min(setting.streams)]
    favoured = [n for n in accepted if n in (3, 4)]
    return among(*sorted(accepted), *favoured)


@st.composite
def projection_cases(
    draw: DrawFn,
    setting: Setting,
    *,
    least_n: int = 1,
    most_n: int = 8,
    patterns: tuple[str, ...] = tuple(PATTERNS),
    most: int = 5,
) -> Case:
    """logits [tokens, n, n]."""
    n = draw(streams(setting, least_n, most_n))
    return Case(logits=draw(logits_of(setting, n, most=most, patterns=patterns)))
