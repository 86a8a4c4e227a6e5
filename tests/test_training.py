"""Small decoders with every residual: they run, with the gradients of their losses, and equal seeds are equal runs."""

import math
from typing import Any

import pytest
import torch

from mhc_ref import PRESETS
from properties.explosion.training.data import text, tokens
from properties.explosion.training.decoder import forward
from properties.explosion.training.initialisations import INITS, initial, shapes
from properties.explosion.training.measures import COMPOSITE, GAINS
from properties.explosion.training.optimisation import Optimiser, factor
from properties.explosion.training.residuals import residual_of
from properties.explosion.training.runs import train
from properties.explosion.training.scan import final
from properties.explosion.training.setup import MLPS, NORMS, OPTIMIZERS, VOCABULARY, Setup

RESIDUALS = ("plain", "hc", "hc-static", *(f"mhc:{preset}" for preset in PRESETS if preset != "HYPER_CONNECTIONS"))


def small(name, **fields: Any):
    """A tiny run; where a projection iterates, three times, which takes the same way as twenty."""
    residual = residual_of(name)
    if residual.dialect is not None and residual.dialect.residual == "sinkhorn":
        residual = residual.iterating(3)
    given: dict[str, Any] = {
        "streams": 1 if residual.dialect is None else 2,
        "width": 8,
        "tokens": 6,
        "steps": 10,
        **fields,
    }
    return Setup(residual, **given)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESIDUALS)
def test_every_residual_trains_with_every_norm_optimiser_and_initialisation(name):
    for index, init in enumerate(INITS):
        setup = small(
            name,
            init=init,
            norm=NORMS[index % len(NORMS)],
            optimizer=OPTIMIZERS[index // len(NORMS) % len(OPTIMIZERS)],
            mlp=MLPS[index % len(MLPS)],
            qk_norm=bool(index % 2),
        )
        runs = train(setup, "forward", [1e-2], [0])
        assert len(runs.losses) == 10
        assert runs.losses.isfinite().all()
        assert runs.gains.isfinite().all()
        moved = (runs.weights[0] != initial(setup, 0)).split([math.prod(shape) for shape in shapes(setup).values()])
        assert all(part.any() for part in moved[:3]), f"{init}: {setup.norm}"  # embeddings and the unembedding
        where = dict(zip(shapes(setup), moved, strict=True))
        assert where["0.rezero" if init == "rezero" else "0.out"].any()


def test_the_pairs_of_the_runs_are_all_pairs():
    """Seven initialisations go round four norms and two optimisers, so that each of these is met by every residual."""
    met = {(NORMS[index % 4], OPTIMIZERS[index // 4 % 2]) for index in range(len(INITS))}
    assert {norm for norm, _ in met} == set(NORMS)
    assert {optimizer for _, optimizer in met} == set(OPTIMIZERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESIDUALS)
def test_gradients_are_the_slopes_of_the_loss(name):
    """Central differences along a direction, in float64: their error is of the order of h^2."""
    for index, norm in enumerate(NORMS):
        for init in ("open-gates", "published")[index % 2 :: 2]:
            setup = small(name, norm=norm, init=init, mlp=MLPS[index % 3], qk_norm=index == 1, clip_activations=50.0)
            given = tokens(setup, 0)[0]
            generator = torch.Generator().manual_seed(1)
            weights = initial(setup, 0)
            weights = weights + 0.05 * torch.randn(len(weights), generator=generator, dtype=torch.float64)
            direction = torch.randn(len(weights), generator=generator, dtype=torch.float64)

            def loss(at, setup=setup, given=given):
                return forward(setup, at, given).loss

            slope = (torch.func.grad(loss)(weights) @ direction).item()
            h = 1e-5
            difference = ((loss(weights + h * direction) - loss(weights - h * direction)) / (2 * h)).item()
            assert difference == pytest.approx(slope, rel=1e-5, abs=1e-7), f"{norm} {init}"


@pytest.mark.slow
def test_equal_seeds_are_equal_runs_alone_and_beside_others():
    setup = small("hc", tokens=16, steps=20)
    alone = train(setup, "forward", [0.05], [3])
    beside = train(setup, "forward", [0.01, 0.05, 0.1], [3, 3, 4])
    assert torch.equal(train(setup, "forward", [0.05], [3]).losses, alone.losses)
    torch.testing.assert_close(beside.losses[:, 1], alone.losses[:, 0], rtol=1e-9, atol=0)
    torch.testing.assert_close(beside.gains[:, 1], alone.gains[:, 0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimisers_are_those_of_torch(optimizer):
    setup = small("plain", optimizer=optimizer, weight_decay=0.1)
    weights = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = weights[0].clone().requires_grad_()
    if optimizer == "adamw":
        torchs = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    else:  # of torch's SGD the decay is part of the gradient, so it is taken off before
        torchs = torch.optim.SGD([theirs], lr=0.01, momentum=0.9)
    ours = Optimiser(setup, torch.tensor([0.01], dtype=torch.float64), weights)
    for step in range(5):
        slope = torch.sin(torch.arange(5, dtype=torch.float64) + step)
        weights = ours.step(weights, slope.unsqueeze(0))
        if optimizer == "sgd":
            theirs.data.mul_(1 - 0.01 * 0.1)
        theirs.grad = slope
        torchs.step()
    torch.testing.assert_close(weights[0], theirs.detach(), rtol=1e-12, atol=1e-15)


def test_clipping_bounds_gradients_and_activations():
    setup = small("plain", optimizer="sgd", clip=0.5)
    start = torch.zeros(1, 4, dtype=torch.float64)
    after = Optimiser(setup, torch.tensor([1.0], dtype=torch.float64), start).step(start, torch.full((1, 4), 3.0))
    assert after.norm().item() == pytest.approx(0.5)
    loose, tight = (small("plain", clip_activations=size, norm="none") for size in (0.0, 1e-3))
    weights, given = initial(loose, 0), tokens(loose, 0)[0]
    assert forward(loose, weights, given).loss != forward(tight, weights, given).loss


def test_schedules_warm_up_and_cool_down():
    cosine = small("plain", schedule="cosine", steps=100)
    factors = [factor(cosine, taken) for taken in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] or factors[10] == max(factors)
    assert factors[99] < 0.01
    assert [factor(small("plain", schedule="warmup"), taken) for taken in (0, 9, 40)] == [0.1, 1.0, 1.0]
    assert factor(small("plain"), 0) == 1.0


def test_the_composite_is_of_the_mappings_that_the_reference_gives():
    """Hyper-connections begin at the identity, so that all gains of the composite are 1; plain has none other."""
    for name in ("plain", "hc", "hc-static"):
        for gain in COMPOSITE:
            assert train(small(name, steps=1), gain, [0.1], [0]).gains.item() == pytest.approx(1.0)


@pytest.mark.parametrize("gain", GAINS)
def test_every_gain_is_measured_and_never_falls(gain):
    gains = train(small("hc", steps=12), gain, [0.1, 0.3], [0, 1]).gains
    assert gains.isfinite().all()
    assert (gains > 0).all()
    assert (gains.diff(dim=0) >= 0).all()
    assert (gains[-1] > gains[0]).all()


def test_the_gain_of_gradients_is_that_of_autograd():
    """One sub-layer without a norm whose branch is 0: the gradient of the state passes as it is."""
    setup = small("plain", depth=1, norm="none", steps=1, init="rezero")
    assert train(setup, "gradient", [0.1], [0]).gains.item() == pytest.approx(1.0)


def test_causality_no_token_sees_what_comes_after_it():
    setup = small("hc", depth=3, tokens=8, init="open-gates")
    weights, given = initial(setup, 0), tokens(setup, 0)[0]
    changed = given.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % VOCABULARY
    first, second = (forward(setup, weights, one).operators[:, :, :6] for one in (given, changed))
    assert torch.equal(first, second)
    assert not torch.equal(*(forward(setup, weights, one).operators for one in (given, changed)))


def test_the_copy_task_repeats_and_the_text_is_source_code():
    setup = small("plain", data="copy", tokens=9)
    rows = tokens(setup, 0)
    assert torch.equal(rows[..., :5], rows[..., 5:])
    assert b"def " in text()
    assert max(text()) < VOCABULARY
    assert not torch.equal(tokens(small("plain"), 0), tokens(small("plain"), 1))


@pytest.mark.slow
def test_training_learns():
    """Nats a token of the plain decoder fall by more than one; so do those of hyper-connections."""
    for name in ("plain", "hc"):
        runs = train(small(name, tokens=32, steps=40), "forward", [0.05], [0])
        assert runs.losses[0].item() - final(runs).item() > 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("mhc:NOTHING", "expected plain, hc"), ("PAPER", "expected plain"), ("hc:PAPER", "expected plain")],
)
def test_a_residual_that_there_is_not_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        residual_of(name)


def test_names_of_residuals():
    assert residual_of("mhc").dialect == PRESETS["PAPER"]
    assert residual_of("mhc:LIGER").dialect == PRESETS["LIGER"]
    assert residual_of("mhc-lite").dialect == PRESETS["MHC_LITE"]
    assert residual_of("kromhc").dialect == PRESETS["KROMHC"]
    assert residual_of("hc-static").static
