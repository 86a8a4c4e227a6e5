"""What only a GPU can show: CUDA does what `Cuda` says of it, correct code passes there, and what is wrong is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from many_cases import LAWS, ORACLES, heard_alike
from test_device_laws import CORRECT, SEEN_BY, SHORT, of
from torch import Tensor

from mhc_ref import PRESETS
from properties.catalogue import controls, deviations
from properties.core.device import Cuda, device_of, held_to
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PLACE = torch.device("cuda")
HERE = device_of("cuda")


def verdict(law: str, implementation: Implementation, where: Path, examples: int = 16) -> Verdict:
    """The law on the GPU, in float32."""
    implementation.streams = (3,)
    subject = Subject("target", implementation, torch.float32, PLACE)
    profile = Profile(examples, derandomise=True, shrink=False)
    return examine(all_laws()[law], subject, profile, directory=where)


# -- the device -------------------------------------------------------------------------------------------------------


def test_a_transfer_keeps_values_and_gives_storages_of_their_own() -> None:
    given = [torch.arange(6.0).view(2, 3).t(), torch.zeros(0, 4), torch.tensor(2.5, dtype=torch.bfloat16)]
    made = HERE.transfer(given, PLACE)
    assert all(torch.equal(new.cpu(), old) for old, new in zip(given, made, strict=True))
    assert {new.device.type for new in made} == {"cuda"}
    assert len({new.untyped_storage().data_ptr() for new in made if new.numel()}) == 2


class Raw:
    """Memory of the caching allocator as it is handed out, past `torch.empty`."""

    def __init__(self, size: int) -> None:
        self.pointer = torch.cuda.caching_allocator_alloc(4 * size)
        self.__cuda_array_interface__: dict[str, Any] = {
            "data": (self.pointer, False),
            "shape": (size,),
            "typestr": "<f4",
            "version": 3,
        }


@pytest.mark.parametrize("size", [3, 1000, 77777])
def test_memory_that_nobody_wrote_is_poisoned(size: int) -> None:
    before = torch.get_deterministic_debug_mode()
    with HERE.poisoned(PLACE, [4 * size]):
        assert torch.empty(size, device=PLACE).isnan().all()
        raw = Raw(size)
        assert torch.as_tensor(raw, device=PLACE).isnan().all()
        torch.cuda.caching_allocator_delete(raw.pointer)
    assert torch.get_deterministic_debug_mode() == before


def test_what_is_queued_on_a_side_stream_is_late_and_done_in_the_end() -> None:
    written, late = torch.ones(5, device=PLACE), torch.zeros(5, device=PLACE)
    HERE.synchronise()
    with HERE.side_stream():
        late.copy_(written)
        with HERE.default_stream():
            early = late.clone()
            read = early.cpu()
        behind = late.clone()
    assert read.tolist() == [0] * 5
    assert behind.tolist() == late.tolist() == [1] * 5


def test_a_captured_call_is_replayed_on_new_inputs() -> None:
    x = torch.ones(3, device=PLACE)
    graph = HERE.capture(lambda: x * 2 + 1)
    x.fill_(4.0)
    graph.replay()
    assert graph.outputs.tolist() == [9.0] * 3


def test_a_capture_that_waits_for_the_host_is_refused_and_leaves_the_device_usable() -> None:
    x = torch.ones(3, device=PLACE)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            HERE.capture(lambda: x * float(x.sum()))
    assert (x + 1).tolist() == [2.0] * 3
    graph = HERE.capture(lambda: x + 1)
    graph.replay()
    assert graph.outputs.tolist() == [2.0] * 3


def test_the_device_counts_its_own_time() -> None:
    timer = HERE.timer()
    a = torch.ones(512, 512, device=PLACE)
    timer.around(lambda: a @ a)
    seconds = timer.seconds
    assert seconds is not None
    assert 0 < seconds < 60


def test_a_worker_is_refused_what_belongs_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # which sharing sets otherwise
    free, total = torch.cuda.mem_get_info()
    assert isinstance(HERE, Cuda)
    HERE.share(0, 100)
    try:
        assert HERE.short_of(free) is not None
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(2 * HERE.part(100) * total), dtype=torch.uint8, device=PLACE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert HERE.short_of(1) is None


def products(declared: str) -> Tensor:
    """Of 1 + 2^-12, which TensorFloat-32 cannot hold."""
    a = torch.full((64, 64), 1 + 2.0**-12, device=PLACE)
    with held_to(declared):
        return (a @ a).cpu()


def test_torch_reads_operands_as_declared() -> None:
    assert (products("compute") / 64 == (1 + 2.0**-12) ** 2).all()
    assert (products("tf32") / 64 == 1.0).all()


# -- verdicts ---------------------------------------------------------------------------------------------------------


TRACED = {"compiled-without-weight", "compiled-blocks-are-the-same"}
"""What torch.compile traces, in a process without the shape checks of these tests."""


def test_another_thread_computes_the_same_there(tmp_path: Path) -> None:
    """The fake device is a mode of one thread, so that the tests on a CPU cannot ask it."""
    for one, status in ((Reference(SHORT), "passed"), (deviations.build("post-scale-of-a-thread", SHORT), "failed")):
        found = verdict("execution.threads-do-not-matter", one, tmp_path)
        assert found.status == status, found.message


@pytest.mark.parametrize("name", [name for name in SEEN_BY if name not in TRACED])
def test_a_deviation_that_hides_in_ordinary_calls_is_seen(name: str, tmp_path: Path) -> None:
    found = verdict(of(SEEN_BY[name]).id, deviations.build(name, SHORT), tmp_path)
    assert found.status == "failed", found.reason


@pytest.mark.parametrize(
    ("law", "name"), [(law, name) for law, names in CORRECT.items() if law not in TRACED for name in names]
)
def test_a_control_is_never_accused(law: str, name: str, tmp_path: Path) -> None:
    found = verdict(of(law).id, controls.build(name, SHORT), tmp_path, examples=4)
    assert found.status == "passed", found.reason or found.message


@pytest.mark.parametrize(
    ("target", "status"), [("control:linear@PAPER", 0), ("deviation:compiled-without-weight@PAPER", 1)]
)
def test_the_compiler_is_tried(target: str, status: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "properties.cli", "check", target, "--device", "cuda", "--law", "device.compiled"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == status, ran.stdout
    assert "1 of 1 laws exercised" in ran.stdout


@pytest.mark.parametrize(
    "law", ["precision.norm-and-projection-keep-the-compute-precision", "block.agrees-with-oracle"]
)
def test_tensorfloat32_must_be_declared(law: str, tmp_path: Path) -> None:
    """torch's own switch, which is set to what is declared, makes the same products right or wrong."""

    class Fast(Reference):
        def mappings(self, x: Tensor, params: Any) -> Any:
            with held_to("tf32"):
                return super().mappings(x, params)

    fast = Fast(SHORT)
    assert verdict(law, fast, tmp_path).status == ("failed" if law.startswith("precision") else "passed")
    fast.products = "tf32"
    assert verdict(law, fast, tmp_path).status == "passed"


@pytest.mark.parametrize("options", [("--isolate",), ("-n", "3")])
def test_a_process_of_its_own_and_workers_reach_the_device(options: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", "properties", "-q"]
    command += [
        "-p",
        "no:cacheprovider",
        "--impl",
        "ref:PAPER",
        "--device",
        "cuda",
        "--law",
        "manifold.agrees",
        *options,
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert "1 of 1 laws exercised" in ran.stdout
    assert ("3 workers share it" in ran.stdout) == ("-n" in options)


@pytest.mark.parametrize("name", ["PAPER", "DEEPSEEK_V4", "MHC_LITE", "LUCIDRAINS"])
def test_many_cases_have_the_ratios_there_that_the_cpu_finds_in_what_was_answered(name: str) -> None:
    for id in ORACLES:
        if LAWS[id].inapplicable(Reference(PRESETS[name]), torch.float32) is None:
            heard_alike(id, PRESETS[name], PLACE, 300)
