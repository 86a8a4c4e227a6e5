"""Text of strangers reaches a terminal without the power to steer it, whatever it is made of and whoever holds it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.guards.faults import Lost, TargetFault
from properties.guards.printable import message_of, name_of, printable, shown


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_nothing_is_left_that_a_terminal_would_obey(text: str) -> None:
    found = printable(text, most=10**6)
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    assert not [one for one in found if one not in "\n\t" and unicodedata.category(one) in hidden]
    found.encode()


@settings(deadline=None)
@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_what_can_be_shown_stays_as_it_is(text: str) -> None:
    assert printable(text, most=10**6) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),  # one character that means escape and bracket
        ("over\rwritten\b\x7f", r"over\x0dwritten\x08\x7f"),
        ("safe\u202etxt.exe\u2066", r"safe\u202etxt.exe\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("two\u2028lines\u2029", r"two\u2028lines\u2029"),
        ("\ud800\udfff", r"\ud800\udfff"),
        ("\ue000\U000f0000\U000e0001", r"\ue000\U000f0000\U000e0001"),
        ("two\n\tlines, 模型 é ∑", "two\n\tlines, 模型 é ∑"),
        ("", ""),
    ],
)
def test_controls_directions_and_halves_of_characters_are_escapes(text: str, found: str) -> None:
    assert printable(text) == found


def test_both_ends_of_a_long_text_are_kept_and_the_rest_is_counted() -> None:
    found = printable("a" * 600 + "m" * 10**6 + "z" * 600, most=1000)
    assert found == "a" * 500 + " ... (1000200 characters more) ... " + "z" * 500
    assert printable("m" * 1000, most=1000) == "m" * 1000
    assert len(printable("\x1b" * 10**6, most=100)) < 600


def test_what_is_cut_twice_is_counted_from_what_there_was_at_first() -> None:
    """A worker cuts a message that the process which asked it cuts again for one line."""
    text = "a" * 600 + "m" * 10**6 + "z" * 600
    assert printable(printable(text, most=1000), most=400) == printable(text, most=400)
    assert printable(printable(printable(text), most=1000), most=400) == printable(text, most=400)


class Raising(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


class Lying(str):
    """A string that says something else of itself than what it holds."""

    def __len__(self) -> int:
        return 0

    def __iter__(self):
        raise RuntimeError


class Odd(Exception):
    def __str__(self) -> str:
        return Lying("\x1b[2J")


class NoText(Exception):
    def __str__(self) -> str:
        return 3  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ValueError("\x1b[31mred"), r"\x1b[31mred"),
        (Raising(ValueError("x")), "(its message cannot be read: __str__ raised ValueError)"),
        (Raising(SystemExit(0)), "(its message cannot be read: __str__ raised SystemExit)"),
        (Raising(GeneratorExit()), "(its message cannot be read: __str__ raised GeneratorExit)"),
        (Raising(RecursionError()), "(its message cannot be read: __str__ raised RecursionError)"),
        (NoText(), "(its message cannot be read: __str__ raised TypeError)"),
        (Odd(), r"\x1b[2J"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), r"surrogates"),
        (OSError(2, "No such file", "\x1b[2J"), r"No such file: '\x1b[2J'"),
        (KeyError("\x1b"), r"'\x1b'"),
        (ValueError(), ""),
    ],
)
def test_the_message_of_an_exception_can_always_be_shown(error: BaseException, found: str) -> None:
    assert message_of(error).endswith(found)
    assert "\x1b" not in message_of(error)


def test_an_interrupt_while_a_message_is_read_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        message_of(Raising(KeyboardInterrupt()))


def test_a_group_of_exceptions_tells_the_first_few() -> None:
    group = ExceptionGroup("many", [ValueError(f"\x1b{k}") for k in range(5)])
    told = r"many (5 sub-exceptions): ValueError: \x1b0; ValueError: \x1b1; ValueError: \x1b2; and 2 more"
    assert message_of(group) == told


def test_the_name_of_a_class_can_always_be_shown() -> None:
    class Meta(type):
        @property
        def __name__(cls) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
            raise RuntimeError

    assert name_of(Meta("Own", (Exception,), {})()) == "Own"
    assert name_of(type("\x1b[31mRed", (Exception,), {})()) == r"\x1b[31mRed"


def test_the_repr_of_a_value_can_always_be_shown() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown(Silent()) == "<Silent, whose __repr__ raised RuntimeError>"
    assert shown(["\x1b"]) == r"['\x1b']"
    assert shown("x" * 1000, most=20) == "'xxxxxxxxx ... (982 characters more) ... xxxxxxxxx'"


def test_a_message_of_many_lines_is_one_line_where_it_is_part_of_a_sentence() -> None:
    fault = TargetFault(ValueError("a\n" * 2000 + "\x1b[31mred"))
    assert str(fault).startswith("ValueError: a a a a")
    assert str(fault).endswith(" a a \\x1b[31mred")
    assert "\n" not in str(fault)
    assert len(str(fault)) < 700
    assert str(TargetFault(ValueError("two\n  lines"))) == "ValueError: two lines"
    assert TargetFault(ValueError("two\n  lines")).message == "two\n  lines"


def test_the_last_words_of_a_process_stay_as_they_are() -> None:
    assert str(TargetFault(Lost("it died; it said:\n  one\n  two"))) == "Lost: it died; it said:\n  one\n  two"
