"""Whether a law applies to a subject, and which one method that it does not offer would make the law apply."""

from __future__ import annotations

from typing import Any, cast

from properties.core.implementation import METHODS, Absent, Implementation, dtype_names, offers
from properties.core.law import Law
from properties.engine.subject import Profile, Subject


def inapplicable(law: Law, subject: Subject, profile: Profile, offering: Implementation | None = None) -> str | None:
    """Why a law is not tried on a subject; None where it is. `offering`: asked in the place of its implementation."""
    reason = law.inapplicable(offering or subject.implementation, subject.dtype, subject.device)
    if reason is not None or subject.device.type != "cpu" or profile.thorough:
        return reason
    if law.schedule.thorough:
        return f"{law.schedule.thorough}: on a CPU with --hypothesis-profile thorough"
    if law.schedule.once and profile.derandomise:
        return f"{law.schedule.once}: on a CPU not in the profile ci"
    if law.schedule.once and subject.dtype_name != (once := _once(subject.implementation)):
        return f"{law.schedule.once}: on a CPU in {once} alone"
    return None


def _once(implementation: Implementation) -> str:
    """The dtype in which something is asked once: float32, or the first that is declared."""
    declared = dtype_names(implementation)
    return "float32" if "float32" in declared else declared[0]


def unlocked_by(law: Law, subject: Subject, profile: Profile) -> tuple[str, ...]:
    """The methods that the implementation does not offer, each of which alone would make the law apply."""
    offered = offers(subject.implementation)
    missing = [method for method in METHODS if method not in offered]
    with_one = {method: cast(Implementation, _WithOneMore(subject.implementation, method)) for method in missing}
    return tuple(method for method, one in with_one.items() if inapplicable(law, subject, profile, one) is None)


class _WithOneMore:
    """An implementation as it declares itself, and one method more: premises ask what is there, and call nothing."""

    def __init__(self, implementation: Implementation, method: str) -> None:
        self._implementation = implementation
        vars(self)[method] = _absent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._implementation, name)


def _absent(*_: Any) -> Any:
    raise Absent("a method that is not there was called")
