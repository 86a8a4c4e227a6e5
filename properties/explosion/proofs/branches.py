"""The branches of family block, each once: what they answer at most, how steep they are, and how they are computed.

    linear     F(u) = W u                                 |W| <= g
    relu       F(u) = W2 relu(W1 u)                       |W1| |W2| <= g
    gelu, tanh, sigmoid    F(u) = W2 act(W1 u)            |W1| <= 1, |W2| <= g
    gated      F(u) = W3 (silu(W2 u) * W1 u)              |W1|, |W2| <= 1, |W3| <= g
    attention  causal, any number of heads and tokens     |Wo| |Wv| <= g

For inputs within v a branch answers at most g times f(v), and one channel of weight 1 and g attains it at v:

    v             linear, relu (1-Lipschitz, 0 at 0), attention (a convex combination of values)
    v Phi(v)      gelu: |z| Phi(z) <= |z| Phi(|z|), which grows with |z|
    tanh(v), sigma(v)
    v^2 sigma(v)  gated: |silu(z)| <= silu(|z|)

The largest slope within v, in the sup-norm and for g = 1:

    1             linear, relu, tanh (at 0), attention of one token
    gelu'(min(v, sqrt(2)))   gelu'(z) = Phi(z) + z phi(z) grows up to sqrt(2), and gelu'(-z) = 1 - gelu'(z) is smaller
    1/4           sigmoid (at 0)
    v silu'(min(v, z1)) + silu(v)   gated, by the product rule; silu' is largest at z1 = 2.3993572805..., and
                  silu'(-z) = 1 - silu'(z)

Attention of several tokens has no largest slope unless its logits are bounded: |u^T M w| <= h |u| |w|, the scale
included, in every head. Then it is 1 + 2 h v^2. With the shares p_j of the tokens and c_j what they hold, |c_j| <= v,
an answer changes by sum p_j dc_j, which is at most |du|, and by the covariance of the changes of the logits and c,
which is at most the product of their standard deviations. A logit changes by at most 2 h v |du|, for the asking and the
asked token both change, and a standard deviation is at most half the range: 2 h v |du| and v. Two tokens with the
shares 1/2 attain 1 + h v^2 (`searches.steep`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Answered = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Branch:
    """One branch. Functions of (v, mp) are in mpmath.

    Attributes:
        answers: the largest |F(u)| of |u| <= v, over g.
        slope: the largest slope within v, over g.
        derivative: that of one channel at v >= 0, from the right.
        acts: one channel in torch, over g.
        words: what it answers, with {g} for g.
        rational: whether `answers` is v.
        origin: whether it can be 0 at 0 and have its largest slope there: relu to the right of it, sigmoid as a
            difference of two, each of half the weight.
        gate: whether one channel is multiplied by the silu of another.
    """

    answers: Answered
    slope: Answered
    derivative: Answered
    acts: Callable[[Tensor], Tensor]
    words: str
    rational: bool = False
    origin: bool = False
    gate: bool = False


def sigmoid(z: Any, mp: Any) -> Any:
    return 1 / (1 + mp.exp(-mp.mpf(z)))


def _silu_slope(z: Any, mp: Any) -> Any:
    s = sigmoid(z, mp)
    return s + z * s * (1 - s)


_STEEPEST_SILU = "2.399357280515467667832739697282283888522917576837214417830955568"
"""Where silu' is largest: 2 = z tanh(z / 2)."""


def _gated_slope(v: Any, mp: Any) -> Any:
    return v * _silu_slope(min(v, mp.mpf(_STEEPEST_SILU)), mp) + v * sigmoid(v, mp)


def _gelu_slope(z: Any, mp: Any) -> Any:
    return mp.ncdf(z) + z * mp.npdf(z)


def _same(v: Any, mp: Any) -> Any:
    return v


def _one(v: Any, mp: Any) -> Any:
    return mp.one


_LINEAR = Branch(_same, _one, _one, lambda u: u, "at most {g} v", rational=True, origin=True)

_NAMED = (
    ("linear", _LINEAR),
    ("relu", Branch(_same, _one, _one, lambda u: u.relu(), "at most {g} v", rational=True, origin=True)),
    (
        "gated",
        Branch(
            lambda v, mp: v * v * sigmoid(v, mp),
            _gated_slope,
            lambda z, mp: z * _silu_slope(z, mp) + z * sigmoid(z, mp),
            lambda u: nn.functional.silu(u) * u,
            "at most {g} v silu(v)",
            gate=True,
        ),
    ),
    ("attention", _LINEAR),
    (
        "gelu",
        Branch(
            lambda v, mp: v * mp.ncdf(v),
            lambda v, mp: _gelu_slope(min(v, mp.sqrt(2)), mp),
            _gelu_slope,
            nn.functional.gelu,
            "at most {g} gelu(v)",
        ),
    ),
    (
        "tanh",
        Branch(
            lambda v, mp: mp.tanh(v),
            _one,
            lambda z, mp: mp.sech(z) ** 2,
            lambda u: u.tanh(),
            "less than {g}",
            origin=True,
        ),
    ),
    (
        "sigmoid",
        Branch(
            sigmoid,
            lambda v, mp: mp.one / 4,
            lambda z, mp: sigmoid(z, mp) * (1 - sigmoid(z, mp)),
            lambda u: u.sigmoid(),
            "less than {g}",
            origin=True,
        ),
    ),
)
BRANCHES: dict[str, Branch] = dict(_NAMED)
