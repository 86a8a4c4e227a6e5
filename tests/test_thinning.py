"""Of cases of one kind some are tried, the same in every run, and the others wait with the thorough tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import conftest
import pytest


@dataclass
class Case:
    """As much of a test as is asked of it."""

    nodeid: str
    count: int = 0
    added: list[str] = field(default_factory=lambda: [])

    def get_closest_marker(self, name: str) -> Any:
        return pytest.mark.one_in(self.count).mark if name == "one_in" and self.count else None

    def add_marker(self, name: str) -> None:
        self.added.append(name)


def thinned(count: int, many: int) -> list[bool]:
    """Of so many cases which wait."""
    cases: Any = [Case(f"test_some.py::test_of_one_kind[{k}]", count) for k in range(many)]
    conftest._thin_out(cases)  # pyright: ignore[reportPrivateUsage]
    return [one.added == ["thorough"] for one in cases]


def test_of_cases_of_one_kind_about_one_in_so_many_is_tried_and_the_first_always() -> None:
    waits = thinned(4, 400)
    assert not waits[0]
    assert 260 < sum(waits) < 340
    assert waits == thinned(4, 400)
    assert waits[:100] == thinned(4, 100), "what is added beside them changes nothing"


def test_what_is_not_marked_is_tried() -> None:
    assert not any(thinned(0, 50))


def test_of_a_test_of_many_cases_a_quick_run_tries_the_first_and_one_in_six_of_the_others() -> None:
    cases: Any = [Case(f"test_some.py::test_of_many[{k}]") for k in range(300)]
    left = set(map(id, conftest._of_many(cases)))  # pyright: ignore[reportPrivateUsage]
    assert not any(id(one) in left for one in cases[: conftest.MANY])
    assert 220 < len(left) < 275
