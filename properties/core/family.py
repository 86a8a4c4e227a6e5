"""What the suite asks a family: what it guarantees, how far rounding carries it, and where its mistakes show.

Laws, bounds, strategies, diagnosis and explosions ask these questions, and know no family by its name. The answers for
our own families are in `properties/families/NAME.py`, one object a slot called MIX, GATE, DYNAMIC, NORM, BEGIN or END;
a family from outside is one such object, with its formula in torch under the name that its slot has below, and in
mpmath as `exact` (`mhc_ref.exact`), registered by `mhc_ref.registry.register`.

Bounds speak of `Approx` and `Rounding` (`properties.core.rounding`): the value in float64, and the largest error that
rounding explains. A family without a derived bound sets `roundings` and leaves the bounds alone; they are then made
from its formula (`properties.bounds.declared`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mhc_ref import Dialect, registry
from mhc_ref.registry import Field
from properties.core.guarantees import BOTH as BOTH
from properties.core.guarantees import DIM as DIM
from properties.core.guarantees import Guarantees as Guarantees
from properties.core.rounding import Approx, Projection, Rounding
from properties.guards.faults import HarnessError, located

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


class Family:
    """A value of a slot.

    Attributes:
        slot, name: see `mhc_ref.registry`.
        words: what it does, in a few words that go on "h_res is ..." or the like.
        source: where it is printed or shipped.
        FIELDS: the fields that it brings to a dialect.
        steps: the steps of which its mistakes are slips, a subclass of `properties.core.deviant.Deviant`; None where it
            has no steps but its formula.
        roundings: for a family without a derived bound, the declared number of roundings of one output; its bound is
            then made from its formula by reverse mode, and every report calls it declared.
    """

    slot: ClassVar[str]
    name: str = ""
    words: str = ""
    source: str = ""
    FIELDS: Mapping[str, Field] = {}
    steps: type[Any] | None = None
    roundings: int | None = None

    def deviations(self) -> Mapping[str, Any]:
        """Wrong forms of it by name: `properties.core.slips.Deviation`, or for short (source, step).

        The step is a subclass of `properties.core.deviant.Deviant` (or of `steps`) that overrides one, its docstring
        saying what it does wrong; or a wrong formula of the family, called like the right one.
        """
        return {}

    @property
    def is_outside(self) -> bool:
        """Whether it comes from outside of this project."""
        return (self.slot, self.name) not in registry.BUILT_IN

    def conflict(self, dialect: Dialect) -> str | None:
        """What in the dialect it cannot go with, in words."""
        return None

    def _formula(self, method: str) -> Callable[..., Any]:
        """The formula in torch of one of our own."""
        formulas = registry.formulas(self.slot, self.name)
        if formulas is self:
            raise self._missing(f"its formula in torch, `{method}`")
        return getattr(formulas, method)

    def _missing(self, what: str) -> HarnessError:
        """The family does not say something that is asked of it."""
        return HarnessError(
            f"the {self.slot} family {self.name!r} says nothing about {what}: give it that method; in place of bounds "
            "it may declare the number of roundings of one output as its `roundings`"
        )


class Mix(Family):
    """How the logits of a token become M [n, n] (`Dialect.residual`).

    Attributes:
        BY_STREAM: whether stream s gives line s of the logits, so that a projection can be shared.
        MOST_STREAMS: the largest n, or None.
        known: whether there is a formula. A mix without one is held to what it guarantees, and to nothing else.
        fits: how its fields are read off the matrices of a target (`properties.core.estimate.Fit`), where it takes more
            than to fit those that it brings; each is tried where the ones before find nothing.
        everywhere: whether every entry of M depends on the logits, and at all of them. Where one is a number, or a
            clamp is flat, a cotangent that is no number may leave a gradient of 0 there.
        CAPTURABLE: whether its formula can be captured in a CUDA graph: it makes no tensor on the CPU.
        explosions: a module with sharper caps and a search of its own (`properties.explosion.searches.projected.Way`).
        asked_as: the family of explosions that asks about it.
    """

    slot = "mix"
    known = True
    BY_STREAM = False
    MOST_STREAMS: int | None = None
    everywhere = True
    CAPTURABLE = True
    fits: tuple[Any, ...] | None = None
    explosions: str | None = None
    asked_as: str = "mhc"

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        """The shape of one token's logits."""
        return (n, n)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        """[..., *shape(n)] -> [..., n, n], in torch, in the dtype of the logits."""
        return self._formula("project")(logits, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """What is promised of M for this dialect."""
        return Guarantees()

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        """M of logits [tokens, *shape], and what rounding can do to it."""
        raise self._missing("the error of its value, `bound(logits, dialect, r)`")

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """d <cotangent, M> / d logits, [tokens, *shape], for a cotangent [tokens, n, n]."""
        raise self._missing("the error of its gradient, `pullback(logits, cotangent, dialect, r)`")

    def held(self, got: Tensor, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        """What the laws of the guarantees are judged by, for an emitted `got` [tokens, n, n]: M and its bound."""
        return self.bound(logits, dialect, r)

    def pullback_norm(self, logits: Tensor, dialect: Dialect) -> Tensor:
        """An upper bound of the spectral norm of dM / d logits, [tokens].

        Raises:
            ValueError: none is known.
        """
        raise ValueError(f"no bound of the gradient is known for {dialect}")

    def patterns(self, dialect: Dialect, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Which of these patterns of a matrix of logits (`properties.strategies.PATTERNS`) it can take."""
        return wanted

    def extreme(self, dialect: Dialect) -> tuple[str, ...] | None:
        """Patterns of logits that lie as far apart as it can take; None where only moderate ones mean anything."""
        return None

    def telling(self, n: int, dialect: Dialect) -> SearchStrategy[Any] | None:
        """More logits of one token, a numpy array of `shape`, at which mistakes show that the usual ones hide."""
        return None

    def carrying(self, permutation: Tensor, dialect: Dialect) -> Tensor | None:
        """Logits whose M is this permutation matrix, as nearly as it has one; None where there are none to name."""
        return None

    def beginning(self, n: int, dialect: Dialect, far: float = 0.0) -> Tensor:
        """Logits of a token with which a model begins: M even, or, with `far`, near the identity but for e^-far."""
        return torch.zeros(self.shape(n, dialect), dtype=torch.float64)


class Gate(Family):
    """How n logits become n weights (`Dialect.pre`, `Dialect.post`).

    Attributes:
        alone: for n = 1 the only gate is a number, whatever its logit, so that nothing needs to read that.
        constant: the gates do not depend on their logits.
        unit_range: every gate lies between 0 and 1 to 8 units of roundoff, however large its logit is.
        relative: only the differences of its logits show.
    """

    slot = "gate"
    alone: bool = False
    constant: bool = False
    unit_range: bool = False
    relative: bool = False

    def gates(self, logits: Tensor, dialect: Dialect) -> Tensor:
        """[..., n] -> [..., n], in torch, in the dtype of the logits."""
        return self._formula("gates")(logits, dialect)

    def inverse(self, gates: Tensor, dialect: Dialect) -> Tensor | None:
        """The logits of gates, for identify; without their mean where it is `relative`. None: there is no inverse."""
        return None

    def slope(self, logits: Tensor, gates: Tensor, dialect: Dialect) -> Tensor:
        """How fast each gate grows with its own logit, where it has an inverse."""
        return torch.ones_like(gates)

    def at_zero(self, n: int, dialect: Dialect) -> float | Tensor:
        """Every gate for logits of 0, or each of them, [n]."""
        return float(self.gates(torch.zeros(n, dtype=torch.float64), dialect)[0])

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """The gates of logits [tokens, n]."""
        raise self._missing("the error of its value, `bound(logits, dialect, r)`")

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """d <cotangent, gates> / d logits."""
        raise self._missing("the error of its gradient, `pullback(logits, cotangent, dialect, r)`")


class Dynamic(Family):
    """What is done to the products with phi (`Dialect.dynamic`).

    Attributes:
        passes: the products pass as they are, so that gates may be folded into phi and the bias into the sum.
        constant: it is 0 whatever the products are, so that neither the state nor phi is read.
    """

    slot = "dynamic"
    passes: bool = False
    constant: bool = False

    def activate(self, products: Tensor, dialect: Dialect) -> Tensor:
        """[..., m] -> [..., m], in torch, in the dtype of the products."""
        return self._formula("activate")(products, dialect)

    def inverse(self, activated: Tensor, dialect: Dialect) -> Tensor | None:
        """The products of what was made of them, for identify; None where it never gives such values."""
        return activated if self.passes else None

    def slope(self, activated: Tensor, dialect: Dialect) -> Tensor:
        """How fast it grows where it gives these values."""
        return torch.ones_like(activated)

    def bound(self, products: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """What is made of the products [tokens, m]."""
        raise self._missing("the error of its value, `bound(products, dialect, r)`")

    def pullback(self, products: Approx, activated: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """d <cotangent, activated> / d products; `activated` is what `bound` made of the products."""
        raise self._missing("the error of its gradient, `pullback(products, activated, cotangent, dialect, r)`")


class Begin(Family):
    """How the streams begin (`Dialect.expand`): each as a multiple of h."""

    slot = "begin"

    def expand(self, h: Tensor, n: int, dialect: Dialect) -> Tensor:
        """[..., C] -> [..., n, C], in torch, in the dtype of h."""
        return self._formula("expand")(h, n, dialect)

    def weights(self, n: int, dialect: Dialect) -> Tensor:
        """What multiple of h each stream begins as, [n], float64: read off the formula.

        Raises:
            HarnessError: the formula does something else.
        """
        probe = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
        out = self.expand(probe, n, dialect)
        found = out[..., 0]
        if not torch.equal(out, found.unsqueeze(-1) * probe):
            raise HarnessError(
                f"the begin family {self.name!r} makes of h no multiples of h, which no bound is known for"
            )
        return found


class End(Family):
    """How the streams become one (`Dialect.collapse`): as a sum with fixed weights, or with those of a read gate.

    Attributes:
        HEAD: whether it has parameters of its own, whose h_pre are the weights.
        LAST: whether the h_pre of the last block are the weights: only a whole stack has them.
    """

    slot = "end"
    HEAD = False
    LAST = False

    @property
    def gated(self) -> bool:
        """Whether the weights are an h_pre."""
        return self.HEAD or self.LAST

    def collapse(self, x: Tensor, dialect: Dialect, h_pre: Tensor | None) -> Tensor:
        """[..., n, C] -> [..., C], in torch, in the dtype of x; h_pre [..., n] where it is gated."""
        return self._formula("collapse")(x, dialect, h_pre)

    def weights(self, n: int, dialect: Dialect) -> Tensor:
        """The weight of each stream in the sum, [n], float64: read off the formula, where it is gated for some h_pre.

        Raises:
            HarnessError: the formula does something else.
        """
        probe = torch.linspace(-2, 3, 3 * n, dtype=torch.float64).view(n, 3)
        gates = torch.linspace(0.5, 1.5, n, dtype=torch.float64) if self.gated else None
        found = self.collapse(torch.eye(n, dtype=torch.float64), dialect, gates)
        terms = found.unsqueeze(-1) * probe
        off = (self.collapse(probe, dialect, gates) - terms.sum(0)).abs()
        sums = bool((off <= 2 * n * torch.finfo(torch.float64).eps * terms.abs().sum(0)).all())
        if not sums or (gates is not None and not torch.equal(found, gates)):
            raise HarnessError(f"the end family {self.name!r} makes no sum of the streams that a bound is known for")
        return found


def family(slot: str, name: str) -> Any:
    """What is known of a family, by slot and name.

    Raises:
        LookupError: there is no such family.
    """
    return registry.outside(slot, name) or _own(slot, name)


@cache
def _own(slot: str, name: str) -> Any:
    return getattr(importlib.import_module(f"properties.families.{registry.module_of(name)}"), slot.upper())


def mix_of(dialect: Dialect) -> Mix:
    """The mix of a dialect."""
    return family("mix", dialect.residual)


def gate_of(name: str) -> Gate:
    """The gate of that name, a dialect's `pre` or `post`."""
    return family("gate", name)


def dynamic_of(dialect: Dialect) -> Dynamic:
    """What a dialect does to the products with phi."""
    return family("dynamic", dialect.dynamic)


def begin_of(dialect: Dialect) -> Begin:
    """How the streams of a dialect begin."""
    return family("begin", dialect.expand)


def end_of(dialect: Dialect) -> End:
    """How the streams of a dialect become one."""
    return family("end", dialect.collapse)


def guarantees_of(dialect: Dialect) -> Guarantees:
    """What the mix of a dialect promises.

    Raises:
        HarnessError: one from outside cannot say.
    """
    mix = mix_of(dialect)
    try:
        found: Any = mix.guarantees(dialect)
    except Exception as error:
        raise HarnessError(f"the mix family {mix.name!r} cannot say what it guarantees: {located(error)}") from None
    if not isinstance(found, Guarantees):
        raise HarnessError(f"the mix family {mix.name!r} guarantees {found!r}; expected a Guarantees")
    return found


def declared_bounds(dialect: Dialect) -> tuple[str, ...]:
    """The families of a dialect whose bounds are declared, not derived, as in "mix house"."""
    asked = ((slot, family(slot, getattr(dialect, field))) for field, slot in registry.SLOTS.items())
    said = [(slot, one.name) for slot, one in asked if one.roundings is not None or not getattr(one, "known", True)]
    return tuple(dict.fromkeys(f"{slot} {name}" for slot, name in said))
