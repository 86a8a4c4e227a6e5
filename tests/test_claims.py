"""A claim can be made alone: a target without a formula is held to what it claims of h_res, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mhc_ref import Dialect
from properties import Implementation
from properties.causes import Causes
from properties.core.case import Case
from properties.core.family import mix_of
from properties.core.implementation import Projection
from properties.core.law import all_laws
from properties.core.rounding import Approx, Rounding
from properties.core.trial import LawBroken
from properties.diagnosis.diagnose import NoVerdict, identify
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.engine.trying import try_case
from properties.families import claims
from properties.targets.target import TargetError, resolve

CPU = torch.device("cpu")
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


def examined(law: str, project: Callable[[Tensor], Tensor], said: str, where: Path) -> Verdict:
    """The verdict of a law on a function that claims something."""
    target = Projection(project, claims(*said.split(","), roundings=64), "mine")
    profile = Profile(10, derandomise=True, shrink=False)
    return examine(all_laws()[law], Subject("mine", target, torch.float32, CPU), profile, directory=where)


def rotation(logits: Tensor) -> Tensor:
    """The Cayley transform of a skew matrix, whose size is held below 1."""
    skew = (logits - logits.mT).clamp(-1, 1)
    eye = torch.eye(logits.shape[-1], dtype=logits.dtype)
    return torch.linalg.solve(eye - skew, eye + skew)


def clipped(logits: Tensor) -> Tensor:
    """Rows of shares, of whose gradient the largest entries are cut off."""
    shares = logits.softmax(-1)
    if shares.requires_grad:
        shares.register_hook(lambda bar: bar.clamp(-1, 1))
    return shares


GUARANTEES = [
    ("manifold.no-entry-is-negative", "non-negative", lambda z: z.softmax(-1), lambda z: z.softmax(-1) - 1e-4),
    ("manifold.claimed-sums-are-one", "rows sum to 1", lambda z: z.softmax(-1), lambda z: z.sigmoid()),
    ("manifold.claimed-sums-are-one", "columns sum to 1", lambda z: z.softmax(-2), lambda z: z.softmax(-1)),
    ("manifold.claimed-sums-stay-below-one", "rows sum to at most 1", lambda z: -0.5 * z.softmax(-1), torch.tanh),
    ("manifold.orthogonal-matrices-preserve-norms", "orthogonal", rotation, lambda z: rotation(z).abs()),
    ("manifold.matrices-do-not-expand", "non-expansive", lambda z: rotation(z) * 0.5, lambda z: rotation(z) * 1.001),
    ("manifold.streams-have-no-names", "orthogonal, streams have no names", rotation, lambda z: rotation(z.triu())),
    ("gradient.pullback-is-homogeneous", "rows sum to 1", lambda z: z.softmax(-1), clipped),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "said", "right", "wrong"), GUARANTEES, ids=[f"{one[1]}: {one[0]}" for one in GUARANTEES]
)
def test_a_claim_is_held_to(
    law: str, said: str, right: Callable[[Tensor], Tensor], wrong: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    kept = examined(law, right, said, tmp_path)
    assert (kept.status, kept.worst_ratio <= 1) == ("passed", True), kept.message
    assert examined(law, wrong, said, tmp_path).status == "failed"


def test_there_is_nothing_to_identify_without_a_formula() -> None:
    with pytest.raises(NoVerdict, match="it claims guarantees of h_res only, and there is no formula"):
        identify(Softmax())


def test_a_failure_of_claims_alone_is_a_cause_that_says_why_nothing_explains_it() -> None:
    target = Softmax()
    target.project = lambda logits: 2 * logits.softmax(-1)  # pyright: ignore[reportAttributeAccessIssue]
    law, subject = all_laws()["manifold.claimed-sums-are-one"], Subject("mine", target, torch.float32, CPU)
    case = Case(logits=torch.zeros(1, 2, 2))
    with pytest.raises(LawBroken) as caught:
        try_case(law, subject, case)
    (cause,) = Causes().found(law, subject, case, caught.value).causes
    assert (cause.explanation, cause.stage) == (None, "projection")
    assert any("it claims guarantees of h_res only" in note for note in cause.notes)


@pytest.mark.slow
@pytest.mark.parametrize("said", ["rows sum to 1, non-negative", "non-negative"])
def test_no_law_of_a_claim_alone_ends_in_an_error(said: str, tmp_path: Path) -> None:
    """Laws that ask for more than is claimed say that they do not apply; nothing is accused, nothing fails for us."""
    statuses = {law: examined(law, lambda z: z.softmax(-1), said, tmp_path).status for law in all_laws()}
    assert {status for status in statuses.values()} == {"passed", "not-applicable"}, statuses
    assert len([law for law, status in statuses.items() if status == "passed"]) >= 10


def test_claims_that_are_no_strings_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"claims were given as \(\['non-negative'\],\); expected each as a string"):
        claims(["non-negative"])  # pyright: ignore[reportArgumentType]
