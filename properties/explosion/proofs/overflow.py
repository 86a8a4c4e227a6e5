"""Gain `nonfinite` of linear chains: the first sub-layer after which the state leaves the range of its dtype.

Rounding is monotone, and so are sums and products of non-negative numbers: in the dtype itself no entries within the
bound and no input within 1 give a larger state than all entries at their bound on an input of ones (a number that is
negated is rounded to the negative). So the chain of the strongest matrices decides, and it is simply run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mhc_ref.projection import compute_dtype
from properties.explosion.answer import Answer
from properties.explosion.proofs.closed_form import strongest

if TYPE_CHECKING:
    from properties.explosion.questions.linear import BoundedQuestion


def states(question: BoundedQuestion, n: int, depth: int) -> list[Tensor]:
    """The states [n] of the strongest chain after each sub-layer, until one is not finite or nothing changes."""
    storage: torch.dtype = getattr(torch, question.dtype)
    compute = compute_dtype(storage)
    x = torch.ones(n, dtype=storage)
    operator = torch.tensor([[float(entry) for entry in row] for row in strongest(question, n)], dtype=compute)
    found: list[Tensor] = []
    for _ in range(depth):
        grown = question.applied(operator, x.to(compute)).to(storage)
        found.append(grown)
        if torch.equal(grown, x) or not grown.isfinite().all():
            break
        x = grown
    return found


def answer(question: BoundedQuestion) -> Answer:
    """The smallest depth and then the fewest streams at which something overflows; proved by running the strongest."""
    largest = torch.finfo(getattr(torch, question.dtype)).max
    why = "Rounding is monotone, so nothing within the bounds exceeds the chain with every entry at its bound"
    chain = states(question, question.max_streams, question.max_depth)
    if chain[-1].isfinite().all():
        last = chain[-1].max().item()
        stays = "where it stays, for rounding swallows what is added" if len(chain) < question.max_depth else ""
        end = (
            f"after {len(chain)} sub-layers {last:.6g}, {stays or f'below the largest {question.dtype}, {largest:.4g}'}"
        )
        return Answer(None, None, True, f"{why}: {end}.")
    depth = len(chain)
    for n in range(1, question.max_streams + 1):
        if not states(question, n, depth)[-1].isfinite().all():
            before = chain[-2].max().item() if depth > 1 else 1.0
            reached = (
                f"it holds {before:.6g} after {depth - 1} and is not finite after {depth} (largest {question.dtype}: "
            )
            return Answer(depth, n, True, f"{why}, here {question.STRONGEST}: {reached}{largest:.4g}).")
    raise AssertionError(f"{question} overflowed once and then not again")
