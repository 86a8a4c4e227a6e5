"""What a dialect predicts for an observation, with the bound of what rounding may add to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.block import check_params
from mhc_ref.packing import logits_shape, streams_of_logits
from mhc_ref.stack import ends_with_last, has_head
from properties import bounds
from properties.bounds import Approx, Rounding, block, pullback, stack
from properties.core.case import BranchSpec
from properties.core.implementation import Mixing, Products, Storage
from properties.core.truth import wide


class Unanswerable(Exception):  # nothing is wrong with a dialect that is not the question's
    """A dialect takes other inputs than the question has: parameters packed in another way, none of a head."""


class Judge:
    """The values of one dialect for states of one dtype, each with its bound; tokens may have any number of axes."""

    def __init__(
        self,
        dialect: Dialect,
        dtype: torch.dtype,
        mixing: Mixing = "compute",
        rounding: Rounding | None = None,
        products: Products = "compute",
        parameters: Storage = "compute",
        short: Sequence[str] = (),
    ) -> None:
        self.dialect = dialect.at(dtype)
        given = rounding or Rounding.of(dtype, products)
        self.rounding = given = replace(given, mixes_in_state=mixing == "state")
        if given.state_unit:
            self.rounding = replace(given, stores_in_state=parameters == "state", short=tuple(short))

    def _accept(self, x: Tensor | Approx, params: Params) -> None:
        n, channels = (x.value if isinstance(x, Approx) else x).shape[-2:]
        try:
            check_params(params, n, channels, self.dialect)
        except ValueError as error:
            raise Unanswerable(str(error)) from error

    def project(self, logits: Tensor) -> Approx:
        """h_res.

        Raises:
            Unanswerable: here and below, where the inputs are packed for another dialect.
        """
        try:
            n = streams_of_logits(logits.shape, self.dialect)
        except ValueError as error:
            raise Unanswerable(str(error)) from error
        one = logits_shape(n, self.dialect)
        batch = logits.shape[: logits.ndim - len(one)]
        found = bounds.projection(
            Approx.exact(wide(logits).reshape(math.prod(batch), *one)), self.dialect, self.rounding
        )
        shape = (*batch, n, n)
        return Approx(found.value.reshape(shape), found.error.reshape(shape))

    def mappings(self, x: Tensor | Approx, params: Params) -> list[Approx]:
        """h_pre, h_post, h_res."""
        self._accept(x, params)
        tokens = (x.value if isinstance(x, Approx) else x).shape[:-2]
        h = block.coefficients(_flat(x), params, self.dialect, self.rounding)
        return [_shaped(part, tokens) for part in (h.pre, h.post, h.res)]

    def pre(self, x: Tensor, h_pre: Tensor) -> Approx:
        """The branch input."""
        return block.read(x, Approx.exact(h_pre), self.rounding)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Approx:
        """A x + h_post^T y."""
        operator = Approx.exact(block.applied(wide(h_res), self.dialect))
        return block.combined(x, operator, self.rounding, y, Approx.exact(h_post))

    def block(self, x: Tensor | Approx, params: Params, branch: BranchSpec) -> list[Approx]:
        """The branch input and the next state, for a branch that scales every channel."""
        self._accept(x, params)
        tokens = (x.value if isinstance(x, Approx) else x).shape[:-2]
        way = block.passed(_flat(x), params, branch, self.dialect, self.rounding)
        return [_shaped(way.u, tokens), _shaped(way.after, tokens)]

    def layers(self, x: Tensor | Approx, params: Sequence[Params], branches: Sequence[BranchSpec]) -> list[Approx]:
        """Every branch input, and the state in the end."""
        return self._layers(x, params, branches)[0]

    def _layers(
        self, x: Tensor | Approx, params: Sequence[Params], branches: Sequence[BranchSpec]
    ) -> tuple[list[Approx], Approx | None]:
        """Every branch input and the state in the end, and the h_pre of the last block, tokens on one axis."""
        for one in params:
            self._accept(x, one)
        tokens, state = (x.value if isinstance(x, Approx) else x).shape[:-2], _flat(x)
        ways = stack.passages(state, params, branches, self.dialect, self.rounding)
        after, last = (ways[-1].after, ways[-1].h.pre) if ways else (state, None)
        return [*(_shaped(way.u, tokens) for way in ways), _shaped(after, tokens)], last

    def expand(self, h: Tensor, n: int) -> Approx:
        """The streams as they begin."""
        return stack.begun(h, n, self.dialect, self.rounding)

    def collapse(self, x: Tensor | Approx, head: Params | None = None) -> Approx:
        """The one stream of x."""
        state = _flat(x)
        tokens = (x.value if isinstance(x, Approx) else x).shape[:-2]
        if has_head(self.dialect):
            if head is None:
                raise Unanswerable(f"collapse={self.dialect.collapse!r} needs the parameters of the head")
            self._accept(x, head)
        if ends_with_last(self.dialect):
            raise Unanswerable(f"collapse={self.dialect.collapse!r} needs the h_pre of the last block")
        return _shaped(stack.collapsed(state, self.dialect, self.rounding, head), tokens)

    def stack(self, h: Tensor, n: int, params: Sequence[Params], branches: Sequence[BranchSpec]) -> list[Approx]:
        """Every branch input, and the stream in the end; `params` has the head's last."""
        (*read, x), last = self._layers(self.expand(h, n), params[: len(branches)], branches)
        if ends_with_last(self.dialect) and last is not None:
            return [*read, _shaped(stack.collapsed(_flat(x), self.dialect, self.rounding, last=last), h.shape[:-1])]
        return [*read, self.collapse(x, *params[len(branches) :])]

    def project_gradient(self, logits: Tensor, cotangent: Tensor) -> Approx:
        """d <cotangent, h_res> / d logits."""
        if self.project(logits[:0]).value.shape[1:] != cotangent.shape[1:]:
            raise Unanswerable(f"logits of shape {tuple(logits.shape)} for matrices of shape {tuple(cotangent.shape)}")
        return bounds.projection_gradient(Approx.exact(logits), Approx.exact(cotangent), self.dialect, self.rounding)

    def block_gradient(self, x: Tensor, params: Params, branch: BranchSpec, cotangent: Tensor) -> list[Approx]:
        """d <cotangent, block> / d x and every parameter that there is."""
        self._accept(x, params)
        found = pullback.block(Approx.exact(x), params, branch, Approx.exact(cotangent), self.dialect, self.rounding)
        names = [name for name, part in params._asdict().items() if part is not None]
        return [bounds.stored(found.x, self.rounding), *(getattr(found, name) for name in names)]

    def stack_gradient(
        self, h: Tensor, n: int, params: Sequence[Params], branches: Sequence[BranchSpec], cotangent: Tensor
    ) -> list[Approx]:
        """d <cotangent, stack> / d h and every parameter that there is, layer by layer; the head's last."""
        blocks, given = tuple(params[: len(branches)]), tuple(params[len(branches) :])
        if has_head(self.dialect) and not given:
            raise Unanswerable(f"collapse={self.dialect.collapse!r} needs the parameters of the head")
        head = given if has_head(self.dialect) else ()
        for one in params:
            self._accept(h.unsqueeze(-2).expand(*h.shape[:-1], n, h.shape[-1]), one)
        by_h, found = pullback.stack(h, n, blocks, branches, head, cotangent, self.dialect, self.rounding)
        every = [
            Approx.exact(torch.zeros_like(part)) if back is None else getattr(back, name)
            for one, back in itertools.zip_longest(params, found)  # nothing reads a head where the dialect has none
            for name, part in one._asdict().items()
            if part is not None
        ]
        return [bounds.stored(by_h, self.rounding), *every]


def _flat(x: Tensor | Approx) -> Approx:
    whole = x if isinstance(x, Approx) else Approx.exact(x)
    shape = (-1, *whole.value.shape[-2:]) if whole.value.numel() else (0, *whole.value.shape[-2:])
    return Approx(whole.value.reshape(shape), whole.error.reshape(shape))


def _shaped(part: Approx, tokens: torch.Size) -> Approx:
    shape = (*tokens, *part.value.shape[1:])
    return Approx(part.value.reshape(shape), part.error.reshape(shape))
