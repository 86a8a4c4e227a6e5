"""Every control is correct: it agrees with the reference wherever its arithmetic can."""

from __future__ import annotations

import pytest
import torch
from test_deviations import differences, generic_params, logits, normal

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, PAPER, PRESETS, Params
from properties.bounds import PRODUCTS
from properties.catalogue.controls import CATALOGUE, build
from properties.core.implementation import offers

CASES = [
    (name, preset)
    for name, control in CATALOGUE.items()
    for preset, dialect in PRESETS.items()
    if control.applies(dialect)
]
AS_PRECISE = [(name, preset) for name, preset in CASES if torch.float64 in build(name, PRESETS[preset]).dtypes]
"""Those that compute as precisely as the reference; tests/test_short_stages.py judges what short stages compute."""
COMMON = ("PAPER",)


@pytest.mark.parametrize(
    ("name", "preset"),
    [pytest.param(name, preset, marks=() if preset in COMMON else pytest.mark.slow) for name, preset in AS_PRECISE],
)
@pytest.mark.parametrize("family", ["forward", "gradient", "execution"])
def test_a_control_agrees_with_the_reference(name: str, preset: str, family: str) -> None:
    dialect = PRESETS[preset]
    least = 1e-3 if family == "gradient" else 1e-6  # reverse mode adds up what nearly cancels where a gate is shut
    for probe, found in differences(build(name, dialect), dialect, family, least):
        assert found < 1e-12, f"{probe}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), AS_PRECISE)
def test_a_control_keeps_the_precision_contract(name: str, preset: str) -> None:
    dialect = PRESETS[preset]
    control = build(name, dialect)
    exact = generic_params(dialect, 4, 5)
    single = Params(*(value.float() for value in exact if value is not None))
    for dtype in (torch.float32, torch.bfloat16):
        x = normal(7, 4, 5, dtype=dtype)
        wanted = mhc_ref.block(x.double(), Params(*(p.double() for p in single if p is not None)), torch.sin, dialect)
        found = control.block(x, single, torch.sin)
        mappings = control.mappings(x, single)
        assert found.dtype == dtype
        assert control.pre(x, mappings.pre).dtype == dtype
        assert all(mapping.dtype == torch.float32 for mapping in mappings)
        unit = max(torch.finfo(dtype).eps, 2 * PRODUCTS[control.products])
        assert torch.allclose(found.double(), wanted, rtol=0, atol=64 * unit)


@pytest.mark.parametrize("eps", [0.0, 0.01])
@pytest.mark.parametrize("denominator", ["add", "clamp"])
@pytest.mark.parametrize("name", [name for name, control in CATALOGUE.items() if control.applies(DEEPSEEK_V4)])
def test_a_control_is_right_at_any_eps(name: str, denominator: str, eps: float) -> None:
    for preset in (PAPER, DEEPSEEK_V4, LUCIDRAINS):
        if not CATALOGUE[name].applies(preset):
            continue  # a norm of another kind
        dialect = preset.with_(
            entry_eps=eps / 2, denominator_eps=0.5 * (eps > 0), denominator=denominator, iterations=3
        )
        control = build(name, dialect)
        z = logits(dialect, 4, 2.0).requires_grad_()
        found, wanted = control.project(z), mhc_ref.project(z, dialect)
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-14)
        cotangent = normal(4, 4, 4, seed=1)
        gradients = [torch.autograd.grad(result, z, cotangent)[0] for result in (found, wanted)]
        assert torch.allclose(*gradients, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_control_says_what_it_is(name: str) -> None:
    control = CATALOGUE[name]
    assert control.statement.endswith(".")
    norms = ({"rms_eps_from": "compute"}, {"centred": True})  # which no preset has
    others = (DEEPSEEK_V4.with_(**fields) for fields in norms)
    dialect = next(one for one in (*PRESETS.values(), *others) if control.applies(one))
    built = build(name, dialect)
    assert built.name == f"control:{name}"
    assert set(offers(built)) == set(offers(build("linear", dialect)))


def test_controls_differ_in_arithmetic() -> None:
    z = logits(PAPER, 4, 3.0).float()
    matrices = {name: build(name, PAPER).project(z) for name in ("linear", "reversed", "log-domain", "scaling-vectors")}
    assert not any(torch.equal(matrices["linear"], m) for name, m in matrices.items() if name != "linear")


def test_an_unknown_control_is_refused_with_the_closest_name() -> None:
    with pytest.raises(LookupError, match="no control 'log_domain'; did you mean log-domain"):
        build("log_domain", PAPER)


def test_a_control_without_arithmetic_of_its_own_is_refused() -> None:
    with pytest.raises(LookupError, match="softmax-start is no other arithmetic for DEEPSEEK_V4"):
        build("softmax-start", DEEPSEEK_V4)
