"""What is offered as tunable is used: with other values of its fields an implementation computes the tuned dialect."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref.packing import logits_shape, params_shapes, streams_of_logits
from properties.core.case import Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Absent, Implementation
from properties.core.law import Schedule
from properties.core.premises import TunesSome
from properties.core.pulling import pulled_back
from properties.core.reads import mapping_shapes
from properties.core.trial import Trial, wide
from properties.core.truth import Truth
from properties.laws import about, calls, pulls
from properties.laws.calls import Place, kept
from properties.laws.premises import mixes_in_compute_dtype
from properties.laws.pulls import Pulled
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
    """A tuned dialect, logits of its shape, dense and of a size at which iterations show, and a cotangent."""
    frame = draw(tuned_frames(setting, OF_PROJECT))
    n, seed = draw(streams(frame, 2, 5)), draw(seeds)
    shape = (setting.count(3), *logits_shape(n, frame.dialect))
    drawn = at_temperature(noise(seed, *shape) * 3, frame.dialect)
    logits, bar = (torch.tensor(one, dtype=setting.parameter_dtype) for one in (drawn, noise(seed + 1, shape[0], n, n)))
    return Case(dialect=frame.dialect, logits=logits, cotangent=bar)


@st.composite
def tuned_states(draw: DrawFn, setting: Setting, fields: Collection[str]) -> Case:
    """A tuned dialect, a state of order 1, dense parameters of its shape with open gates, a fixed branch, and
    cotangents of the mappings and of a block."""
    frame = draw(tuned_frames(setting, fields))
    n, channels, seed = draw(streams(frame, 2, 4)), draw(width_among(setting, 3, 5, 9)), draw(seeds)
    params = draw(params_of(frame, n, channels, gates=(1.0, 0.5, 2.0), patterns=("normal",), least_phi=2))
    x, bar = (torch.tensor(noise(seed + k, setting.count(3), n, channels)).to(setting.dtype) for k in range(2))
    shapes = mapping_shapes(tuple(x.shape), frame.dialect)
    bars = tuple(
        torch.tensor(noise(seed + 2 + k, *shape)).to(setting.parameter_dtype) for k, shape in enumerate(shapes)
    )
    branch = draw(branch_of(setting, channels, calls.FIXED))
    return Case(dialect=frame.dialect, x=x, params=params, branch=branch, cotangent=bar, cotangents=bars)


@st.composite
def tuned_stacks(draw: DrawFn, setting: Setting) -> Case:
    """A tuned dialect, a stream, one block's parameters of its shape, and those of a head where it ends in one."""
    case = draw(tuned_states(setting, OF_STACK))
    n, channels = case.x.shape[-2:]
    frame = setting.with_(dialect=case.dialect)
    head = (draw(params_of(frame, n, channels, gates=(1.0, 0.5), least_phi=2)),) if end_of(case.dialect).HEAD else ()
    given = {"h": case.x[:, 0].clone(), "cotangent": case.cotangent[:, 0].clone()}
    return Case(dialect=case.dialect, n=n, params=(case.params,), head=head, branches=(case.branch,), **given)


@dataclass(frozen=True)
class Tuned:
    """A call of a tuned implementation.

    Attributes:
        pulled: the call on a bench, with its cotangents.
        exact: what the truth says of its outputs.
        slopes: and of the gradients by its inputs, for these cotangents.
    """

    pulled: Callable[[Trial], Pulled]
    exact: Callable[[Truth], Sequence[Tensor]]
    slopes: Callable[[Truth, tuple[Tensor, ...]], Sequence[Tensor]]


def judged(trial: Trial, case: Case, what: Tuned) -> None:
    """Hold a call of the tuned implementation, and its gradients, to its dialect, and the implementation itself to what
    it was before.

    What was tuned is tuned once more, in one field to the value that it has, and keeps the others. A value that `tuned`
    refuses by raising `Absent` is not offered: nothing is claimed of it.
    """
    changed = case.dialect.difference(trial.dialect)
    fields = {name: mine for name, (mine, _) in changed.items() if name in case.dialect.fields()}
    again = dict([*fields.items()][1:][-1:])  # to what it is: all others stay
    bench = trial.beside(case.dialect)
    bench.judge_exactly()
    pulled = what.pulled(bench)
    call, alike = pulled.call, _alike(trial, case)
    part = call.method in ("project", "mappings")
    learns = trial.differentiable and (part or mixes_in_compute_dtype(trial.implementation, trial.dtype) is None)

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        before, was = kept(call.on(target, given)) if alike else (), target.dialect
        try:
            tuned = target.tuned(**fields)
            found = kept(call.on(tuned, given))
            chained = kept(call.on(tuned.tuned(**again), given)) if again and tuned.tunable >= again.keys() else found
            recorded, gradients = learnt(tuned, place) if learns else ((), ())
        except Absent:
            return None
        finally:
            moved = target.dialect != was
            if moved:  # later laws still ask it for what it declared
                target.dialect = was
        after = kept(call.on(target, given)) if alike else ()
        return found, chained, moved, before, after, recorded, gradients

    def learnt(tuned: Implementation, place: Place) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        leaves = [place(one).clone().requires_grad_() for one in pulled.inputs]
        outputs = pulled.function(tuned, leaves)
        values = kept(outputs)
        return values, tuple(pulled_back(outputs, leaves, [place(bar).clone() for bar in pulled.cotangents]))

    answer = trial.observe(call.method, run)
    if answer is None:
        return
    found, chained, moved, before, after, recorded, gradients = answer
    values, slopes = what.exact(bench.truth), what.slopes(bench.truth, pulled.cotangents) if learns else ()
    trial.truth.asked += bench.truth.asked
    told = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    trial.holds(
        "the dialect of an implementation after another was tuned from it", not moved, "changed", "as before", "memory"
    )
    for name, one, value, error in zip(call.gives, found, values, call.errors(), strict=True):
        trial.within(f"{name} of tuned({told})", one, value, error)
    for name, one, value, error in zip(call.gives, chained, values, call.errors(), strict=True):
        trial.within(f"{name} of tuned({told}), tuned once more in {' and '.join(again)}", one, value, error)
    for name, one, value, error in zip(call.gives, recorded, values, call.errors(), strict=False):
        trial.within(f"{name} of tuned({told}), with gradients asked for", one, value, error)
    bounds = pulled.errors(pulled.cotangents) if learns else ()
    for name, one, value, error in zip(pulled.names, gradients, slopes, bounds, strict=False):
        trial.within(f"the gradient of {call.method} of tuned({told}) by {name}", one, value, error)
    if alike:
        for name, one, other, error in zip(call.gives, after, before, what.pulled(trial).call.errors(), strict=True):
            told = f"{name} of the implementation itself, after another was tuned from it"
            trial.near(told, one, wide(other), 2 * error, kind="memory")


def _alike(trial: Trial, case: Case) -> bool:
    """Whether the arguments fit the declared dialect as well."""
    if any(getattr(case.dialect, name) != getattr(trial.dialect, name) for name in ("residual", "collapse")):
        return False
    return params_shapes(2, 2, case.dialect) == params_shapes(2, 2, trial.dialect)


@about.project("manifold.tuned-fields-are-used", "oracle", tuned_logits, TunesSome(OF_PROJECT), schedule=FEW)
def tuned_projections_are_of_the_tuned_dialect(trial: Trial, case: Case) -> None:
    """With other iterations and eps, project is that of the tuned dialect, backwards too, and the implementation itself
    stays as it was.

    Fields that are equal by default are told apart by other values alone (vmlx-swift #374: the norm took the eps of
    Sinkhorn, and both were 1e-6). A backward pass has constants of its own, built in perhaps.
    """
    if "cotangent" not in case:  # a file of an earlier release
        n = streams_of_logits(case.logits.shape, case.dialect)
        ones = torch.ones(case.logits.shape[0], n, n, dtype=case.logits.dtype)
        case = case.with_(cotangent=ones.cumsum(-1))
    judged(
        trial,
        case,
        Tuned(
            lambda bench: pulls.projection(bench, case),
            lambda truth: [truth.project(case.logits)],
            lambda truth, bars: [truth.project_vjp(case.logits, bars[0])],
        ),
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
    parts = calls.mappings(trial, case.x, case.params).parts

    def exact(truth: Truth) -> list[Tensor]:
        found = truth.mappings(case.x, case.params)
        return [found[k] for k in parts]

    def slopes(truth: Truth, bars: tuple[Tensor, ...]) -> Sequence[Tensor]:
        given = dict(zip(parts, bars, strict=True))
        every = [given.get(k, torch.zeros_like(bar)) for k, bar in enumerate(case.cotangents)]
        return truth.mappings_vjp(case.x, case.params, every)

    judged(trial, case, Tuned(lambda bench: pulls.mappings(bench, case), exact, slopes))


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
        Tuned(
            lambda bench: pulls.block(bench, case),
            lambda truth: [truth.block(case.x, case.params, y)[1]],
            lambda truth, bars: truth.layers_vjp(case.x, [case.params], [case.branch], bars[0]),
        ),
    )


@about.stack("depth.tuned-fields-are-used", "oracle", tuned_stacks, TunesSome(OF_STACK), schedule=FEW)
def tuned_stacks_are_of_the_tuned_dialect(trial: Trial, case: Case) -> None:
    """With other values of what is tunable, a stack is that of the tuned dialect, its ends and its head among it, and
    the implementation itself stays as it was.

    As for projections; a head has an eps of its norm and of its gate, too.
    """
    outputs, every = [branch(case.h) for branch in case.branches], (*case.params, *case.head)
    judged(
        trial,
        case,
        Tuned(
            lambda bench: pulls.stack(bench, case),
            lambda truth: [truth.stack(case.h, case.n, every, outputs)[1]],
            lambda truth, bars: truth.stack_vjp(case.h, case.n, every, case.branches, bars[0]),
        ),
    )
