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
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.implementation import Absent
from properties.process.protocol import BadAnswer, ServerError, from_raw, raw, server_error, shortened

_REMEMBERED = 512

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
        return self._unpack(reply["tree"], results)

    def ask(self, name: str, tree: Any, tensors: Sequence[Tensor], recorded: bool) -> tuple[Message, list[Tensor]]:
        """The reply to a call, and the tensors in it; what the call wrote to its arguments is written here too."""
        mode = "inference" if torch.is_inference_mode_enabled() else "on" if torch.is_grad_enabled() else "off"
        arrays = [_sent(one, recorded) for one in tensors]
        reply = self._replied({"call": name, "tree": tree, "tensors": arrays, "mode": "on" if recorded else mode})
        with torch.no_grad() if mode != "inference" else contextlib.nullcontext():
            for position, array in reply["changed"].items():
                argument = tensors[int(position)]
                argument.copy_(self._received(array))
        return reply, [self._received(array) for array in reply["tensors"]]

    def pull(self, graph: int, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients by the tensors of an earlier call."""
        arrays = [None if one is None else _sent(one, True) for one in cotangents]
        reply = self._replied({"pull": graph, "tensors": arrays})
        return [None if array is None else self._received(array) for array in reply["tensors"]]

    def _replied(self, message: Message) -> Message:
        reply = self._exchange(message)
        error = reply.get("error")
        if error is None:
            return reply
        if error.get("ours") and self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        if error.get("absent"):
            raise Absent(error["message"])
        raise server_error(error)

    # -- answering -----------------------------------------------------------------------------------------------------

    def handle(self, message: Message) -> Message:
        """The reply to a request; an exception of the function becomes an error."""
        try:
            if "pull" in message:
                return self._pulled(message)
            return self._called(message)
        except Exception as error:  # everything that a function raises crosses
            if isinstance(error, _Foreign):
                return {"error": {"kind": error.kind, "message": str(error), "ours": True}}
            ours = (
                self._functions is None
            )  # a branch raised: its exception is kept here, and raised again where it began
            if ours:
                self._raised = error
            absent = isinstance(error, Absent)
            return {"error": {"kind": type(error).__name__, "message": str(error), "absent": absent, "ours": ours}}

    def _called(self, message: Message) -> Message:
        recorded = message["mode"] == "on"
        arrays = cast("list[Message]", message["tensors"])
        leaves = [self._received(array).requires_grad_(bool(array["grad"])) for array in arrays]
        function = self._function(message["call"])
        with torch.inference_mode(message["mode"] == "inference"), torch.set_grad_enabled(recorded):
            given = [
                one.clone() if array["grad"] == "inner" else one for one, array in zip(leaves, arrays, strict=True)
            ]
            before = [raw(one) for one in given]
            result = function(*self._unpack(message["tree"], given))
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
        if message["pull"] not in self._graphs:
            raise RuntimeError("the forward pass of this gradient is no longer remembered")
        leaves, outputs = self._graphs[message["pull"]]
        pairs = [
            (one, self._received(array))
            for one, array in zip(outputs, message["tensors"], strict=True)
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
        if kind == "branch":
            return self._branches[int(number)]
        if self._functions is None:
            raise BadAnswer(f"the other side called {shortened(name)}, which is no branch")
        return self._functions(name)

    # -- values --------------------------------------------------------------------------------------------------------

    def _pack(self, value: Any, tensors: list[Tensor]) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        if isinstance(value, (Params, Mappings)):
            kind = "params" if isinstance(value, Params) else "mappings"
            return {kind: [self._pack(part, tensors) for part in value]}
        if isinstance(value, (tuple, list)):
            items = cast("Sequence[Any]", value)
            return {"list" if isinstance(value, list) else "tuple": [self._pack(part, tensors) for part in items]}
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
        ((kind, body),) = cast("dict[str, Any]", tree).items()
        if kind == "tensor":
            return tensors[body]
        if kind == "branch":
            return _Branch(self, body)
        if kind == "other":
            return type(body, (_Other,), {})()
        parts = [self._unpack(part, tensors) for part in body]
        return {"params": lambda: Params(*parts), "mappings": lambda: Mappings(*parts), "list": lambda: parts}.get(
            kind, lambda: tuple(parts)
        )()

    def _received(self, array: Message) -> Tensor:
        """The tensor, in the storage that stands for the sender's where there is one."""
        dtype: torch.dtype = getattr(torch, array["dtype"])
        data = from_raw(base64.b64decode(array["data"]), torch.uint8)
        device = torch.device(array["device"])
        key = (array["storage"], data.numel(), array["device"])
        storage = self._storages.get(key) if array["storage"] else None
        with torch.inference_mode(False), torch.no_grad():
            if storage is None:
                storage = data.to(device, copy=True)
            else:
                storage.copy_(data)
            if array["storage"]:
                self._storages[key] = storage
                self._storages.move_to_end(key)
                _trim(self._storages)
            made = torch.empty(0, dtype=dtype, device=device)
            return made.set_(storage.untyped_storage(), array["offset"], array["shape"], array["stride"])


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
            passed = _Foreign(str(error))
            passed.kind = type(error).__name__
            raise passed from None


class _Call(torch.autograd.Function):
    """A call whose gradient is asked of the other side."""

    @staticmethod
    def forward(ctx: Any, peer: Peer, name: str, tree: Any, found: list[Any], *tensors: Tensor) -> tuple[Tensor, ...]:
        reply, outputs = peer.ask(name, tree, tensors, recorded=True)
        found.append(reply["tree"])
        ctx.set_materialize_grads(False)
        ctx.peer = peer
        # The number of the graph is saved as a tensor: under activation checkpointing it becomes the recomputation's.
        ctx.save_for_backward(torch.tensor(reply["graph"]))
        flags = [bool(array["grad"]) and reply["graph"] for array in reply["tensors"]]
        ctx.mark_non_differentiable(*[one for one, flag in zip(outputs, flags, strict=True) if not flag])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (graph,) = ctx.saved_tensors
        return (None, None, None, None, *ctx.peer.pull(int(graph), cotangents))


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
