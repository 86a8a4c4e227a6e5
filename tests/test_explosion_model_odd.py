"""Models that are odd: they write into what they are given, run a block twice, or cannot be differentiated."""

import pytest
import torch
from torch import Tensor, nn

from properties.explosion import find_minimal
from properties.explosion.models.building import Recipe
from properties.explosion.models.gains import Meter
from properties.explosion.models.inputs import Kind
from properties.explosion.models.running import runner_of
from properties.targets.target import TargetError

MODELS = """
import torch
from torch import nn


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x + 5 * self.inner(x)


class Writes(Adds):
    def forward(self, x):
        x += 5 * self.inner(x)
        return x


class Cuts(Adds):
    def forward(self, x):
        return x.detach() + 5 * self.inner(x.detach())


def adds():
    return nn.Sequential(Adds(), Adds(), Adds())


def writes():
    return nn.Sequential(Writes(), Writes(), Writes())


def cuts():
    return nn.Sequential(Cuts(), Cuts())


def lazy():
    return nn.Sequential(nn.LazyLinear(6), Adds())


def unreal():
    model = adds()
    model[0].inner.weight = nn.Parameter(torch.ones(6, 6, dtype=torch.complex64))
    return model
"""


@pytest.fixture
def models(tmp_path) -> str:
    path = tmp_path / "odd.py"
    path.write_text(MODELS)
    return str(path)


def test_blocks_that_write_into_their_input_are_answered_as_those_that_do_not(models):
    adds, writes = (find_minimal(f"model:{models}:{name}", threshold=20).configuration for name in ("adds", "writes"))
    assert writes.kept == adds.kept
    assert writes.input.tolist() == adds.input.tolist()
    assert writes.gain == pytest.approx(adds.gain, rel=1e-9)
    assert writes.states == pytest.approx(adds.states, rel=1e-9)


class Scales(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.eye(4, dtype=torch.float64) * (by - 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + x @ self.by


class Palindrome(nn.Module):
    """a c a: the block that runs first runs last as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = Scales(6.0), Scales(0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.c(self.a(x)))


def test_a_block_that_runs_twice_counts_with_both_of_its_calls():
    runner = runner_of(Palindrome(), "palindrome", Kind(0, (4,), 1.0), 1, "")
    assert [one.name for one in runner.blocks] == ["a", "c"]
    x = torch.ones(1, 1, 4, dtype=torch.float64)
    # 6 behind the first call, 0.36 behind the last.
    assert Meter(runner, "activation", "float64")(x, runner.every).item() == pytest.approx(6)
    assert Meter(runner, "gradient", "float64")(x, runner.every).item() == pytest.approx(0.36, rel=1e-6)
    assert Meter(runner, "gradient", "float64")(x, frozenset({0})).item() == pytest.approx(36, rel=1e-6)


def test_a_model_that_cannot_be_differentiated_is_refused_in_a_sentence(models):
    with pytest.raises(TargetError, match="the gradient by its input could not be taken"):
        find_minimal(f"model:{models}:cuts", threshold=20, gain="gradient")


@pytest.mark.parametrize(("model", "message"), [("lazy", "weights without a shape"), ("unreal", "complex weights")])
def test_weights_that_cannot_be_had_in_float64_are_refused(models, model, message):
    with pytest.raises(TargetError, match=message):
        Recipe(f"{models}:{model}", 0).build("float64")


CALLED = """
import torch
from torch import nn


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def added(self, x):
        return x + 5 * self.inner(x)


class Masked(Adds):
    def forward(self, mask, x):
        return self.added(x) + 0 * mask.sum()


class Like(Adds):  # a mask of the shape of the state
    def forward(self, mask, x):
        return self.added(x) + 0 * mask


class Named(Adds):
    def forward(self, *, mask, x):
        return self.added(x) + 0 * mask.sum()


class Stack(nn.Module):
    def __init__(self, kind, call):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(kind() for _ in range(3))
        self.call = call

    def forward(self, x):
        for one in self.blocks:
            x = self.call(one, x)
        return x


class First(Adds):
    def forward(self, x):
        return self.added(x)


class One(Stack):
    def forward(self, x):
        if len(x) != 1:
            raise ValueError(f"expected a batch of 1, got {len(x)}")
        return super().forward(x)


def mask(x):
    return torch.zeros(x.shape[-2], x.shape[-2])


def plain():
    return Stack(First, lambda one, x: one(x))


def masked():
    return Stack(Masked, lambda one, x: one(mask(x), x))


def like():
    return Stack(Like, lambda one, x: one(torch.zeros_like(x), x))


def named():
    return Stack(Named, lambda one, x: one(mask=mask(x), x=x))


def single():
    return One(First, lambda one, x: one(x))


def seeded(width=6, seed=3, /):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, width))
"""


@pytest.fixture
def called(tmp_path) -> str:
    path = tmp_path / "called.py"
    path.write_text(CALLED)
    return str(path)


@pytest.mark.parametrize("name", ["masked", "like", "named", "single"])
@pytest.mark.parametrize("patterns", ["", "blocks.*"])
def test_a_block_is_the_same_however_its_stream_is_handed_to_it(called, name, patterns):
    def runner(name: str):
        model = Recipe(f"{called}:{name}", 0).build("float64")
        return runner_of(model, name, Kind(0, (6,), 1.0), 4, patterns)

    known, found = runner("plain"), runner(name)
    assert [one.name for one in found.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    x = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kept in (found.every, frozenset({1})):
        expected, got = known.passed(x, kept), found.passed(x, kept)
        assert torch.equal(got.entered.view_as(x), expected.entered)
        for mine, theirs in zip(got.states, expected.states, strict=True):
            torch.testing.assert_close(mine.view_as(x), theirs.view_as(x), rtol=1e-12, atol=1e-12)


def test_a_model_that_takes_a_batch_of_one_only_is_searched_one_by_one(called):
    known, found = (find_minimal(f"model:{called}:{name}", threshold=20, max_tokens=1) for name in ("plain", "single"))
    assert (found.found, found.configuration.kept) == (True, known.configuration.kept)
    assert found.configuration.gain == pytest.approx(known.configuration.gain, rel=0.2)


def test_a_seed_that_is_given_by_place_only_is_given(called):
    def weights(seed: int) -> Tensor:
        return next(Recipe(f"{called}:seeded", seed).build().parameters())

    torch.manual_seed(7)
    assert torch.equal(weights(7), nn.Linear(6, 6).weight)
    assert not torch.equal(weights(7), weights(8))
