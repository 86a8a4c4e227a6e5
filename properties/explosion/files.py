"""Explosions in files: sealed safetensors with a JSON header, so that nothing in a file is executed.

The tensor `operators` [L, n, n] is for use in a test; the header holds the same numbers exactly, and those decide. To
load a file runs nothing. To replay one of family target runs the target that it names only where that comes with this
package, or where that is allowed (`properties.targets.trust`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from mhc_ref import Dialect
from properties.core.implementation import Implementation
from properties.explosion.answer import Answer
from properties.explosion.composite import context, denominator, shown
from properties.explosion.configurations import Chain, Projected, matrices, tables, tensor
from properties.explosion.questions.constrained import OfTarget, shaped
from properties.explosion.questions.families import FAMILIES, stored, written
from properties.explosion.questions.models import OfModel
from properties.explosion.result import Explosion, Minimality
from properties.explosion.searches.hunt import Stopped
from properties.explosion.stored import object_of
from properties.guards import sealed
from properties.guards.printable import message_of, printable
from properties.targets.trust import built_in, refusal

FORMAT = f"mhc-properties/explosion/{sealed.SCHEMA}"
WITHOUT_CHECKSUM = "mhc-properties/explosion/1"
"""What was written before files had a checksum; it is read."""

_LONGEST = 3e11
"""Nanoseconds, roughly, that the exact composite of a file may take."""


class ExplosionFileError(ValueError):
    """A file that is no explosion, or one that was damaged."""


@dataclass(frozen=True)
class Replay:
    """FAILED: the saved configuration still reaches its threshold. FIXED: it does not."""

    verdict: Literal["FIXED", "FAILED"]
    explosion: Explosion
    exact_value: str

    def __str__(self) -> str:
        asked = self.explosion.request
        reached = f"{asked.gain} gain {self.exact_value}"
        goal = f"{asked.sign} {self.explosion.threshold}"
        end = f"reaches {goal}" if self.verdict == "FAILED" else f"no longer reaches {goal}"
        return f"{self.verdict}: {asked.name}, depth {self.explosion.depth}, {reached} {end}"


def save(explosion: Explosion, path: str | Path) -> Explosion:
    """Write a found explosion to `path`; the same explosion with `file` set.

    Raises:
        ValueError: nothing was found, so there is no configuration to save.
    """
    if not explosion.found:
        raise ValueError(f"no {explosion.family} configuration was found, so there is none to save: {explosion.proof}")
    path, asked, found = Path(path), explosion.request, explosion.configuration
    answer = {name: getattr(explosion, name) for name in _ANSWER}
    if not math.isfinite(answer["value"]):
        answer["value"] = str(answer["value"])
    header = {"request": written(asked), "answer": answer, **asked.written(found)}
    tensors = asked.tensors(found)
    metadata = {"format": FORMAT, "explosion": json.dumps({"schema": sealed.SCHEMA, **header})}
    sealed.write(path, metadata, tensors)
    return dataclasses.replace(explosion, file=str(path))


def load(path: str | Path) -> Explosion:
    """The explosion in `path`. Nothing that it names is run: the operators of a target are those that it gave then.

    Raises:
        ExplosionFileError: no such file, a foreign one, a damaged one, one whose tensors and header disagree, or one
            about a mix from outside that is not known here.
    """
    with _reading(path) as (header, sealing):
        return _explosion(header, sealing, Path(path))


def about(path: str | Path) -> tuple[str, str]:
    """(family, target) of the explosion in `path`; a target only where one has a part in it.

    That is the target whose matrices are asked for, or the one that declares the mixing. Nothing is run.

    Raises:
        ExplosionFileError: no such file, a foreign or a damaged one.
    """
    with _reading(path) as (header, _):
        request = object_of(header["request"], "request")
        family, target = request["family"], request.get("target") or request.get("impl") or ""
        if not isinstance(family, str) or not isinstance(target, str):
            raise TypeError("its family or its target is no text")
        return family, target


@contextmanager
def _reading(path: str | Path) -> Generator[tuple[dict[str, Any], sealed.Sealed]]:
    """The header and the tensors of a file; what is wrong with them ends in an ExplosionFileError."""
    named = printable(str(path))
    try:
        found = sealed.read(Path(path))
    except sealed.SealError as error:
        raise ExplosionFileError(str(error)) from error
    given = found.metadata.get("format")
    if given not in (FORMAT, WITHOUT_CHECKSUM) or "explosion" not in found.metadata:
        raise ExplosionFileError(
            f"{named} has format {printable(repr(given), 200)}; expected {FORMAT!r} or {WITHOUT_CHECKSUM!r}"
        )
    try:
        if given == FORMAT and not found.checked:
            raise ValueError("it has no checksum, which every file of its format has")
        yield object_of(sealed.parsed(found.metadata["explosion"]), "it"), found
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        # Of a header with values of any kind: what a question, a block or a fraction raises that is made of them.
        what = f"it has no {error}" if isinstance(error, KeyError) else message_of(error, 500)
        raise ExplosionFileError(f"{named}: its header is damaged: {what}") from error


def _explosion(header: dict[str, Any], sealing: sealed.Sealed, path: Path) -> Explosion:
    """The explosion that a header describes."""
    asked = stored(object_of(header["request"], "request"))
    answer = _answer_of(object_of(header["answer"], "answer"))
    held = _HELD & set(header)
    if held != asked.HOLDS:
        raise ValueError(f"it holds {' and '.join(sorted(held)) or 'nothing'}, and is about {asked.name}")
    found = asked.read(header, sealing.tensors)
    sizes: dict[str, tuple[Any, ...]] = {name: (getattr(found, name),) for name in ("depth", "streams", "width")}
    for searched, reading in (("logits", tables), ("operators", matrices)):
        if searched not in held:
            continue
        exact = reading(header[searched], searched)
        if searched not in sealing.tensors or not torch.equal(sealing.tensors[searched], tensor(exact)):
            raise ValueError(f"its tensor `{searched}` is not what its header says; one of them was changed")
        sizes["depth"] += (len(exact),)
        if searched == "operators":
            sizes["streams"] += (len(exact[0]),)
    for name, known in {**sizes, "entries": (asked.entries(found),)}.items():
        if set(known) != {answer[name]}:
            raise ValueError(f"its {name} {' and '.join(map(str, sorted({*known, answer[name]})))} at once")
    return Explosion(
        request=asked,
        known=Answer(answer["depth"], answer["streams"], answer["minimality"] == "proved", answer["proof"]),
        configuration=found,
        value=float(answer["value"]),
        exact_value=answer["exact_value"],
        seconds=answer["seconds"],
        stopped=answer["stopped"],
        file=str(path),
        checked=sealing.checked,
    )


_HELD = frozenset().union(*(family.HOLDS for family in FAMILIES))
"""What headers hold of configurations."""
_ANSWER: dict[str, tuple[type, ...]] = {
    "found": (bool,),
    "depth": (int,),
    "streams": (int,),
    "width": (int,),
    "entries": (int,),
    "value": (float, int, str),
    "exact_value": (str, type(None)),
    "minimality": (str,),
    "proof": (str,),
    "impossible": (bool,),
    "seconds": (float, int),
    "stopped": (str,),
}


def _answer_of(fields: dict[str, Any]) -> dict[str, Any]:
    """What the search answered, each field of its kind."""
    if strange := sorted(set(fields) - set(_ANSWER)):
        raise ValueError(f"answer has {', '.join(strange)[:80]}, which no answer of this version has")
    for name, kinds in _ANSWER.items():
        value = fields[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{name} is {repr(value)[:80]}; expected {' or '.join(kind.__name__ for kind in kinds)}")
    if not fields["found"] or fields["impossible"]:
        raise ValueError("nothing was found, so there is no configuration")
    for name, allowed in (("minimality", get_args(Minimality)), ("stopped", get_args(Stopped))):
        if fields[name] not in allowed:
            raise ValueError(f"{name} is {fields[name][:80]!r}; expected one of {', '.join(map(repr, allowed))}")
    return fields


def replay(
    path: str | Path,
    *,
    target: str | None = None,
    trust: bool = False,
    isolate: bool = False,
    dialect: str | None = None,
) -> Replay:
    """Compute the gain of the configuration in `path` again, exactly, and compare it with the threshold.

    An explosion of family model is run again, in its dtype, on the model that `target` names, or else the file.
    An explosion of family target is asked of `target`, of which it may be fixed, or else of the target that the file
    names, where that comes with this package or `trust` allows it; with `isolate` in a process of its own. `dialect` is
    the preset that a plain function claims. Of a mixing that a target declares (option `impl`) the declaration is asked
    for in the same way.

    Raises:
        ExplosionFileError: see `load`; or the file names a target that is not run unasked; or the target does not take
            what the file holds.
        properties.targets.target.TargetError: the target cannot be found, or raises.
    """
    family, named = about(path)
    if named and target is None and not trust and not built_in(named):
        raise ExplosionFileError(refusal(Path(path), named))
    find = _resolver(isolate, dialect)
    try:
        if family == OfModel.family:
            if isolate or dialect is not None:
                raise ValueError("--isolate and --dialect have no effect on a model; leave them out")
            explosion = load(path)
            asked, found = explosion.request.again(explosion.configuration, target)
            explosion = dataclasses.replace(explosion, request=asked, configuration=found)
        elif family == OfTarget.family:
            explosion = load(path)
            explosion = _asked_again(explosion, explosion.request, target, find, dialect)
        elif named:
            mixing = find(target or named, dialect).dialect  # which makes a family from outside known
            explosion = _mixed_again(load(path), mixing)
        else:
            explosion = load(path)
    except ExplosionFileError:
        raise
    except ValueError as error:
        raise ExplosionFileError(f"{printable(str(path))}: {message_of(error)}") from error
    try:
        _affordable(explosion)
        exact = explosion.request.exact(explosion.configuration)
        reached = explosion.request.reached(explosion.configuration)
    except (ArithmeticError, ValueError, RuntimeError) as error:
        # A made-up configuration may leave the range of what computes with it: of mpmath, of floats, of tensors.
        raise ExplosionFileError(f"{printable(str(path))}: its gain cannot be computed: {message_of(error)}") from error
    return Replay("FAILED" if reached else "FIXED", explosion, shown(exact, context()))


def _asked_again(
    explosion: Explosion, asked: OfTarget, target: str | None, find: Callable[..., Implementation], dialect: str | None
) -> Explosion:
    """The explosion with the operators that a target gives for its logits.

    Raises:
        ValueError: the target does not take them, or gives what has no gain.
    """
    from properties.targets.target import preset

    asked = dataclasses.replace(asked, target=asked.target if target is None else target)
    if dialect is not None:
        asked = dataclasses.replace(asked, dialect=preset(dialect), claimed=True)
    mixing = asked.mixing(find)
    if mixing.dtypes and asked.dtype not in mixing.dtypes:
        asked = dataclasses.replace(asked, dtype=mixing.dtypes[0])
        mixing = asked.mixing(find)
    n = explosion.configuration.streams
    if mixing.streams is not None and n not in mixing.streams:
        accepted = ", ".join(map(str, mixing.streams))
        raise ValueError(f"the explosion has {n} streams; {asked.target} takes {accepted}")
    operators = mixing.exact(shaped(explosion.logits, mixing, n))
    if any(not any(map(any, one)) for one in operators):  # what is not finite counts as zeros there
        raise ValueError(f"{asked.target} gives a matrix that is zero or not finite, of which no gain is taken")
    return dataclasses.replace(explosion, request=asked, configuration=Projected(operators, explosion.logits))


def _mixed_again(explosion: Explosion, dialect: Dialect) -> Explosion:
    """The explosion with the mixing of another dialect, for the same logits; ValueError where it takes others."""
    asked, found = dataclasses.replace(explosion.request, dialect=dialect), explosion.configuration
    if isinstance(found, Projected):
        mixing = asked.mixing
        found = Projected(mixing.exact(shaped(found.logits, mixing, found.streams)), found.logits)
    return dataclasses.replace(explosion, request=asked, configuration=found)


def _resolver(isolate: bool, dialect: str | None) -> Callable[..., Implementation]:
    from properties.targets.isolation import isolated
    from properties.targets.target import resolve

    def find(target: str, claimed: str | None = None) -> Implementation:
        found = (isolated if isolate else resolve)(target, claimed)
        if dialect is not None and not found.dialect_given:
            raise ValueError(f"--dialect {dialect} has no effect: {found.name} declares what it computes")
        return found

    return find


def _affordable(explosion: Explosion) -> None:
    """ExplosionFileError where the exact composite would take hours."""
    if not isinstance(explosion.configuration, Chain):
        return
    operators = explosion.operators
    n, depth = len(operators[0]), len(operators)
    words = denominator(operators).bit_length() / 64 + 1
    groups = sum(1 for _ in itertools.groupby(operators))
    too_long = groups * n**3 * (100 + depth * words**2) > _LONGEST
    if too_long or (explosion.request.gain == "spectral" and n > 12):
        raise ExplosionFileError(f"the composite of {depth} sub-layers of {n} streams would take too long exactly")
