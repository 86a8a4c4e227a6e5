"""How the fields of Sinkhorn are read off its matrices, and off those of logits that a temperature divides."""

from properties.families.fits.sinkhorn.fields import fit
from properties.families.fits.sinkhorn.temperature import fit_tempered

FITS = (fit, fit_tempered)
"""In this order, each where the one before finds nothing."""
