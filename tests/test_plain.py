"""Outputs that are no plain tensor: each breaks its law in words, and none ends in a traceback."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mhc_ref
from mhc_ref import PAPER
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine


class Subclass(Tensor):
    """A subclass that adds nothing, as those that only carry metadata."""


class Loud(Tensor):
    """A subclass that refuses every operation."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("not to be touched")


def faked(out: Tensor) -> Tensor:
    kept = out.detach().clone()
    with FakeTensorMode() as mode:
        return mode.from_tensor(kept)


def freed(out: Tensor) -> Tensor:
    kept = out.detach().clone()
    kept.untyped_storage().resize_(0)
    return kept


def escaped(out: Tensor) -> Tensor:
    seen: list[Tensor] = []
    torch.func.vmap(lambda one: (seen.append(one), one)[1])(out.detach())
    return seen[0]


ODD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "sparse": (lambda out: out.to_sparse(), "layout torch.sparse_coo"),
    "compressed": (lambda out: out.detach().reshape(-1, out.shape[-1]).to_sparse_csr(), "layout torch.sparse_csr"),
    "mkldnn": (lambda out: out.detach().float().to_mkldnn(), "layout torch._mkldnn"),
    "nested": (lambda out: torch.nested.nested_tensor([out.detach(), out.detach()[..., :1]]), "a nested tensor"),
    "jagged": (
        lambda out: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
        "NestedTensor, a subclass of torch.Tensor that computes by rules of its own",
    ),
    "masked": (
        lambda out: torch.masked.masked_tensor(out.detach(), out.detach() > 0),
        "MaskedTensor, a subclass of torch.Tensor that computes by rules of its own",
    ),
    "fake": (faked, "FakeTensor, a subclass"),
    "meta": (lambda out: out.to("meta"), "on meta: it has a shape and no values"),
    "quantised": (
        lambda out: torch.quantize_per_tensor(out.detach().float(), 0.1, 0, torch.quint8),
        r"a quantised tensor \(torch.quint8\)",
    ),
    "complex": (lambda out: torch.complex(out, out), "torch.complex64; expected torch.float32"),
    "integers": (lambda out: out.long(), "torch.int64; expected torch.float32"),
    "array": (lambda out: out.detach().numpy(), "ndarray; expected a torch.Tensor"),
    "number": (lambda out: 1.0, "float; expected a torch.Tensor"),
    "lazy": (lambda out: torch.nn.parameter.UninitializedParameter(), "UninitializedParameter, a parameter without"),
    "freed": (freed, "a tensor whose storage was freed or cut"),
    "escaped": (escaped, "a wrapper of torch.func that outlived its transform"),
}


def verdict(implementation: Implementation, law: str, directory: Path) -> Verdict:
    subject = Subject("target", implementation, torch.float32, torch.device("cpu"))
    return examine(all_laws()[law], subject, Profile(examples=2, derandomise=True, shrink=False), directory=directory)


LAWS = {"manifold.last-axis-sums": "project is ", "gradient.projection-pulls-back-the-unrolled-iteration": ""}
VALUES_ALONE = ("complex", "integers")
"""Plain tensors of a wrong dtype: the gradient of the one is right, and the other has none."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "law"),
    [(kind, law) for kind in ODD for law in LAWS if not (kind in VALUES_ALONE and law.startswith("gradient"))],
)
def test_an_odd_output_breaks_the_law_in_words(kind: str, law: str, tmp_path: Path) -> None:
    make, words = ODD[kind]

    class Odd(Implementation):
        name = "odd"
        dialect = PAPER

        def project(self, logits: Tensor) -> Any:
            return make(mhc_ref.project(logits, PAPER))

    with warnings.catch_warnings():  # prototypes of torch say that they are ones
        warnings.simplefilter("ignore")
        found = verdict(Odd(), law, tmp_path)
    assert found.status == "failed"
    assert re.search(LAWS[law] + ".*" + (words if LAWS[law] else words.partition(";")[0]), found.reason)


@pytest.mark.parametrize("kind", [Subclass, Loud])
def test_a_subclass_that_computes_as_tensors_do_is_judged_by_its_values(kind: type[Tensor], tmp_path: Path) -> None:
    class Wrapped(Implementation):
        name = "wrapped"
        dialect = PAPER

        def project(self, logits: Tensor) -> Tensor:
            return mhc_ref.project(logits, PAPER).as_subclass(kind)

    for law in ("manifold.last-axis-sums", "gradient.projection-pulls-back-the-unrolled-iteration"):
        assert verdict(Wrapped(), law, tmp_path).status == "passed"
