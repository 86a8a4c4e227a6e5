"""From matrices to the mix that makes them: families that take such logits are asked, or tried by their own fields."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PRESETS, Dialect, registry
from mhc_ref.packing import logits_shape
from properties import bounds
from properties.core.estimate import Candidate, Fit, Matrices, ratio
from properties.core.family import family, mix_of
from properties.core.questions import questions
from properties.core.rounding import Approx, Rounding
from properties.core.shelves import beside
from properties.core.truth import wide
from properties.diagnosis.own_fields import Values, declared_values, fitted

SMALL = 12.0
"""Logits of such a size are far from where a projection no longer changes."""


def mixes_for(packing: Dialect, n: int) -> list[str]:
    """The mixes with a formula whose logits of n streams have the shape of a packing's."""
    wanted = logits_shape(n, packing)
    known = (name for name in registry.names("mix") if getattr(family("mix", name), "known", True))
    return [name for name in known if _shape(name, packing, n) == wanted]


def _shape(name: str, packing: Dialect, n: int) -> torch.Size | None:
    try:
        return logits_shape(n, packing.with_(residual=name))
    except ValueError:  # it takes no such n, or cannot go with the rest of the packing
        return None


def stages(names: list[str]) -> list[list[Fit]]:
    """How the mixes are looked for: first those whose fields are their own, then ours with fits, each further fit of a
    family where nothing was found before."""
    own: list[Fit] = []
    later: list[list[Fit]] = []
    for name in names:
        fits = _fits(name)
        if fits is None:
            own.append(partial(fit, name))
        for k, one in enumerate(fits or ()):
            later += [[]] * (k + 1 - len(later))
            later[k] = [*later[k], one]
    return [own, *later]


def _fits(name: str) -> tuple[Fit, ...] | None:
    theirs = registry.outside("mix", name)
    if theirs is not None:
        return getattr(theirs, "fits", None)
    ours = beside("fits", name)
    return ours.FITS if ours else None


def fit(
    name: str,
    read: Matrices,
    n: int,
    rounding: Rounding,
    depth: float,
    dtype: torch.dtype,
    most: int,
    declared: Dialect,
) -> list[Candidate]:
    """The mix with the values of its own fields that reproduce a target's matrices."""
    base = _chosen(name, declared)
    logits = _logits(n, base, depth, dtype, most)
    chunks = [read(part) for part in logits.split(max(1, most))]
    matrices, reading = torch.cat([a for a, _ in chunks]), torch.cat([b for _, b in chunks])
    if matrices.shape[-2:] != (n, n) or not bool(torch.isfinite(matrices).all()):
        return []
    z = wide(logits)
    few = z.flatten(1).abs().amax(1) <= SMALL

    def made(values: Values, of: Tensor) -> Tensor | None:
        try:
            return mhc_ref.project(of, base.with_(**values))
        except ValueError:
            return None

    def residual(values: Values) -> Tensor | None:
        exact = made(values, z[few])
        return None if exact is None else matrices[few] - exact

    errors: list[Tensor] = []
    near = max(1e-6, 1e4 * rounding.unit)

    def worst(values: Values) -> float:
        exact = made(values, z)
        if exact is None or ratio(matrices, exact, reading + near * (1 + exact.abs())) > 1:
            return math.inf
        if not errors:  # so near each other all values have as good as the same one, and it is dear
            errors.append(bounds.projection(Approx.exact(z), base.with_(**values), rounding).error)
        return ratio(matrices, exact, errors[0] + reading + 4 * rounding.unit * (1 + exact.abs()))

    own = mix_of(base).FIELDS
    found = fitted(own, declared_values(own, declared), residual, worst)
    return [Candidate({"residual": name} | one.fields, one.estimates, one.ratio) for one in found]


def _chosen(name: str, declared: Dialect) -> Dialect:
    """A dialect with this mix: the declared one, or a plain one where that cannot go with it."""
    try:
        return declared.with_(residual=name)
    except ValueError:
        return PRESETS.default.with_(residual=name)


def _logits(n: int, base: Dialect, depth: float, dtype: torch.dtype, most: int) -> Tensor:
    """Those by which projections are told apart; of another shape than n x n, random ones."""
    shape = logits_shape(n, base)
    if shape == (n, n):
        return questions(n, depth, dtype, ladder=25 if most >= 64 else 7).logits
    generator = torch.Generator().manual_seed(n)
    scales = torch.tensor([0.3, 1.0, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64).view(-1, *(1,) * len(shape))
    return (scales * torch.randn(6, *shape, generator=generator, dtype=torch.float64)).to(dtype)
