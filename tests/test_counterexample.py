"""Counterexample files: bit by bit what was saved, and an error that names the cause for anything else."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, Params
from properties.case import BranchSpec, Case
from properties.counterexample import FORMAT, Counterexample, CounterexampleError, versions
from properties.replay import replay_file
from properties.runner import Subject
from properties.target import resolve


def example(**values: Any) -> Counterexample:
    return Counterexample(
        law="manifold.last-axis-sums",
        target="ref:PAPER",
        implementation="ref:PAPER",
        dialect=PAPER,
        dtype="float32",
        device="cpu",
        case=Case(**values),
        failure={"what": "a sum", "ratio": None},
        dialect_option="PAPER",
        versions=versions(),
    )


def bits(value: Any) -> Any:
    """Something that is equal only for equal bits: NaN equals itself and 0.0 differs from -0.0."""
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), value.contiguous().flatten().view(torch.uint8).tolist())
    if isinstance(value, Params):
        return ("Params", *map(bits, value))
    if isinstance(value, BranchSpec):
        return (value.kind, bits(value.weight))
    if isinstance(value, tuple):
        return tuple(map(bits, value))
    if isinstance(value, float):
        return (float, value.hex(), math.copysign(1, value))
    return (type(value), value)


SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1.5, 0.1]
VALUES = {
    **{
        f"{str(dtype).removeprefix('torch.')}": torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    },
    "payload": torch.tensor([0x7FC00001, 0x7FA00000, 1], dtype=torch.int32).view(torch.float32),
    "integers": torch.tensor([[1, -2], [3, 2**40]]),
    "booleans": torch.tensor([True, False]),
    "scalar": torch.tensor(-0.0),
    "empty": torch.zeros(0, 3, 3, dtype=torch.bfloat16),
    "no-channels": torch.zeros(2, 3, 0),
    "strided": torch.arange(12.0).reshape(3, 4).T[1:],
    "expanded": torch.tensor([1.0]).expand(3, 1),
    "params": Params(torch.eye(2), torch.ones(3), torch.zeros(3), torch.ones(2)),
    "params-without-weight": Params(torch.eye(2), torch.ones(3), torch.zeros(3)),
    "branch": BranchSpec("zero"),
    "branch-with-weight": BranchSpec("tanh", torch.tensor([0.5, -0.0], dtype=torch.bfloat16)),
    "dialect": DEEPSEEK_V4,
    "none": None,
    "yes": True,
    "int": 2**70,
    "text": "logits → h_res",
    "tuple": (1, None, (torch.ones(1), BranchSpec("identity")), ()),
    "pi": math.pi,
    "minus-zero": -0.0,
    "nan": math.nan,
    "infinity": -math.inf,
    "tiny": 5e-324,
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_comes_back_bit_by_bit(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "case.safetensors"
    example(value=VALUES[kind]).save(path)
    ((name, found),) = Counterexample.load(path).case.items()
    assert name == "value"
    assert bits(found) == bits(VALUES[kind])


def test_everything_about_a_failure_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "case.safetensors"
    saved = example(logits=torch.zeros(1, 2, 2), n=3)
    saved.save(path)
    found = Counterexample.load(path)
    for field in ("law", "target", "implementation", "dialect", "dtype", "device", "failure", "dialect_option"):
        assert getattr(found, field) == getattr(saved, field)
    assert found.versions == versions()
    assert [name for name, _ in found.case.items()] == ["logits", "n"]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_case_that_requires_gradients_is_saved_without_its_graph(tmp_path: Path) -> None:
    path = tmp_path / "case.safetensors"
    example(x=torch.ones(2, requires_grad=True) * 2).save(path)
    assert torch.equal(Counterexample.load(path).case.x, torch.full((2,), 2.0))


def test_a_value_that_no_file_can_hold_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "case.safetensors"
    example(n=1).save(path)
    with pytest.raises(TypeError, match="strange is set"):
        example(strange={1}).save(path)
    assert Counterexample.load(path).case.n == 1
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def header(**changes: Any) -> dict[str, Any]:
    """A sound header of one value, with changes; a field changed to ... is left out."""
    found: dict[str, Any] = {
        "format": FORMAT,
        "law": "manifold.last-axis-sums",
        "target": "ref:PAPER",
        "implementation": "ref:PAPER",
        "dialect": {},
        "dialect_option": None,
        "dtype": "float32",
        "device": "cpu",
        "failure": {},
        "versions": {},
        "case": {"logits": {"tensor": "logits"}},
    }
    found.update(changes)
    return {name: value for name, value in found.items() if value is not ...}


def file_with(path: Path, metadata: dict[str, str] | None) -> Path:
    save_file({"logits": torch.zeros(1, 2, 2)}, path, metadata=metadata)
    return path


def test_the_sound_header_is_sound(tmp_path: Path) -> None:
    path = file_with(tmp_path / "sound.safetensors", {"mhc_properties": json.dumps(header())})
    assert Counterexample.load(path).case.logits.shape == (1, 2, 2)


DAMAGED = {
    "another version": (json.dumps(header(format="mhc-properties/counterexample/9")), "has format .*/9'; this version"),
    "no format": (json.dumps(header(format=...)), "has format None; this version reads"),
    "no json": ("{", "header is damaged: JSONDecodeError"),
    "a list": ("[]", "header is damaged"),
    "a number": ("3", "header is damaged"),
    "no law": (json.dumps(header(law=...)), "header is damaged: KeyError: 'law'"),
    "no case": (json.dumps(header(case=...)), "header is damaged: KeyError: 'case'"),
    "no versions": (json.dumps(header(versions=...)), "header is damaged: KeyError: 'versions'"),
    "a missing tensor": (json.dumps(header(case={"x": {"tensor": "x"}})), "header is damaged: KeyError: 'x'"),
    "an unknown kind": (json.dumps(header(case={"x": {"pickle": "x"}})), "unknown kind of value 'pickle'"),
    "two kinds": (json.dumps(header(case={"x": {"tensor": "x", "float": "0"}})), "header is damaged: ValueError"),
    "a case that is a list": (json.dumps(header(case=[1])), "header is damaged: AttributeError"),
    "no number": (json.dumps(header(case={"x": {"float": "one"}})), "header is damaged: ValueError"),
    "params without phi": (json.dumps(header(case={"x": {"params": {}}})), "header is damaged: TypeError"),
    "an unknown field": (json.dumps(header(dialect={"spin": 1})), "header is damaged: TypeError: .*'spin'"),
    "an impossible dialect": (json.dumps(header(dialect={"iterations": -1})), "header is damaged: .*iterations is -1"),
    "an unknown dtype": (json.dumps(header(dtype="float33")), "header is damaged: .*float33"),
    "an unknown device": (json.dumps(header(device="abacus")), "header is damaged: .*abacus"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_header_is_refused_with_its_cause(damage: str, tmp_path: Path) -> None:
    text, cause = DAMAGED[damage]
    path = file_with(tmp_path / "damaged.safetensors", {"mhc_properties": text})
    with pytest.raises(CounterexampleError, match=cause) as caught:
        Counterexample.load(path)
    assert str(path) in str(caught.value)
    outcome = replay_file(path)
    assert (outcome.status, outcome.message) == ("ERROR", str(caught.value))


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_are_recognised(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = file_with(tmp_path / "model.safetensors", metadata)
    with pytest.raises(CounterexampleError, match="is a safetensors file, but no counterexample"):
        Counterexample.load(path)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_file_that_was_cut_off_is_recognised(length: int, tmp_path: Path) -> None:
    whole = file_with(tmp_path / "whole.safetensors", {"mhc_properties": json.dumps(header())}).read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[:length])
    with pytest.raises(CounterexampleError, match="is not a safetensors file, or it is damaged"):
        Counterexample.load(path)


def test_a_file_that_is_something_else_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a tensor in sight " * 9)
    with pytest.raises(CounterexampleError, match="is not a safetensors file"):
        Counterexample.load(path)
    with pytest.raises(CounterexampleError, match="there is no file"):
        Counterexample.load(tmp_path / "missing.safetensors")
    with pytest.raises(CounterexampleError, match="there is no file"):
        Counterexample.load(tmp_path)


# -- replay ------------------------------------------------------------------------------------------------------------

WRONG = """
import mhc_ref
from properties import Implementation

class Doubled(Implementation):
    streams = (2, 4)
    dtypes = ("float32",)
    def project(self, logits):
        return 2 * mhc_ref.project(logits, self.dialect)

class Raising(Doubled):
    def project(self, logits):
        raise RuntimeError("out of registers")

class Right(Doubled):
    def project(self, logits):
        return mhc_ref.project(logits, self.dialect)

class Pairs(Right):
    streams = (4,)

class Half(Right):
    dtypes = ("float16",)

class Other(Right):
    dialect = mhc_ref.LIGER

class Blocks(Implementation):
    def block(self, x, params, branch):
        return x
"""


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stored counterexample of wrong.py:Doubled with n = 2."""
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "case.safetensors"
    stored = example(logits=torch.zeros(1, 2, 2))
    dataclasses.replace(stored, target="wrong.py:Doubled", dialect_option=None).save(path)
    return path


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        (None, "FAILED", r"Doubled breaks manifold\.last-axis-sums in float32 on cpu"),
        ("wrong.py:Raising", "FAILED", "project raised RuntimeError: out of registers"),
        ("wrong.py:Right", "FIXED", r"Right satisfies manifold\.last-axis-sums for this case"),
        ("ref", "FIXED", "ref:PAPER satisfies"),
        ("wrong.py:Other", "FIXED", "note: the dialect declared now differs from the stored one in last_axis"),
        ("wrong.py:Pairs", "ERROR", r"the case has n = 2; Pairs takes n = 4"),
        ("wrong.py:Half", "ERROR", "the case is in float32; Half takes float16"),
        ("wrong.py:Blocks", "ERROR", "does not apply to Blocks: does not offer project"),
        ("ref:HYPER_CONNECTIONS", "ERROR", "does not apply to ref:HYPER_CONNECTIONS: h_res is unconstrained"),
        ("wrong.py:Nobody", "ERROR", "wrong.py has no attribute 'Nobody'"),
        ("nowhere.py:Right", "ERROR", "there is no file nowhere.py"),
    ],
)
def test_a_stored_case_is_fixed_failed_or_an_error(
    failing: Path, target: str | None, status: str, message: str
) -> None:
    outcome = replay_file(failing, target)
    assert outcome.status == status, outcome.message
    assert re.search(message, outcome.message), outcome.message


def test_a_law_that_does_not_exist_any_more_is_an_error(tmp_path: Path) -> None:
    path = file_with(tmp_path / "old.safetensors", {"mhc_properties": json.dumps(header(law="manifold.gone"))})
    outcome = replay_file(path)
    assert outcome.status == "ERROR"
    assert "law 'manifold.gone', which this version does not have" in outcome.message


def test_a_case_without_what_the_law_reads_is_an_error(tmp_path: Path) -> None:
    path = file_with(tmp_path / "other.safetensors", {"mhc_properties": json.dumps(header(case={"n": 3}))})
    outcome = replay_file(path)
    assert outcome.status == "ERROR"
    assert "this case has no 'logits'; it has n" in outcome.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_case_found_on_cuda_is_an_error_without_one(tmp_path: Path) -> None:
    path = file_with(tmp_path / "cuda.safetensors", {"mhc_properties": json.dumps(header(device="cuda"))})
    assert "there is no CUDA device here (--device cpu tries it without)" in replay_file(path).message
    assert replay_file(path, device="cpu").status == "FIXED"


def test_a_subject_is_named_as_in_test_ids() -> None:
    subject = Subject("ref", resolve("ref"), torch.bfloat16, torch.device("cpu"))
    assert subject.id == "ref:PAPER-bfloat16-cpu"
