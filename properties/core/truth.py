"""The truth: what the declared dialect gives, in float64 for the search and in mpmath for the verdict.

Whatever a law expects of the declared dialect it asks of a truth, so that a failure found against float64 can be judged
again by mpmath. Numbers come rounded to float64, once each; what a law goes on to make of several of them in float64
(sums over lines, products with a state) is covered by its bound, which has the roundings of a whole float64 evaluation
in it (`properties.bounds.Rounding.of`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect, Mappings, Params
from mhc_ref.stack import through
from properties.core.case import BranchSpec, map_tensors
from properties.core.pulling import pulled_back
from properties.core.rows import place
from properties.guards.faults import HarnessError


def wide(value: Tensor) -> Tensor:
    """In float64, without a graph, where numbers are judged: on the CPU, but in a pass over many cases
    (`properties.core.rows`)."""
    return value.detach().to(place(), torch.float64).resolve_neg()


def listed(params: Params) -> Any:
    """The parameters as nested lists of floats, for mpmath."""
    return Params(*(None if part is None else wide(part).tolist() for part in params))  # pyright: ignore[reportArgumentType]


def present(params: Params) -> list[Tensor]:
    """The parameters that there are, in the order of the fields."""
    return [part for part in params if part is not None]


def regrouped(parts: Sequence[Tensor], like: Sequence[Params]) -> tuple[Params, ...]:
    """Flat parameters as the parameters of each layer."""
    rest = iter(parts)
    return map_tensors(tuple(like), lambda part: next(rest))


class Truth(Protocol):
    """Values of the declared dialect in float64, for the laws that compare with them; states are [tokens, n, C].

    Branches of `block`, `layers` and `stack` are given by what they returned, one tensor each, so that any branch will
    do and its roundings do not count. The `*_vjp` give gradients of <cotangent, value>: by a state or stream first,
    then by every parameter that there is, layer by layer; their branches are such whose derivative is known.

    Attributes:
        dialect: the declared choices.
        asked: how many questions were answered so far.
    """

    dialect: Dialect
    asked: int

    def project(self, logits: Tensor) -> Tensor: ...
    def mappings(self, x: Tensor, params: Params) -> Mappings: ...
    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor: ...
    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor: ...
    def block(self, x: Tensor, params: Params, y: Tensor) -> tuple[Tensor, Tensor]: ...
    def layers(self, x: Tensor, params: Sequence[Params], outputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]: ...
    def stack(
        self, h: Tensor, n: int, params: Sequence[Params], outputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]: ...
    def collapse(self, x: Tensor, head: Params | None) -> Tensor: ...
    def project_vjp(self, logits: Tensor, cotangent: Tensor) -> Tensor: ...
    def mappings_vjp(self, x: Tensor, params: Params, cotangents: Sequence[Tensor]) -> list[Tensor]: ...
    def pre_vjp(self, x: Tensor, h_pre: Tensor, cotangent: Tensor) -> list[Tensor]: ...
    def post_vjp(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor, cotangent: Tensor) -> list[Tensor]: ...
    def layers_vjp(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec], cotangent: Tensor
    ) -> list[Tensor]: ...
    def stack_vjp(
        self, h: Tensor, n: int, params: Sequence[Params], branches: Sequence[BranchSpec], cotangent: Tensor
    ) -> list[Tensor]: ...
    def collapse_vjp(self, x: Tensor, head: Params | None, cotangent: Tensor) -> list[Tensor]: ...


class FloatTruth:
    """`mhc_ref` in float64, gradients by autograd: the workhorse."""

    def __init__(self, dialect: Dialect) -> None:
        if dialect.rms_eps_from != "value":
            raise HarnessError(
                f"the truth about a dialect with rms_eps_from={dialect.rms_eps_from!r} was asked for without the dtype "
                "of the state; expected what `Dialect.at` gives"
            )
        self.dialect = dialect
        self.asked = 0

    def project(self, logits: Tensor) -> Tensor:
        """h_res as emitted, float64."""
        self.asked += 1
        return mhc_ref.project(wide(logits), self.dialect)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        """pre, post, res of every token, float64."""
        self.asked += 1
        return mhc_ref.mappings(wide(x), map_tensors(params, wide), self.dialect)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        """h_pre x [tokens, C]."""
        self.asked += 1
        return mhc_ref.pre(wide(x), wide(h_pre))

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        """A x + h_post^T y [tokens, n, C]."""
        self.asked += 1
        return mhc_ref.post(wide(x), wide(y), wide(h_post), wide(h_res), self.dialect)

    def block(self, x: Tensor, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the branch reads [tokens, C], and the next state for what it gave back."""
        inputs, after = self.layers(x, [params], [y])
        return inputs[0], after

    def layers(self, x: Tensor, params: Sequence[Params], outputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """What each branch reads, and the state after the last block."""
        self.asked += 1
        return self._layers(wide(x), params, outputs)[:2]

    def _layers(
        self, x: Tensor, params: Sequence[Params], outputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor, Tensor | None]:
        read: list[Tensor] = []

        def giving(y: Tensor) -> Callable[[Tensor], Tensor]:
            def branch(u: Tensor) -> Tensor:
                read.append(u)
                return wide(y)

            return branch

        after, last = through(x, map_tensors(tuple(params), wide), [giving(y) for y in outputs], self.dialect)
        return read, after, last

    def stack(
        self, h: Tensor, n: int, params: Sequence[Params], outputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """What each branch reads, and the stream that the stack leaves; `params` has the head's last."""
        self.asked += 1
        blocks, head = params[: len(outputs)], params[len(outputs) :]
        inputs, after, last = self._layers(mhc_ref.expand(wide(h), n, self.dialect), blocks, outputs)
        return inputs, mhc_ref.collapse(after, self.dialect, *map_tensors(tuple(head), wide), last=last)

    def collapse(self, x: Tensor, head: Params | None) -> Tensor:
        """[..., n, C] -> [..., C], float64."""
        self.asked += 1
        return mhc_ref.collapse(wide(x), self.dialect, None if head is None else map_tensors(head, wide))

    def project_vjp(self, logits: Tensor, cotangent: Tensor) -> Tensor:
        """d <cotangent, h_res> / d logits, float64."""

        def run(z: Tensor) -> Tensor:
            return mhc_ref.project(z, self.dialect)

        return self._pulled(run, [logits], [cotangent])[0]

    def mappings_vjp(self, x: Tensor, params: Params, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """By x and every parameter, for cotangents of pre, post and res."""

        def run(state: Tensor, *parts: Tensor) -> Mappings:
            return mhc_ref.mappings(state, Params(*parts), self.dialect)

        return self._pulled(run, [x, *present(params)], cotangents)

    def pre_vjp(self, x: Tensor, h_pre: Tensor, cotangent: Tensor) -> list[Tensor]:
        """By x and h_pre."""
        return self._pulled(mhc_ref.pre, [x, h_pre], [cotangent])

    def post_vjp(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor, cotangent: Tensor) -> list[Tensor]:
        """By x, y, h_post and h_res."""

        def run(x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
            return mhc_ref.post(x, y, h_post, h_res, self.dialect)

        return self._pulled(run, [x, y, h_post, h_res], [cotangent])

    def layers_vjp(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec], cotangent: Tensor
    ) -> list[Tensor]:
        """By x and the parameters of every layer."""

        def run(state: Tensor, *parts: Tensor) -> Tensor:
            return mhc_ref.layers(state, regrouped(parts, params), branches, self.dialect)

        return self._pulled(run, [x, *(part for one in params for part in present(one))], [cotangent])

    def stack_vjp(
        self, h: Tensor, n: int, params: Sequence[Params], branches: Sequence[BranchSpec], cotangent: Tensor
    ) -> list[Tensor]:
        """By h and the parameters of every layer, and of the head."""

        def run(start: Tensor, *parts: Tensor) -> Tensor:
            every = regrouped(parts, params)
            begun = mhc_ref.expand(start, n, self.dialect)
            after, last = through(begun, every[: len(branches)], branches, self.dialect)
            return mhc_ref.collapse(after, self.dialect, *every[len(branches) :], last=last)

        return self._pulled(run, [h, *(part for one in params for part in present(one))], [cotangent])

    def collapse_vjp(self, x: Tensor, head: Params | None, cotangent: Tensor) -> list[Tensor]:
        """By the streams, and by the parameters of a head."""

        def run(state: Tensor, *parts: Tensor) -> Tensor:
            return mhc_ref.collapse(state, self.dialect, Params(*parts) if parts else None)

        return self._pulled(run, [x, *([] if head is None else present(head))], [cotangent])

    def _pulled(
        self, function: Callable[..., Any], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> list[Tensor]:
        self.asked += 1
        leaves = [wide(one).clone().requires_grad_() for one in inputs]
        found = function(*leaves)
        outputs = [found] if isinstance(found, Tensor) else list(found)
        return pulled_back(outputs, leaves, [wide(bar) for bar in cotangents])
