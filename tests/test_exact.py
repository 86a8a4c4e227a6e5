"""The oracle against golden vectors, closed forms, exact rational arithmetic and its own functional equations."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import pytest

from mhc_ref import (
    CAYLEY,
    DEEPSEEK_V4,
    HYPER_CONNECTIONS,
    KROMHC,
    LUCIDRAINS,
    MHC_LITE,
    MUSE_SPARK,
    PAPER,
    PRESETS,
    RESIDUAL,
    Dialect,
)
from mhc_ref.exact import Exact
from mhc_ref.packing import logits_shape, params_shapes

FIXTURE = [[1, 0, -1, 2], [0, 3, 1, -2], [2, -1, 0, 1], [-3, 1, 2, 0]]

# Logits FIXTURE times a scale; matrices computed with mpmath at 40 digits and printed to 16.
GOLDEN = {
    "paper, 1 iteration": (
        PAPER.with_(iterations=1),
        1,
        [
            ["0.2500633514987355", "0.04246202495604719", "0.03290428525136366", "0.6745703382938537"],
            ["0.07663845705420015", "0.7105184077538332", "0.2025501700942944", "0.01029296509767221"],
            ["0.6580486111902945", "0.01512236327929509", "0.08658853479366664", "0.2402404907367438"],
            ["0.005251186215616715", "0.1323367554100076", "0.7577417324704383", "0.1046703259039374"],
        ],
    ),
    "paper, 2 iterations": (
        PAPER.with_(iterations=2),
        1,
        [
            ["0.2563611497781927", "0.04786126802999943", "0.03092810742813348", "0.6648494747636743"],
            ["0.07275120174860343", "0.7415664771757041", "0.1762888123047308", "0.009393508770961704"],
            ["0.6680522377265184", "0.0168792617956329", "0.08059564171048314", "0.2344728587673656"],
            ["0.005550263966778989", "0.1537864379286742", "0.734304426419742", "0.1063588716848048"],
        ],
    ),
    "paper, 20 iterations": (
        PAPER,
        1,
        [
            ["0.2578772518926382", "0.0533207756760958", "0.03119534642289429", "0.6576066260083717"],
            ["0.06735886426030683", "0.7604245136777248", "0.1636646857637547", "0.008551936298213669"],
            ["0.6693135620849419", "0.01872940955451738", "0.08096669357820616", "0.2309903347823346"],
            ["0.005458837316038657", "0.1675158812524994", "0.7241662897794317", "0.1028589916520302"],
        ],
    ),
    "paper, limit": (
        PAPER.with_(iterations=500),
        1,
        [
            ["0.2578758031119631", "0.05332337710211563", "0.03119663792739273", "0.6576041818585286"],
            ["0.06735555819800905", "0.7604285611419181", "0.1636643478425646", "0.008551532817508298"],
            ["0.6693100380537967", "0.01873032994025588", "0.08097007422316428", "0.2309895577827831"],
            ["0.005458600636231134", "0.1675177318157104", "0.7241689400068784", "0.1028547275411801"],
        ],
    ),
    "paper, 4 Z": (
        PAPER,
        4,
        [
            ["0.01805669172509435", "8.011084724545841e-6", "4.726407316178643e-6", "0.9819305707828649"],
            ["0.0002508755663922894", "0.9890613195357595", "0.01068772107407985", "8.382376833889571e-8"],
            ["0.9818316925950548", "1.461283002444032e-7", "0.0002569981570150043", "0.01791116311963"],
            ["2.638935951969059e-9", "0.000568030465591799", "0.9990041801711738", "0.0004277867242984982"],
        ],
    ),
    "deepseek as stored": (
        DEEPSEEK_V4,
        1,
        [
            ["0.2578780911052538", "0.05333163665246164", "0.03120140508306086", "0.6576115309746249"],
            ["0.06734650252438121", "0.7604145355702114", "0.1636590072137419", "0.008551733353061141"],
            ["0.6693153146859144", "0.0187336320222593", "0.08098098654461785", "0.2309931436321855"],
            ["0.005459091654208668", "0.1675191957885196", "0.7241576011833822", "0.1028425920121123"],
        ],
    ),
    "deepseek as stored, 4 Z": (
        DEEPSEEK_V4,
        4,
        [
            ["0.01805817947390119", "0.0002515720019002829", "9.166982863817878e-6", "0.981828234986267"],
            ["9.317948246105386e-6", "0.9890523063954618", "0.0005696316113129764", "1.301951372059749e-6"],
            ["0.981930716789947", "5.33385371554693e-6", "0.0004288969451701674", "0.01791158279163571"],
            ["7.855122383399574e-7", "0.01068979812706157", "0.9989912942953967", "0.0002578801222835287"],
        ],
    ),
    "deepseek as stored without eps, 4 Z": (
        DEEPSEEK_V4.with_(entry_eps=0, denominator_eps=0),
        4,
        [
            ["0.01805727223339782", "0.0002508064421548304", "7.863513751976622e-6", "0.9818322288782606"],
            ["8.013505447772297e-6", "0.9890557881797133", "0.000567964019986827", "2.677157314955794e-9"],
            ["0.9819347126749688", "4.575233883522496e-6", "0.0004276092765762048", "0.0179106726402391"],
            ["1.586185574121786e-9", "0.01068883014424835", "0.998996563189685", "0.0002570958043430276"],
        ],
    ),
}

# Every dialect field of the projection takes each of its values here; clamp 0.6 is above some sums, below others.
PROJECTIONS = {
    "paper": PAPER.with_(iterations=3),
    "paper, started only": PAPER.with_(iterations=0, entry_eps=0.25),
    "exp with eps": PAPER.with_(iterations=3, entry_eps=0.25, denominator_eps=0.125),
    "exp with eps, columns last": PAPER.with_(iterations=2, entry_eps=0.25, last_axis="column"),
    "deepseek": DEEPSEEK_V4.with_(iterations=3),
    "deepseek, large eps": DEEPSEEK_V4.with_(iterations=3, entry_eps=0.25, denominator_eps=0.125),
    "softmax over the last axis": DEEPSEEK_V4.with_(iterations=2, start_axis="column"),
    "softmax only": DEEPSEEK_V4.with_(iterations=0, entry_eps=0.25),
    "clamped": LUCIDRAINS.with_(iterations=2, denominator_eps=0.6, entry_eps=0.0625),
    "permutations": MHC_LITE,
    "unconstrained": HYPER_CONNECTIONS,
    "identity": RESIDUAL,
    "a temperature": PAPER.with_(iterations=3, temperature=0.4),
    "a temperature beside an eps": DEEPSEEK_V4.with_(iterations=2, temperature=3.7, entry_eps=0.25),
    "kronecker": KROMHC,
    "cayley": CAYLEY.with_(reach=0.75),
    "carry": MUSE_SPARK,
}

DIALECTS = {
    **PRESETS,
    "every norm option": DEEPSEEK_V4.with_(norm_over="stream", rms_eps=0.5, rms_eps_inside=False, collapse="mean"),
    "softmax gates": PAPER.with_(pre="softmax", post="softmax", dynamic="tanh", post_scale=1.5, pre_eps=0.25),
    "shared head": LUCIDRAINS.with_(collapse="head"),
    "weight with an offset": DEEPSEEK_V4.with_(norm_over="stream", norm_offset=0.75),
    "an eps of h_post": PAPER.with_(post_eps=0.125, post_scale=1.5),
    "attention that reads what it scores": PRESETS["ATTN_RES"].with_(scaled=True, reads_normalised=True),
    "a norm of at least 2": PAPER.with_(norm_over="stream", rms_eps=2.0, rms_eps_by="clamp", iterations=2),
    "LayerNorm of all streams": PAPER.with_(rms_eps=0.25, centred=True, iterations=2),
    "LayerNorm of each stream, 1 + w, eps outside": DEEPSEEK_V4.with_(
        norm_over="stream", rms_eps=0.5, rms_eps_inside=False, centred=True, norm_offset=1.0
    ),
    "no dynamic part": PAPER.with_(dynamic="static", iterations=2, collapse="head"),
    "one bottleneck for both gates": PRESETS["QWEN4_EXP"].with_(one_bottleneck=True, rank=2, collapse="mean"),
    "a one-hot start": PAPER.with_(expand="one-hot", iterations=2),
    "a shared projection without residual logits": LUCIDRAINS.with_(residual="identity", res_columns=False),
}


@dataclass
class Params:
    phi: Any
    bias: Any
    alpha: Any
    norm_weight: Any = None


def normal(seed: int, *shape: int, scale: float = 1.0) -> Any:
    """Nested lists of Gaussian numbers."""
    gauss = random.Random(seed).gauss

    def draw(shape: tuple[int, ...]) -> Any:
        return [draw(shape[1:]) for _ in range(shape[0])] if shape else gauss(0, scale)

    return draw(shape)


def residual_logits(dialect: Dialect, n: int) -> int:
    return math.prod(logits_shape(n, dialect))


def draw_logits(dialect: Dialect, n: int, seed: int, scale: float = 2.0) -> Any:
    return normal(seed, *logits_shape(n, dialect), scale=scale)


def draw_params(dialect: Dialect, n: int, width: int, seed: int, norm_weight: bool = True) -> Params:
    shapes = params_shapes(n, width, dialect)
    phi, bias, alpha = (normal(seed + k, *shape) for k, shape in enumerate(shapes[:3]))
    return Params(phi, bias, alpha, normal(seed + 3, n * width) if norm_weight else None)


def flat(numbers: Any) -> list[Any]:
    return [leaf for item in numbers for leaf in flat(item)] if isinstance(numbers, (list, tuple)) else [numbers]


def distance(a: Any, b: Any) -> Any:
    """The largest difference of two nests of numbers of one shape."""
    return max(abs(x - y) for x, y in zip(flat(a), flat(b), strict=True))


def inner(a: Any, b: Any) -> Any:
    return sum(x * y for x, y in zip(flat(a), flat(b), strict=True))


def along(exact: Exact, at: Any, direction: Any, step: Any) -> Any:
    """at + step * direction, for nests of numbers, Params and None."""
    if at is None or direction is None:
        return at
    if isinstance(at, Params):
        return Params(
            *(along(exact, a, d, step) for a, d in zip(vars(at).values(), vars(direction).values(), strict=True))
        )
    if isinstance(at, (list, tuple)):
        return [along(exact, a, d, step) for a, d in zip(at, direction, strict=True)]
    return exact.mp.convert(at) + step * direction


def transpose(m: Any) -> Any:
    return [list(line) for line in zip(*m, strict=True)]


def logarithms(exact: Exact, m: Any) -> Any:
    return [[exact.mp.log(entry) for entry in row] for row in m]


def column_sums(m: Any) -> list[Any]:
    return [sum(column) for column in transpose(m)]


# Known values


@pytest.mark.parametrize("name", GOLDEN)
def test_project_gives_the_golden_vectors(name: str) -> None:
    dialect, scale, expected = GOLDEN[name]
    exact = Exact(dialect)
    given = exact.project([[scale * z for z in row] for row in FIXTURE])
    for value, golden in zip(flat(given), flat(expected), strict=True):
        assert abs(value / exact.mp.mpf(golden) - 1) < 1e-15


@pytest.mark.parametrize("iterations", [1, 2, 3, 20])
def test_two_streams_follow_the_scalar_recurrence(iterations: int) -> None:
    """With M = [[1, r], [1, q]] after column scalings, one iteration is a map of two ratios."""
    exact = Exact(PAPER.with_(iterations=iterations))
    a, b, c, d = (exact.mp.exp(z) for z in (1.5, -0.25, 0.75, 2))
    for _ in range(iterations):
        a, b, c, d = a / (a + c), b / (b + d), c / (a + c), d / (b + d)
        a, b, c, d = a / (a + b), b / (a + b), c / (c + d), d / (c + d)
    assert distance(exact.project([[1.5, -0.25], [0.75, 2]]), [[a, b], [c, d]]) < 1e-50


def test_two_streams_converge_to_a_sigmoid() -> None:
    exact = Exact(PAPER.with_(iterations=200))
    p = 1 / (1 + exact.mp.exp(-exact.mp.mpf(1.5 + 2 + 0.25 - 0.75) / 2))
    assert distance(exact.project([[1.5, -0.25], [0.75, 2]]), [[p, 1 - p], [1 - p, p]]) < 1e-50


@pytest.mark.parametrize("iterations", [1, 2, 5, 20, 50])
def test_a_triangular_matrix_converges_like_one_over_t(iterations: int) -> None:
    """M = [[1, 1], [0, 1]] has support without total support."""
    exact = Exact(PAPER.with_(iterations=iterations))
    t = exact.mp.mpf(iterations)
    sums = column_sums(exact.project([[0, 0], [-(10**6), 0]]))
    assert distance(sums, [2 * t / (2 * t + 1), (2 * t + 2) / (2 * t + 1)]) < 1e-50


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("iterations", [1, 2, 5, 20])
def test_rows_that_share_a_column_overload_it(n: int, iterations: int) -> None:
    """A column of ones and a row of ones, all else 0, tend to column sums (n - 1, 1/(n - 1), ...).

    The corner a of the matrix follows 1/a' = n + (n - 1)^2 / a from 1, and the column sums are n - 1 + a and
    (1 - a) / (n - 1).
    """
    exact = Exact(PAPER.with_(iterations=iterations))
    a = (n - 2) / exact.mp.mpf((n - 1) ** (2 * iterations + 1) - 1)
    sums = column_sums(exact.project([[0] * n] + [[0] + [-(10**6)] * (n - 1)] * (n - 1)))
    assert distance(sums, [n - 1 + a] + [(1 - a) / (n - 1)] * (n - 1)) < 1e-50


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_equal_logits_give_the_uniform_matrix(n: int) -> None:
    exact = Exact(PAPER.with_(iterations=1))
    assert distance(exact.project([[0.7] * n] * n), [[1 / exact.mp.mpf(n)] * n] * n) < 1e-50


def test_one_stream_is_a_plain_residual() -> None:
    for dialect in (PAPER, MHC_LITE, RESIDUAL, KROMHC, CAYLEY):
        exact = Exact(dialect)
        logits = [-3.5] if dialect.residual == "permutations" else [[-3.5]]
        assert exact.project(logits) == [[1]]


# Exact rational arithmetic: logits are logarithms of integers, and so exp, softmax and sigmoid are rational.


def rational_projection(dialect: Dialect, entries: list[list[int]]) -> list[list[Fraction]]:
    """The definition of the Sinkhorn dialects in fractions; `entries` is exp of the logits."""
    n, eps = len(entries), Fraction(dialect.denominator_eps)

    def divided(m: Any, axis: str, denominator: Any) -> list[list[Fraction]]:
        lines = {"row": m, "column": transpose(m)}[axis]
        by = [Fraction(denominator(line)) for line in lines]
        return [[m[i][j] / by[i if axis == "row" else j] for j in range(n)] for i in range(n)]

    def floored(line: list[Fraction]) -> Fraction:
        total = sum(line, Fraction(0))
        return total + eps if dialect.denominator == "add" else max(total, eps)

    m: Any = entries
    steps = [dialect.first_axis, dialect.last_axis] * dialect.iterations
    if dialect.start == "softmax":
        m = divided(m, dialect.start_axis, sum)
        steps = steps[1:] if dialect.start_axis == dialect.first_axis else steps
    elif dialect.iterations:
        m = divided(m, dialect.first_axis, max)
    m = [[entry + Fraction(dialect.entry_eps) for entry in row] for row in m]
    for axis in steps:
        m = divided(m, axis, floored)
    return m


RATIONAL = [
    Dialect(
        start=start,  # pyright: ignore[reportArgumentType]
        start_axis=start_axis,  # pyright: ignore[reportArgumentType]
        last_axis=last_axis,  # pyright: ignore[reportArgumentType]
        iterations=iterations,
        entry_eps=entry_eps,
        denominator=denominator,  # pyright: ignore[reportArgumentType]
        denominator_eps=denominator_eps,
    )
    for start, start_axis in (("exp", "row"), ("softmax", "row"), ("softmax", "column"))
    for last_axis in ("row", "column")
    for iterations in (0, 1, 2)
    for entry_eps in (0, 0.125)
    for denominator, denominator_eps in (("add", 0), ("add", 0.25), ("clamp", 0.75))
]


def test_every_sinkhorn_dialect_agrees_with_rational_arithmetic() -> None:
    entries = [[3, 1, 20], [1, 7, 2], [5, 11, 1]]
    for dialect in RATIONAL:
        exact = Exact(dialect)
        expected = [
            [exact.mp.mpf(f.numerator) / f.denominator for f in row] for row in rational_projection(dialect, entries)
        ]
        assert distance(exact.project(logarithms(exact, entries)), expected) < 1e-50, dialect


@pytest.mark.parametrize("transposed", [False, True])
def test_a_block_agrees_with_arithmetic_by_hand(transposed: bool) -> None:
    """n = 2, C = 1, x = (1, 7): the rms is 5, every logit is log k for an integer k, and sigmoid(log k) = k / (k+1)."""
    exact = Exact(PAPER.with_(rms_eps=0, iterations=1, transposed=transposed), digits=40)
    log = exact.mp.log
    # Column k of phi reads one stream: 5 * log(a) from stream 0 is log(a), 5/7 * log(a) from stream 1 is log(a).
    top = [5 * log(2), 0, 5 * log(3), 0, 5 * log(4), 0, 0, 0]
    bottom = [0, 5 * log(3) / 7, 0, 5 * log(4) / 7, 0, 0, 5 * log(3) / 7, 0]
    bias = [0, 0, 0, log(2), 0, log(2), 0, log(5)]
    params = Params([top, bottom], bias, [1, 1, 1])
    # pre = (2/3, 3/4); post = 2 (3/4, 8/9); exp(res) = [[4, 2], [3, 5]], after columns [[4/7, 2/7], [3/7, 5/7]].
    pre, post = [Fraction(2, 3), Fraction(3, 4)], [Fraction(3, 2), Fraction(16, 9)]
    res = [[Fraction(2, 3), Fraction(1, 3)], [Fraction(3, 8), Fraction(5, 8)]]
    applied = transpose(res) if transposed else res
    y = (pre[0] + 7 * pre[1]) ** 2
    expected = [[row[0] + 7 * row[1] + gate * y] for row, gate in zip(applied, post, strict=True)]
    given = exact.block([[1], [7]], params, lambda u: [a * a for a in u])
    assert distance(given, [[exact.mp.mpf(f.numerator) / f.denominator for f in row] for row in expected]) < 1e-38


def test_gates_scale_pre_post_and_res_in_this_order() -> None:
    """With phi a single log 2 in every column, logit k is alpha * log 2."""
    exact = Exact(PAPER.with_(rms_eps=0, pre_eps=0.5, post_scale=3, residual="unconstrained"))
    two = exact.mp.log(2)
    pre, post, res = exact.mappings([[1], [1]], Params([[two] * 8, [0] * 8], [0] * 8, [1, 2, 3]))
    assert distance(pre, [2 / exact.mp.mpf(3) + 0.5] * 2) < 1e-50
    assert distance(post, [3 * exact.mp.mpf(4) / 5] * 2) < 1e-50
    assert distance(res, [[3 * two] * 2] * 2) < 1e-50


def test_the_res_logits_are_read_row_major() -> None:
    exact = Exact(RESIDUAL.with_(residual="unconstrained"))
    _, _, res = exact.mappings([[1], [2]], Params([[0] * 8] * 2, [0, 0, 0, 0, 1, 2, 3, 4], [1, 1, 1]))
    assert res == [[1, 2], [3, 4]]


# Functional equations


def test_deepseek_stores_the_transpose_of_the_paper_on_transposed_logits() -> None:
    deepseek = Exact(DEEPSEEK_V4.with_(entry_eps=0, denominator_eps=0))
    logits = normal(1, 5, 5, scale=4)
    assert distance(transpose(deepseek.project(logits)), Exact(PAPER).project(transpose(logits))) < 1e-50


@pytest.mark.parametrize("iterations", [1, 2, 20])
@pytest.mark.parametrize("last_axis", ["row", "column"])
def test_odds_ratios_of_the_logits_survive(iterations: int, last_axis: str) -> None:
    exact = Exact(PAPER.with_(iterations=iterations, last_axis=last_axis))
    logits = normal(2, 4, 4, scale=8)
    log_m = logarithms(exact, exact.project(logits))
    for i, j, k, m in itertools.product(range(4), repeat=4):
        of_logits, of_m = (a[i][j] + a[k][m] - a[i][m] - a[k][j] for a in (along(exact, logits, logits, 0), log_m))
        assert abs(of_logits - of_m) < 1e-48


def test_shifts_along_the_first_axis_are_invisible_and_others_are_not() -> None:
    exact = Exact(PAPER.with_(iterations=2))
    logits, shifts = normal(3, 3, 3, scale=2), normal(4, 3)
    by_column = [[exact.mp.mpf(z) + b for z, b in zip(row, shifts, strict=True)] for row in logits]
    by_row = [[exact.mp.mpf(z) + a for z in row] for row, a in zip(logits, shifts, strict=True)]
    m = exact.project(logits)
    assert distance(exact.project(by_column), m) < 1e-50
    assert distance(exact.project(by_row), m) > 1e-4


def test_permuting_streams_permutes_the_matrix() -> None:
    for dialect in (PAPER, DEEPSEEK_V4, LUCIDRAINS):
        exact = Exact(dialect.with_(iterations=3))
        logits, rows, columns = normal(5, 4, 4, scale=3), [2, 0, 3, 1], [1, 3, 0, 2]
        m = exact.project(logits)
        permuted = exact.project([[logits[i][j] for j in columns] for i in rows])
        assert distance(permuted, [[m[i][j] for j in columns] for i in rows]) < 1e-50


def test_iterations_add_up() -> None:
    """t iterations of the logarithm of k iterations are t + k."""
    logits = normal(6, 4, 4, scale=4)
    two, three, five = (Exact(PAPER.with_(iterations=t)) for t in (2, 3, 5))
    assert distance(three.project(logarithms(two, two.project(logits))), five.project(logits)) < 1e-50


def test_doubly_stochastic_matrices_are_fixed() -> None:
    exact = Exact(PAPER)
    m = [["0.5", "0.25", "0.25"], ["0.25", "0.625", "0.125"], ["0.25", "0.125", "0.625"]]
    m = [[exact.mp.mpf(entry) for entry in row] for row in m]
    assert distance(exact.project(logarithms(exact, m)), m) < 1e-50


def test_the_exp_start_without_iterations_is_not_shifted() -> None:
    exact = Exact(PAPER.with_(iterations=0, entry_eps=0.5))
    m = exact.project(FIXTURE)
    assert distance(m, [[exact.mp.exp(z) + 0.5 for z in row] for row in FIXTURE]) < 1e-50


def test_permutation_mixtures_put_weight_k_on_permutation_k() -> None:
    exact = Exact(MHC_LITE)
    for k, permutation in enumerate(itertools.permutations(range(3))):
        m = exact.project([1000 if k == other else 0 for other in range(6)])
        assert distance(m, [[int(j == permutation[i]) for j in range(3)] for i in range(3)]) < 1e-50
    m = exact.project(normal(7, 24, scale=3))
    assert distance([sum(row) for row in m] + column_sums(m), [1] * 8) < 1e-50


# Precision


@pytest.mark.parametrize("name", DIALECTS)
def test_more_digits_change_nothing(name: str) -> None:
    dialect = DIALECTS[name]
    params, x = draw_params(dialect, 3, 4, 10), normal(11, 3, 4)
    few, many = (Exact(dialect, digits=digits).block(x, params, lambda u: [a * a for a in u]) for digits in (50, 100))
    assert distance(few, many) < 1e-45


@pytest.mark.parametrize("scale", [60, 1e6, 1e300])
def test_huge_logits_lose_no_digits(scale: float) -> None:
    """Entries are right relative to themselves, tangents relative to the entry: exp(-1e300) included."""
    logits, direction = [[scale * z for z in row] for row in FIXTURE], normal(12, 4, 4)
    few, many = (Exact(PAPER, digits=digits).project_derivative(logits, direction) for digits in (50, 100))
    for (m, dm), (n, dn) in zip(zip(*map(flat, few), strict=True), zip(*map(flat, many), strict=True), strict=True):
        assert abs(m / n - 1) < 1e-50
        assert abs(dm - dn) < 1e-48 * n


@pytest.mark.parametrize("scale", [60, 1e6])
def test_huge_logits_lose_no_digits_of_the_gradient(scale: float) -> None:
    logits, cotangent = [[scale * z for z in row] for row in FIXTURE], normal(12, 4, 4)
    for dialect in (PAPER, DEEPSEEK_V4):
        few, many = (Exact(dialect, digits=digits).project_vjp(logits, cotangent) for digits in (50, 100))
        assert distance(few, many) < 1e-49


def test_offsets_that_swamp_the_logits_cancel_exactly() -> None:
    exact = Exact(PAPER.with_(iterations=5))
    shifted = [[z + 2**500 for z in row] for row in FIXTURE]
    assert distance(exact.project(shifted), exact.project(FIXTURE)) < 1e-50


def test_huge_parameters_lose_no_digits() -> None:
    params = draw_params(PAPER, 2, 3, 13)
    params.alpha = [1e100, 1e100, 1e100]
    few, many = (Exact(PAPER, digits=digits).mappings(normal(14, 2, 3), params) for digits in (50, 100))
    for a, b in zip(flat(few), flat(many), strict=True):
        assert abs(a / b - 1) < 1e-49


def test_states_beyond_the_float_range_are_normalised() -> None:
    exact = Exact(PAPER.with_(rms_eps=0))
    params, x = draw_params(PAPER, 2, 3, 15), normal(16, 2, 3)
    tiny = [[exact.mp.mpf(a) * exact.mp.mpf("1e-400") for a in stream] for stream in x]
    assert distance(exact.mappings(tiny, params), exact.mappings(x, params)) < 1e-48


def test_numbers_are_converted_exactly() -> None:
    exact = Exact(RESIDUAL, digits=5)
    global_number = mpmath.mpf(2) ** -300 + 1.0
    given = exact.collapse([[0.1, 3, "0.5", global_number]])
    assert [float(a) for a in given] == [0.1, 3, 0.5, 1.0]


def test_the_global_precision_is_left_alone() -> None:
    before = mpmath.mp.prec
    Exact(PAPER, digits=77).block(normal(17, 2, 2), draw_params(PAPER, 2, 2, 18), list)
    assert mpmath.mp.prec == before


# Derivatives


@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_projections_derivative_is_the_central_difference(name: str) -> None:
    exact, dialect = Exact(PROJECTIONS[name], digits=80), PROJECTIONS[name]
    logits, direction = draw_logits(dialect, 3, 20), draw_logits(dialect, 3, 21)
    step = exact.mp.mpf("1e-25")
    value, tangent = exact.project_derivative(logits, direction)
    plus, minus = (exact.project(along(exact, logits, direction, sign * step)) for sign in (1, -1))
    assert value == exact.project(logits)
    slopes = [(a - b) / (2 * step) for a, b in zip(flat(plus), flat(minus), strict=True)]
    assert distance(flat(tangent), slopes) < 1e-40


@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_vjp_is_the_adjoint_of_the_derivative(name: str) -> None:
    exact, dialect = Exact(PROJECTIONS[name]), PROJECTIONS[name]
    for n in (1, 2, 4):
        logits, direction, cotangent = draw_logits(dialect, n, 22), draw_logits(dialect, n, 23), normal(24, n, n)
        _, tangent = exact.project_derivative(logits, direction)
        gradient = exact.project_vjp(logits, cotangent)
        assert abs(inner(gradient, direction) - inner(cotangent, tangent)) < 1e-48


def test_the_gradient_of_the_sum_of_all_entries_is_zero() -> None:
    """The last division fixes the row sums, so that a cotangent of ones sees nothing."""
    assert distance(Exact(PAPER).project_vjp(FIXTURE, [[1] * 4] * 4), [[0] * 4] * 4) < 1e-50


def test_the_gradient_is_the_unrolled_one() -> None:
    """Column sums vanish exactly at every iteration count, row sums only in the limit."""
    gradient = Exact(PAPER.with_(iterations=2)).project_vjp(FIXTURE, normal(25, 4, 4))
    assert distance(column_sums(gradient), [0] * 4) < 1e-50
    assert max(abs(sum(row)) for row in gradient) > 1e-4


def branch(exact: Exact, weight: Any, dweight: Any) -> tuple[Any, Any]:
    """F(u) = tanh(w u) with its derivative in u and w, at a given weight."""
    tanh, sech = exact.mp.tanh, exact.mp.sech

    def value(u: Any) -> Any:
        return [tanh(w * a) for w, a in zip(weight, u, strict=True)]

    def tangent(u: Any, du: Any) -> Any:
        rows = zip(weight, dweight, u, du, strict=True)
        return [sech(w * a) ** 2 * (exact.mp.convert(w) * da + dw * a) for w, dw, a, da in rows]

    return value, tangent


@pytest.mark.parametrize("name", DIALECTS)
def test_the_derivative_of_a_block_is_the_central_difference(name: str) -> None:
    dialect = DIALECTS[name]
    exact, n, width = Exact(dialect, digits=80), 3, 2
    x, dx, w, dw = normal(30, n, width), normal(31, n, width), normal(32, width), normal(33, width)
    params, dparams = draw_params(dialect, n, width, 34), draw_params(dialect, n, width, 38)
    step = exact.mp.mpf("1e-25")

    def block(sign: int) -> Any:
        value, _ = branch(exact, along(exact, w, dw, sign * step), dw)
        return exact.block(along(exact, x, dx, sign * step), along(exact, params, dparams, sign * step), value)

    value, tangent = exact.block_derivative(x, params, branch(exact, w, dw)[0], dx, dparams, branch(exact, w, dw)[1])
    assert distance(value, block(0)) < 1e-75
    slopes = [(a - b) / (2 * step) for a, b in zip(flat(block(1)), flat(block(-1)), strict=True)]
    assert distance(flat(tangent), slopes) < 1e-40


def test_tangents_left_out_are_zero() -> None:
    exact = Exact(DEEPSEEK_V4)
    x, dx, params = normal(40, 2, 3), normal(41, 2, 3), draw_params(DEEPSEEK_V4, 2, 3, 42)
    only_bias = Params(None, normal(46, 8), None)
    zeros = Params([[0] * 8] * 6, only_bias.bias, [0] * 3, [0] * 6)
    assert exact.mappings_derivative(x, params, dx, only_bias) == exact.mappings_derivative(x, params, dx, zeros)
    values, tangents = exact.mappings_derivative(x, params, None, None)
    assert values == exact.mappings(x, params)
    assert set(flat(tangents)) == {0}


@pytest.mark.parametrize("name", ["DEEPSEEK_V4", "LUCIDRAINS", "shared head", "every norm option", "HYPER_CONNECTIONS"])
def test_the_derivative_of_a_stack_is_the_central_difference(name: str) -> None:
    dialect = DIALECTS[name]
    exact, n, width = Exact(dialect.with_(iterations=5), digits=80), 2, 3
    count = 3 if dialect.collapse == "head" else 2
    h, dh = normal(50, width), normal(51, width)
    params = [draw_params(dialect, n, width, 52 + 10 * k) for k in range(count)]
    dparams = [draw_params(dialect, n, width, 57 + 10 * k) for k in range(count)]
    values, tangents = zip(*(branch(exact, normal(90 + k, width), [0] * width) for k in range(2)), strict=True)
    step = exact.mp.mpf("1e-25")

    def stack(sign: int) -> Any:
        moved = [along(exact, p, dp, sign * step) for p, dp in zip(params, dparams, strict=True)]
        return exact.stack(along(exact, h, dh, sign * step), moved, values)

    value, tangent = exact.stack_derivative(h, params, values, dh, dparams, tangents)
    assert distance(value, stack(0)) < 1e-75
    slopes = [(a - b) / (2 * step) for a, b in zip(stack(1), stack(-1), strict=True)]
    assert distance(tangent, slopes) < 1e-40


# The zero state


def test_a_zero_state_without_eps_has_static_mappings() -> None:
    for dialect in (PAPER.with_(rms_eps=0), LUCIDRAINS.with_(rms_eps=0, rms_eps_by="add"), HYPER_CONNECTIONS):
        exact = Exact(dialect)
        params = draw_params(dialect, 2, 3, 60)
        static = Params([[0] * len(row) for row in params.phi], params.bias, params.alpha)
        zero = [[0] * 3] * 2
        assert distance(exact.mappings(zero, params), exact.mappings(zero, static)) < 1e-50
        _, tangents = exact.mappings_derivative(zero, params, normal(64, 2, 3), None)
        assert set(flat(tangents)) == {0}


def test_one_zero_stream_does_not_silence_the_other() -> None:
    exact = Exact(LUCIDRAINS)
    params = draw_params(LUCIDRAINS, 2, 3, 65, norm_weight=False)
    x = [[0, 0, 0], [1, -2, 3]]
    pre, _, _ = exact.mappings(x, params)
    alone, _, _ = exact.mappings([[1, 2, 3], [1, -2, 3]], params)
    assert pre[1] == alone[1]
    assert abs(pre[0] - 1 / (1 + exact.mp.exp(-exact.mp.mpf(params.bias[0])))) < 1e-50


@pytest.mark.parametrize("inside", [True, False])
def test_eps_enters_the_rms_where_the_dialect_says(inside: bool) -> None:
    exact = Exact(PAPER.with_(rms_eps=0.25, rms_eps_inside=inside, pre="linear"))
    rms = exact.mp.sqrt(exact.mp.mpf(4) + 0.25) if inside else exact.mp.mpf(2.25)
    pre, _, _ = exact.mappings([[2]], Params([[1, 0, 0]], [0] * 3, [1, 1, 1]))
    assert abs(pre[0] - 2 / rms) < 1e-50


def test_the_zero_state_moves_as_its_eps_allows() -> None:
    """d(x / (rms + eps)) at x = 0 is dx / eps."""
    exact = Exact(PAPER.with_(rms_eps=0.25, rms_eps_inside=False, pre="linear"))
    _, (dpre, _, _) = exact.mappings_derivative([[0]], Params([[1, 0, 0]], [0] * 3, [1, 1, 1]), [[1]], None)
    assert dpre == [4]


# Shared projection


def test_a_shared_projection_is_a_block_diagonal_one() -> None:
    """Stream s gives pre s, post s and row s of res from its own C channels."""
    n, width = 3, 2
    shared = LUCIDRAINS.with_(iterations=4)
    params = draw_params(shared, n, width, 70)
    wide = [[0.0] * (2 * n + n * n) for _ in range(n * width)]
    for s, c in itertools.product(range(n), range(width)):
        row = params.phi[c]
        wide[s * width + c][s], wide[s * width + c][n + s] = row[0], row[1]
        wide[s * width + c][2 * n + s * n : 2 * n + (s + 1) * n] = row[2:]
    x = normal(74, n, width)
    full = Exact(shared.with_(shared_projection=False))
    expected = full.mappings(x, Params(wide, params.bias, params.alpha, params.norm_weight))
    assert distance(Exact(shared).mappings(x, params), expected) < 1e-50


# Blocks and stacks


def test_hyper_connections_start_as_pre_norm() -> None:
    """arXiv 2409.19606 eq. (14): A_m = e_k, A_r = I, B = 1 keeps all streams equal to a plain residual network."""
    exact, n, h = Exact(HYPER_CONNECTIONS), 3, [1.0, -2.0]
    blocks = [
        Params(normal(k, 2, 5), [int(k == i) for i in range(n)] + [1] * n + [1, 0, 0, 0, 1, 0, 0, 0, 1], [0] * 3)
        for k in range(n)
    ]
    expected = [exact.mp.mpf(a) for a in h]
    for _ in blocks:
        expected = [a + exact.mp.tanh(a) for a in expected]
    branches = [lambda u: [exact.mp.tanh(a) for a in u]] * n
    assert distance(exact.stack(h, blocks, branches), [n * a for a in expected]) < 1e-50


def test_streams_persist_between_layers() -> None:
    """Layers that only permute give a power of the permutation, not the mean of the streams."""
    for transposed in (False, True):
        exact = Exact(RESIDUAL.with_(residual="unconstrained", transposed=transposed))
        shift = Params([[0] * 15] * 6, [0] * 6 + [0, 1, 0, 0, 0, 1, 1, 0, 0], [0] * 3)
        x = normal(80, 3, 2)
        moved = exact.layers(x, [shift] * 4, [lambda u: [0] * len(u)] * 4)
        assert moved == ([x[2], x[0], x[1]] if transposed else [x[1], x[2], x[0]])


@pytest.mark.parametrize("name", DIALECTS)
def test_a_stack_is_expand_layers_collapse(name: str) -> None:
    dialect = DIALECTS[name]
    exact, n, h = Exact(dialect.with_(iterations=3)), 3, normal(81, 2)
    params = [draw_params(dialect, n, 2, 82 + 4 * k) for k in range(3)]
    blocks, head = (params[:2], params[2]) if dialect.collapse == "head" else (params[:2], None)
    branches = [lambda u: [a * a for a in u], lambda u: [a + 1 for a in u]]
    x = exact.expand(h, n)
    assert x == ([h, [0, 0], [0, 0]] if dialect.expand == "one-hot" else [h] * n)
    read = None
    for p, f in zip(blocks, branches, strict=True):
        pre, post, res = exact.mappings(x, p)
        if read is None and dialect.first_read == "stream0":
            read = [1, *(0 for _ in pre[1:])]
        u = exact.pre(x, pre if read is None or dialect.read_from == "own" else read)
        x, read = exact.post(x, f(u), post, res), pre
    assert exact.layers(exact.expand(h, n), blocks, branches) == x
    given = exact.stack(h, [*blocks, head] if head else blocks, branches)
    assert given == (exact.pre(x, read or []) if dialect.collapse == "last-pre" else exact.collapse(x, head))


@pytest.mark.parametrize("name", ["DEEPSEEK_V4", "shared head"])
def test_a_head_reads_only_the_pre_part_of_parameters(name: str) -> None:
    exact, x = Exact(DIALECTS[name]), normal(83, 3, 2)
    full = draw_params(DIALECTS[name], 3, 2, 84)
    pre_columns = 1 if name == "shared head" else 3
    short = Params([row[:pre_columns] for row in full.phi], full.bias[:3], full.alpha[:1], full.norm_weight)
    gated = exact.collapse(x, full)
    assert gated == exact.collapse(x, short)
    assert gated == exact.pre(x, exact.mappings(x, full)[0])
    h = normal(85, 2)
    assert exact.stack(h, [short], []) == exact.collapse(exact.expand(h, 3), short)


def test_collapse_sums_or_averages() -> None:
    x = [[1, 2], [3, 6]]
    assert Exact(PAPER).collapse(x) == [4, 8]
    assert Exact(PAPER.with_(collapse="mean")).collapse(x) == [2, 4]
    assert Exact(PAPER).stack([1, 2], [], [], n=3) == [3, 6]


# Bad input


BAD = {
    "logits that are not square": (
        lambda: Exact(PAPER).project([[1, 2, 3], [4, 5, 6]]),
        r"logits\[0\] has 3 numbers; expected 2",
    ),
    "no logits": (lambda: Exact(PAPER).project([]), "logits has 0 rows; expected 1"),
    "a number of logits that is no factorial": (lambda: Exact(MHC_LITE).project([0] * 5), "5 numbers; expected 6"),
    "an infinite logit": (lambda: Exact(PAPER).project([[float("-inf")]]), "holds -inf; expected a finite"),
    "a logit that is no number": (lambda: Exact(PAPER).project([["one"]]), "holds 'one'; expected an int"),
    "a complex logit": (lambda: Exact(PAPER).project([[1j]]), "expected a finite real"),
    "a vector for a matrix": (lambda: Exact(PAPER).project([1, 2]), r"logits\[0\] is 1; expected a sequence"),
    "a direction of another n": (lambda: Exact(PAPER).project_derivative([[1]], FIXTURE), "4 streams; expected 1"),
    "ragged streams": (lambda: Exact(PAPER).collapse([[1, 2], [3]]), r"x\[1\] has 1 numbers; expected 2"),
    "no streams": (lambda: Exact(PAPER).collapse([]), "x has 0 rows; expected 1"),
    "no copies": (lambda: Exact(PAPER).expand([1], 0), "n is 0; expected 1 or more"),
    "phi for another width": (
        lambda: Exact(PAPER).mappings([[1, 2]], draw_params(PAPER, 1, 3, 0)),
        "params.phi has 3 rows; expected 2",
    ),
    "a tangent of weights that are not there": (
        lambda: Exact(PAPER).mappings_derivative(
            [[1]], draw_params(PAPER, 1, 1, 0, False), None, draw_params(PAPER, 1, 1, 0)
        ),
        "dparams.norm_weight is given",
    ),
    "a branch that changes the width": (
        lambda: Exact(PAPER).block([[1, 2]], draw_params(PAPER, 1, 2, 0), lambda u: u[:1]),
        r"branch\(u\) has 1 numbers; expected 2",
    ),
    "fewer parameters than branches": (
        lambda: Exact(PAPER).layers([[1]], [], [list]),
        "1 branches with parameters for 0",
    ),
    "no head": (lambda: Exact(DEEPSEEK_V4).collapse([[1]]), "head is None"),
    "nothing to read n off": (lambda: Exact(PAPER).stack([1], [], []), "expected n"),
    "no digits": (lambda: Exact(PAPER, digits=0), "digits is 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
