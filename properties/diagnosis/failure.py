"""The diagnosis that goes with a failed law."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from mhc_ref import Dialect
from properties.catalogue.deviations import Deviant
from properties.core.case import Case
from properties.core.family import mix_of
from properties.core.implementation import Implementation
from properties.core.law import Law
from properties.core.trial import LawBroken, NoRoom
from properties.diagnosis.composing import compose
from properties.diagnosis.diagnose import NoVerdict, identify
from properties.diagnosis.findings import joined
from properties.diagnosis.identification import Identification, redialects
from properties.engine.runner import Subject
from properties.guards.faults import HarnessError, described, placed
from properties.guards.interruption import Interrupted, settled, watched
from properties.guards.surroundings import told, usual


@dataclass(frozen=True)
class _Known:
    """What was found out of an implementation, in its finest dtype or in the one named, on a type of device."""

    implementation: Implementation
    place: tuple[torch.dtype | None, str]
    told: Identification | Exception


_KNOWN: list[_Known] = []
"""One implementation breaks many laws for one reason: it is asked once."""


@told()
@usual()
def explain_failure(law: Law, subject: Subject, case: Case, *, seconds: float = 4.0) -> str:
    """Why a subject breaks a law, in a few lines for its message, or why that could not be found out.

    The dialect fields are searched, then the named slips, one and then two at a time. What is named reproduces the
    answers of the target to fresh questions within the bound, and it is said whether it breaks this law at this input.

    Raises:
        KeyboardInterrupt, or what else the handler of a signal raises that asks the run to end.
    """
    with watched():
        try:
            return _explained(law, subject, case, seconds)
        except NoVerdict as error:
            asked = mix_of(subject.implementation.dialect).known
            return f"diagnosis: none{', as the target did not answer while it was asked' * asked}: {error}"
        except Interrupted as stop:
            if stop.final:
                raise
            settled()
            return f"diagnosis: none, as it was stopped from outside ({stop.signal}: {described(stop.error)})"
        except Exception as error:  # ours; a diagnosis must never replace the failure that it is about
            return (
                f"diagnosis: none, as it failed in our own code: {described(error)}{placed(error)}. That says nothing "
                "of the implementation; please report it"
            )


def _explained(law: Law, subject: Subject, case: Case, seconds: float) -> str:
    found = _identified(subject, seconds)
    if not found.explained:
        return _unexplained(found)
    if not found.differs and not found.deviation:
        return (
            "diagnosis: at other inputs it behaves as declared "
            f"(worst ratio {found.residual_ratio:.2g} in {found.calls} calls): it is this input that matters, or "
            "how the call is made"
        )
    cause = _cause(found)
    lines = [f"diagnosis: explained by {cause} (ratio {found.residual_ratio:.2g} on fresh inputs){_next_best(found)}"]
    if found.ties:
        lines += [f"  as well explained by {one}" for one in found.ties]
    lines.append(f"  {_at_this_input(law, subject, case, found)}")
    return "\n".join(lines)


def _identified(subject: Subject, seconds: float) -> Identification:
    # the finest dtype tells most; the coarser ones, but for float16, are part of its exam
    dtype = torch.float16 if subject.dtype == torch.float16 else None
    implementation, place = subject.implementation, (dtype, subject.device.type)
    # by identity: what the classes of targets make of == and hash is not asked
    known = next((one for one in _KNOWN if one.implementation is implementation and one.place == place), None)
    if known is None:
        try:
            told = identify(implementation, dtype=dtype, device=subject.device.type, seconds=seconds, hidden=0)
        except Exception as error:  # a target that hung once is not asked again, and what failed once will fail again
            told = error
        known = _Known(implementation, place, told)
        _KNOWN.append(known)
    if isinstance(known.told, Exception):
        raise known.told
    return known.told


def _cause(found: Identification) -> str:
    fields = [f"{name} = {value!r} (declared {there!r})" for name, (there, value) in found.differs.items()]
    measured = [str(one) for one in found.measured]
    return ", ".join([*fields, *(f"deviation {name}" for name in found.deviations), *measured])


def _next_best(found: Identification) -> str:
    return f"; {found.next_best()}" if found.next_best() else ""


def _unexplained(found: Identification) -> str:
    stage = found.stage or "none that can be looked at by itself"
    searched = "one or two at a time" if found.exhausted else "as far as there was time to try them"
    return (
        f"diagnosis: no dialect and none of the named slips, {searched}, reproduces its answers"
        f"{_next_best(found)}\n  first stage that leaves the bound: {stage}"
    )


def _at_this_input(law: Law, subject: Subject, case: Case, found: Identification) -> str:
    """Whether the explanation breaks the law at the very input at which the target did."""
    made = reproduction(found, subject.implementation.dialect)
    if made is None:
        return "it could not be tried at this input"
    try:
        law.judge(replace(subject, implementation=made).trial(), case)
    except LawBroken as broken:
        size = f" with ratio {broken.ratio:.3g}" if math.isfinite(broken.ratio) else ""
        return f"and at this input it breaks this law{size}"
    except (HarnessError, NoRoom):  # what the law cannot judge here is no argument for or against
        return "it could not be tried at this input"
    return "at this input alone it would not break this law"


def reproduction(found: Identification, declared: Dialect) -> Deviant | None:
    """An implementation with what was found, declaring what the target declares; None where there is none."""
    computed = joined(declared, {name: value for name, (_, value) in found.differs.items()})
    slips = tuple(name for name in found.deviations if name not in redialects(declared, found.differs))
    try:
        given = slips or found.measured
        made = compose(slips, computed, *found.measured) if given else Deviant(computed, "explanation")
    except ValueError:  # found on the grounds of another dialect than the declared one, with which it makes none
        return None
    if made is not None:
        made.dialect = declared  # what it computes stays what was found
    return made
