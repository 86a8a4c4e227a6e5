"""What a test run has set for its own purposes accuses nobody."""

from __future__ import annotations

import importlib
import os
import random
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mhc_ref
from mhc_ref import PAPER, Branch, Params
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.diagnosis import identify
from properties.engine.runner import Profile, Subject, examine
from properties.guards.surroundings import Chance, called, usual
from properties.targets.target import resolve


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


@pytest.mark.one_in(3)
@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("law", ["manifold.agrees-with-oracle", "gradient.projection-pulls-back-however-it-is-called"])
def test_a_warning_breaks_no_law_and_is_told_once(law: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every warning is an error, as pyproject.toml has it."""
    monkeypatch.setattr("properties.guards.surroundings._told", set())
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


@pytest.mark.slow
def test_a_target_that_warns_and_switches_autograd_off_is_identified() -> None:
    with warnings.catch_warnings(record=True), torch.set_grad_enabled(False):
        found = identify(Deprecated(), seconds=20)
    assert (found.explained, found.differs, found.deviations) == (True, {}, ())


# What a target leaves behind


class Forward(Implementation):
    """Switches autograd off and leaves it so: its results have no graph."""

    name = "forward"
    dialect = PAPER

    def project(self, logits: torch.Tensor) -> torch.Tensor:
        torch.set_grad_enabled(False)
        return mhc_ref.project(logits, PAPER)


class Untidy(Implementation):
    """Correct, and leaves autograd off."""

    name = "untidy"
    dialect = PAPER

    def project(self, logits: torch.Tensor) -> torch.Tensor:
        matrix = mhc_ref.project(logits, PAPER)
        torch.set_grad_enabled(False)
        return matrix


class Inference(Implementation):
    """Leaves an inference mode open."""

    name = "inference"
    dialect = PAPER

    def __init__(self) -> None:
        self.open: list[Any] = []

    def project(self, logits: torch.Tensor) -> torch.Tensor:
        self.open.append(torch.inference_mode())
        self.open[-1].__enter__()
        return mhc_ref.project(logits, PAPER)


class Elsewhere(Implementation):
    """Correct, and leaves another default device."""

    name = "elsewhere"
    dialect = PAPER

    def project(self, logits: torch.Tensor) -> torch.Tensor:
        matrix = mhc_ref.project(logits, PAPER)
        torch.set_default_device("meta")
        return matrix


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "status"), [(Forward, "failed"), (Inference, "failed"), (Untidy, "passed"), (Elsewhere, "passed")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_target_leaves_switched_does_not_reach_what_it_is_held_to(
    kind: type[Implementation], status: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    law = all_laws()["gradient.projection-pulls-back-the-unrolled-iteration"]
    subject = Subject("target", kind(), dtype, torch.device("cpu"))
    found = examine(law, subject, Profile(examples=6, derandomise=True, shrink=False), directory=tmp_path)
    assert found.status == status


# Chance: Hypothesis seeds the global generators for every example, and a target lives without that


CHANCES: dict[str, Callable[[], float]] = {
    "random": random.random,
    "numpy": np.random.random,
    "torch": lambda: float(torch.rand(())),
    "the operating system": lambda: int.from_bytes(os.urandom(4)) / 2**32,
}


@pytest.mark.parametrize("chance", CHANCES)
def test_a_fault_that_comes_by_chance_is_found_wherever_the_chance_comes_from(chance: str, tmp_path: Path) -> None:
    """One call in three is wrong; each generator begins where the first two calls are right, as luck would have it."""
    draw = CHANCES[chance]

    class Lucky(Implementation):
        name = "lucky"
        streams = (2,)

        def project(self, logits: torch.Tensor) -> torch.Tensor:
            return mhc_ref.project(logits, PAPER) * (2 if draw() < 1 / 3 else 1)

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    subject = Subject("lucky", Lucky(), torch.float32, torch.device("cpu"))
    law = all_laws()["execution.projection-is-deterministic"]
    verdict = examine(law, subject, Profile(60, derandomise=True, shrink=False), directory=tmp_path)
    assert verdict.status == "failed"


def test_a_target_that_draws_goes_on_from_call_to_call_and_from_law_to_law(tmp_path: Path) -> None:
    drawn: list[float] = []

    class Draws(Implementation):
        name = "draws"
        streams = (2,)

        def project(self, logits: torch.Tensor) -> torch.Tensor:
            drawn.append(random.random())
            drawn.append(np.random.random())
            return mhc_ref.project(logits, PAPER)

    subject = Subject("draws", Draws(), torch.float32, torch.device("cpu"))
    for _ in range(2):
        verdict = examine(all_laws()[LAWS[0]], subject, Profile(3, derandomise=True), directory=tmp_path)
        assert verdict.status == "passed"
    assert len(drawn) > 8
    assert len(set(drawn)) == len(drawn)


def test_what_is_drawn_does_not_depend_on_what_a_target_draws(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def run(draws: int) -> list[list[float]]:
        seen.clear()

        class Draws(Implementation):
            name = "draws"

            def project(self, logits: torch.Tensor) -> torch.Tensor:
                seen.append(logits.flatten().tolist())
                for _ in range(draws):
                    random.random()
                    np.random.random()
                return mhc_ref.project(logits, PAPER)

        subject = Subject("draws", Draws(), torch.float32, torch.device("cpu"))
        examine(all_laws()["manifold.last-axis-sums"], subject, Profile(4, derandomise=True), directory=tmp_path)
        return list(seen)

    assert run(0) == run(3)


def test_an_example_leaves_the_generators_as_hypothesis_set_them() -> None:
    chance = Chance()
    found: list[float] = []

    @settings(max_examples=3, database=None)
    @given(st.integers())
    def example(_: int) -> None:
        with chance.lived():
            random.random()
            np.random.random()
        found.append(random.random())

    before = np.random.get_state()[1].tolist()  # pyright: ignore
    example()
    assert len(set(found)) == 1
    assert np.random.get_state()[1].tolist() == before  # pyright: ignore


def seen_by_a_law(tmp_path: Path) -> list[str]:
    """Every state and bias that a law draws in the profile that is the same in every run."""
    seen: list[str] = []

    class Listening(Reference):
        def block(self, x: torch.Tensor, params: Params, branch: Branch) -> torch.Tensor:
            seen.append(f"{x.tolist()} {params.bias.tolist()}")
            return super().block(x, params, branch)

    subject = Subject("", Listening(PAPER, "listening"), torch.float64, torch.device("cpu"))
    profile = Profile(examples=60, derandomise=True)
    law = all_laws()["block.one-stream-is-a-gated-residual"]
    assert examine(law, subject, profile, directory=tmp_path).status == "passed"
    return seen


@pytest.mark.slow
def test_a_seed_draws_the_same_whatever_modules_were_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = seen_by_a_law(tmp_path)
    # Of a module with very many constants Hypothesis takes none.
    numbers = ", ".join(f"{7919 * number}, {number + 0.125}" for number in range(1, 120))
    (tmp_path / "full_of_constants.py").write_text(f"NUMBERS = [{numbers}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("full_of_constants")
    assert seen_by_a_law(tmp_path) == before
