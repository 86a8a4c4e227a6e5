"""The truth before which a failure is confirmed: mpmath at 50 digits, by `mhc_ref.exact`, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params, registry
from mhc_ref.exact import Exact
from mhc_ref.exact.numbers import value
from mhc_ref.packing import logits_shape, streams_of_logits
from properties.core.case import BranchSpec
from properties.core.reads import mapping_shapes
from properties.core.remembering import remembered
from properties.core.truth import listed, present, wide
from properties.guards.faults import HarnessError, located

_HERE = torch.device("cpu")
"""Where mpmath computes, whatever the default device is at that moment: the answer may be kept for others."""


class ExactTruth:
    """mpmath at 50 digits, token by token: the judge. Equal tokens are computed once.

    A token that holds an infinity or a NaN has no exact value: NaN, of which a bound must not claim anything.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.asked = 0
        try:
            self._exact = Exact(dialect)
        except LookupError as error:  # of a family from outside
            raise HarnessError(str(error)) from None
        self.dialect = dialect
        named = {(slot, getattr(dialect, field)): None for field, slot in registry.SLOTS.items()}
        self._outside = [f"the {slot} family {name!r}" for slot, name in named if registry.outside(slot, name)]
        self.lasting = not self._outside
        """Whether its formulas stay what they are: a family from outside may be registered again."""

    @remembered
    def project(self, logits: Tensor) -> Tensor:
        """h_res as emitted, rounded to float64."""
        n = streams_of_logits(logits.shape, self.dialect)
        axes = len(logits_shape(n, self.dialect))

        def one(z: Any) -> list[Any]:
            return [self._exact.project(z)]

        return self._each([(logits, axes)], [(n, n)], one)[0]

    @remembered
    def mappings(self, x: Tensor, params: Params) -> Mappings:
        """pre, post, res of every token, rounded to float64."""
        plain = listed(params)

        def one(state: Any) -> Any:
            return self._exact.mappings(state, plain)

        return Mappings(*self._each([(x, 2)], mapping_shapes(tuple(x.shape[-2:]), self.dialect), one))

    @remembered
    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        """h_pre x, rounded to float64."""
        return self._each(
            [(x, 2), (h_pre, h_pre.ndim - x.ndim + 2)], [x.shape[-1:]], lambda *one: [self._exact.pre(*one)]
        )[0]

    @remembered
    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        """A x + h_post^T y, rounded to float64."""
        given = [(x, 2), (y, 1), (h_post, 1), (h_res, 2)]
        return self._each(given, [x.shape[-2:]], lambda *one: [self._exact.post(*one)])[0]

    def block(self, x: Tensor, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the branch reads, and the next state, rounded to float64."""
        inputs, after = self.layers(x, [params], [y])
        return inputs[0], after

    @remembered
    def layers(self, x: Tensor, params: Sequence[Params], outputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """What each branch reads, and the state after the last block, rounded to float64."""
        plain = [listed(one) for one in params]

        def run(state: Any, branches: Any) -> Any:
            return self._exact.layers(state, plain, branches)

        return self._through((x, 2), outputs, x.shape[-2:], run)

    @remembered
    def stack(
        self, h: Tensor, n: int, params: Sequence[Params], outputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """What each branch reads, and the stream that the stack leaves, rounded to float64."""
        plain = [listed(one) for one in params]

        def run(start: Any, branches: Any) -> Any:
            return self._exact.stack(start, plain, branches, n)

        return self._through((h, 1), outputs, h.shape[-1:], run)

    def _through(
        self, start: tuple[Tensor, int], outputs: Sequence[Tensor], shape: Sequence[int], run: Callable[[Any, Any], Any]
    ) -> tuple[list[Tensor], Tensor]:
        """`run` with branches that note what they read, and return what the branches of the target returned.

        After a branch that returned an infinity or a NaN there is no exact value; what was read until then has one.
        """
        width = start[0].shape[-1]

        def one(state: Any, *given: Any) -> list[Any]:
            read: list[Any] = []

            def giving(y: Any) -> Callable[[Any], Any]:
                def branch(u: Any) -> Any:
                    read.append(list(u))
                    return [number if math.isfinite(number) else 0.0 for number in y]

                return branch

            after = run(state, [giving(y) for y in given])
            found = [*read, after]
            sound = 1
            while sound <= len(given) and all(map(math.isfinite, given[sound - 1])):
                sound += 1
            return [*found[:sound], *(None for _ in found[sound:])]

        shapes = [*([(width,)] * len(outputs)), shape]
        *inputs, after = self._each([start, *((y, 1) for y in outputs)], shapes, one, checked=1)
        return inputs, after

    @remembered
    def collapse(self, x: Tensor, head: Params | None) -> Tensor:
        """[..., n, C] -> [..., C], rounded to float64."""
        plain = None if head is None else listed(head)

        def one(state: Any) -> list[Any]:
            return [self._exact.collapse(state, plain)]

        return self._each([(x, 2)], [x.shape[-1:]], one)[0]

    @remembered
    def project_vjp(self, logits: Tensor, cotangent: Tensor) -> Tensor:
        """d <cotangent, h_res> / d logits of the unrolled iteration, rounded to float64."""
        axes = len(logits_shape(cotangent.shape[-1], self.dialect))
        given = [(logits, axes), (cotangent, 2)]
        return self._each(given, [logits.shape[-axes:]], lambda *one: [self._exact.project_vjp(*one)])[0]

    @remembered
    def mappings_vjp(self, x: Tensor, params: Params, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """By x and every parameter, rounded to float64."""
        plain = listed(params)
        given = [(x, 2), *((bar, bar.ndim - x.ndim + 2) for bar in cotangents)]

        def one(state: Any, *bars: Any) -> Any:
            return self._exact.mappings_vjp(state, plain, bars)

        return self._summed(given, [params], one)

    @remembered
    def pre_vjp(self, x: Tensor, h_pre: Tensor, cotangent: Tensor) -> list[Tensor]:
        """By x and h_pre, rounded to float64."""
        axes = h_pre.ndim - x.ndim + 2  # a weight for each stream, or for each channel
        shapes = [x.shape[-2:], h_pre.shape[-axes:]]
        return self._each([(x, 2), (h_pre, axes), (cotangent, 1)], shapes, self._exact.pre_vjp)

    @remembered
    def post_vjp(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor, cotangent: Tensor) -> list[Tensor]:
        """By x, y, h_post and h_res, rounded to float64."""
        given = [(x, 2), (y, 1), (h_post, 1), (h_res, 2)]
        shapes = [one.shape[-axes:] for one, axes in given]
        return self._each([*given, (cotangent, 2)], shapes, self._exact.post_vjp)

    @remembered
    def layers_vjp(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[BranchSpec], cotangent: Tensor
    ) -> list[Tensor]:
        """By x and the parameters of every layer, rounded to float64."""
        plain, calls = [listed(one) for one in params], [self._branch(branch, x.shape[-1]) for branch in branches]

        def one(state: Any, bar: Any) -> Any:
            return self._exact.layers_vjp(state, plain, calls, bar)

        return self._summed([(x, 2), (cotangent, 2)], params, one)

    @remembered
    def stack_vjp(
        self, h: Tensor, n: int, params: Sequence[Params], branches: Sequence[BranchSpec], cotangent: Tensor
    ) -> list[Tensor]:
        """By h and the parameters of every layer, and of the head, rounded to float64."""
        plain, calls = [listed(one) for one in params], [self._branch(branch, h.shape[-1]) for branch in branches]

        def one(start: Any, bar: Any) -> Any:
            return self._exact.stack_vjp(start, plain, calls, bar, n)

        return self._summed([(h, 1), (cotangent, 1)], params, one)

    @remembered
    def collapse_vjp(self, x: Tensor, head: Params | None, cotangent: Tensor) -> list[Tensor]:
        """By the streams, and by the parameters of a head, rounded to float64."""
        heads = [] if head is None else [head]
        plain = [listed(one) for one in heads]

        def one(state: Any, bar: Any) -> Any:
            return self._exact.collapse_vjp(state, bar, *plain)

        return self._summed([(x, 2), (cotangent, 1)], heads, one)

    def _branch(self, branch: BranchSpec, channels: int) -> Callable[[Any], Any]:
        """F on numbers of mpmath, for a branch whose derivative is a number."""
        weight = [0.0] * channels
        if branch.weight is not None:
            weight = wide(branch.weight).expand(channels).tolist()
        mp = self._exact.mp

        def call(u: Any) -> Any:
            if branch.kind == "identity":
                return list(u)
            if branch.kind == "scale":
                return [number * mp.mpf(w) for number, w in zip(u, weight, strict=True)]
            if branch.kind == "added":
                return [number + mp.mpf(w) for number, w in zip(u, weight, strict=True)]
            if branch.kind == "detached":
                return [value(number) * mp.mpf(w) for number, w in zip(u, weight, strict=True)]
            if branch.kind in ("constant", "zero"):
                return [mp.mpf(w if branch.kind == "constant" else 0.0) for w in weight]
            raise HarnessError(f"a law asks for the gradient of a {branch.kind} branch, which mpmath lacks here")

        return call

    def _each(
        self,
        given: Sequence[tuple[Tensor, int]],
        shapes: Sequence[Sequence[int]],
        function: Callable[..., Sequence[Any]],
        checked: int | None = None,
    ) -> list[Tensor]:
        """The results of `function`, of these shapes, for every token of (tensor, how many axes a token has).

        `checked`: of how many of the given tensors a number that is not finite leaves nothing exact; all of them unless
        said. A result that is None is NaN.
        """
        self.asked += 1
        batch = given[0][0].shape[: given[0][0].ndim - given[0][1]]
        flat = [wide(one).reshape(math.prod(batch), *one.shape[one.ndim - axes :]).contiguous() for one, axes in given]
        known: dict[bytes, list[Tensor]] = {}
        rows: list[list[Tensor]] = []
        for token in range(math.prod(batch)):
            row = [one[token] for one in flat]
            key = b"".join(part.numpy().tobytes() for part in row)
            if key not in known:
                sound = all(bool(torch.isfinite(part).all()) for part in row[:checked])
                try:
                    found = function(*(part.tolist() for part in row)) if sound else [None] * len(shapes)
                    known[key] = [_tensor(part, shape) for part, shape in zip(found, shapes, strict=True)]
                except Exception as error:
                    if not self._outside or isinstance(error, HarnessError):
                        raise
                    raise HarnessError(
                        f"there is no truth to judge by: the formula in mpmath of {' or '.join(self._outside)} cannot "
                        f"be used for {[part.tolist() for part in row]}: {located(error)}"
                    ) from None
            rows.append(known[key])
        if not rows:
            return [torch.zeros((*batch, *shape), dtype=torch.float64, device=_HERE) for shape in shapes]
        return [torch.stack([row[k] for row in rows]).reshape(*batch, *shape) for k, shape in enumerate(shapes)]

    def _summed(
        self, given: Sequence[tuple[Tensor, int]], params: Sequence[Params], function: Callable[..., Sequence[Any]]
    ) -> list[Tensor]:
        """The gradients by the first of the tensors, token by token, and by the parameters, over all tokens.

        `function` gives (by the first, by each set of parameters) for one token.
        """
        totals: list[list[list[Any]]] = []

        def one(*token: Any) -> Sequence[Any]:
            first, *by_params = function(*token)
            parts = [part for one in by_params for part in one if part is not None]
            totals.append([_flat(part) for part in parts])
            return [first]

        start, axes = given[0]
        kept = [part for one in params for part in present(one)]
        apart = torch.arange(math.prod(start.shape[: start.ndim - axes]), dtype=torch.float64, device=_HERE)
        # Equal tokens have gradients of their own in the sum: each carries its number.
        first = self._each([*given, (apart, 0)], [start.shape[start.ndim - axes :]], lambda *token: one(*token[:-1]))
        fsum: Callable[[Any], Any] = self._exact.mp.fsum
        if len(totals) < apart.numel():  # of a token that is not finite there is no gradient, and so none of the sum
            return [*first, *(torch.full(part.shape, math.nan, dtype=torch.float64, device=_HERE) for part in kept)]
        return [
            *first,
            *(
                _tensor([fsum(numbers) for numbers in zip(*(total[k] for total in totals), strict=True)], part.shape)
                if totals
                else torch.zeros(part.shape, dtype=torch.float64, device=_HERE)
                for k, part in enumerate(kept)
            ),
        ]


def _flat(values: Any) -> list[Any]:
    return [number for part in values for number in _flat(part)] if isinstance(values, (list, tuple)) else [values]  # pyright: ignore[reportUnknownVariableType]


def _tensor(values: Any, shape: Sequence[int]) -> Tensor:
    if values is None:
        return torch.full(tuple(shape), math.nan, dtype=torch.float64, device=_HERE)
    numbers = [float(number) for number in _flat(values)]
    return torch.tensor(numbers, dtype=torch.float64, device=_HERE).reshape(tuple(shape))
