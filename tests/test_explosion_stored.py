"""Explosion files of the release before questions were classes: every question in them holds the options of all."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from properties.explosion import FORMAT, ExplosionFileError, find_minimal, load, replay, save
from properties.explosion.command import explode_command
from properties.explosion.configurations import matrices, tensor
from properties.explosion.questions.families import FAMILIES, OPTIONS, ask, stored, written
from properties.guards import sealed

STORED: dict[str, Any] = json.loads((Path(__file__).parent / "stored" / "explosions.json").read_text())


def kept(name: str, path: Path, **changed: Any) -> Path:
    """A file as it was written then, its request changed as given."""
    one = STORED[name]
    header = {**one["header"], "request": {**one["header"]["request"], **changed}}
    searched = "logits" if "logits" in header else "operators"
    tensors = {searched: tensor(matrices(header[searched], searched))}
    if "operators" in one:
        tensors["operators"] = torch.tensor(one["operators"], dtype=torch.float64)
    sealed.write(path, {"format": FORMAT, "explosion": json.dumps(header)}, tensors)
    return path


@pytest.mark.parametrize("name", STORED)
def test_a_file_of_then_replays_and_is_what_it_was(name: str, tmp_path: Path) -> None:
    path = kept(name, tmp_path / "x.safetensors")
    again, answer = replay(path), STORED[name]["header"]["answer"]
    assert again.verdict == "FAILED"
    if name == "target":  # it computes its matrices, in float64: the last bits of an exponential are the machine's
        assert float(again.exact_value or 0) == pytest.approx(float(STORED[name]["exact"]), rel=2**-50)
    else:
        assert again.exact_value == STORED[name]["exact"]
    for key in ("found", "depth", "streams", "width", "entries", "minimality", "proof", "impossible"):
        assert getattr(again.explosion, key) == answer[key]
    assert load(save(again.explosion, tmp_path / "y.safetensors").file or "").request == again.explosion.request


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("residual", {"entry_bound": {"exact": "2"}}, "residual bounds no entries of its mixing"),
        ("mhc", {"branch_bound": {"exact": "2"}}, "mhc has no branch here"),
        ("mhc", {"colour": "red"}, "request has 'colour'"),
        ("mhc", {"family": "tower"}, "family is 'tower'; expected one of residual, hc, mhc, block, target"),
        ("hc-vanish", {"dynamic": True}, "hc:dynamic"),
        ("block", {"family": "residual"}, "it holds block and operators, and is about residual"),
    ],
)
def test_a_file_that_mixes_families_is_refused(name: str, changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ExplosionFileError) as refused:
        load(kept(name, tmp_path / "x.safetensors", **changed))
    assert said in str(refused.value)


def test_a_file_whose_answer_is_not_what_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save(find_minimal("residual", 3), path)
    whole = sealed.read(path)
    for key, value in (("entries", 5), ("width", 2), ("depth", 7), ("impossible", True), ("stopped", "bored")):
        header = json.loads(whole.metadata["explosion"])
        header["answer"][key] = value
        sealed.write(path, {**whole.metadata, "explosion": json.dumps(header)}, whole.tensors)
        with pytest.raises(ExplosionFileError, match="its header is damaged"):
            load(path)


QUESTIONS = [
    ask("residual", 2, branch_bound="0.1", max_streams=1),
    ask("hc", 2, entry_bound="1.25", gain="spectral", max_streams=3),
    ask("hc:dynamic", 2, identity_bound="0.5"),
    ask("mhc", "1.5", gain="backward", dialect="LIGER", iterations=3, dtype="bfloat16", seed=4),
    ask("block:gated:pre", 2, dialect="DEEPSEEK_V4", max_width=4, budget=5),
    ask("target:mine.py:plain", 2, dialect="LIGER", dtype="float32"),
    ask("model:mine.py:build", None, blocks="layers.*", input="ids:7", input_bound="0.5", seeds=3, dtype="float32"),
    ask("train:mhc:LIGER", 2, gain="gradient", iterations=3, norm="post", qk_norm=True, clip=0.5, max_tokens=32),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda one: one.name)
def test_a_question_survives_its_file_and_names_its_own_options_only(question: Any) -> None:
    form = json.loads(json.dumps(written(question)))
    assert stored(form) == question
    assert set(form) <= {"family", "dynamic", "threshold", *type(question).options()}


def test_every_family_is_a_class_of_questions_and_every_option_is_one_of_them():
    assert {type(question) for question in QUESTIONS} == set(FAMILIES)
    assert set(OPTIONS) == {name for one in FAMILIES for name, option in one.options().items() if option.help}


def test_the_command_takes_the_options_of_the_questions_and_no_list_of_its_own():
    taken = inspect.signature(explode_command).parameters
    assert set(taken) == {"family", "threshold", "as_json", "plot", "save_to", "minimise", "vary", *OPTIONS}
    assert all(taken[name].default is None for name in OPTIONS)


@pytest.mark.parametrize("family", ["residual", "hc", "hc:dynamic", "mhc", "block", "target:ref"])
def test_an_option_that_a_family_does_not_have_is_refused_by_name(family: str) -> None:
    owner = next(one for one in FAMILIES if one.parsed(family) is not None)
    values: dict[str, Any] = {"dialect": "PAPER", "iterations": 3, "max_width": 2, "input": "ids:7"}
    some: dict[type, Any] = {int: 3, float: 0.5, bool: True}
    for name in set(OPTIONS) - set(owner.options()):
        option = OPTIONS[name]
        with pytest.raises(ValueError, match=f"{name} is given, and has no effect: .*; it is an option of "):
            ask(family, 2, **{name: values.get(name, option.default or some.get(option.kind, "0.5"))})
    with pytest.raises(TypeError, match="there is no option 'depth'"):
        ask(family, 2, depth=3)
