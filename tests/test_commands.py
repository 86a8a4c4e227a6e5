"""Which commands there are: each is listed, helps within 80 columns, and is loaded when it is chosen."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from properties import cli, former

DEAR = ("torch", "hypothesis", "pytest", "rich", "numpy", "mpmath")
"""What takes longer to import than to answer `--help`."""

LEAN = sorted(set(cli.COMMANDS) - {"explode", "atlas"})
"""Commands that help without torch; those of the search list what the search knows."""

LOADED = """
import contextlib, io, json, sys
from properties.cli import main

found = {}
for words in json.loads(sys.argv[1]):
    sys.argv = ["mhc-properties", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main()
    found[" ".join(words)] = list(sys.modules)
print(json.dumps(found))
"""


def test_neither_help_nor_version_nor_a_mistake_waits_for_what_is_dear() -> None:
    lines = [["--help"], ["--version"], ["chekc"], [], *([name, "--help"] for name in LEAN), ["check"], ["seeds", "x"]]
    program = [sys.executable, "-c", LOADED, json.dumps(lines)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    for words, modules in json.loads(done.stdout).items():
        assert not {*DEAR} & {*modules}, words


def test_every_command_helps_within_80_columns() -> None:
    for words in ([], *([name] for name in cli.COMMANDS)):
        shown = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, [*words, "--help"])
        assert shown.exit_code == 0, words
        assert max(map(len, shown.output.splitlines())) <= 80, shown.output
        assert shown.output.startswith("Usage: "), words


def test_the_list_has_every_command_in_a_line() -> None:
    listed = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["--help"]).output.splitlines()
    for name, command in cli.COMMANDS.items():
        assert any(line.split() == [name, *command.summary.split()] for line in listed), name


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    shown = CliRunner().invoke(cli.app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"mhc-properties {version('mhc-properties')}\n")


FORMER = """
import contextlib, io, json, runpy, sys, warnings

warnings.simplefilter("ignore")
found = {}
for name in json.loads(sys.argv[1]):
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    found[name] = said.getvalue()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_what_was_a_program_is_the_command_that_took_its_place() -> None:
    names = [name.removesuffix(".__main__") for name in former.COMMANDS]
    done = subprocess.run([sys.executable, "-c", FORMER, json.dumps(names)], capture_output=True, text=True, check=True)
    for name, shown in json.loads(done.stdout).items():
        command = former.COMMANDS.get(name) or former.COMMANDS[f"{name}.__main__"]
        assert shown.startswith(f"Usage: mhc-properties {command} "), name


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_what_is_near_is_suggested(name: str) -> None:
    shown = CliRunner().invoke(cli.app, [name[:-1] + "q"])
    assert shown.exit_code == 2
    assert f"'{name}'" in shown.output
