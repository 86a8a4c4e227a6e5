"""Every two circumstances of a sweep meet in one of its points."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_ref import PAPER
from properties.core.size import Size
from properties.core.sweep import Reach
from properties.laws.sizes_layouts import AXES
from properties.strategies import sweeps_pairwise as together
from properties.strategies.layouts import (
    CUT,
    FROZEN,
    INFERENCE,
    LAYOUTS,
    MANY_SEQUENCES,
    ROWS,
    SEQUENCES,
    STEP,
    STILL,
    THREE,
    TURNED,
    TWICE,
    YIELDED,
    parts_of,
)
from properties.strategies.pairwise import Row, pairwise
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import FADING, HOLLOW, PROMPT, REWEIGHTED, SOARING
from properties.strategies.sweeps import Run

WHOLE = Reach(4, 8192, 8192, 129, True, 8192)
SETTING = Setting(PAPER, (1, 2, 3, 4, 5, 8), torch.float32)
Pair = frozenset[tuple[str, Any]]


def pairs(rows: list[Row]) -> set[Pair]:
    return {frozenset(two) for row in rows for two in itertools.combinations(row.items(), 2)}


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.sets(st.integers(0, 400), max_size=60))
def test_every_two_levels_meet_that_any_row_may_have_together(counts: list[int], forbidden: set[int]) -> None:
    factors = {f"f{k}": list(range(count)) for k, count in enumerate(counts)}
    every = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    fine = [row for place, row in enumerate(every) if place not in forbidden]

    def allowed(row: Row) -> bool:
        return any(row.items() <= one.items() for one in fine)

    def forgiving(row: Row) -> bool:  # it looks at a whole row alone
        return len(row) < len(factors) or row in fine

    found = pairwise(factors, allowed)
    assert pairs(found) == pairs(pairwise(factors, forgiving))
    if fine:
        assert all(row in fine for row in found)
        assert pairs(found) == pairs(fine)
    else:
        assert len(found) == 1


def test_rows_are_few_beside_all_there_are() -> None:
    factors = {name: list(range(10)) for name in "abcd"}
    assert 100 <= len(pairwise(factors)) <= 160


def rows_of(runs: list[Run]) -> list[Row]:
    return [
        {
            "tokens": run.visited[0],
            "channels": run.channels,
            "streams": run.streams,
            "layers": run.layers[0],
            "look": run.look,
            "axes": chosen(run, (*AXES, CUT)),
            "states": chosen(run, LAYOUTS[1:]),
            "phi": chosen(run, (TURNED,)),
            "returned": chosen(run, (ROWS,)),
            "asking": chosen(run, (FROZEN, STILL, YIELDED)),
            "again": chosen(run, (TWICE,)),
            "mode": INFERENCE if chosen(run, (INFERENCE,)) else run.gradients,
        }
        for run in runs
    ]


def chosen(run: Run, among: tuple[str, ...]) -> str:
    """Which of these parts the layout of a run has, "" for none."""
    return next((part for part in parts_of(run.layout) if part in among), "")


STRIDED = {"", "offset 1", "offset 2", "slice"}
ON_AXES = {"", SEQUENCES, MANY_SEQUENCES, STEP, THREE, CUT}


@pytest.mark.parametrize(
    ("factors", "ways", "looks"),
    [
        (
            together.BLOCKS,
            {"states": STRIDED, "phi": {"", TURNED}, "returned": {"", ROWS}, "mode": {False, True, INFERENCE}},
            {HOLLOW, REWEIGHTED, PROMPT},
        ),
        (together.MIXTURES, {"states": STRIDED, "mode": {False, True, INFERENCE}}, {HOLLOW, "silent"}),
        (
            together.BLOCKS_BACK,
            {"states": STRIDED, "phi": {"", TURNED}, "asking": {"", FROZEN, STILL}, "again": {"", TWICE}},
            {FADING, SOARING, "uneven", PROMPT},
        ),
        (together.MIXTURES_BACK, {"asking": {"", FROZEN, STILL, YIELDED}}, {PROMPT}),
        (together.LAYERS, {"states": {""}, "phi": {"", TURNED}, "returned": {"", ROWS}}, {"negative", HOLLOW}),
    ],
)
def test_sizes_ways_to_call_and_looks_meet_each_other(
    factors: together.Factors, ways: dict[str, set[Any]], looks: set[str]
) -> None:
    found = rows_of(list(factors(SETTING, WHOLE)))
    levels = {name: {row[name] for row in found} for name in found[0]}
    assert ways.items() <= levels.items()
    assert levels["axes"] == ON_AXES
    assert looks <= levels["look"]
    assert levels["tokens"] == set(factors.tokens)
    assert levels["streams"] == {1, 2, 3, 4, 5, 8}
    assert levels["layers"] == set(factors.layers)
    met = pairs(found)
    for (one, several), (other, many) in itertools.combinations(levels.items(), 2):
        for a, b in itertools.product(several, many):
            pair = {one: a, other: b}
            far = pair.get("tokens", 1) * pair.get("channels", 1) > factors.most
            lone = pair.get("streams") == 1 and pair.get("look") in ("uneven", "silent")
            cut = pair.get("axes") == CUT and bool(pair.get("states") or pair.get("asking"))
            asked = bool(pair.get("asking")) and any(pair.get(name) for name in ("states", "phi", "returned", "again"))
            assert (frozenset(pair.items()) in met) == (not (far or lone or cut or asked)), pair


def test_inputs_are_shared_by_several_points() -> None:
    runs = list(together.BLOCKS(SETTING, WHOLE))
    shared = {(run.channels, run.streams, run.layers, run.look) for run in runs}
    assert 1.5 * len(shared) < len(runs) < 120


@pytest.mark.parametrize("factors", [together.MATRICES, together.PRODUCTS_BACK, together.LAYERS])
def test_what_is_declared_holds(factors: together.Factors) -> None:
    narrow = Setting(
        PAPER, (2, 4), torch.bfloat16, max_tokens=30, channel_multiple=16, strided=False, norm_weight=False
    )
    points = [point for run in factors(narrow, WHOLE) for point in run.points(narrow, "block", 0)]
    assert points
    for point in points:
        assert point.size.tokens <= 30
        assert point.size.channels % 16 == 0
        assert point.size.streams in (2, 4)
        assert point.size.contiguous
        assert not {CUT, TURNED, ROWS, "slice"} & set(parts_of(point.more.get("layout", "")))
    assert not list(factors(narrow, Reach(1, 130, 130, 12))), "of a dtype that is swept over few sizes none"
    assert Size(1, 16, 4) in {Size(point.size.tokens, 16, point.size.streams) for point in points}
