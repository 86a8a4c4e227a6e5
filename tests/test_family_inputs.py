"""Logits at which mistakes show are asked of the mix: patterns that it takes, how far apart, and what it adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import find
from hypothesis import strategies as st

from mhc_ref import CAYLEY, HYPER_CONNECTIONS, KROMHC, MHC_LITE, PAPER, RESIDUAL, Dialect, registry
from properties.core.family import mix_of
from properties.families import Mix
from properties.strategies import BEYOND_EXP, PATTERNS, Setting, logits_of


class Angles(Mix):
    """Three logits a token, of which those at a quarter turn tell most."""

    name = "test_angles"

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return (3,)

    def project(self, logits: torch.Tensor, dialect: Dialect) -> torch.Tensor:
        raise NotImplementedError

    def telling(self, n: int, dialect: Dialect) -> Any:
        return st.just(np.full(3, np.pi / 2))


@pytest.mark.slow
def test_what_tells_a_mix_alone_is_drawn_beside_the_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", dict(registry._outside))
    setting = Setting(PAPER.with_(residual=registry.register(Angles()).name), (2,), torch.float32)
    quarter = torch.full((3,), torch.pi / 2)
    found = find(logits_of(setting, 2), lambda z: bool((z == quarter).all(1).any()))
    assert found.shape == (1, 3)
    assert find(logits_of(setting, 2), lambda z: bool((z > 2).any())).shape == (1, 3)


def test_a_mix_says_which_patterns_it_takes_and_how_far_apart() -> None:
    everything = tuple(PATTERNS)
    for dialect in (PAPER, HYPER_CONNECTIONS, MHC_LITE, RESIDUAL, KROMHC, CAYLEY):
        mix = mix_of(dialect)
        assert mix.patterns(dialect, everything) == everything
        assert (mix.extreme(dialect) is not None) == (dialect == PAPER)
    unshifted = PAPER.with_(iterations=0)
    assert not set(mix_of(unshifted).patterns(unshifted, everything)) & {*BEYOND_EXP, "wild"}
    assert mix_of(unshifted).extreme(unshifted) == ("starved row", "triangular")


def test_a_mix_says_which_logits_carry_a_permutation() -> None:
    permutation = torch.eye(3)[[1, 2, 0]]
    for dialect in (PAPER, HYPER_CONNECTIONS):
        mix = mix_of(dialect)
        logits = mix.carrying(permutation.double(), dialect)
        assert logits is not None
        assert torch.allclose(mix.project(logits, dialect), permutation.double(), atol=1e-20)
    assert mix_of(MHC_LITE).carrying(permutation, MHC_LITE) is None
