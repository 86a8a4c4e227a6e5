"""Adapters of the implementations that people use: one file a library, imported only when it is chosen.

An adapter holds no arithmetic: it packs parameters, reshapes tokens, and lets the library's own modules compute.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from properties.core.implementation import Implementation

ADAPTERS: dict[str, tuple[str, str]] = {
    "transformers-deepseek-v4": ("transformers_deepseek_v4", "DeepseekV4"),
    "transformers-glm5-next": ("transformers_glm5_next", "Glm5Next"),
    "transformers-hy-v4": ("transformers_hy_v4", "HyV4"),
    "transformers-hy-v4-vl": ("transformers_hy_v4", "HyV4Vl"),
    "transformers-muse-spark": ("transformers_muse_spark", "MuseSpark"),
    "transformers-qwen4-exp": ("transformers_qwen4_exp", "Qwen4Exp"),
    "transformers-inkling2": ("transformers_inkling2", "Inkling2"),
    "transformers-inkling2-loop": ("transformers_inkling2", "Inkling2Loop"),
    "hyper-connections": ("hyper_connections", "ManifoldConstrained"),
    "hyper-connections-log": ("hyper_connections", "ManifoldConstrainedLog"),
    "hyper-connections-v2": ("hyper_connections", "ManifoldConstrainedV2"),
    "hyper-connections-v2-log": ("hyper_connections", "ManifoldConstrainedV2Log"),
    "hyper-connections-unconstrained": ("hyper_connections", "Unconstrained"),
    "hyper-connections-channel-first": ("hyper_connections", "ManifoldConstrainedChannelFirst"),
    "hyper-connections-unconstrained-channel-first": ("hyper_connections", "UnconstrainedChannelFirst"),
    "hyper-connections-views": ("hyper_connections_options", "Views"),
    "hyper-connections-fractions": ("hyper_connections_options", "Fractions"),
    "hyper-connections-v2-fractions": ("hyper_connections_options", "ManifoldConstrainedV2Fractions"),
    "hyper-connections-triton": ("hyper_connections", "TritonProjection"),
    "liger": ("liger", "Liger"),
    "liger-attn-res": ("liger", "AttnRes"),
    "tile-kernels": ("tile_kernels", "TileKernels"),
    "tile-kernels-reference": ("tile_kernels", "TileKernelsReference"),
    "x-transformers": ("x_transformers", "XTransformers"),
    "x-transformers-sinkhorn": ("x_transformers", "Sinkhorn"),
    "x-transformers-gated": ("x_transformers", "GatedMultiResidual"),
    "sparse-hyper-connections": ("sparse_hyper_connections", "Cayley"),
    "fla": ("fla", "Fla"),
    "fla-naive": ("fla", "FlaNaive"),
    "fla-attnres": ("fla", "AttnResNaive"),
    "mhc": ("mhc", "Mhc"),
    "mhc-ddim": ("mhc_ddim", "MhcDdim"),
    "mhc-mlx": ("mhc_mlx", "projection"),
    "mlx-lm": ("mlx_lm", "DeepseekV41"),
    "mlx-lm-kimi-k3": ("mlx_lm_kimi_k3", "KimiK3"),
    "mlx-lm-muse-spark": ("mlx_lm_muse_spark", "MuseSpark"),
    "mlx-mhc": ("mlx_mhc", "projection"),
    "nemo-automodel-deepseek-v4": ("nemo_automodel", "DeepseekV4"),
    "nemo-automodel-deepseek-v41": ("nemo_automodel", "DeepseekV41"),
    "nemo-automodel-glm5-next": ("nemo_automodel", "Glm5Next"),
    "nemo-automodel-kimi-k3": ("nemo_automodel", "KimiK3"),
    "nemo-automodel-qwen3-8-flash-next": ("nemo_automodel", "Qwen38FlashNext"),
}
"""NAME of `published:NAME` -> the module in this package, and the class in it, or the function that makes one."""

EXTRAS = (
    *("transformers", "hyper-connections", "hyper-connections-triton", "x-transformers", "sparse-hyper-connections"),
    *("liger", "tile-kernels", "fla", "mhc", "mhc-ddim", "mhc-mlx", "mlx-lm", "mlx-mhc", "nemo-automodel"),
)
"""The extras of this package that bring the libraries; the name of each adapter begins with that of its extra."""


def extra_of(name: str) -> str:
    """The extra that brings the library of an adapter: of those that its name begins with, the longest."""
    return max((one for one in EXTRAS if f"{name}-".startswith(f"{one}-")), key=len, default=name)


def build(name: str) -> Implementation:
    """The adapter of that name.

    Raises:
        LookupError: there is none; the message lists the names.
        ImportError: its library is not installed, or not in a version that has these modules.
    """
    if name not in ADAPTERS:
        raise LookupError(f"there is no published implementation {name!r}; the names are {', '.join(ADAPTERS)}")
    module, attribute = ADAPTERS[name]
    implementation: Implementation = getattr(import_module(f"{__name__}.{module}"), attribute)()
    implementation.name = f"published:{name}"
    return implementation


def about(name: str) -> tuple[str, str]:
    """What the adapter of that name takes of its library, and which library that is: read off its file, so that neither
    the library nor torch is imported."""
    module, attribute = ADAPTERS[name]
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    made = next(one for one in tree.body if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == attribute)
    statement, source = ((ast.get_docstring(one) or "").partition("\n\n")[0] for one in (made, tree))
    return " ".join(statement.split()), " ".join(source.split())
