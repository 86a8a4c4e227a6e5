"""Gradients as the laws take them, and Sinkhorn's bound of many tokens at once."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, PAPER, Dialect
from properties.bounds import Approx, Rounding, projection, projection_gradient
from properties.core.pulling import pulled_back
from properties.families.sinkhorn import forwards
from properties.families.sinkhorn.arrays import functions_of


class Noting(torch.autograd.Function):
    """The identity, which notes what its backward pass is given."""

    given: list[Tensor]

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        Noting.given.append(grads[0])
        return grads[0]


def test_a_cotangent_is_handed_on_as_it_is() -> None:
    x, bar = torch.randn(3, 4, requires_grad=True), torch.randn(3, 1).expand(3, 4)
    Noting.given = []
    (found,) = pulled_back([Noting.apply(x)], [x], [bar])  # pyright: ignore[reportArgumentType]
    assert torch.equal(found, bar)
    (given,) = Noting.given
    assert (given.data_ptr(), given.stride()) == (bar.data_ptr(), bar.stride())


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
def test_gradients_are_those_of_autograd_to_the_bit(context: Any) -> None:
    x, y, unread = (torch.randn(size, requires_grad=True) for size in ((3, 4), (4,), (2,)))
    outputs = [(x * y).sin(), x.sum(0).to(torch.bfloat16), torch.ones(2)]
    bars = [torch.randn(3, 4), torch.randn(4), torch.ones(2)]
    with context():
        found = pulled_back(outputs, [x, y, unread], bars, keep=True)
    known = torch.autograd.grad(outputs[:2], [x, y], [bars[0], bars[1].to(torch.bfloat16)])
    assert all(torch.equal(*pair) for pair in zip(found, (*known, torch.zeros(2)), strict=True))


def test_a_cotangent_of_another_shape_than_its_output_is_refused() -> None:
    x = torch.randn(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"a cotangent has shape \(1,\); its output has \(3,\)"):
        pulled_back([2 * x], [x], [torch.ones(1)])


@pytest.mark.slow
def test_a_gradient_loads_no_compiler_and_no_algebra() -> None:
    code = """
import sys, torch
from properties.core.pulling import pulled_back
x = torch.ones(3, requires_grad=True)
pulled_back([2 * x], [x], [torch.ones(3)])
print([name for name in ("sympy", "torch._dynamo") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4, LUCIDRAINS], ids=["PAPER", "DEEPSEEK_V4", "LUCIDRAINS"])
def test_a_token_has_the_bound_that_it_has_alone(dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    r, some = Rounding.of(torch.float32), torch.Generator().manual_seed(5)
    logits = torch.randn(5, 3, 3, generator=some, dtype=torch.float64) * torch.tensor([0, 1, 4, 16, 64]).view(5, 1, 1)
    bars = torch.randn(5, 3, 3, generator=some, dtype=torch.float64)

    def found(part: slice) -> list[Tensor]:
        z = Approx.exact(logits[part])
        pulled = projection_gradient(z, Approx.exact(bars[part]), dialect, r)
        return [*projection(z, dialect, r), pulled.value, pulled.error]

    whole = found(slice(0, 5))
    monkeypatch.setattr(functions_of(logits.numpy()), "numbers", 1)  # token by token
    forwards._remembered.cache_clear()  # pyright: ignore[reportPrivateUsage]
    one_by_one = found(slice(0, 5))
    alone = [torch.cat(parts) for parts in zip(*(found(slice(k, k + 1)) for k in range(5)), strict=True)]
    for value, other, single in zip(whole, one_by_one, alone, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=0)
        torch.testing.assert_close(value, single, rtol=1e-12, atol=0)
