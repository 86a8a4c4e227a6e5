"""Closed-form minima are hit exactly, answers survive files, and bad questions are refused."""

import itertools
import json
import math
import re
import subprocess
import sys
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import properties.explosion.searches.bounded as search_module
from mhc_ref.gain import gains
from properties import cli
from properties.explosion import ExplosionFileError, find_minimal, load, replay, save
from properties.explosion.composite import composite, definiteness, exact_gain, reaches
from properties.explosion.configurations import Dynamic
from properties.explosion.proofs.closed_form import smallest_exponent
from properties.explosion.questions.families import ask
from properties.explosion.result import JSON_KEYS
from properties.explosion.searches import dynamic
from properties.explosion.searches.entries import intricacy, simpler

# rate^(depth - 1) < threshold <= rate^depth, worked out by hand or with a pocket calculator.
RESIDUAL = [  # branch bound, threshold, depth
    ("1", "2", 1),
    ("1", "2.000001", 2),
    ("1", "1024", 10),
    ("1", "1025", 11),
    ("0.5", "100", 12),
    ("0.1", "1.1", 1),
    ("0.1", "1.21", 2),  # 1.1 * 1.1 in floating point is 1.2100000000000002, and 1.1**2 must still be enough
    ("0.1", "1.21000000000000000001", 3),
    ("0.1", "100", 49),
    ("0.05", "3000", 165),
    ("2", "81", 4),
    ("9", "1e6", 6),
]
HC_ENTRY = [  # entry bound, most streams, threshold, depth, streams
    ("1.25", 4, "100", 3, 4),
    ("1.25", 4, "5", 1, 4),
    ("1.25", 4, "3.75", 1, 3),
    ("1.25", 2, "100", 6, 2),
    ("1.25", 1, "100", 21, 1),
    ("1", 4, "4096", 6, 4),
    ("1", 3, "4096", 8, 3),
    ("1", 4, "81", 4, 3),
    ("0.5", 4, "1024", 10, 4),
    ("0.3", 4, "2", 4, 4),
    ("2", 2, "1e6", 10, 2),
    ("0.25", 4, "1", 1, 4),
    ("0.1", 5, "0.5", 1, 5),
]
HC_IDENTITY = [  # identity bound, most streams, threshold, depth, streams
    ("0.05", 4, "3000", 44, 4),
    ("0.05", 4, "1.2", 1, 4),
    ("0.05", 4, "1.21", 2, 2),
    ("0.05", 2, "2999", 84, 2),
    ("0.1", 4, "100", 14, 4),
    ("0.25", 4, "1024", 10, 4),
    ("0.25", 4, "1025", 11, 4),
    ("0.5", 2, "16", 4, 2),
    ("1", 4, "125", 3, 4),
    ("1", 4, "27", 3, 2),
    ("3", 1, "64", 3, 1),
]


@pytest.mark.parametrize(("bound", "threshold", "depth"), RESIDUAL)
def test_a_residual_chain_needs_the_closed_form_depth(bound, threshold, depth):
    found = find_minimal("residual", threshold, branch_bound=bound, max_depth=256)
    assert (found.found, found.depth, found.streams, found.width) == (True, depth, 1, 1)
    assert found.minimality == "proved"


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "most", "threshold", "depth", "streams"), HC_ENTRY)
def test_bounded_mixing_needs_the_closed_form_depth_and_streams(bound, most, threshold, depth, streams):
    found = find_minimal("hc", threshold, entry_bound=bound, max_streams=most)
    assert (found.found, found.depth, found.streams, found.minimality) == (True, depth, streams, "proved")
    _check_weights(found, origin=0, bound=Fraction(bound))


@pytest.mark.parametrize(
    ("bound", "most", "threshold", "depth", "streams"),
    [*HC_IDENTITY[:4], *(pytest.param(*one, marks=pytest.mark.slow) for one in HC_IDENTITY[4:])],
)
def test_mixing_near_the_identity_needs_the_closed_form_depth_and_streams(bound, most, threshold, depth, streams):
    found = find_minimal("hc", threshold, identity_bound=bound, max_streams=most)
    assert (found.found, found.depth, found.streams, found.minimality) == (True, depth, streams, "proved")
    _check_weights(found, origin=1, bound=Fraction(bound))


def _check_weights(found, origin, bound):
    """Judged here without the package: entries within the bound, threshold reached, no entry can be dropped."""
    stack = [[list(row) for row in one] for one in found.operators]
    n = found.streams
    assert len(stack) == found.depth
    assert all(abs(stack[layer][i][j] - origin * (i == j)) <= bound for layer, i, j in _places(found))
    assert _forward(stack) >= found.request.threshold
    moved = [
        place for place in _places(found) if stack[place[0]][place[1]][place[2]] != origin * (place[1] == place[2])
    ]
    assert len(moved) == found.entries
    for layer, i, j in moved if len(moved) * found.depth < 200 else moved[:3] + moved[-3:]:
        kept, stack[layer][i][j] = stack[layer][i][j], origin * (i == j)
        assert _forward(stack) < found.request.threshold
        stack[layer][i][j] = kept
    assert n == len(stack[0])


def _places(found):
    return itertools.product(range(found.depth), range(found.streams), range(found.streams))


def _forward(stack):
    sums = [Fraction(1)] * len(stack[0])
    for one in stack:
        assert all(entry >= 0 for row in one for entry in row)
        sums = [sum(entry * other for entry, other in zip(row, sums, strict=True)) for row in one]
    return max(sums)


@pytest.mark.slow
@pytest.mark.parametrize("gain", ["backward", "signed", "spectral"])
def test_every_gain_has_the_same_minimal_depth(gain):
    found = find_minimal("hc", 100, entry_bound="1.25", gain=gain)
    assert (found.depth, found.streams, found.minimality) == (3, 4, "proved")
    product = np.linalg.multi_dot([np.array(one, dtype=float) for one in reversed(found.operators)])
    expected = {
        "backward": np.abs(product).sum(0).max(),
        "signed": np.abs(product.sum(1)).max(),
        "spectral": np.linalg.norm(product, 2),
    }[gain]
    assert float(str(found.exact_value)) == pytest.approx(expected, rel=1e-12)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert expected >= 100 * (1 - 1e-12)


@pytest.fixture(scope="module")
def flagship():
    return find_minimal("hc", 100, entry_bound="1.25")


def test_the_flagship_has_the_fewest_entries_that_can_do_it(flagship):
    """52 of 64 paths are needed (1.25^3 * 52 > 100); 51 give 99.6. 32 entries have 52 paths, and 31 have at most 51."""
    assert Fraction("1.25") ** 3 * 51 < 100 <= Fraction("1.25") ** 3 * 52
    fewest = min(
        sum(into) + sum(out) + 4  # the output needs all four entries of a row: three carry at most 48 paths
        for into in itertools.combinations_with_replacement(range(5), 4)
        for out in itertools.product(range(5), repeat=4)
        if sum(a * b for a, b in zip(into, out, strict=True)) >= 52
    )
    assert flagship.entries == fewest == 32


def test_entries_get_simpler_where_the_threshold_leaves_room():
    found = find_minimal("hc", 2, entry_bound="1.25", max_streams=2)
    assert (found.depth, found.streams) == (1, 2)
    assert found.entries == 2
    assert sorted(found.operators[0]) == [(0, 0), (1, 1)]


def test_the_decision_is_exact_where_floating_point_errs():
    assert math.prod([1.1] * 2) > 1.21  # floats would call 1.2100000000000001 reached
    assert find_minimal("residual", "1.2100000000000001", branch_bound="0.1").depth == 3
    assert find_minimal("residual", 1.21, branch_bound=0.1).depth == 2


@pytest.mark.parametrize(
    ("family", "threshold", "options", "argument"),
    [
        ("hc", "1.01", {"entry_bound": "0.25"}, "at most 1"),
        ("hc", "1e6", {"entry_bound": "0.2"}, "at most 1"),
        ("hc", "101", {"entry_bound": "1", "max_depth": 3}, "64 < 101 (4 would be needed)"),
        ("residual", "2", {"branch_bound": "1e-9"}, "about 6.93e+08 would be needed"),
        ("residual", "0.1", {"branch_bound": "0.1", "max_depth": 5, "direction": "vanish"}, "0.59049 > 0.1"),
        ("hc", "0", {"identity_bound": "0.1", "direction": "vanish"}, "leave at least"),
    ],
)
def test_an_impossible_threshold_is_answered_by_its_proof(family, threshold, options, argument):
    found = find_minimal(family, threshold, **options)
    assert (found.found, found.impossible, found.minimality, found.depth) == (False, True, "proved", None)
    assert argument in found.proof
    assert "impossible" in found.to_text()


@pytest.mark.parametrize(
    ("options", "depth", "streams", "minimality"),
    [
        ({"family": "residual", "threshold": "0.1", "branch_bound": "0.1"}, 22, 1, "proved"),
        ({"family": "residual", "threshold": 0, "branch_bound": 1}, 1, 1, "proved"),
        ({"family": "hc", "threshold": 0, "entry_bound": 1}, 1, 1, "proved"),
        ({"family": "hc", "threshold": "0.5", "identity_bound": "0.1", "gain": "signed"}, 2, 3, "proved"),
        ({"family": "hc", "threshold": 0, "identity_bound": "0.5", "gain": "signed"}, 1, 2, "proved"),
    ],
)
def test_fading_has_minima_too(options, depth, streams, minimality):
    found = find_minimal(direction="vanish", **options)
    assert (found.depth, found.streams, found.minimality) == (depth, streams, minimality)
    assert reaches(composite(found.operators), found.gain, found.request.threshold, "vanish")


def test_signed_gain_is_blind_to_an_explosion():
    """[[101, -100], [-100, 101]]: every signed row and column sum is 1 at every power; its spectral norm is 201."""
    matrix = ((Fraction(101), Fraction(-100)), (Fraction(-100), Fraction(101)))
    for depth in (1, 2, 5):
        product = composite([matrix] * depth)
        assert exact_gain(product, "signed") == 1
        assert exact_gain(product, "forward") == exact_gain(product, "backward") == 201**depth
        assert mpmath.almosteq(exact_gain(product, "spectral"), mpmath.mpf(201) ** depth)
        assert reaches(product, "spectral", 201**depth, "explode")
        assert not reaches(product, "spectral", Fraction(201**depth) + Fraction(1, 10**30), "explode")
        assert reaches(product, "signed", 1, "vanish")
    found = gains(torch.tensor([[101.0, -100.0], [-100.0, 101.0]], dtype=torch.float64))
    assert found.forward_signed == found.backward_signed == 1
    assert found.spectral.item() == pytest.approx(201)


def test_definiteness_is_decided_without_rounding():
    third = Fraction(1, 3)
    assert definiteness([[third, third], [third, third]]) == 0
    assert definiteness([[third, third], [third, third + Fraction(1, 10**40)]]) == 1
    assert definiteness([[third, third], [third, third - Fraction(1, 10**40)]]) == -1
    assert definiteness([[0, 0], [0, 1]]) == 0
    assert definiteness([[0, 1], [1, 5]]) == -1


def test_smallest_exponent_agrees_with_counting():
    for r, threshold in itertools.product(("1.01", "1.1", "3/2", "5"), ("1", "1.1", "1.21", "77", "3125")):
        rate, goal = Fraction(r), Fraction(threshold)
        counted = next(k for k in range(1, 1000) if rate**k >= goal)
        assert smallest_exponent(rate, goal, 1000) == counted
        assert smallest_exponent(rate, goal, counted) == counted
        assert counted == 1 or smallest_exponent(rate, goal, counted - 1) is None


def test_numbers_of_numpy_are_numbers():
    found = find_minimal("residual", np.float64(1.21), branch_bound=np.float64(0.1))
    assert found.depth == 2


def test_a_threshold_that_is_barely_above_one_is_counted_exactly():
    """In floats 1 + 1e-20 is 1, and so is its logarithm 0."""
    rate, goal = 1 + Fraction(1, 10**20), 1 + Fraction(5, 10**20)
    assert smallest_exponent(rate, goal, 1000) == 5
    found = find_minimal("residual", "1.00000000000000000005", branch_bound="1e-20")
    assert (found.depth, found.minimality) == (5, "proved")
    assert find_minimal("residual", "1.0000000000000000005", branch_bound="1e-20", max_depth=40).impossible


@pytest.mark.parametrize("tiny", ["1e-300", "3e-299"])
def test_weights_that_are_almost_nothing_are_answered_at_once(tiny):
    """Exact powers of 1 + 1e-300 have millions of digits; none is needed to see that 10 000 do not double it."""
    assert find_minimal("residual", 2, branch_bound=tiny, max_depth=10_000, budget=5).impossible
    assert smallest_exponent(1 + Fraction(tiny), Fraction(2), 10_000) is None


def test_simpler_numbers_are_simpler_smaller_and_of_the_same_sign():
    assert simpler(Fraction("1.25")) == [1, Fraction("1.2")]
    assert simpler(Fraction("-0.75")) == [Fraction(-1, 2), Fraction("-0.7")]
    assert simpler(Fraction("0.05")) == []
    assert simpler(Fraction(3)) == []
    assert [intricacy(Fraction(text)) for text in ("3", "0.5", "1.2", "1.25", "1/3")] == [0, 1, 2, 3, 100]


@pytest.mark.slow
def test_equal_seeds_give_equal_answers():
    first, again, other = (find_minimal("hc", 20, identity_bound="0.5", seed=seed) for seed in (1, 1, 2))
    assert first.operators == again.operators
    assert (first.depth, first.streams) == (other.depth, other.streams)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -1}, "threshold is -1"),
        ({"threshold": 0}, "threshold is 0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": float("inf")}, "threshold is inf"),
        ({"threshold": "inf"}, "threshold is 'inf'"),
        ({"threshold": "many"}, "threshold is 'many'"),
        ({"threshold": True}, "threshold is True"),
        ({"threshold": "1e400"}, "expected a size between 1e-300 and 1e300"),
        ({"threshold": "1e999999999"}, "expected a size between 1e-300 and 1e300"),
        ({"branch_bound": "1e-400"}, "branch_bound is 1e-400"),
        ({"family": "hc:dynamic", "entry_bound": 1}, "hc:dynamic adds d tanh"),
        ({"family": "hc:dynamic", "identity_bound": 1, "gain": "forward"}, "gain is 'forward'"),
        ({"branch_bound": 0}, "branch_bound is 0"),
        ({"branch_bound": "-0.1"}, "branch_bound is -0.1"),
        ({"family": "hc", "entry_bound": 0}, "entry_bound is 0"),
        ({"family": "hc", "identity_bound": "nan"}, "identity_bound is 'nan'"),
        ({"family": "hc"}, "hc needs exactly one of entry_bound and identity_bound; neither was given"),
        ({"family": "hc", "entry_bound": 1, "identity_bound": 1}, "entry_bound and identity_bound was given"),
        (
            {"family": "hc", "entry_bound": 1, "branch_bound": 2},
            "hc has no branch here; it is an option of residual and block",
        ),
        ({"entry_bound": 1}, "residual bounds no entries of its mixing; it is an option of hc"),
        (
            {"family": "resnet"},
            "family is 'resnet'; expected one of residual, hc, hc:dynamic, mhc, block[",
        ),
        ({"gain": "loud"}, "gain is 'loud'"),
        ({"direction": "up"}, "direction is 'up'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"max_depth": 0}, "max_depth is 0"),
        ({"max_depth": 10**6}, "max_depth is 1000000"),
        ({"max_streams": 1.5}, "max_streams is 1.5"),
        ({"budget": 0}, "budget is 0"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"seed": "0"}, "seed is '0'"),
    ],
)
def test_bad_questions_are_refused_by_name(arguments, message):
    asked: dict[str, Any] = {"family": "residual", "threshold": 2, **arguments}
    with pytest.raises(ValueError, match=re.escape(message)):
        find_minimal(**asked)


def test_the_json_has_exactly_the_pinned_keys():
    for found in (find_minimal("residual", 3), find_minimal("hc", 3, entry_bound="0.1")):
        assert tuple(found.to_json()) == JSON_KEYS
        json.dumps(found.to_json(), allow_nan=False)
    overflowing = find_minimal("residual", "1e39", max_depth=150, dtype="bfloat16")
    assert overflowing.value == math.inf
    assert overflowing.to_json()["value"] is None
    assert overflowing.depth == 130


def test_the_text_says_what_why_and_how_layer_by_layer(flagship):
    text = flagship.to_text()
    assert text.startswith("hc: forward gain >= 100 at depth 3, 4 streams, width 1 (proved)")
    for part in ("sub-layer 3:", "activation max", "row defect", "exact: 1", "2 sub-layers reach at most 25 < 100"):
        assert part in text
    layers = [line.split()[0] for line in text.splitlines() if line.strip()[:1].isdigit() and len(line.split()) == 8]
    assert layers == ["3", "2", "1"]


def test_a_saved_explosion_comes_back_and_fails_again(tmp_path, flagship):
    path = tmp_path / "deeper" / "hc.safetensors"
    found = save(flagship, path)
    assert load(path) == found
    replayed = replay(path)
    assert replayed.verdict == "FAILED"
    assert replayed.exact_value == found.exact_value
    assert str(replayed).startswith("FAILED: hc, depth 3, forward gain 100")


@pytest.mark.slow
def test_a_replay_in_a_new_process_agrees(tmp_path):
    path = tmp_path / "chain.safetensors"
    save(find_minimal("residual", 100, branch_bound="0.1"), path)
    program = "import sys; from properties.explosion import replay; print(replay(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{replay(path)}\n"


def test_a_file_whose_threshold_is_no_longer_reached_is_fixed(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save(find_minimal("residual", 3), path)
    monkeypatch.setattr("properties.explosion.questions.question.composite_reaches", lambda *_: False)
    assert replay(path).verdict == "FIXED"


@pytest.mark.parametrize("damage", ["absent", "text", "cut", "foreign", "header", "tensor"])
def test_a_damaged_or_foreign_file_is_named(tmp_path, damage):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save(find_minimal("residual", 3), path)
    with safe_open(path, framework="pt") as opened:
        metadata, tensors = opened.metadata(), {"operators": opened.get_tensor("operators")}
    if damage == "absent":
        path.unlink()
    elif damage == "text":
        path.write_text("no tensors here")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "foreign":
        save_file(tensors, path, metadata={"format": "pt"})
    elif damage == "header":
        save_file(tensors, path, metadata={**metadata, "explosion": '{"request": {}}'})
    else:
        save_file({"operators": tensors["operators"] + 1}, path, metadata=metadata)
    with pytest.raises(ExplosionFileError, match=r"x\.safetensors"):
        replay(path)


def test_nothing_found_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="none to save"):
        save(find_minimal("hc", 3, entry_bound="0.1"), tmp_path / "x.safetensors")


def test_a_search_without_time_still_answers_by_the_closed_form():
    found = find_minimal("hc", 3000, identity_bound="0.05", budget=1e-9)
    assert (found.found, found.depth, found.streams, found.stopped) == (True, 44, 4, "budget")
    assert "stopped by its budget" in found.to_text()


def test_an_interrupted_search_keeps_the_best_so_far():
    found = find_minimal("hc", 100, entry_bound="1.25", progress=_interrupted)
    assert (found.found, found.depth, found.stopped) == (True, 3, "interrupted")
    assert "stopped by Ctrl-C" in found.to_text()


def _interrupted(*_):
    raise KeyboardInterrupt


def test_the_command_prints_one_json_line_last_and_saves(tmp_path):
    path = tmp_path / "x.safetensors"
    done = CliRunner().invoke(
        cli.app,
        ["explode", "hc", "--entry-bound", "1.25", "--threshold", "20", "--json", "--save", str(path)],
    )
    assert done.exit_code == 0
    printed = json.loads(done.stdout.splitlines()[-1])
    assert (printed["depth"], printed["streams"], printed["file"]) == (2, 4, str(path))
    assert replay(path).verdict == "FAILED"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["residual", "--threshold", "100", "--branch-bound", "0.1"], 0),
        (["hc", "--threshold", "100", "--entry-bound", "0.1"], 0),
        (["hc", "--threshold", "100"], 2),
        (["residual", "--threshold", "-1"], 2),
        (["residual", "--threshold", "2", "--dialect", "PAPERS"], 2),
    ],
)
def test_exit_codes(arguments, code):
    assert CliRunner().invoke(cli.app, ["explode", *arguments]).exit_code == code


def test_ctrl_c_saves_the_best_so_far(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search_module, "smallest_architecture", _interrupted)
    done = CliRunner().invoke(cli.app, ["explode", "residual", "--threshold", "3"])
    assert done.exit_code == 130
    assert "stopped by Ctrl-C" in done.output
    assert replay("explosion.safetensors").verdict == "FAILED"


@pytest.mark.parametrize(
    ("bound", "most", "threshold", "depth", "streams"),
    [("0.1", 4, "50", 12, 4), ("0.5", 4, "27", 4, 3), ("1", 1, "2", 2, 1), ("1", 2, "2", 1, 2)],
)
def test_dynamic_mixing_explodes_on_some_inputs_only(bound, most, threshold, depth, streams):
    """The limits 27 = 3^3 and 2 = 2^1 are never reached, for tanh is below 1; the negated input moves towards 0."""
    found = find_minimal("hc:dynamic", threshold, identity_bound=bound, max_streams=most)
    assert (found.depth, found.streams, found.minimality, found.gain) == (depth, streams, "proved", "activation")
    assert found.value == pytest.approx(float(str(found.exact_value)), rel=1e-12)
    assert found.configuration is not None
    assert found.value is not None
    assert dynamic.measured(found.request, found.configuration.negated()) < found.value
    x = torch.tensor([float(entry) for entry in found.configuration.input], dtype=torch.float64)
    for one in found.operators:
        x = torch.tensor([[float(entry) for entry in row] for row in one], dtype=torch.float64) @ x
        assert all(abs(entry - (i == j)) < Fraction(bound) for i, row in enumerate(one) for j, entry in enumerate(row))
    assert x.abs().max().item() == pytest.approx(found.value, rel=1e-12)


def test_no_weights_or_input_pass_the_limit_of_dynamic_mixing():
    generator = torch.Generator().manual_seed(0)
    asked = ask("hc:dynamic", 2, identity_bound="0.3")
    for _ in range(50):
        weights = tuple(int(w) for w in torch.randint(-3, 4, (3,), generator=generator))
        x = tuple(Fraction(int(k), 4) for k in torch.randint(-4, 5, (3,), generator=generator))
        one = Dynamic(weights, x, 3)
        assert dynamic.measured(asked, one) <= Fraction("1.9") ** 3
        assert dynamic.measured(asked, one) == pytest.approx(float(dynamic.value(asked, one)), rel=1e-12)


def test_dynamic_mixing_is_saved_and_fails_again(tmp_path):
    path = tmp_path / "x.safetensors"
    found = save(find_minimal("hc:dynamic", 5, identity_bound="0.5"), path)
    assert load(path) == found
    assert replay(path).verdict == "FAILED"
    assert "weights w = [" in found.to_text()
    assert find_minimal("hc:dynamic", 50, identity_bound="0.1", max_depth=3).impossible
