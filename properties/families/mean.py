"""Mean: the streams end as their mean."""

from __future__ import annotations

from mhc_ref.families import mean as formulas
from properties.core.family import End


class Mean(End):
    """arXiv 2601.05732."""

    name = "mean"
    words = "the streams end as their mean"
    source = "arXiv 2601.05732"
    HEAD = formulas.HEAD


END = Mean()
