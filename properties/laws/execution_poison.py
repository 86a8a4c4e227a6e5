"""Execution: what goes in comes out: NaN and infinity are neither hidden nor spread, and no output is constant."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from mhc_ref.packing import logit_sizes
from properties import bounds
from properties.bounds import Approx
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.family import dynamic_of, end_of, mix_of
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import several_streams, where
from properties.core.reads import read_of
from properties.core.trial import Trial, wide
from properties.laws import about, calls
from properties.laws.calls import Place
from properties.laws.execution_layers import FUSED
from properties.laws.mixing import possible
from properties.laws.premises import (
    depends_everywhere,
    depends_on_logits,
    free_matrix,
    fused,
    mixes,
    reads_by_gates,
    reads_its_own_gates,
    settled,
    unmoved,
)
from properties.strategies import (
    Setting,
    at_temperature,
    logits_of,
    noise,
    params_of,
    seeds,
    streams,
    width_among,
)


def is_neither_hidden_nor_spread(trial: Trial, what: str, out: Tensor, poisoned: int, asked: bool = True) -> None:
    """What was made of a NaN or an infinity in one token is not finite there, if that is asked, but elsewhere."""
    finite = torch.isfinite(out).flatten(1).all(1)
    if asked:
        hidden = bool(finite[poisoned])
        trial.holds(
            f"{what} of token {poisoned} with a NaN or an infinity", not hidden, "finite throughout", "not finite"
        )
    others = [k for k in range(len(finite)) if k != poisoned]
    trial.holds(f"{what} of the other tokens", bool(finite[others].all()), "not finite", "finite", kind="nan")


TOKENS = 3, 20, 70
"""Fewer than a tile has, and more than one of 16 or of 64: what a tile shares, its other tokens have."""


MODES: tuple[str, ...] = ("", " under no_grad", " with gradients recorded", " in inference mode")


PROMPT = " of one sequence under no_grad"
"""As a server reads a prompt: one sequence of many tokens, which kernels have code of its own for."""


@contextmanager
def within(mode: str) -> Generator[None]:
    """In one of the `MODES` of autograd, in each of which values take a way of their own perhaps."""
    with torch.inference_mode(mode == MODES[3]), torch.set_grad_enabled(mode in MODES[::2]):
        yield


def asking(mode: str, given: Any) -> Any:
    """Copies of what a call is given, which ask for gradients where these are recorded."""
    return map_tensors(given, lambda one: one.clone().requires_grad_(mode == MODES[2]))


def in_every_mode(
    trial: Trial, method: str, *given: Any, call: Callable[..., Tensor] | None = None
) -> dict[str, Tensor]:
    """What a method gives in each mode, and as of a prompt, [1, S, ...], by its name; or `call(implementation, *given)`
    instead."""
    every = (*modes(trial), PROMPT)

    def run(target: Implementation, place: Place) -> Any:
        found: list[Tensor] = []
        for mode in every:
            with within(mode):
                own = asking(mode, map_tensors(given, place))
                if mode == PROMPT:
                    own = tuple(one.unsqueeze(0) if isinstance(one, Tensor) else one for one in own)
                out = call(target, *own) if call else getattr(target, method)(*own)
                found.append((out.flatten(0, 1) if mode == PROMPT else out).detach().clone())
        return tuple(found)

    return dict(zip(every, trial.observe(method, run), strict=True))


def modes(trial: Trial) -> tuple[str, ...]:
    """Those in which an implementation is called."""
    return MODES if trial.implementation.differentiable else MODES[:2]


def some_tokens(setting: Setting) -> st.SearchStrategy[int]:
    """A number of tokens, of which one is to be poisoned."""
    return st.sampled_from(TOKENS).map(setting.count)


MANY_CHANNELS = 130


def some_channels(setting: Setting) -> st.SearchStrategy[int]:
    """A number of channels: fewer than a vectorised load takes, or more than a tile has, and than two of them."""
    return width_among(setting, 2, 1, 3, 7, 64, MANY_CHANNELS)


@st.composite
def poisoned_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state of some tokens, one of which has a NaN or an infinity, and a number that says
    where parameters have one."""
    n = draw(streams(setting, 1, 4))
    channels, tokens = draw(some_channels(setting)), draw(some_tokens(setting))
    x = torch.tensor(noise(draw(seeds), tokens, n, channels)).to(setting.dtype)
    poisoned = draw(st.integers(0, tokens - 1))
    where = draw(st.tuples(st.integers(0, n - 1), st.integers(0, channels - 1)))
    x[poisoned, where[0], where[1]] = draw(st.sampled_from((float("nan"), float("inf"))))
    params = draw(params_of(setting, n, channels, gates=(1.0, 0.5), least_phi=2))
    return Case(x=x, params=params, poisoned=poisoned, spoilt=draw(st.integers(0, 47)))


@about.block(
    "execution.poison-is-neither-hidden-nor-spread", "contract", poisoned_cases, blind=about.ALIKE, schedule=about.HALF
)
def poison_is_neither_hidden_nor_spread(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in a token, or in what the branch gives for it, reaches that token's output, and no other
    token's, in any mode; one in a parameter reaches every token's.

    0 * NaN is NaN: the residual path sums over all streams of the token, and h_post spreads the branch over all of
    them; nothing sums over tokens. Replacing it by a number hides a divergence from everybody downstream, as servers do
    so that one request does not stop the others.
    """
    for mode, out in in_every_mode(trial, "block", case.x, case.params, calls.constant(case.x)).items():
        is_neither_hidden_nor_spread(trial, f"the block{mode}", out, case.poisoned)
    clean = case.x.nan_to_num(1.0, 1.0, 1.0)
    poison = torch.zeros(*clean.shape[:-2], clean.shape[-1], dtype=clean.dtype)
    poison[case.poisoned, -1] = case.x[case.poisoned].sum().item()  # it is what x has: a NaN or an infinity

    def poisoned(target: Implementation, x: Tensor, params: Params, added: Tensor) -> Tensor:
        return target.block(x, params, lambda u: u + added)

    for mode, out in in_every_mode(trial, "block", clean, case.params, poison, call=poisoned).items():
        is_neither_hidden_nor_spread(trial, f"a block whose branch gives the poison{mode}", out, case.poisoned)
    if "spoilt" in case:  # not in a file of an earlier release
        poisoned_parameters_show(trial, clean, case.params, case.spoilt)


def poisoned_parameters_show(trial: Trial, x: Tensor, params: Params, turn: int) -> None:
    """A NaN in a parameter leaves no token finite: it has a part in a logit of each, and 0 * NaN is NaN.

    Asked where logits are affine in all parameters, and of the mappings that depend on theirs everywhere.
    """
    n, dialect = x.shape[-2], trial.dialect
    known = settled(dialect, n) | ({"res"} if depends_everywhere(dialect) else set[str]())
    known |= {"pre"} if reads_its_own_gates(dialect) else set()  # the next block reads with them
    if not read_of(dialect).affine(dialect) or reads_by_gates(dialect) or dynamic_of(dialect).constant:
        return
    sizes = logit_sizes(n, dialect)
    of = [k for k, name in enumerate(Mappings._fields) if name not in known and sizes[k]]
    parts = [name for name, one in params._asdict().items() if one is not None]
    if not of:
        return
    part, k = parts[turn % len(parts)], of[turn // len(parts) % len(of)]
    spoilt: Tensor = getattr(params, part).clone()
    first = sum(sizes[:k])
    place: Any = {
        "phi": (turn % len(spoilt), min(k, 2) if dialect.shared_projection else first),
        "bias": first + turn % sizes[k],
        "alpha": k,
        "norm_weight": turn % len(spoilt),
    }[part]
    spoilt[place] = float("nan")
    params = params._replace(**{part: spoilt})
    for mode, out in in_every_mode(trial, "block", x, params, BranchSpec("identity")).items():
        finite = torch.isfinite(out).flatten(1).all(1)
        what = f"the block of parameters of which {part} has a NaN in what makes h_{Mappings._fields[k]}{mode}"
        trial.holds(what, not bool(finite.any()), f"finite for {int(finite.sum())} tokens", "not finite")


@st.composite
def poisoned_stacks(draw: DrawFn, setting: Setting) -> Case:
    """One stream of some tokens, one of which has a NaN, two layers or more, and a head where there is one."""
    n, channels, tokens = draw(streams(setting, 1, 4)), draw(some_channels(setting)), draw(some_tokens(setting))
    h = torch.tensor(noise(draw(seeds), tokens, channels)).to(setting.dtype)
    poisoned = draw(st.integers(0, tokens - 1))
    h[poisoned, draw(st.integers(0, channels - 1))] = float("nan")
    depth, each = setting.depth(2), params_of(setting, n, channels, gates=(1.0, 0.5), least_phi=2)
    params = tuple(draw(each) for _ in range(depth + end_of(setting.dialect).HEAD))
    return Case(h=h, n=n, params=params[:depth], head=params[depth:], poisoned=poisoned)


@about.stack(
    "execution.poison-passes-a-stack",
    "contract",
    poisoned_stacks,
    fused(*FUSED),
    blind=about.ALIKE,
    schedule=Schedule(cost=4, by_streams=False),
)
def poison_passes_a_stack(trial: Trial, case: Case) -> None:
    """A NaN in what a token begins with reaches what its streams end in, and no other token's, in any mode.

    As for a block: streams begin as multiples of it, every layer hands it on, and they end as a sum of all of them.
    """
    deep: tuple[Params, ...] = case.params
    if torch.finfo(trial.dtype).max > 2.0**16:  # what is not mixed by a mean grows from layer to layer
        deep = (*deep, *(one._replace(bias=-one.bias) for one in deep), deep[0]._replace(alpha=-deep[0].alpha))
    ones = (calls.constant(case.h.unsqueeze(-2)),) * len(deep)
    for mode, out in in_every_mode(trial, "stack", case.h, (*deep, *case.head), ones).items():
        is_neither_hidden_nor_spread(trial, f"a stack{mode}", out, case.poisoned)


@about.mappings("execution.poison-reaches-the-mappings", "contract", poisoned_cases, schedule=about.HALF)
def poison_reaches_the_mappings(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in a token leaves none of its mappings finite throughout, and touches no other token's.

    Its rms is not finite, so neither is its projection. Where only some streams are normalised with it, only their
    share is lost. Nothing is asked of a mapping that does not depend on its logits, or whose logits are the bias alone.
    """
    got = trial.mappings(case.x, case.params)
    known = unmoved(trial.dialect, case.x.shape[-2])
    for name in Mappings._fields:
        if name not in trial.implementation.emits or (name == "res" and depends_on_logits(trial.dialect)):
            continue
        if name not in known:
            is_neither_hidden_nor_spread(trial, f"h_{name}", getattr(got, name), case.poisoned)


@st.composite
def poisoned_logits(draw: DrawFn, setting: Setting) -> Case:
    """Some matrices of logits, one of which has a NaN."""
    n = draw(streams(setting, 1, 5))
    logits = calls.flooded(
        draw(logits_of(setting, n, least=3, most=3, patterns=("normal",))), draw(some_tokens(setting))
    )
    return Case(logits=logits, poisoned=draw(st.integers(0, logits.shape[0] - 1)), entry=draw(seeds))


def those_that_count(logits: Tensor, dialect: Dialect) -> list[int]:
    """Which logits of a matrix, in one line, its h_res depends on: those with a gradient; all where no formula is
    known."""
    mix = mix_of(dialect)
    if not mix.known:
        return list(range(logits.numel()))
    z = wide(logits).unsqueeze(0).requires_grad_()
    with torch.enable_grad():
        found = mix.project(z, dialect)
    (slope,) = torch.autograd.grad(found, z, torch.tensor(noise(0, *found.shape)).to(z))
    return slope.flatten().nonzero().flatten().tolist()


@about.project(
    "execution.poison-reaches-h-res", "invariant", poisoned_logits, where(depends_on_logits), schedule=about.HALF
)
def poison_reaches_h_res(trial: Trial, case: Case) -> None:
    """A NaN among the logits of a matrix leaves its h_res not finite, and touches no other matrix.

    Every scaling sums over it. Replacing it by a number hides a divergence from everybody downstream. The only entry
    of h_res for n = 1 is no sum of anything: nothing is asked of it. A logit that h_res does not depend on, such as a
    diagonal of Z in Z - Z^T, need not be read.
    """
    logits = case.logits.clone()
    flat = logits[case.poisoned].view(-1)
    count = flat.shape[0]  # a mix may have no logits
    places = those_that_count(case.logits[case.poisoned], trial.dialect)
    if count:
        flat[(places or range(count))[case.entry % (len(places) or count)]] = float("nan")
    asked = bool(places) and (count > 1 or "res" not in settled(trial.dialect, 1))
    for mode, out in in_every_mode(trial, "project", logits).items():
        is_neither_hidden_nor_spread(trial, f"h_res{mode}", out, case.poisoned, asked)


@st.composite
def poisoned_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Some tokens, one of which has a NaN or an infinity in one of its factors."""
    n, channels, seed = draw(streams(setting)), draw(width_among(setting, 2, 1, 3, 7)), draw(seeds)
    dtype = setting.parameter_dtype
    shapes = ((n, channels), (channels,), (n,), (n, n))
    tokens = draw(some_tokens(setting))
    x, y, h_post, h_res = (torch.tensor(noise(seed + k, tokens, *shape)) for k, shape in enumerate(shapes))
    poisoned = draw(st.integers(0, tokens - 1))
    poison = draw(st.sampled_from((float("nan"), float("inf"))))
    h_res = possible(h_res.to(dtype), setting.dialect)
    factors = {"x": x, "y": y, "h_post": h_post, "h_res": h_res}
    which = draw(st.sampled_from([*factors][: 3 if mixes(setting.dialect) else 4]))
    flat = factors[which][poisoned].view(-1)
    flat[seed % len(flat)] = poison
    mixture = Case(x=x.to(setting.dtype), y=y.to(setting.dtype), h_post=h_post.to(dtype), h_res=h_res)
    return mixture.with_(poisoned=poisoned, which=which)


@about.post("execution.poison-passes-pre-and-post", "contract", poisoned_mixtures, schedule=about.HALF)
def poison_passes_pre_and_post(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in a token's state, branch output or mappings reaches what pre and post make of it, and no
    other token.

    Every stream enters both sums with a weight that is not 0, and so does the branch; NaN times anything is NaN, and so
    is infinity times 0.
    """
    which = case.which if "which" in case else "x"  # a file of an earlier release has it in the state
    for wider in (case, with_many_channels(case, trial.implementation.channel_multiple)):
        for call in calls.mixtures(trial, wider):
            every = in_every_mode(trial, call.method, *call.given)
            asked = call.method == "post" or which in ("x", "h_post")  # h_pre is made of h_post
            for mode, out in every.items():
                what = f"{call.method} of {wider.x.shape[-1]} channels{mode}"
                is_neither_hidden_nor_spread(trial, what, out, case.poisoned, asked)


def with_many_channels(case: Case, multiple: int) -> Case:
    """The state and the branch output with their channels over and over: more than a tile has, and than two of them."""
    width = -(-MANY_CHANNELS // multiple) * multiple
    return case.with_(**{k: one[..., torch.arange(width) % one.shape[-1]] for k, one in (("x", case.x), ("y", case.y))})


@st.composite
def unequal_cases(draw: DrawFn, setting: Setting) -> Case:
    """Two matrices that are projected far apart: opposite near-permutations."""
    n = draw(streams(setting, 2, 5))
    sharp = torch.eye(n, dtype=setting.parameter_dtype) * draw(st.sampled_from((3.0, 5.0)))
    sharp = at_temperature(sharp, setting.dialect)
    return Case(logits=torch.stack([sharp, sharp.roll(1, -1)]))


@about.project(
    "execution.different-logits-differ",
    "invariant",
    unequal_cases,
    where(free_matrix),
    several_streams,
    blind=about.ALIKE,
    schedule=Schedule(cost=4),
)
def different_logits_differ(trial: Trial, case: Case) -> None:
    """Opposite logits do not have the same h_res, and none is zero.

    A kernel that writes nothing, zeros or a constant passes every test whose tolerance exceeds its outputs
    (KernelBench #165).
    """
    got = wide(torch.cat([trial.project(one) for one in case.logits.split(trial.implementation.max_tokens)]))
    apart = bounds.projection(Approx.exact(case.logits), trial.dialect, trial.rounding)
    expected = (apart.value[0] - apart.value[1]).abs().amax() - 2 * apart.error.amax()
    trial.holds(
        "the difference of two projections",
        bool((got[0] - got[1]).abs().amax() >= expected),
        f"{(got[0] - got[1]).abs().amax().item():.3g}",
        f"at least {expected.item():.3g}",
    )
