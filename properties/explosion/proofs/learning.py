"""Learning rates: what a step of gradient ascent can do to the residual path. A law, not a search.

mHC. The caps of `manifold` hold for *every* finite logit, and whatever the parameters, the gates and the state are,
what they make is a finite logit. A step of any size along any direction gives other parameters: so the caps hold after
it, at every learning rate. Nothing about the rate is used, which is the point.

HC. The entries of A are the parameters. At A_1 = ... = A_L = I the composite is I, and the gradient of its row sum i
by each A_l is e_i 1^T. A step of size r makes each A_l = I + r e_i 1^T. With s = 1^T v the vector v = 1 becomes
v + r s e_i and s becomes (1 + r) s in every sub-layer, so that row i of the composite then sums to

    1 + n ((1 + r)^L - 1),

which is unbounded in r: 1 + n r in a single sub-layer.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from mhc_ref.gain import prefixes


def after_one_step(parameters: Tensor, operators: Callable[[Tensor], Tensor], rate: float) -> Tensor:
    """Parameters [L, n, n] after a step of size `rate` along the gradient of the composite's largest row sum.

    `operators` makes the matrices A_l [L, n, n] of them: the identity for unconstrained mixing, a projection for mHC.
    """
    at = parameters.detach().requires_grad_()
    sums = prefixes(operators(at))[-1].sum(-1)
    (slope,) = torch.autograd.grad(sums[int(sums.argmax())], at)  # of one row where several are largest
    return (at + rate * slope).detach()


def unconstrained_gain(rate: Fraction, n: int, depth: int) -> Fraction:
    """The forward gain of L layers of HC, begun at the identity, after one step of size r: 1 + n ((1 + r)^L - 1)."""
    return 1 + n * ((1 + rate) ** depth - 1)
