"""Carry step by step: the gate, what is left of 1 beside its square, the floor, the root, and the diagonal."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from properties.core.deviant import Deviant


def carries(dialect: Dialect) -> bool:
    """h_res is diag(alpha) beside a gate beta."""
    return dialect.residual == "carry"


class CarrySteps(Deviant):
    """M = diag(sqrt(max(sigma(-w) (1 + sigma(w)), floor))), w = z / temperature."""

    def project(self, logits: Tensor) -> Tensor:
        if not carries(self.computed):
            return super().project(logits)
        return self.kept(self.over(self.widened(logits).squeeze(-1))).diag_embed()

    def over(self, logits: Tensor) -> Tensor:
        return logits / self.computed.temperature

    def kept(self, over: Tensor) -> Tensor:
        return self.rooted(self.floored(self.square(over)))

    def square(self, over: Tensor) -> Tensor:
        return (-over).sigmoid() * (1 + self.beta(over))

    def beta(self, over: Tensor) -> Tensor:
        return over.sigmoid()

    def floored(self, square: Tensor) -> Tensor:
        return square.clamp(min=self.computed.floor)

    def rooted(self, square: Tensor) -> Tensor:
        return square.sqrt()


STEPS = {"mix": CarrySteps}
