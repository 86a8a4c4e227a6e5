"""Healthy models of other libraries, of tiny sizes and initialised as their library does."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from properties.explosion.healthy.subject import WIDTH, WORDS, Healthy, Subject, repeated, words_of


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


def _x_transformers(**options: Any) -> Callable[[], Subject]:
    def build() -> Subject:
        from x_transformers import Encoder  # pyright: ignore

        model: Any = Encoder(dim=WIDTH, depth=4, heads=4, attn_dim_head=8, **options)
        return Subject(model, repeated(model))

    return build


_SIZES: Mapping[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
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
        modeling: Any = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
        configuration: Any = importlib.import_module(f"transformers.models.{module}.configuration_{module}")
        made: Any = getattr(modeling, model)(getattr(configuration, config)(**{**_SIZES, **sizes}))

        def step(source: torch.Generator) -> Tensor:
            words = words_of(source)
            return made(input_ids=words, labels=words, use_cache=False).loss

        return Subject(made, step)

    return build


LIBRARIES: Mapping[str, Healthy] = {
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
