"""Claims alone: a mix of which nothing is known but what it claims to guarantee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.packing import streams_of_logits
from mhc_ref.registry import Field, register
from properties.core.family import Guarantees, Mix
from properties.core.rounding import INF, Approx, Projection, Rounding
from properties.guards.faults import HarnessError

WORDS: Mapping[str, tuple[dict[str, Any], str]] = {
    "non-negative": ({"nonnegative": True}, "no entry is below 0"),
    "rows sum to 1": ({"sums": {"row"}}, "the entries of each row sum to 1"),
    "columns sum to 1": ({"sums": {"column"}}, "the entries of each column sum to 1"),
    "rows sum to at most 1": ({"capped": {"row"}}, "the absolute entries of each row sum to at most 1"),
    "columns sum to at most 1": ({"capped": {"column"}}, "the absolute entries of each column sum to at most 1"),
    "orthogonal": ({"orthogonal": True}, "M M^T = I"),
    "non-expansive": ({"nonexpansive": True}, "no vector becomes longer in the Euclidean norm"),
    "constant": ({"constant": True}, "M does not depend on the logits"),
    "streams have no names": ({"conjugate": True}, "logits P Z P^T give P M P^T for every permutation P"),
}
"""What can be claimed -> the guarantees, and what it says of every M."""


def guaranteed(said: str) -> Guarantees:
    """The guarantees of claims that are separated by commas.

    Raises:
        ValueError: nothing is claimed, or something that is no claim.
    """
    claims = [" ".join(claim.split()) for claim in said.split(",")]
    strange = [claim for claim in claims if claim not in WORDS]
    if strange:
        raise ValueError(f"claims is {said!r}, of which {strange[0]!r} is none; expected some of {', '.join(WORDS)}")
    found: dict[str, Any] = {}
    for claim in claims:
        for field, value in WORDS[claim][0].items():
            found[field] = value if value is True else found.get(field, set()) | value
    return Guarantees(**found)


def _claims(said: Any) -> bool:
    return bool(guaranteed(said))


class Claims(Mix):
    """A mix without a formula: subclass it, and say `name`, `shape` and `guarantees`.

    Attributes:
        each: how often an entry may have been rounded, relative to the largest entry of its matrix: declared.
    """

    known = False
    each: int = 64

    def entry(self, dialect: Dialect) -> int:
        """How often an entry may have been rounded."""
        return self.each

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        """Nobody knows what is computed.

        Raises:
            HarnessError: always; no law may ask.
        """
        raise HarnessError(f"the mix family {self.name!r} has no formula: what M is cannot be computed")

    def exact(self, *asked: Any) -> Any:
        """Nobody knows what is exact.

        Raises:
            HarnessError: always; no law may ask.
        """
        raise HarnessError(f"the mix family {self.name!r} has no formula: what M is exactly cannot be asked")

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        """No value, which nobody knows; an error where the claims keep every entry within 1."""
        tokens, n = len(logits.value), streams_of_logits(logits.value.shape, dialect)
        claimed = self.guarantees(dialect)
        within = claimed.nonexpansive or bool(claimed.capped)
        exact = logits.error.flatten(1).amax(1) == 0
        error = torch.where(exact, self.entry(dialect) * r.unit if within else INF, INF)
        return _all_off_by(torch.full((tokens, n, n), torch.nan, dtype=torch.float64), error)

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """Nothing is known of the gradient."""
        return Approx(torch.zeros_like(logits.value), torch.full_like(logits.value, INF))

    def held(self, got: Tensor, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        """The declared roundings of the largest entry that was emitted; an entry that is no number breaks any claim."""
        value = got.detach().double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return _all_off_by(value, self.entry(dialect) * r.unit * value.abs().flatten(1).amax(1))


def _all_off_by(value: Tensor, error: Tensor) -> Projection:
    """Matrices [tokens, n, n] whose entries have an error for each token."""
    each = error[:, None, None].expand(value.shape)
    return Projection(value, each, torch.full_like(value, INF), each.sum(-1))


class Claimed(Claims):
    """A matrix [n, n] of logits [n, n], by nobody knows which formula."""

    name = "claimed"
    words = "by a formula that is not known"
    FIELDS: Mapping[str, Field] = {
        "claims": Field("non-negative", _claims, f"claims separated by commas, of {', '.join(WORDS)}", "what M is"),
        "roundings": Field(64, lambda k: isinstance(k, int) and 0 < k < 2**20, "a number above 0", "of an entry"),
    }

    def entry(self, dialect: Dialect) -> int:
        return dialect.roundings

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """What is claimed."""
        return guaranteed(dialect.claims)


MIX = register(Claimed())


def claims(*said: str, roundings: int = 64, **fields: Any) -> Dialect:
    """The dialect of an implementation whose mix is held to these claims, and to nothing else about its values.

    Arguments:
        said: of `WORDS`.
        roundings: of an entry, relative to the largest entry of its matrix: declared, where no bound can be derived.
        fields: the rest of the dialect.

    Raises:
        ValueError: nothing is claimed, or something that is no claim.
    """
    if not all(isinstance(one, str) for one in said):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"claims were given as {said!r}; expected each as a string of its own, some of {', '.join(WORDS)}"
        )
    return Dialect(residual=MIX.name, claims=", ".join(one.strip() for one in said), roundings=roundings, **fields)
