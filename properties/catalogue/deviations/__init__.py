"""The catalogue of wrong implementations: each is the correct one with one realistic slip, and says where it happened.

`Deviant` is the correct implementation; there is one module for each kind of slip. What the laws are worth is how
many of these they catch.
"""

from properties.catalogue.deviations import (
    backward,
    collapse,
    device,
    dtype,
    eps,
    execution,
    gamed,
    gradient,
    initialisation,
    iterations,
    missing_term,
    normalisation,
    order,
    orientation,
    packing,
    scaling,
)
from properties.catalogue.deviations.catalogue import CATALOGUE, ELSEWHERE, HIDDEN, Deviation, Kind, build
from properties.catalogue.deviations.deviant import Deviant

__all__ = [
    "CATALOGUE",
    "ELSEWHERE",
    "HIDDEN",
    "Deviant",
    "Deviation",
    "Kind",
    "backward",
    "build",
    "collapse",
    "device",
    "dtype",
    "eps",
    "execution",
    "gamed",
    "gradient",
    "initialisation",
    "iterations",
    "missing_term",
    "normalisation",
    "order",
    "orientation",
    "packing",
    "scaling",
]
