"""Laws of guarantees: of every mix that claims one, sharp for what nearly keeps it, and never against one that does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import MHC_LITE, PAPER, PRESETS, Dialect, registry
from properties.core.family import guarantees_of
from properties.core.guarantees import Guarantees
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.families import Mix, claims

LAWS = {name: law for name, law in all_laws().items() if law.module == "properties.laws.guarantees"}
QUICK = Profile(examples=12, derandomise=True, shrink=False)


def cayley(z: Tensor) -> Tensor:
    skew, one = z - z.mT, torch.eye(z.shape[-1], dtype=z.dtype)
    skew = skew / (1 + skew.abs().amax((-1, -2), keepdim=True))
    return torch.linalg.solve(one - skew, one + skew)


def halved(z: Tensor) -> Tensor:
    """The mean of the identity and rows of shares."""
    return (torch.eye(z.shape[-1], dtype=z.dtype) + z.softmax(-1)) / 2


def small(z: Tensor) -> Tensor:
    """Signed, with absolute sums of at most 1 on both axes."""
    return z.tanh() / z.shape[-1]


def emitting(function: Callable[[Tensor], Tensor], *said: str, roundings: int = 64) -> Implementation:
    class Emitting(Implementation):
        dialect = claims(*said, roundings=roundings)
        dtypes = (torch.float32,)
        streams = (1, 2, 3, 4)

        def project(self, logits: Tensor) -> Tensor:
            return function(logits)

        def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
            return h_res @ x + h_post.unsqueeze(-1) * y.unsqueeze(-2)

    return Emitting()


def times(factor: float, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda z: factor * function(z)


def named(z: Tensor) -> Tensor:
    """Stream 0 is special."""
    weight = torch.ones(z.shape[-1], dtype=z.dtype)
    weight[0] = 1 + 1e-4
    return cayley(z * weight)


def uneven(z: Tensor) -> Tensor:
    """What a row has too much, another has too little."""
    off = torch.zeros_like(z)
    off[..., 0, :] = 1e-4
    return halved(z) + off


SEEN: dict[str, tuple[tuple[str, ...], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "manifold.no-entry-is-negative": (("non-negative",), halved, lambda z: halved(z) - 1e-4),
    "manifold.claimed-sums-are-one": (("rows sum to 1",), halved, times(1 + 1e-4, halved)),
    "manifold.claimed-sums-stay-below-one": (
        ("rows sum to at most 1",),
        lambda z: z.softmax(-1) * z.sign(),
        lambda z: z.softmax(-1) * (1 + 1e-4),
    ),
    "manifold.orthogonal-matrices-preserve-norms": (("orthogonal",), cayley, times(1 + 1e-4, cayley)),
    "manifold.matrices-do-not-expand": (("non-expansive",), small, times(1 + 1e-4, cayley)),
    "manifold.constant-matrices-ignore-their-logits": (("constant",), torch.ones_like, lambda z: 1 + 1e-4 * z.tanh()),
    "manifold.streams-have-no-names": (("orthogonal", "streams have no names"), cayley, named),
    "mixing.claimed-sums-are-conserved": (("rows sum to 1",), halved, uneven),
    "mixing.composites-do-not-expand": (("orthogonal",), cayley, times(1 - 1e-5, cayley)),
}
"""Law -> claims, a mix that keeps them, and one that nearly does."""


def verdict(law: str, implementation: Implementation, directory: Path) -> Verdict:
    subject = Subject("emitting", implementation, torch.float32, torch.device("cpu"))
    return examine(LAWS[law], subject, QUICK, directory=directory)


def test_every_law_of_a_guarantee_is_tried() -> None:
    assert set(SEEN) == set(LAWS)


@pytest.mark.slow
@pytest.mark.parametrize("law", SEEN)
def test_what_keeps_its_claim_passes_and_what_nearly_does_is_caught(law: str, tmp_path: Path) -> None:
    said, right, wrong = SEEN[law]
    found = verdict(law, emitting(right, *said), tmp_path)
    assert found.status == "passed", found.message
    assert verdict(law, emitting(wrong, *said), tmp_path).status == "failed"


@pytest.mark.parametrize("law", SEEN)
def test_an_entry_that_is_no_number_keeps_no_claim(law: str, tmp_path: Path) -> None:
    said, right, _ = SEEN[law]

    def hollow(z: Tensor) -> Tensor:
        found = right(z).clone()
        found[..., 0, 0] = torch.nan
        return found

    assert verdict(law, emitting(hollow, *said), tmp_path).status == "failed"


APPLY: dict[str, set[str]] = {
    "PAPER": set(),
    "DEEPSEEK_V4": set(),
    "LIGER": set(),
    "LUCIDRAINS": set(),
    "HYPER_CONNECTIONS": set(),
    "MHC_LITE": {
        "manifold.no-entry-is-negative",
        "manifold.claimed-sums-are-one",
        "manifold.matrices-do-not-expand",
        "mixing.claimed-sums-are-conserved",
        "mixing.composites-do-not-expand",
    },
    "RESIDUAL": {"manifold.constant-matrices-ignore-their-logits"},
    "IHC": {"manifold.constant-matrices-ignore-their-logits"},
    "KROMHC": {
        "manifold.no-entry-is-negative",
        "manifold.claimed-sums-are-one",
        "manifold.matrices-do-not-expand",
        "mixing.claimed-sums-are-conserved",
        "mixing.composites-do-not-expand",
    },
    "CAYLEY": {
        "manifold.orthogonal-matrices-preserve-norms",
        "manifold.streams-have-no-names",
        "mixing.composites-do-not-expand",
    },
    "MUSE_SPARK": {
        "manifold.no-entry-is-negative",
        "manifold.claimed-sums-stay-below-one",
        "manifold.matrices-do-not-expand",
        "mixing.composites-do-not-expand",
    },
}
"""Preset -> the laws of guarantees that say what no law about its formula says."""


@pytest.mark.parametrize("preset", APPLY)
def test_a_law_is_asked_where_it_is_claimed_and_nobody_says_it_already(preset: str) -> None:
    one = Reference(PRESETS[preset])
    assert {name for name, law in LAWS.items() if law.inapplicable(one, torch.float32) is None} == APPLY[preset]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "law"), [(preset, law) for preset, laws in APPLY.items() for law in sorted(laws)])
def test_our_own_families_keep_what_they_claim(preset: str, law: str, tmp_path: Path) -> None:
    found = verdict(law, Reference(PRESETS[preset]), tmp_path)
    assert found.status == "passed", found.message


class Shares(Mix):
    """Rows of shares: of Sinkhorn's facts those that are left after half an iteration."""

    name = "test_shares"
    words = "rows of shares"
    roundings = 8

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return logits.softmax(-1)

    def exact(self, z: Any, n: int, dialect: Dialect, real: Any) -> Any:
        return [real.softmax(z[n * i : n * i + n]) for i in range(n)]

    def guarantees(self, dialect: Dialect) -> Guarantees:
        return Guarantees(
            nonnegative=True,
            sums=frozenset({"row"}),
            last="row",
            scaled=True,
            shift="row",
            equivariant=True,
            alone=True,
        )


FACTS = {
    "manifold.entries-between-zero-and-one": "",
    "manifold.last-axis-sums": "",
    "manifold.odds-ratios": "",
    "manifold.exact-shift-invariance": "",
    "manifold.permutation-equivariance": "",
    "mixing.spectral-norm-within-its-certificate": "",
    "mixing.composites-keep-their-caps": "",
    "mixing.mixing-does-not-expand": "",
    "gradient.exact-shifts-have-no-gradient": "",
    "manifold.half-step-convergence": "not projected by Sinkhorn",
    "manifold.doubly-stochastic-fixed-point": "not projected by Sinkhorn",
    "gradient.pullback-stays-below-its-norm": "not projected by Sinkhorn",
    "manifold.claimed-sums-are-one": "not claimed to have exact sums besides",
    "block.permutation-limit-carries-streams": "h_res is test_shares",
}
"""Law -> why it says nothing of rows of shares; nothing where it holds of them."""


@pytest.mark.slow
@pytest.mark.parametrize("law", FACTS)
def test_a_law_holds_of_whoever_claims_its_facts(law: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_outside", dict(registry._outside))
    one = Reference(PAPER.with_(residual=registry.register(Shares).name))
    one.streams = (1, 2, 3)
    reason = all_laws()[law].inapplicable(one, torch.float32)
    assert (FACTS[law] in reason) if reason else not FACTS[law]
    if not reason:
        subject = Subject("shares", one, torch.float32, torch.device("cpu"))
        found = examine(all_laws()[law], subject, QUICK, directory=tmp_path)
        assert found.status == "passed", found.message


@pytest.mark.parametrize(
    ("given", "follows"),
    [
        ({"identity": True}, {"orthogonal": True, "nonexpansive": True, "constant": True, "capped": {"row", "column"}}),
        ({"sums": {"row"}}, {"capped": set(), "nonexpansive": False}),
        ({"sums": {"row", "column"}, "nonnegative": True}, {"nonexpansive": True, "orthogonal": False}),
        ({"equivariant": True}, {"conjugate": True, "scaled": False}),
    ],
)
def test_guarantees_follow_from_each_other(given: dict[str, Any], follows: dict[str, Any]) -> None:
    found = Guarantees(**given)
    assert {name: getattr(found, name) for name in follows} == follows


def test_without_an_iteration_sinkhorn_guarantees_little() -> None:
    for dialect, last, shift in ((PAPER, "row", "column"), (PAPER.with_(iterations=0), "", "")):
        held = guarantees_of(dialect)
        assert (held.last, held.shift, held.nonnegative, held.scaled) == (last, shift, True, True)
        assert held.sums == ({last} if last else set())
        assert not held.nonexpansive
    assert guarantees_of(Dialect(denominator_eps=1e-6)).sums == set()
    assert guarantees_of(Dialect(denominator_eps=1e-6)).capped == {"row"}


def test_a_gradient_that_moves_what_is_promised_is_caught(tmp_path: Path) -> None:
    """Sums that are 1 have no gradient: one logit that pulls at every entry alike is seen, in float32 too."""
    law = all_laws()["gradient.what-is-promised-does-not-move"]

    class Pulled(Reference):
        def project(self, logits: Tensor) -> Tensor:
            found = super().project(logits)
            first = logits[..., :1, None]
            return found + 1e-3 * (first - first.detach())

    for made, status in ((Reference(MHC_LITE), "passed"), (Pulled(MHC_LITE, "pulled"), "failed")):
        subject = Subject("ref:MHC_LITE", made, torch.float32, torch.device("cpu"))
        assert examine(law, subject, QUICK, directory=tmp_path).status == status
