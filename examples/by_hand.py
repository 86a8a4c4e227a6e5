"""A whole block by hand in torch, as the mHC paper has it. It is right: copy it, break a line, and see what is said.

mhc-properties check examples/by_hand.py:Mine
"""

import torch

from mhc_ref import PAPER, Mappings
from properties import Implementation

EPS = 1e-20  # inside the root; the presets say which eps each implementation has


def sinkhorn(logits, iterations=20):
    """20 times columns, then rows, so that the rows sum to 1 in the end.

    The shift by the largest of a column keeps exp from overflowing, and changes nothing else: the first division is by
    column sums.
    """
    m = (logits - logits.amax(-2, keepdim=True)).exp()
    for _ in range(iterations):
        m = m / m.sum(-2, keepdim=True)
        m = m / m.sum(-1, keepdim=True)
    return m


class Mine(Implementation):
    """x' = h_res x + h_post^T F(h_pre x), with all three mappings made from the whole normalised state."""

    dialect = PAPER
    streams = (1, 2, 3, 4)

    def project(self, logits):
        return sinkhorn(logits)

    def mappings(self, x, params):  # x [..., n, C]; phi [n*C, 2n + n*n], columns pre | post | res
        n = x.shape[-2]
        wide = x.to(params.phi.dtype).flatten(-2)  # float32, or float64 for a float64 state
        inverse = (wide.square().mean(-1, keepdim=True) + EPS).rsqrt()
        weighted = wide if params.norm_weight is None else wide * params.norm_weight
        logits = (weighted * inverse) @ params.phi
        pre, post, res = logits.split([n, n, n * n], -1)
        (a_pre, a_post, a_res), (b_pre, b_post, b_res) = params.alpha, params.bias.split([n, n, n * n])
        return Mappings(
            torch.sigmoid(a_pre * pre + b_pre),
            2 * torch.sigmoid(a_post * post + b_post),
            sinkhorn((a_res * res + b_res).unflatten(-1, (n, n))),
        )

    def pre(self, x, h_pre):  # what the branch reads, [..., C]
        return (h_pre[..., None] * x.to(h_pre.dtype)).sum(-2).to(x.dtype)

    def post(self, x, y, h_post, h_res):  # the next state, [..., n, C]
        mixed = h_res @ x.to(h_res.dtype)
        return (mixed + h_post[..., None] * y.to(h_res.dtype)[..., None, :]).to(x.dtype)
