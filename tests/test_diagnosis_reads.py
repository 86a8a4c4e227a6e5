"""What `identify` says of reads that have no gates by stream, of their own fields and of those of their norm."""

from __future__ import annotations

from typing import Any

import pytest

from mhc_ref import PRESETS, Dialect
from properties.core.implementation import Reference
from properties.diagnosis import identify

QWEN4_EXP, ATTN_RES = PRESETS["QWEN4_EXP"], PRESETS["ATTN_RES"]
ONE_BOTTLENECK = QWEN4_EXP.with_(one_bottleneck=True, norm_offset=0.0, rms_eps=2.0**-23, collapse="sum")
AFFINE = QWEN4_EXP.with_(affine=True)


class WithoutWeight(Reference):
    norm_weight = False


def slow(*parts: Any) -> Any:
    return pytest.param(*parts, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [ONE_BOTTLENECK, slow(QWEN4_EXP), slow(AFFINE), ATTN_RES])
def test_every_field_of_a_read_and_of_its_norm_is_certain(dialect: Dialect) -> None:
    found = identify(Reference(dialect, "mine"))
    assert found.explained
    assert not found.differs
    own = {"affine", "one_bottleneck", "rank"} if dialect.read == "bottleneck" else {"scaled", "reads_normalised"}
    for name in {"read", "rms_eps", "rms_eps_inside", "norm_offset", "res_columns", *own}:
        assert found.findings[name].certain, (name, found.findings[name])
        assert found.findings[name].value == dialect.fields()[name]
    for name in ("rms_eps", "norm_offset"):
        bar = found.findings[name].estimate
        assert bar is not None
        assert bar.high - bar.low < 1e-9


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("declared", "fields"),
    [
        # Each of these is measured below as well, beside another field or in another read of the same family.
        pytest.param(QWEN4_EXP, {"rms_eps": 3e-4}, marks=pytest.mark.thorough),
        pytest.param(ONE_BOTTLENECK, {"rms_eps": 1e-6}, marks=pytest.mark.thorough),
        (ATTN_RES, {"scaled": True}),
        slow(QWEN4_EXP, {"norm_offset": 0.5}),
        slow(QWEN4_EXP, {"rms_eps_inside": False, "rms_eps": 1e-3}),
        slow(ATTN_RES, {"reads_normalised": True}),
        slow(ATTN_RES, {"reads_normalised": True, "scaled": True, "rms_eps": 2e-3}),
    ],
)
def test_a_field_that_is_not_as_declared_is_measured(declared: Dialect, fields: dict[str, Any]) -> None:
    found = identify(Reference(declared.with_(**fields), "mine"), against=declared)
    assert found.explained
    assert {name: value for name, (_, value) in found.differs.items()} == fields


def test_what_has_no_weight_shows_no_offset() -> None:
    found = identify(WithoutWeight(ATTN_RES, "mine")).findings["norm_offset"]
    assert (found.status, found.why) == ("undetermined", "without a norm weight there is nothing that it is added to")


@pytest.mark.slow
def test_a_slip_elsewhere_is_no_field_of_the_read() -> None:
    """No value of them gives the answers of another h_post, and none is told."""
    found = identify(Reference(QWEN4_EXP.with_(post_scale=1.0), "mine"), against=QWEN4_EXP, seconds=4)
    for name in ("rms_eps", "norm_offset", "one_bottleneck"):
        assert not found.findings[name].certain
        assert found.findings[name].value == QWEN4_EXP.fields()[name]
