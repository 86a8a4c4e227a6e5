"""Triton's projection of hyper-connections: one slip of its backward pass explains every wrong gradient of it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from mended import assert_explained
from torch import Tensor

from properties.engine.known import PUBLISHED, Known, load
from properties.targets.published import triton

ENTRIES = [
    entry
    for entry in load(PUBLISHED)
    if entry.implementation == "published:hyper-connections-triton" and entry.device == "cpu"
]


def test_there_are_failures_to_explain() -> None:
    assert any("final matrix" in entry.reason for entry in ENTRIES)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.law)
def test_a_stored_failure_is_no_more_where_each_reverse_step_uses_its_own_matrix(
    entry: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left then is about values: the forward kernel is the package's."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the extra `hyper-connections-triton` is not installed")
    if triton.NATIVE:
        pytest.skip("these failures were found in Triton's interpreter, and kernels are compiled here")
    triton.prepare()  # before it is imported
    sinkhorn = importlib.import_module("hyper_connections.triton_sinkhorn")
    from hyper_connections.mHCv2 import log_domain_sinkhorn_knopps

    class Mended(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor, iters: int) -> Tensor:
            ctx.save_for_backward(logits)
            ctx.iters = iters
            return library.apply(logits.detach(), iters)

        @staticmethod
        def backward(ctx: Any, *bars: Tensor) -> Any:
            with torch.enable_grad():
                logits = ctx.saved_tensors[0].detach().requires_grad_()
                value = log_domain_sinkhorn_knopps(logits, ctx.iters)
            return torch.autograd.grad(value, logits, bars[0])[0], None

    library = sinkhorn.TritonSinkhornFunction
    monkeypatch.setattr(sinkhorn, "TritonSinkhornFunction", Mended)
    assert_explained(entry, "final matrix", "nan-for-a-line-below")
