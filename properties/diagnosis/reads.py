"""The fields of a read that has no gates by stream: they are told by the parameters that it takes, or fitted.

Nothing can be read off one mapping by itself there. Values that take parameters of other shapes are ruled out by the
questions having been answered at all. Of the rest every choice is tried with the numbers that are declared; where no
choice gives the answers, numbers are looked for with each, by least squares on the answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.packing import params_shapes
from mhc_ref.registry import Field
from properties.core.reads import read_of
from properties.diagnosis.answers import Answer
from properties.diagnosis.findings import Finding, Inference, choices, settle
from properties.diagnosis.own_fields import Values, declared_values, fitted

SHOWN_BY = ("mappings", "block")
"""The stages of the exam that a read and its norm act in."""

FEW = 3
"""Answers that values are tried on, the smallest; what is found is then held to all of them."""

SIZES = ((2, 4), (3, 4), (4, 9))
"""Streams and channels by whose parameters two dialects are told apart."""


def _number(default: float, least: float) -> Field:
    return Field(default, lambda v: math.isfinite(v) and v >= least, f"a finite number of at least {least:g}")


NORM: Mapping[str, Field] = {
    "rms_eps": _number(1e-6, 0.0),  # where a search begins, beside what is declared
    "rms_eps_inside": Field(True, lambda v: isinstance(v, bool), "True or False"),
    "norm_offset": _number(0.0, -math.inf),
}
"""Fields of the norm that every read has."""


def reading(inference: Inference, base: Dialect) -> None:
    """Findings for the fields of a read without gates by stream, and for those of its norm."""
    dialect = inference.dialect(base)
    asked = [one for one in inference.answers if one.probe.stage in SHOWN_BY and not one.error]
    asked = sorted(asked, key=lambda one: sum(value.numel() for value in one.values))[:FEW]
    if not asked:
        return
    _by_parameters(inference, dialect, asked)
    norm = {name: field for name, field in NORM.items() if name in dialect.fields() and _matters(dialect, name, asked)}
    fields: dict[str, Field] = {**read_of(dialect).FIELDS, **norm}

    def made(values: Values) -> Dialect | None:
        try:
            tried = dialect.with_(**values)
        except ValueError:
            return None
        return tried if _same_parameters(tried, dialect) else None

    def residual(values: Values) -> Tensor | None:
        tried = made(values)
        expected = None if tried is None else inference.predictions.of(asked[0].probe, tried)
        if expected is None or len(expected) != len(asked[0].values):
            return None
        pairs = zip(asked[0].values, expected, strict=True)
        return torch.cat([(value.double() - one.value).flatten() for value, one in pairs])

    def worst(values: Values) -> float:
        tried, found = made(values), 0.0
        if tried is None:
            return math.inf
        for one in asked:
            if (found := max(found, inference.predictions.ratio(one, tried))) > 1:
                break
        return found

    now = declared_values(fields, dialect)
    # Every choice with the numbers that stand there, and with others only where none fits: that is a thousand answers.
    found = fitted(fields, now, lambda values: None, worst) or fitted(fields, now, residual, worst)
    if found:  # a slip elsewhere leaves them as declared
        settle(inference.findings, tuple(fields), found, base, "")
    _places(inference, dialect)


def _by_parameters(inference: Inference, dialect: Dialect, asked: Sequence[Answer]) -> None:
    """Fields whose other values take other parameters, which the target has not refused, or give other answers."""
    others: dict[str, Sequence[Any]] = {"read": choices(dialect, "read"), "res_columns": (False, True)}
    for name, values in others.items():
        if name not in dialect.fields():
            continue
        now = dialect.fields()[name]
        left = [dialect.with_(**{name: one}) for one in values if one != now and _takes(dialect, {name: one}, dialect)]
        fitting = [one.fields()[name] for one in left if all(inference.predictions.ratio(a, one) <= 1 for a in asked)]
        why = f"{' or '.join(map(repr, fitting))} does as well" if fitting else ""
        inference.findings[name] = Finding(now, "undetermined" if fitting else "certain", why)


def _takes(dialect: Dialect, values: Values, like: Dialect) -> bool:
    try:
        return _same_parameters(dialect.with_(**values), like)
    except ValueError:  # it goes with other fields only, which were answered for
        return False


def _same_parameters(one: Dialect, other: Dialect) -> bool:
    """Whether two dialects take parameters of the same shapes."""
    return all(_shapes(one, *size) == _shapes(other, *size) for size in SIZES)


def _shapes(dialect: Dialect, n: int, channels: int) -> Any:
    try:
        return params_shapes(n, channels, dialect)
    except ValueError:  # its mix is not for so many
        return None


def _matters(dialect: Dialect, name: str, asked: Sequence[Answer]) -> bool:
    """Whether the questions can show a field of the norm: its offset needs a weight, and a place needs an eps."""
    if name == "norm_offset":
        return any(getattr(part, "norm_weight", None) is not None for one in asked for part in one.probe.inputs)
    return True


def _places(inference: Inference, dialect: Dialect) -> None:
    """Why a field of the norm cannot show."""
    findings, eps = inference.findings, inference.findings.get("rms_eps")
    if eps is not None and eps.certain and eps.value == 0:
        why = "without an eps there is no place for it"
        findings["rms_eps_inside"] = Finding(dialect.rms_eps_inside, "undetermined", why)
    if "norm_offset" in dialect.fields() and "norm_offset" not in findings:
        why = "without a norm weight there is nothing that it is added to"
        findings["norm_offset"] = Finding(dialect.norm_offset, "undetermined", why)
