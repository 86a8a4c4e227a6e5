"""What a test run has set for its own purposes accuses nobody."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import mhc_ref
from mhc_ref import PAPER
from properties.diagnosis import identify
from properties.implementation import Implementation, Reference
from properties.law import all_laws
from properties.runner import Profile, Subject, examine
from properties.surroundings import called, usual
from properties.target import resolve


class Deprecated(Implementation):
    """A projection that announces its end, forwards and backwards."""

    name = "deprecated"
    dialect = PAPER

    def project(self, logits: torch.Tensor) -> torch.Tensor:
        warnings.warn("project is deprecated", DeprecationWarning, stacklevel=2)
        matrix = mhc_ref.project(logits, PAPER)
        if matrix.requires_grad:
            matrix.register_hook(lambda bar: warnings.warn("so is its gradient", DeprecationWarning, stacklevel=2))
        return matrix


@contextmanager
def default_dtype() -> Generator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "nothing": nullcontext,
    "no gradient": lambda: torch.set_grad_enabled(False),
    "inference mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "default dtype": default_dtype,
}

LAWS = (
    "gradient.projection-pulls-back-the-unrolled-iteration",
    "gradient.blocks-pull-back-however-they-are-called",
    "execution.recomputation-does-not-matter",
    "depth.streams-persist-through-the-stack",
)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_a_correct_implementation_is_correct_in_any_surroundings(law: str, surrounding: str, tmp_path: Path) -> None:
    implementation = Reference(PAPER, "ref:PAPER")
    implementation.streams = (3,)
    subject = Subject("ref", implementation, torch.float32, torch.device("cpu"))
    profile = Profile(3, derandomise=True, shrink=False)
    with SURROUNDINGS[surrounding]():
        verdict = examine(all_laws()[law], subject, profile, directory=tmp_path)
    assert (verdict.status, verdict.message) == ("passed", "")


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_the_usual_is_the_same_everywhere_and_nothing_of_it_stays(surrounding: str) -> None:
    with SURROUNDINGS[surrounding]():
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_device())
        with usual():
            leaf = torch.ones(2).requires_grad_()
            assert leaf.device.type == "cpu"
            assert (2 * leaf).requires_grad
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_device()) == before


@pytest.mark.parametrize(("default", "there"), [("cpu", "cpu"), ("meta", "meta")])
def test_a_call_sees_the_default_device_that_somebody_set_and_no_other(default: str, there: str) -> None:
    with torch.device(default), usual(), called(torch.device("meta")):
        assert torch.ones(2).device.type == there


@pytest.mark.parametrize("law", ["manifold.agrees-with-oracle", "gradient.projection-pulls-back-however-it-is-called"])
def test_a_warning_breaks_no_law_and_is_told_once(law: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every warning is an error, as pyproject.toml has it."""
    monkeypatch.setattr("properties.surroundings._told", set())
    assert any(action == "error" for action, *_ in warnings.filters)
    subject = Subject("deprecated", Deprecated(), torch.float32, torch.device("cpu"))
    with warnings.catch_warnings(record=True) as told:
        verdict = examine(all_laws()[law], subject, Profile(3, derandomise=True, shrink=False), directory=tmp_path)
    assert (verdict.status, verdict.message) == ("passed", "")
    texts = [str(one.message) for one in told]
    assert "project is deprecated" in texts
    assert len(set(texts)) == len(texts)


def test_a_module_that_warns_while_it_is_imported_is_a_target(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import warnings\nfrom mhc_ref import PAPER, project as ours\n"
        "warnings.warn('mine is deprecated', DeprecationWarning)\n"
        "def project(logits):\n    return ours(logits, PAPER)\n"
    )
    with warnings.catch_warnings(record=True) as told:  # not pytest.warns, which takes the filters away
        assert resolve(f"{path}:project", "PAPER").name == "project"
    assert [str(one.message) for one in told] == ["mine is deprecated"]


def test_a_target_that_warns_and_switches_autograd_off_is_identified() -> None:
    with warnings.catch_warnings(record=True), torch.set_grad_enabled(False):
        found = identify(Deprecated(), seconds=20)
    assert (found.explained, found.differs, found.deviations) == (True, {}, ())
