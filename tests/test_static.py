"""Static hyper-connections: logits that are the bias alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import LUCIDRAINS, PAPER, Dialect, Params
from mhc_ref.packing import params_shapes
from properties.bounds import Approx, Rounding
from properties.bounds.gradients import coefficients_gradient
from properties.catalogue.deviations import CATALOGUE
from properties.core.implementation import Reference
from properties.diagnosis import identify

STATIC = PAPER.with_(dynamic="static", rms_eps=0.0)


def given(dialect: Dialect, tokens: int = 3) -> tuple[Tensor, Params]:
    """A state with a token of zeros, and parameters."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, 3, 4, generator=generator, dtype=torch.float64)
    x[0] = 0
    return x, Params(
        *(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in params_shapes(3, 4, dialect))
    )


@pytest.mark.parametrize("dialect", [STATIC, LUCIDRAINS.with_(dynamic="static")], ids=["streams", "stream"])
def test_mappings_are_those_of_the_bias_whatever_the_state(dialect: Dialect) -> None:
    x, params = given(dialect)
    x[1, 0, 0], x[2] = torch.nan, 1e200
    found = mhc_ref.mappings(x, params, dialect)
    closed = params._replace(alpha=torch.zeros_like(params.alpha))
    expected = mhc_ref.mappings(torch.ones_like(x), closed, dialect.with_(dynamic="linear"))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_gradients_by_what_is_not_read_are_zero_to_the_last_bit() -> None:
    x, params = given(STATIC)
    pre, post, res = (Approx.exact(torch.ones(3, *size, dtype=torch.float64)) for size in ((3,), (3,), (3, 3)))
    found = coefficients_gradient(Approx.exact(x), params, pre, post, res, STATIC, Rounding.of(torch.float32))
    for name in ("x", "phi", "alpha", "norm_weight"):
        one = getattr(found, name)
        assert not one.value.any(), name
        assert float(one.error.max()) < 1e-35, name  # what a product with a stored 0 may lose
    assert found.bias.value.any()


@pytest.mark.slow
def test_identify_measures_that_there_is_no_dynamic_part() -> None:
    found = identify(Reference(STATIC.with_(rms_eps=1e-6), "mine"))
    assert (found.findings["dynamic"].value, found.findings["dynamic"].status) == ("static", "certain")
    assert found.findings["rms_eps"].status == "undetermined"
    assert not found.differs


def test_a_slip_of_the_dynamic_part_alone_is_none_where_there_is_no_such_part() -> None:
    for name in ("norm-missing", "layer-norm", "norm-span", "gates-ignored", "phi-channel-major"):
        assert CATALOGUE[name].applies(PAPER), name
        assert not CATALOGUE[name].applies(STATIC), name
    for name in ("alpha-on-bias", "static-bias-through-tanh", "static-reads-the-state", "pre-unsquashed"):
        assert CATALOGUE[name].applies(STATIC), name
