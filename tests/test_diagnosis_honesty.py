"""What `identify` must not claim: no verdict without answers, no name without its ties, no number without its bar."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from snapshots import recorded
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, MHC_LITE, PAPER, PRESETS, Branch, Dialect, Params
from properties import Implementation, Reference, Subject, all_laws
from properties.bounds import Rounding
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, Deviant, build
from properties.causes import Causes
from properties.core.case import Case
from properties.core.trial import LawBroken
from properties.diagnosis import NoVerdict, explanation, identify, identify_command, table
from properties.diagnosis.answers import Answer, Predictions, answer
from properties.diagnosis.budget import Budget
from properties.diagnosis.circumstances import gradients
from properties.diagnosis.composing import compose, orders
from properties.diagnosis.explanation import Explanation, Search
from properties.diagnosis.inference import infer
from properties.diagnosis.stages import Stages
from properties.diagnosis.ties import Tie, apart, breaker
from properties.diagnosis.units import Sheet
from properties.diagnosis.usage import used
from properties.diagnosis.view import Frame, View
from properties.diagnosis.words import difference_in_words
from properties.engine.trying import try_case
from properties.families.fits.sinkhorn.fields import fit
from properties.families.fits.sinkhorn.temperature import fit_tempered
from properties.targets.process.protocol import ProcessDied
from properties.targets.published import ADAPTERS


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Block(Implementation):
    """A block alone, by the reference in some dialect."""

    def __init__(
        self, declared: Dialect, computed: Dialect | None = None, streams: tuple[int, ...] = (2, 3, 4)
    ) -> None:
        self.name, self.dialect, self.computed, self.streams = "block", declared, computed or declared, streams

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return mhc_ref.block(x, params, branch, self.computed)


class Projects(Implementation):
    """A projection alone."""

    name = "projects"

    def project(self, logits: Tensor) -> Tensor:
        return logits.cos()


def searched(implementation: Implementation) -> tuple[Search, Any]:
    """The exam of a target, ready for a search."""
    view = View(implementation, Frame.of(implementation))
    inference = infer(view, implementation.dialect)
    return Search(view, inference.answers, inference.begin, inference.predictions, lambda: inference.answers), inference


# No answer, no verdict


class Dies(Projects):
    """Its process is killed by every call."""

    asked = 0

    def project(self, logits: Tensor) -> Tensor:
        Dies.asked += 1
        raise ProcessDied("the worker was killed by SIGSEGV")


class Leaves(Projects):
    """It ends the program, with the exit code of success."""

    def project(self, logits: Tensor) -> Tensor:
        raise SystemExit(0)


@pytest.mark.parametrize("kind", [Dies, Leaves])
def test_a_crash_is_no_verdict(kind: type[Implementation]) -> None:
    with pytest.raises(NoVerdict, match=r"no verdict: call 1, `project` of \[\d+, 3, 3\] float64 did not come back"):
        identify(kind())


def test_a_crash_is_told_by_exit_code_2_and_an_object_without_a_dialect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("def project(logits):\n    raise SystemExit(0)\n")
    assert identify_command(f"{tmp_path / 'mine.py'}:project", as_json=True) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert set(found) == {"error", "exit"}
    assert found["exit"] == 2
    assert "SystemExit" in found["error"]
    assert "no verdict" in err
    assert "SystemExit" in err


def test_a_failure_of_a_target_that_crashes_has_no_account_and_the_target_is_not_asked_again() -> None:
    subject = Subject("dies", Dies(), torch.float64, torch.device("cpu"))
    law, case = all_laws()["manifold.odds-ratios"], Case(logits=torch.zeros(1, 2, 2, dtype=torch.float64))
    with pytest.raises(LawBroken) as caught:
        try_case(law, subject, case)
    causes = Causes()
    first = causes.found(law, subject, case, caught.value)
    asked = Dies.asked
    assert [one.explanation for one in first.causes] == [None]
    assert causes.known(law, subject, case, caught.value) is not None
    assert Dies.asked == asked


def test_a_target_that_raises_whatever_it_is_asked_answers_nothing() -> None:
    class Raises(Projects):
        def project(self, logits: Tensor) -> Tensor:
            raise RuntimeError("no kernel")

    found = identify(Raises())
    assert found.headline() == "it answers nothing"
    assert "every call raises RuntimeError: no kernel" in found.to_text()
    assert not any(one.status == "contradictory" for one in found.findings.values())
    assert not found.nearest[0]


def test_a_search_that_was_cut_short_says_so() -> None:
    assert Budget(0.0).spent
    assert not Budget(1e9, elsewhere=True).spent
    found = identify(Projects(), seconds=0.0)
    assert not found.exhausted
    assert "ran out of time" in found.to_text()
    assert found.headline() == "like PAPER, but for something in its projection that nothing here explains"
    assert not found.precision


# Numbers are measured


@pytest.mark.parametrize(
    ("dialect", "temperature"),
    [pytest.param(PAPER, 0.7, marks=pytest.mark.slow), (DEEPSEEK_V4.with_(iterations=7), 1.2345678)],
)
def test_a_temperature_is_measured_with_the_fields_behind_it(dialect: Dialect, temperature: float) -> None:
    def read(logits: Tensor) -> tuple[Tensor, Tensor]:
        value = mhc_ref.project(logits / temperature, dialect)
        return value, torch.zeros_like(value)

    found = fit_tempered(read, 3, Rounding.of(torch.float64), 600.0, torch.float64, 64)
    assert found
    for one in found:
        assert one.estimates["temperature"].admits(temperature)
        assert one.estimates["temperature"].high / temperature - 1 < 1e-12
    names = ("iterations", "entry_eps", "denominator_eps", "last_axis")
    assert any(all(one.fields[name] == getattr(dialect, name) for name in names) for one in found)


def test_what_is_no_temperature_is_not_taken_for_one() -> None:
    def read(logits: Tensor) -> tuple[Tensor, Tensor]:
        value = mhc_ref.project(logits.clamp(-0.5, 0.5), PAPER)
        return value, torch.zeros_like(value)

    assert not fit_tempered(read, 3, Rounding.of(torch.float64), 600.0, torch.float64, 64)


@pytest.mark.slow
def test_a_temperature_explains_a_function() -> None:
    class Divides(Projects):
        def project(self, logits: Tensor) -> Tensor:
            return mhc_ref.project(logits / 0.7, PAPER)

    found = identify(Divides(), hidden=0)
    assert found.explained
    assert not found.measured
    assert not found.deviations
    assert not found.ties
    assert found.differs == {"temperature": (1.0, 0.7)}
    assert "but the residual logits are divided by 0.7\n" in found.to_text()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.05, 3.7])
def test_a_temperature_that_is_declared_is_no_deviation(temperature: float) -> None:
    dialect = DEEPSEEK_V4.with_(temperature=temperature)
    found = identify(Reference(dialect), hidden=0)
    assert found.explained
    assert not found.differs
    assert found.deviation is None
    assert found.findings["temperature"].value == temperature
    assert found.findings["temperature"].certain


@pytest.mark.slow
def test_a_temperature_that_is_declared_and_ignored_is_told_as_the_field() -> None:
    found = identify(build("temperature-ignored", PAPER.with_(temperature=0.05)), hidden=0)
    assert found.differs == {"temperature": (0.05, 1.0)}
    assert "but the residual logits are divided by nothing\n" in found.to_text()


@pytest.mark.slow
def test_a_gain_is_measured() -> None:
    class Amplified(Deviant):
        def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
            return 1.037 * super().mixed(x, h_res)

    found = identify(Amplified(PAPER, "amplified"), brief=True, hidden=0)
    assert found.explained
    assert found.deviation == "mixing gain = 1.037"


@pytest.mark.slow
def test_a_clamp_that_only_slows_the_iteration_is_measured() -> None:
    """An eps on the entries keeps every line above 3e-6, so no sum is seen between 0 and 1."""
    computed = DEEPSEEK_V4.with_(denominator="clamp", denominator_eps=1e-4)

    def read(logits: Tensor) -> tuple[Tensor, Tensor]:
        value = mhc_ref.project(logits, computed)
        return value, torch.zeros_like(value)

    (found,) = fit(read, 3, Rounding.of(torch.float64), 600.0, torch.float64, 24)
    assert found.fields["denominator"] == "clamp"
    assert found.estimates["denominator_eps"].admits(1e-4)
    assert found.estimates["denominator_eps"].high < 1.001e-4


def test_the_norm_shows_through_softmaxes() -> None:
    computed = PAPER.with_(pre="softmax", post="softmax", rms_eps=3.7e-5, rms_eps_inside=False)

    class Mappings(Projects):
        emits = ("pre", "post")

        def mappings(self, x: Tensor, params: Params) -> mhc_ref.Mappings:
            absent: Any = None
            return mhc_ref.mappings(x, params, computed)._replace(res=absent)

        project = Implementation.project

    findings = infer(View(made := Mappings(), Frame.of(made)), PAPER).findings
    assert findings["rms_eps"].value == 3.7e-5
    assert findings["rms_eps"].certain
    assert findings["rms_eps_inside"].value is False
    assert findings["pre"].value == findings["post"].value == "softmax"


# Ties


def test_a_question_that_would_break_a_tie_is_named() -> None:
    frame = Frame.of(Block(MHC_LITE, streams=(2,)))
    one, two = Deviant(MHC_LITE, "one"), Deviant(MHC_LITE.with_(transposed=False), "two")
    assert apart(one, two, Frame.of(Projects()), PAPER, seed=3) is None
    assert breaker(one, two, frame, MHC_LITE).startswith("told apart by A x + h_post y")
    assert breaker(one, Deviant(MHC_LITE, "same"), frame, MHC_LITE) == ""
    assert str(Tie("deviation x")) == "deviation x (the same answers to every question here)"


@pytest.mark.slow
def test_a_slip_that_would_not_show_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: CATALOGUE[name] for name in ("alpha-detached", "bias-detached", "gates-ignored")}
    made = compose(("alpha-detached", "gates-ignored"), PAPER)
    assert made is not None
    search, _ = searched(made)
    search.answers += [answer(probe, search.view) for probe in gradients(search.frame, 1)]
    monkeypatch.setattr(explanation, "CATALOGUE", few)
    chosen = Explanation(PAPER, ("gates-ignored",), 0.0)
    assert "alpha-detached" in search.hidden(chosen, 3, Budget(1e9))  # what is not read has no gradient to lose
    assert not search.hidden(chosen, 0, Budget(1e9))


def test_two_slips_of_one_step_are_tried_in_both_orders() -> None:
    both = ("h-res-over-n", "residual-gain")
    assert list(orders(both, PAPER)) == [both, both[::-1]]
    assert list(orders(("h-res-over-n", "pre-mean"), PAPER)) == [("h-res-over-n", "pre-mean")]
    assert list(orders(("one-iteration", "one-iteration-fewer"), PAPER))[1:]  # changes of one field, too


@pytest.mark.slow
def test_presets_that_cannot_be_told_apart_are_named_together() -> None:
    class Function(Projects):
        def project(self, logits: Tensor) -> Tensor:
            return mhc_ref.project(logits, DEEPSEEK_V4)

    found = identify(Function(), declared=False)
    assert found.headline() == "like DEEPSEEK_V4 or DEEPSEEK_V4_1 or LIGER"
    assert "LIGER is as near: it differs in what is undetermined here, transposed, pre_eps, collapse" in found.to_text()


def test_every_field_has_words_for_its_values() -> None:
    values = {
        "residual": ("sinkhorn", "permutations", "unconstrained", "identity", "kronecker", "cayley", "carry"),
        **{name: ("row", "column") for name in ("last_axis", "start_axis")},
        "start": ("exp", "softmax"),
        "iterations": (0, 1, 20),
        **{name: (0.0, 1e-6) for name in ("entry_eps", "denominator_eps", "pre_eps", "rms_eps")},
        "denominator": ("add", "clamp"),
        **{name: (True, False) for name in ("transposed", "shared_projection", "rms_eps_inside")},
        **{name: ("sigmoid", "softmax", "linear", "newest") for name in ("pre", "post")},
        "post_scale": (1.5,),
        "post_eps": (0.0, 1e-6),
        "temperature": (1.0, 0.05),
        "dynamic": ("linear", "tanh", "static"),
        "norm_over": ("streams", "stream"),
        "rms_eps_by": ("add", "clamp"),
        "rms_eps_from": ("value", "compute", "state"),
        "centred": (False, True),
        "norm_offset": (0.0, 1.0),
        "read": ("streamwise", "bottleneck", "depth-attention"),
        "expand": ("copies", "one-hot"),
        "collapse": ("sum", "mean", "head", "last-pre"),
        "read_from": ("own", "previous"),
        "first_read": ("own", "stream0"),
    }
    assert set(values) == set(PAPER.fields())
    told = [
        f"{name} = {value!r}: {difference_in_words({name: (None, value)})[0]}"
        for name in PAPER.fields()
        for value in values[name]
    ]
    recorded("difference-in-words.txt", "\n".join(told))


def test_slips_that_remember_are_composed_with_their_memory() -> None:
    made = compose(("first-call-doubled", "h-res-transposed"), PAPER)
    assert made is not None
    x, params = (
        torch.ones(1, 2, 2).double(),
        Params(torch.ones(4, 8).double(), torch.ones(8).double(), torch.ones(3).double()),
    )
    first, second, third = (made.block(x, params, torch.tanh) for _ in range(3))
    assert not torch.equal(first, second)
    assert torch.equal(second, third)


# Gates, biases, stages


def test_gates_and_biases_that_act_are_named() -> None:
    everything = ("pre", "post", "res")
    for made in (Reference(DEEPSEEK_V4), Block(LUCIDRAINS)):
        assert used(View(made, Frame.of(made))) == {"gate": everything, "bias": everything}
    ignored = build("gates-ignored", PAPER)
    assert used(View(ignored, Frame.of(ignored))) == {"gate": (), "bias": everything}
    assert used(View(Projects(), Frame.of(Projects()))) == {}


@pytest.mark.slow
def test_no_stage_of_a_correct_block_is_accused() -> None:
    stages = Stages(View(made := Block(LUCIDRAINS), Frame.of(made)), LUCIDRAINS)
    assert list(stages.every()) == []
    assert not any(stages._norm() for _ in range(3))  # each time with other states


# The table


def test_the_table_says_how_many_of_each_verdict(tmp_path: Path) -> None:
    rows = [table.Row("a", "right", "like PAPER", 0.5, 70, 1.0), table.Row("b", "missed", "like A | B", 9.0, 80, 3.0)]
    assert table.summary(rows) == "2 targets: 1 right, 1 missed; median 2.00 s, slowest 3.00 s, median 75 calls"
    assert [one.good for one in rows] == [True, False]
    table.publish(tmp_path, {"correct": rows})
    kept = json.loads((tmp_path / "identify-table.json").read_bytes())
    missed = {"target": "b", "verdict": "missed", "ratio": 9.0, "calls": 80, "said": "like A | B"}
    assert kept["parts"]["correct"]["rows"][1] == missed
    assert f"* *correct*, {table.summary(rows)}." in (tmp_path / "identify-table.md").read_text()


def test_the_page_of_the_table_is_made_from_its_file() -> None:
    docs = Path(__file__).parents[1] / "docs"
    kept = json.loads((docs / "identify-table.json").read_bytes())
    assert (docs / "identify-table.md").read_text() == table.page(kept)
    for part in kept["parts"].values():
        assert dict(Counter(one["verdict"] for one in part["rows"])) == part["verdicts"]


def test_every_exception_of_the_table_is_a_target_of_it() -> None:
    assert set(table.EQUIVALENT) <= set(CATALOGUE)
    assert {target.removeprefix("published:") for target in table.OUTSIDE} <= set(ADAPTERS)


@pytest.mark.slow
def test_gradients_of_short_stages_are_not_judged() -> None:
    """They have no derived bound: through a tanh a correct one was 166 times above that of stages in float32."""
    found = identify(controls.build("short-stages", PRESETS["HYPER_CONNECTIONS"]), hidden=0)
    assert found.explained, str(found)
    assert not found.differs
    wrong = controls.build("short-stages", PRESETS["HYPER_CONNECTIONS"])
    post = wrong.post
    vars(wrong)["post"] = lambda *given: 1.5 * post(*given)
    told = identify(wrong, hidden=0, seconds=2)
    assert told.deviation or not told.explained, "values are judged as before"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["PAPER", "MHC_LITE"])
def test_declared_tensorfloat32_is_no_difference(preset: str) -> None:
    """In float32 the operands of every product are rounded to ten bits, as `products` declares."""
    found = identify(controls.build("tf32", PRESETS[preset]))
    assert found.explained
    assert not found.differs
    assert found.residual_ratio <= 1


@pytest.mark.slow
def test_a_clamp_that_cannot_be_measured_is_the_declared_one() -> None:
    """In float32 a clamp of 1e-12 acts on no matrix that is asked for: none, and one that is added, do as well."""

    class Single(Reference):
        dtypes = ("float32",)

    target = Single(LUCIDRAINS.with_(denominator_eps=1e-12))
    target.dtypes = ("float32",)
    findings = infer(View(target, Frame.of(target)), target.dialect)
    assert findings.dialect(target.dialect) == target.dialect
    assert not findings.findings["denominator"].certain


@pytest.mark.parametrize(("other", "explained"), [(0.0, False), (0.9, False), (1.8, True)])
def test_what_answers_as_the_dialect_does_explains_nothing(other: float, explained: bool) -> None:
    """An answer one and a half bounds from the dialect's is within both bounds of a slip that makes no difference."""
    target = Reference(PAPER)
    frame = Frame.of(target)
    predictions = Predictions("compute")
    probe = next(one for one in gradients(frame, seed=1) if one.of == "project")
    [exact] = predictions.of(probe, PAPER) or []
    given, found = (Answer(probe, (exact.value + k * exact.error,)) for k in (1.5, other))
    [ratio] = Sheet(predictions, PAPER).by_another(given, found, PAPER, lambda one: [0 * one.values[0]]).values()
    assert (ratio <= 1) == explained
