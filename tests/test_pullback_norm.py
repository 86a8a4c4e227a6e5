"""The bound of the norm of d h_res / d logits: never passed by the exact Jacobian, and reached."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LIGER, LUCIDRAINS, MHC_LITE, PAPER, Dialect
from properties.bounds import pullback_norm

DIALECTS = {
    "PAPER": PAPER,
    "DEEPSEEK_V4": DEEPSEEK_V4,
    "LIGER": LIGER,
    "LUCIDRAINS": LUCIDRAINS,
    "one iteration": PAPER.with_(iterations=1),
    "two iterations, columns last": PAPER.with_(iterations=2, last_axis="column"),
    "eps added, exp start": PAPER.with_(denominator_eps=0.05, iterations=3),
    "eps 1e-2": DEEPSEEK_V4.with_(iterations=3, entry_eps=1e-2, denominator_eps=2e-2),
    "softmax over the last axis": DEEPSEEK_V4.with_(start_axis="column", iterations=1),
    "clamp 0.9": PAPER.with_(denominator="clamp", denominator_eps=0.9, iterations=4),
}


def norms(logits: Tensor, dialect: Dialect) -> Tensor:
    """The spectral norm of the exact Jacobian, [tokens]."""
    size = logits[0].numel()

    def project(one: Tensor) -> Tensor:
        return mhc_ref.project(one, dialect)

    jacobian = torch.func.vmap(torch.func.jacrev(project))(logits)
    return torch.linalg.matrix_norm(jacobian.reshape(-1, size, size), 2)


def batch(n: int) -> Tensor:
    """Dense, triangular and starved logits of sizes 0 to 20."""
    noise = torch.randn(7, 12, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    size = torch.tensor([0, 0.3, 1, 2, 4, 8, 20], dtype=torch.float64).view(-1, 1, 1, 1)
    logits = noise * size
    logits[:, 4:8] -= 2 * size * torch.ones(n, n).triu(1)
    logits[:, 8:, 0] -= 2 * size[..., 0]
    return logits.flatten(0, 1)


@pytest.mark.parametrize("title", DIALECTS)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_jacobian_passes_the_bound(title: str, n: int) -> None:
    logits, dialect = batch(n), DIALECTS[title]
    ratio = norms(logits, dialect) / pullback_norm(logits, dialect)
    assert ratio.max() <= 1
    assert ratio.max() > 0.25


@pytest.mark.parametrize("n", [2, 3, 5])
def test_two_streams_that_mix_equally_reach_it(n: int) -> None:
    logits = torch.full((1, n, n), -500.0, dtype=torch.float64)
    logits[0].fill_diagonal_(0)
    logits[:, :2, :2] = 0
    assert float(norms(logits, PAPER)) == pytest.approx(0.5)
    assert float(pullback_norm(logits, PAPER)) == pytest.approx(0.5)


def test_one_iteration_passes_the_half_of_the_limit() -> None:
    logits = torch.tensor([[[0.0, 0.0], [-a, -a]] for a in (7.0, 20.0)], dtype=torch.float64)
    once = norms(logits, PAPER.with_(iterations=1))
    assert float(once[0]) > 0.7
    assert float(once[1]) == pytest.approx(math.sqrt(0.5), abs=1e-6)
    assert (once <= pullback_norm(logits, PAPER.with_(iterations=1))).all()


def test_converged_sums_leave_the_half() -> None:
    circulant = torch.tensor(
        [[[3.0, 1, 2], [2, 3, 1], [1, 2, 3]]], dtype=torch.float64
    )  # converged from the first step
    assert float(pullback_norm(circulant, PAPER)) == pytest.approx(0.5)
    near = torch.randn(50, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 8
    assert float(pullback_norm(near, PAPER).max()) < 0.7


@pytest.mark.parametrize(
    "dialect", [MHC_LITE, PAPER.with_(entry_eps=1e-3), DEEPSEEK_V4.with_(iterations=0)], ids=["mixture", "exp", "none"]
)
def test_what_is_not_covered_is_refused(dialect: Dialect) -> None:
    with pytest.raises(ValueError, match="no bound of the gradient"):
        pullback_norm(torch.zeros(1, 2, 2), dialect)
