"""What functions of arrays are like: each kind is verified as what it is, or refused with what to say instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Params
from properties.arrays import NumPy, from_arrays, library
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.guards.faults import AdapterError, HarnessError


def sinkhorn(logits: Any) -> Any:
    m = np.exp(logits - logits.max(-2, keepdims=True))
    for _ in range(20):
        m = m / m.sum(-2, keepdims=True)
        m = m / m.sum(-1, keepdims=True)
    return m


def weighted(x: Any, phi: Any, bias: Any, alpha: Any, weight: Any) -> tuple[Any, Any, Any]:
    n, channels = x.shape[-2:]
    flat = x.reshape(*x.shape[:-2], n * channels)
    normalised = flat / np.sqrt((flat * flat).mean(-1, keepdims=True) + 1e-20) * weight
    logits = normalised @ phi * np.repeat(alpha, (n, n, n * n)) + bias
    gates = 1 / (1 + np.exp(-logits[..., : 2 * n]))
    return gates[..., :n], 2 * gates[..., n:], sinkhorn(logits[..., 2 * n :].reshape(*x.shape[:-2], n, n))


def mappings(x: Any, phi: Any, bias: Any, alpha: Any) -> tuple[Any, Any, Any]:
    return weighted(x, phi, bias, alpha, 1)


def pre(x: Any, h_pre: Any) -> Any:
    return np.einsum("...n,...nc->...c", h_pre, x)


def verdict(implementation: Implementation, law: str, directory: Path) -> Verdict:
    subject = Subject("target", implementation, torch.float32, torch.device("cpu"))
    return examine(all_laws()[law], subject, Profile(examples=6, derandomise=True, shrink=False), directory=directory)


def state(weight: bool = False) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    phi = torch.randn(12, 15, generator=generator, dtype=torch.float64)
    alpha = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    return x, Params(phi, torch.ones(15).double(), alpha, torch.linspace(0.5, 2, 12).double() if weight else None)


@pytest.mark.slow
def test_a_function_with_a_norm_weight_has_ones_where_a_block_has_none(tmp_path: Path) -> None:
    target = from_arrays("numpy", dialect=PAPER, mappings=weighted, norm_weight=True)
    for weight in (False, True):
        x, params = state(weight)
        for got, exact in zip(target.mappings(x, params), mhc_ref.mappings(x, params, PAPER), strict=True):
            torch.testing.assert_close(got, exact)
    assert verdict(target, "coefficients.agrees-with-oracle", tmp_path).status == "passed"


def fixed(dims: int) -> Any:
    def function(x: Any, phi: Any, bias: Any, alpha: Any) -> Any:
        if x.ndim != dims:
            raise ValueError(f"{x.ndim} dimensions")
        return mappings(x, phi, bias, alpha)

    return function


class Broken(NumPy):
    """A library of one's own whose conversion back fails."""

    def taken(self, array: Any) -> Tensor:
        raise KeyError("float32")


class Untraced(NumPy):
    """A library with a vjp that does not take the function."""

    differentiable = True

    def pulled(self, function: Any, arrays: Any, cotangents: Any) -> Any:
        raise RuntimeError("cannot be traced")


class Short(NumPy):
    """A library with a vjp that forgets an argument."""

    differentiable = True

    def pulled(self, function: Any, arrays: Any, cotangents: Any) -> Any:
        return arrays[1:]


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        (
            "numpy",
            {"mappings": mappings, "dtypes": ("bfloat16",)},
            r"torch.bfloat16 tensor .* declare dtypes=\(torch.float64",
        ),
        (
            "numpy",
            {"mappings": weighted},
            r"mappings was called with 4 arrays, and raised TypeError: .*norm_weight=True",
        ),
        (
            "numpy",
            {"mappings": mappings, "norm_weight": True},
            "mappings was called with 5 arrays, and raised TypeError",
        ),
        ("numpy", {"mappings": lambda *a: mappings(*a)[:2]}, "mappings gives 2 results; expected pre, post, res"),
        ("numpy", {"mappings": lambda *a: (*mappings(*a)[:2], None)}, r"gives no res; declare emits=\('pre', 'post'\)"),
        ("numpy", {"mappings": fixed(3)}, "raised ValueError: 2 dimensions .* declare token_axes=1"),
        ("numpy", {"mappings": fixed(2)}, "raised ValueError: 3 dimensions .* declare token_axes=0"),
        ("numpy", {"pre": lambda x: x}, "pre was called with 2 arrays, and raised TypeError"),
        ("numpy", {"mappings": mappings, "tune": lambda dialect: dialect.sinkhorn}, "tune raised AttributeError"),
        (Broken(), {"mappings": mappings}, "what a function returned .* cannot become a tensor: KeyError"),
        (
            Untraced(),
            {"project": sinkhorn},
            "project cannot be differentiated .*: cannot be traced.* differentiable=False",
        ),
        (Short(), {"mappings": mappings}, "pulled gave 3 gradients of 4 arrays"),
    ],
    ids=[
        "dtype",
        "weight",
        "no weight",
        "two",
        "no res",
        "one axis",
        "no axis",
        "arguments",
        "tune",
        "taken",
        "vjp",
        "short",
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_declare(
    arrays: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        from_arrays(arrays, dialect=PAPER, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"project": 3}, TypeError, "project is 3; expected a function of arrays"),
        ({"project": sinkhorn, "dialect": "PAPER"}, TypeError, "dialect is 'PAPER'; expected a mhc_ref.Dialect"),
        ({"project": sinkhorn, "token_axes": -1}, TypeError, "token_axes is -1; expected a number of axes"),
        ({"project": sinkhorn, "streams": 4}, ValueError, r"\.streams is 4; expected the accepted numbers of streams"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused(arguments: dict[str, Any], error: Any, message: str) -> None:
    options: dict[str, Any] = {"dialect": PAPER, **arguments}
    with pytest.raises(error, match=message):
        from_arrays("numpy", **options)


def test_what_is_no_library_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"arrays is 3; expected numpy, jax, mlx, a module with from_dlpack, or a Library"
    ):
        library(3)  # pyright: ignore[reportArgumentType]


def test_a_projection_of_one_matrix_says_so_in_its_first_call(tmp_path: Path) -> None:
    def one(logits: Any) -> Any:
        if logits.ndim != 2:
            raise ValueError("one matrix")
        return sinkhorn(logits)

    target = from_arrays("numpy", dialect=PAPER, project=one)
    with pytest.raises(HarnessError, match=r"project raised ValueError: one matrix .* declare token_axes=0"):
        verdict(target, "manifold.last-axis-sums", tmp_path)


def test_what_a_function_raises_is_its_failure(tmp_path: Path) -> None:
    def raises(logits: Any) -> Any:
        raise TypeError("not today")

    found = verdict(from_arrays("numpy", dialect=PAPER, project=raises), "manifold.last-axis-sums", tmp_path)
    assert found.status == "failed"
    assert "project raised TypeError: not today" in found.reason


def test_what_a_function_gives_only_sometimes_is_its_failure(tmp_path: Path) -> None:
    def sometimes(*arrays: Any) -> Any:
        return mappings(*arrays) if arrays[0].shape[-1] < 3 else mappings(*arrays)[:2]

    found = verdict(
        from_arrays("numpy", dialect=PAPER, mappings=sometimes), "coefficients.agrees-with-oracle", tmp_path
    )
    assert (found.status, found.reason) == ("failed", "mappings returned tuple; expected Mappings(pre, post, res)")


def test_a_vjp_that_fails_is_for_the_laws_to_say_where_it_was_declared(tmp_path: Path) -> None:
    target = from_arrays(Untraced(), dialect=PAPER, project=sinkhorn, differentiable=True)
    found = verdict(target, "gradient.projection-pulls-back-the-unrolled-iteration", tmp_path)
    assert found.status == "failed"
    assert "cannot be traced" in found.reason
