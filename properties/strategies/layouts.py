"""How what a method is called with may lie in memory, on which axes of tokens, and what of it asks for a gradient."""

from __future__ import annotations

LAYOUTS = ("", "offset 1", "offset 2", "slice")
"""How a state lies: by itself; one or two entries after the start of its storage; as a slice of wider rows."""
OFFSET = "where a state begins off the start of its storage, which a vectorised load may not expect"
SEQUENCES, STEP, BARE, THREE, INFERENCE = "sequences", "step", "bare", "three", "inference"
"""Ways to call: with tokens on two axes, with one token in each of many sequences, without an axis of tokens, with
tokens on three axes, and in the inference mode of torch."""
MANY_SEQUENCES = "many sequences"
"""With several tokens in each of five sequences or more, as a batch of training has."""
CUT_THREE = "cut of three"
"""Tokens on three axes, of which the last entry of the second was cut off, so that the first two are not one."""
CUT, TURNED, FROZEN, STILL, YIELDED = "cut", "turned", "frozen", "still", "yielded"
"""Sequences whose last token was cut off; a phi whose columns lie one after the other; and backwards states that ask
for gradients alone, everything else alone, and the output of a branch alone."""
ROWS = "rows"
"""What a branch returns lies in wider rows, as a part of a fused product does."""
SUMMED, TWICE = "summed", "twice"
"""Backwards, outputs are added up, so that autograd hands over cotangents of strides 0; and a graph is pulled back
through a second time."""
EVALUATED, ABROAD = "evaluated", "abroad"
"""Backwards, calls that record nothing come between the forward pass and its backward pass, and these run in two
threads."""
REWRITTEN = "rewritten"
"""Forwards, the very tensors of the parameters had other values in a call before."""
FIRST_FROZEN = "first frozen"
"""Backwards, the state and the parameters of the first eight layers ask for no gradient."""
FREE = 8
"""How many layers those are."""
PERMUTED, INNERMOST, SPACED = "permuted", "innermost", "spaced"
"""Backwards, a cotangent lies [.., C, n], or its tokens are innermost, or are every second of twice as many."""
BARS = PERMUTED, INNERMOST, SPACED
EVEN = {"even-channels": -1, "even-streams": -2, "even-tokens": 0}
"""Backwards, a cotangent is the same along one axis, and is expanded along that alone."""
ALONE = ("pre-alone", "post-alone", "res-alone")
"""Backwards, one of the three mappings is used, and the others have no cotangent."""
APART = {
    "offset 1": OFFSET,
    "offset 2": OFFSET,
    SEQUENCES: "where tokens lie on two axes, [B, S, n, C], which is tiled by sequence perhaps",
    STEP: "where every sequence has one token, [B, 1, n, C], as in a step of decoding",
    BARE: "where the state of one token has no axis of tokens, [n, C]",
    MANY_SEQUENCES: "where tokens lie on two axes, [B, S, n, C], several in each of many sequences",
    THREE: "where tokens lie on three axes, [A, B, S, n, C]",
    INFERENCE: "in torch.inference_mode",
    CUT: "where the last token of every sequence was cut off, x[:, :-1], so that sequences do not follow one another",
    CUT_THREE: "where tokens lie on three axes, of which the second was cut, x[:, :-1], so that no two are one",
    REWRITTEN: "where the tensors of the parameters had other values in a call before",
    FIRST_FROZEN: f"where nothing before the layer after the first {FREE} asks for a gradient",
    TURNED: "where phi lies transposed, as the weight of a linear layer does",
    FROZEN: "where states alone ask for a gradient, as beside frozen parameters",
    STILL: "where no state asks for a gradient, as in a first layer",
    YIELDED: "where the output of a branch alone asks for a gradient, as of an adapter in a frozen model",
    ROWS: "where a branch returns a slice of wider rows",
    SUMMED: "where outputs are added up, so that a cotangent is one number, expanded",
    TWICE: "where a graph that is kept is pulled back through a second time",
    EVALUATED: "where calls that record nothing come between the forward pass and its backward pass",
    ABROAD: "where the forward pass ran in another thread than its backward pass",
    PERMUTED: "where a cotangent lies [.., C, n]",
    INNERMOST: "where the tokens of a cotangent are innermost",
    SPACED: "where the tokens of a cotangent are every second of twice as many",
    **{one: f"where a cotangent is expanded along its {one.removeprefix('even-')} alone" for one in EVEN},
    **{one: f"where h_{one.removesuffix('-alone')} alone is used, so that other cotangents are None" for one in ALONE},
}
"""What tells a point of such a layout from others, if that is not its size."""

AND = "+"
"""Between the parts of a layout that has several."""


def together(*parts: str) -> str:
    """One layout of several parts, of which those that say nothing are left out."""
    return AND.join(part for part in parts if part)


def parts_of(layout: str) -> tuple[str, ...]:
    """The parts of a layout."""
    return tuple(layout.split(AND)) if layout else ()


def said(layout: str) -> list[str]:
    """What tells a point of a layout from others, part by part, if that is not its size."""
    return [APART[part] for part in parts_of(layout) if part in APART]
