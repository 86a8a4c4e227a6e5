"""Families from outside that are unlike those of today: other beginnings and ends, a mix without logits.

Bounds read the weights of beginnings and ends off their formulas, and laws hold them to these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PRESETS, Dialect, registry
from properties.core.family import Begin, End, Guarantees, Mix, begin_of, end_of
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.guards.faults import HarnessError

LAWS = (
    "depth.expand-copies",
    "depth.collapse-is-as-declared",
    "depth.stack-expands-and-collapses-once",
    "gradient.expand-sums-its-cotangents",
    "gradient.collapse-pulls-back-to-every-stream",
)


WITHOUT_LOGITS = (
    "manifold.claimed-sums-stay-below-one",
    "coefficients.agrees-with-oracle",
    "coefficients.thirds-are-isolated",
    "block.agrees-with-oracle",
    "execution.projection-takes-any-batch-shape",
)


class Spike(Begin):
    """h begins in the first stream alone."""

    name = "spike"

    def expand(self, h: Tensor, n: int, dialect: Dialect) -> Tensor:
        return torch.stack([h, *[torch.zeros_like(h)] * (n - 1)], -2)

    def exact(self, h: list[Any], n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        return [h, *([0 * entry for entry in h] for _ in range(n - 1))]


class Faded(End):
    """Stream i counts 2^-i."""

    name = "faded"

    def collapse(self, x: Tensor, dialect: Dialect, h_pre: Tensor | None) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * 2.0 ** -torch.arange(x.shape[-2]).unsqueeze(-1)).sum(-2).to(x.dtype)

    def exact(self, x: list[list[Any]], h_pre: Any, dialect: Dialect, real: Any) -> list[Any]:
        return [
            real.dot(list(channel), [real.mp.mpf(2) ** -i for i in range(len(x))]) for channel in zip(*x, strict=True)
        ]


class Largest(End):
    """Each channel is that of the stream where it is largest."""

    name = "largest"

    def collapse(self, x: Tensor, dialect: Dialect, h_pre: Tensor | None) -> Tensor:
        return x.amax(-2)


class Bent(Spike):
    """The square of h."""

    name = "bent"

    def expand(self, h: Tensor, n: int, dialect: Dialect) -> Tensor:
        return super().expand(h * h, n, dialect)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", {})


class Halved(Mix):
    """Every stream is halved, whatever the state: phi [n*C, 2n], bias [2n], alpha [2]."""

    name = "halved"
    BY_STREAM = True
    roundings = 1

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return (n, 0)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        n = logits.shape[-2]
        return (torch.eye(n) / 2).to(logits).expand(*logits.shape[:-2], n, n)

    def exact(self, z: list[Any], n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        return [[real.mp.one / 2 if i == j else real.mp.zero for j in range(n)] for i in range(n)]

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(nonnegative=True, capped=frozenset({"row", "column"}), constant=True)


def judged(law: str, target: Reference, dtype: torch.dtype, folder: Path) -> Verdict:
    target.streams = (3,)
    subject = Subject("ends", target, dtype, torch.device("cpu"))
    return examine(all_laws()[law], subject, Profile(examples=4, derandomise=True, shrink=False), directory=folder)


@pytest.mark.parametrize("law", LAWS)
def test_ends_from_outside_are_held_to_their_formulas(law: str, tmp_path: Path) -> None:
    dialect = PRESETS.default.with_(expand=Spike(), collapse=Faded())
    for dtype in (torch.float32, torch.float64):
        verdict = judged(law, Reference(dialect), dtype, tmp_path)
        assert (verdict.status, verdict.reason) == ("passed", "")


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_mix_without_logits_is_held_to_the_laws(shared: bool, tmp_path: Path) -> None:
    dialect = PRESETS.default.with_(residual=Halved(), shared_projection=shared)
    for law in WITHOUT_LOGITS:
        verdict = judged(law, Reference(dialect), torch.float32, tmp_path)
        assert (verdict.status, verdict.reason) == ("passed", ""), law


@pytest.mark.parametrize("law", LAWS[:2])
def test_another_end_than_the_declared_one_is_found(law: str, tmp_path: Path) -> None:
    dialect = PRESETS.default.with_(expand=Spike(), collapse=Faded())
    assert judged(law, Wrong(dialect, PRESETS.default), torch.float32, tmp_path).status == "failed"


class Wrong(Reference):
    """Declares one dialect and computes another."""

    def __init__(self, declared: Dialect, computed: Dialect) -> None:
        super().__init__(declared, "wrong")
        self.computed = Reference(computed)

    def expand(self, h: Tensor, n: int) -> Tensor:
        return self.computed.expand(h, n)

    def collapse(self, x: Tensor, params: Any = None) -> Tensor:
        return self.computed.collapse(x)


def test_what_is_no_weighted_sum_has_no_bound() -> None:
    dialect = PRESETS.default.with_(expand=Bent(), collapse=Largest())
    with pytest.raises(HarnessError, match="the end family 'largest' makes no sum of the streams"):
        end_of(dialect).weights(3, dialect)
    with pytest.raises(HarnessError, match="the begin family 'bent' makes of h no multiples of h"):
        begin_of(dialect).weights(3, dialect)


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_of_our_own_are_what_they_say(preset: str) -> None:
    dialect = PRESETS[preset].with_(collapse="mean")
    for n in (1, 3, 5):
        assert begin_of(dialect).weights(n, dialect).tolist() == [1.0] * n
        assert end_of(dialect).weights(n, dialect).tolist() == [1 / n] * n


@pytest.mark.parametrize("law", ["depth.expand-copies", "gradient.expand-sums-its-cotangents"])
def test_streams_may_begin_as_one_of_them(law: str, tmp_path: Path) -> None:
    dialect = PRESETS.default.with_(expand="one-hot")
    h = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    assert mhc_ref.expand(h, 3, dialect).tolist() == [[[1.0, -2.0], [0.0, 0.0], [0.0, 0.0]]]
    assert judged(law, Reference(dialect), torch.float64, tmp_path).status == "passed"
    assert judged(law, Wrong(dialect, PRESETS.default), torch.float64, tmp_path).status == "failed"
