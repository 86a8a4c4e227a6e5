"""A target that writes to what it was given changes no input of a law: neither its own next one, nor that of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Branch, Mappings, Params
from properties import Implementation
from properties.core.case import Case, map_tensors
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.core.trial import Trial
from properties.engine.runner import Profile, examine
from properties.engine.subject import Subject

QUICK = Profile(3, derandomise=True, shrink=False, sizes=1, crowds=1, alone=1)


def wiped(*given: Tensor | None) -> None:
    """As a kernel does that has no memory of its own; torch does not notice."""
    for one in given:
        if one is not None:
            one.data.zero_()


class Wiping(Implementation):
    """Everything is right, and nothing that was given is left."""

    dialect = PAPER
    dtypes = (torch.float32,)

    def project(self, logits: Tensor) -> Tensor:
        made = mhc_ref.project(logits, PAPER)
        wiped(logits)
        return made

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        made = mhc_ref.mappings(x, params, PAPER)
        wiped(x, *params)
        return made

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        made = mhc_ref.post(x, y, h_post, h_res, PAPER)
        wiped(x, y, h_post, h_res)
        return made

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        returned: list[Tensor] = []

        def kept(branch: Branch) -> Branch:
            def called(u: Tensor) -> Tensor:
                returned.append(branch(u))
                return returned[-1]

            return called

        made = mhc_ref.layers(x, params, [kept(one) for one in branches], PAPER)
        wiped(x, *returned, *(part for one in params for part in one))
        return made


LAWS = (
    *("sizes.tokens-and-channels-are-mapped", "sizes.blocks-pass", "sizes.depths-pass", "sizes.stacks-pass"),
    *("sizes.matrices-are-projected", "sizes.streams-are-mixed"),
)


@pytest.mark.parametrize("name", LAWS)
def test_the_inputs_of_a_sweep_are_as_they_were_after_a_target_that_writes_to_them(name: str, tmp_path: Path) -> None:
    """They are kept for the next target: the reference was accused, the second time that it came after such a one."""
    law, cpu = all_laws()[name], torch.device("cpu")
    for target in (Wiping(), Reference(PAPER), Wiping(), Reference(PAPER)):
        verdict = examine(law, Subject("target", target, torch.float32, cpu), QUICK, directory=tmp_path)
        assert verdict.status == "passed" or isinstance(target, Wiping), verdict.message


@pytest.mark.slow
@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", sorted(one.id for one in all_laws().values() if one.sweep is None))
def test_a_case_is_as_it_was_after_a_target_that_writes_to_it(name: str, tmp_path: Path) -> None:
    law, changed = all_laws()[name], list[str]()
    judge = law.judge

    def judged(trial: Trial, case: Case) -> None:
        before = [one.clone() for one in tensors(case)]
        try:
            judge(trial, case)
        finally:
            after = tensors(case)
            changed.extend(
                str(tuple(one.shape)) for one, other in zip(before, after, strict=True) if not same(one, other)
            )

    object.__setattr__(law, "judge", judged)
    try:
        subject = Subject("target", Wiping(), torch.float32, torch.device("cpu"))
        examine(law, subject, QUICK, directory=tmp_path)
    finally:
        object.__setattr__(law, "judge", judge)
    assert not changed


def tensors(case: Case) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(dict(case.items()), lambda one: (found.append(one), one)[1])
    return found


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
