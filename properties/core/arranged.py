"""An implementation whose tokens are handed over on two axes, whatever a law gives it.

A law has one axis of tokens, [tokens, ...]. A model has [B, S, ...], in a step of decoding [B, 1, ...], and of one
prompt [1, S, ...]: kernels have code for each. Here what has one axis of tokens gets two on its way in, and loses one
on its way out, by views, so that every law can be asked of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from mhc_ref.packing import logits_shape, streams_of_logits
from properties.core.handing import InFront
from properties.core.implementation import Implementation
from properties.guards.plain import oddity, plain

SEQUENCES, STEPS, PROMPT = "sequences", "steps", "prompt"
"""[B, S, ...] with several tokens in each of many sequences, as in training, [B, 1, ...], and [1, S, ...]."""
AXES = {
    SEQUENCES: "on two axes, [B, S, n, C]",
    STEPS: "on two axes, [B, 1, n, C], as in a step of decoding",
    PROMPT: "on two axes, [1, S, n, C], as one prompt has them",
}
"""Where tokens lie, in words."""


def on_two(count: int, axes: str) -> tuple[int, int]:
    """The shape of so many tokens: five sequences or more of three tokens or more, where that can be."""
    if axes != SEQUENCES:
        return (count, 1) if axes == STEPS else (1, count)
    wide = (first for first in range(5, count // 3 + 1) if count % first == 0)
    return (first := next(wide, 2 if count % 2 == 0 and count else 1)), count // first


class Arranged(InFront):
    """An implementation that is handed two axes of tokens wherever a law hands over one; `arranged` makes one."""

    def __init__(self, given: Implementation, axes: str) -> None:
        super().__init__(given)
        self.axes = axes

    def _split(self, one: Any, kept: int) -> tuple[Any, bool]:
        """What has one axis of tokens in front of so many others, with two of them; whether it had one."""
        if not isinstance(one, Tensor) or one.ndim != 1 + kept or not one.shape[0]:
            return one, False
        return one.unflatten(0, on_two(one.shape[0], self.axes)), True

    def _call(self, method: str, given: Sequence[tuple[Any, int]], rest: Sequence[Any] = ()) -> Any:
        parts, recording = [self._split(one, kept) for one, kept in given], torch.is_grad_enabled()
        found = getattr(self.given, method)(*(one for one, _ in parts), *rest)
        if not parts[0][1]:
            return found
        with torch.set_grad_enabled(recording):  # whatever a call leaves behind: it is for laws to say that it does
            return _joined(found, type(given[0][0]))

    def project(self, logits: Tensor) -> Tensor:
        kept = len(logits_shape(streams_of_logits(logits.shape, self.dialect), self.dialect))
        return self._call("project", [(logits, kept)])

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return self._call("mappings", [(x, 2)], [params])

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self._call("pre", [(x, 2), (h_pre, h_pre.ndim - x.ndim + 2)])

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self._call("post", [(x, 2), (y, 1), (h_post, 1), (h_res, 2)])

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        own = self._flat(branch) if self._split(x, 2)[1] else branch
        return self._call("block", [(x, 2)], [params, own])

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        own = [self._flat(one) for one in branches] if self._split(x, 2)[1] else branches
        return self._call("layers", [(x, 2)], [params, own])

    def expand(self, h: Tensor, n: int) -> Tensor:
        return self._call("expand", [(h, 1)], [n])

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        return self._call("collapse", [(x, 2)], [] if params is None else [params])

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        own = [self._flat(one) for one in branches] if self._split(h, 1)[1] else branches
        return self._call("stack", [(h, 1)], [params, own])

    def tuned(self, **fields: Any) -> Implementation:
        return Arranged(self.given.tuned(**fields), self.axes)

    def _flat(self, branch: Branch) -> Branch:
        """The branch, which has one axis of tokens, for somebody who calls it with two."""

        def called(u: Tensor) -> Tensor:
            if u.ndim != 3:
                return branch(u)
            y = branch(u.flatten(0, 1))
            return y.unflatten(0, u.shape[:2]) if y.ndim == 2 else y

        return called


def _joined(found: Any, given: type) -> Any:
    """An answer with one axis of tokens; what has not the form of one stays, and is refused by whoever asked.

    `given`: the class of the input, which an answer may have whatever its rules are: that of a device that is
    simulated is one.
    """
    if isinstance(found, Mappings):
        return Mappings(*(_joined(one, given) for one in found))
    if isinstance(found, (tuple, list)):
        return tuple(_joined(one, given) for one in cast("Sequence[Any]", found))
    if given is Tensor or type(found) is not given:
        if not issubclass(type(found), Tensor) or oddity(found) is not None:
            return found
        found = plain(found)  # a subclass may do what it likes with a call of its own
    return found.flatten(0, 1) if found.ndim > 1 else found


def arranged(implementation: Implementation, axes: str) -> Implementation:
    """The implementation itself, or in front of it what hands over two axes of tokens."""
    return Arranged(implementation, axes) if axes else implementation
