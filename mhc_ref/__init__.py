"""mhc_ref: a minimal reference of manifold-constrained hyper-connections, readable beside the paper.

`dialect` says what must be declared; `projection`, `block` and `stack` are the mathematics in torch; `gain` measures
operators; `exact` is the same mathematics in mpmath, written from the equations and independent of the rest.
"""

from mhc_ref.block import Branch, Mappings, Params, block, mappings, post, pre
from mhc_ref.dialect import Dialect
from mhc_ref.presets import (
    DEEPSEEK_V4,
    HYPER_CONNECTIONS,
    LIGER,
    LUCIDRAINS,
    MHC_LITE,
    PAPER,
    PRESETS,
    RESIDUAL,
)
from mhc_ref.projection import project
from mhc_ref.stack import collapse, expand, layers, stack

__all__ = [
    "DEEPSEEK_V4",
    "HYPER_CONNECTIONS",
    "LIGER",
    "LUCIDRAINS",
    "MHC_LITE",
    "PAPER",
    "PRESETS",
    "RESIDUAL",
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
