"""What a law is made of: an id of its own, premises that are asked in order, and a module that is found by content."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Generator
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from mhc_ref import PAPER, RESIDUAL
from properties import laws
from properties.core import premises
from properties.core.case import Case
from properties.core.implementation import Implementation, Reference
from properties.core.law import FAMILIES, Law, all_laws, family_laws, law, scouts
from properties.core.trial import Trial
from properties.guards.faults import HarnessError
from properties.laws.premises import depends_on_logits, takes_streams

CPU = torch.device("cpu")


def stated(id: str, *given: Any, needs: tuple[str, ...] = ("block",), on: Any = premises.ANYWHERE) -> Law:
    @law(id, "contract", lambda setting: st.nothing(), *given, needs=needs, on=on)
    def nothing(trial: Trial, case: Case) -> None:
        """Nothing is asked.

        For tests of what a law is.
        """

    return nothing


@pytest.fixture
def written_elsewhere(monkeypatch: pytest.MonkeyPatch) -> Generator[ModuleType]:
    """One more module of laws, whose name says nothing."""
    module = ModuleType("properties.laws.elsewhere")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(laws, "MODULES", ("elsewhere", *laws.MODULES))
    monkeypatch.setitem(stated.__globals__, "__name__", module.__name__)
    looked_up = (all_laws, family_laws, scouts)
    for one in looked_up:
        one.cache_clear()
    yield module
    for one in looked_up:
        one.cache_clear()


def test_an_id_says_the_family_and_a_family_is_one_that_is_known() -> None:
    assert {one.partition(".")[0] for one in all_laws()} == set(FAMILIES)
    assert all(one.id == id for id, one in all_laws().items())
    with pytest.raises(TypeError, match=r"law nowhere\.nothing: an id begins with one of manifold, "):
        stated("nowhere.nothing")


def test_every_module_that_states_a_law_is_read() -> None:
    for found in pkgutil.iter_modules(laws.__path__):
        module = importlib.import_module(f"properties.laws.{found.name}")
        several = [one if isinstance(one, tuple) else (one,) for one in vars(module).values()]
        own = {one.id for few in several for one in few if isinstance(one, Law) and one.module == module.__name__}
        assert own <= set(all_laws())
        assert bool(own) == (found.name in laws.MODULES), found.name


def test_a_law_is_found_wherever_it_is_written_under_the_family_of_its_id(written_elsewhere: ModuleType) -> None:
    vars(written_elsewhere)["TABLE"] = (stated("precision.nothing"), stated("mixing.nothing"))
    assert family_laws("mixing")[0].id == "mixing.nothing"
    assert family_laws("precision")[0].id == "precision.nothing"
    assert list(all_laws()).index("mixing.nothing") > list(all_laws()).index("manifold.odds-ratios")


def test_an_id_belongs_to_one_law(written_elsewhere: ModuleType) -> None:
    vars(written_elsewhere)["again"] = stated("manifold.odds-ratios")
    with pytest.raises(
        HarnessError, match=r"two laws are called manifold\.odds-ratios, in properties\.laws\.elsewhere"
    ):
        all_laws()


def test_premises_are_asked_in_order_and_the_first_reason_is_given() -> None:
    named = stated(
        "manifold.nothing",
        premises.emits_res,
        premises.where(depends_on_logits),
        premises.differentiable,
        premises.strided,
        premises.several_streams,
        takes_streams(5),
        needs=("project",),
        on=premises.OnDevice("graphs", in_process=True),
    )
    target = Implementation()
    target.emits, target.dialect, target.streams, target.dtypes = (), RESIDUAL, (1,), ("float32", "bfloat16")
    target.differentiable = target.strided = target.in_process = False
    target.devices = ("cuda",)
    mended: list[tuple[str, str, Any]] = [
        ("does not offer project", "project", torch.clone),
        ("mappings does not emit res", "emits", ("res",)),
        ("h_res is the identity whatever the logits", "dialect", PAPER),
        ("declared as not differentiable", "differentiable", True),
        ("strided is not declared", "strided", True),
        ("says nothing below n = 2", "streams", (2,)),
        ("is about n = 5, which is not accepted", "streams", (5,)),
        ("logits are float32 for bfloat16 states: covered by float32", "dtypes", ("bfloat16",)),
        ("does not compute on cpu: its devices are cuda", "devices", ("cpu",)),
        ("computes in another process", "in_process", True),
    ]
    for reason, attribute, value in mended:
        assert named.inapplicable(target, torch.bfloat16, CPU) == reason
        setattr(target, attribute, value)
    assert "needs graphs" in (named.inapplicable(target, torch.bfloat16, CPU) or "")
    assert named.inapplicable(target, torch.bfloat16) is None  # nobody asked about a place
    assert (named.declared, named.least_streams) == (("differentiable", "strided"), 2)


def test_examples_are_drawn_of_no_fewer_streams_than_a_law_speaks_of() -> None:
    from properties.engine.runner import Subject

    subject = Subject("ref", Reference(), torch.float32, CPU)
    assert min(subject.setting(all_laws()["manifold.odds-ratios"]).streams) == 2
    assert min(subject.setting(all_laws()["block.agrees-with-oracle"]).streams) == 1
