"""The sizes that a sweep visits.

| axis | what is visited |
|---|---|
| tokens | the covering set at eight channels; a coarser one with gradients, at five channels, and as views |
| channels | the covering set and multiples of 128 at two tokens; a coarser one with gradients and for other n |
| pairs | products of at most 2^14 tokens and channels, and some beyond; other n and layers beyond a tile of both |
| mass | one state of more than 2^23 numbers |
| looks | states that are negative, tiny, large or uneven, or have streams or tokens of zeros, at some of all that |
| layers | every depth at two tokens; a few depths with more tokens and channels |
| declared | `channels`, `token_counts`, `depths`, by themselves and together |
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from properties.core.size import Size
from properties.core.sweep import Point, Reach, Whole
from properties.strategies.covering import covering
from properties.strategies.layouts import INFERENCE, LAYOUTS, SEQUENCES, STEP, THREE, parts_of, said
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import BACKWARDS, LOOKS, RISING, SAID, distinct, inputs

FINE = 2048
"""The most tokens up to which the set is as fine as it is asked for."""
SHORT = 1100
"""The same of a coarser set, and with gradients."""
FAR, STEP_OF_TRAINING, BATCH = 8192, 16411, 70001
"""A sweep that goes so far by itself also visits one number of tokens beyond 2^14 or 2^16: batches have as many, and
tokens are counted in 16 bits, in grids of 65535 blocks, and in buffers of partial sums for so many tiles."""
DEPTHS = (*range(1, 27), 28, 31, 32, 33, 36, 40, 44, 48, 49, 56, 63, 64, 65, 78, 93, 111, 122, 128, 129)
"""Numbers of layers: every one that a pipeline or a launch is cut at, hi / lo <= 1.2 beyond, one more than the bits of
a mask, and two blocks for each of the 61 layers of DeepSeek-V3."""
BACK = (*range(1, 18), 20, 23, 24, 25, 31, 32, 33, 48, 65)
"""Those backwards."""
MANY = 8
"""Every accepted n up to it is swept, and the least and the most beyond, whose bounds cost n^4, at a few sizes."""
MOST_TOGETHER = 1 << 14
"""The most tokens times channels of a pair that nobody declared."""
MODELS = (256, 1024, 4096, 7168)
"""Widths of models or their like, multiples of every tile: with one token, as views and in inference mode as well, and
in every dtype."""
TILES = ((65, 33), (520, 17))
"""Channels and tokens beyond one tile of both, where neither is wide by itself: 64 by 32, and 512 by 16."""
RISEN = (1536, 4096)
"""Widths at which several layers have gates that depend on the state, which grows along its channels."""
MODEST = 16
"""A sweep of no more channels has only methods that are put together of others."""
MASS = 1 << 24
"""The most numbers of a state that nobody declared."""
LONG = (259, 514, 1031, 2062, 4099, 4202)
"""Numbers of tokens that on two axes are one long sequence or two (`properties.laws.sizes_layouts.arranged`): of 257 to
4099 tokens, beyond the chunks that a sequence is cut into, and beyond the batches that graphs are recorded for."""
FEW = (1, 3, 16, 33, 65)
LYING = (*FEW, 130, 300, 1025)
"""Numbers of tokens of a state that is a view: a loop over more of them than there are programs has strides, too."""


@dataclass(frozen=True)
class Run:
    """Sizes that are tried with the first tokens, or the first layers, of the same inputs.

    Attributes:
        scale: the size of the residual logits.
        layout: see `properties.strategies.layouts`.
        look: of `SAID`, with spaces between, or nothing out of the ordinary.
        visited: those of the numbers of tokens that are; none for all. Runs of the same tokens share what is expected.
    """

    channels: int
    streams: int
    tokens: tuple[int, ...]
    layers: tuple[int, ...] = (1,)
    gradients: bool = False
    layout: str = ""
    scale: float = 3.0
    look: str = ""
    visited: tuple[int, ...] = ()

    def points(self, setting: Setting, kind: str, seed: int) -> Iterator[Point]:
        """Its sizes, with their inputs."""
        tokens, back = max(self.tokens), kind.endswith(BACKWARDS)
        frame = (setting.dialect, setting.dtype, setting.norm_weight, setting.least_scale, setting.parameters)
        more: dict[str, Any] = {"gradients": True} if self.gradients and not back else {}
        more |= {"layout": self.layout} if self.layout else {}
        apart = [*said(self.layout), *(SAID[one] for one in self.look.split())]
        for count, depth in itertools.product(self.visited or self.tokens, self.layers):
            # backwards of many tokens every layer has part in each gradient, so that fewer of them are no part of more
            most = depth if back and tokens > 1 else max(self.layers)
            sizes = self.streams, self.channels, tokens, most
            whole = _whole(frame, kind, sizes, self.scale, self.look, seed, self.tokens)
            size = Size(count, self.channels, self.streams, depth, self.gradients, "slice" not in parts_of(self.layout))
            yield Point(size, whole, more, tuple(dict.fromkeys(apart)))


@functools.lru_cache(maxsize=8192)
def _whole(
    frame: Any, kind: str, sizes: tuple[int, int, int, int], scale: float, look: str, seed: int, counts: tuple[int, ...]
) -> Whole:
    dialect, dtype, norm_weight, least, parameters = frame
    limits = {"norm_weight": norm_weight, "least_scale": least, "parameters": parameters}
    setting = Setting(dialect, (sizes[0],), dtype, **limits)
    make = functools.partial(inputs, setting, kind, *sizes, scale, look, seed)
    return Whole(make, counts, distinct(kind, *sizes, look))


# -- which sizes -----------------------------------------------------------------------------------------------------


def main_streams(setting: Setting) -> int:
    """The n of most models, or the nearest below; the least that there is otherwise."""
    return max((n for n in setting.streams if n <= 4), default=min(setting.streams))


def few_streams(setting: Setting) -> int:
    """The least n from 3 on that is accepted: a doubly stochastic matrix of 2 streams is its own transpose."""
    return min((n for n in setting.streams if n >= 3), default=max(setting.streams))


def counts(setting: Setting, t: int, most: int) -> tuple[int, ...]:
    """Numbers of tokens; above 2048, which cost as much as all below, of a coarser set."""
    most, t = max(1, min(most, setting.max_tokens)), max(1, t)
    return covering(min(most, FINE if t > 3 else SHORT), t, also=covering(most, max(1, t - 1)))


def widths(setting: Setting, t: int, most: int, lane: int = 0) -> tuple[int, ...]:
    """Numbers of channels; multiples of a lane from 512 on among them."""
    multiple = setting.channel_multiple
    if most < multiple:
        return (multiple,)
    lanes = (c for c in range(512, most + 1, lane) if c % multiple == 0) if lane else ()
    return covering(most, t, multiple=multiple, also=lanes)


def token_runs(setting: Setting, reach: Reach, far: int = BATCH) -> Iterator[Run]:
    """Along the tokens, and so many of them."""
    n, eight, five, t = main_streams(setting), setting.width(8), setting.width(5), reach.t
    short = min(reach.tokens, SHORT)
    yield Run(eight, n, counts(setting, t, reach.tokens))
    yield Run(five, few_streams(setting), counts(setting, t - 2, short) if t > 1 else some(setting, reach))
    if reach.gradients:
        yield Run(eight, n, counts(setting, t - 2, short) if t > 1 else some(setting, reach), gradients=True)
    yield from beyond(setting, reach, far)
    for layout in layouts(setting):
        yield Run(setting.width(7), n, some(setting, reach, LYING if t > 1 else FEW), layout=layout)
    yield from _called_otherwise(setting, reach, t > 1)


def beyond(setting: Setting, reach: Reach, count: int) -> Iterator[Run]:
    """So many tokens, beyond all others, where a sweep goes far; of few streams, and of a few channels, or of a tile of
    them where tokens are not as many: an index of tokens is not that of their channels."""
    if reach.tokens >= FAR and setting.max_tokens >= count:
        n = min((n for n in setting.streams if n >= 2), default=max(setting.streams))
        yield Run(setting.width(3 if count > STEP_OF_TRAINING else 130), n, (count,))


def _called_otherwise(setting: Setting, reach: Reach, thorough: bool) -> Iterator[Run]:
    """Along the tokens on two axes, to long sequences, in a step of decoding, and in inference mode."""
    many = some(setting, reach)
    if thorough:  # all three with the same numbers, so that what is expected of them is computed once
        many = (*counts(setting, 1, min(reach.tokens, 130)), *some(setting, reach, LONG))
    for layout in (SEQUENCES, STEP, INFERENCE):
        yield Run(setting.width(8), main_streams(setting), many, layout=layout)
    several = some(setting, reach, (6, 17, 24, 66, 130, 516) if thorough else (6, 17))
    yield Run(setting.width(8), main_streams(setting), several, layout=THREE)


def coarser(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Along the tokens, for what takes a hundred operations: one step coarser."""
    yield from token_runs(setting, replace(reach, t=max(1, reach.t - 1)), STEP_OF_TRAINING)


def some(setting: Setting, reach: Reach, among: Sequence[int] = FEW) -> tuple[int, ...]:
    """Those of some numbers of tokens that are visited."""
    return tuple(t for t in among if t <= min(reach.tokens, setting.max_tokens))


def layouts(setting: Setting) -> Sequence[str]:
    """How states may lie in memory besides by themselves."""
    return LAYOUTS[1:] if setting.strided and setting.in_process else ()


def channel_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Along the channels."""
    yield from _along_channels(setting, reach, reach.t, 128 if reach.t > 2 else 0)


def product_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Along the channels of what has products with phi: fewer, since each has a reference of its own."""
    yield from _along_channels(setting, reach, max(1, reach.t - 2), 512 if reach.t > 2 else 0)


def _along_channels(setting: Setting, reach: Reach, t: int, lane: int) -> Iterator[Run]:
    n, two = main_streams(setting), (min(2, setting.max_tokens),)
    every = widths(setting, t, reach.channels, lane)
    models = [setting.width(c) for c in MODELS if c <= max(reach.channels, reach.models)]
    yield from (Run(c, n, (1, *two) if c in models else two) for c in sorted({*every, *models}))
    if reach.gradients:
        most = reach.channels if reach.t > 1 else min(33, reach.channels)
        yield from (Run(c, n, two, gradients=True) for c in widths(setting, 1, most))
    few = min(33 if reach.t > 1 else 9, reach.channels)
    for layout in layouts(setting):
        yield from (Run(c, n, two, layout=layout) for c in (*widths(setting, 1, few), *models[:2]))
    yield from (Run(c, n, two, layout=INFERENCE) for c in models[:2])


def whole_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Along the tokens, for who is compared with itself."""
    many = counts(setting, max(1, reach.t - 1), min(reach.tokens, 520))
    yield Run(setting.width(8), few_streams(setting), many)


def many_streams(setting: Setting) -> list[int]:
    """The least and the most accepted n beyond `MANY`."""
    beyond = [n for n in setting.streams if n > MANY]
    return sorted({min(beyond), max(beyond)}) if beyond else []


def _several(setting: Setting) -> list[int]:
    return [*(n for n in setting.streams if n <= MANY), *many_streams(setting)]


def stream_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """For every accepted n, with residual logits of several sizes: few tokens and channels, and some of many."""
    for n, scale in zip(_several(setting), itertools.cycle((1.0, 6.0, 3.0))):
        if n > MANY:
            yield Run(setting.width(8), n, some(setting, reach, (1, 3, 33, 65)), scale=scale)
            yield from (
                Run(setting.width(c), n, some(setting, reach, (2,))) for c in (1, 64, 256) if c <= reach.channels
            )
            continue
        many = tuple(
            t for t in (1, 2, 3, 16, 33, 64, 65, 130, 300, 1030, 4100) if t <= min(reach.tokens, setting.max_tokens)
        )
        yield Run(setting.width(8), n, many, scale=scale)
        if reach.gradients:
            yield Run(setting.width(6), n, many[2:5:2] or many[:1], gradients=True, scale=6.0)
        wide = (c for c in (1, 4, 33, 64, 256, 1024, 2080) if c <= reach.channels)
        yield from (Run(setting.width(c), n, (min(2, setting.max_tokens),), scale=scale) for c in wide)
        if n != main_streams(setting):  # a kernel of its own, in tiles of tokens and of channels
            for c, count in TILES:
                if c <= reach.channels:
                    yield Run(setting.width(c), n, some(setting, reach, (count,)), scale=scale)
    several = [n for n in setting.streams if n <= MANY]
    if several and MODELS[-1] <= max(reach.channels, reach.models):  # n C beyond 2^15
        yield Run(setting.width(MODELS[-1]), max(several), (1,))


def pair_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Tokens and channels together."""
    n = main_streams(setting)
    for number, c in enumerate((16, 24, 31, 32, 40, 64, 65, 96, 128, 131, 256, 512, 1024, 2048, 4096)):
        most = min(MOST_TOGETHER // c, reach.tokens, setting.max_tokens)
        many = tuple(t for t in (3, 16, 17, 33, 64, 65, 128, 257, 1024) if t <= most)
        if c <= reach.channels and many:
            yield Run(setting.width(c), n, many, gradients=reach.gradients and number % 3 == 2)
    # multiples of what a matrix unit takes, of both, in every dtype; T C beyond 2^16 and 2^20
    for c, count in ((64, 256), (128, 512), (128, 1024), (2048, 65), (4096, 257), (129, 129)):  # and as many of both
        if c <= reach.channels and count <= min(reach.tokens, setting.max_tokens):
            yield Run(setting.width(c), n, (count,))
    # short dtypes, which have kernels of their own, are swept over fewer sizes: a wide state of several tiles of tokens
    if setting.dtype.itemsize == 2 and MODEST < reach.channels < MODELS[1]:
        yield Run(setting.width(MODELS[1]), n, some(setting, reach, (16, 70)))
    most = max((k for k in setting.streams if k <= MANY), default=n)
    if most != n and reach.channels >= 65:
        yield Run(setting.width(65), most, some(setting, reach, (65,)))


def mass_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """One state of more than 2^23 numbers, where a sweep goes far: a launch or a chunk is as large as memory allows."""
    n, c, count = main_streams(setting), setting.width(MODELS[2]), 521
    if reach.tokens >= FAR and setting.max_tokens >= count and n * c * count <= MASS:
        yield Run(c, n, (count,))


def looks(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Inputs that look out of the ordinary, with a few numbers of tokens."""
    n, thorough = main_streams(setting), reach.t > 1
    for number, look in enumerate(_looks(n)):
        many = some(setting, reach, (1, 5, 17, 33, 64, 70, 130, 300, 1025) if thorough else (1, 5, 33))
        yield Run(setting.width(8 + number % 2), n, many, look=look, gradients=reach.gradients and number % 3 == 2)


def looks_along(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Every look with its share of the numbers of tokens, where sizes coincide, and in every way to call; beyond 2^16
    numbers of a stream, and beyond a tile of tokens and of channels."""
    n, thorough = main_streams(setting), reach.t > 1
    ways = {layout: some(setting, reach, (6, 34)) for layout in (SEQUENCES, STEP, THREE, INFERENCE)}
    ways |= {layout: some(setting, reach, (3, 33)) for layout in layouts(setting)}
    many = counts(setting, 1, min(reach.tokens, LONG[-2])) if thorough else ()
    for number, look in enumerate(_looks(n)):
        own = many[number % 3 :: 3] or some(setting, reach, (2, n))
        every = tuple(sorted({*own, *some(setting, reach, (2, n)), *(t for few in ways.values() for t in few)}))
        run = Run(setting.width(8), n, every, look=look)
        yield replace(run, visited=(*own, *some(setting, reach, (n,))))
        yield from (replace(run, visited=few, layout=layout) for layout, few in ways.items() if few)
        yield Run(setting.width(n), n, some(setting, reach, (2, n)), look=look)
        for c, two in ((64, (1025,)), (131, (17, 65))) if thorough else ():
            if c <= reach.channels:
                yield Run(setting.width(c), n, some(setting, reach, two), look=look)


def _looks(n: int) -> list[str]:
    return [look for look in LOOKS if n > 1 or look in ("negative", "tiny", "large")]


def look_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """The same, and along the channels with one look each."""
    yield from looks(setting, reach)
    yield from looks_along(setting, reach)
    n, two = main_streams(setting), (min(2, setting.max_tokens),)
    wide = widths(setting, 1, min(reach.channels, 300)) if reach.t > 1 else (setting.width(c) for c in (1, 8, 13, 33))
    several = _looks(n)
    for c in wide:
        yield Run(c, n, two, look=several[c * 2654435761 % (1 << 32) * len(several) >> 32])  # as good as drawn


def depths(reach: Reach, among: tuple[int, ...] = DEPTHS) -> tuple[int, ...]:
    """Numbers of layers, fewer of them in a coarse sweep."""
    return tuple(depth for depth in among if depth <= min(reach.layers, DEPTHS[-1] if reach.t > 2 else 13))


def layer_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Along the depth, and a few depths with more tokens, channels, and other n."""
    n, four = main_streams(setting), setting.width(4)
    two, thorough = (min(2, setting.max_tokens),), reach.t > 1
    yield Run(four, n, two, depths(reach) if thorough else depths(reach, (1, 2, 3, 4, 5, 8, 9, 13, 24)))
    if reach.gradients:
        back = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 24, 33, 65) if thorough else (1, 2, 3)
        yield Run(four, n, two, depths(reach, back), gradients=True)
    deep = depths(reach, (1, 2, 3, 9) if thorough else (1, 2))
    yield Run(four, n, some(setting, reach, (1, 3, 16, 33, 65, 150, 257)), deep)
    yield Run(four, n, some(setting, reach, (1025, 2049, 4099)), deep[1:2])
    wide = (c for c in ((1, 7, 16, 64, 65, 1024) if thorough else (7, 64)) if c <= reach.channels)
    yield from (Run(setting.width(c), n, two, deep) for c in wide)
    for c, count in TILES if thorough else TILES[:1]:
        if c <= reach.channels:
            yield Run(setting.width(c), n, some(setting, reach, (count,)), deep[1:2])
    models = (c for c in RISEN if thorough and c <= max(reach.channels, reach.models))
    yield from (Run(setting.width(c), n, two, (2,), look=RISING) for c in models)
    for number, look in enumerate(_looks(n)):
        yield Run(four, n, two, depths(reach, (2, 12 + number % 2) if thorough else (2,)), look=look)
        if number % 2 and thorough and reach.channels >= 130:
            yield Run(setting.width(130), n, two, deep[1:2], look=look)
        elif look != "large":
            yield Run(four, n, some(setting, reach, (33,)), deep[1:2], look=look)
    for layout in (SEQUENCES, STEP, INFERENCE):
        yield Run(four, n, some(setting, reach, (3, 24, 34)), deep[1:2], layout=layout)
    yield Run(four, n, some(setting, reach, (6, 66)), deep[1:2], layout=THREE)
    for k in many_streams(setting):
        yield Run(setting.width(5), k, two, (2,))
    for k in setting.streams:
        if k != n and k <= MANY:  # K = k C in the classes of small numbers
            yield from (Run(setting.width(c), k, two, deep[:3]) for c in ((4, 5, 7, 13) if thorough else (5,)))


def declared_runs(setting: Setting, layered: bool) -> Iterator[Run]:
    """What a declaration names: always visited, by itself and together."""
    n, four, two = main_streams(setting), setting.width(8), min(2, setting.max_tokens)
    depths = (setting.depths or (1,)) if layered else (1,)
    for gradients in (False, True) if setting.differentiable else (False,):
        for c in setting.channels:
            yield Run(c, n, (two,), depths[:1], gradients=gradients)
        for count in setting.token_counts:
            yield Run(four, n, (count,), (1,), gradients=gradients)
        if layered and setting.depths:
            yield Run(four, n, (two,), tuple(sorted(setting.depths)), gradients=gradients)
    for c, count in itertools.product(setting.channels, setting.token_counts):
        if n * c * count <= 1 << 21:
            yield Run(c, n, (count,))
    for depth in setting.depths if layered else ():  # a prompt of all layers, and a step of decoding of wide ones
        yield from (Run(setting.width(4), n, (count,), (depth,)) for count in setting.token_counts if count <= FAR)
        yield from (Run(c, n, (1,), (depth,)) for c in setting.channels if n * c * depth <= 1 << 21)


def points_of(runs: Iterable[Run], setting: Setting, kind: str, seed: int) -> list[Point]:
    """The points of some runs, each once."""
    found: dict[Any, Point] = {}
    for run in runs:
        if not (run.tokens and run.layers):  # none of its sizes is within what is declared
            continue
        for point in run.points(setting, kind, seed):
            found.setdefault((point.size, *point.more.items(), run.scale, run.look), point)
    return list(found.values())
