"""The wheel is what `pip install` gives: the commands work from it alone, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MINE = """
def project(logits):
    m = (logits - logits.amax(-2, keepdim=True)).exp()
    for _ in range(20):
        m = m / m.sum(-2, keepdim=True)
        m = m / m.sum(-1, keepdim=True)
    return m
"""


def ran(*command: str, cwd: Path, **more: str) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, without the network: its backend belongs to the extra `test`."""
    if find_spec("hatchling") is None:
        assert not os.environ.get("CI"), "hatchling is not installed: install the extra `test`"
        pytest.skip("not run: hatchling is not installed; the extra `test` has it")
    folder = tmp_path_factory.mktemp("wheel")
    build = (
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    )
    ran(sys.executable, "-m", "pip", *build, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = ran("git", "ls-files", "-co", "--exclude-standard", "mhc_ref", "properties", cwd=ROOT).split()
    assert packed == set(listed)


@pytest.mark.slow
def test_the_commands_work_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = ("install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    ran(sys.executable, "-m", "pip", *install, cwd=empty)
    (empty / "mine.py").write_text(MINE)
    alone = {"PYTHONPATH": str(site)}
    where = ran(sys.executable, "-c", "import properties; print(properties.__file__)", cwd=empty, **alone)
    assert Path(where.strip()).is_relative_to(site)
    words = (
        "check",
        "mine.py:project",
        "--dialect",
        "PAPER",
        "--law",
        "manifold.agrees",
        "--dtype",
        "float32",
        "-n",
        "0",
    )
    said = ran(sys.executable, str(site / "bin" / "mhc-properties"), *words, cwd=empty, **alone)
    assert "1 passed" in said
    assert (empty / ".mhc-properties" / "report.html").is_file()
    page = ran(
        sys.executable, str(site / "bin" / "mhc-properties"), "report", "--html", "page.html", cwd=empty, **alone
    )
    assert page.startswith("page.html")
