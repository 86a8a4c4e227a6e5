"""TARGET in all its forms: what each finds, and what a user reads where there is nothing to find."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from snapshots import recorded

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LIGER, MHC_LITE, PAPER, PRESETS
from properties.core.implementation import Implementation, Projection, Reference, dtype_names, offers
from properties.core.titles import title
from properties.targets.target import TargetError, module_name, resolve

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
        ("properties.core.implementation:Reference", Reference, "ref:PAPER", PAPER),
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


CHANGED = "PAPER with iterations=5, last_axis='column'"


@pytest.mark.parametrize("target", [f"ref:{CHANGED}", f"control:log-domain@{CHANGED}", "zoo.py:plain"])
def test_a_preset_may_be_named_with_some_of_its_fields_changed(zoo: Path, target: str) -> None:
    found = resolve(target, CHANGED if target == "zoo.py:plain" else None)
    assert found.dialect == PAPER.with_(iterations=5, last_axis="column")


def test_what_messages_call_a_dialect_names_it(zoo: Path) -> None:
    for fields in ({"rms_eps": 1e-3}, {"pre": "softmax", "iterations": 3}, {"temperature": 0.2}):
        said = title("PAPER", fields)
        assert resolve(f"ref:{said}").dialect == PAPER.with_(**fields)


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


def test_the_module_of_a_file_has_the_same_name_in_every_process() -> None:
    assert module_name(Path("/models/mine.py")) == "_mhc_target_mine_0c908632978892b2"
    assert module_name(Path("/models/mine.py")) != module_name(Path("/other/mine.py"))


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
    import properties.targets.published

    monkeypatch.setitem(properties.targets.published.ADAPTERS, "ghost", ("no_such_adapter", "Ghost"))
    with pytest.raises(TargetError, match=r"published:ghost: importing its library failed: .*no_such_adapter"):
        resolve("published:ghost")


# -- what strangers write ---------------------------------------------------------------------------------------------

STRANGERS = """
import itertools, os, sys
import numpy as np
import torch
import mhc_ref
from properties import Implementation

class Mine(Implementation):
    def project(self, logits):
        return mhc_ref.project(logits, self.dialect)

class Generated(Mine):
    streams = (n for n in (2, 4))
    dtypes = (one for one in (torch.float32,))
    devices = iter(["cpu"])

class Counted(Mine):
    streams = np.array([2, 4, 2])
    max_tokens = np.int64(7)
    channel_multiple = np.int32(8)
    least_scale = np.float32(0.5)
    strided = np.bool_(False)

class Sets(Mine):
    streams = {8, 2, 4}
    dtypes = {torch.float64, torch.bfloat16, torch.float32}

class Aliases(Mine):
    dtypes = ("float", "float32", "torch.double", torch.half)

class Endless(Mine):
    streams = itertools.count(1)

class Many(Mine):
    streams = range(1, 10**9)

class Huge(Mine):
    streams = [10**9]

class Wide(Mine):
    channel_multiple = 10**9

class Negative(Mine):
    streams = (-4,)

class Bools(Mine):
    streams = (True,)

class Fractions(Mine):
    streams = (2.0,)

class Bytes(Mine):
    streams = b"24"

class Table(Mine):
    dtypes = {"float32": True}

class Eighth(Mine):
    dtypes = (torch.float8_e4m3fn,)

class Raising(Mine):
    @property
    def streams(self):
        raise KeyError("no streams today")

class Exiting(Mine):
    @property
    def dtypes(self):
        sys.exit(0)

class Sealed(Mine):
    @property
    def streams(self):
        return (n for n in (2, 4))

class Half(Mine):
    def __init__(self):
        def streams():
            yield 2
            raise RuntimeError("lost count")
        self.streams = streams()

class Worded(Mine):
    differentiable = "no"

class Number(Mine):
    name = 3

class Escapes(Mine):
    name = "\\x1b[31mred"

class Lines(Mine):
    name = "two\\nlines"

class Surrogate(Mine):
    name = "\\udc80"

class Long(Mine):
    name = "x" * 2000

class Blank(Mine):
    name = "  "

class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words")

class Unspoken(Mine):
    dialect = Unspeakable()

class Unreadable(Mine):
    def __getattribute__(self, name):
        if name == "mappings":
            raise OSError("out of reach")
        return super().__getattribute__(name)

class Anything:
    def __getattr__(self, name):
        return self

class Denies:
    @property
    def __class__(self):
        raise RuntimeError("who asks?")

class Own(BaseException):
    def __str__(self):
        raise RuntimeError("unprintable")

class Interrupting(Mine):
    def __init__(self):
        raise KeyboardInterrupt

class Unprintable(Mine):
    def __init__(self):
        raise Own

anything = Anything()
denies = Denies()
layer = torch.nn.Linear(2, 2)
nothing = None
"""

RAISES = {
    "exit": "import sys; sys.exit(0)",
    "interrupt": "raise KeyboardInterrupt",
    "generator": "raise GeneratorExit",
    "own": "class Own(BaseException): pass\nraise Own('of its own')",
    "skip": "import pytest; pytest.skip('not today', allow_module_level=True)",
    "xfail": "import pytest; pytest.xfail('not today')",
    "escape": "raise RuntimeError('\\x1b[2J gone')",
    "path": "import sys; sys.path.clear(); raise RuntimeError('no path')",
}
"""What a module raises while it is imported."""


@pytest.fixture
def strangers(zoo: Path) -> Path:
    (zoo / "strangers.py").write_text(STRANGERS)
    for name, text in RAISES.items():
        (zoo / f"mhc_raises_{name}.py").write_text(f"{text}\n")
    return zoo


def test_one_shot_declarations_are_read_once_for_every_instance(strangers: Path) -> None:
    for _ in range(2):
        found = resolve("strangers.py:Generated")
        assert (found.streams, found.dtypes, found.devices) == ((2, 4), (torch.float32,), ("cpu",))


def test_numbers_of_numpy_are_numbers(strangers: Path) -> None:
    found = resolve("strangers.py:Counted")
    assert (found.streams, found.max_tokens, found.channel_multiple) == ((2, 4), 7, 8)
    assert (found.least_scale, found.strided) == (0.5, False)
    assert [type(one) for one in (*found.streams, found.max_tokens, found.least_scale, found.strided)] == [
        int,
        int,
        int,
        float,
        bool,
    ]


def test_sets_are_read_in_an_order_that_every_process_has(strangers: Path) -> None:
    found = resolve("strangers.py:Sets")
    assert found.streams == (2, 4, 8)
    assert dtype_names(found) == ("bfloat16", "float32", "float64")


def test_aliases_of_dtypes_are_called_by_their_names(strangers: Path) -> None:
    assert dtype_names(resolve("strangers.py:Aliases")) == ("float32", "float64", "float16")


UNDECLARED = {
    "Endless": r"\.streams is count\(\d+\), of more than 1000 values; expected the accepted numbers of streams",
    "Many": r"\.streams is range\(1, 1000000000\), of more than 1000 values",
    "Huge": r"\.streams names 1000000000: phi would have .* entries, and at most 1.34e\+08 are verified",
    "Wide": r"\.channel_multiple is 1000000000, for n = 8: phi would have",
    "Negative": r"\.streams is \(-4,\); expected the accepted numbers of streams, such as \(2, 4\)",
    "Bools": r"\.streams is \(True,\); expected",
    "Fractions": r"\.streams is \(2\.0,\); expected",
    "Bytes": r"\.streams is b'24'; expected",
    "Table": r"\.dtypes is \{'float32': True\}; expected the accepted dtypes of the state",
    "Eighth": r"\.dtypes contains torch.float8_e4m3fn; states are verified in torch.float64, torch.float32",
    "Raising": r"\.streams cannot be read: KeyError: 'no streams today'",
    "Exiting": r"\.dtypes cannot be read: SystemExit: 0",
    "Sealed": r"\.streams is <generator .*> and cannot be set \(AttributeError: .*\); expected \(2, 4\)",
    "Half": r"\.streams, <generator .*>, cannot be read: RuntimeError: lost count",
    "Worded": r"\.differentiable is 'no'; expected True or False",
    "Number": r"\.name is 3; expected a string",
    "Escapes": r"\.name is '\\x1b\[31mred'; expected one line of at most 200 characters that a terminal shows",
    "Lines": r"\.name is 'two\\nlines'; expected one line",
    "Surrogate": r"\.name is '\\udc80'; expected one line",
    "Long": r"\.name is 'x+ \.\.\. .*; expected one line",
    "Unspoken": r"\.dialect is <Unspeakable, whose __repr__ raised RuntimeError>; expected a mhc_ref.Dialect",
    "Unreadable": r"what it offers cannot be read: OSError: out of reach",
    "denies": r"looking at it raised RuntimeError: who asks\?",
    "Interrupting": r"calling it without arguments raised KeyboardInterrupt",
    "Unprintable": r"calling it .* raised Own: \(its message cannot be read: __str__ raised RuntimeError\)",
    "anything": r"is Anything; expected an Implementation|is a plain function",
    "layer": r"is a torch.nn.Module, taken as logits -> h_res",
    "nothing": r"is NoneType; expected an Implementation",
    "torch": r"is module; expected an Implementation, .*; in it are ",
    "Min": r"has no attribute 'Min'; it has .*; did you mean Mine\?",
    "\x1b[31m": r"has no attribute '\\x1b\[31m'",
    "x" * 2000: r"has no attribute 'x+",
}


@pytest.mark.parametrize("attribute", UNDECLARED, ids=lambda name: name[:20].encode("unicode_escape").decode())
def test_what_cannot_be_used_is_refused_in_a_sentence(strangers: Path, attribute: str) -> None:
    with pytest.raises(TargetError, match=UNDECLARED[attribute]) as caught:
        resolve(f"strangers.py:{attribute}")
    assert "\x1b" not in str(caught.value)


def test_a_name_of_blanks_is_none(strangers: Path) -> None:
    assert resolve("strangers.py:Blank").name == "Blank"


@pytest.mark.parametrize("form", ["mhc_raises_{}.py:x", "mhc_raises_{}:x"])
@pytest.mark.parametrize("name", RAISES)
def test_whatever_a_module_raises_is_said(
    strangers: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(TargetError, match=r"importing .* raised [A-Z]") as caught:
        resolve(form.format(name))
    assert "\x1b" not in str(caught.value)


@pytest.mark.usefixtures("usual_signals")
def test_an_interrupt_of_the_user_is_one_while_a_target_is_imported(zoo: Path) -> None:
    (zoo / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    with pytest.raises(KeyboardInterrupt):
        resolve("slow.py:x")


def test_a_target_that_changes_the_folder_leaves_ours(zoo: Path) -> None:
    (zoo / "moves.py").write_text("import os\nos.mkdir('elsewhere')\nos.chdir('elsewhere')\n" + ZOO)
    resolve("moves.py:Mine")
    assert Path.cwd() == zoo
    assert resolve("zoo.py:Mine").name == "Mine"


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("reff:PAPER", "did you mean ref:PAPER?"),
        ("publishd:liger", "did you mean published:liger?"),
        ("Deviation:h-res-transposed", "did you mean deviation:h-res-transposed?"),
        ("ref:paper", "did you mean PAPER?"),
        ("ref:DEEPSEEK-V4", "did you mean DEEPSEEK_V4?"),
        ("published:ligr", "did you mean liger?"),
        ("deviation:", "there is no deviation ''"),
        ("deviation:h-res-transpose", "did you mean h-res-transposed"),
        ("control:reversed@LIGRE", "did you mean LIGER?"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_what_was_meant(zoo: Path, target: str, meant: str) -> None:
    with pytest.raises(TargetError) as caught:
        resolve(target)
    assert meant in str(caught.value)


@pytest.mark.parametrize(
    "target", ["--version", "\x00.py:x", "x" * 5000 + ".py:x", ".relative:x", "..:x", "a b:c", "é:x"]
)
def test_what_is_no_target_is_refused(zoo: Path, target: str) -> None:
    with pytest.raises(TargetError):
        resolve(target)


def test_a_dialect_that_names_no_preset_is_refused_for_targets_that_declare_one(zoo: Path) -> None:
    with pytest.raises(TargetError, match="there is no preset 'PAPR'"):
        resolve("zoo.py:Mine", "PAPR")
