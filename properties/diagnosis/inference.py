"""From a target's behaviour to a dialect: every field certain, undetermined or contradictory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from mhc_ref import PRESETS, Dialect
from properties.bounds import Rounding
from properties.core.trial import wide
from properties.diagnosis.answers import SINGLE, Answer, Predictions, answer
from properties.diagnosis.coefficients import Gates, Norm
from properties.diagnosis.estimate import Estimate
from properties.diagnosis.exam import forward
from properties.diagnosis.projection import Candidate, fit
from properties.diagnosis.reading import Reader
from properties.diagnosis.temperature import fit_tempered
from properties.diagnosis.view import Frame, View
from properties.guards.faults import TargetFault

Status = Literal["certain", "undetermined", "contradictory"]

FIELDS = tuple(PRESETS.default.fields())
CHOICES: dict[str, tuple[Any, ...]] = {
    "residual": ("sinkhorn", "unconstrained", "identity"),
    "last_axis": ("row", "column"),
    "start": ("exp", "softmax"),
    "start_axis": ("row", "column"),
    "denominator": ("add", "clamp"),
    "transposed": (False, True),
    "pre": ("sigmoid", "softmax", "linear"),
    "post": ("sigmoid", "softmax", "linear"),
    "dynamic": ("linear", "tanh"),
    "norm_over": ("streams", "stream"),
    "rms_eps_inside": (True, False),
    "collapse": ("sum", "mean", "head"),
}
"""The fields with few values. A mixture of permutations takes other logits than the rest."""

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


@dataclass(frozen=True)
class Finding:
    """One field of the dialect.

    Attributes:
        value: what was found; where several values would do, the declared one or the plainest of them.
        status: undetermined: other values behave alike, or nothing that was seen depends on it; contradictory: no value
            reproduces what was seen.
        why: for a field that is not certain, what would do as well or which method the target would have to offer.
        estimate: of a number that was measured.
    """

    value: Any
    status: Status
    why: str = ""
    estimate: Estimate | None = None

    @property
    def certain(self) -> bool:
        """Whether no other value would do."""
        return self.status == "certain"


@dataclass
class Inference:
    """The findings, and what was asked on the way to them."""

    frame: Frame
    view: View
    findings: dict[str, Finding]
    answers: list[Answer]
    predictions: Predictions
    packing: str = ""
    begin: int = 0
    """How much had been asked before the exam began."""
    temperature: Estimate | None = None
    """By which the residual logits are divided, where no dialect fits without."""

    def dialect(self, base: Dialect) -> Dialect:
        """`base` with every value that was found, as far as they go together."""
        found = {name: one.value for name, one in self.findings.items() if one.status != "contradictory"}
        return joined(base, found)

    def sure(self, base: Dialect) -> Dialect:
        """`base` with what is certain, if that reproduces everything; its values are then taken for the rest too."""
        certain = joined(base, {name: one.value for name, one in self.findings.items() if one.certain})
        if any(self.predictions.ratio(one, certain) > 1 for one in self.answers):
            return self.dialect(base)
        for name, one in self.findings.items():
            if not one.certain:
                self.findings[name] = dataclasses.replace(one, value=getattr(certain, name))
        return certain


def joined(base: Dialect, values: dict[str, Any]) -> Dialect:
    """`base` with other values; those that contradict the rest are left as they are."""
    try:
        return base.with_(**values)
    except ValueError:
        for name, value in values.items():
            try:
                base = base.with_(**{name: value})
            except ValueError:
                continue
        return base


def infer(view: View, declared: Dialect | None) -> Inference:
    """Ask for one group of fields after the other."""
    base = declared or PRESETS.default
    target = view.implementation
    inference = Inference(view.frame, view, {}, [], Predictions(target.mixing, products=target.products))
    packing = _packing(view)
    view.frame = inference.frame = packing[0]
    inference.packing = packing[1]
    rounding = Rounding.of(view.frame.dtype, target.products)
    _projection(inference, rounding, base)
    _coefficients(inference, rounding, base)
    if view.frame.dtype == torch.float64:  # what no dialect gives in float64, one may give in float32
        if inference.findings["residual"].status == "contradictory":
            _projection(inference, SINGLE, base)
        if inference.findings["pre"].status == inference.findings["post"].status == "contradictory":
            _coefficients(inference, SINGLE, base)
    inference.begin = len(view.log)
    inference.answers = [answer(probe, view) for probe in forward(view.frame, seed=1)]
    _structure(inference, base)
    return inference


def _packing(view: View) -> tuple[Frame, str]:
    """The frame in which static parameters are accepted: the declared one if it is, with another n if need be."""
    frame = view.frame
    if "mappings" not in frame.own and "block" not in frame.offered:
        return frame, "" if "project" in frame.own else "no method takes parameters"
    tries: dict[tuple[int, int], Dialect] = {}
    for one in (frame.packing, *PRESETS.values()):
        tries.setdefault(frame.with_(packing=one).phi_shape(3, 4), one)
    reason = ""
    # at n = 1 all packings look alike
    for n in [n for n in frame.streams if n > 1] or [1]:
        for packing in tries.values():
            streams = (n, *(other for other in frame.streams if other != n))
            tried = frame.with_(packing=packing, streams=streams)
            if tried.permutations and n > 4:
                continue
            view.frame = tried
            try:
                Reader(view).gates(torch.ones(1, dtype=torch.float64), view.static(n, n + 1))
            except TargetFault as fault:  # whatever a target does with parameters that it does not take
                reason = reason or str(fault)
                continue
            return tried, ""
    view.frame = frame
    return frame, reason


def _settle(inference: Inference, names: Sequence[str], found: list[Candidate] | None, base: Dialect, why: str) -> None:
    """Findings for a group of fields from the candidates that reproduce what was seen; None: nothing was seen."""
    if not found:
        status: Status = "undetermined" if found is None else "contradictory"
        for name in names:
            inference.findings[name] = Finding(getattr(base, name), status, why)
        return

    def distance(one: Candidate) -> tuple[int, int, float]:
        far = [name for name in one.fields if not _same(one, name, getattr(base, name))]
        plain = [name for name in one.fields if one.fields[name] != getattr(PRESETS.default, name)]
        return len(far), len(plain), one.ratio

    best = min(found, key=distance)
    for name in names:
        if name not in best.fields:
            idle = f"nothing depends on it where residual is {best.fields.get('residual', base.residual)!r}"
            inference.findings[name] = Finding(getattr(base, name), "undetermined", idle)
            continue
        value, estimate = best.fields[name], best.estimates.get(name)
        # what was declared is as good as any other number within the bar
        if estimate is not None and estimate.admits(getattr(base, name)):
            value = getattr(base, name)
        others = sorted({repr(one.fields[name]) for one in found if name in one.fields and not _same(one, name, value)})
        if others:
            inference.findings[name] = Finding(value, "undetermined", f"{' or '.join(others)} does as well", estimate)
        elif blunt := [e for one in found if (e := one.estimates.get(name)) is not None and not _sharp(e)]:
            why = f"anything in {blunt[0]} does as well"
            inference.findings[name] = Finding(value, "undetermined", why, estimate)
        else:
            inference.findings[name] = Finding(value, "certain", "", estimate)


def _same(one: Candidate, name: str, value: Any) -> bool:
    estimate = one.estimates.get(name)
    return one.fields[name] == value or (estimate is not None and estimate.admits(value))


def _sharp(estimate: Estimate) -> bool:
    if estimate.low <= 0:
        return estimate.high < 1e-6
    return estimate.high - estimate.low <= estimate.value


def _projection(inference: Inference, rounding: Rounding, base: Dialect) -> None:
    frame, view = inference.frame, inference.view
    reader = Reader(view)
    names = PROJECTION
    if frame.permutations:
        _permutations(inference, reader, base)
        return
    if frame.n == 1:
        _settle(inference, names, None, base, "n = 1 cannot show it")
        return
    direct = "project" in frame.own or ("mappings" in frame.own and "res" in frame.emits)
    if not direct and not reader.blocks:
        _settle(inference, names, None, base, "`project`, `mappings` or `block` would have to be offered")
        return

    def read(logits: Tensor) -> tuple[Tensor, Tensor]:
        if direct:
            return wide(view.project(logits)), torch.zeros(logits.shape, dtype=torch.float64)
        found = reader.operators(logits)
        return found.value, found.error

    # without a projection by itself every matrix costs a call
    most = frame.max_tokens if "project" in frame.own else 24
    try:
        asked: dict[bytes, tuple[Tensor, Tensor]] = {}

        def once(logits: Tensor) -> tuple[Tensor, Tensor]:
            key = logits.contiguous().numpy().tobytes()
            if key not in asked:
                asked[key] = read(logits)
            return asked[key]

        def turned(logits: Tensor) -> tuple[Tensor, Tensor]:
            value, error = once(logits)
            return value.mT, error.mT

        names = PROJECTION if direct else (*PROJECTION, "transposed")
        found: list[Candidate] = []
        for fits in (partial(fit, declared=base), fit_tempered):  # a temperature where nothing does without
            given = (frame.n, rounding, frame.depth, frame.parameter_dtype, most)
            found = fits(once, *given)
            if not direct:
                found = [_with(one, transposed=False) for one in found]
                found += [_with(one, transposed=True) for one in fits(turned, *given)]
            if found:
                break
        if found and "temperature" in found[0].estimates:
            inference.temperature = min(found, key=lambda one: one.ratio).estimates["temperature"]
    except TargetFault as fault:
        _settle(inference, names, None, base, f"the projection raised {fault}")
        return
    _settle(inference, names, found, base, "no projection of any dialect reproduces h_res")
    if found and found[0].fields["residual"] == "sinkhorn":
        _explain_axes(inference, found)


def _with(one: Candidate, **fields: Any) -> Candidate:
    return dataclasses.replace(one, fields=one.fields | fields)


def _explain_axes(inference: Inference, found: list[Candidate]) -> None:
    """Why start and its axis stay open, in words: without an eps a softmax is the first half-step."""
    findings = inference.findings
    if all(one.fields["start"] == "exp" for one in found):
        why = "an exp start has no axis"
        findings["start_axis"] = Finding(findings["start_axis"].value, "undetermined", why)
    elif findings["start"].status == "undetermined":
        why = "exp, and a softmax over the first axis, compute the same: every eps that could tell them apart is 0"
        findings["start"] = dataclasses.replace(findings["start"], why=why)
    if findings["denominator_eps"].value == 0 and findings["denominator"].status == "undetermined":
        findings["denominator"] = dataclasses.replace(findings["denominator"], why="there is no eps to add or clamp by")


def _permutations(inference: Inference, reader: Reader, base: Dialect) -> None:
    """The mixture of permutations has no field but its name; whether it is one is for the exam to say."""
    seen = "project" in inference.frame.own or "mappings" in inference.frame.own or reader.blocks
    inference.findings["residual"] = Finding("permutations", "certain" if seen else "undetermined")
    for name in PROJECTION[1:]:
        why = "nothing depends on it where residual is 'permutations'"
        inference.findings[name] = Finding(getattr(base, name), "undetermined", why)


def _coefficients(inference: Inference, rounding: Rounding, base: Dialect) -> None:
    reader = Reader(inference.view)
    frame = inference.frame
    groups = {"pre": ("pre", "pre_eps"), "post": ("post", "post_scale")}
    norm = ("dynamic", "rms_eps", "rms_eps_inside")
    why = "`block`, or `mappings` that emit it, would have to be offered"
    if ("mappings" not in frame.own and not reader.blocks) or inference.packing:
        for names in (*groups.values(), norm):
            _settle(inference, names, None, base, inference.packing or why)
        return
    try:
        gates = Gates(reader, rounding)
        formulas = {name: gates.formulas(name) for name in groups}
    except TargetFault as fault:
        for names in (*groups.values(), norm):
            _settle(inference, names, None, base, f"static parameters raised {fault}")
        return
    for name, names in groups.items():
        wrong = f"neither sigmoid, softmax nor linear reproduces h_{name} of static logits"
        _settle(inference, names, formulas[name], base, why if formulas[name] is None else wrong)
    windows = [name for name in ("post", "pre") if formulas[name]]
    found: list[Candidate] | None = [] if windows else None
    for window in windows:
        try:
            found = Norm(reader, rounding, inference.dialect(base), window).candidates()
        except TargetFault:  # the other window may do; if not, the fields stay open
            continue
        if found:
            break
    wrong = "the logits of a fading state follow neither eps inside nor outside of the root"
    if windows and not found and all(formulas[name][0].fields[name] == "softmax" for name in windows):  # pyright: ignore[reportOptionalSubscript]
        found, wrong = None, "a softmax shows the differences of its logits alone"
    _settle(inference, norm, found, base, wrong if windows else "neither h_pre nor h_post can be read")
    if found and inference.findings["rms_eps"].value == 0:
        why = "without an eps there is no place for it"
        inference.findings["rms_eps_inside"] = Finding(base.rms_eps_inside, "undetermined", why)


def _structure(inference: Inference, base: Dialect) -> None:
    """The fields with few values, each tried on the answers that depend on it."""
    frame, n = inference.frame, inference.frame.n
    findings = inference.findings
    packed = "mappings" in frame.own or "block" in frame.offered
    why = inference.packing or ("" if packed else "`mappings` or `block` would have to be offered")
    findings["shared_projection"] = Finding(frame.shared, "undetermined" if why else "certain", why)
    _try(inference, base, "norm_over", ("mappings", "block"), gates=True)
    if "transposed" not in findings:
        _try(inference, base, "transposed", ("post", "block"))
    expanded = [one for one in inference.answers if one.probe.stage == "expand"]
    if not expanded:
        findings["expand"] = Finding("copies", "undetermined", "`expand` would have to be offered")
    elif expanded[0].error:
        why = f"expand {expanded[0].told}"
        findings["expand"] = Finding("copies", "undetermined", why)
    elif inference.predictions.ratio(expanded[0], base) <= 1:
        findings["expand"] = Finding("copies", "certain")
    else:
        findings["expand"] = Finding("copies", "contradictory", "the streams do not begin as copies")
    _try(inference, base, "collapse", ("collapse",))
    if n == 1:
        for name in ("transposed", "norm_over", "collapse"):
            findings[name] = Finding(getattr(base, name), "undetermined", "n = 1 cannot show it")
    findings |= {name: Finding(getattr(base, name), "undetermined") for name in FIELDS if name not in findings}


def _try(
    inference: Inference,
    base: Dialect,
    name: str,
    stages: tuple[str, ...],
    gates: bool = False,
) -> None:
    """Which values of a field reproduce the answers of the first of these stages that was examined."""
    dialect, values = inference.dialect(base), CHOICES[name]
    asked = next(
        (found for stage in stages if (found := [a for a in inference.answers if a.probe.stage == stage])), None
    )
    if asked is None:
        needed = " or ".join(f"`{stage}`" for stage in stages)
        inference.findings[name] = Finding(getattr(base, name), "undetermined", f"{needed} would have to be offered")
        return
    if all(one.error for one in asked):
        why = f"{asked[0].probe.stage} {asked[0].told}"
        inference.findings[name] = Finding(getattr(base, name), "undetermined", why)
        return

    def worst(value: Any) -> float:
        try:
            tried = dialect.with_(**{name: value})
        except ValueError:
            return math.inf
        return max(_relevant(inference.predictions.ratios(one, tried), one, gates) for one in asked)

    fitting = [value for value in values if worst(value) <= 1]
    preferred = getattr(base, name)
    if not fitting:
        why = f"neither {' nor '.join(map(repr, values))} reproduces {asked[0].probe.stage}"
        inference.findings[name] = Finding(preferred, "contradictory", why)
        return
    value = preferred if preferred in fitting else fitting[0]
    others = [repr(other) for other in fitting if other != value]
    why = f"{' or '.join(others)} does as well" if others else ""
    inference.findings[name] = Finding(value, "undetermined" if others else "certain", why)


def _relevant(ratios: list[float], given: Answer, gates: bool) -> float:
    """The ratios that the field decides: for the span of the norm the gates alone, h_res has troubles of its own."""
    if not gates:
        return max(ratios)
    return min(ratios[: 2 if given.probe.stage == "mappings" and len(ratios) == 3 else 1])
