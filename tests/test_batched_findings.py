"""What is wrong in one of many cases comes back alone; which laws and cases are joined; the command."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from fake_device import FAKE, fake_device
from many_cases import LAWS, POST, Touched, batch_of, many, subject_of
from torch import Tensor
from typer.testing import CliRunner

from mhc_ref import PAPER, Params
from properties import cli
from properties.bounds import Approx, Rounding
from properties.bounds.block import combined, operator_of
from properties.core.batch_trial import HALF, BatchTrial
from properties.core.case import BranchSpec, Case
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.trial import LawBroken
from properties.engine.batches import joined, judged
from properties.engine.batching import examine_many, not_here
from properties.engine.counterexample import Counterexample
from properties.engine.trying import try_case
from properties.guards.faults import HarnessError
from properties.laws.batches import TOGETHER, alone
from properties.targets.target import resolve


def test_the_reference_holds_at_thousands_of_cases(tmp_path: Path) -> None:
    found = many(Reference(PAPER), tmp_path, tokens=3000)
    assert (found.status, found.asked, found.leads) == ("passed", 0, [])
    assert found.tokens >= 3000
    assert found.cases > 2900
    assert found.launches >= 8
    assert 0 < found.worst <= 1
    assert found.claims > 3000
    assert not list(tmp_path.iterdir())


def test_a_fault_in_one_case_of_hundreds_is_found_and_comes_back_alone(tmp_path: Path) -> None:
    batch = batch_of(POST.id, PAPER, torch.float32, 2, 400)
    marked = batch.alone(137).x

    def touch(x: Tensor, out: Tensor) -> Tensor:
        there = (x == marked).flatten(1).all(1)
        return torch.where(there[:, None, None], out + 1e-2 * (1 + out.abs()), out)

    trial = judged(POST, subject_of(Touched(touch)), batch)
    assert trial.suspects() == [137]
    with mock.patch("properties.engine.batching.widened", return_value=batch):
        found = many(Touched(touch), tmp_path)
    assert (found.status, found.asked, found.left) == ("failed", 1, 0)
    assert found.verdict is not None
    assert found.verdict.counterexample is not None
    stored = Counterexample.load(found.verdict.counterexample)
    with pytest.raises(LawBroken):
        try_case(POST, subject_of(Touched(touch)), stored.case)


def test_what_fails_is_shrunk_by_the_ordinary_search(tmp_path: Path) -> None:
    def touch(x: Tensor, out: Tensor) -> Tensor:
        return torch.where((x.abs().flatten(1).amax(1) > 2)[:, None, None], 1.01 * out + 1e-3, out)

    found = many(Touched(touch), tmp_path)
    assert found.status == "failed"
    assert found.verdict is not None
    case = found.verdict.case
    assert case is not None
    assert case.x.shape[0] == 1
    assert case.x.shape[1] == 2
    assert len(set(case.x.flatten().tolist())) <= 4
    assert Counterexample.load(next(tmp_path.iterdir())).law == POST.id


def test_a_call_that_breaks_for_one_case_is_taken_apart(tmp_path: Path) -> None:
    batch = batch_of(POST.id, PAPER, torch.float32, 2, 300)
    marked, calls = batch.alone(211).x, list[int]()

    def touch(x: Tensor, out: Tensor) -> Tensor:
        calls.append(len(x))
        if bool((x == marked).flatten(1).all(1).any()):
            raise IndexError("index out of range")
        return out

    with mock.patch("properties.engine.batching.widened", return_value=batch):
        found = many(Touched(touch), tmp_path, shrink=False)
    assert found.status == "failed"
    assert found.verdict is not None
    assert found.verdict.case is not None
    assert torch.equal(found.verdict.case.x, marked)
    assert "IndexError" in found.verdict.message
    assert len(calls) < 40


def test_an_answer_that_is_wrong_among_others_alone_is_a_lead_and_no_failure(tmp_path: Path) -> None:
    def touch(x: Tensor, out: Tensor) -> Tensor:
        wrong = out.clone()
        if len(x) > 8:
            wrong[-1] = 1.5 * wrong[-1] + 1
        return wrong

    found = many(Touched(touch), tmp_path, tokens=400)
    assert found.status == "lead"
    assert found.verdict is None
    assert "depends on the batch" in found.leads[0]
    assert "holds for the case alone" in found.leads[0]
    saved = sorted(tmp_path.iterdir())
    assert saved
    assert str(saved[0]) in found.leads[0]
    call = Counterexample.load(saved[0]).case
    assert 8 < len(call.x) <= 60
    with pytest.raises(LawBroken):
        try_case(POST, subject_of(Touched(touch)), call)


def test_a_call_that_breaks_with_many_tokens_alone_is_a_lead(tmp_path: Path) -> None:
    def touch(x: Tensor, out: Tensor) -> Tensor:
        if len(x) > 128:
            raise RuntimeError("too many blocks")
        return out

    found = many(Touched(touch), tmp_path, tokens=2000, at_once=300)
    assert found.status == "lead"
    assert "too many blocks" in found.leads[0]


@pytest.mark.slow
def test_float64_is_put_to_mpmath_from_half_of_its_bound_on(tmp_path: Path) -> None:
    law, reference = POST, subject_of(Touched(lambda x, out: out), torch.float64)
    batch = batch_of(law.id, PAPER, torch.float64, 2, 60)

    assert judged(law, reference, batch).limit == HALF
    assert judged(law, subject_of(Reference(PAPER)), batch_of(law.id, PAPER, torch.float32, 2, 60)).limit > HALF

    def moved(share: float) -> Implementation:
        """Off by a share of the bound, as the law has it, at one token."""
        made = Touched(lambda x, out: out)
        right = Reference(PAPER)

        def post(x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
            r = Rounding.of(torch.float64)
            error = combined(x, operator_of(Approx.exact(h_res), PAPER), r, y, Approx.exact(h_post)).error
            return right.post(x, y, h_post, h_res) + share * error

        made.post = post
        return made

    for share, status, cleared in ((0.3, "passed", False), (0.55, "passed", True), (1.6, "failed", False)):
        with mock.patch("properties.engine.batching.widened", return_value=batch):
            found = many(moved(share), tmp_path, torch.float64, tokens=60, at_once=60, shrink=False)
        assert (found.status, found.cleared > 0) == (status, cleared), share


@pytest.mark.slow
def test_what_does_not_fit_in_memory_is_judged_in_halves(tmp_path: Path) -> None:
    def touch(x: Tensor, out: Tensor) -> Tensor:
        if len(x) > 100:
            raise torch.OutOfMemoryError("out of memory")
        return out

    ours = Touched(touch)
    ours.devices = ("cpu", FAKE.type)
    with fake_device():
        found = examine_many(POST, subject_of(ours, on=FAKE), tokens=2000, at_once=200, directory=tmp_path)
    assert (found.status, found.leads) == ("passed", [])
    assert found.tokens >= 2000
    assert found.claims > 2000


def test_every_law_is_judged_together_or_says_why_not() -> None:
    laws = all_laws()
    assert set(TOGETHER) <= set(laws)
    assert {id for id, law in laws.items() if alone(law) is None} == set(TOGETHER)
    assert all(len(reason) > 20 for law in laws.values() if (reason := alone(law)) is not None)
    found = examine_many(laws["depth.expand-copies"], subject_of(Reference(PAPER)), tokens=1, directory=Path("unused"))
    assert found.status == "not-applicable"
    assert "several blocks" in found.reason


def test_declared_bounds_are_made_on_the_cpu_alone() -> None:
    ours = Reference(PAPER)
    with mock.patch("properties.engine.batching.declared_bounds", return_value=("mix house",)):
        assert not_here(POST, subject_of(ours)) is None
        ours.devices = ("cpu", FAKE.type)
        with fake_device():
            assert (
                not_here(POST, subject_of(ours, on=FAKE)) == "the declared bound of mix house is made on the CPU alone"
            )


def test_cases_of_several_tokens_are_joined_and_cut_out_again() -> None:
    law = LAWS["manifold.agrees-with-oracle"]
    cases = [Case(logits=torch.full((count, 2, 2), float(count))) for count in (1, 3, 2)]
    batch = joined(law, cases)
    assert (batch.tokens, batch.cases, batch.of.tolist()) == (6, 3, [0, 1, 1, 1, 2, 2])
    for k, case in enumerate(cases):
        assert torch.equal(batch.alone(k).logits, case.logits)
    assert batch.some([2, 0]).of.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("id", "cases", "said"),
    [
        ("depth.expand-copies", [], "judged case by case"),
        ("manifold.agrees-with-oracle", [], "no case to join"),
        (
            "manifold.agrees-with-oracle",
            [Case(logits=torch.zeros(1, 2, 2)), Case(logits=torch.zeros(1, 3, 3))],
            r"a logits \[1, 3, 3\] in torch.float32 cannot be joined to one \[1, 2, 2\]",
        ),
        (
            "manifold.agrees-with-oracle",
            [Case(logits=torch.zeros(1, 2, 2)), Case(logits=torch.zeros(1, 2, 2).double())],
            "in torch.float64 cannot be joined",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(id: str, cases: list[Case], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        joined(all_laws()[id], cases)


def test_cases_with_other_parameters_or_branches_are_not_joined() -> None:
    batch = batch_of("block.agrees-with-oracle", PAPER, torch.float32, 2, 3)
    one, law = batch.alone(0), LAWS["block.agrees-with-oracle"]
    same = Params(*(None if part is None else part.clone() for part in one.params))  # pyright: ignore[reportArgumentType]
    assert joined(law, [one, one.with_(params=same)]).cases == 2
    other = one.params._replace(bias=one.params.bias + 1)
    with pytest.raises(ValueError, match="different params"):
        joined(law, [one, one.with_(params=other)])
    weight = torch.ones(one.x.shape[-1])
    constant = one.with_(branch=BranchSpec("constant", weight))
    with pytest.raises(ValueError, match="different branch"):
        joined(law, [constant, one.with_(branch=BranchSpec("scale", weight))])
    with pytest.raises(ValueError, match="different branch"):
        joined(law, [constant, one.with_(branch=BranchSpec("constant", 2 * weight))])


def test_a_pass_has_no_more_tokens_than_a_call_takes(tmp_path: Path) -> None:
    seen: list[int] = []
    ours = Touched(lambda x, out: (seen.append(len(x)), out)[1])
    ours.max_tokens = 7
    assert many(ours, tmp_path, tokens=60).status == "passed"
    assert max(seen) == 7


@pytest.mark.slow
def test_the_command_answers_with_one_object(tmp_path: Path) -> None:
    words = [
        "batched",
        "ref:PAPER",
        "--law",
        "mixing.p",
        "--tokens",
        "600",
        "--compare",
        "5",
        "--predict",
        "--out",
        str(tmp_path),
    ]
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    out = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == out["exit"] == 0
    assert [row["law"] for row in out["laws"]] == [
        "mixing.post-is-the-declared-combination",
        "mixing.pre-is-the-weighted-sum",
    ]
    for row in out["laws"]:
        assert row["status"] == "passed"
        assert row["tokens"] >= 600
        assert row["times"] > 0
        assert set(row["seconds"]) == {"implementation", "reference", "bounds", "draw", "judging"}
    assert out["tokens_per_second"] > 0
    assert out["alone_tokens_per_second"] > 0
    assert out["predicted_tokens_per_second"] > out["alone_tokens_per_second"]
    assert sum(map(len, out["not_batched"].values())) == sum(id.startswith("mixing.p") for id in all_laws()) - 2


def test_a_wrong_target_fails_and_exits_with_1(tmp_path: Path) -> None:
    words = ["batched", "deviation:branch-output-strides-ignored", "--law", "mixing.p", "--tokens", "50"]
    words[1] = "deviation:post-scale-one"
    words[3] = "coefficients.agrees"
    done = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path)])
    out = done.output
    assert done.exit_code == 1
    assert "failed" in out
    assert "h_post" in out
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ref", "--dtype", "float8"], "takes float64, float32, bfloat16"),
        (["ref", "--tokens", "0"], "--tokens"),
        (["ref", "--law", "manifol.x"], "no law's id begins with"),
        (["nowhere:nothing"], "TARGET"),
    ],
)
def test_what_cannot_be_judged_is_a_usage_error(words: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["batched", *words, "--out", str(tmp_path)])
    told = done.output
    assert done.exit_code == 2
    assert said in told.replace("\n", " ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is asked for one")
def test_a_device_that_is_not_there_is_said_in_one_sentence() -> None:
    done = CliRunner().invoke(cli.app, ["batched", "ref", "--device", "cuda"])
    assert done.exit_code == 2
    assert "no CUDA device" in done.output
    assert resolve("ref").dialect == PAPER


def test_no_law_that_can_be_judged_so_is_no_success(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["batched", "ref", "--law", "depth.expand-copies", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "0 laws judged" in done.output


def test_a_pass_that_sees_what_the_law_does_not_is_a_fault_of_the_harness(tmp_path: Path) -> None:
    def doubled(self: BatchTrial) -> list[int]:
        self.ratios[1] = 2.0
        return [1]

    seen = pytest.raises(HarnessError, match="the pass over many cases")
    with mock.patch.object(BatchTrial, "suspects", doubled), seen:
        many(Reference(PAPER), tmp_path)
