"""Sizes backwards: gradients of any number of tokens, channels, streams and layers.

What a token adds to the gradient of a parameter does not depend on the others, so that one running sum over the most
tokens has in it the gradients of every smaller number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx, Pullback
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.premises import Emits, differentiable, where
from properties.core.rounding import Rounding
from properties.core.sweep import At, Kept, Values
from properties.core.trial import Trial
from properties.core.truth import Truth, present, regrouped
from properties.laws import about, errors, sizes_calls
from properties.laws.premises import depends_on_logits, mixes_in_compute_dtype
from properties.laws.sizes import ONCE
from properties.laws.sizes_calls import Named, Stage, swept
from properties.laws.sizes_layouts import layout_of, returning
from properties.laws.sizes_pulls import pulled
from properties.strategies import sweeps_pairwise as pairwise
from properties.strategies import sweeps_together as together
from properties.strategies.sweep_inputs import BACKWARDS
from properties.strategies.sweeps_backwards import block_runs, depth_runs, matrix_runs, mixture_runs, product_runs

OF_PARAMETERS = frozenset(f"the gradient by {name}" for name in Params._fields)
"""Gradients that are sums over tokens."""


def _pull(method: str, names: Sequence[str], gives: str) -> Any:
    """The call of a bilinear method: gradients by each of its arguments."""

    def call(trial: Trial, case: Case) -> Named:
        def run(target: Implementation, *given: Tensor) -> Any:
            return getattr(target, method)(*given)

        return pulled(trial, method, names, [getattr(case, name) for name in names], case, run, [gives])

    return call


def _project(trial: Trial, case: Case) -> At:
    return Kept({"the gradient by logits": errors.projection_gradient(trial, case.logits, case.cotangents[0])})


PROJECT = Stage(
    "project",
    _pull("project", ("logits",), "h_res"),
    _project,
    lambda truth, case: {"the gradient by logits": truth.project_vjp(case.logits, case.cotangents[0])},
    forth=sizes_calls.PROJECT,
)


def parameter_names(params: Params) -> list[str]:
    """Those that there are."""
    return [name for name, part in params._asdict().items() if part is not None]


def by_name(params: Params, found: Sequence[Tensor]) -> Named:
    """Gradients by the state and by every parameter, by what they are called."""
    names = ("x", *parameter_names(params))
    return {f"the gradient by {name}": one for name, one in zip(names, found, strict=True)}


def running(back: Pullback, params: Params, r: Rounding) -> At:
    """The gradients of every first so many tokens."""
    return Kept(
        {"the gradient by x": back.x},
        {f"the gradient by {name}": getattr(back, name) for name in parameter_names(params)},
        most=r.parameter_max,
    )


def _map(trial: Trial, case: Case) -> Named:
    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return tuple(target.mappings(x, Params(*parts)))

    names = ("x", *parameter_names(case.params))
    return pulled(trial, "mappings", names, [case.x, *present(case.params)], case, run, ("h_pre", "h_post", "h_res"))


def _mapped(trial: Trial, case: Case) -> At:
    pre, post, res = (Approx.exact(bar) for bar in case.cotangents)
    r = trial.rounding
    back = bounds.coefficients_gradient(Approx.exact(case.x), case.params, pre, post, res, trial.dialect, r, True)
    return running(back._replace(x=bounds.stored(back.x, r)), case.params, r)


MAPPINGS = Stage(
    "mappings",
    _map,
    _mapped,
    lambda truth, case: by_name(case.params, truth.mappings_vjp(case.x, case.params, case.cotangents)),
    OF_PARAMETERS,
    sizes_calls.MAPPINGS,
)

FACTORS = ("x", "y", "h_post", "h_res")


def _mixed(trial: Trial, case: Case) -> At:
    found = errors.mixture_gradient(trial, case, "post", case.cotangents[0])
    return Kept({f"the gradient by {name}": found[name] for name in FACTORS})


def _mix_exactly(truth: Truth, case: Case) -> Named:
    found = truth.post_vjp(case.x, case.y, case.h_post, case.h_res, case.cotangents[0])
    return {f"the gradient by {name}": one for name, one in zip(FACTORS, found, strict=True)}


POST = Stage("mixture", _pull("post", FACTORS, "A x + h_post^T y"), _mixed, _mix_exactly, forth=sizes_calls.POST)


def _read(trial: Trial, case: Case) -> At:
    found = errors.mixture_gradient(trial, case, "pre", case.cotangents[0][:, 0])
    return Kept({"the gradient by x": found["x"], "the gradient by h_post": found["h_pre"]})


def _read_call(trial: Trial, case: Case) -> Named:
    def run(target: Implementation, x: Tensor, h_pre: Tensor) -> Any:
        return target.pre(x, h_pre)

    single = case.with_(cotangents=(case.cotangents[0][:, 0],))
    given = [case.x, errors.h_pre(case, trial.dialect)]
    return pulled(trial, "pre", ("x", "h_post"), given, single, run, ["h_pre x"])


def _read_exactly(truth: Truth, case: Case) -> Named:
    found = truth.pre_vjp(case.x, errors.h_pre(case, truth.dialect), case.cotangents[0][:, 0])
    return {f"the gradient by {name}": one for name, one in zip(("x", "h_post"), found, strict=True)}


PRE = Stage("mixture", _read_call, _read, _read_exactly, forth=sizes_calls.PRE)


def _pass(trial: Trial, case: Case) -> Named:
    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.block(x, Params(*parts), *returning([case.branch], layout_of(case)))

    names = ("x", *parameter_names(case.params))
    return pulled(trial, "block", names, [case.x, *present(case.params)], case, run, ["the block"])


def _passed(trial: Trial, case: Case) -> At:
    state, bar = Approx.exact(case.x), Approx.exact(case.cotangents[0])
    back = bounds.pullback.block(state, case.params, case.branch, bar, trial.dialect, trial.rounding, each=True)
    return running(back, case.params, trial.rounding)


BLOCK = Stage(
    "block",
    _pass,
    _passed,
    lambda truth, case: by_name(
        case.params, truth.layers_vjp(case.x, [case.params], [case.branch], case.cotangents[0])
    ),
    OF_PARAMETERS,
    sizes_calls.BLOCK,
)


@dataclass(frozen=True)
class _Depths:
    """The gradients by the first state and by every parameter, for every number of layers of one token.

    Attributes:
        x: [most, 1, n, C], for 1, 2, ... layers.
        parameters: for every layer its gradients, each with an entry for every number of layers that has it.
    """

    x: Approx
    parameters: Sequence[Values]

    @property
    def numbers(self) -> int:
        """How many there are."""
        return sum(2 * one.value.numel() for part in self.parameters for one in part.values())

    def __call__(self, tokens: int, layers: int) -> Values:
        found = {"the gradient by x": Approx(self.x.value[layers - 1], self.x.error[layers - 1])}
        for layer, parts in enumerate(self.parameters[:layers]):
            for name, one in parts.items():
                entry = layers - 1 - layer
                found[f"the gradient by {name} of layer {layer}"] = Approx(one.value[entry], one.error[entry])
        return found


def _layers(trial: Trial, case: Case) -> Named:
    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.layers(x, regrouped(parts, case.params), returning(case.branches, layout_of(case)))

    given = [part for one in case.params for part in present(one)]
    gives = ["the streams after the last layer"]
    return pulled(trial, "layers", _of_layers(case), [case.x, *given], case, run, gives)


def _of_layers(case: Case) -> list[str]:
    each = enumerate(case.params)
    return ["x", *(f"{name} of layer {layer}" for layer, one in each for name in parameter_names(one))]


def _layered(trial: Trial, case: Case) -> At:
    state, bar = Approx.exact(case.x), Approx.exact(case.cotangents[0])
    given = (state, case.params, case.branches, bar)
    if case.x.shape[0] > 1:  # of many tokens, all of the layers
        backs = bounds.pullback.layers(*given, trial.dialect, trial.rounding, each=True)
        each = zip(case.params, backs, strict=True)
        sums = {
            f"the gradient by {name} of layer {layer}": getattr(back, name)
            for layer, (one, back) in enumerate(each)
            for name in parameter_names(one)
        }
        return Kept({"the gradient by x": backs[0].x}, sums, most=trial.rounding.parameter_max)
    x, found = bounds.pullback.every_depth(*given, trial.dialect, trial.rounding)
    of_layers = zip(case.params, found, strict=True)
    return _Depths(x, [{name: getattr(back, name) for name in parameter_names(one)} for one, back in of_layers])


def _layers_exactly(truth: Truth, case: Case) -> Named:
    found = truth.layers_vjp(case.x, case.params, case.branches, case.cotangents[0])
    return {f"the gradient by {name}": one for name, one in zip(_of_layers(case), found, strict=True)}


BY_LAYER = frozenset(f"{name} of layer {layer}" for name in OF_PARAMETERS for layer in range(1 << 10))

# Depths are swept forwards with gradients at fewer numbers of layers than here.
LAYERS = Stage("layers", _layers, _layered, _layers_exactly, BY_LAYER, sizes_calls.LAYERS, recorded=0)

PROJECTED = swept("project" + BACKWARDS, matrix_runs, together.matrices_back, pairwise.MATRICES_BACK)
MAPPED = swept("mappings" + BACKWARDS, product_runs, together.mappings_back, pairwise.PRODUCTS_BACK)
MIXED = swept("mixture" + BACKWARDS, mixture_runs, together.mixtures_back, pairwise.MIXTURES_BACK)
PASSED = swept("block" + BACKWARDS, block_runs, together.blocks_back, pairwise.BLOCKS_BACK)
LAYERED = swept("layers" + BACKWARDS, depth_runs, together.layers_back, pairwise.LAYERS_BACK, layered=True)
EMITS = tuple(Emits(part) for part in ("pre", "post", "res"))


@about.project(
    "sizes.matrices-pull-back",
    "oracle",
    PROJECTED.draw,
    where(depends_on_logits),
    differentiable,
    schedule=ONCE,
    sweep=PROJECTED.sweep,
)
def matrices_pull_back(trial: Trial, case: Case) -> None:
    """The gradient of the projection of any number of matrices is right for each.

    Matrices are independent backwards, too; a backward kernel has launches and tails of its own.
    """
    PROJECT.hold(trial, case)


@about.mappings(
    "sizes.tokens-and-channels-pull-back",
    "oracle",
    MAPPED.draw,
    *EMITS,
    differentiable,
    schedule=ONCE,
    sweep=MAPPED.sweep,
)
def tokens_and_channels_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of the mappings of any number of tokens, channels and streams, by the state and by every parameter.

    The gradient by a parameter is a sum over tokens, which kernels split by their number.
    """
    MAPPINGS.hold(trial, case)


@about.pre(
    "sizes.reading-pulls-back",
    "oracle",
    MIXED.draw,
    differentiable,
    mixes_in_compute_dtype,
    schedule=ONCE,
    sweep=MIXED.sweep,
)
def reading_pulls_back(trial: Trial, case: Case) -> None:
    """The gradients of h_pre x by both factors for any number of tokens, channels and streams.

    The gradient by h_pre is a sum over channels, which a kernel may end too early.
    """
    PRE.hold(trial, case)


@about.post(
    "sizes.mixing-pulls-back",
    "oracle",
    MIXED.draw,
    differentiable,
    mixes_in_compute_dtype,
    schedule=ONCE,
    sweep=MIXED.sweep,
)
def mixing_pulls_back(trial: Trial, case: Case) -> None:
    """The gradients of A x + h_post^T y by every factor for any number of tokens, channels and streams.

    As for `pre`: sums over channels, and over streams.
    """
    POST.hold(trial, case)


@about.block(
    "sizes.blocks-pull-back",
    "oracle",
    PASSED.draw,
    differentiable,
    mixes_in_compute_dtype,
    schedule=ONCE,
    sweep=PASSED.sweep,
)
def blocks_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of a block of any number of tokens, channels and streams, by the state and by every parameter.

    All that a training step takes from it, at the sizes where backward kernels branch.
    """
    BLOCK.hold(trial, case)


@about.layers(
    "sizes.depths-pull-back",
    "oracle",
    LAYERED.draw,
    differentiable,
    mixes_in_compute_dtype,
    schedule=ONCE,
    sweep=LAYERED.sweep,
)
def depths_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of any number of layers, by the state that enters and by the parameters of each.

    The chain rule; a launch that pulls back through four layers leaves the others without a gradient. Outputs that are
    recorded for a gradient are held to the layers, too: other code computes them.
    """
    LAYERS.hold(trial, case)
