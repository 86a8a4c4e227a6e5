"""Serve an implementation: the other side of `proc:`, for Python.

    from properties.targets.process.server import serve serve(MyImplementation())

or, for anything that can be named, `python -m properties.targets.process.server TARGET [--dialect PRESET]`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO, cast

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.implementation import Implementation
from properties.core.pulling import gradients, handed
from properties.guards.printable import message_of
from properties.targets.process.description import declared, served
from properties.targets.process.protocol import SIGNATURES, VERSION, BadAnswer, decode, encode, raw, told
from properties.targets.target import TargetError, resolve


def serve(implementation: Implementation) -> None:
    """Answer requests until stdin ends. What is printed meanwhile goes to stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, os.fdopen(os.dup(0), encoding="utf-8") as requests:
        os.dup2(2, 1)
        for line in requests:
            _answer(implementation, line, answers)


def _answer(implementation: Implementation, line: str, answers: TextIO) -> None:
    number: Any = None
    try:
        request = json.loads(line)
        number = request["id"]
        response = {"id": number, **respond(implementation, request)}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # every error crosses, and the next request is answered
        misunderstood = number is None or isinstance(error, BadAnswer)
        kind = "bad-request" if misunderstood else "unknown-method" if isinstance(error, _Unknown) else None
        found = told(error) if kind is None else {"kind": kind, "message": message_of(error)}
        response = {"id": number, "error": found}
    answers.write(json.dumps(response) + "\n")
    answers.flush()


class _Unknown(Exception):
    """A method that is not in the protocol."""


def respond(implementation: Implementation, request: dict[str, Any]) -> dict[str, Any]:
    """The response to a request, without its id."""
    method, params = request["method"], request.get("params", {})
    if method == "describe":
        return {"result": description(implementation, params.get("protocol", VERSION))}
    if request.get("tuned"):
        implementation = implementation.tuned(**request["tuned"])
    if method == "vjp":
        return {"result": _pulled(implementation, params)}
    if method not in SIGNATURES:
        raise _Unknown(str(method))
    arguments = [_decoded(name, params.get(name)) for name in SIGNATURES[method][0]]
    before = [raw(one) for one in _tensors(arguments)]
    results = _called(implementation, method, arguments)
    encoded = {
        name: None if one is None else encode(one) for name, one in zip(SIGNATURES[method][1], results, strict=True)
    }
    changed = _changed(SIGNATURES[method][0], arguments, before)
    return {"result": encoded, **({"changed": changed} if changed else {})}


def description(implementation: Implementation, protocol: int = VERSION) -> dict[str, Any]:
    """What `describe` answers to somebody who speaks that version of the protocol, or an older one.

    Raises:
        TargetError: it offers nothing that can be served.
    """
    found = declared(implementation)
    methods = [method for method in found["methods"] if method in SIGNATURES]
    if not methods:
        raise TargetError(
            f"{implementation.name} overrides none of {', '.join(SIGNATURES)}; a branch cannot cross a process, so a "
            "block by itself cannot be served (--isolate runs one in a process)"
        )
    vjp = ["vjp"] if implementation.differentiable else []
    told = {name: found[name] for name in served()}
    return {**told, "protocol": min(protocol, VERSION), "methods": methods + vjp}


def _called(implementation: Implementation, method: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    found = getattr(implementation, method)(*arguments)
    return tuple(found) if method == "mappings" else (found,)


def _pulled(implementation: Implementation, params: dict[str, Any]) -> dict[str, Any]:
    method = params["of"]
    names, results = SIGNATURES[method]
    arguments = [_decoded(name, params["arguments"].get(name)) for name in names]
    leaves = [one.requires_grad_() for one in _tensors(arguments)]
    with torch.enable_grad():
        outputs = _called(implementation, method, arguments)
    pairs = [
        (output, decode(params["cotangents"][name]).to(output.dtype))
        for name, output in zip(results, outputs, strict=True)
        if output is not None and output.requires_grad and params["cotangents"].get(name) is not None
    ]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if pairs:
        found = gradients(handed(*zip(*pairs, strict=True)), leaves)
    taken = iter(found)

    def encoded(argument: Any) -> Any:
        if isinstance(argument, Params):
            return {name: None if part is None else encoded(part) for name, part in argument._asdict().items()}
        gradient = next(taken)
        return None if gradient is None else encode(gradient)

    return {name: encoded(argument) for name, argument in zip(names, arguments, strict=True)}


def _decoded(name: str, value: Any) -> Any:
    if name == "params":
        if not isinstance(value, dict):
            raise BadAnswer("params is no object")
        parts = cast("dict[str, Any]", value)
        return Params(**{k: None if parts.get(k) is None else decode(parts[k], k) for k in Params._fields})  # pyright: ignore[reportArgumentType]
    return decode(value, name)


def _tensors(arguments: Sequence[Any]) -> list[Tensor]:
    return [part for one in arguments for part in (one if isinstance(one, Params) else (one,)) if part is not None]


def _changed(names: Sequence[str], arguments: Sequence[Any], before: list[bytes]) -> dict[str, Any]:
    old = iter(before)
    found: dict[str, Any] = {}
    for name, argument in zip(names, arguments, strict=True):
        if isinstance(argument, Params):
            parts = {k: encode(v) for k, v in argument._asdict().items() if v is not None and raw(v) != next(old)}
            found.update({name: parts} if parts else {})
        elif raw(argument) != next(old):
            found[name] = encode(argument)
    return found


def main() -> None:
    """Serve the target named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m properties.targets.process.server", description="Serve an implementation over stdin and stdout."
    )
    parser.add_argument("target", help="as for pytest --impl")
    parser.add_argument("--dialect", default=None, help="the preset that a plain function claims to compute")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        implementation = resolve(given.target, given.dialect)
        description(implementation)
    except TargetError as error:
        raise SystemExit(str(error)) from error
    serve(implementation)


if __name__ == "__main__":
    main()
