"""mhc_ref: a minimal reference of manifold-constrained hyper-connections, readable beside the paper.

`dialect` says what must be declared; `projection`, `block` and `stack` are the mathematics in torch, and `families` the
formulas that a dialect chooses by name, one file each: a reader of mHC reads `families/sinkhorn.py`. `presets` has the
dialects that people ship, each of which is a name here too (PAPER, DEEPSEEK_V4, ...). `gain` measures operators;
`exact` is the same mathematics in mpmath, written from the equations and independent of the rest.
"""

from mhc_ref.block import Branch, Mappings, Params, block, mappings, post, pre
from mhc_ref.dialect import Dialect
from mhc_ref.presets import PRESETS
from mhc_ref.projection import project
from mhc_ref.stack import collapse, expand, layers, stack

__all__ = [
    "PRESETS",
    "Branch",
    "Dialect",
    "Mappings",
    "Params",
    "block",
    "collapse",
    "expand",
    "layers",
    "mappings",
    "post",
    "pre",
    "project",
    "stack",
]
__all__ += list(PRESETS)  # pyright: ignore[reportUnsupportedDunderAll]: made when asked for, see below


def __getattr__(name: str) -> Dialect:
    """A preset by its name: `mhc_ref.PAPER`."""
    if name in PRESETS:
        return PRESETS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
