"""A question: the smallest member of a family whose gain reaches a threshold. Each family is a class of these."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from mhc_ref.gain import prefixes, suffixes
from mhc_ref.projection import compute_dtype
from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, composite, composite_reaches, decimal, exact_gain
from properties.explosion.configurations import Chain, Configuration, tensor
from properties.explosion.float_gain import float_gain
from properties.explosion.options import (
    BUDGET,
    DIRECTION,
    DTYPE,
    GAIN,
    MAX_DEPTH,
    MAX_STREAMS,
    SEED,
    THRESHOLD,
    Option,
    asked,
)
from properties.explosion.searches.hunt import Hunt

C = TypeVar("C", bound=Configuration)


@dataclass(frozen=True, kw_only=True)
class Question(ABC, Generic[C]):
    """The smallest member of a family whose `gain` reaches `threshold`, within limits.

    Bounds and the threshold are exact. `threshold` is reached from below (gain >= threshold) for direction "explode",
    from above (gain <= threshold) for "vanish". A family is a class: its fields are its options, each with an `Option`.

    Attributes:
        family: the first word of the name, and what a file calls the family.
        FORM: how the family is written.
        DYNAMIC: what a file adds for a family whose mixing depends on the input.
        HOLDS: what the header of a file holds of a configuration.
        LACKS: the words of options that the family does not have, where they are others than the option's own.
        EXACT: whether the gain of a configuration is known exactly, and not only as it was measured.
    """

    family: ClassVar[str]
    FORM: ClassVar[str]
    DYNAMIC: ClassVar[bool] = False
    HOLDS: ClassVar[frozenset[str]] = frozenset({"operators"})
    LACKS: ClassVar[Mapping[str, str]] = {}
    EXACT: ClassVar[bool] = True

    threshold: Fraction = field(**asked(THRESHOLD))
    gain: str = field(**asked(GAIN))
    direction: str = field(**asked(DIRECTION))
    max_depth: int = field(**asked(MAX_DEPTH))
    max_streams: int = field(**asked(MAX_STREAMS))
    dtype: str = field(**asked(DTYPE))
    seed: int = field(**asked(SEED))
    budget: float = field(**asked(BUDGET))

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The options of this family, by name."""
        return {field.name: field.metadata["option"] for field in dataclasses.fields(cls)}

    @classmethod
    def parsed(cls, family: str) -> dict[str, Any] | None:
        """What the name of a family says of the fields; None where it is another family's."""
        return {} if family == cls.FORM else None

    @classmethod
    def folded(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that the options mean which were given, each of them read."""
        return dict(given)

    @classmethod
    def goal(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that hold where no threshold is given; ValueError where one is needed."""
        if given.get("gain") != "nonfinite":
            raise ValueError("no threshold was given; expected --threshold with the gain to be reached")
        return {"threshold": Fraction(1)}

    def __post_init__(self) -> None:
        if self.threshold < 0 or (self.threshold == 0 and self.direction == "explode"):
            raise ValueError(f"threshold is {decimal(self.threshold)}; expected more than 0: every gain is at least 0")
        if self.gain == "nonfinite" and (self.threshold != 1 or self.direction == "vanish"):
            raise ValueError(
                "nonfinite asks for one number that is not finite; expected threshold 1 and direction 'explode'"
            )
        self.check()

    def check(self) -> None:
        """ValueError where what is asked contradicts itself, or is not asked of this family."""

    @property
    def name(self) -> str:
        """The family as it is asked for, with what it is a family of."""
        return self.FORM

    @property
    def asked_of(self) -> str:
        """The target that has a part in it: whose matrices are asked for, or which declares the mixing. "" for none."""
        return ""

    @property
    def sign(self) -> str:
        return ">=" if self.direction == "explode" else "<="

    @property
    def along(self) -> str:
        """What the curve of a configuration goes along."""
        return "sub-layers, counted from the output" if self.gain == "backward" else "sub-layers"

    @abstractmethod
    def within(self) -> str:
        """What was searched, in words."""

    @abstractmethod
    def solve(self, hunt: Hunt[C]) -> Answer:
        """Search: keep in `hunt` what reaches the threshold, ever better ones, and say what is known in the end."""

    def operators(self, found: C) -> tuple[Matrix, ...]:
        """The residual mappings [n, n] of a configuration, the first to be applied first, exact; () for none."""
        return ()

    @abstractmethod
    def entries(self, found: C) -> int:
        """The number of non-trivial entries, or of logits that are not 0."""

    def counted(self, found: C) -> str:
        """The number of entries in words."""
        return f"{self.entries(found)} non-trivial entries"

    @abstractmethod
    def exact(self, found: C) -> Any:
        """The gain in mpmath; as it was measured, where `EXACT` is false."""

    @abstractmethod
    def reached(self, found: C) -> bool:
        """Whether the gain reaches the threshold, decided exactly."""

    @abstractmethod
    def measured(self, found: C) -> float:
        """The gain as the reference computes it in the dtype that was asked for."""

    def about(self, found: C) -> list[str]:
        """Lines about a configuration besides its operators."""
        return []

    def path(self, found: C) -> tuple[Tensor, Tensor]:
        """The input [n] that shows the gain, and the largest activation after each sub-layer [L]; of operators."""
        raise NotImplementedError

    @abstractmethod
    def curve(self, found: C) -> list[float]:
        """The gain after 1, 2, ... sub-layers; of a backward gain counted from the output."""

    def bounds(self, found: C) -> list[float]:
        """What no stack of 1, 2, ... sub-layers of as many streams can pass; [] where nothing is proved."""
        return []

    def more(self, found: C | None) -> dict[str, Any]:
        """What this family tells in JSON besides what every family does."""
        return {}

    def tensors(self, found: C) -> dict[str, Tensor]:
        """What a file holds as tensors."""
        logits: tuple[Matrix, ...] = getattr(found, "logits", ())
        return {"operators": tensor(self.operators(found)), **({"logits": tensor(logits)} if logits else {})}

    @abstractmethod
    def written(self, found: C) -> dict[str, Any]:
        """What the header of a file holds of a configuration: the keys of `HOLDS`."""

    @abstractmethod
    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> C:
        """The configuration that a header holds; ValueError, TypeError or KeyError where it is none."""


K = TypeVar("K", bound=Chain)


@dataclass(frozen=True, kw_only=True)
class LinearQuestion(Question[K]):
    """A question about products of mixing matrices: the gain is one of their composite A_L ... A_1."""

    def operators(self, found: K) -> tuple[Matrix, ...]:
        return found.operators

    def exact(self, found: K) -> Any:
        return exact_gain(composite(found.operators), self.gain)

    def reached(self, found: K) -> bool:
        return composite_reaches(found.operators, self.gain, self.threshold, self.direction)

    def measured(self, found: K) -> float:
        """Operators and every partial product are stored in the dtype."""
        storage: torch.dtype = getattr(torch, self.dtype)
        stored = tensor(found.operators).to(storage)
        product = stored[0]
        for one in stored[1:]:
            product = (one.to(compute_dtype(storage)) @ product.to(compute_dtype(storage))).to(storage)
        return float_gain(product.double(), self.gain).item()

    def path(self, found: K) -> tuple[Tensor, Tensor]:
        composites = prefixes(tensor(found.operators))
        x = worst_input(composites[-1], self.gain)
        return x, (composites @ x).abs().amax(-1)

    def curve(self, found: K) -> list[float]:
        stack = tensor(found.operators)
        # A backward composite grows from the output: what a gradient has passed after so many sub-layers.
        composites = suffixes(stack).flip(0) if self.gain == "backward" else prefixes(stack)
        return float_gain(composites, self.gain).tolist()


def worst_input(composite: Tensor, gain: str) -> Tensor:
    """The input [n] within 1 whose output shows the gain: the signs of a row, one stream, ones, a direction."""
    n = composite.shape[-1]
    if gain == "signed":
        return torch.ones(n, dtype=composite.dtype)
    if gain == "backward":
        return torch.eye(n, dtype=composite.dtype)[int(composite.abs().sum(0).argmax())]
    if gain == "spectral":
        direction = torch.linalg.svd(composite).Vh[0]
        return direction / direction.abs().max() * direction.sum().sign().add(0.5).sign()
    signs = composite[int(composite.abs().sum(1).argmax())].sign()
    return torch.where(signs == 0, 1.0, signs)


def written_matrices(matrices: tuple[Matrix, ...]) -> list[list[list[str]]]:
    """Exact matrices as a header holds them."""
    return [[[str(entry) for entry in row] for row in one] for one in matrices]
