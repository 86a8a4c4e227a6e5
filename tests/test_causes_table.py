"""A sample of the table of causes; the whole of it is `python -m properties.causes.table`."""

from __future__ import annotations

import pytest

from mhc_ref import PAPER
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, HIDDEN
from properties.causes.pairs import BESIDE, hide_nothing, pairs
from properties.causes.table import Row, in_words, of_prefixes, page, row, says, targets
from properties.diagnosis.composing import compose
from properties.diagnosis.table import home
from properties.report.cause import Cause

LAWS = (
    "manifold.agrees-with-oracle",
    "manifold.last-axis-sums",
    "mixing.post-is-the-declared-combination",
    "coefficients.agrees-with-oracle",
    "block.agrees-with-oracle",
    "gradient.projection-pulls-back",
    "gradient.block-pulls-back",
    "execution.blocks-are-deterministic",
)
"""Those that see most, and do not take long."""
SAMPLE = (
    "alpha-squared",
    "branch-reads-weighted",
    "emitted-transposed",
    "gradient-in-bfloat16",
    "max-not-subtracted",
    "output-not-cast-back",
    "post-softmax",
    "racing-reduction",
    "uniform-matrix",
)


def in_causes(name: str, workers: int = 1) -> Row:
    preset, dialect = home(name)
    made = (CATALOGUE | HIDDEN)[name].make(dialect)
    return row(f"{name}@{preset}", made, (name,), laws=of_prefixes(LAWS), examples=4, workers=workers)


@pytest.mark.one_in(4)
@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_deviation_ends_in_one_cause_which_names_it(name: str) -> None:
    found = in_causes(name)
    assert found.right, found.line()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reversed", "log-domain"])
def test_a_control_ends_in_no_cause(name: str) -> None:
    found = row(name, controls.build(name), laws=of_prefixes(LAWS), examples=4)
    assert found.right, found.line()
    assert found.failed == 0


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("beside", "workers"),
    [
        *((beside, 1) for beside in BESIDE),
        # Workers hand over what they found, whatever it is.
        *(pytest.param(one, 2, marks=[pytest.mark.thorough] if place else []) for place, one in enumerate(BESIDE)),
    ],
)
def test_a_pair_that_hides_nothing_ends_in_two_causes(beside: str, workers: int) -> None:
    [(target, made, names)] = pairs(beside, 1)
    found = row(target, made, names, laws=of_prefixes(LAWS), examples=4, workers=workers)
    assert found.right, found.line()


@pytest.mark.slow
def test_pairs_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    first, again, other = ([names for _, _, names in pairs("execution", 1, seed)] for seed in (0, 0, 3))
    assert first == again != other


@pytest.mark.slow
def test_a_slip_that_hides_another_is_no_pair() -> None:
    hidden = "uniform-matrix", "ten-iterations"
    both = compose(hidden, PAPER)
    assert both is not None
    assert not hide_nothing(hidden, both, PAPER)


def test_the_targets_of_a_part_are_as_many_as_asked_for() -> None:
    assert len(list(targets("controls", 3, 0))) == 3
    assert len(list(targets("singles", 5, 1))) == 5


def test_a_cause_says_a_deviation_by_its_name_a_tie_its_fields_or_its_stage() -> None:
    made = CATALOGUE["ten-iterations"].make(PAPER)

    def cause(fields: dict[str, object], deviation: str | None, notes: tuple[str, ...] = ()) -> Cause:
        return Cause("k", "i", "words", {"fields": fields, "deviation": deviation, "measured": None}, notes=notes)

    assert says(cause({}, "ten-iterations"), "ten-iterations", made)
    assert says(cause({"iterations": 10}, None), "ten-iterations", made)
    assert says(
        cause({}, "emitted-transposed", ("as well explained by deviation ten-iterations",)), "ten-iterations", made
    )
    assert not says(cause({"iterations": 11}, None), "ten-iterations", made)
    assert not says(cause({}, "emitted-transposed"), "ten-iterations", made)
    assert says(Cause("k", "i", "words", stage="projection"), "ten-iterations", made)
    assert not says(Cause("k", "i", "words", stage="norm"), "ten-iterations", made)


def test_the_page_has_a_row_a_target() -> None:
    one = Row(
        "deviation:x@PAPER", ("x",), False, "float32", (in_words(Cause("k", "i", "a | b", stage="pre")),), 3, 2, 1, 4.0
    )
    text = page({"singles": [one], "value": []})
    assert r"| deviation:x@PAPER | wrong | float32 | a \| b [value in pre] | 3 | 2 | 1 | 4 |" in text
    assert "## value beside value" in text
