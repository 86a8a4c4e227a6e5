"""NeMo Automodel (0.7.0), `components.models`: the residuals of DeepSeek-V4, V4.1, GLM-5 Next, Qwen3.8 and Kimi K3.

Its layers import beside any transformers; the package asks for 5.18 and for much that only training needs, so that it
is installed with `pip install --no-deps`. V4 and GLM-5 Next apply their mappings within the forward of a whole decoder
layer, in the dtype of the state; that is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

import mhc_ref
from mhc_ref import Branch, Mappings, Params
from properties.core.implementation import Implementation
from properties.targets.published.attention_residuals import AttentionResiduals, divided
from properties.targets.published.tuning import Tunable


class Automodel(Tunable):
    """What the first three have in common: one batch, parameters in float32, the torch backend of Sinkhorn."""

    dtypes = (torch.float32, torch.bfloat16)
    tunable = frozenset({"iterations", "rms_eps"})
    below_one = "below 1 they compute what 1 does"
    norm_weight = False
    full_range = True  # the eps is added before the first division

    module: ClassVar[str]

    def __init__(self) -> None:
        self._library: Any = import_module(f"nemo_automodel.components.models.{self.module}.layers")

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if params.norm_weight is not None:
            raise ValueError("Params.norm_weight is given; expected None: the norm has no weight")
        n, channels = x.shape[-2:]
        found = self._found(functional_call(self._connection(n, channels), self._own(params), (flat(x),)))
        shape = x.shape[:-1]
        return Mappings(*(None if one is None else one.reshape(*shape, *one.shape[3:]) for one in found))  # pyright: ignore[reportArgumentType]  # None for what is not emitted

    def _connection(self, n: int, channels: int) -> Any:
        """The module of the library; each model below says its own."""
        raise NotImplementedError

    def _own(self, params: Params) -> dict[str, Tensor]:
        return {"fn": params.phi.T, "base": params.bias, "scale": params.alpha}

    def _found(self, returned: Any) -> tuple[Tensor | None, Tensor, Tensor]:
        """(pre, post, comb) of what a connection returns."""
        return returned

    def _numbers(self, n: int, channels: int) -> SimpleNamespace:
        """The configuration of a model, as far as a connection reads it."""
        d = self.dialect
        sizes = {"hc_mult": n, "hidden_size": channels, "initializer_range": 0.02, "torch_dtype": "float32"}
        return SimpleNamespace(**sizes, hc_sinkhorn_iters=d.iterations, hc_eps=d.entry_eps, rms_norm_eps=d.rms_eps)


class DeepseekV4(Automodel):
    """`DeepseekV4HyperConnection`, collapsed by `DeepseekV4HyperHead`."""

    dialect = mhc_ref.DEEPSEEK_V4
    module = "deepseek_v4"

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            raise ValueError("the streams are collapsed by a head, whose parameters are missing")
        n, channels = x.shape[-2:]
        head = self._library.DeepseekV4HyperHead(n, channels, self.dialect.pre_eps, self.dialect.rms_eps)
        own = {"hc_fn": params.phi[:, :n].T, "hc_base": params.bias[:n], "hc_scale": params.alpha[:1]}
        return functional_call(head, own, (flat(x),)).reshape(*x.shape[:-2], channels)

    def _connection(self, n: int, channels: int) -> Any:
        d = self.dialect
        connection = self._library.DeepseekV4HyperConnection(n, channels, d.iterations, d.entry_eps, d.rms_eps)
        connection.forward = connection.compute_weights
        return connection


class DeepseekV41(Automodel):
    """`DeepseekV41HyperConnection` with its `collapse` and `expand`: layers read with the gates of the one before."""

    dialect = mhc_ref.DEEPSEEK_V4_1
    module = "deepseek_v41"

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        n, channels = x.shape[-2:]
        read = self._library.DeepseekV41HyperConnection.collapse(flat(x), h_pre.reshape(1, -1, n))
        return read.reshape(*x.shape[:-2], channels)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        n, channels = x.shape[-2:]
        mix = self._library.DeepseekV41Mix(None, h_post.reshape(1, -1, n), h_res.reshape(1, -1, n, n))
        connection = self._library.DeepseekV41HyperConnection
        return connection.expand(y.reshape(1, -1, channels), flat(x), mix).reshape(x.shape)

    def _connection(self, n: int, channels: int) -> Any:
        return self._library.DeepseekV41HyperConnection(self._numbers(n, channels))


class Glm5Next(Automodel):
    """`Glm5NextHyperConnection`."""

    dialect = mhc_ref.DEEPSEEK_V4.with_(rms_eps=1e-5, collapse="mean")
    module = "glm5_next"
    emits = ("post", "res")

    def _connection(self, n: int, channels: int) -> Any:
        return self._library.Glm5NextHyperConnection(self._numbers(n, channels))

    def _own(self, params: Params) -> dict[str, Tensor]:
        within = "_fp32_params"
        return {"fn": params.phi.T, f"{within}.base": params.bias, f"{within}.scale": params.alpha}

    def _found(self, returned: Any) -> tuple[Tensor | None, Tensor, Tensor]:
        post, comb, _ = returned
        return None, post, comb


class Qwen38FlashNext(Implementation):
    """`Qwen3_8_FlashNextHyperConnection`, with its `mix` and `combine`, and once more at the end."""

    dialect = mhc_ref.QWEN4_EXP
    streams = (2, 3, 4, 5, 8)  # "requires hc_count > 1"
    dtypes = (torch.float32,)  # in bfloat16 it takes parameters in bfloat16, too

    def __init__(self) -> None:
        self._library: Any = import_module("nemo_automodel.components.models.qwen3_8_flash_next.layers")

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        def run(module: Any, state: Tensor) -> Tensor:
            read, residual = module.mix(state)
            return module.combine(branch(read), residual)

        rank, n = self.dialect.rank, x.shape[-2]
        inject = {"block_inject_weight.weight": params.phi[:, rank : rank + n].T}
        return self._run(run, x, params, inject).unflatten(-1, x.shape[-2:])

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            raise ValueError("the streams end by a last read, whose parameters are missing")
        return self._run(lambda module, state: module.mix(state)[0], x, params, {})

    def _run(
        self, run: Callable[[Any, Tensor], Tensor], x: Tensor, params: Params, inject: dict[str, Tensor]
    ) -> Tensor:
        """What a module with these parameters makes of the flattened streams."""
        n, channels = x.shape[-2:]
        rank, weight = self.dialect.rank, params.norm_weight
        module = self._library.Qwen3_8_FlashNextHyperConnection(
            *(channels, n, rank, self.dialect.rms_eps, SimpleNamespace(linear="torch")),
            use_combine=bool(inject),
            dtype=torch.float32,
        )
        own = inject | {
            "hc_norm.weight": params.phi.new_zeros(n * channels) if weight is None else weight,
            "input_mix_weight_down.weight": params.phi[:, :rank].T,
            "input_mix_weight_up.weight": params.phi[:, -rank:],
        }
        module.forward = partial(run, module)
        return functional_call(module, own, (x.flatten(-2),), strict=True)


def flat(x: Tensor) -> Tensor:
    """[..., n, C] -> [1, T, n, C]."""
    return x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])


class KimiK3(AttentionResiduals):
    """`_apply_attn_res` of Kimi K3, without its kernels, which need a GPU."""

    dtypes = (torch.float32, torch.bfloat16)

    def __init__(self) -> None:
        self._library: Any = import_module("nemo_automodel.components.models.kimi_k3.situ")

    def read(self, x: Tensor, query: Tensor) -> Tensor:
        n, channels = x.shape[-2:]
        asked, weight = divided(query)
        sources = x.reshape(-1, n, channels)
        norm = SimpleNamespace(weight=weight, variance_epsilon=self.dialect.rms_eps)
        proj = SimpleNamespace(weight=asked.unsqueeze(0))
        found = self._library._apply_attn_res(sources[:, -1], sources[:, :-1], proj, norm)
        return found.reshape(*x.shape[:-2], channels)
