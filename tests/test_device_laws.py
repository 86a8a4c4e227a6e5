"""The laws about devices bite, and only what is wrong; what needs a GPU is tried on a fake one (`fake_device`)."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from fake_device import FAKE, fake_device
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from test_deviations import SEEN_BY_OTHER_FAMILIES, generic_params, normal
from test_gradient_values import SEEN_BY_VALUES
from test_limits_of_values import SEEN_BY_LIMITS
from test_modes import SEEN_BY_HISTORY
from test_readers import OF_THE_PAPER, SEEN_AT, SEEN_BY_READERS, SEEN_ELSEWHERE, SEEN_IN_BFLOAT16
from test_sizes import SEEN_BY_SIZES
from test_ways import SEEN_BY_WAYS
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, RESIDUAL, Branch, Params
from properties.catalogue import controls, deviations
from properties.catalogue.deviations import HIDDEN
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation, Reference
from properties.core.law import Law, all_laws, family_laws
from properties.engine.applying import inapplicable
from properties.engine.runner import PROFILES, Profile, Subject, Verdict, examine, try_case

SHORT = PAPER.with_(iterations=3, collapse="head")
CPU = torch.device("cpu")

SEEN_BY = {
    "tokens-above-1024-unwritten": "every-token-of-a-flood-is-computed",
    "atomic-additions": "launches-repeat-bit-for-bit",
    "split-by-batch": "batches-do-not-change-bits",
    "alignment-assumed": "memory-formats-do-not-matter",
    "output-tail-unwritten": "every-output-is-written",
    "accumulator-unset": "every-entry-is-written",
    "offsets-in-32-bits": "distant-tokens-are-read-where-they-lie",
    "outputs-in-32-bits": "distant-matrices-are-written-where-they-lie",
    "launched-on-the-default-stream": "work-is-queued-on-the-current-stream",
    "gates-kept-on-host": "graphs-replay-new-inputs",
    "synchronises": "graphs-replay-new-inputs",
    "compiled-without-weight": "compiled-blocks-are-the-same",
    "compiled-backward-halved": "traced-blocks-pull-back-alike",
    "autocast-not-left": "mappings-keep-their-precision-under-autocast",
    "mixed-as-autocast-has-it": "mixing-keeps-its-precision-under-autocast",
    "saved-as-autocast-has-it": "blocks-keep-their-precision-under-autocast",
    "head-as-autocast-has-it": "collapsing-keeps-its-precision-under-autocast",
    "layers-compute-as-autocast-has-it": "stacks-keep-their-precision-under-autocast",
    "one-iteration-less-on-the-device": "mappings-agree-with-those-of-the-cpu",
}
"""Deviation -> the law of the family that sees it."""

BY_OTHERS = {
    "bfloat16-for-tf32",
    "projection-buffer-reused",
    "log-domain-declared",
    "partial-logits-in-bfloat16",
    "partial-squares-in-bfloat16",
    "token-sums-in-bfloat16",
    *SEEN_BY_OTHER_FAMILIES,
    *SEEN_BY_HISTORY,
    *SEEN_BY_LIMITS,
    *SEEN_AT,
    *OF_THE_PAPER,
    *SEEN_BY_READERS,
    *SEEN_ELSEWHERE,
    *SEEN_IN_BFLOAT16,
    *SEEN_BY_SIZES,
    *SEEN_BY_VALUES,
    *SEEN_BY_WAYS,
}
"""Hidden deviations that laws of another family see."""

FAKED = {name for name in SEEN_BY if HIDDEN[name].needs} | {"compiled-without-weight", "compiled-backward-halved"}
"""What shows on the fake device; torch.compile itself is tried by the thorough tests."""


def verdict(law: Law, implementation: Implementation, where: Path, *, fake: bool = False, examples: int = 6) -> Verdict:
    """The law on the CPU or on the fake device, in float32."""
    implementation.devices, implementation.streams = ("cpu", FAKE.type), (3,)
    subject = Subject("target", implementation, torch.float32, FAKE if fake else CPU)
    profile = Profile(examples, derandomise=True, shrink=False)
    with fake_device() if fake else nullcontext():
        return examine(law, subject, profile, directory=where)


def of(name: str) -> Law:
    return all_laws()[f"device.{name}"]


def test_every_hidden_deviation_has_a_law_and_every_law_a_deviation() -> None:
    assert set(SEEN_BY) | BY_OTHERS == set(HIDDEN)
    cross = {"device.blocks-agree-with-those-of-the-cpu"}  # as for mappings
    assert {f"device.{law}" for law in SEEN_BY.values()} | cross == {law.id for law in family_laws("device")}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_BY)
def test_a_hidden_deviation_is_seen_by_its_law(name: str, tmp_path: Path) -> None:
    fake = name in FAKED
    found = verdict(of(SEEN_BY[name]), deviations.build(name, SHORT), tmp_path, fake=fake, examples=16)
    assert found.status == "failed", found.reason


@pytest.mark.parametrize(
    "name", [name for name in SEEN_BY if name not in ("output-tail-unwritten", "accumulator-unset")]
)
def test_a_hidden_deviation_is_right_in_ordinary_calls(name: str) -> None:
    x, params = normal(5, 3, 4, dtype=torch.float32), generic_params(SHORT, 3, 4)
    case = Case(x=x, params=map_tensors(params, torch.Tensor.float), branch=BranchSpec("identity"))
    subject = Subject("target", deviations.build(name, SHORT), torch.float32, CPU)
    for law in ("block.agrees-with-oracle", "execution.blocks-are-deterministic"):
        try_case(all_laws()[law], subject, case)  # raises where it is broken


CORRECT = {
    "graphs-replay-new-inputs": ("linear",),
    "work-is-queued-on-the-current-stream": ("linear",),
    "compiled-blocks-are-the-same": ("linear",),
    "traced-blocks-pull-back-alike": ("linear",),
    "distant-tokens-are-read-where-they-lie": ("einsum",),
    "distant-matrices-are-written-where-they-lie": ("log-domain",),
    "mappings-agree-with-those-of-the-cpu": ("tf32",),
    "blocks-agree-with-those-of-the-cpu": ("reversed",),
    "batches-do-not-change-bits": ("tiled",),
    "launches-repeat-bit-for-bit": ("compensated",),
    "every-token-of-a-flood-is-computed": ("norm-after-matmul",),
    "memory-formats-do-not-matter": ("stored-transposed",),
    "every-output-is-written": ("scaling-vectors",),
    "every-entry-is-written": ("potentials",),
    "mappings-keep-their-precision-under-autocast": ("autocast-left",),
    "mixing-keeps-its-precision-under-autocast": ("autocast-left",),
    "blocks-keep-their-precision-under-autocast": ("autocast-left",),
    "collapsing-keeps-its-precision-under-autocast": ("autocast-left",),
    "stacks-keep-their-precision-under-autocast": ("autocast-left",),
}
"""Law -> controls that declare what it asks for."""


@pytest.mark.slow
@pytest.mark.parametrize("law", CORRECT)
def test_a_control_is_never_accused(law: str, tmp_path: Path) -> None:
    fake = bool({"graphs", "streams", "giants", "accelerator"} & {of(law).on.feature}) or law.startswith(
        ("compiled", "traced")
    )
    for name in CORRECT[law]:
        found = verdict(of(law), controls.build(name, SHORT), tmp_path, fake=fake, examples=4)
        assert found.status == "passed", f"{name}: {found.reason}"
        assert found.examples


def test_controls_cover_every_law_of_the_family() -> None:
    assert {f"device.{law}" for law in CORRECT} == {law.id for law in family_laws("device")}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("target", "status"),
    [
        *((f"ref:{preset}", 0) for preset in mhc_ref.PRESETS),
        ("deviation:compiled-without-weight@PAPER", 1),
        ("deviation:compiled-backward-halved@PAPER", 1),
    ],
)
def test_torch_compiles_the_reference_and_the_law_sees_what_it_gets_wrong(
    target: str, status: int, tmp_path: Path
) -> None:
    """In a process without the shape checks of these tests, which a compiler cannot trace."""
    options = ("--law", "device.compiled", "--hypothesis-profile", "thorough")
    command = [sys.executable, "-m", "properties.cli", "check", target, *options]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == status, ran.stdout
    assert "1 of 1 laws exercised" in ran.stdout


# -- TensorFloat-32 ----------------------------------------------------------------------------------------------------

PRECISE = ("precision.norm-and-projection-keep-the-compute-precision", "mixing.permutations-carry-streams")


@pytest.mark.parametrize("name", ["tf32", "tf32-truncated"])
@pytest.mark.parametrize("law", [*PRECISE, "gradient.block-pulls-back-to-state-and-parameters"])
def test_declared_tensorfloat32_is_not_accused_and_undeclared_is(law: str, name: str, tmp_path: Path) -> None:
    control = controls.build(name, SHORT)
    assert verdict(all_laws()[law], control, tmp_path).status == "passed"
    control.products = "compute"
    assert verdict(all_laws()[law], control, tmp_path).status == "failed"


@pytest.mark.parametrize("name", ["tf32", "tf32-truncated"])
def test_undeclared_tensorfloat32_is_recognised(name: str, tmp_path: Path) -> None:
    """A kernel's author learns what was read coarsely; on the CPU in this process nothing multiplies so."""
    control = controls.build(name, SHORT)
    control.products = "compute"
    law = all_laws()["block.agrees-with-oracle"]
    assert "TensorFloat-32" not in verdict(law, control, tmp_path).message
    control.in_process = False
    assert (
        "hint   for this input products of TensorFloat-32 would explain it" in verdict(law, control, tmp_path).message
    )
    control.products = "tf32"  # which explains the smallest example, and not all of what is cut
    found = verdict(law, control, tmp_path)
    assert ("`products = 'tf32-truncated'`" in found.message) == (found.status == "failed") == (name != "tf32")


@pytest.mark.parametrize("name", ["one-iteration", "h-res-transposed"])
def test_what_is_wrong_is_not_excused_by_tensorfloat32(name: str, tmp_path: Path) -> None:
    wrong = deviations.build(name, SHORT)
    wrong.in_process = False
    found = verdict(all_laws()["block.agrees-with-oracle"], wrong, tmp_path, examples=40)
    assert found.status == "failed"
    assert "TensorFloat-32" not in found.message


def test_bfloat16_is_no_tensorfloat32(tmp_path: Path) -> None:
    wrong = deviations.build("bfloat16-for-tf32", SHORT)
    assert verdict(all_laws()["coefficients.agrees-with-oracle"], wrong, tmp_path, examples=40).status == "failed"


def test_a_cut_operand_is_no_rounded_one() -> None:
    """2^-10 against 2^-11: the contracts are told apart."""
    x = torch.full((1, 1, 1), 1.0)
    phi = torch.full((1, 3), 1 + 2.0**-10 - 2.0**-23)
    params = Params(phi, torch.zeros(3), torch.ones(3))
    cut, rounded = (controls.build(name, SHORT).mappings(x, params).pre for name in ("tf32-truncated", "tf32"))
    assert cut.item() != rounded.item()


# -- float16 -----------------------------------------------------------------------------------------------------------


class Half(Reference):
    """The reference on float16 states."""

    dtypes = (torch.float16,)


STATES = ("block.agrees-with-oracle", "mixing.pre-is-the-weighted-sum", "depth.layers-are-blocks-in-order")


@pytest.mark.parametrize("law", STATES)
def test_float16_states_are_judged_by_their_own_contract(law: str, tmp_path: Path) -> None:
    right, wrong = Half(SHORT), deviations.build("mixing-in-bfloat16", SHORT)
    right.streams = wrong.streams = (3,)
    profile = Profile(8, derandomise=True, shrink=False)
    for implementation, status in ((right, "passed"), (wrong, "failed")):
        subject = Subject("target", implementation, torch.float16, CPU)
        if status == "passed" or not law.startswith("mixing"):
            assert examine(all_laws()[law], subject, profile, directory=tmp_path).status == status


def test_a_state_that_halving_makes_subnormal_is_not_held_against_anybody() -> None:
    """Of (3, 5) and half of it float16 keeps (2, 2) beside its smallest number, 2^-24: another direction."""
    x = (torch.tensor([[[3.0, 5.0], [1.0, 2.0]]]) * 2.0**-24).to(torch.float16)
    case = Case(x=x, params=generic_params(mhc_ref.LUCIDRAINS, 2, 2), factor=0.5)
    case = case.with_(params=map_tensors(case.params, Tensor.float))
    subject = Subject("target", Half(mhc_ref.LUCIDRAINS), torch.float16, CPU)
    law = all_laws()["coefficients.coefficients-do-not-see-the-scale"]
    assert try_case(law, subject, case).worst <= 1  # raises where it is broken


@pytest.mark.thorough
@pytest.mark.parametrize("preset", mhc_ref.PRESETS)
@pytest.mark.parametrize("law", all_laws())
def test_every_law_holds_for_float16_states(law: str, preset: str, tmp_path: Path) -> None:
    subject = Subject("ref", Half(mhc_ref.PRESETS[preset]), torch.float16, CPU)
    found = examine(all_laws()[law], subject, Profile(40, derandomise=True), directory=tmp_path)
    said = all_laws()[law].inapplicable(subject.implementation, subject.dtype, CPU) or all_laws()[law].schedule.thorough
    assert found.status == ("not-applicable" if said else "passed"), found.message or found.reason


# -- where laws apply --------------------------------------------------------------------------------------------------


def test_on_a_cpu_each_law_says_what_it_lacks() -> None:
    reasons = {law.id: law.inapplicable(Reference(), torch.float32, CPU) for law in family_laws("device")}
    assert reasons["device.graphs-replay-new-inputs"] == (
        "needs graphs that are captured and replayed (CUDA); cpu has none"
    )
    assert reasons["device.work-is-queued-on-the-current-stream"] == "needs streams (CUDA); cpu has none"
    assert reasons["device.blocks-agree-with-those-of-the-cpu"] == (
        "needs a second device beside the CPU (CUDA); cpu has none"
    )
    assert reasons["device.distant-tokens-are-read-where-they-lie"] == (
        "needs memory for tensors of 2^31 elements (CUDA); cpu has none"
    )
    assert reasons["device.batches-do-not-change-bits"] == "batch_invariant is not declared"
    assert reasons["device.every-output-is-written"] is None


def test_a_compilation_waits_for_the_thorough_profile(tmp_path: Path) -> None:
    found = verdict(of("compiled-blocks-are-the-same"), Reference(SHORT), tmp_path)
    assert (found.status, found.reason) == (
        "not-applicable",
        "a compilation takes a second: on a CPU with --hypothesis-profile thorough",
    )


def test_what_is_traced_once_is_traced_in_one_dtype_and_not_in_the_profile_ci() -> None:
    law, reference = of("traced-blocks-pull-back-alike"), Reference(SHORT)

    def why(dtype: torch.dtype, profile: str) -> str | None:
        return inapplicable(law, Subject("ref", reference, dtype, CPU), PROFILES[profile])

    assert why(torch.float32, "dev") is None
    assert why(torch.bfloat16, "dev") == "tracing takes a second or two: on a CPU in float32 alone"
    assert why(torch.float32, "ci") == "tracing takes a second or two: on a CPU not in the profile ci"
    assert why(torch.float64, "thorough") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "status"),
    [
        # Twenty seconds, most of them to shrink and explain it; tests/test_kill.py shows that the law sees it.
        pytest.param("deviation:compiled-backward-halved@PAPER", 1, marks=pytest.mark.thorough),
        ("ref:PAPER", 0),
    ],
)
def test_an_ordinary_check_traces_a_block_and_sees_half_a_gradient(tmp_path: Path, target: str, status: int) -> None:
    """In a process of its own, as above."""
    command = [sys.executable, "-m", "properties.cli", "check", target, "--law", "device.traced"]
    options = ("--hypothesis-profile", "dev", "--dtype", "float32")
    ran = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == status, ran.stdout


def test_what_computes_elsewhere_is_not_asked_here(tmp_path: Path) -> None:
    only = Reference(SHORT)
    only.devices = ("cuda",)
    assert of("every-output-is-written").inapplicable(only, torch.float32, CPU) == (
        "does not compute on cpu: its devices are cuda"
    )
    abroad = Reference(SHORT)
    abroad.in_process = False
    assert of("every-output-is-written").inapplicable(abroad, torch.float32, CPU) == "computes in another process"


def test_a_law_about_giants_says_what_room_it_needs() -> None:
    reference = Reference(SHORT)
    reference.devices = (FAKE.type,)
    law = of("distant-matrices-are-written-where-they-lie")
    with fake_device() as device:
        device.room = 1000
        assert law.inapplicable(reference, torch.float32, FAKE) == "needs 131072 bytes; 1000 are left"
        device.room = 2**40
        assert law.inapplicable(reference, torch.float32, FAKE) is None
        reference.max_tokens = 3
        assert law.inapplicable(reference, torch.float32, FAKE) == "takes 3 tokens a call"
        reference.devices = (FAKE.type, "cuda")
        assert of("blocks-agree-with-those-of-the-cpu").inapplicable(reference, torch.float32, FAKE) == (
            "does not compute on cpu: its devices are meta, cuda"
        )


class Greedy(Reference):
    """Runs out of memory on states of that many tokens and more."""

    def __init__(self, least: int) -> None:
        super().__init__(SHORT)
        self.least = least

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if x.shape[0] >= self.least:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().block(x, params, branch)


@pytest.mark.parametrize(
    ("least", "fake", "status", "told"),
    [
        (1, True, "not-applicable", "block ran out of the device's memory for float32["),
        (2, True, "passed", ""),
        (1, False, "failed", "block raised OutOfMemoryError: CUDA out of memory for float32["),
    ],
    ids=["on every call", "on large calls", "on a CPU, where torch has no such error"],
)
def test_memory_that_runs_out_is_no_verdict_on_a_device_that_has_its_own(
    least: int, fake: bool, status: str, told: str, tmp_path: Path
) -> None:
    found = verdict(all_laws()["block.inputs-reach-the-branch-once"], Greedy(least), tmp_path, fake=fake)
    assert (found.status, found.reason[: len(told)]) == (status, told)


# -- every law is at home on another device ----------------------------------------------------------------------------


def test_tensors_of_two_devices_do_not_meet_unseen() -> None:
    with fake_device():
        there, here = torch.ones(2).to(FAKE), torch.ones(2)
        assert (there + 1.0).cpu().tolist() == [2.0, 2.0]
        assert there[torch.tensor([0])].cpu().tolist() == [1.0]
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            _ = there + here


ELSEWHERE = {"execution.threads-do-not-matter"}
"""The fake device is a mode of one thread: in another there is none. `tests/test_cuda.py` has threads on a real one."""
WITH_THREADS = "however"
"""In the name of the laws that have other circumstances as well: they go without threads where a target works in
another process."""


NOT_OF_THE_PAPER = {"coefficients.coefficients-do-not-see-an-offset": {"centred": True}}
"""Laws that ask for what PAPER has not, and the fields in which it is changed."""


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    "law", [law.id for law in all_laws().values() if law.family != "device" and law.id not in ELSEWHERE]
)
def test_a_law_keeps_its_tensors_on_the_device(law: str) -> None:
    """A tensor that a law, a strategy or the reference makes on the CPU and mixes with the device's raises here."""
    promised = all_laws()[law].module.endswith("guarantees")  # the identity keeps whatever can be promised
    dialect = RESIDUAL if promised else PAPER.with_(iterations=1, **NOT_OF_THE_PAPER.get(law, {}))
    any_size = all_laws()[law].module.endswith("scales")  # what the reference does not promise, and this control does
    reference = controls.build("scaled-norm", dialect) if any_size else Reference(dialect, "reference")
    reference.devices, reference.streams = (FAKE.type,), (2,)
    reference.in_process = WITH_THREADS not in law
    subject = Subject("ref", reference, torch.float32, FAKE)
    with fake_device():
        setting = subject.setting(all_laws()[law])
    case = first_example(all_laws()[law].draw(setting))
    with fake_device():
        try_case(all_laws()[law], subject, case)  # raises where it is broken


def first_example(cases: SearchStrategy[Case]) -> Case:
    """What a strategy draws first."""
    found: list[Case] = []
    once = settings(
        max_examples=1,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]  # its metaclass is not typed
    )

    def draw(case: Case) -> None:
        found.append(case)

    once(given(cases)(draw))()
    return found[0]
