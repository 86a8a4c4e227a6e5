"""The dialects that people ship or print, by name: their fields where these differ from the defaults, and their words.

A preset is made when it is first asked for, so that nobody pays for the families of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mhc_ref.dialect import Dialect

FIELDS: dict[str, dict[str, Any]] = {
    "PAPER": {"rms_eps": 1e-20},
    "DEEPSEEK_V4": {
        "start": "softmax",
        "start_axis": "row",
        "last_axis": "column",
        "entry_eps": 1e-6,
        "denominator_eps": 1e-6,
        "pre_eps": 1e-6,
        "rms_eps": 1e-6,
        "transposed": True,
        "collapse": "head",
    },
    "DEEPSEEK_V4_1": {
        "like": "DEEPSEEK_V4",
        "rms_eps": 1e-20,
        "read_from": "previous",
        "first_read": "stream0",
        "collapse": "last-pre",
    },
    "LIGER": {"like": "DEEPSEEK_V4", "transposed": False, "pre_eps": 0.0, "collapse": "sum"},
    "LUCIDRAINS": {
        "denominator": "clamp",
        "denominator_eps": 1e-12,
        "transposed": True,
        "norm_over": "stream",
        "shared_projection": True,
        "rms_eps": 1e-12,
        "rms_eps_by": "clamp",
    },
    "MHC_LITE": {"residual": "permutations", "transposed": True},
    "HYPER_CONNECTIONS": {
        "residual": "unconstrained",
        "dynamic": "tanh",
        "norm_over": "stream",
        "shared_projection": True,
        "pre": "linear",
        "post": "linear",
        "post_scale": 1.0,
        "transposed": True,
    },
    "RESIDUAL": {"residual": "identity"},
    "IHC": {
        "residual": "identity",
        "res_columns": False,
        "pre_eps": 1e-6,
        "post_eps": 1e-6,
        "rms_eps": 1e-6,
        "collapse": "head",
    },
    "KROMHC": {"residual": "kronecker", "transposed": True},
    "CAYLEY": {"residual": "cayley", "rms_eps": 1e-6},
    "QWEN4_EXP": {
        "residual": "identity",
        "res_columns": False,
        "norm_over": "stream",
        "norm_offset": 1.0,
        "read": "bottleneck",
        "rms_eps": 1e-6,
        "collapse": "head",
    },
    "ATTN_RES": {
        "residual": "identity",
        "res_columns": False,
        "norm_over": "stream",
        "shared_projection": True,
        "pre": "softmax",
        "post": "newest",
        "post_scale": 1.0,
        "read": "depth-attention",
        "rms_eps": 1e-6,
        "collapse": "head",
    },
    "MUSE_SPARK": {"residual": "carry", "temperature": 0.3, "post_scale": 1.0},
}
"""Name -> the fields that differ from the defaults of `Dialect`, or from the preset that it is `like`."""

SOURCES: dict[str, str] = {
    "PAPER": "mHC as printed, arXiv 2512.24880 eq. (7)-(9): columns first and rows last, 20 iterations, the norm's "
    "eps of table 5",
    "DEEPSEEK_V4": "DeepSeek-V4's inference code; deepseek-ai/TileKernels:tile_kernels/torch/mhc.py (36d9e45), "
    "transformers 5.24.0",
    "DEEPSEEK_V4_1": "DeepSeek-V4.1's single pass, mlx-lm 0.32.2:mlx_lm/models/deepseek_v41.py: a branch reads with "
    "the h_pre of the block before, the first reads stream 0, and the streams end by the last h_pre",
    "LIGER": "linkedin/Liger-Kernel:src/liger_kernel/ops/mhc.py (ead96b6): the same stored matrix, untransposed",
    "LUCIDRAINS": "lucidrains/hyper-connections 0.4.11:mHCv2.py; its norm is F.normalize, which divides by the "
    "larger of |x| and 1e-12",
    "MHC_LITE": "mHC-lite, arXiv 2601.05732; FFTYYY/mhc-lite:hyper_conn (ea19775), which applies the transpose of "
    "what it stores",
    "HYPER_CONNECTIONS": "hyper-connections before the manifold, arXiv 2409.19606 eq. (2), (10)-(13), A_r transposed",
    "RESIDUAL": "the plain residual stream x + h_post F(h_pre x); n = 1 is meaningful",
    "IHC": "iHC of Hy4, streams that keep to themselves; transformers 5.24.0: HYV4HyperConnection, HYV4HyperHead; its "
    "`hc_magnitude` is post_scale",
    "KROMHC": "KromHC, arXiv 2601.21579; wz1119/KromHC:hyper_conn/Kromhc.py (dd2910c), for n a power of 2",
    "CAYLEY": "hyper-connections with an orthogonal mixing: the Cayley transform, A. Cayley, 1846, as in "
    "sparse-hyper-connections 0.1.2:shc/layers/cayley.py, whose skew matrix is the negative of this one",
    "QWEN4_EXP": "the gated residual of Qwen4-Exp, transformers 5.24.0: models/qwen4_exp/modeling_qwen4_exp.py, "
    "Qwen4ExpTextGatedResidual",
    "ATTN_RES": "attention residuals, arXiv 2603.15031: layers of one group, which read the states before it and the "
    "sum under way, and add to that; liger-kernel 0.8.5, fla-core 0.6.0, Kimi K3",
    "MUSE_SPARK": "the residual gate of Muse Spark, its alpha for each stream where Muse Spark has one a channel "
    "of its one stream; transformers 5.24.0: models/muse_spark/modeling_muse_spark.py, MuseSparkResidualGate",
}
"""Name -> what it is, and where it is printed or shipped."""


class Presets(Mapping[str, Dialect]):
    """Every preset by the name that the command line uses, in the order in which they are listed."""

    def __init__(self, fields: Mapping[str, Mapping[str, Any]]) -> None:
        self._fields = fields
        self._made: dict[str, Dialect] = {}

    @property
    def first(self) -> str:
        """The name of the preset that is meant where none is named."""
        return next(iter(self))

    @property
    def default(self) -> Dialect:
        """The dialect that is meant where none is named: the first preset's."""
        return self[self.first]

    def __getitem__(self, name: str) -> Dialect:
        if name not in self._made:
            fields = dict(self._fields[name])
            like = fields.pop("like", None)
            self._made[name] = Dialect(**fields) if like is None else self[like].with_(**fields)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return name in self._fields


PRESETS = Presets(FIELDS or {"DEFAULT": {}})


def __getattr__(name: str) -> Dialect:
    """A preset by its name: `mhc_ref.presets.PAPER`."""
    if name in PRESETS:
        return PRESETS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
