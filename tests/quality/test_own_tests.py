"""What `properties.strategies` promises for somebody's own tests, as docs/strategies.md says it, is measured."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from test_strategies import distinct_tokens, spread, starved, varied

from mhc_ref import MHC_LITE, PAPER, PRESETS, Dialect, mappings, project
from properties import strategies
from properties.core.trial import wide
from properties.guards.surroundings import drawn_alike

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "strategies.md").read_text()
QUIET: list[HealthCheck] = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
RUNS, DRAWS = 3, 24

STRATEGIES = {
    "dialects": strategies.dialects(),
    "sizes": strategies.sizes(),
    "depths": strategies.depths(),
    "logits": strategies.logits(),
    "states": strategies.states(),
    "parameters": strategies.parameters(),
    "branches": strategies.branches(),
    "cotangents": strategies.cotangents(3, 3),
    "blocks": strategies.blocks(depth=3),
}


@functools.cache
def sample(name: str) -> tuple[Any, ...]:
    """The examples of a few short runs, the same every time."""
    found: list[Any] = []

    @settings(max_examples=DRAWS, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=QUIET)
    @given(STRATEGIES[name])
    def draw(one: Any) -> None:
        found.append(one)

    for run in range(RUNS):
        with drawn_alike():
            seed(run)(draw)()
    return tuple(found)


def asymmetric(logits: torch.Tensor) -> bool:
    h_res = project(wide(logits), PAPER)
    return bool(((h_res - h_res.mT).abs() > 1e-2).any())


def rms(x: torch.Tensor) -> torch.Tensor:
    return wide(x).square().mean((-2, -1)).sqrt()


def moved_by_state(blocks: Any) -> bool:
    x, params = wide(blocks.x), type(blocks.params[0])(*(p if p is None else wide(p) for p in blocks.params[0]))
    with_phi, without = (mappings(x, p, PAPER) for p in (params, params._replace(phi=torch.zeros_like(params.phi))))
    return any(bool(((a - b).abs() > 1e-2).any()) for a, b in zip(with_phi, without, strict=True))


EVENTS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("dialects", "a preset as it is"): lambda d: d in PRESETS.values(),
    ("dialects", "no preset"): lambda d: d not in PRESETS.values(),
    ("dialects", "a mixing other than Sinkhorn"): lambda d: d.residual != "sinkhorn",
    ("dialects", "an eps in a division"): lambda d: d.denominator_eps > 0,
    ("sizes", "one stream"): lambda s: s.n == 1,
    ("sizes", "eight streams"): lambda s: s.n == 8,
    ("sizes", "no token"): lambda s: s.tokens == 0,
    ("sizes", "channels that are no power of two"): lambda s: s.channels & (s.channels - 1),
    ("depths", "several blocks"): lambda d: d > 1,
    ("logits", "a visibly asymmetric h_res"): asymmetric,
    ("logits", "a range above 20"): lambda z: (spread(z) > 20).any(),
    ("logits", "a row starved by 8"): lambda z: starved(z, -1),
    ("logits", "a column starved by 8"): lambda z: starved(z, -2),
    ("logits", "an offset beyond exp"): lambda z: (wide(z).flatten(1).mean(1).abs() > 88).any(),
    ("logits", "two different tokens"): distinct_tokens,
    ("states", "two different tokens"): distinct_tokens,
    ("states", "rms below 1e-5"): lambda x: ((rms(x) < 1e-5) & (rms(x) > 0)).any(),
    ("states", "rms above 1e5"): lambda x: (rms(x) > 1e5).any(),
    ("states", "rms of order 1"): lambda x: ((rms(x) > 0.1) & (rms(x) < 10)).any(),
    ("parameters", "gates that differ"): lambda p: len(set(p.alpha.tolist())) > 1,
    ("parameters", "a dense phi"): lambda p: (p.phi != 0).double().mean() > 0.9,
    ("parameters", "a residual bias"): lambda p: p.bias[6:].any(),
    ("parameters", "a norm weight"): lambda p: p.norm_weight is not None,
    ("branches", "a branch that is not zero"): lambda b: b(torch.ones(7)).any(),
    ("cotangents", "a dense one"): lambda c: (c != 0).double().mean() > 0.9,
    ("cotangents", "one that varies"): lambda c: varied(c[None]),
    ("blocks", "several blocks"): lambda b: len(b.params) > 1,
    ("blocks", "mappings that depend on the state"): moved_by_state,
}
PROMISED = [
    (strategy, what, int(least) / 100)
    for strategy, what, least in re.findall(r"^\| `(\w+)` \| (.+?) \| (\d+) % \|$", PAGE, re.MULTILINE)
]


def test_the_page_promises_what_is_measured() -> None:
    assert [(strategy, what) for strategy, what, _ in PROMISED] == list(EVENTS)
    assert {strategy for strategy, _, _ in PROMISED} == set(strategies.PUBLIC)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "what", "least"), PROMISED, ids=[f"{s}: {w}" for s, w, _ in PROMISED])
def test_a_promised_regime_is_reached(strategy: str, what: str, least: float) -> None:
    found = sample(strategy)
    share = sum(bool(EVENTS[strategy, what](one)) for one in found) / len(found)
    assert share >= least, f"{what} in {share:.1%} of {strategy}, promised {least:.0%}"


def smallest(strategy: Any, event: Callable[[Any], Any] = lambda one: True) -> Any:
    configured = settings(max_examples=500, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
    with drawn_alike():
        return find(strategy, event, settings=configured)


@pytest.mark.slow
def test_everything_shrinks_to_the_simplest_of_its_kind() -> None:
    assert smallest(strategies.dialects()) == PAPER
    assert smallest(strategies.sizes()) == (1, 1, 1)
    assert smallest(strategies.depths()) == 1
    assert smallest(strategies.branches()).kind == "zero"


@pytest.mark.slow
def test_tensors_shrink_to_zeros_and_ramps() -> None:
    assert smallest(strategies.logits(n=4)).tolist() == [[[0.0] * 4] * 4]
    assert smallest(strategies.states(3, 2)).tolist() == [[[1.0, 1.25], [2.0, 2.25], [3.0, 3.25]]]
    block = smallest(strategies.blocks(depth=3))
    assert block.x.tolist() == [[[1.0]]]
    assert len(block.params) == len(block.branches) == 1
    params = block.params[0]
    assert not params.phi.any()
    assert not params.bias.any()
    assert params.alpha.tolist() == [1, 1, 1]
    assert params.norm_weight is None


@pytest.mark.slow
def test_a_dialect_shrinks_to_the_one_field_that_matters() -> None:
    assert smallest(strategies.dialects(), lambda d: d.iterations == 3) == PAPER.with_(iterations=3)
    assert smallest(strategies.dialects(), lambda d: d.post == "softmax") == PAPER.with_(post="softmax")


@pytest.mark.slow
def test_logits_shrink_to_the_entry_that_matters() -> None:
    logits = smallest(strategies.logits(), lambda z: (z > 3).any())
    assert sorted(logits.flatten().tolist()) == [0.0] * 8 + [3.125]


@pytest.mark.slow
def test_what_is_drawn_fits_the_dialect_and_the_dtype() -> None:
    @settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
    @given(strategies.blocks(MHC_LITE, dtype=torch.bfloat16), strategies.logits(MHC_LITE, 4, tokens=2))
    def check(drawn: Any, logits: torch.Tensor) -> None:
        assert drawn.x.dtype == torch.bfloat16
        assert drawn.params[0].phi.dtype == torch.float32
        assert drawn.x.shape[-2] <= 5
        assert drawn.branches[0](drawn.x[:, 0]).dtype == torch.bfloat16
        assert logits.shape == (2, 24)
        mappings(drawn.x, drawn.params[0], MHC_LITE)

    check()


@pytest.mark.slow
def test_a_family_from_outside_is_drawn_where_it_is_named() -> None:
    class Still:
        slot, name, FIELDS = "dynamic", "still_for_strategies", {}

        def activate(self, products: torch.Tensor, dialect: Dialect) -> torch.Tensor:
            return products

    assert smallest(strategies.dialects(also=[Still()]), lambda d: d.dynamic == "still_for_strategies") == PAPER.with_(
        dynamic="still_for_strategies"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda: strategies.sizes(MHC_LITE, streams=(8,)), "residual='permutations' takes at most 5 streams"),
        (lambda: strategies.depths(0), "most is 0; expected 1 or more blocks"),
        (lambda: strategies.logits(patterns=("mild",)), r"patterns contains \['mild'\]; expected some of zero"),
    ],
)
def test_what_cannot_be_drawn_is_said_at_once(asked: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        asked()


def test_the_example_of_the_page_runs() -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert example
    for code in example:
        names: dict[str, Any] = {}
        exec(compile(code, "docs/strategies.md", "exec"), names)
        tests = [name for name in names if name.startswith("test_")]
        assert tests
        for name in tests:
            settings(max_examples=10, database=None, deadline=None)(names[name])()
