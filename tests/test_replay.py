"""Replaying a file: what it may run, what it fits, and that none ends in a traceback or a false verdict."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from typer.testing import CliRunner

from mhc_ref import PAPER, PRESETS, Params
from properties import cli
from properties.catalogue.deviations import ELSEWHERE
from properties.commands.replay import replay_file
from properties.core.case import BranchSpec, Case
from properties.core.implementation import Reference
from properties.core.law import FAMILIES, Law, all_laws, family_laws
from properties.core.premises import Where, as_far_as_float32
from properties.core.trial import Trial
from properties.engine import known, misfits
from properties.engine.counterexample import Counterexample, versions
from properties.engine.fitting import outside
from properties.engine.known import Known, verdict_for
from properties.engine.misfits import misfit
from properties.engine.names import file_name, identity
from properties.engine.runner import Profile, Subject, examine
from properties.explosion import Explosion, ExplosionFileError, find_minimal, load, replay, save
from properties.guards import sealed
from properties.targets.target import resolve
from properties.targets.trust import built_in, from_here, replay_line

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


def test_an_empty_target_is_no_leave_to_run_what_the_file_names(folder: Path) -> None:
    """As `--impl "$UNSET"` gives it."""
    code, output = run("replay", str(stored(folder / "case.safetensors", "mine.py:Doubled")), "--impl", "")
    assert (code, "'' names no implementation" in output) == (2, True)
    assert not (folder / "ran").exists()


def test_a_name_that_steers_a_terminal_is_escaped(folder: Path) -> None:
    path = stored(folder / "\x1b[31mred.safetensors", "mine.py:Doubled")
    for options in ((), ("--impl", "mine.py:Doubled"), ("--impl", "ref")):
        assert "\x1b" not in run("replay", str(path), *options)[1]


def test_a_built_in_target_is_run_unasked(folder: Path) -> None:
    assert replay_file(stored(folder / "case.safetensors", "ref:PAPER")).status == "FIXED"
    wrong = stored(folder / "wrong.safetensors", "deviation:no-such-deviation")
    assert replay_file(wrong).status == "ERROR"


def test_a_plain_function_is_judged_against_the_preset_that_is_given(folder: Path) -> None:
    path = stored(folder / "case.safetensors", "ref")
    code, output = run("replay", str(path), "--impl", "mine.py:project")
    assert (code, "say which mathematics it claims with --dialect" in output) == (2, True)
    assert run("replay", str(path), "--impl", "mine.py:project", "--dialect", "PAPER")[0] == 0
    code, output = run("replay", str(path), "--impl", "mine.py:project", "--dialect", "LIGER")
    assert "the dialect declared now differs from the stored one in" in output
    code, output = run("replay", str(path), "--impl", "mine.py:project", "--dialect", "PAPR")
    assert (code, "there is no preset 'PAPR'" in output) == (2, True)


def test_options_without_an_effect_on_a_counterexample_are_refused(folder: Path) -> None:
    path = stored(folder / "case.safetensors", "ref")
    code, output = run("replay", str(path), "--dialect", "LIGER")
    assert code == 2
    assert "--dialect LIGER has no effect: ref:PAPER declares what it computes" in output
    code, output = run("replay", str(path), "--isolate", "--impl", "proc:touch ran")
    assert code == 2
    assert "--isolate has no effect: what proc: starts is a process of its own" in output
    assert not (folder / "ran").exists()


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
    assert run("replay", str(exploding), "--impl", "")[0] == 2
    assert not (exploding.parent / "ran").exists()
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


OTHERS = """
import torch
from properties import Implementation

class Three(Implementation):
    streams = (3,)
    def project(self, logits):
        return logits.softmax(-1)

class Short(Three):
    streams, dtypes = (2,), ("float32",)
    def project(self, logits):
        assert logits.dtype == torch.float32
        return 1.5 * logits.softmax(-1)

class Lost(Short):
    dtypes = ("float64",)
    def project(self, logits):
        return logits * float("nan")

class Raising(Lost):
    def project(self, logits):
        raise SystemExit("out of \\x1b[31m registers")

def plain(logits):
    return logits.softmax(-1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("others.py:Three",), 2, "the explosion has 2 streams; others.py:Three takes 3"),
        (("others.py:Short",), 1, "depth 3, forward gain 3.375 reaches >= 3.3"),
        (("others.py:Lost",), 2, "gives a matrix that is zero or not finite, of which no gain is taken"),
        (("others.py:Raising",), 2, "project raised SystemExit"),
        (("others.py:plain",), 2, "say which mathematics it claims with --dialect"),
        (("others.py:plain", "--dialect", "PAPER"), 0, "forward gain 1 no longer reaches"),
        (
            ("others.py:Short", "--dialect", "PAPER"),
            2,
            "--dialect PAPER has no effect: Short declares what it computes",
        ),
        (("others.py:Short", "--device", "cpu"), 2, "computed on the CPU: --device would have no effect"),
        (("proc:touch ran", "--isolate"), 2, "--isolate has no effect"),
    ],
)
def test_an_explosion_is_asked_of_a_target_as_that_takes_it(
    options: tuple[str, ...], code: int, said: str, exploding: Path
) -> None:
    (exploding.parent / "others.py").write_text(OTHERS)
    found, output = run("replay", str(exploding), "--impl", *options)
    assert found == code, output
    assert said in output
    assert "\x1b" not in output
    assert not (exploding.parent / "ran").exists()


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        (("--impl", "ref"), "--impl"),
        (("--impl", ""), "--impl"),
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


def test_a_path_below_the_working_folder_is_said_from_there_and_any_other_whole(folder: Path) -> None:
    assert from_here(folder / "out" / "report.json") == str(Path("out", "report.json"))
    assert from_here(folder / "out" / "report.json", folder / "out") == "report.json"
    assert from_here(folder / "out", folder / "elsewhere") == str(folder / "out")
    assert from_here(folder / "-out") == "./-out"


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
    name = file_name("block.permutation-limit-carries-streams[Mine-float64-cpu]", identity("broken.py:Mine", out), None)
    line = replay_line(out / f"{name}.safetensors", "broken.py:Mine")
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


# -- what fits --------------------------------------------------------------------------------------------------------


def drawn(law: Law, subject: Subject, examples: int) -> list[Case]:
    """The first cases of a law, the same in every run."""
    found: list[Case] = []

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]  # the metaclass is not typed
    )
    @given(law.draw(subject.setting(law)))
    def draw(case: Case) -> None:
        found.append(case)

    draw()
    return found


def subject_of(preset: str, dtype: str) -> Subject:
    return Subject(
        "ref", Reference({**PRESETS, **ELSEWHERE}[preset], "a reference"), getattr(torch, dtype), torch.device("cpu")
    )


NAMED = {*misfits.TENSORS, *misfits.MOST, *misfits.NUMBERS, *misfits.ORDERS, *misfits.CHOICES, "logits", "shift"}
NAMED |= {
    "layout",
    "other",
    "cotangent",
    "cotangents",
    "params",
    "other_params",
    "head",
    "branch",
    "branches",
    "orders",
    "weights",
}
NAMED |= {"poisoned", "poison", "place", "live", "bars", "bias", "weight", "dialect", *misfits.PAIRS}


def presets_in_dtypes() -> Iterator[Any]:
    """The paper in every dtype and each other preset in one of them: cases are drawn by the dialect, and judged by the
    dtype, so that all pairs show no more than these."""
    yield from (("PAPER", "float32"), ("PAPER with a LayerNorm of all streams", "float32"))
    others = ("float64", "bfloat16", "float16")
    for place, preset in enumerate(PRESETS):
        for dtype in others:
            alike = preset != "PAPER" and dtype != others[place % len(others)]
            yield pytest.param(preset, dtype, marks=[pytest.mark.thorough] if alike else [])


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize(("preset", "dtype"), list(presets_in_dtypes()))
def test_every_case_that_a_law_draws_fits_it(preset: str, dtype: str) -> None:
    """Somebody else's law may read any name; one of ours has its shape checked."""
    subject = subject_of(preset, dtype)
    subject.implementation.dtypes = (dtype,)
    for law in all_laws().values():
        of_dialect = [one for one in law.premises if isinstance(one, Where) or one == as_far_as_float32]
        if any(one(subject.implementation, subject.dtype, None) for one in of_dialect):
            continue
        for case in drawn(law, subject, 3):
            assert {name for name, _ in case.items()} <= NAMED, law.id
            assert misfit(case, subject.implementation.dialect, subject.dtype) is None, law.id
            assert outside(case, subject.implementation, subject.dtype) is None, law.id


def spoiled(value: Any) -> list[Any]:
    """Values of a file that somebody edited: of another dtype, shape, size or kind, or not finite."""
    if isinstance(value, Params):
        changed = [
            value._replace(**{part: bad}) for part in ("phi", "bias", "alpha") for bad in spoiled(getattr(value, part))
        ]
        return [*changed, None, value.phi]
    if isinstance(value, BranchSpec):
        return [None, BranchSpec("scale", torch.ones(4099)), BranchSpec("scale", torch.tensor(float("nan")))]
    if isinstance(value, tuple):
        inner = [(*value[:-1], bad) for bad in spoiled(value[-1])] if value else []
        return [*inner, value[1:], (*value, *value), None, 3]
    if isinstance(value, torch.Tensor):
        other = torch.float32 if value.dtype == torch.float64 else torch.float64
        found = [value.to(other), value.long(), value.unsqueeze(0), value.flatten(), None, "text"]
        if value.numel():
            bad = value.clone()
            bad.view(-1)[-1] = float("inf") if bad.is_floating_point() else 2**40
            found += [bad, value[..., :-1], torch.cat([value, value], -1)]
        return found
    if isinstance(value, bool) or not isinstance(value, int | float):
        return [None, 3, "text"]
    return [None, "text", -value - 1, value + 2**40, float("nan"), True]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("family", "most"),
    [
        ("mixing", 20),
        *(pytest.param(family, 60, marks=pytest.mark.slow) for family in FAMILIES),
        *(pytest.param(family, 100_000, marks=pytest.mark.thorough) for family in FAMILIES),
    ],
)
def test_a_case_that_was_spoiled_accuses_nobody(family: str, most: int, tmp_path: Path) -> None:
    """On the reference, and on correct code that computes otherwise, it is an error, or the law holds all the same."""
    subject = subject_of("PAPER", "float32")
    attempts: list[tuple[str, Case]] = []
    for law in family_laws(family):
        if law.inapplicable(subject.implementation, subject.dtype, subject.device) or law.schedule.thorough:
            continue
        case = drawn(law, subject, 4)[-1]
        values = dict(case.items())
        lacking = [Case(**{other: kept for other, kept in values.items() if other != name}) for name in values]
        changed = [case.with_(**{name: bad}) for name, value in values.items() for bad in spoiled(value)]
        attempts += [(law.id, attempt) for attempt in (*lacking, *changed)]
    seen = Counter[str]()
    for law_id, attempt in random.Random(0).sample(attempts, min(most, len(attempts))):
        path = stored(tmp_path / "case.safetensors", "ref", law_id, attempt)
        for target in ("ref", "control:scaling-vectors"):
            outcome = replay_file(path, target)
            assert outcome.status != "FAILED", (law_id, attempt, outcome.message)
            seen[outcome.status] += 1
    assert seen["ERROR"] > seen["FIXED"]


def test_a_value_that_the_law_reads_in_vain_is_no_fault_of_the_target(folder: Path) -> None:
    """Laws read their case while the target is being called, too."""
    case = Case(x=torch.ones(1, 2, 2), h_post=torch.ones(1, 2), h_res=torch.eye(2)[None])
    for law in ("mixing.post-is-the-declared-combination", "execution.post-does-not-see-strides"):
        path = stored(folder / "case.safetensors", "ref", law, case)
        for target in ("ref", "deviation:h-res-transposed"):
            outcome = replay_file(path, target)
            assert outcome.status == "ERROR", outcome.message
            assert "this case has no 'y'; it has x, h_post, h_res" in outcome.message


def test_a_known_failure_runs_nothing_that_its_file_names_and_accuses_nobody_by_what_does_not_fit(folder: Path) -> None:
    subject = subject_of("PAPER", "float32")
    path = stored(folder / "case.safetensors", "proc:touch ran")
    entry = Known(SUMS, "a reference", "sums are off", path, origin="known.toml, entry 1")
    assert verdict_for(entry, subject).status == "failed"  # the reference keeps the law: the entry has to go
    assert not (folder / "ran").exists()
    stored(path, "proc:touch ran", case=Case(logits=torch.zeros(1, 2, 2).double()))
    verdict = verdict_for(entry, subject)
    assert verdict.status == "error"
    assert "known.toml, entry 1: its counterexample fits no longer: logits is in float64" in verdict.reason


SPARE = Case(logits=torch.zeros(1, 2, 2), spare=3)
BIG = torch.zeros(1, 2, 64)


class Narrow(Reference):
    """The reference with limits."""

    streams = (2,)
    dtypes = ("float32",)
    max_tokens = 2
    channel_multiple = 64
    norm_weight = False
    least_scale = 1e-6


@pytest.mark.parametrize(
    ("law", "case", "reason"),
    [
        (SUMS, Case(logits=torch.zeros(1, 3, 3)), "the case has n = 3; the narrow one takes n = 2"),
        (SUMS, Case(logits=torch.zeros(3, 2, 2)), "the case has 3 tokens a call; the narrow one takes 2"),
        (
            SUMS,
            Case(logits=torch.zeros(1, 2, 2).double()),
            "logits is in float64; expected float32 for a state in float32",
        ),
        ("block.permutation-limit-carries-streams", Case(x=BIG[..., :9], order=(0, 1)), "takes multiples of 64"),
        (
            SUMS,
            Case(logits=torch.zeros(2**20, 2, 2)),
            "1048576 tokens of 2 x 2 numbers are far more than any law draws",
        ),
        ("block.permutation-limit-carries-streams", Case(x=BIG + 1e-20, order=(0, 1)), "declares least_scale = 1e-06"),
        (
            "block.permutation-limit-carries-streams",
            Case(x=BIG + 1, order=(0, 0)),
            "expected a permutation of 2 streams",
        ),
        (
            "coefficients.agrees-with-oracle",
            Case(x=BIG + 1, params=Params(torch.zeros(128, 8), torch.zeros(8), torch.ones(3), torch.ones(128))),
            "the parameters of the case have a norm weight; the narrow one takes none",
        ),
        (
            "coefficients.agrees-with-oracle",
            Case(x=BIG + 1, params=Params(torch.zeros(64, 4), torch.zeros(8), torch.ones(3))),
            r"params.phi has the shape \(64, 4\); expected 128 x 8",
        ),
    ],
)
def test_a_case_outside_of_what_is_declared_is_an_error(
    law: str, case: Case, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("properties.engine.replay.resolve", lambda *_: Narrow(PAPER, "the narrow one"))
    outcome = replay_file(stored(folder / "case.safetensors", "ref", law, case))
    assert outcome.status == "ERROR"
    assert re.search(reason, outcome.message), outcome.message


def test_a_value_that_nobody_reads_changes_nothing(folder: Path) -> None:
    assert replay_file(stored(folder / "case.safetensors", "ref", SUMS, SPARE)).status == "FIXED"


def test_where_the_reference_breaks_the_law_too_nobody_is_accused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trial: Trial, case: Case) -> None:
        trial.holds("a law that nothing keeps", False)

    law = dataclasses.replace(all_laws()[SUMS], judge=broken)
    monkeypatch.setattr("properties.engine.replay.all_laws", lambda: {SUMS: law})
    outcome = replay_file(stored(folder / "case.safetensors", "deviation:h-res-transposed"))
    assert outcome.status == "ERROR"
    assert (
        "the reference breaks manifold.last-axis-sums for this case too (a law that nothing keeps)" in outcome.message
    )


def test_where_nothing_is_claimed_nothing_is_fixed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    law = dataclasses.replace(all_laws()[SUMS], judge=lambda trial, case: None)
    monkeypatch.setattr("properties.engine.replay.all_laws", lambda: {SUMS: law})
    outcome = replay_file(stored(folder / "case.safetensors", "ref"))
    assert (outcome.status, "claims nothing at this case" in outcome.message) == ("ERROR", True)


@pytest.mark.parametrize(
    "path", sorted((known.PUBLISHED.with_name("known")).iterdir()), ids=lambda path: path.stem[:60]
)
def test_the_known_failures_of_published_implementations_fit_their_laws(path: Path) -> None:
    found = Counterexample.load(path)
    assert misfit(found.case, found.dialect, getattr(torch, found.dtype)) is None
    assert built_in(found.target)


# -- headers of any kind ----------------------------------------------------------------------------------------------

ODD: list[Any] = [
    ...,
    None,
    True,
    -1,
    10**400,
    1e308,
    float("nan"),
    "",
    "x" * 5000,
    "\ud800",
    "\x1b[31mred",
    "1e999999999",
    [],
    {},
    [[1], {"tensor": "logits"}],
    json.loads("[" * 200 + "]" * 200),
    {"tensor": "no such tensor"},
    {"exact": "1/0"},
    {"exact": f"1{'0' * 3999}/3"},
    {"exact": "-5"},
]
"""What a field of a header may be instead of what it should be; ... leaves it out."""


def mutations(header: Any, chosen: random.Random, count: int) -> list[Any]:
    """Copies of a header in which one field, at any depth, is something else."""

    def places(value: Any) -> list[tuple[Any, ...]]:
        inner = (
            list(value.items())
            if isinstance(value, dict)
            else list(enumerate(value))
            if isinstance(value, list)
            else []
        )
        return [(key, *rest) for key, part in inner for rest in [(), *places(part)]]

    every = list(itertools.product(places(header), range(len(ODD))))
    found: list[Any] = []
    for place, odd in chosen.sample(every, min(count, len(every))):
        copy = json.loads(json.dumps(header))
        inside = copy
        for key in place[:-1]:
            inside = inside[key]
        if ODD[odd] is ...:
            del inside[place[-1]]
        else:
            inside[place[-1]] = ODD[odd]
        found.append(copy)
    return found


def answered(path: Path) -> tuple[int, str]:
    """What replay says of a file: an exit code, a word and a sentence, and nothing of a terminal or of Python."""
    result = CliRunner().invoke(cli.app, ["replay", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    first, _, rest = result.output.partition("\n")
    assert first.split()[0] == {0: "FIXED", 1: "FAILED", 2: "ERROR"}[result.exit_code], result.output
    assert rest.strip()
    assert not re.search(r"Traceback|\x1b|[\ud800-\udfff]", result.output)
    assert len(result.output) < 4000
    return result.exit_code, result.output


CASES = {
    "logits": (SUMS, Case(logits=torch.zeros(1, 2, 2))),
    "stack": (
        "depth.stack-expands-and-collapses-once",
        Case(
            h=torch.ones(1, 2),
            n=2,
            params=(Params(torch.zeros(4, 8), torch.zeros(8), torch.ones(3)),),
            branches=(BranchSpec("tanh", torch.tensor([0.5, 1.0])),),
            head=(),
        ),
    ),
    "stored number": ("coefficients.coefficients-do-not-see-the-scale", None),
}


# More mutations are drawn from the same few; what they are answered with is the same function.
@pytest.mark.parametrize(
    "count", [30, pytest.param(100, marks=pytest.mark.slow), pytest.param(400, marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("kind", CASES)
def test_a_counterexample_with_any_header_is_answered_in_a_sentence(kind: str, count: int, tmp_path: Path) -> None:
    law, case = CASES[kind]
    case = case or drawn(all_laws()[law], subject_of("PAPER", "float32"), 3)[-1]
    path = stored(tmp_path / "case.safetensors", "ref", law, case)
    assert answered(path)[0] == 0
    whole = sealed.read(path)
    header = json.loads(whole.metadata["mhc_properties"])
    codes = Counter[int]()
    for changed in mutations(header, random.Random(count), count):
        sealed.write(path, {"mhc_properties": json.dumps(changed)}, whole.tensors)
        codes[answered(path)[0]] += 1
    assert set(codes) <= {0, 2}
    assert codes[2] > codes[0]


EXPLOSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": ("residual", {"threshold": 3}),
    "hc": ("hc", {"threshold": 20, "entry_bound": "1.25"}),
    "dynamic": ("hc:dynamic", {"threshold": 5, "identity_bound": "0.5"}),
    "block": ("block:gated", {"threshold": 100, "gain": "activation"}),
    "mhc": ("mhc", {"threshold": "1.05", "gain": "backward", "max_streams": 2}),
    "target": ("target:ref:PAPER", {"threshold": "1.05", "gain": "backward", "max_streams": 2}),
}


@pytest.fixture(scope="module")
def searched() -> Callable[[str], Explosion]:
    """The explosions of these names, each searched once."""
    return cache(lambda kind: find_minimal(EXPLOSIONS[kind][0], **EXPLOSIONS[kind][1]))


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, pytest.param(400, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("kind", EXPLOSIONS)
def test_an_explosion_with_any_header_is_answered_in_a_sentence(
    kind: str, count: int, searched: Callable[[str], Explosion], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save(searched(kind), path)
    assert answered(path)[0] == 1
    whole = sealed.read(path)
    header = json.loads(whole.metadata["explosion"])
    codes = Counter[int]()
    for changed in mutations(header, random.Random(count), count):
        sealed.write(path, {**whole.metadata, "explosion": json.dumps(changed)}, whole.tensors)
        codes[answered(path)[0]] += 1
    assert codes[2] > codes[0] + codes[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["residual", "block", "mhc"])
def test_a_flip_of_any_bit_of_an_explosion_is_noticed(
    kind: str, searched: Callable[[str], Explosion], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save(searched(kind), path)
    whole = path.read_bytes()
    assert load(path).checked
    digest = whole.index(b"sha256")
    for bit in (*random.Random(1).sample(range(8 * len(whole)), 100), *range(8 * digest, 8 * (digest + 8))):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert replay_file(path).status == "ERROR"


def test_an_explosion_of_the_first_format_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save(find_minimal("residual", 3), path)
    whole = sealed.read(path)
    metadata = {"format": "mhc-properties/explosion/1", "explosion": whole.metadata["explosion"]}
    save_file(whole.tensors, path, metadata=metadata)
    assert not load(path).checked
    outcome = replay_file(path)
    assert outcome.status == "FAILED"
    assert "written before files had a checksum" in outcome.message
    save_file(whole.tensors, path, metadata={**metadata, "format": "mhc-properties/explosion/2"})
    assert "it has no checksum, which every file of its format has" in replay_file(path).message


@pytest.mark.slow
def test_an_explosion_that_would_take_for_ever_is_refused(searched: Callable[[str], Explosion], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save(searched("mhc"), path)
    whole = sealed.read(path)
    header = json.loads(whole.metadata["explosion"])
    header["request"]["dialect"]["dialect"]["iterations"] = 10**9
    sealed.write(path, {**whole.metadata, "explosion": json.dumps(header)}, whole.tensors)
    assert "would take too long" in answered(path)[1]
