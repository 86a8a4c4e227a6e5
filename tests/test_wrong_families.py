"""A family from outside that is wrong itself is told so, and no implementation is accused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import Dialect, registry
from mhc_ref.packing import logits_shape
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.core.exact_truth import ExactTruth
from properties.families import Guarantees, Mix
from properties.guards.faults import HarnessError


class Bent(Mix):
    """tanh of each logit: equivariant, and nothing else."""

    name = "test_bent"
    words = "the tanh of its logits"
    roundings = 8

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return logits.tanh()

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> Any:
        return [[real.tanh(z[n * i + j]) for j in range(n)] for i in range(n)]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Registers a changed `Bent` for the time of a test."""
    monkeypatch.setattr(registry, "_outside", dict(registry._outside))
    return lambda **changed: registry.register(type("Changed", (Bent,), changed))


def asked(family: Any) -> Tensor:
    """What a law asks first."""
    dialect = Dialect(residual=family.name)
    ExactTruth(dialect)
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1))
    return bounds.projection(Approx.exact(logits), dialect, Rounding.of(torch.float32)).error


def raises(*given: Any) -> Any:
    raise ZeroDivisionError("by my own hand")


def claiming(**claims: Any) -> dict[str, Any]:
    return {"guarantees": lambda self, dialect: Guarantees(**claims)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (claiming(nonnegative=True), "guarantees that no entry is below 0"),
        (claiming(sums="column"), "guarantees that the entries of each column sum to 1"),
        (claiming(capped="row"), "guarantees that the absolute entries of each row sum to at most 1"),
        (claiming(orthogonal=True), "guarantees that M M.T is the identity"),
        (claiming(nonexpansive=True), "guarantees that no vector becomes longer"),
        (claiming(constant=True), "guarantees that M does not depend on the logits"),
        (claiming(shift="row"), "guarantees that a constant added to a row of logits changes nothing"),
        ({"guarantees": lambda self, dialect: {"sums": "row"}}, "expected a Guarantees"),
        ({"guarantees": raises}, r"cannot say what it guarantees: ZeroDivisionError: by my own hand \(test_wrong"),
        ({"exact": raises}, r"cannot be used for .*: ZeroDivisionError: by my own hand \(test_wrong"),
        ({"exact": None}, "has no formula in mpmath"),
        ({"exact": lambda self, z, n, d, real: [[real.tanh(z[0])]]}, "gives 1 numbers in mpmath and 9 in torch"),
        ({"project": lambda self, z, d: z.tanh().flatten(-2)}, r"gives M of shape \(9,\) in torch; expected \(3, 3\)"),
        ({"project": raises}, "ZeroDivisionError: by my own hand"),
    ],
)
def test_a_family_that_is_wrong_accuses_nobody(changed: dict[str, Any], said: str, registered: Any) -> None:
    family = registered(**changed)
    for _ in range(2):  # the second time it is not asked again, and is as wrong
        with pytest.raises(HarnessError, match=f"(?s)the mix family 'test_bent'.*{said}"):
            asked(family)


@pytest.mark.parametrize("claims", [{}, {"equivariant": True}, {"conjugate": True}], ids=str)
def test_what_a_formula_keeps_may_be_guaranteed(claims: dict[str, Any], registered: Any) -> None:
    assert asked(registered(**claiming(**claims))).isfinite().all()


@pytest.mark.parametrize(
    "wrong", [{"roundings": -5}, {"roundings": "8"}, {"roundings": True}, {"FIELDS": {"tau": 1.0}}], ids=str
)
def test_what_a_family_declares_is_read_when_it_is_registered(wrong: dict[str, Any], registered: Any) -> None:
    with pytest.raises(ValueError, match=rf"the mix family 'test_bent' has {next(iter(wrong))} .*; expected"):
        registered(**wrong)


@pytest.mark.parametrize("exact", [raises, lambda self, z, n, d, real: [z[: n - 1]]], ids=["raises", "ragged"])
def test_a_formula_in_mpmath_that_fails_is_named(exact: Any, registered: Any) -> None:
    truth = ExactTruth(Dialect(residual=registered(exact=exact).name))
    with pytest.raises(HarnessError, match="no truth to judge by: the formula in mpmath of the mix family 'test_bent'"):
        truth.project(torch.zeros(1, 3, 3))


@pytest.mark.parametrize("shape", [9, (3.0, 3), None], ids=str)
def test_a_shape_that_is_none_is_told_to_the_family(shape: Any, registered: Any) -> None:
    dialect = Dialect(residual=registered(shape=lambda self, n, dialect: shape).name)
    with pytest.raises(ValueError, match=r"the mix family 'test_bent' gives the shape .*; expected a tuple"):
        logits_shape(3, dialect)
