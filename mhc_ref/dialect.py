"""The declared choices on which correct implementations of hyper-connections differ.

A `Dialect` is pure data: it imports no formula, so that the float reference and the mpmath oracle can share it and
nothing else. Which names its open fields take, and which fields those bring, is in `mhc_ref.registry`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mhc_ref import registry

Axis = Literal["row", "column"]
Start = Literal["exp", "softmax"]
Denominator = Literal["add", "clamp"]
RmsEpsBy = Literal["add", "clamp"]
RmsEpsFrom = Literal["value", "compute", "state"]
ReadFrom = Literal["own", "previous"]
FirstRead = Literal["own", "stream0"]


@dataclass(frozen=True, init=False, repr=False)
class Dialect:
    """Everything that must be said before an implementation of hyper-connections can be called right or wrong.

    Notation: n streams of C channels, state x [..., n, C]; Z [..., n, n] the logits; M the projected matrix as
    emitted; A the operator that the block applies (M, or its transpose where `transposed`).
    *row* is dim -1 of the emitted matrix (lines that sum over j), *column* is dim -2.

    Attributes:
        residual: the mix, how logits become M.
        last_axis: axis of the final division; the other one is the *first* axis.
        start: ``exp``: M = exp(Z - max over the first axis) + entry_eps, then ``iterations`` x (first, last).
            ``softmax``: M = softmax(Z, start_axis) + entry_eps; where start_axis is the first axis this is the
            first half-step of iteration 1, otherwise ``iterations`` full (first, last) follow.
        start_axis: axis of the softmax start; without meaning for ``exp``.
        iterations: number of (first, last) pairs; 0 leaves M as started, exp then being unshifted.
        entry_eps: added to every entry of the started matrix.
        denominator, denominator_eps: ``add``: M / (sum + eps); ``clamp``: M / max(sum, eps).
        transposed: the block applies M^T; `project` and `Mappings.res` are M itself.
        pre, pre_eps: h_pre = pre(logits) + pre_eps, pre a gate.
        post, post_scale, post_eps: h_post = post_scale * post(logits) + post_eps.
        read: how the logits of h_pre become what the streams are read with: a gate for each stream, or one for each
            channel of each of them.
        dynamic: logits = alpha * dynamic(normalised state @ phi) + bias.
        norm_over: the norm of the state before phi.
        norm_offset: the normalised state is multiplied by norm_offset + norm_weight, where there is a norm weight.
        shared_projection: one phi [C, 2 + R/n] for all streams; stream s gives its own pre, post and part of Z.
        rms_eps, rms_eps_inside: rms = sqrt(mean(x^2) + eps), or sqrt(mean(x^2)) + eps. A state whose rms is
            exactly 0 with rms_eps 0 is normalised to 0.
        rms_eps_by: ``add``: as above; ``clamp``: rms = max(|x|_2, eps) / sqrt(K) over the K numbers of x that are
            normalised together, the norm of `torch.nn.functional.normalize`; rms_eps_inside is without meaning then.
        rms_eps_from: ``value``: eps is rms_eps; ``compute``, ``state``: it is the eps of the dtype in which the norm is
            computed, or of the dtype of the state, as `torch.nn.RMSNorm(eps=None)` has it, and rms_eps is 0. What a
            dialect is for states of one dtype says `at`.
        centred: the mean of the numbers that are normalised together is subtracted from them first, and x above is what
            is left: LayerNorm, whose variance is biased.
        expand, collapse: how the streams begin and end.
        read_from: the branch of a block reads with the h_pre of that block, or of the block before it.
        first_read: what the first block reads with where there is no block before it: its own h_pre, or stream 0 alone;
            without meaning for ``own``.
        own: the fields that the chosen families bring, as (name, value) in the order of the names. They are given and
            read like any other, ``Dialect(residual="cayley", reach=2.0).reach``.

    residual, pre, post, dynamic, norm_over, expand and collapse name families (`mhc_ref.registry`); a family that comes
    from outside may be given itself instead of by name, and is registered.

    Raises:
        ValueError: a value outside its range, or fields that contradict each other; the message names them.
        TypeError: a field that neither `Dialect` nor a chosen family has.
        LookupError: from what reads a dialect of another process, where a family of it is not known.
    """

    residual: str = registry.default("mix")
    last_axis: Axis = "row"
    start: Start = "exp"
    start_axis: Axis = "row"
    iterations: int = 20
    entry_eps: float = 0.0
    denominator_eps: float = 0.0
    denominator: Denominator = "add"
    transposed: bool = False
    pre: str = registry.default("gate")
    pre_eps: float = 0.0
    post: str = registry.default("gate")
    post_scale: float = 2.0
    dynamic: str = registry.default("dynamic")
    norm_over: str = registry.default("norm")
    shared_projection: bool = False
    rms_eps: float = 0.0
    rms_eps_inside: bool = True
    expand: str = registry.default("begin")
    collapse: str = registry.default("end")
    norm_offset: float = 0.0
    post_eps: float = 0.0
    read_from: ReadFrom = "own"
    first_read: FirstRead = "own"
    read: str = registry.default("read")
    rms_eps_by: RmsEpsBy = "add"
    rms_eps_from: RmsEpsFrom = "value"
    centred: bool = False
    own: tuple[tuple[str, Any], ...] = ()

    def __init__(self, *values: Any, **fields: Any) -> None:
        names = (*FIELDS, "own")
        if len(values) > len(names):
            raise TypeError(f"Dialect has {len(names)} fields, and {len(values)} values were given without a name")
        placed = dict(zip(names, values, strict=False))
        for name in placed.keys() & fields:
            raise TypeError(f"Dialect.{name} was given twice: by its place and by its name")
        given = placed | fields
        given = dict(given.pop("own", ())) | given
        for name in FIELDS:
            object.__setattr__(self, name, given.pop(name, getattr(type(self), name)))
        for field, slot in registry.SLOTS.items():
            object.__setattr__(self, field, _chosen(field, slot, getattr(self, field)))
        object.__setattr__(self, "own", _own(self, given))
        self._check()

    def _check(self) -> None:
        for field, allowed in _CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"Dialect.{field} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
        for field in ("transposed", "shared_projection", "rms_eps_inside", "centred"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"Dialect.{field} is {getattr(self, field)!r}; expected True or False")
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Dialect.iterations is {self.iterations!r}; expected an integer of 0 or more")
        for field in ("entry_eps", "denominator_eps", "rms_eps", "pre_eps", "post_scale", "norm_offset", "post_eps"):
            value: Any = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"Dialect.{field} is {value!r}; expected a finite number")
            if field not in ("post_scale", "norm_offset") and value < 0:
                raise ValueError(
                    f"Dialect.{field} is {value!r}; expected 0 or more: an eps is added to keep a sum positive"
                )
            object.__setattr__(self, field, float(value))
        if self.post_scale <= 0:
            raise ValueError(
                f"Dialect.post_scale is {self.post_scale!r}; expected more than 0: h_post is a scaled gate"
            )
        if self.denominator == "clamp" and self.denominator_eps >= 1:
            raise ValueError(
                f"Dialect.denominator='clamp' conflicts with denominator_eps={self.denominator_eps!r}: a sum that is "
                "already 1 would be divided by more than 1, so no doubly stochastic matrix is left unchanged"
            )
        if self.rms_eps_from != "value" and self.rms_eps:
            raise ValueError(
                f"Dialect.rms_eps_from={self.rms_eps_from!r} conflicts with rms_eps={self.rms_eps!r}: the eps of the "
                "norm is that of a dtype; leave rms_eps at 0, or rms_eps_from at 'value'"
            )
        if self.centred and not hasattr(registry.formulas("norm", self.norm_over), "OVER"):
            raise ValueError(
                f"Dialect.centred=True conflicts with norm_over={self.norm_over!r}: this norm is no root of a mean of "
                "squares, and whether it subtracts a mean is its own matter"
            )
        for slot, name in sorted(_families(vars(self))):
            conflict = getattr(registry.formulas(slot, name), "conflict", None)
            if conflict is not None and (words := conflict(self)):
                raise ValueError(words)
        if self.shared_projection and not getattr(registry.formulas("mix", self.residual), "BY_STREAM", False):
            raise ValueError(
                f"Dialect.shared_projection=True conflicts with residual={self.residual!r}: a shared projection makes "
                "the logits of stream s from stream s alone, and those of this mix belong to no stream"
            )

    def __repr__(self) -> str:
        return f"Dialect({', '.join(f'{name}={value!r}' for name, value in self.fields().items())})"

    def __getattr__(self, name: str) -> Any:
        """A field that a family brings."""
        for own, value in object.__getattribute__(self, "__dict__").get("own", ()):
            if own == name:
                return value
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def first_axis(self) -> Axis:
        """The axis normalised before the last one in every iteration."""
        return "column" if self.last_axis == "row" else "row"

    @property
    def softmax_is_first_half_step(self) -> bool:
        """Whether the softmax start already is the first half-step of iteration 1."""
        return self.start == "softmax" and self.start_axis == self.first_axis

    @property
    def has_rms_eps(self) -> bool:
        """Whether the norm has an eps, by its value or by a dtype."""
        return self.rms_eps > 0 or self.rms_eps_from != "value"

    def at(self, state: object) -> Dialect:
        """What the dialect is for states of a dtype, `torch.float32` or "float32": with rms_eps a number.

        Raises:
            LookupError: an eps is taken from the dtype, and this one is unknown.
        """
        if self.rms_eps_from == "value":
            return self
        name = str(state).removeprefix("torch.")
        if name not in _EPS:
            raise LookupError(f"no eps is known of the dtype {state!r}; expected one of {', '.join(_EPS)}")
        taken = name if self.rms_eps_from == "state" or name == "float64" else "float32"
        return self.with_(rms_eps=_EPS[taken])

    def fields(self) -> dict[str, Any]:
        """Every field by name, in order; those that the families bring come last."""
        values = vars(self)
        return {name: values[name] for name in FIELDS} | dict(self.own)

    def with_(self, **fields: Any) -> Dialect:
        """A copy with other values in `fields`; unknown names raise TypeError, bad values ValueError.

        Fields of a family that is no longer chosen go with it. Whoever gives rms_eps says where it is from, a value,
        and whoever says that it is from a dtype gives it up.
        """
        values = self.fields()
        if "rms_eps" in fields and "rms_eps_from" not in fields:
            values["rms_eps_from"] = "value"
        elif fields.get("rms_eps_from", "value") != "value" and "rms_eps" not in fields:
            values["rms_eps"] = 0.0
        if self.own:
            named = [(name, slot, fields.get(name, values[name])) for name, slot in registry.SLOTS.items()]
            staying = _families(values) & {(slot, _chosen(name, slot, given)) for name, slot, given in named}
            kept = {name for family in staying for name in registry.brought(*family)} | set(FIELDS)
            values = {name: value for name, value in values.items() if name in kept}
        return Dialect(**values | fields)

    def difference(self, other: Dialect) -> dict[str, tuple[Any, Any]]:
        """The fields in which two dialects differ: name -> (mine, theirs); None where one has no such field.

        That is no difference where the other has what the family brings if nothing is said.
        """
        mine, theirs = self.fields(), other.fields()
        brought = {
            name: field.read(field.default)
            for dialect in ((self, other) if mine.keys() != theirs.keys() else ())
            for name, field in registry.own_fields(vars(dialect))
        }
        return {
            name: (mine.get(name), theirs.get(name))
            for name in mine | theirs
            if mine.get(name, brought.get(name)) != theirs.get(name, brought.get(name))
        }


FIELDS = tuple(field.name for field in dataclasses.fields(Dialect) if field.name != "own")
"""The fields that every dialect has, in order."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "last_axis": get_args(Axis),
    "start": get_args(Start),
    "start_axis": get_args(Axis),
    "denominator": get_args(Denominator),
    "rms_eps_by": get_args(RmsEpsBy),
    "rms_eps_from": get_args(RmsEpsFrom),
    "read_from": get_args(ReadFrom),
    "first_read": get_args(FirstRead),
}


_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
"""The distance from 1 to the next number of a dtype, the eps of `torch.finfo`."""


def _chosen(field: str, slot: str, given: Any) -> str:
    """The name of a family that there is; one from outside that is given itself is registered."""
    kind = getattr(given, "slot", None)
    if kind not in (None, slot):
        raise ValueError(f"Dialect.{field} is {given!r}, a family of the slot {kind!r}; expected one of {slot!r}")
    if kind is not None:
        return registry.register(given).name
    if not isinstance(given, str):
        raise registry.UnknownFamily(field, given, registry.absent(slot, ""))
    try:
        registry.outside(slot, given)
    except LookupError:
        raise registry.UnknownFamily(field, given, registry.absent(slot, given)) from None
    return given


def _families(fields: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The families of a dialect, as (slot, name)."""
    return {(slot, fields[field]) for field, slot in registry.SLOTS.items()}


def _own(dialect: Dialect, given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The fields that the chosen families bring, with what was given for them."""
    known: dict[str, registry.Field] = {}
    for slot, family in sorted(_families(vars(dialect))):
        for name, field in registry.brought(slot, family).items():
            if name in known or name in FIELDS or hasattr(Dialect, name):
                raise ValueError(
                    f"the {slot} family {family!r} brings a field {name!r}, which the dialect has already: a field of "
                    "a family needs a name of its own"
                )
            known[name] = field
    for name in given:
        if name not in known:
            raise TypeError(f"Dialect has no field {name!r}{_meant(name, known)}")
    values: dict[str, Any] = {}
    for name, field in known.items():
        try:
            values[name] = field.read(given.get(name, field.default))
        except ValueError as error:
            raise ValueError(f"Dialect.{name} is {error}") from None
    return tuple(sorted(values.items()))


def _meant(name: str, known: Mapping[str, Any]) -> str:
    """What was probably meant by a field that there is not."""
    near = difflib.get_close_matches(name, [*FIELDS, *known], n=1)
    owners = [f"{field}={family!r}" for field, family in registry.bringing(name)]
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; it is a field of {' and '.join(owners)}, which is not chosen" if owners else ""


def __getattr__(name: str) -> Dialect:
    """The presets, which lay here once."""
    presets = importlib.import_module("mhc_ref.presets").PRESETS
    if name in presets:
        return presets[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
