"""Attention over depth: its formula by hand, what it refuses, its deviations, and the libraries that ship it."""

from __future__ import annotations

import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import ATTN_RES, Dialect, Params
from mhc_ref.packing import params_shapes
from properties.core.implementation import Implementation, offers
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine
from properties.targets import published
from properties.targets.published.attention_residuals import divided

INKLING2 = ATTN_RES.with_(scaled=True, reads_normalised=True)


def generic(n: int, channels: int, *tokens: int) -> tuple[Tensor, Params]:
    """Sources and a query of order 1, float32."""
    generator = torch.Generator().manual_seed(n + channels)
    draw = [torch.randn(shape, generator=generator) for shape in params_shapes(n, channels, ATTN_RES)[:3]]
    return torch.randn(*tokens, n, channels, generator=generator), Params(*draw)


def by_hand(x: Tensor, query: Tensor, dialect: Dialect) -> Tensor:
    """The read of [n, C], source by source."""
    keys = [one / math.sqrt(float(one.square().mean()) + dialect.rms_eps) for one in x]
    scores = [float(key @ query) / (math.sqrt(len(query)) if dialect.scaled else 1) for key in keys]
    shares = [math.exp(score) / sum(math.exp(other) for other in scores) for score in scores]
    values = keys if dialect.reads_normalised else list(x)
    return torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)


@pytest.mark.parametrize("dialect", [ATTN_RES, INKLING2, ATTN_RES.with_(scaled=True)])
def test_a_read_is_a_softmax_of_the_products_with_one_query(dialect: Dialect) -> None:
    x, params = generic(3, 5)
    x, params = x.double(), Params(*(part.double() for part in params if part is not None))
    expected = by_hand(x, params.phi[:, 0], dialect)
    torch.testing.assert_close(mhc_ref.collapse(x, dialect, params), expected)
    torch.testing.assert_close(mhc_ref.pre(x, mhc_ref.mappings(x, params, dialect).pre), expected)


def test_the_weights_of_the_sources_sum_to_one_and_do_not_depend_on_their_sizes() -> None:
    x, params = generic(4, 5, 3)
    weights = mhc_ref.mappings(x, params, ATTN_RES).pre
    torch.testing.assert_close(weights.sum(-1), torch.ones(3))
    larger = mhc_ref.mappings(x * torch.tensor([1.0, 1e3, 1e2, 1e4]).view(4, 1), params, ATTN_RES).pre
    torch.testing.assert_close(larger, weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [{"pre": "sigmoid"}, {"residual": "sinkhorn"}, {"norm_over": "streams"}, {"shared_projection": False}],
)
def test_what_is_no_attention_is_refused(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(ValueError, match=f"depth-attention' conflicts with {name}="):
        ATTN_RES.with_(**fields)


# Libraries


def test_both_vectors_are_asked_for_and_their_product_is_exact() -> None:
    phi = torch.randn(9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    query, weight = divided(phi)
    assert torch.equal(query * weight, phi)
    for one in (query, weight):
        (gradient,) = torch.autograd.grad(one.sum(), phi, retain_graph=True)
        assert gradient.count_nonzero() >= 4


def library(name: str) -> Implementation:
    places = {
        "transformers-inkling2": "transformers.models.inkling2.modeling_inkling2",
        "transformers-inkling2-loop": "transformers.models.inkling2_loop.modeling_inkling2_loop",
        "nemo-automodel-kimi-k3": "nemo_automodel.components.models.kimi_k3.situ",
    }
    pytest.importorskip(places[name], reason=f"what {name} takes is not installed", exc_type=ImportError)
    return published.build(name)


def compared(adapter: Implementation) -> None:
    """Values and gradients are those of the reference, for any number of sources and of token axes."""
    for n, channels, tokens in ((1, 3, (2,)), (2, 1, ()), (4, 8, (1, 2)), (5, 7, (2,))):
        x, params = generic(n, channels, *tokens)
        bar = torch.linspace(-1, 1, x[..., 0, :].numel()).view(x[..., 0, :].shape)
        leaves = [x.clone().requires_grad_(), params.phi.clone().requires_grad_()]
        mine = adapter.collapse(leaves[0], params._replace(phi=leaves[1]))
        theirs = mhc_ref.collapse(leaves[0], adapter.dialect, params._replace(phi=leaves[1]))
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        pulled = [torch.autograd.grad(one, leaves, bar) for one in (mine, theirs)]
        for found, expected in zip(*pulled, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert {method for method, how in offers(adapter).items() if how == "own"} == {"block", "collapse"}
    with pytest.raises(ValueError, match="query is missing"):
        adapter.collapse(x)
    with pytest.raises(ValueError, match="one weight serves all sources"):
        adapter.collapse(x, params._replace(norm_weight=torch.ones(n * channels)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformers-inkling2", "transformers-inkling2-loop", "nemo-automodel-kimi-k3"])
def test_a_library_reads_as_the_reference(name: str) -> None:
    compared(library(name))


@pytest.mark.parametrize(("name", "package"), [("liger-attn-res", "liger_kernel"), ("fla-attnres", "fla")])
def test_a_kernel_reads_as_the_reference(name: str, package: str) -> None:
    pytest.importorskip("triton", reason=f"what {name} takes is not installed")
    if find_spec(package) is None:
        pytest.skip(f"what {name} takes is not installed")
    # In a process of its own: TRITON_INTERPRET is read once a process, where Triton is imported first.
    code = f"import test_depth_attention as here; here.compared(here.published.build({name!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["depth.collapse-is-as-declared", "gradient.collapse-pulls-back-to-every-stream"])
@pytest.mark.parametrize("name", ["transformers-inkling2", "transformers-inkling2-loop", "nemo-automodel-kimi-k3"])
def test_a_library_keeps_the_laws_of_an_end(name: str, law: str, tmp_path: Path) -> None:
    subject = Subject(name, library(name), torch.float32, torch.device("cpu"))
    profile = Profile(examples=10, derandomise=True, shrink=False)
    verdict = examine(all_laws()[law], subject, profile, directory=tmp_path)
    assert verdict.status == "passed", verdict.reason
