"""The equations of a block and a stack, for numbers that are all real, all dual, or made of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from mhc_ref import registry
from mhc_ref.exact.lists import Matrix, Vector, flat, rows, transpose
from mhc_ref.exact.reading import Parameters, Reading

Branch: TypeAlias = Callable[[Vector], Sequence[Any]]
Triple: TypeAlias = tuple[Vector, Vector, Matrix]


class Equations(Reading):
    """mHC, arXiv 2512.24880 eq. (3), (7) and (8), on the streams of one token, in the families of the dialect."""

    def _project(self, z: Vector, n: int) -> Matrix:
        with self.mp.extraprec(self._bits(z)):
            return self._mix.formula(z, n, self.dialect, self._real)

    def _mappings(self, x: Matrix, p: Parameters) -> Triple:
        n, d = len(x), self.dialect
        with self.mp.extraprec(p.bits):
            logits = self._coefficients(x, p)
            pre = [gate + d.pre_eps for gate in self._gates(d.pre, logits[:n])]
            post = [gate * d.post_scale for gate in self._gates(d.post, logits[n : 2 * n])]
        return pre, post, self._project(logits[2 * n :], n)

    def _coefficients(self, x: Matrix, p: Parameters) -> Vector:
        """alpha * dynamic(x^ phi) + bias, pre | post | res."""
        n = len(x)
        products = self._products(self._normalised(x, p.norm_weight), p.columns)
        products = registry.oracle("dynamic", self.dialect.dynamic).formula(products, self.dialect, self._real)
        gates = [p.alpha[min(k // n, 2)] for k in range(len(products))]
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
        return rows([a * w for a, w in zip(flat(normalised), norm_weight, strict=True)], len(x))

    def _gates(self, name: str, logits: Vector) -> Vector:
        return registry.oracle("gate", name).formula(logits, self.dialect, self._real)

    def _pre(self, x: Matrix, h_pre: Vector) -> Vector:
        return [self._real.dot(h_pre, channel) for channel in transpose(x)]

    def _post(self, x: Matrix, y: Vector, h_post: Vector, h_res: Matrix) -> Matrix:
        applied = transpose(h_res) if self.dialect.transposed else h_res
        channels = [[*channel, out] for channel, out in zip(transpose(x), y, strict=True)]
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
        return registry.oracle("begin", self.dialect.expand).formula(h, n, self.dialect, self._real)

    def _collapse(self, x: Matrix, head: Any, dhead: Any = None) -> Vector:
        h_pre = self._head(x, head, dhead) if getattr(self._end.told, "HEAD", False) else None
        return self._end.formula(x, h_pre, self.dialect, self._real)

    def _head(self, x: Matrix, head: Any, dhead: Any) -> Vector:
        """The h_pre of parameters of which only the pre part is read."""
        if head is None:
            raise ValueError(
                f'head is None; expected parameters, because the dialect collapses by a "{self.dialect.collapse}"'
            )
        p = self._parameters(head, x, dhead, pre_only=True)
        with self.mp.extraprec(p.bits):
            return [gate + self.dialect.pre_eps for gate in self._gates(self.dialect.pre, self._coefficients(x, p))]
