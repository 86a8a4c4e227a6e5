"""What nothing explains is told apart by where it can show, and by its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, Dialect, Mappings, Params
from properties import Implementation
from properties.causes import Causes
from properties.causes.here import plain
from properties.causes.stages import shows
from properties.core.case import Case
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.diagnosis.parts import account_of
from properties.engine.runner import examine
from properties.engine.subject import Profile, Subject


@pytest.mark.parametrize(
    ("stage", "law", "does"),
    [
        ("sigmoid", "gradient.pre-and-post-pull-back-to-every-factor", False),
        ("sigmoid", "execution.projection-is-deterministic", False),
        ("sigmoid", "gradient.block-pulls-back-to-state-and-parameters", True),
        ("sigmoid", "block.agrees-with-oracle", True),
        ("pre", "gradient.pre-and-post-pull-back-to-every-factor", True),
        ("gradient", "block.agrees-with-oracle", False),
        ("gradient", "gradient.branches-learn", True),
        ("execution", "block.agrees-with-oracle", True),
    ],
)
def test_a_stage_shows_in_laws_that_ask_for_it(stage: str, law: str, does: bool) -> None:
    assert shows(stage, all_laws()[law]) is does


class _Wide(Reference):
    """The branch input is a float64 number."""

    def __init__(self) -> None:
        super().__init__(DEEPSEEK_V4)
        self.dtypes = (torch.float32,)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().pre(x, h_pre).double()


@pytest.mark.slow
def test_a_wrong_dtype_is_a_broken_contract_and_no_wrong_value() -> None:
    assert account_of(_Wide(), seconds=0.1).unexplained == (("pre", "contract"),)


class _Halved(Implementation):
    """Gates that are no sigmoid, and a gradient of h_pre that is half of what it should be."""

    dialect, streams, dtypes = DEEPSEEK_V4, (4,), (torch.float32,)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = Reference(DEEPSEEK_V4).mappings(x, params)
        return found._replace(post=found.post - 0.2 * found.post * (2 - found.post))

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return Reference(DEEPSEEK_V4).pre(x, (h_pre + h_pre.detach()) / 2)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return Reference(DEEPSEEK_V4).post(x, y, h_post, h_res)


@pytest.mark.slow
def test_a_gradient_does_not_vanish_behind_gates_that_do_not_enter_it(tmp_path: Path) -> None:
    causes, target = Causes(seconds=0.1), _Halved()
    subject = Subject("halved", target, torch.float32, torch.device("cpu"))
    found = [
        examine(
            all_laws()[law],
            subject,
            Profile(examples=4, derandomise=True, shrink=False),
            directory=tmp_path,
            attribution=causes,
        )
        for law in ("coefficients.agrees-with-oracle", "gradient.pre-and-post-pull-back-to-every-factor")
    ]
    assert [one.stage for verdict in found for one in verdict.causes] == ["sigmoid", "gradient"]


class _Coarse(Implementation):
    """Sinkhorn with an eps of 1e-5 everywhere, where 1e-6 is declared, in numbers that cannot measure the eps to six
    digits."""

    dialect, streams, dtypes = DEEPSEEK_V4, (2, 4), (torch.float32,)

    def project(self, logits: Tensor) -> Tensor:
        return Reference(DEEPSEEK_V4.with_(entry_eps=1e-5, denominator_eps=1e-5)).project(logits)


@pytest.mark.slow
def test_one_slip_in_two_fields_is_one_part() -> None:
    assert [one.deviation for one in account_of(_Coarse(), seconds=8.0).parts] == ["sinkhorn-eps-1e-5"]


class _Unsteady(Reference):
    """Every call of `post` is off by another factor."""

    def __init__(self) -> None:
        super().__init__(DEEPSEEK_V4)
        self.dtypes, self.streams = (torch.float32,), (4,)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res) * (1 + 0.01 * torch.rand(()))


@pytest.mark.slow
def test_what_answers_at_random_is_not_laid_to_a_cache() -> None:
    account = account_of(_Unsteady(), seconds=4.0)
    assert not account.parts
    assert ("execution", "randomness") in account.unexplained


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"x": torch.ones(2, 3, 5)}, True),
        ({"x": torch.ones(64, 3, 5)}, False),
        ({"x": torch.ones(2, 3, 4096)}, False),
        ({"logits": torch.ones(3, 4, 4)}, True),
        ({"logits": torch.ones(64, 4, 4)}, False),
        ({"h": torch.ones(2, 5), "branches": (None,) * 2}, True),
        ({"h": torch.ones(2, 5), "branches": (None,) * 9}, False),
    ],
)
def test_a_case_that_may_fail_for_its_size_is_not_plain(values: dict[str, Any], expected: bool) -> None:
    assert plain(Case(**values)) == expected


class _Ring(Implementation):
    """Results without a graph lie in four buffers in turn, and each method is right when it returns."""

    dialect, streams, dtypes = DEEPSEEK_V4, (4,), (torch.float32,)

    def __init__(self) -> None:
        self.buffers: dict[torch.Size, list[Tensor]] = {}

    def block(self, x: Tensor, params: Params, branch: Any) -> Tensor:
        found = Reference(DEEPSEEK_V4).block(x, params, branch)
        if found.requires_grad:
            return found
        held = self.buffers.setdefault(found.shape, [])
        held.append(held.pop(0).copy_(found) if len(held) == 4 else found)
        return held[-1]


@pytest.mark.slow
def test_an_output_that_is_overwritten_later_is_a_fault_of_memory_in_every_law(tmp_path: Path) -> None:
    causes, target = Causes(seconds=0.1), _Ring()
    subject = Subject("ring", target, torch.float32, torch.device("cpu"))
    found = [
        examine(all_laws()[law], subject, Profile(10, derandomise=True), directory=tmp_path, attribution=causes)
        for law in ("execution.outputs-outlive-the-next-call", "execution.blocks-do-not-see-strides")
    ]
    assert [one.status for one in found] == ["failed", "failed"]
    assert len({cause.key for one in found for cause in one.causes}) == 1
    assert found[0].causes[0].kind == "memory"


class _Tuned(Implementation):
    """The norm takes the eps of the entries, which is its own until one of them is tuned."""

    tunable, streams, dtypes = frozenset({"rms_eps", "entry_eps"}), (2,), (torch.float32,)

    def __init__(self, dialect: Dialect = DEEPSEEK_V4) -> None:
        self.dialect = dialect

    def tuned(self, **fields: Any) -> Implementation:
        return _Tuned(self.dialect.with_(**fields))

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Reference(self.dialect.with_(rms_eps=self.dialect.entry_eps)).mappings(x, params)


@pytest.mark.slow
def test_a_slip_that_shows_only_where_fields_are_tuned_is_named(tmp_path: Path) -> None:
    causes, subject = Causes(seconds=0.1), Subject("tuned", _Tuned(), torch.float32, torch.device("cpu"))
    law = all_laws()["coefficients.tuned-fields-are-used"]
    found = examine(law, subject, Profile(10, derandomise=True), directory=tmp_path, attribution=causes)
    assert ["norm-reads-entry-eps" in one.summary for one in found.causes] == [True]
