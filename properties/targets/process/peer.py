"""One end of a conversation in which each side calls functions of the other one, gradients included.

`--isolate` speaks this between the run and its worker: the run calls methods, the worker calls branches back, and
both call for gradients. It is private to the two; `protocol` is what other programs speak. Beyond it, a tensor
arrives with its strides and its storage: views of one storage are views of one storage over there, and a storage that
is used again is the same one again, so that the laws about strides, written arguments and remembered addresses see
what they see in process.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.core.implementation import Absent
from properties.guards.faults import AdapterError
from properties.guards.printable import message_of, printable
from properties.targets.process.protocol import (
    LONGEST_KIND,
    BadAnswer,
    ServerError,
    from_raw,
    raw,
    server_error,
    shape_of,
    shortened,
    told,
)

_REMEMBERED = 512
_LARGEST = 1 << 63
_LONGEST = 1 << 16
"""Integers from the one and strings beyond the other do not cross: no method returns any."""

Message = dict[str, Any]


class Peer:
    """One end.

    `exchange(message)` sends a request and returns the reply, passing requests that come meanwhile to `handle`.
    `functions` finds what the other side may call by name; the side without them is the one whose branches can be
    called. `life` keeps apart the numbers that two processes give, one started after the other.
    """

    def __init__(
        self,
        exchange: Callable[[Message], Message],
        functions: Callable[[str], Callable[..., Any]] | None = None,
        life: int = 0,
    ) -> None:
        self._exchange = exchange
        self._functions = functions
        self._graphs: OrderedDict[int, tuple[list[Tensor], list[Tensor]]] = OrderedDict()
        self._storages: OrderedDict[tuple[int, int, str], Tensor] = OrderedDict()
        self._branches: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._numbers = itertools.count((life << 32) + 1)
        self._raised: BaseException | None = None

    # -- asking --------------------------------------------------------------------------------------------------------

    def call(self, name: str, *arguments: Any) -> Any:
        """The other side's function of these values: tensors, parameters, branches, plain values, tuples of them."""
        tensors: list[Tensor] = []
        tree = self._pack(arguments, tensors)
        if torch.is_grad_enabled() and any(one.requires_grad for one in tensors):
            found: list[Any] = []
            outputs = _Call.apply(self, name, tree, found, *tensors)
            return self._unpack(found[0], list(cast("tuple[Tensor, ...]", outputs)))
        reply, results = self.ask(name, tree, tensors, recorded=False)
        return self._unpack(_part(reply, "tree"), results)

    def ask(self, name: str, tree: Any, tensors: Sequence[Tensor], recorded: bool) -> tuple[Message, list[Tensor]]:
        """The reply to a call, and the tensors in it; what the call wrote to its arguments is written here too."""
        mode = "inference" if torch.is_inference_mode_enabled() else "on" if torch.is_grad_enabled() else "off"
        arrays = [_sent(one, recorded) for one in tensors]
        reply = self._replied({"call": name, "tree": tree, "tensors": arrays, "mode": "on" if recorded else mode})
        with torch.no_grad() if mode != "inference" else contextlib.nullcontext():
            for position, array in _part(reply, "changed", dict).items():
                if not position.isdecimal() or int(position) >= len(tensors):
                    raise BadAnswer(f"the other side changed argument {shortened(position)} of {len(tensors)}")
                argument, now = tensors[int(position)], self._received(array)
                if now.shape != argument.shape:
                    raise BadAnswer(f"an argument of shape {list(argument.shape)} has {list(now.shape)} after the call")
                argument.copy_(now)
        return reply, [self._received(array) for array in _part(reply, "tensors", list)]

    def pull(self, graph: int, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients by the tensors of an earlier call."""
        arrays = [None if one is None else _sent(one, True) for one in cotangents]
        reply = self._replied({"pull": graph, "tensors": arrays})
        return [None if array is None else self._received(array) for array in _part(reply, "tensors", list)]

    def _replied(self, message: Message) -> Message:
        reply = self._exchange(message)
        error = reply.get("error")
        if error is None:
            return reply
        if not isinstance(error, dict):
            raise server_error(error)
        if error.get("ours") and self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        if error.get("absent"):
            raise Absent(printable(str(error.get("message"))))
        if error.get("adapter"):  # no fault of the target there either
            raise AdapterError(printable(str(error.get("message"))))
        raise server_error(error)

    # -- answering -----------------------------------------------------------------------------------------------------

    def handle(self, message: Message) -> Message:
        """The reply to a request; an exception of the function becomes an error."""
        try:
            if "pull" in message:
                return self._pulled(message)
            return self._called(message)
        except BaseException as error:  # everything that a function raises crosses
            if not isinstance(error, Exception) and (self._functions is None or isinstance(error, SystemExit)):
                raise  # an interrupt of the run is no business of the worker's; a worker that leaves has left
            if isinstance(error, _Foreign):
                return {"error": {"kind": error.kind, "message": message_of(error), "ours": True}}
            ours = self._functions is None
            if ours:  # a branch raised: its exception is kept here, and raised again where it began
                self._raised = error
            absent = isinstance(error, Absent)
            return {
                "error": {**told(error), "absent": absent, "ours": ours, "adapter": isinstance(error, AdapterError)}
            }

    def _called(self, message: Message) -> Message:
        mode = _part(message, "mode", str)
        recorded = mode == "on"
        arrays = cast("list[Message]", _part(message, "tensors", list))
        leaves = [self._received(array).requires_grad_(bool(array.get("grad"))) for array in arrays]
        function = self._function(_part(message, "call", str))
        with torch.inference_mode(mode == "inference"), torch.set_grad_enabled(recorded):
            given = [
                one.clone() if array["grad"] == "inner" else one for one, array in zip(leaves, arrays, strict=True)
            ]
            before = [raw(one) for one in given]
            result = function(*self._unpack(_part(message, "tree"), given))
        outputs: list[Tensor] = []
        tree = self._pack(result, outputs)
        graph = 0
        if recorded and any(one.requires_grad for one in leaves) and any(one.requires_grad for one in outputs):
            graph = next(self._numbers)
            self._graphs[graph] = (leaves, outputs)
            _trim(self._graphs)
        changed = {str(k): _sent(one, True) for k, one in enumerate(given) if raw(one) != before[k]}
        return {"tree": tree, "tensors": [_sent(one, True) for one in outputs], "graph": graph, "changed": changed}

    def _pulled(self, message: Message) -> Message:
        graph, arrays = _part(message, "pull", int), _part(message, "tensors", list)
        if graph not in self._graphs:
            raise BadAnswer(f"a gradient was asked of a call more than {_REMEMBERED} calls ago, or of none")
        leaves, outputs = self._graphs[graph]
        if len(arrays) != len(outputs):
            raise BadAnswer(f"{len(arrays)} cotangents came for {len(outputs)} outputs")
        pairs = [
            (one, self._received(array))
            for one, array in zip(outputs, arrays, strict=True)
            if array is not None and one.requires_grad
        ]
        wanted = [k for k, leaf in enumerate(leaves) if leaf.requires_grad]
        found: list[Any] = [None] * len(leaves)
        if pairs:
            gradients = torch.autograd.grad(
                [one for one, _ in pairs],
                [leaves[k] for k in wanted],
                [cotangent for _, cotangent in pairs],
                allow_unused=True,
                retain_graph=True,
            )
            for k, gradient in zip(wanted, cast("tuple[Tensor | None, ...]", gradients), strict=True):
                found[k] = None if gradient is None else _sent(gradient, True)
        return {"tensors": found}

    def _function(self, name: str) -> Callable[..., Any]:
        kind, _, number = name.partition(":")
        if self._functions is not None:
            return self._functions(name)
        if kind != "branch" or not number.isdecimal():
            raise BadAnswer(f"the other side called {shortened(name)}, which is no branch")
        if int(number) not in self._branches:
            raise BadAnswer(f"a branch was called that a call got more than {_REMEMBERED} branches ago, or none")
        return self._branches[int(number)]

    # -- values --------------------------------------------------------------------------------------------------------

    def _pack(self, value: Any, tensors: list[Tensor]) -> Any:
        if isinstance(value, Tensor):
            if (layout := _uncrossable(value)) is not None:
                return {"other": layout}
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        if isinstance(value, (Params, Mappings)):
            kind = "params" if isinstance(value, Params) else "mappings"
            return {kind: [self._pack(part, tensors) for part in value]}
        if isinstance(value, (tuple, list)):
            items = cast("Sequence[Any]", value)
            return {"list" if isinstance(value, list) else "tuple": [self._pack(part, tensors) for part in items]}
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            return {"other": f"int of {value.bit_length()} bits"}
        if isinstance(value, str) and len(value) > _LONGEST:
            return {"other": f"str of {len(value)} characters"}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if callable(value) and self._functions is None:
            number = next(self._numbers)
            self._branches[number] = value
            _trim(self._branches)
            return {"branch": number}
        return {"other": type(value).__name__}

    def _unpack(self, tree: Any, tensors: Sequence[Tensor]) -> Any:
        if not isinstance(tree, dict):
            return tree
        if len(cast("dict[str, Any]", tree)) == 1:
            ((kind, body),) = cast("dict[str, Any]", tree).items()
            if kind == "tensor" and type(body) is int and 0 <= body < len(tensors):
                return tensors[body]
            if kind == "branch" and type(body) is int:
                return _Branch(self, body)
            if kind == "other" and isinstance(body, str):
                return type(printable(body, LONGEST_KIND), (_Other,), {})()
            if kind in _SEQUENCES and isinstance(body, list):
                parts = [self._unpack(part, tensors) for part in cast("list[Any]", body)]
                least, most, made = _SEQUENCES[kind]
                if least <= len(parts) <= most:
                    return made(parts)
        raise BadAnswer(f"the other side wrote {shortened(tree)} where a value was expected")

    def _received(self, array: Message) -> Tensor:
        """The tensor, in the storage that stands for the sender's where there is one."""
        dtype = getattr(torch, _part(array, "dtype", str), None)
        if not isinstance(dtype, torch.dtype):
            raise BadAnswer(f"an array has dtype {shortened(array['dtype'])}; expected the name of one of torch's")
        shape, stride = shape_of(array.get("shape"), "an array"), _part(array, "stride", list)
        offset, address = _part(array, "offset", int), _part(array, "storage", int)
        if len(stride) != len(shape) or any(type(step) is not int or step < 0 for step in (*stride, offset)):
            raise BadAnswer(f"an array has stride {shortened(stride)}; expected one for each of its {len(shape)} axes")
        try:
            data = from_raw(base64.b64decode(_part(array, "data", str), validate=True), torch.uint8)
            device = torch.device(_part(array, "device", str))
        except (ValueError, RuntimeError) as error:  # no base64; no device
            raise BadAnswer(f"an array cannot be read: {message_of(error, 200)}") from error
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if 0 not in shape and (last + 1) * dtype.itemsize > data.numel():
            raise BadAnswer(
                f"an array of shape {shape}, stride {shortened(stride)} and offset {offset} reaches beyond its "
                f"{data.numel()} bytes"
            )
        key = (address, data.numel(), array["device"])
        storage = self._storages.get(key) if address else None
        with torch.inference_mode(False), torch.no_grad():
            if storage is None:
                storage = data.to(device, copy=True)
            else:
                storage.copy_(data)
            if address:
                self._storages[key] = storage
                self._storages.move_to_end(key)
                _trim(self._storages)
            made = torch.empty(0, dtype=dtype, device=device)
            return made.set_(storage.untyped_storage(), offset, shape, stride)


class _Foreign(Exception):
    """An exception of a branch on its way through the implementation back to where the branch lives."""

    kind = "error"


class _Other:
    """Stands for a value that does not cross: the class has its name, so that a message can say what came."""


class _Branch:
    """A branch that lives on the other side."""

    def __init__(self, peer: Peer, number: int) -> None:
        self._peer, self._number = peer, number

    def __call__(self, u: Tensor) -> Any:
        try:
            return self._peer.call(f"branch:{self._number}", u)
        except ServerError as error:
            passed = _Foreign(message_of(error))
            passed.kind = type(error).__name__
            raise passed from None


class _Call(torch.autograd.Function):
    """A call whose gradient is asked of the other side."""

    @staticmethod
    def forward(ctx: Any, peer: Peer, name: str, tree: Any, found: list[Any], *tensors: Tensor) -> tuple[Tensor, ...]:
        reply, outputs = peer.ask(name, tree, tensors, recorded=True)
        found.append(_part(reply, "tree"))
        ctx.set_materialize_grads(False)
        ctx.peer = peer
        # The number of the graph is saved as a tensor: under activation checkpointing it becomes the recomputation's.
        graph = _part(reply, "graph", int)
        ctx.save_for_backward(torch.tensor(graph))
        flags = [bool(array.get("grad")) and graph for array in reply["tensors"]]
        ctx.mark_non_differentiable(*[one for one, flag in zip(outputs, flags, strict=True) if not flag])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (graph,) = ctx.saved_tensors
        return (None, None, None, None, *ctx.peer.pull(int(graph), cotangents))


_SEQUENCES: dict[str, tuple[int, float, Callable[[list[Any]], Any]]] = {
    "params": (3, 4, lambda parts: Params(*parts)),
    "mappings": (3, 3, lambda parts: Mappings(*parts)),
    "list": (0, math.inf, list),
    "tuple": (0, math.inf, tuple),
}
"""kind -> the least and the largest number of parts, and what is made of them."""


def _part(message: Message, name: str, kind: type = object) -> Any:
    """A part of a message from the other side.

    Raises:
        BadAnswer: it is not there, or of another kind.
    """
    value = message.get(name) if isinstance(message, dict) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    there = isinstance(message, dict) and name in message  # pyright: ignore[reportUnnecessaryIsInstance]
    if not there or not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadAnswer(f"the other side wrote {shortened(message)}; expected {name} in it")
    return value


def _uncrossable(tensor: Tensor) -> str | None:
    """What a tensor is, where it is not one that strides over a storage of its own: sparse, nested, meta, fake."""
    kind = type(tensor).__name__
    if tensor.layout != torch.strided:
        return f"{kind} of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_nested:
        return f"nested {kind}"
    needed = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    storage = tensor.untyped_storage()
    if "meta" in (tensor.device.type, storage.device.type):
        return f"{kind} without data (meta)"
    if tensor.numel() and storage.nbytes() < needed * tensor.element_size():
        return f"{kind} that wraps other tensors"
    return None


def _sent(tensor: Tensor, private: bool) -> Message:
    """A tensor with its whole storage, unless that is much larger; `private`: to be put in a storage of its own."""
    storage = tensor.untyped_storage()
    plain = tensor.detach()
    if storage.nbytes() > (1 << 20) + 4 * tensor.numel() * tensor.element_size():
        plain = plain.clone(memory_format=torch.contiguous_format)
        storage = plain.untyped_storage()
    whole = torch.empty(0, dtype=torch.uint8, device=plain.device).set_(storage)
    grad = "" if not tensor.requires_grad else "leaf" if tensor.is_leaf else "inner"
    return {
        "dtype": str(plain.dtype).removeprefix("torch."),
        "shape": list(plain.shape),
        "stride": list(plain.stride()),
        "offset": plain.storage_offset(),
        "storage": 0 if private else storage.data_ptr(),
        "device": str(plain.device),
        "grad": grad,
        "data": base64.b64encode(raw(whole)).decode("ascii"),
    }


def _trim(known: OrderedDict[Any, Any]) -> None:
    while len(known) > _REMEMBERED:
        known.popitem(last=False)
