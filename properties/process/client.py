"""The implementation behind `proc:COMMAND`: every method is a request to another process."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from properties.implementation import Implementation
from properties.process.description import declare, dialect_of
from properties.process.protocol import (
    DTYPES,
    SIGNATURES,
    VERSION,
    BadAnswer,
    Limits,
    ProcessFailure,
    decode,
    encode,
    server_error,
    shortened,
)
from properties.process.supervised import Supervised
from properties.target import TargetError

_PLAIN: dict[str, type] = {
    "emits": list,
    "deterministic": bool,
    "full_range": bool,
    "norm_weight": bool,
    "least_scale": float,
    "zero_tokens": bool,
    "mixing": str,
    "max_tokens": int,
    "channel_multiple": int,
    "products": str,
    "batch_invariant": bool,
}
"""Optional fields of a description that are attributes of `Implementation`."""


class Session:
    """A server, started when a call needs it and again after it failed."""

    def __init__(self, command: str, limits: Limits) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise TargetError(f"proc:{command}: {error}") from error
        if not words:
            raise TargetError("proc: names no command; expected proc:COMMAND, such as 'proc:node server.mjs'")
        self.command = command
        self.process = Supervised(words, limits)
        self._numbers = itertools.count(1)

    def describe(self) -> dict[str, Any]:
        """Start it and shake hands: what it declares.

        Raises:
            ProcessFailure: it does not start, ends at once, or does not answer as the protocol says.
        """
        self.process.start()
        try:
            result = self._exchange("describe", {"protocol": VERSION}, starting=True)["result"]
            if not isinstance(result, dict):
                raise BadAnswer(f"describe answered {shortened(result)}; expected an object")
        except BaseException:
            self.process.stop()
            raise
        self.process.ready()
        return cast("dict[str, Any]", result)

    def request(self, method: str, params: dict[str, Any], tuned: dict[str, Any] | None = None) -> dict[str, Any]:
        """The response to a request, an object with `result`.

        Raises:
            ProcessFailure: it died, hung, took too much memory or broke the protocol; the next request starts it again.
            Exception: the implementation's error, in a class named after its kind.
        """
        if not self.process.running:
            self.describe()
        try:
            return self._exchange(method, params, tuned)
        except BaseException as error:
            if isinstance(error, ProcessFailure) or not isinstance(error, Exception):
                self.process.stop()
            raise

    def _exchange(
        self, method: str, params: dict[str, Any], tuned: dict[str, Any] | None = None, starting: bool = False
    ) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self.process.send({**message, "tuned": tuned} if tuned else message)
        if starting:
            response, _ = self.process.receive(self.process.limits.start_seconds)
        else:
            response, _ = self.process.wait_for_reply()
        if response.get("id") != number and not (response.get("id") is None and "error" in response):
            raise BadAnswer(f"a response has id {shortened(response.get('id'))}; request {number} was asked")
        if "error" in response:
            raise server_error(response["error"])
        if "result" not in response:
            raise BadAnswer(f"a response has neither result nor error: {shortened(response)}")
        return response


class Client(Implementation):
    """What `build` makes; the methods that the server offers are added to it by a subclass."""

    strided = False  # arrays cross in row-major order
    in_process = False
    max_tokens = 256  # and every token costs its text

    def __init__(self, session: Session, description: dict[str, Any], fields: dict[str, Any] | None = None) -> None:
        self.session, self._description, self._fields = session, description, fields or {}
        attributes = _attributes(description)
        self.session_methods: tuple[str, ...] = tuple(attributes["methods"])
        declare(self, attributes)
        self.dialect = self.dialect.with_(**self._fields)

    def tuned(self, **fields: Any) -> Implementation:
        """The same server, asked for other values of those fields in every request."""
        return type(self)(self.session, self._description, {**self._fields, **fields})

    def ask(self, method: str, arguments: Sequence[Any]) -> tuple[Tensor | None, ...]:
        """The results of a method, through autograd where a gradient is wanted."""
        tensors = [one for one in _flat(arguments) if one is not None]
        if self.differentiable and torch.is_grad_enabled() and any(one.requires_grad for one in tensors):
            emitted: list[bool] = []
            parts = iter(_Call.apply(self, method, arguments, emitted, *tensors))
            return tuple(next(parts) if there else None for there in emitted)
        return self.evaluate(method, arguments)

    def evaluate(self, method: str, arguments: Sequence[Any]) -> tuple[Tensor | None, ...]:
        """The results of a method; what the server says it changed is changed here."""
        names, results = SIGNATURES[method]
        response = self.session.request(method, dict(zip(names, map(_encoded, arguments), strict=True)), self._fields)
        for name, array in response.get("changed", {}).items():
            _write(name, arguments[names.index(name)], array)
        result = response["result"]
        device = _device(arguments)
        if not isinstance(result, dict) or not result.keys() >= set(results):
            raise BadAnswer(f"{method} answered {shortened(result)}; expected an object with {', '.join(results)}")
        arrays = [(name, cast("dict[str, Any]", result)[name]) for name in results]
        optional = method == "mappings"
        return tuple(
            None if optional and array is None else decode(array, f"{method}.{name}").to(device)
            for name, array in arrays
        )

    def pull(self, method: str, arguments: Sequence[Any], cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients by every tensor of the arguments, in their order."""
        names, results = SIGNATURES[method]
        params = {
            "of": method,
            "arguments": dict(zip(names, map(_encoded, arguments), strict=True)),
            "cotangents": dict(zip(results, map(_encoded, cotangents), strict=True)),
        }
        found = self.session.request("vjp", params, self._fields)["result"]
        gradients: list[Tensor | None] = []
        for name, argument in zip(names, arguments, strict=True):
            array = found.get(name) if isinstance(found, dict) else None
            if isinstance(argument, Params):
                parts = array if isinstance(array, dict) else {}
                pairs = [
                    (f"{name}.{part}", parts.get(part))
                    for part, value in argument._asdict().items()
                    if value is not None
                ]
            else:
                pairs = [(name, array)]
            device = _device(arguments)
            gradients += [
                None if one is None else decode(one, f"vjp of {method} by {what}").to(device) for what, one in pairs
            ]
        return gradients


class _Call(torch.autograd.Function):
    """A request whose gradient is another request; it saves its arguments, as an autograd function in process does."""

    @staticmethod
    def forward(
        ctx: Any, client: Client, method: str, arguments: Sequence[Any], emitted: list[bool], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        results = client.evaluate(method, arguments)
        emitted += [one is not None for one in results]
        ctx.set_materialize_grads(False)
        ctx.client, ctx.method, ctx.emitted = client, method, tuple(emitted)
        ctx.shape = [tuple(Params._fields) if isinstance(one, Params) else None for one in arguments]
        ctx.present = [[part is not None for part in one] if isinstance(one, Params) else [True] for one in arguments]
        ctx.save_for_backward(*tensors)
        return tuple(one for one in results if one is not None)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved, given = iter(ctx.saved_tensors), iter(cotangents)
        arguments: list[Any] = []
        for shape, present in zip(ctx.shape, ctx.present, strict=True):
            parts = [next(saved) if there else None for there in present]
            arguments.append(Params(*parts) if shape else parts[0])  # pyright: ignore[reportArgumentType]
        bars = [next(given) if there else None for there in ctx.emitted]
        return (None, None, None, None, *ctx.client.pull(ctx.method, arguments, bars))


def make(session: Session, description: dict[str, Any]) -> Client:
    """The client of a server that gave this description.

    Raises:
        BadAnswer: a description that is not in the protocol.
    """

    def project(self: Client, logits: Tensor) -> Tensor | None:
        return self.ask("project", (logits,))[0]

    def mappings(self: Client, x: Tensor, params: Params) -> Mappings:
        return Mappings(*self.ask("mappings", (x, params)))  # pyright: ignore[reportArgumentType]

    def pre(self: Client, x: Tensor, h_pre: Tensor) -> Tensor | None:
        return self.ask("pre", (x, h_pre))[0]

    def post(self: Client, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor | None:
        return self.ask("post", (x, y, h_post, h_res))[0]

    every: dict[str, Callable[..., Any]] = {"project": project, "mappings": mappings, "pre": pre, "post": post}
    offered = _attributes(description)["methods"]
    return cast(
        Client,
        type("Client", (Client,), {name: every[name] for name in offered if name in every})(session, description),
    )


def _attributes(description: dict[str, Any]) -> dict[str, Any]:
    """The description, checked, as attributes of an implementation.

    Raises:
        BadAnswer: naming the field, what it is and what was expected.
    """

    def field(name: str, kind: type, default: Any = None) -> Any:
        value = description.get(name, default)
        if value is None and default is None:
            raise BadAnswer(f"describe lacks {name!r}; it has {', '.join(description)}")
        if kind is float and type(value) is int:  # JSON has one kind of number
            value = float(value)
        if type(value) is not kind:
            raise BadAnswer(f"describe: {name} is {shortened(value)}; expected {_WORDS[kind]}")
        return value

    if description.get("protocol") != VERSION:
        raise BadAnswer(
            f"the server speaks protocol {shortened(description.get('protocol'))}; this is version {VERSION}"
        )
    known = {"protocol", "name", "dialect", "streams", "dtypes", "methods", "tunable", *_PLAIN}
    strange = [name for name in description if name not in known]
    if strange:
        raise BadAnswer(f"describe has {', '.join(strange)}; the fields are {', '.join(sorted(known))}")
    methods = field("methods", list)
    if not set(methods) & set(SIGNATURES) or not set(methods) <= {*SIGNATURES, "vjp"}:
        raise BadAnswer(f"describe: methods is {methods}; expected some of {', '.join(SIGNATURES)}, and vjp")
    if not field("streams", list) or any(type(n) is not int or n < 1 for n in description["streams"]):
        raise BadAnswer(
            f"describe: streams is {shortened(description['streams'])}; expected the numbers that are accepted"
        )
    if not field("dtypes", list) or not set(description["dtypes"]) <= set(DTYPES):
        raise BadAnswer(f"describe: dtypes is {description['dtypes']}; expected some of {', '.join(DTYPES)}")
    if "dialect" not in description:
        raise BadAnswer(f"describe lacks 'dialect'; it has {', '.join(description)}")
    if not set(field("emits", list, [])) <= set(Mappings._fields):
        raise BadAnswer(f"describe: emits is {description['emits']}; expected some of {', '.join(Mappings._fields)}")
    tunable = field("tunable", list, [])
    if not set(tunable) <= set(Dialect.__dataclass_fields__):
        raise BadAnswer(f"describe: tunable is {tunable}; expected fields of the dialect")
    return {
        **{name: field(name, kind) for name, kind in _PLAIN.items() if name in description},
        "name": field("name", str),
        "dialect": dialect_of(description["dialect"]),
        "streams": field("streams", list),
        "dtypes": description["dtypes"],
        "tunable": tunable,
        "differentiable": "vjp" in methods,
        "methods": methods,
    }


_WORDS = {list: "a list", bool: "true or false", str: "a string", int: "an integer", float: "a number"}


def _encoded(value: Any) -> Any:
    if isinstance(value, Params):
        return {name: _encoded(part) for name, part in value._asdict().items()}
    return None if value is None else encode(value)


def _flat(arguments: Sequence[Any]) -> list[Tensor | None]:
    return [part for one in arguments for part in (one if isinstance(one, Params) else (one,))]


def _device(arguments: Sequence[Any]) -> torch.device:
    return next(one for one in _flat(arguments) if one is not None).device


def _write(name: str, argument: Any, array: Any) -> None:
    if isinstance(argument, Params):
        for part, one in cast("dict[str, Any]", array).items():
            _write(f"{name}.{part}", getattr(argument, part), one)
        return
    with torch.no_grad():
        argument.copy_(decode(array, f"changed {name}"))
