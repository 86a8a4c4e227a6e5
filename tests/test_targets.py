"""TARGET in all its forms: what each finds, and what a user reads where there is nothing to find."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from snapshots import recorded

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LIGER, MHC_LITE, PAPER, PRESETS
from properties.implementation import Implementation, Projection, Reference, offers
from properties.target import TargetError, resolve

ZOO = """
import torch
import mhc_ref
from properties import Implementation, Reference

class Mine(Implementation):
    def project(self, logits):
        return mhc_ref.project(logits, self.dialect)

class Named(Mine):
    name = "my kernel"

instance = Mine()

def factory():
    return Mine()

def with_defaults(dialect=mhc_ref.LIGER):
    return Reference(dialect, "")

def plain(logits):
    return mhc_ref.project(logits, mhc_ref.PAPER)

def anything(*tensors):
    return mhc_ref.project(tensors[0], mhc_ref.PAPER)

def makes_a_function():
    return plain

class Net(torch.nn.Module):
    def forward(self, logits):
        return mhc_ref.project(logits, mhc_ref.PAPER)

net = Net()
number = 3

class Foreign:
    pass

class Empty(Implementation):
    pass

class Needy(Mine):
    def __init__(self, hidden_size):
        pass

class Broken(Mine):
    def __init__(self):
        raise RuntimeError("no kernel for this machine")

class Quitter(Mine):
    def __init__(self):
        raise SystemExit(0)

class NamedDialect(Mine):
    dialect = "PAPER"

class NoStreams(Mine):
    streams = ()

class OneNumber(Mine):
    streams = 4

class ZeroStreams(Mine):
    streams = (0, 4)

class NoDtypes(Mine):
    dtypes = ()

class BareDtype(Mine):
    dtypes = torch.float32

class DtypeWord(Mine):
    dtypes = "float32"

class IntegerDtype(Mine):
    dtypes = (torch.int64,)

class UnknownDtype(Mine):
    dtypes = ("float33",)

class UnknownKnob(Mine):
    tunable = frozenset({"iteration_count"})

class NoKnobs(Mine):
    tunable = None

class UnknownPart(Mine):
    emits = ("res", "gate")

class UnknownMixing(Mine):
    mixing = "float32"

class UnknownDevice(Mine):
    devices = ("gpu",)

class OneDevice(Mine):
    devices = ("cuda:0",)

class NumberedDevice(Mine):
    devices = (0,)

class NoTokens(Mine):
    max_tokens = 0

class WordyTokens(Mine):
    max_tokens = "3"

class NoChannels(Mine):
    channel_multiple = 0

class WordyScale(Mine):
    least_scale = "1e-6"

class NoParts(Mine):
    emits = ()

class KnobWithoutHandle(Mine):
    tunable = frozenset({"iterations"})

class TooManyPermutations(Mine):
    dialect = mhc_ref.MHC_LITE
    streams = (1, 2, 8)

class DtypeNames(Mine):
    dtypes = ("float32", torch.bfloat16)
"""

LAZY = """
def __getattr__(name):
    if name == "Lazy":
        from properties import Reference
        return Reference
    if name == "needs_triton":
        raise ImportError("No module named 'triton'")
    raise AttributeError(name)
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with targets, good and bad."""
    (tmp_path / "zoo.py").write_text(ZOO)
    (tmp_path / "lazy.py").write_text(LAZY)
    (tmp_path / "raises.py").write_text("import torch\ntorch.no_such_function\n")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "quits.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "neighbour.py").write_text("from zoo import Mine\n")
    (tmp_path / "mhc_zoo_package.py").write_text("from properties import Reference\nimplementation = Reference()\n")
    (tmp_path / "mhc_quitting_package.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "kind", "name", "dialect"),
    [
        ("ref", Reference, "ref:PAPER", PAPER),
        *((f"ref:{preset}", Reference, f"ref:{preset}", dialect) for preset, dialect in PRESETS.items()),
        ("deviation:h-res-transposed", Implementation, "deviation:h-res-transposed", PAPER),
        ("deviation:h-res-transposed@LIGER", Implementation, "deviation:h-res-transposed", LIGER),
        ("control:reversed", Implementation, "control:reversed", PAPER),
        ("control:reversed@MHC_LITE", Implementation, "control:reversed", MHC_LITE),
        ("zoo.py:Mine", Implementation, "Mine", PAPER),
        ("./zoo.py:Named", Implementation, "my kernel", PAPER),
        ("zoo.py:instance", Implementation, "instance", PAPER),
        ("zoo.py:factory", Implementation, "factory", PAPER),
        ("zoo.py:with_defaults", Reference, "with_defaults", LIGER),
        ("neighbour.py:Mine", Implementation, "Mine", PAPER),
        ("lazy.py:Lazy", Reference, "ref:PAPER", PAPER),
        ("mhc_zoo_package:implementation", Reference, "ref:PAPER", PAPER),
        ("properties.implementation:Reference", Reference, "ref:PAPER", PAPER),
    ],
)
def test_a_target_names_an_implementation(
    zoo: Path, target: str, kind: type, name: str, dialect: mhc_ref.Dialect
) -> None:
    found = resolve(target)
    assert isinstance(found, kind)
    assert found.name == name
    assert found.dialect == dialect


@pytest.mark.parametrize("attribute", ["plain", "anything", "makes_a_function", "net"])
def test_a_callable_is_a_projection_in_the_dialect_it_claims(zoo: Path, attribute: str) -> None:
    found = resolve(f"zoo.py:{attribute}", "PAPER")
    assert isinstance(found, Projection)
    assert offers(found) == {"project": "own"}
    logits = torch.arange(9.0).reshape(1, 3, 3)
    assert torch.equal(found.project(logits), mhc_ref.project(logits, PAPER))


def test_a_path_is_split_at_its_last_colon(zoo: Path) -> None:
    (zoo / "a:b").mkdir()
    (zoo / "a:b" / "c.py").write_text(ZOO)
    assert resolve("a:b/c.py:Mine").name == "Mine"


def test_a_projection_of_permutations_takes_the_streams_that_have_coefficients(zoo: Path) -> None:
    assert max(resolve("zoo.py:plain", "MHC_LITE").streams) == 5


def test_dtypes_may_be_names(zoo: Path) -> None:
    assert list(resolve("zoo.py:DtypeNames").dtypes) == ["float32", torch.bfloat16]


def test_an_implementation_states_its_own_dialect(zoo: Path) -> None:
    assert resolve("zoo.py:Mine", "DEEPSEEK_V4").dialect == PAPER != DEEPSEEK_V4


def test_the_import_path_is_left_as_it_was(zoo: Path) -> None:
    before = list(sys.path)
    resolve("neighbour.py:Mine")
    resolve("mhc_zoo_package:implementation")
    with pytest.raises(TargetError):
        resolve("raises.py:x")
    assert sys.path == before


def test_a_file_that_failed_to_import_is_read_again_once_it_is_mended(zoo: Path) -> None:
    with pytest.raises(TargetError):
        resolve("raises.py:Mine")
    (zoo / "raises.py").write_text(ZOO)
    assert resolve("raises.py:Mine").name == "Mine"


UNUSABLE = {
    "forms": ["", "foo", "foo:", ":x", "zoo.py", "ref:PAPR", "ref:", "control:reversed@PAPR"],
    "catalogues": ["deviation:h-res-transpose", "deviation:h-res-transposed@RESIDUAL", "control:log_domain"],
    "files": ["no/such.py:x", "folder.py:x", "raises.py:x", "syntax.py:x", "quits.py:x", "lazy.py:Eager"],
    "modules": ["no_such_package:x", "mhc_quitting_package:x", "mhc_zoo_package:other", "lazy.py:needs_triton"],
    "objects": ["zoo.py:number", "zoo.py:Foreign", "zoo.py:Empty", "zoo.py:plain", "zoo.py:Net"],
    "constructors": ["zoo.py:Needy", "zoo.py:Broken", "zoo.py:Quitter"],
    "declarations": [
        f"zoo.py:{name}"
        for name in (
            "NamedDialect",
            "NoStreams",
            "OneNumber",
            "ZeroStreams",
            "NoDtypes",
            "BareDtype",
            "DtypeWord",
            "IntegerDtype",
            "UnknownDtype",
            "UnknownKnob",
            "NoKnobs",
            "UnknownPart",
            "UnknownMixing",
            "UnknownDevice",
            "OneDevice",
            "NumberedDevice",
            "NoTokens",
            "WordyTokens",
            "NoChannels",
            "WordyScale",
            "NoParts",
            "KnobWithoutHandle",
            "TooManyPermutations",
        )
    ],
}


@pytest.mark.parametrize("group", UNUSABLE)
def test_an_unusable_target_is_refused_in_these_words(zoo: Path, group: str) -> None:
    messages: list[str] = []
    for target in UNUSABLE[group]:
        with pytest.raises(TargetError) as caught:
            resolve(target)
        messages.append(f"{target!r}\n    {caught.value}\n")
    recorded(f"target-{group}.txt", "\n".join(messages), zoo)


def test_a_published_name_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(TargetError, match=r"published:nothing: .*'nothing'; .*transformers-deepseek-v4"):
        resolve("published:nothing")


def test_a_dialect_that_does_not_exist_is_answered_with_those_that_do(zoo: Path) -> None:
    with pytest.raises(TargetError, match="no preset 'PAPR'; the presets are PAPER, DEEPSEEK_V4"):
        resolve("zoo.py:plain", "PAPR")


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import properties.published

    monkeypatch.setitem(properties.published.ADAPTERS, "ghost", ("no_such_adapter", "Ghost"))
    with pytest.raises(TargetError, match=r"published:ghost: importing its library failed: .*Is the extra installed\?"):
        resolve("published:ghost")
