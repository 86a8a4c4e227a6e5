"""The adapter of TileKernels' torch reference: what goes in and comes out is what its functions take and give."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Params
from properties.core.implementation import Absent, Implementation, offers
from properties.core.law import all_laws
from properties.targets import published
from properties.targets.published import tile_kernels

SHAPES = ((1, 1), (2, 9), (3, 2), (4, 7), (5, 4))


@pytest.fixture
def adapter() -> Implementation:
    try:
        return published.build("tile-kernels-reference")
    except ImportError as error:
        pytest.skip(f"the extra `tile-kernels` is not installed: {error}")


def generic(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Params]:
    """A bfloat16 state of that shape, and parameters with gates, biases and a norm weight of order 1."""
    generator = torch.Generator().manual_seed(seed)
    n, channels = shape[-2:]
    size = 2 * n + n * n

    def draw(*dims: int) -> Tensor:
        return torch.randn(dims, generator=generator)

    params = Params(
        draw(n * channels, size) * (n * channels) ** -0.5, draw(size), 1 + draw(3) / 2, 1 + draw(n * channels) / 2
    )
    return draw(*shape).bfloat16(), params


class Ops:
    """`tile_kernels.modeling.mhc.ops` in torch, with the signatures and the shapes that its kernels insist on."""

    @staticmethod
    def mhc_pre_norm_fn(
        residual: Tensor, fn: Tensor, weight: Tensor | None, eps: float, fuse_grad_acc: bool = True, n_splits: int = 16
    ) -> Tensor:
        assert residual.dtype == torch.bfloat16
        assert fn.dtype == torch.float32
        assert residual.is_contiguous()
        assert fn.is_contiguous()
        assert not fuse_grad_acc
        assert fn.shape[1] == residual.shape[-1] * residual.shape[-2]
        assert fn.shape[1] % 256 == 0
        x = residual.flatten(2).float()
        fn = fn if weight is None else fn * weight
        return (x @ fn.T) * (x.square().mean(-1, keepdim=True) + eps).rsqrt()

    @staticmethod
    def mhc_pre_split_mixes(
        mixes: Tensor, scale: Tensor, base: Tensor, n: int, post_scale: float, pre_eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert mixes.ndim == 3
        pre, post, logits = mixes.split([n, n, n * n], -1)
        gates = base.split([n, n, n * n])
        pre, post, logits = (one * a + b for one, a, b in zip((pre, post, logits), scale, gates, strict=True))
        return (
            (pre.sigmoid() + pre_eps).unsqueeze(-1),
            post_scale * post.sigmoid().unsqueeze(-1),
            logits.unflatten(-1, (n, n)),
        )

    @staticmethod
    def sinkhorn_normalize(x: Tensor, repeat: int, eps: float) -> Tensor:
        return mhc_ref.project(x, mhc_ref.DEEPSEEK_V4.with_(iterations=repeat, entry_eps=eps, denominator_eps=eps))


@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_the_mappings_of_the_kernels_are_packed_as_they_take_them(
    tokens: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels need a GPU; what the adapter gives them does not."""
    monkeypatch.setattr("importlib.import_module", lambda name: Ops)
    whole = tile_kernels.TileKernelsWhole()
    x, params = generic((*tokens, 4, 128))
    for tuned in (whole, whole.tuned(iterations=3, post_scale=1.5, pre_eps=0.25, rms_eps=0.5)):
        found = tuned.mappings(x, params)
        for mine, theirs in zip(found, mhc_ref.mappings(x, params, tuned.dialect), strict=True):
            assert mine.shape == theirs.shape
            assert_near(mine, theirs)


def branch(h: Tensor) -> Tensor:
    return (h + 1).sin() - 0.5 * h.roll(1, -1)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    tolerance = 2**-7 if actual.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n", "channels"), SHAPES)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_functions_are_the_reference(adapter: Implementation, n: int, channels: int, tokens: tuple[int, ...]) -> None:
    x, params = generic((*tokens, n, channels), seed=n)
    found = adapter.mappings(x, params)
    for mine, theirs in zip(found, mhc_ref.mappings(x, params, adapter.dialect), strict=True):
        assert_near(mine, theirs)
    assert_near(adapter.block(x, params, branch), mhc_ref.block(x, params, branch, adapter.dialect))
    assert_near(adapter.collapse(x, params), mhc_ref.collapse(x, adapter.dialect, params))
    assert torch.equal(adapter.expand(x[..., 0, :], n), mhc_ref.expand(x[..., 0, :], n))


def test_gradients_reach_everything(adapter: Implementation) -> None:
    x, params = generic((3, 3, 4))
    cotangent = generic((3, 3, 4), seed=9)[0]

    def gradients(block: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (x, *params) if t is not None]
        return torch.autograd.grad(block(leaves[0], Params(*leaves[1:]), branch), leaves, cotangent)

    expected = gradients(lambda x, params, run: mhc_ref.block(x, params, run, adapter.dialect))
    for mine, theirs in zip(gradients(adapter.block), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)
        assert mine.abs().max() > 1e-2


@pytest.mark.parametrize("fields", [{"iterations": 10, "post_scale": 1.0}, {"rms_eps": 0.5, "pre_eps": 0.25}])
def test_tuned(adapter: Implementation, fields: dict[str, float]) -> None:
    x, params = generic((3, 4, 2))
    tuned = adapter.tuned(**fields)
    assert tuned.dialect == adapter.dialect.with_(**fields)
    for mine, theirs in zip(tuned.mappings(x, params), mhc_ref.mappings(x, params, tuned.dialect), strict=True):
        assert_near(mine, theirs)


def test_what_cannot_be_tuned_is_absent(adapter: Implementation) -> None:
    with pytest.raises(Absent, match="repeat below 1"):
        adapter.tuned(iterations=0)
    with pytest.raises(Absent, match="entry_eps"):
        adapter.tuned(entry_eps=0.5)
    with pytest.raises(ValueError, match="whose parameters are missing"):
        adapter.collapse(generic((3, 2, 2))[0])


def test_the_package_itself_stays_out(adapter: Implementation) -> None:
    """Its import needs tilelang; only the file is loaded."""
    assert "tile_kernels" not in sys.modules
    own = {method for method, how in offers(adapter).items() if how == "own"}
    assert own == {"project", "mappings", "pre", "post", "expand", "collapse"}


def test_a_missing_package_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tile_kernels/torch/mhc\.py is not installed"):
        published.build("tile-kernels-reference")


# The kernels: what the adapter hands to them, checked by the assertions in their source; they run on a GPU only.


def sinkhorn_normalize(x: Tensor, repeat: int = 10, eps: float = 1e-6) -> Tensor:
    x.contiguous().view(-1, *x.shape[-2:])
    return mhc_ref.project(x, mhc_ref.DEEPSEEK_V4.with_(iterations=repeat, entry_eps=eps, denominator_eps=eps))


def mhc_pre_apply_mix(x: Tensor, mix: Tensor, out: None = None) -> Tensor:
    assert mix.shape[-1] == 1
    x.view(-1, *x.shape[-2:])
    mix.view(-1, mix.shape[-2])
    return mhc_ref.pre(x, mix.squeeze(-1))


def mhc_post(x: Tensor, residual: Tensor, post_layer_mix: Tensor, comb_res_mix: Tensor) -> Tensor:
    sequences, tokens, n, channels = residual.shape
    assert x.dtype == residual.dtype == torch.bfloat16
    assert post_layer_mix.dtype == comb_res_mix.dtype == torch.float32
    assert x.shape == (sequences, tokens, channels)
    assert post_layer_mix.shape == (sequences, tokens, n, 1)
    assert comb_res_mix.shape == (sequences, tokens, n, n)
    assert x.is_contiguous()
    assert post_layer_mix.is_contiguous()
    assert comb_res_mix.is_contiguous()
    return mhc_ref.post(residual, x, post_layer_mix.squeeze(-1), comb_res_mix, mhc_ref.DEEPSEEK_V4)


def expand_to_mhc(hidden: Tensor, mhc_mult: int, out: None = None) -> Tensor:
    assert hidden.is_contiguous()
    hidden.flatten(0, -2)
    return mhc_ref.expand(hidden, mhc_mult)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Implementation:
    ops = ModuleType("tile_kernels.modeling.mhc.ops")
    for function in (sinkhorn_normalize, mhc_pre_apply_mix, mhc_post, expand_to_mhc):
        setattr(ops, function.__name__, function)
    for name in ("tile_kernels", "tile_kernels.modeling", "tile_kernels.modeling.mhc"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, ops.__name__, ops)
    return published.build("tile-kernels")


@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_kernels_get_what_their_source_asserts(kernels: Implementation, tokens: tuple[int, ...]) -> None:
    x, params = generic((*tokens, 4, 7))
    pre, post, res = mhc_ref.mappings(x, params, kernels.dialect)
    y = x[..., 0, :].contiguous()
    assert torch.equal(kernels.project(res), mhc_ref.project(res, kernels.dialect))
    assert torch.equal(kernels.pre(x, pre), mhc_ref.pre(x, pre))
    assert torch.equal(kernels.post(x, y, post, res), mhc_ref.post(x, y, post, res, kernels.dialect))
    assert torch.equal(kernels.expand(y, 4), mhc_ref.expand(y, 4))
    assert kernels.tuned(iterations=3).dialect.iterations == 3
    with pytest.raises(Absent, match="post_scale"):
        kernels.tuned(post_scale=1.0)


def test_kernels_are_asked_on_a_gpu_only(kernels: Implementation) -> None:
    law = all_laws()["mixing.post-is-the-declared-combination"]
    assert law.inapplicable(kernels, torch.bfloat16, torch.device("cpu")) == (
        "does not compute on cpu: its devices are cuda"
    )
    assert law.inapplicable(kernels, torch.bfloat16, torch.device("cuda")) is None
