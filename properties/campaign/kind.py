"""What a kind of cells is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record


class DeviceLostError(RuntimeError):
    """The device does not answer in this process any more: its cells are asked again, in another one."""


class UnsavedError(RuntimeError):
    """A file of an answer could not be written where the worker has it: the question is answered again elsewhere."""


def _nothing(question: Question, answer: dict[str, Any], asked: Sequence[Question]) -> list[Question]:
    return []


def _none(question: Question) -> bool:
    return False


def _ours(question: Question) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Kind:
    """One kind of cells.

    Attributes:
        options: the options of `campaign run` that `questions` takes.
        questions: what is asked, with options that were given. ValueError: one of them is out of its range.
        answer: the answer to a question, in the words of JSON; counterexamples and reports go to the folder as soon as
            they are found. Equal questions have equal answers. UnsavedError, or an OSError of a full disk: there is no
            room in that folder.
        told: what all answers come to, in lines, with whatever pages belong to them written into the campaign's folder;
            and whether something is wrong.
        cost: seconds that a cell takes if nothing is known of it yet.
        packages: what the target of a question runs, by the names on PyPI; another version is another question.
        follow: what an answer gives reason to ask besides, by the question, its answer, and the questions of this kind
            that the manifest has: of the same three the same.
        urgent: whether a question goes before all others.
    """

    options: frozenset[str]
    questions: Callable[..., Iterator[Question]]
    answer: Callable[[Question, Path], dict[str, Any]]
    told: Callable[[Sequence[Record], Path], tuple[str, bool]]
    cost: Callable[[Question], float]
    packages: Callable[[Question], tuple[str, ...]] = _ours
    follow: Callable[[Question, dict[str, Any], Sequence[Question]], list[Question]] = _nothing
    urgent: Callable[[Question], bool] = _none

    @property
    def followed(self) -> bool:
        """Whether answers give reason to ask more."""
        return self.follow is not _nothing
