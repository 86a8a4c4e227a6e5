"""Slips with a number in them that is measured: a temperature, a gain.

What a gain does to an answer is linear in it, as the exam's branches are: with the answers at gain 0 and 1, the gain is
the share of their difference that the target shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect
from properties.bounds import Approx
from properties.catalogue.deviations import Deviant
from properties.core.estimate import Estimate
from properties.core.trial import wide
from properties.diagnosis.answers import Answer, Predictions, answer
from properties.diagnosis.view import Frame, View


class Tempered(Deviant):
    """The residual logits are divided by `size`."""

    size = 1.0

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits / self.size)


class TemperedLogs(Tempered):
    """The same by logarithms, which do not underflow where the quotient is far below 0."""

    def project(self, logits: Tensor) -> Tensor:
        return mhc_ref.project(self.widened(logits) / self.size, self.computed)


class MixedGain(Deviant):
    """The mixed streams are multiplied by `size`."""

    size = 1.0

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return self.size * super().mixed(x, h_res)


class BranchGain(Deviant):
    """The branch output is multiplied by `size`."""

    size = 1.0

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return self.size * super().spread(y, h_post)


class PreGain(Deviant):
    """h_pre is multiplied by `size`."""

    size = 1.0

    def h_pre(self, logits: Tensor) -> Tensor:
        return self.size * super().h_pre(logits)


class ReadGain(Deviant):
    """The branch input is multiplied by `size`."""

    size = 1.0

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self.size * super().gathered(x, h_pre)


Scaled = Tempered | MixedGain | BranchGain | PreGain | ReadGain

TEMPERATURE = "temperature"
KINDS: dict[str, tuple[type[Scaled], ...]] = {
    TEMPERATURE: (Tempered, TemperedLogs),
    "mixing gain": (MixedGain,),
    "branch gain": (BranchGain,),
    "pre gain": (PreGain,),
    "read gain": (ReadGain,),
}
"""name -> the implementations with that number."""


@dataclass(frozen=True)
class Measured:
    """One of `KINDS` with the number that was measured."""

    name: str
    kind: type[Scaled]
    estimate: Estimate

    @property
    def value(self) -> float:
        """The shortest number within the bar."""
        return self.estimate.shortest()

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.12g}"

    def words(self) -> str:
        """One clause, with the error bar."""
        slip = (self.kind.__doc__ or "").partition(".")[0] if self.name != TEMPERATURE else _DIVIDED
        return (slip[:1].lower() + slip[1:] if slip.startswith("The") else slip).replace("`size`", str(self.estimate))

    def make(self, dialect: Dialect, size: float | None = None) -> Deviant:
        """An implementation with it, that declares `dialect`."""
        return sized(self.kind, dialect, self.value if size is None else size)

    def put_into(self, made: Deviant) -> None:
        """The number, into an implementation that has this slip beside others."""
        vars(made)["size"] = self.value


_DIVIDED = "the residual logits are divided by `size`"


def sized(kind: type[Scaled], dialect: Dialect, size: float) -> Deviant:
    """An implementation with a number of one's own choice."""
    made: Scaled = kind(dialect, kind.__name__)
    made.size = size
    return made


def candidates(
    failing: Sequence[Answer], frame: Frame, predictions: Predictions, base: Dialect, temperature: Estimate | None
) -> Iterator[Measured]:
    """What might explain the answers that a dialect does not: a temperature that fitted, and every gain."""
    for name, kinds in KINDS.items():
        for kind in kinds:
            found = temperature if name == TEMPERATURE else None
            for given in failing if name != TEMPERATURE else ():
                found = found or _gain(kind, given, frame, predictions.of(given.probe, base), base)
            if found is not None:
                yield Measured(name, kind, found)


def _gain(
    kind: type[Scaled], given: Answer, frame: Frame, exact: list[Approx] | None, base: Dialect
) -> Estimate | None:
    """The gain with which this answer would be as it is; None where it does not show in it."""
    if given.error or exact is None or given.probe.stage not in ("pre", "post", "mappings", "block"):
        return None
    without, within = (answer(given.probe, View(sized(kind, base, size), frame)).values for size in (0.0, 1.0))
    for value, zero, one, bound in zip(given.values, without, within, exact, strict=False):
        effect = wide(one) - wide(zero)
        size = effect.square().sum()
        if value.shape != one.shape or not bool(torch.isfinite(value).all()) or not size > 0:
            continue
        gain = float(((wide(value) - wide(zero)) * effect).sum() / size)
        error = float((effect.abs() * bound.error.nan_to_num(posinf=0.0)).sum() / size)
        if abs(gain - 1) > error and gain > 0:
            return Estimate.around(gain, error)
    return None
