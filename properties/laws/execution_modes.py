"""Execution: what torch is told for everything does not matter."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from properties.core.case import Case
from properties.core.implementation import offers
from properties.core.law import law
from properties.core.premises import HERE, Offers, deterministic
from properties.core.trial import Trial
from properties.laws import about, modes, pulls, surroundings
from properties.laws.execution_history import ONCE
from properties.laws.execution_layers import FUSED, few_stacks
from properties.laws.gradient_calls import many_blocks, many_projections, many_states
from properties.laws.mixing import matrix_cases
from properties.laws.premises import depends_on_logits
from properties.laws.pulls import Pulled
from properties.strategies import Setting


@st.composite
def every_stage(draw: DrawFn, setting: Setting) -> Case:
    """What each method of a block is given, and cotangents of what it gives."""
    states, blocks = draw(many_states(setting, (2, 1))), draw(many_blocks(setting, (2, 1)))
    mixtures, matrices = draw(matrix_cases(setting)), draw(many_projections(setting, (2, 1)))
    few = draw(few_stacks(setting))
    return mixtures.with_(
        of_stack=(few.h, few.n, few.params, few.branches, few.head, few.cotangent),
        of_mappings=(states.x, states.params, states.cotangents),
        of_block=(blocks.x, blocks.params, blocks.branch, blocks.cotangent),
        of_h_res=(matrices.logits, matrices.cotangent),
    )


def stages(trial: Trial, case: Case) -> list[Pulled]:
    """The methods that are offered."""
    # a file of an earlier release has no stack
    offered, found = offers(trial.implementation), list[Pulled]()
    projects = Offers(("project",))(trial.implementation, trial.dtype) is None  # of logits as they are, not of a bias
    if projects and depends_on_logits(trial.dialect) is None:
        logits, cotangent = case.of_h_res
        found.append(pulls.projection(trial, Case(logits=logits, cotangent=cotangent)))
    if "mappings" in offered:
        x, params, cotangents = case.of_mappings
        found.append(pulls.mappings(trial, Case(x=x, params=params, cotangents=cotangents)))
    if "post" in offered:
        found += pulls.mixtures(trial, case.with_(cotangents=(case.x, case.y)))
    if "block" in offered:
        x, params, branch, cotangent = case.of_block
        found.append(pulls.block(trial, Case(x=x, params=params, branch=branch, cotangent=cotangent)))
    if any(offered.get(method) == "own" for method in FUSED) and "stack" in offered and "of_stack" in case:
        names = "h", "n", "params", "branches", "head", "cotangent"
        found.append(pulls.stack(trial, Case(**dict(zip(names, case.of_stack, strict=True)))))
    return found


@law(
    "execution.deterministic-algorithms-do-not-matter",
    "identity",
    every_stage,
    deterministic,
    needs=(),
    on=HERE,
    blind=about.ALIKE,
    schedule=ONCE,
)
def deterministic_algorithms_do_not_matter(trial: Trial, case: Case) -> None:
    """Every stage gives under `torch.use_deterministic_algorithms(True)` what it gives without, backwards too.

    Who declares to be deterministic need not refuse them. They are asked for in tests and where a run has to be
    repeated; what is taken there is often another path, which nobody compares, and a module that asks for them when it
    is imported asks for all who import it.
    """
    for pulled in stages(trial, case):
        modes.does_not_see(trial, pulled, modes.DETERMINISTIC)


@law(
    "execution.default-dtypes-do-not-matter",
    "identity",
    every_stage,
    needs=(),
    on=HERE,
    blind=about.ALIKE,
    schedule=ONCE,
)
def default_dtypes_do_not_matter(trial: Trial, case: Case) -> None:
    """Every stage gives with bfloat16, and with float64, as torch's default dtype what it gives without, backwards too.

    Loaders set the default dtype to that of the weights, and scripts to float64. A table of ones or of eps that is made
    without a dtype is then of another one: it rounds what it is multiplied with, or makes results wider than promised.
    """
    for pulled in stages(trial, case):
        for mode in modes.DEFAULTS:
            modes.does_not_see(trial, pulled, mode)


@law(
    "execution.threads-do-not-matter",
    "identity",
    every_stage,
    needs=(),
    on=HERE,
    blind=about.ALIKE,
    schedule=ONCE,
)
def threads_do_not_matter(trial: Trial, case: Case) -> None:
    """Every stage gives in a thread of its own what it gives in that of the caller, backwards too.

    Servers call a model from a pool of threads, and pipelines run their stages in several. A configuration that is
    thread-local is the default one there. One thread calls at a time.
    """
    for pulled in stages(trial, case):
        modes.does_not_see(trial, pulled, modes.OTHER_THREAD)


@law(
    "execution.refused-calls-leave-their-surroundings",
    "contract",
    every_stage,
    needs=(),
    on=HERE,
    blind=about.ALIKE,
    schedule=ONCE,
)
def refused_calls_leave_their_surroundings(trial: Trial, case: Case) -> None:
    """A call whose arguments do not fit, or whose branch raises, leaves the modes of torch as they were, and the next
    call is right.

    What is switched on or off for the time of a call, and put back at its end, stays where the call ends earlier: with
    autograd off nothing learns from then on. Servers and notebooks go on after an exception. Nobody asks here that such
    a call is refused.
    """
    for pulled in stages(trial, case):
        surroundings.are_left_by_refused_calls(trial, pulled.call)
