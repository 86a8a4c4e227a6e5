"""Small models that are well, by name: each is built from a seed, and trains.

They are what the thresholds of the monitor must leave alone: residuals and norms of every kind, released models of tiny
sizes, and what healthy models do that looks ill to a crude eye: embeddings of a ten thousandth, inputs of ten thousand,
padding, queries that begin at zero, streams of convolutions behind a relu, an attention sink, a loss that is scaled
until its gradients overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from properties.explosion.healthy.libraries import LIBRARIES
from properties.explosion.healthy.subject import BATCH, TOKENS, WIDTH, WORDS, Healthy, Subject, words_of

# ---- decoders of `explode train`


def _decoder(residual: str, norm: str, half: bool = False, **fields: Any) -> Callable[[], Subject]:
    def build() -> Subject:
        from properties.explosion.training.data import tokens
        from properties.explosion.training.module import Decoder, Mixing, SubLayer
        from properties.explosion.training.residuals import residual_of
        from properties.explosion.training.setup import Setup

        joined = residual_of(residual)
        streams = 1 if joined.dialect is None else 4
        setup = Setup(joined, 12, streams, WIDTH, TOKENS, BATCH, 2, norm, **fields)
        model, data = Decoder(setup, 0), tokens(setup, 0)

        def step(source: torch.Generator) -> Tensor:
            return model(data[int(torch.randint(len(data), (), generator=source))])

        options: dict[str, Any] = {"blocks": [SubLayer]}
        if joined.dialect is not None:
            options = {"modules": [Mixing], "dialect": joined.dialect}
        return Subject(model, step, options, 3e-3, half)

    return build


# ---- torch


def _encoder(norm_first: bool, depth: int = 6) -> Callable[[], Subject]:
    def build() -> Subject:
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first)
        model = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

        def step(source: torch.Generator) -> Tensor:
            x = torch.randn(BATCH, TOKENS, WIDTH, generator=source)
            return functional.mse_loss(model(x), x.roll(1, 1))

        return Subject(model, step)

    return build


class _Queries(nn.Module):
    """A decoder whose queries begin at zero and are told apart by what is added to them."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 4)
        self.places = nn.Parameter(torch.randn(8, WIDTH))

    def forward(self, seen: Tensor) -> Tensor:
        return self.decoder(torch.zeros(len(seen), 8, WIDTH), seen + self.places.repeat(3, 1))


def _queries() -> Subject:
    model = _Queries()

    def step(source: torch.Generator) -> Tensor:
        seen = torch.randn(BATCH, TOKENS, WIDTH, generator=source)
        return functional.mse_loss(model(seen), seen[:, :8])

    return Subject(model, step)


class _Residual(nn.Module):
    """x + F(x) of 3 x 3 convolutions [B, C, H, W], with a relu after the sum or before the branch."""

    def __init__(self, channels: int, after: bool) -> None:
        super().__init__()
        self.after = after
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.after:
            return (x + self.norms[1](self.second(self.norms[0](self.first(x)).relu()))).relu()
        return x + self.second(self.norms[1](self.first(self.norms[0](x).relu())).relu())


class _Convolutions(nn.Module):
    def __init__(self, after: bool, depth: int = 8, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 4, stride=4), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.Sequential(*(_Residual(channels, after) for _ in range(depth)))
        self.head = nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((-2, -1)))


def _convolutions(after: bool, side: int) -> Callable[[], Subject]:
    def build() -> Subject:
        model = _Convolutions(after)

        def step(source: torch.Generator) -> Tensor:
            kinds = torch.randint(10, (16,), generator=source)
            images = torch.randn(16, 3, side, side, generator=source) + kinds.view(-1, 1, 1, 1) / 5
            return functional.cross_entropy(model(images), kinds)

        return Subject(model, step)

    return build


class _Block(nn.Module):
    """x + W_2 gelu(W_1 norm(x)), token by token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.gelu(self.up(self.norm(x))))


class _Normed(_Block):
    """norm(x + W_2 gelu(W_1 x)), token by token."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(functional.gelu(self.up(x))))


class _Sink(_Block):
    """As trained language models have it: a channel of the first token far above all others, taken back in the end."""

    def __init__(self, width: int, size: float) -> None:
        super().__init__(width)
        self.size = nn.Buffer(torch.tensor(size))

    def forward(self, x: Tensor) -> Tensor:
        far = torch.zeros_like(x)
        far[:, 0, 0] = self.size
        return super().forward(x) + far


class _Words(nn.Module):
    """Words through blocks to words."""

    def __init__(self, blocks: list[nn.Module], size: float, padding: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH, padding_idx=0 if padding else None)
        with torch.no_grad():
            self.embedding.weight.mul_(size)
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        for one in self.blocks:
            x = one(x)
        return self.head(self.norm(x))


def _following(model: nn.Module, padding: bool = False) -> Callable[[torch.Generator], Tensor]:
    def step(source: torch.Generator) -> Tensor:
        words = words_of(source, 1)
        if padding:
            words[1:, 3:] = 0  # most of the batch
        return functional.cross_entropy(model(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())

    return step


def _blocks(size: float, padding: bool = False, sink: float = 0.0, depth: int = 8) -> Callable[[], Subject]:
    def build() -> Subject:
        blocks: list[nn.Module] = [_Block(WIDTH) for _ in range(depth)]
        if sink:
            blocks[2], blocks[-1] = _Sink(WIDTH, sink), _Sink(WIDTH, -sink)
        model = _Words(blocks, size, padding)
        return Subject(model, _following(model, padding), {"blocks": [_Block]})

    return build


def _normed(size: float) -> Callable[[], Subject]:
    """Blocks whose norm stands behind the sum, for features of any size."""

    def build() -> Subject:
        model = nn.Sequential(*(_Normed(WIDTH) for _ in range(8)))

        def step(source: torch.Generator) -> Tensor:
            x = torch.randn(BATCH, TOKENS, WIDTH, generator=source)
            return functional.mse_loss(model(size * x), x.roll(1, -1))

        return Subject(model, step, {"blocks": [_Normed]})

    return build


def _all() -> dict[str, Healthy]:
    found: dict[str, Healthy] = {}
    for residual in ("plain", "mhc"):
        for norm in ("pre", "post", "sandwich"):
            found[f"decoder, {residual}, {norm}-norm".replace("sandwich-norm", "sandwich norm")] = Healthy(
                _decoder(residual, norm)
            )
    found |= {
        "decoder, hyper-connections, pre-norm": Healthy(_decoder("hc", "pre")),
        "decoder, DeepSeek-V4's mixing and initialisation": Healthy(
            _decoder("mhc:DEEPSEEK_V4", "pre", init="deepseek")
        ),
        "decoder, plain, ReZero": Healthy(_decoder("plain", "none", init="rezero")),
        "decoder, plain, float16, scaled loss": Healthy(_decoder("plain", "pre", half=True)),
        "decoder, mhc, float16, scaled loss": Healthy(_decoder("mhc", "pre", half=True)),
        "torch encoder, post-norm": Healthy(_encoder(False)),
        "torch encoder, pre-norm": Healthy(_encoder(True)),
        "torch decoder, queries of zeros": Healthy(_queries),
        "convolutions, relu after the sum": Healthy(_convolutions(True, 32)),
        "convolutions, relu after the sum, 1 x 1": Healthy(_convolutions(True, 4)),
        "convolutions, relu before": Healthy(_convolutions(False, 32)),
        "blocks, post-norm, inputs of 1e4": Healthy(_normed(1e4)),
        "blocks, embeddings of 1e-5": Healthy(_blocks(1e-5)),
        "blocks, most words are padding": Healthy(_blocks(0.02, padding=True)),
        "blocks, an attention sink of 1e4": Healthy(_blocks(0.02, sink=1e4)),
    }
    return {**found, **LIBRARIES}


HEALTHY: Mapping[str, Healthy] = _all()
