"""What an arithmetic may do to a number, and a number with what was done to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

INF = math.inf

PRODUCTS = {"compute": 0.0, "tf32": 2.0**-11, "tf32-truncated": 2.0**-10}
"""How matrix products read their float32 operands -> the relative error of an operand.

TensorFloat-32 keeps 10 of 23 bits of mantissa and all of the exponent (NVIDIA, A100 white paper, 2020): rounding to
nearest, as cuBLAS and cvt.rna do, errs by 2^-11 at most, dropping the rest, as mma does with what was not rounded
before, by less than 2^-10."""


@dataclass(frozen=True)
class Rounding:
    """The arithmetic a stage is held to.

    Attributes:
        unit, tiny: unit roundoff and smallest normal number of the compute dtype.
        state_unit, state_tiny: of the dtype in which the state is stored, where that is another one: unit roundoff, and
            what a number below the normal ones may lose.
        state_max: the largest finite number of the dtype in which the state is stored.
        product: the relative error of an operand of a matrix product before it is multiplied, see `PRODUCTS`.
        mixes_in_state: the residual path is summed in the dtype of the state.
    """

    unit: float
    tiny: float
    state_unit: float
    state_tiny: float
    product: float = 0.0
    state_max: float = INF
    mixes_in_state: bool = False

    @classmethod
    def of(cls, state: torch.dtype, products: str = "compute", mixing: str = "compute") -> Rounding:
        """The default contract: float64 for float64 states, otherwise float32, stored in the state's dtype;
        judged by a float64 reference, whose own roundings are added.

        Arguments:
            state: the dtype of the state.
            products, mixing: as an implementation declares them.

        float16 keeps its subnormal numbers wherever float32 is converted to it (F16C, cvt.rn.f16.f32), so one of those
        loses a subnormal unit at most, 2^-24; bfloat16 is flushed where float32 is, at the same 2^-126.
        """
        compute = torch.float64 if state == torch.float64 else torch.float32
        reference = torch.finfo(torch.float64).eps / 2
        unit = torch.finfo(compute).eps / 2 + reference
        product = PRODUCTS[products] if compute == torch.float32 else 0.0
        if state == compute:
            return cls(unit, torch.finfo(compute).tiny, 0.0, 0.0, product, torch.finfo(compute).max, mixing == "state")
        info = torch.finfo(state)
        lost = info.tiny * info.eps if state == torch.float16 else info.tiny
        return cls(unit, torch.finfo(compute).tiny, info.eps / 2, lost, product, info.max, mixing == "state")

    def gamma(self, count: float) -> float:
        """gamma_k: the relative error of k roundings in any order."""
        product = count * self.unit
        return product / (1 - product) if product < 0.5 else INF

    def dot(self, count: float) -> float:
        """The error of a sum of products with `count` roundings in any order, relative to the sum of magnitudes.

        Where matrix products read operands with a relative error v, (a + da)(b + db) is off by at most
        (2 v + v^2) |a| |b| before anything is rounded; the accumulators of tensor cores then truncate where others
        round (Fasi, Higham, Mikaitis and Pranesh 2021), two units where others have one.
        """
        if not self.product:
            return self.gamma(count)
        moved = 2 * self.product + self.product**2
        return moved + (1 + moved) * self.gamma(2 * count)


@dataclass(frozen=True)
class Approx:
    """A value and the largest error that an admitted evaluation can have; equal shapes, float64.

    An error that is no number is infinite, and so is that of a value that is not finite. Both come of an error, or of a
    factor, that is infinite: times 0 it is not 0, since what it stands for may be an infinity or a NaN.
    """

    value: Tensor
    error: Tensor

    def __post_init__(self) -> None:
        if math.isfinite((self.value + self.error).sum().item()):  # then so is every one, at a third of the price
            return
        unknown = self.error.isnan() | ~torch.isfinite(self.value)
        if bool(unknown.any()):
            object.__setattr__(self, "error", torch.where(unknown, INF, self.error))

    @classmethod
    def exact(cls, value: Tensor) -> Approx:
        """A number that is given, not computed."""
        value = value.detach().to("cpu", torch.float64)
        return cls(value, torch.zeros_like(value))

    def expanded(self, other: Approx) -> Approx:
        """Broadcast to the shape of another one."""
        return Approx(self.value.expand(other.value.shape), self.error.expand(other.value.shape))


class Projection(NamedTuple):
    """What rounding can do to h_res, [tokens, n, n] unless said.

    Attributes:
        value: h_res in float64.
        error: absolute, entry by entry; inf where the example leaves the domain (a line lost to underflow).
        entry: relative error of an entry that its line's scalings do *not* share: all that odds ratios can see.
        line: absolute error of the sums along the last-normalised axis, [tokens, n].
    """

    value: Tensor
    error: Tensor
    entry: Tensor
    line: Tensor
