"""Functions of arrays as an implementation: the values cross, gradients too, and what they do wrong is seen."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Params
from properties.arrays import NumPy, from_arrays, library
from properties.core.implementation import Absent, Implementation, offers
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine


def sinkhorn(logits: Any, iterations: int = 20) -> Any:
    m = np.exp(logits - logits.max(-2, keepdims=True))
    for _ in range(iterations):
        m = m / m.sum(-2, keepdims=True)
        m = m / m.sum(-1, keepdims=True)
    return m


def mappings(x: Any, phi: Any, bias: Any, alpha: Any) -> tuple[Any, Any, Any]:
    n, channels = x.shape[-2:]
    flat = x.reshape(*x.shape[:-2], n * channels)
    normalised = flat / np.sqrt((flat * flat).mean(-1, keepdims=True) + 1e-20)
    logits = normalised @ phi * np.repeat(alpha, (n, n, n * n)) + bias
    gates = 1 / (1 + np.exp(-logits[..., : 2 * n]))
    res = sinkhorn(logits[..., 2 * n :].reshape(*x.shape[:-2], n, n))
    return gates[..., :n], 2 * gates[..., n:], res


def pre(x: Any, h_pre: Any) -> Any:
    return np.einsum("...n,...nc->...c", h_pre, x)


def post(x: Any, y: Any, h_post: Any, h_res: Any) -> Any:
    return np.einsum("...ij,...jc->...ic", h_res, x) + h_post[..., None] * y[..., None, :]


def verdict(implementation: Implementation, law: str, directory: Path) -> Verdict:
    subject = Subject("target", implementation, torch.float32, torch.device("cpu"))
    return examine(all_laws()[law], subject, Profile(examples=12, derandomise=True, shrink=False), directory=directory)


def state(tokens: tuple[int, ...] = (2,)) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*tokens, 3, 4, generator=generator, dtype=torch.float64)
    phi = torch.randn(12, 15, generator=generator, dtype=torch.float64)
    return x, Params(phi, torch.linspace(-1, 1, 15).double(), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("tokens", [(), (2,), (2, 3), (0,)])
def test_numpy_functions_are_the_reference(tokens: tuple[int, ...]) -> None:
    target = from_arrays("numpy", dialect=PAPER, project=sinkhorn, mappings=mappings, pre=pre, post=post)
    assert offers(target)["block"] == "derived from mappings, pre, post"
    x, params = state(tokens)
    torch.testing.assert_close(
        target.block(x, params, torch.tanh), mhc_ref.block(x, params, torch.tanh, PAPER), rtol=1e-12, atol=1e-12
    )


def test_what_numpy_lacks_is_not_applicable(tmp_path: Path) -> None:
    target = from_arrays("numpy", dialect=PAPER, project=sinkhorn)
    assert target.name == "sinkhorn"
    assert target.dtypes == (torch.float64, torch.float32)
    found = verdict(target, "gradient.projection-pulls-back-the-unrolled-iteration", tmp_path)
    assert (found.status, found.reason) == ("not-applicable", "declared as not differentiable")
    assert verdict(target, "manifold.agrees-with-oracle", tmp_path).status == "passed"


def test_a_function_that_writes_to_its_input_is_seen(tmp_path: Path) -> None:
    def writing(logits: Any) -> Any:
        out = sinkhorn(logits)
        logits += 1
        return out

    target = from_arrays(np, dialect=PAPER, project=writing)
    assert verdict(target, "execution.projection-leaves-its-input-alone", tmp_path).status == "failed"


def test_a_function_that_hands_out_its_own_buffer_is_seen() -> None:
    buffer: Any = np.zeros((1, 2, 2), dtype=np.float32)

    def reusing(logits: Any) -> Any:
        buffer[...] = sinkhorn(logits)
        return buffer

    target = from_arrays("numpy", dialect=PAPER, project=reusing)
    first = target.project(torch.zeros(1, 2, 2))
    assert torch.equal(first, torch.full((1, 2, 2), 0.5))
    second = target.project(torch.eye(2).unsqueeze(0))
    assert not torch.equal(second, torch.full((1, 2, 2), 0.5))
    assert torch.equal(first, second)


def test_strides_reach_the_function() -> None:
    seen: list[tuple[int, ...]] = []

    def looking(logits: Any) -> Any:
        seen.append(logits.strides)
        return sinkhorn(logits)[..., ::-1][..., ::-1]

    logits = torch.arange(18.0).reshape(1, 3, 6)[..., ::2]
    out = from_arrays("numpy", dialect=PAPER, project=looking).project(logits)
    assert seen == [(72, 24, 8)]
    torch.testing.assert_close(out, mhc_ref.project(logits, PAPER))


def test_a_function_of_one_matrix_is_called_for_each() -> None:
    def one(logits: Any) -> Any:
        assert logits.ndim == 2
        return sinkhorn(logits)

    target = from_arrays("numpy", dialect=PAPER, project=one, token_axes=0)
    logits = torch.arange(36.0).reshape(2, 2, 3, 3) / 9
    torch.testing.assert_close(target.project(logits), mhc_ref.project(logits, PAPER))
    assert not target.zero_tokens


def test_a_dialect_can_be_asked_for() -> None:
    def asked(dialect: mhc_ref.Dialect) -> dict[str, Any]:
        if dialect.iterations < 1:
            raise Absent("one iteration at least")
        return {"iterations": dialect.iterations}

    target = from_arrays("numpy", dialect=PAPER, project=sinkhorn, tune=asked, tunable=frozenset({"iterations"}))
    logits = torch.arange(9.0).reshape(1, 3, 3)
    once = target.tuned(iterations=1)
    torch.testing.assert_close(once.project(logits), mhc_ref.project(logits, PAPER.with_(iterations=1)))
    torch.testing.assert_close(target.project(logits), mhc_ref.project(logits, PAPER))
    with pytest.raises(Absent):
        target.tuned(iterations=0)
    with pytest.raises(Absent):
        target.tuned(last_axis="column")


class Pulling(NumPy):
    """NumPy with a vjp for x -> 3 x, as a library with gradients would have it."""

    differentiable = True

    def pulled(self, function: Any, arrays: Any, cotangents: Any) -> Any:
        (out,) = function(*arrays)
        return [one * (out / arrays[0]) for one in cotangents]


def test_a_vjp_of_the_library_is_autograd_s() -> None:
    target = from_arrays(Pulling(), dialect=PAPER, project=lambda logits: 3 * logits)
    logits = torch.full((1, 2, 2), 2.0, requires_grad=True)
    bar = torch.arange(4.0).reshape(1, 2, 2)
    assert torch.equal(torch.autograd.grad(target.project(logits), logits, bar)[0], 3 * bar)


def test_any_module_with_dlpack_will_do() -> None:
    module = ModuleType("arrays_of_somebody")
    vars(module)["from_dlpack"] = np.from_dlpack
    logits = torch.arange(9.0).reshape(1, 3, 3)
    out = from_arrays(module, dialect=PAPER, project=sinkhorn).project(logits)
    torch.testing.assert_close(out, mhc_ref.project(logits, PAPER))


def test_what_is_no_array_is_said_to_be_none(tmp_path: Path) -> None:
    target = from_arrays("numpy", dialect=PAPER, project=lambda logits: None)
    found = verdict(target, "manifold.last-axis-sums", tmp_path)
    assert found.status == "failed"
    assert "expected a NumPy array" in found.reason or "expected a torch.Tensor" in found.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no function at all|was given no function"),
        ({"project": sinkhorn, "dtype": torch.float32}, "dtype is no attribute of Implementation"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        from_arrays("numpy", dialect=PAPER, **arguments)


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no array library 'cuneiform'; expected numpy, jax, mlx"):
        library("cuneiform")
    with pytest.raises(ValueError, match="pathlib has no from_dlpack"):
        library(sys.modules["pathlib"])
