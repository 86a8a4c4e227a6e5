"""DeepSeek-V4.1 as mlx-lm publishes it (0.32.2, mlx 0.32.4): `mlx_lm.models.deepseek_v41`, on a CPU or an Apple GPU.

V4.1 is the single-pass variant: a branch reads with the pre mapping of the block *before*, the first reads stream 0,
and the streams end by the last pre mapping. `HyperConnection` computes the mappings, `DecoderLayer` has two blocks, and
`TextModel` begins and ends the streams, so layers and stacks are run through those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Mappings, Params
from properties.targets.array_libraries import Mlx
from properties.targets.arrays import called
from properties.targets.published.tuning import Tunable

SETTINGS = {"iterations": "hc_sinkhorn_iters", "rms_eps": "rms_norm_eps"}
"""Dialect field -> the field of `ModelArgs` that sets it. hc_eps sets three of ours together."""


class DeepseekV41(Tunable):
    """`HyperConnection`, applied by `DecoderLayer`, between the begin and the end of `TextModel`."""

    dialect = mhc_ref.DEEPSEEK_V4_1
    dtypes = (torch.float32, torch.bfloat16)
    tunable = frozenset(SETTINGS)
    # "Normalize the columns, then the rows and columns iters - 1 more times."
    below_one = "hc_sinkhorn_iters below 1 computes what 1 does"
    full_range = True  # hc_eps is added before the first division
    zero_tokens = False  # streams.reshape(..., -1)
    norm_weight = False

    def __init__(self) -> None:
        self._library: Any = import_module("mlx_lm.models.deepseek_v41")
        self._arrays = Mlx()

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        n, batch = x.shape[-2], x.shape[:-2]
        connection = self._connection(*x.shape[-2:])

        def run(streams: Any, *own: Any) -> Any:
            return loaded(connection, own)(streams)

        pre, post, res = self._called(run, flat(x), *packed(params))
        return Mappings(pre.reshape(*batch, n), post.reshape(*batch, n), res.reshape(*batch, n, n))

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        (read,) = self._called(self._library._collapse, flat(x), h_pre.reshape(1, -1, x.shape[-2]))
        return read.reshape(*x.shape[:-2], x.shape[-1])

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        n, channels, tokens = *x.shape[-2:], math.prod(x.shape[:-2])
        parts = (y.reshape(1, tokens, channels), flat(x), h_post.reshape(1, tokens, n), h_res.reshape(1, tokens, n, n))
        (mixed,) = self._called(self._library._expand, *parts)
        return mixed.reshape(x.shape)

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return self.layers(x, [params], [branch])

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        _, gates = self._begun(x[..., 0, :], x.shape[-2])
        return self._decoded(flat(x), gates, params, branches, x.shape[:-2])[0].reshape(x.shape)

    def expand(self, h: Tensor, n: int) -> Tensor:
        return self._begun(h, n)[0].reshape(*h.shape[:-1], n, h.shape[-1])

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        n = len(params[0].phi) // h.shape[-1]
        streams, gates = self._decoded(*self._begun(h, n), params, branches, h.shape[:-1])

        def end(*state: Any) -> Any:
            def leave(*_: Any, **__: Any) -> Any:
                return state

            return self._text_model(leave, n, h.shape[-1])(state[0][:, :, 0])

        (out,) = self._called(end, streams, gates)
        return out.reshape(h.shape)

    def _called(self, function: Callable[..., Any], *tensors: Tensor) -> Any:
        return called(self._arrays, function, *tensors)

    def _arguments(self, n: int, channels: int) -> Any:
        settings = {name: getattr(self.dialect, field) for field, name in SETTINGS.items()}
        return self._library.ModelArgs(hidden_size=channels, hc_mult=n, **settings)

    def _connection(self, n: int, channels: int) -> Any:
        return self._library.HyperConnection(self._arguments(n, channels))

    def _text_model(self, layer: Any, n: int, channels: int) -> Any:
        """The library's model of one layer, without an embedding before it and a norm behind it."""
        model = empty(self._library.TextModel)
        model.pipeline_rank, model.pipeline_size, model.start_idx, model.end_idx = 0, 1, 0, None
        model.args = self._arguments(n, channels)
        model.embed_tokens = model.norm = same
        model.layers = [layer]
        return model

    def _begun(self, h: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The streams [1, T, n, C] and the gates [1, T, n] with which the model enters its first layer."""

        def begin(embedded: Any) -> Any:
            try:
                self._text_model(Left.raised, n, h.shape[-1])(embedded)
            except Left as left:
                return left.state

        return self._called(begin, h.reshape(1, -1, h.shape[-1]))

    def _decoded(
        self, streams: Tensor, gates: Tensor, params: Sequence[Params], branches: Sequence[Branch], tokens: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Streams and gates after the library's layers of two blocks each, the last left half-way if it has one."""
        blocks = list(zip(params, branches, strict=True))
        for first in range(0, len(blocks), 2):
            some = blocks[first : first + 2]
            given: list[Tensor] = []
            for _, branch in some:
                (u,) = self._called(self._layer(len(some)), streams, gates, *weights(some), *given)
                given.append(branch(u.reshape(*tokens, u.shape[-1])).reshape(u.shape))
            streams, gates = self._called(self._layer(len(some)), streams, gates, *weights(some), *given)
        return streams, gates

    def _layer(self, blocks: int) -> Callable[..., Any]:
        """A layer of one block or two as a function of streams, gates, the parameters of its blocks and what the first
        of its branches gave: of all of them, streams and gates that it leaves, else what the next branch reads.

        So the layer is run once for each branch and once more, and every run is a function that mlx differentiates.
        """

        def run(streams: Any, gates: Any, *rest: Any) -> Any:
            own, outputs = rest[: 3 * blocks], iter(rest[3 * blocks :])
            connections = [self._connection(*streams.shape[-2:]) for _ in range(blocks)]
            hand_on: list[Any] = []

            def first(state: Any) -> Any:
                found = loaded(connections[0], own[:3])(state)
                hand_on.append(found[0])
                return found

            def second(state: Any) -> Any:
                return loaded(connections[1], own[3:])(state) if blocks == 2 else Left.raised(state, hand_on[0])

            def branch(h: Any, **_: Any) -> Any:
                y = next(outputs, None)
                return Left.raised(h) if y is None else y

            layer = empty(self._library.DecoderLayer)
            layer.input_layernorm = layer.post_attention_layernorm = same
            layer.attn_hc, layer.ffn_hc = first, second
            layer.self_attn = layer.mlp = branch
            try:
                return layer(streams, gates, start_pos=0, window_idx=None, cache=None, shared={})
            except Left as left:
                return left.state

        return run


class Left(Exception):  # leaving a layer or a model on the way is no error
    """Carries arrays out of the library's code."""

    def __init__(self, *state: Any) -> None:
        super().__init__()
        self.state = state

    @classmethod
    def raised(cls, *state: Any, **_: Any) -> Any:
        """Stands where a module is called, and leaves with what it was given."""
        raise cls(*state)


def same(h: Any) -> Any:
    """In place of an embedding or a norm."""
    return h


def empty(kind: Any) -> Any:
    """A module without what its own __init__ makes: attention and experts of a model's size."""
    made = kind.__new__(kind)
    import_module("mlx.nn").Module.__init__(made)
    return made


def loaded(connection: Any, own: Sequence[Any]) -> Any:
    """A hyper-connection with its parameters."""
    connection.fn, connection.base, connection.scale = own
    return connection


def packed(params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """fn [M, n*C], base [M], scale [3] of a hyper-connection."""
    if params.norm_weight is not None:
        raise ValueError("Params.norm_weight is given; expected None: the norm has no weight")
    return params.phi.T, params.bias, params.alpha


def weights(blocks: Sequence[tuple[Params, Branch]]) -> list[Tensor]:
    """Those of several, one after the other."""
    return [part for params, _ in blocks for part in packed(params)]


def flat(x: Tensor) -> Tensor:
    """[..., n, C] -> [1, T, n, C]."""
    return x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])
