"""Healthy models get no warning from the default thresholds, and what is ill just beyond them gets one."""

import pytest
import torch
from torch import nn

from properties.explosion import Monitor
from properties.explosion.healthy.__main__ import watched
from properties.explosion.healthy.models import HEALTHY
from properties.explosion.monitor import Thresholds
from properties.explosion.monitor.blocks import channels_of
from properties.explosion.monitor.thresholds import Watch

STREAMS = ("mhc", "hyper-connections", "DeepSeek")
QUICK = [name for name, one in HEALTHY.items() if one.needs is None and not any(word in name for word in STREAMS)]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_healthy_model_gets_no_warning(name):
    shown = watched(HEALTHY[name], 3, 1)
    assert (shown.alarms, shown.troubles) == ([], 0)
    assert "growth" in shown.nearest


@pytest.mark.slow  # more of the same, and libraries that take seconds to import
@pytest.mark.parametrize("name", [name for name in HEALTHY if name not in QUICK])
def test_a_healthy_model_of_a_library_or_with_streams_gets_no_warning(name):
    one = HEALTHY[name]
    if one.needs is not None:
        pytest.importorskip(one.needs, reason="the extra `published`")
    shown = watched(one, 6, 1)
    assert (shown.alarms, shown.troubles) == ([], 0)


# ---- what is ill


class Times(nn.Module):
    """Multiplies every number by a factor, or those of some tokens [T]."""

    def __init__(self, factor):
        super().__init__()
        self.factor: torch.Tensor
        self.register_buffer("factor", torch.as_tensor(factor))

    def forward(self, x):
        return x * (self.factor if self.factor.ndim == 0 else self.factor[:, None])


def alarms_of(factors, size=1.0, **options):
    """The alarms of a stack that multiplies 8 tokens of `size` by these factors, one after the other."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Times(one) for one in factors))
    with Monitor(model, blocks=[Times], **options) as monitor:
        model(size * torch.randn(8, 16))
    assert monitor.troubles == 0
    return monitor


def one_token(factor):
    return [factor, *7 * [1.0]]


def test_one_token_may_grow_as_an_attention_sink_does_and_no_further(caplog):
    assert "grows" not in alarms_of([1.0, one_token(3e5)], thresholds={"jump": None}).departures
    grown = alarms_of([1.0, one_token(3e6)]).departures["grows"]
    assert (grown["layer"], grown["worst_token"]) == (1, 0)
    assert grown["typical_growth"] == pytest.approx(1)
    assert "layer 1 (1): its activations of token 0 have grown 3e+06 times since the first layer" in caplog.text


def test_a_first_layer_may_bring_what_enters_to_order_one_and_no_further():
    assert alarms_of([1e5, 1.0], 1e-5).departures == {}
    assert alarms_of([1e-5, 1.0], 1e5).departures == {}
    assert alarms_of([1e10, 1.0], 1e-5).departures["grows"]["layer"] == 0
    assert alarms_of([1e-10, 1.0], 1e5).departures["shrinks"]["layer"] == 0


def test_tokens_that_vanish_are_told_of_where_they_are_most_of_them():
    assert alarms_of([1.0, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]]).departures == {}
    assert "shrinks" in alarms_of([1.0, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]).departures
    assert "shrinks" in alarms_of([1.0, 0.0]).departures


def test_a_block_that_multiplies_most_tokens_jumps_and_one_that_multiplies_a_single_one_does_not():
    assert "jumps" not in alarms_of([1.0, 1.0, one_token(5e3)]).departures
    assert alarms_of([1.0, 1.0, 5e3]).departures["jumps"]["layer"] == 2


def test_how_near_a_run_came_is_kept_with_its_place():
    monitor = alarms_of([1.0, 30.0, 0.1])
    nearest = monitor.nearest["growth"]
    assert nearest.value == pytest.approx(30, rel=1e-5)
    assert (nearest.threshold, nearest.step, nearest.layer, nearest.name) == (1e4, 0, 1, "1")
    assert monitor.nearest["shrink"].value == pytest.approx(1, rel=1e-5)


def streams(spread, size):
    """A row of four streams whose difference is `spread` of a state of this size."""
    row = dict.fromkeys(("jump", "drift", "activation_max", "output_max", "typical_growth", "worst_growth"))
    row |= dict.fromkeys(("gate_saturation", "softmax_saturation", "attention", "worst_token"))
    return (
        row
        | {"name": f"{size}", "step": 0, "layer": 0, "activation_rms": size, "typical_rms": size}
        | {"dispersion": spread / size}
    )


def test_streams_collapse_where_their_difference_does_and_not_where_the_state_outgrows_it():
    watch = Watch(Thresholds())
    rows = [streams(0.2, 1.0), streams(0.2, 100.0)]
    assert watch.judge(rows, [None, None]) == [{}, {}]
    assert watch.nearest["collapse"].value == pytest.approx(1)
    rows = [streams(0.2, 1.0), streams(1e-3, 10.0)]
    (told,) = Watch(Thresholds()).judge(rows, [None, None])[1].items()
    assert told == ("collapses", "its streams have collapsed into one: dispersion 0.0001")


def test_gradients_that_overflow_in_float16_are_a_search_for_a_scale_until_it_must_be_over():
    bad, good = [float("inf"), 1.0], [1.0, 1.0]

    def told(watch, norms, scaled):
        rows = [{"alarms": [], "step": 0, "layer": place, "name": str(place)} for place in range(2)]
        return [list(one) for one in watch.gradients(rows, norms, scaled)]

    watch = Watch(Thresholds())
    assert all(told(watch, bad, True) == [[], []] for _ in range(33))
    assert told(watch, bad, True) == [["gradient not finite"], []]
    assert told(watch, good, True) == [[], []]
    assert told(watch, bad, True) == [[], []]
    assert told(Watch(Thresholds()), bad, False) == [["gradient not finite"], []]


@pytest.mark.parametrize(
    ("block", "shape", "axis"),
    [
        (nn.Conv2d(4, 4, 3), (2, 4, 5, 6), 1),
        (nn.Conv2d(4, 4, 3), (2, 4, 4, 4), 1),
        (nn.Conv2d(4, 4, 3), (2, 5, 6, 4), -1),
        (nn.Conv1d(4, 4, 3), (2, 4, 7), 1),
        (nn.Conv1d(4, 4, 3), (2, 7, 4), -1),
        (nn.Conv1d(4, 4, 3), (2, 4, 4), -1),
        (nn.Linear(4, 4), (2, 4, 5, 6), -1),
    ],
)
def test_a_token_of_convolutions_is_the_channels_of_a_pixel(block, shape, axis):
    assert channels_of(nn.Sequential(block), torch.zeros(shape)) == axis
