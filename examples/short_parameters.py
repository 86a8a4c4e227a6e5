"""Hyper-connections of transformers whose parameters are stored in bfloat16, as `model.to(torch.bfloat16)` leaves them.

mhc-properties check examples/short_parameters.py:HyV4
mhc-properties check examples/short_parameters.py:DeepseekV4
"""

import torch

from properties.targets.published import transformers_deepseek_v4, transformers_hy_v4


class HyV4(transformers_hy_v4.HyV4):
    """The modules of Hy4."""

    parameters = "state"
    dtypes = (torch.float32, torch.bfloat16, torch.float16)


class DeepseekV4(transformers_deepseek_v4.DeepseekV4):
    """The modules of DeepSeek-V4, which mix in the dtype of the state."""

    parameters = "state"
