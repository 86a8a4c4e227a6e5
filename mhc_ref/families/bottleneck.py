"""Bottleneck: a branch reads the mean of the normalised streams, every channel times a gate (Qwen4-Exp).

With x^ [n, C] the normalised state, r the rank, D [r, n*C] and U [n*C, r], the gates are g = sigma(U silu(D x^ / n)),
and the branch reads u = mean over the streams of g * x^. As x^ is x times factor = (offset + weight) / rms, u is the
sum over the streams of h_pre x with h_pre = g * factor / n, [n, C], which is what `weights` gives.

phi has the columns D^T | post | res | U: its logits come first, as everywhere, and U [n*C, r] last.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from mhc_ref.block import Params, squash
from mhc_ref.dialect import Dialect
from mhc_ref.projection import compute_dtype
from mhc_ref.registry import Field, formulas
from mhc_ref.rms import rms

FIELDS = {
    "rank": Field(4, lambda r: type(r) is int and r > 0, "a whole number above 0", "numbers in the bottleneck"),
    "affine": Field(
        False, lambda a: isinstance(a, bool), "True or False", "logits have gates and biases; alpha and bias are read"
    ),
}


def conflict(dialect: Dialect) -> str | None:
    """It divides by the root of a mean square, takes gates one by one, has a row of phi for every channel, and leaves
    the streams unmixed, since its logits may have no static part."""
    asked = {
        "residual": dialect.residual == "identity",
        "read_from": dialect.read_from == "own",
        "norm_over": dialect.norm_over in ("stream", "streams"),
        "pre": dialect.pre == "sigmoid",
        "shared_projection": not dialect.shared_projection,
        "collapse": not getattr(formulas("end", dialect.collapse), "LAST", False),  # which reads with gates of streams
    }
    wrong = [name for name, fits in asked.items() if not fits]
    if not wrong:
        return None
    value = getattr(dialect, wrong[0])
    return (
        f"Dialect.read='bottleneck' conflicts with {wrong[0]}={value!r}: it reads a state divided by its rms through a "
        "sigmoid for each channel, of products with a row of phi for each, and its streams are not mixed"
    )


def width(n: int, dialect: Dialect) -> int:
    """The numbers in the bottleneck."""
    return dialect.rank


def beyond(dialect: Dialect) -> int:
    """The columns of U."""
    return dialect.rank


def affine(dialect: Dialect) -> bool:
    """Whether logits have gates and biases; otherwise alpha and bias are there and not read."""
    return dialect.affine


def share(n: int, dialect: Dialect) -> float:
    """The products with phi are means over the streams of what each adds."""
    return 1 / n


def weights(
    logits: Float[Tensor, "*tokens r"], x: Float[Tensor, "*tokens n C"], params: Params, dialect: Dialect
) -> Float[Tensor, "*tokens n C"]:
    """g * factor / n."""
    n, channels = x.shape[-2:]
    opened = (silu(logits) @ params.phi[:, -dialect.rank :].T).unflatten(-1, (n, channels))
    gates = squash(opened, dialect.pre, dialect) + dialect.pre_eps
    over = formulas("norm", dialect.norm_over).OVER
    factor = 1 / rms(x.to(compute_dtype(x.dtype)), over, dialect)
    if params.norm_weight is not None:
        factor = factor * (dialect.norm_offset + params.norm_weight).view(n, channels)
    return gates * factor / n
