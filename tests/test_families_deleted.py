"""Delete a family's files, its lines in the registry and its presets: everything else imports and does what it did."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from mhc_ref import PRESETS, registry
from mhc_ref.presets import FIELDS
from properties.core.law import all_laws

ROOT = Path(__file__).parents[1]
PACKAGES = ("mhc_ref", "properties")
ROOMS = ("mhc_ref/families", "mhc_ref/exact", "properties/families")
NAMES = tuple(dict.fromkeys(name for _, name in registry.BUILT_IN))
ALONE = {name for slot, name in registry.BUILT_IN if sum(where == slot for where, _ in registry.BUILT_IN) == 1}
"""Without the only family of a slot there is no dialect at all."""

FAST = "permutations"
LAWS = (
    "manifold.agrees-with-oracle",
    "coefficients.agrees-with-oracle",
    "block.agrees-with-oracle",
    "depth.stack-expands-and-collapses-once",
    "gradient.projection-pulls-back-the-unrolled-iteration",
)

IMPORTS = """
import importlib, json, pkgutil, sys
import mhc_ref, properties

failed = {}
for package in (mhc_ref, properties):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: None):
        if module.name.endswith(".__main__") or ".examples." in module.name:  # scripts
            continue
        try:
            importlib.import_module(module.name)
        except Exception as error:
            root = (getattr(error, "name", None) or "mhc_ref").partition(".")[0]
            if not isinstance(error, ModuleNotFoundError) or root in ("mhc_ref", "properties"):
                failed[module.name] = f"{type(error).__name__}: {error}"
from properties.core.law import all_laws
said = {"from": mhc_ref.__file__, "failed": failed, "laws": len(all_laws())}
"""
"""Every module that needs no foreign library."""

RUNS = """
from pathlib import Path
import torch
from mhc_ref import PRESETS
from properties.core.implementation import Reference
from properties.diagnosis.diagnose import identify
from properties.engine.runner import Profile, Subject, examine
from properties.explosion import find_minimal

torch.set_num_threads(1)
dialects = dict(list(PRESETS.items())[:2])
held = said["held"] = {}
for (name, dialect), dtype in zip(dialects.items(), (torch.float32, torch.float64)):
    for law in json.loads(sys.argv[1])[: None if dtype == torch.float32 else 3]:
        subject = Subject(name, Reference(dialect, name), dtype, torch.device("cpu"))
        profile = Profile(examples=4, derandomise=True, shrink=False)
        verdict = examine(all_laws()[law], subject, profile, directory=Path(sys.argv[2]))
        held[f"{law} {name} {dtype}"] = [verdict.status, verdict.reason]
name, dialect = next(iter(dialects.items()))
found = identify(Reference(dialect, name), seconds=2.0)
said["identify"] = [found.deviation, {field: list(map(str, pair)) for field, pair in found.differs.items()}]
said["explode"] = find_minimal("residual", threshold=100).depth
"""
"""Some laws on what is left, and both other questions."""

SERVER = """
import gc, json, os, signal, sys
import hypothesis, mpmath, numpy, pytest, torch

gc.freeze()  # so that children need not copy what is looked through for garbage
for line in sys.stdin:
    code, folder, laws = json.loads(line)
    process = os.fork()
    if process:
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
        continue
    signal.alarm(500)
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv[1:] = [laws, folder]
    status = 1
    with open("said", "w") as sys.stdout, open("errors", "w") as sys.stderr:
        try:
            exec(code + "json.dump(said, sys.stdout)", {"__name__": "__main__"})
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
    os._exit(status)
"""
"""Takes programs, folders and laws, a line each, and runs them in children that have the libraries already, and
nothing of both packages; says how each ended."""


def chain(name: str) -> set[str]:
    """The presets that have a family, or are made from one that has it."""
    slots = {slot for slot, one in registry.BUILT_IN if one == name}
    fields = [field for field, slot in registry.SLOTS.items() if slot in slots]
    gone = {preset for preset, dialect in PRESETS.items() if any(getattr(dialect, field) == name for field in fields)}
    while more := {preset for preset, fields in FIELDS.items() if fields.get("like") in gone} - gone:
        gone |= more
    return gone


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of both packages in which everything is compiled, beside its source. Copies of it keep the times of the
    files, so that in none of them it is compiled again."""
    folder = tmp_path_factory.mktemp("packages")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", *PACKAGES], cwd=folder, env=beside(), check=True)
    return folder


def beside() -> dict[str, str]:
    """The environment, in which compiled modules lie beside their sources."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPYCACHEPREFIX"}


def without(name: str, compiled: Path, folder: Path) -> set[str]:
    """A copy of both packages without a family; gives the presets that went with it.

    Files are links to those that are compiled, but for what is written anew.
    """
    for package in PACKAGES:
        shutil.copytree(compiled / package, folder / package, copy_function=os.link)
    module = registry.module_of(name)
    files = [path for room in ROOMS for path in (folder / room).rglob(f"{module}*") if path.stem == module]
    assert {path.relative_to(folder).parts[:2] for path in files} >= {tuple(room.split("/")) for room in ROOMS}
    for path in files:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    listed = folder / "mhc_ref" / "registry.py"
    text, cut = re.subn(rf'^    \("\w+", "{name}"\),\n', "", listed.read_text(), flags=re.M)
    assert cut == sum(one == name for _, one in registry.BUILT_IN)
    written(listed, text)
    gone, presets = chain(name), folder / "mhc_ref" / "presets.py"
    lines, tree = presets.read_text().splitlines(keepends=True), ast.parse(presets.read_text())
    table = next(node.value for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and named(node, "FIELDS"))
    assert isinstance(table, ast.Dict)
    for key, value in reversed(list(zip(table.keys, table.values, strict=True))):
        assert isinstance(key, ast.Constant)
        if key.value in gone:
            del lines[key.lineno - 1 : value.end_lineno]
    written(presets, "".join(lines))
    return gone


def written(path: Path, text: str) -> None:
    """Write a file anew that is a link."""
    path.unlink()
    path.write_text(text)


def named(node: ast.AnnAssign, name: str) -> bool:
    return isinstance(node.target, ast.Name) and node.target.id == name


@pytest.fixture(scope="module")
def served() -> Generator[subprocess.Popen[str]]:
    """The process that all copies are tried in children of."""
    environment = {**beside(), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def run(served: subprocess.Popen[str], compiled: Path, tmp_path: Path) -> Callable[[str, str], Any]:
    """What is said by a program that has both packages without a family first on its path."""

    def ran(name: str, code: str) -> Any:
        gone = without(name, compiled, tmp_path)
        assert served.stdin is not None
        assert served.stdout is not None
        served.stdin.write(json.dumps([code, str(tmp_path), json.dumps(LAWS)]) + "\n")
        served.stdin.flush()
        assert served.stdout.readline() == "0\n", (tmp_path / "errors").read_text()[-3000:]
        said = json.loads((tmp_path / "said").read_text().splitlines()[-1])
        assert said["from"].startswith(str(tmp_path))
        for module, error in said["failed"].items():  # an adapter names what it was written for
            assert ".published." in module, (module, error)
            moved = any(name == registry.default(slot) for slot in registry.FORMULA)  # and so other dialects have moved
            assert moved or any(re.search(rf"'{one}'", error) for one in (name, *gone)), (module, error)
        assert said["laws"] == len(all_laws())
        return said

    return ran


@pytest.mark.slow
def test_the_package_does_without_one_family(run: Callable[[str, str], Any]) -> None:
    run(FAST, IMPORTS)


@pytest.mark.one_in(8)
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALONE])
def test_the_package_does_without_any_family(name: str, run: Callable[[str, str], Any]) -> None:
    said = run(name, IMPORTS + RUNS)
    assert said["explode"] == 7  # doublings until 100
    assert said["identify"] == [None, {}]
    assert {status for status, _ in said["held"].values()} <= {"passed", "not-applicable"}, said["held"]
    assert sum(status == "passed" for status, _ in said["held"].values()) >= 3, said["held"]


def test_few_families_are_alone_in_their_slot() -> None:
    assert {"copies"} >= ALONE
