"""`mhc-properties list` and the choices of `laws`: every name with what it is, for people and for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mhc_ref import PRESETS, registry
from mhc_ref.presets import FIELDS, SOURCES
from properties import cli
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, HIDDEN
from properties.commands.listing import What
from properties.core.law import all_laws
from properties.core.slips import KINDS
from properties.families import Mix
from properties.targets.published import ADAPTERS


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.output


def listed(what: str, *more: str) -> list[dict[str, Any]]:
    """The rows of --json, which is one object on one line."""
    code, output = run("list", what, *more, "--json")
    assert code == 0, output
    (line,) = output.splitlines()
    return json.loads(line)[what]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "known"),
    [
        ("deviations", lambda: [*CATALOGUE, *HIDDEN]),
        ("controls", lambda: list(controls.CATALOGUE)),
        ("published", lambda: list(ADAPTERS)),
        ("presets", lambda: list(PRESETS)),
        (
            "families",
            lambda: [name for slot in dict.fromkeys(registry.SLOTS.values()) for name in registry.names(slot)],
        ),
    ],
    ids=["deviations", "controls", "published", "presets", "families"],
)
def test_every_name_is_listed_with_what_it_is(what: str, known: Callable[[], list[str]]) -> None:
    rows, names = listed(what), known()  # families of other test files may be registered by now
    assert [row["name"] for row in rows] == names
    code, output = run("list", what)
    assert code == 0
    lines = output.splitlines()
    assert lines[-1] == f"{len(names)} {what}"
    assert [line for line in lines if len(line) > 80] == []
    for row in rows:
        said = row.get("slip") or row.get("statement") or row.get("words") or row["source"]
        assert said in " ".join(output.split()) or said.partition(". ")[0] in " ".join(output.split()), row


def test_a_deviation_says_where_it_applies() -> None:
    rows = {row["name"]: row for row in listed("deviations")}
    for name, one in (CATALOGUE | HIDDEN).items():
        assert rows[name]["presets"] == [preset for preset, dialect in PRESETS.items() if one.applies(dialect)]
        assert rows[name]["presets"] or rows[name]["elsewhere"], name
    _, output = run("list", "deviations")
    assert "h-res-over-n (scaling): The mixed streams are divided by n, a mean where the sum\n    is meant.\n" in output
    assert "    every preset but QWEN4_EXP; " in output
    assert "    no preset, but PAPER with 3 iterations; " in output


@pytest.mark.parametrize("kind", ["gradient", "device"])
def test_deviations_of_one_kind(kind: str) -> None:
    rows = listed("deviations", "--kind", kind)
    assert [row["name"] for row in rows] == [name for name, one in (CATALOGUE | HIDDEN).items() if one.kind == kind]
    assert run("list", "deviations", "--kind", kind)[1].endswith(f"{len(rows)} deviations of kind {kind}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "deviations", "--kind", "gradeint"], f"--kind 'gradeint': expected one of {', '.join(KINDS)}"),
        (["list", "presets", "--kind", "dtype"], "only deviations have kinds, and presets were asked for"),
        (["laws", "--family", "blocks"], "--family 'blocks': expected one of manifold, mixing, coefficients, block, "),
        (["laws", "--kind", "oracles"], "--kind 'oracles': expected one of identity, invariant, oracle, contract"),
    ],
)
def test_a_wrong_choice_is_refused_with_the_choices(words: list[str], said: str) -> None:
    code, output = run(*words)
    assert (code, len(output.splitlines())) == (2, 1)
    assert said in output
    code, output = run(*words, "--json")
    assert code == 2
    assert said in json.loads(output.splitlines()[-1])["error"]


def test_what_is_no_list_is_refused_with_those_that_there_are() -> None:
    code, output = run("list", "deviation")
    assert code == 2
    assert all(what in output for what in What)


def test_every_preset_has_a_source() -> None:
    assert list(SOURCES) == list(FIELDS)
    (first, *_) = listed("presets")
    assert (first["name"], first["differs"], first["source"]) == ("PAPER", ["rms_eps"], SOURCES["PAPER"])
    assert first["dialect"]["iterations"] == 20


def test_what_is_published_is_described_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it would raise
    rows = {row["name"]: row for row in listed("published")}
    assert rows["liger"]["source"].startswith("Liger-Kernel (0.8.5), ")
    assert rows["liger"]["statement"].startswith("`liger_mhc_coeffs(allow_fp32=True)`")
    assert all(row["statement"] and row["source"] for row in rows.values())


class Thirds(Mix):
    """A family that a package names."""

    name = "thirds"
    words = "a third of its logits"
    source = "a package\x1b[2J"
    roundings = 1
    FIELDS = {"third": registry.Field(3.0, lambda third: third > 0, "a number above 0", "what is divided by")}  # noqa: RUF012

    def project(self, logits: Any, dialect: Any) -> Any:
        return logits / dialect.third


def absent() -> Any:
    raise ImportError("no module named 'cuda_mixes'")


def test_families_of_installed_packages_are_listed_and_broken_ones_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        SimpleNamespace(name="thirds", value="thirds:Thirds", load=lambda: Thirds, dist=None),
        SimpleNamespace(name="theirs", value="theirs:FAMILY", load=absent, dist=None),
    ]
    known = dict(registry._outside)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(registry, "entry_points", lambda group: entries)
            registry._packaged.cache_clear()
            (row,) = [row for row in listed("families") if row["name"] == "thirds"]
            _, output = run("list", "families")
            broken = json.loads(run("list", "families", "--json")[1])["broken"]
    finally:
        registry._packaged.cache_clear()
        registry._outside.clear()
        registry._outside.update(known)
    assert (row["slot"], row["outside"], row["bound"], row["fields"]) == (
        "mix",
        True,
        "declared",
        {"third": "what is divided by"},
    )
    assert "mix thirds: a third of its logits; brings third (what is divided by); from\n    outside, with" in output
    assert "    a package\\x1b[2J\n" in output
    assert "theirs cannot be used: the entry point theirs = theirs:FAMILY failed with" in " ".join(output.split())
    assert list(broken) == ["theirs"]


def test_laws_of_a_family_and_of_a_kind() -> None:
    def ids(*more: str) -> list[str]:
        return [one["id"] for one in json.loads(run("laws", *more, "--json")[1])["laws"]]

    every = all_laws().values()
    assert ids() == [one.id for one in every]
    assert ids("--family", "block") == [one.id for one in every if one.family == "block"]
    assert ids("--kind", "oracle") == [one.id for one in every if one.kind == "oracle"]
    both = [one.id for one in every if one.family == "gradient" and one.kind == "identity"]
    assert ids("--family", "gradient", "--kind", "identity") == both
    assert both
    assert run("laws", "--family", "gradient", "--kind", "identity")[1].endswith(f"{len(both)} laws\n")
