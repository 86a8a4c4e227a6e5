"""The difference between two dialects in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_WORDS: dict[str, Callable[[Any], str]] = {
    "residual": lambda v: {
        "sinkhorn": "h_res is projected by Sinkhorn",
        "permutations": "h_res is a mixture of permutations",
        "unconstrained": "h_res is its logits, without a projection",
        "identity": "h_res is the identity",
    }[v],
    "last_axis": lambda v: f"{v}s are normalised last",
    "start": lambda v: f"Sinkhorn starts from {'exp' if v == 'exp' else 'a softmax'}",
    "start_axis": lambda v: f"the softmax at the start runs over {v}s",
    "iterations": lambda v: f"Sinkhorn runs {v} iteration{'s' * (v != 1)}",
    "entry_eps": lambda v: f"{v:g} is added to the started entries" if v else "nothing is added to the started entries",
    "denominator_eps": lambda v: f"the eps of the denominators is {v:g}" if v else "the denominators have no eps",
    "denominator": lambda v: "the eps is added to the denominators" if v == "add" else "the denominators are clamped",
    "transposed": lambda v: "h_res is applied transposed" if v else "h_res is applied untransposed",
    "pre": lambda v: f"h_pre is {'its logits' if v == 'linear' else 'a ' + v}",
    "pre_eps": lambda v: f"the eps of h_pre is {v:g}" if v else "h_pre has no eps",
    "post": lambda v: f"h_post is {'its logits' if v == 'linear' else 'a ' + v}",
    "post_scale": lambda v: f"h_post is scaled by {v:g}",
    "dynamic": lambda v: "the dynamic part passes a tanh" if v == "tanh" else "the dynamic part is linear",
    "norm_over": lambda v: "the norm is taken over " + ("all streams together" if v == "streams" else "each stream"),
    "shared_projection": lambda v: "one projection serves all streams" if v else "phi has rows for every stream",
    "rms_eps": lambda v: f"rms eps is {v:g}" if v else "the norm has no eps",
    "rms_eps_inside": lambda v: f"rms eps stands {'inside' if v else 'outside'} the root",
    "expand": lambda v: f"the streams begin as {v}",
    "collapse": lambda v: "the streams end in a gated sum" if v == "head" else f"the streams end as their {v}",
}


def difference_in_words(differs: dict[str, tuple[Any, Any]]) -> list[str]:
    """One clause for every field, about the value that was found."""
    return [_WORDS[name](found) for name, (_, found) in differs.items()]
