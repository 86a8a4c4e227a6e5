"""Whatever is thrown at a door ends in a sentence, with the right exit code and in time: never a traceback, an untrue
verdict, or a hang.

Every door has a list of bad inputs that a seed composes. A default run throws the first few of each; all of them are
thrown by `pytest -m thorough tests/test_doors.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from torch import nn
from typer.testing import CliRunner

import mhc_ref
from mhc_ref import PAPER
from properties import cli
from properties.commands.replay import replay_file
from properties.core.case import BranchSpec, Case
from properties.core.law import all_laws
from properties.engine.counterexample import Counterexample, versions
from properties.engine.known_file import KnownError, load
from properties.engine.runner import Profile, Subject, examine
from properties.explosion import Monitor, find_minimal, save
from properties.guards import sealed
from properties.guards.faults import HarnessError
from properties.targets.process import Limits, build
from properties.targets.process.protocol import ProcessFailure, ServerError
from properties.targets.target import TargetError, resolve

SEED = 14
HANG = 60.0
"""Seconds after which an input is said to hang. None takes more than two where nothing else runs."""

STEERING = "\x1b[31m\x1b]0;owned\x07\u202e"
TEXTS = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "-",
        "--",
        "-1",
        "0",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "None",
        "null",
        "True",
        "[]",
        "{}",
    ),
    *("%s%n", "$(false)", "`false`", ";", "|", "..", "../..", "/", "//", "/dev/null/x", "C:\\x", "file:///x", "~", "*"),
    *(STEERING, "a" * 5000, "模型", "\u2028", "é" * 300, "'", '"', "\\", "a:b:c", ":", "::", "ref", "ref:", "x.py:"),
    *(
        "ref:paper",
        "ref:PAPER ",
        "ref:PAPER:x",
        "control:",
        "control:x@",
        "deviation:@PAPER",
        "published:../x",
        "proc:",
    ),
    *("proc:'", "os:system", "builtins:eval", "builtins:exit", "sys:exit", "no.such.module:x", "torch:no_such"),
)
"""Texts for which no option, target or name is meant."""


def numbers(count: int, sample: int) -> list[Any]:
    """The numbers of the inputs of a door, all but the first few of them for a thorough run."""
    return [pytest.param(one, marks=() if one < sample else pytest.mark.thorough) for one in range(count)]


def generator(door: str, number: int) -> random.Random:
    """The choices behind one input."""
    return random.Random(f"{SEED} {door} {number}")


class Hangs(BaseException):
    """An input took far longer than any may."""


@contextlib.contextmanager
def watched(what: object) -> Generator[None]:
    """Ends what hangs, with what was thrown."""

    def hangs(number: int, frame: FrameType | None) -> None:
        raise Hangs(f"no end within {HANG:g} s: {what!r}")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_sayable(text: str, what: object) -> None:
    """No traceback, nothing that steers a terminal, nothing endless, and not nothing."""
    assert text.strip(), what
    assert "Traceback (most recent call last)" not in text, what
    assert "\x1b]" not in text, what
    assert "\u202e" not in text, what
    assert "\x07" not in text, what
    assert len(text) < 30_000, what


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a correct target, and nothing that is inherited from the run of these tests."""
    (tmp_path / "mine.py").write_text(
        "import mhc_ref\nfrom properties import Implementation\n\n"
        "class Right(Implementation):\n    streams = (2,)\n    dtypes = ('float32',)\n"
        "    def project(self, logits):\n        return mhc_ref.project(logits, self.dialect)\n\n"
        "def plain(logits):\n    return mhc_ref.project(logits, mhc_ref.PAPER)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


# -- the command line --------------------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "explode hc --entry-bound 1.25 --budget 0.2": (
        (),
        {
            "--threshold": ("nan", "inf", "-1", "0", "1/0", "abc", "", "1e9999999", "\uff10"),
            "--gain": ("", "loss", "Forward", STEERING),
            "--direction": ("sideways", "", "EXPLODE"),
            "--max-depth": ("0", "-1", "1.5", "many", "9" * 40),
            "--max-streams": ("0", "-1", "1000000000", "9" * 40, "x"),
            "--max-width": ("0", "-1", "x"),
            "--entry-bound": ("nan", "-1", "inf", "", "x"),
            "--identity-bound": ("nan", "-1", "0.5"),
            "--dialect": ("PAPR", "", STEERING, "paper"),
            "--iterations": ("-1", "1.5", "x"),
            "--dtype": ("float33", "", "int64"),
            "--seed": ("x", "1.5", ""),
            "--budget": ("nan", "-1", "x"),
            "--plot": ("x.xyz", "/dev/null/x.svg", ""),
            "--save": ("/dev/null/x.safetensors", "."),
        },
    ),
    "explode": (
        ("", "hd", "hc:", "hc:static", "mhc:x", "block:relu:x:y", "target:", "target:nowhere.py:x", STEERING),
        {},
    ),
    "atlas --budget 0.2": (
        (),
        {
            "--threshold": ("nan", "0", "-1", "x", ""),
            "--deviation": ("nan", "-1", "x", "inf"),
            "--max-streams": ("0", "-1", "x"),
            "--budget": ("nan", "-1", "x"),
            "--plot": ("x.xyz", "/dev/null/x.svg"),
        },
    ),
    "check ref": (
        (),
        {
            "-n": ("-1", "1.5", "many", "1000000000", "", "0x1", "\uff11", STEERING),
            "--report": ("", "/dev/null/x", "mine.py", "mine.py/x"),
            "--write-known": (".", "mine.py", "/dev/null/x"),
            "--device": ("gpu", "", "cuda:0", STEERING),
            "--hypothesis-profile": ("fast", "", STEERING),
        },
    ),
    "replay": (
        ("", ".", "nowhere.safetensors", "mine.py", "/dev/null", "/dev/zero", "/proc/self/mem", STEERING, "a" * 5000),
        {},
    ),
    "replay mine.py": ((), {"--device": ("gpu", ""), "--impl": ("", STEERING), "--dialect": ("PAPR", "")}),
    "identify": (
        ("", "nowhere.py:x", "ref:PAPR", "mine.py", "mine.py:nobody", STEERING, "a" * 5000),
        {},
    ),
    "identify ref": ((), {"--device": ("gpu", ""), "--dialect": ("PAPR", "", STEERING)}),
    "laws": (("x", "--law", "--xml"), {"--family": ("", "blocks", STEERING), "--kind": ("", "oracles", STEERING)}),
    "list": (("", "deviation", STEERING, "a" * 5000), {}),
    "list deviations": (("x",), {"--kind": ("", "gradeint", STEERING, "a" * 5000)}),
    "list presets": ((), {"--kind": ("eps",)}),
    "verify": (("x", "--fast"), {}),
    "check": (("/", "nowhere/", "./nowhere/", f"{STEERING}/", "a" * 5000 + "/"), {}),
    "": (("", "chekc", "--no-such-option", "-x", STEERING, "check", "explode", "replay", "identify"), {}),
}
"""Command and good arguments -> what else stands alone, and the values of options; each of them is a mistake."""


def lines() -> list[list[str]]:
    """Every mistake on a command line, in an order that a seed gives, so that the first few are of every kind."""
    found: list[list[str]] = []
    for command, (alone, options) in OPTIONS.items():
        found += [[*shlex.split(command), one] for one in alone]
        found += [
            [*shlex.split(command), f"{name}={value}" if name[1] == "-" else name, *([] if name[1] == "-" else [value])]
            for name, values in options.items()
            for value in values
        ]
    random.Random(SEED).shuffle(found)
    return found


LINES = lines()


@pytest.mark.parametrize("number", numbers(len(LINES), 24))
def test_a_mistake_on_the_command_line_is_said_and_exits_above_one(number: int, folder: Path) -> None:
    app = CliRunner()
    with watched(LINES[number]):
        done = app.invoke(cli.app, LINES[number])
    text = done.output + done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit), (LINES[number], done.exception)
    assert done.exit_code >= 2, (LINES[number], text)
    assert_sayable(text, LINES[number])
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == ["mine.py"]


STARTED = [
    ["check", text, *more]
    for text in ("nowhere.py:x", "mine.py:nobody", STEERING, "-- --version", "mine.py:plain", "proc:false", "os:_exit")
    for more in ([], ["--json"], ["-n", "1"], ["--isolate"])
] + [
    ["check", "mine.py:Right", *more]
    for more in (
        ["--law", "no.such-law"],
        ["--law", STEERING],
        ["--dialect", "PAPR"],
        ["--dialect", "LIGER"],
        ["--known", "nowhere.toml"],
        ["--known", "mine.py"],
        ["--known", "."],
        ["--known", ""],
        ["--known", "/dev/zero"],
        ["--device", "cuda"],
    )
]
"""Mistakes that are found in the process in which the laws run."""
random.Random(SEED).shuffle(STARTED)


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.slow if n < 2 else pytest.mark.thorough) for n in range(len(STARTED))]
)
def test_a_mistake_that_is_found_in_the_run_is_said_and_exits_above_one(number: int, folder: Path) -> None:
    command = [sys.executable, "-m", "properties.cli", *STARTED[number]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=HANG)
    text = done.stdout + done.stderr
    assert done.returncode >= 2, (STARTED[number], text)
    assert_sayable(text, STARTED[number])
    if "--json" in STARTED[number]:
        assert json.loads(done.stdout.splitlines()[-1])["exit"] == done.returncode


# -- targets -----------------------------------------------------------------------------------------------------------

HEAD = """
import sys, os, math, torch, mhc_ref
from properties import Implementation, Reference

class Sly:
    def __getattr__(self, name): raise RuntimeError("no " + name)
    def __repr__(self): raise RuntimeError("no repr")
    def __eq__(self, other): raise RuntimeError("no eq")
    def __hash__(self): raise RuntimeError("no hash")
    def __iter__(self): raise RuntimeError("no iter")
    def __len__(self): raise RuntimeError("no len")
    def __bool__(self): raise RuntimeError("no bool")

class Loud(Exception):
    def __str__(self): raise KeyError("no str")

class Right(Implementation):
    streams = (2,)
    dtypes = ("float32",)
    def project(self, logits): return mhc_ref.project(logits, self.dialect)

"""
VALUES = (
    *(
        "None",
        "-1",
        "0",
        "2.5",
        "math.nan",
        "math.inf",
        "10**30",
        "True",
        "'x'",
        "''",
        "b'x'",
        "[]",
        "()",
        "{}",
        "set()",
    ),
    *("object()", "Sly()", "Sly", "lambda: 1", "(n for n in (1, 2))", "iter(())", "[Sly()]", "(None,)", "('float',)"),
    *(
        "torch.tensor(1.0)",
        "torch.ones(2, device='meta')",
        "torch.float32",
        "torch",
        "mhc_ref.PAPER",
        "'PAPER'",
        "...",
        "1j",
    ),
    *(repr(STEERING), "'a' * 5000", "range(10**9)", "[[2]]", "{2: 3}", "type", "property(lambda self: 1 / 0)"),
)
"""Expressions; for most attributes of a declaration none of them is meant."""
ATTRIBUTES = (
    *("name", "dialect", "streams", "dtypes", "tunable", "emits", "mixing", "products", "devices", "max_tokens"),
    *("channel_multiple", "least_scale", "norm_weight", "zero_tokens", "strided", "deterministic", "differentiable"),
    *("batch_invariant", "project", "tuned", "__class__", "__init__", "__doc__"),
)
RAISED = (
    "SystemExit(0)",
    "KeyError(3)",
    "Loud()",
    "RecursionError()",
    "MemoryError()",
    f"ValueError({STEERING!r})",
    "StopIteration()",
    "GeneratorExit()",
    "BaseException('no')",
    "ExceptionGroup('two', [KeyError(1), Loud()])",
)


def module(number: int) -> str:
    """The source of a module whose `mine` is no good target, or one that is only just one."""
    draw = generator("module", number)
    kind = draw.randrange(6)
    value, raised = draw.choice(VALUES), draw.choice(RAISED)
    if kind == 0:
        return f"{HEAD}mine = {value}\n"
    if kind == 1:
        return f"{HEAD}raise {raised}\n"
    if kind == 2:
        return f"{HEAD}class mine(Right):\n    def __init__(self): raise {raised}\n"
    if kind == 3:
        return f"{HEAD}def mine(): raise {raised}\n"
    return f"{HEAD}class mine(Right):\n    {draw.choice(ATTRIBUTES)} = {value}\n"


@pytest.mark.parametrize("number", numbers(120, 12))
def test_a_module_that_is_no_target_is_refused_in_a_sentence_or_gets_a_verdict(number: int, folder: Path) -> None:
    source = module(number)
    (folder / "stranger.py").write_text(source)
    shown = source.removeprefix(HEAD)
    with watched(shown):
        try:
            target = resolve("stranger.py:mine")
        except TargetError as refused:
            assert_sayable(str(refused), shown)
            return
        subject = Subject("stranger.py:mine", target, torch.float32, torch.device("cpu"))
        law, few = all_laws()["manifold.last-axis-sums"], Profile(3, derandomise=True, shrink=False)
        try:
            found = examine(law, subject, few, directory=folder / "cases")
        except HarnessError as error:  # what a declaration says of itself and does not keep
            assert_sayable(str(error), shown)
            return
    assert found.status in ("passed", "failed", "not-applicable")
    assert_sayable(found.message or found.reason or found.status, shown)


@pytest.mark.parametrize("number", numbers(len(TEXTS), 12))
def test_a_text_that_is_no_target_is_refused_in_a_sentence(number: int, folder: Path) -> None:
    if TEXTS[number] == "ref":  # it is one
        assert resolve("ref").name == "ref:PAPER"
        return
    with watched(TEXTS[number]), pytest.raises(TargetError) as refused:
        resolve(TEXTS[number])
    assert_sayable(str(refused.value), TEXTS[number])


OUTPUTS = (
    *(
        "None",
        "3",
        "logits.sum()",
        "logits[0]",
        "logits.long()",
        "logits.bool()",
        "logits.half()",
        "logits * 1j",
        "(logits,)",
    ),
    *(
        "logits.to_sparse()",
        "logits.to('meta')",
        "logits.numpy()",
        "logits.tolist()",
        "logits.expand(2, *logits.shape)",
    ),
    *(
        "torch.full_like(logits, torch.nan)",
        "torch.full_like(logits, torch.inf)",
        "torch.nested.nested_tensor([logits[0]], layout=torch.jagged)",
    ),
    *(
        "logits.flatten()",
        "'matrix'",
        "Sly()",
        "iter([logits])",
        "{'res': logits}",
        "logits.mT.unsqueeze(0)",
        "torch.empty(0)",
    ),
    *(f"(_ for _ in ()).throw({raised})" for raised in RAISED),
)
"""Expressions; none of them is what `project` has to return."""


@pytest.mark.parametrize("number", numbers(len(OUTPUTS), 6))
def test_an_answer_that_is_none_is_a_failed_law_in_a_sentence(number: int, folder: Path) -> None:
    (folder / "stranger.py").write_text(
        f"{HEAD}class mine(Right):\n    def project(self, logits): return {OUTPUTS[number]}\n"
    )
    with watched(OUTPUTS[number]):
        subject = Subject("stranger.py:mine", resolve("stranger.py:mine"), torch.float32, torch.device("cpu"))
        law, few = all_laws()["manifold.agrees-with-oracle"], Profile(6, derandomise=True, shrink=False)
        found = examine(law, subject, few, directory=folder / "cases")
    assert found.status == "failed", OUTPUTS[number]
    assert_sayable(found.message, OUTPUTS[number])


# -- files -------------------------------------------------------------------------------------------------------------


def counterexample(path: Path) -> Path:
    """A sound counterexample about the reference."""
    generated = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 3, generator=generated)
    values = {"logits": logits, "n": 3, "branch": BranchSpec("tanh", torch.ones(2))}
    Counterexample(
        law="manifold.agrees-with-oracle",
        target="ref:PAPER",
        implementation="ref:PAPER",
        dialect=PAPER,
        dtype="float32",
        device="cpu",
        case=Case(**values),
        failure={"what": "h_res", "ratio": 2.0},
        dialect_option=None,
        versions=versions(),
    ).save(path)
    return path


def explosion(path: Path) -> Path:
    """A sound explosion."""
    save(find_minimal("hc", 3, entry_bound="1.25", max_streams=2), path)
    return path


ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        10**40,
        1.5,
        "",
        STEERING,
        "x" * 5000,
        [],
        [[]],
        {},
        {"a": {}},
        [None],
        "\ud800",
        "nan",
        1e308,
    ),
    *({"tensor": "logits"}, {"float": "1e999"}, {"params": {}}, [[[[[[[[[[]]]]]]]]]], "proc:false", "os:abort"),
)
"""Values of JSON that no field means."""


def spoiled(value: Any, draw: random.Random) -> Any:
    """A copy of a nest of lists and dictionaries in which one place is another value, gone, or new."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        what = draw.random()
        if what < 0.6:
            return {**value, key: spoiled(value[key], draw)}
        if what < 0.8:
            return {name: one for name, one in value.items() if name != key}
        return {**value, draw.choice(TEXTS): draw.choice(ODD)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        return [*value[:place], spoiled(value[place], draw), *value[place + 1 :]]
    return draw.choice(ODD)


FLIPPED, RESEALED = 60, 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", [counterexample, explosion], ids=["counterexample", "explosion"])
@pytest.mark.parametrize("number", numbers(FLIPPED, 4))
def test_a_file_that_was_damaged_is_an_error(number: int, kind: Callable[[Path], Path], folder: Path) -> None:
    draw = generator(f"bytes of {kind.__name__}", number)
    path = kind(folder / "case.safetensors")
    whole = bytearray(path.read_bytes())
    how = draw.randrange(4)
    if how < 2:  # a bit
        whole[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    elif how == 2:  # the end is missing
        del whole[draw.randrange(len(whole)) :]
    else:  # something is between
        place = draw.randrange(len(whole))
        whole[place:place] = draw.randbytes(draw.randrange(1, 40))
    path.write_bytes(whole)
    with watched(number):
        found = replay_file(path)
    assert found.status == "ERROR", found.message
    assert_sayable(found.message, number)


@pytest.mark.parametrize("kind", [counterexample, explosion], ids=["counterexample", "explosion"])
@pytest.mark.parametrize("number", numbers(RESEALED, 6))
def test_a_file_with_an_odd_header_is_an_error_or_holds_and_runs_nothing(
    number: int, kind: Callable[[Path], Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed again by whoever changed it, so that its checksum holds."""
    draw = generator(f"header of {kind.__name__}", number)
    path = kind(folder / "case.safetensors")
    found = sealed.read(path)
    key = next(name for name in found.metadata if name not in ("format", "sha256"))
    header = spoiled(json.loads(found.metadata[key]), draw)
    tensors = dict(load_tensors(path.read_bytes()))
    if draw.random() < 0.3:  # a tensor of another dtype or shape
        name = draw.choice(sorted(tensors))
        tensors[name] = draw.choice(
            [tensors[name].to(torch.int8), tensors[name][:0], tensors[name].flatten(), -tensors[name]]
        )
    metadata = {name: text for name, text in found.metadata.items() if name != "sha256"} | {key: json.dumps(header)}
    sealed.write(path, metadata, tensors)
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **_: started.append(given))
    monkeypatch.setattr(os, "system", started.append)
    with watched(header):
        outcome = replay_file(path)
    assert started == []
    # The reference fails nothing; an explosion whose numbers still reach their threshold is told as one.
    assert outcome.status in (("ERROR", "FIXED") if kind is counterexample else ("ERROR", "FIXED", "FAILED")), header
    assert_sayable(outcome.message, header)


KNOWN = {"law": "manifold.last-axis-sums", "implementation": "c", "reason": "d", "counterexample": "e.safetensors"}


def toml(value: Any) -> str:
    """A value of TOML, more or less."""
    return json.dumps(value, ensure_ascii=False)


def known(number: int) -> str:
    """A file of known failures with a mistake."""
    draw = generator("known", number)
    if draw.random() < 0.3:
        text = f"[[known]]\n{draw.choice(TEXTS)} = {draw.choice(TEXTS)}\n"
        return text if draw.random() < 0.5 else text[: draw.randrange(len(text))]
    entries = [dict(KNOWN) for _ in range(draw.randrange(1, 4))]
    entry: dict[str, Any] = draw.choice(entries)
    if draw.random() < 0.5:
        entry[draw.choice(sorted(entry))] = draw.choice([3, 1.5, True, [], [3], {}])
    else:
        entry[draw.choice(["dtype", "device", "link", "laws", "x"])] = draw.choice([3, [], STEERING])
    return "\n".join(
        "[[known]]\n" + "\n".join(f"{name} = {toml(value)}" for name, value in one.items()) for one in entries
    )


@pytest.mark.parametrize("number", numbers(50, 8))
def test_known_failures_with_a_mistake_are_refused_in_a_sentence(number: int, folder: Path) -> None:
    text = known(number)
    (folder / "known.toml").write_bytes(text.encode(errors="surrogatepass"))
    with watched(text):
        try:
            entries = load(folder / "known.toml")
        except KnownError as refused:
            assert_sayable(str(refused), text)
            return
    assert entries == [] or all(isinstance(one.counterexample, Path) for one in entries), text


# -- a process of a stranger -------------------------------------------------------------------------------------------

PEER = """
import json, os, sys, time
answers = json.loads(sys.argv[1])
for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    answer = answers[min(number, len(answers) - 1)]
    if answer == "leave": os._exit(0)
    if answer == "close": os.close(1); time.sleep(60)
    if answer == "nothing": continue
    if isinstance(answer, str): os.write(1, answer.encode("utf-8", "surrogatepass") + b"\\n"); continue
    if isinstance(answer, dict) and answer.get("id") == "same": answer["id"] = request["id"]
    sys.stdout.write(json.dumps(answer) + "\\n"); sys.stdout.flush()
"""
GOOD: dict[str, Any] = {
    "protocol": 1,
    "name": "peer",
    "dialect": "PAPER",
    "streams": [2],
    "dtypes": ["float32"],
    "methods": ["project"],
}
MATRIX = {"dtype": "float32", "shape": [1, 2, 2], "data": "AAAAPwAAAD8AAAA/AAAAPw=="}


def answers(number: int) -> list[Any]:
    """What a peer says to `describe` and to `project`, with a mistake in one of them."""
    draw = generator("peer", number)
    describe: Any = {"id": "same", "result": GOOD}
    project: Any = {"id": "same", "result": {"h_res": MATRIX}}
    what = draw.randrange(6)
    if what == 0:
        return [draw.choice(("leave", "close", "nothing", *TEXTS))]
    if what == 1:
        return [describe, draw.choice(("leave", "close", "nothing", *TEXTS))]
    if what < 4:
        return [spoiled(describe, draw), project]
    return [describe, spoiled(project, draw)]


@pytest.mark.parametrize("number", numbers(60, 6))
def test_a_mistake_of_a_peer_is_the_peer_s_and_ends_in_a_sentence(number: int, folder: Path) -> None:
    said = answers(number)
    (folder / "peer.py").write_text(PEER)
    command = shlex.join([sys.executable, "-S", "peer.py", json.dumps(said)])
    limits = Limits(call_seconds=2.0, start_seconds=20.0)
    with watched(said):
        try:
            target = build(command, limits)
            found = target.project(torch.zeros(1, 2, 2))
        except (TargetError, ProcessFailure, ServerError) as refused:
            assert_sayable(str(refused), said)
            return
    assert isinstance(found, torch.Tensor), said  # what it spoiled is not read


# -- the monitor -------------------------------------------------------------------------------------------------------


class Mixing(nn.Module):
    """A layer that returns h_res with its output; what it returns can be changed."""

    def __init__(self, returned: Callable[[torch.Tensor], Any] = lambda h_res: h_res) -> None:
        super().__init__()
        self.returned = returned
        self.logits = nn.Parameter(torch.zeros(2, 2))

    def forward(self, x: torch.Tensor) -> Any:
        h_res = mhc_ref.project(self.logits.expand(*x.shape[:-2], 2, 2), PAPER)
        return self.returned(h_res)


class Model(nn.Module):
    """One layer, and an output that does not depend on what it returns."""

    def __init__(self, layer: Mixing) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.layer(x)
        return x.sum() + self.layer.logits.sum()


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "path": (3, b"\0", "", ["x"], 1.5, "\0"),
    "modules": ("l.0", 3, [], [3], [nn.ReLU], object(), lambda: True, {}, "layer", ["nobody"], [int]),
    "operator": (3, "h_res", [], object()),
    "streams": (3, "x", []),
    "dialect": ("PAPR", "", 3, [], STEERING, {"preset": "PAPER"}, b"PAPER"),
    "transposed": ("no", 0, 2, [], "True"),
    "bound": (float("nan"), -1.0, 0, "1", True, [], float("-inf")),
    "floor": (float("nan"), -1.0, "0", [], 1e9),
    "every": (float("nan"), 0, -1, 1.5, "10", True, None, []),
    "tokens": (0, -1, 1.5, "64", None, float("inf"), True),
    "model": (3, "model", nn.ReLU, lambda x: x, []),
}
MISTAKES = [(name, value) for name, values in ARGUMENTS.items() for value in values]


@pytest.mark.parametrize("number", numbers(len(MISTAKES), 10))
def test_a_mistake_in_an_argument_of_the_monitor_is_refused_where_it_is_made(number: int, folder: Path) -> None:
    name, value = MISTAKES[number]
    sound: dict[str, Any] = {"modules": [Mixing], "dialect": PAPER, "model": Model(Mixing())}
    given: dict[str, Any] = sound | {name: value, **({"bound": 2.0} if (name, value) == ("floor", 1e9) else {})}
    with watched((name, value)), pytest.raises((TypeError, ValueError)) as refused:
        Monitor(given.pop("model"), **given)
    assert_sayable(str(refused.value), (name, value))
    assert name.rstrip("s") in str(refused.value) or name == "model" or name == "modules", str(refused.value)
    assert [path.name for path in folder.iterdir()] == ["mine.py"]


def holding_itself(h_res: torch.Tensor) -> list[Any]:
    """A list that is an entry of itself."""
    made: list[Any] = [h_res]
    made.append(made)
    return made


RETURNED: dict[str, Callable[[torch.Tensor], Any]] = {
    "nothing": lambda h: None,
    "a text": lambda h: STEERING,
    "a number": lambda h: 3,
    "no tensor": lambda h: [h.tolist()],
    "many": lambda h: (h, h, h),
    "a vector": lambda h: h.flatten(),
    "no tokens": lambda h: h[:0],
    "one stream": lambda h: h[..., :1, :1],
    "no streams": lambda h: h[..., :0, :0],
    "not square": lambda h: h[..., :1],
    "NaN": lambda h: h * torch.nan,
    "infinity": lambda h: h + torch.inf,
    "integers": lambda h: h.long(),
    "complex": lambda h: h * 1j,
    "booleans": lambda h: h > 0,
    "float16": lambda h: h.half(),
    "on meta": lambda h: h.to("meta"),
    "sparse": lambda h: h.detach().to_sparse(),
    "nested": lambda h: torch.nested.nested_tensor([h[0].detach()], layout=torch.jagged),
    "a dictionary": lambda h: {"h_res": h, 3: None},
    "a generator": lambda h: (one for one in (h,)),
    "itself": lambda h: holding_itself(h),
    "deep": lambda h: [[[[[[[[[[h]]]]]]]]]],
    "huge": lambda h: h.detach().expand(1000, *h.shape),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", RETURNED)
def test_an_output_that_the_monitor_does_not_understand_leaves_the_model_as_it_was(
    kind: str, transposed: bool, folder: Path
) -> None:
    plain, seen = Model(Mixing()), Model(Mixing(RETURNED[kind]))
    x = torch.ones(3, 2, 4)
    with watched(kind), Monitor(seen, "rows.jsonl", modules=[Mixing], dialect=PAPER, transposed=transposed) as monitor:
        out = seen(x)
        out.backward()
    assert out.item() == plain(x).item()
    assert torch.equal(seen.layer.logits.grad, torch.ones(2, 2))  # pyright: ignore[reportArgumentType]
    rows = (folder / "rows.jsonl").read_text().splitlines() if (folder / "rows.jsonl").exists() else []
    assert all(json.loads(row)["step"] == 0 for row in rows)
    assert monitor.troubles or rows


# -- how many ----------------------------------------------------------------------------------------------------------


def test_three_hundred_bad_inputs_are_thrown() -> None:
    thrown = {
        "command line": len(LINES) + len(STARTED),
        "targets": 120 + len(TEXTS) + len(OUTPUTS),
        "files": 2 * (FLIPPED + RESEALED) + 50,
        "peers": 60,
        "monitor": len(MISTAKES) + 2 * len(RETURNED),
    }
    assert min(thrown.values()) >= 50
    assert sum(thrown.values()) >= 300
