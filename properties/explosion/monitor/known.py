"""What the modules of known libraries give away of their mixing: which operator they apply, to which streams.

A module is known by the name of its class or of one that it derives from, and by the attributes that are read here:
another class of the same name is not taken for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mhc_ref import PRESETS, Dialect


def _as_given(module: nn.Module, x: Tensor) -> Tensor:
    return x


class Emission(NamedTuple):
    """What a known library's module gives away: A from its output or one of its functions, and x from its input.

    dialect: the name of its preset, or what makes what it declares, which may be of a family that is not there.
    computed: of modules that keep their operator to themselves: it is computed once more, for sampled streams
        [T, n, C].
    gates: what its write gates came to, divided by the most that they can be, from what it returned.
    logits: [T, n, n] that a softmax begins with, from the module and sampled streams.
    needs: attributes that it has.
    """

    operator: Callable[[Any], Tensor] | None
    function: str | None
    streams: Callable[[nn.Module, Tensor], Tensor]
    dialect: str | Callable[[], Dialect]
    computed: Callable[[Any, Tensor], Tensor] | None = None
    gates: Callable[[Any, Any], Tensor] | None = None
    logits: Callable[[Any, Tensor], Tensor] | None = None
    needs: tuple[str, ...] = ()


def _streams_first(module: Any, x: Tensor) -> Tensor:
    """hyper-connections keeps streams in the batch: (b s) ... d, or (b s) d ... with channels first."""
    if getattr(module, "channel_first", False):
        x = x.movedim(1, -1)
    x = x.unflatten(0, (-1, int(module.num_residual_streams))).movedim(1, -2)
    fractions = int(getattr(module, "num_fracs", 1))
    # A fraction of the channels is a stream of its own; the operator has fractions before streams.
    return x if fractions == 1 else x.unflatten(-1, (fractions, -1)).transpose(-2, -3).flatten(-3, -2)


def _unconstrained(module: Any, x: Tensor) -> Tensor:
    """hyper-connections 0.4.11: alpha = act(norm(x) W) scale + static, '... f1 s f2 t, ... f1 s d -> ... f2 t d'."""
    weight = module.dynamic_alpha_fn
    alpha = module.act(module.norm(x.to(weight.dtype)) @ weight) * module.dynamic_alpha_scale + module.static_alpha
    parts = alpha.unflatten(-1, (int(module.num_fracs), -1))
    return parts[..., int(module.num_input_views) :].flatten(-2)


def _columns_last(module: Any, x: Tensor) -> Tensor:
    """x-transformers 2.31: sinkhorn(norm(x) W scale + static), '... s t, ... s d -> ... t d'.

    It is given each row as a matrix of its own, as the library does (docs/findings.md): what is applied is recorded.
    """
    project = sys.modules[type(module).__module__].sinkhorn
    rows = _static_and_dynamic(module, x).unflatten(-1, (-1, int(module.num_residual_streams)))
    return project(rows, module.sinkhorn_iters).flatten(-2)


def _static_and_dynamic(module: Any, x: Tensor) -> Tensor:
    weight = module.dynamic_alpha_fn
    alpha = module.norm(x.to(weight.dtype)) @ weight * module.dynamic_alpha_scale + module.static_alpha
    return alpha[..., int(module.num_input_views) :]


def _identity(module: Any, x: Tensor) -> Tensor:
    return torch.eye(x.shape[-2], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)


def _in_channels(module: Any, x: Tensor) -> Tensor:
    return x.unflatten(-1, (int(module.hc_count), -1))


def _matrix(output: Any) -> Tensor:
    """The matrices among what was returned: of every other tensor there are fewer axes."""
    return max((one for one in output if isinstance(one, Tensor)), key=lambda one: one.ndim)


def _combination(module: Any, x: Tensor) -> Tensor:
    """DeepSeek-V4: the last n^2 of the projections of the normalised streams. The eps of the norm does not matter."""
    n = x.shape[-2]
    flat = x.flatten(-2)
    flat = flat * flat.square().mean(-1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny).rsqrt()
    own = getattr(module, "_fp32_params", module)
    weight, scale, base = (one.to(flat) for one in (module.fn, own.scale, own.base))
    return (flat @ weight[2 * n :].mT * scale[2] + base[2 * n :]).unflatten(-1, (n, n))


def _beside_matrix(module: Any, output: Any) -> Tensor:
    """h_post comes before the matrices, in what transformers returns and in what nemo-automodel does."""
    place = max(range(len(output)), key=lambda at: output[at].ndim)
    return output[place - 1] / 2


def _twice(place: int) -> Callable[[Any, Any], Tensor]:
    """Gates of at most 2, at a place of what is returned."""
    return lambda module, output: output[place] / 2


def _of_magnitude(module: Any, output: Any) -> Tensor:
    return output[0] / module.hc_post_magnitude


def _of_beta(module: Any, output: Any) -> Tensor:
    """x-transformers: `prepare` returns the input of the branch, the streams, and {beta}."""
    return output[2]["beta"] / 2


_DEEPSEEK = Emission(_matrix, None, _as_given, "DEEPSEEK_V4", gates=_beside_matrix, logits=_combination, needs=("fn",))
_CARRIED = Emission(None, None, _as_given, "RESIDUAL", computed=_identity)


def _columns_of_x_transformers() -> Dialect:
    from properties.targets.published.x_transformers import COLUMNS_LAST

    return COLUMNS_LAST


KNOWN: Mapping[str, Emission] = {
    # transformers 5.24.0: (h_post, h_res, branch input); the decoder layer applies the transpose of h_res.
    "DeepseekV4HyperConnection": _DEEPSEEK,
    "Glm5NextTextHyperConnection": _DEEPSEEK,
    # nemo-automodel 0.7.0
    "Glm5NextHyperConnection": _DEEPSEEK._replace(needs=()),
    "DeepseekV41HyperConnection": _DEEPSEEK._replace(dialect="DEEPSEEK_V4_1"),
    # hyper-connections 0.4.11: '... s t, ... s d -> ... t d' with what residual_mix_constraint_fn returns.
    "ManifoldConstrainedHyperConnections": Emission(None, "residual_mix_constraint_fn", _streams_first, "LUCIDRAINS"),
    "HyperConnections": Emission(
        None,
        "width_connection",
        _streams_first,
        "HYPER_CONNECTIONS",
        computed=_unconstrained,
        needs=("static_alpha", "dynamic_alpha_fn", "dynamic_alpha_scale", "act", "norm", "num_fracs"),
    ),
    # x-transformers 2.31.10: `prepare` is what mixes.
    "HyperConnection": Emission(
        None,
        "prepare",
        _streams_first,
        _columns_of_x_transformers,
        computed=_columns_last,
        gates=_of_beta,
        logits=_static_and_dynamic,
        needs=("static_alpha", "dynamic_alpha_fn", "dynamic_alpha_scale", "sinkhorn_iters", "prepare"),
    ),
    "GatedMultiResidual": Emission(
        None, "prepare", _streams_first, "RESIDUAL", computed=_identity, gates=_of_beta, needs=("static_write_logit",)
    ),
    # transformers 5.24.0: streams are carried as they are, and gates write to them.
    **dict.fromkeys(
        ("HYV4HyperConnection", "HYV4VLHyperConnection"),
        _CARRIED._replace(dialect="IHC", gates=_of_magnitude, needs=("hc_post_magnitude",)),
    ),
    "Qwen4ExpTextGatedResidual": _CARRIED._replace(
        streams=_in_channels, dialect="QWEN4_EXP", gates=_twice(2), needs=("hc_count", "block_inject_weight")
    ),
    "Qwen3_8_FlashNextHyperConnection": Emission(
        None, "mix", _in_channels, "QWEN4_EXP", computed=_identity, needs=("hc_count", "mix")
    ),
}
"""Modules that need no description, by the name of their class."""


def known(module: nn.Module) -> Emission | None:
    """What is known of a module, by its class or one that it derives from (sharding gives it a class of its own)."""
    for kind in type(module).__mro__:
        found = KNOWN.get(kind.__name__)
        if found is not None and all(hasattr(module, name) for name in found.needs):
            return found
    return None


class Carried(NamedTuple):
    """A block x -> x + f(x): which of its arguments is x."""

    argument: str | int


BLOCKS: Mapping[str, Carried] = {
    # torch
    "TransformerEncoderLayer": Carried(0),
    "TransformerDecoderLayer": Carried(0),
    # transformers: decoder and encoder layers of every model derive from it.
    "GradientCheckpointingLayer": Carried(0),
    "MuseSparkResidualGate": Carried(0),
    # x-transformers: forward(what a branch returned, residual).
    "GRUGating": Carried(1),
    "OrthogonalResidualUpdate": Carried(1),
    "MVSplitResidualUpdate": Carried(1),
}
"""Residual blocks by the name of their class."""


def carried(module: nn.Module) -> Carried | None:
    """How a known residual block takes its state."""
    for kind in type(module).__mro__:
        if kind.__name__ in BLOCKS:
            return BLOCKS[kind.__name__]
        if kind.__name__ == "Residual" and hasattr(module, "prepare"):
            return Carried(1)  # x-transformers
        if kind.__name__ == "Residual" and hasattr(module, "width_connection"):
            return Carried(0)  # hyper-connections, of one stream
    return None


def emitted_by(module: nn.Module) -> tuple[Emission | None, Dialect | None]:
    """What is known of a module, and the dialect that it declares."""
    found = known(module)
    if found is None:
        return None, None
    said = found.dialect
    return found, PRESETS.get(said) if isinstance(said, str) else said()
