"""Hypothesis strategies: inputs where mistakes show, drawn so that they shrink to something a person can read.

Structure is drawn first (n, C, tokens), then for every token a base pattern and a few changed entries. Dense noise
comes from a seed, so an example costs tens of draws, not thousands; patterns are ordered from readable to wild, and
lists of tokens and of changes shrink by deletion, so that what is left is a zero matrix with the entries that matter.
`tests/quality` measures how often each regime that the laws rely on is reached.

`PUBLIC` is for tests of your own (docs/strategies.md); the rest is what the laws draw from, in the frame (`Setting`) of
an implementation, and changes with them.
"""

from properties.strategies.agreeing import STEADY, agreeing_params, agreeing_state
from properties.strategies.coefficients import (
    GATES,
    QUIET,
    branch_of,
    extreme_params,
    params_of,
    params_of_layers,
    quietened,
    saturating,
)
from properties.strategies.draws import (
    among,
    as_deep_as,
    changed,
    changes,
    coarse,
    eighths,
    kept,
    levels,
    noise,
    seeds,
)
from properties.strategies.inputs import (
    CHANNELS,
    arrangeable,
    block_cases,
    channel_count,
    coefficient_cases,
    cotangent_for,
    far_beside,
    layers_among,
    on_two_axes,
    permutations_of,
    projected_width,
    sequenced,
    silenced,
    width_among,
)
from properties.strategies.own_tests import (
    STREAMS,
    VALUES,
    Blocks,
    Sizes,
    blocks,
    branches,
    cotangents,
    depths,
    dialects,
    logits,
    parameters,
    sizes,
    states,
)
from properties.strategies.patterns import BEYOND_EXP, MODERATE, PATTERNS, TAME, Pattern
from properties.strategies.projected import (
    at_temperature,
    logit_matrix,
    logits_of,
    params_at_temperature,
    projection_cases,
    shift_axis,
    streams,
)
from properties.strategies.setting import Setting
from properties.strategies.tokens import states_of, token_state
from properties.strategies.tuned import tuned_dialects, tuned_setting

PUBLIC = (
    "blocks",
    "branches",
    "cotangents",
    "depths",
    "dialects",
    "logits",
    "parameters",
    "sizes",
    "states",
)
"""What is kept from release to release."""

__all__ = [
    "BEYOND_EXP",
    "CHANNELS",
    "GATES",
    "MODERATE",
    "PATTERNS",
    "QUIET",
    "STEADY",
    "STREAMS",
    "TAME",
    "VALUES",
    "Blocks",
    "Pattern",
    "Setting",
    "Sizes",
    "agreeing_params",
    "agreeing_state",
    "among",
    "arrangeable",
    "as_deep_as",
    "at_temperature",
    "block_cases",
    "blocks",
    "branch_of",
    "branches",
    "changed",
    "changes",
    "channel_count",
    "coarse",
    "coefficient_cases",
    "cotangent_for",
    "cotangents",
    "depths",
    "dialects",
    "eighths",
    "extreme_params",
    "far_beside",
    "kept",
    "layers_among",
    "levels",
    "logit_matrix",
    "logits",
    "logits_of",
    "noise",
    "on_two_axes",
    "parameters",
    "params_at_temperature",
    "params_of",
    "params_of_layers",
    "permutations_of",
    "projected_width",
    "projection_cases",
    "quietened",
    "saturating",
    "seeds",
    "sequenced",
    "shift_axis",
    "silenced",
    "sizes",
    "states",
    "states_of",
    "streams",
    "token_state",
    "tuned_dialects",
    "tuned_setting",
    "width_among",
]
