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
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch

from mhc_ref import Dialect
from properties.core.implementation import Implementation
from properties.explosion.composite import Matrix, composite, context, denominator, exact_gain, reaches, shown
from properties.explosion.header import answer_of, block_of, dynamic_of, matrices, object_of, of_tensor, request_of
from properties.explosion.mixing import mixing_of
from properties.explosion.proofs import overflow
from properties.explosion.request import Request
from properties.explosion.result import Explosion, tensor
from properties.explosion.searches import blocks, dynamic
from properties.guards import sealed
from properties.guards.printable import message_of, printable
from properties.targets.trust import built_in, refusal

FORMAT = f"mhc-properties/explosion/{sealed.SCHEMA}"
WITHOUT_CHECKSUM = "mhc-properties/explosion/1"
"""What was written before files had a checksum; it is read."""

_MOST_HALF_STEPS = 10**7
"""Entries that a projection in 50 digits may visit."""
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
    path = Path(path)
    answer = {
        field.name: getattr(explosion, field.name)
        for field in dataclasses.fields(explosion)
        if field.name not in ("request", "operators", "logits", "file", "block", "dynamic", "checked")
    }
    asked = {field.name: _plain(getattr(explosion.request, field.name)) for field in dataclasses.fields(Request)}
    tensors = {"operators": tensor(explosion.operators)}
    if explosion.logits:
        tensors["logits"] = tensor(explosion.logits)
    searched = explosion.logits or explosion.operators
    exact = [[[str(entry) for entry in row] for row in one] for one in searched]
    header = {"request": asked, "answer": answer, "logits" if explosion.logits else "operators": exact}
    if explosion.block is not None:
        header["block"] = {**dataclasses.asdict(explosion.block), "weight": str(explosion.block.weight)}
    if explosion.dynamic is not None:
        given = [str(entry) for entry in explosion.dynamic.input]
        header["dynamic"] = {
            "weights": list(explosion.dynamic.weights),
            "input": given,
            "depth": explosion.dynamic.depth,
        }
    if isinstance(explosion.value, float) and not math.isfinite(explosion.value):
        answer["value"] = str(explosion.value)
    metadata = {"format": FORMAT, "explosion": json.dumps({"schema": sealed.SCHEMA, **header})}
    sealed.write(path, metadata, tensors)
    return dataclasses.replace(explosion, file=str(path))


def load(path: str | Path) -> Explosion:
    """The explosion in `path`. Nothing that it names is run: the operators of a target are those that it gave then.

    Raises:
        ExplosionFileError: no such file, a foreign one, a damaged one, or one whose tensors and header disagree.
    """
    path = Path(path)
    named = printable(str(path))
    try:
        found = sealed.read(path)
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
        return _explosion(object_of(sealed.parsed(found.metadata["explosion"]), "it"), found, path)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        # Of a header with values of any kind: what a request, a block or a fraction raises that is made of them.
        what = f"it has no {error}" if isinstance(error, KeyError) else message_of(error, 500)
        raise ExplosionFileError(f"{named}: its header is damaged: {what}") from error


def _explosion(header: dict[str, Any], found: sealed.Sealed, path: Path) -> Explosion:
    """The explosion that a header describes."""
    asked = request_of(object_of(header["request"], "request"))
    answer = answer_of(object_of(header["answer"], "answer"))
    searched = "logits" if "logits" in header else "operators"
    exact = matrices(header[searched], searched)
    n = len(exact[0])
    if searched not in found.tensors or not torch.equal(found.tensors[searched], tensor(exact)):
        raise ValueError(f"its tensor `{searched}` is not what its header says; one of them was changed")
    block = block_of(object_of(header["block"], "block"), asked) if "block" in header else None
    one = dynamic_of(object_of(header["dynamic"], "dynamic"), n) if "dynamic" in header else None
    if (asked.family in ("mhc", "target")) != (searched == "logits"):
        raise ValueError(f"it holds {searched}, and is about family {asked.family}")
    if (asked.family == "block") != (block is not None) or asked.dynamic != (one is not None):
        raise ValueError(f"it is about {asked.name}, and what it holds of it is something else")
    depths = {answer["depth"], len(exact), *(part.depth for part in (block, one) if part is not None)}
    streams = {answer["streams"], n, *((block.streams,) if block is not None else ())}
    if len(depths) != 1 or len(streams) != 1:
        raise ValueError(f"its depth is {sorted(map(str, depths))} and its streams {sorted(map(str, streams))} at once")
    if (asked.dialect.iterations + 1) * len(set(exact)) * n * n > _MOST_HALF_STEPS:
        raise ValueError("its projection in 50 digits would take too long")
    held: dict[str, tuple[Matrix, ...]] = {"operators": exact, "logits": ()}
    if asked.family == "target":
        held = {"operators": of_tensor(found.tensors.get("operators"), len(exact), n), "logits": exact}
    elif searched == "logits":
        held = {"operators": mixing_of(asked).exact(tensor(exact)), "logits": exact}
    elif one is not None:
        held["operators"] = dynamic.operators(asked, one)
    return Explosion(request=asked, file=str(path), block=block, dynamic=one, checked=found.checked, **held, **answer)


def replay(
    path: str | Path,
    *,
    target: str | None = None,
    trust: bool = False,
    isolate: bool = False,
    dialect: str | None = None,
) -> Replay:
    """Compute the gain of the configuration in `path` again, exactly, and compare it with the threshold.

    An explosion of family target is asked of `target`, of which it may be fixed, or else of the target that the file
    names, where that comes with this package or `trust` allows it; with `isolate` in a process of its own. `dialect` is
    the preset that a plain function claims.

    Raises:
        ExplosionFileError: see `load`; or the file names a target that is not run unasked; or the target does not take
            what the file holds.
        properties.targets.target.TargetError: the target cannot be found, or raises.
    """
    explosion = load(path)
    if explosion.request.family == "target":
        if target is None and not trust and not built_in(explosion.request.target):
            raise ExplosionFileError(refusal(Path(path), explosion.request.target))
        try:
            explosion = _asked_again(explosion, target, _resolver(isolate, dialect), dialect)
        except ValueError as error:
            raise ExplosionFileError(f"{printable(str(path))}: {message_of(error)}") from error
    try:
        exact, reached = _gain(explosion)
    except (ArithmeticError, ValueError, RuntimeError) as error:
        # A made-up configuration may leave the range of what computes with it: of mpmath, of floats, of tensors.
        raise ExplosionFileError(f"{printable(str(path))}: its gain cannot be computed: {message_of(error)}") from error
    return Replay("FAILED" if reached else "FIXED", explosion, shown(exact, context()))


def _asked_again(
    explosion: Explosion, target: str | None, find: Callable[..., Implementation], dialect: str | None
) -> Explosion:
    """The explosion with the operators that a target gives for its logits.

    Raises:
        ValueError: the target does not take them, or gives what has no gain.
    """
    from properties.targets.target import preset

    asked = explosion.request
    asked = dataclasses.replace(asked, target=asked.target if target is None else target)
    if dialect is not None:
        asked = dataclasses.replace(asked, dialect=preset(dialect), claimed=True)
    mixing = mixing_of(asked, find)
    if mixing.dtypes and asked.dtype not in mixing.dtypes:
        asked = dataclasses.replace(asked, dtype=mixing.dtypes[0])
        mixing = mixing_of(asked, find)
    n = len(explosion.logits[0])
    if mixing.streams is not None and n not in mixing.streams:
        accepted = ", ".join(map(str, mixing.streams))
        raise ValueError(f"the explosion has {n} streams; {asked.target} takes {accepted}")
    operators = mixing.exact(tensor(explosion.logits))
    if any(not any(map(any, one)) for one in operators):  # what is not finite counts as zeros there
        raise ValueError(f"{asked.target} gives a matrix that is zero or not finite, of which no gain is taken")
    return dataclasses.replace(explosion, request=asked, operators=operators)


def _gain(explosion: Explosion) -> tuple[Any, bool]:
    """The gain of a configuration in mpmath, and whether it reaches the threshold, exactly."""
    asked = explosion.request
    if explosion.dynamic is not None:
        exact = dynamic.value(asked, explosion.dynamic)
        reached = bool(exact >= _number(asked.threshold))
    elif explosion.block is not None:
        exact = blocks.value(asked, explosion.block)
        reached = bool(exact >= _number(asked.threshold))
    else:
        _affordable(explosion.operators, asked)
        product: Matrix = composite(explosion.operators)
        exact = exact_gain(product, asked.gain)
        reached = reaches(product, asked.gain, asked.threshold, asked.direction)
    return exact, _overflows(explosion) if asked.gain == "nonfinite" else reached


def _resolver(isolate: bool, dialect: str | None) -> Callable[..., Implementation]:
    from properties.targets.isolation import isolated
    from properties.targets.target import resolve

    def find(target: str, claimed: str | None = None) -> Implementation:
        found = (isolated if isolate else resolve)(target, claimed)
        if dialect is not None and not found.dialect_given:
            raise ValueError(f"--dialect {dialect} has no effect: {found.name} declares what it computes")
        return found

    return find


def _affordable(operators: tuple[Matrix, ...], asked: Request) -> None:
    """ExplosionFileError where the exact composite would take hours."""
    n, depth = len(operators[0]), len(operators)
    words = denominator(operators).bit_length() / 64 + 1
    groups = sum(1 for _ in itertools.groupby(operators))
    if groups * n**3 * (100 + depth * words**2) > _LONGEST or (asked.gain == "spectral" and n > 12):
        raise ExplosionFileError(f"the composite of {depth} sub-layers of {n} streams would take too long exactly")


def _overflows(explosion: Explosion) -> bool:
    asked = explosion.request
    if explosion.block is not None:
        return not math.isfinite(blocks.measured(asked, explosion.block))
    states = overflow.states(asked, explosion.streams or 1, explosion.depth or 1)
    return not bool(states[-1].isfinite().all())


def _number(threshold: Fraction) -> Any:
    return context().mpf(threshold.numerator) / threshold.denominator


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return {"exact": str(value)}
    return {"dialect": dataclasses.asdict(value)} if isinstance(value, Dialect) else value
