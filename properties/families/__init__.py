"""Families: of each its guarantees, its bound, the inputs where its mistakes show, its deviations and its source."""

from mhc_ref.registry import Field, register
from properties.core.family import Begin, Dynamic, End, Family, Gate, Guarantees, Mix
from properties.core.norms import Norm
from properties.families.claimed import Claims, claims

__all__ = [
    "Begin",
    "Claims",
    "Dynamic",
    "End",
    "Family",
    "Field",
    "Gate",
    "Guarantees",
    "Mix",
    "Norm",
    "claims",
    "register",
]
