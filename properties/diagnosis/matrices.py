"""From the matrices of a target to findings about its projection."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.packing import logits_shape
from properties.core.estimate import Candidate
from properties.core.family import mix_of
from properties.core.rounding import Rounding
from properties.core.truth import wide
from properties.diagnosis.findings import Finding, Findings, settle, value_of
from properties.diagnosis.mixes import mixes_for, stages
from properties.diagnosis.reading import Reader
from properties.diagnosis.view import View
from properties.guards.faults import TargetFault

PROJECTION = (
    "residual",
    "last_axis",
    "start",
    "start_axis",
    "iterations",
    "entry_eps",
    "denominator_eps",
    "denominator",
)
"""The fields of which a projection by rows and columns may depend; what a family brings comes beside them."""


def projection(view: View, findings: Findings, rounding: Rounding, base: Dialect) -> None:
    """Find the fields of the projection, those of its mix among them."""
    frame = view.frame
    reader = Reader(view)
    candidates = mixes_for(frame.packing, frame.n)
    shape = logits_shape(frame.n, frame.packing)
    if candidates and shape != (frame.n, frame.n) and _by_name_alone(candidates, math.prod(shape), base):
        _only(candidates[0], frame.own, reader, findings, base)
        return
    if frame.n == 1:
        settle(findings, PROJECTION, None, base, "n = 1 cannot show it")
        return
    direct = "project" in frame.own or ("mappings" in frame.own and "res" in frame.emits)
    if not direct and not reader.blocks:
        settle(findings, PROJECTION, None, base, "`project`, `mappings` or `block` would have to be offered")
        return

    def read(logits: Tensor) -> tuple[Tensor, Tensor]:
        if direct:
            return wide(view.project(logits)), torch.zeros(len(logits), frame.n, frame.n, dtype=torch.float64)
        found = reader.operators(logits)
        return found.value, found.error

    names = PROJECTION if direct else (*PROJECTION, "transposed")
    # without a projection by itself every matrix costs a call
    most = frame.max_tokens if "project" in frame.own else 24
    try:
        asked: dict[bytes, tuple[Tensor, Tensor]] = {}

        def once(logits: Tensor) -> tuple[Tensor, Tensor]:
            key = logits.contiguous().numpy().tobytes()
            if key not in asked:
                asked[key] = _finite(logits, *read(logits))
            return asked[key]

        def _finite(logits: Tensor, value: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
            """Where an exponential overflows, the matrices of the same logits less their maximum, as far as they help.

            A mix of which a shift of all logits is a symmetry has the same ones; of any other they fit nothing.
            """
            lost = ~torch.isfinite(value).flatten(1).all(1) & (logits.flatten(1).amax(1) > 0)
            if bool(lost.any()):
                again, unsure = read(logits[lost] - logits[lost].flatten(1).amax(1).view(-1, *(1,) * (logits.ndim - 1)))
                value, error = value.clone(), error.clone()
                value[lost], error[lost] = again, unsure
            return value, error

        def turned(logits: Tensor) -> tuple[Tensor, Tensor]:
            value, error = once(logits)
            return value.mT, error.mT

        found: list[Candidate] = []
        for fits in stages(candidates):  # a temperature where nothing does without
            given = (frame.n, rounding, frame.depth, frame.parameter_dtype, most, base)
            found = [one for fit in fits for one in fit(once, *given)]
            if not direct:
                found = [_with(one, transposed=False) for one in found]
                found += [_with(one, transposed=True) for fit in fits for one in fit(turned, *given)]
            if found:
                break
    except TargetFault as fault:
        settle(findings, names, None, base, f"the projection raised {fault}")
        return
    settle(findings, names, found, base, "no projection of any dialect reproduces h_res")
    if found and all("start" in one.fields for one in found):
        _explain_axes(findings, found)


def _with(one: Candidate, **fields: Any) -> Candidate:
    return dataclasses.replace(one, fields=one.fields | fields)


def _explain_axes(findings: Findings, found: list[Candidate]) -> None:
    """Why start and its axis stay open, in words: without an eps a softmax is the first half-step."""
    if all(one.fields["start"] == "exp" for one in found):
        why = "an exp start has no axis"
        findings["start_axis"] = Finding(findings["start_axis"].value, "undetermined", why)
    elif findings["start"].status == "undetermined":
        why = "exp, and a softmax over the first axis, compute the same: every eps that could tell them apart is 0"
        findings["start"] = dataclasses.replace(findings["start"], why=why)
    if findings["denominator_eps"].value == 0 and findings["denominator"].status == "undetermined":
        findings["denominator"] = dataclasses.replace(findings["denominator"], why="there is no eps to add or clamp by")


def _by_name_alone(candidates: list[str], numbers: int, base: Dialect) -> bool:
    """Whether a single mix takes such logits, without fields of its own or without a logit to ask them by: whether it
    is one is for the exam to say."""
    if len(candidates) != 1:
        return False
    return not mix_of(base.with_(residual=candidates[0])).FIELDS or not numbers


def _only(name: str, own: frozenset[str], reader: Reader, findings: Findings, base: Dialect) -> None:
    """The mix with a name and no field."""
    seen = "project" in own or "mappings" in own or reader.blocks
    findings["residual"] = Finding(name, "certain" if seen else "undetermined")
    for field in PROJECTION[1:]:
        findings[field] = Finding(
            value_of(base, field), "undetermined", f"nothing depends on it where residual is {name!r}"
        )
