"""The oracle: values and derivatives of one dialect, to any number of digits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from mhc_ref.exact.equations import Branch, Equations, Triple
from mhc_ref.exact.lists import Matrix, Vector, items, numbers, shaped
from mhc_ref.exact.numbers import Node, lift, split, value

BranchDerivative: TypeAlias = Callable[[Vector, Vector], Sequence[Any]]


class Exact(Equations):
    """One dialect of hyper-connections, to `digits` decimal digits, for one token at a time.

    Parameters are any object with the attributes phi [n*C][2n+R] (R is the number of logits of the mix), bias [2n+R],
    alpha [3], or [2] where R = 0, and norm_weight [n*C] or None; with `shared_projection` phi is [C][2 + R/n]. Columns
    are pre | post | res.

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

    # Values

    def project(self, logits: Sequence[Any]) -> Matrix:
        """Logits, of the shape that the mix says -> M [n][n], before any transposition."""
        n, flat = self._logits(logits, "logits")
        return self._project(flat, n)

    def mappings(self, x: Sequence[Any], params: Any) -> Triple:
        """State [n][C] -> (h_pre [n], h_post [n], M [n][n]). Eq. (7)-(8) of arXiv 2512.24880."""
        state = self._state(x, "x")
        return self._mappings(state, self._parameters(params, state))

    def pre(self, x: Sequence[Any], h_pre: Sequence[Any]) -> Vector:
        """u = h_pre x, the input of the branch: [n][C], [n] -> [C]; h_pre may be [n][C], a weight for each channel."""
        state = self._state(x, "x")
        given = items(h_pre, "h_pre")
        if given and isinstance(given[0], list):
            return self._pre(state, self._matrix(given, len(state), len(state[0]), "h_pre"))
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
        """One block after another on the same streams, each reading as the dialect says: [n][C] -> [n][C]."""
        return self._layers(self._state(x, "x"), params_seq, [self._checked(branch) for branch in branches])[0]

    def expand(self, h: Sequence[Any], n: int) -> Matrix:
        """How the streams begin: [C] -> [n][C]."""
        return self._expand(self._state([h], "h")[0], n)

    def collapse(self, x: Sequence[Any], head: Any = None) -> Vector:
        """How the streams become one, for some ends by the h_pre of the parameters `head`: [n][C] -> [C].

        Of `head` only the pre part is read, so that it may have nothing else: phi [n*C][n] (shared: [C][1]), bias [n],
        alpha [1].
        """
        return self._collapse(self._state(x, "x"), head)

    def stack(
        self, h: Sequence[Any], params_seq: Sequence[Any], branches: Sequence[Branch], n: int | None = None
    ) -> Vector:
        """expand, layers, collapse: [C] -> [C]. Where the end has parameters, they are the last of params_seq.

        n is read off the parameters; it must be given where there are none.
        """
        start = self._state([h], "h")[0]
        blocks, head = self._split_head(params_seq)
        streams = self._streams(params_seq, len(start)) if n is None else n
        x, last = self._layers(self._expand(start, streams), blocks, [self._checked(branch) for branch in branches])
        return self._collapse(x, head, last=last)

    # Derivatives

    def project_derivative(self, logits: Sequence[Any], direction: Sequence[Any]) -> tuple[Matrix, Matrix]:
        """(M, dM), each [n][n], for logits and a direction of the same shape."""
        n, flat = self._logits(logits, "logits")
        m, tangents = self._logits(direction, "direction")
        if m != n:
            raise ValueError(f"direction is for {m} streams; expected {n} as in logits")
        return split(self._project(lift(flat, tangents), n))

    def project_vjp(self, logits: Sequence[Any], cotangent: Sequence[Any]) -> list[Any]:
        """Gradient of sum(cotangent * M) with respect to the logits, of the logits' shape; cotangent [n][n].

        Correct to `digits` relative to the largest number in the cotangent.
        """
        n, z = self._logits(logits, "logits")
        bar = self._matrix(cotangent, n, n, "cotangent")
        if self._mix.vjp is None:
            return self._pulled(self.project, [logits], [], cotangent)[0]
        with self.mp.extraprec(self._bits(z)):
            return shaped(self._mix.vjp(z, bar, self.dialect, self._real), self._shape(n))

    def mappings_derivative(
        self, x: Sequence[Any], params: Any, dx: Sequence[Any] | None, dparams: Any
    ) -> tuple[Triple, Triple]:
        """((pre, post, M), (dpre, dpost, dM)), shaped as `mappings` gives them."""
        state = self._dual_state(x, dx, "x")
        pre, post, res = self._mappings(state, self._parameters(params, state, dparams))
        (pre, dpre), (post, dpost), (res, dres) = split(pre), split(post), split(res)
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
        return split(self._layers(state, params_seq, self._dual_branches(branches, dbranches), dparams_seq)[0])

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
        x, last = self._layers(self._expand(start, streams), blocks, self._dual_branches(branches, dbranches), dblocks)
        return split(self._collapse(x, head, dhead, last))

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
        sizes = [[value(number) for number in numbers(leaf)] for leaf in leaves]
        with self.mp.extraprec(sum(self._bits(numbers) for numbers in sizes)):
            outputs = numbers(function(*leaves))
            bars = [self._number(bar, "cotangent") for bar in numbers(cotangent)]
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

    def _checked(self, branch: Branch) -> Branch:
        return lambda u: self._vector(branch(u), len(u), "branch(u)")

    def _dual_branches(self, branches: Sequence[Branch], dbranches: Sequence[BranchDerivative]) -> list[Branch]:
        if len(branches) != len(dbranches):
            raise ValueError(f"{len(dbranches)} derivatives for {len(branches)} branches; expected one each")

        def dual(branch: Branch, dbranch: BranchDerivative) -> Branch:
            def run(u: Vector) -> Vector:
                values, tangents = split(u)
                y = self._vector(branch(list(values)), len(u), "branch(u)")
                return lift(y, self._vector(dbranch(values, tangents), len(u), "dbranch(u, du)"))

            return run

        return [dual(*pair) for pair in zip(branches, dbranches, strict=True)]


class _Given(NamedTuple):
    """Parameters as they are given, or the gradients by them."""

    phi: Any
    bias: Any
    alpha: Any
    norm_weight: Any


def _bars(leaf: Any) -> Any:
    """The derivatives by leaves, in the lists that these are in."""
    if isinstance(leaf, _Given):
        return _Given(*(_bars(part) for part in leaf))
    if isinstance(leaf, list):
        return [_bars(part) for part in cast(list[Any], leaf)]
    return (leaf.bar or leaf.value * 0) if isinstance(leaf, Node) else None
