"""Every deviation computes something else than it declares, says what and where it happened, and is found by name."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, PRESETS, RESIDUAL, Dialect, Params
from mhc_ref.packing import beyond, logits_shape, params_shapes
from mhc_ref.stack import ends_with_last
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, HIDDEN, build
from properties.catalogue.deviations.backward import HandWritten
from properties.core.case import map_tensors
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation, Reference, offers
from properties.core.law import all_laws
from properties.core.pulling import pulled_back
from properties.core.slips import Kind, some_streams, turns
from properties.engine.runner import Profile, Subject, Verdict, examine

VISIBLE = 1e-9
"""Relative to the largest value of a token; correct implementations stay below 1e-12 on the same probes."""


class Probe(NamedTuple):
    """Something observed of an implementation, and whether it is about gradients or a call's circumstances."""

    name: str
    observe: Callable[[Implementation], list[Tensor]]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, the same for every dtype."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype)


def generic_params(dialect: Dialect, n: int, channels: int, seed: int = 0, scale: float = 1.0) -> Params:
    """Parameters of order 1: distinct gates, biases and norm weights, dynamic and static logits both at work."""
    (rows, columns), biases, alphas, _ = params_shapes(n, channels, dialect)
    phi = normal(rows, columns, seed=seed + 1) * scale / math.sqrt(rows)
    if last := beyond(dialect):  # these multiply no state
        phi[:, -last:] *= math.sqrt(rows)
    return Params(
        phi,
        normal(*biases, seed=seed + 2) * scale,
        torch.tensor([0.7, 1.3, 1.6], dtype=torch.float64)[: alphas[0]],
        0.5 + normal(n * channels, seed=seed + 3).square(),
    )


def branch(y: Tensor) -> Tensor:
    """A branch that is neither linear nor zero at zero."""
    return (y + 0.3).sin() + 0.2 * y.roll(1, -1)


def states(n: int, channels: int, tokens: int, seed: int = 10) -> Tensor:
    """Distinct streams of unequal norms; among the tokens some of rms 1e-3, 1e-4 and 1e-10."""
    x = normal(tokens, n, channels, seed=seed) * torch.linspace(0.5, 2, n, dtype=torch.float64).unsqueeze(-1)
    x = x + normal(tokens, n, 1, seed=seed + 1)
    scale = torch.tensor([1, 1e-3, 1e-10, 30, 1e-4, 0.1, 1], dtype=torch.float64)
    return x * scale.repeat(tokens // 7 + 1)[:tokens].view(-1, 1, 1)


def logits(dialect: Dialect, n: int, scale: float, tokens: int = 4) -> Tensor:
    """What `project` takes."""
    return scale * normal(tokens, *logits_shape(n, dialect))


def starved(dialect: Dialect, depth: float) -> Tensor:
    """A line of the last axis lies `depth` below the rest: its first sum is above the smallest float and below any eps.

    A clamp at 1e-12 lifts it by that factor in every iteration; from exp(-552) it needs all twenty.
    """
    z = logits(dialect, 3, 1.0)
    if z.shape[1:] == (3, 3):
        z.select(-2 if dialect.last_axis == "row" else -1, 1).sub_(depth)
    return z


def huge(dialect: Dialect) -> Tensor:
    """Logits around 1000, one line of the first axis 2000 below, which the first half-step takes back."""
    z = logits(dialect, 3, 2.0) + 1000
    if dialect.residual == "sinkhorn":
        z.select(-1 if dialect.first_axis == "column" else -2, 1).sub_(2000)
    return z


def observe_block(dialect: Dialect, n: int, channels: int, tokens: int, scale: float) -> Callable[..., list[Tensor]]:
    x, params = states(n, channels, tokens), generic_params(dialect, n, channels, scale=scale)

    def observe(implementation: Implementation) -> list[Tensor]:
        mappings = implementation.mappings(x, params)
        read = implementation.pre(x, mappings.pre)
        mixed = implementation.post(x, read.roll(1, -1), mappings.post, mappings.res)
        return [*mappings, read, mixed, implementation.block(x, params, branch)]

    return observe


def observe_stack(dialect: Dialect, depth: int = 3, n: int = 3, channels: int = 4) -> Callable[..., list[Tensor]]:
    params = [generic_params(dialect, n, channels, seed=20 * k) for k in range(depth)]
    head = [generic_params(dialect, n, channels, seed=99)] if dialect.collapse == "head" else []
    x, h = normal(5, n, channels, seed=7), normal(5, channels, seed=8)

    def observe(implementation: Implementation) -> list[Tensor]:
        branches = [branch, torch.tanh, branch][:depth]
        given = h.clone()
        return [
            implementation.layers(x, params, branches),
            implementation.expand(h, n),
            *([] if ends_with_last(dialect) else [implementation.collapse(x, head[0] if head else None)]),
            implementation.stack(given, [*params, *head], branches),
            given,
        ]

    return observe


def observe_gradient(dialect: Dialect, scale: float, n: int = 4, channels: int = 5) -> Callable[..., list[Tensor]]:
    x = torch.cat([normal(2, n, channels, seed=3), 1e-4 * normal(5, n, channels, seed=4)])
    if dialect.rms_eps_by == "clamp":
        x[-1] = 0  # which has a gradient, and a large one
    params = generic_params(dialect, n, channels, scale=scale)
    cotangent = normal(7, n, channels, seed=5)

    def observe(implementation: Implementation) -> list[Tensor]:
        inputs = [value.clone().requires_grad_() for value in (x, *params) if value is not None]
        result = implementation.block(inputs[0], Params(*inputs[1:]), branch)
        return pulled_back([result], inputs, [cotangent.clone()])

    return observe


def observe_stack_gradient(dialect: Dialect, n: int = 3, channels: int = 4) -> Callable[..., list[Tensor]]:
    every = [generic_params(dialect, n, channels, seed=20 * k) for k in range(3 + (dialect.collapse == "head"))]
    h, cotangent = normal(5, channels, seed=8), normal(5, channels, seed=9)

    def observe(implementation: Implementation) -> list[Tensor]:
        given = map_tensors(every, lambda part: part.clone().requires_grad_())
        inputs = [h.clone().requires_grad_(), *(part for one in given for part in one if part is not None)]
        result = implementation.stack(inputs[0], given, [branch, torch.tanh, branch])
        return pulled_back([result], inputs, [cotangent])

    return observe


def observe_projection_gradient(dialect: Dialect, scale: float) -> Callable[..., list[Tensor]]:
    z = logits(dialect, 4, scale)
    cotangent = normal(4, 4, 4, seed=6)

    def observe(implementation: Implementation) -> list[Tensor]:
        leaf = z.clone().requires_grad_()
        result = implementation.project(leaf)
        if not result.requires_grad:
            return [torch.zeros_like(leaf)]
        (found,) = torch.autograd.grad(result, leaf, cotangent, allow_unused=True)
        return [torch.zeros_like(leaf) if found is None else found]

    return observe


def observe_strided(dialect: Dialect) -> Callable[..., list[Tensor]]:
    x, params = normal(3, 5, 4, seed=1).transpose(0, 2), generic_params(dialect, 5, 3)
    z = logits(dialect, 3, 1.0, 8)[::2]

    def observe(implementation: Implementation) -> list[Tensor]:
        pre, post, res = implementation.mappings(x, params)
        spaced = torch.stack([post, post + 1], -1)[..., 0]
        column_major = res.mT.contiguous().mT
        return [
            implementation.project(z),
            pre,
            implementation.pre(x, pre),
            implementation.post(x, x[..., 0, :], post, res),
            implementation.post(x.contiguous(), x[..., 0, :], spaced, column_major),
        ]

    return observe


def observe_purity(dialect: Dialect) -> Callable[..., list[Tensor]]:
    params = generic_params(dialect, 3, 4)

    def observe(implementation: Implementation) -> list[Tensor]:
        x, z = normal(3, 3, 4), logits(dialect, 3, 1.0)
        implementation.block(x, params, branch)
        implementation.project(z)
        return [x, z]

    return observe


def observe_calls(dialect: Dialect) -> Callable[..., list[Tensor]]:
    params, other = generic_params(dialect, 3, 4), generic_params(dialect, 3, 4, seed=50)
    first, second = normal(3, 3, 4), normal(3, 3, 4, seed=9)
    z, later = logits(dialect, 3, 1.0), logits(dialect, 3, 2.0)

    def observe(implementation: Implementation) -> list[Tensor]:
        held, storage = implementation.block(first, params, branch), first.clone()
        kept = implementation.mappings(storage, params)
        storage.copy_(second)  # the same storage, new data
        again = implementation.mappings(storage, params)
        block = implementation.block(second, other, branch)
        projected = [implementation.project(z), implementation.project(later)]
        return [held, *kept, *again, block, implementation.block(first, params, branch), *projected]

    return observe


def observe_training(dialect: Dialect) -> Callable[..., list[Tensor]]:
    x = normal(3, 3, 4)

    def observe(implementation: Implementation) -> list[Tensor]:
        params = generic_params(dialect, 3, 4)
        implementation.mappings(x, params)
        params.phi.mul_(2)  # the step of an optimiser, in the same storage
        return list(implementation.mappings(x, params))

    return observe


def observe_saturated(dialect: Dialect) -> Callable[..., list[Tensor]]:
    x, params = normal(3, 3, 4), generic_params(dialect, 3, 4)
    bias = params.bias.clone()
    bias[:6] = torch.tensor([1000.0, -1000, 0] * 2)
    return lambda implementation: list(implementation.mappings(x, params._replace(bias=bias)))


def observe_tokens(dialect: Dialect, *shape: int, n: int = 3, channels: int = 4) -> Callable[..., list[Tensor]]:
    x, params = normal(*shape, n, channels, seed=1), generic_params(dialect, n, channels)
    return lambda implementation: [implementation.block(x, params, branch), *implementation.mappings(x, params)]


def observe_no_grad(dialect: Dialect) -> Callable[..., list[Tensor]]:
    x, params = normal(3, 3, 4), generic_params(dialect, 3, 4)

    def observe(implementation: Implementation) -> list[Tensor]:
        with torch.no_grad():
            return list(implementation.mappings(x, params))

    return observe


def observe_not_finite(dialect: Dialect) -> Callable[..., list[Tensor]]:
    h_post, h_res = normal(4, 3), normal(4, 3, 3)
    x, y = normal(4, 3, 2) * 1e4, normal(4, 2)
    y[0, 0], y[1, 0] = math.nan, math.inf
    z = logits(dialect, 3, 1.0)
    z[0].view(-1)[:1] = math.nan
    return lambda implementation: [implementation.post(x, y, h_post, h_res), implementation.project(z)]


@functools.cache
def probes(dialect: Dialect) -> dict[str, list[Probe]]:
    """The probes of forward, gradient and execution, each from the cheapest to the dearest."""
    streams = (3, 4, 5) if dialect.residual != "permutations" else (3, 4)
    forward = [Probe(f"project {scale}", _project(dialect, scale)) for scale in (0.5, 1.0, 4.0, 8.0)]
    forward += [
        Probe("project starved", lambda i: [i.project(starved(dialect, 40))]),
        Probe("project starved to the end", lambda i: [i.project(starved(dialect, 552))]),
        Probe("project huge", lambda i: [i.project(huge(dialect))]),
    ]
    forward += [Probe(f"block of {n}", observe_block(dialect, n, 9, 7, 1.0)) for n in streams]
    forward += [Probe("saturated gates", observe_saturated(dialect))]
    forward += [Probe("block, steep", observe_block(dialect, 4, 3, 7, 4.0)), Probe("stack", observe_stack(dialect))]
    n = some_streams(dialect) if turns(dialect) and not turns(dialect, 4) else 4
    gradient = [Probe(f"gradient {scale}", observe_gradient(dialect, scale, n)) for scale in (1.0, 4.0)]
    gradient += [Probe(f"projection gradient {s}", observe_projection_gradient(dialect, s)) for s in (1.0, 4.0)]
    gradient += [Probe("stack gradient", observe_stack_gradient(dialect))]
    execution = [
        Probe("inputs afterwards", observe_purity(dialect)),
        Probe("repeated calls", observe_calls(dialect)),
        Probe("updated weights", observe_training(dialect)),
        Probe("without gradients", observe_no_grad(dialect)),
        Probe("strided views", observe_strided(dialect)),
        Probe("not finite", observe_not_finite(dialect)),
        Probe("0 tokens", observe_tokens(dialect, 0)),
        Probe("one token", observe_tokens(dialect)),
        Probe("one channel", observe_tokens(dialect, 2, channels=1)),
        Probe("5 tokens", observe_tokens(dialect, 5)),
        Probe("two token axes", observe_tokens(dialect, 2, 3)),
        Probe("130 tokens", observe_tokens(dialect, 130)),
    ]
    return {"forward": forward, "gradient": gradient, "execution": execution}


def _project(dialect: Dialect, scale: float) -> Callable[[Implementation], list[Tensor]]:
    z = logits(dialect, 4, scale)
    return lambda implementation: [implementation.project(z)]


@functools.cache
def expected(dialect: Dialect, family: str) -> list[list[Tensor]]:
    """What the reference gives."""
    return [probe.observe(Reference(dialect)) for probe in probes(dialect)[family]]


def difference(found: list[Tensor], wanted: list[Tensor], least: float = 1e-6) -> float:
    """The largest difference, each relative to the largest value of its token, or to `least` of the largest value of
    all; inf where NaN or shapes disagree.

    What is nothing but rounding beside another of the tensors is 0, and its difference relative to that other one.
    """
    worst = 0.0
    largest = max((float(one.detach().nan_to_num(0, 0, 0).abs().amax()) for one in wanted if one.numel()), default=0.0)
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype or not torch.equal(one.isfinite(), other.isfinite()):
            return math.inf
        if not one.numel():
            continue
        one, other = one.detach().nan_to_num(0, 0, 0), other.detach().nan_to_num(0, 0, 0)
        scale = other.abs().flatten(1).amax(1) if other.ndim > 1 else other.abs().amax()
        scale = scale.maximum(least * other.abs().amax()).clamp_min(1e-300)
        if float(other.abs().amax()) < 1e-14 * largest:
            scale = torch.full_like(scale, largest)
        error = (one - other).abs()
        worst = max(worst, float(((error.flatten(1).amax(1) if other.ndim > 1 else error.amax()) / scale).max()))
    return worst


def differences(
    implementation: Implementation, dialect: Dialect, family: str, least: float = 1e-6
) -> Iterator[tuple[str, float]]:
    """The difference of each probe from the reference; inf for an exception."""
    for probe, wanted in zip(probes(dialect)[family], expected(dialect, family), strict=True):
        try:
            yield probe.name, difference(probe.observe(implementation), wanted, least)
        except (RuntimeError, ValueError, IndexError):
            yield probe.name, math.inf


SEEN_IN_ANOTHER_DTYPE = (
    *("rms-eps-of-the-state", "rms-eps-of-the-computation", "rms-eps-of-the-smallest-number"),
    "variance-of-moments",
)
"""Deviations that no preset shows, nor states of order 1 in float64: see `tests/test_norms.py`."""

FAMILIES: dict[Kind, tuple[str, ...]] = {"gradient": ("gradient",), "execution": ("execution", "forward")}
"""Where a kind shows; the others show forward."""

SHOWN = [name for name in CATALOGUE if name not in SEEN_IN_ANOTHER_DTYPE]
FINE = [name for name in SHOWN if torch.float64 in CATALOGUE[name].dtypes]
COARSE = [name for name in SHOWN if name not in FINE]
BELOW_A_FLOOR = (
    *("norm-clamp-lets-through", "norm-clamp-stops", "norm-clamp-detached", "norm-clamp-of-all-streams"),
    *("rms-eps-missing", "rms-eps-clamps-root", "sinkhorn-eps-for-norm"),
)
"""What shows below the eps by which a norm clamps, which in a preset is below every state of order 1."""


def dialects(name: str) -> dict[str, Dialect]:
    """The presets for which a deviation is one, or the dialect that shows one of no preset; never none."""
    found = {preset: dialect for preset, dialect in PRESETS.items() if CATALOGUE[name].applies(dialect)}
    if name in BELOW_A_FLOOR:
        found = {preset: dialect for preset, dialect in found.items() if dialect.rms_eps_by != "clamp"}
    return found or {"another dialect": NEEDS_OTHER_DIALECT[name]}


@pytest.mark.slow  # in every preset; that each is killed in one shows in a default run
@pytest.mark.parametrize("name", FINE)
def test_a_deviation_differs_visibly_from_what_it_declares(name: str) -> None:
    families = FAMILIES.get(CATALOGUE[name].kind, ("forward", "execution"))
    for preset, dialect in dialects(name).items():
        seen = (found for family in families for found in differences(build(name, dialect), dialect, family))
        largest = 0.0
        while largest <= VISIBLE and (found := next(seen, None)):
            largest = max(largest, found[1])
        assert largest > VISIBLE, f"{name} changes nothing for {preset}: {CATALOGUE[name].slip}"


@pytest.mark.parametrize("name", COARSE)
def test_a_deviation_of_coarse_states_shows_in_bfloat16(name: str) -> None:
    x = normal(65, 4, 9, dtype=torch.bfloat16)

    def observe(implementation: Implementation, params: Params) -> list[Tensor]:
        mappings = implementation.mappings(x, params)
        read = implementation.pre(x, mappings.pre)
        return [*mappings, read, implementation.post(x, x[..., 0, :], mappings.post, mappings.res)]

    for dialect in dialects(name).values():
        params = Params(*(value.float() for value in generic_params(dialect, 4, 9) if value is not None))
        found, correct = observe(build(name, dialect), params), observe(Deviant(dialect), params)
        assert difference(found, correct) > 2.0**-12


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, deviation in CATALOGUE.items() if deviation.kind == "gradient"])
def test_the_values_of_a_gradient_deviation_are_right(name: str) -> None:
    for dialect in dialects(name).values():
        for probe in probes(dialect)["forward"][1:8:3]:
            pairs = zip(probe.observe(build(name, dialect)), probe.observe(Deviant(dialect)), strict=True)
            assert all(torch.equal(found, wanted) for found, wanted in pairs), probe.name


@pytest.mark.parametrize("name", CATALOGUE | HIDDEN)
def test_a_deviation_says_what_it_is_and_where_it_happened(name: str) -> None:
    deviation = (CATALOGUE | HIDDEN)[name]
    assert deviation.name == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert re.fullmatch(r"[0-9A-Za-z].*[^.]\.", deviation.slip, re.DOTALL)
    assert deviation.source.strip()
    assert deviation.dtypes
    shown = any(deviation.applies(dialect) for dialect in PRESETS.values())
    assert shown or name in NEEDS_OTHER_DIALECT or name in SEEN_IN_ANOTHER_DTYPE


NEEDS_OTHER_DIALECT = {
    "one-iteration-less-on-the-device": PAPER.with_(iterations=3),
    "rms-eps-inside": PAPER.with_(rms_eps=1e-3, rms_eps_inside=False),
    "collapse-sum": PAPER.with_(collapse="mean"),
    "static-bias-through-tanh": PAPER.with_(dynamic="static"),
    "static-reads-the-state": PAPER.with_(dynamic="static"),
    **dict.fromkeys(
        (
            *("norm-clamp-added", "norm-clamp-of-squares"),
            *("norm-clamp-lets-through", "norm-clamp-stops", "norm-clamp-detached"),
        ),
        PAPER.with_(rms_eps=1e-3, rms_eps_by="clamp"),
    ),
    "norm-clamp-of-all-streams": PAPER.with_(rms_eps=1e-3, rms_eps_by="clamp", norm_over="stream"),
    "rms-eps-of-float32": PAPER.with_(rms_eps_from="compute"),
    **dict.fromkeys(
        (
            *("centring-missing", "variance-of-the-uncentred", "norm-by-unbiased-deviation", "mean-span"),
            *("mean-divides-by-channels", "mean-detached", "mean-in-bfloat16", "centred-in-place"),
        ),
        PAPER.with_(rms_eps=1e-5, centred=True),
    ),
    "temperature-after-projection": PAPER.with_(temperature=0.2),
    "temperature-before-the-bias": PAPER.with_(temperature=0.2),
    "temperature-ignored": PAPER.with_(temperature=0.2),
    "temperature-multiplied": PAPER.with_(temperature=0.2),
    "temperature-on-every-gate": PAPER.with_(temperature=0.2),
}
"""Deviations that no preset shows, and a dialect that does."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NEEDS_OTHER_DIALECT if name in CATALOGUE])
def test_a_deviation_of_no_preset_shows_in_another_dialect(name: str) -> None:
    dialect = NEEDS_OTHER_DIALECT[name]
    families = FAMILIES.get(CATALOGUE[name].kind, ("forward",))
    found = [found for family in families for _, found in differences(build(name, dialect), dialect, family)]
    assert max(found) > VISIBLE


SEEN_BY_OTHER_FAMILIES = {
    "cotangent-strides-ignored": "gradient.pre-and-post-pull-back-however-they-are-called",
    "cotangent-overwritten": "gradient.mappings-pull-back-however-they-are-called",
    "saved-overwritten": "gradient.blocks-pull-back-however-they-are-called",
    "frozen-parameters-stop-the-state": "gradient.mappings-pull-back-however-they-are-called",
    "gradient-of-first-tile": "gradient.every-token-pulls-back-through-a-block",
    "gradient-of-eight-tiles": "gradient.every-token-pulls-back-through-the-mappings",
    "bias-gradient-over-one-axis": "gradient.every-token-pulls-back-through-the-mappings",
    "branch-untrained": "gradient.branches-learn",
    "token-axes-not-collapsed": "execution.mappings-do-not-see-strides",
    "parameter-strides-ignored": "execution.mappings-do-not-see-strides",
    "branch-output-strides-ignored": "execution.blocks-do-not-see-strides",
    "channels-above-64-unwritten": "execution.every-token-is-read-and-mixed",
    "channels-above-64-unread": "execution.every-token-has-its-mappings",
    "phi-transposed-if-square": "coefficients.agrees-with-oracle",
    "expanded-on-the-second-axis": "depth.expand-copies",
    "layers-in-a-table-of-four": "depth.streams-persist-through-layers",
}
"""Hidden deviation -> a law that makes the circumstance in which it shows."""


def searched(law: str, implementation: Implementation, where: Path, examples: int = 16) -> Verdict:
    """The law in float32, without shrinking, for few streams."""
    implementation.streams = (1, 3)
    subject = Subject("target", implementation, torch.float32, torch.device("cpu"))
    return examine(all_laws()[law], subject, Profile(examples, derandomise=True, shrink=False), directory=where)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_BY_OTHER_FAMILIES)
def test_a_deviation_that_one_circumstance_shows_is_seen_where_a_law_makes_it(name: str, tmp_path: Path) -> None:
    found = searched(SEEN_BY_OTHER_FAMILIES[name], build(name, PAPER), tmp_path)
    assert found.status == "failed", found.reason


@pytest.mark.parametrize("name", SEEN_BY_OTHER_FAMILIES)
def test_a_deviation_that_one_circumstance_shows_is_right_without_it(name: str) -> None:
    for probe in ("block of 3", "stack"):
        one = next(one for one in probes(PAPER)["forward"] if one.name == probe)
        assert difference(one.observe(build(name, PAPER)), one.observe(Reference(PAPER))) < VISIBLE
    one = probes(PAPER)["gradient"][0]
    assert difference(one.observe(build(name, PAPER)), one.observe(Reference(PAPER))) < VISIBLE


CIRCUMSTANCES = (
    *(law for law in sorted(set(SEEN_BY_OTHER_FAMILIES.values())) if law.startswith("gradient")),
    "depth.stacks-take-any-batch",
    "execution.every-matrix-of-a-flood-is-projected",
    "execution.every-token-of-a-flood-has-its-mappings",
    "execution.every-token-of-a-flood-is-read-and-mixed",
    "gradient.collapse-pulls-back-to-every-stream",
    "gradient.every-matrix-pulls-back",
    "gradient.expand-sums-its-cotangents",
    "gradient.projection-pulls-back-however-it-is-called",
)


@pytest.mark.slow
@pytest.mark.parametrize("law", CIRCUMSTANCES)
def test_no_circumstance_accuses_a_backward_pass_that_is_written_by_hand_or_recomputes(
    law: str, tmp_path: Path
) -> None:
    for implementation in (HandWritten(DEEPSEEK_V4), controls.build("recomputed", DEEPSEEK_V4)):
        found = searched(law, implementation, tmp_path, examples=6)
        assert found.status == "passed", found.reason


def test_the_catalogue_covers_every_kind() -> None:
    kinds = {deviation.kind for deviation in (CATALOGUE | HIDDEN).values()}
    assert kinds == set(Kind.__args__)
    assert len(CATALOGUE) >= 70


def test_a_deviation_declares_the_dialect_that_it_breaks() -> None:
    deviant = build("h-res-transposed", DEEPSEEK_V4)
    assert deviant.dialect == DEEPSEEK_V4
    assert deviant.name == "deviation:h-res-transposed"
    assert set(offers(deviant)) == set(offers(Reference()))
    assert deviant.tuned(iterations=3).dialect == DEEPSEEK_V4.with_(iterations=3)


def test_an_unknown_deviation_is_refused_with_the_closest_name() -> None:
    with pytest.raises(LookupError, match="no deviation 'h-res-transpose'; did you mean h-res-transposed"):
        build("h-res-transpose", PAPER)


def test_a_deviation_that_changes_nothing_is_refused() -> None:
    with pytest.raises(LookupError, match="h-res-transposed makes no difference for RESIDUAL"):
        build("h-res-transposed", RESIDUAL)
