"""The command line: check, replay, laws, and their exit codes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from properties import cli
from properties.core.law import all_laws

# A ten-line implementation with the mistake that sums and norms cannot see.
TRANSPOSED = """
import mhc_ref
from properties import Implementation

class Mine(Implementation):
    dtypes = ("float32",)
    def mappings(self, x, params):
        return mhc_ref.mappings(x, params, self.dialect)
    def pre(self, x, h_pre):
        return mhc_ref.pre(x, h_pre)
    def post(self, x, y, h_post, h_res):
        return mhc_ref.post(x, y, h_post, h_res.mT, self.dialect)

class Good(Mine):
    def post(self, x, y, h_post, h_res):
        return mhc_ref.post(x, y, h_post, h_res, self.dialect)
"""
ONE_LAW = ("--law", "mixing.post-is-the-declared-combination", "--hypothesis-profile", "ci")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a transposed implementation and nothing else."""
    (tmp_path / "mine.py").write_text(TRANSPOSED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    """A command in this process: its exit code and everything that it printed."""
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.output


def in_a_new_process(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "properties.cli", *arguments]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)


@pytest.mark.slow
def test_a_transposed_mapping_is_found_small_and_readable_and_replays_anywhere(folder: Path) -> None:
    code, output = run("check", "mine.py:Mine", *ONE_LAW)
    assert code == 1, output
    assert "Mine breaks mixing.post-is-the-declared-combination in float32 on cpu" in output
    (path,) = (folder / ".mhc-properties" / "counterexamples").iterdir()
    assert f"replay: mhc-properties replay {path.relative_to(folder)} --impl mine.py:Mine\n" in output
    smallest = output.partition("smallest input found:\n")[2].partition("  dialect:")[0]
    assert len(smallest) < 600, smallest
    (case,) = [run["laws"] for run in json.loads((folder / ".mhc-properties" / "report.json").read_text())["runs"]]
    assert case["mixing.post-is-the-declared-combination"]["counterexample"] == str(path)

    replayed = in_a_new_process("replay", str(path), "--impl", "mine.py:Mine")
    assert replayed.returncode == 1, replayed.stderr
    assert replayed.stdout.startswith("FAILED mixing.post-is-the-declared-combination\nMine breaks")
    for target in ("mine.py:Good", "ref"):
        code, output = run("replay", str(path), "--impl", target)
        assert (code, output.splitlines()[0]) == (0, "FIXED mixing.post-is-the-declared-combination")
    code, output = run("replay", str(path), "--impl", "mine.py:Nobody")
    assert (code, output.splitlines()[0]) == (2, "ERROR")
    code, output = run("replay", str(path), "--impl", "mine.py:Mine", "--json")
    answer = json.loads(output.splitlines()[-1])
    assert (code, set(answer), answer["status"]) == (1, {"status", "law", "ratio", "message"}, "FAILED")
    assert answer["ratio"] > 1


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder that belongs to a project with settings of pytest, and a check of something right there."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mine.py").write_text(TRANSPOSED)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -m unit -k nothing\nmarkers = unit\n")
    (folder / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--device')\n")
    words = ("check", "mine.py:Good", *ONE_LAW, "--json", "--report", "out")
    return folder, in_a_new_process(*words, folder=folder)


@pytest.mark.slow
def test_check_with_json_prints_one_object_last_and_progress_elsewhere(
    elsewhere: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, answer = elsewhere
    assert answer.returncode == 0, answer.stderr
    (line,) = answer.stdout.splitlines()
    assert json.loads(line) == json.loads((folder / "out" / "report.json").read_text())
    assert "1 of 1 laws exercised, 0 not applicable, 0 silently absent" in answer.stderr


@pytest.mark.slow
def test_check_says_what_it_exercised(folder: Path) -> None:
    code, output = run("check", "mine.py:Good", "ref:LIGER", *ONE_LAW, "--dtype", "float32", "--report", "out")
    assert code == 0, output
    assert "\nGood       1 held\nref:LIGER  1 held\n2 targets: 2 held\n" in output
    assert "1 of 1 laws exercised, 0 not applicable, 0 silently absent" in output
    assert f"\nreport: {Path('out', 'report.json')} (to look at: report.html)\n" in output


@pytest.mark.slow
def test_check_is_not_governed_by_the_project_it_runs_in(
    elsewhere: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, answer = elsewhere
    assert answer.returncode == 0, answer.stderr
    assert "1 of 1 laws exercised" in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("check", "ref:PAPR"), "there is no preset 'PAPR'"),
        (("check", "mine.py:Mine", "--law", "manifold.no-such-law"), "manifold.no-such-law: no law's id begins so"),
        (("check", "ref", "--device", "abacus"), "abacus"),
        (("check", "ref", "--hypothesis-profile", "leisurely"), "leisurely"),
        (("check",), "Missing argument 'TARGET...'"),
        (("replay", "nowhere.safetensors"), "there is no file nowhere.safetensors"),
        (("replay", "mine.py"), "mine.py is not a safetensors file"),
        (("replay",), "Missing argument 'FILE'"),
        (("chekc", "ref"), "No such command 'chekc'"),
    ],
)
def test_what_cannot_run_exits_above_one_and_says_why(folder: Path, arguments: tuple[str, ...], cause: str) -> None:
    code, output = run(*arguments)
    assert code >= 2, output
    assert cause in output
    assert "Traceback" not in output
    assert not (folder / ".mhc-properties" / "report.json").exists()


@pytest.mark.slow
def test_check_with_json_answers_when_it_could_not_run_and_leaves_no_old_report(folder: Path) -> None:
    report = folder / ".mhc-properties" / "report.json"
    report.parent.mkdir()
    report.write_text("{}")
    result = CliRunner().invoke(cli.app, ["check", "mine.py:Nobody", "--json"])
    assert result.exit_code >= 2
    (line,) = result.stdout.splitlines()
    assert json.loads(line) == {"error": "the run left no report: stderr says why", "exit": result.exit_code}
    assert "mine.py has no attribute 'Nobody'; it has Good, Implementation, Mine, mhc_ref" in result.stderr
    assert "Traceback" not in result.output
    assert not report.exists()


@pytest.mark.parametrize(
    "arguments",
    [("check", "-x"), ("check",), ("replay",), ("identify", "--device", "gpu"), ("laws", "x"), ("verify", "--fast")],
    ids=" ".join,
)
def test_options_that_cannot_be_read_are_answered_with_one_object_too(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    assert (result.exit_code, answer["exit"], set(answer)) == (2, 2, {"error", "exit"})
    assert answer["error"] in " ".join(result.stderr.replace("│", " ").split())


def test_an_unexpected_exception_is_not_reported_as_a_failed_law(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import properties.commands.replay

    def faulty(*_: object, **__: object) -> object:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(properties.commands.replay, "replay_file", faulty)
    monkeypatch.setattr(sys, "argv", ["mhc-properties", "replay", "some.safetensors"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == cli.HARNESS_ERROR >= 2
    assert "HARNESS ERROR: ZeroDivisionError: a fault of ours" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused_in_a_sentence(folder: Path) -> None:
    code, output = run("check", "ref", "--device", "cuda", "--law", "manifold")
    assert code == 2, output
    assert "--device cuda: there is no CUDA device here" in output
    assert not (folder / ".mhc-properties").exists()


def test_laws_are_listed() -> None:
    code, output = run("laws")
    assert code == 0
    assert gc.isenabled()
    assert output.splitlines()[-1] == f"{len(all_laws())} laws"
    for law in all_laws().values():
        assert f"{law.id}  ({law.kind})\n    {law.statement}\n" in output


def test_laws_are_listed_for_machines() -> None:
    code, output = run("laws", "--json")
    assert code == 0
    (line,) = output.splitlines()
    listed = json.loads(line)["laws"]
    assert [one["id"] for one in listed] == list(all_laws())
    assert all(set(one) >= {"id", "kind", "stage", "statement", "reason", "needs", "blind"} for one in listed)


@pytest.mark.slow
def test_what_begins_with_a_dash_is_a_target_where_targets_stand(folder: Path) -> None:
    code, output = run("check", *ONE_LAW, "--", "--version")
    assert code >= 2
    assert "'--version' names no implementation" in output


@pytest.mark.slow
def test_what_was_found_in_a_dtype_called_by_an_alias_replays(folder: Path) -> None:
    (folder / "alias.py").write_text(TRANSPOSED.replace('("float32",)', '("float",)'))
    code, _ = run("check", "alias.py:Mine", *ONE_LAW)
    assert code == 1
    (found,) = (folder / ".mhc-properties" / "counterexamples").glob("*.safetensors")
    assert "float32" in found.name
    code, output = run("replay", str(found), "--impl", "alias.py:Mine")
    assert (code, output.splitlines()[0]) == (1, "FAILED mixing.post-is-the-declared-combination")


@pytest.mark.parametrize(
    "arguments",
    [
        ("-n", "x"),
        ("-n", "100000"),
        ("--report", ""),
        ("--write-known", "no-ending"),
        ("--write-known", "mine.py/x.toml"),
    ],
)
def test_what_check_refuses_is_one_sentence_and_one_object_before_any_process(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    result = CliRunner().invoke(cli.app, ["check", "mine.py:Mine", *arguments, "--json"])
    assert result.exit_code == 2
    (said,) = result.stderr.splitlines()
    assert said.startswith(f"mhc-properties: {arguments[0]} ")
    answer = json.loads(result.stdout)
    assert answer == {"error": said.removeprefix("mhc-properties: "), "exit": 2}
    assert not (folder / ".mhc-properties").exists()
