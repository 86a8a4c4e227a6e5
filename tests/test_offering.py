"""Which one method to offer next so that most laws apply: counted by asking every law, silent where all is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mhc_ref
from properties import Implementation
from properties.core.implementation import METHODS, Reference, offers
from properties.core.law import all_laws
from properties.engine.applying import inapplicable, unlocked_by
from properties.engine.runner import examine
from properties.engine.subject import PROFILES, Subject
from properties.plugin.item import line_of
from properties.report.offering import TUNING
from properties.report.report import Line, lines_of, made
from properties.report.summary import denominator

DEV = PROFILES["dev"]
CPU = torch.device("cpu")


class Projects(Implementation):
    name = "projects"

    def project(self, logits: Any) -> Any:
        return mhc_ref.project(logits, self.dialect)


class Reads(Implementation):
    """No projection by itself: pre and post alone are emitted."""

    name = "reads"
    emits = ("pre", "post")
    dtypes = ("float64",)  # pyright: ignore[reportAssignmentType]

    def mappings(self, x: Any, params: Any) -> Any:
        return mhc_ref.mappings(x, params, self.dialect)


class Blocks(Implementation):
    name = "blocks"
    differentiable = False
    deterministic = False

    def block(self, x: Any, params: Any, branch: Any) -> Any:
        return mhc_ref.block(x, params, branch, self.dialect)


def subject(implementation: Implementation, dtype: torch.dtype = torch.float32) -> Subject:
    return Subject("mine.py:Mine", implementation, dtype, CPU)


@pytest.mark.parametrize("kind", [Projects, Reads, Blocks])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_one_method_unlocks_is_what_applies_to_an_implementation_that_has_it(
    kind: type[Implementation], dtype: torch.dtype
) -> None:
    bare = subject(kind(), dtype)
    found = {id: unlocked_by(law, bare, DEV) for id, law in all_laws().items() if inapplicable(law, bare, DEV)}
    assert any(found.values())
    for method in METHODS:
        if method in offers(bare.implementation):
            assert not any(method in methods for methods in found.values())
            continue
        grown = subject(type("Grown", (kind,), {method: lambda self, *given: None})(), dtype)
        applies = {id for id in found if inapplicable(all_laws()[id], grown, DEV) is None}
        assert {id for id, methods in found.items() if method in methods} == applies


def test_laws_for_thorough_runs_are_not_promised_to_others() -> None:
    slow = [law for law in all_laws().values() if law.schedule.thorough]
    assert slow
    target = Projects()
    target.compilable = True
    assert not any(unlocked_by(law, subject(target), DEV) for law in slow)
    assert any(unlocked_by(law, subject(target), PROFILES["thorough"]) for law in slow)


def lines(implementation: Implementation, tmp_path: Path) -> list[Line]:
    """As a run leaves them, of the laws that do not apply; a law that does is taken to hold."""
    found: list[Line] = []
    for law in all_laws().values():
        for dtype in (torch.float64, torch.float32):
            one = subject(implementation, dtype)
            if inapplicable(law, one, DEV) is not None:
                found.append(line_of(examine(law, one, DEV, directory=tmp_path)))
            else:
                found.append(Line(implementation.name, {}, one.dtype_name, "cpu", law.id, "passed"))
    return found


def report(run: list[Line]) -> dict[str, Any]:
    return made(run, len(run), {})


def test_the_best_method_is_in_the_report_and_in_one_line_at_the_end(tmp_path: Path) -> None:
    run = lines(Projects(), tmp_path)
    total = report(run)["totals"]
    reachable = {line.law for line in run if line.status == "not-applicable"}
    counts: dict[str, int] = {}
    for method in set(METHODS) - set(offers(Projects())):
        grown = subject(type("Grown", (Projects,), {method: lambda self, *given: None})())
        counts[method] = sum(inapplicable(all_laws()[id], grown, DEV) is None for id in reachable)
    best, most = max(counts.items(), key=lambda one: one[1])
    assert list(counts.values()).count(most) == 1
    assert total["offer_next"] == {"implementation": "projects", "method": best, "laws": most}
    assert denominator(run, total)[-1] == f"next: offer {best}, and {most} laws more apply to projects"
    assert {(one.law, one.dtype): one.unlocked_by for one in lines_of(report(run))} == {
        (one.law, one.dtype): one.unlocked_by for one in run
    }


def test_where_everything_is_offered_there_is_no_line(tmp_path: Path) -> None:
    run = lines(Reference(), tmp_path)
    total = report(run)["totals"]
    assert any(line.status == "not-applicable" for line in run)
    assert total["offer_next"] is None
    assert not any(text.startswith("next:") for text in denominator(run, total))


def test_a_law_that_applies_in_another_dtype_counts_for_nothing() -> None:
    run = [
        Line("a", {}, "float32", "cpu", "block.one", "not-applicable", "does not offer block", unlocked_by=("block",)),
        Line("a", {}, "float64", "cpu", "block.one", "passed"),
    ]
    assert report(run)["totals"]["offer_next"] is None


def test_of_several_implementations_and_methods_the_one_with_most_laws() -> None:
    def line(name: str, law: str, *methods: str) -> Line:
        return Line(name, {}, "float32", "cpu", law, "not-applicable", "why", unlocked_by=methods)

    run = [line("a", "block.one", "layers", "block"), line("b", "block.one", "block"), line("b", "block.two", "stack")]
    assert report(run)["totals"]["offer_next"] == {"implementation": "a", "method": "block", "laws": 1}
    run += [line("b", "block.three", "stack")]
    total = report(run)["totals"]
    assert total["offer_next"] == {"implementation": "b", "method": "stack", "laws": 2}
    assert denominator(run, total)[-1] == "next: offer stack, and 2 laws more apply to b"


def tuning(name: str, *untuned: tuple[str, ...], status: str = "passed") -> list[Line]:
    fields = untuned * len(TUNING) if len(untuned) == 1 else untuned
    return [
        Line(name, {}, "float32", "cpu", law, status, untuned=left) for law, left in zip(TUNING, fields, strict=True)
    ]


def test_a_field_that_is_offered_and_tuned_by_no_law_is_counted_and_said() -> None:
    run = tuning("a", ("rms_eps", "expand"), ("expand",), ("pre", "expand"), ("expand",))
    total = report(run)["totals"]
    assert total["never_tuned"] == {"a": ["expand"]}
    assert denominator(run, total)[-1] == "offered as tunable, and tuned by no law that was exercised: expand of a"


def test_a_run_of_some_laws_says_nothing_of_fields_that_the_others_would_have_tuned() -> None:
    assert report(tuning("a", ("expand",))[:3])["totals"]["never_tuned"] == {}


def test_the_laws_that_tune_are_those_that_say_so() -> None:
    assert set(TUNING) == {law.id for law in all_laws().values() if law.tunes}


def test_what_a_law_tunes_is_on_its_line(tmp_path: Path) -> None:
    class Offers(Projects):
        tunable = frozenset({"iterations", "rms_eps"})

        def tuned(self, **fields: Any) -> Implementation:
            return Reference(self.dialect.with_(**fields))

    found = {law: line_of(examine(all_laws()[law], subject(Offers()), DEV, directory=tmp_path)) for law in TUNING}
    assert found["manifold.tuned-fields-are-used"].untuned == ("rms_eps",)
    assert found["block.tuned-fields-are-used"].untuned == ("iterations", "rms_eps")
    assert report(list(found.values()))["totals"]["never_tuned"] == {"projects": ["rms_eps"]}
