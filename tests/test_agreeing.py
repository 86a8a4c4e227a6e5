"""Inputs whose terms agree in sign: nothing cancels at any width, tokens stay apart, and prefixes are prefixes."""

from __future__ import annotations

import pytest
import torch

import mhc_ref
from mhc_ref import Dialect
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.bounds.stages import by_third, products
from properties.strategies import STEADY, agreeing_params, agreeing_state

DIALECTS = (
    mhc_ref.PAPER,
    mhc_ref.DEEPSEEK_V4,
    mhc_ref.LUCIDRAINS,
    mhc_ref.MHC_LITE,
    mhc_ref.HYPER_CONNECTIONS,
    mhc_ref.RESIDUAL,
)
FLOAT32 = Rounding.of(torch.float32)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("columns", [None, 8])
def test_no_sum_over_channels_cancels(dialect: Dialect, columns: int | None) -> None:
    x = agreeing_state(1, 3, 4, 600, torch.float64)
    phi = agreeing_params(1, 4, 600, dialect, torch.float64, columns=columns).phi
    sums = by_third(x, phi, dialect)
    assert torch.allclose(sums.abs(), by_third(x.abs(), phi.abs(), dialect), rtol=1e-12)
    assert bool((sums != 0).all())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tokens_have_logits_of_their_own_at_every_width(dialect: Dialect) -> None:
    x = agreeing_state(2, 2, 4, 4096, torch.float64)
    params = agreeing_params(2, 4, 4096, dialect, torch.float64)
    z = bounds.gated_logits(Approx.exact(x), params, dialect, FLOAT32).value
    assert (z[0] - z[1]).abs().mean() > 0.02


def test_fewer_tokens_and_fewer_channels_are_a_prefix() -> None:
    x = agreeing_state(3, 4, 4, 64, torch.float32)
    assert torch.equal(agreeing_state(3, 2, 4, 33, torch.float32), x[:2, :, :33])


def test_the_last_channels_are_among_those_that_phi_reads() -> None:
    phi = agreeing_params(4, 4, 512, mhc_ref.PAPER, torch.float64, columns=8).phi.unflatten(0, (4, 512))
    read = (phi != 0).any(-1)
    assert read.sum(-1).tolist() == [8] * 4
    assert bool(read[:, -4:].all())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_mapping_is_claimed_at_the_width_of_real_models(dialect: Dialect) -> None:
    x = agreeing_state(5, 2, 4, 8192, torch.float32)
    params = agreeing_params(5, 4, 8192, dialect, torch.float32, columns=32)
    h = bounds.block.coefficients(Approx.exact(x), params, dialect, FLOAT32)
    assert all(bool((part.error <= 0.01).all()) for part in h.parts().values())


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stack_of_64_layers_is_claimed(dialect: Dialect) -> None:
    state = Approx.exact(agreeing_state(6, 1, 4, 8, torch.float32))
    y = state.value[:, 0].sign()
    for layer in range(64):
        params = agreeing_params(layer, 4, 8, dialect, torch.float32, reach=STEADY)
        state = bounds.block.step(state, params, y, dialect, FLOAT32)[1]
    assert bool((state.error <= 0.05 * state.value.abs().amax()).all())


@pytest.mark.parametrize("order", ["ascending", "descending", "zeros between"])
def test_to_add_zeros_rounds_nothing(order: str) -> None:
    """The bound of a sum with a sparse phi holds for a serial sum over all channels, zeros among them."""
    channels, n, dialect = 2048, 2, mhc_ref.PAPER.with_(rms_eps=1.0, rms_eps_inside=False)
    x = agreeing_state(7, 1, n, channels, torch.float32)
    params = agreeing_params(7, n, channels, dialect, torch.float32, columns=8)
    bound = products(Approx.exact(x), params, dialect, FLOAT32)
    flat = x.flatten()
    state = flat / (flat.square().mean().sqrt() + 1)
    terms = state[:, None] * params.phi
    if order != "zeros between":
        terms = terms.sort(0, descending=order == "descending").values
    total = torch.zeros(terms.shape[1])
    for term in terms:
        total = total + term
    assert bool(((total.double() - bound.value[0]).abs() <= bound.error[0]).all())
