"""Stages that compute in the dtype of the state: bounds that hold, belong to the stage alone, and catch others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mhc_ref import PAPER, PRESETS, Dialect, Params
from mhc_ref.packing import params_shapes
from mhc_ref.stack import has_head
from properties import bounds
from properties.catalogue.controls_of_dtypes import ShortStages
from properties.core.case import Case
from properties.core.declaration import DeclarationError
from properties.core.handing import storable
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.rounding import STAGES, STORED, Approx, Rounding
from properties.core.settling import settle
from properties.core.trial import ContractBroken, FloatTruth, Trial
from properties.diagnosis import identify
from properties.engine.runner import Profile, Subject, Verdict, examine

SHORT = [torch.bfloat16, torch.float16]
OWN = ShortStages.short_stages
"""Those that torch computes in every dialect."""
ALL = "+".join(OWN)


class Everything(ShortStages):
    """h_res in the dtype of the state as well."""

    short_stages = STAGES
    state: torch.dtype

    def project(self, logits: Tensor) -> Tensor:
        state = torch.bfloat16 if self.state == torch.float32 else self.state
        stored = logits.to(state)
        shifted = (stored - stored.amax(-2, keepdim=True)).exp()
        for _ in range(self.computed.iterations):
            shifted = shifted / shifted.sum(-2, keepdim=True)
            shifted = shifted / shifted.sum(-1, keepdim=True)
        return shifted


def drawn(dialect: Dialect, dtype: torch.dtype, seed: int, n: int, channels: int) -> tuple[Tensor, Params]:
    """Tokens of several sizes, and parameters of order one or so that can be stored."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shapes, scale = params_shapes(n, channels, dialect), (1.0, 3.0, 0.3)[seed % 3]
    phi, bias = scale * normal(*shapes.phi) / shapes.phi[0] ** 0.5, scale * normal(*shapes.bias)
    params = Params(phi, bias, 0.5 + normal(*shapes.alpha).abs(), 1 + normal(n * channels) / 4)
    wide = Params(*(one.float() for one in params if one is not None))
    sizes = torch.tensor([1, 0.01, 10, 0.1]).view(-1, 1, 1)
    return (normal(4, n, channels) * sizes).to(dtype), storable(wide, dtype)


def ratios(target: Implementation, x: Tensor, params: Params) -> dict[str, float]:
    """error / bound of every mapping, and of what the branch reads."""
    trial = trial_of(target, x.dtype)
    got = trial.mappings(x, params)
    found = bounds.block.coefficients(Approx.exact(x), params, target.dialect, trial.rounding).parts()
    pairs = {name: (getattr(got, name), one) for name, one in found.items()}
    h_pre = got.pre.float()
    pairs["read"] = (trial.pre(x, h_pre), bounds.block.read(x, Approx.exact(h_pre), trial.rounding))
    return {name: _ratio(value, one) for name, (value, one) in pairs.items()}


def _ratio(got: Tensor, approx: Approx) -> float:
    apart = (got.double().reshape(approx.value.shape) - approx.value).abs()
    return float(torch.where(apart == 0, 0.0, apart / approx.error).max())


def trial_of(implementation: Implementation, dtype: torch.dtype) -> Trial:
    return Trial(implementation, dtype, torch.device("cpu"), FloatTruth(implementation.dialect))


def made(
    dialect: Dialect, dtype: torch.dtype, stages: Sequence[str], kind: type[ShortStages] = ShortStages
) -> ShortStages:
    found = kind(dialect, "short")
    found.short_stages, found.dtypes = stages, (dtype,)
    return found


def verdict(implementation: Implementation, law: str, directory: Path, dtype: torch.dtype = torch.bfloat16) -> Verdict:
    subject = Subject("target", implementation, dtype, torch.device("cpu"))
    profile = Profile(examples=6, derandomise=True, shrink=False)
    return examine(all_laws()[law], subject, profile, directory=directory)


# -- sound and sharp --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("stages", [*((one,) for one in OWN), OWN], ids="+".join)
def test_the_bound_of_a_short_stage_is_sound_in_every_dialect(stages: tuple[str, ...], dtype: torch.dtype) -> None:
    sizes = ((3, 8), (4, 33))
    for (number, dialect), seed in itertools.product(enumerate(PRESETS.values()), range(1)):
        n, channels = sizes[(number + seed) % 2]
        n = n if n in Reference(dialect).streams else max(Reference(dialect).streams)
        assert max(ratios(made(dialect, dtype, stages), *drawn(dialect, dtype, seed, n, channels)).values()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 20])
def test_the_bound_of_a_short_projection_is_sound(iterations: int) -> None:
    dialect = PAPER.with_(iterations=iterations)
    for seed, dtype in itertools.product(range(6), SHORT):
        for stages in (("projection",), STAGES):
            found = ratios(made(dialect, dtype, stages, Everything), *drawn(dialect, dtype, seed, 3, 8))
            assert max(found.values()) <= 1


@pytest.mark.slow
def test_the_bound_of_a_short_stage_is_a_part_of_what_is_lost_in_it() -> None:
    """At most so many times what one rounding of each operation makes of few random numbers."""
    least = {"norm": 1 / 15, "products": 1 / 10, "logits": 1 / 4, "gates": 1 / 15}
    for stage, share in least.items():
        worst = 0.0
        for seed in range(24):
            found = ratios(made(PAPER, torch.bfloat16, (stage,)), *drawn(PAPER, torch.bfloat16, seed, 2, 2))
            worst = max(worst, found["pre"], found["post"])
        assert worst > share, (stage, worst)


def test_the_roundings_of_a_sum_that_is_accumulated_do_not_count() -> None:
    declared = made(PAPER, torch.bfloat16, ("norm",))
    whole = Rounding.of_declared(declared, torch.bfloat16)
    short = whole.at("norm")
    assert whole.at("gates") is whole
    assert short.gamma(4) == pytest.approx(4 * 2**-8 / (1 - 4 * 2**-8), rel=1e-9)
    assert short.gamma(10**4) < 2 * STORED * 2**-8
    assert short.at("norm") is short
    assert Rounding.of_declared(declared, torch.float32) == Rounding.of(torch.float32)
    assert Rounding.of_declared(declared, torch.float16).at("norm").tiny == torch.finfo(torch.float16).tiny


def test_a_stage_that_is_not_declared_keeps_its_bound() -> None:
    """Gates may be short, and the projection beside them is judged as before; float32 states are, in every stage."""
    x, params = drawn(PAPER, torch.bfloat16, 1, 3, 8)
    given = Approx.exact(x), params, PAPER
    plain = bounds.block.coefficients(*given, Rounding.of(torch.bfloat16))
    gates = bounds.block.coefficients(
        *given, Rounding.of_declared(made(PAPER, torch.bfloat16, ("gates",)), torch.bfloat16)
    )
    assert torch.equal(plain.res.error, gates.res.error)
    assert (gates.pre.error > 100 * plain.pre.error).all()


@pytest.mark.parametrize("preset", [name for name, one in PRESETS.items() if has_head(one)])
def test_a_head_of_short_stages_is_within_its_bound(preset: str) -> None:
    dialect = PRESETS[preset]
    law = all_laws()["depth.collapse-is-as-declared"]
    for seed in range(3):
        x, params = drawn(dialect, torch.bfloat16, seed, 3, 8)
        trial = trial_of(made(dialect, torch.bfloat16, OWN), torch.bfloat16)
        law.judge(trial, Case(x=x, params=(params,)))
        assert 0 < trial.worst <= 1


# -- caught -----------------------------------------------------------------------------------------------------------


class Undeclared(ShortStages):
    """Computes one stage in the dtype of the state and declares others."""

    computes: str
    state: torch.dtype

    def at(self, stage: str, *values: Tensor) -> list[Tensor]:
        return [one.to(self.state if stage == self.computes else torch.float32) for one in values]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "beside", "law"),
    [
        ("norm", (), "coefficients.agrees-with-oracle"),
        ("norm", ("gates", "read"), "coefficients.agrees-with-oracle"),
        ("products", (), "coefficients.agrees-with-oracle"),
        ("products", ("gates", "read"), "coefficients.agrees-with-oracle"),
        ("logits", (), "coefficients.agrees-with-oracle"),
        ("logits", ("gates", "read"), "coefficients.agrees-with-oracle"),
        ("gates", (), "precision.gates-keep-the-compute-precision"),
        ("gates", ("norm", "products"), "precision.gates-keep-the-compute-precision"),
        ("read", (), "mixing.pre-is-the-weighted-sum"),
        ("read", ("norm", "products", "logits", "gates"), "mixing.pre-is-the-weighted-sum"),
    ],
)
def test_a_stage_that_is_shorter_than_declared_is_caught(
    stage: str, beside: tuple[str, ...], law: str, tmp_path: Path
) -> None:
    target = made(PAPER, torch.bfloat16, (*beside, stage), Undeclared)
    assert isinstance(target, Undeclared)
    target.computes = stage
    assert verdict(target, law, tmp_path).status == "passed"
    target.short_stages = beside
    assert verdict(target, law, tmp_path).status == "failed"


@pytest.mark.slow
def test_a_short_projection_is_caught_beside_every_other_stage(tmp_path: Path) -> None:
    law = "manifold.agrees-with-oracle"
    assert verdict(made(PAPER, torch.bfloat16, STAGES, Everything), law, tmp_path).status == "passed"
    assert verdict(made(PAPER, torch.bfloat16, OWN, Everything), law, tmp_path).status == "failed"


def test_a_mapping_is_of_the_dtype_in_which_its_stage_computes() -> None:
    x, params = drawn(PAPER, torch.bfloat16, 0, 3, 8)
    found = trial_of(made(PAPER, torch.bfloat16, OWN), torch.bfloat16).mappings(x, params)
    assert [one.dtype for one in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    silent = made(PAPER, torch.bfloat16, OWN)
    silent.at = lambda stage, *values: [one.bfloat16() for one in values]  # pyright: ignore[reportAttributeAccessIssue]
    silent.short_stages = ("norm", "products", "logits", "read")
    with pytest.raises(ContractBroken, match=r"mappings\.pre is torch\.bfloat16; expected torch\.float32"):
        trial_of(silent, torch.bfloat16).mappings(x, params)


# -- declared ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gradients_of_short_stages_are_asked_for_in_float32_alone(tmp_path: Path) -> None:
    target = made(PAPER, torch.bfloat16, OWN)
    target.dtypes = (torch.float32, torch.bfloat16)
    law = "gradient.mappings-pull-back-to-state-and-parameters"
    assert verdict(target, law, tmp_path, torch.float32).status == "passed"
    found = verdict(target, law, tmp_path)
    assert (found.status, found.reason) == (
        "not-applicable",
        "stages that compute in bfloat16 have no derived bound backwards",
    )


def test_a_stage_that_there_is_none_of_is_refused() -> None:
    target = Reference(PAPER)
    assert settle(target).short_stages == ()
    target.short_stages = ["gates", "norms"]
    with pytest.raises(DeclarationError, match=r"short_stages names \['norms'\]; expected some of norm, products"):
        settle(target)


@pytest.mark.slow
def test_what_is_declared_is_nothing_that_a_diagnosis_finds() -> None:
    found = identify(made(PAPER, torch.bfloat16, OWN))
    assert found.deviation is None
