"""Delete a family's files, its lines in the registry and its presets: everything else imports and does what it did."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mhc_ref import PRESETS, registry
from mhc_ref.presets import FIELDS
from properties.core.law import all_laws

ROOT = Path(__file__).parents[1]
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
    for law in json.loads(sys.argv[1]):
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


def chain(name: str) -> set[str]:
    """The presets that have a family, or are made from one that has it."""
    slots = {slot for slot, one in registry.BUILT_IN if one == name}
    fields = [field for field, slot in registry.SLOTS.items() if slot in slots]
    gone = {preset for preset, dialect in PRESETS.items() if any(getattr(dialect, field) == name for field in fields)}
    while more := {preset for preset, fields in FIELDS.items() if fields.get("like") in gone} - gone:
        gone |= more
    return gone


def without(name: str, folder: Path) -> set[str]:
    """A copy of both packages without a family; gives the presets that went with it."""
    for package in ("mhc_ref", "properties"):
        shutil.copytree(ROOT / package, folder / package)  # with what is compiled
    module = registry.module_of(name)
    files = [path for room in ROOMS for path in (folder / room).rglob(f"{module}*") if path.stem == module]
    assert {path.relative_to(folder).parts[:2] for path in files} >= {tuple(room.split("/")) for room in ROOMS}
    for path in files:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    listed = folder / "mhc_ref" / "registry.py"
    text, cut = re.subn(rf'^    \("\w+", "{name}"\),\n', "", listed.read_text(), flags=re.M)
    assert cut == sum(one == name for _, one in registry.BUILT_IN)
    listed.write_text(text)
    gone, presets = chain(name), folder / "mhc_ref" / "presets.py"
    lines, tree = presets.read_text().splitlines(keepends=True), ast.parse(presets.read_text())
    table = next(node.value for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and named(node, "FIELDS"))
    assert isinstance(table, ast.Dict)
    for key, value in reversed(list(zip(table.keys, table.values, strict=True))):
        assert isinstance(key, ast.Constant)
        if key.value in gone:
            del lines[key.lineno - 1 : value.end_lineno]
    presets.write_text("".join(lines))
    return gone


def named(node: ast.AnnAssign, name: str) -> bool:
    return isinstance(node.target, ast.Name) and node.target.id == name


def run(name: str, folder: Path, code: str) -> Any:
    """What is said by a program that has both packages without a family first on its path."""
    gone = without(name, folder)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    code += "json.dump(said, sys.stdout)"
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(LAWS), str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["from"].startswith(str(folder))
    for module, error in said["failed"].items():  # an adapter names what it was written for
        assert ".published." in module, (module, error)
        moved = any(name == registry.default(slot) for slot in registry.FORMULA)  # and so other dialects have moved
        assert moved or any(re.search(rf"'{one}'", error) for one in (name, *gone)), (module, error)
    assert said["laws"] == len(all_laws())
    return said


def test_the_package_does_without_one_family(tmp_path: Path) -> None:
    run(FAST, tmp_path, IMPORTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALONE])
def test_the_package_does_without_any_family(name: str, tmp_path: Path) -> None:
    said = run(name, tmp_path, IMPORTS + RUNS)
    assert said["explode"] == 7  # doublings until 100
    assert said["identify"] == [None, {}]
    assert {status for status, _ in said["held"].values()} <= {"passed", "not-applicable"}, said["held"]
    assert sum(status == "passed" for status, _ in said["held"].values()) >= 3, said["held"]


def test_few_families_are_alone_in_their_slot() -> None:
    assert {"copies"} >= ALONE
