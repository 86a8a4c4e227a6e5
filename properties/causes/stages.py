"""At which stage a law looks, for failures that nothing explains."""

from __future__ import annotations

from properties.core.law import Law
from properties.laws import sizes_backwards

_FAMILIES = {
    "manifold": "projection",
    "gradient": "gradient",
    "execution": "execution",
    "device": "execution",
    "precision": "precision",
}
_METHODS = {
    "project": "projection",
    "pre": "pre",
    "post": "post",
    "mappings": "gates",
    "block": "block",
    "layers": "layers",
    "expand": "expand",
    "collapse": "collapse",
    "stack": "layers",
}
BEFORE = {
    "projection": ("projection",),
    "gates": ("norm", "matmul", "gates", "sigmoid", "projection"),
    "pre": ("pre",),
    "post": ("post",),
    "expand": ("expand",),
    "collapse": ("collapse",),
}
"""Stages whose mistakes show in values of a stage; in those of a block, of layers and of gradients all of them do."""
_FORWARD = frozenset(stage for stages in BEFORE.values() for stage in stages)
_PULLING = frozenset(("gradient", "execution", "device"))
"""Families of which some laws look at gradients."""


def stage_of(law: Law) -> str:
    """The stage of a law: that of its family, or of the last method that it needs; tuning is one by itself."""
    if law.tunes:
        return "tuning"
    if pulls_back(law):
        return "gradient"
    if law.family in _FAMILIES:
        return _FAMILIES[law.family]
    return _METHODS.get(law.needs[-1], "block") if law.needs else "block"


def pulls_back(law: Law) -> bool:
    """Whether a law goes through sizes backwards, all of which one module has."""
    return law.family == "sizes" and law.module == sizes_backwards.__name__


def shows(stage: str, law: Law) -> bool:
    """Whether a mistake of a stage shows in what a law sees, which are answers of the methods that it needs."""
    own = stage_of(law)
    if own in BEFORE:
        return stage in BEFORE[own]
    if stage == "gradient":
        return law.family in _PULLING or pulls_back(law)
    looks = {_METHODS.get(method, "block") for method in law.needs}
    looks |= {"pre"} if "post" in looks else set[str]()  # which are offered together
    if stage not in _FORWARD or not looks or not looks <= BEFORE.keys():
        return True
    return any(stage in BEFORE[one] for one in looks)
