"""A second device without a GPU: its tensors live on the CPU, say that they are on `meta`, and refuse to meet others.

`fake_device()` is a context in which `.to("meta")`, `device="meta"` and `.cpu()` move between the two as they do with
CUDA: an operation on tensors of both raises, a synchronisation during a capture raises, a copy on a side stream is
late, and a captured call is a list of kernels on fixed addresses that is run again by `replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from properties.core import observer, trial
from properties.core.device import DEVICES, Device, Graph
from properties.guards import plain

aten = torch.ops.aten
FAKE = torch.device("meta")

_CROSSING = {aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default}
"""What takes tensors of both devices with CUDA too: copies, and indices on the CPU."""

_TO = {aten.to.other, aten.to.device, aten.to.dtype_layout, aten.to.dtype}
_ON_HOST = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default}
"""What the host waits for."""


class Placed(Tensor):
    """A tensor on the fake device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Placed:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=FAKE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the fake device, outside of `fake_device()`")


class FakeMode(TorchDispatchMode):
    """Runs what the fake device is asked to run."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and its import takes two seconds

    def __init__(self) -> None:
        super().__init__()
        self.recording: list[tuple[Any, Any, Any, Any]] | None = None
        self.side = False
        self.late: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _TO:  # in inference mode it comes in one piece
            return self._taken(args[0], func._schema.arguments, args, kwargs)
        if "device" not in kwargs and not any(map(_is_placed, args)):
            return func(*args, **kwargs)
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        placed = [one for one in tensors if isinstance(one, Placed)]
        wanted = kwargs.get("device")
        here = wanted is not None and torch.device(wanted).type == FAKE.type
        if not placed and not here:
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        strangers = [one for one in tensors if not isinstance(one, Placed) and one.ndim]
        if strangers and placed and func not in _CROSSING:
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, but found at least two devices, fake and cpu"
            )
        leaves = wanted is not None and not here
        if self.recording is not None and (
            func in _ON_HOST or leaves or strangers or (here and not placed and tensors)
        ):
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        if here:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        bare_args, bare_kwargs = tree_map_only(Placed, lambda one: one.held, (args, kwargs))
        if self.side and func is aten.copy_.default:
            self.late.append(lambda: func(*bare_args, **bare_kwargs))
            return args[0]
        if self.side or func in _ON_HOST or leaves:
            self.catch_up()
        result = func(*bare_args, **bare_kwargs)
        if func is aten._to_copy.default and result is bare_args[0]:
            result = result.clone()
        if self.recording is not None:
            self.recording.append((func, bare_args, bare_kwargs, result))
        if leaves:
            return result
        owners = {id(one.held): one for one in placed}
        # A view of an ordinary tensor is an ordinary one, in inference mode too.
        ordinary = _is_view(func) and not any(one.is_inference() for one in placed)
        with torch.inference_mode(False) if ordinary else nullcontext():
            return tree_map_only(Tensor, lambda one: owners[id(one)] if id(one) in owners else Placed(one), result)

    def _taken(self, own: Tensor, names: Any, args: Any, kwargs: Any) -> Any:
        """What `Tensor.to` gives."""
        said = {one.name: value for one, value in zip(names, args, strict=False)} | kwargs
        other = said.get("other", own)
        dtype, device = said.get("dtype") or other.dtype, torch.device(said.get("device") or other.device)
        if (dtype, device.type) == (own.dtype, own.device.type) and not said.get("copy"):
            return own
        return self.__torch_dispatch__(aten._to_copy.default, (), (own,), {"dtype": dtype, "device": device})

    def catch_up(self) -> None:
        """Run what is queued on the side stream."""
        queued, self.late = self.late, []
        for one in queued:
            one()


class FromData(TorchFunctionMode):
    """torch.tensor and its like build on the CPU and copy, which a dispatch mode does not see."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.new_tensor and isinstance(args[0], Placed) and "device" not in kwargs:
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}).to(FAKE)
        wanted = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and wanted is not None and torch.device(wanted).type == FAKE.type:
            return func(*args, **{**kwargs, "device": "cpu"}).to(FAKE)
        return func(*args, **kwargs)


class FakeDevice(Device):
    """Everything that a GPU has, as far as it can be had without one."""

    name = "fake"
    features = frozenset({"accelerator", "graphs", "streams", "giants"})
    giant = 2**12

    def __init__(self, mode: FakeMode) -> None:
        self.mode = mode
        self.room = 2**40

    def short_of(self, wanted: int) -> str | None:
        return None if wanted <= self.room else f"needs {wanted} bytes; {self.room} are left"

    def synchronise(self) -> None:
        self.mode.catch_up()

    @contextmanager
    def side_stream(self) -> Generator[None]:
        self.mode.side = True
        try:
            yield
        finally:
            self.mode.catch_up()
            self.mode.side = False

    @contextmanager
    def default_stream(self) -> Generator[None]:
        before, self.mode.side = self.mode.side, False
        try:
            yield
        finally:
            self.mode.side = before

    def capture(self, call: Callable[[], Any]) -> Graph:
        for _ in range(3):
            call()
        kernels: list[tuple[Any, Any, Any, Any]] = []
        self.mode.recording = kernels
        try:
            outputs = call()
        finally:
            self.mode.recording = None
        return Graph(outputs, lambda: _replay(kernels))

    def compiled(self, call: Callable[..., Any], dynamic: bool = False, traced: bool = False) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
                return call(*arguments)

        return run

    @contextmanager
    def poisoned(self, place: torch.device, sizes: Sequence[int]) -> Generator[None]:
        with super().poisoned(torch.device("cpu"), sizes):
            yield


def _is_placed(value: Any) -> bool:
    return type(value) is Placed or (isinstance(value, (list, tuple)) and any(map(_is_placed, value)))


def _is_view(func: Any) -> bool:
    aliases = [one.alias_info for one in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _replay(kernels: list[tuple[Any, Any, Any, Any]]) -> None:
    for func, args, kwargs, result in kernels:
        if _is_view(func):
            continue  # of what is there anyway
        again = func(*args, **kwargs)
        for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
            if isinstance(old, Tensor) and old is not new:
                old.copy_(new)


@contextmanager
def fake_device() -> Generator[FakeDevice]:
    """The fake device under the name of torch's `meta`."""
    mode = FakeMode()
    device = FakeDevice(mode)
    # A tensor of a GPU is a plain one; here it is a subclass that is taken for plain where what it holds is.
    odd, kept = plain.oddity, plain.plain
    with ExitStack() as patched:
        for asking in (observer, trial):
            shown = mock.patch.object(asking, "oddity", lambda got: odd(got.held if type(got) is Placed else got))
            taken = mock.patch.object(asking, "plain", lambda got: got if type(got) is Placed else kept(got))
            patched.enter_context(shown)
            patched.enter_context(taken)
        patched.enter_context(mock.patch.dict(DEVICES, {FAKE.type: device}))
        patched.enter_context(FromData())
        patched.enter_context(mode)
        yield device
