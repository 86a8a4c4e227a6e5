"""The laws of training: caps hold at every step of any run, and every way to break them is found and shrunk."""

import pytest
from hypothesis import given, settings

from properties.explosion.searches.hypothesise import Clock, smallest
from properties.explosion.training.laws import FAULTS, Case, broken, cases
from properties.explosion.training.residuals import residual_of
from properties.explosion.training.setup import Setup


@pytest.mark.slow
@settings(max_examples=10, deadline=None, database=None, derandomize=True)
@given(cases())
def test_constrained_mixing_keeps_its_caps_at_every_step_of_every_run(case):
    found = broken(case)
    assert found is None, f"{found} ({case})"


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_a_run_breaks_a_law_and_is_shrunk(fault):
    """The smallest is one sub-layer of two streams, one token, and as few steps as the fault needs."""

    def condition(case):
        return broken(case) is not None

    found = smallest(cases(fault, ("mhc",), most=2), condition, seed=0, clock=Clock(1e6), examples=20)
    assert found is not None
    setup = found.setup
    assert (setup.depth, setup.streams, setup.tokens, setup.steps, found.seed) == (1, 2, 1, 1, 0)
    assert str(broken(found)).startswith("step 1: the ")


def test_a_matrix_that_the_optimiser_changes_is_within_its_caps_until_it_does():
    setup = Setup(residual_of("mhc"), depth=1, streams=2, tokens=2, steps=3, fault="direct")
    found = broken(Case(setup, 0.1, 0))
    assert found is not None
    assert found.step == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mhc", "mhc-lite", "cayley"])
def test_a_run_at_a_huge_rate_keeps_its_caps(name):
    setup = Setup(residual_of(name), depth=2, streams=4, tokens=2, steps=3, init="open-gates")
    assert broken(Case(setup, 10.0, 0)) is None


def test_too_few_iterations_are_seen_where_the_caps_alone_are_not_broken():
    """After one iteration no gain is above n, and the columns are not what twenty leave of logits as small as these."""
    setup = Setup(residual_of("mhc"), depth=1, streams=3, tokens=4, steps=1, init="deepseek", fault="iterations-one")
    found = broken(Case(setup, 0.1, 0))
    assert found is not None
    assert found.gain == "backward"
    assert found.value < 3


def test_what_has_no_caps_is_refused():
    for name in ("plain", "hc"):
        with pytest.raises(ValueError, match="has no caps"):
            broken(Case(Setup(residual_of(name), streams=1 if name == "plain" else 2), 0.1, 0))
