"""Generated answers of strangers: whatever JSON holds, it is understood or it is the stranger's mistake, in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mhc_ref import Params
from mhc_ref import dialect as dialects
from properties.core.implementation import Implementation
from properties.targets.process import Limits
from properties.targets.process.client import Client, Session, make
from properties.targets.process.description import attributes_of
from properties.targets.process.lines import read_line
from properties.targets.process.peer import Peer
from properties.targets.process.protocol import (
    DTYPES,
    BadAnswer,
    ProcessFailure,
    ServerError,
    decode,
    encode,
    server_error,
)
from properties.targets.target import check

EXAMPLES = settings(max_examples=60, deadline=None)

numbers = st.integers() | st.sampled_from([0, 1, -1, 2**31, 2**63, 10**18, 10**400]) | st.floats()
texts = st.text(st.characters(exclude_categories=()), max_size=20)
scalars = st.none() | st.booleans() | numbers | texts | st.sampled_from(["float32", "PAPER", "res", "project", "vjp"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
shapes = st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**40, True, 1.0]) | values, max_size=5)
arrays = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(DTYPES) | values,
        "shape": shapes | values,
        "data": st.binary(max_size=24).map(lambda data: json.loads(json.dumps(data.hex()))) | values,
        "extra": values,
    },
)


def mistaken(action: Callable[[], Any]) -> None:
    """Nothing but a stranger's mistake may come of it, and that can be shown."""
    try:
        action()
    except (ProcessFailure, ServerError) as error:
        text = f"{type(error).__name__}: {error}"
        text.encode()
        assert "\x1b" not in text
        assert len(text) < 3000


def of(line: bytes) -> Any:
    """What a line says, where it says something."""
    try:
        return read_line(line, "the process")
    except BadAnswer:
        return None


@EXAMPLES
@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 10**5)
@example(b'{"a":' * 10**5)
def test_lines(line: bytes) -> None:
    mistaken(lambda: read_line(line, "the process"))


@pytest.mark.slow
@EXAMPLES
@given(arrays | values)
def test_arrays(array: Any) -> None:
    mistaken(lambda: decode(array))


@EXAMPLES
@given(st.fixed_dictionaries({}, optional={"kind": values, "message": values}) | values)
def test_errors(error: Any) -> None:
    def raised() -> None:
        raise server_error(error)

    mistaken(raised)


FIELDS: dict[str, Any] = {
    "protocol": 2,
    "name": "stranger",
    "dialect": {"preset": "PAPER", "iterations": 3},
    "streams": [1, 2],
    "dtypes": ["float32"],
    "methods": ["project", "mappings", "pre", "post", "vjp"],
    "tunable": ["iterations"],
    "emits": ["res"],
    "mixing": "state",
    "products": "tf32",
    "deterministic": False,
    "max_tokens": 7,
    "channel_multiple": 8,
    "least_scale": 0.5,
}


@EXAMPLES
@given(
    st.fixed_dictionaries({}, optional={name: values | st.lists(scalars, max_size=3) for name in FIELDS}),
    st.dictionaries(texts, values, max_size=1),
)
def test_descriptions(change: dict[str, Any], more: dict[str, Any]) -> None:
    """What is accepted is an implementation that the harness can use."""

    def used() -> None:
        made = make(_session([]), FIELDS | change | more)
        check(made, "proc:stranger")
        assert max(made.streams) <= 64
        made.name.encode()

    mistaken(used)


@pytest.mark.slow
@EXAMPLES
@given(st.fixed_dictionaries({}, optional={name: values for name in ("preset", *dialects.FIELDS)}) | values)
def test_dialects(value: Any) -> None:
    mistaken(lambda: attributes_of(FIELDS | {"dialect": value}))


class Scripted:
    """In the place of a process: answers what it was given, with the id that was asked where none is."""

    limits, running = Limits(), True

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.number = answers, 0

    def start(self) -> None: ...
    def ready(self) -> None: ...
    def stop(self) -> None: ...

    def send(self, message: dict[str, Any]) -> None:
        self.number = message["id"]

    def receive(self, seconds: float) -> tuple[dict[str, Any], float]:
        return self.wait_for_reply()

    def wait_for_reply(self) -> tuple[dict[str, Any], float]:
        answer = self.answers.pop(0)
        if isinstance(answer, dict):
            answer = {"id": self.number, **answer}
        return read_line(json.dumps(answer).encode(), "the process"), 0.0


def _session(answers: list[Any]) -> Session:
    session = Session("a command", Limits())
    session.process = Scripted(answers)  # pyright: ignore[reportAttributeAccessIssue]
    return session


def client(answers: list[Any]) -> Client:
    return make(_session(answers), FIELDS)


ONE = encode(torch.ones(1, 2, 2))
results = st.fixed_dictionaries({}, optional={"h_res": st.just(ONE) | arrays | values, "more": values}) | values
responses = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "result": results,
        "error": st.fixed_dictionaries({"kind": texts, "message": texts}) | values,
        "changed": st.dictionaries(
            st.sampled_from(["logits", "x"]) | texts, st.just(ONE) | arrays | values, max_size=2
        ),
        "note": values,
    },
)


@EXAMPLES
@given(responses | values)
def test_responses(response: Any) -> None:
    mistaken(lambda: client([response]).project(torch.zeros(1, 2, 2)))


@EXAMPLES
@given(st.fixed_dictionaries({}, optional={"logits": st.just(ONE) | arrays | values, "x": values}) | values)
def test_gradients(gradient: Any) -> None:
    def pulled() -> None:
        logits = torch.zeros(1, 2, 2, requires_grad=True)
        client([{"result": {"h_res": ONE}}, {"result": gradient}]).project(logits).sum().backward()  # pyright: ignore[reportOptionalMemberAccess]

    mistaken(pulled)


PARTS = {"phi": (4, 8), "bias": (8,), "alpha": (3,), "norm_weight": (4,)}


@EXAMPLES
@given(
    st.dictionaries(st.sampled_from(["x", "params"]) | texts, values, max_size=3)
    | st.fixed_dictionaries({"x": st.none(), "params": st.dictionaries(st.sampled_from([*PARTS]), arrays | values)})
)
def test_gradients_by_parameters_and_changes_of_them(found: Any) -> None:
    params = Params(*(torch.zeros(shape, requires_grad=True) for shape in PARTS.values()))
    x = torch.ones(1, 2, 2)
    empty = {"pre": None, "post": None, "res": ONE}

    def pulled() -> None:
        client([{"result": empty}, {"result": found}]).mappings(x, params).res.sum().backward()

    mistaken(pulled)
    mistaken(lambda: client([{"result": empty, "changed": found}]).mappings(x, params))


crossing = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["float32", "int8", "nn", "Tensor"]) | values, "data": st.just(ONE["data"]) | values},
    optional={
        "shape": shapes,
        "stride": shapes,
        "offset": st.integers(-2, 9) | values,
        "storage": st.integers(0, 2) | values,
        "device": st.sampled_from(["cpu", "meta", "cuda:9", "nowhere"]) | values,
        "grad": values,
    },
)
trees = st.recursive(
    st.fixed_dictionaries({"tensor": st.integers(-1, 2) | values})
    | st.dictionaries(texts, values, max_size=2)
    | values,
    lambda inner: st.builds(
        lambda kind, parts: {kind: parts},
        st.sampled_from(["tuple", "list", "params", "mappings", "branch", "other"]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=6,
)
replies = st.fixed_dictionaries(
    {},
    optional={
        "tree": trees,
        "tensors": st.lists(crossing | values, max_size=2) | values,
        "changed": st.dictionaries(st.sampled_from(["0", "1", "-1"]) | texts, crossing | values, max_size=1) | values,
        "graph": st.integers(0, 3) | values,
        "error": st.none() | st.fixed_dictionaries({"kind": texts, "message": values, "ours": values}) | values,
    },
)


@EXAMPLES
@given(replies, st.booleans())
def test_replies_of_a_worker(reply: dict[str, Any], recorded: bool) -> None:
    peer = Peer(lambda message: json.loads(json.dumps(reply)))
    mistaken(lambda: peer.call("project:", torch.zeros(1, 2, 2, requires_grad=recorded)))


@pytest.mark.slow
@EXAMPLES
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "call": st.sampled_from(["branch:1", "branch:x", "branch:", "project:"]) | values,
            "pull": values,
            "mode": st.sampled_from(["on", "off", "inference"]) | values,
            "tree": trees,
            "tensors": st.lists(crossing | values, max_size=2) | values,
        },
    )
)
def test_calls_of_a_worker(message: dict[str, Any]) -> None:
    """Each is answered, if by an error, which the call that it came from raises."""
    peer = Peer(lambda message: {"error": {"kind": "E", "message": "", "ours": True}})
    reply = peer.handle(message)
    json.dumps(reply)
    if "error" in reply:
        mistaken(lambda: peer.call("project:", torch.zeros(1, 2, 2)))


def test_the_strangers_here_would_be_understood_if_they_made_no_mistake() -> None:
    assert attributes_of(FIELDS)["max_tokens"] == 7
    made: Implementation = client([{"result": {"h_res": ONE}, "changed": {"logits": ONE}}])
    logits = torch.zeros(1, 2, 2)
    assert torch.equal(made.project(logits), torch.ones(1, 2, 2))
    assert torch.equal(logits, torch.ones(1, 2, 2))
    with pytest.raises(BadAnswer):
        client([None]).project(logits)
