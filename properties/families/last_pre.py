"""Last pre: the streams end as a sum gated by the h_pre of the last block."""

from __future__ import annotations

from mhc_ref.families import last_pre as formulas
from properties.core.family import End


class LastPre(End):
    """DeepSeek-V4.1, mlx-lm 0.32.2: `_collapse(streams, pre_mix)`."""

    name = "last-pre"
    words = "the streams end in a sum gated by the last h_pre"
    source = "DeepSeek-V4.1, mlx-lm 0.32.2: `_collapse(streams, pre_mix)`"
    LAST = formulas.LAST


END = LastPre()
