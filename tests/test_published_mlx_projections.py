"""The adapters of mlx-mhc and mhc-mlx: the library's own projection, in the dialect that is declared."""

from __future__ import annotations

import pytest
import torch

import mhc_ref
from properties.core.implementation import Absent, offers
from properties.targets.published import build

MODULES = {"mlx-mhc": "mlx_mhc", "mhc-mlx": "mhc_mlx"}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_the_projection_is_the_reference(name: str, iterations: int) -> None:
    pytest.importorskip("mlx.core")
    pytest.importorskip(MODULES[name])
    adapter = build(name).tuned(iterations=iterations)
    logits = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    bar = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    got, exact = adapter.project(logits), mhc_ref.project(logits, adapter.dialect)
    torch.testing.assert_close(got, exact)
    pulled, expected = (torch.autograd.grad(one, logits, bar)[0] for one in (got, exact))
    torch.testing.assert_close(pulled, expected)
    assert offers(adapter) == {"project": "own"}
    with pytest.raises(Absent):
        adapter.tuned(iterations=0)
