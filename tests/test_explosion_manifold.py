"""Constrained mixing: the caps hold, are approached, and decide what can be found."""

import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mhc_ref
from mhc_ref import DEEPSEEK_V4, HYPER_CONNECTIONS, LIGER, LUCIDRAINS, MHC_LITE, PAPER, PRESETS, RESIDUAL
from properties.explosion import find_minimal, load, replay, save
from properties.explosion.composite import composite, exact_gain, line_gain, reaches
from properties.explosion.configurations import tensor
from properties.explosion.mixing import of_dialect
from properties.explosion.proofs.manifold import cap, flipped
from properties.explosion.questions.families import ask
from properties.explosion.searches.ascent import Concentration
from properties.explosion.searches.hypothesise import Clock
from properties.explosion.searches.logits import confirmed, simpler_logits

GAINS_CAPPED = ["forward", "backward", "spectral"]
DIALECTS = [PAPER, DEEPSEEK_V4, LIGER, LUCIDRAINS, PAPER.with_(denominator_eps=0.02), LUCIDRAINS.with_(entry_eps=1e-3)]


@st.composite
def stacks(draw):
    """Logits of up to three sub-layers, structure first: most are 0 or as far apart as 40 and -40."""
    depth, n = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    number = st.sampled_from([0.0, -40.0, 40.0]) | st.floats(-40, 40, width=32)
    flat = draw(st.lists(number, min_size=depth * n * n, max_size=depth * n * n))
    return torch.tensor(flat, dtype=torch.float64).view(depth, n, n)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=15, deadline=None)
@given(logits=stacks(), iterations=st.sampled_from([1, 2, 3, 20]), gain=st.sampled_from(["forward", "backward"]))
def test_no_logits_pass_a_cap(dialect, logits, iterations, gain):
    depth, n = logits.shape[:2]
    asked = ask("mhc", 2, gain=gain, dialect=dialect, iterations=iterations)
    reached = line_gain(composite(of_dialect(asked.dialect).exact(logits)), gain)
    limit = cap(asked, n, depth)
    # they are right to 50 digits, and entries of exp(-80) keep strict caps further away than that
    assert reached < limit.limit or (not limit.strict and reached < limit.limit + Fraction(1, 10**45))
    assert cap(asked, n, None).limit >= limit.limit


def test_the_recurrence_of_two_streams_is_exact():
    """d' = 4 d e^2 / ((1 - d^2)^2 - 4 d^2 e^2), and so 1/|d'| >= 1/|d| + 2: by exact fractions on a grid."""
    for a, b in itertools.product((Fraction(k, 12) for k in range(13)), repeat=2):
        d, e = a + b - 1, (a - b) / 2
        if abs(d) == 1:
            continue
        scaled = [[a / (1 + d), (1 - a) / (1 - d)], [b / (1 + d), (1 - b) / (1 - d)]]
        after = sum(row[0] / sum(row) for row in scaled) - 1
        assert after == 4 * d * e**2 / ((1 - d**2) ** 2 - 4 * d**2 * e**2)
        assert not after or 1 / abs(after) >= 1 / abs(d) + 2


@pytest.mark.parametrize(("n", "iterations"), [(2, 1), (2, 20), (3, 1), (4, 1)])
def test_the_caps_of_one_sub_layer_are_approached(n, iterations):
    asked = ask("mhc", 2, gain="backward", iterations=iterations)
    stack = Concentration(asked.dialect, n, 0, Clock(60))
    stack.extend()
    limit = cap(asked, n, 1).limit
    assert limit == (Fraction(2 * iterations + 1, 2 * iterations) if n == 2 else n - 1 + Fraction(1, n))
    found = of_dialect(asked.dialect).operators(stack.logits())[0].sum(0).max().item()
    assert found == pytest.approx(float(limit), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_the_cap_of_two_streams_is_approached_at_every_depth(depth):
    stack = Concentration(PAPER, 2, 0, Clock(60))
    for _ in range(depth):
        stack.extend()
    product = torch.eye(2, dtype=torch.float64)
    for one in of_dialect(PAPER).operators(stack.logits()):
        product = one @ product
    assert product.sum(0).max().item() == pytest.approx(2 - (1 - 1 / 40) ** depth, rel=1e-9)


@pytest.mark.parametrize(
    ("threshold", "options", "depth", "streams", "minimality"),
    [
        pytest.param("1.6", {}, 1, 3, "proved", marks=pytest.mark.slow),
        ("1", {}, 1, 1, "proved"),
        ("1.01", {}, 1, 2, "proved"),
        pytest.param("1.0249999", {}, 1, 2, "proved", marks=pytest.mark.slow),
        pytest.param("1.025", {}, 1, 3, "proved", marks=pytest.mark.slow),
        pytest.param("2.2", {}, 1, 4, "searched", marks=pytest.mark.slow),
        pytest.param("2.2", {"iterations": 1}, 1, 3, "proved", marks=pytest.mark.slow),
        pytest.param("3.3", {}, 2, 4, "proved", marks=pytest.mark.slow),
        pytest.param("1.06", {"max_streams": 2}, 3, 2, "proved", marks=pytest.mark.slow),
        pytest.param("1.4", {"gain": "spectral"}, 1, 3, "proved", marks=pytest.mark.slow),
        pytest.param("1.05", {"dialect": DEEPSEEK_V4}, 1, 3, "searched", marks=pytest.mark.slow),
        pytest.param(
            *("1.6", {"gain": "forward", "dialect": LUCIDRAINS.with_(denominator_eps=0.0)}, 1, 3, "proved"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_free_gain_of_finite_sinkhorn(threshold, options, depth, streams, minimality):
    """1.025 = 1 + 1/(2t): at two streams it is approached and never reached."""
    asked: dict[str, Any] = {"gain": "backward", **options}
    found = find_minimal("mhc", threshold, **asked)
    assert (found.found, found.depth, found.streams, found.minimality) == (True, depth, streams, minimality)
    assert reaches(composite(found.operators), found.gain, found.request.threshold, "explode")
    computed = of_dialect(found.request.dialect).operators(tensor(found.logits))
    torch.testing.assert_close(computed, tensor(found.operators), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("threshold", "options", "argument"),
    [
        ("4.01", {"gain": "backward", "max_streams": 4}, "stays below 4"),
        ("4", {"gain": "backward"}, "stays below 4"),
        ("2", {"gain": "spectral"}, "stays below the square root of 4"),
        ("1.000001", {}, "is at most 1"),
        ("1.000001", {"gain": "signed"}, "is at most 1"),
        ("1.000001", {"gain": "backward", "max_streams": 1}, "is at most 1"),
        ("1", {"dialect": DEEPSEEK_V4}, "less than 1"),
        ("1.1", {"gain": "backward", "dialect": LIGER}, "less than 1"),
        ("1.1", {"dialect": MHC_LITE, "gain": "spectral"}, "sums to 1"),
        ("1.1", {"dialect": RESIDUAL}, "sums to 1"),
        ("0.9", {"direction": "vanish"}, "no gain is below 1"),
        ("0.9", {"direction": "vanish", "dialect": MHC_LITE}, "sums to 1"),
        ("5", {"gain": "backward", "iterations": 0, "dialect": DEEPSEEK_V4}, "128 sub-layers reach 1.00051"),
    ],
)
def test_what_no_depth_can_reach_is_proved(threshold, options, argument):
    found = find_minimal("mhc", threshold, **options)
    assert (found.found, found.impossible, found.minimality) == (False, True, "proved")
    assert argument in found.proof


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PAPER", "DEEPSEEK_V4", "LIGER", "LUCIDRAINS"])
def test_one_axis_is_capped_and_the_other_is_free(name):
    """A stack that concentrates shows on the free axis of the applied operators, whatever the orientation."""
    dialect = PRESETS[name]
    stack = Concentration(dialect, 3, 0, Clock(60))
    for _ in range(2):
        stack.extend()
    product = composite(of_dialect(dialect).exact(stack.logits()))
    free, capped = ("forward", "backward") if flipped(dialect) else ("backward", "forward")
    assert line_gain(product, capped) < 1 + Fraction(1, 10**45)
    assert line_gain(product, free) > Fraction("1.1")


@pytest.mark.slow
def test_an_eps_of_two_hundredths_fades_86_sub_layers_to_0_18():
    dialect = PAPER.with_(denominator_eps=0.02)
    logits = torch.zeros(86, 1, 1, dtype=torch.float64)
    assert float(line_gain(composite(of_dialect(dialect).exact(logits)), "forward")) == pytest.approx(0.176, abs=5e-4)
    found = find_minimal("mhc", "0.18", direction="vanish", dialect=dialect, max_streams=1)
    assert (found.depth, found.streams, found.minimality, found.entries) == (85, 1, "proved", 0)
    assert find_minimal("mhc", "0.18", direction="vanish", dialect=dialect, max_streams=2).depth == 85


@pytest.mark.parametrize(
    ("threshold", "direction", "dialect", "depth"),
    [
        ("1e6", "explode", PAPER.with_(iterations=0), 1),
        ("1e-6", "vanish", PAPER.with_(iterations=0), 1),
        ("1e-6", "vanish", PAPER.with_(iterations=0, entry_eps=0.01), 4),
        ("1.1", "explode", PAPER.with_(iterations=0, start="softmax", entry_eps=1e-3), 24),
        ("1.0011", "vanish", PAPER.with_(iterations=0, start="softmax", entry_eps=1e-3), 1),
    ],
)
def test_without_iterations_nothing_is_held(threshold, direction, dialect, depth):
    found = find_minimal("mhc", threshold, direction=direction, dialect=dialect)
    assert (found.found, found.depth, found.minimality) == (True, depth, "proved")


def test_simple_logits_come_first():
    assert simpler_logits(-3.14159)[:4] == [-1.0, -2.0, -3.0, -4.0]
    assert simpler_logits(-3.14159)[-1] == -3.142
    assert simpler_logits(2.0) == [1.0]
    assert simpler_logits(0.3) == [1.0, 0.5]


@pytest.mark.slow
def test_one_sub_layer_may_be_enough() -> None:
    """Half of what enters is lost to the eps of each of the forty divisions."""
    found = find_minimal("mhc", "0.9", direction="vanish", dialect=PAPER.with_(denominator_eps=1.0), max_streams=2)
    assert found.found
    assert (found.depth, found.streams) == (1, 1)
    assert "one sub-layer is enough" in found.proof


def test_unconstrained_mixing_has_its_own_family():
    with pytest.raises(ValueError, match="there is family hc"):
        find_minimal("mhc", 2, dialect=HYPER_CONNECTIONS)


@pytest.fixture(scope="module")
def three_streams():
    return find_minimal("mhc", "1.6", gain="backward")


@pytest.mark.slow
def test_saved_logits_are_projected_again(tmp_path, three_streams):
    path = tmp_path / "x.safetensors"
    found = save(three_streams, path)
    assert load(path) == found
    assert replay(path).verdict == "FAILED"
    assert replay(path).exact_value == found.exact_value


def test_the_text_shows_logits_and_the_matrix_they_give(three_streams):
    text = three_streams.to_text()
    assert "logits, the first to be applied first" in text
    assert "any finite logits, projected as the dialect says" in text
    assert "stays below 1.025" in text


@pytest.mark.parametrize(
    ("threshold", "options"),
    [
        ("2.5", {"max_streams": 3, "max_depth": 1}),  # 2.333 in one sub-layer
        ("1.2", {"max_streams": 2, "max_depth": 3}),  # 2 - (1 - 1/40)^3
        ("3.25", {"max_depth": 1, "iterations": 1}),
    ],
)
def test_what_every_cap_up_to_the_largest_depth_excludes_is_impossible(threshold, options):
    found = find_minimal("mhc", threshold, gain="backward", **options)
    assert (found.found, found.impossible, found.minimality) == (False, True, "proved")


def test_no_gain_of_positive_matrices_vanishes():
    for dialect in (PAPER.with_(iterations=0), PAPER.with_(denominator_eps=0.5), DEEPSEEK_V4):
        assert find_minimal("mhc", 0, direction="vanish", dialect=dialect).impossible


def test_the_spectral_cap_of_a_softmax_counts_its_row_sums_twice():
    """Two rows that send all to one stream, 0.1 added to every entry: rows of 1.2, a column of 2.2."""
    dialect = PAPER.with_(iterations=0, start="softmax", start_axis="row", entry_eps=0.1)
    logits = torch.tensor([[[200.0, 0.0], [200.0, 0.0]]], dtype=torch.float64)
    asked = ask("mhc", "1.5611", gain="spectral", dialect=dialect, max_depth=1)
    product = composite(of_dialect(dialect).exact(logits))
    assert reaches(product, "spectral", asked.threshold, "explode")
    assert not cap(asked, 2, 1).excludes(asked)
    assert cap(asked, 2, 1).limit == 2 * (1 + 2 * Fraction(0.1)) ** 2


def test_the_spectral_gain_of_one_stream_is_its_row_sum():
    """1.1^3 = 1.331: the cap of a number is not one of its square."""
    dialect = PAPER.with_(iterations=0, start="softmax", entry_eps=0.1)
    found = find_minimal("mhc", "1.3", gain="spectral", dialect=dialect, max_streams=1)
    assert (found.depth, found.streams, found.minimality) == (3, 1, "proved")


def test_a_gain_within_rounding_of_the_threshold_is_not_reached():
    """Zero logits have column sums of exactly 1: of several streams the oracle's 50 digits could not tell."""
    asked = ask("mhc", 1, gain="backward")
    zeros = torch.zeros(1, 3, 3, dtype=torch.float64)
    assert not confirmed(zeros, asked, of_dialect(PAPER))
    assert confirmed(zeros[:, :1, :1], asked, of_dialect(PAPER))


STORED = [  # threshold, direction, dtype, least depth by proof
    ("1.05", "explode", "bfloat16", 13),
    ("0.98", "vanish", "bfloat16", 6),
]


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "direction", "dtype", "least"), STORED)
def test_stored_in_a_short_dtype_row_sums_drift(threshold, direction, dtype, least):
    found = find_minimal("mhc", threshold, direction=direction, dtype=dtype, max_streams=3)
    assert found.found
    assert found.depth >= least
    assert f"fewer than {least} sub-layers" in found.proof
    stored = mhc_ref.project(tensor(found.logits), PAPER).to(getattr(torch, dtype)).double()
    torch.testing.assert_close(stored, tensor(found.operators), rtol=0, atol=0)
    assert reaches(composite(found.operators), "forward", Fraction(threshold), direction)


def test_storage_cannot_drift_faster_than_one_unit_a_sub_layer():
    found = find_minimal("mhc", "1.1", dtype="bfloat16", max_depth=24)
    assert found.impossible
    assert "as they are stored in bfloat16" in found.proof
    assert find_minimal("mhc", "0.9", direction="vanish", dtype="bfloat16", max_depth=26).impossible
    with pytest.raises(ValueError, match="expected float64 for a dialect without Sinkhorn"):
        find_minimal("mhc", 2, dtype="bfloat16", dialect=MHC_LITE)


@settings(max_examples=25, deadline=None)
@given(logits=stacks(), dtype=st.sampled_from(["bfloat16", "float16", "float32"]), gain=st.sampled_from(GAINS_CAPPED))
def test_no_stored_logits_pass_a_cap(logits, dtype, gain):
    depth, n = logits.shape[:2]
    asked = ask("mhc", 2, gain=gain, dtype=dtype)
    product = composite(asked.mixing.exact(logits))
    limit = cap(asked, n, depth).limit
    goal = limit + Fraction(1, 10**40)
    assert (
        not reaches(product, gain, goal, "explode")
        if gain != "spectral"
        else (float(exact_gain(product, gain)) ** 2 <= float(limit) * (1 + 1e-12))
    )
