"""Every residual model: the modules of known libraries apply the operator that is recorded; plain stacks have rows."""

import importlib
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from properties.explosion import Monitor


def operators(monitor) -> Any:
    """[T, n, n] of each layer of the last pass, as applied."""
    return [layer.operator for layer, _ in monitor._report._kept[-1].records]


class Nothing(nn.Module):
    """A branch that writes nothing, so that a layer returns A x."""

    def forward(self, x, *_, **options):
        return torch.zeros_like(x)


def randomised(model, scale=0.5):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


@pytest.mark.parametrize(
    "options", [{}, {"num_fracs": 2}, {"channel_first": True}, {"num_input_views": 2}, {"tanh": False}]
)
def test_unconstrained_hyper_connections_of_lucidrains_apply_what_is_recorded(options):
    library = pytest.importorskip("hyper_connections.hyper_connections", reason="the extra `published`")
    layer = randomised(library.HyperConnections(3, dim=8, branch=Nothing(), **options))
    layer.branch.forward = lambda x: torch.zeros_like(x[0] if options.get("num_input_views") else x)
    x = torch.randn(2 * 3, 5, 8).mT if options.get("channel_first") else torch.randn(2 * 3, 5, 8)
    model = nn.Sequential(layer)
    with Monitor(model) as monitor, torch.no_grad():
        out = model(x)
    (operator,) = operators(monitor)
    fractions = options.get("num_fracs", 1)

    def streams(packed):
        """(b s) T (f d) -> [b T, f s, d]"""
        plain = packed.mT if options.get("channel_first") else packed
        parts = plain.reshape(2, 3, 5, fractions, 8 // fractions).permute(0, 2, 3, 1, 4)
        return parts.reshape(10, fractions * 3, 8 // fractions).double()

    assert operator.shape == (10, 3 * fractions, 3 * fractions)
    torch.testing.assert_close(operator @ streams(x), streams(out), rtol=1e-5, atol=1e-5)
    (row,) = monitor.rows
    assert (row["within"], row["streams"], monitor.troubles) == (None, 3 * fractions, 0)
    assert row["activation_max"] == pytest.approx(x.abs().max().item())
    assert "width_connection" not in vars(layer)


@pytest.mark.slow  # importing x-transformers takes seconds
def test_residual_streams_of_x_transformers_apply_what_is_recorded(caplog):
    library = pytest.importorskip("x_transformers.x_transformers", reason="the extra `published`")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = library.Encoder(dim=16, depth=2, heads=2, num_residual_streams=4)
        plain = library.Encoder(dim=16, depth=2, heads=2)
        gated = library.GatedMultiResidual(16, layer_index=0, num_residual_streams=4, read_gate_rank=4)
    torch.manual_seed(0)
    mixing = [one for one in model.modules() if type(one).__name__ == "HyperConnection"]
    with torch.no_grad():
        for one in mixing:
            one.static_alpha.normal_()
            one.dynamic_alpha_fn.normal_()
    with Monitor(model) as monitor, torch.no_grad():
        model(torch.randn(2, 5, 16))
    assert [row["streams"] for row in monitor.rows] == [4] * 4
    assert all(row["gate_saturation"] == 0 for row in monitor.rows)
    # Its matrices of ones (docs/findings.md) multiply the streams by four in each layer.
    assert [row["forward_gain"] for row in monitor.rows] == pytest.approx([4, 16, 64, 256])
    assert "layer 0 (layers.0.2) leaves its bound" in caplog.text
    x = torch.randn(8, 5, 16)
    first = mixing[0]
    box = nn.ModuleList([first])
    box.forward = lambda x: first.prepare(x)[1]
    with Monitor(box) as monitor, torch.no_grad():
        mixed = box(x)
    torch.testing.assert_close(
        operators(monitor)[0] @ x.unflatten(0, (2, 4)).movedim(1, 2).flatten(0, 1).double(),
        mixed.flatten(0, 1).double(),
        rtol=1e-5,
        atol=1e-5,
    )
    # Without streams x' = x + f(x), and with gated ones nothing is mixed.
    with Monitor(plain) as monitor, torch.no_grad():
        plain(torch.randn(2, 5, 16))
    assert [(row["streams"], row["forward_gain"]) for row in monitor.rows] == [(1, None)] * 4
    assert all(row["output_max"] is not None for row in monitor.rows)
    box = nn.ModuleList([gated])
    box.forward = lambda x: gated(torch.zeros(2, 5, 16), gated.prepare(x)[1], beta=torch.zeros(2, 5, 4))
    with Monitor(box) as monitor, torch.no_grad():
        box(x)
    assert [(row["forward_gain"], row["streams"]) for row in monitor.rows] == [(1, 4)]
    assert monitor.troubles == 0


HY = ("hy_v4", "HYV4HyperConnection", "HYV4Config", {"hidden_size": 16, "hc_mult": 4}, (2, 3, 4, 16))
HY_VL = ("hy_v4_vl", "HYV4VLHyperConnection", "HYV4VLTextConfig", {"hidden_size": 16, "hc_mult": 4}, (2, 3, 4, 16))
QWEN = (
    "qwen4_exp",
    "Qwen4ExpTextGatedResidual",
    "Qwen4ExpTextConfig",
    {"hidden_size": 16, "hc_count": 4, "hc_lowrank": 4},
    (2, 3, 64),
)


@pytest.mark.slow  # importing transformers takes seconds
@pytest.mark.parametrize(("module", "kind", "configuration", "sizes", "shape"), [HY, HY_VL, QWEN])
def test_streams_that_are_carried_have_gains_of_one_and_gates(module, kind, configuration, sizes, shape):
    modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}", reason="the extra `published`")
    config = importlib.import_module(f"transformers.models.{module}.configuration_{module}")
    connection = randomised(getattr(modeling, kind)(getattr(config, configuration)(**sizes)), 0.1)
    model = nn.Sequential(connection)
    x = torch.randn(*shape)
    with Monitor(model) as monitor, torch.no_grad():
        model(x)
        first = dict(monitor.rows[0])
        model(1e4 * x)
    assert (first["forward_gain"], first["streams"], first["within"]) == (1, 4, True)
    assert first["activation_max"] == pytest.approx(x.abs().max().item())
    assert first["gate_saturation"] == 0
    assert monitor.troubles == 0


@pytest.mark.slow  # importing transformers takes seconds
def test_the_softmax_before_sinkhorn_and_the_gates_of_deepseek_are_seen_where_they_saturate(caplog):
    modeling = pytest.importorskip(
        "transformers.models.deepseek_v4.modeling_deepseek_v4", reason="the extra `published`"
    )
    config = importlib.import_module("transformers.models.deepseek_v4.configuration_deepseek_v4")
    connection = randomised(modeling.DeepseekV4HyperConnection(config.DeepseekV4Config(hidden_size=8, hc_mult=4)))
    model, x = nn.Sequential(connection), torch.randn(2, 3, 4, 8)
    with Monitor(model) as monitor, torch.no_grad():
        model(x)
        assert monitor.rows[0]["softmax_saturation"] < 0.5
        connection.scale.mul_(1e3)
        model(x)
    assert monitor.rows[0]["softmax_saturation"] > 0.9
    assert monitor.rows[0]["gate_saturation"] > 0.9
    assert monitor.troubles == 0


@pytest.mark.slow  # imports much
def test_the_delayed_read_of_deepseek_v4_1_has_its_mixing_recorded():
    library = pytest.importorskip(
        "nemo_automodel.components.models.deepseek_v41.layers", reason="the extra `nemo-automodel` is not installed"
    )
    numbers = {"hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-20, "hidden_size": 16}
    connection = library.DeepseekV41HyperConnection(SimpleNamespace(**numbers, initializer_range=0.3))
    model = nn.Sequential(connection)
    with Monitor(model) as monitor, torch.no_grad():
        comb = model(torch.randn(2, 4, 4, 16)).comb
    assert monitor.rows[0]["layer_backward_gain"] == pytest.approx(comb.sum(-1).max().item())
    assert (monitor.rows[0]["within"], monitor.troubles) == (True, 0)


# ---- plain stacks


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + self.inner(x).relu()


class Model(nn.Module):
    def __init__(self, depth=4, width=8):
        super().__init__()
        self.into = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, x):
        x = self.into(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_a_plain_stack_has_the_rows_of_its_blocks():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 5, 3)
    with Monitor(model) as monitor, torch.no_grad():
        model(x)
    assert [row["name"] for row in monitor.rows] == [f"blocks.{place}" for place in range(4)]
    with torch.no_grad():
        state = first = model.into(x)
        for row, block in zip(monitor.rows, model.blocks, strict=True):
            assert row["activation_max"] == pytest.approx(state.abs().max().item())
            state = block(state)
            norms = (state.norm(dim=-1) / first.norm(dim=-1)).flatten()
            assert row["output_max"] == pytest.approx(state.abs().max().item())
            assert row["activation_rms"] == pytest.approx(state.square().mean().sqrt().item(), rel=1e-5)
            assert (row["growth"], row["least_growth"]) == pytest.approx((norms.max().item(), norms.min().item()))
            assert row["worst_token"] == norms.argmax().item()
            assert row["headroom"] == pytest.approx(
                torch.finfo(torch.float32).max / max(row["output_max"], row["activation_max"])
            )
            assert (row["tokens"], row["streams"], row["forward_gain"], row["within"]) == (10, 1, None, None)
    assert (monitor.troubles, monitor.departures) == (0, {})


@pytest.mark.parametrize("blocks", [["blocks.1", "blocks.2"], [Block], lambda name, module: isinstance(module, Block)])
def test_blocks_can_be_named(blocks):
    model = Model()
    with Monitor(model, blocks=blocks) as monitor:
        model(torch.randn(2, 5, 3))
    assert len(monitor.rows) == (2 if isinstance(blocks, list) and isinstance(blocks[0], str) else 4)
    with pytest.raises(ValueError, match=r"blocks names blocks\.9, which is not there"):
        Monitor(model, blocks=["blocks.9"])


def test_what_is_no_residual_block_is_said(caplog):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    with Monitor(model, blocks=["0", "1"]) as monitor:
        model(torch.randn(2, 3))
    assert monitor.rows == []
    assert monitor.troubles == 3  # of each block, and that none is left
    assert "0 returns no tensor of the shape that entered it" in caplog.text


def test_the_layers_of_torch_s_transformer_are_known():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    x = torch.randn(2, 5, 16)
    with Monitor(model) as monitor:
        model(x)
    assert [row["name"] for row in monitor.rows] == ["layers.0", "layers.1", "layers.2"]
    assert monitor.troubles == 0


def test_blocks_beside_hyper_connections_are_recorded_in_their_order():
    class Mixing(nn.Module):
        def forward(self, x):
            return torch.eye(2).expand(*x.shape[:-2], 2, 2)

    class Both(Model):
        def __init__(self):
            super().__init__(2)
            self.mix = Mixing()

        def forward(self, x):
            self.mix(torch.ones(2, 5, 2, 3))
            return super().forward(x)

    model = Both()
    with Monitor(model, modules=[Mixing], blocks=[Block]) as monitor:
        model(torch.randn(2, 5, 3))
    assert [(row["name"], row["forward_gain"]) for row in monitor.rows] == [
        ("mix", 1),
        ("blocks.0", None),
        ("blocks.1", None),
    ]


class Attending(nn.Module):
    """Two heads of four channels, whose logits are kept."""

    num_heads = 2

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.out = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        q, k = (one.unflatten(-1, (2, -1)).transpose(1, 2) for one in (self.q_proj(x), self.k_proj(x)))
        self.logits = q @ k.mT / 2
        return x + self.out(x)


@pytest.mark.parametrize("kind", ["named", "packed"])
def test_attention_logits_have_a_cap_that_holds(kind, caplog):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    first = Attending() if kind == "named" else nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(first, Attending())
    with Monitor(model, blocks=["0", "1"], thresholds={"attention": 40.0}) as monitor, torch.no_grad():
        model(x)
        assert monitor.departures == {}
        caps = [row["attention"] for row in monitor.rows]
        assert all(0 < cap < 40 for cap in caps)
        if isinstance(first, Attending):
            q, k = (one(x).unflatten(-1, (2, -1)).norm(dim=-1).max().item() for one in (first.q_proj, first.k_proj))
            assert caps[0] == pytest.approx(q * k / 2)
            assert caps[0] >= first.logits.abs().max().item()
        for parameter in model.parameters():
            parameter.mul_(10)
        model(x)
    assert monitor.departures["attention"]["layer"] == 0
    assert "layer 0 (0): its attention logits may reach" in caplog.text
    assert monitor.troubles == 0
