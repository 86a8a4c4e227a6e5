"""A GPU in nine minutes: parts are cut on their time, and whatever ends a run, what it had found is whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

from properties import cli
from properties.campaign.cells import Cell
from properties.campaign.folder import Folder
from properties.campaign.gpu import command, gathering, page, plan, probe, standing, throughput
from properties.campaign.gpu.asked import KERNELS, RIGHT, SAME_AS, SHORT, WRONG, asked
from properties.campaign.gpu.plan import Part, Where, parts, shares
from properties.campaign.gpu.running import run
from properties.core.implementation import dtype_names
from properties.targets.published import ADAPTERS, tile_kernels
from properties.targets.target import resolve

ROOT = Path(__file__).parents[1]
ORDER = ["tests", "kernels", "sizes", "deviations", "reproduction", "throughput"]
HANG = "import signal; open(r'{folder}/begun', 'w').close(); signal.pause()"
FAMILY = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); {HANG}"


def part(name: str, program: str, seconds: float = 1.0, **more: Any) -> Part:
    return Part(name, f"about {name}", seconds, {"step": ("-c", program)}, **more)


def until(condition: Any, process: subprocess.Popen[Any] | None = None) -> None:
    """Look until something is so; a process that has ended before is a failure, and so is a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None, "it ended before"
        assert time.monotonic() < end, "it never came"


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [Where(), Where(cores=1), Where(root=ROOT), Where("meta", 2, "f.py:f", short=True)])
def test_the_times_of_all_parts_are_nine_minutes_in_the_order_of_worth(where: Where) -> None:
    found = parts(where)
    assert [one.name for one in found] == ORDER
    assert sum(one.seconds for one in found) + plan.RESERVE == 60 * plan.MINUTES == 540


@pytest.mark.parametrize("where", [Where(root=ROOT), Where("meta", 2, "f.py:f", short=True, root=ROOT)])
def test_every_command_of_the_plan_is_there(where: Where) -> None:
    for one in parts(where):
        for words in one.steps.values():
            assert words[0] == "-m"
            assert all(find_spec(word) for word in words if word.startswith("properties."))


def test_what_is_carried_along_has_the_versions_of_the_extras() -> None:
    """Each published kernel, and each package of ours, in one version and the one that the adapters are about."""
    lines = (ROOT / "properties/campaign/gpu/wheels.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [one for name in ("liger", "tile-kernels", "fla", "hyper-connections") for one in extras[name]]
    for name, version in (one.partition(";")[0].split("==") for one in wanted):
        assert name == "triton" or pins[name] == version  # Triton is PyTorch's
    needs = {re.split(r"[><=;]", one)[0] for one in (*project["dependencies"], *extras["processes"])}
    assert needs - set(pins) == {"torch", "numpy"}


def test_what_earlier_parts_leave_goes_to_the_later_ones_and_what_is_short_is_short_for_all() -> None:
    ahead = parts(Where())
    assert shares(515, ahead) == [one.seconds for one in ahead]
    assert sum(shares(100, ahead)) == pytest.approx(100)
    assert shares(515, ahead[1:])[0] > ahead[1].seconds
    assert shares(-3, ahead) == [0] * len(ahead)


def test_without_a_checkout_its_tests_are_not_begun(tmp_path: Path) -> None:
    (first, *_) = parts(Where(root=None))
    (found,) = run([first], tmp_path, time.monotonic() + 500, print)
    assert (found["status"], found["why"]) == ("not begun", "there is no checkout with tests/ around this package")


def test_the_page_has_the_plan() -> None:
    assert "\n".join(page.plan_table()) in (ROOT / "docs" / "gpu.md").read_text()


# -- running -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_part_that_hangs_is_cut_with_all_that_it_started_and_the_later_ones_run(tmp_path: Path) -> None:
    chosen = [part("tests", FAMILY, 8), part("kernels", "print('done')", 30)]
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    first, second = run(chosen, tmp_path, time.monotonic() + plan.RESERVE / 2 + 38, print)
    assert (first["status"], second["status"]) == ("cut off", "finished")
    assert first["why"] == "step had not ended on the deadline"
    assert (tmp_path / "parts/tests/begun").exists()
    assert {one.pid for one in psutil.Process().children(recursive=True)} <= before
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or ())]


@pytest.mark.slow
def test_a_step_is_asked_to_end_before_it_is_killed(tmp_path: Path) -> None:
    evenly = (
        "import signal\ntry:\n    signal.pause()\nexcept KeyboardInterrupt:\n    open(r'{folder}/even', 'w').close()\n"
    )
    (found,) = run([part("tests", evenly, 10)], tmp_path, time.monotonic() + plan.RESERVE / 2 + 10, print)
    assert (found["status"], found["steps"]["step"]["asked"]) == ("finished", True)
    assert (tmp_path / "parts/tests/even").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "status"), [("import os; os.abort()", 134), ("raise ValueError", 1), ("raise SystemExit(7)", 7)]
)
def test_a_part_that_crashes_is_told_as_such_and_the_later_ones_run(tmp_path: Path, program: str, status: int) -> None:
    chosen = [part("tests", program), part("kernels", "print()")]
    first, second = run(chosen, tmp_path, time.monotonic() + 60, print)
    assert (first["status"], second["status"]) == ("crashed", "finished")
    assert first["why"] == f"step ended with status {status}; its log has why"
    (tmp_path / "run.json").write_text(json.dumps(HEAD | {"plan": PLAN[:2]}))
    data = gathering.gathered(tmp_path)
    assert data["findings"] == []  # no verdict
    assert data["cut"][0].startswith("tests: crashed, step ended with status")


def test_how_a_part_ended_before_is_forgotten_when_it_begins_again(tmp_path: Path) -> None:
    run([part("tests", "raise ValueError")], tmp_path, time.monotonic() + 60, print)
    gone = f"import pathlib; assert not pathlib.Path({str(tmp_path / 'parts/tests.json')!r}).exists()"
    (found,) = run([part("tests", gone)], tmp_path, time.monotonic() + 60, print)
    assert found["status"] == "finished"


def test_what_has_no_time_left_is_not_begun(tmp_path: Path) -> None:
    found = run([part("tests", "print()", 400), part("kernels", "print()", 100)], tmp_path, time.monotonic(), print)
    assert [one["status"] for one in found] == ["not begun"] * 2
    assert "of the 400 that it has in the plan" in found[0]["why"]


HEAD: dict[str, Any] = {
    **{
        "schema": 1,
        "when": "2026-11-29T09:00:00+00:00",
        "source": "0" * 16,
        "short": False,
        "versions": {"torch": "2"},
    },
    "device": {"type": "cuda", "name": "a device", "driver": "580", "cores": 16},
}
PLAN = [{"name": one.name, "title": one.title, "seconds": one.seconds} for one in parts(Where())]

DRIVER = """
import sys
from properties.campaign.gpu import command
from properties.campaign.gpu.plan import Part
from properties import cli
hang = {hang!r}
if "--resume" in sys.argv:
    hang = "print()"
say = "open(r'{{folder}}/ran', 'a').write('x')"
names = {names!r}
made = [Part(name, name, 100.0, {{"step": ("-c", hang if name == "kernels" else say)}}) for name in names]
command.parts = lambda where: made
here = {{"missing": None, "name": "a device", "driver": None, "cores": 2, "versions": {{}}}}
command._described = lambda *given: here
cli.main()
"""


def begun(tmp_path: Path, *options: str) -> subprocess.Popen[Any]:
    """The command with three parts, of which the second never ends."""
    script = DRIVER.format(hang=HANG, names=["tests", "kernels", "throughput"])
    words = [sys.executable, "-c", script, "gpu", "--out", str(tmp_path / "out"), *options]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def everything_is_whole(out: Path) -> None:
    files = [one for one in out.rglob("*.json") if not one.name.startswith(".")]
    assert len(files) > 1
    for one in files:
        json.loads(one.read_text())


@pytest.mark.slow
def test_what_was_found_survives_the_death_of_the_run_and_nothing_outlives_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = begun(tmp_path)
    until((out / "parts/kernels/begun").exists, process)
    inside = psutil.Process(process.pid).children(recursive=True)
    assert inside
    process.kill()
    process.communicate()
    gone, alive = psutil.wait_procs(inside, 30)
    assert (len(gone), alive) == (len(inside), [])
    everything_is_whole(out)
    data = gathering.gathered(out)
    assert [one["status"] for one in data["parts"]] == ["finished", "killed", "not begun"]
    assert not data["complete"]
    again = begun(tmp_path, "--resume", "--minutes", "2")
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert [(out / f"parts/{name}/ran").exists() for name in ("tests", "throughput")] == [True, True]
    assert (out / "parts/tests/ran").read_text() == "x"  # not run again
    assert gathering.gathered(out)["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_writes_what_it_has(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    process = begun(tmp_path)
    until((out / "parts/kernels/begun").exists, process)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    everything_is_whole(out)
    data = json.loads((out / "gpu.json").read_text())
    assert [one["status"] for one in data["parts"]] == ["finished", "stopped", "not begun"]
    assert "| kernels | stopped |" in (out / "gpu.md").read_text()


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_every_deviation_has_a_control_for_each_of_its_laws() -> None:
    assert {law for laws in WRONG.values() for law in laws} == {law for laws in RIGHT.values() for law in laws}
    for name in ("compiled-without-weight", "bfloat16-for-tf32", "log-domain-declared", "offsets-in-32-bits"):
        assert WRONG[name]


@pytest.mark.parametrize(
    "target", [f"deviation:{name}@PAPER" for name in WRONG] + [f"control:{name}" for name in RIGHT]
)
def test_what_is_asked_of_a_device_can_be_asked_in_float32(target: str) -> None:
    assert "float32" in dtype_names(resolve(target))


def test_kernels_are_adapters_that_there_are() -> None:
    for one in KERNELS:
        assert SAME_AS.get(one, one).removeprefix("published:") in ADAPTERS
    assert hasattr(tile_kernels, KERNELS[1].rpartition(":")[2])


def test_laws_that_want_all_memory_are_asked_apart() -> None:
    many, _ = asked("deviations", "cuda", short=False, giants=False)
    giants, _ = asked("deviations", "cuda", short=False, giants=True)
    assert {one.question["law"].startswith("device.distant") for one in giants} == {True}
    assert {one.question["law"].startswith("device.distant") for one in many} == {False}
    asked_of = {one.question["target"].partition(":")[2].partition("@")[0] for one in (*many, *giants)}
    assert asked_of == {*WRONG, *RIGHT}
    assert {one.question["device"] for one in many} == {"cuda"}


def test_kernels_that_are_not_here_are_left_out_with_a_reason() -> None:
    cells, absent = asked("sizes", "cuda", short=False, giants=False)
    assert {one.question["law"].partition(".")[0] for one in cells} == {"sizes"}
    assert "ref:PAPER" in {one.question["target"] for one in cells}
    assert all(absent.values())


def test_a_part_that_asks_no_laws_is_refused() -> None:
    with pytest.raises(ValueError, match="'throughput' asks no laws; expected one of kernels, sizes, deviations"):
        asked("throughput", "cuda", short=False, giants=False)
    assert list(SHORT) == ORDER[1:4]


# -- what was found ----------------------------------------------------------------------------------------------------


def answered(folder: Path, *rows: tuple[str, str, str, dict[str, Any]], more: int = 0) -> None:
    """A campaign with these answers: target, law, status, and what the answer has besides."""
    campaign = Folder(folder)
    usual = {"reason": "why", "examples": 8, "worst_ratio": 0.25}
    cells = [Cell("laws", {"target": target, "law": law, "dtype": "float32"}, {}) for target, law, _, _ in rows]
    campaign.ask([*cells, *(Cell("demo", {"number": number}, {}) for number in range(more))])
    for cell, (_, _, status, beside) in zip(cells, rows, strict=True):
        record = {"schema": 1, **cell.to_json(), "status": "error" if status == "error" else "answered", "files": []}
        campaign.keep(record | {"answer": {**usual, "status": status, **beside}}, {})


def of(tmp_path: Path, name: str, status: str = "finished") -> dict[str, Any]:
    """The part of that name of a folder."""
    planned = [one for one in PLAN if one["name"] == name]
    (tmp_path / "run.json").write_text(json.dumps(HEAD | {"plan": planned}))
    ended = {"name": name, "title": "t", "status": status, "why": "", "limit": 9.0, "seconds": 8.0, "steps": {}}
    (tmp_path / f"parts/{name}.json").write_text(json.dumps(ended))
    return gathering.gathered(tmp_path)


def test_a_broken_law_is_a_finding_unless_it_was_known(tmp_path: Path) -> None:
    known = "gradient.projection-pulls-back-the-unrolled-iteration"
    answered(
        tmp_path / "parts/kernels/laws",
        ("published:hyper-connections-triton", known, "failed", {}),
        ("published:liger", "block.agrees-with-oracle", "failed", {"reason": "ratio 40"}),
        ("published:liger", "block.inputs-reach-the-branch-once", "passed", {"worst_ratio": 0.75}),
        ("published:liger", "mixing.pre-is-the-weighted-sum", "not-applicable", {"examples": 0}),
        ("published:fla", "manifold.agrees-with-oracle", "error", {"error": "a fault"}),
        more=3,
    )
    (tmp_path / "parts/kernels/laws/absent.json").write_text('{"published:tile-kernels": "no library"}')
    assert SAME_AS["properties.targets.published.tile_kernels:TileKernelsWhole"] == "published:tile-kernels"
    data = of(tmp_path, "kernels")
    (found,) = data["parts"]
    assert data["findings"] == [
        "published:fla float32, manifold.agrees-with-oracle: a fault of the harness, a fault",
        "published:liger float32 breaks block.agrees-with-oracle: ratio 40",
    ]
    assert found["status"] == "cut off"
    assert data["cut"] == [
        "kernels: published:tile-kernels was left out: no library",
        "kernels: 3 of 8 laws were not reached, 0 of them put aside",
    ]
    text = page.section(data)
    assert "| published:liger float32 | 1 | 0 | 1 | 0 | 1 | 0.75, block.inputs-reach-the-branch-once |" in text
    assert "| published:hyper-connections-triton float32 | 0 | 1 | 0 | 0 | 0 | – |" in text
    assert "* published:liger float32 breaks block.agrees-with-oracle: ratio 40" in text


def test_a_deviation_that_nobody_saw_is_a_finding_and_one_that_was_seen_is_none(tmp_path: Path) -> None:
    law, other = "device.graphs-replay-new-inputs", "device.compiled-blocks-are-the-same"
    answered(
        tmp_path / "parts/deviations/laws",
        ("deviation:synchronises@PAPER", law, "failed", {}),
        ("deviation:gates-kept-on-host@PAPER", law, "passed", {}),
        ("deviation:compiled-without-weight@PAPER", other, "not-applicable", {"examples": 0}),
        ("control:linear@PAPER", law, "passed", {}),
    )
    data = of(tmp_path, "deviations")
    assert data["findings"] == ["deviation:gates-kept-on-host@PAPER was not seen by any law that has to see it"]
    assert data["cut"] == [
        "deviations: deviation:compiled-without-weight@PAPER could not be tried: no law that sees it applies here"
    ]
    assert "Seen: synchronises." in page.section(data)


LOG = """
[gw0] [ 20%] PASSED tests/test_cuda.py::test_a_transfer_keeps_values\x20
tests/test_cuda.py::test_memory[77777] PASSED                             [ 40%]
tests/test_cuda.py::test_room SKIPPED (needs a CUDA device)               [ 60%]
[gw3] [ 80%] FAILED tests/test_cuda.py::test_a_control_is_never_accused[a b-linear]\x20
tests/test_cuda.py::test_that_was_open
FAILED tests/test_cuda.py::test_a_control_is_never_accused[a b-linear] - AssertionError
"""


def test_outcomes_of_tests_are_read_as_far_as_the_log_goes(tmp_path: Path) -> None:
    (tmp_path / "parts/tests").mkdir(parents=True)
    (tmp_path / "parts/tests/pytest.log").write_text(LOG)
    data = of(tmp_path, "tests", "cut off")
    assert data["parts"][0]["found"]["counts"] == {"passed": 2, "failed": 1, "skipped": 1}
    assert data["findings"] == ["tests: test_cuda.py::test_a_control_is_never_accused[a b-linear] failed"]
    assert "1 failed, 2 passed, 1 skipped." in page.section(data)


def test_a_reproduction_that_was_cut_says_how_far_it_came(tmp_path: Path) -> None:
    folder = tmp_path / "parts/reproduction"
    folder.mkdir(parents=True)
    run_of = {
        **{"residual": "hc", "seed": 1, "weights": 10_100_000, "steps": 40, "asked": 300, "ended": "after 90 s"},
        **{"alarms": ["explode"], "troubles": 0, "seconds": 90.0, "dtype": "float32", "rate": 0.003},
        **{"setup": {"depth": 24, "streams": 4}, "losses": {"0": 4.9, "30": 3.5}},
        "gains": {"0": [1.0, 1.0, 1.0], "30": [9.0, 8.0, 7.0], "10": [12.0, 2.0, 2.0]},
    }
    (folder / "hc-1.json").write_text(json.dumps(run_of))
    data = of(tmp_path, "reproduction")
    assert data["cut"] == ["reproduction: hc, seed 1: 40 of 300 steps"]
    row = "| hc | 1 | 10,100,000 | 40 of 300 | 12 | 9 / 8 / 7 | 4.9 to 3.5 | explode |"
    assert row in page.section(data)


def test_throughput_is_compared_with_as_many_workers_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "parts/throughput").mkdir(parents=True)
    rows = [
        {"way": way, "device": device, "workers": workers, "tokens_per_second": rate, "examples_per_second": 3.0}
        | {"claims_per_second": 100.0, "device_share": share, "examples": 9, "counts": []}
        for way, device, workers, rate, share in (
            ("many at once", "cuda", 1, 7100.0, 0.43),
            ("one by one", "cpu", 1, 142.0, None),
            ("one by one", "cuda", 15, 9.0, None),
        )
    ]
    told = {"schema": 1, "asked": 4, "rows": rows}
    (tmp_path / "parts/throughput/throughput.json").write_text(json.dumps(told))
    data = of(tmp_path, "throughput")
    assert data["cut"] == ["throughput: 1 of 4 measurements"]
    text = page.section(data)
    assert "| many at once | cuda | 1 | 7100 | 3 | 50 | 43 % |" in text
    assert "| one by one | cpu | 1 | 142 | 3 | – | – |" in text
    assert "| one by one | cuda | 15 | 9 | 3 | – | – |" in text


def test_throughput_measures_both_ways_and_first_what_is_compared() -> None:
    assert list(throughput.WAYS) == ["many at once", "one by one"]
    found = throughput.plan("cuda", [1, 15])
    assert found[:2] == [("many at once", "cuda", 1), ("one by one", "cpu", 1)]
    assert len(found) == len(set(found)) == 8
    assert len(throughput.plan("cpu", [1])) == 2


@pytest.mark.parametrize("way", throughput.WAYS)
def test_every_way_to_judge_counts_what_it_did(way: str) -> None:
    (found,) = throughput.measured(way, "cpu", 1, 0.01)
    assert found.examples > 0
    assert found.tokens >= found.examples
    assert found.claims >= found.tokens
    assert found.device is None
    assert throughput.row(way, "cpu", [found, found])["tokens_per_second"] == 2 * found.tokens / found.seconds


def test_a_folder_that_is_none_of_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gathering.GatheringError, match=r"run\.json cannot be read"):
        gathering.gathered(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 99}')
    with pytest.raises(gathering.GatheringError, match="schema 99; this version reads 1"):
        gathering.gathered(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(gathering.GatheringError, match="holds no object"):
        gathering.gathered(tmp_path)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_a_page_keeps_all_but_what_is_between_its_two_lines(tmp_path: Path) -> None:
    (tmp_path / "parts/tests").mkdir(parents=True)
    (tmp_path / "parts/tests/pytest.log").write_text(LOG)
    data = of(tmp_path, "tests")
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    once = page.renewed(text, data)
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    assert page.renewed(once, data) == once
    for bad in ("", page.BEGIN, f"{page.END}\n{page.BEGIN}\n", text + text):
        with pytest.raises(ValueError, match="once each"):
            page.renewed(bad, data)


def test_the_page_of_the_docs_has_a_place_for_a_run() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    assert (text.count(page.BEGIN), text.count(page.END)) == (1, 1)


# -- what is given -----------------------------------------------------------------------------------------------------


def asked_for(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["gpu", *words])


def refused(*words: str) -> str:
    result = asked_for(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture
def _a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"missing": None, "name": "a device", "driver": None, "cores": 2, "versions": {}}
    monkeypatch.setattr(command, "_described", lambda *given: here)


@pytest.mark.usefixtures("_a_device")
def test_mistakes_are_refused_before_anything_runs(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    for minutes in ("-1", "0", "9.5", "nan"):
        assert "expected a number above 0, up to 9" in refused(*out, "--minutes", minutes)
    assert "leave" in refused(*out, "--since", str(time.time() - 600))
    assert "leave" in refused(*out, "--since", str(time.time() + 600))
    assert "leave" in refused(*out, "--since", "nan")
    told = "there is no such part; expected tests, kernels, sizes, deviations, reproduction, throughput"
    assert told in refused(*out, "--only", "kernel")
    assert "expected FILE.py:NAME with a file that exists" in refused(*out, "--stand-in", "nothing.py:x")
    assert "there is no nobody in that file" in refused(*out, "--stand-in", f"{ROOT / 'tests/fake_device.py'}:nobody")
    assert "there is no run in" in refused(*out, "--resume")
    (tmp_path / "file").write_text("")
    assert "expected a folder that can be written" in refused("--out", str(tmp_path / "file"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/somebodys.txt").write_text("")
    assert "there is something in it which is no run" in refused("--out", str(tmp_path / "full"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "meta"])
def test_a_device_is_named_by_its_type(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([device]) == 2
    assert f"device {device!r} is none of cpu, cuda" in capsys.readouterr().err


def test_the_plan_is_told_as_data_too() -> None:
    (line,) = asked_for("--plan", "--json").output.splitlines()
    told = json.loads(line)
    assert sum(one["seconds"] for one in told["plan"]) + told["reserve"] == 540


@pytest.mark.usefixtures("_a_device")
def test_another_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(HEAD | {"plan": PLAN}))
    out = ("--out", str(tmp_path))
    assert "it has a run of 2026-11-29T09:00:00+00:00; go on with it (--resume)" in refused(*out)
    assert "had another source; begin a new one in another folder" in refused(*out, "--resume")
    (tmp_path / "run.json").write_text("{")
    assert "cannot be read as a file of a run" in refused(*out)


def test_the_docs_are_renewed_from_a_run_and_never_from_a_short_one(tmp_path: Path) -> None:
    docs, out = tmp_path / "docs", tmp_path / "out"
    docs.mkdir()
    (out / "parts/tests").mkdir(parents=True)
    (out / "parts/tests/pytest.log").write_text(LOG)
    of(out, "tests")
    words = ("--out", str(out), "--renew", str(docs))
    assert "gpu.md" in refused(*words)
    (docs / "gpu.md").write_text(f"x\n{page.BEGIN}\n{page.END}\ny\n")
    assert asked_for(*words).exit_code == 0
    assert "A run on a device, driver 580, 16 cores" in (docs / "gpu.md").read_text()
    assert json.loads((docs / "gpu.json").read_text())["schema"] == 1
    (out / "run.json").write_text(json.dumps(HEAD | {"plan": PLAN[:1], "short": True}))
    assert "a short run, which says nothing of a device" in refused(*words)
    (out / "run.json").write_text(json.dumps(HEAD | {"plan": PLAN[:1], "device": {**HEAD["device"], "type": "cpu"}}))
    assert "a run on a CPU, which says nothing of a GPU" in refused(*words)


def test_a_stand_in_has_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("number = 3\n")
    with pytest.raises(ValueError, match="which can be called"):
        standing.stand_in(f"{tmp_path / 'a.py'}:number")


@pytest.mark.slow
def test_the_whole_script_runs_on_the_fake_device(tmp_path: Path) -> None:
    """Every part in a short form, by the commands, processes and files of a run on a GPU."""
    fake = f"{ROOT / 'tests/fake_device.py'}:fake_device"
    words = ["gpu", "--device", "meta", "--stand-in", fake, "--short", "--out", str(tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    command_ = [sys.executable, "-m", "properties.cli", *words]
    ran = subprocess.run(command_, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    data = json.loads((tmp_path / "out/gpu.json").read_text())
    assert data["findings"] == [], ran.stdout + ran.stderr
    assert [one["name"] for one in data["parts"]] == ORDER
    ended = {one["name"]: one["status"] for one in data["parts"]}
    left_out = [line for line in data["cut"] if "published:liger was left out" in line]
    assert len(left_out) == len(data["cut"]) == sum(status != "finished" for status in ended.values()), data["cut"]
    assert ran.returncode == (3 if left_out else 0)
    found = {one["name"]: one["found"] for one in data["parts"]}
    assert found["tests"]["counts"] == {"passed": 2}
    assert found["kernels"]["targets"]["ref:PAPER float32"]["statuses"] == {"passed": 1}
    assert found["sizes"]["targets"]["ref:PAPER float32"]["statuses"] == {"passed": 1}
    assert found["deviations"]["seen"] == {"deviation:launched-on-the-default-stream@PAPER": True}
    assert found["deviations"]["targets"]["control:linear@PAPER float32"]["statuses"] == {"passed": 1}
    assert found["reproduction"]["runs"][0]["steps"] == 3
    measured = [(one["way"], one["device"]) for one in found["throughput"]["rows"]]
    assert measured == [("many at once", "meta"), ("one by one", "cpu")]
    assert "A short run, which proves the script and no kernel, on fake" in (tmp_path / "out/gpu.md").read_text()
