"""From a target's behaviour to a dialect: every field certain, undetermined or contradictory."""

from __future__ import annotations

from collections.abc import Set

import torch

from mhc_ref import PRESETS, Dialect, registry
from mhc_ref.packing import params_shapes
from properties.core.estimate import Candidate
from properties.core.family import dynamic_of, gate_of
from properties.core.reads import read_of
from properties.core.rounding import Rounding
from properties.diagnosis.answers import SINGLE, Predictions, answer
from properties.diagnosis.circumstances import fading
from properties.diagnosis.coefficients import Gates, Norm
from properties.diagnosis.exam import forward
from properties.diagnosis.findings import Finding, Inference, choices, joined, settle, value_of
from properties.diagnosis.matrices import projection
from properties.diagnosis.reading import Reader
from properties.diagnosis.reads import reading
from properties.diagnosis.structure import structure
from properties.diagnosis.view import Frame, View
from properties.guards.faults import TargetFault

EVERYTHING = frozenset(("projection", "coefficients", "structure"))
"""The groups of fields, by what shows them."""

MOST_LOGITS = 64
"""Of a token: those of 8 streams; n! of them are soon more than can be asked for one by one."""


def infer(view: View, declared: Dialect | None) -> Inference:
    """The exam, and one group of fields after the other."""
    found = examine(view, declared)
    measure(found, declared or PRESETS.default, EVERYTHING)
    return found


def examine(view: View, declared: Dialect | None) -> Inference:
    """The questions about values, put in the packing that the target takes; no field yet."""
    target = view.implementation
    stored = target.parameters, target.short_stages
    inference = Inference(view.frame, view, {}, [], Predictions(target.mixing, None, target.products, *stored))
    view.frame, inference.packing = _packing(view)
    inference.frame = view.frame
    inference.begin = len(view.log)
    inference.answers = [answer(probe, view) for probe in forward(view.frame, seed=1)]
    return inference


def measure(inference: Inference, base: Dialect, groups: Set[str]) -> None:
    """Ask for the fields of these groups of `EVERYTHING`; the others are taken to be as declared."""
    view = inference.view
    rounding = Rounding.of(view.frame.dtype, view.implementation.products)
    double = view.frame.dtype == torch.float64  # what no dialect gives in float64, one may give in float32
    if "projection" in groups:
        projection(view, inference.findings, rounding, base)
        if double and inference.findings["residual"].status == "contradictory":
            projection(view, inference.findings, SINGLE, base)
    if "coefficients" in groups:
        _coefficients(inference, rounding, base)
        if double and inference.findings["pre"].status == inference.findings["post"].status == "contradictory":
            _coefficients(inference, SINGLE, base)
    if "structure" in groups:
        structure(inference, base)
    for name, value in base.fields().items():
        inference.findings.setdefault(name, Finding(value, "undetermined", "what depends on it is as declared"))


def _packing(view: View) -> tuple[Frame, str]:
    """The frame in which static parameters are accepted: the declared one if it is, with another n if need be."""
    frame = view.frame
    if "mappings" not in frame.own and "block" not in frame.offered:
        return frame, "" if "project" in frame.own else "no method takes parameters"
    tries: dict[tuple[int, int] | None, Dialect] = {}
    for one in (frame.packing, *PRESETS.values()):
        tries.setdefault(_phi_shape(one, frame.n), one)
    reason = ""
    # at n = 1 all packings look alike
    for n in [n for n in frame.streams if n > 1] or [1]:
        for packing in tries.values():
            streams = (n, *(other for other in frame.streams if other != n))
            tried = frame.with_(packing=packing, streams=streams)
            if _phi_shape(packing, n) is None or tried.residual_size(n) > MOST_LOGITS:
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


def _phi_shape(packing: Dialect, n: int) -> tuple[int, int] | None:
    """Of a packing for n streams of some number of channels; None where its mix is not for so many."""
    try:
        return params_shapes(n, 4, packing).phi
    except ValueError:
        return None


def _coefficients(inference: Inference, rounding: Rounding, base: Dialect) -> None:
    reader = Reader(inference.view)
    frame = inference.frame
    groups = {"pre": ("pre", "pre_eps"), "post": ("post", "post_scale", "post_eps")}
    norm = ("dynamic", "rms_eps", "rms_eps_inside", "rms_eps_by", "rms_eps_from")
    why = "`block`, or `mappings` that emit it, would have to be offered"
    if not read_of(frame.packing).plain:
        for names in (*groups.values(), norm):
            settle(
                inference.findings,
                names,
                None,
                base,
                f"{read_of(frame.packing).words}: there are no gates to read it off",
            )
        if not inference.packing:
            reading(inference, base)
        return
    if ("mappings" not in frame.own and not reader.blocks) or inference.packing:
        for names in (*groups.values(), norm):
            settle(inference.findings, names, None, base, inference.packing or why)
        return
    try:
        gates = Gates(reader, rounding)
        formulas = {name: gates.formulas(name, base) for name in groups}
    except TargetFault as fault:
        for names in (*groups.values(), norm):
            settle(inference.findings, names, None, base, f"static parameters raised {fault}")
        return
    for name, names in groups.items():
        *most, last = registry.names("gate")
        wrong = f"neither {', '.join(most)} nor {last} reproduces h_{name} of static logits"
        settle(inference.findings, names, formulas[name], base, why if formulas[name] is None else wrong)
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
    if windows and not found and all(gate_of(one[0].fields[name]).relative for name, one in formulas.items() if one):
        found, wrong = None, "a softmax shows the differences of its logits alone"
    settle(inference.findings, norm, found, base, wrong if windows else "neither h_pre nor h_post can be read")
    if found and inference.findings["dynamic"].certain and dynamic_of(inference.dialect(base)).constant:
        why = "the norm is of a dynamic part that is not there"
        for name in norm[1:]:
            inference.findings[name] = Finding(value_of(base, name), "undetermined", why)
    elif found and inference.findings["rms_eps"].value == 0:
        why = "without an eps there is no place for it"
        for name in norm[2:4]:
            inference.findings[name] = Finding(value_of(base, name), "undetermined", why)
    elif found and inference.findings["rms_eps_by"].value == "clamp":
        why = "a norm that is clamped has no place for it"
        inference.findings["rms_eps_inside"] = Finding(base.rms_eps_inside, "undetermined", why)
    if found and inference.findings["rms_eps"].status != "contradictory":
        _eps_by_dtype(inference, base)


def _eps_by_dtype(inference: Inference, base: Dialect) -> None:
    """Whether the eps of the norm, which is measured by now in the finest dtype, is that of a dtype.

    It is not where another number was measured there. Where it may be, coarser states as small as the eps of their
    dtype are asked for, which no two of a number, the eps of the computation and that of the state treat alike.
    """
    frame, measured = inference.frame, inference.findings["rms_eps"]
    here = joined(base, {"rms_eps_from": "compute"}).at(frame.dtype).rms_eps
    if measured.estimate is None or not measured.estimate.admits(here):
        if inference.findings["dynamic"].certain and not dynamic_of(inference.dialect(base)).constant:
            inference.findings["rms_eps_from"] = Finding("value", "certain")
        return
    ways = choices(base, "rms_eps_from")
    plain = joined(inference.dialect(base), {"rms_eps": measured.value or here})
    told = {way: joined(plain, {} if way == "value" else {"rms_eps_from": way}) for way in ways}
    answers = [answer(probe, inference.view) for probe in fading(frame, seed=5)]
    fit = [way for way in ways if all(inference.predictions.ratio(one, told[way]) <= 1 for one in answers)]
    way = base.rms_eps_from if base.rms_eps_from in fit else next(iter(fit), "")
    if not way:
        why = "states as small as the eps of their dtype follow neither one number nor the eps of a dtype"
        inference.findings["rms_eps_from"] = Finding(base.rms_eps_from, "contradictory", why)
        return
    others = [repr(one) for one in fit if one != way]
    why = f"{' or '.join(others)} does as well" if others else ""
    inference.findings["rms_eps_from"] = Finding(way, "undetermined" if others else "certain", why)
    if way != "value":
        inference.findings["rms_eps"] = Finding(0.0, measured.status, measured.why)
