"""Of several counterexamples of one cause the one is shown that is seen at a glance."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import Case
from properties.core.judging import LawBroken
from properties.engine.readable import example, readable


def broken(got: str = "2", exact: str = "1", **more: str) -> LawBroken:
    return LawBroken("a carried stream", ratio=9.0, got=got, exact=exact, where="[0, 2, 0]", **more)  # pyright: ignore[reportArgumentType]


def small(*entries: float) -> Case:
    return Case(x=torch.tensor([[[one] for one in entries]], dtype=torch.float64))


def test_two_where_one_belongs_comes_before_numbers_that_differ_in_the_eighth_place() -> None:
    plain, fine = broken(), broken("1.17328817109", "1.17328821754")
    assert readable(small(1, 2, 3), plain) < readable(small(1, 2, 3), fine)
    assert readable(small(1, 2, 3, 4, 5), plain) < readable(small(1), fine)


def test_numbers_that_print_alike_come_last() -> None:
    assert readable(small(1), broken("1.5", "1.49")) < readable(small(1), broken("1.5", "1.5"))


def test_fewer_entries_and_rounder_ones_come_first() -> None:
    def zeros(count: int) -> Tensor:
        return torch.zeros(1, count, 1)

    order = [
        readable(Case(x=zeros(3)), broken()),
        readable(Case(x=zeros(20)), broken()),
        readable(small(1, 2, 3), broken()),
        readable(small(1.5, 2.25, 3.125), broken()),
        readable(small(0.123456789, 2.25, 3.125), broken()),
    ]
    assert order == sorted(order)
    assert len(set(order)) == len(order)


def test_an_output_that_is_no_number_is_seen_at_once() -> None:
    assert readable(small(1), broken("nan", "1")) <= readable(small(1), broken("2", "1"))


def test_entries_of_every_value_count() -> None:
    params = Params(torch.zeros(2, 2), torch.zeros(2), torch.zeros(3))
    full = Params(torch.ones(2, 2), torch.zeros(2), torch.zeros(3))
    assert readable(Case(params=params), broken()) < readable(Case(params=full), broken())


def test_it_is_told_in_few_lines_what_came_and_what_belongs_there() -> None:
    assert example(small(1, 2, 3), broken()) == (
        "a carried stream at [0, 2, 0]: 2 where 1 belongs",
        "x = [[[1], [2], [3]]]",
    )
    assert example(small(1), broken(against="limit"))[0].endswith(": 2, and at most 1 is allowed")
    assert example(small(1), broken("3", "the same", against="wanted"))[0].endswith(": 3; expected the same")
    assert example(small(1), broken("", "")) == ("a carried stream at [0, 2, 0]", "x = [[[1]]]")


def test_no_example_is_longer_or_wider_than_a_paragraph() -> None:
    chance = torch.Generator().manual_seed(1)
    many = Case(**{f"value{number}": torch.rand(3, 4, generator=chance) for number in range(9)})
    told = list(example(many, LawBroken("project raised an error " * 40, ratio=1.0)))
    assert len(told) <= 10
    assert all(len(one) <= 74 for one in told)
    assert told[-1].startswith("... and ")
