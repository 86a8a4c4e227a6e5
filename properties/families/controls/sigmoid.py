"""Controls of the sigmoid: by a tanh."""

from __future__ import annotations

from torch import Tensor

from properties.core.deviant import Deviant
from properties.core.slips import Controls

CONTROLS = Controls()
control = CONTROLS.control


@control("tanh-sigmoid", lambda d: "sigmoid" in (d.pre, d.post))
class TanhSigmoid(Deviant):
    """sigma(z) is (1 + tanh(z / 2)) / 2."""

    def squash(self, logits: Tensor, kind: str) -> Tensor:
        return 0.5 + 0.5 * (0.5 * logits).tanh() if kind == "sigmoid" else super().squash(logits, kind)
