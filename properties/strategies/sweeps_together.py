"""The points of a sweep at which two circumstances come together, each of which is visited by itself.

A model has wide states on two axes, frozen parameters, and a phi that lies as a linear layer has it, all at once, and a
kernel branches on more than one of them. So ways to call, what asks for a gradient, and how parameters lie come with
many tokens and with many channels, too.

| what | with |
|---|---|
| tokens on two axes or three, cut sequences, a step of decoding | channels beyond a tile |
| a phi that lies transposed | one tile of tokens, many, and wide ones |
| a norm without a weight where widths are even, and with one where they are odd | tokens and channels |
| states that ask for a gradient alone, and parameters alone | tokens and channels |
| more than ten layers | tokens, channels, other numbers of streams, and short dtypes |
| channels that are zero in every token | channels beyond a tile |
| what a branch returns as a slice of wider rows | tokens, channels and layers |
| cotangents of strides 0, a second backward pass, and mappings of which one is used | tokens and channels |
| each way in which a cotangent lies | full tiles of tokens and channels |
"""

from __future__ import annotations

from collections.abc import Iterator

from properties.core.family import end_of
from properties.core.sweep import Reach
from properties.strategies.layouts import (
    ABROAD,
    ALONE,
    BARE,
    BARS,
    CUT,
    EVALUATED,
    EVEN,
    FROZEN,
    INFERENCE,
    MANY_SEQUENCES,
    PERMUTED,
    ROWS,
    SEQUENCES,
    STEP,
    STILL,
    SUMMED,
    THREE,
    TURNED,
    TWICE,
)
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import HOLLOW, PROMPT, REWEIGHTED
from properties.strategies.sweeps import (
    LYING,
    MANY,
    MODELS,
    Run,
    depths,
    few_streams,
    main_streams,
    some,
)

BEYOND = 130
"""Channels beyond a tile of 128, and no multiple of one."""
FULL = (64, 128)
"""Numbers of tokens, and as many channels, that fill tiles."""
CALLED = (6, 34)
"""Numbers of tokens that lie on two axes or three."""
STEP_OF_SHORT = 4099
"""Tokens of a step of training in a dtype that is swept over fewer than others."""
WIDE = 1040
"""Channels beyond a tile of 512 and of 1024."""
PROMPTS = (33, 70, 150)
"""Numbers of tokens of a sequence that begins with a tile of zeros."""
DEEP_OF_SHORT = (28, 33)
"""Numbers of layers of models, for a dtype that is swept over fewer; of many more its bounds are infinite."""
DEEP = (5, 13)
"""Numbers of layers beyond those that come with everything."""


def lying(setting: Setting) -> bool:
    """Whether views are handed over."""
    return setting.strided and setting.in_process


def called_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Ways to call with more channels than a tile has, and sequences that are cut with few and many tokens."""
    n, many = main_streams(setting), some(setting, reach, CALLED)
    ways = (SEQUENCES, STEP, THREE, INFERENCE, *((CUT,) if lying(setting) else ()))
    if reach.channels >= BEYOND:
        yield from (Run(setting.width(BEYOND), n, many, layout=way) for way in ways)
        yield Run(setting.width(BEYOND), n, (1,), layout=BARE)
        yield Run(setting.width(BEYOND), n, some(setting, reach, (2, 17)), look=HOLLOW)
    yield Run(setting.width(8), n, some(setting, reach, PROMPTS), look=PROMPT)
    if max(reach.channels, reach.models) >= WIDE:
        yield Run(setting.width(WIDE), n, some(setting, reach, (3,)), layout=STEP)
        yield Run(setting.width(WIDE), n, some(setting, reach, (2,)), look=HOLLOW)
    if lying(setting):
        cut = some(setting, reach, (*CALLED, 258, 514) if reach.t > 1 else CALLED)
        yield Run(setting.width(8), n, cut, layout=CUT)


def branch_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """What a branch returns lies in wider rows, for one tile of tokens, for many, and for wide ones."""
    if lying(setting):
        n, many = main_streams(setting), some(setting, reach, (3, 17, 70, 300))
        yield Run(setting.width(8), n, many, layout=ROWS)
        if reach.channels >= BEYOND:
            yield Run(setting.width(BEYOND), n, some(setting, reach, CALLED), layout=ROWS)


def parameter_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """A phi that lies transposed, and a norm weight where there is none otherwise."""
    n, two = main_streams(setting), (min(2, setting.max_tokens),)
    many = some(setting, reach, (*LYING[1:], 17) if reach.t > 1 else (3, 17, 33))
    wide = [c for c in (64, MODELS[1]) if c <= max(reach.channels, reach.models)]
    if lying(setting):
        yield Run(setting.width(8), n, tuple(sorted(many)), layout=TURNED)
        yield from (Run(setting.width(c), n, some(setting, reach, (2, 17)), layout=TURNED) for c in wide)
    if setting.norm_weight:
        yield Run(setting.width(8), n, many, look=REWEIGHTED)
        yield Run(setting.width(7), few_streams(setting), many, look=REWEIGHTED)
        few = (c for c in (1, 2, 4, 16, 32, 33, 128, 131, 256) if c <= reach.channels)
        yield from (Run(setting.width(c), n, two, look=REWEIGHTED) for c in (*few, *wide))


def head_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """The same of an end that has parameters."""
    if end_of(setting.dialect).HEAD:
        yield from parameter_runs(setting, reach)


def layer_runs(setting: Setting, reach: Reach) -> Iterator[Run]:
    """More than ten layers of many tokens, of many channels, and of other streams; ways to call with more channels than
    a tile has."""
    n, four, two = main_streams(setting), setting.width(4), depths(reach, (2,))
    if reach.t > 1:
        yield Run(four, n, some(setting, reach, (17, 150)), depths(reach, DEEP[1:]))
        if reach.channels >= BEYOND:
            yield Run(setting.width(BEYOND), n, some(setting, reach, (2,)), depths(reach, DEEP[:2]))
            yield from (
                Run(setting.width(BEYOND), n, some(setting, reach, CALLED), two, layout=way)
                for way in (SEQUENCES, STEP)
            )
            yield Run(setting.width(BEYOND), n, some(setting, reach, (2,)), two, look=HOLLOW)
        for k in (k for k in setting.streams if k != n and k <= MANY):
            yield Run(four, k, (1,), depths(reach, DEEP[1:]))
    yield Run(four, n, some(setting, reach, PROMPTS[:1]), two, look=PROMPT)
    if setting.dtype.itemsize == 2 and reach.layers >= 24:
        yield Run(setting.width(1), n, (1,), DEEP_OF_SHORT)
    if lying(setting):
        yield Run(four, n, some(setting, reach, (3, 70)), two, layout=ROWS)
        yield Run(four, n, some(setting, reach, (6, 34)), two, layout=CUT)
        yield Run(four, n, some(setting, reach, (17, 33)), two, layout=TURNED)
    if setting.norm_weight:
        yield Run(four, n, some(setting, reach, (33,)), two, look=REWEIGHTED)


def called_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Backwards, ways to call with more channels than a tile has, sequences that are cut, wide states of the n of most
    models, and of a short dtype as many tokens as a step of training has."""
    n, few = main_streams(setting), few_streams(setting)
    for way in (SEQUENCES, STEP, THREE, *((CUT,) if lying(setting) else ())):
        if reach.channels >= BEYOND:
            yield Run(setting.width(BEYOND), n, some(setting, reach, CALLED), gradients=True, layout=way)
    if reach.channels >= BEYOND:
        yield Run(setting.width(BEYOND), n, some(setting, reach, (2, 17)), gradients=True, look=HOLLOW)
    yield Run(setting.width(8), n, some(setting, reach, PROMPTS[:2]), gradients=True, look=PROMPT)
    yield from again_back(setting, reach)
    if lying(setting):
        yield Run(setting.width(8), n, some(setting, reach, CALLED), gradients=True, layout=CUT)
    if max(reach.channels, reach.models) >= MODELS[2]:
        wide = (c for c in (520, 1040, MODELS[2]) if n != few or c > reach.channels)
        yield from (Run(setting.width(c), n, (min(2, setting.max_tokens),), gradients=True) for c in wide)
    if reach.models:
        yield from batch_back(setting)


def again_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """A graph that is pulled back through a second time, and cotangents of strides 0."""
    n = main_streams(setting)
    for way, look in ((TWICE, ""), (SUMMED, SUMMED)):
        many = some(setting, reach, (3, 33, 300))
        yield Run(setting.width(8), n, many, gradients=True, layout=way, look=look)
        if reach.channels >= BEYOND:
            yield Run(setting.width(BEYOND), n, some(setting, reach, (17,)), gradients=True, layout=way, look=look)
    yield from lying_back(setting, reach)


def lying_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Cotangents that lie otherwise, at full tiles; those that are expanded along one axis alone with few tokens and
    many, too. Those that lie otherwise with the same values are in the covering array."""
    n = main_streams(setting)
    full = [count for count in FULL if count <= min(reach.channels, reach.tokens, setting.max_tokens)]
    for count in full:
        yield from (Run(setting.width(count), n, (count,), gradients=True, layout=way) for way in BARS)
    for way in EVEN:
        yield Run(setting.width(8), n, some(setting, reach, (3, 33)), gradients=True, layout=way, look=way)
        yield from (Run(setting.width(c), n, (c,), gradients=True, layout=way, look=way) for c in full[:1])
        if reach.channels >= BEYOND:
            yield Run(setting.width(BEYOND), n, some(setting, reach, (17,)), gradients=True, layout=way, look=way)


def mappings_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Backwards of the mappings, of which one alone is used as well."""
    yield from products_back(setting, reach)
    for way in ALONE:
        for c, many in ((8, (3, 33, 130)), (BEYOND, (17,))):
            if c <= max(8, reach.channels):
                yield Run(
                    setting.width(c),
                    main_streams(setting),
                    some(setting, reach, many),
                    gradients=True,
                    layout=way,
                    look=way,
                )


def blocks_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Backwards of a block, whose branch returns a slice of wider rows as well."""
    yield from products_back(setting, reach)
    if lying(setting):
        yield Run(setting.width(8), main_streams(setting), some(setting, reach, (3, 70)), gradients=True, layout=ROWS)


def batch_back(setting: Setting) -> Iterator[Run]:
    """As many tokens as a step of training has, in a dtype that is swept over fewer."""
    if setting.dtype.itemsize == 2 and setting.max_tokens >= STEP_OF_SHORT:
        least = min((k for k in setting.streams if k >= 2), default=max(setting.streams))
        yield Run(setting.width(1), least, (STEP_OF_SHORT,), gradients=True)


def mixtures_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """The same, and factors of which some ask for a gradient."""
    yield from called_back(setting, reach)
    n = main_streams(setting)
    for way in (FROZEN, STILL):
        yield Run(setting.width(8), n, some(setting, reach, (3, 33, 300)), gradients=True, layout=way)
        if reach.channels >= BEYOND:
            yield Run(setting.width(BEYOND), n, some(setting, reach, (2, 17)), gradients=True, layout=way)


def matrices_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Backwards of what has logits alone."""
    yield Run(setting.width(8), main_streams(setting), some(setting, reach, (3, 33, 300)), gradients=True, layout=TWICE)
    for way in EVEN:
        yield Run(
            setting.width(8), main_streams(setting), some(setting, reach, (3, 64)), gradients=True, layout=way, look=way
        )
    if lying(setting):
        yield Run(setting.width(8), main_streams(setting), some(setting, reach, CALLED), gradients=True, layout=CUT)
    if reach.models:
        yield from batch_back(setting)


def products_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Backwards of what has products with phi."""
    n, few = main_streams(setting), few_streams(setting)
    yield from mixtures_back(setting, reach)
    if max(reach.channels, reach.models) >= 1040:
        wide = setting.width(1040)
        yield from (Run(wide, few, some(setting, reach, (5, 9)), gradients=True, layout=way) for way in (FROZEN, STILL))
    if lying(setting):
        yield Run(setting.width(8), n, some(setting, reach, (3, 17, 300)), gradients=True, layout=TURNED)
        if reach.channels >= BEYOND:
            yield Run(setting.width(BEYOND), n, some(setting, reach, (2, 17)), gradients=True, layout=TURNED)
    if setting.norm_weight:
        yield Run(setting.width(8), n, some(setting, reach, (3, 33, 300)), gradients=True, look=REWEIGHTED)
        for c in (33, 128, 131):
            if c <= reach.channels:
                yield Run(setting.width(c), n, some(setting, reach, (2,)), gradients=True, look=REWEIGHTED)


def layers_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Backwards of several layers: channels beyond a tile of more than two, and tokens of more than nine."""
    n, four, two = main_streams(setting), setting.width(4), depths(reach, (2,))
    if reach.channels >= 65:
        yield Run(setting.width(65), n, (1,), depths(reach, (3, *DEEP[:2])), gradients=True)
    yield Run(four, n, some(setting, reach, (17,)), depths(reach, DEEP[1:2]), gradients=True)
    yield from (Run(four, n, some(setting, reach, (3,)), two, gradients=True, layout=way) for way in (FROZEN, STILL))
    again = (TWICE, EVALUATED, PERMUTED, *((ABROAD,) if setting.in_process else ()))
    yield from (Run(four, n, some(setting, reach, (17,)), two, gradients=True, layout=way) for way in again)
    for way in EVEN:
        yield Run(four, n, some(setting, reach, (3,)), two, gradients=True, layout=way, look=way)
    yield Run(four, n, some(setting, reach, PROMPTS[:1]), two, gradients=True, look=PROMPT)
    for way in (MANY_SEQUENCES, STEP):
        yield Run(four, n, some(setting, reach, (70,)), two, gradients=True, layout=way)
        if reach.channels >= BEYOND:
            yield Run(setting.width(BEYOND), n, some(setting, reach, (15,)), two, gradients=True, layout=way)
    if lying(setting):
        yield Run(four, n, some(setting, reach, (17,)), two, gradients=True, layout=TURNED)
        yield Run(four, n, some(setting, reach, (17,)), two, gradients=True, layout=ROWS)


def ends_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Backwards of how streams end, which may have parameters."""
    yield from (products_back if end_of(setting.dialect).HEAD else called_back)(setting, reach)
