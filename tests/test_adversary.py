"""The adversary: mutants are made again by number, wrong at a witness, put before laws that reach them, and kept."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from mhc_ref import PRESETS, Params
from mhc_ref.packing import params_shapes
from properties import cli
from properties.campaign.kinds import adversary as kind
from properties.catalogue.deviations import CATALOGUE
from properties.catalogue.mutants import Mutant, Spec, drawn
from properties.catalogue.mutants import conditions as conditions_of
from properties.catalogue.mutants import slips as slips_of
from properties.catalogue.mutants.borrowed import BORROWED
from properties.catalogue.mutants.conditions import ALWAYS
from properties.catalogue.mutants.drawing import borrowed
from properties.commands import adversary_page, adversary_rows
from properties.core.deviant import Deviant
from properties.core.implementation import Reference
from properties.core.law import all_laws, scouts
from properties.engine import mutation, witness
from properties.engine.witness import confirm
from properties.engine.witness_calls import sizes_of
from properties.targets.target import TargetError, resolve

SEED = 3
MANY = [drawn(SEED, index) for index in range(1500)]
NOT_A_NUMBER = slips_of._not_a_number


def alone(spec: Spec, **changes: object) -> Spec:
    """A mutant with one condition, of all of an output."""
    return replace(spec, **{"conditions": spec.conditions[:1], "position": None, "deviation": "", **changes})


def by_sort(of: dict[str, list[Spec]], name: str, spec: Spec) -> None:
    if len(of.setdefault(name, [])) < 3:
        of[name].append(spec)


CONDITIONS: dict[str, list[Spec]] = {}
SLIPS: dict[str, list[Spec]] = {}
for one in MANY:
    if one.stage in slips_of.STAGES:
        by_sort(CONDITIONS, one.conditions[0].sort, one)
        if not one.deviation:
            by_sort(SLIPS, one.slip.sort, one)


def made(preset: str) -> tuple[torch.Tensor, Params, torch.Tensor, torch.Tensor, torch.Tensor]:
    n, channels, chance = 4, 9, torch.Generator().manual_seed(7)
    shapes = params_shapes(n, channels, PRESETS[preset])

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance)

    params = Params(
        noise(*shapes.phi) / 6, noise(*shapes.bias), 0.7 + noise(*shapes.alpha), 1 + 0.5 * noise(n * channels)
    )
    return noise(3, n, channels), params, noise(3, channels), noise(3, n), noise(3, n, n)


def answers(target: object, preset: str) -> dict[str, list[torch.Tensor]]:
    x, params, y, h, m = made(preset)
    calls = {"project": (3 * m,), "mappings": (x, params), "pre": (x, h), "post": (x, y, h, m), "collapse": (x, params)}
    found = {}
    for method, given in calls.items():
        got = getattr(target, method)(*given)
        found[method] = [got] if isinstance(got, torch.Tensor) else list(got)
    return found


# Made again by number


def test_a_mutant_is_made_again_by_its_number():
    assert [drawn(SEED, index).text for index in range(40)] == [one.text for one in MANY[:40]]
    assert drawn(1, 0).text == "h_res transposed, in every call number 5"
    assert drawn(1, 14).text == "layers clamped to 2, K % 8 == 0"
    assert drawn(1, 1).text == "norm rounded to bfloat16 (of tokens behind the last full 16), 384 <= T <= 511"
    assert len({one.text for one in MANY}) > 1400


def test_a_mutant_is_a_target():
    found = resolve("mutant:1:14")
    assert isinstance(found, Mutant)
    assert (found.name, found.spec and found.spec.text) == ("mutant:1:14", drawn(1, 14).text)
    with pytest.raises(TargetError, match="a seed and an index"):
        resolve("mutant:one")
    with pytest.raises(TargetError, match="every channel by a gate of low rank; expected another preset"):
        resolve("mutant:1:14@QWEN4_EXP")


@pytest.mark.parametrize("preset", ["DEEPSEEK_V4", "PAPER", "LIGER", "HYPER_CONNECTIONS"])
def test_without_a_slip_it_is_the_reference_bit_for_bit(preset: str):
    right = answers(Reference(PRESETS[preset]), preset)
    for method, got in answers(Mutant(None, PRESETS[preset]), preset).items():
        assert all(torch.equal(one, other) for one, other in zip(got, right[method], strict=True)), method


def test_without_a_slip_layers_read_with_the_gates_of_the_block_before():
    x, params, *_ = made("DEEPSEEK_V4_1")
    given = (x, [params] * 3, [torch.sin, torch.cos, torch.tanh])
    dialect = PRESETS["DEEPSEEK_V4_1"]
    assert torch.equal(Mutant(None, dialect).layers(*given), Reference(dialect).layers(*given))


@pytest.mark.parametrize("preset", ["DEEPSEEK_V4", "HYPER_CONNECTIONS"])
def test_what_is_borrowed_of_the_catalogue_alone_changes_the_method(preset: str):
    right = answers(Deviant(PRESETS[preset]), preset)
    pairs = borrowed(preset)
    assert len(pairs) > 50
    for name, method in pairs:
        got = answers_of(CATALOGUE[name].make(PRESETS[preset]), preset, method)
        apart = max(float((one - other).abs().max()) for one, other in zip(got, right[method], strict=True))
        assert apart > 1e-4, (name, method)


def answers_of(target: object, preset: str, method: str) -> list[torch.Tensor]:
    x, params, y, h, m = made(preset)
    calls = {"project": (3 * m,), "mappings": (x, params), "pre": (x, h), "post": (x, y, h, m), "collapse": (x, params)}
    got = getattr(target, method)(*calls[method])
    return [got] if isinstance(got, torch.Tensor) else list(got)


def test_every_name_that_is_borrowed_is_in_the_catalogue():
    assert {name for names in BORROWED.values() for name in names} <= set(CATALOGUE)


# Wrong at a witness


def test_conditions_of_every_kind_are_drawn():
    assert {one.kind for spec in MANY for one in spec.conditions} == {
        "sizes",
        "values",
        "modes",
        "history",
        "position",
        "chance",
    }
    assert len(CONDITIONS) > 40
    assert len(SLIPS) > 20


@pytest.mark.slow
@pytest.mark.parametrize("sort", sorted(CONDITIONS))
def test_every_condition_holds_at_its_witness(sort: str):
    tried = []
    for spec in CONDITIONS[sort]:
        slip = NOT_A_NUMBER(None, spec.stage)  # type: ignore[arg-type]
        tried.append(confirm(alone(spec, slip=slip)))
        if tried[-1].status == "wrong":
            return
    raise AssertionError(tried)


@pytest.mark.slow
@pytest.mark.parametrize("sort", sorted(SLIPS))
def test_every_slip_is_wrong_where_it_is_made(sort: str):
    tried = [confirm(alone(spec, conditions=(ALWAYS,))) for spec in SLIPS[sort]]
    assert any(one.status == "wrong" for one in tried), tried


def test_a_condition_that_no_accepted_size_meets_makes_an_equivalent_mutant():
    spec = next(one for one in MANY if one.conditions[0].text == "n >= 9")
    found = confirm(alone(spec))
    assert (found.status, found.ratio) == ("not reached", 0.0)
    assert sizes_of(spec) is None


def test_a_slip_below_the_bound_makes_an_equivalent_mutant():
    spec = next(one for one in MANY if "2^-22" in one.slip.text and one.stage in ("products", "logits"))
    found = confirm(alone(spec, conditions=(ALWAYS,)))
    assert found.status == "within the bound"
    assert 0 < found.ratio <= 1


def test_a_witness_is_judged_by_mpmath(monkeypatch: pytest.MonkeyPatch):
    asked = []
    real = witness.ExactTruth

    class Noted(real):
        def __init__(self, dialect):
            super().__init__(dialect)
            asked.append(self)

    monkeypatch.setattr(witness, "ExactTruth", Noted)
    spec = next(one for one in MANY if one.stage == "write" and one.slip.sort == "negated")
    assert confirm(alone(spec, conditions=(ALWAYS,))).status == "wrong"
    assert asked[0].asked > 0


# Before the laws


@pytest.fixture
def few_laws(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three laws in the place of all."""
    chosen = [
        "manifold.agrees-with-oracle",
        "coefficients.agrees-with-oracle",
        "mixing.post-is-the-declared-combination",
    ]
    monkeypatch.setattr(mutation, "laws_in_order", lambda: [all_laws()[one] for one in chosen])
    return chosen


def test_laws_come_in_the_order_of_a_check():
    order = [law.id for law in mutation.laws_in_order()]
    assert set(order[: len(scouts())]) == scouts()
    assert sorted(order) == sorted(all_laws())


@pytest.mark.slow
def test_a_mutant_is_judged_at_the_examples_that_reach_it_as_in_a_check(few_laws: list[str]):
    stages = ("h_res", "write", "h_pre", "products")
    chosen = [one for one in MANY if one.group == MANY[0].group and one.stage in stages and not one.deviation]
    past = [one for one in chosen if all(c.certain and c.kind in ("history", "values") for c in one.conditions)]
    specs = [replace(one, position=None) for one in past if one.slip.sort in ("negated", "an entry zeroed", "NaN")][:4]
    found = mutation.ground(specs, 5)
    assert found.wrong == []
    every = len({id(one) for examples in found.reached.values() for one in examples})
    for spec in specs:
        mutant = Mutant(spec)
        verdicts = ((law, mutation.try_law(law, mutant, 5)) for law in mutation.laws_in_order())
        first = next((law.id for law, verdict in verdicts if verdict.status == "failed"), "")
        quick = mutation.attempt(spec, found)
        assert (quick.killed, quick.errors) == (first, ())
        assert 0 < len(found.reached[spec.index]) <= every
    assert any(mutation.attempt(one, found).killed for one in specs)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_ended(few_laws: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "AT_ONCE", 2)

    def run(label: str, *more: str) -> Result:
        words = ["adversary", "--seed", "3", "--mutants", "8", "--out", str(tmp_path), "--docs", str(tmp_path)]
        return CliRunner().invoke(cli.app, [*words, "--label", label, "--engine", "serial", *more])

    def line(done: Result) -> str:
        assert done.exit_code == 0, done.output
        return next(one for one in done.stdout.splitlines() if "mutants:" in one)

    said = line(run("one"))
    (folder,) = tmp_path.glob("*/results")
    results = sorted(folder.rglob("*.json"))
    assert len(results) > 3
    before = {path: path.read_bytes() for path in results}
    assert line(run("two")) == said  # nothing is asked twice
    assert {path: path.read_bytes() for path in results} == before
    for path in results[1:]:
        path.unlink()
    part = run("part", "--budget", "0.001")
    assert part.exit_code == 3
    assert re.search(r"\d of 8 mutants are tried; the page is written when all are", part.stdout)
    assert list(json.loads((tmp_path / "adversary.json").read_bytes())["runs"]) == ["one", "two"]
    assert line(run("three")) == said
    kept = json.loads((tmp_path / "adversary.json").read_bytes())
    assert list(kept["runs"]) == ["one", "two", "three"]
    numbers = [{key: run[key] for key in ("mutants", "killed", "survived", "kinds")} for run in kept["runs"].values()]
    assert numbers[0] == numbers[1] == numbers[2]
    page = (tmp_path / "adversary.md").read_text()
    assert 'mhc-properties adversary --seed 3 --mutants 8 --label "three"' in page
    for one in kept["survivors"]:
        assert f"* {one['class']}: " in page
    shown = adversary_page.survivors(kept)
    assert [one["target"] for one in shown] == [one["target"] for one in kept["survivors"]]
    assert all(one["why"] for one in shown)


def test_mutants_that_declare_alike_are_asked_together_and_each_once() -> None:
    found = list(kind.asked(MANY[:200]))
    assert sorted(index for one in found for index in one["mutants"]) == sorted(one.index for one in MANY[:200])
    by_index = {one.index: one for one in MANY[:200]}
    for one in found:
        assert len(one["mutants"]) <= kind.AT_ONCE
        assert len({by_index[index].group for index in one["mutants"]}) == 1
    few = list(kind.questions(seeds=2, mutants=5))
    assert {one["seed"] for one in few} == {1, 2}
    assert sum(len(one["mutants"]) for one in few) == 10


@pytest.mark.slow
def test_a_campaign_of_the_kind_says_the_rate_of_each_seed(few_laws: list[str], tmp_path: Path) -> None:
    words = ["campaign", "run", "adversary", "--seeds", "2", "--mutants", "3", "--engine", "serial"]
    done = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    for seed in (1, 2):
        assert f"adversary, seed {seed}: 3 mutants: " in done.stdout


@pytest.mark.slow
def test_the_bench_says_how_many_of_a_sample_are_seen(few_laws: list[str]):
    words = ["bench", "--law", few_laws[0], "--examples", "1", "--deviations", "0", "--no-workers", "--mutants", "4"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert re.search(r"4 random mutants: \d of the \d wrong ones are seen, [\d.]+ %", done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_law_that_goes_through_sizes_ends_at_the_first_that_fails(monkeypatch: pytest.MonkeyPatch):
    law = all_laws()["sizes.streams-are-mixed"]
    monkeypatch.setattr(mutation, "laws_in_order", lambda: [law])
    monkeypatch.setattr(mutation, "PROFILE", replace(mutation.PROFILE, sizes=1))
    spec = next(one for one in MANY if one.stage == "write" and one.group == MANY[0].group)
    wide = slips_of._negated(None, "write")  # type: ignore[arg-type]
    some = conditions_of._one_size("T", "a threshold", "T >= 65", lambda v: v >= 65)
    never = conditions_of._one_size("T", "a threshold", "T >= 9000", lambda v: v >= 9000)
    specs = [alone(spec, index=k, conditions=(c,), slip=wide) for k, c in enumerate((some, never))]
    found = mutation.ground(specs, 5)
    assert (found.wrong, found.laws) == ([], [law.id])
    assert list(found.reached) == [0]
    seen = mutation.attempt(specs[0], found)
    assert (seen.killed, seen.examples) == (law.id, 1)
    assert mutation.attempt(specs[1], found).examples == 0
    assert mutation.try_law(law, Mutant(specs[0]), 5).status == "failed"


def test_survivors_are_put_before_laws_again(few_laws: list[str]) -> None:
    results = adversary_rows.Results()
    found = next(one for one in MANY if one.stage == "write" and one.slip.text == "negated")
    past = next(one for one in MANY if one.conditions[0].kind == "history" and one.stage == "write")
    specs = [alone(found, conditions=(ALWAYS,)), past]
    tried = {"reached": 0, "fired": 0, "examples": 0, "ratio": 0.0, "seconds": 0.1, "errors": []}
    for spec in specs:
        results.add("attempt", spec.target, killed="", **tried)
        results.add("confirmation", spec.target, status="wrong")
    adversary_rows.again(specs, 5, "manifold", results)
    assert [one["killed"] for one in results.of("attempt").values()] == ["", ""]
    adversary_rows.again(specs, 5, "mixing", results)
    assert [one["killed"] for one in results.of("attempt").values()] == [few_laws[2], ""]
    assert adversary_page.rates(specs, results)["killed"] == 1


def test_what_no_witness_was_asked_of_counts_for_nothing() -> None:
    results = adversary_rows.Results()
    tried = {"reached": 1, "fired": 2, "examples": 1, "ratio": 0.5, "seconds": 0.1, "errors": []}
    for spec, killed in zip(MANY[:4], ("a law", "", "", ""), strict=True):
        results.add("attempt", spec.target, killed=killed, **tried)
    results.add("confirmation", MANY[1].target, status="wrong")
    results.add("confirmation", MANY[2].target, status="within the bound")
    found = adversary_page.rates(MANY[:5], results)
    assert [found[name] for name in ("mutants", "killed", "survived", "equivalent", "rate")] == [3, 1, 1, 1, 0.5]
    assert adversary_page.survivors(found)[0]["made"] == "2 times, 0.5 of the bound at most"


def test_every_class_of_survivors_has_a_reason():
    for spec in MANY[:300]:
        classes = [
            adversary_page.kind_of(spec, {"reached": reached, "fired": fired, "ratio": ratio})
            for reached, fired, ratio in ((0, 0, 0.0), (3, 0, 0.0), (3, 2, 0.0), (3, 2, 0.5))
        ]
        assert len(set(classes)) == 4
        assert all(adversary_page.reason_of(one) for one in classes)


@pytest.mark.slow
def test_laws_see_a_sample_of_mutants_without_conditions(monkeypatch: pytest.MonkeyPatch):
    """Slips that are beyond the bound in every call: whatever the laws draw, one of the scouts sees each."""
    monkeypatch.setattr(mutation, "laws_in_order", lambda: [all_laws()[one] for one in sorted(scouts())])
    texts = ("transposed", "negated", "its last entry is 0", "its first two lines are swapped", "raises")
    specs = [
        alone(one, conditions=(ALWAYS,))
        for one in MANY
        if one.slip.text in texts and one.group == MANY[0].group and one.stage in ("h_res", "write", "read", "products")
    ][:12]
    found = mutation.ground(specs, 5)
    assert found.wrong == []
    assert [one.text for one in specs if not mutation.attempt(one, found).killed] == []


def test_what_is_written_by_hand_stays_on_the_page(tmp_path: Path):
    found = adversary_page.rates([], adversary_rows.Results())
    adversary_page.publish(tmp_path, "one", found)
    page = tmp_path / "adversary.md"
    page.write_text(page.read_text() + adversary_page.BY_HAND + "\nTen of ten.\n")
    adversary_page.publish(tmp_path, "two", found)
    assert page.read_text().count("## Readers' attacks") == 1
    assert page.read_text().endswith("Ten of ten.\n")
    assert "two" in page.read_text()


def test_the_page_of_the_adversary_is_made_from_its_file():
    docs = Path(__file__).parents[1] / "docs"
    kept = json.loads((docs / "adversary.json").read_bytes())
    text, path = adversary_page.page(list(kept["runs"])[-1], kept), docs / "adversary.md"
    assert path.read_text() == text + adversary_page.by_hand(path)


def test_a_preset_that_no_mutant_declares_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    words = ["adversary", "--seed", "3", "--mutants", "4", "--preset", "NOPE"]
    done = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "out"), "--docs", str(tmp_path / "docs")])
    assert done.exit_code == 2
    assert "NOPE" in done.output
    assert not (tmp_path / "docs").exists()
