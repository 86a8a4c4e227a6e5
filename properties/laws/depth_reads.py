"""Depth: with whose gates the branches of several layers read, which no block shows by itself."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref.block import gates_read
from properties.bounds import Approx
from properties.core.case import BranchSpec, Case
from properties.core.implementation import parameter_dtype
from properties.core.law import Schedule
from properties.core.premises import several_streams, where
from properties.core.trial import Trial, wide
from properties.laws import about, errors
from properties.laws.block import destination, one_call, permutation_params
from properties.laws.premises import carries_permutations
from properties.strategies import Setting, channel_count, noise, permutations_of, seeds, states_of, streams


@st.composite
def picked_routes(draw: DrawFn, setting: Setting) -> Case:
    """Distinct streams, two to five permutations, and numbers from which every layer has gates of its own."""
    n = draw(streams(setting, 2, 5))
    x = draw(states_of(setting, n, draw(channel_count(setting, 5)), most=2, scales=(1.0, 30.0)))
    orders = draw(st.lists(permutations_of(n), min_size=setting.depth(2), max_size=5))
    return Case(x=x, orders=tuple(orders), seed=draw(seeds))


@about.layers(
    "depth.branches-read-with-the-declared-gates",
    "identity",
    picked_routes,
    where(carries_permutations),
    several_streams,
    blind=("post-scale-one",),
    schedule=Schedule(cost=2, by_streams=False),
)
def branches_read_with_the_declared_gates(trial: Trial, case: Case) -> None:
    """With F = 0, permutations as h_res and constant gates, a branch reads the carried streams by the gates of its own
    layer, or of the layer before; then the first reads by its own, or stream 0 alone.

    u_l = h_pre,l x_l, or h_pre,l-1 x_l where reading is delayed (DeepSeek-V4.1): no gate depends on the state where
    phi = 0, and what streams there are is known, so that each branch input names the gates that it was read with.
    """
    channels, dtype = case.x.shape[-1], parameter_dtype(trial.dtype)
    n = case.x.shape[-2]
    biases = torch.tensor(noise(case.seed, len(case.orders), n), dtype=dtype)
    made = [permutation_params(order, channels, trial.dialect, dtype) for order in case.orders]
    pairs = zip(made, biases, strict=True)
    params = trial.stored(tuple(one._replace(bias=torch.cat([gates, one.bias[n:]])) for one, gates in pairs))
    _, seen = trial.layers(case.x, params, tuple(BranchSpec("zero") for _ in params))
    one_call(trial, seen, len(params))
    inputs, _ = trial.truth.layers(case.x, params, [one.y for one in seen])
    carried, before = wide(case.x), None
    state, last = Approx.exact(case.x), None
    for layer, (one, order, was, exact) in enumerate(zip(params, case.orders, seen, inputs, strict=True)):
        own = trial.truth.mappings(case.x, one).pre
        expected = trial.truth.pre(carried, gates_read(own, before, trial.dialect))
        read, state, last = errors.step(trial, state, one, was.y, last)
        gap = (exact - expected).abs()  # what an eps, and e^-60, leave beside the permutations
        trial.within(f"what the branch of layer {layer} reads", was.u, expected, read.error, gap)
        carried, before = carried[..., destination(order, trial.dialect), :], own
