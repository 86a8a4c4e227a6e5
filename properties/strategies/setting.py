"""The frame in which examples are drawn: what an implementation accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mhc_ref import Dialect
from properties.core.declaration import Declaration
from properties.core.handing import storable, stored_dtype
from properties.core.implementation import parameter_dtype


class Setting(Declaration):
    """What an implementation accepts in one dtype of the state: the frame in which examples are drawn.

    Attributes:
        dtype: of the state.
        flood: numbers of tokens of a large batch, see `Device.flood`.
    """

    dtype: torch.dtype
    flood: tuple[int, ...]

    def __init__(
        self,
        dialect: Dialect,
        streams: Sequence[int],
        dtype: torch.dtype,
        *,
        flood: tuple[int, ...] = (1031, 4099),
        **declared: Any,
    ) -> None:
        super().__init__(dialect=dialect, streams=streams, **declared, dtype=dtype, flood=flood)

    @property
    def parameter_dtype(self) -> torch.dtype:
        """Of params and logits in a case; which values params may have, `stored` says."""
        return parameter_dtype(self.dtype)

    def stored(self, value: Any) -> Any:
        """A case, or parameters, whose parameters have values of the dtype in which they are stored."""
        return value if self.parameters == "compute" else storable(value, stored_dtype(self, self.dtype))

    @property
    def stretch(self) -> float:
        """How much wider than float32's the range of exp is in the dtype of parameters."""
        return 8.0 if self.parameter_dtype == torch.float64 else 1.0
