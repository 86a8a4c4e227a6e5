"""Every two circumstances together: sizes, ways to call and looks are factors of a covering array.

What a kernel branches on it may branch on two at once, and a reader of the other runs finds two that never meet. Here
each number of tokens meets each number of channels, of streams and of layers, each arrangement of tokens, each way in
which states, phi, cotangents and what a branch returns lie in memory, each mode of autograd, each set of inputs that
ask for gradients, what comes between a forward pass and its backward pass, and each look, unless that is far beyond
`MOST`; and so does each of these with each other.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from properties.core.family import end_of
from properties.core.sweep import Reach
from properties.strategies.layouts import (
    ABROAD,
    BARS,
    CUT,
    CUT_THREE,
    EVALUATED,
    FROZEN,
    INFERENCE,
    MANY_SEQUENCES,
    REWRITTEN,
    ROWS,
    SEQUENCES,
    STEP,
    STILL,
    THREE,
    TURNED,
    TWICE,
    YIELDED,
    together,
)
from properties.strategies.pairwise import Row, pairwise
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import FADING, HOLLOW, IDLE, LOOKS, PROMPT, REWEIGHTED, SOARING
from properties.strategies.sweeps import MANY, Run, few_streams, layouts, main_streams

TOKENS = (1, 3, 17, 34, 70, 130, 300, 1030)
"""Beyond one tile and two of 16 to 256 tokens, and of 1024."""
CHANNELS = (8, 65, 130, 520, 1040)
"""The same of channels."""
MOST = 70_000
"""The most tokens times channels."""
RECORDED = "recorded"
"""Forwards, with gradients recorded."""
WAYS = ("axes", "states", "phi", "returned", "asking", "again", "bars")
"""The factors of how it is called that are parts of a layout."""
OF_ONE = ("negative", "tiny", "large")
"""The looks that one stream may have."""


@dataclass(frozen=True)
class Factors:
    """What of a kind of inputs is varied together.

    Attributes:
        phi, branch: whether the kind has products with phi, and a branch.
        wide: whether it has channels.
        back: whether it is called backwards.
        layers: its numbers of layers.
    """

    phi: bool = False
    branch: bool = False
    wide: bool = True
    back: bool = False
    tokens: tuple[int, ...] = TOKENS
    channels: tuple[int, ...] = CHANNELS
    layers: tuple[int, ...] = (1,)
    looks: tuple[str, ...] = (*LOOKS, HOLLOW, PROMPT)
    most: int = MOST

    def __call__(self, setting: Setting, reach: Reach) -> Iterator[Run]:
        """The runs of the array, as far as a sweep goes; of a dtype that is swept over few sizes none."""
        if reach.t < 2:
            return
        lanes = reach.channels if self.wide else 1
        sizes = {
            "tokens": tuple(t for t in self.tokens if t <= min(reach.tokens, setting.max_tokens)) or (1,),
            "channels": tuple(dict.fromkeys(setting.width(c) for c in self.channels if c <= max(8, lanes))),
            "streams": _streams(setting),
            "layers": tuple(depth for depth in self.layers if depth <= reach.layers) or (1,),
        }
        looks = [look for look in self.looks if self.wide or self.back or look not in (HOLLOW, PROMPT)]
        looks += [IDLE, *([REWEIGHTED] if setting.norm_weight else [])] if self.phi else []
        rows = _rows(tuple(sizes.items()), ("", *looks), tuple(self._ways(setting, reach).items()), self.most)
        counts: dict[tuple[int, ...], set[int]] = {}
        for row in rows:
            counts.setdefault(_inputs(row), set()).add(row["tokens"])
        for row in rows:
            yield Run(
                row["channels"],
                row["streams"],
                tuple(sorted(counts[_inputs(row)])),
                (row["layers"],),
                self.back or row["mode"] == RECORDED,
                together(*(row[name] for name in WAYS), row["mode"] if row["mode"] == INFERENCE else ""),
                look=row["look"],
                visited=(row["tokens"],),
            )

    def _ways(self, setting: Setting, reach: Reach) -> dict[str, tuple[str, ...]]:
        """The levels of how it is called, by what they are a matter of."""
        strided, abroad = setting.strided and setting.in_process, self.back and setting.in_process
        states = [*layouts(setting)] if len(self.layers) == 1 else []
        again = (REWRITTEN,) if self.phi and setting.in_process else ()
        asking = (FROZEN, STILL, *([] if self.phi else [YIELDED])) if self.back and self.wide else ()
        return {
            "axes": ("", SEQUENCES, MANY_SEQUENCES, STEP, THREE, *((CUT, CUT_THREE) if strided else ())),
            "states": ("", *states),
            "phi": ("", *([TURNED] if strided and self.phi else [])),
            "returned": ("", *([ROWS] if strided and self.branch else [])),
            "asking": ("", *asking),  # of one argument alone nothing is left that asks
            "again": ("", *((TWICE, EVALUATED) if self.back else again), *((ABROAD,) if abroad else ())),
            "bars": ("", *(BARS if self.back else ())),
            "mode": ("",) if self.back else ("", *([RECORDED] if reach.gradients else []), INFERENCE),
        }


def _streams(setting: Setting) -> tuple[int, ...]:
    """The n of most models, the least from 3 on, the next above both, the most that is swept, two and one, as far as
    they are accepted."""
    swept = [n for n in setting.streams if n <= MANY] or [min(setting.streams)]
    most = max(main_streams(setting), few_streams(setting))
    wanted = (main_streams(setting), few_streams(setting), *[n for n in swept if n > most][:1], max(swept), 2, 1)
    return tuple(dict.fromkeys(n for n in wanted if n in swept)) or (swept[0],)


def _inputs(row: Row) -> tuple[int, ...]:
    """What points have in common that share their inputs."""
    return row["channels"], row["streams"], row["layers"], row["look"]


@functools.lru_cache(maxsize=256)
def _rows(
    sizes: tuple[tuple[str, tuple[int, ...]], ...],
    looks: tuple[str, ...],
    ways: tuple[tuple[str, tuple[str, ...]], ...],
    most: int,
) -> list[Row]:
    """The rows of the array. Inputs are dear, and so they are an array of their own, each of which comes with several
    numbers of tokens and ways to call."""
    levels = dict(sizes)
    shared = ("channels", "streams", "layers")
    inputs = pairwise({**{name: levels[name] for name in shared}, "look": looks}, _has_streams)
    masks = list(itertools.product((False, True), repeat=4))
    parts = {
        tuple(level if known else None for level, known in zip(_inputs(one), mask, strict=True))
        for one, mask in itertools.product(inputs, masks)
    }

    def allowed(row: Row) -> bool:
        if row.get("tokens", 1) * row.get("channels", 1) > most or not _has_streams(row):
            return False
        if row.get("axes") in (CUT, CUT_THREE) and row.get("states"):  # which is a matter of memory, too
            return False
        if row.get("asking") and (
            row.get("axes") in (CUT, CUT_THREE)
            or any(row.get(name) for name in ("states", "phi", "returned", "again", "bars"))
        ):
            return False  # of which gradients then nobody would ask for some
        return tuple(row.get(name) for name in (*shared, "look")) in parts

    first = {"tokens": levels["tokens"], "look": looks, "axes": dict(ways)["axes"]}
    return pairwise({**first, **levels, **dict(ways)}, allowed)


def _has_streams(row: Row) -> bool:
    return row.get("streams") != 1 or row.get("look", "") in (
        "",
        HOLLOW,
        IDLE,
        PROMPT,
        REWEIGHTED,
        FADING,
        SOARING,
        *OF_ONE,
    )


MATRICES = Factors(wide=False, channels=(8,))
MIXTURES = Factors()
PRODUCTS = Factors(phi=True)
BLOCKS = Factors(phi=True, branch=True)
LAYERS = Factors(
    phi=True,
    branch=True,
    tokens=(1, 3, 17, 34, 70),
    channels=(4, 65, 130),
    layers=(2, 3, 9, 13),
    looks=("negative", "uneven", "silent", HOLLOW, PROMPT),
)


def _backwards(phi: bool = False, branch: bool = False, wide: bool = True) -> Factors:
    """Fewer sizes, as a backward pass and its reference take longer."""
    return Factors(
        phi,
        branch,
        wide,
        True,
        tokens=(1, 3, 17, 33, 130, 300),
        channels=(8, 65, 130, 520) if wide else (6,),
        looks=(*LOOKS, FADING, SOARING, PROMPT),
        most=20_000,
    )


MATRICES_BACK = _backwards(wide=False)
MIXTURES_BACK = _backwards()
PRODUCTS_BACK = _backwards(phi=True)
BLOCKS_BACK = _backwards(phi=True, branch=True)


LAYERS_BACK = Factors(
    phi=True,
    branch=True,
    back=True,
    tokens=(1, 3, 33, 70),
    channels=(4, 65, 520),
    layers=(2, 3, 9),
    looks=("uneven", FADING, PROMPT),
    most=5_000,
)


def ends(setting: Setting, reach: Reach) -> Iterator[Run]:
    """Of how streams end, which may have parameters."""
    yield from (PRODUCTS if end_of(setting.dialect).HEAD else MIXTURES)(setting, reach)


def ends_back(setting: Setting, reach: Reach) -> Iterator[Run]:
    """The same backwards."""
    yield from (PRODUCTS_BACK if end_of(setting.dialect).HEAD else MIXTURES_BACK)(setting, reach)
