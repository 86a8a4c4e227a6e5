"""Slips that no catalogue has: nothing is named for them, and the first stage that they spoil is the right one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, PAPER, Branch, Dialect, Mappings, Params
from mhc_ref.dialect import Axis
from properties.catalogue.deviations import CATALOGUE
from properties.core.deviant import DIM, Deviant
from properties.diagnosis import identify
from properties.diagnosis.stages import Stages
from properties.diagnosis.table import home
from properties.diagnosis.view import Frame, View
from properties.families.steps.sinkhorn import SinkhornSteps


class Foreign(Deviant):
    """A slip with the stage that it spoils first."""

    stage: str
    preset: Dialect = PAPER


class NormInOtherPower(Foreign):
    """The mean of fourth powers under a fourth root."""

    stage = "norm"

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().square().mean(self.norm_axes(), keepdim=True).sqrt()


class NormOfAbsolutes(Foreign):
    """The mean absolute value in place of the root mean square."""

    stage = "norm"

    def mean_square(self, x: Tensor) -> Tensor:
        return x.abs().mean(self.norm_axes(), keepdim=True).square()


class NormFloored(Foreign):
    """A state is never enlarged by the norm."""

    stage = "norm"

    def rms(self, mean_square: Tensor) -> Tensor:
        return super().rms(mean_square).clamp_min(0.25)


class NormClippedAfterwards(Foreign):
    """The normalised state is clipped to [-1, 1]."""

    stage = "norm"
    preset = DEEPSEEK_V4

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return super().normalised(x, weight).clamp(-1, 1)


class FirstChannelSkipped(Foreign):
    """Channel 0 of every stream is multiplied by the row of channel 1."""

    stage = "matmul"

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        rows = phi.view(*state.shape[-2:], -1).clone()
        rows[:, 0] = rows[:, 1]
        return super().matmul(state, rows.flatten(0, 1))


class ColumnsReversed(Foreign):
    """The columns of phi are read backwards."""

    stage = "matmul"

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(state, phi.flip(-1))


class StreamsRolledInPhi(Foreign):
    """The rows of phi belong to the next stream."""

    stage = "matmul"

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(state.roll(1, -2), phi)


class GateAbsolute(Foreign):
    """The gates enter as exp(alpha) - 1."""

    stage = "gates"

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return gate.expm1() * dynamic + static


class BiasHalved(Foreign):
    """The bias is divided by 1 + alpha."""

    stage = "gates"

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return gate * dynamic + static / (1 + gate)


class LogitsSoftCapped(Foreign):
    """The sum of both parts is capped by 10 tanh(z / 10)."""

    stage = "sigmoid"

    def h_pre(self, logits: Tensor) -> Tensor:
        return super().h_pre(10 * (logits / 10).tanh())


class HardSigmoid(Foreign):
    """clamp(z / 6 + 1/2) in place of the sigmoid."""

    stage = "sigmoid"
    preset = DEEPSEEK_V4

    def squash(self, logits: Tensor, kind: str) -> Tensor:
        return (logits / 6 + 0.5).clamp(0, 1)


class SigmoidTemperature(Foreign):
    """sigma(1.702 z), a constant that belongs to GELU."""

    stage = "sigmoid"
    preset = LUCIDRAINS

    def squash(self, logits: Tensor, kind: str) -> Tensor:
        return (1.702 * logits).sigmoid()


class DampedIteration(Foreign, SinkhornSteps):
    """Every half-step goes nine tenths of the way."""

    stage = "projection"

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return m / self.denominator(self.line_sum(m, axis)).pow(0.9)


class SquaredNormalisation(Foreign):
    """Lines are divided by their 2-norm, as for orthogonal matrices."""

    stage = "projection"

    def line_sum(self, m: Tensor, axis: Axis) -> Tensor:
        return m.square().sum(DIM[axis], keepdim=True).sqrt()


class DiagonalMasked(Foreign):
    """The diagonal is masked out before the iteration, as in attention without self-loops."""

    stage = "projection"
    preset = DEEPSEEK_V4

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits - 3 * torch.eye(logits.shape[-1]).to(logits))


class ReadsSquares(Foreign):
    """The branch reads sqrt(h_pre) x."""

    stage = "pre"

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().gathered(x, h_pre.abs().sqrt())


class ReadsLessOfTheLast(Foreign):
    """Half of the last stream is read."""

    stage = "pre"
    preset = LUCIDRAINS

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        share = torch.ones_like(h_pre)
        share[..., -1] = 0.5
        return super().gathered(x, h_pre * share)


class BranchTwice(Foreign):
    """The branch runs twice and the mean of both is used."""

    stage = "branch"

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        h_pre, h_post, h_res = self.mappings(x, params)
        y = (branch(self.pre(x, h_pre)) + branch(self.pre(x, h_pre))) / 2
        return self.post(x, y, h_post, h_res)


class ResidualInterpolated(Foreign):
    """A tenth of the old state is kept beside nine tenths of the mixed one."""

    stage = "post"

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return 0.9 * super().mixed(x, h_res) + 0.1 * x


class BranchOutputCentred(Foreign):
    """The mean over channels is subtracted from the branch output."""

    stage = "post"
    preset = DEEPSEEK_V4

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return super().spread(y - y.mean(-1, keepdim=True), h_post)


class HeadOfHalfTheLogits(Foreign):
    """The head halves its logits."""

    stage = "collapse"
    preset = DEEPSEEK_V4

    def head(self, x: Tensor, params: Params) -> Tensor:
        return super().head(x, params._replace(alpha=params.alpha / 2))


class RestartedStreams(Foreign):
    """The second block starts from the mean of old and new streams."""

    stage = "layers"

    def layers(self, x: Tensor, params, branches) -> Tensor:
        entered = x
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            x = self.block((x + entered) / 2 if k else x, one, branch)
        return x


class ResOnly(Foreign):
    """h_res is raised to the power 1.1 and not normalised again."""

    stage = "projection"

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        return found._replace(res=found.res.pow(1.1))


FOREIGN = [value for value in list(globals().values()) if isinstance(value, type) and issubclass(value, Foreign)][1:]


def test_there_are_twenty_of_them_and_no_catalogue_has_one() -> None:
    assert len(FOREIGN) >= 20
    known = {type(deviation.make(home(name)[1])).__name__ for name, deviation in CATALOGUE.items()}
    assert not known & {kind.__name__ for kind in FOREIGN}


COEFFICIENTS = ("norm", "matmul", "gates", "sigmoid", "projection")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: kind.__name__)
def test_of_the_coefficients_the_stage_of_a_slip_is_wrong_by_itself_and_no_other(kind: type[Foreign]) -> None:
    view = View(made := kind(kind.preset, kind.__name__), Frame.of(made))
    assert list(Stages(view, kind.preset).every()) == [kind.stage] * (kind.stage in COEFFICIENTS)


SLOWLY = [pytest.param(kind, marks=pytest.mark.thorough) for kind in FOREIGN if kind is not BranchTwice]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BranchTwice, *SLOWLY])
def test_nothing_is_named_for_it(kind: type[Foreign]) -> None:
    found = identify(kind(kind.preset, kind.__name__), seconds=3.0)
    assert not found.explained
    assert found.deviation is None
    assert not found.differs
    assert found.residual_ratio > 1
    assert found.stage == kind.stage
    assert math.isfinite(found.residual_ratio) or found.to_json()["residual_ratio"] is None
