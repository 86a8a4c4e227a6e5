"""The laws that go through sizes: they see what happens at some of them only, and say where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, LIGER, PAPER, PRESETS, Branch, Dialect, Mappings, Params
from properties.catalogue import deviations
from properties.core.case import Case
from properties.core.declaration import Declaration, DeclarationError
from properties.core.implementation import Implementation, Reference
from properties.core.law import Law, all_laws
from properties.core.size import Size
from properties.core.sweep import Point, Reach, Sweep, evenly, in_pairs, take
from properties.core.trial import FloatTruth, LawBroken
from properties.engine.counterexample import Counterexample
from properties.engine.runner import HarnessError, examine, try_stored
from properties.engine.subject import Profile, Subject, Verdict
from properties.engine.sweeping import _LEAST, Sweeping
from properties.laws import errors
from properties.laws.sizes_backwards import MAPPINGS
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import LOOKS, distinct
from properties.strategies.sweeps import Run, points_of

FINE = Profile(4, derandomise=True, sizes=3)
COARSE = Profile(4, derandomise=True, sizes=2)
LAWS = [law for law in all_laws() if law.startswith("sizes.")]


def verdict(
    law: str, target: Implementation, where: Path, profile: Profile = FINE, dtype: torch.dtype = torch.float32
) -> Verdict:
    target.name = type(target).__name__
    return examine(all_laws()[law], Subject("target", target, dtype, torch.device("cpu")), profile, directory=where)


class Parts(Implementation):
    """What the parts of a block give, by the reference; whoever inherits is wrong at some sizes."""

    dialect: Dialect = DEEPSEEK_V4
    streams: Sequence[int] = (2, 4)
    dtypes: Sequence[Any] = (torch.float32,)

    def __init__(self) -> None:
        self.right = Reference(self.dialect)

    def project(self, logits: Tensor) -> Tensor:
        return self.right.project(logits)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return self.right.mappings(x, params)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self.right.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self.right.post(x, y, h_post, h_res.mT if self.wrong(x) else h_res)

    def wrong(self, x: Tensor) -> bool:
        """Whether the operator is applied transposed to a state."""
        return False


def tokens(x: Tensor) -> int:
    return math.prod(x.shape[:-2])


class TokensBetween(Parts):
    def wrong(self, x: Tensor) -> bool:
        return 35 < tokens(x) <= 64


class AlignedWidth(Parts):
    def wrong(self, x: Tensor) -> bool:
        return x.shape[-1] % 8 == 0


class Above4096(Parts):
    def wrong(self, x: Tensor) -> bool:
        return x.shape[-1] > 4096


class TailsWithoutGradients(Parts):
    def wrong(self, x: Tensor) -> bool:
        return not torch.is_grad_enabled() and tokens(x) > 256 and tokens(x) % 256 != 0


class WithGradientsOnly(Parts):
    def wrong(self, x: Tensor) -> bool:
        return x.requires_grad and tokens(x) >= 9


class ManyTokensOfManyChannels(Parts):
    def wrong(self, x: Tensor) -> bool:
        return tokens(x) >= 17 and x.shape[-1] >= 65


class UnalignedStart(Parts):
    def wrong(self, x: Tensor) -> bool:
        return x.storage_offset() % 4 == 1


class NegativeStates(Parts):
    def wrong(self, x: Tensor) -> bool:
        return bool((x < 0).all()) and x.shape[-1] % 8 == 1


POST = "sizes.streams-are-mixed"


def points(law: str, t: int, streams: tuple[int, ...] = (2, 4), **declared: Any) -> list[Size]:
    """The sizes that a law visits on an implementation of its own, with inputs that are nothing out of the ordinary."""
    sweep = all_laws()[law].sweep
    assert sweep is not None
    setting = Setting(DEEPSEEK_V4, streams, torch.float32, **declared)
    return [point.size for point in sweep.points(setting, Reach(t, 8192, 8192, 64), 0) if not point.apart]


CONDITIONS: dict[str, Callable[[Size], bool]] = {
    "36 <= T <= 64": lambda s: 36 <= s.tokens <= 64,
    "T >= 257 and T % 256, without gradients": lambda s: s.tokens > 256 and s.tokens % 256 != 0 and not s.gradients,
    "T % 64 == 0": lambda s: s.tokens % 64 == 0,
    "T % 64 == 0, with gradients": lambda s: s.tokens % 64 == 0 and s.gradients,
    "2048 < T <= 2304": lambda s: 2048 < s.tokens <= 2304,
    "C % 8 == 0": lambda s: s.channels % 8 == 0,
    "C % 8 == 0 and T >= 9": lambda s: s.channels % 8 == 0 and s.tokens >= 9,
    "C % 8, and T >= 300": lambda s: s.channels % 8 != 0 and s.tokens >= 300,
    "C >= 4097": lambda s: s.channels >= 4097,
    "C >= 4097, with gradients": lambda s: s.channels >= 4097 and s.gradients,
    "C >= 4097 and C % 128 == 0": lambda s: s.channels >= 4097 and s.channels % 128 == 0,
    "K >= 8193": lambda s: s.inner >= 8193,
    "T <= 16 and K >= 256": lambda s: s.tokens <= 16 and s.inner >= 256,
    "T >= 17 and C >= 65": lambda s: s.tokens >= 17 and s.channels >= 65,
    "n >= 3 and C >= 1024": lambda s: s.streams >= 3 and s.channels >= 1024,
    "n == 2 and T >= 33": lambda s: s.streams == 2 and s.tokens >= 33,
    "T C > 65536": lambda s: s.tokens * s.channels > 1 << 16,
    "strided and C % 4": lambda s: not s.contiguous and s.channels % 4 != 0,
}
DEEP: dict[str, Callable[[Size], bool]] = {
    "L >= 9": lambda s: s.layers >= 9,
    "L >= 23": lambda s: s.layers >= 23,
    "L == 64": lambda s: s.layers == 64,
    "28 <= L <= 34": lambda s: 28 <= s.layers <= 34,
    "L % 8 == 0": lambda s: s.layers % 8 == 0,
    "L >= 9 and T >= 33": lambda s: s.layers >= 9 and s.tokens >= 33,
    "L >= 2 and K % 12 == 1": lambda s: s.layers >= 2 and s.inner % 12 == 1,
    "L >= 2 and 128 <= T <= 192": lambda s: s.layers >= 2 and 128 <= s.tokens <= 192,
    "L >= 9, with gradients": lambda s: s.layers >= 9 and s.gradients,
}
WIDE = [
    f"sizes.{name}"
    for name in ("tokens-and-channels-are-mapped", "streams-are-read", "streams-are-mixed", "blocks-pass")
]


@pytest.mark.slow
@pytest.mark.parametrize("t", [3, 4])
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("law", WIDE)
def test_a_sweep_goes_to_where_kernels_branch(law: str, condition: str, t: int) -> None:
    met = [CONDITIONS[condition](size) for size in points(law, t)]
    assert any(met)
    assert not all(met)


@pytest.mark.parametrize("condition", DEEP)
@pytest.mark.parametrize("law", ["sizes.depths-pass", "sizes.stacks-pass"])
def test_a_sweep_goes_to_where_layers_end(law: str, condition: str) -> None:
    assert any(DEEP[condition](size) for size in points(law, 4, (1, 2, 4, 5)))


@pytest.mark.parametrize("condition", ["T % 64 == 0, with gradients", "C >= 4097, with gradients", "K >= 8193"])
@pytest.mark.parametrize(
    "law", ["sizes.blocks-pull-back", "sizes.tokens-and-channels-pull-back", "sizes.mixing-pulls-back"]
)
def test_backward_sweeps_go_there_too(law: str, condition: str) -> None:
    assert any(CONDITIONS[condition](size) for size in points(law, 4))
    assert all(size.gradients for size in points(law, 4))


@pytest.mark.parametrize("law", LAWS)
def test_what_is_declared_is_visited_and_what_is_not_accepted_is_not(law: str) -> None:
    declared = {"channels": (7168,), "token_counts": (100,), "depths": (61,)}
    sizes = points(law, 2, (3,), channel_multiple=32, max_tokens=100, strided=False, **declared)
    assert all(
        size.channels % 32 == 0 and size.tokens <= 100 and size.streams == 3 and size.contiguous for size in sizes
    )
    named = {number for size in sizes for number in (size.tokens, size.channels, size.layers)}
    assert {7168, 100} <= named
    assert 61 in named or "layers" not in all_laws()[law].needs[0] + all_laws()[law].statement


def small(law: str, *runs: Run) -> Law:
    """The same law over these runs alone."""
    one = all_laws()[law]
    assert one.sweep is not None
    kind = "mixture" if law == POST else "project"

    def visit(setting: Setting, reach: Reach, seed: int) -> Sequence[Point]:
        return points_of(runs, setting, kind, seed)

    return replace(one, sweep=Sweep(visit, one.sweep.at))


def swept(target: Implementation, where: Path, *runs: Run, profile: Profile = FINE) -> Verdict:
    target.name = type(target).__name__
    subject = Subject("target", target, torch.float32, torch.device("cpu"))
    return examine(small(POST, *runs), subject, profile, directory=where)


FEW = (Run(8, 2, tuple(range(1, 71, 4))), Run(5, 2, (1, 2, 3, 33, 70)))


def test_the_counterexample_is_the_smallest_size_beside_the_largest_below_that_passes(tmp_path: Path) -> None:
    found = swept(TokensBetween(), tmp_path, Run(8, 2, tuple(range(1, 71, 4))))
    assert found.status == "failed"
    assert "the smallest is T = 36, C = 8, n = 2, and below it T = 35, C = 8, n = 2 passes" in found.message
    assert found.case is not None
    assert found.case.x.shape == (36, 2, 8)
    assert dict(found.case.items()).keys() == {"x", "y", "h_post", "h_res"}


def test_a_counterexample_of_a_size_replays(tmp_path: Path) -> None:
    found = swept(AlignedWidth(), tmp_path, *FEW)
    assert found.counterexample is not None
    kept = Counterexample.load(found.counterexample)
    subject = Subject("target", AlignedWidth(), torch.float32, torch.device("cpu"))
    with pytest.raises(LawBroken):
        try_stored(all_laws()[POST], subject, kept.case)
    try_stored(all_laws()[POST], Subject("target", Parts(), torch.float32, torch.device("cpu")), kept.case)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_the_inputs_of_a_point_are_held_to_the_same_by_themselves(law: str) -> None:
    one, target = all_laws()[law], Reference(PAPER)
    target.name = "reference"
    subject = Subject("reference", target, torch.float32, torch.device("cpu"))
    assert one.sweep is not None
    every = one.sweep.points(subject.setting(one), Reach(1, 5, 5, 2), 0)
    for point in [every[0], every[len(every) // 2], every[-1]]:
        part, by_itself = (subject.trial() for _ in range(2))
        one.judge(part, point.case())
        one.judge(by_itself, Case(**dict(point.case().items())))
        assert by_itself.claims == part.claims > 0
        assert 0.99 * part.worst <= by_itself.worst <= 1  # of few tokens a bound may be sharper


def test_one_reference_serves_every_number_of_tokens_and_the_next_implementation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    right = errors.post
    monkeypatch.setattr(errors, "post", lambda trial, x, *rest: (asked.append(x.shape[0]), right(trial, x, *rest))[1])
    runs = (Run(11, 2, tuple(range(1, 60))), Run(13, 2, (2,)))
    assert swept(Parts(), tmp_path, *runs).status == "passed"
    assert sorted(asked) == [2, 59]
    assert swept(Parts(), tmp_path, *runs).examples == 60
    assert len(asked) == 2


def test_a_state_that_begins_off_the_start_of_its_storage_is_told_from_sizes(tmp_path: Path) -> None:
    found = swept(UnalignedStart(), tmp_path, Run(8, 2, (1, 2, 5)), Run(8, 2, (1, 5), layout="offset 1"))
    assert found.status == "failed"
    assert "it fails only where a state begins off the start of its storage" in found.message
    assert found.case is not None
    assert found.case.layout == "offset 1"
    assert "sizes fail" not in found.message


def test_states_that_look_out_of_the_ordinary_are_told_from_sizes(tmp_path: Path) -> None:
    looking = (
        Run(9, 2, (1, 5), look="negative"),
        Run(8, 2, (1, 2, 5), look="negative"),
        Run(9, 2, (5, 6), look="tiny"),
    )
    found = swept(NegativeStates(), tmp_path, Run(9, 2, (1, 2, 5)), *looking)
    assert found.status == "failed"
    assert (
        "it fails only where every entry of the state is negative: at 2 sizes, and at none otherwise" in found.message
    )
    assert "sizes fail" not in found.message


def test_a_size_that_is_met_out_of_the_ordinary_first_is_to_blame_by_itself(tmp_path: Path) -> None:
    found = swept(AlignedWidth(), tmp_path, Run(7, 2, (1, 2, 5)), Run(8, 2, (1, 5), look="negative"))
    assert found.status == "failed"
    assert "the smallest is T = 1, C = 8, n = 2" in found.message
    assert "fails only where" not in found.message


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_inputs_look_as_they_are_said_to(look: str, dtype: torch.dtype) -> None:
    setting = Setting(DEEPSEEK_V4, (4,), dtype)
    point, ordinary = (next(iter(Run(8, 4, (7,), look=one).points(setting, "block", 0))).case() for one in (look, ""))
    x, usual, gates = point.x.double(), ordinary.x.double(), point.params.bias[:8]
    size = x.abs().amax(-1)
    assert bool(x.isfinite().all())
    seen = {
        "negative": bool((x < 0).all()),
        "tiny": bool(x.abs().max() < 2e-3 * usual.abs().max()) and bool(gates.abs().max() < 0.01),
        "large": bool(x.abs().max() > 50 * usual.abs().max()) and gates[0] > 25 and gates[4] < -25,
        "uneven": bool((size[0].max() > 200 * size[0].min()) and size.min() > 0),
        "silent": bool((x[0, -1] == 0).all() and (x[0, 0] != 0).any() and (x[1, 0] == x[1, 1]).all()),
    }
    assert [one for one, holds in seen.items() if holds] == [look]


@pytest.mark.parametrize("preset", PRESETS)
def test_inputs_of_every_dialect_look_so(preset: str) -> None:
    dialect = PRESETS[preset]
    setting = Setting(dialect, (1, 2, 4) if preset != "RESIDUAL" else (1,), torch.bfloat16)
    for kind, look in itertools.product(("project", "mappings", "block", "layers", "stack"), LOOKS):
        for run in (Run(5, n, (1, 4), look=look) for n in setting.streams):
            for point in run.points(setting, kind, 0):
                assert all(bool(one.isfinite().all()) for _, one in point.case().items() if isinstance(one, Tensor))


def test_no_state_is_smaller_than_is_declared() -> None:
    setting = Setting(DEEPSEEK_V4, (4,), torch.float32, least_scale=1e-3)
    for look in LOOKS:
        x = next(iter(Run(8, 4, (7,), look=look).points(setting, "block", 0))).case().x
        usual = next(iter(Run(8, 4, (7,)).points(setting, "block", 0))).case().x
        assert x.abs().amax((-1, -2)).min() > 0.9e-3 * usual.abs().amax((-1, -2)).min()


def test_where_everything_fails_sizes_are_not_to_blame(tmp_path: Path) -> None:
    class Everywhere(Parts):
        def wrong(self, x: Tensor) -> bool:
            return True

    found = swept(Everywhere(), tmp_path, Run(8, 4, tuple(range(1, 61))))
    assert found.status == "failed"
    assert found.examples < 20
    assert "it fails at every size that was tried" in found.message
    assert "48 of 60 points were left out as all of them failed" in found.sizes


def test_a_limit_that_would_have_excused_the_failure_is_named(tmp_path: Path) -> None:
    class AtMost40(Parts):
        def wrong(self, x: Tensor) -> bool:
            return tokens(x) > 40

    class Eights(Parts):
        def wrong(self, x: Tensor) -> bool:
            return x.shape[-1] % 8 != 0

    assert "`max_tokens = 40` would have excused it" in swept(AtMost40(), tmp_path, *FEW).message
    assert "`channel_multiple = 8` would have excused it" in swept(Eights(), tmp_path, *FEW).message


def test_a_sweep_whose_time_is_over_ends_evenly_and_says_what_it_left_out(tmp_path: Path) -> None:
    hurried = Profile(4, derandomise=True, sizes=3, seconds=1e-9)
    found = swept(Parts(), tmp_path, Run(8, 2, tuple(range(1, 101))), profile=hurried)
    assert found.status == "passed"
    assert "76 of 100 points were left out" in found.sizes
    size = [
        point.size.tokens
        for point in evenly(
            points_of([Run(8, 2, tuple(range(1, 101)))], Setting(PAPER, (2,), torch.float32), "mixture", 0)
        )
    ]
    assert sorted(size) == list(range(1, 101))
    assert max(b - a for a, b in itertools.pairwise(sorted(size[:24]))) <= 8


def test_the_first_points_of_a_sweep_bring_every_pair_of_circumstances_together() -> None:
    few = Setting(PAPER, (2, 4), torch.float32)
    runs = [Run(c, n, tuple(range(1, 41)), layout=one) for c in (1, 40) for n in (2, 4) for one in ("", "slice")]
    points = points_of(runs, few, "mixture", 0)
    first, rest = in_pairs(points)
    assert sorted(map(id, first + rest)) == sorted(map(id, points))

    def pairs(some: Sequence[Point]) -> set[tuple[int, bool, int]]:
        return {(one.size.tokens.bit_length() // 2, one.size.contiguous, one.size.channels) for one in some}

    assert len(first) < 40
    for one, other in itertools.combinations(range(3), 2):
        assert {(p[one], p[other]) for p in pairs(first)} == {(p[one], p[other]) for p in pairs(points)}


def test_the_pairs_of_circumstances_are_visited_in_three_times_the_seconds_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = (1, 2, 5, 9, 17, 40, 70, 100, 140)
    runs = [Run(c, 2, few, layout=one) for c in (1, 5, 20, 80, 300) for one in ("", "slice")]
    setting = Setting(PAPER, (2,), torch.float32)
    first, rest = in_pairs(points_of(runs, setting, "mixture", 0))
    assert _LEAST < len(first) < len(rest)
    for seconds, visited in (
        (2 * len(first), 2 * len(first)),
        (len(first) - 2, len(first)),
        (len(first) / 3 - 1, len(first) - 3),
    ):
        ticks = itertools.count()
        monkeypatch.setattr(Sweeping, "_now", lambda self, ticks=ticks: next(ticks))
        found = swept(Parts(), tmp_path, *runs, profile=Profile(4, derandomise=True, sizes=3, seconds=seconds))
        assert found.examples == visited


def test_a_failure_stands_although_the_sweep_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seventy(Parts):
        def wrong(self, x: Tensor) -> bool:
            return tokens(x) == 70

    left = [None] * 2  # the first and the last of the sizes, by cost

    def breaks() -> None:
        if not left:
            raise HarnessError("broken off")
        left.pop()

    monkeypatch.setattr("properties.engine.sweeping.checkpoint", breaks)
    found = swept(Seventy(), tmp_path, Run(8, 2, (1, 2, 70)))
    assert found.status == "failed"
    assert "broken off" in found.message


def test_what_fails_once_and_not_again_is_no_matter_of_its_size(tmp_path: Path) -> None:
    class Once(Parts):
        left = 1

        def wrong(self, x: Tensor) -> bool:
            self.left -= tokens(x) == 33
            return self.left == 0 and tokens(x) == 33

    found = swept(Once(), tmp_path, *FEW)
    assert found.status == "failed"
    assert found.executed_law == "execution.deterministic"


@pytest.mark.parametrize("given", [(4096, 7168), 4096, [4096], ()])
def test_sizes_of_models_are_declared(given: Any) -> None:
    class Declares(Parts):
        channels = given

    made = Declares()
    expected = (given,) if isinstance(given, int) else tuple(given)
    assert Setting.of(made, name="", dtype=torch.float32, flood=()).channels == expected


@pytest.mark.parametrize(("name", "given"), [("channels", (0,)), ("depths", ("many",)), ("token_counts", (9,))])
def test_sizes_that_cannot_be_are_refused(name: str, given: Any) -> None:
    made = Parts()
    made.max_tokens = 8
    setattr(made, name, given)
    with pytest.raises(DeclarationError, match=name):
        Declaration.of(made, name="")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "smallest", "below"),
    [
        (TokensBetween, "T = 36,", "T = 35,"),
        (AlignedWidth, "T = 1, C = 8,", ""),
        (Above4096, "C = 4097,", "C = 4096,"),
        (TailsWithoutGradients, "T = 257,", "T = 256,"),
        (WithGradientsOnly, "T = 9,", "T = 8,"),
        (ManyTokensOfManyChannels, "T = 33, C = 65,", "T = 33, C = 64,"),
    ],
)
def test_what_is_wrong_at_some_sizes_only_is_met_and_shown_at_the_smallest(
    target: type[Parts], smallest: str, below: str, tmp_path: Path
) -> None:
    found = verdict(POST, target(), tmp_path, FINE if target is Above4096 else COARSE)
    assert found.status == "failed"
    said = next(line for line in found.message.splitlines() if "sizes fail" in line)
    first, _, second = said.partition(", and below it ")
    assert smallest in f"{first},", said
    assert below in second, said


@pytest.mark.slow
def test_a_sweep_that_nobody_shrinks_or_explains_ends_at_its_first_failure(tmp_path: Path) -> None:
    quick, whole = (
        verdict(POST, TokensBetween(), tmp_path, replace(COARSE, shrink=shrink)) for shrink in (False, True)
    )
    assert (quick.status, whole.status) == ("failed", "failed")
    assert "nobody asked for a smaller one" in quick.message
    assert "left out as one failed" in quick.sizes
    assert 1 < sum(count for _, count, _ in quick.visited["tokens"]) < sum(c for _, c, _ in whole.visited["tokens"])
    assert sum(failed for _, _, failed in quick.visited["tokens"]) == 1
    assert quick.examples < whole.examples / 2


SEEN_BY_SIZES = {
    "transposed-between-36-and-64": "sizes.streams-are-mixed",
    "channels-above-4096-left-out": "sizes.streams-are-mixed",
    "tail-of-256-unwritten-without-gradients": "sizes.streams-are-mixed",
    "every-eighth-boundary-dropped": "sizes.depths-pass",
    "four-layers-learn": "sizes.depths-pull-back",
    "third-token-axis-lost": "sizes.tokens-and-channels-are-mapped",
    "cotangent-offset-ignored": "sizes.mixing-pulls-back",
}
"""Hidden deviation of sizes -> a law that sees it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_BY_SIZES)
def test_a_deviation_of_sizes_is_seen_by_its_law(name: str, tmp_path: Path) -> None:
    target = deviations.build(name, PAPER)
    target.streams = (3,)
    profile = FINE if "4096" in name else COARSE
    assert verdict(SEEN_BY_SIZES[name], target, tmp_path, profile).status == "failed"


class WrongMappings(Parts):
    """h_res of a wide state leaves out what lies beyond K = 2048."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        most = 2048 // x.shape[-2]
        if x.shape[-1] <= most:
            return self.right.mappings(x, params)
        shortened = torch.cat([x[..., :most], torch.zeros_like(x[..., most:])], -1)
        return self.right.mappings(shortened, params)


class WrongProjection(Parts):
    def project(self, logits: Tensor) -> Tensor:
        found = self.right.project(logits)
        return torch.cat([found[:-1], found[:1]]) if len(found) % 64 == 0 else found


class WrongRead(Parts):
    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        out = self.right.pre(x, h_pre)
        return out * (torch.arange(x.shape[-1]) < x.shape[-1] // 128 * 128) if x.shape[-1] > 512 else out


class Deep(Parts):
    """Every eighth boundary drops a layer's update."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for i, (one, branch) in enumerate(zip(params, branches, strict=True)):
            after = self.right.block(x, one, branch)
            x = x if i % 8 == 7 and i + 1 < len(params) else after
        return x


class FourLearn(Parts):
    """The parameters of later layers than four get no gradient."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for i, (one, branch) in enumerate(zip(params, branches, strict=True)):
            still = Params(*(None if part is None else part.detach() for part in one)) if i >= 4 else one  # pyright: ignore[reportArgumentType]
            x = self.right.block(x, still, branch)
        return x


class TokensLearn(Parts):
    """Only the first 256 tokens add to the gradients of the parameters."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        still = Params(*(None if part is None else part.detach() for part in params))  # pyright: ignore[reportArgumentType]
        first, rest = x[:256], x[256:]
        out = self.right.block(first, params, branch)
        return torch.cat([out, self.right.block(rest, still, branch)]) if len(rest) else out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "target", "smallest"),
    [
        ("sizes.tokens-and-channels-are-mapped", WrongMappings, "C = 513,"),
        ("sizes.matrices-are-projected", WrongProjection, "T = 64,"),
        ("sizes.streams-are-read", WrongRead, "C = 513,"),
        ("sizes.depths-pass", Deep, "L = 9"),
        ("sizes.depths-pull-back", FourLearn, "L = 5"),
        ("sizes.blocks-pull-back", TokensLearn, "T = 257,"),
        ("sizes.parts-agree-with-the-whole", TokensBetween, "T = 36,"),
    ],
)
def test_every_stage_is_taken_to_where_it_branches(
    law: str, target: type[Parts], smallest: str, tmp_path: Path
) -> None:
    found = verdict(law, target(), tmp_path, COARSE)
    assert found.status == "failed"
    said = next(line for line in found.message.splitlines() if "sizes fail" in line)
    assert smallest in f"{said.partition(', and below')[0]},", said


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_a_correct_implementation_passes_every_size(law: str, tmp_path: Path) -> None:
    target = Reference(PAPER)
    target.streams = (1, 4)
    found = verdict(law, target, tmp_path, COARSE)
    assert found.status == "passed", found.message
    assert found.claims > 100
    assert found.abstentions < found.claims / 10
    assert "S(2) to T = 1100" in found.sizes


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "dtype"), list(zip(LAWS, itertools.cycle([torch.float64, torch.bfloat16, torch.float16]), strict=False))
)
def test_other_dtypes_are_tried_at_fewer_sizes(law: str, dtype: torch.dtype, tmp_path: Path) -> None:
    target = Reference(LIGER)
    target.dtypes, target.streams = (torch.float32, dtype), (2, 4)
    found = verdict(law, target, tmp_path, Profile(4, derandomise=True, sizes=1), dtype)
    assert found.status in ("passed", "not-applicable"), found.message
    if found.status == "passed":
        assert found.claims > 100


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [PAPER, PRESETS["QWEN4_EXP"]], ids=["PAPER", "QWEN4_EXP"])
def test_a_sum_over_tokens_that_come_again_may_be_off_by_the_roundings_of_all_of_them(dialect: Dialect) -> None:
    """Thirty-one tokens differ, and 16411 are added up: gamma_16411 of the sum of magnitudes, in whatever order."""
    law = all_laws()["sizes.tokens-and-channels-pull-back"]
    assert law.sweep is not None
    target = Reference(dialect)
    target.streams = (4,)
    subject = Subject("target", target, torch.float32, torch.device("cpu"))
    points = law.sweep.points(subject.setting(law), Reach(3, 8192, 8192, 65), 0)
    (point,) = (one for one in points if one.size.tokens == 16411)
    case, trial = point.case(), subject.trial()
    few = distinct("mappings backwards", 4, point.size.channels, 16411, 1)
    alone = [MAPPINGS.exact(FloatTruth(dialect), take(case, slice(k, k + 1))) for k in range(few)]
    expected = MAPPINGS.expected(trial, case)
    for name in ("phi", "bias"):
        what = f"the gradient by {name}"
        magnitudes = torch.stack([one[what].abs() for one in alone]).sum(0) * (16411 // few)
        bound = expected[what].error.reshape(magnitudes.shape)
        assert (bound >= 16410 * 2.0**-24 * magnitudes).all()
        assert (bound <= magnitudes.max()).all()  # and something is claimed
    law.judge(trial, case)
