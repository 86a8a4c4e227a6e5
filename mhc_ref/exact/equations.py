"""The equations of a block and a stack, for numbers that are all real, all dual, or made of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from mhc_ref import registry
from mhc_ref.exact.lists import Matrix, Vector, by_channel, flat, rows, transpose
from mhc_ref.exact.reading import Parameters, Reading

Branch: TypeAlias = Callable[[Vector], Sequence[Any]]
Triple: TypeAlias = tuple[Any, Vector, Matrix]


class Equations(Reading):
    """mHC, arXiv 2512.24880 eq. (3), (7) and (8), on the streams of one token, in the families of the dialect."""

    def _project(self, z: Vector, n: int) -> Matrix:
        with self.mp.extraprec(self._bits(z)):
            return self._mix.formula(z, n, self.dialect, self._real)

    def _mappings(self, x: Matrix, p: Parameters) -> Triple:
        n, d = len(x), self.dialect
        with self.mp.extraprec(p.bits):
            logits, of_pre = self._coefficients(x, p), self._reads.told.width(n, d)
            pre = self._weights(logits[:of_pre], x, p)
            post = [gate * d.post_scale + d.post_eps for gate in self._gates(d.post, logits[of_pre : of_pre + n])]
        return pre, post, self._project(logits[of_pre + n :], n)

    def _weights(self, logits: Vector, x: Matrix, p: Parameters) -> Any:
        """h_pre, [n], or [n][C] for a read of every channel."""
        return self._reads.formula(logits, x, p.up, p.norm_weight, self.dialect, self._real)

    def _coefficients(self, x: Matrix, p: Parameters) -> Vector:
        """alpha * dynamic(x^ phi) + bias, pre | post | res; without gates what the read makes of products."""
        n, of_pre = len(x), self._reads.told.width(len(x), self.dialect)
        products = self._products(self._normalised(x, p.norm_weight), p.columns)
        if self._reads.told.averaged(self.dialect):
            products = [product / n for product in products]
        products = registry.oracle("dynamic", self.dialect.dynamic).formula(products, self.dialect, self._real)
        if not self._reads.told.affine(self.dialect):
            made = getattr(self._reads.told, "exact_completed", None)
            return made(products, p.up, p.alpha, p.bias, n, self.dialect, self._real) if made else products
        gates = [p.alpha[0 if k < of_pre else min(1 + (k - of_pre) // n, 2)] for k in range(len(products))]
        return [gate * product + b for gate, product, b in zip(gates, products, p.bias, strict=True)]

    def _products(self, normalised: Matrix, columns: Matrix) -> Vector:
        """x^ phi; with a shared projection each stream gives one pre, one post and its share of res."""
        dot = self._real.dot
        if not self.dialect.shared_projection:
            return [dot(flat(normalised), column) for column in columns]
        by_stream = [[dot(stream, column) for column in columns] for stream in normalised]
        parts = slice(0, 1), slice(1, 2), slice(2, None)
        return [product for part in parts for products in by_stream for product in products[part]]

    def _normalised(self, x: Matrix, norm_weight: Vector | None) -> Matrix:
        normalised = registry.oracle("norm", self.dialect.norm_over).formula(x, self.dialect, self._real)
        if norm_weight is None:
            return normalised
        offset = self.dialect.norm_offset
        return rows([a * (w + offset) for a, w in zip(flat(normalised), norm_weight, strict=True)], len(x))

    def _gates(self, name: str, logits: Vector) -> Vector:
        return registry.oracle("gate", name).formula(logits, self.dialect, self._real)

    def _pre(self, x: Matrix, h_pre: Any) -> Vector:
        pairs = zip(by_channel(h_pre, len(x[0])), transpose(x), strict=True)
        return [self._real.dot(weights, channel) for weights, channel in pairs]

    def _post(self, x: Matrix, y: Vector, h_post: Vector, h_res: Matrix) -> Matrix:
        applied = transpose(h_res) if self.dialect.transposed else h_res
        channels = [[*channel, out] for channel, out in zip(transpose(x), y, strict=True)]
        return [
            [self._real.dot([*row, gate], channel) for channel in channels]
            for row, gate in zip(applied, h_post, strict=True)
        ]

    def _layers(
        self, x: Matrix, params_seq: Sequence[Any], branches: Sequence[Branch], dparams_seq: Sequence[Any] | None = None
    ) -> tuple[Matrix, Vector | None]:
        """The state after all blocks, and the h_pre of the last of them."""
        tangents = [None] * len(params_seq) if dparams_seq is None else dparams_seq
        if not len(params_seq) == len(branches) == len(tangents):
            raise ValueError(
                f"{len(branches)} branches with parameters for {len(params_seq)} blocks and {len(tangents)} tangents; "
                "expected one each a block"
            )
        before: Vector | None = None
        for params, branch, dparams in zip(params_seq, branches, tangents, strict=True):
            pre, post, res = self._mappings(x, self._parameters(params, x, dparams))
            x, before = self._post(x, list(branch(self._read(x, pre, before))), post, res), pre
        return x, before

    def _read(self, x: Matrix, own: Vector, before: Vector | None) -> Vector:
        """u_l = h_pre,l x_l, or h_pre,l-1 x_l where blocks read with the gates of the one before."""
        if self.dialect.read_from == "own":
            return self._pre(x, own)
        if before is not None:
            return self._pre(x, before)
        return self._pre(x, own) if self.dialect.first_read == "own" else list(x[0])

    def _expand(self, h: Vector, n: int) -> Matrix:
        if n < 1:
            raise ValueError(f"n is {n!r}; expected 1 or more streams")
        return registry.oracle("begin", self.dialect.expand).formula(h, n, self.dialect, self._real)

    def _collapse(self, x: Matrix, head: Any, dhead: Any = None, last: Vector | None = None) -> Vector:
        h_pre = self._head(x, head, dhead) if getattr(self._end.told, "HEAD", False) else None
        if getattr(self._end.told, "LAST", False):
            if last is None:
                raise ValueError(
                    f'collapse "{self.dialect.collapse}" reads with the last h_pre, which `stack` alone has'
                )
            h_pre = last
        return self._end.formula(x, h_pre, self.dialect, self._real)

    def _head(self, x: Matrix, head: Any, dhead: Any) -> Any:
        """The h_pre of parameters of which only the pre part is read."""
        if head is None:
            raise ValueError(
                f'head is None; expected parameters, because the dialect collapses by a "{self.dialect.collapse}"'
            )
        p = self._parameters(head, x, dhead, pre_only=True)
        with self.mp.extraprec(p.bits):
            return self._weights(self._coefficients(x, p), x, p)
