"""The truth: every value and gradient in float64 and in mpmath, and the verdicts that rest on it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, PRESETS, Dialect, Mappings, Params
from mhc_ref.packing import logits_shape, params_shapes
from mhc_ref.stack import ends_with_last
from properties.bounds import Approx, Rounding, coefficients_gradient, projection
from properties.bounds.block import coefficients
from properties.core.case import BranchSpec, Case
from properties.core.exact_truth import ExactTruth
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.core.reads import mapping_shapes
from properties.core.trial import ContractBroken, LawBroken, Trial
from properties.core.truth import FloatTruth
from properties.engine.runner import Profile, Subject, Verdict, examine, explain, try_case
from properties.guards.faults import HarnessError
from properties.plugin.item import line_of
from properties.report.report import runs

CPU = torch.device("cpu")
ORACLE = all_laws()["manifold.agrees-with-oracle"]
LOGITS = Case(logits=torch.tensor([[[0.0, 1.0], [-1.0, 0.5]]]))


class Changed(Reference):
    """The reference, every output of which is changed."""

    def __init__(self, change: Callable[[Tensor], Tensor], dialect: Dialect = PAPER) -> None:
        super().__init__(dialect, "changed")
        self.change = change
        self.streams = (1, 2, 3)

    def project(self, logits: Tensor) -> Tensor:
        return self.change(super().project(logits))

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Mappings(*(self.change(part) for part in super().mappings(x, params)))

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self.change(super().pre(x, h_pre))

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self.change(super().post(x, y, h_post, h_res))

    def block(self, x: Tensor, params: Params, branch: Any) -> Tensor:
        return self.change(super().block(x, params, branch))

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Any]) -> Tensor:
        return self.change(super().layers(x, params, branches))

    def expand(self, h: Tensor, n: int) -> Tensor:
        return self.change(super().expand(h, n))

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        return self.change(super().collapse(x, params))

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Any]) -> Tensor:
        return self.change(super().stack(h, params, branches))


def subject(target: Any, dtype: torch.dtype = torch.float32) -> Subject:
    return Subject("target", target, dtype, CPU)


def trial(dtype: torch.dtype = torch.float32) -> Trial:
    return subject(Reference(PAPER), dtype).trial()


def searched(law: str, target: Any, directory: Path, examples: int = 4) -> Verdict:
    profile = Profile(examples=examples, derandomise=True, shrink=False)
    return examine(all_laws()[law], subject(target), profile, directory=directory)


# -- values and gradients ----------------------------------------------------------------------------------------------


def generic(dialect: Dialect, n: int, channels: int) -> tuple[Tensor, Params, Callable[..., Tensor]]:
    """A state of two tokens and parameters of order one in float64, and a source of more numbers."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    params = Params(*(normal(*shape) for shape in params_shapes(n, channels, dialect)))
    return normal(2, n, channels), params, normal


def same(one: Any, other: Any) -> None:
    """Equal to a few units of float64, part by part."""
    if isinstance(one, Tensor):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-11), (one - other).abs().max()
        return
    for a, b in zip(one, other, strict=True):
        same(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("title", PRESETS)
def test_both_truths_answer_every_question_alike(title: str) -> None:
    dialect = PRESETS[title]
    x, params, normal = generic(dialect, 2, 3)
    shape = logits_shape(2, dialect)
    logits = params.bias[len(params.bias) - math.prod(shape) :].view(1, *shape)
    h_res = torch.eye(2).double().expand(2, 2, 2) if dialect.residual == "identity" else normal(2, 2, 2)
    y, bar, by_read, weights = normal(2, 3), normal(2, 2, 3), normal(2, 3), normal(2, 2)
    branches = [BranchSpec("scale", normal(3)), BranchSpec("constant", normal(3)), BranchSpec("identity")]
    head = params if dialect.collapse == "head" else None
    every = (params, params, params, *([head] if head else []))
    questions: dict[str, tuple[Any, ...]] = {
        "project": (logits,),
        "mappings": (x, params),
        "pre": (x, weights),
        "post": (x, y, weights, h_res),
        "block": (x, params, y),
        "layers": (x, [params, params], [y, normal(2, 3)]),
        "stack": (y, 2, every, [y, normal(2, 3), normal(2, 3)]),
        "collapse": (x, head),
        "project_vjp": (logits, normal(1, 2, 2)),
        "mappings_vjp": (x, params, [normal(*shape) for shape in mapping_shapes((2, 2, 3), dialect)]),
        "pre_vjp": (x, weights, by_read),
        "post_vjp": (x, y, weights, h_res, bar),
        "layers_vjp": (x, [params, params, params], branches, bar),
        "stack_vjp": (y, 2, every, branches, by_read),
        "collapse_vjp": (x, head, by_read),
    }
    if ends_with_last(dialect):  # a collapse by itself has no h_pre to read with
        del questions["collapse"], questions["collapse_vjp"]
    exact, usual = ExactTruth(dialect), FloatTruth(dialect)
    for name, given in questions.items():
        same(getattr(exact, name)(*given), getattr(usual, name)(*given))
    assert exact.asked == usual.asked == len(questions)


def test_what_a_branch_lost_leaves_what_was_read_before_it() -> None:
    x, params, normal = generic(PAPER, 2, 3)
    y = normal(2, 3)
    y[0, 1] = math.inf
    inputs, after = ExactTruth(PAPER).layers(x, [params, params], [y, normal(2, 3)])
    same(inputs[0], FloatTruth(PAPER).block(x, params, normal(2, 3))[0])
    assert inputs[1][0].isnan().all()
    assert after[0].isnan().all()
    assert torch.isfinite(inputs[1][1]).all()
    assert torch.isfinite(after[1]).all()


# -- what a verdict rests on -------------------------------------------------------------------------------------------


def test_an_oracle_verdict_without_the_exact_truth_is_the_fault_of_the_law() -> None:
    def check(bench: Trial, case: Case) -> None:
        got = bench.project(case.logits)
        expected = projection(Approx.exact(case.logits), bench.dialect, bench.rounding)
        bench.within("h_res", got, expected.value, expected.error)

    forgetful = dataclasses.replace(ORACLE, judge=check)
    assert try_case(forgetful, subject(Reference(PAPER)), LOGITS).claims
    with pytest.raises(HarnessError, match=r"without asking the exact truth.*the law is at fault"):
        try_case(forgetful, subject(Changed(lambda t: 1.5 * t)), LOGITS)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [PAPER, pytest.param(DEEPSEEK_V4, marks=pytest.mark.thorough)])
def test_every_oracle_law_that_fails_has_asked_the_exact_truth(
    dialect: Dialect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judges: list[Trial] = []

    def noted(bench: Trial) -> Trial:
        judges.append(confirming(bench))
        return judges[-1]

    confirming = Trial.confirming
    monkeypatch.setattr(Trial, "confirming", noted)
    failed: list[str] = []
    oracles = [name for name, law in all_laws().items() if law.kind == "oracle"]
    for name in oracles:
        judges.clear()
        found = searched(name, Changed(lambda t: 1.5 * t, dialect), tmp_path)
        if found.status == "failed":
            failed.append(name)
            assert judges, name
            assert all(judge.truth.asked for judge in judges), name
    asked_of_few = ("autocast", "tuned", "count-of-iterations", "of-any-size")  # promises it does not make
    silent = [name for name in oracles if name not in failed and not any(w in name for w in asked_of_few)]
    assert not silent, f"1.5 times the right output passes {silent}"


def broken(value: float, index: int | None = None) -> Callable[[Tensor], Tensor]:
    def change(output: Tensor) -> Tensor:
        if index is None or not output.numel():
            return output * value
        spoilt = output.clone()
        spoilt.view(-1)[index] = value
        return spoilt

    return change


SPOILT = {
    "all of it NaN": (DEEPSEEK_V4, broken(math.nan)),
    "one of it NaN": (DEEPSEEK_V4, broken(math.nan, 0)),
    "one of it infinite": (PAPER, broken(math.inf, -1)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "first"),
    [
        pytest.param(how, first, marks=[] if place == first else [pytest.mark.thorough])
        for place, how in enumerate(SPOILT)
        for first in range(len(SPOILT))
    ],
)
def test_no_output_makes_a_bound_or_an_expected_value_senseless(how: str, first: int, tmp_path: Path) -> None:
    """Every law meets one of these outputs, and in a thorough run each."""
    dialect, change = SPOILT[how]
    # Laws of memory call often, and look at no value.
    judged = [name for name in all_laws() if not name.endswith(("-let-go", "-outlive-further-calls"))]
    verdicts = [searched(name, Changed(change, dialect), tmp_path, examples=1) for name in judged[first :: len(SPOILT)]]
    assert sum(one.status == "failed" for one in verdicts) > 16


# -- the arithmetic of a verdict ---------------------------------------------------------------------------------------

ONE = torch.ones(1)


@pytest.mark.parametrize("bound", [math.nan, -1e-9, -math.inf])
def test_a_bound_is_neither_negative_nor_no_number(bound: float) -> None:
    for judge in (trial().within, trial().near, trial().at_most):
        with pytest.raises(HarnessError, match="the bound of h_res is"):
            judge("h_res", ONE, ONE, bound * ONE)


@pytest.mark.parametrize("exact", [math.nan, math.inf])
def test_an_expected_value_that_is_no_number_is_our_fault_where_something_is_claimed(exact: float) -> None:
    with pytest.raises(HarnessError, match="what h_res is held to"):
        trial().within("h_res", math.nan * ONE, exact * ONE, ONE)
    bench = trial()
    bench.within("h_res", math.nan * ONE, exact * ONE, math.inf * ONE)
    assert (bench.claims, bench.abstentions) == (0, 1)


def test_two_outputs_of_which_neither_is_a_number_break_a_law_and_are_called_what_they_are() -> None:
    with pytest.raises(LawBroken) as info:
        trial().near("h_res", math.nan * ONE, math.nan * ONE, ONE)
    assert (info.value.got, info.value.exact, info.value.against) == ("nan", "nan", "other")
    text = explain(ORACLE, subject(Reference(PAPER)), LOGITS, info.value, Path("file"))
    assert "other  nan  (from further outputs of the implementation)" in text
    assert "exact" not in text.split("found")[1].split("smallest")[0]
    assert "no finite number, where the bound says that both are" in text


def test_claims_and_abstentions_are_counted_apart() -> None:
    bench = trial()
    bench.within("h_res", torch.ones(5), torch.ones(5), torch.tensor([0.5, math.inf, 0.0, 2.0, math.inf]))
    assert (bench.claims, bench.abstentions) == (2, 3)


def test_the_report_counts_claims_and_abstentions_of_every_law(tmp_path: Path) -> None:
    def check(bench: Trial, case: Case) -> None:
        bench.within("h_res", torch.ones(3), torch.ones(3), torch.tensor([0.5, math.inf, 0.0]))

    law = dataclasses.replace(ORACLE, judge=check)
    found = examine(law, subject(Reference(PAPER)), Profile(examples=4, derandomise=True), directory=tmp_path)
    (entry,) = runs([line_of(found)])[0]["laws"].values()
    assert (entry["claims"], entry["abstentions"]) == (2 * found.examples, found.examples)


def test_an_output_of_another_shape_is_not_spread_over_what_is_expected() -> None:
    with pytest.raises(ContractBroken, match=r"shape \(1,\); expected \(3,\)"):
        trial().within("h_res", ONE, torch.ones(3), torch.ones(3))


def test_the_distance_from_a_limit_is_no_rounding() -> None:
    bench = trial()
    bench.within("a stream", torch.tensor([1.25]), ONE, torch.tensor([0.5]), gap=torch.tensor([0.25]))
    assert bench.worst == 0
    with pytest.raises(LawBroken) as info:
        bench.within("a stream", torch.tensor([1.75]), ONE, torch.tensor([0.25]), gap=torch.tensor([0.25]))
    assert info.value.ratio == 2
    text = explain(ORACLE, subject(Reference(PAPER)), LOGITS, info.value, Path("file"))
    assert "gap    0.25" in text
    assert "(error - gap) / bound" in text
    with pytest.raises(HarnessError, match="the gap of a stream"):
        bench.within("a stream", ONE, ONE, ONE, gap=-ONE)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["block.permutation-limit-carries-streams", "depth.streams-persist-through-layers"])
@pytest.mark.parametrize("title", ["PAPER", "DEEPSEEK_V4"])
def test_closeness_to_a_permutation_is_kept_out_of_the_ratio(law: str, title: str, tmp_path: Path) -> None:
    found = searched(law, Reference(PRESETS[title]), tmp_path, examples=16)
    assert found.status == "passed"
    assert found.worst_ratio < 0.9


def test_a_bound_far_from_order_one_says_how_it_stands_to_its_number() -> None:
    tiny = LawBroken("h_res", ratio=2.0, got="2e-19", exact="1e-19", error=1e-19, bound=5e-27)
    text = explain(ORACLE, subject(Reference(PAPER)), LOGITS, tiny, Path("file"))
    assert "bound  5e-27  (the most that rounding can explain here, 5e-08 of that number)" in text


# -- the tape ----------------------------------------------------------------------------------------------------------


def test_a_law_that_asks_otherwise_while_it_is_confirmed_is_at_fault() -> None:
    def check(bench: Trial, case: Case) -> None:
        got = bench.project(case.logits[:1] if bench.replaying else torch.cat([case.logits, case.logits]))
        bench.within("h_res", got[:1], bench.truth.project(case.logits), torch.zeros(1, 2, 2))

    restless = dataclasses.replace(ORACLE, judge=check)
    with pytest.raises(HarnessError, match=r"answer 1 on the tape is to project\(float32\[2, 2, 2\]\)"):
        try_case(restless, subject(Changed(lambda t: 1.5 * t)), LOGITS)


def test_a_failure_that_mpmath_does_not_see_is_no_verdict_even_where_the_law_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check(bench: Trial, case: Case) -> None:
        got = bench.project(case.logits)
        bench.within("h_res", got, bench.truth.project(case.logits), torch.full_like(got, 1e-3))
        bench.project(2 * case.logits)

    law = dataclasses.replace(ORACLE, judge=check)
    monkeypatch.setattr(FloatTruth, "project", lambda self, logits: torch.zeros(1, 2, 2))
    with pytest.raises(HarnessError, match="the reference or the bound is at fault"):
        try_case(law, subject(Reference(PAPER)), LOGITS)


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_an_error_that_is_no_number_is_infinite() -> None:
    made = Approx(torch.tensor([1.0, math.nan, math.inf]), torch.tensor([math.nan, 0.0, 0.0]))
    assert made.error.tolist() == [math.inf] * 3


@pytest.mark.parametrize("title", ["DEEPSEEK_V4", "LIGER", "LUCIDRAINS", "PAPER"])
@pytest.mark.parametrize("error", [0.03, 3.0, 30.0, 1e3, 1e300])
def test_logits_known_as_badly_as_those_of_wide_states_have_a_bound_that_is_a_number(title: str, error: float) -> None:
    logits = torch.tensor([[[0.0, 30.0], [-5.0, 1.0]]], dtype=torch.float64)
    found = projection(Approx(logits, torch.full_like(logits, error)), PRESETS[title], Rounding.of(torch.float32))
    assert not any(part.isnan().any() for part in found)
    assert (found.error >= 0).all()
    assert (found.line >= 0).all()
    assert (found.entry >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("title", ["DEEPSEEK_V4", "LUCIDRAINS", "PAPER"])
def test_the_bounds_of_the_mappings_of_a_wide_state_are_numbers(title: str) -> None:
    dialect, (n, channels) = PRESETS[title], (4, 65536)
    generator = torch.Generator().manual_seed(0)
    shape = (channels, 2 + n) if dialect.shared_projection else (n * channels, 2 * n + n * n)
    phi = torch.randn(shape, generator=generator) / math.sqrt(shape[0])
    params = Params(phi, torch.randn(2 * n + n * n, generator=generator), torch.ones(3))
    state = Approx.exact(torch.randn(1, n, channels, generator=generator))
    found = coefficients(state, params, dialect, Rounding.of(torch.float32))
    assert all((part.error >= 0).all() for part in found.parts().values())


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_a_gradient_that_falls_below_the_normal_numbers_may_be_flushed(size: float) -> None:
    x, params, normal = generic(PAPER, 2, 3)
    none, bar = Approx.exact(torch.zeros(2, 2)), Approx.exact(1e-40 * normal(2, 2))
    r = Rounding.of(torch.float32)
    still = Approx.exact(torch.zeros(2, 2, 2))
    found = coefficients_gradient(Approx.exact(size * x), params, bar, none, still, PAPER, r)
    assert all((part.error >= torch.finfo(torch.float32).tiny).all() for part in found)
