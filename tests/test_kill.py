"""The kill matrix in docs/ is complete, says what is asked of it, and its cheapest cells come out the same today."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from properties import cli
from properties.catalogue.deviations import HIDDEN
from properties.commands.kill_page import load, page, save
from properties.commands.kill_rows import Bench, Kill, Row, Task, home, still_missing, tasks
from properties.core.device import device_of
from properties.core.law import all_laws
from properties.laws import gradient_guarantees, guarantees

ROWS = load(Path(__file__).parent.parent / "docs" / "kill.json")
"""Made by `make kill`. Where a law, a strategy or a bound changes what is found, make it again."""

WRONG = {row.name: row for row in ROWS if row.kind != "control"}
EXAMPLES = 16
SHOWN = [task.name for task in tasks(EXAMPLES, []) if task.catalogue == "deviation"]
"""All but those that need what a CPU lacks: `test_device_laws` shows them on a fake device."""


ONE_KIND = {
    "what the eps of a norm should be is fixed by its value alone: no identity holds for one eps and not another": (
        *("head-without-norm", "rms-eps-missing", "rms-eps-outside", "rms-eps-on-sum", "rms-eps-clamped"),
        *("sinkhorn-eps-for-norm", "rms-eps-clamps-root", "norm-clamped"),
        *("norm-clamp-of-squares", "norm-clamp-of-all-streams"),
        *("rms-eps-of-the-computation", "rms-eps-of-the-smallest-number"),
    ),
    "a backward pass that is wrong by itself is linear and keeps the shifts: only the derivative's value tells": (
        *("rms-backward-eps", "rms-backward-without-eps", "branch-input-detached", "half-gradient"),
        *("post-backward-without-scale", "gradient-in-bfloat16", "recompute-in-bfloat16", "head-detached"),
        *("cotangent-flushed", "recomputed-from-clamped-logits", "gate-gradient-overflows", "four-layers-learn"),
        *("gates-detached", "carry-gate-detached", "attention-backward-without-mean"),
        *("shut-gates-never-learn", "head-of-the-last-chunk", "branch-drawn-again", "gradient-of-64-tiles"),
        *("norm-clamp-lets-through", "mean-detached", "shared-branch-learns-once"),
    ),
    "each factor, term and sum has a value of its own, which only the declared formula knows": ("pre-in-state-dtype",),
    "the weights of a branch are reached by no law but one, which knows their gradient": (
        *("branch-untrained", "branches-of-layers-do-not-learn", "branches-of-a-frozen-weight-teach-nothing"),
        *("detached-branches-teach-nothing", "detached-branches-of-layers-teach-nothing"),
        *("detached-branches-of-a-stack-teach-nothing", "silent-branches-teach-nothing"),
        *("silent-branches-of-layers-teach-nothing", "silent-branches-of-a-stack-teach-nothing"),
        *("branches-of-layers-learn-from-one-tile", "layers-before-the-last-four-learn-nothing"),
        *("adapters-of-later-layers-unasked", "branch-input-cotangent-scaled-in-place"),
    ),
    "right in the order in which an oracle calls: what is compared are two ways of calling that must agree": (
        *("bias-gradient-over-one-axis", "branch-output-strides-ignored", "expanded-on-the-second-axis"),
        *("frozen-parameters-stop-the-state", "gradient-of-first-tile", "gradient-of-eight-tiles"),
        *("layers-in-a-table-of-four", "parameter-strides-ignored", "saved-overwritten", "token-axes-not-collapsed"),
        *("saved-in-a-ring-of-four", "cotangent-rows-ignored", "results-learn-half", "table-of-inference-mode"),
        *("cotangent-overwritten", "cotangent-strides-ignored", "saved-strides-ignored", "gradient-accumulated-twice"),
        *("tied-layers-detached", "saved-token-strides-ignored", "table-in-the-default-dtype"),
        *("frozen-phi-stops-gates", "gradient-fused-into-grad", "saved-zero-strides-ignored"),
        *("layers-sharing-phi-learn-once",),
        *("streams-first-by-shape", "head-phi-strides-ignored", "layers-read-as-they-lie", "layers-in-place"),
        *("end-added-up-while-tuned", "layers-packed-by-the-first", "cotangent-of-many-tokens-overwritten"),
        *("stack-gradient-of-64-channels", "cotangent-of-one-stream-advances", "dense-cotangent-read-as-it-lies"),
        *("output-kept-beside-the-graph", "output-spent-by-the-backward-pass", "quiet-call-overwrites-what-is-saved"),
        *("what-is-saved-belongs-to-a-thread", "workspace-released-by-the-first-backward-pass"),
        *("branch-output-read-as-the-state-lies", "layers-packed-by-their-ends", "layers-take-from-their-lists"),
        *("cotangent-of-a-full-tile-read-on", "fifth-layer-reads-the-first-parameters"),
        *("gradient-made-once-for-two-losses", "slots-by-how-many-passes-wait", "flag-left-by-a-pass-that-raised"),
        *("strides-of-the-first-layer", "layers-of-one-storage-are-one"),
        *("expanded-state-taught-by-its-last-stream", "quiet-calls-freeze-what-they-read"),
        *("phi-read-after-its-optimiser-has-stepped",),
        *("slot-freed-with-the-output", "padding-times-zero", "four-axes-unfolded-in-another-order"),
        *("gates-left-by-early-stop", "weight-folded-once-for-a-phi", "head-tied-to-a-layer-learns-alone"),
        *("weight-gradient-of-two-passes", "head-columns-counted-as-of-a-layer", "stack-recomputed-with-other-masks"),
        *("layers-laid-out-as-expanded-streams", "large-phi-gradient-in-a-workspace", "ring-of-32-saved-passes"),
        *("tuned-call-sets-the-backward-pass", "alternating-layers-learn-from-the-last-run"),
    ),
    "a sum in coarser parts is off by what only the declared formula and its bound can tell": (
        *("partial-logits-in-bfloat16", "partial-squares-in-bfloat16", "products-of-many-tokens-in-bfloat16"),
    ),
    "a stack ends by gates as likely as others, which are the same where gates are constant: only the oracle knows": (
        *("collapse-with-a-fresh-gate", "collapse-with-the-gates-before"),
    ),
    "what a last read makes of the streams is known by its value: no identity holds of it": (
        *("bottleneck-end-is-a-mean", "bottleneck-end-without-gates", "attention-end-is-the-newest"),
    ),
    "h_post of other, equally likely values: only the oracle knows which": ("post-of-mixed",),
    "right wherever an oracle looks: what is compared are two calls that must agree": (
        *("state-strides-ignored", "mix-strides-ignored", "logits-strides-ignored", "token-axes-transposed"),
        *("no-grad-without-weight", "no-grad-in-bfloat16", "split-by-batch", "alignment-assumed", "atomic-additions"),
        *("compiled-without-weight", "compiled-backward-halved", "copies-not-mixed"),
        *("module-parameters-in-another-order", "kernel-of-the-first-call", "deterministic-path-without-bias"),
        *("deterministic-algorithms-refused", "mixed-as-autocast-has-it", "head-as-autocast-has-it"),
        *("saved-as-autocast-has-it", "fourth-axis-of-tokens", "saved-phi-strides-ignored"),
        *("layers-compute-as-autocast-has-it",),
        *("post-scale-of-a-thread",),
        *("expanded-parameters-read-on", "bare-token-normed-by-row"),
        *("parameters-off-their-alignment", "saved-found-by-address", "h-res-alone-teaches-nothing"),
        *("three-iterations-of-decoding-in-inference-mode", "transposed-phi-on-two-axes"),
        *("adapters-learn-from-one-tile", "deterministic-sum-of-one-tile", "many-tokens-saved-are-found-by-address"),
        *("gates-of-many-tokens-in-the-default-dtype", "expanded-sequences-are-written-once"),
        *("one-sequence-learns-beside-frozen-parameters", "tuned-iterations-of-one-tile"),
    ),
    "what is handed out must stay and what is not must go, which contracts alone are about": (
        *("output-ring-of-four", "outputs-collected", "statistics-keep-graphs", "queue-around-the-branch"),
        *("seed-set-at-first-call", "graph-recorded-under-no-grad"),
        *("branch-output-scaled-in-place", "branch-input-written-again", "branch-inputs-in-a-ring-of-four"),
        *("output-in-the-buffer-of-a-module", "layers-in-two-buffers"),
        *("branch-reads-the-state-itself", "shut-mappings-handed-out"),
        *("states-of-layers-collected", "end-in-a-buffer", "queue-while-recorded"),
        *("refused-call-leaves-autograd-off", "refused-call-leaves-the-default-dtype"),
        *("matrices-of-64-tokens-in-a-buffer", "mappings-of-wide-states-in-a-workspace"),
        *("branch-output-of-many-tokens-spent", "bias-of-a-model-packed-where-it-serves"),
        *("bias-packed-while-it-learns", "branch-in-a-fork-of-the-generator", "own-output-is-a-workspace"),
        *("branch-inputs-of-layers-in-two-buffers", "branch-inputs-of-layers-in-four-buffers"),
        *("prompt-of-full-tiles-in-place", "gates-packed-beside-the-bias", "storage-of-a-parameter-moved"),
        *("branch-reads-flat-tokens", "gates-left-by-an-interrupt"),
    ),
    "right but for sizes, for what was called before, or for how it is called, at which the oracle looks": (
        *("max-not-subtracted-without-gradients", "cotangent-offset-ignored"),
        *("folded-weight-kept", "folded-gates-kept", "workspace-without-dtype", "fewer-iterations-for-five-streams"),
        *("square-state-transposed", "channels-above-4096-left-out", "tail-of-256-unwritten-without-gradients"),
        *("recorded-tail-unwritten", "state-gradient-of-64-channels"),
        *("squares-of-1024-channels-between-layers", "chunks-of-a-sequence-begin-again"),
        *("tokens-beyond-a-bucket-stay", "tiles-between-layers-stay", "sums-over-512-channels-backwards"),
        *("two-streams-in-the-other-order", "full-tiles-of-a-matrix-unit"),
        *("first-split-of-wide-products-learns", "first-tile-of-a-segment-learns", "padding-passed-over"),
        *("many-tokens-of-many-streams", "many-streams-of-one-tile-backwards", "numbers-beyond-2-23-stay"),
        *("last-tile-of-wide-tokens-halved", "transposed-phi-of-many-tokens", "views-of-128-tokens"),
        *("four-wide-streams-of-512-channels-backwards", "bfloat16-step-of-2048-tokens-learns"),
        *("norm-without-weight-leaves-a-lane-out", "tokens-of-a-tile-pass-many-layers"),
        *("state-gradient-of-128-channels-beside-frozen-parameters", "step-of-128-channels"),
        *("cotangent-of-a-sum-in-one-tile", "second-backward-of-many-tokens-is-zero", "one-mapping-of-a-tile-learns"),
        *("branch-rows-of-64-tokens", "branches-of-many-streams-end-after-twelve-layers"),
        *("branches-end-after-24-layers-of-bfloat16", "dead-channels-are-padding"),
        *("masked-prompt-ends-the-backward-pass", "layers-on-two-axes-teach-64-channels"),
        *("padded-streams-of-128-channels-learn", "tokens-after-padding-are-padding"),
        *("dense-cotangent-of-128-channels-read-as-it-lies", "full-tiles-read-an-expanded-cotangent-on"),
        *("many-tokens-saved-belong-to-a-thread", "quiet-call-of-many-tokens-overwrites-what-is-saved"),
        *("tile-of-a-split-lacks-its-offset", "split-products-without-eps", "first-block-of-phi-fetched-once"),
        *("second-launch-advances-by-tokens", "flush-of-a-table-is-one-tile", "squares-of-the-last-pass-of-a-step"),
        *("three-axes-taken-for-two", "wide-phi-packed-by-its-version", "partial-block-reads-the-first-tile"),
        *("large-branch-inputs-in-a-workspace", "last-512-channels-between-layers-teach"),
        *("remainder-of-capped-splits-is-lost", "parameters-learn-up-to-an-empty-tile"),
        *("states-computed-again-take-the-gradient", "state-computed-again-one-layer-short"),
        *("five-streams-between-layers-learn-from-a-tile", "second-round-of-programs-overwrites"),
        *("stack-of-128-tokens-learns", "zero-norm-weights-of-many-tokens-stay"),
    ),
    "a branch that mixes tokens, or has a loss of its own, is made by one law of each method, which knows a gradient": (
        *("branch-input-cotangent-read-as-it-lies", "branch-output-gradient-laid-out-as-the-output"),
        *("empty-tiles-skipped-before-a-branch-that-mixes", "losses-within-branches-lost"),
        *("losses-within-branches-of-layers-lost", "losses-within-branches-of-a-stack-lost"),
        "branch-input-cotangents-of-a-stack-read-as-they-lie",
    ),
    "shows in what is tuned alone, whose values the oracle knows": (
        *("norm-reads-entry-eps", "tuned-in-place", "tuned-from-the-preset"),
        *("iterations-beyond-32-left-out", "softmax-counts-as-an-iteration", "post-scale-built-in-backwards"),
    ),
    "shows at poisoned inputs alone, where there is no value to compare": (
        *("nan-hidden", "cotangent-nan-hidden", "update-hides-nan-backwards", "branch-nan-dropped"),
        *("nan-of-a-tile", "parameter-gradients-made-finite", "nan-hidden-without-gradients"),
        *("nan-hidden-in-wide-states", "nan-hidden-in-decoding", "nan-hidden-in-a-prompt"),
        "nan-hidden-behind-the-second-layer",
    ),
    "shows under one circumstance alone, which one law makes": (
        *("tokens-above-1024-unwritten", "log-domain-declared", "starved-gradient-lost", "maximum-over-the-padding"),
        *("no-iteration-is-one", "history-without-a-place", "squares-overflow", "squares-overflow-backwards"),
        *("branch-computed-again-from-what-it-left", "branch-called-past-its-hooks"),
    ),
}
"""Why the laws of one kind are all that can see them."""


TOGETHER = {
    "both lose gradients below the floor of a norm, of any size there or of zeros: laws that look there draw both": (
        *("norm-clamp-detached", "norm-clamp-stops"),
    ),
    "both are wrong in value where a mean is not 0, by its rounding or by all of it: what compares values sees both": (
        *("mean-in-bfloat16", "variance-of-the-uncentred"),
    ),
}
"""Why the same laws kill deviations of a norm that laws of more than one kind see."""


def test_of_a_norm_the_same_laws_kill_two_deviations_only_where_it_is_said_why() -> None:
    """In one dialect and one dtype: which dtype shows it tells others apart."""
    groups: dict[tuple[str, str, frozenset[str]], set[str]] = {}
    for name, row in WRONG.items():
        if "norm" in row.preset.lower() and not row.stopped:
            groups.setdefault((row.preset, row.dtype, frozenset(row.killed)), set()).add(name)
    assert groups
    said = [set(names) for names in (*ONE_KIND.values(), *TOGETHER.values())]
    assert [names for names in groups.values() if len(names) > 1 and not any(names <= one for one in said)] == []


def test_every_deviation_has_its_row() -> None:
    known = {(task.name, task.preset, task.dtype) for task in tasks(EXAMPLES, [])}
    assert {row.key[1:] for row in ROWS} <= known
    assert set(WRONG) == set(SHOWN)


def test_no_control_is_accused_and_no_harness_failed() -> None:
    assert [row.key for row in ROWS if row.kind == "control" and row.killed] == []
    assert [row.key for row in ROWS if row.errors] == []


def test_every_deviation_is_seen_by_laws_of_two_kinds_or_it_is_said_why_not() -> None:
    single = {name for name, row in WRONG.items() if len({kill.kind for kill in row.killed.values()}) < 2}
    assert single == {name for names in ONE_KIND.values() for name in names}
    assert [name for name, row in WRONG.items() if not row.killed] == []


def test_every_law_sees_a_deviation() -> None:
    """Those of guarantees, which hold of families that have no row here, are tried in test_guarantees.py and, where
    there is no formula, in test_claims.py."""
    seen = {law for row in WRONG.values() for law in row.killed}
    elsewhere = (guarantees.__name__, gradient_guarantees.__name__)
    laws = {name: law for name, law in all_laws().items() if law.module not in elsewhere}
    possible = {name for name, law in laws.items() if not (law.on.feature and device_of("cpu").lacks(law.on.feature))}
    assert possible == seen & set(laws)


QUICK = 0.15
"""Seconds that the two cheapest laws of a deviation may have taken for its test to run by default."""


DEAR = 10
"""Seconds from which it waits for a thorough run: the few deviations that show in millions of numbers alone, or whose
sums mpmath has to judge at the width of a model."""
COMPILED = ("compiled-without-weight", "compiled-backward-halved")
"""Those that wait as well: a first compilation takes half a minute, and what was compiled before, none. On the
simulated device they are seen in tests/test_device_laws.py."""


def seldom(name: str) -> list[pytest.MarkDecorator]:
    row = WRONG.get(name)
    took = sum(row.killed[law].seconds for law in row.cheapest()) if row else 0
    dear = took > DEAR or name in COMPILED
    return [pytest.mark.slow] * (took > QUICK or dear) + [pytest.mark.thorough] * dear


def test_few_deviations_wait_for_a_thorough_run() -> None:
    assert sum(pytest.mark.thorough in seldom(name) for name in SHOWN) <= 0.025 * len(SHOWN)


@pytest.mark.one_in(6)
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=seldom(name)) for name in SHOWN])
def test_a_deviation_is_killed_by_its_two_cheapest_laws(name: str) -> None:
    row = WRONG[name]
    bench = Bench(Task("deviation", name, row.preset, row.dtype, EXAMPLES, ()))
    laws = row.cheapest()
    assert laws
    for law in laws:
        bench.forget()
        verdict = bench.examine(all_laws()[law], row.dtype)
        assert verdict.status == "failed", f"{law}: {verdict.status} at {verdict.worst_ratio:.3g} {verdict.reason}"


# -- the bookkeeping --------------------------------------------------------------------------------------------------


def row(**changes: object) -> Row:
    fields: dict[str, object] = {
        "name": "one-iteration",
        "kind": "iterations",
        "preset": "PAPER",
        "dtype": "float64",
        "killed": {},
        "errors": {},
        "exercised": [],
    }
    return Row(**(fields | changes))  # type: ignore[arg-type]


ORACLE, SAME, IDENTITY = Kill("oracle", 3, 0.2), Kill("oracle", 2, 0.1), Kill("identity", 9, 2.0)


def test_the_cheapest_laws_are_of_two_kinds_where_there_are_two() -> None:
    assert row(killed={"a": ORACLE, "b": IDENTITY, "c": SAME}).cheapest() == ["c", "b"]
    assert row(killed={"a": ORACLE, "c": SAME}).cheapest() == ["c", "a"]
    assert row().cheapest() == []
    bare = Kill("identity", 1, 0.1, ratio=1.01)
    assert row(killed={"a": ORACLE, "b": bare, "c": SAME}).cheapest() == ["c", "a"]
    assert row(killed={"a": bare}).cheapest() == ["a"]


def test_a_renewed_row_forgets_the_laws_that_were_tried_again() -> None:
    old = row(killed={"a": ORACLE, "b": IDENTITY}, errors={"a": "broken"}, exercised=["a", "b"])
    new = row(killed={}, exercised=["a"]).renewed(old, {"a"})
    assert (new.killed, new.errors, new.exercised) == ({"b": IDENTITY}, {}, ["b", "a"])


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [("b", 0.2, "b"), ("a", 0.2, 0.2), (0.5, 0.2, 0.5), (0.5, "a", "a"), ("b", None, "b"), ("a", None, None)],
)
def test_what_another_law_sees_in_another_dtype_is_kept(
    before: str | float, now: str | float, kept: str | float
) -> None:
    old = row(elsewhere={"bfloat16": before})
    new = row(elsewhere={} if now is None else {"bfloat16": now}).renewed(old, {"a"})
    assert new.elsewhere.get("bfloat16") == kept


def test_a_row_that_was_stopped_stays_so_until_all_its_laws_have_been_tried() -> None:
    old = row(exercised=["a", "b"], stopped=True)
    assert row(exercised=["a"]).renewed(old, {"a"}).stopped
    assert not row(exercised=["a", "b", "c"]).renewed(old, {"a", "b", "c"}).stopped
    assert row(exercised=["a"], stopped=True).renewed(row(exercised=["a", "b"]), {"a"}).stopped


def test_the_page_says_which_command_made_it_and_what_it_left_out() -> None:
    whole, short = row(exercised=["a", "b"]), row(name="two", stopped=True)
    assert "Made by `make kill`" in page([whole])
    assert "lower bounds" not in page([whole])
    assert "\nOf the rows 1 were put to a part of the laws, or an earlier" in page([whole, short])


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [row(killed={"a": ORACLE}, elsewhere={"bfloat16": 0.5, "float32": "a"}), row(name="two")]
    save(tmp_path / "kill.json", rows)
    assert load(tmp_path / "kill.json") == rows
    written = json.loads((tmp_path / "kill.json").read_text())
    assert written["schema"] == 2
    (tmp_path / "older.json").write_text(json.dumps(written["rows"]))
    assert load(tmp_path / "older.json") == rows
    assert load(tmp_path / "no such file") == []


def test_the_page_names_what_needs_a_look() -> None:
    law = "manifold.last-axis-sums"
    text = page(
        [
            row(killed={law: ORACLE}, exercised=[law], elsewhere={"bfloat16": 0.5}),
            row(name="survivor"),
            row(name="linear", kind="control", killed={law: ORACLE}),
        ]
    )
    assert "deviations killed: 1 of 2" in text
    assert "surviving: survivor\n" in text
    assert "killed by the oracle laws alone: one-iteration\n" in text
    assert f"controls flagged: linear@PAPER float64: {law} (of 1 control runs)" in text
    assert "one-iteration in bfloat16 (0.5)" in text


def test_a_deviation_is_at_home_where_it_shows() -> None:
    assert home("h-res-transposed") == ("PAPER", "float64")
    assert home("output-not-cast-back") == ("PAPER", "bfloat16")
    assert home("rms-eps-inside") == ("PAPER with rms eps 1e-3 outside", "float64")


def test_on_another_device_what_needs_it_is_tried_and_the_page_says_where() -> None:
    extra = {task.name for task in tasks(EXAMPLES, [], (), "cuda")} - {task.name for task in tasks(1, [])}
    assert extra == {name for name, one in HIDDEN.items() if one.needs}
    assert {task.device for task in tasks(EXAMPLES, [], (), "cuda")} == {"cuda"}
    assert home("one-iteration-less-on-the-device") == ("PAPER with 3 iterations", "float64")
    assert "Made by `mhc-properties kill --device cuda`" in page([row()], "cuda")
    assert "what they need the cuda lacks: none" in page([row()], "cuda")


def test_a_control_is_tried_in_the_dtypes_that_it_declares() -> None:
    found = [task.dtype for task in tasks(EXAMPLES, ["half", "linear"]) if task.preset == "PAPER"]
    assert found == ["float64", "float32", "bfloat16", "float16"]


def test_a_control_and_a_deviation_of_one_name_are_told_apart() -> None:
    name = "stored-transposed"
    both = tasks(EXAMPLES, [name])
    assert {task.catalogue for task in both} == {"deviation", "control"}
    for catalogue in ("deviation", "control"):
        chosen = tasks(EXAMPLES, [f"{catalogue}:{name}"])
        assert {task.catalogue for task in chosen} == {catalogue}
        assert chosen == [task for task in both if task.catalogue == catalogue]
    controls = [
        row(name=name, kind="control", preset=t.preset, dtype=t.dtype) for t in both if t.catalogue == "control"
    ]
    assert [task.catalogue for task in still_missing(both, controls)] == ["deviation"]
    (wrong,) = (task for task in both if task.catalogue == "deviation")
    left = still_missing(both, [row(name=name, kind="packing", preset=wrong.preset, dtype=wrong.dtype)])
    assert left == [task for task in both if task.catalogue == "control"]


def test_a_row_that_ends_at_its_second_kill_is_missing_until_all_laws_have_been_asked() -> None:
    first, second = tasks(EXAMPLES, ["one-iteration", "h-res-transposed"])
    rows = [row(name=one.name, preset=one.preset, dtype=one.dtype, stopped=one is first) for one in (first, second)]
    assert still_missing([first, second], rows) == [first]
    some = replace(first, laws=("manifold.",))
    assert still_missing([some], rows) == []
    assert still_missing([some], []) == [some]


def short_of_a_row(where: Path) -> tuple[Row, list[str]]:
    """A matrix of two rows, of which one ends at its second kill, by a law that is no more; the other one, and the
    words that ask for what is missing."""
    (task,) = tasks(EXAMPLES, ["one-iteration"])
    old = row(preset=task.preset, dtype=task.dtype, killed={"gone.law": ORACLE}, exercised=["gone.law"], stopped=True)
    other = row(name="h-res-transposed", preset=task.preset, dtype=task.dtype, killed={"a.law": ORACLE})
    save(where / "kill.json", [old, other])
    given = ["--out", str(where), "--campaigns", str(where / "c"), "--engine", "serial", "--examples", "1"]
    return other, ["kill", "--missing", "--only", "one-iteration", *given]


@pytest.mark.slow
def test_a_budget_that_is_spent_before_it_begins_leaves_the_matrix_as_it_was(tmp_path: Path) -> None:
    _, asked = short_of_a_row(tmp_path)
    assert CliRunner().invoke(cli.app, [*asked, "--budget", "0.000001"]).exit_code == 3
    assert [one.stopped for one in load(tmp_path / "kill.json")] == [True, False]
    assert "`mhc-properties kill --missing`" in (tmp_path / "kill.md").read_text()


@pytest.mark.thorough
def test_the_matrix_is_finished_in_pieces(tmp_path: Path) -> None:
    """The row that ends at its second kill is tried again in full; laws that are no more leave it."""
    other, asked = short_of_a_row(tmp_path)
    assert CliRunner().invoke(cli.app, asked).exit_code in (0, 1)  # the other row is no concern of this one
    whole = {one.name: one for one in load(tmp_path / "kill.json")}
    assert whole[other.name] == other
    assert not whole["one-iteration"].stopped
    assert "gone.law" not in whole["one-iteration"].killed
    assert len(whole["one-iteration"].killed) > 10
    assert CliRunner().invoke(cli.app, asked).exit_code == 2


@pytest.mark.parametrize(
    "text", ["", "{}", '{"schema": 3, "rows": []}', "3", "[3]", '[{"name": "x"}]', "[" * 5000, "\0"]
)
def test_a_file_that_is_no_matrix_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "kill.json").write_text(text)
    with pytest.raises(ValueError, match=r"kill\.json is no kill\.json: "):
        load(tmp_path / "kill.json")
