"""The adapters of hyper-connections: what goes in and comes out is what the library's modules take and give."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import mhc_ref
from mhc_ref import Mappings, Params
from properties.core.case import BranchSpec
from properties.core.exact_truth import ExactTruth
from properties.core.implementation import Absent, Implementation, offers, parameter_dtype
from properties.strategies import Setting, states_of
from properties.targets import published

CONSTRAINED = (
    "hyper-connections",
    "hyper-connections-log",
    "hyper-connections-v2",
    "hyper-connections-v2-log",
)
NAMES = (*CONSTRAINED, "hyper-connections-unconstrained", "hyper-connections-views")
FRACTIONS = ("hyper-connections-fractions", "hyper-connections-v2-fractions")
SHAPES = ((1, 1), (2, 9), (3, 2), (4, 7), (5, 4))


@pytest.fixture(params=NAMES)
def adapter(request: pytest.FixtureRequest) -> Implementation:
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    return published.build(request.param)


def generic(adapter: Implementation, shape: Sequence[int], seed: int = 0, sets: int = 1) -> tuple[Tensor, list[Params]]:
    """A state of that shape and `sets` sets of parameters with gates and biases of order 1."""
    generator = torch.Generator().manual_seed(seed)
    n, channels = shape[-2:]

    def draw(*dims: int) -> Tensor:
        return torch.randn(dims, generator=generator, dtype=parameter_dtype(adapter.dtypes[0]))

    params = [
        Params(draw(channels, 2 + n) * channels**-0.5, draw(2 * n + n * n), 1 + 0.5 * draw(3)) for _ in range(sets)
    ]
    return draw(*shape).to(adapter.dtypes[0]), params


def branch(number: int) -> Callable[[Tensor], Tensor]:
    """A layer that mixes channels and differs from the other ones."""
    return lambda h: (h + number).sin() - 0.5 * h.roll(1, -1)


def assert_near(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "channels"), SHAPES)
def test_mappings_are_the_reference(adapter: Implementation, n: int, channels: int) -> None:
    x, (params,) = generic(adapter, (3, n, channels), seed=n)
    found, expected = adapter.mappings(x, params), mhc_ref.mappings(x, params, adapter.dialect)
    for part in Mappings._fields:
        if part in adapter.emits:
            assert_near(getattr(found, part), getattr(expected, part))
        else:
            assert getattr(found, part) is None


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("n", "channels"), SHAPES)
def test_layers_are_the_reference(adapter: Implementation, n: int, channels: int, count: int) -> None:
    x, params = generic(adapter, (3, n, channels), seed=n, sets=count)
    branches = [branch(k) for k in range(count)]
    assert_near(adapter.layers(x, params, branches), mhc_ref.layers(x, params, branches, adapter.dialect))


@pytest.mark.parametrize("tokens", [(), (0,), (1,), (7,), (2, 3), (1, 2, 2)])
def test_any_token_axes(adapter: Implementation, tokens: tuple[int, ...]) -> None:
    """Mappings, block, expand, collapse, and the branch see the axes that were given."""
    n, channels = 3, 4
    x, (params,) = generic(adapter, (*tokens, n, channels))
    shapes: list[torch.Size] = []

    def recorded(h: Tensor) -> Tensor:
        shapes.append(h.shape)
        return branch(1)(h)

    found = adapter.mappings(x, params)
    assert found.post.shape == (*tokens, n)
    assert found.res.shape == (*tokens, n, n)
    assert_near(adapter.block(x, params, recorded), mhc_ref.block(x, params, branch(1), adapter.dialect))
    assert shapes == [(*tokens, channels)]
    assert_near(adapter.collapse(x), x.sum(-2))
    assert_near(adapter.expand(x[..., 0, :], n), mhc_ref.expand(x[..., 0, :], n))


def test_views_are_taken(adapter: Implementation) -> None:
    x, (params,) = generic(adapter, (3, 4, 4))
    turned = x.transpose(-1, -2)
    assert_near(adapter.block(turned, params, branch(0)), mhc_ref.block(turned, params, branch(0), adapter.dialect))


def test_gradients_reach_everything(adapter: Implementation) -> None:
    """Cotangents of the state, of phi, bias and gates of every block, and of parameters inside a branch."""
    x, params = generic(adapter, (3, 3, 4), sets=2)
    cotangent = generic(adapter, x.shape, seed=9)[0]

    def gradients(layers: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        linear = torch.nn.Linear(4, 4, bias=False, dtype=x.dtype)  # a module as branch: its parameters are its own
        linear.load_state_dict({"weight": torch.linspace(-1, 1, 16).view(4, 4)})
        leaves = [x.clone().requires_grad_()]
        ours = [Params(*(t.clone().requires_grad_() for t in one[:3])) for one in params]
        leaves += [t for one in ours for t in one[:3]] + [linear.weight]
        return torch.autograd.grad(layers(leaves[0], ours, [linear] * 2), leaves, cotangent)

    expected = gradients(lambda x, ours, branches: mhc_ref.layers(x, ours, branches, adapter.dialect))
    for mine, theirs in zip(gradients(adapter.layers), expected, strict=True):
        assert_near(mine, theirs)
        assert mine.abs().max() > 1e-4


def test_gradients_of_mappings(adapter: Implementation) -> None:
    """What is overheard carries its gradient."""
    x, (params,) = generic(adapter, (3, 3, 4))
    cotangent = generic(adapter, (3, 3, 3), seed=9)[0]
    leaves = [x.requires_grad_()] + [t.requires_grad_() for t in params[:3]]

    def gradients(found: Mappings) -> tuple[Tensor, ...]:
        return torch.autograd.grad((found.res * cotangent).sum() + found.post.square().sum(), leaves)

    expected = gradients(mhc_ref.mappings(x, params, adapter.dialect))
    for mine, theirs in zip(gradients(adapter.mappings(x, params)), expected, strict=True):
        assert_near(mine, theirs)


@pytest.mark.parametrize("name", CONSTRAINED)
def test_projection_and_tuned(name: str) -> None:
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    adapter = published.build(name)
    logits = 3 * generic(adapter, (5, 4, 4))[0]
    x, (params,) = generic(adapter, (3, 4, 2))
    for iterations in (1, 3):
        tuned = adapter.tuned(iterations=iterations)
        assert tuned.dialect == adapter.dialect.with_(iterations=iterations)
        assert tuned.name == f"published:{name}"
        assert_near(tuned.project(logits), mhc_ref.project(logits, tuned.dialect))
        assert_near(tuned.mappings(x, params).res, mhc_ref.mappings(x, params, tuned.dialect).res)
    with pytest.raises(Absent, match="iterations=0"):
        adapter.tuned(iterations=0)
    with pytest.raises(Absent, match="entry_eps"):
        adapter.tuned(entry_eps=0.5)


def test_log_domain_holds_where_exponentials_underflow() -> None:
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    logits = torch.tensor([[0.0, 1.0], [-200.0, -199.5]])
    for name in ("hyper-connections-log", "hyper-connections-v2-log"):
        assert_near(published.build(name).project(logits).sum(-1), torch.ones(2))


def test_unconstrained_options() -> None:
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    adapter = published.build("hyper-connections-unconstrained")
    x, (params,) = generic(adapter, (3, 4, 2))
    tuned = adapter.tuned(dynamic="linear")
    assert_near(tuned.block(x, params, branch(0)), mhc_ref.block(x, params, branch(0), tuned.dialect))
    with pytest.raises(Absent, match="iterations"):
        adapter.tuned(iterations=2)


@pytest.mark.parametrize("name", ["hyper-connections", "hyper-connections-unconstrained"])
def test_channels_first_are_the_same_mappings(name: str) -> None:
    """What the library makes of them in a block is its own affair, see docs/findings.md."""
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    last, first = published.build(name), published.build(f"{name}-channel-first")
    x, (params,) = generic(last, (5, 3, 4))
    for got, exact in zip(first.mappings(x, params), last.mappings(x, params), strict=True):
        assert_near(got, exact)
    assert torch.equal(first.expand(x[:, 0], 3), last.expand(x[:, 0], 3))
    assert_near(first.collapse(x), last.collapse(x))


def test_a_block_of_one_token_is_the_same_with_channels_first() -> None:
    """The one case in which the library does not add tokens up."""
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    last = published.build("hyper-connections-unconstrained")
    first = published.build("hyper-connections-unconstrained-channel-first")
    x, (params,) = generic(last, (1, 3, 4))
    assert_near(first.block(x, params, branch(1)), last.block(x, params, branch(1)))


def test_refused_parameters(adapter: Implementation) -> None:
    x, (params,) = generic(adapter, (3, 2, 2))
    with pytest.raises(ValueError, match="one weight for all streams"):
        adapter.mappings(x, params._replace(norm_weight=torch.ones(4)))


def test_what_is_offered(adapter: Implementation) -> None:
    own = {method for method, how in offers(adapter).items() if how == "own"}
    assert own - {"project"} == {"mappings", "block", "expand", "collapse"}
    assert ("project" in own) == (adapter.dialect.residual == "sinkhorn")
    assert set(offers(adapter)) == own | {"project", "layers", "stack"}


def test_the_triton_projection() -> None:
    """Forward as exact arithmetic has it; what its backward computes is for the laws to say."""
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    pytest.importorskip("triton", reason="the extra `hyper-connections-triton` is not installed")
    code = """
import numpy, torch, mhc_ref
from properties.targets import published
numpy.seterr(all="ignore")  # the interpreter's padding
adapter = published.build("hyper-connections-triton").tuned(iterations=2)
logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, -1.0, 0.5], [-90.0, 2.0, -2.0]]], requires_grad=True)
found = adapter.project(logits)
torch.testing.assert_close(found, mhc_ref.project(logits, adapter.dialect), rtol=1e-5, atol=1e-6)
found.square().sum().backward()
assert logits.grad is not None and logits.grad.abs().max() > 1e-3
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # TRITON_INTERPRET is read once a process


@pytest.mark.slow
def test_no_stream_is_drawn_below_the_declared_scale() -> None:
    """Eight streams that fall off by ten each stay above the clamp of the norm, whatever the size of the state."""
    setting = Setting(mhc_ref.MHC_LITE, (8,), torch.float64, max_tokens=4, norm_weight=False, least_scale=1e-6)
    smallest: list[float] = []

    @settings(max_examples=150, derandomize=True, database=None, deadline=None)
    @given(states_of(setting, 8, 4))
    def look(x: Tensor) -> None:
        sizes = x.square().mean(-1).sqrt()
        smallest.append(float(sizes[sizes > 0].min()) if (sizes > 0).any() else 1.0)

    look()
    assert 1e-8 < min(smallest) < 1e-5


@pytest.mark.parametrize("size", [0.0, 1e-14, 1e-11])
def test_a_stream_below_the_clamp_of_the_norm_has_the_gradient_of_the_clamp(
    adapter: Implementation, size: float
) -> None:
    """Beside streams that are not small: F.normalize divides by max(|x|, 1e-12), as exact arithmetic has it."""
    dtype = adapter.dtypes[0]
    x, (params,) = generic(adapter, (1, 3, 4))
    x[:, 1] *= size
    generator = torch.Generator().manual_seed(1)
    bar = torch.randn(x.shape, generator=generator, dtype=dtype)
    given = x.clone().requires_grad_()
    branch = BranchSpec("constant", torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=dtype))
    found = torch.autograd.grad(adapter.block(given, params, branch), given, bar)[0]
    exact = ExactTruth(adapter.dialect).layers_vjp(x, [params], [branch], bar)[0]
    least = 1e9 if size < 1e-12 else 1e7
    assert float(found[0, 1].abs().max()) > least
    tolerance = 1e-3 if dtype == torch.float32 else 1e-10
    for stream in range(3):
        assert float((found[0, stream] - exact[0, stream]).abs().max() / exact[0, stream].abs().max()) < tolerance


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize(("n", "channels"), [(2, 1), (4, 3), (6, 2)])
def test_halves_of_streams_are_streams_of_their_own_where_they_are_mixed(name: str, n: int, channels: int) -> None:
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    adapter = published.build(name)
    assert set(offers(adapter)) == {"mappings", "project"}
    x, (params,) = generic(adapter, (2, 3, n, channels), seed=n)
    found, expected = adapter.mappings(x, params), mhc_ref.mappings(x, params, adapter.dialect)
    for part in Mappings._fields:
        if part in adapter.emits:
            assert_near(getattr(found, part), getattr(expected, part))
        else:
            assert getattr(found, part) is None


def normed(x: Tensor) -> Tensor:
    """Of [..., C], as both modules normalise a fraction of a stream with a gamma of 0."""
    return x / x.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12) * x.shape[-1] ** 0.5


def fractions_written_out(module: Any, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """A block of `HyperConnections(num_fracs=f)` of x [s, T, C], from its formula, in loops over fractions."""
    f, (s, _, channels) = module.num_fracs, x.shape
    parts = [[x[j, :, k * channels // f : (k + 1) * channels // f] for j in range(s)] for k in range(f)]

    def weighed(k: int, j: int, column: int) -> Tensor:
        dynamic = (normed(parts[k][j]) @ module.dynamic_alpha_fn[:, column]).tanh() * module.dynamic_alpha_scale
        return (dynamic + module.static_alpha[k * s + j, column]).unsqueeze(-1) * parts[k][j]

    def gathered(column: int) -> Tensor:
        return sum((weighed(k, j, column) for k in range(f) for j in range(s)), start=torch.zeros_like(parts[0][0]))

    def written(k: int, j: int, into: int) -> Tensor:
        dynamic = (normed(parts[k][j]) @ module.dynamic_beta_fn[:, into]).tanh() * module.dynamic_beta_scale
        return (dynamic + module.static_beta[j * f + into]).unsqueeze(-1)

    read = [gathered(into * (1 + s)) for into in range(f)]
    gave = branch(torch.cat(read, -1)).chunk(f, -1)
    after = [
        torch.cat(
            [
                gathered(into * (1 + s) + 1 + j) + sum(written(k, j, into) * gave[k] for k in range(f))
                for into in range(f)
            ],
            -1,
        )
        for j in range(s)
    ]
    return torch.stack(after)


@pytest.mark.parametrize(("streams", "fractions"), [(1, 2), (3, 2), (2, 4)])
def test_fractions_are_read_and_written_as_their_formula_has_it(streams: int, fractions: int) -> None:
    """What no dialect says of `num_fracs`: several vectors are read and written, each with gates of its own; gradients,
    too."""
    library = pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    generator = torch.Generator().manual_seed(streams)
    channels = 2 * fractions
    module = library.HyperConnections(streams, dim=channels, num_fracs=fractions, layer_index=0).double()
    for name, one in module.named_parameters():
        if name != "norm.gamma":
            one.data.copy_(torch.randn(one.shape, generator=generator, dtype=torch.float64))
    own = [one for name, one in module.named_parameters() if name != "norm.gamma"]
    x = torch.randn(streams, 3, channels, generator=generator, dtype=torch.float64, requires_grad=True)
    bar = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def by_library(x: Tensor) -> Tensor:
        read, add = module(x)
        return add(branch(1)(read[0])[None])

    found, expected = by_library(x), fractions_written_out(module, x, branch(1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(*(torch.autograd.grad(one, [x, *own], bar) for one in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def fractions_of_v2_written_out(module: Any, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """A block of `mHCv2(num_fracs=f)` of x [T, s, C], from its formula; only h_res is the reference's."""
    f, (tokens, s, _) = module.num_fracs, x.shape
    parts = x.reshape(tokens, s * f, -1)
    unit = normed(parts)
    factors = torch.cat([module.pre_branch_scale.expand(f), module.residual_scale.expand(s * f)])
    logits = (unit @ module.dynamic_alpha_fn[0]) * factors + module.static_alpha
    mixed = mhc_ref.project(logits[..., f:], mhc_ref.LUCIDRAINS).mT @ parts
    read = [(logits[..., k].sigmoid().unsqueeze(-1) * parts).sum(1) for k in range(f)]
    gave = branch(torch.cat(read, -1)).chunk(f, -1)
    # Of these gates the static part knows which fraction is written, and the dynamic one where to.
    static = module.static_beta.reshape(s * f, 1)
    gates = 2 * ((unit @ module.dynamic_beta_fn) * module.h_post_scale + static).sigmoid()
    written = [sum(gates[:, j * f + k, into, None] * gave[k] for k in range(f)) for j in range(s) for into in range(f)]
    return (mixed + torch.stack([torch.as_tensor(one) for one in written], 1)).reshape(x.shape)


@pytest.mark.parametrize(("streams", "fractions"), [(1, 2), (3, 2), (2, 4)])
def test_fractions_of_v2_are_read_and_written_as_their_formula_has_it(streams: int, fractions: int) -> None:
    pytest.importorskip("hyper_connections", reason="the extra `hyper-connections` is not installed")
    from hyper_connections.mHCv2 import ManifoldConstrainedHyperConnections

    generator = torch.Generator().manual_seed(streams)
    channels = 2 * fractions
    module: Any = ManifoldConstrainedHyperConnections(streams, dim=channels, num_fracs=fractions, layer_index=0)
    for name, one in module.named_parameters():
        if name != "norm.gamma":
            one.data.copy_(torch.randn(one.shape, generator=generator))
    own = [one for name, one in module.named_parameters() if name != "norm.gamma"]
    x = torch.randn(3, streams, channels, generator=generator, requires_grad=True)
    bar = torch.randn(x.shape, generator=generator)

    def by_library(x: Tensor) -> Tensor:
        read, add = module(x[None])
        return add(branch(1)(read[0])[None])[0]

    found, expected = by_library(x), fractions_of_v2_written_out(module, x, branch(1))
    assert_near(found, expected)
    for mine, theirs in zip(*(torch.autograd.grad(one, [x, *own], bar) for one in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
