"""Head: the streams end as a sum gated like h_pre, with parameters of its own."""

from __future__ import annotations

from mhc_ref.families import head as formulas
from properties.core.family import End


class Head(End):
    """deepseek-ai/DeepSeek-V4: `hc_head`."""

    name = "head"
    words = "the streams end in a gated sum"
    source = "deepseek-ai/DeepSeek-V4: `hc_head`"
    HEAD = formulas.HEAD


END = Head()
