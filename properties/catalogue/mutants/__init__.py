"""An adversary's mutants: the reference, wrong at one stage under a condition, each made again by number."""

from properties.catalogue.mutants.building import build
from properties.catalogue.mutants.drawing import Spec, drawn
from properties.catalogue.mutants.mutant import Mutant

__all__ = ["Mutant", "Spec", "build", "drawn"]
