"""What stands in examples/ and in docs/families.md does what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

from mhc_ref import registry
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine
from properties.families.claimed import WORDS
from properties.targets.target import resolve

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "families.md").read_text()
BRINGS = str(ROOT / "examples")
CPU = torch.device("cpu")
ORACLE = "manifold.agrees-with-oracle"
QUICK = {
    "examples/by_hand.py:Mine": (ORACLE, "coefficients.agrees-with-oracle", "block.agrees-with-oracle"),
    "examples/arrays.py:Mine": (ORACLE, "execution.projection-is-deterministic"),
    "examples/module.py:Mine": (ORACLE, "coefficients.agrees-with-oracle"),
    "examples/c_kernel.py:Mine": (ORACLE, "execution.projection-is-deterministic"),
    "examples/cayley.py:Mine": ("manifold.orthogonal-matrices-preserve-norms",),
    "examples/claims.py:Mine": ("manifold.claimed-sums-are-one", "execution.projection-is-deterministic"),
}
DTYPE = {"examples/c_kernel.py:Mine": torch.float64}
"""Of examples that do not take float32."""


def verdicts(target: str, laws: Any, dtype: torch.dtype, where: Path, examples: int) -> dict[str, Any]:
    subject = Subject(target, resolve(str(ROOT / target)), dtype, CPU)
    profile = Profile(examples, derandomise=True, shrink=False)
    return {law: examine(all_laws()[law], subject, profile, directory=where) for law in laws}


@pytest.mark.slow
@pytest.mark.parametrize("target", QUICK)
def test_an_example_keeps_a_few_laws(target: str, tmp_path: Path) -> None:
    found = verdicts(target, QUICK[target], DTYPE.get(target, torch.float32), tmp_path, 2)
    assert {law: one.status for law, one in found.items()} == dict.fromkeys(QUICK[target], "passed")


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", QUICK)
def test_an_example_keeps_every_law(target: str, dtype: torch.dtype, tmp_path: Path) -> None:
    if dtype not in resolve(str(ROOT / target)).dtypes:
        pytest.skip("it does not declare this dtype")
    found = verdicts(target, [law for law in all_laws() if not law.startswith("device")], dtype, tmp_path, 10)
    assert not {law: one.message or one.reason for law, one in found.items() if one.status in ("failed", "error")}


def test_a_slip_in_the_example_by_hand_is_found(tmp_path: Path) -> None:
    made: Any = resolve(str(ROOT / "examples/by_hand.py:Mine"))
    right = made.post
    made.post = lambda x, y, h_post, h_res: right(x, y, h_post, h_res.mT)
    profile = Profile(6, derandomise=True, shrink=False)
    law = all_laws()["block.agrees-with-oracle"]
    assert examine(law, Subject("wrong", made, torch.float64, CPU), profile, directory=tmp_path).status == "failed"


def test_a_slip_in_the_example_of_a_deviation_is_seen(tmp_path: Path) -> None:
    found = verdicts("examples/deviation.py:Mine", (WRITES, MIXES), torch.float64, tmp_path, 6)
    assert {law: one.status for law, one in found.items()} == {WRITES: "failed", MIXES: "passed"}


WRITES, MIXES = "mixing.post-is-the-declared-combination", "mixing.permutations-carry-streams"
OWN = "mixing.equal-streams-see-row-sums-alone"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("control:linear@PAPER", "passed"),
        ("ref:DEEPSEEK_V4", "passed"),
        ("deviation:h-res-transposed@PAPER", "failed"),
        ("deviation:streams-rolled@PAPER", "failed"),
        ("deviation:h-res-symmetrised@PAPER", "passed"),  # post is right there
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_law_of_the_examples_bites_and_accuses_nobody(
    target: str, status: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BRINGS)  # for what it imports beside itself
    spec = spec_from_file_location("a_law_of_ones_own", Path(BRINGS) / "test_law.py")
    assert spec is not None
    assert spec.loader is not None
    brought = module_from_spec(spec)  # under a name of its own: there is a test_law.py here, too
    monkeypatch.setitem(sys.modules, spec.name, brought)
    spec.loader.exec_module(brought)
    own = brought.equal_streams_see_row_sums_alone
    profile = Profile(10, derandomise=True, shrink=False)
    verdict = examine(own, Subject(target, resolve(target), dtype, CPU), profile, directory=tmp_path)
    assert verdict.status == status
    if status == "failed":
        assert f"no replay: {OWN} is no law of this package" in verdict.message


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="not run: there is no node on this machine")
def test_the_block_in_node_keeps_a_law_for_each_method(tmp_path: Path) -> None:
    made = resolve(f"proc:node {BRINGS}/process.mjs")
    laws = (ORACLE, "coefficients.agrees-with-oracle", "mixing.pre-is-the-weighted-sum", WRITES)
    profile = Profile(2, derandomise=True, shrink=False)
    subject = Subject("proc:", made, torch.float64, CPU)
    found = {law: examine(all_laws()[law], subject, profile, directory=tmp_path).status for law in laws}
    assert found == dict.fromkeys(laws, "passed")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax") is None, reason="not run: jax, about 500 MB with what it needs, is in no extra")
def test_the_projection_in_jax_keeps_its_laws(tmp_path: Path) -> None:
    laws = (ORACLE, "gradient.projection-pulls-back-the-unrolled-iteration")
    found = verdicts("examples/jax_arrays.py:Mine", laws, torch.float64, tmp_path, 2)
    assert {law: one.status for law, one in found.items()} == dict.fromkeys(laws, "passed")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "tests"), [("test_mine.py", 3), ("test_law.py", 3)])
def test_the_test_files_of_the_examples_pass(file: str, tests: int) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", file]
    done = subprocess.run(command, cwd=ROOT / "examples", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{tests} passed" in done.stdout


@pytest.mark.slow
def test_the_monitor_of_the_example_warns_while_the_loss_falls(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "training.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "layer 11 (layer 11) leaves its bound (forward 10" in done.stderr
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in done.stdout.splitlines()]
    assert losses[-1] < losses[0]
    assert (tmp_path / "gains.jsonl").is_file()


def test_the_deviation_of_the_example_is_killed(tmp_path: Path) -> None:
    made = resolve(str(ROOT / "examples/cayley.py:Mine"))
    (wrong,) = (formula for _, formula in resolve_family(made).deviations().values())
    made.project = lambda logits: wrong(logits, made.dialect)  # pyright: ignore[reportAttributeAccessIssue]
    profile = Profile(6, derandomise=True, shrink=False)
    law = all_laws()["manifold.orthogonal-matrices-preserve-norms"]
    assert examine(law, Subject("wrong", made, torch.float64, CPU), profile, directory=tmp_path).status == "failed"


def resolve_family(made: Any) -> Any:
    """The family of the mix of an implementation."""
    from properties.core.family import mix_of

    return mix_of(made.dialect)


def test_an_example_is_about_forty_lines() -> None:
    """Of code: docstrings, comments, blank lines and a second formula for the deviation are no part of the bargain."""
    source = (ROOT / "examples" / "cayley.py").read_text()
    family = source[source.index("class Cayley") : source.index("def symmetric")]
    assert len(lines_of_code(family)) <= 40


def lines_of_code(source: str) -> list[str]:
    bare = re.sub(r'""".*?"""', "", source, flags=re.DOTALL)
    return [line for line in bare.splitlines() if line.strip() and not line.strip().startswith("#")]


@pytest.mark.slow
def test_the_family_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", {})  # another test may have a family of that name
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Tempered" in one)
    file = tmp_path / "tempered_of_the_page.py"
    file.write_text(code)
    subject = Subject("page", resolve(f"{file}:Mine"), torch.float32, CPU)
    profile = Profile(5, derandomise=True, shrink=False)
    for law in ("manifold.agrees-with-oracle", "manifold.claimed-sums-are-one", "manifold.no-entry-is-negative"):
        verdict = examine(all_laws()[law], subject, profile, directory=tmp_path)
        assert verdict.status == "passed", verdict.message


def test_the_page_lists_what_can_be_claimed() -> None:
    listed = re.findall(r"^\| ([a-z0-9 -]+?) \| (.+?) \|$", PAGE[PAGE.index("| words | M of") :], re.MULTILINE)
    assert {words: meaning for words, meaning in listed if words != "words"} == {w: m for w, (_, m) in WORDS.items()}


@pytest.mark.slow
def test_no_network_of_the_example_explodes() -> None:
    """The cap of `explode` follows from what the family guarantees."""
    asked = ["explode", "mhc", "--impl", "examples/cayley.py:Mine", "--gain", "spectral", "--threshold", "3", "--json"]
    ran = subprocess.run([sys.executable, "-m", "properties.cli", *asked], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode in (0, 1), ran.stderr
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert (answer["found"], answer["impossible"]) == (False, True)
