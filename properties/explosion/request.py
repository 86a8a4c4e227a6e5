"""What is asked of an explosion search: read, checked, and turned into exact numbers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, TypeAlias, get_args

from mhc_ref import PAPER, Dialect

Family = Literal["residual", "hc", "mhc", "block", "target"]
Gain = Literal["forward", "backward", "signed", "spectral", "activation", "gradient", "nonfinite"]
Branch = Literal["linear", "relu", "gated", "attention"]
Norm = Literal["none", "pre", "post"]
Direction = Literal["explode", "vanish"]
Number: TypeAlias = int | float | str | Decimal | Fraction
"""A number as a user writes it. A float stands for the shortest decimal that names it: 0.1 is one tenth."""

FAMILIES: tuple[str, ...] = get_args(Family)
GAINS: tuple[str, ...] = get_args(Gain)
BRANCHES: tuple[str, ...] = get_args(Branch)
NORMS: tuple[str, ...] = get_args(Norm)
DIRECTIONS: tuple[str, ...] = get_args(Direction)
DYNAMIC = "hc:dynamic"
DEEPEST = 10_000
LARGEST = 300
"""Numbers are asked for between 1e-300 and 1e300, so that float64 can hold what comes out."""
DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Request:
    """One question: the smallest member of `family` whose `gain` reaches `threshold`, within these limits.

    Bounds and the threshold are exact. `threshold` is reached from below (gain >= threshold) for direction "explode",
    from above (gain <= threshold) for "vanish".
    """

    family: Family
    threshold: Fraction
    gain: Gain = "forward"
    direction: Direction = "explode"
    max_depth: int = 128
    max_streams: int = 4
    max_width: int = 1
    entry_bound: Fraction | None = None
    identity_bound: Fraction | None = None
    branch_bound: Fraction = Fraction(1)
    dialect: Dialect = PAPER
    dtype: str = "float64"
    seed: int = 0
    budget: float = 60.0
    branch: Branch = "linear"
    norm: Norm = "none"
    target: str = ""
    dynamic: bool = False

    @property
    def name(self) -> str:
        """The family as it is asked for, with what it is a family of."""
        if self.dynamic:
            return f"{self.family}:dynamic"
        return {"block": f"block:{self.branch}:{self.norm}", "target": f"target:{self.target}"}.get(
            self.family, self.family
        )

    @property
    def stored(self) -> bool:
        """Whether the mixing matrices are rounded to a dtype before they are applied."""
        return self.family == "mhc" and self.dtype != "float64"

    @property
    def sign(self) -> str:
        return ">=" if self.direction == "explode" else "<="

    @property
    def streams(self) -> int:
        """The largest number of streams that may be used."""
        return 1 if self.family == "residual" else self.max_streams


def request(
    family: str,
    threshold: Number,
    *,
    gain: str | None = None,
    direction: str = "explode",
    max_depth: int = 128,
    max_streams: int = 4,
    max_width: int = 1,
    entry_bound: Number | None = None,
    identity_bound: Number | None = None,
    branch_bound: Number = 1,
    dialect: Dialect = PAPER,
    iterations: int | None = None,
    dtype: str = "float64",
    seed: int = 0,
    budget: float = 60.0,
) -> Request:
    """A checked `Request`.

    Raises:
        ValueError: a value out of its range, or options that contradict each other; the message names what was given
            and what was expected.
    """
    limit = exact(threshold, "threshold")
    kind, _, rest = family.partition(":")
    branch, _, norm = rest.partition(":") if kind == "block" else ("", "", "")
    if gain is None:  # a block with a branch is no matrix
        gain = "activation" if kind == "block" or family == DYNAMIC else "forward"
    chosen: Direction = _one_of(direction, DIRECTIONS, "direction")  # pyright: ignore[reportAssignmentType]
    if limit < 0 or (limit == 0 and chosen == "explode"):
        raise ValueError(f"threshold is {threshold}; expected more than 0: every gain is at least 0")
    for name, value in (("max_depth", max_depth), ("max_streams", max_streams), ("max_width", max_width)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"{name} is {value!r}; expected an integer of 1 or more")
    if max_depth > DEEPEST:
        raise ValueError(f"max_depth is {max_depth}; expected at most {DEEPEST}: composites are computed exactly")
    if isinstance(seed, bool) or not isinstance(seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"seed is {seed!r}; expected an integer")
    if not (math.isfinite(budget) and budget > 0):
        raise ValueError(f"budget is {budget!r}; expected a finite number of seconds above 0")
    made = Request(
        family=_one_of(kind if kind in ("block", "target") or family == DYNAMIC else family, FAMILIES, "family"),  # pyright: ignore[reportArgumentType]
        branch=_one_of(branch or "linear", BRANCHES, "the branch of block"),  # pyright: ignore[reportArgumentType]
        norm=_one_of(norm or "none", NORMS, "the norm of block"),  # pyright: ignore[reportArgumentType]
        target=rest if kind == "target" else "",
        dynamic=family == DYNAMIC,
        threshold=limit,
        gain=_one_of(gain, GAINS, "gain"),  # pyright: ignore[reportArgumentType]
        direction=chosen,
        max_depth=max_depth,
        max_streams=max_streams,
        max_width=max_width,
        entry_bound=None if entry_bound is None else _bound(entry_bound, "entry_bound"),
        identity_bound=None if identity_bound is None else _bound(identity_bound, "identity_bound"),
        branch_bound=_bound(branch_bound, "branch_bound"),
        dialect=dialect if iterations is None else dialect.with_(iterations=iterations),
        dtype=_one_of(dtype, DTYPES, "dtype"),
        seed=seed,
        budget=float(budget),
    )
    consistent(made)
    return made


def exact(number: Number, name: str) -> Fraction:
    """The number that was written, as a fraction; ValueError where it is none or not finite."""
    exponent = re.search(r"[eE]([+-]?\d+)\s*$", str(number))
    far = exponent is not None and abs(int(exponent[1])) > 2 * LARGEST  # 1e999999999 has a billion digits
    try:
        if isinstance(number, bool):
            raise ValueError
        value = Fraction(0 if far else repr(number) if isinstance(number, float) else number)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise ValueError(f"{name} is {number!r}; expected a finite decimal number such as 100, 0.05 or 1e3") from None
    if far or (value and not Fraction(1, 10**LARGEST) <= abs(value) <= 10**LARGEST):
        raise ValueError(f"{name} is {number}; expected a size between 1e-{LARGEST} and 1e{LARGEST}")
    return value


def _bound(number: Number, name: str) -> Fraction:
    bound = exact(number, name)
    if bound <= 0:
        raise ValueError(f"{name} is {number}; expected more than 0: nothing can change within a bound of 0")
    return bound


def _one_of(value: str, allowed: tuple[str, ...], name: str) -> str:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
    return value


def consistent(made: Request) -> None:
    """ValueError where the options of a request contradict each other."""
    given = [name for name in ("entry_bound", "identity_bound") if getattr(made, name) is not None]
    if made.family == "hc" and len(given) != 1:
        raise ValueError(
            f"hc needs exactly one of entry_bound and identity_bound; {' and '.join(given) or 'neither'} was given. "
            "entry_bound: |A_ij| <= b; identity_bound: |A_ij - I_ij| <= d"
        )
    if made.family != "hc" and given:
        raise ValueError(f"{given[0]} bounds the mixing of hc; {made.family} has no such bound")
    if made.family == "mhc" and made.dialect.residual == "unconstrained":
        raise ValueError(
            "the dialect's residual is 'unconstrained'; expected a constrained one. For it there is family hc"
        )
    if made.stored and (made.dialect.residual != "sinkhorn" or not made.dialect.iterations):
        raise ValueError(
            f"dtype is {made.dtype!r}; expected float64 for a dialect without Sinkhorn iterations: stored matrices are "
            "searched where a division normalises them"
        )
    if made.family not in ("residual", "block") and made.branch_bound != 1:
        raise ValueError(f"branch_bound bounds the branch of residual and block; {made.family} has no branch here")
    if made.family == "target" and not made.target:
        raise ValueError("family is 'target'; expected target:TARGET with a target of --impl, such as target:ref:PAPER")
    if made.gain == "nonfinite" and (made.threshold != 1 or made.direction == "vanish"):
        raise ValueError(
            "nonfinite asks for one number that is not finite; expected threshold 1 and direction 'explode'"
        )
    if made.gain == "nonfinite" and made.family in ("mhc", "target"):
        raise ValueError(
            f"gain is 'nonfinite'; expected family residual, hc or block: the mixing of {made.family} is capped"
        )
    if made.family == "block":
        _block(made)
    if made.dynamic and made.identity_bound is None:
        raise ValueError("hc:dynamic adds d tanh(...) to the identity; expected identity_bound, entry_bound was given")
    if made.dynamic and (made.gain != "activation" or made.direction != "explode"):
        raise ValueError(
            f"gain is {made.gain!r} and direction {made.direction!r} for hc:dynamic, which is not linear; expected "
            "activation and explode"
        )


def _block(made: Request) -> None:
    dialect = made.dialect
    if made.gain not in ("activation", "gradient", "nonfinite"):
        raise ValueError(
            f"gain is {made.gain!r}; expected activation, gradient or nonfinite for block, which is not linear"
        )
    if made.direction != "explode":
        raise ValueError("direction is 'vanish'; expected 'explode' for block")
    smooth = (made.branch in ("linear", "relu") and made.norm == "none") or (made.branch, made.norm) == (
        "linear",
        "pre",
    )
    if made.gain == "gradient" and not smooth:
        raise ValueError(
            f"gain is 'gradient' for {made.name}; expected block:linear:none, block:relu:none or block:linear:pre: "
            "for the others no bound is known here"
        )
    if made.gain == "gradient" and made.norm == "pre" and not dialect.rms_eps:
        raise ValueError(
            "gradient of a normalisation with rms_eps 0: at 0 there is none; expected a dialect with rms_eps"
        )
    last = dialect.last_axis if dialect.iterations else dialect.start_axis
    turned = dialect.residual == "sinkhorn" and (last == "row") == dialect.transposed
    unheld = dialect.residual == "unconstrained" or (dialect.residual == "sinkhorn" and not dialect.iterations)
    if turned or unheld or (dialect.pre, dialect.post) != ("sigmoid", "sigmoid"):
        raise ValueError(
            "block needs a dialect whose applied rows are normalised and whose gates are sigmoids, such as PAPER, "
            "DEEPSEEK_V4, MHC_LITE or RESIDUAL"
        )
