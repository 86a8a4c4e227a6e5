"""The bottleneck step by step: what goes into it, what comes out, and what the gates multiply."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from mhc_ref import Dialect, Params
from properties.core.deviant import Deviant


def has_a_bottleneck(dialect: Dialect) -> bool:
    """A branch reads every channel of the normalised streams by a gate of low rank."""
    return dialect.read == "bottleneck"


class BottleneckSteps(Deviant):
    """u = mean over the streams of sigma(U silu(D x^ / n)) * x^, each operation a step."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        if not has_a_bottleneck(self.computed):
            return super().projected(x, params)
        columns = params._replace(phi=params.phi[:, : params.phi.shape[1] - self.computed.rank])
        return self.averaged(super().projected(x, columns), x.shape[-2])

    def averaged(self, products: Tensor, n: int) -> Tensor:
        """The products with phi as means over the streams."""
        return products / n

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        if has_a_bottleneck(self.computed) and not self.computed.affine:
            return dynamic
        return super().gated(dynamic, gate, static)

    def read_weights(self, logits: Tensor, x: Tensor, params: Params) -> Tensor:
        if not has_a_bottleneck(self.computed):
            return super().read_weights(logits, x, params)
        opened = self.opened(self.squeezed(logits), params.phi[:, -self.computed.rank :])
        gates = self.h_pre(opened.unflatten(-1, x.shape[-2:]))
        return self.share(gates * self.factor(x, params.norm_weight), x.shape[-2])

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
