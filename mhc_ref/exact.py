"""The oracle: every dialect of hyper-connections in mpmath, to any number of digits, with exact derivatives.

It is written from the equations and shares only `Dialect` with the rest of the package, so that an agreement between
the two is evidence. It treats one token at a time, on nested lists: a state x is [n][C], a matrix [n][n] with element
[i][j] in row i. Numbers may be int, float, str or mpf; they are converted exactly, except that a str is rounded to the
working precision. An eps is the double that the `Dialect` holds.

Accuracy: a value is correct to `digits` relative to the sum of the absolute values of the terms that it adds up; for an
entry of a Sinkhorn matrix that is the entry itself, however small. A tangent of such an entry is correct to `digits`
relative to the entry times the largest number in the direction. The working precision grows with the size of the
logits, so that logits of 1e300 are no worse.

Speed, one token, n = 4, C = 8, 20 iterations, 50 digits: a block takes 5 ms with gmpy2 and 6 ms without, its derivative
11 and 14, a projection 2 and 2, its gradient 6 and 7; on one core of a server, the latter with MPMATH_NOGMPY=1, by

    python -m timeit -s "
    from types import SimpleNamespace as Params
    from mhc_ref import PAPER
    from mhc_ref.exact import Exact
    def wave(rows, columns): return [[(7 * i + 3 * j) % 11 / 4 - 1 for j in range(columns)] for i in range(rows)]
    exact, x = Exact(PAPER), wave(4, 8)
    params = Params(phi=wave(32, 24), bias=wave(1, 24)[0], alpha=[1, 1, 1], norm_weight=None)" "
    exact.block(x, params, list)"  # or: exact.block_derivative(x, params, list, x, params, lambda u, du: du)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from mpmath import MPContext

from mhc_ref.dialect import Axis, Dialect

__all__ = ["Exact"]

# An mpf, inside this module also a Dual or a Node. Any, because mpmath ships no type stubs.
Real: TypeAlias = Any
Vector: TypeAlias = list[Real]
Matrix: TypeAlias = list[list[Real]]
Branch: TypeAlias = Callable[[Vector], Sequence[Real]]
BranchDerivative: TypeAlias = Callable[[Vector, Vector], Sequence[Real]]
Triple: TypeAlias = tuple[Vector, Vector, Matrix]

_GUARD_BITS = 40
"""Bits beyond `digits`: Sinkhorn loses about log2(2 t^2) of them, which are added to these, and a sum of N log2(N)."""


class Exact:
    """One dialect of hyper-connections, to `digits` decimal digits, for one token at a time.

    Parameters are any object with the attributes phi [n*C][2n+R] (R = n*n, or n! for permutations), bias [2n+R],
    alpha [3] and norm_weight [n*C] or None; with `shared_projection` phi is [C][2+n]. Columns are pre | post | res.

    A branch is called with numbers of `mp`, the mpmath context of this object: a branch that needs functions takes them
    from there (`exact.mp.tanh(u)`), because those of the module `mpmath` round to 15 digits.

    Derivatives are directional: a method `*_derivative` takes a tangent of the same shape for each argument, None for
    zero (the object as a whole, or one of the attributes of dparams), and gives (value, tangent). They differentiate
    what is computed: the unrolled iteration, and the shift of the exp start where an eps makes it matter. At a kink
    the tangent is that of one side: the first maximiser of a tie, the sum where it equals the clamp, 0 for a
    normalised state whose rms is 0. Methods `*_vjp` go the other way: for a cotangent of the value they give the
    gradient of <cotangent, value> by every argument, each in the shape of the argument, by parameters as an object with
    the attributes of `params`. They call a branch with numbers that remember what is done to them: it may add them,
    subtract, multiply and divide them, and do whatever it likes with real numbers of its own.

    Attributes:
        dialect: the dialect.
        digits: correct decimal digits.
        mp: an mpmath context of its own; the global `mpmath.mp` is neither read nor changed.

    Raises:
        ValueError: from every method, for a wrong shape or a number that is not finite.
    """

    def __init__(self, dialect: Dialect, digits: int = 50) -> None:
        if digits < 1:
            raise ValueError(f"digits is {digits!r}; expected 1 or more")
        self.dialect = dialect
        self.digits = digits
        self.mp: Any = MPContext()
        self.mp.prec = math.ceil(digits * math.log2(10)) + 2 * dialect.iterations.bit_length() + _GUARD_BITS
        self._real = _Functions(self.mp)

    # Values

    def project(self, logits: Sequence[Any]) -> Matrix:
        """Logits [n][n] (permutations: [n!]) -> M [n][n], before any transposition. Eq. (8)-(9) of arXiv 2512.24880."""
        n, flat = self._logits(logits, "logits")
        return self._project(flat, n)

    def mappings(self, x: Sequence[Any], params: Any) -> Triple:
        """State [n][C] -> (h_pre [n], h_post [n], M [n][n]). Eq. (7)-(8) of arXiv 2512.24880."""
        state = self._state(x, "x")
        return self._mappings(state, self._parameters(params, state))

    def pre(self, x: Sequence[Any], h_pre: Sequence[Any]) -> Vector:
        """u = h_pre x, the input of the branch: [n][C], [n] -> [C]."""
        state = self._state(x, "x")
        return self._pre(state, self._vector(h_pre, len(state), "h_pre"))

    def post(self, x: Sequence[Any], y: Sequence[Any], h_post: Sequence[Any], h_res: Sequence[Any]) -> Matrix:
        """A x + h_post^T y, where A = h_res or its transpose: [n][C], [C], [n], [n][n] -> [n][C]."""
        state = self._state(x, "x")
        n, width = len(state), len(state[0])
        return self._post(
            state,
            self._vector(y, width, "y"),
            self._vector(h_post, n, "h_post"),
            self._matrix(h_res, n, n, "h_res"),
        )

    def block(self, x: Sequence[Any], params: Any, branch: Branch) -> Matrix:
        """x' = A x + h_post^T F(h_pre x): [n][C] -> [n][C]. Eq. (3) of arXiv 2512.24880."""
        return self.layers(x, [params], [branch])

    def layers(self, x: Sequence[Any], params_seq: Sequence[Any], branches: Sequence[Branch]) -> Matrix:
        """One block after another on the same streams: [n][C] -> [n][C]."""
        return self._layers(self._state(x, "x"), params_seq, [self._checked(branch) for branch in branches])

    def expand(self, h: Sequence[Any], n: int) -> Matrix:
        """h -> n copies of h: [C] -> [n][C]."""
        return self._expand(self._state([h], "h")[0], n)

    def collapse(self, x: Sequence[Any], head: Any = None) -> Vector:
        """Sum or mean of the streams, or their sum gated by the h_pre of the parameters `head`: [n][C] -> [C].

        Of `head` only the pre part is read, so that it may have nothing else: phi [n*C][n] (shared: [C][1]), bias [n],
        alpha [1].
        """
        return self._collapse(self._state(x, "x"), head)

    def stack(
        self, h: Sequence[Any], params_seq: Sequence[Any], branches: Sequence[Branch], n: int | None = None
    ) -> Vector:
        """expand, layers, collapse: [C] -> [C]. Where collapse is "head", the last of params_seq is the head's.

        n is read off the parameters; it must be given where there are none.
        """
        start = self._state([h], "h")[0]
        blocks, head = self._split_head(params_seq)
        streams = self._streams(params_seq, len(start)) if n is None else n
        x = self._layers(self._expand(start, streams), blocks, [self._checked(branch) for branch in branches])
        return self._collapse(x, head)

    # Derivatives

    def project_derivative(self, logits: Sequence[Any], direction: Sequence[Any]) -> tuple[Matrix, Matrix]:
        """(M, dM), each [n][n], for logits and a direction of the same shape."""
        n, flat = self._logits(logits, "logits")
        m, tangents = self._logits(direction, "direction")
        if m != n:
            raise ValueError(f"direction is for {m} streams; expected {n} as in logits")
        return _split(self._project(_lift(flat, tangents), n))

    def project_vjp(self, logits: Sequence[Any], cotangent: Sequence[Any]) -> list[Any]:
        """Gradient of sum(cotangent * M) with respect to the logits, of the logits' shape; cotangent [n][n].

        Reverse mode through the unrolled iteration, as in the backward kernel of arXiv 2512.24880. Correct to `digits`
        relative to the largest number in the cotangent.
        """
        n, z = self._logits(logits, "logits")
        bar = self._matrix(cotangent, n, n, "cotangent")
        with self.mp.extraprec(self._bits(z)):
            if self.dialect.residual == "permutations":
                return self._permutations_vjp(z, bar)
            if self.dialect.residual == "identity":
                return [[self.mp.zero] * n for _ in range(n)]
            if self.dialect.residual == "unconstrained":
                return bar
            return self._sinkhorn_vjp(_rows(z, n), bar)

    def mappings_derivative(
        self, x: Sequence[Any], params: Any, dx: Sequence[Any] | None, dparams: Any
    ) -> tuple[Triple, Triple]:
        """((pre, post, M), (dpre, dpost, dM)), shaped as `mappings` gives them."""
        state = self._dual_state(x, dx, "x")
        pre, post, res = self._mappings(state, self._parameters(params, state, dparams))
        (pre, dpre), (post, dpost), (res, dres) = _split(pre), _split(post), _split(res)
        return (pre, post, res), (dpre, dpost, dres)

    def block_derivative(
        self,
        x: Sequence[Any],
        params: Any,
        branch: Branch,
        dx: Sequence[Any] | None,
        dparams: Any,
        dbranch: BranchDerivative,
    ) -> tuple[Matrix, Matrix]:
        """(x', dx'), each [n][C]; dbranch(u, du) is the tangent of the branch, its own parameters' share included."""
        return self.layers_derivative(x, [params], [branch], dx, [dparams], [dbranch])

    def layers_derivative(
        self,
        x: Sequence[Any],
        params_seq: Sequence[Any],
        branches: Sequence[Branch],
        dx: Sequence[Any] | None,
        dparams_seq: Sequence[Any] | None,
        dbranches: Sequence[BranchDerivative],
    ) -> tuple[Matrix, Matrix]:
        """(value, tangent) of `layers`, each [n][C]."""
        state = self._dual_state(x, dx, "x")
        return _split(self._layers(state, params_seq, self._dual_branches(branches, dbranches), dparams_seq))

    def stack_derivative(
        self,
        h: Sequence[Any],
        params_seq: Sequence[Any],
        branches: Sequence[Branch],
        dh: Sequence[Any] | None,
        dparams_seq: Sequence[Any] | None,
        dbranches: Sequence[BranchDerivative],
        n: int | None = None,
    ) -> tuple[Vector, Vector]:
        """(value, tangent) of `stack`, each [C]."""
        start = self._dual_state([h], None if dh is None else [dh], "h")[0]
        streams = self._streams(params_seq, len(start)) if n is None else n
        blocks, head = self._split_head(params_seq)
        dblocks, dhead = (None, None) if dparams_seq is None else self._split_head(dparams_seq)
        x = self._expand(start, streams)
        return _split(
            self._collapse(self._layers(x, blocks, self._dual_branches(branches, dbranches), dblocks), head, dhead)
        )

    def mappings_vjp(self, x: Sequence[Any], params: Any, cotangents: Sequence[Any]) -> tuple[Matrix, Any]:
        """(by x [n][C], by params) for cotangents (pre [n], post [n], M [n][n])."""

        def run(state: Any, given: Any) -> Triple:
            read = self._state(state, "x")
            return self._mappings(read, self._parameters(given, read))

        return self._pulled(run, [x, params], [params], cotangents)

    def pre_vjp(self, x: Sequence[Any], h_pre: Sequence[Any], cotangent: Sequence[Any]) -> tuple[Matrix, Vector]:
        """(by x [n][C], by h_pre [n]) for a cotangent [C]."""
        return self._pulled(self.pre, [x, h_pre], [], cotangent)

    def post_vjp(
        self, x: Sequence[Any], y: Sequence[Any], h_post: Sequence[Any], h_res: Sequence[Any], cotangent: Sequence[Any]
    ) -> tuple[Matrix, Vector, Vector, Matrix]:
        """(by x [n][C], by y [C], by h_post [n], by h_res [n][n]) for a cotangent [n][C]."""
        return self._pulled(self.post, [x, y, h_post, h_res], [], cotangent)

    def layers_vjp(
        self, x: Sequence[Any], params_seq: Sequence[Any], branches: Sequence[Branch], cotangent: Sequence[Any]
    ) -> tuple[Any, ...]:
        """(by x [n][C], by the parameters of each block in turn) for a cotangent [n][C]."""

        def run(state: Any, *given: Any) -> Matrix:
            return self.layers(state, given, branches)

        return self._pulled(run, [x, *params_seq], params_seq, cotangent)

    def collapse_vjp(self, x: Sequence[Any], cotangent: Sequence[Any], head: Any = None) -> tuple[Any, ...]:
        """(by x [n][C]) for a cotangent [C], and by the parameters of the head where there is one."""
        heads = [] if head is None else [head]
        return self._pulled(self.collapse, [x, *heads], heads, cotangent)

    def stack_vjp(
        self,
        h: Sequence[Any],
        params_seq: Sequence[Any],
        branches: Sequence[Branch],
        cotangent: Sequence[Any],
        n: int | None = None,
    ) -> tuple[Any, ...]:
        """(by h [C], by the parameters of each block and of the head in turn) for a cotangent [C]."""

        def run(start: Any, *given: Any) -> Vector:
            return self.stack(start, given, branches, n)

        return self._pulled(run, [h, *params_seq], params_seq, cotangent)

    def _pulled(
        self, function: Callable[..., Any], arguments: Sequence[Any], params_seq: Sequence[Any], cotangent: Any
    ) -> Any:
        """The gradient of <cotangent, function(*arguments)> by each argument; the last ones are the parameters."""
        tape: list[Node] = []
        plain = len(arguments) - len(params_seq)
        leaves = [self._leaves(argument, tape) for argument in arguments[:plain]]
        leaves += [
            _Given(*(self._leaves(getattr(params, name), tape) for name in _Given._fields)) for params in params_seq
        ]
        # What logits take from the digits after the point they take backwards too (`_Parameters.bits`).
        sizes = [[_value(number) for number in _numbers(leaf)] for leaf in leaves]
        with self.mp.extraprec(sum(self._bits(numbers) for numbers in sizes)):
            outputs = _numbers(function(*leaves))
            bars = [self._number(bar, "cotangent") for bar in _numbers(cotangent)]
            if len(outputs) != len(bars):
                raise ValueError(f"cotangent has {len(bars)} numbers for a value of {len(outputs)}")
            for output, bar in zip(outputs, bars, strict=True):
                if isinstance(output, Node):
                    output.bar += bar
            for node in reversed(tape):
                if node.bar:
                    for source, slope in node.sources:
                        source.bar += node.bar * slope
        return tuple(_bars(leaf) for leaf in leaves)

    def _leaves(self, given: Any, tape: list[Node]) -> Any:
        """The same numbers in the same lists, to be differentiated by; None stays."""
        if given is None:
            return None
        if isinstance(given, Iterable) and not isinstance(given, str):
            return [self._leaves(part, tape) for part in cast(Iterable[Any], given)]
        return Node(self._number(given, "an argument"), (), tape)

    # The equations, for numbers that are all real, all dual, or made of nodes

    def _project(self, z: Vector, n: int) -> Matrix:
        with self.mp.extraprec(self._bits(z)):
            if self.dialect.residual == "permutations":
                return self._mixture(self._real.softmax(z), n)
            if self.dialect.residual == "identity":
                return [[self.mp.one if i == j else self.mp.zero for j in range(n)] for i in range(n)]
            if self.dialect.residual == "unconstrained":
                return _rows(z, n)
            return self._sinkhorn(_rows(z, n))[-1]

    def _sinkhorn(self, z: Matrix) -> list[Matrix]:
        """The started matrix and the result of every half-step after it."""
        iterates = [[[entry + self.dialect.entry_eps for entry in row] for row in self._start(z)]]
        for axis in self._half_steps():
            iterates.append(_along(axis, iterates[-1], self._divide))
        return iterates

    def _half_steps(self) -> list[Axis]:
        d = self.dialect
        axes: list[Axis] = [d.first_axis, d.last_axis] * d.iterations
        return axes[1:] if d.softmax_is_first_half_step else axes

    def _start(self, z: Matrix) -> Matrix:
        d = self.dialect
        if d.start == "softmax":
            return _along(d.start_axis, z, self._real.softmax)
        return _along(d.first_axis, z, self._shifted_exp if d.iterations else self._exp)

    def _exp(self, line: Vector) -> Vector:
        return [self._real.exp(entry) for entry in line]

    def _shifted_exp(self, line: Vector) -> Vector:
        top = max(line, key=_value)
        return self._exp([entry - top for entry in line])

    def _divide(self, line: Vector) -> Vector:
        denominator = self._denominator(self._real.sum(line))
        return [entry / denominator for entry in line]

    def _denominator(self, total: Real) -> Real:
        eps = self.dialect.denominator_eps
        if self.dialect.denominator == "add":
            return total + eps
        return total if _value(total) >= eps else self.mp.convert(eps)

    def _mixture(self, weights: Vector, n: int) -> Matrix:
        """sum_k w_k P_k with P_k[i][p_k(i)] = 1: arXiv 2601.05732."""
        terms: list[list[Vector]] = [[[] for _ in range(n)] for _ in range(n)]
        for weight, permutation in zip(weights, itertools.permutations(range(n)), strict=True):
            for i, j in enumerate(permutation):
                terms[i][j].append(weight)
        return [[self._real.sum(entry) for entry in row] for row in terms]

    def _mappings(self, x: Matrix, p: _Parameters) -> Triple:
        n, d = len(x), self.dialect
        with self.mp.extraprec(p.bits):
            logits = self._coefficients(x, p)
            pre = [gate + d.pre_eps for gate in self._squash(d.pre, logits[:n])]
            post = [gate * d.post_scale for gate in self._squash(d.post, logits[n : 2 * n])]
        return pre, post, self._project(logits[2 * n :], n)

    def _coefficients(self, x: Matrix, p: _Parameters) -> Vector:
        """alpha * dynamic(x^ phi) + bias, pre | post | res."""
        n = len(x)
        products = self._products(self._normalised(x, p.norm_weight), p.columns)
        if self.dialect.dynamic == "tanh":
            products = [self._real.tanh(product) for product in products]
        gates = [p.alpha[min(k // n, 2)] for k in range(len(products))]
        return [gate * product + b for gate, product, b in zip(gates, products, p.bias, strict=True)]

    def _products(self, normalised: Matrix, columns: Matrix) -> Vector:
        """x^ phi; with a shared projection each stream gives one pre, one post and one row of res."""
        dot = self._real.dot
        if not self.dialect.shared_projection:
            flat = _flat(normalised)
            return [dot(flat, column) for column in columns]
        by_stream = [[dot(stream, column) for column in columns] for stream in normalised]
        parts = slice(0, 1), slice(1, 2), slice(2, None)
        return [product for part in parts for products in by_stream for product in products[part]]

    def _normalised(self, x: Matrix, norm_weight: Vector | None) -> Matrix:
        if self.dialect.norm_over == "stream":
            normalised = [self._over_rms(stream) for stream in x]
        else:
            normalised = _rows(self._over_rms(_flat(x)), len(x))
        if norm_weight is None:
            return normalised
        return _rows([a * w for a, w in zip(_flat(normalised), norm_weight, strict=True)], len(x))

    def _over_rms(self, numbers: Vector) -> Vector:
        mean, eps = self._real.dot(numbers, numbers) / len(numbers), self.dialect.rms_eps
        rms = self._real.sqrt(mean + eps) if self.dialect.rms_eps_inside else self._real.sqrt(mean) + eps
        return [a * 0 if _value(rms) == 0 else a / rms for a in numbers]

    def _squash(self, kind: str, logits: Vector) -> Vector:
        if kind == "linear":
            return logits
        if kind == "softmax":
            return self._real.softmax(logits)
        return [1 / (1 + self._real.exp(-logit)) for logit in logits]

    def _pre(self, x: Matrix, h_pre: Vector) -> Vector:
        return [self._real.dot(h_pre, channel) for channel in _transpose(x)]

    def _post(self, x: Matrix, y: Vector, h_post: Vector, h_res: Matrix) -> Matrix:
        applied = _transpose(h_res) if self.dialect.transposed else h_res
        channels = [[*channel, out] for channel, out in zip(_transpose(x), y, strict=True)]
        return [
            [self._real.dot([*row, gate], channel) for channel in channels]
            for row, gate in zip(applied, h_post, strict=True)
        ]

    def _layers(
        self, x: Matrix, params_seq: Sequence[Any], branches: Sequence[Branch], dparams_seq: Sequence[Any] | None = None
    ) -> Matrix:
        tangents = [None] * len(params_seq) if dparams_seq is None else dparams_seq
        if not len(params_seq) == len(branches) == len(tangents):
            raise ValueError(
                f"{len(branches)} branches with parameters for {len(params_seq)} blocks and {len(tangents)} tangents; "
                "expected one each a block"
            )
        for params, branch, dparams in zip(params_seq, branches, tangents, strict=True):
            pre, post, res = self._mappings(x, self._parameters(params, x, dparams))
            x = self._post(x, list(branch(self._pre(x, pre))), post, res)
        return x

    def _expand(self, h: Vector, n: int) -> Matrix:
        if n < 1:
            raise ValueError(f"n is {n!r}; expected 1 or more streams")
        return [list(h) for _ in range(n)]

    def _collapse(self, x: Matrix, head: Any, dhead: Any = None) -> Vector:
        if self.dialect.collapse == "head":
            return self._pre(x, self._head(x, head, dhead))
        totals = [self._real.sum(channel) for channel in _transpose(x)]
        return [total / len(x) for total in totals] if self.dialect.collapse == "mean" else totals

    def _head(self, x: Matrix, head: Any, dhead: Any) -> Vector:
        if head is None:
            raise ValueError('head is None; expected parameters, because the dialect collapses by a "head"')
        p = self._parameters(head, x, dhead, pre_only=True)
        with self.mp.extraprec(p.bits):
            return [gate + self.dialect.pre_eps for gate in self._squash(self.dialect.pre, self._coefficients(x, p))]

    # Reverse mode

    def _sinkhorn_vjp(self, z: Matrix, bar: Matrix) -> Matrix:
        iterates = self._sinkhorn(z)
        for axis, m in zip(reversed(self._half_steps()), reversed(iterates[:-1]), strict=True):
            bar = _along(axis, m, self._divide_vjp, bar)
        d = self.dialect
        if d.start == "softmax":
            return _along(d.start_axis, z, self._softmax_vjp, bar)
        return _along(d.first_axis, z, self._shifted_exp_vjp if d.iterations else self._exp_vjp, bar)

    def _divide_vjp(self, line: Vector, bar: Vector) -> Vector:
        """m / d(s) with s = sum(m): m_ = bar / d - d'(s) <bar, m> / d^2, where d' is 0 below the clamp."""
        total = self._real.sum(line)
        denominator = self._denominator(total)
        clamped = self.dialect.denominator == "clamp" and total < self.dialect.denominator_eps
        share = self.mp.zero if clamped else self._real.dot(bar, line) / denominator
        return [(b - share) / denominator for b in bar]

    def _softmax_vjp(self, logits: Vector, bar: Vector) -> Vector:
        weights = self._real.softmax(logits)
        share = self._real.dot(weights, bar)
        return [weight * (b - share) for weight, b in zip(weights, bar, strict=True)]

    def _exp_vjp(self, logits: Vector, bar: Vector) -> Vector:
        return [entry * b for entry, b in zip(self._exp(logits), bar, strict=True)]

    def _shifted_exp_vjp(self, logits: Vector, bar: Vector) -> Vector:
        """exp(z - max z): the maximiser also takes what the shift takes from every entry."""
        out = [entry * b for entry, b in zip(self._shifted_exp(logits), bar, strict=True)]
        out[logits.index(max(logits))] -= self._real.sum(out)
        return out

    def _permutations_vjp(self, z: Vector, bar: Matrix) -> Vector:
        permutations = itertools.permutations(range(len(bar)))
        products = [self._real.sum(bar[i][j] for i, j in enumerate(p)) for p in permutations]
        return self._softmax_vjp(z, products)

    # Reading what was given

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
        numbers = [self._number(number, name) for number in _items(given, name)]
        allowed = (lengths,) if isinstance(lengths, int) else lengths
        if len(numbers) not in allowed:
            raise ValueError(f"{name} has {len(numbers)} numbers; expected {' or '.join(map(str, allowed))}")
        return numbers

    def _matrix(self, given: Any, rows: int, columns: int | tuple[int, ...], name: str) -> Matrix:
        items = _items(given, name)
        if len(items) != rows:
            raise ValueError(f"{name} has {len(items)} rows; expected {rows}")
        return [self._vector(row, columns, f"{name}[{i}]") for i, row in enumerate(items)]

    def _state(self, given: Any, name: str) -> Matrix:
        """[n][C] for any n and C from 1 on."""
        items = _items(given, name)
        width = len(_items(items[0], f"{name}[0]")) if items else 0
        return self._matrix(items, max(1, len(items)), max(1, width), name)

    def _dual_state(self, x: Any, dx: Any, name: str) -> Matrix:
        state = self._state(x, name)
        n, width = len(state), len(state[0])
        zero = [[self.mp.zero] * width] * n
        return _lift(state, zero if dx is None else self._matrix(dx, n, width, f"d{name}"))

    def _logits(self, given: Any, name: str) -> tuple[int, Vector]:
        """(n, all logits in one row-major list)."""
        items = _items(given, name)
        if self.dialect.residual != "permutations":
            n = max(1, len(items))
            return n, _flat(self._matrix(items, n, n, name))
        n = next(n for n in itertools.count(1) if math.factorial(n) >= len(items))
        return n, self._vector(items, math.factorial(n), name)

    def _parameters(self, given: Any, x: Matrix, tangents: Any = None, *, pre_only: bool = False) -> _Parameters:
        """Parameters for a state; with `pre_only` the pre part of them, whether or not there is more."""
        n, shared = len(x), self.dialect.shared_projection
        rows = len(x[0]) if shared else n * len(x[0])
        residual = math.factorial(n) if self.dialect.residual == "permutations" else n * n
        widths, sizes, gates = (2 + n if shared else 2 * n + residual,), (2 * n + residual,), (3,)
        if pre_only:
            widths, sizes, gates = (1 if shared else n, *widths), (n, *sizes), (1, *gates)

        def read(attribute: str, parse: Callable[[Any, str], list[Any]]) -> list[Any]:
            values = parse(getattr(given, attribute), f"params.{attribute}")
            tangent = getattr(tangents, attribute, None)
            return values if tangent is None else _lift(values, parse(tangent, f"dparams.{attribute}"))

        columns = read("phi", lambda phi, name: _transpose(self._matrix(phi, rows, widths, name))[: widths[0]])
        bias = read("bias", lambda numbers, name: self._vector(numbers, sizes, name)[: sizes[0]])
        alpha = read("alpha", lambda numbers, name: self._vector(numbers, gates, name)[: gates[0]])
        if given.norm_weight is None and getattr(tangents, "norm_weight", None) is not None:
            raise ValueError("dparams.norm_weight is given but params.norm_weight is None; expected both or neither")
        weight = None
        if given.norm_weight is not None:
            weight = read("norm_weight", lambda numbers, name: self._vector(numbers, n * len(x[0]), name))
        # |x^| <= sqrt(n*C), so that no dynamic logit exceeds n*C |alpha phi weight|.
        bits = [self._bits(numbers) for numbers in (alpha, _flat(columns), weight or [], [n * len(x[0])])]
        return _Parameters(columns, bias, alpha, weight, max(sum(bits), self._bits(bias)) + 1)

    def _bits(self, numbers: Vector) -> int:
        """Binary digits before the point of the largest number: what its size takes from the digits after it."""
        return max([0, *(self.mp.mag(_value(number)) for number in numbers if _value(number))])

    def _split_head(self, params_seq: Sequence[Any]) -> tuple[Sequence[Any], Any]:
        """The blocks' parameters, and those of the head where the dialect has one."""
        if self.dialect.collapse != "head":
            return params_seq, None
        if not params_seq:
            raise ValueError('params_seq is empty; expected one entry more than branches, for collapse "head"')
        return params_seq[:-1], params_seq[-1]

    def _streams(self, params_seq: Sequence[Any], width: int) -> int:
        """n, read off the shape of the first phi."""
        if not params_seq:
            raise ValueError("n is None and there are no parameters to read it off; expected n")
        phi = _items(params_seq[0].phi, "phi")
        if not self.dialect.shared_projection:
            return len(phi) // width or 1
        columns = len(_items(phi[0], "phi[0]")) if phi else 0
        return columns - 2 if columns > 2 else len(_items(params_seq[0].bias, "bias"))

    def _checked(self, branch: Branch) -> Branch:
        return lambda u: self._vector(branch(u), len(u), "branch(u)")

    def _dual_branches(self, branches: Sequence[Branch], dbranches: Sequence[BranchDerivative]) -> list[Branch]:
        if len(branches) != len(dbranches):
            raise ValueError(f"{len(dbranches)} derivatives for {len(branches)} branches; expected one each")

        def dual(branch: Branch, dbranch: BranchDerivative) -> Branch:
            def run(u: Vector) -> Vector:
                values, tangents = _split(u)
                y = self._vector(branch(list(values)), len(u), "branch(u)")
                return _lift(y, self._vector(dbranch(values, tangents), len(u), "dbranch(u, du)"))

            return run

        return [dual(*pair) for pair in zip(branches, dbranches, strict=True)]


class _Parameters(NamedTuple):
    """Parameters as read: phi by columns, and the bits by which their logits may exceed 1."""

    columns: Matrix
    bias: Vector
    alpha: Vector
    norm_weight: Vector | None
    bits: int


class Dual:
    """value + tangent e with e^2 = 0: a number and its derivative in one direction. Real numbers are constants."""

    __slots__ = ("tangent", "value")

    def __init__(self, value: Real, tangent: Real) -> None:
        self.value = value
        self.tangent = tangent

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.tangent)

    def __add__(self, other: Real) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value + other.value, self.tangent + other.tangent)
        return Dual(self.value + other, self.tangent)

    def __sub__(self, other: Real) -> Dual:
        return self + -other

    def __mul__(self, other: Real) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value * other.value, self.tangent * other.value + self.value * other.tangent)
        return Dual(self.value * other, self.tangent * other)

    def __truediv__(self, other: Real) -> Dual:
        if isinstance(other, Dual):
            ratio = self.value / other.value
            return Dual(ratio, (self.tangent - ratio * other.tangent) / other.value)
        return Dual(self.value / other, self.tangent / other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rtruediv__(self, other: Real) -> Dual:
        ratio = other / self.value
        return Dual(ratio, -ratio * self.tangent / self.value)


class Node:
    """A number that knows what it was made of: `sources` are pairs of a node and the derivative by it.

    `bar` becomes the derivative of the result by this number. Nodes are on `tape` in the order in which they were made.
    """

    __slots__ = ("bar", "sources", "tape", "value")

    def __init__(self, value: Real, sources: Sequence[tuple[Node, Real]], tape: list[Node]) -> None:
        self.value = value
        self.sources = sources
        self.tape = tape
        self.bar: Real = 0
        tape.append(self)

    def __neg__(self) -> Node:
        return Node(-self.value, ((self, -1),), self.tape)

    def __add__(self, other: Real) -> Node:
        if isinstance(other, Node):
            return Node(self.value + other.value, ((self, 1), (other, 1)), self.tape)
        return Node(self.value + other, ((self, 1),), self.tape)

    def __sub__(self, other: Real) -> Node:
        return self + -other

    def __rsub__(self, other: Real) -> Node:
        return -self + other

    def __mul__(self, other: Real) -> Node:
        if isinstance(other, Node):
            return Node(self.value * other.value, ((self, other.value), (other, self.value)), self.tape)
        return Node(self.value * other, ((self, other),), self.tape)

    def __truediv__(self, other: Real) -> Node:
        if isinstance(other, Node):
            ratio = self.value / other.value
            return Node(ratio, ((self, 1 / other.value), (other, -ratio / other.value)), self.tape)
        return Node(self.value / other, ((self, 1 / other),), self.tape)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rtruediv__(self, other: Real) -> Node:
        ratio = other / self.value
        return Node(ratio, ((self, -ratio / self.value),), self.tape)


class _Given(NamedTuple):
    """Parameters as they are given, or the gradients by them."""

    phi: Any
    bias: Any
    alpha: Any
    norm_weight: Any


class _Functions:
    """Sums and elementary functions, of reals, duals and nodes."""

    def __init__(self, mp: Any) -> None:
        self.mp = mp

    def sum(self, terms: Iterable[Real]) -> Real:
        terms = list(terms)
        value = self.mp.fsum(_value(term) for term in terms)
        if nodes := [(term, 1) for term in terms if isinstance(term, Node)]:
            return Node(value, nodes, nodes[0][0].tape)
        tangents = [term.tangent for term in terms if isinstance(term, Dual)]
        return Dual(value, self.mp.fsum(tangents)) if tangents else value

    def dot(self, a: Vector, b: Vector) -> Real:
        pairs = list(zip(a, b, strict=True))
        if not any(isinstance(number, (Dual, Node)) for number in itertools.chain(a, b)):
            return self.mp.fdot(pairs)
        value = self.mp.fdot([(_value(x), _value(y)) for x, y in pairs])
        nodes = [(x, _value(y)) for x, y in pairs if isinstance(x, Node)]
        if nodes := nodes + [(y, _value(x)) for x, y in pairs if isinstance(y, Node)]:
            return Node(value, nodes, nodes[0][0].tape)
        tangents = [(x.tangent, _value(y)) for x, y in pairs if isinstance(x, Dual)]
        tangents += [(_value(x), y.tangent) for x, y in pairs if isinstance(y, Dual)]
        return Dual(value, self.mp.fdot(tangents)) if tangents else value

    def exp(self, a: Real) -> Real:
        if isinstance(a, Dual):
            value = self.mp.exp(a.value)
            return Dual(value, value * a.tangent)
        if isinstance(a, Node):
            value = self.mp.exp(a.value)
            return Node(value, ((a, value),), a.tape)
        return self.mp.exp(a)

    def sqrt(self, a: Real) -> Real:
        if isinstance(a, Dual):
            value = self.mp.sqrt(a.value)
            # sqrt(mean(x^2)) is 0 only where x is 0; whatever stands here is then multiplied by x.
            return Dual(value, a.tangent / (2 * value) if value else value)
        if isinstance(a, Node):
            value = self.mp.sqrt(a.value)
            return Node(value, ((a, 1 / (2 * value) if value else value),), a.tape)
        return self.mp.sqrt(a)

    def tanh(self, a: Real) -> Real:
        if isinstance(a, Dual):
            return Dual(self.mp.tanh(a.value), a.tangent * self.mp.sech(a.value) ** 2)
        if isinstance(a, Node):
            return Node(self.mp.tanh(a.value), ((a, self.mp.sech(a.value) ** 2),), a.tape)
        return self.mp.tanh(a)

    def softmax(self, logits: Vector) -> Vector:
        weights = [self.exp(logit) for logit in logits]
        total = self.sum(weights)
        return [weight / total for weight in weights]


def _value(a: Real) -> Real:
    return a.value if isinstance(a, (Dual, Node)) else a


def _numbers(given: Any) -> list[Any]:
    """All numbers of nested sequences, in order; None has none."""
    if given is None:
        return []
    if isinstance(given, Iterable) and not isinstance(given, str):
        return [number for part in cast(Iterable[Any], given) for number in _numbers(part)]
    return [given]


def _bars(leaf: Any) -> Any:
    """The derivatives by leaves, in the lists that these are in."""
    if isinstance(leaf, _Given):
        return _Given(*(_bars(part) for part in leaf))
    if isinstance(leaf, list):
        return [_bars(part) for part in cast(list[Any], leaf)]
    return leaf.bar if isinstance(leaf, Node) else None


def _lift(values: list[Any], tangents: list[Any]) -> list[Any]:
    """Numbers and tangents of one shape -> duals of that shape."""
    if values and isinstance(values[0], list):
        return [_lift(*rows) for rows in zip(values, tangents, strict=True)]
    return [Dual(*pair) for pair in zip(values, tangents, strict=True)]


def _split(numbers: list[Any]) -> tuple[list[Any], list[Any]]:
    """Duals of any shape -> values and tangents of that shape; what is not dual is constant."""
    if numbers and isinstance(numbers[0], list):
        pairs = [_split(row) for row in numbers]
    else:
        pairs = [(a.value, a.tangent) if isinstance(a, Dual) else (a, 0 * a) for a in numbers]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _along(axis: Axis, m: Matrix, of_line: Callable[..., Vector], *more: Matrix) -> Matrix:
    """`of_line` of every row, or of every column, of one or more matrices."""
    if axis == "row":
        return [of_line(*lines) for lines in zip(m, *more, strict=True)]
    return _transpose([of_line(*lines) for lines in zip(*map(_transpose, (m, *more)), strict=True)])


def _transpose(m: Matrix) -> Matrix:
    return [list(line) for line in zip(*m, strict=True)]


def _flat(m: Matrix) -> Vector:
    return [entry for row in m for entry in row]


def _rows(numbers: Vector, n: int) -> Matrix:
    """One row-major list -> n rows."""
    width = len(numbers) // n
    return [numbers[i * width : (i + 1) * width] for i in range(n)]


def _items(given: Any, name: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{name} is {given!r}; expected a sequence (for tensors: .tolist())")
    return list(cast(Iterable[Any], given))
