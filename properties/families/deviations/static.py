"""Deviations of logits without a dynamic part, and towards them."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import PRESETS, Dialect
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips

SLIPS = Slips()
missing = SLIPS.step("missing-term")
missing_dialect = SLIPS.dialect("missing-term")

ELSEWHERE = {f"{PRESETS.first} without a dynamic part": PRESETS.default.with_(dynamic="static")}


def static(dialect: Dialect) -> bool:
    """The logits are the bias alone."""
    return dialect.dynamic == "static"


missing_dialect(
    "dynamic-dropped",
    "The projection is ignored: the coefficients are the bias alone.",
    "passes vLLM's test_mhc_pre_tilelang; tokenbender's static logits",
    lambda d: d.with_(dynamic="static"),
)
missing_dialect(
    "static-reads-the-state",
    "The logits have the dynamic part of mHC, where they are declared to be the bias alone.",
    f"{MUTATION}: a switch between static and dynamic hyper-connections that is not passed on",
    lambda d: d.with_(dynamic="linear"),
    static,
)


@missing("static-bias-through-tanh", f"{MUTATION}: the tanh of the dynamic part, around what is left of it", static)
class BiasThroughTanh(Deviant):
    """The bias, of which the logits are made alone, passes the tanh of a dynamic part."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return dynamic + static.tanh()
