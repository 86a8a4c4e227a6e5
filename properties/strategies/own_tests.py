"""For somebody's own `@given` tests: the inputs of the laws, by plain arguments.

docs/strategies.md has what they reach. They are the strategies that the laws draw from. Structure is drawn first and
shrinks first: to one stream, one channel, one token, one block, the first preset, a matrix of zeros with the entries
that matter, a ramp for a state.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from mhc_ref import PRESETS, Dialect, Params, registry
from mhc_ref.packing import most_streams
from properties.core.case import BranchSpec
from properties.strategies.coefficients import GATES, branch_of, params_of
from properties.strategies.draws import among
from properties.strategies.inputs import CHANNELS, cotangent_for
from properties.strategies.patterns import MODERATE, PATTERNS
from properties.strategies.projected import logits_of
from properties.strategies.setting import Setting
from properties.strategies.tokens import states_of

STREAMS = (1, 2, 3, 4, 5, 8)
"""Numbers of streams that are met in practice; n = 2 is always symmetric, 3 is the least that is not."""

VALUES: dict[str, tuple[Any, ...]] = {
    "last_axis": ("row", "column"),
    "start": ("exp", "softmax"),
    "start_axis": ("row", "column"),
    "iterations": (20, 1, 2, 3, 0),
    "entry_eps": (0.0, 1e-6, 1e-3),
    "denominator_eps": (0.0, 1e-6, 1e-12, 1e-2),
    "denominator": ("add", "clamp"),
    "transposed": (False, True),
    "pre_eps": (0.0, 1e-6, 1e-4),
    "post_scale": (2.0, 1.0, 0.5),
    "post_eps": (0.0, 1e-6, 1e-4),
    "shared_projection": (False, True),
    "rms_eps": (1e-20, 1e-6, 1e-5, 0.0),
    "rms_eps_inside": (True, False),
    "rms_eps_by": ("add", "clamp"),
    "norm_offset": (0.0, 1.0),
    "read_from": ("own", "previous"),
    "first_read": ("own", "stream0"),
}
"""What the closed fields of a dialect are given, the simplest first; an open one takes the names of its families."""


class Sizes(NamedTuple):
    """n streams of so many channels, so many tokens."""

    n: int
    channels: int
    tokens: int


class Blocks(NamedTuple):
    """Everything that a stack of blocks reads: x [tokens, n, C], and of each block its parameters and its branch."""

    x: Tensor
    params: list[Params]
    branches: list[BranchSpec]


@st.composite
def dialects(draw: DrawFn, *, also: Sequence[Any] = (), most_changes: int = 3) -> Dialect:
    """A preset, and up to so many fields of it with another value; shrinks to `PAPER`.

    Arguments:
        also: families from outside (`properties.families`) that may be chosen besides our own, each with its fields.
        most_changes: how many fields differ from the preset, at most. Values that contradict each other are left out.
    """
    dialect = draw(among(PRESETS.default, *(one for one in PRESETS.values() if one != PRESETS.default)))
    named = {
        field: tuple(name for where, name in registry.BUILT_IN if where == slot)
        + tuple(registry.register(one).name for one in also if one.slot == slot)
        for field, slot in registry.SLOTS.items()
    }
    for field in draw(st.lists(among(*VALUES, *named), max_size=most_changes, unique=True)):
        dialect = _changed(dialect, field, draw(among(*(VALUES | named)[field])))
    for field, brought in registry.own_fields({field: getattr(dialect, field) for field in named}):
        dialect = _changed(dialect, field, draw(among(brought.default, *getattr(brought, "candidates", ()))))
    return dialect


def _changed(dialect: Dialect, field: str, value: Any) -> Dialect:
    """The dialect with another value in a field, where nothing contradicts it."""
    try:
        return dialect.with_(**{field: value})
    except ValueError:
        return dialect


def sizes(
    dialect: Dialect = PRESETS.default,
    *,
    streams: Collection[int] = STREAMS,
    channels: Collection[int] = tuple(c for c in CHANNELS if c <= 33),
    tokens: Collection[int] = (1, 2, 3, 5, 0, 7),
) -> SearchStrategy[Sizes]:
    """n, C and a number of tokens, none among them; shrinks to the first of each.

    Raises:
        ValueError: the dialect takes none of these numbers of streams.
    """
    most = most_streams(dialect)
    accepted = [n for n in streams if most is None or n <= most]
    if not accepted:
        raise ValueError(f"residual={dialect.residual!r} takes at most {most} streams; streams is {tuple(streams)}")
    return st.builds(Sizes, among(*accepted), among(*channels), among(*tokens))


def depths(most: int = 6) -> SearchStrategy[int]:
    """A number of blocks from 1 to `most`; shrinks to 1.

    Raises:
        ValueError: most is below 1.
    """
    if most < 1:
        raise ValueError(f"most is {most}; expected 1 or more blocks")
    return st.integers(1, most)


def logits(
    dialect: Dialect = PRESETS.default,
    n: int = 3,
    *,
    tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
    patterns: Sequence[str] = tuple(PATTERNS),
) -> SearchStrategy[Tensor]:
    """Residual logits of a dialect, [tokens, n, n] or what its family takes; shrinks to zeros and the entries that
    matter.

    Arguments:
        tokens: how many; 1 to 5 where it is not said.
        dtype: of the state; logits are float64 for float64 and float32 otherwise.
        patterns: of `PATTERNS`, or `TAME` or `MODERATE`, which stay within the range of exp. Logits that would
            overflow by design are not drawn: an exp start without an iteration knows no shift.

    Raises:
        ValueError: a pattern that there is not, or an n that the family does not take.
    """
    if strange := [name for name in patterns if name not in PATTERNS]:
        raise ValueError(f"patterns contains {strange}; expected some of {', '.join(PATTERNS)}")
    least, most = _counted(tokens)
    return logits_of(_frame(dialect, n, dtype), n, least=least, most=most, patterns=tuple(patterns))


def states(
    n: int = 3,
    channels: int = 7,
    *,
    tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
    scales: Sequence[float] = (),
) -> SearchStrategy[Tensor]:
    """States [tokens, n, C] in `dtype`; shrinks to a ramp: stream s is s + 1 everywhere.

    Arguments:
        tokens: how many; 1 to 5 where it is not said.
        scales: the sizes of a token; from 1e-12 to 1e12 where they are not said (float16: 1e-3 to 100), whose squares
            the compute dtype represents.
    """
    least, most = _counted(tokens)
    return states_of(_frame(PRESETS.default, n, dtype), n, channels, least=least, most=most, scales=tuple(scales))


def parameters(
    dialect: Dialect = PRESETS.default,
    n: int = 3,
    channels: int = 7,
    *,
    dtype: torch.dtype = torch.float32,
    gates: Sequence[float] = GATES,
    norm_weight: bool = True,
    patterns: Sequence[str] = MODERATE,
) -> SearchStrategy[Params]:
    """One block's parameters for states [..., n, C]; shrinks to phi 0, biases 0 and gates 1 (the first of `gates`).

    Arguments:
        dtype: of the state; parameters are float64 for float64 and float32 otherwise.
        norm_weight: whether there may be one.
        patterns: of the residual bias, see `logits`.

    Raises:
        ValueError: an n that the family does not take.
    """
    frame = _frame(dialect, n, dtype).with_(norm_weight=norm_weight)
    return params_of(frame, n, channels, gates=tuple(gates), patterns=tuple(patterns))


def branches(channels: int = 7, *, dtype: torch.dtype = torch.float32) -> SearchStrategy[BranchSpec]:
    """A branch F, called with [..., C]: 0, u, w u, w or w tanh(u); shrinks to 0. w [C] is in the dtype of the state."""
    return branch_of(_frame(PRESETS.default, 1, dtype), channels)


def cotangents(*shape: int, dtype: torch.dtype = torch.float32) -> SearchStrategy[Tensor]:
    """A cotangent of that shape, never constant: one entry, to which it shrinks, or all of them.

    The gradient of a sum of a stochastic matrix is exactly 0, so that a cotangent of ones sees nothing.
    """
    return cotangent_for(tuple(shape), dtype)


@st.composite
def blocks(
    draw: DrawFn,
    dialect: Dialect = PRESETS.default,
    *,
    streams: Collection[int] = STREAMS,
    channels: Collection[int] = (1, 2, 3, 7, 9, 17),
    depth: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Blocks:
    """A state, and parameters and a branch for each of up to `depth` blocks; shrinks as its parts do."""
    layers = draw(depths(depth))
    n, width, _ = draw(sizes(dialect, streams=streams, channels=channels))
    return Blocks(
        draw(states(n, width, dtype=dtype)),
        [draw(parameters(dialect, n, width, dtype=dtype)) for _ in range(layers)],
        [draw(branches(width, dtype=dtype)) for _ in range(layers)],
    )


def _frame(dialect: Dialect, n: int, dtype: torch.dtype) -> Setting:
    return Setting(dialect, (n,), dtype)


def _counted(tokens: int | None) -> tuple[int, int]:
    return (1, 5) if tokens is None else (tokens, tokens)
