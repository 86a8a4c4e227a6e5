"""Is it the harness or the implementation? A check of a server on inputs that nobody can get wrong.

What fails here says nothing about hyper-connections: the server cannot be spoken to. An implementation that answers
with the wrong values, raises, or dies on them passes, for the laws to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from mhc_ref.packing import logits_shape, params_shapes
from properties.core.handing import stored_dtype
from properties.core.implementation import dtype_names, next_multiple, parameter_dtype
from properties.core.reads import as_pre_takes, mapping_shapes
from properties.targets.process.client import Client, Session, make
from properties.targets.process.protocol import (
    SIGNATURES,
    BadAnswer,
    NoAnswer,
    ProcessDied,
    ProcessFailure,
    ServerError,
    TooMuchMemory,
)


@dataclass(frozen=True)
class Step:
    """One thing that was tried. `broken`: the harness; otherwise it worked, or only the implementation is to blame."""

    what: str
    found: str
    broken: bool = False


def smoke(session: Session) -> tuple[Client | None, list[Step]]:
    """Shake hands, then call every method once; the client, where there is one to use, and what came of each step."""
    try:
        client = make(session, session.describe())
    except (ProcessFailure, ServerError) as error:
        return None, [Step("describe", _words(error), broken=True)]
    steps = [Step("describe", f"{client.name}, {', '.join(client.session_methods)}")]
    steps += [_call(client, method, arguments, shapes) for method, (arguments, shapes) in _trivial(client).items()]
    return client, steps


def _call(client: Client, method: str, arguments: tuple[Any, ...], shapes: tuple[tuple[int, ...], ...]) -> Step:
    names = SIGNATURES[method][1]
    try:
        results = client.evaluate(method, arguments)
        for name, result, shape in zip(names, results, shapes, strict=True):
            _expect(f"{method}.{name}", result, shape, method == "mappings" and name not in client.emits)
        if client.differentiable:
            tensors = [
                part for one in arguments for part in (one if isinstance(one, Params) else (one,)) if part is not None
            ]
            gradients = client.pull(method, arguments, [None if one is None else one * 0 + 1 for one in results])
            for argument, gradient in zip(tensors, gradients, strict=True):
                _expect(f"vjp of {method}", gradient, tuple(argument.shape), absent=gradient is None)
    except (ProcessDied, NoAnswer, TooMuchMemory) as failure:
        return Step(method, f"{failure}: left to the laws, since it did shake hands")
    except BadAnswer as error:
        return Step(method, str(error), broken=True)
    except ServerError as error:
        note = "" if error.refused else ": left to the laws"
        return Step(method, f"{type(error).__name__}: {error}{note}", broken=error.refused)
    return Step(method, "answers in shape")


def _expect(what: str, got: Tensor | None, shape: tuple[int, ...], absent: bool) -> None:
    if got is None and absent:
        return
    if got is None or tuple(got.shape) != shape:
        raise BadAnswer(
            f"{what} has shape {None if got is None else list(got.shape)} on a trivial input; expected {list(shape)}"
        )


def _trivial(client: Client) -> dict[str, tuple[tuple[Any, ...], tuple[tuple[int, ...], ...]]]:
    """method -> arguments and the shapes of its results: one token, logits and parameters of zero, a state of ones."""
    n, channels, dialect = min(client.streams), next_multiple(2, client.channel_multiple), client.dialect
    state: torch.dtype = getattr(torch, dtype_names(client)[0])
    dtype = parameter_dtype(state)
    shapes = params_shapes(n, channels, dialect)
    x, y = torch.ones(1, n, channels, dtype=state), torch.ones(1, channels, dtype=state)
    gates, res = torch.ones(1, n, dtype=dtype), torch.eye(n, dtype=dtype).unsqueeze(0)
    stored = stored_dtype(client, state)
    phi, bias = torch.zeros(shapes.phi, dtype=stored), torch.zeros(shapes.bias, dtype=stored)
    params = Params(phi, bias, torch.ones(shapes.alpha, dtype=stored))
    logits = torch.zeros((1, *logits_shape(n, dialect)), dtype=dtype)
    every: dict[str, tuple[tuple[Any, ...], tuple[tuple[int, ...], ...]]] = {
        "project": ((logits,), ((1, n, n),)),
        "mappings": ((x, params), mapping_shapes((1, n, channels), dialect)),
        "pre": ((x, as_pre_takes(gates, x, dialect)), ((1, channels),)),
        "post": ((x, y, gates, res), ((1, n, channels),)),
    }
    return {method: every[method] for method in client.session_methods if method in every}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, ServerError) else str(error)
