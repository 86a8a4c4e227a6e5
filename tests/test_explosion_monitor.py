"""The monitor: what it records is what the definitions say, it changes nothing, and it warns where a bound is left."""

import importlib
import json
import logging
import random

import pytest
import torch
from torch import nn

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LIGER, MHC_LITE, PAPER
from mhc_ref.gain import gains
from mhc_ref.projection import compute_dtype
from properties.explosion import Monitor
from properties.explosion.averaging import compared
from properties.explosion.monitor import ROW_KEYS, limits_of
from properties.explosion.overhead import Decoder, HyperConnection, Pairs, added, measured


class Mixing(nn.Module):
    """Streams to h_res, static."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(torch.as_tensor(matrix, dtype=torch.float32))

    def forward(self, x):
        return self.matrix.expand(*x.shape[:-2], *self.matrix.shape)


class Chain(nn.Module):
    """x' = A x, layer after layer; with `transposed` A^T x."""

    def __init__(self, *matrices, transposed=False):
        super().__init__()
        self.mixings = nn.ModuleList(map(Mixing, matrices))
        self.transposed = transposed

    def forward(self, x):
        for mixing in self.mixings:
            h_res = mixing(x)
            x = (h_res.mT if self.transposed else h_res) @ x
        return x


TURN = [[0.0, 1.0], [1.0, 0.0]]
GROW = [[1.0, 0.25], [0.25, 1.0]]
SKEW = [[0.5, 0.5], [0.25, 0.75]]


def passed(monitor, x):
    """A pass of the model that is watched."""
    model = monitor._model
    assert model is not None
    return model(x)


def test_rows_are_the_definitions():
    """forward_gain is of A_l ... A_1, backward_gain of A_L ... A_l, and the transpose is applied where that is said."""
    matrices = [torch.tensor(one) for one in (SKEW, [[2.0, -1.0], [0.5, 0.25]], SKEW)]
    for transposed in (False, True):
        applied = [one.mT.double() if transposed else one.double() for one in matrices]
        x = torch.tensor([[[3.0, -5.0], [1.0, 1.0]]])
        with Monitor(Chain(*matrices, transposed=transposed), modules=[Mixing], transposed=transposed) as monitor:
            passed(monitor, x)
        assert [row["layer"] for row in monitor.rows] == [0, 1, 2]
        for layer, row in enumerate(monitor.rows):
            assert tuple(row) == ROW_KEYS
            before, after = torch.eye(2).double(), torch.eye(2).double()
            for one in applied[: layer + 1]:
                before = one @ before
            for one in applied[layer:]:
                after = one @ after
            assert row["forward_gain"] == pytest.approx(gains(before).forward.item())
            assert row["backward_gain"] == pytest.approx(gains(after).backward.item())
            assert row["layer_forward_gain"] == pytest.approx(gains(applied[layer]).forward.item())
            assert row["layer_backward_gain"] == pytest.approx(gains(applied[layer]).backward.item())
            assert row["min_column_sum"] == pytest.approx(before.sum(0).min().item())
            assert (row["within"], row["streams"], row["tokens"]) == (None, 2, 1)
        assert monitor.rows[0]["activation_max"] == 5
        spread = torch.tensor([[1.0, -3.0], [-1.0, 3.0]]).norm() / x.norm()
        assert monitor.rows[0]["dispersion"] == pytest.approx(spread.item())


def test_a_model_that_trains_is_not_changed_and_every_pass_becomes_lines(tmp_path):
    path = tmp_path / "deeper" / "monitor.jsonl"

    def trained(monitored):
        torch.manual_seed(0)
        model = Decoder(layers=1, n=4, width=8)
        h = torch.randn(2, 5, 8)
        monitor = Monitor(model, path, modules=[HyperConnection], dialect=PAPER)
        for _ in range(3):
            with monitor if monitored else torch.enable_grad():
                slopes = torch.autograd.grad(model(h).square().sum(), list(model.parameters()))
                with torch.no_grad():
                    for parameter, slope in zip(model.parameters(), slopes, strict=True):
                        parameter -= 0.1 * slope
        return [parameter.detach() for parameter in model.parameters()], model

    (plain, _), (watched, model) = trained(False), trained(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert not model._forward_hooks
    assert not any(one._forward_hooks for one in model.modules())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["layer"]) for row in rows] == [(step, layer) for step in range(3) for layer in range(2)]
    assert all(row["within"] and row["training"] and row["tokens"] == 10 for row in rows)
    assert all(abs(row["forward_gain"] - 1) < 1e-5 for row in rows)


def test_the_first_layer_that_leaves_its_bound_is_reported_once(caplog):
    with caplog.at_level(logging.WARNING), Monitor(Chain(TURN, GROW, GROW), modules=[Mixing], bound=1.2) as monitor:
        for _ in range(2):
            passed(monitor, torch.ones(1, 2, 3))
    assert [row["within"] for row in monitor.rows] == [True, False, False]
    assert len(caplog.records) == 1
    assert "step 0: layer 1 (mixings.1) leaves its bound" in caplog.text
    assert monitor.left is not None
    assert (monitor.left["step"], monitor.left["layer"]) == (0, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 8.0, 60.0])
def test_a_correct_projection_never_leaves_its_bound(dtype, scale):
    """Sharp and soft logits, in every emitted dtype, thirty layers deep; log domain and plain divisions."""
    generator = torch.Generator().manual_seed(0)
    monitor = Monitor(dialect=PAPER)
    for _ in range(30):
        logits = scale * torch.randn(16, 4, 4, generator=generator, dtype=compute_dtype(dtype))
        monitor.record(mhc_ref.project(logits, PAPER).to(dtype))
        if scale < 60:  # where whole rows of a softmax do not underflow
            m = logits.softmax(-2)
            for _ in range(20):
                m = m / m.sum(-2, keepdim=True)
                m = m / m.sum(-1, keepdim=True)
            monitor.record(m.to(dtype))
    assert all(row["within"] for row in monitor.flush())


@pytest.mark.parametrize(
    ("dialect", "wrong"),
    [
        (PAPER, lambda m: m.mT),  # columns are not exact: they come out as rows
        (PAPER, lambda m: 1.001 * m),
        (DEEPSEEK_V4, lambda m: m * 1.001),
        (MHC_LITE, lambda m: m + 1e-3),
        (PAPER, lambda m: m * float("nan")),
    ],
)
def test_what_leaves_the_manifold_leaves_its_bound(dialect, wrong, caplog):
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(16, *((24,) if dialect is MHC_LITE else (4, 4)), generator=generator)
    correct = mhc_ref.project(logits, dialect)
    monitor = Monitor(dialect=dialect)
    monitor.record(correct)
    monitor.record(wrong(correct))
    assert [row["within"] for row in monitor.flush()] == [True, False]
    assert "layer 1" in caplog.text
    json.dumps(monitor.rows, allow_nan=False)


def test_limits_follow_the_axis_that_is_normalised_last():
    assert limits_of(PAPER, 4) == {"forward": 1, "backward": 4}
    assert limits_of(DEEPSEEK_V4, 4) == {"forward": 1, "backward": 4}
    assert limits_of(LIGER, 4) == {"forward": 4, "backward": 1}
    assert limits_of(MHC_LITE, 3) == {"forward": 1, "backward": 1}
    for unbounded in (PAPER.with_(iterations=0), mhc_ref.HYPER_CONNECTIONS, None):
        assert limits_of(unbounded, 3) == {}


def test_one_pass_of_so_many_and_a_sample_of_tokens():
    with Monitor(Chain(GROW), modules=["mixings.0"], every=3, tokens=4) as monitor:
        steps = []
        for _ in range(7):
            passed(monitor, torch.ones(10, 2, 3))
            steps.append(monitor.rows[0]["step"])
    assert steps == [0, 0, 0, 3, 3, 3, 6]
    assert monitor.rows[0]["tokens"] == 4


def test_what_is_recomputed_in_a_backward_pass_is_not_counted():
    """Checkpointing calls the modules again when the pass of the model is over."""
    model = Chain(SKEW, GROW)
    x = torch.ones(1, 2, 3)
    with Monitor(model, modules=[Mixing]) as monitor:
        for _ in range(2):
            model(x)
            model.mixings[1](x)
    assert [(row["step"], row["layer"]) for row in monitor.rows] == [(1, 0), (1, 1)]


def test_a_projection_inside_a_module_can_be_watched():
    monitor = Monitor(dialect=PAPER)
    project = monitor.watch(lambda logits: mhc_ref.project(logits, PAPER), name="inner")
    out = project(torch.zeros(3, 2, 2))
    assert torch.equal(out, torch.full((3, 2, 2), 0.5))
    (row,) = monitor.flush()
    assert (row["name"], row["forward_gain"], row["activation_max"], row["dispersion"]) == ("inner", 1, None, None)


def test_layers_of_different_sizes_have_no_composite():
    monitor = Monitor()
    monitor.record(torch.eye(2).expand(3, 2, 2))
    monitor.record(torch.eye(3).expand(3, 3, 3), torch.ones(3, 3, 5))
    first, second = monitor.flush()
    assert first["forward_gain"] is second["backward_gain"] is None
    assert (first["layer_forward_gain"], second["streams"], second["dispersion"]) == (1, 3, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "(1, 2, 3)"), ({"operator": lambda out: out}, "shape (1, 2, 3); expected [..., n, n]")],
)
def test_an_output_without_one_square_is_said_with_its_shapes_and_the_model_runs_on(options, message, caplog):
    model = nn.Sequential(nn.Linear(3, 3))
    x = torch.ones(1, 2, 3)
    with Monitor(model, modules=[nn.Linear], **options) as monitor:
        for _ in range(3):
            assert torch.equal(model(x), model[0](x))
    assert message in caplog.text
    assert len(caplog.records) == 1
    assert (monitor.troubles, monitor.rows) == (3, [])


def test_the_mappings_of_the_reference_need_no_description():
    reference = Decoder(layers=1, n=4, width=8)
    with Monitor(reference, modules=[HyperConnection], dialect=PAPER) as monitor:
        reference(torch.randn(1, 4, 8))  # four tokens of four streams: h_pre is square too
    assert [row["streams"] for row in monitor.rows] == [4, 4]


def test_the_overhead_is_measured():
    found = measured(layers=1, n=2, width=8, tokens=4, batch=1, rounds=3, device="cpu", sampled=4)
    assert list(found["added_percent"]) == ["every pass", "every 10", "no pass recorded"]
    assert all(low <= found["added_percent"][name] <= high for name, (low, high) in found["interval_percent"].items())
    # one pass of each of the three pairs that are counted, and of the two before, and of no other
    assert (found["recorded"], found["pairs"], found["left"]) == (5, 3, None)


def test_the_overhead_is_that_of_pairs_whatever_the_machine_does_meanwhile():
    generator = random.Random(1)
    slow = [2.0 if generator.random() < 0.3 else 1.0 for _ in range(100)]  # of both steps of a pair
    recorded, passed = (Pairs(slow, [one + cost + generator.gauss(0, 0.01) for one in slow]) for cost in (0.2, 0.02))
    for share, expected in ((1, 20), (0.1, 3.8), (0, 2)):
        cost, (low, high) = added(recorded, passed, share, generator)
        assert cost == pytest.approx(expected, abs=0.5)
        assert low <= cost <= high < low + 1


@pytest.mark.slow  # importing transformers takes seconds
@pytest.mark.parametrize(
    ("module", "kind", "configuration"),
    [
        ("deepseek_v4", "DeepseekV4HyperConnection", "DeepseekV4Config"),
        ("glm5_next", "Glm5NextTextHyperConnection", "Glm5NextTextConfig"),
    ],
)
def test_hyper_connections_of_transformers_are_known(module, kind, configuration):
    modeling = pytest.importorskip(
        f"transformers.models.{module}.modeling_{module}", reason="the extra `published` is not installed"
    )
    configurations = importlib.import_module(f"transformers.models.{module}.configuration_{module}")
    config = getattr(configurations, configuration)(hidden_size=8, hc_mult=4)
    connection = getattr(modeling, kind)(config)
    with torch.no_grad():
        for parameter in connection.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    model = nn.Sequential(connection)
    with Monitor(model) as monitor:
        _, comb, _ = model(torch.randn(2, 3, 4, 8))
    assert monitor.rows[0]["layer_backward_gain"] == pytest.approx(comb.sum(-1).max().item())
    assert monitor.rows[0]["within"]


def test_hyper_connections_of_lucidrains_are_known():
    library = pytest.importorskip("hyper_connections.manifold_constrained_hyper_connections")
    init, expand, reduce = library.get_init_and_expand_reduce_stream_functions(3)
    layers = nn.ModuleList([init(dim=4, branch=nn.Linear(4, 4)) for _ in range(2)])
    before = layers[0].residual_mix_constraint_fn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            x = expand(x)
            for layer in self.layers:
                x = layer(x)
            return reduce(x)

    model = Model()
    with Monitor(model) as monitor:
        model(torch.randn(2, 5, 4))
    assert [(row["name"], row["streams"], row["tokens"]) for row in monitor.rows] == [
        ("layers.0", 3, 10),
        ("layers.1", 3, 10),
    ]
    assert all(row["within"] for row in monitor.rows)
    assert monitor.rows[0]["dispersion"] == pytest.approx(0, abs=1e-6)
    assert layers[0].residual_mix_constraint_fn is before


def test_averages_over_tokens_on_one_axis_are_blind_where_the_monitor_is_not():
    once, often, opposed = compared(layers=86, n=4, tokens=64, scale=2.0, seed=0)
    assert once["averaged_row_sums"] == pytest.approx([0.9998, 0.9998], abs=1e-4)
    assert once["column_sums"][0] < 0.3
    assert once["column_sums"][1] > 2.2
    assert often["column_sums"] == pytest.approx([1, 1], abs=0.01)
    assert opposed["averaged_row_sums"] == opposed["averaged_column_sums"] == pytest.approx([1, 1])
    assert opposed["row_sums"][1] > 1e5
