"""A server in Python: subclass, override what you have, serve.

Try it: mhc-properties process 'python sinkhorn_server.py'
"""

import torch

import mhc_ref
from properties import Implementation
from properties.targets.process.server import serve


class Sinkhorn(Implementation):
    name = "example-python"
    dialect = mhc_ref.PAPER
    dtypes = (torch.float64, torch.float32)

    def project(self, logits: torch.Tensor) -> torch.Tensor:
        m = (logits - logits.amax(-2, keepdim=True)).exp()
        for _ in range(20):
            m = m / m.sum(-2, keepdim=True)
            m = m / m.sum(-1, keepdim=True)
        return m


if __name__ == "__main__":
    serve(Sinkhorn())
