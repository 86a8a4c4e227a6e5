"""The adapter of Liger-Kernel: what goes in and comes out is what the library's three functions take and give."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from properties.targets import published

# In a process of its own: TRITON_INTERPRET is read once a process, where Triton is imported first.
PREPARED = """
import pytest, torch, mhc_ref
from mhc_ref import Params
from properties.targets import published
from properties.core.implementation import Absent, offers
adapter = published.build("liger")
generator = torch.Generator().manual_seed(0)
draw = lambda *dims: torch.randn(dims, generator=generator)
near = lambda one, other: torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
branch = lambda h: (h + 1).sin() - 0.5 * h.roll(1, -1)
def generic(n, C, *tokens):
    K, M = n * C, 2 * n + n * n
    return draw(*tokens, n, C), Params(draw(K, M) * K**-0.5, draw(M), 1 + draw(3) / 2)
"""

FORWARD = """
for n, C, tokens in ((2, 3, (2,)), (4, 7, (1, 2)), (8, 1, ())):
    x, params = generic(n, C, *tokens)
    found, expected = adapter.mappings(x, params), mhc_ref.mappings(x, params, adapter.dialect)
    for mine, theirs in zip(found, expected):
        near(mine, theirs)
    near(adapter.pre(x, found.pre), mhc_ref.pre(x, found.pre))
    y = draw(*tokens, C)
    near(adapter.post(x, y, found.post, found.res), mhc_ref.post(x, y, found.post, found.res, adapter.dialect))
    near(adapter.block(x, params, branch), mhc_ref.block(x, params, branch, adapter.dialect))
"""

GRADIENTS = """
x, params = generic(4, 3, 2)
cotangent = draw(*x.shape)
def gradients(block):
    leaves = [t.clone().requires_grad_() for t in (x, *params[:3])]
    return torch.autograd.grad(block(leaves[0], Params(*leaves[1:]), branch), leaves, cotangent)
for mine, theirs in zip(gradients(adapter.block), gradients(lambda *a: mhc_ref.block(*a, adapter.dialect))):
    near(mine, theirs)
    assert mine.abs().max() > 1e-4
"""

TUNED = """
x, params = generic(2, 2, 2)
for fields in ({"iterations": 1}, {"iterations": 3, "rms_eps": 0.5}, {"pre_eps": 0.25, "post_scale": 1.5}):
    tuned = adapter.tuned(**fields)
    assert tuned.dialect == adapter.dialect.with_(**fields)
    for mine, theirs in zip(tuned.mappings(x, params), mhc_ref.mappings(x, params, tuned.dialect)):
        near(mine, theirs)
for fields, reason in (({"iterations": 0}, "tmax below 1"), ({"entry_eps": 0.5}, "entry_eps")):
    with pytest.raises(Absent, match=reason):
        adapter.tuned(**fields)
with pytest.raises(ValueError, match="the norm has no weight"):
    adapter.mappings(x, params._replace(norm_weight=torch.ones(4)))
assert {method for method, how in offers(adapter).items() if how == "own"} == {"mappings", "pre", "post"}
"""


@pytest.mark.parametrize("code", [FORWARD, GRADIENTS, TUNED], ids=["forward", "gradients", "tuned"])
def test_the_functions_are_the_reference(code: str) -> None:
    pytest.importorskip("liger_kernel", reason="the extra `liger` is not installed")
    pytest.importorskip("triton", reason="the extra `liger` is not installed")
    subprocess.run([sys.executable, "-c", PREPARED + code], check=True)


def test_bfloat16_only_where_kernels_are_compiled() -> None:
    pytest.importorskip("liger_kernel", reason="the extra `liger` is not installed")
    pytest.importorskip("triton", reason="the extra `liger` is not installed")
    code = "from properties import published; print(published.build('liger').dtypes)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("bfloat16" in ran.stdout) == torch.cuda.is_available()
    assert published.ADAPTERS["liger"] == ("liger", "Liger")
