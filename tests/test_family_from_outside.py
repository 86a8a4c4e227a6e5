"""Families that are written here, outside of the packages, get what our own get, without a change in the packages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import PAPER, Dialect, project
from mhc_ref.exact import Exact
from properties import Implementation, bounds
from properties.bounds import Approx, Rounding
from properties.core.family import mix_of
from properties.core.implementation import Reference
from properties.core.law import all_laws
from properties.diagnosis.diagnose import identify
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.families import Field, Gate, Guarantees, Mix, Norm
from properties.guards.faults import HarnessError

CPU = torch.device("cpu")
MUTATION = "mutation, no public report"


# Families


class Tempered(Mix):
    """Softmax over the rows of Z / temperature."""

    name = "tempered"
    words = "a softmax of its logits over a temperature"
    source = "written for this test"
    roundings = 8
    FIELDS: Mapping[str, Field] = {"temperature": Field(1.0, lambda t: 0 < t < 1000, "a number between 0 and 1000")}

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return (logits / dialect.temperature).softmax(-1)

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> Any:
        return [real.softmax([z[n * i + j] / dialect.temperature for j in range(n)]) for i in range(n)]

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(nonnegative=True, sums=frozenset({"row"}), equivariant=True)

    def deviations(self) -> Mapping[str, Any]:
        return {
            "tempered-twice": (MUTATION, lambda z, d: (z / d.temperature**2).softmax(-1)),
            "tempered-over-columns": (MUTATION, lambda z, d: (z / d.temperature).softmax(-2)),
            "tempered-unnormalised": (MUTATION, lambda z, d: (z / d.temperature).softmax(-1) * 1.01),
        }


class Kronecker(Mix):
    """A Kronecker product of factors [[p, 1 - p], [1 - p, p]], p = sigmoid(z): n = 2^k streams for k logits."""

    name = "products_of_pairs"
    words = "a Kronecker product of 2 x 2 matrices"
    source = "KromHC, written anew for this test"
    roundings = 16

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        if n & (n - 1):
            raise ValueError(f"n is {n}; a Kronecker product of 2 x 2 factors has a power of two")
        return (n.bit_length() - 1,)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        p = logits.sigmoid()
        return kronecker(p, 1 - p)

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> Any:
        shares = [1 / (1 + real.exp(-one)) for one in z]
        matrix = [[1] * n for _ in range(n)]
        for k, p in enumerate(shares):
            bit = len(shares) - 1 - k
            for i, j in itertools.product(range(n), repeat=2):
                matrix[i][j] = matrix[i][j] * (p if (i >> bit) % 2 == (j >> bit) % 2 else 1 - p)
        return matrix

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(nonnegative=True, sums=frozenset({"row", "column"}))

    def deviations(self) -> Mapping[str, Any]:
        return {
            "pairs-reversed": (MUTATION, lambda z, d: kronecker(z.flip(-1).sigmoid(), 1 - z.flip(-1).sigmoid())),
            "pairs-tanh": (MUTATION, lambda z, d: kronecker(z.tanh(), 1 - z.tanh())),
        }


def kronecker(p: Tensor, q: Tensor) -> Tensor:
    """[..., k] shares and their complements -> [..., 2^k, 2^k]."""
    matrix = p.new_ones(*p.shape[:-1], 1, 1)
    for one, other in zip(p.unbind(-1), q.unbind(-1), strict=True):
        factor = torch.stack([torch.stack([one, other], -1), torch.stack([other, one], -1)], -2)
        size = 2 * matrix.shape[-1]
        matrix = (matrix[..., :, None, :, None] * factor[..., None, :, None, :]).reshape(*p.shape[:-1], size, size)
    return matrix


class Algebraic(Gate):
    """(1 + z / sqrt(1 + z^2)) / 2."""

    name = "algebraic"
    words = "an algebraic sigmoid"
    roundings = 8

    def gates(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return (1 + logits / (1 + logits.square()).sqrt()) / 2

    def exact(self, logits: Any, dialect: Dialect, real: Any) -> Any:
        return [(1 + z / real.sqrt(1 + z * z)) / 2 for z in logits]


class Absolute(Norm):
    """x over the root of its mean square plus 1, which sees the scale of a state."""

    name = "absolute"
    words = "the root of its mean square plus 1"
    roundings = 8

    def normalise(self, x: Tensor, dialect: Dialect) -> Tensor:
        return x / (1 + x.square().mean((-2, -1), keepdim=True)).sqrt()

    def exact(self, x: Any, dialect: Dialect, real: Any) -> Any:
        numbers = [number for stream in x for number in stream]
        size = real.sqrt(1 + real.sum([number * number for number in numbers]) / len(numbers))
        return [[number / size for number in stream] for stream in x]


TEMPERED = Dialect(residual=Tempered(), temperature=0.5, rms_eps=1e-6)
KRONECKER = Dialect(residual=Kronecker(), rms_eps=1e-6)
GATED = PAPER.with_(pre=Algebraic(), post=Algebraic())
NORMED = PAPER.with_(norm_over=Absolute())


# Implementations that are right


class Otherwise(Implementation):
    """A block by formulas of its own; `res` makes h_res of logits, and `gate` weights of theirs."""

    def __init__(
        self, dialect: Dialect, res: Callable[[Tensor], Tensor], streams: tuple[int, ...] = (1, 2, 3, 4)
    ) -> None:
        self.dialect, self.res, self.streams, self.name = dialect, res, streams, "otherwise"

    def project(self, logits: Tensor) -> Tensor:
        return self.res(logits)


def two_exponentials(logits: Tensor) -> Tensor:
    weights = ((logits - logits.amax(-1, keepdim=True)) * 2).exp()
    return weights / weights.sum(-1, keepdim=True)


def no_difference(logits: Tensor) -> Tensor:
    """1 - p as the sigmoid of -z: no digit is lost, where the formula of the family loses all."""
    return kronecker(logits.sigmoid(), (-logits).sigmoid())


def shares_of_two(logits: Tensor) -> Tensor:
    """p and 1 - p as a softmax over z / 2 and -z / 2."""
    p, q = torch.stack([logits / 2, -logits / 2]).softmax(0)
    return kronecker(p, q)


RIGHT: dict[str, Implementation] = {
    "tempered": Reference(TEMPERED, "tempered"),
    "tempered, otherwise": Otherwise(TEMPERED, two_exponentials),
    "tempered, in float64": Otherwise(TEMPERED, lambda z: two_exponentials(z.double()).to(z.dtype)),
    "pairs, otherwise": Otherwise(KRONECKER, shares_of_two, (1, 2, 4, 8)),
    "gates": Reference(GATED, "gates"),
    "norm": Reference(NORMED, "norm"),
}


def examined(law: str, target: Implementation, dtype: torch.dtype, where: Path, examples: int = 6) -> Verdict:
    profile = Profile(examples, derandomise=True, shrink=False)
    return examine(all_laws()[law], Subject("mine", target, dtype, CPU), profile, directory=where)


# What they get

LAWS = (
    "manifold.agrees-with-oracle",
    "manifold.claimed-sums-are-one",
    "manifold.no-entry-is-negative",
    "mixing.claimed-sums-are-conserved",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_never_accused(name: str, tmp_path: Path) -> None:
    found = [examined(law, RIGHT[name], torch.float32, tmp_path, 3) for law in LAWS]
    assert {one.status for one in found} <= {"passed", "not-applicable"}, [one.message or one.reason for one in found]
    assert any(one.status == "passed" for one in found)


ROOMS = ("block.agrees-with-oracle", "coefficients.agrees-with-oracle", "depth.layers-are-blocks-in-order")
"""A law of each kind of thing that a family has a part in."""


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RIGHT if isinstance(RIGHT[name], Reference)])
def test_blocks_and_stacks_of_what_is_right_are_not_accused(name: str, tmp_path: Path) -> None:
    found = {law: examined(law, RIGHT[name], torch.float32, tmp_path, 2) for law in ROOMS}
    assert {law: one.status for law, one in found.items()} == dict.fromkeys(ROOMS, "passed")


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_never_accused_by_any_law(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    found = {law: examined(law, RIGHT[name], dtype, tmp_path, 10) for law in all_laws() if not law.startswith("device")}
    accused = {law: one.message or one.reason for law, one in found.items() if one.status in ("failed", "error")}
    assert not accused
    exercised = {law.partition(".")[0] for law, one in found.items() if one.status == "passed"}
    if isinstance(RIGHT[name], Reference):
        assert exercised >= {"block", "depth", "execution", "gradient", "mixing", "precision"}


SLIPS = [
    (dialect, name, wrong)
    for dialect in (TEMPERED, KRONECKER)
    for name, (_, wrong) in mix_of(dialect).deviations().items()
]


@pytest.mark.parametrize(("dialect", "name", "wrong"), SLIPS, ids=[name for _, name, _ in SLIPS])
def test_a_deviation_is_killed(dialect: Dialect, name: str, wrong: Any, tmp_path: Path) -> None:
    streams = (1, 2, 4, 8) if dialect is KRONECKER else (1, 2, 3, 4)
    target = Otherwise(dialect, lambda logits: wrong(logits, dialect), streams)
    assert examined("manifold.agrees-with-oracle", target, torch.float32, tmp_path).status == "failed"


def test_a_guarantee_is_a_law_of_the_family(tmp_path: Path) -> None:
    dialect = TEMPERED
    loose = Otherwise(dialect, lambda logits: two_exponentials(logits) * (1 + 1e-4))
    assert examined("manifold.claimed-sums-are-one", loose, torch.float32, tmp_path).status == "failed"
    below = Otherwise(dialect, lambda logits: two_exponentials(logits) - 1e-4)
    assert examined("manifold.no-entry-is-negative", below, torch.float32, tmp_path).status == "failed"


@pytest.mark.parametrize("formula", [Kronecker().project, lambda z, dialect: no_difference(z)], ids=["1 - p", "-z"])
def test_no_digit_of_a_difference_is_asked_for(formula: Callable[[Tensor, Dialect], Tensor]) -> None:
    """1 - p at p = 1 - 1e-9: 0 in float32, where the truth is 1e-9."""
    logits = torch.tensor([[20.7232658]])
    bound = bounds.projection(Approx.exact(logits), KRONECKER, Rounding.of(torch.float32))
    exact = torch.tensor([[[float(one) for one in row] for row in Exact(KRONECKER).project(logits[0].tolist())]])
    assert 0.9e-9 < exact[0, 0, 1] < 1.1e-9
    off = (formula(logits, KRONECKER).double() - exact.double()).abs()
    assert (off <= bound.error).all()
    assert (bound.error < 1e-5).all()


class Torn(Mix):
    """Formulas that disagree."""

    name = "torn"
    words = "one thing in torch and another in mpmath"
    roundings = 8

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return logits.tanh()

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> Any:
        return [[2 * real.tanh(z[n * i + j]) for j in range(n)] for i in range(n)]


@pytest.mark.parametrize("law", ["manifold.agrees-with-oracle", "block.agrees-with-oracle"])
def test_formulas_that_disagree_accuse_nobody(law: str, tmp_path: Path) -> None:
    torn = Reference(Dialect(residual=Torn()), "torn")
    with pytest.raises(HarnessError, match="the formulas of the mix family 'torn' disagree"):
        examined(law, torn, torch.float32, tmp_path)


@pytest.mark.slow
def test_an_own_field_is_identified() -> None:
    computed = TEMPERED.with_(temperature=1.0)
    target = Otherwise(TEMPERED, lambda logits: project(logits, computed))
    found = identify(target, seconds=10, hidden=0)
    assert found.explained
    assert {field: theirs for field, (_, theirs) in found.differs.items()} == {"temperature": 1.0}
