"""Numbers of slips are measured: found again, told as the formula of n and C that they are, and joined with others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mhc_ref import DEEPSEEK_V4, PAPER, Dialect
from properties.catalogue.deviations import Deviant
from properties.core.estimate import Estimate
from properties.core.implementation import Reference
from properties.diagnosis import identify
from properties.diagnosis.amounts import FORMS, Amount, Numbered
from properties.diagnosis.answers import Answer, Predictions, answer
from properties.diagnosis.composing import compose
from properties.diagnosis.exam import forward
from properties.diagnosis.measured import KINDS, Measured
from properties.diagnosis.measuring import candidates
from properties.diagnosis.numbers import MixedGain, PreGate, UnitScale
from properties.diagnosis.parts import Account, Part, account_of, made
from properties.diagnosis.view import Frame, View


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def numbered(kind: type[Numbered], amount: Amount, dialect: Dialect, dtype: torch.dtype = torch.float64) -> Numbered:
    """An implementation with a number of one's own choice."""
    target = kind(dialect, "numbered")
    target.numbers = {kind: amount}
    target.dtypes = (dtype,)
    return target


def measured(target: Numbered, dialect: Dialect, beside: tuple[str, ...] = ()) -> Iterator[Measured]:
    """What the numbers of a target may be, by its answers to an exam about values."""
    frame, predictions = Frame.of(target), Predictions(target.mixing)
    view = View(target, frame)
    answers = [answer(probe, view) for probe in forward(frame, 1)]
    order = ("project", "pre", "post", "mappings", "expand", "collapse", "block", "depth")

    def wrong(one: Answer) -> bool:
        return predictions.ratio(one, dialect) > 1

    failing = sorted(filter(wrong, answers), key=lambda one: order.index(one.probe.stage))
    yield from candidates(failing, frame, predictions, dialect, beside=beside, answers=answers)


EVERY = [(name, kinds[0]) for name, kinds in KINDS.items() if name != "gates"]
QUICK = ("scale of the normalised state", "gate of h_res", "mixing gain", "least mean square")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [pytest.param(*one, id=one[0]) for one in EVERY])
def test_a_number_is_found_again(name: str, kind: type[Numbered]) -> None:
    number = {"eps": 3.7e-5, "offsets": -0.71}.get(kind.search, 0.37 if kind.neutral else 2.5e-4)
    found = {str(one): one for one in measured(numbered(kind, Amount(number), DEEPSEEK_V4), DEEPSEEK_V4)}
    one = found[f"{name} = {number:.12g}"]
    assert one.estimate.admits(number)
    assert one.estimate.high - one.estimate.low < 1e-9 * number if number > 0 else True


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_in_float32_the_bar_is_wider_and_still_right(name: str) -> None:
    kind = KINDS[name][0]
    number = 3.7e-5 if kind.search == "eps" else 0.37
    target = numbered(kind, Amount(number), DEEPSEEK_V4, torch.float32)
    one = next(one for one in measured(target, DEEPSEEK_V4) if one.name == name)
    assert one.estimate.admits(number)
    assert 1e-9 < one.estimate.high / one.estimate.low - 1 < 1e-3


@pytest.mark.parametrize("form", ["1/sqrt(n)", *(pytest.param(one, marks=pytest.mark.slow) for one in ("n", "1/C"))])
def test_a_number_that_depends_on_shape_is_a_formula(form: str) -> None:
    target = numbered(UnitScale, Amount(1.0, form), PAPER)
    one = next(one for one in measured(target, PAPER) if one.kind is UnitScale)
    assert one.form == form
    assert str(one) == f"scale of the normalised state = {form}"
    assert one.words().startswith(f"the normalised state is multiplied by {form}, which is ")
    again = one.make(PAPER)
    assert isinstance(again, Numbered)
    assert again.by_shape(UnitScale, torch.zeros(5, 7)) == Amount(1.0, form).of(5, 7)


def test_of_one_n_alone_every_formula_that_fits_is_told() -> None:
    half = Measured("scale of the normalised state", UnitScale, Estimate(0.5, 0.49999, 0.50001), "", ((4, 9),))
    assert half.words() == "the normalised state is multiplied by 0.5 +- 1.0e-05 (1/sqrt(n) or 2/n at n = 4)"
    root = Measured("mixing gain", MixedGain, Estimate(2**0.5, 1.41421, 1.41422))
    assert root.words() == "the mixed streams are multiplied by 1.41421 +- 6.4e-06 (sqrt(2))"


@pytest.mark.slow
def test_what_is_no_number_is_not_taken_for_one() -> None:
    class Other(Numbered):
        def normalised(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
            return super().normalised(x, weight).abs()

    target = Other(PAPER, "other")
    found = [one for one in measured(target, PAPER) if one.kind is UnitScale]
    assert not found


@pytest.mark.slow
def test_a_number_is_measured_beside_a_named_slip() -> None:
    sized = Measured("gate of h_pre", PreGate, Estimate(0.37, 0.37, 0.37))
    target = compose(("h-res-transposed",), PAPER, sized)
    assert isinstance(target, Numbered)
    found = [str(one) for one in measured(target, PAPER, ("h-res-transposed",))]
    assert "gate of h_pre = 0.37" in found


def test_numbers_and_named_slips_are_made_into_one_implementation() -> None:
    scale = Measured("scale of the normalised state", UnitScale, Estimate(0.5, 0.5, 0.5), "1/sqrt(n)", ((4, 9),))
    gain = Measured("mixing gain", MixedGain, Estimate(1.25, 1.25, 1.25))
    parts = tuple(Part(number=one.to_json(), words=one.words()) for one in (scale, gain))
    parts = (*parts, Part(deviation="post-flipped"))
    read = Account.from_json(Account(parts).to_json()).parts
    assert read == parts
    both = made(read, PAPER)
    assert isinstance(both, Numbered)
    x, h_res = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    y, h_post = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    plain = Reference(PAPER)
    expected = 1.25 * h_res @ x + h_post.flip(-1).unsqueeze(-1) * y.unsqueeze(-2)
    assert torch.allclose(both.post(x, y, h_post, h_res), expected, 1e-12)
    assert torch.allclose(both.normalised(x, None), 3**-0.5 * Deviant(PAPER).normalised(x, None), 1e-12)
    again = both.tuned(iterations=3)
    assert isinstance(again, Numbered)
    assert again.numbers == both.numbers
    assert torch.allclose(both.project(x[..., :3]), plain.project(x[..., :3]), 1e-12)
    assert [part.key for part in read[:2]] == ["scale of the normalised state = 1/sqrt(n)", "mixing gain = 1.25"]


def test_two_numbers_of_one_kind_make_no_implementation() -> None:
    gain = Measured("mixing gain", MixedGain, Estimate(1.25, 1.25, 1.25))
    assert compose((), PAPER, gain, gain) is None


def test_every_kind_says_what_it_does_in_one_clause() -> None:
    for name, kinds in KINDS.items():
        words = Measured(name, kinds[-1], Estimate(0.3, 0.2, 0.4)).words()
        assert "0.3 +- 1.0e-01" in words
        assert "`" not in words
        assert words[0].islower()


TOGETHER = {
    "beside a named slip": ("h-res-transposed",),
    "beside another number": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("beside", TOGETHER)
def test_a_number_beside_another_slip_is_a_part_of_its_own(beside: str) -> None:
    gate = Measured("gate of h_pre", PreGate, Estimate(0.37, 0.37, 0.37))
    gain = Measured("mixing gain", MixedGain, Estimate(1.25, 1.25, 1.25))
    names = TOGETHER[beside]
    target = compose(names, DEEPSEEK_V4, gate, *([] if names else [gain]))
    assert target is not None
    account = account_of(target, seconds=60)
    other = [f"deviation {name}" for name in names] or ["mixing gain = 1.25"]
    assert sorted(part.key for part in account.parts) == sorted([*other, "gate of h_pre = 0.37"])
    assert not account.unexplained


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [18, 19])
def test_a_missing_iteration_is_counted(iterations: int) -> None:
    class Fewer(Reference):
        streams = (2, 4)
        dtypes = (torch.float32,)

    target = Fewer(DEEPSEEK_V4.with_(iterations=iterations))
    target.dialect = DEEPSEEK_V4.with_(iterations=iterations)
    found = identify(target, against=DEEPSEEK_V4, hidden=0)
    assert found.differs == {"iterations": (20, iterations)}


@pytest.mark.slow
def test_a_scale_of_the_normalised_state_is_identified() -> None:
    found = identify(numbered(UnitScale, Amount(0.37), PAPER), hidden=0)
    assert found.deviation == "scale of the normalised state = 0.37"
    assert not found.ties
    assert "temperature = " not in found.to_text()


@pytest.mark.parametrize("form", [form for form in FORMS if "C" in form])
def test_a_formula_of_c_is_no_number_where_c_is_not_known(form: str) -> None:
    assert math.isnan(Amount(2.0, form).of(3))
    assert math.isfinite(Amount(2.0, form).of(3, 4))


def test_every_number_that_can_be_measured_is_documented() -> None:
    told = (Path(__file__).parent.parent / "docs" / "identify.md").read_text()
    assert [name for name in KINDS if f"`{name}`" not in told] == []
