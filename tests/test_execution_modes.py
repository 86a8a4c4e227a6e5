"""Modes of torch that must not matter: nothing of them is left, and nobody who computes the same in them is accused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mhc_ref import DEEPSEEK_V4, Branch, Mappings, Params
from properties.catalogue.controls import build
from properties.core.case import BranchSpec
from properties.core.device import DEVICES, device_of
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.noise import Noise
from properties.core.trial import FloatTruth, LawBroken, Trial
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.laws import calls, surroundings
from properties.laws.calls import Call

CPU = torch.device("cpu")
DETERMINISTIC = "execution.deterministic-algorithms-do-not-matter"
REFUSED = "execution.refused-calls-leave-their-surroundings"
AUTOCAST = tuple(law for law in all_laws() if law.endswith("under-autocast"))


def judged(law: str, implementation: Implementation, where: Path, dtype: torch.dtype = torch.float32) -> Verdict:
    subject = Subject("target", implementation, dtype, CPU)
    return examine(all_laws()[law], subject, Profile(10, derandomise=True, shrink=False), directory=where)


class AsksForDeterminism(Reference):
    """A bias is added where deterministic algorithms are asked for, which whoever imports it asks for."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        asked = torch.are_deterministic_algorithms_enabled()
        return super().mappings(x, params if asked else params._replace(bias=0 * params.bias))


def test_what_is_right_under_deterministic_algorithms_alone_is_seen_where_somebody_asked_for_them(
    tmp_path: Path,
) -> None:
    with device_of(CPU).deterministic(True):
        found = judged(DETERMINISTIC, AsksForDeterminism(DEEPSEEK_V4), tmp_path)
    assert found.status == "failed", found.reason


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("control", ["linear", "autocast-left"])
def test_controls_are_the_same_in_every_mode(control: str, dtype: torch.dtype, tmp_path: Path) -> None:
    implementation = build(control, DEEPSEEK_V4)
    for law in (DETERMINISTIC, *AUTOCAST):
        found = judged(law, implementation, tmp_path, dtype)
        assert found.status == ("passed" if control == "autocast-left" or law == DETERMINISTIC else "not-applicable")


@pytest.mark.slow
def test_modes_are_afterwards_as_they_were_before(tmp_path: Path) -> None:
    assert judged(DETERMINISTIC, Reference(DEEPSEEK_V4), tmp_path).status == "passed"
    assert judged(AUTOCAST[0], Reference(DEEPSEEK_V4), tmp_path).status == "passed"
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_autocast_enabled("cpu")
    with device_of(CPU).deterministic(True):
        with device_of(CPU).deterministic(False):
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("setting", "refused"), [(None, "warn"), (":4096:8", "error"), (":16:8", "error")])
def test_a_gpu_refuses_no_product_of_which_torch_itself_knows_no_deterministic_form(
    setting: str | None, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    else:
        monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", setting)
    assert DEVICES["cuda"].refused == refused


def test_disturbed_arithmetic_takes_the_path_of_a_compiler() -> None:
    """What is tried as an explanation of a compiled failure must take the path on which it is wrong."""

    def path(x: Tensor) -> Any:
        return 2 * x if torch.compiler.is_compiling() else x

    with Noise(0):
        found = device_of(CPU).compiled(path, traced=True)(torch.ones(2))
    assert torch.allclose(found, 2 * torch.ones(2), atol=1e-4)
    assert not torch.compiler.is_compiling()


class LeavesThreads(Reference):
    """A refused call leaves one more thread, NumPy's errors and autocast behind."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        before, errors = torch.get_num_threads(), np.geterr()
        torch.set_num_threads(before + 1)
        torch.set_autocast_enabled("cpu", True)
        np.seterr(all="ignore")
        found = super().mappings(x, params)
        np.seterr(**errors)
        torch.set_autocast_enabled("cpu", False)
        torch.set_num_threads(before)
        return found


class SeedsTheRefused(Reference):
    """A seed is set where a call is refused."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        try:
            return super().mappings(x, params)
        except Exception:
            torch.manual_seed(0)
            raise


class SpoiledByTheRefused(Reference):
    """After a refused call the next one gives half of h_post."""

    share = 1.0

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        try:
            h = super().mappings(x, params)
        except Exception:
            self.share = 0.5
            raise
        share, self.share = self.share, 1.0
        return h._replace(post=share * h.post)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (LeavesThreads, "the modes of torch after mappings was called with a phi of one row too many"),
        (SeedsTheRefused, "the global generator of torch after mappings was called with a phi of one row too many"),
        (SpoiledByTheRefused, "h_post after calls with arguments that do not fit"),
    ],
)
def test_what_a_refused_call_leaves_is_seen_and_put_back(wrong: type[Reference], found: str, tmp_path: Path) -> None:
    before = surroundings.modes()
    verdict = judged(REFUSED, wrong(DEEPSEEK_V4), tmp_path)
    assert verdict.status == "failed"
    assert verdict.reason.startswith(found)
    assert surroundings.modes() == before


@pytest.mark.slow
def test_who_refuses_nothing_and_leaves_nothing_is_not_accused(tmp_path: Path) -> None:
    class Lenient(Reference):
        """Reads as many rows, entries and channels as there should be."""

        def mappings(self, x: Tensor, params: Params) -> Mappings:
            return super().mappings(x, params._replace(phi=params.phi[: x.shape[-2] * x.shape[-1]]))

        def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
            return super().pre(x, h_pre[..., : x.shape[-2]])

        def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
            return super().post(x, y[..., : x.shape[-1]], h_post[..., : x.shape[-2]], h_res)

        def project(self, logits: Tensor) -> Tensor:
            return super().project(logits.float() if not logits.is_floating_point() else logits)

    assert judged(REFUSED, Lenient(DEEPSEEK_V4), tmp_path).status == "passed"
    assert judged(REFUSED, Reference(DEEPSEEK_V4), tmp_path).status == "passed"


def test_on_another_device_no_argument_is_of_a_size_that_a_kernel_may_run_beyond() -> None:
    """A read beyond memory ends the context of a device, and with it every later law."""
    params = Params(torch.zeros(6, 8), torch.zeros(8), torch.zeros(3))
    given = (torch.zeros(1, 2, 3), params, BranchSpec("zero"))
    call = Call("block", ("x", "params", "the branch"), given, (), tuple)
    found = [[one.what for one in surroundings.misfits(call, given, shapes)] for shapes in (True, False)]
    assert found == [
        [
            "a phi of one row too many",
            *("a branch that raises", "a branch that is cancelled", "a branch that gives a channel too many"),
        ],
        ["a branch that raises"],
    ]


class Collects(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, kinds: Any, given: Any = (), named: Any = None) -> Any:
        return function(*given, **(named or {}))


class Overrides(TorchFunctionMode):
    def __torch_function__(self, function: Any, kinds: Any, given: Any = (), named: Any = None) -> Any:
        return function(*given, **(named or {}))


def switched(owner: Any, name: str) -> Callable[[], object]:
    return lambda: setattr(owner, name, not getattr(owner, name))


LEFT: dict[str, Callable[[], object]] = {
    "autocast of another device": lambda: torch.set_autocast_dtype("cuda", torch.bfloat16),
    "autocast's cache": lambda: torch.set_autocast_cache_enabled(False),
    "cudnn": switched(torch.backends.cudnn, "benchmark"),
    "TensorFloat-32 of convolutions": switched(torch.backends.cudnn, "allow_tf32"),
    "TensorFloat-32 of products": lambda: torch.set_float32_matmul_precision("medium"),
    "digits of mpmath": lambda: setattr(mpmath.mp, "dps", 40),
    "hooks on saved tensors": lambda: saved_tensors_hooks(torch.clone, torch.clone).__enter__(),
    "a mode of functions": lambda: Overrides().__enter__(),
    "a mode of dispatch": lambda: Collects().__enter__(),
}


@pytest.mark.parametrize("left", LEFT)
def test_what_is_left_of_settings_is_seen_and_put_back(left: str) -> None:
    before = surroundings.modes()
    with surroundings.restored():
        LEFT[left]()
        now = surroundings.modes()
    assert now != before
    assert surroundings.modes() == before


def test_a_default_device_is_no_mode_of_functions() -> None:
    before = surroundings.modes()
    with surroundings.restored(), torch.device("meta"):
        assert sum(one != other for one, other in zip(surroundings.modes(), before, strict=True)) == 1


@pytest.mark.slow
def test_a_precision_by_its_new_name_can_be_read() -> None:
    program = (
        "import torch\ntorch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "from properties.laws.surroundings import modes, restored\nbefore = modes()\n"
        "with restored():\n    torch.backends.cuda.matmul.fp32_precision = 'ieee'\n    assert modes() != before\n"
        "assert modes() == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


class Refused(BaseException):
    """No `Exception`, as that of a test runner."""


class Exits(Reference):
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if len(params.phi) != x.shape[-1] * x.shape[-2]:
            raise SystemExit("phi")
        try:
            return super().block(x, params, branch)
        except Exception as error:
            raise Refused from error


class SeedsPython(Reference):
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        before = random.getstate()
        random.seed(0)
        found = super().block(x, params, branch)
        random.setstate(before)
        return found


class Queues(Reference):
    def __init__(self) -> None:
        super().__init__(DEEPSEEK_V4)
        self.waiting: list[Mappings] = []

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        self.waiting.append(self.mappings(x, params))
        y = branch(self.pre(x, self.mappings(x, params).pre))
        found = self.waiting.pop(0)
        return self.post(x, y, found.post, found.res)


class AsksForGradients(Reference):
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if params.phi.is_inference() or params.phi.requires_grad:
            return super().block(x, params, branch)
        params.phi.requires_grad_()
        found = super().block(x, params, branch).detach()
        params.phi.requires_grad_(False)
        return found


class Evaluates(Reference):
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if isinstance(branch, torch.nn.Module):
            branch.eval()
        found = super().block(x, params, branch)
        if isinstance(branch, torch.nn.Module):
            branch.train()
        return found


def left_by(implementation: Implementation) -> str:
    """What is said of refused calls of one block; nothing where nothing is left."""
    trial = Trial(implementation, torch.float32, CPU, FloatTruth(DEEPSEEK_V4))
    x = torch.tensor([[[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]]])
    params = Params(torch.arange(48.0).reshape(6, 8) / 50, torch.arange(8.0) / 7, torch.ones(3), None)
    try:
        surroundings.are_left_by_refused_calls(trial, calls.block(trial, x, params, calls.constant(x)))
    except LawBroken as broken:
        return broken.what
    return ""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (SeedsPython(DEEPSEEK_V4), "the global generator of Python"),
        (Queues(), "a block after calls with arguments that do not fit"),
        (AsksForGradients(DEEPSEEK_V4), "the arguments"),
        (Evaluates(DEEPSEEK_V4), "the branch"),
        (Exits(DEEPSEEK_V4), ""),
    ],
)
def test_what_a_refused_block_leaves(wrong: Implementation, said: str) -> None:
    found = left_by(wrong)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_who_exits_where_a_branch_raises_is_not_accused(tmp_path: Path) -> None:
    assert judged("execution.branches-may-pass-blocks-and-fail", Exits(DEEPSEEK_V4), tmp_path).status == "passed"
