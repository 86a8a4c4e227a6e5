"""Every law is tried once more each at sizes beyond a tile, with tokens on two axes, whatever it draws itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_device import FAKE, fake_device
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mhc_ref import PAPER, Branch, Mappings, Params
from properties.core.arranged import PROMPT, SEQUENCES, STEPS, arranged, on_two
from properties.core.case import BranchSpec, Case
from properties.core.declaration import TABLE
from properties.core.implementation import Implementation, Reference
from properties.core.law import Law, all_laws
from properties.engine.counterexample import Counterexample
from properties.engine.crowding import Crowding
from properties.engine.misfits import misfit
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.engine.search import Search
from properties.engine.sharing import Drawn
from properties.engine.spread import CROWDS, crowds, drawn, passes_over, some_frames
from properties.engine.trying import try_stored
from properties.strategies import Setting, block_cases, projection_cases
from properties.strategies.setting import Crowd

CPU = torch.device("cpu")
SETTING = Setting(PAPER, (1, 2, 3, 4, 5, 8), torch.float32)


class Noting(Reference):
    """Notes the shapes that it is called with, and those that its branches return."""

    def __init__(self) -> None:
        super().__init__(PAPER)
        self.shapes: list[tuple[int, ...]] = []

    def project(self, logits: Tensor) -> Tensor:
        self.shapes.append(tuple(logits.shape))
        return super().project(logits)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.shapes.append(tuple(x.shape))
        return super().mappings(x, params)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        self.shapes += [tuple(x.shape), tuple(h_pre.shape)]
        return super().pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        self.shapes += [tuple(one.shape) for one in (x, y, h_post, h_res)]
        return super().post(x, y, h_post, h_res)

    def _noted(self, branch: Branch) -> Branch:
        def called(u: Tensor) -> Tensor:
            y = branch(u)
            self.shapes += [tuple(u.shape), tuple(y.shape)]
            return y

        return called

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return super().block(x, params, self._noted(branch))

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return super().layers(x, params, [self._noted(one) for one in branches])

    def expand(self, h: Tensor, n: int) -> Tensor:
        self.shapes.append(tuple(h.shape))
        return super().expand(h, n)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return super().collapse(x, params)

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        self.shapes.append(tuple(h.shape))
        return super().stack(h, params, [self._noted(one) for one in branches])


def params(n: int, channels: int) -> Params:
    generator = torch.Generator().manual_seed(1)
    size = 2 * n + n * n
    return Params(torch.randn(n * channels, size, generator=generator), torch.zeros(size), torch.ones(3), None)


def calls(target: Implementation, tokens: int) -> list[Tensor]:
    """What every method gives for so many tokens on one axis."""
    x = torch.randn(tokens, 3, 4, generator=torch.Generator().manual_seed(2))
    own, branch = params(3, 4), BranchSpec("scale", torch.ones(4))
    h = target.mappings(x, own)
    return [
        target.project(h.res),
        *h,
        target.pre(x, h.pre),
        target.post(x, x[:, 0], h.post, h.res),
        target.block(x, own, branch),
        target.layers(x, [own, own], [branch, branch]),
        target.expand(x[:, 0], 3),
        target.collapse(x),
        target.stack(x[:, 0], [own], [branch]),
    ]


@pytest.mark.parametrize(
    ("axes", "tokens", "shape"), [(SEQUENCES, 70, (5, 14)), (STEPS, 10, (10, 1)), (PROMPT, 64, (1, 64))]
)
def test_what_has_one_axis_of_tokens_is_handed_over_with_two_and_comes_back_with_one(
    axes: str, tokens: int, shape: tuple[int, int]
) -> None:
    inner = Noting()
    found, plain = calls(arranged(inner, axes), tokens), calls(Reference(PAPER), tokens)
    assert {one[:2] for one in inner.shapes} == {shape}
    for one, other in zip(found, plain, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("tokens", [(), (2, 3), (1, 2, 3)])
def test_what_has_other_axes_of_tokens_is_handed_over_as_it_is(tokens: tuple[int, ...]) -> None:
    inner = Noting()
    x = torch.ones(*tokens, 3, 4)
    assert arranged(inner, SEQUENCES).block(x, params(3, 4), BranchSpec("identity")).shape == x.shape
    assert inner.shapes[0] == x.shape


def test_no_token_stays_on_one_axis() -> None:
    inner = Noting()
    arranged(inner, SEQUENCES).mappings(torch.ones(0, 3, 4), params(3, 4))
    assert inner.shapes[0] == (0, 3, 4)


def test_tokens_are_views_so_that_a_write_reaches_what_was_handed_over() -> None:
    class Writes(Reference):
        def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
            return x.mul_(2)

    x = torch.ones(6, 3, 4)
    out = arranged(Writes(), SEQUENCES).block(x, params(3, 4), BranchSpec("zero"))
    assert float(x.sum()) == 2 * x.numel()
    assert out.data_ptr() == x.data_ptr()


def test_an_answer_that_is_no_tensor_stays_what_it_is() -> None:
    class Odd(Reference):
        def project(self, logits: Tensor) -> Tensor:
            return None  # pyright: ignore[reportReturnType]  # what no annotation allows is the point

        def mappings(self, x: Tensor, params: Params) -> Mappings:
            return [x, None, 3]  # pyright: ignore[reportReturnType]  # as above

    target = arranged(Odd(), SEQUENCES)
    assert target.project(torch.ones(6, 3, 3)) is None
    assert list(target.mappings(torch.ones(6, 3, 4), params(3, 4)))[1:] == [None, 3]


def test_an_answer_has_one_axis_on_a_device_whose_tensors_compute_by_rules_of_their_own() -> None:
    with fake_device():
        logits = torch.zeros(6, 3, 3).to(FAKE)
        assert arranged(Reference(PAPER), SEQUENCES).project(logits).shape == (6, 3, 3)


def test_what_a_call_leaves_switched_off_takes_no_gradient_from_its_answer() -> None:
    class Untidy(Reference):
        def project(self, logits: Tensor) -> Tensor:
            matrix = super().project(logits)
            torch.set_grad_enabled(False)
            return matrix

    with torch.enable_grad():
        logits = torch.ones(6, 3, 3, requires_grad=True)
        found = arranged(Untidy(), SEQUENCES).project(logits)
        assert found.requires_grad
        assert not torch.is_grad_enabled()  # that it does is for a law to say


def test_every_declaration_is_that_of_the_implementation() -> None:
    target = Reference(PAPER)
    assert all(getattr(arranged(target, STEPS), name) == getattr(target, name) for name in TABLE)
    assert arranged(target, STEPS).tuned(iterations=3).dialect.iterations == 3


@pytest.mark.parametrize(
    ("count", "shape"),
    [(1, (1, 1)), (2, (2, 1)), (7, (1, 7)), (10, (2, 5)), (35, (5, 7)), (70, (5, 14)), (300, (5, 60))],
)
def test_sequences_are_many_and_long_where_that_can_be(count: int, shape: tuple[int, int]) -> None:
    assert on_two(count, SEQUENCES) == shape


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_crowd_has_the_sizes_that_it_says_whatever_a_law_draws(data: st.DataObject) -> None:
    frames = crowds(SETTING)
    assert [one.crowd for one in frames] == list(CROWDS)
    assert [one.streams for one in frames] == [(4,), (5,), (4,)]
    assert [one.crowd for one in crowds(SETTING, "oracle")] == list(CROWDS[:2])  # values are swept over full tiles
    for frame, one in zip(frames, CROWDS, strict=True):
        case = data.draw(block_cases(frame, most=2))
        assert case.x.shape == (one.tokens, *frame.streams, one.channels)
        assert case.params.norm_weight is not None
        assert data.draw(projection_cases(frame)).logits.shape[0] == one.tokens


def test_tokens_of_a_crowd_come_again_turned_along_their_channels() -> None:
    few = np.arange(24.0).reshape(2, 3, 4)
    many = SETTING.with_(crowd=Crowd(6)).crowded(few)
    assert many.shape == (6, 3, 4)
    assert len(SETTING.with_(crowd=Crowd(6), max_tokens=5).crowded(few)) == 4  # to be laid on two axes
    assert (many[2] == np.roll(few[0], 1, -1)).all()
    assert (many[4] == np.roll(few[0], 2, -1)).all()
    assert SETTING.crowded(few) is few


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_limit_that_is_declared_holds_in_a_crowd(data: st.DataObject) -> None:
    for frame in crowds(SETTING.with_(max_tokens=6, channel_multiple=64, streams=(2,))):
        case = data.draw(block_cases(frame))
        assert case.x.shape[0] <= 6
        assert case.x.shape[1] == 2
        assert case.x.shape[2] % 64 == 0


def wrong(tokens: int = 0, channels: int = 0, axes: int = 0, n: int = 0) -> Implementation:
    class Made(Reference):
        def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
            out = super().post(x, y, h_post, h_res)
            large = x.shape[:-2].numel() > tokens and x.shape[-1] > channels and x.shape[-2] > n
            return 2 * out if large and (not axes or x.ndim == 2 + axes) else out

    return Made(PAPER)


def searched(target: Implementation, law: str, where: Path, shrink: bool = True) -> Verdict:
    chosen: Law = all_laws()[law]
    chosen = replace(chosen, schedule=replace(chosen.schedule, most=1))
    return examine(
        chosen,
        Subject("made", target, torch.float32, CPU),
        Profile(1, derandomise=True, shrink=shrink),
        directory=where,
    )


LAW = "mixing.post-is-the-declared-combination"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "enough"),
    [
        ({"tokens": 64}, "70 tokens"),
        ({"axes": 2, "tokens": 16}, "35 tokens on two axes"),
    ],
)
def test_what_is_wrong_beyond_a_tile_alone_is_found_and_the_message_says_what_is_enough(
    limits: dict[str, int], enough: str, tmp_path: Path
) -> None:
    found = searched(wrong(**limits), LAW, tmp_path)
    assert found.status == "failed", found.reason
    assert f"and {enough}" in found.message.replace("\n", " ")
    assert "are enough" in found.message


def test_without_a_crowd_it_is_not_found(tmp_path: Path) -> None:
    chosen = all_laws()[LAW]
    alone = replace(chosen, schedule=replace(chosen.schedule, most=1, crowds=False))
    subject = Subject("made", wrong(tokens=64), torch.float32, CPU)
    assert examine(alone, subject, Profile(1, derandomise=True), directory=tmp_path).status == "passed"


def test_a_counterexample_on_two_axes_says_so_and_is_replayed_on_them(tmp_path: Path) -> None:
    target = wrong(axes=2, tokens=16)
    found = searched(target, LAW, tmp_path)
    assert found.counterexample is not None
    case = Counterexample.load(found.counterexample).case
    assert case.axes == SEQUENCES
    assert misfit(case, PAPER, torch.float32) is None
    with pytest.raises(Exception, match="post"):
        try_stored(all_laws()[LAW], Subject("made", target, torch.float32, CPU), case)
    try_stored(all_laws()[LAW], Subject("right", Reference(PAPER), torch.float32, CPU), case)


def test_axes_that_there_are_none_of_are_refused() -> None:
    told = misfit(Case(x=torch.ones(6, 3, 4), axes="round"), PAPER, torch.float32)
    assert told is not None
    assert "expected one of" in told


@pytest.mark.parametrize("crowd", [Crowd(70), Crowd(0, 130), Crowd(70, 9, SEQUENCES), Crowd(6, 0, STEPS)])
def test_a_crowd_says_what_it_is_in_words(crowd: Crowd) -> None:
    assert str(crowd).startswith(("70 tokens", "130 channels", "6 tokens"))
    assert ("on two axes" in str(crowd)) == bool(crowd.axes)


def test_a_crowd_of_layers_says_so() -> None:
    assert str(Crowd(0, 0, layers=5)) == "few tokens and channels in 5 layers, where a law has several"
    assert SETTING.depth(2) == 2
    assert SETTING.with_(crowd=Crowd(0, 0, layers=5)).depth(2) == 5


def test_a_law_whose_examples_are_dear_goes_without_the_simplest_and_others_begin_with_it(tmp_path: Path) -> None:
    few = [one for one in all_laws().values() if passes_over(one)]
    assert {one.schedule.most for one in few} == {2}
    assert not any(one.kind == "oracle" or one.sweep for one in few)
    assert passes_over(all_laws()["execution.layers-outlive-further-calls"])
    subject = Subject("right", Reference(PAPER), torch.float32, CPU)
    profile = Profile(10, derandomise=True, shrink=False)
    law = all_laws()["execution.first-projections-are-like-later-ones"]
    alone = replace(law, schedule=replace(law.schedule, crowds=False))
    assert examine(law, subject, profile, directory=tmp_path).examples == 1 + len(CROWDS)
    assert examine(alone, subject, profile, directory=tmp_path).examples == 2


COINCIDE = "as many tokens, or channels, as streams, which is what it is about"
FLOOD = "a flood of its own, of few tokens that come again and again"
SUMS = "sums of a length of their own"
NO_CROWD = {
    **{f"{family}.sizes-may-coincide": COINCIDE for family in ("manifold", "mixing", "coefficients", "block")},
    "manifold.triangular-closed-form": "one matrix, of which a number is known",
    "execution.different-logits-differ": "two matrices, of which each is known to differ from the other",
    "execution.no-token-is-a-legal-batch": "no token",
    "execution.no-matrix-is-a-legal-batch": "no matrix",
    "execution.the-first-call-of-a-width-decides-nothing": "widths that no call has had",
    "execution.every-matrix-of-a-flood-is-projected": FLOOD,
    "execution.every-token-of-a-flood-has-its-mappings": FLOOD,
    "execution.every-token-of-a-flood-is-read-and-mixed": FLOOD,
    "depth.stacks-take-any-batch": FLOOD,
    "device.every-token-of-a-flood-is-computed": FLOOD,
    "device.launches-repeat-bit-for-bit": FLOOD,
    "device.batches-do-not-change-bits": FLOOD,
    "device.every-output-is-written": "numbers of tokens on either side of tiles, which it names",
    "device.distant-tokens-are-read-where-they-lie": "tokens as far apart as a device has room",
    "device.traced-blocks-pull-back-alike": "traced, which takes a second at any size",
    "precision.norm-and-projection-keep-the-compute-precision": "so few products that a rounding shows among them",
    "precision.sums-over-channels-keep-the-compute-precision": SUMS,
    "precision.sums-over-channels-keep-the-compute-precision-in-a-block": SUMS,
    "precision.sums-over-tokens-keep-the-compute-precision": SUMS,
    "precision.sums-over-tokens-keep-the-compute-precision-in-a-block": SUMS,
    "precision.gradients-sum-over-channels-in-the-compute-precision": SUMS,
}
"""Laws whose sizes in a crowd are their own, and why."""
SHALLOW = {
    "depth.tuned-fields-are-used": "fields of a dialect, which are those of every layer",
    "gradient.poison-passes-layers": "the same parameters for each of its layers, whose number it has",
}
"""Laws about layers that have fewer of them in a crowd of layers, and why."""


CROWDED = [one for one in all_laws().values() if one.sweep is None and one.schedule.crowds]


def in_a_crowd(law: Law, frame: Setting) -> Case:
    """A case of the law in the crowd of a frame, not its simplest."""
    found: list[Case] = []

    @settings(
        max_examples=2,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        # a crowd is large by intent
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )
    @given(drawn(law, frame))
    def one(case: Case) -> None:
        found.append(case)

    one()
    return found[-1]


@pytest.mark.slow
@pytest.mark.parametrize("law", CROWDED, ids=lambda law: law.id)
def test_what_a_law_draws_in_a_crowd_is_a_crowd(law: Law) -> None:
    subject = Subject("right", Reference(PAPER), torch.float32, CPU)
    for frame in crowds(subject.setting(law), law.kind):
        crowd = frame.crowd
        assert crowd is not None
        case = in_a_crowd(law, frame)
        assert case.axes == crowd.axes
        names = [name for name in ("x", "h", "logits", "matrix") if name in case]
        state = getattr(case, names[0]) if names else torch.zeros(0, 0)
        wide = state.shape[-1] == crowd.channels or names[:1] in (["logits"], ["matrix"])
        assert (state.shape[0] == crowd.tokens and wide) == (law.id not in NO_CROWD), law.id
        if crowd.layers and {"layers", "stack"} & {*law.needs} and law.id not in SHALLOW:
            several = case.params if "params" in case else case.orders
            assert len(several) >= crowd.layers, law.id


def test_laws_whose_crowds_are_none_are_laws_and_few() -> None:
    assert {*NO_CROWD, *SHALLOW} <= {*all_laws()}
    assert len(NO_CROWD) < len(all_laws()) / 8


@pytest.mark.parametrize("examples", [1, 4, 24])
def test_a_law_that_goes_without_its_simplest_example_tries_another_one_at_least(examples: int, tmp_path: Path) -> None:
    law = next(one for one in all_laws().values() if passes_over(one) and one.needs == ("project",))
    chosen = replace(law, schedule=replace(law.schedule, crowds=True))
    subject = Subject("right", Reference(PAPER), torch.float32, CPU)
    search = Search(chosen, subject, Profile(examples, derandomise=True), tmp_path / "found.safetensors")
    assert search.verdict().examples


class Noted(Crowding):
    """Notes in which crowds it would try a law, and tries nothing."""

    def __init__(self, law: Law, profile: Profile) -> None:
        subject = Subject("target", Reference(PAPER), torch.float32, CPU)
        super().__init__(law, subject, profile, Path("found.safetensors"))
        self.tried: list[Crowd | None] = []

    def _among(
        self, frame: Setting, examples: int, index: int, skip: bool = False, shared: Sequence[Drawn] = ()
    ) -> None:
        if frame.crowd is not None:
            self.tried.append(frame.crowd)


@pytest.mark.parametrize(("most", "counts"), [(1, {1}), (0.5, {0, 1})])
def test_a_quick_run_tries_each_law_in_one_crowd_or_every_second_one_and_all_of_them_come_up(
    most: float, counts: set[int]
) -> None:
    laws = [one for one in all_laws().values() if one.schedule.crowds and one.sweep is None and one.kind == "identity"]
    searches = [Noted(law, Profile(1, derandomise=True, crowds=most)) for law in laws]
    for search in searches:
        search._everywhere()
    tried = [len(search.tried) for search in searches]
    assert set(tried) == counts
    assert most - 0.1 < sum(tried) / len(tried) <= most + 0.1
    assert {one for search in searches for one in search.tried} == set(CROWDS)
    every = Noted(laws[0], Profile(1, derandomise=True))
    every._everywhere()
    assert len(every.tried) == len(CROWDS)


def test_a_quick_run_of_the_references_tries_each_law_with_few_numbers_of_streams_and_all_of_them_come_up() -> None:
    setting = Subject("target", Reference(PAPER), torch.float32, CPU).setting(next(iter(all_laws().values())))
    laws = [one for one in all_laws().values() if one.schedule.by_streams and not one.schedule.most and not one.sweep]
    every = [some_frames(law, setting, Profile(8)) for law in laws]
    some = [some_frames(law, setting, Profile(8, alone=2)) for law in laws]
    assert {len(one) for one in every} == {1 + len(setting.streams)}
    assert {len(one) for one in some} == {3}
    for few, all_of_them in zip(some, every, strict=True):
        assert few[0] == all_of_them[0]  # that over every number of streams, which is index 0
        assert all(one in all_of_them for one in few)  # with the numbers, and so the seeds, that they always have
    assert {frame.streams for one in some for _, (frame, _) in one} == {
        setting.streams,
        *((n,) for n in setting.streams),
    }
