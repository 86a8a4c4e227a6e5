"""The declared choices on which correct implementations of hyper-connections differ.

A `Dialect` is pure data: it imports nothing, so that the float reference and the mpmath oracle can share it
and nothing else. Each preset names its source.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Residual = Literal["sinkhorn", "permutations", "unconstrained", "identity"]
Axis = Literal["row", "column"]
Start = Literal["exp", "softmax"]
Denominator = Literal["add", "clamp"]
Squash = Literal["sigmoid", "softmax", "linear"]
Dynamic = Literal["linear", "tanh"]
Span = Literal["streams", "stream"]
Expand = Literal["copies"]
Collapse = Literal["sum", "mean", "head"]

MAX_PERMUTATION_STREAMS = 5
"""Largest n of the permutation mixture: it has n! coefficients a token."""


@dataclass(frozen=True)
class Dialect:
    """Everything that must be said before an implementation of hyper-connections can be called right or wrong.

    Notation: n streams of C channels, state x [..., n, C]; Z [..., n, n] the logits; M the projected matrix as
    emitted; A the operator that the block applies (M, or its transpose where `transposed`).
    *row* is dim -1 of the emitted matrix (lines that sum over j), *column* is dim -2.

    Attributes:
        residual: how logits become M. ``sinkhorn``: alternating normalisation (mHC, arXiv 2512.24880 eq. 8-9);
            ``permutations``: softmax over the n! permutation matrices (mHC-lite, arXiv 2601.05732);
            ``unconstrained``: M is the logits (HC, arXiv 2409.19606); ``identity``: M = I, the logits are ignored.
        last_axis: axis of the final division; the other one is the *first* axis.
        start: ``exp``: M = exp(Z - max over the first axis) + entry_eps, then ``iterations`` x (first, last).
            ``softmax``: M = softmax(Z, start_axis) + entry_eps; where start_axis is the first axis this is the
            first half-step of iteration 1, otherwise ``iterations`` full (first, last) follow.
        start_axis: axis of the softmax start; without meaning for ``exp``.
        iterations: number of (first, last) pairs; 0 leaves M as started, exp then being unshifted.
        entry_eps: added to every entry of the started matrix.
        denominator_eps: with ``denominator`` ``add``: M / (sum + eps); with ``clamp``: M / max(sum, eps).
        transposed: the block applies M^T; `project` and `Mappings.res` are M itself.
        pre, pre_eps: h_pre = pre(logits) + pre_eps.
        post, post_scale: h_post = post_scale * post(logits).
        dynamic: logits = alpha * dynamic(normalised state @ phi) + bias.
        norm_over: rms over all n*C numbers of a token, or over each stream by itself.
        shared_projection: one phi [C, 2 + n] for all streams; stream s gives its own pre, post and row of Z.
        rms_eps, rms_eps_inside: rms = sqrt(mean(x^2) + eps), or sqrt(mean(x^2)) + eps. A state whose rms is
            exactly 0 with rms_eps 0 is normalised to 0.
        expand, collapse: how the streams begin and end. ``head`` is the gated sum of DeepSeek-V4: weights
            pre(logits) + pre_eps from parameters of its own, not normalised.

    Raises:
        ValueError: a value outside its range, or fields that contradict each other; the message names them.
    """

    residual: Residual = "sinkhorn"
    last_axis: Axis = "row"
    start: Start = "exp"
    start_axis: Axis = "row"
    iterations: int = 20
    entry_eps: float = 0.0
    denominator_eps: float = 0.0
    denominator: Denominator = "add"
    transposed: bool = False
    pre: Squash = "sigmoid"
    pre_eps: float = 0.0
    post: Squash = "sigmoid"
    post_scale: float = 2.0
    dynamic: Dynamic = "linear"
    norm_over: Span = "streams"
    shared_projection: bool = False
    rms_eps: float = 0.0
    rms_eps_inside: bool = True
    expand: Expand = "copies"
    collapse: Collapse = "sum"

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"Dialect.{field} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
        for field in ("transposed", "shared_projection", "rms_eps_inside"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"Dialect.{field} is {getattr(self, field)!r}; expected True or False")
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Dialect.iterations is {self.iterations!r}; expected an integer of 0 or more")
        for field in ("entry_eps", "denominator_eps", "rms_eps", "pre_eps", "post_scale"):
            value: Any = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"Dialect.{field} is {value!r}; expected a finite number")
            if field != "post_scale" and value < 0:
                raise ValueError(
                    f"Dialect.{field} is {value!r}; expected 0 or more: an eps is added to keep a sum positive"
                )
            object.__setattr__(self, field, float(value))
        if self.post_scale <= 0:
            raise ValueError(
                f"Dialect.post_scale is {self.post_scale!r}; expected more than 0: h_post is a scaled gate"
            )
        if self.shared_projection and self.residual == "permutations":
            raise ValueError(
                "Dialect.shared_projection=True conflicts with residual='permutations': a shared projection gives "
                "row s of an n x n matrix for stream s; the n! coefficients of the mixture belong to no stream"
            )
        if self.denominator == "clamp" and self.denominator_eps >= 1:
            raise ValueError(
                f"Dialect.denominator='clamp' conflicts with denominator_eps={self.denominator_eps!r}: a sum that is "
                "already 1 would be divided by more than 1, so no doubly stochastic matrix is left unchanged"
            )

    @property
    def first_axis(self) -> Axis:
        """The axis normalised before the last one in every iteration."""
        return "column" if self.last_axis == "row" else "row"

    @property
    def softmax_is_first_half_step(self) -> bool:
        """Whether the softmax start already is the first half-step of iteration 1."""
        return self.start == "softmax" and self.start_axis == self.first_axis

    def with_(self, **fields: Any) -> Dialect:
        """A copy with other values in `fields`; unknown names raise TypeError, bad values ValueError."""
        return dataclasses.replace(self, **fields)

    def difference(self, other: Dialect) -> dict[str, tuple[Any, Any]]:
        """The fields in which two dialects differ: name -> (mine, theirs)."""
        names = [field.name for field in dataclasses.fields(self)]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


_CHOICES: dict[str, tuple[str, ...]] = {
    "residual": get_args(Residual),
    "last_axis": get_args(Axis),
    "start": get_args(Start),
    "start_axis": get_args(Axis),
    "denominator": get_args(Denominator),
    "pre": get_args(Squash),
    "post": get_args(Squash),
    "dynamic": get_args(Dynamic),
    "norm_over": get_args(Span),
    "expand": get_args(Expand),
    "collapse": get_args(Collapse),
}

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
