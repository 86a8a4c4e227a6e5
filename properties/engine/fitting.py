"""Whether a stored case fits its law and an implementation, before anybody is accused by it.

A file may be old, edited, or of another implementation. What is wrong with it must not be said of the implementation
that it is tried on, so three questions come first: do the values fit one another (`misfits`); do they lie inside what
the implementation declares (`outside`); and does the reference keep the law for them (`doubt`)?
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.case import Case, MissingValue
from properties.core.handing import is_storable, stored_dtype
from properties.core.implementation import Implementation, Reference, dtype_names
from properties.core.law import Law
from properties.core.trial import LawBroken
from properties.engine.misfits import each, misfit, named, sizes_of
from properties.engine.subject import Subject
from properties.engine.trying import try_stored
from properties.guards.printable import message_of


def outside(case: Case, implementation: Implementation, dtype: torch.dtype) -> str | None:
    """Why a case that fits lies outside what an implementation declares; None where it lies inside."""
    name, values = implementation.name, dict(case.items())
    declared = dtype_names(implementation)
    if dtype not in [getattr(torch, one) for one in declared]:
        return f"the case is in {named(dtype)}; {name} takes {', '.join(declared)}"
    tuned = values.get("dialect")  # what the implementation is tuned to has logits of other shapes, perhaps
    sizes = sizes_of(values, tuned if isinstance(tuned, Dialect) else implementation.dialect)
    if sizes.n is not None and sizes.n not in implementation.streams:
        return f"the case has n = {sizes.n}; {name} takes n = {', '.join(map(str, implementation.streams))}"
    tokens = max([sizes.T or 0, values.get("count", 0), *_tokens_of(values.get("other"))])
    if tokens > implementation.max_tokens:
        return f"the case has {tokens} tokens a call; {name} takes {implementation.max_tokens}"
    if sizes.C is not None and sizes.C % implementation.channel_multiple:
        return f"the case has C = {sizes.C}; {name} takes multiples of {implementation.channel_multiple}"
    params = [one for part in ("params", "other_params", "head") for _, one in each(part, values.get(part, ()))]
    if not implementation.norm_weight and any(one.norm_weight is not None for one in params):
        return f"the parameters of the case have a norm weight; {name} takes none"
    stored = stored_dtype(implementation, dtype)
    if not all(is_storable(one, stored) for one in params):
        return f"the parameters of the case have values that {named(stored)} does not have; {name} stores them in it"
    return _too_small(values, implementation)


def _tokens_of(value: Any) -> list[int]:
    return [value.shape[0]] if isinstance(value, Tensor) and value.ndim else []


_FAR_BELOW = 1e-4
"""An ordinary state is of order one; by chance the largest of a few normal numbers is smaller, never so much."""


def _too_small(values: dict[str, Any], implementation: Implementation) -> str | None:
    least = implementation.least_scale
    for name in ("x", "h", "other"):
        value = values.get(name)
        if not least or not isinstance(value, Tensor) or not value.numel() or "logits" in values:
            continue
        largest = value.double().abs().flatten(1).amax(-1)
        small = (largest > 0) & (largest < least * _FAR_BELOW)
        if small.any():
            return (
                f"{name} has a token of size {largest[small].max().item():.3g}; {implementation.name} declares "
                f"least_scale = {least}"
            )
    return None


# -- the law ----------------------------------------------------------------------------------------------------------


def doubt(law: Law, subject: Subject, case: Case) -> str | None:
    """Why a verdict on this case would say nothing about an implementation: the reference breaks the law there too.

    None where it keeps the law, and where the law says nothing about the reference, which does not promise everything
    that an implementation may declare.

    Raises:
        MissingValue: the law reads a value that the case does not have.
    """
    reference = Reference(subject.implementation.dialect, "the reference")
    reference.dtypes = dtype_names(subject.implementation)  # logits of bfloat16 alone are tried in bfloat16
    if law.inapplicable(reference, subject.dtype, subject.device):
        return None
    try:
        try_stored(law, Subject("ref", reference, subject.dtype, subject.device), case)
    except MissingValue:  # says it best itself
        raise
    except LawBroken as broken:
        what = f"the reference breaks {law.id} for this case too ({broken.what})"
    except Exception as error:  # whatever a case that does not fit makes of our own code
        what = f"{law.id} cannot be tried with this case on the reference ({type(error).__name__}: {message_of(error)})"
    else:
        return None
    return f"{what}: the case does not fit the law of this version, or it was changed"


def unfit(law: Law, subject: Subject, case: Case) -> str | None:
    """The first reason not to judge a subject by a case: of `misfit`, `outside` and `doubt`; None without one."""
    implementation, dtype = subject.implementation, subject.dtype
    return (
        misfit(case, implementation.dialect, dtype) or outside(case, implementation, dtype) or doubt(law, subject, case)
    )
