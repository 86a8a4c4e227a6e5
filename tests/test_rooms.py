"""The house: each room says what it is for, few of them, and no file too long; import-linter holds their borders."""

import ast
import re
import sys
import tomllib
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from properties.former import _NOW, now

ROOT = Path(__file__).parents[1]
PACKAGES = ("mhc_ref", "properties")
LONGEST = 400
MODULES_BEFORE = (ROOT / "tests" / "modules_of_0_2.txt").read_text().split()
SAID = "Longer than 400 lines:"


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


@pytest.mark.slow
def test_rooms_import_downwards_only(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)  # it silences the loggers that there are
    assert lint_imports(no_cache=True) == 0


def test_every_room_says_what_it_is_for():
    rooms = [path for path in (ROOT / "properties").iterdir() if path.is_dir() and any(path.glob("*.py"))]
    assert len(rooms) > 10
    for room in rooms:
        first = docstring(room / "__init__.py").partition("\n")[0]
        assert len(first) > 40, f"{room.name}: {first!r}"


def test_a_newcomer_sees_about_twenty_things():
    entries = [path.name for path in (ROOT / "properties").iterdir() if not path.name.startswith("__pycache__")]
    assert len(entries) <= 24, sorted(entries)


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_long_file_says_why(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        lines, name = len(path.read_text().splitlines()), path.relative_to(ROOT).as_posix()
        allowed = SAID in docstring(path)
        assert lines <= LONGEST or allowed, f"{name} has {lines} lines: split it, or say why in its docstring ({SAID})"
        assert lines > LONGEST or not allowed, f"{name} has {lines} lines: nothing has to be said any more"


def test_every_room_is_in_the_order_of_rooms():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    ordered = set(re.findall(r"\w+", " ".join(contract["layers"])))
    found = {path.stem for path in (ROOT / "properties").iterdir() if not path.name.startswith(("__", "py.typed"))}
    assert ordered == found


@pytest.mark.parametrize("former", sorted(_NOW))
def test_a_former_name_imports_what_is_there_now(former):
    sys.modules.pop(former, None)
    with warnings.catch_warnings(record=True) as told:  # of the packages that it lies in, too, if nobody imported them
        warnings.simplefilter("always")
        found = import_module(former)
    assert found is import_module(_NOW[former])
    said = [str(one.message) for one in told if one.category is DeprecationWarning]
    assert any(one.startswith(f"{former} is {_NOW[former]} now") for one in said), said


def test_every_module_of_the_last_release_is_found():
    """Under its name or as a former one; nothing is imported for it but the packages that it lies in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lost = [name for name in MODULES_BEFORE if find_spec(name) is None]
    assert lost == []
    assert len(MODULES_BEFORE) > 150


def test_a_name_that_never_was_is_no_former_name():
    assert now("properties.process.server") == "properties.targets.process.server"
    assert now("properties.laws") is now("properties.nothing") is now("torch.nn") is None
    with warnings.catch_warnings(), pytest.raises(ModuleNotFoundError):
        import_module("properties.nothing")
