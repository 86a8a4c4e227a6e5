"""Execution: what goes in comes out: NaN and infinity are neither hidden nor spread, and no output is constant."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect, Mappings
from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.family import mix_of
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import several_streams, where
from properties.core.trial import Trial, wide
from properties.laws import about, calls
from properties.laws.calls import Place
from properties.laws.mixing import possible
from properties.laws.premises import depends_on_logits, free_matrix, mixes, settled, unmoved
from properties.strategies import (
    Setting,
    at_temperature,
    channel_count,
    logits_of,
    noise,
    params_of,
    seeds,
    streams,
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


def some_tokens(setting: Setting) -> st.SearchStrategy[int]:
    """A number of tokens, of which one is to be poisoned."""
    return st.sampled_from(TOKENS).map(lambda count: min(count, setting.max_tokens))


@st.composite
def poisoned_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state of some tokens, one of which has a NaN or an infinity."""
    n = draw(streams(setting, 1, 4))
    channels, tokens = draw(channel_count(setting, 7)), draw(some_tokens(setting))
    x = torch.tensor(noise(draw(seeds), tokens, n, channels)).to(setting.dtype)
    poisoned = draw(st.integers(0, tokens - 1))
    where = draw(st.tuples(st.integers(0, n - 1), st.integers(0, channels - 1)))
    x[poisoned, where[0], where[1]] = draw(st.sampled_from((float("nan"), float("inf"))))
    return Case(x=x, params=draw(params_of(setting, n, channels, gates=(1.0, 0.5), least_phi=2)), poisoned=poisoned)


@about.block(
    "execution.poison-is-neither-hidden-nor-spread", "contract", poisoned_cases, blind=about.ALIKE, schedule=about.HALF
)
def poison_is_neither_hidden_nor_spread(trial: Trial, case: Case) -> None:
    """A NaN or an infinity in a token, or in what the branch gives for it, reaches that token's output, and no other
    token's.

    0 * NaN is NaN: the residual path sums over all streams of the token, and h_post spreads the branch over all of
    them; nothing sums over tokens. Replacing it by a number hides a divergence from everybody downstream.
    """
    out, _ = trial.block(case.x, case.params, calls.constant(case.x))
    is_neither_hidden_nor_spread(trial, "the block", out, case.poisoned)
    clean = case.x.nan_to_num(1.0, 1.0, 1.0)
    poison = torch.zeros(*clean.shape[:-2], clean.shape[-1], dtype=clean.dtype)
    poison[case.poisoned, -1] = case.x[case.poisoned].sum().item()  # it is what x has: a NaN or an infinity

    def run(target: Implementation, place: Place) -> Any:
        return target.block(place(clean), place(case.params), lambda u: u + place(poison))

    out = trial.observe("block", run)
    is_neither_hidden_nor_spread(trial, "a block whose branch gives the poison", out, case.poisoned)


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
    is_neither_hidden_nor_spread(trial, "h_res", trial.project(logits), case.poisoned, asked)


@st.composite
def poisoned_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Some tokens, one of which has a NaN or an infinity in one of its factors."""
    n, channels, seed = draw(streams(setting)), draw(channel_count(setting, 7)), draw(seeds)
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
    for call in calls.mixtures(trial, case):
        out = getattr(trial, call.method)(*call.given)
        asked = call.method == "post" or which in ("x", "h_post")  # h_pre is made of h_post
        is_neither_hidden_nor_spread(trial, call.method, out, case.poisoned, asked)


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
