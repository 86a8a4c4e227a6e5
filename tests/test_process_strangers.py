"""What a stranger's process may do: whatever it writes, or leaves out, ends in one sentence, in time, within limits."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from wire_schema import fits

from properties.core.implementation import Implementation
from properties.guards.traces import excerpt, place_of
from properties.targets.process import Limits, build, memory
from properties.targets.process.client import Client
from properties.targets.process.description import attributes_of
from properties.targets.process.lines import read_line
from properties.targets.process.protocol import (
    LONGEST_KIND,
    MOST_DEPTH,
    BadAnswer,
    NoAnswer,
    ProcessDied,
    ProcessFailure,
    ServerError,
    decode,
    server_error,
)
from properties.targets.process.supervised import Supervised
from properties.targets.target import TargetError

PYTHON = f"{shlex.quote(sys.executable)} -S"
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux finds what left its session")


def assert_one_sentence(text: str) -> None:
    assert "Traceback" not in text
    assert "\n" not in text
    assert all(one.isprintable() for one in text), text
    assert len(text) < 1200


# -- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"id": NaN}', "with NaN, which is no JSON"),
        (b'{"id": -Infinity}', "with -Infinity, which is no JSON"),
        (b'{"id": 1' + b"0" * 400 + b"}", "with an integer of 401 digits; expected at most 19"),
        (b'{"id": 1' + b"0" * 9000 + b"}", "with an integer of 9001 digits"),
        (b'{"id": 1, "id": 2}', "with the key 'id' more than once"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "with the key 'b' more than once"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 16 deep"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "nested more than 16 deep"),
        (b'{"a": ' + b"[" * MOST_DEPTH + b"]" * MOST_DEPTH + b"}", "nested more than 16 deep"),
        (b'{"a": [' + b"0," * 1_000_001 + b"0]}", "with 1000001 commas; expected at most 1000000"),
        (b'{"id": "\xff"}', "which is not UTF-8 (byte 8)"),
        ('{"id": 1}'.encode("utf-16"), "which is not UTF-8 (byte 0)"),
        (b'\xef\xbb\xbf{"id": 1}', "which is not JSON"),
        (b'{"id": 1} {"id": 2}', "which is not JSON (Extra data"),
        (b'{"id": "\x1b[2J"}', "which is not JSON (Invalid control character"),
        (b"{'id': 1}", "which is not JSON"),
        (b"\x1b[31mhello", "which is not JSON; print to stderr"),
        (b'"text"', "expected a JSON object"),
        (b"[]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
    ],
)
def test_a_line_that_is_not_in_the_protocol_is_said_to_be_none(line: bytes, found: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        read_line(line, "the process")
    assert found in str(caught.value)
    assert_one_sentence(str(caught.value))


def test_what_is_just_within_the_limits_is_read() -> None:
    deep = b'{"a": ' + b"[" * (MOST_DEPTH - 1) + b"]" * (MOST_DEPTH - 1) + b"}"
    assert list(read_line(deep, "the process")) == ["a"]
    assert read_line(b'{"id": 9007199254740993, "x": 1e-3}', "it") == {"id": 9007199254740993, "x": 1e-3}
    assert read_line(b'{"x": Infinity}', "the worker", constants=True) == {"x": float("inf")}


# -- descriptions, arrays, errors -----------------------------------------------------------------------------------

DESCRIPTION: dict[str, Any] = {
    "protocol": 2,
    "name": "stranger",
    "dialect": "PAPER",
    "streams": [1, 2],
    "dtypes": ["float32"],
    "methods": ["project", "vjp"],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": [10**9]}, "streams is [1000000000]; expected a list of integers from 1 to 64"),
        ({"streams": [True]}, "streams is [True]"),
        ({"streams": [2.0]}, "streams is [2.0]"),
        ({"streams": ["4"]}, "streams is ['4']"),
        ({"streams": [[2]]}, "streams is [[2]]"),
        ({"streams": []}, "streams is []"),
        ({"streams": [0]}, "streams is [0]"),
        ({"streams": 4}, "streams is 4"),
        ({"streams": {"4": 4}}, "streams is {'4': 4}"),
        ({"streams": [8], "dialect": "MHC_LITE"}, "residual='permutations' is verified up to n = 5"),
        ({"methods": [["project"]]}, "methods is [['project']]"),
        ({"methods": [{}]}, "methods is [{}]"),
        ({"methods": ["vjp"]}, "methods is ['vjp']"),
        ({"methods": ["project", "\x1b[2J"]}, r"methods is ['project', '\x1b[2J']"),
        ({"methods": "project"}, "methods is 'project'"),
        ({"dtypes": [["float32"]]}, "dtypes is [['float32']]"),
        ({"dtypes": ["float"]}, "dtypes is ['float']"),
        ({"emits": [{}]}, "emits is [{}]"),
        ({"emits": []}, "emits is []"),
        ({"tunable": [None]}, "tunable is [None]"),
        ({"tunable": ["iteration"]}, "tunable names ['iteration'], which are no fields of Dialect"),
        ({"name": 3}, "name is 3; expected a string"),
        ({"name": "x" * 201}, "name is 'xxx"),
        ({"name": "\x1b]0;owned\x07"}, r"name is '\x1b]0;owned\x07'; expected a string of at most 200 printable"),
        ({"name": "\ud800"}, r"name is '\ud800'; expected a string of at most 200 printable"),
        ({"name": "two\nlines"}, r"name is 'two\nlines'; expected a string of at most 200 printable"),
        ({"name": None}, "name is None"),
        ({"dialect": None}, "dialect is None"),
        ({"dialect": ["PAPER"]}, "dialect is ['PAPER']"),
        ({"dialect": {"preset": ["PAPER"]}}, "dialect is preset ['PAPER']"),
        ({"dialect": {"preset": {}}}, "dialect is preset {}"),
        ({"dialect": {"\x1b[31m": 1}}, r"dialect: Dialect has no field '\x1b[31m'"),
        ({"dialect": {"iterations": 10**6}}, "iterations is 1000000; at most 1000 are verified"),
        ({"dialect": {"iterations": True}}, "Dialect.iterations is True"),
        ({"dialect": {"iterations": "20"}}, "Dialect.iterations is '20'"),
        ({"dialect": {"entry_eps": "1e-6"}}, "Dialect.entry_eps is '1e-6'"),
        ({"dialect": {"entry_eps": float("inf")}}, "Dialect.entry_eps is inf"),
        ({"dialect": {"transposed": 1}}, "Dialect.transposed is 1"),
        ({"dialect": {"start": ["exp"]}}, "Dialect.start is ['exp']"),
        ({"max_tokens": 0}, "max_tokens is 0; expected an integer from 1 to"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"max_tokens": None}, "max_tokens is None"),
        ({"channel_multiple": 10**9}, "channel_multiple is 1000000000; expected an integer from 1 to 8192"),
        ({"least_scale": 2}, "least_scale is 2; expected a number from 0 to 1"),
        ({"least_scale": float("inf")}, "least_scale is inf"),
        ({"least_scale": "1e-6"}, "least_scale is '1e-6'"),
        ({"mixing": ["state"]}, "mixing is ['state']; expected one of compute, state"),
        ({"products": "fp8"}, "products is 'fp8'"),
        ({"deterministic": "yes"}, "deterministic is 'yes'; expected true or false"),
        ({"deterministic": 1}, "deterministic is 1"),
        ({"protocol": 3}, "the server speaks protocol 3; understood are 1 to 2"),
        ({"protocol": True}, "the server speaks protocol True"),
        ({"protocol": "1"}, "the server speaks protocol '1'"),
        ({"protocol": [1]}, r"the server speaks protocol [1]"),
        ({"\x1b[0m": 1}, r"describe has ['\x1b[0m']"),
    ],
)
def test_a_description_that_cannot_be_used_says_which_field_it_is(change: dict[str, Any], message: str) -> None:
    schema = {"$ref": "#/$defs/description"}
    assert fits(DESCRIPTION, schema)
    beyond = ("printable", "permutation", "no fields of Dialect")  # which no schema says
    assert any(one in message for one in beyond) or not fits(DESCRIPTION | change, schema)
    with pytest.raises(BadAnswer) as caught:
        attributes_of(DESCRIPTION | change)
    assert message in str(caught.value)
    assert_one_sentence(str(caught.value))


@pytest.mark.parametrize("missing", DESCRIPTION)
def test_every_field_that_a_description_needs_is_asked_for(missing: str) -> None:
    assert attributes_of(DESCRIPTION)["streams"] == (1, 2)
    with pytest.raises(BadAnswer):
        attributes_of({name: value for name, value in DESCRIPTION.items() if name != missing})


@pytest.mark.parametrize(
    "array",
    [
        {"dtype": "float32", "shape": [10**18, 10**18, 10**18], "data": ""},
        {"dtype": "float32", "shape": [0, 10**18], "data": ""},
        {"dtype": "float32", "shape": [0, 10**9, 10**9], "data": ""},
        {"dtype": "float32", "shape": [1] * 100, "data": "AACAPw=="},
        {"dtype": "float32", "shape": [True], "data": "AACAPw=="},
        {"dtype": "float32", "shape": [1.0], "data": "AACAPw=="},
        {"dtype": "float32", "shape": ["1"], "data": "AACAPw=="},
        {"dtype": "float32", "shape": [[1]], "data": "AACAPw=="},
        {"dtype": "float32", "shape": {"0": 1}, "data": "AACAPw=="},
        {"dtype": "float32", "shape": "1", "data": "AACAPw=="},
        {"dtype": ["float32"], "shape": [1], "data": "AACAPw=="},
        {"dtype": {}, "shape": [1], "data": "AACAPw=="},
        {"dtype": "int64", "shape": [1], "data": "AAAAAAAAAAA="},
        {"dtype": "nn", "shape": [1], "data": ""},
        {"dtype": "float32", "shape": [1], "data": "AACAPw"},
        {"dtype": "float32", "shape": [1], "data": "AACA\u2028Pw=="},
        {"dtype": "float32", "shape": [1], "data": "\ud800"},
        {"dtype": "float32", "shape": [1], "data": [1.0]},
        {"dtype": "float32", "shape": [1], "data": 1.0},
        {"dtype": "float32", "shape": [1], "data": None},
        {"dtype": "float32", "shape": [1], "data": "AACAPwAA"},
        {"dtype": "float32", "shape": [1]},
        [],
        "AACAPw==",
        True,
    ],
)
def test_an_array_that_is_none_is_the_peer_s_mistake(array: Any) -> None:
    with pytest.raises(BadAnswer) as caught:
        decode(array)
    assert_one_sentence(str(caught.value))


@pytest.mark.parametrize("error", [None, 3, "text", [], {"kind": 1, "message": ""}, {"kind": "E", "message": ["x"]}])
def test_an_error_that_is_none_is_the_peer_s_mistake(error: Any) -> None:
    with pytest.raises(BadAnswer):
        raise server_error(error)


@pytest.mark.parametrize("kind", ["\x1b[31mE", "a\0b", "\ud800", "two\nlines", "", "k" * 10**6, "__init__"])
def test_an_error_has_a_kind_and_a_message_that_can_be_shown(kind: str) -> None:
    error = server_error({"kind": kind, "message": "\x1b[2J" + "m" * 10**6 + "\ud800"})
    assert type(error).__name__.isprintable()
    assert len(type(error).__name__) <= LONGEST_KIND + 100
    assert r"\x1b[2J" in str(error)
    assert "\x1b" not in str(error)
    assert str(error).encode()
    assert len(str(error)) < 5000


@pytest.mark.parametrize("where", [None, 3, ["x.py:3"], {}, "\x1b[2Jx.py:3\n" + "y" * 10**6])
def test_where_an_error_was_raised_may_be_anything_and_can_be_shown(where: Any) -> None:
    error = server_error({"kind": "E", "message": "m", "place": where, "excerpt": where})
    assert place_of(error).isprintable()
    assert len(place_of(error)) < 500
    assert "\x1b" not in excerpt(error)
    assert len(excerpt(error)) < 2000
    assert bool(excerpt(error)) == isinstance(where, str)


def test_a_server_need_not_say_where() -> None:
    error = server_error({"kind": "E", "message": "m"})
    assert (place_of(error), excerpt(error)) == ("", "")


# -- processes -------------------------------------------------------------------------------------------------------

STRANGER = r"""
import json, os, signal, sys, time
mode, folder = sys.argv[1], sys.argv[2]
one = {"dtype": "float32", "shape": [1, 1, 1], "data": "AACAPw=="}

def note(pid):
    with open(os.path.join(folder, str(pid)), "w"):
        pass

def leave_behind(new_session):
    pid = os.fork()
    if pid == 0:
        if new_session:
            os.setsid()
            if os.fork(): os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        note(os.getpid())
        while True: signal.pause()
    if new_session: os.waitpid(pid, 0)
    while not os.listdir(folder): time.sleep(0.001)

def endless(stream, text):
    while True: stream.write(text)

def act(request):
    number = request["id"]
    if mode == "blank-lines": endless(sys.stdout, "\n" * 4096)
    if mode == "spaces": endless(sys.stdout, " " * 4096)
    if mode == "endless-line": endless(sys.stdout, '{"id": ' + "1" * 4096)
    if mode == "some-blanks":
        os.write(1, b"\n" * 3000)
        return {"result": {"h_res": one}}
    if mode == "drip":
        while True:
            os.write(1, b" " if number % 2 else b"x")
            time.sleep(0.01)
    if mode == "stderr":
        sys.stderr.write("x" * 4096)
        endless(sys.stderr, "y" * 4096)
    if mode == "half-an-answer":
        os.write(1, b'{"id": 2, "result"')
        signal.pause()
    if mode == "stopped": os.kill(os.getpid(), signal.SIGSTOP)
    if mode == "stopped-guardian":
        os.kill(os.getppid(), signal.SIGSTOP)
        signal.pause()
    if mode == "closed-stdout":
        os.close(1)
        signal.pause()
    if mode == "closed-stdin":
        os.close(0)
        signal.pause()
    if mode == "left-with-a-child":
        leave_behind(False)
        os._exit(3)
    if mode == "left-with-a-daemon":
        leave_behind(True)
        os._exit(4)
    if mode == "last-words":
        sys.stderr.write("\x1b]0;owned\x07 \x1b[31mout of ideas\n")
        os._exit(5)
    if mode == "escapes": return {"error": {"kind": "\x1b[31mE", "message": "\x1b[2J\ud800"}}
    if mode == "float-id": return {"id": float(number), "result": {"h_res": one}}
    if mode == "true-id": return {"id": True, "result": {"h_res": one}}
    if mode == "old-id": return {"id": number - 1, "result": {"h_res": one}}
    if mode == "extra": return {"result": {"h_res": one, "note": 1}}
    if mode == "order": return {"result": {"h_res": {**one, "order": "F"}}}
    if mode == "more": return {"result": {"h_res": one}, "took": 3}
    if mode == "changed-list": return {"result": {"h_res": one}, "changed": [1]}
    if mode == "changed-stranger": return {"result": {"h_res": one}, "changed": {"x": one}}
    if mode == "changed-shape": return {"result": {"h_res": one}, "changed": {"logits": one}}
    if mode == "changed-null": return {"result": {"h_res": one}, "changed": None}
    if mode == "null-error": return {"error": None}
    if mode == "nothing": return {}
    if mode == "null-result": return {"result": None}

def lines():
    for count, line in enumerate(sys.stdin):
        yield line
        if mode == "hasty" and count == 1:
            os.write(1, b'{"id": 3, "result": {}}\n')
            signal.pause()

for line in lines():
    request = json.loads(line)
    if request["method"] == "describe":
        answer = {"result": {"protocol": 2, "name": "stranger", "dialect": "PAPER", "streams": [1, 2],
                             "dtypes": ["float32"], "methods": ["project"]}}
    elif request["params"]["logits"]["shape"] == [1, 1, 1]:
        answer = {"result": {"h_res": one}}
    else:
        answer = act(request)
    if mode == "deaf" and request["method"] != "describe":
        print(json.dumps({"id": request["id"], **answer}), flush=True)
        signal.pause()
    print(json.dumps({"id": request["id"], **answer}), flush=True)
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Callable[[str], Client]:
    """A server that shakes hands, answers a trivial input, and goes wrong in one way on every other one."""
    path, folder = tmp_path / "stranger.py", tmp_path / "left"
    path.write_text(STRANGER)
    folder.mkdir()

    def start(mode: str) -> Client:
        limits = Limits(call_seconds=20, line=1 << 20, blank=1 << 12)
        made = build(f"{PYTHON} {shlex.quote(str(path))} {mode} {shlex.quote(str(folder))}", limits)
        assert isinstance(made, Client)
        return made

    return start


def asked(target: Implementation) -> str:
    """What comes of an input that is not trivial."""
    with pytest.raises(ProcessFailure) as caught:
        target.project(torch.zeros(1, 2, 2))
    assert_one_sentence(str(caught.value))
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "found"),
    [
        ("blank-lines", "BadAnswer: the process wrote more than 4096 bytes of empty lines to stdout"),
        ("spaces", "BadAnswer: the process wrote more than 4096 bytes of empty lines to stdout"),
        ("endless-line", 'BadAnswer: the process wrote a line of more than 1 MiB to stdout: \'{"id": 1111'),
        ("closed-stdout", "ProcessDied: the process closed its stdout and lived on"),
        ("last-words", r'exited with status 5; its last words: "\x1b]0;owned\x07 \x1b[31mout of ideas"'),
        ("float-id", "BadAnswer: a response has id 3.0; request 3 was asked"),
        ("true-id", "BadAnswer: a response has id True; request 3 was asked"),
        ("old-id", "BadAnswer: a response has id 2; request 3 was asked"),
        ("extra", "BadAnswer: the result of project has ['note']; its fields are h_res"),
        ("order", "BadAnswer: project.h_res has ['order']; its fields are dtype, shape, data"),
        ("more", "BadAnswer: a response has ['took']; its fields are id, result, changed"),
        ("changed-list", "BadAnswer: changed is [1]; expected an object with some of logits"),
        ("changed-null", "BadAnswer: changed is None; expected an object with some of logits"),
        ("changed-stranger", "BadAnswer: changed is {'x': "),
        ("changed-shape", "changed logits is torch.float32 of shape [1, 1, 1]; it was torch.float32 of [1, 2, 2]"),
        ("null-error", "BadAnswer: error is None; expected {kind, message}"),
        ("nothing", "BadAnswer: a response has neither result nor error"),
        ("null-result", "BadAnswer: project answered None; expected an object with h_res"),
    ],
)
def test_a_stranger_s_answer_ends_in_one_sentence_and_the_next_call_is_answered(
    stranger: Callable[[str], Client], mode: str, found: str
) -> None:
    target = stranger(mode)
    assert found in asked(target)
    assert target.project(torch.zeros(1, 1, 1)).item() == 1


@linux
@pytest.mark.parametrize(
    ("mode", "found"),
    [
        ("drip", "NoAnswer: no answer within 0.3 s; the process was stopped, after the first "),
        ("half-an-answer", "NoAnswer: no answer within 0.3 s; the process was stopped, after the first 18 bytes of"),
        ("stderr", "NoAnswer: no answer within 0.3 s; the process was stopped"),
        ("stopped", "NoAnswer: no answer within 0.3 s; the process was stopped"),
        pytest.param(
            *("stopped-guardian", "NoAnswer: no answer within 0.3 s; the process was stopped"), marks=pytest.mark.slow
        ),
        ("closed-stdin", "NoAnswer: no answer within 0.3 s; the process was stopped"),
    ],
)
def test_every_wait_has_an_end(stranger: Callable[[str], Client], mode: str, found: str) -> None:
    target = stranger(mode)
    target.project(torch.zeros(1, 1, 1))  # an even number for the next request, on which "drip" writes no blanks
    number = target.session.process.pid
    target.session.process.limits = Limits(call_seconds=0.3)
    assert asked(target).startswith(found)
    assert_gone([number])


def test_what_a_process_does_not_read_is_written_nowhere_else(tmp_path: Path) -> None:
    """The number of a pipe that was closed is the number of the next file that somebody opens."""
    source = "import os, signal; os.close(0); print('{}', flush=True); signal.pause()"
    process = Supervised([sys.executable, "-S", "-c", source], Limits())
    process.start()
    process.receive(60)
    process.send({"closes": "the pipe"})
    assert process._life is not None
    number, file = process._life._stdin, os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    os.dup2(file, number)
    process.send({"is": "lost"})
    process.stop()
    for descriptor in {file, number}:
        os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b""


def test_blanks_before_two_answers_are_counted_apart(stranger: Callable[[str], Client]) -> None:
    target = stranger("some-blanks")
    for _ in range(2):  # 3000 each, of 4096
        assert target.project(torch.zeros(1, 2, 2)).item() == 1


@linux
def test_a_process_ignores_no_signal_that_python_ignores() -> None:
    """A pipeline of a shell that starts with SIGPIPE ignored does not end when its reader does."""
    tell = "printf '{\"ignored\": \"%s\"}\\n' $(awk '/SigIgn/{print $2}' /proc/self/status)"
    process = Supervised(["sh", "-c", tell], Limits())
    process.start()
    ignored = int(process.receive(60)[0]["ignored"], 16)
    process.stop()
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_a_server_that_does_not_read_its_request_is_left(stranger: Callable[[str], Client]) -> None:
    target = stranger("deaf")
    target.session.process.limits = Limits(call_seconds=0.3)
    with pytest.raises(NoAnswer, match=r"was stopped, with \d+ bytes of the request unread"):
        target.project(torch.zeros(1 << 15, 2, 2))


def test_an_answer_to_half_a_request_is_none(stranger: Callable[[str], Client]) -> None:
    with pytest.raises(BadAnswer, match="answered before it had read the whole request"):
        stranger("hasty").project(torch.zeros(1 << 16, 2, 2))


def test_an_error_of_a_stranger_is_shown_without_its_escapes(stranger: Callable[[str], Client]) -> None:
    with pytest.raises(ServerError) as caught:
        stranger("escapes").project(torch.zeros(1, 2, 2))
    assert (type(caught.value).__name__, str(caught.value)) == (r"\x1b[31mE", r"\x1b[2J\ud800")


@pytest.mark.parametrize("command", ["a\0b", "'\x1b[31m", "/", "/etc/passwd", "no-such-program-\x1b[31m"])
def test_a_command_that_cannot_run_ends_in_one_sentence(command: str) -> None:
    with pytest.raises(TargetError) as caught:
        build(command)
    assert_one_sentence(str(caught.value))


@linux
@pytest.mark.parametrize(("mode", "status"), [("left-with-a-child", 3), ("left-with-a-daemon", 4)])
def test_a_server_that_left_is_gone_with_all_that_it_started(
    stranger: Callable[[str], Client], tmp_path: Path, mode: str, status: int
) -> None:
    """Its children hold its pipes open, so that nothing but the end of the process itself says that it has ended."""
    assert asked(stranger(mode)) == f"ProcessDied: the process exited with status {status}"
    (left,) = (tmp_path / "left").iterdir()
    assert_gone([int(left.name)])


# -- who outlives whom -----------------------------------------------------------------------------------------------

REPORT = r"""
import os, signal, subprocess, sys
events = sys.argv[-1] if __name__ == "__main__" else os.environ["EVENTS"]

def report(*numbers):
    with open(events, "a") as file:
        file.write("".join(f"{number}\n" for number in numbers))

def daemon():
    "A descendant with a session of its own that ignores what asks it to leave; its number."
    end, begin = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid:
            os.write(begin, str(pid).encode())
            os._exit(0)
        for name in ("SIGTERM", "SIGHUP", "SIGINT"): signal.signal(getattr(signal, name), signal.SIG_IGN)
        while True: signal.pause()
    os.wait()
    return int(os.read(end, 100))
"""

SERVER = """
import json
moment, calls = sys.argv[1], 0
for line in sys.stdin:
    request = json.loads(line)
    calls += 1
    if (moment, calls) in (("starting", 1), ("called", 3)):
        report(os.getpid(), daemon())
        signal.pause()
    h_res = {"dtype": "float32", "shape": [1, 1, 1], "data": "AACAPw=="}
    result = {"protocol": 1, "name": "x", "dialect": "PAPER", "streams": [1], "dtypes": ["float32"],
              "methods": ["project"]} if calls == 1 else {"h_res": h_res}
    print(json.dumps({"id": request["id"], "result": result}), flush=True)
    if (moment, calls) == ("idle", 2): report(os.getpid(), daemon())
"""

TARGET = """
import mhc_ref
from properties.core.implementation import Reference

def stay():
    report(os.getpid(), daemon())
    signal.pause()

class Called(Reference):
    def project(self, logits):
        stay()

if os.environ.get("MOMENT") == "importing": stay()
"""

RUN = """
import os, signal, sys, threading
import torch
from properties.targets.isolation import isolated
command, target, *moments = sys.argv[1:]
def work(moment):
    made = isolated(target if moment in ("importing", "isolated") else command.replace("MOMENT", moment))
    if os.environ.get("COPY"):
        copy = os.fork()
        if copy == 0:
            while True: signal.pause()
        with open(os.environ["EVENTS"], "a") as file: file.write(f"{copy}\\n")
    made.project(torch.zeros(1, 1, 1))
threads = [threading.Thread(target=work, args=(moment,), daemon=True) for moment in moments]
for thread in threads: thread.start()
threading.Event().wait()
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], list[int]]]]:
    """Start a run whose processes are at these moments; it, and their numbers once they have come there."""
    events, server, target, script = (tmp_path / name for name in ("events", "server.py", "target.py", "run.py"))
    os.mkfifo(events)
    server.write_text(REPORT + SERVER)
    target.write_text(REPORT + TARGET)
    script.write_text(RUN)
    command = f"proc:{PYTHON} {shlex.quote(str(server))} MOMENT {shlex.quote(str(events))}"
    started: list[subprocess.Popen[bytes]] = []

    def start(*moments: str, expected: int = 0, **environment: str) -> tuple[subprocess.Popen[bytes], list[int]]:
        reading = os.open(events, os.O_RDWR)  # not for reading alone: there may be no writer for a while
        started.append(
            subprocess.Popen(
                [sys.executable, str(script), command, f"{target}:Called", *moments],
                env={**os.environ, "EVENTS": str(events), **environment},
            )
        )
        found, poll = b"", select.poll()
        poll.register(reading, select.POLLIN)
        while found.count(b"\n") < (expected or 2 * len(moments)):
            assert poll.poll(120_000), f"only {found.split()} were reported"
            found += os.read(reading, 4096)
        os.close(reading)
        return started[-1], [int(number) for number in found.split()]

    yield start
    for process in started:
        process.kill()
        process.wait()


@linux
@pytest.mark.parametrize(
    ("moments", "number"),
    [
        (("starting", "idle", "called"), signal.SIGKILL),
        pytest.param(("starting", "idle", "called"), signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(("isolated",), signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(("isolated",), signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_processes_end_with_their_run_whatever_ends_it(
    run: Callable[..., tuple[subprocess.Popen[bytes], list[int]]], moments: tuple[str, ...], number: int
) -> None:
    """And so do their descendants, in whatever session, whatever they ignore."""
    process, left = run(*moments)
    process.send_signal(number)
    assert process.wait(60) == -number
    assert_gone(left)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_still_importing_ends_with_its_run(
    run: Callable[..., tuple[subprocess.Popen[bytes], list[int]]], number: int
) -> None:
    process, left = run("importing", MOMENT="importing")
    process.send_signal(number)
    process.wait(60)
    assert_gone(left)


@linux
@pytest.mark.slow
def test_a_forked_copy_of_the_run_does_not_keep_its_processes(
    run: Callable[..., tuple[subprocess.Popen[bytes], list[int]]],
) -> None:
    """It holds every pipe of the run open, as the workers of a data loader do."""
    process, (copy, *left) = run("called", expected=3, COPY="yes")
    process.kill()
    process.wait()
    assert_gone(left)
    os.kill(copy, signal.SIGKILL)


@linux
def test_a_process_ends_with_its_guardian() -> None:
    """Even one that looks at none of its pipes, which close only afterwards."""
    source = "import signal; print('{}', flush=True)\nwhile True: signal.pause()"
    process = Supervised([sys.executable, "-S", "-c", source], Limits())
    process.start()
    process.receive(60)
    assert process._life is not None
    os.kill(process._life.guardian, signal.SIGKILL)
    assert_gone([process.pid])
    with pytest.raises(ProcessDied, match="the process was lost with its guardian"):
        process.receive(60)
    process.stop()


def test_a_process_outlives_the_thread_that_started_it(stranger: Callable[[str], Client]) -> None:
    found: list[Client] = []
    thread = threading.Thread(target=lambda: found.append(stranger("fine")))
    thread.start()
    thread.join()
    process = found[0].session.process
    number = process.pid
    assert found[0].project(torch.zeros(1, 1, 1)).item() == 1
    assert process.pid == number


def assert_gone(numbers: list[int]) -> None:
    """Every one of these processes has ended, or ends now."""
    for number in numbers:
        try:
            handle = os.pidfd_open(number)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(60_000), f"process {number} lives on"
        os.close(handle)


# -- memory ----------------------------------------------------------------------------------------------------------

HOLDING = """
import mmap, os, signal, sys
how = sys.argv[1]
if how == "file":
    with open(sys.argv[2], "r+b") as file: view = mmap.mmap(file.fileno(), 0)
    sum(view[::4096])
if how == "child" and os.fork(): signal.pause()
if how == "orphan":
    if os.fork():
        os.wait()
        signal.pause()
    os.setsid()
    if os.fork(): os._exit(0)
if how != "file": held = bytearray(b"x" * (64 << 20))
print("{}", flush=True)
signal.pause()
"""


@linux
@pytest.mark.parametrize(("how", "counted"), [("own", True), ("child", True), ("orphan", True), ("file", False)])
def test_memory_is_what_a_process_and_its_descendants_took(tmp_path: Path, how: str, counted: bool) -> None:
    """The pages of a file that it reads, a library's, say, are the kernel's to take back."""
    mapped = tmp_path / "mapped"
    with mapped.open("wb") as file:
        file.truncate(64 << 20)
    process = Supervised([sys.executable, "-S", "-c", HOLDING, how, str(mapped)], Limits())
    process.start()
    try:
        process.receive(60)
        assert (process._memory() >= 64 << 20) == counted
    finally:
        process.stop()


@linux
def test_where_there_is_no_proc_the_limit_does_not_vanish_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psutil then says of every process, this one too, that it has ended."""
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    monkeypatch.setattr(memory, "_told_by_proc", lambda: False)
    monkeypatch.setattr(memory, "_warned", [])
    with pytest.warns(RuntimeWarning, match="limit of 64 MiB is not kept"):
        memory.watched(64 << 20)


def test_memory_that_cannot_be_found_out_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda pid: None)
    monkeypatch.setattr(memory, "_warned", [])
    process = Supervised([sys.executable, "-S", "-c", "print('{}')"], Limits())
    with pytest.warns(RuntimeWarning, match="their limit of .* MiB is not kept"):
        process.start()
    process.ready()
    assert process.receive(60)[0] == {}
    process.start()  # warnings are errors here: it is not said again
    process.stop()


def test_a_proc_that_does_not_list_children_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the memory of a process's descendants; a look that cannot see them would see no flood at all."""
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).endswith("/children") and exists(path))
    memory._told_by_proc.cache_clear()
    try:
        assert not memory._told_by_proc()
    finally:
        memory._told_by_proc.cache_clear()


def test_memory_is_found_out_elsewhere_by_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_told_by_proc", lambda: False)
    own = memory.memory_of(os.getpid())
    assert own is not None
    assert own > 1 << 24
    process = Supervised([sys.executable, "-S", "-c", HOLDING, "child"], Limits())
    process.start()
    process.receive(60)
    assert process._memory() >= 64 << 20
    process.stop()
    assert process._memory() == 0
