"""What an arithmetic may do to a number, and a number with what was done to it."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol, overload

import torch
from torch import Tensor

from properties.core.rows import place
from properties.guards.faults import HarnessError

INF = math.inf

PRODUCTS = {"compute": 0.0, "tf32": 2.0**-11, "tf32-truncated": 2.0**-10}
"""How matrix products read their float32 operands -> the relative error of an operand.

TensorFloat-32 keeps 10 of 23 bits of mantissa and all of the exponent (NVIDIA, A100 white paper, 2020): rounding to
nearest, as cuBLAS and cvt.rna do, errs by 2^-11 at most, dropping the rest, as mma does with what was not rounded
before, by less than 2^-10."""


class Arithmetic(Protocol):
    """What a declaration says of arithmetic, see `properties.core.declaration`."""

    @property
    def products(self) -> str: ...
    @property
    def mixing(self) -> str: ...
    @property
    def parameters(self) -> str: ...
    @property
    def short_stages(self) -> Sequence[str]: ...


STORED = 8
"""How many roundings of a short dtype a number passes through at most in a formula whose sums are accumulated in a
longer one: its operands, the sum itself, and the factors and addends before and after it."""

STAGES = ("norm", "products", "logits", "gates", "projection", "read")
"""The stages from a state to its mappings and the branch input; the streams are mixed as `mixing` says."""


@dataclass(frozen=True)
class Rounding:
    """The arithmetic a stage is held to.

    Attributes:
        unit, tiny: unit roundoff and smallest normal number of the compute dtype.
        state_unit, state_tiny: of the dtype in which the state is stored, where that is another one: unit roundoff, and
            what a number below the normal ones may lose.
        state_max: the largest finite number of the dtype in which the state is stored.
        product: the relative error of an operand of a matrix product before it is multiplied, see `PRODUCTS`.
        largest: the largest finite number of the compute dtype.
        mixes_in_state: the residual path is summed in the dtype of the state.
        stores_in_state: parameters are stored in the dtype of the state, and so are the gradients by them.
        short: the stages that compute in the dtype of the state, see `at`.
        state_normal: the smallest normal number of that dtype.
        accumulated: in a stage that computes in a short dtype, the unit roundoff in which its sums are accumulated; 0
            elsewhere.
    """

    unit: float
    tiny: float
    state_unit: float
    state_tiny: float
    product: float = 0.0
    state_max: float = INF
    mixes_in_state: bool = False
    largest: float = INF
    stores_in_state: bool = False
    short: tuple[str, ...] = ()
    state_normal: float = 0.0
    accumulated: float = 0.0

    @classmethod
    def of_declared(cls, declared: Arithmetic, state: torch.dtype) -> Rounding:
        """The contract of what somebody declares."""
        found = cls.of(state, declared.products, declared.mixing)
        if not found.state_unit:
            return found
        return replace(found, stores_in_state=declared.parameters == "state", short=tuple(declared.short_stages))

    def at(self, stage: str) -> Rounding:
        """The arithmetic of a stage: what is declared of all, or where it computes in the dtype of the state that one,
        with sums that are accumulated as before and stored once.

        What it computes of is stored first (`properties.bounds.arithmetic.entering`), and so is all that it gives.
        """
        if stage not in self.short:
            return self
        reference = torch.finfo(torch.float64).eps / 2
        return replace(
            self,
            unit=self.state_unit + reference,
            tiny=self.state_normal,
            largest=self.state_max,
            product=0.0,
            accumulated=self.unit,
            short=(),
        )

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
        of_compute = torch.finfo(compute)
        unit = of_compute.eps / 2 + reference
        product = PRODUCTS[products] if compute == torch.float32 else 0.0
        if state == compute:
            return cls(unit, of_compute.tiny, 0.0, 0.0, product, of_compute.max, mixing == "state", of_compute.max)
        info = torch.finfo(state)
        lost = info.tiny * info.eps if state == torch.float16 else info.tiny
        in_state = mixing == "state"
        found = cls(unit, of_compute.tiny, info.eps / 2, lost, product, info.max, in_state, of_compute.max)
        return replace(found, state_normal=info.tiny)

    @property
    def parameter_max(self) -> float:
        """The largest gradient by a parameter that can be stored; infinite where it is stored as it is computed."""
        return self.state_max if self.stores_in_state else INF

    def beyond(self, size: Tensor) -> Tensor:
        """Where a number on the way may be no finite one: an eighth of the largest, since a factor of a few, as the
        scale of h_post, may be applied early or late."""
        return size > self.largest / 8

    @overload
    def gamma(self, count: float) -> float: ...
    @overload
    def gamma(self, count: Tensor) -> Tensor: ...

    def gamma(self, count: float | Tensor) -> float | Tensor:
        """gamma_k: the relative error of k roundings in any order; k may be another one for each of some numbers.

        In a stage of a short dtype they are those of a sum that is accumulated in a longer one, but for `STORED` of
        them at most.
        """
        if isinstance(count, Tensor):
            return self._gammas(count.double())
        product = count * self.unit
        if self.accumulated:
            product = min(count, STORED) * self.unit + max(count - STORED, 0) * self.accumulated
        if product < 0.5:
            return product / (1 - product)
        infinities.met = True
        return INF

    def _gammas(self, counts: Tensor) -> Tensor:
        """The same of each of some counts, in float64."""
        products = counts * self.unit
        if self.accumulated:
            products = counts.clamp(max=STORED) * self.unit + (counts - STORED).clamp(min=0) * self.accumulated
        return noted(torch.where(products < 0.5, products / (1 - products), INF))

    @overload
    def dot(self, count: float) -> float: ...
    @overload
    def dot(self, count: Tensor) -> Tensor: ...

    def dot(self, count: float | Tensor) -> float | Tensor:
        """The error of a sum of products with `count` roundings in any order, relative to the sum of magnitudes.

        Where matrix products read operands with a relative error v, (a + da)(b + db) is off by at most
        (2 v + v^2) |a| |b| before anything is rounded; the accumulators of tensor cores then truncate where others
        round (Fasi, Higham, Mikaitis and Pranesh 2021), two units where others have one.
        """
        if not self.product:
            return self.gamma(count)
        moved = 2 * self.product + self.product**2
        return moved + (1 + moved) * self.gamma(2 * count)


class Infinities(threading.local):
    """Whether an infinite error, or a value that is not finite, has been met since an example began.

    Attributes:
        met: it has; so it is outside of examples, where nobody says when one begins.
    """

    met: bool = True


infinities = Infinities()


@contextlib.contextmanager
def example() -> Generator[None]:
    """An example: infinities that were met before it began explain nothing in it."""
    before, infinities.met = infinities.met, False
    try:
        yield
    finally:
        infinities.met = before


def noted(error: Tensor) -> Tensor:
    """The same error, where it may be infinite and is no part of an `Approx` yet."""
    infinities.met = infinities.met or bool(error.isinf().any())
    return error


def known(error: Tensor) -> Tensor:
    """The error, infinite where it is no number because an infinity went into it: 0 times that is not 0.

    Raises:
        HarnessError: there is no infinity that it could have come of.
    """
    unknown = error.isnan()
    return unclaimed_where(unknown, error) if bool(unknown.any()) else error


def unclaimed_where(unknown: Tensor, error: Tensor) -> Tensor:
    """The error, infinite where it is unknown, see `known`."""
    if not infinities.met and not bool(error.isinf().any()):
        at = unknown.nonzero()[0].tolist()
        raise HarnessError(
            f"a bound is no number at {at} of {list(error.shape)}, and nothing infinite went into it. What is unknown "
            "is infinite; this comes of a mistake in a bound or in a family, not of the implementation"
        )
    return torch.where(unknown, INF, error)


@dataclass(frozen=True)
class Approx:
    """A value and the largest error that an admitted evaluation can have; equal shapes, float64.

    The error of a value that is not finite is infinite. So is one that is no number where something infinite went into
    it: times 0 that is not 0, since what it stands for may be an infinity or a NaN. Where nothing infinite has been met
    (`Infinities`) an error that is no number is a mistake of the bound.

    Raises:
        HarnessError: the error is no number, and nothing infinite went into it.
    """

    value: Tensor
    error: Tensor

    def __post_init__(self) -> None:
        if math.isfinite((self.value + self.error).sum().item()):  # then so is every one, at a third of the price
            return
        finite = torch.isfinite(self.value)
        infinities.met = infinities.met or bool((~finite | self.error.isinf()).any())
        unknown = self.error.isnan() | ~finite
        if bool(unknown.any()):
            object.__setattr__(self, "error", unclaimed_where(unknown, self.error))

    @classmethod
    def exact(cls, value: Tensor) -> Approx:
        """A number that is given, not computed."""
        value = value.detach().to(place(), torch.float64)
        return cls(value, torch.zeros_like(value))

    @cached_property
    def sums(self) -> tuple[float, float]:
        """The sum of the errors and that of the sizes of the values, where every error is positive, finite, and below
        the largest value of its token, the first axis; a sum of errors that is infinite where that is not so."""
        size, most = self.value.abs().numpy(), self.error.expand_as(self.value).numpy()
        total, axes = float(most.sum()), tuple(range(min(1, size.ndim - 1), size.ndim))
        clear = math.isfinite(total) and float(most.min()) > 0 and bool((most.max(axes) < size.max(axes)).all())
        return (total if clear else INF), float(size.sum())

    def expanded(self, other: Approx) -> Approx:
        """Broadcast to the shape of another one."""
        return Approx(self.value.expand(other.value.shape), self.error.expand(other.value.shape))

    def repeated(self, count: int) -> Approx:
        """One token so many times."""
        return Approx(*(part.expand(count, *part.shape[1:]).contiguous() for part in (self.value, self.error)))

    def joined(self, other: Approx) -> Approx:
        """The tokens of both."""
        return Approx(torch.cat([self.value, other.value]), torch.cat([self.error, other.error]))


@dataclass(frozen=True)
class Uses(Approx):
    """A gradient by a state that several uses of it have handed back.

    Attributes:
        size: the sum of the magnitudes of what they hand back, which may be far above that of the gradient.
    """

    size: Tensor


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
