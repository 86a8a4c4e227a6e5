"""The rule of the sizes at which something fails, from what sweeps saw and a few calls more."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from properties.core.size import Size
from properties.diagnosis.candidates import consistent
from properties.diagnosis.rules import Between, Mode, Residue, Rule
from properties.diagnosis.sizes import infer
from properties.strategies.covering import covering

Truth = Callable[[Size], bool]


def sweeps() -> Iterator[Size]:
    """What the sweeps of the laws visit, nearly: each number by itself, and some of them together."""
    for gradients, most in ((False, 8192), (True, 1100)):
        yield from (Size(tokens, 4, 4, gradients=gradients) for tokens in covering(most, 3))
        yield from (Size(2, channels, 4, gradients=gradients) for channels in covering(most, 3))
        yield from (Size(2, 4, 4, layers, gradients) for layers in range(1, 65))
        yield from (Size(tokens, channels, n) for tokens, channels in ((2, 4), (5, 64)) for n in range(1, 9))
        for tokens, channels in itertools.product((1, 3, 17, 64, 130), (1, 7, 8, 33, 64, 128, 256)):
            if tokens * channels <= 4096:
                yield from (Size(tokens, channels, n, gradients=gradients) for n in (3, 4))
    yield from (Size(2, channels, 4) for channels in range(512, 8193, 128))
    yield from (Size(tokens, channels, 4, contiguous=False) for tokens in (1, 5, 64) for channels in (8, 33))


SWEPT = tuple(dict.fromkeys(sweeps()))


def inferred(truth: Truth) -> tuple[Rule | None, dict[Size, bool]]:
    """The rule, and the calls that it took."""
    seen = {size: truth(size) for size in SWEPT}
    asked: dict[Size, bool] = {}

    def fails(size: Size) -> bool:
        assert size not in {**seen, **asked}, "asked twice"
        asked[size] = truth(size)
        return asked[size]

    return infer(seen, fails), asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("36 <= T <= 64", lambda s: 36 <= s.tokens <= 64),
        ("256 <= T <= 512", lambda s: 256 <= s.tokens <= 512),
        ("T <= 16 and K >= 256", lambda s: s.tokens <= 16 and s.inner >= 256),
        ("C >= 4097", lambda s: s.channels > 4096),
        ("K >= 8193", lambda s: s.inner > 8192),
        ("L >= 9", lambda s: s.layers > 8),
        ("L >= 5 with gradients", lambda s: s.layers > 4 and s.gradients),
        ("C % 8 == 0", lambda s: s.channels % 8 == 0),
        ("T % 64 == 0", lambda s: s.tokens % 64 == 0),
        (
            "T >= 257 and T % 256 != 0 without gradients",
            lambda s: s.tokens > 256 and s.tokens % 256 and not s.gradients,
        ),
        ("C % 8 == 0 and n >= 3", lambda s: s.channels % 8 == 0 and s.streams >= 3),
        ("T >= 40 and C % 8 == 0 and n >= 3", lambda s: s.tokens >= 40 and s.channels % 8 == 0 and s.streams >= 3),
        ("n == 6", lambda s: s.streams == 6),
        ("for strided states", lambda s: not s.contiguous),
        ("T <= 16 or T >= 1000", lambda s: s.tokens <= 16 or s.tokens >= 1000),
    ],
)
def test_the_rule_is_said_in_the_words_of_who_wrote_the_kernel(text: str, truth: Truth) -> None:
    rule, asked = inferred(lambda size: bool(truth(size)))
    assert rule is not None
    assert rule.text == text
    assert len(asked) <= 150


def test_nothing_is_said_where_everything_fails_or_nothing_does() -> None:
    for always in (True, False):
        assert infer(dict.fromkeys(SWEPT, always), lambda size: pytest.fail("no call is needed")) is None


def test_nothing_is_said_of_failures_without_a_rule() -> None:
    rule, _ = inferred(lambda size: hash((size.tokens, size.channels, size.layers)) % 3 == 0)
    assert rule is None


def test_an_upper_end_that_was_not_met_is_told_by_how_far_it_was_tried() -> None:
    rule, _ = inferred(lambda size: size.channels > 4096)
    assert rule
    assert rule.reach == "tried to C = 8192"
    rule, _ = inferred(lambda size: 36 <= size.tokens <= 64)
    assert rule
    assert not rule.reach


def test_sizes_that_cannot_be_tried_end_the_questions_and_not_the_rule() -> None:
    """Nothing but T can be changed, and then nothing at all."""
    seen = {size: size.tokens >= 100 for size in SWEPT}

    def fails(size: Size) -> bool | None:
        return None if size.channels != 4 or size.streams != 4 or size.layers > 1 else size.tokens >= 100

    rule = infer(seen, fails)
    assert rule
    assert rule.text == "T >= 100"
    rule = infer(seen, lambda size: None)
    assert rule
    assert all(rule.holds(size) == failed for size, failed in seen.items())


def test_a_rule_is_simplest_first() -> None:
    seen = {Size(tokens, 8, 4): tokens % 8 == 0 for tokens in range(1, 40)}
    assert consistent(seen)[0] == Rule((Residue("T", 8, 0),))
    assert Rule((Between("T", 3, 3),)).text == "T == 3"
    assert Rule((Between("T", None, 3), Mode("gradients", True))).text == "T <= 3 with gradients"
