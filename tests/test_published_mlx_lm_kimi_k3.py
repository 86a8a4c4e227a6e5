"""The adapter of mlx-lm's Kimi K3: layers of one group and the last read, and by hand what no dialect says."""

from __future__ import annotations

from importlib import import_module
from shutil import which
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Dialect, Params
from mhc_ref.packing import params_shapes
from properties.core.implementation import Absent, Implementation, offers
from properties.targets import published

SHAPES = ((1, 1), (2, 9), (3, 2), (4, 7), (5, 4))


@pytest.fixture
def adapter() -> Implementation:
    pytest.importorskip("mlx.core", reason="the extra `mlx-lm` is not installed", exc_type=ImportError)
    pytest.importorskip("mlx_lm", reason="the extra `mlx-lm` is not installed")
    return published.build("mlx-lm-kimi-k3")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def blocks(n: int, channels: int, depth: int, dialect: Dialect) -> tuple[list[Params], list[Branch]]:
    """Queries of order 1 and branches, one of each for every block."""
    shapes = params_shapes(n, channels, dialect)[:3]
    params = [Params(*(drawn(*shape, seed=20 + k) for shape in shapes)) for k in range(depth)]
    branches: list[Branch] = [torch.tanh, torch.sin, torch.cos]
    return params, branches[:depth]


def assert_near(actual: Tensor, expected: Tensor) -> None:
    tolerance = 2**-6 if actual.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "channels"), SHAPES)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 2), (0,)])
def test_layers_and_the_last_read_are_the_reference(
    adapter: Implementation, n: int, channels: int, tokens: tuple[int, ...], dtype: torch.dtype
) -> None:
    """One block, a layer of two, and a layer and a half."""
    x = drawn(*tokens, n, channels, seed=n).to(dtype)
    for depth in (1, 2, 3):
        params, branches = blocks(n, channels, depth, adapter.dialect)
        expected = mhc_ref.layers(x, params, branches, adapter.dialect)
        assert_near(adapter.layers(x, params, branches), expected)
    assert_near(adapter.collapse(x, params[0]), mhc_ref.collapse(x, adapter.dialect, params[0]))
    assert_near(adapter.block(x, params[0], torch.exp), mhc_ref.block(x, params[0], torch.exp, adapter.dialect))


def test_branches_read_in_their_order_and_once(adapter: Implementation) -> None:
    x = drawn(2, 4, 3, seed=5)
    params, branches = blocks(4, 3, 3, adapter.dialect)
    seen: list[Tensor] = []

    def noting(branch: Branch) -> Branch:
        def run(u: Tensor) -> Tensor:
            seen.append(u)
            return branch(u)

        return run

    adapter.layers(x, params, [noting(one) for one in branches])
    assert len(seen) == 3
    for u, one, branch in zip(seen, params, branches, strict=True):
        assert_near(u, mhc_ref.collapse(x, adapter.dialect, one))
        x = mhc_ref.block(x, one, branch, adapter.dialect)


def test_gradients_of_layers_cross_over(adapter: Implementation) -> None:
    """mlx's own vjp of each run of a layer, and torch's chain rule through the branches between them."""
    x = drawn(2, 4, 3, seed=6)
    params, branches = blocks(4, 3, 3, adapter.dialect)

    def gradients(layers: Any) -> tuple[Tensor, ...]:
        leaves = [part.clone().requires_grad_() for part in (x, *(one.phi for one in params))]
        own = [one._replace(phi=phi) for one, phi in zip(params, leaves[1:], strict=True)]
        out = layers.layers(leaves[0], own, branches, *(() if layers is adapter else (adapter.dialect,)))
        return torch.autograd.grad(out.sin().sum(), leaves)

    for mine, theirs in zip(gradients(adapter), gradients(mhc_ref), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
        assert mine.abs().max() > 1e-3


def test_gradients_of_the_last_read_cross_over(adapter: Implementation) -> None:
    x = drawn(2, 4, 3, seed=7)
    ((params,), _) = blocks(4, 3, 1, adapter.dialect)

    def gradients(read: Any) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_(), params.phi.clone().requires_grad_()]
        return torch.autograd.grad(read(leaves[0], params._replace(phi=leaves[1])).sin().sum(), leaves)

    theirs = gradients(lambda x, params: mhc_ref.collapse(x, adapter.dialect, params))
    for mine, expected in zip(gradients(adapter.collapse), theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
        assert mine.abs().max() > 1e-3


@pytest.mark.slow
def test_compiled_it_is_the_same(adapter: Implementation) -> None:
    """As the library runs for itself: on a CPU by the C++ compiler of the machine, once for a width."""
    mx = import_module("mlx.core")
    if which("g++") is None and mx.default_device() == mx.cpu:
        pytest.skip("mlx compiles by g++, which is not here")
    x = drawn(2, 4, 3, seed=8)
    params, branches = blocks(4, 3, 2, adapter.dialect)
    apart = adapter.layers(x, params, branches), adapter.collapse(x, params[0])
    mx.enable_compile()
    try:
        together = adapter.layers(x, params, branches), adapter.collapse(x, params[0])
    finally:
        if mx.default_device() == mx.cpu:
            mx.disable_compile()
    for one, other in zip(apart, together, strict=True):
        assert_near(one, other)


def test_tuned(adapter: Implementation) -> None:
    x = drawn(3, 2, 3)
    ((params,), (branch,)) = blocks(2, 3, 1, adapter.dialect)
    tuned = adapter.tuned(rms_eps=0.5)
    assert_near(tuned.block(x, params, branch), mhc_ref.block(x, params, branch, tuned.dialect))
    assert_near(tuned.collapse(x, params), mhc_ref.collapse(x, tuned.dialect, params))
    assert (tuned.collapse(x, params) - adapter.collapse(x, params)).abs().max() > 1e-3
    with pytest.raises(Absent, match="scaled"):
        adapter.tuned(scaled=True)


def test_what_is_offered(adapter: Implementation) -> None:
    assert {method for method, how in offers(adapter).items() if how == "own"} == {"block", "layers", "collapse"}
    x = drawn(2, 2, 3)
    ((params,), (branch,)) = blocks(2, 3, 1, adapter.dialect)
    with pytest.raises(ValueError, match="query is missing"):
        adapter.collapse(x)
    weighted = params._replace(norm_weight=torch.ones(6))
    for refused in (lambda: adapter.collapse(x, weighted), lambda: adapter.block(x, weighted, branch)):
        with pytest.raises(ValueError, match="one weight serves all sources"):
            refused()


# What the adapter does not reach: groups that end, and a model that has been called


def model_of(layers: int, group: int) -> tuple[Any, Any, Any]:
    """mlx, and a whole small model of the library without and with what makes tokens of its states."""
    mx, library = import_module("mlx.core"), import_module("mlx_lm.models.kimi_k3")
    sizes = {"vocab_size": 8, "hidden_size": 3, "num_hidden_layers": layers, "num_attention_heads": 1}
    heads = {"kv_lora_rank": 2, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 2}
    config = {"intermediate_size": 4, "attn_res_block_size": group, "linear_attn_config": {"kda_layers": []}}
    mx.random.seed(0)
    whole = library.Model(library.ModelArgs({"model_type": "kimi_linear"} | sizes | heads | config))
    return mx, whole.model, whole


@pytest.mark.parametrize("group", [1, 2, 3])
def test_groups_end_as_they_are_printed(adapter: Implementation, group: int) -> None:
    """Every `group` layers the sum under way is kept as one more source, and the next begins with what a branch gives:
    the formula of arXiv 2603.15031 in the lines below, on three layers of two blocks, and the read at the end."""
    mx, model, _ = model_of(layers=3, group=group)
    model.embed_tokens = model.norm = lambda h: h
    queries = [drawn(3, seed=k) for k in range(7)]

    def given(query: Tensor, projection: Any, norm: Any) -> None:
        projection.weight, norm.weight = mx.array(query.unsqueeze(0).numpy()), mx.full((3,), 2.0)

    for layer, first, second in zip(model.layers, queries[0:6:2], queries[1:6:2], strict=True):
        layer.input_layernorm = layer.post_attention_layernorm = lambda h: h
        layer.self_attn, layer.mlp = (lambda h, *_: mx.tanh(h)), mx.sin
        given(first, layer.self_attention_res_proj, layer.self_attention_res_norm)
        given(second, layer.mlp_res_proj, layer.mlp_res_norm)
    given(queries[6], model.output_attn_res_proj, model.output_attn_res_norm)

    def read(sources: list[Tensor], query: Tensor) -> Tensor:
        state = torch.stack(sources)
        keys = state * (state.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return (state * (keys @ (2 * query)).softmax(0).unsqueeze(-1)).sum(0)

    x = drawn(1, 2, 3, seed=9)
    kept: list[Tensor] = []
    under_way: list[Tensor] = [x]
    for k, query in enumerate(queries[:6]):
        u = read([*kept, *under_way], query)
        if k % (2 * group) == 0:
            kept, under_way = [*kept, *under_way], []
        y = (torch.tanh, torch.sin)[k % 2](u)
        under_way = [under_way[0] + y] if under_way else [y]
    found = torch.tensor(model(mx.array(x.numpy())).tolist())
    assert_near(found, read([*kept, *under_way], queries[6]))


def test_a_query_that_is_loaded_after_a_call_is_not_read(adapter: Implementation) -> None:
    """The finding: in inference a model keeps the product of query and norm weight that its first call has made."""
    mx, _, model = model_of(layers=1, group=1)
    tokens, name = mx.array([[1, 2]]), "language_model.model.output_attn_res_proj.weight"
    model.eval()
    before = model(tokens)
    model.load_weights([(name, mx.full((1, 3), 5.0))], strict=False)
    assert model(tokens).tolist() == before.tolist()
    model.train()  # which makes the product anew
    assert float(abs(model(tokens) - before).max()) > 1e-2
