"""Execution: what calls hand out is held through many others, and what they do not hand out is let go."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref.packing import logits_shape
from properties.core.case import Case
from properties.core.law import Schedule
from properties.core.premises import HERE, where
from properties.core.trial import Trial
from properties.laws import about, branches, calls, held
from properties.laws.mixing import matrix_cases
from properties.laws.premises import depends_on_logits
from properties.strategies import (
    TAME,
    Setting,
    at_temperature,
    branch_of,
    noise,
    params_of,
    seeds,
    streams,
    width_among,
)

FEW = Schedule(cost=4, most=2)
"""An example makes a hundred calls, at which the values hardly matter."""
ONCE = Schedule(cost=10, most=1, crowds=False)
"""And of what is kept, not at all."""


@st.composite
def held_states(draw: DrawFn, setting: Setting) -> Case:
    """A state of full mantissas, open gates and dense parameters: turned by an entry it has other mappings."""
    n, channels = draw(streams(setting, 1, 5)), draw(width_among(setting, 3, 7, 9))
    x = torch.tensor(noise(draw(seeds), setting.count(2), n, channels)).to(setting.dtype)
    branch = draw(branch_of(setting, channels, calls.FIXED))
    params = draw(params_of(setting, n, channels, gates=(1.0, 0.5, 2.0), patterns=TAME, least_phi=2))
    return Case(x=x, params=params, branch=branch)


@st.composite
def held_logits(draw: DrawFn, setting: Setting) -> Case:
    """Logits of full mantissas."""
    n = draw(streams(setting, 2, 5))
    shape = (setting.count(2), *logits_shape(n, setting.dialect))
    drawn = at_temperature(noise(draw(seeds), *shape) * 2, setting.dialect)
    return Case(logits=torch.tensor(drawn, dtype=setting.parameter_dtype))


# -- held -------------------------------------------------------------------------------------------------------------


@about.block("execution.outputs-outlive-the-next-call", "contract", held_states, blind=about.ALIKE, schedule=FEW)
def outputs_outlive_the_next_call(trial: Trial, case: Case) -> None:
    """What a block returned is not changed by the next call, nor by 24 of the same and of new shapes, in any mode.

    An output buffer that is used again is still being read by whoever got it first; buffers come in rings of two, four
    and more, for some modes of autograd alone (TensorRT-LLM #16175).
    """
    held.outlives_further_calls(trial, calls.block(trial, case.x, case.params, case.branch))


@about.block(
    "execution.branch-inputs-outlive-further-blocks",
    "contract",
    held_states,
    blind=about.ALIKE,
    on=HERE,
    schedule=FEW,
)
def branch_inputs_outlive_further_blocks(trial: Trial, case: Case) -> None:
    """What a branch was handed stays as it was for as long as it holds that, through 24 further blocks of the same and
    of new shapes, in any mode.

    The contract is that of an output: what a block hands to a function of somebody else is that function's to keep. A
    hook collects activations, a cache keeps what attention read, under no_grad above all, and a buffer that is handed
    out again is written to under their hands.
    """
    held.branch_inputs_outlive_further_calls(trial, calls.block(trial, case.x, case.params, case.branch))


@about.project(
    "execution.projections-outlive-the-next-call",
    "contract",
    held_logits,
    where(depends_on_logits),
    blind=about.ALIKE,
    schedule=FEW,
)
def projections_outlive_the_next_call(trial: Trial, case: Case) -> None:
    """What project returned is not changed by the next call, nor by 24 of the same and of new shapes, in any mode.

    As for blocks.
    """
    held.outlives_further_calls(trial, calls.projection(trial, case.logits))


@about.mappings("execution.mappings-outlive-further-calls", "contract", held_states, blind=about.ALIKE, schedule=FEW)
def mappings_outlive_further_calls(trial: Trial, case: Case) -> None:
    """The mappings of a state are not changed by 24 further calls, of the same and of new shapes, in any mode.

    As for blocks: the mappings are read again after the branch, which may have layers of its own.
    """
    held.outlives_further_calls(trial, calls.mappings(trial, case.x, case.params))


@about.post("execution.pre-and-post-outlive-further-calls", "contract", matrix_cases, blind=about.ALIKE, schedule=FEW)
def pre_and_post_outlive_further_calls(trial: Trial, case: Case) -> None:
    """What pre and post returned is not changed by 24 further calls, of the same and of new shapes, in any mode.

    As for blocks, for implementations that offer the parts alone.
    """
    for call in calls.mixtures(trial, case):
        held.outlives_further_calls(trial, call)


@about.block(
    "execution.blocks-leave-what-their-branch-returns",
    "contract",
    held_states,
    blind=about.ALIKE,
    on=HERE,
    schedule=FEW,
)
def blocks_leave_what_their_branch_returns(trial: Trial, case: Case) -> None:
    """A block does not write to what its branch returned, which the branch may keep, in any mode.

    A branch returns what others hold as well: an entry of a cache, what a hook collects, or the same tensor at every
    call. A block that scales it in place, or adds to it there, changes theirs, and its own at the next call.
    """
    held.leaves_branch_outputs_alone(trial, calls.block(trial, case.x, case.params, calls.constant(case.x)))


@about.block("execution.branches-may-return-what-they-read", "oracle", held_states, on=HERE, schedule=FEW)
def branches_may_return_what_they_read(trial: Trial, case: Case) -> None:
    """A block whose branch returns its own input, a view of it, or what has no storage in the order of its entries, is
    the block for these values, in any mode.

    A branch that is switched off, as by layer drop, is the identity: what it returns is the tensor that it was handed.
    A block that writes to that tensor after the branch, because the branch is done with it, reads its own writing. What
    a branch is handed is its to write to, with gradients recorded as well, where autograd may refuse: a block that
    calls it again backwards has to keep what it read. A branch that is a module is called with its hooks, and what a
    branch is handed has the axes of tokens that the state has.
    """
    call = calls.block(trial, case.x, case.params, calls.constant(case.x))
    branches.are_handed_the_axes_of_tokens(trial, call)
    branches.takes_what_a_branch_returns(trial, call)
    branches.may_work_in_place(trial, call)


# -- let go -----------------------------------------------------------------------------------------------------------


@about.block("execution.blocks-let-go", "contract", held_states, blind=about.ALIKE, on=HERE, schedule=ONCE)
def blocks_let_go(trial: Trial, case: Case) -> None:
    """Of 40 blocks on states of one shape, most leave no memory behind once their outputs are dropped, in any mode, and
    under no_grad none beside their outputs while these are held.

    Caches and rings have an end, which is below half of that. A list to which every call adds, or a running value that
    was never detached and keeps the graph of every call, fills the memory after some thousand steps. Under no_grad the
    parameters of a model still ask for gradients: what is recorded for these lives as long as an output that knows it.
    """
    held.lets_go(trial, calls.block(trial, case.x, case.params, case.branch))


@about.mappings("execution.mappings-let-go", "contract", held_states, blind=about.ALIKE, on=HERE, schedule=ONCE)
def mappings_let_go(trial: Trial, case: Case) -> None:
    """Of 40 calls of mappings on states of one shape, most leave no memory behind, in any mode, and under no_grad none
    beside their outputs.

    As for blocks.
    """
    held.lets_go(trial, calls.mappings(trial, case.x, case.params))


@about.project(
    "execution.projections-let-go",
    "contract",
    held_logits,
    where(depends_on_logits),
    blind=about.ALIKE,
    on=HERE,
    schedule=ONCE,
)
def projections_let_go(trial: Trial, case: Case) -> None:
    """Of 40 projections of logits of one shape, most leave no memory behind, in any mode, and under no_grad none beside
    their outputs.

    As for blocks.
    """
    held.lets_go(trial, calls.projection(trial, case.logits))


@about.post("execution.pre-and-post-let-go", "contract", matrix_cases, blind=about.ALIKE, on=HERE, schedule=ONCE)
def pre_and_post_let_go(trial: Trial, case: Case) -> None:
    """Of 40 calls of pre and post on states of one shape, most leave no memory behind, in any mode, and under no_grad
    none beside their outputs.

    As for blocks, for implementations that offer the parts alone.
    """
    for call in calls.mixtures(trial, case):
        held.lets_go(trial, call)
