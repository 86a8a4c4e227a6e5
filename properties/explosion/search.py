"""`find_minimal`: the smallest configuration that explodes, or the proof that there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from properties.explosion.composite import context, shown
from properties.explosion.options import Number
from properties.explosion.questions.families import ask
from properties.explosion.questions.question import Question
from properties.explosion.result import Explosion
from properties.explosion.searches.hunt import Hunt, one_thread
from properties.explosion.searches.hypothesise import Clock


def find_minimal(
    family: str, threshold: Number | None = None, *, progress: Callable[[str], None] | None = None, **options: Any
) -> Explosion:
    """The smallest member of `family` whose gain reaches `threshold`.

    Smallest is lexicographic: depth, streams, width, number of non-trivial entries, simplest values. Depth and streams
    are proved where the answer says so; entries and values are what the search found.

    Args:
        family: "residual": x + g F(x), F linear of norm 1, |g| <= branch_bound, one stream.
            "hc": unconstrained n x n mixing, every entry within `entry_bound`, or within `identity_bound` of the
            identity's; exactly one of the two is given. "hc:dynamic": mixing that depends on the input, within
            `identity_bound` of the identity for every input; weights and input are searched.
            "mhc": constrained mixing of any dialect, with finite logits of any size.
            "block[:BRANCH[:NORM]]": the whole block with a linear, relu, gated or attention branch and none, pre or
            post normalisation, for the gains "activation", "gradient" and "nonfinite".
            "target:TARGET": the mixing of an implementation, by the grammar of --impl.
        threshold: compared exactly, as the decimal that it is written as. None: not given, where the family or the gain
            says what is then asked for.
        progress: called with a line now and then.
        **options: what the family takes of these; None is not given.
            gain: of the composite A_L ... A_1; "forward" by default, of block and hc:dynamic "activation". "forward",
            "backward": largest absolute row or column sum; "signed": largest absolute value of a row sum (the mHC
            paper's figure); "spectral": spectral norm. "activation": largest activation from inputs within 1;
            "gradient": largest absolute row sum of the Jacobian (without a branch both are "forward"); "nonfinite":
            something leaves the range of `dtype` (threshold 1; families without a cap).
            direction: "explode": gain >= threshold; "vanish": gain <= threshold.
            max_depth, max_streams, max_width: limits of the search; at most 10 000, 64 and 4096. 128, 4 and 1 by
            default.
            entry_bound, identity_bound: of hc; branch_bound: of residual and block, 1 by default.
            dialect, iterations: the projection of mhc and block, PAPER by default; what a plain function as a target
            claims to compute. A preset may be given by its name.
            dtype: where `value` is measured, float64 by default; of a target the first that it declares. The decision
            is exact.
            seed: equal seeds give equal answers, unless the budget runs out.
            budget: seconds, 60 by default.

    Raises:
        ValueError: an option out of range, one that can have no effect, or options that contradict each other.
        TypeError: an option that no family has.
        properties.targets.target.TargetError: a target cannot be resolved, or raised.
    """
    return search(ask(family, threshold, **options), progress)


def search(question: Question[Any], progress: Callable[[str], None] | None = None) -> Explosion:
    """The answer to a checked question."""
    clock = Clock(question.budget, progress)
    hunt = Hunt(question, clock)
    with one_thread():
        hunt.run()
        found = None if hunt.build is None else hunt.build()
        question = hunt.question  # which may say what was left open
        return Explosion(
            request=question,
            known=hunt.known,
            configuration=found,
            value=None if found is None else question.measured(found),
            exact_value=None if found is None or not question.EXACT else shown(question.exact(found), context()),
            seconds=round(clock.seconds, 3),
            stopped=hunt.stopped,
        )
