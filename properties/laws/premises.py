"""When a law holds: the premises on a dialect, each None where it is met or the reason why it is not."""

from __future__ import annotations

import torch

from mhc_ref import Dialect
from mhc_ref.projection import compute_dtype
from properties.core.family import DIM, dynamic_of, end_of, gate_of, guarantees_of, mix_of
from properties.core.implementation import Implementation, offers
from properties.core.norms import norm_of
from properties.core.premises import Applies, Premise
from properties.core.reads import read_of


def all_of(*premises: Applies) -> Applies:
    """All premises; the first reason that one gives."""

    def check(dialect: Dialect) -> str | None:
        return next((reason for premise in premises if (reason := premise(dialect))), None)

    return check


def _unscaled(dialect: Dialect) -> str:
    return f"h_res is {dialect.residual}, not projected by Sinkhorn"


def alternating(dialect: Dialect) -> str | None:
    """Rows and columns are divided in turn, as the fields of the dialect say."""
    return None if guarantees_of(dialect).alternating else _unscaled(dialect)


def scaled(dialect: Dialect) -> str | None:
    """h_res is exp(Z), or what the dialect starts from, with its lines scaled: it keeps the odds ratios."""
    return None if guarantees_of(dialect).scaled else _unscaled(dialect)


def normalised(dialect: Dialect) -> str | None:
    """A division along the last axis comes last."""
    if guarantees_of(dialect).last:
        return None
    return alternating(dialect) or "without an iteration nothing is normalised last"


def shifts_exactly(dialect: Dialect) -> str | None:
    """Some shift of the logits is divided out exactly."""
    if guarantees_of(dialect).shift:
        return None
    return alternating(dialect) or "an unshifted exp start without iterations is invariant under no shift"


def shift_dim(dialect: Dialect) -> int:
    """The dim of the logits along whose lines a constant is divided out."""
    return DIM[guarantees_of(dialect).shift]


def last_dim(dialect: Dialect) -> int:
    """The dim of the emitted matrix that is divided by its sums last."""
    return DIM[guarantees_of(dialect).last or dialect.last_axis]


def stochastic(dialect: Dialect) -> str | None:
    """h_res has non-negative entries whose sums are at most 1 along one axis at least."""
    held = guarantees_of(dialect)
    if held.nonnegative and held.capped:
        return None
    return normalised(dialect) if held.alternating else f"h_res is {dialect.residual}"


def without_eps(dialect: Dialect) -> str | None:
    """Neither entries nor denominators have an eps: the scalings of rows and columns are free."""
    if dialect.entry_eps or dialect.denominator_eps:
        return "an eps in the entries or the denominators breaks the exact identity"
    return None


def divided_before_any_eps(dialect: Dialect) -> str | None:
    """No eps is added to exp(Z), or the start is a softmax, which has divided by then."""
    if dialect.start == "exp" and dialect.entry_eps:
        return "entry_eps is added to exp(Z) before any division"
    return None


def free_matrix(dialect: Dialect) -> str | None:
    """The logits are an n x n matrix whose lines are those of h_res."""
    return None if guarantees_of(dialect).equivariant else f"h_res is {dialect.residual}"


def carries_permutations(dialect: Dialect) -> str | None:
    """Some logits make h_res a given permutation, as nearly as it has one."""
    carried = mix_of(dialect).carrying(torch.eye(2, dtype=torch.float64), dialect)
    return f"h_res is {dialect.residual}" if carried is None else None


def depends_on_logits(dialect: Dialect) -> str | None:
    """h_res depends on its logits."""
    return f"h_res is {mix_of(dialect).words} whatever the logits" if guarantees_of(dialect).constant else None


def depends_everywhere(dialect: Dialect) -> str | None:
    """Every entry of h_res depends on its logits, wherever they are."""
    flat = None if mix_of(dialect).everywhere else f"h_res is {mix_of(dialect).words}: derivatives of it are 0"
    return depends_on_logits(dialect) or flat


def settled(dialect: Dialect, n: int) -> frozenset[str]:
    """The mappings of n streams that are numbers, whatever their logits: gates that depend on none, and for n = 1 what
    is the share of an only term, 1. (h_res without logits is said by `depends_on_logits`.)

    An implementation need not compute them, so that a NaN among the logits need not show.
    """
    pre, post = gate_of(dialect.pre), gate_of(dialect.post)
    alone = {"pre": pre.alone, "post": post.alone, "res": guarantees_of(dialect).alone}
    constant = {"pre": pre.constant, "post": post.constant}
    return frozenset(name for name, one in alone.items() if (one and n == 1) or constant.get(name))


def unmoved(dialect: Dialect, n: int) -> frozenset[str]:
    """The mappings of n streams that are the same for every state: those that are `settled`, and all where the logits
    are the bias alone."""
    return frozenset(("pre", "post", "res")) if dynamic_of(dialect).constant else settled(dialect, n)


def mixes(dialect: Dialect) -> str | None:
    """The residual path mixes the streams."""
    held = guarantees_of(dialect).identity
    return f"h_res is {mix_of(dialect).words}: post need not read it" if held else None


def gated(dialect: Dialect) -> str | None:
    """h_pre and h_post lie between 0 and 1, before they are scaled."""
    held = gate_of(dialect.pre).unit_range and gate_of(dialect.post).unit_range
    return None if held else "h_pre or h_post is no sigmoid"


def reads_by_gates(dialect: Dialect) -> str | None:
    """h_pre is a gate for each stream, whose logits have a gate and a bias, and that depends on the state by nothing
    else."""
    read = read_of(dialect)
    return None if read.plain else f"h_pre is no gate of each stream: {read.words}"


def divides_by_rms(dialect: Dialect) -> str | None:
    """The state is divided by a root of a mean of squares."""
    return None if norm_of(dialect).OVER is not None else f"the norm is {norm_of(dialect).words}"


def centres(dialect: Dialect) -> str | None:
    """The state is normalised less its mean."""
    return None if dialect.centred else "the norm subtracts no mean"


def takes_streams(n: int) -> Premise:
    """The implementation accepts this very n."""

    def check(implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None) -> str | None:
        return None if n in implementation.streams else f"is about n = {n}, which is not accepted"

    return check


def fused(*methods: str) -> Premise:
    """One of these methods is the implementation's own: of what is put together here, the parts are tried."""

    def check(implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None) -> str | None:
        offered = offers(implementation)
        own = any(offered.get(method) == "own" for method in methods)
        return None if own else f"{' and '.join(methods)} are put together of parts, which are tried by themselves"

    return check


def reads_its_own_gates(dialect: Dialect) -> str | None:
    """The branch of a block reads with the h_pre of that block."""
    return "a block reads with the gates of the one before it" if dialect.read_from != "own" else None


def ends_by_itself(dialect: Dialect) -> str | None:
    """What streams end in depends on them, and on parameters of its own, alone."""
    return "a stack ends with the gates of its last block" if end_of(dialect).LAST else None


def tunes(*fields: str) -> Premise:
    """`tuned` can change these fields."""

    def check(implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None) -> str | None:
        fixed = [field for field in fields if field not in implementation.tunable]
        return f"{', '.join(fixed)} cannot be tuned" if fixed else None

    return check


def mixes_in_compute_dtype(
    implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
) -> str | None:
    """The residual path is summed in the compute dtype, which for states of that dtype it always is."""
    if implementation.mixing == "compute" or compute_dtype(dtype) == dtype:
        return None
    return "mixing in a state's dtype below float32 has no derived bound"


def exact_axis(dialect: Dialect) -> int:
    """The dim of the *applied* operator along which sums are exact: -1 rows, -2 columns."""
    emitted = last_dim(dialect)
    return (-3 - emitted) if dialect.transposed else emitted
