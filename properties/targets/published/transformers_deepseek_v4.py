"""DeepSeek-V4 as transformers publishes it (5.24.0): `transformers.models.deepseek_v4.modeling_deepseek_v4`.

`DeepseekV4HyperConnection` computes the mappings and, with the pre mapping that it never returns, the branch input.
What it does with them stands in `DeepseekV4DecoderLayer.forward`, two blocks a layer, so blocks are run through that.

Precision of each stage, for a state of dtype d: mappings in float32; the branch input summed in float32 and rounded
to d; h_post and h_res rounded to d; h_post * y rounded to d; h_res^T x accumulated in float32 on a CPU and rounded to
d; their sum rounded to d. For float32 that is the default contract, for bfloat16 it is not. The head follows it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

import mhc_ref
from mhc_ref import Branch, Mappings, Params
from properties.targets.published.tuning import Tunable


class Half(NamedTuple):
    """Where one of the two blocks of a decoder layer keeps its hyper-connection, its norm and its branch."""

    connection: str
    norm: str
    branch: str


FIRST, SECOND = HALVES = (
    Half("attn_hc", "input_layernorm", "self_attn"),
    Half("ffn_hc", "post_attention_layernorm", "mlp"),
)


class DeepseekV4(Tunable):
    """`DeepseekV4HyperConnection`, applied by `DeepseekV4DecoderLayer`, collapsed by `DeepseekV4HyperHead`."""

    dialect = mhc_ref.DEEPSEEK_V4
    # float64 states are computed in float32 up to the logits and in the parameters' dtype from there on.
    dtypes = (torch.float32, torch.bfloat16)
    emits = ("post", "res")
    # hc_eps is added before the first division, so what underflows in the softmax is lost in it anyway.
    full_range = True
    # The modules have no norm weight; `.view(B, S, -1)` refuses states without tokens and views that it cannot flatten;
    # the decoder layer casts h_post and h_res to the dtype of the state before it mixes.
    norm_weight = False
    zero_tokens = False
    strided = False
    mixing = "state"

    settings: ClassVar[Mapping[str, str]] = {"iterations": "hc_sinkhorn_iters", "rms_eps": "rms_norm_eps"}
    """Dialect field -> the field of the library's configuration that sets it. hc_eps sets three of ours together."""
    tunable = frozenset(settings)
    below_one = "hc_sinkhorn_iters below 1 computes what 1 does"
    modeling: ClassVar[str] = "transformers.models.deepseek_v4.modeling_deepseek_v4"
    prefix: ClassVar[str] = "DeepseekV4"
    configured: ClassVar[str] = ""
    """The class of its configuration, where that has another name."""

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; nothing here comes from a hub
        import_module(self.modeling)  # so that a missing library is found out before anything runs
        self._settings: dict[str, Any] = {}

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        n, channels = x.shape[-2:]
        post, res, _ = functional_call(self._connection(n, channels), weights(params), (flat(x),), strict=True)
        pre: Any = None  # consumed where it is computed
        return Mappings(pre, post.reshape(*x.shape[:-2], n), res.reshape(*x.shape[:-2], n, n))

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        blocks = list(zip(params, branches, strict=True))
        streams = flat(x)
        for first in range(0, len(blocks), len(HALVES)):
            streams = self._decoder_layer(streams, blocks[first : first + len(HALVES)], x.shape[:-2])
        return streams.reshape(x.shape)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            raise ValueError("the streams are collapsed by a head, whose parameters are missing")
        n, channels = x.shape[-2:]
        head = getattr(self._library, f"{self.prefix}HyperHead")(self._configuration(n, channels))
        phi, bias, alpha = weights(params).values()
        own = {"hc_fn": phi[:n], "hc_base": bias[:n], "hc_scale": alpha[:1]}
        return functional_call(head, own, (flat(x),), strict=True).reshape(*x.shape[:-2], channels)

    def tuned(self, **fields: Any) -> Self:
        tuned = super().tuned(**fields)
        tuned._settings = self._settings | {self.settings[field]: getattr(tuned.dialect, field) for field in fields}
        return tuned

    @property
    def _library(self) -> Any:
        return import_module(self.modeling)

    def _configuration(self, n: int, channels: int) -> Any:
        made = getattr(self._library, self.configured or f"{self.prefix}Config")
        return configuration(made, hidden_size=channels, hc_mult=n, **self._settings)

    def _connection(self, n: int, channels: int) -> nn.Module:
        return getattr(self._library, f"{self.prefix}HyperConnection")(self._configuration(n, channels))

    def _decoder_layer(self, streams: Tensor, blocks: Sequence[tuple[Params, Branch]], tokens: torch.Size) -> Tensor:
        """One or two blocks [1, T, n, C] -> [1, T, n, C] through the library's layer, left half-way if it is one."""
        kind = getattr(self._library, f"{self.prefix}DecoderLayer")
        layer: nn.Module = kind.__new__(kind)  # its own __init__ makes attention and experts of a model's size
        nn.Module.__init__(layer)
        own: dict[str, Tensor] = {}
        for half, (params, branch) in zip(HALVES, blocks, strict=False):
            setattr(layer, half.connection, self._connection(*streams.shape[-2:]))
            setattr(layer, half.norm, nn.Identity())
            setattr(layer, half.branch, self._sublayer(half, branch, tokens))
            own |= weights(params, f"{half.connection}.")
        if len(blocks) < len(HALVES):
            setattr(layer, SECOND.connection, Exit())
        try:
            return self._run(layer, own, streams)
        except HalfWay as left:
            return left.streams

    def _sublayer(self, half: Half, branch: Branch, tokens: torch.Size) -> nn.Module:
        return Attention(branch, tokens) if half is FIRST else Sublayer(branch, tokens)

    def _run(self, layer: nn.Module, own: Mapping[str, Tensor], streams: Tensor) -> Tensor:
        return functional_call(layer, dict(own), (streams,), strict=True)


class Sublayer(nn.Module):
    """A branch [..., C] -> [..., C] where the layer has its mlp, [1, T, C] -> [1, T, C]."""

    def __init__(self, branch: Branch, tokens: torch.Size) -> None:
        super().__init__()

        # In a closure: a branch that is a module must not be registered, its parameters are not the layer's.
        def run(h: Tensor) -> Tensor:
            return branch(h.reshape(*tokens, h.shape[-1])).reshape(h.shape)

        self.run = run

    def forward(self, hidden_states: Tensor, **_: Any) -> Any:
        return self.run(hidden_states)


class Attention(Sublayer):
    """A branch where the layer has its attention, which returns its weights as well."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Any:
        return self.run(hidden_states), None


class HalfWay(Exception):  # leaving a layer between its blocks is no error
    """Carries the streams out of a decoder layer after the first of its two blocks."""

    def __init__(self, streams: Tensor) -> None:
        super().__init__()
        self.streams = streams


class Exit(nn.Module):
    """Stands where the second block begins; it is handed what the first one computed.

    A second block of zeros and an identity would hand on the same numbers, except that 0 * inf is NaN.
    """

    def forward(self, streams: Tensor) -> Tensor:
        raise HalfWay(streams)


@cache
def configuration(kind: Any, **settings: Any) -> Any:
    """The library's configuration, its defaults untouched but for `settings`. It is only ever read."""
    return kind(**settings)


def weights(params: Params, prefix: str = "") -> dict[str, Tensor]:
    """Params under the names of a hyper-connection's parameters: fn [M, n*C], base [M], scale [3], or [2] of iHC."""
    if params.norm_weight is not None:
        raise ValueError("Params.norm_weight is given; expected None: these modules normalise without a weight")
    return {f"{prefix}fn": params.phi.T, f"{prefix}base": params.bias, f"{prefix}scale": params.alpha}


def flat(x: Tensor) -> Tensor:
    """[..., n, C] -> [1, T, n, C], a view where there is one: strides are the library's to deal with."""
    return x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])
