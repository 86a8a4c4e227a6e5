"""Which families there are, and what those from outside bring to a dialect."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import mhc_ref
from mhc_ref import PAPER, PRESETS, Dialect, registry
from mhc_ref.dialect import FIELDS
from mhc_ref.registry import Field


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families of a test are known to that test alone."""
    monkeypatch.setattr(registry, "_outside", {})


class Tempered:
    """Softmax of the rows of Z / tau."""

    slot, name = "mix", "tempered"
    BY_STREAM = True
    FIELDS: ClassVar[dict[str, Field]] = {
        "tau": Field(1.0, lambda tau: 0 < tau < 100, "a number between 0 and 100"),
        "sizes": Field((2, 2), lambda sizes: all(size > 0 for size in sizes), "numbers of streams above 0"),
    }

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return (n, n)

    def project(self, logits: Any, dialect: Dialect) -> Any:
        return (logits / dialect.tau).softmax(-1)


def family(slot: str = "mix", name: str = "plain", **more: Any) -> Any:
    """The least that can be registered."""
    formulas: dict[str, Callable[..., Any]] = {
        registry.FORMULA[slot]: lambda *_: None,
        "shape": lambda n, dialect: (n, n),
    }
    return SimpleNamespace(**{"slot": slot, "name": name, **formulas, **more})


# Fields of its own


def test_a_family_brings_fields_to_the_dialects_that_choose_it() -> None:
    dialect = PAPER.with_(residual=Tempered(), tau=0.05)
    assert (dialect.residual, dialect.tau, dialect.sizes) == ("tempered", 0.05, (2, 2))
    assert dialect.fields()["tau"] == 0.05
    assert "own" not in dialect.fields()
    assert repr(dialect).endswith(", sizes=(2, 2), tau=0.05)")


@pytest.mark.parametrize(
    "same",
    [
        lambda dialect: Dialect(**dialect.fields()),
        lambda dialect: Dialect(**dataclasses.asdict(dialect)),
        lambda dialect: Dialect(*dataclasses.astuple(dialect)),
        lambda dialect: pickle.loads(pickle.dumps(dialect)),
        copy.deepcopy,
        dataclasses.replace,
        lambda dialect: dialect.with_(),
        lambda dialect: Dialect(**{**dialect.fields(), "sizes": [3, 4]}),  # as JSON gives it back
    ],
)
def test_a_dialect_is_its_fields(same: Any) -> None:
    dialect = Dialect(residual=Tempered(), tau=2, sizes=(3, 4))
    again = same(dialect)
    assert again == dialect
    assert hash(again) == hash(dialect)
    assert repr(again) == repr(dialect)
    assert dialect != dialect.with_(tau=3)


def test_dialects_differ_by_the_fields_that_one_of_them_lacks() -> None:
    dialect = PAPER.with_(residual=Tempered(), tau=0.05)
    assert dialect.difference(PAPER) == {
        "residual": ("tempered", "sinkhorn"),
        "tau": (0.05, None),
    }
    assert dialect.difference(PAPER.with_(temperature=0.05)) == {
        "residual": ("tempered", "sinkhorn"),
        "tau": (0.05, None),
        "temperature": (None, 0.05),
    }
    assert dialect.difference(dialect.with_(tau=1)) == {"tau": (0.05, 1.0)}


def test_fields_go_with_their_family() -> None:
    dialect = PAPER.with_(residual=Tempered(), tau=0.05)
    assert dialect.with_(iterations=3).tau == 0.05
    assert dialect.with_(residual="sinkhorn") == PAPER
    other = family(name="other", FIELDS={"tau": Field("warm", lambda tau: isinstance(tau, str), "a word")})
    assert dialect.with_(residual=other).tau == "warm"
    with pytest.raises(AttributeError, match="no attribute 'tau'"):
        _ = PAPER.tau


def test_a_field_of_two_families_at_once_is_refused() -> None:
    Dialect(residual=Tempered(), pre=family("gate", "cool", FIELDS={"heat": Field(1, bool, "a number")}), post="cool")
    gate = family("gate", "warm", FIELDS={"tau": Field(1.0, bool, "a number")})
    with pytest.raises(
        ValueError, match="the mix family 'tempered' brings a field 'tau', which the dialect has already"
    ):
        Dialect(residual=Tempered(), pre=gate)
    for taken in ("iterations", "with_", "first_axis"):
        with pytest.raises(ValueError, match=f"brings a field {taken!r}, which the dialect has already"):
            Dialect(residual=family(name=f"{taken}s", FIELDS={taken: Field(1, bool, "a number")}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": 0}, r"Dialect.tau is 0; expected a number between 0 and 100"),
        ({"tau": "hot"}, r"Dialect.tau is 'hot'; expected a number between 0 and 100"),
        ({"sizes": [[1]]}, r"Dialect.sizes is \[\[1\]\]; expected numbers of streams above 0"),
        ({"sizes": 3}, r"Dialect.sizes is 3; expected numbers of streams above 0"),
    ],
)
def test_a_value_that_a_family_does_not_admit_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dialect(residual=Tempered(), **fields)


def test_a_field_that_there_is_not_is_named() -> None:
    registry.register(Tempered())
    with pytest.raises(TypeError, match="Dialect has no field 'iteration'; did you mean 'iterations'"):
        Dialect(iteration=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no field 'tau'; it is a field of residual='tempered', which is not chosen"):
        Dialect(tau=3)
    with pytest.raises(TypeError, match=r"Dialect has no field 'heat'$"):
        PAPER.with_(heat=3)


def test_fields_may_be_given_by_place_and_once_only() -> None:
    assert Dialect("sinkhorn", "column", iterations=3) == Dialect(last_axis="column", iterations=3)
    with pytest.raises(TypeError, match=r"Dialect\.last_axis was given twice: by its place and by its name"):
        Dialect("sinkhorn", "column", last_axis="row")
    with pytest.raises(
        TypeError, match=rf"Dialect has {len(FIELDS) + 1} fields, and {len(FIELDS) + 2} values were given without"
    ):
        Dialect(*dataclasses.astuple(PAPER), 1)


def test_todays_dialects_are_written_as_before() -> None:
    assert repr(PAPER).startswith("Dialect(residual='sinkhorn', last_axis='row', start='exp', ")
    assert ", expand='copies', collapse='sum', " in repr(PAPER)
    assert all(tuple(dialect.fields())[: len(FIELDS)] == FIELDS for dialect in PRESETS.values())


# Registering


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: SimpleNamespace(slot="blend", name="a"), "has slot 'blend'; expected one of 'mix', 'gate', "),
        (lambda: object(), "has slot None; expected one of 'mix'"),
        (lambda: family(name="two words"), "has name 'two words'; expected an identifier"),
        (lambda: family(project=None), "the mix family 'plain' has no method `project`"),
        (lambda: family(shape=None), "the mix family 'plain' has no method `shape`"),
        (lambda: family(name="sinkhorn"), r"a mix family called 'sinkhorn' already \(it comes with mhc_ref\)"),
    ],
)
def test_what_cannot_be_registered_is_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.register(given())


def test_a_class_will_do_for_its_object() -> None:
    assert Dialect(residual=Tempered).tau == 1.0
    assert isinstance(registry.outside("mix", "tempered"), Tempered)


def test_a_family_of_another_slot_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Dialect.pre is .*, a family of the slot 'mix'; expected one of 'gate'"):
        Dialect(pre=Tempered())


def test_what_a_family_cannot_go_with_is_said_in_its_words() -> None:
    needs_tanh = family(conflict=lambda dialect: None if dialect.dynamic == "tanh" else "plain needs dynamic='tanh'")
    assert Dialect(residual=needs_tanh, dynamic="tanh").residual == "plain"
    with pytest.raises(ValueError, match="plain needs dynamic='tanh'"):
        Dialect(residual="plain")


def test_a_projection_is_shared_where_logits_belong_to_streams() -> None:
    assert Dialect(residual=Tempered(), shared_projection=True).shared_projection
    with pytest.raises(ValueError, match="shared_projection=True conflicts with residual='plain': a shared projection"):
        Dialect(residual=family(), shared_projection=True)


SOURCE = """
class Mine:
    slot, name = "mix", "mine"
    def __init__(self, tau=1):
        self.tau = tau
    def shape(self, n, dialect):
        return (n, n)
    def project(self, logits, dialect):
        return logits
"""


def run(path: Path, module: str) -> Any:
    """Run a file as a module of some name, as an import, a reload or a target does."""
    path.write_text(SOURCE)
    scope: dict[str, Any] = {"__name__": module, "__file__": str(path)}
    sys.modules[module] = SimpleNamespace(__file__=str(path), __name__=module)  # type: ignore[assignment]
    exec(compile(SOURCE, str(path), "exec"), scope)
    return scope["Mine"]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


@pytest.mark.usefixtures("modules")
def test_the_same_family_from_the_same_file_is_the_same(tmp_path: Path) -> None:
    for module in ("mine", "mine", "__mp_main__", "_mhc_target_mine"):
        made = run(tmp_path / "mine.py", module)()
        assert registry.register(made) is registry.outside("mix", "mine") is made


@pytest.mark.usefixtures("modules")
def test_another_family_of_the_same_name_is_refused(tmp_path: Path) -> None:
    mine = run(tmp_path / "mine.py", "mine")
    registry.register(mine())
    for other in (run(tmp_path / "theirs.py", "mine")(), mine(tau=2), family(name="mine")):
        with pytest.raises(ValueError, match=r"a mix family called 'mine' already \(it is from .*mine.py'\]\)"):
            registry.register(other)
    assert registry.names("mix")[-1] == "mine"


# Entry points


class Entry:
    """An entry point of an installed package."""

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        self.name, self.value, self.load = name, f"{name}:FAMILY", load
        self.dist = SimpleNamespace(name=f"{name}-package")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*entries: Entry) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: entries)
        registry._packaged.cache_clear()

    yield install
    monkeypatch.undo()
    registry._packaged.cache_clear()


def broken() -> Any:
    raise ImportError("no module named 'cuda_mixes'")


def test_an_installed_package_names_families(installed: Any) -> None:
    installed(Entry("theirs", broken), Entry("tempered", lambda: Tempered))
    assert Dialect(residual="tempered", tau=3).tau == 3
    own = ("sinkhorn", "permutations", "unconstrained", "identity", "kronecker", "cayley", "carry")
    assert registry.names("mix") == (*own, "tempered")


def test_a_broken_package_is_named_when_its_family_is_asked_for(installed: Any) -> None:
    installed(Entry("theirs", broken))
    assert Dialect() == Dialect(**Dialect().fields())
    assert "theirs" not in registry.names("mix")
    message = (
        "theirs = theirs:FAMILY of the package theirs-package failed with ImportError: no module named 'cuda_mixes'"
    )
    with pytest.raises(ValueError, match=f"Dialect.residual is 'theirs'; the entry point {message}"):
        Dialect(residual="theirs")
    with pytest.raises(
        ValueError, match=r"expected one of 'sinkhorn', 'permutations', .* once the file or the package"
    ):
        Dialect(residual="nobody")


# What is paid for


@pytest.mark.slow
def test_nobody_pays_for_the_families_of_others() -> None:
    """A dialect imports the formulas of the families that it names; presets are made when they are asked for."""
    code = (
        "import sys, mhc_ref, mhc_ref.exact; mhc_ref.exact.Exact(mhc_ref.PAPER).project([[1]]);"
        "print(*sorted(m for m in sys.modules if m.startswith(('mhc_ref.families.', 'mhc_ref.exact.'))))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    named = {"copies", "linear", "sigmoid", "sinkhorn", "streams", "streamwise", "sum"}
    assert {name.removeprefix("mhc_ref.families.") for name in out.split() if ".families." in name} == named
    assert "mhc_ref.exact.sinkhorn" in out
    assert "permutations" not in out


def test_a_preset_is_a_name_of_the_package() -> None:
    for name, dialect in PRESETS.items():
        assert getattr(mhc_ref, name) is getattr(mhc_ref.presets, name) is dialect
        assert name in dir(mhc_ref)
        assert name in mhc_ref.__all__  # `from mhc_ref import *` brings it too
    with pytest.raises(AttributeError, match="module 'mhc_ref' has no attribute 'NOBODYS'"):
        _ = mhc_ref.NOBODYS
