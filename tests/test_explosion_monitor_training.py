"""Training as people do it: checkpoints, accumulation, autocast, compilers, several processes; gradients and births."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_explosion_monitor import GROW, SKEW, Chain, Mixing
from test_explosion_monitor_models import Block, Model
from torch import nn
from torch.utils.checkpoint import checkpoint

from properties.explosion import Monitor

X = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))


def gains(monitor):
    return [(row["layer"], row["forward_gain"]) for row in monitor.rows]


class Checkpointed(Chain):
    """x' = A x, each layer recomputed in the backward pass."""

    reentrant = False

    def forward(self, x):
        def layer(mixing, x):
            return mixing(x) @ x

        for mixing in self.mixings:
            x = checkpoint(layer, mixing, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_what_a_checkpoint_computes_again_is_no_second_pass(reentrant, gradients):
    model = Checkpointed(GROW, GROW)
    model.reentrant = reentrant
    x = torch.ones(1, 2, 3, requires_grad=True)
    with Monitor(model, modules=[Mixing], gradients=gradients) as monitor:
        for _ in range(2):
            model(x).sum().backward()
        assert gains(monitor) == [(0, 1.25), (1, 1.5625)]
    assert (monitor.step, monitor.troubles, monitor.rows[0]["step"]) == (2, 0, 1)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_around_the_whole_model_is_no_second_pass(reentrant):
    model = Chain(GROW, GROW)
    x = torch.ones(1, 2, 3, requires_grad=True)
    with Monitor(model, modules=[Mixing]) as monitor:
        for _ in range(2):
            checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    assert gains(monitor) == [(0, 1.25), (1, 1.5625)]
    assert (monitor.step, monitor.troubles) == (2, 0)


def test_norms_of_gradients_are_those_that_come_to_a_layer(tmp_path):
    torch.manual_seed(0)
    model, path = Model(), tmp_path / "gains.jsonl"
    states = [model.into(X)]
    for block in model.blocks:
        states.append(block(states[-1]))
    expected = torch.autograd.grad(states[-1].square().sum(), states[:-1])
    with Monitor(model, path, gradients=True) as monitor:
        for _ in range(2):
            model(X).square().sum().backward()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["layer"]) for row in rows] == [(step, layer) for step in (0, 1) for layer in range(4)]
    for row, slope in zip(rows, (*expected, *expected), strict=True):
        assert row["gradient_norm"] == pytest.approx(slope.norm().item(), rel=1e-5)
    assert (monitor.troubles, monitor.departures) == (0, {})


def test_gradients_that_vanish_on_their_way_back_are_said(caplog):
    class Faint(nn.Module):
        def forward(self, x):
            return x - 0.99 * x

    model = nn.Sequential(*(Faint() for _ in range(5)))
    with Monitor(model, gradients=True, thresholds={"shrink": None}) as monitor:
        model(X.clone().requires_grad_()).sum().backward()
        assert monitor.departures == {}
    assert monitor.departures["gradient vanishes"]["layer"] == 0
    assert "layer 0 (0): its gradient is 1e-08 of the one at the last layer" in caplog.text


def test_passes_without_gradients_have_rows_at_once(tmp_path):
    model, path = Model(), tmp_path / "gains.jsonl"
    with Monitor(model, path, gradients=True), torch.no_grad():
        model(X)
        assert len(path.read_text().splitlines()) == 4


def test_accumulation_evaluation_and_autocast_are_passes_like_others():
    model = Model()
    with Monitor(model, clock=lambda: 7) as monitor:
        for _ in range(2):
            model(X).sum().backward()
        assert [(row["step"], row["forward"], row["training"]) for row in monitor.rows[:1]] == [(7, 1, True)]
        model.eval()
        with torch.no_grad():
            model(X)
        assert (monitor.rows[0]["forward"], monitor.rows[0]["training"]) == (2, False)
        with torch.autocast("cpu", torch.bfloat16):
            model(X)
        # The residual is float32 only where autocast leaves it so: headroom is that of what is carried.
        assert monitor.rows[0]["headroom"] is not None
    assert monitor.troubles == 0


@pytest.mark.parametrize("place", ["inside", "between", "head", "weight"])
def test_what_is_not_finite_is_followed_to_where_it_began(place, caplog):
    class Odd(Block):
        def forward(self, x):
            if place == "between":
                return x + self.inner(x / 0).relu()
            return super().forward(x)

    torch.manual_seed(0)
    model = Model()
    model.blocks[2] = Odd(8)
    head = model.head = nn.Linear(8, 2)
    model.forward = lambda x: head(Model.forward(model, x))
    with torch.no_grad():
        if place in ("inside", "weight"):
            model.get_parameter("blocks.2.inner.weight")[0, 0] = float("inf" if place == "inside" else "nan")
        if place == "head":
            model.get_parameter("head.weight").fill_(3e38)
    with Monitor(model, blocks=[Block]) as monitor, torch.no_grad():
        model(X)
    expected = {
        "inside": "blocks.2.inner (Linear), whose weight is not finite itself",
        "weight": "blocks.2.inner (Linear), whose weight is not finite itself",
        "between": "after blocks.1.inner (Linear), before blocks.2.inner (Linear)",
        "head": "head (Linear)",
    }[place]
    row = monitor.rows[-1] if place == "head" else next(row for row in monitor.rows if row["leaves"])
    assert row["born"] == expected
    assert row["layer"] == (3 if place == "head" else 2)
    assert f"first not finite: {expected}" in caplog.text
    assert monitor.troubles == 0


def test_a_mask_of_infinities_is_no_accident():
    class Masked(Model):
        def __init__(self):
            super().__init__()
            self.softmax = nn.Softmax(-1)

        def forward(self, x):
            self.softmax(torch.tensor([[0.0, -torch.inf]]))
            return super().forward(x) * torch.nan

    model = Masked()
    with Monitor(model, blocks=[Block]) as monitor, torch.no_grad():
        model(X)
    assert monitor.rows[-1]["born"] == "what no module gave away"


def test_what_is_lost_between_two_recorded_passes_is_told_at_once_and_looked_at_in_the_next(caplog):
    model = Model()
    with Monitor(model, every=10) as monitor, torch.no_grad():
        for step in range(4):
            if step == 2:
                model.get_parameter("blocks.1.inner.weight").fill_(torch.nan)
            model(X)
            assert ("output not finite" in monitor.departures) == (step >= 2)
    assert "step 2: what the model returned is not finite" in caplog.text
    lost = monitor.departures["not finite"]
    assert (lost["step"], lost["layer"]) == (3, 1)
    assert lost["born"].startswith("blocks.1.inner (Linear)")


def test_streams_that_collapse_are_told_and_copies_at_the_beginning_are_not(caplog):
    mean = [[0.5, 0.5], [0.5, 0.5]]
    for begins_as_copies in (True, False):
        model = Chain(SKEW, mean, SKEW)
        x = torch.ones(3, 2, 4)
        if not begins_as_copies:
            x[:, 0] = -1
        with Monitor(model, modules=[Mixing]) as monitor:
            model(x)
        assert ("collapses" in monitor.departures) != begins_as_copies
    assert "layer 2 (mixings.2): its streams have collapsed" in caplog.text


@pytest.mark.slow  # compilers take seconds
def test_a_compiled_model_trains_as_one_that_is_not_watched_and_is_seen():
    """Through autograd's own graphs, which drop what has no effect and may change an order."""

    def trained(watched):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = nn.Sequential(Model(), nn.Unflatten(-1, (2, 4)), Chain(GROW, SKEW))
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        monitor = Monitor(model, modules=[Mixing], blocks=[Block], thresholds=False)
        if watched:
            monitor.__enter__()
        for _ in range(3):
            loss = compiled(torch.randn(2, 5, 3)).square().sum()
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, slope in zip(model.parameters(), slopes, strict=True):
                    parameter -= 1e-4 * slope
        monitor.__exit__(None, None, None)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), monitor

    (plain, _), (watched, monitor) = trained(False), trained(True)
    torch.testing.assert_close(plain, watched, rtol=0, atol=0)
    assert [row["name"] for row in monitor.rows[3:]] == ["0.blocks.3", "2.mixings.0", "2.mixings.1"]
    assert (monitor.step, monitor.troubles) == (3, 0)
    assert all(row["activation_max"] for row in monitor.rows)


RANKS = """
import json, os, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from properties.explosion import Monitor
from test_explosion_monitor_models import Model
rank, folder = int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
for kind in ("ddp", "fsdp2"):
    torch.manual_seed(0)
    model = Model()
    if kind == "ddp":
        watched = nn.parallel.DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (2,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        watched = fully_shard(model, mesh=mesh)
    with Monitor(watched, f"{folder}/{kind}.jsonl", gradients=True, run="together") as monitor:
        for step in range(3):
            watched((1 + 9 * rank) * torch.ones(2, 5, 3)).square().sum().backward()
        worst = [monitor.rows[0]["activation_max"], monitor.rows[0]["ranks"], len(monitor.rows)]
        if rank == 0 and kind == "ddp":
            with torch.no_grad():  # one rank looks at how it does, and no other is waited for
                watched.eval()(torch.ones(2, 5, 3))
    print(json.dumps([kind, *worst, monitor.troubles]))
dist.barrier()  # who leaves first would take the other's connections along
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # threads of gloo may still end while the interpreter does, which aborts it
"""


@pytest.mark.slow  # two processes
def test_of_two_ranks_one_writes_the_worst_of_both(tmp_path):
    tests = str(Path(__file__).parent)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, tests, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [one.communicate(timeout=120) for one in started]
    assert [one.returncode for one in started] == [0, 0], ended[0][1] + ended[1][1]
    torch.manual_seed(0)
    largest = Model().into(10 * torch.ones(2, 5, 3)).abs().max().item()
    steps = [(step, layer) for step in range(3) for layer in range(4)]
    for kind, alone in (("ddp", [(3, layer) for layer in range(4)]), ("fsdp2", [])):
        rows = [json.loads(line) for line in (tmp_path / f"{kind}.jsonl").read_text().splitlines()]
        assert [(row["step"], row["layer"]) for row in rows] == steps + alone
        assert [row["ranks"] for row in rows] == [2] * 12 + [None] * len(alone)
        assert rows[0]["activation_max"] == pytest.approx(largest, rel=1e-5)
        assert all(row["gradient_norm"] > 0 for row in rows[:12])
    shown = [[json.loads(line) for line in out.splitlines()] for out, _ in ended]
    assert shown[0] == shown[1]
    assert [one[2:] for one in shown[0]] == [[2, 4, 0], [2, 4, 0]]
    assert sorted(one.name for one in tmp_path.glob("*.jsonl")) == ["ddp.jsonl", "fsdp2.jsonl"]
