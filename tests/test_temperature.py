"""A temperature before Sinkhorn: every law holds with it, whoever divides by it where and how, and none without it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, PAPER, Dialect
from mhc_ref.exact import Exact
from mhc_ref.exact.lists import flat
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.families.steps.sinkhorn import SinkhornSteps

COLD, WARM = PAPER.with_(temperature=0.05), DEEPSEEK_V4.with_(temperature=7.3)


class Reciprocal(SinkhornSteps):
    """The logits are multiplied by 1 / temperature, which is rounded."""

    def tempered(self, logits: Tensor) -> Tensor:
        return logits * torch.tensor(self.computed.temperature, dtype=logits.dtype).reciprocal()


class AfterTheMaximum(SinkhornSteps):
    """Differences of logits are divided by the temperature."""

    def tempered(self, logits: Tensor) -> Tensor:
        return logits

    def exp(self, logits: Tensor) -> Tensor:
        return (logits / self.computed.temperature).exp()

    def softmax(self, logits: Tensor) -> Tensor:
        dim = {"row": -1, "column": -2}[self.computed.start_axis]
        return ((logits - logits.amax(dim, keepdim=True)) / self.computed.temperature).softmax(dim)


class BaseTwo(SinkhornSteps):
    """The temperature and log2(e) are one factor, and exp2 is taken."""

    def tempered(self, logits: Tensor) -> Tensor:
        return logits * (1 / (math.log(2) * self.computed.temperature))

    def exp(self, logits: Tensor) -> Tensor:
        return logits.exp2()

    def softmax(self, logits: Tensor) -> Tensor:
        return super().softmax(logits * math.log(2))


LAWS = (
    "manifold.odds-ratios",
    "manifold.exact-shift-invariance",
    "manifold.doubly-stochastic-fixed-point",
    "manifold.iterations-compose",
    "manifold.triangular-closed-form",
    "manifold.half-step-convergence",
    "manifold.agrees-with-oracle",
    "gradient.projection-pulls-back-the-unrolled-iteration",
    "gradient.pullback-stays-below-its-norm",
    "block.permutation-limit-carries-streams",
    "execution.poison-reaches-the-mappings",
)
"""Those that say something of logits."""


def searched(law: str, target: Implementation, dtype: torch.dtype, directory: Path, examples: int = 20) -> Verdict:
    subject = Subject("target", target, dtype, torch.device("cpu"))
    profile = Profile(examples=examples, derandomise=True, shrink=False)
    return examine(all_laws()[law], subject, profile, directory=directory)


@pytest.mark.parametrize("law", LAWS[:3])
def test_a_law_of_logits_holds_at_a_low_temperature(law: str, tmp_path: Path) -> None:
    found = searched(law, Deviant(COLD), torch.float32, tmp_path, examples=5)
    assert found.status == "passed", found.reason


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize("kind", [Deviant, Reciprocal, AfterTheMaximum, BaseTwo])
@pytest.mark.parametrize("law", LAWS)
def test_it_does_not_matter_how_the_logits_are_divided(law: str, kind: type[Deviant], tmp_path: Path) -> None:
    for dialect in (COLD, WARM):
        if all_laws()[law].inapplicable(kind(dialect), torch.float32, torch.device("cpu")):
            continue
        found = searched(law, kind(dialect), torch.float32, tmp_path)
        assert found.status == "passed", f"{dialect}: {found.reason}"


@pytest.mark.parametrize("dialect", [COLD, WARM], ids=["cold", "warm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_bound_holds_and_says_something(dialect: Dialect, dtype: torch.dtype) -> None:
    """An error of a thousandth of the temperature is out of bounds."""
    logits = (2 * dialect.temperature * torch.randn(50, 4, 4, generator=torch.Generator().manual_seed(1))).to(dtype)
    bound = bounds.projection(Approx.exact(logits), dialect, Rounding.of(dtype))
    for kind in (Deviant, Reciprocal, AfterTheMaximum, BaseTwo):
        error = (kind(dialect).project(logits).double() - bound.value).abs()
        assert (error <= bound.error).all()
    other = dialect.with_(temperature=1.001 * dialect.temperature)
    error = (mhc_ref.project(logits.double(), other) - bound.value).abs()
    assert (error.flatten(1).amax(1) > bound.error.flatten(1).amax(1)).all()


def test_the_gradient_by_the_logits_is_that_of_the_quotients_over_the_temperature() -> None:
    z = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    bar = torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cold = Exact(COLD).project_vjp((COLD.temperature * z).tolist(), bar.tolist())
    plain = Exact(PAPER).project_vjp(z.tolist(), bar.tolist())
    for mine, theirs in zip(flat(cold), flat(plain), strict=True):
        assert abs(float(mine) * COLD.temperature - float(theirs)) < 1e-14


def test_nothing_is_claimed_of_quotients_beyond_the_largest_number() -> None:
    logits = torch.tensor([[[3e38, 0.0], [0.0, 1.0]], [[3e36, 0.0], [0.0, 1.0]]])
    found = bounds.projection(Approx.exact(logits), PAPER.with_(temperature=0.05), Rounding.of(torch.float32))
    assert torch.isinf(found.error[0]).all()
    assert mhc_ref.project(logits, COLD)[1].isfinite().all()


def test_a_dialect_that_was_written_before_there_was_a_temperature_is_read_as_one_without() -> None:
    fields = {name: value for name, value in DEEPSEEK_V4.fields().items() if name not in ("temperature", "post_eps")}
    assert Dialect(**fields) == DEEPSEEK_V4
    assert (DEEPSEEK_V4.temperature, DEEPSEEK_V4.post_eps) == (1.0, 0.0)


def test_a_temperature_goes_with_the_mix_that_has_it() -> None:
    assert COLD.with_(iterations=3).temperature == 0.05
    assert "temperature" not in COLD.with_(residual="permutations").fields()
    assert Reference(COLD).project(torch.zeros(2, 2)).sum() == 2
