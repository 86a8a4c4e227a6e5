"""What is asked of an explosion search: read, checked, and turned into exact numbers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, TypeAlias, get_args

from mhc_ref import PAPER, PRESETS, Dialect

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
MOST_STREAMS, MOST_WIDTH, MOST_ITERATIONS = 64, 4096, 1000
"""Composites are exact, and projections have 50 digits: beyond these one step of a search takes minutes."""
SEEDS = range(-(2**63), 2**64)
"""What a generator of torch takes."""
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
    claimed: bool = False
    """Of family target: `dialect` is what a plain function claims to compute."""

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
    max_streams: int | None = None,
    max_width: int = 1,
    entry_bound: Number | None = None,
    identity_bound: Number | None = None,
    branch_bound: Number | None = None,
    dialect: Dialect | str | None = None,
    iterations: int | None = None,
    dtype: str | None = None,
    seed: int = 0,
    budget: float = 60.0,
) -> Request:
    """A checked `Request`.

    Raises:
        ValueError: a value out of its range, or options that contradict each other; the message names what was given
            and what was expected.
    """
    for name, value in (("family", family), ("direction", direction)):
        _text(value, name)
    limit = exact(threshold, "threshold")
    kind, _, rest = family.partition(":")
    branch, _, norm = rest.partition(":") if kind == "block" else ("", "", "")
    if gain is None:  # a block with a branch is no matrix
        gain = "activation" if kind == "block" or family == DYNAMIC else "forward"
    chosen: Direction = _one_of(direction, DIRECTIONS, "direction")  # pyright: ignore[reportAssignmentType]
    if limit < 0 or (limit == 0 and chosen == "explode"):
        raise ValueError(f"threshold is {threshold}; expected more than 0: every gain is at least 0")
    streams = 4 if max_streams is None else max_streams
    for name, value, most in (
        ("max_depth", max_depth, None),
        ("max_streams", streams, MOST_STREAMS),
        ("max_width", max_width, MOST_WIDTH),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"{name} is {value!r}; expected an integer of 1 or more")
        if most is not None and value > most:
            raise ValueError(f"{name} is {value}; expected at most {most}: what is larger is not searched")
    if iterations is not None and (isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"iterations is {iterations!r}; expected an integer of 0 or more")
    claimed = _dialect(dialect)
    used = claimed or PAPER
    used = used if iterations is None else used.with_(iterations=iterations)
    if used.iterations > MOST_ITERATIONS:
        raise ValueError(f"iterations is {used.iterations}; expected at most {MOST_ITERATIONS}: each has 50 digits")
    if max_depth > DEEPEST:
        raise ValueError(f"max_depth is {max_depth}; expected at most {DEEPEST}: composites are computed exactly")
    if isinstance(seed, bool) or not isinstance(seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"seed is {seed!r}; expected an integer")
    if seed not in SEEDS:
        raise ValueError(f"seed is {seed}; expected one from -2^63 to 2^64 - 1")
    seconds(budget)
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
        max_streams=streams,
        max_width=max_width,
        entry_bound=None if entry_bound is None else _bound(entry_bound, "entry_bound"),
        identity_bound=None if identity_bound is None else _bound(identity_bound, "identity_bound"),
        branch_bound=Fraction(1) if branch_bound is None else _bound(branch_bound, "branch_bound"),
        dialect=used,
        dtype=("" if kind == "target" else "float64") if dtype is None else _one_of(dtype, DTYPES, "dtype"),
        seed=seed,
        budget=float(budget),
        claimed=kind == "target" and claimed is not None,
    )
    consistent(made)
    if made.family == "residual" and max_streams is not None and max_streams > 1:
        raise ValueError(f"max_streams is {max_streams}, and has no effect: residual has one stream")
    _effective(made, dialect=claimed is not None, iterations=iterations is not None, bounded=branch_bound is not None)
    return made


def seconds(budget: float) -> None:
    """ValueError where a budget is none."""
    number = isinstance(budget, int | float) and not isinstance(budget, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not number or not (0 < budget < math.inf):
        raise ValueError(f"budget is {budget!r}; expected a finite number of seconds above 0")


def _dialect(given: Dialect | str | None) -> Dialect | None:
    if given is None or isinstance(given, Dialect):
        return given
    if not isinstance(given, str) or given not in PRESETS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"dialect is {given!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[given]


def _effective(made: Request, *, dialect: bool, iterations: bool, bounded: bool) -> None:
    """ValueError where an option was given that cannot change the answer for this family."""
    name = made.name.partition(":")[0]
    projects = made.family in ("mhc", "block", "target")
    if dialect and not projects:
        raise ValueError(f"dialect is given, and has no effect: {name} has no projection; mhc, block and target have")
    if iterations and not (projects and made.dialect.residual == "sinkhorn"):
        why = "has no projection" if not projects else f"has residual {made.dialect.residual!r} here"
        raise ValueError(f"iterations is given, and has no effect: {name} {why}; expected one with Sinkhorn iterations")
    if iterations and made.family == "target" and not made.claimed:
        raise ValueError("iterations is given, and has no effect: a target iterates as often as it does")
    if bounded and made.family not in ("residual", "block"):
        raise ValueError(f"branch_bound bounds the branch of residual and block; {name} has no branch here")
    if made.max_width > 1 and made.family != "block":
        raise ValueError(f"max_width is {made.max_width}, and has no effect: only block has channels")


def _text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; expected a string")


def exact(number: Number, name: str) -> Fraction:
    """The number that was written, as a fraction; ValueError where it is none or not finite."""
    try:
        exponent = re.search(r"[eE]([+-]?\d+)\s*$", str(number))
        far = exponent is not None and abs(int(exponent[1])) > 2 * LARGEST  # 1e999999999 has a billion digits
        if isinstance(number, bool):
            raise ValueError
        value = Fraction(0 if far else float.__repr__(number) if isinstance(number, float) else number)
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
    if not isinstance(value, str) or value not in allowed:  # pyright: ignore[reportUnnecessaryIsInstance]
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
