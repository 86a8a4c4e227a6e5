"""A shell completes commands, options, targets, laws and presets: what is offered is there, and comes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mhc_ref import PRESETS
from properties import cli
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, HIDDEN
from properties.commands import completing
from properties.core.law import FAMILIES, all_laws
from properties.targets.published import ADAPTERS
from properties.targets.target import KINDS


@pytest.mark.parametrize(
    ("begun", "names"),
    [
        ("ref:", PRESETS),
        ("published:", ADAPTERS),
        ("deviation:", CATALOGUE | HIDDEN),
        ("control:", controls.CATALOGUE),
        ("control:tf32@", [f"tf32@{preset}" for preset in PRESETS]),
    ],
)
def test_every_target_that_comes_with_the_package_is_offered(begun: str, names: list[str]) -> None:
    kind = begun.partition(":")[0]
    assert sorted(completing.targets(begun)) == sorted(f"{kind}:{name}" for name in names)


def test_kinds_of_targets_come_first_and_files_are_left_to_the_shell() -> None:
    assert completing.targets("") == ["ref", *(f"{kind}:" for kind in KINDS)]
    assert completing.targets("deviation:transposed-t") == []
    assert completing.targets("mine.py:M") == completing.targets("proc:nod") == []


def test_families_of_laws_come_first_then_their_ids() -> None:
    assert sorted(completing.laws("")) == sorted(f"{family}." for family in FAMILIES)
    for family in FAMILIES:
        found = completing.laws(f"{family}.")
        assert found == sorted(law for law in all_laws() if law.startswith(f"{family}."))
    assert completing.laws("bl") == completing.laws("block.")


def test_presets_are_offered() -> None:
    assert completing.presets("") == list(PRESETS)
    assert completing.presets("LU") == ["LUCIDRAINS"]


COMPLETE = """
import contextlib, io, json, os, sys
from properties.cli import main

os.environ["_MHC_PROPERTIES_COMPLETE"] = "complete_bash"
found = []
for words in json.loads(sys.argv[1]):
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\\n".join(["mhc-properties", *words]), str(len(words))
    sys.argv, sys.__stdout__ = ["mhc-properties"], io.StringIO()
    with contextlib.redirect_stdout(sys.__stdout__) as said, contextlib.suppress(SystemExit):
        main()
    found.append(said.getvalue().split())
json.dump([found, list(sys.modules)], sys.__stderr__)
"""


def test_bash_is_told_what_is_missing_of_words_that_it_takes_apart() -> None:
    """Its own words, and what it puts in the place of the last of them; nobody waits for torch."""
    cases = [
        ([""], list(cli.COMMANDS)),
        (["conf"], ["conformance"]),
        (["list", "pub"], ["published"]),
        (["check", "re"], ["ref", "ref:"]),
        (["check", "ref", ":"], list(PRESETS)),
        (["check", "ref", ":", "PA"], ["PAPER"]),
        (["check", "mine.py", ":", "Mine", "control", ":", "tf32-"], ["tf32-truncated"]),
        (["check", "control", ":", "tf32", "@", "LIG"], ["@LIGER"]),
        (["check", "ref", "--law", "=", "block.p"], ["block.permutation-limit-carries-streams"]),
        (["identify", "published", ":", "li"], ["liger", "liger-attn-res"]),
        (["identify", "ref", "--dialect", "RES"], ["RESIDUAL"]),
        (["replay", "x", "--impl", "=", "ref", ":", "MHC"], ["MHC_LITE"]),
        (["laws", "--fa"], ["--family"]),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("_TYPER")}
    program = [sys.executable, "-c", COMPLETE, json.dumps([words for words, _ in cases])]
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
    found, modules = json.loads(done.stderr)
    for (words, expected), offered in zip(cases, found, strict=True):
        assert offered == expected, words
    assert not {"torch", "hypothesis", "pytest", "numpy", "mpmath", "rich"} & {*modules}


def test_the_options_that_install_completion_are_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "properties.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "--install-completion" in done.stdout
    assert "--show-completion" in done.stdout
