"""One question: inputs, a few calls, the tensors that came back, and what a dialect predicts for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from properties.bounds import Approx
from properties.core.case import BranchSpec, map_tensors
from properties.diagnosis.judge import Judge
from properties.diagnosis.view import MAPPINGS, View


@dataclass(frozen=True, eq=False)
class Probe:
    """One question, put to the target and to every implementation that might explain it.

    Attributes:
        name: what is asked.
        stage: the part of the implementation that it is about: project, pre, post, mappings, block, depth, expand,
            collapse, gradient, precision, execution.
        dtype: of the states.
        inputs: tensors, params and branches, in the order that `observe` and `expect` take them.
        observe: the calls; returns tensors as they came.
        expect: what a dialect predicts for each of them.
        narrow: whether each of them has the dtype of the state (else that of coefficients).
        of: where the stage is a circumstance, the part that is asked: project, mappings, pre, post, block, depth.
    """

    name: str
    stage: str
    dtype: torch.dtype
    inputs: tuple[Any, ...]
    observe: Callable[..., list[Tensor]]
    expect: Callable[..., list[Approx]]
    narrow: tuple[bool, ...]
    of: str = ""

    def put(self, view: View, inputs: tuple[Any, ...] | None = None) -> list[Tensor]:
        """Ask; the inputs are copied first, as a target may write to them."""
        given = tuple(map_tensors(one, lambda t: t.clone()) for one in (inputs or self.inputs))
        return [value.detach().cpu().clone() for value in self.observe(view, *given)]


def _project(view: View, logits: Tensor) -> list[Tensor]:
    return [view.project(logits)]


def _projected(judge: Judge, logits: Tensor) -> list[Approx]:
    return [judge.project(logits)]


def project(name: str, dtype: torch.dtype, logits: Tensor, stage: str = "project") -> Probe:
    """h_res of logits."""
    return Probe(name, stage, dtype, (logits,), _project, _projected, (False,), "project")


def _pre(view: View, x: Tensor, h_pre: Tensor) -> list[Tensor]:
    return [view.call("pre", x, h_pre)]


def _read(judge: Judge, x: Tensor, h_pre: Tensor) -> list[Approx]:
    return [judge.pre(x, h_pre)]


def pre(name: str, x: Tensor, h_pre: Tensor, stage: str = "pre") -> Probe:
    """The branch input of a state."""
    return Probe(name, stage, x.dtype, (x, h_pre), _pre, _read, (True,), "pre")


def _post(view: View, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> list[Tensor]:
    return [view.call("post", x, y, h_post, h_res)]


def _combined(judge: Judge, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> list[Approx]:
    return [judge.post(x, y, h_post, h_res)]


def post(name: str, inputs: tuple[Tensor, Tensor, Tensor, Tensor], stage: str = "post") -> Probe:
    """The next state of x, y, h_post and h_res."""
    return Probe(name, stage, inputs[0].dtype, inputs, _post, _combined, (True,), "post")


def _emitted(emits: tuple[str, ...], view: View, x: Tensor, params: Params) -> list[Tensor]:
    return [part for name, part in zip(MAPPINGS, view.mappings(x, params), strict=True) if name in emits]


def _mapped(emits: tuple[str, ...], judge: Judge, x: Tensor, params: Params) -> list[Approx]:
    return [part for name, part in zip(MAPPINGS, judge.mappings(x, params), strict=True) if name in emits]


def mappings(name: str, x: Tensor, params: Params, emits: tuple[str, ...], stage: str = "mappings") -> Probe:
    """The emitted mappings of a state."""
    narrow = (False,) * sum(one in emits for one in MAPPINGS)
    return Probe(
        name, stage, x.dtype, (x, params), partial(_emitted, emits), partial(_mapped, emits), narrow, "mappings"
    )


def run_block(view: View, x: Tensor, params: Params, branch: BranchSpec) -> list[Tensor]:
    """The branch input and the next state."""
    return view.block(x, params, branch)


def predicted_block(judge: Judge, x: Tensor, params: Params, branch: BranchSpec) -> list[Approx]:
    """Both of them as a dialect has them."""
    return judge.block(x, params, branch)


def block(name: str, x: Tensor, params: Params, branch: BranchSpec, stage: str = "block") -> Probe:
    """A whole block, its branch recorded."""
    return Probe(name, stage, x.dtype, (x, params, branch), run_block, predicted_block, (True, True), "block")


def _layers(view: View, x: Tensor, params: tuple[Params, ...], branches: tuple[BranchSpec, ...]) -> list[Tensor]:
    return view.layers(x, params, branches)


def _followed(judge: Judge, x: Tensor, params: tuple[Params, ...], branches: tuple[BranchSpec, ...]) -> list[Approx]:
    return judge.layers(x, params, branches)


def layers(name: str, x: Tensor, params: tuple[Params, ...], branches: tuple[BranchSpec, ...]) -> Probe:
    """Many blocks, their branches recorded."""
    return Probe(name, "depth", x.dtype, (x, params, branches), _layers, _followed, (True,) * (len(branches) + 1))


def stack(name: str, h: Tensor, n: int, params: tuple[Params, ...], branches: tuple[BranchSpec, ...]) -> Probe:
    """A whole stack, its branches recorded, and its input afterwards."""

    def run(view: View, h: Tensor, params: tuple[Params, ...], branches: tuple[BranchSpec, ...]) -> list[Tensor]:
        return [*view.stack(h, params, branches), h]

    def predicted(
        judge: Judge, h: Tensor, params: tuple[Params, ...], branches: tuple[BranchSpec, ...]
    ) -> list[Approx]:
        return [*judge.stack(h, n, params, branches), Approx.exact(h)]

    return Probe(name, "depth", h.dtype, (h, params, branches), run, predicted, (True,) * (len(branches) + 2))


def expand(name: str, h: Tensor, n: int) -> Probe:
    """The streams of one."""

    def run(view: View, h: Tensor) -> list[Tensor]:
        return [view.call("expand", h, n)]

    def predicted(judge: Judge, h: Tensor) -> list[Approx]:
        return [judge.expand(h, n)]

    return Probe(name, "expand", h.dtype, (h,), run, predicted, (True,))


def _collapse(view: View, x: Tensor, *head: Params) -> list[Tensor]:
    return [view.call("collapse", x, *head)]


def _collapsed(judge: Judge, x: Tensor, *head: Params) -> list[Approx]:
    return [judge.collapse(x, *head)]


def collapse(name: str, x: Tensor, *head: Params) -> Probe:
    """One stream of many."""
    return Probe(name, "collapse", x.dtype, (x, *head), _collapse, _collapsed, (True,))
