"""Sum: the streams end as their sum."""

from __future__ import annotations

from mhc_ref.families import sum as formulas
from properties.core.family import End


class Sum(End):
    """arXiv 2409.19606."""

    name = "sum"
    words = "the streams end as their sum"
    source = "arXiv 2409.19606"
    HEAD = formulas.HEAD


END = Sum()
