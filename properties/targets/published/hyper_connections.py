"""The package hyper-connections (0.4.11): its three modules, their constructor options, and its Triton projection.

`mHCv2` keeps the streams on an axis of their own; `manifold_constrained_hyper_connections` (v1, what the package
exports as `mHC`) and `hyper_connections` (before the manifold) pack them into the batch, `(b s) ... d`. All three have
one projection [C, 2 + n] for all streams, x / max(|x|, 1e-12) sqrt(C) stream by stream as their norm, and apply the
transpose.

Precision of v1 and v2 for a float32 state: everything in float32, which is the default contract. Their norm is computed
in the dtype of the state, so that a bfloat16 state has coefficients of bfloat16's precision; the projections cast to
float32, so that float64 becomes float32. `HyperConnections` computes in the dtype of the state throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

import mhc_ref
from mhc_ref import Branch, Mappings, Params
from properties.core.implementation import Absent
from properties.targets.published import triton
from properties.targets.published.tuning import Tunable

LOG_DOMAIN = mhc_ref.LUCIDRAINS.with_(denominator="add", denominator_eps=0.0)
"""`log_domain_sinkhorn_knopps` of both modules: log_softmax over columns, then over rows; nothing to clamp."""


class Connection(Tunable):
    """What the three modules share; streams stand on an axis of their own, `(b, ..., s, C)`."""

    # One gamma [C] for all streams, stored less 1.
    norm_weight = False
    module: ClassVar[str]
    kind: ClassVar[str] = "ManifoldConstrainedHyperConnections"
    heard: ClassVar[str]
    """The attribute of the module that is overheard, because the module returns neither h_pre nor h_res."""

    def __init__(self) -> None:
        import_module(self.module)  # so that a missing library is found out before anything runs

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        n, channels = x.shape[-2:]
        connection = self._connection(n, channels)
        overheard = Overheard(getattr(connection, self.heard))
        setattr(connection, self.heard, overheard)
        connection.forward = connection.width_connection
        _, _, kept = functional_call(connection, self._weights(params, n), (self._pack(x),), strict=True)
        pre, res = self._matrices(overheard.result, x.shape[:-1])
        post: Any = kept["beta"].reshape(x.shape[:-1]) if "post" in self.emits else None
        return Mappings(pre, post, res)

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        n, channels = x.shape[-2:]

        # In a closure: a branch that is a module must not be registered, its parameters are not the connection's.
        def run(h: Tensor) -> Tensor:
            plain = self._last(self._read(h))
            return self._first(branch(plain.reshape(*x.shape[:-2], channels)).reshape(plain.shape))

        connection = self._connection(n, channels, branch=run)
        given = self._pack(x)
        out = functional_call(connection, self._weights(params, n), (given,), strict=True)
        if out.shape != given.shape:
            raise ValueError(f"{self.kind} returned streams {list(out.shape)} for streams {list(given.shape)}")
        return self._unpack(out, x.shape)

    def expand(self, h: Tensor, n: int) -> Tensor:
        expand, _ = self._library.get_expand_reduce_stream_functions(n)
        return self._unpack(
            expand(self._first(h.reshape(1, -1, h.shape[-1]))), torch.Size((*h.shape[:-1], n, h.shape[-1]))
        )

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        _, reduce = self._library.get_expand_reduce_stream_functions(x.shape[-2])
        return self._last(reduce(self._pack(x))).reshape(*x.shape[:-2], x.shape[-1])

    @property
    def _library(self) -> Any:
        return import_module(self.module)

    def _settings(self) -> dict[str, Any]:
        """The constructor's options."""
        raise NotImplementedError

    def _connection(self, n: int, channels: int, branch: Callable[[Tensor], Tensor] | None = None) -> Any:
        made = getattr(self._library, self.kind)
        # layer_index, or else a random stream is initialised; every parameter is replaced.
        return made(n, dim=channels, branch=branch, layer_index=0, **self._settings())

    def _weights(self, params: Params, n: int) -> dict[str, Tensor]:
        """Params under the names of the library; the columns of an alpha are the branch input, then the streams."""
        if params.norm_weight is not None:
            raise ValueError(
                "Params.norm_weight is given; expected None: these modules have one weight for all streams"
            )
        pre, post, res = params.bias.split([n, n, n * n])
        return {
            "static_alpha": torch.cat([pre.view(n, 1), res.view(n, n)], -1),
            "dynamic_alpha_fn": torch.cat([params.phi[:, :1], params.phi[:, 2:]], -1),
            "static_beta": post,
            "dynamic_beta_fn": params.phi[:, 1],
            "norm.gamma": params.phi.new_zeros(params.phi.shape[0]),
        }

    def _matrices(self, heard: Tensor, shape: torch.Size) -> tuple[Any, Any]:
        """h_pre and h_res in what was overheard, for streams of shape [..., n]; None for what is not in it."""
        raise NotImplementedError

    def _read(self, given: Tensor) -> Tensor:
        """What of that which the branch is given is its input: all of it."""
        return given

    def _first(self, h: Tensor) -> Tensor:
        """[b, T, C] -> the layout in which the library takes it."""
        return h

    def _last(self, h: Tensor) -> Tensor:
        """The inverse of `_first`."""
        return h

    def _pack(self, x: Tensor) -> Tensor:
        """[..., n, C] -> [1, T, n, C], a view where there is one: strides are the library's to deal with."""
        return x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])

    def _unpack(self, streams: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `_pack`."""
        return streams.reshape(shape)


class Packed(Connection):
    """v1: streams are packed into the batch, `(b s) ... C`; the last step of alpha is to split its fractions."""

    heard = "split_fracs"

    def _matrices(self, heard: Tensor, shape: torch.Size) -> tuple[Any, Any]:
        alpha = heard.reshape(*shape, 1 + shape[-1])
        return alpha[..., 0], alpha[..., 1:]

    def _pack(self, x: Tensor) -> Tensor:
        """[..., n, C] -> [n, T, C]: a batch of one, whose streams take its place."""
        return super()._pack(x).squeeze(0).transpose(0, 1)

    def _unpack(self, streams: Tensor, shape: torch.Size) -> Tensor:
        return streams.transpose(0, 1).reshape(shape)


class Constrained(Connection):
    """mHC by one of the two projections of a module."""

    dialect = mhc_ref.LUCIDRAINS
    dtypes = (torch.float32,)
    tunable = frozenset({"iterations"})
    below_one = "without one the library does what no dialect says"
    # Neither projection says that a line may be too far below the others; `sinkhorn_knopps` loses it, or its gradient.
    full_range = True

    log_domain: ClassVar[bool] = False

    def project(self, logits: Tensor) -> Tensor:
        function = "log_domain_sinkhorn_knopps" if self.log_domain else "sinkhorn_knopps"
        return getattr(self._library, function)(logits, iters=self.dialect.iterations)

    def _settings(self) -> dict[str, Any]:
        return {"sinkhorn_iters": self.dialect.iterations, "log_domain_sinkhorn": self.log_domain}

    def _weights(self, params: Params, n: int) -> dict[str, Tensor]:
        weights = super()._weights(params, n)
        return (
            weights
            | {
                "dynamic_alpha_fn": weights["dynamic_alpha_fn"].unsqueeze(0),  # a single proposal
                "pre_branch_scale": params.alpha[:1],
                "residual_scale": params.alpha[2:],
                "h_post_scale": params.alpha[1],
            }
        )


class ManifoldConstrainedV2(Constrained):
    """`mHCv2.ManifoldConstrainedHyperConnections` with its defaults: `sinkhorn_knopps`."""

    emits = ("post", "res")  # h_pre is consumed where it is computed

    module = "hyper_connections.mHCv2"
    heard = "residual_mix_constraint_fn"

    def _weights(self, params: Params, n: int) -> dict[str, Tensor]:
        weights = super()._weights(params, n)
        return weights | {
            "static_beta": weights["static_beta"].view(n, 1, 1),
            "dynamic_beta_fn": weights["dynamic_beta_fn"].unsqueeze(-1),
        }

    def _matrices(self, heard: Tensor, shape: torch.Size) -> tuple[Any, Any]:
        return None, heard.reshape(*shape, shape[-1])


class ManifoldConstrainedV2Log(ManifoldConstrainedV2):
    """The same with `log_domain_sinkhorn=True`."""

    dialect = LOG_DOMAIN
    log_domain = True


class ManifoldConstrained(Packed, Constrained):
    """`manifold_constrained_hyper_connections`, exported as `hyper_connections.mHC`, with its defaults."""

    module = "hyper_connections.manifold_constrained_hyper_connections"


class ManifoldConstrainedLog(ManifoldConstrained):
    """The same with `log_domain_sinkhorn=True`."""

    dialect = LOG_DOMAIN
    log_domain = True


class Unconstrained(Packed):
    """`hyper_connections.HyperConnections`: hyper-connections before the manifold."""

    dialect = mhc_ref.HYPER_CONNECTIONS.with_(rms_eps=1e-12, rms_eps_by="clamp")
    dtypes = (torch.float64, torch.float32)
    tunable = frozenset({"dynamic"})

    module = "hyper_connections.hyper_connections"
    kind = "HyperConnections"

    def tuned(self, **fields: Any) -> Self:
        tuned = super().tuned(**fields)
        if tuned.dialect.dynamic not in ("linear", "tanh"):
            raise Absent(f"tuned: dynamic={tuned.dialect.dynamic!r}; the option `tanh` is a yes or a no")
        return tuned

    def _settings(self) -> dict[str, Any]:
        return {"tanh": self.dialect.dynamic == "tanh"}

    def _weights(self, params: Params, n: int) -> dict[str, Tensor]:
        # The library has one gate for pre and res, as the paper does, and multiplies by it: one a column broadcasts.
        return super()._weights(params, n) | {
            "dynamic_alpha_scale": torch.cat([params.alpha[:1], params.alpha[2:].expand(n)]),
            "dynamic_beta_scale": params.alpha[1],
        }


class ChannelFirst(Packed):
    """The option `channel_first=True`: a state is [b, C, ...], the layout of convolutions."""

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"channel_first": True}

    def _first(self, h: Tensor) -> Tensor:
        return h.movedim(-1, 1)

    def _last(self, h: Tensor) -> Tensor:
        return h.movedim(1, -1)

    def _pack(self, x: Tensor) -> Tensor:
        return self._first(super()._pack(x))

    def _unpack(self, streams: Tensor, shape: torch.Size) -> Tensor:
        return super()._unpack(self._last(streams), shape)


class ManifoldConstrainedChannelFirst(ChannelFirst, ManifoldConstrained):
    """`mHC(channel_first=True)`."""


class UnconstrainedChannelFirst(ChannelFirst, Unconstrained):
    """`HyperConnections(channel_first=True)`."""


class TritonProjection(Tunable):
    """`triton_sinkhorn.TritonSinkhornFunction`: log domain, with a backward kernel of its own.

    The package takes it for CUDA tensors only. Elsewhere the same kernels run in Triton's interpreter
    (`published.triton`).
    """

    dialect = LOG_DOMAIN
    dtypes = (torch.float32,)
    tunable = frozenset({"iterations"})
    full_range = True
    # `.view(-1, M, N)` of what it is handed refuses a batch of none and views that it cannot flatten.
    zero_tokens = False
    strided = False
    max_tokens = triton.most_tokens(3)  # about 0.1 s a matrix in the interpreter
    devices = triton.DEVICES

    def __init__(self) -> None:
        triton.prepare()
        self._library: Any = import_module("hyper_connections.triton_sinkhorn")

    def project(self, logits: Tensor) -> Tensor:
        return self._library.TritonSinkhornFunction.apply(logits, self.dialect.iterations)


class Overheard(nn.Module):
    """Stands where a function of the library does, calls it, and keeps what it returned last."""

    result: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, logits: Tensor) -> Tensor:
        self.result = self.function(logits)
        return self.result
