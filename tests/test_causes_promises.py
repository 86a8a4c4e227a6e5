"""Where the declared implementation fails alike, for a promise that it does not make, only the promise explains it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, Dialect
from properties import Implementation
from properties.causes import Causes
from properties.core.deviant import Deviant
from properties.core.device import Device, as_if_compiled
from properties.core.law import all_laws
from properties.diagnosis.parts import Account
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject

SOFTMAX = Dialect(
    start="softmax", start_axis="column", last_axis="column", iterations=5, denominator="clamp", denominator_eps=1e-12
)


class Linear(Implementation):
    """exp(Z - max), normalised by turns, which claims that no line is too low for it."""

    dtypes = (torch.float32,)
    full_range = True

    def project(self, logits: Tensor) -> Tensor:
        first, last = (-2, -1) if self.dialect.last_axis == "row" else (-1, -2)
        if self.dialect.start == "softmax":
            m = logits.softmax(last)
        else:
            m = (logits - logits.amax(first, keepdim=True).detach()).exp()
        for _ in range(self.dialect.iterations):
            m = normalize(normalize(m, p=1, dim=first), p=1, dim=last)
        return m


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [LUCIDRAINS, SOFTMAX], ids=["LUCIDRAINS", "softmax"])
def test_a_broken_promise_is_named_and_no_slip_that_makes_no_difference(
    dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("properties.causes.causes.account_of", lambda *_, **__: Account())  # ordinary calls are right
    target, law = Linear(), all_laws()["manifold.starved-lines-lose-no-mass"]
    target.dialect = dialect
    causes, subject = Causes(seconds=1.0), Subject("linear", target, torch.float32, torch.device("cpu"))
    verdict = examine(law, subject, Profile(3, derandomise=True, shrink=False), directory=tmp_path, attribution=causes)
    assert verdict.status == "failed"
    (cause,) = verdict.causes
    assert "log-domain-declared" in cause.summary, cause.summary


class HalfWhenCompiled(Deviant):
    """Not the deviant of the catalogue: its matrix is computed in another way."""

    compilable = True

    def project(self, logits: Tensor) -> Tensor:
        found = mhc_ref.project(self.widened(logits), self.computed)
        return found.detach() + 0.5 * (found - found.detach()) if torch.compiler.is_compiling() else found


@pytest.mark.slow
def test_a_slip_that_a_compiler_alone_meets_is_named_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("properties.causes.causes.account_of", lambda *_, **__: Account())
    monkeypatch.setattr(Device, "compiled", lambda self, call, **_: as_if_compiled(call))  # which imports a lot
    monkeypatch.setattr("properties.diagnosis.budget.Budget.spent", True)  # as the first compilation leaves it
    target, law = HalfWhenCompiled(DEEPSEEK_V4), all_laws()["device.traced-blocks-pull-back-alike"]
    target.streams, target.dtypes = (4,), (torch.float32,)
    causes, subject = Causes(seconds=1.0), Subject("half", target, torch.float32, torch.device("cpu"))
    profile = Profile(1, derandomise=False, shrink=False)
    verdict = examine(law, subject, profile, directory=tmp_path, attribution=causes)
    assert verdict.status == "failed"
    (cause,) = verdict.causes
    assert "compiled-backward-halved" in cause.summary, cause.summary


def test_a_gradient_that_is_no_number_is_found_where_values_are_right(tmp_path: Path) -> None:
    target = Linear()
    target.dialect = LUCIDRAINS
    logits = torch.tensor([[[-96.0, -96.0], [0.0, 0.0]]], requires_grad=True)
    assert torch.equal(target.project(logits.detach()).sum(-1), torch.ones(1, 2))
    subject = Subject("linear", target, torch.float32, torch.device("cpu"))
    law = all_laws()["gradient.starved-lines-pull-back"]
    verdict = examine(law, subject, Profile(6, derandomise=True), directory=tmp_path)
    assert verdict.status == "failed"
    assert verdict.case is not None
    assert (verdict.case.logits.amin() + 96).abs() < 8  # shrunk to where the value is still right
