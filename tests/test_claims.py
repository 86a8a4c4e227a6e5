"""A claim can be made alone: a target without a formula is held to what it claims of h_res, and to nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mhc_ref import Dialect
from properties import Implementation
from properties.core.family import mix_of
from properties.core.law import all_laws
from properties.core.rounding import Approx, Rounding
from properties.families import claims
from properties.targets.target import TargetError, resolve

FLOAT32 = Rounding.of(torch.float32)


class Softmax(Implementation):
    """Rows of shares."""

    dialect = claims("rows sum to 1", "non-negative", roundings=8)
    dtypes = (torch.float32,)

    def project(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)


@pytest.mark.parametrize(
    ("said", "held"),
    [
        (("rows sum to 1", "non-negative"), {"sums": {"row"}, "nonnegative": True, "capped": {"row"}}),
        (("rows sum to 1", "columns sum to 1"), {"sums": {"row", "column"}, "capped": set()}),
        (("rows sum to at most 1", "columns sum to at most 1"), {"nonexpansive": True, "sums": set()}),
        (("orthogonal",), {"orthogonal": True, "nonexpansive": True, "nonnegative": False}),
    ],
)
def test_claims_are_guarantees(said: tuple[str, ...], held: dict[str, object]) -> None:
    dialect = claims(*said)
    found = mix_of(dialect).guarantees(dialect)
    assert {field: getattr(found, field) for field in held} == held


def test_claims_are_fields_of_a_dialect_and_come_back_from_them() -> None:
    dialect = claims("orthogonal", roundings=5, transposed=True)
    assert Dialect(**dialect.fields()) == dialect
    assert (dialect.claims, dialect.roundings, dialect.transposed) == ("orthogonal", 5, True)


def test_what_is_no_claim_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"claims is 'rows sum to 2'; expected claims .* of non-negative, rows sum to"):
        claims("rows sum to 2")


def test_a_plain_function_claims_in_place_of_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def project(logits):\n    return logits.softmax(-1)\n")
    made = resolve(f"{file}:project", "claims: rows sum to 1, non-negative")
    assert made.dialect == claims("rows sum to 1", "non-negative")
    with pytest.raises(TargetError, match=r"'claims: softmax': Dialect.claims is"):
        resolve(f"{file}:project", "claims: softmax")
    with pytest.raises(TargetError, match="or 'claims: rows sum to 1' and the like"):
        resolve(f"{file}:project")


def test_oracle_laws_say_that_there_is_nothing_to_compare_with() -> None:
    laws = [law for law in all_laws().values() if law.kind == "oracle" and law.needs == ("project",)]
    assert len(laws) > 3
    for law in laws:
        reason = law.inapplicable(Softmax(), torch.float32)
        assert reason == "claims guarantees only: there is no formula of h_res to compare with"


def test_an_error_is_declared_where_the_claims_say_how_large_an_entry_is() -> None:
    logits = Approx.exact(torch.zeros(2, 3, 3))
    for said, within in [("orthogonal", True), ("rows sum to at most 1", True), ("rows sum to 1", False)]:
        dialect = claims(said, roundings=10)
        bound = mix_of(dialect).bound(logits, dialect, FLOAT32)
        assert bound.value.isnan().all()
        assert bound.error.isfinite().all() == within
        assert not within or bool((bound.error == 10 * FLOAT32.unit).all())


def test_what_was_emitted_is_held_to_roundings_of_its_largest_entry() -> None:
    dialect = claims("rows sum to 1", roundings=3)
    got = torch.tensor([[[4.0, -3.0], [0.0, 1.0]]])
    held = mix_of(dialect).held(got, Approx.exact(torch.zeros(1, 2, 2)), dialect, FLOAT32)
    assert held.error.tolist() == [[[12 * FLOAT32.unit] * 2] * 2]
    assert held.line.tolist() == [[24 * FLOAT32.unit] * 2]
