"""Explosions in files: safetensors with a JSON header, so that nothing in a file is executed.

The tensor `operators` [L, n, n] is for use in a test; the header holds the same numbers exactly, and those decide.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mhc_ref import Dialect
from properties.explosion import blocks, dynamic, overflow
from properties.explosion.blocks import Block
from properties.explosion.composite import Matrix, composite, context, exact_gain, reaches, shown
from properties.explosion.dynamic import Dynamic
from properties.explosion.mixing import mixing_of
from properties.explosion.request import Request
from properties.explosion.result import Explosion, tensor

FORMAT = "mhc-properties/explosion/1"


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
        if field.name not in ("request", "operators", "logits", "file", "block", "dynamic")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": FORMAT, "explosion": json.dumps(header)})
    return dataclasses.replace(explosion, file=str(path))


def load(path: str | Path) -> Explosion:
    """The explosion in `path`.

    Raises:
        ExplosionFileError: no such file, a foreign one, or one whose tensors and header disagree.
    """
    path = Path(path)
    if not path.is_file():
        raise ExplosionFileError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = cast("dict[str, str] | None", opened.metadata()) or {}
            stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise ExplosionFileError(f"{path} is not a safetensors file, or was cut off: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ExplosionFileError(f"{path} has format {metadata.get('format')!r}; expected {FORMAT!r}")
    try:
        header = json.loads(metadata["explosion"])
        request = _request(header["request"])
        searched = "logits" if "logits" in header else "operators"
        exact = tuple(tuple(tuple(map(Fraction, row)) for row in one) for one in header[searched])
        matching = searched in stored and torch.equal(stored[searched], tensor(exact))
        held = {"operators": exact, "logits": ()}
        if searched == "logits":
            held = {"operators": mixing_of(request).exact(tensor(exact)), "logits": exact}
        answer = header["answer"]
        if isinstance(answer["value"], str):
            answer["value"] = float(answer["value"])
        block = None
        if "block" in header:
            held_block = dict(header["block"])
            block = Block(weight=Fraction(held_block.pop("weight")), **held_block)
        one = None
        if "dynamic" in header:
            given = header["dynamic"]
            one = Dynamic(tuple(map(int, given["weights"])), tuple(map(Fraction, given["input"])), int(given["depth"]))
            held["operators"] = dynamic.operators(request, one)
        explosion = Explosion(request=request, file=str(path), block=block, dynamic=one, **held, **answer)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ExplosionFileError(f"{path}: its header is damaged: {type(error).__name__}: {error}") from error
    if not matching:
        raise ExplosionFileError(
            f"{path}: its tensor `{searched}` is not what its header says; one of them was changed"
        )
    return explosion


def replay(path: str | Path) -> Replay:
    """Compute the gain of the configuration in `path` again, exactly, and compare it with the threshold.

    Raises:
        ExplosionFileError: see `load`.
    """
    explosion = load(path)
    asked = explosion.request
    if explosion.block is not None or explosion.dynamic is not None:
        exact = (
            dynamic.value(asked, explosion.dynamic)
            if explosion.dynamic is not None
            else blocks.value(asked, cast("Block", explosion.block))
        )
        reached = bool(exact >= _number(asked.threshold))
    else:
        product: Matrix = composite(explosion.operators)
        exact = exact_gain(product, asked.gain)
        reached = reaches(product, asked.gain, asked.threshold, asked.direction)
    if asked.gain == "nonfinite":
        reached = _overflows(explosion)
    return Replay("FAILED" if reached else "FIXED", explosion, shown(exact, context()))


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


def _request(fields: dict[str, Any]) -> Request:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        held = cast("dict[str, Any]", value)
        return Fraction(held["exact"]) if "exact" in held else Dialect(**held["dialect"])

    return Request(**{name: read(value) for name, value in fields.items()})
