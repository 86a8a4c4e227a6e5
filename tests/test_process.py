"""`proc:COMMAND`: the protocol, its two examples, and who is to blame when a server goes wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner
from wire_schema import SCHEMA, fits

import mhc_ref
from mhc_ref import Dialect, Params
from properties import cli
from properties.core import fields
from properties.core.implementation import Implementation, Reference, offers
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.guards.traces import place_of
from properties.targets.process import Limits, build, memory, protocol, schema
from properties.targets.process.client import Client, Session, make
from properties.targets.process.description import attributes_of
from properties.targets.process.protocol import BadAnswer, ProcessDied, ServerError, TooMuchMemory
from properties.targets.process.server import description, respond
from properties.targets.process.smoke import _trivial
from properties.targets.process.supervised import Supervised
from properties.targets.target import TargetError, resolve

EXAMPLES = Path(protocol.__file__).parent / "examples"
PYTHON = shlex.quote(sys.executable)
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")


# -- arrays and messages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3, 3)])
def test_arrays_cross_bit_by_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    if tensor.numel() > 2:
        tensor.view(-1)[:3] = torch.tensor([float("nan"), float("-inf"), -0.0])
    array = json.loads(json.dumps(protocol.encode(tensor)))
    assert fits(array, {"$ref": "#/$defs/array"})
    back = protocol.decode(array)
    assert (back.dtype, back.shape) == (dtype, tensor.shape)
    assert protocol.raw(back) == protocol.raw(tensor)


def test_arrays_are_little_endian_in_row_major_order() -> None:
    assert protocol.encode(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T)["data"] == "AACAPwAAQEAAAABAAACAQA=="
    assert protocol.encode(torch.tensor([1.0], dtype=torch.bfloat16))["data"] == "gD8="


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "is None; expected {dtype, shape, data}"),
        ({"dtype": "int8", "shape": [], "data": ""}, "has dtype 'int8'"),
        ({"dtype": "float32", "shape": [-1], "data": ""}, r"has shape \[-1\]"),
        ({"dtype": "float32", "shape": [1], "data": "?"}, "is not base64"),
        ({"dtype": "float32", "shape": [2], "data": "AACAPw=="}, r"has 4 bytes; float32\[2\] needs 8"),
    ],
)
def test_what_is_no_array_is_said_to_be_none(array: Any, message: str) -> None:
    with pytest.raises(BadAnswer, match=message):
        protocol.decode(array)


def test_a_dialect_is_a_preset_with_changes_or_fields() -> None:
    def dialect_of(value: Any) -> Dialect:
        return attributes_of(description(Reference(mhc_ref.PAPER)) | {"dialect": value})["dialect"]

    assert dialect_of("LIGER") == mhc_ref.LIGER
    assert dialect_of({"preset": "LIGER", "iterations": 3}) == mhc_ref.LIGER.with_(iterations=3)
    assert dialect_of({"iterations": 3}) == Dialect(iterations=3)
    for wrong in ("NOBODY", {"preset": "NOBODY"}, {"iteration": 3}, {"iterations": -1}, 3):
        with pytest.raises(BadAnswer, match="dialect"):
            dialect_of(wrong)


def test_the_schema_says_what_the_code_does() -> None:
    defs = SCHEMA["$defs"]
    assert defs["array"]["properties"]["dtype"]["enum"] == list(protocol.DTYPES)
    assert defs["array"]["properties"]["shape"]["maxItems"] == protocol.MOST_AXES
    assert defs["array"]["properties"]["shape"]["items"]["maximum"] == protocol.MOST_ELEMENTS
    assert set(defs["parameters"]["properties"]) == set(Params._fields)
    assert defs["error"]["properties"]["kind"]["maxLength"] == protocol.LONGEST_KIND
    assert defs["error"]["properties"]["message"]["maxLength"] == protocol.LONGEST_MESSAGE
    assert defs["error"]["properties"]["place"]["maxLength"] == protocol.LONGEST_PLACE
    assert defs["error"]["properties"]["excerpt"]["maxLength"] == protocol.LONGEST_EXCERPT
    requests = {one["properties"]["method"]["const"]: one["properties"] for one in defs["request"]["anyOf"][:-4]}
    assert list(requests) == ["describe", *protocol.SIGNATURES]
    pulls = {one["properties"]["params"]["properties"]["of"]["const"]: one for one in defs["request"]["anyOf"][-4:]}
    assert list(pulls) == list(protocol.SIGNATURES)
    results = defs["response"]["anyOf"][1]["properties"]["result"]["anyOf"][1:-1]
    for index, (method, (arguments, parts)) in enumerate(protocol.SIGNATURES.items()):
        assert_exactly(requests[method]["params"], arguments)
        pulled = pulls[method]["properties"]["params"]["properties"]
        assert_exactly(pulled["arguments"], arguments)
        assert_exactly(pulled["cotangents"], parts)
        assert_exactly(results[index], parts)
        assert_exactly(defs["gradients"]["anyOf"][index], arguments)
    changed = defs["response"]["anyOf"][1]["properties"]["changed"]["properties"]
    assert set(changed) == {name for arguments, _ in protocol.SIGNATURES.values() for name in arguments}
    text = f"{protocol.MOST_MEMBERS} commas, and {protocol.MOST_DEPTH} levels"
    assert f"at most {Limits().line >> 20} MiB, unless describe was told another limit, {text}" in SCHEMA["description"]
    assert f"at most {protocol.MOST_DIGITS} digits" in SCHEMA["description"]


def test_the_documented_limits_are_those_of_the_code() -> None:
    docs = (Path(__file__).parent.parent / "docs" / "processes.md").read_text()
    table = dict(row.strip("| ").split(" | ")[:2] for row in docs.splitlines() if row.startswith("| "))
    limits = Limits()
    assert table["time until a process has started"] == f"{limits.start_seconds:g} s"
    assert table["time until an answer has arrived whole"] == f"{limits.call_seconds:g} s"
    assert table["memory on top of what it held when it was ready"] == f"{limits.memory >> 30} GiB"
    assert table["calls of branches within one call (`--isolate`)"] == str(limits.calls_back)
    assert table["a line"] == f"{limits.line >> 20} MiB"
    assert table["empty lines and spaces around an answer"] == f"{limits.blank >> 10} KiB"
    assert table["numbers of streams"] == f"from 1 to {fields.MOST_STREAMS}"
    numbers = {
        "nesting": f"{protocol.MOST_DEPTH} levels",
        "commas in a line": protocol.MOST_MEMBERS,
        "digits of an integer": protocol.MOST_DIGITS,
        "axes of an array": protocol.MOST_AXES,
        "elements of an array": protocol.MOST_ELEMENTS,
        "iterations of the dialect": fields.MOST_ITERATIONS,
        "`channel_multiple`": fields.MOST_CHANNEL_MULTIPLE,
        "`max_tokens`": fields.MOST_TOKENS,
        "characters of a name, all of them printable": fields.LONGEST_NAME,
        "characters of the kind of an error; longer ones are cut": protocol.LONGEST_KIND,
        "characters of the message of an error; longer ones are cut": protocol.LONGEST_MESSAGE,
        "characters of the place of an error, which may be left out; longer ones are cut": protocol.LONGEST_PLACE,
        "characters of the excerpt of an error, which may be left out; longer ones are cut": protocol.LONGEST_EXCERPT,
    }
    assert {name: table[name] for name in numbers} == {name: str(value) for name, value in numbers.items()}


def assert_exactly(schema: dict[str, Any], names: Sequence[str]) -> None:
    """The object of these fields, each of them required and no other allowed."""
    assert list(schema["properties"]) == list(names)
    assert schema["required"] == list(names)
    assert schema["additionalProperties"] is False


def test_the_schema_of_a_description_says_what_the_code_does() -> None:
    assert SCHEMA["$defs"]["description"] == schema.description(), (
        "the table of what is declared has changed; python -m properties.targets.process.schema writes it anew"
    )
    assert SCHEMA["$defs"]["dialect"] == schema.dialect()
    for dialect in mhc_ref.PRESETS.values():
        assert fits(json.loads(json.dumps(dialect.fields())), {"$ref": "#/$defs/dialect"})


def test_messages_of_the_python_server_fit_the_schema() -> None:
    reference = Reference(mhc_ref.LIGER)
    logits = protocol.encode(torch.zeros(1, 2, 2))
    pull = {"of": "project", "arguments": {"logits": logits}, "cotangents": {"h_res": logits}}
    limits = {"line": 1 << 20, "call_seconds": 2.5, "memory": 1 << 30}
    requests: list[dict[str, Any]] = [
        {"id": 0, "method": "describe", "params": {"protocol": 2, "limits": limits}},
        {"id": 1, "method": "describe", "params": {"protocol": 1}},
        {"id": 2, "method": "project", "params": {"logits": logits}, "tuned": {"iterations": 1}},
        {"id": 3, "method": "vjp", "params": pull},
    ]
    for request in requests:
        assert fits(request, {"$ref": "#/$defs/request"}), request
        response = {"id": request["id"], **respond(reference, request)}
        assert fits(response, {"$ref": "#/$defs/response"}), response
        assert response["result"].get("protocol") == request["params"].get("protocol")
    for wrong in ({"params": {}}, {"id": "2"}, {"extra": 1}, {"method": "block"}):
        assert not fits(requests[2] | wrong, {"$ref": "#/$defs/request"})


# -- examples -------------------------------------------------------------------------------------------------------


def verdict(implementation: Implementation, law: str, directory: Path, examples: int = 24) -> Verdict:
    subject = Subject("proc:", implementation, torch.float32, torch.device("cpu"))
    profile = Profile(examples=examples, derandomise=True, shrink=False)
    return examine(all_laws()[law], subject, profile, directory=directory)


@needs_node
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_node_example_passes_the_manifold_laws(tmp_path: Path, dtype: torch.dtype) -> None:
    implementation = resolve(f"proc:node {shlex.quote(str(EXAMPLES / 'sinkhorn_server.mjs'))}")
    assert implementation.name == "example-node"
    assert offers(implementation) == {"project": "own"}
    subject = Subject("proc:", implementation, dtype, torch.device("cpu"))
    found = {
        law.id: examine(law, subject, Profile(examples=6, derandomise=True), directory=tmp_path).status
        for law in all_laws().values()
        if law.family == "manifold"
    }
    assert found["manifold.last-axis-sums"] == found["manifold.agrees-with-oracle"] == "passed"
    assert set(found.values()) <= {"passed", "not-applicable"}


@pytest.mark.slow
def test_the_python_example_has_a_gradient(tmp_path: Path) -> None:
    implementation = build(f"{PYTHON} {shlex.quote(str(EXAMPLES / 'sinkhorn_server.py'))}")
    assert implementation.differentiable
    for law in ("manifold.agrees-with-oracle", "gradient.projection-pulls-back-the-unrolled-iteration"):
        assert verdict(implementation, law, tmp_path, examples=5).status == "passed"
    strided = verdict(implementation, "execution.projection-does-not-see-strides", tmp_path)
    assert strided.reason == "strided is not declared"


# -- the reference behind the protocol ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Implementation:
    return build(f"{PYTHON} -m properties.targets.process.server ref:LIGER")


def state(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(1)
    n, channels = 3, 4
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(2, n, channels, generator=generator, dtype=torch.float64).to(dtype)
    phi = torch.randn(n * channels, 2 * n + n * n, generator=generator, dtype=torch.float64).to(wide)
    return x, Params(phi, torch.linspace(-1, 1, 2 * n + n * n, dtype=wide), torch.tensor([1.0, 0.5, 2.0], dtype=wide))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_block_is_derived_on_this_side(served: Implementation, dtype: torch.dtype) -> None:
    assert offers(served)["block"] == "derived from mappings, pre, post"
    x, params = state(dtype)
    assert torch.equal(served.block(x, params, torch.tanh), mhc_ref.block(x, params, torch.tanh, mhc_ref.LIGER))


def test_its_gradient_is_that_of_the_reference(served: Implementation) -> None:
    def pulled(block: Any) -> tuple[Tensor, ...]:
        x, params = state()
        leaves = [x.requires_grad_(), *(one.requires_grad_() for one in params[:3])]
        out = block(leaves[0], Params(*leaves[1:]), torch.tanh)
        return torch.autograd.grad(out, leaves, torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4))

    expected = pulled(lambda x, params, branch: mhc_ref.block(x, params, branch, mhc_ref.LIGER))
    for got, exact in zip(pulled(served.block), expected, strict=True):
        torch.testing.assert_close(got, exact)


def test_a_server_of_ours_says_where_it_raised(served: Implementation) -> None:
    with pytest.raises(ServerError) as caught:
        served.project(torch.zeros(2, 3))  # no square
    assert re.fullmatch(r"\w+\.py:\d+", place_of(caught.value))


def test_limits_cross() -> None:
    class Limited(Reference):
        streams, least_scale, norm_weight, max_tokens, channel_multiple = (2, 4), 1e-6, False, 3, 8

    described = json.loads(json.dumps(description(Limited(mhc_ref.LIGER))))
    assert fits(described, {"$ref": "#/$defs/description"})
    attributes = attributes_of(described)
    assert attributes["least_scale"] == 1e-6
    assert (attributes["streams"], attributes["norm_weight"], attributes["max_tokens"]) == ((2, 4), False, 3)
    assert attributes["channel_multiple"] == 8
    assert attributes_of(described | {"least_scale": 0})["least_scale"] == 0.0
    with pytest.raises(BadAnswer, match="least_scale is 'small'; expected a number"):
        attributes_of(described | {"least_scale": "small"})


def test_requests_can_ask_for_another_dialect(served: Implementation) -> None:
    once = served.tuned(iterations=1)
    logits = torch.arange(9.0).reshape(1, 3, 3)
    assert once.dialect == mhc_ref.LIGER.with_(iterations=1)
    assert torch.equal(once.project(logits), mhc_ref.project(logits, once.dialect))
    assert torch.equal(served.project(logits), mhc_ref.project(logits, mhc_ref.LIGER))


def test_a_block_alone_cannot_be_served() -> None:
    class Whole(Implementation):
        name = "whole"

        def block(self, x: Tensor, params: Params, branch: Any) -> Tensor:
            return x

    with pytest.raises(TargetError, match="a branch cannot cross a process"):
        description(Whole())


def test_a_server_is_tried_out_on_what_it_accepts() -> None:
    description = {"protocol": 2, "name": "wide", "dialect": "PAPER", "streams": [3, 2], "dtypes": ["float64"]}
    wide = make(Session("none", Limits()), {**description, "methods": ["pre"], "channel_multiple": 8})
    ((x, h_pre), shapes) = _trivial(wide)["pre"]
    assert (x.shape, x.dtype, h_pre.shape, shapes) == ((1, 2, 8), torch.float64, (1, 2), ((1, 8),))


# -- whose fault is it ------------------------------------------------------------------------------------------------

SERVER = """
import base64, ctypes, json, os, signal, struct, sys
mode = sys.argv[1]

def array(shape, value):
    count = 1
    for size in shape: count *= size
    data = base64.b64encode(struct.pack(f"<{count}f", *[value] * count)).decode()
    return {"dtype": "float32", "shape": shape, "data": data}

for line in sys.stdin:
    request = json.loads(line)
    if request["method"] == "describe":
        answer = {"result": {"protocol": 1, "name": "wrong", "dialect": "PAPER", "streams": [1, 2],
                             "dtypes": ["float32"], "methods": ["project"]}}
        if mode == "other-protocol": answer["result"]["protocol"] = 3
        if mode == "no-dialect": del answer["result"]["dialect"]
        if mode == "old" and request["params"] != {"protocol": 1}:
            answer = {"error": {"kind": "bad-request", "message": "this server speaks version 1"}}
        if mode == "refusing": answer = {"error": {"kind": "unknown-method", "message": "describe"}}
    else:
        logits = request["params"]["logits"]
        shape = logits["shape"]
        answer = {"result": {"h_res": array(shape, 1 / shape[-1])}}
        if mode == "old": answer = {"took": 3, "result": {"h_res": array(shape, 1 / shape[-1]), "note": "of version 1"}}
        if mode == "wrong-shape": answer = {"result": {"h_res": array([1], 1.0)}}
        if mode == "no-array": answer = {"result": 3}
        if mode == "wrong-id": request["id"] += 1
        if mode == "always-dies": os._exit(3)
        if shape[-1] == 2:
            if mode == "crashing": ctypes.string_at(0)
            if mode == "leaving": sys.stderr.write("out of ideas" + chr(10)); sys.exit(4)
            if mode == "hanging": signal.pause()
            if mode == "hungry":
                eaten = []
                while True: eaten.append(bytearray(b"x" * (1 << 24)))
            if mode == "lying": answer = {"result": {"h_res": array(shape, 0.51)}}
            if mode == "raising": answer = {"error": {"kind": "ZeroDivisionError", "message": "no streams to speak of"}}
            if mode == "babbling": print("let me see ...", flush=True)
            if mode == "mutating": answer["changed"] = {"logits": array(shape, 7.0)}
    print(json.dumps({"id": request["id"], **answer}), flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("server") / "server.py"
    path.write_text(SERVER)
    return f"{PYTHON} -S {shlex.quote(str(path))}"


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("other-protocol", "the server speaks protocol 3; understood are 1 to 2"),
        ("no-dialect", "describe lacks 'dialect'"),
        ("refusing", "unknown-method: describe"),
        ("wrong-shape", r"project.h_res has shape \[1\] on a trivial input; expected \[1, 1, 1\]"),
        ("no-array", "project answered 3; expected an object with h_res"),
        ("wrong-id", "a response has id 3; request 2 was asked"),
    ],
)
def test_a_broken_server_is_no_finding(server: str, mode: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        resolve(f"proc:{server} {mode}")


def test_a_server_of_an_older_version_is_understood(server: str) -> None:
    """It refuses the words of a newer one, and what it answers may have fields that nobody has defined."""
    assert build(f"{server} old").project(torch.zeros(1, 2, 2)).tolist() == [[[0.5, 0.5], [0.5, 0.5]]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pass", "exited with status 0"),
        ("raise SystemExit('no such model')", 'exited with status 1; its last words: "no such model"'),
        ("print('Loading ...')", "wrote 'Loading ...' to stdout, which is not JSON; print to stderr"),
        ("print(3)", "wrote 3 to stdout; expected a JSON object"),
    ],
)
def test_a_process_that_does_not_speak_is_no_finding(source: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        build(f"{PYTHON} -S -c {shlex.quote(source)}")
    assert message in str(caught.value)
    assert "the server is broken, which says nothing about what it computes" in str(caught.value)


@pytest.mark.parametrize("command", ["", "'", "no-such-program-anywhere --flag"])
def test_a_command_that_is_none_is_no_finding(command: str) -> None:
    with pytest.raises(TargetError):
        build(command)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("crashing", ProcessDied, "the process was killed by SIGSEGV"),
        ("leaving", ProcessDied, 'the process exited with status 4; its last words: "out of ideas"'),
        ("hungry", TooMuchMemory, "the process took more than 64 MiB of memory and was stopped"),
        ("raising", ServerError, "no streams to speak of"),
        ("babbling", BadAnswer, "the process wrote 'let me see ...' to stdout, which is not JSON; print to stderr"),
    ],
)
def test_a_failure_is_named_and_the_next_call_is_answered(
    server: str, mode: str, kind: type[Exception], message: str
) -> None:
    target = build(f"{server} {mode}", Limits(memory=64 << 20))
    for _ in range(2):
        with pytest.raises(kind) as caught:
            target.project(torch.zeros(1, 2, 2))
        assert str(caught.value) == message
        assert target.project(torch.zeros(1, 1, 1)).item() == 1


@pytest.mark.parametrize(
    ("mode", "law", "found"),
    [
        ("crashing", "manifold.last-axis-sums", "project raised ProcessDied: the process was killed by SIGSEGV"),
        ("hanging", "manifold.last-axis-sums", "project raised NoAnswer: no answer within 0.2 s"),
        pytest.param(
            *("hungry", "manifold.last-axis-sums", "project raised TooMuchMemory: the process took more than 64 MiB"),
            marks=pytest.mark.slow,
        ),
        ("lying", "manifold.last-axis-sums", "a sum of h_res over dim -1"),
        ("raising", "manifold.last-axis-sums", "project raised ZeroDivisionError: no streams to speak of"),
        ("mutating", "execution.projection-leaves-its-input-alone", "logits after the call"),
        ("always-dies", "manifold.last-axis-sums", "project raised ProcessDied: the process exited with status 3"),
    ],
)
def test_a_law_finds_it_with_its_input(server: str, tmp_path: Path, mode: str, law: str, found: str) -> None:
    target = build(f"{server} {mode}", Limits(memory=64 << 20, call_seconds=20))
    assert isinstance(target, Client)
    if mode == "hanging":
        target.session.process.limits = Limits(memory=64 << 20, call_seconds=0.2)
    failed = verdict(target, law, tmp_path)
    assert failed.status == "failed"
    assert failed.reason.startswith(found)
    assert failed.counterexample is not None
    assert failed.counterexample.is_file()


def test_a_hang_ends(server: str) -> None:
    target = build(f"{server} fine")
    assert isinstance(target, Client)
    target.session.process.limits = Limits(call_seconds=0.2)
    target.session.process.command = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
    target.session.process.start()
    with pytest.raises(protocol.NoAnswer, match=r"no answer within 0\.2 s; the process was stopped"):
        target.project(torch.zeros(1, 1, 1))
    target.session.process.limits = Limits(call_seconds=20)
    assert target.session.process.patience == 2, "later calls, of every smaller input, would take as long"


def test_a_flood_that_is_slower_than_its_limit_is_no_mere_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory comes slowly the time is over first; the message says what else was going on."""
    process = Supervised([sys.executable, "-S", "-c", "import signal; signal.pause()"], Limits(call_seconds=0.05))
    process.start()
    monkeypatch.setattr(memory, "memory_of", lambda pid: 1 << 20)
    process.ready()
    with pytest.raises(protocol.NoAnswer, match=r"the process was stopped$"):
        process.wait_for_reply()
    monkeypatch.setattr(memory, "memory_of", lambda pid: 1400 << 20)
    with pytest.raises(protocol.NoAnswer, match=r"was stopped, with 1\.4 GiB more memory than at the start$"):
        process.wait_for_reply()
    process.stop()


def test_servers_end_with_their_implementation(server: str) -> None:
    target = build(f"{server} fine")
    assert isinstance(target, Client)
    number = target.session.process.pid
    os.kill(number, 0)
    del target
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.slow
def test_the_command_line_tries_a_server_out(server: str) -> None:
    def tried(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.app, ["process", *words])
        return result.exit_code, result.output

    answers = "ok     describe: wrong, project\nok     project: answers in shape\n"
    assert tried(f"{server} crashing") == (0, answers)
    assert tried(*shlex.split(server), "crashing") == (0, answers)
    code, output = tried(f"{server} always-dies")
    assert (code, "left to the laws" in output) == (0, True)
    code, output = tried(f"{server} wrong-shape")
    assert (code, "BROKEN project" in output) == (2, True)
    assert tried()[0] == 2


@pytest.mark.slow
def test_the_python_server_names_what_it_cannot_serve() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "properties.targets.process.server", "no.such.module:x"], capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "no.such.module" in found.stderr
