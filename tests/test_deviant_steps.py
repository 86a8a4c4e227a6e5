"""The steps of the families are mixed into one class: a helper of one must not be that of another."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict

import torch

import properties.families.steps as steps
from mhc_ref import PRESETS
from properties.catalogue import controls
from properties.core.deviant import Deviant


def test_no_two_families_have_a_helper_of_one_name() -> None:
    """What `Deviant` or a read asks for is handed on by `super()`, and each answers for its own dialects."""
    shared = set(dir(Deviant))
    found: defaultdict[str, set[str]] = defaultdict(set)
    for module in pkgutil.iter_modules(steps.__path__):
        room = importlib.import_module(f"{steps.__name__}.{module.name}")
        for kind in vars(room).values():
            if isinstance(kind, type) and issubclass(kind, Deviant) and kind.__module__ == room.__name__:
                for name, value in vars(kind).items():
                    if callable(value) and name not in shared and not name.startswith("__"):
                        found[name].add(kind.__name__)
    assert found
    assert {name: kinds for name, kinds in found.items() if len(kinds) > 1} == {}


def test_a_control_that_is_tuned_to_another_mix_computes_that_one() -> None:
    tuned = controls.build("kronecker-sigmoid", PRESETS["KROMHC"]).tuned(residual="permutations")
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = controls.build("linear", PRESETS["KROMHC"]).tuned(residual="permutations")
    assert torch.equal(tuned.project(logits), plain.project(logits))
