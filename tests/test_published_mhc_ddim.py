"""The adapter of mhc-ddim: its projection, in the dialect that is declared, and where it stops being that."""

from __future__ import annotations

import pytest
import torch

import mhc_ref
from properties.core.implementation import Absent, Implementation, offers
from properties.targets import published


@pytest.fixture
def adapter() -> Implementation:
    pytest.importorskip("mhc_ddim.unet", reason="the extra `mhc-ddim` is not installed", exc_type=ImportError)
    return published.build("mhc-ddim")


@pytest.mark.parametrize("fields", [{}, {"iterations": 3}, {"iterations": 1, "temperature": 0.5}])
def test_the_projection_is_the_reference(adapter: Implementation, fields: dict[str, float]) -> None:
    tuned = adapter.tuned(**fields)
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bar = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found, expected = tuned.project(logits), mhc_ref.project(logits, tuned.dialect)
    torch.testing.assert_close(found, expected)
    pulled = [torch.autograd.grad(one, logits, bar)[0] for one in (found, expected)]
    torch.testing.assert_close(*pulled)
    assert offers(tuned) == {"project": "own"}


def test_what_is_refused(adapter: Implementation) -> None:
    for field, value in (("iterations", 0), ("entry_eps", 0.5)):
        with pytest.raises(Absent, match=field):
            adapter.tuned(**{field: value})


def test_a_row_far_below_the_largest_logit_is_made_flat(adapter: Implementation) -> None:
    """The finding: 60 below it all logits are one, and have no gradient."""
    for low, flat in ((-40.0, False), (-80.0, True)):
        logits = torch.tensor([[0.0, 0.0], [low, low - 5]], requires_grad=True)
        found = adapter.project(logits)
        (back,) = torch.autograd.grad(found[1, 0], logits)
        assert (found.tolist() == [[0.5, 0.5], [0.5, 0.5]]) == flat
        assert (back[1].tolist() == [0, 0]) == flat
        expected = mhc_ref.project(logits.detach().double(), adapter.dialect)
        assert float(expected[1, 0]) == pytest.approx(0.9239, abs=1e-3)
