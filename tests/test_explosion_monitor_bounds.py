"""What leaves its bounds: explosions, signals that fade, numbers that are not finite; each is said once."""

import itertools
import logging
import math

import pytest
import torch

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LIGER, LUCIDRAINS, MHC_LITE, PAPER
from mhc_ref.projection import compute_dtype
from properties.explosion import Monitor
from properties.explosion.monitor.limits import limits, roundoff

NAN, INF = math.nan, math.inf
EYE = torch.eye(2)


def kinds(monitor):
    return [row["leaves"] for row in monitor.flush()]


def within(monitor):
    return [row["within"] for row in monitor.rows]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4, None])
def test_an_activation_that_is_not_finite_is_never_within(value, dtype, dialect, caplog):
    """In any token, sampled or not."""
    monitor = Monitor(dialect=dialect, tokens=2)
    x = torch.ones(5, 2, 3, dtype=dtype)
    monitor.record(EYE.expand(5, 2, 2), x, "first")
    x[3, 1, 2] = value
    monitor.record(EYE.expand(5, 2, 2), x, "second")
    assert kinds(monitor) == [None, "not finite"]
    assert monitor.rows[1]["activation_max"] is None
    assert within(monitor)[1] is False
    assert "layer 1 (second) is not finite" in caplog.text


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{"dialect": MHC_LITE}, {"bound": 5.0}, {}])
def test_an_operator_that_is_not_finite_is_never_within(value, dtype, options, caplog):
    monitor = Monitor(tokens=2, **options)
    h_res = EYE.repeat(5, 1, 1).to(dtype)
    monitor.record(h_res)
    h_res[3, 0, 1] = value  # a token that is not sampled
    monitor.record(h_res, name="wrong")
    assert kinds(monitor) == [None, "not finite"]
    assert "layer 1 (wrong) is not finite" in caplog.text


def test_what_follows_an_operator_that_is_not_finite_does_not_explode():
    monitor = Monitor(dialect=PAPER)
    monitor.record(NAN * EYE[None])
    monitor.record(EYE[None])
    assert kinds(monitor) == ["not finite", "not finite"]


def test_the_roundoff_of_a_layer_is_the_derived_one():
    """A unit of the emitted dtype and half its smallest number for each entry; n + 1 + 2 logs of the computed one."""
    u32, u64 = 2.0**-24, 2.0**-53
    for dtype, stored in ((torch.float16, 2.0**-11 + 64 * 2.0**-25), (torch.float32, 0.0)):
        expected = stored + (64 + 1 + 2 * 3.0) * u32 + 64 * u64
        assert roundoff(dtype, 64, 3.0, torch.float64) == pytest.approx(expected, rel=1e-12)
    assert roundoff(torch.float64, 4, 0.0, torch.float64) == pytest.approx(9 * u64, rel=1e-12)
    assert roundoff(torch.int64, 4, 0.0, torch.float64) == pytest.approx(8 * u64, rel=1e-12)


def test_what_float16_cannot_hold_is_not_finite():
    monitor = Monitor(bound=1e9)
    monitor.record((torch.full((1, 2, 2), 1e5)).half(), torch.ones(1, 2, 1))
    assert kinds(monitor) == ["not finite"]


def test_a_product_that_float64_cannot_hold_explodes():
    """Each factor is finite and within, and inf - inf in the third product is NaN."""
    monitor = Monitor(bound=1e300, floor=0)
    for _ in range(3):
        monitor.record(1e200 * torch.tensor([[[1.0, -1.0], [1.0, 1.0]]], dtype=torch.float64))
    assert kinds(monitor) == [None, "explode", "explode"]
    assert within(monitor) == [True, False, False]


@pytest.mark.parametrize(
    "options",
    [
        *({"dialect": one} for one in (PAPER, LIGER, DEEPSEEK_V4, LUCIDRAINS, MHC_LITE)),
        {"dialect": "PAPER", "transposed": True},
        {"bound": 1.5},
        {"bound": 1e6},
        {},
    ],
)
def test_signals_that_vanish_are_never_within(options, caplog):
    """24 layers of 0.7 leave 0.0002."""
    monitor = Monitor(**options)
    for _ in range(24):
        monitor.record(0.7 * torch.eye(3).expand(4, 3, 3))
    assert kinds(monitor)[-1] == "vanish"
    assert within(monitor)[-1] is False
    assert monitor.rows[-1]["forward_gain"] == pytest.approx(0.7**24)
    assert monitor.rows[-1]["min_forward_gain"] == pytest.approx(0.7**24)
    assert caplog.text.count("fades") == 1


@pytest.mark.parametrize("options", [{"dialect": PAPER}, {"bound": 2.0}, {"bound": 2.0, "floor": 0}, {}])
def test_a_gain_of_zero_is_never_within(options):
    monitor = Monitor(**options)
    monitor.record(torch.zeros(2, 3, 3))
    assert kinds(monitor) == ["vanish"]


def test_one_token_that_fades_is_enough():
    monitor = Monitor(bound=2.0)
    monitor.record(torch.stack([EYE, EYE, 0.1 * EYE]))
    assert kinds(monitor) == ["vanish"]
    assert (monitor.rows[0]["forward_gain"], monitor.rows[0]["min_forward_gain"]) == (1, pytest.approx(0.1))


def test_a_layer_that_fades_is_seen_where_the_product_does_not():
    monitor = Monitor(bound=200.0)
    monitor.record(100 * EYE[None])
    monitor.record(0.001 * EYE[None])
    assert kinds(monitor) == [None, "vanish"]


@pytest.mark.parametrize(
    ("dialect", "fading"),
    [
        (PAPER, 1 - 1e-4),
        (PAPER.with_(entry_eps=1e-6), 1 - 1e-4),  # added before the divisions
        (LIGER, 0.3),
        (MHC_LITE, 1 - 1e-4),
        (DEEPSEEK_V4, 0.3),
    ],
)
def test_the_sums_that_are_exactly_one_cannot_fall(dialect, fading):
    """Without an eps a ten-thousandth less is off the manifold; with one nothing is proved, and a threshold stands."""
    shape = (6, 6) if dialect is MHC_LITE else (6, 3, 3)
    correct = mhc_ref.project(torch.randn(shape, generator=torch.Generator().manual_seed(0)), dialect)
    monitor = Monitor(dialect=dialect)
    monitor.record(correct)
    monitor.record(fading * correct)
    assert kinds(monitor) == [None, "vanish"]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4, LIGER, LUCIDRAINS])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [None, True, False])
def test_a_correct_projection_of_any_dialect_is_within_at_any_depth(dialect, dtype, transposed):
    """Thirty-two layers, sharp and soft logits; rounding to a short dtype at each."""
    monitor = Monitor(dialect=dialect, transposed=transposed)
    for depth, scale in itertools.product(range(8), (0.1, 2.0, 8.0, 30.0)):
        generator = torch.Generator().manual_seed(depth)
        logits = scale * torch.randn(8, 4, 4, generator=generator, dtype=compute_dtype(dtype))
        monitor.record(mhc_ref.project(logits, dialect).to(dtype))
    assert set(kinds(monitor)) == {None}
    assert all(within(monitor))


def test_rounding_in_one_direction_is_allowed_for_as_it_compounds():
    """Each row sums to 1 + u, the most that storing in bfloat16 can do; the product of 300 is e, not 1 + 300 u."""
    u = torch.finfo(torch.bfloat16).eps / 2
    for sign in (1, -1):
        monitor = Monitor(dialect=PAPER)
        for _ in range(300):
            monitor.record(torch.full((1, 1, 1), 1 + sign * u, dtype=torch.float64).expand(1, 1, 1))
        assert kinds(monitor)[-1] in ("explode", "vanish")  # float64 has no such units
    allowed = roundoff(torch.bfloat16, 2, 0.7, torch.float64)
    assert u < allowed < 1.01 * u
    monitor = Monitor(dialect=PAPER)
    drifting = torch.tensor([[[0.50390625, 0.5], [0.5, 0.50390625]]], dtype=torch.bfloat16)  # 1/2 is rounded up once
    for _ in range(300):
        monitor.record(drifting)
    assert set(kinds(monitor)) == {None}
    assert monitor.rows[-1]["forward_gain"] == pytest.approx(1.00390625**300)


def test_each_way_of_leaving_is_said_once_and_names_its_layer(caplog):
    monitor = Monitor(bound=4.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            monitor.record(EYE[None], torch.ones(1, 2, 1), "calm")
            monitor.record(0.01 * EYE[None], torch.ones(1, 2, 1), "faint")
            monitor.record(1000 * EYE[None], torch.ones(1, 2, 1), "loud")
            monitor.record(EYE[None], torch.full((1, 2, 1), NAN), "lost")
            monitor.flush()
    assert [record.getMessage().partition(":")[2].split(")")[0].strip() for record in caplog.records] == [
        "layer 1 (faint",
        "layer 2 (loud",
        "layer 3 (lost",
    ]
    assert {kind: row["name"] for kind, row in monitor.departures.items()} == {
        "vanish": "faint",
        "explode": "loud",
        "not finite": "lost",
    }
    assert monitor.left is not None
    assert monitor.left["name"] == "faint"


def test_limits_say_which_sums_are_exact_and_which_threshold_stands_for_a_law():
    assert limits(PAPER, 4).exact == ("row",)
    assert limits(PAPER.with_(transposed=True), 4).exact == ("column",)
    assert limits(MHC_LITE, 4).exact == ("row", "column")
    for dialect in (DEEPSEEK_V4, LIGER, LUCIDRAINS):
        assert (limits(dialect, 4).exact, limits(dialect, 4).floor, limits(dialect, 1).floor) == ((), 0.25, 0.5)
    for bound, floor in ((2.0, 0.5), (50.0, 0.02), (1e6, 0.01), (0.5, 0.01), (None, 0.01)):
        assert limits(None, 4, bound).floor == floor
    assert limits(PAPER, 4, floor=0.1)[:3] == ({"forward": 1, "backward": 4}, (), 0.1)


def test_streams_without_numbers_are_unknown_and_not_wrong():
    """No tokens, no channels, no argument: null, and within where the gains are."""
    monitor = Monitor(dialect=PAPER)
    for x in (torch.ones(0, 2, 3), torch.ones(1, 2, 0), None):
        monitor.record(EYE[None], x)
    assert kinds(monitor) == [None] * 3
    assert within(monitor) == [True] * 3
    assert [row["activation_max"] for row in monitor.rows] == [None] * 3
    assert monitor.troubles == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
def test_dispersion_is_a_ratio_at_every_scale(scale, dtype):
    if dtype == torch.float16 and not 1e-4 < scale < 1e5:
        scale = 1.0
    x = scale * torch.tensor([[[3.0, 1.0], [1.0, 3.0]]], dtype=torch.float64)
    monitor = Monitor()
    monitor.record(EYE[None], x.to(dtype))
    (row,) = monitor.flush()
    assert row["dispersion"] == pytest.approx(math.sqrt(4 / 20), rel=1e-2)
    assert row["activation_max"] == pytest.approx(3 * scale, rel=1e-2)
