"""Sizes: the numbers of tokens, channels, streams and layers that kernels branch on (docs/sizes.md)."""

from __future__ import annotations

from properties.core.case import Case
from properties.core.law import Schedule
from properties.core.premises import where
from properties.core.trial import Trial
from properties.laws import about
from properties.laws.execution_shapes import agree_in_parts
from properties.laws.premises import depends_on_logits
from properties.laws.sizes_calls import (
    BLOCK,
    COLLAPSE,
    EXPAND,
    LAYERS,
    MAPPINGS,
    POST,
    PRE,
    PROJECT,
    STACK,
    swept,
)
from properties.strategies import sweeps_pairwise as pairwise
from properties.strategies import sweeps_together as together
from properties.strategies.sweeps import (
    channel_runs,
    coarser,
    layer_runs,
    look_runs,
    looks,
    looks_along,
    mass_runs,
    pair_runs,
    product_runs,
    stream_runs,
    token_runs,
    whole_runs,
)
from properties.strategies.sweeps_kernels import loaded, prompts, served

ONCE = Schedule(cost=5, by_streams=False)
"""A sweep decides by itself how many sizes it visits; this is for whoever draws a few of its smallest."""

EVERY = (token_runs, channel_runs, pair_runs, stream_runs, look_runs, together.called_runs, served)
"""The axes of what is computed for every channel."""
PRODUCTS = (
    coarser,
    product_runs,
    pair_runs,
    stream_runs,
    look_runs,
    together.called_runs,
    served,
    together.parameter_runs,
)
"""Those of what has products with phi."""

PROJECTED = swept("project", coarser, stream_runs, looks, looks_along, pairwise.MATRICES)
MAPPED = swept("mappings", *PRODUCTS, loaded, pairwise.PRODUCTS)
MIXED = swept("mixture", *EVERY, mass_runs, pairwise.MIXTURES)
PASSED = swept("block", *PRODUCTS, loaded, together.branch_runs, pairwise.BLOCKS)
EXPANDED = swept("expand", *EVERY, pairwise.MIXTURES)
COLLAPSED = swept("collapse", *PRODUCTS[:-1], together.head_runs, pairwise.ends)
LAYERED = swept("layers", layer_runs, prompts, together.layer_runs, pairwise.LAYERS, layered=True)
STACKED = swept("stack", layer_runs, prompts, together.layer_runs, pairwise.LAYERS, layered=True)
WHOLE = swept("block", whole_runs)


@about.project(
    "sizes.matrices-are-projected",
    "oracle",
    PROJECTED.draw,
    where(depends_on_logits),
    schedule=ONCE,
    sweep=PROJECTED.sweep,
)
def matrices_are_projected(trial: Trial, case: Case) -> None:
    """Any number of matrices is projected, each by itself, with and without gradients.

    Matrices are independent. A launch for 33 to 64 of them, a tail behind the last full tile, or a path that is taken
    without gradients is a branch on their number, and the covering set goes where such branches are (docs/sizes.md).
    """
    PROJECT.hold(trial, case)


@about.mappings("sizes.tokens-and-channels-are-mapped", "oracle", MAPPED.draw, schedule=ONCE, sweep=MAPPED.sweep)
def tokens_and_channels_are_mapped(trial: Trial, case: Case) -> None:
    """The mappings of any number of tokens, channels and streams are those of the dialect.

    The norm and the products with phi are sums over n C terms, which kernels split, pad and vectorise by that number.
    Where it is large the terms of a sum have one sign, so that its bound stays far below it.
    """
    MAPPINGS.hold(trial, case)


@about.pre("sizes.streams-are-read", "oracle", MIXED.draw, schedule=ONCE, sweep=MIXED.sweep)
def streams_are_read(trial: Trial, case: Case) -> None:
    """h_pre x is right for any number of tokens, channels and streams.

    Its definition, one sum over streams for every channel. A vectorised path, C % 8 == 0, is what every real model
    takes, and one for other widths what tests take.
    """
    PRE.hold(trial, case)


@about.post("sizes.streams-are-mixed", "oracle", MIXED.draw, schedule=ONCE, sweep=MIXED.sweep)
def streams_are_mixed(trial: Trial, case: Case) -> None:
    """A x + h_post^T y is right for any number of tokens, channels and streams.

    As for `pre`: a buffer of 4096 channels, or a chunk of 256 tokens without gradients, ends somewhere.
    """
    POST.hold(trial, case)


@about.block("sizes.blocks-pass", "oracle", PASSED.draw, schedule=ONCE, sweep=PASSED.sweep)
def blocks_pass(trial: Trial, case: Case) -> None:
    """A block of any number of tokens, channels and streams is the dialect's, and its branch reads what it says.

    As for the parts that it is made of, for fused kernels and for what is called between them.
    """
    BLOCK.hold(trial, case)


@about.expand("sizes.streams-begin", "identity", EXPANDED.draw, schedule=ONCE, sweep=EXPANDED.sweep)
def streams_begin(trial: Trial, case: Case) -> None:
    """Streams begin as the dialect says for any number of tokens and channels.

    Copies round nothing, whatever their number.
    """
    EXPAND.hold(trial, case)


@about.collapse("sizes.streams-end", "oracle", COLLAPSED.draw, schedule=ONCE, sweep=COLLAPSED.sweep)
def streams_end(trial: Trial, case: Case) -> None:
    """Streams end as the dialect says for any number of tokens, channels and streams.

    As for `pre`; a head has products with phi before it.
    """
    COLLAPSE.hold(trial, case)


@about.layers("sizes.depths-pass", "oracle", LAYERED.draw, schedule=ONCE, sweep=LAYERED.sweep)
def depths_pass(trial: Trial, case: Case) -> None:
    """Any number of layers passes, each a block on the streams that the one before left.

    A boundary every eight layers, or a table of so many, ends somewhere. The gates are small, so that the next
    layers do not enlarge what rounding did to one.
    """
    LAYERS.hold(trial, case)


@about.stack("sizes.stacks-pass", "oracle", STACKED.draw, schedule=ONCE, sweep=STACKED.sweep)
def stacks_pass(trial: Trial, case: Case) -> None:
    """A stack of any number of layers expands once, passes them in order, and collapses once.

    As for layers, with their ends.
    """
    STACK.hold(trial, case)


@about.block(
    "sizes.parts-agree-with-the-whole", "identity", WHOLE.draw, blind=about.ALIKE, schedule=ONCE, sweep=WHOLE.sweep
)
def parts_agree_with_the_whole(trial: Trial, case: Case) -> None:
    """A block of any number of tokens is the same block of its halves, and of its last token alone.

    Tokens are independent. No reference is involved: whoever computes another formula than the declared one is held to
    its own rows, within two bounds.
    """
    agree_in_parts(trial, case, case.branch, BLOCK.expected(trial, case)["the block"].error)
