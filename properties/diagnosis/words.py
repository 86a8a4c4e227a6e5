"""The difference between two dialects in words; families say their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mhc_ref import registry
from properties.core.family import family

_WORDS: dict[str, Callable[[Any], str]] = {
    "last_axis": lambda v: f"{v}s are normalised last",
    "start": lambda v: f"Sinkhorn starts from {'exp' if v == 'exp' else 'a softmax'}",
    "start_axis": lambda v: f"the softmax at the start runs over {v}s",
    "iterations": lambda v: f"Sinkhorn runs {v} iteration{'s' * (v != 1)}",
    "entry_eps": lambda v: f"{v:g} is added to the started entries" if v else "nothing is added to the started entries",
    "denominator_eps": lambda v: f"the eps of the denominators is {v:g}" if v else "the denominators have no eps",
    "temperature": lambda v: (
        "the residual logits are divided by nothing" if v == 1 else f"the residual logits are divided by {v:.12g}"
    ),
    "denominator": lambda v: "the eps is added to the denominators" if v == "add" else "the denominators are clamped",
    "transposed": lambda v: "h_res is applied transposed" if v else "h_res is applied untransposed",
    "pre_eps": lambda v: f"the eps of h_pre is {v:g}" if v else "h_pre has no eps",
    "post_scale": lambda v: f"h_post is scaled by {v:g}",
    "post_eps": lambda v: f"the eps of h_post is {v:g}" if v else "h_post has no eps",
    "read_from": lambda v: f"a branch reads with {'its own h_pre' if v == 'own' else 'the h_pre of the block before'}",
    "first_read": lambda v: f"the first branch reads {'with its own h_pre' if v == 'own' else 'stream 0'}",
    "shared_projection": lambda v: "one projection serves all streams" if v else "phi has rows for every stream",
    "rms_eps": lambda v: f"rms eps is {v:g}" if v else "the norm has no eps",
    "norm_offset": lambda v: f"the norm weight multiplies as {v:g} + weight" if v else "the norm weight has no offset",
    "centred": lambda v: "the norm subtracts the mean" if v else "the norm subtracts no mean",
    "rms_eps_from": lambda v: {
        "value": "the eps of the norm is a number",
        "compute": "the eps of the norm is that of the dtype it is computed in",
        "state": "the eps of the norm is that of the dtype of the state",
    }[v],
    "rms_eps_by": lambda v: "the norm is at least its eps" if v == "clamp" else "the eps of the norm is added",
    "rms_eps_inside": lambda v: f"rms eps stands {'inside' if v else 'outside'} the root",
}
_IS = {"residual": "h_res is ", "pre": "h_pre is ", "post": "h_post is "}
"""What the words of a family go on, where they are no sentence."""


def difference_in_words(differs: dict[str, tuple[Any, Any]]) -> list[str]:
    """One clause for every field, about the value that was found; none for a field that went with its family."""
    of_dtype = differs.get("rms_eps_from", ("", "value"))[1] not in ("value", None)
    told = {name: found for name, (_, found) in differs.items() if not (of_dtype and name == "rms_eps")}
    return [_clause(name, found) for name, found in told.items() if found is not None]


def _clause(name: str, found: Any) -> str:
    if name in registry.SLOTS:
        known = family(registry.SLOTS[name], found)
        return _IS.get(name, "") + (getattr(known, "words", "") or f"{known.slot} {found}")
    if name in _WORDS:
        return _WORDS[name](found)
    return f"{name} is {found:.12g}" if isinstance(found, float) else f"{name} is {found!r}"
