"""Initial weights, by name: what people begin their hyper-connections and branches with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.packing import beyond, logit_sizes
from mhc_ref.projection import project
from properties.core.family import end_of, mix_of
from properties.explosion.training.setup import Setup

_FAR = 8.0
"""A logit that is this far below another leaves 3e-4 of it."""


@dataclass(frozen=True)
class Init:
    """How weights begin.

    Attributes:
        alpha, phi: the gates of what depends on the state, and the standard deviation of phi.
        pre: the weight with which a branch reads a stream: of one stream in turn ("one"), of all alike ("mean"), or
            half of every stream ("half"). Written into every stream with weight 1.
        mixing: the identity, or the average of all streams.
        output: the factor of a branch's last matrix: 1, 1 / sqrt(L) ("depth"), or a trained number that begins at 0.
        source: where it comes from.
    """

    alpha: float
    phi: float
    pre: str
    mixing: str
    output: str
    source: str


INITS = {
    "published": Init(0.01, 0.0, "one", "identity", "one", "hyper-connections, arXiv 2409.19606 eq. (14)"),
    "paper": Init(0.01, 0.02, "one", "identity", "one", "mHC, arXiv 2512.24880 table 5; its biases are not printed"),
    "deepseek": Init(1.0, 0.02, "half", "average", "one", "transformers 5.24.0, DeepSeek-V4: biases 0, scales 1"),
    "depth-scaled": Init(0.01, 0.0, "one", "identity", "depth", "published, branches over sqrt(L) as in GPT-2"),
    "rezero": Init(0.01, 0.0, "one", "identity", "zero", "published, and ReZero, arXiv 2003.04887"),
    "identity": Init(0.01, 0.0, "mean", "identity", "one", "the plain residual in every stream"),
    "open-gates": Init(1.0, 0.1, "one", "identity", "one", "published, with alpha 1 and phi of deviation 0.1"),
}


def shapes(setup: Setup) -> dict[str, tuple[int, ...]]:
    """Every weight of a decoder by its name, in the order in which they lie in one vector."""
    d, n, dialect = setup.width, setup.streams, setup.residual.dialect
    found: dict[str, tuple[int, ...]] = {"embed": (128, d), "position": (setup.tokens, d), "unembed": (d, 128)}
    for layer in range(setup.depth):
        found |= {f"{layer}.{name}": shape for name, shape in _branch(setup, layer).items()}
        if INITS[setup.init].output == "zero":
            found[f"{layer}.rezero"] = (1,)
        if dialect is not None:
            found |= {f"{layer}.{name}": shape for name, shape in _mixing(setup, dialect, n, d).items()}
    if dialect is not None and end_of(dialect).HEAD:
        found |= {f"head.{name}": shape for name, shape in _mixing(setup, dialect, n, d).items()}
    return found


def _branch(setup: Setup, layer: int) -> dict[str, tuple[int, ...]]:
    d = setup.width
    if layer % 2 == 0:
        square = {name: (d, d) for name in ("query", "key", "value", "out")}
        size = d // setup.heads
        return square | ({"query_norm": (size,), "key_norm": (size,)} if setup.qk_norm else {})
    return {"up": (d, 4 * d), "out": (4 * d, d), **({"gate": (d, 4 * d)} if setup.mlp == "gated" else {})}


def _mixing(setup: Setup, dialect: Dialect, n: int, d: int) -> dict[str, tuple[int, ...]]:
    size = sum(sizes := logit_sizes(n, dialect))
    if setup.residual.static:
        return {"bias": (size,)}
    phi = (d, 2 + sizes[2] // n) if dialect.shared_projection else (n * d, size + beyond(dialect))
    return {"phi": phi, "bias": (size,), "alpha": (3 if sizes[2] else 2,)}


def initial(setup: Setup, seed: int) -> Tensor:
    """All weights of one run in one vector, float64; equal seeds give equal ones.

    Matrices are normal of variance 1 / rows. Uniform numbers of a generator are the same on every machine.
    """
    init, generator = INITS[setup.init], torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    for name, shape in shapes(setup).items():
        where, _, what = name.partition(".")
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        normal = math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-15, 1 - 1e-15))
        if what == "phi":
            value = normal * (init.phi or (0.02 if beyond(_dialect(setup)) else 0.0))
        elif what == "alpha":
            value = torch.full(shape, init.alpha, dtype=torch.float64)
        elif what == "bias":
            value = _bias(setup, _dialect(setup), init, int(where) if where != "head" else None)
        elif what == "rezero":
            value = torch.zeros(shape, dtype=torch.float64)
        elif what.endswith("_norm"):
            value = torch.ones(shape, dtype=torch.float64)
        elif where in ("embed", "position"):
            value = normal / 10
        else:
            deviation = setup.scale / math.sqrt(shape[0])
            value = normal * (
                deviation / math.sqrt(setup.depth) if (what, init.output) == ("out", "depth") else deviation
            )
        parts.append(value.flatten())
    return torch.cat(parts)


def _dialect(setup: Setup) -> Dialect:
    assert setup.residual.dialect is not None
    return setup.residual.dialect


def _bias(setup: Setup, dialect: Dialect, init: Init, layer: int | None) -> Tensor:
    """Logits whose weights are what the initialisation says, pre | post | res, as near as the gates come."""
    n = setup.streams
    sizes = logit_sizes(n, dialect)
    read = torch.full((sizes[0],), {"one": 0.0, "half": 0.5, "mean": 1 / n}[init.pre], dtype=torch.float64)
    if layer is None:
        read = torch.full_like(read, 0.5)
    elif init.pre == "one":
        read[layer % sizes[0]] = 1.0
    write = torch.full((n,), 1 / dialect.post_scale, dtype=torch.float64)
    logits = _residual_logits(dialect, n, init.mixing)
    if setup.fault == "direct":  # the projected matrix is the parameter
        logits = project(logits, dialect)
    return torch.cat([_opened(read, dialect.pre), _opened(write, dialect.post), logits.flatten()])


def _opened(weights: Tensor, gate: str) -> Tensor:
    """The logits of a gate for these weights."""
    if gate == "linear":
        return weights
    held = weights.clamp(1e-3, 1 - 1e-3)
    return held.log() if gate == "softmax" else held.logit()


def _residual_logits(dialect: Dialect, n: int, mixing: str) -> Tensor:
    """Of the identity or the average, as the family of the mix has them."""
    return mix_of(dialect).beginning(n, dialect, _FAR if mixing == "identity" else 0.0)
