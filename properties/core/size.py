"""One point at which an implementation is tried: how much it is given, and how it is called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The numbers that kernels branch on.

    Attributes:
        tokens, channels, streams, layers: T, C, n and L.
        gradients: whether gradients are asked for; without, the call is under `torch.no_grad`.
        contiguous: whether the state is; otherwise it is a view of a wider one.
    """

    tokens: int
    channels: int
    streams: int
    layers: int = 1
    gradients: bool = False
    contiguous: bool = True

    @property
    def inner(self) -> int:
        """K = n C, over which the products with phi are summed."""
        return self.streams * self.channels

    @property
    def numbers(self) -> int:
        """How many numbers pass through the layers: what a call costs, roughly."""
        return self.tokens * self.inner * self.layers

    def __str__(self) -> str:
        parts = [f"T = {self.tokens}", f"C = {self.channels}", f"n = {self.streams}"]
        parts += [f"L = {self.layers}"] if self.layers > 1 else []
        parts += ["with gradients"] if self.gradients else []
        parts += [] if self.contiguous else ["strided"]
        return ", ".join(parts)
