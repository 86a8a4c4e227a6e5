"""What readers of the strategies wrote is seen by its law, and right elsewhere; nobody who is right is accused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_deviations import VISIBLE, difference, probes
from test_modes import judged

from mhc_ref import DEEPSEEK_V4, DEEPSEEK_V4_1, PAPER
from properties.catalogue import controls
from properties.catalogue.deviations import build
from properties.catalogue.deviations.backward import HandWritten
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.sweep import Reach
from properties.core.trial import LawBroken
from properties.engine.subject import Subject

SEEN_BY_READERS = {
    "refused-call-leaves-autograd-off": "execution.refused-calls-leave-their-surroundings",
    "refused-call-leaves-the-default-dtype": "execution.refused-calls-leave-their-surroundings",
    "shut-gates-never-learn": "gradient.initial-mappings-learn",
    "table-in-the-default-dtype": "execution.default-dtypes-do-not-matter",
    "branch-output-scaled-in-place": "execution.blocks-leave-what-their-branch-returns",
    "branch-drawn-again": "gradient.branches-may-draw",
    "branch-nan-dropped": "execution.poison-passes-pre-and-post",
    "streams-first-by-shape": "execution.batch-shape-is-free",
    "saved-token-strides-ignored": "gradient.every-token-pulls-back-through-pre-and-post",
    "branch-input-written-again": "execution.branches-may-return-what-they-read",
    "saved-phi-strides-ignored": "gradient.mappings-pull-back-however-they-are-called",
    "fourth-axis-of-tokens": "execution.mappings-take-any-batch-shape",
    "layers-of-the-first-part-learn": "gradient.every-token-pulls-back-through-a-stack",
    "nan-of-a-tile": "execution.poison-passes-pre-and-post",
    "frozen-phi-stops-gates": "gradient.mappings-pull-back-however-they-are-called",
    "gradient-fused-into-grad": "gradient.mappings-pull-back-however-they-are-called",
    "saved-zero-strides-ignored": "gradient.mappings-pull-back-however-they-are-called",
    "parameter-gradients-made-finite": "gradient.poison-passes-the-mappings",
    "layers-sharing-phi-learn-once": "gradient.tied-layers-add-up",
    "post-scale-of-a-thread": "execution.threads-do-not-matter",
    "expanded-parameters-read-on": "execution.mappings-do-not-see-strides",
    "branch-inputs-in-a-ring-of-four": "execution.branch-inputs-outlive-further-blocks",
    "bare-token-normed-by-row": "execution.mappings-take-any-batch-shape",
    "iterations-beyond-32-left-out": "manifold.a-count-of-iterations-may-be-large",
    "weight-folded-without-gradients": "execution.mappings-have-no-memory",
    "post-scale-built-in-backwards": "coefficients.tuned-fields-are-used",
    "output-in-the-buffer-of-a-module": "execution.outputs-outlive-the-next-call",
    "layers-in-two-buffers": "execution.layers-outlive-further-calls",
    "branches-of-layers-do-not-learn": "gradient.branches-of-layers-learn",
    "nan-hidden-without-gradients": "execution.poison-is-neither-hidden-nor-spread",
    "head-phi-strides-ignored": "depth.stacks-take-any-batch",
    "shut-mappings-handed-out": "execution.mappings-have-no-memory",
    "layers-read-as-they-lie": "depth.layers-take-any-batch",
    "layers-in-place": "execution.layers-have-no-memory",
    "states-of-layers-collected": "execution.layers-let-go",
    "end-in-a-buffer": "execution.stacks-outlive-further-calls",
    "end-added-up-while-tuned": "execution.first-stacks-are-like-later-ones",
    "parameters-off-their-alignment": "execution.mappings-do-not-see-strides",
    "saved-found-by-address": "gradient.pre-and-post-pull-back-however-they-are-called",
    "queue-while-recorded": "execution.branches-may-pass-blocks-and-fail",
    "weight-folded-in-evaluation": "execution.mappings-have-no-memory",
    "h-res-alone-teaches-nothing": "gradient.mappings-pull-back-however-they-are-called",
    "matrices-of-64-tokens-in-a-buffer": "execution.projections-outlive-the-next-call",
    "large-states-in-place": "execution.pre-and-post-leave-their-inputs-alone",
    "nan-hidden-in-wide-states": "execution.poison-passes-pre-and-post",
    "layers-packed-by-the-first": "execution.layers-have-no-memory",
    "shared-branch-learns-once": "gradient.every-layer-learns",
    "cotangent-of-many-tokens-overwritten": "gradient.every-token-pulls-back-through-pre-and-post",
    "stack-gradient-of-64-channels": "gradient.constant-stacks-pull-back-as-they-push-forward",
    "three-iterations-of-decoding-in-inference-mode": "execution.gradient-mode-does-not-matter",
    "transposed-phi-on-two-axes": "execution.mappings-do-not-see-strides",
    "sequences-from-the-fifth-on-stay": "mixing.post-is-the-declared-combination",
    "nan-hidden-in-decoding": "execution.poison-is-neither-hidden-nor-spread",
    "expanded-sequences-are-written-once": "execution.post-does-not-see-strides",
    "layers-on-two-axes-teach-64-channels": "gradient.branches-of-layers-learn",
    "one-sequence-learns-beside-frozen-parameters": "gradient.mappings-pull-back-however-they-are-called",
    "weight-folded-for-many-tokens": "execution.mappings-have-no-memory",
    "mappings-of-wide-states-in-a-workspace": "execution.mappings-have-no-memory",
    "adapters-learn-from-one-tile": "gradient.pre-and-post-pull-back-however-they-are-called",
    "tuned-iterations-of-one-tile": "manifold.a-count-of-iterations-may-be-large",
    "deterministic-sum-of-one-tile": "execution.deterministic-algorithms-do-not-matter",
    "branch-output-of-many-tokens-spent": "execution.blocks-leave-what-their-branch-returns",
    "many-tokens-saved-are-found-by-address": "gradient.pre-and-post-pull-back-however-they-are-called",
    "gates-of-many-tokens-in-the-default-dtype": "execution.default-dtypes-do-not-matter",
    "dense-cotangent-read-as-it-lies": "gradient.pre-and-post-pull-back-however-they-are-called",
    "cotangent-of-one-stream-advances": "gradient.pre-and-post-pull-back-however-they-are-called",
    "quiet-call-overwrites-what-is-saved": "gradient.blocks-pull-back-however-they-are-called",
    "what-is-saved-belongs-to-a-thread": "gradient.stacks-pull-back-however-they-are-called",
    "workspace-released-by-the-first-backward-pass": "gradient.blocks-pull-back-however-they-are-called",
    "output-kept-beside-the-graph": "gradient.projection-pulls-back-however-it-is-called",
    "output-spent-by-the-backward-pass": "gradient.pre-and-post-pull-back-however-they-are-called",
    "branch-computed-again-from-what-it-left": "execution.branches-may-return-what-they-read",
    "bias-packed-while-it-learns": "execution.mappings-have-no-memory",
    "bias-of-a-model-packed-where-it-serves": "execution.mappings-have-no-memory",
    "layers-packed-by-their-ends": "execution.layers-have-no-memory",
    "branch-in-a-fork-of-the-generator": "execution.blocks-leave-their-surroundings",
    "branch-inputs-of-layers-in-two-buffers": "execution.layers-outlive-further-calls",
    "branch-output-read-as-the-state-lies": "execution.blocks-do-not-see-strides",
    "layers-take-from-their-lists": "execution.layers-have-no-memory",
    "branch-called-past-its-hooks": "execution.branches-may-return-what-they-read",
    "own-output-is-a-workspace": "execution.blocks-leave-their-input-alone",
    "nan-hidden-in-a-prompt": "execution.poison-is-neither-hidden-nor-spread",
    "nan-hidden-behind-the-second-layer": "execution.poison-passes-a-stack",
    "detached-branches-teach-nothing": "gradient.branches-learn",
    "silent-branches-teach-nothing": "gradient.branches-learn",
    "branches-of-a-frozen-weight-teach-nothing": "gradient.branches-learn",
    "detached-branches-of-layers-teach-nothing": "gradient.branches-of-layers-learn",
    "silent-branches-of-layers-teach-nothing": "gradient.branches-of-layers-learn",
    "branches-of-layers-learn-from-one-tile": "gradient.branches-of-layers-learn",
    "detached-branches-of-a-stack-teach-nothing": "gradient.branches-of-stacks-learn",
    "silent-branches-of-a-stack-teach-nothing": "gradient.branches-of-stacks-learn",
    "branch-inputs-of-layers-in-four-buffers": "execution.layers-outlive-further-calls",
    "layers-before-the-last-four-learn-nothing": "gradient.branches-of-layers-learn",
    "fifth-layer-reads-the-first-parameters": "execution.layers-have-no-memory",
    "cotangent-of-a-full-tile-read-on": "gradient.blocks-pull-back-however-they-are-called",
    "prompt-of-full-tiles-in-place": "execution.blocks-leave-their-input-alone",
    "gradient-made-once-for-two-losses": "gradient.pre-and-post-pull-back-however-they-are-called",
    "slots-by-how-many-passes-wait": "gradient.pre-and-post-pull-back-however-they-are-called",
    "flag-left-by-a-pass-that-raised": "gradient.mappings-pull-back-however-they-are-called",
    "gates-packed-beside-the-bias": "execution.mappings-have-no-memory",
    "strides-of-the-first-layer": "depth.layers-take-any-batch",
    "layers-of-one-storage-are-one": "depth.layers-take-any-batch",
    "expanded-state-taught-by-its-last-stream": "gradient.mappings-pull-back-however-they-are-called",
    "quiet-calls-freeze-what-they-read": "gradient.mappings-pull-back-however-they-are-called",
    "phi-read-after-its-optimiser-has-stepped": "gradient.mappings-pull-back-however-they-are-called",
    "layers-compute-as-autocast-has-it": "device.stacks-keep-their-precision-under-autocast",
    "storage-of-a-parameter-moved": "execution.mappings-have-no-memory",
    "slot-freed-with-the-output": "gradient.pre-and-post-pull-back-however-they-are-called",
    "padding-times-zero": "execution.mappings-do-not-see-strides",
    "branch-reads-flat-tokens": "execution.branches-may-return-what-they-read",
    "four-axes-unfolded-in-another-order": "depth.layers-take-any-batch",
    "gates-left-by-an-interrupt": "execution.branches-may-pass-blocks-and-fail",
    "gates-left-by-early-stop": "gradient.pre-and-post-pull-back-however-they-are-called",
    "weight-folded-once-for-a-phi": "execution.layers-have-no-memory",
    "head-tied-to-a-layer-learns-alone": "gradient.stacks-pull-back-however-they-are-called",
    "weight-gradient-of-two-passes": "gradient.mappings-pull-back-however-they-are-called",
    "head-columns-counted-as-of-a-layer": "depth.stacks-take-any-batch",
    "stack-recomputed-with-other-masks": "gradient.stacks-pull-back-however-they-are-called",
    "layers-laid-out-as-expanded-streams": "depth.layers-take-any-batch",
    "adapters-of-later-layers-unasked": "gradient.branches-of-layers-learn",
    "large-phi-gradient-in-a-workspace": "gradient.many-passes-may-wait",
    "ring-of-32-saved-passes": "gradient.many-passes-may-wait",
    "tuned-call-sets-the-backward-pass": "gradient.mappings-pull-back-however-they-are-called",
    "branch-input-cotangent-read-as-it-lies": "gradient.a-branch-may-mix-tokens",
    "branch-output-gradient-laid-out-as-the-output": "gradient.branches-of-layers-may-mix-tokens",
    "alternating-layers-learn-from-the-last-run": "gradient.stacks-pull-back-however-they-are-called",
    "branch-input-cotangent-scaled-in-place": "gradient.branches-learn",
    "empty-tiles-skipped-before-a-branch-that-mixes": "gradient.a-branch-may-mix-tokens",
    "losses-within-branches-lost": "gradient.losses-of-a-branch-teach",
    "losses-within-branches-of-layers-lost": "gradient.losses-of-branches-of-layers-teach",
    "losses-within-branches-of-a-stack-lost": "gradient.losses-of-branches-of-stacks-teach",
    "branch-input-cotangents-of-a-stack-read-as-they-lie": "gradient.branches-of-stacks-may-mix-tokens",
}
"""Hidden deviation -> a law that sees it."""
SEEN_AT: dict[str, tuple[Any, ...]] = {
    "gradient-of-64-tiles": ("sizes.mixing-pulls-back", 70001),
    "head-of-the-last-chunk": ("sizes.ends-pull-back", 300),
    "recorded-tail-unwritten": ("sizes.mixing-pulls-back", 70001),
    "state-gradient-of-64-channels": ("sizes.depths-pull-back", 33),
    "chunks-of-a-sequence-begin-again": ("sizes.tokens-and-channels-are-mapped", 259),
    "tokens-beyond-a-bucket-stay": ("sizes.blocks-pass", 514),
    "squares-of-1024-channels-between-layers": ("sizes.depths-pass", 2, 4096),
    "tiles-between-layers-stay": ("sizes.depths-pass", 33, 65),
    "sums-over-512-channels-backwards": ("sizes.mixing-pulls-back", 17, 520),
    "two-streams-in-the-other-order": ("sizes.streams-are-mixed", 17, 520),
    "full-tiles-of-a-matrix-unit": ("sizes.streams-are-mixed", 256, 64),
    "first-split-of-wide-products-learns": ("sizes.tokens-and-channels-pull-back", 260, 1040),
    "first-tile-of-a-segment-learns": ("sizes.depths-pull-back", 66),
    "padding-passed-over": ("sizes.streams-are-mixed", 64),
    "many-tokens-of-many-streams": ("sizes.tokens-and-channels-are-mapped", 300, 8),
    "many-streams-of-one-tile-backwards": ("sizes.mixing-pulls-back", 130, 8),
    "numbers-beyond-2-23-stay": ("sizes.streams-are-mixed", 521, 4096),
    "state-gradient-of-128-channels-beside-frozen-parameters": ("sizes.tokens-and-channels-pull-back", 17, 130),
    "four-wide-streams-of-512-channels-backwards": ("sizes.mixing-pulls-back", 2, 520),
    "tokens-of-a-tile-pass-many-layers": ("sizes.depths-pass", 17, 4),
    "views-of-128-tokens": ("sizes.streams-are-read", 130, 7),
    "norm-without-weight-leaves-a-lane-out": ("sizes.tokens-and-channels-are-mapped", 33, 8),
    "transposed-phi-of-many-tokens": ("sizes.tokens-and-channels-are-mapped", 17, 8),
    "cut-sequences-read-on": ("sizes.streams-are-mixed", 34, 130),
    "step-of-128-channels": ("sizes.streams-are-read", 34, 130),
    "cotangent-of-a-sum-in-one-tile": ("sizes.mixing-pulls-back", 33, 8),
    "second-backward-of-many-tokens-is-zero": ("sizes.reading-pulls-back", 33, 8),
    "one-mapping-of-a-tile-learns": ("sizes.tokens-and-channels-pull-back", 130, 8),
    "branch-rows-of-64-tokens": ("sizes.blocks-pass", 70, 8),
    "branches-of-many-streams-end-after-twelve-layers": ("sizes.depths-pass", 1, 4),
    "dead-channels-are-padding": ("sizes.streams-are-mixed", 17, 130),
    "masked-prompt-ends-the-backward-pass": ("sizes.mixing-pulls-back", 130, 130),
    "tokens-after-padding-are-padding": ("sizes.tokens-and-channels-are-mapped", 33),
    "padded-streams-of-128-channels-learn": ("sizes.mixing-pulls-back", 3, 130),
    "dense-cotangent-of-128-channels-read-as-it-lies": ("sizes.mixing-pulls-back", 17, 130),
    "full-tiles-read-an-expanded-cotangent-on": ("sizes.mixing-pulls-back", 64, 64),
    "quiet-call-of-many-tokens-overwrites-what-is-saved": ("sizes.mixing-pulls-back", 130, 130),
    "many-tokens-saved-belong-to-a-thread": ("sizes.mixing-pulls-back", 300, 8),
    "tile-of-a-split-lacks-its-offset": ("sizes.tokens-and-channels-are-mapped", 32, 7168),
    "split-products-without-eps": ("sizes.tokens-and-channels-are-mapped", 32, 7168),
    "first-block-of-phi-fetched-once": ("sizes.tokens-and-channels-are-mapped", 16411),
    "second-launch-advances-by-tokens": ("sizes.streams-are-mixed", 70001),
    "flush-of-a-table-is-one-tile": ("sizes.depths-pass", 130, 4),
    "squares-of-the-last-pass-of-a-step": ("sizes.depths-pass", 1, 4096),
    "three-axes-taken-for-two": ("sizes.tokens-and-channels-are-mapped", 300, 8),
    "wide-phi-packed-by-its-version": ("sizes.tokens-and-channels-are-mapped", 3, 1040),
    "partial-block-reads-the-first-tile": ("sizes.streams-are-mixed", 33, 7168),
    "large-branch-inputs-in-a-workspace": ("sizes.depths-pass", 300, 1024),
    "last-512-channels-between-layers-teach": ("sizes.depths-pull-back", 17, 1040),
    "remainder-of-capped-splits-is-lost": ("sizes.tokens-and-channels-pull-back", 2090, 1024),
    "parameters-learn-up-to-an-empty-tile": ("sizes.tokens-and-channels-pull-back", 300, 8),
    "states-computed-again-take-the-gradient": ("sizes.depths-pull-back", 3, 4),
    "state-computed-again-one-layer-short": ("sizes.depths-pull-back", 3, 4),
    "five-streams-between-layers-learn-from-a-tile": ("sizes.depths-pull-back", 66, 4),
    "second-round-of-programs-overwrites": ("sizes.depths-pull-back", 2049),
    "stack-of-128-tokens-learns": ("sizes.stacks-pull-back", 130, 4),
    "zero-norm-weights-of-many-tokens-stay": ("sizes.tokens-and-channels-pull-back", 40, 6),
}
"""Hidden deviation -> a law of sizes that sees it, and a number of tokens, or of tokens and channels, at which it
does."""


SEEN_IN_BFLOAT16 = {
    "full-tiles-of-a-matrix-unit": ("sizes.streams-are-mixed", 256, 64),
    "last-tile-of-wide-tokens-halved": ("sizes.streams-are-mixed", 70, 1024),
    "bfloat16-step-of-2048-tokens-learns": ("sizes.tokens-and-channels-pull-back", 4099, 1),
    "branches-end-after-24-layers-of-bfloat16": ("sizes.depths-pass", 1, 1),
}
"""Hidden deviation -> a law that sees it in bfloat16, and the tokens and channels at which it does."""
SEEN_ELSEWHERE = {
    "branch-reads-the-state-itself": (DEEPSEEK_V4_1, "execution.branches-may-return-what-they-read"),
}
"""Those of another dialect."""
OF_THE_PAPER = {
    "softmax-counts-as-an-iteration": ("manifold.tuned-fields-are-used", torch.float32),
    "products-of-many-tokens-in-bfloat16": (
        "precision.sums-over-channels-keep-the-compute-precision-in-a-block",
        torch.bfloat16,
    ),
}
"""Those that make no difference for the other dialect, or show in another dtype: a law, and the dtype."""


@pytest.mark.one_in(4)
@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_BY_READERS)
def test_what_a_reader_wrote_is_seen_by_its_law(name: str, tmp_path: Path) -> None:
    found = judged(SEEN_BY_READERS[name], build(name, DEEPSEEK_V4), tmp_path)
    assert found.status == "failed", found.reason


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_ELSEWHERE)
def test_what_a_reader_wrote_for_another_dialect_is_seen(name: str, tmp_path: Path) -> None:
    dialect, law = SEEN_ELSEWHERE[name]
    found = judged(law, build(name, dialect), tmp_path)
    assert found.status == "failed", found.reason
    assert judged(law, Reference(dialect), tmp_path).status == "passed"


@pytest.mark.parametrize("name", SEEN_IN_BFLOAT16)
def test_what_a_reader_wrote_in_bfloat16_is_seen_at_its_size(name: str) -> None:
    law, *size = SEEN_IN_BFLOAT16[name]
    one = all_laws()[law]
    sweep = one.sweep
    assert sweep is not None
    for target, refused in ((Reference(PAPER), False), (build(name, PAPER), True)):
        subject = Subject("target", target, torch.bfloat16, torch.device("cpu"))
        points = sweep.points(subject.setting(one), Reach(2, 550, 550, 24, models=8192), 0)  # as in dev
        cases = [at.case() for at in points if [at.size.tokens, at.size.channels] == size]
        assert cases
        broken = False
        for case in cases:
            try:
                one.judge(subject.trial(), case)
            except LawBroken:
                broken = True
        assert broken == refused


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_what_a_reader_wrote_is_seen_where_it_shows(name: str, tmp_path: Path) -> None:
    law, dtype = OF_THE_PAPER[name]
    found = judged(law, build(name, PAPER), tmp_path, dtype)
    assert found.status == "failed", found.reason
    assert judged(law, Reference(PAPER), tmp_path, dtype).status == "passed"


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_AT)
def test_what_a_reader_wrote_is_seen_at_a_size_that_is_swept(name: str) -> None:
    law, *size = SEEN_AT[name]
    one = all_laws()[law]
    sweep = one.sweep
    assert sweep is not None
    for target, refused in ((Reference(DEEPSEEK_V4), False), (build(name, DEEPSEEK_V4), True)):
        subject = Subject("target", target, torch.float32, torch.device("cpu"))
        points = sweep.points(subject.setting(one), Reach(3, 8192, 8192, 65), 0)
        cases = [
            point.case() for point in points if [point.size.tokens, *([point.size.channels] * (len(size) > 1))] == size
        ]
        assert cases
        seen = 0
        for case in cases:
            try:
                one.judge(subject.trial(), case)
            except LawBroken:
                seen += 1
        assert bool(seen) == refused


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SEEN_BY_READERS, *SEEN_AT, *OF_THE_PAPER])
def test_what_a_reader_wrote_is_right_in_ordinary_calls(name: str) -> None:
    dialect = PAPER if name in OF_THE_PAPER else DEEPSEEK_V4
    for family, wanted in (("forward", "block of 3"), ("gradient", "gradient 1.0")):
        one = next(one for one in probes(dialect)[family] if one.name == wanted)
        found = one.observe(build(name, dialect))
        assert difference(found, one.observe(Reference(dialect))) < VISIBLE


CIRCUMSTANCES = (
    *("execution.default-dtypes-do-not-matter", "execution.blocks-leave-what-their-branch-returns"),
    *("gradient.branches-may-draw", "gradient.branches-of-layers-may-draw", "gradient.initial-blocks-learn"),
    *("gradient.initial-mappings-learn", "execution.poison-passes-pre-and-post", "sizes.ends-pull-back"),
    *("execution.poison-is-neither-hidden-nor-spread", "sizes.beginnings-pull-back"),
    *("execution.branches-may-return-what-they-read", "gradient.poison-passes-the-mappings"),
    *("gradient.every-token-pulls-back-through-a-stack", "execution.threads-do-not-matter"),
    *("gradient.mappings-pull-back-however-they-are-called", "gradient.tied-layers-add-up"),
    "execution.branch-inputs-outlive-further-blocks",
    *("manifold.a-count-of-iterations-may-be-large", "coefficients.a-count-of-iterations-may-be-large"),
    *("execution.layers-outlive-further-calls", "execution.layers-have-no-memory", "execution.layers-let-go"),
    *("execution.stacks-outlive-further-calls", "execution.first-stacks-are-like-later-ones"),
    *("execution.poison-passes-a-stack", "depth.layers-take-any-batch", "gradient.branches-of-layers-learn"),
    *("gradient.stacks-pull-back-however-they-are-called", "execution.branches-may-pass-blocks-and-fail"),
)


@pytest.mark.one_in(4)
@pytest.mark.slow
@pytest.mark.parametrize("law", CIRCUMSTANCES)
@pytest.mark.parametrize(
    "correct",
    [
        pytest.param(HandWritten(DEEPSEEK_V4), id="by hand"),
        pytest.param(controls.build("recomputed", DEEPSEEK_V4), id="recomputed"),
        # Every run of the laws without a target holds it in these dtypes, with more examples.
        pytest.param(Reference(PAPER), id="reference", marks=pytest.mark.thorough),
    ],
)
def test_no_circumstance_of_a_reader_accuses_who_is_right(law: str, correct: Implementation, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        found = judged(law, correct, tmp_path, dtype)
        assert found.status in ("passed", "not-applicable"), found.message
