"""At which stage a field of the dialect or a named slip acts first."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from mhc_ref import PRESETS
from properties.catalogue.deviations import CATALOGUE, ELSEWHERE, HIDDEN, Deviant
from properties.core.deviant import redialected
from properties.core.slips import NORM, is_slip

_SIGMOID = "sigmoid"
"""The stage of pre and post, which is called so whatever families of gates a dialect chooses."""

STAGE_OF = {
    "residual": "projection",
    "last_axis": "projection",
    "start": "projection",
    "start_axis": "projection",
    "iterations": "projection",
    "entry_eps": "projection",
    "denominator_eps": "projection",
    "denominator": "projection",
    "transposed": "post",
    "pre": _SIGMOID,
    "pre_eps": _SIGMOID,
    "post": _SIGMOID,
    "post_scale": _SIGMOID,
    "post_eps": _SIGMOID,
    "dynamic": "gates",
    "norm_over": "norm",
    "shared_projection": "matmul",
    "rms_eps": "norm",
    "rms_eps_inside": "norm",
    "rms_eps_by": "norm",
    "rms_eps_from": "norm",
    "centred": "norm",
    "norm_offset": "norm",
    "expand": "expand",
    "collapse": "collapse",
    "read_from": "layers",
    "first_read": "layers",
}
"""At which stage a field of the dialect acts first."""


_OF_KIND = {"dtype": "precision", "gradient": "gradient", "execution": "execution", "device": "execution"}
"""Kinds of slips that are a circumstance, whatever step of a block they stand in."""

_HEAD = "head"
"""The step that weighs the streams in the end, whatever family the end is of."""

STEPS = {
    "norm": NORM,
    "matmul": ("projected", "matmul"),
    "gates": ("mappings", "logits", "dynamic", "split", "gated"),
    _SIGMOID: ("h_pre", "h_post", "squash"),
    "projection": ("h_res", "project"),
    "pre": ("pre", "gathered"),
    "branch": ("block", "_derived_block"),
    "post": ("post", "mixed", "operator", "spread"),
    "layers": ("layers", "_derived_layers"),
    "expand": ("expand", "stack"),
    "collapse": ("collapse", _HEAD),
}
"""The steps of a `Deviant` by stage; the steps that a family adds are those of its projection."""


def stage_of_fields(fields: Iterable[str]) -> str:
    """Of fields that differ; what a family brings is of the mix."""
    return next((STAGE_OF[name] for name in fields if name in STAGE_OF), "projection")


@cache
def stage_of_slip(name: str) -> str:
    """Of a deviation of the catalogue."""
    slip = (CATALOGUE | HIDDEN)[name]
    if slip.kind in _OF_KIND:
        return _OF_KIND[slip.kind]
    home = next((one for one in (*PRESETS.values(), *ELSEWHERE.values()) if slip.applies(one)), None)
    made = slip.make(home) if home is not None else None
    if not isinstance(made, Deviant):
        return "projection"
    if redialected(made):
        return stage_of_fields(made.computed.difference(made.dialect))
    steps = {step for kind in made.slip.__mro__ if is_slip(kind) for step in vars(kind)}
    return next((stage for stage, names in STEPS.items() if steps & set(names)), "projection")
