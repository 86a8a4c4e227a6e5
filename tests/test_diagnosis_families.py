"""identify asks families: what they say of themselves, and the fields of those that come from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import PAPER, Dialect, Params, registry
from properties.catalogue.deviations import CATALOGUE
from properties.core.implementation import Implementation, Reference
from properties.core.rounding import Rounding
from properties.diagnosis import identify
from properties.diagnosis.answers import answer
from properties.diagnosis.circumstances import executions, gradients
from properties.diagnosis.findings import choices
from properties.diagnosis.inference import infer
from properties.diagnosis.mixes import fit, mixes_for, stages
from properties.diagnosis.own_fields import fitted
from properties.diagnosis.view import Frame, View
from properties.diagnosis.words import difference_in_words
from properties.families import Field, Gate, Guarantees, Mix


class Retained(Mix):
    """M = keep I + (1 - keep) softmax of the rows of Z / heat, or of its columns."""

    name = "retained"
    words = "a softmax that retains a part of each stream"
    source = "a test"
    roundings = 8
    FIELDS: Mapping[str, Field] = {
        "keep": Field(0.25, lambda keep: 0 <= keep < 1, "a number from 0, below 1"),
        "heat": Field(1.0, lambda heat: 0 < heat < 1e6, "a number above 0"),
        "columns": Field(False, lambda columns: isinstance(columns, bool), "True or False"),
    }

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        eye = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        soft = (logits / dialect.heat).softmax(-2 if dialect.columns else -1)
        return dialect.keep * eye + (1 - dialect.keep) * soft

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        z = [one / dialect.heat for one in z]
        lines = [real.softmax(z[i::n] if dialect.columns else z[n * i : n * i + n]) for i in range(n)]
        keep = dialect.keep
        soft = [[lines[j][i] if dialect.columns else lines[i][j] for j in range(n)] for i in range(n)]
        return [[keep * (i == j) + (1 - keep) * soft[i][j] for j in range(n)] for i in range(n)]

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(nonnegative=True, sums=frozenset({"column" if dialect.columns else "row"}))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families of a test are known to that test alone."""
    monkeypatch.setattr(registry, "_outside", {})
    torch.set_num_threads(1)


def seen_by(dialect: Dialect) -> Any:
    """The matrices of a dialect, as a fit asks for them."""
    view = View(Reference(dialect), Frame.of(Reference(dialect)))
    return lambda z: (view.project(z), torch.zeros(len(z), 3, 3, dtype=torch.float64))


def fit_of(dialect: Dialect, declared: Dialect) -> list[Any]:
    return fit("retained", seen_by(dialect), 3, Rounding.of(torch.float64), 600.0, torch.float64, 2**40, declared)


# Own fields


def test_numbers_of_a_family_from_outside_are_measured_and_the_rest_is_tried() -> None:
    declared = PAPER.with_(residual=Retained())
    (found,) = fit_of(declared.with_(keep=0.37, heat=2.5, columns=True), declared)
    assert found.fields == {"residual": "retained", "keep": 0.37, "heat": 2.5, "columns": True}
    assert found.ratio <= 1
    for name in ("keep", "heat"):
        bar = found.estimates[name]
        assert bar.low <= found.fields[name] <= bar.high
        assert bar.high - bar.low < 1e-12


def test_what_another_formula_made_is_no_value_of_its_fields() -> None:
    assert fit_of(PAPER, PAPER.with_(residual=Retained())) == []


def test_a_field_that_nothing_depends_on_has_a_bar_that_says_so() -> None:
    declared = PAPER.with_(residual=Retained(), keep=0.5)
    fields = {**Retained.FIELDS, "idle": Field(1.0, lambda idle: 0 < idle < 100, "a number")}
    del fields["heat"], fields["columns"]

    def distance(values: dict[str, Any]) -> float:
        return abs(values["keep"] - 0.5)

    def residual(values: dict[str, Any]) -> Tensor:
        return torch.tensor([values["keep"] - 0.5])

    (found,) = fitted(fields, {"keep": declared.keep}, residual, lambda values: distance(values) / 1e-9)
    assert found.fields == {"keep": 0.5, "idle": 1.0}
    assert found.estimates["idle"].high > 50
    assert found.estimates["idle"].low < 1e-6
    bar = found.estimates["keep"]
    assert (bar.low, bar.high) == (pytest.approx(0.5 - 1e-9, rel=1e-9), pytest.approx(0.5 + 1e-9, rel=1e-9))


@pytest.mark.parametrize("wanted", [-3.0, 0.0, 1e-3, 2.5e3])
def test_a_number_is_found_whatever_its_sign_and_size(wanted: float) -> None:
    fields = {"shift": Field(1.0, math.isfinite, "a finite number")}

    def distance(values: dict[str, Any]) -> float:
        return abs(values["shift"] - wanted)

    def residual(values: dict[str, Any]) -> Tensor:
        return torch.tensor([values["shift"] - wanted], dtype=torch.float64)

    (found,) = fitted(fields, {}, residual, lambda values: distance(values) / 1e-12)
    assert found.fields == {"shift": wanted}


def test_whole_numbers_near_the_declared_one_are_tried() -> None:
    fields = {"terms": Field(3, lambda terms: isinstance(terms, int) and terms > 0, "a whole number above 0")}

    def ratio(values: dict[str, Any]) -> float:
        return abs(values["terms"] - 7)

    def residual(values: dict[str, Any]) -> Tensor:
        return torch.tensor([ratio(values)], dtype=torch.float64)

    assert [one.fields for one in fitted(fields, {"terms": 4}, residual, ratio) if not one.ratio] == [{"terms": 7}]
    assert fitted(fields, {"terms": 4}, residual, lambda values: 2 + ratio(values)) == []


# Findings


def test_the_fields_of_a_family_that_a_target_carries_are_certain_where_they_are_shown() -> None:
    declared = PAPER.with_(residual=Retained(), rms_eps=1e-6)

    class Alone(Implementation):
        dialect = declared
        streams = (3,)

        def project(self, logits: Tensor) -> Tensor:
            return Retained().project(logits, declared.with_(heat=2.0))

    target = Alone()
    found = infer(View(target, Frame.of(target)), declared)
    told = {name: (found.findings[name].value, found.findings[name].status) for name in ("residual", "keep", "heat")}
    assert told == {"residual": ("retained", "certain"), "keep": (0.25, "certain"), "heat": (2.0, "certain")}
    assert found.findings["columns"].certain
    assert found.findings["iterations"].why == "nothing depends on it where residual is 'retained'"


@pytest.mark.slow
def test_a_target_with_a_family_of_its_own_is_identified() -> None:
    declared = PAPER.with_(residual=Retained(), rms_eps=1e-6)

    class Kept(Reference):
        def mappings(self, x: Tensor, params: Params) -> Any:
            return Reference(declared.with_(keep=0.5)).mappings(x, params)

        def project(self, logits: Tensor) -> Tensor:
            return Retained().project(logits, declared.with_(keep=0.5))

        block, layers, stack = (getattr(Implementation, name) for name in ("block", "layers", "stack"))

    found = identify(Kept(declared, "kept"))
    assert found.explained
    assert found.differs == {"keep": (0.25, 0.5)}
    assert found.headline().endswith("but keep is 0.5")
    assert found.findings["keep"].certain


@pytest.mark.slow
def test_a_registered_family_is_tried_though_another_is_declared() -> None:
    registry.register(Retained())
    found = identify(Reference(PAPER.with_(residual="retained", keep=0.5), "retained"), against=PAPER)
    assert found.explained
    assert found.differs["residual"] == ("sinkhorn", "retained")
    assert found.differs["keep"] == (None, 0.5)
    assert "h_res is a softmax that retains a part of each stream" in found.headline()


class Crossed(Mix):
    """The Kronecker product of two softmaxes, for n = 4 alone."""

    name = "crossed"
    roundings = 16

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        if n != 4:
            raise ValueError(f"n is {n}; the product is of two 2 x 2 matrices")
        return (2, 2, 2)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        soft = logits.softmax(-1)
        return torch.einsum("...ij,...kl->...ikjl", soft[..., 0, :, :], soft[..., 1, :, :]).flatten(-4, -3).flatten(-2)

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        rows = [real.softmax(z[2 * k : 2 * k + 2]) for k in range(4)]
        return [[rows[i // 2][j // 2] * rows[2 + i % 2][j % 2] for j in range(4)] for i in range(4)]

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(nonnegative=True, sums=frozenset({"row"}))


class Halved(Mix):
    """Every stream is halved; there are no logits."""

    name = "halved"
    roundings = 1

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return (n, 0)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        n = logits.shape[-2]
        return (torch.eye(n) / 2).to(logits).expand(*logits.shape[:-2], n, n)

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        return [[real.mp.one / 2 if i == j else real.mp.zero for j in range(n)] for i in range(n)]

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(nonnegative=True, capped=frozenset({"row", "column"}), constant=True)


@pytest.mark.parametrize("mix", [pytest.param(Crossed(), marks=pytest.mark.slow), Halved()])
def test_a_mix_of_other_logits_is_asked_and_told_whatever_they_are(mix: Mix) -> None:
    dialect = PAPER.with_(residual=mix, rms_eps=1e-6)
    target = Reference(dialect, mix.name)
    target.streams = (4,)
    assert mix.name in choices(dialect, "residual")
    applying = [name for name, one in CATALOGUE.items() if one.applies(dialect)]
    assert "norm-missing" in applying
    assert not {"logits-transposed", "manifold-missing"}.intersection(applying)
    found = infer(view := View(target, Frame.of(target)), dialect)
    assert found.findings["residual"].value == mix.name
    assert found.findings["residual"].certain
    probes = [*gradients(view.frame, 1)[:1], *executions(view.frame, 1)[:3]]
    for given in (*found.answers, *(answer(probe, view) for probe in probes)):
        assert not given.error, given.told
        assert found.predictions.ratio(given, dialect) <= 1, given.probe.name
        found.predictions.ratio(given, PAPER)  # other logits are no fault of ours


# Families are asked


def test_mixes_of_the_same_logits_are_in_question_and_no_others() -> None:
    assert mixes_for(PAPER, 3) == ["sinkhorn", "unconstrained", "identity", "cayley"]
    assert mixes_for(PAPER.with_(residual="permutations"), 3) == ["permutations"]
    registry.register(Retained())
    assert mixes_for(PAPER, 3) == ["sinkhorn", "unconstrained", "identity", "cayley", "retained"]
    assert choices(PAPER, "residual") == ("sinkhorn", "unconstrained", "identity", "cayley", "retained")


def test_families_without_fits_come_first_and_a_further_fit_where_nothing_was_found() -> None:
    quick, fits, tempered = stages(["sinkhorn", "unconstrained", "identity"])
    assert (len(quick), len(fits), len(tempered)) == (2, 1, 1)


def test_words_are_the_families_and_those_of_a_family_from_outside() -> None:
    registry.register(Retained())
    found = {"residual": "retained", "keep": 0.5, "columns": True, "iterations": 3}
    assert difference_in_words({name: (None, value) for name, value in found.items()}) == [
        "h_res is a softmax that retains a part of each stream",
        "keep is 0.5",
        "columns is True",
        "Sinkhorn runs 3 iterations",
    ]
    assert difference_in_words({"keep": (0.25, None)}) == []  # it went with its family


@pytest.mark.slow
def test_a_gate_from_outside_is_found_by_its_formula_and_read_by_its_inverse() -> None:
    class Half(Gate):
        """(1 + tanh z) / 2."""

        name = "half"
        words = "half of 1 + tanh"
        roundings = 4
        unit_range = True

        def gates(self, logits: Tensor, dialect: Dialect) -> Tensor:
            return (1 + logits.tanh()) / 2

        def exact(self, z: Any, dialect: Dialect, real: Any) -> list[Any]:
            return [(1 + real.tanh(one)) / 2 for one in z]

        def inverse(self, gates: Tensor, dialect: Dialect) -> Tensor:
            return (2 * gates - 1).atanh()

        def slope(self, logits: Tensor, gates: Tensor, dialect: Dialect) -> Tensor:
            return (1 - logits.tanh().square()) / 2

    registry.register(Half())
    target = Reference(PAPER.with_(post="half", rms_eps=1e-6), "half")
    found = infer(View(target, Frame.of(target)), PAPER)
    assert (found.findings["post"].value, found.findings["post"].status) == ("half", "certain")
    assert found.findings["post_scale"].value == 2.0
    assert found.findings["rms_eps"].value == 1e-6
