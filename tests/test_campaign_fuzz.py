"""Fuzzing as a campaign: rounds go where something new appears, and what one finds the others begin with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis.database import choices_from_bytes
from typer.testing import CliRunner

from properties import cli
from properties.campaign import summary
from properties.campaign.cells import Cell, Question
from properties.campaign.engines import Answers, Serial
from properties.campaign.folder import Folder
from properties.campaign.kinds import cells, kind_of
from properties.campaign.running import Run
from properties.campaign.work import work
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.engine.runner import examine
from properties.engine.sharing import Drawn
from properties.engine.subject import Profile, Subject

FUZZ = kind_of("fuzz")
LAW = "manifold.other-axis-sums"
NEWS = {"status": "passed", "behaviour": ["mix at -2"], "new": ["mix at -2"]}
SHOWN = {"streams": [2, 4], "choices": "x"}


def first(*targets: str, law: str = LAW) -> list[Question]:
    return list(FUZZ.questions(impl=list(targets), law=[law], dtype=["float64"]))


def test_it_goes_on_where_something_new_appears() -> None:
    (begun,) = first("ref:PAPER")
    one, two = FUZZ.follow(begun, {**NEWS, "showing": {"mix at -2": SHOWN}}, [begun])
    assert one["seed"] != two["seed"]
    assert (one["seen"], one["given"]) == (["mix at -2"], [SHOWN])
    quiet = {**NEWS, "new": [], "showing": {}}
    (larger,) = FUZZ.follow(one, quiet, [begun])
    assert larger["examples"] == 2 * one["examples"]
    assert larger["given"] == [SHOWN]
    (last,) = FUZZ.follow(larger, quiet, [begun])
    assert FUZZ.follow(last, quiet, [begun]) == []
    assert FUZZ.follow(begun, {**quiet, "status": "failed"}, [begun]) == []


def test_what_is_found_is_put_to_the_other_targets_of_that_law() -> None:
    asked = first("ref:PAPER", "ref:DEEPSEEK_V4", "ref:LIGER") + first("ref:LIGER", law="manifold.entries")
    failed = {**NEWS, "status": "failed", "showing": {"failed": SHOWN, "failed at first": SHOWN}}
    found = FUZZ.follow(asked[0], failed, asked)
    assert [one["target"] for one in found] == ["ref:DEEPSEEK_V4", "ref:LIGER"]
    assert all((one["law"], one["examples"], one["given"]) == (LAW, 0, [SHOWN]) for one in found)
    assert all(map(FUZZ.urgent, found))
    assert not any(FUZZ.follow(one, failed, [*asked, *found]) for one in found), "it comes to an end"
    # First rounds draw alike for all targets: what a later one shows is news to others.
    news = {**NEWS, "showing": {"mix at -2": SHOWN}}
    assert not any(map(FUZZ.urgent, FUZZ.follow(asked[0], news, asked)))
    later = FUZZ.follow({**asked[0], "round": 1}, news, [*asked, *found])
    assert [one["target"] for one in later if FUZZ.urgent(one)] == ["ref:DEEPSEEK_V4", "ref:LIGER"]


def drawn(seed: int, shared: Sequence[Drawn], examples: int, folder: Path) -> tuple[list[tuple[Any, float]], Any]:
    """What the reference was asked to project in one search, and its verdict."""
    met: list[tuple[Any, float]] = []

    class Watched(Reference):
        def project(self, logits: torch.Tensor) -> torch.Tensor:
            met.append((tuple(logits.shape), float(logits.abs().max())))
            return super().project(logits)

    subject = Subject("ref:PAPER", Watched(Reference().dialect), torch.float64, torch.device("cpu"))
    profile = Profile(examples, sizes=2, derandomise=True, shared=tuple(shared))
    return met, examine(all_laws()[LAW], subject, profile, directory=folder, randomness=seed)


@pytest.mark.slow
def test_an_example_of_another_search_is_the_same_input(tmp_path: Path) -> None:
    met, found = drawn(0, (), 16, tmp_path)
    assert found.status == "passed"
    assert len(found.showing) > 3
    again, other = drawn(7, tuple(found.showing.values()), 0, tmp_path)
    assert set(again) < set(met)
    assert found.nearness.keys() == other.nearness.keys()
    assert other.showing.keys() == found.showing.keys()
    assert drawn(7, tuple(found.showing.values()), 0, tmp_path)[0] == again
    one = max(found.showing.values(), key=lambda example: len(example.choices))
    near = one.neighbour(3)
    assert near == one.neighbour(3) != one.neighbour(4)
    whole, kept = choices_from_bytes(one.chosen), choices_from_bytes(near.chosen)
    assert whole is not None
    assert kept == whole[: len(kept or ())]
    assert Drawn.from_json(one.to_json()) == one


def test_streams_that_are_not_accepted_are_left_out(tmp_path: Path) -> None:
    strange = Drawn((7,), drawn(0, (), 3, tmp_path)[1].showing.popitem()[1].choices)
    met, verdict = drawn(0, [strange], 0, tmp_path)
    assert not met
    assert (verdict.status, verdict.examples) == ("not-applicable", 0)
    assert "none of the examples that were given" in verdict.reason


RARE = """
from mhc_ref import PAPER
from properties.core.implementation import Reference

class Rare(Reference):
    name = "rare"
    def __init__(self):
        super().__init__(PAPER)
    def project(self, logits):
        out = super().project(logits)
        # Wrong at one input in a great many.
        return out * 1.5 if float(logits.abs().max()) == {0!r} else out

class Alike(Rare):
    name = "alike"
    def project(self, logits):
        out = super().project(logits)
        return out + 0 * logits.detach().clamp(-1, 1)
"""


@pytest.mark.slow
def test_a_rare_fault_that_one_round_finds_is_found_at_once_in_another_implementation(tmp_path: Path) -> None:
    known = {largest for _, largest in drawn(0, (), 16, tmp_path)[0]}
    rare = next(largest for _, largest in drawn(1, (), 16, tmp_path)[0][4:] if largest not in known)
    file = tmp_path / "rare.py"
    file.write_text(RARE.format(rare))
    folder = Folder(tmp_path / "c")
    targets = [f"{file}:Rare", f"{file}:Alike"]
    options = {"impl": targets, "law": [LAW], "dtype": ["float64"]}
    folder.ask(cells("fuzz", {}, options))
    submitted: list[Cell] = []

    class Watched(Serial):
        def submit(self, cells: Sequence[Cell]) -> Future[Answers]:
            submitted.extend(cells)
            return super().submit(cells)

    def say(line: str) -> None:
        if not submitted[-1].question["examples"]:
            raise KeyboardInterrupt

    assert Run(folder, lambda: Watched(folder.path), say=say).go().why == "stopped"
    records = {one["address"]: one for one in folder.records()}
    asked, answers = [one.question for one in submitted], [records[one.address]["answer"] for one in submitted]
    assert [one["status"] for one in answers[:2]] == ["passed", "passed"], "the first rounds do not meet it"
    at = next(k for k, one in enumerate(answers) if one["status"] == "failed")
    assert asked[at]["examples"]
    # What is asked next is the other one, at these inputs, of which the first fails.
    assert asked[at + 1]["target"] == targets[targets[0] == asked[at]["target"]]
    assert (asked[at + 1]["examples"], answers[at + 1]["status"]) == (0, "failed")
    assert answers[at + 1]["showing"]["failed"] in asked[at + 1]["given"]
    text, wrong = summary.report(folder)
    assert wrong
    assert "of them at what other targets had shown" in text
    # The same again, as a worker somewhere else says it.
    once = work(submitted[at + 1].to_json(), str(tmp_path / "elsewhere" / "deeper"))["record"]
    assert {**once, "run": 0} == {**records[submitted[at + 1].address], "run": 0}
    told = [line.strip() for line in text.splitlines() if "mhc-properties replay" in line]
    assert len(told) == 2
    for command in told:
        replayed = CliRunner().invoke(cli.app, shlex.split(command)[1:])
        assert replayed.exit_code == 1, replayed.output


@pytest.mark.slow
def test_what_follows_is_asked_and_kept_in_the_manifest(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    options = {"impl": ["ref:PAPER"], "law": ["manifold.entries"], "dtype": ["float64"], "examples": 1}
    folder.ask(cells("fuzz", {}, options))
    before = len(folder.cells())
    assert before
    Run(folder, lambda: Serial(folder.path), budget=1e-9).go()
    outcome = Run(folder, lambda: Serial(folder.path), budget=20).go()
    assert outcome.asked > before
    assert {one.address for one in folder.cells()} >= folder.answered()


@pytest.mark.parametrize("answer", [NEWS, {**NEWS, "status": "failed"}])
def test_answers_of_an_earlier_release_are_followed_too(answer: dict[str, Any]) -> None:
    """They have no examples for others."""
    (begun,) = first("ref:PAPER")
    del begun["given"]
    assert all(one["given"] == [] for one in FUZZ.follow(begun, answer, [begun]))
