"""What an implementation declares: one table, and what was declared, frozen.

`Declared` is the table. An attribute has its type, its kind (`properties.core.fields`: how it is checked, what it is on
a wire, what it means) and its default; a limit is added by a line here and nowhere else. `Implementation` inherits the
attributes, `Declaration` holds what an implementation says of them, and whoever hands a declaration on (the protocol of
`proc:`, `--isolate`, the strategies' `Setting`, the frame of a diagnosis, the adapters) goes through `TABLE`.
"""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import FrozenInstanceError
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

import torch

import mhc_ref
from mhc_ref import PRESETS, Dialect, Mappings
from mhc_ref.packing import logits_shape, most_streams, params_shapes
from properties.core.fields import (
    MOST_CHANNEL_MULTIPLE,
    MOST_STREAMS,
    MOST_TOKENS,
    Choices,
    Count,
    Field,
    Flag,
    Fraction,
    Name,
    Unfit,
    Word,
)
from properties.core.rounding import PRODUCTS, STAGES
from properties.core.several import Counts, Devices, DialectFields, Dtypes, Some, Streams
from properties.guards.faults import TargetFault, answered
from properties.guards.printable import shown

Mixing = Literal["compute", "state"]
Products = Literal["compute", "tf32", "tf32-truncated"]
Storage = Literal["compute", "state"]

MOST_ENTRIES = 2**27
"""Entries of the largest phi that is drawn, 1 GiB in float64: more streams, or wider multiples, are not verified."""
WIDEST = 259
"""Channels of the widest ordinary state, see `strategies.CHANNELS`."""


class Declared:
    """The table of what is declared: name, type, kind, default."""

    name: Annotated[str, Name("stands in reports and test ids; the class name if left empty", required=True)] = ""
    dialect: Annotated[
        Dialect, Choices("the declared choices; what is computed is judged against them", required=True)
    ] = mhc_ref.PRESETS.default
    streams: Annotated[
        Sequence[int],
        Streams("the n that are accepted", "the accepted numbers of streams, such as (2, 4)", required=True),
    ] = (1, 2, 3, 4, 5, 8)
    dtypes: Annotated[
        Sequence[Any],
        Dtypes(
            "the dtypes of the state that are accepted; params and logits are float64 for float64, and float32 "
            "otherwise",
            "the accepted dtypes of the state, such as (torch.float32,)",
            required=True,
        ),
    ] = (torch.float64, torch.float32, torch.bfloat16)
    tunable: Annotated[
        frozenset[str],
        DialectFields("the fields of the dialect that can be changed, by `tuned`", "a set of names of Dialect fields"),
    ] = frozenset()
    emits: Annotated[
        Sequence[str],
        Some(
            "which of the three mappings there are; the others are None (null)",
            "some of pre, post, res",
            Mappings._fields,
        ),
    ] = ("pre", "post", "res")
    differentiable: Annotated[bool, Flag("the outputs carry gradients through autograd", served=False)] = True
    deterministic: Annotated[bool, Flag("the same call on the same storage gives the same bits")] = True
    full_range: Annotated[
        bool,
        Flag(
            "logits whose exponentials underflow are handled as exact arithmetic would (log domain). The literal "
            "formula exp(Z - max) loses a line of entries below the smallest float; without this flag nothing is "
            "asserted there"
        ),
    ] = False
    full_scale: Annotated[
        bool,
        Flag(
            "states whose squares leave the range of the compute dtype are normalised as exact arithmetic would "
            "(divided by their largest entry first). The literal formula x / sqrt(mean(x^2) + eps) makes 0 or NaN of "
            "them, or of their gradients; without this flag nothing is asserted there"
        ),
    ] = False
    norm_weight: Annotated[bool, Flag("params may carry a norm weight")] = True
    least_scale: Annotated[
        float,
        Fraction(
            "no state is drawn smaller than an ordinary one by more than this factor: for a norm that clamps tiny "
            "states instead of adding an eps"
        ),
    ] = 0.0
    zero_tokens: Annotated[bool, Flag("calls without a single token are accepted")] = True
    strided: Annotated[bool, Flag("states and logits may be views that are not contiguous", served=False)] = True
    mixing: Annotated[
        Mixing,
        Word(
            "``compute``: h_post, h_res and every sum of the residual path stay in the compute dtype, as the default "
            "contract says; ``state``: they are rounded to the dtype of the state, as transformers' decoder layers do",
            get_args(Mixing),
        ),
    ] = "compute"
    parameters: Annotated[
        Storage,
        Word(
            "``compute``: params are handed over in the compute dtype; ``state``: phi, bias, alpha and the norm weight "
            "are stored in the dtype of the state, as after ``model.to(torch.bfloat16)``, and so are their gradients. "
            "What is computed of them stays in the compute dtype",
            get_args(Storage),
        ),
    ] = "compute"
    short_stages: Annotated[
        Sequence[str],
        Some(
            "the stages that compute in the dtype of the state where that is below float32, with sums accumulated in "
            "float32: norm (the normalised state), products (by phi), logits (alpha, bias and what is between), gates "
            "(h_pre and h_post), projection (h_res) and read (the branch input); others keep the compute dtype",
            f"some of {', '.join(STAGES)}",
            STAGES,
            none=True,
        ),
    ] = ()
    products: Annotated[
        Products,
        Word(
            "``compute``: matrix products (by phi, by h_pre, by h_res, of the permutation mixture, and backwards) read "
            "their operands in the compute dtype; ``tf32``: float32 operands are rounded to TensorFloat-32 first; "
            "``tf32-truncated``: cut to it. Torch's own switch is set to what is declared while the implementation is "
            "called. Sinkhorn's sums are no matrix products",
            tuple(PRODUCTS),
        ),
    ] = "compute"
    channel_multiple: Annotated[
        int,
        Count(
            "the number of channels is a multiple of it, as kernels ask that read so many at once",
            MOST_CHANNEL_MULTIPLE,
        ),
    ] = 1
    max_tokens: Annotated[
        int,
        Count("tokens a call; slow targets (a Triton interpreter) state a small number", MOST_TOKENS),
    ] = 2**40
    channels: Annotated[
        Sequence[int],
        Counts("the numbers of channels of its models, which are always tried", "numbers of channels: (4096, 7168)"),
    ] = ()
    token_counts: Annotated[
        Sequence[int],
        Counts("the tokens a call of its models, which are always tried", "numbers of tokens, such as (1, 8192)"),
    ] = ()
    depths: Annotated[
        Sequence[int],
        Counts("the numbers of layers of its models, which are always tried", "numbers of layers, such as (61,)"),
    ] = ()
    devices: Annotated[
        Sequence[str],
        Devices(
            "the types of device that it computes on",
            "the types of device that it computes on, such as ('cuda',)",
            served=False,
        ),
    ] = ("cpu", "cuda")
    batch_invariant: Annotated[bool, Flag("a token's result has the same bits in every batch")] = False
    graph_capturable: Annotated[
        bool, Flag("`block` under no_grad can be captured in a CUDA graph after a warm-up", served=False)
    ] = False
    compilable: Annotated[bool, Flag("`block` keeps its promises under torch.compile", served=False)] = False
    autocast_safe: Annotated[bool, Flag("the precision contract holds under torch.autocast", served=False)] = False
    in_process: Annotated[
        bool, Flag("it computes in this process, under its streams, its allocator and its modes", served=False)
    ] = True


TABLE: dict[str, Field[Any]] = {
    name: get_args(hint)[1] for name, hint in get_type_hints(Declared, include_extras=True).items()
}
"""The kinds of the table by name."""


class DeclarationError(ValueError):
    """A declaration that cannot be used: the attribute, what it is, and what was expected."""


class Declaration(Declared):
    """What an implementation declared, checked; it does not change any more.

    `Declaration.of` makes one. A subclass narrows it to what is asked of an implementation at one time, and holds more
    beside it.
    """

    # Narrower than what may be declared, and never assigned to.
    streams: tuple[int, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    dtypes: tuple[torch.dtype, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    emits: tuple[str, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    devices: tuple[str, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    channels: tuple[int, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    token_counts: tuple[int, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    depths: tuple[int, ...]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, **values: Any) -> None:
        vars(self).update({name: getattr(Declared, name) for name in TABLE} | values)
        vars(self)["_hash"] = hash(tuple(vars(self).values()))

    @classmethod
    def of(cls, implementation: Declared, **beside: Any) -> Self:
        """What an implementation declares, and values `beside` it; those in the place of its own leave these unread.

        A generator is used up by this; `settle` also writes down what it gave.

        Raises:
            DeclarationError: the first attribute that cannot be used.
        """
        read = {name: settled(implementation, name)[1] for name in TABLE if name not in beside}
        found = cls(**read | beside)
        agree(found)
        return found

    def values(self) -> dict[str, Any]:
        """Everything in it by name."""
        return {name: value for name, value in vars(self).items() if name != "_hash"}

    def with_(self, **changes: Any) -> Self:
        """A copy with other values."""
        return type(self)(**self.values() | changes)

    def width(self, channels: int) -> int:
        """So many channels, or the next number above that is accepted."""
        return next_multiple(channels, self.channel_multiple)

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return vars(self)["_hash"]  # strategies are kept by their settings, and asked for at every draw

    def __repr__(self) -> str:
        differing = {k: v for k, v in self.values().items() if k not in TABLE or v != getattr(Declared, k)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in differing.items())})"


def settled(implementation: Declared, name: str) -> tuple[Any, Any]:
    """What is declared under that name: as it was found, and checked.

    Raises:
        DeclarationError: it cannot be read or used.
    """
    try:  # a property or a `__getattr__` of a stranger may raise anything
        found = answered(lambda: getattr(implementation, name))
    except TargetFault as fault:
        raise DeclarationError(f".{name} cannot be read: {fault}") from fault.error
    try:
        return found, TABLE[name].settled(found)
    except Unfit as error:
        raise DeclarationError(f".{name}{error}") from error


def agree(declared: Declaration) -> None:
    """Refuse what is right by itself, and wrong together."""
    streams, dialect = declared.streams, declared.dialect
    n, channels = max(streams), declared.width(WIDEST)
    if (most := most_streams(dialect)) is not None and n > most:
        raise DeclarationError(
            f".streams is {shown(streams)}; residual={dialect.residual!r} is verified up to n = {most}"
        )
    for one in streams:
        try:
            logits_shape(one, dialect)
        except ValueError as error:
            raise DeclarationError(f".streams names {one}; residual={dialect.residual!r}: {error}") from error
    if odd := [c for c in declared.channels if c % declared.channel_multiple]:
        raise DeclarationError(
            f".channels names {shown(odd)}, where .channel_multiple is {declared.channel_multiple}; expected multiples "
            "of it"
        )
    if many := [count for count in declared.token_counts if count > declared.max_tokens]:
        raise DeclarationError(
            f".token_counts names {shown(many)}, where .max_tokens is {declared.max_tokens}; expected no more than that"
        )
    if unknown := sorted(declared.tunable - dialect.fields().keys()):
        raise DeclarationError(f".tunable names {shown(unknown)}, which are no fields of Dialect")
    entries = math.prod(params_shapes(n, channels, dialect).phi)
    if entries > MOST_ENTRIES:
        which = f".streams names {n}" if channels < 2 * WIDEST else f".channel_multiple is {channels}, for n = {n}"
        raise DeclarationError(
            f"{which}: phi would have {entries:.3g} entries, and at most {MOST_ENTRIES:.3g} are verified; expected "
            "smaller numbers"
        )


def accepted(dialect: Dialect) -> tuple[int, ...]:
    """The numbers of streams that are verified by default, as far as the mix of a dialect is for them; the first
    few up to 64 for a mix that is for none of them."""
    most = most_streams(dialect)
    usual = Declared.streams if most is None else range(1, most + 1)
    return _taken(dialect, usual) or _taken(dialect, range(1, MOST_STREAMS + 1))[:4]


def _taken(dialect: Dialect, usual: Iterable[int]) -> tuple[int, ...]:
    """Those of some numbers of streams that the mix of a dialect is for."""
    found: list[int] = []
    for n in usual:
        with contextlib.suppress(ValueError):  # the mix is not for this n
            logits_shape(n, dialect)
            found.append(n)
    return tuple(found)


def next_multiple(channels: int, multiple: int) -> int:
    """So many channels, or the next number above that a `channel_multiple` accepts."""
    return -(-channels // multiple) * multiple


def attributes() -> str:
    """The table as the section of a docstring."""
    named = {dialect: name for name, dialect in PRESETS.items()}
    lines = [
        textwrap.fill(
            f"{name}: {field.words} (default: {named.get(default := getattr(Declared, name), default)!r}).",
            width=116,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
            break_on_hyphens=False,
        )
        for name, field in TABLE.items()
    ]
    return "Attributes:\n" + "\n".join(lines) + "\n"
