"""Gradient: a NaN or an infinity in a cotangent is neither made a number nor spread to other tokens.

Who scales a loss looks for them to lower the scale: a backward pass that hides one has the optimiser take a wrong step
in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Mappings
from properties.core.case import BranchSpec, Case
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import differentiable, several_streams, where
from properties.core.pulling import pulled_back
from properties.core.reads import read_of
from properties.core.trial import Trial
from properties.laws import about, calls, pulls
from properties.laws.calls import Place
from properties.laws.execution_poison import TOKENS, is_neither_hidden_nor_spread, some_tokens
from properties.laws.gradient_calls import many_states
from properties.laws.mixing import possible
from properties.laws.premises import depends_everywhere, mixes, reads_by_gates, unmoved
from properties.strategies import Setting, among, logits_of, noise, seeds, streams, width_among

project, mappings, block, layers, post = (
    partial(one, blind=about.ALIKE, schedule=Schedule(most=3))
    for one in (about.project, about.mappings, about.block, about.layers, about.post)
)

POISONS = float("nan"), float("inf")


def reaches_the_gradients(
    trial: Trial, method: str, gradients: Callable[[Implementation, Place], Any], poisoned: int, names: tuple[str, ...]
) -> None:
    """Gradients by what has a token axis are not finite for the poisoned token, and finite for the others."""
    for name, got in zip(names, trial.observe(method, gradients), strict=False):
        is_neither_hidden_nor_spread(trial, f"the gradient of {method} by {name}", got, poisoned)


def of(pulled: pulls.Pulled, parameters: bool = False) -> Callable[[Implementation, Place], Any]:
    """The gradients of a call by what has a token axis, and by parameters if they are asked for."""

    def run(target: Implementation, place: Place) -> Any:
        leaves = [place(one).clone().requires_grad_() for one in pulled.inputs]
        outputs = pulled.function(target, leaves)
        bars = [place(bar).clone() for bar in pulled.cotangents]
        return tuple(pulled_back(outputs, leaves, bars)[: None if parameters else pulled.by_token])

    return run


@st.composite
def poisoned_projections(draw: DrawFn, setting: Setting) -> Case:
    """Some matrices of logits, and cotangents, one of which is no number at all."""
    n = draw(streams(setting, 2, 4))
    logits = calls.flooded(
        draw(logits_of(setting, n, least=3, most=3, patterns=("normal",))), draw(some_tokens(setting))
    )
    bar = torch.tensor(noise(draw(seeds), len(logits), n, n)).to(setting.parameter_dtype)
    poisoned = draw(st.integers(0, len(logits) - 1))
    bar[poisoned] = draw(among(*POISONS))
    return Case(logits=logits, cotangent=bar, poisoned=poisoned)


@project(
    "gradient.poison-reaches-the-logits",
    "contract",
    poisoned_projections,
    where(depends_everywhere),
    differentiable,
    several_streams,
)
def poison_reaches_the_logits(trial: Trial, case: Case) -> None:
    """A cotangent of NaN or of infinities leaves no gradient by the logits of its matrix finite throughout, and
    touches no other matrix.

    Every derivative multiplies it, and 0 * infinity is NaN.
    """
    pulled = pulls.projection(trial, case)
    reaches_the_gradients(trial, "project", of(pulled), case.poisoned, pulled.names)


@st.composite
def poisoned_states(draw: DrawFn, setting: Setting) -> Case:
    """A state of some tokens, and which one is to be poisoned, where, and with what."""
    case = draw(many_states(setting, TOKENS))
    places = tuple(draw(st.integers(0, size - 1)) for size in case.x.shape)
    return case.with_(poisoned=places[0], place=places[1:], poison=draw(among(*POISONS)))


def spoiled(case: Case, bar: Tensor) -> Tensor:
    """A cotangent with the poison at the place of a case."""
    bar = bar.clone()
    bar[case.poisoned].view(-1)[sum(case.place) % bar[case.poisoned].numel()] = case.poison
    return bar


@mappings("gradient.poison-passes-the-mappings", "contract", lambda s: poisoned_states(s), differentiable)
def poison_passes_the_mappings(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in the cotangent of a mapping reaches the gradient by its token's state, and no other's, and
    the gradient by every parameter.

    Every logit depends on every stream through the norm. It has a term for each parameter, and what a token hands to
    that is a product with the cotangent of the logit: 0 * infinity is NaN, and no sum with either is finite. Who leaves
    out what is not finite there has the optimiser take a step that a scaler of losses would have skipped. Of parameters
    that is asked where logits are affine in all of them, and of h_pre where it is a gate.

    Nothing is asked of a mapping that does not depend on its logits, or not with every entry and everywhere, as beside
    a diagonal and at a clamp.
    """
    known = unmoved(trial.dialect, case.x.shape[-2]) | ({"res"} if depends_everywhere(trial.dialect) else set[str]())
    for which, name in enumerate(Mappings._fields):
        if name in known or name not in trial.implementation.emits:
            continue
        bars = [spoiled(case, bar) if k == which else bar for k, bar in enumerate(case.cotangents)]
        pulled = pulls.mappings(trial, case.with_(cotangents=tuple(bars)))
        asked = read_of(trial.dialect).affine(trial.dialect) and (name != "pre" or not reads_by_gates(trial.dialect))
        found = trial.observe("mappings", of(pulled, parameters=True))
        for k, (one, got) in enumerate(zip(pulled.names, found, strict=True)):
            what = f"the gradient of mappings by {one}"
            if k < pulled.by_token:
                is_neither_hidden_nor_spread(trial, what, got, case.poisoned)
            elif asked:
                hidden = bool(torch.isfinite(got).all())
                of_what = f"{what} for a NaN or an infinity in the cotangent of h_{name}"
                trial.holds(of_what, not hidden, "finite throughout", "not finite")


def blocks(trial: Trial, case: Case, method: str) -> Callable[[Implementation, Place], Any]:
    """The gradient of a block, or of several, by the state; branches give back what they read."""
    several = case.depth if "depth" in case else 2
    bar = spoiled(case, torch.ones_like(case.x))
    branch = BranchSpec("identity")

    def run(target: Implementation, place: Place) -> Any:
        x, params = place(case.x).clone().requires_grad_(), place(case.params)
        if method == "block":
            out = target.block(x, params, branch)
        else:
            out = target.layers(x, (params,) * several, (branch,) * several)
        return tuple(pulled_back([out], [x], [place(bar).clone()]))

    return run


@block("gradient.poison-passes-a-block", "contract", lambda s: poisoned_states(s), differentiable)
def poison_passes_a_block(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in the cotangent of a token reaches the gradient by that token's state, and no other's.

    A^T carries it there; 0 * infinity is NaN.
    """
    reaches_the_gradients(trial, "block", blocks(trial, case, "block"), case.poisoned, ("x",))


@st.composite
def poisoned_layers(draw: DrawFn, setting: Setting) -> Case:
    """The same, and how many layers it passes."""
    return draw(poisoned_states(setting)).with_(depth=setting.depth(2))


@layers("gradient.poison-passes-layers", "contract", poisoned_layers, differentiable)
def poison_passes_layers(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in the cotangent of a token passes every layer, and stays with its token.

    As for a block.
    """
    reaches_the_gradients(trial, "layers", blocks(trial, case, "layers"), case.poisoned, ("x",))


@st.composite
def poisoned_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Some tokens, for post and for pre, and cotangents with a poison in one."""
    n, channels = draw(streams(setting)), draw(width_among(setting, 3, 1, 35, 130))
    tokens, seed = draw(some_tokens(setting)), draw(seeds)
    shapes = ((n, channels), (channels,), (n,), (n, n), (n, channels), (channels,))
    x, y, h_post, h_res, *bars = (torch.tensor(noise(seed + k, tokens, *shape)) for k, shape in enumerate(shapes))
    x, y, *bars = (one.to(setting.dtype) for one in (x, y, *bars))
    dtype = setting.parameter_dtype
    places = tuple(draw(st.integers(0, size - 1)) for size in x.shape)
    case = Case(x=x, y=y, h_post=h_post.to(dtype), h_res=possible(h_res.to(dtype), setting.dialect), poisoned=places[0])
    spoil = case.with_(place=places[1:], poison=draw(among(*POISONS)))
    return case.with_(cotangents=tuple(spoiled(spoil, bar) for bar in bars))


@post("gradient.poison-passes-pre-and-post", "contract", lambda s: poisoned_mixtures(s), differentiable)
def poison_passes_pre_and_post(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in the cotangent of a token reaches the gradients by every factor of that token's mixing.

    Both are bilinear: a factor's gradient is the cotangent times the other one. Where h_res is the identity it need not
    be read.
    """
    for pulled in pulls.mixtures(trial, case):
        read = pulled.names[: 3 if mixes(trial.dialect) and pulled.method == "post" else None]
        reaches_the_gradients(trial, pulled.method, of(pulled), case.poisoned, read)
