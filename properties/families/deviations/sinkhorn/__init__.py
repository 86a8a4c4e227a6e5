"""Deviations of Sinkhorn: by other fields than declared, in a step, in the backward pass."""

from properties.core.slips import Slips
from properties.families.deviations.sinkhorn import fields, gradient, steps

SLIPS = Slips(fields.SLIPS | steps.SLIPS | gradient.SLIPS)
