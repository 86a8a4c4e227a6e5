"""Whole blocks with a branch (family block): does an activation or a normalisation contain growth?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from properties.core.reads import read_of
from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, decimal, number
from properties.explosion.configurations import Block
from properties.explosion.options import (
    BRANCH,
    BRANCH_BOUND,
    BRANCHES,
    GAIN,
    MAX_WIDTH,
    NORM,
    NORMS,
    SCORE_BOUND,
    asked,
)
from properties.explosion.proofs import envelopes
from properties.explosion.proofs.caps import applied
from properties.explosion.proofs.envelopes import envelope, least_depth
from properties.explosion.questions.projecting import Declared
from properties.explosion.questions.question import written_matrices
from properties.explosion.searches import blocks
from properties.explosion.searches.hunt import Hunt
from properties.explosion.searches.hypothesise import Clock, smallest
from properties.explosion.searches.steep import best
from properties.explosion.searches.typical import TYPICAL, typical
from properties.explosion.training.options import MAX_TOKENS


@dataclass(frozen=True, kw_only=True)
class Blocks(Declared[Block]):
    """x' = A x + h_post^T F(h_pre x): a branch (`proofs.branches`) of norm `branch_bound`, and a norm."""

    family = "block"
    FORM = "block[:BRANCH[:NORM]]"
    HOLDS = frozenset({"operators", "block"})
    LACKS = {"norm": "has its norm in its name, as in block:relu:post"}  # noqa: RUF012

    gain: str = field(**asked(GAIN, default="activation"))
    max_width: int = field(**asked(MAX_WIDTH))
    branch_bound: Fraction = field(**asked(BRANCH_BOUND))
    max_tokens: int = field(**asked(MAX_TOKENS, default=1, neutral=None))
    score_bound: Fraction = field(**asked(SCORE_BOUND))
    branch: str = field(**asked(BRANCH))
    norm: str = field(**asked(NORM))

    @classmethod
    def parsed(cls, family: str) -> dict[str, Any] | None:
        kind, _, rest = family.partition(":")
        branch, _, norm = rest.partition(":")
        if kind != "block":
            return None
        return {
            "branch": BRANCH.read(branch or BRANCHES[0], "branch"),
            "norm": NORM.read(norm or NORMS[0], "norm"),
        }

    @property
    def name(self) -> str:
        return f"block:{self.branch}:{self.norm}"

    def check(self) -> None:
        dialect = self.dialect
        if self.gain not in ("activation", "gradient", "nonfinite"):
            raise ValueError(
                f"gain is {self.gain!r}; expected activation, gradient or nonfinite for block, which is not linear"
            )
        if self.direction != "explode":
            raise ValueError("direction is 'vanish'; expected 'explode' for block")
        if self.max_tokens > 1 and (self.branch, self.gain) != ("attention", "gradient"):
            raise ValueError(
                f"max_tokens is {self.max_tokens}, and has no effect: expected 1, or block:attention with the gain "
                "gradient. Other branches see one token at a time, and what attention answers is an average of tokens"
            )
        if self.score_bound != 1 and self.max_tokens == 1:
            raise ValueError(
                f"score_bound is {decimal(self.score_bound)}, and has no effect: expected max_tokens of 2 or more, for "
                "of one token nothing is chosen"
            )
        if self.gain == "gradient" and self.norm != "none" and not dialect.has_rms_eps:
            raise ValueError(
                "gradient of a normalisation with rms_eps 0: at 0 there is none; expected a dialect with rms_eps"
            )
        if self.norm != "none" and dialect.rms_eps_from != "value":
            raise ValueError(
                f"rms_eps_from is {dialect.rms_eps_from!r} for {self.name}; expected 'value', or norm none: caps are "
                "of real numbers, and the eps here is that of a dtype; give it as rms_eps"
            )
        if self.norm != "none" and dialect.centred:
            raise ValueError(
                f"centred is True for {self.name}; expected False, or norm none: caps are known for a norm that "
                "subtracts no mean"
            )
        if self.norm != "none" and dialect.rms_eps_by != "add":
            raise ValueError(
                f"rms_eps_by is {dialect.rms_eps_by!r} for {self.name}; expected 'add', or norm none: caps are "
                "known for a norm whose eps is added"
            )
        held = applied(dialect)
        alike = "row" in held.sums or held.equivariant  # so that logits of 0 give rows of one sum
        if not (held.nonnegative and "row" in held.capped and alike and envelopes.opening(dialect)):
            raise ValueError(
                "block needs a dialect whose applied rows are normalised and whose gates are sigmoids, such as "
                "PAPER, DEEPSEEK_V4, MHC_LITE or RESIDUAL"
            )
        if not read_of(dialect).plain:
            raise ValueError(
                f"block needs a branch that reads the state with a gate for each stream; in the dialect "
                f"{read_of(dialect).words}, and no bound is known here of what it reads then"
            )
        if dialect.read_from != "own":
            raise ValueError(
                f"block needs branches that read with the h_pre of their own block, and read_from is "
                f"{dialect.read_from!r}: the first sub-layer reads otherwise than those after it, and the bounds here "
                "are of sub-layers that are alike"
            )

    def within(self) -> str:
        held = {"none": "no normalisation", "sandwich": "norms on both sides"}.get(self.norm, f"{self.norm}-norm")
        tokens = ""
        if (self.branch, self.gain) == ("attention", "gradient"):
            scores = f" and logits within {decimal(self.score_bound)}"
            tokens = f" of up to {self.max_tokens} tokens{scores}" if self.max_tokens > 1 else " of one token"
        branch = f"{'an' if self.branch == 'attention' else 'a'} {self.branch} branch{tokens}"
        return f"blocks with {branch} of norm at most {decimal(self.branch_bound)} and {held}"

    def solve(self, hunt: Hunt[Block]) -> Answer:
        return blocks.solve(self, hunt)

    def operators(self, found: Block) -> tuple[Matrix, ...]:
        """The residual mappings alone."""
        return blocks.residual_operators(self, found)

    def entries(self, found: Block) -> int:
        return found.entries

    def exact(self, found: Block) -> Any:
        return blocks.value(self, found)

    def reached(self, found: Block) -> bool:
        if self.gain == "nonfinite":
            return not math.isfinite(self.measured(found))
        return bool(self.exact(found) >= number(self.threshold))

    def measured(self, found: Block) -> float:
        return blocks.measured(self, found)

    def about(self, found: Block) -> list[str]:
        gates = f"gate logits {found.pre} (pre) and {found.post} (post) in every stream"
        lines = [f"{gates}; weight {decimal(found.weight)} on channel 0; residual logits 0"]
        if self.gain == "gradient":
            way, _ = best(self, found, blocks.kept_by(self, found))
            lines.append(f"the gradient is that at: {way.words}")
        if self.gain != "nonfinite":
            usual = typical(self, found)
            lines.append(f"typical at initialisation: {usual:.3g} times ({TYPICAL})")
        return lines

    def path(self, found: Block) -> tuple[Tensor, Tensor]:
        ones = torch.ones(found.streams, dtype=torch.float64)
        if self.gain != "gradient":
            return ones, torch.tensor(self._activations(found), dtype=torch.float64)
        way, after = best(self, found, blocks.kept_by(self, found))
        return ones * float(way.start), torch.tensor([float(state) for _, state in after], dtype=torch.float64)

    def curve(self, found: Block) -> list[float]:
        if self.gain != "gradient":
            return self._activations(found)
        return [float(one) for one in itertools.islice(blocks.gradients(self, found), found.depth)]

    def _activations(self, found: Block) -> list[float]:
        return [x.double().abs().max().item() for x in blocks.activations(self, found, self.dtype)]

    def bounds(self, found: Block) -> list[float]:
        return [float(envelope(self, depth, found.streams, found.width)) for depth in range(1, found.depth + 1)]

    def written(self, found: Block) -> dict[str, Any]:
        return {"operators": written_matrices(self.operators(found)), "block": found.written()}

    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Block:
        found = Block.read(header["block"])
        if found.tokens > blocks.most_tokens(self, found.width):
            raise ValueError(f"a block of {found.tokens} tokens is none of this question")
        return found

    def frontier(self, n: int) -> int | None:
        """The smallest depth of exactly n streams by its envelope; `max_streams` is n."""
        return least_depth(self)

    def searched(self, n: int, clock: Clock) -> int | None:
        """The smallest depth of exactly n streams that a search with open gates finds."""
        goal = number(self.threshold)

        def reached(depth: int) -> bool:
            block = Block(envelopes.OPEN, envelopes.OPEN, self.branch_bound, depth, n, 1)
            return bool(blocks.value(self, block) >= goal)

        clock.best = "nothing yet"
        return smallest(st.integers(1, self.max_depth), reached, seed=self.seed, clock=clock, examples=100)
