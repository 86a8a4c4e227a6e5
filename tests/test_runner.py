"""One law on one subject: who is to blame for what, and what is on disk when."""

from __future__ import annotations

import dataclasses
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from snapshots import recorded
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Branch, Mappings, Params
from properties.core.case import BranchSpec, Case
from properties.core.implementation import Implementation, Reference
from properties.core.law import Law, all_laws
from properties.core.trial import FloatTruth, LawBroken, Trial
from properties.engine.counterexample import Counterexample
from properties.engine.runner import (
    PROFILES,
    HarnessError,
    Profile,
    Subject,
    Verdict,
    examine,
    explain,
    try_case,
)
from properties.engine.search import Enough, Search
from properties.engine.tokens import fewer_tokens
from properties.strategies import Setting, projection_cases
from properties.targets.process.protocol import NoAnswer

SUMS = all_laws()["manifold.last-axis-sums"]
ORACLE = all_laws()["manifold.agrees-with-oracle"]
MAPPINGS = all_laws()["coefficients.agrees-with-oracle"]
BLOCK = all_laws()["block.agrees-with-oracle"]
QUICK = Profile(examples=6, derandomise=True)


class Given(Implementation):
    """Whatever function it is given, as one method."""

    def __init__(self, method: str, function: Callable[..., Any]) -> None:
        self.name = "given"
        setattr(self, method, function)


def subject(implementation: Implementation, dtype: torch.dtype = torch.float32) -> Subject:
    return Subject("some.py:target", implementation, dtype, torch.device("cpu"))


def verdict(implementation: Implementation, law: Law, where: Path, profile: Profile = QUICK) -> Verdict:
    return examine(law, subject(implementation), profile, directory=where)


def right(logits: Tensor) -> Tensor:
    return mhc_ref.project(logits, PAPER)


def raises(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise error

    return call


# -- what an implementation gets wrong is a failed law -----------------------------------------------------------------

WRONG_PROJECTIONS = {
    "shape": (lambda z: right(z)[..., :-1], r"project has shape \(1, 1, 0\); expected \(1, 1, 1\)"),
    "one token too few": (lambda z: right(z)[1:], r"project has shape \(0, 1, 1\); expected \(1, 1, 1\)"),
    "narrow dtype": (
        lambda z: right(z).bfloat16(),
        "project is torch.bfloat16; expected torch.float32 or torch.float64 for a torch.float32 state",
    ),
    "device": (
        lambda z: right(z).to("meta"),
        "project is on meta: it has a shape and no values; expected a torch.Tensor",
    ),
    "nothing": (lambda z: None, "project is NoneType; expected a torch.Tensor of shape"),
    "numpy": (lambda z: right(z).numpy(), "project is ndarray; expected a torch.Tensor of shape"),
    "a tuple": (lambda z: (right(z),), "project is tuple; expected a torch.Tensor of shape"),
    "an exception": (
        raises(RuntimeError("out of registers")),
        r"project raised RuntimeError: out of registers for float32\[1, 1, 1\], which its declaration accepts",
    ),
    "an assertion": (raises(AssertionError("n % 4 == 0")), r"project raised AssertionError: n % 4 == 0 for"),
    "not implemented": (raises(NotImplementedError()), "project raised NotImplementedError"),
    "not a number": (lambda z: right(z) * math.nan, "a sum of h_res over dim -1"),
    "infinity": (lambda z: right(z) + math.inf, "a sum of h_res over dim -1"),
    "too much": (lambda z: 2 * right(z), "a sum of h_res over dim -1"),
}


@pytest.mark.parametrize("mistake", WRONG_PROJECTIONS)
def test_a_mistake_of_the_implementation_is_a_failed_law(mistake: str, tmp_path: Path) -> None:
    function, message = WRONG_PROJECTIONS[mistake]
    found = verdict(Given("project", function), SUMS, tmp_path)
    assert found.status == "failed"
    assert found.counterexample is not None
    stored = Counterexample.load(found.counterexample)
    assert stored.case.logits.tolist() == [[[0.0]]]
    assert re.search(message, found.reason), found.reason
    assert stored.failure["what"] == found.reason
    assert found.reason in found.message


MAPPED = mhc_ref.mappings
WRONG_MAPPINGS = {
    "a dict": (
        lambda x, p: MAPPED(x, p, PAPER)._asdict(),
        r"mappings returned dict; expected Mappings\(pre, post, res\)",
    ),
    "two": (lambda x, p: tuple(MAPPED(x, p, PAPER))[:2], r"mappings returned tuple; expected Mappings"),
    "a missing part": (
        lambda x, p: Mappings(None, *MAPPED(x, p, PAPER)[1:]),  # pyright: ignore[reportArgumentType]
        r"mappings\.pre is NoneType; expected a torch.Tensor of shape \(1, 1\)",
    ),
    "a flat residual": (
        lambda x, p: MAPPED(x, p, PAPER)._replace(res=MAPPED(x, p, PAPER).res.flatten(-2)),
        r"mappings\.res has shape \(1, 1\); expected \(1, 1, 1\)",
    ),
}


@pytest.mark.parametrize("mistake", WRONG_MAPPINGS)
def test_mappings_of_the_wrong_form_are_a_failed_law(mistake: str, tmp_path: Path) -> None:
    function, message = WRONG_MAPPINGS[mistake]
    found = verdict(Given("mappings", function), MAPPINGS, tmp_path)
    assert found.status == "failed"
    assert re.search(message, found.reason), found.reason


def test_a_block_that_feeds_its_branch_the_wrong_shape_is_a_failed_law(tmp_path: Path) -> None:
    def block(x: Tensor, params: Params, branch: Branch) -> Tensor:
        return x + branch(x)

    found = verdict(Given("block", block), BLOCK, tmp_path)
    assert found.status == "failed"
    assert found.reason == "block: the branch input has shape (1, 1, 1); expected (1, 1)"


def test_an_implementation_that_overwrites_its_input_is_judged_by_what_it_was_given(tmp_path: Path) -> None:
    def overwriting(logits: Tensor) -> Tensor:
        result = right(logits)
        logits.zero_()
        return result

    assert verdict(Given("project", overwriting), ORACLE, tmp_path).status == "passed"
    purity = all_laws()["execution.projection-leaves-its-input-alone"]
    assert verdict(Given("project", overwriting), purity, tmp_path).status == "failed"


def test_an_implementation_that_changes_its_mind_is_a_failed_execution_law(tmp_path: Path) -> None:
    calls: list[int] = []

    def once(logits: Tensor) -> Tensor:
        calls.append(1)
        return right(logits) * (2 if len(calls) == 2 else 1)

    found = verdict(Given("project", once), SUMS, tmp_path)
    assert found.status == "failed"
    assert found.executed_law == "execution.deterministic"
    assert found.reason == ("the same input gave different results when it was tried again (execution.deterministic)")
    assert found.counterexample is not None
    assert Counterexample.load(found.counterexample).law == SUMS.id


@pytest.mark.parametrize(
    ("law", "n"),
    [
        ("manifold.last-axis-sums", 3),
        ("coefficients.agrees-with-oracle", 3),
        ("block.agrees-with-oracle", 3),
        ("manifold.triangular-closed-form", 2),  # about this n alone
        ("manifold.permutation-equivariance", 3),
        ("mixing.exact-side-is-conserved", 3),
        ("execution.no-token-is-a-legal-batch", 3),
    ],
)
def test_only_accepted_numbers_of_streams_are_drawn(law: str, n: int, tmp_path: Path) -> None:
    seen: set[int] = set()

    class Only(Reference):
        streams = (n,)

        def mappings(self, x: Tensor, params: Params) -> Mappings:
            seen.add(x.shape[-2])
            return super().mappings(x, params)

        def project(self, logits: Tensor) -> Tensor:
            seen.add(logits.shape[-1])
            return super().project(logits)

        def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
            seen.add(x.shape[-2])
            return super().post(x, y, h_post, h_res)

        def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
            seen.add(x.shape[-2])
            return super().block(x, params, branch)

    found = verdict(Only(), all_laws()[law], tmp_path, Profile(examples=3, derandomise=True, shrink=False))
    assert found.status == "passed", found.reason
    assert seen == {n}


def test_a_law_about_one_number_of_streams_says_that_it_is_not_accepted(tmp_path: Path) -> None:
    class Three(Reference):
        streams = (3,)

    found = verdict(Three(), all_laws()["manifold.triangular-closed-form"], tmp_path)
    assert (found.status, found.reason) == ("not-applicable", "is about n = 2, which is not accepted")


# -- what the harness gets wrong is not --------------------------------------------------------------------------------


def test_a_law_that_raises_is_an_error(tmp_path: Path) -> None:
    broken = dataclasses.replace(SUMS, judge=raises(ZeroDivisionError("in the law")))
    with pytest.raises(ZeroDivisionError, match="in the law"):
        verdict(Reference(), broken, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_strategy_that_raises_is_an_error(tmp_path: Path) -> None:
    broken = dataclasses.replace(SUMS, draw=lambda s: projection_cases(s).map(raises(ZeroDivisionError("drawing"))))
    with pytest.raises(ZeroDivisionError, match="drawing"):
        verdict(Reference(), broken, tmp_path)


def test_a_strategy_without_examples_is_an_error(tmp_path: Path) -> None:
    barren = dataclasses.replace(SUMS, draw=lambda s: st.builds(Case).filter(lambda case: False))
    with pytest.raises(HarnessError, match=r"manifold\.last-axis-sums: no example can be drawn for ref:PAPER-float32"):
        verdict(Reference(), barren, tmp_path)


def test_a_truth_that_raises_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FloatTruth, "project", raises(ZeroDivisionError("in the truth")))
    with pytest.raises(ZeroDivisionError, match="in the truth"):
        verdict(Reference(), SUMS, tmp_path)


def test_a_branch_that_raises_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BranchSpec, "__call__", raises(ZeroDivisionError("in the branch")))
    with pytest.raises(HarnessError, match="branch raised ZeroDivisionError: in the branch"):
        verdict(Reference(), BLOCK, tmp_path)


def test_a_branch_that_raises_is_an_error_where_the_implementation_swallows_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def block(x: Tensor, params: Any, branch: Callable[[Tensor], Tensor]) -> Tensor:
        def forgiving(u: Tensor) -> Tensor:
            try:
                return branch(u)
            except Exception:
                return torch.zeros_like(u)

        return mhc_ref.block(x, params, forgiving, PAPER)

    monkeypatch.setattr(BranchSpec, "__call__", raises(ZeroDivisionError("in the branch")))
    with pytest.raises(HarnessError, match="branch raised ZeroDivisionError: in the branch"):
        verdict(Given("block", block), BLOCK, tmp_path)


def test_a_truth_that_mpmath_contradicts_is_an_error_in_these_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FloatTruth, "project", lambda self, logits: 2 * mhc_ref.project(logits.double(), PAPER))

    def check(trial: Trial, case: Case) -> None:
        got = trial.project(case.logits)
        trial.within("h_res", got, trial.truth.project(case.logits), torch.full_like(got, 1 / 64))

    law = dataclasses.replace(SUMS, judge=check)
    with pytest.raises(HarnessError) as caught:
        try_case(law, subject(Reference()), Case(logits=torch.zeros(1, 2, 2)))
    recorded("harness-error.txt", str(caught.value))


def test_confirming_a_failure_does_not_call_the_implementation_again() -> None:
    calls: list[int] = []

    def wrong(logits: Tensor) -> Tensor:
        calls.append(1)
        return 2 * right(logits)

    with pytest.raises(LawBroken):
        try_case(SUMS, subject(Given("project", wrong)), Case(logits=torch.zeros(1, 2, 2)))
    assert len(calls) == 1


@pytest.mark.slow
def test_a_failed_law_outranks_a_fault_of_the_harness_met_while_shrinking(tmp_path: Path) -> None:
    def check(trial: Trial, case: Case) -> None:
        got = trial.project(case.logits)
        if case.logits.shape[-1] < 3:
            raise ZeroDivisionError("small cases are not understood")
        trial.within("h_res", got, torch.zeros(1), torch.full_like(got, 1 / 64))

    first: list[int] = []

    class Large(Reference):
        def project(self, logits: Tensor) -> Tensor:
            first.append(logits.shape[-1])
            return super().project(logits)

    law = dataclasses.replace(
        SUMS,
        judge=check,
        draw=lambda s: projection_cases(s).filter(lambda case: bool(first) or case.logits.shape[-1] > 2),
    )
    found = verdict(Large(), law, tmp_path)
    assert found.status == "failed"
    assert found.counterexample is not None
    assert Counterexample.load(found.counterexample).case.logits.shape[-1] > 2


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("usual_signals")
def test_the_file_is_there_before_shrinking_ends(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def killed(logits: Tensor) -> Tensor:
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)
        if logits.shape[-1] > 1:
            seen.append(logits.clone())
            return 2 * right(logits)
        return right(logits)

    with pytest.raises(KeyboardInterrupt):
        verdict(Given("project", killed), SUMS, tmp_path, Profile(examples=50, derandomise=True))
    (path,) = tmp_path.iterdir()
    assert torch.equal(Counterexample.load(path).case.logits, seen[-1])


@pytest.mark.slow
def test_the_file_in_the_end_holds_the_smallest_case(tmp_path: Path) -> None:
    found = verdict(
        Given("project", lambda z: right(z) * (2 if z.shape[-1] > 2 else 1)), SUMS, tmp_path, Profile(50, True)
    )
    (path,) = tmp_path.iterdir()
    assert found.counterexample == path
    assert path.name.startswith("manifold.last-axis-sums_given-float32-cpu_")
    assert Counterexample.load(path).case.logits.tolist() == [[[0.0] * 3] * 3]


def test_without_shrinking_the_first_failure_is_kept(tmp_path: Path) -> None:
    failed: list[Tensor] = []

    def above_two(logits: Tensor) -> Tensor:
        if logits.shape[-1] > 2:
            failed.append(logits.clone())
        return right(logits) * (2 if logits.shape[-1] > 2 else 1)

    found = verdict(Given("project", above_two), SUMS, tmp_path, Profile(50, True, shrink=False))
    assert found.status == "failed"
    assert found.counterexample is not None
    assert torch.equal(Counterexample.load(found.counterexample).case.logits, failed[0])


@pytest.mark.parametrize("name", ["a/b\\c:d [é] *", "x" * 300])
def test_any_name_of_an_implementation_makes_a_file_name(name: str, tmp_path: Path) -> None:
    implementation = Given("project", lambda z: 2 * right(z))
    implementation.name = name
    found = verdict(implementation, SUMS, tmp_path)
    assert found.counterexample is not None
    assert found.counterexample.parent == tmp_path
    assert Counterexample.load(found.counterexample).implementation == name


def test_laws_do_not_share_what_hypothesis_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = Given("project", lambda z: 2 * right(z))
    for law in (SUMS, ORACLE):
        assert verdict(wrong, law, tmp_path, Profile(examples=4, remember=True)).status == "failed"
    assert len(list((tmp_path / ".hypothesis" / "laws").iterdir())) == 2


@pytest.mark.parametrize(("profile", "remembers"), [("dev", True), ("thorough", True), ("ci", False)])
def test_what_failed_is_tried_first_in_the_next_run_of_a_profile_that_remembers(
    profile: str, remembers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = dataclasses.replace(PROFILES[profile], examples=12, shrink=False)
    seen: list[list[float]] = []

    def project(logits: Tensor) -> Tensor:
        seen.append(logits.flatten().tolist())
        return right(logits) * (2 if logits.shape[-1] == 3 and bool(logits.any()) else 1)

    target = Given("project", project)
    target.streams = (3,)
    found = verdict(target, SUMS, tmp_path, few)
    assert found.case is not None
    failing = found.case.logits.flatten().tolist()
    seen.clear()
    assert verdict(target, SUMS, tmp_path, few).status == "failed"
    assert (seen[0] == failing) is remembers
    assert (tmp_path / ".hypothesis").exists() is remembers


def test_one_profile_alone_waits_for_what_takes_seconds_an_example() -> None:
    assert [name for name, profile in PROFILES.items() if profile.thorough] == ["thorough"]
    assert PROFILES["dev"].examples < PROFILES["ci"].examples < PROFILES["thorough"].examples


def test_equal_seeds_give_equal_runs(tmp_path: Path) -> None:
    def run(seed: int) -> list[list[float]]:
        drawn: list[list[float]] = []

        def project(logits: Tensor) -> Tensor:
            drawn.append(logits.flatten().tolist())
            return right(logits)

        examine(SUMS, subject(Given("project", project)), Profile(4), directory=tmp_path, randomness=seed)
        return drawn

    assert run(1) == run(1) != run(2)


def test_a_law_that_does_not_apply_says_why_and_draws_nothing(tmp_path: Path) -> None:
    found = verdict(Given("block", raises(AssertionError())), SUMS, tmp_path)
    assert (found.status, found.reason, found.examples) == ("not-applicable", "does not offer project", 0)


# -- what a user reads -------------------------------------------------------------------------------------------------


def test_a_failed_law_reads_like_this(tmp_path: Path) -> None:
    broken = LawBroken(
        "a sum of h_res over dim -1", ratio=65536.0, got="2", exact="1", error=1.0, bound=2.0**-16, where="[0, 1]"
    )
    sparse = torch.zeros(1, 40, 33)
    sparse[0, 7, 1] = 2.5
    case = Case(
        logits=torch.tensor([[[0.0, 0.125], [-3.0, 1e-9]]]),
        x=sparse,
        dense=torch.arange(400.0).reshape(20, 20),
        params=Params(torch.eye(2), torch.zeros(3), torch.ones(3)),
        branch=BranchSpec("tanh", torch.tensor([0.5])),
        order=(1, 0),
        none=None,
        empty=torch.zeros(0, 3),
    )
    implementation = Reference(mhc_ref.DEEPSEEK_V4.with_(iterations=3), "my kernel")
    path = tmp_path / "case.safetensors"
    text = explain(SUMS, subject(implementation, torch.bfloat16), case, broken, path)
    contract = LawBroken("project raised RuntimeError: out of registers", ratio=math.inf)
    short = explain(SUMS, subject(Reference()), Case(logits=torch.zeros(1, 1, 1)), contract, path)
    recorded("failed-law.txt", f"{text}\n\n{short}", tmp_path)


# -- the examples ------------------------------------------------------------------------------------------------------


def drawn(law: str, dtype: torch.dtype, profile: Profile, where: Path) -> list[Tensor]:
    """The logits of every example, in order."""
    seen: list[Tensor] = []

    def check(trial: Trial, case: Case) -> None:
        seen.append(case.logits)
        trial.holds("an example was drawn", True)

    watching = dataclasses.replace(all_laws()[law], judge=check)
    assert verdict(Given("project", right), watching, where, profile).status == "passed"
    return seen


@pytest.mark.parametrize("profile", [PROFILES["dev"], PROFILES["ci"]], ids=["dev", "ci"])
def test_the_simplest_example_is_drawn_once_and_no_n_is_left_out_or_repeats_another(
    profile: Profile, tmp_path: Path
) -> None:
    profile = dataclasses.replace(profile, derandomise=True, remember=False)
    seen = drawn("manifold.other-axis-sums", torch.float32, profile, tmp_path)
    wild = [tuple(logits.flatten().tolist()) for logits in seen if bool(logits.any())]
    assert sum(logits.numel() == 1 and not logits.any() for logits in seen) <= 2  # the first, and one that is drawn so
    assert len(set(wild)) == len(wild) >= profile.examples - 2
    assert {logits.shape[-1] for logits in seen} == set(Given("project", right).streams)


def test_derandomised_examples_are_the_same_in_every_run_and_others_for_every_law(tmp_path: Path) -> None:
    profile = Profile(examples=4, derandomise=True)
    law, other = "manifold.agrees-with-oracle", "manifold.other-axis-sums"

    def drawn_for(law: str) -> list[list[float]]:
        return [logits.flatten().tolist() for logits in drawn(law, torch.float32, profile, tmp_path)]

    assert drawn_for(law) == drawn_for(law)
    assert drawn_for(law) != drawn_for(other)


def test_an_implementation_that_never_answers_is_asked_a_few_times_only(tmp_path: Path) -> None:
    asked = 0

    def hangs(logits: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        raise NoAnswer("still busy after 20 s")

    found = verdict(Given("project", hangs), ORACLE, tmp_path, dataclasses.replace(QUICK, examples=60))
    assert found.status == "failed"
    assert "still busy after 20 s" in found.message
    assert asked <= 8
    assert found.counterexample is not None
    assert Counterexample.load(found.counterexample).law == ORACLE.id


def test_a_hang_with_fewer_streams_leaves_the_failure_that_was_found_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, case = LawBroken("too large", ratio=2.0), Case(logits=torch.zeros(1, 4, 4))
    search = Search(SUMS, subject(Reference(PAPER)), QUICK, tmp_path / "found.safetensors")
    search.failure, search.case = first, case
    tried: list[int] = []

    def among(frame: Setting, *_: Any) -> None:
        tried.append(*frame.streams)
        search.failure, search.case = LawBroken("still busy", ratio=math.inf), Case()
        raise Enough(search.failure)

    monkeypatch.setattr(search, "_among", among)
    assert search._smallest(first) is first
    assert (search.failure, search.case) == (first, case)
    assert tried == [1, 2, 3]
    assert Counterexample.load(search.path).failure["what"] == "too large"


def test_a_law_that_a_default_declaration_asks_for_names_the_declaration(tmp_path: Path) -> None:
    def flat(logits: torch.Tensor) -> torch.Tensor:
        return right(logits.view(-1, *logits.shape[-2:])).view(logits.shape)

    law = all_laws()["execution.projection-does-not-see-strides"]
    found = verdict(Given("project", flat), law, tmp_path)
    assert found.status == "failed"
    assert "declares `strided = False`" in found.message
    assert "declares `" not in verdict(Given("project", lambda logits: 2 * right(logits)), SUMS, tmp_path).message


@pytest.mark.parametrize("seed", range(3))
def test_a_counterexample_has_no_token_that_does_not_matter(seed: int, tmp_path: Path) -> None:
    """Hypothesis left tokens of zeros before the one that fails: without them it would have been drawn otherwise."""

    class Few(Implementation):
        dialect = PAPER
        dtypes = (torch.float32,)

        def project(self, logits: Tensor) -> Tensor:
            return mhc_ref.project(logits, PAPER.with_(iterations=3))

    subject = Subject("few", Few(), torch.float32, torch.device("cpu"))
    verdict = examine(
        all_laws()["manifold.agrees-with-oracle"], subject, Profile(16), directory=tmp_path, randomness=seed
    )
    assert verdict.status == "failed"
    assert verdict.case is not None
    assert len(verdict.case.logits) == 1
    assert int((verdict.case.logits != 0).sum()) <= 4


def test_fewer_tokens_are_each_alone_and_then_all_without_each() -> None:
    subject = Subject("x", Reference(PAPER), torch.float64, torch.device("cpu"))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    smaller = list(fewer_tokens(Case(x=x, y=x.sum(1)), subject))
    assert [len(one.x) for one in smaller] == [len(one.y) for one in smaller] == [1] * 5 + [4] * 5
    assert torch.equal(smaller[3].x, x[3:4])
    assert torch.equal(smaller[5].x, x[1:])
    assert not list(fewer_tokens(Case(x=x, axes="prompt"), subject))  # tokens that have places
    assert not list(fewer_tokens(Case(x=x[:1]), subject))
