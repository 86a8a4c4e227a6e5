"""Slips in a declaration that nobody can refuse, as what they name may be meant: they are told."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from torch import Tensor

from mhc_ref import LIGER, PAPER
from properties.core.declaration import DeclarationError
from properties.core.doubts import doubts, misspelt, silent
from properties.core.implementation import Implementation, Projection, Reference
from properties.core.settling import settle
from properties.report.report import Line, lines_of, made
from properties.report.summary import declared
from properties.targets.isolation import isolated
from properties.targets.published import ADAPTERS
from properties.targets.target import attribute_of

pytest_plugins = ("pytester",)


class Mine(Implementation):
    dialect = PAPER

    def project(self, logits: Tensor) -> Tensor:
        return logits


class Misspelt(Mine):
    stream = (2,)
    max_token = 3
    chanels = (4,)

    def porst(self, x: Tensor) -> Tensor:
        return x

    def blcok(self, x: Tensor) -> Tensor:
        return x


def test_names_that_are_almost_ours_are_told_with_what_was_meant() -> None:
    assert doubts(Misspelt()) == (
        "nothing reads stream, max_token, chanels, porst, blcok; did you mean streams, max_tokens, channels, post, "
        "block?",
    )


READ = """
from functools import cached_property

from torch import nn
from properties import Implementation

class Mine(Implementation):
    def project(self, logits):
        return logits

class Reads(Mine):
    channel = 4
    stream = None
    emit = ()

    def layer(self, x):
        return x * self.channel

    @cached_property
    def wide(self):
        return [self.layer(one) for one in self.stream if getattr(self, "emit")]

class Both(Mine, nn.Module):
    _stream = (2,)
    train = None
    version = 3
    weights = ()
    pres = ()
    scale = 2.0
    token_count_of_models = (1,)
"""


@pytest.mark.parametrize("name", ["Mine", "Reads", "Both"])
def test_names_that_are_read_or_far_from_ours_or_of_other_classes_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reads.py").write_text(READ)
    assert misspelt(attribute_of(f"reads.py:{name}")) == {}


def test_nothing_in_the_adapters_of_this_package_looks_like_a_slip() -> None:
    for module in {module for module, _ in ADAPTERS.values()} - {"triton"}:
        try:
            found = vars(importlib.import_module(f"properties.targets.published.{module}"))
        except ImportError:
            continue
        kinds = [one for one in found.values() if isinstance(one, type) and issubclass(one, Implementation)]
        assert [one for one in (*kinds, Reference, Projection) if misspelt(one)] == []


def test_where_nothing_is_offered_the_name_that_was_meant_is_told() -> None:
    class Nothing(Implementation):
        def proejct(self, logits: Tensor) -> Tensor:
            return logits

    with pytest.raises(DeclarationError, match="nothing to verify; proejct is none of them, did you mean project"):
        settle(Nothing())


class Silent(Implementation):
    def project(self, logits: Tensor) -> Tensor:
        return logits


class Declares(Silent):
    dialect = LIGER


def test_a_dialect_that_nobody_declared_is_told() -> None:
    told = "judged against PAPER, the default, as no `dialect` is declared"
    assert doubts(Silent()) == (told,)
    assert doubts(Declares()) == doubts(Reference()) == doubts(Projection(lambda logits: logits, PAPER, "f")) == ()
    instance = Silent()
    instance.dialect = LIGER
    assert doubts(instance) == ()


def line(name: str, *said: str) -> Line:
    return Line(name, {}, "float32", "cpu", "block.x", "passed", doubts=said)


def test_what_many_targets_have_in_common_is_told_in_one_line() -> None:
    lines = [line(f"Mine{k}", "judged against PAPER") for k in range(20)] + [line("Other", "nothing reads stream")]
    assert declared(lines * 3) == [
        "Mine0, Mine1, Mine2 and 17 more: judged against PAPER",
        "Other: nothing reads stream",
    ]


def test_a_report_holds_them_and_gives_them_back() -> None:
    report = made([line("Mine", "nothing reads stream")], 1, {})
    assert report["runs"][0]["doubts"] == ["nothing reads stream"]
    assert [one.doubts for one in lines_of(report)] == [("nothing reads stream",)]


FILE = """
import mhc_ref
from properties import Implementation

class Silent(Implementation):
    stream = (2,)
    def project(self, logits):
        return mhc_ref.project(logits, mhc_ref.PAPER)
"""


def test_a_worker_tells_them_of_the_target_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    found = isolated("mine.py:Silent")
    assert [one.partition(" ")[0] for one in doubts(found)] == ["nothing", "judged"]
    assert silent(found)


@pytest.mark.slow
def test_a_run_tells_them_and_ends_as_it_would(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(mine=FILE)
    done = pytester.runpytest_subprocess(
        *("--impl=mine.py:Silent", "--law=manifold.last-axis-sums", "--dtype=float32", "-p", "no:cacheprovider"),
        *("--pyargs", "properties"),
    )
    assert done.ret == 0
    done.stdout.fnmatch_lines(
        ["Silent: nothing reads stream; did you mean streams[?]", "Silent: judged against PAPER*"]
    )
