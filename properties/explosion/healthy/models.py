"""Small models that are well, by name: each is built from a seed, and trains.

They are what the thresholds of the monitor must leave alone: residuals and norms of every kind, released models of tiny
sizes, and what healthy models do that looks ill to a crude eye: embeddings of a ten thousandth, inputs of ten thousand,
padding, queries that begin at zero, streams of convolutions behind a relu, an attention sink, a loss that is scaled
until its gradients overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTH, _TOKENS, _BATCH, _WORDS = 32, 24, 4, 64


@dataclass
class Subject:
    """A model in training.

    Attributes:
        model: what is watched.
        step: one forward pass from a source of random numbers; returns the loss.
        options: of `Monitor`.
        rate: of AdamW.
        half: passes run in float16 by autocast, and the loss is scaled.
    """

    model: nn.Module
    step: Callable[[torch.Generator], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1e-3
    half: bool = False


@dataclass(frozen=True)
class Healthy:
    """How a healthy model is made, and the package that it needs."""

    build: Callable[[], Subject]
    needs: str | None = None


def _words(source: torch.Generator, more: int = 0) -> Tensor:
    """Sequences in which every word says which comes next, up to a tenth of them: something to learn."""
    first = torch.randint(_WORDS, (_BATCH, 1), generator=source)
    words = (first + 7 * torch.arange(_TOKENS + more)) % _WORDS
    noise = torch.randint(_WORDS, words.shape, generator=source)
    return torch.where(torch.rand(words.shape, generator=source) < 0.1, noise, words)


def _repeated(model: nn.Module) -> Callable[[torch.Generator], Tensor]:
    """A loss for models from states to states [B, T, C]: to give back what they were given, one token later."""

    def step(source: torch.Generator) -> Tensor:
        x = torch.randn(_BATCH, _TOKENS, _WIDTH, generator=source)
        return functional.mse_loss(model(x), x.roll(1, 1))

    return step


# ---- decoders of `explode train`


def _decoder(residual: str, norm: str, half: bool = False, **fields: Any) -> Callable[[], Subject]:
    def build() -> Subject:
        from properties.explosion.training.data import tokens
        from properties.explosion.training.module import Decoder, Mixing, SubLayer
        from properties.explosion.training.residuals import residual_of
        from properties.explosion.training.setup import Setup

        joined = residual_of(residual)
        streams = 1 if joined.dialect is None else 4
        setup = Setup(joined, 12, streams, _WIDTH, _TOKENS, _BATCH, 2, norm, **fields)
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
        layer = nn.TransformerEncoderLayer(_WIDTH, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first)
        model = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

        def step(source: torch.Generator) -> Tensor:
            x = torch.randn(_BATCH, _TOKENS, _WIDTH, generator=source)
            return functional.mse_loss(model(x), x.roll(1, 1))

        return Subject(model, step)

    return build


class _Queries(nn.Module):
    """A decoder whose queries begin at zero and are told apart by what is added to them."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(_WIDTH, 4, 64, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 4)
        self.places = nn.Parameter(torch.randn(8, _WIDTH))

    def forward(self, seen: Tensor) -> Tensor:
        return self.decoder(torch.zeros(len(seen), 8, _WIDTH), seen + self.places.repeat(3, 1))


def _queries() -> Subject:
    model = _Queries()

    def step(source: torch.Generator) -> Tensor:
        seen = torch.randn(_BATCH, _TOKENS, _WIDTH, generator=source)
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
        self.embedding = nn.Embedding(_WORDS, _WIDTH, padding_idx=0 if padding else None)
        with torch.no_grad():
            self.embedding.weight.mul_(size)
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _WORDS)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        for one in self.blocks:
            x = one(x)
        return self.head(self.norm(x))


def _following(model: nn.Module, padding: bool = False) -> Callable[[torch.Generator], Tensor]:
    def step(source: torch.Generator) -> Tensor:
        words = _words(source, 1)
        if padding:
            words[1:, 3:] = 0  # most of the batch
        return functional.cross_entropy(model(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())

    return step


def _blocks(size: float, padding: bool = False, sink: float = 0.0, depth: int = 8) -> Callable[[], Subject]:
    def build() -> Subject:
        blocks: list[nn.Module] = [_Block(_WIDTH) for _ in range(depth)]
        if sink:
            blocks[2], blocks[-1] = _Sink(_WIDTH, sink), _Sink(_WIDTH, -sink)
        model = _Words(blocks, size, padding)
        return Subject(model, _following(model, padding), {"blocks": [_Block]})

    return build


def _normed(size: float) -> Callable[[], Subject]:
    """Blocks whose norm stands behind the sum, for features of any size."""

    def build() -> Subject:
        model = nn.Sequential(*(_Normed(_WIDTH) for _ in range(8)))

        def step(source: torch.Generator) -> Tensor:
            x = torch.randn(_BATCH, _TOKENS, _WIDTH, generator=source)
            return functional.mse_loss(model(size * x), x.roll(1, -1))

        return Subject(model, step, {"blocks": [_Normed]})

    return build


# ---- libraries


def _hyper_connections(kind: str) -> Callable[[], Subject]:
    def build() -> Subject:
        import importlib

        library: Any = importlib.import_module(f"hyper_connections.{kind}")
        init, expand, reduce = library.get_init_and_expand_reduce_stream_functions(4)
        layers = [init(dim=_WIDTH, layer_index=place, branch=_branch()) for place in range(8)]
        model = nn.Sequential(expand, *layers, reduce)
        return Subject(model, _repeated(model))

    return build


def _branch() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 2 * _WIDTH), nn.GELU(), nn.Linear(2 * _WIDTH, _WIDTH))


def _x_transformers(**options: Any) -> Callable[[], Subject]:
    def build() -> Subject:
        from x_transformers import Encoder  # pyright: ignore

        model: Any = Encoder(dim=_WIDTH, depth=4, heads=4, attn_dim_head=8, **options)
        return Subject(model, _repeated(model))

    return build


_SIZES: Mapping[str, Any] = {
    "vocab_size": _WORDS,
    "hidden_size": _WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def _transformers(module: str, model: str, config: str, **sizes: Any) -> Callable[[], Subject]:
    """A released model of a tiny size, initialised as its library does."""

    def build() -> Subject:
        import importlib

        modeling: Any = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
        configuration: Any = importlib.import_module(f"transformers.models.{module}.configuration_{module}")
        made: Any = getattr(modeling, model)(getattr(configuration, config)(**{**_SIZES, **sizes}))

        def step(source: torch.Generator) -> Tensor:
            words = _words(source)
            return made(input_ids=words, labels=words, use_cache=False).loss

        return Subject(made, step)

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
        "hyper-connections, constrained": Healthy(
            _hyper_connections("manifold_constrained_hyper_connections"), "hyper_connections"
        ),
        "hyper-connections, unconstrained": Healthy(_hyper_connections("hyper_connections"), "hyper_connections"),
        "x-transformers encoder": Healthy(_x_transformers(), "x_transformers"),
        "transformers, DeepSeek-V4": Healthy(
            _transformers(
                "deepseek_v4",
                "DeepseekV4ForCausalLM",
                "DeepseekV4Config",
                n_routed_experts=4,
                num_key_value_heads=1,
                q_lora_rank=16,
                o_lora_rank=16,
                o_groups=2,
                index_n_heads=2,
                index_head_dim=16,
                index_topk=8,
            ),
            "transformers",
        ),
        "transformers, Hy4": Healthy(
            _transformers(
                "hy_v4",
                "HYV4ForCausalLM",
                "HYV4Config",
                n_routed_experts=4,
                num_key_value_heads=2,
                intermediate_size=64,
                q_lora_rank=16,
                kv_lora_rank=16,
                qk_nope_head_dim=8,
                qk_rope_head_dim=8,
                v_head_dim=16,
                index_n_heads=2,
                index_head_dim=16,
                index_topk=8,
            ),
            "transformers",
        ),
        "transformers, Qwen4-Exp": Healthy(
            _transformers(
                "qwen4_exp",
                "Qwen4ExpForCausalLM",
                "Qwen4ExpTextConfig",
                num_experts=4,
                num_key_value_heads=2,
                shared_expert_intermediate_size=32,
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                hc_lowrank=8,
                indexer_n_heads=2,
                indexer_kv_heads=1,
                indexer_head_dim=16,
                indexer_budget=8,
                indexer_compress_ratio=2,
            ),
            "transformers",
        ),
    }
    return found


HEALTHY: Mapping[str, Healthy] = _all()
