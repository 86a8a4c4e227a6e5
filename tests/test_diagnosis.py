"""`identify`: correct implementations come out as what they are, wrong ones as their fields or their slip.

The whole table is `mhc-properties campaign run identify`; here is a sample of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, HYPER_CONNECTIONS, LIGER, LUCIDRAINS, MHC_LITE, PAPER, PRESETS, Branch, Dialect, Params
from properties import Implementation, Reference, Subject, all_laws
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, Deviant, build
from properties.causes import Causes
from properties.core.case import Case
from properties.core.deviant import redialected
from properties.core.estimate import Estimate
from properties.core.trial import LawBroken
from properties.diagnosis import Identification, identify, identify_command
from properties.diagnosis.composing import compose
from properties.diagnosis.findings import Inference
from properties.diagnosis.inference import infer
from properties.diagnosis.table import home, row
from properties.diagnosis.view import Frame, View
from properties.engine.trying import try_case
from properties.families.controls.sinkhorn import Reciprocal
from properties.families.deviations.sinkhorn.steps import SigmoidForExp
from properties.report.cause import Cause


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def inferred(implementation: Implementation, declared: Dialect | None = None) -> tuple[Inference, Dialect]:
    """The findings alone, and the dialect that they make."""
    found = infer(View(implementation, Frame.of(implementation)), declared or implementation.dialect)
    return found, found.dialect(declared or implementation.dialect)


def first(count: int, cases: Sequence[Any]) -> list[Any]:
    """The first few; the others, of which each takes a second or more, wait for a thorough run."""
    later = (one if isinstance(one, tuple) else (one,) for one in cases[count:])
    return [*cases[:count], *(pytest.param(*one, marks=pytest.mark.thorough) for one in later)]


# Correct implementations


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LIGER", "LUCIDRAINS", "MHC_LITE", "RESIDUAL"])
def test_the_fields_of_a_preset_are_inferred(name: str) -> None:
    findings, found = inferred(Reference(PRESETS[name]))
    assert found == PRESETS[name]
    assert all(one.status != "contradictory" for one in findings.findings.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", first(1, ["PAPER", "DEEPSEEK_V4", "HYPER_CONNECTIONS"]))
def test_a_preset_is_identified(name: str) -> None:
    found = identify(Reference(PRESETS[name], name))
    assert found.explained
    assert found.deviation is None
    assert not found.differs
    assert found.headline() == f"like {name}"
    assert 0 <= found.residual_ratio <= 1
    assert {field: one.value for field, one in found.findings.items()} == PRESETS[name].fields()
    assert all(one.status != "contradictory" for one in found.findings.values())


CONTROLS = [
    ("log-domain", "PAPER"),
    ("float64-inside", "DEEPSEEK_V4"),
    ("einsum", "LUCIDRAINS"),
    ("reversed", "MHC_LITE"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), first(1, CONTROLS))
def test_other_arithmetic_is_no_difference(name: str, preset: str) -> None:
    made = controls.build(name, PRESETS[preset])
    assert row(name, made).verdict == "right"


@pytest.mark.slow
def test_undeclared_the_nearest_preset_is_named() -> None:
    found = identify(Reference(LIGER.with_(iterations=7)), declared=False)
    assert found.compared == "LIGER"
    assert found.differs == {"iterations": (20, 7)}


@pytest.mark.slow
@pytest.mark.parametrize("preset", first(1, ["PAPER", "DEEPSEEK_V4", "HYPER_CONNECTIONS"]))
def test_what_is_declared_does_not_decide(preset: str) -> None:
    """Asked as if it were another dialect of the same packing, the target comes out as the same."""
    dialect = PRESETS[preset]
    other = LUCIDRAINS if dialect.shared_projection else LIGER.with_(rms_eps=1e-3, post_scale=1.0)
    _, found = inferred(Reference(dialect), other)
    different = found.difference(dialect)
    free = {
        "start",
        "start_axis",
        "denominator",
        "rms_eps_inside",
        "rms_eps_by",
        "last_axis",
        "iterations",
        "entry_eps",
    }
    allowed = (
        free | {"denominator_eps"} if dialect.residual == "unconstrained" else {"start", "start_axis", "denominator"}
    )
    assert set(different) <= allowed


@pytest.mark.slow
def test_numbers_are_measured_and_not_matched() -> None:
    odd = DEEPSEEK_V4.with_(
        entry_eps=3.7e-5, denominator_eps=2.3e-4, pre_eps=4.1e-3, post_scale=1.73, rms_eps=6.1e-7, iterations=13
    )
    findings, found = inferred(Reference(odd), DEEPSEEK_V4)
    assert not found.difference(odd)
    for name in ("entry_eps", "denominator_eps", "pre_eps", "post_scale", "rms_eps"):
        estimate = findings.findings[name].estimate
        assert estimate is not None
        assert estimate.admits(getattr(odd, name))
        assert estimate.high - estimate.low < 1e-6 * estimate.value
        assert findings.findings[name].certain


@pytest.mark.slow
def test_in_float32_the_bars_are_wider_and_still_right() -> None:
    class Single(Reference):
        dtypes = ("float32",)

        def __init__(self) -> None:
            super().__init__(LIGER, "single")
            self.dtypes = ("float32",)

    findings, found = inferred(Single())
    assert not found.difference(LIGER)
    for name in ("entry_eps", "denominator_eps", "rms_eps"):
        estimate = findings.findings[name].estimate
        assert estimate is not None
        assert estimate.admits(1e-6)


def test_the_shortest_number_within_the_bar() -> None:
    assert Estimate.around(0.99999e-6, 1e-10).shortest() == 1e-6
    assert Estimate.around(1.2345678e-6, 1e-12).shortest() == 1.234568e-6
    assert Estimate.around(1e-17, 1e-16).shortest() == 0.0
    assert str(Estimate.below(1e-9)) == "0 (at most 1.0e-09)"


# Deviations


REDIALECTS = [name for name in CATALOGUE if redialected(CATALOGUE[name].make(home(name)[1])) and name != "limit"]


@pytest.mark.slow
@pytest.mark.parametrize("name", first(3, REDIALECTS[::4]))
def test_a_slip_of_fields_is_inferred_as_those_fields(name: str) -> None:
    made = CATALOGUE[name].make(home(name)[1])
    assert isinstance(made, Deviant)
    findings, found = inferred(made)
    different = found.difference(made.computed)
    if name == "denominator-clamped":  # an eps that clamps nothing is none
        assert found.denominator_eps == 0 or found.denominator == "clamp"
        return
    for field in different:
        one = findings.findings[field]
        blurred = one.estimate is not None and one.estimate.admits(getattr(made.computed, field))
        assert blurred or one.status == "undetermined"
    assert all(one.status != "contradictory" for one in findings.findings.values())


SAMPLE = [
    "h-res-transposed",
    "sigmoid-for-exp",
    "collapse-every-block",
    "implicit-backward",
    "previous-coefficients",
    "pre-in-state-dtype",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", first(1, SAMPLE))
def test_a_deviation_is_named(name: str) -> None:
    found = row(name, CATALOGUE[name].make(home(name)[1]), (name,))
    assert found.verdict in ("named", "fields")
    assert found.ratio <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", first(1, ["identity-matrix", "ends-on-first-axis"]))
def test_a_deviation_that_is_another_dialect_is_told_as_that(name: str) -> None:
    found = identify(CATALOGUE[name].make(home(name)[1]))
    assert found.explained
    assert found.differs
    assert found.residual_ratio <= 1


PAIRS = [("h-res-transposed", "norm-missing")]


@pytest.mark.thorough
@pytest.mark.parametrize("names", PAIRS)
def test_two_deviations_are_named_together(names: tuple[str, str]) -> None:
    made = compose(names, DEEPSEEK_V4)
    assert made is not None
    assert row("both", made, names).verdict == "named"


@pytest.mark.thorough
def test_a_slip_in_another_arithmetic_is_the_same_slip() -> None:
    kinds: Any = SigmoidForExp, Reciprocal
    made: Any = type("Both", kinds, {})
    found = identify(made(DEEPSEEK_V4, "both"))
    assert found.deviation == "sigmoid-for-exp"


@pytest.mark.slow
def test_a_tie_is_told() -> None:
    found = identify(build("denominator-clamped", DEEPSEEK_V4))
    assert [tie.words for tie in found.ties] == ["deviation denominator-clamped"]
    assert found.deviations == ("denominator-eps-missing",)
    assert "the same answers to every question here" in found.to_text()


# Targets that offer little


class Part(Implementation):
    """One method, by the reference in some dialect."""

    def __init__(self, declared: Dialect, computed: Dialect, **attributes: Any) -> None:
        self.name, self.dialect, self.computed = type(self).__name__, declared, computed
        vars(self).update(attributes)


class BlockOnly(Part):
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return mhc_ref.block(x, params, branch, self.computed)


class MappingsOnly(Part):
    def mappings(self, x: Tensor, params: Params) -> mhc_ref.Mappings:
        return mhc_ref.mappings(x, params, self.computed)


class LayersOnly(Part):
    def layers(self, x: Tensor, params: Any, branches: Any) -> Tensor:
        return mhc_ref.layers(x, params, branches, self.computed)


class ProjectOnly(Part):
    def project(self, logits: Tensor) -> Tensor:
        return mhc_ref.project(logits, self.computed)


WRONG = DEEPSEEK_V4.with_(transposed=False, rms_eps_inside=False, iterations=7)
PARTS: list[tuple[Part, set[str]]] = [
    (BlockOnly(DEEPSEEK_V4, WRONG), {"transposed", "rms_eps_inside", "iterations"}),
    (LayersOnly(LUCIDRAINS, LUCIDRAINS), set()),
    (BlockOnly(MHC_LITE, MHC_LITE, streams=(2, 3, 4)), set()),
    (BlockOnly(HYPER_CONNECTIONS, HYPER_CONNECTIONS.with_(transposed=False)), {"transposed"}),
    (MappingsOnly(PAPER, PAPER.with_(post="softmax", post_scale=1.0)), {"post", "post_scale"}),
    (MappingsOnly(PAPER, LUCIDRAINS), set(PAPER.difference(LUCIDRAINS)) - {"transposed"}),
    (ProjectOnly(LIGER, LIGER.with_(last_axis="row", iterations=2)), {"last_axis", "iterations"}),
    (BlockOnly(DEEPSEEK_V4, DEEPSEEK_V4, dtypes=("bfloat16",)), set()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "fields"), first(2, PARTS), ids=lambda value: getattr(value, "name", ""))
def test_little_is_enough(part: Part, fields: set[str]) -> None:
    found = identified(part)
    assert found.explained
    assert set(found.differs) == fields
    assert found.residual_ratio <= 1
    assert found.deviation is None or redialected(build(found.deviation, part.dialect))


@pytest.mark.slow
def test_what_cannot_be_seen_is_undetermined_and_says_what_it_takes() -> None:
    found = identify(ProjectOnly(LIGER, LIGER))
    assert not found.findings["transposed"].certain
    assert "`post` or `block`" in found.findings["transposed"].why
    assert found.findings["entry_eps"].certain
    assert not found.findings["rms_eps"].certain


def test_two_streams_do_not_show_the_transpose_of_a_symmetric_matrix() -> None:
    found, _ = inferred(BlockOnly(MHC_LITE, MHC_LITE, streams=(2,)))
    assert found.findings["transposed"].status == "undetermined"
    assert found.findings["transposed"].why == "False does as well"


def test_a_target_that_always_raises_is_not_explained() -> None:
    class Broken(Implementation):
        def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
            raise RuntimeError("no kernel")

    found = identify(Broken(), seconds=0.0)
    assert not found.explained
    assert "raises" in found.stage
    assert found.to_json()["residual_ratio"] is None


@functools.cache
def identified(part: Part) -> Identification:
    return identify(part)


# What is told


@pytest.fixture(scope="module")
def transposed() -> Identification:
    torch.set_num_threads(1)
    return identify(build("h-res-transposed", DEEPSEEK_V4))


@pytest.mark.slow
def test_the_json_has_the_pinned_form(transposed: Identification) -> None:
    told = json.loads(json.dumps(transposed.to_json(), allow_nan=False))
    assert set(told) == {"dialect", "differs_from", "deviation", "residual_ratio", "calls"}
    assert list(told["dialect"]) == list(PAPER.fields())
    assert all(set(one) == {"value", "certain"} for one in told["dialect"].values())
    assert told["dialect"]["transposed"] == {"value": False, "certain": True}
    assert told["differs_from"] == {
        "preset": "DEEPSEEK_V4",
        "fields": {"transposed": {"expected": True, "found": False}},
    }
    assert told["deviation"] == "h-res-transposed"
    assert told["residual_ratio"] <= 1
    assert told["calls"] == transposed.calls < 200


@pytest.mark.slow
def test_the_difference_is_told_in_words(transposed: Identification) -> None:
    assert transposed.headline() == "like DEEPSEEK_V4, but h_res is applied untransposed"
    both = identified(PARTS[0][0])
    assert "h_res is applied untransposed" in both.headline()
    assert "rms eps stands outside the root" in both.headline()
    text = transposed.to_text()
    assert "residual ratio" in text
    assert f"{transposed.calls} calls" in text


@pytest.mark.slow
def test_the_command_tells_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert identify_command("ref:RESIDUAL", as_json=True) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["deviation"] is None
    assert "like RESIDUAL" in err
    assert identify_command("ref:NOTHING") == 2
    assert "identify: ref:NOTHING: there is no preset" in capsys.readouterr().err
    file = tmp_path / "mine.py"
    file.write_text(
        "def project(logits):\n    return logits.softmax(-1)\n\n\ndef strange(logits):\n    return logits.cos()\n"
    )
    assert identify_command(f"{file}:project") == 0
    assert "Sinkhorn runs 0 iterations" in capsys.readouterr().out
    assert identify_command(f"{file}:strange", seconds=2.0) == 1
    assert "nothing explains it" in capsys.readouterr().out


# Failures of laws


def failed(make: Callable[[], Implementation], law: str, case: Case) -> Cause:
    implementation = make()
    subject = Subject(implementation.name, implementation, torch.float64, torch.device("cpu"))
    with pytest.raises(LawBroken) as caught:
        try_case(all_laws()[law], subject, case)
    (cause,) = Causes(seconds=60).found(all_laws()[law], subject, case, caught.value).causes
    return cause


LOGITS = Case(logits=torch.tensor([[[1.0, 0, -1], [0, 3, 1], [2, -1, 0]]], dtype=torch.float64))


@pytest.mark.slow
def test_a_failure_is_explained_by_a_field_that_breaks_the_law_at_this_input() -> None:
    cause = failed(lambda: build("one-iteration", PAPER), "manifold.agrees-with-oracle", LOGITS)
    assert "Sinkhorn runs 1 iteration" in cause.summary or "one-iteration" in cause.summary
    assert not any("next best" in note for note in cause.notes)  # there is nothing to choose from


@pytest.mark.slow
def test_a_failure_is_explained_by_a_slip() -> None:
    cause = failed(lambda: build("sigmoid-for-exp", PAPER), "manifold.odds-ratios", LOGITS)
    assert "deviation sigmoid-for-exp" in cause.summary
    assert cause.explanation is not None
    assert cause.explanation["deviation"] == "sigmoid-for-exp"


class Cosines(ProjectOnly):
    def project(self, logits: Tensor) -> Tensor:
        return logits.cos()


class HereOnly(ProjectOnly):
    """Wrong where a logit is exactly -1."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits) + (logits == -1).any() * torch.eye(logits.shape[-1], dtype=logits.dtype)


@pytest.mark.slow
def test_nothing_is_named_for_a_failure_that_nothing_explains() -> None:
    cause = failed(lambda: Cosines(PAPER, PAPER), "manifold.odds-ratios", LOGITS)
    assert "no dialect and none of the named slips" in cause.summary
    assert (cause.explanation, cause.stage) == (None, "projection")


@pytest.mark.slow
def test_a_target_that_behaves_elsewhere_is_said_to() -> None:
    cause = failed(lambda: HereOnly(PAPER, PAPER), "manifold.agrees-with-oracle", LOGITS)
    assert any("at other inputs it behaves as declared" in note for note in cause.notes)
