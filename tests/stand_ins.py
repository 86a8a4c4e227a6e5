"""Modules with the signatures that docs/recipes/ was read from, and none of their code: mhc_ref computes behind them.

`MODULES` names, for each page, the modules that its adapter imports. With `wrong` the operator that is applied, or the
matrix where nothing applies it, is the transpose of what it should be.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import mhc_ref
from mhc_ref import DEEPSEEK_V4, KROMHC, MHC_LITE, Dialect, Params

Modules = dict[str, dict[str, Any]]
"""Dotted name -> what the module has."""

NORMALIZE: dict[str, Any] = {"rms_eps": 1e-12, "rms_eps_by": "clamp"}
"""The norm of `torch.nn.functional.normalize`, as these repositories have it."""


def installed(modules: Modules) -> dict[str, ModuleType]:
    """The modules, and the packages that they lie in, as sys.modules wants them."""
    made: dict[str, ModuleType] = {}
    for dotted, names in modules.items():
        parts = dotted.split(".")
        for depth in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
        vars(made[dotted]).update(names)
    for dotted, module in made.items():
        package, _, name = dotted.rpartition(".")
        if package:
            setattr(made[package], name, module)
    return made


def applied(dialect: Dialect, wrong: bool) -> Dialect:
    """The dialect that mixing speaks."""
    return dialect.with_(transposed=dialect.transposed != wrong)


def turned(res: Tensor, wrong: bool) -> Tensor:
    return res.mT if wrong else res


def deepseek(rms_eps: float, pre_eps: float, eps: float, scale: float, iterations: int) -> Dialect:
    """DeepSeek-V4's dialect with the numbers that the kernels of inference engines take, in their order."""
    fields = {"rms_eps": rms_eps, "pre_eps": pre_eps, "post_scale": scale, "iterations": max(iterations, 1)}
    return DEEPSEEK_V4.with_(**fields, entry_eps=eps, denominator_eps=eps)


def mhc_pre(
    residual: Tensor,
    fn: Tensor,
    hc_scale: Tensor,
    hc_base: Tensor,
    rms_eps: float,
    hc_pre_eps: float,
    hc_sinkhorn_eps: float,
    hc_post_mult_value: float,
    sinkhorn_repeat: int,
    n_splits: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    assert residual.dtype == torch.bfloat16
    assert {fn.dtype, hc_scale.dtype, hc_base.dtype} == {torch.float32}
    n, channels = residual.shape[-2:]
    assert fn.shape == (2 * n + n * n, n * channels)
    residual.view(-1, n, channels)
    dialect = deepseek(rms_eps, hc_pre_eps, hc_sinkhorn_eps, hc_post_mult_value, sinkhorn_repeat)
    found = mhc_ref.mappings(residual, Params(fn.T, hc_base, hc_scale), dialect)
    return found.post.unsqueeze(-1), found.res, mhc_ref.pre(residual, found.pre)


def returning_post(wrong: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def mhc_post(x: Tensor, residual: Tensor, post_layer_mix: Tensor, comb_res_mix: Tensor) -> Tensor:
        assert residual.dtype == torch.bfloat16
        return mhc_ref.post(residual, x, post_layer_mix.squeeze(-1), comb_res_mix, applied(DEEPSEEK_V4, wrong))

    return mhc_post


def vllm(wrong: bool) -> Modules:
    names = {"mhc_pre_torch": mhc_pre, "mhc_post_torch": returning_post(wrong)}
    return {"vllm.model_executor.kernels.mhc.torch": names}


def vllm_v41(wrong: bool) -> Modules:
    def mhc_pre_delayed_torch(
        residual: Tensor,
        fn: Tensor,
        hc_scale: Tensor,
        hc_base: Tensor,
        rms_eps: float,
        hc_pre_eps: float,
        hc_sinkhorn_eps: float,
        hc_post_mult_value: float,
        sinkhorn_repeat: int,
        pre_mix: Tensor | None = None,
        x: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert residual.ndim == 3
        dialect = deepseek(rms_eps, hc_pre_eps, hc_sinkhorn_eps, hc_post_mult_value, sinkhorn_repeat)
        found = mhc_ref.mappings(residual, Params(fn.T, hc_base, hc_scale), dialect)
        read = residual[:, 0] if pre_mix is None else mhc_ref.pre(residual, pre_mix)
        return found.post.unsqueeze(-1), found.res, read, found.pre

    names = {"mhc_pre_delayed_torch": mhc_pre_delayed_torch, "mhc_post_torch": returning_post(wrong)}
    return {"vllm.model_executor.kernels.mhc.torch": names}


def sglang(wrong: bool) -> Modules:
    def hc_split_sinkhorn(
        mixes: Tensor, hc_scale: Tensor, hc_base: Tensor, hc_mult: int = 4, sinkhorn_iters: int = 20, eps: float = 1e-6
    ) -> tuple[Tensor, Tensor, Tensor]:
        b, s, _ = mixes.size()
        pre, post, comb = (mixes * hc_scale[0] + hc_base).split([hc_mult, hc_mult, hc_mult**2], -1)
        dialect = deepseek(1e-6, eps, eps, 2.0, sinkhorn_iters)
        return pre.sigmoid() + eps, 2 * post.sigmoid(), mhc_ref.project(comb.view(b, s, hc_mult, hc_mult), dialect)

    names = {"hc_split_sinkhorn": hc_split_sinkhorn, "mhc_pre": mhc_pre, "mhc_post": returning_post(wrong)}
    return {"sglang.srt.layers.mhc": names}


def aiter(wrong: bool) -> Modules:
    def mhc_post(
        out: Tensor, x: Tensor, residual: Tensor, post_layer_mix: Tensor, comb_res_mix: Tensor, store_nt: int = -1
    ) -> None:
        assert residual.shape[1] == 4
        out.copy_(returning_post(wrong)(x, residual, post_layer_mix, comb_res_mix))

    return {"aiter.ops.mhc": {"mhc_pre": mhc_pre, "mhc_post": mhc_post}}


class Connection(nn.Module):
    """Parameters that are empty until they are given."""

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.hc_fn = nn.Parameter(torch.empty(2 * n + n * n, n * channels))
        self.hc_base = nn.Parameter(torch.empty(2 * n + n * n))
        self.hc_scale = nn.Parameter(torch.empty(3))


class Weight(nn.Module):
    """A weight that is stored less 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(size))


def built(kind: Callable[..., nn.Module]) -> SimpleNamespace:
    """What has a `Config(...)` with a `build()`."""
    return SimpleNamespace(Config=lambda **settings: SimpleNamespace(build=lambda: kind(**settings)))


def torchtitan(wrong: bool) -> Modules:
    dialect = DEEPSEEK_V4.with_(start="exp", entry_eps=0.0)

    class HcPre(Connection):
        def __init__(self, *, hc_mult: int = 4, dim: int) -> None:
            super().__init__(hc_mult, dim)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            assert x.ndim == 4
            found = mhc_ref.mappings(x, Params(self.hc_fn.T, self.hc_base, self.hc_scale), dialect)
            return mhc_ref.pre(x, found.pre), found.post, found.res

    class HcPost(nn.Module):
        def forward(self, x: Tensor, residual: Tensor, post: Tensor, comb: Tensor) -> Tensor:
            return mhc_ref.post(residual, x, post, comb, applied(dialect, wrong))

    class HcHead(nn.Module):
        def __init__(self, *, hc_mult: int = 4, dim: int) -> None:
            super().__init__()
            self.hc_fn = nn.Parameter(torch.empty(hc_mult, hc_mult * dim))
            self.hc_base = nn.Parameter(torch.empty(hc_mult))
            self.hc_scale = nn.Parameter(torch.empty(1))

        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[-2]
            rest = n + n * n
            params = Params(
                torch.cat([self.hc_fn.T, self.hc_fn.new_zeros(self.hc_fn.shape[1], rest)], -1),
                torch.cat([self.hc_base, self.hc_base.new_zeros(rest)]),
                self.hc_scale.expand(3),
            )
            return mhc_ref.collapse(x, dialect, params)

    names = {kind.__name__: built(kind) for kind in (HcPre, HcPost, HcHead)}
    return {"torchtitan.models.deepseek_v4.mhc": names}


def megatron(wrong: bool) -> Modules:
    dialect = DEEPSEEK_V4.with_(rms_eps_inside=False)

    class TransformerConfig(SimpleNamespace):
        def __init__(
            self,
            *,
            num_layers: int,
            hidden_size: int,
            num_attention_heads: int,
            enable_hyper_connections: bool,
            **more: Any,
        ) -> None:
            assert num_layers == num_attention_heads == 1
            assert enable_hyper_connections
            super().__init__(hidden_size=hidden_size, **more)

    class HyperConnectionModule(nn.Module):
        def __init__(self, config: Any, layer_number: int) -> None:
            super().__init__()
            self.n, self.iterations = config.num_residual_streams, config.mhc_sinkhorn_iterations
            size = self.n * self.n + 2 * self.n
            self.mapping_proj = nn.Linear(self.n * config.hidden_size, size, bias=False)
            self.alpha_pre, self.alpha_post, self.alpha_res = (nn.Parameter(torch.ones(1)) for _ in range(3))
            self.bias = nn.Parameter(torch.zeros(size))

        def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            s, b, _ = hidden_states.shape
            x = hidden_states.view(s, b, self.n, -1)
            alpha = torch.cat([self.alpha_pre, self.alpha_post, self.alpha_res])
            params = Params(self.mapping_proj.weight.T, self.bias, alpha)
            found = mhc_ref.mappings(x, params, dialect.with_(iterations=self.iterations))
            return mhc_ref.pre(x, found.pre), found.res, found.post, hidden_states

    def native_h_post_bda(
        h_res: Tensor, original_residual: Tensor, h_post: Tensor, x: Tensor, bias: Tensor | None
    ) -> Tensor:
        return mhc_ref.post(original_residual, x, h_post, h_res, applied(dialect, wrong))

    core = "megatron.core.transformer"
    return {
        f"{core}.hyper_connection": {
            "HyperConnectionModule": HyperConnectionModule,
            "native_h_post_bda": native_h_post_bda,
        },
        f"{core}.transformer_config": {"TransformerConfig": TransformerConfig},
    }


def maxtext(wrong: bool) -> Modules:
    """Torch tensors stand for the arrays of JAX."""

    def sinkhorn(t: Tensor, iters: int = 20) -> Tensor:
        return turned(mhc_ref.project(t, DEEPSEEK_V4.with_(iterations=iters)), wrong)

    class ManifoldConstrainedHyperConnections:
        def __init__(self, config: Any, dim: int, mesh: Any, rngs: Any) -> None:
            self.config, k = config, config.mhc_expansion_rate
            assert not config.enable_mhc_lite
            sizes = {"pre": (k,), "post": (k,), "res": (k, k)}
            for name, shape in sizes.items():
                width = k * k if name == "res" else k
                setattr(self, f"{name}_alpha", SimpleNamespace(value=torch.empty(k * dim, width)))
                setattr(self, f"{name}_beta", SimpleNamespace(value=torch.empty(shape)))
                setattr(self, f"{name}_alpha_scale", SimpleNamespace(value=torch.empty(1)))

        def __call__(self, norm_fn: Any, branch_fn: Any, x: Tensor, mhc_type: Any) -> tuple[Tensor, dict[str, Any]]:
            assert mhc_type is HyperConnectionType.MLP_DENSE
            own = [
                [getattr(self, f"{one}_{what}").value for one in ("pre", "post", "res")]
                for what in ("alpha", "beta", "alpha_scale")
            ]
            assert own[1][2].shape == (x.shape[2], x.shape[2])
            params = Params(torch.cat(own[0], -1), torch.cat([one.flatten() for one in own[1]]), torch.cat(own[2]))
            dialect = DEEPSEEK_V4.with_(
                iterations=self.config.sinkhorn_iterations, rms_eps=self.config.normalization_layer_epsilon
            )
            branch = lambda h: branch_fn(inputs=norm_fn(h))  # noqa: E731
            return mhc_ref.block(x, params, branch, applied(dialect, wrong)), {}

    class HyperConnectionType(enum.Enum):
        ATTENTION = "attention"
        MLP_DENSE = "mlp_dense"

    jax = {
        "Array": Tensor,
        "config": SimpleNamespace(jax_enable_x64=False),
        "vjp": lambda function, *arrays: torch.func.vjp(lambda *given: function(*given), *arrays),
    }
    return {
        "jax": jax,
        "jax.numpy": {"float32": torch.float32},
        "jax.dlpack": {"from_dlpack": torch.from_dlpack},
        "flax.nnx": {"Rngs": lambda seed: nullcontext()},
        "maxtext.common.common_types": {"HyperConnectionType": HyperConnectionType},
        "maxtext.layers.mhc": {
            "ManifoldConstrainedHyperConnections": ManifoldConstrainedHyperConnections,
            "sinkhorn": sinkhorn,
        },
    }


def packed(count: Callable[[int], int], applies: Dialect, rolled: int = 0) -> type[nn.Module]:
    """Streams in the batch, `(b s) ... d`, with `count` residual coefficients beside those of the gates."""

    class Packed(nn.Module):
        branch: Any = None

        def __init__(self, num_residual_streams: int, *, dim: int, layer_index: int | None = None) -> None:
            super().__init__()
            self.n = n = num_residual_streams
            self.static_alpha = nn.Parameter(torch.empty(n + count(n)))
            self.dynamic_alpha_fn = nn.Parameter(torch.empty(dim * n, n + count(n)))
            self.pre_branch_scale, self.residual_scale = (nn.Parameter(torch.empty(1)) for _ in range(2))
            self.static_beta = nn.Parameter(torch.empty(n))
            self.dynamic_beta_fn = nn.Parameter(torch.empty(dim * n, n))
            self.h_post_scale = nn.Parameter(torch.empty(()))
            self.norm = Weight(dim * n)

        def forward(self, residuals: Tensor) -> Tensor:
            n = self.n
            x = residuals.unflatten(0, (-1, n)).movedim(1, -2)  # (b s) ... d -> b ... s d
            phi = (self.dynamic_alpha_fn[:, :n], self.dynamic_beta_fn, self.dynamic_alpha_fn[:, n:])
            bias = (self.static_alpha[:n], self.static_beta, self.static_alpha[n:])
            alpha = (self.pre_branch_scale, self.h_post_scale[None], self.residual_scale)
            params = Params(torch.cat(phi, -1), torch.cat(bias), torch.cat(alpha), self.norm.gamma + 1)
            out = mhc_ref.block(x, params, self.branch, applies).roll(rolled, -2)
            return out.movedim(-2, 1).flatten(0, 1)

    return Packed


def mhc_lite(wrong: bool) -> Modules:
    dialect = applied(MHC_LITE.with_(**NORMALIZE), wrong)
    return {"hyper_conn.mhc_lite": {"MHCLite": packed(math.factorial, dialect)}}


def kromhc(wrong: bool) -> Modules:
    """A product of symmetric factors is symmetric: what is wrong here is the stream to which a sum is written."""
    made = packed(lambda n: 2 * (n.bit_length() - 1), KROMHC.with_(**NORMALIZE), int(wrong))
    return {"hyper_conn.Kromhc": {"KromHC": made}}


def tokenbender(wrong: bool) -> Modules:
    def sinkhorn_log(logits: Tensor, num_iters: int = 10, tau: float = 0.05) -> Tensor:
        assert logits.ndim == 2
        scaled = logits / tau
        for _ in range(num_iters):
            scaled = scaled.log_softmax(-1).log_softmax(-2)
        return turned(scaled.exp(), wrong)

    return {"hyper_connections.hyper_connections": {"sinkhorn_log": sinkhorn_log}}


def mhc_cu(wrong: bool) -> Modules:
    dialect = Dialect(last_axis="column")

    def mhc_dynamic_h_fwd(
        x_expanded: Tensor,
        phi_concat: Tensor,
        alpha_pre: float,
        alpha_post: float,
        alpha_res: float,
        b_pre: Tensor,
        b_post: Tensor,
        b_res: Tensor,
        sinkhorn_iters: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert phi_concat.dtype == torch.bfloat16
        assert b_res.is_contiguous()
        params = Params(
            phi_concat.float().T,
            torch.cat([b_pre, b_post, b_res.flatten()]),
            torch.tensor([alpha_pre, alpha_post, alpha_res]),
        )
        found = mhc_ref.mappings(x_expanded, params, dialect.with_(iterations=sinkhorn_iters))
        return found.pre, found.post, found.res, x_expanded.square().mean((-1, -2)).sqrt()

    def mhc_dynamic_aggregate_fwd(x: Tensor, h_pre: Tensor) -> Tensor:
        return mhc_ref.pre(x, h_pre).bfloat16()

    def mhc_dynamic_mix_fwd(x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        assert y.dtype == torch.bfloat16
        return mhc_ref.post(x, y.float(), h_post, h_res, applied(dialect, wrong))

    functions = (mhc_dynamic_h_fwd, mhc_dynamic_aggregate_fwd, mhc_dynamic_mix_fwd)
    return {"mhc_cuda": {one.__name__: one for one in functions}}


MODULES: dict[str, Callable[[bool], Modules]] = {
    "aiter": aiter,
    "kromhc": kromhc,
    "maxtext": maxtext,
    "megatron": megatron,
    "mhc-cu": mhc_cu,
    "mhc-lite": mhc_lite,
    "sglang": sglang,
    "tokenbender": tokenbender,
    "torchtitan": torchtitan,
    "vllm": vllm,
    "vllm-v41": vllm_v41,
}
