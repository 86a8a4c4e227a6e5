"""The bound of an explaining implementation: sound for the same slip computed otherwise, sharp for slips next to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, Dialect
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, Deviant
from properties.causes.agreement import belongs, like, numbers, tape_of
from properties.core.case import Case
from properties.core.deviant import redialected
from properties.core.law import Law, all_laws
from properties.core.noise import Noise
from properties.core.size import Size
from properties.core.trial import LawBroken, Trial
from properties.engine.attribution import Belonging
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject
from properties.report.cause import Cause

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
LAWS = ("mixing.post-is-the-declared-combination", "block.agrees-with-oracle", "coefficients.agrees-with-oracle")


class Asked:
    """Puts every failure to one explaining implementation, and keeps how it belongs."""

    def __init__(self, explaining: Callable[[], Deviant]) -> None:
        self.explaining, self.hows = explaining, Counter[str | None]()
        self.units: list[tuple[str | None, float]] = []
        self.cause = Cause("the slip", "", "the slip")

    def known(self, law: Law, subject: Subject, case: Case, broken: LawBroken) -> Belonging | None:
        how = belongs(law, subject, case, broken, self.explaining())
        self.hows[how] += 1
        self.units.append((how, self._units(law, subject, case, broken)))
        return Belonging((self.cause,), "shown")

    def _units(self, law: Law, subject: Subject, case: Case, broken: LawBroken) -> float:
        """How far the answers are apart, in units of roundoff of the largest number of each."""
        given = broken.trial
        assert isinstance(given, Trial)
        count = len(given.tape)
        other = tape_of(law, like(self.explaining(), subject.implementation), given, case, count)
        assert other is not None
        unit = torch.finfo(torch.float64 if subject.dtype == torch.float64 else torch.float32).eps / 2
        pairs = zip(numbers(given, count), numbers(other, count), strict=True)
        return max((float((a - b).abs().max() / (unit * a.abs().max())) for a, b in pairs if a.numel()), default=0.0)

    def found(self, law: Law, subject: Subject, case: Case, broken: LawBroken) -> Belonging:
        raise AssertionError("every failure is known")

    def settled(
        self, law: Law, subject: Subject, case: Case, broken: LawBroken, causes: Mapping[str, Cause]
    ) -> dict[str, Cause]:
        return dict(causes)

    def rule(
        self, law: Law, subject: Subject, seen: Mapping[Size, bool], fails: Callable[[Size], bool | None]
    ) -> str | None:
        return None

    def plainest(self, causes: Iterable[str], score: float) -> bool:
        return False

    def noted(self, causes: Iterable[str], score: float) -> None:
        pass

    def several(self, subject: Subject) -> bool:
        return False


def asked(
    target: Deviant, explaining: Callable[[], Deviant], dtype: torch.dtype, laws: tuple[str, ...], where: Path
) -> Asked:
    """How the failures of a target belong to an explaining implementation."""
    found = Asked(explaining)
    profile = Profile(examples=6, derandomise=True, shrink=False)
    for law in laws:
        subject = Subject("target", target, dtype, torch.device("cpu"))
        with patch("properties.engine.search._FURTHER", 6):  # more failures than a run needs
            examine(all_laws()[law], subject, profile, directory=where, attribution=found)
    return found


def hows(
    target: Deviant, explaining: Callable[[], Deviant], dtype: torch.dtype, laws: tuple[str, ...], where: Path
) -> Counter[str | None]:
    """The same, with their numbers."""
    return asked(target, explaining, dtype, laws, where).hows


def otherwise(slip: str, control: str, dialect: Dialect) -> Deviant:
    """A slip that is computed as a control computes."""
    made, other = CATALOGUE[slip].make(dialect), controls.build(control, dialect)
    assert isinstance(made, Deviant)
    assert isinstance(other, Deviant)
    computed = made.computed
    both = type("Both", (other.slip,) if redialected(made) else (made.slip, other.slip), {})
    return both(dialect, "both", (lambda _: computed) if redialected(made) else None)


def slip(name: str, dialect: Dialect) -> Deviant:
    made = CATALOGUE[name].make(dialect)
    assert isinstance(made, Deviant)
    return made


SOUND = (
    ("h-res-transposed", "reversed"),
    ("h-res-transposed", "recomputed"),
    ("h-res-transposed", "log-domain"),
    ("alpha-squared", "scaling-vectors"),
    ("ten-iterations", "log-domain"),
    ("norm-missing-root", "einsum"),
    ("post-scale-four", "float64-inside"),
    ("emitted-transposed", "tanh-sigmoid"),
    ("residual-twice", "pairwise"),
    ("branch-residual", "norm-after-matmul"),
)


def sound_in_dtypes() -> Iterator[Any]:
    """The first pair in every dtype, and each other in one of them: what is compared is the same in all."""
    for place, (name, control) in enumerate(SOUND):
        for turn, dtype in enumerate(DTYPES):
            alike = place > 0 and turn != place % len(DTYPES)
            yield pytest.param(name, control, dtype, marks=[pytest.mark.thorough] if alike else [])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "control", "dtype"), list(sound_in_dtypes()))
def test_a_slip_that_is_computed_otherwise_is_shown_to_be_the_slip(
    name: str, control: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    found = hows(otherwise(name, control, DEEPSEEK_V4), lambda: slip(name, DEEPSEEK_V4), dtype, LAWS, tmp_path)
    assert found["shown"] > 0, found
    assert found[None] == 0, found


class _Gain(Deviant):
    """The mixed streams are multiplied by `gain`."""

    gain = 2.0

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return self.gain * super().mixed(x, h_res)


class _NearlyTheSameGain(_Gain):
    gain = 2.002


def _with(**fields: float) -> Callable[[Dialect], Dialect]:
    return lambda dialect: dialect.with_(**fields)


NEAR: tuple[tuple[str, Callable[[], Deviant], Callable[[], Deviant], torch.dtype, str], ...] = (
    (
        "19 iterations are not 20",
        lambda: Deviant(DEEPSEEK_V4.with_(iterations=3), "target", _with(iterations=19)),
        lambda: Deviant(DEEPSEEK_V4.with_(iterations=3), "explaining", _with(iterations=20)),
        torch.float64,
        "manifold.agrees-with-oracle",
    ),
    (
        "an eps of 1e-6 is not one of 2e-6",
        lambda: Deviant(DEEPSEEK_V4, "target", _with(denominator_eps=1e-5, entry_eps=1e-6)),
        lambda: Deviant(DEEPSEEK_V4, "explaining", _with(denominator_eps=1e-5, entry_eps=2e-6)),
        torch.float64,
        "manifold.agrees-with-oracle",
    ),
    (
        "a gain of 2.002 is not one of 2",
        lambda: _NearlyTheSameGain(DEEPSEEK_V4, "target"),
        lambda: _Gain(DEEPSEEK_V4, "explaining"),
        torch.float32,
        "mixing.post-is-the-declared-combination",
    ),
)


TOLD_APART = 1e4
"""Units of roundoff beyond which two slips are never taken for one another: ten times what twenty iterations of
Sinkhorn make of rounding in the bound."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "explaining", "dtype", "law"), [one[1:] for one in NEAR], ids=[one[0] for one in NEAR]
)
def test_slips_next_to_one_another_are_told_apart(
    target: Callable[[], Deviant], explaining: Callable[[], Deviant], dtype: torch.dtype, law: str, tmp_path: Path
) -> None:
    given = target()
    given.streams = (3, 4)  # a matrix of one stream is the same with both
    found = asked(given, explaining, dtype, (law,), tmp_path).units
    # of equal logits, and where the iteration has converged, both give the same matrix
    apart = [how for how, units in found if units > TOLD_APART]
    assert len(apart) >= 2, found
    assert set(apart) == {None}, found
    same = hows(given, target, dtype, (law,), tmp_path)
    assert same["shown"] > 0, same
    assert same[None] == 0, same


@pytest.mark.slow
def test_an_answer_of_the_declared_dialect_is_not_that_of_a_slip(tmp_path: Path) -> None:
    target = slip("post-scale-four", DEEPSEEK_V4)
    found = hows(target, lambda: slip("h-res-transposed", DEEPSEEK_V4), torch.float32, LAWS[1:2], tmp_path)
    assert found[None] > 0, found
    assert found["shown"] == 0, found


def test_rounding_is_no_tensor_of_zeros() -> None:
    value: Tensor = torch.ones(100, dtype=torch.float32)
    with Noise(0):
        moved = value * value
    assert 0 < float((moved - 1).abs().max()) < 1e-5
