"""What is left of an example after shrinking is small enough to be read, and says what mattered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, find, settings
from test_strategies import asymmetric, distinct_streams, near_permutation, rms, sensitive, spread, unconverged, varied
from torch import Tensor

from mhc_ref import PAPER
from properties.catalogue.deviations import build
from properties.core.case import Case
from properties.core.law import all_laws
from properties.engine.counterexample import Counterexample
from properties.engine.runner import Profile, Subject, examine
from properties.guards.surroundings import drawn_alike
from properties.laws.gradient import projection_pulls
from properties.strategies import Setting, coefficient_cases, projection_cases

QUIET: list[HealthCheck] = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
"""Examples are batches on purpose."""

THREE = Setting(PAPER, (3,), torch.float32)
ANY = Setting(PAPER, (1, 2, 3, 4, 5, 8), torch.float32)

NOISY = pytest.mark.xfail(reason="the noise of a pattern cannot be shrunk away from its structure", strict=True)


def smallest(strategy: Any, event: Callable[[Case], Any]) -> Case:
    """The minimal example of an event."""
    configured = settings(
        max_examples=2000, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET
    )
    with drawn_alike():
        return find(strategy, event, settings=configured)


def readable(tensor: Tensor) -> bool:
    """Multiples of 1/8: nothing that a seed made."""
    return bool((tensor.double() * 8 % 1 == 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("frame", [THREE, ANY], ids=["n = 3", "any n"])
def test_an_asymmetric_matrix_shrinks_to_a_few_entries(frame: Setting) -> None:
    logits = smallest(projection_cases(frame), asymmetric).logits
    assert logits.shape == (1, 3, 3)
    assert (logits != 0).sum() <= 3
    assert readable(logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "nonzero"),
    [
        pytest.param(lambda c: (spread(c.logits) > 20).any(), 3, id="a wide range", marks=NOISY),
        pytest.param(unconverged, 5, id="no convergence", marks=NOISY),
        pytest.param(near_permutation, 3, id="a near permutation"),
    ],
)
def test_structured_logits_shrink_to_their_structure(event: Callable[[Case], Any], nonzero: int) -> None:
    logits = smallest(projection_cases(THREE), event).logits
    assert len(logits) == 1
    assert (logits != 0).sum() <= nonzero
    assert readable(logits)


@pytest.mark.slow
def test_a_state_shrinks_to_a_ramp_and_parameters_to_zero() -> None:
    case = smallest(coefficient_cases(THREE), distinct_streams)
    assert case.x.tolist() == [[[1.0], [2.0], [3.0]]]
    assert not any(part.any() for part in (case.params.phi, case.params.bias))
    assert case.params.alpha.tolist() == [1, 1, 1]
    assert case.params.norm_weight is None


@pytest.mark.slow
def test_a_small_state_shrinks_to_a_scaled_ramp() -> None:
    case = smallest(coefficient_cases(THREE), lambda c: ((rms(c) < 1e-5) & (rms(c) > 0)).any())
    assert torch.equal(case.x, torch.tensor([[[1.0], [2.0], [3.0]]]) * 1e-6)


@pytest.mark.slow
def test_an_effective_phi_shrinks_to_one_entry() -> None:
    params = smallest(coefficient_cases(THREE), sensitive).params
    assert (params.phi != 0).sum() == 1
    assert not params.bias.any()


@pytest.mark.slow
def test_a_cotangent_shrinks_to_one_entry() -> None:
    case = smallest(projection_pulls(THREE), lambda c: varied(c.cotangent))
    assert case.cotangent.flatten().tolist() == [1] + [0] * 8
    assert not case.logits.any()


# Failures


def failure(law: str, deviation: str, directory: Path, randomness: int = 0) -> Counterexample:
    """The counterexample that is left. A fixed seed: a derandomised search depends on the source of the runner."""
    subject = Subject(f"deviation:{deviation}", build(deviation, PAPER), torch.float32, torch.device("cpu"))
    verdict = examine(all_laws()[law], subject, Profile(examples=200), directory=directory, randomness=randomness)
    assert verdict.status == "failed"
    assert verdict.counterexample is not None
    return Counterexample.load(verdict.counterexample)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["mixing.permutations-carry-streams", "block.permutation-limit-carries-streams"])
def test_a_transposed_h_res_shrinks_to_three_numbers_and_a_cycle(law: str, tmp_path: Path) -> None:
    case = failure(law, "h-res-transposed", tmp_path).case
    assert case.x.numel() == 3
    assert set(case.x.flatten().tolist()) <= {0, 1, 2, 3}
    assert tuple(case.order) in ((1, 2, 0), (2, 0, 1))


@pytest.mark.slow
def test_a_transposed_h_res_shrinks_in_a_whole_block(tmp_path: Path) -> None:
    """Of nineteen seeds fourteen end so; the others keep noise in which the failure was found."""
    cases = [failure("block.agrees-with-oracle", "h-res-transposed", tmp_path, number).case for number in range(5, 10)]
    assert all(case.x.numel() <= 3 for case in cases)
    assert all(case.branch.kind == "zero" for case in cases)
    simple = [not c.params.phi.any() and (c.params.bias != 0).sum() <= 2 and readable(c.params.bias) for c in cases]
    assert simple[0]
    assert sum(simple) >= 4


@pytest.mark.slow
def test_ignored_gates_shrink_to_one_gate(tmp_path: Path) -> None:
    case = failure("coefficients.agrees-with-oracle", "gates-ignored", tmp_path).case
    assert case.x.tolist() == [[[1.0]]]
    assert (case.params.alpha != 1).sum() == 1
    assert not case.params.bias.any()
    assert (case.params.phi != 0).sum() <= 2
