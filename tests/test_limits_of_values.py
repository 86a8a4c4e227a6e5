"""Laws at the limits of what is declared: no iteration, lines as low as masks, overflowing squares, no gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, PAPER, Dialect, Params
from mhc_ref.exact import Exact
from properties.catalogue import controls
from properties.catalogue.deviations import build
from properties.catalogue.deviations.any_size import ScaledNorm
from properties.core.deviant import DIM, Deviant, through
from properties.core.implementation import Absent, Branch, Implementation, Reference
from properties.core.law import all_laws
from properties.core.truth import listed
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.families.steps.sinkhorn import SinkhornSteps
from properties.laws.scales import scaled_down

CPU = torch.device("cpu")
MASKS = "manifold.lines-may-lie-as-low-as-masks"
COUNTS = ("manifold.a-count-of-iterations-may-be-zero", "coefficients.a-count-of-iterations-may-be-zero")
SIZED = (
    "coefficients.states-may-be-of-any-size",
    "block.states-may-be-of-any-size",
    "gradient.mappings-of-states-of-any-size-pull-back",
    "gradient.blocks-of-states-of-any-size-pull-back",
)

SEEN_BY_LIMITS = {
    "no-iteration-is-one": COUNTS[0],
    "history-without-a-place": COUNTS[1],
    "maximum-over-the-padding": MASKS,
    "starved-gradient-lost": "gradient.starved-lines-pull-back",
    "graph-recorded-under-no-grad": "execution.mappings-let-go",
    "squares-overflow": SIZED[0],
    "squares-overflow-backwards": SIZED[3],
}
"""Hidden deviation -> a law that sees it."""


def judged(law: str, target: Implementation, where: Path, dtype: torch.dtype = torch.float32) -> Verdict:
    subject = Subject("target", target, dtype, CPU)
    return examine(all_laws()[law], subject, Profile(10, derandomise=True, shrink=False), directory=where)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_BY_LIMITS)
def test_a_slip_at_a_limit_is_seen_by_its_law(name: str, tmp_path: Path) -> None:
    found = judged(SEEN_BY_LIMITS[name], build(name, PAPER), tmp_path)
    assert found.status == "failed", found.reason


class LosesWhatTheLastBranchReads(Reference):
    """Hands a NaN to the last branch, in the first channel."""

    def _spoiled(self, branches: Sequence[Branch]) -> list[Branch]:
        *others, last = branches

        def read(u: Tensor) -> Tensor:
            bad = u.clone()
            bad[..., :1] = math.nan
            return last(bad)

        return [*others, read]

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(x, params, *self._spoiled([branch]))

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().layers(x, params, self._spoiled(branches))

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().stack(h, params, self._spoiled(branches))


@pytest.mark.parametrize("law", [law for law in all_laws() if law.startswith(("block.", "depth."))])
def test_a_nan_that_a_branch_was_handed_is_the_doing_of_the_target(law: str, tmp_path: Path) -> None:
    """Its y is a NaN then, and so is any limit that is made of it: a law that takes itself for broken raises here."""
    found = judged(law, LosesWhatTheLastBranchReads(PAPER), tmp_path)
    if law == "depth.bounded-branches-grow-at-most-linearly":
        assert found.status == "failed"
        assert "the branch input of layer" in (found.message or "")


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("no-iteration-is-one", "manifold.tuned-fields-are-used"),
        ("starved-gradient-lost", "manifold.starved-lines-lose-no-mass"),
        ("squares-overflow-backwards", SIZED[0]),
    ],
)
def test_the_law_next_to_it_does_not_see_it(name: str, law: str, tmp_path: Path) -> None:
    assert judged(law, build(name, PAPER), tmp_path).status == "passed"


@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4, LUCIDRAINS], ids=["PAPER", "DEEPSEEK_V4", "LUCIDRAINS"])
@pytest.mark.parametrize("law", [MASKS, *COUNTS])
def test_the_reference_is_accused_at_no_limit_and_something_is_claimed(
    law: str, dialect: Dialect, tmp_path: Path
) -> None:
    found = judged(law, Reference(dialect), tmp_path)
    assert found.status == "passed", found.message
    assert found.claims > found.abstentions


# -- counts -----------------------------------------------------------------------------------------------------------


class RefusesZero(Deviant):
    """Offers one iteration or more."""

    def tuned(self, **fields: object) -> Implementation:
        if fields.get("iterations") == 0:
            raise Absent("tuned: iterations=0")
        return super().tuned(**fields)


@pytest.mark.parametrize("law", COUNTS)
def test_a_count_that_is_refused_is_not_offered(law: str, tmp_path: Path) -> None:
    found = judged(law, RefusesZero(PAPER), tmp_path)
    assert found.status == "passed", found.message
    assert found.claims


# -- masks ------------------------------------------------------------------------------------------------------------


class FusedExponent(SinkhornSteps):
    """exp(z - max) as one multiplication and addition before exp2, with max log2(e) rounded by itself."""

    def started(self, logits: Tensor) -> Tensor:
        scale = math.log2(math.e)
        subtracted = (self.shift(logits) * scale).double()  # rounded in the dtype of the logits
        return (logits.double() * scale - subtracted).to(logits.dtype).exp2()


class RawPotentials(SinkhornSteps):
    """M = exp(Z + u + v) of the logits themselves, no maximum being subtracted before."""

    full_range = True

    def sinkhorn(self, logits: Tensor) -> Tensor:
        u, v = torch.zeros_like(logits[..., :1]), torch.zeros_like(logits[..., :1, :])
        for axis in self.half_steps():
            if axis == "row":
                u = -(logits + v).logsumexp(DIM[axis], keepdim=True)
            else:
                v = -(logits + u).logsumexp(DIM[axis], keepdim=True)
        return (logits + u + v).exp()


@pytest.mark.parametrize("kind", [FusedExponent, RawPotentials])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_whoever_rounds_what_is_subtracted_nothing_is_claimed_at_masks(
    kind: type[Deviant], dtype: torch.dtype, tmp_path: Path
) -> None:
    """Both are correct, and no number at 1e10: rounding explains it, which the law must see for itself."""
    target = kind(PAPER, "target")
    low = torch.tensor([[[-2e10, 0.0], [-2e10, 0.0]]])
    assert not torch.allclose(target.project(low), torch.tensor(0.5), atol=0.1)  # NaN, and 1
    found = judged(MASKS, target, tmp_path, dtype)
    assert found.status == "not-applicable", found.message
    assert not found.claims


class PotentialsInDouble(Deviant):
    """Potentials that are stored as logarithms, in float64."""

    def project(self, logits: Tensor) -> Tensor:
        z, first, last = logits.double(), DIM[self.computed.first_axis], DIM[self.computed.last_axis]
        by_last = torch.zeros_like(z.sum(last, keepdim=True))
        by_first = torch.zeros_like(z.sum(first, keepdim=True))
        for _ in range(self.computed.iterations):
            by_first = -(z + by_last).logsumexp(first, keepdim=True)
            by_last = -(z + by_first).logsumexp(last, keepdim=True)
        return (z + by_first + by_last).exp().to(logits.dtype)


@pytest.mark.parametrize("iterations", [1, 20])
def test_potentials_that_round_at_a_mask_alone_are_not_accused_there(iterations: int, tmp_path: Path) -> None:
    """Of 2^20 they round nothing that float32 shows, and of 1e20 all that a line has beside it."""
    found = judged(MASKS, PotentialsInDouble(PAPER.with_(iterations=iterations)), tmp_path)
    assert found.status == "passed", found.message


class LongPotentials(Deviant):
    """The same in numpy's long double, which has eleven bits more on some machines, and more on others."""

    def project(self, logits: Tensor) -> Tensor:
        z, first, last = (
            logits.numpy().astype(np.longdouble),
            DIM[self.computed.first_axis],
            DIM[self.computed.last_axis],
        )
        f, g = np.zeros_like(z), np.zeros_like(z)
        for _ in range(self.computed.iterations):
            f = -np.logaddexp.reduce(z + g, axis=first, keepdims=True)
            g = -np.logaddexp.reduce(z + f, axis=last, keepdims=True)
        return torch.from_numpy(np.exp(z + f + g).astype(logits.numpy().dtype))


@pytest.mark.parametrize("iterations", [1, 20])
def test_longer_potentials_are_not_accused_where_they_round(iterations: int, tmp_path: Path) -> None:
    found = judged(MASKS, LongPotentials(PAPER.with_(iterations=iterations)), tmp_path)
    assert found.status == "passed", found.message


class BeginsAtAMask(SinkhornSteps):
    """A running maximum that begins at a number which was thought to be small enough."""

    mask = -1e9

    def shift(self, logits: Tensor) -> Tensor:
        return super().shift(logits).clamp(min=self.mask)


@pytest.mark.parametrize("mask", [-1e9, -3e9, -1e10, -1e12, -1e15, -1e18, -1e20, -1e25, -1e30])
def test_a_mask_is_seen_between_the_usual_ones_too(mask: float, tmp_path: Path) -> None:
    target = BeginsAtAMask(PAPER, "target")
    target.mask = mask
    found = judged(MASKS, target, tmp_path)
    assert found.status == "failed", found.reason


# -- states of any size -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("law", SIZED)
def test_a_norm_that_divides_by_the_largest_entry_first_is_not_accused(
    law: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    no_eps = LUCIDRAINS.with_(rms_eps=0.0, rms_eps_by="add")
    for dialect in (PAPER, no_eps, DEEPSEEK_V4.with_(rms_eps=1e-3, rms_eps_inside=False)):
        found = judged(law, controls.build("scaled-norm", dialect), tmp_path, dtype)
        assert found.status == "passed", found.message
        assert found.claims > found.abstentions


class CoarselyScaled(ScaledNorm):
    """The normalised state passes through a shorter dtype."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return through(super().normalised(x, weight), torch.bfloat16)


@pytest.mark.parametrize("law", SIZED)
def test_a_norm_that_is_right_to_eight_bits_is_refused(law: str, tmp_path: Path) -> None:
    assert judged(law, CoarselyScaled(PAPER, "coarse"), tmp_path).status == "failed"


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("factor", [2.0**64, 2.0**-40, 2.0**500])
def test_a_scaled_state_has_the_mappings_of_the_scaled_dialect(factor: float, inside: bool) -> None:
    """What the laws of sizes rest on, in 50 digits."""
    dialect = PAPER.with_(iterations=2, rms_eps=2.0**-10 * factor * (factor if inside else 1.0))
    dialect = dialect.with_(rms_eps_inside=inside)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    parts = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 8), (8,), (3,))]
    params = listed(Params(*parts))
    large = Exact(dialect).mappings((x * factor).tolist(), params)
    small = Exact(scaled_down(dialect, factor)).mappings(x.tolist(), params)
    assert all(abs(one - other) < 1e-40 for one, other in zip(large[0], small[0], strict=True))
    assert abs(large[2][0][1] - small[2][0][1]) < 1e-40
