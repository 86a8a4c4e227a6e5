"""What the suite does to a device around a call: switches, memory, transfers, shares; nothing stays behind."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_device import FAKE, fake_device
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Params
from properties.commands.bench import Clock
from properties.core.device import DEVICES, GIB, Cuda, Device, Timer, device_of, held_to, in_one_piece
from properties.core.implementation import Products, Reference
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine
from properties.plugin import terminal
from properties.plugin.subjects import subjects
from properties.targets.target import TargetError, resolve

CPU = torch.device("cpu")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


# -- the switch of matrix products -------------------------------------------------------------------------------------


def switches() -> tuple[Any, ...]:
    matmul = torch.backends.cuda.matmul
    return torch.get_float32_matmul_precision(), getattr(matmul, "fp32_precision", None), matmul.allow_tf32


@pytest.mark.parametrize(("products", "allowed"), [("compute", False), ("tf32", True), ("tf32-truncated", True)])
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_products_are_held_to_what_is_declared_and_let_go(before: str, products: str, allowed: bool) -> None:
    def fails() -> None:
        with held_to(products):
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
            raise KeyError

    untouched = switches()
    torch.set_float32_matmul_precision(before)
    try:
        asked = switches()
        with pytest.raises(KeyError):
            fails()
        assert switches() == asked
    finally:
        torch.set_float32_matmul_precision(untouched[0])
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            torch.backends.cuda.matmul.fp32_precision = untouched[1]


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has one switch only")
def test_a_newer_switch_that_somebody_set_survives() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with held_to("compute"):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


class Watching(Reference):
    """Notes how matrix products are read whenever it is called."""

    def __init__(self, products: Products) -> None:
        super().__init__(PAPER.with_(iterations=1))
        self.products = products
        self.seen: set[str] = set()

    def block(self, x: Tensor, params: Params, branch: mhc_ref.Branch) -> Tensor:
        self.seen.add(torch.get_float32_matmul_precision())
        return super().block(x, params, branch)


@pytest.mark.slow
@pytest.mark.parametrize(("products", "precision"), [("compute", "highest"), ("tf32", "high")])
def test_every_way_of_calling_sets_the_switch(products: Products, precision: str, tmp_path: Path) -> None:
    """Calls through the bench, through a law's own function, and for a gradient."""
    watching = Watching(products)
    watching.streams = (2,)
    subject = Subject("target", watching, torch.float32, CPU)
    for law in (
        "block.inputs-reach-the-branch-once",
        "execution.blocks-are-deterministic",
        "gradient.block-pulls-back-to-state-and-parameters",
    ):
        watching.seen.clear()
        assert examine(all_laws()[law], subject, Profile(1, True, False), directory=tmp_path).status == "passed"
        assert watching.seen == {precision}
    assert torch.get_float32_matmul_precision() == "highest"


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_poisoned_memory_is_nan_and_clean_again(dtype: torch.dtype) -> None:
    before = torch.get_deterministic_debug_mode()
    with device_of("cpu").poisoned(CPU, [64]):
        held = torch.ones(4, dtype=dtype)
        assert torch.empty(5, dtype=dtype).isnan().all()
        assert torch.empty_like(held).isnan().all()
        assert held.new_empty(2, 3).isnan().all()
        assert held.resize_(8)[4:].isnan().all()
    assert torch.get_deterministic_debug_mode() == before


def test_one_transfer_carries_many_tensors() -> None:
    moves: list[Tensor] = []

    def move(packed: Tensor) -> Tensor:
        moves.append(packed)
        return packed.clone()

    given = [
        torch.arange(3.0),
        torch.arange(6, dtype=torch.float64).view(2, 3).t(),
        torch.zeros(0, 4, dtype=torch.bfloat16),
        torch.tensor(2.5, dtype=torch.float16),
        torch.ones(2).expand(3, 2),
        torch.arange(6, dtype=torch.float64)[3::3],  # one entry, of stride 3
    ]
    made = in_one_piece(given, move)
    assert len(moves) == 1
    for old, new in zip(given, made, strict=True):
        assert new.dtype == old.dtype
        assert torch.equal(new, old)
        assert new.is_contiguous()
        assert new.untyped_storage().nbytes() == new.nbytes
    assert len({new.untyped_storage().data_ptr() for new in made if new.numel()}) == 5
    made[0].add_(1)
    assert given[0].tolist() == [0, 1, 2]


def test_a_call_gets_copies_in_one_transfer() -> None:
    sizes: list[int] = []

    class Counting(Device):
        name = "counting"

        def transfer(self, tensors: Any, place: torch.device) -> list[Tensor]:
            sizes.append(len(tensors))
            return super().transfer(tensors, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEVICES, "cpu", Counting())
        trial = Subject("ref", Reference(), torch.float32, CPU).trial()
        params = Params(torch.zeros(4, 8), torch.zeros(8), torch.ones(3), torch.ones(4))
        trial.mappings(torch.ones(1, 2, 2), params)
    assert sizes == [5]


@pytest.mark.parametrize("name", ["mps", "gpu"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(LookupError, match=f"device '{name}' is none of cpu, cuda"):
        device_of(name)


# -- a GPU that several workers share ----------------------------------------------------------------------------------


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """What torch says of a GPU of 80 GiB, of which 10 are taken."""
    found: dict[str, float] = {"fraction": 1.0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="NVIDIA H100", total_memory=80 * GIB)
    )
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: found["fraction"], raising=False)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part: found.update(fraction=part))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "")  # so that it is put back
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS")
    return Cuda()


@pytest.mark.parametrize("workers", [2, 4, 16])
def test_workers_leave_room_for_each_other_and_for_their_contexts(h100: Cuda, workers: int) -> None:
    part = h100.part(workers)
    taken = workers * part * 80 + (workers + 1) * 0.5
    assert 0.9 * 80 < taken <= 80
    h100.share(0, workers)
    assert torch.cuda.get_per_process_memory_fraction() == part


def test_workers_share_the_cores_that_compile(h100: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    h100.share(0, 1)
    assert "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ
    h100.share(0, 5)
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "3"
    h100.share(0, 64)
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "3"  # what somebody has set stands


def test_one_process_takes_what_it_needs(h100: Cuda) -> None:
    h100.share(0, 1)
    assert torch.cuda.get_per_process_memory_fraction() == 1.0
    assert h100.shared(1) == ""


def test_a_run_says_where_it_is_and_how_memory_is_shared(h100: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICES, "cuda", h100)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert terminal.whereabouts("cuda", 1) == ["cuda: NVIDIA H100, 80.0 GiB, CUDA 13.0"]
    assert terminal.whereabouts("cuda", 4)[1] == (
        "cuda: 4 workers share it: each may allocate 18.41 GiB (23.0 %, torch.cuda.set_per_process_memory_fraction)"
    )
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert terminal.whereabouts("cuda", 1)[0].endswith("NVIDIA_TF32_OVERRIDE=1 outranks what is declared")


def test_room_is_what_is_free_or_allowed(h100: Cuda) -> None:
    assert h100.short_of(71 * GIB) is None  # 70 free and 1 cached
    assert h100.short_of(72 * GIB) == "needs 72.0 GiB of the device's memory; 71.0 GiB are left to this process"
    h100.share(0, 4)
    assert h100.short_of(17 * GIB) == "needs 17.0 GiB of the device's memory; 16.4 GiB are left to this process"


def test_room_is_known_to_a_torch_that_cannot_be_asked_for_its_share(
    h100: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction")
    assert h100.short_of(71 * GIB) is None
    h100.share(0, 4)
    assert h100.short_of(17 * GIB) == "needs 17.0 GiB of the device's memory; 16.4 GiB are left to this process"


class Config:
    """What the plugin asks of pytest's config in a worker."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.stash = pytest.Stash()
        self.workerinput = {"workerid": "gw3", "workercount": 4}

    def getoption(self, name: str, default: Any = None) -> Any:
        return self.options.get(name, default)


def test_a_worker_takes_its_share_before_anything_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Shared(Device):
        def share(self, worker: int, workers: int) -> None:
            calls.append((worker, workers))

    monkeypatch.setitem(DEVICES, "cuda", Shared())
    config: Any = Config(device="cuda", impl=["ref:PAPER"])
    found = subjects(config)
    assert calls == [(3, 4)]
    assert {subject.device.type for subject in found} == {"cuda"}


@without_cuda
def test_without_cuda_the_device_says_so() -> None:
    assert device_of("cuda").missing() == "no CUDA device"
    assert device_of("cuda").described() == "no CUDA device"
    assert device_of("cuda").shared(4) == ""
    device_of("cuda").share(0, 4)


@pytest.mark.parametrize("feature", ["graphs", "streams", "giants", "accelerator"])
def test_a_gpu_lacks_nothing_that_laws_ask_for(feature: Any) -> None:
    assert Cuda().lacks(feature) is None
    assert Device().lacks(feature) is not None


# -- time --------------------------------------------------------------------------------------------------------------


def test_the_clock_waits_for_the_device_and_asks_what_it_did() -> None:
    done: list[str] = []

    class Counted(Timer):
        def around(self, call: Callable[[], Any]) -> Any:
            done.append("event")
            return call()

        @property
        def seconds(self) -> float | None:
            return 0.25 * done.count("event")

    class Timed(Device):
        def timer(self) -> Timer:
            return Counted()

        def synchronise(self) -> None:
            done.append("wait")

    clock = Clock(Timed())
    assert clock.timed("implementation", lambda: 3)() == 3
    clock.timed("bounds", lambda: done.append("bounds"))()
    assert done == ["event", "wait", "bounds"]
    assert clock.timer.seconds == 0.25
    assert math.isclose(sum(clock.seconds.values()), clock.seconds["implementation"] + clock.seconds["bounds"])
    assert Clock(Device()).timer.seconds is None


# -- the fake one is strict where a GPU is -----------------------------------------------------------------------------


def test_the_fake_device_captures_and_replays_kernels() -> None:
    with fake_device() as device:
        x = torch.ones(3).to(FAKE)
        graph = device.capture(lambda: (x * 2).view(3, 1).sum(-1).add_(1))
        x.copy_(torch.tensor([5.0, 6, 7]))
        graph.replay()
        assert graph.outputs.cpu().tolist() == [11.0, 13.0, 15.0]
        for forbidden in (
            lambda: x.sum().item(),
            lambda: x.cpu(),
            lambda: x.new_tensor(1.0),
            lambda: torch.equal(x, x),
        ):
            with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
                device.capture(lambda call=forbidden: call())


def test_a_copy_on_the_fake_side_stream_is_late() -> None:
    with fake_device() as device:
        x = torch.zeros(2).to(FAKE)
        with device.side_stream():
            x.copy_(torch.ones(2).to(FAKE))
            with device.default_stream():
                early = x + 0.0
            late = x + 0.0
        assert (early.cpu().tolist(), late.cpu().tolist()) == ([0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("products", "float8", r"\.products is 'float8'; expected one of compute, tf32, tf32-truncated"),
        ("devices", "cuda", r"\.devices is 'cuda'; expected the types of device that it computes on"),
    ],
)
def test_declarations_about_devices_are_checked(field: str, value: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"import torch\nfrom properties import Implementation\n"
        f"class Mine(Implementation):\n    {field} = {value!r}\n    def project(self, z): return z\n"
    )
    with pytest.raises(TargetError, match=message):
        resolve(f"{path}:Mine")
