"""What was given to the oracle, read: numbers, shapes and parameters, converted exactly or refused by name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mpmath import MPContext

from mhc_ref import registry
from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Real, Vector, flat, items, numbers, sizes, transpose
from mhc_ref.exact.numbers import Node, Reals, lift, value

_GUARD_BITS = 40
"""Bits beyond `digits`: Sinkhorn loses about log2(2 t^2) of them, which are added to these, and a sum of N log2(N)."""

_MOST_STREAMS = 64
"""The largest n that logits are tried for, where no size of theirs is larger."""


class Parameters(NamedTuple):
    """Parameters as read: phi by columns, `up` its last ones by rows where the read has some (else empty), and the bits
    by which their logits may exceed 1."""

    columns: Matrix
    up: Matrix
    bias: Vector
    alpha: Vector
    norm_weight: Vector | None
    bits: int


class Reading:
    """The dialect, the numbers of the context `mp`, and how arguments become lists of them."""

    def __init__(self, dialect: Dialect, digits: int = 50) -> None:
        if digits < 1:
            raise ValueError(f"digits is {digits!r}; expected 1 or more")
        if dialect.rms_eps_from != "value":
            raise ValueError(
                f"the dialect takes the eps of its norm from a dtype (rms_eps_from={dialect.rms_eps_from!r}), and "
                "numbers here have none; give dialect.at('float32'), or of the dtype of the state that is meant"
            )
        self.dialect = dialect
        self.digits = digits
        self.mp: Any = MPContext()
        self.mp.prec = math.ceil(digits * math.log2(10)) + 2 * dialect.iterations.bit_length() + _GUARD_BITS
        self._real = Reals(self.mp)
        self._mix = registry.oracle("mix", dialect.residual)
        self._reads = registry.oracle("read", dialect.read)
        self._end = registry.oracle("end", dialect.collapse)

    def _number(self, given: Any, name: str) -> Real:
        if isinstance(given, Node):  # whose value was checked when it was made
            return given
        try:
            number = self.mp.convert(given)
        except (TypeError, ValueError):
            raise ValueError(f"{name} holds {given!r}; expected an int, float, str or mpf") from None
        if not isinstance(number, self.mp.mpf) or not self.mp.isfinite(number):
            raise ValueError(f"{name} holds {given!r}; expected a finite real number")
        return number

    def _vector(self, given: Any, lengths: int | tuple[int, ...], name: str) -> Vector:
        """`lengths`: the length, or those allowed."""
        numbers = [self._number(number, name) for number in items(given, name)]
        allowed = (lengths,) if isinstance(lengths, int) else lengths
        if len(numbers) not in allowed:
            raise ValueError(f"{name} has {len(numbers)} numbers; expected {' or '.join(map(str, allowed))}")
        return numbers

    def _matrix(self, given: Any, rows: int, columns: int | tuple[int, ...], name: str) -> Matrix:
        lines = items(given, name)
        if len(lines) != rows:
            raise ValueError(f"{name} has {len(lines)} rows; expected {rows}")
        return [self._vector(row, columns, f"{name}[{i}]") for i, row in enumerate(lines)]

    def _state(self, given: Any, name: str) -> Matrix:
        """[n][C] for any n and C from 1 on."""
        streams = items(given, name)
        width = len(items(streams[0], f"{name}[0]")) if streams else 0
        return self._matrix(streams, max(1, len(streams)), max(1, width), name)

    def _dual_state(self, x: Any, dx: Any, name: str) -> Matrix:
        state = self._state(x, name)
        n, width = len(state), len(state[0])
        zero = [[self.mp.zero] * width] * n
        return lift(state, zero if dx is None else self._matrix(dx, n, width, f"d{name}"))

    def _logits(self, given: Any, name: str) -> tuple[int, Vector]:
        """(n, all logits in one row-major list)."""
        n = self._streams_of_logits(sizes(given, name), name)
        return n, numbers(self._nested(given, self._shape(n), name))

    def _streams_of_logits(self, given: tuple[int, ...], name: str) -> int:
        """The n whose logits have these sizes, or else the least whose logits have as many lines."""
        nearest = None
        for n, shape in self._shapes(max(given)):
            if shape == given:
                return n
            if nearest is None and shape[0] >= given[0]:
                nearest = n
        if nearest is None:
            known = ", ".join(str(shape) for _, shape in itertools.islice(self._shapes(1), 4))
            raise ValueError(f"{name} has sizes {given}; residual={self.dialect.residual!r} takes {known}, ...")
        return nearest

    def _shapes(self, most: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """n and the shape of its logits, for every n that the mix is for, up to `most` or further."""
        for n in range(1, max(most, _MOST_STREAMS) + 1):
            try:
                yield n, self._shape(n)
            except ValueError:  # the mix is not for this n
                continue

    def _shape(self, n: int) -> tuple[int, ...]:
        return tuple(self._mix.told.shape(n, self.dialect))

    def _nested(self, given: Any, shape: tuple[int, ...], name: str) -> list[Any]:
        if len(shape) == 1:
            return self._vector(given, shape[0], name)
        lines = items(given, name)
        if len(lines) != shape[0]:
            raise ValueError(f"{name} has {len(lines)} rows; expected {shape[0]}")
        return [self._nested(line, shape[1:], f"{name}[{i}]") for i, line in enumerate(lines)]

    def _parameters(self, given: Any, x: Matrix, tangents: Any = None, *, pre_only: bool = False) -> Parameters:
        """Parameters for a state; with `pre_only` the pre part of them, whether or not there is more."""
        n, shared = len(x), self.dialect.shared_projection
        rows = len(x[0]) if shared else n * len(x[0])
        residual = math.prod(self._shape(n))
        of_pre, beyond = self._reads.told.width(n, self.dialect), self._reads.told.beyond(self.dialect)
        widths, lengths = (2 + residual // n if shared else of_pre + n + residual,), (of_pre + n + residual,)
        gates = (3 if residual else 2,)
        if pre_only:
            widths, lengths, gates = (1 if shared else of_pre, *widths), (of_pre, *lengths), (1, *gates)

        def read(attribute: str, parse: Callable[[Any, str], list[Any]]) -> list[Any]:
            values = parse(getattr(given, attribute), f"params.{attribute}")
            tangent = getattr(tangents, attribute, None)
            return values if tangent is None else lift(values, parse(tangent, f"dparams.{attribute}"))

        given_widths = tuple(width + beyond for width in widths)
        every = read("phi", lambda phi, name: transpose(self._matrix(phi, rows, given_widths, name)))
        columns, up = every[: widths[0]], transpose(every[-beyond:]) if beyond else []
        bias = read("bias", lambda numbers, name: self._vector(numbers, lengths, name)[: lengths[0]])
        alpha = read("alpha", lambda numbers, name: self._vector(numbers, gates, name)[: gates[0]])
        if given.norm_weight is None and getattr(tangents, "norm_weight", None) is not None:
            raise ValueError("dparams.norm_weight is given but params.norm_weight is None; expected both or neither")
        weight = None
        if given.norm_weight is not None:
            weight = read("norm_weight", lambda numbers, name: self._vector(numbers, n * len(x[0]), name))
        # |x^| <= sqrt(n*C), so that no dynamic logit exceeds n*C |alpha phi weight|.
        factors = [w + self.dialect.norm_offset for w in weight or []]
        bits = [self._bits(numbers) for numbers in (alpha, flat(columns), factors, flat(up), [n * len(x[0])])]
        return Parameters(columns, up, bias, alpha, weight, max(sum(bits), self._bits(bias)) + 1)

    def _bits(self, numbers: Vector) -> int:
        """Binary digits before the point of the largest number: what its size takes from the digits after it."""
        return max([0, *(self.mp.mag(value(number)) for number in numbers if value(number))])

    def _split_head(self, params_seq: Sequence[Any]) -> tuple[Sequence[Any], Any]:
        """The blocks' parameters, and those of the head where the dialect has one."""
        if not getattr(self._end.told, "HEAD", False):
            return params_seq, None
        if not params_seq:
            collapse = self.dialect.collapse
            raise ValueError(f'params_seq is empty; expected one entry more than branches, for collapse "{collapse}"')
        return params_seq[:-1], params_seq[-1]

    def _streams(self, params_seq: Sequence[Any], width: int) -> int:
        """n, read off the shapes of the first parameters."""
        if not params_seq:
            raise ValueError("n is None and there are no parameters to read it off; expected n")
        phi = items(params_seq[0].phi, "phi")
        if not self.dialect.shared_projection:
            return len(phi) // width or 1
        size = len(items(params_seq[0].bias, "bias"))
        if phi and len(items(phi[0], "phi[0]")) == 1:  # those of a head, which has the pre part alone
            return size
        return next((n for n, shape in self._shapes(size) if 2 * n + math.prod(shape) == size), size)
