"""The bottleneck step by step: what goes into it, what comes out, and what the gates multiply."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from mhc_ref import Dialect, Params
from mhc_ref.families.bottleneck import to_write
from mhc_ref.packing import beyond
from properties.core.deviant import Deviant


def has_a_bottleneck(dialect: Dialect) -> bool:
    """A branch reads every channel of the normalised streams by a gate of low rank."""
    return dialect.read == "bottleneck"


def has_one_bottleneck(dialect: Dialect) -> bool:
    """What is written has gates of the same bottleneck."""
    return has_a_bottleneck(dialect) and dialect.one_bottleneck


class BottleneckSteps(Deviant):
    """u = mean over the streams of sigma(U silu(D x^ / n)) * x^, each operation a step."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        if not has_a_bottleneck(self.computed):
            return super().projected(x, params)
        columns = params._replace(phi=params.phi[:, : params.phi.shape[1] - beyond(self.computed)])
        return self.averaged(super().projected(x, columns), x.shape[-2])

    def averaged(self, products: Tensor, n: int) -> Tensor:
        """The products with phi as means over the streams."""
        return products / n

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        if has_a_bottleneck(self.computed) and not self.computed.affine:
            return dynamic
        return super().gated(dynamic, gate, static)

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        pre, post, res = super().logits(x, params)
        if not has_one_bottleneck(self.computed):
            return [pre, post, res]
        n, rank = x.shape[-2], self.computed.rank
        held = self.scaled(self.squeezed(pre), params.alpha[0])
        return [held, self.written(held, to_write(params.phi, n, self.computed), params.bias[rank : rank + n]), res]

    def scaled(self, held: Tensor, gate: Tensor) -> Tensor:
        """What leaves one bottleneck."""
        return gate * held

    def written(self, held: Tensor, matrix: Tensor, static: Tensor) -> Tensor:
        """The logits of h_post, of one bottleneck."""
        return held @ matrix.T + static

    def read_weights(self, logits: Tensor, x: Tensor, params: Params) -> Tensor:
        if not has_a_bottleneck(self.computed):
            return super().read_weights(logits, x, params)
        gates = self.h_pre(self.of_channels(logits, params).unflatten(-1, x.shape[-2:]))
        return self.share(gates * self.factor(x, params.norm_weight), x.shape[-2])

    def of_channels(self, logits: Tensor, params: Params) -> Tensor:
        """The logits of every channel's gate [..., n*C], of those of a token."""
        up = params.phi[:, -self.computed.rank :]
        if not has_one_bottleneck(self.computed):
            return self.opened(self.squeezed(logits), up)
        return self.static(self.opened(logits, up), params.phi[:, -self.computed.rank - 1])

    def static(self, opened: Tensor, static: Tensor) -> Tensor:
        """With the static logits of every channel."""
        return opened + static

    def squeezed(self, logits: Tensor) -> Tensor:
        """What the bottleneck holds."""
        return silu(logits)

    def opened(self, narrow: Tensor, up: Tensor) -> Tensor:
        """The logits of the gates, [..., n*C]."""
        return narrow @ up.T

    def factor(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """What makes the normalised state of the state."""
        inverse = (1 / self.rms(self.mean_square(x))).expand(x.shape)
        return inverse if weight is None else self.weighted(inverse, weight.view(x.shape[-2:]))

    def share(self, weights: Tensor, n: int) -> Tensor:
        """The weights of a mean over the streams."""
        return weights / n

    def head(self, x: Tensor, params: Params) -> Tensor:
        if not has_a_bottleneck(self.computed):
            return super().head(x, params)
        rank = self.computed.rank
        reading = params._replace(phi=params.phi[:, [*range(rank), *range(-rank, 0)]])
        logits = self.gated(self.dynamic(self.projected(x, reading)), params.alpha[0], params.bias[:rank])
        return self.read_weights(logits, x, params)


STEPS = {"read": BottleneckSteps}
