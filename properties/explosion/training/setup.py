"""One training run as data: the decoder, its residual, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from properties.explosion.training.residuals import Residual, residual_of

NORMS = ("pre", "post", "sandwich", "none")
MLPS = ("gelu", "relu", "gated")
DATA = ("text", "copy")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "warmup", "cosine")

VOCABULARY = 128
"""Bytes of seven bits."""


@dataclass(frozen=True)
class Setup:
    """A decoder of `depth` sub-layers, attention and MLP in turn, and its training.

    Attributes:
        residual: how sub-layers join the state; `plain` has one stream.
        depth, streams, width, tokens: sub-layers L, streams n, channels C a stream, tokens T of a sequence.
        sequences: of a step.
        norm: before the branch, after the sum, before and after the branch, or nowhere; without weights.
        qk_norm: queries and keys are normalised, with a weight for each channel.
        init, scale: the initialisation (`initialisations`), and a factor of every matrix of the branches.
        clip, clip_activations: the largest norm of a gradient, the largest size of an activation; 0 for none.
        fault: what is wrong with it (`laws.FAULTS`), for what must be found.
    """

    residual: Residual = field(default_factory=lambda: residual_of("plain"))
    depth: int = 2
    streams: int = 1
    width: int = 8
    tokens: int = 64
    sequences: int = 1
    heads: int = 1
    norm: str = "pre"
    qk_norm: bool = False
    mlp: str = "gelu"
    init: str = "published"
    scale: float = 1.0
    data: str = "text"
    optimizer: str = "adamw"
    schedule: str = "constant"
    weight_decay: float = 0.0
    clip: float = 0.0
    clip_activations: float = 0.0
    steps: int = 50
    fault: str = ""

    def __post_init__(self) -> None:
        if self.residual.dialect is None and self.streams != 1:
            raise ValueError(f"plain has one stream, and {self.streams} were asked for")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; expected a number that divides the width, {self.width}")

    def with_(self, **fields: Any) -> Setup:
        return replace(self, **fields)

    def joined_by(self, name: str) -> Setup:
        """The same decoder with another residual; plain has one stream."""
        residual = residual_of(name)
        return replace(self, residual=residual, streams=1 if residual.dialect is None else self.streams)
