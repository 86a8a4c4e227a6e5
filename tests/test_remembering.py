"""Exact answers that are kept: the same as those that are computed, and of the same question alone."""

import math
import os
from typing import Any

import pytest
import torch

from mhc_ref import DEEPSEEK_V4, PAPER, Mappings, Params
from properties.core.case import BranchSpec
from properties.core.exact_truth import ExactTruth
from properties.core.remembering import ANSWERS, Answers, _bytes  # pyright: ignore[reportPrivateUsage]

X = torch.tensor([[[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]]], dtype=torch.float64)
LOGITS = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
PARAMS = Params(
    phi=torch.arange(48.0, dtype=torch.float64).reshape(6, 8) / 50,
    bias=torch.arange(8.0, dtype=torch.float64) / 7,
    alpha=torch.ones(3, dtype=torch.float64),
    norm_weight=torch.ones(6, dtype=torch.float64),
)


@pytest.fixture(autouse=True)
def nothing_known():
    """Each test begins and ends with a process that has been told nothing."""
    ANSWERS.forget()
    yield
    ANSWERS.forget()


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often an exact truth goes through tokens from here on, one entry each."""
    calls: list[int] = []
    each = ExactTruth._each

    def counted(self: ExactTruth, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return each(self, *arguments, **options)

    monkeypatch.setattr(ExactTruth, "_each", counted)
    return calls


def test_the_same_question_is_computed_once_whoever_asks(monkeypatch: pytest.MonkeyPatch):
    calls = computed(monkeypatch)
    first, second = ExactTruth(PAPER), ExactTruth(PAPER)
    told, again = first.mappings(X, PARAMS), second.mappings(X, PARAMS)
    assert len(calls) == 1
    assert isinstance(again, Mappings)
    assert all(torch.equal(one, other) for one, other in zip(told, again, strict=True))
    assert first.asked == second.asked == 1


def test_gradients_and_reads_of_layers_keep_their_form(monkeypatch: pytest.MonkeyPatch):
    calls = computed(monkeypatch)
    branch, bar = BranchSpec("scale", torch.tensor([1.0, 2.0, -1.0])), torch.ones_like(X)
    truth = ExactTruth(PAPER)
    told = [truth.layers_vjp(X, [PARAMS], [branch], bar) for _ in range(2)]
    read = [truth.layers(X, [PARAMS], [X[..., 0, :]]) for _ in range(2)]
    assert len(calls) == 2
    assert type(told[1]) is list
    assert all(torch.equal(one, other) for one, other in zip(*told, strict=True))
    assert type(read[1][0]) is list
    assert torch.equal(read[0][1], read[1][1])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda truth: truth.project(LOGITS + 1e-16 * torch.tensor([[1.0, 0], [0, 1]])), id="last bits"),
        pytest.param(lambda truth: truth.project(LOGITS[None]), id="shape"),
        pytest.param(lambda truth: truth.project(LOGITS.float()), id="dtype"),
        pytest.param(lambda truth: truth.project(-LOGITS), id="sign"),
        pytest.param(lambda truth: truth.project_vjp(LOGITS, LOGITS), id="method"),
        pytest.param(lambda _: ExactTruth(DEEPSEEK_V4).project(LOGITS), id="dialect"),
    ],
)
def test_another_question_is_computed(monkeypatch: pytest.MonkeyPatch, other):
    truth = ExactTruth(PAPER)
    truth.project(LOGITS)
    calls = computed(monkeypatch)
    other(truth)
    assert len(calls) == 1


def test_branches_are_part_of_the_question(monkeypatch: pytest.MonkeyPatch):
    calls = computed(monkeypatch)
    truth, bar = ExactTruth(PAPER), torch.ones_like(X)
    for weight in (1.0, 2.0):
        for kind in ("scale", "constant"):
            truth.layers_vjp(X, [PARAMS], [BranchSpec(kind, torch.tensor(weight))], bar)
    truth.layers_vjp(X, [PARAMS], [BranchSpec("identity")], bar)
    assert len(calls) == 5


def test_parameters_that_are_absent_are_part_of_the_question(monkeypatch: pytest.MonkeyPatch):
    calls = computed(monkeypatch)
    truth = ExactTruth(PAPER)
    truth.mappings(X, PARAMS)
    truth.mappings(X, PARAMS._replace(norm_weight=None))
    assert len(calls) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_how_numbers_lie_is_no_part_of_the_question(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype):
    """Of one entry, a stride can be anything, and what is computed from shapes alone takes it for in order."""
    truth, calls = ExactTruth(PAPER), computed(monkeypatch)
    one = torch.arange(6.0, dtype=dtype).reshape(2, 3)[:, :1].T[:, :1]
    assert one.stride() != (1, 1)
    for logits in (one, one.clone().reshape(1, 1)):
        assert torch.equal(truth.project(logits), torch.ones(1, 1, dtype=torch.float64))
    turned = LOGITS.to(dtype)
    truth.project(turned)
    truth.project(turned.T.contiguous().T)
    assert len(calls) == 2


def test_what_is_written_to_an_answer_does_not_reach_the_next_one():
    truth = ExactTruth(PAPER)
    first = truth.project(LOGITS)
    right = first.clone()
    first.zero_()
    second = truth.project(LOGITS)
    assert torch.equal(second, right)
    second.zero_()
    assert torch.equal(truth.project(LOGITS), right)


def test_the_ones_unused_for_longest_go():
    each = _bytes(torch.zeros(4))
    kept = Answers(most=2 * each)
    for name in (b"a", b"b"):
        kept.put(name, [torch.zeros(4)])
    assert kept.get(b"a") is not None
    kept.put(b"c", [torch.zeros(4)])
    assert kept.get(b"b") is None
    assert kept.get(b"a") is not None
    assert kept.get(b"c") is not None
    kept.put(b"d", torch.zeros(2 * each))  # too much by itself: nothing goes for it
    assert (kept.get(b"d"), len(kept)) == (None, 2)


def test_answers_without_numbers_take_room_as_well():
    kept = Answers(most=10000)
    for name in range(100):
        kept.put(bytes([name]), [torch.zeros(0, 2, 2)])
    assert len(kept) < 13


@pytest.mark.parametrize("count", [0, 1])
def test_what_is_made_by_default_elsewhere_does_not_take_the_answer_along(count: int):
    bar = torch.ones_like(X[:count])
    with torch.device("meta"):
        told = ExactTruth(PAPER).mappings_vjp(X[:count], PARAMS, [bar[..., 0], bar[..., 0], bar[..., :2]])
        project = ExactTruth(PAPER).project(LOGITS * math.nan)
    assert {one.device.type for one in (*told, project)} == {"cpu"}
    assert all(torch.equal(one, one) for one in told)


def test_a_negative_view_is_the_question_of_its_numbers():
    told = ExactTruth(PAPER).project(torch._neg_view(LOGITS))  # pyright: ignore[reportPrivateImportUsage]
    assert torch.equal(told, ExactTruth(PAPER).project(-LOGITS))


def test_another_kind_of_truth_is_asked_by_itself(monkeypatch: pytest.MonkeyPatch):
    class Other(ExactTruth):
        pass

    calls = computed(monkeypatch)
    for kind in (ExactTruth, Other):
        kind(PAPER).project(LOGITS)
    assert len(calls) == 2


def test_what_is_told_in_inference_mode_is_an_ordinary_tensor_afterwards():
    with torch.inference_mode():
        ExactTruth(PAPER).project(LOGITS)
    assert not ExactTruth(PAPER).project(LOGITS).is_inference()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_while_the_memory_is_held_has_one_of_its_own():
    kept = Answers()
    kept.put(b"a", torch.zeros(1))
    with kept._lock:  # pyright: ignore[reportPrivateUsage]
        child = os.fork()
        if child == 0:
            free = kept._lock.acquire(blocking=False)  # pyright: ignore[reportPrivateUsage]
            os._exit(0 if free and len(kept) == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert len(kept) == 1
