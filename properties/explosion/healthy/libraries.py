"""Healthy models of other libraries, of tiny sizes and initialised as their library does."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from properties.explosion.healthy.subject import Healthy, Subject, repeated, words_of
from properties.explosion.models.shipped import SHIPPED, WIDTH

DEPTH = 4
"""Layers of a model that a library ships whole."""


def _hyper_connections(kind: str) -> Callable[[], Subject]:
    def build() -> Subject:
        library: Any = importlib.import_module(f"hyper_connections.{kind}")
        init, expand, reduce = library.get_init_and_expand_reduce_stream_functions(4)
        layers = [init(dim=WIDTH, layer_index=place, branch=_branch()) for place in range(8)]
        model = nn.Sequential(expand, *layers, reduce)
        return Subject(model, repeated(model))

    return build


def _branch() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


def _shipped(name: str) -> Healthy:
    """A model that a library ships whole, of the sizes that `properties.explosion.models` has."""
    shipped = SHIPPED[name]

    def build() -> Subject:
        made: Any = shipped.build(DEPTH)

        def step(source: torch.Generator) -> Tensor:
            words = words_of(source)
            return made(input_ids=words, labels=words, use_cache=False).loss

        return Subject(made, step if shipped.ids else repeated(made))

    return Healthy(build, shipped.needs)


LIBRARIES: Mapping[str, Healthy] = {
    "hyper-connections, constrained": Healthy(
        _hyper_connections("manifold_constrained_hyper_connections"), "hyper_connections"
    ),
    "hyper-connections, unconstrained": Healthy(_hyper_connections("hyper_connections"), "hyper_connections"),
    "x-transformers encoder": _shipped("x-transformers, one stream"),
    **{name: _shipped(name) for name in SHIPPED if SHIPPED[name].needs == "transformers"},
}
