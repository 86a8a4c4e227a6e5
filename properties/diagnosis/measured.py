"""A slip with the number that was measured: in words, and as an implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mhc_ref import Dialect
from properties.catalogue.deviations import Deviant
from properties.core.estimate import Estimate
from properties.diagnosis.amounts import FORMS, ROOTS, Amount, Numbered, Shape
from properties.diagnosis.numbers import (
    BlockBranchGain,
    BlockReadGain,
    BranchGain,
    CollapseGain,
    EpsOnSum,
    EveryBias,
    EveryGate,
    ExpandGain,
    MixedGain,
    PostBias,
    PostEps,
    PostGain,
    PostGate,
    PostLogits,
    PostOffset,
    PreBias,
    PreFactor,
    PreGain,
    PreGate,
    PreLogits,
    PreOffset,
    ReadGain,
    ResBias,
    ResEps,
    ResGain,
    ResGate,
    SquareClamped,
    Tempered,
    UnitScale,
)

KINDS: dict[str, tuple[type[Numbered], ...]] = {
    "temperature": (Tempered,),
    "scale of the normalised state": (UnitScale,),
    "gates": (EveryGate,),
    "gate of h_pre": (PreGate,),
    "gate of h_post": (PostGate,),
    "gate of h_res": (ResGate,),
    "bias": (EveryBias,),
    "bias of h_pre": (PreBias,),
    "bias of h_post": (PostBias,),
    "bias of h_res": (ResBias,),
    "scale of the logits of h_pre": (PreLogits,),
    "scale of the logits of h_post": (PostLogits,),
    "offset of the logits of h_pre": (PreOffset,),
    "offset of the logits of h_post": (PostOffset,),
    "eps on the sum of squares": (EpsOnSum,),
    "least mean square": (SquareClamped,),
    "pre gain": (PreGain,),
    "pre factor": (PreFactor,),
    "post gain": (PostGain,),
    "post eps": (PostEps,),
    "h_res gain": (ResGain,),
    "h_res offset": (ResEps,),
    "mixing gain": (MixedGain,),
    "branch gain": (BranchGain,),
    "read gain": (ReadGain,),
    "read gain of a block": (BlockReadGain,),
    "branch gain of a block": (BlockBranchGain,),
    "expand gain": (ExpandGain,),
    "collapse gain": (CollapseGain,),
}
"""name -> the implementations with that number."""


@dataclass(frozen=True)
class Measured:
    """One of `KINDS` with the number that was measured.

    Attributes:
        estimate: the number with its bar, at the first of the shapes.
        form: the formula of n and C that it is, one of `FORMS`; empty where it is the same for all that were asked.
        shapes: n and C of the questions that it was measured from.
    """

    name: str
    kind: type[Numbered]
    estimate: Estimate
    form: str = ""
    shapes: tuple[Shape, ...] = ()

    @property
    def value(self) -> float:
        """The shortest number within the bar; of a formula what it is at the first of the shapes."""
        if self.form and self.shapes:
            return Amount(1.0, self.form).of(*self.shapes[0])
        return self.estimate.shortest()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        bar = self.estimate
        return {
            "name": self.name,
            "kind": self.kind.__name__,
            "value": self.value,
            "bar": [bar.value, bar.low, bar.high],
            "form": self.form,
            "shapes": [list(one) for one in self.shapes],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measured:
        """Back from `to_json`."""
        kind = next(one for one in KINDS[data["name"]] if one.__name__ == data["kind"])
        shapes = tuple((n, channels) for n, channels in data["shapes"])
        return cls(data["name"], kind, Estimate(*data["bar"]), data["form"], shapes)

    def __str__(self) -> str:
        return f"{self.name} = {self.form or f'{self.value:.12g}'}"

    def words(self) -> str:
        """One clause, with the error bar, or with the formula and what it was measured as."""
        slip = self.kind.__doc__ or ""
        clause = slip.partition(".")[0]
        clause = clause[:1].lower() + clause[1:] if clause.startswith(("The", "What", "Every")) else clause
        return clause.replace("`size`", self._number()).rstrip(",").replace(",,", ",")

    def _number(self) -> str:
        if self.form:
            return f"{self.form}, which is {self.value:.12g} at {self._place([self.form])},"
        return f"{self.estimate}{self._as_formula()}"

    def _as_formula(self) -> str:
        """Formulas that are this number for everything that was asked: of one n alone there may be some."""
        root = next((name for name, value in ROOTS.items() if self.estimate.admits(value)), "")
        fitting = [
            form
            for form in forms(self.kind)
            if self.shapes and all(self.estimate.admits(Amount(1.0, form).of(*shape)) for shape in self.shapes)
        ]
        if root or not fitting or self.estimate.admits(0.0):
            return f" ({root})" * bool(root)
        return f" ({' or '.join(fitting[:3])} at {self._place(fitting[:3])})"

    def _place(self, formulas: Sequence[str]) -> str:
        n, channels = self.shapes[0]
        said = [f"n = {n}"] * any("n" in one for one in formulas)
        said += [f"C = {channels}"] * any("C" in one for one in formulas)
        return ", ".join(said)

    def make(self, dialect: Dialect, size: float | None = None) -> Deviant:
        """An implementation with it, that declares `dialect`; with another number in its place if one is given."""
        made = self.kind(dialect, self.kind.__name__)
        made.numbers = {self.kind: self.amount(size)}
        return made

    def edge(self) -> Measured:
        """The same with the number at the end of its bar; of a formula, which has none, the same."""
        far = self.estimate.high
        return self if self.form else replace(self, estimate=Estimate(far, far, far))

    def amount(self, size: float | None = None) -> Amount:
        """The number, or another in its place, which is a multiple of the formula where it is one."""
        if self.form:
            return Amount(1.0 if size is None else size / self.value, self.form)
        return Amount(self.value if size is None else size)


def forms(kind: type[Numbered]) -> Sequence[str]:
    """The formulas that a number of a kind may be."""
    return [form for form in FORMS if (kind.wide or "C" not in form) and ("log" in form) == (kind.search == "offsets")]
