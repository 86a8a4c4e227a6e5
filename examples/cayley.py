"""An orthogonal mixing of somebody's own: M = (I - S)^-1 (I + S), S = reach (Z - Z^T), and an implementation of it.

mhc-properties check examples/cayley.py:Mine
mhc-properties identify examples/cayley.py:Mine
mhc-properties explode mhc --impl examples/cayley.py:Mine --gain spectral --threshold 3
"""

import torch

from mhc_ref import Dialect, Mappings
from mhc_ref.block import gated_logits
from properties import Implementation
from properties.families import Field, Guarantees, Mix


class Cayley(Mix):
    """The Cayley transform of a skew matrix is orthogonal: (I - S)^T = I + S, and the two commute."""

    name = "their_cayley"
    words = "the Cayley transform of its logits"
    source = "A. Cayley, 1846; sparse-hyper-connections 0.1.2"
    roundings = 16  # of one entry, at the size of the numbers that it is made of: declared, where no bound is derived
    FIELDS = {"reach": Field(0.5, lambda v: 0 < v < 100, "a number between 0 and 100", "S = reach (Z - Z^T)")}

    def project(self, logits, dialect):
        """In torch; the bound is made of it by reverse mode."""
        skew = dialect.reach * (logits - logits.mT)
        eye = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        return torch.linalg.solve(eye - skew, eye + skew)

    def exact(self, z, n, dialect, real):
        """In mpmath, one token, for numbers that may carry derivatives: Gauss and Jordan; no pivot is below 1."""
        rows = [[z[n * i + j] - z[n * j + i] for j in range(n)] for i in range(n)]
        rows = [[dialect.reach * entry for entry in row] for row in rows]
        left = [[(i == j) - rows[i][j] for j in range(n)] for i in range(n)]
        both = [left[i] + [(i == j) + rows[i][j] for j in range(n)] for i in range(n)]
        for k in range(n):
            pivot = [entry / both[k][k] for entry in both[k]]
            both = [
                pivot if i == k else [a - row[k] * b for a, b in zip(row, pivot, strict=True)]
                for i, row in enumerate(both)
            ]
        return [row[n:] for row in both]

    def guarantees(self, dialect):
        """M M^T = I, hence no gain above 1 in the norm of a state."""
        return Guarantees(orthogonal=True, conjugate=True)

    def deviations(self):
        """What goes wrong, as formulas."""
        return {"their-cayley-symmetric": ("mutation, no public report", symmetric)}


def symmetric(logits, dialect):
    """S is symmetric: the sign of the transpose is lost."""
    even = dialect.reach * (logits + logits.mT)
    eye = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return torch.linalg.solve(eye - even, eye + even)


class Mine(Implementation):
    """The same mathematics, computed otherwise: 2 (I - S)^-1 - I, and products as einsums."""

    dialect = Dialect(residual=Cayley(), rms_eps=1e-6)
    tunable = frozenset({"reach"})

    def tuned(self, **fields):
        made = type(self)()
        made.dialect = self.dialect.with_(**fields)
        return made

    def mappings(self, x, params):
        n = x.shape[-2]
        pre, post, res = gated_logits(x, params, self.dialect).split([n, n, n * n], -1)
        skew = (res.unflatten(-1, (n, n)) - res.unflatten(-1, (n, n)).mT) * self.dialect.reach
        eye = torch.eye(n, dtype=res.dtype, device=res.device)
        return Mappings(pre.sigmoid(), 2 * post.sigmoid(), 2 * torch.linalg.inv(eye - skew) - eye)

    def pre(self, x, h_pre):
        return torch.einsum("...n,...nc->...c", h_pre, x.to(h_pre.dtype)).to(x.dtype)

    def post(self, x, y, h_post, h_res):
        mixed = torch.einsum("...ij,...jc->...ic", h_res, x.to(h_res.dtype))
        return (mixed + h_post[..., None] * y[..., None, :]).to(x.dtype)
