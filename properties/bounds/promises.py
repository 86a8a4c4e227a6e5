"""Whether the formula of a mix keeps what its family guarantees: what it does not, no implementation is blamed for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from properties.core.guarantees import DIM, Guarantees
from properties.core.rounding import Approx

SLACK = 1e-9
"""What a sampled matrix may be off beyond the bound of its family: far above rounding in float64."""


def broken(claimed: Guarantees, inputs: Tensor, value: Callable[[Approx], Approx]) -> str:
    """The first guarantee that M does not keep at these inputs [samples, *shape], in words; empty where all hold.

    Arguments:
        value: the inputs -> M [samples, n, n] in float64, and its bound.
    """
    found = value(Approx.exact(inputs))
    n, sizes = found.value.shape[-1], found.value.abs().amax((-1, -2)).clamp(min=1)
    most = 4 * n * sizes * (SLACK + found.error.amax((-1, -2)))
    for words, off in _kept(claimed, found.value, inputs, lambda z: value(Approx.exact(z)).value):
        worse = off.reshape(len(inputs), -1).amax(1) > most
        if worse.any():
            at = int(worse.nonzero()[0])
            return (
                f"it guarantees that {words}, but at the input {inputs[at].tolist()} gives {found.value[at].tolist()}"
            )
    return ""


def _kept(
    claimed: Guarantees, m: Tensor, z: Tensor, project: Callable[[Tensor], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Every guarantee that can be seen at a few inputs, in words, and how far M is off."""
    n = m.shape[-1]
    eye = torch.eye(n, dtype=m.dtype)
    if claimed.nonnegative:
        yield "no entry is below 0", -m
    for axis in sorted(claimed.sums):
        yield f"the entries of each {axis} sum to 1", (m.sum(DIM[axis]) - 1).abs()
    for axis in sorted(claimed.capped):
        yield f"the absolute entries of each {axis} sum to at most 1", m.abs().sum(DIM[axis]) - 1
    if claimed.identity:
        yield "M is the identity", (m - eye).abs()
    if claimed.orthogonal:
        yield "M M^T is the identity", (m @ m.mT - eye).abs()
    if claimed.nonexpansive:
        yield "no vector becomes longer", torch.linalg.matrix_norm(m, 2) - 1
    if claimed.constant:
        yield "M does not depend on the logits", (m - m[:1]).abs()
    if z.shape[1:] != (n, n):
        return
    turn = torch.arange(n).roll(1)
    if claimed.equivariant:
        yield "permuted rows of logits give permuted rows of M", (project(z[:, turn]) - m[:, turn]).abs()
        yield "permuted columns of logits give permuted columns of M", (project(z[..., turn]) - m[..., turn]).abs()
    if claimed.conjugate:
        yield "streams have no names", (project(z[:, turn][..., turn]) - m[:, turn][..., turn]).abs()
    if claimed.shift:
        steps = torch.linspace(-1, 2, n, dtype=z.dtype)
        moved = z + (steps[:, None] if claimed.shift == "row" else steps)
        yield f"a constant added to a {claimed.shift} of logits changes nothing", (project(moved) - m).abs()
