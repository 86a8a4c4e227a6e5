"""Where an implementation computes: what the suite asks of a device beside tensors.

Laws, bounds and reports never ask which device they are on: they ask the `Device` for what they need (a captured
graph, a stream of its own, poisoned memory, room for 2^31 elements), or it says why it cannot. `DEVICES` has one for
every type of torch device; verdicts are made on the CPU, but in a pass over many cases (`properties.core.rows`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.utils.deterministic
from torch import Tensor

# There is no public way to ask which mode of dispatch is on.
from torch.utils._python_dispatch import _get_current_dispatch_mode  # pyright: ignore[reportPrivateUsage]

Feature = Literal["accelerator", "graphs", "streams", "giants", "autocast"]
"""accelerator: another device than the CPU; graphs: a sequence of kernels can be captured and replayed; streams: work
can be queued beside other work; giants: tensors of more elements than 32 bits count; autocast: torch.autocast."""

_WANTED: dict[Feature, str] = {
    "accelerator": "a second device beside the CPU",
    "graphs": "graphs that are captured and replayed",
    "streams": "streams",
    "giants": "memory for tensors of 2^31 elements",
    "autocast": "torch.autocast",
}

GIB = 2**30
_CONTEXT = GIB // 2
"""What a process takes of a GPU before it allocates anything: its context and the kernels of torch."""


@dataclass(frozen=True)
class Graph:
    """What a captured call returned, and the function that fills it again from the inputs of the capture."""

    outputs: Any
    replay: Callable[[], None]


class Device:
    """A place of computation, by default one without anything beyond tensors: the CPU."""

    name = "cpu"
    features: frozenset[Feature] = frozenset({"autocast"})
    flood: tuple[int, ...] = (1031, 4099)
    """Numbers of tokens of a large batch, none a multiple of a tile; the first is the one to shrink to."""
    giant = 2**31
    """The first offset of an element that does not fit a signed 32-bit integer."""

    def missing(self) -> str | None:
        """Why nothing can be computed here; None where it can."""
        return None

    def lacks(self, feature: Feature) -> str | None:
        """Why a law that needs the feature does not apply here; None where it does."""
        if feature in self.features:
            return None
        return f"needs {_WANTED[feature]} (CUDA); {self.name} has none"

    def short_of(self, wanted: int) -> str | None:
        """Why that many bytes cannot be allocated here by this process; None where they can."""
        return None

    def described(self) -> str:
        """What it is, for the head of a report."""
        return self.name

    def share(self, worker: int, workers: int) -> None:
        """Take this worker's part of the memory, which `shared` says in words, and of the cores that compile."""

    def shared(self, workers: int) -> str:
        """How that many workers share the memory, in words."""
        return ""

    def transfer(self, tensors: Sequence[Tensor], place: torch.device) -> list[Tensor]:
        """Fresh copies there, which no caller holds."""
        return [tensor.to(place, copy=True) for tensor in tensors]

    def synchronise(self) -> None:
        """Wait until everything that was queued is done."""

    def timer(self) -> Timer:
        """A clock of the device's own work."""
        return Timer()

    def side_stream(self) -> AbstractContextManager[None]:
        """A stream beside the default one, on which what is queued inside is late."""
        raise NotImplementedError(self.lacks("streams"))

    def default_stream(self) -> AbstractContextManager[None]:
        """The stream that is current where nobody chose one."""
        raise NotImplementedError(self.lacks("streams"))

    def capture(self, call: Callable[[], Any]) -> Graph:
        """Warm up, then capture the call; its inputs are the tensors that it reads, to be written before a replay."""
        raise NotImplementedError(self.lacks("graphs"))

    def compiled(self, call: Callable[..., Any], dynamic: bool = False, traced: bool = False) -> Callable[..., Any]:
        """The call under torch.compile, for one shape or for any; on the CPU without a C++ compiler, by tracing and
        AOTAutograd alone. `traced`: without AOTAutograd, which takes longer than tracing and imports a lot."""
        return _compiled(call, "eager" if traced else "aot_eager", dynamic)

    @contextmanager
    def deterministic(self, on: bool) -> Generator[None]:
        """Deterministic algorithms are asked for, or not, whatever was asked for before."""
        before = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode(self.refused if on else "default")  # the other way imports the inductor
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before)

    @property
    def refused(self) -> str:
        """What an operation without a deterministic form does where one is asked for: "error" or "warn"."""
        return "error"

    @contextmanager
    def poisoned(self, place: torch.device, sizes: Sequence[int]) -> Generator[None]:
        """Memory that is handed out without having been written is full of NaN; `sizes` are blocks that are likely to
        be asked for, in bytes.

        torch fills them itself (`fill_uninitialized_memory`), which covers every `torch.empty` and at::empty.
        """
        switch: Any = torch.utils.deterministic  # which torch does not type
        before = torch.get_deterministic_debug_mode(), switch.fill_uninitialized_memory
        with warnings.catch_warnings():
            # Operations without a deterministic form say so; nothing here asks them to be.
            warnings.filterwarnings("ignore", category=UserWarning)
            torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import the inductor
            switch.fill_uninitialized_memory = True
            try:
                yield
            finally:
                torch.set_deterministic_debug_mode(before[0])
                switch.fill_uninitialized_memory = before[1]


def _compiled(call: Callable[..., Any], backend: str, dynamic: bool) -> Callable[..., Any]:
    if _get_current_dispatch_mode() is not None:  # under which torch compiles nothing, and says nothing
        return as_if_compiled(call)
    torch.compiler.reset()  # torch gives up on code that it has compiled for too many shapes
    return torch.compile(call, backend=backend, dynamic=dynamic)


def as_if_compiled(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call by the path that it takes where it is compiled."""

    def compiled(*given: Any) -> Any:
        with patch.object(torch.compiler, "is_compiling", lambda: True):
            return call(*given)

    return compiled


class Timer:
    """Seconds that the device itself was at work; None where the work is the host's."""

    def around(self, call: Callable[[], Any]) -> Any:
        """Make the call and count it."""
        return call()

    @property
    def seconds(self) -> float | None:
        """So far."""
        return None


class Cuda(Device):
    """One NVIDIA GPU: the current CUDA device."""

    name = "cuda"
    features = frozenset({"accelerator", "graphs", "streams", "giants", "autocast"})
    flood = (65537, 1031, 131101, 4099)
    delay = 100_000_000
    """Clock cycles for which a side stream is busy before anything that is queued on it: some 50 ms."""
    _part = 1.0
    """The fraction of the memory that this process may allocate."""

    def missing(self) -> str | None:
        return None if torch.cuda.is_available() else "no CUDA device"

    def short_of(self, wanted: int) -> str | None:
        free, total = torch.cuda.mem_get_info()
        # An older torch takes a fraction and cannot be asked for it.
        allowed = getattr(torch.cuda, "get_per_process_memory_fraction", lambda: self._part)()
        mine = allowed * total - torch.cuda.memory_allocated()
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        room = min(free + cached, mine)
        if wanted <= room:
            return None
        left = f"{max(room, 0) / GIB:.1f} GiB are left to this process"
        return f"needs {wanted / GIB:.1f} GiB of the device's memory; {left}"

    def described(self) -> str:
        if (reason := self.missing()) is not None:
            return reason
        kind = torch.cuda.get_device_properties(torch.cuda.current_device())
        override = os.environ.get("NVIDIA_TF32_OVERRIDE")
        forced = f", NVIDIA_TF32_OVERRIDE={override} outranks what is declared" if override else ""
        return f"{kind.name}, {kind.total_memory / GIB:.1f} GiB, CUDA {torch.version.cuda}{forced}"

    def part(self, workers: int) -> float:
        """The fraction of the memory that one of that many workers may allocate: an equal part of 95 % of what their
        contexts, and that of the process that gathers, leave."""
        total = torch.cuda.mem_get_info()[1]
        return max(0.95 * (total - (workers + 1) * _CONTEXT) / workers / total, 0.01)

    def share(self, worker: int, workers: int) -> None:
        if self.missing() is None and workers > 1:
            self._part = self.part(workers)
            torch.cuda.set_per_process_memory_fraction(self._part)
            # The inductor, which reads this when it is imported, would start a compiler for every core in each worker.
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            threads = max(1, cores // workers)
            os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))

    def shared(self, workers: int) -> str:
        if self.missing() is not None or workers < 2:
            return ""
        part = self.part(workers)
        total = torch.cuda.mem_get_info()[1]
        return (
            f"{workers} workers share it: each may allocate {part * total / GIB:.2f} GiB ({100 * part:.1f} %, "
            "torch.cuda.set_per_process_memory_fraction)"
        )

    def transfer(self, tensors: Sequence[Tensor], place: torch.device) -> list[Tensor]:
        return in_one_piece(tensors, lambda packed: packed.pin_memory().to(place)) if tensors else []

    def synchronise(self) -> None:
        torch.cuda.synchronize()

    def timer(self) -> Timer:
        return CudaTimer()

    @contextmanager
    def side_stream(self) -> Generator[None]:
        stream: Any = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(self.delay)  # pyright: ignore[reportPrivateUsage]  # torch's own tests of streams use it
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def default_stream(self) -> AbstractContextManager[None]:
        return torch.cuda.stream(torch.cuda.default_stream())

    def capture(self, call: Callable[[], Any]) -> Graph:
        stream: Any = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = call()
        return Graph(outputs, graph.replay)

    def compiled(self, call: Callable[..., Any], dynamic: bool = False, traced: bool = False) -> Callable[..., Any]:
        return _compiled(call, "eager" if traced else "inductor", dynamic)

    @property
    def refused(self) -> str:
        # Without this setting torch refuses every matrix product, which says nothing of who calls it.
        return "error" if os.environ.get("CUBLAS_WORKSPACE_CONFIG") in (":4096:8", ":16:8") else "warn"

    @contextmanager
    def poisoned(self, place: torch.device, sizes: Sequence[int]) -> Generator[None]:
        """As everywhere; besides, what the caching allocator has free is NaN, for kernels that take their memory from
        it without `torch.empty`."""
        wanted = [*sizes, *(2**k for k in range(9, 25))]
        blocks = [torch.full((size,), 0xFF, dtype=torch.uint8, device=place) for size in wanted for _ in range(4)]
        self.synchronise()
        del blocks
        with super().poisoned(place, sizes):
            yield


class CudaTimer(Timer):
    """CUDA events around every call."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Any, Any]] = []

    def around(self, call: Callable[[], Any]) -> Any:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = call()
        end.record()
        self._pairs.append((start, end))
        return result

    @property
    def seconds(self) -> float | None:
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in self._pairs) / 1e3


DEVICES: dict[str, Device] = {"cpu": Device(), "cuda": Cuda()}
"""One for every type of torch device that can be verified."""


def device_of(place: torch.device | str) -> Device:
    """The device of a torch device.

    Raises:
        LookupError: of a type that is not known here.
    """
    try:
        kind = torch.device(place).type
    except RuntimeError:  # no type of device that torch knows
        kind = str(place)
    if kind not in DEVICES:
        raise LookupError(f"device {kind!r} is none of {', '.join(DEVICES)}")
    return DEVICES[kind]


def in_one_piece(tensors: Sequence[Tensor], move: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The tensors after one move of one buffer of bytes, each contiguous and in a storage of its own.

    Storages are not shared: there are implementations that resize them, or hang gradients on them.
    """
    starts: list[int] = []
    end = 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.numel() * tensor.element_size() // 16) * 16
    packed = torch.zeros(end, dtype=torch.uint8)
    for tensor, start in zip(tensors, starts, strict=True):
        # of one entry any stride counts as contiguous, but for a view of its bytes
        data = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)
        packed[start : start + data.numel()] = data
    moved = move(packed)
    made: list[Tensor] = []
    for tensor, start in zip(tensors, starts, strict=True):
        data = moved[start : start + tensor.numel() * tensor.element_size()]
        made.append(data.view(tensor.dtype).view(tensor.shape).clone())
    return made


@contextmanager
def held_to(products: str) -> Generator[None]:
    """float32 matrix products of torch itself read their operands as declared, on every device.

    `torch.set_float32_matmul_precision` sets both generations of switches (allow_tf32 and fp32_precision), which torch
    refuses to see disagree; what stood before stands afterwards.
    """
    newer: list[Any] = [
        one
        for one in (getattr(torch.backends.cuda, "matmul", None), getattr(torch.backends.mkldnn, "matmul", None))
        if hasattr(one, "fp32_precision")
    ]
    before = [one.fp32_precision for one in newer]
    try:
        legacy: str | None = torch.get_float32_matmul_precision()
    except RuntimeError:  # the two generations disagreed already
        legacy = None
    _set(products)
    try:
        yield
    finally:
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)
        for one, value in zip(newer, before, strict=True):
            if one.fp32_precision != value:
                one.fp32_precision = value


def hold(products: str) -> None:
    """As `held_to`, for the rest of the process: a worker that serves one implementation."""
    _set(products)


def _set(products: str) -> None:
    torch.set_float32_matmul_precision("highest" if products == "compute" else "high")
