"""The delayed read: branches read with the gates of the block before, and only several blocks show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from test_deviations import branch, generic_params, normal
from torch import Tensor

import mhc_ref
from mhc_ref import DEEPSEEK_V4, DEEPSEEK_V4_1, Branch, Dialect, Params
from mhc_ref.block import passed
from properties.bounds import Approx, Rounding, pullback
from properties.bounds.block import step
from properties.catalogue.deviations import build
from properties.core.case import BranchSpec
from properties.core.deviant import Deviant
from properties.core.exact_truth import ExactTruth
from properties.core.implementation import Implementation, Reference, offers
from properties.core.law import all_laws
from properties.core.truth import FloatTruth
from properties.diagnosis.diagnose import identify
from properties.engine.runner import PROFILES, Subject, examine

N, C = 3, 4
AFTER_THE_FIRST = DEEPSEEK_V4.with_(read_from="previous", first_read="own")
DELAYED = [DEEPSEEK_V4_1, AFTER_THE_FIRST, DEEPSEEK_V4_1.with_(first_read="own", collapse="mean")]
CPU = torch.device("cpu")


def blocks(dialect: Dialect, depth: int = 3) -> list[Params]:
    """Parameters of a few blocks, without norm weights."""
    return [generic_params(dialect, N, C, seed=30 * k)._replace(norm_weight=None) for k in range(depth)]


def heads(dialect: Dialect) -> list[Params]:
    """Those of a head, where the dialect ends with one."""
    return [generic_params(dialect, N, C, seed=99)._replace(norm_weight=None)] if dialect.collapse == "head" else []


def test_the_preset_is_that_of_the_release() -> None:
    assert DEEPSEEK_V4_1.difference(DEEPSEEK_V4) == {
        "rms_eps": (1e-20, 1e-6),
        "collapse": ("last-pre", "head"),
        "read_from": ("previous", "own"),
        "first_read": ("stream0", "own"),
    }


@pytest.mark.parametrize("field", ["read_from", "first_read"])
def test_another_word_for_a_read_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"Dialect\.{field} is 'next'; expected one of 'own', "):
        DEEPSEEK_V4.with_(**{field: "next"})


def test_branches_read_with_the_gates_of_the_block_before() -> None:
    x, params = normal(2, N, C), blocks(DEEPSEEK_V4_1)
    read: list[Tensor] = []

    def noting(u: Tensor) -> Tensor:
        read.append(u)
        return branch(u)

    after = mhc_ref.layers(x, params, [noting] * 3, DEEPSEEK_V4_1)
    state, gates = x, None
    for one, u in zip(params, read, strict=True):
        h = mhc_ref.mappings(state, one, DEEPSEEK_V4_1)
        assert torch.equal(u, state[..., 0, :] if gates is None else mhc_ref.pre(state, gates))
        state, gates = mhc_ref.post(state, branch(u), h.post, h.res, DEEPSEEK_V4_1), h.pre
    assert torch.equal(after, state)
    h, gates = normal(2, C), None
    state = mhc_ref.expand(h, N, DEEPSEEK_V4_1)
    for one in params:
        state, gates = passed(state, one, branch, DEEPSEEK_V4_1, gates)
    assert gates is not None
    assert torch.equal(mhc_ref.stack(h, params, [branch] * 3, DEEPSEEK_V4_1), mhc_ref.pre(state, gates))


def test_a_collapse_by_itself_has_no_gates_to_read_with() -> None:
    with pytest.raises(ValueError, match="collapse='last-pre' needs the h_pre of the last block; none was given"):
        mhc_ref.collapse(normal(2, N, C), DEEPSEEK_V4_1)
    assert "collapse" not in offers(Reference(DEEPSEEK_V4_1))
    assert "collapse" in offers(Reference(AFTER_THE_FIRST))


@pytest.mark.parametrize("dialect", DELAYED)
def test_a_block_is_the_first_of_a_stack(dialect: Dialect) -> None:
    x, (params,) = normal(2, N, C), blocks(dialect, 1)
    for made in (Reference(dialect), Deviant(dialect)):
        expected = mhc_ref.layers(x, [params], [branch], dialect)
        torch.testing.assert_close(made.block(x, params, branch), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dialect", DELAYED)
def test_what_is_made_of_parts_reads_as_declared(dialect: Dialect) -> None:
    made, params, several = Deviant(dialect), blocks(dialect), [branch] * 3
    assert offers(made)["layers"] == "derived from mappings, pre, post"
    x, h, every = normal(2, N, C), normal(2, C), [*params, *heads(dialect)]
    for found, expected in (
        (made.layers(x, params, several), mhc_ref.layers(x, params, several, dialect)),
        (made.stack(h, every, several), mhc_ref.stack(h, every, several, dialect)),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DELAYED)
def test_both_references_agree_forwards_and_backwards(dialect: Dialect) -> None:
    params, h, bar = blocks(dialect), normal(2, C), normal(2, C, seed=3)
    every = [*params, *heads(dialect)]
    branches = [BranchSpec("scale", normal(C, seed=4 + k)) for k in range(3)]
    float64, mpmath = FloatTruth(dialect), ExactTruth(dialect)
    outputs = [normal(2, C, seed=8 + k) for k in range(3)]
    (read, one), (exactly, other) = (truth.stack(h, N, every, outputs) for truth in (float64, mpmath))
    for mine, theirs in zip([*read, one], [*exactly, other], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    found, expected = (truth.stack_vjp(h, N, every, branches, bar) for truth in (float64, mpmath))
    r = Rounding.of(torch.float64)
    by_h, layers = pullback.stack(h, N, params, branches, heads(dialect), bar, dialect, r)
    bounds = [by_h, *(getattr(back, name) for back in layers for name in ("phi", "bias", "alpha"))]
    for mine, theirs, bound in zip(found, expected, bounds, strict=True):
        assert ((mine - theirs).abs() <= bound.error.reshape(mine.shape)).all()
        torch.testing.assert_close(bound.value.reshape(theirs.shape), theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DELAYED)
def test_the_bound_of_a_delayed_read_covers_float32_and_little_more(dialect: Dialect) -> None:
    """Of the second branch: it reads the state after a whole block, with gates as sharp as that block's own."""
    params, x = blocks(dialect, 2), normal(2000, N, C)
    single = [Params(*(None if part is None else part.float() for part in one)) for one in params]  # pyright: ignore[reportArgumentType]
    outputs = [normal(2000, C, seed=5 + k).float() for k in range(2)]
    read: list[Tensor] = []

    def giving(y: Tensor) -> Branch:
        def run(u: Tensor) -> Tensor:
            read.append(u)
            return y

        return run

    mhc_ref.layers(x.float(), single, [giving(y) for y in outputs], dialect)
    exact, _ = FloatTruth(dialect).layers(x.float(), single, outputs)
    r = Rounding.of(torch.float32)
    first = step(Approx.exact(x.float()), single[0], outputs[0], dialect, r)
    second = step(first.after, single[1], outputs[1], dialect, r, first.pre)
    for u, truth, bound in zip(read, exact, (first.read, second.read), strict=True):
        assert ((u - truth).abs() <= bound.error).all()
    ratio = ((read[1] - exact[1]).abs() / second.read.error).max()
    assert ratio > 0.01, "of so many tokens some have hardly a term that cancels, on every machine"


# Laws


LAW = "depth.branches-read-with-the-declared-gates"
SLIPS = {
    "own-gates-read": DEEPSEEK_V4_1,
    "first-block-reads-with-its-own-gates": DEEPSEEK_V4_1,
    "first-block-reads-the-mean": DEEPSEEK_V4_1,
    "first-gates-with-eps": DEEPSEEK_V4_1,
    "gates-of-two-blocks-before": AFTER_THE_FIRST,
    "state-before-read": AFTER_THE_FIRST,
    "pre-delayed": DEEPSEEK_V4,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLIPS)
def test_the_law_of_the_gates_sees_every_slip_of_the_read(name: str, tmp_path: Path) -> None:
    subject = Subject(name, build(name, SLIPS[name]), torch.float32, CPU)
    assert examine(all_laws()[LAW], subject, PROFILES["dev"], directory=tmp_path).status == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [DEEPSEEK_V4_1, AFTER_THE_FIRST])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_law_of_the_gates_holds_of_the_reference(dialect: Dialect, dtype: torch.dtype, tmp_path: Path) -> None:
    subject = Subject("ref", Reference(dialect), dtype, CPU)
    verdict = examine(all_laws()[LAW], subject, PROFILES["dev"], directory=tmp_path)
    assert verdict.status == "passed", verdict.message


# Diagnosis


class Layers(Implementation):
    """Layers alone, delayed or not."""

    streams = (2, 4)
    dtypes = (torch.float32,)
    computed: ClassVar[Dialect] = DEEPSEEK_V4_1

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.name = "layers"

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return mhc_ref.layers(x, params, branches, self.computed)


class Delayed(Deviant):
    """Parts, and layers of its own whose first reads with its own gates."""

    streams = (2, 4)
    dtypes = (torch.float32,)

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return mhc_ref.layers(x, params, branches, self.dialect.with_(read_from="previous", first_read="own"))


class Stack(Implementation):
    """A stack alone, which reads with the gates of its own blocks."""

    streams = (2, 4)
    dtypes = (torch.float32,)
    dialect = DEEPSEEK_V4_1
    name = "stack"

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return mhc_ref.stack(h, params, branches, DEEPSEEK_V4_1.with_(read_from="own"))


@pytest.mark.slow
def test_identify_says_with_whose_gates_layers_read() -> None:
    found = identify(Delayed(DEEPSEEK_V4, "delayed"))
    assert found.explained
    assert found.differs == {"read_from": ("own", "previous")}
    assert found.single_pass
    found = identify(Delayed(DEEPSEEK_V4_1, "delayed"))
    assert found.explained
    assert found.differs == {"first_read": ("stream0", "own")}


@pytest.mark.slow
def test_identify_says_it_of_layers_and_of_stacks_alone() -> None:
    found = identify(Layers(DEEPSEEK_V4))
    assert found.explained
    assert {"read_from", "first_read"} <= found.differs.keys()
    found = identify(Stack())
    assert found.explained
    assert found.differs == {"read_from": ("previous", "own")}


@pytest.mark.slow
def test_parts_say_nothing_of_how_layers_read() -> None:
    found = identify(Deviant(DEEPSEEK_V4_1, "parts"))
    assert found.headline() == "like DEEPSEEK_V4_1"
    assert found.findings["read_from"].why == "the parts are put together as declared"
