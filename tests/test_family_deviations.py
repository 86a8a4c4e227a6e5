"""Deviations lie with their families: ours are gathered by file, and a family from outside lists its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import MHC_LITE, PAPER, PRESETS, RESIDUAL, Dialect, registry
from properties.catalogue.controls import CATALOGUE as CONTROLS
from properties.catalogue.deviations import CATALOGUE, HIDDEN, build, deviations_of
from properties.core.deviant import Deviant, redialected
from properties.core.slips import KINDS, Deviation, Slips
from properties.engine.kills import kills
from properties.families import Field, Guarantees, Mix

ROOT = Path(__file__).parents[1]


class Retained(Mix):
    """M = keep I + (1 - keep) softmax of the rows."""

    name = "retained"
    words = "a softmax of its rows that retains a part of each stream"
    source = "a test"
    roundings = 8
    FIELDS = {"keep": Field(0.25, lambda keep: 0 <= keep < 1, "a number from 0, below 1")}  # noqa: RUF012

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        eye = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        return dialect.keep * eye + (1 - dialect.keep) * logits.softmax(-1)

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        rows = [real.softmax(z[n * i : n * i + n]) for i in range(n)]
        return [[dialect.keep * (i == j) + (1 - dialect.keep) * rows[i][j] for j in range(n)] for i in range(n)]

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(nonnegative=True, sums=frozenset({"row"}))

    def deviations(self) -> dict[str, Any]:
        listed = Slips()

        @listed.step("gradient")("retained-detached", "mutation")
        class Detached(Deviant):
            """The logits receive no gradient."""

            def project(self, logits: Tensor) -> Tensor:
                return super().project(logits.detach())

        return {"retained-by-columns": ("mutation", by_columns), "retained-twice": ("mutation", Twice), **listed}


def by_columns(logits: Tensor, dialect: Dialect) -> Tensor:
    """The softmax is taken of the columns."""
    return Retained().project(logits.mT, dialect).mT


class Twice(Deviant):
    """The retained part is added once more."""

    def project(self, logits: Tensor) -> Tensor:
        m = super().project(logits)
        return m + self.computed.keep * torch.eye(m.shape[-1]).to(m)


@pytest.fixture
def retained(monkeypatch: pytest.MonkeyPatch) -> Retained:
    monkeypatch.setattr(registry, "_outside", {})
    return registry.register(Retained())


def test_a_family_from_outside_lists_deviations_that_join_the_catalogue(retained: Retained) -> None:
    assert set(deviations_of(retained)) == {"retained-by-columns", "retained-twice", "retained-detached"}
    one = CATALOGUE["retained-by-columns"]
    assert one.slip == "The softmax is taken of the columns."
    assert one.applies(PAPER.with_(residual="retained"))
    assert not one.applies(PAPER)
    assert CATALOGUE["retained-detached"].kind == "gradient"


def test_a_deviation_from_outside_is_built_in_the_plainest_dialect_of_its_family(retained: Retained) -> None:
    made = build("retained-twice")
    assert made.dialect == PAPER.with_(residual="retained")
    z = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(made.project(z).sum(-1), torch.tensor(1.25, dtype=torch.float64))
    assert torch.equal(Deviant(made.dialect).project(z), retained.project(z, made.dialect))
    with pytest.raises(LookupError, match="retained-twice makes no difference for RESIDUAL"):
        build("retained-twice", RESIDUAL)


def test_slips_of_the_catalogue_apply_to_a_family_from_outside_by_what_it_guarantees(retained: Retained) -> None:
    dialect = PAPER.with_(residual="retained")
    applying = {name for name, one in (CATALOGUE | HIDDEN).items() if one.applies(dialect)}
    assert {"h-res-transposed", "logits-transposed", "manifold-missing", "half-gradient", "norm-missing"} <= applying
    assert not applying & {"one-iteration-fewer", "permutations-inverted", "sums-before-barrier"}


def test_a_family_that_is_no_longer_known_takes_its_deviations_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", {})
    before = list(CATALOGUE)
    registry.register(Retained())
    assert len(CATALOGUE) == len(before) + 3
    monkeypatch.setattr(registry, "_outside", {})
    assert list(CATALOGUE) == before


@pytest.mark.slow
def test_the_laws_kill_the_deviations_of_a_family_from_outside(retained: Retained) -> None:
    found = kills(
        retained,
        PAPER.with_(residual="retained", rms_eps=1e-6),
        ["manifold.agrees-with-oracle", "gradient.projection-pulls-back"],
        examples=8,
        enough=1,
    )
    assert found == {
        "retained-by-columns": ("manifold.agrees-with-oracle",),
        "retained-twice": ("manifold.agrees-with-oracle",),
        "retained-detached": ("gradient.projection-pulls-back-the-unrolled-iteration",),
    }


def test_a_family_without_deviations_is_told_how_to_list_some(retained: Retained) -> None:
    class Silent(Retained):
        name = "silent"

        def deviations(self) -> dict[str, Any]:
            return {}

    with pytest.raises(ValueError, match="the mix family 'silent' lists no deviation for "):
        kills(Silent(), PAPER.with_(residual=Silent()))


def test_a_name_that_is_taken_is_refused(retained: Retained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retained, "deviations", lambda self: {"h-res-transposed": ("mutation", Twice)})
    monkeypatch.setattr(registry, "_outside", {})
    registry.register(Retained())
    with pytest.raises(ValueError, match="two deviations are called 'h-res-transposed'; call yours otherwise"):
        list(CATALOGUE)


# Ours


def test_names_stand_in_the_order_of_their_kinds_and_not_of_imports() -> None:
    for catalogue in (CATALOGUE, HIDDEN):
        keys = [(KINDS.index(one.kind), name) for name, one in catalogue.items()]
        assert keys == sorted(keys)


def test_a_deviant_is_made_over_the_steps_of_the_families_that_it_computes() -> None:
    for dialect in PRESETS.values():
        made = Deviant(dialect)
        assert redialected(made)
        assert made.slip is Deviant
    assert not redialected(build("h-res-never-applied", PAPER))
    changed = Deviant(PAPER, "other", lambda d: MHC_LITE)
    z = torch.randn(2, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(changed.project(z), Deviant(MHC_LITE).project(z))


def test_a_deviant_in_another_dialect_has_the_steps_of_that() -> None:
    tuned = build("logits-clipped", PAPER).tuned(residual="permutations")
    z = 9 * torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(tuned.project(z), build("logits-clipped", PAPER.with_(residual="permutations")).project(z))


def test_a_copy_of_a_deviant_computes_the_same() -> None:
    made = build("sums-before-barrier", PAPER)
    z = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(copy.deepcopy(made).project(z), made.project(z))


@pytest.mark.parametrize("shelf", ["deviations", "controls", "steps"])
def test_what_lies_on_a_shelf_belongs_to_a_family(shelf: str) -> None:
    families = {registry.module_of(name) for _, name in registry.BUILT_IN}
    on_it = {path.stem for path in (ROOT / "properties" / "families" / shelf).iterdir()} - {"__init__", "__pycache__"}
    assert on_it <= families


def test_a_family_without_its_line_in_the_registry_has_no_deviations_either(monkeypatch: pytest.MonkeyPatch) -> None:
    from properties.catalogue.deviations import catalogue

    left = tuple(one for one in registry.BUILT_IN if one != ("mix", "permutations"))
    monkeypatch.setattr(registry, "BUILT_IN", left)
    known = catalogue._gathered.__wrapped__(False, ())
    assert set(CATALOGUE) - set(known) == {"permutations-inverted", "permutations-reordered", "hardened-matrix"}
    assert all(isinstance(one, Deviation) for one in known.values())


def test_every_control_is_listed_once() -> None:
    assert {"linear", "log-domain", "tanh-sigmoid", "reversed"} <= set(CONTROLS)
