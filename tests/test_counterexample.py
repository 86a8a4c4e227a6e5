"""Counterexample files: bit by bit what was saved, and an error that names the cause for anything else."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, Params
from properties.commands.replay import replay_file
from properties.core.case import BranchSpec, Case
from properties.engine.counterexample import FORMAT, WITHOUT_CHECKSUM, Counterexample, CounterexampleError, versions
from properties.engine.runner import Subject
from properties.guards import sealed
from properties.targets.target import resolve


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


def file_with(path: Path, text: str) -> Path:
    """A sealed file of one tensor with that header, whatever it says."""
    sealed.write(path, {"mhc_properties": text}, {"logits": torch.zeros(1, 2, 2)})
    return path


def foreign(path: Path, metadata: dict[str, str] | None) -> Path:
    save_file({"logits": torch.zeros(1, 2, 2)}, path, metadata=metadata)
    return path


def test_the_sound_header_is_sound(tmp_path: Path) -> None:
    path = file_with(tmp_path / "sound.safetensors", json.dumps(header()))
    assert Counterexample.load(path).case.logits.shape == (1, 2, 2)


DAMAGED = {
    "another version": (json.dumps(header(format="mhc-properties/counterexample/9")), "has format .*/9'; this version"),
    "no format": (json.dumps(header(format=...)), "has format None; this version reads"),
    "no json": ("{", "header is damaged: Expecting property name"),
    "a list": ("[]", "header is damaged: it is list, not an object"),
    "a number": ("3", "header is damaged: it is int, not an object"),
    "depth without end": ("[" * 100_000, "nested deeper than 60 levels"),
    "no law": (json.dumps(header(law=...)), "header is damaged: it has no 'law'"),
    "no case": (json.dumps(header(case=...)), "header is damaged: it has no 'case'"),
    "no versions": (json.dumps(header(versions=...)), "header is damaged: it has no 'versions'"),
    "a law that is a list": (json.dumps(header(law=[1])), r"law is \[1\]; expected a string"),
    "a target that is a number": (json.dumps(header(target=3)), "target is 3; expected a string"),
    "a missing tensor": (
        json.dumps(header(case={"x": {"tensor": "x"}})),
        "x is the tensor 'x', which is not in the file",
    ),
    "a tensor that is a list": (json.dumps(header(case={"x": {"tensor": []}})), r"x is \[\]; expected a string"),
    "an unknown kind": (json.dumps(header(case={"x": {"pickle": "x"}})), "unknown kind of value 'pickle'"),
    "two kinds": (json.dumps(header(case={"x": {"tensor": "x", "float": "0"}})), "an object that names one kind"),
    "a plain list": (json.dumps(header(case={"x": [1]})), "an object that names one kind"),
    "a plain float": (json.dumps(header(case={"x": 1.5})), "an object that names one kind"),
    "a case that is a list": (json.dumps(header(case=[1])), r"case is \[1\]; expected an object"),
    "a value named self": (json.dumps(header(case={"self": 1})), "header is damaged: .*self"),
    "tuples without end": (
        json.dumps(header(case={"x": json.loads('{"tuple":[' * 20 + "1" + "]}" * 20)})),
        "deeper than 8",
    ),
    "no number": (json.dumps(header(case={"x": {"float": "one"}})), "header is damaged: invalid hexadecimal"),
    "a number beyond float64": (json.dumps(header(case={"x": {"float": "0x1p9999"}})), "header is damaged"),
    "params without phi": (json.dumps(header(case={"x": {"params": {}}})), "expected parameters phi, bias, alpha"),
    "params that are text": (
        json.dumps(header(case={"x": {"params": {"phi": "a", "bias": 1, "alpha": None, "norm_weight": None}}})),
        "expected a tensor",
    ),
    "an unknown branch": (
        json.dumps(header(case={"x": {"branch": {"kind": "fork"}}})),
        "kind 'fork'; expected one of zero",
    ),
    "a branch without its weight": (
        json.dumps(header(case={"x": {"branch": {"kind": "tanh"}}})),
        "is None; expected a tensor",
    ),
    "a branch with a weight too many": (
        json.dumps(header(case={"x": {"branch": {"kind": "zero", "weight": {"tensor": "logits"}}}})),
        "expected none",
    ),
    "an unknown field": (
        json.dumps(header(dialect={"spin": 1})),
        "Dialect has no field .spin.; was it written by a later version",
    ),
    "an impossible dialect": (json.dumps(header(dialect={"iterations": -1})), "header is damaged: .*iterations is -1"),
    "an endless eps": (json.dumps(header(dialect={"rms_eps": 10**400})), "header is damaged: "),
    "an unknown dtype": (json.dumps(header(dtype="float33")), "header is damaged: .*float33"),
    "a dtype of integers": (json.dumps(header(dtype="int32")), "dtype is 'int32'; expected a floating dtype"),
    "a dtype that is no dtype": (json.dumps(header(dtype="nn")), "dtype is 'nn'"),
    "an unknown device": (json.dumps(header(device="abacus")), "header is damaged: .*abacus"),
    "a device with a number": (json.dumps(header(device="cuda:0")), "device is 'cuda:0'; expected cpu or cuda"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_header_is_refused_with_its_cause(damage: str, tmp_path: Path) -> None:
    text, cause = DAMAGED[damage]
    path = file_with(tmp_path / "damaged.safetensors", text)
    with pytest.raises(CounterexampleError, match=cause) as caught:
        Counterexample.load(path)
    assert str(path) in str(caught.value)
    outcome = replay_file(path)
    assert (outcome.status, outcome.message) == ("ERROR", str(caught.value))


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_are_recognised(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = foreign(tmp_path / "model.safetensors", metadata)
    with pytest.raises(CounterexampleError, match="is a safetensors file, but no counterexample"):
        Counterexample.load(path)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_file_that_was_cut_off_is_recognised(length: int, tmp_path: Path) -> None:
    whole = file_with(tmp_path / "whole.safetensors", json.dumps(header())).read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[:length])
    with pytest.raises(CounterexampleError, match="damaged"):
        Counterexample.load(path)


def test_a_file_that_is_something_else_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a tensor in sight " * 9)
    with pytest.raises(CounterexampleError, match="is not a safetensors file"):
        Counterexample.load(path)
    with pytest.raises(CounterexampleError, match="there is no file"):
        Counterexample.load(tmp_path / "missing.safetensors")
    with pytest.raises(CounterexampleError, match="is a folder; expected a file"):
        Counterexample.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to(file_with(tmp_path / "sound.safetensors", json.dumps(header())))
    for path, cause in [
        ("pipe", "a named pipe"),
        ("/dev/zero", "a device"),
        ("loop", "cannot be read"),
        ("a\0b", "null"),
    ]:
        with pytest.raises(CounterexampleError, match=cause):
            Counterexample.load(tmp_path / path)
    assert Counterexample.load(tmp_path / "link").law == "manifold.last-axis-sums"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2 * sealed.LARGEST)  # a hole: it takes no room on the disk
    with pytest.raises(CounterexampleError, match="has more than 512 MiB"):
        Counterexample.load(path)


@pytest.mark.parametrize(
    "lie",
    [
        '{"x":{"dtype":"F32","shape":[1048576,1048576],"data_offsets":[0,4398046511104]}}',
        '{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}',
        '{"x":{"dtype":"F33","shape":[],"data_offsets":[0,4]}}',
        '{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        '{"x":7,"__metadata__":{"a":[]}}',
        '{"__metadata__":[]}',
        "[" * 90_000,
        '"x"',
        "\x00",
    ],
)
def test_a_header_of_tensors_that_lies_is_an_error(lie: str, tmp_path: Path) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(len(lie).to_bytes(8, "little") + lie.encode() + b"1234")
    with pytest.raises(CounterexampleError, match=r"is not a safetensors file, or it is damaged|no counterexample"):
        Counterexample.load(path)
    path.write_bytes((2**62).to_bytes(8, "little") + lie.encode())
    with pytest.raises(CounterexampleError, match="is not a safetensors file, or it is damaged"):
        Counterexample.load(path)


# -- the seal ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flip_of_any_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "case.safetensors"
    example(logits=torch.tensor([[[0.5, -1.0], [2.0, 0.0]]]), n=2, name="µ").save(path)
    whole = path.read_bytes()
    assert Counterexample.load(path).checked
    length = int.from_bytes(whole[:8], "little")
    chosen = random.Random(0).sample(range(8 * len(whole)), 400)
    digest = whole.index(b"sha256")
    chosen += [*range(64), *range(8 * digest, 8 * (digest + 80)), *range(8 * (8 + length), 8 * len(whole))]
    for bit in chosen:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CounterexampleError, match=r"damaged|has format"):
            Counterexample.load(path)


def test_a_file_that_lost_its_checksum_is_damaged(tmp_path: Path) -> None:
    path = foreign(tmp_path / "case.safetensors", {"mhc_properties": json.dumps(header())})
    with pytest.raises(CounterexampleError, match="it has no checksum, which every file of its format has"):
        Counterexample.load(path)


def test_a_file_of_the_first_format_is_read_and_its_reader_told_what_it_lacks(tmp_path: Path) -> None:
    old = json.dumps(header(format=WITHOUT_CHECKSUM))
    path = foreign(tmp_path / "old.safetensors", {"mhc_properties": old})
    found = Counterexample.load(path)
    assert (found.law, found.checked) == ("manifold.last-axis-sums", False)
    outcome = replay_file(path)
    assert outcome.status == "FIXED"
    assert "note: this file was written before files had a checksum" in outcome.message
    assert "checksum" not in replay_file(file_with(tmp_path / "new.safetensors", json.dumps(header()))).message


def test_files_say_which_schema_they_have(tmp_path: Path) -> None:
    path = tmp_path / "case.safetensors"
    example(n=1).save(path)
    stored = json.loads(sealed.read(path).metadata["mhc_properties"])
    assert (stored["schema"], stored["format"]) == (2, "mhc-properties/counterexample/2")


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
        ("wrong.py:Doubled", "FAILED", r"Doubled breaks manifold\.last-axis-sums in float32 on cpu"),
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
    path = file_with(tmp_path / "old.safetensors", json.dumps(header(law="manifold.gone")))
    outcome = replay_file(path)
    assert outcome.status == "ERROR"
    assert "law 'manifold.gone', which this version does not have" in outcome.message
    assert outcome.law == ""


def test_a_case_without_what_the_law_reads_is_an_error(tmp_path: Path) -> None:
    path = file_with(tmp_path / "other.safetensors", json.dumps(header(case={"n": 3})))
    outcome = replay_file(path)
    assert outcome.status == "ERROR"
    assert "this case has no 'logits'; it has n" in outcome.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_case_found_on_cuda_is_an_error_without_one(tmp_path: Path) -> None:
    path = file_with(tmp_path / "cuda.safetensors", json.dumps(header(device="cuda")))
    assert "there is no CUDA device here (--device cpu tries it without)" in replay_file(path).message
    assert replay_file(path, device="cpu").status == "FIXED"


def test_a_subject_is_named_as_in_test_ids() -> None:
    subject = Subject("ref", resolve("ref"), torch.bfloat16, torch.device("cpu"))
    assert subject.id == "ref:PAPER-bfloat16-cpu"
