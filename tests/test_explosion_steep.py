"""Gradients of blocks: what is claimed of an input is what automatic differentiation has there, within the bounds."""

import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch

import mhc_ref
from mhc_ref import DEEPSEEK_V4, PAPER
from properties.explosion import find_minimal, load, replay, save
from properties.explosion.configurations import Block
from properties.explosion.options import NORMS
from properties.explosion.proofs.branches import BRANCHES as PROVED
from properties.explosion.proofs.envelopes import envelope
from properties.explosion.questions.families import ask
from properties.explosion.searches.blocks import branch_output, kept_by, normalised, params, value
from properties.explosion.searches.steep import best

NORMED = PAPER.with_(rms_eps=1e-4)


def _jacobian(question, block, x, branch):
    """[N, N] of a stack on a state x [..., n, C]."""
    dialect = question.dialect

    def stack(x):
        for _ in range(block.depth):
            x = mhc_ref.block(x, params(block, dialect), branch, dialect)
            x = normalised(x, dialect) if question.norm == "post" else x
        return x

    return torch.autograd.functional.jacobian(stack, x).reshape(x.numel(), x.numel())


@pytest.mark.parametrize(
    ("branch", "norm"),
    [*itertools.product(("gated", "gelu", "sigmoid", "tanh", "relu"), NORMS)],
)
def test_a_gradient_is_that_of_the_reference(branch, norm):
    """The largest absolute row sum of the Jacobian of the stack, at the input that is named."""
    question = ask(f"block:{branch}:{norm}", 2, gain="gradient", branch_bound="0.5", dialect=NORMED, max_width=1)
    block = Block(1, 2, Fraction(1, 2), depth=3, streams=2, width=1)
    way, after = best(question, block, kept_by(question, block))
    # next to 0, where relu has the slope that it has to the right of it
    x = torch.full((2, 1), max(float(way.start), 1e-60), dtype=torch.float64)
    jacobian = _jacobian(question, block, x, lambda u: branch_output(question, block, u))
    claimed = float(value(question, block))
    assert float(after[-1][0]) == claimed
    assert jacobian.abs().sum(1).max().item() == pytest.approx(claimed, rel=1e-6)
    assert claimed <= float(envelope(question, 3, 2, 1)) * (1 + 1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_gate_that_is_held_is_that_of_the_reference(norm):
    question = ask(f"block:gated:{norm}", 2, gain="gradient", dialect=NORMED, max_width=3)
    block = Block(1, 2, Fraction(1), depth=2, streams=2, width=3)
    way, after = best(question, block, kept_by(question, block))

    def branch(u):
        u = normalised(u, NORMED) if norm in ("pre", "sandwich") else u
        y = torch.zeros_like(u)
        y[..., 1] = torch.nn.functional.silu(u[..., 0]) * u[..., 1]
        return normalised(y, NORMED) if norm in ("output", "sandwich") else y

    x = torch.zeros(2, 3, dtype=torch.float64)
    x[:, 0] = float(way.start)
    of_channel_1 = _jacobian(question, block, x, branch).reshape(2, 3, 2, 3)[:, 1].abs().sum((1, 2))
    if norm in ("none", "post"):  # channel 0 alone is steeper
        assert way.words == "one channel"
    else:
        assert of_channel_1.tolist() == pytest.approx([float(after[-1][0])] * 2, rel=1e-9)
    assert float(after[-1][0]) <= float(envelope(question, 2, 2, 3))


def _attention(u, g, h):
    """Causal, of tokens u [T, C]: queries read channel 0, keys and values channel 1, and channel 0 is written."""
    logits = h * torch.outer(u[:, 0], u[:, 1])
    shares = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), -torch.inf).softmax(-1)
    y = torch.zeros_like(u)
    y[:, 0] = g * shares @ u[:, 1]
    return y


@pytest.mark.slow
@pytest.mark.parametrize("score_bound", ["0.1", 1, 8])
@pytest.mark.parametrize("streams", [1, 3])
def test_a_gradient_of_two_tokens_is_that_of_the_reference(score_bound, streams):
    question = ask(
        "block:attention", 2, gain="gradient", max_tokens=2, max_width=2, branch_bound="0.75", score_bound=score_bound
    )
    block = Block(1, 2, Fraction(3, 4), depth=3, streams=streams, width=2, tokens=2)
    largest = 0.0
    for query in range(5):
        x = torch.zeros(2, streams, 2, dtype=torch.float64)
        x[0, :, 1], x[1, :, 1], x[1, :, 0] = -1, 1, query / 4
        jacobian = _jacobian(question, block, x, lambda u: _attention(u, 0.75, float(score_bound)))
        row = jacobian.reshape(2, streams, 2, -1)[1, :, 0].abs().sum(-1)
        largest = max(largest, row.max().item())
    assert float(value(question, block)) == pytest.approx(largest, rel=1e-12)
    assert largest <= float(envelope(question, 3, streams, 2))


def test_no_attention_of_several_tokens_is_steeper_than_its_bound():
    """1 + 2 h v^2: of a thousand drawn inputs, queries and keys none passes it, and 1 + h v^2 is attained."""
    generator = torch.Generator().manual_seed(0)
    h, most = 2.0, 0.0
    for turn in range(1000):
        tokens, channels, v = 2 + turn % 3, 3, 0.25 + turn % 4 / 2
        u = (2 * torch.rand(tokens, channels, dtype=torch.float64, generator=generator) - 1) * v
        if turn % 2:
            u = u.sign() * v
        form = torch.zeros(channels, channels, dtype=torch.float64)
        form[turn % 3, turn // 3 % 3] = h  # |u^T M w| <= h |u| |w|

        def answer(u, form=form):
            return ((u @ form @ u.mT)[-1].softmax(-1) @ u)[turn // 9 % 3]  # noqa: B023

        slope = torch.autograd.functional.jacobian(answer, u).abs().sum().item()
        assert slope <= (1 + 2 * h * v * v) * (1 + 1e-12)
        most = max(most, slope / (1 + h * v * v))
    assert most > 1


@pytest.mark.slow
def test_several_tokens_make_the_gradient_of_attention_explode():
    """One token has 3^L; with logits of up to 8 |u| |w| two have 17^L and more."""
    asked: dict[str, Any] = {"gain": "gradient", "max_streams": 1, "max_width": 2, "score_bound": 8}
    found = find_minimal("block:attention", 5000, max_tokens=2, **asked)
    assert (found.depth, found.minimality, found.configuration.tokens) == (3, "searched", 2)
    alone = find_minimal("block:attention", 5000, gain="gradient", max_streams=1, max_width=2)
    assert (alone.depth, alone.minimality) == (8, "proved")
    assert "typical at initialisation: " in found.to_text()
    impossible = find_minimal("block:attention", 40, max_tokens=2, max_depth=1, **asked)
    assert impossible.impossible
    assert "1 sub-layers stay below 35.0" in impossible.proof


def test_two_tokens_are_saved_and_fail_again(tmp_path):
    path = tmp_path / "x.safetensors"
    found = save(find_minimal("block:attention", 30, gain="gradient", max_tokens=2, max_width=2, score_bound=8), path)
    assert load(path) == found
    assert replay(path).verdict == "FAILED"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "threshold", "size"),
    [
        ("block:relu:pre", "1e12", (4, 1, 1)),  # 1 + 2 / sqrt(1e-6) a sub-layer
        ("block:sigmoid", 100, (5, 4, 1)),  # 1 + 2 n / 4
        ("block:linear:post", "1e10", (3, 1, 1)),
        ("block:gelu:pre", "1e9", (3, 1, 1)),  # 1 + 2 gelu'(0) / sqrt(1e-6), and no more than 2 of them reach
    ],
)
def test_what_is_steepest_at_zero_is_proved(family, threshold, size):
    found = find_minimal(family, threshold, gain="gradient", dialect=DEEPSEEK_V4)
    assert (found.depth, found.streams, found.width) == size
    assert found.minimality == "proved"


@pytest.mark.slow
def test_what_is_searched_says_so():
    found = find_minimal("block:gelu", 33, gain="gradient", max_streams=1)
    assert (found.found, found.minimality) == (True, "searched")
    gate = find_minimal("block:gated:pre", "1e30", gain="gradient", dialect=DEEPSEEK_V4, max_width=2)
    assert (gate.found, gate.minimality, gate.width) == (True, "searched", 2)
    assert "channel 0, which the gate reads" in gate.to_text()
    one_token = find_minimal("block:attention", 8, gain="gradient", max_streams=1)
    assert "slope of at most 1, of one token" in one_token.proof


def test_a_difference_of_sigmoids_is_steepest_at_zero():
    branch = PROVED["sigmoid"]
    assert branch.origin
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    difference = (branch.acts(z) - branch.acts(-z)) / 2
    (slope,) = torch.autograd.grad(difference.sum(), z)
    assert (difference.item(), slope.item()) == (0, 0.25)


def test_the_slope_of_a_normalisation_at_zero_is_what_the_gradient_claims():
    asked = ask("block:linear:pre", 2, gain="gradient", dialect=PAPER.with_(rms_eps=1e-6))
    block = Block(0, 0, Fraction(1, 10), depth=1, streams=1, width=1)
    u = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(branch_output(asked, block, u).sum(), u)
    assert slope.item() == pytest.approx(0.1 / 1e-3)
    assert float(value(asked, block)) == pytest.approx(1 + 0.5 * slope.item())
