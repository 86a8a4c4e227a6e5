"""How one argument of a call may lie in memory while all others lie in the order of their entries."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.implementation import Implementation
from properties.laws.calls import Call, Way


def swapped(one: Tensor) -> Tensor:
    """The same values, the last two axes in the other order in memory."""
    return one.transpose(-1, -2).contiguous().transpose(-1, -2)


def wider(one: Tensor) -> Tensor:
    """Every second entry of a tensor that is twice as wide."""
    return torch.stack([one, one - 1], -1)[..., 0]


def among_nan(one: Tensor) -> Tensor:
    """A part of something larger along every axis, which is NaN beside it for a tile and more: where a load of full
    tiles reaches further, 0 times what it has read there is no 0."""
    room = one.new_full([size + 40 if k >= one.ndim - 2 else 2 * size for k, size in enumerate(one.shape)], math.nan)
    return room[tuple(slice(1, 1 + size) for size in one.shape)].copy_(one)


def everywhere(one: Tensor) -> Tensor:
    """The first token in the place of every other, without a copy."""
    return one[:1].expand(one.shape)


def every_sequence(one: Tensor) -> Tensor:
    """The first half of the tokens as every sequence of a batch, without a copy, as of one prompt that is continued
    several times."""
    few = one[: max(1, one.shape[0] // 2)]
    return few.unsqueeze(0).expand(one.shape[0] // few.shape[0], *few.shape)


def copied_streams(one: Tensor) -> Tensor:
    """A state whose streams are all the first one, without a copy, as those of an expanded input are."""
    return one[:, :1].expand(one.shape)


def second_cut(one: Tensor) -> Tensor:
    """The same on the same axes, of which the second ends where more lies in memory."""
    return torch.cat([one, one[:, :1] + 1], 1)[:, :-1]


def first_axes_swapped(one: Tensor) -> Tensor:
    """The same values, the first two axes in the other order in memory: [S, B, ...] for what is called [B, S, ...]."""
    return one.transpose(0, 1).contiguous().transpose(0, 1)


def in_columns(one: Tensor, most: int) -> Tensor:
    """[tokens, 2, ...] in the order of its entries: the given values, and beside them those of other tokens. Where a
    call takes `most` tokens, there are no more."""
    few = one[: max(1, most // 2)]
    return torch.stack([few, few.flip(0)][:most], 1)


@dataclass(frozen=True)
class Rows:
    """A branch that gives every token a row of its own, whatever it reads: to ignore strides shows."""

    rows: Tensor
    lie: Callable[[Tensor], Tensor] = lambda one: one

    def __call__(self, u: Tensor) -> Tensor:
        """[tokens, C] as the rows, [tokens, 2, C] as `in_columns` has them."""
        own = self.rows[: u.shape[0]].to(u)
        return self.lie(own if u.ndim == 2 else torch.stack([own, own.flip(0)][: u.shape[1]], 1))


def rows_of(state: Tensor) -> Rows:
    """Rows that are none of a state [tokens, n, C], nor of a stream [tokens, C], but of its values."""
    return Rows((state if state.ndim == 2 else state[:, -1]).flip(0, 1).contiguous())


def _in_columns(what: str, arrange: Callable[[tuple[Any, ...]], tuple[Any, ...]], most: int) -> Way:
    """A call with two axes of tokens, of which the first column is held to the tokens that it is made of."""
    return Way(what, arrange, lambda one: one[: max(1, most // 2)], lambda one: one[:, 0])


def with_columns(given: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    """The arguments with two axes of tokens."""
    return tuple(in_columns(one, most) if isinstance(one, Tensor) else one for one in given)


def _instead(given: tuple[Any, ...], k: int, one: Any) -> tuple[Any, ...]:
    return (*given[:k], one, *given[k + 1 :])


def alone(call: Call, implementation: Implementation) -> list[Way]:
    """Every argument that is a tensor, and every parameter, lies otherwise while the others do not."""
    most, found = implementation.max_tokens, list[Way]()
    for k, (name, one) in enumerate(zip(call.names, call.given, strict=True)):
        if isinstance(one, Tensor):

            def turned(given: tuple[Any, ...], k: int = k) -> tuple[Any, ...]:
                both = with_columns(given, most)
                return _instead(both, k, first_axes_swapped(both[k]))

            found.append(_in_columns(f"{name} alone with token axes in the other order", turned, most))
            for how, lie in (("transposed", swapped), ("with gaps", wider)):

                def lying(given: tuple[Any, ...], k: int = k, lie: Callable[[Tensor], Tensor] = lie) -> tuple[Any, ...]:
                    return _instead(given, k, lie(given[k]))

                found.append(Way(f"{name} alone {how}", lying))
        elif isinstance(one, Params) or (isinstance(one, tuple) and one and isinstance(one[0], Params)):
            found += parameters_alone(k, one)
    return found


def parameters_alone(k: int, params: Params | tuple[Params, ...]) -> list[Way]:
    """Every parameter of the k-th argument, of all its layers, with gaps while the others are without; phi also
    transposed."""
    first = params if isinstance(params, Params) else params[0]
    kinds = [(name, "with gaps", wider) for name, one in first._asdict().items() if one is not None]
    found: list[Way] = []
    for name, how, lie in (("phi", "transposed", swapped), *kinds):

        def laid(one: Params, name: str = name, lie: Callable[[Tensor], Tensor] = lie) -> Params:
            part = getattr(one, name)
            return one if part is None else one._replace(**{name: lie(part)})

        def lying(given: tuple[Any, ...], laid: Callable[[Params], Params] = laid) -> tuple[Any, ...]:
            one = given[k]
            own = laid(one) if isinstance(one, Params) else tuple(map(laid, cast("tuple[Params, ...]", one)))
            return _instead(given, k, own)

        found.append(Way(f"{name} alone {how}", lying))
    if not isinstance(params, Params) and len(params) > 1:
        found += [
            Way("phi of the last layer alone transposed", lambda given: _instead(given, k, _last_transposed(given[k]))),
            Way(
                "parameters of all layers as slices of one tensor", lambda given: _instead(given, k, _sliced(given[k]))
            ),
        ]
    return found


def _last_transposed(params: tuple[Params, ...]) -> tuple[Params, ...]:
    """The phi of the last layer lies as the weight of a linear layer does: strides are those of each layer."""
    return (*params[:-1], params[-1]._replace(phi=swapped(params[-1].phi)))


def _sliced(params: tuple[Params, ...]) -> tuple[Params, ...]:
    """What layers have of one shape lies in one tensor, [layers, ...], as a scan over layers has it: one storage is not
    one parameter."""
    made: list[dict[str, Tensor]] = [{} for _ in params]
    for name in Params._fields:
        parts: dict[torch.Size, list[int]] = {}
        for k, one in enumerate(params):
            if (part := getattr(one, name)) is not None:
                parts.setdefault(part.shape, []).append(k)
        for those in parts.values():
            together = torch.stack([getattr(params[k], name) for k in those])
            for row, k in enumerate(those):
                made[k][name] = together[row]
    return tuple(one._replace(**new) for one, new in zip(params, made, strict=True))


def branch_outputs_alone(implementation: Implementation) -> list[Way]:
    """What `Rows` return lies otherwise, of a block or of every layer, while the state does not."""
    most = implementation.max_tokens

    def lying(given: tuple[Any, ...], lie: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
        *rest, own = given
        if isinstance(own, Rows):
            return (*rest, Rows(own.rows, lie))
        return (*rest, tuple(Rows(one.rows, lie) for one in cast("tuple[Rows, ...]", own)))

    def turned(given: tuple[Any, ...]) -> tuple[Any, ...]:
        return lying(with_columns(given, most), first_axes_swapped)

    return [
        _in_columns("tokens whose branch gives token axes in the other order", turned, most),
        Way("tokens whose branch gives a transposed view", lambda given: lying(given, swapped)),
        Way("tokens whose branch gives every second entry", lambda given: lying(given, wider)),
    ]
