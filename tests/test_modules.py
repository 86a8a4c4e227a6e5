"""A torch module as an implementation, its parameters named in a mapping."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, PAPER, Params
from properties.core.case import map_tensors
from properties.core.implementation import Absent, offers
from properties.targets.modules import from_module

FUSED = {"phi": "fused.weight.T", "bias": "fused.bias", "alpha": "gates"}


class Fused(nn.Module):
    """Every mapping from one Linear; takes [B, T, n, C]."""

    def __init__(self, n: int, channels: int, iterations: int = 20) -> None:
        super().__init__()
        self.n, self.dialect = n, PAPER.with_(iterations=iterations)
        self.fused = nn.Linear(n * channels, 2 * n + n * n)
        self.gates = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        assert x.dim() == 4
        return mhc_ref.mappings(x, Params(self.fused.weight.mT, self.fused.bias, self.gates), self.dialect)


class Apart(nn.Module):
    """The three mappings apart, the residual ones as a matrix; a whole block."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.to_pre, self.to_post = nn.Linear(n * channels, n), nn.Linear(n * channels, n)
        self.phi_res = nn.Parameter(torch.zeros(n * channels, n, n))
        self.b_res = nn.Parameter(torch.zeros(n, n))
        self.a_pre, self.a_post, self.a_res = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        assert x.dim() == 3
        phi = torch.cat([self.to_pre.weight.mT, self.to_post.weight.mT, self.phi_res.flatten(1)], -1)
        bias = torch.cat([self.to_pre.bias, self.to_post.bias, self.b_res.flatten()])
        params = Params(phi, bias, torch.stack([self.a_pre, self.a_post, self.a_res]))
        return mhc_ref.block(x, params, branch, PAPER)


APART = {
    "phi.pre": "to_pre.weight.T",
    "phi.post": "to_post.weight.T",
    "phi.res": "phi_res",
    "bias.pre": "to_pre.bias",
    "bias.post": "to_post.bias",
    "bias.res": "b_res",
    "alpha.pre": "a_pre",
    "alpha.post": "a_post",
    "alpha.res": "a_res",
}


def state(tokens: tuple[int, ...]) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*tokens, 3, 4, generator=generator, dtype=torch.float64)
    phi = torch.randn(12, 15, generator=generator, dtype=torch.float64)
    return x, Params(phi, torch.linspace(-1, 1, 15).double(), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("tokens", [(), (2,), (2, 3), (0,)])
def test_mappings_are_the_module_s(tokens: tuple[int, ...]) -> None:
    target = from_module(Fused, FUSED, dialect=PAPER, token_axes=2)
    assert (target.name, target.norm_weight) == ("Fused", False)
    assert offers(target) == {"mappings": "own", "project": "derived from mappings"}
    x, params = state(tokens)
    for got, exact in zip(target.mappings(x, params), mhc_ref.mappings(x, params, PAPER), strict=True):
        torch.testing.assert_close(got, exact)


@pytest.mark.parametrize("tokens", [(), (2,), (2, 3)])
def test_a_block_of_parts_is_the_module_s_and_its_branch_sees_the_tokens(tokens: tuple[int, ...]) -> None:
    target = from_module(Apart, APART, dialect=PAPER, computes="block", token_axes=1)
    x, params = state(tokens)
    seen: list[torch.Size] = []

    def branch(u: Tensor) -> Tensor:
        seen.append(u.shape)
        return u.tanh()

    torch.testing.assert_close(target.block(x, params, branch), mhc_ref.block(x, params, torch.tanh, PAPER))
    assert seen == [(*tokens, 4)]


def test_gradients_reach_every_parameter() -> None:
    target = from_module(Apart, APART, dialect=PAPER, computes="block", token_axes=1)

    def pulled(block: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        x, params = state((2,))
        leaves = [x.requires_grad_(), *(one.requires_grad_() for one in params[:3])]
        return torch.autograd.grad(block(x, Params(*leaves[1:])).square().sum(), leaves)

    expected = pulled(lambda x, params: mhc_ref.block(x, params, torch.tanh, PAPER))
    for got, exact in zip(pulled(lambda x, params: target.block(x, params, torch.tanh)), expected, strict=True):
        torch.testing.assert_close(got, exact)


def test_a_module_can_be_called_otherwise_and_tuned() -> None:
    target = from_module(
        Fused,
        FUSED,
        dialect=PAPER,
        token_axes=1,
        call=lambda module, x: [one.squeeze(0) for one in module(x.unsqueeze(0))],
        tune=lambda dialect: {"iterations": dialect.iterations},
        tunable=frozenset({"iterations"}),
    )
    x, params = state((2,))
    once = target.tuned(iterations=1)
    exact = mhc_ref.mappings(x, params, PAPER.with_(iterations=1))
    torch.testing.assert_close(once.mappings(x, params).res, exact.res)
    with pytest.raises(Absent):
        target.tuned(rms_eps=1.0)


def test_shared_projections_have_columns_of_their_own() -> None:
    class Shared(nn.Module):
        def __init__(self, n: int, channels: int) -> None:
            super().__init__()
            self.pre, self.post = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
            self.res = nn.Parameter(torch.zeros(channels, n))
            self.bias, self.gates = nn.Parameter(torch.zeros(2 * n + n * n)), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Any:
            phi = torch.cat([self.pre[:, None], self.post[:, None], self.res], -1)
            return mhc_ref.mappings(x, Params(phi, self.bias, self.gates), LUCIDRAINS)

    names = {"phi.pre": "pre", "phi.post": "post", "phi.res": "res", "bias": "bias", "alpha": "gates"}
    target = from_module(Shared, names, dialect=LUCIDRAINS)
    x, params = state((2,))
    params = params._replace(phi=params.phi[:4, :5].contiguous())
    for got, exact in zip(target.mappings(x, params), mhc_ref.mappings(x, params, LUCIDRAINS), strict=True):
        torch.testing.assert_close(got, exact)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({**FUSED, "phi": "fused.weight"}, ValueError, "its transpose, which is named 'fused.weight.T'"),
        (
            {**FUSED, "phi": "fuse.weight"},
            ValueError,
            "no parameter 'fuse.weight'; it has gates, fused.weight",
        ),
        ({**FUSED, "bias": "gates", "alpha": "fused.bias"}, ValueError, r"bias is \[8\], and gates of Fused is \[3\]"),
        ({**FUSED, "bias": "gates"}, ValueError, "gates is named more than once"),
        ({"phi": "fused.weight.T", "bias": "fused.bias"}, ValueError, "nothing is named for alpha"),
        ({**FUSED, "alpha.pre": "gates"}, ValueError, "alpha is named as a whole and in parts"),
        ({"phi": "fused.weight.T", "bias.pre": "fused.bias", "alpha": "gates"}, ValueError, "bias.post, bias.res"),
        ({**FUSED, "gamma": "gates"}, TypeError, "'gamma' is no parameter of ours; expected phi, bias, alpha"),
    ],
)
def test_names_that_do_not_fit_are_refused_at_once(names: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_module(Fused, names, dialect=PAPER)


def test_a_parameter_without_a_name_is_refused() -> None:
    class More(Fused):
        def __init__(self, n: int, channels: int) -> None:
            super().__init__(n, channels)
            self.temperature = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match=r"nothing is named for temperature \[1\] of More"):
        from_module(More, FUSED, dialect=PAPER)


def test_a_block_wants_its_tokens_together() -> None:
    with pytest.raises(TypeError, match="token_axes is 0"):
        from_module(Apart, APART, dialect=PAPER, computes="block", token_axes=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_a_scripted_module_is_one_too() -> None:
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "module.py"))
    plain, naming = example["HyperConnection"], {"phi": "fn.T", "bias": "base", "alpha": "scale"}
    target = from_module(lambda n, c: torch.jit.script(plain(n, c)), naming, dialect=DEEPSEEK_V4)
    x, params = state((2,))
    x, params = x.float(), map_tensors(params, torch.Tensor.float)
    for got, exact in zip(target.mappings(x, params), mhc_ref.mappings(x, params, DEEPSEEK_V4), strict=True):
        torch.testing.assert_close(got, exact)
