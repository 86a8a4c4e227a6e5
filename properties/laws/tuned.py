"""What is offered as tunable is used: with other values of its fields an implementation computes the tuned dialect."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref.packing import logits_shape, params_shapes
from properties.core.case import Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Absent, Implementation
from properties.core.law import Schedule
from properties.core.premises import TunesSome
from properties.core.trial import Trial, wide
from properties.laws import about, calls
from properties.laws.calls import Call, Place, kept
from properties.strategies import (
    Setting,
    at_temperature,
    branch_of,
    noise,
    params_of,
    seeds,
    streams,
    tuned_dialects,
    tuned_setting,
    width_among,
)

FEW = Schedule(cost=2.5, by_streams=False)

OF_PROJECT = (
    *("residual", "last_axis", "start", "start_axis", "iterations", "entry_eps", "denominator_eps", "denominator"),
)
OF_MAPPINGS = (
    *OF_PROJECT,
    *("pre", "pre_eps", "post", "post_scale", "post_eps"),
    *("read", "dynamic", "norm_over", "shared_projection", "rms_eps", "rms_eps_inside", "rms_eps_by"),
    "norm_offset",
)
OF_BLOCK = (*OF_MAPPINGS, "transposed", "read_from", "first_read")
OF_STACK = (*OF_BLOCK, "expand", "collapse")


@st.composite
def tuned_frames(draw: DrawFn, setting: Setting, fields: Collection[str]) -> Setting:
    """The frame of a dialect that differs in some of these fields; of one that has no logits for any n, as it was."""
    return tuned_setting(setting, draw(tuned_dialects(setting, fields))) or setting


@st.composite
def tuned_logits(draw: DrawFn, setting: Setting) -> Case:
    """A tuned dialect, and logits of its shape: dense, and of a size at which iterations show."""
    frame = draw(tuned_frames(setting, OF_PROJECT))
    n = draw(streams(frame, 2, 5))
    shape = (min(3, setting.max_tokens), *logits_shape(n, frame.dialect))
    drawn = at_temperature(noise(draw(seeds), *shape) * 3, frame.dialect)
    logits = torch.tensor(drawn, dtype=setting.parameter_dtype)
    return Case(dialect=frame.dialect, logits=logits)


@st.composite
def tuned_states(draw: DrawFn, setting: Setting, fields: Collection[str]) -> Case:
    """A tuned dialect, a state of order 1, dense parameters of its shape with open gates, and a fixed branch."""
    frame = draw(tuned_frames(setting, fields))
    n, channels = draw(streams(frame, 2, 4)), draw(width_among(setting, 3, 5, 9))
    params = draw(params_of(frame, n, channels, gates=(1.0, 0.5, 2.0), patterns=("normal",), least_phi=2))
    x = torch.tensor(noise(draw(seeds), min(3, setting.max_tokens), n, channels)).to(setting.dtype)
    return Case(dialect=frame.dialect, x=x, params=params, branch=draw(branch_of(setting, channels, calls.FIXED)))


@st.composite
def tuned_stacks(draw: DrawFn, setting: Setting) -> Case:
    """A tuned dialect, a stream, one block's parameters of its shape, and those of a head where it ends in one."""
    case = draw(tuned_states(setting, OF_STACK))
    n, channels = case.x.shape[-2:]
    frame = setting.with_(dialect=case.dialect)
    head = (draw(params_of(frame, n, channels, gates=(1.0, 0.5), least_phi=2)),) if end_of(case.dialect).HEAD else ()
    return Case(dialect=case.dialect, h=case.x[:, 0], n=n, params=(case.params,), head=head, branches=(case.branch,))


def judged(
    trial: Trial,
    case: Case,
    make: Callable[[Trial], Call],
    exact: Callable[[Trial], Sequence[Tensor]],
) -> None:
    """Hold a call of the tuned implementation to its dialect, and the implementation itself to what it was before.

    What was tuned is tuned once more, in one field to the value that it has, and keeps the others. A value that `tuned`
    refuses by raising `Absent` is not offered: nothing is claimed of it.
    """
    changed = case.dialect.difference(trial.dialect)
    fields = {name: mine for name, (mine, _) in changed.items() if name in case.dialect.fields()}
    again = dict([*fields.items()][1:][-1:])  # to what it is: all others stay
    bench = trial.beside(case.dialect)
    bench.judge_exactly()
    call = make(bench)
    alike = _alike(trial, case)

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        before, was = kept(call.on(target, given)) if alike else (), target.dialect
        try:
            tuned = target.tuned(**fields)
            found = kept(call.on(tuned, given))
            chained = kept(call.on(tuned.tuned(**again), given)) if again and tuned.tunable >= again.keys() else found
        except Absent:
            return None
        finally:
            moved = target.dialect != was
            if moved:  # later laws still ask it for what it declared
                target.dialect = was
        return found, chained, moved, before, kept(call.on(target, given)) if alike else ()

    answer = trial.observe(call.method, run)
    if answer is None:
        return
    found, chained, moved, before, after = answer
    values = exact(bench)
    trial.truth.asked += bench.truth.asked
    told = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    trial.holds(
        "the dialect of an implementation after another was tuned from it", not moved, "changed", "as before", "memory"
    )
    for name, one, value, error in zip(call.gives, found, values, call.errors(), strict=True):
        trial.within(f"{name} of tuned({told})", one, value, error)
    for name, one, value, error in zip(call.gives, chained, values, call.errors(), strict=True):
        trial.within(f"{name} of tuned({told}), tuned once more in {' and '.join(again)}", one, value, error)
    if alike:
        for name, one, other, error in zip(call.gives, after, before, make(trial).errors(), strict=True):
            what = f"{name} of the implementation itself, after another was tuned from it"
            trial.near(what, one, wide(other), 2 * error, kind="memory")


def _alike(trial: Trial, case: Case) -> bool:
    """Whether the arguments fit the declared dialect as well."""
    if any(getattr(case.dialect, name) != getattr(trial.dialect, name) for name in ("residual", "collapse")):
        return False
    return params_shapes(2, 2, case.dialect) == params_shapes(2, 2, trial.dialect)


@about.project("manifold.tuned-fields-are-used", "oracle", tuned_logits, TunesSome(OF_PROJECT), schedule=FEW)
def tuned_projections_are_of_the_tuned_dialect(trial: Trial, case: Case) -> None:
    """With other iterations and eps, project is that of the tuned dialect, and the implementation itself stays as it
    was.

    Fields that are equal by default are told apart by other values alone (vmlx-swift #374: the norm took the eps of
    Sinkhorn, and both were 1e-6).
    """
    judged(
        trial,
        case,
        lambda bench: calls.projection(bench, case.logits),
        lambda bench: [bench.truth.project(case.logits)],
    )


@about.mappings(
    "coefficients.tuned-fields-are-used",
    "oracle",
    lambda s: tuned_states(s, OF_MAPPINGS),
    TunesSome(OF_MAPPINGS),
    schedule=FEW,
)
def tuned_mappings_are_of_the_tuned_dialect(trial: Trial, case: Case) -> None:
    """With other values of what is tunable, the mappings are those of the tuned dialect, and the implementation itself
    stays as it was.

    As for projections.
    """

    def exact(bench: Trial) -> list[Tensor]:
        found = bench.truth.mappings(case.x, case.params)
        return [found[k] for k in calls.mappings(bench, case.x, case.params).parts]

    judged(trial, case, lambda bench: calls.mappings(bench, case.x, case.params), exact)


@about.block(
    "block.tuned-fields-are-used", "oracle", lambda s: tuned_states(s, OF_BLOCK), TunesSome(OF_BLOCK), schedule=FEW
)
def tuned_blocks_are_of_the_tuned_dialect(trial: Trial, case: Case) -> None:
    """With other values of what is tunable, a block is that of the tuned dialect, and the implementation itself stays
    as it was.

    As for projections.
    """
    y = case.branch(case.x[..., 0, :])
    judged(
        trial,
        case,
        lambda bench: calls.block(bench, case.x, case.params, case.branch),
        lambda bench: [bench.truth.block(case.x, case.params, y)[1]],
    )


@about.stack("depth.tuned-fields-are-used", "oracle", tuned_stacks, TunesSome(OF_STACK), schedule=FEW)
def tuned_stacks_are_of_the_tuned_dialect(trial: Trial, case: Case) -> None:
    """With other values of what is tunable, a stack is that of the tuned dialect, its ends and its head among it, and
    the implementation itself stays as it was.

    As for projections; a head has an eps of its norm and of its gate, too.
    """
    outputs = [branch(case.h) for branch in case.branches]
    judged(
        trial,
        case,
        lambda bench: calls.stack(bench, case, case.h),
        lambda bench: [bench.truth.stack(case.h, case.n, (*case.params, *case.head), outputs)[1]],
    )
