"""Deviations of the tanh, and towards it."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips

SLIPS = Slips()
missing_dialect = SLIPS.dialect("missing-term")
order = SLIPS.step("order")


def passes_tanh(dialect: Dialect) -> bool:
    """The products with phi pass a tanh."""
    return dialect.dynamic == "tanh"


missing_dialect(
    "tanh-added",
    "The dynamic part passes a tanh that belongs to hyper-connections, not to mHC.",
    "marin #2321 (bug 10); HC eq. (5) against mHC eq. (7)",
    lambda d: d.with_(dynamic="tanh"),
    lambda d: d.dynamic != "static",
)


@order("gate-inside-tanh", MUTATION, passes_tanh)
class GateInsideTanh(Deviant):
    """The gate is applied before the tanh."""

    def dynamic(self, projected: Tensor) -> Tensor:
        return projected

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return (gate * dynamic).tanh() + static


@order("bias-inside-tanh", MUTATION, passes_tanh)
class BiasInsideTanh(Deviant):
    """The bias is added before the tanh."""

    def dynamic(self, projected: Tensor) -> Tensor:
        return projected

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return (gate * dynamic + static).tanh()
