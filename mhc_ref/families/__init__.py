"""The formulas of every family in torch, one file each; `mhc_ref.registry` lists them.

What a file offers depends on its slot (a field of `Dialect`); an object from outside has the same names as attributes.

mix (`residual`), how the logits of a token become M [n, n]:
    shape(n, dialect)          the shape of one token's logits
    project(logits, dialect)   [..., *shape] -> [..., n, n], in the dtype of the logits
    BY_STREAM                  whether stream s gives line s of the logits, so that a projection can be shared
    MOST_STREAMS               the largest n, or None
gate (`pre`, `post`), how n logits become n weights:
    gates(logits, dialect)     [..., n] -> [..., n]
dynamic (`dynamic`), what is done to the products with phi:
    activate(products, dialect)    [..., m] -> [..., m]
norm (`norm_over`):
    normalise(x, dialect)      [..., n, C] -> [..., n, C], before the norm weight
begin (`expand`):
    expand(h, n, dialect)      [..., C] -> [..., n, C]
end (`collapse`):
    collapse(x, dialect, head) [..., n, C] -> [..., C]
    HEAD                       whether it has parameters of its own
Any of them may have FIELDS (name -> `mhc_ref.registry.Field`), fields that it adds to a dialect, and conflict(dialect):
what in a dialect it cannot go with, in words, or None.
"""
