"""`conformance(MyImplementation)`: the laws inside somebody's own test file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

import mhc_ref
from properties.conformance import conformance
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.engine.runner import Subject
from properties.targets.target import TargetError

pytest_plugins = ["pytester"]


class Mine(Implementation):
    """A projection, and nothing else."""

    def project(self, logits: Tensor) -> Tensor:
        return mhc_ref.project(logits, self.dialect)


test_mine = conformance(Mine, laws="manifold.last-axis", dtypes=["float32"], profile="ci")


def test_the_target_names_the_class_for_replay() -> None:
    (parameters,) = test_mine.pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    (_, subject) = parameters.args[1][0]
    assert isinstance(subject, Subject)
    assert subject.target.endswith("test_conformance.py:Mine")
    assert subject.implementation.name == "Mine"
    assert parameters.kwargs["ids"][0] == "manifold.last-axis-sums-float32-cpu"


@pytest.mark.parametrize("given", [Mine, Mine(), "ref:PAPER"])
def test_a_class_an_instance_and_a_target_have_the_same_ids(given: Implementation | type[Implementation] | str) -> None:
    (parameters,) = conformance(given, laws="manifold").pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    (mine,) = conformance(Mine, laws="manifold").pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    assert parameters.kwargs["ids"] == mine.kwargs["ids"]


def test_a_law_of_ones_own_is_given_as_it_is() -> None:
    own = replace(all_laws()["manifold.last-axis-sums"], id="manifold.of-my-own")
    (alone,) = conformance(Mine, laws=own, dtypes=["float32"]).pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    assert alone.kwargs["ids"] == ["manifold.of-my-own-float32-cpu"]
    (both,) = conformance(Mine, laws=("manifold.last-axis", own), dtypes=["float32"]).pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    assert both.kwargs["ids"] == ["manifold.last-axis-sums-float32-cpu", "manifold.of-my-own-float32-cpu"]


def test_nothing_to_verify_is_an_error_at_once() -> None:
    with pytest.raises(TargetError, match="there are no laws 'manifolds'"):
        conformance(Mine, laws="manifolds")
    with pytest.raises(TargetError, match="there are no dtypes"):
        conformance(Mine, dtypes=["float8"])
    with pytest.raises(TargetError, match=r"no properties\.Implementation"):
        conformance(Path)  # pyright: ignore[reportArgumentType]


def test_dtypes_may_be_called_by_their_aliases() -> None:
    (parameters,) = conformance(Mine, laws="manifold.last-axis", dtypes=["float"]).pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    assert parameters.kwargs["ids"] == ["manifold.last-axis-sums-float32-cpu"]


def test_what_is_declared_is_checked_as_for_a_target() -> None:
    class Odd(Mine):
        streams = (n for n in (2, 4))  # pyright: ignore[reportAssignmentType]
        differentiable = "no"  # pyright: ignore[reportAssignmentType]

    with pytest.raises(TargetError, match=r"conformance of Odd: \.differentiable is 'no'; expected True or False"):
        conformance(Odd)


FILE = """
import mhc_ref
from properties import Implementation
from properties.conformance import conformance

class Mine(Implementation):
    def project(self, logits):
        return mhc_ref.project(logits, self.dialect) * {factor}

test_laws = conformance(Mine, laws=("manifold.last-axis-sums", "block."), dtypes=["float32"], {more})
"""


def test_one_line_in_a_file_gives_passes_skips_and_failures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_mine=FILE.format(factor=1.5, more="profile='ci'"))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rs")
    counts = result.parseoutcomes()
    assert counts["failed"] == 1
    assert counts["skipped"] >= 1
    text = result.stdout.str()
    assert "test_laws[manifold.last-axis-sums-float32-cpu]" in text
    assert "Mine breaks manifold.last-axis-sums in float32 on cpu" in text
    assert "smallest input found" in text
    assert "Traceback" not in text
    stored = list(pytester.path.glob(".mhc-properties/counterexamples/*.safetensors"))
    assert len(stored) == 1


@pytest.mark.slow
def test_known_failures_are_expected_and_fixed_ones_are_not(pytester: pytest.Pytester) -> None:
    from properties.engine import known
    from properties.engine.counterexample import Counterexample

    pytester.makepyfile(test_mine=FILE.format(factor=1.5, more="profile='ci'"))
    pytester.runpytest_inprocess("-p", "no:cacheprovider")
    (stored,) = pytester.path.glob(".mhc-properties/counterexamples/*.safetensors")
    case = Counterexample.load(stored)
    entry = known.Known(case.law, case.implementation, "a factor", stored)
    known.write(pytester.path / "known.toml", [], keep=[entry])
    for factor, outcome, text in (
        (1.5, "xfailed", ""),
        (1, "failed", "fixed: remove this entry (known.toml, entry 1)"),
    ):
        pytester.makepyfile(test_mine=FILE.format(factor=factor, more="known='known.toml'"))
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
        assert result.parseoutcomes()[outcome] == 1
        assert text in result.stdout.str()
