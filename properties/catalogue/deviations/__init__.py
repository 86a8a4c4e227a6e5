"""The catalogue of wrong implementations: each is the correct one with one realistic slip, and says where it happened.

`Deviant` is the correct implementation; there is one module for each topic, and slips in the steps of a family are
listed with the family (`properties/families/deviations/`). What the laws are worth is how many of these they catch.
"""

from properties.catalogue.deviations.catalogue import CATALOGUE, ELSEWHERE, HIDDEN, build, deviations_of, elsewhere
from properties.core.deviant import Deviant
from properties.core.slips import Deviation, Kind

__all__ = ["CATALOGUE", "ELSEWHERE", "HIDDEN", "Deviant", "Deviation", "Kind", "build", "deviations_of", "elsewhere"]
