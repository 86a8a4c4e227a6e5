"""The frame in which examples are drawn: what an implementation accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mhc_ref import Dialect
from properties.core.arranged import AXES
from properties.core.declaration import Declaration
from properties.core.handing import storable, stored_dtype
from properties.core.implementation import parameter_dtype


@dataclass(frozen=True)
class Crowd:
    """Sizes beyond a tile, at which every law is tried once beside the small ones of its own.

    What is wrong for many tokens, wide states or two axes of tokens alone is wrong in every law about such a call, and
    what its tokens have in them matters little there.

    Attributes:
        tokens: how many there are; 0 for as many as a law draws.
        channels: likewise.
        axes: how tokens are arranged, see `properties.core.arranged`.
        layers: how many there are in laws about several; 0 for as many as a law draws.
    """

    tokens: int = 0
    channels: int = 0
    axes: str = ""
    layers: int = 0

    def __str__(self) -> str:
        parts = [f"{self.tokens} tokens" if self.tokens else "", f"{self.channels} channels" if self.channels else ""]
        said = " of ".join(one for one in parts if one) or "few tokens and channels"
        deep = f" in {self.layers} layers, where a law has several" if self.layers else ""
        return f"{said}{f' {AXES[self.axes]}' if self.axes else ''}{deep}"


class Setting(Declaration):
    """What an implementation accepts in one dtype of the state: the frame in which examples are drawn.

    Attributes:
        dtype: of the state.
        flood: numbers of tokens of a large batch, see `Device.flood`.
        crowd: the sizes of what is drawn, where a law does not choose them itself.
    """

    dtype: torch.dtype
    flood: tuple[int, ...]
    crowd: Crowd | None

    def __init__(
        self,
        dialect: Dialect,
        streams: Sequence[int],
        dtype: torch.dtype,
        *,
        flood: tuple[int, ...] = (1031, 4099),
        crowd: Crowd | None = None,
        **declared: Any,
    ) -> None:
        super().__init__(dialect=dialect, streams=streams, **declared, dtype=dtype, flood=flood, crowd=crowd)

    @property
    def parameter_dtype(self) -> torch.dtype:
        """Of params and logits in a case; which values params may have, `stored` says."""
        return parameter_dtype(self.dtype)

    def stored(self, value: Any) -> Any:
        """A case, or parameters, whose parameters have values of the dtype in which they are stored."""
        return value if self.parameters == "compute" else storable(value, stored_dtype(self, self.dtype))

    def count(self, few: int) -> int:
        """So many tokens, as far as a call takes them; those of a crowd where there is one, an even number, to be laid
        on two axes."""
        if self.crowd is None or not self.crowd.tokens:
            return min(few, self.max_tokens)
        return min(self.crowd.tokens, self.max_tokens) // 2 * 2 or 1

    def depth(self, few: int) -> int:
        """So many layers, or those of a crowd where there is one."""
        return self.crowd.layers if self.crowd and self.crowd.layers else few

    def crowded(self, tokens: Any) -> Any:
        """Tokens [k, ...] as many as the crowd has, if it says so: those given come again and again, along their last
        axis turned a little further in every round."""
        if self.crowd is None or not self.crowd.tokens or not tokens.size:
            return tokens
        most = self.count(0)
        rounds = [tokens if tokens.ndim < 3 else np.roll(tokens, k, -1) for k in range(-(-most // len(tokens)))]
        return np.concatenate(rounds)[:most]

    @property
    def stretch(self) -> float:
        """How much wider than float32's the range of exp is in the dtype of parameters."""
        return 8.0 if self.parameter_dtype == torch.float64 else 1.0
