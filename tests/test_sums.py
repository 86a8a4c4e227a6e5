"""The order of sums is read off: of hand-written ones, and of targets whose order is known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, Mappings, Params
from properties.catalogue import controls
from properties.core.deviant import Deviant, through
from properties.core.implementation import Implementation, Reference
from properties.diagnosis.command import identify_command
from properties.diagnosis.summation import Summed, Unreadable, chains, read
from properties.diagnosis.sums import sums_of

Sum = Callable[[Tensor], Tensor]


def chain(terms: Tensor) -> Tensor:
    """One term after the other along the last axis, in the dtype of the terms."""
    total = terms[..., 0]
    for k in range(1, terms.shape[-1]):
        total = total + terms[..., k]
    return total


def pairwise(terms: Tensor) -> Tensor:
    while (count := terms.shape[-1]) > 1:
        paired = terms[..., : count // 2 * 2].unflatten(-1, (-1, 2))
        terms = torch.cat([paired[..., 0] + paired[..., 1], terms[..., count // 2 * 2 :]], -1)
    return terms[..., 0]


def strided(lanes: int, within: Sum, then: Sum) -> Sum:
    return lambda terms: then(within(terms.unflatten(-1, (-1, lanes)).transpose(-1, -2)))


def chunks(number: int, within: Sum, then: Sum) -> Sum:
    return lambda terms: then(within(terms.unflatten(-1, (number, -1))))


def at_once(width: int) -> Sum:
    """Several terms and the accumulator together, cut to 24 bits of the largest of them, as tensor cores have it."""

    def total(terms: Tensor) -> Tensor:
        sums = torch.zeros(terms.shape[:-1], dtype=torch.float64)
        for part in terms.double().split(width, -1):
            every = torch.cat([sums.unsqueeze(-1), part], -1)
            last = 2.0 ** (every.abs().amax(-1, keepdim=True).clamp_min(2.0**-60).log2().floor() - 23)
            sums = ((every / last).trunc() * last).sum(-1)
        return sums

    return total


KNOWN: dict[str, Sum] = {
    "in one chain": chain,
    "in one chain from the last": lambda terms: chain(terms.flip(-1)),
    "in one chain, in another order": lambda terms: chain(terms[..., torch.arange(64) * 11 % 64]),
    "pairwise": pairwise,
    "8 strided chains, then pairwise": strided(8, chain, pairwise),
    "8 strided chains, then in one chain": strided(8, chain, chain),
    "2 strided chains, then added": strided(2, chain, chain),
    "4 chunks of 16, each in one chain, then in one chain": chunks(4, chain, chain),
    "4 chunks of 16, each in one chain, then pairwise": chunks(4, chain, pairwise),
    "4 chunks of 16, each pairwise, then in one chain": chunks(4, pairwise, chain),
    "2 chunks of 32, each 8 strided chains, then pairwise, then added": chunks(2, strided(8, chain, pairwise), chain),
}


def of(total: Sum, dtype: torch.dtype = torch.float32, count: int = 64) -> Summed:
    return read("a sum", count, lambda masks: total(masks.to(dtype)).double())


@pytest.mark.parametrize("words", KNOWN)
def test_a_known_order_is_read_off(words: str) -> None:
    found = of(KNOWN[words])
    assert found.order == words
    assert found.bits == (24, 24)


@pytest.mark.parametrize("count", [3, 4, 7, 8, 33])
def test_few_terms_and_odd_numbers_of_them_are_read_off(count: int) -> None:
    assert of(chain, count=count).order == "in one chain"
    assert of(pairwise, count=count).order in ("pairwise", "in one chain")


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float64, 53), (torch.bfloat16, 8), (torch.float32, 24)])
def test_the_bits_of_the_accumulator_are_counted(dtype: torch.dtype, bits: int) -> None:
    assert of(pairwise, dtype).bits == (bits, bits)


def test_partial_sums_in_bfloat16_show_where_they_meet() -> None:
    found = of(chunks(4, lambda terms: through(chain(terms), torch.bfloat16), chain))
    assert found.bits == (24, 8)
    assert str(found).endswith("with 24 bits, and 8 bits where partial sums meet")


def test_an_order_of_nobody_is_told_by_its_height() -> None:
    total = of(
        lambda terms: chain(
            torch.cat([chain(terms[..., :40]).unsqueeze(-1), pairwise(terms[..., 40:]).unsqueeze(-1)], -1)
        )
    )
    assert total.order == "in an order of its own, a tree 40 additions high"


def test_several_terms_at_once_are_seen() -> None:
    assert of(at_once(4), count=16).order == "in one chain, 4 terms at once"


@pytest.mark.parametrize(
    ("total", "why"),
    [
        (lambda terms: chain(terms.to(torch.float16)), "infinity or a NaN"),
        (lambda terms: chain(terms) ** 2, "no number of terms"),
        (lambda terms: 0.5 * chain(terms), "equal numbers is not their number"),
        (lambda terms: chain(terms) + (terms[..., 3].abs() > 2) * terms.shape[-1] / 3, "number of terms|no tree"),
    ],
)
def test_what_cannot_be_read_says_why(total: Sum, why: str) -> None:
    found = of(total)
    assert not found.order
    assert re.search(why, found.why)
    assert "could not be read" in str(found)


def test_squares_tell_how_long_their_chains_are() -> None:
    assert chains(4096, (0, 4095), 8) == "in one chain"
    assert chains(4096, (4095, 0), 8) == "in one chain from the last"
    assert chains(4096, (4095 - 511, 4095), 8) == "in chains of about 512 terms"
    assert chains(4096, (4094, 4095), 8).startswith("in chains of fewer than 16")
    with pytest.raises(Unreadable, match="24 bits"):
        chains(4096, (0, 0), 8)


def orders(target: Implementation) -> dict[str, Summed]:
    return {one.of: one for one in sums_of(target)}


LOGITS, SQUARES, READ = "the logits' sum over channels", "the sum of squares", "the read's sum over streams"


class Chains(Deviant):
    """Eight strided chains for the logits, sixteen chunks for the squares."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        terms = state.flatten(-2).unsqueeze(-1) * phi
        return strided(8, chain, pairwise)(terms.transpose(-1, -2))

    def mean_square(self, x: Tensor) -> Tensor:
        squares = x.square().flatten(-2)
        return (chunks(16, chain, chain)(squares) / squares.shape[-1]).unsqueeze(-1).unsqueeze(-1)


def test_the_order_of_the_sums_of_a_target_is_read_off() -> None:
    found = orders(Chains(DEEPSEEK_V4))
    assert found[LOGITS].order == "8 strided chains, then pairwise"
    assert found[LOGITS].bits == (24, 24)
    length = int(found[SQUARES].order.removeprefix("in chains of about ").removesuffix(" terms"))
    assert abs(length - 256) <= 8


@pytest.mark.slow
def test_the_order_of_streams_is_read_off() -> None:
    assert orders(controls.CATALOGUE["reversed"].make(PAPER))[READ].order == "in one chain from the last"


@pytest.mark.slow
@pytest.mark.parametrize("target", [Reference(DEEPSEEK_V4), Reference(PAPER)])
def test_the_sums_of_torch_are_read_off(target: Implementation) -> None:
    found = sums_of(target)
    assert len(found) == 5
    assert all(one.order for one in found), [str(one) for one in found]
    assert {one.bits for one in found if one.bits} <= {(24, 24), (53, 53)}


class Half(Reference):
    dtypes = (torch.float16,)


class Raising(Reference):
    def mappings(self, x: Tensor, params: Params) -> Mappings:
        raise RuntimeError("not today")


def test_a_target_of_which_nothing_can_be_read_says_why() -> None:
    found = orders(Raising(PAPER))
    assert "not today" in found[LOGITS].why
    assert "beyond the range" in sums_of(Half(DEEPSEEK_V4))[0].why


@pytest.mark.slow
def test_identify_names_the_orders(capsys: pytest.CaptureFixture[str]) -> None:
    assert identify_command("control:pairwise", as_json=True) == 0
    out, err = capsys.readouterr()
    told = json.loads(out.splitlines()[-1])
    assert {one["of"]: one["order"] for one in told["sums"]}[LOGITS] == "pairwise"
    assert set(told["sums"][0]) == {"of", "terms", "order", "bits", "why"}
    assert "sums: the logits' sum over channels of 128 terms: pairwise, with 24 bits" in err
