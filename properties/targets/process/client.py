"""The implementation behind `proc:COMMAND`: every method is a request to another process."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.core.implementation import Implementation
from properties.guards.printable import printable
from properties.targets.process.description import attributes_of
from properties.targets.process.protocol import (
    OLDEST,
    SIGNATURES,
    VERSION,
    BadAnswer,
    Limits,
    ServerError,
    decode,
    encode,
    server_error,
    shortened,
)
from properties.targets.process.supervised import Supervised
from properties.targets.target import TargetError


class Session:
    """A server, started when a call needs it and again after it failed."""

    def __init__(self, command: str, limits: Limits) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise TargetError(f"proc:{printable(command)}: {error}") from error
        if not words:
            raise TargetError("proc: names no command; expected proc:COMMAND, such as 'proc:node server.mjs'")
        self.command = command
        self.process = Supervised(words, limits)
        self._numbers = itertools.count(1)
        self._protocol = VERSION

    def describe(self) -> dict[str, Any]:
        """Start it and shake hands: what it declares.

        Raises:
            ProcessFailure: it does not start, ends at once, or does not answer as the protocol says.
        """
        until = time.monotonic() + self.process.limits.start_seconds
        self.process.start()
        try:
            result = self._described(until)
            if not isinstance(result, dict):
                raise BadAnswer(f"describe answered {shortened(result)}; expected an object")
        except BaseException:
            self.process.stop()
            raise
        spoken = cast("dict[str, Any]", result).get("protocol")
        self._protocol = spoken if type(spoken) is int else VERSION
        self.process.ready()
        return cast("dict[str, Any]", result)

    def _described(self, until: float) -> Any:
        """What `describe` answers; a server that refuses the words of this version is asked in those of the oldest."""
        limits = self.process.limits
        told = {"line": limits.line, "call_seconds": limits.call_seconds, "memory": limits.memory}
        try:
            return self._exchange("describe", {"protocol": VERSION, "limits": told}, until=until)["result"]
        except ServerError as error:
            if not error.refused:
                raise
        self._protocol = OLDEST
        return self._exchange("describe", {"protocol": OLDEST}, until=until)["result"]

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
            if not isinstance(error, ServerError):  # it would answer the wrong question next
                self.process.stop()
            raise

    def _exchange(
        self, method: str, params: dict[str, Any], tuned: dict[str, Any] | None = None, until: float | None = None
    ) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self.process.send({**message, "tuned": tuned} if tuned else message)
        if until is not None:  # two requests may be needed, and both belong to the start
            response, _ = self.process.receive(max(until - time.monotonic(), 0.001))
        else:
            response, _ = self.process.wait_for_reply()
        answered = response.get("id")
        if (type(answered) is not int or answered != number) and not (answered is None and "error" in response):
            raise BadAnswer(f"a response has id {shortened(answered)}; request {number} was asked")
        self.check_fields(
            response, ("id", "error") if "error" in response else ("id", "result", "changed"), "a response"
        )
        if "error" in response:
            raise server_error(response["error"])
        if "result" not in response:
            raise BadAnswer(f"a response has neither result nor error: {shortened(response)}")
        return response

    def check_fields(self, given: dict[str, Any], known: Sequence[str], what: str) -> None:
        """Refuse fields that no version has: a misspelt one would be taken for a missing one. Version 1 let them be."""
        strange = [name for name in given if name not in known]
        if strange and self._protocol > OLDEST:
            raise BadAnswer(f"{what} has {shortened(strange)}; its fields are {', '.join(known)}")

    def tensor(self, array: Any, what: str) -> Tensor:
        """As `decode`, without a field that nobody has defined: an order of elements, say."""
        if isinstance(array, dict):
            self.check_fields(cast("dict[str, Any]", array), ("dtype", "shape", "data"), what)
        return decode(array, what)

    def results(self, method: str, found: Any) -> dict[str, Any]:
        """The result of a method by the names of its parts.

        Raises:
            BadAnswer: it is no object of those parts.
        """
        names = SIGNATURES[method][1]
        if not isinstance(found, dict) or not found.keys() >= set(names):
            raise BadAnswer(f"{method} answered {shortened(found)}; expected an object with {', '.join(names)}")
        self.check_fields(cast("dict[str, Any]", found), names, f"the result of {method}")
        return cast("dict[str, Any]", found)

    def gradients(self, method: str, found: Any) -> dict[str, Any]:
        """The answer to vjp by the names of the arguments; version 1 could leave out what is zero.

        Raises:
            BadAnswer: it is no object of those.
        """
        names = SIGNATURES[method][0]
        missing = self._protocol > OLDEST and isinstance(found, dict) and not found.keys() >= set(names)
        if not isinstance(found, dict) or missing:
            raise BadAnswer(f"vjp of {method} answered {shortened(found)}; expected an object with {', '.join(names)}")
        self.check_fields(cast("dict[str, Any]", found), names, f"the result of vjp of {method}")
        return cast("dict[str, Any]", found)


class Client(Implementation):
    """What `build` makes; the methods that the server offers are added to it by a subclass."""

    strided = False  # arrays cross in row-major order
    in_process = False
    max_tokens = 256  # and every token costs its text

    def __init__(self, session: Session, description: dict[str, Any], fields: dict[str, Any] | None = None) -> None:
        self.session, self._description, self._fields = session, description, fields or {}
        declared = attributes_of(description)
        self.session_methods: tuple[str, ...] = declared.pop("methods")
        vars(self).update(declared)
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
        names = SIGNATURES[method][0]
        response = self.session.request(method, dict(zip(names, map(_encoded, arguments), strict=True)), self._fields)
        results = self.session.results(method, response["result"])
        changed = response.get("changed", {})
        if not isinstance(changed, dict) or not changed.keys() <= set(names):
            raise BadAnswer(f"changed is {shortened(changed)}; expected an object with some of {', '.join(names)}")
        for name, array in cast("dict[str, Any]", changed).items():
            self._write(name, arguments[names.index(name)], array)
        device = _device(arguments)
        optional = method == "mappings"
        return tuple(
            None if optional and array is None else self.session.tensor(array, f"{method}.{name}").to(device)
            for name, array in ((name, results[name]) for name in SIGNATURES[method][1])
        )

    def pull(self, method: str, arguments: Sequence[Any], cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients by every tensor of the arguments, in their order."""
        names, results = SIGNATURES[method]
        params = {
            "of": method,
            "arguments": dict(zip(names, map(_encoded, arguments), strict=True)),
            "cotangents": dict(zip(results, map(_encoded, cotangents), strict=True)),
        }
        found = self.session.gradients(method, self.session.request("vjp", params, self._fields)["result"])
        gradients: list[Tensor | None] = []
        for name, argument in zip(names, arguments, strict=True):
            gradients += self._gradients(f"vjp of {method} by {name}", argument, found.get(name), _device(arguments))
        return gradients

    def _gradients(self, what: str, argument: Any, array: Any, device: torch.device) -> list[Tensor | None]:
        """The gradients by the tensors of an argument, each in its shape."""
        if isinstance(argument, Params):
            if array is not None and not isinstance(array, dict):
                raise BadAnswer(f"{what} is {shortened(array)}; expected an object with {', '.join(Params._fields)}")
            parts = cast("dict[str, Any]", array or {})
            self.session.check_fields(parts, Params._fields, what)
            return [
                one
                for name, part in argument._asdict().items()
                if part is not None
                for one in self._gradients(f"{what}.{name}", part, parts.get(name), device)
            ]
        if array is None:
            return [None]
        gradient = self.session.tensor(array, what)
        if gradient.shape != argument.shape:
            raise BadAnswer(f"{what} has shape {list(gradient.shape)}; the argument has {list(argument.shape)}")
        return [gradient.to(device)]

    def _write(self, name: str, argument: Any, array: Any) -> None:
        if isinstance(argument, Params):
            there = [part for part, value in argument._asdict().items() if value is not None]
            if not isinstance(array, dict) or not array.keys() <= set(there):
                raise BadAnswer(
                    f"changed {name} is {shortened(array)}; expected an object with some of {', '.join(there)}"
                )
            for part, one in cast("dict[str, Any]", array).items():
                self._write(f"{name}.{part}", getattr(argument, part), one)
            return
        now = self.session.tensor(array, f"changed {name}")
        if (now.shape, now.dtype) != (argument.shape, argument.dtype):
            raise BadAnswer(
                f"changed {name} is {now.dtype} of shape {list(now.shape)}; it was {argument.dtype} of "
                f"{list(argument.shape)}, and writing to an argument changes neither"
            )
        with torch.no_grad():
            argument.copy_(now)


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
    offered = attributes_of(description)["methods"]
    return cast(
        Client,
        type("Client", (Client,), {name: every[name] for name in offered if name in every})(session, description),
    )


def _encoded(value: Any) -> Any:
    if isinstance(value, Params):
        return {name: _encoded(part) for name, part in value._asdict().items()}
    return None if value is None else encode(value)


def _flat(arguments: Sequence[Any]) -> list[Tensor | None]:
    return [part for one in arguments for part in (one if isinstance(one, Params) else (one,))]


def _device(arguments: Sequence[Any]) -> torch.device:
    return next(one for one in _flat(arguments) if one is not None).device
