"""A failure as it is drawn in a report: the numbers of the output around the worst place, and the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import BranchSpec, Case, Value, describe
from properties.core.judging import LawBroken
from properties.core.picture import Window, sparse
from properties.guards.printable import printable

_TENSORS = 24
"""Inputs that are drawn at most; of a stack of many layers the first ones."""


def failure(case: Case, broken: LawBroken) -> dict[str, Any]:
    """{found, where, got, exact, against, kind, error, bound, ratio, gap, picture, inputs}: plain data, in which a
    number that JSON cannot say is None, and in a picture a word."""
    drawn = inputs_of(case)
    return {
        "found": printable(broken.what, 400),
        "where": broken.where,
        "got": printable(broken.got, 400),
        "exact": printable(broken.exact, 400),
        "against": broken.against,
        "kind": broken.kind,
        **{name: _finite(getattr(broken, name)) for name in ("error", "bound", "ratio", "gap")},
        "picture": None if broken.picture is None else broken.picture.to_json(),
        "inputs": drawn[:_TENSORS],
        "more_inputs": max(0, len(drawn) - _TENSORS),
    }


def inputs_of(case: Case) -> list[dict[str, Any]]:
    """Every input of a case as it is drawn: {name, dtype, shape, start, values}; {name, text} of what is no tensor."""
    return [_input(name, value) for path, part in case.items() for name, value in _parts(path, part)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _parts(name: str, value: Value) -> Iterator[tuple[str, Value]]:
    """The tensors in a value under their names, and what is none."""
    if isinstance(value, Params):
        for part, tensor in value._asdict().items():
            if tensor is not None:
                yield f"{name}.{part}", tensor
    elif isinstance(value, BranchSpec) and value.weight is not None:
        yield f"{name} ({value.kind})", value.weight
    elif isinstance(value, (tuple, list)) and any(not isinstance(one, (int, float, str)) for one in cast(Any, value)):
        for index, one in enumerate(cast("tuple[Value, ...]", value)):
            yield from _parts(f"{name}[{index}]", one)
    else:
        yield name, value


def _input(name: str, value: Value) -> dict[str, Any]:
    """A tensor with its largest entry in the window, or anything else in words."""
    if not isinstance(value, Tensor) or not value.dtype.is_floating_point or not value.numel():
        return {"name": name, "text": printable(describe(value), 400)}
    wide = value.detach().cpu().double()
    largest = int(wide.abs().nan_to_num(nan=math.inf).argmax())
    window = Window.around(tuple(wide.shape), [int(i) for i in torch.unravel_index(torch.tensor(largest), wide.shape)])
    return {
        "name": name,
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "start": list(window.start),
        "values": sparse(window.of(wide)),
    }
