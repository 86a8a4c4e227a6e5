"""The torch reference agrees with mpmath, with golden vectors and with closed forms, and refuses bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import mhc_ref
from mhc_ref import (
    CAYLEY,
    DEEPSEEK_V4,
    HYPER_CONNECTIONS,
    KROMHC,
    LIGER,
    LUCIDRAINS,
    MHC_LITE,
    PAPER,
    PRESETS,
    Dialect,
    Params,
)
from mhc_ref.exact import Exact
from mhc_ref.families.permutations import permutation_matrices
from mhc_ref.gain import gains, prefixes, suffixes
from mhc_ref.packing import logits_shape, params_shapes, residual_size, streams_of_params
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.bounds.block import combined, read, returned
from properties.core.case import BranchSpec, Case
from properties.core.exact_truth import ExactTruth
from properties.core.implementation import Reference
from properties.core.trial import Trial
from properties.laws import errors
from properties.strategies import Setting, block_cases, coefficient_cases, projection_cases

QUIET: list[HealthCheck] = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
"""Examples are batches on purpose."""

F64 = torch.float64
HARD = {
    **PRESETS,
    "paper, 3 iterations, eps 1e-2": PAPER.with_(iterations=3, entry_eps=1e-2, denominator_eps=1e-3),
    "softmax over the last axis": DEEPSEEK_V4.with_(start_axis="column", iterations=2, pre="softmax", collapse="mean"),
    "clamp 0.5": LUCIDRAINS.with_(
        denominator_eps=0.5, iterations=4, rms_eps=1e-3, rms_eps_by="add", rms_eps_inside=False
    ),
    "exp alone": PAPER.with_(iterations=0),
    "norm weight 1 + w": PAPER.with_(norm_over="stream", norm_offset=1.0, rms_eps=1e-6),
    "a norm of at least 1e-3": PAPER.with_(norm_over="stream", rms_eps=1e-3, rms_eps_by="clamp", iterations=3),
    "LayerNorm of all streams": PAPER.with_(rms_eps=1e-5, centred=True, iterations=3),
    "LayerNorm of each stream": LUCIDRAINS.with_(
        rms_eps=1e-3, rms_eps_inside=False, rms_eps_by="add", centred=True, iterations=3
    ),
    "no dynamic part": PAPER.with_(dynamic="static", iterations=3, collapse="head"),
    "a head of shared projections": LUCIDRAINS.with_(collapse="head", iterations=3),
    "a high temperature": DEEPSEEK_V4.with_(temperature=7.0, iterations=4),
}
"""Every preset, and dialects with eps large enough to matter."""

few = settings(max_examples=8, derandomize=True, deadline=None, database=None, suppress_health_check=QUIET)


def setting(dialect: Dialect) -> Setting:
    """What the strategies may draw for float64."""
    return Setting(dialect, (1, 2, 3, 4), F64)


def trial(dialect: Dialect) -> Trial:
    """The reference on the bench, in float64, before mpmath."""
    return Trial(Reference(dialect), F64, torch.device("cpu"), ExactTruth(dialect))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dense_params(dialect: Dialect, n: int, channels: int, seed: int = 0) -> Params:
    """Parameters of order one, every field used."""
    phi, bias, alpha, _ = params_shapes(n, channels, dialect)
    return Params(
        normal(*phi, seed=seed) / math.sqrt(phi[0]),
        normal(*bias, seed=seed + 1),
        torch.tensor([0.7, 1.3, -1.6], dtype=F64)[: alpha[0]],
        1 + 0.5 * normal(n * channels, seed=seed + 2),
    )


# torch float64 against mpmath


@pytest.mark.parametrize("name", HARD)
def test_projection_agrees_with_mpmath_on_hard_logits(name: str) -> None:
    dialect = HARD[name]

    @few
    @given(projection_cases(setting(dialect), most=3))
    def agrees(case: Case) -> None:
        got = mhc_ref.project(case.logits, dialect)
        # The reference is in the log domain: it owes the bound of an arithmetic that does not underflow.
        r = Rounding.of(F64)
        bound = bounds.projection(Approx.exact(case.logits), dialect, Rounding(r.unit, 0.0, 0.0, 0.0))
        bench = trial(dialect)
        bench.within("h_res", got, bench.truth.project(case.logits), bound.error + r.tiny)
        claims.append(bench.claims)

    claims: list[int] = []
    agrees()
    assert any(claims)


@pytest.mark.parametrize("name", HARD)
def test_mappings_agree_with_mpmath(name: str) -> None:
    dialect = HARD[name]

    @few
    @given(coefficient_cases(setting(dialect), most=2))
    def agrees(case: Case) -> None:
        bench = trial(dialect)
        got, exact = mhc_ref.mappings(case.x, case.params, dialect), bench.truth.mappings(case.x, case.params)
        for part, bound in errors.mappings(bench, case.x, case.params).parts().items():
            before = bench.claims
            bench.within(f"h_{part}", getattr(got, part), getattr(exact, part), bound.error)
            claimed.update({part} if bench.claims > before else ())

    claimed: set[str] = set()
    agrees()
    assert claimed == {"pre", "post", "res"}


@pytest.mark.parametrize("name", HARD)
def test_a_block_agrees_with_mpmath(name: str) -> None:
    dialect = HARD[name]

    @few
    @given(block_cases(setting(dialect), most=1, kinds=("zero", "identity", "scale", "constant")))
    def agrees(case: Case) -> None:
        exact, bench = Exact(dialect), trial(dialect)

        def branch(u: list[Any]) -> list[Any]:
            given = torch.tensor([float(a) for a in u], dtype=F64)
            weight = [1.0] * len(u) if case.branch.weight is None else case.branch.weight.tolist()
            zero = not bool(case.branch(given + 1).any())
            constant = case.branch.kind == "constant"
            return [0 * a if zero else w + 0 * a if constant else w * a for a, w in zip(u, weight, strict=True)]

        plain = Params(*(None if part is None else part.tolist() for part in case.params))  # pyright: ignore[reportArgumentType]
        wanted = torch.tensor(
            [[float(a) for a in row] for row in exact.block(case.x[0].tolist(), plain, branch)], dtype=F64
        )
        got = mhc_ref.block(case.x, case.params, case.branch, dialect)
        h = errors.mappings(bench, case.x, case.params)
        u = read(case.x, h.pre, bench.rounding)
        y = case.branch(u.value)
        passed = returned(u, case.branch, bench.rounding).error
        bound = combined(case.x, h.operator(dialect), bench.rounding, y, h.post)
        through = (h.post.value.abs() + h.post.error).unsqueeze(-1) * passed.unsqueeze(-2)
        bench.within("the block", got[0], wanted, (bound.error + through)[0])
        claims.append(bench.claims)

    claims: list[int] = []
    agrees()
    assert any(claims)


@pytest.mark.parametrize("name", HARD)
def test_a_stack_agrees_with_mpmath(name: str) -> None:
    dialect = HARD[name].with_(iterations=min(5, HARD[name].iterations))
    n, channels, depth = 3, 2, 3
    count = depth + (dialect.collapse == "head")
    params = [dense_params(dialect, n, channels, 10 * k) for k in range(count)]
    weights = [normal(channels, seed=90 + k) for k in range(depth)]
    h = normal(channels, seed=80)
    got = mhc_ref.stack(h, params, [BranchSpec("scale", w) for w in weights], dialect)
    plain = [Params(*(part.tolist() for part in one if part is not None)) for one in params]  # pyright: ignore[reportArgumentType]
    branches = [lambda u, w=w: [a * b for a, b in zip(u, w.tolist(), strict=True)] for w in weights]
    exact = torch.tensor([float(a) for a in Exact(dialect).stack(h.tolist(), plain, branches)], dtype=F64)
    # Three well conditioned blocks of a few numbers: every stage adds tens of roundings of numbers below 1e3.
    assert (got - exact).abs().max() <= 1e4 * 2.0**-53 * exact.abs().max().clamp_min(1)


# Numbers computed elsewhere

FIXTURE = torch.tensor([[1, 0, -1, 2], [0, 3, 1, -2], [2, -1, 0, 1], [-3, 1, 2, 0]], dtype=F64)

# mpmath, 40 digits, printed to 16: (dialect, scale of FIXTURE, h_res as emitted)
GOLDEN = {
    "paper, 1 iteration": (
        PAPER.with_(iterations=1),
        1,
        [
            [0.2500633514987355, 0.04246202495604719, 0.03290428525136366, 0.6745703382938537],
            [0.07663845705420015, 0.7105184077538332, 0.2025501700942944, 0.01029296509767221],
            [0.6580486111902945, 0.01512236327929509, 0.08658853479366664, 0.2402404907367438],
            [0.005251186215616715, 0.1323367554100076, 0.7577417324704383, 0.1046703259039374],
        ],
    ),
    "paper, 20 iterations": (
        PAPER,
        1,
        [
            [0.2578772518926382, 0.0533207756760958, 0.03119534642289429, 0.6576066260083717],
            [0.06735886426030683, 0.7604245136777248, 0.1636646857637547, 0.008551936298213669],
            [0.6693135620849419, 0.01872940955451738, 0.08096669357820616, 0.2309903347823346],
            [0.005458837316038657, 0.1675158812524994, 0.7241662897794317, 0.1028589916520302],
        ],
    ),
    "paper, logits times 4": (
        PAPER,
        4,
        [
            [0.01805669172509435, 8.011084724545841e-6, 4.726407316178643e-6, 0.9819305707828649],
            [0.0002508755663922894, 0.9890613195357595, 0.01068772107407985, 8.382376833889571e-8],
            [0.9818316925950548, 1.461283002444032e-7, 0.0002569981570150043, 0.01791116311963],
            [2.638935951969059e-9, 0.000568030465591799, 0.9990041801711738, 0.0004277867242984982],
        ],
    ),
    "DeepSeek, eps 1e-6": (
        DEEPSEEK_V4,
        1,
        [
            [0.2578780911052538, 0.05333163665246164, 0.03120140508306086, 0.6576115309746249],
            [0.06734650252438121, 0.7604145355702114, 0.1636590072137419, 0.008551733353061141],
            [0.6693153146859144, 0.0187336320222593, 0.08098098654461785, 0.2309931436321855],
            [0.005459091654208668, 0.1675191957885196, 0.7241576011833822, 0.1028425920121123],
        ],
    ),
    "DeepSeek, eps 1e-6, logits times 4": (
        DEEPSEEK_V4,
        4,
        [
            [0.01805817947390119, 0.0002515720019002829, 9.166982863817878e-6, 0.981828234986267],
            [9.317948246105386e-6, 0.9890523063954618, 0.0005696316113129764, 1.301951372059749e-6],
            [0.981930716789947, 5.33385371554693e-6, 0.0004288969451701674, 0.01791158279163571],
            [7.855122383399574e-7, 0.01068979812706157, 0.9989912942953967, 0.0002578801222835287],
        ],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name: str) -> None:
    dialect, scale, expected = GOLDEN[name]
    logits = scale * FIXTURE
    exact = torch.tensor(expected, dtype=F64)
    bound = bounds.projection(Approx.exact(logits.unsqueeze(0)), dialect, Rounding.of(F64))
    printed = 2e-16 * exact  # sixteen digits
    trial(dialect).within("h_res", mhc_ref.project(logits, dialect), exact, bound.error[0] + printed)


# Closed forms


@pytest.mark.parametrize("value", [0.0, -745.5, 1e30])
def test_one_stream_keeps_itself(value: float) -> None:
    for dialect in (PAPER, LUCIDRAINS, MHC_LITE, KROMHC, CAYLEY):
        logits = torch.full((2, 1) if dialect is MHC_LITE else (2, 1, 1), value, dtype=F64)
        assert (mhc_ref.project(logits, dialect) == 1).all()


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_constant_logits_mix_uniformly(n: int, iterations: int) -> None:
    for dialect in (PAPER, LUCIDRAINS, DEEPSEEK_V4.with_(entry_eps=0, denominator_eps=0)):
        got = mhc_ref.project(torch.full((n, n), 7.25, dtype=F64), dialect.with_(iterations=iterations))
        assert (got - 1 / n).abs().max() <= 8 * iterations * 2.0**-53


@pytest.mark.parametrize("t", [1, 2, 3, 7, 20])
def test_triangular_matrices_converge_like_one_over_t(t: int) -> None:
    """[[1, 1], [0, 1]]: column sums 2t/(2t+1) and (2t+2)/(2t+1) after t iterations, by induction."""
    logits = torch.tensor([[0.0, 0.0], [-1e4, 0.0]], dtype=F64)
    got = mhc_ref.project(logits, PAPER.with_(iterations=t)).sum(-2)
    exact = torch.tensor([2 * t / (2 * t + 1), (2 * t + 2) / (2 * t + 1)], dtype=F64)
    assert (got - exact).abs().max() <= 16 * t * 2.0**-53


@pytest.mark.parametrize("t", [1, 2, 20])
def test_rows_that_share_a_column_never_become_doubly_stochastic(t: int) -> None:
    """Rows 1 and 2 live on column 0: with a = M_00 an iteration gives 1/a' = 3 + 4/a, so that 1/a = 2 * 4^t - 1."""
    logits = torch.zeros(3, 3, dtype=F64)
    logits[1:, 1:] = -1e5
    got = mhc_ref.project(logits, PAPER.with_(iterations=t))
    corner = 1 / (2 * 4**t - 1)
    exact = torch.tensor([[corner, (1 - corner) / 2, (1 - corner) / 2], [1, 0, 0], [1, 0, 0]], dtype=F64)
    # Relative to the entry: its logarithm is rounded 2t times at size |log M| <= 28.
    assert ((got - exact).abs() <= 64 * t * 2.0**-53 * exact).all()


@pytest.mark.parametrize("t", [1, 2, 20])
def test_deepseek_stores_the_transpose_of_the_papers_matrix(t: int) -> None:
    stored = DEEPSEEK_V4.with_(entry_eps=0, denominator_eps=0, iterations=t)
    logits = normal(50, 4, 4) * 3
    got, paper = mhc_ref.project(logits.mT, stored), mhc_ref.project(logits, PAPER.with_(iterations=t))
    bound = bounds.projection(Approx.exact(logits), PAPER.with_(iterations=t), Rounding.of(F64)).error
    trial(PAPER).within("the transpose", got.mT, paper, 2 * bound)
    assert (mhc_ref.project(logits, stored) - paper).abs().max() > 1e-3


def test_a_certain_permutation_is_mixed_by_itself() -> None:
    for n in (1, 2, 3, 4, 5):
        matrices = permutation_matrices(n)
        assert torch.equal(mhc_ref.project(1e4 * torch.eye(math.factorial(n), dtype=F64), MHC_LITE), matrices)
    assert permutation_matrices(3)[1].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_unconstrained_and_identity_do_not_project() -> None:
    logits = normal(3, 4, 4)
    assert torch.equal(mhc_ref.project(logits, HYPER_CONNECTIONS), logits)
    assert torch.equal(mhc_ref.project(logits, PRESETS["RESIDUAL"]), torch.eye(4, dtype=F64).expand(3, 4, 4))


# Finite logits have finite matrices

EXTREMES = {
    "huge of both signs": [[3e38, -3e38, 0.0], [-3e38, 3e38, 3e38], [0.0, 1.0, -3e38]],
    "all huge": [[3e38] * 3] * 3,
    "all lowest": [[-3e38] * 3] * 3,
    "ties": [[5.0, 5.0, 5.0], [5.0, 5.0, 0.0], [5.0, 0.0, 5.0]],
    "a starved row": [[-3e38] * 3, [0.0, 1.0, 2.0], [2.0, 0.0, 1.0]],
    "a starved column": [[-3e38, 0.0, 1.0], [-3e38, 2.0, 0.0], [-3e38, 1.0, 1.0]],
    "no matching": [[0.0, 0.0, 0.0], [0.0, -3e38, -3e38], [0.0, -3e38, -3e38]],
    # Their difference from the rest is beyond the largest number.
    "a row at the other end": [[-3e38] * 3, [3e38] * 3, [3e38] * 3],
    "a column at the other end": [[-3e38, 3e38, 3e38]] * 3,
    "subnormal": [[1e-45, 0.0, -1e-45]] * 3,
}


UNBOUNDED = ("HYPER_CONNECTIONS", "RESIDUAL", "IHC", "CAYLEY", "exp alone")


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", [name for name in HARD if name not in UNBOUNDED])
def test_finite_logits_never_give_nan(name: str, extreme: str, dtype: torch.dtype) -> None:
    """(What is not projected stays huge, exp alone overflows by definition, and so do the squares of a quotient.)"""
    dialect = HARD[name]
    logits = torch.tensor(EXTREMES[extreme], dtype=dtype)
    if dtype == F64:
        logits = logits * 5e269  # up to 1.5e308, as 3e38 is in float32
    shape = logits_shape(3, dialect)
    logits = logits.flatten()[: math.prod(shape)].view(shape)
    got = mhc_ref.project(logits, dialect)
    assert torch.isfinite(got).all()
    assert (got >= 0).all()
    if dialect.residual != "carry" and not dialect.denominator_eps and not dialect.entry_eps:
        # Lines of the last axis sum to 1, even where all of the others took everything.
        assert (got.sum({"row": -1, "column": -2}[dialect.last_axis]) - 1).abs().max() <= 1e-5


# One stream


@pytest.mark.parametrize("name", ["PAPER", "LUCIDRAINS", "MHC_LITE", "RESIDUAL"])
def test_one_stream_is_the_plain_residual(name: str) -> None:
    """n = 1 and h_post = 1 (a logit of 0): x' = x + F(h_pre x)."""
    dialect = PRESETS[name]
    params = dense_params(dialect, 1, 4)._replace(alpha=torch.zeros(3, dtype=F64))
    bias = params.bias.clone()
    bias[0], bias[1] = 1e4, 0.0
    x = normal(5, 1, 4)
    got = mhc_ref.block(x, params._replace(bias=bias), torch.sin, dialect)
    assert (got - (x + x.sin())).abs().max() <= 4 * 2.0**-53 * 3


# Precision contract


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PRESETS)
def test_coefficients_are_wide_and_states_keep_their_dtype(name: str, dtype: torch.dtype) -> None:
    dialect = PRESETS[name]
    compute = F64 if dtype == F64 else torch.float32
    x = normal(2, 3, 3, 4).to(dtype)
    params = Params(*(part.to(compute) for part in dense_params(dialect, 3, 4) if part is not None))
    seen: list[torch.dtype] = []

    def branch(u: Tensor) -> Tensor:
        seen.append(u.dtype)
        assert u.shape == (2, 3, 4)
        return u

    found = mhc_ref.mappings(x, params, dialect)
    assert {part.dtype for part in found} == {compute}
    read = (2, 3, 3, 4) if dialect.read == "bottleneck" else (2, 3, 3)
    assert [tuple(part.shape) for part in found] == [read, (2, 3, 3), (2, 3, 3, 3)]
    assert mhc_ref.block(x, params, branch, dialect).dtype == dtype
    heads = [params] if dialect.collapse == "head" else []
    assert mhc_ref.stack(x[..., 0, :], [params, params, *heads], [branch, branch], dialect).dtype == dtype
    assert set(seen) == {dtype}


# Stacks


def test_expand_copies_and_collapse_reduces() -> None:
    h, x = normal(2, 3), normal(2, 4, 3)
    assert torch.equal(mhc_ref.expand(h, 4), torch.stack([h] * 4, -2))
    assert torch.allclose(mhc_ref.collapse(x, PAPER), x.sum(-2), rtol=1e-15)
    assert torch.allclose(mhc_ref.collapse(x, PAPER.with_(collapse="mean")), x.mean(-2), rtol=1e-15)
    head = dense_params(DEEPSEEK_V4, 4, 3)
    gate = mhc_ref.mappings(x, head, DEEPSEEK_V4).pre
    assert torch.allclose(mhc_ref.collapse(x, DEEPSEEK_V4, head), mhc_ref.pre(x, gate), rtol=1e-13)


def test_streams_persist_between_blocks() -> None:
    cycle = torch.eye(3, dtype=F64).roll(1, -1)
    dialect = PAPER.with_(residual="unconstrained")
    params = Params(
        torch.zeros(6, 15, dtype=F64), torch.cat([torch.zeros(6), cycle.flatten()]).to(F64), torch.ones(3).to(F64)
    )
    x = normal(2, 3, 2)
    got = mhc_ref.layers(x, [params] * 2, [BranchSpec("zero")] * 2, dialect)
    assert torch.equal(got, x[:, [2, 0, 1]])


@pytest.mark.parametrize("name", PRESETS)
def test_the_number_of_streams_is_read_off_the_parameters(name: str) -> None:
    for n in (1, 2, 3, 4):
        assert streams_of_params(dense_params(PRESETS[name], n, 5), PRESETS[name]) == n


# Refusals

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "residual": ({"residual": "birkhoff"}, r"Dialect.residual is 'birkhoff'; expected one of 'sinkhorn'"),
    "axis": ({"last_axis": -1}, "Dialect.last_axis is -1; expected one of 'row', 'column'"),
    "start": ({"start": "sigmoid"}, "Dialect.start is 'sigmoid'"),
    "iterations below 0": ({"iterations": -1}, "Dialect.iterations is -1; expected an integer of 0 or more"),
    "half an iteration": ({"iterations": 1.5}, "Dialect.iterations is 1.5"),
    "a Boolean for a number": ({"iterations": True}, "Dialect.iterations is True"),
    "a number for a Boolean": ({"transposed": 1}, "Dialect.transposed is 1; expected True or False"),
    "a negative eps of h_post": ({"post_eps": -1e-6}, "Dialect.post_eps is -1e-06; expected 0 or more"),
    "no temperature": ({"temperature": 0}, "Dialect.temperature is 0; expected a number from 1e-30 to 1e30, by which"),
    "a negative temperature": ({"temperature": -0.05}, "Dialect.temperature is -0.05; expected a number from 1e-30"),
    "a temperature that is NaN": ({"temperature": math.nan}, "Dialect.temperature is nan; expected a number from"),
    "a Boolean temperature": ({"temperature": True}, "Dialect.temperature is True; expected a number from"),
    "a packing by a number": (
        {"residual": "identity", "res_columns": 0},
        "Dialect.res_columns is 0; expected True or False: whether phi, bias and alpha have a part",
    ),
    "a negative eps": ({"entry_eps": -1e-6}, "Dialect.entry_eps is -1e-06; expected 0 or more"),
    "an infinite eps": ({"rms_eps": math.inf}, "Dialect.rms_eps is inf; expected a finite number"),
    "NaN": ({"pre_eps": math.nan}, "Dialect.pre_eps is nan"),
    "a text for a number": ({"denominator_eps": "1e-6"}, "Dialect.denominator_eps is '1e-6'"),
    "no post scale": ({"post_scale": 0}, r"Dialect.post_scale is 0(\.0)?; expected more than 0"),
    "shared permutations": (
        {"residual": "permutations", "shared_projection": True},
        "Dialect.shared_projection=True conflicts with residual='permutations'",
    ),
    "a clamp above every sum": (
        {"denominator": "clamp", "denominator_eps": 1.0},
        r"Dialect.denominator='clamp' conflicts with denominator_eps=1.0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_dialects_are_refused_by_name(name: str) -> None:
    fields, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        Dialect(**fields)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="iteration"):
        PAPER.with_(iteration=3)


def test_dialects_tell_their_difference() -> None:
    assert LIGER.difference(DEEPSEEK_V4) == {
        "transposed": (False, True),
        "pre_eps": (0.0, 1e-6),
        "collapse": ("sum", "head"),
    }


@pytest.mark.parametrize(
    ("field", "shape", "expected"),
    [
        ("phi", (12, 14), r"Params.phi has shape \(12, 14\); a state of 3 streams of 4 channels needs \(12, 15\)"),
        ("bias", (9,), r"Params.bias has shape \(9,\); .* needs \(15,\) \(residual='sinkhorn'"),
        ("alpha", (1,), r"Params.alpha has shape \(1,\); .* needs \(3,\)"),
        ("norm_weight", (4,), r"Params.norm_weight has shape \(4,\); .* needs \(12,\)"),
    ],
)
def test_parameters_that_do_not_fit_are_named(field: str, shape: tuple[int, ...], expected: str) -> None:
    params = dense_params(PAPER, 3, 4)._replace(**{field: torch.zeros(shape, dtype=F64)})
    with pytest.raises(ValueError, match=expected):
        mhc_ref.mappings(normal(2, 3, 4), params, PAPER)


def test_other_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3\); residual='sinkhorn' takes"):
        mhc_ref.project(torch.zeros(2, 3), PAPER)
    with pytest.raises(ValueError, match=r"logits are torch\.int64; expected a floating-point dtype"):
        mhc_ref.project(torch.zeros(2, 2, dtype=torch.int64), PAPER)
    with pytest.raises(ValueError, match=r"takes .* one of \(1,\), \(2,\), \(6,\)"):
        mhc_ref.project(torch.zeros(5), MHC_LITE)
    with pytest.raises(ValueError, match="n is 6"):
        residual_size(6, MHC_LITE)
    with pytest.raises(ValueError, match="needs the parameters of the head"):
        mhc_ref.collapse(normal(3, 4), DEEPSEEK_V4)
    with pytest.raises(ValueError, match="1 parameter sets for 1 branches; collapse='head' needs 2, the last being"):
        mhc_ref.stack(normal(4), [dense_params(DEEPSEEK_V4, 2, 4)], [torch.sin], DEEPSEEK_V4)
    with pytest.raises(ValueError, match="0 parameter sets for 0 branches; collapse='head' needs 1, the last being"):
        mhc_ref.stack(normal(4), [], [], DEEPSEEK_V4)


def test_a_stack_of_no_blocks_says_that_the_number_of_streams_is_read_from_parameters() -> None:
    h = normal(2, 3)
    with pytest.raises(ValueError, match=r"no parameter set was given, .* call collapse\(expand\(h, n, dialect\)"):
        mhc_ref.stack(h, [], [], PAPER)
    assert mhc_ref.collapse(mhc_ref.expand(h, 4, PAPER), PAPER).shape == h.shape
    with pytest.raises(ValueError, match="0 parameter sets for 1 branches; collapse='sum' needs 1"):
        mhc_ref.stack(h, [], [torch.sin], PAPER)


# Gains


def test_signed_gain_cannot_see_what_the_spectral_norm_sees() -> None:
    """[[101, -100], [-100, 101]] has lines that sum to 1 at every power; its eigenvalues are 1 and 201."""
    operator = torch.tensor([[101.0, -100], [-100, 101]], dtype=F64)
    for layer, composite in enumerate(prefixes(operator.expand(5, 2, 2)), 1):
        found = gains(composite)
        assert found.forward_signed == found.backward_signed == 1
        assert found.forward == found.backward == pytest.approx(201.0**layer)
        assert found.spectral.item() == pytest.approx(201.0**layer)


def test_signed_and_absolute_gains_agree_without_signs() -> None:
    found = gains(normal(6, 5, 5).abs())
    assert torch.equal(found.forward_signed, found.forward)
    assert torch.equal(found.backward_signed, found.backward)


def test_gains_of_one_operator_by_hand() -> None:
    found = gains(torch.tensor([[1.0, -4], [2, 3]], dtype=F64))
    assert [float(value) for value in found[:4]] == [5, 3, 5, 7]


def test_prefixes_apply_the_first_layer_first_and_suffixes_the_last_one_last() -> None:
    a, b, c = (torch.tensor(m, dtype=F64) for m in ([[1.0, 2], [0, 1]], [[1.0, 0], [3, 1]], [[0.0, 1], [1, 0]]))
    operators = torch.stack([a, b, c])
    assert prefixes(operators).tolist() == [a.tolist(), [[1, 2], [3, 7]], [[3, 7], [1, 2]]]
    assert suffixes(operators).tolist() == [[[3, 7], [1, 2]], [[3, 1], [1, 0]], c.tolist()]


def test_gains_of_short_dtypes_are_in_float32() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        found = gains(torch.tensor([[3.0, 0], [0, -4]], dtype=dtype))
        assert {one.dtype for one in found} == {torch.float32}
        assert [float(one) for one in found] == [4, 4, 4, 4, 4]


def test_what_is_not_finite_has_gains_that_are_not_and_leaves_other_operators_alone() -> None:
    nan, inf = math.nan, math.inf
    operators = torch.tensor([[[1.0, 0], [nan, 1]], [[1.0, inf], [0, 1]], [[2.0, 0], [0, 1]]], dtype=F64)
    found = gains(operators)
    for each in found:
        assert each[0].isnan()
        assert each[1].item() == inf
        assert each[2].item() == pytest.approx(2)


def test_no_layers_have_no_composites() -> None:
    none = torch.zeros(0, 3, 2, 2)
    assert prefixes(none).shape == suffixes(none).shape == none.shape


# -- logits whose differences leave the range of their dtype -----------------------------------------------------------

HUGE = (
    [[1.0, 1.0], [-1.0, -0.9]],
    [[1.0, -1.0], [1.0, -0.9]],
    [[1.0, 1.0], [-1.0, -1.0]],
    [[-1.0, 1.0], [-1.0, -1.0]],
    [[1.0, -1.0, 0.0], [-1.0, -1.0, -1.0], [1.0, 1.0, 0.5]],
)
"""Logits in units of the largest number: a line lies below the others by more than that number."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("iterations", [1, 2, 20])
@pytest.mark.parametrize("title", ["PAPER", "DEEPSEEK_V4", "LIGER", "LUCIDRAINS"])
def test_a_line_that_lies_below_the_others_by_more_than_the_largest_number_is_projected_as_mpmath_does(
    title: str, iterations: int, dtype: torch.dtype
) -> None:
    dialect = PRESETS[title].with_(iterations=iterations)
    for pattern in HUGE:
        logits = (torch.tensor(pattern, dtype=torch.float64) * 0.9 * torch.finfo(dtype).max).to(dtype)
        leaf = logits.clone().requires_grad_()
        got = mhc_ref.project(leaf, dialect)
        bar = torch.arange(got.numel(), dtype=dtype).reshape(got.shape)
        (by_logits,) = torch.autograd.grad(got, leaf, bar)
        truth = ExactTruth(dialect)
        unit = 64 * torch.finfo(dtype).eps
        assert (got.double() - truth.project(logits)).abs().max() <= unit
        assert (by_logits.double() - truth.project_vjp(logits, bar)).abs().max() <= unit * bar.max()
