"""Whether the formula of a mix keeps what its family guarantees: what it does not, no implementation is blamed for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.packing import logits_shape
from properties.core.family import mix_of
from properties.core.guarantees import DIM, Guarantees
from properties.core.rounding import Approx
from properties.guards.faults import HarnessError
from properties.guards.printable import message_of

SIZES = (0.3, 1.0, 3.0, 8.0, 20.0)
"""Standard deviations of the logits that a formula is tried at."""

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


def must_be_kept(dialect: Dialect, n: int) -> None:
    """Try what the mix of a dialect guarantees on its formula in torch, before anything is proved by it.

    Our own are tried by tests, and a mix without a formula cannot be.

    Raises:
        HarnessError: the formula does not keep it, or raises.
    """
    mix = mix_of(dialect)
    claimed = mix.guarantees(dialect)
    if not mix.is_outside or not mix.known or claimed == Guarantees():
        return
    generator = torch.Generator().manual_seed(11)
    shape = logits_shape(n, dialect)
    inputs = torch.stack([size * torch.randn(shape, generator=generator, dtype=torch.float64) for size in SIZES])

    def value(logits: Approx) -> Approx:
        return Approx.exact(mix.project(logits.value, dialect))

    try:
        words = broken(claimed, inputs, value)
    except Exception as error:  # of somebody else's formula, whatever it is: by what cannot be tried nothing is proved
        words = f"its formula raised {message_of(error)}"
    if words:
        raise HarnessError(f"the mix family {mix.name!r} cannot be believed: {words}. Nothing is proved by it")


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
