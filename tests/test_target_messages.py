"""What a user reads of a target that cannot be used: where it went wrong, and what to do about it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from properties.targets import folder, published
from properties.targets.target import TargetError, resolve

FILE = """
import torch

def make(n):
    return torch.zeros(n).reshape(7)

TABLE = make(5)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(target: str, dialect: str | None = None) -> TargetError:
    with pytest.raises(TargetError) as caught:
        resolve(target, dialect)
    return caught.value


def test_an_error_at_import_is_shown_with_its_lines_of_code(place: Path) -> None:
    (place / "deep.py").write_text(FILE)
    first, *code = str(refusal("deep.py:project")).splitlines()
    assert first == "deep.py:project: importing deep.py raised RuntimeError: shape '[7]' is invalid for input of size 5"
    assert code == [
        "    deep.py:7 in <module>: TABLE = make(5)",
        "    deep.py:5 in make",
        "         4  def make(n):",
        "    >    5      return torch.zeros(n).reshape(7)",
    ]


def test_the_forms_of_targets_stand_in_the_sentence_and_not_below_the_code(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "mhc_needs_itself.py").write_text("import mhc_needs_itself.other\n")
    monkeypatch.syspath_prepend(place)
    first, *code = str(refusal("mhc_needs_itself:x")).splitlines()
    assert "; the forms are ref" in first
    assert code[0] == "    mhc_needs_itself.py:1 in <module>"


def test_of_a_folder_an_error_at_import_is_told_in_one_line(place: Path) -> None:
    (place / "deep.py").write_text(FILE)
    _, unusable = folder._of("deep.py", None)
    (of, why), *_ = unusable
    assert (of, len(unusable)) == ("deep.py", 1)
    assert why == "importing deep.py raised RuntimeError: shape '[7]' is invalid for input of size 5 (deep.py:5)"


MODULES = """
from torch import nn

class Layer(nn.Module):
    def __init__(self, n, channels):
        super().__init__()

class Ready(nn.Module):
    pass

layer = Layer(4, 8)

def function(logits):
    return logits
"""


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("layer", r"modules.py:layer is a torch.nn.Module, taken as logits -> h_res; .* --dialect"),
        ("Layer", r"calling it without arguments raised TypeError: .* missing 2 required"),
        ("Ready", r"calling it gave Ready, which is no properties.Implementation"),
    ],
)
def test_a_module_is_answered_with_what_makes_an_implementation_of_it(place: Path, attribute: str, said: str) -> None:
    (place / "modules.py").write_text(MODULES)
    error = refusal(f"modules.py:{attribute}")
    assert re.search(said, str(error))
    assert "properties.modules.from_module makes an implementation of a torch.nn.Module" in str(error)
    assert "docs/your-implementation.md" in str(error)


def test_a_plain_function_is_not_answered_with_what_is_for_modules(place: Path) -> None:
    (place / "modules.py").write_text(MODULES)
    assert "is a plain function" in str(refusal("modules.py:function"))
    assert "from_module" not in str(refusal("modules.py:function"))


@pytest.mark.parametrize("target", ["ref:PAPR", "control:log-domain@PAPR", "deviation:h-res-transposed@PAPR"])
def test_a_preset_that_does_not_exist_is_told_with_the_target_that_names_it(target: str) -> None:
    assert str(refusal(target)).startswith(f"{target}: there is no preset 'PAPR'; the presets are PAPER")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("iteration=5", "Dialect has no field 'iteration'; did you mean 'iterations'?"),
        ("iterations=-1", "Dialect.iterations is -1; expected an integer of 0 or more"),
        ("5 iterations", "'5 iterations' are no changes; expected some such as rms_eps=1e-6, post='linear'"),
        ("", "'' are no changes; expected some such as rms_eps=1e-6, post='linear'"),
        (
            "iterations=print('called')",
            "print('called') is no value; expected a number, a name in quotes, True or False",
        ),
        ("pre=linear", "linear is no value; expected a number, a name in quotes, True or False"),
        ("iterations=5) + (1", "are no changes"),
        ("pre='none'", "pre"),
        ("rms_eps=0.0).x(pre='softmax'", "are no changes"),
        ("rms_eps=0.1, rms_eps=0.2", "rms_eps is given twice"),
        ("**{'rms_eps': 0.1}", "{'rms_eps': 0.1} names no field"),
        ("rms_eps=float('inf')", "float('inf') is no value"),
        ("rms_eps=\0", "are no changes"),
        (f"rms_eps={'-' * 20000}1", "are no changes"),
        (f"rms_eps={'-' * 90}1", "is no value"),
    ],
)
@pytest.mark.parametrize("target", ["ref:", "control:log-domain@", "deviation:h-res-transposed@"])
def test_changes_of_a_preset_that_cannot_be_made_are_told(
    target: str, changes: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = str(refusal(f"{target}PAPER with {changes}"))
    assert said in text
    assert text.startswith(f"{target}PAPER with ")
    assert capsys.readouterr().out == ""  # nothing in it is called


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("liger-attn-res", "liger"),
        ("hyper-connections-v2-log", "hyper-connections"),
        ("hyper-connections-triton", "hyper-connections-triton"),
        ("mhc", "mhc"),
        ("mhc-ddim", "mhc-ddim"),
        ("mlx-lm-kimi-k3", "mlx-lm"),
    ],
)
def test_a_library_that_is_not_installed_is_answered_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setitem(published.ADAPTERS, name, ("no_such_adapter", "Ghost"))
    assert f"it comes with pip install 'mhc-properties[{extra}]'" in str(refusal(f"published:{name}"))


def test_every_adapter_has_an_extra_that_there_is() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert set(published.EXTRAS) <= project["project"]["optional-dependencies"].keys()
    assert {published.extra_of(name) for name in published.ADAPTERS} == set(published.EXTRAS)
