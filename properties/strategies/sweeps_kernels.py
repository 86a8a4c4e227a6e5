"""The sizes at which whole kernels branch: those of models, as they serve and train, several of them at once.

A kernel that was written as a whole, with all that it branches on, has branches which no axis by itself and no two of
modest sizes reach: a captured batch of decoding whose products are split, a step of decoding of wide layers, a prompt
that passes more layers than a table has.
"""

from __future__ import annotations

from collections.abc import Iterator

from properties.core.sweep import Reach
from properties.strategies.layouts import REWRITTEN
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import RISING
from properties.strategies.sweeps import MANY, MODELS, Run, depths, main_streams, some

SERVED = (17, 32, 33, 64)
"""Tokens of a captured batch of decoding: beyond a tile of 16, to a tile of 64."""
WIDE = MODELS[2:]
"""Widths of models: from K = 16384 on for n = 4."""


def served(setting: Setting, reach: Reach) -> Iterator[Run]:
    """A few tiles of tokens at the widths of models, with tokens of zeros, as a captured batch is padded, too."""
    n = main_streams(setting)
    wide = [setting.width(c) for c in WIDE if c <= max(reach.channels, reach.models)]
    for c in wide:
        yield Run(c, n, some(setting, reach, SERVED if c == wide[-1] else SERVED[2:3]))
        yield Run(c, n, some(setting, reach, SERVED[1:2]), look="silent")


def loaded(setting: Setting, reach: Reach) -> Iterator[Run]:
    """New values in the tensors of wide parameters, which are packed perhaps."""
    if setting.in_process and reach.t > 1:
        n = main_streams(setting)
        wide = [setting.width(c) for c in (520, 1040) if c <= max(reach.channels, reach.models)]
        yield from (Run(c, n, some(setting, reach, (3,)), layout=REWRITTEN) for c in wide)


def prompts(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Layers: tiles of tokens through more of them than a table has, a step of decoding of wide ones, and so many
    tokens of a wide state that what branches read is large."""
    n = main_streams(setting)
    if reach.t > 1:
        yield Run(setting.width(4), n, some(setting, reach, (66, 130)), depths(reach, (17, 24, 33)))
        wide = [setting.width(c) for c in (1536, WIDE[0]) if c <= max(reach.channels, reach.models)]
        yield from (Run(c, n, (1,), (2,), look=RISING) for c in wide)
    if reach.t > 2 and reach.channels >= MODELS[1]:
        yield Run(setting.width(MODELS[1]), n, some(setting, reach, (300,)), depths(reach, (3,)))
        several = [k for k in setting.streams if k <= MANY and k != n]
        yield from (Run(setting.width(4), k, some(setting, reach, (130,)), depths(reach, (2,))) for k in several)
