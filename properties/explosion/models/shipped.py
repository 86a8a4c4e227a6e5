"""Whole models that libraries ship, of tiny sizes and any depth, initialised as their library does it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

WIDTH, WORDS = 32, 64
"""Channels of a state, and the vocabulary of those that take token ids."""

_SIZES: Mapping[str, Any] = {
    "num_attention_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}

_RELEASED: Mapping[str, tuple[str, str, str, Mapping[str, Any]]] = {
    "DeepSeek-V4": (
        "deepseek_v4",
        "DeepseekV4ForCausalLM",
        "DeepseekV4Config",
        {
            "n_routed_experts": 4,
            "num_key_value_heads": 1,
            "q_lora_rank": 16,
            "o_lora_rank": 16,
            "o_groups": 2,
            "index_n_heads": 2,
            "index_head_dim": 16,
            "index_topk": 8,
        },
    ),
    "Hy4": (
        "hy_v4",
        "HYV4ForCausalLM",
        "HYV4Config",
        {
            "n_routed_experts": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "index_n_heads": 2,
            "index_head_dim": 16,
            "index_topk": 8,
        },
    ),
    "Qwen4-Exp": (
        "qwen4_exp",
        "Qwen4ExpForCausalLM",
        "Qwen4ExpTextConfig",
        {
            "num_experts": 4,
            "num_key_value_heads": 2,
            "shared_expert_intermediate_size": 32,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "hc_lowrank": 8,
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 8,
            "indexer_compress_ratio": 2,
        },
    ),
}


class Shipped(NamedTuple):
    """A model of a library.

    Attributes:
        needs: the package to import.
        build: depth -> the model, with the weights that it begins with.
        ids: whether it takes token ids [B, T] below `WORDS`, or states [B, T, `WIDTH`].
        blocks: names of its residual blocks, as globs; "" where they are found.
    """

    needs: str
    build: Callable[[int], nn.Module]
    ids: bool
    blocks: str


def released(name: str, depth: int) -> nn.Module:
    """A model of transformers with so many layers."""
    place, model, config, sizes = _RELEASED[name]
    modeling: Any = importlib.import_module(f"transformers.models.{place}.modeling_{place}")
    configuration: Any = importlib.import_module(f"transformers.models.{place}.configuration_{place}")
    own = {"vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": depth, "use_cache": False}
    return getattr(modeling, model)(getattr(configuration, config)(**{**_SIZES, **own, **sizes}))


def encoder(depth: int, **options: Any) -> nn.Module:
    """An `Encoder` of x-transformers with so many layers, two sub-layers each."""
    made: Any = importlib.import_module("x_transformers").Encoder
    return made(dim=WIDTH, depth=depth, heads=2, attn_dim_head=16, **options)


def _encoder(**options: Any) -> Shipped:
    def build(depth: int) -> nn.Module:
        return encoder(depth, **options)

    return Shipped("x_transformers", build, False, "")


def _released(name: str) -> Shipped:
    def build(depth: int) -> nn.Module:
        return released(name, depth)

    return Shipped("transformers", build, True, "model.layers.*")


SHIPPED: Mapping[str, Shipped] = {
    "x-transformers, one stream": _encoder(),
    "x-transformers, HyperConnection": _encoder(num_residual_streams=4),
    "x-transformers, GatedMultiResidual": _encoder(
        num_residual_streams=4, gated_multi_residual=True, residual_fn_kwargs={"read_gate_rank": 8}
    ),
    **{f"transformers, {name}": _released(name) for name in _RELEASED},
}
"""Name -> the model."""
