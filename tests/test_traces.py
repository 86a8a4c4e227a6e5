"""Where in the target's own code an exception comes from, and what of that code is shown."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

import mhc_ref
from mhc_ref import PAPER
from properties.core.kinds import kind_of
from properties.core.law import all_laws
from properties.core.trial import TargetRaised
from properties.guards.faults import TargetFault, answered
from properties.guards.traces import WIDE, excerpt, own_frames, place_of
from properties.targets.process.protocol import ProcessDied

TARGET: str = '''"""A target."""
import torch
import mhc_ref


def inner(x):
    a = 1
    b = 2
    c = 3
    raise ValueError("too many")


def outer(x):
    return inner(x)


def of_torch(x):
    return torch.zeros(2) @ torch.zeros(3)


def of_torch_in_python(x):
    return torch.nn.functional.linear(torch.nn.Linear(2, 2)(x), None)


def of_the_reference(x):
    return mhc_ref.project(torch.zeros(2, 3), mhc_ref.PAPER)


def forever(x):
    return forever(x)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("no gradient")


def backwards(x):
    y = Doubled.apply(torch.ones(2, requires_grad=True))
    y.sum().backward()
'''


def loaded(folder: Path, text: str, name: str = "target_of_traces") -> ModuleType:
    file = folder / f"{name}.py"
    file.write_text(text)
    module = ModuleType(name)
    exec(compile(text, str(file), "exec"), vars(module))
    return module


@pytest.fixture
def target(tmp_path: Path) -> ModuleType:
    return loaded(tmp_path, TARGET)


def raised(call, *arguments) -> BaseException:
    with pytest.raises(TargetFault) as caught:
        answered(partial(call, *arguments))
    return caught.value.error


def line(text: str) -> int:
    return 1 + [str(one) for one in TARGET.splitlines()].index(text)


def test_the_frames_are_the_targets_own_with_their_code(target):
    frames = own_frames(raised(target.outer, 1))
    assert [(one.function, one.code) for one in frames] == [
        ("outer", "return inner(x)"),
        ("inner", 'raise ValueError("too many")'),
    ]
    assert frames[-1].place == place_of(raised(target.outer, 1)) == f"target_of_traces.py:{frames[-1].line}"
    assert frames[-1].line == line('    raise ValueError("too many")')


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("of_torch", "    return torch.zeros(2) @ torch.zeros(3)"),
        ("of_torch_in_python", "    return torch.nn.functional.linear(torch.nn.Linear(2, 2)(x), None)"),
        ("of_the_reference", "    return mhc_ref.project(torch.zeros(2, 3), mhc_ref.PAPER)"),
        ("backwards", '        raise RuntimeError("no gradient")'),
    ],
)
def test_what_torch_or_the_reference_raise_is_where_the_target_called_them(target, name, code):
    error = raised(getattr(target, name), torch.ones(2))
    assert place_of(error) == f"target_of_traces.py:{line(code)}"


def test_an_excerpt_has_the_line_that_raised_and_those_before_it(target):
    number = line('    raise ValueError("too many")')
    assert excerpt(raised(target.outer, 1)).splitlines() == [
        f"target_of_traces.py:{line('    return inner(x)')} in outer: return inner(x)",
        f"target_of_traces.py:{number} in inner",
        f"  {number - 3:>4}  a = 1",
        f"  {number - 2:>4}  b = 2",
        f"  {number - 1:>4}  c = 3",
        f'> {number:>4}  raise ValueError("too many")',
    ]


def test_endless_recursion_is_a_few_lines(target):
    error = raised(target.forever, 1)
    assert len(excerpt(error).splitlines()) <= 8
    assert place_of(error) == f"target_of_traces.py:{line('    return forever(x)')}"


def test_what_is_wide_or_steers_a_terminal_is_cut_and_escaped(tmp_path):
    nasty = f"def steer(x):\n    '\x1b[2J\u202e'; {'y = 1; ' * 40}raise ValueError('\\x1b[2J')\n"
    told = excerpt(raised(loaded(tmp_path, nasty).steer, 1))
    assert r"\x1b[2J\u202e" in told
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) == WIDE


def test_a_file_that_is_gone_or_no_file_or_binary_leaves_the_place(tmp_path):
    text = "def fail(x):\n    raise ValueError\n"
    gone = loaded(tmp_path, text, "gone")
    error = raised(gone.fail, 1)
    (tmp_path / "gone.py").unlink()
    assert (place_of(error), excerpt(error)) == ("gone.py:2", "gone.py:2 in fail")
    binary = loaded(tmp_path, text, "binary")
    (tmp_path / "binary.py").write_bytes(bytes(range(256)))
    assert place_of(raised(binary.fail, 1)) == "binary.py:2"
    assert excerpt(raised(binary.fail, 1)).startswith("binary.py:2 in fail")
    made: dict = {}
    exec(compile(text, "<\x1b[2Jmade by hand>", "exec"), made)
    assert place_of(raised(made["fail"], 1)) == r"<\x1b[2Jmade by hand>:2"


class Nasty(Exception):
    @property
    def __traceback__(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        raise SystemExit("leave")

    @property
    def __class__(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        raise SystemExit("leave")

    def __str__(self):
        raise SystemExit("leave")

    def __getattribute__(self, name):
        raise SystemExit("leave")


def test_an_exception_that_answers_nothing_has_a_place_all_the_same():
    def fail():
        raise Nasty

    error = raised(fail)
    assert place_of(error) == f"test_traces.py:{fail.__code__.co_firstlineno + 1}"
    assert "raise Nasty" in excerpt(error)


def test_nothing_before_the_function_is_shown(tmp_path):
    text = "x = 1\ny = 2\n\n\ndef fail(x):\n    raise ValueError\n"
    told = excerpt(raised(loaded(tmp_path, text).fail, 1)).splitlines()
    assert told == ["target_of_traces.py:6 in fail", "     5  def fail(x):", ">    6      raise ValueError"]


def test_a_call_that_was_lost_with_its_process_has_no_place():
    def fail():
        raise ProcessDied("SIGSEGV")

    assert place_of(raised(fail)) == ""


def test_an_exception_without_a_traceback_has_no_place():
    assert place_of(ValueError()) == ""
    assert excerpt(ValueError()) == ""
    assert own_frames(ValueError()) == []


def test_what_comes_from_no_code_of_the_target_is_placed_where_it_came_from():
    error = raised(mhc_ref.project, torch.zeros(2, 3), PAPER)
    assert own_frames(error) == []
    assert place_of(error).partition(":")[0] in {Path(one.co_filename).name for one in _codes(error)}


def _codes(error):
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code
        trace = trace.tb_next


def test_a_failed_law_that_is_an_exception_has_that_kind(target):
    fault = TargetFault(raised(target.outer, 1))
    law = all_laws()["manifold.agrees-with-oracle"]
    assert kind_of(TargetRaised("project", fault, "float32[2, 2]"), law) == "exception"
    assert sys.modules.get("target_of_traces") is None
