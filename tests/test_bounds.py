"""The bounds are sound (correct arithmetic never exceeds them) and sharp (it comes near, what is wrong does not pass).

`soundness` runs every control on a batch of tokens and gives the worst ratio of each stage. The default run takes some
hundred tokens for each dialect, dtype and stage; `pytest -m thorough tests/test_bounds.py` a million for each dtype and
stage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, LUCIDRAINS, MHC_LITE, PAPER, PRESETS, Dialect, Params
from mhc_ref.packing import logits_shape, params_shapes
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.bounds.block import applied, coefficients, combined
from properties.bounds.rms import over_rms_gradient
from properties.catalogue.controls import CATALOGUE, build
from properties.core.case import BranchSpec, Case
from properties.core.family import gate_of, guarantees_of
from properties.core.implementation import Implementation, Reference, parameter_dtype
from properties.core.pulling import pulled_back
from properties.core.reads import mapping_shapes
from properties.core.trial import FloatTruth, LawBroken, Trial, wide
from properties.laws import errors
from properties.laws.manifold_identities import odds, started_logarithms

CPU = torch.device("cpu")

DIALECTS = {
    **{name: dialect for name, dialect in PRESETS.items() if name not in ("HYPER_CONNECTIONS", "RESIDUAL", "IHC")},
    "one iteration": PAPER.with_(iterations=1),
    "two iterations, columns last": PAPER.with_(iterations=2, last_axis="column"),
    "three iterations, eps 1e-2": DEEPSEEK_V4.with_(iterations=3, entry_eps=1e-2, denominator_eps=2e-2, pre_eps=0.1),
    "exp start, eps 1e-2": PAPER.with_(entry_eps=1e-2, denominator_eps=1e-3, iterations=5),
    "clamp 0.02": LUCIDRAINS.with_(denominator_eps=0.02, iterations=6),
    "clamp 0.9": PAPER.with_(denominator="clamp", denominator_eps=0.9, iterations=4),
    "softmax over the last axis": DEEPSEEK_V4.with_(start_axis="column", iterations=3),
    "attention that reads what it scores": PRESETS["ATTN_RES"].with_(
        scaled=True, reads_normalised=True, norm_offset=0.5, rms_eps=0.25
    ),
    "one bottleneck for both gates": PRESETS["QWEN4_EXP"].with_(
        one_bottleneck=True, norm_offset=0.0, rms_eps=2.0**-23, collapse="sum"
    ),
    "softmax without an iteration": DEEPSEEK_V4.with_(iterations=0),
    "norm weight 1 + w": PAPER.with_(norm_over="stream", norm_offset=1.0, rms_eps=1e-6),
    "a norm of at least 2": PAPER.with_(norm_over="stream", rms_eps=2.0, rms_eps_by="clamp", iterations=3),
    "a norm without an eps, stream by stream": LUCIDRAINS.with_(rms_eps=0.0, rms_eps_by="add"),
    "LayerNorm of all streams": PAPER.with_(rms_eps=1e-5, centred=True, iterations=3),
    "LayerNorm of each stream, 1 + w": PAPER.with_(norm_over="stream", rms_eps=1e-3, centred=True, norm_offset=1.0),
    "centred, at least 2": LUCIDRAINS.with_(rms_eps=2.0, rms_eps_by="clamp", centred=True, iterations=3),
    "no dynamic part": PAPER.with_(dynamic="static", iterations=3, post_eps=0.1),
    "a low temperature, and an eps of h_post": DEEPSEEK_V4.with_(temperature=0.05, iterations=3, post_eps=0.1),
    "a high temperature, clamp 0.9": PAPER.with_(
        temperature=7.3, denominator="clamp", denominator_eps=0.9, iterations=4
    ),
}
"""Presets and dialects that nobody publishes: few iterations, large and unequal eps, other axes."""


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def generated(seed: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def logit_batch(dialect: Dialect, n: int, tokens: int, seed: int) -> Tensor:
    """[tokens, n, n] of every regime in equal parts; of many scales where they are no matrix."""
    g = generated(seed)
    shape = logits_shape(n, dialect)
    if shape != (n, n):
        scale = torch.tensor([0.25, 1, 4, 16, 60], dtype=torch.float64)
        return normal(g, tokens, *shape) * scale[torch.randint(5, (tokens, *[1] * len(shape)), generator=g)]
    z = normal(g, tokens, n, n)
    kind = torch.arange(tokens) % 10
    depth = torch.randint(1, 9, (tokens, 1, 1), generator=g).double()
    line = torch.randint(n, (tokens,), generator=g)
    hit = torch.nn.functional.one_hot(line, n).double()
    order = torch.rand(tokens, n, generator=g).argsort(-1)
    permutation = torch.eye(n, dtype=torch.float64)[order]
    upper = torch.triu(torch.ones(n, n, dtype=torch.float64), 1)
    corner = torch.ones(n, n, dtype=torch.float64)
    corner[0], corner[:, 0] = 0, 0
    offset = torch.tensor([50, 95, 120, 300, -95, -120, 750, -800], dtype=torch.float64)
    made = [
        z * depth,
        z * 0.3 * depth,
        (z * 8).round() / 8,
        permutation * 3.5 * depth + z * 0.5,
        z - 6 * depth * hit.unsqueeze(-1),
        z - 6 * depth * hit.unsqueeze(-2),
        z * 0.5 - upper * 4 * depth,
        z * 0.5 - corner * 4 * depth,
        z * 2 + offset[depth.long() - 1],
        z * 12 * depth,
    ]
    if dialect.start == "exp" and dialect.iterations == 0:  # unshifted: no overflow by design
        kind = kind % 4
    return torch.stack(made)[kind, torch.arange(tokens)] * guarantees_of(dialect).temperature


def parameter_batch(dialect: Dialect, n: int, channels: int, seed: int) -> Params:
    """One block's parameters, dense, with gates and biases of order one."""
    g = generated(seed)
    phi, bias, alpha, _ = params_shapes(n, channels, dialect)
    scale = (0.3, 1.0, 3.0)[seed % 3]
    return Params(
        normal(g, *phi) * scale / math.sqrt(phi[0]),
        normal(g, *bias) * (1.0, 3.0, 8.0)[seed // 3 % 3],
        torch.tensor([0.7, -1.3, 1.6], dtype=torch.float64)[: alpha[0]],
        None if seed % 2 else 1 + 0.5 * normal(g, n * channels),
    )


def state_batch(n: int, channels: int, tokens: int, seed: int) -> Tensor:
    """[tokens, n, C]: distinct, uneven, cancelling and identical streams of sizes from 1e-12 to 1e12."""
    g = generated(seed)
    x = normal(g, tokens, n, channels)
    kind = torch.arange(tokens) % 4
    sign = (-1.0) ** torch.arange(n).view(n, 1)
    made = [
        x,
        x * 10.0 ** -torch.arange(n).view(n, 1),
        sign * (1 + 0.01 * x),
        x[:, :1].expand_as(x),
    ]
    sizes = torch.tensor([1, 1e-3, 1e3, 1e-6, 30, 1e6, 1e-4, 1e-9, 1e-12, 1e12], dtype=torch.float64)
    scale = sizes[torch.randint(len(sizes), (tokens, 1, 1), generator=g)]
    return torch.stack(made)[kind, torch.arange(tokens)] * scale


def rounded(params: Params, dtype: torch.dtype) -> Params:
    """In the dtype that parameters have for a state of `dtype`."""
    return Params(*(None if part is None else part.to(parameter_dtype(dtype)) for part in params))  # pyright: ignore[reportArgumentType]


def ratio(got: Tensor, exact: Tensor, bound: Tensor) -> Tensor:
    """error / bound, 0 where nothing is claimed."""
    error = (wide(got) - exact).abs()
    found = torch.where(error == 0, 0.0, error / bound).nan_to_num(nan=math.inf, posinf=math.inf)
    return torch.where(torch.isfinite(bound), found, 0.0)


class Finding(NamedTuple):
    """The ratios of one stage of one control, token by token."""

    stage: str
    control: str
    ratios: Tensor
    """[tokens, ...]"""
    inputs: Tensor
    """What the stage was given, token by token."""

    @property
    def worst(self) -> float:
        """The largest ratio."""
        return self.ratios.max().item() if self.ratios.numel() else 0.0

    def token(self) -> Tensor:
        """The input of the worst token."""
        return self.inputs[int(self.ratios.flatten(1).amax(1).argmax())]


def controls_for(dialect: Dialect, products: str = "compute") -> dict[str, Implementation]:
    """The reference and every control that computes this dialect with such matrix products."""
    found = {name: build(name, dialect) for name, control in CATALOGUE.items() if control.applies(dialect)}
    found["reference"] = Reference(dialect)
    # What stages and mixing in a short dtype may do is judged in tests/test_short_stages.py and test_ends_of_dtypes.py.
    short = [name for name, one in found.items() if one.short_stages or one.mixing == "state"]
    return {name: one for name, one in found.items() if one.products == products and name not in short}


def trial_of(control: Implementation, dtype: torch.dtype) -> Trial:
    """A bench for a control."""
    return Trial(control, dtype, CPU, FloatTruth(control.dialect))


def projection_findings(dialect: Dialect, dtype: torch.dtype, n: int, tokens: int, seed: int) -> Iterator[Finding]:
    """project of a generated batch."""
    return judged_projections(logit_batch(dialect, n, tokens, seed).to(dtype), dialect, dtype)


def judged_projections(logits: Tensor, dialect: Dialect, dtype: torch.dtype) -> Iterator[Finding]:
    """project: entries, sums of the last axis, odds ratios."""
    n = logits.shape[-1]
    rounding = Rounding.of(dtype)
    bound = bounds.projection(Approx.exact(logits), dialect, rounding)
    exact = mhc_ref.project(wide(logits), dialect)
    axis = {"row": -1, "column": -2}[dialect.last_axis]
    sinkhorn = dialect.residual == "sinkhorn"
    for name, control in controls_for(dialect).items():
        got = wide(control.project(logits))
        yield Finding("projection", name, ratio(got, exact, bound.error), logits)
        if sinkhorn and dialect.iterations:
            yield Finding("line", name, ratio(got.sum(axis), exact.sum(axis), bound.line), logits)
        if sinkhorn and n > 1:
            trial = trial_of(control, dtype)
            started = started_logarithms(trial, logits)
            relative = torch.where(bound.entry < 0.5, -(-bound.entry.clamp(max=0.5)).log1p(), math.inf)
            relative = torch.where(bound.value * 2.0**-10 < rounding.tiny, math.inf, relative)
            logarithm = got.clamp_min(5e-324).log()
            each = relative + 4 * 2.0**-52 * (logarithm.abs() + started.abs())
            slack = each + each.roll(-1, -1) + each.roll(-1, -2) + each.roll((-1, -1), (-1, -2))
            yield Finding("odds", name, ratio(odds(logarithm), odds(started), slack), logits)


def gradient_findings(dialect: Dialect, dtype: torch.dtype, n: int, tokens: int, seed: int) -> Iterator[Finding]:
    """The vector-Jacobian product of project, of a generated batch."""
    cotangent = normal(generated(seed + 1), tokens, n, n).to(dtype)
    return judged_gradients(logit_batch(dialect, n, tokens, seed).to(dtype), cotangent, dialect, dtype)


def judged_gradients(logits: Tensor, cotangent: Tensor, dialect: Dialect, dtype: torch.dtype) -> Iterator[Finding]:
    """The vector-Jacobian product of project."""
    bound = bounds.projection_gradient(Approx.exact(logits), Approx.exact(cotangent), dialect, Rounding.of(dtype))
    exact = FloatTruth(dialect).project_vjp(logits, cotangent)
    for name, control in controls_for(dialect).items():
        leaf = logits.clone().requires_grad_()
        (got,) = pulled_back([control.project(leaf)], [leaf], [cotangent])
        yield Finding("projection gradient", name, ratio(got, exact, bound.error), logits)


def mapping_findings(
    dialect: Dialect, dtype: torch.dtype, n: int, channels: int, tokens: int, seed: int, products: str = "compute"
) -> Iterator[Finding]:
    """mappings, and what pre and post make of them."""
    x = state_batch(n, channels, tokens, seed).to(dtype)
    params = rounded(parameter_batch(dialect, n, channels, seed), dtype)
    rounding = Rounding.of(dtype, products)
    bound = coefficients(Approx.exact(x), params, dialect, rounding)
    exact = FloatTruth(dialect).mappings(x, params)
    y = normal(generated(seed + 2), tokens, channels).to(dtype)
    for name, control in controls_for(dialect, products).items():
        got = control.mappings(x, params)
        for part, one in bound.parts().items():
            yield Finding(f"h_{part}", name, ratio(getattr(got, part), getattr(exact, part), one.error), x)
        given = Approx.exact(got.pre)
        expected = bounds.stored(bounds.weighted_sum(given, Approx.exact(x), rounding), rounding)
        yield Finding("pre", name, ratio(control.pre(x, got.pre), expected.value, expected.error), x)
        operator = Approx.exact(applied(got.res, dialect))
        mixed = trial_of(control, dtype).rounding
        expected = combined(x, operator, mixed, y, Approx.exact(got.post))
        yield Finding("post", name, ratio(control.post(x, y, got.post, got.res), expected.value, expected.error), x)


def block_gradient_findings(
    dialect: Dialect, dtype: torch.dtype, n: int, channels: int, tokens: int, seed: int, products: str = "compute"
) -> Iterator[Finding]:
    """The vector-Jacobian product of a block by its state and its parameters."""
    case = block_case(dialect, dtype, n, channels, tokens, seed)
    parts = [part for part in case.params if part is not None]
    controls = controls_for(dialect, products)
    bound = errors.block_gradient(
        trial_of(next(iter(controls.values())), dtype), case.x, case.params, case.branch, case.cotangent
    )
    for name, control in controls.items():
        leaves = [part.clone().requires_grad_() for part in (case.x, *parts)]
        out = control.block(leaves[0], Params(*leaves[1:]), case.branch)
        got = pulled_back([out], leaves, [case.cotangent])
        for field, one in zip(("x", "phi", "bias", "alpha", "norm_weight"), got, strict=False):
            expected: Approx = getattr(bound, field)
            found = ratio(one.reshape(expected.value.shape), expected.value, expected.error)
            summed = field != "x"  # over tokens: no single one is to blame
            yield Finding(f"block gradient by {field}", name, found.reshape(1, -1) if summed else found, case.x)


def block_case(dialect: Dialect, dtype: torch.dtype, n: int, channels: int, tokens: int, seed: int) -> Case:
    """A block with a linear branch and a cotangent, on states of ordinary size and logits within the range of exp."""
    g = generated(seed)
    x = normal(g, tokens, n, channels) * 10.0 ** torch.randint(-3, 3, (tokens, 1, 1), generator=g)
    params = parameter_batch(dialect, n, channels, seed % 6)
    return Case(
        x=x.to(dtype),
        params=rounded(params, dtype),
        branch=BranchSpec("scale", normal(g, channels).to(dtype)),
        cotangent=normal(g, tokens, n, channels).to(dtype),
    )


def findings(
    stages: str,
    dialect: Dialect,
    dtype: torch.dtype,
    streams: tuple[int, ...],
    tokens: int,
    seed: int = 0,
    products: str = "compute",
) -> Iterator[Finding]:
    """One family of stages on about `tokens` tokens, shared out between numbers of streams."""
    for n in streams:
        share = tokens // len(streams)
        if stages == "projection":
            yield from projection_findings(dialect, dtype, n, share, seed + n)
        elif stages == "projection gradient":
            yield from gradient_findings(dialect, dtype, n, share, seed + n)
        else:
            each = mapping_findings if stages == "mappings" else block_gradient_findings
            channels = (1, 2, 9, 17)[(n + seed) % 4]
            yield from each(dialect, dtype, n, channels, share, seed + n, products)


TOKENS = {"projection": 400, "projection gradient": 200, "mappings": 200, "block gradient": 20}
"""Families of stages, with the tokens that they get in a default run, for each dialect and dtype."""

STREAMS = {torch.float32: (1, 3, 4), torch.float64: (2, 5), torch.bfloat16: (4,)}
"""The n of a default run."""


def soundness(
    stages: str,
    title: str,
    dtype: torch.dtype,
    streams: tuple[int, ...],
    tokens: int,
    seed: int = 0,
    products: str = "compute",
) -> dict[str, float]:
    """Run every control on `tokens` tokens; the worst ratio of each stage.

    Raises:
        AssertionError: a ratio is above 1; the message has the control, the stage and the input of the worst token.
    """
    worst: dict[str, float] = {}
    for k, size in enumerate(min(5000, tokens - start) for start in range(0, tokens, 5000)):
        for finding in findings(stages, DIALECTS[title], dtype, streams, size, seed + 100 * k, products):
            assert finding.worst <= 1, (
                f"{finding.stage} of control {finding.control} in {title}, {dtype}: "
                f"error / bound = {finding.worst:.3g} for {finding.token().tolist()}"
            )
            worst[finding.stage] = max(worst.get(finding.stage, 0.0), finding.worst)
    return worst


DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
RUNS = [
    (stages, title, dtype)
    for stages, title, dtype in itertools.product(TOKENS, DIALECTS, DTYPES)
    if dtype != "bfloat16" or not stages.startswith("projection")  # logits are float32 for bfloat16 states
    if stages != "projection gradient" or not guarantees_of(DIALECTS[title]).constant  # nothing depends on them
]


@pytest.mark.parametrize(
    ("stages", "title", "dtype"),
    [
        pytest.param(
            *run,
            marks=[pytest.mark.slow] * (run[1] != "PAPER" or run[::2] == ("block gradient", "bfloat16")),
        )
        for run in RUNS
    ],
)
def test_no_correct_arithmetic_exceeds_its_bound(stages: str, title: str, dtype: str) -> None:
    tokens = TOKENS[stages] if title == "PAPER" else TOKENS[stages] // 2
    soundness(stages, title, DTYPES[dtype], STREAMS[DTYPES[dtype]], tokens)


@pytest.mark.parametrize(
    ("stages", "title"), [("mappings", "LUCIDRAINS"), ("mappings", "MHC_LITE"), ("block gradient", "DEEPSEEK_V4")]
)
@pytest.mark.parametrize("products", ["tf32", "tf32-truncated"])
def test_declared_tensorfloat32_stays_within_its_bound_and_comes_near_it(
    products: str, stages: str, title: str
) -> None:
    """The operands of every matrix product are rounded to TF32, or cut to it, on the CPU."""
    worst = soundness(stages, title, torch.float32, (1, 4), TOKENS[stages], products=products)
    assert max(worst.values()) > SHARP


@pytest.mark.thorough
@pytest.mark.parametrize("products", ["tf32", "tf32-truncated"])
@pytest.mark.parametrize("title", DIALECTS)
@pytest.mark.parametrize("stages", ["mappings", "block gradient"])
def test_declared_tensorfloat32_stays_within_its_bound_on_many_tokens(stages: str, title: str, products: str) -> None:
    tokens = 20_000 // (100 if stages == "block gradient" else 1)
    print(stages, title, soundness(stages, title, torch.float32, (1, 2, 3, 4, 5), tokens, 17, products))


@pytest.mark.parametrize("title", ["PAPER", "DEEPSEEK_V4"])
def test_float16_states_stay_within_their_bound(title: str) -> None:
    """Sizes from 1e-12 to 1e12 leave float16 on both sides: what overflows is not claimed, what underflows is."""
    worst = soundness("mappings", title, torch.float16, (4,), 200)
    assert worst["post"] > SHARP


@pytest.mark.parametrize("title", ["PAPER", "LUCIDRAINS", "MUSE_SPARK"])
def test_gradients_are_claimed_up_to_the_largest_number_of_float16_and_not_beyond(title: str) -> None:
    """Cotangents of which some pull back to more than 65504: the first draft claimed sums that are infinite."""
    dialect, dtype = DIALECTS[title], torch.float16
    case = block_case(dialect, dtype, 4, 64, 40, 3)
    g = generated(5)
    cotangent = (normal(g, 40, 4, 64) * 10.0 ** (3 + 2 * torch.rand(40, 1, 1, generator=g))).clamp(-6e4, 6e4).to(dtype)
    checked = 0
    for control in controls_for(dialect).values():
        trial = trial_of(control, dtype)
        x, out_of = case.x.clone().requires_grad_(), case.branch
        found = pulled_back([control.block(x, case.params, out_of)], [x], [cotangent])
        expected = [errors.block_gradient(trial, case.x, case.params, case.branch, cotangent).x]
        h = control.mappings(case.x, case.params)
        y = case.x.detach()[:, 0].clone().requires_grad_()
        found += pulled_back([control.post(x, y, h.post, h.res)], [x, y], [cotangent])
        mixed = bounds.pullback.post(case.x, y.detach(), h.post, h.res, cotangent, dialect, trial.rounding)
        expected += [mixed["x"], mixed["y"]]
        for got, one in zip(found, expected, strict=True):
            value, error = one.value.reshape(got.shape), one.error.reshape(got.shape)
            assert torch.isinf(error[~torch.isfinite(got)]).all()
            assert ratio(got, value, error).max() <= 1
            assert (torch.isfinite(error) & (value.abs() > 30000)).any()  # up to half of it, and more
            checked += int((~torch.isfinite(got)).sum())
    assert checked > 100


def test_nothing_is_claimed_beyond_the_largest_number_of_the_state() -> None:
    value = Approx.exact(torch.tensor([65504.0, 65519.0, 65521.0, 1e6, -1e6], dtype=torch.float64))
    stored = bounds.stored(value, Rounding.of(torch.float16))
    assert torch.isfinite(bounds.stored(value, Rounding.of(torch.bfloat16)).error).all()
    overflows = ~torch.isfinite(value.value.to(torch.float16))
    assert torch.isinf(stored.error[overflows]).all()
    below = bounds.stored(Approx.exact(torch.tensor([60000.0])), Rounding.of(torch.float16))
    assert below.error.item() == pytest.approx(60000 * 2**-11, rel=1e-3)


def test_a_small_float16_number_loses_a_subnormal_unit_at_most() -> None:
    small = torch.logspace(-9, -4, 501, dtype=torch.float64)
    stored = bounds.stored(Approx.exact(small), Rounding.of(torch.float16))
    error = (small.to(torch.float16).double() - small).abs()
    assert (error <= stored.error).all()
    assert (error / stored.error).max() > 0.4


@pytest.mark.thorough
@pytest.mark.parametrize(("stages", "title", "dtype"), RUNS)
def test_no_correct_arithmetic_exceeds_its_bound_on_many_tokens(stages: str, title: str, dtype: str) -> None:
    """Over all dialects 10^6 tokens a dtype and stage (block gradients a hundredth), by every control."""
    tokens = 1_000_000 // len(DIALECTS) // (100 if stages == "block gradient" else 1)
    print(stages, title, dtype, soundness(stages, title, DTYPES[dtype], (1, 2, 3, 4, 5), tokens, seed=17))


# float32, dialect PAPER: nothing underflows in a matrix, but something else leaves the range of exp.
EDGES = {
    # Row 2 needs the scaling e^76, column 2 doubles it twenty times: scaling vectors overflow.
    "a scaling beyond the largest number": [[0.0, 0, 0], [-200, -200, 0], [-200, -200, -76]],
    # 1 / s = e^45 is a number, the 1 / s^2 in its derivative is not.
    "a line whose square underflows": [[0.0, 0], [-46, -46]],
    "a line starved by e^-64": [[0.0, 0], [-64, -64]],
}


@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("edge", EDGES)
def test_bounds_know_where_the_linear_domain_ends(edge: str, iterations: int) -> None:
    """Division, reciprocals and scaling vectors are all admitted, so nothing is claimed where one of them overflows."""
    dialect = PAPER.with_(iterations=iterations)
    logits = torch.tensor([EDGES[edge]])
    cotangent = torch.zeros_like(logits)
    cotangent[0, 0, 0] = 1
    for finding in itertools.chain(
        judged_projections(logits, dialect, torch.float32), judged_gradients(logits, cotangent, dialect, torch.float32)
    ):
        assert finding.worst <= 1, f"{finding.stage} of {finding.control}: {finding.worst}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_claimed_where_an_unshifted_exponential_overflows(dtype: torch.dtype) -> None:
    """Without an iteration exp(Z) is the matrix; a state times it may overflow where it does not."""
    unshifted, r = PAPER.with_(iterations=0), Rounding.of(dtype)
    largest = math.log(torch.finfo(dtype).max)
    claims = {0.0: True, 0.9 * largest: True, largest - 0.5: False, largest + 0.5: False, 2 * largest: False}
    ones = Approx.exact(torch.ones(1, 2, 2))
    for logit, claimed in claims.items():
        z = Approx.exact(torch.full((1, 2, 2), logit, dtype=torch.float64))
        assert bool(torch.isfinite(bounds.projection(z, unshifted, r).error).all()) is claimed, logit
        assert bool(torch.isfinite(bounds.projection_gradient(z, ones, unshifted, r).error).all()) is claimed, logit
    huge = Approx.exact(torch.tensor([0.5, 2.0], dtype=torch.float64) * torch.finfo(dtype).max)
    assert torch.isfinite(bounds.stored(huge, r).error).tolist() == [True, False]


def exactly(dialect: Dialect) -> set[str]:
    """The stages that are computed without rounding: a mixing of 1 and 0."""
    return {"projection", "line", "h_res"} if guarantees_of(dialect).identity else set()


SHARP = 0.02
"""What the worst ratio of correct controls must reach, so that a bound is not merely large."""


@pytest.mark.parametrize("title", DIALECTS)
@pytest.mark.parametrize("stages", ["projection", "mappings"])
def test_correct_arithmetic_comes_near_its_bound(stages: str, title: str) -> None:
    worst = soundness(stages, title, torch.float32, (4,), 200, seed=5)
    assert set(worst) >= ({"projection"} if stages == "projection" else {"h_pre", "h_post", "h_res", "pre", "post"})
    dull = {stage: found for stage, found in worst.items() if found < SHARP}
    numbers = {"h_post"} if gate_of(DIALECTS[title].post).constant else set[str]()  # whose scaling may round
    assert set(dull) == (exactly(DIALECTS[title]) | numbers) & set(worst)


def claimed(title: str, dtype: torch.dtype, n: int) -> Tensor:
    """Which tokens of a generated batch the projection's bound says anything about."""
    logits = logit_batch(DIALECTS[title], n, 500, 3).to(dtype)
    return torch.isfinite(bounds.projection(Approx.exact(logits), DIALECTS[title], Rounding.of(dtype)).error).flatten(1)


@pytest.mark.parametrize("title", DIALECTS)
def test_bounds_claim_something_for_most_tokens(title: str) -> None:
    assert claimed(title, torch.float32, 4).all(1).double().mean() > 0.8
    assert claimed(title, torch.float64, 4).all(1).double().mean() > 0.95


# A wrong number does not pass


def stage_bounds(dialect: Dialect, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    """stage -> (what the reference computes in `dtype`, the bound), the bound claimed everywhere."""
    rounding = Rounding.of(dtype)
    n, channels, tokens = 4, 3, 20
    logits = logit_batch(dialect, n, tokens, 8).to(dtype)[: 4 if dialect.residual == "sinkhorn" else tokens]
    params = rounded(parameter_batch(dialect, n, channels, 0), dtype)
    x = normal(generated(1), tokens, n, channels).to(dtype)
    projected = bounds.projection(Approx.exact(logits), dialect, rounding)
    mapped = coefficients(Approx.exact(x), params, dialect, rounding)
    found = mhc_ref.mappings(x, params, dialect)
    y = x[:, 0]
    got = mhc_ref.project(logits, dialect)
    mixed = combined(x, Approx.exact(applied(found.res, dialect)), rounding, y, Approx.exact(found.post))
    read = bounds.stored(bounds.weighted_sum(Approx.exact(found.pre), Approx.exact(x), rounding), rounding)
    return {
        "projection": (got, projected.error),
        "line": (wide(got).sum({"row": -1, "column": -2}[dialect.last_axis]), projected.line),
        **{f"h_{part}": (getattr(found, part), one.error) for part, one in mapped.parts().items()},
        "pre": (mhc_ref.pre(x, found.pre), read.error),
        "post": (mhc_ref.post(x, y, found.post, found.res, dialect), mixed.error),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("title", DIALECTS)
def test_an_error_of_four_bounds_is_caught(title: str, dtype: str) -> None:
    trial = trial_of(Reference(DIALECTS[title]), DTYPES[dtype])
    for stage, (got, bound) in stage_bounds(DIALECTS[title], DTYPES[dtype]).items():
        exact = wide(got)
        trial.within(stage, exact, exact, bound)
        if stage in exactly(DIALECTS[title]):
            assert not bound.any()
            continue
        first = tuple(bound.expand(got.shape).nonzero()[0].tolist())  # a gate may be 0 exactly
        for sign in (4.0, -4.0):
            perturbed = exact.clone()
            perturbed[first] += sign * bound[first]
            with pytest.raises(LawBroken, match=stage) as caught:
                trial.within(stage, perturbed, exact, bound)
            assert caught.value.ratio == pytest.approx(4, rel=0.05), stage
            assert caught.value.where == str(list(first))


# One bound for target and reference together


def split_rounding(first: float, second: float) -> tuple[Rounding, Rounding, Rounding]:
    """Two arithmetics and the one whose unit is the sum of theirs; underflow belongs to the first."""
    tiny = torch.finfo(torch.float32).tiny
    return tuple(Rounding(u, t, 0.0, 0.0) for u, t in ((first, tiny), (second, 0.0), (first + second, tiny)))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("units", [(2.0**-24, 2.0**-53), (2.0**-25, 2.0**-25)])
@pytest.mark.parametrize("title", DIALECTS)
def test_bounds_are_superadditive_in_the_unit(title: str, units: tuple[float, float]) -> None:
    """bound(u + v) >= bound(u) + bound(v): judging by a rounded reference needs no second bound."""
    dialect = DIALECTS[title]
    first, second, both = split_rounding(*units)
    logits = Approx.exact(logit_batch(dialect, 3, 60, 2))
    x, params = Approx.exact(normal(generated(3), 8, 3, 2)), parameter_batch(dialect, 3, 2, 0)

    def evaluated(r: Rounding) -> dict[str, Tensor]:
        projected = bounds.projection(logits, dialect, r)
        mapped = coefficients(x, params, dialect, r).parts()
        parts = {"projection": projected.error, "line": projected.line, "entry": projected.entry}
        return parts | {name: one.error for name, one in mapped.items()}

    one, other, joined = evaluated(first), evaluated(second), evaluated(both)
    for stage, together in joined.items():
        apart = one[stage] + other[stage]
        caps = torch.maximum(one[stage], other[stage]) >= 0.5  # an error of 1 is all there can be
        assert (caps | (together >= apart * (1 - 1e-9)) | torch.isinf(together)).all(), stage


# The chain rule, written by hand for the errors, has the right values


def same(found: Tensor, exact: Tensor) -> None:
    """Equal to 1e-11 of the largest entry."""
    assert (found.reshape(exact.shape) - exact).abs().max() <= 1e-11 * exact.abs().max().clamp_min(1e-300)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("title", {**PRESETS, **DIALECTS})
def test_gradient_values_of_coefficients_are_those_of_autograd(title: str, n: int) -> None:
    dialect = {**PRESETS, **DIALECTS}[title]
    g = generated(11)
    x, params = normal(g, 5, n, 3), parameter_batch(dialect, n, 3, 0)
    bars = [normal(g, *shape) for shape in mapping_shapes((5, n, 3), dialect)]
    pre, post, res = (Approx.exact(bar) for bar in bars)
    bound = bounds.coefficients_gradient(Approx.exact(x), params, pre, post, res, dialect, Rounding.of(torch.float64))
    leaves = [part.clone().requires_grad_() for part in (x, *params) if part is not None]
    out = mhc_ref.mappings(leaves[0], Params(*leaves[1:]), dialect)
    pairs = [(part, bar) for part, bar in zip(out, bars, strict=True) if part.requires_grad]
    outputs, cotangents = zip(*pairs, strict=True)
    exact = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, materialize_grads=True)
    for found, expected in zip(bound, exact, strict=True):
        same(found.value, expected)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("title", {**PRESETS, **DIALECTS})
def test_gradient_values_of_a_block_are_those_of_autograd(title: str, n: int) -> None:
    dialect = {**PRESETS, **DIALECTS}[title]
    case = block_case(dialect, torch.float64, n, 3, 6, 0)
    bound = errors.block_gradient(
        trial_of(Reference(dialect), torch.float64), case.x, case.params, case.branch, case.cotangent
    )
    leaves = [part.clone().requires_grad_() for part in (case.x, *case.params)]
    out = mhc_ref.block(leaves[0], Params(*leaves[1:]), case.branch, dialect)
    exact = torch.autograd.grad(out, leaves, case.cotangent, allow_unused=True, materialize_grads=True)
    for found, expected in zip(bound, exact, strict=True):
        same(found.value, expected)


def test_only_equal_logits_are_excused_from_the_derivative_of_their_maximum() -> None:
    """An eps in a denominator makes visible which of them is charged with the shift."""
    dialect, r = PAPER.with_(denominator_eps=0.25, iterations=2), Rounding.of(torch.float64)
    tied = torch.tensor([[[0.0, 1, 0], [0, 1, -1], [-2, 0, 0]]], dtype=torch.float64)
    apart = tied + torch.arange(9.0, dtype=torch.float64).reshape(3, 3) / 8
    cotangent = Approx.exact(torch.eye(3, dtype=torch.float64).unsqueeze(0))
    assert bounds.projection_gradient(Approx.exact(apart), cotangent, dialect, r).error.max() < 1e-12
    assert bounds.projection_gradient(Approx.exact(tied), cotangent, dialect, r).error.max() > 1e-5


def test_an_error_of_the_norm_passes_to_its_gradient() -> None:
    """Where the cotangent is orthogonal to the state the gradient is g / rho, and has the relative error of rho."""
    x = Approx.exact(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]], dtype=torch.float64))
    g = torch.tensor([[[0.0, 1.0], [0.0, -2.0]]], dtype=torch.float64)
    off = torch.full((1, 1, 1), 1e-3, dtype=torch.float64)
    r = Rounding.of(torch.float64)
    bound = over_rms_gradient(x, Approx.exact(g), torch.zeros_like(g), off, (-2, -1), PAPER, r)
    rho = 2.5  # the root of 25 / 4
    assert torch.equal(bound.value[..., 1], g[..., 1] / rho)
    assert (bound.error[..., 1] >= 1e-3 * g[..., 1].abs() / rho).all()
    assert (bound.error[..., 1] <= 2e-3 * g[..., 1].abs() / rho).all()


@pytest.mark.parametrize(
    "dialect", [DIALECTS["a norm without an eps, stream by stream"], MHC_LITE], ids=["stream", "MHC_LITE"]
)
def test_nothing_is_claimed_of_a_zero_state_without_an_eps(dialect: Dialect) -> None:
    params = Params(
        torch.ones((2, 4) if dialect.shared_projection else (4, 6)),
        torch.ones(4 + (4 if dialect.shared_projection else 2)),
        torch.tensor([1.0, 0.0, 1.0]),
    )
    found = coefficients(Approx.exact(torch.zeros(1, 2, 2)), params, dialect, Rounding.of(torch.float32))
    for part in found.parts().values():
        assert torch.isinf(part.error).all()


def test_a_norm_without_eps_may_guard_its_division_as_torch_does() -> None:
    """`F.normalize` divides by max(|x|, 1e-12), which a dialect without an eps does not rule out."""
    dialect = DIALECTS["a norm without an eps, stream by stream"]
    direction = torch.tensor([[3.0, 4.0], [0.6, -0.8]], dtype=torch.float64)
    for size, claimed in ((1e-14, False), (1e-13, False), (1e-11, True), (1.0, True)):
        x = direction * size
        found = torch.nn.functional.normalize(x, dim=-1) * math.sqrt(2)
        state, shared = bounds.normalised(Approx.exact(x), None, dialect, Rounding.of(torch.float64))
        bound = shared * state.value.abs() + state.error
        assert bool(torch.isfinite(bound).all()) == claimed
        assert bool(((found - state.value).abs() <= bound).all())
