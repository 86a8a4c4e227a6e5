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

A family is one file here, with the formula of its slot; a family from outside has it as its attribute `exact`, with the
same arguments:

    mix        project(z, n, dialect, real)             the logits of one token in one row-major list -> M [n][n]
    gate       gates(logits, dialect, real)             [n] -> [n]
    dynamic    activate(products, dialect, real)        [m] -> [m]
    norm       normalise(x, dialect, real)              [n][C] -> [n][C], before the norm weight
    begin      expand(h, n, dialect, real)              [C] -> [n][C]
    end        collapse(x, h_pre, dialect, real)        [n][C] -> [C]; h_pre [n] is that of the parameters of the end

and beside it, in the file or as attributes, `shape(n, dialect)` of a mix, the shape of a token's logits, and `HEAD` of
an end, whether it has parameters; h_pre is None where it has none. `real` (`numbers.Reals`) has exp, log, sqrt, tanh,
softmax, sum and dot of numbers that may carry derivatives, and `of` for any other smooth function. + - * / and whole
powers work on such numbers, and `real.value(a)` is the plain number to decide by. Whatever is made of these has
derivatives in both directions. A mix may have a gradient written by hand besides, which is faster:
`project_vjp(z, cotangent, dialect, real)` -> the gradient in one list (from outside: `exact_vjp`).
"""

from mhc_ref.exact.oracle import Exact

__all__ = ["Exact"]
