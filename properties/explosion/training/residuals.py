"""The residuals that a decoder can have, by name: plain, hyper-connections, and constrained ones in every dialect."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mhc_ref import PRESETS, Dialect

FORMS = "plain, hc, hc-static, mhc[:PRESET], mhc-lite or the name of a preset in small letters"
_SHORT = {"hc": "HYPER_CONNECTIONS", "hc-static": "HYPER_CONNECTIONS", "mhc": "PAPER"}


@dataclass(frozen=True)
class Residual:
    """How a sub-layer's output joins the state.

    Attributes:
        name: as it is asked for.
        dialect: the hyper-connection; None for x + F(x).
        static: its mappings do not depend on the state: phi and alpha are 0 and stay so.
    """

    name: str
    dialect: Dialect | None
    static: bool = False

    def iterating(self, iterations: int) -> Residual:
        """The same with other iterations of its projection."""
        if self.dialect is None:
            raise ValueError(f"iterations is given, and has no effect: {self.name} has no projection")
        return replace(self, dialect=self.dialect.with_(iterations=iterations))


def residual_of(name: str) -> Residual:
    """The residual of that name; ValueError where there is none."""
    kind, _, preset = name.partition(":")
    if name == "plain":
        return Residual(name, None)
    wanted = preset if preset and kind == "mhc" else "" if preset else _SHORT.get(kind, kind.upper().replace("-", "_"))
    if wanted not in PRESETS or name == name.upper():
        raise ValueError(f"the residual is {name[:80]!r}; expected {FORMS}, with one of {', '.join(PRESETS)}")
    return Residual(name, PRESETS[wanted], kind == "hc-static")
