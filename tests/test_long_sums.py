"""Long sums: any order in float32 stays within the bound, and chunks whose sums are stored in bfloat16 leave it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, HYPER_CONNECTIONS, LUCIDRAINS, PAPER, Branch, Dialect, Params
from mhc_ref.block import mappings, normalise
from properties.bounds import Approx, Rounding, normalised, projected
from properties.bounds.arithmetic import addends
from properties.catalogue import controls
from properties.catalogue.deviations import build
from properties.catalogue.deviations.backward import StoredInBfloat16
from properties.core.case import Case
from properties.core.deviant import Deviant, through
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine
from properties.guards.surroundings import drawn_alike
from properties.strategies import Setting
from properties.strategies.long_sums import TERMS, gathered, long_sums

CPU = torch.device("cpu")
SUMS = "precision.sums-over-channels-keep-the-compute-precision"
SPLITS = range(2, 65)
CHUNKS = range(16, 4097)


def drawn(dialect: Dialect, dtype: torch.dtype, number: int, streams: tuple[int, ...] = (2, 4)) -> list[Case]:
    found: list[Case] = []

    @seed(5)
    @settings(
        max_examples=number,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(long_sums(Setting(dialect, streams, dtype)))
    def collect(case: Case) -> None:
        found.append(case)

    with drawn_alike():
        collect()
    return found


@functools.cache
def cases() -> list[Case]:
    """Twenty-four cases of bfloat16."""
    return drawn(DEEPSEEK_V4, torch.bfloat16, 24)


def test_zeros_do_not_count_as_terms_of_a_sum() -> None:
    x = torch.zeros(2, 3, 5)
    x[0, 0, :2] = x[1, 1, 0] = 1
    assert addends(Approx.exact(x), over=(-2, -1)) == 2
    assert addends(Approx.exact(x), over=(-1,)) == 2
    moved = Approx(x.double(), torch.full(x.shape, 1e-9).double())
    assert addends(moved, over=(-2, -1)) == 15  # what has an error may be other than 0
    assert addends(Approx.exact(x[:0]), over=(-1,)) == 0


@pytest.mark.parametrize("dialect", [DEEPSEEK_V4, LUCIDRAINS, HYPER_CONNECTIONS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_inputs_are_long_sums_of_few_terms_that_every_dtype_holds(dialect: Dialect, dtype: torch.dtype) -> None:
    for case in drawn(dialect, dtype, 3):
        length = math.prod(case.x.shape[-2:]) if not dialect.shared_projection else case.x.shape[-1]
        balance = case.x[..., -1:]
        used = case.x[..., :-1] != 0
        assert length >= 1000
        assert set(used.flatten(1).sum(-1).tolist()) == {TERMS * (case.x.shape[-2] if dialect.shared_projection else 1)}
        assert torch.equal(case.x[..., :-1].to(torch.bfloat16).to(dtype), case.x[..., :-1])
        assert bool((balance[:, 0] == 1).all())


@pytest.mark.parametrize("dialect", [DEEPSEEK_V4, LUCIDRAINS, HYPER_CONNECTIONS])
def test_the_truth_is_that_of_few_channels(dialect: Dialect) -> None:
    for case in drawn(dialect, torch.float64, 4):
        x, params, keep, factor = gathered(case, True)
        whole = mappings(case.x, case.params, dialect)
        assert x.shape[-1] <= 1536
        for one, other in zip(mappings(x, params, dialect), whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
        assert torch.equal(factor * x, case.x[..., keep])
        assert gathered(case, False)[3] == 1


def orders(length: int) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Sums over the first axis in float32: in chains forwards and backwards, strided, pairwise, and split."""
    rng = np.random.default_rng(1)

    def chain(terms: Any) -> Any:
        return np.add.accumulate(terms, axis=0, dtype=np.float32)[-1]

    def strided(terms: Any, lanes: int = 32) -> Any:
        padded = np.concatenate([terms, np.zeros((-length % lanes, *terms.shape[1:]), np.float32)])
        return chain(chain(padded.reshape(-1, lanes, *terms.shape[1:])))

    def pairwise(terms: Any) -> Any:
        while len(terms) > 1:
            terms = np.concatenate([terms, np.zeros((len(terms) % 2, *terms.shape[1:]), np.float32)])
            terms = terms[::2] + terms[1::2]
        return terms[0]

    yield "chain", chain
    yield "backwards", lambda terms: chain(terms[::-1])
    yield "strided", strided
    yield "pairwise", pairwise
    yield "chunks", lambda terms: chain(np.stack([chain(one) for one in np.array_split(terms, 13)]))
    yield "any", lambda terms: chain(terms[rng.permutation(length)])


def sums_and_bounds(case: Case, dialect: Dialect) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The normalised state, its sums with phi, and what rounding explains of them and of the mean square."""
    r = Rounding.of(case.x.dtype)
    bound = projected(Approx.exact(case.x), case.params, dialect, r)
    state = normalise(case.x.double(), None, dialect).flatten(-2)
    return state, bound.value, bound.error, normalised(Approx.exact(case.x), None, dialect, r)[1].flatten()


@pytest.mark.parametrize("number", range(6))
def test_every_order_of_float32_stays_within_the_bound(number: int) -> None:
    case = cases()[number]
    state, exact, error, shared = sums_and_bounds(case, DEEPSEEK_V4)
    phi = case.params.phi.numpy()
    flat = case.x.float().flatten(1).numpy()
    for name, total in orders(flat.shape[1]):
        for token, values in enumerate(flat):
            squares = total(values * values)
            inverse = np.float32(1) / np.sqrt(squares / np.float32(len(values)) + np.float32(DEEPSEEK_V4.rms_eps))
            before = total((values * inverse)[:, None] * phi)
            after = total(values[:, None] * phi) * inverse
            off = torch.tensor(inverse.item() * state[token].square().mean().sqrt().item() - 1)
            for got in (before, after):
                ratio = (torch.tensor(got).double() - exact[token]).abs() / error[token]
                assert ratio.max() <= 1, (name, token)
            scale = (state[token] / case.x[token].double().flatten()).nan_to_num().max().item()
            assert abs(inverse.item() / scale - 1) <= shared[token].item(), (name, off)


def stored(values: Any) -> Any:
    """Rounded to bfloat16 and back."""
    return torch.tensor(values).to(torch.bfloat16).double().numpy()


def chunks_of(case: Case) -> Iterator[tuple[str, Any]]:
    """Every split in so many chunks and into chunks of so many, contiguous, as the number of the chunk of each term."""
    length = math.prod(case.x.shape[-2:])
    place = np.arange(length)
    yield from ((f"{split} splits", place // -(-length // split)) for split in SPLITS)
    yield from ((f"{split} strided splits", place % split) for split in SPLITS)
    yield from ((f"chunks of {chunk}", place // chunk) for chunk in CHUNKS if chunk < length)


def betrayed(terms: Any, owner: Any, places: Any, exact: Any, error: Any) -> float:
    """The largest error / bound where the sums [columns] over each chunk are stored in bfloat16."""
    chunk = owner[places]
    _, inverse = np.unique(chunk, return_inverse=True)
    partial = np.zeros((inverse.max() + 1, terms.shape[1]))
    np.add.at(partial, inverse, terms)
    return float((np.abs(stored(partial).sum(0) - exact) / error).max())


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_partial_sums_of_logits_in_bfloat16_leave_the_bound_for_every_split(number: int) -> None:
    case = cases()[number]
    state, exact, error, _ = sums_and_bounds(case, DEEPSEEK_V4)
    phi = case.params.phi.double().numpy()
    for name, owner in chunks_of(case):
        found = []
        for token in range(len(state)):
            places = np.flatnonzero((phi != 0).any(1) & (state[token].numpy() != 0))
            terms = state[token].numpy()[places, None] * phi[places]
            found.append(betrayed(terms, owner, places, exact[token].numpy(), error[token].numpy()))
        assert max(found) > 4, name


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(0, 1, 2), (3, 4, 5)])
def test_partial_sums_of_squares_in_bfloat16_leave_the_bound_for_every_split(numbers: tuple[int, ...]) -> None:
    """All columns of a token share the error of its rms: three tokens in each of the three cases of a check."""
    chosen = [cases()[k] for k in numbers]
    shares = [sums_and_bounds(case, DEEPSEEK_V4)[3] for case in chosen]
    for each in zip(*(chunks_of(case) for case in chosen), strict=False):
        found = []
        for case, shared, (_, owner) in zip(chosen, shares, each, strict=True):
            for token, values in enumerate(case.x.double().flatten(1).numpy()):
                places = np.flatnonzero(values)
                squares = values[places, None] ** 2
                bound = 2 * shared[token].item() * squares.sum()
                found.append(betrayed(squares, owner, places, squares.sum(0), np.array([bound])))
        assert max(found) > 2, each[0][0]


class Split(Deviant):
    """Sums of more than 512 channels in chunks, whose sums are stored in another dtype."""

    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    dtype, parts = torch.bfloat16, 8

    def kept(self, parts: list[Tensor]) -> Tensor:
        return torch.stack([through(part, self.dtype) for part in parts]).sum(0)


class Logits(Split):
    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        flat = state.flatten(-2)
        if flat.shape[-1] <= 512:
            return super().matmul(state, phi)
        return self.kept([a @ b for a, b in zip(flat.chunk(self.parts, -1), phi.chunk(self.parts, 0), strict=True)])


class Squares(Split):
    def mean_square(self, x: Tensor) -> Tensor:
        flat = x.flatten(-2)
        if flat.shape[-1] <= 512:
            return super().mean_square(x)
        sums = [one.square().sum(-1, keepdim=True) for one in flat.chunk(self.parts, -1)]
        return (self.kept(sums) / flat.shape[-1]).unsqueeze(-1)


class BlockOnly(Implementation):
    """Another implementation, of which only blocks can be called."""

    def __init__(self, other: Implementation) -> None:
        self.other, self.dialect, self.dtypes = other, other.dialect, other.dtypes

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return self.other.block(x, params, branch)


def status(law: str, implementation: Implementation, dtype: torch.dtype, where: Path) -> str:
    profile = Profile(10, derandomise=True, shrink=False)
    return examine(all_laws()[law], Subject("target", implementation, dtype, CPU), profile, directory=where).status


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("kind", [Logits, Squares])
@pytest.mark.parametrize("split", [2, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_split_that_stores_its_sums_in_bfloat16_is_seen(
    kind: type[Split], split: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    target = kind(DEEPSEEK_V4)
    target.parts = split
    assert status(SUMS, target, dtype, tmp_path) == "failed"
    assert status(f"{SUMS}-in-a-block", BlockOnly(target), dtype, tmp_path) == "failed"


@pytest.mark.parametrize("split", [2, 8])
def test_a_split_that_stores_its_sums_in_float16_is_seen(split: int, tmp_path: Path) -> None:
    target = Logits(DEEPSEEK_V4)
    target.parts, target.dtype = split, torch.float16
    assert status(SUMS, target, torch.float16, tmp_path) == "failed"


class Head(Logits):
    """A head whose logits are summed in chunks."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        n = x.shape[-2]
        whole = torch.zeros_like(params.phi)
        whole[:, :n] = params.phi[:, :n]
        logits = self.matmul(self.normalised(x, params.norm_weight), whole)[..., :n]
        return self.h_pre(self.gated(logits, params.alpha[0], params.bias[:n]))


class SumInTheState(Deviant):
    """Streams that end, and streams that are read, are summed in the dtype of the state."""

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        return functools.reduce(torch.add, x.unbind(-2))

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return functools.reduce(torch.add, (h_pre.to(x.dtype).unsqueeze(-1) * x).unbind(-2))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_stores_partial_sums_in_bfloat16_is_seen(dtype: torch.dtype, tmp_path: Path) -> None:
    assert status("precision.collapsing-keeps-the-compute-precision", Head(DEEPSEEK_V4), dtype, tmp_path) == "failed"


@pytest.mark.parametrize("stage", ["collapsing", "reading"])
def test_streams_that_are_summed_in_the_dtype_of_the_state_are_seen(stage: str, tmp_path: Path) -> None:
    target = SumInTheState(PAPER)
    target.streams = (3, 4)
    assert status(f"precision.{stage}-keeps-the-compute-precision", target, torch.bfloat16, tmp_path) == "failed"


class ChannelsInChunks(Deviant):
    """Gradients by the mappings are sums over chunks of channels, which are stored in bfloat16."""

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        whole = super().pre
        parts = x.split(512, -1)
        return torch.cat([whole(one, _stored(h_pre)) for one in parts], -1) if len(parts) > 1 else whole(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        whole = super().post
        parts = list(zip(x.split(512, -1), y.split(512, -1), strict=True))
        if len(parts) < 2:
            return whole(x, y, h_post, h_res)
        return torch.cat([whole(one, out, _stored(h_post), _stored(h_res)) for one, out in parts], -1)


def _stored(value: Tensor) -> Tensor:
    found: Any = StoredInBfloat16.apply(value)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_over_chunks_of_channels_in_bfloat16_are_seen(dtype: torch.dtype, tmp_path: Path) -> None:
    law = "precision.gradients-sum-over-channels-in-the-compute-precision"
    assert status(law, ChannelsInChunks(DEEPSEEK_V4), dtype, tmp_path) == "failed"


TOKENS = "precision.sums-over-tokens-keep-the-compute-precision"
SEEN_BY = {
    "partial-logits-in-bfloat16": SUMS,
    "partial-squares-in-bfloat16": SUMS,
    "token-sums-in-bfloat16": TOKENS,
}
"""Hidden deviation -> the law that sees it."""


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [DEEPSEEK_V4, LUCIDRAINS])
@pytest.mark.parametrize("name", SEEN_BY)
def test_a_hidden_deviation_is_seen_by_its_laws(name: str, dialect: Dialect, tmp_path: Path) -> None:
    target = build(name, dialect)
    assert status(SEEN_BY[name], target, torch.bfloat16, tmp_path) == "failed"
    assert status(f"{SEEN_BY[name]}-in-a-block", BlockOnly(target), torch.bfloat16, tmp_path) == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN_BY)
def test_a_hidden_deviation_is_right_in_ordinary_calls(name: str, tmp_path: Path) -> None:
    assert status("coefficients.agrees-with-oracle", build(name, PAPER), torch.float32, tmp_path) == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reversed", "pairwise", "compensated", "norm-after-matmul", "half"])
def test_correct_orders_of_summation_are_not_accused(name: str, tmp_path: Path) -> None:
    target = controls.CATALOGUE[name].make(DEEPSEEK_V4)
    laws = [one for one in all_laws().values() if one.module == "properties.laws.precision_sums"]
    assert len(laws) == 7
    for law in laws:
        found = examine(
            law, Subject(name, target, target.dtypes[-1], CPU), Profile(10, shrink=False), directory=tmp_path
        )
        assert found.status == "passed", found.message
