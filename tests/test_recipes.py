"""The adapters that docs/recipes/ gives to paste run as they stand there, on stand-ins with the same signatures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from stand_ins import MODULES, installed

from properties import Implementation
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine

PAGES = Path(__file__).parents[1] / "docs" / "recipes"
CPU = torch.device("cpu")
BLOCK = ("block.agrees-with-oracle", "block.permutation-limit-carries-streams")
MIXING = ("mixing.post-is-the-declared-combination", "mixing.permutations-carry-streams")
PROJECTION = ("manifold.agrees-with-oracle", "manifold.last-axis-sums")
TARGETS: dict[tuple[str, str], tuple[str, ...]] = {
    ("aiter", "Aiter"): (*BLOCK, *MIXING, "coefficients.agrees-with-oracle"),
    ("kromhc", "KromHc"): ("block.agrees-with-oracle", "gradient.block-pulls-back-to-state-and-parameters"),
    ("maxtext", "TARGET"): (*PROJECTION, "gradient.projection-pulls-back-the-unrolled-iteration"),
    ("maxtext", "MaxText"): BLOCK,
    ("megatron", "Megatron"): (*BLOCK, *MIXING, "gradient.block-pulls-back-to-state-and-parameters"),
    ("mhc-cu", "MhcCu"): (*MIXING, "mixing.pre-is-the-weighted-sum"),
    ("mhc-lite", "MhcLite"): ("block.agrees-with-oracle", "gradient.block-pulls-back-to-state-and-parameters"),
    ("sglang", "Kernels"): (*MIXING, *PROJECTION),
    ("sglang", "Block"): BLOCK,
    ("tokenbender", "Tokenbender"): (*PROJECTION, "manifold.tuned-fields-are-used"),
    ("torchtitan", "Torchtitan"): (*BLOCK, *MIXING, "depth.collapse-is-as-declared"),
    ("vllm", "Vllm"): (*BLOCK, *MIXING, "block.tuned-fields-are-used", "manifold.agrees-with-oracle"),
    ("vllm-v41", "VllmDelayed"): (*MIXING, "mixing.pre-is-the-weighted-sum", "depth.stack-expands-and-collapses-once"),
}
"""Page and target -> a law for each method that the adapter has; the first sees what is applied, or emitted."""


def pasted(page: str, wrong: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the code of a page defines, run beside its stand-ins."""
    for dotted, module in installed(MODULES[page](wrong)).items():
        monkeypatch.setitem(sys.modules, dotted, module)
    found = re.findall(r"^```python\n(.*?)^```$", (PAGES / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    module = ModuleType(f"recipe_{page.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(found[0], str(PAGES / f"{page}.md"), "exec"), vars(module))
    return vars(module)


def outcomes(target: Any, laws: Iterable[str], where: Path) -> dict[str, str]:
    """Law -> what came of it; an exception is no answer here."""
    made: Implementation = target if isinstance(target, Implementation) else target()
    made.devices = ("cpu",)  # the stand-ins compute on a CPU
    subject, profile = Subject("pasted", made, made.dtypes[-1], CPU), Profile(2, derandomise=True, shrink=False)
    verdicts = {law: examine(all_laws()[law], subject, profile, directory=where) for law in laws}
    return {law: one.message if " raised " in one.message else one.status for law, one in verdicts.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("page", "name"), TARGETS)
def test_the_adapter_of_a_page_keeps_a_law_for_each_method(
    page: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    laws = TARGETS[page, name]
    assert outcomes(pasted(page, False, monkeypatch)[name], laws, tmp_path) == dict.fromkeys(laws, "passed")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "name"), TARGETS)
def test_a_transposed_stand_in_is_found_out(
    page: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    law = TARGETS[page, name][0]
    assert outcomes(pasted(page, True, monkeypatch)[name], [law], tmp_path) == {law: "failed"}


def test_every_page_has_its_stand_in_and_its_command() -> None:
    pages = {file.stem: file.read_text() for file in PAGES.glob("*.md") if file.stem != "README"}
    assert pages.keys() == MODULES.keys() == {page for page, _ in TARGETS}
    for page, name in TARGETS:
        assert re.search(rf"^    .*mhc-properties check \w+\.py:{name}\b", pages[page], re.MULTILINE), (page, name)


def test_an_adapter_to_paste_is_short() -> None:
    for file in PAGES.glob("*.md"):
        code = re.search(r"```python\n(.*?)```", file.read_text(), re.DOTALL)
        if file.stem != "README":
            assert code, file.name
            lines = [line for line in code[1].splitlines() if line.strip() and "import" not in line]
            assert len(lines) <= 45, (file.name, len(lines))
            assert max(map(len, code[1].splitlines())) <= 120, file.name
