"""Gradients of what a target computed, as whoever trains takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def pulled_back(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None], keep: bool = False
) -> list[Tensor]:
    """The gradients by those of the inputs that ask for one, each of the shape of its input.

    They are 0 by what no output depends on. A cotangent is taken to the dtype and device of its output; one that is
    None is not handed on. `keep`: the graph, for another pass.
    """
    pairs = [
        (one, bar.to(one))
        for one, bar in zip(outputs, cotangents, strict=True)
        if bar is not None and one.requires_grad
    ]
    asked = [one for one in inputs if one.requires_grad]
    if not pairs or not asked:
        return [torch.zeros_like(one) for one in asked]
    roots, bars = zip(*pairs, strict=True)
    found = gradients(handed(roots, bars), asked, keep)
    return [torch.zeros_like(one) if by is None else by for one, by in zip(asked, found, strict=True)]


def accumulate(outputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> None:
    """Add the gradients by the leaves of some outputs to what the leaves have."""
    pairs = [(one, bar.to(one)) for one, bar in zip(outputs, cotangents, strict=True) if one.requires_grad]
    if pairs:
        roots, bars = zip(*pairs, strict=True)
        torch.autograd.backward(handed(roots, bars))


def gradients(height: Tensor, asked: Sequence[Tensor], keep: bool = False) -> list[Tensor | None]:
    """The gradients of a number, None by what it does not depend on; `keep` the graph.

    Checkpointing that calls the backward pass again within the backward pass (`torch.utils.checkpoint` with
    ``use_reentrant=True``, and Megatron's own) refuses `torch.autograd.grad`, since it leaves the gradients by
    parameters in their `.grad` alone. Where a graph has such a node the gradients are taken from there, as an optimiser
    takes them, and what was in the `.grad` of its leaves before stays, whether they were asked about or not. Leaves
    that are met within such a node alone are in no graph yet: to them is added, as to a trainer's.
    """
    nodes = _nodes(height)
    # by its name, since everybody has their own
    if not any("Checkpoint" in type(node).__name__ for node in nodes):
        return list(torch.autograd.grad(height, list(asked), allow_unused=True, retain_graph=keep))
    leaves = [one for one in asked if one.is_leaf]
    leaves += [node.variable for node in nodes if type(node).__name__ == "AccumulateGrad"]
    before = [(leaf, leaf.grad) for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    results = [one for one in asked if not one.is_leaf]
    for one in results:
        one.retain_grad()
    try:
        torch.autograd.backward(height, retain_graph=keep)
        return [one.grad for one in asked]
    finally:
        for one, held in (*before, *((one, None) for one in results)):
            one.grad = held


def _nodes(height: Tensor) -> set[Any]:
    """Those of a graph."""
    seen, todo = set[Any](), [height.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend([one for one, _ in node.next_functions])
    return seen


def handed(roots: Sequence[Tensor], bars: Sequence[Tensor]) -> Any:
    """A number whose gradients are those of `roots` with the cotangents `bars`, for `gradients`."""
    with torch.inference_mode(False), torch.enable_grad():  # a backward pass, say, does not record
        return _Handed.apply(bars, *roots)


class _Handed(torch.autograd.Function):
    """A number whose derivatives by some tensors are given: what `torch.autograd.grad` is told of cotangents, without
    what it imports to compare their shapes (symbolic ones, and sympy for them), which takes longer than most laws."""

    @staticmethod
    def forward(ctx: Any, bars: Sequence[Tensor], *roots: Tensor) -> Tensor:
        for root, bar in zip(roots, bars, strict=True):
            if root.shape != bar.shape:
                raise ValueError(f"a cotangent has shape {tuple(bar.shape)}; its output has {tuple(root.shape)}")
        ctx.bars = bars
        return roots[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return None, *ctx.bars
