"""The adapters of flash-linear-attention's Sinkhorn: the kernels and the plain version."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: TRITON_INTERPRET is read once a process, where Triton is imported first.
CODE = """
import numpy, pytest, torch, mhc_ref
from properties.targets import published
from properties.core.implementation import Absent, offers
numpy.seterr(all="ignore")  # the interpreter's padding
adapter = published.build("{name}")
assert offers(adapter) == {{"project": "own"}}
generator = torch.Generator().manual_seed(0)
for n in (1, 3, 4):
    logits = (3 * torch.randn(2, n, n, generator=generator)).requires_grad_()
    cotangent = torch.randn(2, n, n, generator=generator)
    for iterations in (1, 20):
        tuned = adapter.tuned(iterations=iterations)
        found, expected = tuned.project(logits), mhc_ref.project(logits, tuned.dialect)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        mine, = torch.autograd.grad(found, logits, cotangent)
        theirs, = torch.autograd.grad(expected, logits, cotangent)
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
assert adapter.project(torch.zeros(0, 3, 3)).shape == (0, 3, 3)
with pytest.raises(Absent, match="positive integer"):
    adapter.tuned(iterations=0)
with pytest.raises(Absent, match="entry_eps"):
    adapter.tuned(entry_eps=0.5)
"""


@pytest.mark.parametrize("name", ["fla", "fla-naive"])
def test_the_projection_is_the_reference(name: str) -> None:
    pytest.importorskip("triton", reason="the extra `fla` is not installed")
    from importlib.util import find_spec

    if find_spec("fla") is None:
        pytest.skip("the extra `fla` is not installed")
    subprocess.run([sys.executable, "-c", CODE.format(name=name)], check=True)
