"""Campaigns: cells, folders, and a run that goes on where it stopped, whatever ends before its time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

from properties import cli
from properties.campaign import running, summary
from properties.campaign.cells import Cell, versions
from properties.campaign.engines import Answers, EngineLostError, Processes, Serial, engine
from properties.campaign.folder import Folder, FolderError
from properties.campaign.kind import DeviceLostError
from properties.campaign.kinds import KINDS, cell_of, cells, demo, kind_of
from properties.campaign.running import Run
from properties.campaign.work import work


def asked(folder: Folder, count: int = 6, only: Sequence[str] = ()) -> list[Cell]:
    folder.ask(cells("demo", {}, {"seeds": count, "only": list(only)}))
    return folder.cells()


def same_anywhere(folder: Folder) -> list[dict[str, Any]]:
    """The answers without what another run may have otherwise."""
    return [{name: value for name, value in one.items() if name != "run"} for one in folder.records()]


def test_an_address_is_of_what_is_asked_and_of_versions() -> None:
    one = Cell("demo", {"a": 1, "b": [2.5, None]}, {"torch": "2", "python": "3"}, 7.0)
    assert one.address == Cell("demo", {"b": [2.5, None], "a": 1}, {"python": "3", "torch": "2"}, 1.0).address
    assert one.address != Cell("demo", {"a": 2, "b": [2.5, None]}, one.versions).address
    assert one.address != Cell("demo", one.question, {"torch": "3", "python": "3"}).address
    assert Cell.from_json(json.loads(json.dumps(one.to_json()))) == one
    with pytest.raises(ValueError, match="something else than its address says"):
        Cell.from_json({**one.to_json(), "question": {"a": 2}})


@pytest.mark.slow
def test_a_campaign_is_answered_once_and_resumed_for_what_is_missing(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "c")
    asked(folder, 5, ["find"])
    outcome = Run(folder, lambda: Serial(folder.path)).go()
    assert outcome.complete
    assert (outcome.asked, outcome.new, outcome.errors) == (5, 5, 0)
    (found,) = [one for one in folder.records() if one["files"]]
    assert (folder.files(found["address"]) / "found.txt").read_text() == "a counterexample"
    missing = folder.cells()[3].address
    (folder.path / "results" / missing[:2] / f"{missing}.json").unlink()
    asked(folder, 7, ["find"])
    assert Run(folder, lambda: Serial(folder.path)).go().new == 3
    assert Run(folder, lambda: pytest.fail("no engine is made where nothing is missing")).go().complete
    assert summary.report(folder)[0].startswith("demo: 7 squares")


def test_a_fault_of_the_harness_is_an_answer_that_can_be_asked_for_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    asked(folder, 3, ["raise"])
    outcome = Run(folder, lambda: Serial(folder.path)).go()
    assert (outcome.complete, outcome.errors) == (True, 1)
    assert "a fault of the harness, 1 times: RuntimeError" in summary.report(folder)[0]
    folder.forgive()
    assert len(folder.answered()) == 2


def test_two_folders_merge_into_their_union(tmp_path: Path) -> None:
    one, two = Folder(tmp_path / "1"), Folder(tmp_path / "2")
    asked(one, 2, ["find"])
    asked(two, 4, ["find", "find"])
    for folder in (one, two):
        Run(folder, lambda folder=folder: Serial(folder.path)).go()
    assert one.merge(two) == (3, 3)
    assert one.merge(two) == (0, 0)
    assert len(one.answered()) == 5
    for record in two.records():
        assert one.record(record["address"]) is not None
        assert all((one.files(record["address"]) / name).is_file() for name in record["files"])
    with pytest.raises(FolderError, match="no manifest and no answers"):
        one.merge(Folder(tmp_path / "nothing"))


@pytest.mark.parametrize("damage", ["", "[]", '{"schema": 99, "cells": []}', '{"schema": 1, "cells": [{}]}'])
def test_a_damaged_manifest_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    (tmp_path / "manifest.json").write_text(damage)
    with pytest.raises(FolderError, match=r"manifest\.json"):
        Folder(tmp_path).cells()


def test_a_damaged_answer_is_refused_by_name(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    address = asked(folder, 1)[0].address
    Run(folder, lambda: Serial(folder.path)).go()
    (folder.path / "results" / address[:2] / f"{address}.json").write_text("{")
    with pytest.raises(FolderError, match="Remove it to ask again"):
        list(folder.records())


def test_no_file_of_an_answer_leaves_its_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "c")
    (cell,) = asked(folder, 1)
    record = work(cell.to_json(), str(tmp_path / "other"))["record"]
    for name in ("../outside", "/outside", ".."):
        with pytest.raises(FolderError, match="below the folder"):
            folder.keep(record, {name: b"x"})
    assert not folder.answered()


def test_a_worker_with_other_versions_answers_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    other = Cell("demo", {"number": 1, "does": "square", "seconds": 0}, {**versions(), "torch": "0.1"})
    folder.ask([other])
    outcome = Run(folder, lambda: Serial(folder.path)).go()
    assert (outcome.stale, outcome.new) == (1, 0)
    with pytest.raises(RuntimeError, match=r"torch .* instead of 0\.1"):
        work(other.to_json(), str(tmp_path))


def test_an_answer_that_cannot_be_kept_by_a_worker_still_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk of one worker is full: the spool's folder cannot be made."""
    folder = Folder(tmp_path / "c")
    (cell,) = asked(folder, 1, ["find"])
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("MHC_PROPERTIES_SPOOL", str(tmp_path / "full"))

    class Far(Serial):
        def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
            done: Future[Answers] = Future()
            done.set_result([work(one.to_json(), None) for one in cells])
            return done

    outcome = Run(folder, lambda: Far(folder.path)).go()
    assert outcome.complete
    assert any(str(tmp_path / "full") in line for line in outcome.troubles)
    assert (folder.files(cell.address) / "found.txt").is_file()


def full_below(monkeypatch: pytest.MonkeyPatch, *roots: Path) -> None:
    """What finds a counterexample below one of these meets a full disk."""

    def find(place: Path) -> None:
        if any(place.is_relative_to(root) for root in roots):
            raise OSError(errno.ENOSPC, "No space left on device", str(place))
        (place / "found.txt").write_text("a counterexample")

    monkeypatch.setitem(demo._DOES, "find", find)


def test_what_finds_no_room_for_its_counterexample_is_answered_beside_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "c")
    (cell,) = asked(folder, 1, ["find"])
    full_below(monkeypatch, folder.path)
    outcome = Run(folder, lambda: Serial(folder.path)).go()
    assert (outcome.complete, outcome.errors) == (True, 0)
    assert any("No space left" in line for line in outcome.troubles)
    assert (folder.files(cell.address) / "found.txt").read_text() == "a counterexample"
    assert folder.left_over() == []


def test_a_worker_without_room_anywhere_says_nothing_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path / "c")
    asked(folder, 2, ["find"])
    with monkeypatch.context() as patched:
        full_below(patched, Path("/"))
        outcome = Run(folder, lambda: Serial(folder.path)).go()
    assert (outcome.errors, outcome.quarantined, outcome.complete) == (0, 0, False)
    assert "No space left on device" in outcome.why
    assert Run(folder, lambda: Serial(folder.path)).go().complete


@pytest.mark.slow
def test_a_counterexample_that_cannot_be_written_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search goes on without its file; an answer without its counterexample would be one of two."""
    from properties.engine.counterexample import Counterexample

    save = Counterexample.save

    def saved(self: Counterexample, path: Path) -> None:
        if path.is_relative_to(tmp_path / "c"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(self, path)

    folder = Folder(tmp_path / "c")
    options = {"impl": ["deviation:one-iteration@PAPER"], "law": ["manifold.other-axis-sums"], "dtype": ["float64"]}
    folder.ask(cells("laws", {}, options))
    with monkeypatch.context() as patched:
        patched.setattr(Counterexample, "save", saved)
        Run(folder, lambda: Serial(folder.path)).go()
    alone = Folder(tmp_path / "alone")
    alone.ask(folder.cells())
    Run(alone, lambda: Serial(alone.path)).go()
    assert same_anywhere(folder) == same_anywhere(alone)
    (found,) = folder.records()
    assert (folder.files(found["address"]) / found["answer"]["counterexample"]).is_file()


def test_what_a_worker_has_kept_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHC_PROPERTIES_SPOOL", str(tmp_path / "spool"))
    (cell,) = cells("demo", {}, {"seeds": 1, "only": ["find"]})
    first, second = work(cell.to_json(), None), work(cell.to_json(), None)
    assert first == second
    assert second["files"] == {"found.txt": b"a counterexample"}


class Failing(Serial):
    """Gives two answers, then fails in the way that is asked for."""

    def __init__(self, folder: Path, error: BaseException) -> None:
        super().__init__(folder)
        self.error, self.left = error, 2

    def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
        self.left -= 1
        if self.left >= 0:
            return super().submit(cells)
        done: Future[Answers] = Future()
        done.set_exception(self.error)
        return done


@pytest.mark.slow
@pytest.mark.parametrize("error", [ConnectionError("reset"), EngineLostError("gone"), OSError(28, "No space left")])
def test_a_fault_of_the_engine_is_no_verdict(tmp_path: Path, error: Exception) -> None:
    folder = Folder(tmp_path)
    asked(folder, 5)
    outcome = Run(folder, lambda: Failing(folder.path, error)).go()
    assert (outcome.new, outcome.errors, outcome.quarantined) == (2, 0, 0)
    assert "the engine is gone" in outcome.why
    assert Run(folder, lambda: Serial(folder.path)).go().complete


def test_a_budget_begins_no_cell_after_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    asked(folder, 50)
    outcome = Run(folder, lambda: Serial(folder.path), budget=0.2).go()
    assert outcome.why == "the budget is spent"
    assert 0 < outcome.new < 50


def test_long_cells_begin_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    numbers = [cell_of("demo", {"number": k, "does": "square", "seconds": 0.01 * (k % 3)}, {}) for k in range(6)]
    folder.ask(numbers)
    begun: list[float] = []

    class Watched(Serial):
        def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
            begun.extend(one.cost for one in cells)
            return super().submit(cells)

    Run(folder, lambda: Watched(folder.path)).go()
    assert begun == sorted(begun, reverse=True)


def test_costs_are_learned_from_answers(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    asked(folder, 2)
    Run(folder, lambda: Serial(folder.path)).go()
    learned = folder.estimate()
    assert 0.05 <= learned["demo"] < 5
    (cell,) = cells("demo", folder.seconds(), {"seeds": 1})
    assert cell.cost == learned["demo"]


@pytest.mark.parametrize("kind", [one for one in KINDS if one not in ("conformance", "identify")])
def test_every_kind_says_what_it_asks_and_what_that_costs(kind: str) -> None:
    questions = kind_of(kind).questions()
    for _, question in zip(range(3), questions, strict=False):
        assert json.loads(json.dumps(question)) == question
        assert kind_of(kind).cost(question) > 0
        assert cell_of(kind, question, {}).address


def test_an_option_that_a_kind_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds take no family"):
        list(cells("seeds", {}, {"family": ["hc"]}))
    with pytest.raises(ValueError, match="no kind 'sedes'"):
        kind_of("sedes")


@pytest.mark.parametrize("name", ["dusk://x", "processes:0", "processes:x", ""])
def test_an_engine_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="engine"):
        engine(name, tmp_path)


def invoke(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["campaign", *words])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "demo", "--engine", "dusk://x"], "expected serial, processes[:N], dask://HOST:PORT or slurm[:N]"),
        (["run", "demo", "--budget", "soon"], "'soon' is no time; expected such as 90, 30m or 2h"),
        (["run", "dmeo"], "there is no kind 'dmeo'"),
        (["run", "explosions", "--family", "nothing"], "family is 'nothing'; expected one of residual"),
        (["run", "explosions", "--family", "target:nowhere.py:X"], "there is no file nowhere.py"),
        (["run", "demo", "--law", "block."], "campaigns of the kind demo take no law; they take only, seeds"),
        (["status"], "there is no campaign; campaign run KIND --out "),
        (["resume"], "there is no campaign"),
        (["report"], "there is no campaign"),
        (["simulate"], "there is no campaign"),
    ],
)
def test_a_mistake_is_told_and_leaves_nothing_behind(tmp_path: Path, words: list[str], hint: str) -> None:
    found = invoke(*words, "--out", str(tmp_path / "c"))
    assert found.exit_code == 2
    assert hint in found.output
    assert "Traceback" not in found.output
    assert not (tmp_path / "c").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("")
    found = invoke("run", "demo", "--out", str(tmp_path / "c"))
    assert found.exit_code == 2
    assert "is a file; expected the folder of a campaign" in found.output


def test_a_folder_that_has_other_cells_says_so(tmp_path: Path) -> None:
    out = ["--engine", "serial", "--budget", "0.000001", "--out", str(tmp_path / "c")]
    assert "new: " in invoke("run", "demo", "--seeds", "2", *out).output
    found = invoke("run", "seeds", "--seeds", "1", "--only", "tiled", "--law", "mixing.", *out)
    assert "3 cells, 1 of them new: " in found.output
    assert "(it has 2 of demo, too)" in found.output


@pytest.mark.slow
@pytest.mark.parametrize("place", ["results", "seconds.json"])
def test_a_full_disk_ends_the_campaign_which_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The disk of the campaign itself: what stands there stays, and nothing of it is a mistake of who asked."""
    from properties.campaign import folder as folders

    write, left = folders.write_whole, [3]

    def full(path: Path, data: bytes) -> None:
        if place in str(path):
            left[0] -= place == "results"
            if left[0] < 0 or place != "results":
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    out = ["--engine", "serial", "--out", str(tmp_path / "c")]
    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_whole", full)
        found = invoke("run", "demo", "--seeds", "5", "--only", "find", *out)
    assert found.exit_code == 3, found.output
    assert "No space left on device" in found.output
    assert ("3 of 5 cells are answered" if place == "results" else "5 of 5 cells are answered") in found.output
    again = invoke("resume", *out)
    assert again.exit_code == 0, again.output
    assert "5 of 5 cells are answered" in again.output


@pytest.mark.slow
def test_simulated_makespans_are_between_the_ideal_and_grahams_bound(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    asked(folder, 12)
    Run(folder, lambda: Serial(folder.path)).go()
    found = summary.simulated(folder)
    for workers, one in found.items():
        assert one["ideal"] <= one["makespan"] <= 4 / 3 * one["ideal"] + 2 * 12 * summary.OVERHEAD, workers
    assert found[1]["makespan"] > 1.8 * found[2]["makespan"]


@pytest.mark.slow
def test_a_law_that_fails_leaves_a_counterexample_that_replays(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "c")
    options = {"impl": ["deviation:one-iteration@PAPER"], "law": ["manifold.other-axis-sums"], "dtype": ["float64"]}
    folder.ask(cells("laws", {}, options))
    Run(folder, lambda: Serial(folder.path)).go()
    failed = [one for one in folder.records() if one["answer"]["status"] == "failed"]
    assert failed
    text, wrong = summary.report(folder)
    assert wrong
    assert "mhc-properties replay" in text
    for one in failed:
        assert (folder.files(one["address"]) / one["answer"]["counterexample"]).is_file()


@pytest.mark.slow
def test_a_target_is_asked_on_a_device_with_fewer_shapes_than_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a kernel that is compiled for each of them."""
    from properties.engine import runner

    met: list[Any] = []
    examine = runner.examine

    def watched(law: Any, subject: Any, profile: Any, **more: Any) -> Any:
        met.append((subject.implementation.streams, subject.implementation.channel_multiple, subject.device, profile))
        return examine(law, subject, profile, **more)

    monkeypatch.setattr(runner, "examine", watched)
    question = {"target": "deviation:one-iteration@PAPER", "law": "manifold.other-axis-sums", "dtype": "float64"}
    question |= {"seed": 0, "profile": "ci", "examples": 3, "shrink": False, "device": "cpu", "seconds": 2.0}
    question |= {"narrowed": {"streams": [4], "channel_multiple": 128}}
    folder = Folder(tmp_path)
    folder.ask([cell_of("laws", question, {})])
    Run(folder, lambda: Serial(folder.path)).go()
    (found,) = folder.records()
    assert found["answer"]["status"] == "failed"
    ((streams, multiple, device, profile),) = met
    assert (streams, multiple, str(device)) == ((4,), 128, "cpu")
    assert (profile.examples, profile.shrink, profile.seconds) == (3, False, 2.0)


def test_a_device_that_does_not_answer_accuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access every call of that process fails: its cells are left for another one."""
    from properties.core.device import Device

    folder = Folder(tmp_path)
    folder.ask(cells("laws", {}, {"impl": ["ref:PAPER"], "law": ["manifold.entries"], "dtype": ["float64"]}))

    def broken(self: Device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patched:
        patched.setattr(Device, "synchronise", broken)
        outcome = Run(folder, lambda: Serial(folder.path)).go()
    assert (outcome.answered, outcome.errors) == (0, 0)
    assert "an illegal memory access was encountered" in outcome.why
    assert folder.left_over() == []
    assert Processes(folder.path, 1).deaths(DeviceLostError("")) == 1
    assert Run(folder, lambda: Serial(folder.path)).go().complete


class Stuck(Serial):
    """Never ends the cell that hangs; whoever is stopped gives a broken process instead of an answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stopped = 0

    def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
        return super().submit(cells) if cells[0].question["does"] != "hang" else Future()

    def stop(self, future: Future[Answers]) -> None:
        self.stopped += 1


@pytest.mark.slow
def test_a_cell_that_does_not_end_is_stopped_three_times_and_put_aside(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    hanging = asked(folder, 4, ["hang"])[0].address
    made = Stuck(folder.path)
    outcome = Run(folder, lambda: made, deadline=0.01, start=0.01).go()
    assert (outcome.answered, outcome.quarantined, made.stopped) == (3, 1, 3)
    assert folder.deaths(hanging) == ["it did not end within 0.01 s"] * 3


def test_an_explosion_is_kept_as_a_file_that_replays(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    question = {"family": "residual", "threshold": "2", "branch_bound": "0.5", "seed": 0, "budget": 60.0}
    folder.ask([cell_of("explosions", question, {}), cell_of("atlas", ATLAS, {})])
    assert Run(folder, lambda: Serial(folder.path)).go().errors == 0
    (found,) = [one for one in folder.records() if one["kind"] == "explosions"]
    assert found["answer"]["depth"] == 2
    assert (folder.files(found["address"]) / "explosion.safetensors").is_file()
    text, wrong = summary.report(folder)
    assert not wrong
    assert "1 of 1 searches found the depth of the closed form" in text


def test_an_explosion_of_a_file_is_another_question_when_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = "from mhc_ref import PAPER\nfrom properties.core.implementation import Reference\nMine = Reference(PAPER)\n"
    file.write_text(text)
    (first,) = kind_of("explosions").questions(family=[f"target:{file}:Mine"])
    file.write_text(text + "# changed\n")
    (second,) = kind_of("explosions").questions(family=[f"target:{file}:Mine"])
    assert cell_of("explosions", first, {}).address != cell_of("explosions", second, {}).address
    with pytest.raises(ValueError, match="the file is another one"):
        kind_of("explosions").answer(first, tmp_path)


ATLAS = {"family": "residual", "streams": 1, "deviation": "1/2", "threshold": "10", "seed": 0, "budget": 60.0}


def test_a_row_of_the_kill_matrix_and_a_control_are_answered(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    options = {"only": ["deviation:one-iteration"], "law": ["manifold.other-axis-sums"], "examples": 4}
    folder.ask(cells("kill", {}, options))
    folder.ask(cells("seeds", {}, {"seeds": 1, "only": ["tiled"], "law": ["mixing."]}))
    outcome = Run(folder, lambda: Serial(folder.path)).go()
    assert (outcome.new, outcome.errors) == (2, 0)
    text, wrong = summary.report(folder)
    assert "to look at: none" in text
    assert "0 accusations or errors" in text
    assert not wrong
    assert (tmp_path / "kill.json").is_file()


# With processes that die


@pytest.mark.slow
def test_processes_answer_as_one_process_does_and_put_aside_what_kills_them(tmp_path: Path) -> None:
    pytest.importorskip("loky", reason="the engine's own package")
    one, two = Folder(tmp_path / "1"), Folder(tmp_path / "2")
    asked(one, 12, ["segfault", "find"])
    asked(two, 12, ["segfault", "find"])
    outcome = Run(one, lambda: engine("processes:2", one.path)).go()
    assert (outcome.answered, outcome.quarantined) == (11, 1)
    assert [path.name for path in one.left_over()] == ["before-the-end.txt"] * 3
    harmless = [cell for cell in two.cells() if cell.question["does"] != "segfault"]
    alone = Folder(tmp_path / "alone")
    alone.ask(harmless)
    Run(alone, lambda: Serial(alone.path)).go()
    assert same_anywhere(one) == same_anywhere(alone)
    assert not Run(one, lambda: pytest.fail("what is put aside is asked no more")).go().new


@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("loky", reason="the engine's own package")
    folder = Folder(tmp_path / "c")
    folder.ask(
        cell_of("demo", {"number": k, "does": "square" if k % 10 else "find", "seconds": 0.05}, {}) for k in range(60)
    )
    killed: list[int] = []

    def say(line: str) -> None:
        if line.startswith("20 of") and not killed:
            child = next(
                one for one in psutil.Process().children(recursive=True) if "popen_loky" in " ".join(one.cmdline())
            )
            child.kill()
            killed.append(child.pid)

    outcome = Run(folder, lambda: engine("processes:2", folder.path), say=say).go()
    assert killed
    assert (outcome.complete, outcome.errors, outcome.quarantined, outcome.why) == (True, 0, 0, "")
    alone = Folder(tmp_path / "alone")
    alone.ask(folder.cells())
    Run(alone, lambda: Serial(alone.path)).go()
    assert same_anywhere(folder) == same_anywhere(alone)


@pytest.mark.slow
def test_a_hog_is_ended_three_times_and_the_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("loky", reason="the engine's own package")
    folder = Folder(tmp_path / "c")
    folder.ask([cell_of("demo", {"number": k, "does": "square", "seconds": 0.01}, {}) for k in range(8)])
    (hog,) = [cell_of("demo", {"number": 8, "does": "hang", "seconds": 0.0}, {})]  # the last to begin
    folder.ask([hog])
    hours_pass_where(monkeypatch, lambda: {one.name for one in folder.path.glob(f"begun/{hog.address}.*")})
    outcome = Run(folder, lambda: engine("processes:2", folder.path)).go()
    assert (outcome.answered, outcome.quarantined, outcome.why) == (8, 1, "")
    assert folder.deaths(hog.address) == ["it did not end within 3600 s"] * 3


def hours_pass_where(monkeypatch: pytest.MonkeyPatch, begun: Callable[[], set[str]]) -> None:
    """The clock of a run goes two hours on whenever something has begun that had not."""
    seen: set[str] = set()

    class Clock:
        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic() -> float:
            seen.update(begun())
            return time.monotonic() + 7200 * len(seen)

    monkeypatch.setattr(running, "time", Clock)


@pytest.mark.slow
def test_a_process_that_does_not_end_is_ended(tmp_path: Path) -> None:
    pytest.importorskip("loky", reason="the engine's own package")
    made = engine("processes:1", tmp_path)
    (cell,) = cells("demo", {}, {"seeds": 1, "only": ["hang"]})
    future = made.submit([cell])
    while not (tmp_path / "begun").exists():
        wait([future], timeout=0.05)
    assert made.room == 0
    made.stop(future)
    assert future.exception(timeout=60) is not None
    assert made.room == 1
    (answer,) = made.submit(asked(Folder(tmp_path / "other"), 1)).result(timeout=120)
    assert answer["record"]["answer"] == {"square": 0}
    made.close()


@pytest.mark.slow
def test_jobs_of_submitit_answer_several_cells_each(tmp_path: Path) -> None:
    """On this machine, where submitit starts a job as a process; a real Slurm differs by `sbatch` alone."""
    pytest.importorskip("submitit", reason="the engine's own package")
    folder = Folder(tmp_path)
    asked(folder, 10, ["find", "raise"])
    outcome = Run(folder, lambda: engine("slurm-local:1", folder.path)).go()
    assert (outcome.complete, outcome.errors) == (True, 1)
    assert len({path.name.partition("_")[0] for path in (tmp_path / "jobs").glob("*_submitted.pkl")}) == 1


SCRIPT = """
import sys
from pathlib import Path
from properties.campaign.engines import engine
from properties.campaign.folder import Folder
from properties.campaign.running import Run

if __name__ == "__main__":
    folder = Folder(sys.argv[1])
    run = Run(folder, lambda: engine("processes:2", folder.path), say=lambda line: print(line, flush=True))
    print(run.go(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_campaign_whose_process_is_ended_is_resumed(tmp_path: Path, number: signal.Signals) -> None:
    folder = Folder(tmp_path / "c")
    folder.ask(
        cell_of("demo", {"number": k, "does": "find" if k % 5 else "square", "seconds": 0.2}, {}) for k in range(40)
    )
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        for _, line in zip(range(4), process.stdout, strict=False):
            assert "cells" in line
        process.send_signal(number)
        process.stdout.read()
    before = {one["address"]: one for one in folder.records()}
    assert 0 < len(before) < 40
    outcome = Run(folder, lambda: engine("processes:2", folder.path)).go()
    assert outcome.complete
    after = {one["address"]: one for one in folder.records()}
    assert all(after[address] == one for address, one in before.items())
    for one in after.values():
        assert all((folder.files(one["address"]) / name).is_file() for name in one["files"])
