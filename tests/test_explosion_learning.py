"""Learning rates: constrained mixing keeps its caps after any step at any rate; unconstrained mixing has none."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LIGER, LUCIDRAINS, MHC_LITE, PAPER, Params
from mhc_ref.block import gated_logits
from mhc_ref.exact import Exact
from properties.explosion.composite import composite, line_gain
from properties.explosion.mixing import of_dialect
from properties.explosion.proofs.learning import after_one_step, unconstrained_gain
from properties.explosion.proofs.manifold import cap
from properties.explosion.questions.families import ask

RATES = (1e-3, 1.0, 1e3, 1e6, 1e12)
DOUBT = Fraction(1, 10**40)  # what the oracle's 50 digits leave open in a product of a few matrices


def within(reached, limit, mp):
    """reached <= limit (1 + DOUBT). In mpmath throughout: in floats 1 + 1e-40 is 1, and 41/40 another number."""
    most = limit * (1 + DOUBT)
    return bool(reached * most.denominator <= mp.mpf(most.numerator))


def within_caps(logits, dialect):
    """Both gains of the composite against the proved caps; in mpmath, for exp(-1e12) is too long for fractions."""
    oracle = Exact(dialect, digits=50)
    depth, n = logits.shape[:2]
    product = oracle.mp.eye(n)
    for one in logits.tolist():
        emitted = oracle.mp.matrix(oracle.project(one))
        product = (emitted.T if dialect.transposed else emitted) * product
    limits = {gain: cap(ask("mhc", 2, gain=gain, dialect=dialect), n, depth).limit for gain in ("forward", "backward")}
    sums = {
        "forward": max(oracle.mp.fsum(product[i, j] for j in range(n)) for i in range(n)),
        "backward": max(oracle.mp.fsum(product[i, j] for i in range(n)) for j in range(n)),
    }
    return all(within(sums[gain], limits[gain], oracle.mp) for gain in limits)


def climbing(mixing):
    """Operators whose row sums have a gradient. Those that are normalised last have none: the other gain is taken."""

    def free(at):
        made = mixing.operators(at)
        return made.mT.flip(0) if abs(made.sum(-1) - 1).max() < 1e-3 else made

    return free


@pytest.mark.parametrize("limit", [Fraction(1), Fraction(41, 40), Fraction(13, 4)])
def test_a_cap_is_left_by_what_fifty_digits_can_tell_and_not_by_what_they_round(limit):
    mp = Exact(PAPER, digits=50).mp
    at = mp.mpf(limit.numerator) / limit.denominator
    for power, kept in ((30, False), (38, False), (42, True), (65, True)):
        assert within(at * (1 + mp.mpf(10) ** -power), limit, mp) is kept
    assert within(at * (1 - mp.mpf(10) ** -30), limit, mp)


def test_caps_are_left_by_the_wrong_axis():
    """The comparison can fail: columns that are free, held against the caps of rows."""
    logits = torch.tensor([[[0.0, -9.0, -9.0], [0.0, -9.0, -9.0], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    assert within_caps(logits, PAPER)
    oracle = Exact(PAPER, digits=50)
    free = max(map(oracle.mp.fsum, zip(*oracle.project(logits[0].tolist()), strict=True)))
    assert not within(free, cap(ask("mhc", 2, gain="forward", dialect=PAPER), 3, 1).limit, oracle.mp)


def test_a_sum_that_rounding_makes_larger_than_one_is_within_its_cap():
    """These logits sum to 1 + 9.5e-66 in 50 digits."""
    logits = 2 * torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(495115))
    assert within_caps(after_one_step(logits, climbing(of_dialect(LUCIDRAINS)), 1e-3), LUCIDRAINS)


@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4, LIGER, LUCIDRAINS, PAPER.with_(iterations=1)])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), rate=st.sampled_from(RATES), n=st.integers(2, 4), depth=st.integers(1, 3))
def test_static_logits_keep_their_caps_after_a_step_at_any_rate(dialect, seed, rate, n, depth):
    """The step is along the gradient of the very gain that is capped, on whichever axis is free."""
    logits = 2 * torch.randn(depth, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    stepped = after_one_step(logits, climbing(of_dialect(dialect)), rate)
    assert torch.isfinite(stepped).all()
    assert within_caps(stepped, dialect)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4])
def test_all_parameters_of_a_block_keep_the_caps_after_a_step_at_any_rate(dialect, rate):
    """phi, bias, gates and all: what they make of any state is a finite logit."""
    generator = torch.Generator().manual_seed(0)
    n, channels = 4, 3

    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x, size = drawn(2, n, channels), 2 * n + n * n
    parts = [one.requires_grad_() for one in (drawn(n * channels, size), drawn(size), drawn(3))]
    out = mhc_ref.block(x, Params(*parts), torch.tanh, dialect)
    slopes = torch.autograd.grad((out * drawn(*out.shape)).sum(), parts)
    stepped = Params(*(part.detach() + rate * slope for part, slope in zip(parts, slopes, strict=True)))
    logits = gated_logits(drawn(2, n, channels), stepped, dialect)[..., 2 * n :].unflatten(-1, (n, n))
    assert logits.abs().max() > 0.1 * min(rate, 1e6) / 10  # the step was one
    assert within_caps(logits, dialect)


def test_a_mixture_of_permutations_keeps_sums_of_one():
    generator = torch.Generator().manual_seed(0)
    logits = 1e6 * torch.randn(5, 24, dtype=torch.float64, generator=generator)
    mixed = mhc_ref.project(logits, MHC_LITE)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(5, 4, dtype=torch.float64))
    torch.testing.assert_close(mixed.sum(-2), torch.ones(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("n", "depth"), [(1, 1), (2, 3), (4, 1), (4, 5)])
def test_unconstrained_mixing_grows_without_bound_in_the_rate(rate, n, depth):
    """The positive control: the gain after one step from the identity is 1 + n ((1 + r)^L - 1)."""
    identity = torch.eye(n, dtype=torch.float64).repeat(depth, 1, 1)
    stepped = after_one_step(identity, lambda at: at, rate)
    operators = tuple(tuple(tuple(map(Fraction, row)) for row in one) for one in stepped.tolist())
    expected = unconstrained_gain(Fraction(rate), n, depth)
    assert float(line_gain(composite(operators), "forward")) == pytest.approx(float(expected), rel=1e-12)
    assert expected >= 1 + n * Fraction(rate)
    assert rate < 1 or expected > n  # beyond what any constrained mixing can have
