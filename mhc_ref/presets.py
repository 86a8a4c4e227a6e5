"""The dialects that people ship or print, by name; each names its source."""

from __future__ import annotations

from mhc_ref.dialect import Dialect

PAPER = Dialect(rms_eps=1e-20)
"""mHC as printed: arXiv 2512.24880 eq. (7)-(9), columns first and rows last, 20 iterations, norm eps of table 5."""

DEEPSEEK_V4 = Dialect(
    start="softmax",
    start_axis="row",
    last_axis="column",
    entry_eps=1e-6,
    denominator_eps=1e-6,
    pre_eps=1e-6,
    rms_eps=1e-6,
    transposed=True,
    collapse="head",
)
"""DeepSeek-V4's inference code; deepseek-ai/TileKernels:tile_kernels/torch/mhc.py (36d9e45), transformers 5.23.0."""

LIGER = DEEPSEEK_V4.with_(transposed=False, pre_eps=0.0, collapse="sum")
"""linkedin/Liger-Kernel:src/liger_kernel/ops/mhc.py (ead96b6): the same stored matrix, applied untransposed."""

LUCIDRAINS = Dialect(
    denominator="clamp",
    denominator_eps=1e-12,
    transposed=True,
    norm_over="stream",
    shared_projection=True,
)
"""lucidrains/hyper-connections 0.4.11:mHCv2.py. Its norm is F.normalize, without an additive eps, hence rms_eps 0."""

MHC_LITE = Dialect(residual="permutations", transposed=True)
"""mHC-lite, arXiv 2601.05732; FFTYYY/mhc-lite:hyper_conn (ea19775), which applies the transpose of what it stores."""

HYPER_CONNECTIONS = Dialect(
    residual="unconstrained",
    dynamic="tanh",
    norm_over="stream",
    shared_projection=True,
    pre="linear",
    post="linear",
    post_scale=1.0,
    transposed=True,
)
"""Hyper-connections before the manifold: arXiv 2409.19606 eq. (2), (10)-(13), A_r applied transposed."""

RESIDUAL = Dialect(residual="identity")
"""The plain residual stream x + h_post F(h_pre x); n = 1 is meaningful."""

PRESETS: dict[str, Dialect] = {
    "PAPER": PAPER,
    "DEEPSEEK_V4": DEEPSEEK_V4,
    "LIGER": LIGER,
    "LUCIDRAINS": LUCIDRAINS,
    "MHC_LITE": MHC_LITE,
    "HYPER_CONNECTIONS": HYPER_CONNECTIONS,
    "RESIDUAL": RESIDUAL,
}
"""Every preset by the name that the command line uses."""
