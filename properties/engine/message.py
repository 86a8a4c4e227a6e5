"""What is said of a failure, and the file of it, for somebody who has never read this code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from hypothesis.errors import FailedHealthCheck

from properties.core.case import Case, describe
from properties.core.family import declared_bounds
from properties.core.implementation import Implementation, Products
from properties.core.law import Law, all_laws
from properties.core.rounding import PRODUCTS
from properties.core.titles import title
from properties.core.trial import LawBroken, TargetRaised
from properties.engine.counterexample import Counterexample, versions
from properties.engine.subject import Subject
from properties.engine.trying import only_so
from properties.guards.surroundings import usual
from properties.guards.traces import excerpt
from properties.targets.trust import replay_line


def wasteful(law: Law, subject: Subject, fault: FailedHealthCheck) -> str:
    """What is said of a strategy that throws away what it draws."""
    return (
        f"{law.id} on {subject.id}: its strategy (`{law.module}`, `draw`) fails a health check of Hypothesis, so that "
        f"less may be tried than the report would say: {str(fault).partition(chr(10))[0]}"
    )


def counterexample(law: Law, subject: Subject, case: Case, broken: LawBroken) -> Counterexample:
    """The file of a failure."""
    return Counterexample(
        law=law.id,
        target=subject.target,
        implementation=subject.implementation.name,
        dialect=subject.implementation.dialect,
        dtype=subject.dtype_name,
        device=subject.device.type,
        case=case,
        failure={
            "what": broken.what,
            "where": broken.where,
            "got": broken.got,
            "exact": broken.exact,
            "error": _finite(broken.error),
            "bound": _finite(broken.bound),
            "ratio": _finite(broken.ratio),
            "gap": broken.gap,
            "against": broken.against,
        },
        dialect_option=subject.dialect_option,
        versions=versions(),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def explain(
    law: Law,
    subject: Subject,
    case: Case,
    broken: LawBroken,
    path: Path,
    lost: str = "",
    *,
    also: Sequence[str] = (),
    quick: bool = False,
) -> str:
    """The message of a failure, for somebody who has never read this code.

    Arguments:
        lost: why there is no file at `path`.
        also: what else there is to say of how it was found.
        quick: call nothing for it.
    """
    numbers: list[tuple[str, str]] = []
    if isinstance(broken, TargetRaised) and (code := excerpt(broken.raised)):
        numbers.append(("code", code.replace("\n", "\n" + 9 * " ")))
    if broken.got:
        numbers.append(("got", broken.got))
    if broken.exact:
        numbers.append((broken.against, broken.exact + _BESIDE.get(broken.against, "")))
    if math.isfinite(broken.bound):
        numbers += _measured(broken, declared_bounds(subject.implementation.dialect))
    if "differentiable" in law.declared and broken.got == "0":
        numbers.append(("hint", _NO_GRAPH))
    elif not quick and math.isfinite(broken.ratio) and (products := _read_as_tf32(law, subject, case)):
        numbers.append(("hint", _TF32.format(products)))
    promises = [one for one in law.declared if one != "differentiable" and getattr(Implementation, one) is True]
    numbers += [("hint", _BY_DEFAULT.format(promise)) for promise in promises]
    if not quick and (ways := only_so(law, subject, case, broken)):
        numbers.append(("hint", _ONLY_SO.format(" or ".join(ways))))
    numbers += [("also", text) for text in also]
    inputs = "\n".join(f"    {name} = {describe(value)}" for name, value in case.items())
    body = "\n".join(f"  {name:<6} {text}" for name, text in numbers)
    return (
        f"{subject.implementation.name} breaks {law.id} in {subject.dtype_name} on {subject.device.type}\n"
        f"  law    {law.statement}\n"
        f"  found  {broken.what}{' at ' + broken.where if broken.where else ''}\n"
        f"{body}{chr(10) if body else ''}"
        f"  smallest input found:\n{inputs}\n"
        f"  dialect: {_dialect_words(subject)}\n"
        f"  {replaying(law, subject, path, lost)}"
    )


def replaying(law: Law, subject: Subject, path: Path, lost: str = "") -> str:
    """How to try a failure again; `lost`: why there is no file at `path`."""
    apart = not subject.implementation.in_process
    if law.id not in all_laws():
        return f"no replay: {law.id} is no law of this package; run the test again that states it"
    return f"no replay: {lost}" if lost else f"replay: {replay_line(path, subject.target, apart=apart)}"


_BESIDE = {"other": "  (from further outputs of the implementation)", "limit": "  (the most that it may be)"}


def _measured(broken: LawBroken, declared: Sequence[str] = ()) -> list[tuple[str, str]]:
    """error, gap, bound and ratio, each with what it is."""
    numbers: list[tuple[str, str]] = []
    if not math.isfinite(broken.error):
        numbers.append(("error", "none: one of the two is no finite number, where the bound says that both are"))
    else:
        numbers.append(("error", f"{broken.error:.3g}"))
    near = broken.gap > 1e-3 * broken.bound  # otherwise it is nothing beside the bound
    if near:
        numbers.append(("gap", f"{broken.gap:.3g}  (how far exact arithmetic itself stays from that limit here)"))
    size = abs(float(broken.exact)) if broken.exact else 0.0
    far = math.isfinite(size) and size > 0 and not 1e-3 < size < 1e3  # a bound is large or small as its number is
    share = f", {broken.bound / size:.2g} of that number" if far else ""
    numbers.append(("bound", f"{broken.bound:.3g}  (the most that rounding can explain here{share})"))
    if declared:
        numbers.append(("", f"(the part of {', '.join(declared)} in it is declared by the family, not derived)"))
    if math.isfinite(broken.ratio):
        counted = "(error - gap) / bound" if near else "error / bound"
        numbers.append(("ratio", f"{broken.ratio:.3g}  ({counted}; above 1 is a failure)"))
    return numbers


_NO_GRAPH = (
    "0 is the gradient of what has no graph (no_grad, detach, .data); what is forward only declares "
    "`differentiable = False`"
)


_BY_DEFAULT = (
    "this law is asked since `{0}` is True, as it is unless something else is said; what is not meant for it declares "
    "`{0} = False`"
)


_TF32 = (
    "for this input products of TensorFloat-32 would explain it (tl.dot of float32 operands, cuBLAS with TF32 on); who "
    "means them declares `products = {!r}`"
)


_ONLY_SO = (
    "it fails only {}: the same call is right as torch is by default, of inputs that ask for no gradient. Look for "
    "what hangs on torch.is_grad_enabled(), on an inference mode or on requires_grad"
)


@usual()
def _read_as_tf32(law: Law, subject: Subject, case: Case) -> Products | None:
    """The declaration of coarser products than the declared ones under which the law would hold, where they are likely:
    on another device or in another process, with float32 parameters."""
    implementation = subject.implementation
    elsewhere = subject.device.type != "cpu" or not implementation.in_process
    if not elsewhere or subject.dtype == torch.float64:
        return None
    ladder: tuple[Products, ...] = ("compute", "tf32", "tf32-truncated")
    for products in ladder[ladder.index(implementation.products) + 1 :]:
        trial = subject.trial(law, case)
        # The judge's alone: the call is the one that failed.
        trial.rounding = replace(trial.rounding, product=PRODUCTS[products])
        try:
            law.judge(trial, case)
        except Exception:  # broken here too; and nothing that goes wrong may take the place of the failure explained
            continue
        return products
    return None


def _dialect_words(subject: Subject) -> str:
    from mhc_ref import PRESETS, Dialect

    dialect = subject.implementation.dialect
    alike = {name: preset for name, preset in PRESETS.items() if preset.residual == dialect.residual}
    near = alike or {"the defaults": Dialect()}  # what is nobody's preset is not called like one
    name, difference = min(
        ((name, dialect.difference(preset)) for name, preset in near.items()), key=lambda pair: len(pair[1])
    )
    return title(name, {field: mine for field, (mine, _) in difference.items()})
