"""Hypothesis strategies: inputs where mistakes show, drawn so that they shrink to something a person can read.

Structure is drawn first (n, C, tokens), then for every token a base pattern and a few changed entries. Dense noise
comes from a seed, so an example costs tens of draws, not thousands; patterns are ordered from readable to wild, and
lists of tokens and of changes shrink by deletion, so that what is left is a zero matrix with the entries that matter.
`tests/quality` measures how often each regime that the laws rely on is reached.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.projection import residual_size
from properties.core.case import BranchSpec, Case
from properties.core.declaration import Declaration
from properties.core.implementation import parameter_dtype

P = ParamSpec("P")
S = TypeVar("S")


class Setting(Declaration):
    """What an implementation accepts in one dtype of the state: the frame in which examples are drawn.

    Attributes:
        dtype: of the state.
        flood: numbers of tokens of a large batch, see `Device.flood`.
    """

    dtype: torch.dtype
    flood: tuple[int, ...]

    def __init__(
        self,
        dialect: Dialect,
        streams: Sequence[int],
        dtype: torch.dtype,
        *,
        flood: tuple[int, ...] = (1031, 4099),
        **declared: Any,
    ) -> None:
        super().__init__(dialect=dialect, streams=streams, **declared, dtype=dtype, flood=flood)

    @property
    def parameter_dtype(self) -> torch.dtype:
        """Of params and logits."""
        return parameter_dtype(self.dtype)

    @property
    def stretch(self) -> float:
        """How much wider than float32's the range of exp is in the dtype of parameters."""
        return 8.0 if self.parameter_dtype == torch.float64 else 1.0


CHANNELS = (1, 2, 3, 7, 9, 17, 33, 67, 259)
"""Widths off the powers of two, where tails and tiles go wrong; tiles of 64 and of 256 channels are met in practice."""

# ---------------------------------------------------------------------------------------------------------------------
# Kept strategies
# ---------------------------------------------------------------------------------------------------------------------


def kept(make: Callable[P, S]) -> Callable[P, S]:
    """`make`, called once for its arguments, which are few: shapes, settings, tuples of choices.

    To build a strategy and to let Hypothesis validate it costs as much as a draw from it.
    """
    remembered: Any = functools.lru_cache(maxsize=1024, typed=True)(make)
    return remembered


@kept
def among(*values: Any) -> SearchStrategy[Any]:
    """One of these values, the first the simplest."""
    return st.sampled_from(values)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------

eighths = st.integers(-48, 48).map(lambda k: k / 8)
"""Multiples of 1/8 within 6: exact in every dtype, and 0 comes first."""

seeds = st.integers(0, 2**20 - 1)

levels = st.integers(0, 7)
"""How far a pattern goes."""


def noise(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Standard normal numbers with full mantissas, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(shape)


def coarse(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Small integers, readable and exact in every dtype."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float64)


@kept
def changes(shape: tuple[int, ...], most: int = 3) -> SearchStrategy[list[tuple[tuple[int, ...], float]]]:
    """A few entries of a tensor of this shape with the values they get."""
    return st.lists(st.tuples(st.tuples(*(st.integers(0, size - 1) for size in shape)), eighths), max_size=most)


def changed(
    base: np.ndarray[Any, np.dtype[np.float64]], entries: list[tuple[tuple[int, ...], float]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The base with those entries replaced."""
    base = base.copy()
    for index, value in entries:
        base[index] = value
    return base


# ---------------------------------------------------------------------------------------------------------------------
# Logits
# ---------------------------------------------------------------------------------------------------------------------

Pattern = Callable[[int, int, int, float], "np.ndarray[Any, np.dtype[np.float64]]"]
"""(n, seed, level 0..7, amplitude of the noise) -> n x n; without noise a pattern is what a person would write down."""


def _zero(n: int, seed: int, level: int, noisy: float) -> Any:
    return np.zeros((n, n))


def _integers(n: int, seed: int, level: int, noisy: float) -> Any:
    """Small integers, few of them at low levels."""
    count = (1, 2, 3, 5, 8, 13, 21, n * n)[level]
    kept = np.random.default_rng(seed).permutation(n * n) < count
    return coarse(seed, n, n) * kept.reshape(n, n)


def _normal(n: int, seed: int, level: int, noisy: float) -> Any:
    return noise(seed, n, n) * (0.25, 0.5, 1, 2, 3, 4, 6, 8)[level]


def _near_permutation(n: int, seed: int, level: int, noisy: float) -> Any:
    rng = np.random.default_rng(seed)
    permutation = np.eye(n)[rng.permutation(n)]
    return permutation * (2, 4, 6, 8, 10, 14, 20, 28)[level] + rng.standard_normal((n, n)) * 0.5 * noisy


def _starved_row(n: int, seed: int, level: int, noisy: float) -> Any:
    matrix = noise(seed, n, n) * noisy
    matrix[seed % n] -= 8 * (level + 1)
    return matrix


def _starved_column(n: int, seed: int, level: int, noisy: float) -> Any:
    return _starved_row(n, seed, level, noisy).T.copy()


def _triangular(n: int, seed: int, level: int, noisy: float) -> Any:
    """Support without total support: convergence like 1/t."""
    return noise(seed, n, n) * 0.5 * noisy - np.triu(np.ones((n, n)), 1) * 4 * (level + 1)


def _shared_column(n: int, seed: int, level: int, noisy: float) -> Any:
    """Support without a perfect matching: all rows but one live on one column."""
    matrix = noise(seed, n, n) * 0.5 * noisy
    matrix[1:, 1:] -= 4 * (level + 1)
    return matrix


def _offset(n: int, seed: int, level: int, noisy: float) -> Any:
    """A common offset far beyond the range of exp: only a subtracted maximum survives it."""
    return noise(seed, n, n) * 2 * noisy + (50, 95, 120, 300, -95, -120, 750, -800)[level]


def _line_offset(n: int, seed: int, level: int, noisy: float) -> Any:
    """Rows that lie far apart: a maximum over the whole matrix loses all but one of them."""
    rows = np.random.default_rng(seed + 1).permutation(n)[:, None] * (60.0, 90, 110, 150, 200, 300, -110, -200)[level]
    return noise(seed, n, n) * 2 * noisy + rows


def _wild(n: int, seed: int, level: int, noisy: float) -> Any:
    return noise(seed, n, n) * (10, 15, 20, 25, 30, 40, 60, 100)[level]


PATTERNS: dict[str, Pattern] = {
    "zero": _zero,
    "integers": _integers,
    "normal": _normal,
    "near permutation": _near_permutation,
    "starved row": _starved_row,
    "starved column": _starved_column,
    "triangular": _triangular,
    "shared column": _shared_column,
    "offset": _offset,
    "line offset": _line_offset,
    "wild": _wild,
}
"""Base patterns of a logit matrix, from readable to wild."""

TAME = ("zero", "integers", "normal", "near permutation")
MODERATE = (
    "zero",
    "integers",
    "normal",
    "near permutation",
    "starved row",
    "starved column",
    "triangular",
    "shared column",
)


BEYOND_EXP = ("offset", "line offset")
"""Patterns beyond the range of exp, stretched for float64, where that range is eight times as wide."""


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


def _representable(dialect: Dialect, patterns: tuple[str, ...]) -> tuple[str, ...]:
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
    wanted = _representable(setting.dialect, patterns)
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


# ---------------------------------------------------------------------------------------------------------------------
# States
# ---------------------------------------------------------------------------------------------------------------------


def _scales(dtype: torch.dtype) -> tuple[float, ...]:
    """Sizes of a state whose squares the compute dtype represents, 1 first."""
    if dtype == torch.float16:
        return (1.0, 1e-3, 100.0, 0.03)
    return (1.0, 1e-3, 1e3, 1e-6, 30.0, 1e6, 1e-4, 1e-9, 1e-12, 1e12)


@kept
@st.composite
def token_state(
    draw: DrawFn, n: int, channels: int, dtype: torch.dtype, scales: tuple[float, ...], least: float = 0.0
) -> Any:
    """One token [n, C]: distinct streams unless it says otherwise, no stream of the order of less than `least`."""
    kind = draw(among("ramp", "one-hot", "integers", "normal", "normal", "cancelling", "uneven", "identical"))
    seed = draw(seeds)
    if kind == "ramp":
        base = np.arange(1.0, n + 1)[:, None] * np.ones((1, channels)) + np.arange(channels) * 0.25
    elif kind == "one-hot":
        base = np.zeros((n, channels))
        base[seed % n, seed // 8 % channels] = 1.0
    elif kind == "integers":
        base = coarse(seed, n, channels)
    elif kind == "cancelling":
        base = np.ones((n, channels)) * (1 + 0.01 * noise(seed, n, channels)) * (-1.0) ** np.arange(n)[:, None]
    elif kind == "uneven":
        base = noise(seed, n, channels) * 10.0 ** (-np.arange(n)[:, None])
    elif kind == "identical":
        base = np.repeat(noise(seed, 1, channels), n, 0)
    else:
        base = noise(seed, n, channels)
    state, scale = changed(base, draw(changes((n, channels), most=2))), draw(among(*scales))
    if kind == "uneven" and least:  # n = 8 goes down to 1e-7 of the scale
        state = state * np.maximum(1.0, least / (scale * 10.0 ** (-np.arange(n)[:, None])))
    return state * scale


@kept
@st.composite
def states(
    draw: DrawFn,
    setting: Setting,
    n: int,
    channels: int,
    *,
    least: int = 1,
    most: int = 5,
    scales: tuple[float, ...] = (),
) -> Tensor:
    """[tokens, n, C] in the dtype of the state."""
    most_scale = 100.0 if setting.dtype == torch.float16 else math.inf
    sizes = tuple(s for s in scales or _scales(setting.dtype) if setting.least_scale <= s <= most_scale) or (1.0,)
    token = token_state(n, channels, setting.dtype, sizes, setting.least_scale)
    tokens = draw(st.lists(token, min_size=least, max_size=min(most, setting.max_tokens)))
    return torch.tensor(np.array(tokens).reshape(-1, n, channels)).to(setting.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Parameters and branches
# ---------------------------------------------------------------------------------------------------------------------

GATES = (1.0, 0.5, -1.0, 2.0, 0.01, 0.0)


@kept
@st.composite
def params_of(
    draw: DrawFn,
    setting: Setting,
    n: int,
    channels: int,
    *,
    gates: tuple[float, ...] = GATES,
    patterns: tuple[str, ...] = MODERATE,
    least_phi: int = 0,
) -> Params:
    """One block's parameters: gates and biases of order one, structured residual biases, sparse or dense phi.

    `least_phi` 1 rules out a phi of zeros, 2 asks for a dense one.
    """
    dialect = setting.dialect
    size = residual_size(n, dialect)
    shape = (channels, 2 + n) if dialect.shared_projection else (n * channels, 2 * n + size)
    kinds = ("zero", "sparse", "integers", "dense", "dense", "strong")
    kind = draw(among(*kinds[min(least_phi, 2) + (least_phi > 1) :]))
    seed = draw(seeds)
    entries = draw(changes(shape, most=4))  # always drawn, so that a dense phi can shrink to a sparse one
    root = math.sqrt(shape[0])
    if kind in ("zero", "sparse"):
        phi = np.zeros(shape)
        if kind == "sparse":
            phi = changed(phi, entries if entries else [((seed % shape[0], seed // 7 % shape[1]), 1.0)])
    elif kind == "integers":
        phi = coarse(seed, *shape) / 2.0 ** round(math.log2(max(1.0, root)))
    else:
        phi = noise(seed, *shape) * ((4.0 if kind == "strong" else 1.0) / root)
    h = draw(st.lists(st.tuples(st.integers(0, 2 * n - 1), eighths), max_size=4))
    bias = np.zeros(2 * n)
    if draw(st.booleans()):
        bias = noise(seed + 1, 2 * n) * draw(among(1.0, 3.0, 10.0))
    bias = changed(bias, [((index,), value) for index, value in h])
    if dialect.residual == "permutations":
        residual = noise(seed + 2, size) * draw(among(0.0, 1.0, 4.0))
    else:
        residual = draw(logit_matrix(n, patterns, axis=shift_axis(dialect), stretch=setting.stretch)).reshape(-1)
    alpha = draw(st.tuples(*[among(*gates)] * 3))
    weight = draw(among(None, "integers", "normal")) if setting.norm_weight else None
    norm_weight = None
    if weight == "integers":
        norm_weight = np.abs(coarse(seed + 3, n * channels))  # 0 among them: some channels silenced
    elif weight == "normal":
        norm_weight = 1.0 + 0.5 * noise(seed + 3, n * channels)
    dtype = setting.parameter_dtype
    return Params(
        torch.tensor(phi, dtype=dtype),
        torch.tensor(np.concatenate([bias, residual]), dtype=dtype),
        torch.tensor(alpha, dtype=dtype),
        None if norm_weight is None else torch.tensor(norm_weight, dtype=dtype),
    )


def saturating(params: Params, n: int, far: float) -> Params:
    """The same parameters with the biases of the gates moved by `far` and -`far` in turn."""
    bias = params.bias.clone()
    bias[: 2 * n] += far * (-1.0) ** torch.arange(2 * n).to(bias)
    return params._replace(bias=bias)


@kept
@st.composite
def extreme_params(draw: DrawFn, setting: Setting, n: int, channels: int) -> Params:
    """Parameters whose logits lie far apart, those of the gates too; most of them beyond the range of exp.

    An unconstrained h_res is its logits, which stay of order one.
    """
    dialect = setting.dialect
    far = draw(among(0.0, 100.0, 1000.0, -1000.0))
    extreme = _representable(dialect, ("starved row", "triangular", *BEYOND_EXP, "wild"))
    patterns = extreme if dialect.residual == "sinkhorn" else MODERATE
    return saturating(draw(params_of(setting, n, channels, patterns=patterns)), n, far)


@kept
@st.composite
def branch_of(
    draw: DrawFn,
    setting: Setting,
    channels: int,
    kinds: tuple[str, ...] = ("zero", "identity", "scale", "constant", "tanh"),
) -> BranchSpec:
    """A branch as data."""
    kind = draw(among(*kinds))
    if kind in ("zero", "identity"):
        return BranchSpec(kind)
    weight = changed(coarse(draw(seeds), channels) + 0.5, draw(changes((channels,), most=1)))
    return BranchSpec(kind, torch.tensor(weight, dtype=torch.float64).to(setting.dtype))


def arrangeable(setting: Setting) -> int:
    """Six tokens, or the even number below that a call takes, or one: to be arranged on several axes."""
    return min(6, setting.max_tokens) // 2 * 2 or 1


def on_two_axes(count: int) -> tuple[int, int]:
    """The shape of that many tokens, an even number or one, on two axes."""
    return (2, count // 2) if count > 1 else (1, 1)


def width_among(setting: Setting, *channels: int) -> SearchStrategy[int]:
    """One of these widths C, or the next that is accepted."""
    if setting.channel_multiple == 1:
        return among(*channels)
    return among(*dict.fromkeys(map(setting.width, channels)))  # most of them are the smallest: once is enough


def channel_count(setting: Setting, most: int = 259) -> SearchStrategy[int]:
    """A width C."""
    return width_among(setting, *(c for c in CHANNELS if c <= most))


def projected_width(setting: Setting, n: int) -> SearchStrategy[int]:
    """A width C of a state that is projected: small, above one tile, or the one for which phi is square and its
    transpose has its shape."""
    square = [(2 * n + size) // n] if (size := residual_size(n, setting.dialect)) % n == 0 else []
    return width_among(setting, *(c for c in CHANNELS if c <= 17), *(c for c in square if c <= 33), 67)


@st.composite
def coefficient_cases(draw: DrawFn, setting: Setting, *, least_n: int = 1, most: int = 4, **options: Any) -> Case:
    """x [tokens, n, C] and params."""
    n = draw(streams(setting, least_n))
    channels = draw(projected_width(setting, n))
    scales = options.pop("scales", ())
    return Case(
        x=draw(states(setting, n, channels, most=most, scales=scales)),
        params=draw(params_of(setting, n, channels, **options)),
    )


@st.composite
def block_cases(
    draw: DrawFn, setting: Setting, *, least_n: int = 1, most: int = 4, kinds: tuple[str, ...] = (), **options: Any
) -> Case:
    """x, params and a branch."""
    case = draw(coefficient_cases(setting, least_n=least_n, most=most, **options))
    branch = draw(branch_of(setting, case.x.shape[-1], kinds)) if kinds else draw(branch_of(setting, case.x.shape[-1]))
    return case.with_(branch=branch)


@kept
def permutations_of(n: int) -> SearchStrategy[tuple[int, ...]]:
    """A permutation of n streams, the identity first."""
    if n <= 4:
        return st.sampled_from(list(itertools.permutations(range(n))))
    return st.permutations(list(range(n))).map(tuple)


@kept
@st.composite
def cotangent_for(draw: DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A random cotangent; never constant, since the gradient of a sum of a stochastic matrix is exactly 0."""
    dense = draw(st.booleans())
    seed = draw(seeds)
    if dense:
        return torch.tensor(noise(seed, *shape)).to(dtype)
    flat = torch.zeros(math.prod(shape), dtype=torch.float64)
    if flat.numel():
        flat[seed % flat.numel()] = 1.0
    return flat.reshape(shape).to(dtype)
