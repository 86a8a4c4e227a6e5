"""The conformance table, the known failures that it leads to, and the page that explains them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from properties import cli
from properties.commands import conformance_table
from properties.commands.conformance_table import PACKAGES, Run, cell, explanation, page
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.engine.counterexample import Counterexample
from properties.engine.known import PUBLISHED, Known, load, located, verdict_for
from properties.engine.runner import Subject
from properties.guards.answer import INTERRUPTED
from properties.report.report import Line, made
from properties.targets.published import ADAPTERS

ROOT = Path(__file__).parent.parent
FINDINGS = ROOT / "docs" / "findings.md"


def line(law: str, status: str, reason: str = "", dtype: str = "float32") -> Line:
    return Line("published:mine", {}, dtype, "cpu", law, status, reason)


KNOWN = Known("manifold.last-axis-sums", "published:mine", "defect: a", Path("a.safetensors"), "docs/findings.md#a")


@pytest.mark.parametrize(
    ("statuses", "text"),
    [
        (["passed", "passed"], "2/2"),
        (["passed", "known", "not-applicable"], "1/2, **1 failed**, 1 n/a"),
        (["failed", "error"], "0/1, **1 failed**, **1 errors**"),
        (["not-applicable"], "1 n/a"),
    ],
)
def test_a_cell_says_what_held_what_failed_and_what_does_not_apply(statuses: list[str], text: str) -> None:
    assert cell([line("manifold.x", status) for status in statuses]) == text


def test_a_failing_cell_leads_to_its_counterexample_and_reason() -> None:
    lines = (
        line("manifold.last-axis-sums", "known", "defect: a"),
        line("mixing.x", "failed", "h_res"),
        line("depth.x", "not-applicable", "does not offer layers"),
    )
    text = page(
        [Run("mine", lines), Run("other", (), "no module named other")], [KNOWN], {"torch": "2"}, "2026-01-02", "ci"
    )
    assert "Generated on 2026-01-02 by" in text
    assert "| mine | float32 | 0/1, **1 failed** | 0/1, **1 failed** |  |  | 1 n/a |" in text
    assert "| mine | float32 | manifold.last-axis-sums | [defect: a](findings.md#a) | [file](../properties/" in text
    assert "| mine | float32 | mixing.x | **not explained**: h_res | |" in text
    assert "| other | not run: no module named other |" in text
    assert "* **mine**: does not offer layers (1)" in text


def test_a_known_failure_that_is_fixed_explains_nothing() -> None:
    assert explanation(line(KNOWN.law, "failed", "a sum"), [KNOWN]) is KNOWN  # found again by a search
    assert explanation(line(KNOWN.law, "failed", "fixed: remove this entry"), [KNOWN]) is None
    assert explanation(line(KNOWN.law, "error", "lost"), [KNOWN]) is None


def test_the_page_is_there_after_every_implementation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted run has found is not lost, does not look finished, and is not asked again."""
    out, asked = tmp_path / "page.md", list[str]()

    def run(name: str, report: Path, **options: object) -> Run:
        asked.append(name)
        if name == "mlx-lm":
            raise KeyboardInterrupt
        found = line("manifold.last-axis-sums", "passed")
        report.mkdir(parents=True, exist_ok=True)
        (report / "report.json").write_text(json.dumps(made([found], 1, {})))
        return Run(name, (found,))

    monkeypatch.setattr(conformance_table, "run", run)
    arguments = ["--out", str(out), "--campaigns", str(tmp_path / "campaigns"), "--engine", "serial"]
    assert CliRunner().invoke(cli.app, ["conformance", "mhc", "fla-naive", *arguments]).exit_code == 0
    assert "Generated on" in out.read_text()
    out.unlink()
    stopped = CliRunner().invoke(cli.app, ["conformance", "mhc", "mlx-lm", "fla", *arguments])
    assert stopped.exit_code == INTERRUPTED
    assert asked == ["mhc", "fla-naive", "mhc", "mlx-lm"]
    assert "Unfinished, 2 of 3 implementations have not been run" in out.read_text()
    assert "| mhc | float32 | 1/1 |" in out.read_text()
    assert "| fla | not run: not yet |" in out.read_text()


def test_every_module_names_its_packages() -> None:
    assert {module for module, _ in ADAPTERS.values()} == set(PACKAGES)


def test_the_file_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("published") == PUBLISHED
    (tmp_path / "published").touch()
    assert located("published") == Path("published")


# -- what is stored ---------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.replace(" ", "-"))
    return found


@pytest.mark.parametrize("entry", load(PUBLISHED), ids=lambda one: f"{one.implementation}-{one.law}-{one.dtype}")
def test_a_stored_failure_is_a_small_file_about_its_law_and_is_explained(entry: Known) -> None:
    assert entry.law in all_laws()
    assert entry.implementation.removeprefix("published:") in ADAPTERS
    assert entry.reason.startswith(("defect: ", "limit: "))
    page, _, anchor = entry.link.partition("#")
    assert page == "docs/findings.md"
    assert anchor in anchors(FINDINGS.read_text())
    stored = Counterexample.load(entry.counterexample)
    assert (stored.law, stored.target) == (entry.law, entry.implementation)
    assert entry.counterexample.stat().st_size < 20_000


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("entry", load(PUBLISHED), ids=lambda one: f"{one.implementation}-{one.law}-{one.dtype}")
def test_the_reference_satisfies_the_law_on_the_stored_case(entry: Known) -> None:
    """So the law still reads what is stored, and it is the implementation that fails there."""
    stored = Counterexample.load(entry.counterexample)
    reference = Reference(stored.dialect, "reference")
    reference.dtypes = (stored.dtype,)  # alone, so that no other dtype covers its logits
    subject = Subject(stored.target, reference, getattr(torch, stored.dtype), torch.device("cpu"))
    found = verdict_for(entry, subject)
    assert found.status == "failed", found.reason
    assert found.reason.startswith("fixed: remove this entry")
    assert "does not apply" not in found.reason


def test_no_counterexample_is_left_without_an_entry() -> None:
    files = {path.name for path in PUBLISHED.with_suffix("").iterdir()}
    assert files == {entry.counterexample.name for entry in load(PUBLISHED)}


def test_reproducers_are_short_and_stand_alone() -> None:
    found = re.findall(r"```python\n(.*?)```", FINDINGS.read_text(), re.DOTALL)
    assert found
    for source in found:
        assert len(source.strip().splitlines()) <= 15
        assert not re.search(r"properties|mhc_ref", source)
        compile(source, "reproducer", "exec")


@pytest.mark.slow
def test_no_library_is_imported_before_an_adapter_is_chosen() -> None:
    names = {
        "fla",
        "hyper_connections",
        "jax",
        "liger_kernel",
        "mhc",
        "mlx",
        "transformers",
        "triton",
        "x_transformers",
    }
    imports = "import sys, properties.targets.published, properties.targets.arrays"
    code = f"{imports}; print(sorted({names!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
