"""Bottleneck: a branch reads the mean of the normalised streams, every channel times a gate (Qwen4-Exp).

With x^ [n, C] the normalised state, r the rank, D [r, n*C] and U [n*C, r], the gates are g = sigma(U silu(D x^ / n)),
and the branch reads u = mean over the streams of g * x^. As x^ is x times factor = (offset + weight) / rms, u is the
sum over the streams of h_pre x with h_pre = g * factor / n, [n, C], which is what `weights` gives.

phi has the columns D^T | post | res | U: its logits come first, as everywhere, and U [n*C, r] last.

With `one_bottleneck` the gates of what is written are made of the same bottleneck, as x-transformers does it: of
b = alpha_pre silu(D x^ / n), g = sigma(U b + a) with a [n, C], and the logits of h_post are W b + bias, W [n, r]. The
columns of phi are then D^T | post | res | W | a | U, of which post is not read; W [n, r] stands in the rows of every
stream's middle channel, C // 2.
"""

from __future__ import annotations

import torch
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
    "one_bottleneck": Field(
        False,
        lambda a: isinstance(a, bool),
        "True or False",
        "h_post is made of the same bottleneck, times alpha_pre, and both gates have static logits",
    ),
}


def conflict(dialect: Dialect) -> str | None:
    """It divides by the root of a mean square, takes gates one by one, has a row of phi for every channel, and leaves
    the streams unmixed, since its logits may have no static part."""
    asked = {
        "residual": dialect.residual == "identity",
        "read_from": dialect.read_from == "own",
        "norm_over": dialect.norm_over in ("stream", "streams"),
        "rms_eps_by": dialect.rms_eps_by == "add",
        "centred": not dialect.centred,
        "pre": dialect.pre == "sigmoid",
        "shared_projection": not dialect.shared_projection,
        "collapse": not getattr(formulas("end", dialect.collapse), "LAST", False),  # which reads with gates of streams
    }
    wrong = [name for name, fits in asked.items() if not fits]
    if not wrong:
        return _conflict_of_one(dialect)
    value = getattr(dialect, wrong[0])
    return (
        f"Dialect.read='bottleneck' conflicts with {wrong[0]}={value!r}: it reads a state divided by its rms through a "
        "sigmoid for each channel, of products with a row of phi for each, and its streams are not mixed"
    )


def _conflict_of_one(dialect: Dialect) -> str | None:
    """One bottleneck has its own factor and its own static logits, and no last read."""
    wrong = {
        "affine": dialect.affine,
        "collapse": getattr(formulas("end", dialect.collapse), "HEAD", False),
    }
    named = next((name for name, met in wrong.items() if met), None)
    if not dialect.one_bottleneck or named is None:
        return None
    return (
        f"Dialect.one_bottleneck=True conflicts with {named}={getattr(dialect, named)!r}: its factor and its static "
        "logits stand behind the bottleneck, and the streams end without a read of their own"
    )


def width(n: int, dialect: Dialect) -> int:
    """The numbers in the bottleneck."""
    return dialect.rank


def beyond(dialect: Dialect) -> int:
    """The columns of U, and those of W and the static logits, where there is one bottleneck."""
    return 2 * dialect.rank + 1 if dialect.one_bottleneck else dialect.rank


def affine(dialect: Dialect) -> bool:
    """Whether logits have gates and biases; otherwise alpha and bias are there and not read."""
    return dialect.affine


def share(n: int, dialect: Dialect) -> float:
    """The products with phi are means over the streams of what each adds."""
    return 1 / n


def completed(
    logits: Float[Tensor, "*tokens B"], n: int, params: Params, dialect: Dialect
) -> Float[Tensor, "*tokens B"]:
    """b and W b + bias in place of the first r + n products, where there is one bottleneck."""
    if not dialect.one_bottleneck:
        return logits
    r = dialect.rank
    narrow = params.alpha[0] * silu(logits[..., :r])
    written = narrow @ to_write(params.phi, n, dialect).T + params.bias[r : r + n]
    return torch.cat([narrow, written, logits[..., r + n :]], -1)


def to_write(phi: Float[Tensor, "nC M"], n: int, dialect: Dialect) -> Float[Tensor, "n r"]:
    """W, which makes the logits of h_post of one bottleneck."""
    r = dialect.rank
    by_stream = phi[:, -2 * r - 1 : -r - 1].unflatten(0, (n, -1))
    return by_stream[:, by_stream.shape[1] // 2]


def weights(
    logits: Float[Tensor, "*tokens r"], x: Float[Tensor, "*tokens n C"], params: Params, dialect: Dialect
) -> Float[Tensor, "*tokens n C"]:
    """g * factor / n; with one bottleneck the logits are what it holds."""
    n, channels = x.shape[-2:]
    narrow = logits if dialect.one_bottleneck else silu(logits)
    opened = narrow @ params.phi[:, -dialect.rank :].T
    if dialect.one_bottleneck:
        opened = opened + params.phi[:, -dialect.rank - 1]
    opened = opened.unflatten(-1, (n, channels))
    gates = squash(opened, dialect.pre, dialect) + dialect.pre_eps
    over = formulas("norm", dialect.norm_over).OVER
    factor = 1 / rms(x.to(compute_dtype(x.dtype)), over, dialect.at(x.dtype))
    if params.norm_weight is not None:
        factor = factor * (dialect.norm_offset + params.norm_weight).view(n, channels)
    return gates * factor / n
