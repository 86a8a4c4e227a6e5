"""A `torch.nn.Module` with parameters of its own names, as models have them.

mhc-properties check examples/module.py:Mine
"""

import torch
from torch import nn

from mhc_ref import DEEPSEEK_V4
from properties.modules import from_module


class HyperConnection(nn.Module):
    """DeepSeek-V4's coefficients of a state [..., n, C]: (pre [..., n], post [..., n], comb [..., n, n])."""

    def __init__(self, n, channels, eps=1e-6):
        super().__init__()
        self.n, self.eps = n, eps
        self.fn = nn.Parameter(torch.zeros(2 * n + n * n, n * channels))
        self.base = nn.Parameter(torch.zeros(2 * n + n * n))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        n, flat = self.n, x.to(self.fn.dtype).flatten(-2)
        mixes = (flat @ self.fn.mT) * (flat.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        pre, post, comb = mixes.split([n, n, n * n], -1)
        b_pre, b_post, b_comb = self.base.split([n, n, n * n])
        pre = torch.sigmoid(self.scale[0] * pre + b_pre) + self.eps
        post = 2 * torch.sigmoid(self.scale[1] * post + b_post)
        m = (self.scale[2] * comb + b_comb).unflatten(-1, (n, n)).softmax(-1) + self.eps
        m = m / (m.sum(-2, keepdim=True) + self.eps)
        for _ in range(19):
            m = m / (m.sum(-1, keepdim=True) + self.eps)
            m = m / (m.sum(-2, keepdim=True) + self.eps)
        return pre, post, m


Mine = from_module(HyperConnection, {"phi": "fn.T", "bias": "base", "alpha": "scale"}, dialect=DEEPSEEK_V4)
