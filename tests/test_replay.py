"""Replaying a file: what it may run, what it fits, and that none ends in a traceback or a false verdict."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mhc_ref import PAPER
from properties import cli
from properties.case import Case
from properties.counterexample import Counterexample, versions
from properties.explosion import ExplosionFileError, find_minimal, load, replay, save
from properties.law import all_laws
from properties.names import file_name, identity
from properties.replay import replay_file
from properties.runner import Profile, Subject, examine
from properties.target import resolve
from properties.trust import built_in, replay_line

SUMS = "manifold.last-axis-sums"

TARGETS = """
import pathlib
pathlib.Path("ran").touch()

import mhc_ref
from properties import Implementation

class Doubled(Implementation):
    streams = (2, 4)
    dtypes = ("float32",)
    def project(self, logits):
        return 2 * mhc_ref.project(logits, self.dialect)

class Right(Doubled):
    def project(self, logits):
        return mhc_ref.project(logits, self.dialect)

def project(logits):
    return mhc_ref.project(logits, mhc_ref.PAPER)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with targets that leave a trace when they are imported."""
    (tmp_path / "mine.py").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(path: Path, target: str, law: str = SUMS, case: Case | None = None, dtype: str = "float32") -> Path:
    Counterexample(
        law=law,
        target=target,
        implementation="somebody's",
        dialect=PAPER,
        dtype=dtype,
        device="cpu",
        case=case or Case(logits=torch.zeros(1, 2, 2)),
        failure={"what": "a sum", "ratio": None},
        versions=versions(),
    ).save(path)
    return path


def run(*arguments: str) -> tuple[int, str]:
    """A command in this process: its exit code and everything that it printed."""
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.output


# -- what a file may run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "built"),
    [
        ("ref", True),
        ("ref:PAPER", True),
        ("ref:no-such-preset", True),
        ("control:log-domain@PAPER", True),
        ("deviation:h-res-transposed", True),
        ("published:liger", True),
        ("published:stranger", False),
        ("published:../../evil", False),
        ("published", False),
        ("control", False),
        ("proc:sh -c 'touch ran'", False),
        ("mine.py:Doubled", False),
        ("ref/mine.py:Doubled", False),
        ("ref.py:Doubled", False),
        (" ref:PAPER", False),
        ("package.module:Doubled", False),
        ("", False),
    ],
)
def test_only_targets_of_this_package_are_run_unasked(target: str, built: bool) -> None:
    assert built_in(target) is built


@pytest.mark.parametrize(
    ("target", "deed"),
    [
        ("proc:sh -c 'touch ran'", "run the command \"sh -c 'touch ran'\""),
        ("mine.py:Doubled", "run the Python file 'mine.py'"),
        ("mine:Doubled", "run the module 'mine'"),
        ("published:stranger", "look for 'stranger', which is not among the published"),
        ("nothing", "be no target at all"),
        ("proc:\x1b[2Jclear", "run the command '\\\\x1b[2Jclear'"),
    ],
)
def test_what_a_file_names_is_not_run_but_said(folder: Path, target: str, deed: str) -> None:
    path = stored(folder / "case.safetensors", target)
    code, output = run("replay", str(path))
    assert code == 2, output
    assert f"which would {deed}" in output
    assert "--impl TARGET, or allow what the file names with --trust" in output
    assert not (folder / "ran").exists()
    assert "\x1b" not in output


def test_a_file_in_our_own_folder_is_not_trusted_either(folder: Path) -> None:
    path = folder / ".mhc-properties" / "counterexamples" / "case.safetensors"
    assert replay_file(stored(path, "mine.py:Doubled")).status == "ERROR"
    assert not (folder / "ran").exists()


def test_with_trust_or_a_target_of_ones_own_it_is_tried(folder: Path) -> None:
    path = stored(folder / "case.safetensors", "mine.py:Doubled")
    assert run("replay", str(path), "--trust")[0] == 1
    assert run("replay", str(path), "--impl", "mine.py:Doubled")[0] == 1
    assert run("replay", str(path), "--impl", "mine.py:Right")[0] == 0
    assert replay_file(path, trust=True).status == "FAILED"
    code, output = run("replay", str(path), "--trust", "--impl", "mine.py:Right")
    assert code == 2
    assert "--trust runs what the file names, and --impl names 'mine.py:Right': give one of them" in output


def test_a_built_in_target_is_run_unasked(folder: Path) -> None:
    assert replay_file(stored(folder / "case.safetensors", "ref:PAPER")).status == "FIXED"
    wrong = stored(folder / "wrong.safetensors", "deviation:no-such-deviation")
    assert replay_file(wrong).status == "ERROR"


def test_a_plain_function_is_judged_against_the_preset_that_is_given(folder: Path) -> None:
    path = stored(folder / "case.safetensors", "ref")
    code, output = run("replay", str(path), "--impl", "mine.py:project")
    assert (code, "say which mathematics it claims with --dialect" in output) == (2, True)
    assert run("replay", str(path), "--impl", "mine.py:project", "--dialect", "PAPER")[0] == 0


# -- explosions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def exploding(folder: Path) -> Path:
    """The explosion of a target that is no more than a file says."""
    (folder / "broken.py").write_text(
        "import pathlib\npathlib.Path('ran').touch()\n"
        "from properties import Implementation\n"
        "class Broken(Implementation):\n"
        "    streams = (2, 3)\n"
        "    def project(self, logits):\n"
        "        return logits.softmax(-1) * 1.5\n"
    )
    path = folder / "x.safetensors"
    save(find_minimal("target:broken.py:Broken", "3.3", max_streams=2), path)
    (folder / "ran").unlink()
    return path


def test_to_load_an_explosion_of_a_target_runs_nothing(exploding: Path) -> None:
    found = load(exploding)
    assert found.request.target == "broken.py:Broken"
    assert [[float(entry) for entry in row] for row in found.operators[0]] == [[0.75, 0.75]] * 2
    with pytest.raises(ExplosionFileError, match=r"which would run the Python file 'broken\.py'"):
        replay(exploding)
    code, output = run("replay", str(exploding))
    assert code == 2
    assert "allow what the file names with --trust" in output
    assert not (exploding.parent / "ran").exists()


def test_an_explosion_of_a_target_is_tried_on_the_one_that_is_given(exploding: Path) -> None:
    assert run("replay", str(exploding), "--trust")[0] == 1
    assert run("replay", str(exploding), "--impl", "broken.py:Broken")[0] == 1
    code, output = run("replay", str(exploding), "--impl", "ref:PAPER")
    assert (code, output.splitlines()[0]) == (0, "FIXED explosion")
    assert "target:ref:PAPER" in output
    code, output = run("replay", str(exploding), "--impl", "nowhere.py:x")
    assert code == 2
    assert "there is no file nowhere.py" in output
    assert replay(exploding, target="ref").verdict == "FIXED"
    assert replay(exploding, trust=True).verdict == "FAILED"


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        (("--impl", "ref"), "--impl"),
        (("--device", "cpu"), "--device"),
        (("--isolate",), "--isolate"),
        (("--trust",), "--trust"),
        (("--dialect", "PAPER"), "--dialect"),
        (("--impl", "ref", "--isolate"), "--impl and --isolate"),
    ],
)
def test_options_without_an_effect_on_an_explosion_are_refused(
    folder: Path, options: tuple[str, ...], idle: str
) -> None:
    path = folder / "x.safetensors"
    save(find_minimal("residual", 3), path)
    assert run("replay", str(path))[0] == 1
    code, output = run("replay", str(path), *options)
    assert code == 2
    assert (
        f"is an explosion of family residual, whose gain is computed on the CPU from the file alone: {idle}" in output
    )


# -- the line that replays --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["mine.py:Doubled", "my targets/it's.py:Doubled", "proc:sh -c 'echo \"$HOME\"'", "-x.py:a"]
)
def test_the_line_is_one_to_paste(target: str, folder: Path) -> None:
    line = replay_line(folder / "out" / "a b.safetensors", target)
    words = shlex.split(line)
    assert "\n" not in line
    assert words[:3] == ["mhc-properties", "replay", str(Path("out") / "a b.safetensors")]
    assert words[3:] in (["--impl", target], [f"--impl={target}"])
    assert replay_line(folder.parent / "x", "ref") == shlex.join(
        ["mhc-properties", "replay", str(folder.parent / "x"), "--impl", "ref"]
    )


def test_a_failure_prints_the_line_that_fails_again(folder: Path) -> None:
    law = all_laws()[SUMS]
    subject = Subject("mine.py:Doubled", resolve("mine.py:Doubled"), torch.float32, torch.device("cpu"))
    found = examine(law, subject, Profile(4, derandomise=True), directory=folder / "out")
    line = found.message.partition("  replay: ")[2].splitlines()[0]
    program, *words = shlex.split(line)
    assert program == "mhc-properties"
    code, output = run(*words)
    assert (code, output.splitlines()[0]) == (1, f"FAILED {SUMS}")


def test_the_line_in_the_readme_is_the_one_that_is_printed(folder: Path) -> None:
    out = folder / ".mhc-properties" / "counterexamples"
    name = file_name("block.permutation-limit-carries-streams[Mine-float64-cpu]", identity("mine.py:Mine", out), None)
    line = replay_line(out / f"{name}.safetensors", "mine.py:Mine")
    assert f"  replay: {line}\n" in (Path(__file__).parent.parent / "README.md").read_text()


# -- names ------------------------------------------------------------------------------------------------------------

NAMES = [
    "Mine",
    "mine",
    "模",
    "型",
    "a/b",
    "a\\b",
    "a b",
    "a:b",
    "..",
    ".",
    "",
    "CON",
    "nul.",
    "x" * 300,
    "模" * 300,
    "a.",
    "a ",
]


def test_no_two_names_share_a_file_and_every_one_can_be_made(tmp_path: Path) -> None:
    made = [file_name(f"{SUMS}[{name}-float32-cpu]", name) for name in NAMES]
    assert len({name.casefold() for name in made}) == len(NAMES)
    for name in made:
        path = tmp_path / f"{name}.safetensors"
        assert path.parent == tmp_path
        assert len(path.name.encode()) <= 200
        stored(path, "ref")
    assert len(list(tmp_path.iterdir())) == len(NAMES)
    assert made[0].startswith("manifold.last-axis-sums_Mine-float32-cpu_")
    assert "_模-float32" in made[2]


def test_two_targets_of_one_name_keep_their_files_apart(folder: Path) -> None:
    subjects: list[Subject] = []
    for place in ("good.py", "b1.py", "a/x.py", "b/x.py"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_text(TARGETS)
        target = f"{place}:Doubled"
        subjects.append(Subject(target, resolve(target), torch.float32, torch.device("cpu")))
    law = all_laws()[SUMS]
    profile = Profile(4, shrink=False, remember=True)
    paths = [examine(law, subject, profile, directory=folder / "out").counterexample for subject in subjects]
    assert len(set(paths)) == len(subjects)
    for path, subject in zip(paths, subjects, strict=True):
        assert path is not None
        assert Counterexample.load(path).target == subject.target
    assert len(list((folder / ".hypothesis" / "laws").iterdir())) == len(subjects)


def test_one_target_of_two_working_folders_has_two_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, names = folder / "out", set[str]()
    for place in ("a", "b"):
        (folder / place).mkdir()
        monkeypatch.chdir(folder / place)
        names.add(identity("x.py:Mine", out))
        assert identity("ref:PAPER", out) == "ref:PAPER"
    assert len(names) == 2
    monkeypatch.chdir(folder)
    (folder / "elsewhere" / "out").mkdir(parents=True)
    here = identity("x.py:Mine", out)
    monkeypatch.chdir(folder / "elsewhere")
    assert identity("x.py:Mine", folder / "elsewhere" / "out") == here


def test_a_file_that_is_saved_twice_is_whole_at_every_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(folder / "case.safetensors", "ref")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        dataclasses.replace(Counterexample.load(path), target="control:log-domain").save(path)
    found = find_minimal("residual", 3)
    with pytest.raises(OSError, match="No space left"):
        save(found, path)
    assert path.read_bytes() == before
    assert {one.name for one in folder.iterdir()} == {"mine.py", path.name}


def test_the_answer_for_machines_has_the_same_keys(folder: Path) -> None:
    path = stored(folder / "case.safetensors", "mine.py:Doubled")
    code, output = run("replay", str(path), "--json")
    answer = json.loads(output.splitlines()[-1])
    assert (code, answer["status"], set(answer)) == (2, "ERROR", {"status", "law", "ratio", "message"})
