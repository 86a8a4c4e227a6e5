"""`explode train:KIND`: the minimal exploding run on a lattice, its controls and fresh seeds, and its file."""

import dataclasses
import json
from fractions import Fraction
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from properties import cli
from properties.explosion import ExplosionFileError, draw, find_minimal, load, replay, save
from properties.explosion.questions.families import ask
from properties.explosion.training.data import tokens
from properties.explosion.training.decoder import forward
from properties.explosion.training.initialisations import initial
from properties.explosion.training.module import Decoder
from properties.explosion.training.residuals import residual_of
from properties.explosion.training.scan import Lattice, admissible, crossing, rates
from properties.explosion.training.setup import Setup

TINY: dict[str, Any] = {"steps": 25, "seeds": 2, "max_depth": 2, "max_streams": 3, "max_width": 8, "max_tokens": 32}


@pytest.fixture(scope="module")
def found():
    return find_minimal("train:hc", "1.2", **TINY)


@pytest.mark.slow
def test_a_run_that_explodes_is_found_with_its_controls_and_fresh_seeds(found):
    assert (found.found, found.minimality, found.stopped) == (True, "searched", "")
    answer = found.to_json()
    assert answer["family"] == "train:hc"
    assert answer["depth"] == 1  # sub-layers
    assert 1 <= answer["step"] <= 25
    assert answer["value"] >= 1.2
    assert answer["seeds"] == [0, 1]
    assert answer["fresh"]["seeds"] == 20
    assert answer["fresh"]["crossed"] >= 10
    assert set(answer["controls"]) == {"plain", "mhc"}
    for control in answer["controls"].values():
        assert control["gains"] == pytest.approx([1.0, 1.0])
    assert answer["controls"]["plain"]["loss"] < 4
    text = found.to_text()
    for words in ("of 20 fresh seeds", "plain", "mhc", "learning rate", "The lattice: sub-layers 1, 2; streams 2, 3"):
        assert words in text


@pytest.mark.slow
def test_every_smaller_size_of_the_lattice_was_tried(found):
    """By hand: at every size before it no admissible rate crosses for both seeds."""
    asked, at = found.request, found.configuration
    before = []
    for size in asked.lattice().sizes(asked.setup()):
        if (size.depth, size.streams, size.width, size.tokens) == (at.depth, at.streams, at.width, at.tokens):
            break
        before.append(size)
    assert before
    for size in before:
        allowed = admissible(size, [0, 1], lambda: None)
        assert crossing(size, "forward", 1.2, allowed, [0, 1], lambda: None) is None


@pytest.mark.slow
def test_what_is_found_crosses_first_at_its_step(found):
    gains = found.request.again(found.configuration).gains
    assert (gains[-1] >= 1.2).all()
    assert not (gains[-2] >= 1.2).all()


def test_the_lattice_is_in_lexicographic_order():
    asked = ask("train:hc", 10)
    sizes = [(s.depth, s.streams, s.width, s.tokens) for s in asked.lattice().sizes(asked.setup())]
    assert sizes == sorted(sizes)
    assert len(sizes) == len(set(sizes)) == 6 * 3 * 2 * 2
    assert len(rates(asked.setup())) == 13
    plain = ask("train:plain", 10, gain="logit")
    assert {size.streams for size in plain.lattice().sizes(plain.setup())} == {1}


@pytest.mark.slow
def test_a_run_is_drawn_along_its_steps(found, tmp_path):
    pytest.importorskip("matplotlib")
    draw(found, tmp_path / "run.svg")
    assert (tmp_path / "run.svg").stat().st_size > 5000
    assert found.request.along == "steps"
    assert len(found.request.curve(found.configuration)) == found.configuration.step


@pytest.mark.slow
def test_a_saved_run_replays(found, tmp_path):
    path = tmp_path / "run.safetensors"
    assert save(found, path).file == str(path)
    assert load(path).configuration == found.configuration
    again = replay(path)
    assert again.verdict == "FAILED"
    assert again.explosion.to_json()["rate"] == found.configuration.rate


def test_a_run_that_no_longer_reaches_its_threshold_is_fixed(found, tmp_path):
    """As after a change to what trains: here the file asks for more than the run gives."""
    higher = dataclasses.replace(found, request=dataclasses.replace(found.request, threshold=Fraction(50)))
    save(higher, tmp_path / "run.safetensors")
    assert replay(tmp_path / "run.safetensors").verdict == "FIXED"


def test_a_damaged_run_is_an_error(found, tmp_path):
    asked, run = found.request, found.configuration
    for changed in ({"tokens": 31}, {"rate": -1.0}, {"streams": 65}, {"step": 26}, {"seeds": ()}):
        broken = dataclasses.replace(run, **changed)
        forged = dataclasses.replace(found, configuration=broken)
        path = tmp_path / "run.safetensors"
        try:
            save(forged, path)
        except (RuntimeError, ValueError):  # it cannot even be written
            continue
        with pytest.raises(ExplosionFileError):
            load(path)
    assert asked.tensors(run)["data"].dtype == torch.uint8


@pytest.mark.parametrize("gain", ["forward", "backward", "signed"])
@pytest.mark.parametrize(
    "kind", ["plain", "mhc", "mhc-lite", "mhc:DEEPSEEK_V4", "mhc:LIGER", "kromhc", "cayley", "ihc"]
)
def test_what_has_a_cap_is_answered_by_its_proof(kind, gain):
    answer = find_minimal(f"train:{kind}", "4.01", gain=gain, seeds=1)
    assert answer.impossible, answer.proof
    assert answer.proof.startswith("None on this lattice, and none at any rate")
    assert answer.seconds < 60
    assert {answer.to_json()[name] for name in ("rate", "step", "fresh", "controls")} == {None}


def test_the_proof_is_of_the_iterations_that_are_asked_about():
    """One iteration keeps rows at 1 and columns below n; none at all leaves exp(Z), which has no cap."""
    assert find_minimal("train:mhc", "4.01", gain="backward", iterations=1).impossible
    bare = ask("train:mhc", "4.01", gain="backward", iterations=0)
    assert bare.impossible() is None


@pytest.mark.parametrize("gain", ["gradient", "logit"])
def test_gradients_and_attention_logits_of_constrained_mixing_are_searched(gain):
    asked = ask("train:mhc-lite", "1e6", gain=gain, **{**TINY, "max_streams": 2, "steps": 12})
    assert asked.impossible() is None


def test_below_its_cap_constrained_mixing_is_searched():
    assert ask("train:mhc", "3.9", gain="backward").impossible() is None
    assert ask("train:hc", "1e9").impossible() is None


def test_none_on_a_lattice_is_no_proof():
    tiny: dict[str, Any] = {**TINY, "seeds": 1, "max_depth": 1, "max_streams": 2, "steps": 12}
    answer = find_minimal("train:hc", "1e6", **tiny)
    assert not answer.found
    assert not answer.impossible
    assert answer.proof.startswith("None on this lattice crosses")
    assert "not found\n" in answer.to_text()


@pytest.mark.slow
def test_equal_questions_have_equal_answers(found):
    assert find_minimal("train:hc", "1.2", **TINY).configuration == found.configuration


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--threshold", "2"], "expected train:KIND"),
        (["train:what", "--threshold", "2"], "expected plain, hc"),
        (["train:hc", "--threshold", "1"], "expected more than 1"),
        (["train:hc", "--threshold", "2", "--gain", "spectral"], "expected one of forward, backward, signed, gradient"),
        (["train:hc", "--threshold", "2", "--norm", "layer"], "expected one of pre, post, sandwich, none"),
        (["train:hc", "--threshold", "2", "--dtype", "float32"], "expected one of float64"),
        (["train:hc", "--threshold", "2", "--direction", "vanish"], "expected one of explode"),
        (["train:hc", "--threshold", "2", "--iterations", "3"], "has no effect"),
        (["train:plain", "--threshold", "2", "--iterations", "3"], "has no effect: plain has no projection"),
        (["train:hc", "--threshold", "2", "--heads", "3", "--max-width", "8"], "no widths are left"),
        (["train:hc", "--threshold", "2", "--max-streams", "1"], "no streams are left"),
        (["train:hc", "--threshold", "2", "--entry-bound", "1"], "entry_bound is given, and has no effect"),
        (["block", "--threshold", "2", "--norm", "post"], "has its norm in its name"),
        (["mhc", "--threshold", "2", "--steps", "5"], "mhc trains nothing; it is an option of train"),
    ],
)
def test_a_bad_question_is_refused_in_a_sentence(arguments, message):
    done = CliRunner().invoke(cli.app, ["explode", *arguments, "--json"])
    assert done.exit_code == 2
    assert message in json.loads(done.stdout.splitlines()[-1])["error"]


def test_a_lattice_has_the_streams_that_a_mixing_takes():
    asked = ask("train:kromhc", "100", gain="gradient", max_streams=8)
    assert asked.lattice() == Lattice((1, 2, 3, 4, 5, 6), (2, 3, 4, 5, 6, 8), (8, 16), (32, 64))


@pytest.mark.slow
@pytest.mark.parametrize("residual", ["plain", "hc", "mhc:DEEPSEEK_V4", "mhc:DEEPSEEK_V4_1"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_decoder_as_a_module_computes_the_same_numbers(residual, norm):
    joined = residual_of(residual)
    setup = Setup(joined, depth=3, streams=1 if joined.dialect is None else 3, norm=norm, steps=1, tokens=9)
    data = tokens(setup, 0)[0]
    module = Decoder(setup, 0, torch.float64)
    assert torch.equal(module(data), forward(setup, initial(setup, 0), data).loss)
    assert sum(one.numel() for one in module.parameters()) == len(initial(setup, 0))
