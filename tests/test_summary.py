"""The end of a run: causes first, each with its failed laws, then the denominator; on one screen of 80 columns."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from properties.report.cause import Cause
from properties.report.report import Line, Unreached, exit_code, sentence, totals
from properties.report.summary import SCREEN, counted, denominator, ending, paragraph

TRANSPOSED = Cause(
    key="Mine: transposed = True",
    implementation="Mine",
    summary="h_res is applied transposed",
    explanation={"fields": {"transposed": True}, "deviation": None, "measured": None},
    stage="post",
    first="block.law-0",
)
EXAMPLE = (
    "a carried stream at [0, 2, 0]: 2 where 1 belongs",
    "x = [[[1], [2], [3]]]",
    "order = (1, 2, 0)",
    "replay: mhc-properties replay FOLDER/case.safetensors --impl mine.py:Mine",
)


def line(law: str, status: str = "failed", dtype: str = "float64", **more: Any) -> Line:
    more = {"worst_ratio": 0.5, **more}
    return Line("Mine", {}, dtype, "cpu", law, status, **more)


def failed(law: str, dtype: str = "float64", belongs: str = "shown", readable: float = 9.0, **more: Any) -> Line:
    return line(law, "failed", dtype, causes=(TRANSPOSED.key,), belongs=(belongs,), readable=readable, **more)


def end(lines: list[Line], *causes: Cause, **more: Any) -> list[str]:
    return ending(causes, lines, totals(lines, len(lines)), **more)


MANY = [
    failed(f"{family}.says-in-so-many-words-{number}", dtype, example=EXAMPLE)
    for family in ("block", "depth", "gradient", "mixing", "precision")
    for number in range(9)
    for dtype in ("float64", "float32", "bfloat16")
]


def test_a_run_with_one_cause_fits_one_screen_whatever_fails_for_it() -> None:
    others = [line(f"manifold.law-{number}", "passed") for number in range(60)]
    others += [line(f"device.law-{number}", "not-applicable", reason=f"why {number}") for number in range(60)]
    text = end([*MANY, *others], TRANSPOSED, before=12)
    assert len(text) + 12 <= SCREEN
    assert all(len(one) <= 80 for one in text), max(text, key=len)
    assert sum("says-in-so-many-words" in one for one in text) < 45
    assert "45 laws fail, 135 times in float64, float32, bfloat16: 135 shown to belong" in " ".join(
        " ".join(text).split()
    )


def test_few_laws_have_a_line_each_with_their_dtypes() -> None:
    text = end([failed("block.one"), failed("block.one", "float32"), failed("mixing.another")], TRANSPOSED)
    assert "    block.one       float64 float32" in text
    assert end([failed("block.one")], TRANSPOSED).count("    block.one") == 1
    assert "    mixing.another  float64" in text


def test_the_most_readable_counterexample_of_a_cause_is_shown() -> None:
    fine = failed("block.fine", readable=70.0, counterexample="fine", example=("1.173 where 1.172 belongs",))
    plain = failed("block.plain", "float32", readable=7.0, counterexample="plain", example=EXAMPLE)
    text = "\n".join(end([fine, plain], TRANSPOSED))
    assert "simplest: block.plain in float32" in text
    assert "2 where 1 belongs" in text
    assert "1.172" not in text
    assert EXAMPLE[-1] in text


def test_what_is_computed_stands_beside_what_is_declared() -> None:
    lines = [dataclasses.replace(failed("block.a"), dialect={"transposed": False})]
    assert "    computes with transposed = True (declared False)" in end(lines, TRANSPOSED)


def test_what_each_of_two_workers_explained_first_is_counted_as_shown() -> None:
    lines = [failed("block.one", belongs="first"), failed("block.two", belongs="first")]
    assert counted(TRANSPOSED, lines) == "2 laws fail in float64: 2 shown to belong"
    assert counted(TRANSPOSED, lines[:1]) == "1 law fails in float64"


def test_what_could_not_be_told_apart_is_counted_beside_what_was_shown() -> None:
    lines = [failed("block.a", belongs="first"), failed("block.b"), failed("block.c", belongs="not told apart")]
    assert "3 laws fail in float64: 2 shown to belong, 1 not told apart" in "\n".join(end(lines, TRANSPOSED))


def test_causes_come_first_and_the_denominator_last() -> None:
    other = dataclasses.replace(TRANSPOSED, key="Mine: gradient", summary="the gradient of h_post is halved", stage="")
    lines = [failed("block.a"), line("gradient.b", causes=(other.key,), belongs=("first",)), line("mixing.c", "passed")]
    text = end(lines, TRANSPOSED, other)
    assert text[0] == "cause c1 of Mine: h_res is applied transposed"
    assert "cause c2 of Mine: the gradient of h_post is halved" in text
    assert text[-2:] == [
        "3 of 3 laws exercised, 0 not applicable, 0 silently absent",
        "worst ratio where laws hold: 0.5 (mixing.c)",
    ]


def test_a_failure_without_a_cause_is_not_lost() -> None:
    lines = [failed("block.a"), line("mixing.b", reason="fixed: remove this entry\x1b[2J", causes=("of nobody",))]
    text = "\n".join(end(lines, TRANSPOSED))
    assert (
        "failed, and no cause was looked for:\n    mixing.b of Mine in float64: fixed: remove this entry\\x1b[2J"
        in text
    )


def test_a_cause_that_is_just_found_says_all_that_is_known_of_it() -> None:
    code = ("mine.py:55 in post", f"    54      mixed = h_res @ x{' ' * 80}", ">   55      return mixed.T")
    found = dataclasses.replace(TRANSPOSED, where="36 <= T <= 64", notes=code)
    assert paragraph(found, "c1", [], known=True) == [
        "cause c1 of Mine: h_res is applied transposed",
        "    wrong for 36 <= T <= 64, acts first in post",
        "    computes with transposed = True",
        "    mine.py:55 in post",
        f"        54      mixed = h_res @ x{' ' * 44}...",
        "    >   55      return mixed.T",
        "    first seen by block.law-0",
    ]


@pytest.mark.parametrize("nasty", ["\x1b]0;title\x07", "\u202e", "a\nb", "x" * 300])
def test_nothing_that_a_target_says_steers_the_terminal(nasty: str) -> None:
    cause = dataclasses.replace(TRANSPOSED, implementation=nasty, summary=nasty, where=nasty, notes=(nasty,))
    lines = [
        failed("block.a", example=(nasty,)),
        line("block.b", reason=nasty),
        line("c.d", "not-applicable", reason=nasty),
    ]
    for text in end(lines, cause):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\n" not in text


def test_the_denominator_says_why_laws_do_not_apply_in_one_line() -> None:
    reasons = [f"the reason of number {number // 2}" for number in range(40)]
    lines = [line("block.a", "passed"), line("block.a", "not-applicable", "float32", reason="covered")]
    lines += [line(f"depth.{number}", "not-applicable", reason=reason) for number, reason in enumerate(reasons)]
    text = denominator(lines, totals(lines, len(lines)))
    assert len(text) == 4
    assert text[1].startswith("  not applicable: the reason of number 0 (2); ")
    assert text[1].endswith(" more reasons")
    assert text[3] == "nothing exercised: Mine float32 cpu"


def test_reasons_that_differ_in_a_name_are_one() -> None:
    reasons = ["does not offer expand", "does not offer stack", "tf32 is not declared", "does not offer expand"]
    lines = [line(f"depth.{number}", "not-applicable", reason=reason) for number, reason in enumerate(reasons)]
    assert denominator(lines, totals(lines, len(lines)))[1] == (
        "  not applicable: does not offer expand, stack (3); tf32 is not declared (1)"
    )


def test_of_reasons_that_list_names_each_name_is_told_once() -> None:
    missing = ["project, mappings", "post, mappings", "mappings", "pre, post, mappings, project", "post"]
    lines = [line(f"a.{k}", "not-applicable", reason=f"does not offer {one}") for k, one in enumerate(missing)]
    assert denominator(lines, totals(lines, len(lines)))[1] == (
        "  not applicable: does not offer mappings, post, project, pre (5)"
    )


@pytest.mark.parametrize(("other", "told"), [("5", "5 s"), ("0.3", "limited time")])
def test_points_that_the_profile_left_no_time_for_are_told_as_that(other: str, told: str) -> None:
    sizes = "107 sizes, T and C up to 1100; 12 of 130 points were left out as {} s had passed"
    lines = [line("sizes.a", "passed", sizes=sizes.format("5")), line("sizes.b", "passed", sizes=sizes.format(other))]
    lines += [line("sizes.c", "passed", sizes=sizes.format("5").replace("5 s had passed", "one failed"))]
    text = " ".join(" ".join(denominator(lines, totals(lines, len(lines)))).split())
    assert (
        f"2 laws of sizes left out points, as the profile gives each of them {told} in a dtype: "
        "`--hypothesis-profile thorough` leaves out none"
    ) in text
    assert "time was over" not in text


def test_what_was_not_reached_is_counted_and_is_no_success() -> None:
    lines = [line("block.a", "passed")]
    total = totals(lines, 4, Unreached(("block.a", "block.b", "block.b"), "in 60 s"))
    assert (total["laws"], total["laws_unreached"], total["unreached"], total["absent"]) == (2, 1, 3, 0)
    assert sentence(total) == (
        "1 of 2 laws exercised, 0 not applicable, 1 not reached in 60 s (3 on all subjects), 0 silently absent"
    )
    assert exit_code(total) == 3
    lines = [line("block.a", "failed")]
    assert exit_code(totals(lines, 2, Unreached(("block.b",), "in 60 s"))) == 1
