"""The sizes that a sweep visits backwards.

A backward pass takes more time than one forwards, and its reference more again: the sizes are fewer, and the widest of
them come with few streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from properties.core.sweep import Reach
from properties.strategies.layouts import BARE, EVALUATED, FIRST_FROZEN, FROZEN, SEQUENCES, STEP, THREE, TWICE
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import FADING, IDLE, PROMPT, SOARING
from properties.strategies.sweeps import (
    BACK,
    BATCH,
    FAR,
    MANY,
    MODELS,
    SHORT,
    STEP_OF_TRAINING,
    TILES,
    Run,
    beyond,
    counts,
    depths,
    few_streams,
    layouts,
    looks,
    main_streams,
    many_streams,
    some,
    widths,
)

MASSIVE = 2090
"""Tokens of the widths of a model backwards."""
WIDE = (1, 5, 8, 16, 31, 33, 64, 128, 256, 520, 1024)
"""Channels of a stack."""


def _token_runs(setting: Setting, reach: Reach, t: int) -> list[Run]:
    """Along the tokens, and for every accepted n."""
    n, few, short = main_streams(setting), few_streams(setting), min(reach.tokens, SHORT)
    found = [Run(setting.width(6), n, counts(setting, t, short))]
    found += [Run(setting.width(5), few, some(setting, reach, (1, 3, 8, 16, 33, 65, 130, 257, 300)))]
    several = some(setting, reach, (1, 3, 16, 33, 65, 130, 258))
    found += [Run(setting.width(8), k, several, scale=6.0) for k in setting.streams if k <= MANY]
    found += [Run(setting.width(8), k, some(setting, reach, (1, 33))) for k in many_streams(setting)]
    found += [Run(setting.width(8), n, some(setting, reach, (5, 24, 34)), layout=one) for one in (SEQUENCES, STEP)]
    found += [Run(setting.width(8), n, some(setting, reach, (6, 17, 66)), layout=THREE)]
    found += [Run(setting.width(7), n, some(setting, reach, (3, 17, 33, 65)), layout=one) for one in layouts(setting)]
    soaring = Run(setting.width(6), n, some(setting, reach, (1, 6, n, 11, 16, 17, 34, 66, 69, 79, 131)), look=SOARING)
    ways = {SEQUENCES: (6, 34), STEP: (6, 34), THREE: (66,), "": (1, 6, n, 16, 79, 131)}
    ways |= {layout: (11, 17, 69) for layout in layouts(setting)}
    several = {layout: some(setting, reach, counts) for layout, counts in ways.items()}
    found += [replace(soaring, layout=layout, visited=counts) for layout, counts in several.items() if counts]
    found += [Run(setting.width(k), k, some(setting, reach, (1, k, 9)), look=SOARING) for k in {n, few}]  # C = n, T = n
    found += [replace(run, tokens=run.tokens[:4], look=_and_fading(run.look)) for run in looks(setting, reach)]
    found += [Run(setting.width(6), n, some(setting, reach, (4, 9, 14, 44, 75, 136, 258)), look=FADING)]
    others = [k for k in setting.streams if k <= MANY and k != n]
    found += [Run(setting.width(6), k, some(setting, reach, (4, 14, 44)), look=FADING) for k in others]
    return [replace(run, gradients=True) for run in found]


def _and_fading(look: str) -> str:  # which would go to the ends of the range together
    return look if look in ("tiny", "large") else f"{look} {FADING}"


def _channel_runs(setting: Setting, reach: Reach, wide: Sequence[int]) -> list[Run]:
    """Channels, and some tokens with them; those beyond with few streams."""
    n, few = main_streams(setting), few_streams(setting)
    two = (min(2, setting.max_tokens),)
    found = [Run(c, n, two) for c in widths(setting, 1, min(reach.channels, 130 if reach.t > 1 else 40))]
    found += [Run(c, few, two) for c in wide if c > 40]
    found += [
        Run(setting.width(c), n, some(setting, reach, tuple(t for t in (3, 16, 17, 64, 65, 128) if t * c <= 4096)))
        for c in (16, 31, 64, 128)
        if c <= reach.channels
    ]
    for c in (17, 128):  # a tail of channels, and a multiple of every tile
        if c <= reach.channels:
            every = (replace(run, channels=setting.width(c), tokens=run.tokens[:2]) for run in looks(setting, reach))
            found += [replace(run, look=_and_fading(run.look)) for run in every]
    for c, count in TILES:
        if c <= reach.channels:
            found.append(Run(setting.width(c), few, some(setting, reach, (count,))))
    if max(reach.channels, reach.models) >= 1024:  # beyond a tile of 512 channels, and of 4 tokens, 8 or 256
        found.append(Run(setting.width(1040), few, some(setting, reach, (5, 9, 260))))
    if reach.channels >= 256:  # T C beyond 2^16
        found += [Run(setting.width(256), n, some(setting, reach, (269,)), look=FADING)]
    return [replace(run, gradients=True) for run in found if run.tokens]


def _far(setting: Setting, reach: Reach, count: int) -> list[Run]:
    return [replace(run, gradients=True) for run in beyond(setting, reach, count)]


def matrix_runs(setting: Setting, reach: Reach) -> list[Run]:
    """Of what has logits alone."""
    bare = [
        Run(setting.width(6), main_streams(setting), (1,), gradients=True, layout=BARE, look=look)
        for look in ("", SOARING)
    ]
    return [*_token_runs(setting, reach, max(1, reach.t - 2)), *bare, *_far(setting, reach, STEP_OF_TRAINING)]


def block_runs(setting: Setting, reach: Reach) -> list[Run]:
    """Of what has products with phi, and one token without an axis."""
    return [*matrix_runs(setting, reach), *product_runs(setting, reach)]  # points that are the same are visited once


def product_runs(setting: Setting, reach: Reach) -> list[Run]:
    """The widest channels are few, as the gradient by phi has (n C) (2 n + R) entries: powers of two, the width after
    each, and three times them."""
    corners = [c for k in range(6, 14) for c in (1 << k, (1 << k) + 1, 3 << k - 1)]
    wide = sorted({setting.width(c) for c in corners if c <= reach.channels})
    runs = [*_token_runs(setting, reach, max(1, reach.t - 2)), *_channel_runs(setting, reach, wide)]
    idle = Run(setting.width(6), main_streams(setting), some(setting, reach, (2, 18, 40, 131)), look=IDLE)
    return [*runs, replace(idle, gradients=True), *_massive(setting, reach), *_far(setting, reach, STEP_OF_TRAINING)]


def _massive(setting: Setting, reach: Reach) -> list[Run]:
    """Many tokens of a wide state, where a sweep goes far: partial sums of a gradient by phi are capped by memory."""
    if reach.tokens < FAR or reach.channels < MODELS[1] or setting.max_tokens < MASSIVE:
        return []
    return [Run(setting.width(MODELS[1]), main_streams(setting), (MASSIVE,), gradients=True)]


def mixture_runs(setting: Setting, reach: Reach) -> list[Run]:
    """Of what is computed for every channel."""
    wide = widths(setting, 1, reach.channels)
    runs = [*_token_runs(setting, reach, max(1, reach.t - 1)), *_channel_runs(setting, reach, wide)]
    return [*runs, *_far(setting, reach, BATCH)]


def depth_runs(setting: Setting, reach: Reach) -> list[Run]:
    """Every depth that one backward launch may be for, and some beyond; a few of many channels, or tokens."""
    n, four, two = main_streams(setting), setting.width(4), depths(reach, (2,))
    wide, many = [setting.width(c) for c in (65, 257) if c <= reach.channels], some(setting, reach, (33,))
    far = [c for c in (520, 1040) if c <= reach.channels]
    found = [Run(four, n, (1,), depths(reach, BACK)), *(Run(c, n, (1,), two) for c in wide)]
    found += [Run(wide[0], n, many, two)] if wide else []
    found.append(Run(four, n, some(setting, reach, (33, 300)), two))
    # segments of layers that are computed again backwards, with more than one token each
    found += [Run(four, n, some(setting, reach, (3, 66)), (depth,)) for depth in depths(reach, (5, 9))]
    found += [Run(four, n, (1, *many), two, look=FADING)]
    for look in ("negative", "silent", "uneven")[: 3 if n > 1 else 1]:
        found += [Run(four, n, (1,), depths(reach, (2, 9)), look=look)]
    found += [Run(four, k, some(setting, reach, (3, 66)), two) for k in setting.streams if k <= MANY and k != n]
    found += [Run(setting.width(c), few_streams(setting), (1, *some(setting, reach, (17,))), two) for c in far]
    if reach.t > 2:  # more programs than there are tiles of tokens, and a pass that is called again
        found.append(Run(four, n, some(setting, reach, (1100, 2049)), two))
        ways = (TWICE, EVALUATED, FROZEN, FIRST_FROZEN)
        found += [Run(four, n, some(setting, reach, (3,)), depths(reach, (12,)), layout=way) for way in ways]
    return [replace(run, gradients=True) for run in found]


def stack_runs(setting: Setting, reach: Reach) -> list[Run]:
    """Of a whole stack, whose own kernels have tiles of tokens and of channels: mostly of two layers, and of as many as
    one launch may be for."""
    n, few, four, two = main_streams(setting), few_streams(setting), setting.width(4), depths(reach, (2,))
    several = some(setting, reach, (1, 2, 3, 6, 9, 16, 17, 32, 33, 64, 65, 128, 130, 257, 300, 513, 1025))
    found = [Run(four, n, several, two)]
    pair = (min(2, setting.max_tokens),)
    found += [Run(four, n, pair, (depth,)) for depth in depths(reach, (1, 3, 4, 5, 6, 8, 9, 12, 13, 17, 24, 33))]
    found += [Run(setting.width(c), few, some(setting, reach, (2,)), two) for c in WIDE if c <= reach.channels]
    for c, count in (*TILES, (16, 66), (128, 129)):
        if c <= reach.channels:
            found.append(Run(setting.width(c), few, some(setting, reach, (count,)), two))
    found += [Run(four, k, some(setting, reach, (3, 33)), two) for k in setting.streams if k <= MANY and k != n]
    found += [Run(four, n, some(setting, reach, (3, 66)), (depth,)) for depth in depths(reach, (5, 9))]
    ways = (SEQUENCES, STEP, *layouts(setting), TWICE, EVALUATED)
    found += [Run(four, n, some(setting, reach, (6, 34)), two, layout=one) for one in ways]
    found.append(Run(four, n, some(setting, reach, (6, 66)), two, layout=THREE))
    found.append(Run(four, n, some(setting, reach, (1, 9, 33, 136)), two, look=FADING))
    for look in ("negative", "silent", "uneven", PROMPT)[: 4 if n > 1 else 1]:
        found.append(Run(four, n, some(setting, reach, (3, 35)), two, look=look))
    return [replace(run, gradients=True) for run in found]
