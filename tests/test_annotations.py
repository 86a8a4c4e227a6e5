"""Annotations of GitHub Actions: one for each cause, beside the line that it is about, whatever a target says."""

from __future__ import annotations

from pathlib import Path

import pytest

from properties.plugin.annotations import remarks, wanted
from properties.report.cause import Cause
from properties.report.report import Line

MINE = '''import torch

LIMIT = 3


class Mine:
    """Somebody's."""


made = Mine()
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    return tmp_path


def cause(summary: str = "h_res is applied transposed", **more: tuple[str, ...]) -> Cause:
    return Cause("key", "Mine", summary, **more)  # pyright: ignore[reportArgumentType]


def line(**more: tuple[str, ...]) -> Line:
    return Line("Mine", {}, "float32", "cpu", "block.a", "failed", causes=("key",), belongs=("first",), **more)  # pyright: ignore[reportArgumentType]


def test_only_github_is_told() -> None:
    assert wanted({"GITHUB_ACTIONS": "true"})
    assert not wanted({"GITHUB_ACTIONS": "false"})
    assert not wanted({})


@pytest.mark.parametrize(
    ("target", "number"), [("kernels/mine.py:Mine", 6), ("kernels/mine.py:made", 10), ("kernels/mine.py:x", 1)]
)
def test_a_cause_stands_beside_what_the_target_names(folder: Path, target: str, number: int) -> None:
    (said,) = remarks([cause()], [line(example=("2 where 1 belongs", "x = [1]"))], {"Mine": target})
    assert said == (
        f"::error file=kernels/mine.py,line={number},title=Mine%3A h_res is applied transposed::"
        "1 law fails in float32%0A2 where 1 belongs%0Ax = [1]"
    )


def test_an_exception_stands_beside_the_line_that_raised_it(folder: Path) -> None:
    found = cause("it raises", notes=("other.py:2 in call", "mine.py:8 in project", ">    8  raise ValueError"))
    (said,) = remarks([found], [line()], {"Mine": "kernels/mine.py:Mine"})
    assert said.startswith("::error file=kernels/mine.py,line=8,title=")


@pytest.mark.parametrize("target", ["ref:PAPER", "package.module:Mine", "nowhere.py:x", "", "proc:node server.mjs"])
def test_a_target_that_is_no_file_has_no_place(folder: Path, target: str) -> None:
    (said,) = remarks([cause()], [line()], {"Mine": target})
    assert said.startswith("::error title=Mine%3A ")


def test_nothing_that_a_target_says_is_a_command_of_its_own(folder: Path) -> None:
    nasty = "50% of a,b:c\n::stop-commands::x\r\x1b[2J"
    (said,) = remarks([cause(nasty)], [line(example=(nasty,))], {})
    assert "\n" not in said
    assert "\r" not in said
    assert "\x1b" not in said
    assert "title=Mine%3A 50%25 of a%2Cb%3Ac %3A%3Astop-commands%3A%3Ax" in said
    assert said.count("::error") == 1
