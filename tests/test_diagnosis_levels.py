"""Independent slips of one target are found by levels, each as a part; what nothing explains is told by stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, PAPER, Branch, Dialect, Mappings, Params
from properties import Implementation, Reference
from properties.catalogue.deviations import CATALOGUE, Deviant
from properties.core.deviant import with_gradient_of
from properties.diagnosis import Identification, identify
from properties.diagnosis.acting import stage_of_slip
from properties.diagnosis.alone import _differs
from properties.diagnosis.answers import Answer, Predictions
from properties.diagnosis.composing import compose
from properties.diagnosis.exam import forward
from properties.diagnosis.findings import grouped
from properties.diagnosis.identification import named_changes
from properties.diagnosis.parts import Account, account_of, made, of_identification
from properties.diagnosis.units import LEVELS, Sheet
from properties.diagnosis.view import Frame


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Hand(Implementation):
    """A block in float32 by the reference's parts, so that one of them can be wrong."""

    dialect, streams, dtypes = DEEPSEEK_V4, (2, 4), (torch.float32,)

    def project(self, logits: Tensor) -> Tensor:
        return mhc_ref.project(logits, self.dialect)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        bare = mhc_ref.mappings(x, params, self.dialect.with_(residual="unconstrained"))
        return bare._replace(res=self.project(bare.res))

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return mhc_ref.post(x, y, h_post, h_res, self.dialect)


class TwoSlips(Hand):
    """h_res is applied untransposed, and the gate of h_pre is ignored."""

    name = "two slips"

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(x, params._replace(alpha=torch.cat([torch.ones(1), params.alpha[1:]])))

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res.mT)


class NaNBesideASlip(Hand):
    """18 iterations instead of 20, and exp without the maximum: NaN from logits of 89 on."""

    name = "NaN beside a slip"

    def project(self, logits: Tensor) -> Tensor:
        m = logits.exp()
        m = m / m.sum(-1, keepdim=True) + 1e-6
        m = m / (m.sum(-2, keepdim=True) + 1e-6)
        for _ in range(17):
            m = m / (m.sum(-1, keepdim=True) + 1e-6)
            m = m / (m.sum(-2, keepdim=True) + 1e-6)
        return m


def asked(target: Implementation, **options: Any) -> tuple[Identification, list[str]]:
    """What is found, and the keys of its parts."""
    found = identify(target, brief=True, hidden=0, seconds=60, **options)
    return found, [part.key for part in of_identification(found, target.dialect).parts]


def both(*names: str, dialect: Dialect = PAPER) -> Deviant:
    found = compose(names, dialect)
    assert found is not None
    return found


# Two slips, each a part


@pytest.mark.slow
def test_two_slips_of_different_stages_are_two_parts() -> None:
    found, parts = asked(TwoSlips())
    assert found.explained
    assert parts == ["deviation h-res-transposed", "deviation pre-gate-ignored"]
    assert found.headline().startswith("like DEEPSEEK_V4, but h_res is applied untransposed and the gate of h_pre is")


@pytest.mark.slow
def test_a_nan_beside_a_slip_is_a_part_of_its_own() -> None:
    found, parts = asked(NaNBesideASlip())
    assert found.explained
    assert parts == ["iterations = 18", "deviation max-not-subtracted"]
    assert "Sinkhorn runs 18 iterations and exp is taken of the logits themselves" in found.headline()


BESIDE = [
    ("h-res-transposed", "half-gradient"),
    ("post-scale-one", "state-overwritten"),
    ("norm-missing", "one-channel-squeezed"),
]


@pytest.mark.slow
@pytest.mark.parametrize("names", BESIDE)
def test_a_slip_of_another_level_stands_beside_a_value(names: tuple[str, str]) -> None:
    """A gradient, an execution, an exception, a dtype: the answers that raise or differ there hide nothing else."""
    target = both(*names)
    found, parts = asked(target)
    assert found.explained
    assert {part.removeprefix("deviation ") for part in parts} == set(names)


@pytest.mark.slow
def test_any_part_can_be_made_by_itself_and_all_make_the_target() -> None:
    target = both("h-res-transposed", "half-gradient")
    account = account_of(target, seconds=60)
    again = Account.from_json(account.to_json())
    assert again == account
    assert [part.stage for part in account.parts] == ["post", "gradient"]
    for parts in (account.parts[:1], account.parts[1:], account.parts):
        explaining = made(parts, PAPER)
        assert explaining is not None
        assert explaining.dialect == PAPER
    logits = torch.randn(2, 3, 3, dtype=torch.float64)
    explaining = made(account.parts, PAPER)
    assert explaining is not None
    assert torch.equal(explaining.project(logits), target.project(logits))


@pytest.mark.slow
def test_a_correct_implementation_has_no_parts() -> None:
    account = account_of(Reference(DEEPSEEK_V4))
    assert (account.parts, account.unexplained, account.notes) == ((), (), ())
    assert account.ratio <= 1


# What nothing explains


class NormOfFourthPowers(Deviant):
    """Unexplained, in the norm."""

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().square().mean(self.norm_axes(), keepdim=True).sqrt()


class AndAnOldState(NormOfFourthPowers):
    """And a tenth of the old state is kept: unexplained, in post."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return 0.9 * super().mixed(x, h_res) + 0.1 * x


class AndOverwritten(NormOfFourthPowers):
    """And a block writes over its state."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        after = super().post(x, y, h_post, h_res)
        x.data.copy_(after.data)
        return after


class AndAThirdOfTheGradient(NormOfFourthPowers):
    """And phi learns a third of what it should."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        found = super().matmul(state, phi)
        return with_gradient_of(found, found / 3)


class AndTransposed(NormOfFourthPowers):
    """And the operator is transposed, which has a name."""

    def operator(self, h_res: Tensor) -> Tensor:
        return super().operator(h_res).mT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        (AndAnOldState, [("norm", "value"), ("post", "value")]),
        (AndOverwritten, [("norm", "value"), ("execution", "value")]),
        (AndAThirdOfTheGradient, [("norm", "value"), ("gradient", "value")]),
        (AndTransposed, [("norm", "value")]),
    ],
)
def test_every_stage_that_is_wrong_by_itself_is_told(kind: type[Deviant], stages: list[tuple[str, str]]) -> None:
    found = identify(kind(PAPER, kind.__name__), brief=True, hidden=0, seconds=2)
    assert not found.explained
    assert list(found.bad) == stages
    assert found.stage == "norm"
    for stage, _ in stages:
        assert f"something in its {stage}" in found.headline()
    assert found.differs == ({"transposed": (False, True)} if kind is AndTransposed else {})


def test_one_exception_of_many_calls_is_told_once() -> None:
    class Raises(Hand):
        def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
            raise ValueError("no kernel")

    found = identify(Raises(), brief=True, hidden=0, seconds=1)
    assert len(found.raised) == 1
    assert found.bad == ()
    assert "no kernel" in found.to_text()
    assert found.headline() == "what it answers is like DEEPSEEK_V4, but post raises ValueError"


@pytest.mark.slow
def test_a_block_is_explained_as_well_where_more_is_offered_beside_it() -> None:
    class Block(Implementation):
        dialect = PAPER

        def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
            return mhc_ref.block(x, params, branch, PAPER.with_(transposed=True))

    class AndStrangeProjection(Block):
        def project(self, logits: Tensor) -> Tensor:
            return logits.cos()

    assert asked(Block())[1] == ["deviation h-res-transposed"]
    found, parts = asked(AndStrangeProjection())
    assert parts == ["deviation h-res-transposed"]
    assert found.bad == (("projection", "value"),)


@pytest.mark.slow
def test_a_deterministic_fault_is_no_race_and_has_no_next_best_that_is_far() -> None:
    found = identify(NormOfFourthPowers(PAPER, "norm"), brief=True, hidden=0, seconds=2)
    assert not found.next_best()
    assert "racing" not in found.to_text()


# NaN


@pytest.mark.slow
def test_a_norm_without_an_eps_is_one_slip_with_its_nan() -> None:
    found, parts = asked(CATALOGUE["norm-without-eps"].make(DEEPSEEK_V4))
    assert parts == ["deviation norm-without-eps"]
    assert found.explained


@pytest.mark.slow
def test_a_gradient_that_is_nan_where_gates_saturate_is_seen() -> None:
    class Written(Reference):
        def mappings(self, x: Tensor, params: Params) -> Mappings:
            found = super().mappings(x, params)
            bare = mhc_ref.mappings(x, params, PAPER.with_(pre="linear", post="linear", post_scale=1.0))
            pre, post = (1 / (1 + (-z).exp()) for z in bare[:2])
            return found._replace(pre=pre, post=2 * post)

        block = Implementation.block

    found = identify(Written(PAPER), brief=True, hidden=0, seconds=1)
    assert found.bad == (("gradient", "nan"),)


# The pieces


def test_what_is_not_finite_is_a_unit_of_its_own() -> None:
    target = Reference(PAPER)
    probe = next(one for one in forward(Frame.of(target), 1) if one.stage == "project")
    sheet = Sheet(Predictions("compute"), PAPER)
    value = target.project(probe.inputs[0])
    value[0, 0, 0] = torch.nan
    units = sheet.units(given := Answer(probe, (value,)))
    assert [(one.kind, LEVELS[one.level]) for one in units] == [("nan", "nan"), ("value", "value")]
    assert [ratio <= 1 for ratio in sheet.by_dialect(given, PAPER).values()] == [False, True]


def test_fields_of_one_choice_are_one_change_and_others_are_not() -> None:
    other = PAPER.with_(transposed=True, iterations=7, denominator="clamp", denominator_eps=1e-3)
    assert grouped(PAPER, other) == [
        {"iterations": 7},
        {"denominator": "clamp", "denominator_eps": 1e-3},
        {"transposed": True},
    ]
    differs = {name: (there, found) for name, (found, there) in other.difference(PAPER).items()}
    told = named_changes(PAPER, differs)
    assert {tuple(fields): names for fields, names in told}[("transposed",)] == ["h-res-transposed"]
    assert len(told) == 3


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("h-res-transposed", "post"),
        ("max-not-subtracted", "projection"),
        ("norm-unbiased", "norm"),
        ("pre-eps-missing", "sigmoid"),
        ("half-gradient", "gradient"),
        ("state-overwritten", "execution"),
        ("branch-reads-normalised", "branch"),
    ],
)
def test_a_slip_acts_first_where_its_step_stands(name: str, stage: str) -> None:
    assert stage_of_slip(name) == stage


def test_a_gradient_is_compared_with_the_slope() -> None:
    x, generator = torch.linspace(1, 2, 5, dtype=torch.float64), torch.Generator().manual_seed(0)

    def value(moved: Tensor) -> float:
        return float(moved.square().sum())

    assert not _differs(x, 2 * x, value, generator, torch.float64)
    assert _differs(x, 1.9 * x, value, generator, torch.float64)
