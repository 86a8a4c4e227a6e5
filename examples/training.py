"""Training with the monitor: it says which layer leaves its bounds, and when. The loss falls all the while.

python examples/training.py
mhc-properties report gains.jsonl --html gains.html
"""

import logging

import torch
from torch import nn

from properties.explosion import Monitor


class Block(nn.Module):
    """x' = A x + 0.1 F(x) with an unconstrained A, as hyper-connections have it; n = 4 streams."""

    def __init__(self, width):
        super().__init__()
        self.a = nn.Parameter(torch.eye(4))
        self.f = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh())

    def forward(self, x):  # [batch, 4, width]
        monitor.record(self.a.expand(len(x), 4, 4), x)
        return self.a @ x + 0.1 * self.f(x)


logging.basicConfig(level=logging.WARNING, format="%(message)s")
torch.manual_seed(0)
model = nn.Sequential(*[Block(8) for _ in range(12)])
optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
x = torch.randn(32, 1, 8).expand(32, 4, 8)
target = 50 * x  # which the branches, bounded as they are, cannot reach: the mixing has to grow

with Monitor(path="gains.jsonl", bound=10.0) as monitor:
    for step in range(60):
        loss = (model(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rows = monitor.flush()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}, gain {rows[-1]['forward_gain']:.2f}")
