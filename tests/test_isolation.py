"""`--isolate`: what is deliberately wrong is reported for what it is, and what is right is left as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import mhc_ref
from mhc_ref import Params
from properties.core.implementation import Absent, Implementation, offers
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.guards.traces import excerpt, place_of
from properties.targets.isolation import isolated
from properties.targets.process.protocol import Limits, NoAnswer, ProcessDied, ServerError, TooMuchMemory
from properties.targets.target import TargetError, resolve

WRONG = '''
import ctypes, os, sys
import torch
import mhc_ref
from properties.core.implementation import Implementation, Reference


class Wrong(Reference):
    """Right, but for n = 2; tuned(iterations=k) is the k-th of its subclasses, so that one worker serves them all."""
    tunable = frozenset({"iterations"})

    def __init__(self):
        super().__init__(mhc_ref.PAPER, type(self).__name__)

    def tuned(self, iterations):
        return WRONG[iterations]()

    def project(self, logits):
        if logits.shape[-1] == 2:
            return self.fail(logits)
        return super().project(logits)


class Crashing(Wrong):
    def fail(self, logits):
        ctypes.string_at(0)


class Leaving(Wrong):
    def fail(self, logits):
        os._exit(7)


class Exiting(Wrong):
    def fail(self, logits):
        sys.exit(5)


class Hanging(Wrong):
    def fail(self, logits):
        while True:
            pass


class Hungry(Wrong):
    def fail(self, logits):
        eaten = []
        while True:
            eaten.append(bytearray(b"x" * (1 << 24)))


class Lying(Wrong):
    def fail(self, logits):
        return torch.full_like(logits, 0.5 + 1e-4)


class Raising(Wrong):
    def fail(self, logits):
        raise ZeroDivisionError("no streams to speak of")


class Chatting(Wrong):
    """Prints, which must not reach the wire."""
    def fail(self, logits):
        print("hello")
        os.write(1, b"hello")
        return mhc_ref.project(logits, self.dialect)


class Naming(Wrong):
    def fail(self, logits):
        return {"h_res": logits}


class Mutating(Wrong):
    def fail(self, logits):
        out = mhc_ref.project(logits, self.dialect)
        logits += 1
        return out


class Remembering(Wrong):
    """Believes that a shape says what is there (an address in a worker is the allocator's choice, so no test's)."""
    known = {}

    def fail(self, logits):
        return self.known.setdefault(logits.shape, mhc_ref.project(logits, self.dialect))


class Strided(Wrong):
    """Reads storage as if it were contiguous."""
    def fail(self, logits):
        flat = torch.empty(0, dtype=logits.dtype).set_(logits.untyped_storage())
        return mhc_ref.project(flat[: logits.numel()].reshape(logits.shape), self.dialect)


class Whole(Implementation):
    """Offers a block and nothing else."""
    def block(self, x, params, branch):
        return mhc_ref.block(x, params, branch, self.dialect)


WRONG = [*Wrong.__subclasses__(), Whole]
'''


NAMES = re.findall(r"class (\w+)\((?:Wrong|Implementation)\)", WRONG)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wrong") / "wrong.py"
    path.write_text(WRONG)
    return path


@pytest.fixture(scope="module")
def wrong(file: Path) -> Callable[[str], Implementation]:
    """A wrong implementation by its name, all in one worker."""
    # What torch loads with its first backward passes, and what a law keeps, is 150 MiB.
    worker = isolated(f"{file}:Wrong", limits=Limits(memory=512 << 20))
    return lambda name: worker.tuned(iterations=NAMES.index(name))


SEARCH = Profile(examples=60, derandomise=True, shrink=False)


def verdict(implementation: Implementation, law: str, directory: Path, profile: Profile = SEARCH) -> Verdict:
    subject = Subject("target", implementation, torch.float32, torch.device("cpu"))
    return examine(all_laws()[law], subject, profile, directory=directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Crashing", ProcessDied, "the worker was killed by SIGSEGV"),
        ("Leaving", ProcessDied, "the worker exited with status 7"),
        ("Exiting", ProcessDied, "the worker exited with status 5"),
        ("Hungry", TooMuchMemory, "the worker took more than 512 MiB of memory and was stopped"),
        ("Raising", ServerError, "no streams to speak of"),
    ],
)
def test_a_failure_is_named_and_the_next_call_is_answered(
    wrong: Callable[[str], Implementation], name: str, kind: type[Exception], message: str
) -> None:
    target = wrong(name)
    for _ in range(2):
        with pytest.raises(kind) as caught:
            target.project(torch.zeros(1, 2, 2))
        assert str(caught.value) == message
        assert_right(target)


def test_an_exception_says_where_it_was_raised(wrong: Callable[[str], Implementation], tmp_path: Path) -> None:
    with pytest.raises(ServerError) as caught:
        wrong("Raising").project(torch.zeros(1, 2, 2))
    first, *_, last = excerpt(caught.value).splitlines()
    assert last.startswith(">")
    assert last.endswith('raise ZeroDivisionError("no streams to speak of")')
    assert place_of(caught.value) in excerpt(caught.value)
    message = verdict(wrong("Raising"), "manifold.last-axis-sums", tmp_path).message
    assert f"  code   {first}\n" in message
    assert f"         {last}\n" in message


def assert_right(target: Implementation) -> None:
    three = torch.arange(9.0).reshape(1, 3, 3)
    assert torch.equal(target.project(three), mhc_ref.project(three, mhc_ref.PAPER))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "law", "found"),
    [
        ("Crashing", "manifold.last-axis-sums", "project raised ProcessDied: the worker was killed by SIGSEGV"),
        ("Hungry", "manifold.last-axis-sums", "project raised TooMuchMemory: the worker took more than 512 MiB"),
        ("Lying", "manifold.last-axis-sums", "a sum of h_res over dim -1"),
        ("Raising", "manifold.last-axis-sums", "project raised ZeroDivisionError: no streams to speak of"),
        ("Naming", "manifold.last-axis-sums", "project is dict; expected a torch.Tensor"),
        ("Mutating", "execution.projection-leaves-its-input-alone", "logits after the call"),
        ("Remembering", "execution.projection-has-no-memory", "h_res of new logits in old storage"),
        ("Strided", "execution.projection-does-not-see-strides", "h_res of a"),
    ],
)
def test_a_law_finds_it_with_its_input_and_goes_on(
    wrong: Callable[[str], Implementation], tmp_path: Path, name: str, law: str, found: str
) -> None:
    target = wrong(name)
    failed = verdict(target, law, tmp_path)
    assert failed.status == "failed"
    assert failed.reason.startswith(found)
    assert failed.counterexample is not None
    assert failed.counterexample.is_file()
    assert_right(target)


@pytest.mark.slow
def test_a_crash_is_shrunk_to_its_smallest_input(wrong: Callable[[str], Implementation], tmp_path: Path) -> None:
    failed = verdict(wrong("Crashing"), "manifold.last-axis-sums", tmp_path, Profile(examples=60, derandomise=True))
    assert "logits = [[[0, 0], [0, 0]]]" in failed.message


@pytest.mark.slow
def test_a_hang_ends_and_makes_later_calls_less_patient(file: Path, tmp_path: Path) -> None:
    hanging = isolated(f"{file}:Hanging", limits=Limits(call_seconds=2.5))
    messages: list[str] = []
    for _ in range(2):
        with pytest.raises(NoAnswer) as caught:
            hanging.project(torch.zeros(1, 2, 2))
        messages.append(str(caught.value))
        assert_right(hanging)
    assert messages[0] == "no answer within 2.5 s; the worker was stopped"
    assert "(shortened from 2.5 s after an earlier call never came back)" in messages[1]
    failed = verdict(hanging, "manifold.last-axis-sums", tmp_path)
    assert failed.reason.startswith("project raised NoAnswer: no answer within 2")
    assert failed.counterexample is not None
    assert_right(hanging)


def test_prints_do_not_reach_the_wire(wrong: Callable[[str], Implementation]) -> None:
    two = torch.eye(2).unsqueeze(0)
    assert torch.equal(wrong("Chatting").project(two), mhc_ref.project(two, mhc_ref.PAPER))


# -- what is right stays right -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> Implementation:
    return isolated("ref:LIGER")


def state(n: int = 3, channels: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(2, n, channels, generator=generator, dtype=torch.float64).to(dtype)
    phi = torch.randn(n * channels, 2 * n + n * n, generator=generator, dtype=torch.float64).to(wide)
    bias = torch.randn(2 * n + n * n, generator=generator, dtype=torch.float64).to(wide)
    return x, Params(phi, bias, torch.tensor([1.0, 0.5, 2.0], dtype=wide))


def test_the_declaration_crosses(reference: Implementation) -> None:
    original = resolve("ref:LIGER")
    for name in Implementation.__annotations__:
        if name not in ("dtypes", "in_process"):
            assert getattr(reference, name) == getattr(original, name), name
    assert not reference.in_process
    assert offers(reference) == offers(original)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_block_has_the_same_bits(reference: Implementation, dtype: torch.dtype) -> None:
    x, params = state(dtype=dtype)
    seen: list[Tensor] = []

    def branch(u: Tensor) -> Tensor:
        seen.append(u)
        return u.tanh()

    expected = mhc_ref.block(x, params, torch.tanh, mhc_ref.LIGER)
    assert torch.equal(reference.block(x, params, branch), expected)
    assert [one.dtype for one in seen] == [dtype]


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_cross_in_both_directions(reference: Implementation, recomputed: bool) -> None:
    """Through the worker's block and through a branch on this side of it, also under activation checkpointing."""
    weight = torch.linspace(0.5, 2, 4, dtype=torch.float64)

    def pulled(block: Any) -> tuple[Tensor, ...]:
        x, params = state()
        leaves = [x.requires_grad_(), *(one.requires_grad_() for one in params[:3])]

        def forward(x: Tensor, *parts: Tensor) -> Tensor:
            return block(x, Params(*parts), lambda u: (weight * u).tanh())

        out: Any = checkpoint(forward, *leaves, use_reentrant=False) if recomputed else forward(*leaves)
        return (out, *torch.autograd.grad(out, leaves, torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4)))

    expected = pulled(lambda x, params, branch: mhc_ref.block(x, params, branch, mhc_ref.LIGER))
    for got, exact in zip(pulled(reference.block), expected, strict=True):
        assert torch.equal(got, exact)


def test_an_exception_of_a_branch_comes_back_as_it_is(reference: Implementation) -> None:
    x, params = state()
    error = ValueError("the branch's own")

    def branch(u: Tensor) -> Tensor:
        raise error

    with pytest.raises(ValueError, match="the branch's own") as caught:
        reference.block(x, params, branch)
    assert caught.value is error
    assert reference.project(torch.zeros(1, 1, 1)).item() == pytest.approx(1, abs=1e-5)


def test_tuned_knobs_are_the_worker_s(reference: Implementation) -> None:
    once = reference.tuned(iterations=1).tuned(denominator_eps=0.0)
    assert once.dialect == mhc_ref.LIGER.with_(iterations=1, denominator_eps=0.0)
    logits = torch.arange(9.0).reshape(1, 3, 3)
    assert torch.equal(once.project(logits), mhc_ref.project(logits, once.dialect))


def test_views_of_one_storage_stay_so(reference: Implementation) -> None:
    wide = torch.arange(36.0).reshape(1, 6, 6) / 7
    for view in (wide[:, :3, 3:], wide[:, ::2, ::2], wide.transpose(-1, -2), wide[:, :1, :1].expand(1, 3, 3)):
        assert torch.equal(reference.project(view), mhc_ref.project(view, mhc_ref.LIGER))


def test_what_is_not_offered_is_absent_here_too(wrong: Callable[[str], Implementation], file: Path) -> None:
    target = wrong("Whole")
    assert offers(target) == offers(resolve(f"{file}:Whole"))
    x, params = state()
    assert torch.equal(target.block(x, params, torch.tanh), mhc_ref.block(x, params, torch.tanh, mhc_ref.PAPER))
    with pytest.raises(Absent):
        target.project(torch.zeros(1, 2, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "law",
    [
        "manifold.last-axis-sums",
        "execution.projection-does-not-see-strides",
        "gradient.block-pulls-back-to-state-and-parameters",
    ],
)
def test_laws_judge_the_reference_as_in_process(reference: Implementation, tmp_path: Path, law: str) -> None:
    ours = verdict(reference, law, tmp_path, Profile(examples=6, derandomise=True))
    plain = verdict(resolve("ref:LIGER"), law, tmp_path, Profile(examples=6, derandomise=True))
    assert (ours.status, ours.worst_ratio, ours.examples) == (plain.status, plain.worst_ratio, plain.examples)


@pytest.mark.slow
def test_an_import_that_takes_all_memory_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "hungry.py"
    path.write_text("HELD = []\nwhile len(HELD) < 64:\n    HELD.append(b'x' * (64 << 20))\nraise MemoryError\n")
    message = "while the worker imported it: the worker took more than 1 GiB of memory and was stopped"
    with pytest.raises(TargetError, match=message):
        isolated(f"{path}:Mine", limits=Limits(start_memory=1 << 30))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os; os._exit(9)", "while the worker imported it: the worker exited with status 9"),
        ("attr = 3", "is int; expected an Implementation"),
    ],
)
def test_a_target_that_cannot_be_had_is_no_finding(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "target.py"
    path.write_text(source)
    with pytest.raises(TargetError, match=message):
        isolated(f"{path}:attr")
