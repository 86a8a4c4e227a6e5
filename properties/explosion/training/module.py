"""The decoder as a `torch.nn.Module`: a module for each sub-layer and each mixing, for what watches modules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mhc_ref.block import Mappings
from properties.explosion.training.decoder import embedded, loss_of, mixing, sub_layer
from properties.explosion.training.initialisations import initial, shapes
from properties.explosion.training.setup import Setup


class Mixing(nn.Module):
    """The hyper-connection of a sub-layer: x [B, T, n, C] -> `Mappings`."""

    def __init__(self, setup: Setup, layer: int, own: nn.ParameterDict) -> None:
        super().__init__()
        self._setup, self._layer, self.own = setup, layer, own

    def forward(self, x: Tensor) -> Mappings:
        return mixing(self._setup, dict(self.own), x, self._layer)


class SubLayer(nn.Module):
    """x [B, T, n, C] and the read gates of the sub-layer before -> the state after it, and its own read gates."""

    def __init__(self, setup: Setup, layer: int, own: nn.ParameterDict) -> None:
        super().__init__()
        self._setup, self._layer, self.own = setup, layer, own
        self.mixing = None if setup.residual.dialect is None else Mixing(setup, layer, own)

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        mixed = None if self.mixing is None else self.mixing(x)
        x, _ = sub_layer(self._setup, dict(self.own), x, mixed, before, self._layer)
        return x, None if mixed is None else mixed.pre


class Decoder(nn.Module):
    """Tokens [B, T + 1] -> their mean cross entropy, just as `decoder.forward` has it."""

    def __init__(self, setup: Setup, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._setup = setup
        asked = shapes(setup)
        parts = initial(setup, seed).to(dtype).split([math.prod(shape) for shape in asked.values()])
        kept = {name: part.view(shape).clone() for (name, shape), part in zip(asked.items(), parts, strict=True)}
        layers = [nn.ParameterDict() for _ in range(setup.depth)]
        self.ends = nn.ParameterDict()
        self.head = nn.ParameterDict()
        for name, value in kept.items():
            where, _, what = name.partition(".")
            owner = layers[int(where)] if where.isdigit() else self.head if where == "head" else self.ends
            owner[what or where] = nn.Parameter(value)
        self.sublayers = nn.ModuleList(SubLayer(setup, place, own) for place, own in enumerate(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        named = dict(self.ends) | {f"head.{name}": one for name, one in self.head.items()}
        given = tokens.long()
        x, before = embedded(self._setup, named, given), None
        for one in self.sublayers:
            x, before = one(x, before)
        return loss_of(self._setup, named, x, before, given)
