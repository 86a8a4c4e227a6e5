"""The formulas of every family in torch, one file each; `mhc_ref.registry` lists them.

What a file offers depends on its slot (a field of `Dialect`); an object from outside has the same names as attributes,
and as `exact` the formula in mpmath (`mhc_ref.exact`).

mix (`residual`), how the logits of a token become M [n, n]:
    shape(n, dialect)          the shape of one token's logits, one or more sizes that differ for every n, (n, 0) for a
                               mix without logits; ValueError for an n that it is not for
    project(logits, dialect)   [..., *shape] -> [..., n, n], in the dtype of the logits
    BY_STREAM                  whether the logits are one line a stream, so that a projection can be shared (else False)
    MOST_STREAMS               the largest n, or None (if it is not there: None)
gate (`pre`, `post`), how n logits become n weights:
    gates(logits, dialect)     [..., n] -> [..., n]
read (`read`), what a branch reads the streams with:
    width(n, dialect)          how many logits of h_pre a token has
    beyond(dialect)            how many columns of phi, the last ones, are parameters of the read and give no logits
    affine(dialect)            whether logits have gates and biases: alpha * (...) + bias
    share(n, dialect)          a number that the products with phi are multiplied by
    weights(logits, x, params, dialect)    [..., width] -> h_pre [..., n], or [..., n, C] to weigh every channel
dynamic (`dynamic`), what is done to the products with phi:
    activate(products, dialect)    [..., m] -> [..., m]
norm (`norm_over`):
    normalise(x, dialect)      [..., n, C] -> [..., n, C], before the norm weight
begin (`expand`):
    expand(h, n, dialect)      [..., C] -> [..., n, C]
end (`collapse`):
    collapse(x, dialect, h_pre)    [..., n, C] -> [..., C], in the dtype of x
    HEAD                       whether it has parameters, whose h_pre [..., n] it is given (if it is not there: False)
    LAST                       whether it is given the h_pre of the last block (if it is not there: False); else h_pre
                               is None
Any of them may have FIELDS (name -> `mhc_ref.registry.Field`), fields that it adds to a dialect, and conflict(dialect):
what in a dialect it cannot go with, in words, or None.
"""
